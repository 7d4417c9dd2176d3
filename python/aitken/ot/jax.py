"""Differentiable transport for jax: values, plans and divergences under ``jit``, ``grad`` and ``vmap``.

The solvers run on the host through ``jax.pure_callback``; a ``vmap`` over problems becomes one call of
`aitken.ot.sinkhorn_batch`, each problem with its own stopping. Gradients of values follow the envelope
theorem; those of plans, and second derivatives of values, take one linear solve. Functions are pure: nothing
is kept from one call to the next. A solve that does not converge warns, from the callback.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError("aitken.ot.jax needs jax; pip install 'aitken[jax]'") from error

from .. import _validate, ot
from .._result import Status
from . import _unbalanced
from ._cost import METRICS

Array = Any
_FIXED = (
    *("a", "b", "M", "X", "Y", "reg", "metric", "init", "return_plan", "round", "overwrite_cost"),
    *("store_plan", "symmetric", "callback", "progress", "verbose"),
)  # what the functions here take themselves, or what has no meaning under jit
Options = tuple[tuple[str, Any], ...]


def _options(solver: Callable[..., Any], given: dict[str, Any]) -> Options:
    """Checked, and hashable, since they are part of what is compiled."""
    known = [name for name in inspect.signature(solver).parameters if name not in _FIXED]
    unknown = [name for name in given if name not in known]
    _validate.no_unknown_keywords(solver.__name__, unknown, known)
    return tuple(sorted(given.items()))


# --- on the host -----------------------------------------------------------------------------------------


def _solved(
    reg: float, options: Options, a: Any, b: Any, M: Any, *, init: Any = None, plan: Any = False
) -> tuple[Any, tuple]:
    """(result, leading dimensions); a and b and M keep a leading dimension of 1 where they do not vary."""
    a, b, M = np.asarray(a), np.asarray(b), np.asarray(M)
    lead = np.broadcast_shapes(a.shape[:-1], b.shape[:-1], M.shape[:-2])
    if not lead:
        r: Any = ot.sinkhorn(a, b, M, reg, init=init, return_plan=plan, **dict(options))
        return r, lead

    def flat(x: Any, own: int) -> Any:
        inner = x.shape[x.ndim - own :]
        if x.size == np.prod(inner, dtype=int):
            return x.reshape(inner)  # shared
        return np.broadcast_to(x, lead + inner).reshape(-1, *inner)

    count = int(np.prod(lead))
    data = [flat(a, 1), flat(b, 1), flat(M, 2)]
    if data[2].ndim == 2 and data[0].ndim == 1 and data[1].ndim == 1:
        data[2] = np.broadcast_to(data[2], (count, *data[2].shape))
    if init is not None:
        init = tuple(np.broadcast_to(q, lead + q.shape[-1:]).reshape(count, -1) for q in init)
    a, b, M = data
    r = ot.sinkhorn_batch(a, b, M, reg, init=init, return_plan=plan, **dict(options))
    return r, lead


def _host_value(reg: float, options: Options, a: Any, b: Any, M: Any) -> Any:
    r, lead = _solved(reg, options, a, b, M)
    return np.reshape(np.asarray(r.value, dtype=M.dtype), lead)


def _host_solution(reg: float, options: Options, a: Any, b: Any, M: Any) -> tuple[Any, ...]:
    """(value, f, g, plan) of every problem."""
    r, lead = _solved(reg, options, a, b, M, plan="dense")
    if lead:
        r.plan[r.status == Status.BAD_INPUT] = np.nan
    parts = (r.value, *r.potentials, r.plan)
    shapes = ((), M.shape[-2:-1], M.shape[-1:], M.shape[-2:])
    return tuple(np.reshape(x, lead + shape).astype(M.dtype) for x, shape in zip(parts, shapes, strict=True))


def _host_pullback(reg: float, options: Options, a: Any, b: Any, M: Any, *rest: Any) -> tuple[Any, ...]:
    """Gradients for a, b and M of every problem, given those for the potentials and the plan."""
    f, g, grad_f, grad_g, grad_plan = (np.asarray(x) for x in rest)
    r, lead = _solved(reg, options, a, b, M, init=(f, g))
    n, m = M.shape[-2:]
    # A Jacobian maps over the cotangents of one and the same problem.
    every = np.broadcast_shapes(lead, grad_f.shape[:-1], grad_g.shape[:-1], grad_plan.shape[:-2])
    owner = np.broadcast_to(np.arange(int(np.prod(lead))).reshape(lead), every).ravel()
    problems = list(r) if lead else [r]
    cotangents = [
        np.broadcast_to(x, every + shape).reshape(-1, *shape)
        for x, shape in ((grad_f, (n,)), (grad_g, (m,)), (grad_plan, (n, m)))
    ]
    found = []
    for one, F, G, P in zip((problems[k] for k in owner), *cotangents, strict=True):
        if one.status == Status.BAD_INPUT:
            found.append({"a": np.full(n, np.nan), "b": np.full(m, np.nan), "M": np.full((n, m), np.nan)})
        else:
            found.append(one.vjp(None, P, (F, G)))
    return tuple(
        np.stack([grad[name] for grad in found]).reshape(every + shape).astype(M.dtype)
        for name, shape in (("a", (n,)), ("b", (m,)), ("M", (n, m)))
    )


def _callback(function: Callable[..., Any], like: Array, shapes: Any, *args: Array) -> Any:
    """Call `function` on the host; it gets, and gives back, leading dimensions under vmap."""

    def spec(shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, like.dtype)

    specs = tuple(map(spec, shapes)) if isinstance(shapes, list) else spec(shapes)
    return jax.pure_callback(function, specs, *args, vmap_method="expand_dims")


def _weight_slopes(reg: float, options: Options, f: Array, g: Array, a: Array, b: Array) -> list[Array]:
    """Derivatives of the value with respect to a and b, from the potentials."""
    given = dict(options)
    rho = _unbalanced.penalties(given.get("unbalanced"))
    if not _unbalanced.is_soft(rho):
        extra = 0.5 * reg if given.get("reg_type") == "entropy" else 0.0  # counts where both masses grow
        return [f + extra, g + extra]
    out = []
    for q, r, other in ((f, rho[0], b), (g, rho[1], a)):
        share = jnp.exp(-q / r)  # of the weight that is transported; 1 where r is infinite
        own = -r * jnp.expm1(-q / r) if r < _unbalanced.INF else q
        out.append(own - reg * (share - other.sum()))
    return out


# --- differentiable --------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solution(reg: float, options: Options, a: Array, b: Array, M: Array) -> tuple[Array, ...]:
    """(value, f, g, plan), differentiable once."""
    n, m = M.shape
    host = functools.partial(_host_solution, reg, options)
    return tuple(_callback(host, M, [(), (n,), (m,), (n, m)], a, b, M))


def _solution_forward(reg: float, options: Options, a: Array, b: Array, M: Array) -> tuple[Any, Any]:
    out = _solution(reg, options, a, b, M)
    return out, (a, b, M, *out[1:])


def _solution_backward(reg: float, options: Options, kept: Any, grads: Any) -> tuple[Array, ...]:
    a, b, M, f, g, plan = kept
    by_value, *others = grads
    n, m = M.shape
    host = functools.partial(_host_pullback, reg, options)
    da, db, dM = _callback(host, M, [(n,), (m,), (n, m)], a, b, M, f, g, *others)
    value_a, value_b = _weight_slopes(reg, options, f, g, a, b)
    return (
        (da + by_value * value_a).astype(a.dtype),
        (db + by_value * value_b).astype(b.dtype),
        dM + by_value * plan,
    )


_solution.defvjp(_solution_forward, _solution_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _value(reg: float, options: Options, a: Array, b: Array, M: Array) -> Array:
    return _callback(functools.partial(_host_value, reg, options), M, (), a, b, M)


def _value_forward(reg: float, options: Options, a: Array, b: Array, M: Array) -> tuple[Any, Any]:
    value, f, g, plan = _solution(reg, options, a, b, M)
    slopes = _weight_slopes(reg, options, f, g, a, b)
    return value, (*(s.astype(w.dtype) for s, w in zip(slopes, (a, b), strict=True)), plan)


def _value_backward(reg: float, options: Options, kept: Any, grad: Array) -> tuple[Array, ...]:
    return tuple((grad * x).astype(x.dtype) for x in kept)


_value.defvjp(_value_forward, _value_backward)


def _cloud_solve(divergence: bool, reg: float, metric: str, options: Options, *data: Any) -> Any:
    solver: Any = ot.sinkhorn_divergence if divergence else ot.sinkhorn_points
    form: dict[str, Any] = {} if divergence else {"return_plan": False}
    X, Y, a, b = (np.asarray(x) for x in data)
    return solver(X, Y, a, b, reg=reg, metric=metric, **form, **dict(options))


def _host_clouds(
    divergence: bool, slopes: bool, reg: float, metric: str, options: Options, *data: Any
) -> Any:
    """Values of transport or of divergences between clouds, and their derivatives for X, Y, a, b."""
    cores = (2, 2, 1, 1)
    lead = np.broadcast_shapes(*(x.shape[: x.ndim - k] for x, k in zip(data, cores, strict=True)))
    dtype, count = data[0].dtype, int(np.prod(lead))
    wide = [np.broadcast_to(x, lead + x.shape[x.ndim - k :]) for x, k in zip(data, cores, strict=True)]
    wide = [x.reshape(count, *x.shape[len(lead) :]) for x in wide]
    solved = [_cloud_solve(divergence, reg, metric, options, *one) for one in zip(*wide, strict=True)]
    values = np.array([r.value for r in solved], dtype=dtype).reshape(lead)
    if not slopes:
        return values
    found = [r.vjp(grad_value=1.0) for r in solved]
    return values, *(
        np.stack([grad[name] for grad in found]).astype(dtype).reshape(lead + x.shape[1:])
        for name, x in zip(("X", "Y", "a", "b"), wide, strict=True)
    )


Clouds = tuple[bool, float, str, Options]


def _dense(spec: Clouds, X: Array, Y: Array, a: Array, b: Array) -> Array:
    """The same value on dense costs, where second derivatives need the plan."""
    divergence, reg, metric, options = spec
    scale = dict(options).get("scale") or 1.0
    kept = tuple((name, value) for name, value in options if name != "scale")

    def transport(p: Array, q: Array, P: Array, Q: Array) -> Array:
        return _value(reg, kept, p, q, _cost(P, Q, metric) / scale)

    value = transport(a, b, X, Y)
    if not divergence:
        return value
    value = value - 0.5 * (transport(a, a, X, X) + transport(b, b, Y, Y))
    if _unbalanced.is_soft(_unbalanced.penalties(dict(options).get("unbalanced"))):
        value = value + 0.5 * reg * (a.sum() - b.sum()) ** 2
    return value


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cloud_slopes(spec: Clouds, X: Array, Y: Array, a: Array, b: Array) -> tuple[Array, ...]:
    """(value, its derivatives for X, Y, a, b), differentiable once."""
    host = functools.partial(_host_clouds, spec[0], True, *spec[1:])
    return tuple(_callback(host, X, [(), X.shape, Y.shape, a.shape, b.shape], X, Y, a, b))


def _cloud_slopes_forward(spec: Clouds, *data: Array) -> tuple[Any, Any]:
    return _cloud_slopes(spec, *data), data


def _cloud_slopes_backward(spec: Clouds, data: Any, grads: Any) -> tuple[Array, ...]:
    def dense(*data: Array) -> tuple[Array, ...]:
        value, slopes = jax.value_and_grad(functools.partial(_dense, spec), argnums=(0, 1, 2, 3))(*data)
        return value, *slopes

    out: tuple[Array, ...] = jax.vjp(dense, *data)[1](tuple(grads))
    return out


_cloud_slopes.defvjp(_cloud_slopes_forward, _cloud_slopes_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cloud_value(spec: Clouds, X: Array, Y: Array, a: Array, b: Array) -> Array:
    host = functools.partial(_host_clouds, spec[0], False, *spec[1:])
    return _callback(host, X, (), X, Y, a, b)


def _cloud_value_forward(spec: Clouds, *data: Array) -> tuple[Any, Any]:
    value, *slopes = _cloud_slopes(spec, *data)
    return value, tuple(slopes)


def _cloud_value_backward(spec: Clouds, kept: Any, grad: Array) -> tuple[Array, ...]:
    return tuple(grad * x for x in kept)


_cloud_value.defvjp(_cloud_value_forward, _cloud_value_backward)


# --- public ----------------------------------------------------------------------------------------------


def sinkhorn(a: Any, b: Any, M: Any, reg: Any, **options: Any) -> Array:
    """Value of entropic transport, differentiable twice in reverse mode.

    Parameters
    ----------
    a, b : array of shape (n,), (m,), or None
        Weights; None is uniform with mass 1. Where masses must be equal, gradients are defined up to adding
        a constant to one and subtracting it from the other: pass what a softmax, or a division by the sum,
        returns, and the constant drops out.
    M : array of shape (n, m)
        Cost, float32 or float64.
    reg : float or scalar array
        Regularisation > 0. An array, traced or not, is differentiated too (balanced transport).
    **options
        As of `aitken.ot.sinkhorn`: ``method, tol, maxiter, reg_type, unbalanced, ...``; static under jit.

    Returns
    -------
    scalar array
        Of the type of `M`. Use `jax.vmap` for batches.

    Raises
    ------
    TypeError, ValueError
        Shapes and options are checked while tracing; what is wrong with the numbers (negative weights, NaN)
        is raised by the callback, where jax wraps it.

    Warns
    -----
    ConvergenceWarning
        As `aitken.ot.sinkhorn`.

    Examples
    --------
    >>> import jax
    >>> from aitken.ot import jax as ot
    >>> M = jax.random.uniform(jax.random.key(0), (5, 7))
    >>> plan = jax.jit(jax.grad(lambda M: ot.sinkhorn(None, None, M, 0.1)))(M)
    >>> plan.shape
    (5, 7)
    """
    a, b, M, reg, factor = _arguments(a, b, M, reg, options)
    value = _value(reg, _options(ot.sinkhorn, options), a, b, M)
    return value if factor is None else factor * value


def sinkhorn_plan(a: Any, b: Any, M: Any, reg: Any, **options: Any) -> Array:
    """Plan of entropic transport, differentiable once in reverse mode.

    Parameters
    ----------
    a, b, M, reg, **options
        As of `sinkhorn`.

    Returns
    -------
    array of shape (n, m)
        The plan. Its derivative takes one linear solve with the Hessian at the solution.

    Examples
    --------
    >>> import jax
    >>> from aitken.ot import jax as ot
    >>> M = jax.random.uniform(jax.random.key(0), (5, 7))
    >>> ot.sinkhorn_plan(None, None, M, 0.1).shape
    (5, 7)
    """
    a, b, M, reg, _ = _arguments(a, b, M, reg, options)
    return _solution(reg, _options(ot.sinkhorn, options), a, b, M)[3]


def sinkhorn_points(
    X: Any, Y: Any, a: Any = None, b: Any = None, *, reg: float, metric: str = "sqeuclidean", **options: Any
) -> Array:
    """Value of entropic transport between two point clouds, differentiable twice in reverse mode.

    Parameters
    ----------
    X, Y : array of shape (n, d), (m, d)
        Points. The value and first derivatives take O(n + m) memory, second derivatives form the costs.
    a, b : array of shape (n,), (m,), optional
        Weights; None is uniform with mass 1.
    reg : float
        Regularisation > 0.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        Cost of a pair.
    **options
        As of `aitken.ot.sinkhorn_points`; static under jit.

    Returns
    -------
    scalar array
        Of the type of `X`. Under `jax.vmap` the problems are solved one after another.

    Examples
    --------
    >>> import jax
    >>> from aitken.ot import jax as ot
    >>> X = jax.random.uniform(jax.random.key(0), (40, 3))
    >>> jax.grad(lambda X: ot.sinkhorn_points(X, X[::-1] + 1, reg=0.05))(X).shape
    (40, 3)
    """
    return _of_clouds(False, X, Y, a, b, reg, metric, _options(ot.sinkhorn_points, options))


def sinkhorn_divergence(
    X: Any, Y: Any, a: Any = None, b: Any = None, *, reg: float, metric: str = "sqeuclidean", **options: Any
) -> Array:
    """Sinkhorn divergence of two point clouds, differentiable twice in reverse mode.

    Parameters
    ----------
    X, Y, a, b, reg, metric
        As of `sinkhorn_points`.
    **options
        As of `aitken.ot.sinkhorn_divergence`; static under jit.

    Returns
    -------
    scalar array
        Of the type of `X`. 0 for equal clouds, else positive, up to `tol`.

    Examples
    --------
    >>> import jax
    >>> from aitken.ot import jax as ot
    >>> X = jax.random.uniform(jax.random.key(0), (50, 2))
    >>> float(ot.sinkhorn_divergence(X, X, reg=0.05))
    0.0
    """
    return _of_clouds(True, X, Y, a, b, reg, metric, _options(ot.sinkhorn_divergence, options))


def _floating(name: str, x: Any, ndim: int) -> Array:
    x = jnp.asarray(x)
    if x.dtype not in (jnp.float32, jnp.float64):
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"`{name}` is complex (dtype {x.dtype}); a real array is needed")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    _validate.check_ndim(name, x, ndim)
    return x


def _weights(name: str, w: Any, length: int, dtype: Any) -> Array:
    if w is None:
        return jnp.full(length, 1.0 / length, dtype=dtype)
    w = _floating(name, w, 1)
    _validate.check_shape(name, w, (length,))
    return w


def _arguments(
    a: Any, b: Any, M: Any, reg: Any, options: dict[str, Any]
) -> tuple[Array, Array, Array, float, Array | None]:
    """Checked arrays; a `reg` that is an array becomes 1: value(M, reg) = reg value(M / reg, 1)."""
    M = _floating("M", M, 2)
    a, b = (_weights(name, w, length, M.dtype) for name, w, length in zip("ab", (a, b), M.shape, strict=True))
    if not isinstance(reg, jax.Array):
        return a, b, M, _validate.positive_scalar("reg", reg), None
    if options.get("unbalanced") is not None:
        raise ValueError("`reg` is a jax array, which is for balanced transport; `unbalanced` is given")
    reg = _floating("reg", reg, 0)
    return a, b, (M / reg).astype(M.dtype), 1.0, reg


def _of_clouds(
    divergence: bool, X: Any, Y: Any, a: Any, b: Any, reg: Any, metric: str, options: Options
) -> Array:
    _validate.choice("metric", metric, METRICS)
    X, Y = _floating("X", X, 2), _floating("Y", Y, 2)
    _validate.check_shape("Y", Y, (None, X.shape[1]))
    dtype = jnp.promote_types(X.dtype, Y.dtype)
    a, b = _weights("a", a, X.shape[0], dtype), _weights("b", b, Y.shape[0], dtype)
    spec = (divergence, _validate.positive_scalar("reg", reg), metric, options)
    return _cloud_value(spec, *(x.astype(dtype) for x in (X, Y, a, b)))


def _cost(X: Array, Y: Array, metric: str) -> Array:
    """Cost matrix, differentiable twice where the metric is; a kink's derivative is 0."""
    if metric == "cosine":
        P, Q = (z / jnp.sqrt((z * z).sum(axis=1, keepdims=True)) for z in (X, Y))
        return 1.0 - P @ Q.T
    delta = X[:, None, :] - Y[None, :, :]
    if metric == "cityblock":
        return jnp.abs(delta).sum(axis=-1)
    square = (delta * delta).sum(axis=-1)
    if metric == "sqeuclidean":
        return square
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


__all__ = ["sinkhorn", "sinkhorn_divergence", "sinkhorn_plan", "sinkhorn_points"]
