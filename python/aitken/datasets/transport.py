"""Seeded transport problems: assignment, images, clouds, histograms, edge cases, two real data sets.

Only NumPy is needed, except for the two real data sets, which read the files that scikit-learn ships.
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
    "digits_pair",
    "edge_case",
    "gaussian_clouds",
    "histogram_set",
    "image_pair",
    "interval_densities",
    "photo_colours",
    "point_clouds",
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
        Pixels per side; each pixel centre is a bin.
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
    M = _cost(points, points, metric)
    scale = float(M.max()) or 1.0
    return TransportProblem(
        f"images-{side}x{side}-{metric}",
        _normalised(ring + 0.01),
        _normalised(bar + 0.01),
        M / scale,
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
