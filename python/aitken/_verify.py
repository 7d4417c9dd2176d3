"""``aitken verify``: does this installation solve what it should, at every SIMD level and thread count?

A child process per SIMD level and thread count solves the same problems and prints one JSON line; the parent
compares certificates, SciPy's linear programs and sparse LU, finite differences, completed matrices with the
true ones, minima with known ones, the bits between thread counts, and the choices of the tuners between all
of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from typing import Any

_TIMEOUT = 120.0


def _problems() -> list[tuple[str, Any, dict[str, Any]]]:
    """Name, problem and options of every solve that a child does."""
    from . import datasets

    return [
        ("assignment n=120 reg=1e-3", datasets.random_assignment(120, reg=1e-3), {}),
        (
            "assignment n=120 reg=1e-3, direct",
            datasets.random_assignment(120, reg=1e-3),
            {"linear_solver": "direct"},
        ),
        ("clouds 301x203 reg=1e-4", datasets.gaussian_clouds(301, 203, reg=1e-4), {}),
        (
            "clouds 301x203 reg=1e-2, Sinkhorn",
            datasets.gaussian_clouds(301, 203, reg=1e-2),
            {"method": "sinkhorn"},
        ),
        ("assignment n=120, SNS as published", datasets.random_assignment(120), {"method": "sns"}),
        ("images 14x14, no stored kernel", datasets.image_pair(14), {"store_plan": False}),
        ("clouds with empty bins", datasets.edge_case("zero_bins"), {}),
        ("forbidden pairs", datasets.edge_case("forbidden_pairs", reg=1e-2), {}),
        ("float32", datasets.edge_case("float32"), {}),
    ]


def _linear_problems() -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """Name, family of systems, factor on their entries, and options of every sequence that a child solves."""
    from .datagen import make_family

    published = make_family("darcy-published", 24)
    darcy = make_family("darcy", 24, coefficient="binary")
    waves = make_family("helmholtz", 20)
    flow = make_family("convection-diffusion", 8)
    return [
        ("published Darcy 24x24, GCRO-DR, ILU(0)", published, 1.0, {"solver": "gcrodr"}),
        (
            "published Darcy 24x24, left, SSOR",
            published,
            1.0,
            {"solver": "gcrodr", "side": "left", "M": "ssor"},
        ),
        ("Darcy 24x24, recycled CG, IC(0)", darcy, 1.0, {"solver": "rcg"}),
        ("Darcy 24x24, sparse LDL^T", darcy, 1.0, {"solver": "direct"}),
        ("Helmholtz 20x20, GCRO-DR", waves, 1.0, {"solver": "gcrodr", "M": "none"}),
        ("Helmholtz 20x20, complex", waves, 1.0 + 0.1j, {"solver": "gcrodr"}),
        ("convection-diffusion 8^3, auto", flow, 1.0, {}),
    ]


def _solve_linear(digest: Any) -> list[list[Any]]:
    """Solve short sequences; residuals recomputed by SciPy, bits of the answers into the digest."""
    import numpy as np
    from scipy import sparse

    from . import linalg

    errors = []
    for name, family, factor, options in _linear_problems():
        parameters = np.stack([family.parameters(0, i) for i in range(6)])
        data, b = family.assemble(parameters)
        values, b = factor * data, np.ascontiguousarray(b)
        r = linalg.solve_batch(
            family.indptr, family.indices, values, b, params=family.sort_key(parameters), rtol=1e-9, **options
        )
        worst = 0.0
        for row, x, rhs in zip(values, r.X, b, strict=True):
            A = sparse.csr_array((row, family.indices, family.indptr))
            worst = max(worst, float(np.linalg.norm(rhs - A @ x) / np.linalg.norm(rhs)))
        errors.append([name, worst, 1e-9, bool(r.converged)])
        digest.update(np.ascontiguousarray(r.X).tobytes())
    return errors


def _solve_relaxation(digest: Any) -> list[list[Any]]:
    """SOR and SSOR-CG in several orders, a batch, and a heat equation whose omega is learned on the way."""
    import numpy as np
    from scipy import sparse

    from . import linalg
    from .datasets import HeatSequence

    def laplacian(side: int) -> Any:
        line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
        return sparse.csr_array(sparse.kronsum(line, line))

    def residual(A: Any, b: Any, x: Any) -> float:
        return float(np.linalg.norm(b - A @ x) / np.linalg.norm(b))

    rng = np.random.default_rng(0)
    small, large = laplacian(40), laplacian(110)  # above 10 000 rows a stencil is swept by its own kernel
    errors = []
    single: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
        ("SOR 40x40, natural order", linalg.sor, small, {"omega": "young", "order": "natural"}),
        ("SOR 40x40, multicolour", linalg.sor, small, {"omega": 1.85, "order": "multicolor"}),
        ("SOR 110x110, red-black", linalg.sor, large, {"omega": "young", "order": "redblack"}),
        ("SSOR-CG 110x110", linalg.ssor_cg, large, {"omega": "axelsson"}),
        ("SSOR-CG 40x40, with products", linalg.ssor_cg, small, {"omega": 1.8, "eisenstat": False}),
    )
    for name, method, A, options in single:
        b = rng.standard_normal(A.shape[0])
        r = method(A, b, rtol=1e-9, **options)
        errors.append([name, residual(A, b, r.x), 1e-9, bool(r.converged)])
        digest.update(np.ascontiguousarray(r.x).tobytes())

    tiny, shifts, B = laplacian(8), rng.uniform(0.0, 0.5, 50), rng.standard_normal((50, 64))
    batch = linalg.sor_batch(tiny, B, omega=1.5, shift=shifts, rtol=1e-9)
    shifted = (tiny + c * sparse.eye_array(64) for c in shifts)
    worst = max(residual(A, b, x) for A, b, x in zip(shifted, B, batch.X, strict=True))
    errors.append(["batch of SOR, 50 shifts", worst, 1e-9, bool(batch.converged)])

    heat = HeatSequence(24, 80, dt=1 / 80)
    tuned = linalg.solve_sequence(heat, solver="ssor_cg", tuner="gp", context=heat.contexts, rtol=1e-9)
    starts = [heat.u0, *tuned.X[:-1]]
    worst = max(residual(*heat.system(i, u), x) for i, (u, x) in enumerate(zip(starts, tuned.X, strict=True)))
    errors.append(["heat equation, omega learned", worst, 1e-9, bool(tuned.converged)])
    for part in (batch.X, tuned.X, np.asarray(tuned.params)):
        digest.update(np.ascontiguousarray(part).tobytes())
    return errors


def _solve_completion(digest: Any) -> list[list[Any]]:
    """Recovery by every inner solver and start, fits, and general measurements; errors against the truth."""
    import numpy as np

    from . import completion
    from .datasets import low_rank_problem

    p = low_rank_problem(150, 120, rank=3, oversampling=6.0, cond=5.0, seed=0)
    truth = p.U @ p.V.T
    size = float(np.linalg.norm(truth))
    entries: dict[str, Any] = {"M": (p.rows, p.cols, p.vals), "shape": p.shape, "rng": 0}
    q = low_rank_problem(150, 120, rank=3, oversampling=10.0, seed=0)
    wrong = q.vals.copy()
    wrong[::40] += 10.0 * np.random.default_rng(0).standard_normal(len(wrong[::40]))
    errors = []
    cases: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("exact", {}, 1e-8),
        ("float32", {"dtype": np.float32}, 2e-4),
        ("CG", {"inner": "cg", "tol": 1e-8}, 1e-6),
        ("CG with a common Gram matrix", {"inner": "qcg", "tol": 1e-8}, 1e-6),
        ("CG with sketches", {"inner": "sketch", "tol": 1e-8}, 1e-6),
        ("CG with float32 Gram matrices", {"inner": "lowprec", "tol": 1e-8}, 1e-6),
        ("rank by rank", {"init": "rank_increment"}, 1e-8),
        ("robust", {"robust": True}, 1e-6),
    )
    for name, options, goal in cases:
        r = completion.matrix_completion(**{**entries, "rank": 3, **options})
        error = float(np.linalg.norm(r.to_dense() - truth)) / size
        errors.append([f"completion, {name}", error, goal, bool(r.success)])
        for part in (r.U, r.V, r.s):
            digest.update(np.ascontiguousarray(part).tobytes())

    r = completion.matrix_completion((q.rows, q.cols, wrong), 3, shape=q.shape, loss="huber", rng=0)
    truth = q.U @ q.V.T
    error = float(np.linalg.norm(r.to_dense() - truth) / np.linalg.norm(truth))
    errors.append(["completion, 2.5 % gross errors", error, 1e-6, bool(r.success)])
    digest.update(np.ascontiguousarray(r.U).tobytes())

    # With a penalty there is no truth to meet; the gradient of the objective has to vanish.
    r = completion.matrix_completion(**entries, rank=3, lam=0.5, bias=True, maxiter=3000, tol=1e-14)
    left = r.predict(p.rows, p.cols) - p.vals
    slope = [0.5 * r.U, 0.5 * r.V]
    np.add.at(slope[0], p.rows, left[:, None] * r.V[p.cols])
    np.add.at(slope[1], p.cols, left[:, None] * r.U[p.rows])
    error = float(max(np.abs(g).max() for g in slope) / np.abs(p.vals).max())
    errors.append(["completion, penalty and biases", error, 1e-4, bool(r.success)])
    digest.update(np.ascontiguousarray(r.U).tobytes())

    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 15))
    A = rng.standard_normal((400, 300))
    found = completion.matrix_sensing(A, A @ X.ravel(), 2, shape=(20, 15), rng=0)
    error = float(np.linalg.norm(found.to_dense() - X) / np.linalg.norm(X))
    errors.append(["sensing, Gaussian measurements", error, 1e-6, bool(found.success)])
    return errors


def _solve_constrained(digest: Any) -> list[list[Any]]:
    """Hock-Schittkowski 71 and a control problem, by several solvers; errors from the answers."""
    import numpy as np
    from scipy.optimize import NonlinearConstraint

    from . import optimize
    from .datasets import elliptic_control

    def product_slope(x: Any) -> Any:
        return np.array([x[1] * x[2] * x[3], x[0] * x[2] * x[3], x[0] * x[1] * x[3], x[0] * x[1] * x[2]])

    def fun(x: Any) -> float:
        return float(x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2])

    def grad(x: Any) -> Any:
        return x[3] * np.array([2 * x[0] + x[1] + x[2], x[0], x[0], 0]) + np.array(
            [0, 0, 1, x[0] * (x[0] + x[1] + x[2])]
        )

    rows: tuple[Any, ...] = (
        NonlinearConstraint(lambda x: x.prod(), 25.0, np.inf, jac=product_slope),
        NonlinearConstraint(lambda x: x @ x, 40.0, 40.0, jac=lambda x: 2 * x),
    )
    errors = []
    for kind in ("filter", "merit"):
        r = optimize.sketched_newton(
            fun,
            [1.0, 5.0, 5.0, 1.0],
            jac=grad,
            constraints=rows,
            bounds=[(1, 5)] * 4,
            tol=1e-8,
            globalization=kind,
        )
        x = r.x
        outside = max(25.0 - x.prod(), abs(x @ x - 40.0), float((1 - x).max()), float((x - 5).max()))
        error = max(abs(fun(x) - 17.0140173), outside)
        errors.append([f"HS71, {kind}", error, 1e-6, bool(r.success)])
        digest.update(np.ascontiguousarray(x).tobytes())

    p = elliptic_control(8, "nonlinear")
    for name, options in (
        ("sparse LDL^T", {}),
        ("MINRES", {"kkt_solver": "minres"}),
        ("sketched preconditioner", {"kkt_solver": "sketch_prec", "hess_sqrt": p.hess_sqrt, "rng": 0}),
    ):
        r = optimize.sketched_newton(
            p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=p.constraints, tol=1e-8, **options
        )
        c, J = p.constraints[0].fun(r.x), p.constraints[0].jac(r.x)
        error = float(max(np.abs(c).max(), np.abs(p.grad(r.x) + J.T @ r.lam).max()))
        errors.append([f"control of a field, {name}", error, 1e-8, bool(r.success)])
        digest.update(np.ascontiguousarray(r.x).tobytes())
    return errors


def _tuners() -> str:
    """Digest of what every tuner plays; no kernel is behind it, so it is the same at every SIMD level."""
    import numpy as np

    from .tune import SORTuner

    digest = hashlib.sha256()
    contexts = np.random.default_rng(0).random(200).tolist()
    for method in ("gp", "tsallis", "tsallis-cb", "chebcb", "thompson"):
        known = method in ("gp", "tsallis-cb", "chebcb")
        tuner = SORTuner(method=method, context=(0.0, 1.0) if known else None, rng=0)
        for c in contexts:
            omega = tuner.suggest(c if known else None)
            tuner.observe(round(20.0 + 300.0 * (omega - 1.8 + 0.6 * c) ** 2))
            digest.update(np.float64(omega).tobytes())
    return digest.hexdigest()


def child() -> dict[str, Any]:
    """Solve all problems; certificates recomputed by NumPy, and a digest of the bits of the answers."""
    import warnings

    import numpy as np

    from . import info, ot

    digest = hashlib.sha256()
    errors = []
    for name, p, options in _problems():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            r = ot.sinkhorn(p.a, p.b, p.M, p.reg, **options)
        # Float32 plans are stored in float32, whose rounding the sums inherit.
        goal = 1e-9 if r.plan.dtype == np.float64 else 2e-6
        plan = r.plan.astype(np.float64)
        err = float(np.abs(plan.sum(axis=1) - p.a).sum() + np.abs(plan.sum(axis=0) - p.b).sum())
        errors.append([name, err, goal, bool(r.success)])
        for part in (r.plan, *r.potentials, np.float64(r.value)):
            digest.update(np.ascontiguousarray(part).tobytes())
    errors += _solve_linear(digest)
    errors += _solve_relaxation(digest)
    errors += _solve_completion(digest)
    errors += _solve_constrained(digest)
    level = info()["simd"]["level"]
    return {"level": level, "errors": errors, "digest": digest.hexdigest(), "tuners": _tuners()}


def _run_child(level: str, threads: int) -> dict[str, Any]:
    code = "import json; from aitken import _verify; print(json.dumps(_verify.child()))"
    environment = {**os.environ, "AITKEN_SIMD": level, "OMP_NUM_THREADS": str(threads)}
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _against_linprog() -> tuple[bool, str]:
    """At small reg the transport cost meets the linear program's: above it by at most reg * log(n m)."""
    import numpy as np
    from scipy import sparse
    from scipy.optimize import linprog

    from . import datasets, ot

    p: Any = datasets.gaussian_clouds(40, 30, reg=1e-5)
    n, m = p.shape
    marginals = sparse.vstack(
        [sparse.kron(sparse.eye_array(n), np.ones((1, m))), sparse.kron(np.ones((1, n)), sparse.eye_array(m))]
    ).tocsr()
    # One of the n + m equations follows from the others.
    lp = linprog(p.M.ravel(), A_eq=marginals[:-1], b_eq=np.concatenate([p.a, p.b])[:-1], method="highs")
    r = ot.sinkhorn(p.a, p.b, p.M, p.reg)
    gap = r.value_linear - lp.fun
    allowed = p.reg * np.log(n * m)
    ok = bool(r.success and lp.success and -1e-8 <= gap <= allowed)
    return ok, f"<M, P> {r.value_linear:.9f}, linear program {lp.fun:.9f}, gap {gap:.1e} <= {allowed:.1e}"


