"""Which solver a sequence of sparse systems gets, by a cost model with constants measured once.

The model counts what each candidate would do (factor flops from the symbolic analysis, iterations from a
pilot solve) and multiplies by the seconds that such work took on one core. It uses no clock, so that the
choice, and with it every bit of the answer, is the same on every run.
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
FACTOR_FLOP = 2.3e-11  # our LDL^T, in panels
FACTOR_ENTRY = 3.3e-9  # per entry of L: assembling it; and again for a solve
SUPERLU_FLOP = 1.3e-10
SUPERLU_ENTRY = 4e-9
SUPERLU_ROW = 1e-6  # its symbolic analysis, which SciPy repeats for every matrix
ENTRY = 2e-10  # one entry in a product or in one sweep of an incomplete factor
VECTOR = 1.1e-10  # one number read by a vector operation
AMG_ENTRY = 6e-7  # per entry: setting up a hierarchy and solving with it, to a residual of 1e-8
COMPLEX = 3.0  # complex arithmetic against real
START = 10  # products and their like that a start from earlier solutions costs
GEMM_FLOP = 1.3e-11  # in products of tall matrices
SMALL_EIGENPROBLEM = 3e-4  # of 40 rows
FEW = 8  # iterations that no sparse factor has to be compared with
MANY = 32  # systems from which on a pilot solve pays
FLAT = 6.0  # entries of the factor per entry of the matrix, up to which a mesh counts as plane


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
    facts: Facts, indptr: np.ndarray, indices: np.ndarray, pilot: Callable[[str, str, int], tuple[int, int]]
) -> Choice:
    """Pick the cheapest candidate.

    Parameters
    ----------
    facts : Facts
    indptr, indices : ndarray
        The pattern.
    pilot : callable
        ``pilot(method, M, limit) -> (iterations of a cold solve, iterations of a warm one)``, the second 0
        where it took more than `limit`; called only where the answer can matter.
    """
    n, nnz = facts.n, facts.nnz
    real = facts.dtype.kind != "c"
    slower = 1.0 if real else COMPLEX
    entries, flops = _core.factor_cost(indptr, indices)
    share = 1.0 / facts.count if facts.same_matrix else 1.0
    if real and facts.symmetric:
        direct_name = "direct"
        factor = FACTOR_FLOP * flops + FACTOR_ENTRY * entries
        direct = share * factor + FACTOR_ENTRY * entries
    else:
        direct_name = "superlu"
        factor = SUPERLU_FLOP * 2 * flops + SUPERLU_ENTRY * 2 * entries + SUPERLU_ROW * n
        direct = slower * (share * factor + 2 * FACTOR_ENTRY * entries)
    words = f"factor of {entries:.3g} entries made in {flops:.2g} flops"
    method, M = ("rcg", "ic0") if facts.positive_definite else ("gcrodr", "ilu0")
    step = slower * step_cost(method, n, nnz)
    affordable = int(direct / step)
    flat = entries < FLAT * nnz  # as a mesh in the plane fills
    if affordable <= FEW:
        return Choice(direct_name, "none", f"a {words} costs less than {FEW + 1} iterations")
    if facts.count < MANY:  # a pilot would cost more than it can save
        if flat:
            return Choice(direct_name, "none", f"few systems, and a {words} is small")
        if affordable > 2 * n ** (1 / 3):
            return Choice(method, M, f"few systems, and a {words} costs as much as {affordable} iterations")
    cold, warm = pilot(method, M, affordable)
    amg = AMG_ENTRY * nnz * (0.25 + 0.75 * share)
    by = f"iterations of {method} with {M}"
    if facts.positive_definite and real and importlib.util.find_spec("pyamg") is not None:
        iterative = warm * step if warm else np.inf
        if amg < min(direct, iterative):
            found = f"{warm} {by}" if warm else f"more than {affordable} {by}"
            return Choice("amg", "none", f"M-matrix: multigrid costs less than {found}, and than a {words}")
    if not warm:
        return Choice(direct_name, "none", f"a {words} costs less than {affordable} {by}")
    if direct < (warm + START) * step:
        return Choice(direct_name, "none", f"a {words} costs less than {warm} {by}")
    return Choice(method, M, f"{warm} iterations with {M} (first system {cold}) cost less than a {words}")


def step_cost(method: str, n: int, nnz: int) -> float:
    """Seconds of one iteration with an incomplete factor, nothing carried."""
    vectors = 10 if method == "rcg" else 10 + 4 * 30  # the Krylov basis is read twice
    return 3 * nnz * ENTRY + vectors * n * VECTOR


def carry_costs(method: str, n: int, nnz: int, k: int) -> dict[str, float]:
    """What the guard has to know: what carrying k vectors, and projecting, cost in plain iterations."""
    step = step_cost(method, n, nnz)
    # A product with each earlier solution, and two passes of orthogonalisation.
    costs = {"projected_step": (nnz * ENTRY + 60 * n * VECTOR) / step}
    if method == "rcg":
        # Every iteration reads W and A W twice; the harvest makes three products of 2k with 2k columns.
        costs["carried_step"] = (step + 4 * k * n * VECTOR) / step
        costs["carried_once"] = 24 * k * k * n * GEMM_FLOP / step
    else:  # images of the space made orthonormal, a space chosen from a basis of 2k vectors
        costs["carried_once"] = (28 * k * k * n * GEMM_FLOP + SMALL_EIGENPROBLEM) / step
    return costs


__all__ = ["Choice", "Facts", "carry_costs", "choose", "facts_of"]
