"""`sinkhorn_points`: entropic transport between clouds of points without an array of n x m numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._progress import Monitor
from .._result import Result
from . import _unbalanced
from ._cost import METRICS
from ._plan import LazyPlan
from ._point_cost import PointCost
from ._sinkhorn import (
    _COLUMNS,
    OTResult,
    _Problem,
    _set_plan,
    check_weights,
    solve_into,
    solver_options,
    warn_unsolved,
)

_KEPT = 2**21  # up to so many pairs (16 MB) the kernel is kept between passes


class OTPointsResult(OTResult):
    """Solution of a transport problem between clouds of points; fields as of `OTResult`."""

    def vjp(
        self,
        grad_value: float | None = None,
        grad_plan: Any = None,
        grad_potentials: tuple[Any, Any] | None = None,
        *,
        rtol: float = 1e-10,
    ) -> dict[str, Any]:
        """Gradients of a scalar function of `value`, `plan` and `potentials` with respect to the inputs.

        The value's gradient is the envelope theorem's: one pass per cloud, O((n + m) d) memory. Those of the
        plan and the potentials need one linear solve with the Hessian at the solution, and the memory of a
        few arrays of shape (n, m).

        Parameters
        ----------
        grad_value : float, optional
            dL/dvalue.
        grad_plan : array of shape (n, m), optional
            dL/dP.
        grad_potentials : (array of shape (n,), array of shape (m,)), optional
            dL/df and dL/dg, for the potentials in the gauge and convention in which they were returned.
        rtol : float, default 1e-10
            Relative residual, in the 2-norm, of the implicit linear solve.

        Returns
        -------
        dict
            ``"X"`` of shape (n, d), ``"Y"`` of shape (m, d), ``"a"`` of shape (n,), ``"b"`` of shape (m,),
            all float64. Where a distance has no derivative (euclidean at 0, cityblock where a coordinate
            agrees) the pair counts 0. Those for a and b are defined up to adding a constant to one and
            subtracting it from the other, because a and b must keep equal masses; not so for unbalanced
            problems.

        Raises
        ------
        ValueError
            Wrong shape of a gradient, or nothing to differentiate.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> X = np.array([[0.0], [1.0]])
        >>> r = ot.sinkhorn_points(X, X + 2.0, reg=0.02)
        >>> bool(np.allclose(r.vjp(1.0)["X"], -2.0))  # each point of weight 1/2 moves 2 to the right
        True
        """
        p, backend = self._problem, self._backend
        cost: PointCost = p.cost
        xp, shift = cost.xp, cost.shift
        grads = {
            "X": xp.zeros_like(cost.X),
            "Y": xp.zeros_like(cost.Y),
            "a": xp.zeros(cost.shape[0]),
            "b": xp.zeros(cost.shape[1]),
        }
        if grad_plan is not None or grad_potentials is not None or grad_value is None:
            p.cost = cost.toarray()
            try:
                given = super().vjp(None, grad_plan, grad_potentials, rtol=rtol)
            finally:
                p.cost = cost
            grads["X"], grads["Y"] = cost.pull_weighted(backend.take("M", given["M"]))
            grads["a"], grads["b"] = (backend.take(name, given[name]) for name in ("a", "b"))
            if grad_potentials is not None and shift is not None:
                self._gauge_gradients(shift, grad_potentials, grads)
        if grad_value is not None:
            scale = _validate.real_scalar("grad_value", grad_value)
            f, g = self._weight_gradients()
            grads["a"] = grads["a"] + scale * f
            grads["b"] = grads["b"] + scale * g
            mass = scale * p.mass
            pulled = mass * cost.pull(self._reg, self._x, self._y, self._threads)
            grads["X"] += pulled
            if not (self._symmetric and bool(xp.array_equal(self._x, self._y))):
                pulled = mass * cost.T.pull(self._reg, self._y, self._x, self._threads)
            grads["Y"] += pulled
        return {name: backend.give(x) for name, x in grads.items()}

    _threads: int
    _symmetric: bool  # both clouds are one

    def _start(self) -> tuple[Any, Any]:
        shift = self._problem.cost.shift
        return self._kl if shift is None else (self._kl[0] + shift[0], self._kl[1] + shift[1])

    def _gauge_gradients(
        self, shift: tuple[Any, Any], grad_potentials: tuple[Any, Any], grads: dict[str, Any]
    ) -> None:
        """Add the derivative, with respect to the weights, of the gauge's part that `shift` causes."""
        p = self._problem
        gf, gg = self._check_potential_gradients(grad_potentials)
        slope = 0.5 * float(gg.sum() - gf.sum())
        da, db = slope * shift[0], -slope * shift[1]
        along = 0.5 * float(p.a @ da + p.b @ db)  # the common mass changes no potential
        grads["a"] = grads["a"] + (da - along) / p.mass
        grads["b"] = grads["b"] + (db - along) / p.mass

    def _add_shift(self) -> None:
        """Make values and potentials, but not the plan's, those of the whole cost."""
        p = self._problem
        xp, (rows, cols) = p.cost.xp, p.cost.shift
        plan = LazyPlan(p.cost, self._x, self._y, self._reg, n_threads=self._threads)
        of_rows, of_cols = float(p.a @ rows), float(p.b @ cols)
        self.value += p.mass * (of_rows + of_cols)
        self.value_linear += p.mass * float(
            (plan @ xp.ones(p.cost.shape[1])) @ rows + (plan.T @ xp.ones(p.cost.shape[0])) @ cols
        )
        gauge = 0.5 * (of_rows - of_cols)
        f, g = (self._backend.take("potentials", q) for q in self.potentials)
        self.potentials = (
            self._backend.give(f + (rows - gauge)),
            self._backend.give(g + (cols + gauge)),
        )


