"""`matrix_sensing`: a low-rank matrix from general linear measurements, by descent on small factors.

The loop calls the user's operator, so it lives here. With k columns and m measurements an iteration takes one
product with the map and one with its adjoint: for dense A 4 m n1 n2 flops in one pass over its m n1 n2
numbers, for pairs 4 m k (n1 + n2) flops and no array larger than m x k; plus O((n1 + n2) k) for the update.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._progress import Monitor
from .._result import Result, Status, warn_not_converged

LOSSES = ("l2", "l1")
PARAMS = ("asymmetric", "symmetric")
_COLUMNS = {"err": ".3e", "value": ".3e", "step": ".2e"}
_AIM = 0.99  # of `tol`, so that rounding in the final recomputation does not undo a success
_BLOCK_BYTES = 1 << 19  # of dense A handled at once: used twice while it is in the cache
_STEP = 0.4  # l2, in units of 1 / (restricted norm of the map * sigma_1): stable below about 0.8
_SCALED_STEP = 0.8  # l2 with preconditioning, in units of 1 / restricted norm of the map
_SCALED_DAMPING = 0.3  # l2, of the preconditioner per unit of relative residual, in units of sigma_1
_ALPHA = 0.2  # l2, in units of sqrt(sigma_1): large enough to leave zero soon, small enough to be generic
_SPLIT = 1.0 / 3.0  # norm of the second factor over the first at the start; equal ones converge sublinearly
_FIX_BELOW = 0.1  # relative residual at which the one-step modification is made
_FIX_SCALE = 0.7  # singular values of F after it, in units of sqrt(sigma_1)
_RECOVERY = 1.1  # on a halved l2 step with every accepted iterate
_HALVINGS = 40  # of the l2 step, one after the other, before rounding is blamed
_L1_STEP = 0.3  # l1, relative change of the factors in a step
_L1_ALPHA = 1e-12  # l1, in units of sqrt(||X||_F): the error left by surplus columns is of this order
_L1_DECAY = 0.985  # l1 without preconditioning, factor on the step per iteration after the escape
_PROGRESS = 1e-3  # l1, relative change that counts as progress
_ESCAPE_PATIENCE = 5  # l1, iterations without growth of the factors that end the escape
_PATIENCE, _HALVING_PERIOD = 200, 50  # l1, iterations without progress before a first and a further halving
_SHORTEST = 1e-3  # l1, multiple of the self-tuned step below which noise is blamed
_NORM_STEPS = 8  # Lanczos steps for the length of a subgradient


class SensingResult(Result):
    """Low-rank solution of a set of linear measurements.

    Attributes
    ----------
    F, G : array of shape (n1, k), (n2, k)
        ``X = F @ G.T``. Balanced: F^T F = G^T G = diag(s). With ``psd=True`` F is G is `U`.
    U : array of shape (n, k) or None
        With ``psd=True``: ``X = U @ U.T``.
    s : array of shape (k,)
        Singular values of X, descending, float64.
    value : float
        The loss at the returned factors: ``0.5 * ||A(X) - y||_2^2`` or the mean of ``|A(X) - y|``.
    err : float
        Certificate, recomputed from the returned factors. l2: ``||A(X) - y||_2 / ||y||_2``; l1: the median of
        ``|A(X) - y|`` over the median of ``|y|`` (over its mean where that is zero).
    relative_residual, mean_absolute_residual : float
        ``||A(X) - y||_2 / ||y||_2`` and the mean of ``|A(X) - y|``, whatever the loss.
    nit : int
        Steps, rejected ones included.
    n_rejected : int
        l2: steps undone because the loss had grown.
    success, status, message : bool, Status, str
        ``success`` only if `err` is within `tol`.
    param : {"asymmetric", "symmetric"}
        What ``param=None`` ended up using.
    history : dict of ndarray
        ``err``, ``value``, ``step`` and ``time`` of every accepted iterate, the start first.
    time : float
        Wall seconds of the whole call.
    """

    F: Any
    G: Any
    U: Any
    s: Any
    value: float
    err: float
    relative_residual: float
    mean_absolute_residual: float
    nit: int
    n_rejected: int
    success: bool
    status: Status
    message: str
    param: str
    history: dict[str, np.ndarray]
    time: float

    def to_dense(self) -> Any:
        """X as an array of shape (n1, n2)."""
        return self.F @ self.G.T


# ---------------------------------------------------------------------------------------------- the map A


class _Outer:
    """``sum_l r_l  l_l r_l^T`` = L^T diag(r) R, applied without being formed."""

    def __init__(self, L: Any, r: Any, R: Any) -> None:
        self.L, self.r, self.R = L, r, R

    def __matmul__(self, V: Any) -> Any:
        W = self.R @ V.astype(self.R.dtype, copy=False)
        return (self.L.T @ (self.r[:, None] * W if W.ndim == 2 else self.r * W)).astype(np.float64)

    @property
    def T(self) -> _Outer:
        """The transpose."""
        return _Outer(self.R, self.r, self.L)


class _Map:
    """The measurements and their adjoint, both multiplied by `gain`; factors and residuals are float64."""

    def __init__(self, xp: Any, m: int, shape: tuple[int, int], dtype: Any) -> None:
        self.xp, self.m, self.shape, self.dtype = xp, m, shape, np.dtype(dtype)
        self.gain = 1.0

    def energy(self, rng: np.random.Generator) -> float:
        """``||A||_F^2 / (n1 n2)``, the mean square amplification of a matrix without structure."""
        raise NotImplementedError

    def measure(self, F: Any, G: Any, *, exact: bool = False) -> Any:
        """``gain * A(F G^T)``, in float64 throughout if `exact`."""
        raise NotImplementedError

    def adjoint(self, r: Any) -> Any:
        """``D = gain * sum_l r_l A_l``: something with ``D @ V`` and ``D.T @ V``."""
        raise NotImplementedError

    def gradients(self, F: Any, G: Any, y: Any, weigh: Callable[[Any], Any]) -> tuple[Any, Any, Any, Any]:
        """Residual ``r = A(F G^T) - y``, ``D G``, ``D^T F`` and ``D``, the adjoint of ``weigh(r)``."""
        r = self.measure(F, G) - y
        D = self.adjoint(weigh(r))
        return r, D @ G, D.T @ F, D


class _DenseMap(_Map):
    """A as an array of shape (m, n1 n2)."""

    def __init__(self, xp: Any, A: Any, shape: tuple[int, int]) -> None:
        super().__init__(xp, A.shape[0], shape, A.dtype)
        self.A = A
        rows = _BLOCK_BYTES // (A.shape[1] * A.dtype.itemsize)
        # Launches, not traffic, are what blocks would cost a GPU.
        self.rows = self.m if xp is not np else max(16, rows)

    def _blocks(self) -> list[slice]:
        return [slice(s, s + self.rows) for s in range(0, self.m, self.rows)]

    def energy(self, rng: np.random.Generator) -> float:
        total = sum(float(self.xp.linalg.norm(self.A[b].astype(np.float64))) ** 2 for b in self._blocks())
        return total / self.A.shape[1]

    def measure(self, F: Any, G: Any, *, exact: bool = False) -> Any:
        x = (F @ G.T).ravel()
        if exact and self.dtype != np.float64:
            return self.gain * self.xp.concatenate([self.A[b].astype(np.float64) @ x for b in self._blocks()])
        return self.gain * (self.A @ x.astype(self.dtype, copy=False)).astype(np.float64, copy=False)

    def adjoint(self, r: Any) -> Any:
        D = (self.gain * r).astype(self.dtype, copy=False) @ self.A
        return D.reshape(self.shape).astype(np.float64, copy=False)

    def gradients(self, F: Any, G: Any, y: Any, weigh: Callable[[Any], Any]) -> tuple[Any, Any, Any, Any]:
        # One pass over A: every block of rows serves both products while it is in the cache.
        xp = self.xp
        x = (self.gain * (F @ G.T)).ravel().astype(self.dtype, copy=False)
        r, D = xp.empty(self.m), xp.zeros(self.A.shape[1])
        for b in self._blocks():
            A = self.A[b]
            r[b] = A @ x - y[b]
            D += weigh(r[b]).astype(self.dtype, copy=False) @ A
        D = self.gain * D.reshape(self.shape)
        return r, D @ G, D.T @ F, D


class _PairMap(_Map):
    """A_l = l_l r_l^T, given by arrays L (m, n1) and R (m, n2)."""

    def __init__(self, xp: Any, L: Any, R: Any) -> None:
        super().__init__(xp, L.shape[0], (L.shape[1], R.shape[1]), L.dtype)
        self.L, self.R = L, R

    def energy(self, rng: np.random.Generator) -> float:
        left = self.xp.einsum("ij,ij->i", self.L, self.L, dtype=np.float64)
        right = self.xp.einsum("ij,ij->i", self.R, self.R, dtype=np.float64)
        return float(left @ right) / (self.shape[0] * self.shape[1])

    def _products(self, F: Any, G: Any) -> tuple[Any, Any]:
        left = self.L @ F.astype(self.dtype, copy=False)
        same = F is G and self.L is self.R
        return left, left if same else self.R @ G.astype(self.dtype, copy=False)

    def measure(self, F: Any, G: Any, *, exact: bool = False) -> Any:
        if exact and self.dtype != np.float64:
            rows = max(1, _BLOCK_BYTES // (8 * sum(self.shape)))
            parts = []
            for s in range(0, self.m, rows):
                left = self.L[s : s + rows].astype(np.float64) @ F
                parts.append(self.xp.sum(left * (self.R[s : s + rows].astype(np.float64) @ G), axis=1))
            return self.gain * self.xp.concatenate(parts)
        left, right = self._products(F, G)
        return self.gain * self.xp.sum(left * right, axis=1, dtype=np.float64)

    def adjoint(self, r: Any) -> Any:
        return _Outer(self.L, (self.gain * r).astype(self.dtype, copy=False), self.R)

    def gradients(self, F: Any, G: Any, y: Any, weigh: Callable[[Any], Any]) -> tuple[Any, Any, Any, Any]:
        # L F and R G of the measurements are the inner halves of D^T F and D G: 4 products, not 6.
        left, right = self._products(F, G)
        r = self.gain * self.xp.sum(left * right, axis=1, dtype=np.float64) - y
        D = self.adjoint(weigh(r))
        w = D.r[:, None]
        DG = (self.L.T @ (w * right)).astype(np.float64, copy=False)
        same = left is right
        return r, DG, DG if same else (self.R.T @ (w * left)).astype(np.float64, copy=False), D


class _OperatorMap(_Map):
    """A as a LinearOperator of shape (m, n1 n2)."""

    _PROBES = 8

    def __init__(self, xp: Any, A: Any, shape: tuple[int, int], dtype: Any) -> None:
        super().__init__(xp, A.shape[0], shape, dtype)
        self.A = A

    def _apply(self, product: Callable[[Any], Any], v: Any, length: int, name: str) -> Any:
        out = self.xp.asarray(product(v.astype(self.dtype, copy=False)))
        if out.shape != (length,):
            raise ValueError(f"`A.{name}` returned shape {tuple(out.shape)}; ({length},) is needed")
        return out.astype(np.float64, copy=False)

    def energy(self, rng: np.random.Generator) -> float:
        # Mean of ||A z||^2 over random signs z, whose expectation is ||A||_F^2.
        N = self.shape[0] * self.shape[1]
        signs = [self.xp.asarray(rng.choice([-1.0, 1.0], N)) for _ in range(self._PROBES)]
        norms = [float(self.xp.linalg.norm(self._apply(self.A.matvec, z, self.m, "matvec"))) for z in signs]
        return float(np.mean(np.square(norms))) / N

    def measure(self, F: Any, G: Any, *, exact: bool = False) -> Any:
        return self.gain * self._apply(self.A.matvec, (F @ G.T).ravel(), self.m, "matvec")

    def adjoint(self, r: Any) -> Any:
        N = self.shape[0] * self.shape[1]
        return self._apply(self.A.rmatvec, self.gain * r, N, "rmatvec").reshape(self.shape)


def _as_map(backend: _dispatch.Backend, A: Any, shape: Any, psd: bool) -> _Map:
    xp = backend.xp
    if isinstance(A, tuple | list) and len(A) == 2 and all(getattr(q, "ndim", 0) == 2 for q in A):
        L, R = (_validate.as_float_array(f"A[{i}]", backend.take("A", q), xp=xp) for i, q in enumerate(A))
        _validate.check_shape("A[1]", R, (L.shape[0], None), why="one row per measurement, as in `A[0]`")
        dtype = np.result_type(L, R)
        same = A[0] is A[1]
        L = L.astype(dtype, copy=False)
        found: _Map = _PairMap(xp, L, L if same else R.astype(dtype, copy=False))
        n1, n2 = found.shape
        wanted = _as_shape(shape, n1 * n2, psd, known=(n1, n2))
        if wanted != (n1, n2):
            raise ValueError(f"`shape` is {wanted}, but the pair `A` measures matrices of shape {(n1, n2)}")
    elif hasattr(A, "matvec") and hasattr(A, "rmatvec") and hasattr(A, "shape"):
        if len(A.shape) != 2:
            raise ValueError(f"`A` has shape {tuple(A.shape)}; (m, n1 * n2) is needed")
        dtype = np.dtype(A.dtype) if A.dtype is not None else np.dtype(np.float64)
        if dtype.kind not in "fiub":
            raise TypeError(f"`A` is an operator of dtype {dtype}; a real one is needed")
        single = dtype.kind == "f" and dtype.itemsize <= 4
        found = _OperatorMap(
            xp, A, _as_shape(shape, int(A.shape[1]), psd), np.float32 if single else np.float64
        )
    elif hasattr(A, "tocsr") and hasattr(A, "nnz"):
        raise TypeError(
            f"`A` is a sparse matrix of shape {tuple(A.shape)}; pass scipy.sparse.linalg.aslinearoperator(A)"
        )
    else:
        dense = _validate.as_float_array("A", backend.take("A", A), ndim=2, xp=xp)
        found = _DenseMap(xp, dense, _as_shape(shape, dense.shape[1], psd))
    if found.m == 0 or 0 in found.shape:
        raise ValueError(
            f"`A` has shape {(found.m, math.prod(found.shape))}: {found.m} measurements of matrices of shape "
            f"{found.shape}; neither may be empty"
        )
    if psd and found.shape[0] != found.shape[1]:
        raise ValueError(f"`psd` needs a square matrix; `shape` is {found.shape}")
    return found


def _as_shape(shape: Any, columns: int, psd: bool, known: tuple[int, int] | None = None) -> tuple[int, int]:
    if shape is None:
        if known is not None:
            return known
        n = math.isqrt(columns)
        if psd and n * n == columns:
            return n, n
        raise ValueError(f"`shape` is None; give the (n1, n2) of the matrix: `A` has {columns} columns")
    try:
        pair = tuple(shape)
    except TypeError:
        raise TypeError(f"`shape` must be a pair (n1, n2), not {shape!r}") from None
    if len(pair) != 2:
        raise ValueError(f"`shape` is {pair}; a pair (n1, n2) is needed")
    n1, n2 = (_validate.integer("shape", n, minimum=1) for n in pair)
    if known is None and n1 * n2 != columns:
        raise ValueError(f"`A` has {columns} columns; `shape` {(n1, n2)} needs n1 * n2 = {n1 * n2}")
    return n1, n2


# ------------------------------------------------------------------------------------- small dense pieces


def _times(D: Any, V: Any, symmetric: bool) -> Any:
    return 0.5 * (D @ V + D.T @ V) if symmetric else D @ V


def _truncate(xp: Any, D: Any, shape: tuple[int, int], k: int, symmetric: bool, rng: Any) -> Any:
    """Leading k singular triplets of D, or of its symmetric part the positive eigenpairs, zero-padded.

    Randomised with two power steps; exact where 2 k + 10 columns are all that there are.
    """
    n1, n2 = shape
    columns = min(n1, n2, 2 * k + 10)
    Q = xp.asarray(rng.standard_normal((n2, columns)))
    for _ in range(3):
        Q = xp.linalg.qr(_times(D, xp.linalg.qr(Q)[0], symmetric))[0]
        if not symmetric:
            left, Q = Q, D.T @ Q
    if symmetric:
        C = Q.T @ _times(D, Q, True)
        w, E = xp.linalg.eigh(0.5 * (C + C.T))
        w, E = xp.maximum(w[::-1][:k], 0.0), E[:, ::-1][:, :k]
        return Q @ E, w, Q @ E
    V, s, Wt = xp.linalg.svd(Q, full_matrices=False)  # D^T left = V s Wt
    return left @ Wt.T[:, :k], s[:k], V[:, :k]


def _norm2(xp: Any, D: Any, v: Any, symmetric: bool) -> tuple[float, Any]:
    """Estimate from below of ``||D||_2`` (or of its symmetric part), and the vector that attains it.

    Golub-Kahan-Lanczos with full reorthogonalisation, O(steps) products with a vector.
    """
    V: list[Any] = [v / xp.linalg.norm(v)]
    U: list[Any] = []
    alphas: list[float] = []
    betas: list[float] = []
    for _ in range(min(_NORM_STEPS, v.shape[0])):
        u = _times(D, V[-1], symmetric)
        for q in U:
            u = u - (q @ u) * q
        alpha = float(xp.linalg.norm(u))
        if alpha == 0.0:
            break
        alphas.append(alpha)
        U.append(u / alpha)
        w = _times(D.T, U[-1], symmetric)
        for q in V:
            w = w - (q @ w) * q
        beta = float(xp.linalg.norm(w))
        if beta <= 1e-14 * max(alphas):
            break
        betas.append(beta)
        V.append(w / beta)
    if not alphas:
        return 0.0, v
    j = len(alphas)
    B = np.diag(alphas) + np.diag(betas[: j - 1], 1)
    _, s, Wt = np.linalg.svd(B)
    top = sum(float(c) * q for c, q in zip(Wt[0], V[:j], strict=True))
    return float(s[0]), top


def _balance(xp: Any, F: Any, G: Any) -> tuple[Any, Any, Any]:
    """F', G', s with F' G'^T = F G^T and F'^T F' = G'^T G' = diag(s)."""
    Qf, Rf = xp.linalg.qr(F)
    Qg, Rg = xp.linalg.qr(G)
    u, s, vt = xp.linalg.svd(Rf @ Rg.T)
    root = xp.sqrt(s)
    return (Qf @ u) * root, (Qg @ vt.T) * root, s


def _positive_part(xp: Any, F: Any, G: Any) -> Any:
    """U with U U^T the nearest PSD matrix of rank <= k to the symmetric part of F G^T."""
    k = F.shape[1]
    Q = xp.linalg.qr(xp.concatenate([F, G], axis=1))[0]
    C = (Q.T @ F) @ (Q.T @ G).T
    w, E = xp.linalg.eigh(0.5 * (C + C.T))
    return (Q @ E[:, ::-1][:, :k]) * xp.sqrt(xp.maximum(w[::-1][:k], 0.0))


# -------------------------------------------------------------------------------------------- the descents


class _Problem:
    """Map, data and bookkeeping of one call, in units where the map is isotropic and X of size one."""

    def __init__(self, A: _Map, y: Any, loss: str, tol: float, maxiter: int, monitor: Monitor) -> None:
        self.A, self.y, self.loss, self.xp = A, y, loss, A.xp
        self.aim, self.maxiter, self.monitor = _AIM * tol, maxiter, monitor
        self.start = time.perf_counter()
        self.unit = 1.0  # of X; values are reported in the caller's units
        self.value_unit = 1.0
        self.nit = self.n_rejected = 0
        self.history: dict[str, list[float]] = {"err": [], "value": [], "step": [], "time": []}

    def certificate(self, r: Any) -> tuple[float, float]:
        """Error and loss of a residual in the units of `y`."""
        return _error(self.xp, r, self.y, self.loss), _value(self.xp, r, self.loss)

    def report(self, err: float, value: float, step: float, F: Any, G: Any) -> bool:
        """Record an accepted iterate; True if the callback asks to stop."""
        row = {"err": err, "value": value * self.value_unit, "step": step}
        row["time"] = time.perf_counter() - self.start
        for name, column in self.history.items():
            column.append(row[name])
        if self.monitor.silent:
            return False
        root = math.sqrt(self.unit)
        return self.monitor({**row, "F": root * F, "G": root * G})


def _error(xp: Any, r: Any, y: Any, loss: str) -> float:
    top = float(xp.max(xp.abs(y)))
    if loss == "l2":
        return float(xp.linalg.norm(r / top) / xp.linalg.norm(y / top))
    reference = float(xp.median(xp.abs(y)))
    return float(xp.median(xp.abs(r))) / (reference if reference > 0 else float(xp.mean(xp.abs(y))))


def _value(xp: Any, r: Any, loss: str) -> float:
    return 0.5 * float(r @ r) if loss == "l2" else float(xp.mean(xp.abs(r)))


def _one_step_modification(xp: Any, F: Any, G: Any) -> tuple[Any, Any]:
    """F <- beta A, G <- G B S / beta for F = A S B^T: the product stays, F becomes well conditioned."""
    a, s, bt = xp.linalg.svd(F, full_matrices=False)
    return _FIX_SCALE * a, (G @ bt.T) * (s / _FIX_SCALE)


def _precondition(xp: Any, F: Any, G: Any, gF: Any, gG: Any, damping: float) -> tuple[Any, Any]:
    """gF (G^T G + damping I)^-1 and gG (F^T F + damping I)^-1, O((n1 + n2) k^2 + k^3)."""
    shift = max(damping, 1e-15) * xp.eye(F.shape[1])  # 1e-15: surplus columns may vanish with the residual
    left = xp.linalg.solve(G.T @ G + shift, gF.T).T
    return left, left if F is G else xp.linalg.solve(F.T @ F + shift, gG.T).T


def _identity(r: Any) -> Any:
    return r


def _gradient_descent(
    p: _Problem, F: Any, G: Any, step: float, *, fix: bool, scaled: bool
) -> tuple[Any, Any, Status]:
    """Gradient steps on 0.5 ||A(F G^T) - y||^2; a step that raises it is undone and halved.

    F is G: symmetric, U U^T with the mean of both gradients. `scaled`: preconditioned by the other factor's
    Gram matrix, damped by the residual; `fix`: one-step modification.
    """
    xp, A, symmetric = p.xp, p.A, F is G
    still = 1e-9 if A.dtype == np.float64 else 1e-5
    accepted: Any = None  # loss, F, G, gradients of the last accepted iterate
    halvings, longest = 0, step
    while True:
        with np.errstate(over="ignore", invalid="ignore"):  # a rejected trial may be anything
            r, gF, gG, D = A.gradients(F, G, p.y, _identity)
            err, value = p.certificate(r)
        grown = accepted is not None and not value <= accepted[0]
        if not math.isfinite(value) and accepted is None:
            return F, G, Status.NONFINITE
        if grown:
            p.n_rejected += 1
            halvings += 1
            _, F, G, gF, gG = accepted
            step *= 0.5
            if halvings > _HALVINGS:
                return F, G, Status.STAGNATED
        else:
            halvings, step = 0, min(longest, _RECOVERY * step)
            if symmetric:
                gF = gG = 0.5 * (gF + gG)
            if p.report(err, value, step, F, G):
                return F, G, Status.STOPPED_BY_CALLBACK
            if err <= p.aim:
                return F, G, Status.CONVERGED
            if fix and err < _FIX_BELOW:
                F, G = _one_step_modification(xp, F, G)
                fix, gF, gG = False, D @ G, D.T @ F
            length = math.hypot(float(xp.linalg.norm(gF)), float(xp.linalg.norm(gG)))
            size = float(xp.linalg.norm(F)) + float(xp.linalg.norm(G))
            # First-order stationary relative to the residual: what is left cannot be fitted.
            if length <= still * float(xp.linalg.norm(r)) * size:
                return F, G, Status.STAGNATED
            if scaled:
                gF, gG = _precondition(xp, F, G, gF, gG, _SCALED_DAMPING * err)
            accepted = (value * (1 + 1e-14), F, G, gF, gG)
        if p.nit == p.maxiter:
            return F, G, Status.MAX_ITERATIONS
        p.nit += 1
        if symmetric:
            F = G = F - step * gF
        else:
            F, G = F - step * gF, G - step * gG


def _subgradient_method(
    p: _Problem, F: Any, G: Any, step: float, decay: float | None, rng: np.random.Generator
) -> tuple[Any, Any, Status]:
    """Normalised subgradient steps on the mean of |A(F G^T) - y|, growing out of a start near zero.

    With `decay` the published method: the step is kept until the factors have stopped growing, then shrinks
    by `decay` in every iteration. Without, preconditioned steps in proportion to the median residual, which
    measures the distance to go; where noise keeps that from falling they are halved.
    """
    xp, A, symmetric = p.xp, p.A, F is G
    top = xp.asarray(rng.standard_normal(A.shape[1]))
    escaping, largest, since, part = True, 0.0, 0, 1.0
    kept: Any = (math.inf, F, G)
    while True:
        r, gF, gG, D = A.gradients(F, G, p.y, xp.sign)
        err, value = p.certificate(r)
        if not math.isfinite(value):
            return F, G, Status.NONFINITE
        length_of_step = step if decay is not None else part * step * min(1.0, err)
        stop = p.report(err, value, length_of_step, F, G)
        if err <= p.aim:
            return F, G, Status.CONVERGED
        since += 1
        size = float(xp.sum(F * F) + xp.sum(G * G))
        if escaping and size > largest * (1 + _PROGRESS):
            largest, since = size, 0
        elif escaping and since >= _ESCAPE_PATIENCE:
            escaping, since = False, 0
        elif decay is not None and not escaping:
            step *= decay
        elif value < kept[0] * (1 - _PROGRESS):
            since = 0
        elif since >= _PATIENCE:
            part, since = 0.5 * part, _PATIENCE - _HALVING_PERIOD
        if value < kept[0]:
            kept = (value, F, G)
        if stop:
            return kept[1], kept[2], Status.STOPPED_BY_CALLBACK
        if part < _SHORTEST or step < max(1e-2 * p.aim, 1e-15):
            return kept[1], kept[2], Status.STAGNATED
        if p.nit == p.maxiter:
            return kept[1], kept[2], Status.MAX_ITERATIONS
        noise = xp.asarray(rng.standard_normal(A.shape[1]))
        norm, top = _norm2(xp, D, top + 0.1 / math.sqrt(len(noise)) * noise, symmetric)
        if norm == 0.0 or size == 0.0:
            return kept[1], kept[2], Status.STAGNATED
        p.nit += 1
        if symmetric:
            gF = gG = 0.5 * (gF + gG)
        if decay is None:
            gF, gG = _precondition(xp, F, G, gF, gG, err)
        if symmetric:
            F = G = F - (length_of_step / norm) * gF
        else:
            F, G = F - (length_of_step / norm) * gF, G - (length_of_step / norm) * gG


# --------------------------------------------------------------------------------------- the public function


def _scales(A: _Map, y: Any, k: int, symmetric: bool, rng: np.random.Generator) -> tuple[float, float]:
    """sigma_1 of the best multiple of the back-projection, and the map's norm squared on rank k.

    Power steps on A*A, each truncated to rank k: what the full norm would bound, but (for m < n1 n2) several
    times smaller.
    """
    xp = A.xp
    sigma, norm = 0.0, 0.0
    r = y
    for sweep in range(3):
        u, s, v = _truncate(xp, A.adjoint(r), A.shape, k, symmetric, rng)
        size = float(xp.linalg.norm(s))
        if size == 0.0:
            break
        s = s / size
        r = A.measure(u * s, v)
        amplified = float(r @ r)
        if sweep == 0 and amplified > 0:
            sigma = max(0.0, float(r @ y)) / amplified * float(s[0])
        norm = max(norm, amplified)
    # An isometry would have ||X||_F = ||y||: for data that no positive multiple explains.
    return sigma or float(xp.linalg.norm(y)), norm or 1.0


def matrix_sensing(
    A: Any,
    y: Any,
    rank: int,
    *,
    shape: tuple[int, int] | None = None,
    psd: bool = False,
    loss: str = "l2",
    param: str | None = None,
    alpha: float | None = None,
    step: float | None = None,
    decay: float | None = None,
    step_fix: bool = True,
    precondition: bool = True,
    tol: float | None = None,
    maxiter: int | None = None,
    rng: Any = None,
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
) -> SensingResult:
    """Recover a low-rank matrix X from linear measurements ``y_l = <A_l, X>``.

    The factors start near zero and grow; `rank` may be larger than the true one. ``loss="l2"`` fits all
    measurements by gradient descent [1]_; ``loss="l1"`` tolerates gross errors in a part of them by the
    normalised subgradient method [2]_. Both are preconditioned by the factors' own Gram matrices, damped in
    proportion to the residual, unless ``precondition=False`` asks for the published forms. Arrays of NumPy
    run on the CPU, of CuPy on their GPU; others that speak DLPack are used in place.

    Parameters
    ----------
    A : array of shape (m, n1 * n2), LinearOperator of that shape, or pair of arrays (m, n1), (m, n2)
        Row l is A_l in C order; an operator needs ``matvec`` and ``rmatvec``; a pair (L, R) stands for the
        rank-one ``A_l = outer(L[l], R[l])`` and is never multiplied out. float32 or float64.
    y : array_like of shape (m,)
        Measurements.
    rank : int
        Columns k of the factors, 1 <= k <= min(n1, n2).
    shape : (n1, n2), optional
        Shape of X. May be left out for a pair and, with `psd`, for a square X.
    psd : bool, default False
        X is symmetric positive semidefinite: returned as ``U @ U.T``.
    loss : {"l2", "l1"}
        ``0.5 * ||A(X) - y||_2^2`` or the mean of ``|A(X) - y|``.
    param : {"asymmetric", "symmetric"}, optional
        What is iterated on: ``F G^T``, or ``U U^T`` (with `psd` only; its default). For l2 with `psd`,
        "asymmetric" finds F G^T and projects it. Without preconditioning and with `rank` above the true one
        the symmetric form converges like 1/t. l1 without `psd` is outside the theory of [2]_; it is measured
        in the docs.
    alpha : float, optional
        Size of the start in units of the root of X's estimated size. Default 0.2 (l2), 1e-12 (l1).
    step : float, optional
        l2: step for a map with ``||A(X)|| = ||X||_F`` on average, without preconditioning in units of
        1 / sigma_1; default 0.8 (0.4) over the map's norm squared on matrices of rank k. A step that raises
        the loss is undone and halved. l1: relative change of the factors per step, default 0.3; with
        preconditioning this times ``min(1, err)``.
    decay : float, optional
        l1 with ``precondition=False``: factor on the step in every iteration, once the factors have stopped
        growing. Default 0.985.
    step_fix : bool, default True
        Asymmetric l2 with ``precondition=False``: make F orthogonal once, when the relative residual falls
        below 0.1; afterwards the rate does not depend on `alpha`.
    precondition : bool, default True
        Multiply the gradient for F by ``(G^T G + c err I)^-1`` and vice versa: rates that depend neither on
        the condition of X nor on surplus columns. False: the algorithms as published.
    tol : float, optional
        Bound on ``err``. l2: ``||A(X) - y||_2 <= tol * ||y||_2``, default 1e-8 (float32: 1e-5); with noisy
        data set it to the noise level. l1: median of ``|A(X) - y|`` <= tol * median of ``|y|``, that is,
        at least half of the measurements are met; default 1e-6 (float32: 1e-5).
    maxiter : int, optional
        Steps, default 5000.
    rng : None, int, SeedSequence or Generator
        Random start (l2) and sketches.
    callback : callable, optional
        ``callback(intermediate_result)`` for every accepted iterate, with ``nit, err, value, step, time`` and
        the unbalanced factors ``F, G``. Raise StopIteration to stop.
    verbose : int
        1: one line per iterate to the logger "aitken".
    progress : bool
        Show a tqdm bar, where tqdm is installed.

    Returns
    -------
    SensingResult
        See there for the fields. float32 if `A` and `y` are. A small ``err`` says that the measurements are
        met, not that X is the matrix behind them: that takes enough measurements, several times
        ``rank * (n1 + n2)``.

    Raises
    ------
    TypeError
        Complex, sparse or object data, arguments on different devices, a wrong kind of option.
    ValueError
        Shapes that do not fit, no measurements, NaN or Inf, `rank` out of range, `psd` with a matrix that is
        not square, ``param="symmetric"`` without `psd`, ``param="asymmetric"`` with `psd` and l1, `decay`
        with l2 or preconditioning, an `A` that is zero or overflows when squared, an unknown option.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; the message has the error and one piece of advice.

    Notes
    -----
    Dense products are BLAS's, whose bits may follow its number of threads.

    References
    ----------
    .. [1] N. Xiong, L. Ding, S. S. Du, "How Over-Parameterization Slows Down Gradient Descent in Matrix
           Sensing: The Curses of Symmetry and Initialization", ICLR 2024.
    .. [2] J. Ma, S. Fattahi, "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small
           Initialization, Noisy Measurements, and Over-parameterization", JMLR 24, 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.completion import matrix_sensing
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 30))
    >>> A = rng.standard_normal((600, 600))
    >>> r = matrix_sensing(A, A @ X.ravel(), 4, shape=X.shape, rng=0)
    >>> r.success, bool(np.linalg.norm(r.to_dense() - X) < 1e-6 * np.linalg.norm(X))
    (True, True)
    """
    start = time.perf_counter()
    pair = isinstance(A, tuple | list) and len(A) == 2
    backend = _dispatch.select(**({"A[0]": A[0], "A[1]": A[1]} if pair else _arrays(A)), y=y)
    xp = backend.xp
    _validate.boolean("psd", psd)
    _validate.choice("loss", loss, LOSSES)
    _validate.choice("param", param, (None, *PARAMS))
    _validate.boolean("step_fix", step_fix)
    _validate.boolean("precondition", precondition)
    _validate.callback("callback", callback)
    if param == "symmetric" and not psd:
        raise ValueError("`param` 'symmetric' iterates on U U^T, which is PSD: it needs `psd` True")
    if param == "asymmetric" and psd and loss == "l1":
        raise ValueError(
            "`param` 'asymmetric' with `psd` and `loss` 'l1': unequal factors gain nothing under normalised "
            "steps, and projecting their product onto PSD matrices would undo the fit; use 'symmetric'"
        )
    if decay is not None and loss == "l2":
        raise ValueError(f"`decay` is {decay!r}, but gradient descent (`loss` 'l2') keeps its step")
    if decay is not None and precondition:
        raise ValueError(f"`decay` is {decay!r}; it belongs to the method with `precondition` False")
    param = param or ("symmetric" if psd else "asymmetric")

    amap = _as_map(backend, A, shape, psd)
    data = _validate.as_float_array("y", backend.take("y", y), ndim=1, xp=xp)
    if data.shape[0] == 0:
        raise ValueError(f"`y` has shape {tuple(data.shape)}; at least one measurement is needed")
    if data.shape[0] != amap.m:
        raise ValueError(f"`y` has shape {tuple(data.shape)}; `A` makes {amap.m} measurements")
    single = data.dtype == np.float32 and amap.dtype == np.float32
    k = _validate.integer("rank", rank, minimum=1)
    if k > min(amap.shape):
        raise ValueError(f"`rank` must be <= min(shape) = {min(amap.shape)}; got {k}")
    if alpha is not None:
        alpha = _validate.positive_scalar("alpha", alpha)
    if step is not None:
        step = _validate.positive_scalar("step", step)
    if decay is not None:
        decay = _validate.real_scalar(
            "decay", decay, minimum=0.0, maximum=1.0, open_minimum=True, open_maximum=True
        )
    tight = 1e-8 if loss == "l2" else 1e-6
    tol = (1e-5 if single else tight) if tol is None else _validate.tolerance("tol", tol)
    maxiter = 5000 if maxiter is None else _validate.integer("maxiter", maxiter, minimum=0)
    generator = np.random.default_rng(_validate.rng_seed(rng))
    verbose = _validate.integer("verbose", verbose)
    _validate.boolean("progress", progress)

    monitor = Monitor("matrix_sensing", callback, verbose, progress, max(tol, 1e-16), _COLUMNS)
    p = _Problem(amap, data.astype(np.float64), loss, tol, maxiter, monitor)
    converged = False
    try:
        F, G, s, status = _solve(p, k, psd, param, alpha, step, decay, step_fix, precondition, generator)
        result = _finish(p, backend, data, F, G, s, psd, np.float32 if single else np.float64)
        if status == Status.CONVERGED and not result.err <= tol:
            status = Status.STAGNATED
        elif result.err <= tol and status != Status.STOPPED_BY_CALLBACK:
            status = Status.CONVERGED
        converged = status == Status.CONVERGED
    finally:
        monitor.close(converged=converged)
    quantity = "relative residual (2-norm)" if loss == "l2" else "median absolute residual over that of `y`"
    result.status, result.success, result.param = status, converged, param
    result.message = f"{status.message}; {quantity} {result.err:.2e}, tolerance {tol:.2e}"
    result.time = time.perf_counter() - start
    warn_not_converged(result, solver="matrix_sensing", quantity=quantity, error=result.err, target=tol)
    return result


def _arrays(A: Any) -> dict[str, Any]:
    """What decides the device: an operator stands for none."""
    return {} if hasattr(A, "matvec") else {"A": A}


def _solve(
    p: _Problem,
    k: int,
    psd: bool,
    param: str,
    alpha: float | None,
    step: float | None,
    decay: float | None,
    step_fix: bool,
    precondition: bool,
    rng: np.random.Generator,
) -> tuple[Any, Any, Any, Status]:
    """Scale, start, descend, balance; the factors in the caller's units and their singular values."""
    xp, A, symmetric = p.xp, p.A, param == "symmetric"
    n1, n2 = A.shape
    with np.errstate(over="ignore", invalid="ignore"):
        energy = A.energy(rng)
    if not (math.isfinite(energy) and energy > 0.0):
        raise ValueError(f"`A` has mean square {energy / A.m}; it must be positive and finite, rescale it")
    if not bool(xp.any(p.y)):  # X = 0 meets every measurement
        F = xp.zeros((n1, k))
        G = F if psd else xp.zeros((n2, k))
        p.report(0.0, 0.0, 0.0, F, G)
        return F, G, xp.zeros(k), Status.CONVERGED
    A.gain = 1.0 / math.sqrt(energy)
    top = float(xp.max(xp.abs(p.y)))
    y = p.y / top
    if p.loss == "l2":
        unit, norm = _scales(A, y, k, psd, rng)
        step = (_SCALED_STEP if precondition else _STEP) / norm if step is None else step
    else:
        # The median of |N(0, s)| is 0.6745 s, and no minority of outliers moves it far.
        typical = float(xp.median(xp.abs(y))) or float(xp.mean(xp.abs(y)))
        unit = typical / 0.6745 * math.sqrt(A.m)
        step = _L1_STEP if step is None else step
        if not precondition and decay is None:
            decay = _L1_DECAY
    p.y = y / unit
    p.unit = unit * top * A.gain
    # Values are reported for y itself.
    p.value_unit = (unit * top) ** 2 if p.loss == "l2" else unit * top

    if p.loss == "l1":
        alpha = _L1_ALPHA if alpha is None else alpha
        u, s, v = _truncate(xp, A.adjoint(xp.sign(p.y)), A.shape, k, psd, rng)
        root = alpha * xp.sqrt(s / s[0]) if float(s[0]) > 0 else s
        F = u * root
        F, G, status = _subgradient_method(p, F, F if symmetric else v * root, step, decay, rng)
    else:
        alpha = _ALPHA if alpha is None else alpha
        F = xp.asarray(rng.standard_normal((n1, k)) * (alpha / math.sqrt(n1)))
        G = F
        if not symmetric:
            G = xp.asarray(rng.standard_normal((n2, k)) * (_SPLIT * alpha / math.sqrt(n2)))
        fix = step_fix and not symmetric and not precondition
        F, G, status = _gradient_descent(p, F, G, step, fix=fix, scaled=precondition)
    if psd and not symmetric:
        F = G = _positive_part(xp, F, G)
        if status == Status.CONVERGED and p.certificate(A.measure(F, F) - p.y)[0] > p.aim:
            # The measurements of the symmetric part alone left the product unsymmetric.
            F, G, status = _gradient_descent(p, F, F, step, fix=False, scaled=precondition)
    root = math.sqrt(p.unit)
    if psd:
        u, s, _ = xp.linalg.svd(F, full_matrices=False)
        F = root * (u * s)
        return F, F, p.unit * s**2, status
    F, G, s = _balance(xp, F, G)
    return root * F, root * G, p.unit * s, status


