"""Smoke past a moving ball: the pressure of every step by a multigrid that is updated in place.

    python examples/deepcg_smoke.py                           # 128 x 128 cells, 120 steps, some seconds
    python examples/deepcg_smoke.py 256 200                   # cells per side, steps
    python examples/deepcg_smoke.py 256 200 smoke.png         # and a picture of it; needs matplotlib

Prints what the pressure took as the simulation runs; then the time per step of the same equations by other
preconditioners of ours, SciPy's cg and, where it is installed, PyAMG, all to the same residual.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

import numpy as np

from aitken import linalg
from aitken._demo import deepcg as comparison
from aitken.datasets import SmokePlume

RTOL = 1e-6


def simulate(n: int, steps: int) -> None:
    """One simulation, as a user would write it."""
    plume = SmokePlume(n)
    pressure = np.zeros((n, n))
    solver: Any = None
    flow = spent = 0.0
    iterations = 0
    for i in range(steps):
        start = time.perf_counter()
        fluid, b = plume.begin()  # carries smoke and velocities along, moves the ball
        flow += time.perf_counter() - start

        start = time.perf_counter()
        if solver is None:
            solver = linalg.prepare(linalg.GridPoisson((n, n), fluid), "mg")
        else:
            solver.update(flags=fluid)  # all levels again for the new obstacle, in place
        result = solver.solve(b, pressure, rtol=RTOL)
        spent += time.perf_counter() - start
        iterations += result.nit

        pressure = result.x
        plume.end(pressure)  # takes the divergence from the velocity
        if (i + 1) % max(steps // 6, 1) == 0:
            left = np.abs(plume.divergence()).max() / max(np.abs(b).max(), 1e-300)
            print(
                f"step {i + 1:4d}: {1e3 * spent / (i + 1):6.2f} ms pressure, {iterations / (i + 1):4.1f} "
                f"iterations, {1e3 * flow / (i + 1):6.2f} ms flow; divergence down to {left:.0e}"
            )


def compare(n: int, steps: int) -> comparison.Smoke:
    """The same equations by all solvers."""
    run = comparison.smoke(n, steps)
    comparison.solve(run, limit=5.0, with_pyamg=importlib.util.find_spec("pyamg") is not None)
    width = max(len(row.solver) for row in run.rows)
    print(f"\nper step, to ||b - A p|| <= {RTOL:g} ||b||, set-up included")
    for row in run.rows:
        ratio = row.seconds / run.rows[0].seconds
        print(
            f"{row.solver:<{width}} {1e3 * row.seconds:9.2f} ms {ratio:7.1f} x {row.iterations:8.1f} "
            f"iterations   residual {row.residual:.1e}   {row.note}"
        )
    return run


def draw(run: comparison.Smoke, path: str) -> None:
    """The smoke at four times."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    comparison.draw_frames(figure.subplots(1, 4), run)
    figure.savefig(path, dpi=100)
    print(f"picture: {path}")


def main() -> int:
    n, steps = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (128, 120)
    simulate(n, steps)
    run = compare(n, steps)
    if len(sys.argv) > 3:
        draw(run, sys.argv[3])
    return 0 if run.ok() else 1


if __name__ == "__main__":
    sys.exit(main())
