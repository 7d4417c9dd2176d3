"""Shape matching by gradient flow: a disc of points flows onto a five-pointed star.

    python examples/ot_gradient_flow.py                  # some seconds
    python examples/ot_gradient_flow.py 800 flow.png     # points, and a picture (needs matplotlib)

Every point moves against the gradient of a distance between the two clouds. Three flows from the same start:
by the Sinkhorn divergence, by the regularised transport value alone, whose minimum is a cloud that is too
narrow, and by the divergence of unbalanced transport, which lets go of an outlier in the target. Every step
starts from the potentials of the one before; some are solved from nothing too, for comparison.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from aitken import ot

STEPS, RATE, REG = 30, 0.2, 0.02
OUTLIER = np.array([[3.0, 2.5]])


def disc(n: int, rng: np.random.Generator) -> np.ndarray:
    """Points in a small disc off the centre."""
    radius, angle = 0.4 * np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
    return np.column_stack([radius * np.cos(angle) - 0.7, radius * np.sin(angle) + 0.5])


def star(n: int, rng: np.random.Generator) -> np.ndarray:
    """Points inside a star with five tips at distance 1."""
    corners = np.array([1.0, 0.45] * 5)[:, None] * np.column_stack(
        [np.sin(np.pi * np.arange(10) / 5), np.cos(np.pi * np.arange(10) / 5)]
    )
    found = np.empty((0, 2))
    while len(found) < n:
        p = rng.uniform(-1.0, 1.0, (4 * n, 2))
        # Inside one of the ten triangles (0, corner, next corner): both coordinates and their sum in [0, 1].
        inside = np.zeros(len(p), dtype=bool)
        for q, r in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            s = np.linalg.solve(np.column_stack([q, r]), p.T)
            inside |= (s.min(axis=0) >= 0) & (s.sum(axis=0) <= 1)
        found = np.vstack([found, p[inside]])
    return found[:n]


def flow(
    X: np.ndarray, Y: np.ndarray, *, unbalanced: float | None = None
) -> tuple[list[np.ndarray], list[Any]]:
    """Clouds along the flow of the divergence, and the results of its steps."""
    path, results = [X], []
    last: Any = None
    for step in range(STEPS):
        last = ot.sinkhorn_divergence(X, Y, reg=REG, unbalanced=unbalanced, method="newton", init=last)
        results.append(last)
        if not last.success:
            raise SystemExit(f"step {step}: {last.message}")
        X = X - RATE * len(X) * last.vjp()["X"]
        path.append(X)
    return path, results


def biased_flow(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """The last cloud along the flow of the regularised value alone."""
    last = None
    for _ in range(STEPS):
        last = ot.sinkhorn_points(X, Y, reg=REG, init=last, return_plan=False)
        X = X - RATE * len(X) * last.vjp(grad_value=1.0)["X"]
    return X


def gap(X: np.ndarray, Y: np.ndarray) -> float:
    """Root mean square distance from the points of one cloud to the nearest of the other, the larger way."""
    M = ot.dist(X, Y)
    return float(np.sqrt(max(M.min(axis=0).mean(), M.min(axis=1).mean())))


def main() -> int:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rng = np.random.default_rng(0)
    X, Y = disc(n, rng), star(n, rng)
    path, results = flow(X, Y)
    for step in (0, 1, 2, 5, 10, 20, STEPS - 1):
        warm, cold = results[step], ot.sinkhorn_divergence(path[step], Y, reg=REG, method="newton")
        print(
            f"step {step:3d}: divergence {warm.value:.2e}   {warm.nit_newton:2d} Newton steps of "
            f"{warm.nit:2d} iterations in {1e3 * warm.time:5.1f} ms, from nothing "
            f"{cold.nit_newton:2d} of {cold.nit:2d} in {1e3 * cold.time:5.1f} ms"
        )
    squeezed = biased_flow(X, Y)
    polluted = np.vstack([Y, OUTLIER])
    hard, soft = flow(X, polluted)[0][-1], flow(X, polluted, unbalanced=0.5)[0][-1]
    for name, Z in (("divergence", path[-1]), ("transport value alone", squeezed)):
        spread = np.sqrt(np.linalg.det(np.cov(Z.T)) / np.linalg.det(np.cov(Y.T)))
        print(
            f"{name:>22}: distance to the star {gap(Z, Y):.4f}, area of the spread {spread:.3f} of the star's"
        )
    for name, Z in (("balanced", hard), ("unbalanced", soft)):
        away = np.linalg.norm(Z - OUTLIER, axis=1).min()
        print(f"{name:>22}: target with an outlier, whose nearest point ends {away:.3f} away from it")
    if len(sys.argv) > 2:
        draw(path, Y, squeezed, sys.argv[2])
    return 0


def draw(path: list[np.ndarray], Y: np.ndarray, squeezed: np.ndarray, file: str) -> None:
    """Five moments of the flow, and where the flow of the value alone ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    moments = (0, 1, 3, 8, STEPS)
    figure, axes = plt.subplots(1, 6, figsize=(15, 2.8), sharex=True, sharey=True)
    shown = [(f"step {k}", path[k]) for k in moments] + [("value alone", squeezed)]
    for axis, (title, Z) in zip(axes, shown, strict=True):
        axis.scatter(*Y.T, s=4, color="0.8")
        axis.scatter(*Z.T, s=4, color="C3" if title == "value alone" else "C0")
        axis.set(title=title, aspect="equal", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
