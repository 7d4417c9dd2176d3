"""Sequences: related systems of any kind, in an order that suits them."""

from __future__ import annotations

import inspect
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from ._tuned import COSTS, RELAXATION, RelaxationCarrier, TunedCarrier, Tuner, make_tuner

SEQUENCE_SOLVERS = (*BATCH_SOLVERS, "gmres", *RELAXATION)


def solve_sequence(
    systems: Any,
    *,
    solver: Any = "auto",
    params: Any = None,
    sort: str = "auto",
    project: int = 8,
    x0: str | None = "project",
    tuner: Any = None,
    tuned: str = "omega",
    context: Any = None,
    cost: str = "iterations",
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
        The systems, or triples (A, b, context); a callable ``systems(i) -> (A, b)`` is asked for each when
        its turn comes, with `n_systems` saying how many there are unless it has a length; one of two
        arguments, ``systems(i, previous)``, is told the solution before (None at first). Matrices may be
        sparse or dense, or LinearOperators.
    solver : str or callable, default "auto"
        ``"gcrodr"``, ``"rcg"``, ``"gmres"`` (nothing carried), ``"ssor_cg"``, ``"sor"``, ``"direct"``,
        ``"superlu"``, ``"amg"``, or ``"auto"``, which picks by a cost model where all matrices are real or
        complex CSR of one pattern and is ``"gcrodr"`` otherwise (with a tuner: ``"ssor_cg"``); or a function
        ``solver(A, b, x0=x0, **solver_options)`` that gives ``x, info`` or a result with `x` and `nit`.
    params : array_like, shape (N, ...), optional
        What the systems depend on. They are sorted by it where they are indexable.
    sort : {"auto", "greedy", "hilbert", "none"}
        See `sort_systems`.
    project : int, default 8
        Earlier solutions in whose span the start is sought.
    x0 : {"project", "previous", None}
        Start from the span of earlier solutions, from the last solution, or from zero. With a tuner, and
        with ``"ssor_cg"`` and ``"sor"``, "project" means "previous".
    tuner : str or BanditTuner, optional
        Chooses a solver option anew for each system from what the systems before have cost: see
        `aitken.tune`. A string is the method of a tuner of omega, which has the range of `context`, or of
        the triples of a sequence, as its own. Systems are then neither sorted nor projected, and solved one
        after the other.
    tuned : str, default "omega"
        The option that an arm of the tuner is a value of; an arm that is a dict holds options by name.
    context : callable or array_like, shape (N,), optional
        A number known before each solve that explains how the systems differ, ``context(i)`` or an array.
    cost : {"iterations", "work", "seconds"}
        What the tuner is told: iterations; flops in units of a product with A, which compares arms that
        differ in cost per iteration; or the time of the solve, set-up included.
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
        ``rtol atol maxiter M restart recycle_dim side select carry ortho basis_dtype guard n_threads``; for
        ``"ssor_cg"`` and ``"sor"`` those of `RelaxationSolver`, and `omega`; with a callable, what it takes.

    Returns
    -------
    SequenceResult
        With a tuner, `params` holds the arms played, `contexts` the contexts, `costs` what the tuner was
        told, `tuner` the tuner, and `seconds_tuner` the time spent in it.

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
    get, count, indexable, follows = _access(systems, n_systems)
    _validate.callback("callback", callback)
    if not callable(solver):
        _validate.choice("solver", solver, SEQUENCE_SOLVERS)
    _validate.choice("x0", x0, ("project", "previous", None))
    if executor is not None and not indexable:
        raise TypeError("`executor` needs `systems` that can be indexed, or a function of i, not an iterator")
    if executor is not None and (tuner is not None or follows):
        raise ValueError("`executor` must be None where systems follow one another, as with a tuner")
    _validate.choice("cost", cost, COSTS)
    P = None if params is None else parameter_array(params, count) if count is not None else None
    if params is not None and not indexable:
        P = None
    known = count if count is not None else 0
    contexts = _contexts(context, count)
    if tuner is not None:
        if solver in ("direct", "superlu", "amg"):
            raise ValueError(f"`solver` is {solver!r}, which has nothing to tune")
        solver = "ssor_cg" if isinstance(solver, str) and solver == "auto" else solver
        tuner = make_tuner(tuner, _own_contexts(systems) if contexts is None else contexts)
    if tuner is not None or follows or (isinstance(solver, str) and solver in RELAXATION):
        sort, x0 = "none", "previous" if x0 == "project" else x0
    reason = "as asked" if solver != "auto" else "systems differ in pattern or are operators"
    if count == 0:
        raise ValueError("`systems` is empty")
    if indexable and not follows and not callable(solver) and solver in ("auto", *DIRECT):
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
    if isinstance(solver, str) and solver in DIRECT:
        raise ValueError(f"`solver` {solver!r} needs all systems at once, as sparse matrices of one pattern")
    name = "gcrodr" if solver == "auto" else solver
    if indexable and (follows or tuner is not None):
        order = np.arange(known)
        chains = [order]
    elif indexable:
        order, chains = cut_chains(known, P, sort)
    else:
        order, chains = np.zeros(0, dtype=np.int64), []
    run = _SequenceRun(
        name, solver_options, project if x0 == "project" else 0, x0, keep, callback, out, known, P
    )
    run.contexts = contexts if contexts is not None or not callable(context) else context
    if tuner is not None:
        run.tune(tuner, cost, tuned)
    with warnings.catch_warnings():  # not in the chains: threads share the filters
        warnings.simplefilter("ignore", ConvergenceWarning)  # one warning for all, at the end
        if indexable:
            _run_chains(run, get, chains, executor, follows)
        else:
            run.chain((i, partial(_given, item)) for i, item in enumerate(systems))
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
    if run.tuned is not None:
        run.tuned.report(result)
    rtol = float(solver_options.get("rtol", 1e-8 if name in RELAXATION else 1e-5))
    return finish_sequence(
        result,
        records,
        solver="solve_sequence",
        rtol=rtol,
        atol=float(solver_options.get("atol", 0.0)),
        start=start,
    )


DIRECT = ("direct", "superlu", "amg")


def _access(systems: Any, n_systems: int | None) -> tuple[Callable[..., Any], int | None, bool, bool]:
    """How to get system i, how many there are, whether by number, whether from the solution before."""
    if callable(systems):
        if n_systems is None and hasattr(systems, "__len__"):
            n_systems = len(systems)
        if n_systems is None:
            raise ValueError("`n_systems` is needed where `systems` is a function")
        count = _validate.integer("n_systems", n_systems, minimum=1)
        return systems, count, True, _takes_solution(systems)
    if isinstance(systems, Sequence):
        count = len(systems)
        if n_systems is not None and n_systems != count:
            raise ValueError(f"`n_systems` is {n_systems}, but `systems` has length {count}")
        return systems.__getitem__, count, True, False
    if isinstance(systems, Iterable):
        return _not_indexable, None, False, False
    raise TypeError(
        "`systems` must be a sequence or iterable of (A, b), or a function of i, "
        f"not {type(systems).__name__}"
    )


def _given(item: Any, previous: Any) -> Any:
    return item


def _made(get: Callable[[int], Any], i: int, previous: Any) -> Any:
    return get(i)


def _takes_solution(systems: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(systems).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 2 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "previous"
    )


def _contexts(context: Any, count: int | None) -> np.ndarray | None:
    """All contexts, where they can be known beforehand."""
    if context is None:
        return None
    if callable(context):
        if count is None:
            return None
        return np.array([_context_number(i, context(i)) for i in range(count)])
    array = np.asarray(context)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise TypeError("`context` must be a function of i or an array of numbers, one per system")
    if count is not None and array.size != count:
        raise ValueError(f"`context` has shape {array.shape}; ({count},) is needed, one per system")
    return array.astype(np.float64)


def _own_contexts(systems: Any) -> np.ndarray | None:
    """Contexts that a sequence's systems bring along, if all do."""
    if not isinstance(systems, Sequence):
        return None
    own = [_parts(i, item)[2] for i, item in enumerate(systems)]
    if any(context is None for context in own):
        return None
    return np.array([_context_number(i, context) for i, context in enumerate(own)])


def _context_number(i: int, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`context` of system {i} must be a number, not {value!r}") from None


def _not_indexable(i: int) -> Any:
    raise TypeError("`systems` cannot be indexed")


def _parts(i: int, item: Any) -> tuple[Any, Any, Any]:
    """Matrix, right-hand side and context (None where there is none)."""
    try:
        A, b, *rest = item
        (context,) = rest or (None,)
    except (TypeError, ValueError):
        raise TypeError(
            f"`systems[{i}]` must be a pair (A, b) or (A, b, context), not {type(item).__name__}"
        ) from None
    return A, b, context


def _as_batch(
    get: Callable[[int], Any], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """The systems as arrays where all are CSR of one pattern, else None."""
    first: System | None = None
    data, rhs = [], []
    for i in range(count):
        A, b, _ = _parts(i, get(i))
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
        self.contexts: Any = None  # by number, or a function
        self.tuned: TunedCarrier | None = None
        self.project = project
        if solver == "gmres":
            self.options["recycle_dim"] = 0
            self.solver = "gcrodr"
        self.carrier()  # complain before the first solve

    def tune(self, tuner: Tuner, cost: str, tuned: str) -> None:
        self.tuned = TunedCarrier(tuner, self.solver, cost, tuned, self.options, _call)
        if self.returned is not None:
            self.returned = {}

    def carrier(self) -> Any:
        """What carries from one system of a chain to the next; None for a user's function."""
        if self.tuned is not None:
            return self.tuned
        if callable(self.solver):
            return None
        if self.solver in RELAXATION:
            return RelaxationCarrier(self.solver, self.options)
        carrier = RecyclingSolver(self.solver, project=self.project, **self.options)
        carrier.abort = self.abort.is_set
        return carrier

    def context(self, i: int, own: Any) -> float | None:
        """The context of system i: its own, or the one given for it."""
        if own is not None:
            return _context_number(i, own)
        if self.contexts is None:
            return None
        if callable(self.contexts):
            return _context_number(i, self.contexts(i))
        if i >= len(self.contexts):
            raise ValueError(f"`context` has length {len(self.contexts)}, but there is a system {i}")
        return float(self.contexts[i])

    @property
    def done(self) -> int:
        return len(self.found)

    def chain(self, systems: Iterable[tuple[int, Callable[[Any], Any]]]) -> None:
        """Solve these in turn; they carry from one to the next. Each is made from the solution before."""
        carrier = self.carrier()
        previous = None
        for i, make in systems:
            if self.stop.is_set():
                return
            A, b, own = _parts(i, make(previous))
            begin = previous if self.x0 == "previous" else None
            where = None if self.params is None else self.params[i]
            try:
                if self.tuned is not None:
                    result = self.tuned.solve(A, b, begin, context=self.context(i, own))
                elif carrier is not None:
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
    run: _SequenceRun, get: Callable[..., Any], chains: list[np.ndarray], executor: Any, follows: bool
) -> None:
    def lazily(chain: np.ndarray) -> Iterator[tuple[int, Callable[[Any], Any]]]:
        for i in map(int, chain):
            yield i, partial(get, i) if follows else partial(_made, get, i)

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
