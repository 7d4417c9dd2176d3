"""Quasi-Newton Hessians of the Lagrangian: damped BFGS, compact L-BFGS, SciPy's strategies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_DAMPING = 0.2  # Powell's constant: s'y is kept at or above this share of s'Bs
_SCALE_LIMIT = 1e8
_SHORTEST = 1e-100


@dataclass(frozen=True)
class LowRank:
    """The symmetric matrix ``gamma I + U C U'``.

    Attributes
    ----------
    gamma : float
    U : ndarray of float64, shape (n, r)
    C : ndarray of float64, shape (r, r), symmetric
    """

    gamma: float
    U: np.ndarray
    C: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return (self.U.shape[0], self.U.shape[0])

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return self.gamma * x + self.U @ (self.C @ (self.U.T @ x))

    def toarray(self) -> np.ndarray:
        """The matrix as a dense array: ``2 n^2 r`` flops."""
        dense = self.U @ self.C @ self.U.T
        dense[np.diag_indices_from(dense)] += self.gamma
        return 0.5 * (dense + dense.T)


def _usable(s: np.ndarray, y: np.ndarray) -> bool:
    if not (np.isfinite(s).all() and np.isfinite(y).all()):
        return False
    return bool(np.abs(s).max(initial=0.0) > _SHORTEST)  # else products of s underflow


def _damp(s: np.ndarray, y: np.ndarray, Bs: np.ndarray) -> np.ndarray:
    """Powell's y: moved towards Bs until ``s'y >= 0.2 s'Bs``."""
    curvature, model = float(s @ y), float(s @ Bs)
    if curvature >= _DAMPING * model:
        return y
    theta = (1.0 - _DAMPING) * model / (model - curvature)
    return theta * y + (1.0 - theta) * Bs


def _first_scale(s: np.ndarray, y: np.ndarray) -> float:
    """The multiple of the identity that a pair suggests: y'y / s'y, or |y| / |s| if that is not > 0."""
    ss, sy, yy = float(s @ s), float(s @ y), float(y @ y)
    scale = yy / sy if sy > np.finfo(np.float64).eps * yy else float(np.sqrt(yy / ss))
    return min(max(scale, 1.0 / _SCALE_LIMIT), _SCALE_LIMIT) if scale > 0.0 else 1.0


class DampedBFGS:
    """Dense BFGS with Powell's damping: always positive definite.

    The first pair sets the scale of the matrix before it updates it. A pair with a zero step or a non-finite
    number is ignored.

    Parameters
    ----------
    n : int
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.reset()

    def reset(self) -> None:
        """Back to the identity."""
        self._matrix = np.eye(self._n)
        self._fresh = True

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Take in the pair of a step and a difference of gradients: ``6 n^2`` flops, ``16 n^2`` bytes."""
        if not _usable(s, y):
            return
        if self._fresh:
            self._matrix *= _first_scale(s, y)
            self._fresh = False
        Bs = self._matrix @ s
        y = _damp(s, y, Bs)
        self._matrix += np.outer(y / float(s @ y), y) - np.outer(Bs / float(s @ Bs), Bs)
        self._matrix = 0.5 * (self._matrix + self._matrix.T)  # rounding must not build up asymmetry

    def hessian(self) -> np.ndarray:
        """A copy of the matrix, shape (n, n)."""
        return self._matrix.copy()


