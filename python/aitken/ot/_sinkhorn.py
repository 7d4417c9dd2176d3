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
from . import _native
from ._plan import LazyPlan

METHODS = ("auto", "newton", "sns", "sinkhorn")
LINEAR_SOLVERS = ("auto", "jacobi", "hybrid", "direct")
SPARSIFIERS = ("mass", "topk", "ssns")
_COLUMNS = {"kind": "8s", "eps": ".3e", "err": ".3e", "n_cg": "d", "alpha": ".2e", "nnz": "d"}
_SPARSE_DROP = 1e-12  # a sparse plan drops at most this share of a row's or column's mass


@dataclass
class _Problem:
    """A checked problem in the orientation the kernels want: rows of the cost contiguous, mass 1."""

    cost: Any
    a: Any
    b: Any
    range: float
    mass: float
    transposed: bool

    @property
    def xp(self) -> Any:
        """numpy or cupy."""
        return _native.of(self.a)[1]

    @property
    def native(self) -> Any:
        """Provider of the ``ot_*`` calls."""
        return _native.of(self.a)[0]


class OTResult(Result):
    """Solution of one entropic transport problem.

    Attributes
    ----------
    value : float
        The regularised objective at the solution, by duality, in the convention of `reg_type`.
    value_linear : float
        ``<M, P>``: what most users call the distance.
    plan : ndarray, scipy.sparse.csr_array, LazyPlan or None
        The transport plan P, shape (n, m).
    potentials : (ndarray of shape (n,), ndarray of shape (m,))
        Dual potentials (f, g) in the gauge ``a @ f == b @ g``; finite also where a bin has no mass.
        float64.
    err : float
        Certificate: ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for total mass 1, recomputed at the end from the
        returned potentials (before rounding).
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
    _rounded: bool
    _x: Any  # entropy-form potentials in the kernels' orientation
    _y: Any
    _kl: tuple[Any, Any]  # kl-form potentials in the caller's orientation

    def vjp(
        self, grad_value: float | None = None, grad_plan: Any = None, *, rtol: float = 1e-10
    ) -> dict[str, Any]:
        """Gradients of a scalar function of `value` and `plan` with respect to the inputs.

        The value's gradient is the envelope theorem's (no solve). The plan's needs one linear solve with
        the Hessian at the solution (implicit differentiation; nothing is unrolled).

        Parameters
        ----------
        grad_value : float, optional
            dL/dvalue.
        grad_plan : array of shape (n, m), optional
            dL/dP.
        rtol : float, default 1e-10
            Relative residual, in the 2-norm, of the implicit linear solve.

        Returns
        -------
        dict
            ``"M"`` of shape (n, m), ``"a"`` of shape (n,), ``"b"`` of shape (m,). The gradients for a and b
            are defined up to adding a constant to one and subtracting it from the other, because a and b
            must keep equal masses.

        Raises
        ------
        ValueError
            Wrong shape of `grad_plan`, nothing to differentiate, or a cost that was overwritten.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> M = np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> r = ot.sinkhorn([0.5, 0.5], [0.25, 0.75], M, 0.1)
        >>> bool(np.allclose(r.vjp(grad_value=1.0)["M"], r.plan))
        True
        """
        if grad_value is None and grad_plan is None:
            raise ValueError("`grad_value` and `grad_plan` are both None; there is nothing to differentiate")
        p, backend = self._problem, self._backend
        xp = p.xp
        plan = self._dense_plan()
        grad_m = xp.zeros(plan.shape, dtype=np.float64)
        grad_a, grad_b = xp.zeros(plan.shape[0]), xp.zeros(plan.shape[1])
        if grad_value is not None:
            scale = _validate.real_scalar("grad_value", grad_value)
            f, g = (backend.take("potentials", q) for q in self.potentials)
            grad_m += scale * plan
            grad_a += scale * f
            grad_b += scale * g
        if grad_plan is not None:
            rtol = _validate.positive_scalar("rtol", rtol)
            G = _validate.as_float_array(
                "grad_plan", backend.take("grad_plan", grad_plan), shape=plan.shape, dtype=np.float64, xp=xp
            )
            u, v = self._implicit(plan, G, rtol)
            grad_m -= plan * (G - u[:, None] - v[None, :]) / self._reg
            grad_a += u
            grad_b += v
        return {name: backend.give(x) for name, x in (("M", grad_m), ("a", grad_a), ("b", grad_b))}

    def _dense_plan(self) -> Any:
        """The unrounded plan in float64, whatever was returned to the caller."""
        p = self._problem
        if p.cost is None:
            if self._rounded:
                raise ValueError("`overwrite_cost` with `round` leaves nothing to differentiate from")
            return p.xp.asarray(self._backend.take("plan", self.plan), dtype=np.float64)
        plan = LazyPlan(p.cost, self._x, self._y, self._reg, mass=p.mass, transposed=p.transposed).toarray()
        return plan.astype(np.float64)

    def _implicit(self, plan: Any, G: Any, rtol: float) -> tuple[Any, Any]:
        p = self._problem
        xp = p.xp
        if p.cost is None:
            raise ValueError("`grad_plan` needs the cost, which `overwrite_cost` replaced by the plan")
        weighted = plan * G / p.mass
        w, z = weighted.sum(axis=1), weighted.sum(axis=0)
        if p.transposed:
            w, z = z, w
        n, m = p.cost.shape
        u, v = xp.zeros(n), xp.zeros(m)
        options = {"reg": self._reg, "tol": rtol, "maxiter": 10 * (n + m) + 100}
        report = p.native.ot_adjoint(
            p.cost,
            p.a,
            p.b,
            p.range,
            self._x,
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
        u, v = (v, u) if p.transposed else (u, v)
        self._fill_empty(plan, G, u, v)
        return u, v

    def _fill_empty(self, plan: Any, G: Any, u: Any, v: Any) -> None:
        """Derivatives for bins without mass: the mean of G - v (or G - u) where new mass would go."""
        p = self._problem
        xp = p.xp
        f, g = self._kl
        a, b = (p.b, p.a) if p.transposed else (p.a, p.b)
        cost = p.cost.T if p.transposed else p.cost
        for i in np.flatnonzero(_to_numpy(a) == 0):
            weight = b * xp.exp((f[i] + g - cost[i]) / self._reg)
            u[i] = float((weight * (G[i] - v)).sum() / weight.sum())
        for j in np.flatnonzero(_to_numpy(b) == 0):
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
        contiguous, else a copy is made.
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
    maxiter : int, optional
        Sinkhorn iterations plus Newton steps. Default 10000.
    linear_solver : {"auto", "jacobi", "hybrid", "direct"}
        Newton systems by CG with the diagonal as preconditioner, by CG with a sparse factor of the truncated
        plan, or by that factor alone. "auto" starts with "jacobi" and changes to "hybrid" once a system takes
        more than 60 iterations.
    sparsify : {"mass", "topk", "ssns"}
        How the plan is truncated: at most 1 % of the mass of any row or column; the largest entries; or the
        rule of SSNS [2]_.
    eps_scaling : bool
        Approach `reg` through larger values, each a quarter of the one before.
    warmup : int
        method="sns": Sinkhorn iterations before the first Newton step.
    lam : float, optional
        method="sns": share of the n*m plan entries that is kept. Default ``8 / min(n, m)``; the paper's
        ``2 / n`` needs five times as many Newton steps (see the theory page).
    init : (f, g) or OTResult, optional
        Potentials to start from, in the convention of `reg_type`. Skips the scaling of `reg`.
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
        problem use a linear programming solver, e.g. ``ot.emd`` or `scipy.optimize.linprog`).
    ValueError
        ``reg <= 0``, negative, empty or NaN weights, unequal masses, shapes that do not fit, NaN or -inf in
        `M`, a bin with mass whose costs are all infinite, an unknown option.

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
    _validate.choice("method", method, METHODS)
    _validate.choice("reg_type", reg_type, ("kl", "entropy"))
    _validate.choice("linear_solver", linear_solver, LINEAR_SOLVERS)
    _validate.choice("sparsify", sparsify, SPARSIFIERS)
    _validate.choice("return_plan", return_plan, ("dense", "sparse", "lazy", False))
    for name, flag in (("round", round), ("overwrite_cost", overwrite_cost), ("store_plan", store_plan)):
        _validate.boolean(name, flag)
    if reg is None:
        raise TypeError(
            "`reg` is None; for the unregularised problem use a linear programming solver such as ot.emd "
            "or scipy.optimize.linprog"
        )
    reg = _validate.positive_scalar("reg", reg)
    _validate.callback("callback", callback)
    threads = _validate.n_threads(n_threads)
    if round and return_plan == "sparse":
        raise ValueError('`round` fills the plan; use it with `return_plan` "dense" or "lazy", not "sparse"')
    if overwrite_cost and return_plan != "dense":
        raise ValueError(f"`overwrite_cost` writes a dense plan; `return_plan` is {return_plan!r}")

    problem = _check_problem(backend, a, b, M, overwrite_cost, round, threads)
    xp, native = problem.xp, problem.native
    n, m = problem.cost.shape
    single = problem.cost.dtype == np.float32
    tol = (1e-6 if single else 1e-9) if tol is None else _validate.positive_scalar("tol", tol)
    options = {
        "reg": reg,
        "tol": tol,
        "method": method,
        "linear_solver": linear_solver,
        "sparsify": sparsify,
        "eps_scaling": _validate.boolean("eps_scaling", eps_scaling),
        "warmup": _validate.integer("warmup", warmup, minimum=1),
        "maxiter": 10000 if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1),
        "warm": init is not None,
        "n_threads": threads,
    }
    if lam is not None:
        options["lam"] = _validate.real_scalar("lam", lam, minimum=0.0, maximum=1.0, open_minimum=True)
    x, y = _initial_potentials(backend, init, problem, reg, reg_type)

    keep_kernel = return_plan == "dense" and not overwrite_cost
    kernel = xp.empty((n, m), dtype=problem.cost.dtype) if store_plan else None
    monitor = Monitor("sinkhorn", callback, _validate.integer("verbose", verbose), progress, tol, _COLUMNS)
    report: dict[str, Any] = {}
    try:
        report = native.ot_solve(
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

    result = OTResult()
    result._problem, result._backend, result._reg, result._rounded = problem, backend, reg, round
    result._x, result._y = x, y
    _set_values(result, report, reg_type)
    _set_plan(result, kernel if keep_kernel else None, return_plan, overwrite_cost, threads)
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
    result.time = time.perf_counter() - start
    warn_not_converged(result, solver="sinkhorn", quantity="L1 marginal error", error=result.err, target=tol)
    return result


def _check_problem(
    backend: _dispatch.Backend, a: Any, b: Any, M: Any, overwrite_cost: bool, round: bool, threads: int
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

    weights, masses, loose = [], [], False
    for name, given_w, length in (("a", a, n), ("b", b, m)):
        if given_w is None:
            weights.append(xp.full(length, 1.0 / length))
            masses.append(1.0)
            continue
        w = _validate.as_float_array(name, backend.take(name, given_w), shape=(length,), xp=xp)
        loose |= w.dtype == np.float32
        _validate.check_nonnegative(name, w, xp=xp)
        w = xp.ascontiguousarray(w, dtype=np.float64)
        mass = float(w.sum())
        if not mass > 0:
            raise ValueError(f"`{name}` has no mass: its {length} weights sum to {mass}")
        weights.append(w / mass)
        masses.append(mass)
    mass_a, mass_b = masses
    if abs(mass_a - mass_b) > (1e-5 if loose else 1e-9) * max(mass_a, mass_b):
        raise ValueError(
            f"`a` and `b` must have equal mass; they sum to {mass_a!r} and {mass_b!r} "
            "(for unequal masses use unbalanced transport)"
        )

    wa, wb = (weights[1], weights[0]) if transposed else (weights[0], weights[1])
    rows = cost.T if transposed else cost
    native = _native.of(rows)[0]
    facts = native.ot_inspect(rows, threads)
    if facts["has_nan"] or facts["has_negative_inf"]:
        _validate.check_finite("M", cost, allow_posinf=True, xp=xp)
    if facts["has_forbidden"]:
        if round:
            raise ValueError("`round` puts mass on every pair, but `M` forbids some (inf)")
        allowed = xp.isfinite(cost)
        for name, w, axis in (("row", weights[0], 1), ("column", weights[1], 0)):
            other = weights[1] if axis == 1 else weights[0]
            reach = (allowed & ((other > 0)[None, :] if axis == 1 else (other > 0)[:, None])).any(axis=axis)
            stuck = _to_numpy((w > 0) & ~reach)
            if stuck.any():
                raise ValueError(
                    f"`M` forbids (inf) every pair of {name} {int(stuck.argmax())} with mass on the other "
                    "side, but that bin has mass"
                )
    spread = max(0.0, facts["largest"] - facts["smallest"])
    return _Problem(rows, wa, wb, spread, mass_a, transposed)


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
        pair: tuple[Any, ...] = init._kl
        kl = True
    else:
        try:
            pair = tuple(init)
        except TypeError:
            raise TypeError("`init` must be a pair of potentials (f, g) or an OTResult") from None
        if len(pair) != 2:
            raise ValueError(f"`init` has {len(pair)} items; a pair of potentials (f, g) is needed")
        kl = reg_type == "kl"
    lengths = (m, n) if problem.transposed else (n, m)
    out = []
    for name, q, length in zip(("init[0]", "init[1]"), pair, lengths, strict=True):
        taken = _validate.as_float_array(
            name, backend.take(name, q), shape=(length,), dtype=np.float64, xp=xp
        )
        out.append(xp.array(taken))
    x, y = (out[1], out[0]) if problem.transposed else (out[0], out[1])
    if kl:
        with np.errstate(divide="ignore"):
            x += reg * xp.log(problem.a)
            y += reg * xp.log(problem.b)
    return x, y


def _set_values(result: OTResult, report: dict[str, Any], reg_type: str) -> None:
    """Values and potentials in both conventions, empty bins extended by the c-transform."""
    p, reg, x, y = result._problem, result._reg, result._x, result._y
    xp = p.xp
    with np.errstate(divide="ignore", invalid="ignore"):
        f, g = x - reg * xp.log(p.a), y - reg * xp.log(p.b)
    for empty, potential, other, transposed in ((p.a == 0, f, y, False), (p.b == 0, g, x, True)):
        if bool(empty.any()):
            cost = xp.ascontiguousarray(p.cost[:, empty] if transposed else p.cost[empty])
            extended = xp.empty(int(empty.sum()))
            p.native.ot_c_transform(cost, reg, transposed, other, extended, 0)
            potential[empty] = extended
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
    result.value_linear = p.mass * report["value_linear"]
    result.potentials = tuple(result._backend.give(q) for q in pair)


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
            p.cost, result._reg, result._x, result._y, p.a, p.b, _SPARSE_DROP, threads
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


def _to_numpy(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.get()
