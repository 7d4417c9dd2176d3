"""Orders a sequence of systems so that neighbours are similar; NumPy alone, and deterministic."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validate
from .._result import Result

__all__ = ["SortingReport", "sort_systems", "sorting_report"]

Floats = NDArray[np.float64]
Order = NDArray[np.intp]

MIN_CHAIN = 32  # a chain pays one cold start, so shorter ones are not cut
_GREEDY_LIMIT = 20_000  # beyond it, N^2 distances cost more than they can give
_CELL = 2_000  # points per Hilbert cell that is walked greedily
_CURVE_DIM, _CURVE_BITS = 4, 15  # Hilbert keys of 60 bits
_MODES = {1: 32, 2: 6, 3: 3}  # lowest |frequencies| kept per axis, by number of axes
_WIDE = 2_048  # flat features beyond this width are projected at random first
_WINDOW = 4_096  # 2-opt and Or-opt look this many places ahead and back
_PASSES = 10


@overload
def sort_systems(
    P: ArrayLike,
    *,
    method: str = "auto",
    metric: str = "l2",
    start: int = 0,
    n_chains: Literal[1] = 1,
    dim: int | None = 32,
    two_opt: bool = False,
) -> Order: ...


@overload
def sort_systems(
    P: ArrayLike,
    *,
    method: str = "auto",
    metric: str = "l2",
    start: int = 0,
    n_chains: int,
    dim: int | None = 32,
    two_opt: bool = False,
) -> Order | list[Order]: ...


def sort_systems(
    P: ArrayLike,
    *,
    method: str = "auto",
    metric: str = "l2",
    start: int = 0,
    n_chains: int = 1,
    dim: int | None = 32,
    two_opt: bool = False,
) -> Order | list[Order]:
    """Order in which to solve systems, so that consecutive ones have similar parameters.

    Parameters
    ----------
    P : array_like, shape (N, ...)
        Parameters of N systems, real: scalars (N,), vectors (N, p) or fields (N, H, W[, D]).
    method : {"auto", "greedy", "hilbert", "none"}
        ``"greedy"`` appends the nearest system not yet visited, ties going to the smallest index (distances
        that differ by rounding alone tie); O(N**2 dim). ``"hilbert"`` walks a Hilbert curve through the first
        four principal components, greedily inside cells of about 2000 systems. ``"auto"`` is greedy up to
        N = 20000. ``"none"`` keeps the given order.
    metric : {"l2", "l1"}
        Distance between parameters. ``"l1"`` uses the parameters as they are, without reduction.
    start : int, default 0
        Index of the first system (not of ``"none"``).
    n_chains : int, default 1
        Cut the order into this many contiguous pieces, fewer where pieces would be shorter than 32.
    dim : int or None, default 32
        Reduce wider parameters to this many coordinates: the lowest frequencies of fields, then principal
        components. None keeps them whole.
    two_opt : bool, default False
        Improve the order by reversing and moving pieces (2-opt and Or-opt) until nothing is gained, at most
        ten passes; `start` stays first.

    Returns
    -------
    ndarray of intp, shape (N,), or list of ndarray
        A permutation of ``range(N)``; with ``n_chains > 1`` the list of its pieces.

    Raises
    ------
    TypeError, ValueError
        For parameters that are complex, sparse or not finite, and options out of range.

    See Also
    --------
    sorting_report : mean and maximum distance of consecutive systems, before and after.

    Notes
    -----
    The reduction uses BLAS; coordinates are rounded to 1e-9 of the largest, so that the order does not follow
    its number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import sort_systems
    >>> sort_systems(np.array([0.0, 5.0, 1.0, 4.0, 2.0])).tolist()
    [0, 2, 4, 3, 1]
    """
    array = _parameters(P)
    n = array.shape[0]
    _validate.choice("method", method, ("auto", "greedy", "hilbert", "none"))
    _validate.choice("metric", metric, ("l2", "l1"))
    n_chains = _validate.integer("n_chains", n_chains, minimum=1)
    dim = _validate.optional_integer("dim", dim, minimum=1)
    start = _validate.integer("start", start, minimum=0, maximum=max(n - 1, 0))
    two_opt = _validate.boolean("two_opt", two_opt)

    order: Order = np.arange(n, dtype=np.intp)
    if method != "none" and n > 1:
        flat = array.reshape(n, -1)
        X = flat if metric == "l1" or dim is None else _reduced(array, dim)
        if method == "greedy" or (method == "auto" and n <= _GREEDY_LIMIT):
            order = _greedy(X, start, metric)
        else:
            order = _by_curve(X, start, metric)
        if two_opt:
            order = _improved(X, order, metric)
    if n_chains == 1:
        return order
    return split_chains(order, n_chains)


def split_chains(order: Order, n_chains: int, minimum: int = MIN_CHAIN) -> list[Order]:
    """`order` cut into at most `n_chains` contiguous pieces of at least `minimum`, lengths within one."""
    return np.array_split(order, max(1, min(n_chains, order.size // minimum)))


class SortingReport(Result):
    """What an order gains: distances of consecutive systems in the given order and in the new one.

    Attributes
    ----------
    mean_before, max_before : float
        Mean and maximum over the systems as they came.
    mean_after, max_after : float
        The same in the new order; steps from one chain to the next are not counted.
    """

    mean_before: float
    max_before: float
    mean_after: float
    max_after: float


def sorting_report(P: ArrayLike, order: Any, *, metric: str = "l2") -> SortingReport:
    """Mean and maximum distance of consecutive systems, before and after sorting.

    Parameters
    ----------
    P : array_like, shape (N, ...)
        The parameters that were sorted; distances are taken on them whole, not reduced.
    order : array_like of int, or list of them
        What `sort_systems` returned: a permutation of ``range(N)``, or its pieces.
    metric : {"l2", "l1"}
        Distance between parameters.

    Returns
    -------
    SortingReport

    Raises
    ------
    TypeError, ValueError
        For bad parameters, or an `order` that is no permutation.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import sort_systems, sorting_report
    >>> P = np.array([0.0, 5.0, 1.0, 4.0, 2.0])
    >>> report = sorting_report(P, sort_systems(P))
    >>> report.mean_before, report.mean_after
    (3.5, 1.25)
    """
    array = _parameters(P)
    _validate.choice("metric", metric, ("l2", "l1"))
    n = array.shape[0]
    X = array.reshape(n, -1)
    chains = list(order) if isinstance(order, list | tuple) and np.ndim(order[0]) == 1 else [order]
    pieces = [np.asarray(chain) for chain in chains]
    if any(piece.dtype.kind not in "iu" or piece.ndim != 1 for piece in pieces):
        raise TypeError("`order` must be an integer array, or a list of integer arrays")
    if not np.array_equal(np.sort(np.concatenate(pieces)), np.arange(n)):
        raise ValueError(f"`order` is no permutation of range({n})")
    before = _steps(X, np.arange(n), metric)
    after = np.concatenate([_steps(X, piece, metric) for piece in pieces])
    return SortingReport(
        mean_before=float(before.mean()) if before.size else 0.0,
        max_before=float(before.max(initial=0.0)),
        mean_after=float(after.mean()) if after.size else 0.0,
        max_after=float(after.max(initial=0.0)),
    )


def _parameters(P: ArrayLike) -> Floats:
    array: Floats = _validate.as_float_array("P", P, dtype=np.float64)
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(f"`P` has shape {array.shape}; one row of parameters for each system is needed")
    return array


def _distances(rows: Floats, to: Floats, metric: str) -> Floats:
    """Distance of each of `rows` to one point, or row by row to as many."""
    difference = rows - to
    if metric == "l1":
        return np.asarray(np.abs(difference).sum(axis=-1))
    return np.sqrt(np.einsum("ij,ij->i", difference, difference))


def _steps(X: Floats, order: Order, metric: str) -> Floats:
    """Distances of consecutive rows; blocks of rows, so that no second copy of all fields is made."""
    parts = [
        _distances(X[order[i : i + 256]], X[order[i + 1 : i + 257]], metric)
        if i + 257 <= order.size
        else _distances(X[order[i:-1]], X[order[i + 1 :]], metric)
        for i in range(0, order.size - 1, 256)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


# ---------------------------------------------------------------------------------------------- reduction


def _reduced(array: Floats, dim: int) -> Floats:
    """At most `dim` coordinates that keep distances well, rounded against the noise of BLAS threads."""
    X = array.reshape(array.shape[0], -1)
    if X.shape[1] <= dim:
        return X
    axes = array.ndim - 1
    if axes in (2, 3) and min(array.shape[1:]) > 2 * _MODES[axes]:
        X = _low_frequencies(array, _MODES[axes])
    elif X.shape[1] > _WIDE:
        X = _random_projection(X, 256)
    X = _principal(X, dim)
    unit = 1e-9 * float(np.abs(X).max())
    return np.rint(X / unit) * unit if unit > 0 else X


def _low_frequencies(fields: Floats, modes: int) -> Floats:
    """Fourier coefficients of all frequencies up to `modes` per axis, scaled to keep L2 distances.

    Contracted axis by axis with the few columns of the DFT matrix that are wanted: for H x W fields
    16 H W modes flops each, against the 10 H W log2(H W) of a full transform.
    """
    out: NDArray[Any] = fields
    last = fields.ndim - 1
    for axis in range(last, 0, -1):
        length = fields.shape[axis]
        # Real fields: the last axis needs no negative frequencies, the others do.
        k = np.arange(0 if axis == last else -modes, modes + 1)
        wave = np.exp(-2j * np.pi / length * np.outer(np.arange(length), k)) / np.sqrt(length)
        if axis == last:
            wave[:, 1:] *= np.sqrt(2.0)  # each stands for its conjugate too
            real = out @ np.concatenate([wave.real, wave.imag], axis=1)
            out = real[..., : k.size] + 1j * real[..., k.size :]
        else:
            out = np.moveaxis(np.moveaxis(out, axis, -1) @ wave, -1, axis)
    flat = np.ascontiguousarray(out).reshape(fields.shape[0], -1)
    return flat.view(np.float64)


def _random_projection(X: Floats, width: int) -> Floats:
    """Gaussian projection with a fixed stream, drawn in blocks of rows."""
    generator = np.random.Generator(np.random.Philox(key=0))
    out = np.zeros((X.shape[0], width))
    for i in range(0, X.shape[1], 4096):
        block = X[:, i : i + 4096]
        out += block @ generator.standard_normal((block.shape[1], width))
    return out / np.sqrt(width)


def _principal(X: Floats, dim: int) -> Floats:
    """The `dim` leading principal components; signs fixed by the largest entry of each direction."""
    X = X - X.mean(axis=0)
    if X.shape[1] <= dim:
        return X
    if X.shape[0] < X.shape[1]:
        # Few systems: X X^T = W L W^T is smaller, and W sqrt(L) are the components themselves.
        values, vectors = np.linalg.eigh(X @ X.T)
        top = vectors[:, ::-1][:, :dim] * np.sqrt(np.maximum(values[::-1][:dim], 0.0))
    else:
        top = X @ np.linalg.eigh(X.T @ X)[1][:, ::-1][:, :dim]
    largest = np.take_along_axis(top, np.abs(top).argmax(axis=0)[None], axis=0)
    return np.ascontiguousarray(top * np.where(largest < 0, -1.0, 1.0))


# ------------------------------------------------------------------------------------------------- orders


def _greedy(X: Floats, start: int, metric: str) -> Order:
    """Nearest-neighbour walk: per step one GEMV over the rows left, 8 N d bytes and 2 N d flops."""
    n = X.shape[0]
    order = np.empty(n, dtype=np.intp)
    left = np.arange(n)
    if metric == "l2":
        X = np.ascontiguousarray(X - X.mean(axis=0))  # centred: less cancellation in the distances
        norms = np.einsum("ij,ij->i", X, X)
        tie = 16 * np.finfo(float).eps * float(norms.max())
        twice = -2.0 * X
    else:
        norms = np.zeros(n)
        tie = 16 * np.finfo(float).eps * float(np.abs(X).sum(axis=1).max())
        twice = X
    here = start
    visited = 0
    point = X[start].copy()
    for place in range(n):
        order[place] = left[here]
        if place == n - 1:
            break
        norms[here] = np.inf
        visited += 1
        if 2 * visited > left.size:  # drop the visited rows, so that steps get cheaper
            keep = np.isfinite(norms)
            left, norms, X, twice = left[keep], norms[keep], X[keep], twice[keep]
            if metric == "l1":
                twice = X
            visited = 0
        score = twice @ point if metric == "l2" else np.abs(X - point).sum(axis=1)
        score += norms
        here = int((score <= score.min() + tie).argmax())
        point = X[here].copy()
    return order


def _by_curve(X: Floats, start: int, metric: str) -> Order:
    """Hilbert order of the leading components, greedy inside cells; O(N log N + N cell dim)."""
    n = X.shape[0]
    leading = _principal(X, min(_CURVE_DIM, X.shape[1]))[:, :_CURVE_DIM]
    low, high = leading.min(axis=0), leading.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    ticks = np.minimum((leading - low) / span * 2**_CURVE_BITS, 2**_CURVE_BITS - 1).astype(np.uint64)
    curve = np.argsort(hilbert_index(ticks, _CURVE_BITS), kind="stable")
    curve = np.roll(curve, -int(np.flatnonzero(curve == start)[0]))
    cells = np.array_split(curve, max(1, round(n / _CELL)))
    pieces: list[Order] = []
    entry = 0  # place inside the cell
    for cell in cells:
        if pieces:
            entry = int(_distances(X[cell], X[pieces[-1][-1]], metric).argmin())
        pieces.append(cell[_greedy(X[cell], entry, metric)])
    return np.concatenate(pieces)


def hilbert_index(ticks: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Position along the Hilbert curve of points on the grid {0, ..., 2**bits - 1}**d, d * bits <= 64.

    Skilling's transposition, on all points at once: d * bits steps, each one pass over the N points.
    """
    x = [ticks[:, k].copy() for k in range(ticks.shape[1])]
    one = np.uint64(1)
    for shift in range(bits - 1, 0, -1):  # undo the reflections and exchanges, coarsest bit first
        q = one << np.uint64(shift)
        below = q - one
        for k in range(len(x)):
            high = (x[k] & q) != 0
            swap = (x[0] ^ x[k]) & below
            x[0] = np.where(high, x[0] ^ below, x[0] ^ swap)
            if k:
                x[k] = np.where(high, x[k], x[k] ^ swap)
    for k in range(1, len(x)):  # Gray code
        x[k] ^= x[k - 1]
    parity = np.zeros_like(x[0])
    for shift in range(bits - 1, 0, -1):
        q = one << np.uint64(shift)
        parity ^= np.where((x[-1] & q) != 0, q - one, np.uint64(0))
    key = np.zeros_like(x[0])
    for shift in range(bits - 1, -1, -1):  # interleave, most significant bits first
        for coordinate in x:
            key = (key << one) | (((coordinate ^ parity) >> np.uint64(shift)) & one)
    return key


