"""The demonstration's smoke: a pressure equation at every step, on a grid whose obstacle moves."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import linalg as sla

from .. import linalg
from ..datasets import SmokePlume
from ..datasets.poisson import apply_poisson
from .figures import FAINT, OURS, PEER, PLAIN

RTOL = 1e-6


@dataclass
class Row:
    """One line of the table; seconds and iterations are per step."""

    solver: str
    seconds: float
    residual: float
    iterations: float
    steps: int
    note: str = ""


@dataclass
class Smoke:
    """A plume, its pressure equations, and what was solved of them. All solvers get the same equations."""

    title: str
    plume: SmokePlume
    count: int
    rows: list[Row] = field(default_factory=list)
    fluids: list[Any] = field(default_factory=list)  # the cells of each step
    sides: list[Any] = field(default_factory=list)  # its right-hand side
    pressures: list[Any] = field(default_factory=list)  # our answer, from which the next step starts
    frames: list[tuple[int, Any]] = field(
        default_factory=list
    )  # smoke after some of the steps, NaN in solids

    def start(self, i: int) -> Any:
        """Where every solver starts step i: the pressure of the step before."""
        return self.pressures[i - 1] if i else np.zeros((self.plume.n, self.plume.n))

    def residual(self, i: int, p: Any) -> float:
        """The certificate of step i: ``||b - A p||_2 / ||b||_2``, by differences of the returned pressure."""
        b = self.sides[i]
        return float(np.linalg.norm(b - apply_poisson(self.fluids[i], p)) / np.linalg.norm(b))

    def ok(self) -> bool:
        """Whether all of our answers met the tolerance."""
        return bool(self.rows) and all(
            row.residual <= RTOL for row in self.rows if row.solver.startswith("aitken")
        )


def smoke(n: int, count: int) -> Smoke:
    """Smoke that passes a moving ball, in an open box of n x n cells."""
    plume = SmokePlume(n)
    return Smoke(f"smoke past a moving ball, {n} x {n}, {count} steps", plume, count)


def case(fast: bool) -> Smoke:
    """What the demonstration shows."""
    return smoke(64, 60) if fast else smoke(128, 120)


# --------------------------------------------------------------------------------------------- solvers


def _simulate(s: Smoke) -> None:
    """The whole simulation with our multigrid: one prepared model, updated in place as the ball moves."""
    plume = s.plume
    seconds, nit, worst = 0.0, [], 0.0
    prepared: Any = None
    for i in range(s.count):
        fluid, b = plume.begin()
        s.fluids.append(fluid)
        s.sides.append(b)
        begin = time.perf_counter()
        if prepared is None:
            prepared = linalg.prepare(linalg.GridPoisson(fluid.shape, fluid), "mg")
        else:
            prepared.update(flags=fluid)
        r = prepared.solve(b, s.start(i), rtol=RTOL)
        seconds += time.perf_counter() - begin
        s.pressures.append(r.x)
        nit.append(r.nit)
        worst = max(worst, s.residual(i, r.x))
        plume.end(r.x)
        if (i + 1) % max(s.count // 4, 1) == 0:
            s.frames.append((i + 1, np.where(fluid, plume.smoke, np.nan)))
    s.rows.append(Row("aitken mg", seconds / s.count, worst, float(np.mean(nit)), s.count))


def _other(
    s: Smoke, name: str, limit: float, solve: Callable[[int], tuple[Any, int, float]], note: str
) -> None:
    """The same equations by ``solve(i) -> (pressure, iterations, seconds)``, as many as `limit` allows."""
    spent, worst = 0.0, 0.0
    nit: list[int] = []
    order = np.argsort((0.6180339887 * np.arange(s.count)) % 1.0, kind="stable")
    for i in order.tolist():
        p, iterations, seconds = solve(i)
        spent += seconds
        worst = max(worst, s.residual(i, p))
        nit.append(iterations)
        if spent >= limit:
            break
    done = len(nit)
    if done < s.count:
        note = ", ".join(filter(None, (note, f"{done} of {s.count} steps")))
    s.rows.append(Row(name, spent / done, worst, float(np.mean(nit)), done, note))


def _own(s: Smoke, model: Any) -> Callable[[int], tuple[Any, int, float]]:
    """Another model of ours, updated from step to step."""
    prepared = linalg.prepare(linalg.GridPoisson(s.fluids[0].shape, s.fluids[0]), model)

    def solve(i: int) -> tuple[Any, int, float]:
        begin = time.perf_counter()
        prepared.update(flags=s.fluids[i])
        r = prepared.solve(s.sides[i], s.start(i), rtol=RTOL)
        return r.x, r.nit, time.perf_counter() - begin

    return solve


def _csr(s: Smoke, make: Callable[[Any], Any] | None) -> Callable[[int], tuple[Any, int, float]]:
    """SciPy's cg on the csr matrix, which is given: only `make`, the preconditioner, is part of the time."""

    def solve(i: int) -> tuple[Any, int, float]:
        fluid = s.fluids[i]
        A = sparse.csr_matrix(linalg.GridPoisson(fluid.shape, fluid).tocsr())
        b, start = s.sides[i][fluid], s.start(i)[fluid]
        seen = [0]

        def count(_: Any) -> None:
            seen[0] += 1

        begin = time.perf_counter()
        M = None if make is None else make(A)
        # SciPy stops on the residual of a recurrence.
        x = sla.cg(A, b, start, rtol=0.9 * RTOL, atol=0.0, M=M, callback=count)[0]
        seconds = time.perf_counter() - begin
        p = np.zeros(fluid.shape)
        p[fluid] = x
        return p, seen[0], seconds

    return solve