def _gradients() -> tuple[bool, str]:
    """`vjp` against central differences along a random direction, for the value and for the plan."""
    import numpy as np

    from . import datasets, ot

    p: Any = datasets.gaussian_clouds(23, 17, reg=2e-2)
    rng = np.random.default_rng(1)
    G, D = rng.standard_normal((2, *p.shape))
    da, db = rng.standard_normal(23) * p.a, rng.standard_normal(17) * p.b
    da, db = da - p.a * da.sum(), db - p.b * db.sum()

    def loss(t: float) -> float:
        r = ot.sinkhorn(p.a + t * da, p.b + t * db, p.M + t * D, p.reg, tol=1e-13)
        return 0.7 * r.value + float((G * r.plan).sum())

    base = ot.sinkhorn(p.a, p.b, p.M, p.reg, tol=1e-13)
    g = base.vjp(grad_value=0.7, grad_plan=G)
    exact = float((g["M"] * D).sum() + g["a"] @ da + g["b"] @ db)
    h = 1e-4
    numeric = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    error = abs(exact - numeric) / abs(numeric)
    return (
        error < 1e-6,
        f"directional derivative {exact:.9f}, by differences {numeric:.9f}, relative {error:.1e}",
    )


def _closed_form() -> tuple[bool, str]:
    """Two bins: the plan is known in closed form."""
    import numpy as np

    from . import ot

    M = np.array([[0.0, 1.0], [1.0, 0.0]])
    r = ot.sinkhorn([0.5, 0.5], [0.5, 0.5], M, 0.25)
    exact = 0.5 / (1 + np.exp(-1 / 0.25))
    error = abs(r.plan[0, 0] - exact)
    return bool(error < 1e-10), f"P_00 {r.plan[0, 0]:.15f}, exact {exact:.15f}"


