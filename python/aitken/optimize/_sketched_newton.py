"""`sketched_newton`: constrained minimisation with an exact augmented Lagrangian, sketches and safeguards."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.optimize import least_squares

from .. import _core, _dispatch, _validate
from .._progress import Monitor
from .._result import Status, _caller_stacklevel, warn_not_converged
from ._certificate import certify, settled
from ._check_derivatives import check_derivatives as compare_derivatives
from ._driver import Driver, NonFiniteStart, Options, Outcome, Record
from ._linear import LinearSolver
from ._problem import Problem
from ._restoration import Restoration
from ._result import OptimizationResult
from ._theory import TheoryOutcome, TheoryStep, minimize_theory

_SCALE_TARGET = 100.0  # gradients larger than this are scaled down to it
_SCALE_MIN, _SCALE_BEYOND = 1e-8, 1e12  # no less, unless a gradient is larger than the second
_DEPENDENT = 1e-9  # of unit rows: what is left of one after the others are taken out
_LARGEST_QR, _SMALL_QR = 4_000_000, 100_000
_LARGE_MULTIPLIERS = 10.0  # times what tolerances are meant for
_FEASIBILITY_STEPS = 100
_PERTURBATION = 0x6F70  # Philox purpose of perturbed starts
_WARM_PUSH, _WARM_MU = 1e-5, 1e-4

_ADVICE = {
    Status.STAGNATED: (
        "Check the derivatives (`check_derivatives=True`); with errors near the tolerance rounding is the "
        "limit: loosen it or rescale the problem; far above it, start elsewhere."
    ),
    Status.DIVERGED: "The problem may be unbounded: check the objective's sign, or bound the variables.",
    Status.NONFINITE: "Start where the functions are defined.",
}

# Options of SciPy's solvers that have no meaning here and are accepted, so that one argument switches.
_FOREIGN = (
    "return_all", "iprint", "eps", "ftol", "workers", "barrier_tol", "sparse_jacobian",
    "factorization_method", "initial_tr_radius", "initial_constr_penalty", "initial_barrier_parameter",
    "initial_barrier_tolerance", "maxfun",
)  # fmt: skip
_COLUMNS = {
    "objective": ".8e", "inf_pr": ".2e", "inf_du": ".2e", "mu": ".1e", "step": ".1e", "shift": ".1e",
    "alpha": ".1e", "how": "s",
}  # fmt: skip


class _Solve:
    """One call: scaling, the run, a second start where it fails, and the histories."""

    def __init__(
        self,
        problem: Problem,
        options: Options,
        linear: Callable[[], LinearSolver],
        seed: int,
        listen: Callable[[Driver, Record, int], bool],
    ) -> None:
        self.problem, self.options, self.linear, self.seed = problem, options, linear, seed
        self.listen = listen
        self.alphas: list[float] = []
        self.errors: list[float] = []
        self.rtols: list[float] = []
        self.nit = 0
        self.drivers: list[Driver] = []

    def run(
        self, x0: np.ndarray, lam0: np.ndarray | None, warm: dict[str, Any] | None
    ) -> tuple[Driver, Outcome]:
        """Runs until one succeeds or there is nothing left to try."""
        driver, outcome = self.attempt(x0, lam0, self.options, warm)
        left = self.options.maxiter - self.nit
        if outcome.status in (Status.STAGNATED, Status.LOCALLY_INFEASIBLE) and left > 0:
            # One more start, without multipliers: where least squares on the violation lead to a feasible
            # point from here, there; else near the first one.
            start = _feasible_point(self.problem, outcome.point.w[: len(x0)], self.options.constr_tol)
            if start is None:
                noise = _core.philox_normal(self.seed, _PERTURBATION, 0, 0, len(x0))
                start = x0 + 1e-2 * (1.0 + np.abs(x0)) * noise
            other = "merit" if driver.prefers_filter else "filter"
            options = replace(self.options, maxiter=left, globalization=other)
            again, second = self.attempt(start, np.zeros(self.problem.m), options, None)
            if second.status in (Status.CONVERGED, Status.STOPPED_BY_CALLBACK):
                return again, second
        return driver, outcome

    def attempt(
        self, x0: np.ndarray, lam0: np.ndarray | None, options: Options, warm: dict[str, Any] | None
    ) -> tuple[Driver, Outcome]:
        """One run of the driver."""
        restoration = Restoration()
        driver = Driver(self.problem, options, self.linear(), None, restoration)
        driver.watch = lambda record: self.watch(driver, record)
        self.drivers.append(driver)
        try:
            point, mu = driver.start(x0, lam0, warm)
        except NonFiniteStart as stop:
            return driver, Outcome(stop.point, Status.NONFINITE, str(stop), 0, 0.0)
        outcome = driver.run(point, mu)
        if outcome.status is Status.STAGNATED and restoration.infeasible:
            outcome.status = Status.LOCALLY_INFEASIBLE
            outcome.reason = "the violation of the constraints has a local minimum here"
            outcome.point = restoration.end or outcome.point
        return driver, outcome

    def watch(self, driver: Driver, record: Record) -> bool:
        """Keep the histories; pass the record on."""
        if record.nit:
            self.nit += 1
            self.alphas.append(record.alpha)
            self.errors.append(max(record.dual, record.primal, record.complementarity))
            self.rtols.append(record.rtol)
        return self.listen(driver, record, self.nit)


def _feasible_point(problem: Problem, x: np.ndarray, tol: float) -> np.ndarray | None:
    """Where the sum of squared violations leads from x within the bounds, if it vanishes there; else None."""
    if problem.m == 0 or problem.kind == "operator":
        return None

    def excess(z: np.ndarray) -> np.ndarray:
        c = problem.constraints(z)
        return c - np.clip(c, problem.lower, problem.upper)

    def slope(z: np.ndarray) -> Any:
        outside = (excess(z) != 0.0).astype(float)
        J = problem.jacobian(z)
        return sp.csr_array(sp.diags_array(outside) @ J) if sp.issparse(J) else outside[:, None] * J

    width = np.maximum(problem.xu - problem.xl, 0.0)
    inside = np.clip(
        x, problem.xl + np.minimum(1e-8, 0.25 * width), problem.xu - np.minimum(1e-8, 0.25 * width)
    )
    try:
        found = least_squares(
            excess, inside, slope, bounds=(problem.xl, problem.xu), max_nfev=_FEASIBILITY_STEPS
        )
    except ValueError:  # NaN on the way, or a start that is not inside
        return None
    return found.x if np.abs(excess(found.x) / problem.sc).max(initial=0.0) <= tol else None


def _scale(problem: Problem, x: np.ndarray) -> None:
    """Objective and rows so that no gradient at the start exceeds 100 in the infinity norm."""
    g, J = problem.derivatives(x)
    largest = float(np.abs(g).max(initial=0.0))
    sf = _SCALE_TARGET / largest if np.isfinite(largest) and largest > _SCALE_TARGET else 1.0
    sc = np.ones(problem.m)
    if problem.m and (isinstance(J, np.ndarray) or sp.issparse(J)):
        rows = abs(J).max(axis=1)
        rows = np.asarray(rows.todense() if sp.issparse(rows) else rows).ravel()
        large = (rows > _SCALE_TARGET) & np.isfinite(rows)
        sc[large] = _SCALE_TARGET / rows[large]
    if sf > _SCALE_TARGET / _SCALE_BEYOND:
        sf = max(sf, _SCALE_MIN)
    problem.set_scaling(sf, np.maximum(sc, _SCALE_MIN))


def sketched_newton(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    constraints: Any = (),
    bounds: Any = None,
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    *,
    lam0: Any = None,
    warm_start: OptimizationResult | None = None,
    kkt_solver: str = "auto",
    accuracy: str = "adaptive",
    globalization: str = "auto",
    lagrangian_hess: Callable[..., Any] | None = None,
    hess_sqrt: Callable[..., Any] | None = None,
    hess_sparsity: Any = None,
    sketch_size: int | None = None,
    rng: Any = None,
    maxiter: int | None = 1000,
    constr_tol: float | None = None,
    xtol: float = 0.0,
    eta1: float = 1.0,
    eta2: float = 0.1,
    nu: float = 1.5,
    beta: float = 0.1,
    kappa: float = 0.1,
    xi_B: float | None = None,
    mu_init: float = 0.1,
    relax_penalties: bool = False,
    scaling: bool = True,
    max_inner: int | None = None,
    finite_diff_rel_step: Any = None,
    check_derivatives: bool = False,
    verbose: int = 0,
    progress: bool = False,
    disp: bool = False,
    **options: Any,
) -> OptimizationResult:
    """Minimise a smooth function of several variables subject to constraints and bounds.

    A Newton method on the exact augmented Lagrangian of [1]_, whose linear systems may be solved inexactly,
    by sketches or otherwise. Inequalities and bounds are met through a primal-dual log barrier. Where the
    merit function makes steps too short a filter takes over, and where no step helps feasibility is restored.
    It is called as ``scipy.optimize.minimize`` is, or from it with ``method=sketched_newton``.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``, or ``(float, gradient)`` with ``jac=True``.
    x0 : array_like, shape (n,)
        Start; finite real numbers. Not modified.
    args : tuple, optional
        Further arguments of `fun`, `jac`, `hess`, `hessp`, `hess_sqrt`.
    jac : callable, True, {"2-point", "3-point", "cs"}, optional
        Gradient of `fun`, shape (n,); None means two-point differences.
    hess : callable, {"2-point", "3-point", "cs", "bfgs", "lbfgs"}, HessianUpdateStrategy, optional
        Hessian of `fun`, shape (n, n): array, sparse or LinearOperator. "bfgs" (damped, dense) and "lbfgs"
        (compact, ten pairs) approximate the Hessian of the Lagrangian, as None does ("bfgs" for up to 2000
        variables). Constraints without a Hessian beside an exact one of `fun`: see the Notes of
        `Problem.from_arguments`.
    hessp : callable, optional
        ``hessp(x, p, *args) -> (n,)``, ignored where `hess` is given.
    constraints : LinearConstraint, NonlinearConstraint, dict, or a sequence of them in any mixture
        As SciPy's. Jacobians may be dense, sparse or LinearOperators. `keep_feasible` of bounds holds at
        every evaluation; that of constraints cannot be kept by a method with slacks: a warning says so.
    bounds : Bounds or sequence of pairs, optional
        None in a pair means no bound.
    tol : float, optional
        On the infinity norm of the gradient of the Lagrangian, divided by
        ``max(100, mean |multiplier|) / 100``, and on the complementarity products likewise; 1e-6 by default
        (with ``accuracy="theory"`` on the 2-norm of gradient and constraints together, 1e-4).
    callback : callable, optional
        ``callback(intermediate_result)`` or ``callback(x)``; StopIteration ends the solve.
    lam0 : array_like or list of array_like, optional
        First multipliers: all rows stacked, or one array per constraint. By default those of least squares,
        zero where they exceed 1e3.
    warm_start : OptimizationResult, optional
        An earlier result: its `x` replaces `x0`, its multipliers and slacks are taken over.
    kkt_solver : str, optional
        "auto" (a cost model chooses), "ldlt" (Bunch-Kaufman or sparse factorisation), "minres",
        "sketch_prec" (needs `hess_sqrt`), or a sketch-and-project method of [1]_: "gaussian", "kaczmarz",
        "block_gaussian", "countsketch", "block_kaczmarz". What falls short of its budget is followed by
        the next, so that all together cost about twice a factorisation at most.
    accuracy : {"adaptive", "theory"}, optional
        "theory" is the published method with its published constants, for equality constraints alone.
    globalization : {"auto", "merit", "filter"}, optional
        "merit": the exact augmented Lagrangian, given up for the filter after three short steps in a row.
        "auto" takes the merit function for equality constraints alone, the filter with bounds or
        inequalities.
    lagrangian_hess : callable, optional
        ``lagrangian_hess(x, v) -> (n, n)``, the Hessian of ``fun + v'c``; `v` has the rows of all
        constraints. Replaces every other Hessian.
    hess_sqrt : callable, optional
        ``hess_sqrt(x, *args) -> W`` with Hess fun ~ W'W: Gauss-Newton, or what sketches precondition with.
    hess_sparsity : sparse or array_like, shape (n, n), optional
        Where differences of the gradient may be non-zero.
    sketch_size : int, optional
        Columns of a block sketch, or rows of the preconditioner's.
    rng : int, numpy.random.Generator, SeedSequence or None, optional
        Of sketches and perturbed starts; the same seed gives the same iterates.
    maxiter : int, optional
        Limit on iterations; None is 1000.
    constr_tol : float, optional
        On the largest violation of a constraint or bound; `tol` by default.
    xtol : float, optional
        Stop, without success, after three steps with ``||alpha dx||_2 <= xtol (1 + ||x||_2)``; 0 is never.
    eta1, eta2, nu, beta : float, optional
        Weights of the merit function, their factor, and the share of decrease asked of a step.
    kappa : float, optional
        Iterative solvers are asked for a relative residual (2-norm) of ``min(kappa, kappa ||F||)``.
    xi_B : float, optional
        First shift of a Hessian of wrong curvature; by default 0.1 with the merit function, 1e-4 with the
        filter.
    mu_init : float, optional
        First barrier parameter.
    relax_penalties : bool, optional
        Let eta1 and eta2 return towards their first values, one factor an iteration.
    scaling : bool, optional
        Scale objective and constraints whose gradients at the start exceed 100.
    max_inner : int, optional
        Limit on the steps of one inner solve.
    finite_diff_rel_step : float or array_like, optional
        Relative step of differences for `jac`.
    check_derivatives : bool, optional
        Compare all analytic derivatives with differences at the start first.
    verbose : int, optional
        1 logs one line per iteration (logger "aitken").
    progress : bool, optional
        Show a bar, where tqdm is installed.
    disp : bool, optional
        The same as ``verbose=1``.
    **options
        ``gtol`` of trust-constr is taken for `tol`; other options of SciPy's solvers are ignored, and
        unknown ones refused.

    Returns
    -------
    OptimizationResult
        `success` only where the certificate, recomputed at the returned point in the user's units, is
        within the tolerances; `status` is a `Status`.

    Raises
    ------
    TypeError, ValueError
        For every input that cannot be used, naming the parameter. Exceptions of user functions pass
        through unchanged.

    Warns
    -----
    ConvergenceWarning
        Where the tolerances were not met.

    See Also
    --------
    sketched_newton_batch : many small problems at once.

    References
    ----------
    .. [1] I. Hong, S. Na, M. W. Mahoney, M. Kolar, "Constrained Optimization via Exact Augmented Lagrangian
       and Randomized Iterative Sketching", ICML 2023.

    Notes
    -----
    A dense KKT matrix of order above 800 is factored beside the thread that called, which goes on listening
    for Ctrl-C. The callback may also be ``callback(x, result)``, as trust-constr's, and stops by returning
    True. It is called after every iteration; `optimality` and `constr_violation` of what it gets are in the
    user's units.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import NonlinearConstraint, minimize, rosen, rosen_der, rosen_hess
    >>> from aitken.optimize import sketched_newton
    >>> circle = NonlinearConstraint(lambda x: x @ x, 1.0, 1.0, jac=lambda x: 2 * x,
    ...                              hess=lambda x, v: 2 * v[0] * np.eye(2))
    >>> r = minimize(rosen, [0.5, 0.5], jac=rosen_der, hess=rosen_hess, constraints=circle,
    ...              method=sketched_newton)
    >>> r.success, r.x.round(6), round(r.fun, 6)
    (True, array([0.786415, 0.617698]), 0.045675)
    """
    began = time.perf_counter()
    _check_device(x0=x0)
    if "gtol" in options:
        gtol = options.pop("gtol")
        tol = gtol if tol is None else tol
    known = [*_FOREIGN, *inspect.signature(sketched_newton).parameters]
    _validate.no_unknown_keywords("sketched_newton", [o for o in options if o not in _FOREIGN], known)
    _validate.choice("accuracy", accuracy, ("adaptive", "theory"))
    _validate.choice("globalization", globalization, ("auto", "merit", "filter"))
    settings = _options(
        tol, constr_tol, accuracy, xtol=xtol, maxiter=maxiter, eta1=eta1, eta2=eta2, nu=nu, beta=beta,
        kappa=kappa, xi_B=xi_B, mu_init=mu_init, globalization=globalization,
        relax_penalties=_validate.boolean("relax_penalties", relax_penalties),
    )  # fmt: skip
    seed = _validate.rng_seed(rng)
    sketch_size = _validate.optional_integer("sketch_size", sketch_size, minimum=1)
    max_inner = _validate.optional_integer("max_inner", max_inner, minimum=1)
    scaling = _validate.boolean("scaling", scaling)
    warm = None
    if warm_start is not None:
        warm = _warm_parts(warm_start)
        x0 = warm["x"]
    problem = Problem.from_arguments(
        fun, x0, args, jac, hess, hessp, constraints, bounds, lagrangian_hess=lagrangian_hess,
        hess_sqrt=hess_sqrt, hess_sparsity=hess_sparsity, finite_diff_rel_step=finite_diff_rel_step,
    )  # fmt: skip
    _validate.choice(
        "kkt_solver", kkt_solver,
        ("auto", "ldlt", "minres", "sketch_prec", "gaussian", "kaczmarz", "block_gaussian", "countsketch",
         "block_kaczmarz"),
    )  # fmt: skip
    start = np.clip(problem.x0, problem.xl, problem.xu)
    if _validate.boolean("check_derivatives", check_derivatives):
        compare_derivatives(problem, start, seed)
    if problem.n_equalities > problem.n:
        warnings.warn(
            f"sketched_newton: {problem.n_equalities} equality constraints on {problem.n} variables: a "
            "solution exists only where they depend on each other",
            UserWarning,
            stacklevel=_caller_stacklevel(),
        )
    if problem.rows_keep_feasible.any():
        warnings.warn(
            "sketched_newton: `keep_feasible` of constraints is not kept: they are met at the solution alone",
            UserWarning,
            stacklevel=_caller_stacklevel(),
        )
    verbose = max(_validate.integer("verbose", verbose, minimum=0), int(bool(disp)))
    monitor = Monitor(
        "sketched_newton", _adapted(_validate.callback("callback", callback)), verbose,
        _validate.boolean("progress", progress), max(settings.tol, 1e-16), _COLUMNS,
    )  # fmt: skip
    try:
        # Overflow and NaN are looked for where they matter; user functions keep the caller's settings.
        with np.errstate(all="ignore"):
            if accuracy == "adaptive" and scaling and problem.n:
                _scale(problem, start)
            first = None if lam0 is None else problem.join(_per_constraint(lam0))
            if warm is not None:
                warm = _warm_scaled(problem, warm)
                first = warm["lam"] if first is None else first
            if accuracy == "theory":
                result = _theory(
                    problem, settings, first, kkt_solver, sketch_size, seed, max_inner, monitor, began
                )
            else:
                result = _adaptive(
                    problem, settings, first, warm, kkt_solver, sketch_size, seed, max_inner, monitor, began
                )
    except BaseException:
        monitor.close()
        raise
    monitor.close(converged=result.success)
    result.keep_problem(problem)
    _warn(result, settings)
    return result


def _check_device(**arguments: Any) -> None:
    """User functions here compute with NumPy arrays; a GPU array is refused by name."""
    for name, value in arguments.items():
        place = _dispatch.locate(name, value)
        if place is not None and place.backend == "cuda":
            raise TypeError(
                f"`{name}` is on {place}; sketched_newton takes NumPy arrays (batches run on GPUs)"
            )


def _options(tol: Any, constr_tol: Any, accuracy: str, **rest: Any) -> Options:
    default = 1e-4 if accuracy == "theory" else 1e-6
    tol = default if tol is None else _validate.positive_scalar("tol", tol)
    constr_tol = tol if constr_tol is None else _validate.positive_scalar("constr_tol", constr_tol)
    if rest["xi_B"] is not None:
        rest["xi_B"] = _validate.positive_scalar("xi_B", rest["xi_B"])
    for name in ("eta1", "eta2", "kappa", "mu_init"):
        rest[name] = _validate.positive_scalar(name, rest[name])
    rest["nu"] = _validate.real_scalar("nu", rest["nu"])
    if not rest["nu"] > 1.0:
        raise ValueError(f"`nu` must be > 1; got {rest['nu']}")
    rest["beta"] = _validate.positive_scalar("beta", rest["beta"])
    if not rest["beta"] < 0.5:
        raise ValueError(f"`beta` must be < 0.5; got {rest['beta']}")
    rest["xtol"] = _validate.tolerance("xtol", rest["xtol"])
    if rest["maxiter"] is None:
        rest["maxiter"] = 1000
    rest["maxiter"] = _validate.integer("maxiter", rest["maxiter"], minimum=0)
    return Options(tol=tol, constr_tol=constr_tol, **rest)


def _adapted(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The callback as the monitor calls it: with a result, whatever form the user's own has."""
    if callback is None:
        return None
    errors = np.geterr()

    def told(*args: Any, **keywords: Any) -> Any:
        with np.errstate(**errors):
            return callback(*args, **keywords)

    if hasattr(callback, "stop_iteration"):  # SciPy has adapted it already: it takes the result

        def call(result: OptimizationResult) -> Any:
            return told(result)

    elif _validate.takes_intermediate_result(callback):

        def call(result: OptimizationResult) -> Any:
            return told(intermediate_result=result)

    elif _required_parameters(callback) == 2:

        def call(result: OptimizationResult) -> Any:
            if told(np.copy(result.x), result):
                raise StopIteration

    else:

        def call(result: OptimizationResult) -> Any:
            return told(np.copy(result.x))

    def after_iterations(intermediate: Any) -> None:
        if intermediate.nit > 0:  # the log has a line for the start, callbacks have not
            call(OptimizationResult(intermediate.items()))

    return after_iterations


