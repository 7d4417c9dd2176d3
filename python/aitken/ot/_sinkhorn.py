"""`sinkhorn`: one entropic transport problem, and its result with gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from .. import _dispatch, _validate
from .._progress import Monitor
from .._result import Result, Status, warn_not_converged
from . import _arrays, _native, _unbalanced
from ._plan import LazyPlan

METHODS = ("auto", "newton", "sns", "sinkhorn")
LINEAR_SOLVERS = ("auto", "jacobi", "hybrid", "direct")
SPARSIFIERS = ("mass", "topk", "ssns")
_COLUMNS = {"kind": "8s", "eps": ".3e", "err": ".3e", "n_cg": "d", "alpha": ".2e", "nnz": "d"}
_FAR = 100.0  # a common part of all costs is taken off beyond so many times their range
_SPARSE_DROP = 1e-12  # a sparse plan drops at most this share of a row's or column's mass


@dataclass
class _Problem:
    """A checked problem in the orientation the kernels want: rows of the cost contiguous, mass 1.

    Unbalanced: weights as given, but 0 for bins that the cost isolates; `mass` is 1.
    """

    cost: Any
    a: Any
    b: Any
    range: float
    mass: float
    transposed: bool
    rho: tuple[float, float] = (_unbalanced.INF, _unbalanced.INF)  # of rows and columns
    given: tuple[Any, Any] | None = None  # unbalanced: all weights, in the caller's orientation
    offset: float = 0.0  # what was taken off every cost

    @property
    def xp(self) -> Any:
        """numpy or cupy."""
        return _native.of(self.a)[1]

    @property
    def native(self) -> Any:
        """Provider of the ``ot_*`` calls."""
        return _native.of(self.a if self.cost is None else self.cost)[0]


class OTResult(Result):
    """Solution of one entropic transport problem.

    Attributes
    ----------
    value : float
        The regularised objective at the solution, by duality, in the convention of `reg_type`. Its rounding
        is some 1e-16 of the largest cost and of `reg`, times the mass.
    value_linear : float
        ``<M, P>``: what most users call the distance.
    plan : ndarray, scipy.sparse.csr_array, LazyPlan or None
        The transport plan P, shape (n, m).
    potentials : (ndarray of shape (n,), ndarray of shape (m,))
        Dual potentials (f, g) in the gauge ``a @ f == b @ g``; finite also where a bin has no mass.
        float64. Unbalanced: the only ones, and inf for a bin whose every pair is forbidden.
    err : float
        Certificate: ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1, recomputed at the end from the
        potentials, up to their rounding (and before `round`). Unbalanced: with ``a * exp(-f / rho_a)`` in the
        place of a, and b alike, over the mass of the plan; where prices are far above `reg`, f is as large as
        ``rho_a * log(mass ratio)``, and its rounding over `reg` is what a check from outside can reach.
    nit, nit_sinkhorn, nit_newton, nit_cg, n_exp : int
        Iterations in all (Sinkhorn plus Newton), of each kind, CG iterations inside the Newton steps, and
        passes of n*m exponentials.
    success, status, message : bool, Status, str
        ``success`` only if `err` is within `tol`.
    method, linear_solver : str
        What ``"auto"`` ended up using.
    history : dict of ndarray
        Per reported step: ``kind``, ``eps``, ``err`` (before the step), ``n_cg``, ``alpha`` (step length),
        ``nnz`` (entries of the sparse plan), ``time`` (seconds since the start).
    time : float
        Wall seconds of the whole call.
    """

    value: float
    value_linear: float
    plan: Any
    potentials: tuple[Any, Any]
    err: float
    nit: int
    nit_sinkhorn: int
    nit_newton: int
    nit_cg: int
    n_exp: int
    success: bool
    status: Status
    message: str
    method: str
    linear_solver: str
    history: dict[str, np.ndarray]
    time: float
    _problem: _Problem
    _backend: _dispatch.Backend
    _reg: float
    _reg_type: str
    _rounded: bool
    _x: Any  # entropy-form potentials in the kernels' orientation
    _y: Any
    _kl: tuple[Any, Any]  # kl-form potentials in the caller's orientation

    def vjp(
        self,
        grad_value: float | None = None,
        grad_plan: Any = None,
        grad_potentials: tuple[Any, Any] | None = None,
        *,
        rtol: float = 1e-10,
    ) -> dict[str, Any]:
        """Gradients of a scalar function of `value`, `plan` and `potentials` with respect to the inputs.

        The value's gradient is the envelope theorem's (no solve). Those of the plan and the potentials need
        one linear solve with the Hessian at the solution (implicit differentiation; nothing is unrolled).

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
            ``"M"`` of shape (n, m), ``"a"`` of shape (n,), ``"b"`` of shape (m,). The gradients for a and b
            are defined up to adding a constant to one and subtracting it from the other, because a and b
            must keep equal masses; not so for unbalanced problems.

        Raises
        ------
        ValueError
            Wrong shape of a gradient, nothing to differentiate, a cost that was overwritten, or a problem
            of a batch with status 9.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> M = np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> r = ot.sinkhorn([0.5, 0.5], [0.25, 0.75], M, 0.1)
        >>> bool(np.allclose(r.vjp(grad_value=1.0)["M"], r.plan))
        True
        """
        if grad_value is None and grad_plan is None and grad_potentials is None:
            raise ValueError(
                "`grad_value`, `grad_plan` and `grad_potentials` are all None; nothing to differentiate"
            )
        if self.status == Status.BAD_INPUT:
            raise ValueError(f"this problem of a batch has no solution to differentiate: {self.message}")
        p, backend = self._problem, self._backend
        xp = p.xp
        plan = self._dense_plan()
        grad_m = xp.zeros(plan.shape, dtype=np.float64)
        grad_a, grad_b = xp.zeros(plan.shape[0]), xp.zeros(plan.shape[1])
        if grad_value is not None:
            scale = _validate.real_scalar("grad_value", grad_value)
            f, g = self._weight_gradients()
            grad_m += scale * plan
            grad_a += scale * f
            grad_b += scale * g
        if grad_plan is not None or grad_potentials is not None:
            rtol = _validate.positive_scalar("rtol", rtol)
            G, given = xp.zeros((1, 1)), None
            if grad_plan is not None:
                G = backend.take("grad_plan", grad_plan)
                G = _validate.as_float_array("grad_plan", G, shape=plan.shape, dtype=np.float64, xp=xp)
            if p.given is not None:
                self._unbalanced_terms(plan, G, grad_potentials, rtol, (grad_m, grad_a, grad_b))
            else:
                if grad_potentials is not None:
                    given = self._potential_terms(grad_potentials, grad_m, grad_a, grad_b)
                u, v = self._implicit(plan, G, given, rtol)
                grad_m -= plan * (G - u[:, None] - v[None, :]) / self._reg
                grad_a += u
                grad_b += v
        return {name: backend.give(x) for name, x in (("M", grad_m), ("a", grad_a), ("b", grad_b))}

    def _start(self) -> tuple[Any, Any]:
        """Kl-form potentials in the caller's orientation for another solve to start from."""
        return self._kl

    def _weight_gradients(self) -> tuple[Any, Any]:
        """(dvalue/da, dvalue/db)."""
        p = self._problem
        pair = tuple(self._backend.take("potentials", q) for q in self.potentials)
        if p.given is None:
            # d(<M,P> + reg sum P log P)/dP_ij is x_i + y_j + reg: it counts where both masses grow.
            extra = 0.5 * self._reg if self._reg_type == "entropy" else 0.0
            return pair[0] + extra, pair[1] + extra
        return _unbalanced.value_gradient(p.given, (pair[0], pair[1]), self._penalties(), self._reg)

    def _dense_plan(self) -> Any:
        """The unrounded plan in float64, whatever was returned to the caller."""
        p = self._problem
        if p.cost is None:
            if self._rounded:
                raise ValueError("`overwrite_cost` with `round` leaves nothing to differentiate from")
            return p.xp.asarray(self._backend.take("plan", self.plan), dtype=np.float64)
        plan = LazyPlan(p.cost, self._x, self._y, self._reg, mass=p.mass, transposed=p.transposed).toarray()
        return plan.astype(np.float64)

    def _potential_terms(
        self, grad_potentials: tuple[Any, Any], grad_m: Any, grad_a: Any, grad_b: Any
    ) -> tuple[Any, Any]:
        """Add what the potentials owe to the inputs directly; return their part of the implicit right side.

        At mass 1, f = x - reg log a for the bins with mass; the others follow by the c-transform, and the
        gauge a.f = b.g picks one solution of the line f - t, g + t.
        """
        p, reg = self._problem, self._reg
        xp = p.xp
        a, b, cost = self._oriented()
        f, g = self._kl
        gf, gg = self._check_potential_gradients(grad_potentials)
        if self._reg_type == "entropy":  # f + reg log a, g + reg log(b / mass)
            grad_a += xp.where(a > 0, reg * gf / xp.where(a > 0, a * p.mass, 1.0), 0.0)
            share = xp.where(b > 0, reg * gg, 0.0)
            grad_b += (share / xp.where(b > 0, b, 1.0) - share.sum()) / p.mass
        da, db = xp.zeros(a.shape), xp.zeros(b.shape)
        for i in np.flatnonzero(_arrays.to_numpy((a == 0) & (gf != 0))):
            kernel = xp.exp((f[i] + g - cost[i]) / reg)
            db -= reg * gf[i] * kernel
            grad_m[i] += gf[i] * b * kernel
            gg -= gf[i] * b * kernel
            gf[i] = 0.0
        for j in np.flatnonzero(_arrays.to_numpy((b == 0) & (gg != 0))):
            kernel = xp.exp((f + g[j] - cost[:, j]) / reg)
            da -= reg * gg[j] * kernel
            grad_m[:, j] += gg[j] * a * kernel
            gf -= gg[j] * a * kernel
            gg[j] = 0.0
        k = 0.5 * float(gg.sum() - gf.sum())
        gf += k * a
        gg -= k * b
        da += k * f - xp.where(a > 0, reg * gf / xp.where(a > 0, a, 1.0), 0.0)
        db -= k * g + xp.where(b > 0, reg * gg / xp.where(b > 0, b, 1.0), 0.0)
        # The potentials do not change with the common mass: no derivative along (a, b).
        along = 0.5 * float(a @ da + b @ db + 0.5 * reg * (gf.sum() + gg.sum()))
        grad_a += (da - along) / p.mass
        grad_b += (db - along) / p.mass
        return reg * gf / p.mass, reg * gg / p.mass

    def _check_potential_gradients(self, grad_potentials: tuple[Any, Any]) -> tuple[Any, Any]:
        """(dL/df, dL/dg) as arrays of our own."""
        a, b, _ = self._oriented()
        try:
            gf, gg = grad_potentials
        except (TypeError, ValueError):
            raise TypeError("`grad_potentials` must be a pair (dL/df, dL/dg)") from None
        checked = []
        for k, (q, like) in enumerate(((gf, a), (gg, b))):
            name = f"grad_potentials[{k}]"
            taken = self._backend.take(name, q)
            xp = self._problem.xp
            q = _validate.as_float_array(name, taken, shape=like.shape, dtype=np.float64, xp=xp)
            checked.append(xp.array(q))
        return checked[0], checked[1]

    def _penalties(self) -> tuple[float, float]:
        """(rho_a, rho_b)."""
        rho = self._problem.rho
        return (rho[1], rho[0]) if self._problem.transposed else rho

    def _unbalanced_terms(
        self,
        plan: Any,
        G: Any,
        grad_potentials: tuple[Any, Any] | None,
        rtol: float,
        grads: tuple[Any, Any, Any],
    ) -> None:
        """Add the gradients of the plan and the potentials of a penalised problem."""
        xp = self._problem.xp
        problem = self._oriented()
        if grad_potentials is None:
            given = xp.zeros(problem[0].shape), xp.zeros(problem[1].shape)
        else:
            given = self._check_potential_gradients(grad_potentials)
        mass = float(plan.sum())

        def solve(w: Any, z: Any) -> tuple[Any, Any]:
            return self._solve_hessian(w / mass, z / mass, rtol, mass) if mass > 0 else (0 * w, 0 * z)

        _unbalanced.add_plan_gradient(
            grads, plan, G, given, problem, self._kl, self._penalties(), self._reg, solve
        )

    def _oriented(self) -> tuple[Any, Any, Any]:
        """(a, b, M) of mass 1 in the caller's orientation."""
        p = self._problem
        if p.cost is None:
            raise ValueError(
                "`grad_plan` and `grad_potentials` need the cost, which `overwrite_cost` replaced by the plan"
            )
        return (p.b, p.a, p.cost.T) if p.transposed else (p.a, p.b, p.cost)

    def _implicit(self, plan: Any, G: Any, given: tuple[Any, Any] | None, rtol: float) -> tuple[Any, Any]:
        """Solve H [u; v] = [(P o G) 1; (P o G)^T 1] / mass + given."""
        self._oriented()
        weighted = plan * G / self._problem.mass
        w, z = weighted.sum(axis=1), weighted.sum(axis=0)
        if given is not None:
            w += given[0]
            z += given[1]
        u, v = self._solve_hessian(w, z, rtol)
        self._fill_empty(plan, G, u, v)
        return u, v

    def _solve_hessian(self, w: Any, z: Any, rtol: float, mass: float = 1.0) -> tuple[Any, Any]:
        """Solve H [u; v] = [w; z] for the plan over its `mass`."""
        p = self._problem
        xp = p.xp
        if p.transposed:
            w, z = z, w
        n, m = p.cost.shape
        u, v = xp.zeros(n), xp.zeros(m)
        options = {"reg": self._reg, "tol": rtol, "maxiter": 10 * (n + m) + 100}
        if p.given is not None:
            options["rho_a"], options["rho_b"] = p.rho
        report = p.native.ot_adjoint(
            p.cost,
            p.a,
            p.b,
            p.range,
            self._x - self._reg * np.log(mass),
            self._y,
            xp.ascontiguousarray(w),
            xp.ascontiguousarray(z),
            u,
            v,
            None,
            options,
        )
        warn_not_converged(
            Result(status=Status(report["status"])),
            solver="OTResult.vjp",
            quantity="relative residual (2-norm) of the implicit system",
            error=report["residual"],
            target=rtol,
        )
        return (v, u) if p.transposed else (u, v)

    def _fill_empty(self, plan: Any, G: Any, u: Any, v: Any) -> None:
        """Derivatives for bins without mass: the mean of G - v (or G - u) where new mass would go."""
        xp = self._problem.xp
        f, g = self._kl
        a, b, cost = self._oriented()
        G = xp.broadcast_to(G, cost.shape)
        for i in np.flatnonzero(_arrays.to_numpy(a) == 0):
            weight = b * xp.exp((f[i] + g - cost[i]) / self._reg)
            u[i] = float((weight * (G[i] - v)).sum() / weight.sum())
        for j in np.flatnonzero(_arrays.to_numpy(b) == 0):
            weight = a * xp.exp((f + g[j] - cost[:, j]) / self._reg)
            v[j] = float((weight * (G[:, j] - u)).sum() / weight.sum())


