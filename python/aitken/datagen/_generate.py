"""The factory: samples of a family, solved chain by chain and published as they are done."""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from .._errors import ConvergenceWarning
from .._progress import logger
from .._result import Result, Status, warn_not_converged
from ..linalg._batch import BATCH_SOLVERS, choose_solver, solve_batch
from ..linalg._sort import sort_systems, split_chains
from ._families import Family, make_family
from ._store import LAYOUTS, Store, check_layout, read_rows

__all__ = ["GenerateResult", "generate"]

Array = NDArray[Any]
Chain = tuple[int, int]  # number of its block, and its own inside the block

_CHAIN = 64  # systems that share one recycled subspace
_CHAIN_SAME = 256  # systems with one matrix, that share one factorisation
_CHAIN_BYTES = 1 << 27  # of entries and vectors of a chain
_BLOCK_BYTES = 1 << 26  # of parameters that are sorted together
_BLOCK = 8192


class GenerateResult(Result):
    """What `generate` made.

    Attributes
    ----------
    path : str
        The data set; it does not exist yet where a callback stopped the run.
    kind : str
        The family's name.
    n, n_unknowns : int
        Samples of the data set, and unknowns of each system.
    n_computed, n_resumed : int
        Samples solved by this call, and samples found published by an earlier one.
    n_failed : int
        Samples of the data set whose residual is above `rtol`; ``status`` in the file says which and how.
    residual_max : float
        Largest true relative residual ||b - A x||_2 / ||b||_2 of the data set.
    rtol : float
        What was asked for.
    nit_mean : float
        Mean iterations of a system.
    solver, reason : str
        The solver that was used and why it was chosen; several, where chains differ, joined by commas.
    status, success, message
        Converged if every sample is; otherwise the status of the sample with the largest residual.
    seconds : float
        Wall time of this call.
    """

    path: str
    kind: str
    n: int
    n_unknowns: int
    n_computed: int
    n_resumed: int
    n_failed: int
    residual_max: float
    rtol: float
    nit_mean: float
    solver: str
    reason: str
    status: Status
    success: bool
    message: str
    seconds: float


