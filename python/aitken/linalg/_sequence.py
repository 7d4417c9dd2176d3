"""Sequences: related systems of any kind, in an order that suits them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import sparse

from .. import _validate
from .._errors import ConvergenceWarning
from .._result import Status
from ._batch import BATCH_SOLVERS, cut_chains, parameter_array, solve_batch
from ._linear_result import LinearResult, finish_linear_result
from ._operators import System, as_system, prepare_vectors, scalar_type
from ._recycling import RecyclingSolver
from ._sequence_result import SequenceResult, empty_records, finish_sequence

SEQUENCE_SOLVERS = (*BATCH_SOLVERS, "gmres")


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
    >>> def system(i):
    ...     return T + 0.01 * i * sp.eye_array(400), np.ones(400)
    >>> r = solve_sequence(system, n_systems=6, solver="gcrodr", rtol=1e-8)
    >>> r.converged, r.X.shape
    (True, (6, 400))
    """
    start = time.perf_counter()
    get, count, indexable = _access(systems, n_systems)
    _validate.callback("callback", callback)
    if not callable(solver):
        _validate.choice("solver", solver, SEQUENCE_SOLVERS)
    _validate.choice("x0", x0, ("project", "previous", None))
    if executor is not None and not indexable:
        raise TypeError("`executor` needs `systems` that can be indexed, or a function of i, not an iterator")
    P = None if params is None else parameter_array(params, count) if count is not None else None
    if params is not None and not indexable:
        P = None
    known = count if count is not None else 0
    reason = "as asked" if solver != "auto" else "systems differ in pattern or are operators"
    if count == 0:
        raise ValueError("`systems` is empty")
    if indexable and not callable(solver) and solver in ("auto", "direct", "superlu", "amg"):
        iterative = solver == "auto"
        batch = _as_batch(get, known) if not iterative or known <= 4096 else None
        if batch is not None and callback is None and (x0 == "project" or not iterative):
            options = {k: v for k, v in solver_options.items() if k not in ("adaptive",)}
            result = solve_batch(
                *batch,
                solver=solver,
                params=P,
                sort=sort,
                project=project,
                executor=executor,
                out=out,
                **options,
            )
            if not keep:
                result.X = None
            return result
        if batch is not None and not iterative:
            raise ValueError(f"`callback` is for iterative solvers; `solver` is {solver!r}")
        if not iterative:
            raise ValueError(f"`solver` {solver!r} needs sparse matrices of one pattern")
        if batch is not None:
            reason = "it works with `callback` and any `x0`"
    name = "gcrodr" if solver == "auto" else solver
    if indexable:
        order, chains = cut_chains(known, P, sort)
    else:
        order, chains = np.zeros(0, dtype=np.int64), []
    run = _SequenceRun(
        name, solver_options, project if x0 == "project" else 0, x0, keep, callback, out, known, P
    )
    with warnings.catch_warnings():  # not in the chains: threads share the filters
        warnings.simplefilter("ignore", ConvergenceWarning)  # one warning for all, at the end
        if indexable:
            _run_chains(run, get, chains, executor)
        else:
            run.chain(enumerate(systems))
            order = np.arange(run.done)
            chains = [order]
    if run.done == 0:
        raise ValueError("`systems` is empty")
    result = SequenceResult(X=run.solutions(), order=order, chains=chains)
    result.solver, result.reason = (
        name if isinstance(name, str) else getattr(name, "__name__", "callable"),
        reason,
    )
    records = run.arrays()
    result.costs = records["nit"].astype(np.float64)
    result.params, result.records = params, run.returned
    rtol = float(solver_options.get("rtol", 1e-5))
    return finish_sequence(
        result,
        records,
        solver="solve_sequence",
        rtol=rtol,
        atol=float(solver_options.get("atol", 0.0)),
        start=start,
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
        "`systems` must be a sequence or iterable of (A, b), or a function of i, "
        f"not {type(systems).__name__}"
    )


def _not_indexable(i: int) -> Any:
    raise TypeError("`systems` cannot be indexed")


def _pair(i: int, item: Any) -> tuple[Any, Any]:
    try:
        A, b = item
    except (TypeError, ValueError):
        raise TypeError(f"`systems[{i}]` must be a pair (A, b), not {type(item).__name__}") from None
    return A, b


def _as_batch(
    get: Callable[[int], Any], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
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
        elif system.n != first.n or not first.same_pattern(system):
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
        self.solver, self.options, self.x0, self.keep, self.callback = (
            solver,
            dict(options),
            x0,
            keep,
            callback,
        )
        self.params = params
        self.out = out
        self.found: dict[int, dict[str, Any]] = {}
        self.X: dict[int, np.ndarray] = {}
        self.returned: dict[int, Any] | None = {} if callable(solver) else None
        self.count = count
        self.stop = threading.Event()  # after the systems under way
        self.abort = threading.Event()  # at once
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
        carrier = (
            None
            if callable(self.solver)
            else RecyclingSolver(self.method, project=self.project, **self.options)
        )
        if carrier is not None:
            carrier.abort = self.abort.is_set
        previous = None
        for i, item in systems:
            if self.stop.is_set():
                return
            A, b = _pair(i, item)
            begin = previous if self.x0 == "previous" else None
            where = None if self.params is None else self.params[i]
            try:
                if carrier is not None:
                    result = carrier.solve(A, b, begin, params=where)
                else:
                    result = _call(self.solver, A, b, begin, self.options)
            except Exception as error:
                error.add_note(f"in `systems[{i}]`")
                raise
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
                self.out[i] = self.fits(result.x)
            elif self.keep:
                self.X[i] = result.x
            if self.callback is not None and not self.stop.is_set():
                try:
                    self.callback(i, result)
                except StopIteration:
                    self.stop.set()

    def fits(self, x: np.ndarray) -> np.ndarray:
        """The solution as a row of `out`."""
        rows = max(self.count, self.done)
        if np.shape(self.out)[1:] != (x.size,) or len(self.out) < rows:
            raise ValueError(f"`out` has shape {np.shape(self.out)}; ({rows}, {x.size}) is needed")
        return x.ravel()

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
        records = empty_records(max(self.count, self.done))
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


def _run_chains(
    run: _SequenceRun, get: Callable[[int], Any], chains: list[np.ndarray], executor: Any
) -> None:
    def lazily(chain: np.ndarray) -> Iterator[tuple[int, Any]]:
        for i in chain:
            yield int(i), get(int(i))

    if executor is None:
        for chain in chains:
            run.chain(lazily(chain))
        return
    if not isinstance(executor, int) or isinstance(executor, bool):
        raise TypeError(
            f"`executor` must be None or a number of threads here, not {type(executor).__name__}; "
            "solve_batch takes executors of other processes"
        )
    with ThreadPoolExecutor(_validate.integer("executor", executor, minimum=1)) as pool:
        futures = [pool.submit(run.chain, lazily(chain)) for chain in chains]
        try:
            for future in futures:
                future.result()
        except BaseException:
            run.stop.set()
            run.abort.set()
            for future in futures:
                future.cancel()
            raise


__all__ = ["solve_sequence"]