def sinkhorn_points(
    X: Any,
    Y: Any,
    a: Any = None,
    b: Any = None,
    *,
    reg: float,
    metric: str = "sqeuclidean",
    scale: float | None = None,
    method: str = "auto",
    tol: float | None = None,
    reg_type: str = "kl",
    maxiter: int | None = None,
    unbalanced: Any = None,
    linear_solver: str = "auto",
    sparsify: str = "mass",
    eps_scaling: bool = True,
    init: Any = None,
    return_plan: str | bool = "lazy",
    symmetric: bool = False,
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
    n_threads: int | None = None,
) -> OTPointsResult:
    """Solve entropic optimal transport between two clouds of points.

    As `sinkhorn` on ``dist(X, Y, metric) / scale``, with costs formed whenever they are needed: O((n + m) d)
    memory. Distances come from differences of coordinates, so a point's distance to itself is exactly 0. At
    small `reg`, far pairs of neighbourhoods, whose entries of the plan are below 1e-20 of both weights, are
    not visited (on a GPU they are). Up to 2 million pairs the kernel is kept between passes (16 MB), which is
    faster. Arrays of NumPy run on the CPU, of CuPy on their GPU.

    Parameters
    ----------
    X : array_like of shape (n, d)
        Points, float32 or float64 (integers become float64). Computations are in float64.
    Y : array_like of shape (m, d)
        Other points.
    a, b : array_like of shape (n,), (m,), or None
        Weights, non-negative, of equal mass (to 1e-9 relative; 1e-5 for float32 weights, `b` is then
        rescaled). None is uniform with mass 1. Zeros are allowed.
    reg : float
        Regularisation strength > 0, in the units of the cost.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        Cost between two points.
    scale : float, optional
        The cost is divided by it. Default 1.
    method : {"auto", "newton", "sns", "sinkhorn"}
        As for `sinkhorn`.
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1. Default 1e-9 (float32 points: 1e-6).
    reg_type : {"kl", "entropy"}
        Convention of `value` and `potentials`, as for `sinkhorn`.
    maxiter : int, optional
        Sinkhorn iterations plus Newton steps. Default 10000.
    unbalanced : float or (float, float), optional
        Penalties (rho_a, rho_b) on the marginals, as for `sinkhorn`.
    linear_solver, sparsify, eps_scaling
        As for `sinkhorn`.
    init : (f, g) or OTResult, optional
        Potentials to start from, in the convention of `reg_type`. Skips the scaling of `reg`, unless
        the solve stagnates from there.
    return_plan : {"lazy", "sparse", "dense", False}
        Form of ``result.plan``, as for `sinkhorn`; "dense" takes n*m numbers.
    symmetric : bool
        `Y` equals `X` and `b` equals `a`, in the same order: averaged Sinkhorn updates, whose error halves
        each time whatever `reg`, and, from a cold start, f equals g to the last bit. Where `method` is not
        "auto", marginals are penalised, or those updates stall, the general solver is used all the same.
    callback : callable, optional
        ``callback(intermediate_result)`` before every step; fields ``nit, kind, eps, err, n_cg, alpha, nnz,
        time``. Raise StopIteration to stop.
    verbose : int
        1: one line per step to the logger "aitken".
    progress : bool
        Show a tqdm bar, where tqdm is installed.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    OTPointsResult
        An `OTResult` whose `vjp` gives gradients for the points.

    Raises
    ------
    TypeError
        Complex or object data, arguments on different devices, or ``reg=None``.
    ValueError
        ``reg <= 0``, NaN or Inf in the points, no points, negative, empty or NaN weights, unequal masses,
        shapes that do not fit, zero vectors for "cosine", `symmetric` for clouds that differ, an unknown
        option, one that `unbalanced` excludes.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; the message has the error and one piece of advice.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((400, 3)), rng.standard_normal((300, 3)) + 1
    >>> r = ot.sinkhorn_points(X, Y, reg=0.05)
    >>> moved = r.plan @ Y * len(X)  # where the points of X go, on average
    >>> r.success, moved.shape
    (True, (400, 3))
    """
    result, tol = solve_points(
        X,
        Y,
        a,
        b,
        reg=reg,
        metric=metric,
        scale=scale,
        method=method,
        tol=tol,
        reg_type=reg_type,
        maxiter=maxiter,
        unbalanced=unbalanced,
        linear_solver=linear_solver,
        sparsify=sparsify,
        eps_scaling=eps_scaling,
        init=init,
        return_plan=return_plan,
        symmetric=symmetric,
        callback=callback,
        verbose=verbose,
        progress=progress,
        n_threads=n_threads,
    )
    warn_unsolved(result, "sinkhorn_points", tol)
    return result


