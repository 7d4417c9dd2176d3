"""Sequences and batches of related linear systems."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import sparse

from .. import _core, _validate
from .._errors import ConvergenceWarning
from .._result import Result, Status
from . import _auto
from ._gcrodr import krylov_options
from ._linear_result import LinearResult, finish_linear_result
from ._operators import System, as_inverse, as_system, prepare_vectors, scalar_type
from ._preconditioners import BY_NAME
from ._sort import sort_systems, split_chains

logger = logging.getLogger("aitken")

BATCH_SOLVERS = ("auto", "gcrodr", "rcg", "direct", "superlu", "amg")
SEQUENCE_SOLVERS = (*BATCH_SOLVERS, "gmres")
CHAIN = 64  # systems of a chain, at least; a chain pays one solve without anything carried


class SequenceResult(Result):
    """What a sequence of solves gives; per-system arrays are in the order in which systems were given.

    Attributes
    ----------
    X : ndarray, shape (N, n), or None
        Solutions; None with ``keep=False``.
    order : ndarray of int, shape (N,)
        The order in which they were solved.
    chains : list of ndarray
        The same, cut into the pieces that were solved independently of one another.
    status : ndarray of int, shape (N,)
        Numbers of `aitken.Status`.
    converged : bool
        Whether every system met its tolerance.
    nit, matvecs : ndarray of int, shape (N,)
        Iterations, and products with the matrix, those for the recycled space and the start included.
    residuals : ndarray, shape (N,)
        ``||b - A x||_2 / ||b||_2``, recomputed from the solutions.
    costs : ndarray, shape (N,)
        What each solve cost: iterations.
    recycled, projected : ndarray of int, shape (N,)
        Carried vectors that were used, earlier solutions from which the start was taken.
    carried : ndarray of bool, shape (N,)
        False where nothing was carried: the recycled space had cost more than it saved.
    seconds : ndarray, shape (N,)
        Time of each solve; `time` is that of the whole call.
    params
        As given.
    records : dict or None
        What a solver callable returned, by system.
    solver, reason : str
        Which solver ran, and why.
    """


def _empty_records(count: int) -> dict[str, np.ndarray]:
    return {
        "status": np.full(count, int(Status.STOPPED_BY_CALLBACK)),
        "nit": np.zeros(count, dtype=np.int64),
        "matvecs": np.zeros(count, dtype=np.int64),
        "residual": np.full(count, np.nan),
        "norm_b": np.zeros(count),
        "recycled": np.zeros(count, dtype=np.int64),
        "projected": np.zeros(count, dtype=np.int64),
        "carried": np.zeros(count, dtype=bool),
        "seconds": np.zeros(count),
    }


def _finish(
    result: SequenceResult, records: dict[str, np.ndarray], *, solver: str, rtol: float, atol: float, start: float
) -> SequenceResult:
    norm_b = records["norm_b"]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(norm_b > 0, records["residual"] / norm_b, records["residual"])
    result.status = records["status"]
    result.converged = result.success = bool(np.all(result.status == Status.CONVERGED))
    result.nit = records["nit"]
    result.matvecs = records["matvecs"]
    result.residuals = relative
    result.recycled = records["recycled"]
    result.projected = records["projected"]
    result.carried = records["carried"]
    result.seconds = records["seconds"]
    result.time = time.perf_counter() - start
    failed = np.flatnonzero(
        (result.status != Status.CONVERGED) & (result.status != Status.STOPPED_BY_CALLBACK)
    )
    if failed.size:
        worst = int(failed[np.argmax(np.nan_to_num(relative[failed], nan=np.inf))])
        status = Status(int(result.status[worst]))
        warnings.warn(
            f"{solver}: {failed.size} of {result.status.size} systems did not converge; system {worst}: "
            f"{status.message}; relative residual {relative[worst]:.3g}, target {max(rtol, atol):.3g}. "
            f"{status.advice}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return result


def _cut(count: int, params: np.ndarray | None, sort: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The order and its chains: by the number of systems and the parameters alone."""
    if params is not None and sort != "none":
        order = np.asarray(sort_systems(params, method=sort), dtype=np.int64)
    else:
        order = np.arange(count, dtype=np.int64)
    return order, [np.ascontiguousarray(c, dtype=np.int64) for c in split_chains(order, max(1, count // CHAIN))]


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
    indptr, indices, data, b, count = _batch_arrays(indptr, indices, data, b, check_finite)
    n = indptr.size - 1
    P = _parameters(params, count)
    order, chains = _cut(count, P, sort)
    X = _output(out, (count, n), data.dtype)
    options |= {
        "restart": max(1, min(restart, n)),
        "maxiter": 10 * n if maxiter is None else _validate.integer("maxiter", maxiter, minimum=0),
        "project": _validate.integer("project", project, minimum=0),
        "guard": _validate.boolean("guard", guard),
    }
    options["recycle_dim"] = max(0, min(recycle_dim, options["restart"] - 1))
    options["recycle"] = options["recycle_dim"] > 0
    flat = None if P is None else np.ascontiguousarray(P.reshape(count, -1))
    chosen = _choose(solver, M, (indptr, indices, data, b, flat), chains, count, options)
    logger.info("solve_batch: %s (%s)", chosen.solver, chosen.reason)
    records = _empty_records(count)
    run = _Run(chosen, options, records, X, callback)
    _dispatch_chains(run, (indptr, indices, data, b, flat), chains, executor)
    result = SequenceResult(X=X, order=order, chains=chains)
    result.solver, result.reason = chosen.solver, chosen.reason
    result.costs = records["nit"].astype(np.float64)
    result.params, result.records = params, None
    return _finish(result, records, solver="solve_batch", rtol=rtol, atol=atol, start=start)


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
            raise ValueError(f"`{name}` has dtype {array.dtype} and shape {array.shape}; integers (k,) are needed")
    n = starts.size - 1
    if n < 1:
        raise ValueError(f"`indptr` has length {starts.size}; at least 2 is needed")
    if rhs.shape[-1] != n:
        raise ValueError(f"`b` has shape {rhs.shape}; its rows must have length {n}")
    counts = {a.shape[0] for a in (values, rhs) if a.ndim == 2}
    if len(counts) > 1:
        raise ValueError(f"`data` has shape {values.shape} and `b` {rhs.shape}; they differ in the number of systems")
    count = counts.pop() if counts else 1
    if count == 0:
        raise ValueError(f"`data` has shape {values.shape}; there must be a system")
    first = values if values.ndim == 1 else values[0]
    starts = starts.astype(np.int64, copy=False)
    if columns.dtype != np.int32:
        columns = columns.astype(np.int64, copy=False)
    pattern = _core.csr_pattern(n, n, starts, columns, first if check_finite else None, "indices", "row")
    if pattern.nnz != columns.size or values.shape[-1] != pattern.nnz:
        raise ValueError(f"`data` has shape {values.shape}; its rows must have length {pattern.nnz}")
    if not pattern.unique:
        raise ValueError("`indices` holds a column twice in a row; sum such entries first")
    if check_finite:
        for name, array in (("data", values), ("b", rhs)):
            _validate.check_finite(name, array.view(np.float64) if dtype.kind == "c" else array)
    return starts, columns.astype(np.int32, copy=False), values, rhs, count


def _parameters(params: Any, count: int) -> np.ndarray | None:
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
            f"`out` has shape {out.shape} and dtype {out.dtype}; a writeable C-ordered array of shape {shape} and "
            f"dtype {dtype} is needed"
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

    def pilot(method: str, name: str) -> tuple[int, int]:
        # Two neighbours of the first chain: what a start from nothing takes, and what one takes after it.
        picked = chains[0][:3]
        X = np.zeros((count, indptr.size - 1), dtype=data.dtype) if count <= 3 else None
        few = {
            "data": data if data.ndim == 1 else np.ascontiguousarray(data[picked]),
            "b": b if b.ndim == 1 else np.ascontiguousarray(b[picked]),
        }
        X = np.zeros((picked.size, indptr.size - 1), dtype=data.dtype)
        where = None if params is None else np.ascontiguousarray(params[picked])
        try:
            r = _core.run_chain(
                indptr,
                indices,
                few["data"],
                few["b"],
                where,
                np.arange(picked.size),
                {**options, "method": method, "M": M or name},
                X,
                None,
                None,
            )
        except ValueError:  # no such preconditioner
            return 0, 0
        if np.any(r["status"] != 0):
            return int(r["nit"].max()), 0
        return int(r["nit"][0]), int(r["nit"][1:].mean()) if picked.size > 1 else int(r["nit"][0])

    return _auto.choose(facts, indptr, indices, pilot)


class _Run:
    """Chains of one batch: shared arrays, a stop flag, and where records go."""

    def __init__(
        self,
        choice: _auto.Choice,
        options: dict[str, Any],
        records: dict[str, np.ndarray],
        X: np.ndarray,
        callback: Callable[[int, int, float], Any] | None,
    ) -> None:
        self.choice, self.options, self.records, self.X = choice, options, records, X
        self.callback = callback
        self.stop = threading.Event()

    def progress(self, system: int, nit: int, residual: float) -> bool:
        """Tell the caller, and the chain whether to go on."""
        if self.callback is not None and not self.stop.is_set():
            try:
                self.callback(system, nit, residual)
            except StopIteration:
                self.stop.set()
        return self.stop.is_set()

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
) -> dict[str, np.ndarray]:
    """One chain, from its arrays alone."""
    indptr, indices, data, b, params = arrays
    if choice.solver in ("superlu", "amg"):
        return _external_chain(choice.solver, options, arrays, chain, X, progress)
    native = {**options, "method": choice.solver, "M": choice.M}
    return _core.run_chain(indptr, indices, data, b, params, chain, native, X, None, progress)


def _chain_elsewhere(
    choice: _auto.Choice, options: dict[str, Any], arrays: tuple[Any, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A chain whose arrays hold its own systems only, for another process."""
    indptr, indices, data, b, _ = arrays
    count = next(a.shape[0] for a in (data, b, np.empty((1, 0))) if a.ndim == 2)
    X = np.zeros((count, indptr.size - 1), dtype=data.dtype)
    found = _solve_chain(choice, options, arrays, np.arange(count), X, None)
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
            futures = [
                pool.submit(_solve_chain, run.choice, options, arrays, chain, run.X, run.progress)
                for chain in chains
            ]
            try:
                for future in futures:
                    run.store(future.result())
            except BaseException:
                run.stop.set()  # the other chains end after the system they are at
                for future in futures:
                    future.cancel()
                raise
        return
    if not (isinstance(executor, Executor) or callable(getattr(executor, "submit", None))):
        raise TypeError(
            "`executor` must be None, a number of threads, a concurrent.futures.Executor or a distributed.Client, "
            f"not {type(executor).__name__}"
        )
    indptr, indices, data, b, params = arrays
    pending = []
    for chain in chains:
        own = (
            indptr,
            indices,
            data if data.ndim == 1 else data[chain],
            np.broadcast_to(b, (chain.size, b.size)).copy() if data.ndim == 1 and b.ndim == 1 else b if b.ndim == 1 else b[chain],
            None if params is None else params[chain],
        )
        pending.append((chain, executor.submit(_chain_elsewhere, run.choice, {**run.options, "n_threads": 1}, own)))
    for chain, future in pending:
        found, X = future.result()
        run.X[chain] = X
        found["system"] = chain[found["system"]]
        run.store(found)
        for system, nit, residual in zip(found["system"], found["nit"], found["residual"], strict=True):
            run.progress(int(system), int(nit), float(residual))


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
    records = _empty_records(chain.size)
    done = 0
    solve: Callable[[np.ndarray], np.ndarray] | None = None
    previous = None
    for k, i in enumerate(chain):
        began = time.perf_counter()
        values = data if data.ndim == 1 else data[i]
        rhs = b if b.ndim == 1 else b[i]
        A = sparse.csr_array((values, indices, indptr), shape=(n, n))
        if solve is None or previous is None or not np.array_equal(previous, values):
            solve, previous = _factor(solver, A, options["rtol"]), values
        norm_b = float(np.linalg.norm(rhs))
        target = max(options["rtol"] * norm_b, options["atol"])
        x = np.zeros(n, dtype=data.dtype) if solve is None else solve(rhs)
        residual = np.inf
        for step in range(4):
            r = rhs - A @ x
            residual = float(np.linalg.norm(r))
            if solve is None or not np.isfinite(residual) or residual <= target or step == 3:
                break
            x = x + solve(r)
            records["nit"][k] += 1
        X[i] = x if np.all(np.isfinite(x)) else 0
        if residual <= target:
            status = Status.CONVERGED
        elif solve is None or not np.isfinite(residual):
            status = Status.BREAKDOWN
        else:
            status = Status.STAGNATED
        records["status"][k] = int(status)
        records["matvecs"][k] = records["nit"][k] + 1
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
        raise ImportError("`solver` \"amg\" needs PyAMG: pip install pyamg") from None
    levels = pyamg.ruge_stuben_solver(sparse.csr_matrix(A))
    return lambda r: levels.solve(r, tol=0.5 * rtol, accel="cg", maxiter=100)


class RecyclingSolver:
    """Solves related systems one by one, carrying a subspace, solutions and set-ups from each to the next.

    Parameters
    ----------
    method : {"gcrodr", "rcg"}
        Any matrix, or symmetric positive definite ones.
    M : str or callable, optional
        Preconditioner by name, renewed for each new matrix with what depends on the pattern kept; or a
        function ``M(A)`` that makes one. Default: ``"ilu0"`` resp. ``"ic0"`` for matrices, none for operators.
    project : int, default 8
        Earlier solutions in whose span a start is sought.
    guard : bool, default True
        Drop the recycled space while it costs more than it saves.
    rtol, atol, maxiter, restart, recycle_dim, side, select, carry, ortho, basis_dtype, n_threads
        As in `gcrodr`.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import RecyclingSolver
    >>> T = sp.diags_array([-1.0, 2.0, -1.1], offsets=[-1, 0, 1], shape=(300, 300), format="csr")
    >>> solver = RecyclingSolver(M="jacobi", rtol=1e-8)
    >>> counts = [solver.solve(T + s * sp.eye_array(300), np.ones(300)).nit for s in (0.010, 0.011, 0.012)]
    >>> counts[2] < counts[0]
    True
    """

    def __init__(
        self,
        method: str = "gcrodr",
        *,
        M: Any = None,
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
        n_threads: int | None = None,
    ) -> None:
        self.method = _validate.choice("method", method, ("gcrodr", "rcg"))
        if isinstance(M, str):
            _validate.choice("M", M, ["none", *BY_NAME])
        elif M is not None and not callable(M):
            raise TypeError(f"`M` must be a name or a function of the matrix, not {type(M).__name__}")
        self.M = M
        self.options = krylov_options(
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
        ) | {
            "method": method,
            "project": _validate.integer("project", project, minimum=0),
            "guard": _validate.boolean("guard", guard),
        }
        self.maxiter = _validate.optional_integer("maxiter", maxiter, minimum=0)
        self.restart()

    def restart(self) -> None:
        """Forget everything: the next system begins a new sequence."""
        self._session: Any = None
        self._previous: System | None = None
        self._inverse: Any = None
        self._shape: tuple[Any, ...] = ()

    def solve(self, A: Any, b: Any, x0: Any = None, *, params: Any = None) -> LinearResult:
        """Solve ``A x = b``.

        Parameters
        ----------
        A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        b : array_like, shape (n,)
        x0 : array_like, shape (n,), optional
            Start; default: the best in the span of earlier solutions.
        params : array_like, optional
            Where the system lies among the others; earlier solutions near it are preferred.

        Returns
        -------
        LinearResult
        """
        start = time.perf_counter()
        system = self._system(A, b)
        same = self._previous is not None and _same(self._previous, system)
        if self._previous is not None and (system.n, system.dtype) != self._shape:
            raise ValueError(
                f"`A` has {system.n} rows and computes in {system.dtype}; this solver began with {self._shape[0]} "
                f"and {self._shape[1]}. Call restart(), or use another solver"
            )
        B, X, shape = prepare_vectors(system, b, x0)
        if B.shape[1] != 1:
            raise ValueError(f"`b` has shape {shape}; one right-hand side is needed")
        if same:
            system = self._previous  # type: ignore[assignment]
        else:
            self._renew(system, A)
        where = np.zeros(0) if params is None else np.ascontiguousarray(params, dtype=np.float64).ravel()
        if self._session is None:
            self._open(system)
        report = self._session.solve(
            system.handle, self._inverse, B[:, 0], X[:, 0], where, same, x0 is not None
        )
        self._previous = system
        return finish_linear_result(
            X.reshape(shape, order="F"),
            [report],
            solver=self.method,
            system=system,
            b=B,
            start=start,
            projected=report["projected"],
            carried=report["carried"],
        )

    def _system(self, A: Any, b: Any) -> System:
        dtype = scalar_type(A=A, b=b)
        if self._shape and np.dtype(self._shape[1]).kind == "c":
            dtype = np.dtype(np.complex128)
        return as_system(A, dtype=dtype)

    def _open(self, system: System) -> None:
        n = system.n
        options = dict(self.options)
        options["restart"] = max(1, min(options["restart"], n))
        options["recycle_dim"] = max(0, min(options["recycle_dim"], options["restart"] - 1))
        options["recycle"] = options["recycle_dim"] > 0
        options["maxiter"] = 10 * n if self.maxiter is None else self.maxiter
        kind = _core.Session128c if system.dtype.kind == "c" else _core.Session64
        self._session = kind(system.handle, self._inverse, options)
        self._shape = (n, system.dtype)

    def _renew(self, system: System, A: Any) -> None:
        """Native maps of a new matrix; where it has the old one's pattern, the old ones with new values."""
        previous = self._previous
        known = (
            system.has_entries
            and previous is not None
            and previous.pattern is not None
            and previous.pattern.matches(system.indptr, system.indices)
        )
        if known:
            system.adopt(previous)
        if callable(self.M):
            self._inverse = as_inverse(self.M(A), system, varies=self.options["side"] == "flexible")
            return
        default = ("ic0" if self.method == "rcg" else "ilu0") if system.has_entries else "none"
        name = default if self.M is None else self.M
        if known and self._inverse is not None:
            self._inverse.update(system.data)
        else:
            self._inverse = as_inverse(name, system)


def _same(a: System, b: System) -> bool:
    """Whether two systems have one matrix."""
    if a is b:
        return True
    if a.has_entries and b.has_entries:
        return (
            a.data is not None
            and a.data.shape == b.data.shape  # type: ignore[union-attr]
            and np.array_equal(a.data, b.data)  # type: ignore[arg-type]
            and a.pattern.matches(b.indptr, b.indices)  # type: ignore[union-attr]
        )
    return a.operator is not None and a.operator is b.operator


def solve_sequence(
    systems: Any,
    *,
    solver: Any = "auto",
    params: Any = None,
    sort: str = "auto",
    project: int = 8,
    x0: str | None = "project",
    n_systems: int | None = None,
    executor: Any = None,
    out: Any = None,
    keep: bool = True,
    callback: Callable[[int, LinearResult], Any] | None = None,
    **solver_options: Any,
) -> SequenceResult:
    """Solve a sequence of related systems, each with what the earlier ones taught.

    Parameters
    ----------
    systems : sequence of (A, b), iterable of (A, b), or callable
        The systems; a callable ``systems(i) -> (A, b)`` is asked for each when its turn comes, with
        `n_systems` saying how many there are. Matrices may be sparse or dense, or LinearOperators.
    solver : str or callable, default "auto"
        ``"gcrodr"``, ``"rcg"``, ``"gmres"`` (nothing carried), ``"direct"``, ``"superlu"``, ``"amg"``, or
        ``"auto"``, which picks by a cost model where all matrices are real or complex CSR of one pattern and
        is ``"gcrodr"`` otherwise; or a function ``solver(A, b, x0=x0, **solver_options)`` that gives
        ``x, info`` or a result with `x` and `nit`.
    params : array_like, shape (N, ...), optional
        What the systems depend on. They are sorted by it where they are indexable.
    sort : {"auto", "greedy", "hilbert", "none"}
        See `sort_systems`.
    project : int, default 8
        Earlier solutions in whose span the start is sought.
    x0 : {"project", "previous", None}
        Start from the span of earlier solutions, from the last solution, or from zero.
    n_systems : int, optional
        How many systems a callable gives.
    executor : None or int
        Threads, one chain each; systems must be indexable. The result does not depend on it.
    out : ndarray, shape (N, n), optional
        Receives the solutions.
    keep : bool, default True
        Keep the solutions; else only the callback sees them.
    callback : callable, optional
        ``callback(i, result)`` after each system; may raise StopIteration.
    **solver_options
        ``rtol atol maxiter M restart recycle_dim side select carry ortho basis_dtype guard n_threads``; with
        a callable, what it takes.

    Returns
    -------
    SequenceResult

    Raises
    ------
    TypeError, ValueError
        For systems that are not pairs, sizes that differ, unknown options.

    Warns
    -----
    ConvergenceWarning
        If a system misses its tolerance.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import solve_sequence
    >>> T = sp.diags_array([-1.0, 2.0, -1.2], offsets=[-1, 0, 1], shape=(400, 400), format="csr")
    >>> r = solve_sequence(
    ...     lambda i: (T + 0.01 * i * sp.eye_array(400), np.ones(400)), n_systems=6, solver="gcrodr", rtol=1e-8
    ... )
    >>> r.converged, r.X.shape
    (True, (6, 400))
    """
    start = time.perf_counter()
    get, count, indexable = _access(systems, n_systems)
    _validate.callback("callback", callback)
    if not callable(solver):
        _validate.choice("solver", solver, SEQUENCE_SOLVERS)
    _validate.choice("x0", x0, ("project", "previous", None))
    P = None if params is None else _parameters(params, count) if count is not None else None
    if params is not None and not indexable:
        P = None
    known = count if count is not None else 0
    if count == 0:
        raise ValueError("`systems` is empty")
    if indexable and not callable(solver) and solver in ("auto", "direct", "superlu", "amg"):
        batch = _as_batch(get, known) if solver != "auto" or known <= 4096 else None
        if batch is not None and x0 == "project" and callback is None:
            options = {k: v for k, v in solver_options.items() if k not in ("adaptive",)}
            result = solve_batch(
                *batch, solver=solver, params=P, sort=sort, project=project, executor=executor, out=out, **options
            )
            if not keep:
                result.X = None
            return result
        if solver not in ("auto",):
            raise ValueError(f"`solver` {solver!r} needs sparse matrices of one pattern")
    name = "gcrodr" if solver == "auto" else solver
    reason = "as asked" if solver != "auto" else "systems differ in pattern or are operators"
    if indexable:
        order, chains = _cut(known, P, sort)
    else:
        order, chains = np.zeros(0, dtype=np.int64), []
    run = _SequenceRun(name, solver_options, project if x0 == "project" else 0, x0, keep, callback, out, known, P)
    if indexable:
        _run_chains(run, get, chains, executor)
    else:
        run.chain(enumerate(systems))
        order = np.arange(run.done)
        chains = [order]
    result = SequenceResult(X=run.solutions(), order=order, chains=chains)
    result.solver, result.reason = name if isinstance(name, str) else getattr(name, "__name__", "callable"), reason
    records = run.arrays()
    result.costs = records["nit"].astype(np.float64)
    result.params, result.records = params, run.returned
    rtol = float(solver_options.get("rtol", 1e-5))
    return _finish(
        result, records, solver="solve_sequence", rtol=rtol, atol=float(solver_options.get("atol", 0.0)), start=start
    )


def _access(systems: Any, n_systems: int | None) -> tuple[Callable[[int], Any], int | None, bool]:
    """How to get system i, how many there are, and whether they can be had in any order."""
    if callable(systems):
        if n_systems is None:
            raise ValueError("`n_systems` is needed where `systems` is a function")
        return systems, _validate.integer("n_systems", n_systems, minimum=1), True
    if isinstance(systems, Sequence):
        count = len(systems)
        if n_systems is not None and n_systems != count:
            raise ValueError(f"`n_systems` is {n_systems}, but `systems` has length {count}")
        return systems.__getitem__, count, True
    if isinstance(systems, Iterable):
        return _not_indexable, None, False
    raise TypeError(
        f"`systems` must be a sequence or iterable of (A, b), or a function of i, not {type(systems).__name__}"
    )


def _not_indexable(i: int) -> Any:
    raise TypeError("`systems` cannot be indexed")


def _pair(i: int, item: Any) -> tuple[Any, Any]:
    try:
        A, b = item
    except (TypeError, ValueError):
        raise TypeError(f"`systems[{i}]` must be a pair (A, b), not {type(item).__name__}") from None
    return A, b


def _as_batch(get: Callable[[int], Any], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """The systems as arrays where all are CSR of one pattern, else None."""
    first: System | None = None
    data, rhs = [], []
    for i in range(count):
        A, b = _pair(i, get(i))
        if not sparse.issparse(A):
            return None
        system = as_system(A, dtype=scalar_type(A=A, b=b))
        if first is None:
            first = system
        elif system.n != first.n or not first.pattern.matches(system.indptr, system.indices):  # type: ignore[union-attr]
            return None
        vector = np.asarray(b)
        if vector.size != system.n:
            raise ValueError(f"`systems[{i}]`: b has shape {vector.shape}; ({system.n},) is needed")
        data.append(system.data)
        rhs.append(vector.ravel())
    assert first is not None
    return first.indptr, first.indices, np.array(data), np.array(rhs)  # type: ignore[return-value]


class _SequenceRun:
    """Solves chains system by system and keeps what came out."""

    def __init__(
        self,
        solver: Any,
        options: dict[str, Any],
        project: int,
        x0: str | None,
        keep: bool,
        callback: Callable[[int, LinearResult], Any] | None,
        out: Any,
        count: int,
        params: np.ndarray | None,
    ) -> None:
        self.solver, self.options, self.x0, self.keep, self.callback = solver, dict(options), x0, keep, callback
        self.params = params
        self.out = out
        self.found: dict[int, dict[str, Any]] = {}
        self.X: dict[int, np.ndarray] = {}
        self.returned: dict[int, Any] | None = {} if callable(solver) else None
        self.count = count
        self.stop = threading.Event()
        self.lock = threading.Lock()
        if not callable(solver):
            if solver == "gmres":
                self.options["recycle_dim"] = 0
                solver = "gcrodr"
            self.method, self.project = solver, project
            RecyclingSolver(self.method, project=project, **self.options)  # complain before the first solve

    @property
    def done(self) -> int:
        return len(self.found)

    def chain(self, systems: Iterable[tuple[int, Any]]) -> None:
        """Solve these in turn; they carry from one to the next."""
        carrier = None if callable(self.solver) else RecyclingSolver(self.method, project=self.project, **self.options)
        previous = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # one warning for all, at the end
            for i, item in systems:
                if self.stop.is_set():
                    return
                A, b = _pair(i, item)
                begin = previous if self.x0 == "previous" else None
                where = None if self.params is None else self.params[i]
                if carrier is not None:
                    result = carrier.solve(A, b, begin, params=where)
                else:
                    result = _call(self.solver, A, b, begin, self.options)
                previous = result.x
                self.take(i, result, float(np.linalg.norm(b)))

    def take(self, i: int, result: LinearResult, norm_b: float) -> None:
        with self.lock:
            self.found[i] = {
                "status": int(result.status),
                "nit": result.nit,
                "matvecs": result.matvecs,
                "residual": result.true_residual,
                "norm_b": norm_b,
                "recycled": getattr(result, "recycled", 0),
                "projected": getattr(result, "projected", 0),
                "carried": getattr(result, "carried", False),
                "seconds": result.time,
            }
            if self.returned is not None:
                self.returned[i] = result
            if self.out is not None:
                self.out[i] = result.x
            elif self.keep:
                self.X[i] = result.x
            if self.callback is not None and not self.stop.is_set():
                try:
                    self.callback(i, result)
                except StopIteration:
                    self.stop.set()

    def solutions(self) -> np.ndarray | None:
        if self.out is not None:
            return self.out
        if not self.keep or not self.X:
            return None
        first = next(iter(self.X.values()))
        X = np.zeros((max(self.count, len(self.X)), first.size), dtype=first.dtype)
        for i, x in self.X.items():
            X[i] = x.ravel()
        return X

    def arrays(self) -> dict[str, np.ndarray]:
        records = _empty_records(max(self.count, self.done))
        for i, values in self.found.items():
            for name, value in values.items():
                records[name][i] = value
        return records


def _call(solver: Callable[..., Any], A: Any, b: Any, x0: Any, options: dict[str, Any]) -> LinearResult:
    """A user's solver, judged by our certificate."""
    begin = time.perf_counter()
    answer = solver(A, b, x0=x0, **options)
    if isinstance(answer, LinearResult):
        return answer
    x = answer.x if hasattr(answer, "x") else answer[0]
    system = as_system(A, dtype=scalar_type(A=A, b=b))
    B, _, shape = prepare_vectors(system, b)
    X = np.array(x, dtype=system.dtype).reshape(-1, 1)
    image = np.empty_like(X, order="F")
    system.handle.apply(np.asfortranarray(X), image)
    residual = float(np.linalg.norm(B - image))
    target = max(float(options.get("rtol", 1e-5)) * float(np.linalg.norm(B)), float(options.get("atol", 0.0)))
    nit = int(getattr(answer, "nit", 0))
    report = {
        "status": int(Status.CONVERGED if residual <= target else Status.MAX_ITERATIONS),
        "nit": nit,
        "matvecs": int(getattr(answer, "matvecs", nit)),
        "residual": residual,
        "target": target,
        "residuals": np.array([residual]),
    }
    return finish_linear_result(
        np.asarray(x).reshape(shape), [report], solver="solve_sequence", system=system, b=B, start=begin
    )


def _run_chains(run: _SequenceRun, get: Callable[[int], Any], chains: list[np.ndarray], executor: Any) -> None:
    def lazily(chain: np.ndarray) -> Iterator[tuple[int, Any]]:
        for i in chain:
            yield int(i), get(int(i))

    if executor is None:
        for chain in chains:
            run.chain(lazily(chain))
        return
    if not isinstance(executor, int) or isinstance(executor, bool):
        raise TypeError(
            f"`executor` must be None or a number of threads here, not {type(executor).__name__}; solve_batch takes "
            "executors of other processes"
        )
    with ThreadPoolExecutor(_validate.integer("executor", executor, minimum=1)) as pool:
        futures = [pool.submit(run.chain, lazily(chain)) for chain in chains]
        try:
            for future in futures:
                future.result()
        except BaseException:
            run.stop.set()
            for future in futures:
                future.cancel()
            raise


__all__ = ["RecyclingSolver", "SequenceResult", "solve_batch", "solve_sequence"]