def _required_parameters(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)


def _report(problem: Problem, driver: Driver, record: Record, nit: int) -> dict[str, Any]:
    point = record.point
    n = driver.barrier.n
    barrier = driver.barrier
    return {
        "nit": nit,
        "x": problem.expand(point.w[:n]),
        "fun": point.f / problem.sf,
        "jac": problem.variables.expand_direction(point.g / problem.sf),
        "objective": point.f / problem.sf,
        "inf_pr": record.primal,
        "inf_du": record.dual,
        "mu": record.mu,
        "step": record.length,
        "shift": record.t,
        "alpha": record.alpha,
        "how": record.mark,
        "err": max(record.primal, record.dual, record.complementarity),
        "optimality": float(np.abs(barrier.lagrangian_gradient(point)[:n]).max(initial=0.0)) / problem.sf,
        "constr_violation": float(np.abs(barrier.constraint(point) / problem.sc).max(initial=0.0)),
    }


def _per_constraint(lam0: Any) -> Any:
    """lam0 as parts to concatenate: a list of arrays, or one array."""
    if isinstance(lam0, list | tuple) and any(np.ndim(part) for part in lam0):
        return [_validate.as_float_array("lam0", part) for part in lam0]
    return [np.atleast_1d(_validate.as_float_array("lam0", lam0))]


