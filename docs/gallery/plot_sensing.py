"""Draws docs/gallery/sensing.png: error against iteration from small starts, for several sizes and ranks.

python docs/gallery/plot_sensing.py [FILE.png]        needs matplotlib
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aitken import ConvergenceWarning
from aitken.completion import matrix_sensing

OURS, PLAIN, PEER, GOLD = "#1b6ca8", "#7a7a7a", "#c8553d", "#d9b44a"
N = 30


def problem(eigenvalues: tuple[float, ...], m: int, outliers: float) -> tuple[Any, Any, Any]:
    """Gaussian measurements of a PSD matrix; a part of them grossly wrong."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((N, len(eigenvalues))))[0]
    X = (Q * np.array(eigenvalues)) @ Q.T
    A = rng.standard_normal((m, N * N)) / np.sqrt(m)
    y = A @ X.ravel()
    bad = rng.choice(m, int(outliers * m), replace=False)
    y[bad] += 10 * np.std(y) * rng.standard_normal(len(bad))
    return A, y, X


def path(data: tuple[Any, Any, Any], rank: int, steps: int, **options: Any) -> Any:
    """Relative errors of the iterates in the Frobenius norm."""
    A, y, X = data
    found: list[float] = []

    def note(intermediate_result: Any) -> None:
        Z = intermediate_result.F @ intermediate_result.G.T
        found.append(float(np.linalg.norm(Z - X) / np.linalg.norm(X)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # run to the end of the axis
        matrix_sensing(A, y, rank, shape=X.shape, maxiter=steps, tol=1e-13, rng=1, callback=note, **options)
    return found


def draw_descent(ax: Any) -> None:
    """Twice as many columns as needed: symmetric, asymmetric, with the modification, preconditioned."""
    data, steps = problem((1.0, 1.0), 1200, 0.0), 1400
    plain = {"precondition": False, "step": 0.15}
    ax.semilogy(
        path(data, 4, steps, psd=True, param="symmetric", alpha=0.5, **plain), color=PLAIN, label="symmetric"
    )
    for alpha, style in ((0.5, "-"), (0.2, "--"), (0.05, ":")):
        ax.semilogy(
            path(data, 4, steps, alpha=alpha, step_fix=False, **plain),
            color=PEER,
            ls=style,
            label=f"asymmetric, alpha {alpha:g}",
        )
    for alpha, style in ((0.5, "-"), (0.2, "--"), (0.05, ":")):
        label = "+ one modification" if alpha == 0.5 else None
        ax.semilogy(path(data, 4, steps, alpha=alpha, **plain), color=GOLD, ls=style, label=label)
    ax.semilogy(path(data, 4, steps), color=OURS, lw=2, label="preconditioned (default)")


def draw_subgradients(ax: Any) -> None:
    """Plateau and drop of the published method, and the floor that its start leaves to surplus columns."""
    data, steps = problem((1.0, 0.8, 0.6), 900, 0.1), 900
    base = {"loss": "l1", "psd": True}
    every = range(0, steps + 1, 10)  # the steps overshoot, and every iterate would be a smear
    for alpha, colour in ((1e-1, PLAIN), (1e-3, PEER), (1e-6, GOLD)):
        for rank, style in ((3, "-"), (10, "--"), (N, ":")):
            ax.semilogy(
                every,
                path(data, rank, steps, precondition=False, alpha=alpha, **base)[::10],
                color=colour,
                ls=style,
                lw=1,
                label=f"alpha {alpha:g}" if rank == 3 else None,
            )
    for rank, style in ((3, "-"), (10, "--"), (N, ":")):
        label = "preconditioned (default)" if rank == 3 else None
        ax.semilogy(path(data, rank, steps, **base), color=OURS, lw=2, ls=style, label=label)


def main() -> None:
    """Draw the picture and write it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("sensing.png")
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_descent(left)
    left.set_title("least squares, true rank 2, 4 columns", fontsize=10)
    draw_subgradients(right)
    right.set_title("10 % gross errors, true rank 3; 3 (-), 10 (--), 30 (:) columns", fontsize=10)
    left.set(xlabel="iteration", ylabel="relative error of X", ylim=(1e-13, 10))
    right.set(xlabel="iteration")
    left.legend(fontsize=8, loc="lower right")
    right.legend(fontsize=8)
    figure.savefig(target, dpi=96)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
