"""NumPy oracle of sketch-and-project on K z = b (K symmetric, dense) and of CountSketch: every S in full.

Random numbers are Philox4x32-10, written out here. Purposes are those of the native kernels. A step is
``z -= W (W'W + ridge)^-1 S' (K z - b)`` with ``W = K S``; the residual is formed anew for every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

Array = NDArray[Any]

COLUMNS, ROWS, BLOCKS, SIGNS, BUCKETS, CHOICES = (
    0x736B636F,
    0x736B726F,
    0x736B626C,
    0x736B7369,
    0x736B6275,
    0x736B6D65,
)
RIDGE = 1e-14
LAST = 2**64 - 1  # the draw whose signs the Hadamard mix takes


# ------------------------------------------------------------------------------------------------- numbers


def philox(counter: Any, key: Any) -> Array:
    """Philox4x32-10: counters of shape (..., 4) and a key of two words give four words each."""
    low = np.uint64(0xFFFFFFFF)
    c = np.array(counter, dtype=np.uint64)
    k0, k1 = (int(k) for k in key)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[..., 0], np.uint64(0xCD9E8D57) * c[..., 2]
        c = np.stack(
            [
                (p1 >> np.uint64(32)) ^ c[..., 1] ^ np.uint64(k0),
                p1 & low,
                (p0 >> np.uint64(32)) ^ c[..., 3] ^ np.uint64(k1),
                p0 & low,
            ],
            axis=-1,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def words(seed: int, purpose: int, step: int, count: int) -> Array:
    """Blocks 0 .. count - 1 of a stream, shape (count, 4)."""
    counter = np.empty((count, 4), dtype=np.uint64)
    counter[:] = (purpose, step >> 32, step & 0xFFFFFFFF, 0)
    counter[:, 3] = np.arange(count)
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def _unit(high: Array, low: Array) -> Array:
    return (((high << np.uint64(32) | low) >> np.uint64(12)).astype(float) + 0.5) * 2.0**-52


def uniforms(seed: int, purpose: int, step: int, count: int) -> Array:
    """Uniform in (0, 1)."""
    w = words(seed, purpose, step, count)
    return _unit(w[:, 0], w[:, 1])


def normals(seed: int, purpose: int, step: int, count: int) -> Array:
    """Standard normal, by Box and Muller."""
    w = words(seed, purpose, step, count)
    return np.sqrt(-2 * np.log(_unit(w[:, 0], w[:, 1]))) * np.cos(2 * np.pi * _unit(w[:, 2], w[:, 3]))


def buckets(seed: int, purpose: int, step: int, count: int, k: int) -> tuple[Array, Array]:
    """Bucket in 0 .. k - 1 and sign of every row."""
    w = words(seed, purpose, step, count)
    sign = np.where((w[:, 1] & np.uint64(1)) == 1, 1.0, -1.0)
    return (w[:, 0] * np.uint64(k) >> np.uint64(32)).astype(int), sign


# ------------------------------------------------------------------------------------------------ sketches


def count_sketch(rows: int, k: int, seed: int, draw: int, purpose: int = BUCKETS) -> Array:
    """The matrix S, shape (k, rows): one sign in every column."""
    bucket, sign = buckets(seed, purpose, draw, rows, k)
    S = np.zeros((k, rows))
    S[bucket, np.arange(rows)] = sign
    return S


def sketch(method: str, n: int, q: int, seed: int, step: int) -> Array:
    """S of one step, shape (n, q)."""
    if method == "countsketch":
        return count_sketch(n, q, seed, step, SIGNS).T
    if method == "gaussian":
        q = 1
    return normals(seed, COLUMNS, step, n * q).reshape(q, n).T


def correction(W: Array, residual: Array) -> Array:
    """W (W'W + ridge)^-1 residual."""
    G = W.T @ W
    return W @ np.linalg.solve(G + RIDGE * np.trace(G) / len(G) * np.eye(len(G)), residual)


def project_columns(
    K: Array, b: Array, z: Array, method: str, q: int, seed: int, steps: int, first: int = 0
) -> Array:
    """Steps of "gaussian", "block_gaussian" or "countsketch"."""
    for step in range(first, first + steps):
        S = sketch(method, len(K), q, seed, step)
        z = z - correction(K @ S, S.T @ (K @ z - b))
    return z


def project_rows(K: Array, b: Array, z: Array, seed: int, steps: int, first: int = 0) -> Array:
    """Steps of Kaczmarz on rows drawn uniformly from those that are not zero."""
    usable = np.flatnonzero((K != 0).any(axis=1))
    z = z.copy()
    for step in range(first, first + steps):
        i = usable[int(uniforms(seed, ROWS, step, 1)[0] * len(usable))]
        z += (b[i] - K[i] @ z) / (K[i] @ K[i]) * K[i]
    return z


def mixed(K: Array, b: Array, seed: int) -> tuple[Array, Array]:
    """H D K / sqrt(P) and H D b / sqrt(P), P rows."""
    n = len(K)
    P = 1 << max(n - 1, 0).bit_length()
    sign = buckets(seed, SIGNS, LAST, n, 1)[1]
    H = hadamard(P)[:, :n] * sign / np.sqrt(P)
    return H @ K, H @ b


def project_mixed(
    K: Array, b: Array, z: Array, q: int, seed: int, steps: int
) -> tuple[Array, int, list[float]]:
    """Memoised block Kaczmarz with momentum; also how many blocks were drawn, and rho after each window."""
    n = len(K)
    A, c = mixed(K, b, seed)
    order = np.arange(len(A))
    memory: list[Array] = []
    v, half = np.zeros(n), -(-n // q) + 1
    seen: list[float] = []
    rates: list[float] = []
    rho = 0.0
    for t in range(1, steps + 1):
        step = t - 1
        choice = uniforms(seed, CHOICES, step, 2)
        if choice[0] < n * np.log(max(n, 2)) / (q * t):
            for k, u in enumerate(uniforms(seed, BLOCKS, step, q)):
                other = k + int(u * (len(A) - k))
                order[k], order[other] = order[other], order[k]
            memory.append(order[:q].copy())
            rows = memory[-1]
        else:
            rows = memory[int(choice[1] * len(memory))]
        residual = A[rows] @ z - c[rows]
        w = correction(A[rows].T, residual)
        zeta = (1 - rho) / (1 + rho) if rates else 0.0
        v = zeta * (v + w)
        z = z - w - q / (2 * n) * v
        seen.append(float(np.linalg.norm(residual)))
        if len(seen) == 2 * half:
            ratio = sum(seen[half:]) / sum(seen[:half])
            rates.append(1 - ratio ** (1 / half))
            weights = np.arange(1, len(rates) + 1)
            rho = min(max(float(weights @ rates / weights.sum()), 0.0), 1.0)
            seen = []
    return z, len(memory), rates


# ----------------------------------------------------------------------------------------- preconditioner


def constraint_preconditioner(G: Array, diagonal: Array, J: Array, e: Array) -> Array:
    """The inverse of ``[[G + diag, J'], [J, -diag(e)]]``, dense."""
    return np.linalg.inv(np.block([[G + np.diag(diagonal), J.T], [J, -np.diag(e)]]))
