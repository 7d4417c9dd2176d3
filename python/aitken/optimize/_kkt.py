"""The Newton systems K z = b, K = [[H + diag(d), J'], [J, -diag(e)]], and their direct solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from .. import _core
from ._quasi_newton import LowRank

# Sparse matrices of at most this order are factored as dense ones, which may exchange rows.
_DENSE_ORDER = 160
# Added to the scaled diagonal of a sparse matrix so that no pivot vanishes; refinement takes it out again.
_STATIC_SHIFT = 1e-9


@dataclass
class InnerResult:
    """A solution of K z = b with its certificate.

    Attributes
    ----------
    z : ndarray, shape (N,)
        The solution.
    residual : float
        ||K z - b||_2 / ||b||_2, recomputed.
    iterations : int
        Steps of the inner method; refinement steps for a direct one.
    flops : float
        Counted, factorisation included where there was one.
    converged : bool
        Whether the residual asked for was met.
    solver : str
        Which method gave it.
    """

    z: np.ndarray
    residual: float
    iterations: int
    flops: float
    converged: bool
    solver: str


def is_operator(A: Any) -> bool:
    """Whether `A` is known by its products alone."""
    return isinstance(A, LinearOperator)


def transposed_product(J: Any, y: np.ndarray) -> np.ndarray:
    """J' y for a dense, sparse or operator J."""
    return J.rmatvec(y) if is_operator(J) else J.T @ y


class KKTMatrix:
    """One Newton matrix, its blocks as the problem gave them.

    Parameters
    ----------
    H : ndarray, sparse array, LinearOperator or LowRank, shape (n, n)
        Hessian of the Lagrangian, symmetric.
    J : ndarray, sparse array or LinearOperator, shape (m, n)
        Jacobian of the constraints.
    d : ndarray, shape (n,)
        Added to H's diagonal.
    e : ndarray, shape (m,)
        Taken from the zero block's diagonal, >= 0.
    """

    def __init__(self, H: Any, J: Any, d: np.ndarray, e: np.ndarray) -> None:
        self.H, self.J, self.d, self.e = H, J, d, e
        self.n, self.m = len(d), len(e)

    @property
    def is_operator(self) -> bool:
        """Whether a block is known by its products alone, so that K cannot be formed."""
        return is_operator(self.H) or is_operator(self.J)

    @property
    def is_sparse(self) -> bool:
        """Whether K should be stored in compressed rows."""
        compact = isinstance(self.H, LowRank) and not is_operator(self.J)
        return sp.issparse(self.H) or sp.issparse(self.J) or compact

    def matvec(self, z: np.ndarray) -> np.ndarray:
        """K z."""
        x, y = z[: self.n], z[self.n :]
        return np.concatenate(
            [self.H @ x + self.d * x + transposed_product(self.J, y), self.J @ x - self.e * y]
        )

    def to_dense(self) -> np.ndarray:
        """K as a dense array."""
        n = self.n
        K = np.zeros((n + self.m, n + self.m))
        K[:n, :n] = self.H if isinstance(self.H, np.ndarray) else self.H.toarray()
        J = self.J if isinstance(self.J, np.ndarray) else self.J.toarray()
        K[n:, :n] = J
        K[:n, n:] = J.T
        K.flat[:: n + self.m + 1] += np.concatenate([self.d, -self.e])
        return K

    def to_csr(self) -> sp.csr_array:
        """K in compressed rows."""
        H = sp.csr_array(self.H) + sp.diags_array(self.d)
        J = sp.csr_array(self.J)
        return sp.csr_array(sp.block_array([[H, J.T], [J, -sp.diags_array(self.e)]], format="csr"))