def _against_splu() -> tuple[bool, str]:
    """A recycled sequence against SciPy's sparse LU; and what is carried has to save iterations."""
    import numpy as np
    from scipy import sparse
    from scipy.sparse.linalg import splu

    from . import linalg
    from .datagen import make_family

    family = make_family("helmholtz", 24)
    P = np.stack([family.parameters(0, i) for i in range(24)])
    P = 0.05 * P  # near one another
    data, b = family.assemble(P)
    b = np.ascontiguousarray(b)
    options: dict[str, Any] = {"solver": "gcrodr", "M": "none", "rtol": 1e-10}
    r = linalg.solve_batch(family.indptr, family.indices, data, b, params=P, **options)
    error = 0.0
    for row, x, rhs in zip(data, r.X, b, strict=True):
        exact = splu(sparse.csr_array((row, family.indices, family.indptr)).tocsc()).solve(rhs)
        error = max(error, float(np.linalg.norm(x - exact) / np.linalg.norm(exact)))
    cold, warm = int(r.nit[r.order[0]]), float(np.mean(r.nit[r.order[1:]]))
    ok = bool(r.converged and error < 1e-6 and warm < 0.7 * cold)
    return ok, f"relative error {error:.1e}; {cold} iterations cold, {warm:.1f} after that"


