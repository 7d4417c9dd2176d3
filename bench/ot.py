"""Entropic transport against its peers: the same problem, the same certificate, one thread.

Every solver has to reach ``||P 1 - a||_1 + ||P^T 1 - b||_1 <= 1e-9``, recomputed here from the plan (or the
potentials) that it returned. Peers stop on other quantities (POT on the 2-norm of the column error, regot
on the 2-norm of the gradient), so their thresholds are tightened until the recomputed error holds; only the
converged solve is timed. Each gets the best of the settings listed in `VARIANTS`. A peer whose solve takes
longer than ``--limit`` seconds is ended and shown as such. ``emd`` solves the unregularised problem and
stands beside. Batches, histograms, clouds, gradients and the rest follow after the single problems.

    python bench/ot.py --quick                          # a minute and a half
    python bench/ot.py --json bench/results/FILE.json   # about an hour
    python bench/ot.py --only ragged --update --json bench/results/FILE.json
    python bench/ot.py --device cuda                    # ours alone, CuPy arrays
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The checkout's root in place of bench/, where this file would hide the peer's module of the same name.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import _harness as harness  # noqa: E402

if "numpy" not in sys.modules:  # the isolated child imports NumPy before this file; its threads are inherited
    harness.pin_threads()

# POT would load every array library that is installed, with their threads.
for _library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_library}", "1")

import numpy as np  # noqa: E402

from aitken import datasets, info, ot  # noqa: E402
from aitken._demo import l1_error, tightened  # noqa: E402
from bench import _ot_families, _ot_peers  # noqa: E402

TOL = 1e-9
PEERS = {"ot": "POT", "regot": "regot"}
CHILD_PEERS = {"ott": "OTT-JAX", "geomloss": "GeomLoss"}  # JAX and torch stay out of this process
DISTRIBUTIONS = ("POT", "regot", "ott-jax", "geomloss", "threadpoolctl")


# ------------------------------------------------------------------------------------------ problems


def problems() -> dict[str, dict[str, Any]]:
    """Name -> generator, its options, ``sns`` settings as in the paper, targets, membership of --quick.

    Targets are ratios of median seconds, peer over ours: ``twin`` the NumPy oracle, ``best`` the fastest peer
    that converges (regot, POT), ``plain`` POT's plain Sinkhorn.
    """
    twin, factor = 5.0, 3.0  # 3 where the sparse factorisation dominates
    lap = {"make": "random_assignment", "sns": {}}
    cloud = {"make": "gaussian_clouds", "sns": {}}
    image = {"make": "image_pair", "goal": {"twin": factor, "best": 4}}
    table: dict[str, dict[str, Any]] = {
        "LAP500 eta=1200": {**lap, "with": {"n": 500, "reg": 1 / 1200}, "goal": {"twin": factor, "best": 4}},
        "LAP500 eps=1e-4": {**lap, "with": {"n": 500, "reg": 1e-4}, "goal": {"twin": factor, "best": 5}},
        "LAP2000 eps=1e-4": {**lap, "with": {"n": 2000, "reg": 1e-4}, "goal": {"twin": factor}},
    }
    for n in (500, 2000):
        for reg, goal in (
            (1e-2, {"twin": twin, "plain": 1 / 1.2}),
            (1e-3, {"twin": twin, "best": 4}),
            (1e-4, {"twin": factor}),
        ):
            table[f"clouds{n} eps={reg:.0e}".replace("e-0", "e-")] = {
                **cloud,
                "with": {"n": n, "reg": reg},
                "goal": goal,
            }
    table["images L2 eta=1200"] = {
        **image,
        "with": {},
        "sns": {"lam": 20 / 784},
    }
    table["images L1 eta=1200"] = {
        **image,
        "with": {"metric": "cityblock"},
        "sns": {"warmup": 700, "lam": 15 / 784},
    }
    for order, (name, entry) in enumerate(table.items()):
        quick = name.startswith(("LAP500", "clouds500")) and name != "clouds500 eps=1e-4"
        entry |= {"quick": quick, "order": order}
    return table


def make(name: str) -> datasets.TransportProblem:
    entry = problems()[name]
    return getattr(datasets, entry["make"])(**entry["with"])


# ------------------------------------------------------------------------------- peers, in a child process

# Fastest first where it is known: a variant that takes too long ends the job.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "POT sinkhorn": [{}],
    "POT sinkhorn_stabilized": [{"print_period": 100, "tau": 1e6}, {"print_period": 20}],
    "POT sinkhorn_log": [{}],
    "regot sinkhorn_ssns": [{}],
    "regot sinkhorn_splr": [{"density": 0.05}, {}],
}


def _peer_call(
    solver: str, p: datasets.TransportProblem, M: Any, stop: float, options: dict[str, Any]
) -> tuple[Any, int]:
    if solver.startswith("POT"):
        import ot as pot

        method = solver.split()[1]
        plan, log = pot.sinkhorn(
            p.a, p.b, M, p.reg, method=method, numItermax=10**8, stopThr=stop, log=True, warn=False, **options
        )
        return plan, int(log.get("niter", log.get("n_iter", -1))) + 1
    import regot

    solve = getattr(regot, solver.split()[1])
    result = solve(M, p.a, p.b, p.reg, tol=stop, max_iter=5000, **options)
    return result.plan, int(result.niter)


def peer_samples(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Solve with each variant, tightening its own threshold until our certificate holds; then repeat."""
    solver, tol = job["solver"], job["tol"]
    p = make(job["problem"])
    warnings.simplefilter("ignore")
    if solver == "POT emd":
        import ot as pot

        for _ in range(job["repeats"]):
            start = time.perf_counter()
            plan = pot.emd(p.a, p.b, p.M, numItermax=10**7)
            spent = time.perf_counter() - start
            yield {
                "variant": 0,
                "settings": {},
                "seconds": spent,
                "nit": 0,
                "err": l1_error(plan, p),
                "value": float((plan * p.M).sum()),
            }
            if spent > 1:
                return
        return
    n, m = p.shape
    M = np.asfortranarray(p.M) if solver.startswith("regot") else p.M
    # An L1 norm is at most sqrt(size) times the 2-norm; 0.8 is its usual share of that.
    loosest = tol / (0.8 * np.sqrt(m if solver.startswith("POT") else n + m))

    def solve(stop: float, variant: int) -> dict[str, Any]:
        options = VARIANTS[solver][variant]
        start = time.perf_counter()
        plan, nit = _peer_call(solver, p, M, stop, options)
        spent = time.perf_counter() - start
        settings = {**options, ("stopThr" if solver.startswith("POT") else "tol"): float(f"{stop:.3g}")}
        return {
            "variant": variant,
            "stop": stop,
            "settings": settings,
            "seconds": spent,
            "nit": nit,
            "err": l1_error(plan, p),
            "value": float((plan * p.M).sum()),
        }

    for variant in range(len(VARIANTS[solver])):
        for sample in tightened(lambda stop, variant=variant: solve(stop, variant), tol, loosest):
            yield sample
        repeats = job["repeats"] if sample["seconds"] < 2 else 1 if sample["seconds"] < 15 else 0
        if sample["err"] <= tol:
            for _ in range(repeats):
                yield solve(sample["stop"], variant)


