"""Renders benchmark results as Markdown, for the README and the documentation.

    python bench/report.py bench/results/FILE.json               # print the tables
    python bench/report.py FILE.json --into README.md docs/...   # replace the marked blocks there
    python bench/report.py FILE.json --into README.md --check    # exit 1 if a block differs

A marked block starts with ``<!-- bench:STEM:TABLE -->`` and ends with ``<!-- /bench -->``; TABLE is
``summary``, ``full`` or ``machine``, for ``ot`` also ``many`` and ``families``, for ``krylov`` also ``short``
and ``datagen``, for ``deepcg`` also ``networks`` and ``counts``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench._harness import seconds  # noqa: E402

_BLOCK = re.compile(r"(<!-- bench:(\w+):(\w+) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)


def _markdown(header: list[str], rows: list[list[str]], align: str) -> str:
    rule = {"l": ":--", "r": "--:"}
    lines = [header, [rule[a] for a in align], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _median(problem: dict[str, Any], solver: str) -> float | None:
    for row in problem["rows"]:
        if row["solver"] == solver and row["seconds"]:
            return float(row["seconds"]["median"])
    return None


def _ratio(value: float | None, ours: float | None) -> str:
    if value is None or not ours:
        return "none"
    ratio = value / ours
    text = f"{ratio:.2f}" if ratio < 0.1 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"
    return f"**{text}**" if ratio < 1 else text


def _group(problem: dict[str, Any], prefix: str, ours: float | None) -> str:
    """Fastest converging solver of a family, as ratio to ours."""
    rows = [
        row
        for row in problem["rows"]
        if row["solver"].startswith(prefix) and not row["solver"].endswith("emd")
    ]
    if not rows:
        return "not run"
    times = [(row["seconds"]["median"], row["solver"].split()[-1]) for row in rows if row["seconds"]]
    if not times:
        return "none within 60 s"
    best, name = min(times)
    return f"{_ratio(best, ours)} ({name.removeprefix('sinkhorn_')})"


def _single(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The single transport problems; the others belong to a part."""
    return [problem for problem in data["problems"] if "part" not in problem]


def summary(data: dict[str, Any]) -> str:
    """One line per problem: our seconds, and how many times longer each family of peers takes."""
    rows = []
    for problem in _single(data):
        ours = _median(problem, "aitken auto")
        row = next(r for r in problem["rows"] if r["solver"] == "aitken auto")
        steps = f"{row['nit_sinkhorn']} + {row['nit_newton']}"
        rows.append(
            [
                problem["name"],
                seconds(ours),
                steps,
                _group(problem, "POT", ours),
                _group(problem, "regot", ours),
                _ratio(_median(problem, "NumPy twin"), ours),
                _ratio(_median(problem, "POT emd"), ours),
            ]
        )
    header = [
        "problem",
        "aitken",
        "Sinkhorn + Newton",
        "POT entropic",
        "regot",
        "NumPy twin",
        "POT emd (reg = 0)",
    ]
    return _markdown(header, rows, "lrrrrrr")


def full(data: dict[str, Any]) -> str:
    """Every solver of every single problem, and the targets."""
    parts = []
    for problem in _single(data):
        ours = _median(problem, "aitken auto")
        n, m = problem["shape"]
        rows = []
        for row in problem["rows"]:
            t = row["seconds"]
            rows.append(
                [
                    row["solver"],
                    seconds(t["min"]) if t else "-",
                    seconds(t["median"]) if t else "-",
                    str(t["runs"]) if t else "-",
                    str(row["nit"]) if row["nit"] else "-",
                    f"{row['err']:.1e}" if row["err"] is not None else "-",
                    _ratio(t["median"], ours).strip("*") if t else "-",
                    row.get("note", ""),
                ]
            )
        header = ["solver", "min", "median", "runs", "iterations", "L1 error", "× ours", "remarks"]
        parts.append(f"#### {problem['name']} ({n} × {m})\n\n{_markdown(header, rows, 'lrrrrrrl')}")
        targets = []
        for target in problem["targets"]:
            got = f"{target['ratio']:.2f}" if target["ratio"] is not None else "it never converged"
            verdict = "met" if target["met"] else "**missed**"
            targets.append(
                f"- target: {target['wanted']:.3g} times as fast as {target['against']}; {got}: {verdict}"
            )
        if "bound_share" in problem:
            targets.append(
                "- the same passes at the measured bandwidth and exp rate would take "
                f"{problem['bound_share']:.0%} of our time"
            )
        parts.append("\n".join(targets) + "\n")
    if "scaling" in data:
        gain = data["scaling"]["triad_gbs"]
        rows = [
            [row["name"], *map(seconds, row["seconds"]), f"{row['speedup']:.2f}"]
            for row in data["scaling"]["rows"]
        ]
        if data["scaling"]["disturbed"]:
            parts.append("The two-thread run was disturbed by other load and is not shown.\n")
            return "\n".join(parts)
        parts.append(
            f"#### Two threads (triad gains {gain[1] / gain[0]:.2f} times)\n\n"
            + _markdown(["problem", "1 thread", "2 threads", "speed-up"], rows, "lrrr")
        )
    return "\n".join(parts)


