"""Differentiable transport for torch: values, plans and divergences of tensors as tensors.

Gradients of values follow the envelope theorem; those of plans, and second derivatives of values, take one
linear solve with the Hessian at the solution. Nothing is unrolled, no graph of iterations is kept. Tensors on
the CPU are used where they are; those on a GPU go through CuPy, as everywhere in `aitken`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("aitken.ot.torch needs torch; pip install 'aitken[train]'") from error

from .. import _validate, ot
from .._result import Status
from . import _unbalanced
from ._cost import METRICS
from ._divergence import one_penalty

_FIXED = ("return_plan", "round", "overwrite_cost", "store_plan", "symmetric")  # not the caller's to choose
_OF_CLOUDS = ("init", "scale", "progress", "verbose")  # solvers of formed costs have them not, or otherwise


class Warm:
    """Potentials kept from one call to the next, for loops over problems that change little.

    Pass one object as `init` in every step of a loop (one object per place in the code that solves): each
    call starts from the potentials of the call before. A call whose sizes differ starts from nothing, and a
    solve that did not converge is not remembered.

    Attributes
    ----------
    nit, nit_newton : int
        Iterations of the last call, over all its problems, and the Newton steps among them.
    success : bool
        Whether all problems of the last call met the tolerance.

    Examples
    --------
    >>> import torch
    >>> from aitken.ot import torch as ot
    >>> X = torch.rand(60, 2, generator=torch.manual_seed(0), requires_grad=True)
    >>> Y, warm = torch.rand(60, 2), ot.Warm()
    >>> optimiser, steps = torch.optim.SGD([X], lr=0.5), []
    >>> for _ in range(5):
    ...     value = ot.sinkhorn_divergence(X, Y, reg=0.01, init=warm)
    ...     optimiser.zero_grad()
    ...     value.backward()
    ...     optimiser.step()
    ...     steps.append(warm.nit)
    >>> max(steps[1:]) < steps[0]
    True
    """

    def __init__(self) -> None:
        self.nit = self.nit_newton = 0
        self.success = True
        self._start: Any = None
        self._sizes: Any = None

    def reset(self) -> None:
        """Forget the potentials; the next call starts from nothing."""
        self._start = self._sizes = None

    def _init(self, sizes: Any) -> Any:
        return self._start if sizes == self._sizes else None

    def _keep(self, sizes: Any, start: Any, result: Any) -> None:
        self.nit, self.nit_newton = int(_total(result.nit)), int(_total(result.nit_newton))
        self.success = bool(_total(result.success, all))
        self._start, self._sizes = (start, sizes) if self.success else (None, None)


class _Solve:
    """One call of a solver of `aitken.ot`: what to call, from where to start, and the result for backward."""

    def __init__(self, solver: Callable[..., Any], options: dict[str, Any]) -> None:
        known = [name for name in inspect.signature(solver).parameters if name not in _FIXED]
        unknown = [name for name in options if name not in known]
        _validate.no_unknown_keywords(solver.__name__, unknown, known)
        self.solver, self.options = solver, dict(options)
        self.warm = self.options.pop("init", None)
        self.result: Any = None

    def __call__(self, *data: Tensor | None) -> Any:
        data = tuple(None if x is None else x.detach() for x in data)
        sizes = (self.solver, *(None if x is None else (x.shape, x.device) for x in data))
        warm = self.warm
        init = warm._init(sizes) if isinstance(warm, Warm) else warm
        form = {} if self.solver is ot.sinkhorn_divergence else {"return_plan": False}
        r = self.result = self.solver(*data, init=init, **form, **self.options)
        if isinstance(warm, Warm):
            warm._keep(sizes, self.potentials(), r)
        return r

    def potentials(self) -> Any:
        """Where the next call may start, without the data of this one."""
        if self.solver is ot.sinkhorn_divergence:
            return self.result.term_potentials
        return self.result.potentials

    def solution(self) -> tuple[Any, Any, Any]:
        """Potentials and plan of the problem, or of all of the batch."""
        r = self.result
        f, g = (torch.as_tensor(q).clone() for q in r.potentials)  # outputs become part of the graph
        if self.solver is not ot.sinkhorn_batch:
            return f, g, torch.as_tensor(r.vjp(grad_value=1.0)["M"])
        plan = torch.full((len(r), f.shape[1], g.shape[1]), torch.nan, dtype=f.dtype, device=f.device)
        for i, one in enumerate(r):
            if one.status != Status.BAD_INPUT:
                plan[i] = torch.as_tensor(one.vjp(grad_value=1.0)["M"])
        return f, g, plan

    def weight_slopes(self, f: Tensor, g: Tensor, a: Tensor | None, b: Tensor | None) -> list[Tensor]:
        """Derivatives of the value with respect to a and b, from the potentials."""
        out = []
        rho = _unbalanced.penalties(self.options.get("unbalanced"))
        reg = self.options["reg"]
        reg = reg if np.ndim(reg) == 0 else torch.as_tensor(reg, device=f.device)[:, None]
        for q, r, other in ((f, rho[0], b), (g, rho[1], a)):
            if _unbalanced.is_soft(rho):
                share = torch.exp(-q / r)  # of the weight that is transported; 1 where r is infinite
                q = (-r * torch.expm1(-q / r) if r < _unbalanced.INF else q) - reg * share
                q = q + reg * (1.0 if other is None else other.sum(-1, keepdim=True))
            elif self.options.get("reg_type") == "entropy":
                q = q + 0.5 * reg  # counts where both masses grow
            out.append(q)
        return out


def _total(x: Any, over: Callable[[Any], Any] = sum) -> Any:
    return over(x) if getattr(x, "ndim", 0) else x


def _give(grad: Any, like: Tensor | None) -> Tensor | None:
    """A gradient of ours in the type of the tensor that it belongs to."""
    return None if like is None else torch.as_tensor(grad).to(dtype=like.dtype, device=like.device)


def _value(value: Any, like: Tensor) -> Tensor:
    """A value, or one for each problem, as a tensor on the device of the data."""
    dtype = like.dtype if like.dtype.is_floating_point else torch.float64
    if isinstance(value, float):
        return torch.tensor(value, dtype=dtype, device=like.device)
    return torch.as_tensor(value).to(dtype=dtype, device=like.device)


class _Value(torch.autograd.Function):
    """Value of transport on a cost, of one problem or of a batch."""

    @staticmethod
    def forward(ctx: Any, a: Tensor | None, b: Tensor | None, M: Tensor, solve: _Solve) -> Tensor:
        value = _value(solve(a, b, M).value, M)
        ctx.solve = solve
        ctx.save_for_backward(a, b, M)  # also refuses data that was changed in place meanwhile
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        a, b, M = ctx.saved_tensors
        if not torch.is_grad_enabled():  # first derivatives only
            found = ctx.solve.result.vjp(grad_value=grad.contiguous() if grad.ndim else float(grad))
            needed = ctx.needs_input_grad
            return (
                _give(found["a"], a) if needed[0] else None,
                _give(found["b"], b) if needed[1] else None,
                _give(found["M"], M) if needed[2] else None,
                None,
            )
        f, g, plan = _Solution.apply(a, b, M, ctx.solve)
        da, db = ctx.solve.weight_slopes(f, g, a, b)
        grads = [grad[..., None] * da, grad[..., None] * db, grad[..., None, None] * plan]
        out = [
            None if x is None else (g.sum(0) if g.ndim > x.ndim else g).to(x.dtype)
            for g, x in zip(grads, (a, b, M), strict=True)
        ]
        return (*out, None)


class _Solution(torch.autograd.Function):
    """Potentials and plan, of one problem or of a batch."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor | None, b: Tensor | None, M: Tensor, solve: _Solve
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.solve = solve
        ctx.save_for_backward(a, b, M)
        if solve.result is None:
            solve(a, b, M)
        f, g, plan = (_value(x, M) for x in solve.solution())
        return f, g, plan

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_f: Tensor, grad_g: Tensor, grad_plan: Tensor) -> tuple[Any, ...]:
        a, b, M = ctx.saved_tensors
        found = ctx.solve.result.vjp(None, grad_plan.double(), (grad_f.double(), grad_g.double()))
        return _give(found["a"], a), _give(found["b"], b), _give(found["M"], M), None


