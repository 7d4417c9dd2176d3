"""Poisson equations on grids with obstacles against the peers: the same matrix, the same true residual.

Parts, each of which ``--only`` can pick by the name of its problems:

- ``solve``: one system, set-up and solve apart, to ``||b - A x||_2 <= rtol * ||b||_2``, recomputed here. A
  peer that stops on another quantity gets a smaller tolerance until that holds.
- ``counts``: iterations of the multigrid cycles over grids, obstacles and right-hand sides.
- ``network``: the published network beside multigrid, iterations and seconds.
- ``safety``: models that are wrong, without and with the fallback, in iterations of conjugate gradients.
- ``batch``: many right-hand sides for one grid.
- ``threads``: one thread and two.
- ``smoke``: every pressure equation of a plume that passes a moving ball.

    python bench/deepcg.py --quick                          # under a minute
    python bench/deepcg.py --json bench/results/FILE.json   # about twenty minutes
    python bench/deepcg.py --only 'solve 64' --update --json FILE
"""

from __future__ import annotations

import functools
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
from scipy import fft, ndimage, sparse  # noqa: E402
from scipy.sparse import linalg as sla  # noqa: E402

import aitken  # noqa: E402
from aitken import linalg  # noqa: E402
from aitken.datasets import obstacle_mask, poisson_rhs  # noqa: E402
from aitken.datasets.poisson import apply_poisson  # noqa: E402

# One thread: its own seconds, which other load on the machine does not lengthen. Else the wall's.
_clock = time.process_time if harness.early_threads() == 1 else time.perf_counter
PEERS = {"pyamg": "pyamg"}
DISTRIBUTIONS = ("pyamg", "threadpoolctl")

Row = dict[str, Any]
# What each row of ours is called, and its model.
OURS: dict[str, Any] = {
    "aitken mg": "mg",
    "aitken mg_v": "mg_v",
    "aitken W, Jacobi": linalg.Multigrid("W", smoother="jacobi"),
    "aitken V, Jacobi": linalg.Multigrid("V", smoother="jacobi"),
    "aitken learned_mg": "learned_mg",
}
OTHERS_OF_OURS: dict[str, Any] = {
    "aitken MIC(0)": "mic0",
    "aitken fft": "fft",
    "aitken CG": "identity",
}
FIRST = "aitken mg"


def row(solver: str, kind: str, **values: Any) -> Row:
    """One line of a table; `seconds` and `setup` are timings' JSON or None."""
    return {
        "solver": solver, "kind": kind, "seconds": None, "setup": None, "total": None, "nit": None,
        "err": None, "ratio": None, "note": "",
    } | values  # fmt: skip


def target(text: str, value: float, wanted: float, *, least: bool = False) -> dict[str, Any]:
    """A figure beside what it should be at most, or with `least` at least."""
    met = value >= wanted if least else value <= wanted
    return {"against": text, "value": value, "wanted": wanted, "least": least, "met": bool(met)}


def measure(
    work: Callable[[], Any], budget: float, repeats: int = 15, clock: Callable[[], float] | None = None
) -> tuple[harness.Timing, Any]:
    """Times of `work` within about `budget` seconds, and what it returned last.

    The first run only warms up, unless it takes the whole budget.
    """
    clock = clock or _clock
    runs: list[float] = []
    result = None
    while len(runs) < repeats + 1 and (len(runs) < 2 or sum(runs) < budget):
        result = None  # frees memory before the next run takes it again
        start = clock()
        result = work()
        runs.append(clock() - start)
        if runs[0] > budget:
            break
    return harness.Timing(runs[1:] or runs), result


# --------------------------------------------------------------------------------------------------- systems


def shape_of(text: str) -> tuple[int, ...]:
    """``"64^2"`` as (64, 64), ``"45x70"`` as (45, 70)."""
    if "^" in text:
        n, d = text.split("^")
        return (int(n),) * int(d)
    return tuple(map(int, text.split("x")))


@functools.lru_cache(maxsize=4)
def mask(grid: str, obstacle: str) -> Any:
    """The fluid cells; `obstacle` may carry a corridor, and pockets without a way out are filled.

    Without pockets every system is positive definite, as the peers need it.
    """
    kind, _, corridor = obstacle.partition("(")
    options = {"corridor": int(corridor.rstrip(")"))} if corridor else {}
    fluid = obstacle_mask(kind, shape_of(grid), **options)
    label, count = ndimage.label(fluid)
    open_ones = np.zeros(count + 1, dtype=bool)
    for a in range(fluid.ndim):
        ends = np.take(label, (0, -1), axis=a)
        open_ones[np.unique(ends)] = True
    open_ones[0] = False
    return open_ones[label]