def sinkhorn(
    a: Any,
    b: Any,
    M: Any,
    reg: float,
    *,
    method: str = "auto",
    tol: float | None = None,
    reg_type: str = "kl",
    unbalanced: float | tuple[float, float] | None = None,
    maxiter: int | None = None,
    linear_solver: str = "auto",
    sparsify: str = "mass",
    eps_scaling: bool = True,
    warmup: int = 20,
    lam: float | None = None,
    init: Any = None,
    return_plan: str | bool = "dense",
    store_plan: bool = True,
    round: bool = False,
    overwrite_cost: bool = False,
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
    n_threads: int | None = None,
) -> OTResult:
    """Solve one entropic optimal transport problem.

    Minimises ``<M, P> + reg * KL(P | a b^T)`` over plans P with row sums `a` and column sums `b`, to a
    marginal error far below what plain Sinkhorn iterations can reach at small `reg`: Newton steps on the
    dual, preconditioned by the sparse plan, along a decreasing sequence of regularisations. Arrays of
    NumPy run on the CPU, of CuPy on their GPU; others that speak DLPack (torch, jax) are used in place.

    Parameters
    ----------
    a, b : array_like of shape (n,), (m,), or None
        Weights, non-negative, of equal mass (to 1e-9 relative; 1e-5 for float32 weights, `b` is then
        rescaled). None is uniform with mass 1. Zeros are allowed.
    M : array_like of shape (n, m)
        Cost, float32 or float64 (integers become float64). ``+inf`` forbids a pair. Rows or columns must be
        contiguous, else a copy is made. Lazy plans and `vjp` read it again: do not change it before.
    reg : float
        Regularisation strength > 0, in the units of `M`.
    method : {"auto", "newton", "sns", "sinkhorn"}
        "auto" runs Sinkhorn while its measured rate says that it is cheaper and Newton otherwise; "newton"
        the Newton solver always; "sns" the published Sinkhorn-Newton-Sparse algorithm [1]_; "sinkhorn"
        stabilised Sinkhorn iterations alone.
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1. Default 1e-9 (float32 costs: 1e-6).
    reg_type : {"kl", "entropy"}
        Convention of `value` and `potentials`: "kl" as in POT, OTT and GeomLoss; "entropy" for
        ``<M, P> + reg * sum P log P``. The plan is the same.
    unbalanced : float or (float, float), optional
        Prices rho_a, rho_b > 0 of marginals that differ from the weights: minimise ``<M, P> + reg KL(P | a
        b^T) + rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b)`` with ``KL(p | q) = sum(p log(p / q) - p + q)``. inf
        is a constraint: ``(inf, rho_b)`` is semi-balanced; others go up to 1e18 `reg`. a and b may then have
        any masses and are used as given (the balanced value, in contrast, is that of mass 1 times the mass).
        `reg_type` "kl" alone; no `round`; a bin whose every pair is forbidden stays where it is, at the price
        of rho times its weight.
    maxiter : int, optional
        Sinkhorn iterations plus Newton steps. Default 10000.
    linear_solver : {"auto", "jacobi", "hybrid", "direct"}
        Newton systems by CG with the diagonal as preconditioner, by CG with a sparse factor of the truncated
        plan, or by that factor alone. "auto" runs CG on the truncated plan where that is sparse, else on the
        whole one, with the diagonal as preconditioner, and a sparse factor once a system takes 60 iterations.
    sparsify : {"mass", "topk", "ssns"}
        How the plan is truncated: at most 1 % of the mass of any row or column; the largest entries; or the
        rule of SSNS [2]_.
    eps_scaling : bool
        Approach `reg` through larger values, each a quarter of the one before.
    warmup : int
        Sinkhorn iterations before the first Newton step of method="sns" and with ``eps_scaling=False``.
    lam : float, optional
        method="sns": share of the n*m plan entries that is kept. Default ``8 / min(n, m)``; the paper's
        ``2 / n`` needs five times as many Newton steps (see the theory page).
    init : (f, g) or OTResult, optional
        Potentials to start from, in the convention of `reg_type`. Skips the scaling of `reg`, unless
        the solve stagnates from there.
    return_plan : {"dense", "sparse", "lazy", False}
        Form of ``result.plan``: an array, a CSR array without the entries below 1e-12 of their row's or
        column's share, a `LazyPlan` that recomputes rows on demand, or None.
    store_plan : bool
        Keep the n*m kernel while solving (the memory of a dense plan). False recomputes it tile by tile in
        every pass: O(n + m) memory, about twice the time.
    round : bool
        Round the plan to exact marginals (Altschuler, Weed & Rigollet 2017). Not for costs with ``+inf``: the
        rank-one part fills every pair.
    overwrite_cost : bool
        Write the final plan into `M`'s memory (C- or Fortran-ordered floating arrays) instead of a new array.
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
    OTResult
        See there for the fields.

    Raises
    ------
    TypeError
        Complex or object data, arguments on different devices, or ``reg=None`` (for the unregularised
        problem use `exact_ot`).
    ValueError
        ``reg <= 0``, negative, empty or NaN weights, unequal masses, shapes that do not fit, NaN or -inf in
        `M`, a bin with mass whose costs are all infinite, an unknown option, one that `unbalanced` excludes.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; the message has the error and one piece of advice.

    References
    ----------
    .. [1] X. Tang, M. Shavlovsky, H. Rahmanian, E. Tardini, K. K. Thekumparampil, T. Xiao, L. Ying,
           "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations", ICLR 2024.
    .. [2] Z. Tang, Y. Qiu, "Safe and Sparse Newton Method for Entropic-Regularized Optimal Transport",
           NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> rng = np.random.default_rng(0)
    >>> M = rng.random((200, 300))
    >>> r = ot.sinkhorn(None, None, M, reg=1e-3)
    >>> r.success, bool(abs(r.plan.sum(axis=1) - 1 / 200).sum() < 1e-9)
    (True, True)
    """
    start = time.perf_counter()
    backend = _dispatch.select(a=a, b=b, M=M)
    _validate.choice("reg_type", reg_type, ("kl", "entropy"))
    _validate.choice("return_plan", return_plan, ("dense", "sparse", "lazy", False))
    for name, flag in (("round", round), ("overwrite_cost", overwrite_cost), ("store_plan", store_plan)):
        _validate.boolean(name, flag)
    if reg is None:
        raise TypeError("`reg` is None; for the unregularised problem use exact_ot")
    reg = _validate.positive_scalar("reg", reg)
    _validate.callback("callback", callback)
    threads = _validate.n_threads(n_threads)
    if round and return_plan == "sparse":
        raise ValueError('`round` fills the plan; use it with `return_plan` "dense" or "lazy", not "sparse"')
    if overwrite_cost and return_plan != "dense":
        raise ValueError(f"`overwrite_cost` writes a dense plan; `return_plan` is {return_plan!r}")

    rho = _unbalanced.penalties(unbalanced)
    _unbalanced.refuse(rho, method=method, reg_type=reg_type, round=round)
    _unbalanced.refuse_huge(rho, reg)

    problem = _check_problem(backend, a, b, M, overwrite_cost, round, threads, rho, level=True)
    xp = problem.xp
    n, m = problem.cost.shape
    options = solver_options(
        method=method,
        tol=tol,
        maxiter=maxiter,
        linear_solver=linear_solver,
        sparsify=sparsify,
        eps_scaling=eps_scaling,
        warmup=warmup,
        lam=lam,
        warm=init is not None,
        single=problem.cost.dtype == np.float32,
        threads=threads,
    )
    options["reg"] = reg
    kernel = xp.empty((n, m), dtype=problem.cost.dtype) if store_plan else None
    monitor = Monitor(
        "sinkhorn", callback, _validate.integer("verbose", verbose), progress, options["tol"], _COLUMNS
    )
    result = OTResult()
    result._problem, result._backend, result._reg, result._rounded = problem, backend, reg, round
    result._reg_type = reg_type
    solve_into(result, options, init, kernel, monitor)
    keep_kernel = return_plan == "dense" and not overwrite_cost
    _set_plan(result, kernel if keep_kernel else None, return_plan, overwrite_cost, threads)
    result.time = time.perf_counter() - start
    warn_unsolved(result, "sinkhorn", options["tol"])
    return result


