"""Pictures of the demonstration and of the gallery, drawn on axes that the caller owns."""

from __future__ import annotations

import importlib
import os
import time
import warnings
from typing import Any

import numpy as np

from .. import ot

OURS, PLAIN, PEER, FAINT = "#1b6ca8", "#7a7a7a", "#c8553d", "#bcd3e6"


def colour_map(p: Any, result: Any, pixels: Any, *, back: bool = False) -> Any:
    """Map any colours by the entropic plan, also those that were not in the sample.

    A new colour x goes to ``sum_j w_j y_j``, ``w_j`` proportional to ``b_j exp((g_j - c(x, y_j)) / reg)``:
    the barycentric projection, extended by the dual potential. `back` maps from Y's side to X's.
    """
    f, g = result.potentials
    weights, potential, targets = (p.a, f, p.X) if back else (p.b, g, p.Y)
    scale = p.info["cost_scale"]
    bias = np.log(weights) + potential / p.reg
    out = np.empty_like(pixels)
    for k in range(0, len(pixels), 2048):  # blocks that stay in the cache
        block = slice(k, k + 2048)
        z = bias - ot.dist(pixels[block], targets) / (scale * p.reg)
        z -= z.max(axis=1, keepdims=True)
        w = np.exp(z)
        out[block] = (w @ targets) / w.sum(axis=1, keepdims=True)
    return out


def photographs(step: int = 2) -> list[Any]:
    """The two photographs with values in [0, 1], every `step`-th pixel."""
    load = importlib.import_module("sklearn.datasets").load_sample_image
    return [load(name)[::step, ::step] / 255.0 for name in ("china.jpg", "flower.jpg")]


def draw_transfer(axes: Any, p: Any, result: Any, step: int = 2) -> None:
    """Four axes: both photographs, and each in the colours of the other."""
    first, second = photographs(step)
    moved = colour_map(p, result, first.reshape(-1, 3)).reshape(first.shape)
    back = colour_map(p, result, second.reshape(-1, 3), back=True).reshape(second.shape)
    titles = ("temple", "flower", "temple in the flower's colours", "flower in the temple's colours")
    for ax, image, title in zip(np.ravel(axes), (first, second, moved, back), titles, strict=True):
        ax.imshow(np.clip(image, 0, 1))
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()


