"""The barrier problem: slacks, bounds, residuals, and the Newton direction of one iterate.

Variables are w = (x, s) with one slack per inequality row, bounds lo <= w <= hi, constraints
c(w) = (c_i(x) - lower_i | c_i(x) - s_i) = 0, and the log barrier -mu sum log(w - lo) - mu sum log(hi - w).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._kkt import KKTMatrix, transposed_product

# Bounds give way by this, relative to max(1, |bound|), so that a feasible set without interior has one.
BOUND_GIVE = 1e-8
_DENSE_ZEROS = 160
_EPS = float(np.finfo(float).eps)
# Variables with a single bound are drawn towards it by this times mu: the barrier alone lets them run away.
_DAMPING = 1e-5
# Bound multipliers stay within this factor of mu / distance.
_MULTIPLIER_RANGE = 1e10


@dataclass
class Point:
    """Primal and dual variables with what the user's functions say there."""

    w: np.ndarray
    lam: np.ndarray
    zl: np.ndarray
    zu: np.ndarray
    f: float = np.nan
    c: np.ndarray = None  # type: ignore[assignment]
    g: Any = None
    J: Any = None

    def is_finite(self) -> bool:
        """Whether value and constraints are numbers."""
        return bool(np.isfinite(self.f) and np.isfinite(self.c).all())


@dataclass
class Direction:
    """One Newton step and what the linear solver said of it."""

    w: np.ndarray
    lam: np.ndarray
    zl: np.ndarray
    zu: np.ndarray


