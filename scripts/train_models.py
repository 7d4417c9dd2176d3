"""Train the model files that the package ships, and write the manifest beside them.

    python scripts/train_models.py [NAME ...] --out DIR [--measure-only]

Without names all of them, one after the other, each on one thread and in about ten minutes. The
same PyTorch on the same processor writes the same bytes. A run that was stopped goes on from
DIR/NAME.checkpoint.npz.
The manifest holds of each file its SHA-256, its size, how it was trained, and the iterations that
`deep_conjugate_direction` needed with it; entries of files that are not trained this time are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from aitken.datasets import obstacle_mask, poisson_rhs
from aitken.linalg import GridPoisson, deep_conjugate_direction, load_model, save_model, train_model

# name: what train_model gets, exactly
RECIPES: dict[str, dict[str, Any]] = {
    "learned_mg_2d": {
        "kind": "learned_mg",
        "ndim": 2,
        "shapes": [(64, 64), (128, 128), (96, 48), (65, 50), (256, 256), (200, 136)],
        "batch": [8, 4, 6, 6, 2, 2],
        "steps": 3500,
        "lr": 0.01,
        "unroll": 6,
    },
    "learned_mg_3d": {
        "kind": "learned_mg",
        "ndim": 3,
        "shapes": [(16, 16, 16), (32, 32, 32), (24, 16, 32), (21, 18, 25), (48, 48, 48)],
        "batch": [4, 2, 3, 3, 1],
        "steps": 2500,
        "lr": 0.01,
        "unroll": 6,
    },
    "dcdm2d": {
        "kind": "dcdm2d",
        "shapes": [(64, 64), (128, 128)],
        "batch": [10, 6],
        "steps": [2000, 700],
        "lr": [2e-3, 1e-3],
        "n_ritz": [1000, 2000],
    },
    "dcdm64": {
        "kind": "dcdm64",
        "shapes": [(16, 16, 16), (32, 32, 32)],
        "batch": [4, 4],
        "steps": [1500, 700],
        "lr": [1e-3, 5e-4],
        "n_ritz": [800, 2000],
    },
}
SEED = 1

# kind, ndim: sides of the grids, tolerances of the table
TABLES = {
    ("learned_mg", 2): ((64, 128, 256, 512), (1e-4, 1e-6)),
    ("learned_mg", 3): ((16, 32, 64), (1e-4, 1e-6)),
    ("dcdm", 2): ((64, 128, 256), (1e-4,)),
    ("dcdm", 3): ((16, 32, 64), (1e-4,)),
}


def measure(model: Any) -> dict[str, list[int]]:
    """Iterations to each tolerance, by grid, obstacles and right-hand side."""
    sides, rtols = TABLES[model.meta["kind"], model.ndim]
    table = {}
    for n in sides:
        for obstacles in ("none", "ball", "multi"):
            fluid = obstacle_mask(obstacles, (n,) * model.ndim)
            A = GridPoisson(fluid.shape, fluid)
            for source in ("white", "dipole"):
                b = poisson_rhs(source, fluid)
                result = deep_conjugate_direction(A, b, rtol=rtols[-1], model=model, fallback=None)
                relative = np.asarray(result.residuals) / result.residuals[0]
                counts = [int(np.argmax(relative <= rtol)) for rtol in rtols]
                table[f"{n}^{model.ndim} {obstacles} {source}"] = counts
                print(f"  {n}^{model.ndim} {obstacles:5} {source:6}", *counts)
    return table


def train(name: str, checkpoint: Path) -> Any:
    """One model, from its recipe or from where it was stopped."""
    options = dict(RECIPES[name])
    return train_model(
        options.pop("kind"),
        **options,
        rng=SEED,
        n_threads=1,
        checkpoint=checkpoint,
        verbose=1,
        progress=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; default all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files and manifest.json")
    parser.add_argument("--measure-only", action="store_true", help="keep the files, measure them again")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in RECIPES]
    if unknown:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(RECIPES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    manifest_path = options.out / "manifest.json"
    manifest: dict[str, Any] = {"format": 1, "models": {}}
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text())
    for name in options.names or RECIPES:
        path = options.out / f"{name}.npz"
        if not options.measure_only:
            start = time.perf_counter()
            checkpoint = options.out / f"{name}.checkpoint.npz"
            save_model(path, train(name, checkpoint))
            checkpoint.unlink()
            print(f"{name}: trained in {(time.perf_counter() - start) / 60:.1f} min")
        print(name)
        model = load_model(path)
        data = path.read_bytes()
        manifest["models"][name] = {
            "file": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "kind": model.meta["kind"],
            "ndim": model.ndim,
            "made_by": f"python scripts/train_models.py {name} --out DIR",
            "trained_on": model.meta["trained_on"],
            "iterations": measure(model),
        }
        manifest_path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
