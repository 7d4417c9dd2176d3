"""The published sketched Newton method (``accuracy="theory"``), constants as published.

"Constrained Optimization via Exact Augmented Lagrangian and Randomized Iterative Sketching" (ICML 2023), for
equality constraints. The inner accuracy follows from norms and eigenvalues of the Newton matrix; in practice
it asks for relative residuals of 1e-9 to 1e-12, so that the method is a damped Newton method whichever way
the systems are solved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._result import Status
from ._kkt import DirectSolver, InnerResult, KKTMatrix, is_operator
from ._krylov_kkt import solve_minres
from ._sketch import METHODS, solve_projection

SOLVERS = ("ldlt", "minres", *METHODS)

_SINGULAR = 1e-2  # lambda_min(J J') below that ends the published method
_DELTA_FLOOR = 1e-6
_ETA1_MAX, _ETA2_MIN = 1e8, 1e-8
_STEP_CAPS = {"gaussian": 100_000, "kaczmarz": 1_000_000}
_OTHER_CAP = 100_000
_SHORTEST_STEP = 2.0**-100  # the published loop has no end


@dataclass
class TheoryStep:
    """What a monitor sees after every iteration."""

    nit: int
    x: np.ndarray
    lam: np.ndarray
    fun: float
    kkt: float
    alpha: float


@dataclass
class TheoryOutcome:
    """How a run of `minimize_theory` ended.

    Attributes
    ----------
    x, lam : ndarray, shapes (n,) and (m,)
        Last iterate.
    fun : float
        f there.
    status : Status
        BREAKDOWN is the published "singular Jacobian"; STAGNATED a line search without end.
    detail : str
        One clause on what ended the run.
    kkt : float
        ||(grad L, c)||_2 at the end.
    nit, points : int
        Iterations; points at which f, c, their gradients and the merit function were evaluated.
    eta1, eta2, delta : float
        Last parameters.
    inner_iters : int
    inner_flops : float
        Of all inner solves.
    inner_short : int
        Inner solves that ended at the cap on steps.
    alpha_hist, kkt_hist, rtol_hist : list of float
        Step lengths; ||F|| of each iterate, the first included; relative residuals asked for.
    eta_hist : list of (float, float)
        The weights in each iteration.
    """

    x: np.ndarray
    lam: np.ndarray
    fun: float
    status: Status
    detail: str
    kkt: float
    nit: int = 0
    points: int = 1
    eta1: float = 1.0
    eta2: float = 0.1
    delta: float = 0.1
    inner_iters: int = 0
    inner_flops: float = 0.0
    inner_short: int = 0
    alpha_hist: list[float] = field(default_factory=list)
    kkt_hist: list[float] = field(default_factory=list)
    rtol_hist: list[float] = field(default_factory=list)
    eta_hist: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class _Point:
    """A primal-dual pair with everything of first order."""

    x: np.ndarray
    lam: np.ndarray
    f: float
    c: np.ndarray
    g: np.ndarray
    J: np.ndarray

    @property
    def grad(self) -> np.ndarray:
        """Gradient of the Lagrangian."""
        return self.g + self.J.T @ self.lam

    @property
    def F(self) -> np.ndarray:
        return np.concatenate([self.grad, self.c])

    def merit(self, eta1: float, eta2: float) -> float:
        r = self.grad
        return float(self.f + self.lam @ self.c + 0.5 * eta1 * (self.c @ self.c) + 0.5 * eta2 * (r @ r))


def _dense(A: Any, columns: int) -> np.ndarray:
    """An array of a Jacobian or Hessian in any form; operators are multiplied by the unit vectors."""
    if is_operator(A):
        return np.column_stack([A.matvec(e) for e in np.eye(columns)]).reshape(A.shape)
    return A.toarray() if hasattr(A, "toarray") else np.asarray(A)


class _Inner:
    """Solves the Newton systems of one run; a sketch-and-project solve goes on where it stopped."""

    def __init__(
        self,
        solver: str,
        seed: int,
        sketch_size: int | None,
        max_inner: int | None,
        n_threads: int | None,
        out: TheoryOutcome,
    ) -> None:
        self.solver, self.seed, self.sketch_size = solver, seed, sketch_size
        self.cap = _STEP_CAPS.get(solver, _OTHER_CAP) if max_inner is None else max_inner
        self.n_threads, self.out = n_threads, out
        self.counter = 0
        self.direct = DirectSolver()

    def begin(self, K: KKTMatrix, b: np.ndarray) -> None:
        """A new system, from zero."""
        self.K, self.b = K, b
        self.z, self.residual, self.left = np.zeros(len(b)), 1.0, self.cap
        if self.solver == "ldlt":
            flops = self.direct.flops
            self.direct.factor(K)
            self.out.inner_flops += self.direct.flops - flops

    def advance(self, rtol: float) -> None:
        """Bring the relative residual below `rtol`, as far as steps are left."""
        if self.residual <= rtol or self.left <= 0:
            return
        found = self._solve(rtol)
        self.z, self.residual = found.z, found.residual
        self.left = 0 if self.solver == "ldlt" else self.left - max(found.iterations, 1)
        self.out.inner_iters += found.iterations
        self.out.inner_flops += found.flops
        self.out.inner_short += not found.converged

    def _solve(self, rtol: float) -> InnerResult:
        if self.solver == "ldlt":
            return self.direct.solve(self.b, rtol)
        if self.solver == "minres":
            return solve_minres(self.K, self.b, self.z, rtol, self.left)
        found = solve_projection(
            self.K,
            self.b,
            self.z,
            rtol,
            self.left,
            self.solver,
            self.sketch_size,
            self.seed,
            self.counter,
            n_threads=self.n_threads,
        )
        self.counter += found.iterations
        return found


def _shift(H: np.ndarray, J: np.ndarray, threshold: float, xi_B: float) -> float:
    """t: 0 where the smallest eigenvalue of Z'HZ is at least `threshold`, else xi_B + ||H||_F."""
    m, n = J.shape
    if m >= n:
        return 0.0
    Z = np.linalg.svd(J, full_matrices=True)[2][m:].T if m else np.eye(n)
    reduced = Z.T @ H @ Z
    low = float(np.linalg.eigvalsh(0.5 * (reduced + reduced.T))[0])
    return 0.0 if low >= threshold else xi_B + float(np.linalg.norm(H))