# -------------------------------------------------------------------------------------------- improvement


def _improved(X: Floats, order: Order, metric: str) -> Order:
    """2-opt and Or-opt passes over the open path; its first system stays. O(N min(N, window) d) a pass."""
    order = order.copy()
    for _ in range(_PASSES):
        gain = _two_opt_pass(X, order, metric) + _or_opt_pass(X, order, metric)
        if gain <= 1e-9 * float(_steps(X, order, metric).sum()):
            break
    return order


def _two_opt_pass(X: Floats, order: Order, metric: str) -> float:
    """For each i, the best reversal of places i+1..j that shortens the path; changes `order`."""
    n = order.size
    Y = X[order]
    edge = _distances(Y[:-1], Y[1:], metric)
    total = 0.0
    for i in range(n - 2):
        stop = min(n, i + _WINDOW)
        near = _distances(Y[i + 2 : stop], Y[i], metric)  # j = i+2, ...
        far = np.zeros(stop - i - 2)
        far[: min(stop + 1, n) - i - 3] = _distances(Y[i + 3 : stop + 1], Y[i + 1], metric)
        after = np.zeros(stop - i - 2)  # the edge behind j; the last place has none
        after[: min(stop, n - 1) - i - 2] = edge[i + 2 : stop]
        gain = edge[i] + after - near - far
        best = int(gain.argmax())
        if gain[best] <= 1e-12 * edge[i]:
            continue
        j = i + 2 + best
        total += float(gain[best])
        order[i + 1 : j + 1] = order[i + 1 : j + 1][::-1].copy()
        Y[i + 1 : j + 1] = Y[i + 1 : j + 1][::-1].copy()
        edge[i + 1 : j] = edge[i + 1 : j][::-1].copy()
        edge[i] = near[best]
        if j < n - 1:
            edge[j] = far[best]
    return total