class Barrier:
    """Geometry of a problem's barrier form, independent of the iterate.

    Parameters
    ----------
    problem : Problem
        See `_problem.Problem`; anything with its evaluation methods serves.
    give : float
        Relative relaxation of bounds.
    most : float
        Absolute limit on it, in the user's units.
    """

    def __init__(self, problem: Any, give: float = BOUND_GIVE, most: float = np.inf) -> None:
        self.problem, self.most = problem, most
        self.n, self.m = problem.n, problem.m
        self.rows = np.flatnonzero(~problem.equality)  # inequality rows, in the order of their slacks
        self.eq = np.flatnonzero(problem.equality)
        self.give = give
        self.place_bounds()

    def place_bounds(self) -> None:
        """Read the (scaled) bounds from the problem."""
        p = self.problem
        lo = np.concatenate([p.xl, p.lower[self.rows]])
        hi = np.concatenate([p.xu, p.upper[self.rows]])
        with np.errstate(invalid="ignore"):
            room = np.where(np.isfinite(hi - lo), hi - lo, np.inf)
            most = np.minimum(
                self.most * np.concatenate([np.ones(self.n), p.sc[self.rows]]), 0.01 * room + self.give
            )
            self.lo, self.hi = (
                np.where(
                    np.isfinite(side),
                    side + sign * np.minimum(self.give * np.maximum(1.0, np.abs(side)), most),
                    side,
                )
                for side, sign in ((lo, -1.0), (hi, 1.0))
            )
        eps = _EPS
        self.tiny_lo = eps * np.where(np.isfinite(self.lo), np.maximum(1.0, np.abs(self.lo)), 0.0)
        self.tiny_hi = eps * np.where(np.isfinite(self.hi), np.maximum(1.0, np.abs(self.hi)), 0.0)
        self.has_lo, self.has_hi = np.isfinite(self.lo), np.isfinite(self.hi)
        self.only_lo, self.only_hi = self.has_lo & ~self.has_hi, self.has_hi & ~self.has_lo
        self.n_bounds = int(self.has_lo.sum() + self.has_hi.sum())

    def interior(self, w: np.ndarray, push: float = 1e-2, share: float = 1e-2) -> np.ndarray:
        """`w` moved inside its bounds by `push` (relative to the bound) or `share` of the room."""
        lo, hi = self.lo, self.hi
        with np.errstate(invalid="ignore"):
            room = np.where(self.has_lo & self.has_hi, hi - lo, np.inf)
            low = lo + np.minimum(push * np.maximum(1.0, np.abs(lo)), share * room)
            high = hi - np.minimum(push * np.maximum(1.0, np.abs(hi)), share * room)
        w = np.where(self.has_lo, np.maximum(w, low), w)
        return np.where(self.has_hi, np.minimum(w, high), w)

    def gaps(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances to the bounds, at least their rounding; infinite where there is none."""
        return np.maximum(w - self.lo, self.tiny_lo), np.maximum(self.hi - w, self.tiny_hi)

    def evaluate(self, point: Point) -> Point:
        """Fill in f and c."""
        point.f, point.c = self.problem.values(point.w[: self.n])
        return point

    def differentiate(self, point: Point) -> Point:
        """Fill in g and J."""
        point.g, point.J = self.problem.derivatives(point.w[: self.n])
        return point

    def constraint(self, point: Point) -> np.ndarray:
        """c(w), shape (m,)."""
        r = point.c.copy()
        r[self.eq] -= self.problem.lower[self.eq]
        r[self.rows] -= point.w[self.n :]
        return r

    def value(self, point: Point, mu: float) -> float:
        """f plus the barrier and the damping of variables with a single bound."""
        if not self.n_bounds:
            return point.f
        below, above = self.gaps(point.w)
        logs = np.log(below[self.has_lo]).sum() + np.log(above[self.has_hi]).sum()
        single = below[self.only_lo].sum() + above[self.only_hi].sum()
        return float(point.f - mu * (logs - _DAMPING * single))

    def gradient(self, point: Point, mu: float) -> np.ndarray:
        """Gradient of `value`, shape (n + slacks,)."""
        full = np.zeros(len(point.w))
        full[: self.n] = point.g
        if self.n_bounds:
            below, above = self.gaps(point.w)
            full -= mu / below
            full += mu / above
            full[self.only_lo] += _DAMPING * mu
            full[self.only_hi] -= _DAMPING * mu
        return full

    def adjoint(self, point: Point, lam: np.ndarray) -> np.ndarray:
        """A' lam with A = [J, -I], shape (n + slacks,)."""
        return np.concatenate([transposed_product(point.J, lam), -lam[self.rows]])

    def forward(self, point: Point, w: np.ndarray) -> np.ndarray:
        """A w, shape (m,)."""
        r = np.asarray(point.J @ w[: self.n]).ravel().copy()
        r[self.rows] -= w[self.n :]
        return r

    def lagrangian_gradient(self, point: Point) -> np.ndarray:
        """Gradient of f + lam'c - zl'w + zu'w, shape (n + slacks,)."""
        r = self.adjoint(point, point.lam) - point.zl + point.zu
        r[: self.n] += point.g
        return r

    def errors(self, point: Point, mu: float) -> tuple[float, float, float]:
        """Scaled dual, primal and complementarity errors, all in the infinity norm."""
        r = self.lagrangian_gradient(point)
        sum_z = float(point.zl.sum() + point.zu.sum())
        total = float(np.abs(point.lam).sum()) + sum_z
        s_d = max(100.0, total / max(1, self.m + self.n_bounds)) / 100.0
        s_c = max(100.0, sum_z / max(1, self.n_bounds)) / 100.0
        dual = _max(r) / s_d
        primal = _max(self.constraint(point))
        return dual, primal, self._complementarity(point, mu) / s_c

    def _complementarity(self, point: Point, mu: float) -> float:
        if not self.n_bounds:
            return 0.0
        below, above = self.gaps(point.w)
        low = below[self.has_lo] * point.zl[self.has_lo] - mu
        high = above[self.has_hi] * point.zu[self.has_hi] - mu
        return max(_max(low), _max(high))

    def error(self, point: Point, mu: float) -> float:
        """Largest of the three."""
        return max(self.errors(point, mu))

    def step_limits(self, point: Point, step: Direction, tau: float) -> tuple[float, float]:
        """Longest primal and dual steps in [0, 1] that keep a share 1 - tau of every distance."""
        primal = dual = 1.0
        if self.n_bounds:
            below, above = self.gaps(point.w)
            primal = min(_longest(below, step.w, tau), _longest(above, -step.w, tau))
            dual = min(
                _longest(point.zl[self.has_lo], step.zl[self.has_lo], tau),
                _longest(point.zu[self.has_hi], step.zu[self.has_hi], tau),
            )
        return primal, dual

    def guard_multipliers(self, point: Point, mu: float) -> None:
        """Keep z within a wide corridor around mu / distance."""
        if not self.n_bounds:
            return
        below, above = self.gaps(point.w)
        for z, gap, has in ((point.zl, below, self.has_lo), (point.zu, above, self.has_hi)):
            at = gap[has]
            z[has] = np.clip(z[has], mu / (_MULTIPLIER_RANGE * at), _MULTIPLIER_RANGE * mu / at)

    def advance(self, point: Point, step: Direction, alpha: float, alpha_dual: float) -> Point:
        """The next iterate's variables; nothing is evaluated there."""
        return Point(
            point.w + alpha * step.w,
            point.lam + alpha * step.lam,
            point.zl + alpha_dual * step.zl,
            point.zu + alpha_dual * step.zu,
        )

    def trial(self, point: Point, step_w: np.ndarray, alpha: float) -> Point:
        """f and c at w + alpha step, with the multipliers of `point`."""
        return self.evaluate(replace(point, w=point.w + alpha * step_w, g=None, J=None))


class NewtonSystem:
    """The linearised conditions at one point, slacks and bound multipliers eliminated.

    With Sigma = zl / (w - lo) + zu / (hi - w) and shifts t, dc:
    [[H + Sigma_x + t, J'], [J, -e]] (dx, dlam) = b,  e = dc, and dc + 1 / (Sigma_s + t) in inequality rows.
    """

    def __init__(self, barrier: Barrier, point: Point, H: Any, mu: float) -> None:
        self.barrier, self.point, self.H, self.mu = barrier, point, H, mu
        n = barrier.n
        below, above = barrier.gaps(point.w)
        self.below, self.above = below, above
        self.sigma = point.zl / below + point.zu / above  # 0 where there is no bound
        self.residual = barrier.adjoint(point, point.lam) + barrier.gradient(point, mu)
        self.c = barrier.constraint(point)
        self.slack = self.sigma[n:]
        self.set_shift(0.0, 0.0)

    def set_shift(self, t: float, dc: float) -> None:
        """t on the Hessian's diagonal, -dc on the constraints'."""
        n, rows = self.barrier.n, self.barrier.rows
        self.t, self.dc = t, dc
        e = np.full(self.barrier.m, dc)
        e[rows] += 1.0 / (self.slack + t)
        self.matrix = KKTMatrix(self.H, self.point.J, self.sigma[:n] + t, e)

    def rhs(self, c: np.ndarray | None = None) -> np.ndarray:
        """Right-hand side, for the point's constraint values or others (second-order correction)."""
        n, rows = self.barrier.n, self.barrier.rows
        b = np.concatenate([-self.residual[:n], -(self.c if c is None else c)])
        b[n + rows] -= self.residual[n:] / (self.slack + self.t)
        return b

    def expand(self, z: np.ndarray) -> Direction:
        """The whole direction from (dx, dlam)."""
        n, rows = self.barrier.n, self.barrier.rows
        lam = z[n:].copy()
        slack = (lam[rows] - self.residual[n:]) / (self.slack + self.t)
        w = np.concatenate([z[:n], slack])
        p = self.point
        zl = np.where(self.barrier.has_lo, (self.mu - p.zl * w) / self.below - p.zl, 0.0)
        zu = np.where(self.barrier.has_hi, (self.mu + p.zu * w) / self.above - p.zu, 0.0)
        return Direction(w, lam, zl, zu)


def least_squares_multipliers(barrier: Barrier, point: Point, solver: Any) -> np.ndarray | None:
    """argmin over lam of ||grad f - zl + zu + A' lam||_2; None where the system is singular."""
    n, m = barrier.n, barrier.m
    if m == 0:
        return np.zeros(0)
    r = point.zu - point.zl
    r[:n] += point.g
    identity = np.ones(n)
    e = np.zeros(m)
    e[barrier.rows] = 1.0  # slack columns -I, eliminated
    zero = _zero_hessian(point.J, n)
    b = np.concatenate([-r[:n], np.zeros(m)])
    b[n + barrier.rows] = -r[n:]
    found = solver.factor(KKTMatrix(zero, point.J, identity, e))
    if not found[3] or found[0] != n or found[1] != m:
        # Dependent rows: the shortest multipliers, to within a small ridge.
        found = solver.factor(KKTMatrix(zero, point.J, identity, e + 1e-8))
        if not found[3] or found[2]:
            return None
    lam = solver.solve(b).z[n:]
    return lam if np.isfinite(lam).all() else None


def _zero_hessian(J: Any, n: int) -> Any:
    """Sparse where an n x n array would cost more than what it is for."""
    return sp.csr_array((n, n)) if sp.issparse(J) or n > _DENSE_ZEROS else np.zeros((n, n))


def _longest(gap: np.ndarray, step: np.ndarray, tau: float) -> float:
    """Largest alpha <= 1 with gap + alpha step >= (1 - tau) gap."""
    towards = step < 0
    if not towards.any():
        return 1.0
    return float(min(1.0, tau * (gap[towards] / -step[towards]).min()))


def _max(x: np.ndarray) -> float:
    return float(np.abs(x).max()) if x.size else 0.0


__all__ = ["BOUND_GIVE", "Barrier", "Direction", "NewtonSystem", "Point", "least_squares_multipliers"]
