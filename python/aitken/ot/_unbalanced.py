"""Unbalanced and semi-balanced transport: penalties, values and gradients beside the balanced ones.

The problem is ``min <M, P> + reg KL(P | a b^T) + rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b)`` with
``KL(p | q) = sum(p log(p / q) - p + q)``; a penalty of infinity is a constraint. At the solution
``P_ij = a_i b_j exp((f_i + g_j - M_ij) / reg)``, ``P 1 = a exp(-f / rho_a)``, ``P^T 1 = b exp(-g / rho_b)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from . import _arrays, _native

Pair = tuple[Any, Any]
INF = float("inf")
_HUGE = 1e18


def penalties(unbalanced: Any) -> tuple[float, float]:
    """Check `unbalanced` and return (rho_a, rho_b); infinity is a hard marginal."""
    if unbalanced is None:
        return INF, INF
    pair = isinstance(unbalanced, tuple | list | np.ndarray) and getattr(unbalanced, "ndim", 1) > 0
    given = unbalanced if pair else (unbalanced, unbalanced)
    if any(getattr(rho, "requires_grad", False) is True for rho in given):
        raise TypeError("`unbalanced` requires grad, but no derivatives are taken for penalties; detach it")
    if len(given) != 2:
        raise ValueError(f"`unbalanced` has {len(given)} items; a number or a pair (rho_a, rho_b) is needed")
    names = ("unbalanced",) * 2 if given is not unbalanced else ("unbalanced[0]", "unbalanced[1]")
    first, second = (
        INF if isinstance(rho, float | np.floating) and rho == INF else _validate.positive_scalar(name, rho)
        for name, rho in zip(names, given, strict=True)
    )
    return first, second


def is_soft(rho: tuple[float, float]) -> bool:
    """Whether a marginal is penalised and not fixed."""
    return min(rho) < INF


def refuse(rho: tuple[float, float], *, method: str, reg_type: str, round: bool) -> None:
    """Raise where an option of the balanced problem was given for a penalised one."""
    if not is_soft(rho):
        return
    if method == "sns":
        raise ValueError("`method` is 'sns', which is for balanced problems; `unbalanced` needs another")
    if reg_type != "kl":
        raise ValueError(
            f"`reg_type` is {reg_type!r}; with `unbalanced` its values are different problems, of which 'kl' "
            "is solved"
        )
    if round:
        raise ValueError("`round` makes marginals exact, which `unbalanced` does not ask for")


def refuse_huge(rho: tuple[float, float], reg: float) -> None:
    """Raise where potentials, of the size of rho times the masses' rounding, would drown the plan's."""
    for r in rho:
        if _HUGE * reg < r < INF:
            raise ValueError(
                f"`unbalanced` is {r!r}, beyond {_HUGE:g} times `reg` ({reg!r}); inf makes a marginal exact"
            )


def potential(reg: float, rho: float, raw: Any, xp: Any) -> Any:
    """Turn c-transforms ``-reg log sum exp`` into potentials of penalised bins; inf where none is allowed."""
    raw = xp.where(xp.isfinite(raw), raw, INF)
    return raw / (1.0 + reg / rho)


def dual_value(weights: Pair, potentials: Pair, rho: tuple[float, float], reg: float, mass: float) -> float:
    """Return the dual objective; equal to the primal one at the solution."""
    total = -reg * (mass - float(weights[0].sum()) * float(weights[1].sum()))
    for w, q, r in zip(weights, potentials, rho, strict=True):
        keep = w > 0
        w, q = w[keep], q[keep]
        with np.errstate(over="ignore"):
            total += float(w @ q) if r == INF else -r * float(w @ np.expm1(-q / r))
    return total


def value_gradient(weights: Pair, potentials: Pair, rho: tuple[float, float], reg: float) -> Pair:
    """Return dvalue/da and dvalue/db, by the envelope theorem."""
    out = []
    for q, r, other in zip(potentials, rho, (weights[1], weights[0]), strict=True):
        # The share r_i / a_i that is transported is exp(-f_i / rho).
        excess = np.expm1(-q / r) if r < INF else 0.0 * q
        own = -r * excess if r < INF else q
        out.append(own - reg * (excess + 1.0 - float(other.sum())))
    return out[0], out[1]


def _line(reg: float, f_i: float, g: Any, cost: Any, xp: Any) -> Any:
    """exp((f_i + g - cost) / reg) along a row, 0 for forbidden pairs."""
    allowed = xp.isfinite(cost) & xp.isfinite(g)
    if not np.isfinite(f_i):
        return xp.zeros(cost.shape)
    return xp.where(allowed, xp.exp((f_i + xp.where(allowed, g - cost, 0.0)) / reg), 0.0)


def add_plan_gradient(
    grads: tuple[Any, Any, Any],
    plan: Any,
    G: Any,
    given: Pair,
    problem: tuple[Any, Any, Any],
    potentials: Pair,
    rho: tuple[float, float],
    reg: float,
    solve: Any,
) -> None:
    """Add the gradients of a function of the plan and the potentials to ``grads = (dM, da, db)``.

    With G = dL/dP and the given dL/df, dL/dg, `solve` finds u, v of
    ``H [u; v] = [(P o G) 1 + reg dL/df; (P o G)^T 1 + reg dL/dg]``, where H has ``(reg / rho) P 1`` on its
    diagonal. With ``P_ij = a_i b_j E_ij`` then ``dM = -P o (G - u 1^T - 1 v^T) / reg`` and
    ``da_i = sum_j b_j E_ij (G_ij - v_j)``.
    """
    a, b, cost = problem
    f, g = potentials
    grad_m, grad_a, grad_b = grads
    xp = _native.of(a)[1]
    gf, gg = given
    lines = (  # bins without mass: potential by damped c-transform, no part in the system
        (a, b, f, g, lambda i: cost[i], lambda i: (i, slice(None)), 0),
        (b, a, g, f, lambda j: cost[:, j], lambda j: (slice(None), j), 1),
    )
    sides = [gf, gg]
    totals = [grad_a, grad_b]
    for own, other, q, across, row, at, side in lines:
        for i in np.flatnonzero(_arrays.to_numpy((own == 0) & (sides[side] != 0))):
            kernel = _line(reg, float(q[i]), across, row(i), xp)
            weight = other * kernel
            total = float(weight.sum())
            if total > 0:
                share = float(sides[side][i]) / (1.0 + reg / rho[side]) / total
                totals[1 - side] -= reg * share * kernel
                grad_m[at(i)] += share * weight
                sides[1 - side] = sides[1 - side] - share * weight
            sides[side][i] = 0.0
    weighted = plan * G
    w, z = weighted.sum(axis=1), weighted.sum(axis=0)
    u, v = solve(w + reg * sides[0], z + reg * sides[1])
    grad_m -= plan * (G - u[:, None] - v[None, :]) / reg
    for own, other, q, across, row, at, side in lines:
        mine, sum_g, second = (w, plan @ v, v) if side == 0 else (z, plan.T @ u, u)
        totals[side] += xp.where(own > 0, (mine - sum_g) / xp.where(own > 0, own, 1.0), 0.0)
        full = xp.broadcast_to(G, cost.shape)
        for i in np.flatnonzero(_arrays.to_numpy(own == 0)):
            kernel = _line(reg, float(q[i]), across, row(i), xp)
            totals[side][i] += float((other * kernel * (full[at(i)] - second)).sum())
