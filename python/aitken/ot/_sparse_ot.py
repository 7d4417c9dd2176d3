"""`sparse_ot`: transport with at most k entries in every column of the plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._progress import Monitor
from .._result import Result, Status, warn_not_converged
from ._quadratic import NO_PLAN, SparsePlanResult, balance, extend, set_solution, start_from
from ._sinkhorn import _check_problem

_COLUMNS = {"value": ".8e", "err": ".3e", "alpha": ".2e"}
_FIELDS = ("value", "err", "alpha", "time")


class SparseOTResult(SparsePlanResult):
    """Solution of `sparse_ot`: a `SparsePlanResult`.

    Attributes
    ----------
    value : float
        The dual's value: a lower bound of ``<M, P> + (gamma / 2) ||P||^2`` over plans that meet `a`, `b`
        and k.
    gap : float
        The plan's objective minus `value`. Where rows are not met it may have either sign.
    err : float
        Certificate: ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1. Columns are exact in the
        semi-dual, so this is what the rows miss.
    success : bool
        `err` is within `tol`: the plan meets all constraints and is optimal.
    status : Status
        STAGNATED where the dual has stopped rising with rows not met: the usual end for small k, of which no
        warning is given.
    n_eval : int
        Evaluations of the dual, a pass over the cost each.
    history : dict of ndarray
        Per iteration: ``value``, ``err`` (before it), ``alpha``, ``time``.
    """

    n_eval: int
    history: dict[str, np.ndarray]

    def vjp(self, grad_value: float) -> dict[str, Any]:
        """Gradients of ``grad_value * value`` with respect to the inputs, by the envelope theorem.

        Parameters
        ----------
        grad_value : float
            dL/dvalue.

        Returns
        -------
        dict
            ``"M"`` of shape (n, m): the plan, a supergradient of the value only where ``err = 0``. Where rows
            are not met (status STAGNATED) the dual is at a kink, and the plan is that of one side of it, good
            to about `err`. ``"a"`` of shape (n,), ``"b"`` of shape (m,): the potentials, defined up to adding
            a constant to one and subtracting it from the other.

        Raises
        ------
        TypeError, ValueError
            `grad_value` is not a finite real number.
        """
        return super().vjp(grad_value)


def sparse_ot(
    a: Any,
    b: Any,
    M: Any,
    k: int,
    gamma: float,
    *,
    form: str = "semidual",
    tol: float | None = None,
    ftol: float = 1e-10,
    maxiter: int | None = None,
    init: Any = None,
    return_plan: str | bool = "sparse",
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
    n_threads: int | None = None,
) -> SparseOTResult:
    """Transport with at most k entries in every column, by the dual of the constrained problem [1]_.

    Minimises ``<M, P> + (gamma / 2) ||P||^2`` over plans P with row sums `a`, column sums `b` and at most `k`
    nonzeros per column. The constraint is not convex: the dual is solved by limited-memory BFGS, and its plan
    meets columns and k, but for small k (the optimum then lies on a kink of the dual) not the rows. Then a
    duality gap is left; `err` and `gap` say how much, and that is no failure of the solver. If the plan of
    `quadratic_ot` has no more than k entries in any column it solves this problem too, and is returned; so
    it is for ``k >= n``. Runs on the CPU.

    Parameters
    ----------
    a, b : array_like of shape (n,), (m,), or None
        Weights, non-negative, of equal mass. None is uniform with mass 1. Zeros are allowed.
    M : array_like of shape (n, m)
        Cost, float32 or float64. ``+inf`` forbids a pair.
    k : int
        Most nonzeros in a column, >= 1.
    gamma : float
        Regularisation > 0, in units of the cost per mass. Larger values spread columns over more rows, and
        make rows easier to meet.
    form : {"semidual", "dual"}
        Unknowns: the rows' potentials, with every column projected onto its simplex; or both potentials,
        without projections, so that columns are met only at the optimum.
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1 at which the plan counts as feasible.
        Default 1e-6.
    ftol : float, default 1e-10
        The dual counts as no longer rising when ten iterations gain less than this times the cost's range
        and the mass, also after their memory was cleared.
    maxiter : int, optional
        L-BFGS iterations. Default 5000.
    init : (f, g) or a result with potentials, optional
        Potentials to start from, in place of those of `quadratic_ot`.
    return_plan : {"sparse", "dense", False}
        Form of ``result.plan``.
    callback : callable, optional
        ``callback(intermediate_result)`` after every iteration; fields ``nit, value, err, alpha, time``.
        Raise StopIteration to stop.
    verbose : int
        1: one line per iteration to the logger "aitken".
    progress : bool
        Show a tqdm bar, where tqdm is installed.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    SparseOTResult
        See there for the fields.

    Raises
    ------
    TypeError
        Complex or object data, arrays on a GPU, or a `k` that is no integer.
    ValueError
        ``k < 1``, ``gamma <= 0``, and as `quadratic_ot`.

    Warns
    -----
    ConvergenceWarning
        If the dual was still rising when the iterations ran out, rows are missed although k >= n, `gamma` is
        below what the costs' rounding resolves, or forbidden pairs leave no plan (status DIVERGED).

    References
    ----------
    .. [1] T. Liu, J. Puigcerver, M. Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> M = np.random.default_rng(0).random((30, 40))
    >>> r = ot.sparse_ot(None, None, M, k=2, gamma=1.0)
    >>> int(r.plan.count_nonzero(axis=0).max()), r.value <= ot.sparse_ot(None, None, M, k=1, gamma=1.0).value
    (2, True)
    """
    start = time.perf_counter()
    backend = _dispatch.select_cpu("sparse_ot", a=a, b=b, M=M)
    k = _validate.integer("k", k, minimum=1)
    gamma = _validate.positive_scalar("gamma", gamma)
    semidual = _validate.choice("form", form, ("semidual", "dual")) == "semidual"
    shape = _validate.choice("return_plan", return_plan, ("sparse", "dense", False))
    _validate.callback("callback", callback)
    threads = _validate.n_threads(n_threads)
    tol = 1e-6 if tol is None else _validate.positive_scalar("tol", tol)
    maxiter = 5000 if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1)
    ftol = _validate.tolerance("ftol", ftol)
    verbose = _validate.integer("verbose", verbose)
    problem = _check_problem(backend, a, b, M, False, False, threads)
    # The kernels choose along contiguous rows: here those are the columns of M.
    columns = problem
    if not problem.transposed:
        cost = np.ascontiguousarray(problem.cost.T)
        columns = replace(problem, cost=cost, a=problem.b, b=problem.a, transposed=True)
    y, x = start_from(backend, init, columns)
    mass = problem.mass
    report: dict[str, Any] = {}
    if init is None:
        report = _core.ot_quadratic(
            columns.cost,
            columns.a,
            columns.b,
            columns.range,
            y,
            x,
            {"gamma": gamma * mass, "tol": min(tol, 1e-9), "n_threads": threads},
            None,
        )
    impossible = report.get("detail") if report.get("status") == Status.DIVERGED else None
    inactive = bool(report) and report["err"] <= tol and np.diff(report["plan"][0]).max() <= k
    if inactive:
        report["value"] = report["value_linear"] + 0.5 * gamma * mass * report["square"]
        report.update(nit=0, n_eval=0, history=[], status=int(Status.CONVERGED))
    else:
        start_x = np.where(np.isfinite(x), x, 0.0)
        x = np.where(columns.b > 0, start_x, -np.inf)
        y = np.where(np.isfinite(y), y, 0.0)
        monitor = Monitor("sparse_ot", callback, verbose, progress, tol, _COLUMNS)
        options = {
            "gamma": gamma * mass,
            "k": min(k, columns.cost.shape[1]),
            "tol": tol,
            "ftol": ftol,
            "maxiter": maxiter,
            "semidual": semidual,
            "n_threads": threads,
        }
        try:
            report = _core.ot_topk(
                columns.cost,
                columns.a,
                columns.b,
                columns.range,
                x,
                y,
                options,
                None if monitor.silent else monitor,
            )
        finally:
            monitor.close(converged=report.get("status") == Status.CONVERGED)

    result = SparseOTResult()
    y[columns.a == 0] = -np.inf
    extend(columns, y, x, threads)
    balance(columns, y, x)
    set_solution(result, backend, columns, y, x, report["plan"], shape)
    primal = report["value_linear"] + 0.5 * gamma * mass * report["square"]
    result.value, result.value_linear = mass * report["value"], mass * report["value_linear"]
    result.err, result.gap = report["err"], mass * (primal - report["value"])
    result.nit, result.n_eval = report["nit"], report["n_eval"]
    status, detail, advice = Status(report["status"]), report["detail"], None
    # What a rounded cost moves the plan's n + m entries by, with room for luck.
    rounding = 0.1 * sum(columns.cost.shape) * np.finfo(float).eps * columns.range / (gamma * mass)
    kink = False
    if status != Status.CONVERGED and impossible is not None:
        status, detail, advice = Status.DIVERGED, impossible, NO_PLAN
    elif not np.isfinite((result.value, result.value_linear, result.err)).all():
        status = Status.NONFINITE
    elif status == Status.STAGNATED and rounding > tol:
        detail = f"the rounding of the costs over `gamma` moves marginals by some {rounding:.0e}"
        advice = "Raise `gamma`, or use `exact_ot`."
    elif status == Status.STAGNATED:
        kink = k < columns.cost.shape[1]
    result.status, result.success = status, status == Status.CONVERGED
    how = f"{status.message} ({detail})" if detail else status.message
    if kink:
        how = f"the dual has stopped rising; at most {k} entries per column leave a duality gap"
    result.message = f"{how}; L1 marginal error {result.err:.2e}, gap {result.gap:.2e}, tolerance {tol:.2e}"
    result.history = {name: np.array([step[name] for step in report["history"]]) for name in _FIELDS}
    result.time = time.perf_counter() - start
    if not kink:
        warn_not_converged(
            result,
            solver="sparse_ot",
            quantity="L1 marginal error",
            error=result.err,
            target=tol,
            advice=advice,
        )
    return result
