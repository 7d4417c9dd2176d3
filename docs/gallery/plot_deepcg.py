"""Draws docs/gallery/deepcg.png: smoke whose pressure is solved at every step, and what the models take.

python docs/gallery/plot_deepcg.py [FILE.png]        needs matplotlib
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aitken import linalg
from aitken._demo import deepcg
from aitken._demo.figures import OURS, PEER, PLAIN
from aitken.datasets import obstacle_mask, poisson_rhs

GOLD = "#d9b44a"


def draw_residuals(ax: Any, n: int) -> None:
    """Residual by iteration for one system and several models."""
    fluid = obstacle_mask("multi", (n, n))
    b = poisson_rhs("divergence", fluid)
    A = linalg.GridPoisson(fluid.shape, fluid)
    for label, model, colour in (
        ("CG", "identity", PLAIN),
        ("MIC(0)", "mic0", GOLD),
        ("network dcdm2d", "dcdm2d", PEER),
        ("learned multigrid, V", "learned_mg", "k"),
        ("multigrid, W", "mg", OURS),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not all get there
            r = linalg.deep_conjugate_direction(A, b, model=model, rtol=1e-8, maxiter=200, fallback=None)
        norms = np.asarray(r.residuals)
        ax.semilogy(norms / np.linalg.norm(b), color=colour, label=label)
    ax.set(xlabel="iterations", ylabel="relative residual", xlim=(0, 200), ylim=(1e-8, 3))
    ax.legend(fontsize=8)


def draw_growth(ax: Any) -> None:
    """Iterations to 1e-4 against the grid's side."""
    sides = (32, 64, 128, 256)
    for label, model, colour in (
        ("CG", "identity", PLAIN),
        ("MIC(0)", "mic0", GOLD),
        ("network dcdm2d", "dcdm2d", PEER),
        ("multigrid, W", "mg", OURS),
    ):
        counts = []
        for n in sides:
            fluid = obstacle_mask("multi", (n, n))
            A = linalg.GridPoisson(fluid.shape, fluid)
            b = poisson_rhs("dipole", fluid)
            r = linalg.deep_conjugate_direction(A, b, model=model, rtol=1e-4, fallback=None)
            counts.append(r.nit)
        ax.loglog(sides, counts, "o-", color=colour, label=label, ms=4)
    ax.set(xlabel="cells per side", ylabel="iterations to 1e-4")
    ax.set_xticks(sides, [str(n) for n in sides])
    ax.minorticks_off()
    ax.legend(fontsize=8)


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("deepcg.png")
    run = deepcg.smoke(128, 140)
    deepcg.solve(run, limit=2.0, with_pyamg=importlib.util.find_spec("pyamg") is not None)
    figure = Figure(figsize=(10.5, 6.3), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1.1))
    deepcg.draw_frames(top.subplots(1, 4), run)
    left, middle, right = bottom.subplots(1, 3)
    deepcg.draw_times(left, run)
    left.set_title("pressure of the smoke above", fontsize=10)
    draw_residuals(middle, 128)
    middle.set_title("128 x 128, random obstacles", fontsize=10)
    draw_growth(right)
    right.set_title("a smooth right-hand side", fontsize=10)
    figure.savefig(target, dpi=96)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
