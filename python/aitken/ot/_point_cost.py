"""A cost between two clouds of points that is never stored, and the ``ot_*`` calls for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core


class PointCost:
    """``metric(X_i, Y_j) / scale`` by formula, in the place of an array of shape (n, m).

    Coordinates are float64, centred and multiplied such that the native metrics need no factor; the cosine
    distance becomes half a squared distance of unit vectors.

    Parameters
    ----------
    X, Y : ndarray of shape (n, d), (m, d)
        Points, float32 or float64.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        Distance.
    scale : float
        What costs are divided by.

    Raises
    ------
    ValueError
        A zero vector where the metric is "cosine".
    """

    def __init__(self, X: np.ndarray, Y: np.ndarray, metric: str, scale: float) -> None:
        self.dtype = np.result_type(X.dtype, Y.dtype)
        self.metric = "sqeuclidean" if metric == "cosine" else metric
        self._factor = 1.0 / scale
        if metric == "cosine":
            self._factor = (0.5 / scale) ** 0.5
        elif metric == "sqeuclidean":
            self._factor = (1.0 / scale) ** 0.5
        clouds, self._norms = [], None
        if metric == "cosine":
            norms = []
            for name, Z in (("X", X), ("Y", Y)):
                Z = Z.astype(np.float64)
                largest = np.abs(Z).max(axis=1, keepdims=True, initial=0.0)
                if not largest.all():
                    raise ValueError(
                        f"`{name}` has a zero vector at index {int(largest.argmin())}; cosine "
                        "distances need a direction"
                    )
                Z /= largest  # squares neither overflow nor vanish
                length = np.sqrt(np.einsum("ij,ij->i", Z, Z))[:, None]
                clouds.append(Z / length * self._factor)
                norms.append(length * largest)
            self._norms = (norms[0], norms[1])
        else:
            # Near the origin the factor's rounding is that of the differences.
            middle = 0.5 * X.mean(axis=0, dtype=np.float64) + 0.5 * Y.mean(axis=0, dtype=np.float64)
            clouds = [(Z - middle) * self._factor for Z in (X, Y)]
        self.X, self.Y = (np.ascontiguousarray(Z) for Z in clouds)
        self.shape = (len(X), len(Y))

    def _with(self, X: np.ndarray, Y: np.ndarray, norms: Any) -> PointCost:
        view = PointCost.__new__(PointCost)
        view.__dict__.update(self.__dict__)
        view.X, view.Y, view._norms, view.shape = X, Y, norms, (len(X), len(Y))
        return view

    @property
    def T(self) -> PointCost:
        """The costs from Y to X."""
        return self._with(self.Y, self.X, None if self._norms is None else self._norms[::-1])

    def __getitem__(self, index: Any) -> PointCost:
        """Some rows, or ``[rows, columns]``."""
        rows, cols = index if isinstance(index, tuple) else (index, slice(None))
        norms = None if self._norms is None else (self._norms[0][rows], self._norms[1][cols])
        return self._with(np.ascontiguousarray(self.X[rows]), np.ascontiguousarray(self.Y[cols]), norms)

    def spread(self) -> float:
        """A bound on largest minus smallest cost, from the clouds' boxes and radii. O((n + m) d)."""
        lo, hi = (np.array([f(Z, axis=0) for Z in (self.X, self.Y)]) for f in (np.min, np.max))
        middle = 0.5 * (lo.min(axis=0) + hi.max(axis=0))
        far = np.maximum(hi[0] - lo[1], hi[1] - lo[0])
        near = np.maximum(0.0, np.maximum(lo[0] - hi[1], lo[1] - hi[0]))
        if self.metric == "cityblock":
            radii = sum(float(np.abs(Z - middle).sum(axis=1).max()) for Z in (self.X, self.Y))
            return min(float(far.sum()), radii) - float(near.sum())
        radii = sum(float(np.linalg.norm(Z - middle, axis=1).max()) for Z in (self.X, self.Y))
        most, least = min(float(np.linalg.norm(far)), radii), float(np.linalg.norm(near))
        return max(0.0, most**2 - least**2 if self.metric == "sqeuclidean" else most - least)

    def pull(self, reg: float, x: Any, y: Any, threads: int = 0) -> np.ndarray:
        """``sum_j P_ij dC_ij / dX_i`` for the plan of the potentials x, y; shape (n, d)."""
        out = np.empty_like(self.X)
        _core.ot_points_pull(self.X, self.Y, self.metric, reg, x, y, out, threads)
        return self._to_input(out)

    def pull_weighted(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``sum_j W_ij dC_ij / dX_i`` and ``sum_i W_ij dC_ij / dY_j``, by blocks of 256 rows."""
        grad_x, grad_y = np.zeros_like(self.X), np.zeros_like(self.Y)
        for start in range(0, self.shape[0], 256):
            part = slice(start, start + 256)
            delta = self.X[part, None, :] - self.Y[None, :, :]
            weight = W[part, :, None]
            if self.metric == "cityblock":
                slope = weight * np.sign(delta)
            elif self.metric == "sqeuclidean":
                slope = weight * (2.0 * delta)
            else:
                length = np.sqrt((delta * delta).sum(axis=2, keepdims=True))
                slope = weight * np.divide(delta, length, out=np.zeros_like(delta), where=length > 0)
            grad_x[part] = slope.sum(axis=1)
            grad_y -= slope.sum(axis=0)
        return self._to_input(grad_x), self.T._to_input(grad_y)

    def _to_input(self, grad: np.ndarray) -> np.ndarray:
        """A gradient for the prepared rows as one for the given points."""
        if self._norms is None:
            return grad * self._factor
        unit = self.X / self._factor
        return (self._factor / self._norms[0]) * (grad - unit * (unit * grad).sum(axis=1, keepdims=True))

    def toarray(self) -> np.ndarray:
        """The costs, float64."""
        out = np.zeros(self.shape)
        for k in range(self.X.shape[1]):
            delta = self.X[:, k, None] - self.Y[None, :, k]
            out += np.abs(delta) if self.metric == "cityblock" else delta * delta
        return np.sqrt(out) if self.metric == "euclidean" else out


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
    return _core.ot_points_solve(M.X, M.Y, M.metric, a, b, range, x, y, plan, options, callback)


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
    return _core.ot_points_adjoint(M.X, M.Y, M.metric, a, b, range, x, y, w, z, p, q, plan, options)


def ot_plan_times(
    M: PointCost, reg: float, x: Any, y: Any, transposed: bool, v: Any, out: Any, n_threads: int
) -> None:
    """Compute out = P v or P^T v; v and out may be rows of several vectors."""
    if transposed:
        M, x, y = M.T, y, x
    v, out = np.atleast_2d(v), np.atleast_2d(out)
    _core.ot_points_times(M.X, M.Y, M.metric, reg, x, y, v, out, n_threads)


def ot_plan_rows(M: PointCost, reg: float, x: Any, y: Any, first: int, out: Any, n_threads: int) -> None:
    """Rows first .. first + len(out) of P."""
    _core.ot_points_rows(M.X, M.Y, M.metric, reg, x, y, first, out, n_threads)


def ot_c_transform(
    M: PointCost, reg: float, transposed: bool, potential: Any, out: Any, n_threads: int
) -> None:
    """-reg log-sum-exp of (potential - M)/reg over columns (transposed: over rows)."""
    if transposed:
        M = M.T
    _core.ot_points_transform(M.X, M.Y, M.metric, reg, potential, out, n_threads)


def ot_compress(
    M: PointCost, reg: float, x: Any, y: Any, a: Any, b: Any, drop: float, n_threads: int
) -> tuple[Any, Any, Any]:
    """(indptr, indices, values) of the entries above drop * min(a_i / m, b_j / n)."""
    return _core.ot_points_compress(M.X, M.Y, M.metric, reg, x, y, a, b, drop, n_threads)