class _LowerTriangle:
    """Lower triangle of a sparse K: a pattern found once, values put in place for each new K."""

    def __init__(self, H: sp.csr_array, J: sp.csr_array) -> None:
        n, m = H.shape[0], J.shape[0]
        self.patterns = [(A.indptr.copy(), A.indices.copy()) for A in (H, J)]
        rows_h = np.repeat(np.arange(n), np.diff(H.indptr))
        self.take_h = np.flatnonzero(H.indices <= rows_h)
        rows = np.concatenate(
            [rows_h[self.take_h], np.arange(n), np.repeat(np.arange(n, n + m), np.diff(J.indptr)),
             np.arange(n, n + m)]
        )  # fmt: skip
        cols = np.concatenate([H.indices[self.take_h], np.arange(n), J.indices, np.arange(n, n + m)])
        keys = rows * (n + m) + cols
        unique, place = np.unique(keys, return_inverse=True)
        cuts = np.cumsum([len(self.take_h), n, J.nnz])
        self.at_h, self.at_d, self.at_j, self.at_e = np.split(place, cuts)
        self.indices = (unique % (n + m)).astype(np.int32)
        counts = np.bincount(unique // (n + m), minlength=n + m)
        self.indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.values = np.zeros(len(unique))

    def matches(self, H: sp.csr_array, J: sp.csr_array) -> bool:
        return all(
            np.array_equal(A.indptr, indptr) and np.array_equal(A.indices, indices)
            for A, (indptr, indices) in zip((H, J), self.patterns, strict=True)
        )

    def fill(self, H: sp.csr_array, J: sp.csr_array, d: np.ndarray, e: np.ndarray) -> np.ndarray:
        self.values[:] = 0.0
        self.values[self.at_h] = H.data[self.take_h]
        self.values[self.at_d] += d
        self.values[self.at_j] = J.data
        self.values[self.at_e] -= e
        return self.values


class DirectSolver:
    """LDL' of K: Bunch-Kaufman where K is dense or small, else supernodal with static regularisation.

    The ordering and the memory of a sparse factorisation are kept while the patterns of H and J stay.
    """

    def __init__(self) -> None:
        self._factor: Any = None
        self._triangle: _LowerTriangle | None = None
        self._dense_size = -1
        self._K: KKTMatrix | None = None
        self._woodbury: tuple[np.ndarray, np.ndarray] | None = None
        self.n_factorizations = 0
        self.flops = 0.0

    @property
    def name(self) -> str:
        """What ran last."""
        return "ldlt" if self._triangle is None else "sparse_ldlt"

    @property
    def is_regularized(self) -> bool:
        """Whether pivots had the static shift: signs of tiny ones mean nothing."""
        return self._triangle is not None

    def factor(self, K: KKTMatrix) -> tuple[int, int, int, bool]:
        """Factor K; numbers of positive, negative and zero pivots, and whether all of it was finite."""
        self._K = K
        self._woodbury = None
        low_rank = K.H if isinstance(K.H, LowRank) and K.is_sparse else None
        size = K.n + K.m
        if K.is_sparse and size > _DENSE_ORDER:
            H = sp.diags_array(np.full(K.n, low_rank.gamma), format="csr") if low_rank else _csr(K.H)
            J = _csr(K.J)
            if self._triangle is None or not self._triangle.matches(H, J):
                self._triangle = _LowerTriangle(H, J)
                self._factor = _core.IndefiniteFactor.sparse(
                    size, self._triangle.indptr, self._triangle.indices
                )
            values, shift = self._triangle.fill(H, J, K.d, K.e), _STATIC_SHIFT
        else:
            low_rank = None
            if self._triangle is not None or self._dense_size != size:
                self._triangle, self._dense_size = None, size
                self._factor = _core.IndefiniteFactor.dense(size)
            values, shift = K.to_dense(), 0.0
        found: tuple[int, int, int, bool] = self._factor.factor(values, K.n, shift)
        self.n_factorizations += 1
        self.flops += self._factor.flops
        if low_rank is not None and found[3]:
            self._prepare_woodbury(low_rank, K.m)
        return found

    def _prepare_woodbury(self, H: LowRank, m: int) -> None:
        """K = K0 + V C V' with V = [U; 0]: K0's answers for the columns of V, and the small matrix."""
        V = np.vstack([H.U, np.zeros((m, H.U.shape[1]))])
        Y = np.column_stack([self._factor.solve(v, 1e-12, 5)[0] for v in V.T]) if V.shape[1] else V
        self._woodbury = (Y, np.eye(V.shape[1]) + H.C @ (V.T @ Y))

    def _apply(self, b: np.ndarray, rtol: float) -> tuple[np.ndarray, int]:
        z, _, steps = self._factor.solve(b, rtol, 8)
        if self._woodbury is not None and self._K is not None:
            Y, small = self._woodbury
            H = self._K.H
            z = z - Y @ np.linalg.solve(small, H.C @ (H.U.T @ z[: self._K.n]))
        return z, steps

    def solve(self, b: np.ndarray, rtol: float = 1e-12) -> InnerResult:
        """Solve with the last K; the residual is that of K itself, without regularisation."""
        if self._K is None:
            raise RuntimeError("no matrix has been factored")
        z, steps = self._apply(b, rtol)
        norm = float(np.linalg.norm(b))
        residual = float(np.linalg.norm(b - self._K.matvec(z))) / norm if norm else 0.0
        if self._woodbury is not None and residual > rtol:  # one refinement across the update
            better = z + self._apply(b - self._K.matvec(z), rtol)[0]
            again = float(np.linalg.norm(b - self._K.matvec(better))) / norm
            if again < residual:
                z, residual = better, again
        flops = 4.0 * self._factor.nnz * (1 + steps)
        self.flops += flops
        return InnerResult(z, residual, steps, flops, residual <= rtol, self.name)


def _csr(A: Any) -> sp.csr_array:
    if sp.issparse(A):
        return A if isinstance(A, sp.csr_array) else sp.csr_array(A)
    if isinstance(A, LowRank):
        A = A.toarray()
    rows, cols = A.shape  # a dense block keeps all its entries, so that its pattern never changes
    return sp.csr_array(
        (A.ravel(), np.tile(np.arange(cols, dtype=np.int32), rows), np.arange(rows + 1) * cols),
        shape=A.shape,
    )


__all__ = ["DirectSolver", "InnerResult", "KKTMatrix", "is_operator", "transposed_product"]