def _warm_parts(previous: Any) -> dict[str, Any]:
    names = ("x", "lam", "z_lo", "z_up", "slack", "barrier")
    missing = [name for name in names if name not in previous] if hasattr(previous, "keys") else list(names)
    if missing:
        raise TypeError(f"`warm_start` must be a result of sketched_newton; it lacks {', '.join(missing)}")
    return {name: previous[name] for name in names}


def _warm_scaled(problem: Problem, warm: dict[str, Any]) -> dict[str, Any]:
    """An earlier result's multipliers and slacks in the scaled variables of this problem."""
    free = problem.variables.free
    rows = np.flatnonzero(~problem.equality)
    slack = np.asarray(warm["slack"])
    lam = problem.join([warm["lam"]], "warm_start")
    if len(slack) != len(rows):  # other rows are equations now
        slack = problem.constraints(np.clip(problem.x0, problem.xl, problem.xu))[rows] / problem.sc[rows]
    return {
        "lam": lam,
        "slack": slack * problem.sc[rows],
        "zl": np.concatenate([warm["z_lo"][free] * problem.sf, np.maximum(-lam[rows], 0.0)]),
        "zu": np.concatenate([warm["z_up"][free] * problem.sf, np.maximum(lam[rows], 0.0)]),
        "mu": max(warm["barrier"], _WARM_MU),
        "push": _WARM_PUSH,
    }