def machine(data: dict[str, Any]) -> str:
    """The facts and ceilings behind the seconds."""
    facts, limits = data["machine"], data["ceilings"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    reused = any(row.get("earlier_run") for problem in data["problems"] for row in problem["rows"])
    kept = " The peers' rows are from an earlier run on this machine (`--keep-peers`)." if reused else ""
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, SIMD level {facts['simd']}, {facts['threads']} thread, "
        f"{facts['compiler']}, Python {facts['python']}, {versions}, {facts['date']}; "
        f"measured in the same run: triad {limits['triad_gbs']:.0f} GB/s, "
        f"exp {limits['exp_ns']:.2f} ns (NumPy {limits['exp_numpy_ns']:.2f}), "
        f"sgemm {limits['sgemm_gflops']:.0f} GFLOP/s.{kept}\n"
    )


# ------------------------------------------------------------------------------------- linear systems


def _best(problem: dict[str, Any], prefixes: tuple[str, ...]) -> tuple[float, str] | None:
    """Median and name of the fastest row whose solver starts with one of `prefixes`."""
    rows = [r for r in problem["rows"] if r["seconds"] and r["solver"].startswith(prefixes)]
    return min(((r["seconds"]["median"], r["solver"]) for r in rows), default=None)


def _against(problem: dict[str, Any], prefixes: tuple[str, ...], ours: float | None) -> str:
    """How many times our time the fastest of a group takes, and which it is."""
    best = _best(problem, prefixes)
    if best is None:
        tried = any(r["solver"].startswith(prefixes) for r in problem["rows"])
        return "not solved" if tried else "-"
    name = best[1].partition(" ")[2]
    return _ratio(best[0], ours) + (f" ({name})" if name else "")


_SHORT = (
    "T1",
    "T5 Darcy binary 64",
    "T6",
    "T7",
    "one A: m",
    "scattering",
    "Oseen 32^3 m",
    "densities",
    "absorbing",
)


def krylov_short(data: dict[str, Any]) -> str:
    """The summary of some sequences of each kind."""
    chosen = [problem for problem in data["problems"] if problem["name"].startswith(_SHORT)]
    return krylov_summary({**data, "problems": chosen})


def krylov_summary(data: dict[str, Any]) -> str:
    """One line per sequence: our seconds per system, and how many times longer each kind of peer takes."""
    rows = []
    for problem in data["problems"]:
        by_name = {row["solver"]: row for row in problem["rows"]}
        first = problem["rows"][0]
        ours = _median(problem, first["solver"])
        chosen = first.get("chosen") or "gcrodr"
        alone = by_name.get("aitken, nothing carried", {}).get("seconds")
        rows.append(
            [
                problem["name"],
                str(problem["n"]),
                f"{seconds(ours)} ({chosen})",
                _ratio(_median(problem, "aitken recycled"), ours),
                _ratio(alone["median"] if alone else None, ours),
                _against(problem, ("SciPy ",), ours),
                _against(problem, ("SuperLU",), ours),
                _against(problem, ("PyAMG ",), ours),
                _against(problem, ("PETSc ", "HPDDM "), ours),
            ]
        )
    header = ["sequence", "n", "aitken", "recycled", "nothing carried", "SciPy", "SuperLU", "PyAMG", "PETSc"]
    return _markdown(header, rows, "lrrrrrrrr")


