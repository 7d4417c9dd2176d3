"""A cost between two clouds of points that is never stored, and the ``ot_*`` calls for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _arrays

_APART = 8.0  # clouds whose means are farther apart than so many radii are centred each by itself
_PLAIN = 200  # clouds of extent 2**-_PLAIN .. 2**_PLAIN need no scaling: squares and their sums fit
_ROOM = 1000  # reg over the unit of cost stays within 2**-_ROOM .. 2**_ROOM


class PointCost:
    """``metric(X_i, Y_j) / scale`` by formula, in the place of an array of shape (n, m).

    Coordinates are float64, centred and multiplied such that the native metrics need no factor; the cosine
    distance becomes half a squared distance of unit vectors. Where squares of coordinates would leave the
    range, native costs are costs over a power of two. Of far squared distances only the part that is not a
    row plus a column is kept; `shift` has the rest.

    Parameters
    ----------
    X, Y : array of shape (n, d), (m, d)
        Points, float32 or float64, of NumPy or CuPy.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        Distance.
    scale : float
        What costs are divided by.
    reg : float
        Regularisation that the costs will meet.
    may_shift : bool
        Terms of a row or of a column may be left to `shift`.

    Attributes
    ----------
    shift : (array of shape (n,), array of shape (m,)) or None
        ``shift[0][i] + shift[1][j]`` is missing from the costs.
    calls, xp : modules
        What computes with the points, and the module of their arrays.

    Raises
    ------
    ValueError
        A zero vector where the metric is "cosine"; costs beyond the double range.
    """

    shift: tuple[Any, Any] | None
    _distance: Any  # between the clouds' means, where costs are squared distances

    def __init__(self, X: Any, Y: Any, metric: str, scale: float, reg: float, may_shift: bool) -> None:
        xp = _arrays.of(X)[1]
        self.dtype = np.result_type(X.dtype, Y.dtype)
        self.metric = "sqeuclidean" if metric == "cosine" else metric
        self._factor = 1.0 / scale
        if metric == "cosine":
            self._factor = (0.5 / scale) ** 0.5
        elif metric == "sqeuclidean":
            self._factor = (1.0 / scale) ** 0.5
        clouds, self._norms = [], None
        self._exponent = self._unit = 0
        self.shift, self._distance = None, None
        self._apart = False
        if metric == "cosine":
            norms = []
            for name, Z in (("X", X), ("Y", Y)):
                Z = Z.astype(np.float64)
                largest = abs(Z).max(axis=1, keepdims=True)
                if not bool(largest.all()):
                    raise ValueError(
                        f"`{name}` has a zero vector at index {int(largest.argmin())}; cosine "
                        "distances need a direction"
                    )
                Z /= largest  # squares neither overflow nor vanish
                length = xp.sqrt(xp.einsum("ij,ij->i", Z, Z))[:, None]
                clouds.append(Z / length * self._factor)
                norms.append(length * largest)
            self._norms = (norms[0], norms[1])
        else:
            clouds = self._prepared(X, Y, reg, may_shift)
        self.X, self.Y = (xp.ascontiguousarray(Z) for Z in clouds)
        self.shape = (len(X), len(Y))
        if self._apart:
            self.shift = self.moves()
        parts = [self.spread()] + [float(abs(q).max()) for q in self.shift or ()]
        if not np.isfinite(parts).all():
            largest = [float(abs(Z).max()) for Z in (X, Y)]
            raise ValueError(
                f"`X` and `Y` have coordinates up to {largest[0]!r} and {largest[1]!r} in modulus; their "
                f"{metric} costs over {scale!r} exceed the double range"
            )

    @property
    def calls(self) -> Any:
        """The compiled module of the points, or what stands for it."""
        return _arrays.of(self.X)[0]

    @property
    def xp(self) -> Any:
        """The module of the points' arrays."""
        return _arrays.of(self.X)[1]

    def _prepared(self, X: Any, Y: Any, reg: float, may_shift: bool) -> list[Any]:
        """The clouds, centred, times the factor over ``2**self._exponent``."""
        xp = _arrays.of(X)[1]
        start = _exponent(max(float(abs(Z).max()) for Z in (X, Y)))
        start = start if abs(start) > _PLAIN else 0  # powers of two: exact, and means do not overflow
        clouds = [xp.ldexp(Z.astype(np.float64), -start) for Z in (X, Y)]
        means = [Z.mean(axis=0) for Z in clouds]
        middle = 0.5 * means[0] + 0.5 * means[1]
        apart = means[0] - means[1]
        if self.metric == "sqeuclidean" and may_shift:
            radii = (_radius(Z - mean, xp) for Z, mean in zip(clouds, means, strict=True))
            self._apart = float(xp.linalg.norm(apart)) > _APART * max(radii)
        mantissa, power = np.frexp(self._factor)
        # Near the origin the factor's rounding is that of the differences.
        origins = means if self._apart else (middle, middle)
        clouds = [(Z - origin) * mantissa for Z, origin in zip(clouds, origins, strict=True)]
        start += int(power)
        extent = start + _exponent(max(float(abs(Z).max()) for Z in clouds))
        degree = 2 if self.metric == "sqeuclidean" else 1
        if abs(extent) > _PLAIN:
            lowest, highest = ((_exponent(reg) + side) // degree for side in (-_ROOM, _ROOM))
            self._exponent = min(max(extent, lowest), highest)
        self._unit = degree * self._exponent
        if self.metric == "sqeuclidean":
            self._distance = xp.ldexp(apart * mantissa, start)
        return [xp.ldexp(Z, start - self._exponent) for Z in clouds]

    @property
    def has_moves(self) -> bool:
        """Whether the costs are squared distances of clouds that may lie anywhere."""
        return self._distance is not None

    def moves(self) -> tuple[Any, Any]:
        """Terms (r, s) such that the squared distances less ``r_i + s_j`` ignore translations of a cloud."""
        xp, distance = self.xp, self._distance
        clouds = [xp.ldexp(Z, self._exponent) for Z in (self.X, self.Y)]
        own = clouds if self._apart else [Z - Z.mean(axis=0) for Z in clouds]
        with np.errstate(over="ignore", invalid="ignore"):
            return 2.0 * (own[0] @ distance), float(distance @ distance) - 2.0 * (own[1] @ distance)

    def in_units(self, reg: float, *potentials: Any) -> tuple[Any, ...]:
        """`reg` and potentials in the unit of the native costs."""
        if self._unit == 0:
            return (reg, *potentials)
        xp = self.xp
        return (float(np.ldexp(reg, -self._unit)), *(xp.ldexp(q, -self._unit) for q in potentials))

    def _with(self, X: Any, Y: Any, norms: Any) -> PointCost:
        view = PointCost.__new__(PointCost)
        view.__dict__.update(self.__dict__)
        view.X, view.Y, view._norms, view.shape = X, Y, norms, (len(X), len(Y))
        return view

    @property
    def T(self) -> PointCost:
        """The costs from Y to X."""
        view = self._with(self.Y, self.X, None if self._norms is None else self._norms[::-1])
        view.shift = None if self.shift is None else self.shift[::-1]
        view._distance = None if self._distance is None else -self._distance
        return view

    def __getitem__(self, index: Any) -> PointCost:
        """Some rows, or ``[rows, columns]``."""
        rows, cols = index if isinstance(index, tuple) else (index, slice(None))
        norms = None if self._norms is None else (self._norms[0][rows], self._norms[1][cols])
        xp = self.xp
        return self._with(xp.ascontiguousarray(self.X[rows]), xp.ascontiguousarray(self.Y[cols]), norms)

    def spread(self) -> float:
        """A bound on largest minus smallest cost, from the clouds' boxes and radii. O((n + m) d)."""
        xp = self.xp
        lo, hi = [Z.min(axis=0) for Z in (self.X, self.Y)], [Z.max(axis=0) for Z in (self.X, self.Y)]
        middle = 0.5 * (xp.minimum(*lo) + xp.maximum(*hi))
        far = xp.maximum(hi[0] - lo[1], hi[1] - lo[0])
        near = xp.maximum(xp.maximum(lo[0] - hi[1], lo[1] - hi[0]), 0.0)
        if self.metric == "cityblock":
            radii = sum(float(abs(Z - middle).sum(axis=1).max()) for Z in (self.X, self.Y))
            return float(np.ldexp(min(float(far.sum()), radii) - float(near.sum()), self._unit))
        radii = sum(_radius(Z - middle, xp) for Z in (self.X, self.Y))
        most, least = min(float(xp.linalg.norm(far)), radii), float(xp.linalg.norm(near))
        with np.errstate(over="ignore"):
            spread = max(0.0, most**2 - least**2 if self.metric == "sqeuclidean" else most - least)
            return float(np.ldexp(spread, self._unit))

    def pull(self, reg: float, x: Any, y: Any, threads: int = 0) -> Any:
        """``sum_j P_ij dC_ij / dX_i`` for the plan of the potentials x, y; shape (n, d)."""
        xp, calls = self.xp, self.calls
        out = xp.empty_like(self.X)
        reg, x, y = self.in_units(reg, x, y)
        calls.ot_points_pull(self.X, self.Y, self.metric, reg, x, y, out, threads)
        if self.shift is not None:
            ones, sums = xp.ones((1, self.shape[1])), xp.empty((1, self.shape[0]))
            calls.ot_points_times(self.X, self.Y, self.metric, reg, x, y, ones, sums, threads)
            out += self._slope_of_shift(sums[0])
        return self._to_input(out)

    def pull_weighted(self, W: Any) -> tuple[Any, Any]:
        """``sum_j W_ij dC_ij / dX_i`` and ``sum_i W_ij dC_ij / dY_j``, by blocks of 256 rows."""
        xp = self.xp
        grad_x, grad_y = xp.zeros_like(self.X), xp.zeros_like(self.Y)
        for start in range(0, self.shape[0], 256):
            part = slice(start, start + 256)
            delta = self.X[part, None, :] - self.Y[None, :, :]
            weight = W[part, :, None]
            if self.metric == "cityblock":
                slope = weight * xp.sign(delta)
            elif self.metric == "sqeuclidean":
                slope = weight * (2.0 * delta)
            else:
                length = xp.sqrt((delta * delta).sum(axis=2, keepdims=True))
                slope = weight * (delta / xp.where(length > 0, length, 1.0))  # 0 where points agree
            grad_x[part] = slope.sum(axis=1)
            grad_y -= slope.sum(axis=0)
        if self.shift is not None:
            grad_x += self._slope_of_shift(W.sum(axis=1))
            grad_y += self.T._slope_of_shift(W.sum(axis=0))
        return self._to_input(grad_x), self.T._to_input(grad_y)

    def _slope_of_shift(self, sums: Any) -> Any:
        """What `shift` adds to the gradient for the prepared rows, whose weights have these sums."""
        return 2.0 * sums[:, None] * self.xp.ldexp(self._distance, -self._exponent)

    def _to_input(self, grad: Any) -> Any:
        """A gradient for the prepared rows as one for the given points."""
        if self._norms is None:
            return self.xp.ldexp(grad * self._factor, self._unit - self._exponent)
        unit = self.X / self._factor
        return (self._factor / self._norms[0]) * (grad - unit * (unit * grad).sum(axis=1, keepdims=True))

    def toarray(self) -> Any:
        """The costs, float64."""
        xp = self.xp
        out = xp.zeros(self.shape)
        for k in range(self.X.shape[1]):
            delta = self.X[:, k, None] - self.Y[None, :, k]
            out += abs(delta) if self.metric == "cityblock" else delta * delta
        return xp.ldexp(xp.sqrt(out) if self.metric == "euclidean" else out, self._unit)


def _radius(Z: Any, xp: Any) -> float:
    """The largest 2-norm of a row."""
    return float(xp.linalg.norm(Z, axis=1).max())


def _exponent(x: float) -> int:
    """e of ``x = t * 2**e`` with t in [1/2, 1)."""
    return int(np.frexp(x)[1])


# The calls of `aitken._core` for such a cost: same names, same arguments, same meaning.


def ot_solve(
    M: PointCost,
    a: Any,
    b: Any,
    range: float,
    x: Any,
    y: Any,
    plan: Any,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]:
    """Solve one problem; x, y (in: start, out: solution) and plan (float64) are written in place."""
    unit = M._unit
    if unit == 0:
        return M.calls.ot_points_solve(M.X, M.Y, M.metric, a, b, range, x, y, plan, options, callback)
    scaled = dict(options)
    for name in ("reg", "rho_a", "rho_b"):
        if name in options:
            scaled[name] = float(np.ldexp(options[name], -unit))
    range, native_x, native_y = M.in_units(range, x, y)

    def restored(step: dict[str, Any]) -> dict[str, Any]:
        return {**step, "eps": float(np.ldexp(step["eps"], unit))}

    told = None if callback is None else lambda step: callback(restored(step))
    report = dict(
        M.calls.ot_points_solve(M.X, M.Y, M.metric, a, b, range, native_x, native_y, plan, scaled, told)
    )
    x[:], y[:] = M.xp.ldexp(native_x, unit), M.xp.ldexp(native_y, unit)
    for name in ("value_linear", "gauge"):
        report[name] = float(np.ldexp(report[name], unit))
    report["history"] = [restored(step) for step in report["history"]]
    return report


def ot_adjoint(
    M: PointCost,
    a: Any,
    b: Any,
    range: float,
    x: Any,
    y: Any,
    w: Any,
    z: Any,
    p: Any,
    q: Any,
    plan: Any,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Solve H [p; q] = [w; z] with the Hessian at (x, y)."""
    names = [name for name in ("reg", "rho_a", "rho_b") if name in options]
    options = {**options, **{name: float(np.ldexp(options[name], -M._unit)) for name in names}}
    range, x, y = M.in_units(range, x, y)
    return M.calls.ot_points_adjoint(M.X, M.Y, M.metric, a, b, range, x, y, w, z, p, q, plan, options)


def ot_plan_times(
    M: PointCost, reg: float, x: Any, y: Any, transposed: bool, v: Any, out: Any, n_threads: int
) -> None:
    """Compute out = P v or P^T v; v and out may be rows of several vectors."""
    if transposed:
        M, x, y = M.T, y, x
    if v.ndim == 1:
        v, out = v[None, :], out[None, :]
    reg, x, y = M.in_units(reg, x, y)
    M.calls.ot_points_times(M.X, M.Y, M.metric, reg, x, y, v, out, n_threads)


def ot_plan_rows(M: PointCost, reg: float, x: Any, y: Any, first: int, out: Any, n_threads: int) -> None:
    """Rows first .. first + len(out) of P."""
    reg, x, y = M.in_units(reg, x, y)
    M.calls.ot_points_rows(M.X, M.Y, M.metric, reg, x, y, first, out, n_threads)


def ot_c_transform(
    M: PointCost, reg: float, transposed: bool, potential: Any, out: Any, n_threads: int
) -> None:
    """-reg log-sum-exp of (potential - M)/reg over columns (transposed: over rows)."""
    if transposed:
        M = M.T
    reg, potential = M.in_units(reg, potential)
    M.calls.ot_points_transform(M.X, M.Y, M.metric, reg, potential, out, n_threads)
    if M._unit:
        out[...] = M.xp.ldexp(out, M._unit)


def ot_compress(
    M: PointCost, reg: float, x: Any, y: Any, a: Any, b: Any, drop: float, n_threads: int
) -> tuple[Any, Any, Any]:
    """(indptr, indices, values) of the entries above drop * min(a_i / m, b_j / n)."""
    reg, x, y = M.in_units(reg, x, y)
    return M.calls.ot_points_compress(M.X, M.Y, M.metric, reg, x, y, a, b, drop, n_threads)
