"""Relaxation of many systems that share one sparsity pattern."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy import sparse

from .. import _core, _dispatch, _validate
from ._batch import _batch_arrays
from ._operators import _refuse_cuda, as_system
from ._sequence_result import SequenceResult, empty_records, finish_sequence

SWEEPS = ("forward", "backward", "symmetric")
NORMS = ("b", "r0")


def sor_batch(
    A: Any,
    B: Any,
    x0: Any = None,
    *,
    omega: Any = 1.0,
    shift: Any = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10000,
    sweep: str = "forward",
    norm_ref: str = "b",
    check_finite: bool = True,
    n_threads: int | None = None,
) -> SequenceResult:
    """Solve many systems of one pattern by successive over-relaxation, each stopping by itself.

    Parameters
    ----------
    A : sparse matrix, sequence of sparse matrices, or tuple ``(indptr, indices, data)``
        One matrix of shape (n, n) that all systems share; or one per system, all of the same pattern; or the
        pattern in compressed rows with `data` of shape (N, nnz), or (nnz,) where it is shared.
    B : array_like, shape (N, n)
        A right-hand side per system.
    x0 : array_like, shape (N, n) or (n,), optional
        Starts; default 0. They are not modified.
    omega : float or array_like, shape (N,), default 1.0
        Relaxation parameters, in (0, 2).
    shift : float or array_like, shape (N,), optional
        Added to the diagonal of each matrix.
    rtol, atol : float
        System k is solved to ``||b - A x||_2 <= max(rtol * ref, atol)``, recomputed from the `x` returned,
        with `ref` as `norm_ref` says.
    maxiter : int, default 10000
        Sweeps per system.
    sweep : {"forward", "backward", "symmetric"}
        Order of the rows: ascending, descending, or one after the other as one iteration.
    norm_ref : {"b", "r0"}
        What `rtol` is relative to: ``||b||_2``, or ``||b - A x0||_2``.
    check_finite : bool, default True
        Reject NaN and Inf. Without it, a system that holds one ends with a status of its own.
    n_threads : int, optional
        Threads; the result does not depend on them.

    Returns
    -------
    SequenceResult
        `X`, `nit`, `status`, `residuals` and `converged` as ever; `nit` is the first sweep after which the
        residual met its target. Further fields: `target`, shape (N,), what ``||b - A x||_2`` had to meet, and
        `omega`, shape (N,).

    Raises
    ------
    TypeError
        For arrays on a GPU, complex or non-numeric data.
    ValueError
        For wrong shapes, patterns that differ, non-finite values and an `omega` outside (0, 2).

    Warns
    -----
    ConvergenceWarning
        Once, if systems miss their tolerance.

    Notes
    -----
    Eight systems and more are swept at once, one per lane of a vector; a lane whose system is done takes the
    next. A system has the bits that it would have alone. The residual of an iterate comes with the sweep
    after it, so `x` has had a sweep more than `nit` says; symmetric sweeps form it by a product instead. A
    system whose residual grows by 1e8, or is not finite, has status DIVERGED; one with a zero or non-finite
    diagonal BREAKDOWN; both keep their start as `x`. ``b = 0`` gives ``x = 0``.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import sor_batch
    >>> T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(20, 20), format="csr")
    >>> r = sor_batch(T, np.ones((100, 20)), omega=1.7, shift=np.linspace(0, 1, 100))
    >>> r.converged, r.X.shape, bool(r.residuals.max() <= 1e-8)
    (True, (100, 20), True)
    """
    start = time.perf_counter()
    backend = _dispatch.select(B=B, x0=x0)
    for name, value in (("omega", omega), ("shift", shift)):
        _refuse_cuda(name, value)
    rtol, atol = _validate.tolerance("rtol", rtol), _validate.tolerance("atol", atol)
    check_finite = _validate.boolean("check_finite", check_finite)
    options = {
        "rtol": rtol,
        "atol": atol,
        "maxiter": _validate.integer("maxiter", maxiter, minimum=0),
        "sweep": _validate.choice("sweep", sweep, SWEEPS),
        "norm_ref": _validate.choice("norm_ref", norm_ref, NORMS),
        "n_threads": _validate.n_threads(n_threads),
    }
    shape = tuple(int(s) for s in np.shape(B))
    if len(shape) == 2 and shape[0] == 0:
        raise ValueError(f"`B` has shape {shape}; there must be a system")
    count = shape[0] if shape else 1
    shifts = None if shift is None else _per_system("shift", shift, count)
    omegas = _relaxation(omega, count)
    if backend.is_cuda:
        from . import _relaxation_cuda  # no GPU code is loaded for CPU data

        X, found, norms = _relaxation_cuda.solve_batch(A, B, x0, omegas, shifts, options, check_finite)
    else:
        rhs = np.ascontiguousarray(
            _validate.as_float_array("B", B, ndim=2, dtype=np.float64, finite=check_finite)
        )
        indptr, indices, data = _matrices(A, rhs, check_finite)
        X = _starts(x0, rhs.shape[0], rhs.shape[1], check_finite)
        found = _core.sor_batch(indptr, indices, data, rhs, X, shifts, omegas, options)
        with np.errstate(all="ignore"):
            norms = np.linalg.norm(rhs, axis=1)

    records = empty_records(count)
    records |= {name: found[name] for name in ("status", "nit", "residual")}
    records["status"] = found["status"].astype(np.int64)
    records["norm_b"] = norms
    # The start's residual and the answer's; symmetric sweeps take one each.
    products = 2 + (found["nit"] if sweep == "symmetric" else 0)
    records["matvecs"] = np.where(records["norm_b"] > 0, products, 0)
    order = np.arange(count)
    result = SequenceResult(X=X, order=order, chains=[order], target=found["target"], omega=omegas)
    result.solver, result.reason = "sor", "as asked"
    result.costs = records["nit"].astype(np.float64)
    result.params, result.records = shift, None
    return finish_sequence(result, records, solver="sor_batch", rtol=rtol, atol=atol, start=start)


def _matrices(A: Any, rhs: np.ndarray, check_finite: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pattern with sorted rows (int64, int32) and float64 values, one row of them per matrix."""
    count, n = rhs.shape
    if not isinstance(A, tuple | list):
        _refuse_cuda("A", A)
        return _arrays_of("A", A, n, check_finite)
    if len(A) == 3 and not any(sparse.issparse(part) or np.ndim(part) == 2 for part in A[:2]):
        return _from_arrays(A, rhs, check_finite)
    if len(A) != count:
        raise ValueError(f"`A` holds {len(A)} matrices, but `B` has shape {rhs.shape}")
    indptr, indices, first = _arrays_of("A[0]", A[0], n, check_finite)
    data = np.empty((count, first.size))
    data[0] = first
    for k, matrix in enumerate(A[1:], 1):
        starts, columns, values = _arrays_of(f"A[{k}]", matrix, n, check_finite)
        if not (np.array_equal(starts, indptr) and np.array_equal(columns, indices)):
            raise ValueError(f"`A[{k}]` and `A[0]` have different patterns; all must share one")
        data[k] = values
    return indptr, indices, data