def krylov_full(data: dict[str, Any]) -> str:
    """Every solver of every sequence, the targets, and the data factory."""
    parts = []
    for problem in data["problems"]:
        ours = next((r["seconds"]["median"] for r in problem["rows"] if r["seconds"]), None)
        rows = []
        for row in problem["rows"]:
            t = row["seconds"]
            rows.append(
                [
                    row["solver"],
                    seconds(t["min"]) if t else "-",
                    seconds(t["median"]) if t else "-",
                    str(t["runs"]) if t else "-",
                    f"{row['nit']:.1f}" if row["nit"] else "-",
                    f"{row['err']:.1e}" if row["err"] is not None else "-",
                    _ratio(t["median"], ours).strip("*") if t else "-",
                    row["note"],
                ]
            )
        header = ["solver", "min", "median", "runs", "products", "residual", "× first", "remarks"]
        size = f"{problem['count']} systems, n = {problem['n']}, rtol {problem['rtol']:g}"
        parts.append(f"#### {problem['name']} ({size})\n\n{_markdown(header, rows, 'lrrrrrrl')}")
        for target in problem["targets"]:
            verdict = "met" if target["met"] else "**missed**"
            parts.append(
                f"- target: {target['against']} at least {target['wanted']:.2g}; {target['ratio']:.2f} "
                f"({target['best']}): {verdict}"
            )
        parts.append("")
    return "\n".join(parts)


def krylov_datagen(data: dict[str, Any]) -> str:
    """Samples of the data factory beside a loop of `spsolve`."""
    if "datagen" not in data:
        return "Not measured.\n"
    rows = [
        [r["kind"], str(r["n"]), r["solver"], seconds(r["seconds"]), _ratio(r["spsolve"], r["seconds"])]
        + [f"{r['residual']:.1e}"]
        for r in data["datagen"]["rows"]
    ]
    t = data["datagen"]["thousand"]
    met = "met" if t["seconds"] <= t["wanted"] else "**missed**"
    header = ["family", "n", "solver", "per sample", "spsolve loop", "largest residual"]
    return _markdown(header, rows, "lrlrrr") + (
        f"\n- target: {t['count']} samples of `darcy` on 64 × 64 with two workers in at most "
        f"{t['wanted']:g} s; {t['seconds']:.2f} s: {met}\n"
    )


def krylov_machine(data: dict[str, Any]) -> str:
    """The facts and ceilings behind the seconds."""
    facts, limits = data["machine"], data["ceilings"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    share = limits["cycle_gbs"] / limits["triad_gbs"]
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, SIMD level {facts['simd']}, {facts['threads']} thread, "
        f"{facts['compiler']}, Python {facts['python']}, {versions}, {facts['date']}; "
        f"measured in the same run: triad {limits['triad_gbs']:.0f} GB/s, "
        f"sparse product {limits['spmv_gbs']:.0f} GB/s (SciPy's {limits['spmv_scipy_gbs']:.0f}), "
        f"orthogonalisation of a cycle {limits['cycle_gbs']:.0f} GB/s, {share:.0%} of triad (target 60 %).\n"
    )


def _form(value: Any, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


# Columns of the parts of the relaxation benchmark: header, alignment, cell.
_TIMED: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
    ("min", "r", lambda r: seconds(r["seconds"]["min"]) if r["seconds"] else "-"),
    ("median", "r", lambda r: seconds(r["seconds"]["median"]) if r["seconds"] else "-"),
    ("iterations", "r", lambda r: _form(r.get("nit"), ".4g")),
    ("residual", "r", lambda r: _form(r["err"], ".1e")),
    ("× first", "r", lambda r: _form(r.get("ratio"), ".3g")),
]
_RELAXATION: dict[str, list[tuple[str, str, Callable[[dict[str, Any]], str]]]] = {
    "overhead": [("suggest and observe", "r", lambda r: seconds(r["seconds"]["median"]))],
    "sweeps": [
        ("ns per row", "r", lambda r: _form(r["ns"], ".2f")),
        ("two threads", "r", lambda r: _form(r["ns_two"], ".2f")),
        ("over our product", "r", lambda r: _form(r["ratio"], ".2f")),
        ("over SciPy's product", "r", lambda r: _form(r["ratio_scipy"], ".2f")),
    ],
    "heat": [
        ("iterations", "r", lambda r: _form(r["nit"], ".0f")),
        ("published problem, elsewhere", "r", lambda r: _form(r["known"], ".0f")),
        ("× best fixed", "r", lambda r: _form(r["ratio"], ".2f")),
        ("time", "r", lambda r: seconds(r["seconds"]["median"]) if r["seconds"] else "-"),
    ],
    "policies": [
        ("sweeps", "r", lambda r: _form(r["cost"], ".1f")),
        ("elsewhere", "r", lambda r: _form(r["known"], ".1f")),
        ("spread", "r", lambda r: _form(r["spread"], ".1f")),
        ("trials", "r", lambda r: str(r["trials"])),
        ("× best fixed", "r", lambda r: _form(r["ratio"], ".2f")),
        ("per step", "r", lambda r: _form(r["micro"], ".1f", " µs")),
    ],
}