def import_pot() -> Any:
    """POT, which would load every array library that is installed: seconds, for NumPy arrays alone."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    return importlib.import_module("ot")


def error_curves(
    p: Any, *, with_pot: bool, limit: float, sinkhorns: int = 60_000
) -> dict[str, dict[str, Any]]:
    """Error against seconds and iterations: our Newton and Sinkhorn, and POT run to several thresholds."""
    curves: dict[str, dict[str, Any]] = {}
    ot.sinkhorn(p.a, p.b, p.M, p.reg)  # warm caches and threads
    for method, label in (("newton", "aitken (Newton)"), ("sinkhorn", "aitken, Sinkhorn iterations alone")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            most = 10_000 if method == "newton" else sinkhorns
            r = ot.sinkhorn(p.a, p.b, p.M, p.reg, method=method, maxiter=most)
        h = r.history
        curves[label] = {
            "seconds": np.append(h["time"], r.time),
            "iterations": np.append(np.arange(1, h["err"].size + 1), h["err"].size + 1),
            "err": np.append(h["err"], r.err),
            "final": np.append(np.isclose(h["eps"], p.reg), True),
        }
        if method == "sinkhorn":  # its history has one entry per look at the error
            curves[label]["iterations"] = curves[label]["iterations"] * (r.nit_sinkhorn / (h["err"].size + 1))
    if with_pot:
        pot = import_pot()
        points = []
        spent = 0.0
        for exponent in range(2, 12):
            start = time.perf_counter()
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                plan, log = pot.sinkhorn(
                    p.a, p.b, p.M, p.reg, numItermax=10**6, stopThr=10.0**-exponent, log=True, warn=False
                )
            seconds = time.perf_counter() - start
            err = float(np.abs(plan.sum(axis=1) - p.a).sum() + np.abs(plan.sum(axis=0) - p.b).sum())
            points.append((seconds, log["niter"] + 1, err))
            spent += seconds
            if err <= 1e-9 or spent + seconds > limit:
                break
        seconds_, its, errs = np.array(points).T
        curves["POT sinkhorn"] = {
            "seconds": seconds_,
            "iterations": its,
            "err": errs,
            "final": np.ones(len(points), dtype=bool),
        }
    return curves


def draw_curves(axes: Any, curves: dict[str, dict[str, Any]]) -> None:
    """One or two axes: error against time, error against iterations."""
    for ax, key in zip(axes, ("seconds", "iterations"), strict=False):
        for (name, c), colour in zip(curves.items(), (OURS, PLAIN, PEER), strict=False):
            last, marker = c["final"], "." if len(c["err"]) < 60 else None
            if not last.all():
                ax.plot(c[key][~last], c["err"][~last], ".", color=FAINT, label=f"{name}, larger reg")
            ax.plot(c[key][last], c["err"][last], marker=marker, color=colour, label=name)
        ax.axhline(1e-9, color="k", lw=0.6, ls=":")
        ax.set(xscale="log", yscale="log", xlabel=key)
    axes[0].set_ylabel("L1 marginal error")
    axes[0].set_ylim(top=1e5)  # room for the legend
    axes[0].legend(fontsize=8, loc="upper right")


def draw_sparsity(axes: Any, p: Any, result: Any) -> None:
    """Two axes: the plan with its columns in the order of the optimal assignment, and its sorted entries."""
    from matplotlib.colors import LogNorm
    from scipy.optimize import linear_sum_assignment

    n = p.a.size
    _, columns = linear_sum_assignment(p.M)
    rows = np.argsort(p.M[np.arange(n), columns], kind="stable")
    plan = n * np.asarray(result.plan)[np.ix_(rows, columns[rows])]
    keep = plan > 1e-4
    i, j = np.nonzero(keep)
    points = axes[0].scatter(j, i, c=plan[keep], s=2, norm=LogNorm(1e-4, 1), cmap="viridis_r", linewidths=0)
    axes[0].set(
        xlim=(0, n), ylim=(n, 0), aspect="equal",
        title=f"n P_ij > 1e-4: {keep.sum() / n:.1f} entries per row",
        xlabel="column, in the order of the optimal assignment", ylabel="row",
    )  # fmt: skip
    axes[0].figure.colorbar(points, ax=axes[0], shrink=0.8)
    for reg, colour in ((1e-2, "#d9b44a"), (1 / 1200, OURS), (1e-4, PEER)):
        entries = np.sort(ot.sinkhorn(p.a, p.b, p.M, reg).plan, axis=None)[::-1]
        rank = np.arange(1, entries.size + 1) / n
        show = entries > 1e-18
        axes[1].plot(rank[show], n * entries[show], color=colour, label=f"reg = {reg:.2g}")
    axes[1].set(
        xscale="log", yscale="log", ylim=(1e-12, 2), xlabel="entries per row, largest first", ylabel="n P_ij",
        title="the smaller reg, the sparser the plan",
    )  # fmt: skip
    axes[1].legend(fontsize=8)


def draw_digits(axes: Any, p: Any, result: Any) -> None:
    """A row of axes: displacement interpolation from one digit to the other along the plan."""
    side = p.info["image_shape"][0]
    i, j = np.nonzero(result.plan > 1e-9)
    mass = result.plan[i, j]
    for ax, t in zip(axes, np.linspace(0, 1, len(axes)), strict=True):
        place = (1 - t) * p.X[i] + t * p.Y[j]
        low = np.clip(np.floor(place).astype(int), 0, side - 2)
        frac = place - low
        frame = np.zeros((side, side))
        for dx in (0, 1):  # share the mass among the four pixels around its place
            for dy in (0, 1):
                w = np.abs(1 - dx - frac[:, 0]) * np.abs(1 - dy - frac[:, 1])
                np.add.at(frame, (low[:, 1] + dy, low[:, 0] + dx), w * mass)
        ax.imshow(frame, cmap="gray_r")
        ax.set_title(f"t = {t:.2f}", fontsize=9)
        ax.set_axis_off()
