"""Counts that docs/theory/optimize.md quotes; they do not depend on the machine.

    python examples/optimize_reproduction.py            # all variants, half a minute; needs a source checkout

Prints for the problems of tests/optimize/problems.py, with equations alone and with inequalities or bounds,
what variants of the solver need: problems solved, iterations, values and gradients in all.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aitken.optimize import sketched_newton
from tests.optimize.problems import CASES

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "merit function": {"globalization": "merit"},
    "filter": {"globalization": "filter"},
    "multipliers 0": {"lam0": 0.0},
    "relaxed weights": {"relax_penalties": True},
    "BFGS": {"hess": "bfgs"},
    "as published": {"accuracy": "theory", "tol": 1e-4},
}


def attempt(case: Any, options: dict[str, Any]) -> Any:
    """One solve with the options of a variant."""
    options = {"hess": case.hess, **options}
    if "lam0" in options:
        options["lam0"] = np.zeros(case.m)
    return sketched_newton(
        case.fun,
        case.x0,
        jac=case.grad,
        constraints=case.constraints,
        bounds=case.bounds,
        maxiter=300,
        **options,
    )


def main() -> int:
    for title, equations in (("equations alone", True), ("inequalities or bounds", False)):
        chosen = [case for case in CASES.values() if case.equality_only == equations]
        print(f"{title}: {len(chosen)} problems")
        for name, options in VARIANTS.items():
            if name == "as published" and not equations:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = {case.name: attempt(case, options) for case in chosen}
            solved = [r for r in results.values() if r.success]
            sums = [sum(r[key] for r in solved) for key in ("nit", "nfev", "njev")]
            median = np.median([r.nfev for r in solved])
            changed = sum(r.n_fallback > 0 for r in solved)
            missing = " ".join(key for key, r in results.items() if not r.success)
            print(
                f"  {name:<16} solved {len(solved):2d}  iterations {sums[0]:4d}  values {sums[1]:4d} (median "
                f"{median:4.1f})  gradients {sums[2]:4d}  to the filter {changed:2d}"
                f"  restored {sum(r.n_restoration > 0 for r in solved):2d}  {missing}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
