"""`barycenter`: the histogram nearest to several others in entropic transport."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._result import Result, Status, warn_not_converged
from ._pairwise import histograms


class BarycenterResult(Result):
    """An entropic barycentre.

    Attributes
    ----------
    barycenter : ndarray of shape (n,)
        The histogram, of mass 1 within `err`.
    potentials : ndarray of shape (n, N)
        ``reg * log(u_s)`` per measure, where ``diag(u_s) K diag(v_s)`` is the plan from the barycentre to it;
        float64. Starts another solve as `init`.
    err : float
        Certificate: ``sum_s weights_s ||P_s 1 - barycenter||_1``; the plans' other marginals are exact.
        NaN with status 4: numbers overflowed, and `barycenter` is the last good one, at a larger `reg`.
    nit : int
        Iterations, two products with the kernel per measure each.
    success, status, message : bool, Status, str
        ``success`` only if `err` is within `tol`.
    time : float
        Wall seconds of the whole call.
    """

    barycenter: Any
    potentials: Any
    err: float
    nit: int
    success: bool
    status: Status
    message: str
    time: float


def barycenter(
    A: Any,
    M: Any,
    reg: float,
    weights: Any = None,
    *,
    tol: float | None = None,
    maxiter: int = 10000,
    init: Any = None,
    n_threads: int | None = None,
) -> BarycenterResult:
    """Entropic Wasserstein barycentre of histograms on one cost.

    Minimises ``sum_s weights_s * OT_reg(p, A[:, s])`` over histograms p, with ``OT_reg`` in the entropy
    convention (``<M, P> + reg * sum P log P``), by iterative Bregman projections [1]_, accelerated.

    Parameters
    ----------
    A : array_like of shape (m, N)
        Histograms, a column each as in POT: non-negative, of any finite mass above 0; columns are scaled to
        mass 1.
    M : array_like of shape (n, m)
        Finite cost between the bins of the barycentre and those of `A`; often one set, n = m.
    reg : float
        Regularisation strength > 0, in the units of `M`.
    weights : array_like of shape (N,), optional
        Non-negative weights, scaled to sum 1. Default uniform.
    tol : float, optional
        Bound on ``sum_s weights_s ||P_s 1 - p||_1``. Default 1e-9 (1e-6 where all data are float32).
    maxiter : int
        Iterations.
    init : array_like of shape (n, N) or BarycenterResult, optional
        Potentials to start from.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    BarycenterResult
        See there for the fields.

    Raises
    ------
    TypeError
        Complex or object data, data on a GPU.
    ValueError
        Shapes that do not fit, ``reg <= 0``, NaN or Inf, negative or empty histograms, negative weights.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `barycenter` is finite all the same.

    Notes
    -----
    Iterations are free of exponentials of size n m. Where ``exp(-M / reg)`` leaves the range of doubles, or
    acceleration stalls, they go on in the log domain, from a larger `reg` down to the one asked for.

    References
    ----------
    .. [1] J.-D. Benamou, G. Carlier, M. Cuturi, L. Nenna, G. Peyre, "Iterative Bregman projections for
           regularized transportation problems", SIAM J. Sci. Comput. 37, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> x = np.linspace(0.0, 1.0, 50)
    >>> A = np.exp(-((x[:, None] - [0.2, 0.7]) ** 2) / 0.005)
    >>> r = ot.barycenter(A, ot.dist(x[:, None]), 1e-3, weights=[0.25, 0.75])
    >>> r.success, round(float(r.barycenter @ x), 3)
    (True, 0.575)
    """
    start = time.perf_counter()
    backend = _dispatch.select_cpu("barycenter", A=A, M=M, weights=weights)
    reg = _validate.positive_scalar("reg", reg)
    maxiter = _validate.integer("maxiter", maxiter, minimum=1)
    threads = _validate.n_threads(n_threads)
    cost = _validate.as_float_array("M", backend.take("M", M), ndim=2)
    if cost.size == 0:
        raise ValueError(f"`M` has shape {cost.shape}; at least one row and one column are needed")
    _validate.finite_range("M", float(cost.min()), float(cost.max()))
    given = _validate.as_float_array("A", backend.take("A", A), shape=(cost.shape[1], None))
    count = given.shape[1]
    if count == 0:
        raise ValueError(f"`A` has shape {given.shape}; at least one histogram is needed")
    _validate.check_nonnegative("A", given)
    for k in range(count):
        _validate.positive_mass(f"A[:, {k}]", given[:, k])
    single = given.dtype == cost.dtype == np.float32
    tol = (1e-6 if single else 1e-9) if tol is None else _validate.positive_scalar("tol", tol)
    rows, _ = histograms(given.T)
    w = np.full(count, 1.0 / count)
    if weights is not None:
        taken = backend.take("weights", weights)
        w = _validate.as_float_array("weights", taken, shape=(count,), dtype=np.float64)
        _validate.check_nonnegative("weights", w)
        w = w / _validate.positive_mass("weights", w)
    x = np.zeros((count, cost.shape[0]))
    if init is not None:
        taken = init.potentials if isinstance(init, BarycenterResult) else init
        taken = backend.take("init", taken)
        shape = (cost.shape[0], count)
        x = _validate.as_float_array("init", taken, shape=shape, dtype=np.float64).T / reg
        x = np.ascontiguousarray(x)
    p = np.empty(cost.shape[0])
    options = {"reg": reg, "tol": tol, "maxiter": maxiter, "n_threads": threads}
    report = _core.ot_barycenter(
        np.ascontiguousarray(cost, dtype=np.float64), rows, np.ascontiguousarray(w), x, p, options
    )

    result = BarycenterResult()
    result.barycenter = backend.give(p.astype(np.float32) if single else p)
    result.potentials = backend.give(reg * x.T)
    result.err, result.nit = report["err"], report["nit"]
    result.status = Status(report["status"])
    result.success = result.status == Status.CONVERGED
    result.message = f"{result.status.message}; L1 error {result.err:.2e}, tolerance {tol:.2e}"
    result.time = time.perf_counter() - start
    warn_not_converged(
        result, solver="barycenter", quantity="weighted L1 marginal error", error=result.err, target=tol
    )
    return result


__all__ = ["BarycenterResult", "barycenter"]
