"""`sinkhorn_batch`: many transport problems in one call, of one size or of many."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._result import Result, Status
from . import _native, _unbalanced
from ._pairwise import summary, warn_some
from ._plan import LazyPlan
from ._sinkhorn import OTResult, _Problem, solver_options

_FORMS = ("dense", "lazy", False)


class OTBatchResult(Result):
    """Solutions of many entropic transport problems.

    Where all problems have one size, fields of one entry per bin are arrays with a leading axis of length B;
    for ragged batches they are lists of B arrays. ``result[i]`` is the `OTResult` of problem i.

    Attributes
    ----------
    value : ndarray of shape (B,)
        The regularised objectives, by duality, in the convention of `reg_type`. NaN where `status` is 9.
    value_linear : ndarray of shape (B,)
        ``<M, P>`` of each.
    plan : ndarray of shape (B, n, m), list of ndarray, list of LazyPlan, or None
        The plans; zeros where `status` is 9.
    potentials : (F, G)
        Dual potentials, float64: arrays of shape (B, n) and (B, m), or two lists.
    err : ndarray of shape (B,)
        Certificates: L1 marginal errors for total mass 1, recomputed from the returned potentials.
    nit, nit_sinkhorn, nit_newton, nit_cg, n_exp : ndarray of int, shape (B,)
        As in `OTResult`.
    success, status : ndarray of bool, ndarray of int, shape (B,)
        Per problem. Status 9 marks data that cannot be solved (NaN, negative weights, no mass, unequal
        masses, ``reg <= 0``, a bin with mass that is forbidden everywhere).
    message : str
        How many converged, and what became of the others.
    messages : list of str
        One per problem.
    time : float
        Wall seconds of the whole call.
    """

    value: Any
    value_linear: Any
    plan: Any
    potentials: tuple[Any, Any]
    err: np.ndarray
    nit: np.ndarray
    nit_sinkhorn: np.ndarray
    nit_newton: np.ndarray
    nit_cg: np.ndarray
    n_exp: np.ndarray
    success: np.ndarray
    status: np.ndarray
    message: str
    time: float
    _batch: _Batch
    _backend: _dispatch.Backend
    _report: dict[str, Any]
    _kl: tuple[list[Any], list[Any]]
    _reg_type: str

    @property
    def messages(self) -> list[str]:
        """What happened to each problem."""
        return [self._message(i) for i in range(len(self))]

    def _message(self, i: int) -> str:
        report = self._report
        clause = f" ({report['detail'][i]})" if report["detail"][i] else ""
        what = Status(int(report["status"][i])).message
        return f"{what}{clause}; L1 marginal error {report['err'][i]:.2e}"

    def __len__(self) -> int:
        """Number of problems."""
        return int(self.status.size)

    def __getitem__(self, key: Any) -> Any:
        """Problem ``key`` as an `OTResult`; with a string, the field of that name."""
        if isinstance(key, str):
            return super().__getitem__(key)
        i, size = _validate.integer("index", key), len(self)
        if not -size <= i < size:
            raise IndexError(f"`index` is {i}; the batch has {size} problems")
        i %= size
        return self._single(i)

    def __iter__(self) -> Any:
        """Iterate over the problems."""
        return (self._single(i) for i in range(len(self)))

    def _formula(self, i: int) -> tuple[_Problem, Any, Any]:
        """Problem i as the kernels see it, with its entropy-form potentials."""
        batch, report, xp = self._batch, self._report, self._batch.xp
        cost, a, b, reg = batch.costs[i], batch.weights(0, i), batch.weights(1, i), float(batch.reg[i])
        mass, given = float(report["mass_a"][i]), None
        if batch.soft:
            mass, given, finite = 1.0, (a, b), xp.isfinite(cost)  # bins that the cost isolates take no part
            a = xp.where((finite & (b > 0)).any(axis=1), a, 0.0)
            b = xp.where((finite & (given[0] > 0)[:, None]).any(axis=0), b, 0.0)
        offset = float(report["offset"][i])
        if offset:
            cost = cost - offset
        problem = _Problem(
            cost, a, b, float(report["range"][i]), mass, False, rho=batch.rho, given=given, offset=offset
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = (
                xp.where(w > 0, q - 0.5 * offset + reg * xp.log(w), -np.inf)
                for w, q in ((a, self._kl[0][i]), (b, self._kl[1][i]))
            )
        return problem, x, y

    def _single(self, i: int) -> OTResult:
        report = self._report
        result = OTResult()
        result._problem, result._x, result._y = self._formula(i)
        result._backend, result._reg, result._rounded = self._backend, float(self._batch.reg[i]), False
        result._reg_type = self._reg_type
        half = 0.5 * result._problem.offset
        result._kl = (self._kl[0][i] - half, self._kl[1][i] - half)
        result.value, result.value_linear = float(self.value[i]), float(self.value_linear[i])
        result.plan = None if self.plan is None else self.plan[i]
        result.potentials = (self.potentials[0][i], self.potentials[1][i])
        result.err = float(report["err"][i])
        for name in ("nit", "nit_sinkhorn", "nit_newton", "nit_cg", "n_exp"):
            setattr(result, name, int(getattr(self, name)[i]))
        result.status = Status(int(self.status[i]))
        result.success = result.status == Status.CONVERGED
        result.message = self._message(i)
        result.method, result.linear_solver = report["method"][i], report["linear_solver"][i]
        result.history = {}
        result.time = self.time
        return result

    def vjp(
        self,
        grad_value: Any = None,
        grad_plan: Any = None,
        grad_potentials: Any = None,
        *,
        rtol: float = 1e-10,
    ) -> dict[str, Any]:
        """Gradients of a scalar function of all values, plans and potentials with respect to the inputs.

        Parameters
        ----------
        grad_value : array_like of shape (B,), optional
            dL/dvalue of each problem.
        grad_plan : array_like of shape (B, n, m), or list of B matrices, optional
            dL/dP of each problem; an item of a list may be None.
        grad_potentials : (dF, dG), optional
            dL/df and dL/dg of each problem, laid out as `potentials`.
        rtol : float, default 1e-10
            Relative residual, in the 2-norm, of the implicit linear solves.

        Returns
        -------
        dict
            ``"M"``, ``"a"``, ``"b"`` of the shapes that were given: a cost, or weights, shared by the batch
            get the sum over the problems. Problems of status 9 contribute zeros.

        Raises
        ------
        ValueError
            Nothing to differentiate, or shapes that do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> M = np.random.default_rng(0).random((3, 4, 5))
        >>> r = ot.sinkhorn_batch(None, None, M, 0.1)
        >>> bool(np.allclose(r.vjp(grad_value=np.ones(3))["M"], r.plan))
        True
        """
        if grad_value is None and grad_plan is None and grad_potentials is None:
            raise ValueError(
                "`grad_value`, `grad_plan` and `grad_potentials` are all None; nothing to differentiate"
            )
        batch, size = self._batch, len(self)
        xp = batch.xp
        scales = None
        if grad_value is not None:
            taken = self._backend.take("grad_value", grad_value)
            scales = _validate.as_float_array("grad_value", taken, shape=(size,), dtype=np.float64, xp=xp)
        pairs = None
        if grad_potentials is not None:
            pairs = _validate.pair("grad_potentials", grad_potentials, "a pair (dF, dG)")
            for k, given in enumerate(pairs):
                _per_problem(f"grad_potentials[{k}]", given, size)
        if grad_plan is not None:
            _per_problem("grad_plan", grad_plan, size)
        parts: dict[str, list[Any]] = {"M": [], "a": [], "b": []}
        if size == 0:
            raise ValueError("the batch is empty; there is nothing to differentiate")
        for i in range(size):
            wanted = (
                None if scales is None else float(scales[i]),
                None if grad_plan is None else grad_plan[i],
                None if pairs is None else (pairs[0][i], pairs[1][i]),
            )
            if self.status[i] == Status.BAD_INPUT or all(item is None for item in wanted):
                n, m = batch.costs[i].shape
                found = {"M": xp.zeros((n, m)), "a": xp.zeros(n), "b": xp.zeros(m)}
            else:
                single = self._single(i)
                found = {
                    name: self._backend.take(name, g) for name, g in single.vjp(*wanted, rtol=rtol).items()
                }
            for name, values in parts.items():
                values.append(found[name])
        out = {}
        for name, values in parts.items():
            if batch.shared[name]:
                grad: Any = sum(values[1:], start=values[0])
            else:
                grad = xp.stack(values) if batch.uniform else values
            out[name] = (
                [self._backend.give(g) for g in grad] if isinstance(grad, list) else self._backend.give(grad)
            )
        return out


class _Batch:
    """Checked problems: matrices with contiguous rows, weights as given (None: uniform)."""

    def __init__(self, costs: list[Any], a: list[Any], b: list[Any], reg: np.ndarray) -> None:
        self.costs, self.a, self.b, self.reg = costs, a, b, reg
        self.shared: dict[str, bool] = {}
        self.uniform = len({c.shape for c in costs}) <= 1
        self.loose = 1e-9
        self.rho = (_unbalanced.INF, _unbalanced.INF)

    @property
    def soft(self) -> bool:
        """Whether marginals have a price instead of being fixed."""
        return _unbalanced.is_soft(self.rho)

    @property
    def xp(self) -> Any:
        """numpy or cupy."""
        return _native.of(self.costs[0])[1] if self.costs else np

    @property
    def native(self) -> Any:
        """Provider of the ``ot_*`` calls."""
        return _native.of(self.costs[0])[0]

    def weights(self, side: int, i: int) -> Any:
        """Weights of problem i, of mass 1."""
        w = (self.a, self.b)[side][i]
        if w is None:
            length = self.costs[i].shape[side]
            return self.xp.full(length, 1.0 / length)
        return w if self.soft else w / w.sum()


def sinkhorn_batch(
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
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
    n_threads: int | None = None,
) -> OTBatchResult:
    """Solve many entropic optimal transport problems.

    Each problem is solved as `sinkhorn` would, on one thread, to its own tolerance: easy ones stop early,
    hard ones go on to Newton steps, and one that cannot be solved is marked and disturbs no other.

    Parameters
    ----------
    a, b : array_like of shape (B, n) or (n,), (B, m) or (m,), list of B arrays, or None
        Weights, non-negative, of equal mass in each problem (to 1e-9 relative; 1e-5 for float32 weights).
        One vector is shared by all problems. None is uniform with mass 1; so is an item None of a list.
    M : array_like of shape (B, n, m) or (n, m), or list of B matrices
        Costs, float32 or float64. One matrix is shared by all problems; the matrices of a list may have
        different sizes. ``+inf`` forbids a pair. Lazy plans and `vjp` read them again.
    reg : float or array_like of shape (B,)
        Regularisation strength > 0, in the units of `M`.
    method, reg_type, maxiter, linear_solver, sparsify, eps_scaling, warmup, lam
        As in `sinkhorn`, for every problem.
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` of each problem for total mass 1. Default 1e-9 (float32
        costs: 1e-6).
    unbalanced : float or (float, float), optional
        Prices of the marginals of every problem, as in `sinkhorn`; masses need not be equal then.
    init : OTBatchResult or (F, G), optional
        Potentials to start from, in the convention of `reg_type`: the result of the step before, in a loop.
        Problems of status 9 there start from nothing.
    return_plan : {"dense", "lazy", False}
        Form of ``result.plan``: arrays, `LazyPlan` objects that recompute rows on demand, or None.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    OTBatchResult
        See there for the fields.

    Raises
    ------
    TypeError
        Complex or object data, arguments on different devices, or ``reg=None``.
    ValueError
        Shapes that do not fit, an empty cost, an unknown option. What is wrong with the numbers of one
        problem (NaN, negative weights, unequal masses, ``reg <= 0`` in an array) gives that problem status 9.

    Warns
    -----
    ConvergenceWarning
        Once, if some problem was not solved; it says how many and names the first.

    See Also
    --------
    sinkhorn : One problem; documents the options and the result.
    pairwise_distances : All pairs of two sets of histograms on one cost.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> M = np.random.default_rng(0).random((64, 32, 40))
    >>> r = ot.sinkhorn_batch(None, None, M, reg=0.01)
    >>> r.value.shape, r.plan.shape, bool(r.success.all())
    ((64,), (64, 32, 40), True)
    >>> again = ot.sinkhorn_batch(None, None, M + 1e-4, reg=0.01, init=r)  # the next step of a loop
    >>> bool(again.nit.sum() < r.nit.sum())
    True
    """
    start = time.perf_counter()
    _validate.choice("reg_type", reg_type, ("kl", "entropy"))
    _validate.choice("return_plan", return_plan, _FORMS)
    threads = _validate.n_threads(n_threads)
    rho = _unbalanced.penalties(unbalanced)
    _unbalanced.refuse(rho, method=method, reg_type=reg_type, round=False)
    backend, batch = _check_batch(a, b, M, reg)
    batch.rho = rho
    _unbalanced.refuse_huge(rho, float(np.nanmin(batch.reg, initial=np.inf, where=batch.reg > 0)))
    xp = batch.xp
    size = len(batch.costs)
    single = size > 0 and batch.costs[0].dtype == np.float32
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
        single=single,
        threads=threads,
    )
    options["rho_a"], options["rho_b"] = rho
    F, G = _start(backend, init, batch, reg_type)
    plans: list[Any] | None = None
    stacked = None
    if return_plan == "dense":
        dtype = batch.costs[0].dtype if size else np.float64
        if batch.uniform and size:
            stacked = xp.empty((size, *batch.costs[0].shape), dtype=dtype)
            plans = list(stacked)
        else:
            plans = [xp.empty(c.shape, dtype=dtype) for c in batch.costs]
    report = (
        batch.native.ot_solve_batch(
            batch.costs, batch.a, batch.b, batch.reg, list(F), list(G), plans, options, batch.loose
        )
        if size
        else _EMPTY
    )

    result = OTBatchResult()
    result._batch, result._backend, result._report = batch, backend, report
    result._kl = (list(F), list(G))
    result._reg_type = reg_type
    mass = np.ones(size) if batch.soft else np.asarray(report["mass_a"])
    _set_values(result, F, G, mass, reg_type)
    _set_plans(result, stacked, plans, mass, return_plan, threads)
    result.err = np.asarray(report["err"])
    result.nit_sinkhorn, result.nit_newton = report["nit_sinkhorn"], report["nit_newton"]
    result.nit = result.nit_sinkhorn + result.nit_newton
    result.nit_cg, result.n_exp = report["nit_cg"], report["n_exp"]
    result.status = np.asarray(report["status"])
    result.success = result.status == Status.CONVERGED
    result.message = summary(result.status, "problems")
    result.time = time.perf_counter() - start
    missed = np.flatnonzero(result.status != Status.CONVERGED)
    first = f"; problem {missed[0]}: {result._message(missed[0])}" if missed.size else ""
    warn_some(result, "sinkhorn_batch", options["tol"], first)
    return result


def _is_list(x: Any) -> bool:
    """Whether `x` is a sequence of arrays rather than an array or nested numbers."""
    return isinstance(x, list | tuple) and any(item is None or np.ndim(item) > 0 for item in x)


def _check_batch(a: Any, b: Any, M: Any, reg: Any) -> tuple[_dispatch.Backend, _Batch]:
    if reg is None:
        raise TypeError("`reg` is None; sinkhorn_batch solves regularised problems, exact_ot the others")
    ragged = isinstance(M, list | tuple) and all(np.ndim(c) == 2 for c in M)
    probes: dict[str, Any] = {"M": next(iter(M), None) if ragged else M}
    for name, w in (("a", a), ("b", b)):
        if not _is_list(w):
            probes[name] = w
        elif any(item is not None for item in w):
            probes[name] = next(item for item in w if item is not None)
    backend = _dispatch.select(**probes)
    xp = backend.xp

    if ragged:
        costs = [_matrix(f"M[{k}]", backend.take(f"M[{k}]", c), xp) for k, c in enumerate(M)]
        if len({c.dtype for c in costs}) > 1:
            costs = [c.astype(np.float64) for c in costs]
        size: int | None = len(costs)
        shared_cost = False
    else:
        cost = _validate.as_float_array("M", backend.take("M", M), ndim=(2, 3), finite=False, xp=xp)
        shared_cost = cost.ndim == 2
        cost = xp.ascontiguousarray(cost)
        costs = [cost] if shared_cost else list(cost)
        size = None if shared_cost else len(costs)
        if 0 in cost.shape[-2:]:
            raise ValueError(f"`M` has shape {cost.shape}; at least one row and one column are needed")

    regs = np.asarray(_validate.as_float_array("reg", reg, ndim=(0, 1), dtype=np.float64, finite=False))
    if regs.ndim == 0:
        _validate.positive_scalar("reg", reg)
    sides = []
    for axis, (name, w) in enumerate((("a", a), ("b", b))):
        items, loose = _weights(name, w, backend)
        sides.append((items, loose, w is None or (not _is_list(w) and np.ndim(w) == 1), name, axis))
    if size is None:  # a shared cost: the weights or reg say how many
        counts = [len(items) for items, _, shared, _, _ in sides if not shared]
        counts += [regs.size] if regs.ndim == 1 else []
        if not counts:
            raise ValueError(
                f"`M` has shape {costs[0].shape} and is shared; `a`, `b` or `reg` must then have one entry "
                "per problem"
            )
        size = counts[0]
        costs = costs * size
    if regs.ndim == 1 and regs.size != size:
        raise ValueError(f"`reg` has {regs.size} entries; the batch has {size} problems")
    regs = np.array(np.broadcast_to(regs, (size,)), dtype=np.float64)

    lists: list[list[Any]] = []
    batch_loose = 1e-9
    flags = {"M": shared_cost}
    for items, loose, shared, name, axis in sides:
        batch_loose = max(batch_loose, 1e-5 if loose else 1e-9)
        flags[name] = shared and len({c.shape[axis] for c in costs}) <= 1
        if shared:
            items = items * size
        if len(items) != size:
            raise ValueError(f"`{name}` has {len(items)} items; the batch has {size} problems")
        for k, w in enumerate(items):
            if w is not None and w.shape[0] != costs[k].shape[axis]:
                label = name if shared else f"{name}[{k}]"
                raise ValueError(
                    f"`{label}` has shape {w.shape}; the cost of problem {k} has shape {costs[k].shape}"
                )
        lists.append(items)
    batch = _Batch(costs, lists[0], lists[1], regs)
    batch.loose, batch.shared = batch_loose, flags
    return backend, batch


def _per_problem(name: str, given: Any, size: int) -> None:
    """Raise unless `given` holds an item per problem."""
    if not hasattr(given, "__len__") or getattr(given, "ndim", 1) == 0:
        raise TypeError(f"`{name}` must hold an array per problem, not {given!r}")
    if len(given) != size:
        raise ValueError(f"`{name}` has {len(given)} items; the batch has {size} problems")


def _matrix(name: str, c: Any, xp: Any) -> Any:
    if type(c) is not xp.ndarray or c.ndim != 2 or c.dtype.char not in "fd" or not c.dtype.isnative:
        c = _validate.as_float_array(name, c, ndim=2, finite=False, xp=xp)
    if 0 in c.shape:
        raise ValueError(f"`{name}` has shape {c.shape}; at least one row and one column are needed")
    return c if c.flags.c_contiguous else xp.ascontiguousarray(c)


def _weights(name: str, w: Any, backend: _dispatch.Backend) -> tuple[list[Any], bool]:
    """Weights as contiguous float64 vectors (or None), one if shared; whether any was float32."""
    xp = backend.xp
    if w is None:
        return [None], False
    if not _is_list(w):
        w = _validate.as_float_array(name, backend.take(name, w), ndim=(1, 2), finite=False, xp=xp)
        loose = w.dtype == np.float32
        w = xp.array(w, dtype=np.float64, order="C")  # gradients need it as it is now
        return ([w] if w.ndim == 1 else list(w)), loose
    items, loose = [], False
    for k, item in enumerate(w):
        if item is not None:
            item = backend.take(f"{name}[{k}]", item)
            item = _validate.as_float_array(f"{name}[{k}]", item, ndim=1, finite=False, xp=xp)
            loose |= item.dtype == np.float32
            item = xp.array(item, dtype=np.float64, order="C")
        items.append(item)
    return items, loose


def _start(backend: _dispatch.Backend, init: Any, batch: _Batch, reg_type: str) -> tuple[Any, Any]:
    """Potentials in the kl form, one row or item per problem: where to start, and where to write."""
    xp = batch.xp
    size = len(batch.costs)
    kl: Any
    if isinstance(init, OTBatchResult):
        kl, form = init._kl, "kl"
        if len(init) != size:
            raise ValueError(f"`init` has {len(init)} problems; the batch has {size}")
    elif init is None:
        kl, form = (None, None), "kl"
    else:
        kl = _validate.pair("init", init, "a pair of potentials (F, G)", " or an OTBatchResult")
        form = reg_type
        for axis, given in enumerate(kl):
            _per_problem(f"init[{axis}]", given, size)
    sides = []
    for axis, given in enumerate(kl):
        lengths = [c.shape[axis] for c in batch.costs]
        uniform = batch.uniform and size
        fresh: Any = xp.zeros((size, lengths[0])) if uniform else [xp.zeros(length) for length in lengths]
        if given is not None:
            for k, q in enumerate(given):
                name = f"init[{axis}][{k}]"
                q = _validate.as_float_array(
                    name, backend.take(name, q), shape=(lengths[k],), dtype=np.float64, finite=False, xp=xp
                )
                if not isinstance(init, OTBatchResult) and bool(xp.isnan(q).any()):
                    _validate.check_finite(name, q, xp=xp)
                if form == "entropy":
                    w = batch.weights(axis, k)
                    q = q - batch.reg[k] * xp.log(xp.where(w > 0, w, 1.0))
                fresh[k][...] = xp.where(xp.isfinite(q), q, 0.0)
        sides.append(fresh)
    return sides[0], sides[1]


def _set_values(result: OTBatchResult, F: Any, G: Any, mass: np.ndarray, reg_type: str) -> None:
    batch, report = result._batch, result._report
    xp = batch.xp
    value = mass * report["value"]
    sides: tuple[Any, Any] = (F, G)
    if reg_type == "entropy":
        sides = (F.copy(), G.copy())
        for k, reg in enumerate(batch.reg):
            if report["status"][k] == Status.BAD_INPUT:
                continue
            entropy = 0.0
            for axis, side in enumerate(sides):
                w = batch.weights(axis, k)
                logs = xp.log(xp.where(w > 0, w, 1.0))
                entropy += float((w * logs).sum())
                side[k] = side[k] + reg * (logs + (np.log(mass[k]) if axis == 0 else 0.0) * (w > 0))
            value[k] += mass[k] * reg * (entropy + np.log(mass[k]))
    result.value = result._backend.give(xp.asarray(value))
    result.value_linear = result._backend.give(xp.asarray(mass * report["value_linear"]))
    give = result._backend.give
    result.potentials = tuple(
        [give(q) for q in side] if isinstance(side, list) else give(side) for side in sides
    )  # type: ignore[assignment]


def _set_plans(
    result: OTBatchResult,
    stacked: Any,
    plans: list[Any] | None,
    mass: np.ndarray,
    form: str | bool,
    threads: int,
) -> None:
    batch, give = result._batch, result._backend.give
    result.plan = None
    if form == "lazy":
        result.plan = []
        for k, c in enumerate(batch.costs):
            problem, x, y = result._formula(k)
            if result._report["status"][k] == Status.BAD_INPUT:
                x = batch.xp.full(x.shape, -np.inf)  # a plan of zeros
                y, c = batch.xp.zeros(y.shape), batch.xp.zeros(c.shape, dtype=c.dtype)
            c = problem.cost if problem.offset else c
            result.plan.append(LazyPlan(c, x, y, float(batch.reg[k]), mass=problem.mass, n_threads=threads))
    elif plans is not None:
        for plan, s in zip(plans, mass, strict=True):
            if s != 1.0 and np.isfinite(s):
                plan *= plan.dtype.type(s)
        result.plan = give(stacked) if stacked is not None else [give(p) for p in plans]


_EMPTY: dict[str, Any] = {
    **{
        name: np.zeros(0, dtype=np.int64)
        for name in ("status", "nit_sinkhorn", "nit_newton", "nit_cg", "n_exp")
    },
    **{key: np.zeros(0) for key in ("err", "value", "value_linear", "mass_a", "range", "offset")},
    "detail": [],
    "method": [],
    "linear_solver": [],
}

__all__ = ["OTBatchResult", "sinkhorn_batch"]
