"""A call of `scipy.optimize.minimize`, and the same with one argument changed.

    python examples/optimize_switch.py              # N = 32, n = 2048, m = 1024
    python examples/optimize_switch.py 64           # 64 x 64 points

Three problems with their exact derivatives: logistic regression on a sphere cut by planes (scikit-learn's
breast cancer data), control of a nonlinear elliptic equation, and the weights of a portfolio of funds, with
bounds and a limit on its variance. Prints seconds, evaluations and the optimality conditions of every answer,
recomputed from the point that was returned. SLSQP is dense and left out of the large problem.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint, lsq_linear, minimize

from aitken.datasets import constrained_logistic, elliptic_control
from aitken.optimize import sketched_newton

NEAR = 1e-4  # of a side: it may have a multiplier


@dataclass
class Problem:
    """Arguments of `minimize`, and how many of its inequalities come last in `constraints`."""

    title: str
    fun: Any
    grad: Any
    hess: Any
    x0: np.ndarray
    constraints: list[Any]
    bounds: Bounds | None = None


def portfolio(count: int = 60, months: int = 400) -> Problem:
    """Entropy of the weights of funds, for a mean return that is asked for and a variance that is allowed."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((months, 5)) @ rng.standard_normal((5, count)) * 0.02
    returns = factors + 0.03 * rng.standard_normal((months, count)) + rng.uniform(0.0, 0.02, count)
    mean, spread = returns.mean(axis=0), np.cov(returns.T)
    floor = 1e-6
    rows = np.vstack([np.ones(count), mean])
    return Problem(
        f"portfolio of {count} funds",
        lambda w: float(w @ np.log(w + floor)),
        lambda w: np.log(w + floor) + w / (w + floor),
        lambda w: np.diag(1.0 / (w + floor) + floor / (w + floor) ** 2),
        np.full(count, 1.0 / count),
        [
            LinearConstraint(rows, [1.0, 1.3 * mean.mean()], [1.0, np.inf]),
            NonlinearConstraint(
                lambda w: w @ spread @ w,
                -np.inf,
                4e-4,
                jac=lambda w: 2 * spread @ w,
                hess=lambda w, v: 2 * v[0] * spread,
            ),
        ],
        Bounds(np.zeros(count), np.full(count, 0.15)),
    )


def problems(N: int) -> list[Problem]:
    """All three."""
    found = []
    sets = [("control of a field", elliptic_control(N, "nonlinear"))]
    try:
        sets.insert(0, ("logistic regression", constrained_logistic("breast_cancer")))
    except ImportError as error:
        print(error)
    for title, p in sets:
        found.append(Problem(f"{title}, n = {p.n}, m = {p.m}", p.fun, p.grad, p.hess, p.x0, p.constraints))
    return [*found, portfolio()]


def conditions(p: Problem, x: np.ndarray) -> tuple[float, float]:
    """Violation, and the gradient of the Lagrangian with the best multipliers of what is within `NEAR`."""
    violation, normals, signs = 0.0, [], []
    parts = [(c.fun(x), c.jac(x), c) if hasattr(c, "fun") else (c.A @ x, c.A, c) for c in p.constraints]
    if p.bounds is not None:
        parts.append((x, np.eye(len(x)), p.bounds))
    for value, J, c in parts:
        value = np.atleast_1d(value)
        J = J if sp.issparse(J) else np.atleast_2d(J)
        low, high = (np.broadcast_to(side, value.shape) for side in (c.lb, c.ub))
        violation = max(violation, float((low - value).max()), float((value - high).max()))
        if sp.issparse(J):  # equations alone
            normals.append(J)
            continue
        for i in np.flatnonzero((value - low < NEAR) | (high - value < NEAR)):
            normals.append(J[i : i + 1])
            signs.append(
                (-np.inf if value[i] - low[i] < NEAR else 0, np.inf if high[i] - value[i] < NEAR else 0)
            )
    g = p.grad(x)
    if sp.issparse(normals[0]):
        J = sp.csr_array(sp.vstack(normals))
        gram, left = sp.linalg.splu(sp.csc_array(J @ J.T)), g
        for _ in range(2):
            left = left - J.T @ gram.solve(J @ left)
        return violation, float(np.abs(left).max())
    A = np.vstack(normals).T
    lam = lsq_linear(A, -g, np.array(signs).T, tol=1e-15).x
    return violation, float(np.abs(g + A @ lam).max())


def main() -> int:
    for p in problems(int(sys.argv[1]) if len(sys.argv) > 1 else 32):
        print(p.title)
        for method in ("trust-constr", "SLSQP", sketched_newton):
            if method == "SLSQP" and len(p.x0) > 500:
                continue
            arguments: dict[str, Any] = {"jac": p.grad, "constraints": p.constraints, "bounds": p.bounds}
            if method != "SLSQP":
                arguments["hess"] = p.hess
            options = {"trust-constr": {"xtol": 1e-10, "gtol": 1e-6}, "SLSQP": {"ftol": 1e-12}}.get(
                str(method), {}
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                minimize(
                    p.fun, p.x0, method=method, options=options, **arguments
                )  # loads what is loaded once
                begun = time.perf_counter()
                r = minimize(p.fun, p.x0, method=method, options=options, **arguments)  # the one argument
                seconds = time.perf_counter() - begun
            violation, kkt = conditions(p, r.x)
            name = method if isinstance(method, str) else "sketched_newton"
            print(
                f"  {name:<16} {1e3 * seconds:8.1f} ms  {r.nit:4d} iterations  {r.nfev:4d} values  "
                f"{r.njev:4d} gradients  objective {r.fun:.9g}  violation {violation:.0e}  KKT {kkt:.0e}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
