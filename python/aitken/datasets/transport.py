"""Seeded transport problems: assignment, images, clouds, histograms, batches, edge cases, real images.

Only NumPy is needed, except for the real data sets, which read the files that scikit-learn ships.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

__all__ = [
    "EDGE_CASES",
    "TransportProblem",
    "colour_images",
    "digit_images",
    "digits_pair",
    "edge_case",
    "gaussian_clouds",
    "histogram_set",
    "image_pair",
    "interval_densities",
    "photo_colours",
    "planar_shape",
    "point_clouds",
    "ragged_problems",
    "random_assignment",
    "random_batch",
    "transport_problem",
    "transport_problem_names",
]


@dataclass(frozen=True, eq=False)
class TransportProblem:
    """One transport problem, or a batch of related ones.

    Attributes
    ----------
    name : str
        Identifier that includes the parameters the problem was made with.
    a, b : ndarray or None
        Weights of the two sides: shape (n,) and (m,), or (B, n) and (B, m) for a batch.  ``b is None`` marks
        a set of histograms in which every pair of rows of `a` is a problem.
    M : ndarray or None
        Cost matrix, shape (n, m) or (B, n, m).  None where the points alone are given because the matrix
        would be too large to hold.
    reg : float
        Entropic regularisation in the units of `M` (or of `metric` where `M` is None).
    X, Y : ndarray or None
        Support points, shape (n, d) and (m, d), where the problem has a geometry.
    metric : str or None
        Cost between the points, before it was divided by ``info["cost_scale"]``.
    info : dict
        Further facts, such as the scale of the cost or which bins are empty.
    """

    name: str
    a: Array
    b: Any
    M: Any  # this and the optional fields below: an array, or None where the case has none
    reg: float
    X: Any = None
    Y: Any = None
    metric: str | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of bins on the two sides of one problem."""
        n = self.a.shape[-1]
        return n, n if self.b is None else self.b.shape[-1]


def _uniform(n: int) -> Array:
    return np.full(n, 1.0 / n)


def _normalised(w: Array) -> Array:
    return w / w.sum(axis=-1, keepdims=True)


def _cost(X: Array, Y: Array, metric: str) -> Array:
    """Pairwise cost summed over coordinates: no (n, m, d) array, exact zeros for equal points."""
    out = np.zeros((X.shape[0], Y.shape[0]))
    for k in range(X.shape[1]):
        step = X[:, k, None] - Y[None, :, k]
        out += step**2 if metric == "sqeuclidean" else np.abs(step)
    return out


def _check_metric(metric: str) -> None:
    if metric not in ("sqeuclidean", "cityblock"):
        raise ValueError(f"`metric` must be 'sqeuclidean' or 'cityblock', got {metric!r}")


