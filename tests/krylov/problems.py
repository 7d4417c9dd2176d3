"""Seeded matrices of the Krylov tests: random ones of known spectrum, and the grid families of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu, spsolve_triangular

Array = NDArray[Any]

# --------------------------------------------------------------------------------------- dense, by spectrum


def nonsymmetric(n: int, seed: int = 0, complex_pairs: int = 4, dtype: Any = float) -> Array:
    """Well conditioned, with a few small eigenvalues; the smallest are `complex_pairs` complex pairs."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "c":
        d = np.concatenate([0.05 * np.exp(1j * np.arange(8)), 1 + rng.random(n - 8) + 0.3j])
        D = np.diag(d)
    else:
        D = np.diag(np.concatenate([0.02 + 0.02 * np.arange(8), 1 + rng.random(n - 8)]))
        for i in range(complex_pairs):
            a, c = 0.02 + 0.02 * i, 0.05
            D[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[a, c], [-c, a]]
    S = np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)
    return np.linalg.solve(S, D @ S)


def spd(n: int, seed: int = 0, smallest: float = 1e-3) -> Array:
    """Symmetric positive definite with eight eigenvalues near `smallest` and the rest in [1, 2]."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    d = np.concatenate([smallest * (1 + np.arange(8)), 1 + rng.random(n - 8)])
    A = Q @ (d[:, None] * Q.T)
    return (A + A.T) / 2


def indefinite(n: int, seed: int = 0) -> Array:
    """Symmetric, a quarter of the spectrum below zero, eight eigenvalues of size 0.02 to 0.09."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    d = np.concatenate([(0.02 + 0.01 * np.arange(8)) * (-1) ** np.arange(8), 1 + rng.random(n - 8)])
    d[8 : 8 + n // 4] *= -1
    A = Q @ (d[:, None] * Q.T)
    return (A + A.T) / 2


# -------------------------------------------------------------------------------------------- grid families


def random_field(s: int, alpha: float, tau: float, rng: np.random.Generator) -> Array:
    """Periodic Gaussian random field on s x s nodes with spectrum ``(4 pi^2 |k|^2 + tau^2)^-alpha``."""
    wave = np.fft.fftfreq(s, 1 / s)
    spectrum = (4 * np.pi**2 * (wave[:, None] ** 2 + wave**2) + tau**2) ** (-alpha / 2)
    spectrum[0, 0] = 0
    z = (rng.standard_normal((s, s)) + 1j * rng.standard_normal((s, s))) / np.sqrt(2)
    return np.fft.ifft2(s**2 * np.sqrt(2) * tau ** (alpha - 1) * spectrum * z).real


def published_darcy(w: Array, as_published: bool = True) -> tuple[sparse.csr_array, Array]:
    """The published five-point matrix of a coefficient array (s, s) and its right-hand side, n = (s - 2)^2.

    Without the slip it is Laplacian * diag(w); as published, entry i of the diagonal at offset -q holds the
    coefficient two places before the one of column i, in the rows from the first boundary row on.
    """
    q = w.shape[0] - 2
    w = w.copy()
    inner = w[1:-1, 1:-1]
    west, east = w[1:-1, :-2].copy(), w[1:-1, 2:].copy()
    west[:, 0], east[:, -1] = 0, 0
    north = w[:-2, 1:-1].ravel()[q - 2 if as_published else q :][: q * (q - 1)]
    south = w[2:, 1:-1].ravel()[: q * (q - 1)]
    A = sparse.diags_array(
        [-north, -west.ravel()[1:], 4 * inner.ravel(), -east.ravel()[:-1], -south],
        offsets=[-q, -1, 0, 1, q],
        shape=(q * q, q * q),
    ).tocsr()
    A.eliminate_zeros()
    return A, np.full(q * q, (1 / (q - 1)) ** 2)


def true_darcy(a: Array) -> tuple[sparse.csr_array, Array]:
    """``-div(a grad u) = 1``, times h^2, by finite volumes: harmonic face means, u = 0 on the boundary.

    `a` has one value per cell, in two or three dimensions.
    """
    shape, d = a.shape, a.ndim
    number = np.arange(a.size).reshape(shape)
    diagonal = np.zeros(shape)
    rows, cols, vals = [], [], []
    for axis in range(d):
        lo = [slice(None)] * d
        hi = [slice(None)] * d
        lo[axis], hi[axis] = slice(None, -1), slice(1, None)
        p, r = a[tuple(lo)], a[tuple(hi)]
        face = 2 * p * r / (p + r)
        diagonal[tuple(lo)] += face
        diagonal[tuple(hi)] += face
        for i, j in ((lo, hi), (hi, lo)):
            rows.append(number[tuple(i)].ravel())
            cols.append(number[tuple(j)].ravel())
            vals.append(-face.ravel())
        for end in (0, -1):  # half a cell to the boundary
            at = [slice(None)] * d
            at[axis] = end
            diagonal[tuple(at)] += 2 * a[tuple(at)]
    rows.append(number.ravel())
    cols.append(number.ravel())
    vals.append(diagonal.ravel())
    A = sparse.coo_array((np.concatenate(vals), (np.concatenate(rows), np.concatenate(cols)))).tocsr()
    return A, np.full(a.size, 1.0 / shape[0] ** 2)


def two_phase(s: int, rng: np.random.Generator) -> Array:
    """Coefficient 12 where a smooth random field is not negative, 3 elsewhere."""
    return np.where(random_field(s, 2, 3, rng) >= 0, 12.0, 3.0)


def helmholtz(s: int, k: float, p: Array) -> tuple[sparse.csr_array, Array]:
    """``-Lap u - (k c)^2 u = f`` on s x s inner nodes, u = 0 on the boundary, speed by two parameters."""
    h = 1 / (s + 1)
    t = np.arange(1, s + 1) * h
    x, y = np.meshgrid(t, t, indexing="ij")
    c = 1 + 0.15 * p[0] * np.sin(2 * np.pi * x) * np.sin(np.pi * y)
    c = c + 0.15 * p[1] * np.cos(np.pi * x) * np.sin(3 * np.pi * y)
    one = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(s, s))
    eye = sparse.eye_array(s)
    A = (sparse.kron(one, eye) + sparse.kron(eye, one)) / h**2 - sparse.diags_array((k * c).ravel() ** 2)
    b = 100 * np.exp(-200 * ((x - 0.3) ** 2 + (y - 0.4) ** 2))
    return sparse.csr_array(A), b.ravel()


