"""Draws docs/gallery/completion.png: a photograph with gaps, completed, and the error by sweep.

python docs/gallery/plot_completion.py [FILE.png]        needs matplotlib and scikit-learn
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from aitken._demo import completion
from aitken._demo.figures import OURS, PEER, PLAIN
from aitken.completion import matrix_completion
from aitken.datasets import low_rank_problem


def path(rho: float, **options: Any) -> Any:
    """Training error by sweep of an ill-conditioned recovery, n = 1000, k = 6, singular values 1 to 1/100."""
    p = low_rank_problem(1000, rank=6, oversampling=rho, cond=100.0, seed=2)
    rules = {"tol": 0.0, "atol_rmse": 1e-11 * p.info["rms"], "maxiter": 100, "finalize": False, "rng": 1}
    r = matrix_completion((p.rows, p.cols, p.vals), 6, shape=p.shape, **rules, **options)
    return r.history["rmse_train"] / p.info["rms"]


def draw_recovery(ax: Any) -> None:
    """Relative training error by sweep for several solvers of the rows and starts."""
    for name, colour, style, options in (
        ("exact", OURS, "-", {"inner": "exact"}),
        ("sketch per row, 3 steps", OURS, "--", {"inner": "sketch"}),
        ("CG, 3 steps", PEER, "-", {"inner": "cg"}),
        ("CG, 3 steps, rank by rank", PLAIN, "-", {"inner": "cg", "init": "rank_increment"}),
    ):
        ax.semilogy(path(6.0, **{"init": "spectral", **options}), color=colour, ls=style, label=name)
    ax.set(xlabel="sweep", ylabel="relative training error", ylim=(1e-12, 2))
    ax.legend(fontsize=7, loc="lower right")


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("completion.png")
    p = completion.picture(fast=False)
    completion.solve(p, fast=False, with_sklearn=True)
    figure = Figure(figsize=(10.5, 5.4), layout="constrained")
    axes = figure.subplot_mosaic("aabbcc\nlllrrr", height_ratios=(1.0, 1.1))
    completion.draw_pictures([axes[key] for key in "abc"], p)
    left, right = axes["l"], axes["r"]
    completion.draw_errors(left, p)
    left.set_title("RMSE of the gaps and of the known pixels", fontsize=10)
    draw_recovery(right)
    right.set_title("condition 100, six entries per degree of freedom", fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=96)
    Image.open(drawn).convert("RGB").quantize(96, method=Image.Quantize.FASTOCTREE).save(
        target, optimize=True
    )
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