def solve_into(result: OTResult, options: dict[str, Any], init: Any, kernel: Any, monitor: Monitor) -> None:
    """Solve the problem that `result` has been given, and fill in all but the plan and the time."""
    problem, reg, tol = result._problem, result._reg, options["tol"]
    if problem.given is not None:
        options["rho_a"], options["rho_b"] = problem.rho
    x, y = _initial_potentials(result._backend, init, problem, reg, result._reg_type)
    report: dict[str, Any] = {}
    try:
        report = problem.native.ot_solve(
            problem.cost,
            problem.a,
            problem.b,
            problem.range,
            x,
            y,
            kernel,
            options,
            None if monitor.silent else monitor,
        )
    finally:
        monitor.close(converged=report.get("status") == Status.CONVERGED)

    result._x, result._y = x, y
    _set_values(result, report, result._reg_type)
    status = Status(report["status"])
    result.err = report["err"]
    result.nit_sinkhorn, result.nit_newton = report["nit_sinkhorn"], report["nit_newton"]
    result.nit = result.nit_sinkhorn + result.nit_newton
    result.nit_cg, result.n_exp = report["nit_cg"], report["n_exp"]
    result.status = status
    result.success = status == Status.CONVERGED
    detail = f" ({report['detail']})" if report["detail"] else ""
    result.message = f"{status.message}{detail}; L1 marginal error {report['err']:.2e}, tolerance {tol:.2e}"
    result.method, result.linear_solver = report["method"], report["linear_solver"]
    result.history = _columns(report["history"])