def _check_size(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")


def random_assignment(n: int = 500, *, seed: int = 0, reg: float = 1 / 1200) -> TransportProblem:
    """Linear assignment: independent uniform costs on [0, 1), uniform weights (problem T1).

    The optimal plan is nearly a permutation and, for small `reg`, its support nearly falls into components.

    Parameters
    ----------
    n : int
        Number of rows and columns.
    seed : int
        Seed of the costs.
    reg : float
        Regularisation; 1/1200, 1/5000 and 1/10000 are the usual choices.

    Returns
    -------
    TransportProblem
    """
    _check_size(n=n)
    M = np.random.default_rng(seed).random((n, n))
    return TransportProblem(f"assignment-n{n}-s{seed}", _uniform(n), _uniform(n), M, reg)


def image_pair(side: int = 28, *, metric: str = "sqeuclidean", reg: float = 1 / 1200) -> TransportProblem:
    """Two synthetic images, an elliptic ring and a slanted bar, as histograms (problems T2 and T3).

    Parameters
    ----------
    side : int
        Pixels per side; each pixel centre is a bin. Above 128 the costs, over 2 GB, are left out.
    metric : {"sqeuclidean", "cityblock"}
        Cost between pixel centres, divided by its maximum.  With ``"cityblock"`` the unregularised solution
        is not unique, which makes the regularised problem hard.
    reg : float
        Regularisation.

    Returns
    -------
    TransportProblem
    """
    _check_size(side=side)
    _check_metric(metric)
    grid = (np.arange(side) + 0.5) / side
    y, x = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    radius = np.hypot((x - 0.5) / 1.3, y - 0.5)
    ring = np.exp(-(((radius - 0.25) / 0.05) ** 2))
    bar = np.exp(-(((y - 0.5 - 0.3 * (x - 0.5)) / 0.05) ** 2)) * (np.abs(x - 0.5) < 0.35)
    points = np.column_stack([x, y])
    scale = float(_cost(points[:1], points[-1:], metric)[0, 0]) or 1.0  # from corner to corner
    return TransportProblem(
        f"images-{side}x{side}-{metric}",
        _normalised(ring + 0.01),
        _normalised(bar + 0.01),
        _cost(points, points, metric) / scale if side <= 128 else None,
        reg,
        points,
        points,
        metric,
        {"cost_scale": scale, "image_shape": (side, side)},
    )


def gaussian_clouds(
    n: int = 500, m: int | None = None, *, seed: int = 0, reg: float = 1e-3
) -> TransportProblem:
    """Two weighted planar Gaussian clouds, the second rotated, scaled and shifted (problem T4).

    Parameters
    ----------
    n, m : int
        Number of points; ``m=None`` means n.
    seed : int
        Seed of points and weights.
    reg : float
        Regularisation; the cost is the squared distance divided by its maximum.

    Returns
    -------
    TransportProblem
    """
    m = n if m is None else m
    _check_size(n=n, m=m)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    Y = rng.standard_normal((m, 2)) @ np.array([[1.0, 0.6], [-0.6, 0.8]]) + 1.0
    a, b = _normalised(rng.random(n) + 0.1), _normalised(rng.random(m) + 0.1)
    M = _cost(X, Y, "sqeuclidean")
    scale = float(M.max())
    return TransportProblem(
        f"clouds-{n}x{m}-s{seed}", a, b, M / scale, reg, X, Y, "sqeuclidean", {"cost_scale": scale}
    )


def interval_densities(n: int = 500, *, metric: str = "sqeuclidean", reg: float = 1e-2) -> TransportProblem:
    """Exponential density against a two-bump Gaussian mixture on [0, 5] (problem T5).

    The weights are the Exp(1) density and ``0.2 N(1, 0.2) + 0.8 N(3, 0.5)`` (means and standard deviations)
    at n equally spaced points, normalised.

    Parameters
    ----------
    n : int
        Number of points, at least 2.
    metric : {"sqeuclidean", "cityblock"}
        ``(x - y)**2`` or ``|x - y|``, not scaled.
    reg : float
        Regularisation.

    Returns
    -------
    TransportProblem
        The points are sorted, so the unregularised optimum is the monotone plan.
    """
    if n < 2:
        raise ValueError(f"`n` must be at least 2, got {n}")
    _check_metric(metric)
    x = np.linspace(0.0, 5.0, n)

    def normal(mean: float, sd: float) -> Array:
        return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    points = x[:, None]
    return TransportProblem(
        f"interval-n{n}-{metric}",
        _normalised(np.exp(-x)),
        _normalised(0.2 * normal(1.0, 0.2) + 0.8 * normal(3.0, 0.5)),
        _cost(points, points, metric),
        reg,
        points,
        points,
        metric,
        {"cost_scale": 1.0},
    )


def random_batch(batch: int = 64, n: int = 64, *, seed: int = 0, reg: float = 0.01) -> TransportProblem:
    """Batch of small problems with independent uniform costs and random weights (problem T6).

    Parameters
    ----------
    batch, n : int
        Number of problems and their size.
    seed : int
        Seed of costs and weights.
    reg : float
        Regularisation.

    Returns
    -------
    TransportProblem
        With `M` of shape (batch, n, n) and weights of shape (batch, n).
    """
    _check_size(batch=batch, n=n)
    rng = np.random.default_rng(seed)
    M = rng.random((batch, n, n))
    a, b = (_normalised(rng.random((batch, n)) + 0.1) for _ in range(2))
    return TransportProblem(f"batch-{batch}x{n}-s{seed}", a, b, M, reg)


def ragged_problems(
    count: int = 1000, low: int = 32, high: int = 128, *, seed: int = 0, reg: float = 0.01
) -> list[TransportProblem]:
    """Small problems of many sizes, with independent uniform costs and random weights.

    Parameters
    ----------
    count : int
        Number of problems.
    low, high : int
        Bounds of the sizes; n and m of each problem are drawn from both sides inclusive, independently.
    seed : int
        Seed of sizes, costs and weights.
    reg : float
        Regularisation.

    Returns
    -------
    list of TransportProblem
    """
    _check_size(count=count, low=low)
    if high < low:
        raise ValueError(f"`high` must be at least `low` = {low}, got {high}")
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        n, m = (int(size) for size in rng.integers(low, high + 1, 2))
        a, b = (_normalised(rng.random(size) + 0.1) for size in (n, m))
        out.append(TransportProblem(f"ragged-{k}-{n}x{m}-s{seed}", a, b, rng.random((n, m)), reg))
    return out


def histogram_set(count: int = 1000, side: int = 16, *, seed: int = 0, reg: float = 1e-2) -> TransportProblem:
    """Make smooth random histograms on one square grid, for all pairwise distances (problem T7).

    Each histogram is a sum of three Gaussian bumps of random place, width and height, plus 1e-3.

    Parameters
    ----------
    count : int
        Number of histograms.
    side : int
        Bins per side of the grid.
    seed : int
        Seed of the bumps.
    reg : float
        Regularisation; the shared cost is the squared distance of bin centres divided by its maximum.

    Returns
    -------
    TransportProblem
        With `a` of shape (count, side**2) and ``b=None``.
    """
    _check_size(count=count, side=side)
    rng = np.random.default_rng(seed)
    grid = (np.arange(side) + 0.5) / side
    y, x = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    H = np.full((count, side * side), 1e-3)
    for _ in range(3):
        cx, cy = rng.random((2, count, 1))
        width = 0.05 + 0.1 * rng.random((count, 1))
        height = 0.2 + rng.random((count, 1))
        H += height * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / width**2)
    points = np.column_stack([x, y])
    M = _cost(points, points, "sqeuclidean")
    scale = float(M.max()) or 1.0
    return TransportProblem(
        f"histograms-{count}-{side}x{side}-s{seed}",
        _normalised(H),
        None,
        M / scale,
        reg,
        points,
        points,
        "sqeuclidean",
        {"cost_scale": scale, "image_shape": (side, side)},
    )