def relaxation_summary(data: dict[str, Any]) -> str:
    """One line per single system: our seconds, and how many times longer the others take."""
    first = "aitken ssor_cg, tuned, analysed"
    rows = []
    for problem in data["problems"]:
        if problem["part"] not in ("step", "poisson", "rough"):
            continue
        ours = _median(problem, first)
        omega = next(row["omega"] for row in problem["rows"] if row["solver"] == first)
        fresh = {"rows": [row for row in problem["rows"] if "before" not in row["solver"]]}
        times = [
            _median(problem, name)
            for name in (
                "aitken ssor_cg, tuned",
                "aitken ssor_cg, omega=1, analysed",
                "aitken cg",
                "SciPy cg",
            )
        ]
        rows.append(
            [
                problem["name"].replace(f" n={problem['n']}", ""),
                str(problem["n"]),
                f"{seconds(ours)} ({omega:.2f})",
                *(_ratio(t, ours) for t in times),
                _against(fresh, ("SuperLU",), ours).partition(" (")[0],
                *(
                    _ratio(t, ours) if t is not None else "-"
                    for t in (_median(problem, name) for name in ("PyAMG RS + cg", "sine transform"))
                ),
            ]
        )
    header = ["system", "n", "aitken (omega)", "first time", "omega = 1", "our CG", "SciPy's CG", "SuperLU"]
    return _markdown([*header, "PyAMG", "sine transform"], rows, "lrrrrrrrrr")


def _parts(data: dict[str, Any], columns_of: dict[str, list[tuple[str, str, Callable[..., str]]]]) -> str:
    """Every solver of every part, and the targets."""
    parts = []
    for problem in data["problems"]:
        columns = columns_of.get(problem["part"], _TIMED)
        rows = [
            [row["solver"], *(cell(row) for _, _, cell in columns), row["note"]] for row in problem["rows"]
        ]
        header = ["solver", *(name for name, _, _ in columns), "remarks"]
        align = "l" + "".join(side for _, side, _ in columns) + "l"
        parts.append(f"#### {problem['name']}\n\n{problem['text']}\n\n{_markdown(header, rows, align)}")
        for target in problem["targets"]:
            sign, verdict = (">=" if target["least"] else "<="), "met" if target["met"] else "**missed**"
            parts.append(
                f"- target: {target['against']} {sign} {target['wanted']:.4g}; "
                f"{target['value']:.4g}: {verdict}"
            )
        parts.append("")
    return "\n".join(parts)


def relaxation_full(data: dict[str, Any]) -> str:
    """Every solver of every part, and the targets."""
    return _parts(data, _RELAXATION)


def machine_facts(data: dict[str, Any]) -> str:
    """The facts behind the seconds."""
    facts = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, SIMD level {facts['simd']}, {facts['threads']} thread, "
        f"{facts['compiler']}, Python {facts['python']}, {versions}, {facts['date']}.\n"
    )


def _time_of(row: dict[str, Any], which: str = "median") -> str:
    return seconds(row["seconds"][which]) if row["seconds"] else "-"


_COMPLETION: dict[str, list[tuple[str, str, Callable[[dict[str, Any]], str]]]] = {
    "recovery": [
        ("time", "r", _time_of),
        ("sweeps", "r", lambda r: _form(r["nit"], "d")),
        ("reached in", "r", lambda r: _form(r["reached"], "d")),
        ("error", "r", lambda r: _form(r["error"], ".2e")),
    ],
    "sweep": [
        ("a sweep", "r", lambda r: seconds(r["sweep"])),
        ("two threads", "r", lambda r: seconds(r["two"])),
        ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
        ("objective", "r", lambda r: _form(r["objective"], ".6g")),
        ("after sweeps", "r", lambda r: _form(r.get("sweeps"), "d")),
    ],
    "gram": [
        ("GFLOP/s", "r", lambda r: _form(r["rate"], ".1f")),
        ("× sgemm", "r", lambda r: _form(r["share"], ".2f")),
    ],
    "ratings": [
        ("time", "r", _time_of),
        ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
        ("RMSE", "r", lambda r: _form(r["rmse"], ".4f")),
    ],
    "image": [
        ("time", "r", _time_of),
        ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
        ("PSNR", "r", lambda r: _form(r["psnr"], ".2f")),
    ],
}
_COMPLETION |= {"climate": _COMPLETION["ratings"], "spark": _COMPLETION["ratings"]}


