"""NumPy oracle of unbalanced transport: dense, float64, no compiled code of ours.

    min_P <M, P> + reg KL(P | a b^T) + rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b),
    KL(p | q) = sum(p log(p / q) - p + q);   rho = inf is a constraint.

Potentials of the kl form: P_ij = a_i b_j exp((f_i + g_j - M_ij) / reg). The dual, maximised, is
-rho_a a.expm1(-f / rho_a) - rho_b b.expm1(-g / rho_b) - reg (sum P - sum a sum b). All weights must be > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, xlogy

from .ot import expm1_minus

Array = NDArray[np.float64]


@dataclass
class Solution:
    f: Array
    g: Array
    plan: Array
    err: float
    nit: int


def generalised_kl(p: Array, q: Array) -> float:
    """Return ``sum(p log(p / q) - p + q)``, 0 log 0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(p > 0, p / q, 1.0)
    return float((xlogy(p, ratio) - p + q).sum())


def primal(P: Array, a: Array, b: Array, M: Array, reg: float, rho: tuple[float, float]) -> float:
    """Objective of a plan; penalties of inf count nothing (their marginal must be met)."""
    total = float((P[P > 0] * M[P > 0]).sum()) + reg * generalised_kl(P, np.outer(a, b))
    for marginal, weights, price in ((P.sum(1), a, rho[0]), (P.sum(0), b, rho[1])):
        if np.isfinite(price):
            total += price * generalised_kl(marginal, weights)
    return total


def target(w: Array, potential: Array, rho: float) -> Array:
    """The marginal that a potential asks for."""
    return w * np.exp(-potential / rho)


def plan(a: Array, b: Array, M: Array, f: Array, g: Array, reg: float) -> Array:
    return np.outer(a, b) * np.exp((f[:, None] + g[None, :] - M) / reg)


def error(P: Array, a: Array, b: Array, f: Array, g: Array, rho: tuple[float, float]) -> float:
    """L1 distance of the marginals from their targets, over the mass of the plan."""
    rows, cols = P.sum(1) - target(a, f, rho[0]), P.sum(0) - target(b, g, rho[1])
    return float((np.abs(rows).sum() + np.abs(cols).sum()) / P.sum())


def sinkhorn(
    a: Array,
    b: Array,
    M: Array,
    reg: float,
    rho: tuple[float, float],
    *,
    tol: float = 1e-9,
    maxiter: int = 20000,
) -> Solution:
    """Plain damped Sinkhorn iterations in the log domain."""
    damp_a, damp_b = 1 / (1 + reg / rho[0]), 1 / (1 + reg / rho[1])
    f, g = np.zeros(a.size), np.zeros(b.size)
    nit, err = 0, np.inf
    while err > tol and nit < maxiter:
        nit += 1
        f = -damp_a * reg * logsumexp(np.log(b)[None, :] + (g[None, :] - M) / reg, axis=1)
        g = -damp_b * reg * logsumexp(np.log(a)[:, None] + (f[:, None] - M) / reg, axis=0)
        P = plan(a, b, M, f, g, reg)
        err = error(P, a, b, f, g, rho)
    return Solution(f, g, P, err, nit)


def newton(
    a: Array,
    b: Array,
    M: Array,
    reg: float,
    rho: tuple[float, float],
    *,
    tol: float = 1e-10,
    warmup: int = 30,
    maxiter: int = 200,
) -> Solution:
    """Newton with the dense Hessian and an exact line search test, from a few Sinkhorn iterations."""
    start = sinkhorn(a, b, M, reg, rho, tol=tol, maxiter=warmup)
    f, g, n = start.f, start.g, a.size
    curved = np.concatenate([np.full(n, reg / rho[0]), np.full(b.size, reg / rho[1])])
    for nit in range(maxiter):
        P = plan(a, b, M, f, g, reg)
        err = error(P, a, b, f, g, rho)
        if err <= tol:
            return Solution(f, g, P, err, nit)
        h = np.concatenate([target(a, f, rho[0]), target(b, g, rho[1])])
        sums = np.concatenate([P.sum(1), P.sum(0)])
        H = np.diag(sums + curved * h)
        H[:n, n:], H[n:, :n] = P, P.T
        d = np.linalg.solve(H, h - sums)
        slope, alpha = float((h - sums) @ d), 1.0
        while True:
            t = alpha * (d[:n, None] + d[None, n:])
            drop = float((P * expm1_minus(t)).sum())
            soft = curved > 0
            s = curved[soft] * alpha * d[soft]
            drop += float((h[soft] / curved[soft]) @ expm1_minus(-s))
            if drop <= (1 - 1e-4) * alpha * slope or alpha < 1e-10:
                break
            alpha /= 2
        f, g = f + reg * alpha * d[:n], g + reg * alpha * d[n:]
    raise RuntimeError(f"oracle Newton stopped at an error of {err}")