class _OfClouds(torch.autograd.Function):
    """Value of transport, or of a divergence, between two clouds; no n x m array for first derivatives."""

    @staticmethod
    def forward(
        ctx: Any, X: Tensor, Y: Tensor, a: Tensor | None, b: Tensor | None, solve: _Solve, dense: Any
    ) -> Tensor:
        value = _value(solve(X, Y, a, b).value, X)
        ctx.solve, ctx.dense = solve, dense
        ctx.save_for_backward(X, Y, a, b)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors
        if not torch.is_grad_enabled():
            found = ctx.solve.result.vjp(grad_value=float(grad))
            pairs = zip(("X", "Y", "a", "b"), inputs, strict=True)
            return (*(_give(found[name], x) for name, x in pairs), None, None)
        # Second derivatives need the plan: the same value on dense costs, from the known potentials.
        value = ctx.dense(*inputs, ctx.solve.potentials())
        wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
        grads = iter(torch.autograd.grad(value, wanted, grad.to(value.dtype), create_graph=True))
        return (*(next(grads) if needed else None for needed in ctx.needs_input_grad[:4]), None, None)


def sinkhorn(a: Any, b: Any, M: Tensor, reg: Any, **options: Any) -> Tensor:
    """Value of entropic transport, differentiable twice.

    Parameters
    ----------
    a, b : tensor of shape (..., n), (..., m), or None
        Weights; None is uniform with mass 1. Where masses must be equal, gradients are defined up to adding
        a constant to one and subtracting it from the other: pass what a softmax, or a division by the sum,
        returns, and the constant drops out.
    M : tensor of shape (..., n, m)
        Costs. Leading dimensions, which `a` and `b` may lack or share by broadcasting, make a batch, which is
        solved in parallel by `aitken.ot.sinkhorn_batch`.
    reg : float or tensor
        Regularisation > 0, one for all or one for each problem. A tensor that requires grad gets its gradient
        too (balanced transport).
    **options
        As of `aitken.ot.sinkhorn` (`sinkhorn_batch` for a batch): ``method, tol, maxiter, unbalanced, ...``;
        `init` may also be a `Warm`.

    Returns
    -------
    tensor
        Of the leading dimensions (none: a scalar), of the type of `M`. Its first derivatives are the
        potentials and the plan; the second ones take one linear solve.

    Raises
    ------
    TypeError, ValueError
        As `aitken.ot.sinkhorn`, and for an `M` that is not a tensor.

    Warns
    -----
    ConvergenceWarning
        As `aitken.ot.sinkhorn`.

    Examples
    --------
    >>> import torch
    >>> from aitken.ot import torch as ot
    >>> M = torch.rand(5, 7, dtype=torch.float64, requires_grad=True)
    >>> ot.sinkhorn(None, None, M, 0.1).backward()
    >>> bool(torch.allclose(M.grad.sum(1), torch.full((5,), 0.2, dtype=torch.float64)))  # the plan
    True
    """
    M, reg, factor = _scaled(M, reg, options.get("unbalanced"))
    value = _on_cost(lambda a, b, M, solve: _Value.apply(a, b, M, solve), a, b, M, reg, options)
    return value if factor is None else factor * value


