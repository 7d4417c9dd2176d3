"""Optimality errors of a point in the user's units: what alone makes a success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._kkt import transposed_product


@dataclass(frozen=True)
class Certificate:
    """Errors at one point with one set of multipliers, all in the infinity norm but `kkt`.

    Attributes
    ----------
    optimality : float
        Gradient of the Lagrangian, bound multipliers included.
    violation : float
        Of constraints and bounds.
    complementarity : float
        Largest product of a multiplier and the distance to its side.
    kkt : float
        2-norm of the first two together.
    dual_scale, complementarity_scale : float
        max(100, mean multiplier) / 100, of all multipliers and of those of sides; at most 1000, so that
        multipliers that grow without bound excuse nothing.
    """

    optimality: float
    violation: float
    complementarity: float
    kkt: float
    dual_scale: float
    complementarity_scale: float

    def within(self, tol: float, constr_tol: float) -> bool:
        """Whether the scaled errors meet the tolerances."""
        return bool(
            self.optimality <= tol * self.dual_scale
            and self.complementarity <= tol * self.complementarity_scale
            and self.violation <= constr_tol
        )


def certify(problem: Any, x: np.ndarray, lam: np.ndarray, zl: np.ndarray, zu: np.ndarray) -> Certificate:
    """The errors at `x` of the unscaled problem; evaluations that are remembered are not repeated.

    Parameters
    ----------
    problem : Problem
        Scaled as it may be.
    x : ndarray, shape (n,)
        Free variables.
    lam, zl, zu : ndarray, shapes (m,), (n,) and (n,)
        Multipliers of the scaled problem.
    """
    g, J = problem.derivatives(x)
    c = problem.constraints(x) / problem.sc
    lower, upper = problem.lower / problem.sc, problem.upper / problem.sc
    zl, zu = zl / problem.sf, zu / problem.sf
    r = (g + transposed_product(J, lam)) / problem.sf - zl + zu
    lam = lam * problem.sc / problem.sf
    sides = ~problem.equality
    excess = np.concatenate(
        [
            np.maximum(np.maximum(lower - c, c - upper), 0.0),
            np.maximum(np.maximum(problem.xl - x, x - problem.xu), 0.0),
        ]
    )
    with np.errstate(invalid="ignore"):
        products = np.concatenate(
            [
                np.where(zl > 0, zl * (x - problem.xl), 0.0),
                np.where(zu > 0, zu * (problem.xu - x), 0.0),
                np.where(lam < 0, lam * (c - lower), 0.0)[sides],
                np.where(lam > 0, lam * (upper - c), 0.0)[sides],
            ]
        )
    n_bounds = int(np.isfinite(problem.xl).sum() + np.isfinite(problem.xu).sum())
    n_sides = int(np.isfinite(lower[sides]).sum() + np.isfinite(upper[sides]).sum())
    of_sides = float(np.abs(zl).sum() + np.abs(zu).sum() + np.abs(lam[sides]).sum())
    total = of_sides + float(np.abs(lam).sum())
    return Certificate(
        optimality=_largest(r),
        violation=_largest(excess),
        complementarity=_largest(products),
        kkt=float(np.sqrt(r @ r + excess @ excess)),
        dual_scale=_scale(total, problem.m + n_bounds + n_sides),
        complementarity_scale=_scale(of_sides, n_bounds + n_sides),
    )


def settled(problem: Any, x: np.ndarray, lam: np.ndarray, tol: float) -> np.ndarray:
    """`lam` without what is rounding: multipliers against a side that is not there, or so small that their
    share of the gradient is below a thousandth of `tol` while their product with a wide gap is above it.

    What is dropped shows in the gradient of the Lagrangian.
    """
    sides = ~problem.equality
    if not sides.any() or problem.n == 0:
        return lam
    c = problem.constraints(x)
    _, J = problem.derivatives(x)
    gap = np.where(lam < 0, c - problem.lower, problem.upper - c)
    wide = sides & (np.abs(lam) * np.abs(np.where(np.isfinite(gap), gap, 0.0)) > tol * problem.sf)
    drop = sides & ~np.isfinite(gap)
    if wide.any():
        if isinstance(J, np.ndarray) or sp.issparse(J):
            rows = abs(J[np.flatnonzero(wide)]).max(axis=1)
            size = np.asarray(rows.todense() if sp.issparse(rows) else rows).ravel()
        else:
            size = np.array([np.abs(J.rmatvec(e)).max() for e in np.eye(problem.m)[wide]])
        drop[np.flatnonzero(wide)[np.abs(lam[wide]) * size <= 1e-3 * tol * problem.sf]] = True
    return np.where(drop, 0.0, lam)


def _scale(total: float, count: int) -> float:
    return min(1e3, max(100.0, total / max(1, count)) / 100.0)


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0.0)) if np.isfinite(x).all() else np.inf


__all__ = ["Certificate", "certify", "settled"]
