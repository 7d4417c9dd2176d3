"""What `sketched_newton` returns: SciPy's `OptimizeResult` with multipliers, certificate and histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeResult

from .. import _validate
from ._sensitivity import Sensitivity, contract

if TYPE_CHECKING:
    from ._problem import Problem


class OptimizationResult(OptimizeResult):  # type: ignore[misc]
    """Solution, multipliers and certificate of a constrained minimisation.

    The fields of SciPy's solvers have SciPy's meaning; all numbers are in the user's units, unscaled.

    Attributes
    ----------
    x : ndarray, shape (n,)
        The solution.
    fun : float
        Objective there.
    jac, grad : ndarray, shape (n,)
        Its gradient, under SciPy's name and under that of ``trust-constr`` (whose `jac` is another thing).
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
        The same for each constraint, signed as those of ``trust-constr``, which appends the bounds'.
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
    dependent_rows : ndarray of int64
        Equality rows (stacked numbering) whose gradients depend on the others', where that was met.
    slack, barrier : ndarray and float
        Values of the inequality rows' slacks, and the last barrier parameter: for `warm_start`.
    constr : list of ndarray
        Values of the constraints.
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
    n_correction, n_shift : int
        Second-order corrections tried; iterations whose Hessian was shifted.
    alpha_hist, kkt_hist, rtol_hist : ndarray
        Step lengths, largest scaled error, and relative residual of the linear solves, per iteration.
    solver_used : str
        Linear solvers that ran, in the order of first use.
    time : float
        Seconds.
    """

    _sensitivity: Sensitivity | None = None  # an instance attribute, so none of the items

    def keep_problem(self, problem: Problem) -> None:
        """Refer to the problem, as it was solved, for `vjp`."""
        source = Sensitivity(problem, self.x, self.lam, self.z_lo, self.z_up)
        object.__setattr__(self, "_sensitivity", source)

    def __reduce__(self) -> Any:
        # User functions seldom pickle: copies and pickles are the items alone.
        return type(self), (dict(self),)

    def vjp(
        self,
        grad_x: Any = None,
        *,
        grad_lam: Any = None,
        grad_fun: float | None = None,
        dgrad: Any = None,
        dcons: Any = None,
        dfun: Any = None,
        argnum: int | None = None,
    ) -> Any:
        """Derivative of the solution with respect to parameters, in reverse mode: one more KKT solve.

        For a scalar F(x, lam, fun) of the result with partial derivatives `grad_x`, `grad_lam` and
        `grad_fun`, this gives dF/dp for parameters p of the objective or the constraints. Constraints and
        bounds are told active or not by an estimate of the exact solution, and active ones are held:
        the barrier leaves no trace. The error is of the order of the solution's own, so solve tightly.

        Parameters
        ----------
        grad_x : array_like, shape (n,), optional
            dF/dx.
        grad_lam : array_like of shape (m,), or list of one array per constraint, optional
            dF/dlam.
        grad_fun : float, optional
            dF/dfun, where `fun` varies through x and through p itself.
        dgrad : array_like or sparse, shape (n, ...), or callable, optional
            d(gradient of fun + lam'c)/dp at fixed x and lam, or ``dgrad(x, lam)`` that returns it.
        dcons : array_like or sparse, shape (m, ...), or callable, optional
            dc/dp at fixed x, the rows of all constraints stacked, or ``dcons(x)``. The limits of constraints
            count too: what raises a limit by p has the derivative -1 in its row.
        dfun : array_like, shape (...), or callable, optional
            d(fun)/dp at fixed x, or ``dfun(x)``; needed with `grad_fun` and `dgrad` or `dcons`.
        argnum : int, optional
            Take p to be ``args[argnum]``, a float or an array of floats: the objective's own derivatives
            with respect to it are found by central differences, two gradients per entry. Constraints do not
            see `args`; where they depend on the same parameter give `dgrad` (their part alone) and `dcons`.

        Returns
        -------
        Adjoint, ndarray or float
            dF/dp, in the shape of p. Without `dgrad`, `dcons` and `argnum` the vectors ``(u, w, bounds)``
            of `Adjoint`, with which dF/dp = u @ dgrad + w @ dcons + bounds @ d(bounds)/dp + grad_fun * dfun.

        Raises
        ------
        RuntimeError
            Where the result was unpickled, copied, or given to a callback: the functions are not in it.
        ValueError
            For a result without success, wrong shapes, or a problem of more than 2000 variables without
            second derivatives; LinAlgError, a subclass, where the solution has no derivative: dependent
            gradients of active constraints, or a minimiser that is not isolated.

        Warns
        -----
        RecoveryWarning
            Where an active constraint has a multiplier of zero (strict complementarity fails).

        Notes
        -----
        Second derivatives are the exact ones that were given. After a solve with quasi-Newton or
        Gauss-Newton matrices they are found by central differences, 2 n gradients (4 n^2 values without
        analytic gradients). Where they are known by products alone and n > 2000, MINRES solves the system.
        The factorisation is kept for further calls.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken.optimize import sketched_newton
        >>> def fun(x, p):
        ...     return 0.5 * (x - p) @ (x - p)
        >>> onto_plane = {"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": lambda x: np.ones((1, 2))}
        >>> p = np.array([3.0, 1.0])
        >>> r = sketched_newton(fun, np.zeros(2), args=(p,), jac=lambda x, p: x - p,
        ...                     hess=lambda x, p: np.eye(2), constraints=onto_plane)
        >>> r.vjp([1.0, 0.0], argnum=0).round(6)  # gradient of r.x[0]
        array([ 0.5, -0.5])
        """
        source = self._sensitivity
        if source is None:
            raise RuntimeError(
                "`vjp` needs the functions of the problem, which this result does not hold: call it on what "
                "sketched_newton returned; copies and pickles are without them"
            )
        if not self.success:
            raise ValueError(f"`vjp` needs a solution; the solve ended with: {self.message}")
        if grad_x is None and grad_lam is None and grad_fun is None:
            raise ValueError("`grad_x`, `grad_lam` or `grad_fun` must be given")
        if grad_x is not None:
            grad_x = _validate.as_float_array("grad_x", grad_x, shape=self.x.shape)
        if grad_lam is not None:
            if isinstance(grad_lam, list | tuple) and any(np.ndim(part) for part in grad_lam):
                parts_of_lam = [np.ravel(_validate.as_float_array("grad_lam", part)) for part in grad_lam]
                grad_lam = np.concatenate(parts_of_lam)
            grad_lam = _validate.as_float_array("grad_lam", grad_lam, shape=self.lam.shape)
        grad_fun = 0.0 if grad_fun is None else _validate.real_scalar("grad_fun", grad_fun)
        if grad_fun and dfun is None and argnum is None and (dgrad is not None or dcons is not None):
            raise ValueError("`grad_fun` needs `dfun`, the derivative of fun at fixed x; it may be 0")
        adjoint = source.adjoint(grad_x, grad_lam, grad_fun)
        parts: dict[str, Any] = {}
        if argnum is not None:
            parts["args[argnum]"] = source.through_arguments(adjoint.u, grad_fun, argnum)
        if dgrad is not None:
            parts["dgrad"] = contract("dgrad", adjoint.u, dgrad, self.x.copy(), self.lam.copy())
        if dcons is not None:
            parts["dcons"] = contract("dcons", adjoint.w, dcons, self.x.copy())
        if not parts:
            return adjoint
        if dfun is not None and argnum is None:
            value = _validate.as_float_array("dfun", dfun(self.x.copy()) if callable(dfun) else dfun)
            parts["dfun"] = grad_fun * value
        shapes = {name: np.shape(part) for name, part in parts.items() if name != "dfun" or np.ndim(part)}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"`{name}`: {shape}" for name, shape in shapes.items())
            raise ValueError(f"derivatives are with respect to parameters of different shapes: {listed}")
        return sum(parts.values())


__all__ = ["OptimizationResult"]
