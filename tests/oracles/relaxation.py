"""NumPy oracle of SOR, SSOR-CG and the rules that choose omega: one row, one step, one product at a time.

A = L + D + U with L and U the entries left and right of the diagonal in the order `rows` in which rows are
swept (None: as they are). Matrices are dense or sparse; nothing here is ours and compiled.

Counts: k is the first sweep or iteration after which ``||b - A x_k||_2 <= max(rtol * ref, atol)``, with ref
``||b||_2`` or ``||b - A x_0||_2``; it is 0 where the start passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import splu

Array = NDArray[Any]

CONVERGED, MAXITER, NONFINITE, NOT_SPD, DIVERGED = 0, 1, 4, 6, 8
GROWTH = 1e8  # of the residual, at which an iteration counts as diverging


@dataclass
class Result:
    """What a solve returns; `residuals` has the start's norm and one more per sweep or iteration."""

    x: Array
    status: int
    nit: int
    residuals: list[float]
    omega: float
    mu: float = 0.0  # spectral radius of the Jacobi matrix as the adaptive rule saw it; 0: not seen
    omegas: list[float] = field(default_factory=list)  # before each sweep


# ----------------------------------------------------------------------------------------- orders and splits


def dense(A: Any) -> Array:
    """A as a 2-D array."""
    return A.toarray() if sparse.issparse(A) else np.array(A, dtype=float)


def neighbours(A: Any) -> list[list[int]]:
    """For every row the others that it is coupled with, in either direction."""
    B = sparse.coo_array(A)
    found: list[set[int]] = [set() for _ in range(B.shape[0])]
    for i, j in zip(*map(np.ndarray.tolist, B.coords), strict=True):
        if i != j:
            found[i].add(j)
            found[j].add(i)
    return [sorted(s) for s in found]


def two_colours(A: Any) -> list[int] | None:
    """Colours 0 and 1, 0 for the first row of every component; None where two are too few."""
    graph = neighbours(A)
    colour = [-1] * len(graph)
    for first in range(len(graph)):
        if colour[first] >= 0:
            continue
        colour[first] = 0
        stack = [first]
        while stack:
            i = stack.pop()
            for j in graph[i]:
                if colour[j] == colour[i]:
                    return None
                if colour[j] < 0:
                    colour[j] = 1 - colour[i]
                    stack.append(j)
    return colour


def greedy_colours(A: Any) -> list[int]:
    """Every row in turn gets the smallest colour that no neighbour before it has."""
    graph = neighbours(A)
    colour: list[int] = []
    for i, near in enumerate(graph):
        taken = {colour[j] for j in near if j < i}
        colour.append(next(c for c in range(len(graph)) if c not in taken))
    return colour


def by_colour(colour: list[int]) -> Array:
    """Rows by colour, and by number within a colour."""
    return np.argsort(colour, kind="stable")


def permuted(A: Any, rows: Any) -> Any:
    """A with rows and columns in the order of a sweep, sparse."""
    A = sparse.csr_array(A)
    return A if rows is None else sparse.csr_array(A[np.asarray(rows)][:, np.asarray(rows)])


def splitting(A: Any, omega: float) -> tuple[Array, Any, Any]:
    """The diagonal d, ``N = D / omega + L`` and its mirror image ``D / omega + U``."""
    d = A.diagonal()
    scaled = sparse.diags_array(d / omega)
    return d, scaled + sparse.tril(A, -1), scaled + sparse.triu(A, 1)


def triangular(N: Any) -> Callable[[Array], Array]:
    """``v -> N^-1 v`` for a sparse triangular N: elimination without fill and without exchanges."""
    return splu(sparse.csc_array(N), permc_spec="NATURAL", diag_pivot_thresh=0.0).solve


# ------------------------------------------------------------------------------------------------------- SOR


def sweep(A: Any, b: Array, x: Array, omega: float, direction: str = "forward", rows: Any = None) -> Array:
    """One sweep by the definition: each row in turn is relaxed with the newest values of all others."""
    A, x = dense(A), np.array(x, dtype=float)
    order = list(range(len(x)) if rows is None else rows)
    walks = {"forward": [order], "backward": [order[::-1]], "symmetric": [order, order[::-1]]}[direction]
    for walk in walks:
        for i in walk:
            others = A[i] @ x - A[i, i] * x[i]
            x[i] += omega * ((b[i] - others) / A[i, i] - x[i])
    return x


def colour_sweep(A: Any, b: Array, x: Array, omega: float, colour: list[int]) -> Array:
    """A forward sweep over colours; rows of one colour are not coupled and change together."""
    A, x, colours = dense(A), np.array(x, dtype=float), np.array(colour)
    for c in range(colours.max() + 1):
        own = colours == c
        x[own] += omega * (b - A @ x)[own] / np.diag(A)[own]
    return x