def point_clouds(
    n: int = 100_000, m: int | None = None, *, d: int = 3, seed: int = 0, reg: float = 1e-2
) -> TransportProblem:
    """Large clouds without a cost matrix: the unit cube against a noisy sphere (problem T8).

    Parameters
    ----------
    n, m : int
        Number of points; ``m=None`` means n.
    d : int
        Dimension.
    seed : int
        Seed of the points.
    reg : float
        Regularisation in units of the squared distance.

    Returns
    -------
    TransportProblem
        With ``M=None`` and uniform weights.
    """
    m = n if m is None else m
    _check_size(n=n, m=m, d=d)
    rng = np.random.default_rng(seed)
    X = rng.random((n, d))
    Y = rng.standard_normal((m, d))
    Y *= (0.5 + 0.02 * rng.standard_normal((m, 1))) / np.linalg.norm(Y, axis=1, keepdims=True)
    return TransportProblem(
        f"points-{n}x{m}-d{d}-s{seed}",
        _uniform(n),
        _uniform(m),
        None,
        reg,
        X,
        Y + 0.5,
        "sqeuclidean",
        {"cost_scale": 1.0},
    )


def colour_images(side: int = 96) -> tuple[Array, Array]:
    """Two pictures made by formulas: an evening at the sea, and a field under the sun.

    Parameters
    ----------
    side : int
        Pixels per side.

    Returns
    -------
    evening, noon : ndarray of shape (side, side, 3)
        Red, green and blue in [0, 1].
    """
    _check_size(side=side)
    grid = (np.arange(side) + 0.5) / side
    y, x = np.meshgrid(grid, grid, indexing="ij")  # y downwards

    def blend(first: Any, second: Any, t: Array) -> Array:
        t = t[..., None].clip(0, 1)
        return (1 - t) * np.asarray(first, dtype=float) + t * np.asarray(second, dtype=float)

    sky = blend((0.16, 0.10, 0.35), (0.98, 0.52, 0.22), (y / 0.62) ** 1.5)
    ripple = 0.5 + 0.5 * np.sin(110 * y**2 + 5 * np.sin(9 * x))
    sea = blend((0.08, 0.10, 0.28), (0.75, 0.36, 0.30), ripple * np.exp(-(((x - 0.6) / 0.25) ** 2)))
    evening = np.where((y < 0.62)[..., None], sky, sea)
    glow = np.exp(-((np.hypot(x - 0.6, y - 0.52) / 0.12) ** 2))
    evening = evening + glow[..., None] * (np.array([1.0, 0.86, 0.5]) - evening)

    clouds = (np.sin(7 * x + 3 * np.sin(5 * y)) * np.sin(13 * y + 2 * x) + 0.1) * (y < 0.45)
    air = blend((0.25, 0.52, 0.92), (0.80, 0.90, 1.00), y / 0.5 + 0.6 * clouds.clip(0, 1))
    hill = 0.55 + 0.08 * np.sin(4 * x + 0.5) + 0.03 * np.sin(11 * x)
    rows = 0.5 + 0.5 * np.sin(60 * (x - 0.5) / (y + 0.05))
    field = blend((0.16, 0.42, 0.14), (0.62, 0.74, 0.22), rows * (y - 0.4).clip(0, 1) + 0.4 * (y - hill))
    noon = np.where((y < hill)[..., None], air, field)
    return evening.clip(0, 1), noon.clip(0, 1)


