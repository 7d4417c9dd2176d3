"""What a user may pass as bounds and constraints, checked and brought to one form.

Every constraint becomes a block ``lower <= c(x) <= upper`` that evaluates c and its Jacobian in the free
variables. Messages name the user's own parameter: `constraints[1]['jac']`, `constraints.hess`, `bounds`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, HessianUpdateStrategy, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .. import _validate
from . import _differences

Matrix = Any  # ndarray | csr_array | LinearOperator

_REMEMBERED = 3  # points per function: the iterate, the trial and one more


class Memo:
    """The values of a function at the last few points; the least recently used one goes first."""

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._size = size
        self._values: dict[bytes, Any] = {}

    def get(self, x: np.ndarray) -> Any:
        """The value at `x`, or None."""
        key = x.tobytes()
        if key not in self._values:
            return None
        value = self._values.pop(key)
        self._values[key] = value
        return value

    def put(self, x: np.ndarray, value: Any) -> Any:
        """Store and return `value`."""
        self._values[x.tobytes()] = value
        while len(self._values) > self._size:
            del self._values[next(iter(self._values))]
        return value


class Variables:
    """All N variables, and the n free ones among them: those whose bounds are not equal.

    Parameters
    ----------
    x0 : ndarray, shape (N,)
    lower, upper : ndarray, shape (N,)
    keep_feasible : ndarray of bool, shape (N,)
    """

    def __init__(
        self, x0: np.ndarray, lower: np.ndarray, upper: np.ndarray, keep_feasible: np.ndarray
    ) -> None:
        self.n_all = x0.size
        self.free = np.flatnonzero(lower != upper)
        self.fixed = np.flatnonzero(lower == upper)
        self.n = self.free.size
        self.all_free = self.n == self.n_all
        self.template = np.where(lower == upper, lower, x0)
        self.lower, self.upper = lower[self.free], upper[self.free]
        self.keep_feasible = keep_feasible[self.free]
        self.x0 = x0[self.free].copy()

    def expand(self, x: np.ndarray) -> np.ndarray:
        """All variables from the free ones: always a new array, of the dtype of `x`."""
        full = self.template.astype(x.dtype)
        full[self.free] = x
        return full

    def expand_direction(self, p: np.ndarray) -> np.ndarray:
        """A direction in all variables: zero in the fixed ones."""
        full = np.zeros((self.n_all, *p.shape[1:]), dtype=p.dtype)
        full[self.free] = p
        return full

    def columns(self, matrix: Matrix) -> Matrix:
        """The free columns of a dense or sparse matrix; operators are returned as they are."""
        if self.all_free or isinstance(matrix, LinearOperator):
            return matrix
        return matrix[:, self.free]

    def square(self, matrix: Matrix) -> Matrix:
        """The free rows and columns of a symmetric matrix or operator."""
        if self.all_free:
            return matrix
        if isinstance(matrix, LinearOperator):
            return LinearOperator(
                (self.n, self.n),
                matvec=lambda p: np.asarray(matrix @ self.expand_direction(np.ravel(p)))[self.free],
                rmatvec=lambda p: np.asarray(matrix @ self.expand_direction(np.ravel(p)))[self.free],
                dtype=np.float64,
            )
        return (
            matrix[np.ix_(self.free, self.free)]
            if isinstance(matrix, np.ndarray)
            else (matrix[self.free][:, self.free])
        )


def under_callers_errors(function: Any) -> Any:
    """A user's function as it runs outside of the solver: with the floating-point errors set as they are now.

    The solver itself ignores overflow and NaN, which its tests catch. What is not callable passes.
    """
    if not callable(function):
        return function
    errors = np.geterr()

    def call(*args: Any) -> Any:
        with np.errstate(**errors):
            return function(*args)

    return call


# --- what user functions return ------------------------------------------------------------------------


def _real_numbers(name: str, value: Any) -> np.ndarray:
    """A float64 copy of what a user function returned; NaN and Inf pass."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` returned something that is not a rectangular array: {error}") from None
    if array.dtype.kind == "c":
        raise TypeError(f"`{name}` returned complex numbers (dtype {array.dtype}); real ones are needed")
    if array.dtype.kind not in "fiub":
        got = "None" if value is None else f"{type(value).__name__} of dtype {array.dtype}"
        raise TypeError(f"`{name}` returned {got}; real numbers are needed")
    return np.array(array, dtype=np.float64)


