"""Low-rank matrix completion by alternating minimisation: the public solver."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._errors import ConvergenceWarning, RecoveryWarning
from .._progress import Monitor
from .._result import Status, _caller_stacklevel
from . import _native
from ._completion_result import CompletionResult, balance, finished, penalty
from ._entries import Entries, implicit_entries, take_entries
from ._entry_store import EntryStore, complete_store
from ._half_sweep import half_options

_INITS = ("auto", "random", "spectral", "rank_increment")
_INNERS = ("auto", "exact", "cg", "qcg", "sketch", "lowprec")
_PATH_LENGTH = 60  # sweeps of the default lambda path
_ROBUST_HOLDOUT = 0.05
_RANK_HOLDOUT = 0.1
ENDINGS = {
    "tolerance": "converged: the training error changed by less than `tol` in two sweeps",
    "floor": "converged: the training error is at `atol_rmse`, or at rounding",
    "holdout": "stopped early: the holdout error no longer falls; the best factors are returned",
    "sweeps": "the sweeps are used up",
    "callback": "the callback asked to stop",
    "nonfinite": "NaN or Inf appeared; the last finite factors are returned",
}


def matrix_completion(
    M: Any,
    rank: int | str,
    *,
    shape: tuple[int, int] | None = None,
    weights: Any = None,
    lam: float = 0.0,
    lam_scaling: str = "none",
    bias: bool = False,
    center: bool | str = "auto",
    nonneg: bool = False,
    implicit: bool = False,
    alpha: float = 1.0,
    loss: str = "linear",
    delta: float | None = None,
    init: Any = "auto",
    inner: str = "auto",
    inner_maxiter: int | None = None,
    inner_tol: float = 0.03,
    maxiter: int | None = None,
    tol: float | None = None,
    atol_rmse: float = 0.0,
    lam_path: bool | Sequence[float] | None = None,
    robust: bool = False,
    holdout: Any = None,
    patience: int = 3,
    max_rank: int | None = None,
    rank_tol: float = 1e-3,
    sample_splitting: bool = False,
    finalize: bool = True,
    dtype: Any = None,
    duplicates: str = "raise",
    n_threads: int | None = None,
    rng: Any = None,
    callback: Callable[..., Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
) -> CompletionResult:
    """Complete a matrix of which some entries are known by one of low rank.

    Minimises, over factors U (n1, k) and V (n2, k) and with `bias` a (n1,) and b (n2,),
    ``sum w_ij (m_ij - mu - a_i - b_j - U_i @ V_j)**2 + sum_i lam_i (|U_i|**2 + a_i**2)
    + sum_j lam_j (|V_j|**2 + b_j**2)`` over the known entries (i, j), by sweeps that solve for one factor
    with the other fixed: each row is a small least-squares problem of its own [1]_ [2]_.

    Parameters
    ----------
    M : sparse matrix, (n1, n2) array with NaN, masked array, (rows, cols, values), or EntryStore
        The known entries. All stored entries of a sparse matrix are known, zeros among them. CuPy arrays
        are completed on their GPU; results are NumPy's or CuPy's, also for tensors of other libraries.
        Data in float32 give a float32 answer, all others float64.
    rank : int or "auto"
        k, from 1 to ``min(n1, n2)``; "auto" raises the rank while the holdout error falls.
    shape : (int, int), optional
        Of the matrix; needed with ``(rows, cols, values)``.
    weights : array or sparse matrix, optional
        w > 0, like `M`, or one per entry in the order of `M`.
    lam : float, default 0
        Penalty. 0 is pure completion: data are scaled to unit root mean square, factors are kept
        orthonormal in turn, and the answer follows a rescaling of `M`.
    lam_scaling : {"none", "degree"}
        ``lam_i`` is `lam`, or `lam` times the number of known entries of the row or column.
    bias : bool
        Fit a bias of each row and column together with the factors.
    center : bool or "auto"
        Take the mean of the known entries off first: "auto" does so with `bias`.
    nonneg : bool
        Nonnegative factors, by coordinate descent.
    implicit : bool
        The values are counts of events: all entries count, with target 1 where ``m_ij > 0`` and 0 elsewhere
        and with weight ``1 + alpha |m_ij|``.
    alpha : float
        See `implicit`.
    loss : {"linear", "huber", "l1"}
        "huber" and "l1" bear gross outliers: squares become lines beyond `delta`, by one reweighting in each
        half sweep.
    delta : float, optional
        By default 1.345 robust standard deviations for "huber" and 1e-3 median residuals for "l1", from
        the median absolute residual at each sweep.
    init : "auto", "random", "spectral", "rank_increment", (U0, V0) or CompletionResult
        "spectral": singular vectors of the entries with gaps at 0, in which the entries are divided by the
        roots of their row's and column's number of entries where those are very uneven. "rank_increment":
        rank 1, 2, ...: best for ill-conditioned matrices. A warm start may have fewer or more columns than
        `rank`. "auto" is "spectral" for ``lam = 0``, else "random".
    inner : {"auto", "exact", "cg", "qcg", "sketch", "lowprec"}
        How each row is solved. "exact": normal equations. "cg": a few conjugate-gradient steps from the row
        as it is. "qcg": preconditioned by the Gram matrix of the whole fixed factor. "sketch": by that of a
        CountSketch of the row's equations, as in [1]_. "lowprec": by the Gram matrix in float32, for
        float64 data. "auto": "exact" up to rank 32; beyond, "cg" for ``lam > 0``, and for ``lam = 0``
        "exact" up to 64, then "lowprec" in float64 and "exact" in float32.
    inner_maxiter : int, optional
        Iterations for a row: 3; with `nonneg`, 10 passes.
    inner_tol : float, default 0.03
        Factor by which the norm of a row's gradient must fall from that at the row as it is: the 2-norm for
        "cg", that of the preconditioner for the others.
    maxiter : int, optional
        Sweeps: 30 for ``lam > 0``; else 100, and those of the starts beside. `finalize` adds one.
    tol : float, optional
        On the relative change of the training RMSE between sweeps, twice in a row: 1e-3 for ``lam > 0``,
        where more does not help prediction, else 1e-6.
    atol_rmse : float, default 0
        Stop when the training RMSE is at most this.
    lam_path : bool or sequence of float, optional
        For ``lam = 0``: penalties of the first sweeps, which help with few entries. True is
        ``30 p 0.85**t`` for 60 sweeps, p being the share of known entries.
    robust : bool
        For ``lam = 0``: hold out 5 % of the entries, complete the rest by `lam_path` and, where the holdout
        says that this failed, by "rank_increment"; keep the better one and refit it to all entries.
        `success` is False where the holdout error of the better one is large, too.
    holdout : float or (rows, cols, values), optional
        A share of the entries, or other entries, that the fit does not see: it stops when their RMSE has
        not fallen by 1e-4 relative for `patience` sweeps, and returns the best factors.
    patience : int, default 3
    max_rank : int, optional
        For ``rank="auto"``; by default 50 or a quarter of ``min(n1, n2)``.
    rank_tol : float, default 1e-3
        For ``rank="auto"``: stop when the holdout RMSE has not fallen by this, relative, for two ranks.
    sample_splitting : bool
        Use another part of the entries in each half sweep, as the theory of [1]_ and [2]_ does. For study:
        it needs many times the data.
    finalize : bool, default True
        End with an exact sweep, where sweeps are not.
    dtype : dtype, optional
        float32 or float64.
    duplicates : {"raise", "mean", "last"}
        What to do with an entry given twice.
    n_threads : int, optional
    rng : None, int, numpy.random.Generator or SeedSequence
        Of starts, holdouts and sketches.
    callback : callable, optional
        Called as ``callback(intermediate_result)`` after each sweep, with ``nit``, ``rank``, ``lam``,
        ``rmse_train`` and ``rmse_holdout``; StopIteration ends the solve.
    verbose : int
        1 logs one line per sweep.
    progress : bool
        Show a bar, where tqdm is installed.

    Returns
    -------
    CompletionResult

    Raises
    ------
    TypeError
        For arguments of the wrong kind, or on two devices.
    ValueError
        For no known entry, an index out of range, values that are not finite, a rank that does not fit,
        weights that are not positive, options that exclude each other.

    Warns
    -----
    ConvergenceWarning
        Where the sweeps are used up, or the holdout of ``robust=True`` says that recovery failed.
    RecoveryWarning
        Where ``lam = 0`` and the data may not determine the answer: fewer than 1.5 entries per degree of
        freedom, rows or columns with fewer entries than unknowns, or a rank the data do not support.

    References
    ----------
    .. [1] Y. Gu, Z. Song, J. Yin, L. Zhang, "Low Rank Matrix Completion via Robust Alternating Minimization
       in Nearly Linear Time", ICLR 2024.
    .. [2] P. Jain, P. Netrapalli, S. Sanghavi, "Low-rank Matrix Completion using Alternating Minimization",
       STOC 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.completion import matrix_completion
    >>> rng = np.random.default_rng(0)
    >>> M = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 50))
    >>> seen = np.where(rng.random(M.shape) < 0.5, M, np.nan)
    >>> result = matrix_completion(seen, 2, rng=0)
    >>> result.success, bool(np.abs(result.to_dense() - M).max() < 1e-6)
    (True, True)
    """
    start = time.perf_counter()
    rng = np.random.default_rng(_validate.rng_seed(rng))
    settings = _Settings.check(
        rank=rank, lam=lam, lam_scaling=lam_scaling, bias=bias, center=center, nonneg=nonneg,
        implicit=implicit, alpha=alpha, loss=loss, delta=delta, inner=inner, inner_maxiter=inner_maxiter,
        inner_tol=inner_tol, maxiter=maxiter, tol=tol, atol_rmse=atol_rmse, lam_path=lam_path,
        robust=robust, patience=patience, max_rank=max_rank, rank_tol=rank_tol,
        sample_splitting=sample_splitting, finalize=finalize, n_threads=n_threads, weights=weights,
    )  # fmt: skip
    _validate.choice("duplicates", duplicates, ("raise", "mean", "last"))
    if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"`dtype` must be float32 or float64; got {np.dtype(dtype)}")
    monitor = Monitor(
        "matrix_completion", _validate.callback("callback", callback),
        _validate.integer("verbose", verbose, minimum=0), _validate.boolean("progress", progress),
        max(settings.tol, 1e-16),
        {"rank": "3d", "lam": ".2e", "rmse_train": ".6e", "rmse_holdout": ".6e"},
    )  # fmt: skip
    if isinstance(M, EntryStore):
        for name, used in (
            ("weights", weights is not None), ("shape", shape is not None), ("dtype", dtype is not None),
            ("duplicates", duplicates != "raise"),
        ):  # fmt: skip
            if used:
                raise ValueError(f"`{name}` is not for an EntryStore, which has these things settled")
        settings.fit_rank(M.shape)
        return complete_store(M, settings, init=init, holdout=holdout, monitor=monitor, rng=rng, start=start)
    entries = take_entries("M", M, shape=shape, weights=weights, dtype=dtype, duplicates=duplicates)
    settings.fit_rank(entries.shape)
    train, held = _split(entries, holdout, settings, rng)
    problem = _Problem(train, held, settings, rng, monitor)
    try:
        result = problem.solve(init)
    finally:
        monitor.close()
    result.history["time"] = np.asarray(result.history["time"])
    result.time = time.perf_counter() - start
    problem.warn(result)
    return result


@dataclass
class _Settings:
    """The options of a call, checked."""

    rank: int | str
    half: dict[str, Any]
    lam: float
    center: bool
    bias: bool
    nonneg: bool
    implicit: bool
    alpha: float
    loss: str
    delta: float | None
    inner: str
    maxiter: int | None
    tol: float
    atol_rmse: float
    lam_path: Any
    robust: bool
    patience: int
    max_rank: int | None
    rank_tol: float
    sample_splitting: bool
    finalize: bool
    n_threads: int
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def check(cls, *, rank: Any, center: Any, weights: Any, **o: Any) -> _Settings:
        if isinstance(rank, str):
            _validate.choice("rank", rank, ("auto",))
        else:
            rank = _validate.integer("rank", rank, minimum=1)
        bias = _validate.boolean("bias", o["bias"])
        _validate.choice("inner", o["inner"], _INNERS)
        half = half_options(
            lam=o["lam"], lam_scaling=o["lam_scaling"], nonneg=o["nonneg"], implicit=o["implicit"],
            loss=o["loss"], delta=o["delta"], inner="exact" if o["inner"] == "auto" else o["inner"],
            inner_maxiter=o["inner_maxiter"], inner_tol=o["inner_tol"], bias=bias, dtype=np.float64,
        )  # fmt: skip
        lam, implicit, nonneg = half["lam"], half["background"], half["nonneg"]
        if nonneg and o["inner_maxiter"] is None:
            half["inner_maxiter"] = 10
        if implicit and weights is not None:
            raise ValueError("`implicit` makes weights of its own: `weights` must be None")
        if isinstance(center, str):
            center = _validate.choice("center", center, ("auto",)) == "auto" and bias
        center = _validate.boolean("center", center)
        if implicit and center:
            raise ValueError("`implicit` needs `center=False`")
        robust = _validate.boolean("robust", o["robust"])
        splitting = _validate.boolean("sample_splitting", o["sample_splitting"])
        for name, given in (("robust", robust), ("sample_splitting", splitting)):
            if given and (lam > 0 or nonneg or implicit):
                raise ValueError(f"`{name}` is for `lam=0` without `nonneg` and `implicit`; got lam={lam}")
        if (robust or splitting) and half["loss"] != "linear":
            name = "robust" if robust else "sample_splitting"
            raise ValueError(f'`{name}` judges by squares: `loss` must be "linear"; got {half["loss"]!r}')
        if robust and (splitting or rank == "auto"):
            raise ValueError('`robust` excludes `sample_splitting` and `rank="auto"`')
        if splitting and rank == "auto":
            raise ValueError("`sample_splitting` needs a `rank` that is a number")
        return cls(
            rank=rank, half=half, lam=lam, center=center, bias=bias, nonneg=nonneg, implicit=implicit,
            alpha=_validate.positive_scalar("alpha", o["alpha"]), loss=half["loss"], delta=o["delta"],
            inner=o["inner"], maxiter=_validate.optional_integer("maxiter", o["maxiter"], minimum=0),
            tol=_validate.tolerance("tol", o["tol"]) if o["tol"] is not None else (1e-3 if lam > 0 else 1e-6),
            atol_rmse=_validate.tolerance("atol_rmse", o["atol_rmse"]),
            lam_path=_check_path(o["lam_path"], lam), robust=robust,
            patience=_validate.integer("patience", o["patience"], minimum=1),
            max_rank=_validate.optional_integer("max_rank", o["max_rank"], minimum=1),
            rank_tol=_validate.tolerance("rank_tol", o["rank_tol"]), sample_splitting=splitting,
            finalize=_validate.boolean("finalize", o["finalize"]),
            n_threads=_validate.n_threads(o["n_threads"]),
        )  # fmt: skip

    @property
    def pure(self) -> bool:
        """Whether nothing is penalised, so that factors may be rescaled and rotated freely."""
        return self.lam == 0 and not self.nonneg and not self.implicit

    def fit_rank(self, shape: tuple[int, int]) -> None:
        """Check the rank against the shape."""
        most = min(shape)
        if most == 0:
            raise ValueError(f"`M` has shape {shape}; at least one row and one column are needed")
        if self.rank == "auto":
            if self.max_rank is None:
                self.max_rank = max(1, min(50, most // 4))
        elif isinstance(self.rank, int) and self.rank > most:
            raise ValueError(
                f"`rank` must be at most {most}, the smaller side of `M` {shape}; got {self.rank}"
            )
        if self.max_rank is not None and self.max_rank > most:
            raise ValueError(f"`max_rank` must be at most {most}, the smaller side; got {self.max_rank}")

    def inner_for(self, rank: int, dtype: Any, on_gpu: bool = False) -> str:
        """The measured choice of ``inner="auto"``; docs/theory/completion.md has the figures."""
        single = np.dtype(dtype) == np.float32
        if self.inner == "lowprec" and single:
            raise ValueError('`inner="lowprec"` needs float64 data; there is nothing below float32')
        if self.inner != "auto":
            return self.inner
        if rank <= 32:
            return "exact"
        if not self.pure:
            return "cg"
        return "exact" if rank <= 64 or single or on_gpu else "lowprec"


def _check_path(given: Any, lam: float) -> Any:
    if given is None or given is False:
        return None
    if lam > 0:
        raise ValueError(f"`lam_path` is for `lam=0`; got lam={lam}")
    if given is True:
        return True
    path = _validate.as_float_array("lam_path", given, ndim=1, dtype=np.float64)
    _validate.check_nonnegative("lam_path", path)
    return [float(x) for x in path]


def _split(
    entries: Entries, holdout: Any, settings: _Settings, rng: np.random.Generator
) -> tuple[Entries, Entries | None]:
    """Training and holdout entries."""
    if holdout is None and settings.rank == "auto":
        holdout = _RANK_HOLDOUT
    if holdout is None:
        return entries, None
    if settings.implicit:
        raise ValueError(
            "`implicit` counts all entries, so that none can be held out: `holdout` must be None"
        )
    if isinstance(holdout, tuple):
        held = take_entries(
            "holdout", holdout, shape=entries.shape, dtype=entries.values.dtype, duplicates="mean"
        )
        return entries, held
    share = _validate.real_scalar(
        "holdout", holdout, minimum=0, maximum=1, open_minimum=True, open_maximum=True
    )
    count = max(1, round(share * len(entries)))
    if count >= len(entries):
        raise ValueError(f"`holdout` of {share} leaves none of the {len(entries)} known entries to fit")
    return _hold_out(entries, count, rng)


def _hold_out(entries: Entries, count: int, rng: np.random.Generator) -> tuple[Entries, Entries]:
    """The entries without `count` of them, drawn at random, and these."""
    keep = np.ones(len(entries), dtype=bool)
    keep[rng.permutation(len(entries))[:count]] = False
    mask = entries.xp.asarray(keep)
    return entries.subset(mask), entries.subset(~mask)


@dataclass
class _Run:
    """Factors of one native run, in the scale of the scaled data."""

    u: Any
    v: Any
    a: Any
    b: Any
    report: dict[str, Any]


class _Problem:
    """Scaled entries, and the strategies that are made of native runs on them."""

    def __init__(
        self, train: Entries, held: Entries | None, settings: _Settings, rng: np.random.Generator,
        monitor: Monitor,
    ) -> None:  # fmt: skip
        self.settings, self.rng, self.monitor = settings, rng, monitor
        self.given, self.shape, self.xp = train, train.shape, train.xp
        self.dtype = train.values.dtype
        self.mu = float(train.values.mean(dtype=np.float64)) if settings.center else 0.0
        self.scale = 1.0
        values = train.values - self.dtype.type(self.mu)
        if settings.pure:
            largest = float(self.xp.abs(values).max())  # squares of the values might leave the range
            if largest > 0 and math.isfinite(largest):
                self.scale = largest * math.sqrt(
                    float(self.xp.mean((values.astype(np.float64) / largest) ** 2))
                )
        self.train = self._scaled(train)
        self.held = None if held is None else self._scaled(held)
        self.native = _native.of(train.values)
        self.histories: list[dict[str, np.ndarray]] = []
        self.degrees = train.degrees()
        peak = [d.max() / max(d.mean(), 1e-300) for d in self.degrees]
        self.uneven = max(peak) > 10

    def _scaled(self, e: Entries) -> Entries:
        if self.settings.implicit:
            return implicit_entries(e, self.settings.alpha)
        return e.with_values(
            ((e.values - self.dtype.type(self.mu)) / self.scale).astype(self.dtype), e.weights
        )

    def oversampling(self, rank: int) -> float:
        n1, n2 = self.shape
        return len(self.train) / (rank * (n1 + n2 - rank))

    # ---- native runs ------------------------------------------------------------------------------------

    def zeros(self, rank: int) -> tuple[Any, Any, Any, Any]:
        n1, n2 = self.shape
        b1, b2 = (n1, n2) if self.settings.bias else (0, 0)
        make = lambda *size: self.xp.zeros(size, dtype=self.dtype)  # noqa: E731
        return make(n1, rank), make(n2, rank), make(b1), make(b2)

    def factors_of(self, run: _Run, rank: int) -> tuple[Any, Any, Any, Any]:
        """A copy of what a run found, with columns of 0 up to `rank`."""
        factors, found = self.zeros(rank), run.u.shape[1]
        factors[0][:, :found], factors[1][:, :found] = run.u, run.v
        factors[2][...], factors[3][...] = run.a, run.b
        return factors

    def run(
        self, factors: tuple[Any, Any, Any, Any], init: str, *, train: Entries | None = None,
        held: Entries | None = None, path: Any = None, maxiter: int | None = None, **more: Any,
    ) -> _Run:  # fmt: skip
        s = self.settings
        train = self.train if train is None else train
        rank = factors[0].shape[1]
        lam_path = self._path(path, train)
        options = s.half | {
            "init": init, "inner": s.inner_for(rank, self.dtype, self.xp is not np), "tol": s.tol,
            "delta": 0.0 if s.delta is None else s.delta / self.scale, "auto_delta": s.delta is None,
            "atol_rmse": s.atol_rmse / self.scale, "lam_path": lam_path, "patience": s.patience,
            "finalize": s.finalize, "balance": s.pure, "by_degree": self.uneven,
            "n_threads": s.n_threads, "seed": int(self.rng.integers(2**63)),
            "maxiter": maxiter if maxiter is not None else self._maxiter(init, rank, len(lam_path)),
        }  # fmt: skip
        if s.implicit:
            # sum c (p - x)^2 over all entries is the native error less the sum of the targets.
            options["constant"] = -float(train.values.sum(dtype=np.float64))
            options["weight"] = self.shape[0] * self.shape[1] + float(train.weights.sum(dtype=np.float64))
        options["per_rank"] = 20 if self.oversampling(rank) < 3 else 8
        options |= more
        report = self.native.complete_matrix(
            train.by_rows(), train.by_columns(), None if held is None else held.by_rows(), *factors, options,
            None if self.monitor.silent else self._tell,
        )  # fmt: skip
        self.histories.append(report["history"])
        u, v, a, b = factors
        return _Run(u[:, : report["rank"]], v[:, : report["rank"]], a, b, report)

    def _path(self, path: Any, train: Entries) -> list[float]:
        if path is None:
            return []
        if path is True:
            share = len(train) / (self.shape[0] * self.shape[1])
            return [30 * share * 0.85**t for t in range(_PATH_LENGTH)]
        return list(path)

    def _maxiter(self, init: str, rank: int, path: int) -> int:
        if self.settings.maxiter is not None:
            return self.settings.maxiter
        if self.settings.lam > 0:
            return 30
        return 100 + path + (20 * rank if init == "rank_increment" else 0)

    def _tell(self, sweep: int, rank: int, lam: float, train: float, held: float) -> bool:
        return self.monitor(
            {"rank": rank, "lam": lam, "rmse_train": train * self.scale, "rmse_holdout": held * self.scale,
             "err": train}
        )  # fmt: skip

    # ---- strategies -------------------------------------------------------------------------------------

    def solve(self, init: Any) -> CompletionResult:
        s = self.settings
        if (s.robust or s.sample_splitting or s.rank == "auto") and not (
            isinstance(init, str) and init == "auto"
        ):
            raise ValueError(
                f'`init` must be "auto" with `robust`, `sample_splitting` and `rank="auto"`; got {init!r:.60}'
            )
        if s.robust:
            run, held, recovered = self._robust()
            result = self._finish(run)
            if held is not None:
                result.rmse_holdout = held * self.scale
            if not recovered and result.status != Status.STOPPED_BY_CALLBACK:
                result.success, result.status = False, Status.STAGNATED
                result.message = "the holdout error says that the matrix was not recovered"
            return result
        if s.sample_splitting:
            return self._finish(self._splitting())
        if s.rank == "auto":
            run, path = self._raise_rank()
            result = self._finish(run)
            result.holdout_path = np.array(path) * self.scale
            return result
        factors, start, more = self._start(init)
        return self._finish(self.run(factors, start, held=self.held, path=s.lam_path, **more))

    def _start(self, init: Any) -> tuple[tuple[Any, Any, Any, Any], str, dict[str, Any]]:
        s = self.settings
        assert isinstance(s.rank, int)
        if isinstance(init, str):
            name = _validate.choice("init", init, _INITS)
            if name == "auto":
                name = "spectral" if s.pure else "random"
            factors = self.zeros(s.rank)
            if name == "spectral" and s.loss != "linear":
                return self._bounded_start(factors), "given", {}
            if s.nonneg:
                if name != "random" and init != "auto":
                    raise ValueError(f"`nonneg` starts from random factors; got init={init!r}")
                self._random_nonneg(factors)
                return factors, "given", {}
            return factors, name, {}
        return self._warm(init, s.rank)

    def _bounded_start(self, factors: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        """A spectral start from values within three robust standard deviations: outliers lead it else."""
        xp, values = self.xp, self.train.values
        bound = 3 * 1.4826 * float(xp.median(xp.abs(values)))
        bounded = self.train.with_values(xp.clip(values, -bound, bound) if bound > 0 else values)
        self.run(factors, "spectral", train=bounded, maxiter=0, finalize=False)
        return factors

    def _random_nonneg(self, factors: tuple[Any, Any, Any, Any]) -> None:
        u, v = factors[:2]
        level = max(float(self.train.values.mean(dtype=np.float64)), 1e-3) / u.shape[1]
        for f in (u, v):
            f[...] = self.xp.asarray(self.rng.random(f.shape) * 2 * math.sqrt(level), dtype=self.dtype)

    def _warm(self, init: Any, rank: int) -> tuple[tuple[Any, Any, Any, Any], str, dict[str, Any]]:
        """Factors from a caller: with more columns than `rank` the leading part, with fewer raised to it."""
        xp, s = self.xp, self.settings
        biases: tuple[Any, Any] = (None, None)
        if isinstance(init, CompletionResult):
            given, biases = (init.U, init.V), (init.row_bias, init.col_bias)
        else:
            try:
                given = tuple(init)
            except TypeError:
                raise TypeError(
                    f"`init` must be one of {', '.join(map(repr, _INITS))}, a pair (U0, V0) or a "
                    f"CompletionResult, not {type(init).__name__}"
                ) from None
            if len(given) != 2:
                raise ValueError(f"`init` has {len(given)} items; a pair (U0, V0) is needed")
        backend = _dispatch.select(M=self.train.values, init=given[0])
        u0, v0 = (
            _validate.as_float_array(f"init[{i}]", backend.take("init", f), ndim=2, dtype=self.dtype, xp=xp)
            for i, f in enumerate(given)
        )
        if u0.shape != (self.shape[0], u0.shape[1]) or v0.shape != (self.shape[1], u0.shape[1]):
            raise ValueError(
                f"`init` has factors of shapes {tuple(u0.shape)} and {tuple(v0.shape)}; "
                f"({self.shape[0]}, k) and ({self.shape[1]}, k) are needed"
            )
        if s.nonneg:
            u0, v0 = xp.maximum(u0, 0), xp.maximum(v0, 0)
        elif u0.shape[1] > rank:
            u0, v0, _ = balance(u0, v0, xp)
        found = min(rank, u0.shape[1])
        root = self.dtype.type(math.sqrt(1 / self.scale))
        factors = self.zeros(rank)
        factors[0][:, :found], factors[1][:, :found] = u0[:, :found] * root, v0[:, :found] * root
        for to, bias in zip(factors[2:], biases, strict=True):
            if s.bias and bias is not None:
                to[...] = bias / self.dtype.type(self.scale)
        if found == rank or s.nonneg:
            return factors, "given", {}
        return factors, "rank_increment", {"from_rank": found}

    def _robust(self) -> tuple[_Run, float | None, bool]:
        """The better of two strategies by a holdout, refitted to all entries."""
        s = self.settings
        assert isinstance(s.rank, int)
        if self.held is None:
            count = max(1, round(_ROBUST_HOLDOUT * len(self.train)))
            part, held = _hold_out(self.train, count, self.rng)
        else:
            part, held = self.train, self.held
        # Patience without end: the holdout judges the end of a run, not its way there.
        rules: dict[str, Any] = {"train": part, "held": held, "patience": 2**31 - 1}
        path = True if s.lam_path is None else s.lam_path
        best = self.run(self.zeros(s.rank), "spectral", path=path, **rules)

        def failed(run: _Run) -> bool:
            error = run.report["rmse_holdout"]
            return not error <= max(2 * run.report["rmse_train"], 1e-6)

        if failed(best) and best.report["ending"] != "callback":
            other = self.run(self.zeros(s.rank), "rank_increment", **rules)
            if other.report["rmse_holdout"] < best.report["rmse_holdout"]:
                best = other
        held_error, recovered = best.report["rmse_holdout"], not failed(best)
        if self.held is None and best.report["ending"] != "callback":
            best = self.run(self.factors_of(best, best.u.shape[1]), "given")
        return best, held_error, recovered

    def _raise_rank(self) -> tuple[_Run, list[float]]:
        """Rank 1, 2, ... until the holdout error has not fallen by `rank_tol` for two ranks."""
        s = self.settings
        assert s.max_rank is not None
        path: list[float] = []
        best: _Run | None = None
        last: _Run | None = None
        left = math.inf if s.maxiter is None else s.maxiter
        for rank in range(1, s.max_rank + 1):
            factors = self.zeros(rank) if last is None else self.factors_of(last, rank)
            found = 0 if last is None else last.u.shape[1]
            last = self.run(
                factors, "rank_increment", held=self.held, from_rank=found, maxiter=int(min(20, left))
            )
            left -= last.report["nit"]
            path.append(last.report["rmse_holdout"])
            if best is None or path[-1] < best.report["rmse_holdout"] * (1 - s.rank_tol):
                best = last
            if rank - best.u.shape[1] >= 2 or last.report["ending"] == "callback" or left <= 0:
                break
            if last.u.shape[1] < rank:  # the data do not support this rank
                break
        assert best is not None
        assert last is not None
        if last.report["ending"] == "callback" or left <= 0:
            best.report |= {"ending": last.report["ending"], "status": last.report["status"]}
            return best, path
        factors = self.factors_of(best, best.u.shape[1])
        rest = None if math.isinf(left) else int(left)
        return self.run(factors, "given", held=self.held, maxiter=rest), path

    def _splitting(self) -> _Run:
        """Each half sweep on a part of the entries of its own, as the analysis has it."""
        s = self.settings
        assert isinstance(s.rank, int)
        sweeps = 8 if s.maxiter is None else s.maxiter
        part = self.xp.asarray(self.rng.integers(0, 2 * sweeps + 1, size=len(self.train)))
        u, v, a, b = factors = self.zeros(s.rank)
        run = self.run(factors, "spectral", train=self._part(part == 0), maxiter=0, finalize=False)
        start, history = time.perf_counter(), []
        half = s.half | {
            "inner": s.inner_for(s.rank, self.dtype, self.xp is not np),
            "n_threads": s.n_threads,
        }
        for t in range(sweeps):
            odd, even = (self._part(part == 2 * t + 1 + i) for i in range(2))
            self.native.als_half_sweep(odd.by_columns(), u, a, v, b, half)
            v[...] = self.xp.linalg.qr(v)[0]
            self.native.als_half_sweep(even.by_rows(), v, b, u, a, half)
            # Errors on all entries.
            run = self.run(factors, "given", held=self.held, maxiter=0, finalize=False)
            train, held = run.report["rmse_train"], run.report["rmse_holdout"]
            history.append((train, math.nan if self.held is None else held, time.perf_counter() - start))
            if not self.monitor.silent and self._tell(t + 1, s.rank, 0.0, train, history[-1][1]):
                run.report |= {"ending": "callback", "status": int(Status.STOPPED_BY_CALLBACK)}
                break
            if t + 1 < sweeps:
                u[...] = self.xp.linalg.qr(u)[0]
        count = len(history)
        columns = (
            [np.array(column) for column in zip(*history, strict=True)] if history else [np.empty(0)] * 3
        )
        self.histories = [
            {
                "rmse_train": columns[0], "rmse_holdout": columns[1], "time": columns[2],
                "lam": np.zeros(count), "rank": np.full(count, s.rank),
                "inner_iterations": np.zeros(count, int),
            }
        ]  # fmt: skip
        return _Run(u, v, a, b, run.report)

    def _part(self, mask: Any) -> Entries:
        part = self.train.subset(mask)
        if len(part) == 0:
            raise ValueError(
                f"`sample_splitting` leaves a part without entries: {len(self.train)} entries are too few"
            )
        return part

    # ---- the answer -------------------------------------------------------------------------------------

    def _finish(self, run: _Run) -> CompletionResult:
        s, xp, report = self.settings, self.xp, run.report
        root = self.dtype.type(math.sqrt(self.scale))
        u, v = run.u * root, run.v * root
        u, v, values = finished(u, v, xp, nonneg=s.nonneg, weighted=s.half["lam_by_degree"] and s.lam > 0)
        status = Status(report["status"])
        rank = u.shape[1]
        row_bias, col_bias = (run.a * self.dtype.type(self.scale), run.b * self.dtype.type(self.scale))
        result = CompletionResult(
            U=u, V=v, s=values, row_bias=row_bias if s.bias else None, col_bias=col_bias if s.bias else None,
            mu=self.mu, rank=rank, success=status == Status.CONVERGED, status=status,
            message=ENDINGS[report["ending"]],
        )  # fmt: skip
        result.nit = sum(len(h["rmse_train"]) for h in self.histories)
        result.rmse_train = report["rmse_train"] if s.implicit else self._rmse(self.given, result)
        result.rmse_holdout = float("nan") if self.held is None else report["rmse_holdout"] * self.scale
        loss = report["loss"] * self.scale ** (1 if s.loss == "l1" else 2)
        weights = [xp.asarray(d) if s.half["lam_by_degree"] else 1.0 for d in self.degrees]
        result.fun = loss + penalty((u, v), result._biases(), weights, s.lam)
        result.oversampling = self.oversampling(max(rank, 1))
        unknowns = rank + int(s.bias)
        result.n_underdetermined = (
            sum(int(((d > 0) & (d < unknowns)).sum()) for d in self.degrees)
            if s.lam == 0 and not s.implicit
            else 0
        )
        result.n_empty_rows, result.n_empty_cols = (int((d == 0).sum()) for d in self.degrees)
        result.n_pivot_retries = report["n_pivot_retries"]
        result.history = self._history()
        result._options = {
            "lam": s.lam, "lam_scaling": "degree" if s.half["lam_by_degree"] else "none", "nonneg": s.nonneg,
            "implicit": s.implicit, "alpha": s.alpha,
        }  # fmt: skip
        return result

    def _rmse(self, entries: Entries, result: CompletionResult) -> float:
        """Of the factors returned, on the entries given."""
        entries = entries.with_values(entries.values - self.dtype.type(self.mu), entries.weights)
        total = self.native.completion_error(
            entries.by_rows(), result.U, result.V, *result._biases(), self.settings.n_threads
        )
        weight = len(entries) if entries.weights is None else float(entries.weights.sum(dtype=np.float64))
        return math.sqrt(total / weight) if weight > 0 else 0.0

    def _history(self) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for name in ("rmse_train", "rmse_holdout", "lam", "rank", "inner_iterations", "time"):
            parts = []
            for h in self.histories:
                column = np.asarray(h[name], dtype=float if name[0] in "rlt" and name != "rank" else int)
                if name == "rmse_holdout":
                    column = np.pad(column, (0, len(h["rmse_train"]) - len(column)), constant_values=np.nan)
                parts.append(column * self.scale if name.startswith("rmse") else column)
            out[name] = np.concatenate(parts) if parts else np.empty(0)
        return out

    def warn(self, result: CompletionResult) -> None:
        """Say what did not work, and what the data may not determine."""
        s = self.settings
        if not result.success and result.status != Status.STOPPED_BY_CALLBACK and not s.sample_splitting:
            if s.robust and result.status == Status.STAGNATED:
                text = (
                    f"{result.message}: RMSE {result.rmse_holdout:.3g} on the holdout, "
                    f"{result.rmse_train:.3g} in training. More entries, or a smaller `rank`, would help."
                )
            else:
                changes = result.history["rmse_train"][-2:]
                change = (
                    abs(changes[0] - changes[-1]) / changes[-1] if len(changes) == 2 and changes[-1] else 0.0
                )
                text = (
                    f"{result.message}; the training RMSE {result.rmse_train:.3g} changed by {change:.2g} "
                    f"(relative) in the last sweep, `tol` is {s.tol:.2g}. {result.status.advice}"
                )
            warnings.warn(f"matrix_completion: {text}", ConvergenceWarning, stacklevel=_caller_stacklevel())
        doubts = []
        if s.pure:
            doubts = doubts_of_recovery(result, len(self.train))
            if isinstance(s.rank, int) and result.rank < s.rank:
                doubts.append(
                    f"the entries fix only rank {result.rank} of the {s.rank} asked for: what is beyond is "
                    "below rounding"
                )
        warn_of_doubts(result, doubts, implicit=s.implicit)


def doubts_of_recovery(result: CompletionResult, count: int) -> list[str]:
    """Why `count` entries may not determine an answer that nothing penalises."""
    doubts = []
    if result.oversampling < 1.5:
        doubts.append(
            f"{count} entries are {result.oversampling:.2f} per degree of freedom of rank {result.rank}, and "
            "recovery needs 1.5 or more"
        )
    if result.n_underdetermined:
        doubts.append(f"{result.n_underdetermined} rows or columns have fewer entries than unknowns")
    return doubts


def warn_of_doubts(result: CompletionResult, doubts: list[str], *, implicit: bool) -> None:
    """Issue a `RecoveryWarning` for them, and for rows and columns without entries."""
    advice = " A smaller `rank` or `lam` > 0 makes the answer well determined." if doubts else ""
    if (result.n_empty_rows or result.n_empty_cols) and not implicit:
        empty = (
            f"{result.n_empty_rows} rows and {result.n_empty_cols} columns have no entry: their factors are 0"
        )
        doubts = [*doubts, empty]
    if doubts:
        warnings.warn(
            f"matrix_completion: {'; '.join(doubts)}.{advice}",
            RecoveryWarning,
            stacklevel=_caller_stacklevel(),
        )


__all__ = ["matrix_completion"]
