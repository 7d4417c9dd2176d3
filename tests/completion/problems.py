"""Seeded problems of the completion tests and benchmarks; their makers are in `aitken.datasets`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitken.datasets import CompletionProblem, low_rank_problem, power_law_pattern

Array = NDArray[Any]


def recovery(cond: float = 1.0, *, n: int = 2000, rank: int = 10, seed: int = 0) -> CompletionProblem:
    """P1: four entries per degree of freedom."""
    return low_rank_problem(n, rank=rank, oversampling=4.0, cond=cond, seed=seed)


def phase(oversampling: float, seed: int) -> CompletionProblem:
    """P2: near the threshold of recovery; seeds 10 to 13."""
    return low_rank_problem(600, rank=5, oversampling=oversampling, seed=seed)


def hard(oversampling: float) -> CompletionProblem:
    """P3: singular values from 1 to 1/100."""
    return low_rank_problem(1000, rank=6, oversampling=oversampling, cond=100.0, seed=2)


def noisy(noise: float) -> CompletionProblem:
    """P4: eight entries per degree of freedom, with noise; the best error is ``noise / sqrt(8)``."""
    return low_rank_problem(1000, rank=5, oversampling=8.0, noise=noise, seed=5)


def power_law(
    n1: int = 69878,
    n2: int = 10677,
    *,
    draws: int = 10_000_000,
    rank: int = 8,
    noise: float = 0.5,
    seed: int = 0,
) -> CompletionProblem:
    """P5: very uneven degrees; entries of size 1 and rank 8, and noise."""
    rows, cols = power_law_pattern(n1, n2, draws=draws, seed=seed)
    rng = np.random.default_rng(seed + 1)
    U, V = (rng.standard_normal((n, rank)) / rank**0.25 for n in (n1, n2))
    vals = np.empty(len(rows))
    for start in range(0, len(rows), 1 << 20):  # in pieces, for the memory that gathered rows take
        some = slice(start, start + (1 << 20))
        vals[some] = np.einsum("ij,ij->i", U[rows[some]], V[cols[some]])
    vals += noise * rng.standard_normal(len(rows))
    return CompletionProblem(f"power-law-{n1}x{n2}-s{seed}", rows, cols, vals, (n1, n2), U, V)


def spiky_row(
    d: int, k: int = 32, *, spikes: float = 1.5, n: int = 4096, seed: int = 0
) -> tuple[Array, Array, Array]:
    """P6: the fixed factor V (n, k), places of d entries and these entries, of one row.

    Rows of V have sizes ``exp(spikes N(0, 1))``: few of them decide. ``spikes=0`` gives an incoherent V.
    """
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((n, k)) * np.exp(spikes * rng.standard_normal((n, 1)))
    idx = np.sort(rng.choice(n, d, replace=False))
    return V, idx, V[idx] @ rng.standard_normal(k)


def implicit_counts(
    n1: int = 60, n2: int = 40, rank: int = 3, seed: int = 0
) -> tuple[Array, Array, Array, tuple[int, int]]:
    """How often each of n1 users met each of n2 items: rows, cols, counts > 0, shape.

    Users have tastes and items have kinds, `rank` of them; a count is Poisson with a mean that is large where
    they agree.
    """
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.3, 1.0, (n1, rank)) @ rng.gamma(0.3, 1.0, (n2, rank)).T
    counts = rng.poisson(3.0 * mean)
    rows, cols = counts.nonzero()
    return rows, cols, counts[rows, cols].astype(float), (n1, n2)


def relative_error(U: Array, V: Array, problem: CompletionProblem) -> float:
    """``||U V^T - M||_F / ||M||_F`` through QR of stacked factors: exact down to rounding, in O(n k^2).

    The expansion into traces would lose half of the digits.
    """
    left = np.linalg.qr(np.hstack([np.asarray(U, dtype=float), problem.U]), mode="r")
    right = np.linalg.qr(np.hstack([np.asarray(V, dtype=float), -problem.V]), mode="r")
    true = np.linalg.qr(problem.U, mode="r") @ np.linalg.qr(problem.V, mode="r").T
    return float(np.linalg.norm(left @ right.T) / np.linalg.norm(true))
