"""NumPy oracle of the Krylov solvers: float64 or complex128, one vector at a time, no compiled code of ours.

The relation behind everything, with ``Op`` the operator a side defines::

    Op That = What G,   That = [U D, Z],   What = [C, V],   G = [D B; 0 H],   Op U = C,   What^H What = I

=========  ==========  =================  =====================  ======================================
side       carry       Op                 U, Z hold              what the small eigenproblem looks at
=========  ==========  =================  =====================  ======================================
right      x           A (Z = M^-1 V)     parts of x             That = [U D, M^-1 V]
right      t           A M^-1 (Z = V)     parts of t, x = M^-1 t  That = [U D, V]
left       x           M^-1 A (Z = V)     parts of x             That = [U D, V]
flexible   x           A (Z_j = M_j V_j)  parts of x             That = [U D, Z]
=========  ==========  =================  =====================  ======================================

Counts: ``nit`` is the number of inner steps; ``matvecs`` counts every product with A, also those that set
up ``C = Op U``, verify a residual or start a solve.  ``residuals[i]`` is the estimate after i inner steps in
the norm the solver minimises; ``residual`` is ``||b - A x||_2`` of the returned x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[Any]
Apply = Callable[[Array], Array]

CONVERGED, MAXITER, STAGNATED, BREAKDOWN, NONFINITE, NOT_SPD = 0, 1, 2, 3, 4, 6

TARGETS = ("LM", "SR", "LR", "SI", "LI")
AIM = 0.99  # recurrences stop a little below the tolerance so that the true residual meets it


@dataclass
class Cycle:
    """One cycle, as arrays: ``Op That = What G`` and, after the update, ``Op U = C``."""

    That: Array
    What: Array
    G: Array
    U: Array
    C: Array


@dataclass
class Result:
    """What a solve returns; `U`, `C` are None where nothing is recycled."""

    x: Array
    status: int
    nit: int
    residual: float
    residuals: list[float]
    matvecs: int
    U: Array | None = None
    C: Array | None = None
    cycles: list[Cycle] = field(default_factory=list)
    iterates: list[Array] = field(default_factory=list)


class Counted:
    """A matrix or function as a function of vectors and blocks that counts its columns."""

    def __init__(self, op: Any) -> None:
        self.op, self.columns = op, 0

    def __call__(self, X: Array) -> Array:
        self.columns += 1 if X.ndim == 1 else X.shape[1]
        if not callable(self.op):
            return np.asarray(self.op @ X)
        return self.op(X) if X.ndim == 1 else np.column_stack([self.op(x) for x in X.T])


def preconditioner(M: Any) -> Apply:
    """M as the function ``v -> M v`` (M is the inverse application); None is the identity."""
    return (lambda v: v) if M is None else Counted(M)


def norm(v: Array) -> float:
    return float(np.linalg.norm(v))


def orthogonalise(w: Array, W: Array) -> tuple[Array, Array]:
    """Remove the orthonormal columns of `W` from `w`, twice; returns the rest and the coefficients."""
    c = W.conj().T @ w
    w = w - W @ c
    d = W.conj().T @ w
    return w - W @ d, c + d


# --------------------------------------------------------------------------------------- the small problems


def ritz_order(theta: Array, target: str, real: bool) -> Array:
    """Indices of the finite `theta`, wanted first; real problems know imaginary parts by size alone."""
    imag = np.abs(theta.imag) if real else theta.imag
    key = {
        "SM": np.abs(theta),
        "LM": -np.abs(theta),
        "SR": theta.real,
        "LR": -theta.real,
        "SI": imag,
        "LI": -imag,
    }[target]
    order = np.argsort(key, kind="stable")
    return order[np.isfinite(theta[order])]


def harmonic_vectors(
    G: Array, gram: Array, k: int, target: str = "SM", limit: int | None = None, pairs: str = "extend"
) -> tuple[Array, Array]:
    """Solve ``G^H G y = theta G^H gram y`` with ``gram = What^H That`` for the k wanted theta.

    Real data stays real: a complex pair gives the columns Re y, Im y and is never split.  A pair that would
    exceed k takes k + 1 columns where `pairs` is "extend" and `limit` allows it, and is left out otherwise.
    Returns the columns and the chosen theta, one per column.
    """
    Q, R = np.linalg.qr(G)
    theta, Y = linalg.eig(R, Q.conj().T @ gram)  # the same pencil without squaring G
    real = not (np.iscomplexobj(G) or np.iscomplexobj(gram))
    columns: list[Array] = []
    chosen: list[complex] = []
    for i in ritz_order(theta, target, real):
        if len(columns) >= k:
            break
        if not real:
            columns.append(Y[:, i])
            chosen.append(theta[i])
        elif theta[i].imag == 0:
            columns.append(Y[:, i].real)
            chosen.append(theta[i])
        elif theta[i].imag > 0:  # its partner is skipped
            if len(columns) + 2 > k and (pairs == "drop" or k + 1 > (k + 1 if limit is None else limit)):
                break
            columns += [Y[:, i].real, Y[:, i].imag]
            chosen += [theta[i], theta[i].conj()]
    if not columns:
        return np.zeros((G.shape[1], 0), G.dtype), np.zeros(0)
    return np.column_stack(columns), np.array(chosen)


def singular_vectors(G: Array, That: Array, k: int) -> Array:
    """The k smallest sigma of ``G^H G y = sigma^2 That^H That y``."""
    _, Y = linalg.eigh(G.conj().T @ G, That.conj().T @ That)
    return Y[:, :k]


def recycle_space(
    That: Array,
    What: Array,
    G: Array,
    gram: Array,
    k: int,
    select: str,
    limit: int | None = None,
    pairs: str = "extend",
) -> tuple[Array, Array]:
    """New U, C with ``Op U = C`` and orthonormal C from the relation ``Op That = What G``."""
    if select == "sv":
        P = singular_vectors(G, That, k)
    else:
        P, _ = harmonic_vectors(G, gram, k, "SM" if select == "harmonic" else select, limit, pairs)
    P = np.linalg.qr(P)[0]
    Q, R, perm = linalg.qr(G @ P, mode="economic", pivoting=True)
    diag = np.abs(np.diag(R))
    q = int(np.sum(diag > 1e-13 * diag[0])) if diag.size and diag[0] > 0 else 0
    U = linalg.solve_triangular(R[:q, :q].T, (That @ P[:, perm[:q]]).T, lower=True).T
    return U, What @ Q[:, :q]


def image_of_recycled(
    U: Array, image: Apply, drop: float = 1e-12, scaled: bool = True
) -> tuple[Array, Array]:
    """U, C with ``C = Op U`` orthonormal for a new operator, by a rank-revealing QR of the (scaled) image."""
    AU = image(U)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = 1 / np.linalg.norm(AU, axis=0)
    keep = np.isfinite(s) & np.isfinite(U).all(axis=0)
    s = s if scaled else np.ones_like(s)
    U, AU = U[:, keep] * s[keep], AU[:, keep] * s[keep]
    if U.shape[1] == 0:
        return U, AU
    Q, R, perm = linalg.qr(AU, mode="economic", pivoting=True)
    diag = np.abs(np.diag(R))
    q = int(np.sum(diag > drop * diag[0]))
    return linalg.solve_triangular(R[:q, :q].T, U[:, perm[:q]].T, lower=True).T, Q[:, :q]


# ------------------------------------------------------------------------------------------------- GCRO-DR


def gcrodr(
    A: Any,
    b: Array,
    x0: Array | None = None,
    U: Array | None = None,
    C: Array | None = None,
    *,
    m: int = 40,
    k: int = 20,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
    M: Any = None,
    side: str = "right",
    carry: str = "x",
    select: str = "harmonic",
    pairs: str = "extend",
    stop: str = "true",
    nullspace: Array | None = None,
    stagnation: int = 3,
    record: bool = False,
) -> Result:
    """GCRO-DR(m, k) until ``||b - A x|| <= max(rtol ||b||, atol)``; restarted GMRES(m) for ``k = 0``.

    `U` is the carried space; a `C` with it says that the operator is the one `C` was made for.  `select` is
    "harmonic" (smallest theta), "sv" or one of `TARGETS`.  ``stop="preconditioned"`` (left side) ends on
    ``||M^-1 (b - A x)|| <= rtol ||M^-1 b||`` without a verification.
    """
    if carry == "t" and side != "right":
        raise ValueError("only the right side has a t-space")
    matvec, minv = Counted(A), preconditioner(M)
    dtype = np.result_type(b, 1.0, *(v for v in (x0, U, getattr(A, "dtype", None)) if v is not None))
    b = np.asarray(b, dtype)
    n = b.size
    x = np.zeros(n, dtype) if x0 is None else np.array(x0, dtype)
    m = min(m, n)
    k = max(min(k, m - 1), 0)

    def project(v: Array) -> Array:
        return v if nullspace is None else v - nullspace @ (nullspace.conj().T @ v)

    def step(v: Array) -> tuple[Array, Array]:
        """z and ``w = Op z`` in the notation of the table above."""
        if side == "left":
            return v, project(minv(matvec(v)))
        z = project(minv(v))
        return (v if carry == "t" else z), matvec(z)

    def image(X: Array) -> Array:
        if side == "left":
            return np.column_stack([project(minv(y)) for y in matvec(X).T])
        return matvec(np.column_stack([lift(c) for c in X.T]))

    def lift(t: Array) -> Array:
        """A correction in the space of U as a correction of x."""
        return project(minv(t)) if carry == "t" else t

    if norm(b) == 0:
        return Result(np.zeros_like(b), CONVERGED, 0, 0.0, [0.0], 0, U, C)
    target = max(rtol * norm(b), atol)
    true = project(b - matvec(x)) if x.any() else project(b)
    if norm(true) <= target:
        return Result(x, CONVERGED, 0, norm(true), [norm(true)], matvec.columns, U, C)
    r = project(minv(true)) if side == "left" else true
    goal = AIM * target * norm(r) / norm(true)  # the factor is 1 unless the norm is the preconditioned one
    if stop == "preconditioned":
        goal = max(rtol * norm(project(minv(b))), atol)

    if U is None:
        U, C = np.zeros((n, 0), dtype), np.zeros((n, 0), dtype)
    elif C is None:
        U, C = image_of_recycled(np.asarray(U, dtype), image)
    c = C.conj().T @ r
    x, r = x + lift(U @ c), r - C @ c

    nit, slow, failed, status = 0, 0, 0, None
    residuals, cycles = [norm(r)], []
    while True:
        # ---- the stop test: the recurrence only says when to look at the true residual
        if side == "left" or norm(r) <= goal or nit >= maxiter or status is not None:
            true = project(b - matvec(x))
            if stop == "preconditioned":
                status = CONVERGED if norm(r) <= goal else status
            elif norm(true) <= target:
                status = CONVERGED
            elif norm(r) <= goal and status is None:
                failed += 1
                if failed > 3:
                    status = STAGNATED
            r = project(minv(true)) if side == "left" else true
            if stop != "preconditioned":
                goal = AIM ** (1 + failed) * target * norm(r) / norm(true) if norm(true) > 0 else goal
        if status is None and nit >= maxiter:
            status = MAXITER
        if status is not None:
            break
        # Rounding of size eps ||b|| in r is eps ||b|| / ||r|| in V_1: projected before every cycle.
        c = C.conj().T @ r
        x, r = x + lift(U @ c), r - C @ c

        # ---- Arnoldi on (I - C C^H) Op
        kk = U.shape[1]
        steps = min(m - kk, maxiter - nit)
        beta = norm(r)
        V, Z = [r / beta], []
        B = np.zeros((kk, steps), dtype)
        H = np.zeros((steps + 1, steps), dtype)
        happy = False
        for j in range(steps):
            z, w = step(V[j])
            w0 = norm(w)
            if not np.isfinite(w0):
                status = NONFINITE
                break
            w, c = orthogonalise(w, np.column_stack([C, *V]))
            B[:, j], H[: j + 1, j] = c[:kk], c[kk:]
            Z.append(z)
            h = norm(w)
            happy = h <= 1e-14 * w0
            rows = j + 1 if happy else j + 2
            if not happy:
                H[j + 1, j] = h
                V.append(w / h)
            e1 = np.zeros(rows, dtype)
            e1[0] = beta
            y = np.linalg.lstsq(H[:rows, : j + 1], e1, rcond=None)[0]
            estimate = norm(e1 - H[:rows, : j + 1] @ y)
            nit += 1
            residuals.append(estimate)
            if happy or estimate <= goal:
                break
        j = len(Z)
        if j == 0:  # the operator gave a number that is not finite at once
            break
        Zj, Vj = np.column_stack(Z), np.column_stack(V[: j if happy else j + 1])
        B, H = B[:, :j], H[: Vj.shape[1], :j]
        e1 = np.zeros(Vj.shape[1], dtype)
        e1[0] = beta
        y = np.linalg.lstsq(H, e1, rcond=None)[0]
        x = x + lift(Zj @ y - U @ (B @ y))
        r = r - Vj @ (H @ y)
        if happy and np.linalg.cond(H) > 1e14:
            status = BREAKDOWN  # singular on the space; the verification may still find x good enough

        # ---- the recycle space of the next cycle and of the next system
        if k > 0:
            D = np.diag(1 / np.linalg.norm(U, axis=0)) if kk else np.zeros((0, 0))
            That, What = np.hstack([U @ D, Zj]), np.hstack([C, Vj])
            G = np.block([[D, B], [np.zeros((H.shape[0], kk)), H]])
            # Without an old U the pencil is that of the Hessenberg matrix, whatever M is.
            gram = np.eye(H.shape[0], j) if kk == 0 else What.conj().T @ That
            U, C = recycle_space(That, What, G, gram, k, select, limit=m - 1, pairs=pairs)
            if record:
                cycles.append(Cycle(That, What, G, U, C))
        slow = slow + 1 if norm(r) > 0.99 * beta else 0
        if stagnation and slow >= stagnation and status is None:
            status = STAGNATED

    keep = k > 0 and U.shape[1] > 0
    return Result(
        x,
        status,
        nit,
        norm(true),
        residuals,
        matvec.columns,
        U if keep else None,
        C if keep else None,
        cycles,
    )


def gmres(A: Any, b: Array, x0: Array | None = None, *, m: int = 40, **options: Any) -> Result:
    """Restarted GMRES(m): GCRO-DR that keeps nothing."""
    return gcrodr(A, b, x0, m=m, k=0, **options)


def gmresdr_cycles(A: Array, b: Array, m: int, k: int, cycles: int) -> list[Array]:
    """Iterates of GMRES-DR(m, k) after each cycle, from its definition: harmonic vectors restart Arnoldi.

    The basis is restarted with ``V Q`` where Q spans the k harmonic vectors and the least-squares residual.
    """
    x = np.zeros(b.size, np.result_type(A, b))
    r = b - A @ x
    V, H, iterates = [r / norm(r)], np.zeros((1, 0), x.dtype), []
    rhs = np.array([norm(r)], x.dtype)
    for _ in range(cycles):
        for j in range(H.shape[1], m):
            w, h = orthogonalise(A @ V[j], np.column_stack(V))
            H = np.pad(H, ((0, 1), (0, 1)))
            H[: j + 1, j], H[j + 1, j] = h, norm(w)
            V.append(w / norm(w))
        e = np.concatenate([rhs, np.zeros(m + 1 - rhs.size)])
        y = np.linalg.lstsq(H, e, rcond=None)[0]
        W = np.column_stack(V)
        x = x + W[:, :m] @ y
        iterates.append(x.copy())
        rest = e - H @ y
        f = np.linalg.solve(H[:m].conj().T, np.eye(m)[:, -1])
        theta, Y = np.linalg.eig(H[:m] + abs(H[m, m - 1]) ** 2 * np.outer(f, np.eye(m)[:, -1]))
        P: list[Array] = []
        for i in np.argsort(np.abs(theta), kind="stable"):
            if len(P) >= k:
                break
            if np.isrealobj(H) and theta[i].imag != 0:
                P += [Y[:, i].real, Y[:, i].imag] if theta[i].imag > 0 else []
            else:
                P.append(Y[:, i].real if np.isrealobj(H) else Y[:, i])
        kk = len(P)
        Q = np.linalg.qr(np.column_stack([np.vstack([np.column_stack(P), np.zeros(kk)]), rest]))[0]
        H = Q.conj().T @ H @ Q[:m, :kk]
        rhs = Q.conj().T @ rest
        V = list((W @ Q).T)
    return iterates


# ------------------------------------------------------------------------------------------ LGMRES, GCROT


def arnoldi_with(
    op: Apply, r: Array, fresh: int, extra: list[Array], C: Array, goal: float, right: Apply
) -> tuple[Array, Array, Array, Array, Array, list[float]]:
    """Arnoldi on ``(I - C C^H) op``: `fresh` Krylov directions through `right`, then those in `extra`.

    Returns Z, V, H, B, y (of the least-squares problem with right-hand side r) and the estimates.
    """
    beta = norm(r)
    V, Z, rows = [r / beta], [], []
    estimates: list[float] = []
    y = np.zeros(0)
    for j in range(fresh + len(extra)):
        z = right(V[-1]) if j < fresh else extra[j - fresh]
        w = op(z)
        w0 = norm(w)
        w, c = orthogonalise(w, np.column_stack([C, *V]))
        rows.append(np.append(c, norm(w)))
        Z.append(z)
        broken = not norm(w) > np.finfo(float).eps * w0
        V.append(w / norm(w) if norm(w) > 0 else w)
        kk = C.shape[1]
        H = np.zeros((j + 2, j + 1), r.dtype)
        B = np.zeros((kk, j + 1), r.dtype)
        for i, row in enumerate(rows):
            B[:, i], H[: i + 2, i] = row[:kk], row[kk:]
        e = np.zeros(j + 2, r.dtype)
        e[0] = beta
        y = np.linalg.lstsq(H, e, rcond=None)[0]
        estimates.append(norm(e - H @ y))
        if estimates[-1] < goal or broken:
            break
    return np.column_stack(Z), np.column_stack(V), H, B, y, estimates


def lgmres(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    m: int = 30,
    k: int = 3,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int = 1000,
    M: Any = None,
) -> Result:
    """LGMRES(m, k): every cycle also searches the last k corrections; left M, `maxiter` counts cycles.

    The inner tolerance starts at the outer one; it is tightened by 4 after an inner solve that met it, and
    loosened by 1.5 (up to 1) after one that did not.
    """
    matvec, minv = Counted(A), preconditioner(M)
    x = np.zeros_like(b) if x0 is None else x0.copy()
    target = max(atol, rtol * norm(b))
    if norm(b) == 0:
        return Result(np.zeros_like(b), CONVERGED, 0, 0.0, [0.0], 0)
    old: list[Array] = []
    residuals: list[float] = []
    loosest, nit, none = 1.0, 0, np.zeros((b.size, 0), b.dtype)
    for _ in range(maxiter):
        true = b - matvec(x)
        residuals.append(norm(true))
        if norm(true) <= target:
            return Result(x, CONVERGED, nit, norm(true), residuals, matvec.columns)
        r = minv(true)
        inner = min(loosest, target / norm(true))
        Z, _, _, _, y, estimates = arnoldi_with(
            lambda z: minv(matvec(z)), r, m, old, none, inner * norm(r), lambda v: v
        )
        nit += len(estimates)
        met = estimates[-1] <= inner * norm(r)
        loosest = max(1e-16, 0.25 * loosest) if met else min(1.0, 1.5 * loosest)
        dx = Z @ y
        if norm(dx) > 0:
            old = [*old, dx / norm(dx)][-k:] if k else []
        x = x + dx
    residual = norm(b - matvec(x))
    status = CONVERGED if residual <= target else MAXITER
    return Result(x, status, nit, residual, residuals, matvec.columns)


def gcrotmk(
    A: Any,
    b: Array,
    x0: Array | None = None,
    U: Array | None = None,
    *,
    m: int = 20,
    k: int | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int = 1000,
    M: Any = None,
    truncate: str = "oldest",
) -> Result:
    """GCROT(m, k): every cycle keeps its correction; right (flexible) M, `maxiter` counts cycles.

    `truncate` is "oldest" (drop the oldest pair) or "smallest" (keep the k - 1 combinations of C that
    mattered most to the inner solve).  Cycles are longer by k - (pairs held) until k pairs are held.  The
    returned U ends with the solution itself.
    """
    matvec, minv = Counted(A), preconditioner(M)
    k = m if k is None else k
    x = np.zeros_like(b) if x0 is None else x0.copy()
    n, dtype = b.size, b.dtype
    if norm(b) == 0:
        return Result(np.zeros_like(b), CONVERGED, 0, 0.0, [0.0], 0, U)
    target = max(atol, rtol * norm(b))
    r = b - matvec(x)
    C = np.zeros((n, 0), dtype)
    if U is None:
        U = np.zeros((n, 0), dtype)
    elif U.shape[1]:
        U, C = image_of_recycled(U, matvec, scaled=False)
        U, C = U[:, ::-1], C[:, ::-1]  # the pairs of the largest images are dropped last
        c = C.conj().T @ r
        x, r = x + U @ c, r - C @ c
    nit, status = 0, MAXITER
    residuals = [norm(r)]
    for cycle in range(maxiter):
        if norm(r) <= target and (cycle > 0 or U.shape[1]):
            r = b - matvec(x)
        if norm(r) <= target:
            status = CONVERGED
            break
        Z, V, H, B, y, estimates = arnoldi_with(
            matvec, r, m + max(k - U.shape[1], 0), [], C, max(atol, rtol * norm(b)), minv
        )
        nit += len(estimates)
        residuals += estimates
        u, c = Z @ y - U @ (B @ y), V @ (H @ y)
        if norm(c) == 0:
            continue
        u, c = u / norm(c), c / norm(c)
        gamma = c.conj() @ r
        x, r = x + gamma * u, r - gamma * c
        if truncate == "oldest":
            drop = max(U.shape[1] - k + 1, 0)
            U, C = U[:, drop:], C[:, drop:]
        elif U.shape[1] >= k:
            W = np.linalg.svd(np.linalg.solve(np.linalg.qr(H)[1].T, B.T).T)[0][:, : k - 1]
            C, R = np.linalg.qr(C @ W)
            U = np.linalg.solve(R.T, (U @ W).T).T
        U, C = np.column_stack([U, u]), np.column_stack([C, c])
    residual = norm(b - matvec(x))
    return Result(x, status, nit, residual, residuals, matvec.columns, np.column_stack([U, x]), None)


# ------------------------------------------------------------------------------------------ block GCRO-DR


def rank_qr(W: Array, drop: float, scale: float | None = None) -> tuple[Array, Array]:
    """``W = Q R`` with only the q columns of Q whose pivot exceeds `drop` times `scale` (the first pivot)."""
    Q, R, perm = linalg.qr(W, mode="economic", pivoting=True)
    diag = np.abs(np.diag(R))
    scale = diag[0] if scale is None else scale
    q = int(np.sum(diag > drop * scale)) if scale > 0 else 0
    back = np.empty_like(R[:q])
    back[:, perm] = R[:q]
    return Q[:, :q], back


def cleaned(Q: Array, R: Array, W: Array) -> tuple[Array, Array]:
    """The factors of ``Q R`` with Q orthogonal to `W` again: a small pivot has magnified its rounding."""
    if Q.shape[1] == 0:
        return Q, R
    Q, small = np.linalg.qr(orthogonalise(Q, W)[0])
    return Q, small @ R


def block_gcrodr(
    A: Any,
    b: Array,
    x0: Array | None = None,
    U: Array | None = None,
    C: Array | None = None,
    *,
    m: int = 40,
    k: int = 20,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
    M: Any = None,
    carry: str = "x",
    select: str = "harmonic",
    deflation: float = 1e-10,
    stagnation: int = 3,
    record: bool = False,
) -> Result:
    """Block GCRO-DR for ``A X = B`` (n, s), right M, one space for all; m and k count columns.

    ``nit`` and `maxiter` count block steps; a column is done when its own residual is within
    ``max(rtol ||b_c||, atol)``.  A step whose new block is rank deficient continues with fewer columns;
    ``residuals`` holds the largest ratio of a column's residual to its target.
    """
    matvec, minv = Counted(A), preconditioner(M)
    dtype = np.result_type(b, 1.0, getattr(A, "dtype", np.float64))
    b = np.asarray(b, dtype)
    n = b.shape[0]
    x = np.zeros_like(b) if x0 is None else np.array(x0, dtype)
    m = min(m, n)
    k = max(min(k, m - 1), 0)
    targets = np.maximum(rtol * np.linalg.norm(b, axis=0), atol)
    floor = np.where(targets > 0, targets, np.finfo(float).tiny)

    def columns(f: Apply, X: Array) -> Array:
        return np.column_stack([f(c) for c in X.T]) if X.shape[1] else X

    def lift(T: Array) -> Array:
        return columns(minv, T) if carry == "t" else T

    def worst(R: Array) -> float:
        return float(np.max(np.linalg.norm(R, axis=0) / floor))

    x[:, np.linalg.norm(b, axis=0) == 0] = 0
    r = b - matvec(x)
    if worst(r) <= 1:
        return Result(x, CONVERGED, 0, norm(r), [worst(r)], matvec.columns, U, C)
    if U is None:
        U, C = np.zeros((n, 0), dtype), np.zeros((n, 0), dtype)
    elif C is None:
        U, C = image_of_recycled(np.asarray(U, dtype), lambda X: matvec(lift(X)))
    nit, slow, failed, status = 0, 0, 0, None
    residuals, cycles = [], []
    while True:
        c = C.conj().T @ r  # also the first projection on a carried space
        x, r = x + lift(U @ c), r - C @ c
        if not residuals:
            residuals.append(worst(r))
        if worst(r) <= AIM or nit >= maxiter or status is not None:
            r = b - matvec(x)
            if worst(r) <= 1:
                status = CONVERGED
            elif status is None:
                failed += 1
                status = MAXITER if nit >= maxiter else STAGNATED if failed > 3 else None
            if status is not None:
                break
        kk = U.shape[1]
        before = norm(r)
        V0, S = cleaned(*rank_qr(r, deflation), C)
        blocks, Z = [V0], np.zeros((n, 0), dtype)
        B, H = np.zeros((kk, 0), dtype), np.zeros((V0.shape[1], 0), dtype)
        while nit < maxiter and blocks[-1].shape[1] and Z.shape[1] + blocks[-1].shape[1] <= m - kk:
            z = columns(minv, blocks[-1])
            w = matvec(z)
            scale = float(np.max(np.linalg.norm(w, axis=0)))
            if not np.isfinite(scale):
                status = NONFINITE
                break
            w, coefficients = orthogonalise(w, np.column_stack([C, *blocks]))
            Q, R = cleaned(*rank_qr(w, deflation, scale), np.column_stack([C, *blocks]))
            Z = np.column_stack([Z, blocks[-1] if carry == "t" else z])
            B = np.column_stack([B, coefficients[:kk]])
            H = np.block(
                [[H, coefficients[kk:]], [np.zeros((Q.shape[1], H.shape[1])), R]]
                if Q.shape[1]
                else [[H, coefficients[kk:]]]
            )
            blocks.append(Q)
            rhs = np.zeros((H.shape[0], b.shape[1]), dtype)
            rhs[: S.shape[0]] = S
            Y = np.linalg.lstsq(H, rhs, rcond=None)[0]
            nit += 1
            residuals.append(worst(rhs - H @ Y))
            if residuals[-1] <= AIM:
                break
        if Z.shape[1] == 0:
            status = NONFINITE if status == NONFINITE else BREAKDOWN
            continue
        V = np.column_stack(blocks)[:, : H.shape[0]]
        x, r = x + lift(Z @ Y - U @ (B @ Y)), r - V @ (H @ Y)
        if k > 0:
            D = np.diag(1 / np.linalg.norm(U, axis=0)) if kk else np.zeros((0, 0))
            That, What = np.hstack([U @ D, Z]), np.hstack([C, V])
            G = np.block([[D, B], [np.zeros((H.shape[0], kk)), H]])
            gram = np.eye(*H.shape) if kk == 0 else What.conj().T @ That
            U, C = recycle_space(That, What, G, gram, k, select, limit=m - b.shape[1])
            if record:
                cycles.append(Cycle(That, What, G, U, C))
        slow = slow + 1 if norm(r) > 0.99 * before else 0
        if stagnation and slow >= stagnation and status is None:
            status = STAGNATED
    keep = k > 0 and U.shape[1] > 0
    return Result(
        x, status, nit, norm(r), residuals, matvec.columns, U if keep else None, C if keep else None, cycles
    )


# -------------------------------------------------------------------------------------- symmetric matrices


def smallest_of(F: Array, Gm: Array, k: int) -> Array:
    """Vectors of ``Gm y = theta F y`` (Gm positive definite, F symmetric) with the k smallest |theta|."""
    inverse, Y = linalg.eigh(F, Gm)  # 1 / theta
    return Y[:, np.argsort(-np.abs(inverse), kind="stable")[:k]]


def independent(Z: Array, *others: Array) -> tuple[Array, ...]:
    """Columns of unit norm of Z that are independent (pivoted QR, 1e-10), the same ones of the others."""
    if Z.shape[1] == 0:
        return Z, *others
    scale = 1 / np.linalg.norm(Z, axis=0)
    _, R, perm = linalg.qr(Z * scale, mode="economic", pivoting=True)
    diag = np.abs(np.diag(R))
    keep = np.sort(perm[: int(np.sum(diag > 1e-10 * diag[0]))])
    return tuple(X[:, keep] * scale[keep] for X in (Z, *others))


def rcg(
    A: Any,
    b: Array,
    x0: Array | None = None,
    W: Array | None = None,
    *,
    k: int = 20,
    harvest: int = 20,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
    M: Any = None,
    record: bool = False,
) -> Result:
    """Recycled CG for SPD A and M (plain CG without `W` and with ``k = 0``).

    The carried basis is scaled so that ``W^H A W = I``; the returned ``U`` is the next basis (k approximate
    eigenvectors of M^-1 A of smallest value out of W and the first `harvest` directions), ``C`` is the W, A W
    pair of this solve, side by side.
    """
    matvec, minv = Counted(A), preconditioner(M)
    dtype = np.result_type(b, 1.0, getattr(A, "dtype", np.float64))
    b = np.asarray(b, dtype)
    n = b.size
    x = np.zeros(n, dtype) if x0 is None else np.array(x0, dtype)
    if norm(b) == 0:
        return Result(np.zeros_like(b), CONVERGED, 0, 0.0, [0.0], 0, W)
    target = max(rtol * norm(b), atol)
    r = b - matvec(x)
    AW = np.zeros((n, 0), dtype)
    if W is None or W.shape[1] == 0:
        W = np.zeros((n, 0), dtype)
    else:
        AW = matvec(W)
        small = W.conj().T @ AW
        d, Q = np.linalg.eigh((small + small.conj().T) / 2)
        keep = d > 1e-12 * d[-1]
        Q = Q[:, keep] / np.sqrt(d[keep])
        W, AW = W @ Q, AW @ Q
    given = np.hstack([W, AW])
    c = W.conj().T @ r
    x, r = x + W @ c, r - AW @ c
    z = minv(r)
    p = z - W @ (AW.conj().T @ z)
    rz = np.vdot(r, z).real
    directions: list[tuple[Array, Array, Array]] = []
    nit, failed, status = 0, 0, None
    residuals, iterates = [norm(r)], []
    while True:
        if norm(r) <= AIM * target or nit >= maxiter or status is not None:
            true = b - matvec(x)
            if norm(true) <= target:
                status = CONVERGED
            elif status is None:
                failed += 1
                status = MAXITER if nit >= maxiter else STAGNATED if failed > 3 else None
            if status is not None:
                break
            c = W.conj().T @ true  # restart from the true residual
            x, r = x + W @ c, true - AW @ c
            z = minv(r)
            p, rz = z - W @ (AW.conj().T @ z), np.vdot(r, z).real
        Ap = matvec(p)
        curvature = np.vdot(p, Ap).real
        if not np.isfinite(curvature) or curvature <= 0 or rz <= 0:
            status = NONFINITE if not np.isfinite(curvature) else NOT_SPD
            continue
        alpha = rz / curvature
        x, r = x + alpha * p, r - alpha * Ap
        nit += 1
        residuals.append(norm(r))
        if record:
            iterates.append(x.copy())
        if nit % 50 == 0:  # rounding lets r drift back into span(A W)
            c = W.conj().T @ r
            x, r = x + W @ c, r - AW @ c
        z_new = minv(r)
        if len(directions) < harvest and k > 0:
            s = np.sqrt(curvature)
            directions.append((p / s, Ap / s, (z - z_new) / (alpha * s)))
        rz_new = np.vdot(r, z_new).real
        p = z_new + rz_new / rz * p - W @ (AW.conj().T @ z_new)
        z, rz = z_new, rz_new
    W_next = None
    if k > 0 and (directions or W.shape[1]):
        MAW = np.column_stack([minv(c) for c in AW.T]) if AW.shape[1] else AW
        P, AP, MAP = (
            (np.column_stack(v) for v in zip(*directions, strict=True)) if directions else (AW[:, :0],) * 3
        )
        Z, AZ, MAZ = np.hstack([W, P]), np.hstack([AW, AP]), np.hstack([MAW, MAP])
        W_next = Z @ smallest_of(Z.conj().T @ AZ, AZ.conj().T @ MAZ, k)
    return Result(x, status, nit, norm(true), residuals, matvec.columns, W_next, given, [], iterates)


def cg(A: Any, b: Array, x0: Array | None = None, **options: Any) -> Result:
    """Conjugate gradients: recycled CG that carries nothing."""
    return rcg(A, b, x0, k=0, **options)


def rminres(
    A: Any,
    b: Array,
    x0: Array | None = None,
    U: Array | None = None,
    *,
    k: int = 20,
    harvest: int = 40,
    windows: int | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
    M: Any = None,
    record: bool = False,
) -> Result:
    """Recycled MINRES for Hermitian A and SPD M (plain MINRES without `U` and with ``k = 0``).

    ``C = A U`` is orthonormal in the inner product of M^-1, in which the residual is minimised; Lanczos runs
    on ``(I - C C^H M^-1) A M^-1``.  Every `harvest` Lanczos steps (at most `windows` times) the next space,
    at first U, is joined with that window and cut to the k harmonic values of M^-1 A smallest in size.
    """
    matvec, minv = Counted(A), preconditioner(M)
    dtype = np.result_type(b, 1.0, getattr(A, "dtype", np.float64))
    b = np.asarray(b, dtype)
    n = b.size
    x = np.zeros(n, dtype) if x0 is None else np.array(x0, dtype)
    if norm(b) == 0:
        return Result(np.zeros_like(b), CONVERGED, 0, 0.0, [0.0], 0, U)
    target = max(rtol * norm(b), atol)
    none = np.zeros((n, 0), dtype)
    C, MC = none, none
    if U is None or U.shape[1] == 0:
        U = none
    else:
        AU = matvec(U)
        MAU = np.column_stack([minv(c) for c in AU.T])
        d, Q = np.linalg.eigh(AU.conj().T @ MAU)
        keep = d > 1e-12 * d[-1]
        Q = Q[:, keep] / np.sqrt(d[keep])
        U, C, MC = U @ Q, AU @ Q, MAU @ Q
    kept = (U, C, MC)  # the next space with its images under A and M^-1 A
    true = b - matvec(x)
    nit, failed, status, harvested = 0, 0, None, 0
    residuals: list[float] = []
    iterates: list[Array] = []

    def join(window: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
        new = (np.column_stack(v) for v in zip(*window, strict=True))
        Z, AZ, MAZ = (np.hstack(pair) for pair in zip(kept, new, strict=True))
        Z, AZ, MAZ = independent(Z, AZ, MAZ)
        Gm = AZ.conj().T @ MAZ
        Y = smallest_of(Z.conj().T @ AZ, (Gm + Gm.conj().T) / 2, k)
        return Z @ Y, AZ @ Y, MAZ @ Y

    while status is None:
        if norm(true) <= target or nit >= maxiter:
            status = CONVERGED if norm(true) <= target else MAXITER
            break
        if failed > 3:
            status = STAGNATED
            break
        c = MC.conj().T @ true
        x, r = x + U @ c, true - C @ c
        z = minv(r)
        beta = float(np.sqrt(max(np.vdot(r, z).real, 0.0)))
        residuals.append(beta)
        if beta == 0:
            true, failed = b - matvec(x), failed + 1
            continue
        # The recurrence knows ||r|| in M^-1; its ratio to the 2-norm is that of the start.
        goal = AIM ** (1 + failed) * target * beta / norm(r)
        v, z = r / beta, z / beta
        v_old, z_old = np.zeros_like(v), np.zeros_like(z)
        d1, d2 = np.zeros_like(v), np.zeros_like(v)
        e, phi = 0.0, beta
        cs, sn, cs_old, sn_old = 1.0, 0.0, 1.0, 0.0
        window: list[tuple[Array, Array, Array]] = []
        while nit < maxiter and abs(phi) > goal:
            w = matvec(z)
            if not np.isfinite(norm(w)):
                status = NONFINITE
                break
            B = MC.conj().T @ w
            w = w - C @ B
            alpha = np.vdot(z, w).real
            v_new = w - alpha * v - e * v_old
            v_new = v_new - C @ (MC.conj().T @ v_new)
            z_new = minv(v_new)
            square = np.vdot(v_new, z_new).real
            if square < 0:
                status = NOT_SPD
                break
            e_new = float(np.sqrt(square))
            # Column (e, alpha, e_new) of the tridiagonal matrix under the two last rotations and a new one.
            far, mid = sn_old * e, cs_old * e
            near, diag = cs * mid + sn * alpha, cs * alpha - sn * mid
            rho = float(np.hypot(diag, e_new))
            nit += 1
            if rho <= 1e-14 * max(abs(alpha), e, np.finfo(float).tiny):
                status = BREAKDOWN
                break
            cs_old, sn_old, cs, sn = cs, sn, diag / rho, e_new / rho
            d = (z - U @ B - near * d1 - far * d2) / rho
            d1, d2 = d, d1
            x = x + cs * phi * d
            phi = -sn * phi
            residuals.append(abs(phi))
            if record:
                iterates.append(x.copy())
            if k > 0:
                MAz = alpha * z + e * z_old + z_new
                window.append((z - U @ B, w, MAz))
                if len(window) == harvest and (windows is None or harvested < windows):
                    kept, window, harvested = join(window), [], harvested + 1
            if e_new <= 1e-14 * abs(alpha):
                break
            v_old, v, z_old, z, e = v, v_new / e_new, z, z_new / e_new, e_new
        if k > 0 and window and (windows is None or harvested < windows):
            kept, harvested = join(window), harvested + 1
        true = b - matvec(x)
        failed += 1
    residual = norm(b - matvec(x))
    if residual <= target:
        status = CONVERGED
    space = kept[0] if k > 0 and kept[0].shape[1] else None
    return Result(
        x, status, nit, residual, residuals, matvec.columns, space, np.hstack([U, C, MC]), [], iterates
    )


def minres(A: Any, b: Array, x0: Array | None = None, **options: Any) -> Result:
    """MINRES: recycled MINRES that carries nothing."""
    return rminres(A, b, x0, k=0, **options)


# ----------------------------------------------------------------------------------------------- sequences


def project_solutions(A: Any, b: Array, X: Array, rcond: float = 1e-10) -> Array:
    """The combination of the columns of X with the least ``||b - A X c||`` (pivoted QR of A X)."""
    AX = np.asarray(A @ X)
    Q, R, perm = linalg.qr(AX, mode="economic", pivoting=True)
    diag = np.abs(np.diag(R))
    q = int(np.sum(diag > rcond * diag[0])) if diag.size and diag[0] > 0 else 0
    return X[:, perm[:q]] @ linalg.solve_triangular(R[:q, :q], Q[:, :q].conj().T @ b)


def greedy_order(P: Array, start: int = 0) -> Array:
    """From `start`, always on to the nearest row not yet visited; ties go to the smallest index."""
    P = np.asarray(P, float).reshape(len(P), -1)
    left = [i for i in range(len(P)) if i != start]
    order = [start]
    while left:
        distance = [norm(P[order[-1]] - P[j]) for j in left]
        order.append(left.pop(int(np.argmin(distance))))
    return np.array(order)


def nearest_solved(P: Array, solved: list[int], i: int, p: int) -> list[int]:
    """The p indices in `solved` whose parameters are nearest to those of i, nearest first."""
    P = np.asarray(P, float).reshape(len(P), -1)
    return sorted(solved, key=lambda j: (norm(P[i] - P[j]), j))[:p]
