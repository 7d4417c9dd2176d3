"""Small constrained problems in closed form, with exact first and second derivatives and known minima.

A problem is written once, as formulas; values, gradients and Hessians come from evaluating the same formulas
in arithmetic on (value, gradient, Hessian), which is exact up to rounding. All of it broadcasts: variables
may be arrays of many points at once. Nothing here needs an optional package.

Most are from the collection of Hock and Schittkowski (HS, S), from Boggs and Tolle (BT), or from CUTEst, and
carry the names they have there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import asin, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, NonlinearConstraint

Array = NDArray[Any]
Formula = Callable[[Sequence[Any]], Any]
Formulas = Callable[[Sequence[Any]], Sequence[Any]]

INF = np.inf


# ------------------------------------------------------------------------------------ second-order numbers


class Taylor:
    """A function of n variables to second order: value (...), slope (..., n), bend (..., n, n)."""

    __array_priority__ = 1000.0  # an ndarray on the left leaves the operation to us

    def __init__(self, value: Any, slope: Any, bend: Any) -> None:
        self.value, self.slope, self.bend = value, slope, bend

    @staticmethod
    def variables(x: Array) -> list[Taylor]:
        """The variables themselves at the points x, shape (..., n)."""
        n = x.shape[-1]
        flat = np.zeros((*x.shape, n))
        return [Taylor(x[..., i], np.broadcast_to(np.eye(n)[i], x.shape), flat) for i in range(n)]

    def through(self, value: Any, first: Any, second: Any) -> Taylor:
        """The composition with a function of one variable, given by its value and derivatives here."""
        first, second = np.asarray(first)[..., None], np.asarray(second)[..., None, None]
        outer = self.slope[..., :, None] * self.slope[..., None, :]
        return Taylor(value, first * self.slope, first[..., None] * self.bend + second * outer)

    def __add__(self, other: Any) -> Taylor:
        if isinstance(other, Taylor):
            return Taylor(self.value + other.value, self.slope + other.slope, self.bend + other.bend)
        return Taylor(self.value + other, self.slope, self.bend)

    def __mul__(self, other: Any) -> Taylor:
        if not isinstance(other, Taylor):
            return Taylor(self.value * other, self.slope * other, self.bend * other)
        a, b = np.asarray(self.value)[..., None], np.asarray(other.value)[..., None]
        cross = self.slope[..., :, None] * other.slope[..., None, :]
        return Taylor(
            self.value * other.value,
            a * other.slope + b * self.slope,
            a[..., None] * other.bend + b[..., None] * self.bend + cross + np.swapaxes(cross, -1, -2),
        )

    def __pow__(self, k: int) -> Taylor:
        v = self.value
        return self.through(v**k, k * v ** (k - 1), k * (k - 1) * v ** max(k - 2, 0))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Taylor:
        return self * -1.0

    def __sub__(self, other: Any) -> Taylor:
        return self + (-other)

    def __rsub__(self, other: Any) -> Taylor:
        return -self + other

    def __truediv__(self, other: float) -> Taylor:
        return self * (1.0 / other)


def sin(x: Any) -> Any:
    if isinstance(x, Taylor):
        return x.through(np.sin(x.value), np.cos(x.value), -np.sin(x.value))
    return np.sin(x)


def log(x: Any) -> Any:
    if isinstance(x, Taylor):
        return x.through(np.log(x.value), 1.0 / x.value, -1.0 / x.value**2)
    return np.log(x)


# --------------------------------------------------------------------------------------------------- a case


@dataclass(frozen=True, eq=False)
class Case:
    """``min f(x)`` subject to ``lower <= c(x) <= upper`` (m rows) and ``xl <= x <= xu``.

    Attributes
    ----------
    name : str
    fun, grad, hess : callables of x
        ``x`` has shape ``(n,)``, or ``(..., n)`` for many points; results ``(...)``, ``(..., n)`` and
        ``(..., n, n)``. One point gives a float.
    cons, jac : callables of x
        ``(..., m)`` and ``(..., m, n)``.
    cons_hess : callable(x, v)
        ``sum_i v_i Hess c_i``, shape ``(..., n, n)``, for ``v`` of shape ``(..., m)``.
    x0 : ndarray, shape (n,)
        The usual start; it may violate bounds.
    lower, upper : ndarray, shape (m,)
        Equal where the row is an equation.
    xl, xu : ndarray, shape (n,)
    f_opt : float
        Objective at the minimum that is usually given.
    f_other : tuple of float
        Objectives at further points that meet the optimality conditions, where a solver may rightly end.
    """

    name: str
    fun: Callable[[Array], Any]
    grad: Callable[[Array], Array]
    hess: Callable[[Array], Array]
    cons: Callable[[Array], Array]
    jac: Callable[[Array], Array]
    cons_hess: Callable[[Array, Array], Array]
    x0: Array
    lower: Array
    upper: Array
    xl: Array
    xu: Array
    f_opt: float
    f_other: tuple[float, ...] = ()

    @property
    def n(self) -> int:
        return len(self.x0)

    @property
    def m(self) -> int:
        return len(self.lower)

    @property
    def equality_only(self) -> bool:
        return bool((self.lower == self.upper).all()) and not self.bounded

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.xl).any() or np.isfinite(self.xu).any())

    def hess_lagrangian(self, x: Array, v: Array) -> Array:
        """Return ``hess(x) + cons_hess(x, v)``."""
        return self.hess(x) + self.cons_hess(x, v) if self.m else self.hess(x)

    @property
    def constraints(self) -> list[NonlinearConstraint]:
        """The rows in SciPy's form; an empty list if there are none."""
        if not self.m:
            return []
        return [NonlinearConstraint(self.cons, self.lower, self.upper, jac=self.jac, hess=self.cons_hess)]

    @property
    def bounds(self) -> Bounds | None:
        return Bounds(self.xl, self.xu) if self.bounded else None

    def optimal(self, value: float, tol: float = 1e-5) -> bool:
        """Whether a value is that of a known minimum, within ``tol * max(1, |f|)``."""
        return any(abs(value - f) <= tol * max(1.0, abs(f)) for f in (self.f_opt, *self.f_other))


