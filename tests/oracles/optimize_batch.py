"""Slow twins of what `sketched_newton_batch` runs: inertia by eigenvalues, KKT systems, certificates.

`tests/optimize/test_batch.py` checks the inertia against the blocks of ``scipy.linalg.ldl``.
"""

from __future__ import annotations

import numpy as np


def inertia(a: np.ndarray, relative: float = 1e-12) -> tuple[int, int, int]:
    """Positive, negative and zero eigenvalues of a symmetric matrix."""
    w = np.linalg.eigvalsh(a)
    small = relative * max(float(np.abs(w).max(initial=0.0)), 1e-300)
    return int((w > small).sum()), int((w < -small).sum()), int((np.abs(w) <= small).sum())


def kkt_matrix(
    h: np.ndarray, d: np.ndarray, j: np.ndarray, sigma: np.ndarray, t: float, regular: float
) -> np.ndarray:
    """``[[h + diag(d) + t I, j'], [j, -diag(e)]]`` with what is taken out as identity rows."""
    n, m = len(d), len(sigma)
    top = 0.5 * (h + h.T) + np.diag(d + t)
    e = np.where(sigma >= 0, 1.0 / np.where(sigma >= 0, sigma + t, 1.0), 0.0) + regular
    k = np.block([[top, j.T], [j, -np.diag(e)]])
    for i in [*np.flatnonzero(d < 0), *(n + np.flatnonzero(sigma == -2))]:
        k[i, :] = k[:, i] = 0.0
        k[i, i] = 1.0 if i < n else -1.0
    assert k.shape == (n + m, n + m)
    return k


def solve_kkt(
    h: np.ndarray,
    d: np.ndarray,
    j: np.ndarray,
    sigma: np.ndarray,
    rx: np.ndarray,
    rc: np.ndarray,
    rs: np.ndarray,
    last: float,
    regular: float,
    xi: float,
) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """(dx, dlam, t, regular, attempts): the first t of the rule that gives n positive eigenvalues."""
    n, m = len(d), len(sigma)
    t, attempts = 0.0, 0
    while True:
        attempts += 1
        k = kkt_matrix(h, d, j, sigma, t, regular)
        w = np.linalg.eigvalsh(k)
        if (w > 0).sum() == n and (w < 0).sum() == m:
            break
        if (w < 0).sum() < m:
            regular = max(regular, 1e-8 * max(1.0, float(np.abs(k[n:, :n]).max())))
        t = 4 * t if t > 0 else max(xi, last / 3)
    e = np.where(sigma >= 0, 1.0 / np.where(sigma >= 0, sigma + t, 1.0), 0.0)
    b = np.concatenate([np.where(d < 0, 0.0, -rx), np.where(sigma == -2, 0.0, -rc - e * rs)])
    z = np.linalg.solve(k, b)
    return z[:n], z[n:], t, regular, attempts


def certificate(
    g: np.ndarray,
    c: np.ndarray,
    j: np.ndarray,
    x: np.ndarray,
    lam: np.ndarray,
    z_lo: np.ndarray,
    z_up: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    xl: np.ndarray,
    xu: np.ndarray,
) -> tuple[float, float]:
    """(kkt, constr_violation) of one problem as `BatchResult` defines them, from values at x alone."""
    stationary = np.abs(g + j.T @ lam - z_lo + z_up).max(initial=0.0)
    loose, count, total = 0.0, 0, 0.0
    for at, lo, hi, zl, zu in zip(x, xl, xu, z_lo, z_up, strict=True):
        if lo == hi:
            continue
        for side, z in ((at - lo, zl), (hi - at, zu)):
            if np.isfinite(side):
                loose, count, total = max(loose, z * side), count + 1, total + z
    for value, l, lo, hi in zip(c, lam, lower, upper, strict=True):
        if np.isinf(lo) and np.isinf(hi):
            continue
        count, total = count + 1, total + abs(l)
        if lo != hi:
            side = hi - value if l > 0 else value - lo
            loose = max(loose, abs(l * side) if np.isfinite(side) else abs(l))
    scale = max(100.0, total / max(1, count)) / 100
    beyond = [lower - c, c - upper, xl - x, x - xu]
    return max(stationary, loose) / scale, max(0.0, *(float(v.max(initial=0.0)) for v in beyond))