def sinkhorn_plan(a: Any, b: Any, M: Tensor, reg: Any, **options: Any) -> Tensor:
    """Plan of entropic transport, differentiable once.

    Parameters
    ----------
    a, b, M, reg, **options
        As of `sinkhorn`.

    Returns
    -------
    tensor of shape (..., n, m)
        The plan. Its derivative takes one linear solve with the Hessian at the solution.

    Examples
    --------
    >>> import torch
    >>> from aitken.ot import torch as ot
    >>> M = torch.rand(5, 7, dtype=torch.float64, requires_grad=True)
    >>> plan = ot.sinkhorn_plan(None, None, M, 0.1)
    >>> (plan**2).sum().backward()  # how concentrated the plan is, as a function of the costs
    >>> M.grad.shape
    torch.Size([5, 7])
    """
    M, reg, _ = _scaled(M, reg, options.get("unbalanced"))
    return _on_cost(lambda a, b, M, solve: _Solution.apply(a, b, M, solve)[2], a, b, M, reg, options)


def sinkhorn_points(
    X: Tensor,
    Y: Tensor,
    a: Any = None,
    b: Any = None,
    *,
    reg: Any,
    metric: str = "sqeuclidean",
    **options: Any,
) -> Tensor:
    """Value of entropic transport between point clouds, differentiable twice.

    Parameters
    ----------
    X, Y : tensor of shape (..., n, d), (..., m, d)
        Points. Single clouds take O(n + m) memory for the value and first derivatives; second derivatives
        and batches form the costs.
    a, b : tensor of shape (..., n), (..., m), optional
        Weights; None is uniform with mass 1.
    reg : float or tensor
        Regularisation > 0. With a tensor that requires grad, the costs are formed.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        Cost of a pair.
    **options
        As of `aitken.ot.sinkhorn_points`; `init` may also be a `Warm`.

    Returns
    -------
    tensor
        Of the leading dimensions, of the type of `X`.

    Examples
    --------
    >>> import torch
    >>> from aitken.ot import torch as ot
    >>> X = torch.rand(40, 3, dtype=torch.float64, requires_grad=True)
    >>> ot.sinkhorn_points(X, X.detach() + 1, reg=0.05).backward()
    >>> X.grad.shape
    torch.Size([40, 3])
    """
    _check_clouds(X, Y, metric)
    a, b = _weights(a, b, X)
    solve = _Solve(ot.sinkhorn_points, {"reg": reg, "metric": metric, **options})

    def dense(X: Tensor, Y: Tensor, a: Any, b: Any, start: Any) -> Tensor:
        keep = _for_cost(options)
        keep["init"] = options.get("init") if start is None else start
        return sinkhorn(a, b, _cost(X, Y, metric, options), reg, **keep)

    if _streams(X, Y, reg):
        return _OfClouds.apply(X, Y, a, b, solve, dense)
    return dense(X, Y, a, b, None)


