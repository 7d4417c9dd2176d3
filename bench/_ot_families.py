"""Families of related transport problems for `bench/ot.py`: batches, histograms, clouds, gradients, grids.

Every row's certificate is recomputed here from what the solver returned, and a peer's threshold is tightened
until it holds. Ratios are to the first row of each table.
"""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg.blas import dgemm

from aitken import datasets, ot
from aitken._demo import l1_error, tightened
from aitken._demo.figures import import_pot

from . import _harness as harness
from ._ot_peers import grid_error, marginal_error, unbalanced_error

Row = dict[str, Any]
TOL = 1e-9


def row(solver: str, kind: str, **values: Any) -> Row:
    """One line of a table; `seconds` is a timing's JSON or None, `each` seconds per problem."""
    return {
        "solver": solver, "kind": kind, "seconds": None, "each": None, "nit": None, "err": None,
        "ratio": None, "note": "",
    } | values  # fmt: skip


def target(text: str, value: float, wanted: float, *, least: bool = False) -> dict[str, Any]:
    """A figure beside what it should be at most, or with `least` at least."""
    met = value >= wanted if least else value <= wanted
    return {"against": text, "value": value, "wanted": wanted, "least": least, "met": bool(met)}


def measure(work: Callable[[], Any], budget: float, repeats: int = 15) -> tuple[harness.Timing, Any]:
    """Wall times of `work` within about `budget` seconds, and what it returned last.

    The first run only warms up, unless it takes the whole budget.
    """
    runs: list[float] = []
    result = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(runs) < repeats + 1 and (len(runs) < 2 or sum(runs) < budget):
            result = None  # frees memory before the next run takes it again
            start = time.perf_counter()
            result = work()
            runs.append(time.perf_counter() - start)
            if runs[0] > budget:
                break
    return harness.Timing(runs[1:] or runs), result


def alternate(works: list[Callable[[], Any]], budget: float, turns: int) -> list[tuple[harness.Timing, Any]]:
    """`measure` of each, taking turns of ten runs: load from elsewhere meets all of them."""
    runs: list[list[float]] = [[] for _ in works]
    results: list[Any] = [None for _ in works]
    for _ in range(turns):
        for k, work in enumerate(works):
            timing, results[k] = measure(work, budget / (turns * len(works)), 10)
            runs[k] += timing.runs
    return [(harness.Timing(own), result) for own, result in zip(runs, results, strict=True)]


def timed_row(solver: str, kind: str, timing: harness.Timing, count: int = 1, **values: Any) -> Row:
    """A row with its seconds."""
    return row(solver, kind, seconds=timing.to_json(), each=timing.median / count, **values)


def withhold(r: Row, tol: float) -> Row:
    """Without its seconds if the certificate does not hold."""
    if not (r["err"] is not None and r["err"] <= tol):
        note = f"not reached in {harness.seconds(r['seconds']['median'])}" if r["seconds"] else "not reached"
        r.update(seconds=None, each=None, err=r["err"] if np.isfinite(r["err"]) else None)
        r["note"] = "; ".join(filter(None, (r["note"], note)))
    return r


def add_ratios(rows: list[Row], key: str = "each") -> None:
    """Each row's seconds over those of the first."""
    first = rows[0][key]
    for r in rows:
        r["ratio"] = r[key] / first if r[key] and first else None


def ratio_of(rows: list[Row], solver: str) -> float | None:
    """The ratio of the row that is called so."""
    return next((r["ratio"] for r in rows if r["solver"] == solver), None)


def foreign_row(child: harness.Isolated, job: dict[str, Any], args: Any, count: int = 1) -> Row:
    """A row of OTT-JAX or GeomLoss, which run in the child."""
    limit = 15.0 if args.quick else 40.0  # the first answer waits for imports and compilation
    job = {"tol": TOL, "threads": args.threads, "repeats": 2, "limit": 2.0 if args.quick else 10.0, **job}
    samples, outcome = child.run(job, limit)
    if not samples:
        return row(job["solver"], "peer", note=f"not within {limit:g} s" if outcome == "timeout" else outcome)
    good = [s for s in samples if s["err"] <= job["tol"]]
    last = (good or samples)[-1]
    timing = harness.Timing([s["seconds"] for s in good or samples[-1:]])
    note = ", ".join(f"{key} {value:.3g}" for key, value in last["settings"].items())
    r = timed_row(job["solver"], "peer", timing, count, nit=last["nit"], err=last["err"], note=note)
    return withhold(r, job["tol"])


# --------------------------------------------------------------------------------------------- POT's solvers


@functools.cache
def pot() -> Any:
    """POT, with NumPy alone behind it."""
    return import_pot()


def pot_plan(p: Any, M: Any, stop: float, method: str = "sinkhorn") -> tuple[Any, int]:
    """Plan and iterations of POT's solver."""
    most = 100_000
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        plan, log = pot().sinkhorn(
            p.a, p.b, M, p.reg, method=method, numItermax=most, stopThr=stop, log=True, warn=False
        )
    return plan, int(log["niter"]) + 1


def pot_threshold(p: Any, M: Any | None = None) -> tuple[float, dict[str, Any]]:
    """The largest tried threshold of POT's Sinkhorn that gives the error, and that solve."""
    M = p.M if M is None else M

    def solve(stop: float) -> dict[str, Any]:
        start = time.perf_counter()
        plan, nit = pot_plan(p, M, stop)
        spent = time.perf_counter() - start
        return {"stop": stop, "nit": nit, "seconds": spent, "err": l1_error(plan, p), "plan": plan}

    # An L1 norm is at most sqrt(m) times the 2-norm that POT stops on; 0.8 is its usual share.
    *_, last = tightened(solve, TOL, TOL / (0.8 * np.sqrt(p.b.size)))
    return last["stop"], last