def solve_points(
    X: Any,
    Y: Any,
    a: Any = None,
    b: Any = None,
    *,
    reg: float,
    metric: str = "sqeuclidean",
    scale: float | None = None,
    method: str = "auto",
    tol: float | None = None,
    reg_type: str = "kl",
    maxiter: int | None = None,
    unbalanced: Any = None,
    linear_solver: str = "auto",
    sparsify: str = "mass",
    eps_scaling: bool = True,
    init: Any = None,
    return_plan: str | bool = "lazy",
    symmetric: bool = False,
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
    n_threads: int | None = None,
) -> tuple[OTPointsResult, float]:
    """`sinkhorn_points` without its warning: the result and the tolerance that it was solved to."""
    start = time.perf_counter()
    backend = _dispatch.select(X=X, Y=Y, a=a, b=b)
    xp = backend.xp
    _validate.choice("metric", metric, METRICS)
    _validate.choice("reg_type", reg_type, ("kl", "entropy"))
    _validate.choice("return_plan", return_plan, ("lazy", "sparse", "dense", False))
    _validate.boolean("symmetric", symmetric)
    if reg is None:
        raise TypeError("`reg` is None; a number > 0 is needed")
    reg = _validate.positive_scalar("reg", reg)
    scale = 1.0 if scale is None else _validate.positive_scalar("scale", scale)
    _validate.callback("callback", callback)
    threads = _validate.n_threads(n_threads)
    rho = _unbalanced.penalties(unbalanced)
    _unbalanced.refuse(rho, method=method, reg_type=reg_type, round=False)
    _unbalanced.refuse_huge(rho, reg)
    soft = _unbalanced.is_soft(rho)

    X = _validate.as_float_array("X", backend.take("X", X), ndim=2, xp=xp)
    Y = _validate.as_float_array("Y", backend.take("Y", Y), shape=(None, X.shape[1]), xp=xp)
    for name, Z in (("X", X), ("Y", Y)):
        if Z.shape[0] == 0 or Z.shape[1] == 0:
            raise ValueError(
                f"`{name}` has shape {Z.shape}; at least one point and one coordinate are needed"
            )
    n, m = X.shape[0], Y.shape[0]
    weights, mass = check_weights(backend, a, b, n, m, soft)
    if symmetric and not (bool(xp.array_equal(X, Y)) and bool(xp.array_equal(*weights))):
        raise ValueError("`symmetric` needs `Y` equal to `X` and `b` equal to `a`")
    cost = PointCost(X, Y, metric, scale, reg, not soft)
    given = weights if soft else None
    result = OTPointsResult()
    result._problem = _Problem(cost, weights[0], weights[1], cost.spread(), mass, False, rho, given)
    result._backend, result._reg, result._rounded, result._reg_type = backend, reg, False, reg_type
    result._threads, result._symmetric = threads, symmetric
    options = solver_options(
        method=method,
        tol=tol,
        maxiter=maxiter,
        linear_solver=linear_solver,
        sparsify=sparsify,
        eps_scaling=eps_scaling,
        warmup=20,
        lam=None,
        warm=init is not None,
        single=cost.dtype == np.float32,
        threads=threads,
    )
    options["reg"], options["symmetric"] = reg, symmetric
    tol = options["tol"]
    monitor = Monitor(
        "sinkhorn_points", callback, _validate.integer("verbose", verbose), progress, tol, _COLUMNS
    )
    kernel = xp.empty((n, m)) if n * m <= _KEPT else None
    solve_into(result, options, _moved(init, cost, reg, backend), kernel, monitor)
    if cost.shift is not None:
        result._add_shift()
    same = return_plan == "dense" and cost.dtype == np.float64
    _set_plan(result, kernel if same else None, return_plan, False, threads)
    result.time = time.perf_counter() - start
    return result, tol