def sinkhorn_divergence(
    X: Tensor,
    Y: Tensor,
    a: Any = None,
    b: Any = None,
    *,
    reg: Any,
    metric: str = "sqeuclidean",
    **options: Any,
) -> Tensor:
    """Sinkhorn divergence of point clouds, differentiable twice.

    Parameters
    ----------
    X, Y, a, b, reg, metric
        As of `sinkhorn_points`.
    **options
        As of `aitken.ot.sinkhorn_divergence`; `init` may also be a `Warm`.

    Returns
    -------
    tensor
        Of the leading dimensions, of the type of `X`. 0 for equal clouds, else positive, up to `tol`.

    Examples
    --------
    >>> import torch
    >>> from aitken.ot import torch as ot
    >>> X = torch.rand(50, 2, dtype=torch.float64, requires_grad=True)
    >>> ot.sinkhorn_divergence(X, X.detach().clone(), reg=0.05).item()
    0.0
    """
    _check_clouds(X, Y, metric)
    a, b = _weights(a, b, X)
    solve = _Solve(ot.sinkhorn_divergence, {"reg": reg, "metric": metric, **options})
    one_penalty(options.get("unbalanced"))

    def dense(X: Tensor, Y: Tensor, a: Any, b: Any, start: Any) -> Tensor:
        keep = _for_cost(options)
        starts = start or {}
        terms = [
            sinkhorn(p, q, _cost(P, Q, metric, options), reg, init=starts.get(name), **keep)
            for name, P, Q, p, q in (("xy", X, Y, a, b), ("xx", X, X, a, a), ("yy", Y, Y, b, b))
        ]
        value = terms[0] - 0.5 * (terms[1] + terms[2])
        if options.get("unbalanced") is not None:
            mass_a, mass_b = (1.0 if w is None else w.sum(-1) for w in (a, b))
            value = value + 0.5 * reg * (mass_a - mass_b) ** 2
        return value

    if _streams(X, Y, reg):
        return _OfClouds.apply(X, Y, a, b, solve, dense)
    if options.get("init") is not None:
        raise ValueError(
            "`init` starts single clouds; batches and a learned `reg` are solved anew, so leave it out"
        )
    return dense(X, Y, a, b, None)


def _learned(reg: Any) -> bool:
    return isinstance(reg, Tensor) and reg.requires_grad


def _scaled(M: Tensor, reg: Any, unbalanced: Any) -> tuple[Tensor, Any, Tensor | None]:
    """(M, reg, None); if `reg` requires grad (M / reg, 1, reg): value(M, reg) = reg value(M / reg, 1)."""
    if not isinstance(M, Tensor):
        raise TypeError(f"`M` must be a torch tensor, not {type(M).__name__}")
    if M.ndim < 2:
        raise ValueError(f"`M` has shape {tuple(M.shape)}; (..., n, m) is needed")
    if not _learned(reg):
        return M, reg, None
    if unbalanced is not None:
        raise ValueError("`reg` requires grad, which is for balanced transport; `unbalanced` is given")
    if not bool((reg > 0).all()):
        raise ValueError(f"`reg` must be > 0; got {float(reg.detach().min())}")
    return M / reg[..., None, None], 1.0, reg