def solve(s: Smoke, *, limit: float, with_pyamg: bool) -> None:
    """Simulate, and fill the rows: ours and the peers, all held to the same residual."""
    _simulate(s)
    _other(s, "aitken learned_mg", limit, _own(s, "learned_mg"), "")
    _other(s, "aitken MIC(0)", limit, _own(s, "mic0"), "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _other(s, "SciPy cg", limit, _csr(s, None), "matrix given")
        if with_pyamg:
            pyamg = importlib.import_module("pyamg")
            for name, make in (
                ("Ruge-Stuben", pyamg.ruge_stuben_solver),
                ("smoothed aggregation", pyamg.smoothed_aggregation_solver),
            ):
                _other(
                    s,
                    f"PyAMG {name} + cg",
                    limit,
                    _csr(s, lambda A, make=make: make(A).aspreconditioner()),  # type: ignore[misc]
                    "matrix given",
                )


def table_lines(s: Smoke) -> list[tuple[str, ...]]:
    """The table, with its header."""
    lines: list[tuple[str, ...]] = [
        ("simulation", "solver", "per step", "residual", "iterations", "x ours", "remarks")
    ]
    for k, row in enumerate(s.rows):
        good = row.residual <= RTOL
        lines.append(
            (
                s.title if k == 0 else "",
                row.solver,
                f"{1e3 * row.seconds:.2f} ms",
                f"{row.residual:.1e}",
                f"{row.iterations:.1f}",
                "" if k == 0 else f"{row.seconds / s.rows[0].seconds:.1f}" if good else "-",
                row.note if good else "residual not reached",
            )
        )
    return lines


# -------------------------------------------------------------------------------------------- pictures


def draw_frames(axes: Any, s: Smoke) -> None:
    """One axis per frame: the smoke, and the ball."""
    for ax, (i, frame) in zip(np.ravel(axes), s.frames, strict=False):
        ax.imshow(frame, origin="lower", cmap="Greys", vmin=0.0, vmax=1.0)
        ball = np.where(np.isnan(frame), 1.0, np.nan)
        ax.imshow(ball, origin="lower", cmap="Oranges", vmin=0.0, vmax=1.6)
        ax.set_title(f"step {i}", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])


def draw_times(ax: Any, s: Smoke) -> None:
    """One axis: time per step of each solver, with its iterations."""
    rows = s.rows[::-1]
    colours = [OURS if row.solver == s.rows[0].solver else PLAIN for row in rows]
    colours = [
        PEER if not row.solver.startswith("aitken") else c for row, c in zip(rows, colours, strict=True)
    ]
    ax.barh([row.solver for row in rows], [1e3 * row.seconds for row in rows], color=colours, edgecolor=FAINT)
    for k, row in enumerate(rows):
        ax.text(1e3 * row.seconds, k, f" {row.iterations:.0f} iterations", va="center", fontsize=7)
    ax.set_xscale("log")
    ax.set_xlim(right=8e3 * max(row.seconds for row in rows))
    ax.set_xlabel("ms per step")
    ax.tick_params(axis="y", labelsize=8)
