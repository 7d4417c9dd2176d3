"""`exact_ot`: the linear program's value, plan and potentials, with a certificate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._result import Status, warn_not_converged
from ._quadratic import SparsePlanResult, balance, extend, set_solution, start_from
from ._sinkhorn import _check_problem, _Problem

_WARM_REG, _WARM_TOL, _WARM_ITERATIONS = 1e-3, 2e-2, 200  # of the entropic start; reg relative to the range
_ROUNDING = 4e-15  # of the gap, relative to mass times the largest finite cost
_MARGINAL = 1e-10  # L1 error above which a plan does not count as feasible


class ExactResult(SparsePlanResult):
    """Solution of `exact_ot`: a `SparsePlanResult`.

    Attributes
    ----------
    value : float
        ``<M, P>`` of the plan: an upper bound of the linear program's value.
    lower_bound : float
        ``a @ f + b @ g`` at `potentials`, for which ``f_i + g_j <= M_ij`` by construction.
    gap : float
        ``value - lower_bound``: the certificate. Rounding may make it slightly negative.
    nit : int
        Pivots of the network simplex.
    nit_sinkhorn : int
        Iterations of the entropic start.
    n_pass : int
        Passes over the cost after it.
    """

    lower_bound: float
    nit_sinkhorn: int
    n_pass: int


def exact_ot(
    a: Any,
    b: Any,
    M: Any,
    *,
    tol: float = 1e-9,
    maxiter: int | None = None,
    init: Any = None,
    return_plan: str | bool = "sparse",
    n_threads: int | None = None,
) -> ExactResult:
    """Solve one transport problem without regularisation, to a certified duality gap.

    An entropic solution tells which pairs matter; the network simplex goes from there to a vertex, and
    passes over the whole cost add pairs until the potentials are feasible for the dual. The plan has at most
    n + m - 1 entries. Runs on the CPU.

    Parameters
    ----------
    a, b : array_like of shape (n,), (m,), or None
        Weights, non-negative, of equal mass (to 1e-9 relative; 1e-5 for float32 weights). None is uniform
        with mass 1. Zeros are allowed.
    M : array_like of shape (n, m)
        Cost, float32 or float64 (integers become float64). ``+inf`` forbids a pair.
    tol : float, default 1e-9
        Bound on the duality gap, relative to mass times the largest minus the smallest finite cost; rounding,
        some 4e-15 of mass times the largest, comes on top.
    maxiter : int, optional
        Pivots. Default: 50 (n + m) + 10000, times the logarithm of the size.
    init : (f, g) or a result with potentials, optional
        Potentials to start from, in place of the entropic ones.
    return_plan : {"sparse", "dense", False}
        Form of ``result.plan``: a CSR array, an array, or None.
    n_threads : int, optional
        CPU threads of the passes over the cost; pivots are sequential. Results do not depend on it.

    Returns
    -------
    ExactResult
        ``success`` only if `gap` is within the tolerance and ``err <= 1e-10``.

    Raises
    ------
    TypeError
        Complex or object data, or arrays on a GPU.
    ValueError
        ``tol < 0``, negative, empty or NaN weights, unequal masses, shapes that do not fit, NaN or -inf in
        `M`, a bin with mass whose costs are all infinite.

    Warns
    -----
    ConvergenceWarning
        If the pivots ran out (status MAX_ITERATIONS), or forbidden pairs leave no plan with these weights
        (status LOCALLY_INFEASIBLE).

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> M = np.random.default_rng(0).random((100, 100))
    >>> r = ot.exact_ot(None, None, M)
    >>> r.success, r.plan.nnz, bool(r.gap < 1e-12)
    (True, 100, True)
    """
    start = time.perf_counter()
    backend = _dispatch.select_cpu("exact_ot", a=a, b=b, M=M)
    tol = _validate.tolerance("tol", tol)
    form = _validate.choice("return_plan", return_plan, ("sparse", "dense", False))
    threads = _validate.n_threads(n_threads)
    maxiter = 0 if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1)
    problem = _check_problem(backend, a, b, M, False, False, threads)
    x, y = start_from(backend, init, problem)

    # Bins without mass take no part: the simplex wants positive weights.
    rows, cols = problem.a > 0, problem.b > 0
    whole = bool(rows.all() and cols.all())
    kept = problem
    if not whole:
        cost = np.ascontiguousarray(problem.cost[np.ix_(rows, cols)])
        kept = replace(problem, cost=cost, a=problem.a[rows], b=problem.b[cols])
    u, v = (x, y) if whole else (x[rows], y[cols])
    nit_sinkhorn = 0 if init is not None or problem.range == 0 else _entropic_start(kept, u, v, threads)
    options = {"slack": _WARM_REG * problem.range, "maxiter": maxiter, "n_threads": threads}
    report = _core.ot_exact(kept.cost, kept.a, kept.b, u, v, options)
    indptr, indices, values = report["plan"]
    if not whole:
        x[rows], y[cols] = u, v
        counts = np.zeros(problem.a.size, dtype=np.int64)
        counts[rows] = np.diff(indptr)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        indices = np.flatnonzero(cols)[indices].astype(np.int32)
        extend(problem, x, y, threads)

    result = ExactResult()
    mass = problem.mass
    balance(problem, x, y)
    set_solution(result, backend, problem, x, y, (indptr, indices, values), form)
    result.value = result.value_linear = mass * report["value"]
    result.lower_bound = mass * report["lower_bound"]
    result.gap, result.err = result.value - result.lower_bound, report["err"]
    result.nit, result.nit_sinkhorn, result.n_pass = report["n_pivots"], nit_sinkhorn, report["n_pass"]
    status, target = Status(report["status"]), tol * mass * problem.range
    rounding = _ROUNDING * mass * (abs(float(problem.cost.min())) + problem.range)
    if status == Status.CONVERGED and (result.err > _MARGINAL or result.gap > target + rounding):
        status = Status.STAGNATED
    result.status, result.success = status, status == Status.CONVERGED
    detail = f" ({report['detail']})" if report["detail"] else ""
    result.message = f"{status.message}{detail}; duality gap {result.gap:.2e}, tolerance {target:.2e}"
    result.time = time.perf_counter() - start
    warn_not_converged(result, solver="exact_ot", quantity="duality gap", error=result.gap, target=target)
    return result


def _entropic_start(problem: _Problem, x: np.ndarray, y: np.ndarray, threads: int) -> int:
    """Potentials of a rough entropic solution, in place; returns its iterations."""
    options = {
        "reg": _WARM_REG * problem.range,
        "tol": _WARM_TOL,
        "maxiter": _WARM_ITERATIONS,
        "n_threads": threads,
    }
    kernel = np.empty(problem.cost.shape, dtype=problem.cost.dtype)
    report = _core.ot_solve(problem.cost, problem.a, problem.b, problem.range, x, y, kernel, options, None)
    for q in (x, y):
        q[~np.isfinite(q)] = 0.0
    return int(report["nit_sinkhorn"] + report["nit_newton"])
