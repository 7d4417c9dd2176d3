"""Finite differences that stay inside bounds; columns grouped by a sparsity pattern cost one call each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

SCHEMES = ("2-point", "3-point", "cs")

_EPS = float(np.finfo(np.float64).eps)

# Steps that balance truncation against round-off; a complex step has no round-off, so it may be tiny.
_RELATIVE_STEP = {"2-point": _EPS**0.5, "3-point": _EPS ** (1.0 / 3.0), "cs": 1e-20}


class Grouping:
    """A sparsity pattern with its columns in groups that share no row.

    Parameters
    ----------
    pattern : sparse array, shape (m, n)
        Stored entries are the places that may be non-zero; their values do not matter.

    Attributes
    ----------
    group : ndarray of int64, shape (n,)
        The group of each column; columns without entries have -1 and cost nothing.
    n_groups : int
        How many groups there are: the calls that one one-sided Jacobian costs.
    indptr, indices : ndarray of int32
        The pattern in CSR order, sorted, without duplicates.
    rows : ndarray of int32, shape (nnz,)
        The row of every entry.
    """

    def __init__(self, pattern: Any) -> None:
        csr = sp.csr_array(pattern, dtype=np.float64, copy=True)
        csr.sum_duplicates()
        self.shape: tuple[int, int] = (int(csr.shape[0]), int(csr.shape[1]))
        self.indptr = csr.indptr.astype(np.int32)
        self.indices = csr.indices.astype(np.int32)
        self.rows = np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.indptr))
        self.group = group_columns(csr)
        self.n_groups = int(self.group.max(initial=-1)) + 1

    def matrix(self, data: np.ndarray) -> sp.csr_array:
        """The CSR array with this pattern and the values `data`."""
        return sp.csr_array((data, self.indices, self.indptr), shape=self.shape)


def group_columns(pattern: Any) -> np.ndarray:
    """Greedy colouring: columns of one group have no row in common.

    Columns are taken by decreasing number of entries and get the first group that fits. Each row keeps the
    groups it has seen as the bits of one integer, so that a column costs an OR over its rows.

    Parameters
    ----------
    pattern : sparse array, shape (m, n)

    Returns
    -------
    ndarray of int64, shape (n,)
        The group of every column, from 0; -1 for a column without entries.
    """
    csc = sp.csc_array(pattern)
    n = csc.shape[1]
    indptr = csc.indptr.tolist()
    indices = csc.indices.tolist()
    seen = [0] * csc.shape[0]
    group = np.full(n, -1, dtype=np.int64)
    for j in np.argsort(-np.diff(csc.indptr), kind="stable").tolist():
        rows = indices[indptr[j] : indptr[j + 1]]
        if not rows:
            break  # the rest is empty as well
        taken = 0
        for i in rows:
            taken |= seen[i]
        bit = ~taken & (taken + 1)  # the lowest bit not taken
        for i in rows:
            seen[i] |= bit
        group[j] = bit.bit_length() - 1
    return group


def steps(
    x: np.ndarray,
    scheme: str,
    rel_step: Any = None,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Signed steps, and which columns take two steps to one side.

    Parameters
    ----------
    x : ndarray, shape (n,)
    scheme : {"2-point", "3-point", "cs"}
    rel_step : None, float or ndarray of shape (n,)
        The step is ``rel_step * |x|``, or the default ``eps**(1/2)`` (2-point), ``eps**(1/3)`` (3-point)
        times ``max(1, |x|)`` where that is None or gives no step. A complex step ignores it.
    lower, upper : ndarray of shape (n,), optional
        Every point stays inside where `x` is: a step that does not fit turns round or shrinks.

    Returns
    -------
    h : ndarray, shape (n,)
        Steps such that ``x + h`` is exact.
    one_sided : ndarray of bool, shape (n,)
        For "3-point", the columns that use x, x + h, x + 2h in place of x - h, x + h.
    """
    n = x.size
    sign = np.where(x >= 0.0, 1.0, -1.0)
    default = _RELATIVE_STEP[scheme] * np.maximum(1.0, np.abs(x))
    one_sided = np.zeros(n, dtype=bool)
    if scheme == "cs":
        return default, one_sided
    size = default
    if rel_step is not None:
        size = np.abs(np.broadcast_to(np.asarray(rel_step, dtype=np.float64), (n,))) * np.abs(x)
        size = np.where(x + size == x, default, size)
    h = sign * size
    if lower is not None and upper is not None:
        inside = (x >= lower) & (x <= upper)
        up = np.where(inside, upper - x, np.inf)
        down = np.where(inside, x - lower, np.inf)
        wide = np.where(up >= down, 1.0, -1.0)  # towards the farther bound
        room = np.maximum(up, down)
        if scheme == "2-point":
            fits = np.where(h > 0.0, up, down) >= size
            h = np.where(fits, h, wide * np.minimum(size, room))
        else:
            near = np.minimum(up, down)
            one_sided = (near < size) & (room >= 2.0 * near)
            h = np.where(one_sided, wide * np.minimum(size, 0.5 * room), sign * np.minimum(size, near))
    exact = (x + h) - x
    # A step below the spacing of floats would be lost, and a rounded one may leave the bounds by an ulp.
    h = np.where(exact != 0.0, exact, h)
    return h, one_sided