def peer_row(child: harness.Isolated, name: str, solver: str, limit: float, repeats: int) -> dict[str, Any]:
    """One line of the table for a peer: its fastest converged variant, or why there is none."""
    job = {"problem": name, "solver": solver, "tol": TOL, "repeats": repeats}
    samples, outcome = child.run(job, limit)
    row: dict[str, Any] = {"solver": solver, "kind": "peer", "seconds": None, "nit": None, "err": None}
    best: list[dict[str, Any]] = []
    for variant in {sample["variant"] for sample in samples}:
        good = [s for s in samples if s["variant"] == variant and s["err"] <= TOL]
        if good:
            timing = harness.Timing([s["seconds"] for s in good])
            if not best or timing.median < harness.Timing([s["seconds"] for s in best]).median:
                best = good
    if best:
        timing = harness.Timing([s["seconds"] for s in best])
        last = best[-1]
        row |= {
            "seconds": timing.to_json(),
            "nit": last["nit"],
            "err": last["err"],
            "value_linear": last["value"],
        }
        settings = last["settings"]
        row["note"] = ", ".join(f"{key}={value:g}" for key, value in settings.items())
    elif outcome == "timeout":
        reached = min((s["err"] for s in samples), default=np.inf)
        detail = f"; best before that {reached:.1e}" if np.isfinite(reached) else ""
        row["note"] = f"not converged within {limit:g} s{detail}"
    elif outcome != "ok":
        row["note"] = outcome
    else:
        last = min(samples, key=lambda s: s["err"] if np.isfinite(s["err"]) else np.inf)
        row |= {"err": last["err"] if np.isfinite(last["err"]) else None, "nit": last["nit"]}
        how = "stops short of the error" if np.isfinite(last["err"]) else "breaks down (plan not finite)"
        row["note"] = f"{how}, after {harness.seconds(last['seconds'])}"
    return row


# ------------------------------------------------------------------------------------ ours and the twin


