"""NumPy oracle of matrix completion by alternating least squares: one row, one dense system at a time.

Entries m_ij of weight w_ij are fitted by ``<u_i, v_j> + a_i + b_j``. The problem of a row, the other factor
being fixed, is written down as equations ``A x = c`` with weights w and a ridge; `background` writes down
those of the unseen entries as well (target 0, weight 1). Nothing here is ours and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

Array = NDArray[Any]

TOLERANCE, FLOOR, HOLDOUT, SWEEPS, CALLBACK, NONFINITE = range(6)  # why a run ended
EPSILON = float(np.finfo(float).eps)


# ---------------------------------------------------------------------------------------------------- entries


@dataclass
class Entries:
    """Known entries in coordinate form; `weights` None means 1, and what weighs 0 is not there."""

    rows: Array
    cols: Array
    vals: Array
    shape: tuple[int, int]
    weights: Any = None

    def __post_init__(self) -> None:
        w = np.ones(len(self.vals)) if self.weights is None else np.asarray(self.weights, dtype=float)
        there = w > 0
        self.rows, self.cols = np.asarray(self.rows)[there], np.asarray(self.cols)[there]
        self.vals, self.weights = np.asarray(self.vals, dtype=float)[there], w[there]
        order = np.lexsort((self.cols, self.rows))
        self._order = order
        self._start = np.searchsorted(self.rows[order], np.arange(self.shape[0] + 1))

    @property
    def T(self) -> Entries:
        """The same with rows and columns exchanged."""
        return Entries(self.cols, self.rows, self.vals, self.shape[::-1], self.weights)

    def degrees(self) -> Array:
        """Entries of each row."""
        return np.diff(self._start)

    def row(self, i: int) -> tuple[Array, Array, Array]:
        """Columns, values and weights of the entries of row i, columns ascending."""
        some = self._order[self._start[i] : self._start[i + 1]]
        return self.cols[some], self.vals[some], self.weights[some]

    def dense(self, vals: Any = None) -> Array:
        """The matrix of the entries, or of other values in their places; 0 elsewhere."""
        M = np.zeros(self.shape)
        M[self.rows, self.cols] = self.vals if vals is None else vals
        return M


@dataclass
class Options:
    """How the problem of a row is posed and solved."""

    lam: float = 0.0
    lam_by_degree: bool = False
    bias: bool = False
    nonneg: bool = False
    background: bool = False
    loss: str = "linear"
    delta: float = 0.0
    inner: str = "exact"  # exact, cg, qcg, sketch, lowprec
    inner_maxiter: int = 3
    inner_tol: float = 0.03
    sketch_factor: int = 4


# ----------------------------------------------------------------------------------------------------- losses


def loss_values(r: Array, loss: str, delta: float) -> Array:
    """What stands for r^2."""
    size = np.abs(r)
    if loss == "linear":
        return size**2
    if loss == "huber":
        return np.where(size <= delta, size**2, 2 * delta * size - delta**2)
    if loss == "l1":
        return np.where(size >= delta, size, (size**2 / delta + delta) / 2)
    raise ValueError(loss)


def loss_weights(r: Array, loss: str, delta: float) -> Array:
    """Weights of the squares that touch the loss at r from above: its slope over ``2 r``."""
    size = np.abs(r)
    if loss == "linear":
        return np.ones_like(size)
    if loss == "huber":
        return delta / np.maximum(size, delta)
    if loss == "l1":
        return 0.5 / np.maximum(size, delta)
    raise ValueError(loss)


def automatic_delta(r: Array, loss: str) -> float:
    """From the median residual: 95 % efficiency for Gaussian noise (huber), a thousandth of it (l1)."""
    factor = 1.345 / 0.6745 if loss == "huber" else 1e-3
    return factor * float(np.median(np.abs(r)))


# ------------------------------------------------------------------------------------------------ one row


class Row(NamedTuple):
    """Equations ``A x = c`` with weights w and the ridge ``lam |x|^2``."""

    A: Array
    c: Array
    w: Array
    lam: float

    def gram(self) -> Array:
        """``A' W A + lam I``"""
        return self.A.T @ (self.w[:, None] * self.A) + self.lam * np.eye(self.A.shape[1])

    def rhs(self) -> Array:
        """``A' W c``"""
        return self.A.T @ (self.w * self.c)

    def residual(self, x: Array) -> Array:
        """Half of minus the gradient of the objective."""
        return self.A.T @ (self.w * (self.c - self.A @ x)) - self.lam * x

    def value(self, x: Array) -> float:
        """``sum w (c - A x)^2 + lam |x|^2``"""
        return float(self.w @ (self.c - self.A @ x) ** 2 + self.lam * (x @ x))

    def stacked(self) -> tuple[Array, Array]:
        """Matrix and right-hand side of the same as ordinary least squares."""
        k = self.A.shape[1]
        root = np.sqrt(self.w)
        return (
            np.vstack([root[:, None] * self.A, np.sqrt(self.lam) * np.eye(k)]),
            np.concatenate([root * self.c, np.zeros(k)]),
        )


