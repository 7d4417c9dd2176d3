"""The entries that are known of a matrix: taken from any of the forms callers have, and sorted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate

# What native code takes: indptr int64, indices int32, values, weights or None.
Rows = tuple[Any, Any, Any, Any]


@dataclass
class Entries:
    """Known entries in coordinate form, sorted by rows and then columns, none twice.

    Attributes
    ----------
    shape : (int, int)
    indptr : (n1 + 1,) int64
        Entries of row i are ``indptr[i] : indptr[i + 1]``.
    row, col : (p,) int32
    values : (p,) float32 or float64
    weights : (p,) array of the same type, or None
    xp : module
        numpy or cupy.
    """

    shape: tuple[int, int]
    indptr: Any
    row: Any
    col: Any
    values: Any
    weights: Any
    xp: Any
    _columns: tuple[Any, Any, Any] | None = field(default=None, repr=False)  # indptr, indices, source

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def by_rows(self) -> Rows:
        """The entries in compressed rows."""
        return self.indptr, self.col, self.values, self.weights

    def by_columns(self) -> Rows:
        """The entries in compressed columns."""
        if self._columns is None:
            n1, n2 = self.shape
            self._columns = _sort(n2, n1, self.col, self.row, self.xp)[:3]
        indptr, indices, source = self._columns
        weights = None if self.weights is None else self.weights[source]
        return indptr, indices, self.values[source], weights

    def degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of each row and of each column, on the host."""
        rows = to_numpy(self.indptr)
        return np.diff(rows), to_numpy(self.xp.bincount(self.col, minlength=self.shape[1]))

    def with_values(self, values: Any, weights: Any = None) -> Entries:
        """Other numbers at the same places."""
        return Entries(self.shape, self.indptr, self.row, self.col, values, weights, self.xp, self._columns)

    def subset(self, keep: Any) -> Entries:
        """The entries where the mask `keep` holds."""
        xp = self.xp
        row = self.row[keep]
        indptr = xp.zeros(self.shape[0] + 1, dtype=np.int64)
        xp.cumsum(xp.bincount(row, minlength=self.shape[0]), out=indptr[1:])
        weights = None if self.weights is None else self.weights[keep]
        return Entries(self.shape, indptr, row, self.col[keep], self.values[keep], weights, xp)


def to_numpy(x: Any) -> np.ndarray:
    """An array of ours on the host."""
    return x if isinstance(x, np.ndarray) else x.get()


def array_module(x: Any) -> Any:
    """numpy or cupy, whichever an array of ours is of."""
    if isinstance(x, np.ndarray):
        return np
    import cupy

    return cupy


def _sort(n_rows: int, n_cols: int, rows: Any, cols: Any, xp: Any) -> tuple[Any, Any, Any, int]:
    """(indptr, indices, source, duplicates) of entries in coordinate form."""
    if xp is np:
        return _core.sort_entries(n_rows, n_cols, rows.astype(np.int64), cols.astype(np.int64))
    source = xp.lexsort(xp.stack([cols, rows]))
    row, col = rows[source], cols[source]
    indptr = xp.zeros(n_rows + 1, dtype=np.int64)
    xp.cumsum(xp.bincount(row, minlength=n_rows), out=indptr[1:])
    twice = int(((row[1:] == row[:-1]) & (col[1:] == col[:-1])).sum()) if len(row) > 1 else 0
    return indptr, col.astype(np.int32), source, twice


def is_sparse(x: Any) -> bool:
    """Whether `x` is a sparse matrix or array of SciPy or CuPy."""
    return hasattr(x, "tocoo") and hasattr(x, "nnz")


