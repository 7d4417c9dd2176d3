"""The HTML report of the demonstration: one file, pictures inside."""

from __future__ import annotations

import base64
import html as markup
import io
import time
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from . import completion, deepcg, figures, krylov, optimize, relaxation

if TYPE_CHECKING:
    from . import Case

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
pre{background:#f5f5f2;padding:1rem;overflow-x:auto;font-size:12px;line-height:1.45}
img{max-width:100%}h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}.small{color:#666;font-size:.85rem}
"""


def picture(figure: Any, kind: str = "png") -> str:
    """An ``img`` element that carries the figure; photographs are smaller as ``"jpeg"``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)


def transport(cases: list[Case], table: str, *, fast: bool, with_pot: bool) -> list[str]:
    """The part on optimal transport."""
    lap = cases[0]
    parts = [
        "<h1>Optimal transport</h1>",
        "<p>Every entropic answer is held to the same L1 marginal error, recomputed from the plan.</p>",
        f"<pre>{markup.escape(table)}</pre>",
    ]
    figure, axes = _figure(9, 3.6, 1, 2)
    limits = {"limit": 1.0, "sinkhorns": 20_000} if fast else {"limit": 12.0}
    curves = figures.error_curves(lap.problem, with_pot=with_pot, **limits)  # type: ignore[arg-type]
    figures.draw_curves(axes, curves)
    parts += [
        f"<h2>Error against time and iterations: {markup.escape(lap.title)}</h2>",
        picture(figure),
        "<p>Faint points are steps at larger regularisation, on the way to the one asked for; their "
        "error is that of their own stage. POT's points are separate runs to decreasing thresholds.</p>",
    ]
    figure, axes = _figure(9, 4.2, 1, 2)
    figures.draw_sparsity(axes, lap.problem, lap.result)
    parts += ["<h2>Why Newton steps are cheap: the plan is nearly sparse</h2>", picture(figure)]
    for case in cases[1:]:
        if case.problem.name.startswith("photos"):
            figure, axes = _figure(9, 6.4, 2, 2)
            figures.draw_transfer(axes, case.problem, case.result, step=2 if not fast else 3)
            parts += [
                "<h2>Colour transfer between two photographs</h2>",
                picture(figure, "jpeg"),
                '<p class="small">Photographs that scikit-learn ships: china.jpg by danielbuechele, '
                "flower.jpg by vultilion (CC BY 2.0), reduced and recoloured.</p>",
            ]
        elif case.problem.name.startswith("digits"):
            figure, axes = _figure(9, 1.9, 1, 7)
            figures.draw_digits(axes, case.problem, case.result)
            parts += ["<h2>One digit moved to another along the plan</h2>", picture(figure)]
    return parts


def linear_systems(sequences: list[krylov.Sequence], table: str) -> list[str]:
    """The part on sequences of linear systems."""
    waves = sequences[-1]
    carried = krylov.histories(waves)
    figure, axes = _figure(9, 3.6, 1, 2)
    krylov.draw_histories(axes[0], carried, waves.rtol)
    krylov.draw_counts(axes[1], carried)
    parts = [
        "<h1>Sequences of linear systems</h1>",
        "<p>Every answer is held to the same relative residual, recomputed. <code>auto</code> takes a direct "
        "solver where that is cheaper, and says so.</p>",
        f"<pre>{markup.escape(table)}</pre>",
        f"<h2>Before and after recycling: {markup.escape(waves.title)}</h2>",
        picture(figure),
        "<p>GCRO-DR(40, 20) without a preconditioner. A carried space takes the slow modes out of the next "
        "system; earlier solutions give its start.</p>",
    ]
    figure, axes = _figure(9, 2.5, 1, 4)
    krylov.draw_fields(axes, waves)
    return [*parts, picture(figure)]