def warn_unsolved(result: Any, solver: str, tol: float) -> None:
    """Warn where the marginal error is above `tol`."""
    warn_not_converged(result, solver=solver, quantity="L1 marginal error", error=result.err, target=tol)


def solver_options(
    *,
    method: str,
    tol: float | None,
    maxiter: int | None,
    linear_solver: str,
    sparsify: str,
    eps_scaling: bool,
    warmup: int,
    lam: float | None,
    warm: bool,
    single: bool,
    threads: int,
) -> dict[str, Any]:
    """The checked options of a native solve, all but ``reg``; `single`: the costs are float32."""
    options = {
        "method": _validate.choice("method", method, METHODS),
        "tol": (1e-6 if single else 1e-9) if tol is None else _validate.positive_scalar("tol", tol),
        "linear_solver": _validate.choice("linear_solver", linear_solver, LINEAR_SOLVERS),
        "sparsify": _validate.choice("sparsify", sparsify, SPARSIFIERS),
        "eps_scaling": _validate.boolean("eps_scaling", eps_scaling),
        "warmup": _validate.integer("warmup", warmup, minimum=1, maximum=2**31 - 1),
        "maxiter": 10000 if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1),
        "warm": warm,
        "n_threads": threads,
    }
    if lam is not None:
        options["lam"] = _validate.real_scalar("lam", lam, minimum=0.0, maximum=1.0, open_minimum=True)
    return options