def _points(x: Any) -> Array:
    return np.asarray(x, dtype=float)


def case(
    name: str,
    f: Formula,
    c: Formulas | None,
    x0: Iterable[float],
    f_opt: float,
    *,
    lower: Any = 0.0,
    upper: Any = 0.0,
    xl: Any = -INF,
    xu: Any = INF,
    f_other: tuple[float, ...] = (),
) -> Case:
    """Make a case from formulas in the list of variables; rows are equations ``c = 0`` unless told."""
    start = np.array(list(x0), dtype=float)
    n = len(start)
    rows: Formulas = c if c is not None else lambda x: ()
    m = len(rows(list(start)))

    def fun(x: Array) -> Any:
        x = _points(x)
        value = np.broadcast_to(f([x[..., i] for i in range(n)]), x.shape[:-1])
        return float(value) if x.ndim == 1 else np.array(value)

    def objective(x: Array) -> tuple[Array, Any]:
        x = _points(x)
        return x, f(Taylor.variables(x))

    def grad(x: Array) -> Array:
        x, t = objective(x)
        return np.array(t.slope if isinstance(t, Taylor) else np.zeros(x.shape))

    def hess(x: Array) -> Array:
        x, t = objective(x)
        return np.array(t.bend if isinstance(t, Taylor) else np.zeros((*x.shape, n)))

    def cons(x: Array) -> Array:
        x = _points(x)
        if not m:
            return np.zeros((*x.shape[:-1], 0))
        values = rows([x[..., i] for i in range(n)])
        return np.stack([np.broadcast_to(r, x.shape[:-1]) for r in values], axis=-1)

    def jac(x: Array) -> Array:
        x = _points(x)
        if not m:
            return np.zeros((*x.shape[:-1], 0, n))
        return np.stack([np.broadcast_to(r.slope, x.shape) for r in rows(Taylor.variables(x))], axis=-2)

    def cons_hess(x: Array, v: Array) -> Array:
        x, v = _points(x), np.asarray(v, dtype=float)
        out = np.zeros((*x.shape, n))
        for i, r in enumerate(rows(Taylor.variables(x))):
            out = out + v[..., i, None, None] * r.bend
        return out

    def wide(value: Any, size: int) -> Array:
        return np.array(np.broadcast_to(np.asarray(value, dtype=float), (size,)))

    return Case(
        name, fun, grad, hess, cons, jac, cons_hess, start, wide(lower, m), wide(upper, m), wide(xl, n),
        wide(xu, n), float(f_opt), f_other,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- equations alone


def _hs77(x: Sequence[Any]) -> Any:
    a, b, c, d, e = x
    return (a - 1) ** 2 + (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6


def _hs77_rows(x: Sequence[Any]) -> Sequence[Any]:
    a, b, c, d, e = x
    return a**2 * d + sin(d - e) - 2 * sqrt(2), b + c**4 * d**2 - 8 - sqrt(2)


def _hs79(x: Sequence[Any]) -> Any:
    a, b, c, d, e = x
    return (a - 1) ** 2 + (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 4


def _hs100(x: Sequence[Any]) -> Any:
    a, b, c, d, e, f, g = x
    squares = (a - 10) ** 2 + 5 * (b - 12) ** 2 + c**4 + 3 * (d - 11) ** 2 + 10 * e**6
    return squares + 7 * f**2 + g**4 - 4 * f * g - 10 * f - 8 * g


def _hs100_rows(x: Sequence[Any]) -> Sequence[Any]:
    a, b, c, d, e, f, g = x
    return (
        127 - 2 * a**2 - 3 * b**4 - c - 4 * d**2 - 5 * e,
        282 - 7 * a - 3 * b - 10 * c**2 - d + e,
        196 - 23 * a - b**2 - 6 * f**2 + 8 * g,
        -4 * a**2 - b**2 + 3 * a * b - 2 * c**2 - 5 * f + 11 * g,
    )


def _hs51(x: Sequence[Any]) -> Any:
    a, b, c, d, e = x
    return (a - b) ** 2 + (b + c - 2) ** 2 + (d - 1) ** 2 + (e - 1) ** 2


def _hs51_rows(first: float) -> Formulas:
    return lambda x: (x[0] + 3 * x[1] - first, x[2] + x[3] - 2 * x[4], x[1] - x[4])


def _sphere_pair(x: Sequence[Any]) -> Sequence[Any]:
    a, b, c = x
    return a**2 + b**2 + c**2 - 25, 8 * a + 14 * b + 7 * c - 56


_ALPHA, _BETA = asin(sqrt(1 / 4.2)), asin(sqrt(5 / 7.2))


def _equality_cases() -> list[Case]:
    def zero(x: Sequence[Any]) -> Any:
        return 0.0

    return [
        case("HS6", lambda x: (1 - x[0]) ** 2, lambda x: (10 * (x[1] - x[0] ** 2),), (-1.2, 1), 0.0),
        case(
            "HS7",
            lambda x: log(1 + x[0] ** 2) - x[1],
            lambda x: ((1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4,),
            (2, 2),
            -sqrt(3),
        ),
        case(
            "HS26",
            lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
            lambda x: ((1 + x[1] ** 2) * x[0] + x[2] ** 4 - 3,),
            (-2.6, 2, 2),
            0.0,
        ),
        case(
            "HS27",
            lambda x: 0.01 * (x[0] - 1) ** 2 + (x[1] - x[0] ** 2) ** 2,
            lambda x: (x[0] + x[2] ** 2 + 1,),
            (2, 2, 2),
            0.04,
        ),
        case(
            "HS28",
            lambda x: (x[0] + x[1]) ** 2 + (x[1] + x[2]) ** 2,
            lambda x: (x[0] + 2 * x[1] + 3 * x[2] - 1,),
            (-4, 1, 1),
            0.0,
        ),
        case(
            "HS39",
            lambda x: -x[0],
            lambda x: (x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2),
            (2, 2, 2, 2),
            -1.0,
        ),
        case(
            "HS40",
            lambda x: -x[0] * x[1] * x[2] * x[3],
            lambda x: (x[0] ** 3 + x[1] ** 2 - 1, x[0] ** 2 * x[3] - x[2], x[3] ** 2 - x[1]),
            (0.8,) * 4,
            -0.25,
        ),
        case(
            "HS42",
            lambda x: (x[0] - 1) ** 2 + (x[1] - 2) ** 2 + (x[2] - 3) ** 2 + (x[3] - 4) ** 2,
            lambda x: (x[0] - 2, x[2] ** 2 + x[3] ** 2 - 2),
            (1,) * 4,
            28 - 10 * sqrt(2),
        ),
        case(
            "HS46",
            lambda x: (x[0] - x[1]) ** 2 + (x[2] - 1) ** 2 + (x[3] - 1) ** 4 + (x[4] - 1) ** 6,
            lambda x: (x[0] ** 2 * x[3] + sin(x[3] - x[4]) - 1, x[1] + x[2] ** 4 * x[3] ** 2 - 2),
            (sqrt(2) / 2, 1.75, 0.5, 2, 2),
            0.0,
        ),
        case(
            "HS47",
            lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 3 + (x[2] - x[3]) ** 4 + (x[3] - x[4]) ** 4,
            lambda x: (x[0] + x[1] ** 2 + x[2] ** 3 - 3, x[1] - x[2] ** 2 + x[3] - 1, x[0] * x[4] - 1),
            (2, sqrt(2), -1, 2 - sqrt(2), 0.5),
            0.0,
            f_other=(-0.0267141, 10.06991),
        ),
        case(
            "HS48",
            lambda x: (x[0] - 1) ** 2 + (x[1] - x[2]) ** 2 + (x[3] - x[4]) ** 2,
            lambda x: (x[0] + x[1] + x[2] + x[3] + x[4] - 5, x[2] - 2 * (x[3] + x[4]) + 3),
            (3, 5, -3, 2, -2),
            0.0,
        ),
        case(
            "HS49",
            lambda x: (x[0] - x[1]) ** 2 + (x[2] - 1) ** 2 + (x[3] - 1) ** 4 + (x[4] - 1) ** 6,
            lambda x: (x[0] + x[1] + x[2] + 4 * x[3] - 7, x[2] + 5 * x[4] - 6),
            (10, 7, 2, -3, 0.8),
            0.0,
        ),
        case(
            "HS50",
            lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 2 + (x[2] - x[3]) ** 4 + (x[3] - x[4]) ** 2,
            lambda x: [x[i] + 2 * x[i + 1] + 3 * x[i + 2] - 6 for i in range(3)],
            (35, -31, 11, 5, -5),
            0.0,
        ),
        case("HS51", _hs51, _hs51_rows(4), (2.5, 0.5, 2, -1, 0.5), 0.0),
        case(
            "HS52",
            lambda x: (4 * x[0] - x[1]) ** 2 + (x[1] + x[2] - 2) ** 2 + (x[3] - 1) ** 2 + (x[4] - 1) ** 2,
            _hs51_rows(0),
            (2,) * 5,
            1859 / 349,
        ),
        case(
            "HS56",
            lambda x: -x[0] * x[1] * x[2],
            lambda x: (
                x[0] - 4.2 * sin(x[3]) ** 2,
                x[1] - 4.2 * sin(x[4]) ** 2,
                x[2] - 4.2 * sin(x[5]) ** 2,
                x[0] + 2 * x[1] + 2 * x[2] - 7.2 * sin(x[6]) ** 2,
            ),
            (1, 1, 1, _ALPHA, _ALPHA, _ALPHA, _BETA),
            -3.456,
        ),
        case(
            "HS61",
            lambda x: 4 * x[0] ** 2 + 2 * x[1] ** 2 + 2 * x[2] ** 2 - 33 * x[0] + 16 * x[1] - 24 * x[2],
            lambda x: (3 * x[0] - 2 * x[1] ** 2 - 7, 4 * x[0] - x[2] ** 2 - 11),
            (0, 0, 0),
            -143.6461422,
        ),
        case("HS77", _hs77, _hs77_rows, (2,) * 5, 0.24150513),
        case(
            "HS78",
            lambda x: x[0] * x[1] * x[2] * x[3] * x[4],
            lambda x: (
                x[0] ** 2 + x[1] ** 2 + x[2] ** 2 + x[3] ** 2 + x[4] ** 2 - 10,
                x[1] * x[2] - 5 * x[3] * x[4],
                x[0] ** 3 + x[1] ** 3 + 1,
            ),
            (-2, 1.5, 2, -1, -1),
            -2.91970041,
        ),
        case(
            "HS79",
            _hs79,
            lambda x: (
                x[0] + x[1] ** 2 + x[2] ** 3 - 2 - 3 * sqrt(2),
                x[1] - x[2] ** 2 + x[3] + 2 - 2 * sqrt(2),
                x[0] * x[4] - 2,
            ),
            (2,) * 5,
            0.07877682,
        ),
        case("HS100LNP", _hs100, lambda x: _hs100_rows(x)[::3], (1, 2, 0, 4, 0, 1, 1), 680.6300573),
        case(
            "BT1",
            lambda x: 100 * x[0] ** 2 + 100 * x[1] ** 2 - x[0] - 100,
            lambda x: (x[0] ** 2 + x[1] ** 2 - 1,),
            (0.08, 0.06),
            -1.0,
        ),
        case(
            "BT2",
            lambda x: (x[0] - 1) ** 2 + (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
            lambda x: (x[0] * (1 + x[1] ** 2) + x[2] ** 4 - 4 - 3 * sqrt(2),),
            (10, 10, 10),
            0.0325682,
        ),
        case("BT3", _hs51, _hs51_rows(0), (20,) * 5, 176 / 43),
        case(
            "BT4",
            lambda x: x[0] - x[1] + x[1] ** 3,
            lambda x: (x[0] ** 2 + x[1] ** 2 + x[2] ** 2 - 25, x[0] + x[1] + x[2] - 1),
            (4.0382, -2.9470, -0.09115),
            -45.510551,
            f_other=(3.28903771, -3.70476828),
        ),
        case(
            "BT5",
            lambda x: 1000 - x[0] ** 2 - 2 * x[1] ** 2 - x[2] ** 2 - x[0] * x[1] - x[0] * x[2],
            _sphere_pair,
            (2,) * 3,
            961.7151721,
        ),
        case(
            "BT6",
            _hs77,
            lambda x: (
                x[0] ** 2 * x[3] + sin(x[3] - x[4]) - 2 * sqrt(2),
                x[1] + x[2] ** 4 * x[1] ** 2 - 8 - sqrt(2),
            ),
            (2,) * 5,
            0.277044924,
        ),
        case(
            "BT7",
            lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (x[0] - 1) ** 2,
            lambda x: (
                x[0] * x[1] - x[2] ** 2 - 1,
                x[1] ** 2 - x[3] ** 2 + x[0],
                x[0] + x[4] ** 2 - 0.5,
            ),
            (-2, 1, 1, 1, 1),
            306.5,
            f_other=(360.379767,),
        ),
        case(
            "BT8",
            lambda x: x[0] ** 2 + x[1] ** 2 + x[2] ** 2,
            lambda x: (x[0] + x[1] ** 2 - x[3] ** 2 - 1, x[0] ** 2 + x[1] ** 2 - x[4] ** 2 - 1),
            (1, 1, 1, 0, 0),
            1.0,
        ),
        case(
            "BT9",
            lambda x: -x[0],
            lambda x: (x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2),
            (2,) * 4,
            -1.0,
        ),
        case("BT10", lambda x: -x[0], lambda x: (x[1] - x[0] ** 3, x[0] ** 2 - x[1]), (2, 2), -1.0),
        case(
            "BT11",
            _hs79,
            lambda x: (
                x[0] + x[1] ** 2 + x[2] ** 3 + 2 - sqrt(18),
                x[1] - x[2] ** 2 + x[3] + 2 - sqrt(8),
                x[0] - x[4] - 2,
            ),
            (2,) * 5,
            0.824891647,
        ),
        case(
            "BT12",
            lambda x: 0.01 * x[0] ** 2 + x[1] ** 2,
            lambda x: (
                x[0] + x[1] - x[2] ** 2 - 25,
                x[0] ** 2 + x[1] ** 2 - x[3] ** 2 - 25,
                x[0] - x[4] ** 2 - 2,
            ),
            (15.811, 1.5811, 0, 15.083, 3.7164),
            6.188119,
        ),
        case(
            "BYRDSPHR",
            lambda x: -x[0] - x[1] - x[2],
            lambda x: (
                x[0] ** 2 + x[1] ** 2 + x[2] ** 2 - 9,
                (x[0] - 1) ** 2 + x[1] ** 2 + x[2] ** 2 - 9,
            ),
            (5, 0.0001, -0.0001),
            -0.5 - sqrt(17.5),
        ),
        case(
            "MARATOS",
            lambda x: -x[0] + 1e-6 * (x[0] ** 2 + x[1] ** 2 - 1),
            lambda x: (x[0] ** 2 + x[1] ** 2 - 1,),
            (1.1, 0.1),
            -1.0,
        ),
        case(
            "S316-322",
            lambda x: (x[0] - 20) ** 2 + (x[1] + 20) ** 2,
            lambda x: (0.01 * x[0] ** 2 + 0.01 * x[1] ** 2 - 1,),
            (0, 0),
            900 - 400 * sqrt(2),
        ),
        # Systems of equations: their Jacobians lose rank on the way.
        case(
            "GOTTFR",
            zero,
            lambda x: (
                x[0] - 0.1136 * (x[0] + 3 * x[1]) * (1 - x[0]),
                x[1] + 7.5 * (2 * x[0] - x[1]) * (1 - x[1]),
            ),
            (0.5, 0.5),
            0.0,
        ),
        case(
            "PRICE4NE",
            zero,
            lambda x: (2 * x[0] ** 3 * x[1] - x[1] ** 3, 6 * x[0] - x[1] ** 2 + x[1]),
            (1, 5),
            0.0,
        ),
    ]


# -------------------------------------------------------------------------------- inequalities and bounds


def _rosenbrock(x: Sequence[Any]) -> Any:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def _hs113(x: Sequence[Any]) -> Any:
    a, b, c, d, e, f, g, h, i, j = x
    cross = a**2 + b**2 + a * b - 14 * a - 16 * b + (c - 10) ** 2 + 4 * (d - 5) ** 2 + (e - 3) ** 2
    return cross + 2 * (f - 1) ** 2 + 5 * g**2 + 7 * (h - 11) ** 2 + 2 * (i - 10) ** 2 + (j - 7) ** 2 + 45


def _hs113_rows(x: Sequence[Any]) -> Sequence[Any]:
    a, b, c, d, e, f, g, h, i, j = x
    return (
        105 - 4 * a - 5 * b + 3 * g - 9 * h,
        -10 * a + 8 * b + 17 * g - 2 * h,
        8 * a - 2 * b - 5 * i + 2 * j + 12,
        -3 * (a - 2) ** 2 - 4 * (b - 3) ** 2 - 2 * c**2 + 7 * d + 120,
        -5 * a**2 - 8 * b - (c - 6) ** 2 + 2 * d + 40,
        -0.5 * (a - 8) ** 2 - 2 * (b - 4) ** 2 - 3 * e**2 + f + 30,
        -(a**2) - 2 * (b - 2) ** 2 + 2 * a * b - 14 * e + 6 * f,
        3 * a - 6 * b - 12 * (i - 8) ** 2 + 7 * j,
    )


def _hs43_rows(x: Sequence[Any]) -> Sequence[Any]:
    a, b, c, d = x
    return (
        8 - a**2 - b**2 - c**2 - d**2 - a + b - c + d,
        10 - a**2 - 2 * b**2 - c**2 - 2 * d**2 + a + d,
        5 - 2 * a**2 - b**2 - c**2 - 2 * a + b + d,
    )


def _inequality_cases() -> list[Case]:
    above = {"lower": 0.0, "upper": INF}
    return [
        case(
            "HS10",
            lambda x: x[0] - x[1],
            lambda x: (-3 * x[0] ** 2 + 2 * x[0] * x[1] - x[1] ** 2 + 1,),
            (-10, 10),
            -1.0,
            **above,
        ),
        case(
            "HS11",
            lambda x: (x[0] - 5) ** 2 + x[1] ** 2 - 25,
            lambda x: (-(x[0] ** 2) + x[1],),
            (4.9, 0.1),
            -8.498464223,
            **above,
        ),
        # No multipliers exist at the minimum.
        case(
            "HS13",
            lambda x: (x[0] - 2) ** 2 + x[1] ** 2,
            lambda x: ((1 - x[0]) ** 3 - x[1],),
            (-2, -2),
            1.0,
            xl=0.0,
            **above,
        ),
        case(
            "HS14",
            lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
            lambda x: (-0.25 * x[0] ** 2 - x[1] ** 2 + 1, x[0] - 2 * x[1] + 1),
            (2, 2),
            9 - 2.875 * sqrt(7),
            lower=0.0,
            upper=(INF, 0.0),
        ),
        case(
            "HS15",
            _rosenbrock,
            lambda x: (x[0] * x[1] - 1, x[0] + x[1] ** 2),
            (-2, 1),
            306.5,
            xu=(0.5, INF),
            f_other=(360.379767,),
            **above,
        ),
        case(
            "HS21",
            lambda x: 0.01 * x[0] ** 2 + x[1] ** 2 - 100,
            lambda x: (10 * x[0] - x[1] - 10,),
            (-1, -1),
            -99.96,
            xl=(2, -50),
            xu=50,
            **above,
        ),
        case(
            "HS24",
            lambda x: ((x[0] - 3) ** 2 - 9) * x[1] ** 3 / (27 * sqrt(3)),
            lambda x: (
                x[0] / sqrt(3) - x[1],
                x[0] + sqrt(3) * x[1],
                -x[0] - sqrt(3) * x[1] + 6,
            ),
            (1, 0.5),
            -1.0,
            xl=0.0,
            f_other=(0.0,),
            **above,
        ),
        case(
            "HS29",
            lambda x: -x[0] * x[1] * x[2],
            lambda x: (-(x[0] ** 2) - 2 * x[1] ** 2 - 4 * x[2] ** 2 + 48,),
            (1, 1, 1),
            -16 * sqrt(2),
            **above,
        ),
        case(
            "HS33",
            lambda x: (x[0] - 1) * (x[0] - 2) * (x[0] - 3) + x[2],
            lambda x: (x[2] ** 2 - x[1] ** 2 - x[0] ** 2, x[0] ** 2 + x[1] ** 2 + x[2] ** 2 - 4),
            (0, 0, 3),
            sqrt(2) - 6,
            xl=0.0,
            xu=(INF, INF, 5),
            f_other=(-4.0, 2.0),
            **above,
        ),
        case(
            "HS35",
            lambda x: (
                9
                - 8 * x[0]
                - 6 * x[1]
                - 4 * x[2]
                + 2 * x[0] ** 2
                + 2 * x[1] ** 2
                + x[2] ** 2
                + 2 * x[0] * x[1]
                + 2 * x[0] * x[2]
            ),
            lambda x: (3 - x[0] - x[1] - 2 * x[2],),
            (0.5,) * 3,
            1 / 9,
            xl=0.0,
            **above,
        ),
        case(
            "HS43",
            lambda x: (
                x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2 - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3]
            ),
            _hs43_rows,
            (0,) * 4,
            -44.0,
            **above,
        ),
        case(
            "HS65",
            lambda x: (x[0] - x[1]) ** 2 + (x[0] + x[1] - 10) ** 2 / 9 + (x[2] - 5) ** 2,
            lambda x: (48 - x[0] ** 2 - x[1] ** 2 - x[2] ** 2,),
            (-5, 5, 0),
            0.9535288567,
            xl=(-4.5, -4.5, -5),
            xu=(4.5, 4.5, 5),
            **above,
        ),
        case(
            "HS71",
            lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
            lambda x: (x[0] * x[1] * x[2] * x[3] - 25, x[0] ** 2 + x[1] ** 2 + x[2] ** 2 + x[3] ** 2 - 40),
            (1, 5, 5, 1),
            17.0140173,
            lower=0.0,
            upper=(INF, 0.0),
            xl=1.0,
            xu=5.0,
        ),
        case(
            "HS76",
            lambda x: (
                x[0] ** 2
                + 0.5 * x[1] ** 2
                + x[2] ** 2
                + 0.5 * x[3] ** 2
                - x[0] * x[2]
                + x[2] * x[3]
                - x[0]
                - 3 * x[1]
                + x[2]
                - x[3]
            ),
            lambda x: (
                5 - x[0] - 2 * x[1] - x[2] - x[3],
                4 - 3 * x[0] - x[1] - 2 * x[2] + x[3],
                x[1] + 4 * x[2] - 1.5,
            ),
            (0.5,) * 4,
            -4.681818182,
            xl=0.0,
            **above,
        ),
        case("HS100", _hs100, _hs100_rows, (1, 2, 0, 4, 0, 1, 1), 680.6300573, **above),
        case("HS113", _hs113, _hs113_rows, (2, 3, 5, 5, 1, 2, 7, 3, 6, 10), 24.3062091, **above),
        case(
            "BT13",
            lambda x: x[4],
            lambda x: (
                x[0] ** 2
                + (x[0] - 2 * x[1]) ** 2
                + (x[1] - 3 * x[2]) ** 2
                + (x[2] - 4 * x[3]) ** 2
                - x[4] ** 2,
            ),
            (1, 2, 3, 3, 228),
            0.0,
            xl=(-INF, -INF, -INF, -INF, 0.0),
        ),
        case("ROSENBR-BOX", _rosenbrock, None, (-1.2, 1), 0.25, xl=(-2, -1.5), xu=(0.5, 2)),
        case("HS1", _rosenbrock, None, (-2, 1), 0.0, xl=(-INF, -1.5)),
    ]


EQUALITY: tuple[Case, ...] = tuple(_equality_cases())
INEQUALITY: tuple[Case, ...] = tuple(_inequality_cases())
CASES: dict[str, Case] = {p.name: p for p in (*EQUALITY, *INEQUALITY)}
# Names in CUTEst's Python form where they differ; the boxed Rosenbrock function is not among them.
CUTEST_NAMES: dict[str, str] = {"S316-322": "S316m322"}
