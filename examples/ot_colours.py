"""Colour transfer: one picture in the colours of another, mapped by a sample of their pixels.

    python examples/ot_colours.py [--photos] [--out FILE.png]     needs scikit-learn; pictures need matplotlib

`SinkhornTransport` couples 1500 pixels of each picture, as points in RGB, and maps every pixel by the
formula that the potentials give, also those that it has not seen. `--photos` takes the photographs that
scikit-learn ships instead of pictures made by formulas. Printed is the distance of the mapped colours from
the wanted ones.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from aitken import datasets, ot

SAMPLE, REG = 1500, 5e-3


def pictures(photos: bool) -> tuple[Any, Any]:
    """The picture to recolour, and the one with the colours."""
    if photos:
        from aitken._demo.figures import photographs

        first, second = photographs(step=2)
        return first, second
    return datasets.colour_images(160)


def recolour(first: Any, second: Any, seed: int = 0) -> Any:
    """The first picture in the colours of the second."""
    rng = np.random.default_rng(seed)
    source, wanted = (image.reshape(-1, 3) for image in (first, second))
    few = [x[rng.choice(len(x), SAMPLE, replace=False)] for x in (source, wanted)]
    model = ot.SinkhornTransport(REG).fit(few[0], Xt=few[1])
    return model.transform(source).reshape(first.shape)


def apart(first: Any, second: Any, seed: int = 1) -> float:
    """Sinkhorn divergence of the colours of two pictures, from other pixels than those that were coupled."""
    rng = np.random.default_rng(seed)
    few = [x.reshape(-1, 3)[rng.choice(x.size // 3, 1000, replace=False)] for x in (first, second)]
    return float(ot.sinkhorn_divergence(few[0], few[1], reg=1e-2).value)


def main() -> None:
    """Recolour, print the distances, and draw the pictures if that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", action="store_true")
    parser.add_argument("--out", metavar="FILE.png")
    args = parser.parse_args()
    first, second = pictures(args.photos)
    start = time.perf_counter()
    moved = recolour(first, second)
    spent = time.perf_counter() - start
    print(f"{first.shape[0]} x {first.shape[1]} pixels, {SAMPLE} of them coupled: {spent:.2f} s")
    print(f"distance of the colours from the wanted ones: before {apart(first, second):.5f}", end=", ")
    print(f"after {apart(moved, second):.5f}; of the wanted ones from themselves {apart(second, second):.5f}")
    if args.out:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.2), layout="constrained")
        titles = ("a picture", "another", "the first in the colours of the second")
        for ax, image, title in zip(figure.subplots(1, 3), (first, second, moved), titles, strict=True):
            ax.imshow(image.clip(0, 1))
            ax.set_title(title, fontsize=10)
            ax.set_axis_off()
        figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