def row_problem(seen: tuple[Array, Array, Array], V: Array, b: Array, x: Array, options: Options) -> Row:
    """The least-squares problem of one row; x is the row as it is, its bias, if any, behind it."""
    idx, vals, w = seen
    lam = options.lam * (len(idx) if options.lam_by_degree else 1)
    D = np.hstack([V, np.ones((len(V), 1))]) if options.bias else V
    A, c = D[idx], vals - b[idx]
    w = w * loss_weights(c - A @ x, options.loss, options.delta)
    if not options.background:
        return Row(A, c, w, lam)
    all_w, all_c = np.ones(len(V)), np.zeros(len(V))
    all_w[idx], all_c[idx] = w, c
    return Row(D, all_c, all_w, lam)


def exact(row: Row) -> Array:
    """Minimiser, of least norm where there are several."""
    return np.linalg.lstsq(*row.stacked(), rcond=None)[0]


def nonneg_brute(row: Row) -> Array:
    """Minimiser over x >= 0: the best of those, for each set of entries at 0, that are feasible."""
    k = row.A.shape[1]
    best, least = np.zeros(k), row.value(np.zeros(k))
    M, y = row.stacked()
    for free in product([False, True], repeat=k):
        some = np.flatnonzero(free)
        if len(some) == 0:
            continue
        x = np.zeros(k)
        x[some] = np.linalg.lstsq(M[:, some], y, rcond=None)[0]
        if (x >= 0).all() and row.value(x) < least:
            best, least = x, row.value(x)
    return best


def nonneg(row: Row) -> Array:
    """Minimiser over x >= 0 by SciPy's active sets on the stacked system."""
    return optimize.nnls(*row.stacked())[0]


def coordinate_descent(row: Row, x: Array, passes: int) -> Array:
    """Each entry of x >= 0 in turn to its best value, the others as they are."""
    G, h, x = row.gram(), row.rhs(), x.copy()
    for _ in range(passes):
        for r in range(len(x)):
            if G[r, r] > 0:
                x[r] = max(0.0, x[r] + (h[r] - G[r] @ x) / G[r, r])
    return x


def conjugate_gradients(
    row: Row, x: Array, maxiter: int, tol: float, apply: Callable[[Array], Array] | None = None
) -> tuple[Array, int]:
    """x after preconditioned CG from x, and steps: until ``|r| <= tol |r_0|``, at least one."""
    apply = apply or (lambda r: r)
    G, x, r = row.gram(), x.copy(), row.residual(x)
    z = apply(r)
    p, rz, first = z, r @ z, np.linalg.norm(r)
    for step in range(maxiter):
        q = G @ p
        if not (first > 0 and p @ q > 0):
            return x, step
        alpha = rz / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        if np.linalg.norm(r) <= tol * first:
            return x, step + 1
        z = apply(r)
        rz, old = r @ z, rz
        p = z + rz / old * p
    return x, maxiter


def count_sketch(A: Array, rows: int, rng: Any) -> Array:
    """Each row of A, with a random sign, added to one of `rows` rows at random: ``E B' B = A' A``."""
    B = np.zeros((rows, A.shape[1]))
    np.add.at(B, rng.integers(rows, size=len(A)), rng.choice([-1.0, 1.0], size=len(A))[:, None] * A)
    return B


def preconditioner(row: Row, kind: str, V: Array, factor: int = 4, rng: Any = None) -> Array | None:
    """Matrix whose inverse preconditions the CG of a row; None: none.

    `qcg`: the Gram matrix of the whole fixed factor V (with its column of ones, if any), scaled to the
    entries of the row; `sketch`: that of a CountSketch with `factor` rows per unknown, or the row's own where
    it has no more entries than that; `lowprec`: the row's own in single precision.
    """
    d, k = row.A.shape
    if kind == "cg":
        return None
    if kind == "qcg":
        return row.w.sum() / len(V) * (V.T @ V) + row.lam * np.eye(k)
    if kind == "lowprec":
        A = (np.sqrt(row.w)[:, None] * row.A).astype(np.float32)
        return (A.T @ A).astype(float) + row.lam * np.eye(k)
    if kind == "sketch":
        if d <= factor * k:
            return row.gram()
        B = count_sketch(np.sqrt(row.w)[:, None] * row.A, factor * k, rng)
        return B.T @ B + row.lam * np.eye(k)
    raise ValueError(kind)


