"""The native functions of completion for CuPy arrays, as `aitken._core` has them for NumPy arrays.

Work runs on CuPy's current stream of the arrays' device, and its memory comes from CuPy's pool. Arrays are
complete in the order of that stream; numbers have been waited for. `n_threads` means nothing on a GPU, and
``inner="sketch"``, ``inner="lowprec"`` and `nonneg` are for the CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._cuda_place import cuda_place

_SUFFIX = {"float64": "f64", "float32": "f32"}
_ON_THE_CPU = ("sketch", "lowprec")

Vector = tuple[int, int]
Matrix = tuple[int, int, int]


def _check(name: str, x: Any, like: Any, ndim: int, dtype: Any) -> None:
    """Raise unless `x` is a contiguous CuPy array beside `like` with these dimensions and `dtype`."""
    import cupy

    if not isinstance(x, cupy.ndarray):
        raise TypeError(f"`{name}` must be a cupy.ndarray, not {type(x).__name__}")
    if x.device.id != like.device.id:
        raise TypeError(f"`{name}` is on CUDA device {x.device.id} but `u` is on device {like.device.id}")
    if x.dtype != dtype:
        raise TypeError(f"`{name}` is {x.dtype}; {np.dtype(dtype)} is needed")
    if x.ndim != ndim:
        raise ValueError(f"`{name}` has shape {x.shape}; {ndim} dimensions are needed")
    if not x.flags.c_contiguous:
        raise ValueError(f"`{name}` must be contiguous; its strides are {x.strides}")


def _vector(name: str, x: Any, like: Any, dtype: Any = None) -> Vector:
    """(address, length)."""
    _check(name, x, like, 1, like.dtype if dtype is None else dtype)
    return int(x.data.ptr), int(x.size)


def _matrix(name: str, x: Any, like: Any) -> Matrix:
    """(address, rows, columns)."""
    _check(name, x, like, 2, like.dtype)
    return int(x.data.ptr), int(x.shape[0]), int(x.shape[1])


def _entries(
    name: str, rows: tuple[Any, Any, Any, Any], like: Any
) -> tuple[Vector, Vector, Vector, Vector | None]:
    """Compressed rows as addresses."""
    indptr, indices, values, weights = rows
    return (
        _vector(f"{name}[0]", indptr, like, np.int64),
        _vector(f"{name}[1]", indices, like, np.int32),
        _vector(f"{name}[2]", values, like),
        None if weights is None else _vector(f"{name}[3]", weights, like),
    )


def _suffix(name: str, x: Any) -> str:
    """The part of a native function's name that tells the type of its numbers."""
    suffix = _SUFFIX.get(str(x.dtype))
    if suffix is None:
        raise TypeError(f"`{name}` is {x.dtype}; float32 or float64 is needed")
    return suffix


def _refuse(options: dict[str, Any]) -> None:
    """Raise for what runs on the CPU alone."""
    if options.get("nonneg"):
        raise ValueError("`nonneg` is True; nonnegative factors are computed on the CPU only")
    if options.get("inner") in _ON_THE_CPU:
        raise ValueError(f'`inner` is "{options["inner"]}", which runs on the CPU only')


def complete_matrix(
    rows: tuple[Any, Any, Any, Any],
    columns: tuple[Any, Any, Any, Any],
    holdout: tuple[Any, Any, Any, Any] | None,
    u: Any,
    v: Any,
    a: Any,
    b: Any,
    options: dict[str, Any],
    callback: Callable[[int, int, float, float, float], bool] | None,
) -> dict[str, Any]:
    """Complete a matrix from the factors `u`, `v` and biases `a`, `b`, in place.

    Parameters
    ----------
    rows, columns, holdout : tuple ``(indptr, indices, values, weights)``
        The entries by rows, the same by columns, and others by rows or None: CuPy arrays of int64, int32 and
        the dtype of `u`; weights may be None. Indices ascend in a row, none twice.
    u, v : cupy.ndarray of float32 or float64, shapes (n1, rank), (n2, rank)
        Factors.
    a, b : cupy.ndarray, shapes (n1,), (n2,), or (0,) without biases
        Biases.
    options : dict
        As for the CPU's function.
    callback : callable or None
        Called as ``callback(sweep, rank, lam, rmse_train, rmse_holdout)``; true stops.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    TypeError, ValueError
        For arrays of another kind, device, dtype or layout, indices out of range, and options that are for
        the CPU alone.
    """
    _refuse(options)
    run = "complete_matrix_" + _suffix("u", u)
    with cuda_place(u) as (module, where):
        report: dict[str, Any] = getattr(module, run)(
            where,
            _entries("rows", rows, u),
            _entries("columns", columns, u),
            None if holdout is None else _entries("holdout", holdout, u),
            _matrix("u", u, u),
            _matrix("v", v, u),
            _vector("a", a, u),
            _vector("b", b, u),
            options,
            callback,
        )
    return report


