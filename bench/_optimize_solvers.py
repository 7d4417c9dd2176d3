"""Solvers of the optimisation benchmark, called alike, and one certificate for the answers of all of them.

**The certificate** is computed here from the point alone, in the problem's own units: multipliers are fitted
by least squares (free for equations, of the right sign for the sides of inequalities and bounds within `NEAR`
of being active, with their complementarity as further rows), and

- ``dual = ||g + J'l - zl + zu||_inf / s``, with ``s = max(100, mean |multiplier|) / 100`` as in Ipopt,
- ``primal = max violation of cl <= c <= cu and xl <= x <= xu``, absolute,
- ``complementarity = max |multiplier| * distance to its side / s``.

Where the solver returns multipliers and these give a smaller error, they count instead, and so does the point
moved onto its bounds: the certificate asks whether there is a solution, not who has found its multipliers.
`solved` means all three are at most 1e-6, absolute, whatever the solver says of itself.

A success that is not solved is a false one. Peers stop on other quantities than these: one that succeeds
falsely runs again with the tighter tolerances of `TIGHTER`, and counts and seconds are those of the one run
that has solved the problem; that the first was false is kept. Ours gets no further run.
"""

from __future__ import annotations

import contextlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.sparse.linalg import aslinearoperator, spsolve

from bench._harness import early_threads
from bench._optimize_problems import Constrained, Counted, TimeLimit

Array = NDArray[Any]

TOL = 1e-6
NEAR = 1e-2  # relative: sides farther away than this get no multiplier in the fit
LIMIT = 30.0  # seconds of a run, of its process


# --------------------------------------------------------------------------------------------- certificate


@dataclass
class Certificate:
    """Scaled dual error, violation, scaled complementarity, objective; see the module."""

    dual: float
    primal: float
    complementarity: float
    fun: float

    @property
    def worst(self) -> float:
        return max(self.dual, self.primal, self.complementarity)

    @property
    def solved(self) -> bool:
        return bool(self.worst <= TOL)  # False for NaN


def _distances(value: Array, low: Array, high: Array) -> tuple[Array, Array]:
    return np.abs(value - low), np.abs(high - value)


def fitted_multipliers(g: Array, J: Array, c: Array, x: Array, p: Constrained) -> tuple[Array, Array, Array]:
    """Least-squares ``(l, zl, zu)`` with the signs of the active sides; zl and zu are not negative."""
    n, m = p.n, p.m
    if sparse.issparse(J):  # equations alone: g + J'l = r, J r = 0
        if p.kind != "equality":
            raise ValueError("sparse problems with inequalities are not certified")
        K = sparse.block_array([[sparse.eye_array(n), J.T], [J, None]], format="csc")
        return spsolve(K, np.concatenate([g, np.zeros(m)]))[n:] * -1.0, np.zeros(n), np.zeros(n)
    free = p.equality
    columns, owners, gaps = [], [], []
    for rows, value, low, high, shift, allowed in (
        (J, c, p.cl, p.cu, 0, ~free),
        (np.eye(n), x, p.xl, p.xu, m, np.ones(n, dtype=bool)),
    ):
        for side, (distance, sign) in enumerate(zip(_distances(value, low, high), (-1.0, 1.0), strict=True)):
            bound = low if side == 0 else high
            near = np.isfinite(bound) & (distance <= NEAR * np.maximum(1.0, np.abs(bound)))
            for i in np.flatnonzero(near & allowed):
                columns.append(sign * rows[i])
                owners.append((shift + i, sign))
                gaps.append(distance[i])
    E = J[free].T
    A = np.array(columns).T.reshape(n, len(columns))
    # Complementarity as rows: the fit may not buy a small gradient with multipliers of inactive sides.
    A_all = np.vstack([A, np.diag(gaps)]) if columns else A
    E_all = np.vstack([E, np.zeros((len(columns), E.shape[1]))])
    b = -np.concatenate([g, np.zeros(len(columns))])
    positive = np.zeros(len(columns))
    if columns:
        # Unit columns; the free ones are projected out first.
        size = np.maximum(np.linalg.norm(A_all, axis=0), 1e-300)
        basis = np.linalg.svd(E_all, full_matrices=False) if E.shape[1] else None
        A_part, b_part = A_all / size, b
        if basis is not None:
            U = basis[0][:, basis[1] > 1e-13 * basis[1].max(initial=0.0)]
            A_part, b_part = A_part - U @ (U.T @ A_part), b - U @ (U.T @ b)
        try:
            positive = optimize.nnls(A_part, b_part, maxiter=30 * (len(columns) + 10))[0] / size
        except RuntimeError:  # its iterations are spent
            bounded = optimize.lsq_linear(A_part, b_part, (0.0, np.inf), tol=1e-14)
            positive = np.maximum(bounded.x, 0.0) / size
    lam, z = np.zeros(m), np.zeros((2, n))
    if E.shape[1]:
        lam[free] = np.linalg.lstsq(E_all, b - A_all @ positive if columns else b, rcond=1e-13)[0]
    for value, (owner, sign) in zip(positive, owners, strict=True):
        if owner < m:
            lam[owner] += sign * value
        else:
            z[int(sign > 0), owner - m] = value
    return lam, z[0], z[1]


