"""Comparison of every derivative that a user wrote with one that is computed from function values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from ._constraints import Matrix, NonlinearBlock, Variables
from ._problem import Problem

_COORDINATES_UP_TO = 200  # variables; beyond, random directions
_DIRECTIONS = 10
_COMPLEX_STEP = 1e-20
_EPS = float(np.finfo(np.float64).eps)

VectorFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Finding:
    """One derivative that was compared.

    Attributes
    ----------
    name : str
        The user's parameter, for example ``"constraints[1].jac"``.
    method : {"complex step", "central differences"}
        What it was compared with (the weaker of the two if both were used).
    compared : int
        Numbers compared; those where the reference is not finite are left out.
    error : float
        Largest ``|given - reference| / max(1, |reference|)`` of them.
    """

    name: str
    method: str
    compared: int
    error: float


def check_derivatives(problem: Problem, x: np.ndarray, rng: Any = None) -> list[Finding]:
    """Compare the user's gradients, Jacobians, Hessians and products with differences near `x`.

    A complex step is the reference where the function computes with complex numbers, else central
    differences of two lengths, whose disagreement is their error bar. A number counts as wrong only if it
    is off both of them. Up to 200 variables every coordinate is compared, beyond that 10 random directions;
    a direction that fails is halved until the entry is found. `hess_sqrt` is an approximation by its nature
    and not compared.

    Parameters
    ----------
    problem : Problem
    x : ndarray, shape (n,)
        Free variables; points on or outside a bound are moved a little inside.
    rng : int, numpy.random.Generator or None
        For directions and for the multipliers of Hessians.

    Returns
    -------
    list of Finding
        One for each derivative compared; empty where all are by differences.

    Raises
    ------
    ValueError
        For the first derivative that is wrong, with the parameter, the entry (indices of the user's
        variables) and both values.
    """
    return _Checker(problem, x, np.random.default_rng(rng)).run()


def _interior(x: np.ndarray, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
    """A point near `x` with room on both sides, and a step for each coordinate that fits there twice."""
    width = np.minimum(1e-3 * np.maximum(1.0, np.abs(x)), 0.25 * (variables.upper - variables.lower))
    inside = np.clip(x, variables.lower + width, variables.upper - width)
    return inside, np.minimum(_EPS ** (1.0 / 3.0) * np.maximum(1.0, np.abs(inside)), 0.4 * width)


class _Checker:
    def __init__(self, problem: Problem, x: np.ndarray, rng: np.random.Generator) -> None:
        self._problem = problem
        self._variables = problem.variables
        self._x, self._h = _interior(np.asarray(x, dtype=np.float64), problem.variables)
        self._rng = rng
        self._findings: list[Finding] = []

    def run(self) -> list[Finding]:
        objective = self._problem.user_objective
        x, variables = self._x, self._variables
        gradient: VectorFunction | None = None
        if objective.full_width:
            self._compare(
                "jac",
                objective.fresh_gradient(x)[None, :],
                lambda z: np.array([objective.fresh_value(z)]),
                objective.complex_value,
            )
        if objective.analytic:
            gradient = objective.fresh_gradient
        blocks = [b for b in self._problem.user_blocks if isinstance(b, NonlinearBlock)]
        for block in blocks:
            if block.full_width:
                J = variables.columns(block.fresh_jacobian(x))
                self._compare(block.names["jac"], J, block.fresh_value, block.complex_value, row_axis=True)
        if objective.hess_given is not None:
            name, H = objective.hess_given, self._problem.objective_curvature(x)
            complex_gradient = objective.complex_gradient if objective.full_width else None
            if gradient is not None:
                self._compare_hessian(name, H, gradient, complex_gradient)
            else:
                self._compare_quadratic(name, H, objective.fresh_value)
        for block in blocks:
            if block.hess_source == "callable":
                v = self._rng.uniform(0.5, 1.5, block.m)
                self._compare_block_hessian(block, v)
        if self._problem.has_lagrangian_hess:
            self._compare_lagrangian(gradient)
        return self._findings

    # --- references ------------------------------------------------------------------------------------

    def _complex(self, function: VectorFunction | None, p: np.ndarray) -> np.ndarray | None:
        """The derivative along `p` by a complex step, or None where the function does not take it."""
        if function is None:
            return None
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                return np.imag(function(self._x + (1j * _COMPLEX_STEP) * p)) / _COMPLEX_STEP
        except Exception:  # whatever a real function does with complex numbers: central differences serve
            return None

    def _central(self, function: VectorFunction, p: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The derivative along `p` by central differences, and its error bar."""
        x = self._x
        with np.errstate(all="ignore"):
            plus, minus = function(x + t * p), function(x - t * p)
            near = (plus - minus) / (2.0 * t)
            far = (function(x + 2.0 * t * p) - function(x - 2.0 * t * p)) / (4.0 * t)
            size = float(np.max(np.maximum(np.abs(plus), np.abs(minus)), initial=0.0))
            return near, 10.0 * np.abs(near - far) + 100.0 * _EPS * size / t

    def _wrong(
        self,
        given: np.ndarray,
        function: VectorFunction,
        complex_function: VectorFunction | None,
        p: np.ndarray,
        t: float,
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Which numbers of `given` are wrong, the reference, and whether that was a complex step."""
        exact = self._complex(complex_function, p)
        if exact is not None:
            with np.errstate(all="ignore"):
                good = np.abs(given - exact) <= 1e-8 * np.maximum(1.0, np.abs(exact))
            if bool(good.all()):
                return np.zeros(given.shape, dtype=bool), exact, True
        near, bar = self._central(function, p, t)
        with np.errstate(all="ignore"):
            good = np.abs(given - near) <= bar + 1e-6 * np.maximum(1.0, np.abs(near))
        # Without a finite reference nothing can be said.
        return ~good & np.isfinite(near) & np.isfinite(bar), near, False

    # --- comparisons -----------------------------------------------------------------------------------

    def _compare(
        self,
        name: str,
        matrix: Any,
        function: VectorFunction,
        complex_function: VectorFunction | None,
        *,
        row_axis: bool = False,
        hessian: bool = False,
    ) -> None:
        """`matrix` (array, sparse, operator, or a function of p) against derivatives of `function`."""
        variables, n = self._variables, self._problem.n
        if sp.issparse(matrix):
            matrix = sp.csc_array(matrix)
        explicit = sp.issparse(matrix) or isinstance(matrix, np.ndarray)

        def apply(p: np.ndarray) -> np.ndarray:
            support = np.flatnonzero(p)
            if explicit and support.size == 1:  # the column itself: a NaN elsewhere must not spread
                column = matrix[:, [int(support[0])]]
                return np.ravel(column.toarray() if sp.issparse(column) else column) * p[support[0]]
            if isinstance(matrix, LinearOperator) and matrix.shape[1] != n:
                return np.ravel(matrix @ variables.expand_direction(p))
            return np.ravel(matrix(p) if callable(matrix) else matrix @ p)

        by_coordinates = n <= _COORDINATES_UP_TO
        if by_coordinates:
            directions = [(np.eye(1, n, j)[0], float(self._h[j])) for j in range(n)]
        else:
            shortest = float(self._h.min())
            directions = [(self._rng.choice([-1.0, 1.0], n), shortest) for _ in range(_DIRECTIONS)]
        compared, error, all_complex = 0, 0.0, True
        for p, t in directions:
            given = apply(p)
            wrong, reference, by_complex = self._wrong(given, function, complex_function, p, t)
            all_complex &= by_complex
            if bool(wrong.any()):
                p, t = self._locate(apply, function, complex_function, p)
                given = apply(p)
                wrong, reference, by_complex = self._wrong(given, function, complex_function, p, t)
                self._raise(name, p, given, reference, wrong, row_axis, hessian, by_complex)
            usable = np.isfinite(reference)
            compared += int(np.count_nonzero(usable))
            with np.errstate(all="ignore"):
                relative = np.abs(given - reference) / np.maximum(1.0, np.abs(reference))
            error = max(error, float(np.max(relative[usable], initial=0.0)))
        method = "complex step" if all_complex else "central differences"
        self._findings.append(Finding(name, method, compared, error))

    def _locate(
        self,
        apply: VectorFunction,
        function: VectorFunction,
        complex_function: VectorFunction | None,
        p: np.ndarray,
    ) -> tuple[np.ndarray, float]:
        """The direction halved until one coordinate is left, or no half fails by itself."""
        support = np.flatnonzero(p)
        while support.size > 1:
            for half in (support[: support.size // 2], support[support.size // 2 :]):
                q = np.zeros_like(p)
                q[half] = p[half]
                if bool(
                    self._wrong(apply(q), function, complex_function, q, float(self._h[half].min()))[0].any()
                ):
                    support, p = half, q
                    break
            else:
                break
        if support.size == 1:  # one entry reads better than its negative
            p = np.abs(p)
        return p, float(self._h[support].min())

    def _raise(
        self,
        name: str,
        p: np.ndarray,
        given: np.ndarray,
        reference: np.ndarray,
        wrong: np.ndarray,
        row_axis: bool,
        hessian: bool,
        by_complex: bool,
    ) -> None:
        if not bool(wrong.any()):  # found along the whole direction alone
            wrong = np.ones_like(wrong)
        with np.errstate(all="ignore"):
            off = np.where(wrong, np.abs(given - reference), -1.0)
        row = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        free = self._variables.free
        support = free[np.flatnonzero(p)]
        column = str(int(support[0])) if support.size == 1 else f"a combination of {support.size} columns"
        if hessian:
            place = f"[{int(free[row])}, {column}]"
        else:
            place = f"[{row}, {column}]" if row_axis else f"[{column}]"
        method = "a complex step" if by_complex else "central differences"
        raise ValueError(
            f"`{name}` is wrong at {place}: it gives {float(given[row]):.10g}, "
            f"{method} of the function it derives give {float(reference[row]):.10g}"
        )

    def _check_symmetry(self, name: str, H: Any) -> None:
        if isinstance(H, LinearOperator) or callable(H):
            return
        difference = sp.coo_array(H - H.T) if sp.issparse(H) else H - H.T
        if sp.issparse(difference):
            rows, columns, values = difference.row, difference.col, difference.data
        else:
            rows, columns = np.nonzero(difference)
            values = difference[rows, columns]
        scale = float(np.max(np.abs(H.data if sp.issparse(H) else H), initial=0.0))
        off = np.abs(values)
        if off.size and float(off.max()) > 1e-8 * max(1.0, scale):
            k = int(np.argmax(off))
            i, j = int(rows[k]), int(columns[k])
            free = self._variables.free
            full = H.toarray() if sp.issparse(H) else H
            raise ValueError(
                f"`{name}` is not symmetric: [{free[i]}, {free[j]}] is {float(full[i, j]):.10g}, "
                f"[{free[j]}, {free[i]}] is {float(full[j, i]):.10g}"
            )

    def _compare_hessian(
        self, name: str, H: Any, gradient: VectorFunction, complex_gradient: VectorFunction | None
    ) -> None:
        self._check_symmetry(name, H)
        self._compare(name, H, gradient, complex_gradient, hessian=True)

    def _compare_quadratic(self, name: str, H: Any, function: Callable[[np.ndarray], Any]) -> None:
        """p'Hp against second differences of values along random directions: no gradient is exact here."""
        self._check_symmetry(name, H)
        x, t = self._x, 1e2 * float(self._h.min(initial=1.0))
        room = float(np.min(np.minimum(x - self._variables.lower, self._variables.upper - x), initial=np.inf))
        t = min(t, 0.4 * room)
        error = 0.0
        for _ in range(_DIRECTIONS):
            p = self._rng.choice([-1.0, 1.0], x.size)
            product = H(p) if callable(H) else H @ p
            given = float(p @ np.ravel(product))
            middle = float(function(x))
            outer = [float(function(x + s * t * p)) for s in (1.0, -1.0, 2.0, -2.0)]
            near = (outer[0] - 2.0 * middle + outer[1]) / t**2
            far = (outer[2] - 2.0 * middle + outer[3]) / (4.0 * t**2)
            size = max(abs(middle), *(abs(value) for value in outer))
            bar = 10.0 * abs(near - far) + 100.0 * _EPS * size / t**2 + 1e-6 * max(1.0, abs(near))
            if not np.isfinite(near) or not np.isfinite(bar):
                continue
            if not abs(given - near) <= bar:
                raise ValueError(
                    f"`{name}` is wrong: p'Hp is {given:.10g} along a random p of +1 and -1, "
                    f"second differences of the function give {near:.10g}"
                )
            error = max(error, abs(given - near) / max(1.0, abs(near)))
        self._findings.append(Finding(name, "central differences", _DIRECTIONS, error))

    def _transposed(self, J: Matrix, v: np.ndarray) -> np.ndarray:
        product = np.ravel(J.rmatvec(v)) if isinstance(J, LinearOperator) else J.T @ v
        return product if product.size == self._problem.n else product[self._variables.free]

    def _compare_block_hessian(self, block: NonlinearBlock, v: np.ndarray) -> None:
        name, H = block.names["hess"], block.hessian(self._x, v)
        if block.analytic:

            def gradient(z: np.ndarray) -> np.ndarray:
                return self._transposed(block.fresh_jacobian(z), v)

            def complex_gradient(z: np.ndarray) -> np.ndarray:
                return np.asarray(block.complex_jacobian(z).T @ v)

            self._compare_hessian(name, H, gradient, complex_gradient if block.full_width else None)
        else:
            self._compare_quadratic(name, H, lambda z: float(v @ block.fresh_value(z)))

    def _compare_lagrangian(self, gradient: VectorFunction | None) -> None:
        problem = self._problem
        blocks = problem.user_blocks
        v = self._rng.uniform(0.5, 1.5, sum(block.m for block in blocks))
        parts = np.split(v, np.cumsum([block.m for block in blocks])[:-1]) if blocks else []
        H = problem.lagrangian_curvature(self._x, v)
        name = "lagrangian_hess"
        if gradient is not None and all(block.analytic for block in blocks):

            def total(z: np.ndarray) -> np.ndarray:
                g = gradient(z)
                for block, part in zip(blocks, parts, strict=True):
                    J = (
                        block.fresh_jacobian(z)
                        if isinstance(block, NonlinearBlock)
                        else block.free_jacobian(z)
                    )
                    g = g + self._transposed(J, part)
                return g

            self._compare_hessian(name, H, total, None)
        else:

            def value(z: np.ndarray) -> float:
                f = problem.user_objective.fresh_value(z)
                for block, part in zip(blocks, parts, strict=True):
                    c = block.fresh_value(z) if isinstance(block, NonlinearBlock) else block.value(z)
                    f += float(part @ c)
                return f

            self._compare_quadratic(name, H, value)


__all__ = ["Finding", "check_derivatives"]