def _finish(
    problem: Problem, solve: _Solve, driver: Driver, outcome: Outcome, settings: Options, began: float
) -> OptimizationResult:
    """Recompute the certificate at the point that is returned; only it makes a success."""
    n, barrier, point = problem.n, driver.barrier, outcome.point
    x = np.clip(point.w[:n], problem.xl, problem.xu)
    report = problem.report_values(x)
    lam = settled(problem, x, point.lam, settings.tol)
    shares = problem.split(lam, point.zl[:n], point.zu[:n], x)
    certificate = certify(problem, x, lam, point.zl[:n], point.zu[:n])
    status = outcome.status
    good = certificate.within(settings.tol, settings.constr_tol)
    if status is Status.CONVERGED and not good:
        status, outcome.reason = (
            Status.STAGNATED,
            "the point moved off the tolerance when put inside its bounds",
        )
    elif good and certificate.dual_scale > _LARGE_MULTIPLIERS:
        # Multipliers without bound excuse much: those of least squares may show that nothing is to excuse.
        fitted = driver.linear.multipliers(barrier, point)
        if fitted is not None:
            fitted = settled(problem, x, fitted, settings.tol)
            other = certify(problem, x, fitted, point.zl[:n], point.zu[:n])
            if other.within(settings.tol, settings.constr_tol) and other.optimality < certificate.optimality:
                lam, certificate = fitted, other
                shares = problem.split(lam, point.zl[:n], point.zu[:n], x)
    if good and status in (Status.STAGNATED, Status.MAX_ITERATIONS, Status.LOCALLY_INFEASIBLE):
        status, outcome.reason = Status.CONVERGED, ""
    # Static regularisation hides dependence: where it costs little, sparse rows are always looked at.
    hidden = problem.kind == "sparse" and problem.n_equalities * problem.n <= _SMALL_QR
    dependent = _dependent_rows(problem, x) if driver.counters.dependent or hidden else []
    linear = driver.linear
    return OptimizationResult(
        x=report.x,
        fun=report.fun,
        jac=report.grad,
        grad=report.grad,
        success=status is Status.CONVERGED,
        status=status,
        message=_message(status, outcome.reason, dependent),
        nit=solve.nit,
        nfev=problem.nfev,
        ncev=problem.ncev,
        njev=problem.ngev,
        ncjev=problem.njev,
        nhev=problem.nhev,
        lam=shares["lam_full"],
        v=shares["v"],
        z_lo=shares["zl_full"],
        z_up=shares["zu_full"],
        slack=point.w[n:] / problem.sc[barrier.rows],
        barrier=outcome.mu / problem.sf,
        constr=report.constr,
        optimality=certificate.optimality,
        constr_violation=certificate.violation,
        complementarity=certificate.complementarity,
        kkt=certificate.kkt,
        dependent_rows=np.array(dependent, dtype=np.int64),
        eta1=driver.merit.eta1,
        eta2=driver.merit.eta2,
        inner_iters=sum(d.counters.inner_iters for d in solve.drivers),
        inner_flops=sum(d.linear.flops for d in solve.drivers),
        n_fallback=sum(d.counters.fallbacks for d in solve.drivers),
        n_restoration=sum(d.counters.restorations for d in solve.drivers),
        n_correction=sum(d.counters.corrections for d in solve.drivers),
        n_shift=sum(d.counters.shifts for d in solve.drivers),
        alpha_hist=np.array(solve.alphas),
        kkt_hist=np.array(solve.errors),
        rtol_hist=np.array(solve.rtols),
        solver_used=" ".join(dict.fromkeys(name for d in solve.drivers for name in d.linear.used))
        or linear.kkt_solver,
        time=time.perf_counter() - began,
    )