class System:
    """One grid with a right-hand side, for all solvers."""

    def __init__(self, grid: str, obstacle: str, kind: str) -> None:
        self.name = f"{grid} {obstacle} {kind}"
        self.grid, self.obstacle, self.kind = grid, obstacle, kind
        self.fluid = mask(grid, obstacle)
        self.full = poisson_rhs(kind, self.fluid)
        self.b = self.full[self.fluid]
        self.norm = float(np.linalg.norm(self.b))

    @functools.cached_property
    def matrix(self) -> Any:
        """A on the fluid cells alone, for the peers."""
        return sparse.csr_matrix(linalg.GridPoisson(self.fluid.shape, self.fluid).tocsr())

    def residual(self, x: Any) -> float:
        """``||b - A x|| / ||b||`` with differences taken here; x on the grid or on its fluid cells."""
        p = np.zeros(self.fluid.shape)
        p[self.fluid] = x if x.ndim == 1 else x[self.fluid]
        r = self.full - apply_poisson(self.fluid, p)
        return float(np.linalg.norm(r)) / self.norm


# --------------------------------------------------------------------------------------------------- solvers

Prepared = tuple[
    Callable[[], Any], Callable[[Any, float], tuple[Any, Any]]
]  # set-up; (state, rtol) -> x, nit


def ours(system: System, model: Any, maxiter: int | None = None, **options: Any) -> Prepared:
    """Set-up from the flags on, and a solve with what it made."""

    def setup() -> Any:
        return linalg.prepare(linalg.GridPoisson(system.fluid.shape, system.fluid), model, **options)

    def solve(state: Any, rtol: float) -> tuple[Any, Any]:
        r = state.solve(system.full, rtol=rtol, maxiter=maxiter)
        return r.x, r.nit

    return setup, solve


def counted(call: Callable[[Callable[[Any], Any]], Any]) -> tuple[Any, int]:
    """What ``call(callback)`` returns, and how often it called back."""
    seen = [0]

    def count(_: Any) -> None:
        seen[0] += 1

    return call(count), seen[0]


def scipy_cg(system: System, preconditioner: Callable[[Any], Any] | None = None) -> Prepared:
    """SciPy's cg on the csr matrix, with a preconditioner made by the set-up."""
    A, b = system.matrix, system.b

    def setup() -> Any:
        return None if preconditioner is None else preconditioner(A)

    def solve(M: Any, rtol: float) -> tuple[Any, Any]:
        most = 100 * max(system.fluid.shape)
        return counted(lambda cb: sla.cg(A, b, rtol=rtol, atol=0.0, M=M, maxiter=most, callback=cb)[0])

    return setup, solve