SHAPES: tuple[str, ...] = ("disk", "ring", "star", "heart", "moons")


def planar_shape(kind: str, n: int = 500, *, seed: int = 0) -> Array:
    """Points spread evenly over a figure in the unit square.

    Parameters
    ----------
    kind : {"disk", "ring", "star", "heart", "moons"}
        The figure.
    n : int
        Number of points.
    seed : int
        Seed of the points.

    Returns
    -------
    ndarray of shape (n, 2)
    """
    if kind not in SHAPES:
        raise ValueError(f"`kind` must be one of {', '.join(SHAPES)}, got {kind!r}")
    _check_size(n=n)
    rng = np.random.default_rng(seed)
    kept: list[Array] = []
    while sum(map(len, kept)) < n:  # points of the square that fall into the figure
        points = rng.random((4 * n + 64, 2))
        x, y = (2.4 * (points - 0.5)).T
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        if kind == "disk":
            inside = radius < 1
        elif kind == "ring":
            inside = np.abs(radius - 0.8) < 0.2
        elif kind == "star":
            inside = radius < 0.7 + 0.4 * np.cos(5 * angle - 2.5 * np.pi)
        elif kind == "heart":
            inside = (x**2 + (y + 0.1) ** 2 - 0.6) ** 3 < x**2 * (y + 0.1) ** 3
        else:
            upper = (np.abs(np.hypot(x + 0.3, y + 0.1) - 0.65) < 0.15) & (y > -0.1)
            inside = upper | ((np.abs(np.hypot(x - 0.3, y - 0.1) - 0.65) < 0.15) & (y < 0.1))
        kept.append(points[inside])
    return np.concatenate(kept)[:n]


