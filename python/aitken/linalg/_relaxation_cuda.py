"""SOR and SSOR-CG for CuPy arrays: one system (`solve`) and many of one pattern (`solve_batch`).

Work runs on CuPy's current stream of the arrays' device, and its memory comes from CuPy's pool. Matrices are
real; the pattern is analysed on the host in every call. `n_threads` means nothing on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._cuda_place import cuda_place
from .._result import Status
from ._cuda_calls import _check, _rows, _vector, compressed_rows
from ._linear_result import LinearResult, answer_dtype, finish_linear_result
from ._relaxation import LANCZOS_STEPS, RelaxationSolver, _checked_omega, _named_diagonal
from ._short import as_listener

_FIRST_LOOK = 16


def run(
    method: str,
    indptr: Any,
    indices: Any,
    data: Any,
    b: Any,
    x: Any,
    order: str | np.ndarray,
    shift: float,
    options: dict[str, Any],
    callback: Callable[[int, float, float, Any], bool] | None,
) -> dict[str, Any]:
    """Solve ``(A + shift I) x = b`` from `x`, in place: `sor` or `ssor_cg` of the CPU's sweeper.

    Parameters
    ----------
    method : {"sor", "ssor_cg"}
        The solver.
    indptr, indices, data : cupy.ndarray of int32 or int64, int32, float64
        The matrix in compressed rows, sorted, no entry twice.
    b, x : cupy.ndarray of float64, shape (n,)
        Right-hand side; start and solution.
    order : str or ndarray of int32, shape (n,)
        "natural", "redblack", "multicolor", "blocks", "auto", or a permutation.
    shift : float
        Added to the diagonal.
    options : dict
        As for the CPU's sweeper.
    callback : callable or None
        Called as ``callback(iteration, residual, target, x)`` with a NumPy copy of the iterate.

    Returns
    -------
    dict
        The report, with "order" and "stencil" as they were chosen.

    Raises
    ------
    TypeError, ValueError
        For arrays of another kind, device, dtype or layout, orders that do not exist and diagonals without
        an inverse.
    """
    nothing = np.zeros(0, dtype=np.int32)
    name, rows = (order, nothing) if isinstance(order, str) else ("given", order)
    with cuda_place(data) as (module, where):
        starts = indptr.astype(np.int64)  # 64 bits for the kernels; this one lives to the end of the call
        report: dict[str, Any] = getattr(module, method)(
            where,
            _vector("indptr", starts, data, np.int64),
            _vector("indices", indices, data, np.int32),
            _vector("data", data, data),
            _vector("b", b, data),
            _vector("x", x, data),
            name,
            rows,
            shift,
            options,
            callback,
        )
    return report


def run_batch(
    indptr: Any,
    indices: Any,
    data: Any,
    b: Any,
    x: Any,
    shifts: Any,
    omegas: Any,
    options: dict[str, Any],
    *,
    room: int | None = None,
) -> dict[str, np.ndarray]:
    """Solve ``(A_k + shift_k I) x_k = b_k`` from the rows of `x`, in place: `sor_batch` of the CPU.

    Parameters
    ----------
    indptr, indices : cupy.ndarray of int32 or int64, int32
        The pattern that all systems share, rows sorted.
    data : cupy.ndarray of float64, shape (count, nnz) or (nnz,)
        Values of each system, or of the one matrix of all.
    b, x : cupy.ndarray of float64, shape (count, n)
        Right-hand sides; starts and solutions.
    shifts : cupy.ndarray of float64, shape (count,), or None
        Added to the diagonal of each matrix.
    omegas : cupy.ndarray of float64, shape (count,)
        Relaxation parameters.
    options : dict
        As for the CPU's `sor_batch`.
    room : int, optional
        Bytes of device memory that bound how many systems of more than 1472 rows are under way at once.
        Default: a quarter of what is free.

    Returns
    -------
    dict
        "status", "nit", "residual" and "target" of each system, in NumPy arrays.

    Raises
    ------
    TypeError, ValueError
        As `run`.
    """
    with cuda_place(data) as (module, where):
        if room is None:
            import cupy

            free: int = cupy.cuda.Device(data.device.id).mem_info[0]
            room = (free + cupy.get_default_memory_pool().free_bytes()) // 4
        starts = indptr.astype(np.int64)
        for name, given in (("b", b), ("x", x)):
            _check(name, given, data, (2,))
        found: dict[str, np.ndarray] = module.sor_batch(
            where,
            _vector("indptr", starts, data, np.int64),
            _vector("indices", indices, data, np.int32),
            _rows("data", data, data),
            _rows("b", b, data),
            _rows("x", x, data),
            None if shifts is None else _vector("shift", shifts, data),
            _vector("omega", omegas, data),
            options,
            room,
        )
    return found


def estimate_mu(A: Any, b: Any, shift: float, xp: Any, steps: int) -> tuple[float, int]:
    """The spectral radius of ``I - D^-1 A`` for the symmetric matrix ``A + shift I``, and products taken.

    By Lanczos on ``D^-1/2 A D^-1/2`` from `b`, two host reads per step; it ends where the lowest Ritz value
    has settled, as on the CPU.

    Parameters
    ----------
    A : sparse matrix of `xp`, shape (n, n)
        The matrix.
    b : array of `xp`, shape (n,)
        Where to start; ones if it is zero.
    shift : float
        Added to the diagonal.
    xp : module
        cupy (or numpy).
    steps : int
        Limit.

    Raises
    ------
    ValueError
        Naming a row whose diagonal is not positive.
    """
    diagonal = A.diagonal() + shift
    bad = xp.flatnonzero(~(diagonal > 0))
    if bad.size:
        raise ValueError(
            f"the diagonal of row {int(bad[0])} is not positive, which the estimate of omega needs"
        )
    root = 1 / xp.sqrt(diagonal)
    norm = float(xp.linalg.norm(b))
    v = b / norm if norm > 0 else xp.full(b.shape, 1 / np.sqrt(b.size))
    older = xp.zeros_like(v)
    alphas: list[float] = []
    betas: list[float] = []
    beta, low, high = 0.0, 0.0, 2.0
    for step in range(1, steps + 1):
        scaled = v * root
        w = root * (A @ scaled + shift * scaled) - beta * older
        alpha = float(v @ w)
        w -= alpha * v
        last, beta = beta, float(xp.linalg.norm(w))
        alphas.append(alpha)
        exhausted = not beta > 1e-12 * (abs(alpha) + last)
        if exhausted or step == steps or (step >= _FIRST_LOOK and step % 8 == 0):
            ritz = np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
            was, low, high = low, float(ritz[0]), float(ritz[-1])
            if exhausted or (was > 0 and abs(was - low) < 0.05 * low):
                break
        betas.append(beta)
        older, v = v, w / beta
    return float(np.clip(max(1 - low, high - 1), 0.0, 1 - 1e-9)), len(alphas)


def solve(
    solver: RelaxationSolver,
    backend: _dispatch.Backend,
    A: Any,
    b: Any,
    x0: Any,
    *,
    omega: float | str,
    shift: float,
    callback: Callable[..., Any] | None,
    check_finite: bool,
) -> LinearResult:
    """`sor` or `ssor_cg` for a CuPy matrix and right-hand side, on their device.

    Parameters
    ----------
    solver : RelaxationSolver
        Holds the method and its checked options; nothing of it is changed.
    backend : Backend
        Of the arguments.
    A, b, x0, omega, shift, callback, check_finite
        As in `sor` and `ssor_cg`. ``omega="axelsson"`` and ``eisenstat=False`` are for the CPU alone.

    Returns
    -------
    LinearResult
        With a further field `order_used`.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As on the CPU.
    """
    start = time.perf_counter()
    xp, method = backend.xp, solver.method
    rule = _checked_omega(method, omega)
    if rule == "axelsson":
        raise ValueError('`omega` must be a number or "young" on a GPU; got "axelsson"')
    shift = _validate.real_scalar("shift", shift)
    _validate.callback("callback", callback)
    csr = compressed_rows(A)
    _validate.check_finite("A", csr.data, xp=xp)
    n = int(csr.shape[0])
    if not isinstance(solver.order, str) and solver.order.size != n:
        raise ValueError(f"`order` has length {solver.order.size}; {n} is needed, as `A` has rows")
    rhs = _validate.as_float_array("b", backend.take("b", b), finite=check_finite, xp=xp)
    shape = tuple(int(s) for s in rhs.shape)
    if shape not in ((n,), (n, 1)):
        raise ValueError(f"`b` has shape {shape}; ({n},) or ({n}, 1) is needed")
    dtype = answer_dtype(A, rhs)
    rhs = xp.ascontiguousarray(rhs.reshape(n), dtype=np.float64)
    x = xp.zeros(n)
    if x0 is not None:
        begin = _validate.as_float_array(
            "x0", backend.take("x0", x0), shape=shape, finite=check_finite, xp=xp
        )
        x[...] = begin.reshape(n)

    limit = (10_000 if method == "sor" else 10 * n) if solver.maxiter is None else solver.maxiter
    rtol = solver.rtol
    if rtol is None:
        rtol = 1e-8 if np.finfo(dtype).eps < 1e-10 else 1e-5
    options = solver.options | {"maxiter": limit, "rtol": rtol, "report_x": callback is not None}
    products, mu = 0, float("nan")
    if rule == "young":
        mu, products = estimate_mu(csr, rhs, shift, xp, LANCZOS_STEPS[method])
        options["omega"] = 2 / (1 + np.sqrt(1 - mu * mu))
    elif rule == "adaptive":
        options |= {"omega": 1.0, "adaptive": True}
    else:
        options["omega"] = rule
    tell = as_listener(callback, shape)
    listener = None if tell is None else lambda nit, norm, aim, seen: tell(nit, norm, aim, xp.asarray(seen))
    with _named_diagonal():
        report = run(
            method, csr.indptr, csr.indices, csr.data, rhs, x, solver.order, shift, options, listener
        )
    report["matvecs"] += products
    if method == "sor":
        report["matvecs"] += report["sweeps"] * (2 if options["sweep"] == "symmetric" else 1)
    else:
        report["matvecs"] += report["nit"]  # two half products each
    if dtype != np.float64:  # certified as it is returned
        x = x.astype(dtype)
        wide = x.astype(np.float64)
        report["residual"] = float(xp.linalg.norm(rhs - csr @ wide - shift * wide))
        if report["status"] == Status.CONVERGED and not report["residual"] <= report["target"]:
            report["status"], report["detail"] = int(Status.STAGNATED), f"rounding the answer to {dtype}"
    extras: dict[str, Any] = {"omega_used": report["omega"], "order_used": report["order"]}
    extras["mu_estimate"] = report["mu"] if report["mu"] > 0 else mu
    if method == "sor":
        extras["sweeps"] = report["sweeps"]
    return finish_linear_result(
        backend.give(x.reshape(shape)), [report], solver=method, system=None, b=rhs, start=start, **extras
    )


def solve_batch(
    A: Any,
    B: Any,
    x0: Any,
    omegas: np.ndarray,
    shifts: np.ndarray | None,
    options: dict[str, Any],
    check_finite: bool,
) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Solutions, records and norms of the right-hand sides of `sor_batch` for CuPy arrays.

    Parameters
    ----------
    A : sparse matrix, sequence of sparse matrices, or tuple ``(indptr, indices, data)``
        As in `sor_batch`, on the device of `B`; the rows of a tuple must be sorted.
    B : cupy.ndarray, shape (N, n)
        Right-hand sides.
    x0 : cupy.ndarray, shape (N, n) or (n,), or None
        Starts.
    omegas, shifts : ndarray of float64, shape (N,), or None
        Checked, in host memory.
    options : dict
        As for the compiled `sor_batch`.
    check_finite : bool
        Reject NaN and Inf.

    Returns
    -------
    X : cupy.ndarray of float64, shape (N, n)
    found : dict of ndarray
        "status", "nit", "residual", "target".
    norms : ndarray, shape (N,)
        Norms of the rows of `B`.

    Raises
    ------
    TypeError, ValueError
        As `sor_batch`.
    """
    import cupy

    rhs = _validate.as_float_array("B", B, ndim=2, finite=check_finite, xp=cupy)
    rhs = cupy.ascontiguousarray(rhs, dtype=np.float64)
    count, n = (int(s) for s in rhs.shape)
    indptr, indices, data = _matrices(A, count, n)
    if check_finite:
        _validate.check_finite("A", data, xp=cupy)
    X = cupy.zeros((count, n))
    if x0 is not None:
        begin = _validate.as_float_array("x0", x0, ndim=(1, 2), finite=check_finite, xp=cupy)
        _validate.check_shape("x0", begin, (n,) if begin.ndim == 1 else (count, n))
        X[...] = begin
    raised = None if shifts is None else cupy.asarray(shifts)
    found = run_batch(indptr, indices, data, rhs, X, raised, cupy.asarray(omegas), options)
    return X, found, cupy.asnumpy(cupy.linalg.norm(rhs, axis=1))


