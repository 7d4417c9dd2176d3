"""Every figure that the theory page of matrix completion quotes, computed anew.

    python examples/completion_reproduction.py                  # all parts, under two minutes
    python examples/completion_reproduction.py splitting phase  # some of them

Parts: splitting (a fresh part of the entries in each half sweep against all of them), robust (solvers of the
rows that are not exact), start (spectral, along a path of penalties, rank by rank), phase (near the threshold
of recovery), noise, sketch (iterations on incoherent and spiky factors), cost (seconds of a half sweep), fit
(noisy entries of very uneven degrees, with a penalty), failure (too large a rank, coherent matrices, few
entries). Errors are ``||U V' - M||_F / ||M||_F``, recomputed; counts and errors hardly depend on the machine,
seconds do.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from aitken import ConvergenceWarning, RecoveryWarning
from aitken.completion import als_half_sweep, matrix_completion
from aitken.datasets import CompletionProblem, low_rank_problem, power_law_pattern


def error(r: Any, p: CompletionProblem) -> float:
    """Relative error in the Frobenius norm, by QR of the stacked factors: accurate down to rounding."""
    left = np.linalg.qr(np.hstack([r.U, p.U]), mode="r")
    right = np.linalg.qr(np.hstack([r.V, -p.V]), mode="r")
    truth = np.linalg.qr(p.U, mode="r") @ np.linalg.qr(p.V, mode="r").T
    return float(np.linalg.norm(left @ right.T) / np.linalg.norm(truth))


def complete(p: CompletionProblem, rank: int | str, *, rng: int = 0, **options: Any) -> Any:
    """Complete without warnings: what fails is the subject here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RecoveryWarning)
        return matrix_completion((p.rows, p.cols, p.vals), rank, shape=p.shape, rng=rng, **options)


def sweeps(p: CompletionProblem, rank: int, *, maxiter: int = 100, **options: Any) -> tuple[int, float]:
    """Sweeps until the training error is 1e-9 of the entries' size, and the error then."""
    rules = {"tol": 0.0, "atol_rmse": 1e-9 * p.info["rms"], "maxiter": maxiter, "finalize": False}
    r = complete(p, rank, **rules, **options)
    return r.nit, error(r, p)


def splitting() -> None:
    """One fresh part of the entries per half sweep, as in the proofs, or all of them: n = 1000, k = 5."""
    print("  rho   known    split   all, 8 sweeps")
    for rho in (4, 16, 32, 64):
        p = low_rank_problem(1000, rank=5, oversampling=rho, seed=0)
        split = complete(p, 5, sample_splitting=True, maxiter=8)
        reuse = complete(p, 5, tol=0.0, maxiter=8)
        known = 100 * p.nnz / 1e6
        print(f"  {rho:<4} {known:5.1f} %  {error(split, p):7.0e}   {error(reuse, p):7.0e}")


ROWS = (
    ("exact", {"inner": "exact"}),
    ("CG, 1 step", {"inner": "cg", "inner_maxiter": 1}),
    ("CG, 3 steps", {"inner": "cg"}),
    ("CG with the factor's Gram, 3", {"inner": "qcg"}),
    ("CG with a row's sketch, 3", {"inner": "sketch"}),
    ("CG with a float32 Gram, 3", {"inner": "lowprec"}),
)


def robust() -> None:
    """n = 1000, k = 6, five spectral starts: median sweeps of those that end within 100, and how many."""
    cases = ((1.0, 4), (10.0, 4), (100.0, 6), (100.0, 10))
    problems = [low_rank_problem(1000, rank=6, oversampling=rho, cond=cond, seed=2) for cond, rho in cases]
    print(f"  {'':<30}" + "".join(f"{f'cond {cond:g}, rho {rho}':>18}" for cond, rho in cases))
    for name, options in ROWS:
        cells = []
        for p in problems:
            runs = [sweeps(p, 6, init="spectral", rng=seed, **options) for seed in range(5)]
            good = [nit for nit, err in runs if err < 1e-7]
            if good:
                cells.append(f"{np.median(good):.0f} ({len(good)}/5)")
            else:
                cells.append(f"{np.median([err for _, err in runs]):.0e} (0/5)")
        print(f"  {name:<30}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


STARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("spectral", {"init": "spectral"}),
    ("spectral, lambda path", {"init": "spectral", "lam_path": True}),
    ("rank by rank", {"init": "rank_increment"}),
    ("rank by rank, CG-3", {"init": "rank_increment", "inner": "cg"}),
    ("robust=True", {"robust": True}),
)


