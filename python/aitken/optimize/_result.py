"""What `sketched_newton` returns: SciPy's `OptimizeResult` with multipliers, certificate and histories."""

from __future__ import annotations

from scipy.optimize import OptimizeResult


class OptimizationResult(OptimizeResult):  # type: ignore[misc]
    """Solution, multipliers and certificate of a constrained minimisation.

    The fields of SciPy's solvers have SciPy's meaning; all numbers are in the user's units, unscaled.

    Attributes
    ----------
    x : ndarray, shape (n,)
        The solution.
    fun : float
        Objective there.
    jac : ndarray, shape (n,)
        Its gradient.
    success : bool
        Whether the certificate below is within the tolerances.
    status : Status
        How the run ended (an `enum.IntEnum`; 0 is converged).
    message : str
        One sentence, with advice where there is something to mend.
    nit : int
        Iterations.
    nfev, ncev, njev, ncjev, nhev : int
        Calls for the objective, the constraints, its gradient, their Jacobian, and Hessians.
    lam : ndarray, shape (m,)
        Multipliers of all constraint rows, stacked in the order given: L = fun + lam'c.
    v : list of ndarray
        The same for each constraint, as ``trust-constr`` returns them.
    z_lo, z_up : ndarray, shape (n,)
        Multipliers of the bounds, >= 0; grad fun + J' lam - z_lo + z_up = 0 at a solution.
    optimality : float
        Infinity norm of that gradient of the Lagrangian.
    constr_violation : float
        Largest violation of a constraint or bound.
    complementarity : float
        Largest product of a bound multiplier and the distance to its bound.
    kkt : float
        2-norm of the gradient of the Lagrangian and the violations together.
    eta1, eta2 : float
        Last weights of the merit function.
    inner_iters : int
        Steps of the inner linear solver (refinement steps for a direct one).
    inner_flops : float
        Flops of all linear solves, counted.
    n_fallback : int
        How often a merit function or a linear solver was given up for the next one.
    n_restoration : int
        How often feasibility had to be restored.
    alpha_hist, kkt_hist, rtol_hist : ndarray
        Step lengths, largest scaled error, and relative residual of the linear solves, per iteration.
    solver_used : str
        Linear solvers that ran, in the order of first use.
    time : float
        Seconds.
    """


__all__ = ["OptimizationResult"]
