"""Draws docs/gallery/ot_many.png: colours, shapes, tokens and digits moved by optimal transport.

python docs/gallery/plot_ot_many.py [FILE.png]        needs the extra `demo`
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aitken import datasets
from aitken._demo.figures import FAINT, OURS, PEER, PLAIN

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> Any:
    """One of the examples, as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_colours(axes: Any) -> None:
    """Two pictures, and the first in the colours of the second."""
    colours = example("ot_colours")
    first, second = datasets.colour_images(160)
    moved = colours.recolour(first, second)
    titles = ("a picture", "another", "the first in the colours of the second")
    for ax, image, title in zip(axes, (first, second, moved), titles, strict=True):
        ax.imshow(image.clip(0, 1))
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()


def draw_shapes(axes: Any) -> None:
    """A star that descends the divergence from a heart; a point keeps its colour."""
    X, Y = (2.4 * (datasets.planar_shape(kind, 600) - 0.5) for kind in ("star", "heart"))
    path, results = example("ot_gradient_flow").flow(X, Y)
    hue = np.arctan2(X[:, 1], X[:, 0])
    for ax, step in zip(axes, (0, 1, 3, len(results) - 1), strict=True):
        ax.scatter(*Y.T, s=2, color="#dddddd")
        ax.scatter(*path[step].T, s=3, c=hue, cmap="hsv")
        ax.set_title(f"step {step}, divergence {results[step].value:.1e}", fontsize=9)
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
        ax.set_axis_off()


def draw_digits(images: Any, bars: Any) -> None:
    """Digits of 40 photons, and how many five nearest neighbours name correctly."""
    script = example("ot_images")
    counts, labels = datasets.digit_images(photons=40)
    strip = np.concatenate([counts[labels == d][0] for d in (0, 3, 4, 8)], axis=1)
    images.imshow(strip, cmap="gray")
    images.set_title("0, 3, 4 and 8 in 40 photons each", fontsize=10)
    images.set_axis_off()
    shown: dict[str, list[float]] = {"Euclidean": [], "Euclidean, best blur": [], "transport": []}
    titles = []
    for title, side, shift in (("in place", 8, 0), ("moved", 10, 1)):
        found, _ = script.accuracies(*datasets.digit_images(side, shift, 40), 30, 300, 3)
        titles.append(title)
        best = max(value for name, value in found.items() if name.startswith("Euclidean"))
        for name, value in zip(shown, (found["Euclidean, blur 0"], best, found["transport"]), strict=True):
            shown[name].append(value)
    for k, ((name, values), colour) in enumerate(zip(shown.items(), (PLAIN, PEER, OURS), strict=True)):
        drawn = bars.bar(np.arange(2) + 0.27 * (k - 1), values, 0.25, color=colour, label=name)
        bars.bar_label(drawn, [f"{value:.0%}" for value in values], fontsize=8)
    bars.set_xticks(range(2), titles)
    bars.set(ylim=(0, 1), title="digits named correctly")
    bars.title.set_fontsize(10)
    bars.legend(fontsize=7, loc="upper right")


def draw_routing(ax: Any) -> None:
    """How many tokens each of 16 experts carries, of 512."""
    logits, ways = example("ot_routing").route(512, 16)
    wanted = np.bincount(logits.argmax(axis=1), minlength=16)
    order = np.argsort(-wanted)
    sparse = next(way for way in ways if way.name.startswith("sparse_ot"))
    ax.bar(np.arange(16), wanted[order], color=FAINT, label="best expert of each token")
    ax.bar(np.arange(16), sparse.loads[order], 0.45, color=OURS, label=sparse.name)
    ax.axhline(512 / 16, color="k", lw=0.6, ls=":")
    ax.set_xticks(range(0, 16, 3))
    ax.set(xlabel="expert", ylabel="tokens", title="512 tokens to 16 experts")
    ax.title.set_fontsize(10)
    ax.legend(fontsize=7)


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("ot_many.png")
    figure = Figure(figsize=(10.5, 7.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1.15, 1.0, 1.0))
    draw_colours(top.subplots(1, 3))
    draw_shapes(middle.subplots(1, 4))
    images, bars, routing = bottom.subplots(1, 3)
    draw_digits(images, bars)
    draw_routing(routing)
    figure.savefig(target, dpi=96)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