def generate(
    kind: Any,
    n: int,
    grid: Any,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    rtol: float = 1e-8,
    layout: str = "fno",
    resume: bool = False,
    overwrite: bool = False,
    executor: Any = None,
    solver: str = "auto",
    sort: str = "auto",
    chain_size: int | None = None,
    progress: bool = False,
    callback: Callable[..., Any] | None = None,
    **family_options: Any,
) -> GenerateResult:
    """Make a data set for training neural operators: sample, assemble, solve, write.

    Samples are sorted by their parameters, block by block, and cut into chains; a chain is solved by one
    call of `aitken.linalg.solve_batch` and published as a file of its own in ``<out>.parts``. At the end the
    chains become `out`, in the order of the samples. Killed at any moment and called again with
    ``resume=True``, it solves only what was not published; the file is the same, byte for byte, as that of an
    uninterrupted run, and the same for every `executor`.

    Parameters
    ----------
    kind : str, callable or Family
        A name of `families`, ``"module:function"``, or a family; see `make_family`.
    n : int
        Number of samples.
    grid : int or sequence of int
        Points per side, as the family counts them.
    out : path
        The file to write.
    seed : int, default 0
        Sample i depends on `seed` and i alone.
    rtol : float, default 1e-8
        Tolerance of every sample on its true residual, ||b - A x||_2 <= rtol ||b||_2.
    layout : {"fno", "pdebench", "npz", "neuralop"}
        ``"fno"``: HDF5 with ``coeff`` and ``sol``, both (n, H, W) for fields. ``"pdebench"``: HDF5 with
        ``nu`` (n, H, W), ``tensor`` (n, 1, H, W), ``x-coordinate``, ``y-coordinate``. ``"npz"``: as
        ``"fno"``, for `numpy.load`. ``"neuralop"``: a dict with ``x`` and ``y`` for `torch.load`. All hold
        ``residual``, ``status`` and ``nit`` (n,), ``params`` where the input does not say all, ``mask`` where
        the domain has holes, and the options of the run.
    resume : bool, default False
        Go on with the unfinished run of the same options, if there is one; a finished one is returned.
    overwrite : bool, default False
        Replace `out`, and drop an unfinished run. The old file stays until the new one is complete.
    executor : None, int, concurrent.futures.Executor or distributed.Client
        Where chains are solved: here, on that many threads, or there. Files are written by this process.
    solver : str, default "auto"
        Solver of `aitken.linalg.solve_batch`.
    sort : {"auto", "greedy", "hilbert", "none"}
        Order of the samples, as in `aitken.linalg.sort_systems`; families with one matrix are not sorted.
    chain_size : int, optional
        Fewest samples of a chain; default 64, or 256 for families with one matrix, fewer for huge systems.
    progress : bool, default False
        Show a bar over the samples, where tqdm is installed.
    callback : callable, optional
        Called after every chain as ``callback(intermediate_result)`` with fields ``n_done n residual_max
        n_failed``; raising StopIteration ends the run, which `resume` can finish.
    **family_options
        Options of the family, e.g. ``coefficient="rough"``; values that JSON can hold.

    Returns
    -------
    GenerateResult

    Raises
    ------
    TypeError, ValueError
        For bad arguments, for parts or a file of other options under ``resume=True``, and for a family whose
        arrays have wrong shapes or are not finite.
    FileExistsError
        Where `out`, or an unfinished run of it, exists and neither `resume` nor `overwrite` is given.
    BlockingIOError
        Where another run is writing `out`.
    OSError
        For a full disk or a folder that cannot be written. What was published stays.
    ImportError
        For a layout whose library is missing.

    Warns
    -----
    ConvergenceWarning
        If a sample's residual is above `rtol`. Its best answer is stored, its status is not 0.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from aitken.datagen import generate
    >>> out = tempfile.mkdtemp() + "/darcy.npz"
    >>> r = generate("darcy", 40, 16, out, layout="npz")
    >>> r.n_failed, r.residual_max <= 1e-8
    (0, True)
    >>> np.load(out)["sol"].shape
    (40, 16, 16)
    """
    started = time.perf_counter()
    n = _validate.integer("n", n, minimum=1)
    seed = _validate.integer("seed", seed, minimum=0, maximum=2**64 - 1)
    rtol = _validate.positive_scalar("rtol", rtol)
    _validate.choice("layout", layout, LAYOUTS)
    resume, overwrite = _validate.boolean("resume", resume), _validate.boolean("overwrite", overwrite)
    if resume and overwrite:
        raise ValueError("`resume` and `overwrite` are both True; one keeps what the other drops")
    _validate.choice("solver", solver, BATCH_SOLVERS)
    _validate.choice("sort", sort, ("auto", "greedy", "hilbert", "none"))
    chain_size = _validate.optional_integer("chain_size", chain_size, minimum=1)
    callback = _validate.callback("callback", callback)
    progress = _validate.boolean("progress", progress)
    pool = _Pool(executor)  # refuses a wrong executor before anything is made
    try:
        path = Path(out)
    except TypeError:
        raise TypeError(f"`out` must be a path, not {type(out).__name__}") from None
    check_layout(layout, path)
    family = make_family(kind, grid, **family_options)
    plan = _plan(family, n, seed, chain_size, sort)
    store = Store(path, layout, _manifest(kind, plan, grid, family_options, rtol, layout, solver))

    stopped = False
    if store.open(resume=resume, overwrite=overwrite):
        rows, used = read_rows(path, layout)
        store.close()
        summary = _Summary(n, rtol)
        summary.add(rows)
        n_resumed = n
    else:
        bar = _bar(f"{family.name} {n}", n) if progress else None
        try:
            with pool, warnings.catch_warnings():
                # Chains need not warn: the records of all samples are summed up below.
                warnings.simplefilter("ignore", ConvergenceWarning)
                summary, used, n_resumed, stopped = _solve_all(store, pool, plan, rtol, solver, callback, bar)
            if not stopped:
                _assemble_file(store, plan, used)
        finally:
            if bar is not None:
                bar.close()
            store.close()
    status = Status.STOPPED_BY_CALLBACK if stopped else summary.status
    result = GenerateResult(
        path=str(path),
        kind=family.name,
        n=n,
        n_unknowns=family.n,
        n_computed=summary.n_done - n_resumed,
        n_resumed=n_resumed,
        n_failed=summary.n_failed,
        residual_max=summary.residual_max,
        rtol=rtol,
        nit_mean=summary.nit / summary.n_done,
        solver=",".join(used),
        reason="; ".join(dict.fromkeys(used.values())),
        status=status,
        success=status == Status.CONVERGED,
        message=f"{status.message}; resume=True goes on" if stopped else status.message,
        seconds=time.perf_counter() - started,
    )
    warn_not_converged(
        result,
        solver="generate",
        quantity=f"{result.n_failed} of {n} samples above the tolerance, the largest relative residual",
        error=result.residual_max,
        target=rtol,
    )
    return result


