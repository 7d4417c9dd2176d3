"""Optimal transport on a line: the exact solution by sorting, for batches of weighted samples."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy import sparse

from .. import _dispatch, _validate
from .._result import Result


class LineResult(Result):
    """Exact solution of one-dimensional transport problems.

    Attributes
    ----------
    value : float or ndarray of shape (...)
        ``min <M, P>`` with ``M_ij = |x_i - y_j|^p``, that is W_p to the power p; one per problem of a batch.
    distance : float or ndarray of shape (...)
        ``value ** (1 / p)``, the distance W_p (for total mass 1).
    potentials : (ndarray of shape (..., n), ndarray of shape (..., m)) or None
        Optimal dual potentials (f, g): ``f_i + g_j <= M_ij`` everywhere, with equality where the plan has
        mass, and ``a @ f == b @ g == value / 2``.
    plan : scipy.sparse.csr_array of shape (n, m), list of them, or None
        The monotone plan, at most ``n + m - 1`` entries. A list in C order of the batch.
    time : float
        Wall seconds of the call.
    """

    value: Any
    distance: Any
    potentials: tuple[Any, Any] | None
    plan: Any
    time: float
    _backend: _dispatch.Backend
    _path: _Path
    _shapes: dict[str, tuple[int, ...] | None]

    def vjp(self, grad_value: Any = 1.0) -> dict[str, Any]:
        """Gradients of a scalar function of `value` with respect to positions and weights.

        Parameters
        ----------
        grad_value : float or array_like of shape (...), default 1.0
            dL/dvalue, one number for all problems or one for each.

        Returns
        -------
        dict
            ``"x"``, ``"y"``, ``"a"``, ``"b"`` in the shapes of the arguments (None for weights that were not
            given), float64, summed over the problems that shared them. Those for a and b are defined up to
            adding a constant to one and subtracting it from the other. Where sorted positions or cumulative
            weights tie, the value has a kink, and this is one of its subgradients.

        Examples
        --------
        >>> from aitken import ot
        >>> r = ot.wasserstein_1d([0.0, 1.0], [1.0, 3.0], p=2)
        >>> r.vjp()["x"]
        array([-1., -2.])
        """
        path = self._path
        batch = path.f.shape[:-1]
        G = _validate.as_float_array(
            "grad_value", self._backend.take("grad_value", grad_value), dtype=np.float64
        )
        if G.shape not in ((), batch):
            raise ValueError(f"`grad_value` has shape {G.shape}; a number or shape {batch} is needed")
        G = np.broadcast_to(G, batch)[..., None]
        slope = path.slopes()
        full = {"x": slope[0], "y": slope[1], "a": path.f, "b": path.g}
        out: dict[str, Any] = {}
        for name, grad in full.items():
            shape = self._shapes[name]
            out[name] = None if shape is None else self._backend.give(_reduced(G * grad, shape))
        return out


class _Path:
    """The cells that the monotone plan visits, in sorted positions: (..., n + m - 1) of them."""

    def __init__(self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, p: float) -> None:
        n, m = x.shape[-1], y.shape[-1]
        self.order_x, self.order_y = (
            np.argsort(x, axis=-1, kind="stable"),
            np.argsort(y, axis=-1, kind="stable"),
        )
        self.p = p
        upto_a = np.cumsum(np.take_along_axis(a, self.order_x, axis=-1), axis=-1)
        upto_b = np.cumsum(np.take_along_axis(b, self.order_y, axis=-1), axis=-1)
        total = upto_a[..., -1:]
        levels = np.minimum(np.concatenate([upto_a[..., :-1], upto_b[..., :-1]], axis=-1), total)
        steps = np.argsort(levels, axis=-1, kind="stable")
        # A step leads to the next row or to the next column, never both, so the cells form a staircase even
        # where weights tie; then one of them has no mass.
        self.down = steps < n - 1
        start = np.zeros((*x.shape[:-1], 1), dtype=np.intp)
        self.i = np.concatenate([start, np.cumsum(self.down, axis=-1)], axis=-1)
        self.j = np.concatenate([start, np.cumsum(~self.down, axis=-1)], axis=-1)
        levels = np.take_along_axis(levels, steps, axis=-1)
        self.mass = np.diff(levels, axis=-1, prepend=np.zeros_like(total), append=total)
        sorted_x = np.take_along_axis(x, self.order_x, axis=-1)
        sorted_y = np.take_along_axis(y, self.order_y, axis=-1)
        self.gap = np.take_along_axis(sorted_x, self.i, axis=-1) - np.take_along_axis(
            sorted_y, self.j, axis=-1
        )
        # Powers of gaps that leave the range are taken of gaps over the largest.
        self.unit = np.abs(self.gap).max(axis=-1, keepdims=True)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            power = p * np.abs(np.log2(self.unit))
        plain = (self.unit == 0) | ~np.isfinite(self.unit) | (power < 900)
        self.unit = np.where(plain, 1.0, self.unit)
        with np.errstate(under="ignore"):
            self.cost = np.abs(self.gap / self.unit) ** p
        value = (self.mass * self.cost).sum(axis=-1)
        self.distance: Any = value if p == 1.0 else value ** (1.0 / p)
        self.distance = self.distance * self.unit[..., 0]
        self.f, self.g = self._duals(n, m, a, b)
        if plain.all():
            self.value = value
        else:
            self.value = np.where(plain[..., 0], value, self._whole(value, self.unit[..., 0]))
            self.f = np.where(plain, self.f, self._whole(self.f, self.unit))
            self.g = np.where(plain, self.g, self._whole(self.g, self.unit))

    def _whole(self, scaled: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """``scaled * unit**p``, inf or 0 only where the product is."""
        with np.errstate(over="ignore", under="ignore"):
            return np.sign(scaled) * (np.abs(scaled) ** (1.0 / self.p) * unit) ** self.p

    def _duals(self, n: int, m: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Equality along the staircase fixes f and g; they are feasible because the cost of sorted positions
        # has the Monge property for p >= 1.
        batch = self.cost.shape[:-1]
        rise = np.diff(self.cost, axis=-1)
        f, g = np.zeros((*batch, n)), np.empty((*batch, m))
        f[..., 1:] = np.cumsum(rise[self.down].reshape(*batch, n - 1), axis=-1)
        g[..., :1] = self.cost[..., :1]
        g[..., 1:] = g[..., :1] + np.cumsum(rise[~self.down].reshape(*batch, m - 1), axis=-1)
        out_f, out_g = np.empty_like(f), np.empty_like(g)
        np.put_along_axis(out_f, self.order_x, f, axis=-1)
        np.put_along_axis(out_g, self.order_y, g, axis=-1)
        total = a.sum(axis=-1, keepdims=True)
        shift = 0.5 * ((a * out_f).sum(-1, keepdims=True) - (b * out_g).sum(-1, keepdims=True)) / total
        return out_f - shift, out_g + shift

    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of the value with respect to the positions x and y, unsorted."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            slope = self.mass * self.p * np.sign(self.gap) * np.abs(self.gap) ** (self.p - 1.0)
        slope = np.where((self.mass > 0) & (self.gap != 0), slope, 0.0)
        out = []
        for cells, order, like, sign in (
            (self.i, self.order_x, self.f, 1.0),
            (self.j, self.order_y, self.g, -1.0),
        ):
            size = like.shape[-1]
            problems = like.size // size
            flat = cells.reshape(problems, cells.shape[-1]) + size * np.arange(problems)[:, None]
            total = np.bincount(flat.ravel(), weights=slope.ravel(), minlength=like.size).reshape(like.shape)
            unsorted = np.empty_like(like)
            np.put_along_axis(unsorted, order, sign * total, axis=-1)
            out.append(unsorted)
        return out[0], out[1]

    def plans(self, dtype: Any) -> list[sparse.csr_array]:
        """The plan of each problem, in C order of the batch."""
        n, m = self.f.shape[-1], self.g.shape[-1]
        rows = np.take_along_axis(self.order_x, self.i, axis=-1).reshape(-1, n + m - 1)
        cols = np.take_along_axis(self.order_y, self.j, axis=-1).reshape(-1, n + m - 1)
        out = []
        for mass, row, col in zip(self.mass.reshape(-1, n + m - 1), rows, cols, strict=True):
            keep = mass > 0
            entries = (mass[keep].astype(dtype), (row[keep], col[keep]))
            out.append(sparse.coo_array(entries, shape=(n, m)).tocsr())
        return out


def wasserstein_1d(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    p: float = 1.0,
    return_potentials: bool = False,
    return_plan: bool = False,
) -> LineResult:
    """Exact optimal transport between samples on a line, in O((n + m) log(n + m)).

    For the cost ``|x_i - y_j|^p`` with ``p >= 1`` the plan that keeps the order of the samples is optimal, so
    there is nothing to iterate and nothing to regularise.

    Parameters
    ----------
    x : array_like of shape (..., n)
        Positions, along the last axis; leading axes are a batch.
    y : array_like of shape (..., m)
        Positions of the other side. Batches broadcast: one `x` may serve many `y`.
    a, b : array_like of shape (..., n), (..., m), optional
        Weights, non-negative, of equal mass in every problem (to 1e-9 relative; 1e-5 for float32 weights,
        `b` is then rescaled). None is uniform with the mass of the other, 1 if both are None.
    p : float, default 1.0
        Exponent of the cost, at least 1.
    return_potentials, return_plan : bool, default False
        Return the dual potentials and the plan too; a batch of plans is a Python list.

    Returns
    -------
    LineResult
        With ``value`` (W_p to the power p), ``distance`` (W_p), and ``.vjp``. Floating values are float64,
        arrays of them float32 if all arguments are; the work is done in float64.

    Raises
    ------
    TypeError
        Complex or object data, or arrays on a GPU.
    ValueError
        ``p < 1``, NaN, negative weights, no mass, unequal masses, shapes that do not fit.

    See Also
    --------
    sinkhorn : Any cost, with entropic regularisation.
    exact_ot : Any cost, exactly.

    Examples
    --------
    >>> from aitken import ot
    >>> r = ot.wasserstein_1d([0.0, 1.0, 3.0], [5.0, 6.0, 8.0], p=2, return_plan=True)
    >>> r.value, r.distance
    (25.0, 5.0)
    >>> ot.wasserstein_1d([[0.0, 1.0], [0.0, 4.0]], [0.0, 2.0]).value
    array([0.5, 1. ])
    """
    start = time.perf_counter()
    backend = _dispatch.select_cpu("wasserstein_1d", x=x, y=y, a=a, b=b)
    p = _validate.real_scalar("p", p, minimum=1.0)
    for name, flag in (("return_potentials", return_potentials), ("return_plan", return_plan)):
        _validate.boolean(name, flag)
    given = {name: backend.take(name, value) for name, value in (("x", x), ("y", y), ("a", a), ("b", b))}
    arrays: dict[str, Any] = {
        k: None if v is None else _validate.as_float_array(k, v) for k, v in given.items()
    }
    for name, points in (("a", "x"), ("b", "y")):
        _check_lengths(name, arrays[name], points, arrays[points])
    single = all(v is None or v.dtype == np.float32 for v in arrays.values())
    shapes = {name: None if v is None else v.shape for name, v in arrays.items()}
    try:
        batch = np.broadcast_shapes(*(shape[:-1] for shape in shapes.values() if shape is not None))
    except ValueError:
        listed = ", ".join(f"`{name}` {shape}" for name, shape in shapes.items() if shape is not None)
        raise ValueError(f"the leading axes of {listed} do not broadcast to one batch") from None
    weights_a, weights_b = _weights(arrays, batch)
    positions = [
        np.broadcast_to(arrays[name].astype(np.float64, copy=False), (*batch, arrays[name].shape[-1]))
        for name in ("x", "y")
    ]
    path = _Path(positions[0], positions[1], weights_a, weights_b, p)

    dtype = np.float32 if single else np.float64
    result = LineResult()
    result._backend, result._path, result._shapes = backend, path, shapes
    distance = path.distance
    if batch:
        result.value = backend.give(path.value.astype(dtype, copy=False))
        result.distance = backend.give(distance.astype(dtype, copy=False))
    else:
        result.value, result.distance = float(path.value), float(distance)
    result.potentials = None
    if return_potentials:
        result.potentials = (
            backend.give(path.f.astype(dtype)),
            backend.give(path.g.astype(dtype)),
        )
    result.plan = None
    if return_plan:
        plans = path.plans(dtype)
        result.plan = plans if batch else plans[0]
    result.time = time.perf_counter() - start
    return result


def _check_lengths(name: str, weights: Any, points_name: str, points: Any) -> None:
    if points.ndim == 0 or points.shape[-1] == 0:
        raise ValueError(f"`{points_name}` has shape {points.shape}; at least one position is needed")
    if weights is None:
        return
    if weights.ndim == 0 or weights.shape[-1] != points.shape[-1]:
        raise ValueError(
            f"`{name}` has shape {weights.shape}; its last length must be that of `{points_name}`, "
            f"{points.shape[-1]}"
        )
    _validate.check_nonnegative(name, weights)


def _weights(arrays: dict[str, Any], batch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Both weights over the whole batch in float64, `b` rescaled to the mass of `a`."""
    totals: dict[str, Any] = {}
    for name in ("a", "b"):
        w = arrays[name]
        if w is None:
            continue
        with np.errstate(over="ignore"):
            total = w.sum(axis=-1, keepdims=True, dtype=np.float64)
        if not (total > 0).all():
            empty = np.unravel_index(int(np.argmin(total)), total.shape)[:-1]
            where = f" of problem {', '.join(map(str, empty))}" if empty else ""
            raise ValueError(f"`{name}` has no mass: the weights{where} sum to {float(total.min())}")
        if not np.isfinite(total).all():
            raise ValueError(
                f"`{name}` has weights up to {float(w.max())!r}; their sum exceeds the double range"
            )
        totals[name] = total
    if len(totals) == 2:
        loose = arrays["a"].dtype == np.float32 or arrays["b"].dtype == np.float32
        left, right = np.broadcast_arrays(totals["a"], totals["b"])
        apart = np.abs(left - right) > (1e-5 if loose else 1e-9) * np.maximum(left, right)
        if apart.any():
            at = np.unravel_index(int(np.argmax(apart)), apart.shape)
            where = f" in problem {', '.join(map(str, at[:-1]))}" if len(at) > 1 else ""
            raise ValueError(
                f"`a` and `b` must have equal mass; they sum to {float(left[at])!r} and "
                f"{float(right[at])!r}{where}"
            )
    out = []
    for name, points in (("a", "x"), ("b", "y")):
        w, size = arrays[name], arrays[points].shape[-1]
        mass = totals.get("a", totals.get("b", 1.0))
        w = mass / size if w is None else w * (mass / totals[name])
        out.append(np.array(np.broadcast_to(w, (*batch, size)), dtype=np.float64))
    return out[0], out[1]


def _reduced(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`grad` summed over the axes along which an argument of this shape was broadcast."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    axes = tuple(k for k, size in enumerate(shape[:-1]) if size == 1 and grad.shape[k] != 1)
    return grad.sum(axis=axes, keepdims=True) if axes else grad


__all__ = ["LineResult", "wasserstein_1d"]