def _dependent_rows(problem: Problem, x: np.ndarray) -> list[int]:
    """Equality rows, in the user's stacked numbering, whose gradients at x depend on those of the others."""
    _, J = problem.derivatives(x)
    rows = np.flatnonzero(problem.equality)
    if not (isinstance(J, np.ndarray) or sp.issparse(J)) or len(rows) * problem.n > _LARGEST_QR:
        return []
    A = np.asarray(J[rows].todense() if sp.issparse(J) else J[rows])
    length = np.linalg.norm(A, axis=1)
    A = A / np.where(length > 0, length, 1.0)[:, None]
    if not np.isfinite(A).all() or not A.size:
        return []
    R, order = scipy.linalg.qr(A.T, mode="r", pivoting=True)
    diagonal = np.zeros(len(rows))
    diagonal[: min(R.shape)] = np.abs(np.diag(R))
    found = order[diagonal <= _DEPENDENT]
    return sorted(int(i) for i in problem.kept_rows[rows[found]])


def _message(status: Status, reason: str, dependent: list[int]) -> str:
    text = status.message + (f": {reason}" if reason else "")
    if dependent:
        some = ", ".join(map(str, dependent[:5])) + (", ..." if len(dependent) > 5 else "")
        text += f"; the gradients of constraint rows {some} depend on those of the others"
    return f"{text}. {_ADVICE.get(status, status.advice)}".rstrip()


