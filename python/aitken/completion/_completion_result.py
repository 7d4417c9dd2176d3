"""What matrix completion returns, and what can be asked of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from .._result import Result
from . import _native
from ._entries import Entries, array_module, is_sparse, take_entries, to_numpy


class CompletionResult(Result):
    """A low-rank matrix ``mu + row_bias[:, None] + col_bias[None, :] + U @ V.T``, and how it was found.

    Attributes
    ----------
    U, V : (n1, k), (n2, k) arrays
        Factors, balanced: both are singular vectors times ``sqrt(s)``. With `nonneg` their columns have
        equal norms instead, and where the penalty goes by degrees they are as the sweeps left them.
    s : (k,) array
        Singular values of ``U @ V.T``, descending.
    row_bias, col_bias : (n1,), (n2,) arrays or None
    mu : float
        What was taken off all values: their mean, or 0.
    rank : int
        Columns of the factors; fewer than asked for where the data do not support more.
    success : bool
        Whether a stopping rule was met, and, with ``robust=True``, the holdout confirms the answer.
    status : Status
    message : str
    fun : float
        The objective with its penalty, recomputed.
    nit : int
        Sweeps, over both factors each.
    rmse_train, rmse_holdout : float
        Root mean squared errors of the known entries, recomputed from the factors returned and weighted by
        `weights`; the holdout's is NaN without one. With `implicit` over all entries, by confidence.
    oversampling : float
        ``rho``: known entries per degree of freedom ``k (n1 + n2 - k)``, biases aside.
    n_underdetermined : int
        Rows and columns with fewer entries than unknowns, where nothing is penalised.
    n_empty_rows, n_empty_cols : int
        Those without entries; their factors are 0.
    n_pivot_retries : int
        Rows whose matrix needed a larger ridge, over all sweeps.
    history : dict of arrays
        ``rmse_train``, ``rmse_holdout``, ``lam``, ``rank``, ``inner_iterations`` and ``time`` (seconds) by
        sweep.
    holdout_path : array
        With ``rank="auto"``: the holdout RMSE of rank 1, 2, ...
    time : float
        Seconds.
    """

    U: Any
    V: Any
    s: Any
    row_bias: Any
    col_bias: Any
    mu: float
    rank: int
    success: bool
    status: Any
    message: str
    fun: float
    nit: int
    rmse_train: float
    rmse_holdout: float
    oversampling: float
    n_underdetermined: int
    n_empty_rows: int
    n_empty_cols: int
    n_pivot_retries: int
    history: dict[str, np.ndarray]
    holdout_path: np.ndarray
    time: float
    _options: dict[str, Any]  # of the half sweeps that fold_in repeats

    @property
    def shape(self) -> tuple[int, int]:
        """(n1, n2) of the matrix."""
        return self.U.shape[0], self.V.shape[0]

    def _biases(self) -> tuple[Any, Any]:
        empty = self.U[:0, 0]
        return (empty, empty) if self.row_bias is None else (self.row_bias, self.col_bias)

    def predict(self, rows: Any, cols: Any) -> Any:
        """Values at the places ``(rows[p], cols[p])``.

        Parameters
        ----------
        rows, cols : (p,) integer arrays

        Returns
        -------
        (p,) array

        Raises
        ------
        ValueError
            For an index out of range.
        """
        xp = array_module(self.U)
        lists = [
            _validate.index_array(name, given, limit, xp=xp).astype(np.int32)
            for name, given, limit in (("rows", rows, self.shape[0]), ("cols", cols, self.shape[1]))
        ]
        if len(lists[0]) != len(lists[1]):
            raise ValueError(f"`rows` and `cols` have lengths {len(lists[0])} and {len(lists[1])}")
        values = _native.of(self.U).predict_entries(self.U, self.V, *self._biases(), *lists, 0)
        return values + values.dtype.type(self.mu)

    def to_dense(self, rows: Any = slice(None), cols: Any = slice(None)) -> Any:
        """The matrix, or its part at `rows` and `cols` (slices or integer arrays), as a dense array."""
        dense = self.U[rows] @ self.V[cols].T
        dense += dense.dtype.type(self.mu)
        if self.row_bias is not None:
            dense += self.row_bias[rows][:, None]
            dense += self.col_bias[cols][None, :]
        return dense

    def fill(self, M: Any) -> Any:
        """`M`, an (n1, n2) array with NaN or a masked one, with its gaps filled and the rest as it is."""
        mask = np.ma.getmaskarray(M) if isinstance(M, np.ma.MaskedArray) else None
        given = M.data if mask is not None else (M if hasattr(M, "dtype") else np.asarray(M, dtype=float))
        if tuple(given.shape) != self.shape:
            raise ValueError(f"`M` has shape {tuple(given.shape)}; {self.shape} is needed")
        filled = given.astype(self.U.dtype if given.dtype.kind != "f" else given.dtype)
        gaps = (filled != filled) if mask is None else mask
        filled[gaps] = self.to_dense()[gaps]
        return filled

    def fold_in(self, M: Any, *, lam: float | None = None, n_threads: int | None = None) -> tuple[Any, Any]:
        """Factors of new rows, by one exact half sweep against V.

        Parameters
        ----------
        M : sparse matrix or array with NaN, (m, n2)
            The new rows' known entries.
        lam : float, optional
            The penalty; by default the one of the fit.

        Returns
        -------
        U_new : (m, k) array
        row_bias : (m,) array or None
        """
        from ._half_sweep import als_half_sweep

        options = dict(self._options)
        if lam is not None:
            options["lam"] = lam
        out = als_half_sweep(
            M, self.V, col_bias=self.col_bias, bias=self.row_bias is not None, mu=self.mu,
            n_threads=n_threads, **options,
        )  # fmt: skip
        return out if isinstance(out, tuple) else (out, None)

    def topk(self, rows: Any, n: int = 10, *, exclude: Any = None) -> tuple[Any, Any]:
        """The n columns with the largest values in each of some rows.

        Parameters
        ----------
        rows : int or (m,) integer array
        n : int
        exclude : sparse matrix or array with NaN, (n1, n2), optional
            Entries that are left out: those already known.

        Returns
        -------
        columns : (m, n) int64 array
            -1 where fewer columns are left.
        values : (m, n) array
            -inf there.
        """
        n = _validate.integer("n", n, minimum=1)
        index = _validate.index_array("rows", rows, self.shape[0])
        seen = None
        if exclude is not None:
            seen = self._seen(exclude, index)
        return self._best(self.U, index, n, seen)

    def _seen(self, exclude: Any, index: np.ndarray) -> Any:
        if is_sparse(exclude):
            if tuple(exclude.shape) != self.shape:
                raise ValueError(f"`exclude` has shape {tuple(exclude.shape)}; {self.shape} is needed")
            block = exclude.tocsr()[index]
            block.sum_duplicates()
            return block.indptr, block.indices
        entries: Entries = take_entries("exclude", exclude, allow_empty=True)
        if entries.shape != self.shape:
            raise ValueError(f"`exclude` has shape {entries.shape}; {self.shape} is needed")
        lists = [entries.col[entries.indptr[i] : entries.indptr[i + 1]] for i in index]
        lengths = np.cumsum([0, *map(len, lists)])
        return lengths, np.concatenate(lists) if lists else np.empty(0, np.int32)

    def _best(self, left: Any, index: np.ndarray, n: int, seen: Any) -> tuple[Any, Any]:
        xp = array_module(self.U)
        n2 = self.shape[1]
        items = xp.full((len(index), n), -1, dtype=np.int64)
        scores = xp.full((len(index), n), -np.inf, dtype=self.U.dtype)
        count = min(n, n2)
        step = max(1, 2**24 // max(n2, 1))  # rows at a time: 64 to 128 MB of values
        for first in range(0, len(index), step):
            chunk = index[first : first + step]
            values = left[chunk] @ self.V.T
            if self.col_bias is not None:
                values += self.col_bias[None, :] + self.row_bias[chunk][:, None]
            values += values.dtype.type(self.mu)
            if seen is not None:
                indptr, indices = seen
                lengths = np.diff(to_numpy(indptr)[first : first + len(chunk) + 1])
                where = xp.asarray(np.repeat(np.arange(len(chunk)), lengths))
                values[where, indices[int(indptr[first]) : int(indptr[first + len(chunk)])]] = -np.inf
            best = xp.argpartition(-values, count - 1, axis=1)[:, :count]
            top = xp.take_along_axis(values, best, axis=1)
            # By value, then by column, so that ties have one order.
            order = xp.argsort(best, axis=1, kind="stable")
            best, top = (xp.take_along_axis(a, order, axis=1) for a in (best, top))
            order = xp.argsort(-top, axis=1, kind="stable")
            best, top = (xp.take_along_axis(a, order, axis=1) for a in (best, top))
            items[first : first + len(chunk), :count] = xp.where(xp.isneginf(top), -1, best)
            scores[first : first + len(chunk), :count] = top
        return items, scores

    def similar(self, columns: Any, n: int = 10) -> tuple[Any, Any]:
        """The n columns most like each of some columns: by the cosine between rows of V, itself left out.

        Returns
        -------
        columns : (m, n) int64 array
            -1 where fewer columns are left.
        cosines : (m, n) array
        """
        xp = array_module(self.U)
        n = _validate.integer("n", n, minimum=1)
        index = _validate.index_array("columns", columns, self.shape[1])
        norms = xp.linalg.norm(self.V, axis=1)
        unit = self.V / xp.where(norms > 0, norms, 1)[:, None]
        cosine = CompletionResult(U=unit, V=unit, row_bias=None, col_bias=None, mu=0.0)
        itself = (np.arange(len(index) + 1), index)
        return cosine._best(unit, index, n, itself)


def finished(u: Any, v: Any, xp: Any, *, nonneg: bool, weighted: bool) -> tuple[Any, Any, Any]:
    """Factors as they are returned, and their singular values; `weighted`: the penalty goes by degrees."""
    if weighted:  # any other pair of factors would change the objective
        return xp.ascontiguousarray(u), xp.ascontiguousarray(v), balance(u, v, xp)[2]
    return balance_columns(u, v, xp) if nonneg else balance(u, v, xp)


def penalty(factors: Any, biases: Any, weights: Any, lam: float) -> float:
    """``lam`` times the weighted sum of squares of the rows of both factors and of the biases."""
    total = 0.0
    if lam > 0:
        for factor, bias, weight in zip(factors, biases, weights, strict=True):
            squares = (factor.astype(np.float64) ** 2).sum(axis=1)
            if bias.shape[0]:
                squares += bias.astype(np.float64) ** 2
            total += lam * float((squares * weight).sum())
    return total


def balance(u: Any, v: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Singular vectors of ``u @ v.T`` times the roots of its singular values, and these."""
    qu, ru = xp.linalg.qr(u)
    qv, rv = xp.linalg.qr(v)
    core = ru @ rv.T
    if not bool(xp.isfinite(core).all()):  # products beyond the range of the type: factors as they are
        return u, v, xp.full(u.shape[1], np.nan, dtype=u.dtype)
    left, values, right = xp.linalg.svd(core)
    rank = min(u.shape[1], len(values))
    root = xp.sqrt(values[:rank])
    # The largest entry of each left vector is positive, so that signs do not depend on rounding.
    u, v = qu @ left[:, :rank], qv @ right[:rank].T
    sign = xp.sign(u[xp.abs(u).argmax(axis=0), xp.arange(rank)])
    sign = xp.where(sign == 0, 1, sign).astype(u.dtype)
    return xp.ascontiguousarray(u * (root * sign)), xp.ascontiguousarray(v * (root * sign)), values[:rank]


def balance_columns(u: Any, v: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Columns of equal norms, the largest first: what keeps nonnegative factors nonnegative."""
    nu, nv = xp.linalg.norm(u, axis=0), xp.linalg.norm(v, axis=0)
    values = nu * nv
    order = xp.argsort(-values, kind="stable")
    root = xp.sqrt(values)
    scale_u = xp.where(nu > 0, root / xp.where(nu > 0, nu, 1), 0)
    scale_v = xp.where(nv > 0, root / xp.where(nv > 0, nv, 1), 0)
    u, v = (u * scale_u)[:, order], (v * scale_v)[:, order]
    return xp.ascontiguousarray(u), xp.ascontiguousarray(v), values[order]


__all__ = ["CompletionResult", "balance", "finished", "penalty"]