def _own(p: Any, method: str, options: dict[str, Any], threads: int) -> ot.OTResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ot.sinkhorn(p.a, p.b, p.M, p.reg, method=method, tol=TOL, n_threads=threads, **options)


def sweeps(r: ot.OTResult) -> int:
    """Passes over the stored kernel, at least: CG on a truncated plan (``nnz`` > 0) makes none."""
    dense = r.history["n_cg"][r.history["nnz"] == 0].sum() if r.history["nnz"].size else 0
    return int(r.nit_sinkhorn + 4 * r.nit_newton + 2 * dense)


def own_row(p: Any, method: str, options: dict[str, Any], threads: int, budget: float) -> dict[str, Any]:
    result: list[ot.OTResult] = []

    def work() -> None:
        result[:] = [_own(p, method, options, threads)]

    work()
    if result[0].time < 2:
        timing = harness.timed(work, repeats=15, budget=budget, warm=False)
    else:
        timing = harness.Timing([result[0].time])
    r = result[0]
    err = l1_error(r.plan, p)
    n, m = p.shape
    return {
        "solver": f"aitken {method}",
        "kind": "ours",
        "seconds": timing.to_json() if err <= TOL else None,
        "nit": r.nit_sinkhorn + r.nit_newton,
        "nit_sinkhorn": r.nit_sinkhorn,
        "nit_newton": r.nit_newton,
        "nit_cg": r.nit_cg,
        "n_exp": r.n_exp,
        "sweeps": sweeps(r),
        "bytes": 8 * n * m,
        "err": err,
        "value_linear": r.value_linear,
        "note": f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton, {r.nit_cg} CG, {r.n_exp} exp passes"
        + (f", {r.linear_solver}" if r.nit_newton and method != "sns" else "")
        + ("" if err <= TOL else f"; {r.status.name.lower()} after {harness.seconds(timing.min)}"),
    }


def twin_row(p: Any, budget: float) -> dict[str, Any]:
    """The NumPy oracle in this process: same mathematics, interpreted, NumPy's BLAS and SciPy's SuperLU."""
    from tests.oracles.ot import exp_pass, newton_oracle

    result: list[Any] = []

    def work() -> None:
        result[:] = [newton_oracle(p.a, p.b, p.M, p.reg, tol=TOL)]

    timing = harness.timed(work, repeats=7, budget=budget)
    r = result[0]
    plan, _, _ = exp_pass(p.M, r.x, r.y, p.reg)
    err = l1_error(plan, p)
    return {
        "solver": "NumPy twin",
        "kind": "twin",
        "seconds": timing.to_json() if err <= TOL else None,
        "nit": r.nit_sinkhorn + r.nit_newton,
        "err": err,
        "value_linear": float((plan * p.M).sum()),
        "note": f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton, {r.nit_cg} CG",
    }


# -------------------------------------------------------------------------------------------- the run


def targets(rows: list[dict[str, Any]], goal: dict[str, float]) -> list[dict[str, Any]]:
    """Measured ratio beside each target; a peer that never converged counts as infinitely slow."""
    median = {row["solver"]: row["seconds"]["median"] for row in rows if row["seconds"]}
    ours = median.get("aitken auto")
    groups = {
        "twin": ("the NumPy twin", ["NumPy twin"]),
        "best": ("the best converging peer", list(VARIANTS)),
        "plain": ("POT's plain Sinkhorn", ["POT sinkhorn"]),
    }
    out = []
    for key, wanted in goal.items():
        text, names = groups[key]
        tried = [row["solver"] for row in rows if row["solver"] in names]
        times = [median[name] for name in tried if name in median]
        if ours is None or not tried:
            continue
        ratio = min(times) / ours if times else None
        out.append(
            {"against": text, "wanted": wanted, "ratio": ratio, "met": ratio is None or ratio >= wanted}
        )
    return out


def show(problem: dict[str, Any]) -> None:
    """Print one problem's table and its targets."""
    ours = next(
        (r["seconds"]["median"] for r in problem["rows"] if r["solver"] == "aitken auto" and r["seconds"]),
        None,
    )
    lines = []
    for row in problem["rows"]:
        t = row["seconds"]
        row["ratio"] = t["median"] / ours if t and ours else None
        lines.append(
            [
                row["solver"],
                harness.seconds(t["min"]) if t else "-",
                harness.seconds(t["median"]) if t else "-",
                str(t["runs"]) if t else "-",
                str(row["nit"]) if row["nit"] else "-",
                f"{row['err']:.1e}" if row["err"] is not None else "-",
                f"{row['ratio']:.3g}" if row["ratio"] is not None else "-",
                row.get("note", ""),
            ]
        )
    n, m = problem["shape"]
    print(f"{problem['name']}   {n} x {m}, L1 marginal error <= {TOL:g}")
    print(harness.table(["solver", "min", "median", "runs", "its", "L1 error", "x ours", "remarks"], lines))
    for target in problem["targets"]:
        ratio = f"{target['ratio']:.2f}" if target["ratio"] is not None else "no peer converged"
        verdict = "met" if target["met"] else "MISSED"
        print(f"  target >= {target['wanted']:.3g} times faster than {target['against']}: {ratio}  {verdict}")
    print(flush=True)


