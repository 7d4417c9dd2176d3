"""Feasibility restoration: the l1 violation minimised near the point where the line search gave up.

    min  rho sum(p + q) + zeta/2 ||D (x - x_R)||^2   s.t.  lower <= c(x) - p + q <= upper,  p, q >= 0

It is a problem of the same kind, so the same driver solves it, until a point is found that the filter of
the original problem admits and whose violation is less by a tenth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from .._result import Status
from ._barrier import Point
from ._driver import Driver, NonFiniteStart, Record
from ._globalization import make_filter, violation
from ._kkt import is_operator
from ._linear import LinearSolver
from ._quasi_newton import DampedBFGS

_RHO = 1000.0
_LEARNED_UP_TO = 2000
_REQUIRED_DECREASE = 0.9
_PATIENCE = 4  # calls without progress, after which the violation is minimised to the end


class RestorationProblem:
    """The problem above, with the evaluation methods of `Problem`.

    Parameters
    ----------
    problem : Problem
        The original one.
    x : ndarray, shape (n,)
        Where restoration starts.
    mu : float
        Its proximity weight is sqrt(mu).
    """

    sf = 1.0

    def __init__(self, problem: Any, x: np.ndarray, lo: np.ndarray, hi: np.ndarray, mu: float) -> None:
        self.problem, self.reference = problem, x.copy()
        self.n_x, self.m = problem.n, problem.m
        self.n = self.n_x + 2 * self.m
        self.xl = np.concatenate([lo, np.zeros(2 * self.m)])
        self.xu = np.concatenate([hi, np.full(2 * self.m, np.inf)])
        self.keep_feasible = problem.keep_feasible
        self.lower, self.upper, self.equality = problem.lower, problem.upper, problem.equality
        self.sc = np.ones(self.m)
        learns = problem.is_quasi_newton and self.n_x <= _LEARNED_UP_TO
        self._learned = DampedBFGS(self.n_x) if learns else None
        self.follow_barrier(mu)

    def follow_barrier(self, mu: float) -> bool:
        """The proximity term fades with the barrier: sqrt(mu) on squared relative distances."""
        self.weights = np.sqrt(mu) / np.maximum(1.0, np.abs(self.reference)) ** 2
        return True

    def start(self, c: np.ndarray, mu: float) -> np.ndarray:
        """x_R with the p and q that minimise the barrier function for residual c (p - q = c)."""
        half = (mu - _RHO * c) / (2 * _RHO)
        product = mu * c / (2 * _RHO)
        root = np.sqrt(np.maximum(half**2 + product, 0.0))
        # half + root cancels where half < 0: there from the product of the two roots.
        q = np.where(half < 0, product / np.where(half < 0, root - half, 1.0), half + root)
        q = np.maximum(q, 1e-16)
        return np.concatenate([self.reference, np.maximum(c + q, 1e-16), q])

    def values(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        x, p, q = np.split(w, [self.n_x, self.n_x + self.m])
        c = self.problem.constraints(x)
        d = x - self.reference
        return float(_RHO * (p.sum() + q.sum()) + 0.5 * (self.weights * d) @ d), c - p + q

    def constraints(self, w: np.ndarray) -> np.ndarray:
        return self.values(w)[1]

    def derivatives(self, w: np.ndarray) -> tuple[np.ndarray, Any]:
        x = w[: self.n_x]
        J = self.problem.jacobian(x)
        g = np.full(self.n, _RHO)
        g[: self.n_x] = self.weights * (x - self.reference)
        if isinstance(J, np.ndarray):
            return g, np.hstack([J, -np.eye(self.m), np.eye(self.m)])
        if is_operator(J):
            cut, end = self.n_x, self.n_x + self.m
            return g, LinearOperator(
                (self.m, self.n),
                matvec=lambda v: J @ v[:cut] - v[cut:end] + v[end:],
                rmatvec=lambda y: np.concatenate([J.rmatvec(y), -y, y]),
                dtype=float,
            )
        eye = sp.eye_array(self.m, format="csr")
        return g, sp.csr_array(sp.hstack([J, -eye, eye], format="csr"))

    def hessian(self, w: np.ndarray, lam: np.ndarray, sigma: float = 1.0) -> Any:
        """Curvature of the constraints alone, and the proximity term."""
        H = self._curvature(w[: self.n_x], lam)
        if isinstance(H, np.ndarray):
            full = np.zeros((self.n, self.n))
            full[: self.n_x, : self.n_x] = H
            return full
        if is_operator(H):
            tail = np.zeros(2 * self.m)
            return LinearOperator(
                (self.n, self.n),
                matvec=lambda v: np.concatenate([H @ v[: self.n_x] + self.weights * v[: self.n_x], tail]),
                rmatvec=lambda v: np.concatenate([H @ v[: self.n_x] + self.weights * v[: self.n_x], tail]),
                dtype=float,
            )
        return sp.csr_array(sp.block_diag([H, sp.csr_array((2 * self.m, 2 * self.m))], format="csr"))

    def _curvature(self, x: np.ndarray, lam: np.ndarray) -> Any:
        """Curvature of the constraints and the proximity term, or updates that learn both."""
        if self._learned is not None:
            return self._learned.hessian()
        if self.problem.is_quasi_newton:  # too large to learn: Gauss-Newton
            return sp.diags_array(self.weights, format="csr")
        H = self.problem.hessian(x, lam, 0.0)
        if isinstance(H, np.ndarray):
            return H + np.diag(self.weights)
        return H if is_operator(H) else sp.csr_array(H) + sp.diags_array(self.weights, format="csr")

    def root(self, x: np.ndarray) -> None:
        """No square root of this Hessian is known."""

    @property
    def learns(self) -> bool:
        """Whether `update` changes anything."""
        return self._learned is not None

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Teach this problem's own matrix; the outer one learns nothing here."""
        if self._learned is not None:
            self._learned.update(s[: self.n_x], y[: self.n_x])


