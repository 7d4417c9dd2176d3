"""Derivatives of a solution with respect to parameters: one more KKT solve, in reverse mode.

With the active rows A and the variables F that are not at a bound, the solution satisfies
grad_F L(x, lam; p) = 0 and c_A(x; p) = b_A, hence K (dx_F, dlam_A) = -(d grad_F L, d c_A) for
K = [[H_FF, J_AF'], [J_AF, 0]]. A cotangent of (x, lam) needs K, which is symmetric, once.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from .. import _core, _validate
from .._errors import RecoveryWarning
from .._result import _caller_stacklevel
from . import _differences
from ._kkt import DirectSolver, KKTMatrix, transposed_product
from ._krylov_kkt import solve_minres
from ._problem import Objective, Problem

_FORMED_UP_TO = 2000  # variables up to which operators and differences are made matrices
_ROUNDS = 10  # changes of the active set
_WEAK = 1e-6  # multipliers and distances below count as zero, relative to the gradient and to the bound
_CONDITION_LIMIT = 1e12  # of the equilibrated matrix
_RTOL = 1e-10  # asked of the iterative solver
_LOST = 1e-6  # relative residual beyond which a direct solution counts as that of a singular matrix
_EPS = float(np.finfo(np.float64).eps)
_PROBE = 0x7653  # Philox purpose of the vector that estimates the condition


class Adjoint(NamedTuple):
    """The cotangents of everything that a parameter can enter through.

    With the Lagrangian L = fun + lam'c, a parameter p has the cotangent
    ``u @ d(grad_x L)/dp + w @ dc/dp + bounds @ d(bound)/dp``, all at fixed x and lam, plus ``grad_fun`` times
    d(fun)/dp.

    Attributes
    ----------
    u : ndarray, shape (n,)
        Of the gradient of the Lagrangian; zero at fixed variables and at those that a bound holds.
    w : ndarray, shape (m,)
        Of the rows of all constraints, stacked in the order given; zero at rows that are not active. The
        side that a row presses against has the cotangent ``-w``.
    bounds : ndarray, shape (n,)
        Of the bound that holds a variable; zero elsewhere, and NaN at fixed variables, whose derivatives the
        solver never sees.
    """

    u: np.ndarray
    w: np.ndarray
    bounds: np.ndarray


class _Active(NamedTuple):
    """Which sides hold: bounds of variables, and rows (equations always do)."""

    at_lo: np.ndarray
    at_hi: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def same(self, other: _Active) -> bool:
        return all(np.array_equal(mine, others) for mine, others in zip(self, other, strict=True))


class Sensitivity:
    """The KKT matrix of one solution, factored at the first use.

    Parameters
    ----------
    problem : Problem
        Scaled as it was solved; only referred to.
    x : ndarray, shape (N,)
        All variables.
    lam : ndarray, shape (all rows,)
        Multipliers of the unscaled problem.
    z_lo, z_up : ndarray, shape (N,)
        Those of the bounds.
    """

    def __init__(
        self, problem: Problem, x: np.ndarray, lam: np.ndarray, z_lo: np.ndarray, z_up: np.ndarray
    ) -> None:
        free = problem.variables.free
        self.problem = problem
        self.x, self.lam_all = x[free].copy(), lam.copy()
        self.lam = problem.join([lam])
        self.zl, self.zu = z_lo[free] * problem.sf, z_up[free] * problem.sf
        self._ready = False

    # ---- the matrix -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Derivatives at the solution, the active set, the factorisation; refuses what has no derivative."""
        if self._ready:
            return
        p = self.problem
        self.g, J = p.derivatives(self.x)
        self.c = p.constraints(self.x)
        self.J = self._explicit(J)
        self.H = self._hessian()
        active, seen = self._first_guess(), 0
        while True:
            self._factor(active)
            predicted = self._predict(active)
            better = self._corrected(active, *predicted)
            if better.same(active):
                break
            seen += 1
            if seen > _ROUNDS:
                raise np.linalg.LinAlgError(
                    "`vjp`: the active constraints cannot be told from the others; solve with a smaller `tol`"
                )
            active = better
        self._check_condition()
        self._check_strictness(active, *predicted)
        self._ready = True

    def _explicit(self, A: Any) -> Any:
        if isinstance(A, LinearOperator) and A.shape[1] <= _FORMED_UP_TO:
            return np.asarray(A @ np.eye(A.shape[1])).reshape(A.shape)
        return A

    def _hessian(self) -> Any:
        """The Hessian of the Lagrangian itself: quasi-Newton and Gauss-Newton matrices are not."""
        p = self.problem
        if p.hess_kind in ("exact", "products", "differences"):
            return self._explicit(p.hessian(self.x, self.lam))
        if p.n > _FORMED_UP_TO:
            raise ValueError(
                f"`vjp` needs second derivatives, and {p.n} variables are too many for differences: solve "
                "with `hess`, `hessp` or `lagrangian_hess`"
            )
        exact = p.user_objective.analytic and all(block.analytic for block in p.user_blocks)
        gradient = self._lagrangian_gradient if exact else self._differenced_gradient
        H = _differences.jacobian(
            gradient,
            self.x,
            lambda: gradient(self.x),
            "3-point",
            rel_step=None if exact else _EPS**0.25,
            lower=p.xl,
            upper=p.xu,
        )
        return 0.5 * (H + H.T)

    def _lagrangian_gradient(self, x: np.ndarray) -> np.ndarray:
        p = self.problem
        return p.gradient(x) + transposed_product(p.jacobian(x), self.lam)

    def _differenced_gradient(self, x: np.ndarray) -> np.ndarray:
        """From values, with steps that leave something for a second difference."""
        p = self.problem

        def value(z: np.ndarray) -> np.ndarray:
            f, c = p.values(z)
            return np.array([f + self.lam @ c])

        rows = _differences.jacobian(
            value, x, lambda: value(x), "3-point", rel_step=_EPS**0.25, lower=p.xl, upper=p.xu
        )
        return np.asarray(rows[0])

    # ---- the active set ---------------------------------------------------------------------------------

    def _first_guess(self) -> _Active:
        """A side holds where its multiplier exceeds the distance to it."""
        p = self.problem
        sides = ~p.equality
        return _Active(
            self.zl > np.maximum(self.x - p.xl, 0.0),
            self.zu > np.maximum(p.xu - self.x, 0.0),
            sides & (-self.lam > np.maximum(self.c - p.lower, 0.0)),
            sides & (self.lam > np.maximum(p.upper - self.c, 0.0)),
        )

    def _factor(self, active: _Active) -> None:
        p = self.problem
        self.held = np.flatnonzero(active.at_lo | active.at_hi)
        self.F = np.flatnonzero(~(active.at_lo | active.at_hi))
        self.A = np.flatnonzero(p.equality | active.low | active.high)
        H, J = self.H, self.J
        if isinstance(H, LinearOperator) or isinstance(J, LinearOperator):
            self.K = KKTMatrix(
                _restricted(H, self.F, self.F), _restricted(J, self.A, self.F), np.zeros(len(self.F)),
                np.zeros(len(self.A)),
            )  # fmt: skip
            self.solver = None
            return
        self.K = KKTMatrix(
            _block(H, self.F, self.F), _block(J, self.A, self.F), np.zeros(len(self.F)), np.zeros(len(self.A))
        )
        self.solver = DirectSolver()
        if self.K.n + self.K.m == 0:
            return
        positive, negative, zero, finite = self.solver.factor(self.K)
        if not finite:
            raise np.linalg.LinAlgError("`vjp`: second derivatives at the solution are not finite")
        if zero or (positive, negative) != (self.K.n, self.K.m):
            raise self._singular()

    def _singular(self) -> np.linalg.LinAlgError:
        """Why there is no derivative."""
        J = self.K.J
        if self.K.m > self.K.n:
            why = f"{self.K.m} constraints are active on {self.K.n} variables inside their bounds"
        elif isinstance(J, LinearOperator) or self.K.m * self.K.n > _FORMED_UP_TO**2:
            why = "the gradients of active constraints depend on each other, or the minimiser is not isolated"
        else:
            dense = J.toarray() if sp.issparse(J) else J
            s = np.linalg.svd(dense, compute_uv=False) if self.K.m else np.ones(1)
            if s[-1] <= 1e-10 * s[0]:
                rows = _dependent_rows(dense)
                names = ", ".join(str(row) for row in self._rows_as_given(self.A[rows]))
                why = f"the gradients of active constraints depend on each other (rows {names}, all stacked)"
            else:
                why = "the second-order condition fails: the minimiser is not isolated, or no minimiser"
        return np.linalg.LinAlgError(f"`vjp`: the solution has no derivative, for {why}")

    def _rows_as_given(self, rows: np.ndarray) -> np.ndarray:
        """Places of kept rows among all rows."""
        marks = np.zeros(self.problem.m)
        marks[rows] = 1.0
        none = np.zeros(self.problem.n)
        return np.flatnonzero(self.problem.split(marks, none, none)["lam_full"])

    def solve(self, top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K z = (top, bottom) in its two parts."""
        b = np.concatenate([top, bottom])
        if not b.any():
            return np.zeros(self.K.n), np.zeros(self.K.m)
        if self.solver is None:
            found = solve_minres(self.K, b, None, _RTOL)
            if not found.converged:
                raise np.linalg.LinAlgError(
                    f"`vjp`: MINRES stopped at relative residual {found.residual:.1e}, {_RTOL:.0e} needed; "
                    "the KKT matrix is singular or badly conditioned"
                )
        else:
            found = self.solver.solve(b)
            if not found.residual <= _LOST:
                raise self._singular()
        return found.z[: self.K.n], found.z[self.K.n :]

    def _predict(self, active: _Active) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where this active set puts the solution: step (n,), multipliers of rows (m,) and of bounds (n,)."""
        p = self.problem
        d, lam = np.zeros(p.n), np.zeros(p.m)
        d[active.at_lo] = (p.xl - self.x)[active.at_lo]
        d[active.at_hi] = (p.xu - self.x)[active.at_hi]
        target = np.where(active.low | p.equality, p.lower, p.upper)
        lam[self.A] = self.lam[self.A]
        r = self.g + transposed_product(self.J, lam) + _product(self.H, d)
        jump = _product(self.J, d)
        d[self.F], change = self.solve(-r[self.F], (target - self.c - jump)[self.A])
        lam[self.A] += change
        z = self.g + _product(self.H, d) + transposed_product(self.J, lam)
        z[self.F] = 0.0
        return d, lam, z

    def _corrected(self, active: _Active, d: np.ndarray, lam: np.ndarray, z: np.ndarray) -> _Active:
        """Sides with multipliers of the wrong sign let go; those that the prediction crosses hold."""
        p = self.problem
        sides = ~p.equality
        x, c = self.x + d, self.c + _product(self.J, d)
        slack = _WEAK * np.maximum(1.0, np.abs(x))
        room = _WEAK * np.maximum(1.0, np.abs(c))
        tiny = _WEAK * max(1.0, float(np.abs(self.g).max(initial=0.0)))
        held = active.at_lo | active.at_hi | (p.xl == p.xu)
        hard = active.low | active.high
        return _Active(
            np.where(active.at_lo, z > -tiny, ~held & (x < p.xl - slack)),
            np.where(active.at_hi, z < tiny, ~held & (x > p.xu + slack)),
            np.where(active.low, lam < tiny, ~hard & sides & (c < p.lower - room)),
            np.where(active.high, lam > -tiny, ~hard & sides & (c > p.upper + room)),
        )

    def _check_strictness(self, active: _Active, d: np.ndarray, lam: np.ndarray, z: np.ndarray) -> None:
        """Warn where a side holds without a multiplier, or is touched without holding."""
        p = self.problem
        tiny = _WEAK * max(1.0, float(np.abs(self.g).max(initial=0.0)))
        x, c = self.x + d, self.c + _product(self.J, d)
        at_bound = active.at_lo | active.at_hi
        weak_x = np.where(
            at_bound, np.abs(z) <= tiny, np.minimum(x - p.xl, p.xu - x) <= _WEAK * (1 + np.abs(x))
        )
        side = np.minimum(c - p.lower, p.upper - c) <= _WEAK * (1 + np.abs(c))
        weak_c = ~p.equality & np.where(active.low | active.high, np.abs(lam) <= tiny, side)
        found = []
        if weak_x.any():
            found.append(f"bounds of variables {_listed(p.variables.free[np.flatnonzero(weak_x)])}")
        if weak_c.any():
            found.append(f"constraint rows {_listed(self._rows_as_given(np.flatnonzero(weak_c)))}")
        if found:
            warnings.warn(
                f"vjp: {' and '.join(found)} are met with multipliers of zero: the solution has only "
                "one-sided derivatives there; this is the one on which the sides found active stay so",
                RecoveryWarning,
                stacklevel=_caller_stacklevel(),
            )

    def _check_condition(self) -> None:
        """Two steps of inverse iteration on the equilibrated matrix; singular ones are refused."""
        if self.solver is None or self.K.n + self.K.m == 0:
            return
        K = abs(self.K.to_csr()) if self.K.is_sparse else np.abs(self.K.to_dense())
        s = np.ones(K.shape[0])
        for _ in range(3):
            rows = np.asarray(
                (K * s[None, :]).max(axis=1).todense() if sp.issparse(K) else (K * s).max(axis=1)
            )
            s /= np.sqrt(np.maximum(s * rows.ravel(), 1e-300))
        v = _core.philox_normal(0, _PROBE, 0, 0, len(s))
        for _ in range(2):
            v /= np.linalg.norm(v)
            found = self.solver.solve(v / s)
            v = found.z / s
            size = float(np.linalg.norm(v))
            if not (found.residual <= _LOST and size <= _CONDITION_LIMIT):
                raise self._singular()

    # ---- products ---------------------------------------------------------------------------------------

    def adjoint(self, grad_x: np.ndarray | None, grad_lam: np.ndarray | None, grad_fun: float) -> Adjoint:
        """The vectors of `Adjoint` for cotangents of x (N,), of lam (all rows,) and of fun."""
        self.prepare()
        p = self.problem
        v = p.variables
        gx = np.zeros(p.n) if grad_x is None else grad_x[v.free].copy()
        if grad_fun:
            gx += (grad_fun / p.sf) * self.g
        gl = np.zeros(p.m)
        if grad_lam is not None:
            # lam is sc / sf times its scaled self, and `join` divides where a cotangent multiplies.
            gl = p.join([grad_lam]) * (p.sc / p.sf) ** 2
        u, w = np.zeros(p.n), np.zeros(p.m)
        u[self.F], w[self.A] = self.solve(-gx[self.F], -gl[self.A])
        none = np.zeros(p.n)
        at_bounds = np.full(v.n_all, np.nan)
        inner = none.copy()
        if self.held.size:
            inner[self.held] = (gx + _product(self.H, u) + transposed_product(self.J, w))[self.held]
        at_bounds[v.free] = inner
        return Adjoint(v.expand_direction(p.sf * u), p.split(w, none, none)["lam_full"] * p.sf, at_bounds)

    def through_arguments(self, u: np.ndarray, grad_fun: float, position: int) -> Any:
        """``u' d(grad fun)/dp + grad_fun d(fun)/dp`` for ``p = args[position]``, by central differences."""
        objective = self.problem.user_objective
        args = self.problem.args
        _validate.integer("argnum", position, minimum=0, maximum=len(args) - 1)
        p0 = args[position]
        if not isinstance(p0, float | np.floating) and not (
            isinstance(p0, np.ndarray) and p0.dtype.kind == "f"
        ):
            raise TypeError(f"`args[{position}]` must be a float or an array of floats; got {p0!r:.60}")
        p0 = np.array(p0, dtype=np.float64)
        u = u[self.problem.variables.free]

        def at(p: np.ndarray) -> float:
            value = float(p) if p.ndim == 0 else p.copy()
            other = objective.with_args((*args[:position], value, *args[position + 1 :]))
            total = grad_fun * other.value(self.x) if grad_fun else 0.0
            return total + self._slope(other, u)

        step = _EPS ** (1 / 3 if objective.analytic else 1 / 4)
        result = np.zeros(p0.shape)
        for place in np.ndindex(p0.shape):
            ends = []
            h = step * max(1.0, abs(float(p0[place])))
            for sign in (1.0, -1.0):
                p = p0.copy()
                p[place] += sign * h
                ends.append((p[place], at(p)))
            result[place] = (ends[0][1] - ends[1][1]) / (ends[0][0] - ends[1][0])
        return result[()]

    def _slope(self, objective: Objective, u: np.ndarray) -> float:
        """u' grad fun."""
        largest = float((np.abs(u) / np.maximum(1.0, np.abs(self.x))).max(initial=0.0))
        if largest == 0.0:
            return 0.0
        if objective.analytic:
            return float(u @ objective.free_gradient(self.x))
        p = self.problem
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.minimum(self.x - p.xl, p.xu - self.x) / np.abs(u)
        t = min(_EPS**0.25 / largest, float(room[u != 0].min(initial=np.inf)))
        return (objective.value(self.x + t * u) - objective.value(self.x - t * u)) / (2 * t)


def _block(A: Any, rows: np.ndarray, cols: np.ndarray) -> Any:
    if sp.issparse(A):
        return sp.csr_array(A[rows][:, cols])
    return np.ascontiguousarray(A[np.ix_(rows, cols)])


def _restricted(A: Any, rows: np.ndarray, cols: np.ndarray) -> LinearOperator:
    """Rows and columns of a matrix or an operator, as an operator."""
    shape = A.shape

    def widened(x: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
        full = np.zeros(size)
        full[places] = np.ravel(x)
        return full

    return LinearOperator(
        (len(rows), len(cols)),
        matvec=lambda x: np.ravel(A @ widened(x, cols, shape[1]))[rows],
        rmatvec=lambda y: np.ravel(transposed_product(A, widened(y, rows, shape[0])))[cols],
        dtype=float,
    )


def _product(A: Any, x: np.ndarray) -> np.ndarray:
    return np.ravel(np.asarray(A @ x))


def _dependent_rows(J: np.ndarray) -> np.ndarray:
    """Rows with a share in a combination that vanishes."""
    combination = np.linalg.svd(J)[0][:, -1]
    return np.flatnonzero(np.abs(combination) > 1e-6 * np.abs(combination).max())


def _listed(places: np.ndarray) -> str:
    shown = ", ".join(str(place) for place in places[:8])
    return shown + (f" and {len(places) - 8} more" if len(places) > 8 else "")


def contract(name: str, cotangent: np.ndarray, derivative: Any, *where: Any) -> Any:
    """``cotangent' derivative`` for an array of shape (n, ...), a sparse matrix, or a function of them."""
    value = derivative(*where) if callable(derivative) else derivative
    if sp.issparse(value):
        if value.shape[0] != len(cotangent):
            raise ValueError(
                f"`{name}` has shape {value.shape}; its first dimension must be {len(cotangent)}"
            )
        return np.asarray(value.T @ cotangent)
    value = _validate.as_float_array(name, value)
    if value.ndim == 0 or value.shape[0] != len(cotangent):
        raise ValueError(f"`{name}` has shape {value.shape}; its first dimension must be {len(cotangent)}")
    return np.tensordot(cotangent, value, axes=(0, 0))


__all__ = ["Adjoint", "Sensitivity", "contract"]
