"""The one form of a minimisation problem that the solver works on, from everything a user may pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import HessianUpdateStrategy
from scipy.sparse.linalg import LinearOperator

from .. import _validate
from . import _differences
from ._constraints import (
    Block,
    Matrix,
    Memo,
    NonlinearBlock,
    Variables,
    canonical_csr,
    complex_vector,
    jacobian_option,
    relative_step,
    returned_matrix,
    returned_number,
    returned_vector,
    standard_bounds,
    standard_constraints,
    under_callers_errors,
)
from ._quasi_newton import CompactLBFGS, DampedBFGS, LowRank, SecantRemainder, StrategyHessian

_CURVATURE_UP_TO = 200  # Jacobians per Hessian for constraints without a Hessian, where that of f is known
_REMAINDER_UP_TO = 10  # variables up to which a secant matrix of the constraints' share alone is as robust
_PRODUCTS_UP_TO = 200  # variables up to which `hessp` is multiplied by the identity
_COLUMNS_UP_TO = 2000  # groups up to which differences that the user asked for are taken column by column
_BFGS_UP_TO = 2000
_DENSE_JACOBIAN_UP_TO = 4_000_000  # entries up to which a dense BFGS matrix makes a sparse Jacobian dense
_CLIQUES_UP_TO = 20_000_000  # entries that the pattern of J'J may have

_HESSIAN_NAMES = (*_differences.SCHEMES, "bfgs", "lbfgs")


class PatternUnion:
    """Sums of CSR matrices on one pattern: the union of all that have been seen.

    Parameters
    ----------
    shape : tuple of int
    symmetric : bool, default False
        Keep the pattern symmetric, and return ``(A + A') / 2``.

    Attributes
    ----------
    version : int
        Raised when the pattern grows; 0 before the first matrix.
    """

    def __init__(self, shape: tuple[int, int], *, symmetric: bool = False) -> None:
        self.shape = shape
        self.version = 0
        self._symmetric = symmetric
        self._keys = np.empty(0, dtype=np.int64)
        self._known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._transposed: np.ndarray | None = None
        self._build()

    def _build(self) -> None:
        m, n = self.shape
        rows = self._keys // max(n, 1)
        index_type = np.int32 if self._keys.size < 2**31 else np.int64
        self._indices = (self._keys - rows * n).astype(index_type)
        self._indptr = np.searchsorted(rows, np.arange(m + 1)).astype(index_type)
        if self._symmetric:
            self._transposed = np.searchsorted(self._keys, self._indices.astype(np.int64) * n + rows)
        self._known.clear()

    def _keys_of(self, matrix: sp.csr_array) -> np.ndarray:
        n = self.shape[1]
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        return rows * n + matrix.indices

    def _positions(self, slot: int, matrix: sp.csr_array) -> np.ndarray | None:
        """Where the entries of `matrix` are in the union; None if one is not there."""
        known = self._known.get(slot)
        if (
            known is not None
            and known[0].size == matrix.indices.size
            and np.array_equal(known[0], matrix.indices)
            and np.array_equal(known[1], matrix.indptr)
        ):
            return known[2]
        keys = self._keys_of(matrix)
        positions = np.searchsorted(self._keys, keys)
        if self._keys.size == 0:
            return positions if keys.size == 0 else None
        if not np.array_equal(self._keys[np.minimum(positions, self._keys.size - 1)], keys):
            return None
        self._known[slot] = (matrix.indices, matrix.indptr, positions)
        return positions

    def combine(self, terms: list[tuple[float, sp.csr_array]]) -> sp.csr_array:
        """``sum coefficient * matrix``: matrices sorted and without duplicates; explicit zeros count."""
        positions = [self._positions(slot, matrix) for slot, (_, matrix) in enumerate(terms)]
        if self.version == 0 or any(p is None for p in positions):
            keys = [self._keys, *(self._keys_of(matrix) for _, matrix in terms)]
            if self._symmetric:
                n = self.shape[1]
                keys += [k % n * n + k // n for k in keys]
            self._keys = np.unique(np.concatenate(keys))
            self.version += 1
            self._build()
            positions = [self._positions(slot, matrix) for slot, (_, matrix) in enumerate(terms)]
        data = np.zeros(self._keys.size)
        for (coefficient, matrix), place in zip(terms, positions, strict=True):
            data[place] += coefficient * matrix.data
        if self._transposed is not None:
            data = 0.5 * (data + data[self._transposed])
        return sp.csr_array((data, self._indices.copy(), self._indptr.copy()), shape=self.shape)


class Objective:
    """The objective and its derivatives in the free variables.

    Attributes
    ----------
    n_values, n_gradients, n_hessians : int
        Calls of the user's functions so far.
    analytic : bool
        Whether the gradient has no error of differences.
    full_width : bool
        Whether the gradient is the user's, of all variables, or by differences, of the free ones.
    hess_given : {"hess", "hessp", None}
        The user's parameter that gives second derivatives.
    """

    def __init__(
        self,
        fun: Any,
        args: tuple[Any, ...],
        jac: Any,
        hess: Any,
        hessp: Any,
        variables: Variables,
        step: Any,
    ) -> None:
        self._variables, self._args, self._step = variables, args, step
        self.n_values = self.n_gradients = self.n_hessians = 0
        if not callable(fun):
            raise TypeError(f"`fun` must be callable; got {fun!r}")
        self._fun = under_callers_errors(fun)
        self._jac = under_callers_errors(jacobian_option("jac", jac, allow_true=True))
        self._hess, self._hessp = under_callers_errors(hess), under_callers_errors(hessp)
        self.analytic = not isinstance(self._jac, str) or self._jac == "cs"
        self.full_width = not isinstance(self._jac, str)
        self.hess_given = (
            "hess" if callable(hess) else "hessp" if hess is None and hessp is not None else None
        )
        self._values, self._gradients, self._hessians = Memo(), Memo(), Memo(2)

    def with_args(self, args: tuple[Any, ...]) -> Objective:
        """The same functions with other further arguments; nothing is remembered of the values so far."""
        other = copy.copy(self)
        other._args = args
        other._values, other._gradients, other._hessians = Memo(), Memo(), Memo(2)
        return other

    def _call_both(self, x: np.ndarray) -> tuple[Any, Any]:
        self.n_values += 1
        self.n_gradients += 1
        returned = self._fun(self._variables.expand(x), *self._args)
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise TypeError(f"`fun` must return (value, gradient) where `jac` is True; got {returned!r:.60}")
        return returned[0], returned[1]

    def fresh_value(self, x: np.ndarray) -> float:
        """f at `x`, not remembered."""
        if self._jac is True:
            return returned_number("fun", self._call_both(x)[0])
        self.n_values += 1
        return returned_number("fun", self._fun(self._variables.expand(x), *self._args))

    def complex_value(self, z: np.ndarray) -> np.ndarray:
        """f at a complex point, as a vector of one."""
        if self._jac is True:
            returned = self._call_both(z)[0]
        else:
            self.n_values += 1
            returned = self._fun(self._variables.expand(z), *self._args)
        return complex_vector("fun", returned, 1, "jac='cs'")

    def _both(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self._call_both(x)
        f = returned_number("fun", value)
        g = returned_vector("jac", gradient, self._variables.n_all)
        self._values.put(x, f)
        self._gradients.put(x, g)
        return f, g

    def value(self, x: np.ndarray) -> float:
        known = self._values.get(x)
        if known is not None:
            return float(known)
        if self._jac is True:
            return self._both(x)[0]
        return float(self._values.put(x, self.fresh_value(x)))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Of all variables where the user's `jac` gives it, else (differences) of the free ones."""
        known = self._gradients.get(x)
        if known is None:
            known = self._both(x)[1] if self._jac is True else self._gradients.put(x, self._fresh(x))
        result: np.ndarray = known
        return result

    def free_gradient(self, x: np.ndarray) -> np.ndarray:
        gradient = self.gradient(x)
        return gradient[self._variables.free] if self.full_width else gradient.copy()

    def _fresh(self, x: np.ndarray) -> np.ndarray:
        v = self._variables
        if self._jac is True:
            return returned_vector("jac", self._call_both(x)[1], v.n_all)
        self.n_gradients += 1
        if callable(self._jac):
            return returned_vector("jac", self._jac(v.expand(x), *self._args), v.n_all)
        row = _differences.jacobian(
            self.complex_value if self._jac == "cs" else lambda z: np.array([self.fresh_value(z)]),
            x,
            lambda: np.array([self.value(x)]),
            self._jac,
            rel_step=self._step,
            lower=v.lower,
            upper=v.upper,
        )
        return np.asarray(row[0])

    def fresh_gradient(self, x: np.ndarray) -> np.ndarray:
        """The gradient in the free variables, not remembered: for points that are visited once."""
        gradient = self._fresh(x)
        return gradient[self._variables.free] if self.full_width else gradient

    def complex_gradient(self, z: np.ndarray) -> np.ndarray:
        v = self._variables
        if self._jac is True:
            returned = self._call_both(z)[1]
        else:
            self.n_gradients += 1
            returned = self._jac(v.expand(z), *self._args)
        array = np.atleast_1d(np.asarray(returned)).astype(np.complex128)
        if array.size != v.n_all:
            raise ValueError(f"`jac` returned shape {array.shape}; ({v.n_all},) is needed")
        return array.ravel()[v.free]

    def hessian(self, x: np.ndarray) -> Matrix:
        known = self._hessians.get(x)
        if known is None:
            self.n_hessians += 1
            n = self._variables.n_all
            returned = self._hess(self._variables.expand(x), *self._args)
            known = self._hessians.put(x, self._variables.square(returned_matrix("hess", returned, (n, n))))
        return known

    def product(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        self.n_hessians += 1
        v = self._variables
        returned = self._hessp(v.expand(x), v.expand_direction(p), *self._args)
        return returned_vector("hessp", returned, v.n_all)[v.free]


class _StackedJacobian(LinearOperator):
    """Scaled kept rows and free columns of Jacobians of any kind, one above the other."""

    def __init__(
        self, matrices: list[Matrix], variables: Variables, keep: np.ndarray, scale: np.ndarray
    ) -> None:
        super().__init__(np.dtype(np.float64), (keep.size, variables.n))
        self._matrices, self._variables, self._keep, self._scale = matrices, variables, keep, scale
        self._m_all = sum(matrix.shape[0] for matrix in matrices)

    def _matvec(self, p: np.ndarray) -> np.ndarray:
        p = np.ravel(p)
        full = self._variables.expand_direction(p)
        parts = [np.ravel(A @ (full if isinstance(A, LinearOperator) else p)) for A in self._matrices]
        return np.concatenate(parts)[self._keep] * self._scale

    def _rmatvec(self, w: np.ndarray) -> np.ndarray:
        full = np.zeros(self._m_all)
        full[self._keep] = self._scale * np.ravel(w)
        total, start = np.zeros(self._variables.n), 0
        for A in self._matrices:
            part = full[start : start + A.shape[0]]
            start += A.shape[0]
            if isinstance(A, LinearOperator):
                total += np.ravel(A.rmatvec(part))[self._variables.free]
            else:
                total += A.T @ part
        return total


class _SumOperator(LinearOperator):
    """The symmetric operator ``sum coefficient * term``; a term is a matrix, an operator or a function."""

    def __init__(self, terms: list[tuple[float, Any]], n: int) -> None:
        super().__init__(np.dtype(np.float64), (n, n))
        self._terms = terms

    def _matvec(self, p: np.ndarray) -> np.ndarray:
        p = np.ravel(p)
        total = np.zeros(self.shape[0])
        for coefficient, term in self._terms:
            if coefficient != 0.0:
                total += coefficient * np.ravel(term(p) if callable(term) else term @ p)
        return total

    def _adjoint(self) -> _SumOperator:
        return self


@dataclass(frozen=True)
class Report:
    """A point in the user's own terms: unscaled, all variables, one entry per constraint as given.

    Attributes
    ----------
    x : ndarray, shape (N,)
    fun : float
    grad : ndarray, shape (N,)
        NaN at fixed variables where the gradient is by differences.
    constr : list of ndarray, shape (m_i,)
    jac : list of (ndarray, csr_array or LinearOperator), shape (m_i, N)
        Columns of fixed variables are NaN (dense) or absent (sparse) where it is by differences.
    violation : float
        Largest violation of a constraint or bound, in the maximum norm.
    """

    x: np.ndarray
    fun: float
    grad: np.ndarray
    constr: list[np.ndarray]
    jac: list[Matrix]
    violation: float


class Problem:
    """``min f(x)  s.t.  lower <= c(x) <= upper,  xl <= x <= xu`` in float64, from SciPy's arguments.

    Variables with equal bounds are removed, and rows with both sides infinite are dropped. Evaluations are
    remembered at the last few points; user functions get copies and may do with them what they like.
    Build it with `from_arguments`.

    Attributes
    ----------
    n, m : int
        Free variables, kept rows.
    n_equalities : int
        Rows with ``lower == upper``.
    x0 : ndarray, shape (n,)
        The start, not moved into the bounds.
    xl, xu : ndarray, shape (n,)
    lower, upper : ndarray, shape (m,)
        Scaled by `sc`.
    equality : ndarray of bool, shape (m,)
    keep_feasible : ndarray of bool, shape (n,)
        Bounds that hold at every point evaluated.
    rows_keep_feasible : ndarray of bool, shape (m,)
        What the user asks of rows; the driver cannot keep it.
    sf, sc : float and ndarray of shape (m,)
        Scales of f and of the rows of c, 1 until `set_scaling`.
    """

    def __init__(
        self,
        variables: Variables,
        objective: Objective,
        blocks: list[Block],
        *,
        f_source: str,
        strategy: Any,
        lagrangian_hess: Callable[..., Any] | None,
        hess_sqrt: Callable[..., Any] | None,
        hess_sparsity: Any,
        form_products: bool,
        args: tuple[Any, ...],
        start: np.ndarray,
    ) -> None:
        self._variables, self._objective, self._blocks = variables, objective, blocks
        self._f_source, self._strategy = f_source, strategy
        self._lagrangian_hess = under_callers_errors(lagrangian_hess)
        self._hess_sqrt, self._args = under_callers_errors(hess_sqrt), args
        self._hess_sparsity, self._form_products, self._start = hess_sparsity, form_products, start
        self._n_lagrangian_hessians = 0
        self.n = variables.n
        self.x0, self.xl, self.xu = variables.x0.copy(), variables.lower.copy(), variables.upper.copy()
        self.keep_feasible = variables.keep_feasible
        lower = np.concatenate([np.empty(0), *(block.lower for block in blocks)])
        upper = np.concatenate([np.empty(0), *(block.upper for block in blocks)])
        feasible = np.concatenate([np.empty(0, dtype=bool), *(block.keep_feasible for block in blocks)])
        self._m_all = lower.size
        self._keep = np.flatnonzero(np.isfinite(lower) | np.isfinite(upper))
        self._raw_lower, self._raw_upper = lower[self._keep], upper[self._keep]
        self.rows_keep_feasible = feasible[self._keep]
        self.m = self._keep.size
        self.equality = self._raw_lower == self._raw_upper
        self.n_equalities = int(np.count_nonzero(self.equality))
        self._jacobian_pattern = PatternUnion((self.m, self.n))
        self._hessian_pattern = PatternUnion((self.n, self.n), symmetric=True)
        self._decided = False
        self._quasi_newton: DampedBFGS | CompactLBFGS | StrategyHessian | None = None
        self._remainder: SecantRemainder | None = None
        self._roots = Memo(2)
        self._f_scheme: str | None = None
        self._schemes: list[tuple[NonlinearBlock, str]] = []
        self._by_columns = True
        self._grouping: _differences.Grouping | None = None
        self._cliques = PatternUnion((self.n, self.n), symmetric=True)
        self.set_scaling(1.0, np.ones(self.m))

    @classmethod
    def from_arguments(
        cls,
        fun: Any,
        x0: Any,
        args: Any = (),
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        constraints: Any = (),
        bounds: Any = None,
        *,
        lagrangian_hess: Any = None,
        hess_sqrt: Any = None,
        hess_sparsity: Any = None,
        finite_diff_rel_step: Any = None,
        form_products: bool | None = None,
    ) -> Problem:
        """Check the arguments of ``scipy.optimize.minimize`` and build the problem.

        Parameters
        ----------
        fun : callable
            ``fun(x, *args) -> float``, or ``(float, gradient)`` where `jac` is True.
        x0 : array_like, shape (N,)
            Finite real numbers; integers are promoted.
        args : tuple
            Further arguments of `fun`, `jac`, `hess`, `hessp`, `hess_sqrt`.
        jac : callable, True, {"2-point", "3-point", "cs"} or None
            ``jac(x, *args) -> (N,)``; None means "2-point". Differences stay inside the bounds.
        hess : callable, {"2-point", "3-point", "cs", "bfgs", "lbfgs"}, HessianUpdateStrategy or None
            ``hess(x, *args) -> (N, N)``: array, sparse or LinearOperator. "bfgs" (damped, dense), "lbfgs"
            (compact, 10 pairs) and SciPy's strategies approximate the Hessian of the *Lagrangian*, and the
            constraints' own Hessians are then not used.
        hessp : callable, optional
            ``hessp(x, p, *args) -> (N,)``; ignored where `hess` is given.
        constraints : LinearConstraint, NonlinearConstraint, dict or a sequence of them
        bounds : Bounds or sequence of pairs
        lagrangian_hess : callable, optional
            ``lagrangian_hess(x, v) -> (N, N)``, the Hessian of ``f + v'c``; `v` has all rows of all
            constraints in the order given. Wins over every other Hessian.
        hess_sqrt : callable, optional
            ``hess_sqrt(x, *args) -> W`` of shape (k, N) with Hess f ~ W'W. Without `hess` and `hessp` it is
            the Hessian of f (Gauss-Newton); with them it serves preconditioners.
        hess_sparsity : sparse or array_like, shape (N, N), optional
            Where the Hessian of f may be non-zero: differences then go by groups of columns.
        finite_diff_rel_step : float or array_like of shape (N,), optional
            Relative step of the differences for `jac`.
        form_products : bool, optional
            Whether `hessp` is multiplied by the identity to get a matrix; None does so for up to 200
            variables.

        Notes
        -----
        Where none of `hess`, `hessp`, `hess_sqrt` and `lagrangian_hess` is given, the Hessian of the
        Lagrangian is approximated by damped BFGS up to 2000 variables and by compact L-BFGS above: on 135
        CUTEst problems of up to 60 variables it solved four more than one-sided differences of the gradient
        did, for a half (n <= 3) to a tenth (n > 20) of the gradients. With `hess_sparsity` and an exact
        gradient, differences by groups of columns take its place.

        A NonlinearConstraint whose `hess` is a HessianUpdateStrategy (SciPy's default is ``BFGS()``), or a
        dict without one, has no curvature of its own. Where `hess` or `hessp` gives that of f, the rest is
        taken by differences of J'v if J is sparse and exact and its colouring makes that cheap (at most 200
        groups and n / 4); else, up to 10 variables, by a secant matrix for what the exact terms leave of the
        Lagrangian's change (symmetric rank one), which costs no evaluation. Otherwise the whole Lagrangian
        goes to quasi-Newton updates: on CUTEst problems of 11 to 20 variables, 2 s each, they solved 26 of
        26 and the secant matrix 21; in another sample 15 of 16, where differences solved 14 for about five
        times the Jacobians. Give the constraint's `hess`, or ask for "2-point", to use that of f. With
        Gauss-Newton the rest is by differences up to 200 groups of columns, and left out beyond.

        Raises
        ------
        TypeError, ValueError
            For every input that cannot be used, naming the parameter as the user wrote it.
        """
        start_all = np.array(_validate.as_float_array("x0", x0), dtype=np.float64, ndmin=1)
        _validate.check_ndim("x0", start_all, 1)
        if start_all.size == 0:
            raise ValueError(f"`x0` has shape {start_all.shape}; at least one variable is needed")
        if not isinstance(args, tuple):
            args = (args,)
        if not callable(fun):
            raise TypeError(f"`fun` must be callable; got {fun!r}")
        lower, upper, keep_feasible = standard_bounds(bounds, start_all.size)
        variables = Variables(start_all, lower, upper, keep_feasible)
        step = relative_step("finite_diff_rel_step", finite_diff_rel_step, variables)
        objective = Objective(fun, args, jac, hess, hessp, variables, step)
        for name, value in (
            ("hessp", hessp),
            ("lagrangian_hess", lagrangian_hess),
            ("hess_sqrt", hess_sqrt),
        ):
            _validate.callback(name, value)
        f_source, strategy = cls._objective_source(objective, jac, hess, hessp, hess_sqrt)
        start = np.clip(variables.x0, variables.lower, variables.upper)
        if hess_sparsity is not None:
            pattern = sp.csr_array(
                hess_sparsity if sp.issparse(hess_sparsity) else np.atleast_2d(np.asarray(hess_sparsity) != 0)
            )
            _validate.check_shape("hess_sparsity", pattern, (variables.n_all, variables.n_all))
            pattern.data = np.ones(pattern.nnz)
            hess_sparsity = canonical_csr(variables.square(pattern))
            if f_source == "default" and objective.analytic:
                f_source = "2-point"
        return cls(
            variables,
            objective,
            standard_constraints(constraints, variables, start),
            f_source=f_source,
            strategy=strategy,
            lagrangian_hess=lagrangian_hess,
            hess_sqrt=hess_sqrt,
            hess_sparsity=hess_sparsity,
            form_products=variables.n <= _PRODUCTS_UP_TO if form_products is None else bool(form_products),
            args=args,
            start=start,
        )

    @staticmethod
    def _objective_source(
        objective: Objective, jac: Any, hess: Any, hessp: Any, hess_sqrt: Any
    ) -> tuple[str, Any]:
        """Where the Hessian of f comes from, and the strategy if that is one."""
        if isinstance(hess, HessianUpdateStrategy):
            return "strategy", hess
        if callable(hess):
            return "callable", None
        if isinstance(hess, str):
            name = _validate.choice("hess", hess, _HESSIAN_NAMES)
            if name in _differences.SCHEMES and not objective.analytic:
                raise ValueError(
                    f"`hess` is {hess!r} while `jac` is {jac!r}: differences of differences are noise; "
                    "give a gradient, jac='cs', or hess='bfgs'"
                )
            if name == "cs" and not objective.full_width:
                raise ValueError(
                    f"`hess`='cs' needs a `jac` that computes with complex numbers; it is {jac!r}"
                )
            return str(name), None
        if hess is not None:
            raise TypeError(
                f"`hess` must be callable, a HessianUpdateStrategy, None or one of "
                f"{', '.join(map(repr, _HESSIAN_NAMES))}; got {hess!r}"
            )
        if hessp is not None:
            return "products", None
        return ("gauss_newton" if hess_sqrt is not None else "default"), None

    # --- scales ----------------------------------------------------------------------------------------

    def set_scaling(self, sf: float, sc: np.ndarray) -> None:
        """From now on f counts `sf` times and row i of c `sc[i]` times, bounds included; all > 0.

        A quasi-Newton matrix starts afresh, for its pairs were of another Lagrangian.
        """
        self.sf = float(sf)
        self.sc = np.array(sc, dtype=np.float64).reshape(self.m)
        self.lower, self.upper = self._raw_lower * self.sc, self._raw_upper * self.sc
        self._jacobians = Memo(2)
        for matrix in (self._quasi_newton, self._remainder):
            if matrix is not None:
                matrix.reset()

    # --- counts ----------------------------------------------------------------------------------------

    def _most(self, count: str) -> int:
        return max((getattr(block, count) for block in self._blocks), default=0)

    @property
    def nfev(self) -> int:
        """Calls of the objective, differences included."""
        return self._objective.n_values

    @property
    def ncev(self) -> int:
        """Calls of the constraints: of the one called most; linear ones do not count."""
        return self._most("n_values")

    @property
    def ngev(self) -> int:
        """Gradients of the objective, those for differences of gradients included."""
        return self._objective.n_gradients

    @property
    def njev(self) -> int:
        """Jacobians of the constraints: of the one called most."""
        return self._most("n_jacobians")

    @property
    def nhev(self) -> int:
        """Calls for second derivatives: products count one each; differences count as gradients instead."""
        return max(self._objective.n_hessians, self._most("n_hessians"), self._n_lagrangian_hessians)

    # --- kinds -----------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """ "operator" if J or H is known by products alone; else "sparse" if either is; else "dense"."""
        self._decide(self._start)
        kinds = (self._jacobian_kind, self._hessian_kind)
        return "operator" if "operator" in kinds else "sparse" if "sparse" in kinds else "dense"

    @property
    def jacobian_kind(self) -> str:
        """What `derivatives` returns: "dense", "sparse" or "operator"."""
        self._decide(self._start)
        return self._jacobian_kind

    @property
    def hessian_kind(self) -> str:
        """What `hessian` returns: "dense", "sparse", "operator" or "lowrank"."""
        self._decide(self._start)
        return self._hessian_kind

    @property
    def hess_kind(self) -> str:
        """ "exact", "products", "differences", "structured", "bfgs", "lbfgs" or "gauss_newton".

        "structured" is exact but for a secant matrix; SciPy's strategies count as "bfgs".
        """
        self._decide(self._start)
        return self._hess_kind

    @property
    def pattern_version(self) -> int:
        """Raised whenever the pattern of a sparse J or H has grown."""
        return self._jacobian_pattern.version + self._hessian_pattern.version

    def _decide(self, x: np.ndarray) -> None:
        """Settle, once and at the first point evaluated, which kinds of matrices this problem has."""
        if self._decided:
            return
        jacobians = [block.free_jacobian(x) for block in self._blocks]
        for block, matrix in zip(self._blocks, jacobians, strict=True):
            _check_adjoint(block.name, matrix)
        any_operator = any(isinstance(matrix, LinearOperator) for matrix in jacobians)
        any_sparse = any(sp.issparse(matrix) for matrix in jacobians)
        self._hess_kind = self._choose_hessian(x, jacobians)
        terms: list[Any] = []
        if self._quasi_newton is None:
            ones = np.ones(self._m_all)
            terms = [term for _, term in self._hessian_terms(x, 1.0, ones, probe=True)]
        hessian_operator = any(not isinstance(t, np.ndarray) and not sp.issparse(t) for t in terms)
        hessian_sparse = any(sp.issparse(term) for term in terms) and not hessian_operator
        if isinstance(self._quasi_newton, DampedBFGS | StrategyHessian):
            any_sparse &= self.n * self.m > _DENSE_JACOBIAN_UP_TO
        if any_operator:
            self._jacobian_kind = "operator"
        else:
            hessian_sparse |= any_sparse  # both are sparse if one is
            self._jacobian_kind = "sparse" if hessian_sparse else "dense"
        if self._hess_kind == "lbfgs":
            self._hessian_kind = "lowrank"
        elif hessian_operator:
            self._hessian_kind = "operator"
        else:
            self._hessian_kind = "sparse" if hessian_sparse else "dense"
        self._decided = True

    def _choose_hessian(self, x: np.ndarray, jacobians: list[Matrix]) -> str:
        source = self._f_source
        if self._lagrangian_hess is not None:
            return "exact"
        if source == "strategy":
            self._quasi_newton = StrategyHessian(self._strategy, self.n)
            return "bfgs"
        if source in ("bfgs", "lbfgs", "default"):
            return self._start_quasi_newton(None if source == "default" else source)
        nonlinear = [
            (block, matrix)
            for block, matrix in zip(self._blocks, jacobians, strict=True)
            if isinstance(block, NonlinearBlock)
        ]
        default = [block for block, _ in nonlinear if block.hess_source == "default"]
        if source == "gauss_newton":
            # The curvature of a constraint without exact Jacobian is left out, as that of f's residuals is.
            default = [block for block in default if block.analytic]
        else:
            self._f_scheme = source if source in _differences.SCHEMES else None
            if default and source in ("callable", "products") and not self._differences_pay(x, default):
                if self.n > _REMAINDER_UP_TO:
                    return self._start_quasi_newton(None)
                self._remainder = SecantRemainder(self.n)
                default = []
            elif not all(block.analytic for block in default):
                return self._start_quasi_newton(None)
        self._schemes = [
            (block, "2-point" if block.hess_source == "default" else block.hess_source)
            for block, _ in nonlinear
            if block in default or block.hess_source in _differences.SCHEMES
        ]
        if self._f_scheme is None and not self._schemes:
            kind = {"callable": "exact", "gauss_newton": "gauss_newton"}.get(source, "products")
            kind = "exact" if kind == "products" and self._form_products else kind
            return "structured" if self._remainder is not None and kind == "exact" else kind
        groups = self._count_groups(x)
        if source == "gauss_newton" and default and groups > _CURVATURE_UP_TO:
            self._schemes = [pair for pair in self._schemes if pair[0] not in default]
        self._by_columns = groups <= _COLUMNS_UP_TO
        if source == "gauss_newton":
            return "gauss_newton"
        by_products = not self._by_columns or (source == "products" and not self._form_products)
        return "products" if by_products else "differences"

    def _differences_pay(self, x: np.ndarray, default: list[NonlinearBlock]) -> bool:
        """Whether colouring makes differences of the Jacobians of these constraints cheap."""
        if not all(block.analytic for block in default):
            return False
        self._schemes = [(block, "2-point") for block in default]
        return self._count_groups(x) <= min(_CURVATURE_UP_TO, self.n // 4)

    def _start_quasi_newton(self, name: str | None) -> str:
        if name is None:
            name = "bfgs" if self.n <= _BFGS_UP_TO else "lbfgs"
        self._quasi_newton = DampedBFGS(self.n) if name == "bfgs" else CompactLBFGS(self.n)
        return name

    def _difference_pattern(self, x: np.ndarray) -> sp.csr_array | None:
        """Where the Hessian that is taken by differences may be non-zero; None if it is not known."""
        terms: list[tuple[float, sp.csr_array]] = []
        if self._f_scheme is not None:
            if self._hess_sparsity is None:
                return None
            terms.append((1.0, self._hess_sparsity))
        for block, _ in self._schemes:
            J = block.free_jacobian(x)
            if not sp.issparse(J):
                return None
            if float((np.diff(J.indptr).astype(np.float64) ** 2).sum()) > _CLIQUES_UP_TO:
                return None
            ones = sp.csr_array((np.ones(J.nnz), J.indices, J.indptr), shape=J.shape)
            # The variables of one row may all meet in its Hessian.
            terms.append((1.0, canonical_csr(ones.T @ ones)))
        before = self._cliques.version
        pattern = self._cliques.combine(terms)
        if self._cliques.version != before:
            self._grouping = _differences.Grouping(pattern)
        return pattern

    def _count_groups(self, x: np.ndarray) -> int:
        if self._difference_pattern(x) is None or self._grouping is None:
            return self.n
        return self._grouping.n_groups

    # --- the user's own functions, for checks ----------------------------------------------------------

    @property
    def variables(self) -> Variables:
        """All variables and which of them are free."""
        return self._variables

    @property
    def args(self) -> tuple[Any, ...]:
        """Further arguments of the objective's functions."""
        return self._args

    @property
    def user_objective(self) -> Objective:
        """The unscaled objective."""
        return self._objective

    @property
    def user_blocks(self) -> list[Block]:
        """The unscaled constraints, all rows, in the order given."""
        return self._blocks

    @property
    def has_lagrangian_hess(self) -> bool:
        """Whether the user gave `lagrangian_hess`."""
        return self._lagrangian_hess is not None

    def objective_curvature(self, x: np.ndarray) -> Any:
        """The unscaled Hess f from `hess`, or a function of p from `hessp`."""
        if self._f_source == "callable":
            return self._objective.hessian(x)
        return lambda p: self._objective.product(x, p)

    def lagrangian_curvature(self, x: np.ndarray, v: np.ndarray) -> Matrix:
        """The unscaled `lagrangian_hess` with the multipliers of all rows."""
        return self._lagrangian_terms(x, 1.0, v)[0][1]

    # --- evaluations -----------------------------------------------------------------------------------

    def objective(self, x: np.ndarray) -> float:
        """The scaled f(x)."""
        return self.sf * self._objective.value(x)

    def constraints(self, x: np.ndarray) -> np.ndarray:
        """The scaled c(x), shape (m,), without a call of f."""
        c = np.concatenate([np.empty(0), *(block.value(x) for block in self._blocks)])
        result: np.ndarray = self.sc * c[self._keep]
        return result

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """The scaled gradient of f, shape (n,)."""
        return self.sf * self._objective.free_gradient(x)

    def jacobian(self, x: np.ndarray) -> Matrix:
        """The scaled Jacobian of c, shape (m, n), without a call of f's gradient. Not to be modified.

        Dense in C order, a csr_array on the union of the patterns seen so far, or a LinearOperator: see
        `jacobian_kind`.
        """
        known = self._jacobians.get(x)
        if known is None:
            matrices = [block.free_jacobian(x) for block in self._blocks]
            self._decide(x)
            known = self._jacobians.put(x, self._assemble(matrices))
        return known

    def values(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """`objective` and `constraints`; numbers that are not finite are returned as they are."""
        return self.objective(x), self.constraints(x)

    def derivatives(self, x: np.ndarray) -> tuple[np.ndarray, Matrix]:
        """`gradient` and `jacobian`."""
        return self.gradient(x), self.jacobian(x)

    def _assemble(self, matrices: list[Matrix]) -> Matrix:
        if self._jacobian_kind == "operator":
            return _StackedJacobian(matrices, self._variables, self._keep, self.sc)
        all_kept = self._keep.size == self._m_all
        if self._jacobian_kind == "dense":
            dense = np.vstack([np.empty((0, self.n)), *(self._explicit(matrix) for matrix in matrices)])
            if not all_kept:
                dense = dense[self._keep]
            return dense * self.sc[:, None]
        parts = [sp.csr_array(self._explicit(m) if isinstance(m, LinearOperator) else m) for m in matrices]
        stacked = sp.vstack(parts, format="csr") if parts else sp.csr_array((0, self.n))
        if not all_kept:
            stacked = stacked[self._keep]
        J = self._jacobian_pattern.combine([(1.0, canonical_csr(stacked))])
        J.data *= np.repeat(self.sc, np.diff(J.indptr))
        return J

    def _explicit(self, matrix: Matrix) -> np.ndarray:
        """A dense array, also of an operator that came after matrices."""
        if isinstance(matrix, LinearOperator):
            identity = np.eye(matrix.shape[1])[:, self._variables.free]
            return np.asarray(matrix @ identity)
        return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)

    # --- second derivatives ----------------------------------------------------------------------------

    def hessian(self, x: np.ndarray, lam: np.ndarray, sigma: float = 1.0) -> Matrix | LowRank:
        """``sigma Hess f + sum lam_i Hess c_i`` of the scaled functions, symmetric, shape (n, n).

        A dense array, a csr_array on the union of the patterns seen so far, a LinearOperator or, for
        "lbfgs", a `LowRank`. Quasi-Newton kinds return their matrix whatever the arguments.
        """
        self._decide(x)
        if self._quasi_newton is not None:
            B = self._quasi_newton.hessian()
            if isinstance(B, LowRank) or self._hessian_kind == "dense":
                return B
            return self._hessian_pattern.combine([(1.0, canonical_csr(B))])
        weights = np.zeros(self._m_all)
        weights[self._keep] = self.sc * lam
        terms = self._hessian_terms(x, sigma * self.sf, weights)
        if self._hessian_kind == "operator":
            return _SumOperator(terms, self.n)
        if self._hessian_kind == "dense":
            dense = np.zeros((self.n, self.n))
            for coefficient, term in terms:
                dense += coefficient * self._explicit_square(term)
            return 0.5 * (dense + dense.T)
        return self._hessian_pattern.combine(
            [
                (c, t if isinstance(t, sp.csr_array) else canonical_csr(self._explicit_square(t)))
                for c, t in terms
            ]
        )

    def _explicit_square(self, term: Any) -> np.ndarray:
        if isinstance(term, np.ndarray):
            return term
        if sp.issparse(term):
            return np.asarray(term.toarray())
        identity = np.eye(self.n)
        if isinstance(term, LinearOperator):
            return np.asarray(term @ identity)
        return np.column_stack([term(e) for e in identity]) if self.n else identity

    def _hessian_terms(
        self, x: np.ndarray, sigma: float, weights: np.ndarray, *, probe: bool = False
    ) -> list[tuple[float, Any]]:
        """Coefficients and terms of the raw Hessian; a term is a matrix, an operator or a function of p.

        With `probe`, terms by differences are stood in for by an empty one of the same kind.
        """
        if self._lagrangian_hess is not None:
            return self._lagrangian_terms(x, sigma, weights)
        terms: list[tuple[float, Any]] = []
        if self._f_source == "callable":
            terms.append((sigma, self._objective.hessian(x)))
        elif self._f_source == "products":
            if self._form_products:
                stand_in = np.zeros((self.n, self.n))
                terms.append((sigma, stand_in if probe else self._formed_products(x)))
            else:
                terms.append((sigma, lambda p: self._objective.product(x, p)))
        elif self._f_source == "gauss_newton":
            terms.append((sigma, _gram(self._raw_root(x))))
        start = 0
        for block in self._blocks:
            v = weights[start : start + block.m]
            start += block.m
            if isinstance(block, NonlinearBlock) and block.hess_source == "callable":
                terms.append((1.0, block.hessian(x, v)))
        if self._f_scheme is not None or self._schemes:
            if not self._by_columns:
                terms += self._differenced_products(x, sigma, weights)
            elif not probe:
                terms += self._differenced_columns(x, sigma, weights)
            elif self._difference_pattern(x) is None:
                terms.append((1.0, np.zeros((self.n, self.n))))
            else:
                terms.append((1.0, sp.csr_array((self.n, self.n))))
        if self._remainder is not None:
            if not probe and sigma != 0.0:  # the pairs are of the whole Lagrangian
                self._remainder.absorb(_SumOperator(terms, self.n).matvec)
            terms.append((1.0, self._remainder.hessian()))
        return terms

    def _formed_products(self, x: np.ndarray) -> np.ndarray:
        product = self._objective.product
        return np.column_stack([product(x, e) for e in np.eye(self.n)]) if self.n else np.empty((0, 0))

    def _lagrangian_terms(self, x: np.ndarray, sigma: float, weights: np.ndarray) -> list[tuple[float, Any]]:
        function = self._lagrangian_hess
        assert function is not None
        n = self._variables.n_all

        def at(v: np.ndarray) -> Matrix:
            self._n_lagrangian_hessians += 1
            returned = returned_matrix("lagrangian_hess", function(self._variables.expand(x), v), (n, n))
            return self._variables.square(returned)

        if sigma == 0.0:
            return [(1.0, at(weights.copy())), (-1.0, at(np.zeros(self._m_all)))]
        return [(sigma, at(weights / sigma))]

    def _by_scheme(
        self, weights: np.ndarray
    ) -> dict[str, tuple[bool, list[tuple[NonlinearBlock, np.ndarray]]]]:
        """For each scheme: whether f takes part, and the blocks that do with their multipliers."""
        groups: dict[str, tuple[bool, list[tuple[NonlinearBlock, np.ndarray]]]] = {}
        if self._f_scheme is not None:
            groups[self._f_scheme] = (True, [])
        start: dict[int, int] = {}
        total = 0
        for block in self._blocks:
            start[id(block)] = total
            total += block.m
        for block, scheme in self._schemes:
            first = start[id(block)]
            _, members = groups.setdefault(scheme, (False, []))
            members.append((block, weights[first : first + block.m]))
        return groups

    def _lagrangian_gradient(
        self,
        scheme: str,
        sigma: float,
        with_f: bool,
        members: list[tuple[NonlinearBlock, np.ndarray]],
        x: np.ndarray,
    ) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[], np.ndarray]]:
        """``sigma g(z) + sum J(z)'v`` of those that take part, as a function of z, and its value at `x`."""
        variables = self._variables

        def transposed(J: Matrix, v: np.ndarray) -> np.ndarray:
            product = np.ravel(J.rmatvec(v)) if isinstance(J, LinearOperator) else J.T @ v
            return product[variables.free] if product.size != self.n else product

        def function(z: np.ndarray) -> np.ndarray:
            total = np.zeros(self.n, dtype=z.dtype)
            if with_f and sigma != 0.0:
                gradient = (
                    self._objective.complex_gradient if scheme == "cs" else self._objective.fresh_gradient
                )
                total += sigma * gradient(z)
            for block, v in members:
                if v.any():
                    J = block.complex_jacobian(z) if scheme == "cs" else block.fresh_jacobian(z)
                    total += transposed(J, v)
            return total

        def base() -> np.ndarray:
            total = np.zeros(self.n)
            if with_f and sigma != 0.0:
                total += sigma * self._objective.free_gradient(x)
            for block, v in members:
                if v.any():
                    total += transposed(block.free_jacobian(x), v)
            return total

        return function, base

    def _differenced_columns(
        self, x: np.ndarray, sigma: float, weights: np.ndarray
    ) -> list[tuple[float, Matrix]]:
        pattern = self._difference_pattern(x)
        grouping = self._grouping if pattern is not None else None
        terms: list[tuple[float, Matrix]] = []
        for scheme, (with_f, members) in self._by_scheme(weights).items():
            if not (with_f and sigma != 0.0) and not any(v.any() for _, v in members):
                zero: Any = np.zeros((self.n, self.n))
                terms.append((0.0, zero if pattern is None else pattern))
                continue
            function, base = self._lagrangian_gradient(scheme, sigma, with_f, members, x)
            H = _differences.jacobian(
                function,
                x,
                base,
                scheme,
                lower=self._variables.lower,
                upper=self._variables.upper,
                grouping=grouping,
            )
            terms.append((1.0, H))
        return terms

    def _differenced_products(
        self, x: np.ndarray, sigma: float, weights: np.ndarray
    ) -> list[tuple[float, Callable[[np.ndarray], np.ndarray]]]:
        terms: list[tuple[float, Callable[[np.ndarray], np.ndarray]]] = []
        for scheme, (with_f, members) in self._by_scheme(weights).items():
            function, base = self._lagrangian_gradient(scheme, sigma, with_f, members, x)

            def product(
                p: np.ndarray, function: Any = function, base: Any = base, s: str = scheme
            ) -> np.ndarray:
                return _differences.directional(
                    function, x, p, base, s, lower=self._variables.lower, upper=self._variables.upper
                )

            terms.append((1.0, product))
        return terms

    def _raw_root(self, x: np.ndarray) -> Matrix:
        known = self._roots.get(x)
        if known is None:
            assert self._hess_sqrt is not None
            returned = self._hess_sqrt(self._variables.expand(x), *self._args)
            rows = np.shape(returned)[0] if np.ndim(returned) == 2 or hasattr(returned, "shape") else 1
            W = returned_matrix("hess_sqrt", returned, (int(rows), self._variables.n_all))
            if isinstance(W, LinearOperator):
                _check_adjoint("hess_sqrt", W)
                if not self._variables.all_free:
                    every_row = np.arange(rows)
                    W = _StackedJacobian([W], self._variables, every_row, np.ones(rows))
            known = self._roots.put(x, self._variables.columns(W))
        return known

    def root(self, x: np.ndarray) -> Matrix | None:
        """W of shape (k, n) with ``W'W ~ Hess f`` of the scaled f; None where no `hess_sqrt` was given."""
        if self._hess_sqrt is None:
            return None
        W = self._raw_root(x)
        scale = float(np.sqrt(self.sf))
        return W if scale == 1.0 else W * scale

    @property
    def kept_rows(self) -> np.ndarray:
        """Numbers of the kept rows among all that the user gave, stacked."""
        return self._keep

    @property
    def is_quasi_newton(self) -> bool:
        """Whether the Hessian of the Lagrangian comes from updates."""
        self._decide(self._start)
        return self._quasi_newton is not None

    @property
    def learns(self) -> bool:
        """Whether `update` changes anything."""
        self._decide(self._start)
        return self._quasi_newton is not None or self._remainder is not None

    def follow_barrier(self, mu: float) -> bool:
        """Whether the objective changed with the barrier parameter: only that of restoration does."""
        return False

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Give the quasi-Newton matrix a pair: a step, and the change of the scaled Lagrangian's gradient."""
        self._decide(self._start)
        for matrix in (self._quasi_newton, self._remainder):
            if matrix is not None:
                matrix.update(s, y)

    # --- back to the user's terms ----------------------------------------------------------------------

    def expand(self, x: np.ndarray) -> np.ndarray:
        """All N variables."""
        return self._variables.expand(np.asarray(x, dtype=np.float64))

    def _per_constraint(self, stacked: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([block.m for block in self._blocks])
        return [part.copy() for part in np.split(stacked, ends[:-1])] if self._blocks else []

    def split(
        self, lam: np.ndarray, zl: np.ndarray, zu: np.ndarray, x: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Multipliers of the unscaled problem, in the shapes of what the user gave.

        Parameters
        ----------
        lam : ndarray, shape (m,)
        zl, zu : ndarray, shape (n,)
        x : ndarray of shape (n,), optional
            Gives fixed variables their multipliers, where all gradients are the user's own.

        Returns
        -------
        dict
            ``v``: one array of shape (m_i,) per constraint, signed as trust-constr's (positive against the
            upper side), zero at dropped rows; ``lam_full``: all of them in one vector; ``zl_full``,
            ``zu_full``: shape (N,), >= 0.
        """
        lam_full = np.zeros(self._m_all)
        lam_full[self._keep] = self.sc * lam / self.sf
        variables = self._variables
        zl_full, zu_full = np.zeros(variables.n_all), np.zeros(variables.n_all)
        zl_full[variables.free], zu_full[variables.free] = zl / self.sf, zu / self.sf
        known = self._objective.full_width and all(block.full_width for block in self._blocks)
        if x is not None and known and not variables.all_free:
            residual = self._objective.gradient(x).copy()
            for block, v in zip(self._blocks, self._per_constraint(lam_full), strict=True):
                J = block.jacobian(x)
                residual += np.ravel(J.rmatvec(v)) if isinstance(J, LinearOperator) else J.T @ v
            fixed = variables.fixed
            zl_full[fixed] = np.maximum(residual[fixed], 0.0)
            zu_full[fixed] = np.maximum(-residual[fixed], 0.0)
        return {
            "v": self._per_constraint(lam_full),
            "lam_full": lam_full,
            "zl_full": zl_full,
            "zu_full": zu_full,
        }

    def join(self, v: Any, name: str = "lam0") -> np.ndarray:
        """The scaled (m,) multipliers from unscaled ones: the inverse of ``split(...)["v"]``.

        Parameters
        ----------
        v : array_like of shape (all rows,), or list of one array per constraint

        Raises
        ------
        ValueError
            If the number of entries is not that of the constraints' rows.
        """
        parts = [np.ravel(np.asarray(part, dtype=np.float64)) for part in v]
        stacked = np.concatenate([np.empty(0), *parts])
        if stacked.size != self._m_all:
            raise ValueError(
                f"`{name}` has {stacked.size} multipliers; the constraints have {self._m_all} rows"
            )
        return stacked[self._keep] * self.sf / self.sc

    def report_values(self, x: np.ndarray) -> Report:
        """The point unscaled and complete; evaluations that are remembered are not repeated."""
        variables = self._variables
        gradient = self._objective.gradient(x)
        if not self._objective.full_width:
            full = np.full(variables.n_all, np.nan)
            full[variables.free] = gradient
            gradient = full
        constr, jac, violation = [], [], 0.0
        for block in self._blocks:
            c, J = block.value(x).copy(), block.jacobian(x)
            if not block.full_width and not variables.all_free:
                J = self._widen(J)
            excess = np.maximum(np.maximum(block.lower - c, c - block.upper), 0.0)
            violation = max(violation, float(np.max(excess, initial=0.0)))
            constr.append(c)
            jac.append(J if isinstance(J, LinearOperator) else J.copy())
        outside = np.maximum(np.maximum(variables.lower - x, x - variables.upper), 0.0)
        violation = max(violation, float(np.max(outside, initial=0.0)))
        return Report(self.expand(x), self._objective.value(x), gradient.copy(), constr, jac, violation)

    def _widen(self, J: Matrix) -> Matrix:
        """A Jacobian of the free columns with the fixed ones put in: NaN if dense, empty if sparse."""
        variables = self._variables
        if sp.issparse(J):
            coo = J.tocoo()
            place = (coo.row, variables.free[coo.col])
            return sp.csr_array((coo.data, place), shape=(J.shape[0], variables.n_all))
        full = np.full((J.shape[0], variables.n_all), np.nan)
        full[:, variables.free] = J
        return full


def _gram(W: Matrix) -> Any:
    """W'W: an array, a canonical csr_array, or a function of p."""
    if isinstance(W, LinearOperator):
        return lambda p: np.ravel(W.rmatvec(np.ravel(W @ p)))
    return canonical_csr(W.T @ W) if sp.issparse(W) else W.T @ W


def _check_adjoint(name: str, matrix: Matrix) -> None:
    """Raise ValueError for an operator whose transpose cannot be applied."""
    if not isinstance(matrix, LinearOperator):
        return
    try:
        matrix.rmatvec(np.zeros(matrix.shape[0]))
    except NotImplementedError:
        raise ValueError(
            f"`{name}` has a LinearOperator without `rmatvec`; products with J' are needed"
        ) from None


__all__ = ["PatternUnion", "Problem", "Report"]