def start() -> None:
    """Singular values from 1 to 1/100, n = 1000, k = 6: the error, and the sweeps of all phases."""
    print(f"  {'':<24}" + "".join(f"{'rho ' + str(rho):>18}" for rho in (3, 4, 6, 10)))
    for name, options in STARTS:
        cells = []
        for rho in (3, 4, 6, 10):
            p = low_rank_problem(1000, rank=6, oversampling=rho, cond=100.0, seed=2)
            r = complete(p, 6, tol=0.0, atol_rmse=1e-11 * p.info["rms"], **options)
            cells.append(f"{error(r, p):.0e} in {r.nit:>3}")
        print(f"  {name:<24}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def phase() -> None:
    """Equal singular values, n = 600, k = 5, seeds 10 to 13: how many of four end below 1e-4."""
    print(f"  {'':<24}" + "".join(f"{'rho ' + str(rho):>9}" for rho in (1.5, 2, 2.5, 3)))
    for name, options in STARTS:
        if "CG" in name:
            continue
        cells = []
        for rho in (1.5, 2, 2.5, 3):
            good = 0
            for seed in range(10, 14):
                p = low_rank_problem(600, rank=5, oversampling=rho, seed=seed)
                good += error(complete(p, 5, maxiter=200, tol=1e-9, **options), p) < 1e-4
            cells.append(f"{good}/4")
        print(f"  {name:<24}" + "".join(f"{cell:>9}" for cell in cells), flush=True)


def noise() -> None:
    """Errors in units of sigma / sqrt(rho), the best that is possible: n = 1000, k = 5, rho = 8."""
    for sigma in (1e-3, 1e-2, 1e-1):
        p = low_rank_problem(1000, rank=5, oversampling=8.0, noise=sigma, seed=5)
        best = sigma / np.sqrt(8)
        exact, cg = (error(complete(p, 5, inner=inner), p) / best for inner in ("exact", "cg"))
        print(f"  sigma {sigma:<6g} exact {exact:.3f}   CG-3 {cg:.3f}")


def row_block(d: int, k: int, spikes: float, count: int, n: int = 4096) -> tuple[Any, Any]:
    """`count` rows of d entries each, and their factor, whose rows have sizes exp(spikes N(0, 1))."""
    rng = np.random.default_rng(0)
    V = rng.standard_normal((n, k)) * np.exp(spikes * rng.standard_normal((n, 1)))
    places = np.sort(np.argsort(rng.random((count, n)), axis=1)[:, :d], axis=1)
    values = np.einsum("rdk,rk->rd", V[places], rng.standard_normal((count, k)))
    A = sparse.csr_array((values.ravel(), places.ravel(), d * np.arange(count + 1)), shape=(count, n))
    return A, V


def gradient(A: Any, V: Any, X: Any) -> Any:
    """2-norms of the gradients of the rows of X, over those at X = 0."""
    places = A.indices.reshape(A.shape[0], -1)
    B = V[places]
    left = A.data.reshape(places.shape) - np.einsum("rdk,rk->rd", B, X)
    there = np.linalg.norm(np.einsum("rdk,rd->rk", B, left), axis=1)
    return there / np.linalg.norm(np.einsum("rdk,rd->rk", B, A.data.reshape(places.shape)), axis=1)


def iterations(A: Any, V: Any, inner: str, limit: int = 256) -> int:
    """Fewest iterations after which the median row's gradient is 1e-8 of what it was at zero."""

    def enough(steps: int) -> bool:
        X = als_half_sweep(A, V, inner=inner, inner_maxiter=steps, inner_tol=0.0)
        return bool(np.median(gradient(A, V, X)) <= 1e-8)

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > limit:
            return limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def sketch() -> None:
    """Iterations on a row of d entries until its gradient is 1e-8 of what it was; k = 32, 16 rows."""
    print("                 d/k       CG   global Gram   row's sketch   float32 Gram")
    for name, spikes in (("incoherent", 0.0), ("spiky", 1.5)):
        for multiple in (2, 8, 32):
            A, V = row_block(32 * multiple, 32, spikes, 16)
            counts = [iterations(A, V, inner) for inner in ("cg", "qcg", "sketch", "lowprec")]
            print(
                f"  {name:<12} {multiple:>5} {counts[0]:>8} {counts[1]:>13} {counts[2]:>14} {counts[3]:>14}"
            )


def cost() -> None:
    """Microseconds per row of a half sweep on one thread, three iterations; incoherent factor, float64."""
    names = ("exact", "cg", "sketch", "lowprec")
    print("    k     d" + "".join(f"{name:>10}" for name in names))
    for k in (32, 64, 128):
        for multiple in (2, 8, 16):
            A, V = row_block(multiple * k, k, 0.0, 100)
            cells = []
            for inner in names:
                times = []
                for _ in range(5):
                    begin = time.perf_counter()
                    als_half_sweep(A, V, inner=inner, inner_tol=0.0, n_threads=1)
                    times.append(time.perf_counter() - begin)
                cells.append(f"{1e6 * min(times) / A.shape[0]:10.1f}")
            print(f"  {k:>3} {multiple * k:>5}" + "".join(cells))


def fit() -> None:
    """RMSE of a tenth of the entries, held out, after some sweeps: noise 0.5, rank 8 under it, k = 40."""
    rows, cols = power_law_pattern(4000, 1500, draws=300_000)
    rng = np.random.default_rng(1)
    U, V = (rng.standard_normal((n, 8)) / 8**0.25 for n in (4000, 1500))
    vals = np.einsum("ij,ij->i", U[rows], V[cols]) + 0.5 * rng.standard_normal(len(rows))
    train, test = CompletionProblem("uneven", rows, cols, vals, (4000, 1500)).split(0.1)
    held = (test.rows, test.cols, test.vals)
    marks = (3, 5, 10, 15, 30)
    print(f"  {'':<32}" + "".join(f"{f'sweep {t}':>10}" for t in marks))
    for lam in (1.0, 5.0):
        cases = [(name, "random", options) for name, options in ROWS]
        for name, init, options in (*cases, ("exact, spectral start", "spectral", {"inner": "exact"})):
            r = complete(
                train,
                40,
                lam=lam,
                init=init,
                maxiter=30,
                tol=0.0,
                holdout=held,
                patience=99,
                finalize=False,
                **options,
            )
            cells = "".join(f"{r.history['rmse_holdout'][t - 1]:10.4f}" for t in marks)
            print(f"  lam {lam:g}  {name:<28}{cells}", flush=True)


def failure() -> None:
    """What goes wrong where the assumptions do; n = 600, true rank 5."""
    p = low_rank_problem(600, rank=5, oversampling=8.0, seed=0)
    for name, options in (*STARTS[:1], STARTS[2], STARTS[4]):
        for rank in (5, 6, 7, 8, 10):
            r = complete(p, rank, **options)
            fit, status = r.rmse_train / p.info["rms"], r.status.name
            print(
                f"  {name}, {rank} columns: rank {r.rank}, training error {fit:.0e}, "
                f"error {error(r, p):.0e}, {status}"
            )
    noisy = low_rank_problem(600, rank=5, oversampling=8.0, noise=0.1, seed=0)
    for rank in (5, 8, 12):
        plain = error(complete(noisy, rank), noisy)
        held = error(complete(noisy, rank, lam=0.5, maxiter=100), noisy)
        print(f"  10 % noise, {rank} columns: lam = 0 error {plain:.3f}, lam = 0.5 error {held:.3f}")
    auto = complete(noisy, "auto", max_rank=12)
    print(f'  10 % noise, rank="auto": {auto.rank}, error {error(auto, noisy):.3f}')
    for spread in (0.0, 0.7):
        solved = [
            error(complete(q, 5), q) < 1e-4 for q in (coherent(600, 5, 4.0, spread, i) for i in range(5))
        ]
        print(f"  rows and columns of sizes exp({spread:g} N(0, 1)), rho 4: {sum(solved)}/5 below 1e-4")
    few = low_rank_problem(600, rank=5, oversampling=1.3, seed=10)
    r = complete(few, 5, lam_path=True, maxiter=300)
    print(
        f"  rho 1.3: training error {r.rmse_train / few.info['rms']:.0e}, error {error(r, few):.1f}, "
        f"{r.n_underdetermined} rows and columns with fewer than 5 entries"
    )


def coherent(n: int, rank: int, rho: float, spread: float, seed: int) -> CompletionProblem:
    """A matrix whose rows and columns have log-normal sizes, so that few of them carry most of it."""
    rng = np.random.default_rng(seed)
    U, V = (rng.standard_normal((n, rank)) * np.exp(spread * rng.standard_normal((n, 1))) for _ in range(2))
    rows, cols = np.divmod(rng.choice(n * n, int(rho * rank * (2 * n - rank)), replace=False), n)
    vals = np.einsum("ij,ij->i", U[rows], V[cols])
    return CompletionProblem("coherent", rows, cols, vals, (n, n), U, V)


PARTS: dict[str, Callable[[], None]] = {
    "splitting": splitting,
    "robust": robust,
    "start": start,
    "phase": phase,
    "noise": noise,
    "sketch": sketch,
    "cost": cost,
    "fit": fit,
    "failure": failure,
}


def main() -> int:
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no part {unknown[0]!r}; there is {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"--- {name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
        begin = time.perf_counter()
        PARTS[name]()
        print(f"  ({time.perf_counter() - begin:.1f} s)\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