def _warn(result: OptimizationResult, settings: Options) -> None:
    worst, target, quantity = max(
        (result.optimality, settings.tol, "gradient of the Lagrangian (infinity norm)"),
        (result.constr_violation, settings.constr_tol, "violation of the constraints (infinity norm)"),
        (result.complementarity, settings.tol, "product of a multiplier and its gap"),
        key=lambda item: item[0] / item[1] if np.isfinite(item[0]) else np.inf,
    )
    warn_not_converged(
        result, solver="sketched_newton", quantity=quantity, error=worst, target=target,
        advice=_ADVICE.get(Status(result.status)))  # fmt: skip


def _adaptive(
    problem: Problem,
    settings: Options,
    first: np.ndarray | None,
    warm: dict[str, Any] | None,
    kkt_solver: str,
    sketch_size: int | None,
    seed: int,
    max_inner: int | None,
    monitor: Monitor,
    began: float,
) -> OptimizationResult:
    """The default method on the scaled problem."""

    def linear() -> LinearSolver:
        return LinearSolver(
            problem, kkt_solver=kkt_solver, xi_B=settings.xi_B or 0.1, kappa=settings.kappa,
            sketch_size=sketch_size, max_inner=max_inner, seed=seed,
        )  # fmt: skip

    def listen(driver: Driver, record: Record, nit: int) -> bool:
        return False if monitor.silent else monitor(_report(problem, driver, record, nit))

    solve = _Solve(problem, settings, linear, seed, listen)
    return _finish(problem, solve, *solve.run(problem.x0, first, warm), settings, began)


