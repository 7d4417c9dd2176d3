"""POT's names and signatures over aitken's solvers.

``import aitken.compat.ot as ot`` in the place of ``import ot`` solves entropic, unbalanced and quadratic
transport with aitken; every other name is POT's own, where POT is installed. Signatures, keywords, keys of
logs and fields of results are those of POT 0.9.7. What differs:

- Results are at least as accurate: POT stops on the 2-norm of the columns' error, aitken on the 1-norm of
  both marginals' error, which bounds it, with the same threshold. Every ``method`` of POT's is served by one
  solver, and ``numItermax`` limits its Sinkhorn iterations and Newton steps together.
- ``float32`` costs are solved in float64 where the threshold asks for more than float32 holds (traced by
  jax: if its 64 bits are enabled).
- The value of unbalanced problems is the objective that is minimised, mass terms included. POT leaves them
  out, and with them all that remains of it is 0 at the solution.
- Derivatives are those of the solution (implicit differentiation), for every ``grad`` but "detach": of values
  and plans; potentials and logs are numbers, and empty under jax's tracing. Derivatives with respect to `reg`
  are for torch; of quadratic transport, and of unbalanced problems with `c` or "entropy", they are POT's own.
- `potentials_init` starts the balanced solver too; `plan_init` serves POT's own solvers alone.
- Masses of `a` and `b` that differ by more than 1e-6 are a ValueError in balanced problems; by less, `b` is
  rescaled.
- A `lazy_plan` gives NumPy (CuPy) arrays, whatever the library of the samples.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from scipy import sparse

from .. import _dispatch, _validate
from .. import ot as _ot
from .._errors import ConvergenceWarning
from .._result import Status, _caller_stacklevel
from ..ot._cost import METRICS
from ..ot._sinkhorn import warn_unsolved

_SINGLE_TOL = 1e-6  # marginal error below which float32 costs are not enough
_SAME_MASS = 1e-6  # relative difference of masses that counts as rounding
_SINKHORN = ("sinkhorn", "sinkhorn_log", "greenkhorn", "sinkhorn_stabilized", "sinkhorn_epsilon_scaling")
_SINKHORN2 = ("sinkhorn", "sinkhorn_log", "sinkhorn_stabilized")
_IN_COST_UNITS = ("sinkhorn_stabilized", "sinkhorn_epsilon_scaling")  # what their warm starts are measured in
_TUNING = ("tau", "epsilon0", "numInnerItermax", "print_period")  # of POT's iterations; nothing to tune here
_OPTIONS = ("linear_solver", "sparsify", "eps_scaling", "n_threads")  # of aitken.ot.sinkhorn
_SOLVE = ("sinkhorn", "sinkhorn_log", "mm", "lbfgsb")
_SAMPLE = (
    "1d",
    "gaussian",
    "gaussian_hd",
    "lowrank",
    "nystroem",
    "factored",
    "geomloss",
    "geomloss_auto",
    "geomloss_tensorized",
    "geomloss_online",
    "geomloss_multiscale",
    "sliced",
    "max_sliced",
    "bsp",
)
_GRADIENTS = ("autodiff", "envelope", "last_step", "detach")


class OTResult:
    """What `solve`, `solve_batch` and `solve_sample` return: POT's ``OTResult`` without its `citation`.

    Attributes
    ----------
    value, value_linear, value_quad : float, array, or None
        The objective, its part ``<M, plan>``, and (for POT's own solvers) its quadratic part.
    plan, sparse_plan, lazy_plan : array, sparse array, LazyPlan, or None
        The transport plan in the forms there are; `sparse_plan` is made of `plan` when asked for.
    potentials : (array of shape (n,), array of shape (m,)) or None
        Logarithms of the scalings: ``plan = exp(f + g - M / reg)`` for balanced problems and
        ``a b exp(f + g - M / reg)`` for unbalanced ones. In units of the cost for exact and quadratic ones.
    status : Status or str
        How the solver ended.
    log : dict
        ``niter``, ``err`` (L1 marginal error for mass 1) and ``message``; of `solve_batch` ``n_iter`` in the
        place of ``niter``, with `debias` the results ``res_aa``, ``res_bb``, ``res_ab``.
    result : aitken.ot.OTResult or None
        aitken's own result, with its ``vjp``.
    """

    def __init__(
        self,
        potentials: Any = None,
        value: Any = None,
        value_linear: Any = None,
        value_quad: Any = None,
        plan: Any = None,
        log: dict[str, Any] | None = None,
        backend: Any = None,
        sparse_plan: Any = None,
        lazy_plan: Any = None,
        status: Any = None,
        batch_size: int = 100,
        result: Any = None,
    ) -> None:
        self.potentials = potentials
        self.value = value
        self.value_linear = value_linear
        self.value_quad = value_quad
        self.log = log
        self.lazy_plan = lazy_plan
        self.status = status
        self.batch_size = batch_size
        self.result = result
        self._plan = plan
        self._sparse_plan = sparse_plan
        self._backend = backend

    @property
    def potential_a(self) -> Any:
        """The first of `potentials`."""
        return None if self.potentials is None else self.potentials[0]

    @property
    def potential_b(self) -> Any:
        """The second of `potentials`."""
        return None if self.potentials is None else self.potentials[1]

    @property
    def plan(self) -> Any:
        """The dense plan."""
        if self._plan is None and self._sparse_plan is not None:
            return self._sparse_plan.toarray()
        return self._plan

    @property
    def sparse_plan(self) -> Any:
        """The plan as CSR; arrays of libraries without such a type stay dense."""
        if self._sparse_plan is not None or self._plan is None:
            return self._sparse_plan
        return sparse.csr_array(self._plan) if isinstance(self._plan, np.ndarray) else self._plan

    @property
    def marginal_a(self) -> Any:
        """Row sums of the plan."""
        return self._marginal(-1)

    @property
    def marginal_b(self) -> Any:
        """Column sums of the plan."""
        return self._marginal(-2)

    @property
    def marginals(self) -> Any:
        """Row and column sums of the plan."""
        return None if self.marginal_a is None else (self.marginal_a, self.marginal_b)

    def _marginal(self, axis: int) -> Any:
        plan = self._plan if self._plan is not None else self._sparse_plan
        if plan is not None:
            return plan.sum(axis)
        lazy = self.lazy_plan
        if lazy is None:
            return None
        return (lazy if axis == -1 else lazy.T) @ np.ones(lazy.shape[axis])

    def __repr__(self) -> str:
        shown = {"value": self.value, "value_linear": self.value_linear, "status": self.status}
        fields = [f"{name}={value}" for name, value in shown.items() if value is not None]
        plan = self.lazy_plan if self._plan is None else self._plan
        if plan is not None:
            fields.append(f"plan={type(plan).__name__}(shape={tuple(plan.shape)})")
        return f"OTResult({', '.join(fields)})"


# ------------------------------------------------------------------------------- arrays in and out


@dataclass
class _Inputs:
    """Arguments as arrays of the backend, and the way back to the caller's library and dtype."""

    backend: _dispatch.Backend
    a: Any
    b: Any
    M: Any
    dtype: Any

    @classmethod
    def of(cls, a: Any, b: Any, M: Any, tol: float, ndim: int = 2, balanced: bool = True) -> _Inputs:
        a, b = (None if _empty(w) else w for w in (a, b))
        backend = _dispatch.select(a=a, b=b, M=M)
        xp = backend.xp
        cost = _validate.as_float_array("M", backend.take("M", M), ndim=ndim, finite=False, xp=xp)
        dtype = cost.dtype
        if dtype == np.float32 and tol < _SINGLE_TOL:
            cost = cost.astype(np.float64)
        weights = [backend.take(name, w) for name, w in (("a", a), ("b", b))]
        first, second = (None if w is None else xp.asarray(w) for w in weights)
        if balanced:
            first, second = _matched(first, second, -1 if ndim == 3 else 0)
        return cls(backend, first, second, cost, dtype)

    @property
    def xp(self) -> Any:
        """numpy or cupy."""
        return self.backend.xp

    def give(self, x: Any) -> Any:
        """An array in the caller's dtype and library."""
        return self.backend.give(self.xp.asarray(x).astype(self.dtype, copy=False))

    def scalar(self, x: Any) -> Any:
        """A number in the caller's dtype, for libraries other than NumPy an array without dimensions."""
        if self.backend.library == "numpy":
            return self.dtype.type(x)
        return self.give(x)

    def weights(self, name: str) -> Any:
        """Weights as they count, uniform where none were given."""
        w = getattr(self, name)
        size = self.M.shape[-2 if name == "a" else -1]
        return self.xp.full(size, 1.0 / size) if w is None else w.astype(np.float64)


def _matched(a: Any, b: Any, axis: int) -> tuple[Any, Any]:
    """Both with one mass, if theirs differ by rounding alone (of weights once float32); None has mass 1."""
    if any(w is not None and not (w.dtype.kind in "fiub" and w.size and w.ndim) for w in (a, b)):
        return a, b  # refused where they are read
    of_a = 1.0 if a is None else a.sum(axis=axis, keepdims=True, dtype=np.float64)
    if b is None:
        return (None if a is None else _of_mass(a, of_a, 1.0)), None
    if a is not None and b.ndim not in (a.ndim, 2):
        return a, b
    return a, _of_mass(b, b.sum(axis=axis, keepdims=True, dtype=np.float64), of_a)


def _of_mass(w: Any, mass: Any, wanted: Any) -> Any:
    apart = abs(mass - wanted)
    rounded = (apart > 0) & (apart <= _SAME_MASS * wanted)
    with np.errstate(divide="ignore", invalid="ignore"):
        return w + w * rounded * (wanted / mass - 1.0) if bool(rounded.any()) else w


def _matched_tensors(a: Any, b: Any, axis: int) -> tuple[Any, Any]:
    """The same for tensors that record derivatives, by a constant factor."""
    if not (hasattr(a, "detach") and hasattr(b, "detach")):
        return a, b
    of_a, of_b = (w.detach().double().sum(axis, keepdim=True) for w in (a, b))
    apart = (of_a - of_b).abs()
    rounded = (apart > 0) & (apart <= _SAME_MASS * of_a)
    return a, b * (1.0 + rounded * (of_a / of_b - 1.0)).to(b.dtype) if bool(rounded.any()) else b


def _empty(w: Any) -> bool:
    return w is None or (hasattr(w, "__len__") and len(w) == 0)


def _differentiable(*arrays: Any) -> ModuleType | None:
    """The module whose functions record derivatives for these arrays, if any of them asks for that."""
    if any(getattr(x, "requires_grad", False) is True for x in arrays):
        return importlib.import_module("aitken.ot.torch")
    jax = sys.modules.get("jax")
    if jax is not None and any(isinstance(x, jax.core.Tracer) for x in arrays):
        return importlib.import_module("aitken.ot.jax")
    return None


def _detached(*arrays: Any) -> tuple[Any, ...]:
    """The same data, as a tuple, without a record of derivatives."""
    jax = sys.modules.get("jax")

    def without(v: Any) -> Any:
        if hasattr(v, "detach"):
            return v.detach()
        return jax.lax.stop_gradient(v) if jax is not None and isinstance(v, jax.core.Tracer) else v

    return tuple(without(v) for v in arrays)


def _constant(reg: Any) -> Any:
    """`reg` without a record of derivatives."""
    return reg.detach() if hasattr(reg, "detach") else reg


def _is_zero(reg: Any) -> bool:
    """Whether it is 0; tracers of jax are not."""
    jax = sys.modules.get("jax")
    return not (jax is not None and isinstance(reg, jax.core.Tracer)) and bool(reg == 0)


def _uniform_like(M: Any, axis: int) -> Any:
    """Uniform weights in the library, dtype and place of `M`, for the bins along one of its last axes."""
    shape = M.shape[:-2] + M.shape[axis:][:1]
    if hasattr(M, "new_full"):
        return M.new_full(shape, 1.0 / M.shape[axis])
    library = np if isinstance(M, np.ndarray) else sys.modules["jax.numpy"]
    return library.full(shape, 1.0 / M.shape[axis], dtype=M.dtype)


def _widened(M: Any, tol: float) -> tuple[Any, Any]:
    """(`M`, in float64 where its own type does not hold `tol`; the way back to its type)."""
    dtype = getattr(M, "dtype", None)
    if tol < _SINGLE_TOL and str(dtype).endswith(("float16", "float32")):
        if hasattr(M, "detach"):
            return M.double(), lambda x: x.to(dtype)
        if sys.modules["jax"].config.jax_enable_x64:
            return M.astype(np.float64), lambda x: x.astype(dtype)
    return M, lambda x: x


def _tolerance(name: str, value: Any) -> float:
    """POT's thresholds may be 0, which no error is below."""
    return max(_validate.tolerance(name, value), float(np.finfo(np.float64).tiny))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


# ------------------------------------------------------------------------------- entropic problems


def sinkhorn(
    a: Any,
    b: Any,
    M: Any,
    reg: float,
    method: str = "sinkhorn",
    numItermax: int = 1000,
    stopThr: float = 1e-9,
    verbose: bool = False,
    log: bool = False,
    warn: bool = True,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The plan of entropic transport; for a matrix `b` of histograms, their losses.

    Parameters
    ----------
    a : array_like of shape (n,)
        Weights; empty is uniform.
    b : array_like of shape (m,) or (m, k)
        Weights of the other side; empty is uniform. A matrix holds k histograms in its columns.
    M : array_like of shape (n, m)
        Cost.
    reg : float
        Regularisation. 0 asks for the unregularised plan, with a warning.
    method : str
        One of POT's names; all are served by the same solver.
    numItermax : int, default 1000
        Limit on Sinkhorn iterations and Newton steps together; for a matrix `b`, where neither `log` nor
        other options are asked for, those of a column before the general solver finishes it.
    stopThr : float, default 1e-9
        Bound on the L1 error of both marginals (POT: 2-norm of the columns' error), for total mass 1.
    verbose : bool
        A line per iteration to the logger "aitken".
    log : bool
        Return the log too.
    warn : bool
        Warn if `stopThr` was not reached.
    warmstart : pair of array_like of shape (n,), (m,) (or with k columns), optional
        Logarithms of the scalings to start from; for "sinkhorn_stabilized" and "sinkhorn_epsilon_scaling"
        multiplied by `reg`. ``log["warmstart"]`` of a call with the same `method` fits.
    **kwargs
        POT's settings of its iterations (`tau`, `epsilon0`, `numInnerItermax`, `print_period`), which have
        no meaning here, and `linear_solver`, `sparsify`, `eps_scaling`, `n_threads` of `aitken.ot.sinkhorn`.

    Returns
    -------
    plan : array of shape (n, m), or losses of shape (k,)
        In the library and dtype of `M`.
    log : dict
        With `log`: ``err`` (L1 marginal errors), ``niter`` and ``n_iter``, scalings ``u`` and ``v``, their
        logarithms ``log_u``, ``log_v`` (``logu``, ``logv``), these times `reg` ``alpha``, ``beta``, and
        ``warmstart``.

    Raises
    ------
    TypeError, ValueError
        As `aitken.ot.sinkhorn`, for an unknown `method`, and for an unknown keyword.

    Examples
    --------
    >>> import aitken.compat.ot as ot
    >>> ot.sinkhorn([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], 1).round(6)
    array([[0.365529, 0.134471],
           [0.134471, 0.365529]])
    """
    _check_method("sinkhorn", method, _SINKHORN)
    call = _Call("sinkhorn", method, numItermax, stopThr, verbose, warn, warmstart, kwargs)
    return call.plan_or_losses(a, b, M, reg, log, losses=False)


def sinkhorn2(
    a: Any,
    b: Any,
    M: Any,
    reg: float,
    method: str = "sinkhorn",
    numItermax: int = 1000,
    stopThr: float = 1e-9,
    verbose: bool = False,
    log: bool = False,
    warn: bool = False,
    warmstart: Any = None,
    **kwargs: Any,
) -> Any:
    """The loss ``<M, plan>`` of entropic transport, of each histogram for a matrix `b`.

    Parameters
    ----------
    a, b, M, reg, method, numItermax, stopThr, verbose, log, warn, warmstart, **kwargs
        As in `sinkhorn`, but for fewer methods, and `warn` is False.

    Returns
    -------
    loss : number, or array of shape (k,)
        In the library and dtype of `M`.
    log : dict
        With `log`: as from `sinkhorn`.

    Raises
    ------
    TypeError, ValueError
        As `sinkhorn`.

    Examples
    --------
    >>> import aitken.compat.ot as ot
    >>> float(ot.sinkhorn2([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], 1).round(6))
    0.268941
    """
    _check_method("sinkhorn2", method, _SINKHORN2)
    call = _Call("sinkhorn2", method, numItermax, stopThr, verbose, warn, warmstart, kwargs)
    return call.plan_or_losses(a, b, M, reg, log, losses=True)


def _check_method(function: str, method: Any, known: tuple[str, ...]) -> None:
    if not isinstance(method, str) or method.lower() not in known:
        raise ValueError(f"`method` of {function} must be one of {', '.join(known)}; got {method!r}")


class _Call:
    """One call of `sinkhorn` or `sinkhorn2`."""

    def __init__(
        self,
        function: str,
        method: str,
        numItermax: Any,
        stopThr: Any,
        verbose: Any,
        warn: Any,
        warmstart: Any,
        kwargs: dict[str, Any],
    ) -> None:
        _validate.no_unknown_keywords(
            function, [k for k in kwargs if k not in (*_TUNING, *_OPTIONS)], (*_TUNING, *_OPTIONS)
        )
        self.function, self.method = function, method.lower()
        self.tol = _tolerance("stopThr", stopThr)
        self.maxiter = max(1, _validate.integer("numItermax", numItermax, minimum=0))
        self.verbose, self.warn, self.warmstart = bool(verbose), bool(warn), warmstart
        self.options = {k: v for k, v in kwargs.items() if k in _OPTIONS}

    def plan_or_losses(self, a: Any, b: Any, M: Any, reg: Any, log: bool, losses: bool) -> Any:
        if reg is not None and _is_zero(reg):
            return self._exact(a, b, M, log, losses)
        module = _differentiable(a, b, M, reg)
        if module is not None:
            answer, facts = self._recorded(module, a, b, M, reg, log, losses)
        else:
            given = _Inputs.of(a, b, M, self.tol)
            if given.b is not None and given.b.ndim == 2:
                answer, facts = self._many(given, reg, log)
            else:
                answer, facts = self._one(given, reg, log, losses)
        return (answer, facts) if log else answer

    def _exact(self, a: Any, b: Any, M: Any, log: bool, losses: bool) -> Any:
        """POT's scalings are NaN for ``reg=0``; the limit is the plan without regularisation."""
        warnings.warn(
            f"{self.function}: `reg` is 0; the plan without regularisation is returned",
            UserWarning,
            stacklevel=_caller_stacklevel(),
        )
        a, b = (None if _empty(w) else w for w in (a, b))
        if getattr(b, "ndim", 1) == 2:
            given = _Inputs.of(a, None, M, self.tol)
            columns = [solve(M, a, b[:, k]).value_linear for k in range(b.shape[1])]
            return (given.give(columns), {"err": [], "niter": 0, "n_iter": 0}) if log else given.give(columns)
        found = solve(M, a, b)
        answer = found.value_linear if losses else found.plan
        if not log:
            return answer
        u, v = found.potentials
        return answer, {"err": [], "niter": 0, "n_iter": 0, "alpha": u, "beta": v}

    def _one(self, given: _Inputs, reg: Any, log: bool, losses: bool) -> tuple[Any, dict[str, Any]]:
        with _quiet():
            result = _ot.sinkhorn(
                given.a,
                given.b,
                given.M,
                reg,
                tol=self.tol,
                maxiter=self.maxiter,
                init=self._start(given, reg),
                return_plan=False if losses else "dense",
                verbose=int(self.verbose),
                **self.options,
            )
        if self.warn:
            warn_unsolved(result, self.function, self.tol)
        facts = {}
        if log:
            errors = [*(float(err) for err in result.history["err"]), result.err]
            facts = self._log(given, reg, _logarithms(given, reg, *result.potentials), errors, result.nit)
        return given.scalar(result.value_linear) if losses else given.give(result.plan), facts

    def _many(self, given: _Inputs, reg: Any, log: bool) -> tuple[Any, dict[str, Any]]:
        xp, (n, m) = given.xp, given.M.shape
        for name, w, shape in (("a", given.a, (n,)), ("b", given.b, (m, None))):
            if w is not None:
                w = _validate.as_float_array(name, w, shape=shape, xp=xp)
                _validate.check_nonnegative(name, w, xp=xp)
        columns = xp.ascontiguousarray(given.b.T)
        mass, masses = float(given.weights("a").sum()), columns.sum(axis=1, dtype=np.float64)
        apart = abs(masses - mass) > _SAME_MASS * mass
        if mass == 0 or bool(apart.any()):
            other = float(masses[int(apart.argmax())]) if masses.size else 0.0
            raise ValueError(
                f"`a` and the columns of `b` must have equal mass > 0; they sum to {mass!r} and {other!r}"
            )
        plain = not log and self.warmstart is None and set(self.options) <= {"n_threads"}
        if plain and given.backend.name == "cpu":
            with _quiet() if not self.warn else nullcontext():
                found = _ot.pairwise_distances(
                    given.weights("a")[None, :],
                    columns,
                    given.M,
                    reg=reg,
                    tol=self.tol,
                    maxiter=self.maxiter,
                    **self.options,
                )
            return given.give(mass * found[0]), {}
        with _quiet() if not self.warn else nullcontext():
            result = _ot.sinkhorn_batch(
                given.a,
                columns,
                given.M,
                reg,
                tol=self.tol,
                maxiter=self.maxiter,
                init=self._start(given, reg),
                return_plan=False,
                **self.options,
            )
        facts = {}
        if log:
            logs = _logarithms(given, reg, *(given.xp.asarray(q).T for q in result.potentials))
            facts = self._log(given, reg, logs, [float(result.err.max())], int(result.nit.max()))
        return given.give(result.value_linear), facts

    def _recorded(
        self, module: Any, a: Any, b: Any, M: Any, reg: Any, log: bool, losses: bool
    ) -> tuple[Any, dict[str, Any]]:
        """Through the functions that record derivatives; losses are ``<M, plan>`` of such a plan."""
        facts: dict[str, Any] = {}
        options = {"tol": self.tol, "maxiter": self.maxiter, **self.options}
        starts: Any = None
        if hasattr(M, "detach") and (log or self.warmstart is not None):
            # The solve that the log describes; derivatives are taken where it ended.
            free_a, free_b, free_m = _detached(a, b, M)
            given, constant = _Inputs.of(free_a, free_b, free_m, self.tol), float(_constant(reg))
            facts = self.plan_or_losses(free_a, free_b, free_m, constant, True, losses)[1]
            pair = [given.backend.take("warmstart", q) for q in (facts["alpha"], facts["beta"])]
            starts = _potentials(given, constant, *(given.xp.asarray(q).astype(np.float64) for q in pair))
            options["maxiter"] = self.maxiter if facts["err"][-1] <= self.tol else 1
        cost, back = _widened(M, self.tol)
        a = _uniform_like(cost, -2) if _empty(a) else a
        b = _uniform_like(cost, -1) if _empty(b) else b
        a, b = _matched_tensors(a, b, 0)
        with _quiet() if starts is not None or not self.warn else nullcontext():
            if b.ndim == 2:
                plans = [
                    module.sinkhorn_plan(
                        a, b[:, k], cost, reg, **options, **_from(starts and [q[k] for q in starts], reg)
                    )
                    for k in range(b.shape[1])
                ]
                answer = back(_stack([(cost * plan).sum() for plan in plans]))
            else:
                plan = module.sinkhorn_plan(a, b, cost, reg, **options, **_from(starts, reg))
                answer = back((cost * plan).sum() if losses else plan)
        return answer, facts if log else {}

    def _start(self, given: _Inputs, reg: Any) -> Any:
        if self.warmstart is None:
            return None
        xp, reg = given.xp, float(reg)
        unit = 1.0 if self.method in _IN_COST_UNITS else reg
        pair = [xp.asarray(given.backend.take("warmstart", q)).astype(np.float64) for q in self.warmstart]
        if given.b is not None and given.b.ndim == 2:
            width = given.b.shape[1]
            pair = [xp.broadcast_to(q if q.ndim == 2 else q[:, None], (len(q), width)) for q in pair]
        return _potentials(given, reg, *(unit * q for q in pair))

    def _log(
        self, given: _Inputs, reg: Any, logs: tuple[Any, Any], errors: list[float], nit: int
    ) -> dict[str, Any]:
        u, v = (given.give(given.xp.exp(q)) for q in logs)
        log_u, log_v = (given.give(q) for q in logs)
        alpha, beta = (given.give(float(reg) * q) for q in logs)
        facts: dict[str, Any] = {"err": errors, "niter": nit, "n_iter": nit, "u": u, "v": v}
        facts.update(log_u=log_u, log_v=log_v, logu=log_u, logv=log_v, alpha=alpha, beta=beta)
        facts["warmstart"] = (alpha, beta) if self.method in _IN_COST_UNITS else (log_u, log_v)
        return facts


def _from(starts: Any, reg: Any) -> dict[str, Any]:
    """The option to start there; a learned `reg` has its costs solved over `reg`, potentials too."""
    if starts is None:
        return {}
    over = float(_constant(reg)) if getattr(reg, "requires_grad", False) else 1.0
    return {"init": tuple(q / over for q in starts)}


def _stack(numbers: list[Any]) -> Any:
    library = sys.modules["torch"] if hasattr(numbers[0], "detach") else sys.modules["jax.numpy"]
    return library.stack(numbers)


def _logarithms(given: _Inputs, reg: Any, f: Any, g: Any) -> tuple[Any, Any]:
    """log u and log v of ``plan = u exp(-M / reg) v`` out of potentials; -inf where there is no mass."""
    xp = given.xp
    f, g = (xp.asarray(given.backend.take("potentials", q)) for q in (f, g))
    a, b = given.weights("a"), given.weights("b")
    with np.errstate(divide="ignore"):
        log_a, log_b = xp.log(a), xp.log(b) - np.log(float(a.sum()))
    return (
        f / float(reg) + (log_a[:, None] if f.ndim == 2 else log_a),
        g / float(reg) + (log_b[:, None] if g.ndim == 2 and log_b.ndim == 1 else log_b),
    )


def _potentials(given: _Inputs, reg: float, x: Any, y: Any) -> tuple[Any, Any]:
    """Potentials in aitken.ot's convention from ``reg log u`` and ``reg log v`` (k rows for k columns)."""
    xp = given.xp
    out = []
    for name, q in (("a", x), ("b", y)):
        w = given.weights(name)
        w = w[:, None] if q.ndim == 2 and w.ndim == 1 else w
        with np.errstate(divide="ignore", invalid="ignore"):
            p = q - reg * xp.log(w)
        p = xp.where(xp.isfinite(p), p, 0.0)
        out.append(xp.ascontiguousarray(p.T) if p.ndim == 2 else p)
    return out[0], out[1]


# ------------------------------------------------------------------------------- any regularisation


def solve(
    M: Any,
    a: Any = None,
    b: Any = None,
    reg: float | None = None,
    c: Any = None,
    reg_type: Any = "KL",
    unbalanced: Any = None,
    unbalanced_type: str = "KL",
    method: str | None = None,
    n_threads: int = 1,
    max_iter: int | None = None,
    plan_init: Any = None,
    potentials_init: Any = None,
    tol: float | None = None,
    verbose: bool = False,
    grad: str = "autodiff",
) -> Any:
    """Solve a transport problem on a cost matrix.

    Parameters
    ----------
    M : array_like of shape (n, m)
        Cost.
    a, b : array_like of shape (n,), (m,), optional
        Weights; None is uniform.
    reg : float, optional
        Regularisation; None or 0 is the linear program (POT's network simplex where POT is installed, else
        `aitken.ot.exact_ot`).
    c : array_like of shape (n, m), optional
        Reference measure of the regularisation of unbalanced problems; None is ``a b^T``.
    reg_type : {"KL", "entropy", "L2"} or (function, gradient)
        The last is POT's own solver.
    unbalanced : float or pair of float, optional
        Penalty on the marginals; ``inf`` keeps them.
    unbalanced_type : {"KL", "L2", "TV"}
        All but "KL" with `reg` are POT's own solvers.
    method : {"sinkhorn", "sinkhorn_log", "mm", "lbfgsb"}, optional
        "mm" and "lbfgsb" are POT's own solvers.
    n_threads : int
        Threads.
    max_iter : int, optional
        Default 1000.
    plan_init, potentials_init : array_like, optional
        Where to start; plans start POT's own solvers alone, potentials are those of a result's `potentials`.
    tol : float, optional
        Default 1e-9: bound on the L1 error of both marginals for total mass 1.
    verbose : bool
        A line per iteration to the logger "aitken".
    grad : {"autodiff", "envelope", "last_step", "detach"}
        What is differentiable for tensors that ask for it: everything, the value alone, everything, nothing.

    Returns
    -------
    OTResult
        With the attributes of POT's class that concern plans, values and potentials.

    Raises
    ------
    NotImplementedError
        An unknown `reg_type` or `unbalanced_type`, or a problem that needs POT where POT is not installed.
    TypeError, ValueError
        As `aitken.ot.sinkhorn`.

    Examples
    --------
    >>> import aitken.compat.ot as ot
    >>> r = ot.solve([[0.0, 1.0], [1.0, 0.0]], reg=1.0)
    >>> r.plan.round(6)
    array([[0.365529, 0.134471],
           [0.134471, 0.365529]])
    >>> float(r.value_linear.round(6))
    0.268941
    """
    if method is not None and method not in _SOLVE:
        raise ValueError(f"`method` of solve must be one of {', '.join(_SOLVE)}; got {method!r}")
    if grad not in _GRADIENTS:
        raise ValueError(f"`grad` must be one of {', '.join(_GRADIENTS)}; got {grad!r}")
    kind = reg_type.lower() if isinstance(reg_type, str) else reg_type
    penalty = unbalanced_type.lower()
    rho = _penalties(unbalanced)
    if reg is not None and reg != 0 and isinstance(kind, str) and kind not in ("kl", "entropy", "l2"):
        raise NotImplementedError(f"`reg_type` must be KL, entropy or L2; got {reg_type!r}")
    if unbalanced is not None and penalty not in ("kl", "l2", "tv"):
        raise NotImplementedError(f"`unbalanced_type` must be KL, L2 or TV; got {unbalanced_type!r}")
    if grad == "last_step" and max_iter == 0:
        raise ValueError("`max_iter` must be positive with grad='last_step'; got 0")
    exact = reg is None or _is_zero(reg)
    own = isinstance(kind, str) and (rho is None or (penalty == "kl" and kind != "l2"))
    if grad == "detach":
        a, b, M = _detached(a, b, M)
    module = _differentiable(a, b, M, c, reg)
    if module is not None:
        own = own and kind != "l2" and (rho is None or (kind == "kl" and c is None))
    if method in ("mm", "lbfgsb"):
        own = own and rho is None
    if exact and unbalanced is None and _pot(required=False) is None:
        return _exact(M, a, b, n_threads)
    if exact or not own:
        what = (
            "without `reg`" if exact else f"with reg_type={reg_type!r}, unbalanced_type={unbalanced_type!r}"
        )
        pot = _pot(what=f"solve {what}")
        return pot.solvers.solve(
            M,
            a,
            b,
            reg,
            c,
            reg_type,
            unbalanced,
            unbalanced_type,
            method,
            n_threads,
            max_iter,
            plan_init,
            potentials_init,
            tol,
            verbose,
            grad,
        )
    threshold = _tolerance("tol", 1e-9 if tol is None else tol)
    options: dict[str, Any] = {
        "tol": threshold,
        "maxiter": max(1, _validate.integer("max_iter", 1000 if max_iter is None else max_iter, minimum=0)),
        "n_threads": n_threads,
    }
    if kind == "l2":
        return _quadratic(M, a, b, reg, options, bool(verbose))
    form = kind, rho, unbalanced is not None
    if module is None:
        return _entropic(M, a, b, reg, c, *form, potentials_init, options, bool(verbose))
    return _recorded(module, M, a, b, reg, *form, potentials_init, options, grad, bool(verbose))


def _penalties(unbalanced: Any) -> tuple[float, float] | None:
    """The pair of penalties; None where both marginals are constraints."""
    if unbalanced is None:
        return None
    values = np.asarray(unbalanced, dtype=np.float64).ravel()
    if values.size not in (1, 2):
        raise ValueError(f"`unbalanced` has {values.size} numbers; one or two are needed")
    pair = float(values[0]), float(values[-1])
    return None if pair == (np.inf, np.inf) else pair


def _exact(M: Any, a: Any, b: Any, n_threads: int) -> OTResult:
    given = _Inputs.of(a, b, M, 0.0)
    result = _ot.exact_ot(given.a, given.b, given.M, n_threads=n_threads)
    plan = result.plan.toarray() if hasattr(result.plan, "toarray") else result.plan
    return OTResult(
        potentials=tuple(given.give(q) for q in result.potentials),
        value=given.scalar(result.value),
        value_linear=given.scalar(result.value),
        plan=given.give(plan),
        status=result.status,
        log={"err": result.err, "niter": result.nit, "message": result.message},
        result=result,
    )


def _reference(given: _Inputs, reg: float, c: Any, kind: str) -> tuple[Any, float]:
    """(cost, constant) for which KL to ``a b^T`` is the regularisation asked for, up to that constant."""
    xp = given.xp
    product = given.weights("a")[:, None] * given.weights("b")[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "entropy":  # reg * sum P (log P - 1)
            shift, constant = xp.log(product), -reg * float(product.sum())
        else:
            reference = _validate.as_float_array(
                "c", given.backend.take("c", c), shape=product.shape, dtype=np.float64, xp=xp
            )
            _validate.check_nonnegative("c", reference, xp=xp)
            shift = xp.log(product) - xp.log(reference)
            constant = reg * float(reference.sum() - product.sum())
    return given.M + reg * xp.where(product > 0, shift, 0.0), constant


def _entropic(
    M: Any,
    a: Any,
    b: Any,
    reg: Any,
    c: Any,
    kind: str,
    rho: tuple[float, float] | None,
    of_product: bool,
    start: Any,
    options: dict[str, Any],
    verbose: bool,
) -> OTResult:
    """Entropic transport; `of_product`: potentials are those of ``a b exp(f + g - M / reg)``."""
    given = _Inputs.of(a, b, M, options["tol"], balanced=rho is None)
    xp, reg = given.xp, _validate.positive_scalar("reg", reg)
    cost, constant = given.M, 0.0
    if rho is not None and (kind == "entropy" or c is not None):
        cost, constant = _reference(given, reg, c, kind)
    init = None
    if start is not None:
        pair = [xp.asarray(given.backend.take("potentials_init", q)).astype(np.float64) for q in start]
        init = [reg * q for q in pair] if of_product else _potentials(given, reg, *(reg * q for q in pair))
    with _quiet():
        result = _ot.sinkhorn(
            given.a, given.b, cost, reg, unbalanced=rho, init=init, verbose=int(verbose), **options
        )
    warn_unsolved(result, "solve", options["tol"])
    f, g = result.potentials
    linear = result.value_linear
    if cost is not given.M:
        linear = float(xp.where(result.plan > 0, result.plan * given.M, 0.0).sum())
    if rho is not None:
        value = result.value + constant
    else:
        value = result.value + _balanced_constant(given, reg, kind)
    if not of_product:
        logs = _logarithms(given, reg, f, g)
    else:  # balanced ones are of mass 1
        logs = f / reg, g / reg - (np.log(float(given.weights("a").sum())) if rho is None else 0.0)
    return OTResult(
        potentials=tuple(given.give(q) for q in logs),
        value=given.scalar(value),
        value_linear=given.scalar(linear),
        plan=given.give(result.plan),
        status=result.status,
        log={"err": result.err, "niter": result.nit, "message": result.message},
        result=result,
    )


def _balanced_constant(given: _Inputs, reg: float, kind: str) -> float:
    """From the value of `aitken.ot` (KL to a b^T at mass 1) to ``reg * sum P log(P / ab)`` or ``P log P``."""
    mass = float(given.weights("a").sum())
    if kind == "kl":
        return -reg * mass * float(np.log(mass))
    constant = 0.0
    for name in ("a", "b"):
        w = given.weights(name)
        constant += float((w * given.xp.log(given.xp.where(w > 0, w, 1.0))).sum())
    return reg * (constant - mass * float(np.log(mass)))


def _recorded(
    module: Any,
    M: Any,
    a: Any,
    b: Any,
    reg: Any,
    kind: str,
    rho: tuple[float, float] | None,
    of_product: bool,
    start: Any,
    options: dict[str, Any],
    grad: str,
    verbose: bool,
) -> OTResult:
    """Entropic transport whose derivatives are recorded by torch or jax."""
    cost, back = _widened(M, options["tol"])
    a = _uniform_like(cost, -2) if a is None else a
    b = _uniform_like(cost, -1) if b is None else b
    if rho is None:
        a, b = _matched_tensors(a, b, -1)
    plain = None
    if hasattr(M, "detach"):  # a tracer of jax has no numbers to solve with
        free_m, free_a, free_b, constant = _detached(M, a, b, reg)
        form = kind, rho, of_product
        plain = _entropic(free_m, free_a, free_b, constant, None, *form, start, options, verbose)
        if not getattr(reg, "requires_grad", False):  # else the costs are solved over `reg`
            left = options["maxiter"] if plain.result.success else 1  # the log's solve has had its iterations
            options = {**options, "init": plain.result, "maxiter": left}
    if rho is not None:
        options = {**options, "unbalanced": rho}
    with _quiet():
        value = module.sinkhorn(a, b, cost, reg, reg_type=kind, **options)
        if grad == "envelope" and plain is not None:
            plan, linear = plain.plan, plain.value_linear
        else:
            plan = module.sinkhorn_plan(a, b, cost, reg, **options)
            linear = (cost * plan).sum()
    if rho is None and kind == "kl":
        mass = a.sum()
        value = value - reg * mass * _log(mass)
    return OTResult(
        potentials=None if plain is None else plain.potentials,
        value=back(value),
        value_linear=back(linear),
        plan=back(plan),
        status=None if plain is None else plain.status,
        log=None if plain is None else plain.log,
        result=None if plain is None else plain.result,
    )


def _log(x: Any) -> Any:
    return x.log() if hasattr(x, "detach") else sys.modules["jax.numpy"].log(x)


def _quadratic(M: Any, a: Any, b: Any, reg: Any, options: dict[str, Any], verbose: bool) -> OTResult:
    """POT's plan minimises ``<M, P> + reg/2 ||P||^2``; the value it reports has reg in the place of reg/2."""
    given = _Inputs.of(a, b, M, options["tol"])
    with _quiet():
        result = _ot.quadratic_ot(given.a, given.b, given.M, reg, verbose=int(verbose), **options)
    warn_unsolved(result, "solve", options["tol"])
    plan = result.plan.toarray() if hasattr(result.plan, "toarray") else result.plan
    return OTResult(
        potentials=tuple(given.give(q) for q in result.potentials),
        value=given.scalar(result.value_linear + float(reg) * float((plan * plan).sum())),
        value_linear=given.scalar(result.value_linear),
        plan=given.give(plan),
        status=result.status,
        log={"err": result.err, "niter": result.nit, "message": result.message},
        result=result,
    )


# ------------------------------------------------------------------------------- batches, samples


def solve_batch(
    M: Any,
    reg: float | None = None,
    a: Any = None,
    b: Any = None,
    max_iter: int = 1000,
    tol: float = 1e-5,
    method: str = "auto",
    inner_iter: int = 1,
    inner_reg: float = 1e-3,
    reg_type: str = "entropy",
    grad: str = "envelope",
) -> Any:
    """Solve many transport problems of one size.

    Parameters
    ----------
    M : array_like of shape (B, n, m)
        Costs.
    reg : float, optional
        Regularisation. None or 0, and `method` "proximal", are POT's own proximal solver.
    a, b : array_like of shape (B, n), (B, m), optional
        Weights; None is uniform.
    max_iter : int
        Limit on the iterations of each problem.
    tol : float
        Bound on the L1 error of both marginals of each problem (POT: the largest 2-norm of the rows' error).
    method : {"auto", "proximal", "log_sinkhorn", "sinkhorn"}
        The last two are served by one solver.
    inner_iter, inner_reg
        Of POT's proximal solver.
    reg_type : {"entropy", "kl"}
        Convention of the values.
    grad : {"envelope", "autodiff", "last_step", "detach"}
        What is differentiable for tensors that ask for it: values, everything, everything, nothing.

    Returns
    -------
    OTResult
        With arrays of shape (B,), (B, n, m) and so on. The potentials are scalings for ``method="sinkhorn"``
        and their logarithms otherwise, as in POT.

    Raises
    ------
    ValueError
        An unknown option, or a Sinkhorn method without `reg`.

    Examples
    --------
    >>> import numpy as np
    >>> import aitken.compat.ot as ot
    >>> M = np.random.default_rng(0).random((5, 10, 15))
    >>> r = ot.solve_batch(M, reg=0.1)
    >>> r.plan.shape, r.value.shape
    ((5, 10, 15), (5,))
    """
    methods, kinds = ("auto", "proximal", "log_sinkhorn", "sinkhorn"), ("kl", "entropy")
    for name, value, known in (
        ("method", method, methods),
        ("reg_type", reg_type, kinds),
        ("grad", grad, _GRADIENTS),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}")
    if method in ("sinkhorn", "log_sinkhorn") and (reg is None or _is_zero(reg) or reg <= 0):
        raise ValueError(f"`reg` must be positive for method={method!r}; got {reg!r}")
    if method == "proximal" or reg is None or _is_zero(reg):
        return _pot(what="solve_batch without `reg`").batch.solve_batch(
            M, reg, a, b, max_iter, tol, "proximal", inner_iter, inner_reg, reg_type, grad
        )
    threshold = _tolerance("tol", tol)
    options: dict[str, Any] = {
        "tol": threshold,
        "maxiter": max(1, _validate.integer("max_iter", max_iter, minimum=0)),
    }
    if grad == "detach":
        a, b, M = _detached(a, b, M)
    module = _differentiable(a, b, M, reg)
    tracked = a, b, M
    a, b, M = _detached(a, b, M)
    if module is not None and not hasattr(M, "detach"):
        return _recorded_batch(module, *tracked, reg, reg_type, grad, options, None)
    given = _Inputs.of(a, b, M, threshold, ndim=3)
    constant = _constant(reg)
    result = _ot.sinkhorn_batch(given.a, given.b, given.M, constant, reg_type=reg_type, **options)
    xp = given.xp
    f, g = _batch_logarithms(given, float(constant), result)
    if method == "sinkhorn":
        f, g = xp.exp(f), xp.exp(g)
    value = result.value
    if reg_type == "kl":  # of mass 1; POT's reference is a b^T itself
        masses = given.weights("a").sum(axis=-1)
        value = value - float(constant) * masses * xp.log(masses)
    found = OTResult(
        potentials=(given.give(f), given.give(g)),
        value=given.give(value),
        value_linear=given.give(result.value_linear),
        plan=given.give(result.plan),
        status=Status(int(result.status.max())),
        log={"n_iter": int(result.nit.max()), "err": result.err, "message": result.message},
        result=result,
    )
    if module is None:
        return found
    return _recorded_batch(module, *tracked, reg, reg_type, grad, options, found)


def _batch_logarithms(given: _Inputs, reg: float, result: Any) -> tuple[Any, Any]:
    xp = given.xp
    f, g = (xp.asarray(given.backend.take("potentials", q)) for q in result.potentials)
    if result._reg_type == "entropy":
        return f / reg, g / reg
    a, b = given.weights("a"), given.weights("b")
    with np.errstate(divide="ignore"):
        return f / reg + xp.log(a), g / reg + xp.log(b) - xp.log(a.sum(axis=-1, keepdims=True))


def _recorded_batch(
    module: Any,
    a: Any,
    b: Any,
    M: Any,
    reg: Any,
    reg_type: str,
    grad: str,
    options: dict[str, Any],
    found: OTResult | None,
) -> OTResult:
    cost, back = _widened(M, options["tol"])
    a = _uniform_like(cost, -2) if a is None else a
    b = _uniform_like(cost, -1) if b is None else b
    a, b = _matched_tensors(a, b, -1)
    if found is not None and not getattr(reg, "requires_grad", False):
        options = {**options, "init": found.result}
    value_of = functools.partial(module.sinkhorn, reg=reg, reg_type=reg_type, **options)
    plan_of = functools.partial(module.sinkhorn_plan, reg=reg, **options)
    if found is None:  # jax
        value_of, plan_of = (sys.modules["jax"].vmap(function) for function in (value_of, plan_of))
    with _quiet():
        value = value_of(a, b, cost)
        if grad == "envelope" and found is not None:
            plan = found.plan
        else:
            plan = plan_of(a, b, cost)
    if reg_type == "kl":
        mass = a.sum(-1)
        value = value - reg * mass * _log(mass)
    return OTResult(
        potentials=None if found is None else found.potentials,
        value=back(value),
        value_linear=back((cost * plan).sum((1, 2))),
        plan=back(plan),
        status=None if found is None else found.status,
        log=None if found is None else found.log,
        result=None if found is None else found.result,
    )


def solve_sample(
    X_a: Any,
    X_b: Any,
    a: Any = None,
    b: Any = None,
    metric: Any = "sqeuclidean",
    reg: float | None = None,
    c: Any = None,
    reg_type: Any = "KL",
    unbalanced: Any = None,
    unbalanced_type: str = "KL",
    lazy: bool = False,
    batch_size: int | None = None,
    method: str | None = None,
    n_threads: int = 1,
    max_iter: int | None = None,
    plan_init: Any = None,
    rank: int = 100,
    scaling: float = 0.95,
    potentials_init: Any = None,
    X_init: Any = None,
    tol: float | None = None,
    verbose: bool = False,
    grad: str = "autodiff",
    random_state: Any = None,
    debias: Any = False,
    n_projections: int = 50,
    projections: Any = None,
    scaler: Any = None,
) -> Any:
    """Solve a transport problem between two samples.

    Parameters
    ----------
    X_a, X_b : array_like of shape (n, d), (m, d)
        Samples.
    a, b, reg, c, reg_type, unbalanced, unbalanced_type, n_threads, max_iter, plan_init, potentials_init
        As in `solve`.
    tol, verbose, grad
        As in `solve`.
    metric : str
        "sqeuclidean", "euclidean", "cityblock", "cosine"; others, not for `lazy`, are formed by POT.
    lazy : bool
        Entropic problems: hold no array of size n x m; `lazy_plan` gives rows of the plan on demand.
    method : str, optional
        As in `solve`, or one of POT's methods for samples, which are POT's own.
    debias : bool or "split"
        True: the divergence, ``value(a, b) - (value(a, a) + value(b, b)) / 2``. "split" is POT's own.
    batch_size, rank, scaling, X_init, random_state, n_projections, projections, scaler
        Of POT's own methods.

    Returns
    -------
    OTResult
        In one dimension, without `reg` and with balanced weights, the exact solution by sorting.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `solve`.

    Examples
    --------
    >>> import numpy as np
    >>> import aitken.compat.ot as ot
    >>> X = np.random.default_rng(0).random((20, 2))
    >>> ot.solve_sample(X, X + 0.5, reg=0.01).plan.shape
    (20, 20)
    """
    if method is not None and method.lower() not in (*_SOLVE, *_SAMPLE):
        raise ValueError(f"`method` must be one of {', '.join((*_SOLVE, *_SAMPLE))}; got {method!r}")
    shared: dict[str, Any] = {
        "metric": metric,
        "reg": reg,
        "c": c,
        "reg_type": reg_type,
        "unbalanced": unbalanced,
        "unbalanced_type": unbalanced_type,
        "lazy": lazy,
        "batch_size": batch_size,
        "method": method,
        "n_threads": n_threads,
        "max_iter": max_iter,
        "plan_init": plan_init,
        "rank": rank,
        "scaling": scaling,
        "potentials_init": potentials_init,
        "X_init": X_init,
        "tol": tol,
        "verbose": verbose,
        "grad": grad,
        "random_state": random_state,
    }
    exact = reg is None or _is_zero(reg)
    theirs = method is not None or scaler is not None or debias == "split" or (lazy and exact)
    theirs = theirs or (lazy and (unbalanced is not None or c is not None))
    if theirs:
        return _pot(what="solve_sample with these options").solvers.solve_sample(
            X_a,
            X_b,
            a,
            b,
            debias=debias,
            n_projections=n_projections,
            projections=projections,
            scaler=scaler,
            **shared,
        )
    if debias:
        return _debiased(X_a, X_b, a, b, shared)
    if lazy and grad == "detach":
        X_a, X_b, a, b = _detached(X_a, X_b, a, b)
    if lazy:
        return _lazy(X_a, X_b, a, b, metric, reg, reg_type, max_iter, tol, verbose, n_threads)
    tracked = _differentiable(X_a, X_b, a, b) is not None
    exponents = {"sqeuclidean": 2.0, "euclidean": 1.0, "cityblock": 1.0}
    if exact and unbalanced is None and not tracked and np.shape(X_a)[-1] == 1 and metric in exponents:
        return _on_a_line(X_a, X_b, a, b, exponents[metric])
    if tracked or not isinstance(metric, str) or metric not in METRICS:
        M = _pot(what=f"solve_sample with metric={metric!r} or gradients").dist(X_a, X_b, metric)
    else:
        M = _ot.dist(X_a, X_b, metric)
    return solve(
        M,
        a,
        b,
        reg,
        c,
        reg_type,
        unbalanced,
        unbalanced_type,
        method,
        n_threads,
        max_iter,
        plan_init,
        potentials_init,
        tol,
        verbose,
        grad,
    )


def _debiased(X_a: Any, X_b: Any, a: Any, b: Any, shared: dict[str, Any]) -> OTResult:
    aa = solve_sample(X_a, X_a, a, a, **shared)
    bb = solve_sample(X_b, X_b, b, b, **shared)
    ab = solve_sample(X_a, X_b, a, b, **shared)
    return OTResult(
        value=ab.value - 0.5 * (aa.value + bb.value),
        value_linear=ab.value_linear - 0.5 * (aa.value_linear + bb.value_linear),
        plan=ab._plan,
        sparse_plan=ab._sparse_plan,
        lazy_plan=ab.lazy_plan,
        potentials=ab.potentials,
        status=ab.status,
        log={"res_aa": aa, "res_bb": bb, "res_ab": ab},
    )


def _lazy(
    X_a: Any,
    X_b: Any,
    a: Any,
    b: Any,
    metric: Any,
    reg: Any,
    reg_type: Any,
    max_iter: int | None,
    tol: float | None,
    verbose: Any,
    n_threads: int,
) -> OTResult:
    kind = reg_type.lower() if isinstance(reg_type, str) else reg_type
    if kind not in ("kl", "entropy") or metric not in METRICS:
        raise NotImplementedError(f"no lazy solver for metric={metric!r} with reg_type={reg_type!r}")
    threshold = _tolerance("tol", 1e-9 if tol is None else tol)
    tracked, module = (X_a, X_b, a, b), _differentiable(X_a, X_b, a, b)
    if module is not None:
        if not hasattr(X_a, "detach"):
            raise NotImplementedError("`lazy` reads numbers, which jax's tracing has not; use aitken.ot.jax")
        X_a, X_b, a, b = _detached(X_a, X_b, a, b)
    backend = _dispatch.select(X_a=X_a, X_b=X_b, a=a, b=b)
    xp = backend.xp
    points = [
        _validate.as_float_array(name, backend.take(name, X), ndim=2, xp=xp)
        for name, X in (("X_a", X_a), ("X_b", X_b))
    ]
    dtype = np.result_type(points[0].dtype, points[1].dtype)
    if dtype == np.float32 and threshold < _SINGLE_TOL:
        points = [X.astype(np.float64) for X in points]
    a, b = (None if _empty(w) else xp.asarray(backend.take(n, w)) for n, w in (("a", a), ("b", b)))
    a, b = _matched(a, b, 0)
    with _quiet():
        result = _ot.sinkhorn_points(
            points[0],
            points[1],
            a,
            b,
            reg=reg,
            metric=metric,
            tol=threshold,
            maxiter=1000 if max_iter is None else max(1, max_iter),
            return_plan="lazy",
            verbose=int(bool(verbose)),
            n_threads=n_threads,
        )
    warn_unsolved(result, "solve_sample", threshold)
    shape = np.broadcast_to(0.0, (len(points[0]), len(points[1])))  # sizes alone, no memory
    given = _Inputs(backend, a, b, shape, dtype)
    value = given.scalar(result.value + _balanced_constant(given, float(reg), kind))
    if module is not None:
        value = _recorded_value(module, tracked, reg, metric, kind, threshold, result)
    f, g = (given.give(q) for q in _logarithms(given, reg, *result.potentials))
    facts = {"err": result.err, "niter": result.nit, "message": result.message}
    return OTResult(
        potentials=(f, g),
        value=value,
        value_linear=given.scalar(result.value_linear),
        lazy_plan=result.plan,
        status=result.status,
        log={**facts, "u": f, "v": g, "lazy_plan": result.plan},
        result=result,
    )


def _recorded_value(
    module: Any, data: tuple[Any, ...], reg: Any, metric: str, kind: str, tol: float, result: Any
) -> Any:
    """The value of clouds with its derivatives, from their solution."""
    X, Y, a, b = data
    a, b = module._weights(a, b, X)
    a, b = _matched_tensors(a, b, -1)
    with _quiet():
        value = module.sinkhorn_points(X, Y, a, b, reg=reg, metric=metric, tol=tol, init=result)
    mass = 1.0 if a is None else a.sum()
    if a is not None:
        value = value - reg * mass * a.sum().log()
    if kind == "entropy":
        for w, size in ((a, len(X)), (b, len(Y))):
            value = value + reg * (-np.log(size) if w is None else w.xlogy(w).sum())
    return value


def _on_a_line(X_a: Any, X_b: Any, a: Any, b: Any, p: float) -> OTResult:
    a, b = (None if _empty(w) else w for w in (a, b))
    backend = _dispatch.select(X_a=X_a, X_b=X_b, a=a, b=b)
    x, y, a, b = (backend.take(n, v) for n, v in (("X_a", X_a), ("X_b", X_b), ("a", a), ("b", b)))
    x, y = np.asarray(x), np.asarray(y)
    a, b = (None if w is None else np.asarray(w) for w in (a, b))
    a, b = _matched(a, b, 0)
    result = _ot.wasserstein_1d(x[:, 0], y[:, 0], a, b, p=p, return_plan=True, return_potentials=True)
    f, g = result.potentials or (None, None)
    dtype = np.dtype(np.result_type(x.dtype, y.dtype, np.float32))
    given = _Inputs(backend, a, b, None, dtype)
    return OTResult(
        potentials=(given.give(f), given.give(g)),
        value=given.scalar(result.value),
        value_linear=given.scalar(result.value),
        plan=given.give(result.plan.toarray()),
        sparse_plan=result.plan if backend.library == "numpy" else None,
        status=Status.CONVERGED,
        log={"err": 0.0, "niter": 0, "message": "sorted"},
        result=result,
    )


# ------------------------------------------------------------------------------- everything else


class _Overlay(ModuleType):
    """A module of POT with some functions replaced."""

    def __init__(self, name: str, functions: dict[str, Any]) -> None:
        super().__init__(f"{__name__}.{name}", f"POT's ot.{name}; {', '.join(functions)} are aitken's.")
        self.__dict__.update(functions)
        self._original = f"ot.{name}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._original), name)


_REPLACED: dict[str, dict[str, Any]] = {
    "bregman": {"sinkhorn": sinkhorn, "sinkhorn2": sinkhorn2},
    "solvers": {"solve": solve, "solve_sample": solve_sample},
    "batch": {"solve_batch": solve_batch},
}


def _pot(*, required: bool = True, what: str = "this name") -> Any:
    """POT's module, or None where it is not installed and not required."""
    try:
        pot = importlib.import_module("ot")
        importlib.import_module("ot.solvers")
        return pot
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ot":
            raise
        if not required:
            return None
        raise NotImplementedError(f"{what} is POT's own; pip install POT") from error


@functools.cache
def _overlay(name: str) -> _Overlay:
    return _Overlay(name, _REPLACED[name])


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pot = _pot(required=False)
    if pot is None:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it may be POT's own, and POT is not installed "
            "(pip install POT)"
        )
    if name in _REPLACED:
        return _overlay(name)
    try:
        return getattr(pot, name)
    except AttributeError:
        raise AttributeError(f"neither {__name__!r} nor POT {pot.__version__} has {name!r}") from None


def __dir__() -> list[str]:
    pot = _pot(required=False)
    return sorted({*__all__, *(() if pot is None else dir(pot))})


__all__ = ["OTResult", "sinkhorn", "sinkhorn2", "solve", "solve_batch", "solve_sample"]