def completion_summary(data: dict[str, Any]) -> str:
    """Seconds of a sweep of ours, and how many times longer the peers' takes."""
    rows = []
    for problem in data["problems"]:
        if problem["part"] != "sweep":
            continue
        ours = [r for r in problem["rows"] if r["kind"] == "ours"]
        by_name = {r["solver"]: r for r in problem["rows"]}
        for mine in ours:
            kind = "CG-3" if "CG" in mine["solver"] else "Cholesky"
            others = [
                _ratio(by_name[name]["sweep"], mine["sweep"])
                if name in by_name and by_name[name]["sweep"] and mine["sweep"]
                else "-"
                for name in (f"cmfrec {kind}", f"implicit {kind}")
            ]
            two = f"{mine['sweep'] / mine['two']:.2f}" if mine["sweep"] and mine["two"] else "-"
            rows.append([problem["name"], mine["solver"], seconds(mine["sweep"]), two, *others])
    return _markdown(
        ["problem", "solver", "a sweep", "two threads gain", "cmfrec", "implicit"], rows, "llrrrr"
    )


def completion_full(data: dict[str, Any]) -> str:
    """Every solver of every part, and the targets."""
    return _parts(data, _COMPLETION)


def _over(key: str, which: str) -> Callable[[dict[str, Any]], str]:
    return lambda r: _form(r[key][which], ".2f")


_SINGLE: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
    ("min", "r", lambda r: _time_of(r, "min")),
    ("median", "r", _time_of),
    ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
    ("iterations", "r", lambda r: str(r["nit"])),
    ("f + c", "r", lambda r: str(r["functions"])),
    ("g + J", "r", lambda r: str(r["derivatives"])),
    ("Hessians", "r", lambda r: str(r["hessians"])),
    ("inner", "r", lambda r: _form(r["inner"], "d")),
    ("Mflop", "r", lambda r: _form(r["flops"] / 1e6 if r["flops"] else None, ".3g")),
    ("KKT", "r", lambda r: _form(r["error"], ".0e")),
    ("f", "r", lambda r: _form(r["fun"], ".8g")),
    ("", "l", lambda r: r["verdict"]),
]
_OPTIMIZE: dict[str, list[tuple[str, str, Callable[[dict[str, Any]], str]]]] = {
    "cutest": [
        ("solved", "r", lambda r: f"{r['solved']} of {r['problems']}"),
        ("to 1e-4", "r", lambda r: str(r["near"])),
        ("false at first", "r", lambda r: str(r["false"])),
        ("f + c, median", "r", _over("functions", "median")),
        ("in all", "r", _over("functions", "total")),
        ("g + J, median", "r", _over("derivatives", "median")),
        ("in all", "r", _over("derivatives", "total")),
        ("seconds in all", "r", lambda r: seconds(r["total"])),
    ],
    "single": _SINGLE,
    "order": [
        ("error of the state", "r", lambda r: _form(r["state"], ".3e")),
        ("of the control", "r", lambda r: _form(r["control"], ".3e")),
        ("iterations", "r", lambda r: str(r["nit"])),
    ],
    "batch": [
        ("time", "r", _time_of),
        ("each", "r", lambda r: seconds(r["each"])),
        ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
        ("iterations", "r", lambda r: _form(r["nit"], ".1f")),
        ("solved", "r", lambda r: _form(r["solved"], ".0%")),
        ("largest KKT", "r", lambda r: _form(r["error"], ".0e")),
    ],
    "factor": [
        ("min", "r", lambda r: _time_of(r, "min")),
        ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
        ("GFLOP/s", "r", lambda r: _form(r["rate"], ".1f")),
        ("× dgemm", "r", lambda r: _form(r["share"], ".2f")),
    ],
}