def kkt_errors(
    g: Array, J: Array, c: Array, x: Array, p: Constrained, lam: Array, zl: Array, zu: Array
) -> tuple[float, float]:
    """Scaled dual error and complementarity of given multipliers; wrong signs are cut off."""
    low, high = np.maximum(-lam, 0.0), np.maximum(lam, 0.0)
    lam = np.where(
        p.equality, lam, np.where(np.isfinite(p.cu), high, 0) - np.where(np.isfinite(p.cl), low, 0)
    )
    zl = np.where(np.isfinite(p.xl), np.maximum(zl, 0.0), 0.0)
    zu = np.where(np.isfinite(p.xu), np.maximum(zu, 0.0), 0.0)
    bounds = int(np.isfinite(p.xl).sum() + np.isfinite(p.xu).sum())
    total = np.abs(lam).sum() + zl.sum() + zu.sum()
    scale = max(100.0, total / max(1, p.m + bounds)) / 100.0
    dual = np.abs(g + J.T @ lam - zl + zu).max(initial=0.0) / scale
    products = [0.0]
    for multiplier, gap in (
        (np.where(p.equality, 0.0, np.maximum(-lam, 0.0)), c - p.cl),
        (np.where(p.equality, 0.0, np.maximum(lam, 0.0)), p.cu - c),
        (zl, x - p.xl),
        (zu, p.xu - x),
    ):
        used = multiplier > 0
        products.append(float(np.abs(multiplier[used] * gap[used]).max(initial=0.0)))
    return float(dual), max(products) / scale


def certify(p: Constrained, x: Array, multipliers: tuple[Array, Array, Array] | None = None) -> Certificate:
    """The certificate of a point; `multipliers` are a solver's own, if it has any."""
    x = np.asarray(x, dtype=float)
    inside = np.clip(x, p.xl, p.xu)
    found = _certify(p, inside, multipliers)
    if not found.solved and not np.array_equal(x, inside):  # a solver may have relaxed the bounds
        found = min(found, _certify(p, x, multipliers), key=lambda one: one.worst)
    return found


