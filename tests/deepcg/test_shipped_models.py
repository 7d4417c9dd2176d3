"""The trained models that come with the package: files as the manifest says, iterations as promised."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aitken.datasets import obstacle_mask, poisson_rhs
from aitken.linalg import GridPoisson, Multigrid, deep_conjugate_direction, list_models, load_model
from aitken.linalg import _deepcg_training as training

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(training.__file__).resolve().parent / "models"


def manifest() -> dict[str, Any]:
    return json.loads((MODELS / "manifest.json").read_text(encoding="utf-8"))["models"]


def test_manifest_is_of_the_shipped_files():
    files = {path.name for path in MODELS.iterdir()} - {"manifest.json"}
    assert files == {entry["file"] for entry in manifest().values()}
    assert {"learned_mg_2d", "learned_mg_3d", "dcdm2d"} <= set(manifest())
    assert list_models() == sorted(manifest())
    total = 0
    for entry in manifest().values():
        data = (MODELS / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert len(data) == entry["bytes"]
        total += len(data)
    assert total < 2_000_000


@pytest.mark.skipif(not (ROOT / "scripts").exists(), reason="not a source checkout")
def test_files_are_of_the_scripts_recipes():
    spec = importlib.util.spec_from_file_location("train_models", ROOT / "scripts" / "train_models.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert set(manifest()) <= set(script.RECIPES)
    for name, entry in manifest().items():
        options = dict(script.RECIPES[name])
        kind = options.pop("kind")
        trained = load_model(name).meta["trained_on"]
        assert trained == entry["trained_on"]
        assert (trained["kind"], trained["seed"]) == (kind, script.SEED)
        for option, value in options.items():
            wanted = json.loads(json.dumps(value))
            assert trained[option] in (wanted, [wanted]), (name, option)
        assert trained["steps_done"] == sum(trained["steps"])


def counts(fluid, source, model, rtols=(1e-4, 1e-6), seed=7):
    """Iterations to each tolerance."""
    A = GridPoisson(fluid.shape, fluid)
    b = poisson_rhs(source, fluid, seed=seed)
    result = deep_conjugate_direction(A, b, rtol=rtols[-1], model=model, fallback=None)
    assert result.converged
    relative = np.asarray(result.residuals) / result.residuals[0]
    return [int(np.argmax(relative <= rtol)) for rtol in rtols]


@pytest.mark.parametrize("obstacles", ["none", "ball", "multi"])
@pytest.mark.parametrize("shape", [(64, 64), (65, 130), (256, 256), (512, 512), (32, 32, 32), (48, 31, 65)])
def test_learned_cycle(obstacles, shape):
    """Never more iterations than a V-cycle of as many plain sweeps; at most 5 and 8 for white noise.

    The latter where sides are powers of two, so that the thin wall lies between cells of every level.
    """
    same_cost = Multigrid("V", smoother="jacobi")
    fluid = obstacle_mask(obstacles, shape)
    for source in ("white", "dipole", "divergence"):
        learned, plain = (counts(fluid, source, model) for model in ("learned_mg", same_cost))
        assert learned[0] <= plain[0]
        assert learned[1] <= plain[1]
        if source == "white" and all(n & (n - 1) == 0 for n in shape):
            assert learned[0] <= 5
            assert learned[1] <= 8


@pytest.mark.parametrize(
    ("n", "obstacles", "published"),
    [
        (64, "none", 10),
        (64, "ball", 10),
        (64, "multi", 18),
        (128, "none", 14),
        (128, "ball", 16),
        (128, "multi", 27),
    ],
)
def test_dcdm2d(n, obstacles, published):
    """Within a quarter of what the published recipe gave when it was first reproduced, on 64^2 alone."""
    fluid = obstacle_mask(obstacles, (n, n))
    for seed in (7, 8, 9):
        assert counts(fluid, "white", "dcdm2d", (1e-4,), seed)[0] <= 1.25 * published


@pytest.mark.parametrize("obstacles", ["none", "ball", "multi"])
def test_dcdm64(obstacles):
    fluid = obstacle_mask(obstacles, (32, 32, 32))
    for seed in (7, 8, 9):
        assert counts(fluid, "white", "dcdm64", (1e-4,), seed)[0] <= 12
