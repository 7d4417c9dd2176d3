"""Sketched solvers of Newton systems: sketch-and-project, and the sketched Hessian as a preconditioner."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from .. import _core, _validate
from ._kkt import InnerResult, KKTMatrix, is_operator, transposed_product

METHODS = ("gaussian", "kaczmarz", "block_gaussian", "countsketch", "block_kaczmarz")

# Columns of a block by default: a quarter of the unknowns, as long as Gram matrices stay small.
_LARGEST_BLOCK = 256
# A sketch serves until the iterations exceed this multiple of what they were when it was fresh.
_WORSE = 1.5


def native_matrix(A: Any) -> Any:
    """An array or sparse matrix in the form that the native module takes."""
    if sp.issparse(A):
        A = sp.csr_array(A)
        return (A.indptr.astype(np.int64), A.indices.astype(np.int32), A.data.astype(float), A.shape[1])
    return np.ascontiguousarray(A, dtype=float)


def default_block(size: int) -> int:
    """Columns of a block sketch for a system of `size` unknowns."""
    return max(min(size, 4), min(size // 4, _LARGEST_BLOCK))


def solve_projection(
    K: KKTMatrix,
    b: np.ndarray,
    z0: np.ndarray | None = None,
    rtol: float = 1e-6,
    max_steps: int = 100_000,
    method: str = "gaussian",
    sketch_size: int | None = None,
    seed: int = 0,
    counter: int = 0,
    *,
    max_flops: float = 0.0,
    n_threads: int | None = None,
) -> InnerResult:
    """Sketch-and-project on ``K z = b``; bits do not depend on the number of threads.

    Parameters
    ----------
    K : KKTMatrix
        With its entries at hand: no block may be a LinearOperator.
    b : ndarray, shape (N,)
        Right-hand side.
    z0 : ndarray, shape (N,), optional
        Start, zero by default; not modified.
    rtol : float
        Stop when ``||K z - b||_2 <= rtol ||b||_2``, recomputed.
    max_steps : int
        Limit on sketches, or rows.
    method : {"gaussian", "kaczmarz", "block_gaussian", "countsketch", "block_kaczmarz"}
        What S is: a Gaussian vector, a unit vector, q Gaussian columns, a CountSketch of q columns, or q rows
        of the system mixed by a Hadamard transform, with memory and momentum.
    sketch_size : int, optional
        q; by default a quarter of N, at most 256.
    seed : int
        Of the random numbers.
    counter : int
        Number of the first step: a solve that goes on where another one stopped passes the steps so far.
    max_flops : float
        Limit on counted flops; 0 is none.
    n_threads : int, optional
        Threads of single products.

    Returns
    -------
    InnerResult
        Never raises for a matrix that is singular, zero or not finite: then `converged` is False and `z` is
        finite if `z0` was.

    Raises
    ------
    TypeError
        Where K has no entries.
    ValueError
        For an unknown method, or a block that is not 1 to N.
    """
    _validate.choice("kkt_solver", method, METHODS)
    if K.is_operator:
        raise TypeError(
            f"`kkt_solver` {method!r} needs the entries of the Hessian and the Jacobian, but one of them is "
            "a LinearOperator"
        )
    size = K.n + K.m
    z = np.zeros(size) if z0 is None else np.array(z0, dtype=float)
    block = default_block(size) if sketch_size is None else sketch_size
    if size == 0:
        return InnerResult(z, 0.0, 0, 0.0, True, method)
    options = {
        "method": method,
        "rtol": float(rtol),
        "max_steps": int(max_steps),
        "max_flops": float(max_flops),
        "block": _validate.integer("sketch_size", block, minimum=1, maximum=size),
        "seed": seed,
        "first_step": counter,
        "n_threads": _validate.n_threads(n_threads),
    }
    matrix = native_matrix(K.to_csr() if K.is_sparse else K.to_dense())
    report = _core.sketch_project(matrix, np.ascontiguousarray(b, dtype=float), z, options)
    norm = report["norm_b"]
    residual = report["residual"] / norm if norm > 0 else 0.0
    return InnerResult(z, residual, report["steps"], report["flops"], report["status"] == 0, method)


def _entries(A: Any) -> float:
    """Stored entries; an operator counts as a dense matrix."""
    return float(A.nnz if sp.issparse(A) else A.shape[0] * A.shape[1])


def _shifted_cholesky(A: np.ndarray, shift: float) -> Any:
    """`cho_factor` of A + s I with the first s of `shift`, then 1e-12 of the diagonal and up, that works."""
    scale = float(np.abs(np.diag(A)).max(initial=0.0)) or 1.0
    while shift < 1e8 * scale:
        try:
            return sla.cho_factor(A + shift * np.eye(len(A)), lower=True, check_finite=False)
        except sla.LinAlgError:
            shift = max(10.0 * shift, 1e-12 * scale)
    return None


class SketchedPreconditioner:
    """The inverse of ``[[H~, J'], [J, -diag(e)]]`` with ``H~ = (S W)'(S W) + diag(d + r)``.

    W is a square root of the objective's Hessian, ``H = W'W + R``, and S a CountSketch: one pass over W. r is
    the diagonal of R, from one product with a vector of random signs, which is exact where R is diagonal.
    (S W)'(S W) is kept from one Newton system to the next, and redrawn only when an iteration count has
    exceeded 1.5 times that of its first system; the small factors follow J, d and e.

    Parameters
    ----------
    sketch_size : int, optional
        Rows of S; by default 4 n.
    seed : int
        Of the signs and places; each draw takes new ones.
    n_threads : int, optional
        Threads of a CountSketch.

    Attributes
    ----------
    draws : int
        Sketches drawn.
    flops : float
        Counted in `prepare` and `apply`.
    fresh_count : int or None
        Iterations of the first system of the sketch at hand.
    """

    def __init__(
        self, sketch_size: int | None = None, seed: int = 0, *, n_threads: int | None = None
    ) -> None:
        self.sketch_size, self.seed = sketch_size, seed
        self.n_threads = _validate.n_threads(n_threads)
        self.draws, self.flops = 0, 0.0
        self.fresh_count: int | None = None
        self._due = True
        self._gram: np.ndarray | None = None
        self._K: KKTMatrix | None = None

    def prepare(self, K: KKTMatrix, W: Any) -> bool:
        """Factors for `K`, whose Hessian is about ``W'W`` (W: (rows, n) array, CSR or LinearOperator).

        Returns
        -------
        bool
            False where NaN or Inf leave nothing to factor.

        Raises
        ------
        ValueError
            Where W does not have n columns.
        """
        if len(W.shape) != 2 or W.shape[1] != K.n:
            raise ValueError(f"`hess_sqrt` gave shape {tuple(W.shape)}; (any, {K.n}) is needed")
        if self._due or self._gram is None or self._gram.shape[0] != K.n:
            self._draw(W, K.n)
        signs = _core.count_sketch_map(K.n, 1, self.seed, self.draws)[1]
        rest = signs * (K.H @ signs - transposed_product(W, W @ signs))
        self.flops += 2.0 * K.n * K.n + 4.0 * _entries(W)
        return self._factor(K, rest)

    def _draw(self, W: Any, n: int) -> None:
        rows = W.shape[0]
        k = 4 * n if self.sketch_size is None else self.sketch_size
        if is_operator(W):
            SW = self._sketch_operator(W, min(k, rows))
        elif k >= rows:  # nothing to gain by mixing rows
            SW = W
        else:
            SW = _core.count_sketch(native_matrix(W), k, self.seed, self.draws, self.n_threads)
            self.flops += 2.0 * _entries(W)
        gram = SW.T @ SW
        self._gram = gram.toarray() if sp.issparse(gram) else np.asarray(gram)
        self.flops += SW.shape[0] * n * (n + 1.0)
        self.draws += 1
        self._due, self.fresh_count = False, None

    def _sketch_operator(self, W: Any, k: int) -> np.ndarray:
        """S W row by row: k products with W', all that an operator has to offer."""
        bucket, sign = _core.count_sketch_map(W.shape[0], k, self.seed, self.draws)
        order = np.argsort(bucket, kind="stable")
        cuts = np.searchsorted(bucket[order], np.arange(k + 1))
        out = np.zeros((k, W.shape[1]))
        for row in range(k):
            members = order[cuts[row] : cuts[row + 1]]
            if members.size:
                v = np.zeros(W.shape[0])
                v[members] = sign[members]
                out[row] = W.rmatvec(v)
        self.flops += 2.0 * k * _entries(W)
        return out

    def _factor(self, K: KKTMatrix, rest: np.ndarray) -> bool:
        n, m = K.n, K.m
        assert self._gram is not None
        if is_operator(K.J):
            Jt = np.column_stack([K.J.rmatvec(row) for row in np.eye(m)]) if m else np.zeros((n, 0))
        else:
            Jt = K.J.T.toarray() if sp.issparse(K.J) else K.J.T
        if not all(np.isfinite(part).all() for part in (self._gram, rest, K.d, Jt, K.e)):
            return False
        # R may be indefinite, or larger than a sketch shows.
        hessian = self._gram + np.diag(K.d + rest)
        found = _shifted_cholesky(hessian, max(0.0, -1.1 * float(np.diag(hessian).min(initial=0.0))))
        if found is None:
            return False
        self._hessian = found
        self.flops += n**3 / 3.0
        if m:
            self._images = sla.cho_solve(found, Jt, check_finite=False)
            schur = Jt.T @ self._images
            # A redundant constraint makes it singular.
            found = _shifted_cholesky(0.5 * (schur + schur.T) + np.diag(K.e), 0.0)
            if found is None:
                return False
            self._schur = found
            self.flops += 2.0 * n * n * m + n * m * (m + 1.0) + m**3 / 3.0
        self._K = K
        return True

    def apply(self, r: np.ndarray) -> np.ndarray:
        """The preconditioner times `r`, shape (N,)."""
        K = self._K
        assert K is not None
        x = sla.cho_solve(self._hessian, r[: K.n], check_finite=False)
        self.flops += 2.0 * K.n * K.n + 4.0 * K.n * K.m + 2.0 * K.m * K.m
        if K.m == 0:
            return np.asarray(x)
        y = sla.cho_solve(self._schur, K.J @ x - r[K.n :], check_finite=False)
        return np.concatenate([x - self._images @ y, y])

    def operator(self) -> LinearOperator:
        """`apply` as a LinearOperator."""
        assert self._K is not None
        size = self._K.n + self._K.m
        return LinearOperator((size, size), matvec=self.apply, dtype=float)

    def note(self, iterations: int) -> None:
        """What the system at hand took: decides whether the next one gets a new sketch."""
        if self.fresh_count is None:
            self.fresh_count = iterations
        elif iterations > _WORSE * self.fresh_count:
            self._due = True


__all__ = ["METHODS", "SketchedPreconditioner", "default_block", "native_matrix", "solve_projection"]