# ------------------------------------------------------------------------------------------ preconditioners


def jacobi(A: Any) -> Callable[[Array], Array]:
    """``v -> D^-1 v``."""
    d = A.diagonal()
    return lambda v: v / d


def stencil_ilu0(A: Any) -> Callable[[Array], Array]:
    """ILU(0) of a five- or seven-point matrix: ``(D + L) D^-1 (D + U)`` with only the diagonal recomputed."""
    A = sparse.csr_array(A)
    L, R = sparse.tril(A, -1).tocsr(), sparse.triu(A, 1).tocsr()
    d = A.diagonal().copy()
    fill = L.multiply(R.T).tocsr()  # a_ij a_ji for j < i
    for i in range(A.shape[0]):
        at = slice(fill.indptr[i], fill.indptr[i + 1])
        d[i] -= np.sum(fill.data[at] / d[fill.indices[at]])
    D = sparse.diags_array(d)
    keep = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.0, "options": {"Equil": False}}
    lower, upper = splu((D + L).tocsc(), **keep), splu((D + R).tocsc(), **keep)
    return lambda v: upper.solve(d * lower.solve(v))


def triangular_ilu0(A: Any) -> tuple[sparse.csr_array, sparse.csr_array]:
    """ILU(0) of any matrix by rows, from the definition: unit lower L and upper U on the pattern of A."""
    A = sparse.csr_array(A).astype(float)
    n = A.shape[0]
    rows = [{j: A[i, j] for j in A[[i]].indices} for i in range(n)]
    for i, row in enumerate(rows):
        for j in sorted(c for c in row if c < i):
            row[j] /= rows[j][j]
            for c, value in rows[j].items():
                if c > j and c in row:
                    row[c] -= row[j] * value
    entries = [(i, j, v) for i, row in enumerate(rows) for j, v in row.items()]
    i, j, v = (np.array(t) for t in zip(*entries, strict=True))
    F = sparse.coo_array((v, (i, j)), shape=(n, n)).tocsr()
    return sparse.tril(F, -1).tocsr() + sparse.eye_array(n).tocsr(), sparse.triu(F).tocsr()


def ilu0(A: Any) -> Callable[[Array], Array]:
    """The application of `triangular_ilu0`."""
    L, U = triangular_ilu0(A)
    return lambda v: spsolve_triangular(U, spsolve_triangular(L, v, lower=True), lower=False)