def _arrays_of(name: str, A: Any, n: int, check_finite: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    system = as_system(A, name=name, check_finite=check_finite)
    if system.csr is None:
        raise TypeError(f"`{name}` is an operator of type {type(A).__name__}; a matrix is needed")
    if system.dtype.kind == "c":
        raise TypeError(f"`{name}` is complex; a real matrix is needed")
    if system.n != n:
        raise ValueError(f"`B` has rows of length {n}, but `{name}` has shape ({system.n}, {system.n})")
    indptr, indices, data = system.csr
    return indptr, np.ascontiguousarray(indices, dtype=np.int32), data


def _from_arrays(A: Any, rhs: np.ndarray, check_finite: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, n = rhs.shape
    for name, part in zip(("indptr", "indices", "data"), A, strict=True):
        _refuse_cuda(name, part)
    given = _validate.as_float_array("data", A[2], ndim=(1, 2), dtype=np.float64, finite=check_finite)
    if given.ndim == 2 and given.shape[0] != count:
        raise ValueError(f"`data` has shape {given.shape} and `B` {rhs.shape}; a row per system is needed")
    if np.size(A[0]) != n + 1:
        raise ValueError(f"`B` has rows of length {n}, but `indptr` has length {np.size(A[0])}")
    indptr, indices, data, _, _ = _batch_arrays(A[0], A[1], given, rhs, False)
    # Rows are sorted through the places of their entries.
    places = sparse.csr_array((np.arange(indices.size), indices, indptr), shape=(n, n), copy=True)
    places.has_sorted_indices = False
    places.sort_indices()
    if np.array_equal(places.indices, indices):
        return indptr, indices, data
    return indptr, places.indices.astype(np.int32), np.ascontiguousarray(data[..., places.data])


def _starts(x0: Any, count: int, n: int, check_finite: bool) -> np.ndarray:
    if x0 is None:
        return np.zeros((count, n))
    given = _validate.as_float_array("x0", x0, ndim=(1, 2), dtype=np.float64, finite=check_finite)
    _validate.check_shape("x0", given, (n,) if given.ndim == 1 else (count, n))
    return np.array(np.broadcast_to(given, (count, n)), order="C")


def _per_system(name: str, value: Any, count: int) -> np.ndarray:
    given = _validate.as_float_array(name, value, ndim=(0, 1), dtype=np.float64)
    if given.ndim == 1:
        _validate.check_shape(name, given, (count,))
    return np.ascontiguousarray(np.broadcast_to(given, (count,)))


def _relaxation(omega: Any, count: int) -> np.ndarray:
    omegas = _per_system("omega", omega, count)
    bad = np.flatnonzero((omegas <= 0) | (omegas >= 2))
    if bad.size:
        raise ValueError(f"`omega` must be in (0, 2); got {omegas[bad[0]]} for system {bad[0]}")
    return omegas


__all__ = ["sor_batch"]