def als_half_sweep(
    rows: tuple[Any, Any, Any, Any],
    fixed: Any,
    fixed_bias: Any,
    x: Any,
    x_bias: Any,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Solve for every row of `x` (and `x_bias`) with the other factor fixed, in place.

    Parameters
    ----------
    rows : tuple ``(indptr, indices, values, weights)``
        As in `complete_matrix`.
    fixed, x : cupy.ndarray, shapes (n2, rank), (m, rank)
        The fixed factor; where rows start, and the answer.
    fixed_bias, x_bias : cupy.ndarray, shapes (n2,), (m,), or (0,) without biases
        Their biases.
    options : dict
        As for the CPU's function.

    Returns
    -------
    dict
        "squared_error", "inner_iterations", "n_pivot_retries".

    Raises
    ------
    TypeError, ValueError
        As `complete_matrix`.
    """
    _refuse(options)
    run = "als_half_sweep_" + _suffix("x", x)
    with cuda_place(x) as (module, where):
        report: dict[str, Any] = getattr(module, run)(
            where,
            _entries("rows", rows, x),
            _matrix("fixed", fixed, x),
            _vector("fixed_bias", fixed_bias, x),
            _matrix("x", x, x),
            _vector("x_bias", x_bias, x),
            options,
        )
    return report


def completion_error(
    rows: tuple[Any, Any, Any, Any], u: Any, v: Any, a: Any, b: Any, n_threads: int
) -> float:
    """``sum w (m - fit)^2`` over entries.

    Parameters
    ----------
    rows : tuple ``(indptr, indices, values, weights)``
        As in `complete_matrix`.
    u, v, a, b : cupy.ndarray
        Factors and biases; views of longer rows are copied.
    n_threads : int
        Not looked at.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As `complete_matrix`.
    """
    import cupy

    run = "completion_error_" + _suffix("u", u)
    u, v = cupy.ascontiguousarray(u), cupy.ascontiguousarray(v)
    with cuda_place(u) as (module, where):
        error: float = getattr(module, run)(
            where,
            _entries("rows", rows, u),
            _matrix("u", u, u),
            _matrix("v", v, u),
            _vector("a", a, u),
            _vector("b", b, u),
        )
    return error


def predict_entries(u: Any, v: Any, a: Any, b: Any, rows: Any, cols: Any, n_threads: int) -> Any:
    """The fit at ``(rows[p], cols[p])``.

    Parameters
    ----------
    u, v, a, b : cupy.ndarray
        As in `completion_error`.
    rows, cols : cupy.ndarray of int32, shape (p,)
        Places.
    n_threads : int
        Not looked at.

    Returns
    -------
    cupy.ndarray, shape (p,)

    Raises
    ------
    TypeError, ValueError
        As `complete_matrix`; indices out of range are named with their position.
    """
    import cupy

    run = "predict_entries_" + _suffix("u", u)
    u, v = cupy.ascontiguousarray(u), cupy.ascontiguousarray(v)
    places = [_vector("rows", rows, u, np.int32), _vector("cols", cols, u, np.int32)]
    if rows.size != cols.size:
        raise ValueError(f"`rows` has length {rows.size} but `cols` has length {cols.size}")
    for name, given, limit in (("rows", rows, u.shape[0]), ("cols", cols, v.shape[0])):
        bad = (given < 0) | (given >= limit)
        if bool(bad.any()):
            at = int(bad.argmax())
            raise ValueError(
                f"`{name}` has the index {int(given[at])} at position {at}; 0 to {limit - 1} is allowed"
            )
    out = cupy.empty(rows.size, dtype=u.dtype)
    with cuda_place(u) as (module, where):
        getattr(module, run)(
            where,
            _matrix("u", u, u),
            _matrix("v", v, u),
            _vector("a", a, u),
            _vector("b", b, u),
            *places,
            _vector("out", out, u),
        )
    return out


__all__ = ["als_half_sweep", "complete_matrix", "completion_error", "predict_entries"]
