"""Matrix completion against the peers: the same objective, recomputed here from every answer.

Parts, each of which ``--only`` can pick by the name of its problems:

- ``recovery``: P1 to P4, sweeps and relative error of noise-free, ill-conditioned and noisy matrices.
- ``sweep``: P5, seconds of one sweep over 7.17 million entries with power-law degrees, float32, on one thread
  and two, beside cmfrec; and of one sweep of the implicit-feedback objective, beside implicit and cmfrec.
- ``gram``: rate of the Gram matrices in a half sweep of long rows, beside NumPy's sgemm.
- ``ratings``: MovieLens 100k, held-out RMSE, beside cmfrec and Surprise; and beside Spark where it is.
- ``climate``: Colorado's monthly maxima, held-out RMSE.
- ``image``: a photograph with half of its pixels missing, PSNR of these.

Seconds of a sweep are differences between long and short runs, so that set-up does not count.

    python bench/completion.py --quick                          # under a minute
    python bench/completion.py --json bench/results/FILE.json   # about twenty minutes
    python bench/completion.py --only ratings --update --json FILE
    python bench/completion.py --device cuda                    # ours with CuPy arrays
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import _harness as harness  # noqa: E402

if "numpy" not in sys.modules:
    harness.pin_threads()

import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402

import aitken  # noqa: E402
from aitken import datasets  # noqa: E402
from aitken.completion import als_half_sweep, matrix_completion  # noqa: E402
from tests.completion import problems  # noqa: E402

PEERS = {
    "cmfrec": "cmfrec",
    "implicit.als": "implicit",
    "surprise": "scikit-surprise",
    "fancyimpute": "fancyimpute",
    "sklearn.impute": "scikit-learn",
}
DISTRIBUTIONS = (*PEERS.values(), "pyspark", "threadpoolctl")

Row = dict[str, Any]
Fit = Callable[[int], Any]


def row(solver: str, kind: str, **values: Any) -> Row:
    """One line of a table; `seconds` is a timing's JSON or None."""
    return {"solver": solver, "kind": kind, "seconds": None, "ratio": None, "note": ""} | values


def target(text: str, value: float, wanted: float, *, least: bool = False) -> dict[str, Any]:
    """A figure beside what it should be at most, or with `least` at least."""
    met = value >= wanted if least else value <= wanted
    return {"against": text, "value": value, "wanted": wanted, "least": least, "met": bool(met)}


def clock(threads: int) -> Callable[[], float]:
    """One thread: its own seconds, which other load on the machine does not lengthen. Else the wall's."""
    return time.process_time if threads == 1 else time.perf_counter


def measured(work: Callable[[], Any], threads: int, budget: float, repeats: int = 7) -> tuple[dict, Any]:
    """A timing's JSON of `work` within about `budget` seconds, and what it returned last."""
    timing, now = harness.Timing(), clock(threads)
    result = None
    while not timing.runs or (sum(timing.runs) < budget and len(timing.runs) < repeats):
        start = now()
        result = work()
        timing.runs.append(now() - start)
    return timing.to_json(), result


def compare(rows: list[Row], key: Callable[[Row], float | None]) -> None:
    """Every row's figure over that of the first of ours."""
    mine = next((key(r) for r in rows if r["kind"] == "ours" and key(r)), None)
    for r in rows:
        value = key(r)
        r["ratio"] = value / mine if value and mine else None


# ------------------------------------------------------------------------------------------------ recovery


def recovered(problem: Any, sweeps: int, args: Any, **options: Any) -> Row:
    """At most so many sweeps over a problem whose answer is known: seconds, and the true relative error."""
    entries = (problem.rows, problem.cols, problem.vals)
    start = clock(args.threads)()
    r = matrix_completion(
        entries, problem.U.shape[1], shape=problem.shape, center=False, rng=0, n_threads=args.threads,
        maxiter=sweeps, **options,
    )  # fmt: skip
    timing = harness.Timing([clock(args.threads)() - start]).to_json()
    error = problems.relative_error(r.U, r.V, problem)
    return row("aitken", "ours", seconds=timing, error=error, nit=int(r.nit), reached=None)


def first_sweep(problem: Any, limit: float, most: int, args: Any, **options: Any) -> int | None:
    """The first sweep, up to `most`, behind which the error is at most `limit`, by bisection."""
    if recovered(problem, most, args, **options)["error"] > limit:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if recovered(problem, middle, args, **options)["error"] <= limit:
            high = middle
        else:
            low = middle
    return high


def recovery_p1(args: Any) -> dict[str, Any]:
    rows, goals = [], []
    for cond, inner, most in ((1.0, "exact", 26), (10.0, "exact", 27), (1.0, "cg", 26)):
        options: dict[str, Any] = {"inner": inner, "tol": 0.0, "finalize": False}
        problem = problems.recovery(cond)
        r = recovered(problem, 60, args, **options)
        r["solver"] = f"aitken {inner}, cond={cond:g}"
        r["reached"] = first_sweep(problem, 1e-8, 60, args, **options)
        rows.append(r)
        goals.append(target(f"{r['solver']}: sweeps to 1e-8", r["reached"] or math.inf, most))
    return {"rows": rows, "targets": goals, "text": "P1: n=2000, k=10, 4 entries per degree of freedom"}