# -------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class _Plan:
    """How samples are cut into blocks and chains; depends on the problem alone."""

    family: Family
    n: int
    seed: int
    sort: str
    chain: int
    block: int

    def blocks(self) -> Iterator[tuple[int, Array]]:
        for number, start in enumerate(range(0, self.n, self.block)):
            yield number, np.arange(start, min(start + self.block, self.n))

    def chains(self, order: Array) -> list[Array]:
        return split_chains(order, max(1, order.size // self.chain), minimum=1)


def _plan(family: Family, n: int, seed: int, chain_size: int | None, sort: str) -> _Plan:
    if chain_size is None:
        per_system = 8 * (2 * family.nnz + 4 * family.n)
        limit = _CHAIN_SAME if family.same_matrix else _CHAIN
        chain_size = max(1, min(limit, _CHAIN_BYTES // per_system))
    first = _sample(family, seed, np.arange(1))
    block = max(chain_size, min(_BLOCK, _BLOCK_BYTES // first.nbytes) // chain_size * chain_size)
    return _Plan(family, n, seed, "none" if family.same_matrix else sort, chain_size, block)


def _manifest(
    kind: Any, plan: _Plan, grid: Any, options: dict[str, Any], rtol: float, layout: str, solver: str
) -> dict[str, Any]:
    from .. import __version__

    try:
        options, grid = json.loads(json.dumps([{**options, **plan.family.options}, grid]))
    except (TypeError, ValueError) as error:
        raise TypeError(f"`grid` and the family's options must be JSON values: {error}") from None
    return {
        "version": __version__,
        "kind": kind if isinstance(kind, str) else plan.family.name,
        "grid": grid,
        "options": options,
        "n": plan.n,
        "seed": plan.seed,
        "rtol": rtol,
        "layout": layout,
        "solver": solver,
        "sort": plan.sort,
        "chain_size": plan.chain,
        "block_size": plan.block,
    }


def _sample(family: Family, seed: int, index: Array) -> Array:
    """Parameters of the samples `index`, checked."""
    rows = [np.asarray(family.parameters(seed, int(i)), dtype=np.float64) for i in index]
    if any(row.shape != rows[0].shape or row.size == 0 for row in rows):
        raise ValueError(f"`parameters` of {family.name} gave arrays of different or empty shapes")
    block = np.stack(rows)
    _validate.check_finite(f"parameters of {family.name}", block)
    return block


def _order(plan: _Plan, index: Array) -> Array:
    """The order in which a block's samples are solved."""
    if plan.sort == "none":
        return index
    keys = plan.family.sort_key(_sample(plan.family, plan.seed, index))
    return np.asarray(index[sort_systems(keys, method=plan.sort)])


# -------------------------------------------------------------------------------------------- one chain


def _solve_systems(
    family: Family, parameters: Array, data: Array, b: Array, rtol: float, solver: str, n_threads: int | None
) -> tuple[Array, Array, Array, Array]:
    """Solutions, true relative residuals, statuses and iterations of one chain."""
    r: Any = solve_batch(
        family.indptr,
        family.indices,
        # what all samples share is given once
        data[0] if family.same_matrix else data,
        b,
        solver=solver,
        params=family.sort_key(parameters),
        sort="none",  # the chain is sorted
        rtol=rtol,
        n_threads=n_threads,
    )
    return r.X, r.residuals, r.status, r.nit


def _assembled(family: Family, parameters: Array) -> tuple[Array, Array]:
    """Entries and right-hand sides, checked: families may be the user's."""
    data, b = family.assemble(parameters)
    for name, array, width in (("data", data, family.nnz), ("b", b, family.n)):
        if np.shape(array) != (len(parameters), width):
            raise ValueError(
                f"`assemble` of {family.name} gave {name} of shape {np.shape(array)}; "
                f"{(len(parameters), width)} is needed"
            )
        _validate.check_finite(f"{name} of {family.name}", array)
    return data, b


def _chosen(plan: _Plan, rtol: float, solver: str) -> tuple[str, str]:
    """The solver of every chain, and why; ``"auto"`` looks at the first two samples, whatever was resumed."""
    if solver != "auto":
        return solver, "as asked"
    family = plan.family
    parameters = _sample(family, plan.seed, np.arange(min(2, plan.n)))
    data, b = _assembled(family, parameters)
    choice = choose_solver(
        family.indptr,
        family.indices,
        data[0] if family.same_matrix else data,
        b,
        params=family.sort_key(parameters),
        count=plan.n,
        rtol=rtol,
    )
    return choice.solver, choice.reason


def _solve_chain(
    family: Family, seed: int, index: Array, rtol: float, chosen: tuple[str, str], n_threads: int | None
) -> dict[str, Array]:
    """Sample, assemble and solve one chain; pure, so that it may run anywhere."""
    parameters = _sample(family, seed, index)
    data, b = _assembled(family, parameters)
    used, why = chosen
    X, residual, status, nit = _solve_systems(family, parameters, data, b, rtol, used, n_threads)
    residual = np.asarray(residual, dtype=np.float64)
    status = np.asarray(status).astype(np.int8)
    # No sample passes as converged on a status alone.
    status[(status == Status.CONVERGED) & ~(residual <= rtol)] = Status.STAGNATED
    out = {
        "index": np.asarray(index, dtype=np.int64),
        "inputs": np.ascontiguousarray(family.inputs(parameters)),
        "solutions": np.ascontiguousarray(family.unpack(X, parameters)),
        "residual": residual,
        "status": status,
        "nit": np.asarray(nit).astype(np.int32),
        "solver": np.array(used),
        "reason": np.array(why),
    }
    scalars = family.scalars(parameters)
    if scalars is not None:
        out["params"] = np.ascontiguousarray(scalars)
    return out


# ------------------------------------------------------------------------------------------- all chains


class _Pool:
    """The one door to more cores: None, a number of threads, an Executor, or a distributed Client."""

    def __init__(self, executor: Any) -> None:
        self.threads = 0
        self.executor: Executor | None = None
        if executor is None:
            return
        if isinstance(executor, Executor):
            self.executor = executor
        elif callable(getattr(executor, "get_executor", None)):
            self.executor = executor.get_executor()
        elif isinstance(executor, bool) or not hasattr(executor, "__index__"):
            raise TypeError(
                "`executor` must be None, an int, a concurrent.futures.Executor or a distributed.Client, "
                f"not {type(executor).__name__}"
            )
        else:
            self.threads = _validate.integer("executor", executor, minimum=1)

    @property
    def inner_threads(self) -> int | None:
        """Threads inside a solve: one where chains run side by side, the default where they do not."""
        return None if self.executor is None else 1

    def __enter__(self) -> _Pool:
        if self.threads > 1:
            self.executor = ThreadPoolExecutor(self.threads, thread_name_prefix="aitken-datagen")
        return self

    def __exit__(self, *exception: object) -> None:
        if self.threads > 1 and self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)

    def run(
        self, tasks: Iterator[tuple[Chain, tuple[Any, ...]]], function: Callable[..., Any]
    ) -> Iterator[tuple[Chain, Any]]:
        """``function(*arguments)`` of every task, as they finish; few are in flight, to bound memory."""
        if self.executor is None:
            for key, arguments in tasks:
                yield key, function(*arguments)
            return
        limit = 2 * (self.threads or os.cpu_count() or 1)
        flying: dict[Future[Any], Chain] = {}
        try:
            for key, arguments in tasks:
                flying[self.executor.submit(function, *arguments)] = key
                while len(flying) >= limit:
                    yield from self._landed(flying)
            while flying:
                yield from self._landed(flying)
        finally:
            for future in flying:
                future.cancel()

    @staticmethod
    def _landed(flying: dict[Future[Any], Chain]) -> Iterator[tuple[Chain, Any]]:
        done = wait(flying, return_when=FIRST_COMPLETED).done
        for future in [f for f in flying if f in done]:
            yield flying.pop(future), future.result()


@dataclass
class _Summary:
    """Running facts about the samples that are done."""

    n: int
    rtol: float
    n_done: int = 0
    n_failed: int = 0
    nit: int = 0
    residual_max: float = 0.0
    status: Status = Status.CONVERGED

    def add(self, rows: dict[str, Array]) -> None:
        residual = np.where(np.isnan(rows["residual"]), np.inf, rows["residual"])
        bad = (rows["status"] != Status.CONVERGED) | ~(residual <= self.rtol)
        self.n_done += residual.size
        self.nit += int(rows["nit"].sum())
        if bad.any():
            worst = int(np.where(bad, residual, -1.0).argmax())
            if self.n_failed == 0 or residual[worst] > self.residual_max:
                self.status = Status(int(rows["status"][worst]))
        self.n_failed += int(bad.sum())
        self.residual_max = max(self.residual_max, float(residual.max()))


def _solve_all(
    store: Store,
    pool: _Pool,
    plan: _Plan,
    rtol: float,
    solver: str,
    callback: Callable[..., Any] | None,
    bar: Any,
) -> tuple[_Summary, dict[str, str], int, bool]:
    """Publish every chain that is not; returns the summary, solvers and why, samples resumed, if stopped."""
    summary = _Summary(plan.n, rtol)
    names: dict[Chain, tuple[str, str]] = {}
    resumed = 0
    chosen = _chosen(plan, rtol, solver)

    def account(chain: Chain, rows: dict[str, Array]) -> None:
        summary.add(rows)
        names[chain] = str(rows["solver"]), str(rows["reason"])
        if bar is not None:
            bar.update(len(rows["index"]))
            bar.set_postfix_str(f"residual <= {summary.residual_max:.1e}")

    def tasks() -> Iterator[tuple[Chain, tuple[Any, ...]]]:
        nonlocal resumed
        for number, index in plan.blocks():
            order = store.order(number)
            if order is None or not np.array_equal(np.sort(order), index):
                order = _order(plan, index)
                store.publish_order(number, order)
            for c, piece in enumerate(plan.chains(order)):
                chain = (number, c)
                rows = store.chain_rows(chain)
                if rows is not None and np.array_equal(rows["index"], piece):
                    resumed += piece.size
                    account(chain, rows)
                else:
                    yield chain, (plan.family, plan.seed, piece, rtol, chosen, pool.inner_threads)

    stopped = False
    for chain, rows in pool.run(tasks(), _solve_chain):
        store.publish_chain(chain, rows)
        account(chain, rows)
        if callback is not None:
            try:
                callback(
                    Result(
                        n_done=summary.n_done,
                        n=plan.n,
                        residual_max=summary.residual_max,
                        n_failed=summary.n_failed,
                    )
                )
            except StopIteration:
                stopped = summary.n_done < plan.n
                break
    used: dict[str, str] = {}
    for chain in sorted(names):
        used.setdefault(*names[chain])
    return summary, used, resumed, stopped


def _assemble_file(store: Store, plan: _Plan, used: dict[str, str]) -> None:
    """The chains as one file, in the order of the samples; one block is in memory at a time."""
    fixed: dict[str, Array] = {}
    for axis, points in enumerate(plan.family.coordinates()):
        fixed[f"axis{axis}"] = np.asarray(points)
    if plan.family.mask is not None:
        fixed["mask"] = np.asarray(plan.family.mask)
    with np.load(store.chain_path((0, 0))) as first:
        kinds = {name: first[name][0] for name in first.files if name not in ("index", "solver", "reason")}
    kinds = {name: np.asarray(row) for name, row in kinds.items()}

    def blocks(names: Sequence[str]) -> Iterator[tuple[int, dict[str, Array]]]:
        for number, index in plan.blocks():
            order = store.order(number)
            if order is None:
                raise FileNotFoundError(errno.ENOENT, "a published order vanished", str(store.folder))
            arrays = {name: np.empty((index.size, *kinds[name].shape), kinds[name].dtype) for name in names}
            for c in range(len(plan.chains(order))):
                with np.load(store.chain_path((number, c))) as rows:
                    place = rows["index"] - index[0]
                    for name in names:
                        arrays[name][place] = rows[name]
            yield int(index[0]), arrays

    store.finish(plan.n, blocks, kinds, fixed, used)


# ------------------------------------------------------------------------------------------------ reports


def _bar(title: str, n: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        logger.warning("progress=True needs tqdm; pip install 'aitken[progress]'")
        return None
    return tqdm(total=n, desc=title, unit="sample")
