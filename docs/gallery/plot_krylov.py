"""Draws docs/gallery/krylov.png: waves solved for, and residual histories before and after recycling.

python docs/gallery/plot_krylov.py [FILE.png]        needs matplotlib
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from aitken import linalg
from aitken._demo import krylov


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("krylov.png")
    waves = krylov.helmholtz_sweep(64, 64)
    waves.X = linalg.solve_batch(
        waves.family.indptr, waves.family.indices, waves.data, waves.b, params=waves.params, rtol=waves.rtol
    ).X
    carried = krylov.histories(waves)
    figure = Figure(figsize=(10.5, 3.0), layout="constrained")
    axes = figure.subplot_mosaic(
        [["c0", "u0", "r", "n"], ["c1", "u1", "r", "n"]], width_ratios=[0.7, 0.7, 1.6, 1.6]
    )
    krylov.draw_fields([axes[key] for key in ("c0", "u0", "c1", "u1")], waves)
    krylov.draw_histories(axes["r"], carried, waves.rtol)
    axes["r"].set_title("GCRO-DR(40, 20), no preconditioner", fontsize=10)
    krylov.draw_counts(axes["n"], carried)
    axes["n"].set_title("64 systems, sorted", fontsize=10)
    figure.savefig(target, dpi=96)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
