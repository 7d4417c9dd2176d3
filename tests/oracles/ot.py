"""NumPy/SciPy oracle of the transport system: float64, no threads of its own, no compiled code of ours.

Notation (the entropy form, used by every kernel and driver here)::

    P_ij = exp((x_i + y_j - C_ij) / eps),   r = P 1,   c = P^T 1,
    f(x, y) = a.x + b.y - eps * sum(P)      concave dual, maximised,
    grad f = (a - r, b - c),   -Hess f = H / eps,   H = [diag(r) P; P^T diag(c)].

Newton directions are solved with ``H d = g`` and applied as ``x += eps * alpha * d_x``, so 1/eps never enters
the linear algebra.  ``err`` is always ``|P1 - a|_1 + |P^T 1 - b|_1``.

The Newton driver never rewrites its kernel matrix: inside one eps stage ``P = diag(u) K diag(v)`` with K from
one exp pass, and Newton steps as well as Sinkhorn steps only change u and v.  ``line_search="exp"`` gives the
same iteration with one exp per matrix entry and trial; it is the reference for the exp-free form.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

Array = NDArray[np.float64]

CONVERGED, MAXITER, STAGNATED, BREAKDOWN, NONFINITE = 0, 1, 2, 3, 4

# ------------------------------------------------------------------------------------------------ kernels


def exp_pass(C: Array, x: Array, y: Array, eps: float) -> tuple[Array, Array, Array]:
    """Return the plan ``P`` of potentials ``x, y`` with its row and column sums."""
    P = np.exp((x[:, None] + y[None, :] - C) / eps)
    return P, P.sum(axis=1), P.sum(axis=0)


def lse_rows(C: Array, y: Array, eps: float) -> Array:
    """Return ``eps * log sum_j exp((y_j - C_ij) / eps)``, row maximum subtracted; -inf for empty rows."""
    Z = (y[None, :] - C) / eps
    top = Z.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return eps * (safe + np.log(np.exp(Z - safe[:, None]).sum(axis=1)))


def lse_cols(C: Array, x: Array, eps: float) -> Array:
    """Return ``eps * log sum_i exp((x_i - C_ij) / eps)``, the transposed twin of `lse_rows`."""
    return lse_rows(C.T, x, eps)


def scale_sweep(K: Array, v: Array, a: Array, b: Array) -> tuple[Array, Array, float]:
    """Do one exp-free Sinkhorn iteration on ``diag(u) K diag(v)``: rows, then columns.

    Returns the new ``u, v`` and the row error ``|u * (K v) - a|_1`` after it (the column error is 0).
    """
    u = a / (K @ v)
    v = b / (K.T @ u)
    return u, v, float(np.abs(u * (K @ v) - a).sum())


def expm1_minus(t: Array) -> Array:
    """Return ``expm1(t) - t`` without cancellation (series below 1e-2, where it would lose digits)."""
    small = np.abs(t) < 1e-2
    s = np.where(small, t, 0.0)
    series = s * s * (0.5 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s * (1 / 720 + s / 5040)))))
    return np.where(small, series, np.expm1(t) - t)


def line_search_defect(P: Array, dx: Array, dy: Array, alpha: float) -> tuple[float, Array]:
    """Return ``sum P (expm1(t) - t)``, ``t = alpha (dx_i + dy_j)``, and the plan after the step.

    ``[f(z + alpha d) - f(z)] / eps = alpha * slope - defect``, without subtracting nearly equal numbers.
    """
    t = alpha * (dx[:, None] + dy[None, :])
    return float((P * expm1_minus(t)).sum()), P * np.exp(t)


def line_search_defect_rank_one(
    r: Array, c: Array, sx: Array, sy: Array, apply: Callable[[Array], Array]
) -> tuple[float, float]:
    """Return the same defect and a bound on its rounding error, by n + m exps and one product with P.

    ``expm1(s + t) = p + q + p q`` for ``p = expm1(s), q = expm1(t)``; ``sx = alpha dx``, ``sy = alpha dy``
    and ``apply(w) = P w``.  The error matters only for nearly disconnected plans, where ``dx_i ~ -dy_j`` are
    large on the support: the terms are then huge, and exp magnifies the rounding of its argument by ``|s|``.
    """
    p, q = np.expm1(sx), np.expm1(sy)
    Pq = apply(q)
    own = float(r @ expm1_minus(sx) + c @ expm1_minus(sy))
    magnify = 1.0 + max(np.abs(sx).max(), np.abs(sy).max())
    noise = 16 * np.finfo(float).eps * magnify * (own + float(np.abs(p) @ np.abs(Pq)))
    return own + float(p @ Pq), noise


def schur_matvec(P: Array, r: Array, c: Array, w: Array) -> Array:
    """Return ``S w = r w - P (P^T w / c)``, the Schur complement of H on the row potentials."""
    return r * w - P @ ((P.T @ w) / c)


def project(q: Array, r: Array) -> Array:
    """Return ``q - r * sum(q) / sum(r)``: sums to zero, and moves every row in proportion to its mass.

    Subtracting the mean instead would give a row of mass 1e-30 the rounding of the others, divided by 1e-30.
    """
    return q - r * (q.sum() / r.sum())


def schur_rhs(P: Array, r: Array, c: Array, gx: Array, gy: Array) -> Array:
    """Return ``g_x - P (g_y / c)`` projected into the range of S (the complement of 1)."""
    return project(gx - P @ (gy / c), r)


def hessian(P: Array) -> Array:
    """Return the dense ``H = [diag(r) P; P^T diag(c)]``."""
    return np.block([[np.diag(P.sum(axis=1)), P], [P.T, np.diag(P.sum(axis=0))]])


# --------------------------------------------------------------------------------------------- compaction


def _with_leaders(rows: NDArray, cols: NDArray, P: Array) -> sparse.csr_array:
    """Build the CSR of the given entries plus the largest entry of every row and column (connectivity)."""
    n, m = P.shape
    rows = np.concatenate([rows, np.arange(n), P.argmax(axis=0)])
    cols = np.concatenate([cols, P.argmax(axis=1), np.arange(m)])
    flat = np.unique(rows * m + cols)
    i, j = np.divmod(flat, m)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n))])
    return sparse.csr_array((P[i, j], j, indptr), shape=(n, m))


def compact_mass(P: Array, theta: float = 1e-2, cap: int | None = None) -> sparse.csr_array:
    """Keep ``P_ij > theta * min(r_i / m, c_j / n)``: at most theta of each row and of each column is dropped.

    With more than `cap` survivors only the `cap` largest ``P_ij / sqrt(r_i c_j)`` stay (and ties at the
    limit).  Row and column leaders are always kept.
    """
    n, m = P.shape
    r, c = P.sum(axis=1), P.sum(axis=0)
    rows, cols = np.nonzero(np.minimum(theta / m * r[:, None], theta / n * c[None, :]) < P)
    if cap is not None and rows.size > cap:
        weight = P[rows, cols] / np.sqrt(r[rows] * c[cols])
        keep = weight >= np.partition(weight, rows.size - cap)[rows.size - cap]
        rows, cols = rows[keep], cols[keep]
    return _with_leaders(rows, cols, P)


def compact_topk(P: Array, k: int) -> sparse.csr_array:
    """Keep every entry not below the k-th largest (the published global rule; ties stay)."""
    k = min(max(k, 1), P.size)
    rho = np.partition(P, P.size - k, axis=None)[P.size - k]
    keep = rho <= P
    return sparse.csr_array(np.where(keep, P, 0.0))


def compact_ssns(P: Array, delta: float) -> sparse.csr_array:
    """Drop, per column and then per row, the smallest entries while their running sum stays <= delta."""
    kept = P.copy()
    for axis in (0, 1):
        order = np.argsort(kept, axis=axis, kind="stable")
        dropped = np.cumsum(np.take_along_axis(kept, order, axis=axis), axis=axis) <= delta
        mask = np.zeros_like(dropped)
        np.put_along_axis(mask, order, dropped, axis=axis)
        kept[mask] = 0.0
    return sparse.csr_array(kept)


# -------------------------------------------------------------------- values, gauge, rounding, zero bins


def transport_values(
    a: Array, b: Array, C: Array, x: Array, y: Array, eps: float, reg_type: str = "kl"
) -> tuple[float, float]:
    """Return ``(value, value_linear)`` of entropy potentials ``x, y``.

    ``"entropy"``: ``<C,P> + eps sum P log P = a.x + b.y``.  ``"kl"``: ``<C,P> + eps KL(P|ab^T) = a.f + b.g``.
    Both are the dual value, a lower bound of the optimum if ``sum(P) = sum(a)``.
    """
    P, _, _ = exp_pass(C, x, y, eps)
    linear = float((np.where(P > 0, C, 0.0) * P).sum())
    if reg_type == "entropy":
        return float(a @ x + b @ y), linear
    if reg_type != "kl":
        raise ValueError(f"`reg_type` must be 'kl' or 'entropy', got {reg_type!r}")
    f, g = to_kl(a, b, x, y, eps)
    return float(a @ f + b @ g), linear


def to_kl(a: Array, b: Array, x: Array, y: Array, eps: float) -> tuple[Array, Array]:
    """Return the KL-form potentials ``f = x - eps log a``, ``g = y - eps log b``."""
    return x - eps * np.log(a), y - eps * np.log(b)


def to_entropy(a: Array, b: Array, f: Array, g: Array, eps: float) -> tuple[Array, Array]:
    """Return the entropy-form potentials ``x = f + eps log a``, ``y = g + eps log b``."""
    return f + eps * np.log(a), g + eps * np.log(b)


def gauge(a: Array, b: Array, f: Array, g: Array) -> tuple[Array, Array]:
    """Shift ``(f, g)`` to ``(f + t, g - t)`` so that ``a.f = b.g``, half the value each."""
    t = (b @ g - a @ f) / (a.sum() + b.sum())
    return f + t, g - t


def c_transform(C: Array, g: Array, b: Array, eps: float) -> Array:
    """Return ``f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)``, the c-transform, finite if a_i = 0."""
    live = b > 0
    return -lse_rows(C[:, live], g[live] + eps * np.log(b[live]), eps)


def extend_zero_bins(a: Array, b: Array, C: Array, f: Array, g: Array, eps: float) -> tuple[Array, Array]:
    """Extend potentials solved on the bins of positive mass to all bins by the c-transform."""
    rows, cols = a > 0, b > 0
    full_f, full_g = np.empty_like(a), np.empty_like(b)
    full_f[rows], full_g[cols] = f, g
    full_f[~rows] = c_transform(C[~rows][:, cols], g, b[cols], eps)
    full_g[~cols] = c_transform(C[rows][:, ~cols].T, f, a[rows], eps)
    return full_f, full_g


def round_plan(P: Array, a: Array, b: Array) -> Array:
    """Return the Altschuler rounding of P: exact marginals, at most twice the marginal error away in L1."""
    r = P.sum(axis=1)
    X = np.minimum(np.divide(a, r, out=np.ones_like(a), where=r > 0), 1.0)
    c = X @ P
    Y = np.minimum(np.divide(b, c, out=np.ones_like(b), where=c > 0), 1.0)
    Q = X[:, None] * P * Y[None, :]
    err_r, err_c = np.maximum(a - Q.sum(axis=1), 0.0), np.maximum(b - Q.sum(axis=0), 0.0)
    mass = err_r.sum()
    return Q + np.outer(err_r, err_c) / mass if mass > 0 else Q


# ------------------------------------------------------------------------------------------ derivatives


def vjp(
    a: Array,
    b: Array,
    C: Array,
    x: Array,
    y: Array,
    eps: float,
    *,
    grad_value: float = 0.0,
    grad_plan: Array | None = None,
    reg_type: str = "kl",
) -> dict[str, Array]:
    """Return the cotangents of ``M, a, b`` (and of ``reg``) at a converged solution.

    The value part is the envelope theorem; the plan part solves the dense ``H [u; v] = [w; z]`` with the
    null vector (1, -1) pinned.  ``a`` and ``b`` cotangents are defined up to a constant on the simplex and
    returned with mean 0.
    """
    P, r, c = exp_pass(C, x, y, eps)
    n, m = P.shape
    dM, da, db, deps = grad_value * P, np.zeros(n), np.zeros(m), 0.0
    logP = (x[:, None] + y[None, :] - C) / eps
    logP[P == 0] = 0.0
    if grad_value:
        f, g = (x, y) if reg_type == "entropy" else to_kl(a, b, x, y, eps)
        da += grad_value * f
        db += grad_value * g
        entropy = float((P * logP).sum())
        if reg_type == "kl":
            entropy -= float(r @ np.log(a) + c @ np.log(b))
        deps += grad_value * entropy
    if grad_plan is not None:
        weighted = P * grad_plan
        null = np.concatenate([np.ones(n), -np.ones(m)])
        H = hessian(P) + np.outer(null, null) * (r.mean() / (n + m))
        uv = np.linalg.solve(H, np.concatenate([weighted.sum(axis=1), weighted.sum(axis=0)]))
        u, v = uv[:n], uv[n:]
        centred = P * (grad_plan - u[:, None] - v[None, :])
        dM = dM - centred / eps
        da += u
        db += v
        deps -= float((centred * logP).sum()) / eps
    return {"M": dM, "a": da - da.mean(), "b": db - db.mean(), "reg": np.asarray(deps)}


def vjp_points(dM: Array, X: Array, Y: Array) -> tuple[Array, Array]:
    """Pull a cotangent of ``M_ij = |X_i - Y_j|^2`` back to the points."""
    return (
        2 * (dM.sum(axis=1)[:, None] * X - dM @ Y),
        2 * (dM.sum(axis=0)[:, None] * Y - dM.T @ X),
    )


# ------------------------------------------------------------------------------------- driver: Sinkhorn


@dataclass
class OracleResult:
    """Entropy-form potentials, certificate and counts of one oracle solve."""

    x: Array
    y: Array
    err: float
    status: int
    nit_sinkhorn: int = 0
    nit_newton: int = 0
    nit_cg: int = 0
    n_exp: int = 0
    n_trial: int = 0
    n_factor: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    time: float = 0.0


def _certify(C: Array, a: Array, b: Array, x: Array, y: Array, eps: float) -> float:
    _, r, c = exp_pass(C, x, y, eps)
    return float(np.abs(r - a).sum() + np.abs(c - b).sum())


def sinkhorn_oracle(
    a: Array,
    b: Array,
    C: Array,
    eps: float,
    *,
    tol: float = 1e-9,
    maxiter: int = 100_000,
    absorb: float = 30.0,
) -> OracleResult:
    """Stabilised Sinkhorn: log-sum-exp start, exp-free sweeps, scalings beyond ``exp(absorb)`` absorbed."""
    start = time.perf_counter()
    state = ScaledPlan(a, b, C)
    state.start(np.zeros(b.size), eps)
    history = [{"err": state.err}]
    while state.err > tol and state.nit_sinkhorn < maxiter:
        state.sinkhorn(absorb)
        history.append({"err": state.err})
        if not np.isfinite(state.err):
            break
    x, y = state.potentials()
    err = _certify(C, a, b, x, y, eps)
    status = CONVERGED if err <= tol else (MAXITER if np.isfinite(err) else NONFINITE)
    return OracleResult(
        x,
        y,
        err,
        status,
        state.nit_sinkhorn,
        n_exp=state.n_exp + 1,
        history=history,
        time=time.perf_counter() - start,
    )


class ScaledPlan:
    """The plan of one eps stage as ``diag(u) K diag(v)``, ``K = exp((x0 + y0 - C) / eps)``."""

    def __init__(self, a: Array, b: Array, C: Array) -> None:
        self.a, self.b, self.C = a, b, C
        self.nit_sinkhorn = self.n_exp = 0

    def start(self, y: Array, eps: float) -> None:
        """Rows by exact log-sum-exp from `y` (one exp pass gives K too), then columns: one full iteration."""
        self.eps = eps
        self.K = y[None, :] - self.C
        self.K /= eps
        top = self.K.max(axis=1)
        self.K -= top[:, None]
        np.exp(self.K, out=self.K)
        total = self.K.sum(axis=1)
        self.K *= (self.a / total)[:, None]
        self.n_exp += 1
        self.x0, self.y0 = eps * (np.log(self.a) - np.log(total) - top), y
        self.u, self.v = np.ones_like(self.a), np.ones_like(self.b)
        c = self.K.sum(axis=0)
        # A column that underflowed (or nearly) needs its own maximum: exact log-sum-exp, then a rebuild.
        if c.min() < 1e-200 * self.b.max():
            self.y0 = eps * np.log(self.b) - lse_cols(self.C, self.x0, eps)
            self.K, _, c = exp_pass(self.C, self.x0, self.y0, eps)
            self.n_exp += 2
        self.v = self.b / c
        self.nit_sinkhorn += 1
        self.measure()

    def measure(self) -> None:
        """Row sums and error; the columns have just been scaled, so they hold to rounding."""
        self.r = self.u * (self.K @ self.v)
        self.err = float(np.abs(self.r - self.a).sum())

    def rescale(self, u: Array, v: Array, absorb: float) -> None:
        """Accept scalings; fold them into the potentials and rebuild K when they leave ``exp(+-absorb)``."""
        self.u, self.v = u, v
        with np.errstate(all="ignore"):
            spread = max(np.abs(np.log(u)).max(), np.abs(np.log(v)).max())
        if np.isfinite(spread) and spread > absorb:
            self.x0, self.y0 = self.potentials()
            self.K, _, c = exp_pass(self.C, self.x0, self.y0, self.eps)
            self.n_exp += 1
            # The rounding of the potentials, ulp / eps, has moved the column sums: restore them.
            self.u, self.v = np.ones_like(u), self.b / c

    def sinkhorn(self, absorb: float = 30.0) -> None:
        """One exp-free iteration from the current ``v``; a log-sum-exp iteration if a sum vanished."""
        with np.errstate(all="ignore"):
            u = self.a / (self.K @ self.v)
            v = self.b / (self.K.T @ u)
        if np.isfinite(u).all() and np.isfinite(v).all():
            self.rescale(u, v, absorb)
            self.nit_sinkhorn += 1
            self.measure()
        else:
            _, y = self.potentials()
            self.start(y, self.eps)

    def potentials(self) -> tuple[Array, Array]:
        return self.x0 + self.eps * np.log(self.u), self.y0 + self.eps * np.log(self.v)

    def plan(self) -> Array:
        return self.u[:, None] * self.K * self.v[None, :]

    def apply(self, w: Array) -> Array:
        return self.u * (self.K @ (self.v * w))

    def apply_t(self, w: Array) -> Array:
        return self.v * (self.K.T @ (self.u * w))


# ----------------------------------------------------------------------------- driver: SNS as published


def _cg(
    apply: Callable[[Array], Array],
    rhs: Array,
    solve: Callable[[Array], Array],
    rtol: float,
    maxit: int,
    start: Array | None = None,
    r: Array | None = None,
) -> tuple[Array, int, bool]:
    """Preconditioned CG on the plain residual norm; returns iterate, iterations and success.

    `r`, the diagonal of a singular Schur complement, asks for a projection every 10 iterations.  A residual
    below the rounding of ``r * x`` cannot be improved (near-null directions of an almost disconnected plan
    make x large) and ends the iteration as well.
    """
    x = np.zeros_like(rhs) if start is None else start
    res = rhs - apply(x) if start is not None else rhs.copy()
    goal = rtol * np.linalg.norm(rhs)
    if np.linalg.norm(res) <= goal:
        return x, 0, True
    ulp = 4 * np.finfo(float).eps
    z = solve(res)
    p, rz = z.copy(), res @ z
    for it in range(1, maxit + 1):
        q = apply(p)
        curvature = p @ q
        if not curvature > 0:
            return x, it, False
        step = rz / curvature
        x = x + step * p
        res = res - step * q
        if r is not None and it % 10 == 0:
            res = project(res, r)
        if np.linalg.norm(res) <= max(goal, 0.0 if r is None else ulp * np.linalg.norm(r * x)):
            return x, it, True
        z = solve(res)
        rz, old = res @ z, rz
        p = z + (rz / old) * p
    return x, maxit, False


def _apply_kkt(T: sparse.csr_array, Tt: sparse.csr_array, r: Array, c: Array, w: Array) -> Array:
    n = r.size
    return np.concatenate([r * w[:n] + T @ w[n:], Tt @ w[:n] + c * w[n:]])


def sns_oracle(
    a: Array,
    b: Array,
    C: Array,
    eps: float,
    *,
    lam: float | None = None,
    warmup: int = 20,
    tol: float = 1e-9,
    maxiter: int = 100,
    cg_rtol: float = 1e-10,
    cg_maxiter: int = 2000,
    c1: float = 1e-4,
) -> OracleResult:
    """Sinkhorn-Newton-Sparse as published: Sinkhorn warm-up, then Newton on the top-k Hessian with plain CG.

    The ``ceil(lam * n * m)`` largest plan entries are kept (default ``lam = 8 / max(n, m)``), the diagonal
    stays exact.  The step is the Armijo backtracking one, with the cancellation-free difference; nothing else
    is done between steps.
    """
    start = time.perf_counter()
    n, m = C.shape
    lam = 8 / max(n, m) if lam is None else lam
    state = ScaledPlan(a, b, C)
    state.start(np.zeros(m), eps)
    while state.nit_sinkhorn < warmup and state.err > tol:
        state.sinkhorn()
    x, y = state.potentials()
    P, r, c = exp_pass(C, x, y, eps)
    out = OracleResult(x, y, state.err, MAXITER, state.nit_sinkhorn, n_exp=state.n_exp + 1)
    while True:
        gx, gy = a - r, b - c
        out.err = float(np.abs(gx).sum() + np.abs(gy).sum())
        out.history.append({"err": out.err})
        if out.err <= tol or out.nit_newton >= maxiter:
            break
        T = compact_topk(P, int(np.ceil(lam * n * m)))
        apply = partial(_apply_kkt, T, sparse.csr_array(T.T), r, c)
        g = np.concatenate([gx, gy])
        d, its, _ = _cg(apply, g, np.copy, cg_rtol, cg_maxiter)
        out.nit_cg += its
        slope = float(g @ d)
        alpha = 1.0
        for _ in range(40):
            defect, P_new = line_search_defect(P, d[:n], d[n:], alpha)
            out.n_exp += 1
            out.n_trial += 1
            if defect <= (1 - c1) * alpha * slope:
                break
            alpha /= 2
        else:
            out.status = STAGNATED
            break
        out.x = out.x + eps * alpha * d[:n]
        out.y = out.y + eps * alpha * d[n:]
        P, r, c = P_new, P_new.sum(axis=1), P_new.sum(axis=0)
        out.nit_newton += 1
        out.history[-1] |= {"alpha": alpha, "n_cg": its, "nnz": T.nnz}
    out.err = _certify(C, a, b, out.x, out.y, eps)
    if out.err <= tol:
        out.status = CONVERGED
    out.time = time.perf_counter() - start
    return out


# ------------------------------------------------------------------------------- driver: scaled Newton


class SparseFactor:
    """Sparse factor of ``T = [diag(r) Ps; Ps^T diag(c)]`` for a compacted plan ``Ps`` and shifted r, c."""

    def __init__(self, Ps: sparse.csr_array, r: Array, c: Array) -> None:
        self.n = r.size
        T = sparse.block_array([[sparse.diags_array(r), Ps], [Ps.T, sparse.diags_array(c)]])
        self.lu = splu(
            sparse.csc_array(T),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        self.nnz = Ps.nnz
        self.fill = self.lu.L.nnz

    def solve_rows(self, w: Array) -> Array:
        """Return ``(T^-1 [w; 0])_x``: the preconditioner of the Schur complement."""
        return self.lu.solve(np.concatenate([w, np.zeros(self.lu.shape[0] - self.n)]))[: self.n]


def eps_stages(C: Array, eps: float, first: float = 0.05, q: float = 0.25) -> list[float]:
    """Return ``max(eps, first * range(C) * q^k)``, k = 0, 1, ..., ending with eps itself."""
    finite = C[np.isfinite(C)]
    e = first * float(finite.max() - finite.min())
    stages = []
    while e > eps:
        stages.append(e)
        e *= q
    return [*stages, eps]


@dataclass(frozen=True)
class NewtonOptions:
    """Options of `newton_oracle`; the defaults are those of the solver."""

    tol: float = 1e-9
    maxiter: int = 200  # Newton steps in all
    eps_scaling: bool = True
    q: float = 0.25  # eps factor between stages
    stage_sinkhorn: int = 3
    stage_tol: float = 1e-2
    linear_solver: str = "auto"  # or "jacobi", "hybrid", "direct"
    switch: int = 60  # Jacobi iterations after which "auto" builds the factor
    cg_maxiter: int = 400
    sparsify: str = "mass"  # or "topk", "ssns"
    per_row: int = 2
    theta: float = 1e-2
    shift: float = 1e-14  # of the preconditioner: its diagonal is (1 + shift) * (r, c)
    line_search: str = "rank_one"  # or "exp"
    gate: float = 3.0
    gate_maxiter: int = 40
    c1: float = 1e-4


def newton_oracle(
    a: Array, b: Array, C: Array, eps: float, *, init: tuple[Array, Array] | None = None, **options: object
) -> OracleResult:
    """Newton in eps-scaled stages with sparse-plan preconditioning (the solver behind ``method="newton"``).

    Per stage: `stage_sinkhorn` iterations (fewer when the stage tolerance is met first), the per-bin gate,
    then Newton steps on the Schur complement, each followed by one row and one column scaling.  All of a
    stage runs on one exp pass.  `linear_solver`: ``"jacobi"``; ``"hybrid"``, a factor of the compacted plan
    as preconditioner from the first step; ``"auto"``, Jacobi until one solve needs more than `switch`
    iterations, hybrid from then on; ``"direct"``, a factor of the mass-rule plan as the operator.  `init` are
    entropy-form potentials and skip the eps scaling; only those of the columns matter, because a stage starts
    with the row scaling.

    Per Newton step, in n*m matrix reads: 2 per CG iteration, 1 per line-search trial, 3 for the two scalings
    and the new error, and for hybrid and direct 1 for the compaction.  No matrix is written.
    """
    start = time.perf_counter()
    opt = NewtonOptions(**options)
    if a.size > b.size:  # the Schur complement is taken on the smaller side
        flipped = None if init is None else (init[1], init[0])
        out = _newton(b, a, np.ascontiguousarray(C.T), eps, flipped, opt)
        out.x, out.y = out.y, out.x
    else:
        out = _newton(a, b, C, eps, init, opt)
    out.time = time.perf_counter() - start
    return out


def _newton(
    a: Array, b: Array, C: Array, eps: float, init: tuple[Array, Array] | None, opt: NewtonOptions
) -> OracleResult:
    state = ScaledPlan(a, b, C)
    out = OracleResult(np.zeros(a.size), np.zeros(b.size), np.inf, MAXITER)
    if init is not None:
        out.x, out.y = init[0].copy(), init[1].copy()
    stages = eps_stages(C, eps, q=opt.q) if opt.eps_scaling and init is None else [eps]
    hybrid = opt.linear_solver == "hybrid"
    for stage, e in enumerate(stages):
        goal = opt.tol if stage == len(stages) - 1 else max(opt.stage_tol, opt.tol)
        state.start(out.y, e)
        for _ in range(opt.stage_sinkhorn - 1):
            if state.err <= goal:
                break
            state.sinkhorn()
        for _ in range(opt.gate_maxiter):
            if state.err <= goal or np.abs(np.log(state.r / a)).max() < opt.gate:
                break
            state.sinkhorn()
        reference, since = state.err, 0
        while state.err > goal and out.nit_newton < opt.maxiter:
            g = a - state.r
            if opt.linear_solver == "direct":
                shift = 1e-3 * min(1.0, state.err) * state.r.mean()
                factor = SparseFactor(compact_mass(state.plan(), opt.theta), state.r + shift, b + shift)
                out.n_factor += 1
                d = factor.lu.solve(np.concatenate([g, np.zeros(b.size)]))
                dx, dy = d[: a.size], d[a.size :]
                n_cg = 0
            else:
                dx, n_cg, factor = _schur_solve(state, g, hybrid, opt, out)
                hybrid = hybrid or factor is not None
                dy = -state.apply_t(dx) / b
                out.nit_cg += n_cg
            accepted, alpha, trials = _step(state, g, dx, dy, opt, out)
            sizes = {"nnz": factor.nnz, "fill": factor.fill} if factor else {}
            out.history.append(
                {"eps": e, "err": state.err, "alpha": alpha, "n_cg": n_cg, "trials": trials} | sizes
            )
            if accepted:
                out.nit_newton += 1
            else:
                state.sinkhorn()
            since += 1
            if since == 20:
                if not state.err < 0.1 * reference:
                    break
                reference, since = state.err, 0
        out.x, out.y = state.potentials()
    out.nit_sinkhorn = state.nit_sinkhorn
    out.n_exp += state.n_exp + 1
    out.err = _certify(C, a, b, out.x, out.y, eps)
    if out.err <= opt.tol:
        out.status = CONVERGED
    elif not np.isfinite(out.err):
        out.status = NONFINITE
    elif out.nit_newton < opt.maxiter:
        out.status = STAGNATED
    return out


def _schur_solve(
    state: ScaledPlan, g: Array, hybrid: bool, opt: NewtonOptions, out: OracleResult
) -> tuple[Array, int, SparseFactor | None]:
    """Solve ``S dx = project(g)`` (the column gradient is 0) to ``min(0.1, 0.1 sqrt(err))`` of its norm.

    "auto" goes on from the Jacobi iterate when it changes to the factor within a solve.
    """
    r, c, rhs = state.r, state.b, project(g, state.r)
    rtol = min(0.1, 0.1 * np.sqrt(state.err))

    def apply(w: Array) -> Array:
        return r * w - state.apply(state.apply_t(w) / c)

    dx, n_cg = None, 0
    if not hybrid:
        limit = opt.switch if opt.linear_solver == "auto" else opt.cg_maxiter
        dx, n_cg, solved = _cg(apply, rhs, lambda w: w / r, rtol, limit, r=r)
        if solved or opt.linear_solver == "jacobi":
            return dx, n_cg, None
    Ps = _compact(state.plan(), opt, state.err)
    factor = SparseFactor(Ps, r * (1 + opt.shift), c * (1 + opt.shift))
    out.n_factor += 1
    dx, its, _ = _cg(apply, rhs, factor.solve_rows, rtol, opt.cg_maxiter, dx, r=r)
    return dx, n_cg + its, factor


def _compact(P: Array, opt: NewtonOptions, err: float) -> sparse.csr_array:
    """Compact the plan for the preconditioner by the chosen rule."""
    n, m = P.shape
    if opt.sparsify == "topk":
        return compact_topk(P, opt.per_row * (n + m))
    if opt.sparsify == "ssns":
        return compact_ssns(P, 1e-2 * err / max(n, m))
    return compact_mass(P, opt.theta, opt.per_row * (n + m))


def _armijo(
    state: ScaledPlan, dx: Array, dy: Array, alpha: float, bound: float, line_search: str, out: OracleResult
) -> bool:
    """Decide ``defect <= bound``: by one matvec where its rounding error allows it, else by one exp pass."""
    if line_search == "rank_one":
        with np.errstate(all="ignore"):
            defect, noise = line_search_defect_rank_one(state.r, state.b, alpha * dx, alpha * dy, state.apply)
        if defect + noise <= bound:
            return True
        if defect - noise > bound:
            return False
    out.n_exp += 1
    t = alpha * (dx[:, None] + dy[None, :])
    return bool(state.u @ (state.K * expm1_minus(t)) @ state.v <= bound)


def _step(
    state: ScaledPlan, g: Array, dx: Array, dy: Array, opt: NewtonOptions, out: OracleResult
) -> tuple[bool, float, int]:
    """Armijo backtracking along (dx, dy), then one row and one column scaling.

    The row scaling makes the new u independent of dx (it is ``a / (K v exp(alpha dy))``), so an accepted step
    is: scale v, sweep.
    """
    slope = float(g @ dx)
    if not (slope > 0 and np.isfinite(dx).all() and np.isfinite(dy).all()):
        return False, 0.0, 0
    top = float(dx.max() + dy.max())
    alpha = min(1.0, 30.0 / top) if top > 0 else 1.0
    before = out.n_trial
    for _ in range(40):
        out.n_trial += 1
        if _armijo(state, dx, dy, alpha, (1 - opt.c1) * alpha * slope, opt.line_search, out):
            break
        alpha /= 2
    else:
        return False, 0.0, out.n_trial - before
    with np.errstate(all="ignore"):
        v = state.v * np.exp(alpha * dy)
        u = state.a / (state.K @ v)
        v = state.b / (state.K.T @ u)
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        return False, 0.0, out.n_trial - before
    state.rescale(u, v, 30.0)
    state.measure()
    return True, alpha, out.n_trial - before