class Restoration:
    """What `Driver` calls when no step is acceptable.

    Attributes
    ----------
    infeasible : bool
        The last restoration ended at a stationary point of the violation.
    """

    def __init__(self) -> None:
        self.infeasible = False
        self.nit = 0
        self.least = np.inf  # violation at the best point returned so far
        self.end: Point | None = None  # where the last call that found nothing ended
        self.weak = 0  # calls in a row that were hardly better than that
        self.linear = LinearSolver()

    def __call__(self, outer: Driver, point: Point, mu: float) -> Point | None:
        """A point that the outer filter admits, or None; all calls together make `maxiter` iterations."""
        b, o = outer.barrier, outer.options
        if self.nit >= o.maxiter:
            return None
        residual = b.constraint(point)
        mu_here = max(mu, float(np.abs(residual).max()))
        inner_problem = RestorationProblem(outer.problem, point.w[: b.n], b.lo[: b.n], b.hi[: b.n], mu_here)
        options = replace(o, globalization="filter", maxiter=o.maxiter - self.nit, push=1e-8, eta1=1.0)
        filter_ = outer.filter
        assert filter_ is not None
        theta_start = violation(b, point)
        found: list[Point] = []

        def watch(record: Record) -> bool:
            self.nit += 1
            inner = record.point
            w = np.concatenate([inner.w[: b.n], inner.w[inner_problem.n :]])
            if record.nit == 0 or self.weak >= _PATIENCE or not _inside(w, b.lo, b.hi):
                return False
            trial = replace(point, w=w, c=outer.problem.constraints(w[: b.n]))
            if not violation(b, trial) <= _REQUIRED_DECREASE * theta_start:
                return False
            new = self._outer_point(outer, point, inner, inner_problem)
            if new is None or not filter_.admits(violation(b, new), b.value(new, mu)):
                return False
            found.append(new)
            return True

        driver = Driver(inner_problem, options, self.linear, watch)
        # The outer bounds have given way already.
        driver.barrier.give = 0.0
        driver.barrier.place_bounds()
        try:
            start, _ = driver.start(inner_problem.start(residual, mu_here), np.zeros(b.m))
        except NonFiniteStart:
            return None
        # Slacks stay where they were, so that p - q is the residual.
        start.w[inner_problem.n :] = point.w[b.n :]
        start.zl[inner_problem.n :], start.zu[inner_problem.n :] = point.zl[b.n :], point.zu[b.n :]
        start.zl[: b.n], start.zu[: b.n] = point.zl[: b.n], point.zu[: b.n]
        pq = slice(b.n, inner_problem.n)
        start.zl[pq] = mu_here / start.w[pq]
        start.zl, start.zu = np.minimum(start.zl, _RHO), np.minimum(start.zu, _RHO)
        start.zl[pq] = mu_here / start.w[pq]
        driver.barrier.evaluate(start)
        outcome = driver.run(start, mu_here)
        outer.counters.inner_iters += driver.counters.inner_iters
        if found:
            return self.noted(found[0], violation(b, found[0]))
        last = self._outer_point(outer, point, outcome.point, inner_problem)
        goal = min(theta_start, self.least) if self.weak >= _PATIENCE else theta_start
        if last is not None and violation(b, last) <= _REQUIRED_DECREASE * goal:
            # Much less infeasible, but the filter remembers better objectives: it starts afresh.
            outer.filter = make_filter(b, last)
            return self.noted(last, violation(b, last))
        self.end = last
        # What NaN walls off is not infeasible.
        self.infeasible = driver.undefined == 0 and outcome.status in (Status.CONVERGED, Status.STAGNATED)
        return None

    def noted(self, point: Point, theta: float) -> Point:
        """Keep account of what calls achieve: steps in between may undo them without end."""
        self.weak = 0 if theta <= _REQUIRED_DECREASE * self.least else self.weak + 1
        self.least = min(self.least, theta)
        return point

    def _outer_point(
        self, outer: Driver, point: Point, inner: Point, problem: RestorationProblem
    ) -> Point | None:
        """The restoration's point in the outer variables, evaluated; None where that is not finite."""
        b = outer.barrier
        w = np.concatenate([inner.w[: b.n], inner.w[problem.n :]])
        if not _inside(w, b.lo, b.hi):
            return None
        new = replace(point, w=w, g=None, J=None)
        new.c = outer.problem.constraints(w[: b.n])
        if not np.isfinite(new.c).all():
            return None
        b.evaluate(new)
        if not new.is_finite() or not outer.complete(new):
            return None
        for name in ("zl", "zu"):
            z = getattr(inner, name)
            setattr(new, name, np.minimum(_RHO, np.concatenate([z[: b.n], z[problem.n :]])))
        return new


def _inside(w: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> bool:
    return bool((w > lo).all() and (w < hi).all())


__all__ = ["Restoration", "RestorationProblem"]
