"""Draws docs/gallery/optimize.png: a field that is steered, warm starts, and errors of four solvers.

python docs/gallery/plot_optimize.py [FILE.png]        needs matplotlib, scikit-learn; Ipopt if installed
"""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from aitken._demo import optimize
from aitken._demo.figures import OURS, PLAIN
from aitken.datasets import elliptic_control
from aitken.optimize import sketched_newton


def draw_fields(axes: Any, N: int = 64) -> None:
    """Target, state and control of the nonlinear problem with a cheap control, on the square."""
    p = elliptic_control(N, "nonlinear", gamma=1e-3)
    r = sketched_newton(p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=p.constraints)
    state, control = r.x[: N * N].reshape(N, N), r.x[N * N :].reshape(N, N)
    shown = (("target", p.info["target"].reshape(N, N)), ("state", state), ("control", control))
    for ax, (title, image) in zip(axes, shown, strict=True):
        drawn = ax.imshow(image, cmap="RdBu_r", extent=(-1, 1, -1, 1))
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
        ax.set_title(title, fontsize=10)
        ax.set(xticks=[], yticks=[])


def draw_warm_starts(ax: Any, case: Any) -> None:
    """Iterations by radius of the sphere, from a cold start and from the last solution."""
    for warm, colour, label in ((False, PLAIN, "cold starts"), (True, OURS, "warm starts")):
        counts, last = [], None
        for p in case.problems:
            last = optimize.ours(p, p.grad, last if warm else None, optimize.TOL)[1]
            counts.append(last.nit)
        ax.plot(np.linspace(1.0, 3.0, len(counts)), counts, "o-", ms=3, color=colour, label=label)
    ax.set(xlabel="radius of the sphere", ylim=(0, None))
    ax.set_title("iterations by radius", fontsize=10)
    ax.legend(fontsize=7)


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("optimize.png")
    cases, _ = optimize.cases(fast=False)
    regression, path, control = cases
    for case in (regression, control):
        optimize.solve(case, with_ipopt=importlib.util.find_spec("cyipopt") is not None)
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(3, 4)
    draw_fields(axes[0, :3])
    draw_warm_starts(axes[0, 3], path)
    for row, case, clock in ((axes[1], regression, False), (axes[2], control, True)):
        optimize.draw_paths(row[:3], case, clock=clock)
        row[3].set_axis_off()
        words = [f"{case.title.split(',')[0]}", f"n = {case.problems[0].n}, m = {case.problems[0].m}", ""]
        words += [f"{r.solver}: {1e3 * r.seconds:.0f} ms" for r in case.rows]
        row[3].text(0, 0.95, "\n".join(words), va="top", fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(128, method=Image.Quantize.FASTOCTREE).save(
        target, optimize=True
    )
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