def jacobian(
    function: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    base: Callable[[], np.ndarray],
    scheme: str,
    *,
    rel_step: Any = None,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    grouping: Grouping | None = None,
) -> Any:
    """The Jacobian of `function` at `x` by differences.

    Parameters
    ----------
    function : callable
        ``function(x) -> ndarray of shape (m,)``; complex input and output for "cs".
    x : ndarray, shape (n,)
    base : callable
        ``base()`` is ``function(x)``; called at most once, and only if the scheme uses that value.
    scheme : {"2-point", "3-point", "cs"}
    rel_step, lower, upper : see `steps`
    grouping : Grouping, optional
        Differences by groups of columns.

    Returns
    -------
    ndarray of shape (m, n), or csr_array with the pattern of `grouping`
    """
    n = x.size
    h, one_sided = steps(x, scheme, rel_step, lower, upper)
    value: np.ndarray | None = None
    if scheme == "2-point" or bool(one_sided.any()):
        value = base()

    def along(columns: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Scaled numerators at one step of `columns`: all central or "2-point", and those one-sided."""
        if scheme == "cs":
            point = x.astype(np.complex128)
            point[columns] += 1j * h[columns]
            return function(point).imag, None
        point = x.copy()
        point[columns] += h[columns]
        if lower is not None and upper is not None:  # an ulp of rounding must not leave the bounds
            inside = (x >= lower) & (x <= upper)
            np.copyto(point, np.clip(point, lower, upper), where=inside)
        first = function(point)
        if scheme == "2-point":
            return first - value, None
        point = x.copy()
        point[columns] += np.where(one_sided[columns], 2.0, -1.0) * h[columns]
        if lower is not None and upper is not None:
            np.copyto(point, np.clip(point, lower, upper), where=inside)
        second = function(point)
        central = 0.5 * (first - second)
        return central, (0.5 * (4.0 * first - 3.0 * value - second) if value is not None else None)

    with np.errstate(invalid="ignore", over="ignore"):  # Inf - Inf is NaN: the caller judges the numbers
        if grouping is None:
            dense: np.ndarray | None = None
            for j in range(n):
                central, sided = along(slice(j, j + 1))
                column = sided if sided is not None and one_sided[j] else central
                if dense is None:
                    dense = np.empty((column.size, n))
                dense[:, j] = column / h[j]
            return np.empty((base().size, 0)) if dense is None else dense
        data = np.zeros(grouping.indices.size)
        entry_group = grouping.group[grouping.indices]
        order = np.argsort(entry_group, kind="stable")
        ends = np.searchsorted(entry_group[order], np.arange(grouping.n_groups + 1))
        for k in range(grouping.n_groups):
            entries = order[ends[k] : ends[k + 1]]
            columns = grouping.indices[entries]
            rows = grouping.rows[entries]
            central, sided = along(grouping.group == k)
            numerator = central[rows]
            if sided is not None:
                numerator = np.where(one_sided[columns], sided[rows], numerator)
            data[entries] = numerator / h[columns]
    return grouping.matrix(data)


def directional(
    function: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    direction: np.ndarray,
    base: Callable[[], np.ndarray],
    scheme: str,
    *,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
) -> np.ndarray:
    """The derivative of `function` at `x` along `direction`: one call ("2-point", "cs") or two.

    The step is ``rel * max(1, ||x||_inf) / ||direction||_inf``, turned round or cut so that the points stay
    inside the bounds. Where less than a thousandth of the step fits either way, the bounds are left
    instead: a derivative of round-off would be worse.
    """
    longest = float(np.max(np.abs(direction), initial=0.0))
    if longest == 0.0:
        return np.zeros_like(base())
    size = _RELATIVE_STEP[scheme] * max(1.0, float(np.max(np.abs(x), initial=0.0))) / longest
    if scheme == "cs":
        return function(x + (1j * size) * direction).imag / size
    forward = backward = np.inf
    if lower is not None and upper is not None:
        moving = direction != 0.0
        d, y, lo, hi = direction[moving], x[moving], lower[moving], upper[moving]
        if bool(((y >= lo) & (y <= hi)).all()):
            forward = float(np.min(np.where(d > 0.0, hi - y, lo - y) / d, initial=np.inf))
            backward = float(np.min(np.where(d > 0.0, y - lo, y - hi) / d, initial=np.inf))
    with np.errstate(invalid="ignore", over="ignore"):
        if scheme == "3-point" and min(forward, backward) >= 0.1 * size:
            t = min(size, forward, backward)
            return (function(x + t * direction) - function(x - t * direction)) / (2.0 * t)
        if max(forward, backward) >= 1e-3 * size:
            t = min(size, forward) if forward >= min(size, backward) else -min(size, backward)
        else:
            t = size
        return (function(x + t * direction) - base()) / t


__all__ = ["SCHEMES", "Grouping", "directional", "group_columns", "jacobian", "steps"]