def _learned_omega() -> tuple[bool, str]:
    """A heat equation by SciPy's sparse LU; and the omega that is learned has to beat the fixed ones."""
    import numpy as np
    from scipy.sparse.linalg import splu

    from . import linalg
    from .datasets import HeatSequence

    heat = HeatSequence(30, 200, dt=1 / 200)
    options: dict[str, Any] = {"solver": "ssor_cg", "rtol": 1e-10}
    tuned = linalg.solve_sequence(heat, tuner="gp", context=heat.contexts, **options)
    u = heat.u0
    for i in range(len(heat)):
        A, b = heat.system(i, u)
        u = splu(A.tocsc()).solve(b)
    error = float(np.linalg.norm(tuned.X[-1] - u) / np.linalg.norm(u))
    fixed = {w: int(linalg.solve_sequence(heat, omega=w, **options).nit.sum()) for w in (1.0, 1.3, 1.6, 1.9)}
    best, learned = min(fixed, key=lambda w: fixed[w]), int(tuned.nit.sum())
    ok = bool(tuned.converged and error < 1e-7 and learned < fixed[best])
    return ok, f"relative error {error:.1e}; {learned} iterations, {fixed[best]} with omega = {best:g}"


def _recovered() -> tuple[bool, str]:
    """An ill-conditioned matrix from four entries per degree of freedom; rows by NumPy's least squares."""
    import numpy as np

    from . import completion
    from .datasets import low_rank_problem

    p = low_rank_problem(300, 200, rank=4, oversampling=4.0, cond=50.0, seed=1)
    r = completion.matrix_completion((p.rows, p.cols, p.vals), 4, shape=p.shape, robust=True, rng=0)
    truth = p.U @ p.V.T
    error = float(np.linalg.norm(r.to_dense() - truth) / np.linalg.norm(truth))
    X = completion.als_half_sweep(p.to_dense(), r.V)
    rows = 0.0
    for i in range(0, 300, 10):
        mine = p.rows == i
        exact = np.linalg.lstsq(r.V[p.cols[mine]], p.vals[mine], rcond=None)[0]
        rows = max(rows, float(np.linalg.norm(X[i] - exact) / np.linalg.norm(exact)))
    ok = bool(r.success and error < 1e-6 and rows < 1e-6)
    return ok, f"relative error {error:.1e}; rows against least squares {rows:.1e}"


