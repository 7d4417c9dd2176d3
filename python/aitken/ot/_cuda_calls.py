"""The calls of `aitken._core` for CuPy arrays: same names, same arguments, same meaning.

Work runs on CuPy's current stream of the arrays' device, and its memory comes from CuPy's pool. Results
in arrays are complete in the order of that stream; numbers have been waited for. `n_threads` and the
option of that name mean nothing on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._cuda_place import cuda_place

Matrix = tuple[int, int, int, int, int]
Vector = tuple[int, int]


def _check(name: str, x: Any, ndim: int, like: Any) -> None:
    import cupy

    if not isinstance(x, cupy.ndarray) or x.ndim != ndim:
        raise TypeError(f"`{name}` must be a cupy.ndarray of {ndim} dimensions")
    if x.device.id != like.device.id:
        raise TypeError(f"`{name}` is on CUDA device {x.device.id} but `M` is on device {like.device.id}")


def _matrix(name: str, x: Any, like: Any) -> Matrix:
    """(address, rows, columns, elements between rows, bytes per element) of a matrix with contiguous rows."""
    _check(name, x, 2, like)
    if x.dtype != like.dtype or x.dtype.char not in "fd":
        raise TypeError(f"`{name}` is {x.dtype}; float32 or float64 like `M` is needed")
    rows, cols = x.shape
    if (cols > 1 and x.strides[1] != x.itemsize) or (rows > 1 and x.strides[0] % x.itemsize):
        raise ValueError(f"`{name}` must be a matrix with contiguous rows; its strides are {x.strides}")
    # CuPy may set any stride along an axis of length 1.
    return x.data.ptr, rows, cols, x.strides[0] // x.itemsize if rows > 1 else cols, x.itemsize


def _vector(name: str, x: Any, like: Any) -> Vector:
    """(address, length) of a contiguous vector of doubles."""
    _check(name, x, 1, like)
    if x.dtype.char != "d" or not x.flags.c_contiguous:
        raise TypeError(f"`{name}` must be a contiguous float64 vector; it is {x.dtype}")
    return x.data.ptr, x.size


def ot_solve(
    M: Any,
    a: Any,
    b: Any,
    range: float,
    x: Any,
    y: Any,
    plan: Any,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]:
    """Solve one problem; x, y (in: start, out: solution) and plan are written in place."""
    vectors = [_vector(name, v, M) for name, v in (("a", a), ("b", b), ("x", x), ("y", y))]
    with cuda_place(M) as (module, where):
        storage = None if plan is None else _matrix("plan", plan, M)
        report: dict[str, Any] = module.ot_solve(
            where, _matrix("M", M, M), *vectors[:2], range, *vectors[2:], storage, options, callback
        )
    return report


def ot_adjoint(
    M: Any,
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
    """Solve H [p; q] = [w; z] with the Hessian at (x, y); p and q are written in place."""
    named = {"a": a, "b": b, "x": x, "y": y, "w": w, "z": z, "p": p, "q": q}
    vectors = [_vector(name, v, M) for name, v in named.items()]
    with cuda_place(M) as (module, where):
        storage = None if plan is None else _matrix("plan", plan, M)
        report: dict[str, Any] = module.ot_adjoint(
            where, _matrix("M", M, M), *vectors[:2], range, *vectors[2:], storage, options
        )
    return report


def ot_plan_times(
    M: Any, reg: float, x: Any, y: Any, transposed: bool, v: Any, out: Any, n_threads: int
) -> None:
    """out = P v or P^T v, P recomputed tile by tile."""
    vectors = [_vector(name, u, M) for name, u in (("x", x), ("y", y), ("v", v), ("out", out))]
    with cuda_place(M) as (module, where):
        module.ot_plan_times(where, _matrix("M", M, M), reg, *vectors[:2], transposed, *vectors[2:])


def ot_plan_rows(M: Any, reg: float, x: Any, y: Any, first: int, out: Any, n_threads: int) -> None:
    """Write rows first .. first + len(out) of P into out, which may be those rows of M."""
    with cuda_place(M) as (module, where):
        module.ot_plan_rows(
            where,
            _matrix("M", M, M),
            reg,
            _vector("x", x, M),
            _vector("y", y, M),
            first,
            _matrix("out", out, M),
        )


def ot_c_transform(M: Any, reg: float, transposed: bool, potential: Any, out: Any, n_threads: int) -> None:
    """-reg log-sum-exp of (potential - M)/reg over columns (transposed: over rows) into out."""
    with cuda_place(M) as (module, where):
        module.ot_c_transform(
            where,
            _matrix("M", M, M),
            reg,
            transposed,
            _vector("potential", potential, M),
            _vector("out", out, M),
        )


def ot_compress(
    M: Any, reg: float, x: Any, y: Any, a: Any, b: Any, drop: float, n_threads: int
) -> tuple[Any, Any, Any]:
    """(indptr, indices, values), CuPy arrays, of the entries above drop * min(a_i / m, b_j / n)."""
    import cupy

    vectors = [_vector(name, v, M) for name, v in (("x", x), ("y", y), ("a", a), ("b", b))]
    with cuda_place(M) as (module, where):
        parts = module.ot_compress(where, _matrix("M", M, M), reg, *vectors, drop)
        indptr, indices, values = (cupy.asarray(part) for part in parts)
    return indptr, indices, values


def ot_inspect(M: Any, n_threads: int) -> dict[str, Any]:
    """Smallest and largest finite cost, NaN and infinities, first row and column without a finite cost."""
    with cuda_place(M) as (module, where):
        facts: dict[str, Any] = module.ot_inspect(where, _matrix("M", M, M))
    return facts


def ot_solve_batch(
    M: list[Any],
    a: list[Any],
    b: list[Any],
    reg: Any,
    f: list[Any],
    g: list[Any],
    plan: list[Any] | None,
    options: dict[str, Any],
    loose: float,
) -> dict[str, Any]:
    """Solve problems of any sizes; f, g (in: start, out: solution) and plan are written in place.

    An item None of a or b is uniform. The costs have the dtype and the device of the first. Returns NumPy
    arrays, one per field of the reports, an entry per problem.
    """
    first = M[0]

    def vectors(name: str, items: list[Any]) -> list[Vector | None]:
        return [None if v is None else _vector(f"{name}[{k}]", v, first) for k, v in enumerate(items)]

    def matrices(name: str, items: list[Any]) -> list[Matrix]:
        return [_matrix(f"{name}[{k}]", c, first) for k, c in enumerate(items)]

    with cuda_place(first) as (module, where):
        reports: dict[str, Any] = module.ot_solve_batch(
            where,
            matrices("M", M),
            vectors("a", a),
            vectors("b", b),
            reg,
            vectors("f", f),
            vectors("g", g),
            None if plan is None else matrices("plan", plan),
            options,
            loose,
        )
    return reports


def ot_points_solve(
    X: Any,
    Y: Any,
    metric: str,
    a: Any,
    b: Any,
    range: float,
    x: Any,
    y: Any,
    plan: Any,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]:
    """Solve one problem between clouds of points, float64; x, y and plan as for `ot_solve`."""
    vectors = [_vector(name, v, X) for name, v in (("a", a), ("b", b), ("x", x), ("y", y))]
    with cuda_place(X) as (module, where):
        storage = None if plan is None else _matrix("plan", plan, X)
        report: dict[str, Any] = module.ot_points_solve(
            where, *_clouds(X, Y), metric, *vectors[:2], range, *vectors[2:], storage, options, callback
        )
    return report


def ot_points_adjoint(
    X: Any,
    Y: Any,
    metric: str,
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
    """Solve H [p; q] = [w; z] with the Hessian at (x, y); p and q are written in place."""
    named = {"a": a, "b": b, "x": x, "y": y, "w": w, "z": z, "p": p, "q": q}
    vectors = [_vector(name, v, X) for name, v in named.items()]
    with cuda_place(X) as (module, where):
        storage = None if plan is None else _matrix("plan", plan, X)
        report: dict[str, Any] = module.ot_points_adjoint(
            where, *_clouds(X, Y), metric, *vectors[:2], range, *vectors[2:], storage, options
        )
    return report


def ot_points_times(
    X: Any, Y: Any, metric: str, reg: float, x: Any, y: Any, v: Any, out: Any, n_threads: int
) -> None:
    """out[k] = P v[k], P recomputed tile by tile for every k."""
    with cuda_place(X) as (module, where):
        module.ot_points_times(
            where,
            *_clouds(X, Y),
            metric,
            reg,
            _vector("x", x, X),
            _vector("y", y, X),
            _matrix("v", v, X),
            _matrix("out", out, X),
        )


def ot_points_rows(
    X: Any, Y: Any, metric: str, reg: float, x: Any, y: Any, first: int, out: Any, n_threads: int
) -> None:
    """Write rows first .. first + len(out) of P into out, of float32 or float64."""
    with cuda_place(X) as (module, where):
        module.ot_points_rows(
            where,
            *_clouds(X, Y),
            metric,
            reg,
            _vector("x", x, X),
            _vector("y", y, X),
            first,
            _matrix("out", out, out),
        )


def ot_points_transform(
    X: Any, Y: Any, metric: str, reg: float, potential: Any, out: Any, n_threads: int
) -> None:
    """-reg log-sum-exp of (potential - cost)/reg over the points of Y into out."""
    with cuda_place(X) as (module, where):
        module.ot_points_transform(
            where, *_clouds(X, Y), metric, reg, _vector("potential", potential, X), _vector("out", out, X)
        )


def ot_points_pull(X: Any, Y: Any, metric: str, reg: float, x: Any, y: Any, out: Any, n_threads: int) -> None:
    """out[i] = sum_j P_ij d cost_ij / d X_i; a pass of n m exponentials for every coordinate."""
    with cuda_place(X) as (module, where):
        module.ot_points_pull(
            where,
            *_clouds(X, Y),
            metric,
            reg,
            _vector("x", x, X),
            _vector("y", y, X),
            _matrix("out", out, X),
        )


def ot_points_compress(
    X: Any, Y: Any, metric: str, reg: float, x: Any, y: Any, a: Any, b: Any, drop: float, n_threads: int
) -> tuple[Any, Any, Any]:
    """(indptr, indices, values), CuPy arrays, of the entries above drop * min(a_i / m, b_j / n)."""
    import cupy

    vectors = [_vector(name, v, X) for name, v in (("x", x), ("y", y), ("a", a), ("b", b))]
    with cuda_place(X) as (module, where):
        parts = module.ot_points_compress(where, *_clouds(X, Y), metric, reg, *vectors, drop)
        indptr, indices, values = (cupy.asarray(part) for part in parts)
    return indptr, indices, values


def _clouds(X: Any, Y: Any) -> tuple[Matrix, Matrix]:
    clouds = _matrix("X", X, X), _matrix("Y", Y, X)
    if X.dtype.char != "d":
        raise TypeError(f"`X` is {X.dtype}; float64 is needed")
    return clouds


__all__ = [
    "ot_adjoint",
    "ot_c_transform",
    "ot_compress",
    "ot_inspect",
    "ot_plan_rows",
    "ot_plan_times",
    "ot_points_adjoint",
    "ot_points_compress",
    "ot_points_pull",
    "ot_points_rows",
    "ot_points_solve",
    "ot_points_times",
    "ot_points_transform",
    "ot_solve",
    "ot_solve_batch",
]
