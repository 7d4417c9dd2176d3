"""``aitken demo``: each system on real work beside SciPy and, where installed, its peers.

Every row of a table is held to the same certificate, recomputed from the answer that was returned: the L1
error of both marginals of a plan, the relative residual of a linear system, the error in what was missing
from a matrix, the optimality conditions of a minimum. Pictures go into one HTML file that needs nothing else.
"""

from __future__ import annotations

import functools
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import datasets, get_num_threads, info, ot
from . import completion, deepcg, krylov, optimize, relaxation
from .figures import import_pot

TOL = 1e-9


@dataclass
class Row:
    """One line of the table."""

    solver: str
    seconds: float
    err: float
    cost: float
    note: str = ""

    def ok(self) -> bool:
        """Whether the recomputed certificate holds."""
        return self.err <= TOL


@dataclass
class Case:
    """One problem, what was solved of it, and the pictures it leads to."""

    title: str
    problem: Any  # a datasets.TransportProblem
    rows: list[Row] = field(default_factory=list)
    result: Any = None


def l1_error(plan: Any, p: Any) -> float:
    """L1 error of both marginals of a dense plan."""
    with np.errstate(all="ignore"):
        return float(np.abs(plan.sum(axis=1) - p.a).sum() + np.abs(plan.sum(axis=0) - p.b).sum())


def tightened(solve: Callable[[float], dict[str, Any]], tol: float, stop: float) -> Iterator[dict[str, Any]]:
    """Solve with smaller and smaller thresholds `stop` until the sample's ``"err"`` is at most `tol`.

    For solvers that stop on another quantity than the certificate. Ends early once that no longer helps.
    """
    best = np.inf
    for _ in range(8):
        sample = solve(stop)
        yield sample
        if sample["err"] <= tol or not sample["err"] < 0.9 * best:
            return
        best = sample["err"]
        stop *= max(0.05, min(0.8, 0.7 * tol / best))


def _ours(case: Case) -> None:
    p = case.problem
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.2 and len(times) < 20):
        r = ot.sinkhorn(p.a, p.b, p.M, p.reg, tol=TOL)
        times.append(r.time)
    case.result = r
    note = f"{r.nit_sinkhorn} Sinkhorn + {r.nit_newton} Newton steps"
    case.rows.append(Row("aitken", float(np.median(times)), l1_error(r.plan, p), r.value_linear, note))


def _pot(case: Case, limit: float) -> None:
    """POT's plain Sinkhorn (the fastest of its solvers where it converges), thresholds tightened."""
    pot = import_pot()
    p = case.problem

    def call(stop: float, iterations: int) -> tuple[Any, int, float]:
        start = time.perf_counter()
        plan, log = pot.sinkhorn(
            p.a, p.b, p.M, p.reg, numItermax=iterations, stopThr=stop, log=True, warn=False
        )
        return plan, int(log["niter"]) + 1, time.perf_counter() - start

    def solve(stop: float) -> dict[str, Any]:
        plan, nit, spent = call(stop, most)
        return {"plan": plan, "nit": nit, "seconds": spent, "err": l1_error(plan, p), "full": nit >= most}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with np.errstate(all="ignore"):
            call(0.0, 20)
            _, nit, spent = call(0.0, 200)
            most = max(1000, int(limit * nit / max(spent, 1e-9)))
            # An L1 norm is at most sqrt(m) times the 2-norm that POT stops on; 0.8 is its usual share.
            for sample in tightened(solve, TOL, TOL / (0.8 * np.sqrt(p.b.size))):
                if sample["full"]:
                    break
    note = f"{sample['nit']} Sinkhorn iterations"
    if sample["err"] > TOL:
        note += f", ended after {limit:g} s" if sample["full"] else ", numerical breakdown"
    elif not np.isfinite(sample["err"]):
        note += ", numerical breakdown"
    cost = float((sample["plan"] * p.M).sum())
    case.rows.append(Row("POT sinkhorn", sample["seconds"], sample["err"], cost, note))


