"""Which solver a sequence of sparse systems gets, by a cost model with constants measured once.

The model counts what each candidate would do (factor flops from the symbolic analysis, iterations from a pilot
solve of one system) and multiplies by the seconds that such work took on one core. It uses no clock, so that
the choice, and with it every bit of the answer, is the same on every run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from .. import _core

# Seconds on one core of a current x86-64 server; only their ratios matter.
FACTOR_FLOP = 1.1e-10  # our LDL^T, panels of a mesh's factor
FACTOR_ENTRY = 2.5e-9  # per entry of L: assembling, and one solve
SUPERLU_FLOP = 5.0e-10
SUPERLU_ENTRY = 2.0e-8  # with its symbolic analysis, which SciPy repeats for every matrix
ENTRY = 0.9e-9  # one entry in a product or in one sweep of an incomplete factor
VECTOR = 0.35e-9  # one number read by a vector operation
AMG_ENTRY = 4.0e-7  # per entry: setting up a hierarchy and solving with it, to a residual of 1e-8


@dataclass
class Facts:
    """What is known of a sequence before any of it is solved."""

    n: int
    nnz: int
    dtype: np.dtype[Any]
    symmetric: bool
    m_matrix: bool  # off-diagonal entries <= 0, and weakly dominant: symmetric ones are positive definite
    positive_diagonal: bool
    same_matrix: bool
    count: int

    @property
    def positive_definite(self) -> bool:
        """Whether that follows from the entries."""
        return self.symmetric and self.m_matrix and self.positive_diagonal


@dataclass
class Choice:
    """A solver, its preconditioner, and the sentence that says why."""

    solver: str
    M: str
    reason: str


def facts_of(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, count: int, same_matrix: bool
) -> Facts:
    """Read the entries of one matrix of the sequence."""
    n = indptr.size - 1
    A = sparse.csr_array((data, indices, indptr), shape=(n, n))
    difference = abs(A - A.conj().T)
    scale = float(np.abs(data).max()) if data.size else 0.0
    symmetric = difference.nnz == 0 or float(difference.max()) <= 1e-14 * scale
    diagonal = A.diagonal()
    m_matrix = False
    positive = bool(np.isrealobj(data) and np.all(diagonal > 0))
    if positive:
        off = A - sparse.diags_array(diagonal)
        slack = diagonal + off.sum(axis=1)
        m_matrix = bool(
            (off.nnz == 0 or float(off.max()) <= 0.0)
            and np.all(slack >= -1e-10 * diagonal)
            and np.any(slack > 1e-10 * diagonal)
        )
    return Facts(n, int(data.size), data.dtype, symmetric, m_matrix, positive, same_matrix, count)


def choose(
    facts: Facts, indptr: np.ndarray, indices: np.ndarray, pilot: Callable[[str, str], tuple[int, int]]
) -> Choice:
    """Pick the cheapest candidate.

    Parameters
    ----------
    facts : Facts
    indptr, indices : ndarray
        The pattern.
    pilot : callable
        ``pilot(method, M) -> (iterations of a cold solve, iterations of a warm one)``; called only where the
        answer can matter.
    """
    n, nnz = facts.n, facts.nnz
    real = facts.dtype.kind != "c"
    fill, flops = _core.factor_cost(indptr, indices)
    share = 1.0 / facts.count if facts.same_matrix else 1.0
    if real and facts.symmetric:
        direct_name = "direct"
        direct = share * (FACTOR_FLOP * flops + FACTOR_ENTRY * fill) + FACTOR_ENTRY * fill
    else:
        direct_name = "superlu"
        direct = share * (SUPERLU_FLOP * 2 * flops + SUPERLU_ENTRY * 2 * fill) + 2 * FACTOR_ENTRY * fill
    words = f"factor of {fill:.3g} entries, {flops:.2g} flops"
    if not real:
        direct *= 3.0
    if facts.positive_definite:
        method, M, per_iteration = "rcg", "ic0", 3 * nnz * ENTRY + (10 + 2 * 20) * n * VECTOR
    else:
        method, M, per_iteration = "gcrodr", "ilu0", 3 * nnz * ENTRY + (10 + 2 * 2 * 30) * n * VECTOR
    if not real:
        per_iteration *= 3.0
    if direct <= 8 * per_iteration:
        return Choice(direct_name, "none", f"sparse direct: {words} cost less than eight iterations")
    cold, warm = pilot(method, M)
    iterations = max(1, warm)
    iterative = (iterations + (20 if warm < cold else 0)) * per_iteration + 10 * nnz * ENTRY
    found = f"{warm} iterations of {method} with {M} (cold start {cold})"
    if warm <= 0:  # did not converge
        iterative, found = np.inf, f"{method} with {M} did not converge on the first systems"
    if facts.positive_definite and real and importlib.util.find_spec("pyamg") is not None:
        amg = AMG_ENTRY * nnz * (0.25 + 0.75 * share)
        if amg < min(direct, iterative):
            return Choice(
                "amg", "none", f"M-matrix: an algebraic multigrid cycle costs less than {found} and a {words}"
            )
    if direct < iterative:
        return Choice(direct_name, "none", f"sparse direct: {words} cost less than {found}")
    return Choice(method, M, f"{found} cost less than a {words}")


__all__ = ["Choice", "Facts", "choose", "facts_of"]
