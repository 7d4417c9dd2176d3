"""Seeded problems of the relaxation and tuning tests; the heat sequence is `aitken.datasets.HeatSequence`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]

# An example with a known first sweep: omega = 0.5 from zero.
SMALL_A = np.array([[4.0, -1, -6, 0], [-5, -4, 10, 8], [0, 9, 4, -2], [1, 0, -7, 5]])
SMALL_B = np.array([2.0, 21, -12, -6])
SMALL_SWEEP = np.array([0.25, -2.78125, 1.62890625, 0.515234375])
SMALL_X = np.array([3.0, -2, 2, 1])


# ------------------------------------------------------------------------------------------------- matrices


def laplacian(m: int, k: int | None = None) -> sparse.csr_array:
    """Five points, 4 and -1, on m x k points (k = m if left out), row by row."""
    k = m if k is None else k

    def line(n: int) -> Any:
        return sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))

    A = sparse.kron(line(m), sparse.eye_array(k)) + sparse.kron(sparse.eye_array(m), line(k))
    return _sorted(A)


def seven_point(m: int) -> sparse.csr_array:
    """Seven points, 6 and -1, on m^3 points."""
    line, eye = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m)), sparse.eye_array(m)
    terms = ([line, eye, eye], [eye, line, eye], [eye, eye, line])
    return _sorted(sum(sparse.kron(sparse.kron(a, b), c) for a, b, c in terms))


def nine_point(m: int) -> sparse.csr_array:
    """Nine points, 20, -4 to the sides and -1 to the corners, on m x m points: two colours are too few."""
    near = sparse.diags_array([1.0, 0.0, 1.0], offsets=[-1, 0, 1], shape=(m, m))
    eye = sparse.eye_array(m)
    sides = sparse.kron(near, eye) + sparse.kron(eye, near)
    return _sorted(20 * sparse.eye_array(m * m) - 4 * sides - sparse.kron(near, near))


def delsq(kind: str, n: int) -> sparse.csr_array:
    """P4: the five-point matrix of the (n - 2)^2 inner points of a square "S", or of an L-shaped part, "L".

    Points are numbered column by column. The L lacks the quadrant of small column and large row numbers.
    """
    inner = np.zeros((n, n), dtype=bool)
    inner[1:-1, 1:-1] = True
    if kind == "L":
        inner[n // 2 :, : (n + 1) // 2] = False
    elif kind != "S":
        raise ValueError(f"`kind` must be 'S' or 'L', got {kind!r}")
    number = np.full((n, n), -1)
    number.T[inner.T] = np.arange(inner.sum())
    rows, cols = [], []
    for axis in (0, 1):
        first = np.take(number, range(n - 1), axis).ravel()
        second = np.take(number, range(1, n), axis).ravel()
        both = (first >= 0) & (second >= 0)
        rows += [first[both], second[both]]
        cols += [second[both], first[both]]
    i, j = np.concatenate(rows), np.concatenate(cols)
    size = int(inner.sum())
    off = sparse.coo_array((np.full(len(i), -1.0), (i, j)), shape=(size, size))
    return _sorted(4 * sparse.eye_array(size) + off)


def diffusion(a: Array) -> sparse.csr_array:
    """P5: ``-div(a grad u)`` with one coefficient per point, harmonic means between, u = 0 a cell outside."""
    m, k = a.shape
    number = np.arange(a.size).reshape(a.shape)
    padded = np.pad(a, 1, mode="edge")
    A = sparse.lil_array((a.size, a.size))
    for (y, x), i in np.ndenumerate(number):
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            other = padded[y + 1 + dy, x + 1 + dx]
            face = 2 * a[y, x] * other / (a[y, x] + other)
            A[i, i] += face
            if 0 <= y + dy < m and 0 <= x + dx < k:
                A[i, number[y + dy, x + dx]] = -face
    return _sorted(A)


def jump_coefficient(m: int = 60, blocks: int = 10, contrast: float = 1e3, seed: int = 0) -> Array:
    """1 or `contrast`, at random, in blocks x blocks equal squares."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((blocks, blocks)) < 0.5, 1.0, contrast)
    return np.kron(values, np.ones((m // blocks, m // blocks)))


def lognormal_coefficient(m: int = 60, sigma: float = 1.5, seed: int = 0) -> Array:
    """Independent ``exp(sigma z)``, z standard normal."""
    return np.exp(sigma * np.random.default_rng(seed).standard_normal((m, m)))


def _sorted(A: Any) -> sparse.csr_array:
    A = sparse.csr_array(A)
    A.sort_indices()
    return A


# ------------------------------------------------------------------------------------------------- sequences

SHIFTS = {"high": (0.5, 1.5), "low": (2.0, 6.0)}  # parameters of the Beta distribution
CONTEXT_BOX = (-0.15, 0.65)  # wider than the shifts' range (-0.15, 0.45)


def shifts(kind: str, count: int, seed: int = 0) -> Array:
    """P1, P8: ``c = -0.15 + 0.6 Beta``, of high or low variance."""
    return -0.15 + 0.6 * np.random.default_rng(seed).beta(*SHIFTS[kind], count)


def changing_shifts(count: int = 1000, seed: int = 0) -> Array:
    """P7: another distribution in the second half."""
    rng = np.random.default_rng(seed)
    half = count // 2
    return -0.15 + 0.6 * np.concatenate([rng.beta(6, 1, half), rng.beta(0.5, 6, count - half)])


def bounded_normal(count: int, n: int, seed: int = 0) -> Array:
    """Standard normal vectors of length n given that ``||b||_2 <= sqrt(n)``, one per row."""
    rng = np.random.default_rng(seed)
    out = np.empty((0, n))
    while len(out) < count:
        draw = rng.standard_normal((count + 16, n))
        out = np.concatenate([out, draw[np.linalg.norm(draw, axis=1) <= np.sqrt(n)]])
    return out[:count]


def shifted_laplacians(kind: str, count: int, seed: int = 0, m: int = 10) -> tuple[Any, Array, Array]:
    """P1 and P8: the matrix A, shifts (count,) and right-hand sides (count, m * m); systems ``A + c_t I``."""
    return laplacian(m), shifts(kind, count, 2 * seed), bounded_normal(count, m * m, 2 * seed + 1)


def degenerate_rhs(omega: float = 1.4, m: int = 10) -> Array:
    """P2: eigenvector of the smallest eigenvalue of ``I - A (D/omega + L)^-1``: SOR is far faster on it."""
    A = laplacian(m).toarray()
    N = np.diag(np.diag(A)) / omega + np.tril(A, -1)
    lam, V = np.linalg.eig(np.eye(m * m) - A @ np.linalg.inv(N))
    v = V[:, np.argmin(np.abs(lam))]
    assert abs(v.imag).max() < 1e-8 * abs(v.real).max()
    return v.real * m / np.linalg.norm(v.real)


def poisson(m: int, seed: int = 0) -> tuple[sparse.csr_array, Array]:
    """P6: steady Poisson, random right-hand side."""
    return laplacian(m), np.random.default_rng(seed).standard_normal(m * m)