def take_entries(
    name: str,
    M: Any,
    *,
    shape: Any = None,
    weights: Any = None,
    dtype: Any = None,
    duplicates: str = "raise",
    allow_empty: bool = False,
) -> Entries:
    """The known entries of `M`, whatever its form.

    Parameters
    ----------
    name : str
        The parameter's name, for messages.
    M : sparse matrix, (n1, n2) array with NaN, masked array, or (rows, cols, values)
        Stored entries of a sparse matrix are known, zeros among them.
    shape : (int, int), optional
        Of the matrix, needed with coordinates.
    weights : array or sparse matrix, optional
        Positive; like `M`, or one per entry in the order of `M`.
    dtype : dtype, optional
    duplicates : {"raise", "mean", "last"}
        What to do with a place given twice.
    allow_empty : bool
        Whether no entry at all is fine.
    """
    parts = (M[0], M[1], M[2]) if isinstance(M, tuple) and len(M) == 3 else (M,)
    backend = _dispatch.select(
        **{f"{name}[{i}]" if len(parts) == 3 else name: p for i, p in enumerate(parts)}
    )
    xp = backend.xp
    if isinstance(M, tuple):
        rows, cols, values, size = _from_coordinates(name, M, shape, xp, backend)
    elif is_sparse(M):
        rows, cols, values, size = _from_sparse(name, M)
    else:
        rows, cols, values, size = _from_dense(name, M, xp, backend)
    if shape is not None and not isinstance(M, tuple) and tuple(shape) != size:
        raise ValueError(f"`shape` is {tuple(shape)}, but `{name}` has shape {size}")
    values = _validate.as_float_array(f"{name}", values, ndim=1, dtype=dtype, finite=False, xp=xp)
    finite = xp.isfinite(values)
    if not bool(finite.all()):
        at = int(xp.argmin(finite))
        raise ValueError(
            f"`{name}` has a non-finite value at index ({int(rows[at])}, {int(cols[at])}): "
            f"{float(values[at])}"
        )
    if len(values) == 0 and not allow_empty:
        raise ValueError(f"`{name}` has shape {size} and no known entry")
    given = None if weights is None else _take_weights(name, M, weights, rows, cols, values, xp)
    source: Any
    if xp is np and is_sparse(M) and M.format == "csr" and M.has_canonical_format:  # in order already
        indptr, col, source, twice = M.indptr.astype(np.int64), cols.astype(np.int32), slice(None), 0
    else:
        indptr, col, source, twice = _sort(size[0], size[1], rows, cols, xp)
    row = rows[source].astype(np.int32)
    entries = Entries(size, indptr, row, col, values[source], None if given is None else given[source], xp)
    return _merge(name, entries, duplicates) if twice else entries


def implicit_entries(entries: Entries, alpha: float) -> Entries:
    """Targets and weights over the background of an implicit-feedback problem.

    With confidence ``c = 1 + alpha |r|`` and preference p, ``c (p - x)**2`` is ``x**2``, which the background
    has for every entry, and ``(c - 1) (c p / (c - 1) - x)**2`` up to a constant.
    """
    xp = entries.xp
    more = alpha * xp.abs(entries.values)
    counted = more > 0
    safe = xp.where(counted, more, 1)
    target = xp.where(counted & (entries.values > 0), (1 + safe) / safe, 0)
    dtype = entries.values.dtype
    return entries.with_values(target.astype(dtype), more.astype(dtype))


def _from_coordinates(name: str, M: Any, shape: Any, xp: Any, backend: Any) -> tuple[Any, Any, Any, Any]:
    if len(M) != 3:
        raise ValueError(f"`{name}` has {len(M)} parts; (rows, cols, values) is needed")
    if shape is None:
        raise ValueError(f"`shape` is needed where `{name}` is (rows, cols, values)")
    try:
        size = tuple(shape)
    except TypeError:
        raise TypeError(f"`shape` must be a pair of integers, not {shape!r}") from None
    if len(size) != 2:
        raise ValueError(f"`shape` has {len(size)} items; (n1, n2) is needed")
    size = tuple(_validate.integer("shape", n, minimum=0, maximum=2**31 - 1) for n in size)
    lists = []
    for position, limit in enumerate(size):
        given = backend.take(f"{name}[{position}]", M[position])
        lists.append(_validate.index_array(f"{name}[{position}]", given, limit, xp=xp))
    values = xp.asarray(backend.take(f"{name}[2]", M[2]))
    if not len(lists[0]) == len(lists[1]) == (len(values) if values.ndim == 1 else -1):
        raise ValueError(
            f"`{name}` has rows, cols and values of shapes {tuple(lists[0].shape)}, {tuple(lists[1].shape)} "
            f"and {tuple(values.shape)}; they must be vectors of one length"
        )
    return lists[0], lists[1], values, size


