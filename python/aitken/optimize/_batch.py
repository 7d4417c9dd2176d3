"""Many small constrained problems at once: `sketched_newton_batch`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._errors import ConvergenceWarning
from .._result import Result, Status, _caller_stacklevel

MAX_UNKNOWNS = 128
_TRIAL, _SOLVE, _HESSIAN, _ENDED = range(4)  # what a problem waits for, as the native calls say it

# Steps of differences, relative to max(1, |x|): first derivatives by central ones, and Hessians by forward
# ones of exact gradients (error about 1e-8) or by central ones of gradients that are differences themselves.
_STEP_FIRST = float(np.finfo(np.float64).eps ** (1 / 3))
_STEP_SECOND = float(np.finfo(np.float64).eps ** 0.5)
_STEP_SECOND_OF_DIFFERENCES = 1e-4


class BatchResult(Result):
    """What `sketched_newton_batch` found; the first axis of every array is the problem.

    Attributes
    ----------
    x : ndarray, shape (b, n)
        Points.
    fun : ndarray, shape (b,)
        Objectives there.
    lam : ndarray, shape (b, m)
        Multipliers of ``L = f + lam' c``: positive where `upper` presses, negative where `lower` does.
    z_lo, z_up : ndarray, shape (b, n)
        Multipliers of the bounds, >= 0.
    kkt : ndarray, shape (b,)
        The largest of ``|grad L - z_lo + z_up|`` and of multiplier times gap over all bounds and sides of
        rows, divided by ``max(100, mean |multiplier|) / 100``; of the problem as given, at `x`.
    constr_violation : ndarray, shape (b,)
        The largest violation of a row or bound.
    status, success : ndarray of int and bool, shape (b,)
        `aitken._result.Status`, and whether it is 0.
    nit, nfev, nhev : ndarray of int, shape (b,)
        Iterations; points at which f, c and their first derivatives were asked for; KKT systems with a
        Hessian.
    n_fallback, n_restarts : ndarray of int, shape (b,)
        Times that the filter or a restoration of feasibility took over; further starts.
    eta1, eta2 : ndarray, shape (b,)
        Final parameters of the merit function.
    rounds : int
        Calls of `fun`.
    message : str
        How many problems ended how.
    time, time_user, time_native : float
        Seconds in all, in the callables, and in what turns them into steps.
    """

    kkt: Any
    constr_violation: Any
    message: str
    time: float
    time_user: float
    time_native: float


def sketched_newton_batch(
    fun: Callable[..., Any],
    X0: Any,
    *,
    jac: Callable[..., Any] | None = None,
    hess: Callable[..., Any] | None = None,
    cons: Callable[..., Any] | None = None,
    cons_jac: Callable[..., Any] | None = None,
    lower: Any = 0.0,
    upper: Any = 0.0,
    bounds: Any = None,
    params: Any = None,
    args: tuple[Any, ...] = (),
    lam0: Any = None,
    tol: float = 1e-6,
    constr_tol: float = 1e-6,
    maxiter: int = 200,
    index: bool = False,
    globalization: str = "auto",
    eta1: float = 1.0,
    eta2: float = 0.1,
    nu: float = 1.5,
    beta: float = 0.1,
    xi_B: float = 0.1,
    mu0: float = 0.1,
    callback: Callable[..., Any] | None = None,
    n_threads: int | None = None,
) -> BatchResult:
    """Minimise many small functions under constraints at once, each problem stopping by itself.

    Problem k is ``min f_k(x)`` subject to ``lower <= c_k(x) <= upper`` and bounds on x; rows with
    ``lower == upper`` are equations. The callables are vectorised: they get the points of the problems that
    are still under way, one per row, and return one row per point. NumPy arrays run on the CPU, CuPy arrays
    on their GPU; results are of the library of `X0`.

    Parameters
    ----------
    fun : callable ``fun(X, *params, *args) -> (a,)``
        Objectives at the rows of X, shape (a, n).
    X0 : array_like, shape (b, n)
        Starts; they are not modified. A row with NaN or Inf has its problem end with status NONFINITE.
    jac : callable ``jac(X, ...) -> (a, n)``, optional
        Gradients; central differences of `fun` where it is missing (2 n calls per point).
    hess : callable ``hess(X, V, ...) -> (a, n, n)``, optional
        Hessians of the Lagrangians ``f + sum_i V[:, i] c_i``; V has shape (a, m). Differences of their
        gradients where it is missing (n calls of `jac` and `cons_jac` per iteration).
    cons : callable ``cons(X, ...) -> (a, m)``, optional
        Constraint functions.
    cons_jac : callable ``cons_jac(X, ...) -> (a, m, n)``, optional
        Their Jacobians; central differences where it is missing.
    lower, upper : float or array_like, shape (m,) or (b, m), default 0
        Limits of `cons`; infinite where there is none.
    bounds : scipy.optimize.Bounds, sequence of n pairs, or tuple ``(lb, ub)`` of arrays, optional
        Bounds on x, the arrays of shape (n,) or (b, n); None or infinite where there is none. Points at which
        callables are evaluated are inside them, apart from variables with ``lb == ub``, which stay there.
    params : array_like of shape (b, ...), or tuple of such, optional
        What the problems differ in: passed after X, the rows of the problems under way only.
    args : tuple, optional
        Passed as it is, after `params`.
    lam0 : array_like, shape (b, m) or (m,), optional
        Multipliers to start with. Default: those of least squares at the start.
    tol, constr_tol : float
        A problem has converged where its `kkt` is at most `tol` and its `constr_violation` (the maximum norm)
        at most `constr_tol`, both of the problem as given, from the values at the `x` returned.
    maxiter : int, default 200
        Iterations per problem.
    index : bool, default False
        Also pass ``index=``, the numbers of the problems that the rows of X belong to.
    globalization : {"auto", "merit", "filter"}
        What judges steps: the exact augmented Lagrangian, which hands over to a filter where it cuts steps
        short, or the filter at once. "auto": the former for problems with equations alone, the latter where
        there are log barriers.
    eta1, eta2, nu, beta, xi_B, mu0 : float
        The merit function's parameters and the factor by which they change, the share of decrease asked for,
        the first shift of Hessians, and the first barrier parameter.
    callback : callable, optional
        Called after each round as ``callback(intermediate_result)``, with `x` (b, n), `status` (b,; -1 where
        under way), `nit` (b,), `n_active` and `rounds`; raising StopIteration ends all.
    n_threads : int, optional
        Threads of the native part; the result does not depend on them.

    Returns
    -------
    BatchResult

    Raises
    ------
    TypeError
        For callables that are not, complex data, and arrays on different devices.
    ValueError
        For wrong shapes (also of what callables return), ``lower > upper``, and n + m above 128.

    Warns
    -----
    ConvergenceWarning
        Once, if problems did not converge, with how many and why.

    Notes
    -----
    A round evaluates the callables at the next point of every problem: some are in a line search, others at
    a new iterate, and the Hessians are asked for the latter alone. KKT systems are solved by L D L' with
    diagonal pivoting, their Hessians shifted until the inertia is right. No problem sees another: it has the
    bits that it would have alone, if the callables treat rows alike.

    A problem that fails starts again, four times at most: with zero multipliers where it is, from its start
    with the other of the two ways to judge steps, and from two points around the start.

    Examples
    --------
    The nearest point of the unit circle to each of many points.

    >>> import numpy as np
    >>> from aitken.optimize import sketched_newton_batch
    >>> P = np.random.default_rng(0).normal(size=(1000, 2))
    >>> r = sketched_newton_batch(
    ...     lambda X, P: ((X - P) ** 2).sum(axis=1),
    ...     np.tile([1.0, 0.5], (1000, 1)),
    ...     jac=lambda X, P: 2 * (X - P),
    ...     hess=lambda X, V, P: 2 * (1 + V[:, :, None]) * np.eye(2),
    ...     cons=lambda X, P: (X**2).sum(axis=1, keepdims=True) - 1,
    ...     cons_jac=lambda X, P: 2 * X[:, None, :],
    ...     params=P,
    ... )
    >>> bool(r.success.all()), bool(np.allclose(r.x, P / np.linalg.norm(P, axis=1)[:, None], atol=1e-5))
    (True, True)
    """
    start = time.perf_counter()
    for name, value in (("fun", fun), ("jac", jac), ("hess", hess), ("cons", cons), ("cons_jac", cons_jac)):
        if not callable(value) and (name == "fun" or value is not None):
            raise TypeError(f"`{name}` must be callable, not {value!r}")
    if cons is None and cons_jac is not None:
        raise ValueError("`cons_jac` is given but `cons` is None")
    listener = _validate.callback("callback", callback)
    options = {
        "tol": _validate.positive_scalar("tol", tol),
        "constr_tol": _validate.positive_scalar("constr_tol", constr_tol),
        "maxiter": _validate.integer("maxiter", maxiter, minimum=0, maximum=10**6),
        "eta1": _validate.positive_scalar("eta1", eta1),
        "eta2": _validate.positive_scalar("eta2", eta2),
        "nu": _validate.real_scalar("nu", nu, minimum=1.0, open_minimum=True),
        "beta": _validate.real_scalar(
            "beta", beta, minimum=0.0, maximum=0.5, open_minimum=True, open_maximum=True
        ),
        "xi": _validate.positive_scalar("xi_B", xi_B),
        "mu": _validate.positive_scalar("mu0", mu0),
        "globalization": _validate.choice("globalization", globalization, ("auto", "merit", "filter")),
        "given_multipliers": lam0 is not None,
        "n_threads": _validate.n_threads(n_threads),
    }
    with_index = _validate.boolean("index", index)
    if not isinstance(args, tuple):
        args = (args,)
    params = () if params is None else params if isinstance(params, tuple) else (params,)
    names = [f"params[{k}]" for k in range(len(params))]
    backend = _dispatch.select(X0=X0, lam0=lam0, **dict(zip(names, params, strict=True)))
    xp = backend.xp

    X = xp.ascontiguousarray(
        _validate.as_float_array("X0", backend.take("X0", X0), ndim=2, dtype=np.float64, finite=False, xp=xp)
    )
    count, n = (int(s) for s in X.shape)
    if n == 0:
        raise ValueError(f"`X0` has shape {X.shape}; there must be a variable")
    fields = tuple(
        _per_problem(name, backend.take(name, p), count, xp) for name, p in zip(names, params, strict=True)
    )
    functions = _Functions(xp, fun, jac, hess, cons, cons_jac, fields, args, with_index, n)
    xl, xu = _bounds(bounds, count, n, xp)
    m = functions.rows(X)
    if n + m > MAX_UNKNOWNS:
        raise ValueError(
            f"`X0` has {n} variables and `cons` {m} rows; at most {MAX_UNKNOWNS} together are allowed"
        )
    low, high = (_limits(name, v, count, m, xp) for name, v in (("lower", lower), ("upper", upper)))
    low, high = _same_rows(low, high, xp)
    _check_order("lower", "upper", low, high, xp)
    functions.keep_inside(xl, xu)
    lam = None
    if lam0 is not None:
        lam = _validate.as_float_array("lam0", backend.take("lam0", lam0), dtype=np.float64, xp=xp)
        if tuple(lam.shape) not in ((count, m), (m,)):
            raise ValueError(f"`lam0` has shape {tuple(lam.shape)}; ({count}, {m}) or ({m},) is needed")
        lam = xp.ascontiguousarray(xp.broadcast_to(lam, (count, m)))

    layout = _core.batch_layout(n, m)
    numbers = xp.zeros((count, layout["numbers"]))
    tags = xp.zeros((count, layout["tags"]), dtype=np.int32)
    if backend.is_cuda:
        from . import _cuda_calls  # no GPU code is loaded for CPU data

        engine: Any = _cuda_calls.BatchNewton(numbers, tags, n, m, xl, xu, low, high, options)
    else:
        engine = _core.BatchNewton(numbers, tags, n, m, xl, xu, low, high, options)
    engine.begin(X, lam)
    good = xp.isfinite(X).all(axis=1)
    tags[:, layout["status"]][~good] = int(Status.NONFINITE)
    rounds, spent, stopped = _iterate(
        functions, engine, xp.flatnonzero(good), numbers, tags, layout, listener
    )

    status = tags[:, layout["status"]]
    again = xp.flatnonzero((status != 0) & good).astype(np.int32)
    before = time.perf_counter()
    functions.select(again)
    values = functions.values(xp.ascontiguousarray(numbers[again, layout["x"] : layout["x"] + n]))
    spent += functions.seconds - (time.perf_counter() - before)
    engine.conclude(again, *values, int(Status.STOPPED_BY_CALLBACK if stopped else Status.MAX_ITERATIONS))

    def vectors(name: str, size: int) -> Any:
        return backend.give(xp.ascontiguousarray(numbers[:, layout[name] : layout[name] + size]))

    def column(source: Any, name: str) -> Any:
        return backend.give(xp.ascontiguousarray(source[:, layout[name]]))

    ends = _host(status)
    result = BatchResult(
        x=vectors("x", n),
        fun=column(numbers, "fun"),
        lam=vectors("lam", m),
        z_lo=vectors("z_lo", n),
        z_up=vectors("z_up", n),
        kkt=column(numbers, "kkt"),
        constr_violation=column(numbers, "violation"),
        status=column(tags, "status"),
        success=backend.give(status == 0),
        message=_summary(ends),
        nit=column(tags, "nit"),
        nfev=column(tags, "nfev"),
        nhev=column(tags, "nhev"),
        n_fallback=column(tags, "fallbacks"),
        n_restarts=column(tags, "restarts"),
        eta1=column(numbers, "eta1"),
        eta2=column(numbers, "eta2"),
        rounds=rounds,
    )
    result.time_user = functions.total
    result.time = time.perf_counter() - start
    result.time_native = spent
    _warn(result, ends, options)
    return result


class _Functions:
    """The user's callables at the points of the problems under way: checked, timed, or differenced."""

    def __init__(
        self,
        xp: Any,
        fun: Callable[..., Any],
        jac: Callable[..., Any] | None,
        hess: Callable[..., Any] | None,
        cons: Callable[..., Any] | None,
        cons_jac: Callable[..., Any] | None,
        params: tuple[Any, ...],
        args: tuple[Any, ...],
        with_index: bool,
        n: int,
    ) -> None:
        self.xp = xp
        self.fun, self.jac, self.hess, self.cons, self.cons_jac = fun, jac, hess, cons, cons_jac
        self.params, self.args, self.with_index = params, args, with_index
        self.n, self.m = n, 0
        self.total = self.seconds = 0.0
        self.active: Any = None
        self.chosen = params
        self.xl: Any = None
        self.xu: Any = None

    def rows(self, X: Any) -> int:
        """The number of constraints, from one problem."""
        if self.cons is None or len(X) == 0:
            return 0
        self.select(self.xp.zeros(1, dtype=np.int32))
        c = self._call("cons", self.cons, X[:1].copy())
        c = _validate.as_float_array("cons(X)", c, ndim=2, shape=(1, None), finite=False, xp=self.xp)
        self.m = int(c.shape[1])
        return self.m

    def keep_inside(self, xl: Any, xu: Any) -> None:
        """Bounds that points of differences must respect."""
        self.xl, self.xu = xl, xu

    def select(self, active: Any) -> None:
        """From now on rows belong to these problems."""
        self.active = active
        self.chosen = tuple(p[active] for p in self.params)

    def _call(self, name: str, f: Callable[..., Any], *points: Any) -> Any:
        began = time.perf_counter()
        if self.with_index:
            value = f(*points, *self.chosen, *self.args, index=self.active.copy())
        else:
            value = f(*points, *self.chosen, *self.args)
        self.total += time.perf_counter() - began
        return value

    def _array(self, name: str, f: Callable[..., Any], shape: tuple[int, ...], *points: Any) -> Any:
        value = self._call(name, f, *points)
        xp = self.xp
        if not (
            type(value) is xp.ndarray
            and value.shape == shape
            and value.dtype == np.float64
            and value.flags.c_contiguous
        ):
            value = _validate.as_float_array(
                f"{name}(X)", value, shape=shape, dtype=np.float64, finite=False, xp=xp
            )
            value = xp.ascontiguousarray(value)
        return value

    def values(self, X: Any) -> tuple[Any, Any, Any, Any]:
        """f (a,), gradients (a, n), c (a, m) and Jacobians (a, m, n) at the rows of X."""
        a, m, xp = len(X), self.m, self.xp
        f = self._array("fun", self.fun, (a,), X.copy())
        c = self._array("cons", self.cons, (a, m), X.copy()) if self.cons and m else xp.zeros((a, m))
        return f, self._gradient(X), c, self._jacobian(X)

    def _gradient(self, X: Any) -> Any:
        a, n = len(X), self.n
        if self.jac is not None:
            return self._array("jac", self.jac, (a, n), X.copy())
        g = self.xp.empty((a, n))
        for k, ahead, back, step in self._moves(X, _STEP_FIRST):
            g[:, k] = self._array("fun", self.fun, (a,), ahead) - self._array("fun", self.fun, (a,), back)
            g[:, k] /= step
        return g

    def _jacobian(self, X: Any) -> Any:
        a, n, m = len(X), self.n, self.m
        if self.cons is None or m == 0:
            return self.xp.zeros((a, m, n))
        if self.cons_jac is not None:
            return self._array("cons_jac", self.cons_jac, (a, m, n), X.copy())
        j = self.xp.empty((a, m, n))
        for k, ahead, back, step in self._moves(X, _STEP_FIRST):
            change = self._array("cons", self.cons, (a, m), ahead) - self._array(
                "cons", self.cons, (a, m), back
            )
            j[:, :, k] = change / step[:, None]
        return j

    def _moves(self, X: Any, relative: float) -> Any:
        """For each variable: points ahead and back inside the bounds, and their distance."""
        xp, active = self.xp, self.active
        xl = self.xl if len(self.xl) == 1 else self.xl[active]
        xu = self.xu if len(self.xu) == 1 else self.xu[active]
        for k in range(self.n):
            h = relative * xp.maximum(1.0, xp.abs(X[:, k]))
            free = xl[:, k] < xu[:, k]  # a variable that stays does not matter: it may leave its bounds
            ahead, back = X.copy(), X.copy()
            ahead[:, k] = xp.where(free, xp.minimum(X[:, k] + h, xu[:, k]), X[:, k] + h)
            back[:, k] = xp.where(free, xp.maximum(X[:, k] - h, xl[:, k]), X[:, k] - h)
            yield k, ahead, back, ahead[:, k] - back[:, k]

    def hessian(self, X: Any, V: Any, rows: Any, g: Any, j: Any) -> Any:
        """Hessians of the Lagrangians at X for some rows; g and j are the derivatives of all rows."""
        a, n, xp = len(X), self.n, self.xp
        before = self.active, self.chosen
        if len(rows) < len(before[0]):
            self.select(before[0][rows])
        try:
            if self.hess is not None:
                return self._array("hess", self.hess, (a, n, n), X, V)
            h = xp.empty((a, n, n))
            exact = self.jac is not None and (self.cons_jac is not None or self.m == 0)
            base = self._lagrangian(g[rows], j[rows], V) if exact else None
            for k, ahead, back, step in self._moves(
                X, _STEP_SECOND if exact else _STEP_SECOND_OF_DIFFERENCES
            ):
                if exact:  # the side with more room
                    left = (X[:, k] - back[:, k]) > (ahead[:, k] - X[:, k])
                    ahead[:, k] = xp.where(left, back[:, k], ahead[:, k])
                    change = self._lagrangian(self._gradient(ahead), self._jacobian(ahead), V) - base
                    h[:, :, k] = change / (ahead[:, k] - X[:, k])[:, None]
                else:
                    change = self._lagrangian(self._gradient(ahead), self._jacobian(ahead), V)
                    change -= self._lagrangian(self._gradient(back), self._jacobian(back), V)
                    h[:, :, k] = change / step[:, None]
            return h
        finally:
            self.active, self.chosen = before

    def _lagrangian(self, g: Any, j: Any, V: Any) -> Any:
        return g + self.xp.einsum("am,amn->an", V, j) if self.m else g