def _check_problem(
    backend: _dispatch.Backend,
    a: Any,
    b: Any,
    M: Any,
    overwrite_cost: bool,
    round: bool,
    threads: int,
    rho: tuple[float, float] = (_unbalanced.INF, _unbalanced.INF),
    *,
    level: bool = False,
) -> _Problem:
    xp = backend.xp
    given = backend.take("M", M)
    cost = _validate.as_float_array("M", given, ndim=2, finite=False, xp=xp)
    n, m = cost.shape
    if n == 0 or m == 0:
        raise ValueError(f"`M` has shape {(n, m)}; at least one row and one column are needed")
    if not (_rows_contiguous(cost) or _rows_contiguous(cost.T)) or not getattr(cost.flags, "aligned", True):
        cost = xp.ascontiguousarray(cost)
    if overwrite_cost and (cost is not given or not getattr(cost.flags, "writeable", True)):
        raise ValueError(
            "`overwrite_cost` needs `M` to be a writeable float32 or float64 array with contiguous rows or "
            "columns"
        )
    transposed = not _rows_contiguous(cost)

    soft = _unbalanced.is_soft(rho)
    weights, mass = check_weights(backend, a, b, n, m, soft)
    given = weights if soft else None
    rows = cost.T if transposed else cost
    native = _native.of(rows)[0]
    facts = native.ot_inspect(rows, threads)
    if facts["has_nan"] or facts["has_negative_inf"]:
        _validate.check_finite("M", cost, allow_posinf=True, xp=xp)
    if facts["has_forbidden"]:
        if round:
            raise ValueError("`round` puts mass on every pair, but `M` forbids some (inf)")
        allowed = xp.isfinite(cost)
        isolated = []
        for name, w, axis in (("row", weights[0], 1), ("column", weights[1], 0)):
            other = weights[1] if axis == 1 else weights[0]
            reach = (allowed & ((other > 0)[None, :] if axis == 1 else (other > 0)[:, None])).any(axis=axis)
            isolated.append((w > 0) & ~reach)
            stuck = _arrays.to_numpy(isolated[-1])
            if stuck.any() and rho[1 - axis] == _unbalanced.INF:
                raise ValueError(
                    f"`M` forbids (inf) every pair of {name} {int(stuck.argmax())} with mass on the other "
                    "side, but that bin has mass"
                )
        weights = (xp.where(isolated[0], 0.0, weights[0]), xp.where(isolated[1], 0.0, weights[1]))
        if not all(bool((w > 0).any()) for w in weights):
            raise ValueError("`M` forbids (inf) every pair of bins with mass")
    wa, wb = (weights[1], weights[0]) if transposed else (weights[0], weights[1])
    spread, offset = _validate.finite_range("M", facts["smallest"], facts["largest"]), 0.0
    if level and not soft and not overwrite_cost and abs(facts["smallest"]) > _FAR * spread:
        offset = facts["smallest"]  # potentials as large as this would round what they differ in
        rows = rows - offset
    price = (rho[1], rho[0]) if transposed else rho
    return _Problem(rows, wa, wb, spread, mass, transposed, price, given, offset)


