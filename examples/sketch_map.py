"""Where sketching wins and where it does not: every figure on sketching in the theory pages, computed anew.

    python examples/sketch_map.py                  # all parts, under two minutes
    python examples/sketch_map.py family matrix    # some of them
    python examples/sketch_map.py --full matrix    # larger systems, some minutes and 3 GB

Parts: family (sketch-and-project against LSQR, MINRES and a factorisation, Mflop on three Newton systems),
matrix (W at hand, dense or sparse: direct, sketched, MINRES, seconds over n, rows and condition number),
operator (W known by its products alone), sequence (the Newton systems of a regression, one sketch for all).
Newton matrices are ``[[W'W + mu I, J'], [J, 0]]``. Residuals are ``||K z - b|| / ||b||``, recomputed from the
answers. Flops and iterations hardly depend on the machine; seconds do, and are processor time of one core.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # one core, so that processor time is what is compared
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, lsqr

from aitken.datasets import constrained_logistic, elliptic_control
from aitken.optimize._kkt import DirectSolver, InnerResult, KKTMatrix
from aitken.optimize._krylov_kkt import solve_minres, solve_sketch_prec
from aitken.optimize._sketch import SketchedPreconditioner, solve_projection

CONSTRAINTS = 11


def residual(K: KKTMatrix, z: np.ndarray, b: np.ndarray) -> float:
    """``||K z - b|| / ||b||``."""
    return float(np.linalg.norm(K.matvec(z) - b) / np.linalg.norm(b))


# --------------------------------------------------------------------------------------------------- family


def dense_system(H: Any, J: Any, grad: np.ndarray, c: np.ndarray) -> tuple[KKTMatrix, np.ndarray]:
    """A Newton system with zeros stored, so that flops compare with a dense factorisation."""
    H, J = (A.toarray() if sp.issparse(A) else np.asarray(A) for A in (H, J))
    return KKTMatrix(H, J, np.zeros(len(H)), np.zeros(len(J))), -np.concatenate([grad, c])


def elliptic_system(N: int) -> tuple[KKTMatrix, np.ndarray]:
    """Linear elliptic control at its start."""
    p = elliptic_control(N)
    J = p.constraints[0].A
    return dense_system(p.hess(p.x0), J, p.grad(p.x0) + J.T @ p.lam0, J @ p.x0)


def logistic_system() -> tuple[KKTMatrix, np.ndarray]:
    """Logistic regression with 60 variables on a sphere cut by ten planes, at its start."""
    g = np.random.default_rng(0)
    A, y = g.standard_normal((208, 60)), np.sign(g.standard_normal(208))
    p = constrained_logistic((A, y))
    planes, sphere = p.constraints
    J = np.vstack([planes.A, sphere.jac(p.x0)])
    c = np.concatenate([planes.A @ p.x0 - planes.lb, np.atleast_1d(sphere.fun(p.x0)) - sphere.lb])
    H = p.hess(p.x0) + sphere.hess(p.x0, p.lam0[-1:])
    return dense_system(H, J, p.grad(p.x0) + J.T @ p.lam0, c)


def lsqr_mflop(K: KKTMatrix, b: np.ndarray, rtol: float) -> float | None:
    """Two products per iteration; the least number of iterations whose true residual does, by doubling."""
    A, size = K.to_dense(), len(b)
    low, high = 0, 1
    while residual(K, lsqr(A, b, atol=0, btol=0, conlim=0, iter_lim=high)[0], b) > rtol:
        low, high = high, 2 * high
        if high > 40 * size:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        z = lsqr(A, b, atol=0, btol=0, conlim=0, iter_lim=middle)[0]
        low, high = (low, middle) if residual(K, z, b) <= rtol else (middle, high)
    return high * (4.0 * size**2 + 20.0 * size) / 1e6


def minres_mflop(K: KKTMatrix, b: np.ndarray, rtol: float) -> float | None:
    found = solve_minres(K, b, None, rtol, 40 * len(b))
    size = len(b)
    return found.iterations * (2.0 * size**2 + 18.0 * size) / 1e6 if found.converged else None


def sketch_mflop(method: str, cap: int) -> Callable[[KKTMatrix, np.ndarray, float], float | None]:
    def measure(K: KKTMatrix, b: np.ndarray, rtol: float) -> float | None:
        found = solve_projection(K, b, None, rtol, cap, method, max(len(b) // 4, 1), seed=1)
        return found.flops / 1e6 if found.converged else None

    return measure


METHODS: dict[str, Callable[[KKTMatrix, np.ndarray, float], float | None]] = {
    "kaczmarz": sketch_mflop("kaczmarz", 40_000),
    "gaussian": sketch_mflop("gaussian", 40_000),
    "block_gaussian": sketch_mflop("block_gaussian", 2_000),
    "countsketch": sketch_mflop("countsketch", 2_000),
    "block_kaczmarz": sketch_mflop("block_kaczmarz", 2_000),
    "LSQR": lsqr_mflop,
    "MINRES": minres_mflop,
}


def family(full: bool) -> None:
    """Mflop to relative residuals 1e-1, 1e-4 and 1e-9; -- where the cap on steps came first."""
    systems = {
        "elliptic 3x3": elliptic_system(3),
        "elliptic 8x8": elliptic_system(8),
        "logistic": logistic_system(),
    }
    print("  Mflop to 1e-1 / 1e-4 / 1e-9 on dense K, one seed; caps 40000 steps, blocks (N/4) 2000")
    for name, (K, b) in systems.items():
        s = np.linalg.svd(K.to_dense(), compute_uv=False)
        ratio = (s @ s) / s[-1] ** 2
        print(f"  {name}: N = {len(b)}, cond {s[0] / s[-1]:.2g}, ||K||_F^2 / s_min^2 {ratio:.2g}")
        for method, measure in METHODS.items():
            found = [measure(K, b, rtol) for rtol in (1e-1, 1e-4, 1e-9)]
            cells = " / ".join("--" if f is None else f"{f:.3g}" for f in found)
            print(f"    {method:15} {cells}")
        print(f"    {'dense LU':15} {2 / 3 * len(b) ** 3 / 1e6:.3g}")


# ------------------------------------------------------------------------------------------------ W at hand


def regression(rows: int, n: int, condition: float, density: float, seed: int = 0) -> tuple[Any, float]:
    """W of order one like J, columns falling off so that W'W + mu I has the condition asked for; and mu."""
    g = np.random.default_rng(seed)
    scale = np.logspace(0, -0.5 * np.log10(condition), n) / np.sqrt(rows * density)
    if density == 1:
        return g.standard_normal((rows, n)) * scale, 1 / condition
    W = sp.random_array((rows, n), density=density, format="csr", rng=g, data_sampler=g.standard_normal)
    W.data *= scale[W.indices]
    return W, 1 / condition


