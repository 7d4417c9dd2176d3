"""NumPy oracle of matrix sensing: the measurements one by one, exact norms, one step at a time.

A has shape (m, n1, n2); everything is float64. The descents return all iterates (F_t, G_t), the start first;
with ``G is F`` at the start they are symmetric and G_t is F_t throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Iterates = list[tuple[Array, Array]]


def measure(A: Array, X: Array) -> Array:
    """``<A_l, X>`` for every l."""
    return np.array([np.sum(a * X) for a in A])


def adjoint(A: Array, r: Array) -> Array:
    """``sum_l r_l A_l``."""
    return np.tensordot(r, A, axes=1)


def loss(A: Array, y: Array, X: Array, kind: str) -> float:
    """``0.5 ||A(X) - y||_2^2`` or the mean of ``|A(X) - y|``."""
    r = measure(A, X) - y
    return 0.5 * float(r @ r) if kind == "l2" else float(np.abs(r).mean())


def certificate(A: Array, y: Array, X: Array, kind: str) -> float:
    """Relative residual, or the median residual over the median of the data."""
    r = measure(A, X) - y
    if kind == "l2":
        return float(np.linalg.norm(r) / np.linalg.norm(y))
    return float(np.median(np.abs(r)) / np.median(np.abs(y)))


def _step(F: Array, G: Array, dF: Array, dG: Array, step: float) -> tuple[Array, Array]:
    if F is G:
        U = F - step * (dF + dG) / 2
        return U, U
    return F - step * dF, G - step * dG


def _scaled(F: Array, G: Array, dF: Array, dG: Array, damping: float) -> tuple[Array, Array]:
    eye = np.eye(F.shape[1])
    return dF @ np.linalg.inv(G.T @ G + damping * eye), dG @ np.linalg.inv(F.T @ F + damping * eye)


def one_step_modification(F: Array, G: Array, beta: float) -> tuple[Array, Array]:
    """F <- beta A, G <- G B S / beta with F = A S B^T."""
    a, s, bt = np.linalg.svd(F, full_matrices=False)
    return beta * a, G @ bt.T @ np.diag(s) / beta


def gradient_descent(
    A: Array,
    y: Array,
    F: Array,
    G: Array,
    step: float,
    steps: int,
    *,
    beta: float | None = None,
    damping: float | None = None,
) -> Iterates:
    """Gradient descent on the l2 loss.

    `beta`: the one-step modification at the first relative residual below 0.1; `damping`: precondition with
    ``damping * err`` on the diagonals.
    """
    out = [(F, G)]
    for _ in range(steps):
        r = measure(A, F @ G.T) - y
        err = float(np.linalg.norm(r) / np.linalg.norm(y))
        if beta is not None and err < 0.1:
            F, G = one_step_modification(F, G, beta)
            beta = None
        D = adjoint(A, r)
        dF, dG = D @ G, D.T @ F
        if damping is not None:
            dF, dG = _scaled(F, G, dF, dG, damping * err)
        F, G = _step(F, G, dF, dG, step)
        out.append((F, G))
    return out


def spectral_start(A: Array, y: Array, k: int) -> Array:
    """B with B B^T the PSD part of rank <= k of the symmetrised ``mean sign(y_l) A_l``, of norm one."""
    D = adjoint(A, np.sign(y)) / len(y)
    w, E = np.linalg.eigh((D + D.T) / 2)
    w, E = np.maximum(w[::-1][:k], 0), E[:, ::-1][:, :k]
    return E * np.sqrt(w / w[0])


def subgradient_method(
    A: Array,
    y: Array,
    F: Array,
    G: Array,
    step: float,
    steps: int,
    *,
    decay: Callable[[int], float] | None = None,
) -> Iterates:
    """Normalised subgradient steps on the l1 loss.

    Step t is ``step * decay(t)``; without `decay`, ``step * min(1, err)`` along preconditioned directions.
    """
    out = [(F, G)]
    for t in range(steps):
        r = measure(A, F @ G.T) - y
        err = float(np.median(np.abs(r)) / np.median(np.abs(y)))
        D = adjoint(A, np.sign(r))
        length = float(np.linalg.norm((D + D.T) / 2 if F is G else D, 2))
        dF, dG = D @ G, D.T @ F
        if F is G:
            dF = dG = (dF + dG) / 2
        if decay is None:
            dF, dG = _scaled(F, G, dF, dG, err)
        F, G = _step(F, G, dF, dG, step * (min(1.0, err) if decay is None else decay(t)) / length)
        out.append((F, G))
    return out