def returned_number(name: str, value: Any) -> float:
    """A number, or an array of one."""
    array = _real_numbers(name, value)
    if array.size != 1:
        raise ValueError(f"`{name}` returned shape {array.shape}; a number is needed")
    return float(array.ravel()[0])


def returned_vector(name: str, value: Any, size: int | None = None) -> np.ndarray:
    """A vector; a number counts as one of length 1, and a single row or column as what it holds."""
    if sp.issparse(value):
        value = value.toarray()
    array = np.atleast_1d(_real_numbers(name, value))
    if array.ndim != 1 and size is not None and array.size == size and max(array.shape) == size:
        array = array.ravel()
    if array.ndim != 1 or (size is not None and array.size != size):
        needed = "1-D" if size is None else f"({size},)"
        raise ValueError(f"`{name}` returned shape {array.shape}; {needed} is needed")
    return array


def canonical_csr(matrix: Any) -> sp.csr_array:
    """A float64 CSR copy, sorted, without duplicates, explicit zeros kept, 32-bit indices."""
    csr = sp.csr_array(matrix, dtype=np.float64, copy=True)
    csr.sum_duplicates()
    if csr.indices.dtype != np.int32 and csr.nnz < 2**31:
        csr = sp.csr_array(
            (csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int32)), shape=csr.shape
        )
    return csr


def returned_matrix(name: str, value: Any, shape: tuple[int, int]) -> Matrix:
    """A dense C-ordered copy, a canonical CSR copy, or the LinearOperator itself, of exactly `shape`.

    A vector stands for the only row or the only column.
    """
    if sp.issparse(value):
        if np.dtype(value.dtype).kind == "c":
            raise TypeError(f"`{name}` returned complex numbers (dtype {value.dtype}); real ones are needed")
        if tuple(value.shape) != shape:
            raise ValueError(f"`{name}` returned shape {tuple(value.shape)}; {shape} is needed")
        return canonical_csr(value)
    if isinstance(value, LinearOperator) or (hasattr(value, "matvec") and hasattr(value, "shape")):
        operator = aslinearoperator(value)
        if tuple(operator.shape) != shape:
            raise ValueError(f"`{name}` returned an operator of shape {operator.shape}; {shape} is needed")
        if operator.dtype is not None and np.dtype(operator.dtype).kind == "c":
            raise TypeError(f"`{name}` returned a complex operator; a real one is needed")
        return operator
    array = _real_numbers(name, value)
    if array.ndim < 2 and array.size == shape[0] * shape[1] and 1 in shape:
        array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(f"`{name}` returned shape {array.shape}; {shape} is needed")
    return np.ascontiguousarray(array)


# --- options that several parameters share -------------------------------------------------------------


def jacobian_option(name: str, value: Any, *, allow_true: bool = False) -> Any:
    """A callable, True where allowed, or one of the difference schemes; None and False mean "2-point"."""
    if value is None or value is False:
        return "2-point"
    if callable(value) or (value is True and allow_true):
        return value
    if isinstance(value, str):
        return _validate.choice(name, value, _differences.SCHEMES)
    kinds = "callable, True" if allow_true else "callable"
    raise TypeError(
        f"`{name}` must be {kinds}, None or one of "
        f"{', '.join(map(repr, _differences.SCHEMES))}; got {value!r}"
    )


def relative_step(name: str, value: Any, variables: Variables) -> Any:
    """None, or positive steps for the free variables."""
    if value is None:
        return None
    array = np.array(_validate.as_float_array(name, value), dtype=np.float64)
    if array.ndim > 1 or array.size not in (1, variables.n_all):
        raise ValueError(f"`{name}` has shape {array.shape}; a number or ({variables.n_all},) is needed")
    array = np.broadcast_to(array, (variables.n_all,))
    if not bool((array > 0.0).all()):
        index = int(np.argmax(array <= 0.0))
        raise ValueError(f"`{name}` must be > 0; got {float(array[index])} at index {index}")
    return array[variables.free]