def _batch(fast: bool, with_pot: bool) -> Case:
    """Many small problems in one call, beside a loop of POT's Sinkhorn; the worst error of all counts."""
    p = datasets.random_batch(24 if fast else 64, 64)
    count = len(p.M)
    case = Case(f"{count} random problems of 64 x 64, reg = 1e-2", p)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.2 and len(times) < 20):
        r = ot.sinkhorn_batch(p.a, p.b, p.M, p.reg, tol=TOL)
        times.append(r.time)
    problems = [datasets.TransportProblem("", p.a[k], p.b[k], p.M[k], p.reg) for k in range(count)]
    err = max(l1_error(plan, q) for plan, q in zip(r.plan, problems, strict=True))
    note = f"one call; {r.nit_sinkhorn.mean():.0f} Sinkhorn + {r.nit_newton.mean():.1f} Newton steps each"
    case.rows.append(Row("aitken batch", float(np.median(times)), err, float(r.value_linear.sum()), note))
    case.result = r
    if not with_pot:
        return case
    pot = import_pot()

    def solve(q: Any, stop: float) -> dict[str, Any]:
        start = time.perf_counter()
        plan = pot.sinkhorn(q.a, q.b, q.M, q.reg, numItermax=100_000, stopThr=stop, warn=False)
        spent = time.perf_counter() - start
        return {"seconds": spent, "err": l1_error(plan, q), "cost": float((plan * q.M).sum())}

    done = []
    for q in problems:
        *_, last = tightened(functools.partial(solve, q), TOL, TOL / (0.8 * np.sqrt(q.b.size)))
        done.append(last)
    spent, cost = (sum(s[key] for s in done) for key in ("seconds", "cost"))
    case.rows.append(Row("POT sinkhorn, loop", spent, max(s["err"] for s in done), cost, "last runs alone"))
    return case


def _assignment(case: Case) -> None:
    """SciPy's assignment solver: the limit reg -> 0 for uniform weights on a square problem."""
    from scipy.optimize import linear_sum_assignment

    p = case.problem
    start = time.perf_counter()
    rows, cols = linear_sum_assignment(p.M)
    spent = time.perf_counter() - start
    plan = np.zeros(p.shape)
    plan[rows, cols] = 1.0 / p.a.size
    note = "exact for reg = 0; no gradient, no potentials"
    case.rows.append(Row("SciPy assignment", spent, l1_error(plan, p), float((plan * p.M).sum()), note))


def _linear_program(case: Case) -> None:
    """SciPy's linear program (HiGHS): the limit reg -> 0."""
    from scipy import sparse
    from scipy.optimize import linprog

    p = case.problem
    n, m = p.shape
    marginals = sparse.vstack(
        [sparse.kron(sparse.eye_array(n), np.ones((1, m))), sparse.kron(np.ones((1, n)), sparse.eye_array(m))]
    ).tocsr()
    start = time.perf_counter()
    # One of the n + m equations follows from the others.
    lp = linprog(p.M.ravel(), A_eq=marginals[:-1], b_eq=np.concatenate([p.a, p.b])[:-1], method="highs")
    spent = time.perf_counter() - start
    plan = lp.x.reshape(n, m)
    case.rows.append(
        Row("SciPy linprog (HiGHS)", spent, l1_error(plan, p), float(lp.fun), "exact for reg = 0")
    )


def _table(cases: list[Case]) -> str:
    header = ("problem", "solver", "time", "L1 error", "<M, P>", "x ours", "remarks")
    lines: list[tuple[str, ...]] = [header]
    for case in cases:
        ours = case.rows[0].seconds
        for k, row in enumerate(case.rows):
            ratio = "" if k == 0 else f"{row.seconds / ours:.1f}" if row.ok() else "-"
            lines.append(
                (
                    case.title if k == 0 else "",
                    row.solver,
                    _seconds(row.seconds),
                    f"{row.err:.1e}",
                    f"{row.cost:.6f}",
                    ratio,
                    row.note,
                )
            )
    return _aligned(lines)