def recovery_p2(args: Any) -> dict[str, Any]:
    rows, goals = [], []
    for rho, wanted in ((1.5, 2), (2.0, 4), (2.5, 4), (3.0, 4)):
        for name, options in {"lam_path": {"lam_path": True}, "robust": {"robust": True}}.items():
            found = [
                recovered(problems.phase(rho, seed), 200, args, inner="exact", tol=1e-9, **options)
                for seed in range(10, 14)
            ]
            worked = sum(r["error"] < 1e-4 for r in found)
            timing = harness.Timing([r["seconds"]["min"] for r in found]).to_json()
            errors = ", ".join(f"{r['error']:.0e}" for r in found)
            rows.append(
                row(
                    f"aitken {name}, rho={rho:g}", "ours", seconds=timing, error=None, reached=None,
                    nit=int(np.mean([r["nit"] for r in found])), note=f"{worked} of 4: {errors}",
                )
            )  # fmt: skip
            if name == "lam_path":
                goals.append(target(f"rho={rho:g}: recovered of 4", worked, wanted, least=True))
    return {"rows": rows, "targets": goals, "text": "P2: n=600, k=5, seeds 10 to 13, at most 200 sweeps"}


def recovery_p3(args: Any) -> dict[str, Any]:
    rows, goals = [], []
    for rho in (3.0,) if args.quick else (3.0, 4.0, 6.0, 10.0):
        r = recovered(problems.hard(rho), 200, args, robust=True, tol=1e-12)
        r["solver"] = f"aitken robust, rho={rho:g}"
        rows.append(r)
        goals.append(target(f"rho={rho:g}: error", r["error"], 1e-8))
    return {"rows": rows, "targets": goals, "text": "P3: n=1000, k=6, cond=100"}


def recovery_p4(args: Any) -> dict[str, Any]:
    rows, goals = [], []
    for noise in (1e-3, 1e-2, 1e-1):
        for inner in ("exact", "cg"):
            r = recovered(problems.noisy(noise), 100, args, inner=inner)
            r["solver"] = f"aitken {inner}, noise={noise:g}"
            bound = noise / math.sqrt(8)
            r["note"] = f"{r['error'] / bound:.3f} of noise / sqrt(8)"
            rows.append(r)
            goals.append(target(f"{r['solver']}: error over noise / sqrt(8)", r["error"] / bound, 1.15))
    return {"rows": rows, "targets": goals, "text": "P4: n=1000, k=5, 8 entries per degree of freedom"}


# ------------------------------------------------------------------------------------------- time per sweep


def per_sweep(fit: Fit, sweeps: int, threads: int, budget: float) -> tuple[float | None, Any]:
    """Seconds of a sweep, the best of runs, and the answer after so many sweeps.

    From the difference between one sweep and many: at least `sweeps`, and enough to be most of a run. None
    where other load on the machine has drowned the difference.
    """
    now = clock(threads)

    def run(count: int) -> tuple[float, Any]:
        start = now()
        result = fit(count)
        return now() - start, result

    many = sweeps
    long, result = run(many)  # pages and pools, too
    one = run(1)[0]
    spent = long if long > budget else 0.0  # a long run forgets what the first has more
    while long < 2.0 * one and many < 16 * sweeps:
        many *= 2
        long = run(many)[0]
        spent += long
    while spent < budget:
        one, again = min(one, run(1)[0]), run(many)[0]
        long, spent = min(long, again), spent + again
    seconds = (long - one) / (many - 1)
    return (seconds if seconds > 0 else None), result


def free_cores() -> bool:
    """Whether two threads have two cores to themselves: a product of matrices tells."""
    A = np.ones((1536, 1536), dtype=np.float32)
    times = []
    for threads in (1, 2):
        with harness.blas_threads(threads):
            times.append(harness.timed(lambda: A @ A, repeats=7).min)
    return times[0] > 1.7 * times[1]


def squared(M: Any, U: Any, V: Any) -> tuple[float, float, float]:
    """Over the entries: sums of (m - fit)^2, of (1 - fit)^2 m and of fit^2, in double precision."""
    U, V = np.asarray(U, dtype=float), np.asarray(V, dtype=float)
    sums = np.zeros(3)
    C = M.tocoo()
    for start in range(0, M.nnz, 1 << 18):
        some = slice(start, start + (1 << 18))
        fit = np.einsum("ij,ij->i", U[C.row[some]], V[C.col[some]])
        m = C.data[some].astype(float)
        sums += ((m - fit) ** 2).sum(), (m * (1 - fit) ** 2).sum(), (fit**2).sum()
    return sums[0], sums[1], sums[2]


def ridge(U: Any, V: Any) -> float:
    return float((np.asarray(U, dtype=float) ** 2).sum() + (np.asarray(V, dtype=float) ** 2).sum())


def explicit_objective(M: Any, U: Any, V: Any, lam: float) -> float:
    return squared(M, U, V)[0] + lam * ridge(U, V)


