"""The CUTEst part of the optimisation benchmark: runs in processes of their own, kept in a file, compared."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from bench import _harness as harness
from bench import _optimize_problems as sets
from bench import _optimize_solvers as solvers

Result = dict[str, Any]
Results = dict[str, dict[str, Result]]  # by solver and problem

# The quick run's share of the set: some of the oldest, whose runs take milliseconds.
QUICK = r"HS\d|HS[1-4]\d|HS61|HS7[1-9]|BT\d+|BYRDSPHR|MARATOS|S316m322|GOTTFR"


def solve_one(job: tuple[str, str, float, dict[str, Any]]) -> Iterator[Result]:
    """One solver on one problem, in a process of its own."""
    solver, name, limit, options = job
    p = sets.cutest(name)
    result = solvers.run(solver, p, limit=limit, **options)
    yield {"n": p.n, "m": p.m, "kind": p.kind} | result


def lost(status: str) -> Result:
    """What is known of a run that took its process down."""
    return {
        "n": 0, "m": 0, "kind": "unknown", "x": [],
        "dual": None, "primal": None, "complementarity": None, "fun": None,
        "solved": False, "success": False, "message": status, "nit": 0, "seconds": 0.0,
        "evals": dict.fromkeys(("f", "c", "g", "J", "H", "Hc"), 0),
    }  # fmt: skip


def run_jobs(
    jobs: list[tuple[str, str]],
    done: Callable[[str, str, Result], None],
    *,
    limit: float,
    workers: int,
    options: dict[str, Any],
) -> None:
    """Run pairs of solver and problem in `workers` child processes; `done` hears of each as it ends."""
    own = {solver: options if solver == "aitken" else {} for solver, _ in jobs}
    if len(jobs) <= 4:  # here, where a debugger and the output of a solver can be seen
        for solver, name in jobs:
            done(solver, name, next(solve_one((solver, name, limit, own[solver]))))
        return
    children: SimpleQueue[harness.Isolated] = SimpleQueue()
    every = [harness.Isolated(solve_one) for _ in range(workers)]
    for child in every:
        children.put(child)

    def work(job: tuple[str, str]) -> tuple[str, str, Result]:
        child = children.get()
        try:
            samples, status = child.run((*job, limit, own[job[0]]), 5.0 * limit + 60.0)
        finally:
            children.put(child)
        return *job, (samples[0] if samples else lost(status))

    try:
        with ThreadPoolExecutor(workers) as pool:
            for item in pool.map(work, jobs):
                done(*item)
    finally:
        for child in every:
            child.close()


def chosen(args: Any) -> list[str]:
    """Names of the set that ``--only`` picks: whole names, or parts of ``cutest equality`` and the like."""
    return [
        name
        for name, kind in sets.names()
        if (re.search(args.only, f"cutest {kind}") and (not args.quick or re.fullmatch(QUICK, name)))
        or (args.only and re.fullmatch(args.only, name))
    ]


def picks(args: Any, part: str) -> bool:
    """Whether ``--only`` names problems of this part, ``cutest equality`` or ``cutest other``."""
    kinds = dict(sets.names())
    return bool(args.only) and any(f"cutest {kinds[name]}" == part for name in chosen(args))


class Store:
    """Results by solver and problem in a JSON file, written as they come; a run goes on where one ended."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self.results: Results = {}
        if self.path is not None and self.path.exists():
            self.results = json.loads(self.path.read_text(encoding="utf-8"))["results"]

    def add(self, solver: str, name: str, result: Result) -> None:
        self.results.setdefault(solver, {})[name] = result

    def save(self) -> None:
        if self.path is not None:
            text = json.dumps({"bench": "optimize-runs", "results": self.results}, indent=0)
            self.path.write_text(text, encoding="utf-8")


def functions(result: Result) -> int:
    """Calls of the objective and of the constraints."""
    return int(result["evals"]["f"] + result["evals"]["c"])


def derivatives(result: Result) -> int:
    """Calls of the gradient and of the Jacobian."""
    return int(result["evals"]["g"] + result["evals"]["J"])


