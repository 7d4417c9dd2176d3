"""The demonstration's heat equation: a matrix that changes at every step, and an omega learned on the way."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import fft, sparse
from scipy.sparse import linalg as sla

from .. import linalg
from ..datasets import HeatSequence
from ..tune import SORTuner
from .figures import FAINT, OURS, PEER, PLAIN

RTOL = 1e-8
FIXED = tuple(np.linspace(1.0, 1.9, 10).round(1).tolist())  # the omegas that the learned one is compared with


@dataclass
class Row:
    """One line of the table; seconds and iterations are per step."""

    solver: str
    seconds: float
    residual: float
    iterations: float | None
    note: str = ""


@dataclass
class Steps:
    """Steps of the heat equation, what was solved of them, and how. All solvers get the same systems."""

    title: str
    heat: HeatSequence
    rows: list[Row] = field(default_factory=list)
    tuned: Any = None  # the linalg.SequenceResult with the learned omegas
    counts: dict[float, Any] = field(default_factory=dict)  # iterations of each step by fixed omega

    def before(self, i: int) -> Any:
        """The solution from which step i starts, that of our tuned run."""
        return self.tuned.X[i - 1] if i else self.heat.u0

    def residual(self, i: int, x: Any) -> float:
        """The certificate of step i: ``||b - A x||_2 / ||b||_2``."""
        A, b = self.heat.system(i, self.before(i))
        return float(np.linalg.norm(b - A @ x) / np.linalg.norm(b))

    def ok(self) -> bool:
        """Whether all of our answers met the tolerance."""
        return all(row.residual <= RTOL for row in self.rows if row.solver.startswith("aitken"))


def steps(fast: bool) -> Steps:
    """One period of a diffusivity that is small in its first half and up to 10 in its second."""
    nx, count = (50, 150) if fast else (100, 400)
    heat = HeatSequence(nx, count, dt=1.0 / count)
    return Steps(f"heat equation, {count} steps, n = {heat.n}", heat)


# --------------------------------------------------------------------------------------------- solvers


def _tuned(s: Steps) -> None:
    """The omega of each step from the costs of the steps before, the diffusivity as context."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.5:
        tuner = SORTuner(context=(1e-3, 10.0), context_transform="log", rng=0)
        r = linalg.solve_sequence(s.heat, solver="ssor_cg", tuner=tuner, rtol=RTOL)
        times.append(float(r.seconds.sum()) + r.seconds_tuner)
    s.tuned = r
    count = len(s.heat)
    worst = max(s.residual(i, x) for i, x in enumerate(r.X))
    note = f"Gaussian process, {1e6 * r.seconds_tuner / count:.0f} us a step"
    seconds = float(np.median(times)) / count
    s.rows.append(Row("aitken, omega learned", seconds, worst, float(r.nit.mean()), note))


def _fixed(s: Steps) -> None:
    """Every fixed omega on every step; two of them for the table."""
    rows = {}
    for omega in FIXED:
        solver = linalg.RelaxationSolver("ssor_cg", rtol=RTOL)
        nit, seconds, worst = [], 0.0, 0.0
        for i in range(len(s.heat)):
            start = s.before(i)
            A, b = s.heat.system(i, start)
            begin = time.perf_counter()
            r = solver.solve(A, b, start, omega=omega)
            seconds += time.perf_counter() - begin
            nit.append(r.nit)
            worst = max(worst, float(np.linalg.norm(b - A @ r.x) / np.linalg.norm(b)))
        s.counts[omega] = np.array(nit)
        rows[omega] = Row(f"aitken, omega = {omega:g}", seconds / len(nit), worst, float(np.mean(nit)))
    best = best_fixed(s)
    rows[best].note = f"the best of {len(FIXED)}, known afterwards"
    s.rows += [rows[omega] for omega in sorted({FIXED[0], best})]


def best_fixed(s: Steps) -> float:
    """The fixed omega with the fewest iterations in all."""
    return min(s.counts, key=lambda omega: int(s.counts[omega].sum()))


def _peer(s: Steps, name: str, limit: float, solve: Callable[..., tuple[Any, int | None]], note: str) -> None:
    """Steps by a peer, spread over the whole sequence, as many as `limit` seconds allow."""
    count = len(s.heat)
    stride = next(k for k in range(round(0.618 * count), count) if math.gcd(k, count) == 1)
    spent, worst, done = 0.0, 0.0, 0
    iterations: list[int] = []
    while done < count and spent < limit:
        i = done * stride % count
        start = s.before(i)
        A, b = s.heat.system(i, start)
        begin = time.perf_counter()
        x, nit = solve(A, b, start)
        spent += time.perf_counter() - begin
        worst = max(worst, s.residual(i, x))
        if nit is not None:
            iterations.append(nit)
        done += 1
    if done < count:
        note = ", ".join(filter(None, (note, f"{done} of {count} steps")))
    mean = float(np.mean(iterations)) if iterations else None
    s.rows.append(Row(name, spent / done, worst, mean, note))


