"""Solvers whose parameters a tuner chooses anew for every system of a sequence."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from .. import _validate
from .._result import Status
from ..tune import SORTuner
from ._gcrodr import gcrodr
from ._linear_result import LinearResult
from ._preconditioners import BY_NAME
from ._recycle_state import RecycleState
from ._relaxation import RelaxationSolver
from ._sequence_result import SequenceResult
from ._short import rcg

COSTS = ("iterations", "work", "seconds")
RELAXATION = ("ssor_cg", "sor")
_SETUP = 10.0  # products that making a preconditioner from entries is charged with
_LEAST = 50  # iterations before which no solve is cut, in whatever unit the limit comes


class Tuner(Protocol):
    """What `solve_sequence` asks of a tuner."""

    def suggest(self, context: float | None = None, *, return_token: bool = False) -> Any: ...
    def observe(self, cost: float, *, token: Any = None, failed: bool = False) -> Any: ...
    def best(self, context: float | None = None) -> Any: ...
    def limit(self) -> float | None: ...


class RelaxationCarrier:
    """SOR or SSOR-CG for the systems of a chain, with the set-ups that each combination of options needs."""

    def __init__(self, method: str, options: dict[str, Any]) -> None:
        self.method, self.options = method, options
        self._solvers: dict[Any, RelaxationSolver] = {}
        self._solver(self.options)  # complain before the first solve

    def _solver(self, options: dict[str, Any]) -> RelaxationSolver:
        own = {k: v for k, v in options.items() if k not in ("omega", "shift")}
        key = tuple(sorted((k, v if _hashable(v) else id(v)) for k, v in own.items()))
        if key not in self._solvers:
            self._solvers[key] = RelaxationSolver(self.method, **own)
        return self._solvers[key]

    def solve(
        self,
        A: Any,
        b: Any,
        x0: Any = None,
        *,
        params: Any = None,
        arm: dict[str, Any] | None = None,
        maxiter: int | None = None,
    ) -> LinearResult:
        """Solve one system; `arm` holds options that replace the chain's."""
        options = self.options | (arm or {})
        return self._solver(options).solve(
            A,
            b,
            x0,
            omega=options.get("omega", 1.0),
            shift=options.get("shift", 0.0),
            maxiter=maxiter,
        )


class KrylovCarrier:
    """GCRO-DR, GMRES or recycled CG with options that may change from system to system."""

    def __init__(self, method: str, options: dict[str, Any]) -> None:
        self.method, self.options = method, options
        self._state = RecycleState()
        self._inverses: dict[str, Any] = {}

    def solve(
        self,
        A: Any,
        b: Any,
        x0: Any = None,
        *,
        params: Any = None,
        arm: dict[str, Any] | None = None,
        maxiter: int | None = None,
    ) -> LinearResult:
        """Solve one system; `arm` holds options that replace the chain's."""
        options = self.options | (arm or {})
        if maxiter is not None:
            options["maxiter"] = maxiter
        options["M"] = self._inverse(options.get("M"), A)
        if self.method == "rcg":
            return rcg(A, b, x0, recycle=self._state, **options)
        if self.method == "gmres" or options.get("recycle_dim") == 0:
            return gcrodr(A, b, x0, **(options | {"recycle_dim": 0}))
        restart = options.get("restart", 40)
        options["recycle_dim"] = min(options.get("recycle_dim", 20), restart - 1)
        return gcrodr(A, b, x0, recycle=self._state, **options)

    def _inverse(self, M: Any, A: Any) -> Any:
        """A preconditioner by name is made once and renewed while the pattern stays."""
        if not isinstance(M, str) or M == "none":
            return M(A) if callable(M) and not hasattr(M, "matvec") else M
        _validate.choice("M", M, ["none", *BY_NAME])
        known = self._inverses.get(M)
        if known is not None:
            try:
                return known.update(A)
            except ValueError as error:
                if "another pattern" not in str(error):
                    raise
        self._inverses[M] = BY_NAME[M](A)
        return self._inverses[M]