def minimize_theory(
    problem: Any,
    lam0: np.ndarray | None = None,
    *,
    tol: float = 1e-4,
    kkt_solver: str = "ldlt",
    eta1: float = 1.0,
    eta2: float = 0.1,
    delta: float = 0.1,
    nu: float = 1.5,
    beta: float = 0.1,
    xi_B: float = 0.1,
    theta: float = 1.0,
    curvature: float = 1e-6,
    seed: int = 0,
    sketch_size: int | None = None,
    maxiter: int = 10_000,
    max_inner: int | None = None,
    n_threads: int | None = None,
    monitor: Callable[[TheoryStep], bool] | None = None,
) -> TheoryOutcome:
    """The published method on an equality-constrained problem.

    Parameters
    ----------
    problem : Problem
        Equality constraints alone, not more than variables; no bounds.
    lam0 : ndarray, shape (m,), optional
        First multipliers, zero by default.
    tol : float
        On ``||(grad L, c)||_2``.
    kkt_solver : str
        "ldlt" (exact), "minres" or a sketch-and-project method.
    eta1, eta2, delta : float
        First weights of the merit function and first accuracy.
    nu, beta, xi_B, theta : float
        Factor of the weights, Armijo's constant, shift of the Hessian, factor of the accuracy.
    curvature : float
        The Hessian is shifted where its smallest eigenvalue on the null space of J is below that.
    seed : int
        Of the sketches.
    sketch_size : int, optional
        Columns of a block sketch.
    maxiter : int
        Limit on iterations.
    max_inner : int, optional
        Steps of an inner solve; by default 1e5, for "kaczmarz" 1e6.
    n_threads : int, optional
        Threads of inner products.
    monitor : callable, optional
        Called with a `TheoryStep` after every iteration; true stops the run.

    Returns
    -------
    TheoryOutcome

    Raises
    ------
    ValueError
        For inequalities or bounds, more constraints than variables, or an unknown solver.
    """
    _check(problem, kkt_solver)
    n, m = problem.n, problem.m

    def at(x: np.ndarray, lam: np.ndarray) -> _Point:
        f, c = problem.values(x)
        g, J = problem.derivatives(x)
        return _Point(x, lam, f, c - problem.lower, g, _dense(J, n).reshape(m, n))

    lam = np.zeros(m) if lam0 is None else np.array(lam0, dtype=float)
    point = at(problem.x0.copy(), lam)
    out = TheoryOutcome(point.x, lam, point.f, Status.MAX_ITERATIONS, "", np.inf)
    out.eta1, out.eta2, out.delta = eta1, eta2, delta
    inner = _Inner(kkt_solver, seed, sketch_size, max_inner, n_threads, out)
    while True:
        F = point.F
        norm_F = float(np.linalg.norm(F))
        out.x, out.lam, out.fun, out.kkt = point.x, point.lam, point.f, norm_F
        out.kkt_hist.append(norm_F)
        if not np.isfinite(norm_F) or not np.isfinite(point.f):
            return _end(out, Status.NONFINITE, "f, c or a derivative is not finite")
        if out.nit:
            step = TheoryStep(out.nit, point.x, point.lam, point.f, norm_F, out.alpha_hist[-1])
            stop = monitor is not None and monitor(step)
            if stop and norm_F > tol:
                return _end(out, Status.STOPPED_BY_CALLBACK, "the callback asked to stop")
        if norm_F <= tol:
            return _end(out, Status.CONVERGED, "")
        if out.nit >= maxiter:
            return _end(out, Status.MAX_ITERATIONS, "the iterations are used up")
        J = point.J
        smallest = float(np.linalg.eigvalsh(J @ J.T)[0]) if m and np.isfinite(J).all() else 1.0
        if m and smallest < _SINGULAR:
            return _end(out, Status.BREAKDOWN, f"the Jacobian is singular: lambda_min(J J') = {smallest:.3g}")
        H = _dense(problem.hessian(point.x, point.lam), n).reshape(n, n)
        if not np.isfinite(H).all():
            return _end(out, Status.NONFINITE, "the Hessian is not finite")
        D = _direction(point, H, smallest, inner, out, F, xi_B, beta, nu, theta, curvature)
        if not np.isfinite(D):
            return _end(out, Status.NONFINITE, "the Newton system has no finite solution")
        dx, dlam = inner.z[:n], inner.z[n:]
        now, alpha = point.merit(out.eta1, out.eta2), 1.0
        while True:
            trial = at(point.x + alpha * dx, point.lam + alpha * dlam)
            out.points += 1
            # Written so that NaN rejects the trial.
            if trial.merit(out.eta1, out.eta2) <= now + alpha * beta * D:
                break
            alpha /= 2
            if alpha < _SHORTEST_STEP:
                return _end(out, Status.STAGNATED, "no step length decreases the merit function")
        # A quasi-Newton Hessian learns from the gradients at the new multipliers.
        problem.update(trial.x - point.x, trial.grad - point.g - point.J.T @ trial.lam)
        point = trial
        out.alpha_hist.append(alpha)
        out.eta_hist.append((out.eta1, out.eta2))
        out.nit += 1