def _theory(
    problem: Problem,
    settings: Options,
    first: np.ndarray | None,
    kkt_solver: str,
    sketch_size: int | None,
    seed: int,
    max_inner: int | None,
    monitor: Monitor,
    began: float,
) -> OptimizationResult:
    """The published method, unscaled, with its own stopping rule."""

    def listen(step: TheoryStep) -> bool:
        if monitor.silent:
            return False
        return monitor(
            {
                "x": problem.expand(step.x), "fun": step.fun, "objective": step.fun, "inf_pr": np.nan,
                "inf_du": step.kkt, "mu": 0.0, "step": np.nan, "shift": np.nan, "alpha": step.alpha,
                "how": "t", "err": step.kkt,
            }
        )  # fmt: skip

    out: TheoryOutcome = minimize_theory(
        problem, first, tol=settings.tol, kkt_solver="ldlt" if kkt_solver == "auto" else kkt_solver,
        eta1=settings.eta1, eta2=settings.eta2, nu=settings.nu, beta=settings.beta, xi_B=settings.xi_B or 0.1,
        seed=seed, sketch_size=sketch_size, maxiter=settings.maxiter, max_inner=max_inner, monitor=listen,
    )  # fmt: skip
    zero = np.zeros(problem.n)
    report = problem.report_values(out.x)
    shares = problem.split(out.lam, zero, zero, out.x)
    certificate = certify(problem, out.x, out.lam, zero, zero)
    status = out.status
    if status is Status.CONVERGED and not certificate.kkt <= settings.tol:
        status = Status.STAGNATED
    return OptimizationResult(
        x=report.x, fun=report.fun, jac=report.grad, grad=report.grad,
        success=status is Status.CONVERGED, status=status, message=_message(status, out.detail, []),
        nit=out.nit, nfev=problem.nfev, ncev=problem.ncev,
        njev=problem.ngev, ncjev=problem.njev, nhev=problem.nhev, lam=shares["lam_full"], v=shares["v"],
        z_lo=shares["zl_full"], z_up=shares["zu_full"], slack=np.zeros(0), barrier=0.0, constr=report.constr,
        dependent_rows=np.zeros(0, dtype=np.int64),
        optimality=certificate.optimality, constr_violation=certificate.violation,
        complementarity=certificate.complementarity, kkt=certificate.kkt, eta1=out.eta1, eta2=out.eta2,
        inner_iters=out.inner_iters, inner_flops=out.inner_flops, n_fallback=out.inner_short,
        n_restoration=0, n_correction=0, n_shift=0,
        alpha_hist=np.array(out.alpha_hist), kkt_hist=np.array(out.kkt_hist),
        rtol_hist=np.array(out.rtol_hist), solver_used="ldlt" if kkt_solver == "auto" else kkt_solver,
        time=time.perf_counter() - began,
    )  # fmt: skip


__all__ = ["sketched_newton"]