def _sine_transform(A: Any, b: Any, start: Any) -> tuple[Any, None]:
    """The five-point matrix with constant coefficients is diagonal in sines."""
    side = math.isqrt(len(b))
    wave = 2.0 - 2.0 * np.cos(math.pi * np.arange(1, side + 1) / (side + 1))
    off = -A[0, 1]
    eigenvalues = A[0, 0] - 4.0 * off + off * (wave[:, None] + wave)
    spectrum = fft.dstn(b.reshape(side, side), type=1) / eigenvalues
    return fft.idstn(spectrum, type=1).ravel(), None


def _peers(s: Steps, limit: float, with_pyamg: bool) -> None:
    rtol = 0.9 * RTOL  # SciPy's and PyAMG's stop on the residual of a recurrence
    seen = [0]

    def count(_: Any) -> None:
        seen[0] += 1

    def cg(A: Any, b: Any, start: Any) -> tuple[Any, int]:
        seen[0] = 0
        return sla.cg(A, b, start, rtol=rtol, atol=0.0, callback=count)[0], seen[0]

    def splu(A: Any, b: Any, start: Any) -> tuple[Any, None]:
        options = {"SymmetricMode": True}
        factor = sla.splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        return factor.solve(b), None

    _peer(s, "SciPy cg", limit, cg, "")
    _peer(s, "SciPy splu", limit, splu, "symmetric mode")
    if with_pyamg:
        pyamg = importlib.import_module("pyamg")

        def amg(A: Any, b: Any, start: Any) -> tuple[Any, int]:
            seen[0] = 0
            levels = pyamg.ruge_stuben_solver(sparse.csr_matrix(A))
            return levels.solve(b, x0=start, tol=rtol, accel="cg", callback=count), seen[0]

        _peer(s, "PyAMG Ruge-Stuben + cg", limit, amg, "")
    _peer(s, "SciPy dstn", limit, _sine_transform, "constant coefficients on a box only")


def solve(s: Steps, *, limit: float, with_pyamg: bool) -> None:
    """Fill the rows: ours and the peers, all held to the same residual."""
    _tuned(s)
    _fixed(s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _peers(s, limit, with_pyamg)


def table_lines(s: Steps) -> list[tuple[str, ...]]:
    """The table, with its header."""
    lines: list[tuple[str, ...]] = [
        ("sequence", "solver", "per step", "residual", "iterations", "x ours", "remarks")
    ]
    for k, row in enumerate(s.rows):
        good = row.residual <= RTOL
        lines.append(
            (
                s.title if k == 0 else "",
                row.solver,
                f"{1e3 * row.seconds:.2f} ms",
                f"{row.residual:.1e}",
                f"{row.iterations:.1f}" if row.iterations is not None else "",
                "" if k == 0 else f"{row.seconds / s.rows[0].seconds:.1f}" if good else "-",
                row.note if good else "residual not reached",
            )
        )
    return lines


# -------------------------------------------------------------------------------------------- pictures


def draw_omegas(ax: Any, s: Steps) -> None:
    """One axis: the omegas played over time, the range of the best ones, and the diffusivity."""
    t = s.heat.dt * np.arange(len(s.heat))
    table = np.stack([s.counts[omega] for omega in FIXED], axis=1)
    best = table == table.min(axis=1, keepdims=True)
    low = np.where(best, FIXED, np.inf).min(axis=1)
    high = np.where(best, FIXED, -np.inf).max(axis=1)
    half = 0.5 * (FIXED[1] - FIXED[0])  # what lies nearest to a fixed omega
    ax.vlines(t, low - half, high + half, color=FAINT, lw=1.5, label=f"best of {len(FIXED)}")
    ax.plot(t, s.tuned.params, ".", ms=3, color=OURS, label="played")
    ax.set(xlabel="time", ylabel="omega", ylim=(0.9, 2.3))
    ax.legend(fontsize=8, loc="upper left", markerscale=3)
    other = ax.twinx()
    other.semilogy(t, s.heat.contexts, color=PEER, lw=1)
    other.set_ylim(1e-3, 200)
    other.set_ylabel("diffusivity", color=PEER)


def draw_costs(ax: Any, s: Steps) -> None:
    """One axis: iterations in excess of the best fixed omega, summed over time."""
    t = s.heat.dt * np.arange(1, len(s.heat) + 1)
    best = best_fixed(s)
    base = s.counts[best]
    least = np.min(list(s.counts.values()), axis=0)
    for k, omega in enumerate(o for o in FIXED if o != best):
        label = "other fixed omegas" if k == 0 else None
        ax.plot(t, np.cumsum(s.counts[omega] - base), color=PLAIN, lw=0.7, alpha=0.7, label=label)
        if omega in FIXED[1::2]:  # all of them would overlap
            ax.annotate(f"{omega:g}", (t[-1], (s.counts[omega] - base).sum()), fontsize=7, color=PLAIN)
    ax.axhline(0, color=PLAIN, lw=1.5, label=f"omega = {best:g}, the best fixed one")
    ax.plot(t, np.cumsum(s.tuned.nit - base), color=OURS, lw=2, label="omega learned")
    ax.plot(t, np.cumsum(least - base), "k:", label=f"the best of {len(FIXED)} in each step")
    reach = float(base.sum())
    ax.set(
        xlabel="time", ylabel="iterations more than\nthe best fixed omega", ylim=(-0.45 * reach, 0.9 * reach)
    )
    ax.legend(fontsize=8, loc="upper left")
