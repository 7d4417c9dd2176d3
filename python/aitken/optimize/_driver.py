"""The loop: barrier problems in a row, Newton directions, a globalised step, restoration where none is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._result import Status
from ._barrier import BOUND_GIVE, Barrier, Direction, NewtonSystem, Point
from ._certificate import certify, settled
from ._globalization import ExactMerit, Filter, make_filter, violation
from ._linear import CurvatureError, LinearSolver, NewtonStep, NonFiniteError

_MU_FACTOR, _MU_POWER = 0.2, 1.5
_BARRIER_ACCURACY = 10.0  # a barrier problem is solved to this many mu
_FRACTION_TO_BOUNDARY = 0.99
_SHORTEST_STEP = 1e-12
_SHORT = 0.3  # of the longest step: three such in a row, and the merit function is given up
_MAX_CORRECTIONS = 4
_CORRECTION_GAIN = 0.99
_MULTIPLIER_LIMIT = 1e3  # least-squares multipliers beyond are not trusted
_LARGE, _FAR = 1e20, 1e15  # of the objective, downwards, and of the variables: no bound in sight
_EPS = float(np.finfo(float).eps)
_CREEP_STEP, _CREEP_COUNT = 0.1, 4
_ERROR_DECREASE = 0.999


@dataclass
class Options:
    """What the user may set; see `sketched_newton`."""

    tol: float = 1e-6
    constr_tol: float = 1e-6
    xtol: float = 0.0
    maxiter: int = 1000
    globalization: str = "auto"
    eta1: float = 1.0
    eta2: float = 0.1
    nu: float = 1.5
    beta: float = 0.1
    kappa: float = 0.1
    xi_B: float | None = None  # 0.1 with the merit function, 1e-4 with the filter
    mu_init: float = 0.1
    push: float = 1e-2
    relax_penalties: bool = False


@dataclass
class Counters:
    """What happened on the way."""

    restorations: int = 0
    corrections: int = 0
    fallbacks: int = 0  # merit function given up for the filter
    inner_iters: int = 0
    shifts: int = 0
    dependent: bool = False  # constraint gradients were found dependent


@dataclass
class Record:
    """One iteration, for histories, callbacks and log lines."""

    point: Point
    mu: float
    dual: float
    primal: float
    complementarity: float
    alpha: float
    t: float
    rtol: float
    nit: int
    mark: str
    length: float = 0.0  # of the last step, infinity norm


@dataclass
class Outcome:
    """How a run ended."""

    point: Point
    status: Status
    reason: str
    nit: int
    mu: float


class NonFiniteStart(Exception):
    """The functions are not numbers at the first point, which is kept in `point`."""

    def __init__(self, point: Point) -> None:
        super().__init__("objective, constraints or derivatives are not finite at the start")
        self.point = point


class Driver:
    """One run of the method on one problem.

    Parameters
    ----------
    problem : Problem
        Scaled, with its bounds.
    options : Options
        Tolerances and parameters.
    linear : LinearSolver
        Solves Newton systems; keeps what can be used again.
    watch : callable or None
        ``watch(record)`` after every iterate; True ends the run with status STOPPED_BY_CALLBACK.
    restore : callable or None
        Finds a less infeasible point; None where this run is itself a restoration.
    """

    def __init__(
        self,
        problem: Any,
        options: Options,
        linear: LinearSolver,
        watch: Callable[[Record], bool] | None = None,
        restore: Callable[..., Point | None] | None = None,
    ) -> None:
        self.problem, self.options, self.linear = problem, options, linear
        self.watch, self.restore = watch, restore
        strict = bool(problem.keep_feasible.any())  # no evaluation outside, not even by rounding
        self.barrier = Barrier(problem, 0.0 if strict else BOUND_GIVE, 0.1 * options.constr_tol)
        self.counters = Counters()
        self.merit = ExactMerit(options.eta1, options.eta2, options.nu, options.beta)
        kind = options.globalization
        self.use_merit = kind == "merit" or (kind == "auto" and self.barrier.n_bounds == 0)
        self.prefers_filter = not self.use_merit
        if options.xi_B is None:
            linear.xi_B = 0.1 if self.use_merit else 1e-4
        self.filter: Filter | None = None
        self.short_steps = 0
        self.tiny_steps = 0
        self.creeping = 0
        self.longest = 1.0  # what the last step could have been
        self.undefined = 0  # trial points where the functions were not numbers

    # ---- start ------------------------------------------------------------------------------------------

    def start(
        self, x0: np.ndarray, lam0: np.ndarray | None = None, warm: dict[str, Any] | None = None
    ) -> tuple[Point, float | None]:
        """First iterate, inside its bounds, and the barrier parameter where it is not the default.

        Slacks are the constraints' values, bound multipliers one, lam that of least squares; `warm` replaces
        what it holds.
        """
        b = self.barrier
        push = self.options.push if warm is None else warm["push"]
        w = b.interior(np.concatenate([x0, np.zeros(len(b.rows))]), push, push)
        point = Point(w, np.zeros(b.m), b.has_lo.astype(float), b.has_hi.astype(float))
        b.evaluate(point)
        if not point.is_finite():
            raise NonFiniteStart(b.differentiate(point))
        point.w[b.n :] = point.c[b.rows] if warm is None else warm["slack"]
        point.w = b.interior(point.w, push, push)
        b.differentiate(point)
        if not _finite(point):
            raise NonFiniteStart(point)
        if lam0 is None:
            self.estimate_multipliers(point)
        else:
            point.lam = lam0.copy()
        if warm is None:
            return point, None
        below, above = b.gaps(point.w)
        floor = 1e-3 * warm["mu"]
        point.zl = np.where(b.has_lo, np.maximum(warm["zl"], floor / np.maximum(below, 1e-300)), 0.0)
        point.zu = np.where(b.has_hi, np.maximum(warm["zu"], floor / np.maximum(above, 1e-300)), 0.0)
        return point, warm["mu"]

    def estimate_multipliers(self, point: Point) -> None:
        """Least-squares multipliers unless they are too large to be believed; then zero."""
        lam = self.linear.multipliers(self.barrier, point)
        believed = lam is not None and (not lam.size or np.abs(lam).max() <= _MULTIPLIER_LIMIT)
        point.lam = lam if believed and lam is not None else np.zeros(self.barrier.m)

    # ---- the loop ---------------------------------------------------------------------------------------

    def run(self, point: Point, mu: float | None = None) -> Outcome:
        """Iterate from `point`."""
        o, b = self.options, self.barrier
        mu = (o.mu_init if mu is None else mu) if b.n_bounds else 0.0
        # Inexact directions cannot tell gaps much smaller than the tolerance from rounding.
        depth = 1e-3 if self.linear.is_exact else 0.1
        mu_min = max(1e-18, depth * min(o.tol, o.constr_tol) * min(1.0, self.problem.sf))
        alpha, t, rtol, mark, nit, length, still = 0.0, 0.0, 0.0, "", 0, 0.0, 0
        if b.n == 0:
            return self.nothing_free(point, mu)
        self.filter = make_filter(b, point)
        far = _FAR * max(1.0, float(np.abs(point.w[: b.n]).max(initial=0.0)))
        best, least = point, np.inf
        while True:
            errors = b.errors(point, 0.0)
            record = Record(point, mu, *errors, alpha, t, rtol, nit, mark, length)
            if self.watch is not None and self.watch(record):
                return Outcome(point, Status.STOPPED_BY_CALLBACK, "", nit, mu)
            if self.converged(point, errors):
                return Outcome(point, Status.CONVERGED, "", nit, mu)
            if np.abs(point.w[: b.n]).max(initial=0.0) > far or point.f < -_LARGE:
                return Outcome(
                    point, Status.DIVERGED, "the objective falls or the variables grow on", nit, mu
                )
            if max(errors) < least:
                best, least = point, max(errors)
            if nit >= o.maxiter:
                return Outcome(best, Status.MAX_ITERATIONS, "", nit, mu)
            while mu > mu_min and (b.error(point, mu) <= _BARRIER_ACCURACY * mu or self.tiny_steps > 1):
                self.tiny_steps = 0
                mu = max(mu_min, min(_MU_FACTOR * mu, mu**_MU_POWER))
                if self.problem.follow_barrier(mu):  # its objective depends on mu
                    b.differentiate(b.evaluate(point))
                self.filter = make_filter(b, point)
                self.short_steps = 0
            H = self.problem.hessian(point.w[: b.n], point.lam)
            moved = self.iterate(point, H, mu)
            if isinstance(moved, Outcome):
                keep = moved.status is Status.CONVERGED
                return replace(moved, point=moved.point if keep else best, nit=nit, mu=mu)
            dx = moved[0].w[: b.n] - point.w[: b.n]
            length = float(np.abs(dx).max(initial=0.0))
            small = np.linalg.norm(dx) <= o.xtol * (1.0 + np.linalg.norm(point.w[: b.n]))
            still = still + 1 if small and o.xtol > 0 else 0
            point, alpha, t, rtol, mark = moved
            nit += 1
            if still >= 3:
                return Outcome(point, Status.STAGNATED, "three steps in a row were within `xtol`", nit, mu)

    def nothing_free(self, point: Point, mu: float) -> Outcome:
        """The end where all variables are fixed: the constraints hold or they do not."""
        p = self.problem
        point.lam, point.zl, point.zu = np.zeros(p.m), 0.0 * point.zl, 0.0 * point.zu
        excess = np.maximum(np.maximum(p.lower - point.c, point.c - p.upper), 0.0) / p.sc
        if excess.max(initial=0.0) <= self.options.constr_tol:
            return Outcome(point, Status.CONVERGED, "", 0, mu)
        return Outcome(point, Status.LOCALLY_INFEASIBLE, "no variable is free", 0, mu)

    def converged(self, point: Point, errors: tuple[float, float, float]) -> bool:
        """Scaled and unscaled optimality and feasibility, each within its tolerance."""
        o = self.options
        dual, primal, complementarity = errors
        if dual > o.tol or complementarity > o.tol or primal > o.constr_tol:
            return False
        # What is returned lies inside the bounds as they were given; steep functions tell the difference.
        b = self.barrier
        x = np.clip(point.w[: b.n], self.problem.xl, self.problem.xu)
        lam = settled(self.problem, x, point.lam, o.tol)
        found = certify(self.problem, x, lam, point.zl[: b.n], point.zu[: b.n])
        if found.within(o.tol, o.constr_tol):
            return True
        if b.give > 0 and b.n_bounds:
            b.give = 0.0
            b.place_bounds()
            point.w = b.interior(point.w, 1e-12, 1e-12)
            b.differentiate(b.evaluate(point))
            return self.converged(point, b.errors(point, 0.0))
        return False

    def iterate(self, point: Point, H: Any, mu: float) -> tuple[Point, float, float, float, str] | Outcome:
        """One step from `point`, or how the run ends."""
        system = NewtonSystem(self.barrier, point, H, mu)
        try:
            self.linear.at(point.w[: self.barrier.n])
            newton = self.linear.newton(system, self.counters)
        except NonFiniteError as error:
            return Outcome(point, Status.NONFINITE, str(error), 0, mu)
        except CurvatureError as error:
            found = self.restored(point, mu)
            if found is not None:
                return found, 1.0, 0.0, 0.0, "R"
            return Outcome(point, Status.STAGNATED, str(error), 0, mu)
        if self.is_tiny(point, newton.step):
            self.tiny_steps += 1
            if self.tiny_steps > 3:
                return self.stuck(point, mu, "steps have become as small as rounding")
        else:
            self.tiny_steps = 0
        mark = ""
        new, alpha = None, 0.0
        if self.use_merit:
            new, alpha, newton = self.search_merit(system, newton)
            mark = "m"
            if new is None or self.short_steps >= 3:
                self.use_merit = False
                self.counters.fallbacks += 1
                self.filter = make_filter(self.barrier, point)
        if new is None:
            new, alpha, mark = self.search_filter(system, newton)
        if new is not None and self.creeps(point, new, alpha):
            found = self.restored(new, mu)
            if found is not None:
                new, mark = found, "R"
            self.creeping = 0
        if new is None:
            new, alpha = self.search_error(system, newton)
            mark = "e"
        if new is None:
            found = self.restored(point, mu)
            if found is None:
                return self.stuck(point, mu, "no step reduces objective or violation")
            return found, 1.0, newton.t, newton.residual, "R"
        self.barrier.guard_multipliers(new, mu)
        self.learn(point, new)
        return new, alpha, newton.t, newton.residual, mark

    def creeps(self, point: Point, new: Point, alpha: float) -> bool:
        """Whether short steps hardly reduce a violation: linearised constraints that hold nowhere near."""
        if self.restore is None:
            return False
        now, before = violation(self.barrier, new), violation(self.barrier, point)
        slow = alpha < _CREEP_STEP * self.longest and now > 0.99 * before
        self.creeping = self.creeping + 1 if slow else 0
        return self.creeping >= _CREEP_COUNT

    def stuck(self, point: Point, mu: float, reason: str) -> Outcome:
        """The end where nothing helps, unless multipliers of least squares satisfy the conditions here."""
        lam = self.linear.multipliers(self.barrier, point)
        if lam is not None:
            better = replace(point, lam=lam)
            if self.converged(better, self.barrier.errors(better, 0.0)):
                return Outcome(better, Status.CONVERGED, "", 0, mu)
        return Outcome(point, Status.STAGNATED, reason, 0, mu)

    def is_tiny(self, point: Point, step: Direction) -> bool:
        return bool((np.abs(step.w) / (1.0 + np.abs(point.w))).max(initial=0.0) < 10 * _EPS)

    def learn(self, old: Point, new: Point) -> None:
        """Tell a Hessian made of updates what the gradient of the Lagrangian did."""
        if not self.problem.learns:
            return
        n = self.barrier.n
        b = self.barrier
        y = new.g + b.adjoint(new, new.lam)[:n] - old.g - b.adjoint(old, new.lam)[:n]
        self.problem.update(new.w[:n] - old.w[:n], y)

    # ---- steps ------------------------------------------------------------------------------------------

    def tau(self, mu: float) -> float:
        return max(_FRACTION_TO_BOUNDARY, 1.0 - mu)

    def complete(self, new: Point) -> bool:
        """Derivatives at a trial point; whether all of them are numbers."""
        self.barrier.differentiate(new)
        good = _finite(new)
        self.undefined += not good
        return good

    def search_merit(
        self, system: NewtonSystem, newton: NewtonStep
    ) -> tuple[Point | None, float, NewtonStep]:
        """Backtrack on the exact augmented Lagrangian; primal and dual share the step length."""
        b, point, mu = self.barrier, system.point, system.mu
        if self.options.relax_penalties:
            self.merit.relax()
        newton, ready = self.linear.improve(system, newton, self.merit, self.counters)
        if not ready:
            return None, 0.0, newton
        step = newton.step
        longest, alpha_dual = b.step_limits(point, step, self.tau(mu))
        self.longest = longest
        now = self.merit.value(b, point, mu)
        alpha = longest
        while alpha >= _SHORTEST_STEP:
            new = b.evaluate(b.advance(point, step, alpha, alpha_dual))
            bar = self.merit.bar(now, alpha)
            # The last term of M is never negative: where the rest is too high no derivative is needed.
            if new.is_finite() and self.merit.lower_bound(b, new, mu) <= bar and self.complete(new):
                if self.merit.value(b, new, mu) <= bar:
                    self.short_steps = self.short_steps + 1 if alpha < _SHORT * longest else 0
                    return new, alpha, newton
            alpha *= 0.5
        return None, 0.0, newton

    def search_filter(self, system: NewtonSystem, newton: NewtonStep) -> tuple[Point | None, float, str]:
        """Backtrack on the filter, with second-order corrections of the first trial."""
        b, point, mu, step = self.barrier, system.point, system.mu, newton.step
        filter_ = self.filter
        assert filter_ is not None
        theta, phi = violation(b, point), b.value(point, mu)
        slope = float(b.gradient(point, mu) @ step.w)
        longest, alpha_dual = b.step_limits(point, step, self.tau(mu))
        # Shorter than that and rounding takes what is left of the step.
        reach = float((np.abs(step.w) / (1.0 + np.abs(point.w))).max(initial=0.0))
        shortest = max(filter_.shortest_step(slope, theta), 10 * _EPS / max(reach, _EPS))
        self.longest = longest
        if self.tiny_steps:  # comparing values means nothing any more
            new = b.evaluate(b.advance(point, step, longest, alpha_dual))
            if new.is_finite() and self.complete(new):
                return new, longest, "t"
        alpha = longest
        while alpha >= shortest:
            new = b.evaluate(b.advance(point, step, alpha, alpha_dual))
            mark = "f"
            taken = self.take(filter_, theta, phi, slope, alpha, new, mu)
            if not taken and alpha == longest and new.is_finite() and violation(b, new) >= theta:
                corrected = self.correct(system, newton, new, theta, phi, slope, longest, alpha_dual)
                if corrected is not None:
                    new, taken, mark = corrected, True, "s"
            if taken:
                if not filter_.descended(theta, phi, slope, alpha, b.value(new, mu)):
                    filter_.add(theta, phi)
                    mark = mark.replace("f", "h")
                return new, alpha, mark
            alpha *= 0.5
        return None, 0.0, ""

    def search_error(self, system: NewtonSystem, newton: NewtonStep) -> tuple[Point | None, float]:
        """A few step lengths that reduce the optimality error itself, where rounding hides other progress."""
        b, point, mu = self.barrier, system.point, system.mu
        longest, alpha_dual = b.step_limits(point, newton.step, self.tau(mu))
        before = b.error(point, mu)
        for share in (1.0, 0.5, 0.25, 0.125):
            new = b.evaluate(b.advance(point, newton.step, share * longest, share * alpha_dual))
            if new.is_finite() and self.complete(new) and b.error(new, mu) <= _ERROR_DECREASE * before:
                return new, share * longest
        return None, 0.0

    def take(
        self, filter_: Filter, theta: float, phi: float, slope: float, alpha: float, new: Point, mu: float
    ) -> bool:
        b = self.barrier
        return (
            new.is_finite()
            and filter_.accepts(theta, phi, slope, alpha, violation(b, new), b.value(new, mu))
            and self.complete(new)
        )

    def correct(
        self,
        system: NewtonSystem,
        newton: NewtonStep,
        trial: Point,
        theta: float,
        phi: float,
        slope: float,
        alpha: float,
        alpha_dual: float,
    ) -> Point | None:
        """Second-order corrections: the step once more, with the constraint values met at its end."""
        b, point, mu = self.barrier, system.point, system.mu
        filter_ = self.filter
        assert filter_ is not None
        c = alpha * system.c + b.constraint(trial)
        last = violation(b, trial)
        for _ in range(_MAX_CORRECTIONS):
            self.counters.corrections += 1
            step = self.linear.again(system, c, self.counters)
            if step is None:
                return None
            length, dual = b.step_limits(point, step, self.tau(mu))
            new = b.evaluate(b.advance(point, step, length, dual))
            if self.take(filter_, theta, phi, slope, alpha, new, mu):
                return new
            if not new.is_finite():
                return None
            now = violation(b, new)
            if now > _CORRECTION_GAIN * last:
                return None
            last = now
            c = length * c + b.constraint(new)
        return None

    def restored(self, point: Point, mu: float) -> Point | None:
        """A point of less violation that the filter admits, complete with multipliers."""
        if self.restore is None or violation(self.barrier, point) <= 0.01 * self.options.constr_tol:
            return None
        self.counters.restorations += 1
        filter_ = self.filter
        assert filter_ is not None
        theta, phi = violation(self.barrier, point), self.barrier.value(point, mu)
        filter_.add(theta, phi)
        new = self.restore(self, point, mu)
        if new is None:
            return None
        self.barrier.guard_multipliers(new, mu)
        self.estimate_multipliers(new)
        return new


def _finite(point: Point) -> bool:
    """Whether gradient and Jacobian are numbers; operators cannot be looked into."""
    if not np.isfinite(point.g).all():
        return False
    J = point.J
    if isinstance(J, np.ndarray):
        return bool(np.isfinite(J).all())
    data = getattr(J, "data", None)
    return not isinstance(data, np.ndarray) or bool(np.isfinite(data).all())


__all__ = ["Counters", "Driver", "NonFiniteStart", "Options", "Outcome", "Record"]