def sor(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | str = 1.0,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
    direction: str = "forward",
    rows: Any = None,
    shift: float = 0.0,
    norm_ref: str = "b",
) -> Result:
    """SOR for ``(A + shift I) x = b``; ``omega="adaptive"`` starts at 1, a pair ("adaptive", w) at w."""
    adaptive = not isinstance(omega, int | float)
    w = float(omega) if not adaptive else 1.0 if isinstance(omega, str) else float(omega[1])
    A = permuted(A, rows)
    A = sparse.csr_array(A + shift * sparse.eye_array(A.shape[0]))
    place = np.arange(len(b)) if rows is None else np.asarray(rows)
    b = np.asarray(b, dtype=float)[place]
    x = np.zeros(len(b)) if x0 is None else np.asarray(x0, dtype=float)[place]
    r = b - A @ x
    residuals = [float(np.linalg.norm(r))]
    target = max(rtol * (residuals[0] if norm_ref == "r0" else float(np.linalg.norm(b))), atol)
    rule = AdaptiveOmega(w)
    forward, backward = (triangular(N) for N in splitting(A, w)[1:])
    omegas: list[float] = []
    status = CONVERGED
    while not residuals[-1] <= target:
        if not np.isfinite(residuals[-1]):
            status = NONFINITE
        elif residuals[-1] > GROWTH * residuals[0]:
            status = DIVERGED
        elif len(omegas) == maxiter:
            status = MAXITER
        if status != CONVERGED:
            break
        omegas.append(w)
        before = x
        for half in {"forward": [forward], "backward": [backward], "symmetric": [forward, backward]}[
            direction
        ]:
            x = x + half(b - A @ x)
        residuals.append(float(np.linalg.norm(b - A @ x)))
        if adaptive and rule.observe(float(np.linalg.norm(x - before))):
            w = rule.omega
            forward, backward = (triangular(N) for N in splitting(A, w)[1:])
    out = np.empty_like(x)
    out[place] = x
    return Result(out, status, len(omegas), residuals, w, rule.mu, omegas)


class AdaptiveOmega:
    """Raises omega during a solve: the rate of the changes, once settled, tells the Jacobi radius mu."""

    def __init__(self, omega: float = 1.0) -> None:
        self.omega, self.mu = omega, 0.0
        self._restart()

    def _restart(self) -> None:
        self.sweeps = 0  # since the last change of omega
        self.change = self.rate = self.moved = np.nan

    def observe(self, change: float) -> bool:
        """``||x_k - x_{k-1}||`` of the sweep just done; whether omega is another one now."""
        self.sweeps += 1
        rate = change / self.change
        moved, last = abs(rate - self.rate), self.moved
        self.change, self.rate, self.moved = change, rate, moved
        w = self.omega
        settled = self.sweeps >= 5 and rate < 1 and moved < 0.05 * (1 - rate) and last < 0.05 * (1 - rate)
        if not settled or rate <= (w - 1) ** 0.75:  # near omega - 1 the rate says nothing about mu
            return False
        square = (rate + w - 1) ** 2 / (w**2 * rate)
        if not square < 1:
            return False
        self.mu = float(np.sqrt(square))
        better = young_omega(self.mu)
        if better <= w + 0.05 * (2 - w):
            return False
        self.omega = better
        self._restart()
        return True


# ----------------------------------------------------------------------------------------------------- theory


def young_omega(mu: float) -> float:
    """The best omega of a consistently ordered matrix whose Jacobi matrix has spectral radius mu."""
    return float(2 / (1 + np.sqrt(1 - mu**2)))


def sor_rate(omega: float, mu: float) -> float:
    """Spectral radius of SOR's iteration matrix for the same matrices."""
    if omega > young_omega(mu):
        return omega - 1
    return float((omega * mu + np.sqrt(max(omega**2 * mu**2 - 4 * (omega - 1), 0))) / 2) ** 2


def axelsson_omega(alpha: float, delta: float) -> float:
    """The omega that makes `condition_bound` smallest."""
    return float(2 / (1 + 2 * np.sqrt((0.5 + delta) / alpha)))


def condition_bound(omega: float, alpha: float, delta: float) -> float:
    """Bound of the condition number of M^-1 A, M the symmetric successive over-relaxation."""
    return (1 + alpha * (2 - omega) ** 2 / (4 * omega) + delta * omega) / (2 - omega)


def iteration_bound(kappa: float, kappa_a: float, eps: float) -> float:
    """CG's iterations until ``||r|| <= eps ||r_0||``: `kappa` preconditioned, `kappa_a` of A itself."""
    root = np.sqrt(kappa_a)
    return float(
        1 + np.log(root / eps + np.sqrt(kappa_a / eps**2 - 1)) / -np.log(1 - 2 / (1 + np.sqrt(kappa)))
    )


# ----------------------------------------------------------------------------------------- estimates of omega


def scaled(A: Any) -> Array:
    """``D^-1/2 A D^-1/2``, dense."""
    A = dense(A)
    root = np.sqrt(np.diag(A))
    return A / root[:, None] / root


def lanczos(S: Array, start: Array, steps: int) -> tuple[Array, Array]:
    """Orthonormal basis Q of the Krylov space of a symmetric S, every vector against all, and Q' S Q."""
    Q = np.asarray(start, dtype=float)[:, None] / np.linalg.norm(start)
    while Q.shape[1] < min(steps, len(start)):
        w = S @ Q[:, -1]
        size = np.linalg.norm(w)
        for _ in range(2):
            w = w - Q @ (Q.T @ w)
        if np.linalg.norm(w) <= 1e-10 * size:  # the space is invariant
            break
        Q = np.column_stack([Q, w / np.linalg.norm(w)])
    return Q, Q.T @ S @ Q


