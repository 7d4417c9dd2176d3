"""Newton directions: which linear solver, to what accuracy, and with which shift of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import lsmr

from . import _krylov_kkt
from ._barrier import Barrier, Direction, NewtonSystem, Point, least_squares_multipliers
from ._globalization import ExactMerit
from ._kkt import DirectSolver, InnerResult, KKTMatrix, is_operator, transposed_product
from ._sketch import SketchedPreconditioner

_SHIFT_MAX = 1e20
_FIRST_GROWTH, _SHIFT_GROWTH = 100.0, 8.0
_DUAL_SHIFT = 1e-8
_REGULARIZATION = 1e-10  # of the constraints' block, for solvers that do not see a singular matrix
_ACCURATE = 1e-12
_ACCEPTABLE = 1e-6  # a direct solution worse than this counts as that of a singular matrix
_CORRECTION_RTOL = 1e-8
_CURVATURE = 1e-8
_DENSE_ROWS = 1000


class CurvatureError(Exception):
    """No shift gave a matrix with the right signs."""


class NonFiniteError(Exception):
    """The matrix itself is not made of numbers."""


@dataclass
class NewtonStep:
    """A direction with what it cost and how exact it is."""

    step: Direction
    z: np.ndarray
    t: float
    residual: float
    rtol: float

    def rest(self, system: NewtonSystem) -> tuple[np.ndarray, np.ndarray]:
        """K z - b in its two parts."""
        r = system.matrix.matvec(self.z) - system.rhs()
        return r[: system.barrier.n], r[system.barrier.n :]


class LinearSolver:
    """Solves the Newton systems of one problem.

    Parameters
    ----------
    problem : Problem
        Asked for square roots of its Hessian.
    kkt_solver : str
        See `sketched_newton`.
    xi_B : float
        First shift of the Hessian where its curvature is wrong.
    kappa : float
        Relative residual asked of iterative solvers: min(kappa, kappa ||F||).
    sketch_size, max_inner : int, optional
        Rows of a sketch; limit on inner steps.
    seed : int
        Of the sketches.
    """

    def __init__(
        self,
        problem: Any = None,
        *,
        kkt_solver: str = "auto",
        xi_B: float = 0.1,
        kappa: float = 0.1,
        sketch_size: int | None = None,
        max_inner: int | None = None,
        seed: int = 0,
    ) -> None:
        self.problem, self.kkt_solver, self.xi_B, self.kappa = problem, kkt_solver, xi_B, kappa
        self.sketch_size, self.max_inner, self.seed = sketch_size, max_inner, seed
        self.direct = DirectSolver()
        self.multiplier_solver = DirectSolver()
        self.chain: list[Any] | None = None
        self.state: SketchedPreconditioner | None = None
        self.root: Any = None
        self.last_shift = 0.0
        self.solves = 0
        self.iterative_flops = 0.0
        self.iterations = 0
        self.used: list[str] = []

    @property
    def is_exact(self) -> bool:
        """Whether systems are factored, as far as is known before the first one."""
        if self.chain is not None:
            return bool(self.chain[0].solver == "ldlt")
        operator = self.problem is not None and self.problem.kind == "operator"
        return self.kkt_solver in ("auto", "ldlt") and not operator

    @property
    def flops(self) -> float:
        """Of all linear solves so far."""
        return self.direct.flops + self.multiplier_solver.flops + self.iterative_flops

    # ---- multipliers ------------------------------------------------------------------------------------

    def multipliers(self, barrier: Barrier, point: Point) -> np.ndarray | None:
        """Least-squares multipliers."""
        if is_operator(point.J):
            r = np.concatenate([point.g, np.zeros(len(barrier.rows))]) - point.zl + point.zu
            A = sp.linalg.LinearOperator(
                (len(r), barrier.m),
                matvec=lambda y: barrier.adjoint(point, np.ravel(y)),
                rmatvec=lambda w: barrier.forward(point, np.ravel(w)),
                dtype=float,
            )
            lam = lsmr(A, -r, atol=1e-10, btol=1e-10, maxiter=10 * sum(A.shape))[0]
            return lam if np.isfinite(lam).all() else None
        return least_squares_multipliers(barrier, point, self.multiplier_solver)

    # ---- directions -------------------------------------------------------------------------------------

    def newton(self, system: NewtonSystem, counters: Any) -> NewtonStep:
        """The direction at `system`'s point, of the first shift with the right curvature."""
        if self.chain is None:
            self.chain = self._choose(system.matrix)
        if self.chain[0].solver == "ldlt":
            return self._factored(system, counters)
        return self._iterated(system, counters)

    def _choose(self, K: KKTMatrix) -> list[Any]:
        chain = _krylov_kkt.choose(
            K.n,
            K.m,
            product=_krylov_kkt.product_flops(K),
            has_root=self.root is not None,
            kind="operator" if K.is_operator else "sparse" if K.is_sparse else "dense",
            kkt_solver=self.kkt_solver,
            factor_flops=None if self.kkt_solver in ("auto", "ldlt") else _krylov_kkt.factor_flops(K),
        )
        if self.max_inner is not None:  # who names a limit wants the method itself, not its budget
            chain[0] = chain[0]._replace(budget=np.inf)
        return chain

    def at(self, x: np.ndarray) -> None:
        """Where the next system is taken: its Hessian's root serves preconditioners."""
        if self.problem is not None and (self.chain is None or self.chain[0].solver != "ldlt"):
            self.root = self.problem.root(x)

    def _factored(self, system: NewtonSystem, counters: Any) -> NewtonStep:
        """Shifts until the factorisation has n positive and m negative pivots."""
        n, m = system.barrier.n, system.barrier.m
        t, dc = 0.0, 0.0
        for _ in range(100):
            system.set_shift(t, dc)
            positive, negative, zero, finite = self.direct.factor(system.matrix)
            if not finite:
                raise NonFiniteError("the Hessian or the Jacobian is not finite")
            right = (positive, negative) == (n, m) and not zero
            if right:
                inner = self.direct.solve(system.rhs(), _ACCURATE)
                if np.isfinite(inner.z).all() and inner.residual <= _ACCEPTABLE:
                    self._note(inner, t, counters)
                    return NewtonStep(system.expand(inner.z), inner.z, t, inner.residual, _ACCURATE)
            # Rows that depend on each other: zero pivots, or after a static shift too few negative ones.
            hidden = negative < m and self.direct.is_regularized
            if dc == 0.0 and m and (zero or right or hidden):
                dc = _DUAL_SHIFT * max(system.mu, 1e-8) ** 0.25
                counters.dependent = True
                continue
            t = self.next_shift(t)
            if t > _SHIFT_MAX:
                break
        raise CurvatureError("no shift of the Hessian gave a matrix with the right signs")

    def _iterated(self, system: NewtonSystem, counters: Any) -> NewtonStep:
        """Shifts until the tangential part of the direction has positive curvature."""
        size = float(np.hypot(np.linalg.norm(system.residual), np.linalg.norm(system.c)))
        rtol = min(self.kappa, self.kappa * size)
        if system.barrier.n_bounds:  # errors well below mu, or they decide which side of a bound counts
            rtol = min(rtol, 1e-2 * system.mu / max(size, system.mu))
        rtol = max(_ACCURATE, rtol)
        t, dc = 0.0, _REGULARIZATION if system.barrier.m else 0.0
        while t <= _SHIFT_MAX:
            system.set_shift(t, dc)
            inner = self._solve(system, system.rhs(), None, rtol, counters)
            if not np.isfinite(inner.z).all():
                if dc < _DUAL_SHIFT and system.barrier.m:
                    dc, counters.dependent = _DUAL_SHIFT, True
                else:
                    t = self.next_shift(t)
                continue
            short, curvature = _tangential_curvature(system, inner.z[: system.barrier.n])
            if short or curvature >= _CURVATURE:
                self._note(inner, t, counters)
                return NewtonStep(system.expand(inner.z), inner.z, t, inner.residual, rtol)
            first = max(self.xi_B - 1.5 * (curvature - t), self.last_shift / 3.0)
            t = first if t == 0.0 else 4.0 * t
        raise CurvatureError("no shift of the Hessian gave positive curvature along the constraints")

    def _note(self, inner: InnerResult, t: float, counters: Any) -> None:
        counters.inner_iters += inner.iterations
        if inner.solver not in self.used:
            self.used.append(inner.solver)
        if t > 0:
            self.last_shift = t
            counters.shifts += 1

    def _solve(
        self, system: NewtonSystem, b: np.ndarray, z0: np.ndarray | None, rtol: float, counters: Any
    ) -> InnerResult:
        assert self.chain is not None
        self.solves += 1
        if self.state is None and self.root is not None:
            # The size is that of a projection's sketch where one comes first.
            preconditions = self.kkt_solver in ("auto", "sketch_prec")
            self.state = SketchedPreconditioner(self.sketch_size if preconditions else None, self.seed)
        before = self.direct.flops
        found, flops, fallbacks = _krylov_kkt.solve_chain(
            self.chain,
            system.matrix,
            b,
            z0,
            rtol,
            W=self.root,
            state=self.state,
            seed=self.seed,
            counter=self.solves << 32,  # each step of a solve takes a number of its own
            sketch_size=self.sketch_size,
            max_inner=self.max_inner,
            direct=self._direct,
        )
        self.iterative_flops += flops - (self.direct.flops - before)
        counters.fallbacks += fallbacks
        return found

    def _direct(self, K: KKTMatrix, b: np.ndarray, rtol: float) -> InnerResult:
        _, _, zero, finite = self.direct.factor(K)
        if zero or not finite:
            return InnerResult(np.full(len(b), np.nan), np.inf, 0, 0.0, False, self.direct.name)
        return self.direct.solve(b, rtol)

    def next_shift(self, t: float) -> float:
        """From one shift that was too small to the next."""
        if t == 0.0:
            return self.xi_B if self.last_shift == 0.0 else max(1e-20, self.last_shift / 3.0)
        return t * (_FIRST_GROWTH if self.last_shift == 0.0 else _SHIFT_GROWTH)

    def again(self, system: NewtonSystem, c: np.ndarray, counters: Any) -> Direction | None:
        """The direction for other constraint values, with the same matrix."""
        b = system.rhs(c)
        assert self.chain is not None
        if self.chain[0].solver == "ldlt":
            z = self.direct.solve(b, _ACCURATE).z
        else:
            z = self._solve(system, b, None, _CORRECTION_RTOL, counters).z
        return system.expand(z) if np.isfinite(z).all() else None

    def improve(
        self, system: NewtonSystem, newton: NewtonStep, merit: ExactMerit, counters: Any
    ) -> tuple[NewtonStep, bool]:
        """Weights, or a more exact direction, for which the merit function descends.

        Where the test fails, the residual's share of the slope tells whether the direction is too inexact
        or the weights are wrong; only the former costs a solve.
        """
        for _ in range(merit.max_rounds):
            parts, size, share = merit.directional(system, newton.step, newton.rest(system))
            slope = float(parts @ (1.0, merit.eta1, merit.eta2))
            short = slope + 0.5 * merit.eta2 * size
            if short > 0 and share > 0.25 * short and newton.rtol > _ACCURATE:
                rtol = max(_ACCURATE, 0.1 * newton.rtol)
                inner = self._solve(system, system.rhs(), newton.z, rtol, counters)
                if np.isfinite(inner.z).all() and inner.residual < newton.residual:
                    newton = NewtonStep(system.expand(inner.z), inner.z, newton.t, inner.residual, rtol)
                    self._note(inner, 0.0, counters)
                    continue
            return newton, merit.fit(parts, size)
        return newton, False