def optimize_summary(data: dict[str, Any]) -> str:
    """Solved problems and evaluations per solver, and our seconds beside the peers' elsewhere."""
    known = {problem["name"]: problem for problem in data["problems"]}
    rows = []
    for name in ("cutest equality", "cutest other"):
        for r in known.get(name, {"rows": []})["rows"]:
            ratios = [_form(r[key]["median"], ".2f") for key in ("functions", "derivatives")]
            counts = f"{r['solved']} of {r['problems']}"
            rows.append([name, r["solver"], counts, str(r["false"]), *ratios, seconds(r["total"])])
    header = ["set", "solver", "solved", "false", "f + c", "g + J", "seconds in all"]
    text = _markdown(header, rows, "llrrrrr")
    times = []
    for problem in data["problems"]:
        if problem["part"] not in ("single", "batch") or problem["name"].startswith("sketch"):
            continue
        by_name = {r["solver"].removesuffix(", loop"): r for r in problem["rows"]}
        ours = problem["rows"][0]
        cells = []
        for peer in ("ipopt", "trust-constr", "slsqp"):
            r = by_name.get(peer)
            cells.append("-" if r is None else _form(r["ratio"], ".3g") if r["seconds"] else "not solved")
        times.append([problem["name"], _time_of(ours), *cells])
    header = ["problem", "aitken", "× Ipopt", "× trust-constr", "× SLSQP"]
    return f"{text}\n{_markdown(header, times, 'lrrrr')}"


def optimize_full(data: dict[str, Any]) -> str:
    """Every solver of every part, the targets, and the problems that solvers disagree on."""
    parts = [_parts(data, _OPTIMIZE)]
    for problem in data["problems"]:
        if not problem.get("disagreed"):
            continue
        header = ["problem", *(row["solver"] for row in problem["rows"])]
        align = "l" * len(header)
        parts.append(f"#### {problem['name']}: not solved by all\n")
        parts.append(_markdown(header, problem["disagreed"], align))
        for text, names in problem["differences"].items():
            if names and not text.startswith("to 1e-4"):
                parts.append(f"- {text}: {', '.join(names)}")
        parts.append("")
    return "\n".join(parts)


_APART: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
    ("set-up", "r", lambda r: seconds(r["setup"]["median"]) if r["setup"] else "-"),
    ("min", "r", lambda r: _time_of(r, "min")),
    ("median", "r", _time_of),
    ("iterations", "r", lambda r: _form(r["nit"], ".4g")),
    ("residual", "r", lambda r: _form(r["err"], ".1e")),
    ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
]


def _cells(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda r: r["cells"][name]


_FAMILY: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
    ("min", "r", lambda r: _time_of(r, "min")),
    ("median", "r", _time_of),
    ("iterations", "r", lambda r: _form(r["nit"], ".4g")),
    ("error", "r", lambda r: _form(r["err"], ".1e")),
    ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
]
_FAMILY_EACH = [*_FAMILY[:2], ("each", "r", lambda r: seconds(r["each"])), *_FAMILY[2:]]
_OT: dict[str, list[tuple[str, str, Callable[[dict[str, Any]], str]]]] = {
    **dict.fromkeys(
        ("points", "divergence", "unbalanced", "grid", "barycenter", "exact", "quadratic"), _FAMILY
    ),
    **dict.fromkeys(("batch", "pairs", "warm"), _FAMILY_EACH),
    "ragged": [
        ("problems", "r", lambda r: str(r["problems"])),
        ("aitken batch", "r", lambda r: seconds(r["each"])),
        ("two threads", "r", lambda r: seconds(r["two"])),
        ("aitken loop", "r", lambda r: seconds(r["loop"])),
        ("POT loop", "r", lambda r: seconds(r["pot"])),
        ("× ours", "r", lambda r: _form(r["ratio_pot"], ".3g")),
        ("emd loop", "r", lambda r: seconds(r["emd"])),
        ("× ours", "r", lambda r: _form(r["ratio_emd"], ".3g")),
        ("error", "r", lambda r: _form(r["err"], ".1e")),
        ("POT's", "r", lambda r: _form(r["err_pot"], ".1e")),
    ],
    "gradients": [
        ("solve", "r", _time_of),
        ("gradient", "r", lambda r: seconds(r["back"]["median"])),
        ("over the solve", "r", lambda r: _form(r["ratio"], ".2f")),
        ("error", "r", lambda r: _form(r["err"], ".1e")),
    ],
}


def _families(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"problems": [problem for problem in data["problems"] if "part" in problem]}


def transport_families(data: dict[str, Any]) -> str:
    """Every solver of every batch, set, cloud and image, and the targets."""
    found = _families(data)
    return _parts(found, _OT) if found["problems"] else "Not measured.\n"


