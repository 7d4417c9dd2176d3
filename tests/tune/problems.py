"""Sweep counts of SOR on shifted Laplacians: the costs on which tuners are compared.

``A = T + c I`` with T the 5-point Laplacian (4, -1) of a 10 x 10 grid, natural order, start 0, stop at
``||b - A x|| < 1e-8 ||b||``. Whole pools of instances run side by side, one anti-diagonal of the grid
after the other, which is the natural order exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

M = 10  # grid points per side
OMEGAS = np.linspace(1.0, 1.95, 20)
BOX = (-0.15, 0.65)
_POINTS = [(i, j) for i in range(M) for j in range(M)]


def right_hand_sides(n: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal vectors with ``||b|| <= sqrt(100)``, shape (n, 100)."""
    b = rng.standard_normal((n, M * M))
    while (bad := np.linalg.norm(b, axis=1) > M).any():
        b[bad] = rng.standard_normal((int(bad.sum()), M * M))
    return b


def _chunk(c: np.ndarray, b: np.ndarray, omega: float, tol: float, maxiter: int) -> np.ndarray:
    """Sweeps of one chunk. Arrays are (anti-diagonal + 1, row + 1, instance), zero outside the grid."""
    n = len(c)
    sweeps = np.full(n, maxiter)
    alive = np.arange(n)
    rhs = np.zeros((2 * M + 1, M + 2, n))
    for q, (i, j) in enumerate(_POINTS):
        rhs[i + j + 1, i + 1] = b[:, q]
    x = np.zeros_like(rhs)
    goal = (tol * np.linalg.norm(b, axis=1)) ** 2
    diagonal = 4.0 + c
    rows = [slice(max(0, k - M + 1) + 1, min(M - 1, k) + 2) for k in range(2 * M - 1)]
    for sweep in range(1, maxiter + 1):
        change = np.zeros_like(x)
        scale = omega / diagonal
        for k, own in enumerate(rows, 1):
            up, down = slice(own.start - 1, own.stop - 1), slice(own.start + 1, own.stop + 1)
            near = x[k - 1, up] + x[k - 1, own]
            near += x[k + 1, own]
            near += x[k + 1, down]
            near += rhs[k, own]
            near *= scale
            near -= omega * x[k, own]
            change[k, own] = near
            x[k, own] += near
        # Of the new x: the lower neighbours were new already, the upper ones have changed since.
        residual = change * (diagonal * (1.0 / omega - 1.0))
        residual[:-1] += change[1:]
        residual[:-1, :-1] += change[1:, 1:]
        total = np.zeros(len(alive))
        for k, own in enumerate(rows, 1):
            total += np.einsum("ij,ij->j", residual[k, own], residual[k, own])
        done = total < goal
        if done.any():
            sweeps[alive[done & (sweeps[alive] == maxiter)]] = sweep
            goal[done] = -1.0
            left = goal > 0.0
            if not left.any():
                break
            if left.sum() < 0.7 * len(alive):
                alive, goal, diagonal = alive[left], goal[left], diagonal[left]
                x, rhs = np.ascontiguousarray(x[:, :, left]), np.ascontiguousarray(rhs[:, :, left])
    return sweeps


def sor_sweeps(
    c: np.ndarray, b: np.ndarray, omegas: np.ndarray, *, tol: float = 1e-8, maxiter: int = 10_000
) -> np.ndarray:
    """Sweeps until the residual has fallen by `tol`, shape (instances, omegas)."""
    counts = np.empty((len(c), len(omegas)), dtype=np.int64)
    order = np.argsort(c)  # instances of like cost side by side
    for part in np.array_split(order, max(1, len(c) // 600)):
        for k, omega in enumerate(omegas):
            counts[part, k] = _chunk(c[part], b[part], float(omega), tol, maxiter)
    return counts


@dataclass(frozen=True)
class Pool:
    """Instances from which sequences are drawn: contexts (n,) and costs (n, omegas)."""

    context: np.ndarray
    cost: np.ndarray

    def draw(self, length: int, rng: np.random.Generator) -> tuple[list[float], list[list[float]]]:
        """A sequence of independent instances."""
        chosen = rng.integers(0, len(self.context), length)
        return self.context[chosen].tolist(), self.cost[chosen].astype(float).tolist()


def beta_pool(a: float, b: float, n: int, seed: int) -> Pool:
    """`n` instances with shifts -0.15 + 0.6 Beta(a, b)."""
    rng = np.random.default_rng(seed)
    c = -0.15 + 0.6 * rng.beta(a, b, n)
    return Pool(c, sor_sweeps(c, right_hand_sides(n, rng), OMEGAS))