def worst(result: Result) -> float:
    values = [result[key] for key in ("dual", "primal", "complementarity")]
    return float("inf") if None in values else max(values)


def verdict(result: Result) -> str:
    """One word: solved, FALSE (success that is none), shy (solved, but not said), failed, time."""
    if result["solved"]:
        return "solved" if result["success"] else "shy"
    if result["success"]:
        return "FALSE"
    return "time" if result["message"] == "time limit" else "failed"


def comparison(results: Results, names: list[str]) -> str:
    """One line per problem with every solver beside the others."""
    shown = [solver for solver in solvers.SOLVERS if solver in results]
    header = ["problem", "n", "m"]
    for solver in shown:
        header += [solver, "f+c", "g+J", "nit", "time", "KKT", "f"]
    lines = []
    for name in names:
        known = [results[solver].get(name) for solver in shown]
        first = next((r for r in known if r is not None and r["n"]), None)
        if first is None:
            continue
        cells = [name, str(first["n"]), str(first["m"])]
        for r in known:
            if r is None:
                cells += ["-"] * 7
                continue
            fun = "-" if r["fun"] is None else f"{r['fun']:.6g}"
            cells += [verdict(r), str(functions(r)), str(derivatives(r)), str(r["nit"])]
            cells += [harness.seconds(r["seconds"]), f"{worst(r):.0e}", fun]
        lines.append(cells)
    return harness.table(header, lines)


def summary(results: Results, names: list[str]) -> dict[str, Any]:
    """Counts per solver, and evaluations over Ipopt's where both have solved."""
    out: dict[str, Any] = {}
    base = results.get("ipopt", {})
    for solver in solvers.SOLVERS:
        mine = {name: r for name, r in results.get(solver, {}).items() if name in names}
        if not mine:
            continue
        kinds = sorted({r["kind"] for r in mine.values()})
        both = [n for n, r in mine.items() if r["solved"] and base.get(n, {}).get("solved")]
        row: dict[str, Any] = {
            "problems": len(mine),
            "solved": sum(r["solved"] for r in mine.values()),
            "near": sum(worst(r) <= 1e-4 for r in mine.values()),
            "kinds": {
                k: [
                    sum(r["solved"] for r in mine.values() if r["kind"] == k),
                    sum(r["kind"] == k for r in mine.values()),
                ]
                for k in kinds
            },
            "false": sorted(n for n, r in mine.items() if verdict(r) == "FALSE" or r.get("false_before")),
            "shy": sorted(name for name, r in mine.items() if verdict(r) == "shy"),
            "time": sorted(name for name, r in mine.items() if verdict(r) == "time"),
            "seconds": sum(r["seconds"] for r in mine.values()),
            "both": len(both),
        }
        for key, count in (("functions", functions), ("derivatives", derivatives)):
            pairs = [(count(mine[n]), count(base[n])) for n in both]
            ratios = [a / b for a, b in pairs if b]
            row[key] = {
                "median": statistics.median(ratios) if ratios else None,
                "total": sum(a for a, _ in pairs) / max(1, sum(b for _, b in pairs)) if pairs else None,
            }
        out[solver] = row
    return out


def missing_from_ours(results: Results, names: list[str]) -> dict[str, list[str]]:
    """Problems that a peer has solved and we have not, and those where one minimum is lower."""
    ours = results.get("aitken", {})
    out: dict[str, list[str]] = {}
    for solver in solvers.SOLVERS:
        if solver == "aitken" or solver not in results:
            continue
        theirs = results[solver]
        shared = [n for n in names if n in ours and n in theirs]
        out[f"solved by {solver}, not by ours"] = [
            n for n in shared if theirs[n]["solved"] and not ours[n]["solved"]
        ]
        out[f"to 1e-4 by {solver}, not by ours"] = [
            n for n in shared if worst(theirs[n]) <= 1e-4 < worst(ours[n])
        ]
        for word, sign in (("higher", 1.0), ("lower", -1.0)):
            out[f"our minimum {word} than {solver}'s"] = [
                n
                for n in shared
                if theirs[n]["solved"] and ours[n]["solved"]
                and sign * (ours[n]["fun"] - theirs[n]["fun"]) > 1e-4 * max(1.0, abs(theirs[n]["fun"]))
            ]  # fmt: skip
    return out