def solve_row(row: Row, x: Array, V: Array, options: Options, rng: Any = None) -> tuple[Array, int]:
    """The new row, from x, and its inner iterations."""
    if options.nonneg:
        return nonneg(row), 0
    if options.inner == "exact":
        return exact(row), 0
    M = preconditioner(row, options.inner, V, options.sketch_factor, rng)
    apply = None if M is None else (lambda r: np.linalg.solve(M, r))
    return conjugate_gradients(row, x, options.inner_maxiter, options.inner_tol, apply)


# --------------------------------------------------------------------------------------------- half sweeps


def half_sweep(
    entries: Entries,
    V: Array,
    X: Array,
    options: Options,
    b: Any = None,
    a: Any = None,
    rng: Any = None,
) -> tuple[Array, Array, int]:
    """Every row solved for with V (and the biases b) fixed: rows, their biases, inner iterations in all.

    A row without entries becomes 0, where unseen entries do not count.
    """
    n1, n2 = entries.shape
    b = np.zeros(n2) if b is None else b
    a = np.zeros(n1) if a is None else a
    D = np.hstack([V, np.ones((n2, 1))]) if options.bias else V
    k = V.shape[1]
    out, biases, steps = np.zeros((n1, k)), np.zeros(n1), 0
    for i in range(n1):
        seen = entries.row(i)
        if len(seen[0]) == 0 and not options.background:
            continue
        x = np.append(X[i], a[i]) if options.bias else X[i]
        solved, count = solve_row(row_problem(seen, V, b, x, options), x, D, options, rng)
        out[i], steps = solved[:k], steps + count
        if options.bias:
            biases[i] = solved[k]
    return out, biases, steps


@dataclass
class Factors:
    """What an entry is fitted by: ``<u_i, v_j> + a_i + b_j``."""

    U: Array
    V: Array
    a: Array
    b: Array

    def fit(self, rows: Array, cols: Array) -> Array:
        """Values at the given places."""
        return np.einsum("ij,ij->i", self.U[rows], self.V[cols]) + self.a[rows] + self.b[cols]

    def dense(self) -> Array:
        """The whole fitted matrix."""
        return self.U @ self.V.T + self.a[:, None] + self.b

    def copy(self) -> Factors:
        """Factors that share no memory with these."""
        return Factors(*(x.copy() for x in (self.U, self.V, self.a, self.b)))


def zeros(shape: tuple[int, int], k: int) -> Factors:
    """Factors of the zero matrix."""
    return Factors(np.zeros((shape[0], k)), np.zeros((shape[1], k)), np.zeros(shape[0]), np.zeros(shape[1]))


def data_error(entries: Entries, f: Factors, options: Options) -> float:
    """Sum of ``w loss(m - fit)``; with a background over all entries."""
    r = entries.vals - f.fit(entries.rows, entries.cols)
    total = float(entries.weights @ loss_values(r, options.loss, options.delta))
    if options.background:
        unseen = np.ones(entries.shape, dtype=bool)
        unseen[entries.rows, entries.cols] = False
        total += float((f.dense()[unseen] ** 2).sum())
    return total


def rmse(entries: Entries, f: Factors) -> float:
    """Weighted root mean square of the residuals at the entries."""
    r = entries.vals - f.fit(entries.rows, entries.cols)
    return float(np.sqrt(entries.weights @ r**2 / entries.weights.sum()))


def objective(entries: Entries, f: Factors, options: Options) -> float:
    """What alternating least squares decreases: `data_error` and the ridges of all rows and columns."""
    total = data_error(entries, f, options)
    for side, X, bias in ((entries, f.U, f.a), (entries.T, f.V, f.b)):
        sizes = (X**2).sum(axis=1) + bias**2
        total += options.lam * float(sizes @ (side.degrees() if options.lam_by_degree else np.ones(len(X))))
    return total


# -------------------------------------------------------------------------------------------------- starts


def clipped(U: Array) -> Array:
    """U with rows shortened to twice the ninth decile of their lengths, or twice the even length."""
    lengths = np.linalg.norm(U, axis=1)
    most = 2 * max(np.sqrt(U.shape[1] / len(U)), float(np.quantile(lengths, 0.9)))
    return U * np.minimum(1.0, most / np.maximum(lengths, np.finfo(float).tiny))[:, None]