def _certify(p: Constrained, x: Array, multipliers: tuple[Array, Array, Array] | None) -> Certificate:
    with np.errstate(all="ignore"):
        f, g, c, J = p.fun(x), p.grad(x), p.cons(x), p.jac(x)
    parts = (x, g, c, J.data if sparse.issparse(J) else J)
    if not (np.isfinite(f) and all(np.isfinite(part).all() for part in parts)):
        return Certificate(np.inf, np.inf, np.inf, float("nan"))
    primal = float(np.concatenate([p.cl - c, c - p.cu, p.xl - x, x - p.xu]).max(initial=0.0))
    found = kkt_errors(g, J, c, x, p, *fitted_multipliers(g, J, c, x, p))
    if multipliers is not None and all(np.isfinite(part).all() for part in multipliers):
        own = kkt_errors(g, J, c, x, p, *multipliers)
        found = min(found, own, key=max)
    return Certificate(found[0], primal, found[1], float(f))


# ------------------------------------------------------------------------------------------------- running


@dataclass
class Outcome:
    """What a solver returns: point, whether it says success, its words, iterations, its multipliers."""

    x: Array
    success: bool
    message: str
    nit: int = 0
    multipliers: tuple[Array, Array, Array] | None = None
    extras: dict[str, Any] = field(default_factory=dict)


Solver = Callable[..., Outcome]


@contextlib.contextmanager
def alarm(limit: float) -> Iterator[None]:
    """Raise `TimeLimit` in Python code after so many seconds, where the system has such a signal."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def run(name: str, p: Constrained, *, limit: float = LIMIT, **options: Any) -> dict[str, Any]:
    """Run the solver of that name, a peer again where its success is false; see the module."""
    first = run_once(SOLVERS[name], p, limit=limit, **options)
    if first["solved"] or not first["success"] or first["seconds"] > limit / 10:
        return first
    for tighter in TIGHTER.get(name, ()):
        again = run_once(SOLVERS[name], p, limit=limit, **(options | tighter))
        if again["solved"]:
            return again | {"false_before": True}
    return first


def run_once(solver: Solver, p: Constrained, *, limit: float = LIMIT, **options: Any) -> dict[str, Any]:
    """Solve within `limit` seconds and certify; an exception is an outcome and never passed on.

    `seconds` are those of the process where it has one thread, so that other load does not count.
    """
    counted = Counted(p, limit)
    clock = time.process_time if early_threads() == 1 else time.perf_counter
    seconds = clock()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            with alarm(3.0 * limit + 2.0):  # the evaluations look at their clock first
                outcome = solver(counted, **dict(options))
        except TimeLimit:
            outcome = Outcome(counted.last if counted.last is not None else p.x0, False, "time limit")
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            outcome = Outcome(counted.last if counted.last is not None else p.x0, False, text)
        seconds = clock() - seconds
        message = str(outcome.message)
        try:
            with alarm(limit):
                certificate = certify(p, outcome.x, outcome.multipliers)
        except Exception as error:
            certificate = Certificate(np.inf, np.inf, np.inf, float("nan"))
            message += f"; certificate: {type(error).__name__}: {error}"
    numbers = {key: (float(v) if np.isfinite(v) else None) for key, v in asdict(certificate).items()}
    return {
        **numbers,
        "solved": certificate.solved,
        "success": bool(outcome.success),
        "message": message.splitlines()[0][:160] if message else "",
        "nit": int(outcome.nit),
        "x": [float(value) if np.isfinite(value) else None for value in outcome.x],
        "seconds": seconds,
        "evals": asdict(counted.counts),
        **outcome.extras,
    }


def _scipy_parts(p: Counted) -> dict[str, Any]:
    problem = p.problem
    parts: dict[str, Any] = {"jac": p.grad, "hess": p.hess}
    if problem.m:
        parts["constraints"] = [
            optimize.NonlinearConstraint(p.cons, problem.cl, problem.cu, jac=p.jac, hess=p.cons_hess)
        ]
    if np.isfinite(problem.xl).any() or np.isfinite(problem.xu).any():
        parts["bounds"] = optimize.Bounds(problem.xl, problem.xu)
    return parts


def _own_multipliers(p: Constrained, result: Any) -> tuple[Array, Array, Array] | None:
    """Of a result of ours: `lam` of the rows, `z_lo` and `z_up` of the bounds."""
    lam = getattr(result, "lam", None)
    if lam is None or np.shape(lam) != (p.m,):
        return None
    z = [getattr(result, name, None) for name in ("z_lo", "z_up")]
    zl, zu = (np.zeros(p.n) if part is None or np.shape(part) != (p.n,) else part for part in z)
    return np.asarray(lam, dtype=float), np.asarray(zl, dtype=float), np.asarray(zu, dtype=float)


def run_ours(p: Counted, **options: Any) -> Outcome:
    """`aitken.optimize.sketched_newton`, tol 1e-6; ``root=True`` passes `hess_sqrt`."""
    from aitken.optimize import sketched_newton

    parts = _scipy_parts(p) | {"tol": TOL}
    if options.pop("root", False):
        parts["hess_sqrt"] = p.problem.hess_sqrt
    if options.pop("operator", False):  # products with W alone
        parts["hess"] = None
        parts["hess_sqrt"] = lambda x: aslinearoperator(p.problem.hess_sqrt(x))  # type: ignore[misc]
    r = sketched_newton(p.fun, p.problem.x0, **(parts | options))
    extras = {
        "inner_iters": int(getattr(r, "inner_iters", 0)),
        "inner_flops": float(getattr(r, "inner_flops", 0.0)),
        "solver_used": str(getattr(r, "solver_used", "")),
        "status": int(r.status),
    }
    return Outcome(r.x, r.success, r.message, r.nit, _own_multipliers(p.problem, r), extras)


def run_trust_constr(p: Counted, **options: Any) -> Outcome:
    """SciPy's trust-constr, gtol 1e-6, xtol 1e-10, at most 3000 iterations."""
    r = optimize.minimize(
        p.fun, p.problem.x0, method="trust-constr", **_scipy_parts(p),
        options={"gtol": 1e-6, "xtol": 1e-10, "maxiter": 3000} | options,
    )  # fmt: skip
    # Its status is 1 and 2 where a tolerance is met, also with the constraints violated.
    return Outcome(r.x, r.status in (1, 2) and r.success, r.message, r.nit)