class TunedCarrier:
    """Solves each system with the arm that the tuner suggests, and tells it what that cost.

    A solve that exceeds the tuner's limit goes on from where it is with the best arm known, and one that
    fails is done again with that arm; in both cases the arm first chosen is charged with all of it.
    """

    def __init__(
        self,
        tuner: Tuner,
        solver: Any,
        cost: str,
        tuned: str,
        options: dict[str, Any],
        call: Callable[..., Any],
    ) -> None:
        self.tuner, self.tuned = tuner, tuned
        self.cost = _validate.choice("cost", cost, COSTS)
        self.user = solver if callable(solver) else None
        self.options = options
        self._call = call
        self.carrier: RelaxationCarrier | KrylovCarrier | None = None
        if not callable(solver):
            kind = RelaxationCarrier if solver in RELAXATION else KrylovCarrier
            base = {k: v for k, v in options.items() if k != tuned}
            self.carrier = kind(solver, base)
        # A tuner that says so itself takes none, whatever the systems bring along.
        self._without_context = getattr(tuner, "context", True) is None
        self.arms: list[Any] = []
        self.contexts: list[float] = []
        self.costs: list[float] = []
        self.seconds = 0.0  # spent in the tuner
        self._rates: deque[float] = deque(maxlen=101)  # cost per iteration of the last solves
        self._last: dict[str, Any] = {}  # options of the last run

    def solve(
        self, A: Any, b: Any, x0: Any = None, *, params: Any = None, context: Any = None
    ) -> LinearResult:
        begin = time.perf_counter()
        known = np.nan if context is None else float(context)
        if self._without_context:
            context = None
        arm, token = self.tuner.suggest(context, return_token=True)
        limit = self.tuner.limit()
        self.seconds += time.perf_counter() - begin
        try:
            result, cost, failed = self._attempts(A, b, x0, arm, limit, context)
        except Exception:  # the tuner is not left waiting
            self.tuner.observe(self._worst(), token=token, failed=True)
            raise
        except BaseException:  # Ctrl-C is nobody's fault
            if callable(forget := getattr(self.tuner, "discard", None)):
                forget(token)
            raise
        begin = time.perf_counter()
        self.tuner.observe(cost, token=token, failed=failed)
        self.seconds += time.perf_counter() - begin
        self.arms.append(arm)
        self.contexts.append(known)
        self.costs.append(cost)
        return result

    def report(self, result: SequenceResult) -> None:
        """What was played and what it cost, into the result of the sequence."""
        numbers = all(isinstance(a, int | float) and not isinstance(a, bool) for a in self.arms)
        result.params = np.array(self.arms, dtype=np.float64) if numbers else list(self.arms)
        result.contexts = np.array(self.contexts)
        result.costs = np.array(self.costs)
        result.tuner, result.seconds_tuner = self.tuner, self.seconds

    def _worst(self) -> float:
        return max(self.costs, default=1.0)

    def _attempts(
        self, A: Any, b: Any, x0: Any, arm: Any, limit: float | None, context: Any
    ) -> tuple[LinearResult, float, bool]:
        start = time.perf_counter()
        given = self.options.get("maxiter")
        stop = self._iterations(limit)
        short = stop if given is None or (stop is not None and stop < given) else None
        result = self._run(arm, A, b, x0, short)
        work = self._work(result, A)
        nit, matvecs, failed = result.nit, result.matvecs, False
        if not result.converged and result.status != Status.STOPPED_BY_CALLBACK:
            cut = short is not None and result.status == Status.MAX_ITERATIONS
            safe = self.tuner.best(context)
            if not cut and self.tuned == "omega" and not _differ(safe, arm):
                safe = 1.0
            failed = not cut
            if cut or _differ(safe, arm):
                begin = result.x if cut else x0
                rest = None if given is None else max(given - (nit if cut else 0), 1)
                result = self._run(safe, A, b, begin, rest)
                work += self._work(result, A)
                nit, matvecs = nit + result.nit, matvecs + result.matvecs
                failed = failed or not result.converged
        seconds = time.perf_counter() - start
        result.nit, result.matvecs, result.time = nit, matvecs, seconds
        cost = {"iterations": float(nit), "work": work, "seconds": seconds}[self.cost]
        if nit > 0:
            self._rates.append(cost / nit)
        return result, cost, failed

    def _iterations(self, limit: float | None) -> int | None:
        """The tuner's limit as a number of iterations."""
        if limit is None or not math.isfinite(limit) or self.user is not None:
            return None
        if self.cost == "iterations":
            return max(math.ceil(limit), 1)
        rate = statistics.median(self._rates) if self._rates else 0.0  # as robust as the limit's own median
        # What setting up took is in the rates, and short solves vary: a floor in iterations.
        return max(math.ceil(limit / rate), _LEAST) if rate > 0 else None

    def _run(self, arm: Any, A: Any, b: Any, x0: Any, maxiter: int | None) -> LinearResult:
        changed = dict(arm) if isinstance(arm, dict) else {self.tuned: arm}
        self._last = self.options | changed
        if self.user is not None:
            answer: LinearResult = self._call(self.user, A, b, x0, self._last)
            return answer
        assert self.carrier is not None
        return self.carrier.solve(A, b, x0, arm=changed, maxiter=maxiter)

    def _work(self, result: LinearResult, A: Any) -> float:
        """Flops of a solve in units of one product with A; passes over vectors and set-ups included."""
        if self.cost != "work":
            return 0.0
        n = len(np.asarray(result.x).ravel())
        nnz = float(A.nnz) if sparse.issparse(A) else float(n) * n
        vector = n / nnz  # 2 n flops
        if isinstance(self.carrier, RelaxationCarrier):
            if self.carrier.method == "sor":
                return result.matvecs * (1 + vector)
            return result.matvecs + result.nit * 8 * vector
        given = getattr(result, "work", None)
        if given is not None:
            return float(given)
        if self.carrier is None:
            return result.matvecs + result.nit * 3 * vector
        basis = self._last.get("restart", 40) / 2 + self._last.get("recycle_dim", 20)
        return 2 * result.matvecs + result.nit * 2 * basis * vector + _SETUP


def make_tuner(tuner: Any, contexts: np.ndarray | None) -> Tuner:
    """A tuner of omega by its method's name, or the one given."""
    if isinstance(tuner, str):
        finite = None if contexts is None else contexts[np.isfinite(contexts)]
        takes_one = tuner not in ("tsallis", "thompson")
        if not takes_one or finite is None or finite.size == 0 or finite.min() == finite.max():
            made: Tuner = SORTuner(method=tuner, rng=0)
        else:
            made = SORTuner(method=tuner, context=(float(finite.min()), float(finite.max())), rng=0)
        return made
    for name in ("suggest", "observe", "best", "limit"):
        if not callable(getattr(tuner, name, None)):
            raise TypeError(
                f"`tuner` must be a BanditTuner or the name of a method, not {type(tuner).__name__}"
            )
    checked: Tuner = tuner
    return checked


def _differ(a: Any, b: Any) -> bool:
    return type(a) is not type(b) or a != b


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


__all__ = ["COSTS", "RELAXATION", "KrylovCarrier", "RelaxationCarrier", "TunedCarrier", "make_tuner"]