def check_weights(
    backend: _dispatch.Backend, a: Any, b: Any, n: int, m: int, soft: bool
) -> tuple[tuple[Any, Any], float]:
    """The weights over their common mass, and that mass; for soft marginals as they are, and 1."""
    xp = backend.xp
    weights, masses, loose = [], [], False
    for name, given_w, length in (("a", a, n), ("b", b, m)):
        if given_w is None:
            weights.append(xp.full(length, 1.0 / length))
            masses.append(1.0)
            continue
        w = _validate.as_float_array(name, backend.take(name, given_w), shape=(length,), xp=xp)
        loose |= w.dtype == np.float32
        _validate.check_nonnegative(name, w, xp=xp)
        w = xp.array(w, dtype=np.float64, order="C")  # gradients need it as it is now
        mass = _validate.positive_mass(name, w)
        weights.append(w if soft else w / mass)
        masses.append(mass)
    mass_a, mass_b = masses
    if not soft and abs(mass_a - mass_b) > (1e-5 if loose else 1e-9) * max(mass_a, mass_b):
        raise ValueError(
            f"`a` and `b` must have equal mass; they sum to {mass_a!r} and {mass_b!r} "
            "(for unequal masses see `unbalanced`)"
        )

    return (weights[0], weights[1]), 1.0 if soft else mass_a