def sine_inverse(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """The inverse of the whole box's matrix: its eigenvectors are sines."""
    axes = [2.0 - 2.0 * np.cos(math.pi * np.arange(1, n + 1) / (n + 1)) for n in shape]
    eigenvalues = functools.reduce(np.add.outer, axes)

    def apply(f: Any) -> Any:
        return fft.idstn(fft.dstn(f, type=1) / eigenvalues, type=1)

    return apply


def sine_transform(system: System) -> Prepared:
    """SciPy's sine transform: a direct solver without obstacles, else a preconditioner of SciPy's cg."""
    fluid = system.fluid
    if fluid.all():
        return (lambda: sine_inverse(fluid.shape)), (lambda apply, rtol: (apply(system.full), None))

    def make(A: Any) -> Any:
        apply = sine_inverse(fluid.shape)
        room = np.zeros(fluid.shape)

        def inside(r: Any) -> Any:
            room[fluid] = r.ravel()
            return apply(room)[fluid]

        return sla.LinearOperator(A.shape, inside, dtype=np.float64)

    return scipy_cg(system, make)


def peers(system: System, found: dict[str, Any]) -> dict[str, Prepared]:
    """The solvers of others."""
    out: dict[str, Prepared] = {
        "SciPy cg": scipy_cg(system),
        "SciPy sine transform" + ("" if system.fluid.all() else " + cg"): sine_transform(system),
    }
    if "pyamg" in found:
        pyamg = found["pyamg"]
        makers = {"SA": pyamg.smoothed_aggregation_solver, "RS": pyamg.ruge_stuben_solver}
        for name, make in makers.items():
            out[f"PyAMG {name} + cg"] = scipy_cg(system, lambda A, make=make: make(A).aspreconditioner())
    return out


def timed_row(
    system: System, who: str, kind: str, solver: Prepared, rtol: float, budget: float, limit: float = math.inf
) -> Row:
    """Set-up and solve at the largest tolerance of the solver's own whose answer meets the common one."""
    setup, solve = solver
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            making, state = measure(setup, budget)
        except Exception as error:  # a model that does not fit says so in the table
            return row(who, kind, note=f"{type(error).__name__}: {error}"[:70])
        if making.median > limit:
            return row(who, kind, setup=making.to_json(), note=f"set-up above {limit:g} s")
        tol, err, nit = rtol, math.inf, None
        for _ in range(4):
            start = _clock()
            x, nit = solve(state, tol)
            timing = harness.Timing([_clock() - start])
            err = system.residual(np.asarray(x))
            if err <= rtol:
                break
            tol *= 0.5 * rtol / err if math.isfinite(err) else 0.1
        if not err <= rtol:
            err = err if math.isfinite(err) else None  # type: ignore[assignment]
            return row(who, kind, setup=making.to_json(), err=err, nit=nit, note="residual not reached")
        if timing.median < budget:
            timing, (x, nit) = measure(lambda: solve(state, tol), budget)
    return row(
        who, kind, seconds=timing.to_json(), setup=making.to_json(), total=timing.median + making.median,
        nit=nit, err=system.residual(np.asarray(x)), note=f"own tolerance {tol:.1e}" if tol < rtol else "",
    )  # fmt: skip


def add_ratios(rows: list[Row]) -> None:
    """Seconds with set-up over those of the first row."""
    first = rows[0]["total"]
    for r in rows:
        r["ratio"] = r["total"] / first if r["total"] and first else None


# --------------------------------------------------------------------------------------------------- parts

TIMED = (
    # The targets' own grids first.
    ("64^3", "none", "white", 1e-4),
    ("128^3", "none", "white", 1e-4),
    ("64^3", "multi", "divergence", 1e-6),
    ("128^3", "multi", "divergence", 1e-6),
    ("32^3", "ball", "dipole", 1e-6),
    ("32^3", "maze(7)", "divergence", 1e-6),
    ("64^3", "random30", "white", 1e-6),
    ("64^2", "multi", "divergence", 1e-6),
    ("128^2", "multi", "white", 1e-6),
    ("128^2", "maze(7)", "white", 1e-6),
    ("128^2", "maze(3)", "white", 1e-6),
    ("128^2", "random30", "white", 1e-6),
    ("256^2", "none", "divergence", 1e-6),
    ("256^2", "ball", "dipole", 1e-6),
    ("256^2", "multi", "divergence", 1e-6),
    ("512^2", "multi", "white", 1e-6),
    ("512^2", "maze(7)", "divergence", 1e-6),
    ("512^2", "random30", "white", 1e-6),
    ("1024^2", "none", "white", 1e-6),
    ("1024^2", "multi", "divergence", 1e-6),
)
QUICK_TIMED = (0, 7, 9, 11, 14)


def solve(
    grid: str, obstacle: str, kind: str, rtol: float, found: dict[str, Any], args: Any
) -> dict[str, Any]:
    """Time to solution of one system."""
    system = System(grid, obstacle, kind)
    budget = 0.1 if args.quick else 1.0
    solvers = [("ours", name, ours(system, model)) for name, model in (OURS | OTHERS_OF_OURS).items()]
    solvers += [("peer", name, solver) for name, solver in peers(system, found).items()]
    rows = [timed_row(system, name, group, solver, rtol, budget) for group, name, solver in solvers]
    add_ratios(rows)
    by_name = {r["solver"]: r for r in rows}
    goals = []
    for name, r in by_name.items():
        if name.startswith("PyAMG") and r["ratio"]:
            goals.append(target(f"{name} over mg, set-up included", r["ratio"], 5.0, least=True))
    mine = by_name[FIRST]
    if (obstacle, kind, rtol, args.threads) == ("none", "white", 1e-4, 1) and mine["seconds"]:
        if grid == "64^3":
            goals.append(target("mg, milliseconds", 1e3 * mine["seconds"]["median"], 45.0))
            goals.append(target("its set-up, milliseconds", 1e3 * mine["setup"]["median"], 10.0))
        elif grid == "128^3":
            goals.append(target("mg, seconds", mine["seconds"]["median"], 0.5))
    learned, v = by_name["aitken learned_mg"], by_name["aitken V, Jacobi"]
    if learned["seconds"] and v["seconds"]:
        share = learned["seconds"]["min"] / v["seconds"]["min"]
        goals.append(target("learned_mg over the same cycle unlearned, seconds without set-up", share, 1.0))
    return {
        "name": f"solve {system.name} {rtol:.0e}", "part": "solve", "n": len(system.b), "rtol": rtol,
        "rows": rows, "targets": goals,
        "text": f"{len(system.b)} fluid cells; ratios of set-up + solve to the first row",
    }  # fmt: skip


# Iterations to 1e-4 and 1e-6 that a cycle may take: white, else; and to 1e-6 in labyrinths, 128 x 128, white.
GOALS = {
    "aitken mg": ((5, 7), (6, 8)),
    "aitken W, Jacobi": ((5, 7), (6, 8)),
    "aitken learned_mg": ((5, 8), (5, 8)),
}
HARD = {"maze(7)": 20, "random30": 35, "maze(3)": 70}


def first_below(residuals: Any, bound: float) -> int | None:
    """Iterations until the residual's norm is at most `bound`."""
    below = np.flatnonzero(np.asarray(residuals) <= bound)
    return int(below[0]) if below.size else None


def counts(grid: str, args: Any) -> dict[str, Any]:
    """Iterations to 1e-4 and 1e-6 of the cycles, for all obstacles and right-hand sides of a grid."""
    rows, goals = [], []
    worst: dict[str, float] = {}
    small = math.prod(shape_of(grid)) <= 600**2  # labyrinths on larger grids take thousands of cycles
    for obstacle in ("none", "ball", "multi", *(HARD if small else ("random30",))):
        cells: dict[str, list[str]] = {name: [] for name in OURS}
        for kind in ("white", "dipole", "divergence"):
            system = System(grid, obstacle, kind)
            A = linalg.GridPoisson(system.fluid.shape, system.fluid)
            for name, model in OURS.items():
                r = linalg.prepare(A, model).solve(system.full, rtol=1e-6)
                near = first_below(r.residuals, 1e-4 * system.norm)
                cells[name].append(f"{near}/{r.nit}")
                good = r.converged and system.residual(np.asarray(r.x)) <= 1e-6
                if name in GOALS and obstacle not in HARD:
                    most = GOALS[name][kind != "white"]
                    excess = max(near - most[0], r.nit - most[1]) if good and near is not None else math.inf
                    worst[name] = max(worst.get(name, -math.inf), excess)
                elif name == FIRST and obstacle in HARD and (grid, kind) == ("128^2", "white"):
                    taken = r.nit if good else math.inf
                    goals.append(target(f"mg, iterations to 1e-6, {obstacle}", taken, HARD[obstacle]))
        rows.append(row(obstacle, "ours", cells={name: "  ".join(c) for name, c in cells.items()}))
    for name, excess in worst.items():
        goals.append(target(f"{name}, none, ball, multi: iterations above what is wanted", excess, 0))
    return {
        "name": f"counts {grid}", "part": "counts", "n": int(np.prod(shape_of(grid))), "rows": rows,
        "targets": goals, "text": "iterations to 1e-4/1e-6: white, dipole, divergence",
    }  # fmt: skip


NETWORKS = {2: ("dcdm2d",), 3: ("dcdm64",)}
# Iterations to 1e-4, white, that the network may take: none, ball, multi. In 2-D 1.25 times those of an
# earlier training.
NETWORK_GOALS = {
    "64^2": (12, 12, 22),
    "128^2": (17, 20, 33),
    "256^2": (45, 41, 58),
    "32^3": (12, 12, 12),
    "64^3": (25, 25, 46),
}
FLOPS_PER_CELL = {"dcdm2d": 44.1e3, "dcdm64": 121.9e3}


def network(grid: str, obstacle: str, kind: str, args: Any, sgemm: float) -> dict[str, Any]:
    """The network beside multigrid and conjugate gradients."""
    system = System(grid, obstacle, kind)
    budget = 0.1 if args.quick else 1.0
    rtol = 1e-4
    ndim = system.fluid.ndim
    models: dict[str, Prepared] = {
        "aitken mg": ours(system, "mg"),
        "aitken learned_mg": ours(system, "learned_mg"),
    }
    for name in NETWORKS[ndim]:
        models[f"aitken {name}, robust"] = ours(system, name, fallback=None)
        models[f"aitken {name}, as published"] = ours(system, name, method="published", maxiter=400)
    models["aitken MIC(0)"] = ours(system, "mic0")
    models["aitken CG"] = ours(system, "identity")
    rows = [timed_row(system, name, "ours", solver, rtol, budget) for name, solver in models.items()]
    rows.append(timed_row(system, "SciPy cg", "peer", scipy_cg(system), rtol, budget))
    add_ratios(rows)
    goals = []
    by_name = {r["solver"]: r for r in rows}
    for name in NETWORKS[ndim]:
        r = by_name[f"aitken {name}, robust"]
        if not r["seconds"]:
            continue
        each = r["seconds"]["median"] / r["nit"]
        r["note"] = f"{1e3 * each:.1f} ms a step"
        if name in FLOPS_PER_CELL:
            rate = FLOPS_PER_CELL[name] * system.fluid.size / each / 1e9
            r["note"] += f", {rate:.0f} GFLOP/s ({rate / sgemm:.2f} of sgemm)"
        place = ("none", "ball", "multi").index(obstacle)
        if kind == "white" and grid in NETWORK_GOALS:
            goals.append(target(f"{name}, iterations", r["nit"], NETWORK_GOALS[grid][place]))
    return {
        "name": f"network {system.name}", "part": "network", "n": len(system.b), "rtol": rtol, "rows": rows,
        "targets": goals, "text": f"{len(system.b)} fluid cells, to 1e-4, no fallback",
    }  # fmt: skip


def safety(args: Any) -> dict[str, Any]:
    """Iterations with models that are wrong, over those of conjugate gradients."""
    system = System("64^2", "multi", "white")
    A = linalg.GridPoisson(system.fluid.shape, system.fluid)
    cycle = linalg.as_preconditioner("mg", A)
    random = np.random.default_rng(0)
    half = (np.arange(system.fluid.size) % 2).reshape(system.fluid.shape)
    models: dict[str, Callable[[Any], Any]] = {
        "NaN": lambda r: np.full_like(r, np.nan),
        "zero": np.zeros_like,
        "random": lambda r: random.standard_normal(r.shape),
        "mg with the sign flipped": lambda r: -np.reshape(cycle @ np.ravel(r), r.shape),
        "the residual in half of the cells": lambda r: half * r,
    }
    rows, goals = [], []
    plain = linalg.deep_conjugate_direction(A, system.full, rtol=1e-4, model="identity").nit
    alone = linalg.deep_conjugate_direction(A, system.full, rtol=1e-4, model="mg").nit
    for name, model in models.items():
        nits = []
        for fallback in (None, "auto"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                r = linalg.deep_conjugate_direction(
                    A, system.full, rtol=1e-4, model=model, method="robust", fallback=fallback
                )
            good = r.converged and system.residual(np.asarray(r.x)) <= 1e-4
            nits.append(r.nit if good else None)
        rows.append(row(name, "ours", nit=nits[0], with_fallback=nits[1], cg=plain))
        share = math.inf if nits[0] is None else nits[0] / plain
        late = math.inf if nits[1] is None else nits[1] - alone
        goals.append(target(f"{name}: iterations over CG's", share, 1.2))
        goals.append(target(f"{name}: iterations after the fallback alone", late, 20))
    return {
        "name": "safety 64^2 multi", "part": "safety", "n": len(system.b), "rows": rows, "targets": goals,
        "text": f"to 1e-4, white; CG takes {plain}, mg {alone}",
    }  # fmt: skip


def batch(grid: str, count: int, args: Any) -> dict[str, Any]:
    """Right-hand sides for one grid: together, one by one, and by PyAMG's hierarchy one by one."""
    system = System(grid, "multi", "divergence")
    rng = np.random.default_rng(0)
    B = np.where(system.fluid, system.full + 0.1 * rng.standard_normal((count, *system.fluid.shape)), 0.0)
    prepared = linalg.prepare(linalg.GridPoisson(system.fluid.shape, system.fluid), "mg")
    budget = 0.3 if args.quick else 2.0
    rows = []
    for name, threads, work in (
        ("aitken mg, together", 1, lambda t: prepared.solve(B, rtol=1e-6, n_threads=t).x),
        ("aitken mg, together, two threads", 2, lambda t: prepared.solve(B, rtol=1e-6, n_threads=t).x),
        ("aitken mg, one by one", 1, lambda t: np.stack([prepared.solve(b, rtol=1e-6).x for b in B])),
    ):
        timing, X = measure(lambda work=work, t=threads: work(t), budget, clock=time.perf_counter)
        worst = 0.0
        for b, x in zip(B, X, strict=True):
            system.full, system.norm = b, float(np.linalg.norm(b))
            worst = max(worst, system.residual(x))
        rows.append(row(name, "ours", seconds=timing.to_json(), each=timing.median / count, err=worst))
    first = rows[0]["seconds"]["median"]
    for r in rows:
        r["ratio"] = r["seconds"]["median"] / first
    return {
        "name": f"batch {count} x {grid}", "part": "batch", "n": int(system.fluid.sum()), "rtol": 1e-6,
        "rows": rows, "targets": [], "text": f"{count} right-hand sides to 1e-6, set-up done before",
    }  # fmt: skip


def threads(grid: str, args: Any) -> dict[str, Any]:
    """Seconds of the wall on one thread and two, set-up and solve apart."""
    system = System(grid, "multi", "white")
    budget = 0.3 if args.quick else 2.0
    rows, goals = [], []
    for name, model in OURS.items():
        times = {}
        for count in (1, 2):
            aitken.set_num_threads(count)
            make, solve_with = ours(system, model)
            making, state = measure(make, budget, clock=time.perf_counter)
            work = functools.partial(solve_with, state, 1e-4)
            timing, (x, nit) = measure(work, budget, clock=time.perf_counter)
            times[count] = (making, timing)
        aitken.set_num_threads(args.threads)
        gain = times[1][1].min / times[2][1].min
        rows.append(
            row(
                name, "ours", seconds=times[1][1].to_json(), setup=times[1][0].to_json(),
                two=times[2][1].to_json(), setup_two=times[2][0].to_json(), gain=gain, nit=nit,
                err=system.residual(np.asarray(x)),
            )
        )  # fmt: skip
    bandwidth = [harness.triad(count) for count in (1, 2)]
    text = f"white, to 1e-4; seconds of the wall; triad {bandwidth[0]:.0f} and {bandwidth[1]:.0f} GB/s"
    if bandwidth[1] > 0.95 * bandwidth[0]:
        goals.append(target("mg: gain of two threads", rows[0]["gain"], 1.6, least=True))
    else:  # something else was running
        text += ": disturbed"
        for r in rows:
            r.update(two=None, setup_two=None, gain=None)
    return {
        "name": f"threads {grid}", "part": "threads", "n": len(system.b), "rtol": 1e-4, "rows": rows,
        "targets": goals, "text": text,
    }  # fmt: skip


def smoke(n: int, steps: int, found: dict[str, Any], args: Any) -> dict[str, Any]:
    """Every step's pressure by every solver, from the same flow; set-up is part of each step."""
    from aitken._demo import deepcg as demo

    run = demo.smoke(n, steps)
    demo.solve(run, limit=3.0 if args.quick else 30.0, with_pyamg="pyamg" in found)
    rows = []
    for r in run.rows:
        kind = "ours" if r.solver.startswith("aitken") else "peer"
        spent = {"min": r.seconds, "median": r.seconds, "runs": r.steps}
        values = {"nit": r.iterations, "err": r.residual, "total": r.seconds, "note": r.note}
        rows.append(row(r.solver, kind, seconds=spent, **values))
    add_ratios(rows)
    for r in rows:
        if r["err"] > demo.RTOL:
            r.update(seconds=None, ratio=None, note="residual not reached")
    return {
        "name": f"smoke {n}^2 x {steps}", "part": "smoke", "n": n * n, "rtol": demo.RTOL, "rows": rows,
        "targets": [], "text": f"per step, to {demo.RTOL:g}, set-up of each step included",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- tables


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _time(key: str, which: str) -> Callable[[Row], str]:
    return lambda r: harness.seconds(r[key][which]) if r.get(key) and r[key][which] > 1e-6 else "-"


_NOTE = ("remarks", lambda r: r["note"])
_ONE: list[tuple[str, Callable[[Row], str]]] = [
    ("set-up", _time("setup", "median")),
    ("min", _time("seconds", "min")),
    ("median", _time("seconds", "median")),
    ("iterations", lambda r: _number(r["nit"], ".4g")),
    ("residual", lambda r: _number(r["err"], ".1e")),
    ("x first", lambda r: _number(r["ratio"], ".3g")),
    _NOTE,
]
COLUMNS: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "solve": _ONE,
    "network": _ONE,
    "smoke": _ONE[1:],
    "counts": [(name, lambda r, name=name: r["cells"][name]) for name in OURS],  # type: ignore[misc]
    "safety": [
        ("iterations", lambda r: _number(r["nit"], "d")),
        ("with fallback", lambda r: _number(r["with_fallback"], "d")),
        ("over CG's", lambda r: _number(r["nit"] and r["nit"] / r["cg"], ".2f")),
    ],
    "batch": [*_ONE[1:3], ("each", lambda r: harness.seconds(r["each"])), *_ONE[4:]],
    "threads": [
        ("set-up", _time("setup", "median")),
        ("two threads", _time("setup_two", "median")),
        ("solve", _time("seconds", "median")),
        ("two threads", _time("two", "median")),
        ("gain", lambda r: _number(r["gain"], ".2f")),
        _NOTE,
    ],
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


def parts(quick: bool, found: dict[str, Any], args: Any, sgemm: float) -> dict[str, Callable[[], Any]]:
    """Every problem by name."""
    out: dict[str, Callable[[], Any]] = {}
    for k, case in enumerate(TIMED):
        if not quick or k in QUICK_TIMED:
            grid, obstacle, kind, rtol = case
            name = f"solve {grid} {obstacle} {kind} {rtol:.0e}"
            out[name] = functools.partial(solve, grid, obstacle, kind, rtol, found, args)
    grids = ("64^2", "128^2", "256^2", "512^2", "1024^2", "32^3", "64^3", "128^3", "100x170", "33x50x41")
    for grid in ("64^2", "32^3") if quick else grids:
        out[f"counts {grid}"] = functools.partial(counts, grid, args)
    networks = [
        (grid, obstacle, kind)
        for grid in ("64^2", "128^2", "256^2", "32^3", "64^3", "128^3")
        for obstacle in ("none", "ball", "multi")
        for kind in ("white", "dipole")
        if grid != "128^3" or obstacle == "ball"
    ]
    for case3 in [("64^2", "multi", "white"), ("32^3", "ball", "white")] if quick else networks:
        out[f"network {' '.join(case3)}"] = functools.partial(network, *case3, args, sgemm)
    out["safety 64^2 multi"] = functools.partial(safety, args)
    for grid, count in (("128^2", 8),) if quick else (("128^2", 32), ("512^2", 8), ("32^3", 32)):
        out[f"batch {count} x {grid}"] = functools.partial(batch, grid, count, args)
    for grid in ("64^3",) if quick else ("64^3", "128^3", "1024^2"):
        out[f"threads {grid}"] = functools.partial(threads, grid, args)
    for n, steps in ((64, 20),) if quick else ((128, 200), (256, 200)):
        out[f"smoke {n}^2 x {steps}"] = functools.partial(smoke, n, steps, found, args)
    return out


def main() -> int:
    args = harness.arguments(__doc__ or "")
    if args.device == "cuda" and not aitken.info()["gpu"]["available"]:
        print(f"no GPU to measure on: {aitken.info()['gpu']['reason']}", file=sys.stderr)
        return harness.NO_DEVICE
    report = harness.Report("deepcg", args, DISTRIBUTIONS)
    found, report.missing = harness.import_peers(PEERS)
    for name in report.missing:
        print(f"peer missing: {name}")
    aitken.set_num_threads(args.threads)
    sgemm = report.data["ceilings"]["sgemm_gflops"]
    for order, (name, make) in enumerate(parts(args.quick, found, args, sgemm).items()):
        if not re.search(args.only, name):
            continue
        with harness.blas_threads(args.threads):
            problem = make() | {"order": order}
        show(problem)
        report.add(problem)
        report.save()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