def implicit_objective(C: Any, U: Any, V: Any, lam: float) -> float:
    """Target 1 with the confidences C where they are stored, 0 with confidence 1 elsewhere."""
    _, seen, fitted = squared(C, U, V)
    U, V = np.asarray(U, dtype=float), np.asarray(V, dtype=float)
    everywhere = float(np.sum((U.T @ U) * (V.T @ V)))
    return seen + everywhere - fitted + lam * ridge(U, V)


def power_law(quick: bool) -> sparse.csr_array:
    p = problems.power_law(10_000, 3000, draws=600_000) if quick else problems.power_law()
    return sparse.csr_array((p.vals.astype(np.float32), (p.rows, p.cols)), shape=p.shape)


def own_fit(M: Any, k: int, inner: str, threads: int, **options: Any) -> Fit:
    def fit(sweeps: int) -> Any:
        r = matrix_completion(
            M, k, lam=1.0, center=False, init="random", inner=inner, inner_tol=0.0, maxiter=sweeps, tol=0.0,
            finalize=False, n_threads=threads, rng=0, **options,
        )  # fmt: skip
        return r.U, r.V

    return fit


def cmfrec_fit(cmfrec: Any, M: Any, k: int, use_cg: bool, threads: int) -> Fit:
    C = sparse.coo_matrix(M)

    def fit(sweeps: int) -> Any:
        model = cmfrec.CMF(
            k=k, lambda_=1.0, method="als", use_cg=use_cg, max_cg_steps=3, finalize_chol=False,
            user_bias=False, item_bias=False, center=False, niter=sweeps, use_float=True, nthreads=threads,
            precompute_for_predictions=False, verbose=False,
        )  # fmt: skip
        model.fit(C)
        return model.A_, model.B_

    return fit


def cmfrec_implicit_fit(cmfrec: Any, M: Any, k: int, use_cg: bool, threads: int) -> Fit:
    C = sparse.coo_matrix(M)

    def fit(sweeps: int) -> Any:
        model = cmfrec.CMF_implicit(
            k=k, lambda_=1.0, alpha=1.0, use_cg=use_cg, max_cg_steps=3, finalize_chol=False, niter=sweeps,
            use_float=True, nthreads=threads, precompute_for_predictions=False, verbose=False,
        )  # fmt: skip
        model.fit(C)
        return model.A_, model.B_

    return fit


def implicit_fit(als: Any, C: Any, k: int, use_cg: bool, threads: int) -> Fit:
    confidences = sparse.csr_matrix(C)

    def fit(sweeps: int) -> Any:
        model = als.AlternatingLeastSquares(
            factors=k, regularization=1.0, alpha=1.0, use_cg=use_cg, iterations=sweeps, num_threads=threads,
            random_state=0,
        )  # fmt: skip
        model.fit(confidences, show_progress=False)
        return model.user_factors, model.item_factors

    return fit


def timed_sweeps(
    fits: dict[str, tuple[str, Callable[[int], Fit], int]],
    value: Callable[[Any, Any], float],
    quick: bool,
) -> list[Row]:
    """A row for each ``{name: (kind, make(threads), sweeps)}``: seconds of a sweep, objective reached."""
    rows = []
    for name, (kind, make, many) in fits.items():
        try:
            seconds, factors = per_sweep(make(1), many, 1, 0.5 if quick else 8.0)
            two = None
            if (kind == "ours" or not quick) and free_cores():
                two, _ = per_sweep(make(2), many, 2, 0.5 if quick else 4.0)
        except Exception as error:  # a peer's: said in the table
            if kind == "ours":
                raise
            rows.append(row(name, kind, sweep=None, two=None, objective=None, note=f"failed: {error}"))
            continue
        objective = value(*factors)
        rows.append(row(name, kind, sweep=seconds, two=two, objective=objective, sweeps=many))
        if seconds and two:
            rows[-1]["note"] = f"two threads x{seconds / two:.2f}"
    return rows


def against(rows: list[Row], mine: str, theirs: str, wanted: float) -> list[dict[str, Any]]:
    """Targets of one of ours over one peer: seconds of a sweep, and the objective behind as many sweeps."""
    by_name = {r["solver"]: r for r in rows}
    ours, other = by_name[mine], by_name.get(theirs)
    if other is None or not other["sweep"] or not ours["sweep"]:
        return []
    goals = [target(f"{theirs} over {mine}, one thread", other["sweep"] / ours["sweep"], wanted, least=True)]
    if ours["sweeps"] == other["sweeps"]:
        gap = ours["objective"] / other["objective"]
        goals.append(target(f"{mine} over {theirs}, objective", gap, 1.01))
    return goals