def bound(row: dict[str, Any], limits: dict[str, float]) -> float:
    """Seconds that this solve's passes need at the measured bandwidth and exp rate (K beyond the caches)."""
    exps = row["n_exp"] * row["bytes"] / 8 * limits["exp_ns"] * 1e-9
    return exps + row["sweeps"] * row["bytes"] / (limits["triad_gbs"] * 1e9)


def scaling(names: list[str], quick: bool) -> dict[str, Any]:
    """Ours on one and two threads beside what the memory gains from the second thread."""
    triad = [harness.ceilings(threads, quick=True)["triad_gbs"] for threads in (1, 2)]
    # A second thread that costs bandwidth is somebody else's load, not our scaling.
    out: dict[str, Any] = {"triad_gbs": triad, "rows": [], "disturbed": triad[1] < triad[0]}
    lines = []
    for name in names:
        p = make(name)
        medians = [own_row(p, "auto", {}, threads, 3.0)["seconds"]["median"] for threads in (1, 2)]
        out["rows"].append({"name": name, "seconds": medians, "speedup": medians[0] / medians[1]})
        lines.append([name, *map(harness.seconds, medians), f"{medians[0] / medians[1]:.2f}"])
    print(f"two threads (triad {triad[0]:.1f} -> {triad[1]:.1f} GB/s, x{triad[1] / triad[0]:.2f})")
    print(harness.table(["problem", "1 thread", "2 threads", "speed-up"], lines))
    if out["disturbed"]:
        print("DISTURBED: two threads had less bandwidth than one; something else was running. Repeat this.")
    print(flush=True)
    return out