def _finish(
    p: _Problem, backend: _dispatch.Backend, y: Any, F: Any, G: Any, s: Any, psd: bool, dtype: Any
) -> SensingResult:
    """The result with its certificate, from the factors as they are returned and the data as given."""
    xp, A = p.xp, p.A
    F = F.astype(dtype, copy=False)
    G = F if psd else G.astype(dtype, copy=False)
    A.gain = 1.0
    data = y.astype(np.float64)
    F64 = F.astype(np.float64, copy=False)
    r = A.measure(F64, F64 if psd else G.astype(np.float64, copy=False), exact=True) - data
    zero = not bool(xp.any(data))
    result = SensingResult()
    result.F = backend.give(F)
    result.G = result.F if psd else backend.give(G)
    result.U = result.F if psd else None
    result.s = backend.give(s)
    result.value = _value(xp, r, p.loss)
    result.err = 0.0 if zero else _error(xp, r, data, p.loss)
    result.relative_residual = 0.0 if zero else _error(xp, r, data, "l2")
    result.mean_absolute_residual = _value(xp, r, "l1")
    result.nit, result.n_rejected = p.nit, p.n_rejected
    result.history = {name: np.array(column) for name, column in p.history.items()}
    return result


__all__ = ["SensingResult", "matrix_sensing"]
