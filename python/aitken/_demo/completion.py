"""The demonstration's matrix completion: a photograph of which half of the pixels are missing."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..completion import matrix_completion
from ..datasets import image_with_gaps
from .figures import OURS, PEER, PLAIN

RANK, LAM = 30, 1.0


@dataclass
class Row:
    """One line of the table; the error is over the missing pixels, or those of them in a crop."""

    solver: str
    seconds: float
    rmse: float
    note: str = ""


@dataclass
class Picture:
    """A matrix with gaps, what is behind them, and who filled them how."""

    title: str
    truth: Any
    gaps: Any  # with NaN
    photograph: bool
    rows: list[Row] = field(default_factory=list)
    filled: dict[str, Any] = field(default_factory=dict)  # by solver, where the whole picture was filled
    result: Any = None  # the CompletionResult

    @property
    def missing(self) -> Any:
        """Mask of the gaps."""
        return np.isnan(self.gaps)

    def rmse(self, filled: Any, where: Any = np.s_[:, :]) -> float:
        """Root mean squared error over the gaps in a part of the picture."""
        lost = self.missing[where]
        return float(np.sqrt(np.mean((filled - self.truth[where])[lost] ** 2)))

    def ok(self) -> bool:
        """Whether our answer is what it says: converged, objective and errors as recomputed, gaps filled.

        The error in the gaps has to be below half of that of the mean.
        """
        r = self.result
        model = r.mu + r.row_bias[:, None] + r.col_bias + r.U @ r.V.T
        left = (self.gaps - model)[~self.missing]
        size = sum(float((x**2).sum()) for x in (r.U, r.V, r.row_bias, r.col_bias))
        fun = float((left**2).sum()) + LAM * size
        same = abs(fun - r.fun) <= 1e-9 * fun and abs(np.sqrt((left**2).mean()) - r.rmse_train) <= 1e-9
        mean = self.rmse(np.full_like(self.truth, np.nanmean(self.gaps)))
        return bool(r.success and same and self.rows[0].rmse < 0.5 * mean)


def picture(fast: bool) -> Picture:
    """A photograph that scikit-learn ships; without it, a matrix of rank 20 with noise."""
    step = 2 if fast else 1
    try:
        truth, gaps = image_with_gaps(step=step)
        return Picture(f"photograph {truth.shape[0]} x {truth.shape[1]}, half is missing", truth, gaps, True)
    except ImportError:
        rng = np.random.default_rng(0)
        n1, n2 = 426 // step, 640 // step
        truth = rng.standard_normal((n1, 20)) @ rng.standard_normal((20, n2)) / np.sqrt(20)
        truth += 0.1 * rng.standard_normal(truth.shape)
        gaps = np.where(rng.random(truth.shape) < 0.5, np.nan, truth)
        return Picture(f"rank 20 and noise, {n1} x {n2}, half is missing", truth, gaps, False)


# --------------------------------------------------------------------------------------------- solvers


def _ours(p: Picture) -> None:
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.1 and len(times) < 10):
        r = matrix_completion(p.gaps, RANK, lam=LAM, bias=True, maxiter=100, tol=1e-3, rng=0)
        times.append(r.time)
    p.result = r
    p.filled["aitken"] = r.fill(p.gaps)
    note = f"rank {r.rank}, biases, lam = {LAM:g}, {r.nit} sweeps"
    p.rows.append(Row("aitken", float(np.median(times)), p.rmse(p.filled["aitken"]), note))


def _soft_impute(limit: float) -> Callable[[Any], tuple[Any, str]]:
    """Fill, lower the singular values by `LAM`, fill again: the same penalty, the rank not bound."""

    def fill(gaps: Any) -> tuple[Any, str]:
        start, seen, mean = time.perf_counter(), ~np.isnan(gaps), np.nanmean(gaps)
        known = np.where(seen, gaps - mean, 0.0)
        low, count = np.zeros_like(known), 0
        while time.perf_counter() - start < limit and count < 100:
            whole = np.where(seen, known, low)
            squares, u = np.linalg.eigh(whole @ whole.T)  # several times as fast as an SVD, and enough here
            keep = squares > LAM**2
            u, values = u[:, keep], np.sqrt(squares[keep])
            new = (u * (1.0 - LAM / values)) @ (u.T @ whole)
            change, low, count = np.linalg.norm(new - low) / np.linalg.norm(new), new, count + 1
            if change < 1e-3:
                return low + mean, f"{count} spectral decompositions"
        return low + mean, f"{count} spectral decompositions, ended after {limit:g} s"

    return fill


def _neighbours(gaps: Any) -> tuple[Any, str]:
    from scipy.ndimage import gaussian_filter

    seen = ~np.isnan(gaps)
    weights = gaussian_filter(seen.astype(float), 0.7)
    values = gaussian_filter(np.where(seen, gaps, 0.0), 0.7)
    return values / np.maximum(weights, 1e-12), "for pictures only: it knows which pixels are neighbours"


def _peer(p: Picture, name: str, fill: Callable[[Any], tuple[Any, str]], where: Any = np.s_[:, :]) -> None:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled, note = fill(p.gaps[where])
    seconds = time.perf_counter() - start
    if filled.shape == p.gaps.shape:
        p.filled[name] = np.where(p.missing, filled, p.gaps)
    else:
        part = f"crop of {filled.shape[0]} x {filled.shape[1]}"
        note = f"{part}, where ours has {p.rmse(p.filled['aitken'][where], where):.4f}; {note}"
    p.rows.append(Row(name, seconds, p.rmse(filled, where), note))


def solve(p: Picture, *, fast: bool, with_sklearn: bool) -> None:
    """Fill the rows: ours and the peers, each with its error over the missing pixels."""
    _ours(p)
    _peer(p, "NumPy soft-impute", _soft_impute(0.3 if fast else 0.8))
    if with_sklearn:
        importlib.import_module("sklearn.experimental.enable_iterative_imputer")
        impute = importlib.import_module("sklearn.impute")
        sweeps = 2 if fast else 5
        iterative = impute.IterativeImputer(max_iter=sweeps, random_state=0)
        knn = impute.KNNImputer(n_neighbors=10)
        _peer(p, "scikit-learn KNNImputer", lambda x: (knn.fit_transform(x), "10 neighbours"))
        n1, n2 = (32, 48) if fast else (64, 96)
        crop = np.s_[p.gaps.shape[0] // 2 :, p.gaps.shape[1] // 3 :]
        crop = (slice(crop[0].start, crop[0].start + n1), slice(crop[1].start, crop[1].start + n2))
        note = f"max_iter={sweeps}"
        # One thread: on matrices as small as these BLAS's second one makes it several times slower.
        with importlib.import_module("threadpoolctl").threadpool_limits(1, user_api="blas"):
            _peer(p, "scikit-learn IterativeImputer", lambda x: (iterative.fit_transform(x), note), crop)
    if p.photograph:
        _peer(p, "SciPy gaussian_filter", _neighbours)


def table_lines(p: Picture) -> list[tuple[str, ...]]:
    """The table, with its header."""
    lines: list[tuple[str, ...]] = [
        ("matrix", "solver", "time", "RMSE of the gaps", "PSNR", "x ours", "remarks")
    ]
    for k, row in enumerate(p.rows):
        seconds = f"{row.seconds:.2f} s" if row.seconds >= 1 else f"{1e3 * row.seconds:.1f} ms"
        ratio = "" if k == 0 else f"{row.seconds / p.rows[0].seconds:.2g}"
        peak = f"{-20 * np.log10(row.rmse):.1f} dB" if p.photograph else ""
        first = p.title if k == 0 else ""
        lines.append((first, row.solver, seconds, f"{row.rmse:.4f}", peak, ratio, row.note))
    return lines


# -------------------------------------------------------------------------------------------- pictures


def errors_by_sweep(p: Picture, ranks: tuple[int, ...] = (10, RANK)) -> dict[int, tuple[Any, Any]]:
    """For some ranks: training error and error of the gaps after each sweep. Gaps are looked at only here."""
    rows, cols = np.nonzero(p.missing)
    found = {}
    for rank in ranks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            r = matrix_completion(
                p.gaps, rank, lam=LAM, bias=True, maxiter=20, tol=0.0, rng=0, patience=1000,
                holdout=(rows, cols, p.truth[rows, cols]),
            )  # fmt: skip
        found[rank] = (r.history["rmse_train"], r.history["rmse_holdout"])
    return found


def draw_pictures(axes: Any, p: Picture) -> None:
    """Three axes: the gaps, our answer, and a peer's (of the best that only know a matrix)."""
    others = [row for row in p.rows[1:] if row.solver in p.filled and "gaussian" not in row.solver]
    peer = min(others, key=lambda row: row.rmse)
    shown = [("half is missing", p.gaps)]
    shown += [(f"{row.solver}, {row.rmse:.3f}", p.filled[row.solver]) for row in (p.rows[0], peer)]
    low, high = np.nanmin(p.gaps), np.nanmax(p.gaps)
    for ax, (title, image) in zip(axes, shown, strict=True):
        ax.imshow(np.nan_to_num(image, nan=low), cmap="gray", vmin=low, vmax=high)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()


def draw_errors(ax: Any, p: Picture) -> None:
    """One axis: RMSE by sweep, in training and in the gaps, and where the best peers end."""
    for (rank, (train, held)), colour in zip(errors_by_sweep(p).items(), (PLAIN, OURS), strict=True):
        sweeps = np.arange(1, len(held) + 1)
        ax.plot(sweeps, held, color=colour, label=f"rank {rank}, gaps")
        ax.plot(sweeps, train, color=colour, ls=":", label=f"rank {rank}, known pixels")
    for row in p.rows[1:]:
        if row.solver in p.filled:
            ax.axhline(row.rmse, color=PEER, lw=0.8)
            ax.annotate(row.solver, (20, row.rmse), fontsize=6, color=PEER, ha="right", va="bottom")
    ax.set(xlabel="sweep", ylabel="RMSE", ylim=(0, None))
    ax.legend(fontsize=7, loc="lower left")
