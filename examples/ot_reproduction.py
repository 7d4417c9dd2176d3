"""What of the Sinkhorn-Newton-Sparse paper reproduces, and what each part of our solver buys.

    python examples/ot_reproduction.py               # everything, a few seconds
    python examples/ot_reproduction.py density cg    # some of it

Every line is a solve that runs now; the theory page quotes this script's output.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from aitken import datasets, ot


def solve(p: datasets.TransportProblem, **options: Any) -> tuple[Any, float]:
    """Solve and return the result and the seconds; not converging is a result here, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        r = ot.sinkhorn(p.a, p.b, p.M, p.reg, **options)
        return r, time.perf_counter() - start


def line(label: str, r: Any, seconds: float) -> None:
    """One line of output."""
    verdict = "" if r.success else f"   ({r.status.name.lower()})"
    print(
        f"  {label:<34} {r.nit_sinkhorn:6d} Sinkhorn {r.nit_newton:5d} Newton {r.nit_cg:7d} CG"
        f"   error {r.err:.0e}   {1e3 * seconds:7.1f} ms{verdict}"
    )


def density() -> None:
    """The share of the plan that SNS keeps: 2/n is too little."""
    p = datasets.random_assignment(500, reg=1 / 1200)
    print("SNS as published, random assignment n = 500, reg = 1/1200, 20 Sinkhorn iterations first")
    for k in (2, 3, 5, 8, 20):
        line(f"lam = {k}/n", *solve(p, method="sns", lam=k / 500, maxiter=1000))
    p = datasets.image_pair(28)
    print("SNS as published, 28 x 28 images, squared distance, reg = 1/1200")
    for k in (5, 10, 20, 40):
        line(f"lam = {k}/n", *solve(p, method="sns", lam=k / 784, maxiter=400))


def cg() -> None:
    """CG iterations per Newton step: without preconditioner, with the diagonal, with the sparse factor."""
    p = datasets.random_assignment(500, reg=1 / 1200)
    print("CG per Newton step, random assignment n = 500, reg = 1/1200")
    r, t = solve(p, method="sns", lam=8 / 500)
    line(f"plain CG (SNS): {r.nit_cg / r.nit_newton:.0f} a step", r, t)
    for name in ("jacobi", "hybrid"):
        r, t = solve(p, method="newton", linear_solver=name)
        line(f"{name}: {r.nit_cg / max(r.nit_newton, 1):.0f} a step", r, t)


def linear_solvers() -> None:
    """Four ways to solve the Newton system; Jacobi stalls where the plan nearly falls apart."""
    cases = (
        ("random assignment n = 500, reg = 1e-4", datasets.random_assignment(500, reg=1e-4)),
        ("clouds n = 500, reg = 1e-4", datasets.gaussian_clouds(500, reg=1e-4)),
        ("clouds n = 500, reg = 1e-3", datasets.gaussian_clouds(500, reg=1e-3)),
    )
    for title, p in cases:
        print(title)
        for name in ("auto", "jacobi", "hybrid", "direct"):
            line(name, *solve(p, method="newton", linear_solver=name, maxiter=400))


def scaling() -> None:
    """Approaching reg through larger values, against starting at reg."""
    for title, p in (
        ("clouds n = 500, reg = 1e-4", datasets.gaussian_clouds(500, reg=1e-4)),
        ("random assignment n = 500, reg = 1e-4", datasets.random_assignment(500, reg=1e-4)),
        ("28 x 28 images, city-block distance, reg = 1/1200", datasets.image_pair(28, metric="cityblock")),
    ):
        print(title)
        line("with eps scaling", *solve(p, method="newton"))
        line("without", *solve(p, method="newton", eps_scaling=False, maxiter=1000))


def crossover() -> None:
    """Where plain Sinkhorn iterations win, and where they cannot."""
    print("Newton against Sinkhorn iterations, clouds n = 500")
    for reg in (5e-2, 1e-2, 1e-3, 1e-4):
        p = datasets.gaussian_clouds(500, reg=reg)
        for method in ("newton", "sinkhorn", "auto"):
            times = [solve(p, method=method, maxiter=50_000)[1] for _ in range(5)]
            line(
                f"reg = {reg:g}, {method}",
                solve(p, method=method, maxiter=50_000)[0],
                float(np.median(times)),
            )


PARTS: dict[str, Callable[[], None]] = {
    "density": density,
    "cg": cg,
    "linear_solvers": linear_solvers,
    "scaling": scaling,
    "crossover": crossover,
}


def main() -> int:
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no part {unknown[0]!r}; there is {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"--- {name}: {(PARTS[name].__doc__ or '').strip()}")
        PARTS[name]()
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
