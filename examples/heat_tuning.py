"""A heat equation whose diffusivity changes, solved with an omega that is learned step by step.

    python examples/heat_tuning.py                  # 49 x 49 points, 500 steps, a second or two
    python examples/heat_tuning.py 100 1000         # intervals per side, steps

Prints iterations, seconds and the largest residual of the whole sequence for plain CG, fixed omegas, and
tuners without and with the diffusivity as context; then what the last tuner has found. Iterations do not
depend on the machine.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from aitken import linalg
from aitken.datasets import HeatSequence
from aitken.tune import SORTuner


def tuner(**options: Any) -> SORTuner:
    """The diffusivity spans four decades, so its logarithm is the context."""
    return SORTuner(context=(1e-3, 10.0), context_transform="log", rng=0, **options)


def line(label: str, r: Any, learning: str = "") -> None:
    """One line of the table: what the whole sequence took."""
    seconds = r.seconds.sum() + r.seconds_tuner
    print(
        f"{label:<34} {r.nit.sum():8d} iterations {r.nit.max():6d} at most {seconds:8.3f} s"
        f"   residual {r.residuals.max():.1e}{learning}"
    )


def main() -> int:
    nx, count = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (50, 500)
    heat = HeatSequence(nx, count, dt=1.0 / count)  # one period
    print(f"{count} steps, n = {heat.n}, diffusivity {heat.contexts.min():g} to {heat.contexts.max():.3g}")

    def walk(**options: Any) -> Any:
        settings: dict[str, Any] = {"solver": "ssor_cg", "rtol": 1e-8, **options}
        return linalg.solve_sequence(heat, **settings)

    line("CG, no preconditioner", walk(solver=lambda A, b, x0, **_: linalg.cg(A, b, x0, rtol=1e-8)))
    for omega in (1.0, 1.3, 1.6, 1.9):
        line(f"SSOR-CG, omega = {omega:g}", walk(omega=omega))
    line("Tsallis-INF", walk(tuner=SORTuner(method="tsallis", rng=0)))
    line("Gaussian process", walk(tuner=SORTuner(rng=0)))
    first = walk(tuner=tuner(), context=heat.contexts)
    line("Gaussian process, context", first, f"   {1e6 * first.seconds_tuner / count:.0f} us a choice")

    # What one simulation has learned serves the next: the state is plain JSON.
    learned = SORTuner.from_dict(json.loads(json.dumps(first.tuner.to_dict())))
    line("the same, a second simulation", walk(tuner=learned, context=heat.contexts))
    for kappa in np.geomspace(1e-2, 10.0, 4):
        print(f"  diffusivity {kappa:<6g} omega {learned.best(kappa):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