def pot_loop(problems: list[Any], budget: float) -> Row:
    """A loop of `ot.sinkhorn`, each problem with the threshold that suits it best."""
    found = [pot_threshold(p) for p in problems]
    calls = [(p, stop) for p, (stop, _) in zip(problems, found, strict=True)]
    timing, _ = measure(lambda: [pot_plan(p, p.M, stop) for p, stop in calls], budget)
    last = [s for _, s in found]
    nit = float(np.mean([s["nit"] for s in last]))
    err = max(s["err"] for s in last)
    bad = sum(not s["err"] <= TOL for s in last)
    note = f"{bad} of {len(last)} short of the error" if bad else "each its own stopThr"
    return timed_row("POT sinkhorn, loop", "peer", timing, len(last), nit=nit, err=err, note=note)


def emd_loop(problems: list[Any], budget: float) -> Row:
    """A loop of the network simplex: the unregularised problems."""
    timing, plans = measure(lambda: [pot().emd(p.a, p.b, p.M) for p in problems], budget)
    err = max(l1_error(plan, p) for plan, p in zip(plans, problems, strict=True))
    return timed_row("POT emd, loop (reg = 0)", "peer", timing, len(problems), err=err)


# -------------------------------------------------------------------------------------------------- batches


def _loop(problems: list[Any], threads: int) -> list[Any]:
    return [ot.sinkhorn(p.a, p.b, p.M, p.reg, tol=TOL, n_threads=threads) for p in problems]


def _batch_call(problems: list[Any], threads: int) -> Any:
    columns = ([getattr(p, name) for p in problems] for name in ("a", "b", "M"))
    return ot.sinkhorn_batch(*columns, problems[0].reg, tol=TOL, n_threads=threads)


def _batch_error(plans: Any, problems: list[Any]) -> float:
    return max(l1_error(plan, p) for plan, p in zip(plans, problems, strict=True))


def _counts(r: Any) -> str:
    return f"{np.mean(r.nit_sinkhorn):.1f} Sinkhorn + {np.mean(r.nit_newton):.1f} Newton on average"


def batch(args: Any, peers: dict[str, Any], child: harness.Isolated, count: int, n: int) -> dict[str, Any]:
    """Problems of one size in one call (T6)."""
    p = datasets.random_batch(count, n)
    problems = [
        datasets.TransportProblem(f"{p.name}-{k}", p.a[k], p.b[k], p.M[k], p.reg) for k in range(count)
    ]
    budget = 0.5 if args.quick else 3.0
    rows = []
    solve = functools.partial(ot.sinkhorn_batch, p.a, p.b, p.M, p.reg, tol=TOL)
    works = [functools.partial(solve, n_threads=threads) for threads in (args.threads, 2)]
    names = ("aitken batch", "aitken batch, two threads")
    for name, (timing, r) in zip(names, alternate(works, 2 * budget, 20), strict=True):
        err = _batch_error(r.plan, problems)
        nit = float(np.mean(r.nit))
        rows.append(timed_row(name, "ours", timing, count, nit=nit, err=err, note=_counts(r)))
    timing, results = measure(lambda: _loop(problems, args.threads), budget)
    err = _batch_error([r.plan for r in results], problems)
    nit = float(np.mean([r.nit for r in results]))
    rows.append(timed_row("aitken, loop", "ours", timing, count, nit=nit, err=err))
    if "POT" in peers:
        rows += [pot_loop(problems, budget), pot_batch(p, budget, args), emd_loop(problems, budget)]
    job = {"kind": "batch", "make": "random_batch", "with": {"batch": count, "n": n}}
    for name in ("OTT-JAX scaling",) if args.quick else ("OTT-JAX scaling", "OTT-JAX"):
        if "OTT-JAX" in peers:
            rows.append(foreign_row(child, job | {"solver": name}, args, count))
    if "GeomLoss" in peers:
        rows.append(foreign_row(child, job | {"solver": "GeomLoss"}, args, count))
    add_ratios(rows)
    goals = []
    pots = ratio_of(rows, "POT sinkhorn, loop")
    if pots is not None:
        goals.append(target("a loop of POT's sinkhorn over ours", pots, 20.0, least=True))
    # Load on either CPU slows a run on two down, so medians say less here than the fastest of 200 runs.
    gain = rows[0]["seconds"]["min"] / rows[1]["seconds"]["min"]
    goals.append(target("gain of two threads, fastest runs", gain, 1.8, least=True))
    return {
        "name": f"batch {count} of {n}x{n}", "part": "batch", "rows": rows, "targets": goals,
        "text": f"{count} problems, uniform random costs, reg {p.reg:g}; worst L1 error, wanted {TOL:g}",
    }  # fmt: skip


def pot_batch(p: Any, budget: float, args: Any) -> Row:
    """POT's `solve_batch`, the faster of its two Sinkhorn forms."""
    from ot.batch import solve_batch

    best: Row | None = None
    for method in ("sinkhorn",) if args.quick else ("sinkhorn", "log_sinkhorn"):
        found: dict[str, Any] = {}

        def solve(stop: float, method: str = method) -> dict[str, Any]:
            start = time.perf_counter()
            r = solve_batch(p.M, p.reg, p.a, p.b, max_iter=100_000, tol=stop, method=method, grad="detach")
            spent = time.perf_counter() - start
            err = marginal_error(np.asarray(r.plan), p.a, p.b)
            return {"stop": stop, "seconds": spent, "err": err, "nit": int(r.log["n_iter"]) + 1}

        times = []
        for found in tightened(solve, TOL, TOL / (0.8 * np.sqrt(p.a.shape[1]))):
            times = [found["seconds"]]
        while len(times) < 5 and sum(times) < budget:
            times.append(solve(found["stop"])["seconds"])
        r = timed_row(
            "POT solve_batch", "peer", harness.Timing(times), len(p.M), nit=found["nit"], err=found["err"],
            note=method,
        )  # fmt: skip
        r = withhold(r, TOL)
        if best is None or (r["each"] or math.inf) < (best["each"] or math.inf):
            best = r
    assert best is not None
    return best


CLASSES = ((32, 47), (48, 63), (64, 95), (96, 128))