def direct_solve(W: Any, mu: float, J: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Form W'W, factor K, solve: everything that a system costs."""
    gram = W.T @ W
    H = gram.toarray() if sp.issparse(gram) else gram
    H[np.diag_indices(len(H))] += mu
    solver = DirectSolver()
    solver.factor(KKTMatrix(H, J, np.zeros(H.shape[0]), np.zeros(len(J))))
    return solver.solve(b).z


def product_system(W: Any, mu: float, J: np.ndarray) -> KKTMatrix:
    """The same system with H as products: W and W' are streamed, H is never formed."""
    n = W.shape[1]
    H = LinearOperator((n, n), matvec=lambda v: W.T @ (W @ v) + mu * v, dtype=float)
    return KKTMatrix(H, J, np.zeros(n), np.zeros(len(J)))


def timed(solve: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time and what the function gave."""
    start = time.process_time()
    out = solve()
    return time.process_time() - start, out


def cell(found: tuple[float, InnerResult], rtol: float) -> str:
    seconds, r = found
    return f"{seconds:7.3f} ({r.iterations})" if r.residual <= rtol else f"     -- ({r.residual:.0e})"


HEADER = "  W         n    rows   cond   direct    rtol  sketch 2n        sketch 4n        MINRES"


def compare(W: Any, mu: float, label: str, condition: float, solve: Callable[..., np.ndarray]) -> None:
    """Two lines, a tolerance each; `solve` is the direct solver, which ends near rounding."""
    n = W.shape[1]
    g = np.random.default_rng(1)
    J, b = g.standard_normal((CONSTRAINTS, n)), g.standard_normal(n + CONSTRAINTS)
    K = product_system(W, mu, J)
    direct, z = timed(lambda: solve(W, mu, J, b))
    assert residual(K, z, b) < 1e-6
    minres: tuple[float, InnerResult] | None = None
    for rtol in (1e-2, 1e-6):
        cells = [
            timed(lambda f=factor, r=rtol: solve_sketch_prec(K, b, None, r, 400, W, sketch_size=f * n))
            for factor in (2, 4)
        ]
        if minres is None or minres[1].converged:  # what misses 1e-2 misses 1e-6
            minres = timed(lambda r=rtol: solve_minres(K, b, None, r, 400))
        text = "  ".join(f"{cell(c, rtol):15}" for c in (*cells, minres))
        print(
            f"  {label:7} {n:5d} {W.shape[0]:7d} {condition:6.0e} {direct:8.3f} {rtol:7.0e}{text}", flush=True
        )


def matrix(full: bool) -> None:
    """Dense and sparse W. Seconds (iterations); -- (residual reached) where 400 iterations did not do."""
    print(HEADER)
    cases = [(300, 20_000, 1.0), (1000, 10_000, 1.0), (2000, 20_000, 0.01)]
    if full:
        cases += [(1000, 40_000, 1.0), (2000, 40_000, 1.0), (3000, 60_000, 1.0)]
        cases += [(1000, 100_000, 0.01), (3000, 200_000, 0.01)]
    for n, rows, density in cases:
        for condition in (1e2, 1e6):
            W, mu = regression(rows, n, condition, density)
            compare(W, mu, "dense" if density == 1 else f"{density:.0%}", condition, direct_solve)


def cosine(rows: int, n: int, condition: float) -> LinearOperator:
    """W = D C E with a cosine transform C, row weights D and column weights E, by its products."""
    g = np.random.default_rng(2)
    scale = np.logspace(0, -0.5 * np.log10(condition), n)
    weight = np.exp(0.5 * g.standard_normal(rows))
    place = g.choice(rows, n, replace=False)

    def forward(v: np.ndarray) -> np.ndarray:
        spread = np.zeros(rows)
        spread[place] = scale * v.ravel()
        return np.asarray(weight * scipy.fft.idct(spread, norm="ortho"))

    def backward(u: np.ndarray) -> np.ndarray:
        return np.asarray(scale * scipy.fft.dct(weight * u.ravel(), norm="ortho")[place])

    return LinearOperator((rows, n), matvec=forward, rmatvec=backward, dtype=float)


def direct_by_columns(W: LinearOperator, mu: float, J: np.ndarray, b: np.ndarray) -> np.ndarray:
    """W times the n unit vectors, then as for a matrix."""
    return direct_solve(np.column_stack([W.matvec(e) for e in np.eye(W.shape[1])]), mu, J, b)


def operator(full: bool) -> None:
    """W by its products alone, O(rows log rows) each; "direct" multiplies it by the unit vectors first."""
    print(HEADER)
    for n, rows in [(500, 20_000), *([(1000, 20_000), (2000, 50_000)] if full else [])]:
        for condition in (1e2, 1e6):
            compare(cosine(rows, n, condition), 1 / condition, "cosine", condition, direct_by_columns)


def sequence(full: bool) -> None:
    """Damped Newton systems of a sparse regression; one sketch serves until its count grows by half."""
    rows, n = (200_000, 1500) if full else (50_000, 600)
    g = np.random.default_rng(3)
    A = sp.random_array((rows, n), density=0.05, format="csr", rng=g, data_sampler=g.standard_normal)
    A = sp.csr_array(A @ sp.diags_array(np.logspace(0.5, -2, n)))
    y = np.where(A @ g.standard_normal(n) + 0.1 * g.standard_normal(rows) > 0, 1.0, -1.0)
    J, x = g.standard_normal((CONSTRAINTS, n)), np.zeros(n)
    mu, state = 1e-6, SketchedPreconditioner(seed=1)
    totals = {"direct": 0.0, "kept sketch": 0.0, "fresh sketches": 0.0, "MINRES": 0.0}
    counts: dict[str, list[int]] = {name: [] for name in totals}
    for _ in range(8):
        t = y * (A @ x)
        s = 1 / (1 + np.exp(t))
        W = sp.csr_array(sp.diags_array(np.sqrt(s * (1 - s) / rows)) @ A)
        b = np.concatenate([A.T @ (y * s) / rows - mu * x, -J @ x + 0.1])
        K = product_system(W, mu, J)
        runs = {
            "direct": lambda: direct_solve(W, mu, J, b),  # noqa: B023
            "kept sketch": lambda: solve_sketch_prec(K, b, None, 1e-6, 400, W, state),  # noqa: B023
            "fresh sketches": lambda: solve_sketch_prec(K, b, None, 1e-6, 400, W),  # noqa: B023
            "MINRES": lambda: solve_minres(K, b, None, 1e-6, 1000),  # noqa: B023
        }
        for name, solve in runs.items():
            seconds, found = timed(solve)
            totals[name] += seconds
            if name == "direct":
                z = found
                assert residual(K, z, b) < 1e-6
            else:
                counts[name].append(found.iterations if found.converged else -1)
        x = x + 0.7 * z[:n]
    print(f"  n = {n}, {rows} rows of {A.nnz // rows} entries, 8 systems to 1e-6; -1: not in 1000 products")
    for name, seconds in totals.items():
        print(f"  {name:15} {seconds:7.2f} s   iterations {counts[name] or '-'}")
    print(f"  sketches drawn by the one that is kept: {state.draws}")


PARTS = {"family": family, "matrix": matrix, "operator": operator, "sequence": sequence}


def main(arguments: list[str]) -> int:
    full = "--full" in arguments
    chosen = [a for a in arguments if a != "--full"] or list(PARTS)
    unknown = [a for a in chosen if a not in PARTS]
    if unknown:
        print(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in chosen:
        print(f"{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}")
        start = time.perf_counter()
        PARTS[name](full)
        print(f"  [{time.perf_counter() - start:.0f} s]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