def _sides(
    names: tuple[str, str], lower: Any, upper: Any, size: int, of: str
) -> tuple[np.ndarray, np.ndarray]:
    """Two float64 vectors of length `size` with lower <= upper, lower < inf and upper > -inf."""
    sides = []
    for name, value, forbidden in zip(names, (lower, upper), (np.inf, -np.inf), strict=True):
        array = np.asarray(_validate.as_float_array(name, value, finite=False), dtype=np.float64)
        if array.ndim > 1 or array.size not in (1, size):
            raise ValueError(f"`{name}` has shape {array.shape}; a number or ({size},) is needed ({of})")
        array = np.broadcast_to(array.ravel(), (size,)).copy()
        bad = np.isnan(array) | (array == forbidden)
        if bool(bad.any()):
            index = int(np.argmax(bad))
            raise ValueError(f"`{name}` is {float(array[index])} at index {index}")
        sides.append(array)
    crossed = sides[0] > sides[1]
    if bool(crossed.any()):
        index = int(np.argmax(crossed))
        raise ValueError(
            f"`{names[0]}` > `{names[1]}` at index {index}: "
            f"{float(sides[0][index])} > {float(sides[1][index])}"
        )
    return sides[0], sides[1]


def standard_bounds(bounds: Any, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper bounds and `keep_feasible`, each of shape (n,).

    Parameters
    ----------
    bounds : None, scipy.optimize.Bounds, or sequence of n pairs (low, high)
        None in a pair means no bound on that side.

    Raises
    ------
    TypeError
        If `bounds` is none of these.
    ValueError
        For a wrong length, NaN, or a lower bound above its upper one: the index and values are named.
    """
    if bounds is None:
        return np.full(n, -np.inf), np.full(n, np.inf), np.zeros(n, dtype=bool)
    if isinstance(bounds, Bounds):
        lower, upper = _sides(("bounds.lb", "bounds.ub"), bounds.lb, bounds.ub, n, f"`x0` has {n} entries")
        return lower, upper, np.broadcast_to(np.asarray(bounds.keep_feasible, dtype=bool), (n,)).copy()
    try:
        pairs = list(bounds)
    except TypeError:
        raise TypeError(
            f"`bounds` must be None, scipy.optimize.Bounds or a sequence of pairs; got {bounds!r}"
        ) from None
    if len(pairs) != n:
        raise ValueError(f"`bounds` has {len(pairs)} pairs; `x0` has {n} entries")
    lower, upper = np.empty(n), np.empty(n)
    for i, pair in enumerate(pairs):
        try:
            low, high = pair
        except (TypeError, ValueError):
            raise ValueError(f"`bounds[{i}]` must be a pair (low, high); got {pair!r}") from None
        for side, value, missing in ((lower, low, -np.inf), (upper, high, np.inf)):
            try:
                side[i] = missing if value is None else float(value)
            except (TypeError, ValueError):
                raise TypeError(f"`bounds[{i}]` must hold real numbers or None; got {pair!r}") from None
        if np.isnan(lower[i]) or np.isnan(upper[i]):
            raise ValueError(f"`bounds[{i}]` has a NaN: {pair!r}")
        if lower[i] > upper[i]:
            raise ValueError(f"`bounds[{i}]` has low > high: {lower[i]} > {upper[i]}")
        if lower[i] == np.inf or upper[i] == -np.inf:
            raise ValueError(f"`bounds[{i}]` leaves no number: {pair!r}")
    return lower, upper, np.zeros(n, dtype=bool)


# --- blocks --------------------------------------------------------------------------------------------


class LinearBlock:
    """``lower <= A x <= upper``: its Jacobian is A, its Hessian zero.

    Attributes
    ----------
    name : str
        The user's name for it.
    m : int
        Rows, before any are dropped.
    lower, upper : ndarray, shape (m,)
    keep_feasible : ndarray of bool, shape (m,)
    analytic : bool
        Whether the Jacobian has no error of differences.
    hess_source : {"zero"}
    """

    analytic = True
    full_width = True
    hess_source = "zero"
    n_values = n_jacobians = n_hessians = 0

    def __init__(self, name: str, constraint: LinearConstraint, variables: Variables) -> None:
        self.name = name
        matrix_name = f"{name}.A"
        if sp.issparse(constraint.A):
            if np.dtype(constraint.A.dtype).kind == "c":
                raise TypeError(f"`{matrix_name}` is complex (dtype {constraint.A.dtype})")
            matrix: Matrix = canonical_csr(constraint.A)
            _validate.check_finite(matrix_name, matrix.data)
        elif isinstance(constraint.A, LinearOperator):
            matrix = constraint.A
        else:
            matrix = np.array(
                np.atleast_2d(_validate.as_float_array(matrix_name, constraint.A)),
                dtype=np.float64,
                order="C",
            )
            _validate.check_ndim(matrix_name, matrix, 2)
        if matrix.shape[1] != variables.n_all:
            raise ValueError(
                f"`{matrix_name}` has shape {tuple(matrix.shape)}; "
                f"{variables.n_all} columns are needed, one for each entry of `x0`"
            )
        self.m = int(matrix.shape[0])
        self.lower, self.upper = _sides(
            (f"{name}.lb", f"{name}.ub"),
            constraint.lb,
            constraint.ub,
            self.m,
            f"`{matrix_name}` has {self.m} rows",
        )
        self.keep_feasible = np.broadcast_to(np.asarray(constraint.keep_feasible, dtype=bool), (self.m,))
        self._matrix = matrix
        self._free_matrix = variables.columns(matrix)
        self._variables = variables

    def value(self, x: np.ndarray) -> np.ndarray:
        """A x, shape (m,)."""
        return np.asarray(self._matrix @ self._variables.expand(x))

    def jacobian(self, x: np.ndarray) -> Matrix:
        """A, in all variables: shape (m, N)."""
        return self._matrix

    def free_jacobian(self, x: np.ndarray) -> Matrix:
        """The columns of the free variables; an operator keeps them all."""
        return self._free_matrix


class NonlinearBlock:
    """``lower <= c(x) <= upper`` from a NonlinearConstraint or a dict.

    Attributes
    ----------
    name, m, lower, upper, keep_feasible, analytic
        As for `LinearBlock`.
    names : dict
        The user's names of its parts: fun, jac, hess, lb, ub, rel_step, sparsity.
    full_width : bool
        Whether `jacobian` has a column for every variable, or for the free ones alone (differences).
    hess_source : {"callable", "2-point", "3-point", "cs", "default"}
        "default" where the user gave a quasi-Newton strategy or nothing.
    n_values, n_jacobians, n_hessians : int
        Calls of the user's functions so far.
    """

    def __init__(
        self,
        name: str,
        names: dict[str, str],
        fun: Any,
        jac: Any,
        hess: Any,
        lower: Any,
        upper: Any,
        variables: Variables,
        x_start: np.ndarray,
        *,
        args: tuple[Any, ...] = (),
        rel_step: Any = None,
        sparsity: Any = None,
        keep_feasible: Any = False,
    ) -> None:
        self.name = name
        self.names = names
        self._variables = variables
        self._args = args
        self.n_values = self.n_jacobians = self.n_hessians = 0
        if not callable(fun):
            raise TypeError(f"`{names['fun']}` must be callable; got {fun!r}")
        self._fun = under_callers_errors(fun)
        self._jac = under_callers_errors(jacobian_option(names["jac"], jac))
        self.analytic = callable(self._jac) or self._jac == "cs"
        self.full_width = callable(self._jac)
        self.hess_source = self._hessian_source(hess)
        self._hess = under_callers_errors(hess)
        self._rel_step = relative_step(names["rel_step"], rel_step, variables)
        self._value_memo, self._jacobian_memo = Memo(), Memo()
        self.m = -1
        self.m = self.value(x_start).size
        of = f"`{names['fun']}` returned {self.m} values"
        self.lower, self.upper = _sides((names["lb"], names["ub"]), lower, upper, self.m, of)
        self.keep_feasible = np.broadcast_to(np.asarray(keep_feasible, dtype=bool), (self.m,))
        self._grouping: _differences.Grouping | None = None
        if sparsity is not None and not callable(self._jac):
            self._grouping = _differences.Grouping(variables.columns(self._pattern(sparsity)))

    def _hessian_source(self, hess: Any) -> str:
        name = self.names["hess"]
        if hess is None or isinstance(hess, HessianUpdateStrategy):
            return "default"
        if callable(hess):
            return "callable"
        if not isinstance(hess, str):
            raise TypeError(
                f"`{name}` must be callable, a HessianUpdateStrategy, None or one of "
                f"{', '.join(map(repr, _differences.SCHEMES))}; got {hess!r}"
            )
        scheme = str(_validate.choice(name, hess, _differences.SCHEMES))
        if not self.analytic:
            raise ValueError(
                f"`{name}` is {hess!r} while `{self.names['jac']}` is {self._jac!r}: "
                "differences of differences are noise; give a Jacobian, 'cs', or a quasi-Newton strategy"
            )
        if scheme == "cs" and not self.full_width:
            raise ValueError(
                f"`{name}`='cs' needs a `{self.names['jac']}` that computes with complex numbers; it is 'cs'"
            )
        return scheme

    def _pattern(self, sparsity: Any) -> sp.csr_array:
        name = self.names["sparsity"]
        csr = sp.csr_array(sparsity if sp.issparse(sparsity) else np.atleast_2d(np.asarray(sparsity) != 0))
        needed = (self.m, self._variables.n_all)
        if tuple(csr.shape) != needed:
            raise ValueError(f"`{name}` has shape {tuple(csr.shape)}; {needed} is needed")
        return csr

    def fresh_value(self, x: np.ndarray) -> np.ndarray:
        """c at `x`, not remembered."""
        self.n_values += 1
        size = None if self.m < 0 else self.m
        return returned_vector(self.names["fun"], self._fun(self._variables.expand(x), *self._args), size)

    def complex_value(self, x: np.ndarray) -> np.ndarray:
        """c at a complex point."""
        self.n_values += 1
        returned = self._fun(self._variables.expand(x), *self._args)
        return complex_vector(self.names["fun"], returned, self.m, f"{self.names['jac']}='cs'")

    def value(self, x: np.ndarray) -> np.ndarray:
        """c(x), shape (m,)."""
        known = self._value_memo.get(x)
        return known if known is not None else self._value_memo.put(x, self.fresh_value(x))

    def jacobian(self, x: np.ndarray) -> Matrix:
        """The Jacobian at `x`, (m, N) from the user's `jac`, (m, n) by differences."""
        known = self._jacobian_memo.get(x)
        return known if known is not None else self._jacobian_memo.put(x, self.fresh_jacobian(x))

    def free_jacobian(self, x: np.ndarray) -> Matrix:
        """The columns of the free variables; an operator keeps them all."""
        matrix = self.jacobian(x)
        return self._variables.columns(matrix) if self.full_width else matrix

    def fresh_jacobian(self, x: np.ndarray) -> Matrix:
        """As `jacobian`, not remembered: for points that are visited once."""
        v = self._variables
        self.n_jacobians += 1
        if callable(self._jac):
            returned = self._jac(v.expand(x), *self._args)
            return returned_matrix(self.names["jac"], returned, (self.m, v.n_all))
        return _differences.jacobian(
            self.complex_value if self._jac == "cs" else self.fresh_value,
            x,
            lambda: self.value(x),
            self._jac,
            rel_step=self._rel_step,
            lower=v.lower,
            upper=v.upper,
            grouping=self._grouping,
        )

    def complex_jacobian(self, x: np.ndarray) -> np.ndarray:
        """The user's Jacobian at a complex point, free columns, dense or sparse."""
        self.n_jacobians += 1
        v = self._variables
        returned = self._jac(v.expand(x), *self._args)
        name = self.names["jac"]
        return complex_matrix(name, returned, (self.m, v.n_all), f"{self.names['hess']}='cs'", v)

    def hessian(self, x: np.ndarray, v: np.ndarray) -> Matrix:
        """``sum v_i Hess c_i`` in the free variables, from the user's `hess`."""
        self.n_hessians += 1
        n = self._variables.n_all
        returned = self._hess(self._variables.expand(x), v.copy(), *self._args)
        return self._variables.square(returned_matrix(self.names["hess"], returned, (n, n)))


Block = LinearBlock | NonlinearBlock


def complex_vector(name: str, value: Any, size: int, why: str) -> np.ndarray:
    """What a user function returned at a complex point: complex, 1-D, of length `size`."""
    array = np.atleast_1d(np.asarray(value))
    if array.dtype.kind != "c":
        raise ValueError(
            f"`{why}` needs a `{name}` that computes with complex numbers; it returned {array.dtype}"
        )
    if array.size != size:
        raise ValueError(f"`{name}` returned shape {array.shape}; ({size},) is needed")
    return np.array(array.ravel())


def complex_matrix(
    name: str, value: Any, shape: tuple[int, int], why: str, variables: Variables
) -> np.ndarray | sp.csr_array:
    """The same for a Jacobian; its free columns."""
    if sp.issparse(value):
        matrix: Any = sp.csr_array(value, copy=True)
    elif isinstance(value, LinearOperator):
        raise TypeError(f"`{why}` needs a `{name}` that returns arrays, not operators")
    else:
        matrix = np.array(value)
        if matrix.ndim < 2 and matrix.size == shape[0] * shape[1]:
            matrix = matrix.reshape(shape)
    if tuple(matrix.shape) != shape:
        raise ValueError(f"`{name}` returned shape {tuple(matrix.shape)}; {shape} is needed")
    # A Jacobian that is constant may stay real: its derivative is zero.
    return variables.columns(matrix.astype(np.complex128))


_DICT_KEYS = ("type", "fun", "jac", "args", "hess")


def _from_dict(name: str, given: dict[str, Any], variables: Variables, x_start: np.ndarray) -> NonlinearBlock:
    for key in given:
        if key not in _DICT_KEYS:
            near = difflib.get_close_matches(str(key), _DICT_KEYS, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"`{name}` has the unknown key {key!r}{hint}")
    for key in ("type", "fun"):
        if key not in given:
            raise ValueError(f"`{name}` has no key {key!r}; it has {sorted(map(str, given))}")
    kind = given["type"]
    if not isinstance(kind, str) or kind.lower() not in ("eq", "ineq"):
        raise ValueError(f"`{name}['type']` must be 'eq' or 'ineq'; got {kind!r}")
    args = given.get("args", ())
    names = {
        "fun": f"{name}['fun']",
        "jac": f"{name}['jac']",
        "hess": f"{name}['hess']",
        "lb": f"{name}['type']",
        "ub": f"{name}['type']",
        "rel_step": "finite_diff_rel_step",
        "sparsity": name,
    }
    return NonlinearBlock(
        name,
        names,
        given["fun"],
        given.get("jac"),
        given.get("hess"),
        0.0,
        0.0 if kind.lower() == "eq" else np.inf,
        variables,
        x_start,
        args=args if isinstance(args, tuple) else (args,),
    )


def standard_constraints(constraints: Any, variables: Variables, x_start: np.ndarray) -> list[Block]:
    """The constraints as blocks, in the order given.

    Parameters
    ----------
    constraints : None, one constraint, or a sequence of them
        LinearConstraint, NonlinearConstraint and dicts, mixed.
    variables : Variables
    x_start : ndarray, shape (n,)
        Where nonlinear constraints are evaluated to learn their lengths.

    Raises
    ------
    TypeError
        For an object of another kind, or a part that must be callable and is not.
    ValueError
        For wrong shapes, NaN, lower above upper, and dicts with missing, unknown or wrong keys.
    """
    if constraints is None:
        return []
    single = isinstance(constraints, LinearConstraint | NonlinearConstraint | dict)
    if not single and not isinstance(constraints, Sequence | np.ndarray):
        try:
            constraints = list(constraints)
        except TypeError:
            raise _unknown_constraint("constraints", constraints) from None
    blocks: list[Block] = []
    for i, given in enumerate([constraints] if single else constraints):
        name = "constraints" if single else f"constraints[{i}]"
        if isinstance(given, LinearConstraint):
            blocks.append(LinearBlock(name, given, variables))
        elif isinstance(given, NonlinearConstraint):
            parts = ("fun", "jac", "hess", "lb", "ub")
            names = {part: f"{name}.{part}" for part in parts}
            names |= {
                "rel_step": f"{name}.finite_diff_rel_step",
                "sparsity": f"{name}.finite_diff_jac_sparsity",
            }
            blocks.append(
                NonlinearBlock(
                    name,
                    names,
                    given.fun,
                    given.jac,
                    given.hess,
                    given.lb,
                    given.ub,
                    variables,
                    x_start,
                    rel_step=given.finite_diff_rel_step,
                    sparsity=given.finite_diff_jac_sparsity,
                    keep_feasible=given.keep_feasible,
                )
            )
        elif isinstance(given, dict):
            blocks.append(_from_dict(name, given, variables, x_start))
        else:
            raise _unknown_constraint(name, given)
    return blocks


def _unknown_constraint(name: str, given: Any) -> TypeError:
    hint = "; pass it as `bounds`" if isinstance(given, Bounds) else ""
    return TypeError(
        f"`{name}` must be a LinearConstraint, a NonlinearConstraint or a dict; got {given!r}{hint}"
    )


__all__ = [
    "Block",
    "LinearBlock",
    "Memo",
    "NonlinearBlock",
    "Variables",
    "canonical_csr",
    "complex_matrix",
    "complex_vector",
    "jacobian_option",
    "relative_step",
    "returned_matrix",
    "returned_number",
    "returned_vector",
    "standard_bounds",
    "standard_constraints",
    "under_callers_errors",
]