def transport_many(data: dict[str, Any]) -> str:
    """One line per family: our seconds, and how many times longer the best of each peer's solvers takes."""
    rows = []
    for problem in _families(data)["problems"]:
        if problem["part"] in ("gradients", "warm"):
            continue
        if problem["part"] == "ragged":
            r = problem["rows"][-1]
            first, ratios = r, {"POT": [r["ratio_pot"]], "POT emd": [r["ratio_emd"]]}
        else:
            # A threshold or a size may keep the first row from its certificate; then the next of ours leads.
            timed = [r for r in problem["rows"] if r["each"]]
            if not timed or len(problem["rows"]) == 1 or all(r["kind"] == "ours" for r in problem["rows"]):
                continue
            first, ratios = timed[0], {}
            for r in timed:
                if r["kind"] == "peer":
                    name = "POT emd" if "emd" in r["solver"] else r["solver"].split()[0].rstrip(",")
                    ratios.setdefault(name, []).append(r["each"] / first["each"])
        cells = []
        for name in ("POT", "OTT-JAX", "GeomLoss", "POT emd"):
            tried = name in ratios or any(
                r["solver"].startswith(name) and r["kind"] == "peer"
                for r in problem["rows"]
                if name == "POT emd" or "emd" not in r["solver"]
            )
            cells.append(
                _ratio(min(ratios[name]), 1.0) if name in ratios else "not reached" if tried else "-"
            )
        rows.append([problem["name"], first["solver"], seconds(first["each"]), *cells])
    header = ["problem", "solver", "each", "POT", "OTT-JAX", "GeomLoss", "POT emd (reg = 0)"]
    return _markdown(header, rows, "llrrrrr") if rows else "Not measured.\n"


_DEEPCG: dict[str, list[tuple[str, str, Callable[[dict[str, Any]], str]]]] = {
    "solve": _APART,
    "network": _APART,
    "smoke": _APART[2:],
    "counts": [
        (name.removeprefix("aitken "), "r", _cells(name))
        for name in ("aitken mg", "aitken mg_v", "aitken W, Jacobi", "aitken V, Jacobi", "aitken learned_mg")
    ],
    "safety": [
        ("iterations", "r", lambda r: _form(r["nit"], "d")),
        ("over CG's", "r", lambda r: _form(r["nit"] and r["nit"] / r["cg"], ".2f")),
        ("with fallback", "r", lambda r: _form(r["with_fallback"], "d")),
    ],
    "batch": [
        ("time", "r", _time_of),
        ("each", "r", lambda r: seconds(r["each"])),
        ("× first", "r", lambda r: _form(r["ratio"], ".3g")),
        ("residual", "r", lambda r: _form(r["err"], ".1e")),
    ],
    "threads": [
        ("set-up", "r", lambda r: seconds(r["setup"]["median"])),
        ("two threads", "r", lambda r: seconds(r["setup_two"]["median"]) if r["setup_two"] else "-"),
        ("solve", "r", _time_of),
        ("two threads", "r", lambda r: seconds(r["two"]["median"]) if r["two"] else "-"),
        ("gain", "r", lambda r: _form(r["gain"], ".2f")),
    ],
}


def _total(r: dict[str, Any] | None, first: dict[str, Any]) -> str:
    """Set-up and solve as a multiple of the first row's."""
    return "-" if r is None else _ratio(r["total"], first["total"]) if r["total"] else "not solved"