def young_estimate(A: Any, start: Array, steps: int = 24) -> float:
    """mu from Lanczos steps on ``D^-1/2 A D^-1/2``, below 1."""
    theta = np.linalg.eigvalsh(lanczos(scaled(A), start, steps)[1])
    return float(min(max(1 - theta[0], theta[-1] - 1), 1 - 1e-9))


def axelsson_estimate(A: Any, start: Array, steps: int = 24) -> tuple[float, float]:
    """alpha = max x'Dx / x'Ax and delta = max x'(L D^-1 L' - D/4) x / x'Ax on the same space, delta >= 0."""
    S = scaled(A)
    Q, T = lanczos(S, start, steps)
    W = np.tril(S, -1).T @ Q
    delta = linalg.eigh(W.T @ W - np.eye(Q.shape[1]) / 4, (T + T.T) / 2, eigvals_only=True)[-1]
    return float(1 / np.linalg.eigvalsh(T)[0]), float(max(delta, 0.0))


# --------------------------------------------------------------------------------------------------------- CG


def cg(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    precondition: Callable[[Array], Array] | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
) -> Result:
    """Conjugate gradients; the residual is recomputed at the end, and a drift of a factor 10 starts anew."""
    M = precondition or (lambda v: v)
    x = np.zeros(len(b)) if x0 is None else np.array(x0, dtype=float)
    r = b - A @ x
    residuals = [float(np.linalg.norm(r))]
    target = max(rtol * float(np.linalg.norm(b)), atol)
    nit, rho, p = 0, 0.0, np.zeros(len(b))
    while nit < maxiter:
        if np.linalg.norm(r) <= target:
            true = b - A @ x
            if np.linalg.norm(true) <= 10 * target:
                break
            r, rho = true, 0.0
        z = M(r)
        new = float(r @ z)
        p = z if rho == 0 else z + (new / rho) * p
        rho = new
        q = A @ p
        curvature = float(p @ q)
        if not curvature > 0:
            return Result(x, NOT_SPD, nit, residuals, 0.0)
        x, r = x + (rho / curvature) * p, r - (rho / curvature) * q
        nit += 1
        residuals.append(float(np.linalg.norm(r)))
    return Result(x, CONVERGED if residuals[-1] <= target else MAXITER, nit, residuals, 0.0)


def ssor_cg(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float = 1.0,
    eisenstat: bool = False,
    rows: Any = None,
    shift: float = 0.0,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int = 10_000,
) -> Result:
    """CG preconditioned by ``M = N (D/omega)^-1 N'``, N = D/omega + L, or its steps by Eisenstat's form."""
    place = np.arange(len(b)) if rows is None else np.asarray(rows)
    A = permuted(A, rows)
    A = sparse.csr_array(A + shift * sparse.eye_array(A.shape[0]))
    b = np.asarray(b, dtype=float)[place]
    start = None if x0 is None else np.asarray(x0, dtype=float)[place]
    d, N, _ = splitting(A, omega)
    lower, upper = triangular(N), triangular(N.T)
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "maxiter": maxiter}
    if eisenstat:
        res = _eisenstat(A, b, start, d, N, lower, upper, 2 / omega - 1, **options)
    else:
        res = cg(A, b, start, precondition=lambda r: upper(d / omega * lower(r)), **options)
    x = np.empty_like(res.x)
    x[place] = res.x
    return Result(x, res.status, res.nit, res.residuals, omega)


def _eisenstat(
    A: Any,
    b: Array,
    x0: Array | None,
    d: Array,
    N: Any,
    lower: Callable[[Array], Array],
    upper: Callable[[Array], Array],
    K: float,
    *,
    rtol: float,
    atol: float,
    maxiter: int,
) -> Result:
    """CG on ``N^-1 A N^-T`` with 1/D; as A = N + N' - K D, two solves are all that a step takes."""
    x = np.zeros(len(b)) if x0 is None else np.array(x0)
    target = max(rtol * float(np.linalg.norm(b)), atol)
    s = lower(b - A @ x)  # N^-1 r
    residuals = [float(np.linalg.norm(b - A @ x))]
    p, rho, nit = np.zeros(len(b)), 0.0, 0
    while nit < maxiter and residuals[-1] > target:
        z = d * s
        new = float(s @ z)
        p = z if rho == 0 else z + (new / rho) * p
        rho = new
        t = upper(p)
        q = t + lower(p - K * d * t)
        curvature = float(p @ q)
        if not curvature > 0:
            return Result(x, NOT_SPD, nit, residuals, 0.0)
        x, s = x + (rho / curvature) * t, s - (rho / curvature) * q
        nit += 1
        residuals.append(float(np.linalg.norm(N @ s)))
    return Result(x, CONVERGED if residuals[-1] <= target else MAXITER, nit, residuals, 0.0)