def _iterate(
    functions: _Functions,
    engine: Any,
    active: Any,
    numbers: Any,
    tags: Any,
    layout: dict[str, int],
    listener: Callable[..., Any] | None,
) -> tuple[int, float, bool]:
    """Rounds until all problems have ended: (rounds, native seconds, whether the callback stopped it)."""
    xp = functions.xp
    active = active.astype(np.int32)
    functions.select(active)
    spent, rounds = 0.0, 0
    status = tags[:, layout["status"]]
    while len(active):
        rounds += 1
        began, user = time.perf_counter(), functions.total
        X = engine.points(active)
        f, g, c, j = functions.values(X)
        values = (active, f, g, c, j)
        wanted = engine.judge(*values)
        rows = xp.flatnonzero(wanted == _SOLVE).astype(np.int32)
        if len(rows):
            engine.direct(*values, rows, None, wanted)
        rows = xp.flatnonzero(wanted == _HESSIAN).astype(np.int32)
        if len(rows):
            points, V = engine.hessian_points(active if len(rows) == len(active) else active[rows])
            engine.direct(*values, rows, functions.hessian(points, V, rows, g, j), wanted)
        keep = wanted != _ENDED
        if not bool(keep.all()):
            active = active[keep]
            functions.select(active)
        spent += time.perf_counter() - began - (functions.total - user)
        if listener is not None:
            x = layout["x"]
            seen = {
                "x": numbers[:, x : x + functions.n].copy(),
                "status": status.copy(),
                "nit": tags[:, layout["nit"]].copy(),
                "n_active": len(active),
                "rounds": rounds,
            }
            try:
                if _validate.takes_intermediate_result(listener):
                    listener(intermediate_result=Result(**seen))
                else:
                    listener(seen["x"])
            except StopIteration:
                return rounds, spent, True
    return rounds, spent, False


