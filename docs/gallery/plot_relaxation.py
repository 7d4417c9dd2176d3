"""Draws docs/gallery/relaxation.png: what tuners pay, which omega they play while a matrix changes, and why.

python docs/gallery/plot_relaxation.py [FILE.png]        needs matplotlib
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import sparse

from aitken import linalg
from aitken.datasets import HeatSequence
from aitken.tune import BanditTuner

OURS, PLAIN, PEER, GOLD = "#1b6ca8", "#7a7a7a", "#c8553d", "#d9b44a"
GRID = np.linspace(1.0, 1.95, 20)
BOX = (-0.15, 0.65)


def cost_table(count: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Sweeps that each omega takes on each of `count` shifted Laplacians, and the shifts."""
    line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(10, 10))
    A = sparse.csr_array(sparse.kronsum(line, line))
    shifts = -0.15 + 0.6 * rng.beta(0.5, 1.5, count)
    B = rng.standard_normal((count, 100))
    return np.stack([linalg.sor_batch(A, B, omega=w, shift=shifts).nit for w in GRID], axis=1), shifts


def play(tuner: Any, table: Any, contexts: Any) -> Any:
    """Costs that a tuner pays, one system after the other."""
    costs = np.empty(len(table))
    for t, row in enumerate(table):
        omega = tuner.suggest(None if contexts is None else float(contexts[t]))
        costs[t] = row[np.argmin(np.abs(GRID - omega))]
        tuner.observe(float(costs[t]))
    return costs


def draw_regret(ax: Any, table: Any, shifts: Any) -> None:
    """Cost in excess of the best fixed omega, summed over the systems."""
    best = table[:, table.mean(axis=0).argmin()]
    arms = list(GRID)
    runs = [
        ("Tsallis-INF", play(BanditTuner(arms, method="tsallis", rng=0), table, None), PLAIN),
        ("GP", play(BanditTuner(arms, method="gp", rng=0), table, None), GOLD),
        (
            "ChebCB, context",
            play(BanditTuner(arms, method="chebcb", context=BOX, rng=0), table, shifts),
            PEER,
        ),
        ("GP, context", play(BanditTuner(arms, method="gp", context=BOX, rng=0), table, shifts), OURS),
        ("best of each", table.min(axis=1), "k"),
    ]
    for name, costs, colour in runs:
        ax.plot(np.cumsum(costs - best) / 1e3, color=colour, label=name, ls=":" if colour == "k" else "-")
    ax.axhline(0, color="k", lw=0.6)
    ax.set(xlabel="systems", ylabel="thousand sweeps more than\nthe best fixed omega")
    ax.legend(fontsize=8)


def walk(heat: HeatSequence) -> tuple[Any, Any]:
    """The omegas of a tuned run over the sequence, and the best of the grid in every tenth step."""
    tuner = BanditTuner(list(GRID), method="gp", context=(1e-3, 10.0), context_transform="log", rng=0)
    solver = linalg.RelaxationSolver("ssor_cg")
    u, played, best = heat.u0, [], []
    for i in range(len(heat)):
        A, b = heat.system(i, u)
        if i % 10 == 0:
            counts = [solver.solve(A, b, u, omega=w).nit for w in GRID]
            best.append(GRID[np.flatnonzero(np.array(counts) == min(counts))])
        played.append(tuner.suggest(heat.context(i)))
        r = solver.solve(A, b, u, omega=played[-1])
        tuner.observe(float(r.nit))
        u = r.x
    return np.array(played), best


def draw_omegas(ax: Any, heat: HeatSequence) -> None:
    """What is played over time, the range of the best, and the diffusivity behind it."""
    played, best = walk(heat)
    t = heat.dt * np.arange(len(heat))
    ax.vlines(t[::10], [w.min() for w in best], [w.max() for w in best], color="#bcd3e6", lw=2, label="best")
    ax.plot(t, played, ".", ms=2.5, color=OURS, label="played")
    ax.set(xlabel="time", ylabel="omega", ylim=(0.95, 2.25))
    ax.legend(fontsize=8, loc="upper left", markerscale=3)
    other = ax.twinx()
    other.semilogy(t, heat.contexts, color=PEER, lw=1)
    other.set_ylim(1e-3, 200)
    other.set_ylabel("diffusivity", color=PEER)


def draw_curves(ax: Any, heat: HeatSequence) -> None:
    """Iterations of SSOR-CG against omega for three diffusivities."""
    solver = linalg.RelaxationSolver("ssor_cg")
    grid = np.linspace(1.0, 1.98, 50)
    for kappa, colour in ((0.1, GOLD), (1.0, OURS), (10.0, PEER)):
        step = HeatSequence(heat.nx, 1, diffusivity=lambda t, kappa=kappa: kappa)
        A, b = step.system(0, step.u0)
        counts = [solver.solve(A, b, step.u0, omega=w).nit for w in grid]
        plain = linalg.cg(A, b, step.u0, rtol=1e-8).nit
        ax.plot(grid, counts, color=colour, label=f"diffusivity {kappa:g} (CG: {plain})")
    ax.set(xlabel="omega", ylabel="iterations", yscale="log", ylim=(4, 250))
    ax.set_yticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="upper left")


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("relaxation.png")
    heat = HeatSequence(100, 1000)
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_curves(left, heat)
    left.set_title("one step: SSOR-CG, n = 9801", fontsize=10)
    draw_omegas(middle, heat)
    middle.set_title("1000 steps with a tuner", fontsize=10)
    draw_regret(right, *cost_table(3000, np.random.default_rng(0)))
    right.set_title("3000 shifted Laplacians, SOR", fontsize=10)
    figure.savefig(target, dpi=96)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