def _aligned(lines: list[tuple[str, ...]]) -> str:
    """Text columns under the header that comes first; the figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for k, cells in enumerate(lines):
        parts = (
            c.rjust(w) if 2 <= i <= 5 else c.ljust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        text.append("  ".join(parts).rstrip())
        if k == 0:
            text.append("  ".join("-" * w for w in widths))
    return "\n".join(text)


def _seconds(t: float) -> str:
    return f"{t:.2f} s" if t >= 1 else f"{1e3 * t:.1f} ms"


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _cases(fast: bool) -> tuple[list[Case], list[str]]:
    """The problems that can be made here, and what is missing for the others."""
    n = 300 if fast else 500
    lap = datasets.random_assignment(n, reg=1 / 1200)
    cases = [Case(f"random assignment, n = {n}, reg = 1/1200", lap)]
    missing = []
    try:
        pixels = 500 if fast else 1500
        cases.append(
            Case(
                f"colours of two photographs, n = {pixels}, reg = 1e-3",
                datasets.photo_colours(pixels, reg=1e-3),
            )
        )
        digits = datasets.digits_pair(0, 5, reg=1e-3)
        cases.append(
            Case(
                f"digits {digits.info['labels'][0]} and {digits.info['labels'][1]}, 64 bins, reg = 1e-3",
                digits,
            )
        )
    except ImportError as error:
        missing.append(str(error).replace("`photo_colours` ", "the photographs: aitken.datasets "))
        points = 500 if fast else 1500
        cases.append(
            Case(f"Gaussian clouds, n = {points}, reg = 1e-3", datasets.gaussian_clouds(points, reg=1e-3))
        )
    return cases, missing


def run(*, fast: bool = False, html: str | None = "aitken-demo.html") -> int:
    """Run the demonstration.

    Parameters
    ----------
    fast : bool
        Smaller problems, under 15 s on two cores; else under 60 s.
    html : str or None
        Where the report with the pictures goes; needs matplotlib.

    Returns
    -------
    int
        0 if every answer of ours met its certificate, else 1.
    """
    start = time.perf_counter()
    facts = info()
    head = f"aitken {facts['aitken']}, SIMD level {facts['simd']['level']}, {get_num_threads()} threads"
    print(f"{head}\nEntropic optimal transport; certificate ||P1 - a||_1 + ||P^T 1 - b||_1 <= {TOL:g}\n")
    cases, missing = _cases(fast)
    with_pot = _has("ot")
    if not with_pot:
        missing.append("POT, the peer, is not installed: pip install 'aitken[demo]'")
    for case in cases:
        print(f"  {case.title} ...", flush=True)
        _ours(case)
        if with_pot:
            _pot(case, limit=1.5 if fast else 10.0)
        n, m = case.problem.shape
        uniform = n == m and np.ptp(case.problem.a) == 0 == np.ptp(case.problem.b)
        if uniform:
            _assignment(case)
        elif n * m <= 10_000:
            _linear_program(case)
    print("  a batch of small problems ...", flush=True)
    cases.append(_batch(fast, with_pot))
    table = _table(cases)
    print(f"\n{table}\n")
    print("Sequences of linear systems; certificate ||b - A x||_2 <= 1e-8 ||b||_2\n")
    with_pyamg = _has("pyamg")
    if not with_pyamg:
        missing.append("PyAMG, a peer, is not installed: pip install 'aitken[demo]'")
    sequences = krylov.sequences(fast)
    for sequence in sequences:
        print(f"  {sequence.title} ...", flush=True)
        krylov.solve(sequence, limit=0.5 if fast else 2.0, with_pyamg=with_pyamg)
    linear = _aligned(krylov.table_lines(sequences))
    print(f"\n{linear}\n")
    print("A matrix that changes at every step: SSOR-CG with an omega learned online; the same certificate\n")
    heat = relaxation.steps(fast)
    print(f"  {heat.title} ...", flush=True)
    relaxation.solve(heat, limit=0.15 if fast else 1.5, with_pyamg=with_pyamg)
    relaxed = _aligned(relaxation.table_lines(heat))
    print(f"\n{relaxed}\n")
    print("Smoke on a grid whose obstacle moves: a pressure at every step; ||b - A p||_2 <= 1e-6 ||b||_2\n")
    smoke = deepcg.case(fast)
    print(f"  {smoke.title} ...", flush=True)
    deepcg.solve(smoke, limit=0.15 if fast else 1.5, with_pyamg=with_pyamg)
    pressures = _aligned(deepcg.table_lines(smoke))
    print(f"\n{pressures}\n")
    print("A matrix of which half is missing, completed by one of rank 30; errors are of what was missing\n")
    gaps = completion.picture(fast)
    print(f"  {gaps.title} ...", flush=True)
    completion.solve(gaps, fast=fast, with_sklearn=_has("sklearn"))
    completed = _aligned(completion.table_lines(gaps))
    print(f"\n{completed}\n")
    print(
        "Minimisation under constraints; certificate ||g + J'l||_inf <= 1e-6 with multipliers l of least "
        "squares, and ||c||_inf <= 1e-6\n"
    )
    minima, left_out = optimize.cases(fast)
    missing += left_out
    with_ipopt = _has("cyipopt")
    if not with_ipopt:
        missing.append("Ipopt, a peer, is not installed: pip install cyipopt-wheels")
    for minimum in minima:
        print(f"  {minimum.title} ...", flush=True)
        optimize.solve(minimum, with_ipopt=with_ipopt)
    minimised = _aligned(optimize.table_lines(minima))
    print(f"\n{minimised}\n")
    if not _has("matplotlib"):
        missing.append("matplotlib, for the pictures, is not installed: pip install 'aitken[demo]'")
    elif html:
        from . import report

        report.write(
            html,
            head,
            report.transport(cases, table, fast=fast, with_pot=with_pot)
            + report.linear_systems(sequences, linear)
            + report.heat_equation(heat, relaxed)
            + report.smoke(smoke, pressures)
            + report.matrix_with_gaps(gaps, completed)
            + report.constrained_minima(minima, minimised, fast=fast),
        )
        print(f"report with pictures: {html}")
    for line in missing:
        print(f"left out - {line}")
    print(f"{time.perf_counter() - start:.1f} s")
    ours: list[Any] = [case.rows[0] for case in cases] + [*sequences, heat, smoke, gaps, *minima]
    return 0 if all(part.ok() for part in ours) else 1