def _host(x: Any) -> np.ndarray:
    return x.get() if hasattr(x, "get") else np.asarray(x)


def _per_problem(name: str, value: Any, count: int, xp: Any) -> Any:
    array = xp.asarray(value)
    if array.ndim == 0 or array.shape[0] != count:
        raise ValueError(f"`{name}` has shape {tuple(array.shape)}; its first axis must have length {count}")
    return array


def _limits(name: str, value: Any, count: int, m: int, xp: Any) -> Any:
    """(1, m) or (count, m)."""
    array = _validate.as_float_array(name, value, ndim=(0, 1, 2), dtype=np.float64, finite=False, xp=xp)
    if array.ndim == 0:
        array = xp.full((1, m), array)
    elif array.ndim == 1:
        _validate.check_shape(name, array, (m,))
        array = array[None]
    else:
        _validate.check_shape(name, array, (count, m))
    if bool(xp.isnan(array).any()):
        raise ValueError(f"`{name}` has a NaN")
    return xp.ascontiguousarray(array)


def _same_rows(a: Any, b: Any, xp: Any) -> tuple[Any, Any]:
    a, b = xp.broadcast_arrays(a, b)
    return xp.ascontiguousarray(a), xp.ascontiguousarray(b)


def _check_order(low_name: str, high_name: str, low: Any, high: Any, xp: Any) -> None:
    bad = low > high
    if bool(bad.any()):
        k, i = (int(v) for v in np.unravel_index(int(xp.argmax(bad.ravel())), bad.shape))
        raise ValueError(
            f"`{low_name}` is {float(low[k, i])} and `{high_name}` {float(high[k, i])} at index {i}"
            + (f" of problem {k}" if len(bad) > 1 else "")
        )
    outside = (low == np.inf) | (high == -np.inf)
    if bool(outside.any()):
        raise ValueError(f"`{low_name}` must be below inf and `{high_name}` above -inf")


