"""One half sweep of alternating minimisation over a block of rows, for batches and distributed use."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _dispatch, _validate
from . import _native
from ._entries import Rows, check_compressed, implicit_entries, is_sparse, take_entries

_INNER = ("exact", "cg", "qcg", "sketch", "lowprec")
_LOSSES = ("linear", "huber", "l1")


def als_half_sweep(
    A: Any,
    V: Any,
    X0: Any = None,
    *,
    lam: float = 0.0,
    lam_scaling: str = "none",
    weights: Any = None,
    bias: bool = False,
    col_bias: Any = None,
    row_bias: Any = None,
    mu: float = 0.0,
    nonneg: bool = False,
    implicit: bool = False,
    alpha: float = 1.0,
    loss: str = "linear",
    delta: float | None = None,
    inner: str = "exact",
    inner_maxiter: int | None = None,
    inner_tol: float = 0.03,
    rng: Any = 0,
    first_row: int = 0,
    n_threads: int | None = None,
) -> Any:
    """Solve for the factor of a block of rows, the other factor being fixed.

    Row i of the answer minimises, over the known entries of row i of `A`,
    ``sum_j w_ij (a_ij - mu - col_bias_j - x_i @ V_j - row_bias_i)**2 + lam_i (|x_i|**2 + row_bias_i**2)``.
    The function is pure: what rows get does not depend on which block they are in, so blocks may be solved
    anywhere and in any order (for ``inner="sketch"`` with `first_row` saying which rows they are).

    Parameters
    ----------
    A : sparse matrix, array with NaN, or (rows, cols, values) with ``len(V)`` columns, (m, n2)
        The block of rows; stored entries are known, zeros among them.
    V : (n2, k) array
        The fixed factor, float32 or float64; decides the type of the answer.
    X0 : (m, k) array, optional
        Where iterative solvers start; 0 by default. Not changed.
    lam : float, default 0
        Penalty. With 0 and fewer entries than unknowns "exact" gives (nearly) the solution of least norm.
    lam_scaling : {"none", "degree"}
        ``lam_i`` is `lam`, or `lam` times the number of entries of the row.
    weights : array or sparse matrix, optional
        Positive weights, like `A`.
    bias : bool
        Solve for a bias of each row as well.
    col_bias, row_bias : (n2,), (m,) arrays, optional
        Biases of the fixed side, and where those of the rows start; with `bias` alone.
    mu : float
        Taken off all values.
    nonneg : bool
        Keep the answer nonnegative, by coordinate descent.
    implicit : bool
        Count all entries: known ones have target 1 (0 where the value is not positive) and weight
        ``1 + alpha |value|``, others target 0 and weight 1.
    alpha : float
        See `implicit`.
    loss : {"linear", "huber", "l1"}
        What stands for the square of a residual; one reweighting, at `X0`.
    delta : float, optional
        Where the loss turns from a square to a line; needed with "huber" and "l1".
    inner : {"exact", "cg", "qcg", "sketch", "lowprec"}
        How each row is solved, see `matrix_completion`.
    inner_maxiter : int, optional
        Iterations for a row: 3, or 100 passes with `nonneg`.
    inner_tol : float, default 0.03
        Factor by which the norm of a row's gradient must fall from that at `X0`: the 2-norm for "cg", that
        of the preconditioner for the others.
    rng : int or numpy.random.Generator, default 0
        Of ``inner="sketch"``.
    first_row : int, default 0
        Number of the first row of the block, by which signs of ``inner="sketch"`` are drawn.
    n_threads : int, optional

    Returns
    -------
    X : (m, k) array
    row_bias : (m,) array
        With `bias` only.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.completion import als_half_sweep
    >>> V = np.array([[1.0], [2.0], [3.0]])
    >>> A = np.array([[2.0, 4.0, np.nan], [np.nan, -2.0, -3.0]])
    >>> als_half_sweep(A, V).round(6)
    array([[ 2.],
           [-1.]])
    """
    backend = _dispatch.select(A=None if isinstance(A, tuple) else A, V=V, X0=X0, col_bias=col_bias)
    xp = backend.xp
    V = xp.ascontiguousarray(_validate.as_float_array("V", backend.take("V", V), ndim=2, xp=xp))
    if V.shape[1] == 0:
        raise ValueError(f"`V` has shape {tuple(V.shape)}; at least one column is needed")
    bias = _validate.boolean("bias", bias)
    if (col_bias is not None or row_bias is not None) and not bias:
        raise ValueError("`col_bias` and `row_bias` need `bias=True`")
    options = half_options(
        lam=lam, lam_scaling=lam_scaling, nonneg=nonneg, implicit=implicit, loss=loss, delta=delta,
        inner=inner, inner_maxiter=inner_maxiter, inner_tol=inner_tol, bias=bias, dtype=V.dtype,
    )  # fmt: skip
    if loss != "linear" and delta is None:
        raise ValueError(f"`delta` is needed with loss={loss!r}")
    options["delta"] = 0.0 if delta is None else options["delta"]
    rows, m, width = _block(A, V.dtype, weights, mu, implicit, alpha)
    if width != len(V):
        raise ValueError(f"`A` has {width} columns but `V` has {len(V)} rows")
    fixed_bias = _vector("col_bias", col_bias, len(V), bias, V, backend)
    X = _start("X0", X0, (m, V.shape[1]), V, backend)
    x_bias = _vector("row_bias", row_bias, m, bias, V, backend)
    options |= {"seed": _validate.rng_seed(rng), "n_threads": _validate.n_threads(n_threads)}
    options["first_row"] = _validate.integer("first_row", first_row, minimum=0)
    _native.of(V).als_half_sweep(rows, V, fixed_bias, X, x_bias, options)
    return (X, x_bias) if bias else X


def half_options(
    *, lam: Any, lam_scaling: Any, nonneg: Any, implicit: Any, loss: Any, delta: Any, inner: Any,
    inner_maxiter: Any, inner_tol: Any, bias: bool, dtype: Any,
) -> dict[str, Any]:  # fmt: skip
    """The options of a half sweep, checked, as native code takes them."""
    nonneg = _validate.boolean("nonneg", nonneg)
    implicit = _validate.boolean("implicit", implicit)
    _validate.choice("loss", loss, _LOSSES)
    _validate.choice("inner", inner, _INNER)
    if nonneg and bias:
        raise ValueError("`nonneg` and `bias` exclude each other: biases may be negative")
    if implicit and (bias or loss != "linear"):
        raise ValueError('`implicit` needs `bias=False` and `loss="linear"`')
    if inner == "lowprec" and np.dtype(dtype) != np.float64:
        raise ValueError(f'`inner="lowprec"` needs float64 data; there is nothing below {np.dtype(dtype)}')
    limit = _validate.optional_integer("inner_maxiter", inner_maxiter, minimum=1)
    return {
        "lam": _validate.real_scalar("lam", lam, minimum=0.0),
        "lam_by_degree": _validate.choice("lam_scaling", lam_scaling, ("none", "degree")) == "degree",
        "bias": bias,
        "nonneg": nonneg,
        "background": implicit,
        "loss": loss,
        "delta": 0.0 if delta is None else _validate.positive_scalar("delta", delta),
        "inner": inner,
        "inner_maxiter": limit if limit is not None else (100 if nonneg else 3),
        "inner_tol": _validate.tolerance("inner_tol", inner_tol),
    }


def _block(A: Any, dtype: Any, weights: Any, mu: Any, implicit: bool, alpha: Any) -> tuple[Rows, int, int]:
    """(compressed rows, m, n2); a CSR matrix in order is used as it is."""
    mu = _validate.real_scalar("mu", mu)
    alpha = _validate.positive_scalar("alpha", alpha)
    ready = is_sparse(A) and A.format == "csr" and weights is None and not implicit and mu == 0
    if ready and A.dtype == dtype and A.has_canonical_format:
        check_compressed("A", A)
        data = _validate.as_float_array("A", A.data, ndim=1)
        rows = (A.indptr.astype(np.int64, copy=False), A.indices.astype(np.int32, copy=False), data, None)
        return rows, int(A.shape[0]), int(A.shape[1])
    entries = take_entries("A", A, weights=weights, dtype=dtype, allow_empty=True)
    if implicit:
        if weights is not None:
            raise ValueError("`implicit` makes weights of its own: `weights` must be None")
        entries = implicit_entries(entries, alpha)
    elif mu != 0:
        entries.values = entries.values - entries.values.dtype.type(mu)
    return entries.by_rows(), *entries.shape


def _vector(name: str, given: Any, n: int, wanted: bool, like: Any, backend: Any) -> Any:
    xp = backend.xp
    if not wanted:
        return xp.zeros(0, dtype=like.dtype)
    if given is None:
        return xp.zeros(n, dtype=like.dtype)
    taken = _validate.as_float_array(name, backend.take(name, given), shape=(n,), dtype=like.dtype, xp=xp)
    return xp.array(taken)


def _start(name: str, given: Any, shape: tuple[int, int], like: Any, backend: Any) -> Any:
    xp = backend.xp
    if given is None:
        return xp.zeros(shape, dtype=like.dtype)
    taken = _validate.as_float_array(name, backend.take(name, given), shape=shape, dtype=like.dtype, xp=xp)
    return xp.array(taken, order="C")


__all__ = ["als_half_sweep"]