def spectral_start(
    entries: Entries, k: int, *, by_degree: bool = False, ease: float = 0.0, clip: bool = True
) -> Array:
    """Orthonormal U (n1, k): leading left singular vectors of the entries, unseen ones taken for 0.

    `by_degree`: of the entries over the roots of the degrees of row and column, the vectors then over the
    root of the degree of the row: where places are drawn with probability r_i c_j, the expectation of that is
    the matrix between roots of r and c. To all degrees `ease` times their mean is added, without which the
    rows of a few entries take over where there are many of them.
    """
    M = entries.dense()
    if by_degree:
        degrees = [e.degrees() for e in (entries, entries.T)]
        left, right = (1 / np.sqrt(np.maximum(d + ease * d.mean(), 1)) for d in degrees)
        U = left[:, None] * np.linalg.svd(left[:, None] * M * right, full_matrices=False)[0][:, :k]
        U = np.linalg.qr(U)[0]
    else:
        U = np.linalg.svd(M, full_matrices=False)[0][:, :k]
    return np.linalg.qr(clipped(U))[0] if clip else U


def leading_vector(entries: Entries, f: Factors, by_degree: bool = False) -> Array:
    """Leading left singular vector of the residual, unseen entries taken for 0."""
    r = Entries(entries.rows, entries.cols, entries.vals - f.fit(entries.rows, entries.cols), entries.shape)
    return spectral_start(r, 1, by_degree=by_degree, clip=False)


def balanced(X: Array, Y: Array, dependent: float = 1e-10) -> tuple[Array, Array]:
    """Q and Y' with orthonormal Q and ``Q Y'^T = X Y^T``; columns of X that depend on others are lost."""
    Q, R, order = linalg.qr(X, mode="economic", pivoting=True)
    kept = int((np.abs(np.diag(R)) > dependent * abs(R[0, 0])).sum())
    T = np.zeros_like(R)
    T[:, order] = R
    return Q[:, :kept], Y @ T[:kept].T


def svd_balanced(U: Array, V: Array) -> tuple[Array, Array, Array]:
    """``U V^T`` as P and Q with orthogonal columns of equal lengths, and its singular values."""
    k = U.shape[1]
    left, s, right = np.linalg.svd(U @ V.T, full_matrices=False)
    root = np.sqrt(s[:k])
    return left[:, :k] * root, right[:k].T * root, s[:k]


# -------------------------------------------------------------------------------------------------- driver


@dataclass
class Result:
    """What a run returns; histories have an entry per sweep."""

    factors: Factors
    why: int
    sweeps: int
    rmse_train: float
    rmse_holdout: float
    objective: float
    delta: float
    train: list[float] = field(default_factory=list)
    holdout: list[float] = field(default_factory=list)
    lam: list[float] = field(default_factory=list)
    inner: list[int] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)