def _bounds(bounds: Any, count: int, n: int, xp: Any) -> tuple[Any, Any]:
    """(lower, upper), each (1, n) or (count, n)."""
    if bounds is None:
        return xp.full((1, n), -np.inf), xp.full((1, n), np.inf)
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        pair: Sequence[Any] = (bounds.lb, bounds.ub)
    elif isinstance(bounds, tuple) and len(bounds) == 2 and all(np.ndim(side) > 0 for side in bounds):
        pair = bounds
        if n == 2 and all(np.shape(side) == (2,) for side in bounds) and not hasattr(bounds[0], "dtype"):
            pair = _pairs(bounds, n)  # two pairs, as everywhere in SciPy
    else:
        pair = _pairs(bounds, n)
    low, high = (_limits("bounds", side, count, n, xp) for side in pair)
    low, high = _same_rows(low, high, xp)
    _check_order("bounds lower", "bounds upper", low, high, xp)
    return low, high


def _pairs(bounds: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        pairs = [(lo, hi) for lo, hi in bounds]
    except (TypeError, ValueError):
        raise TypeError(
            f"`bounds` must be a Bounds, a sequence of pairs or a tuple of two arrays, not {bounds!r}"
        ) from None
    if len(pairs) != n:
        raise ValueError(f"`bounds` has {len(pairs)} pairs; there are {n} variables")
    return (
        np.array([-np.inf if lo is None else lo for lo, _ in pairs], dtype=np.float64),
        np.array([np.inf if hi is None else hi for _, hi in pairs], dtype=np.float64),
    )


def _counts(ends: np.ndarray) -> list[tuple[Status, int]]:
    return [(Status(int(s)), int(c)) for s, c in zip(*np.unique(ends, return_counts=True), strict=True)]


def _summary(ends: np.ndarray) -> str:
    parts = [f"{int((ends == 0).sum())} of {ends.size} problems converged"]
    parts += [
        f"{c} {s.name.lower().replace('_', ' ')}" for s, c in _counts(ends) if s is not Status.CONVERGED
    ]
    return "; ".join(parts)


def _warn(result: BatchResult, ends: np.ndarray, options: dict[str, Any]) -> None:
    missed = [(s, c) for s, c in _counts(ends) if s not in (Status.CONVERGED, Status.STOPPED_BY_CALLBACK)]
    if not missed:
        return
    bad = ends != 0
    kkt, violation = _host(result.kkt)[bad], _host(result.constr_violation)[bad]
    most = max(missed, key=lambda pair: pair[1])[0]

    def worst(v: np.ndarray) -> float:
        known = v[np.isfinite(v)]
        return float(known.max()) if known.size else float("nan")

    warnings.warn(
        f"sketched_newton_batch: {result.message}; largest KKT residual {worst(kkt):.3g} (target "
        f"{options['tol']:.3g}), largest violation {worst(violation):.3g} (target "
        f"{options['constr_tol']:.3g}). "
        f"{most.advice}",
        ConvergenceWarning,
        stacklevel=_caller_stacklevel(),
    )


__all__ = ["MAX_UNKNOWNS", "BatchResult", "sketched_newton_batch"]
