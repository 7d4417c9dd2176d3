"""`quadratic_ot`: transport with a squared penalty, whose plans are sparse; and what sparse plans share."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from .. import _core, _dispatch, _validate
from .._progress import Monitor
from .._result import Result, Status, warn_not_converged
from ._sinkhorn import _check_problem, _Problem

_COLUMNS = {"gamma": ".3e", "err": ".3e", "n_cg": "d", "alpha": ".2e", "nnz": "d"}
_FIELDS = ("gamma", "err", "n_cg", "alpha", "nnz", "time")
_IMPLICIT_TOL = 1e-8  # the linear solve behind a plan's gradient aims at 1e-14
NO_PLAN = "Change the weights, or allow more pairs: where `M` is inf nothing may be sent."
_PLAIN = 200  # costs and penalties within 2**-200 .. 2**200 are solved as they are


class SparsePlanResult(Result):
    """What the results of `quadratic_ot`, `sparse_ot` and `exact_ot` share.

    Attributes
    ----------
    value : float
        The objective at the solution; each function says by which formula.
    value_linear : float
        ``<M, P>``.
    plan : scipy.sparse.csr_array, ndarray or None
        The transport plan P, shape (n, m).
    potentials : (ndarray of shape (n,), ndarray of shape (m,))
        Dual potentials (f, g) in the gauge ``a @ f == b @ g``, float64; extended to bins without mass, inf
        for a bin whose every pair is forbidden.
    err : float
        Certificate: ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1, recomputed from the plan.
    gap : float
        Objective of the plan minus the value of the dual at `potentials`.
    nit : int
        Iterations.
    success, status, message : bool, Status, str
        How the solve ended.
    time : float
        Wall seconds of the whole call.
    """

    value: float
    value_linear: float
    plan: Any
    potentials: tuple[Any, Any]
    err: float
    gap: float
    nit: int
    success: bool
    status: Status
    message: str
    time: float
    _backend: _dispatch.Backend
    _plan: sparse.csr_array
    _potentials: tuple[np.ndarray, np.ndarray]

    def vjp(self, grad_value: float) -> dict[str, Any]:
        """Gradients of ``grad_value * value`` with respect to the inputs, by the envelope theorem.

        Parameters
        ----------
        grad_value : float
            dL/dvalue.

        Returns
        -------
        dict
            ``"M"`` of shape (n, m), ``"a"`` of shape (n,), ``"b"`` of shape (m,); those of a and b are
            defined up to adding a constant to one and subtracting it from the other. Where the optimal plan
            or the potentials are not unique they are one subgradient.

        Raises
        ------
        TypeError, ValueError
            `grad_value` is not a finite real number.
        """
        return self._give(self._value_gradient(_validate.real_scalar("grad_value", grad_value)))

    def _value_gradient(self, scale: float) -> dict[str, np.ndarray]:
        f, g = (np.where(np.isfinite(q), q, 0.0) for q in self._potentials)
        return {"M": scale * self._plan.toarray().astype(np.float64), "a": scale * f, "b": scale * g}

    def _give(self, grads: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: self._backend.give(x) for name, x in grads.items()}


class QuadraticResult(SparsePlanResult):
    """Solution of `quadratic_ot`: a `SparsePlanResult` with the plan's derivative.

    Attributes
    ----------
    value : float
        ``<M, P> + (gamma / 2) ||P||^2`` at the solution, by duality: its error is of second order in `err`.
    nit_cg, n_factor, n_pass : int
        CG iterations inside the Newton steps, sparse factorisations, passes over the cost.
    history : dict of ndarray
        Per step: ``gamma``, ``err`` (before it), ``n_cg`` (0: factored), ``alpha``, ``nnz``, ``time``.
    """

    nit_cg: int
    n_factor: int
    n_pass: int
    history: dict[str, np.ndarray]
    _gamma: float

    def vjp(self, grad_value: float | None = None, grad_plan: Any = None) -> dict[str, Any]:
        """Gradients of a scalar function of `value` and `plan` with respect to the inputs.

        The value's gradient is the envelope theorem's. The plan's is found on its support by one linear
        solve (implicit differentiation); where a reduced cost is exactly zero the plan has a kink, and this
        is the derivative of one side. Where the support falls into several components, a and b are taken to
        keep equal masses in each.

        Parameters
        ----------
        grad_value : float, optional
            dL/dvalue.
        grad_plan : array of shape (n, m), optional
            dL/dP; entries outside the support are of no consequence.

        Returns
        -------
        dict
            ``"M"`` of shape (n, m), ``"a"`` of shape (n,), ``"b"`` of shape (m,).

        Raises
        ------
        ValueError
            Nothing to differentiate, or a wrong shape of `grad_plan`.

        Warns
        -----
        ConvergenceWarning
            The linear solve left a relative residual above 1e-8.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> M = np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> r = ot.quadratic_ot([0.5, 0.5], [0.25, 0.75], M, 0.1)
        >>> bool(np.allclose(r.vjp(grad_value=1.0)["M"], r.plan.toarray()))
        True
        """
        if grad_value is None and grad_plan is None:
            raise ValueError("`grad_value` and `grad_plan` are both None; nothing to differentiate")
        n, m = self._plan.shape
        grads = self._value_gradient(
            0.0 if grad_value is None else _validate.real_scalar("grad_value", grad_value)
        )
        if grad_plan is not None:
            G = _validate.as_float_array(
                "grad_plan", self._backend.take("grad_plan", grad_plan), shape=(n, m), dtype=np.float64
            )
            plan = self._plan
            rows = np.repeat(np.arange(n), np.diff(plan.indptr))
            entries = G[rows, plan.indices]
            w = np.bincount(rows, entries, n).astype(np.float64)
            z = np.bincount(plan.indices, entries, m).astype(np.float64)
            u, v = np.zeros(n), np.zeros(m)
            residual = _core.ot_support(
                plan.indptr.astype(np.int64), plan.indices.astype(np.int32), w, z, u, v
            )
            warn_not_converged(
                Result(status=Status.CONVERGED if residual <= _IMPLICIT_TOL else Status.STAGNATED),
                solver="QuadraticResult.vjp",
                quantity="relative residual (max-norm) of the implicit system",
                error=residual,
                target=_IMPLICIT_TOL,
            )
            grads["M"][rows, plan.indices] += (u[rows] + v[plan.indices] - entries) / self._gamma
            grads["a"] += u
            grads["b"] += v
        return self._give(grads)


def quadratic_ot(
    a: Any,
    b: Any,
    M: Any,
    gamma: float,
    *,
    tol: float | None = None,
    maxiter: int | None = None,
    init: Any = None,
    return_plan: str | bool = "sparse",
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
    n_threads: int | None = None,
) -> QuadraticResult:
    """Solve one transport problem with quadratic regularisation.

    Minimises ``<M, P> + (gamma / 2) ||P||^2`` over plans P with row sums `a` and column sums `b`. The plan
    ``max(0, f + g - M) / gamma`` is sparse, with exact zeros. Regularised semi-smooth Newton steps on the
    dual, by sparse factorisation of the plan's support, along a decreasing sequence of gamma. Runs on the
    CPU.

    Parameters
    ----------
    a, b : array_like of shape (n,), (m,), or None
        Weights, non-negative, of equal mass (to 1e-9 relative; 1e-5 for float32 weights). None is uniform
        with mass 1. Zeros are allowed.
    M : array_like of shape (n, m)
        Cost, float32 or float64 (integers become float64). ``+inf`` forbids a pair.
    gamma : float
        Regularisation > 0, in units of the cost per mass. Entries of P are some ``mass / n``, so that gamma
        acts as a regularisation of size ``gamma / n`` does in `sinkhorn`.
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1. Default 1e-9 (float32 costs: 1e-6).
        Rounding of ``f + g - M`` leaves some ``1e-16 (n + m) max|M| / (gamma mass)``; an offset of all of M
        beyond its range does not count.
    maxiter : int, optional
        Newton steps. Default 500.
    init : (f, g) or a result with potentials, optional
        Potentials to start from. Skips the sequence of gamma.
    return_plan : {"sparse", "dense", False}
        Form of ``result.plan``: a CSR array, an array, or None.
    callback : callable, optional
        ``callback(intermediate_result)`` after every step; fields ``nit, gamma, err, n_cg, alpha, nnz,
        time``. Raise StopIteration to stop.
    verbose : int
        1: one line per step to the logger "aitken".
    progress : bool
        Show a tqdm bar, where tqdm is installed.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    QuadraticResult
        ``success`` only if `err`, recomputed from the plan, is within `tol`.

    Raises
    ------
    TypeError
        Complex or object data, or arrays on a GPU.
    ValueError
        ``gamma <= 0``, negative, empty or NaN weights, unequal masses, shapes that do not fit, NaN or -inf in
        `M`, a bin with mass whose costs are all infinite.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached. Status DIVERGED: forbidden pairs leave no plan with these weights.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> M = np.random.default_rng(0).random((200, 300))
    >>> r = ot.quadratic_ot(None, None, M, gamma=1.0)
    >>> r.success, r.plan.nnz < 2000
    (True, True)
    """
    start = time.perf_counter()
    backend = _dispatch.select_cpu("quadratic_ot", a=a, b=b, M=M)
    gamma = _validate.positive_scalar("gamma", gamma)
    form = _validate.choice("return_plan", return_plan, ("sparse", "dense", False))
    _validate.callback("callback", callback)
    threads = _validate.n_threads(n_threads)
    problem = _check_problem(backend, a, b, M, False, False, threads)
    tol = default_tol(problem) if tol is None else _validate.positive_scalar("tol", tol)
    maxiter = 500 if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1)
    x, y = start_from(backend, init, problem)
    monitor = Monitor(
        "quadratic_ot", callback, _validate.integer("verbose", verbose), progress, tol, _COLUMNS
    )
    problem, offset, power = _plain_cost(problem, gamma)
    x[:], y[:] = (np.ldexp(q - 0.5 * offset, -power) for q in (x, y))
    penalty = max(_ldexp(gamma * problem.mass, -power), sys.float_info.min)
    options = {
        "gamma": penalty,
        "tol": tol,
        "maxiter": maxiter,
        "warm": init is not None,
        "n_threads": threads,
    }
    report: dict[str, Any] = {}
    try:
        report = _core.ot_quadratic(
            problem.cost,
            problem.a,
            problem.b,
            problem.range,
            x,
            y,
            options,
            None if monitor.silent else lambda step: monitor(_in_units(step, power)),
        )
    finally:
        monitor.close(converged=report.get("status") == Status.CONVERGED)

    result = QuadraticResult()
    mass = problem.mass
    extend(problem, x, y, threads)
    dual = balance(problem, x, y) - 0.5 * penalty * report["square"]
    primal = report["value_linear"] + 0.5 * penalty * report["square"]
    result.value, result.value_linear = (
        mass * (_ldexp(v, power) + offset) for v in (dual, report["value_linear"])
    )
    x[:], y[:] = (np.ldexp(q, power) + 0.5 * offset for q in (x, y))
    set_solution(result, backend, problem, x, y, report["plan"], form)
    result.err, result.gap = report["err"], mass * _ldexp(primal - dual, power)
    result.nit, result.nit_cg = report["nit"], report["nit_cg"]
    result.n_factor, result.n_pass = report["n_factor"], report["n_pass"]
    result.status = Status(report["status"])
    result.success = result.status == Status.CONVERGED
    detail = f" ({report['detail']})" if report["detail"] else ""
    result.message = (
        f"{result.status.message}{detail}; L1 marginal error {result.err:.2e}, tolerance {tol:.2e}"
    )
    history = [_in_units(step, power) for step in report["history"]]
    result.history = {name: np.array([step[name] for step in history]) for name in _FIELDS}
    result._gamma = gamma
    result.time = time.perf_counter() - start
    quantity, advice = "L1 marginal error", NO_PLAN if result.status == Status.DIVERGED else None
    warn_not_converged(
        result, solver="quadratic_ot", quantity=quantity, error=result.err, target=tol, advice=advice
    )
    return result


def _plain_cost(problem: _Problem, gamma: float) -> tuple[_Problem, float, int]:
    """A problem without a large offset or extreme scale: cost = offset + 2**power * its cost."""
    cost, spread = problem.cost, problem.range
    largest = sys.float_info.max
    power = math.frexp(min(max(spread, gamma * problem.mass), largest))[1]
    power = 0 if abs(power) <= _PLAIN else power
    if power:
        # In two steps: half the power alone always is a normal number.
        cost = np.ldexp(np.ldexp(cost, -(power // 2)), power // 2 - power)
        finite = cost[np.isfinite(cost)]
        spread = float(finite.max() - finite.min())
    offset = float(cost.min())
    if abs(offset) > spread:
        cost = cost - cost.dtype.type(offset)
    else:
        offset = 0.0
    if cost is problem.cost:
        return problem, 0.0, 0
    return replace(problem, cost=cost, range=spread), _ldexp(offset, power), power


def _ldexp(x: float, power: int) -> float:
    """``x * 2**power``, inf where that overflows."""
    with np.errstate(over="ignore"):
        return float(np.ldexp(x, power))


def _in_units(step: dict[str, Any], power: int) -> dict[str, Any]:
    """A step's report with gamma in the units of the given cost."""
    return {**step, "gamma": _ldexp(step["gamma"], power)}