def _from_sparse(name: str, M: Any) -> tuple[Any, Any, Any, Any]:
    if len(M.shape) != 2:
        raise ValueError(f"`{name}` has shape {tuple(M.shape)}; 2-D is needed")
    if M.format in ("csr", "csc"):
        check_compressed(name, M)
    coo = M.tocoo()
    size = (int(M.shape[0]), int(M.shape[1]))
    for what, index, limit in (("row", coo.row, size[0]), ("column", coo.col, size[1])):
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= limit):
            worst = int(index.min()) if int(index.min()) < 0 else int(index.max())
            raise ValueError(f"`{name}` of shape {size} has an entry in {what} {worst}")
    return coo.row, coo.col, coo.data, size


def check_compressed(name: str, M: Any) -> None:
    """Raise ValueError where the arrays of a CSR or CSC matrix do not fit together."""
    major, minor = M.shape if M.format == "csr" else M.shape[::-1]
    indptr, indices = M.indptr, M.indices
    right = len(indptr) == major + 1 and int(indptr[0]) == 0 and len(indices) == len(M.data)
    if not right or int(indptr[-1]) != len(indices) or bool((indptr[1:] < indptr[:-1]).any()):
        raise ValueError(f"`{name}` has an `indptr` that does not fit its {len(indices)} entries")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= minor):
        worst = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        what = "column" if M.format == "csr" else "row"
        raise ValueError(f"`{name}` of shape {tuple(M.shape)} has an entry in {what} {worst}")


def _from_dense(name: str, M: Any, xp: Any, backend: Any) -> tuple[Any, Any, Any, Any]:
    mask = None
    if isinstance(M, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(M)
        M = M.data
    array = _validate.as_float_array(name, backend.take(name, M), ndim=2, finite=False, xp=xp)
    known = ~xp.isnan(array) if mask is None else ~mask
    rows, cols = xp.nonzero(known)
    return rows, cols, array[known], (int(array.shape[0]), int(array.shape[1]))


def _take_weights(name: str, M: Any, weights: Any, rows: Any, cols: Any, values: Any, xp: Any) -> Any:
    if is_sparse(weights):
        if not is_sparse(M):
            raise TypeError(f"`weights` is sparse but `{name}` is not; give them in one form")
        theirs = take_entries("weights", weights, dtype=values.dtype)
        indptr, col, source, _ = _sort(M.shape[0], M.shape[1], rows, cols, xp)
        same = tuple(weights.shape) == tuple(M.shape) and len(theirs) == len(values)
        if not same or not bool((theirs.col == col).all() and (theirs.indptr == indptr).all()):
            raise ValueError(f"`weights` must have entries where `{name}` has them, and nowhere else")
        given = xp.empty_like(theirs.values)
        given[source] = theirs.values
    else:
        given = _validate.as_float_array("weights", weights, dtype=values.dtype, finite=False, xp=xp)
        if given.ndim == 2 and not isinstance(M, tuple) and tuple(given.shape) == tuple(M.shape):
            given = given[rows, cols]
        elif tuple(given.shape) != tuple(values.shape):
            raise ValueError(
                f"`weights` has shape {tuple(given.shape)}; the {len(values)} known entries of `{name}` need "
                f"{tuple(values.shape)}, or the shape of `{name}`"
            )
    good = xp.isfinite(given) & (given > 0)
    if not bool(good.all()):
        at = int(xp.argmin(good))
        raise ValueError(
            f"`weights` must be positive and finite; entry ({int(rows[at])}, {int(cols[at])}) has "
            f"{float(given[at])}"
        )
    return given


def _merge(name: str, e: Entries, how: str) -> Entries:
    """One entry for each place."""
    xp = e.xp
    new = xp.ones(len(e), dtype=bool)
    new[1:] = (e.row[1:] != e.row[:-1]) | (e.col[1:] != e.col[:-1])
    if how == "raise":
        at = int(xp.argmin(new))
        raise ValueError(
            f"`{name}` gives entry ({int(e.row[at])}, {int(e.col[at])}) more than once, "
            f'{len(e) - int(new.sum())} entries too many; say `duplicates="mean"` or `"last"`'
        )
    if how == "last":
        last = xp.ones(len(e), dtype=bool)
        last[:-1] = new[1:]
        return e.subset(last)
    group = xp.cumsum(new) - 1
    w = xp.ones(len(e)) if e.weights is None else e.weights.astype(np.float64)
    total = xp.bincount(group, weights=w)
    mean = (xp.bincount(group, weights=w * e.values) / total).astype(e.values.dtype)
    merged = e.subset(new)
    merged.values = mean
    if e.weights is not None:
        merged.weights = total.astype(e.values.dtype)
    return merged