def _zero_bins(base: TransportProblem) -> dict[str, Any]:
    a, b = base.a.copy(), base.b.copy()
    rows, cols = np.arange(0, a.size, 5), np.arange(2, b.size, 7)
    a[rows] = 0.0
    b[cols] = 0.0
    return {"a": _normalised(a), "b": _normalised(b), "info": {"zero_rows": rows, "zero_cols": cols}}


def _tiny_bins(base: TransportProblem) -> dict[str, Any]:
    a, b = base.a.copy(), base.b.copy()
    a[::6] = 1e-30
    b[1::9] = 1e-30
    return {"a": _normalised(a), "b": _normalised(b)}


def _one_row(base: TransportProblem) -> dict[str, Any]:
    return {"a": np.ones(1), "M": base.M[:1].copy(), "X": base.X[:1]}


def _one_column(base: TransportProblem) -> dict[str, Any]:
    return {"b": np.ones(1), "M": base.M[:, :1].copy(), "Y": base.Y[:1]}


def _duplicated_points(base: TransportProblem) -> dict[str, Any]:
    X, Y, M = base.X.copy(), base.Y.copy(), base.M.copy()
    X[1::2], M[1::2] = X[: 2 * (X.shape[0] // 2) : 2], M[: 2 * (M.shape[0] // 2) : 2]
    Y[-1], M[:, -1] = Y[0], M[:, 0]
    return {"X": X, "Y": Y, "M": M}


def _forbidden_pairs(base: TransportProblem) -> dict[str, Any]:
    # The diagonal stays allowed: with uniform weights on a square problem it is a feasible plan.
    n = min(base.M.shape)
    M = base.M[:n, :n].copy()
    forbidden = np.quantile(M, 0.75) < M
    np.fill_diagonal(forbidden, False)
    M[forbidden] = np.inf
    return {
        "a": _uniform(n),
        "b": _uniform(n),
        "M": M,
        "X": base.X[:n],
        "Y": base.Y[:n],
        "info": {"forbidden": int(forbidden.sum())},
    }


def _non_contiguous(base: TransportProblem) -> dict[str, Any]:
    n, m = base.M.shape
    wide = np.full((2 * n, 3 * m), np.nan)
    wide[::2, ::3] = base.M
    return {"a": np.repeat(base.a, 2)[::2], "M": wide[::2, ::3]}


def _float32(base: TransportProblem) -> dict[str, Any]:
    a, b = base.a.astype(np.float32), base.b.astype(np.float32)
    return {"a": a / a.sum(), "b": b / b.sum(), "M": base.M.astype(np.float32), "reg": 1e-2}


def _integer(base: TransportProblem) -> dict[str, Any]:
    n, m = base.M.shape
    return {"a": np.full(n, m), "b": np.full(m, n), "M": np.rint(20 * base.M).astype(np.int64), "reg": 0.5}


_EDGE: dict[str, Callable[[TransportProblem], dict[str, Any]]] = {
    "zero_bins": _zero_bins,
    "tiny_bins": _tiny_bins,
    "one_row": _one_row,
    "one_column": _one_column,
    "duplicated_points": _duplicated_points,
    "forbidden_pairs": _forbidden_pairs,
    "non_contiguous": _non_contiguous,
    "float32": _float32,
    "integer": _integer,
}
EDGE_CASES: tuple[str, ...] = tuple(_EDGE)


def edge_case(kind: str, n: int = 40, m: int = 30, *, seed: int = 0, reg: float = 1e-3) -> TransportProblem:
    """Make a small problem with one awkward property (problem T9).

    Parameters
    ----------
    kind : str
        One of `EDGE_CASES`: ``"zero_bins"``, ``"tiny_bins"`` (1e-30), ``"one_row"``, ``"one_column"``,
        ``"duplicated_points"``, ``"forbidden_pairs"`` (infinite costs), ``"non_contiguous"``, ``"float32"``,
        ``"integer"`` (integer costs and weights; the common mass is n * m, not 1).
    n, m : int
        Size before the change.
    seed : int
        Seed of the underlying `gaussian_clouds`.
    reg : float
        Regularisation; ``"float32"`` and ``"integer"`` bring their own.

    Returns
    -------
    TransportProblem
    """
    if kind not in _EDGE:
        raise ValueError(f"`kind` must be one of {', '.join(EDGE_CASES)}, got {kind!r}")
    base = gaussian_clouds(n, m, seed=seed, reg=reg)
    parts = {"a": base.a, "b": base.b, "M": base.M, "reg": reg, "X": base.X, "Y": base.Y} | _EDGE[kind](base)
    info = base.info | parts.pop("info", {})
    return TransportProblem(f"edge-{kind}", metric=base.metric, info=info, **parts)


def _sklearn_datasets(what: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError as exc:
        raise ImportError(
            f"{what} reads files that scikit-learn ships, and it is not installed: pip install 'aitken[demo]'"
        ) from exc
    return datasets


def digit_images(
    side: int = 8, shift: int = 0, photons: int | None = None, *, seed: int = 0
) -> tuple[Array, Array]:
    """Handwritten digits (8 x 8 pixels), moved about, and as a camera counts them in the dark (real data).

    Parameters
    ----------
    side : int
        Pixels per side of a black square around each digit, at least 8.
    shift : int
        Each digit moves from the middle by up to that many pixels along both axes, independently; 0 puts all
        into the middle. At most ``(side - 8) // 2``.
    photons : int or None
        How many photons each image is made of: they fall on pixels independently, with probabilities that
        follow the grey values. None gives the grey values.
    seed : int
        Seed of places and photons.

    Returns
    -------
    images : ndarray of shape (1797, side, side)
        Grey values in [0, 1], or numbers of photons.
    labels : ndarray of int, shape (1797,)
        The digits.

    Raises
    ------
    ImportError
        If scikit-learn is missing; it is part of the extra ``demo``.
    """
    if side < 8:
        raise ValueError(f"`side` must be at least 8, got {side}")
    most = (side - 8) // 2
    if not 0 <= shift <= most:
        raise ValueError(f"`shift` must be in [0, {most}] for `side` = {side}, got {shift}")
    if photons is not None:
        _check_size(photons=photons)
    digits = _sklearn_datasets("`digit_images`").load_digits()
    count = digits.images.shape[0]
    rng = np.random.default_rng(seed)
    places = most + rng.integers(-shift, shift + 1, (count, 2))
    images = np.zeros((count, side, side))
    for image, digit, (row, column) in zip(images, digits.images, places, strict=True):
        image[row : row + 8, column : column + 8] = digit / 16.0
    if photons is not None:
        rates = _normalised(images.reshape(count, -1))
        images = rng.multinomial(photons, rates).reshape(images.shape).astype(float)
    return images, digits.target


def digits_pair(i: int = 0, j: int = 1, *, reg: float = 1 / 1200) -> TransportProblem:
    """Two handwritten digits (8 x 8 pixels) as histograms, background 0.01, squared distance (real data).

    Parameters
    ----------
    i, j : int
        Indices of the images in scikit-learn's digits set (1797 images).
    reg : float
        Regularisation; the cost is divided by its maximum.

    Returns
    -------
    TransportProblem
        ``info["labels"]`` holds the two digits.

    Raises
    ------
    ImportError
        If scikit-learn is missing; it is part of the extra ``demo``.
    """
    digits = _sklearn_datasets("`digits_pair`").load_digits()
    count = digits.images.shape[0]
    for name, index in (("i", i), ("j", j)):
        if not 0 <= index < count:
            raise ValueError(f"`{name}` must be in [0, {count}), got {index}")
    first, second = (_normalised(digits.images[k].ravel() / 16.0 + 0.01) for k in (i, j))
    y, x = (axis.ravel() for axis in np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"))
    points = np.column_stack([x, y])
    M = _cost(points, points, "sqeuclidean")
    return TransportProblem(
        f"digits-{i}-{j}",
        first,
        second,
        M / M.max(),
        reg,
        points,
        points,
        "sqeuclidean",
        {
            "cost_scale": float(M.max()),
            "image_shape": (8, 8),
            "labels": (int(digits.target[i]), int(digits.target[j])),
        },
    )


def photo_colours(n: int = 1000, *, seed: int = 0, reg: float = 1e-3) -> TransportProblem:
    """Colours of n random pixels of two photographs, a temple and a flower, as clouds in RGB (real data).

    Parameters
    ----------
    n : int
        Pixels drawn from each photograph, without replacement.
    seed : int
        Seed of the draw.
    reg : float
        Regularisation; the cost is the squared distance of colours in [0, 1]^3 divided by its maximum.

    Returns
    -------
    TransportProblem
        Colours repeat, so the clouds hold duplicated points.

    Raises
    ------
    ImportError
        If scikit-learn (or Pillow, which decodes the photographs) is missing; both are in the extra ``demo``.
    """
    _check_size(n=n)
    datasets = _sklearn_datasets("`photo_colours`")
    try:
        images = [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    except ImportError as exc:
        raise ImportError(
            "`photo_colours` needs Pillow to decode the photographs: pip install 'aitken[demo]'"
        ) from exc
    rng = np.random.default_rng(seed)
    clouds = []
    for image in images:
        pixels = image.reshape(-1, 3)
        if n > pixels.shape[0]:
            raise ValueError(f"`n` must be at most {pixels.shape[0]}, got {n}")
        clouds.append(pixels[rng.choice(pixels.shape[0], size=n, replace=False)] / 255.0)
    M = _cost(clouds[0], clouds[1], "sqeuclidean")
    scale = float(M.max())
    return TransportProblem(
        f"photos-n{n}-s{seed}",
        _uniform(n),
        _uniform(n),
        M / scale,
        reg,
        clouds[0],
        clouds[1],
        "sqeuclidean",
        {"cost_scale": scale},
    )


_PROBLEMS: dict[str, tuple[Callable[..., TransportProblem], dict[str, Any]]] = {
    "T1": (random_assignment, {}),
    "T2": (image_pair, {}),
    "T3": (image_pair, {"metric": "cityblock"}),
    "T4": (gaussian_clouds, {}),
    "T5": (interval_densities, {}),
    "T6": (random_batch, {}),
    "T7": (histogram_set, {}),
    "T8": (point_clouds, {}),
    "T9": (edge_case, {"kind": "zero_bins"}),
    "digits": (digits_pair, {}),
    "photos": (photo_colours, {}),
}


def transport_problem_names() -> tuple[str, ...]:
    """Return the names that `transport_problem` knows.

    Returns
    -------
    tuple of str
    """
    return tuple(_PROBLEMS)


def transport_problem(name: str, **options: Any) -> TransportProblem:
    """Make a test problem by name.

    Parameters
    ----------
    name : str
        ``"T1"`` to ``"T9"``, ``"digits"`` or ``"photos"``; see `transport_problem_names`.
    **options
        Options of the generator behind the name, e.g. ``n=200`` or ``reg=1e-4``.

    Returns
    -------
    TransportProblem

    Examples
    --------
    >>> from aitken.datasets import transport_problem
    >>> transport_problem("T4", n=100, m=80).M.shape
    (100, 80)
    """
    if name not in _PROBLEMS:
        raise ValueError(f"`name` must be one of {', '.join(_PROBLEMS)}, got {name!r}")
    make, fixed = _PROBLEMS[name]
    return make(**(fixed | options))
