"""SOR, SSOR-CG and tuned parameters against the peers: the same systems, the same true residual.

Parts, each of which ``--only`` can pick by the name of its problems:

- ``sweeps``: nanoseconds per row of one sweep, beside a product with the matrix and PyAMG's sweep, in cache
  and beyond it, on one thread and two.
- ``step``, ``poisson``, ``rough``: seconds for one system, set-up included, from the same start. Every
  answer has to meet ``||b - A x||_2 <= rtol * ||b||_2``, recomputed here; a peer that stops on another
  quantity gets a smaller tolerance until that holds. "Analysed" rows keep what depends on the pattern alone,
  as every step of a sequence does; SciPy's and PyAMG's solvers keep nothing.
- ``batch``: ten thousand small systems.
- ``heat``: 1000 steps whose matrix changes: iterations and seconds in all, for fixed omegas and tuners.
- ``policies``: the same tuners, and Optuna, on one table of costs: sweeps per system.
- ``overhead``: microseconds that a tuner takes per system.

    python bench/relaxation.py --quick                          # under a minute
    python bench/relaxation.py --json bench/results/FILE.json   # about fifteen minutes
    python bench/relaxation.py --only heat --update --json FILE # some problems again
    python bench/relaxation.py --device cuda                    # ours with CuPy arrays, and CuPy's cg
"""

from __future__ import annotations

import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import _harness as harness  # noqa: E402

if "numpy" not in sys.modules:
    harness.pin_threads()

import numpy as np  # noqa: E402
from scipy import fft, sparse  # noqa: E402
from scipy.sparse import linalg as sla  # noqa: E402

import aitken  # noqa: E402
from aitken import linalg  # noqa: E402
from aitken.datasets import HeatSequence  # noqa: E402
from aitken.linalg._operators import as_system  # noqa: E402
from aitken.tune import BanditTuner  # noqa: E402
from tests.relaxation import problems  # noqa: E402

# One thread: its own seconds, which other load on the machine does not lengthen. Else the wall's.
_clock = time.process_time if harness.early_threads() == 1 else time.perf_counter
PEERS = {"pyamg": "pyamg", "optuna": "optuna"}
DISTRIBUTIONS = ("pyamg", "optuna", "threadpoolctl")
RTOL = 1e-8
GRID = np.linspace(1.0, 1.95, 20)

Row = dict[str, Any]


def row(solver: str, kind: str, **values: Any) -> Row:
    """One line of a table; `seconds` is a timing's JSON or None."""
    return {"solver": solver, "kind": kind, "seconds": None, "err": None, "note": ""} | values


def target(text: str, value: float, wanted: float, *, least: bool = False) -> dict[str, Any]:
    """A figure beside what it should be at most, or with `least` at least."""
    met = value >= wanted if least else value <= wanted
    return {"against": text, "value": value, "wanted": wanted, "least": least, "met": bool(met)}


def measure(work: Callable[[], Any], budget: float, repeats: int = 25) -> tuple[harness.Timing, Any]:
    """Times of `work` within about `budget` seconds, and what it returned last."""
    timing = harness.Timing()
    result = work()
    while not timing.runs or (sum(timing.runs) < budget and len(timing.runs) < repeats):
        start = _clock()
        result = work()
        timing.runs.append(_clock() - start)
    return timing, result


# -------------------------------------------------------------------------------------------------- sweeps


def per_unit(work: Callable[[int], Any], few: int, many: int, repeats: int) -> float:
    """Seconds of one of the units that ``work(count)`` does, without what a call costs."""
    work(few)
    times = {few: math.inf, many: math.inf}
    for _ in range(repeats):
        for count in (few, many):
            start = time.perf_counter()
            work(count)
            times[count] = min(times[count], time.perf_counter() - start)
    return (times[many] - times[few]) / (many - few)


def own_sweep(A: Any, b: Any, order: str, check_every: int | None, threads: int) -> Callable[[int], Any]:
    solver = linalg.RelaxationSolver(
        "sor", rtol=0.0, order=order, check_every=check_every, n_threads=threads, maxiter=1
    )
    solver.solve(A, b)
    return lambda count: solver.solve(A, b, omega=1.5, maxiter=count, check_finite=False)


def own_product(A: Any, x: Any, threads: int) -> Callable[[int], Any]:
    handle = as_system(A).handle
    X, Y = np.asfortranarray(x[:, None]), np.empty((len(x), 1), order="F")

    def work(count: int) -> None:
        aitken.set_num_threads(threads)
        for _ in range(count):
            handle.apply(X, Y)

    return work