def _rows_contiguous(x: Any) -> bool:
    n, m = x.shape
    inner = m == 1 or x.strides[1] == x.itemsize
    outer = n == 1 or (x.strides[0] >= m * x.itemsize and x.strides[0] % x.itemsize == 0)
    return bool(inner and outer)


def _initial_potentials(
    backend: _dispatch.Backend, init: Any, problem: _Problem, reg: float, reg_type: str
) -> tuple[Any, Any]:
    """Entropy-form potentials in the kernels' orientation; zeros without `init`."""
    xp = problem.xp
    n, m = problem.cost.shape
    if init is None:
        return xp.zeros(n), xp.zeros(m)
    if isinstance(init, OTResult):
        pair = init._start()
        kl = True
    else:
        pair = _validate.pair("init", init, "a pair of potentials (f, g)", " or an OTResult")
        kl = reg_type == "kl"
    lengths = (m, n) if problem.transposed else (n, m)
    out = []
    for name, q, length in zip(("init[0]", "init[1]"), pair, lengths, strict=True):
        taken = _validate.as_float_array(
            name, backend.take(name, q), shape=(length,), dtype=np.float64, finite=False, xp=xp
        )
        if bool(xp.isnan(taken).any()):
            _validate.check_finite(name, taken, xp=xp)
        out.append(xp.where(xp.isfinite(taken), taken, 0.0))  # isolated bins have inf
    x, y = (out[1], out[0]) if problem.transposed else (out[0], out[1])
    if kl:
        with np.errstate(divide="ignore"):
            x += reg * xp.log(problem.a)
            y += reg * xp.log(problem.b)
    if problem.offset:  # a constant of y is free, and as large as the offset it costs digits
        y -= float(xp.where(xp.isfinite(y), y, 0.0).mean())
    return x, y


def _set_values(result: OTResult, report: dict[str, Any], reg_type: str) -> None:
    """Values and potentials in both conventions, empty bins extended by the c-transform."""
    p, reg, x, y = result._problem, result._reg, result._x, result._y
    xp = p.xp
    with np.errstate(divide="ignore", invalid="ignore"):
        f, g = x - reg * xp.log(p.a), y - reg * xp.log(p.b)
    for empty, potential, other, transposed in ((p.a == 0, f, y, False), (p.b == 0, g, x, True)):
        if bool(empty.any()):
            cost = _native.contiguous(p.cost[:, empty] if transposed else p.cost[empty])
            extended = xp.empty(int(empty.sum()))
            p.native.ot_c_transform(cost, reg, transposed, other, extended, 0)
            potential[empty] = extended
    if p.given is not None:
        _set_unbalanced_values(result, report, f, g)
        return
    mean_f, mean_g = float(p.a @ xp.where(p.a > 0, f, 0.0)), float(p.b @ xp.where(p.b > 0, g, 0.0))
    shift = 0.5 * (mean_f - mean_g)  # gauge a.f = b.g
    f -= shift
    g += shift
    slack = reg * (report["mass"] - 1.0)  # the dual value's own mass term, 0 at the solution
    value_kl = mean_f + mean_g - slack
    x -= shift
    y += shift
    if p.transposed:
        f, g = g, f
    result._kl = (f, g)
    if reg_type == "kl":
        result.value, pair = p.mass * value_kl, (f, g)
    else:
        entropy = 0.0
        for w in (p.a, p.b):
            entropy += float((w * xp.log(xp.where(w > 0, w, 1.0))).sum())
        a, b = (p.b, p.a) if p.transposed else (p.a, p.b)
        fx = xp.where(a > 0, f + reg * xp.log(xp.where(a > 0, a, 1.0) * p.mass), f)
        gy = xp.where(b > 0, g + reg * xp.log(xp.where(b > 0, b, 1.0)), g)
        result.value, pair = p.mass * (value_kl + reg * (entropy + np.log(p.mass))), (fx, gy)
    result.value += p.mass * p.offset
    result.value_linear = p.mass * (report["value_linear"] + p.offset)
    result.potentials = tuple(result._backend.give(q + 0.5 * p.offset if p.offset else q) for q in pair)


