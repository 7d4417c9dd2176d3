"""Draws docs/gallery/ot.png, the picture of the README: colour transfer, and error against time.

    python docs/gallery/plot_ot.py [FILE.png]        needs the extra `demo`

The photographs are china.jpg by danielbuechele and flower.jpg by vultilion (CC BY 2.0), which scikit-learn
ships; reduced and recoloured.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from aitken import datasets, ot
from aitken._demo import figures


def main() -> None:
    """Draw the picture and write it with 128 colours, which keeps the file small."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("ot.png")
    colours = datasets.photo_colours(1500, reg=1e-3)
    transfer = ot.sinkhorn(colours.a, colours.b, colours.M, colours.reg)
    first, second = figures.photographs(step=3)
    moved = figures.colour_map(colours, transfer, first.reshape(-1, 3)).reshape(first.shape)

    figure = Figure(figsize=(10.5, 3.0), layout="constrained")
    axes = figure.subplot_mosaic([["a", "c", "err"], ["b", "c", "err"]], width_ratios=[0.8, 1.75, 1.7])
    for key, image, title in (("a", first, "a photograph"), ("b", second, "another"), ("c", moved, None)):
        axes[key].imshow(image.clip(0, 1))
        axes[key].set_axis_off()
        axes[key].set_title(title or "the first in the colours of the second", fontsize=10)
    lap = datasets.random_assignment(500, reg=1 / 1200)
    curves = figures.error_curves(lap, with_pot=True, limit=12.0)
    figures.draw_curves([axes["err"]], curves)
    axes["err"].set_title("random assignment, n = 500, reg = 1/1200", fontsize=10)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=96)
    image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.FLOYDSTEINBERG)
    image.save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