def ragged(args: Any, peers: dict[str, Any], child: harness.Isolated, count: int) -> dict[str, Any]:
    """Problems of many sizes; a row for each class of the larger side, and all of them in one call."""
    problems = datasets.ragged_problems(count)
    budget = 0.4 if args.quick else 4.0
    rows, goals = [], []
    classes = [(f"sizes {low} to {high}", low, high) for low, high in CLASSES]
    for name, low, high in [*classes, ("all sizes", 0, 1000)]:
        chosen = [p for p in problems if low <= max(p.shape) <= high]
        timing, r = measure(lambda chosen=chosen: _batch_call(chosen, args.threads), budget)
        line = timed_row(name, "ours", timing, len(chosen), problems=len(chosen), nit=float(np.mean(r.nit)))
        line["err"] = _batch_error(r.plan, chosen)
        two, _ = measure(lambda chosen=chosen: _batch_call(chosen, 2), budget)
        alone, _ = measure(lambda chosen=chosen: _loop(chosen, args.threads), budget)
        line |= {"two": two.median / len(chosen), "loop": alone.median / len(chosen), "note": _counts(r)}
        line |= {"pot": None, "emd": None, "ratio_pot": None, "ratio_emd": None, "err_pot": None}
        if "POT" in peers:
            theirs, exact = pot_loop(chosen, budget), emd_loop(chosen, budget)
            line |= {"pot": theirs["each"], "emd": exact["each"], "err_pot": theirs["err"]}
            line |= {f"ratio_{key}": line[key] / line["each"] for key in ("pot", "emd")}
            if name == "all sizes":
                text = "a loop of POT's sinkhorn over ours, all sizes"
                goals.append(target(text, line["ratio_pot"], 5.0, least=True))
        rows.append(line)
    return {
        "name": f"ragged {count}", "part": "ragged", "rows": rows, "targets": goals,
        "text": f"{count} problems of 32 to 128 points a side, reg {problems[0].reg:g}; seconds per problem",
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------- histograms


def dgemm_peak(threads: int) -> float:
    """GFLOP/s of a square double-precision product, now."""
    A = np.ones((1024, 1024), order="F")
    with harness.blas_threads(threads):
        return 2e-9 * 1024**3 / measure(lambda: dgemm(1.0, A, A), 1.0, 9)[0].min


def pot_pairs(A: Any, B: Any, M: Any, reg: float, budget: float) -> tuple[Row, Any]:
    """POT's form with many targets, one call for each row of A; the distances."""
    K = np.exp(-M / reg)
    targets = np.ascontiguousarray(B.T)

    def call(a: Any, stop: float) -> tuple[Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pot().sinkhorn(
                a, targets, M, reg, method="sinkhorn", numItermax=20_000, stopThr=stop, log=True, warn=False
            )

    def solve(a: Any, stop: float) -> dict[str, Any]:
        start = time.perf_counter()
        values, log = call(a, stop)
        spent = time.perf_counter() - start
        rows = np.abs(log["u"] * (K @ log["v"]) - a[:, None]).sum(axis=0)
        columns = np.abs(log["v"] * (K.T @ log["u"]) - targets).sum(axis=0)
        err = float((rows + columns).max())
        return {"stop": stop, "seconds": spent, "err": err, "nit": log["niter"] + 1, "values": values}

    done = []
    for a in A:
        *_, last = tightened(lambda stop, a=a: solve(a, stop), TOL, TOL / 0.8)
        again = solve(a, last["stop"])  # warm, and at the threshold that is right
        done.append(again if again["seconds"] < last["seconds"] else last)
        if sum(s["seconds"] for s in done) > budget:
            break
    each = [s["seconds"] / len(B) for s in done]
    r = row(
        "POT sinkhorn, matrix b", "peer", each=float(np.median(each)), err=max(s["err"] for s in done),
        seconds=harness.Timing([s["seconds"] for s in done]).to_json(),
        nit=float(np.mean([s["nit"] for s in done])), note=f"seconds of one row of {len(B)} pairs",
    )  # fmt: skip
    return r, np.array([s["values"] for s in done])


def pairs(args: Any, peers: dict[str, Any], child: harness.Isolated, count: int, side: int) -> dict[str, Any]:
    """All distances between two sets of histograms on one grid."""
    p = datasets.histogram_set(2 * count, side)
    A, B = p.a[:count], p.a[count:]
    budget = 2.0 if args.quick else 12.0
    n = A.shape[1]
    peak = dgemm_peak(args.threads)
    rng = np.random.default_rng(0)
    sample = rng.integers(0, count, (40, 2))
    options = {"reg": p.reg, "tol": TOL, "return_result": True}

    def references(second: Any) -> Any:
        pairs = [ot.sinkhorn(A[i], second[j], p.M, p.reg, tol=1e-12) for i, j in sample]
        return np.array([r.value_linear for r in pairs])

    # The same problems with their bins in disorder: nothing is left of the grid, and products are dense.
    order = rng.permutation(n)
    dense = (A[:, order], B[:, order], np.ascontiguousarray(p.M[np.ix_(order, order)]))
    grids = (A, B, p.M)
    rows, distances = [], None
    for name, (first, second, M), per_product, threads in (
        ("aitken, bins in disorder", dense, n, args.threads),
        ("... two threads", dense, n, 2),
        ("... symmetric, half of the pairs", (dense[0], None, dense[2]), n, args.threads),
        ("aitken, on the grid", grids, 2 * side, args.threads),
        ("... two threads", grids, 2 * side, 2),
    ):
        work = functools.partial(ot.pairwise_distances, first, second, M, n_threads=threads, **options)
        timing, r = measure(work, budget, 5)
        known = references(A if second is None else B)
        off = np.abs(r.distances[sample[:, 0], sample[:, 1]] / known - 1).max()
        # Two products an iteration, two flops an entry.
        flops = 4.0 * n * per_product * float(np.sum(r.nit)) * (0.5 if second is None else 1.0)
        share = flops / timing.median / 1e9 / (peak * threads / args.threads)
        note = f"{share:.0%} of dgemm; distances off by {off:.0e} in a sample"
        nit, err = float(np.mean(r.nit)), float(np.max(r.err))
        rows.append(timed_row(name, "ours", timing, count**2, nit=nit, err=err, note=note))
        if distances is None:
            distances = r.distances
    alone, results = measure(
        lambda: [ot.sinkhorn(A[i], B[j], p.M, p.reg, tol=TOL, n_threads=1) for i, j in sample], budget
    )
    errors = [l1_error(r.plan, datasets.TransportProblem("", A[i], B[j], p.M, p.reg))
              for r, (i, j) in zip(results, sample, strict=True)]  # fmt: skip
    rows.append(
        timed_row("aitken sinkhorn, loop", "ours", alone, len(sample), err=max(errors),
                  nit=float(np.mean([r.nit for r in results])), note=f"{len(sample)} of the pairs")
    )  # fmt: skip
    goals = []
    if "POT" in peers:
        theirs, values = pot_pairs(A, B, p.M, p.reg, budget)
        theirs["note"] += (
            f"; largest difference from ours {np.abs(values - distances[: len(values)]).max():.0e}"
        )
        some = [datasets.TransportProblem("", A[i], B[j], p.M, p.reg) for i, j in sample]
        rows += [theirs, pot_loop(some, budget)]
        rows[-1]["note"] += f"; {len(some)} of the pairs"
    add_ratios(rows)
    if "POT" in peers:
        ratio = ratio_of(rows, "POT sinkhorn, matrix b")
        assert ratio is not None
        goals.append(target("POT's matrix form over ours, per pair", ratio, 2.0, least=True))
    return {
        "name": f"pairs {count}x{count} of {n} bins", "part": "pairs", "rows": rows, "targets": goals,
        "text": f"{side} x {side} grid, squared distance over its maximum, reg {p.reg:g}; per pair; "
        f"worst L1 error of a pair, wanted {TOL:g}; dgemm {peak:.0f} GFLOP/s",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- clouds

_MEMORY = """
import json, sys
import numpy as np
from aitken import ot

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key + ":"))

n, d, threads, reg = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
X, Y = rng.random((n, d)), rng.random((n, d))
import time, warnings
warnings.simplefilter("ignore")
before = status("VmRSS")

def run(count, most):
    start = time.perf_counter()
    r = ot.sinkhorn_points(X[:count], Y[:count], reg=reg, method="sinkhorn", maxiter=most, tol=1e-15,
                           return_plan=False, n_threads=threads)
    return time.perf_counter() - start, r.nit

run(1000, 3)  # threads are there then
most, repeats = (3, 1) if n > 50_000 else (9, 3)
times = {k: min(run(n, k) for _ in range(repeats)) for k in (1, most)}
(first, few), (last, many) = times[1], times[most]
print(json.dumps({"pass": (last - first) / (many - few), "before": before, "peak": status("VmHWM")}))
"""


def points_pass(args: Any, peers: dict[str, Any], child: harness.Isolated, n: int) -> dict[str, Any]:
    """One iteration over all pairs of two large clouds, in a fresh process: seconds and memory."""
    rows, goals = [], []
    for size, threads in ((n // 4, 1), (n // 4, 2), (n, 2)):
        exp_ns = harness.exp_ceiling()
        words = json.dumps([size, 3, threads, 1.0])
        command = [sys.executable, "-c", _MEMORY, words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(done.stdout)
        floor = exp_ns * 1e-9 * size**2 / threads
        share = floor / r["pass"]
        name = f"n = {size}, {threads} thread{'s' * (threads > 1)}"
        note = f"{share:.0%} of {size}^2 exponentials at {exp_ns:.2f} ns; {r['before']:.0f} MB before, "
        note += f"{r['peak']:.0f} MB at most"
        timing = harness.Timing([r["pass"]])
        rows.append(timed_row(f"aitken, a pass, {name}", "ours", timing, peak=r["peak"], note=note))
    goals.append(target("share of the exp floor, two threads", share, 0.6, least=True))
    goals.append(target("peak memory of the process, MB", r["peak"], 200.0))
    return {
        "name": f"points pass n={n}", "part": "points", "rows": rows, "targets": goals,
        "text": "n = m, d = 3, squared distance, reg 1 (no pair negligible); seconds of one iteration more",
    }  # fmt: skip


def cloud_error(p: Any, f: Any, g: Any) -> float:
    """L1 error of both marginals from kl-form potentials, in blocks of rows."""
    columns = np.zeros(p.b.size)
    rows = 0.0
    for k in range(0, p.a.size, 512):
        block = slice(k, k + 512)
        cost = ((p.X[block, None] - p.Y[None]) ** 2).sum(-1)
        plan = np.exp((f[block, None] + g - cost) / p.reg) * p.a[block, None] * p.b
        rows += float(np.abs(plan.sum(axis=1) - p.a[block]).sum())
        columns += plan.sum(axis=0)
    return rows + float(np.abs(columns - p.b).sum())


def points(args: Any, peers: dict[str, Any], child: harness.Isolated, n: int, reg: float) -> dict[str, Any]:
    """Two clouds to the end, the cost matrix included where a solver needs one."""
    p = datasets.point_clouds(n, reg=reg)
    budget = 0.5 if args.quick else 6.0
    rows = []
    for name, options in (
        ("aitken sinkhorn_points", {}),
        ("aitken sinkhorn_points, Newton", {"method": "newton"}),
    ):
        work = functools.partial(
            ot.sinkhorn_points, p.X, p.Y, p.a, p.b, reg=reg, tol=TOL, return_plan=False,
            n_threads=args.threads, **options,
        )  # fmt: skip
        timing, r = measure(work, budget, 5)
        err = cloud_error(p, *r.potentials)
        note = f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton, {r.n_exp} exp passes"
        rows.append(withhold(timed_row(name, "ours", timing, nit=r.nit, err=err, note=note), TOL))

    def dense() -> Any:
        M = ot.dist(p.X, p.Y)
        return ot.sinkhorn(p.a, p.b, M, reg, tol=TOL, n_threads=args.threads)

    if n <= 5000:
        timing, r = measure(dense, budget, 5)
        rows.append(timed_row("aitken dist + sinkhorn", "ours", timing, nit=r.nit, err=l1_error(r.plan, p)))
        if "POT" in peers:

            def theirs(stop: float) -> tuple[Any, int]:
                return pot_plan(p, pot().dist(p.X, p.Y), stop)

            stop, last = pot_threshold(p, pot().dist(p.X, p.Y))
            timing, _ = measure(lambda: theirs(stop), budget, 3)
            r = timed_row("POT dist + sinkhorn", "peer", timing, nit=last["nit"], err=last["err"])
            rows.append(withhold(r, TOL))
        job = {"kind": "points", "make": "point_clouds", "with": {"n": n, "reg": reg}, "most": 1000}
        for name in ("OTT-JAX", "GeomLoss"):
            if name in peers:
                rows.append(foreign_row(child, job | {"solver": name}, args))
    add_ratios(rows)
    return {
        "name": f"points n={n} reg={reg:g}", "part": "points", "rows": rows, "targets": [],
        "text": f"a cube against a sphere, n = m = {n}, d = 3, squared distance; L1 error, wanted {TOL:g}",
    }  # fmt: skip


def divergence(args: Any, peers: dict[str, Any], child: harness.Isolated, n: int) -> dict[str, Any]:
    """Divergence between a cloud and a permuted copy of it, which is zero."""
    rng = np.random.default_rng(0)
    X = rng.random((n, 3))
    Y = np.ascontiguousarray(X[rng.permutation(n)])
    reg = 0.05
    largest = float(np.asarray(ot.dist(X, Y)).max())
    budget = 0.5 if args.quick else 3.0
    timing, r = measure(lambda: ot.sinkhorn_divergence(X, Y, reg=reg, n_threads=args.threads), budget)
    off = abs(r.value) / largest
    rows = [timed_row("aitken", "ours", timing, err=off)]
    if "POT" in peers:
        call = pot().bregman.empirical_sinkhorn_divergence
        timing, value = measure(lambda: call(X, Y, reg, numIterMax=20_000, stopThr=1e-11), budget, 3)
        note = "stopThr 1e-11; it returns max(0, .)"
        rows.append(timed_row("POT", "peer", timing, err=abs(float(value)) / largest, note=note))
    for name in ("OTT-JAX", "GeomLoss"):
        if name in peers:
            limit = 20.0 if args.quick else 60.0
            job = {"kind": "divergence", "solver": name, "X": X, "Y": Y, "reg": reg, "tol": TOL}
            samples, outcome = child.run(job | {"threads": args.threads}, limit)
            if samples:
                timing = harness.Timing([samples[0]["seconds"]])
                err = abs(samples[0]["value"]) / largest
                rows.append(timed_row(name, "peer", timing, err=err))
            else:
                rows.append(row(name, "peer", note=outcome))
    add_ratios(rows)
    return {
        "name": f"divergence n={n}", "part": "divergence", "rows": rows,
        "targets": [target("|divergence| over the largest cost", off, 1e-7)],
        "text": f"{n} points in a cube and a permuted copy, reg {reg:g}; error: |divergence| / largest cost",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ gradients


def difference(value: Callable[[Any], float], x: Any, direction: Any, step: float) -> float:
    """Derivative along a direction by central differences with Richardson's extrapolation."""
    coarse, fine = ((value(x + h * direction) - value(x - h * direction)) / (2 * h) for h in (step, step / 2))
    return (4 * fine - coarse) / 3


def gradients(args: Any, peers: dict[str, Any], child: harness.Isolated) -> dict[str, Any]:
    """Gradients against central differences, and the time that they take beside the solve."""
    p = datasets.gaussian_clouds(60, 50, reg=2e-2)
    rng = np.random.default_rng(1)
    tol = 1e-13
    X, Y = p.X / np.sqrt(p.info["cost_scale"]), p.Y / np.sqrt(p.info["cost_scale"])
    G = rng.standard_normal(p.shape)  # the loss <G, P> of plans
    options = {"reg": p.reg, "tol": tol, "method": "newton", "n_threads": args.threads}
    rho = 0.5

    def dense(a: Any, b: Any, M: Any, **more: Any) -> Any:
        return ot.sinkhorn(a, b, M, **options, **more)

    def cloud(X: Any, Y: Any, **more: Any) -> Any:
        return ot.sinkhorn_points(X, Y, p.a, p.b, return_plan="dense", **options, **more)

    def divergence(X: Any, Y: Any) -> Any:
        return ot.sinkhorn_divergence(X, Y, p.a, p.b, reg=p.reg, tol=tol)

    along = {name: rng.standard_normal(np.shape(x)) for name, x in (("M", p.M), ("a", p.a), ("X", X))}
    along["a"] -= along["a"].mean()  # masses stay equal
    along["a"] *= p.a.min()
    cases: list[tuple[str, str, Any, Callable[[Any], Any], bool, float]] = [
        ("value by M", "M", p.M, lambda M: dense(p.a, p.b, M), False, 1e-3),
        ("value by a", "a", p.a, lambda a: dense(a, p.b, p.M), False, 1e-1),
        ("plan by M", "M", p.M, lambda M: dense(p.a, p.b, M), True, 1e-3),
        ("plan by a", "a", p.a, lambda a: dense(a, p.b, p.M), True, 1e-1),
        ("unbalanced value by M", "M", p.M, lambda M: dense(p.a, p.b, M, unbalanced=rho), False, 1e-3),
        ("unbalanced plan by M", "M", p.M, lambda M: dense(p.a, p.b, M, unbalanced=rho), True, 1e-3),
        ("value by points", "X", X, lambda X: cloud(X, Y), False, 1e-3),
        ("plan by points", "X", X, lambda X: cloud(X, Y), True, 1e-3),
        ("divergence by points", "X", X, lambda X: divergence(X, Y), False, 1e-3),
    ]
    rows, goals = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tolerance is at the rounding of the marginals
        for name, key, x, solve, of_plan, step in cases:

            def loss(x: Any, solve: Any = solve, of_plan: bool = of_plan) -> float:
                r = solve(x)
                return float((G * np.asarray(r.plan)).sum() if of_plan else r.value)

            timing, r = measure(lambda solve=solve, x=x: solve(x), 0.3)
            words = {"grad_plan": G} if of_plan else {"grad_value": 1.0}
            back, gradient = measure(lambda r=r, words=words: r.vjp(**words), 0.3)
            slope = float((gradient[key] * along[key]).sum())
            known = difference(loss, x, along[key], step * 0.1)
            err = abs(slope / known - 1)
            note = f"derivative {slope:.6g} along a random direction"
            rows.append(timed_row(name, "ours", timing, back=back.to_json(), err=err, note=note))
            rows[-1]["ratio"] = back.median / timing.median
            goals.append(target(f"{name}: relative error", err, 1e-6))
    return {
        "name": "gradients 60x50", "part": "gradients", "rows": rows, "targets": goals,
        "text": f"clouds of 60 and 50 points, reg {p.reg:g}; against central differences",
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------- unbalanced


def unbalanced(args: Any, peers: dict[str, Any], child: harness.Isolated, n: int) -> dict[str, Any]:
    """KL penalties in place of marginals: Newton steps against Sinkhorn iterations."""
    rho = 0.5
    p = datasets.gaussian_clouds(n, reg=1e-2)
    budget = 0.5 if args.quick else 3.0
    rows = []
    steps = 0
    for name, method in (
        ("aitken Newton", "newton"), ("aitken auto", "auto"), ("aitken Sinkhorn iterations", "sinkhorn"),
    ):  # fmt: skip
        work = functools.partial(
            ot.sinkhorn, p.a, p.b, p.M, p.reg, unbalanced=rho, method=method, tol=TOL, maxiter=100_000,
            n_threads=args.threads,
        )  # fmt: skip
        timing, r = measure(work, budget)
        err = unbalanced_error(np.asarray(r.plan), p.a, p.b, *r.potentials, rho)
        note = f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton, mass {np.asarray(r.plan).sum():.6f}"
        rows.append(withhold(timed_row(name, "ours", timing, nit=r.nit, err=err, note=note), TOL))
        if method == "newton":
            steps = r.nit_newton
    if "POT" in peers:
        rows.append(pot_unbalanced(p, rho, budget))
    job = {"kind": "dense", "make": "gaussian_clouds", "with": {"n": n, "reg": p.reg}, "info": {"rho": rho}}
    for name in ("OTT-JAX scaling", "GeomLoss"):
        if name.partition(" ")[0] in peers:
            rows.append(foreign_row(child, job | {"solver": name}, args))
    add_ratios(rows)
    plain = [r["nit"] for r in rows if r["solver"].startswith("POT") and r["nit"]]
    return {
        "name": f"unbalanced n={n}", "part": "unbalanced", "rows": rows,
        "targets": [
            target("Newton steps", steps, 8),
            *(target("plain Sinkhorn iterations, POT's", nit, 100, least=True) for nit in plain),
        ],
        "text": f"clouds, {n} x {n}, reg {p.reg:g}, rho {rho:g}; error: L1 distance of both marginals from "
        f"a exp(-f / rho) and b exp(-g / rho) over the mass, wanted {TOL:g}",
    }  # fmt: skip


def pot_unbalanced(p: Any, rho: float, budget: float) -> Row:
    """POT's unbalanced Sinkhorn."""

    def solve(stop: float) -> dict[str, Any]:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan, log = pot().unbalanced.sinkhorn_unbalanced(
                p.a, p.b, p.M, p.reg, rho, reg_type="kl", numItermax=100_000, stopThr=stop, log=True
            )
        spent = time.perf_counter() - start
        f, g = (p.reg * log[key] for key in ("logu", "logv"))
        err = unbalanced_error(plan, p.a, p.b, f, g, rho)
        return {"stop": stop, "seconds": spent, "err": err, "nit": len(log["err"])}

    *_, last = tightened(solve, TOL, TOL)
    timing = harness.Timing([last["seconds"]])
    if last["err"] <= TOL:
        timing, last = measure(lambda: solve(last["stop"]), budget)
    r = timed_row(
        "POT sinkhorn_unbalanced", "peer", timing, nit=last["nit"], err=last["err"],
        note=f"stopThr {last['stop']:.1e}",
    )  # fmt: skip
    return withhold(r, TOL)


# ----------------------------------------------------------------------------------------- grids, barycentres


def grid(args: Any, peers: dict[str, Any], child: harness.Isolated, side: int, reg: float) -> dict[str, Any]:
    """Two images whose kernel is a product over the axes."""
    p = datasets.image_pair(side, reg=reg)
    shape = p.info["image_shape"]
    unit = p.info["cost_scale"]
    budget = 0.5 if args.quick else 5.0
    a, b = p.a.reshape(shape), p.b.reshape(shape)
    # The grid's own cost is not divided by its maximum.
    timing, r = measure(
        lambda: ot.sinkhorn_grid(a, b, spacing=1.0 / side, reg=reg * unit, tol=TOL, n_threads=args.threads),
        budget,
    )
    f, g = (np.asarray(q) / unit for q in r.potentials)
    rows = [
        timed_row("aitken sinkhorn_grid", "ours", timing, nit=int(np.max(r.nit)), err=grid_error(p, f, g))
    ]
    withhold(rows[0], TOL)
    if side <= 64:
        timing, r = measure(
            lambda: ot.sinkhorn(p.a, p.b, p.M, p.reg, tol=TOL, n_threads=args.threads), budget, 5
        )
        note = f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton, {side**2} x {side**2} costs given"
        err = l1_error(r.plan, p)
        rows.append(timed_row("aitken sinkhorn", "ours", timing, nit=r.nit, err=err, note=note))
    if side <= 32 and "POT" in peers:
        stop, last = pot_threshold(p)
        timing, _ = measure(lambda: pot_plan(p, p.M, stop), budget, 3)
        r = timed_row("POT sinkhorn", "peer", timing, nit=last["nit"], err=last["err"], note="costs given")
        rows.append(withhold(r, TOL))
    job = {"kind": "grid", "make": "image_pair", "with": {"side": side, "reg": reg}}
    for name in ("OTT-JAX scaling",) if args.quick else ("OTT-JAX scaling", "OTT-JAX"):
        if "OTT-JAX" in peers and (side <= 64 or name == "OTT-JAX scaling"):
            rows.append(foreign_row(child, job | {"solver": name}, args))
    add_ratios(rows)
    return {
        "name": f"grid {side}x{side} reg={reg:g}", "part": "grid", "rows": rows, "targets": [],
        "text": f"two images of {side} x {side} pixels, squared distance over its maximum, reg {reg:g}; "
        f"L1 error, wanted {TOL:g}",
    }  # fmt: skip


def barycenter(args: Any, peers: dict[str, Any], child: harness.Isolated, side: int) -> dict[str, Any]:
    """The entropic barycentre of five histograms on a grid."""
    p = datasets.histogram_set(5, side)
    A = np.ascontiguousarray(p.a.T)
    budget = 0.5 if args.quick else 3.0
    exact = np.asarray(ot.barycenter(A, p.M, p.reg, tol=1e-12).barycenter)
    timing, r = measure(lambda: ot.barycenter(A, p.M, p.reg, tol=TOL, n_threads=args.threads), budget)
    off = float(np.abs(r.barycenter - exact).sum())
    rows = [timed_row("aitken barycenter", "ours", timing, nit=int(r.nit), err=off)]
    if "POT" in peers:

        def solve(stop: float) -> dict[str, Any]:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found, log = pot().bregman.barycenter(
                    A, p.M, p.reg, method="sinkhorn", numItermax=100_000, stopThr=stop, log=True, warn=False
                )
            spent = time.perf_counter() - start
            err = float(np.abs(found - exact).sum())
            return {"stop": stop, "seconds": spent, "err": err, "nit": log["niter"] + 1}

        *_, last = tightened(solve, 10 * TOL, TOL)
        timing, last = measure(lambda: solve(last["stop"]), budget)
        r = timed_row("POT barycenter", "peer", timing, nit=last["nit"], err=last["err"])
        rows.append(withhold(r, 10 * TOL))
    add_ratios(rows)
    return {
        "name": f"barycenter 5 of {side}x{side}", "part": "barycenter", "rows": rows, "targets": [],
        "text": f"five histograms, reg {p.reg:g}; error: L1 distance to the one solved to 1e-12",
    }  # fmt: skip


# ------------------------------------------------------------------------------ exact values, other penalties


def exact(args: Any, peers: dict[str, Any], child: harness.Isolated, n: int) -> dict[str, Any]:
    """The value without regularisation, with its certificate."""
    p = datasets.gaussian_clouds(n)
    budget = 0.5 if args.quick else 4.0
    timing, r = measure(lambda: ot.exact_ot(p.a, p.b, p.M, n_threads=args.threads), budget, 5)
    rows = [timed_row("aitken exact_ot", "ours", timing, nit=r.nit, note=f"certified gap {r.err:.1e}")]
    known = r.value
    if "POT" in peers:
        spent, plan = measure(lambda: pot().emd(p.a, p.b, p.M, numItermax=10**7), budget, 5)
        known = float((plan * p.M).sum())
        rows.append(timed_row("POT emd", "peer", spent, err=0.0))
    rows[0]["err"] = abs(r.value - known) / known
    add_ratios(rows)
    return {
        "name": f"exact n={n}", "part": "exact", "rows": rows, "targets": [],
        "text": f"clouds, {n} x {n}; error: relative, of the linear program's value",
    }  # fmt: skip


def quadratic(
    args: Any, peers: dict[str, Any], child: harness.Isolated, n: int, gamma: float
) -> dict[str, Any]:
    """Squared norms in place of entropy."""
    p = datasets.gaussian_clouds(n)
    budget = 0.5 if args.quick else 4.0
    timing, r = measure(
        lambda: ot.quadratic_ot(p.a, p.b, p.M, gamma, tol=TOL, n_threads=args.threads), budget, 7
    )

    def dense(plan: Any) -> Any:
        return plan.toarray() if hasattr(plan, "toarray") else np.asarray(plan)

    plan = dense(r.plan)
    value = float((plan * p.M).sum() + 0.5 * gamma * (plan**2).sum())
    rows = [timed_row("aitken quadratic_ot", "ours", timing, nit=r.nit, err=l1_error(plan, p),
                      note=f"objective {value:.9f}, {np.count_nonzero(plan)} entries")]  # fmt: skip
    if "POT" in peers:
        for name in ("smooth_ot_dual", "smooth_ot_semi_dual"):
            call = getattr(pot().smooth, name)
            work = functools.partial(
                call, p.a, p.b, p.M, gamma, reg_type="l2", stopThr=1e-14, numItermax=20_000, log=True
            )
            spent, (theirs, log) = measure(work, budget, 3)
            value = float((theirs * p.M).sum() + 0.5 * gamma * (theirs**2).sum())
            r = timed_row(f"POT {name}", "peer", spent, nit=int(log["res"].nit), err=l1_error(theirs, p),
                          note=f"objective {value:.9f}")  # fmt: skip
            rows.append(withhold(r, TOL))
    add_ratios(rows)
    return {
        "name": f"quadratic n={n} gamma={gamma:g}", "part": "quadratic", "rows": rows, "targets": [],
        "text": f"clouds, {n} x {n}; L1 error, wanted {TOL:g}",
    }  # fmt: skip


def warm(args: Any, peers: dict[str, Any], child: harness.Isolated, n: int) -> dict[str, Any]:
    """A cloud that moves a little in every step of a loop: cold starts, and the last answer carried on."""
    p = datasets.gaussian_clouds(n, reg=1e-3)
    count, scale = 12, p.info["cost_scale"]
    rng = np.random.default_rng(0)
    moves = 1e-3 * rng.standard_normal((count, *p.X.shape)).cumsum(axis=0)
    costs = [np.asarray(ot.dist(p.X + move, p.Y)) / scale for move in moves]

    def loop(carry: bool) -> list[Any]:
        results: list[Any] = []
        for M in costs:
            init = results[-1] if carry and results else None
            results.append(
                ot.sinkhorn(p.a, p.b, M, p.reg, tol=TOL, method="newton", init=init, n_threads=args.threads)
            )
        return results

    rows = []
    for name, carry in (("aitken, warm", True), ("aitken, cold", False)):
        timing, results = measure(lambda carry=carry: loop(carry), 0.5 if args.quick else 3.0, 5)
        err = max(
            l1_error(r.plan, datasets.TransportProblem("", p.a, p.b, M, p.reg))
            for r, M in zip(results, costs, strict=True)
        )
        newton = [r.nit_newton for r in results[1:]]
        nit = float(np.mean([r.nit for r in results[1:]]))
        note = f"{min(newton)} to {max(newton)} Newton steps after the first"
        rows.append(timed_row(name, "ours", timing, count, nit=nit, err=err, note=note))
    add_ratios(rows)
    return {
        "name": f"warm n={n}", "part": "warm", "rows": rows, "targets": [],
        "text": f"{count} steps of clouds of {n} points, reg {p.reg:g}; worst L1 error, wanted {TOL:g}",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- tables

Make = Callable[[], dict[str, Any]]


def families(args: Any, peers: dict[str, Any], child: harness.Isolated) -> dict[str, Make]:
    """Every problem by name, those of a quick run first where both have them."""
    q = args.quick
    part = functools.partial
    common = (args, peers, child)
    out: dict[str, Make] = {
        "batch 64 of 64x64": part(batch, *common, 64, 64),
        "ragged": part(ragged, *common, 60 if q else 1000),
        "pairs": part(pairs, *common, 24 if q else 200, 16),
        "points pass": part(points_pass, *common, 20_000 if q else 100_000),
    }
    for n, reg in ((1000, 1e-2),) if q else ((1000, 1e-2), (5000, 1e-2), (5000, 1e-3), (20_000, 1e-2)):
        out[f"points n={n} reg={reg:g}"] = part(points, *common, n, reg)
    out["divergence"] = part(divergence, *common, 300 if q else 1000)
    out["gradients"] = part(gradients, *common)
    for n in (60,) if q else (60, 500):
        out[f"unbalanced n={n}"] = part(unbalanced, *common, n)
    for side, reg in ((32, 1e-2),) if q else ((32, 1e-2), (64, 1e-2), (64, 1e-3), (256, 1e-2)):
        out[f"grid {side}x{side} reg={reg:g}"] = part(grid, *common, side, reg)
    out["barycenter"] = part(barycenter, *common, 16)
    for n in (200,) if q else (500, 2000):
        out[f"exact n={n}"] = part(exact, *common, n)
    for n, gamma in ((64, 0.1),) if q else ((64, 0.1), (500, 1e-1), (500, 1.0)):
        out[f"quadratic n={n} gamma={gamma:g}"] = part(quadratic, *common, n, gamma)
    out["warm"] = part(warm, *common, 200 if q else 1000)
    return out


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _time(key: str, which: str) -> Callable[[Row], str]:
    return lambda r: harness.seconds(r[key][which]) if r.get(key) else "-"


_ONE: list[tuple[str, Callable[[Row], str]]] = [
    ("min", _time("seconds", "min")),
    ("median", _time("seconds", "median")),
    ("iterations", lambda r: _number(r["nit"], ".4g")),
    ("error", lambda r: _number(r["err"], ".1e")),
    ("x first", lambda r: _number(r["ratio"], ".3g")),
]
_EACH = [*_ONE[:2], ("each", lambda r: harness.seconds(r["each"])), *_ONE[2:]]
COLUMNS: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "batch": _EACH,
    "pairs": _EACH,
    "warm": _EACH,
    "ragged": [
        ("problems", lambda r: str(r["problems"])),
        ("aitken batch", lambda r: harness.seconds(r["each"])),
        ("two threads", lambda r: harness.seconds(r["two"])),
        ("aitken loop", lambda r: harness.seconds(r["loop"])),
        ("POT loop", lambda r: harness.seconds(r["pot"])),
        ("x ours", lambda r: _number(r["ratio_pot"], ".3g")),
        ("emd loop", lambda r: harness.seconds(r["emd"])),
        ("x ours", lambda r: _number(r["ratio_emd"], ".3g")),
        ("error", lambda r: _number(r["err"], ".1e")),
        ("POT's", lambda r: _number(r["err_pot"], ".1e")),
    ],
    "gradients": [
        ("solve", _time("seconds", "median")),
        ("gradient", _time("back", "median")),
        ("over the solve", lambda r: _number(r["ratio"], ".2f")),
        ("error", lambda r: _number(r["err"], ".1e")),
    ],
}


def show(problem: dict[str, Any]) -> None:
    """Print one problem's table and its targets."""
    print(f"{problem['name']}   {problem['text']}")
    columns = COLUMNS.get(problem["part"], _ONE)
    lines = [[r["solver"], *(cell(r) for _, cell in columns), r["note"]] for r in problem["rows"]]
    print(harness.table(["solver", *(title for title, _ in columns), "remarks"], lines))
    for t in problem["targets"]:
        sign, verdict = (">=" if t["least"] else "<="), ("met" if t["met"] else "MISSED")
        print(f"  target {t['against']} {sign} {t['wanted']:g}: {t['value']:.4g}  {verdict}")
    print(flush=True)