def _matrices(A: Any, count: int, n: int) -> tuple[Any, Any, Any]:
    """The pattern and values, (N, nnz) or (nnz,), on the device."""
    import cupy

    if isinstance(A, tuple | list) and len(A) == 3 and all(isinstance(part, cupy.ndarray) for part in A):
        indptr, indices, data = A
        if indptr.ndim != 1 or int(indptr.size) != n + 1:
            raise ValueError(f"`B` has rows of length {n}, but `indptr` has shape {tuple(indptr.shape)}")
        data = _validate.as_float_array("data", data, ndim=(1, 2), xp=cupy)
        if data.ndim == 2 and data.shape[0] != count:
            raise ValueError(
                f"`data` has shape {tuple(data.shape)}; a row for each of {count} systems is needed"
            )
        return (
            indptr,
            cupy.ascontiguousarray(indices, dtype=np.int32),
            cupy.ascontiguousarray(data, dtype=np.float64),
        )
    if isinstance(A, tuple | list):
        return _stacked(A, count, n)
    first = _on_device("A", A, n)
    return first.indptr, first.indices, first.data


def _on_device(name: str, A: Any, n: int) -> Any:
    place = _dispatch.locate(name, A)
    if place is None or place.backend != "cuda":
        raise TypeError(f"`{name}` is on {place or 'the CPU'} but `B` is on a GPU; move both to one device")
    csr = compressed_rows(A)
    if csr.shape[0] != n:
        raise ValueError(f"`B` has rows of length {n}, but `{name}` has shape {tuple(csr.shape)}")
    return csr


def _stacked(matrices: Sequence[Any], count: int, n: int) -> tuple[Any, Any, Any]:
    import cupy

    if len(matrices) != count:
        raise ValueError(f"`A` holds {len(matrices)} matrices, but `B` has {count} rows")
    first = _on_device("A[0]", matrices[0], n)
    data = cupy.empty((count, int(first.data.size)))
    data[0] = first.data
    for k, matrix in enumerate(matrices[1:], 1):
        csr = _on_device(f"A[{k}]", matrix, n)
        same = csr.indices.shape == first.indices.shape and bool(
            (csr.indptr == first.indptr).all() and (csr.indices == first.indices).all()
        )
        if not same:
            raise ValueError(f"`A[{k}]` and `A[0]` have different patterns; all must share one")
        data[k] = csr.data
    return first.indptr, first.indices, data


__all__ = ["estimate_mu", "run", "run_batch", "solve", "solve_batch"]
