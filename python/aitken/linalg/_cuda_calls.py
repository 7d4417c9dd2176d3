"""The solves of `aitken._core` for CuPy arrays: one system (`solve`), and chains in lockstep (`run_chains`).

Work runs on CuPy's current stream of the arrays' device, and its memory comes from CuPy's pool. Results in
arrays are complete in the order of that stream; numbers have been waited for. Matrices are real, in
compressed rows; `n_threads` means nothing on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._cuda_place import cuda_place
from .._result import Status
from ._linear_result import LinearResult, finish_linear_result
from ._recycle_state import RecycleState

PRECONDITIONERS = ("none", "jacobi", "block-jacobi", "chebyshev", "ilu0")

Vector = tuple[int, int]
Rows = tuple[int, int, int]


def _check(name: str, x: Any, like: Any, ndims: tuple[int, ...], dtype: Any = np.float64) -> None:
    """Raise unless `x` is a contiguous CuPy array beside `like`, of one of these dimensions and `dtype`."""
    import cupy

    if not isinstance(x, cupy.ndarray):
        raise TypeError(f"`{name}` must be a cupy.ndarray, not {type(x).__name__}")
    if x.device.id != like.device.id:
        raise TypeError(f"`{name}` is on CUDA device {x.device.id} but `data` is on device {like.device.id}")
    if x.dtype.kind == "c":
        raise TypeError(f"`{name}` is {x.dtype}; complex systems are solved on the CPU alone")
    if x.dtype != dtype:
        raise TypeError(f"`{name}` is {x.dtype}; {np.dtype(dtype)} is needed")
    if x.ndim not in ndims:
        wanted = " or ".join(map(str, ndims))
        raise ValueError(f"`{name}` has shape {x.shape}; {wanted} dimensions are needed")
    if not x.flags.c_contiguous:
        raise ValueError(f"`{name}` must be contiguous; its strides are {x.strides}")


def _vector(name: str, x: Any, like: Any, dtype: Any = np.float64) -> Vector:
    """(address, length)."""
    _check(name, x, like, (1,), dtype)
    return x.data.ptr, x.size


def _rows(name: str, x: Any, like: Any) -> Rows:
    """(address, rows, columns); -1 rows for one vector that serves every system."""
    _check(name, x, like, (1, 2))
    return (x.data.ptr, -1, x.size) if x.ndim == 1 else (x.data.ptr, *x.shape)


def _inverse(M: str | None, block: int) -> dict[str, Any]:
    if M is not None and M not in PRECONDITIONERS:
        names = ", ".join(f'"{name}"' for name in PRECONDITIONERS)
        raise ValueError(f"`M` must be None or one of {names} on a GPU; got {M!r}")
    return {} if M is None else {"M": M, "block": block}


def solve(
    indptr: Any,
    indices: Any,
    data: Any,
    M: str | None,
    b: Any,
    x: Any,
    options: dict[str, Any],
    U: np.ndarray | None,
    C: np.ndarray | None,
    same_matrix: bool,
    outer_u: np.ndarray | None,
    outer_c: np.ndarray | None,
    callback: Callable[[int, float, float, Any], bool] | None,
    every_step: bool,
    *,
    block: int = 64,
) -> dict[str, Any]:
    """Solve ``A x = b`` from `x`, in place: `krylov_solve` of the CPU for a matrix in compressed rows.

    Parameters
    ----------
    indptr, indices, data : cupy.ndarray of int32 or int64, int32, float64
        The matrix, square; out-of-range or decreasing arrays are refused.
    M : {None, "none", "jacobi", "block-jacobi", "chebyshev", "ilu0"}
        The preconditioner, made from the matrix on the device.
    b, x : cupy.ndarray of float64, shape (n,)
        Right-hand side; start and solution.
    options : dict
        As for `krylov_solve`.
    U, C, outer_u, outer_c : ndarray, shape (n, k), or None
        Vectors carried from solve to solve, in host memory.
    same_matrix : bool
        Whether `C` still belongs to the matrix.
    callback : callable or None
        Called as ``callback(iteration, residual, target, x)``, `x` a copy after cycles, else None.
    every_step : bool
        Call it after every iteration, not after cycles alone.
    block : int, default 64
        Rows of a block of "block-jacobi".

    Returns
    -------
    dict
        The report of `krylov_solve`; new vectors are NumPy arrays.

    Raises
    ------
    TypeError, ValueError
        For arrays of another kind, device, dtype or layout, complex ones among them, and for an `M` that has
        no GPU version or does not exist for this matrix.
    """
    inverse = _inverse(M, block)
    listener = None
    if callback is not None:
        tell = callback

        def listener(nit: int, residual: float, target: float, cycle_end: bool) -> bool:
            return tell(nit, residual, target, x.copy() if cycle_end else None)

    with cuda_place(data) as (module, where):
        starts = indptr.astype(np.int64)  # 64 bits for the kernels; this one lives to the end of the call
        report: dict[str, Any] = module.krylov_solve(
            where,
            _vector("indptr", starts, data, np.int64),
            _vector("indices", indices, data, np.int32),
            _vector("data", data, data),
            inverse,
            _vector("b", b, data),
            _vector("x", x, data),
            options,
            U,
            C,
            same_matrix,
            outer_u,
            outer_c,
            listener,
            every_step,
        )
    return report


def run_chains(
    indptr: Any,
    indices: Any,
    data: Any,
    b: Any,
    params: np.ndarray | None,
    chains: Sequence[np.ndarray],
    options: dict[str, Any],
    x: Any,
    recycle: np.ndarray | None,
    progress: Callable[[int, int, float], bool] | None,
    *,
    memory: int | None = None,
) -> dict[str, np.ndarray]:
    """Solve the systems of all chains into the rows of `x`: `run_chain` of the CPU, chains in lockstep.

    Parameters
    ----------
    indptr, indices : cupy.ndarray of int32 or int64, int32
        The pattern that all systems share.
    data : cupy.ndarray of float64, shape (count, nnz) or (nnz,)
        Values of each system, or of the one matrix of all.
    b : cupy.ndarray of float64, shape (count, n) or (n,)
        Right-hand sides.
    params : ndarray, shape (count, d), or None
        Where systems lie among each other, in host memory.
    chains : sequence of int64 ndarray
        Systems of each chain in their order. Solutions and counts do not depend on how many chains advance
        together.
    options : dict
        As for `run_chain`; "method" must be "gcrodr".
    x : cupy.ndarray of float64, shape (count, n)
        Receives the solutions.
    recycle : ndarray, shape (n, k), or None
        Where there is one chain: the space to start from, in host memory.
    progress : callable or None
        Called as ``progress(system, iterations, residual)`` when a system is done; True stops all chains.
    memory : int, optional
        Bytes of device memory that bound the chains under way. Default: half of what is free.

    Returns
    -------
    dict
        The records of `run_chain`, in the order in which systems were done.

    Raises
    ------
    TypeError, ValueError
        As `solve`; errors of a preconditioner name the system.
    """
    _inverse(options.get("M"), 0)
    with cuda_place(data) as (module, where):
        if memory is None:
            import cupy

            free: int = cupy.cuda.Device(data.device.id).mem_info[0]
            memory = (free + cupy.get_default_memory_pool().free_bytes()) // 2
        starts = indptr.astype(np.int64)
        records: dict[str, np.ndarray] = module.run_chains(
            where,
            _vector("indptr", starts, data, np.int64),
            _vector("indices", indices, data, np.int32),
            _rows("data", data, data),
            _rows("b", b, data),
            params,
            list(chains),
            options,
            _rows("x", x, data),
            recycle,
            memory,
            progress,
        )
    return records


def compressed_rows(A: Any) -> Any:
    """A CuPy matrix as double-precision CSR without an entry twice; `A` itself is not touched."""
    from cupyx.scipy import sparse

    if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"`A` has shape {tuple(A.shape)}; a square matrix is needed")
    if A.dtype.kind == "c":
        raise TypeError(f"`A` is {A.dtype}; complex systems are solved on the CPU alone")
    csr = sparse.csr_matrix(A, dtype=np.float64, copy=True)
    csr.sum_duplicates()
    return csr


def solve_system(
    A: Any,
    b: Any,
    x0: Any,
    M: Any,
    options: dict[str, Any],
    state: RecycleState | None,
    listener: Callable[..., bool] | None,
    every_step: bool,
    start: float,
) -> LinearResult:
    """`gcrodr` for a CuPy matrix and right-hand side, on their device."""
    backend = _dispatch.select(A=A, b=b, x0=x0)
    xp = backend.xp
    if M is not None and not isinstance(M, str):
        raise TypeError(f"`M` must be a name on a GPU, one of {PRECONDITIONERS}, not {type(M).__name__}")
    csr = compressed_rows(A)
    n = int(csr.shape[0])
    rhs = _validate.as_float_array("b", backend.take("b", b), xp=xp)
    shape = tuple(int(s) for s in rhs.shape)
    if shape not in ((n,), (n, 1)):
        raise ValueError(f"`b` has shape {shape}; ({n},) or ({n}, 1) is needed on a GPU")
    dtype = np.result_type(A.dtype if A.dtype.kind == "f" else np.float64, rhs.dtype)
    rhs = xp.ascontiguousarray(rhs.reshape(n), dtype=np.float64)
    x = xp.zeros(n)
    if x0 is not None:
        begin = _validate.as_float_array("x0", backend.take("x0", x0), shape=shape, xp=xp)
        x[...] = begin.reshape(n)
    _validate.check_finite("A", csr.data, xp=xp)
    options = {**options, "restart": max(1, min(options["restart"], n))}
    options["recycle_dim"] = max(0, min(options["recycle_dim"], options["restart"] - 1))
    if options["maxiter"] is None:
        options["maxiter"] = 10 * n
    U, C = (None, None) if state is None else state.vectors(n, np.float64)
    token = None if state is None else ((xp.asnumpy(csr.indices), xp.asnumpy(csr.data)), M)
    same = state is not None and state.same_matrix(token)
    report = solve(
        csr.indptr, csr.indices, csr.data, M, rhs, x, options, U, C, same, None, None, listener, every_step
    )
    if state is not None and options["recycle_dim"] > 0:
        state.update(report["U"], report["C"], token, report["nit"], report["matvecs"], report["recycled"])
    if dtype != np.float64 and report["status"] == Status.CONVERGED:  # certified as it is returned
        x = x.astype(dtype)
        report["residual"] = float(xp.linalg.norm(rhs - csr @ x.astype(np.float64)))
        if not report["residual"] <= report["target"]:
            report["status"], report["detail"] = int(Status.STAGNATED), f"rounding the answer to {dtype}"
    return finish_linear_result(
        backend.give(x.reshape(shape)), [report], solver="gcrodr", system=None, b=rhs, start=start
    )


def solve_systems(
    indptr: Any,
    indices: Any,
    data: Any,
    b: Any,
    params: np.ndarray | None,
    chains: Sequence[np.ndarray],
    options: dict[str, Any],
    progress: Callable[[int, int, float], bool],
    count: int,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Solutions and records of `solve_batch` for CuPy arrays, all chains in lockstep."""
    import cupy

    for name, array in (("indptr", indptr), ("indices", indices), ("data", data), ("b", b)):
        place = _dispatch.locate(name, array)
        if place is None or place.backend != "cuda":
            raise TypeError(
                f"`{name}` is on {place or 'the CPU'} but `data` is on a GPU; move both to one device"
            )
    X = cupy.zeros((count, int(indptr.size) - 1))
    columns = cupy.ascontiguousarray(indices, dtype=np.int32)
    values = cupy.ascontiguousarray(data, dtype=np.float64)
    rhs = cupy.ascontiguousarray(b, dtype=np.float64)
    return X, run_chains(indptr, columns, values, rhs, params, chains, options, X, None, progress)


__all__ = ["PRECONDITIONERS", "run_chains", "solve", "solve_system", "solve_systems"]