class CompactLBFGS:
    """L-BFGS in compact form, of the last `memory` damped pairs: positive definite.

    ``B = gamma I - [gamma S, Y] [[gamma S'S, L], [L', -D]]^-1 [gamma S, Y]'`` with ``S'Y = L + D + R``.
    Each pair is divided by its ``||s||``, which leaves B as it is and the small matrix well scaled.

    Parameters
    ----------
    n : int
    memory : int, default 10
    """

    def __init__(self, n: int, memory: int = 10) -> None:
        self._n = n
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        """Back to the identity."""
        self._gamma = 1.0
        self._steps: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._current = LowRank(1.0, np.zeros((self._n, 0)), np.zeros((0, 0)))

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Take in the pair of a step and a difference of gradients: ``8 n k^2`` flops for k pairs."""
        if not _usable(s, y):
            return
        length = float(np.linalg.norm(s))
        s, y = s / length, y / length
        if not self._steps:
            self._current = LowRank(_first_scale(s, y), self._current.U, self._current.C)
        y = _damp(s, y, self._current @ s)
        self._steps = [*self._steps, s][-self._memory :]
        self._changes = [*self._changes, y][-self._memory :]
        self._gamma = _first_scale(s, y)
        S, Y = np.column_stack(self._steps), np.column_stack(self._changes)
        SY = S.T @ Y
        L = np.tril(SY, -1)
        middle = np.block([[self._gamma * (S.T @ S), L], [L.T, -np.diag(np.diag(SY))]])
        # Equal weights on rows and columns before the inverse: gamma and D may differ by many orders.
        weight = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(middle)), np.finfo(np.float64).tiny))
        balanced = middle * weight[:, None] * weight[None, :]
        try:
            inverse = np.linalg.inv(balanced)
        except np.linalg.LinAlgError:  # dependent pairs: start again from the newest
            self.reset()
            self.update(length * s, length * y)
            return
        C = -0.5 * (inverse + inverse.T)
        U = np.hstack([self._gamma * S, Y]) * weight[None, :]
        self._current = LowRank(self._gamma, U, C)

    def hessian(self) -> LowRank:
        """The matrix as `LowRank`, with U of shape (n, 2k)."""
        return self._current


class SecantRemainder:
    """The part of a Hessian that no exact term covers, by symmetric rank-one updates from zero.

    It may be indefinite, as the curvature of constraints is. An update whose denominator is small against
    its vectors is left out.

    Parameters
    ----------
    n : int
    """

    _SMALLEST = 1e-2  # of |s'r| / (|s| |r|): smaller ones let the matrix grow without need

    def __init__(self, n: int) -> None:
        self._n = n
        self.reset()

    def reset(self) -> None:
        """Back to zero."""
        self._matrix = np.zeros((self._n, self._n))
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Keep the pair of a step and the change of the whole gradient until `absorb`."""
        if _usable(s, y):
            self._pending.append((s.copy(), y.copy()))

    def absorb(self, known: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take in the pairs kept, less what the exact terms explain: ``known(s)`` is their product with s."""
        for s, y in self._pending:
            r = y - known(s) - self._matrix @ s
            denominator = float(s @ r)
            threshold = self._SMALLEST * float(np.linalg.norm(s)) * float(np.linalg.norm(r))
            if np.isfinite(r).all() and abs(denominator) > threshold:
                self._matrix += np.outer(r / denominator, r)
        self._pending = []

    def hessian(self) -> np.ndarray:
        """A copy of the matrix, shape (n, n)."""
        return self._matrix.copy()


class StrategyHessian:
    """One of SciPy's ``HessianUpdateStrategy`` objects, on a copy of it.

    Parameters
    ----------
    strategy : scipy.optimize.HessianUpdateStrategy
        For example ``SR1()`` or ``BFGS(exception_strategy="damp_update")``; left as it is.
    n : int
    """

    def __init__(self, strategy: Any, n: int) -> None:
        self._original = strategy
        self._n = n
        self.reset()

    def reset(self) -> None:
        """As given, initialised for a Hessian."""
        self._strategy = copy.deepcopy(self._original)
        self._strategy.initialize(self._n, "hess")

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Hand over a copy of the pair; zero or non-finite ones are ignored."""
        if _usable(s, y) and y.any():
            self._strategy.update(s.copy(), y.copy())

    def hessian(self) -> np.ndarray:
        """The matrix, shape (n, n); a strategy that offers products alone is multiplied by the identity."""
        try:
            matrix = np.array(self._strategy.get_matrix(), dtype=np.float64)
        except (AttributeError, NotImplementedError):
            matrix = np.column_stack([self._strategy.dot(e) for e in np.eye(self._n)])
        return 0.5 * (matrix + matrix.T)


__all__ = ["CompactLBFGS", "DampedBFGS", "LowRank", "SecantRemainder", "StrategyHessian"]