def _hopeless(solver: str, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The log-domain variant makes the iterates of the stabilised one, at n m exponentials each."""
    stabilised = next((row for row in rows if row["solver"] == "POT sinkhorn_stabilized"), None)
    if solver != "POT sinkhorn_log" or stabilised is None or "not converged within" not in stabilised["note"]:
        return None
    note = "not run: the iterates of sinkhorn_stabilized, which ran out of time, at a higher cost each"
    return {"solver": solver, "kind": "peer", "seconds": None, "nit": None, "err": None, "note": note}


def _kept_peers(args: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """The peers' rows of an earlier run on this machine, by problem and solver."""
    if not args.json or not Path(args.json).exists():
        raise SystemExit("--keep-peers needs --json FILE with an earlier run")
    old = json.loads(Path(args.json).read_text(encoding="utf-8"))
    now = harness.machine_facts(args.threads, DISTRIBUTIONS)
    for key in ("cpu", "cpus", "threads", "versions"):
        if old["machine"][key] != now[key]:
            raise SystemExit(f"--keep-peers: {key} was {old['machine'][key]} and is {now[key]}")
    rows = ((problem["name"], row) for problem in old["problems"] for row in problem["rows"])
    return {
        (name, row["solver"]): {**row, "earlier_run": True} for name, row in rows if row["kind"] == "peer"
    }


def run_cpu(args: Any, report: harness.Report) -> None:
    found, report.missing = harness.import_peers(PEERS)
    solvers = [name for name in VARIANTS if ("ot" if name.startswith("POT") else "regot") in found]
    if "ot" in found:
        solvers.append("POT emd")
    for name in report.missing:
        print(f"peer missing: {name}\n")
    limit = args.limit or (1.0 if args.quick else 60.0)
    budget = 0.3 if args.quick else 3.0
    chosen = {
        name: entry
        for name, entry in problems().items()
        if re.search(args.only, name) and (entry["quick"] or not args.quick)
    }
    kept = _kept_peers(args) if args.keep_peers else {}
    with harness.Isolated(peer_samples) as child:
        for name, entry in chosen.items():
            p = make(name)
            rows = [
                own_row(p, "auto", {}, args.threads, budget),
                own_row(p, "newton", {}, args.threads, budget),
            ]
            if not args.quick:
                sns = {**entry["sns"], "maxiter": 1000}
                rows.append(own_row(p, "sns", sns, args.threads, budget))
                rows.append(
                    own_row(
                        p,
                        "sinkhorn",
                        {"maxiter": 200_000 if p.shape[0] < 1000 else 20_000},
                        args.threads,
                        budget,
                    )
                )
            rows.append(twin_row(p, budget))
            for solver in solvers:
                if args.quick and solver == "POT sinkhorn_log":
                    continue  # the same iteration as sinkhorn_stabilized, some 50 times slower
                row = kept.get((name, solver)) or _hopeless(solver, rows)
                rows.append(row or peer_row(child, name, solver, limit, 2 if args.quick else 4))
            problem = {
                "name": name,
                "order": entry["order"],
                "shape": p.shape,
                "reg": p.reg,
                "rows": rows,
                "targets": targets(rows, entry["goal"]),
            }
            if rows[0]["bytes"] > 2**24:
                floor = bound(rows[0], report.data["ceilings"])
                problem["bound_share"] = floor / rows[0]["seconds"]["median"]
            show(problem)
            if "bound_share" in problem:
                print(
                    f"  passes at the measured ceilings would take {problem['bound_share']:.0%} of our time\n"
                )
            report.add(problem)
    if not args.quick and any(name.startswith("clouds2000") for name in chosen) and args.threads == 1:
        report.data["scaling"] = scaling([n for n in problems() if n.startswith("clouds2000")], args.quick)
    run_families(args, report, found)


def run_families(args: Any, report: harness.Report, found: dict[str, Any]) -> None:
    """Batches, histograms, clouds, gradients and the rest, each kept as soon as it is there."""
    peers = {PEERS[module]: module for module in found}
    peers |= {name: module for module, name in CHILD_PEERS.items() if importlib.util.find_spec(module)}
    missing = [name for name in CHILD_PEERS.values() if name not in peers]
    for name in missing:
        print(f"peer missing: {name}\n")
    report.missing += missing
    first = len(problems())
    with harness.Isolated(_ot_peers.samples) as child:
        makers = _ot_families.families(args, peers, child)
        for order, (name, make_problem) in enumerate(makers.items(), first):
            if not re.search(args.only, name):
                continue
            with harness.blas_threads(args.threads):
                problem = make_problem() | {"order": order}
            _ot_families.show(problem)
            report.add(problem)
            report.save()


def run_cuda(args: Any, report: harness.Report) -> None:
    import cupy

    print(f"GPU: {cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}\n")
    lines = []
    for name, entry in problems().items():
        if not re.search(args.only, name) or (args.quick and not entry["quick"]):
            continue
        host = make(name)
        a, b, M = (cupy.asarray(x) for x in (host.a, host.b, host.M))
        result: list[Any] = []

        def work(a: Any = a, b: Any = b, M: Any = M, reg: float = host.reg, out: list[Any] = result) -> None:
            out[:] = [ot.sinkhorn(a, b, M, reg, tol=TOL)]
            cupy.cuda.get_current_stream().synchronize()

        timing = harness.timed(work, repeats=7, budget=3.0)
        r = result[0]
        err = l1_error(cupy.asnumpy(r.plan), host)
        cpu = own_row(host, "auto", {}, args.threads, 1.0)
        row = {
            "solver": "aitken auto (cuda)",
            "kind": "ours",
            "seconds": timing.to_json(),
            "nit": r.nit,
            "err": err,
            "note": f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton, {r.nit_cg} CG",
        }
        report.add(
            {"name": name, "order": entry["order"], "shape": host.shape, "reg": host.reg, "rows": [row, cpu]}
        )
        ratio = cpu["seconds"]["median"] / timing.median if cpu["seconds"] else float("nan")
        lines.append(
            [
                name,
                harness.seconds(timing.min),
                harness.seconds(timing.median),
                f"{err:.1e}",
                f"{ratio:.2f}",
                row["note"],
            ]
        )
    print(harness.table(["problem", "min", "median", "L1 error", "CPU / GPU", "remarks"], lines))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=float, metavar="S", help="seconds that a peer's solve may take (60; quick 1)"
    )
    parser.add_argument(
        "--keep-peers", action="store_true", help="time ours again, keep the peers' rows that FILE holds"
    )


def main() -> int:
    args = harness.arguments(__doc__ or "", _options)
    if args.device == "cuda":
        gpu = info()["gpu"]
        if not gpu["available"]:
            print(f"no GPU to measure on: {gpu['reason']}", file=sys.stderr)
            return harness.NO_DEVICE
    report = harness.Report("ot", args, DISTRIBUTIONS)
    run: Callable[[Any, harness.Report], None] = run_cuda if args.device == "cuda" else run_cpu
    run(args, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