def _tangential_curvature(system: NewtonSystem, dx: np.ndarray) -> tuple[bool, float]:
    """Whether dx has hardly a part along the equalities, and that part's Rayleigh quotient."""
    eq, rows = system.barrier.eq, system.barrier.rows
    K = system.matrix
    u = dx
    if len(eq):
        if is_operator(K.J):
            A = sp.linalg.LinearOperator(
                (K.n, len(eq)),
                matvec=lambda y: transposed_product(K.J, _scatter(np.ravel(y), eq, K.m)),
                rmatvec=lambda x: (K.J @ np.ravel(x))[eq],
                dtype=float,
            )
            u = dx - A.matvec(lsmr(A, dx, atol=1e-10, btol=1e-10)[0])
        elif sp.issparse(K.J) and len(eq) > _DENSE_ROWS:
            A = sp.csr_array(K.J[eq]).T
            u = dx - A @ lsmr(A, dx, atol=1e-10, btol=1e-10)[0]
        else:
            A = K.J[eq].toarray() if sp.issparse(K.J) else K.J[eq]
            u = dx - A.T @ np.linalg.lstsq(A.T, dx, rcond=None)[0]
    length = float(u @ u)
    if length <= 1e-16 * float(dx @ dx):
        return True, np.inf
    curvature = float(u @ (K.H @ u + K.d * u))
    if len(rows):
        image = np.asarray(K.J @ u).ravel()[rows]
        curvature += float(image**2 @ (1.0 / K.e[rows]))
    return False, curvature / length


def _scatter(y: np.ndarray, rows: np.ndarray, m: int) -> np.ndarray:
    full = np.zeros(m)
    full[rows] = y
    return full


__all__ = ["CurvatureError", "LinearSolver", "NewtonStep", "NonFiniteError"]