def _against_slsqp() -> tuple[bool, str]:
    """Hock-Schittkowski 113, ten variables and eight inequalities, against the known optimum and SLSQP."""
    import numpy as np
    from scipy.optimize import minimize

    from .optimize import sketched_newton

    def fun(x: Any) -> float:
        far = (x[2:] - [10, 5, 3, 1, 0, 11, 10, 7]) ** 2
        return float(
            x[0] ** 2 + x[1] ** 2 + x[0] * x[1] - 14 * x[0] - 16 * x[1] + far @ [1, 4, 1, 2, 5, 7, 2, 1] + 45
        )

    def rows(x: Any) -> Any:
        a, b, c, d, e, f, g, h, i, j = x
        return np.array(
            [
                105 - 4 * a - 5 * b + 3 * g - 9 * h,
                -10 * a + 8 * b + 17 * g - 2 * h,
                8 * a - 2 * b - 5 * i + 2 * j + 12,
                -3 * (a - 2) ** 2 - 4 * (b - 3) ** 2 - 2 * c**2 + 7 * d + 120,
                -5 * a**2 - 8 * b - (c - 6) ** 2 + 2 * d + 40,
                -0.5 * (a - 8) ** 2 - 2 * (b - 4) ** 2 - 3 * e**2 + f + 30,
                -(a**2) - 2 * (b - 2) ** 2 + 2 * a * b - 14 * e + 6 * f,
                3 * a - 6 * b - 12 * (i - 8) ** 2 + 7 * j,
            ]
        )

    x0 = np.array([2.0, 3, 5, 5, 1, 2, 7, 3, 6, 10])
    problem: dict[str, Any] = {"jac": "3-point", "constraints": {"type": "ineq", "fun": rows}}
    r = minimize(fun, x0, method=sketched_newton, **problem)
    peer = minimize(fun, x0, method="SLSQP", options={"ftol": 1e-12}, **problem)
    error = max(abs(r.fun - 24.3062091), float(-rows(r.x).min()), float(np.abs(r.x - peer.x).max()) / 100)
    ok = bool(r.success and error < 1e-5 and r.v[0].shape == (8,))
    return ok, f"objective {r.fun:.7f}, SLSQP's {peer.fun:.7f}, known 24.3062091; {r.nit} iterations"