def _moved(init: Any, cost: PointCost, reg: float, backend: _dispatch.Backend) -> Any:
    """`init` for the costs without their shift; from another result as if the clouds lay where those lay."""
    if init is None:
        return None
    past = init._problem.cost if isinstance(init, OTPointsResult) else None
    if cost.shift is None and (past is None or past.shift is None):
        return init
    if past is not None and past.shape == cost.shape and past.metric == cost.metric == "sqeuclidean":
        f, g = init._kl
        for side, sign in ((past, -1.0), (cost, 1.0)):
            if side.shift is None and side.has_moves:
                moves = side.moves()
                f, g = f + sign * moves[0], g + sign * moves[1]
        return _Start(*_level(f, g, cost, reg))
    if cost.shift is None:
        return init
    if isinstance(init, OTResult):
        f, g = (backend.take("init", q) for q in init._start())
        fits = (len(f), len(g)) == cost.shape
        return _Start(*_level(f - cost.shift[0], g - cost.shift[1], cost, reg)) if fits else init
    try:
        f, g = init
        return _level(f - cost.shift[0], g - cost.shift[1], cost, reg)
    except (TypeError, ValueError):
        return init  # refused by name where it is read


def _level(f: Any, g: Any, cost: PointCost, reg: float) -> tuple[Any, Any]:
    """The pair without the constants that cost digits: between its sides, and a sum that no plan can have."""
    xp = cost.xp
    middles = [float(q[xp.isfinite(q)].mean()) if bool(xp.isfinite(q).any()) else 0.0 for q in (f, g)]
    half = 0.5 * (middles[0] + middles[1])
    if abs(half) > 4.0 * cost.spread() + 1e3 * reg:
        half = 0.0
    return f - (middles[0] - half), g - (middles[1] - half)


class _Start(OTResult):
    """Kl-form potentials alone, to start from."""

    def __init__(self, f: Any, g: Any) -> None:
        self._kl = (f, g)
