"""`sinkhorn_grid`: histograms on a regular grid, whose kernel is a product over the axes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._result import Result, Status, warn_not_converged
from ._pairwise import histograms, solve_pairs, summary, warn_some

_LANES_PAY = 4  # problems from which sixteen at a time beat one after the other
_NO_MASS = -1e9  # logarithm of the scaling of a bin without mass
_LARGEST_RATIO = 1e8  # of the largest cost to reg: others' logarithms stay clear of that


class GridPlan:
    """The plan between two histograms on a grid, by formula: ``P v`` costs one pass per axis.

    Parameters
    ----------
    axes : list of ndarray
        Cost matrix of each axis.
    reg : float
        Regularisation.
    x, y : ndarray of the grid's shape
        Logarithms of the scalings: ``P = mass * exp(x_i + y_j - M_ij / reg)``.
    mass : float
        Total mass.
    n_threads : int
        Threads of the passes, 0 for the default.
    """

    def __init__(
        self, axes: list[np.ndarray], reg: float, x: np.ndarray, y: np.ndarray, mass: float, n_threads: int
    ) -> None:
        self._axes, self._reg, self._x, self._y = axes, reg, x, y
        self._mass, self._n_threads = mass, n_threads
        self.grid_shape = x.shape
        self.shape = (x.size, y.size)
        self.dtype = np.dtype(np.float64)

    @property
    def T(self) -> GridPlan:
        """The transposed plan."""
        return GridPlan(self._axes, self._reg, self._y, self._x, self._mass, self._n_threads)

    def __matmul__(self, other: Any) -> np.ndarray:
        """``P v`` for an array of the grid's shape; the logarithms of both signs are summed apart.

        Raises
        ------
        ValueError
            Another shape, NaN or Inf.
        """
        v = _validate.as_float_array("other", other, shape=self.grid_shape, dtype=np.float64)
        out = np.zeros(self.grid_shape)
        for sign in (1.0, -1.0):
            part = np.maximum(sign * v, 0.0)
            if part.any():
                with np.errstate(divide="ignore"):
                    t = np.where(part > 0, np.log(part) + self._y, _NO_MASS)
                out += sign * np.exp(self._x + _log_kernel(self._axes, self._reg, t, self._n_threads))
        return out * self._mass

    __array_ufunc__ = None  # numpy: leave v @ plan to __rmatmul__

    def __rmatmul__(self, other: Any) -> np.ndarray:
        """``P^T v``."""
        return self.T @ other

    def toarray(self) -> np.ndarray:
        """The dense plan, of shape (n, n) with n the number of cells."""
        total = np.zeros((1, 1))
        for c in self._axes:
            total = (total[:, None, :, None] + c[None, :, None, :]).reshape(
                total.shape[0] * c.shape[0], total.shape[1] * c.shape[1]
            )
        dense = np.exp(self._x.ravel()[:, None] + self._y.ravel()[None, :] - total / self._reg)
        return np.asarray(self._mass * dense)

    def __repr__(self) -> str:
        return f"<GridPlan on {'x'.join(map(str, self.grid_shape))}>"


class GridResult(Result):
    """Solution of `sinkhorn_grid`; with a batch every field has a leading axis of length B.

    Attributes
    ----------
    value : float or ndarray of shape (B,)
        ``<M, P> + reg * KL(P | a b^T)``, by duality.
    value_linear : float or ndarray of shape (B,)
        ``<M, P>``.
    plan : GridPlan or list of GridPlan
        The plans as operators on arrays of the grid's shape; None where `status` is 9.
    potentials : (ndarray, ndarray)
        Dual potentials of the grid's shape in the gauge ``sum(a * f) == sum(b * g)``, float64; finite also
        where there is no mass.
    err : float or ndarray of shape (B,)
        Certificates: ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for mass 1.
    nit : int or ndarray of shape (B,)
        Iterations, two products with the kernel each.
    success, status, message
        As in `OTResult`; arrays for a batch, where status 9 marks data that is no histogram.
    time : float
        Wall seconds of the whole call.
    """

    value: Any
    value_linear: Any
    plan: Any
    potentials: tuple[Any, Any]
    err: Any
    nit: Any
    success: Any
    status: Any
    message: str
    time: float
    _shared: tuple[bool, bool]
    _backend: _dispatch.Backend

    def vjp(self, grad_value: Any) -> dict[str, Any]:
        """Gradients of a scalar function of `value` with respect to the histograms.

        Parameters
        ----------
        grad_value : float, or array_like of shape (B,) for a batch
            dL/dvalue.

        Returns
        -------
        dict
            ``"a"`` and ``"b"``, of the shapes that were given (sums over the batch where one histogram was
            shared); defined up to a constant added to one and taken from the other, because the masses must
            stay equal. Problems of status 9 contribute zeros.

        Raises
        ------
        ValueError
            Wrong shape of `grad_value`.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> a, b = np.random.default_rng(0).random((2, 8, 8))
        >>> r = ot.sinkhorn_grid(a / a.sum(), b / b.sum(), reg=1.0)
        >>> bool((r.vjp(1.0)["a"] == r.potentials[0]).all())
        True
        """
        pair = [self._backend.take("potentials", q) for q in self.potentials]
        if np.ndim(self.value) == 0:
            scale = _validate.real_scalar("grad_value", grad_value)
            grads = [scale * q for q in pair]
        else:
            taken = self._backend.take("grad_value", grad_value)
            scales = _validate.as_float_array("grad_value", taken, shape=np.shape(self.value))
            good = self.status != Status.BAD_INPUT
            grads = []
            for q, shared in zip(pair, self._shared, strict=True):
                weight = np.where(good, scales, 0.0).reshape((-1,) + (1,) * (q.ndim - 1))
                grad = weight * np.where(np.isfinite(q), q, 0.0)
                grads.append(grad.sum(axis=0) if shared else grad)
        return {name: self._backend.give(q) for name, q in zip(("a", "b"), grads, strict=True)}


def sinkhorn_grid(
    a: Any,
    b: Any,
    *,
    reg: float,
    spacing: Any = None,
    p: int = 2,
    n_axes: int | None = None,
    tol: float | None = None,
    maxiter: int = 10000,
    init: Any = None,
    n_threads: int | None = None,
) -> GridResult:
    """Entropic transport between histograms on a regular grid of one, two or three axes.

    Batches need `n_axes` (or a `spacing` per axis): B images, of shape (B, h, w), are B problems with
    ``n_axes=2`` and one problem on a grid of three axes without it.

    The cost between two cells is ``sum_k |spacing_k * (i_k - j_k)|**p``. It is never formed: its kernel is a
    product over the axes, so that an iteration on a grid of n cells takes O(n^(1 + 1/d)) instead of O(n^2).

    Parameters
    ----------
    a, b : array_like of the grid's shape, or with a leading axis of length B
        Histograms: non-negative, of equal mass (to 1e-9 relative; 1e-5 for float32). Zeros are allowed. In a
        batch one of them may be a single histogram.
    reg : float
        Regularisation strength > 0, in the units of the cost.
    spacing : float or sequence of float, optional
        Distance between neighbouring cells, per axis. Default 1.
    p : {1, 2}
        Power of the distance along each axis.
    n_axes : int, optional
        Axes of the grid, 1 to 3; arrays with one more are batches. Default: the length of `spacing` where
        that is a sequence, otherwise all axes of the array with fewer (so that two arrays of the same number
        of axes are never taken for batches).
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for mass 1. Default 1e-9 (1e-6 for float32).
    maxiter : int
        Iterations per problem.
    init : (f, g) or GridResult, optional
        Start from these potentials (of which f is used, cut to the range of the cost below its largest
        value: no solution varies more). Not for batches.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    GridResult
        See there for the fields.

    Raises
    ------
    TypeError
        Complex or object data, data on a GPU.
    ValueError
        Shapes that do not fit, ``reg <= 0``, an unknown `p`, a `spacing` that is not > 0, has another number
        of entries than 1 or `n_axes`, or makes the cost overflow; a `reg` below 1e-8 of the largest cost; for
        a single problem also negative, empty or NaN histograms and unequal masses. In a batch these give
        their problem status 9.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached.

    Notes
    -----
    Iterations are free of exponentials where the kernel of each axis stays within the range of doubles, that
    is ``range of the cost along it / reg < 708``, and the solution does, too; else they are log-sum-exps
    along one axis after the other. Where their acceleration stalls, grids of at most 4096 cells are handed to
    the solver behind `sinkhorn`, on the dense cost; greater ones are solved for decreasing `reg`, down to
    plain iterations until `maxiter`.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> a, b = np.random.default_rng(0).random((2, 64, 64))
    >>> r = ot.sinkhorn_grid(a / a.sum(), b / b.sum(), spacing=1 / 64, reg=1e-2)
    >>> r.success, r.potentials[0].shape
    (True, (64, 64))
    >>> bool(abs(r.plan @ np.ones((64, 64)) - a / a.sum()).sum() < 1e-9)
    True
    """
    start = time.perf_counter()
    backend = _dispatch.select_cpu("sinkhorn_grid", a=a, b=b)
    reg = _validate.positive_scalar("reg", reg)
    _validate.choice("p", p, (1, 2))
    maxiter = _validate.integer("maxiter", maxiter, minimum=1)
    threads = _validate.n_threads(n_threads)
    given = [
        _validate.as_float_array(name, backend.take(name, x), ndim=(1, 2, 3, 4), finite=False)
        for name, x in (("a", a), ("b", b))
    ]
    single = all(x.dtype == np.float32 for x in given)
    tol = (1e-6 if single else 1e-9) if tol is None else _validate.positive_scalar("tol", tol)
    steps, grid = _grid_of(given, spacing, n_axes)
    shared = [x.ndim == len(grid) for x in given]
    batched = not all(shared)
    counts = [1 if s else x.shape[0] for x, s in zip(given, shared, strict=True)]
    size = counts[1] if shared[0] else counts[0]
    if not (shared[0] or shared[1]) and counts[0] != counts[1]:
        raise ValueError(f"`a` and `b` are batches of {counts[0]} and {counts[1]} histograms")
    axes = [_axis_cost(n, h, p) for n, h in zip(grid, steps, strict=True)]
    with np.errstate(over="ignore"):
        farthest = np.sum([c.max() for c in axes])
        ratio = farthest / reg
    if not np.isfinite(farthest):
        raise ValueError(f"`spacing` makes the cost overflow; got {spacing!r} on a grid of shape {grid}")
    if not ratio <= _LARGEST_RATIO:
        raise ValueError(
            f"`reg` is {reg!r}, the largest cost {float(farthest):.3g}; their ratio {ratio:.3g} is beyond "
            f"{_LARGEST_RATIO:g}, where doubles no longer resolve the plan"
        )
    rows, bad, mass = _check_histograms(given, grid, shared, size, batched)
    if init is not None and batched:
        raise ValueError("`init` is for single problems; `a` or `b` is a batch")
    options = {"reg": reg, "tol": tol, "maxiter": maxiter, "n_threads": threads}

    cells = int(np.prod(grid))
    found: dict[str, np.ndarray] = {name: np.full(size, np.nan) for name in ("value", "linear", "err")}
    found |= {"nit": np.zeros(size, np.int64), "status": np.full(size, int(Status.BAD_INPUT), np.int32)}
    x, y = np.zeros((size, cells)), np.zeros((size, cells))
    row = [np.zeros(size, np.int64) if s else np.arange(size) for s in shared]
    alone = np.flatnonzero(~bad)
    if size >= _LANES_PAY:
        first = np.where(bad, -1, row[0])
        found |= solve_pairs(axes, rows[0], rows[1], first, row[1], options | {"hand_over": False}, x, y)
        alone = np.flatnonzero((found["status"] != 0) & ~bad)
        x[alone] = 0.0
    for k in alone:
        if init is not None:
            x[k] = _start(init, backend, rows[0][0], grid, reg, float(farthest))
        report = _core.ot_grid_solve(axes, rows[0][row[0][k]], rows[1][row[1][k]], x[k], y[k], options)
        found["nit"][k] += report["nit"]
        for name in ("value", "linear", "err", "status"):
            found[name][k] = report[name]

    result = GridResult()
    f, g = (np.full((size, *grid), np.nan) for _ in range(2))
    plans: list[GridPlan | None] = []
    for i in range(size):
        if bad[i]:
            plans.append(None)
            continue
        u, v = x[i].reshape(grid), y[i].reshape(grid)
        pair = (rows[0][row[0][i]].reshape(grid), rows[1][row[1][i]].reshape(grid))
        with np.errstate(over="ignore", invalid="ignore"):
            f[i], g[i] = _potentials(axes, reg, pair, (u, v), threads)
        if not np.isfinite((f[i], g[i])).all():
            found["status"][i] = Status.NONFINITE
        plans.append(GridPlan(axes, reg, u, v, float(mass[i]), threads))
    result.value, result.value_linear = found["value"] * mass, found["linear"] * mass
    result.plan, result.potentials = plans, (f, g)
    result.err, result.nit, result.status = found["err"], found["nit"], found["status"]
    result.success = result.status == Status.CONVERGED
    result.message = summary(result.status, "problems")
    result._shared, result._backend = (shared[0], shared[1]), backend
    if not batched:
        _unbatch(result, tol)
    result.potentials = (backend.give(result.potentials[0]), backend.give(result.potentials[1]))
    result.time = time.perf_counter() - start
    if batched:
        warn_some(result, "sinkhorn_grid", tol)
    else:
        warn_not_converged(
            result, solver="sinkhorn_grid", quantity="L1 marginal error", error=result.err, target=tol
        )
    return result


def _grid_of(given: list[np.ndarray], spacing: Any, n_axes: int | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Spacing per axis and the shape of the grid."""
    least = min(x.ndim for x in given)
    steps = np.ones(1)
    if spacing is not None:
        steps = _validate.as_float_array("spacing", spacing, ndim=(0, 1), dtype=np.float64)
        if steps.ndim == 1 and n_axes is None:
            n_axes = steps.size
        steps = np.atleast_1d(steps)
        if not (steps > 0).all():
            raise ValueError(f"`spacing` must be > 0; got {spacing!r}")
    d = least if n_axes is None else _validate.integer("n_axes", n_axes)
    if not 1 <= d <= 3:
        raise ValueError(f"a grid has 1 to 3 axes; `n_axes` is {d}")
    if steps.size not in (1, d):
        raise ValueError(f"`spacing` has {steps.size} entries; the grid has {d} axes")
    for name, x in zip(("a", "b"), given, strict=True):
        if x.ndim not in (d, d + 1):
            raise ValueError(
                f"`{name}` has shape {x.shape}; a grid of {d} axes, or a batch of them, is needed"
            )
    grid = given[0].shape[-d:]
    if given[1].shape[-d:] != grid or 0 in grid:
        raise ValueError(
            f"`a` and `b` must share one grid; their shapes are {given[0].shape}, {given[1].shape}"
        )
    return np.broadcast_to(steps, d), tuple(int(n) for n in grid)