def _weights(a: Any, b: Any, like: Tensor) -> list[Tensor | None]:
    """Weights as tensors on the device of `like`."""
    out = []
    for w in (a, b):
        if w is None or isinstance(w, Tensor):
            out.append(w)
        else:
            out.append(torch.as_tensor(w, dtype=torch.float64, device=like.device))
    return out


def _on_cost(apply: Callable[..., Tensor], a: Any, b: Any, M: Tensor, reg: Any, options: Any) -> Tensor:
    """Apply a function of (a, b, M, solve) to one problem, or to all of a batch at once."""
    a, b = _weights(a, b, M)
    for name, w, length in (("a", a, M.shape[-2]), ("b", b, M.shape[-1])):
        if w is not None and (w.ndim == 0 or w.shape[-1] != length):
            raise ValueError(f"`{name}` has shape {tuple(w.shape)}; (..., {length}) is needed")
    if not isinstance(reg, Tensor) and np.ndim(reg):
        reg = torch.as_tensor(reg)
    scales = reg.shape if isinstance(reg, Tensor) else ()
    leads = [() if w is None else w.shape[:-1] for w in (a, b)]
    try:
        lead = torch.broadcast_shapes(M.shape[:-2], *leads, scales)
    except RuntimeError:
        raise ValueError(
            f"the leading dimensions of `M` {tuple(M.shape[:-2])}, `a` {tuple(leads[0])} and `b` "
            f"{tuple(leads[1])} do not fit together"
        ) from None
    if not lead:
        reg = float(reg) if isinstance(reg, Tensor) else reg
        return apply(a, b, M, _Solve(ot.sinkhorn, {"reg": reg, **options}))

    def flat(x: Tensor | None, own: int) -> Tensor | None:
        """One leading dimension; none for data that all problems share."""
        if x is None or x.ndim == own:
            return x
        return x.expand(*lead, *x.shape[x.ndim - own :]).reshape(-1, *x.shape[x.ndim - own :])

    if isinstance(reg, Tensor):
        reg = reg.detach().expand(lead).reshape(-1).cpu().numpy()
    if M.ndim == 2 and all(w is None or w.ndim == 1 for w in (a, b)):
        M = M.expand(*lead, *M.shape)  # only `reg` differs
    out = apply(flat(a, 1), flat(b, 1), flat(M, 2), _Solve(ot.sinkhorn_batch, {"reg": reg, **options}))
    return out.reshape(*lead, *out.shape[1:])


def _for_cost(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the functions of clouds that those of costs have too; `init` is the caller's to choose."""
    return {name: value for name, value in options.items() if name not in _OF_CLOUDS}


def _check_clouds(X: Any, Y: Any, metric: str) -> None:
    _validate.choice("metric", metric, METRICS)
    for name, cloud in (("X", X), ("Y", Y)):
        if not isinstance(cloud, Tensor):
            raise TypeError(f"`{name}` must be a torch tensor, not {type(cloud).__name__}")
        if cloud.ndim < 2:
            raise ValueError(f"`{name}` has shape {tuple(cloud.shape)}; (..., points, d) is needed")
    if X.shape[-1] != Y.shape[-1]:
        raise ValueError(f"`X` has points of length {X.shape[-1]}, `Y` of length {Y.shape[-1]}")


def _streams(X: Tensor, Y: Tensor, reg: Any) -> bool:
    """Whether the solver that forms no costs serves: single clouds, `reg` a constant."""
    return X.ndim == 2 == Y.ndim and not _learned(reg)


def _cost(X: Tensor, Y: Tensor, metric: str, options: dict[str, Any]) -> Tensor:
    """Cost matrix in the scale of the options."""
    scale = options.get("scale")
    cost = _distance(X, Y, metric)
    return cost if scale is None else cost / _validate.positive_scalar("scale", scale)


def _distance(X: Tensor, Y: Tensor, metric: str) -> Tensor:
    """Distances, differentiable twice where the metric is; a kink's derivative is 0."""
    if metric == "cosine":
        P, Q = (z / z.norm(dim=-1, keepdim=True) for z in (X, Y))
        return 1.0 - P @ Q.mT
    delta = X[..., :, None, :] - Y[..., None, :, :]
    if metric == "cityblock":
        return delta.abs().sum(-1)
    square = (delta * delta).sum(-1)
    if metric == "sqeuclidean":
        return square
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


__all__ = ["Warm", "sinkhorn", "sinkhorn_divergence", "sinkhorn_plan", "sinkhorn_points"]