def _set_unbalanced_values(result: OTResult, report: dict[str, Any], f: Any, g: Any) -> None:
    """Values and potentials of a penalised problem; f, g lack the gauge, in empty bins also the damping."""
    p, reg, gauge = result._problem, result._reg, report["gauge"]
    xp = p.xp
    f += gauge
    g -= gauge
    for w, q, rho in ((p.a, f, p.rho[0]), (p.b, g, p.rho[1])):
        empty = w == 0
        if bool(empty.any()):
            q[empty] = _unbalanced.potential(reg, rho, q[empty], xp)
    result._kl = (g, f) if p.transposed else (f, g)
    assert p.given is not None
    result.value = _unbalanced.dual_value(p.given, result._kl, result._penalties(), reg, report["mass"])
    result.value_linear = report["value_linear"]
    result.potentials = tuple(result._backend.give(q) for q in result._kl)  # type: ignore[assignment]


def _set_plan(result: OTResult, kernel: Any, form: str | bool, overwrite: bool, threads: int) -> None:
    p = result._problem
    xp = p.xp
    result.plan = None
    scale, extra = None, None
    args = (p.cost, result._x, result._y, result._reg)
    if result._rounded and form is not False:
        scale, extra = _rounding(p, LazyPlan(*args, n_threads=threads))
        rounded = LazyPlan(*args, mass=p.mass, n_threads=threads, scale=scale, extra=extra)
        result.value_linear = sum(
            float((block * p.cost[s : s + len(block)])[block > 0].sum(dtype=np.float64))
            for s, block in rounded.blocks()
        )
    if form == "lazy":
        result.plan = LazyPlan(
            *args, mass=p.mass, n_threads=threads, scale=scale, extra=extra, transposed=p.transposed
        )
    elif form == "sparse":
        indptr, indices, values = p.native.ot_compress(
            p.cost, result._reg, result._x, result._y, *_marginals(result), _SPARSE_DROP, threads
        )
        values = (values * p.mass).astype(p.cost.dtype)
        csr = _csr_container(xp)((values, indices, indptr), shape=p.cost.shape)
        result.plan = csr.T.tocsr() if p.transposed else csr
    elif form == "dense":
        dense = kernel
        if dense is None:
            dense = p.cost if overwrite else xp.empty(p.cost.shape, dtype=p.cost.dtype)
            p.native.ot_plan_rows(p.cost, result._reg, result._x, result._y, 0, dense, threads)
        finish = LazyPlan(*args, mass=p.mass, scale=scale, extra=extra)
        dense = finish._finish(dense, slice(None), slice(None))
        if overwrite:
            p.cost = None
        result.plan = result._backend.give(dense.T if p.transposed else dense)


def _marginals(result: OTResult) -> list[Any]:
    """Row and column sums of the plan in the kernels' orientation: the weights where those are kept."""
    p = result._problem
    xp = p.xp
    potentials = reversed(result._kl) if p.transposed else result._kl
    return [
        w if rho == _unbalanced.INF else w * xp.exp(-xp.where(w > 0, q, 0.0) / rho)
        for w, q, rho in zip((p.a, p.b), potentials, p.rho, strict=True)
    ]


def _rounding(p: _Problem, plan: LazyPlan) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Altschuler-Weed-Rigollet: scale rows, then columns, down to their mass; the rest is rank one."""
    xp = p.xp
    r = plan @ xp.ones(p.b.shape)
    left = xp.minimum(p.a / xp.where(r > 0, r, 1.0), 1.0)
    c = plan.T @ left
    right = xp.minimum(p.b / xp.where(c > 0, c, 1.0), 1.0)
    missing_a = xp.maximum(p.a - left * (plan @ right), 0.0)
    missing_b = xp.maximum(p.b - right * c, 0.0)
    total = float(missing_a.sum())
    if total <= 0:
        return (left, right), None
    return (left, right), (missing_a, missing_b / total)


def _csr_container(xp: Any) -> Any:
    if xp is np:
        return sparse.csr_array
    from cupyx.scipy.sparse import csr_matrix

    return csr_matrix


def _columns(history: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = ("kind", "eps", "err", "n_cg", "alpha", "nnz", "time")
    return {name: np.array([step[name] for step in history]) for name in names}