def _check(problem: Any, kkt_solver: str) -> None:
    if kkt_solver not in SOLVERS:
        listed = ", ".join(map(repr, SOLVERS))
        raise ValueError(f"`kkt_solver` must be one of {listed} with accuracy='theory'; got {kkt_solver!r}")
    if not np.all(problem.equality):
        raise ValueError(
            "`accuracy` 'theory' is the published method for equality constraints; constraint "
            f"{int(np.argmin(problem.equality))} is an inequality"
        )
    if np.isfinite(problem.xl).any() or np.isfinite(problem.xu).any():
        raise ValueError("`accuracy` 'theory' is the published method, which has no `bounds`")
    if problem.m > problem.n:
        raise ValueError(
            f"`accuracy` 'theory' needs at most as many constraints as variables; got {problem.m} and "
            f"{problem.n}"
        )


def _end(out: TheoryOutcome, status: Status, detail: str) -> TheoryOutcome:
    out.status, out.detail = status, detail
    return out


def _direction(
    point: _Point,
    H: np.ndarray,
    smallest: float,
    inner: _Inner,
    out: TheoryOutcome,
    F: np.ndarray,
    xi_B: float,
    beta: float,
    nu: float,
    theta: float,
    curvature: float,
) -> float:
    """The direction in `inner.z`, weights and delta changed until it descends; its slope D."""
    n, m = len(point.x), len(point.lam)
    J, c, r = point.J, point.c, point.grad
    t = _shift(H, J, curvature, xi_B)
    norm_F2 = float(F @ F)
    norm_B2 = float(np.sum((H + t * np.eye(n)) ** 2))
    norm_J2 = float(np.sum(J**2))
    norm_K = np.sqrt(norm_B2 + 2.0 * norm_J2)
    psi = 20.0 * max(norm_B2, 1.0) / (min(smallest, 1.0) * min(xi_B, 1.0))
    upsilon = max(np.sqrt(norm_J2), float(np.linalg.norm(H)), 1.0)

    def trial_delta() -> float:
        eta1, eta2 = out.eta1, out.eta2
        return float((0.5 - beta) * eta2 / ((1.0 + eta1 + eta2) * upsilon**2 * psi**2))

    out.delta = max(min(out.delta, trial_delta()), _DELTA_FLOOR)
    inner.begin(KKTMatrix(H, J, np.full(n, t), np.zeros(m)), -F)
    Hr, Jr, Jc = H @ r, J @ r, J.T @ c
    while True:
        rtol = theta * out.delta / (norm_K * psi)
        inner.advance(rtol)
        dx, dlam = inner.z[:n], inner.z[n:]
        D = float((r + out.eta2 * Hr + out.eta1 * Jc) @ dx + (c + out.eta2 * Jr) @ dlam)
        if not np.isfinite(D) or out.eta1 > _ETA1_MAX or out.eta2 < _ETA2_MIN:
            break
        if D <= -0.5 * out.eta2 * norm_F2:
            break
        out.eta1 *= nu**2
        out.eta2 /= nu
        out.delta = max(min(out.delta / nu**4, trial_delta()), _DELTA_FLOOR)
    out.rtol_hist.append(rtol)
    return D


__all__ = ["SOLVERS", "TheoryOutcome", "TheoryStep", "minimize_theory"]