def sweeps(side: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """Nanoseconds per row of products and sweeps with the five-point matrix."""
    A = problems.laplacian(side)
    n = A.shape[0]
    b = np.random.default_rng(0).standard_normal(n)
    small = n < 100_000
    few, many, repeats = (50, 450, 9) if small else (2, 22, 5)
    never = 1_000_000
    ours = {
        "product": lambda t: own_product(A, b, t),
        "natural order": lambda t: own_sweep(A, b, "natural", never, t),
        "natural order, residual in every sweep": lambda t: own_sweep(A, b, "natural", None, t),
        "red-black, stencil": lambda t: own_sweep(A, b, "redblack", never, t),
        "red-black, stencil, residual in every sweep": lambda t: own_sweep(A, b, "redblack", None, t),
        "multicolour": lambda t: own_sweep(A, b, "multicolor", never, t),
    }

    def repeat(work: Callable[[], Any]) -> Callable[[int], Any]:
        def many_times(count: int) -> None:
            for _ in range(count):
                work()

        return many_times

    peers: dict[str, Callable[[int], Any]] = {"SciPy product": repeat(lambda: A @ b)}
    if "pyamg" in found:
        relaxation = __import__("pyamg.relaxation.relaxation", fromlist=["sor"])
        x = np.zeros(n)
        M = sparse.csr_matrix(A)
        peers["PyAMG sor"] = lambda count: relaxation.sor(M, x, b, 1.5, iterations=count)
        peers["PyAMG gauss_seidel"] = lambda count: relaxation.gauss_seidel(M, x, b, iterations=count)
    rows = []
    bandwidth = [harness.triad(t) for t in (1, 2)] if not small else [0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixed number of sweeps does not converge
        for name, make in ours.items():
            times = [per_unit(make(t), few, many, repeats) for t in (1, 2)]
            rows.append(row(f"aitken {name}", "ours", ns=1e9 * times[0] / n, ns_two=1e9 * times[1] / n))
        aitken.set_num_threads(args.threads)
        for name, work in peers.items():
            rows.append(row(name, "peer", ns=1e9 * per_unit(work, few, many, repeats) / n, ns_two=None))
    by_name = {r["solver"]: r for r in rows}
    product, scipys = by_name["aitken product"]["ns"], by_name["SciPy product"]["ns"]
    for r in rows:
        r["ratio"], r["ratio_scipy"] = r["ns"] / product, r["ns"] / scipys
        if r["ns_two"]:
            r["note"] = f"two threads x{r['ns'] / r['ns_two']:.2f}"
    goals = []
    for name, wanted in {"aitken natural order": 1.0, "aitken red-black, stencil": 0.4}.items():
        r = by_name[name]
        if small:
            goals.append(target(f"{name} over SciPy's product", r["ratio_scipy"], wanted))
            goals.append(target(f"{name} over our product", r["ratio"], wanted))
        elif bandwidth[1] > 0.95 * bandwidth[0]:  # else something else was running
            gain = r["ns"] / r["ns_two"] / (bandwidth[1] / bandwidth[0])
            goals.append(target(f"{name}: gain of two threads over triad's", gain, 0.85, least=True))
    return {
        "name": f"sweeps n={n}", "n": n, "part": "sweeps", "rows": rows, "targets": goals,
        "triad_gbs": bandwidth if not small else None,
        "text": "five-point matrix, nanoseconds per row; ratios to our product and SciPy's"
        + ("" if small else f"; triad {bandwidth[0]:.0f} and {bandwidth[1]:.0f} GB/s"),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- single systems


def tuned_omega(A: Any, b: Any, x0: Any, rounds: int = 40) -> float:
    """What a tuner without context plays after so many solves."""
    tuner = BanditTuner(list(GRID), method="gp", rng=0)
    solver = linalg.RelaxationSolver("ssor_cg", rtol=RTOL)
    for _ in range(rounds):
        tuner.observe(float(solver.solve(A, b, x0, omega=tuner.suggest()).nit))
    return float(tuner.best())


def sine_transform(A: Any, b: Any) -> Any:
    """Solve with a constant five-point matrix on a square: its eigenvectors are sines."""
    side = math.isqrt(len(b))
    k = np.arange(1, side + 1)
    wave = 2.0 - 2.0 * np.cos(math.pi * k / (side + 1))
    off = -A[0, 1]
    eigenvalues = A[0, 0] - 4.0 * off + off * (wave[:, None] + wave)
    spectrum = fft.dstn(b.reshape(side, side), type=1, workers=1) / eigenvalues
    return fft.idstn(spectrum, type=1, workers=1).ravel()


def peers_of(
    A: Any, b: Any, x0: Any, found: dict[str, Any], *, box: bool, ready: bool
) -> dict[str, Callable[[float], Any]]:
    """Each peer as a function of its own tolerance that returns x, and iterations where it has some.

    With `ready` also those of which the set-up is not timed.
    """

    def counted(call: Callable[[Callable[[Any], Any]], Any]) -> Any:
        seen = [0]

        def count(_: Any) -> None:
            seen[0] += 1

        return call(count), seen[0]

    C, M = A.tocsc(), sparse.csr_matrix(A)
    peers: dict[str, Callable[[float], Any]] = {
        "SciPy cg": lambda tol: counted(lambda cb: sla.cg(A, b, x0, rtol=tol, atol=0.0, callback=cb)[0]),
        "SuperLU": lambda tol: (sla.splu(C).solve(b), None),
        "SuperLU, symmetric": lambda tol: (
            sla.splu(
                C, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            ).solve(b),
            None,
        ),
    }
    if "pyamg" in found:
        pyamg = found["pyamg"]

        def amg(tol: float) -> Any:
            levels = pyamg.ruge_stuben_solver(M)
            return counted(lambda cb: levels.solve(b, x0=x0, tol=tol, accel="cg", maxiter=200, callback=cb))

        peers["PyAMG RS + cg"] = amg
        if ready:
            hierarchy = pyamg.ruge_stuben_solver(M)
            peers["PyAMG RS + cg, set up before"] = lambda tol: counted(
                lambda cb: hierarchy.solve(b, x0=x0, tol=tol, accel="cg", maxiter=200, callback=cb)
            )
    if ready:
        factor = sla.splu(
            C, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        peers["SuperLU, factored before"] = lambda tol: (factor.solve(b), None)
    if box:
        peers["sine transform"] = lambda tol: (sine_transform(A, b), None)
    return peers


def ours_of(
    A: Any, b: Any, x0: Any, omegas: dict[str, Any], *, box: bool
) -> dict[str, Callable[[float], Any]]:
    """Our solvers as functions of a tolerance; one solver object is kept where the name says analysed."""
    kept = linalg.RelaxationSolver("ssor_cg", rtol=RTOL)
    plain = linalg.RelaxationSolver("ssor_cg", rtol=RTOL, eisenstat=False)
    other = A.copy()
    other.data = other.data * (1 + 1e-12)  # other values, so that they are laid out anew in every solve
    turn = [A, other]

    def analysed(solver: Any, omega: Any) -> Callable[[float], Any]:
        def solve(_: float) -> Any:
            turn.reverse()
            r = solver.solve(turn[0], b, x0, omega=omega)
            return r.x, r.nit

        return solve

    def fresh(function: Any, **options: Any) -> Callable[[float], Any]:
        def solve(tol: float) -> Any:
            r = function(A, b, x0, rtol=tol, **options)
            return r.x, r.nit

        return solve

    tuned = omegas["tuned"]
    out = {
        "aitken ssor_cg, tuned, analysed": analysed(kept, tuned),
        "aitken ssor_cg, tuned": fresh(linalg.ssor_cg, omega=tuned),
        "aitken ssor_cg, tuned, with products, analysed": analysed(plain, tuned),
    }
    for name, omega in omegas.items():
        if name != "tuned":
            out[f"aitken ssor_cg, {name}, analysed"] = analysed(kept, omega)
    if len(b) < 100_000 and box:
        for order, omega in (("redblack", 1.0), ("multicolor", tuned), ("blocks", tuned)):
            solver = linalg.RelaxationSolver("ssor_cg", rtol=RTOL, order=order)
            out[f"aitken ssor_cg, order={order}, omega={omega:.2f}, analysed"] = analysed(solver, omega)
    out["aitken cg"] = fresh(linalg.cg, atol=0.0)
    return out


def single(
    name: str, part: str, A: Any, b: Any, x0: Any, found: dict[str, Any], args: Any, *, box: bool, text: str
) -> dict[str, Any]:
    """Time to solution of one system."""
    budget = 0.05 if args.quick else 0.6
    omegas = {"tuned": tuned_omega(A, b, x0), "omega=1": 1.0, "omega=1.5": 1.5, "Young's omega": "young"}
    if part == "rough":
        omegas["Axelsson's omega"] = "axelsson"
    rows = []
    norm = float(np.linalg.norm(b))
    solvers = {
        "ours": ours_of(A, b, x0, omegas, box=box),
        "peer": peers_of(A, b, x0, found, box=box, ready=part == "poisson"),
    }
    for kind, those in solvers.items():
        for who, solve in those.items():
            rows.append(
                _timed_row(who, kind, solve, lambda x: float(np.linalg.norm(b - A @ x)) / norm, budget)
            )
            if "tuned" in who:
                rows[-1]["omega"] = omegas["tuned"]
                rows[-1]["note"] = f"omega = {omegas['tuned']:.2f}"
    mine = rows[0]["seconds"]["median"] if rows[0]["seconds"] else None
    for r in rows:
        r["ratio"] = r["seconds"]["median"] / mine if r["seconds"] and mine else None
    return {"name": name, "part": part, "n": len(b), "rows": rows, "targets": [], "text": text}


def _timed_row(
    who: str, kind: str, solve: Callable[[float], Any], residual: Callable[[Any], float], budget: float
) -> Row:
    """Times at the largest tolerance of the solver's own whose answer meets the common one."""
    tol, err = RTOL, math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(6):
            x, nit = solve(tol)
            err = residual(x)
            if err <= RTOL:
                break
            tol *= 0.5 * RTOL / err
        if err > RTOL:
            return row(who, kind, err=err, nit=nit, note="residual not reached")
        timing, (x, nit) = measure(lambda: solve(tol), budget)
    note = f"own tolerance {tol:.1e}" if tol < RTOL else ""
    return row(who, kind, seconds=timing.to_json(), nit=nit, err=residual(x), note=note)


def heat_step(nx: int, kappa: float, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """The eleventh step at constant diffusivity, from the tenth's solution."""
    heat = HeatSequence(nx, 11, diffusivity=lambda t: kappa)
    A = heat.matrix(0)
    solve = sla.splu(A.tocsc()).solve
    u = heat.u0
    for i in range(10):
        u = solve(heat.system(i, u)[1])
    A, b = heat.system(10, u)
    problem = single(
        f"step n={heat.n} kappa={kappa:g}", "step", A, b, u, found, args, box=True,
        text="one implicit heat step, dt = 1e-3, from the last solution; x first: over the first row",
    )  # fmt: skip
    times = {r["solver"]: r["ratio"] for r in problem["rows"] if r["ratio"]}
    for name in ("SciPy cg", "SuperLU", "SuperLU, symmetric", "PyAMG RS + cg"):
        if name in times:
            problem["targets"].append(target(f"{name} over ours", times[name], 1.0, least=True))
    return problem


def steady(side: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    A, b = problems.poisson(side)
    return single(
        f"poisson n={side * side}", "poisson", A, b, np.zeros(side * side), found, args, box=True,
        text="steady Poisson equation, random right-hand side, from zero",
    )  # fmt: skip


def rough(kind: str, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """Rough coefficients, and nine points, on 60 x 60 points."""
    A = {
        "jump 1:1000": lambda: problems.diffusion(problems.jump_coefficient()),
        "lognormal": lambda: problems.diffusion(problems.lognormal_coefficient()),
        "nine-point": lambda: problems.nine_point(60),
    }[kind]()
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    problem = single(
        f"rough {kind}", "rough", A, b, np.zeros(len(b)), found, args, box=False,
        text="60 x 60 points, random right-hand side, from zero",
    )  # fmt: skip
    solver = linalg.RelaxationSolver("ssor_cg", rtol=RTOL)
    counts = [solver.solve(A, b, omega=w).nit for w in GRID]
    best = int(np.argmin(counts))
    note = f"omega = {GRID[best]:.2f}"
    problem["rows"].append(row("best on the grid", "ours", nit=counts[best], ratio=None, note=note))
    tuned = problem["rows"][0]["nit"]
    if tuned:
        problem["targets"].append(
            target("tuned over best on the grid, iterations", tuned / min(counts), 1.08)
        )
    return problem


# --------------------------------------------------------------------------------------------------- batch


def batch(count: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """Independent shifted Laplacians with n = 100, each with Young's omega of its own."""
    A, shifts, B = problems.shifted_laplacians("high", count)
    omega = young_omegas(shifts)
    budget = 0.3 if args.quick else 2.0
    norms = np.linalg.norm(B, axis=1)

    def worst(X: Any) -> float:
        R = B[: len(X)] - X @ A.T - shifts[: len(X), None] * X
        return float((np.linalg.norm(R, axis=1) / norms[: len(X)]).max())

    def ours(threads: int) -> Any:
        return linalg.sor_batch(A, B, omega=omega, shift=shifts, rtol=RTOL, n_threads=threads)

    few = min(count, 200 if args.quick else 1000)
    eye = sparse.eye_array(100, format="csr")
    systems = [sparse.csr_matrix(A + c * eye) for c in shifts[:few]]
    dense = [M.toarray() for M in systems]
    rows = []
    timing, r = measure(lambda: ours(args.threads), budget)
    rows.append(
        row(
            "aitken sor_batch, Young's omega", "ours", seconds=_each(timing, count), nit=float(r.nit.mean()),
            err=worst(r.X),
        )
    )  # fmt: skip
    fixed, r = measure(
        lambda: linalg.sor_batch(A, B, omega=1.8, shift=shifts, rtol=RTOL, n_threads=args.threads), budget
    )
    rows.append(
        row("aitken sor_batch, omega=1.8", "ours", seconds=_each(fixed, count), nit=float(r.nit.mean()),
            err=worst(r.X))
    )  # fmt: skip

    def loop(solve: Callable[[int], Any]) -> Callable[[], Any]:
        return lambda: np.array([solve(i) for i in range(few)])

    peers: dict[str, Callable[[], Any]] = {
        "SuperLU, one by one": loop(lambda i: sla.splu(systems[i].tocsc()).solve(B[i])),
        "NumPy dense solve, stacked": lambda: np.linalg.solve(np.array(dense), B[:few, :, None])[..., 0],
        "SciPy cg, one by one": loop(lambda i: sla.cg(systems[i], B[i], rtol=0.5 * RTOL, atol=0.0)[0]),
    }
    if "pyamg" in found:
        relaxation = __import__("pyamg.relaxation.relaxation", fromlist=["sor"])

        def pyamg_sor(i: int) -> Any:
            x, M = np.zeros(100), systems[i]
            for _ in range(10_000):
                relaxation.sor(M, x, B[i], float(omega[i]), iterations=4)
                if np.linalg.norm(B[i] - M @ x) <= RTOL * norms[i]:
                    break
            return x

        peers["PyAMG sor, one by one, tested every 4 sweeps"] = loop(pyamg_sor)
    for name, work in peers.items():
        timing, X = measure(work, budget)
        err = worst(X)
        note = "" if few == count else f"from {few} systems"
        if err > RTOL:
            rows.append(row(name, "peer", err=err, nit=None, note="residual not reached"))
        else:
            rows.append(row(name, "peer", err=err, nit=None, seconds=_each(timing, few), note=note))
    mine = rows[0]["seconds"]["median"]
    for r in rows:
        r["ratio"] = r["seconds"]["median"] / mine if r["seconds"] else None
    return {
        "name": f"batch {count} x n=100", "part": "batch", "n": 100, "count": count, "rows": rows,
        "targets": [], "text": "five points plus a shift, seconds per system",
    }  # fmt: skip


def _each(timing: harness.Timing, count: int) -> dict[str, Any]:
    return harness.Timing([t / count for t in timing.runs]).to_json()


# --------------------------------------------------------------------------------------------------- tuners


def young_omegas(shifts: Any, m: int = 10) -> Any:
    """Best omega of SOR for the five-point matrix of m x m points plus each shift."""
    mu = math.cos(math.pi / (m + 1)) * 4.0 / (4.0 + np.asarray(shifts))
    return 2.0 / (1.0 + np.sqrt(1.0 - mu**2))


def tuners(box: tuple[float, float], rng: int, *, bins: int, log: bool) -> dict[str, Callable[[], Any]]:
    """The tuners by name; those with a context get that of the system."""
    arms = list(GRID)
    positive = {"context_transform": "log"} if log else {}
    lo = (max(box[0], 1e-3), box[1]) if log else box
    return {
        "Tsallis-INF, RV": lambda: BanditTuner(arms, method="tsallis", estimator="rv", rng=rng),
        "Tsallis-INF, IW": lambda: BanditTuner(arms, method="tsallis", estimator="iw", rng=rng),
        "Thompson": lambda: BanditTuner(arms, method="thompson", rng=rng),
        "GP, no context": lambda: BanditTuner(arms, method="gp", rng=rng),
        f"Tsallis-INF, {bins} bins": lambda: BanditTuner(
            arms, method="tsallis-cb", context=box, bins=bins, rng=rng
        ),
        "ChebCB": lambda: BanditTuner(arms, method="chebcb", context=box, rng=rng),
        "GP": lambda: BanditTuner(arms, method="gp", context=lo, rng=rng, **positive),
    }


def with_context(name: str) -> bool:
    return name in ("ChebCB", "GP") or name.endswith("bins")


def heat(nx: int, count: int, args: Any) -> dict[str, Any]:
    """Iterations of SSOR-CG over a whole sequence, by policy; each follows its own trajectory."""
    systems = HeatSequence(nx, count)
    box = (float(systems.contexts.min()), float(systems.contexts.max()))
    known = HEAT_COUNTS.get((nx, count), {})
    rows: list[Row] = []

    def walk(solve: Callable[[Any, Any, Any], Any]) -> tuple[int, float, float]:
        u, nit, seconds, worst = systems.u0, 0, 0.0, 0.0
        for i in range(count):
            A, b = systems.system(i, u)
            start = _clock()
            r = solve(A, b, u)
            seconds += _clock() - start
            u = r.x
            nit += r.nit
            worst = max(worst, float(np.linalg.norm(b - A @ u) / np.linalg.norm(b)))
        return nit, seconds, worst

    def add(name: str, kind: str, nit: float, seconds: float, err: float | None, note: str = "") -> None:
        timing = harness.Timing([seconds]).to_json()
        rows.append(row(name, kind, nit=nit, seconds=timing, err=err, known=known.get(name), note=note))

    def scipy_cg(A: Any, b: Any, x0: Any) -> Any:
        steps = [0]

        def count_it(_: Any) -> None:
            steps[0] += 1

        x, _ = sla.cg(A, b, x0, rtol=RTOL, atol=0.0, callback=count_it)
        return linalg_like(x, steps[0])

    add("SciPy cg", "peer", *walk(scipy_cg))
    add("CG", "ours", *walk(lambda A, b, u: linalg.cg(A, b, u, rtol=RTOL, atol=0.0)))
    fixed = {}
    chosen = sorted({1.0, 1.3, 1.5, 1.75, 1.95} | (set() if args.quick else set(map(float, GRID.round(2)))))
    for w in chosen:
        solver = linalg.RelaxationSolver("ssor_cg", rtol=RTOL)
        fixed[w] = walk(lambda A, b, u, s=solver, w=w: s.solve(A, b, u, omega=w))
        if w in (1.0, 1.3, 1.5, 1.75, 1.95):
            add(f"omega={w:g}", "ours", *fixed[w])
    best = min(fixed, key=lambda w: fixed[w][0])
    add("best fixed omega", "ours", *fixed[best], note=f"{best:g} of {len(fixed)}, in hindsight")
    for name, make in tuners(box, 0, bins=6, log=True).items():
        trials = [0] if args.quick or name.startswith("GP") else [0, 1, 2]
        results = []
        for trial in trials:
            tuner = make() if trial == 0 else tuners(box, trial, bins=6, log=True)[name]()
            results.append(tuned_walk(systems, count, tuner, with_context(name)))
        nit = float(np.mean([r[0] for r in results]))
        seconds = float(np.median([r[1] for r in results]))
        spread = float(np.std([r[0] for r in results]))
        note = f"{len(trials)} trials, spread {spread:.0f}" if len(trials) > 1 else ""
        add(name, "ours", nit, seconds, max(r[2] for r in results), note)
    every = 10 if args.quick else 1
    add("best omega in every step", "bound", *hindsight(systems, count, best, every), err=None,
        note=f"on the grid, every {every}th step" if every > 1 else "on the grid")  # fmt: skip
    by_name = {r["solver"]: r for r in rows}
    for r in rows:
        r["ratio"] = r["nit"] / by_name["best fixed omega"]["nit"]
    goals = [
        target(f"{name}: iterations over those of the best fixed omega", by_name[name]["ratio"], 1.0)
        for name in ("ChebCB", "GP")
    ]
    bound = by_name["best omega in every step"]["nit"]
    goals.append(target("GP over the best omega in every step", by_name["GP"]["nit"] / bound, 1.08))
    if (nx, count) == (100, 1000):
        goals.append(target("GP, iterations", by_name["GP"]["nit"], 10_600))
    return {
        "name": f"heat nx={nx} T={count}", "part": "heat", "n": systems.n, "count": count, "rows": rows,
        "targets": goals,
        "text": "iterations and seconds of all steps, each from the last solution; known: measured before",
    }  # fmt: skip


# Iterations of these policies as measured by an independent implementation.
HEAT_COUNTS: dict[tuple[int, int], dict[str, int]] = {
    (50, 1000): {
        "CG": 32761, "omega=1": 12129, "omega=1.3": 9820, "omega=1.5": 8738, "omega=1.75": 10038,
        "omega=1.95": 17772, "best fixed omega": 8400, "best omega in every step": 6880,
        "Tsallis-INF, IW": 9297, "Tsallis-INF, RV": 9058, "Tsallis-INF, 6 bins": 10004, "ChebCB": 7507,
        "GP": 7167,
    },
    (100, 1000): {
        "CG": 64860, "omega=1": 23474, "omega=1.3": 18040, "omega=1.5": 15364, "omega=1.75": 12687,
        "omega=1.95": 22371, "best fixed omega": 12560, "best omega in every step": 9780,
        "Tsallis-INF, IW": 13801, "Tsallis-INF, RV": 14520, "Tsallis-INF, 6 bins": 15472, "ChebCB": 10969,
        "Thompson": 16583, "GP": 10185,
    },
}  # fmt: skip


def linalg_like(x: Any, nit: int) -> Any:
    """A peer's answer with the two fields that are asked for."""
    from types import SimpleNamespace

    return SimpleNamespace(x=x, nit=nit)


def tuned_walk(systems: Any, count: int, tuner: Any, context: bool) -> tuple[float, float, float]:
    """Iterations, seconds without assembly, and worst relative residual, with a tuner in `solve_sequence`."""
    given: list[Any] = []
    other, worst = 0.0, 0.0

    def asked(i: int, previous: Any) -> Any:
        nonlocal other
        start = _clock()
        A, b, c = systems(i, previous)
        given[:] = [A, b]
        other += _clock() - start
        return (A, b, c) if context else (A, b)

    def judge(i: int, r: Any) -> None:
        nonlocal other, worst
        start = _clock()
        A, b = given
        worst = max(worst, float(np.linalg.norm(b - A @ r.x) / np.linalg.norm(b)))
        other += _clock() - start

    start = _clock()
    r = linalg.solve_sequence(
        asked, n_systems=count, solver="ssor_cg", tuner=tuner, rtol=RTOL, keep=False, callback=judge
    )
    return float(np.sum(r.costs)), _clock() - start - other, worst


def hindsight(systems: Any, count: int, omega: float, every: int) -> tuple[float, float]:
    """Sum over steps of the fewest iterations on the grid, along the trajectory of a fixed omega."""
    u, total, seconds = systems.u0, 0, 0.0
    solver = linalg.RelaxationSolver("ssor_cg", rtol=RTOL)
    for i in range(count):
        A, b = systems.system(i, u)
        if i % every == 0:
            start = _clock()
            total += min(solver.solve(A, b, u, omega=w).nit for w in GRID)
            seconds += _clock() - start
        u = solver.solve(A, b, u, omega=omega).x
    return float(total * every), seconds * every


def cost_table(kind: str, count: int, seed: int, threads: int) -> tuple[Any, Any, Any]:
    """Sweeps of each omega of the grid on each system (count, 20), the shifts, sweeps of Young's omegas."""
    A, shifts, B = problems.shifted_laplacians(kind if kind != "changing" else "high", count, seed)
    if kind == "changing":
        shifts = problems.changing_shifts(count, seed)

    def sweeps_of(omega: Any) -> Any:
        r = linalg.sor_batch(A, B, omega=omega, shift=shifts, rtol=RTOL, norm_ref="r0", n_threads=threads)
        return r.nit

    table = np.stack([sweeps_of(w) for w in GRID], axis=1)
    return table, shifts, sweeps_of(young_omegas(shifts))


def play(tuner: Any, table: Any, contexts: Any) -> Any:
    """Costs that a tuner pays on a table."""
    place = {float(w): j for j, w in enumerate(GRID)}
    costs = np.empty(len(table))
    for t in range(len(table)):
        omega = tuner.suggest(None if contexts is None else float(contexts[t]))
        costs[t] = table[t, place[float(omega)]]
        tuner.observe(float(costs[t]))
    return costs


def play_optuna(optuna: Any, table: Any, seed: int) -> Any:
    """The same with Optuna's TPE sampler, which asks and is told like a tuner."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="minimize")
    costs = np.empty(len(table))
    for t in range(len(table)):
        trial = study.ask()
        costs[t] = table[t, trial.suggest_int("arm", 0, table.shape[1] - 1)]
        study.tell(trial, float(costs[t]))
    return costs


# Mean sweeps of these policies as measured by an independent implementation.
POLICY_COSTS: dict[tuple[str, int], dict[str, float]] = {
    ("high", 5000): {
        "omega=1": 611, "omega=1.2": 406, "omega=1.4": 257, "omega=1.6": 151, "omega=1.8": 104,
        "best fixed omega": 103.7, "Tsallis-INF, IW": 124.7, "Tsallis-INF, RV": 120.4, "Thompson": 112.8,
        "Tsallis-INF, 5 bins": 102.0, "ChebCB": 66.4, "Young's omega of each": 56.2,
        "best omega of each": 58.6, "adaptive": 69.7,
    },
    ("high", 2000): {
        "omega=1": 611, "omega=1.2": 406, "omega=1.4": 257, "omega=1.6": 151, "omega=1.8": 104,
        "best fixed omega": 103.6, "Tsallis-INF, IW": 139.9, "Tsallis-INF, RV": 133.2, "Thompson": 125.5,
        "Tsallis-INF, 5 bins": 119.0, "ChebCB": 74.3, "GP, no context": 104.6, "GP": 72.3,
        "Young's omega of each": 56.3, "best omega of each": 58.8, "adaptive": 69.8,
    },
    ("low", 500): {
        "omega=1": 271, "omega=1.2": 178, "omega=1.4": 110, "omega=1.6": 62, "omega=1.8": 86,
        "best fixed omega": 58.4, "Tsallis-INF, IW": 90.2, "Tsallis-INF, RV": 88.4, "Thompson": 77.2,
        "Tsallis-INF, 5 bins": 91.0, "ChebCB": 58.6, "Young's omega of each": 41.9,
        "best omega of each": 43.3, "adaptive": 54.0,
    },
}  # fmt: skip


def policies(kind: str, count: int, trials: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """Mean sweeps per system of fixed omegas, tuners, Optuna and bounds, over independent trials."""
    costs: dict[str, list[Any]] = {}
    spent: dict[str, float] = {}
    kinds: dict[str, str] = {}

    def note(name: str, kind: str, values: Any, seconds: float | None = None) -> None:
        costs.setdefault(name, []).append(values)
        kinds[name] = kind
        if seconds is not None:
            spent[name] = spent.get(name, 0.0) + seconds

    A = problems.laplacian(10)
    for trial in range(trials):
        table, shifts, young = cost_table(kind, count, trial, args.threads)
        for w in (1.0, 1.2, 1.4, 1.6, 1.8):
            note(f"omega={w:g}", "fixed", table[:, np.argmin(np.abs(GRID - w))])
        note("best fixed omega", "fixed", table[:, table.mean(axis=0).argmin()])
        for name, make in tuners(problems.CONTEXT_BOX, trial, bins=5, log=False).items():
            start = _clock()
            paid = play(make(), table, shifts if with_context(name) else None)
            note(name, "ours", paid, _clock() - start)
        # Its own time grows with every trial that it remembers.
        if "optuna" in found and trial < (1 if count > 1000 else 3):
            start = _clock()
            paid = play_optuna(found["optuna"], table, trial)
            note("Optuna TPE", "peer", paid, _clock() - start)
        if trial == 0:
            B = problems.shifted_laplacians("high" if kind == "changing" else kind, count, trial)[2]
            some = range(0, count, max(1, count // 200))
            solver = linalg.RelaxationSolver("sor", rtol=RTOL, norm_ref="r0")
            nit = [solver.solve(A, B[i], omega="adaptive", shift=float(shifts[i])).nit for i in some]
            note("adaptive", "ours", np.array(nit))
        note("Young's omega of each", "bound", young)
        note("best omega of each", "bound", table.min(axis=1))
    rows = []
    known = POLICY_COSTS.get((kind, count), {})
    best = float(np.mean([c.mean() for c in costs["best fixed omega"]]))
    for name, paid in costs.items():
        means = [float(c.mean()) for c in paid]
        micro = 1e6 * spent[name] / (len(paid) * count) if name in spent else None
        halves = None
        if kind == "changing" and name != "adaptive":
            halves = [float(np.mean([c[: count // 2].mean() for c in paid])),
                      float(np.mean([c[count // 2 :].mean() for c in paid]))]  # fmt: skip
        rows.append(
            row(
                name, kinds[name], cost=float(np.mean(means)), spread=float(np.std(means)), trials=len(paid),
                ratio=float(np.mean(means)) / best, micro=micro, known=known.get(name), halves=halves,
                note="" if halves is None else f"halves {halves[0]:.1f}, {halves[1]:.1f}",
            )
        )  # fmt: skip
    by_name = {r["solver"]: r for r in rows}
    goals = []
    if kind == "changing":
        goals.append(target("GP without context, second half", by_name["GP, no context"]["halves"][1], 130))
    else:
        if count >= 1000:
            for name in ("ChebCB", "GP"):
                goals.append(target(f"{name} over the best fixed omega", by_name[name]["ratio"], 1.0))
        if (kind, count) == ("high", 5000):
            goals.append(target("ChebCB, sweeps", by_name["ChebCB"]["cost"], 70))
    return {
        "name": f"policies {kind} T={count}", "part": "policies", "n": 100, "count": count, "rows": rows,
        "targets": goals, "text": "shifted Laplacians, n = 100: mean sweeps per system; known: from before",
    }  # fmt: skip


def overhead(args: Any) -> dict[str, Any]:
    """Microseconds of one suggestion and one observation, after a thousand of them."""
    rows = []
    rng = np.random.default_rng(0)
    contexts = rng.random(3000) * 0.6 - 0.15
    for name, make in tuners(problems.CONTEXT_BOX, 0, bins=5, log=False).items():
        tuner = make()

        def steps(those: Iterable[float], tuner: Any = tuner, name: str = name) -> None:
            for c in those:
                omega = tuner.suggest(float(c) if with_context(name) else None)
                tuner.observe(50.0 + 100.0 * abs(omega - 1.6))

        steps(contexts[:1000])
        runs = []
        for k in range(1000, 3000, 200):
            start = _clock()
            steps(contexts[k : k + 200])
            runs.append((_clock() - start) / 200)
        rows.append(row(name, "ours", seconds=harness.Timing(runs).to_json()))
    worst = max(r["seconds"]["median"] for r in rows)
    return {
        "name": "overhead", "part": "overhead", "n": len(GRID), "rows": rows,
        "targets": [target("slowest tuner, microseconds a system", 1e6 * worst, 20.0)],
        "text": "20 arms, 16 or 5 context cells; suggest and observe called from Python",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- tables


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


_SECONDS = [
    ("min", lambda r: harness.seconds(r["seconds"]["min"]) if r["seconds"] else "-"),
    ("median", lambda r: harness.seconds(r["seconds"]["median"]) if r["seconds"] else "-"),
]
_ERR = ("residual", lambda r: _number(r["err"], ".1e"))
_NIT = ("iterations", lambda r: _number(r.get("nit"), ".4g"))
_NOTE = ("remarks", lambda r: r["note"])
_ONE = [*_SECONDS, _NIT, _ERR, ("x first", lambda r: _number(r["ratio"], ".3g")), _NOTE]
COLUMNS: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "sweeps": [
        ("ns/row", lambda r: _number(r["ns"], ".2f")),
        ("2 threads", lambda r: _number(r["ns_two"], ".2f")),
        ("x product", lambda r: _number(r["ratio"], ".2f")),
        ("x SciPy's", lambda r: _number(r["ratio_scipy"], ".2f")),
        _NOTE,
    ],
    "step": _ONE,
    "poisson": _ONE,
    "rough": _ONE,
    "batch": _ONE,
    "heat": [
        ("iterations", lambda r: _number(r["nit"], ".0f")),
        ("known", lambda r: _number(r.get("known"), ".0f")),
        ("x best fixed", lambda r: _number(r["ratio"], ".2f")),
        ("seconds", lambda r: harness.seconds(r["seconds"]["median"])),
        _ERR,
        _NOTE,
    ],
    "policies": [
        ("sweeps", lambda r: _number(r["cost"], ".1f")),
        ("known", lambda r: _number(r["known"], ".1f")),
        ("spread", lambda r: _number(r["spread"], ".1f")),
        ("trials", lambda r: str(r["trials"])),
        ("x best fixed", lambda r: _number(r["ratio"], ".2f")),
        ("us a step", lambda r: _number(r["micro"], ".1f")),
        _NOTE,
    ],
    "overhead": [*_SECONDS, _NOTE],
}


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


def parts(quick: bool, found: dict[str, Any], args: Any) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every problem by name."""
    out: dict[str, Callable[[], dict[str, Any]]] = {"overhead": lambda: overhead(args)}
    for side in (100, 1000) if quick else (100, 2000):
        out[f"sweeps n={side * side}"] = lambda side=side: sweeps(side, found, args)
    for nx in (100, 200):
        for kappa in (0.1, 1.0, 10.0):
            if not quick or nx == 100:
                out[f"step n={(nx - 1) ** 2} kappa={kappa:g}"] = lambda nx=nx, kappa=kappa: heat_step(
                    nx, kappa, found, args
                )
    for side in (99,) if quick else (99, 199, 399, 799):
        out[f"poisson n={side * side}"] = lambda side=side: steady(side, found, args)
    for kind in ("jump 1:1000",) if quick else ("jump 1:1000", "lognormal", "nine-point"):
        out[f"rough {kind}"] = lambda kind=kind: rough(kind, found, args)
    many = 1000 if quick else 10_000
    out[f"batch {many} x n=100"] = lambda: batch(many, found, args)
    for nx, count in ((50, 1000),) if quick else ((50, 1000), (100, 1000)):
        out[f"heat nx={nx} T={count}"] = lambda nx=nx, count=count: heat(nx, count, args)
    for kind, count, trials in (
        (("high", 1000, 2),)
        if quick
        else (
            ("high", 1000, 20),
            ("high", 2000, 20),
            ("high", 5000, 20),
            ("low", 500, 20),
            ("changing", 1000, 20),
        )
    ):
        out[f"policies {kind} T={count}"] = lambda kind=kind, count=count, trials=trials: policies(
            kind, count, trials, found, args
        )
    return out


def run_cpu(args: Any, report: harness.Report) -> None:
    found, report.missing = harness.import_peers(PEERS)
    for name in report.missing:
        print(f"peer missing: {name}")
    aitken.set_num_threads(args.threads)
    for order, (name, make) in enumerate(parts(args.quick, found, args).items()):
        if not re.search(args.only, name):
            continue
        with harness.blas_threads(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            problem = make() | {"order": order, "rtol": RTOL}
        show(problem)
        report.add(problem)
        report.save()


# ----------------------------------------------------------------------------------------------------- GPU


def walled(solve: Callable[[], Any], args: Any) -> tuple[harness.Timing, Any]:
    """Seconds of the wall, to the end of the stream's work, and what came last."""
    import cupy

    out: list[Any] = []

    def work() -> None:
        out[:] = [solve()]
        cupy.cuda.get_current_stream().synchronize()

    timing = harness.timed(work, repeats=7, budget=0.5 if args.quick else 3.0)
    return timing, out[0]


def gpu_batch(cupy: Any, count: int, m: int, args: Any) -> list[Row]:
    """Shifted Laplacians, all in one launch; and on the CPU."""
    from cupyx.scipy import sparse as there

    A, rng = problems.laplacian(m), np.random.default_rng(0)
    shifts, B = rng.uniform(0.0, 0.4, count), rng.standard_normal((count, m * m))
    omega = young_omegas(shifts, m)
    norms = np.linalg.norm(B, axis=1)

    def line(name: str, kind: str, matrix: Any, rhs: Any) -> Row:
        timing, r = walled(lambda: linalg.sor_batch(matrix, rhs, omega=omega, shift=shifts, rtol=RTOL), args)
        X = np.asarray(r.X if kind == "cpu" else r.X.get())
        err = float((np.linalg.norm(B - X @ A.T - shifts[:, None] * X, axis=1) / norms).max())
        return row(name, kind, seconds=_each(timing, count), nit=float(r.nit.mean()), err=err)

    return [
        line("aitken sor_batch (cuda)", "ours", there.csr_matrix(A), cupy.asarray(B)),
        line("aitken sor_batch (cpu)", "cpu", A, B),
    ]


def gpu_single(cupy: Any, method: str, side: int, order: str, args: Any) -> list[Row]:
    """One system, set-up included: its pattern is analysed on the host in every call."""
    from cupyx.scipy import sparse as there
    from cupyx.scipy.sparse import linalg as peer

    A = problems.laplacian(side)
    b, shift = np.random.default_rng(0).standard_normal(A.shape[0]), 0.05
    omega = float(young_omegas(np.array([shift]), side)[0])
    A_gpu, b_gpu = there.csr_matrix(A), cupy.asarray(b)
    shifted = (A_gpu + shift * there.identity(A.shape[0], format="csr")).tocsr()

    def line(name: str, kind: str, solve: Callable[[], Any]) -> Row:
        timing, r = walled(solve, args)
        x = np.asarray(r[0] if kind == "cpu" else r[0].get())
        err = float(np.linalg.norm(b - A @ x - shift * x) / np.linalg.norm(b))
        return row(name, kind, seconds=timing.to_json(), nit=getattr(r, "nit", None), err=err)

    own = getattr(linalg, method)
    options: dict[str, Any] = {"omega": omega, "shift": shift, "rtol": RTOL}
    rows = [
        line(f"aitken {method}, {order} (cuda)", "ours", lambda: own(A_gpu, b_gpu, order=order, **options)),
        line(f"aitken {method} (cpu)", "cpu", lambda: own(A, b, **options)),
    ]
    if method == "ssor_cg":
        # CuPy's tolerance is relative to b; half of it covers the drift of its recurrence.
        rows.append(line("CuPy cg", "peer", lambda: peer.cg(shifted, b_gpu, tol=0.5 * RTOL, atol=0.0)))
    return rows


def run_cuda(args: Any, report: harness.Report) -> None:
    import cupy

    print(f"GPU: {cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}\n")
    sides = (200, 500) if args.quick else (200, 500, 1000, 2000)
    todo: dict[str, Callable[[], list[Row]]] = {
        f"batch {count} x n={m * m}": lambda count=count, m=m: gpu_batch(cupy, count, m, args)
        for count, m in ((10_000, 5), (10_000, 10), (1000, 30), (200, 60))
    }
    for method, order in (("sor", "redblack"), ("ssor_cg", "natural"), ("ssor_cg", "blocks")):
        for side in sides:
            todo[f"{method} {order} n={side * side}"] = lambda method=method, order=order, side=side: (
                gpu_single(cupy, method, side, order, args)
            )
    lines = []
    for place, (name, make) in enumerate(todo.items()):
        if not re.search(args.only, name):
            continue
        rows = make()
        ours = rows[0]["seconds"]["median"]
        for r in rows:
            r["ratio"] = r["seconds"]["median"] / ours
            lines.append(
                [
                    name,
                    r["solver"],
                    harness.seconds(r["seconds"]["min"]),
                    harness.seconds(r["seconds"]["median"]),
                    "" if r["nit"] is None else f"{r['nit']:.1f}",
                    f"{r['err']:.1e}",
                    f"{r['ratio']:.2f}",
                ]
            )
        report.add({"name": name, "order": place, "part": "gpu", "rows": rows, "targets": [], "text": ""})
        report.save()
    head = ["problem", "solver", "min", "median", "iterations", "residual", "time / ours"]
    print(harness.table(head, lines))


def main() -> int:
    args = harness.arguments(__doc__ or "")
    if args.device == "cuda":
        gpu = aitken.info()["gpu"]
        if not gpu["available"]:
            print(f"no GPU to measure on: {gpu['reason']}", file=sys.stderr)
            return harness.NO_DEVICE
    report = harness.Report("relaxation", args, DISTRIBUTIONS)
    run: Callable[[Any, harness.Report], None] = run_cuda if args.device == "cuda" else run_cpu
    run(args, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
