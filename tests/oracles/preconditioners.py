"""Dense twins of the preconditioners, from their definitions; slow and obvious.

Matrices are 2-D arrays, patterns boolean arrays of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.generic]


def five_point(m: int, *, seed: int | None = None, wind: float = 0.0) -> Matrix:
    """The five-point matrix of an m x m grid: -1 and 4, random coefficients with `seed`, upwind drift."""
    rng = np.random.default_rng(0 if seed is None else seed)
    A = np.zeros((m * m, m * m))
    for y in range(m):
        for x in range(m):
            i = y * m + x
            for j, inside in ((i - 1, x > 0), (i + 1, x < m - 1), (i - m, y > 0), (i + m, y < m - 1)):
                weight = 1.0 if seed is None else 0.5 + rng.random()
                weight += wind * (j < i)
                A[i, i] += weight
                if inside:
                    A[i, j] = -weight
    return A


def ilu0(A: Matrix, *, modified: bool = False, pattern: Matrix | None = None) -> tuple[Matrix, Matrix]:
    """L (unit diagonal) and U of Gaussian elimination that ignores fill, or adds it to the diagonal."""
    F = np.array(A, dtype=np.result_type(A, float))
    n = len(F)
    keep = np.array(F != 0) if pattern is None else np.array(pattern, dtype=bool)
    np.fill_diagonal(keep, True)
    for i in range(n):
        for k in range(i):
            if not keep[i, k]:
                continue
            F[i, k] /= F[k, k]
            for j in range(k + 1, n):
                if not keep[k, j]:
                    continue
                if keep[i, j]:
                    F[i, j] -= F[i, k] * F[k, j]
                elif modified:
                    F[i, i] -= F[i, k] * F[k, j]
    return np.tril(F, -1) + np.eye(n), np.triu(F)


def dilu(A: Matrix) -> Matrix:
    """The d for which (d + L) d^-1 (d + U) has A's diagonal: ILU(0) where no fill meets the pattern."""
    n = len(A)
    d = np.zeros(n, dtype=np.result_type(A, float))
    for i in range(n):
        d[i] = A[i, i] - sum(A[i, j] * A[j, i] / d[j] for j in range(i) if A[i, j] != 0 and A[j, i] != 0)
    return d


def ilut(A: Matrix, drop: float, fill: int) -> tuple[Matrix, Matrix]:
    """Thresholded elimination, row by row: L (unit diagonal) and U."""
    n = len(A)
    L, U = np.eye(n, dtype=A.dtype), np.zeros_like(A)

    def largest(row: Matrix, columns: Sequence[int], most: int) -> list[int]:
        return sorted(sorted(columns, key=lambda j: (-abs(row[j]), j))[:most])

    for i in range(n):
        row = np.array(A[i])
        limit = drop * np.linalg.norm(A[i])
        kept = []
        for k in range(i):
            if row[k] == 0 or abs(row[k]) < limit:
                row[k] = 0
                continue
            row[k] /= U[k, k]
            row[k + 1 :] -= row[k] * U[k, k + 1 :]
            kept.append(k)
        below = largest(row, kept, fill + int(np.count_nonzero(A[i, :i])))
        above = [j for j in range(i + 1, n) if row[j] != 0 and abs(row[j]) >= limit]
        above = largest(row, above, fill + int(np.count_nonzero(A[i, i + 1 :])))
        L[i, below] = row[below]
        U[i, [i, *above]] = row[[i, *above]]
    return L, U


def ic0(A: Matrix, *, modified: float = 0.0) -> tuple[Matrix, float]:
    """L with A ~ L L^H on the pattern of the lower triangle, and the shift of the diagonal it took.

    `modified` is the share of the dropped fill that is taken off the diagonal.
    """
    n = len(A)
    keep = np.tril(np.array(A != 0))
    for shift in [0.0, *(1e-3 * 2.0**k for k in range(12))]:
        F = np.tril(np.array(A, dtype=np.result_type(A, float)))
        F[np.diag_indices(n)] = np.real(np.diag(A)) * (1 + shift)
        for k in range(n):
            if not np.real(F[k, k]) > 0:
                break
            F[k, k] = np.sqrt(np.real(F[k, k]))
            F[k + 1 :, k] /= F[k, k]
            for i in range(k + 1, n):
                for j in range(k + 1, i + 1):
                    change = F[i, k] * np.conj(F[j, k])
                    if keep[i, j]:
                        F[i, j] -= change
                    elif modified:
                        F[i, i] -= modified * np.real(change)
                        F[j, j] -= modified * np.real(change)
        else:
            return F, shift
    raise ValueError("no shift makes the pivots positive")


def ssor(A: Matrix, omega: float) -> Matrix:
    """M = w / (2 - w) (D/w + L) (D/w)^-1 (D/w + U)."""
    D = np.diag(np.diag(A)) / omega
    return omega / (2 - omega) * (D + np.tril(A, -1)) @ np.linalg.inv(D) @ (D + np.triu(A, 1))


def block_jacobi(A: Matrix, starts: Sequence[int]) -> Matrix:
    """The inverse of the block diagonal."""
    inverse = np.zeros_like(A)
    for first, last in pairwise(starts):
        inverse[first:last, first:last] = np.linalg.inv(A[first:last, first:last])
    return inverse


def schwarz(A: Matrix, starts: Sequence[int], overlap: int, solver: str) -> Matrix:
    """The dense operator of restricted additive Schwarz: own rows of each subdomain's inverse."""
    inverse = np.zeros_like(A)
    for first, last in pairwise(starts):
        rows = set(range(first, last))
        for _ in range(overlap):
            rows |= {int(j) for i in rows for j in np.flatnonzero(A[i])}
        index = np.array(sorted(rows), dtype=int)
        block = A[np.ix_(index, index)]
        if solver == "ilu0":
            L, U = ilu0(block)
            block = L @ U
        own = (index >= first) & (index < last)
        inverse[np.ix_(index[own], index)] = np.linalg.inv(block)[own]
    return inverse


def chebyshev(A: Matrix, degree: int, lo: float, hi: float) -> Matrix:
    """p(D^-1 A) D^-1 by powers, where 1 - t p(t) is the Chebyshev polynomial of [lo, hi] that is 1 at 0."""
    T = np.polynomial.Chebyshev.basis(degree + 1, domain=[lo, hi]).convert(kind=np.polynomial.Polynomial)
    coefficients = -T.coef[1:] / T.coef[0]
    scaled = A / np.diag(A)[:, None]
    p = sum(c * np.linalg.matrix_power(scaled, k) for k, c in enumerate(coefficients))
    return p / np.diag(A)[None, :]