def print_summary(results: Results, names: list[str]) -> None:
    rows = summary(results, names)
    lines = []
    for solver, r in rows.items():
        kinds = "  ".join(f"{k} {a}/{b}" for k, (a, b) in r["kinds"].items())
        ratios = [
            "-" if r[key][which] is None else f"{r[key][which]:.2f}"
            for key in ("functions", "derivatives")
            for which in ("median", "total")
        ]
        lines.append(
            [solver, f"{r['solved']}/{r['problems']}", str(r["near"]), str(len(r["false"]))]
            + [str(len(r["shy"])), str(len(r["time"])), harness.seconds(r["seconds"]), *ratios, kinds]
        )
    header = ["solver", "solved", "to 1e-4", "FALSE", "shy", "time", "seconds"]
    header += ["f+c median", "total", "g+J median", "total (over ipopt, both solved)"]
    print(harness.table([*header, "by kind"], lines))
    if "aitken" in rows:
        for key in ("false", "shy", "time"):
            print(f"ours, {key}: {' '.join(rows['aitken'][key]) or '-'}")
        for text, which in missing_from_ours(results, names).items():
            print(f"{text} ({len(which)}): {' '.join(which) or '-'}")


def runs(args: Any, asked: list[str], names: list[str]) -> Results:
    """Run what is asked and not stored; returns all results by solver."""
    store, peers = Store(args.runs), Store(args.peers)
    jobs = [
        (solver, name)
        for name in names
        for solver in asked
        if args.again or name not in store.results.get(solver, {})
    ]
    count = 0

    def done(solver: str, name: str, result: Result) -> None:
        nonlocal count
        store.add(solver, name, result)
        count += 1
        if count % 20 == 0:
            store.save()

    options = json.loads(args.options)
    run_jobs(jobs, done, limit=args.limit, workers=args.workers, options=options)
    store.save()
    results = {solver: dict(found) for solver, found in peers.results.items()}
    for solver, found in store.results.items():
        results[solver] = results.get(solver, {}) | found
    return results


# ------------------------------------------------------------------------------------------------- picture


def profile(results: Results, names: list[str], cost: Callable[[Result], float]) -> dict[str, list[float]]:
    """Per solver the ratios of its cost to the least of any, sorted, over the problems it has solved."""
    shown = [solver for solver in solvers.SOLVERS if solver in results]
    out: dict[str, list[float]] = {solver: [] for solver in shown}
    for name in names:
        costs = {
            solver: max(cost(results[solver][name]), 1e-12)
            for solver in shown
            if name in results[solver] and results[solver][name]["solved"]
        }
        for solver, value in costs.items():
            out[solver].append(value / min(costs.values()))
    return {solver: sorted(ratios) for solver, ratios in out.items()}


def picture(results: Results, names: list[str], path: str) -> None:
    """Performance profiles: the part of the problems solved within a multiple of the cheapest solver."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    costs: list[tuple[str, Callable[[Result], float], float]] = [
        ("calls of objective and constraints", functions, 30.0),
        ("calls of gradient and Jacobian", derivatives, 30.0),
        ("seconds", lambda r: float(r["seconds"]), 100.0),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    for axis, (title, cost, far) in zip(axes, costs, strict=True):
        for solver, ratios in profile(results, names, cost).items():
            part = np.arange(1, len(ratios) + 1) / len(names)
            x = np.concatenate([[1.0], ratios, [far]])
            y = np.concatenate([[0.0], part, [part[-1] if len(part) else 0.0]])
            axis.step(x, y, where="post", label=solver, lw=2.2 if solver == "aitken" else 1.4)
        axis.set(xscale="log", xlim=(1, far), ylim=(0, 1), title=title, xlabel="multiple of the best solver")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"part of {len(names)} problems solved")
    axes[-1].legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
