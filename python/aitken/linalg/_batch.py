"""Batches: many systems on one sparsity pattern, solved in native chains."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import sparse

from .. import _core, _dispatch, _validate
from .._result import Status
from . import _auto
from ._gcrodr import krylov_options
from ._operators import scalar_type
from ._preconditioners import BY_NAME
from ._sequence_result import SequenceResult, empty_records, finish_sequence
from ._sort import sort_systems, split_chains

logger = logging.getLogger("aitken")

BATCH_SOLVERS = ("auto", "gcrodr", "rcg", "direct", "superlu", "amg")
CHAIN = 64  # systems of a chain, at least; a chain pays one solve without anything carried


def cut_chains(count: int, params: np.ndarray | None, sort: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The order and its chains: by the number of systems and the parameters alone."""
    _validate.choice("sort", sort, ("auto", "greedy", "hilbert", "none"))
    if params is not None and sort != "none":
        order = np.asarray(sort_systems(params, method=sort), dtype=np.int64)
    else:
        order = np.arange(count, dtype=np.int64)
    return order, [
        np.ascontiguousarray(c, dtype=np.int64) for c in split_chains(order, max(1, count // CHAIN))
    ]


def solve_batch(
    indptr: Any,
    indices: Any,
    data: Any,
    b: Any,
    *,
    solver: str = "auto",
    params: Any = None,
    sort: str = "auto",
    M: str | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    restart: int = 40,
    recycle_dim: int = 20,
    side: str = "right",
    select: str = "harmonic",
    carry: str = "x",
    ortho: str = "auto",
    basis_dtype: Any = None,
    project: int = 8,
    guard: bool = True,
    executor: Any = None,
    callback: Callable[[int, int, float], Any] | None = None,
    out: np.ndarray | None = None,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> SequenceResult:
    """Solve many systems that share one sparsity pattern, without Python between them.

    Parameters
    ----------
    indptr, indices : array_like of int, shapes (n + 1,) and (nnz,)
        The pattern in compressed rows, each column at most once per row.
    data : array_like, shape (N, nnz) or (nnz,)
        Values of every matrix, in the order of `indices`; one row for all systems where they share a matrix.
    b : array_like, shape (N, n) or (n,)
        Right-hand sides; one for all where they share it.
    solver : {"auto", "gcrodr", "rcg", "direct", "superlu", "amg"}
        ``"gcrodr"``: any matrix. ``"rcg"``: recycled conjugate gradients, symmetric positive definite.
        ``"direct"``: our sparse LDL^T, analysed once, with iterative refinement; real symmetric.
        ``"superlu"``: SciPy's sparse LU. ``"amg"``: conjugate gradients with PyAMG's hierarchy, symmetric
        M-matrices. ``"auto"`` picks by a cost model; the result's `reason` says why.
    params : array_like, shape (N, ...), optional
        What the systems depend on; near parameters should mean near systems. Used to sort, and to find the
        earlier solutions from which a start is taken.
    sort : {"auto", "greedy", "hilbert", "none"}
        See `sort_systems`.
    M : str, optional
        Preconditioner by name, renewed for each matrix; default ``"ilu0"``, for ``"rcg"`` ``"ic0"``.
    rtol, atol : float
        Every system is solved to ``||b - A x||_2 <= max(rtol * ||b||_2, atol)``, recomputed.
    maxiter : int, optional
        Iterations per system; default ``10 * n``.
    restart, recycle_dim, side, select, carry, ortho, basis_dtype
        As in `gcrodr`; ``recycle_dim=0`` carries no space.
    project : int, default 8
        Earlier solutions (nearest in `params`, else latest) in whose span the start is sought; 0: start at 0.
    guard : bool, default True
        Drop the recycled space while it costs more than it saves.
    executor : None, int, concurrent.futures.Executor or distributed.Client
        Who solves the chains: this thread, so many threads, or the workers given. The result does not
        depend on it.
    callback : callable, optional
        ``callback(system, nit, residual)`` after each system; may raise StopIteration.
    out : ndarray, shape (N, n), optional
        Receives the solutions.
    check_finite : bool, default True
        Reject NaN and Inf.
    n_threads : int, optional
        Threads of single operations where `executor` is None.

    Returns
    -------
    SequenceResult

    Raises
    ------
    TypeError, ValueError
        For unknown types, malformed patterns, wrong shapes, non-finite values, and matrices that admit no
        such preconditioner (system and row are named).

    Warns
    -----
    ConvergenceWarning
        If a system misses its tolerance.

    Notes
    -----
    Wang et al., "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling", ICLR 2024.
    Chains are cut by the number of systems alone, at least 64 long.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import solve_batch
    >>> T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50), format="csr")
    >>> shifts = np.linspace(0.1, 1.0, 100)
    >>> data = np.array([(T + s * sp.eye_array(50)).tocsr().data for s in shifts])
    >>> r = solve_batch(T.indptr, T.indices, data, np.ones(50), params=shifts, rtol=1e-10)
    >>> r.converged, r.X.shape, bool(r.residuals.max() <= 1e-10)
    (True, (100, 50), True)
    """
    start = time.perf_counter()
    _validate.choice("solver", solver, BATCH_SOLVERS)
    options = krylov_options(
        rtol=rtol,
        atol=atol,
        restart=restart,
        recycle_dim=recycle_dim,
        side=side,
        select=select,
        carry=carry,
        ortho=ortho,
        basis_dtype=basis_dtype,
        adaptive=False,
        n_threads=n_threads,
    )
    if M is not None:
        _validate.choice("M", M, ["none", *BY_NAME])
    _validate.callback("callback", callback)
    place = _dispatch.locate("data", data)
    if place is not None and place.backend == "cuda":
        return _solve_on_gpu(
            (indptr, indices, data, b),
            solver,
            M,
            params,
            sort,
            options,
            (maxiter, project, guard),
            callback,
            start,
        )
    indptr, indices, data, b, count = _batch_arrays(indptr, indices, data, b, check_finite)
    n = indptr.size - 1
    P = parameter_array(params, count)
    order, chains = cut_chains(count, P, sort)
    X = _output(out, (count, n), data.dtype)
    options |= _chain_options(n, options, maxiter, project, guard)
    flat = None if P is None else np.ascontiguousarray(P.reshape(count, -1))
    chosen = _choose(solver, M, (indptr, indices, data, b, flat), chains, count, options)
    logger.info("solve_batch: %s (%s)", chosen.solver, chosen.reason)
    records = empty_records(count)
    run = _Run(chosen, options, records, X, callback)
    _dispatch_chains(run, (indptr, indices, data, b, flat), chains, executor)
    result = SequenceResult(X=X, order=order, chains=chains)
    result.solver, result.reason = chosen.solver, chosen.reason
    result.costs = records["nit"].astype(np.float64)
    result.params, result.records = params, None
    return finish_sequence(result, records, solver="solve_batch", rtol=rtol, atol=atol, start=start)


def _solve_on_gpu(
    arrays: tuple[Any, ...],
    solver: str,
    M: str | None,
    params: Any,
    sort: str,
    options: dict[str, Any],
    limits: tuple[int | None, int, bool],
    callback: Callable[[int, int, float], Any] | None,
    start: float,
) -> SequenceResult:
    """`solve_batch` for CuPy arrays: every chain a lane of one GCRO-DR solve on the device."""
    from . import _cuda_calls  # no GPU code is loaded for CPU data

    if solver not in ("auto", "gcrodr"):
        raise ValueError(f'`solver` must be "gcrodr" or "auto" on a GPU; got {solver!r}')
    indptr, indices, data, b = arrays
    _validate.check_ndim("data", data, (1, 2))
    _validate.check_ndim("b", b, (1, 2))
    counts = {int(a.shape[0]) for a in (data, b) if a.ndim == 2}
    if len(counts) > 1:
        raise ValueError(
            f"`data` has shape {data.shape} and `b` {b.shape}; they differ in the number of systems"
        )
    count = counts.pop() if counts else 1
    P = parameter_array(params, count)
    order, chains = cut_chains(count, P, sort)
    choice = _auto.Choice("gcrodr", M or "ilu0", "as asked" if solver == "gcrodr" else "the GPU's solver")
    options = {**options, **_chain_options(int(indptr.size) - 1, options, *limits)}
    options |= {"method": "gcrodr", "M": choice.M}
    records = empty_records(count)
    run = _Run(choice, options, records, None, callback)
    flat = None if P is None else np.ascontiguousarray(P.reshape(count, -1))
    X, found = _cuda_calls.solve_systems(indptr, indices, data, b, flat, chains, options, run.progress, count)
    run.store(found)
    result = SequenceResult(X=X, order=order, chains=chains)
    result.solver, result.reason = choice.solver, choice.reason
    result.costs = records["nit"].astype(np.float64)
    result.params, result.records = params, None
    return finish_sequence(
        result, records, solver="solve_batch", rtol=options["rtol"], atol=options["atol"], start=start
    )


def choose_solver(
    indptr: Any,
    indices: Any,
    data: Any,
    b: Any,
    *,
    params: Any = None,
    count: int | None = None,
    rtol: float = 1e-5,
) -> _auto.Choice:
    """What ``solver="auto"`` of `solve_batch` would pick for `count` systems that are like the few given."""
    indptr, indices, data, b, given = _batch_arrays(indptr, indices, data, b, True)
    P = parameter_array(params, given)
    options = krylov_options(
        rtol=rtol,
        atol=0.0,
        restart=40,
        recycle_dim=20,
        side="right",
        select="harmonic",
        carry="x",
        ortho="auto",
        basis_dtype=None,
        adaptive=False,
        n_threads=1,
    )
    options |= _chain_options(indptr.size - 1, options, None, 8, True)
    flat = None if P is None else np.ascontiguousarray(P.reshape(given, -1))
    arrays = (indptr, indices, data, b, flat)
    return _choose("auto", None, arrays, [np.arange(given)], given if count is None else count, options)


def _chain_options(
    n: int, options: dict[str, Any], maxiter: int | None, project: int, guard: bool
) -> dict[str, Any]:
    """What native chains need beside `options`, for systems of n unknowns."""
    restart = max(1, min(options["restart"], n))
    recycle_dim = max(0, min(options["recycle_dim"], restart - 1))
    return {
        "restart": restart,
        "recycle_dim": recycle_dim,
        "recycle": recycle_dim > 0,
        "maxiter": 10 * n if maxiter is None else _validate.integer("maxiter", maxiter, minimum=0),
        "project": _validate.integer("project", project, minimum=0),
        "guard": _validate.boolean("guard", guard),
    }


def _batch_arrays(
    indptr: Any, indices: Any, data: Any, b: Any, check_finite: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Checked arrays: int64, int32, and float64 or complex128 values."""
    dtype = scalar_type(data=np.asarray(data), b=np.asarray(b))
    values = np.ascontiguousarray(data, dtype=dtype)
    rhs = np.ascontiguousarray(b, dtype=dtype)
    for name, array in (("data", values), ("b", rhs)):
        _validate.check_ndim(name, array, (1, 2))
    starts = np.ascontiguousarray(indptr)
    columns = np.ascontiguousarray(indices)
    for name, array in (("indptr", starts), ("indices", columns)):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` has dtype {array.dtype} and shape {array.shape}; integers (k,) are needed"
            )
    n = starts.size - 1
    if n < 1:
        raise ValueError(f"`indptr` has length {starts.size}; at least 2 is needed")
    if rhs.shape[-1] != n:
        raise ValueError(f"`b` has shape {rhs.shape}; its rows must have length {n}")
    counts = {a.shape[0] for a in (values, rhs) if a.ndim == 2}
    if len(counts) > 1:
        raise ValueError(
            f"`data` has shape {values.shape} and `b` {rhs.shape}; they differ in the number of systems"
        )
    count = counts.pop() if counts else 1
    if count == 0:
        raise ValueError(f"`data` has shape {values.shape}; there must be a system")
    starts = starts.astype(np.int64, copy=False)
    if columns.dtype != np.int32:
        columns = columns.astype(np.int64, copy=False)
    pattern = _core.csr_pattern(n, n, starts, columns, None, "indices", "row")
    if pattern.nnz != columns.size or values.shape[-1] != pattern.nnz:
        raise ValueError(f"`data` has shape {values.shape}; its rows must have length {pattern.nnz}")
    if not pattern.unique:
        raise ValueError("`indices` holds a column twice in a row; sum such entries first")
    if check_finite:
        for name, array in (("data", values), ("b", rhs)):
            _validate.check_finite(name, array.view(np.float64) if dtype.kind == "c" else array)
    return starts, columns.astype(np.int32, copy=False), values, rhs, count


def parameter_array(params: Any, count: int) -> np.ndarray | None:
    if params is None:
        return None
    P = _validate.as_float_array("params", params, dtype=np.float64)
    if P.ndim == 0 or P.shape[0] != count:
        raise ValueError(f"`params` has shape {P.shape}; its first axis must have length {count}")
    return np.ascontiguousarray(P)


def _output(out: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    if out is None:
        return np.zeros(shape, dtype=dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"`out` must be an ndarray, not {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"`out` has shape {out.shape} and dtype {out.dtype}; a writeable C-ordered array "
            f"of shape {shape} and dtype {dtype} is needed"
        )
    out[...] = 0
    return out


def _choose(
    solver: str,
    M: str | None,
    arrays: tuple[Any, ...],
    chains: list[np.ndarray],
    count: int,
    options: dict[str, Any],
) -> _auto.Choice:
    indptr, indices, data, b, params = arrays
    first = data if data.ndim == 1 else data[chains[0][0]]
    if solver != "auto":
        if solver == "direct":
            facts = _auto.facts_of(indptr, indices, first, count, data.ndim == 1)
            if not facts.symmetric or facts.dtype.kind == "c":
                raise ValueError('`solver` "direct" is for real symmetric matrices; use "superlu"')
        default = {"gcrodr": "ilu0", "rcg": "ic0"}.get(solver, "none")
        return _auto.Choice(solver, M or default, "as asked")
    same = data.ndim == 1 or (count > 1 and all(np.array_equal(first, row) for row in data[:3]))
    facts = _auto.facts_of(indptr, indices, first, count, same)

    def pilot(method: str, name: str, limit: int) -> tuple[int, int]:
        # The first two of the first chain: what a start from nothing takes, and what one takes after it.
        picked = chains[0][:2]
        few = (
            indptr,
            indices,
            data if data.ndim == 1 else np.ascontiguousarray(data[picked]),
            b if b.ndim == 1 else np.ascontiguousarray(b[picked]),
            None if params is None else np.ascontiguousarray(params[picked]),
        )
        X = np.zeros((picked.size, indptr.size - 1), dtype=data.dtype)
        bounded = {**options, "maxiter": min(options["maxiter"], 2 * limit)}

        def enough(system: int, nit: int, residual: float) -> bool:
            return nit >= bounded["maxiter"]  # the second would not be cheap either

        try:
            choice = _auto.Choice(method, M or name, "pilot")
            r = _solve_chain(choice, bounded, few, np.arange(picked.size), X, enough)
        except ValueError:  # no such preconditioner
            return 0, 0
        cold, warm = int(r["nit"][0]), int(r["nit"][-1])
        return cold, warm if r["status"][-1] == 0 and warm <= limit else 0

    return _auto.choose(facts, indptr, indices, pilot)


class _Run:
    """Chains of one batch: shared arrays, a stop flag, and where records go."""

    def __init__(
        self,
        choice: _auto.Choice,
        options: dict[str, Any],
        records: dict[str, np.ndarray],
        X: Any,
        callback: Callable[[int, int, float], Any] | None,
    ) -> None:
        self.choice, self.options, self.records, self.X = choice, options, records, X
        self.callback = callback
        self.stop = threading.Event()  # after the system under way
        self.abort = threading.Event()  # at once

    def progress(self, system: int, nit: int, residual: float) -> bool:
        """Tell the caller, and the chain whether to go on."""
        if self.callback is not None and not self.stop.is_set():
            try:
                self.callback(system, nit, residual)
            except StopIteration:
                self.stop.set()
        return self.stop.is_set()

    def solve(
        self, options: dict[str, Any], arrays: tuple[Any, ...], chain: np.ndarray
    ) -> dict[str, np.ndarray]:
        """One chain, in a thread of ours; nothing where a stop came first."""
        if self.stop.is_set():
            return {"system": chain[:0], **{name: array[:0] for name, array in self.records.items()}}
        return _solve_chain(self.choice, options, arrays, chain, self.X, self.progress, self.abort.is_set)

    def store(self, found: dict[str, np.ndarray]) -> None:
        """Put a chain's records where their systems are."""
        for name, array in self.records.items():
            array[found["system"]] = found[name]


def _solve_chain(
    choice: _auto.Choice,
    options: dict[str, Any],
    arrays: tuple[Any, ...],
    chain: np.ndarray,
    X: np.ndarray,
    progress: Callable[[int, int, float], bool] | None,
    abort: Callable[[], bool] | None = None,
) -> dict[str, np.ndarray]:
    """One chain, from its arrays alone."""
    indptr, indices, data, b, params = arrays
    if choice.solver in ("superlu", "amg"):
        return _external_chain(choice.solver, options, arrays, chain, X, progress)
    costs = _auto.carry_costs(choice.solver, indptr.size - 1, indices.size, options["recycle_dim"])
    native = {**options, **costs, "method": choice.solver, "M": choice.M}
    return _core.run_chain(indptr, indices, data, b, params, chain, native, X, None, progress, abort)


def _chain_elsewhere(
    choice: _auto.Choice, options: dict[str, Any], arrays: tuple[Any, ...], names: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A chain whose arrays hold its own systems only, for another process; `names` has their numbers."""
    indptr, _, data, b, _ = arrays
    count = next(a.shape[0] for a in (data, b, np.empty((1, 0))) if a.ndim == 2)
    X = np.zeros((count, indptr.size - 1), dtype=data.dtype)
    try:
        found = _solve_chain(choice, options, arrays, np.arange(count), X, None)
    except ValueError as error:
        told = re.fullmatch(r"system (\d+): (.*)", str(error), flags=re.DOTALL)
        raise ValueError(f"system {names[int(told[1])]}: {told[2]}") if told else error from None
    found["system"] = names[found["system"]]
    return {name: value for name, value in found.items() if name != "U"}, X


def _dispatch_chains(run: _Run, arrays: tuple[Any, ...], chains: list[np.ndarray], executor: Any) -> None:
    if executor is None or (isinstance(executor, int) and not isinstance(executor, bool)):
        workers = 1 if executor is None else _validate.integer("executor", executor, minimum=1)
        if workers == 1 or len(chains) == 1:
            for chain in chains:
                run.store(_solve_chain(run.choice, run.options, arrays, chain, run.X, run.progress))
                if run.stop.is_set():
                    return
            return
        options = {**run.options, "n_threads": 1}
        with ThreadPoolExecutor(min(workers, len(chains))) as pool:
            futures = [pool.submit(run.solve, options, arrays, chain) for chain in chains]
            try:
                for future in futures:
                    run.store(future.result())
            except BaseException:
                run.stop.set()
                run.abort.set()
                for future in futures:
                    future.cancel()
                raise
        return
    if not (isinstance(executor, Executor) or callable(getattr(executor, "submit", None))):
        raise TypeError(
            "`executor` must be None, a number of threads, a concurrent.futures.Executor or a "
            f"distributed.Client, not {type(executor).__name__}"
        )
    indptr, indices, data, b, params = arrays
    pending = []
    for chain in chains:
        own = (
            indptr,
            indices,
            data if data.ndim == 1 else data[chain],
            np.broadcast_to(b, (chain.size, b.size)).copy()
            if data.ndim == 1 and b.ndim == 1
            else b
            if b.ndim == 1
            else b[chain],
            None if params is None else params[chain],
        )
        options = {**run.options, "n_threads": 1}
        pending.append((chain, executor.submit(_chain_elsewhere, run.choice, options, own, chain)))
    try:
        for chain, future in pending:
            found, X = future.result()
            run.X[chain] = X
            run.store(found)
            for system, nit, residual in zip(found["system"], found["nit"], found["residual"], strict=True):
                run.progress(int(system), int(nit), float(residual))
            if run.stop.is_set():
                break
    finally:
        for _, future in pending:  # those that are still waiting after a stop or an error
            future.cancel()


def _external_chain(
    solver: str,
    options: dict[str, Any],
    arrays: tuple[Any, ...],
    chain: np.ndarray,
    X: np.ndarray,
    progress: Callable[[int, int, float], bool] | None,
) -> dict[str, np.ndarray]:
    """A chain by SciPy's sparse LU or PyAMG, with our certificate and one step of refinement where needed."""
    indptr, indices, data, b, _ = arrays
    n = indptr.size - 1
    records = empty_records(chain.size)
    done = 0
    solve: Callable[[np.ndarray], np.ndarray] | None = None
    previous = None
    for k, i in enumerate(chain):
        began = time.perf_counter()
        values = data if data.ndim == 1 else data[i]
        rhs = b if b.ndim == 1 else b[i]
        A = sparse.csr_array((values, indices, indptr), shape=(n, n))
        if solve is None or previous is None or not np.array_equal(previous, values):
            with np.errstate(all="ignore"):
                solve, previous = _factor(solver, A, options["rtol"]), values
        norm_b = float(np.linalg.norm(rhs))
        target = max(options["rtol"] * norm_b, options["atol"])
        x, r, residual = np.zeros(n, dtype=data.dtype), rhs, norm_b
        while solve is not None and residual > target and records["matvecs"][k] < 4:
            with np.errstate(all="ignore"):
                better = x + solve(r)
                r = rhs - A @ better
            records["nit"][k] += records["matvecs"][k] > 0  # steps of refinement
            records["matvecs"][k] += 1
            found_now = float(np.linalg.norm(r))
            if not found_now < residual:  # the factors, or the hierarchy, are no good
                break
            x, residual = better, found_now
        X[i] = x
        if residual <= target:
            status = Status.CONVERGED
        else:
            status = Status.BREAKDOWN if solve is None or not np.any(x) else Status.STAGNATED
        records["status"][k] = int(status)
        records["residual"][k], records["norm_b"][k] = residual, norm_b
        records["seconds"][k] = time.perf_counter() - began
        done = k + 1
        if progress is not None and progress(int(i), int(records["nit"][k]), residual):
            break
    found = {name: array[:done] for name, array in records.items()}
    found["system"] = chain[:done]
    return found


def _factor(solver: str, A: Any, rtol: float) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function that solves with A, or None where A is singular."""
    if solver == "superlu":
        from scipy.sparse.linalg import splu

        try:
            # Columns ordered by A^T + A, pivots from the diagonal where they are large enough: right for the
            # nearly symmetric patterns of discretised operators.
            lu = splu(
                sparse.csc_array(A),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.01,
                options={"SymmetricMode": True},
            )
        except RuntimeError:  # exactly singular
            return None
        return lambda r: lu.solve(r)
    try:
        import pyamg
    except ImportError:
        raise ImportError('`solver` "amg" needs PyAMG: pip install pyamg') from None
    if A.dtype.kind == "c":
        raise ValueError('`solver` "amg" is for real matrices; use "superlu"')
    if not np.any(A.data):
        return None
    levels = pyamg.ruge_stuben_solver(sparse.csr_matrix(A))
    return lambda r: levels.solve(r, tol=0.5 * rtol, accel="cg", maxiter=100)


__all__ = ["solve_batch"]