def run(*, quick: bool = False) -> int:
    """Run all checks, print one line each, return the exit status (0 all passed, 1 not)."""
    from . import _core, info

    start = time.perf_counter()
    failed: list[str] = []

    def line(ok: bool, what: str, detail: str) -> None:
        print(f"{'PASS' if ok else 'FAIL'}  {what:<38} {detail}", flush=True)
        if not ok:
            failed.append(what)

    facts = info()
    cpus = facts["threads"]["cpus"]
    print(
        f"aitken {facts['aitken']}, {facts['versions']['platform']}, {cpus} CPUs, "
        f"SIMD {', '.join(facts['simd']['supported'])}"
    )
    levels = [facts["simd"]["level"]] if quick else list(_core.simd_levels_supported())
    counts = [facts["threads"]["used"]] if quick else sorted({1, 2, cpus})
    if not facts["build"]["openmp"]:
        counts = [1]
    played = []
    for level in levels:
        digests = {}
        for threads in counts:
            what = f"solves, SIMD {level}, {threads} thread{'s' if threads > 1 else ''}"
            try:
                result = _run_child(level, threads)
            except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                line(False, what, str(error))
                continue
            bad = [
                f"{name}: error {err:.1e}, allowed {goal:.0e}"
                for name, err, goal, success in result["errors"]
                if not (success and err <= goal)
            ]
            if result["level"] != level:
                bad.append(f"AITKEN_SIMD={level} gave level {result['level']}")
            worst = max(err / goal for _, err, goal, _ in result["errors"])
            line(
                not bad,
                what,
                "; ".join(bad) or f"{len(result['errors'])} problems, worst at {worst:.2f} of its tolerance",
            )
            digests[threads] = result["digest"]
            played.append(result["tuners"])
        if len(counts) > 1 and len(digests) == len(counts):
            line(
                len(set(digests.values())) == 1,
                f"same bits for {counts} threads, {level}",
                digests[counts[0]][:16],
            )
    if len(played) > 1:
        line(len(set(played)) == 1, f"same choices of tuners, {len(played)} runs", played[0][:16])
    for what, check in (
        ("transport cost against SciPy's linprog", _against_linprog),
        ("gradients against differences", _gradients),
        ("closed form of two bins", _closed_form),
        ("recycled sequence against sparse LU", _against_splu),
        ("learned omega against fixed ones", _learned_omega),
        ("completed matrix against the truth", _recovered),
        ("minimum under constraints against SLSQP", _against_slsqp),
    ):
        try:
            ok, detail = check()
        except Exception as error:  # a crash is a failed check, not the end of the self-test
            ok, detail = False, f"{type(error).__name__}: {error}"
        line(ok, what, detail)
    gpu = facts["gpu"]
    state = "available, not covered by this self-test" if gpu["available"] else f"off: {gpu['reason']}"
    print(f"----  {'GPU':<38} {state}")
    spent = time.perf_counter() - start
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'all passed'} ({spent:.1f} s)")
    return 1 if failed else 0