def default_tol(problem: _Problem) -> float:
    """1e-9, or 1e-6 for costs in single precision."""
    return 1e-6 if problem.cost.dtype == np.float32 else 1e-9


def start_from(backend: _dispatch.Backend, init: Any, problem: _Problem) -> tuple[np.ndarray, np.ndarray]:
    """Potentials in the kernels' orientation: those of `init`, or zeros."""
    n, m = problem.cost.shape
    if init is None:
        return np.zeros(n), np.zeros(m)
    if isinstance(init, Result):
        init = init.get("potentials")
    pair = _validate.pair("init", init, "a pair of potentials (f, g)", " or a result that has them")
    lengths = (m, n) if problem.transposed else (n, m)
    out = []
    for k, (q, length) in enumerate(zip(pair, lengths, strict=True)):
        name = f"init[{k}]"
        q = _validate.as_float_array(
            name, backend.take(name, q), shape=(length,), dtype=np.float64, finite=False
        )
        if np.isnan(q).any():
            _validate.check_finite(name, q)
        out.append(np.where(np.isfinite(q), q, 0.0))
    return (out[1], out[0]) if problem.transposed else (out[0], out[1])


def extend(problem: _Problem, x: np.ndarray, y: np.ndarray, threads: int) -> None:
    """Potentials of bins without mass by the c-transform, in place: as large as they may be for the dual."""
    rows, cols = problem.a == 0, problem.b == 0
    if rows.any():
        y[cols] = -np.inf
        out = np.empty(int(rows.sum()))
        _core.ot_hard_transform(np.ascontiguousarray(problem.cost[rows]), False, y, out, threads)
        x[rows] = out
    if cols.any():
        out = np.empty(int(cols.sum()))
        finite = np.where(np.isfinite(x), x, -np.inf)
        _core.ot_hard_transform(np.ascontiguousarray(problem.cost[:, cols]), True, finite, out, threads)
        y[cols] = out