def heat_equation(heat: relaxation.Steps, table: str) -> list[str]:
    """The part on relaxation with a learned parameter."""
    figure, axes = _figure(9, 3.6, 1, 2)
    relaxation.draw_omegas(axes[0], heat)
    relaxation.draw_costs(axes[1], heat)
    return [
        "<h1>A matrix that changes at every step</h1>",
        "<p>Implicit steps of the heat equation; all solvers get the same systems and start from the last "
        "solution, and every answer is held to the same relative residual, recomputed. Factors and "
        "hierarchies are made anew at every step, and that is part of the time.</p>",
        f"<pre>{markup.escape(table)}</pre>",
        f"<h2>Omega over time, and what it costs: {markup.escape(heat.title)}</h2>",
        picture(figure),
        "<p>The tuner knows the diffusivity and what each of its choices has cost. The light bars are the "
        "omegas with the fewest iterations in that step.</p>",
    ]


def smoke(run: deepcg.Smoke, table: str) -> list[str]:
    """The part on pressure equations."""
    frames, axes = _figure(9, 2.5, 1, 4)
    deepcg.draw_frames(axes, run)
    times, ax = _figure(9, 2.4, 1, 1)
    deepcg.draw_times(ax, run)
    return [
        "<h1>Smoke past a moving ball</h1>",
        "<p>Every step solves for the pressure on the cells that are fluid then. All solvers get the same "
        "equations and start from the last pressure; every answer is held to the same residual, recomputed. "
        "What a solver makes of the new geometry is part of its time; SciPy's and PyAMG's get their matrix "
        "for nothing.</p>",
        f"<pre>{markup.escape(table)}</pre>",
        f"<h2>{markup.escape(run.title)}</h2>",
        picture(frames),
        picture(times),
    ]


def matrix_with_gaps(p: completion.Picture, table: str) -> list[str]:
    """The part on matrix completion."""
    figure, axes = _figure(9, 5.4, 2, 2)
    first, second, third, fourth = axes.ravel()
    completion.draw_pictures((first, second, third), p)
    completion.draw_errors(fourth, p)
    parts = [
        "<h1>A matrix with gaps</h1>",
        "<p>Errors are over the entries that were missing, computed here. A low-rank model knows rows and "
        "columns, not which pixels are neighbours: for pictures smoothing is better and faster, for tables "
        "without an order there is no such thing.</p>",
        f"<pre>{markup.escape(table)}</pre>",
        f"<h2>Before, after, and the error by sweep: {markup.escape(p.title)}</h2>",
        picture(figure, "jpeg" if p.photograph else "png"),
    ]
    if p.photograph:
        parts.append(
            '<p class="small">A photograph that scikit-learn ships: china.jpg by danielbuechele (CC BY 2.0), '
            "in grey, with gaps.</p>"
        )
    return parts


def constrained_minima(cases: list[optimize.Case], table: str, *, fast: bool) -> list[str]:
    """The part on constrained minimisation; `fast` draws the last problem alone."""
    single = [case for case in cases if len(case.problems) == 1]
    if fast:
        figure, axes = _figure(9, 2.8, 1, 3)
        optimize.draw_paths(axes, single[-1], clock=True)
        heading = single[-1].title
    else:
        figure, axes = _figure(9, 5.4, 2, 3)
        optimize.draw_paths(axes[0], single[0])
        optimize.draw_paths(axes[1], single[1], clock=True)
        heading = f"{single[0].title} (top), {single[1].title} (below)"
    return [
        "<h1>Minimisation under constraints</h1>",
        "<p>All solvers get the same exact derivatives (SLSQP takes no Hessians) and the same start. The KKT "
        "error is computed here from the point alone, with multipliers of least squares; thresholds of peers "
        "are tightened until it holds, and of their runs the last one counts.</p>",
        f"<pre>{markup.escape(table)}</pre>",
        f"<h2>{markup.escape(heading)}</h2>",
        picture(figure),
        "<p>Points are those at which a solver asked for a gradient, in the order of asking.</p>",
    ]


def write(path: str, head: str, parts: list[str]) -> None:
    """Write the page."""
    facts = (
        f"<p>{markup.escape(head)}, {time.strftime('%Y-%m-%d %H:%M')}. All seconds were measured here.</p>"
    )
    body = "\n".join([facts, *parts])
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>aitken demo</title>'
            f"<style>{_STYLE}</style>\n{body}\n</html>\n"
        )
