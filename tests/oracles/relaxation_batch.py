"""NumPy oracle of batched relaxation: one system after the other, one row after the other.

Counts: k is the first sweep after which ``||b - A x_k||_2 <= max(rtol * ref, atol)``. Forward and backward
sweeps learn that one sweep later, so that the answer is x_{k+1}; where that one fails the test again, sweeps
go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CONVERGED, MAXITER, BREAKDOWN, NONFINITE, DIVERGED = 0, 1, 3, 4, 8
GROWTH = 1e8


@dataclass
class Result:
    """What one system's solve returns; `residuals` has the start's norm and one more per sweep done.

    A system that diverges gives its start back.
    """

    x: Array
    status: int
    nit: int
    residuals: list[float]
    target: float


def relax(A: Array, b: Array, x: Array, omega: float, rows: Any) -> Array:
    """One relaxation of each of the rows, in that order."""
    x = x.copy()
    for i in rows:
        others = A[i] @ x - A[i, i] * x[i]
        x[i] += omega * ((b[i] - others) / A[i, i] - x[i])
    return x


def sweep(A: Array, b: Array, x: Array, omega: float, direction: str) -> Array:
    """One sweep; a symmetric one goes forward, then backward."""
    n = len(b)
    if direction != "backward":
        x = relax(A, b, x, omega, range(n))
    if direction != "forward":
        x = relax(A, b, x, omega, reversed(range(n)))
    return x


def sor(
    A: Array,
    b: Array,
    x0: Array,
    *,
    omega: float,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10000,
    direction: str = "forward",
    norm_ref: str = "b",
) -> Result:
    """Solve one system with dense A."""
    with np.errstate(all="ignore"):
        norms = [float(np.linalg.norm(b - A @ x0))]
        norm_b = float(np.linalg.norm(b))
        target = max(rtol * (norm_b if norm_ref == "b" else norms[0]), atol)
        diagonal = np.diag(A)
        if not np.all(np.isfinite(diagonal)) or np.any(diagonal == 0):
            return Result(x0, BREAKDOWN, 0, norms, target)
        if norm_b == 0:
            return Result(np.zeros_like(x0), CONVERGED, 0, [0.0], target)
        if not np.isfinite(norms[0]):
            return Result(x0, NONFINITE, 0, norms, target)
        if norms[0] <= target:
            return Result(x0, CONVERGED, 0, norms, target)
        x, late = x0, direction != "symmetric"
        while len(norms) - 1 < maxiter:
            x = sweep(A, b, x, omega, direction)
            norms.append(float(np.linalg.norm(b - A @ x)))
            k = len(norms) - 1
            seen = norms[-2] if late else norms[-1]
            if not seen <= GROWTH * norms[0]:
                return Result(x0, DIVERGED, k, norms, target)
            if k > 1 and late and seen <= target and norms[-1] <= target:
                return Result(x, CONVERGED, k - 1, norms, target)
            if (not late or k == maxiter) and norms[-1] <= target:
                return Result(x, CONVERGED, k, norms, target)
        grown = not norms[-1] <= GROWTH * norms[0]
        return Result(x0 if grown else x, DIVERGED if grown else MAXITER, len(norms) - 1, norms, target)