def complete(
    entries: Entries,
    k: int,
    options: Options | None = None,
    *,
    start: Any = "spectral",
    by_degree: bool = False,
    clip: bool = True,
    per_rank: int = 8,
    max_sweeps: int = 100,
    lam_path: Sequence[float] = (),
    tol: float = 1e-6,
    atol: float = 0.0,
    holdout: Entries | None = None,
    patience: int = 3,
    finalize: bool = True,
    auto_delta: bool = True,
    balance: bool | None = None,
    rng: Any = 0,
    monitor: Callable[[int, Factors], bool] | None = None,
) -> Result:
    """Alternate half sweeps, columns first, until a rule stops them.

    `start` is ``"spectral"``, ``"random"`` (normal, variance 1/k), ``"increment"`` (rank 1, 2, ..., with
    `per_rank` sweeps at each but the last) or `Factors`. `balance` (by default without a ridge and signs)
    makes the factor just solved for orthonormal, its triangle going into the other. Rules, in this order: the
    training error is at most ``max(atol, 16 eps scale)``; the held-out one has not fallen by 1e-4 of itself
    for `patience` sweeps (the best factors return); the training error has changed by at most `tol` of itself
    twice in a row. Only the first can stop the sweeps on `lam_path`, whose ridges are given.
    """
    options = options or Options()
    rng = np.random.default_rng(rng)
    balance = options.lam == 0 and not options.nonneg if balance is None else balance
    columns = entries.T
    scale = float(np.sqrt(entries.weights @ entries.vals**2 / entries.weights.sum()))
    floor = max(atol, 16 * EPSILON * scale)
    run = Result(zeros(entries.shape, k), SWEEPS, 0, np.inf, np.nan, np.nan, options.delta)
    best, least, waiting = run.factors, np.inf, 0

    def sweep(f: Factors, o: Options) -> Factors:
        if o.loss != "linear" and auto_delta:
            r = entries.vals - f.fit(entries.rows, entries.cols)
            o = replace(o, delta=max(automatic_delta(r, o.loss), 16 * EPSILON * scale))
        V, b, first = half_sweep(columns, f.U, f.V, o, f.a, f.b, rng)
        U = f.U
        if balance:
            V, U = balanced(V, U)
        U, a, second = half_sweep(entries, V, U, o, b, f.a, rng)
        if balance:
            U, V = balanced(U, V)
        new = Factors(U, V, a, b)
        run.delta, run.sweeps = o.delta, run.sweeps + 1
        run.train.append(float(np.sqrt(data_error(entries, new, o) / entries.weights.sum())))
        run.lam.append(o.lam)
        run.inner.append(first + second)
        run.rank.append(U.shape[1])
        return new

    def iterate(f: Factors, limit: int, path: Sequence[float], last: bool) -> tuple[Factors, bool]:
        nonlocal best, least, waiting
        small, t = 0, 0
        while run.sweeps < limit:
            eased = t < len(path)
            new = sweep(f, replace(options, lam=path[t]) if eased else options)
            t += 1
            if not np.isfinite(run.train[-1]):
                run.why = NONFINITE
                return f, True
            f = new
            if holdout is not None:
                run.holdout.append(rmse(holdout, f))
                waiting = 0 if run.holdout[-1] < least * (1 - 1e-4) else waiting + 1
                if run.holdout[-1] < least:
                    best, least = f.copy(), run.holdout[-1]
            if monitor is not None and monitor(run.sweeps, f):
                run.why = CALLBACK
                return f, True
            if run.train[-1] <= floor:
                run.why = FLOOR
                return f, True
            if eased or not last:
                continue
            if waiting >= patience:
                run.why = HOLDOUT
                return best, True
            before = run.train[-2] if run.sweeps > 1 else np.inf
            small = small + 1 if abs(before - run.train[-1]) <= tol * run.train[-1] else 0
            if small >= 2:
                run.why = TOLERANCE
                return f, True
        return f, False

    f, ended = zeros(entries.shape, k), False
    if isinstance(start, Factors):
        f = start.copy()
    elif start == "spectral":
        f.U = spectral_start(entries, k, by_degree=by_degree, clip=clip)
    elif start == "random":
        f.U, f.V = (rng.standard_normal(X.shape) / np.sqrt(k) for X in (f.U, f.V))
    else:
        f = zeros(entries.shape, 0)
        for r in range(1, k + 1):
            f.U = np.hstack([f.U, leading_vector(entries, f, by_degree)])
            f.V = np.hstack([f.V, np.zeros((entries.shape[1], 1))])
            if r < k:
                f, ended = iterate(f, min(max_sweeps, run.sweeps + per_rank), (), last=False)
                if ended or run.sweeps >= max_sweeps:
                    break
    if not ended:
        f, ended = iterate(f, max_sweeps, lam_path, last=True)
    if finalize and run.why in (TOLERANCE, SWEEPS) and options.inner != "exact" and not options.nonneg:
        f = sweep(f, replace(options, inner="exact"))
    run.factors, run.rmse_train = f, rmse(entries, f)
    run.rmse_holdout = np.nan if holdout is None else rmse(holdout, f)
    run.objective = objective(entries, f, replace(options, delta=run.delta))
    return run


def continuation(entries: Entries) -> list[float]:
    """The ridges that lead from far above the Gram matrices of rows, about p I, to none: 60 sweeps."""
    p = len(entries.vals) / (entries.shape[0] * entries.shape[1])
    return [30 * p * 0.85**t for t in range(60)]


def sample_splitting(entries: Entries, k: int, sweeps: int, rng: Any) -> Factors:
    """The scheme of the proof: every half sweep sees entries of its own, ``2 sweeps + 1`` parts in all."""
    rng = np.random.default_rng(rng)
    part = rng.integers(2 * sweeps + 1, size=len(entries.vals))

    def of(which: int) -> Entries:
        some = part == which
        return Entries(
            entries.rows[some], entries.cols[some], entries.vals[some], entries.shape, entries.weights[some]
        )

    f = zeros(entries.shape, k)
    f.U = spectral_start(of(0), k)
    for t in range(sweeps):
        f.V = np.linalg.qr(half_sweep(of(2 * t + 1).T, f.U, f.V, Options())[0])[0]
        f.U = half_sweep(of(2 * t + 2), f.V, f.U, Options())[0]
        if t + 1 < sweeps:
            f.U = np.linalg.qr(f.U)[0]
    return f