def balance(problem: _Problem, x: np.ndarray, y: np.ndarray) -> float:
    """Shift the potentials so that a.x = b.y, in place; returns the sum of the two."""
    mean_x = float(problem.a @ np.where(problem.a > 0, x, 0.0))
    mean_y = float(problem.b @ np.where(problem.b > 0, y, 0.0))
    x -= 0.5 * (mean_x - mean_y)
    y += 0.5 * (mean_x - mean_y)
    return mean_x + mean_y


def set_solution(
    result: SparsePlanResult,
    backend: _dispatch.Backend,
    problem: _Problem,
    x: np.ndarray,
    y: np.ndarray,
    csr: tuple[np.ndarray, np.ndarray, np.ndarray],
    form: str | bool,
) -> None:
    """Plan and potentials in the caller's orientation and form."""
    indptr, indices, values = csr
    plan = sparse.csr_array((values * problem.mass, indices, indptr), shape=problem.cost.shape)
    if problem.transposed:
        plan = plan.T.tocsr()
        x, y = y, x
    plan.sort_indices()
    result._backend, result._plan, result._potentials = backend, plan, (x, y)
    result.potentials = (backend.give(x), backend.give(y))
    result.plan = None
    if form:
        typed = plan.astype(problem.cost.dtype)
        result.plan = typed if form == "sparse" else backend.give(typed.toarray())