def _axis_cost(n: int, step: float, p: int) -> np.ndarray:
    steps = np.arange(n, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray((step * np.abs(steps[:, None] - steps)) ** p)


def _check_histograms(
    given: list[np.ndarray], grid: tuple[int, ...], shared: list[bool], size: int, batched: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Rows of mass 1, which problems are none, and the mass of each."""
    if not batched:
        for name, x in zip(("a", "b"), given, strict=True):
            _validate.check_finite(name, x)
            _validate.check_nonnegative(name, x)
            _validate.positive_mass(name, x)
    rows, bad, masses = [], np.zeros(size, dtype=bool), []
    for x, one in zip(given, shared, strict=True):
        flat = x.reshape(1 if one else x.shape[0], int(np.prod(grid)))
        scaled, spoiled = histograms(flat)
        rows.append(scaled)
        bad |= spoiled[0] if one else spoiled
        with np.errstate(all="ignore"):
            mass = flat.sum(axis=1, dtype=np.float64)
        masses.append(np.broadcast_to(mass, (size,)))
    loose = 1e-5 if any(x.dtype == np.float32 for x in given) else 1e-9
    with np.errstate(all="ignore"):
        uneven = np.abs(masses[0] - masses[1]) > loose * np.maximum(masses[0], masses[1])
    if not batched and uneven[0]:
        raise ValueError(
            f"`a` and `b` must have equal mass; they sum to {float(masses[0][0])!r} and "
            f"{float(masses[1][0])!r}"
        )
    return rows, bad | uneven, masses[0]


def _log_kernel(axes: list[np.ndarray], reg: float, t: np.ndarray, threads: int) -> np.ndarray:
    """log(K exp(t)) over the grid."""
    out = np.empty(t.shape)
    _core.ot_grid_log(axes, reg, np.ascontiguousarray(t), out, threads)
    return out


def _potentials(
    axes: list[np.ndarray],
    reg: float,
    histograms: tuple[np.ndarray, np.ndarray],
    scalings: tuple[np.ndarray, np.ndarray],
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """KL potentials from logarithms of scalings; the c-transform where there is no mass."""
    out = []
    for (w, z), other in zip(zip(histograms, scalings, strict=True), scalings[::-1], strict=True):
        with np.errstate(divide="ignore"):
            potential = np.where(w > 0, reg * (z - np.log(w)), 0.0)
        if (w == 0).any():
            potential = np.where(w > 0, potential, -reg * _log_kernel(axes, reg, other, threads))
        out.append(potential)
    f, g = out
    shift = 0.5 * (float((histograms[0] * f).sum()) - float((histograms[1] * g).sum()))
    return f - shift, g + shift


def _start(
    init: Any, backend: _dispatch.Backend, a: np.ndarray, grid: tuple[int, ...], reg: float, span: float
) -> np.ndarray:
    """Logarithms of the scalings on the side of `a`, from f moved to a maximum of 0 and cut at -span."""
    pair = init.potentials if isinstance(init, GridResult) else init
    try:
        f = next(iter(pair))
    except (TypeError, StopIteration):
        raise TypeError("`init` must be a pair of potentials (f, g) or a GridResult") from None
    f = _validate.as_float_array("init[0]", backend.take("init[0]", f), shape=grid, dtype=np.float64)
    f = f.ravel()
    with np.errstate(divide="ignore", over="ignore"):
        f = np.where(a > 0, np.clip(f - f[a > 0].max(), -span, 0.0), 0.0)
        return np.asarray(f / reg + np.where(a > 0, np.log(a), 0.0))


def _unbatch(result: GridResult, tol: float) -> None:
    convert: dict[str, Callable[[Any], Any]] = {
        "nit": int,
        "status": lambda s: Status(int(s)),
        "success": bool,
    }
    for name in ("value", "value_linear", "err", "nit", "status", "success"):
        setattr(result, name, convert.get(name, float)(getattr(result, name)[0]))
    result.plan = result.plan[0]
    result.potentials = (result.potentials[0][0], result.potentials[1][0])
    result.message = f"{result.status.message}; L1 marginal error {result.err:.2e}, tolerance {tol:.2e}"


__all__ = ["GridPlan", "GridResult", "sinkhorn_grid"]