def _or_opt_pass(X: Floats, order: Order, metric: str) -> float:
    """For each piece of one to three systems, the best other place, either way round; changes `order`."""
    n = order.size
    total = 0.0
    for length in (1, 2, 3):
        if n < length + 3:
            break
        Y = X[order]
        edge = _distances(Y[:-1], Y[1:], metric)
        for first in range(1, n - length):  # the piece is first..last, never the path's end
            last = first + length - 1
            joined = float(_distances(Y[last + 1 : last + 2], Y[first - 1], metric)[0])
            removed = edge[first - 1] + edge[last] - joined
            if removed <= 0:
                continue
            low, high = max(0, first - _WINDOW), min(n, last + _WINDOW)
            to_first = _distances(Y[low:high], Y[first], metric)
            to_last = _distances(Y[low:high], Y[last], metric)
            straight = to_first[:-1] + to_last[1:]
            turned = to_last[:-1] + to_first[1:]
            cost = np.minimum(straight, turned) - edge[low : high - 1]
            cost[first - 1 - low : last + 1 - low] = np.inf  # edges that touch the piece
            best = int(cost.argmin())
            gain = removed - float(cost[best])
            if gain <= 1e-12 * removed:
                continue
            total += gain
            j = low + best  # the piece goes between places j and j + 1
            piece = np.arange(first, last + 1)
            if turned[best] < straight[best]:
                piece = piece[::-1]
            if j < first:
                lo, hi = j + 1, last + 1
                places = np.concatenate([piece, np.arange(j + 1, first)])
            else:
                lo, hi = first, j + 1
                places = np.concatenate([np.arange(last + 1, j + 1), piece])
            order[lo:hi] = order[places]
            Y[lo:hi] = Y[places]
            edge[lo - 1 : hi] = _distances(Y[lo - 1 : min(hi, n - 1)], Y[lo : min(hi, n - 1) + 1], metric)
    return total