def sweep(k: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """One sweep with an explicit objective: ridge 1, no biases, nothing centred."""
    M = power_law(args.quick)
    many = 4 if args.quick or k > 64 else 10
    fits: dict[str, tuple[str, Callable[[int], Fit], int]] = {
        "aitken CG-3": ("ours", lambda t: own_fit(M, k, "cg", t), many),
        "aitken exact": ("ours", lambda t: own_fit(M, k, "exact", t), many),
    }
    if "cmfrec" in found:
        cmfrec = found["cmfrec"]
        slow = 2 if args.quick or k > 64 else many
        fits["cmfrec CG-3"] = ("peer", lambda t: cmfrec_fit(cmfrec, M, k, True, t), many)
        fits["cmfrec Cholesky"] = ("peer", lambda t: cmfrec_fit(cmfrec, M, k, False, t), slow)
    rows = timed_sweeps(fits, lambda U, V: explicit_objective(M, U, V, 1.0), args.quick)
    compare(rows, lambda r: r["sweep"])
    demands = {64: (3.0, 8.0)}.get(k, (1.0, 1.0))
    goals = against(rows, "aitken CG-3", "cmfrec CG-3", demands[0])
    goals += against(rows, "aitken exact", "cmfrec Cholesky", demands[1])
    for r in rows[:2]:
        if r["sweep"] and r["two"]:
            goals.append(target(f"{r['solver']}: two threads", r["sweep"] / r["two"], 1.8, least=True))
    return {
        "rows": rows, "targets": goals, "n": M.shape[0], "nnz": M.nnz,
        "text": f"P5: {M.shape[0]} x {M.shape[1]}, {M.nnz / 1e6:.2f} M entries, k={k}, float32",
    }  # fmt: skip


def implicit_sweep(k: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """One sweep with an implicit-feedback objective: confidence ``1 + count`` where there is one, ridge 1."""
    M = power_law(args.quick)
    M.data = 1.0 + np.minimum(np.floor(M.data**2), 50.0).astype(np.float32)  # counts from 1 on
    C = M.copy()
    C.data = 1.0 + M.data
    many = 4
    options = {"implicit": True, "alpha": 1.0}
    fits: dict[str, tuple[str, Callable[[int], Fit], int]] = {
        "aitken CG-3": ("ours", lambda t: own_fit(M, k, "cg", t, **options), many),
        "aitken exact": ("ours", lambda t: own_fit(M, k, "exact", t, **options), many),
    }
    if "implicit.als" in found:
        als, few = found["implicit.als"], 2
        fits["implicit CG-3"] = ("peer", lambda t: implicit_fit(als, C, k, True, t), many)
        fits["implicit Cholesky"] = ("peer", lambda t: implicit_fit(als, C, k, False, t), few)
    if "cmfrec" in found:
        cmfrec = found["cmfrec"]
        fits["cmfrec CG-3"] = ("peer", lambda t: cmfrec_implicit_fit(cmfrec, M, k, True, t), many)
    rows = timed_sweeps(fits, lambda U, V: implicit_objective(C, U, V, 1.0), args.quick)
    compare(rows, lambda r: r["sweep"])
    goals = against(rows, "aitken CG-3", "implicit CG-3", 3.0)
    goals += against(rows, "aitken exact", "implicit Cholesky", 3.0)
    return {
        "rows": rows, "targets": goals, "n": M.shape[0], "nnz": M.nnz,
        "text": f"P5, implicit feedback: {M.nnz / 1e6:.2f} M of {M.shape[0]} x {M.shape[1]} places, k={k}",
    }  # fmt: skip


def gram(args: Any) -> dict[str, Any]:
    """GFLOP/s of exact half sweeps over rows so long that their Gram matrices are nearly all of the work."""
    rng = np.random.default_rng(0)
    n1, n2, d = (200 if args.quick else 1000), 10_677, 4000
    indices = np.concatenate([np.sort(rng.choice(n2, d, replace=False)) for _ in range(n1)])
    A = sparse.csr_array(
        (rng.standard_normal(n1 * d).astype(np.float32), indices, np.arange(0, n1 * d + 1, d)), (n1, n2)
    )
    rows, goals = [], []
    with harness.blas_threads(1):
        side = 2048
        S = rng.standard_normal((side, side)).astype(np.float32)
        best = harness.timed(lambda: S @ S, repeats=5).min
        ceiling = 2e-9 * side**3 / best
        rows.append(row("NumPy sgemm 2048", "bound", rate=ceiling, share=1.0))
        for k in (32, 64, 128):
            T = rng.standard_normal((k, d)).astype(np.float32)
            narrow = harness.timed(lambda T=T: [T @ T.T for _ in range(50)], repeats=5).min / 50
            rate = 2e-9 * k * k * d / narrow
            rows.append(row(f"NumPy sgemm {k} x {d} x {k}", "bound", rate=rate, share=rate / ceiling))
            V = rng.standard_normal((n2, k)).astype(np.float32)
            timing = harness.timed(
                lambda V=V: als_half_sweep(A, V, lam=1.0, inner="exact", n_threads=1), repeats=5, budget=3.0
            )
            rate = 1e-9 * n1 * d * k * (k + 1) / timing.min
            rows.append(
                row(f"aitken k={k}", "ours", rate=rate, share=rate / ceiling, seconds=timing.to_json())
            )
            if k == 64:
                goals.append(target("k=64: Gram rate over sgemm's", rate / ceiling, 0.6, least=True))
    return {
        "rows": rows, "targets": goals,
        "text": f"exact half sweep, {n1} rows of {d} entries, float32, one thread; k (k + 1) flop an entry",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- ratings


def held_out(test: Any, predict: Callable[[Any, Any], Any], low: float, high: float) -> float:
    """RMSE at the entries of `test` of predictions clipped to [low, high]."""
    fit = np.clip(np.asarray(predict(test.rows, test.cols), dtype=float), low, high)
    return float(np.sqrt(np.mean((fit - test.vals) ** 2)))


def ratings(found: dict[str, Any], args: Any) -> dict[str, Any] | None:
    """MovieLens 100k, a tenth held out: 15 sweeps with joint biases."""
    try:
        train, test = datasets.read_movielens_100k().split(0.1, seed=0)
    except ImportError as error:
        print(f"ratings skipped: {error}\n")
        return None
    rows, goals = [], []
    budget = 0.2 if args.quick else 2.0
    M = sparse.csr_array((train.vals, (train.rows, train.cols)), shape=train.shape)

    def add(name: str, kind: str, work: Callable[[], Any], note: str = "") -> Row | None:
        try:
            timing, predict = measured(work, args.threads, budget)
        except Exception as error:
            if kind == "ours":
                raise
            rows.append(row(name, kind, rmse=None, note=f"failed: {error}"))
            return None
        rows.append(row(name, kind, seconds=timing, rmse=held_out(test, predict, 1, 5), note=note))
        return rows[-1]

    # The starts lead to different minima; what is known is of one of them.
    for k, lam, inner, wanted in (
        (10, 15.0, "exact", 0.8942),
        (10, 10.0, "exact", 0.8954),
        (50, 15.0, "exact", 0.8943),
        (50, 15.0, "cg", 0.8943),
    ):

        def ours(k: int = k, lam: float = lam, inner: str = inner, seed: int = 0) -> Any:
            return matrix_completion(
                M, k, lam=lam, bias=True, inner=inner, maxiter=15, tol=0.0, rng=seed, n_threads=args.threads
            ).predict

        r = add(f"aitken {inner}, k={k}, lam={lam:g}", "ours", ours)
        assert r is not None
        all_of_them = [held_out(test, ours(seed=seed), 1, 5) for seed in range(5)]
        r["rmse"] = float(np.mean(all_of_them))
        r["note"] = f"mean of 5 starts, {min(all_of_them):.4f} to {max(all_of_them):.4f}; known {wanted}"
        goals.append(target(f"{r['solver']}: RMSE less the known one", r["rmse"] - wanted, 2e-3))
    if "cmfrec" in found:
        C = sparse.coo_matrix(M)
        for k, use_cg in ((10, True), (50, True), (50, False)):

            def theirs(k: int = k, use_cg: bool = use_cg) -> Any:
                model = found["cmfrec"].CMF(
                    k=k, lambda_=15.0, method="als", use_cg=use_cg, niter=15, nthreads=args.threads,
                    verbose=False,
                )  # fmt: skip
                return model.fit(C).predict

            add(f"cmfrec {'CG-3' if use_cg else 'Cholesky'}, k={k}, lam=15", "peer", theirs)
    if "surprise" in found:
        surprise = found["surprise"]
        pandas = importlib.import_module("pandas")
        frame = pandas.DataFrame({"user": train.rows, "item": train.cols, "rating": train.vals})
        data = surprise.Dataset.load_from_df(frame, surprise.Reader(rating_scale=(1, 5)))
        full = data.build_full_trainset()

        def sgd() -> Any:
            model = surprise.SVD(n_factors=50, n_epochs=20, random_state=0).fit(full)
            return lambda rows, cols: [model.predict(i, j).est for i, j in zip(rows, cols, strict=True)]

        add("Surprise SVD, k=50, 20 epochs", "peer", sgd, "stochastic gradients, another objective")
    compare(rows, lambda r: r["seconds"]["median"] if r["seconds"] else None)
    return {"rows": rows, "targets": goals, "text": "MovieLens 100k, 10 % held out, fit and RMSE in stars"}


def spark(args: Any) -> dict[str, Any] | None:
    """Spark's ALS and ours on MovieLens 100k: ridge times the entries of the row, no biases."""
    try:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        sql = importlib.import_module("pyspark.sql")
        recommendation = importlib.import_module("pyspark.ml.recommendation")
        problem = datasets.read_movielens_100k()
    except ImportError as error:
        print(f"spark skipped: {error}\n")
        return None
    train, test = problem.split(0.1, seed=0)
    M = sparse.csr_array((train.vals, (train.rows, train.cols)), shape=train.shape)
    degrees = [np.bincount(x, minlength=n) for x, n in zip((train.rows, train.cols), M.shape, strict=True)]
    k, lam, sweeps = 10, 0.1, 15

    def value(U: Any, V: Any) -> float:
        return squared(M, U, V)[0] + lam * float(
            degrees[0] @ (np.asarray(U) ** 2).sum(axis=1) + degrees[1] @ (np.asarray(V) ** 2).sum(axis=1)
        )

    def error(U: Any, V: Any) -> float:
        return held_out(test, lambda i, j: np.einsum("ij,ij->i", U[i], V[j]), 1, 5)

    def ours() -> Any:
        r = matrix_completion(
            M, k, lam=lam, lam_scaling="degree", center=False, init="random", maxiter=sweeps, tol=0.0, rng=0,
            n_threads=args.threads,
        )  # fmt: skip
        return r.U, r.V

    session = (
        sql.SparkSession.builder.master(f"local[{args.threads}]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", str(args.threads))
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.extraJavaOptions", "-Xss16m")  # 15 sweeps are one long chain of its tasks
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    try:
        triples = zip(train.rows.tolist(), train.cols.tolist(), train.vals.tolist(), strict=True)
        frame = session.createDataFrame(list(triples), ["user", "item", "rating"]).cache()
        frame.count()

        def theirs() -> Any:
            als = recommendation.ALS(rank=k, maxIter=sweeps, regParam=lam, numUserBlocks=args.threads,
                                     numItemBlocks=args.threads, seed=0)  # fmt: skip
            model = als.fit(frame)
            out = []
            for factors, n in zip((model.userFactors, model.itemFactors), M.shape, strict=True):
                X = np.zeros((n, k))
                for r in factors.collect():
                    X[r["id"]] = r["features"]
                out.append(X)
            return tuple(out)

        rows = []
        for name, kind, work in (("aitken", "ours", ours), ("Spark ALS", "peer", theirs)):
            work()
            timing, (U, V) = measured(work, 2, 1.0 if args.quick else 10.0)  # Spark works in another process
            rows.append(row(name, kind, seconds=timing, rmse=error(U, V), objective=value(U, V)))
            rows[-1]["note"] = f"objective {value(U, V):.6g}"
    finally:
        session.stop()
    compare(rows, lambda r: r["seconds"]["median"])
    gap = rows[0]["objective"] / rows[1]["objective"]
    goals = [target("aitken over Spark, objective", gap, 1.005)]
    return {"rows": rows, "targets": goals, "text": f"MovieLens 100k, k={k}, regParam={lam}, {sweeps} sweeps"}


# --------------------------------------------------------------------------------------------------- climate


def fancy(module: Any) -> Any:
    """The package, taught the name that scikit-learn has given one of the options it passes."""
    from sklearn.utils import check_array

    def renamed(X: Any, *args: Any, force_all_finite: Any = True, **options: Any) -> Any:
        return check_array(X, *args, ensure_all_finite=force_all_finite, **options)

    for name in ("solver", "soft_impute", "iterative_svd", "common"):
        part = importlib.import_module(f"{module.__name__}.{name}")
        if getattr(part, "check_array", None) is check_array:
            part.check_array = renamed
    return module


def climate(found: dict[str, Any], args: Any) -> dict[str, Any] | None:
    """Monthly means of the daily maximum: a tenth held out, joint biases, 25 sweeps."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            months = datasets.read_colorado_climate("tmax", args.climate)
    except (ImportError, FileNotFoundError) as error:
        print(f"climate skipped: {error}\n")
        return None
    r, c = np.nonzero(np.isfinite(months))
    whole = datasets.CompletionProblem("climate", r, c, months[r, c], months.shape)
    train, test = whole.split(0.1, seed=0)
    M = sparse.csr_array((train.vals, (train.rows, train.cols)), shape=train.shape)
    rows, goals, budget = [], [], 0.2 if args.quick else 2.0
    for k, lam, wanted in ((1, 3.0, 1.45), (2, 3.0, 1.26), (5, 3.0, 1.05), (10, 3.0, 0.97), (20, 3.0, 0.90)):

        def ours(k: int = k, lam: float = lam) -> Any:
            return matrix_completion(
                M, k, lam=lam, bias=True, maxiter=25, tol=0.0, rng=0, n_threads=args.threads
            ).predict

        timing, predict = measured(ours, args.threads, budget)
        rmse = held_out(test, predict, -math.inf, math.inf)
        rows.append(row(f"aitken k={k}, lam={lam:g}", "ours", seconds=timing, rmse=rmse))
        goals.append(target(f"k={k}: RMSE", rmse, wanted + 0.01))
    if "cmfrec" in found:
        C = sparse.coo_matrix(M)
        for k in (5, 20):

            def theirs(k: int = k) -> Any:
                model = found["cmfrec"].CMF(
                    k=k,
                    lambda_=3.0,
                    method="als",
                    use_cg=False,
                    niter=25,
                    nthreads=args.threads,
                    verbose=False,
                )
                return model.fit(C).predict

            timing, predict = measured(theirs, args.threads, budget)
            rmse = held_out(test, predict, -math.inf, math.inf)
            rows.append(row(f"cmfrec Cholesky, k={k}, lam=3", "peer", seconds=timing, rmse=rmse))
    X = train.to_dense()
    for name, fill in dense_peers(found, args, 10, quick=args.quick, features=X.shape[1]).items():
        timing, filled = measured(lambda fill=fill: fill(X.copy()), args.threads, budget, 1)
        rmse = held_out(test, lambda i, j, F=filled: F[i, j], -math.inf, math.inf)
        rows.append(row(name, "peer", seconds=timing, rmse=rmse))
    compare(rows, lambda r: r["seconds"]["median"])
    return {
        "rows": rows, "targets": goals,
        "text": f"{months.shape[0]} months x {months.shape[1]} stations, {len(r)} records, RMSE in degrees C",
    }  # fmt: skip


def dense_peers(
    found: dict[str, Any], args: Any, rank: int, *, quick: bool, features: int
) -> dict[str, Callable[[Any], Any]]:
    """Functions that fill the NaN of a dense array."""
    out: dict[str, Callable[[Any], Any]] = {}
    if "fancyimpute" in found:
        package = fancy(found["fancyimpute"])
        if not quick:
            out["fancyimpute SoftImpute"] = lambda X: package.SoftImpute(verbose=False).fit_transform(X)
        out[f"fancyimpute IterativeSVD, rank {rank}"] = lambda X: package.IterativeSVD(
            rank=rank, max_iters=30 if quick else 200, verbose=False
        ).fit_transform(X)
    if "sklearn.impute" in found and (not quick or features <= 100):
        importlib.import_module("sklearn.experimental.enable_iterative_imputer")
        impute = importlib.import_module("sklearn.impute")
        near = None if features <= 100 else 20

        def iterative(X: Any) -> Any:
            imputer = impute.IterativeImputer(
                max_iter=3 if near else 10, n_nearest_features=near, random_state=0, keep_empty_features=True
            )
            return imputer.fit_transform(X)

        out["IterativeImputer" + (f", {near} nearest features, 3 rounds" if near else "")] = iterative
    return out


# ---------------------------------------------------------------------------------------------------- image


def psnr(filled: Any, image: Any, gaps: Any) -> float:
    """Peak signal-to-noise ratio in dB over the missing pixels, peak 1."""
    missing = np.isnan(gaps)
    return float(-10 * np.log10(np.mean((np.clip(filled, 0, 1)[missing] - image[missing]) ** 2)))


def photograph(crop: bool, found: dict[str, Any], args: Any) -> dict[str, Any] | None:
    """Half of the pixels of a photograph, or of a small part of it."""
    try:
        image, gaps = datasets.image_with_gaps("china")
    except ImportError as error:
        print(f"image skipped: {error}\n")
        return None
    if crop:
        image, gaps = image[120:184, 200:264], gaps[120:184, 200:264]
    rows, goals, budget = [], [], 0.2 if args.quick else 2.0
    for k in (5, 10) if crop else (20, 50):

        def ours(lam: float, k: int = k, holdout: float | None = None) -> Any:
            return matrix_completion(
                gaps, k, lam=lam, bias=True, maxiter=50, holdout=holdout, rng=0, n_threads=args.threads
            )

        grid = (0.3, 0.5, 1.0, 1.5, 2.0)
        lam = min(grid, key=lambda lam: ours(lam, holdout=0.1).rmse_holdout)
        timing, filled = measured(lambda lam=lam: ours(lam).fill(gaps), args.threads, budget)
        rows.append(row(f"aitken k={k}", "ours", seconds=timing, psnr=psnr(filled, image, gaps)))
        rows[-1]["note"] = f"lam={lam:g}, by holdout"
    rank = 5 if crop else 20
    peers = dense_peers(found, args, rank, quick=args.quick and not crop, features=gaps.shape[1])
    for name, fill in peers.items():
        timing, filled = measured(lambda fill=fill: fill(gaps.copy()), args.threads, budget, 1)
        rows.append(row(name, "peer", seconds=timing, psnr=psnr(filled, image, gaps)))
    compare(rows, lambda r: r["seconds"]["median"])
    ours_best = max(r["psnr"] for r in rows if r["kind"] == "ours")
    for r in rows:
        if r["kind"] == "peer":
            goals.append(target(f"ours less {r['solver']}, dB", ours_best - r["psnr"], 0.0, least=True))
    return {
        "rows": rows, "targets": goals,
        "text": f"{image.shape[0]} x {image.shape[1]} pixels, half missing; PSNR of these in dB",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- tables


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


_SECONDS = [
    ("min", lambda r: harness.seconds(r["seconds"]["min"]) if r["seconds"] else "-"),
    ("median", lambda r: harness.seconds(r["seconds"]["median"]) if r["seconds"] else "-"),
]
_RATIO = ("x first", lambda r: _number(r["ratio"], ".3g"))
_NOTE = ("remarks", lambda r: r["note"])
COLUMNS: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "recovery": [
        ("seconds", lambda r: harness.seconds(r["seconds"]["median"]) if r["seconds"] else "-"),
        ("sweeps", lambda r: _number(r["nit"], "d")),
        ("reached in", lambda r: _number(r["reached"], "d")),
        ("error", lambda r: _number(r["error"], ".2e")),
        _NOTE,
    ],
    "sweep": [
        ("a sweep", lambda r: harness.seconds(r["sweep"])),
        ("2 threads", lambda r: harness.seconds(r["two"])),
        _RATIO,
        ("objective", lambda r: _number(r["objective"], ".6g")),
        ("after", lambda r: _number(r.get("sweeps"), "d")),
        _NOTE,
    ],
    "gram": [
        ("GFLOP/s", lambda r: _number(r["rate"], ".1f")),
        ("x sgemm", lambda r: _number(r["share"], ".2f")),
        _NOTE,
    ],
    "ratings": [*_SECONDS, _RATIO, ("RMSE", lambda r: _number(r["rmse"], ".4f")), _NOTE],
    "image": [*_SECONDS, _RATIO, ("PSNR", lambda r: _number(r["psnr"], ".2f")), _NOTE],
}
COLUMNS |= {"climate": COLUMNS["ratings"], "spark": COLUMNS["ratings"]}


def show(problem: dict[str, Any]) -> None:
    """Print one problem's table and its targets."""
    print(f"{problem['name']}   {problem['text']}")
    columns = COLUMNS[problem["part"]]
    lines = [[r["solver"], *(cell(r) for _, cell in columns)] for r in problem["rows"]]
    print(harness.table(["solver", *(title for title, _ in columns)], lines))
    for t in problem["targets"]:
        sign, verdict = (">=" if t["least"] else "<="), ("met" if t["met"] else "MISSED")
        print(f"  target {t['against']} {sign} {t['wanted']:g}: {t['value']:.4g}  {verdict}")
    print(flush=True)


def parts(found: dict[str, Any], args: Any) -> dict[str, tuple[str, Callable[[], dict[str, Any] | None]]]:
    """Every problem by name: its part, and what makes it."""
    out: dict[str, tuple[str, Callable[[], dict[str, Any] | None]]] = {
        "recovery P1": ("recovery", lambda: recovery_p1(args)),
        "recovery P3": ("recovery", lambda: recovery_p3(args)),
        "recovery P4": ("recovery", lambda: recovery_p4(args)),
        "gram": ("gram", lambda: gram(args)),
    }
    if not args.quick:
        out["recovery P2"] = ("recovery", lambda: recovery_p2(args))
    for k in (64,) if args.quick else (32, 64, 128):
        out[f"sweep k={k}"] = ("sweep", lambda k=k: sweep(k, found, args))
    for k in (32,) if args.quick else (64,):
        out[f"sweep implicit k={k}"] = ("sweep", lambda k=k: implicit_sweep(k, found, args))
    out["ratings"] = ("ratings", lambda: ratings(found, args))
    if not args.quick:
        out["spark"] = ("spark", lambda: spark(args))
    out["climate"] = ("climate", lambda: climate(found, args))
    out["image crop"] = ("image", lambda: photograph(True, found, args))
    out["image"] = ("image", lambda: photograph(False, found, args))
    return out


def run_cpu(args: Any, report: harness.Report) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, report.missing = harness.import_peers(PEERS)
    for name in report.missing:
        print(f"peer missing: {name}")
    aitken.set_num_threads(args.threads)
    for order, (name, (part, make)) in enumerate(parts(found, args).items()):
        if not re.search(args.only, name):
            continue
        with harness.blas_threads(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fixed numbers of sweeps do not converge
            problem = make()
        if problem is None:
            continue
        problem |= {"name": name, "part": part, "order": order}
        show(problem)
        for t in problem["targets"]:
            if not math.isfinite(t["value"]):
                t["value"] = None
        report.add(problem)
        report.save()


# ------------------------------------------------------------------------------------------------------ GPU


def run_cuda(args: Any, report: harness.Report) -> None:
    """Seconds of a sweep of P5 with CuPy arrays, beside the same on the CPU."""
    import cupy
    from cupyx.scipy import sparse as there

    print(f"GPU: {cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}\n")
    M = power_law(args.quick)
    device = there.csr_matrix(sparse.csr_matrix(M))
    for order, k in enumerate((32, 64, 128)):
        if not re.search(args.only, f"sweep k={k}"):
            continue
        rows = []
        for inner in ("cg", "exact"):
            for kind, matrix, threads in (("ours", device, 0), ("cpu", M, args.threads)):
                fit = own_fit(matrix, k, inner, max(threads, 1))

                def work(sweeps: int, fit: Fit = fit) -> Any:
                    out = fit(sweeps)
                    cupy.cuda.get_current_stream().synchronize()
                    return out

                # Two threads' clock: the wall's, also for the device.
                seconds, factors = per_sweep(work, 6, 2, 0.5 if args.quick else 3.0)
                U, V = (X.get() if hasattr(X, "get") else X for X in factors)
                place = "cpu" if kind == "cpu" else "cuda"
                value = explicit_objective(M, U, V, 1.0)
                name = f"aitken {'CG-3' if inner == 'cg' else 'exact'} ({place})"
                rows.append(row(name, kind, sweep=seconds, two=None, objective=value, sweeps=6))
        compare(rows, lambda r: r["sweep"])
        problem = {
            "name": f"sweep k={k}", "part": "sweep", "order": order, "rows": rows, "targets": [],
            "text": f"P5: {M.shape[0]} x {M.shape[1]}, {M.nnz / 1e6:.2f} M entries, k={k}, float32",
        }  # fmt: skip
        show(problem)
        report.add(problem)
        report.save()


def more_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--climate", metavar="FILE", help="COmonthlyMet.rda, where R's package fields is not installed"
    )


def main() -> int:
    args = harness.arguments(__doc__ or "", more_arguments)
    if args.device == "cuda":
        gpu = aitken.info()["gpu"]
        if not gpu["available"]:
            print(f"no GPU to measure on: {gpu['reason']}", file=sys.stderr)
            return harness.NO_DEVICE
    report = harness.Report("completion", args, DISTRIBUTIONS)
    run: Callable[[Any, harness.Report], None] = run_cuda if args.device == "cuda" else run_cpu
    run(args, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