def run_slsqp(p: Counted, **options: Any) -> Outcome:
    """SciPy's SLSQP, ftol 1e-10, at most 1000 iterations; one call of c for the rows of both kinds."""
    q = p.problem
    memory: dict[str, tuple[bytes, Array]] = {}

    def once(name: str, work: Callable[[Array], Any], x: Array) -> Array:
        key = np.asarray(x).tobytes()
        if memory.get(name, (b"",))[0] != key:
            value = work(x)
            memory[name] = (key, value.toarray() if sparse.issparse(value) else value)
        return memory[name][1]

    eq = np.flatnonzero(q.equality)
    low = np.flatnonzero(~q.equality & np.isfinite(q.cl))
    high = np.flatnonzero(~q.equality & np.isfinite(q.cu))
    rows, signs = np.concatenate([low, high]), np.repeat([1.0, -1.0], [len(low), len(high)])
    sides = np.concatenate([q.cl[low], q.cu[high]])
    constraints: list[dict[str, Any]] = []
    if len(eq):
        constraints.append(
            {
                "type": "eq",
                "fun": lambda x: once("c", p.cons, x)[eq] - q.cl[eq],
                "jac": lambda x: once("J", p.jac, x)[eq],
            }
        )
    if len(rows):
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda x: signs * (once("c", p.cons, x)[rows] - sides),
                "jac": lambda x: signs[:, None] * once("J", p.jac, x)[rows],
            }
        )
    bounds = optimize.Bounds(q.xl, q.xu)
    r = optimize.minimize(
        p.fun, q.x0, method="SLSQP", jac=p.grad, constraints=constraints, bounds=bounds,
        options={"ftol": 1e-10, "maxiter": 1000} | options,
    )  # fmt: skip
    return Outcome(r.x, r.success, r.message, r.nit)