def _named(problem: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {r["solver"]: r for r in problem["rows"]}


def deepcg_networks(data: dict[str, Any]) -> str:
    """Iterations to 1e-4 and seconds of the published network beside multigrid and conjugate gradients."""
    rows = []
    for problem in data["problems"]:
        if problem["part"] != "network":
            continue
        by_name = _named(problem)
        net = next(r for r in problem["rows"] if "dcdm" in r["solver"])
        published = by_name[f"{net['solver'].partition(',')[0]}, as published"]
        solvers = [by_name["aitken mg"], net, published, by_name["aitken MIC(0)"], by_name["aitken CG"]]
        counts = [str(r["nit"]) if r["total"] else "-" for r in solvers]
        times = [_total(r, solvers[0]) for r in (net, by_name["aitken MIC(0)"], by_name["aitken CG"])]
        name = problem["name"].removeprefix("network ")
        rows.append([name, *counts, _time_of(solvers[0]), *times])
    header = ["system", "mg", "network", "as published", "MIC(0)", "CG"]
    return _markdown([*header, "time of mg", "× network", "× MIC(0)", "× CG"], rows, "lrrrrrrrrr")


def deepcg_counts(data: dict[str, Any]) -> str:
    """Iterations of the cycles, obstacle by obstacle."""
    rows = []
    names = ("aitken mg", "aitken mg_v", "aitken W, Jacobi", "aitken V, Jacobi", "aitken learned_mg")
    for problem in data["problems"]:
        if problem["part"] == "counts":
            grid = problem["name"].removeprefix("counts ")
            rows += [
                [f"{grid} {r['solver']}", *(r["cells"][name] for name in names)] for r in problem["rows"]
            ]
    header = ["grid", *(name.removeprefix("aitken ") for name in names)]
    return _markdown(header, rows, "lrrrrr")


def deepcg_summary(data: dict[str, Any]) -> str:
    """Our seconds for single systems, and how many times longer others take; the smoke's steps."""
    rows, smoke = [], []
    for problem in data["problems"]:
        by_name, first = _named(problem), problem["rows"][0]
        if problem["part"] == "solve":
            sines = next(r for r in problem["rows"] if r["solver"].startswith("SciPy sine"))
            amg = [r for r in problem["rows"] if r["solver"].startswith("PyAMG") and r["total"]]
            others = [by_name.get(f"aitken {name}") for name in ("learned_mg", "MIC(0)", "CG")]
            others += [by_name.get("SciPy cg"), sines, min(amg, key=lambda r: r["total"]) if amg else None]
            time = f"{seconds(first['setup']['median'])} + {_time_of(first)} ({first['nit']})"
            rows.append([problem["name"].removeprefix("solve "), time, *(_total(r, first) for r in others)])
        elif problem["part"] == "smoke":
            times = [f"{r['solver']} {1e3 * r['total']:.3g} ms" for r in problem["rows"] if r["seconds"]]
            smoke.append(f"- {problem['name']} steps, time per step: {', '.join(times)}\n")
    header = ["system", "aitken mg: set-up + solve (iterations)", "learned_mg", "MIC(0)", "CG", "SciPy's CG"]
    text = _markdown([*header, "sine transform", "PyAMG"], rows, "lrrrrrrr")
    return f"{text}\n{''.join(smoke)}"


def deepcg_full(data: dict[str, Any]) -> str:
    """Every solver of every part, and the targets."""
    return _parts(data, _DEEPCG)


TABLES: dict[str, dict[str, Callable[[dict[str, Any]], str]]] = {
    "ot": {
        "summary": summary,
        "full": full,
        "many": transport_many,
        "families": transport_families,
        "machine": machine,
    },
    "krylov": {
        "short": krylov_short,
        "summary": krylov_summary,
        "full": krylov_full,
        "machine": krylov_machine,
        "datagen": krylov_datagen,
    },
    "relaxation": {
        "summary": relaxation_summary,
        "full": relaxation_full,
        "machine": machine_facts,
    },
    "completion": {
        "summary": completion_summary,
        "full": completion_full,
        "machine": machine_facts,
    },
    "optimize": {
        "summary": optimize_summary,
        "full": optimize_full,
        "machine": machine_facts,
    },
    "deepcg": {
        "summary": deepcg_summary,
        "networks": deepcg_networks,
        "counts": deepcg_counts,
        "full": deepcg_full,
        "machine": machine_facts,
    },
}


def render_into(text: str, data: dict[str, Any]) -> str:
    """Return `text` with every block of this benchmark filled anew."""

    def fill(match: re.Match[str]) -> str:
        start, stem, name, old, end = match.groups()
        return f"{start}{TABLES[stem][name](data) if stem == data['bench'] else old}{end}"

    return _BLOCK.sub(fill, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="FILE.json")
    parser.add_argument("--into", nargs="+", metavar="FILE.md", default=[])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a block is out of date"
    )
    args = parser.parse_args()
    data = json.loads(Path(args.results).read_text(encoding="utf-8"))
    if not args.into:
        print("\n".join(table(data) for table in TABLES[data["bench"]].values()))
    stale = []
    for name in args.into:
        path = Path(name)
        old = path.read_text(encoding="utf-8")
        new = render_into(old, data)
        if new != old:
            stale.append(name)
            if not args.check:
                path.write_text(new, encoding="utf-8")
    if args.check and stale:
        print(f"out of date: {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