class _Ipopt:
    """The callbacks that cyipopt asks for: the Jacobian by rows, the lower triangle of the Hessian."""

    def __init__(self, p: Counted) -> None:
        self._p, n, m = p, p.problem.n, p.problem.m
        self._seconds, self.late = p.limit, False
        self.nit = 0
        J = p.problem.jac(p.problem.x0) if m else np.zeros((0, n))
        self._sparse = sparse.issparse(J)
        if self._sparse:
            H = sparse.coo_array(sparse.tril(p.problem.hess_lagrangian(p.problem.x0, np.ones(m))))
            rows = np.repeat(np.arange(m), np.diff(J.indptr))
            self._jacobian, self._lower = (rows, J.indices), H.coords
        else:
            self._jacobian = (np.repeat(np.arange(m), n), np.tile(np.arange(n), m))
            self._lower = np.tril_indices(n)

    def objective(self, x: Array) -> float:
        return self._p.fun(x)

    def gradient(self, x: Array) -> Array:
        return self._p.grad(x)

    def constraints(self, x: Array) -> Array:
        return self._p.cons(x) if self._p.problem.m else np.zeros(0)

    def jacobianstructure(self) -> tuple[Array, Array]:
        return self._jacobian

    def jacobian(self, x: Array) -> Array:
        if not self._p.problem.m:
            return np.zeros(0)
        J = self._p.jac(x)
        return J.data if self._sparse else J.ravel()

    def hessianstructure(self) -> tuple[Array, Array]:
        return self._lower

    def hessian(self, x: Array, v: Array, sigma: float) -> Array:
        return np.asarray(self._p.hess_lagrangian(x, v, sigma)[self._lower]).ravel()

    def intermediate(self, _mode: int, count: int, *_: Any) -> bool:
        self.nit = count
        self.late = time.process_time() - self._p.started > self._seconds
        return not self.late


def run_ipopt(p: Counted, **options: Any) -> Outcome:
    """Ipopt through cyipopt: exact Hessian, tol 1e-7, its own default of 3000 iterations."""
    import cyipopt

    q, calls = p.problem, _Ipopt(p)
    p.limit = np.inf  # an exception inside a callback would not reach us; `intermediate` looks at the clock
    nlp = cyipopt.Problem(
        n=q.n, m=q.m, problem_obj=calls, lb=np.where(np.isfinite(q.xl), q.xl, -2e19),
        ub=np.where(np.isfinite(q.xu), q.xu, 2e19), cl=np.where(np.isfinite(q.cl), q.cl, -2e19),
        cu=np.where(np.isfinite(q.cu), q.cu, 2e19),
    )  # fmt: skip
    settings = {"tol": 1e-7, "print_level": 0, "sb": "yes"} | options
    for key, value in settings.items():
        nlp.add_option(key, value)
    x, info = nlp.solve(q.x0)
    message = "time limit" if calls.late else info["status_msg"]
    text = message.decode() if isinstance(message, bytes) else str(message)
    own = (np.asarray(info["mult_g"]), np.asarray(info["mult_x_L"]), np.asarray(info["mult_x_U"]))
    return Outcome(np.asarray(x), info["status"] == 0, text, calls.nit, own)


SOLVERS: dict[str, Solver] = {
    "aitken": run_ours,
    "ipopt": run_ipopt,
    "trust-constr": run_trust_constr,
    "slsqp": run_slsqp,
}
# Further runs of a peer whose success was false.
TIGHTER: dict[str, list[dict[str, Any]]] = {
    "ipopt": [{"tol": 1e-9, "constr_viol_tol": 1e-6, "bound_relax_factor": 0.0}],
    "trust-constr": [
        {"gtol": 1e-10, "barrier_tol": 1e-10},
        {"gtol": 1e-14, "barrier_tol": 1e-11},
    ],
    "slsqp": [{"ftol": 1e-15}],
}
