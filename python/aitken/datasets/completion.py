"""Matrix completion problems: seeded low-rank and power-law ones, ratings, climate records, photographs.

The seeded ones need NumPy alone. The readers of real data read files that other packages have installed, or
that the user has; nothing is downloaded, and nothing is shipped.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _validate

Array = NDArray[Any]

__all__ = [
    "CompletionProblem",
    "image_with_gaps",
    "low_rank_problem",
    "power_law_pattern",
    "read_colorado_climate",
    "read_movielens_100k",
]


@dataclass(frozen=True, eq=False)
class CompletionProblem:
    """Known entries of a matrix, in coordinate form.

    Attributes
    ----------
    name : str
        Identifier that includes the parameters the problem was made with.
    rows, cols : ndarray of int64, shape (nnz,)
        Where the known entries are; no place twice.
    vals : ndarray of float64, shape (nnz,)
        The known entries.
    shape : (int, int)
        Rows and columns of the matrix.
    U, V : ndarray or None
        True factors, shape (rows, k) and (columns, k), where they are known: the matrix is ``U @ V.T``.
    info : dict
        Further facts, such as the level of the noise or the names of rows and columns.
    """

    name: str
    rows: Array
    cols: Array
    vals: Array
    shape: tuple[int, int]
    U: Any = None
    V: Any = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def nnz(self) -> int:
        """Number of known entries."""
        return len(self.vals)

    def to_dense(self) -> Array:
        """Return the matrix with NaN where it is not known, shape `shape`."""
        dense = np.full(self.shape, np.nan)
        dense[self.rows, self.cols] = self.vals
        return dense

    def split(self, fraction: float = 0.1, seed: int = 0) -> tuple[CompletionProblem, CompletionProblem]:
        """Hold out a random part of the entries.

        Parameters
        ----------
        fraction : float, default 0.1
            Part of the entries to hold out, in (0, 1); rounded to a whole number of them, and at least one
            stays on either side.
        seed : int
            The entries held out are the first of ``numpy.random.default_rng(seed).permutation(nnz)``.

        Returns
        -------
        train, test : CompletionProblem
            With the same shape and true factors.
        """
        fraction = _validate.real_scalar(
            "fraction", fraction, minimum=0.0, open_minimum=True, maximum=1.0, open_maximum=True
        )
        if self.nnz < 2:
            raise ValueError(f"`split` needs at least 2 entries, got {self.nnz}")
        order = np.random.default_rng(seed).permutation(self.nnz)
        cut = min(max(round(fraction * self.nnz), 1), self.nnz - 1)

        def part(which: str, some: Array) -> CompletionProblem:
            entries = (self.rows[some], self.cols[some], self.vals[some])
            return CompletionProblem(
                f"{self.name}-{which}{seed}", *entries, self.shape, self.U, self.V, self.info
            )

        return part("train", order[cut:]), part("test", order[:cut])


def _positive(**sizes: int) -> None:
    for name, value in sizes.items():
        _validate.integer(name, value, minimum=1)


# -------------------------------------------------------------------------------------------------- seeded


def low_rank_problem(
    n1: int = 1000,
    n2: int | None = None,
    *,
    rank: int = 5,
    oversampling: float = 4.0,
    cond: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> CompletionProblem:
    """Entries at random places of an incoherent matrix of known rank.

    The factors are orthonormal bases of random subspaces, the singular values fall geometrically from
    ``sqrt(n1 n2 / rank)`` by the factor `cond`, so that entries are of size 1 where ``cond = 1``. A matrix of
    rank k has ``k (n1 + n2 - k)`` degrees of freedom, and `oversampling` times as many entries are known.

    Parameters
    ----------
    n1, n2 : int
        Rows and columns; ``n2=None`` means n1.
    rank : int
        Rank of the matrix, at most ``min(n1, n2)``.
    oversampling : float
        Known entries per degree of freedom. From about 2 on recovery is to be expected.
    cond : float
        Ratio of the first to the last nonzero singular value, at least 1.
    noise : float
        Standard deviation of Gaussian noise on the known entries, relative to the root mean square of the
        matrix.
    seed : int
        Seed of factors, places and noise.

    Returns
    -------
    CompletionProblem
        With true factors ``U`` (its columns scaled by the singular values) and ``V`` (orthonormal).

    Raises
    ------
    ValueError
        For sizes below 1, a rank above ``min(n1, n2)``, ``cond < 1``, or more entries than the matrix has.

    Examples
    --------
    >>> from aitken.datasets import low_rank_problem
    >>> problem = low_rank_problem(60, 50, rank=2, oversampling=3.0)
    >>> problem.nnz == 3 * 2 * (60 + 50 - 2)
    True
    """
    n2 = n1 if n2 is None else n2
    _positive(n1=n1, n2=n2, rank=rank)
    if rank > min(n1, n2):
        raise ValueError(f"`rank` must be at most min(n1, n2) = {min(n1, n2)}, got {rank}")
    _validate.real_scalar("oversampling", oversampling, minimum=0.0, open_minimum=True)
    _validate.real_scalar("cond", cond, minimum=1.0)
    _validate.real_scalar("noise", noise, minimum=0.0)
    nnz = int(oversampling * rank * (n1 + n2 - rank))
    if not 1 <= nnz <= n1 * n2:
        raise ValueError(
            f"`oversampling` = {oversampling} asks for {nnz} entries of a matrix that has {n1 * n2}"
        )
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n1, rank)))[0]
    V = np.linalg.qr(rng.standard_normal((n2, rank)))[0]
    s = np.sqrt(n1 * n2 / rank) * np.geomspace(1.0, 1.0 / cond, rank)
    rows, cols = np.divmod(rng.choice(n1 * n2, nnz, replace=False), n2)
    U = U * s
    vals = np.einsum("ij,ij->i", U[rows], V[cols])
    rms = float(np.sqrt((s**2).sum() / (n1 * n2)))
    if noise:
        vals += noise * rms * rng.standard_normal(nnz)
    name = f"low-rank-{n1}x{n2}-k{rank}-rho{oversampling:g}-cond{cond:g}-noise{noise:g}-s{seed}"
    info = {"rms": rms, "noise": noise, "cond": cond, "oversampling": oversampling}
    return CompletionProblem(name, rows, cols, vals, (n1, n2), U, V, info)


def power_law_pattern(
    n1: int = 69878,
    n2: int = 10677,
    *,
    draws: int = 10_000_000,
    exponent: float = 0.9,
    offset: float = 10.0,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Places of entries as in ratings: a few rows and columns have very many, most have few.

    Row i is drawn with probability proportional to ``(i + offset)**-exponent``, i = 0, 1, ..., column j
    likewise and independently; places drawn more than once count once. The defaults have the shape of a well
    known set of ten million film ratings, and 7.17 million places.

    Parameters
    ----------
    n1, n2 : int
        Rows and columns.
    draws : int
        Pairs drawn.
    exponent, offset : float
        Of the power law; `exponent` at least 0, `offset` above 0.
    seed : int
        Seed of the draws.

    Returns
    -------
    rows, cols : ndarray of int64
        Places, by rows and by columns in each.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.datasets import power_law_pattern
    >>> rows, cols = power_law_pattern(200, 100, draws=3000)
    >>> degrees = np.bincount(rows)
    >>> bool(degrees.max() > 3 * degrees.mean())
    True
    """
    _positive(n1=n1, n2=n2, draws=draws)
    _validate.real_scalar("exponent", exponent, minimum=0.0)
    _validate.real_scalar("offset", offset, minimum=0.0, open_minimum=True)
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> Array:
        total = np.cumsum((np.arange(n) + offset) ** -exponent)
        return np.minimum(np.searchsorted(total, rng.random(draws) * total[-1], side="right"), n - 1)

    places = np.sort(drawn(n1) * np.int64(n2) + drawn(n2))  # several times as fast as np.unique
    rows, cols = np.divmod(places[np.diff(places, prepend=-1) > 0], n2)
    return rows, cols


# ------------------------------------------------------------------------------------------------ real data


def read_movielens_100k(path: str | os.PathLike[str] | None = None) -> CompletionProblem:
    """Film ratings: 100000 of them, by 943 users for 1682 films, 1 to 5 stars (real data).

    The ratings belong to GroupLens and are not part of this package. They are read from the installed
    package ``recbole``, which ships them as an example (it is not imported), or from a file.

    Parameters
    ----------
    path : path, optional
        A file of ratings in GroupLens's form: ``u.data`` (user, item, rating, time, between tabs) or
        ``ratings.csv`` (the same between commas, below a line of names), of any of their sets.

    Returns
    -------
    CompletionProblem
        Users are rows, films columns, both in the order of their numbers; ``info`` has these numbers as
        ``"users"`` and ``"items"`` and the seconds since 1970 of each rating as ``"times"``.

    Raises
    ------
    ImportError
        If no path is given and the package is not installed.
    FileNotFoundError
        If the file is not there.
    ValueError
        If the file has fewer than four columns, or lines that are no numbers.
    """
    if path is None:
        spec = importlib.util.find_spec("recbole")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(
                "`read_movielens_100k` reads a file that recbole ships, and it is not installed: "
                "pip install --no-deps recbole, or pass `path`"
            )
        home = Path(next(iter(spec.submodule_search_locations)))
        path = home / "dataset_example" / "ml-100k" / "ml-100k.inter"
    file = Path(path)
    with file.open(encoding="utf-8") as lines:
        first = lines.readline()
    delimiter = "\t" if "\t" in first else ","
    try:
        named = not first.split(delimiter)[0].strip().isdigit()
        table = np.loadtxt(file, delimiter=delimiter, skiprows=int(named), usecols=(0, 1, 2, 3), ndmin=2)
    except (ValueError, IndexError) as error:
        raise ValueError(f"`path` is no table of user, item, rating and time: {file.name}: {error}") from None
    users, rows = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    items, cols = np.unique(table[:, 1].astype(np.int64), return_inverse=True)
    info = {"users": users, "items": items, "times": table[:, 3].astype(np.int64)}
    return CompletionProblem(
        file.stem, rows.astype(np.int64), cols.astype(np.int64), table[:, 2].copy(),
        (len(users), len(items)), info=info,
    )  # fmt: skip


# Where R and Debian keep installed packages; R_LIBS and R_LIBS_USER come before them.
_R_LIBRARIES = (
    "/usr/lib/R/site-library",
    "/usr/local/lib/R/site-library",
    "/usr/lib/R/library",
    "/usr/lib64/R/library",
    "/usr/share/R/library",
)


def _r_file(package: str, name: str) -> Path | None:
    """A data file of an installed R package."""
    own = [p for key in ("R_LIBS", "R_LIBS_USER") for p in os.environ.get(key, "").split(os.pathsep) if p]
    for library in (*own, *_R_LIBRARIES):
        file = Path(library).expanduser() / package / "data" / name
        if file.is_file():
            return file
    return None


def read_colorado_climate(
    name: Literal["tmax", "tmin", "ppt"] = "tmax", path: str | os.PathLike[str] | None = None
) -> Array:
    """Monthly climate of Colorado: 103 years of 376 stations, most of it missing (real data).

    The records come with ``fields``, a package of R (in Debian: ``r-cran-fields``), and are read through
    ``rdata``; R itself is not needed. Nothing is shipped.

    Parameters
    ----------
    name : {"tmax", "tmin", "ppt"}
        Mean daily maximum or minimum of the temperature in degrees Celsius, or precipitation of the month
        in centimetres.
    path : path, optional
        The file ``COmonthlyMet.rda``; by default it is looked for where R keeps its packages.

    Returns
    -------
    ndarray of float64, shape (1236, 376)
        A row per month from January 1895 on, a column per station; NaN where there is no record.

    Raises
    ------
    ImportError
        If ``rdata`` is not installed.
    FileNotFoundError
        If the file is not there.
    ValueError
        For another name, or a file without these records.
    """
    _validate.choice("name", name, ("tmax", "tmin", "ppt"))
    try:
        import rdata
    except ImportError as error:
        raise ImportError(
            f"`read_colorado_climate` needs rdata to read files of R ({error}): pip install rdata"
        ) from error
    file = _r_file("fields", "COmonthlyMet.rda") if path is None else Path(path)
    if file is None:
        raise FileNotFoundError(
            "COmonthlyMet.rda of R's package fields is not installed "
            "(Debian: apt-get install r-cran-fields); pass `path` to a copy of it"
        )
    if not file.is_file():
        raise FileNotFoundError(f"`path` is no file: {file}")
    record = rdata.read_rda(file).get(f"CO.{name}")
    if record is None or np.ndim(record) != 3:
        raise ValueError(f"`path` holds no records CO.{name}: {file.name}")
    years = np.asarray(record, dtype=float)  # years x months x stations
    return np.ascontiguousarray(years.reshape(-1, years.shape[2]))


def image_with_gaps(
    name: Literal["china", "flower"] = "china",
    *,
    missing: float = 0.5,
    colour: bool = False,
    step: int = 1,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Photograph as a matrix, and the same with pixels missing at random (real data).

    Parameters
    ----------
    name : {"china", "flower"}
        Which of the photographs that scikit-learn ships, 427 x 640 pixels.
    missing : float
        Part of the pixels to drop, at least 0 and below 1.
    colour : bool
        Red, green and blue side by side, three times as many columns, instead of their mean weighted by
        brightness. A pixel that is missing is missing in all three.
    step : int
        Keep every so many rows and columns.
    seed : int
        Seed of the choice of pixels.

    Returns
    -------
    image, gaps : ndarray of float64, shape (rows, columns)
        The photograph, values in [0, 1], and the same with NaN for what is missing.

    Raises
    ------
    ImportError
        If scikit-learn (or Pillow, which decodes the photographs) is missing; both are in the extra ``demo``.
    ValueError
        For another name, or numbers out of range.
    """
    _validate.choice("name", name, ("china", "flower"))
    _validate.real_scalar("missing", missing, minimum=0.0, maximum=1.0, open_maximum=True)
    _positive(step=step)
    try:
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    except ImportError as error:
        raise ImportError(
            f"`image_with_gaps` needs scikit-learn and Pillow ({error}): pip install 'aitken[demo]'"
        ) from error
    channels = pixels[::step, ::step] / 255.0
    gone = np.random.default_rng(seed).random(channels.shape[:2]) < missing
    if colour:
        image = np.concatenate([channels[:, :, c] for c in range(3)], axis=1)
        gone = np.tile(gone, 3)
    else:
        image = channels @ np.array([0.299, 0.587, 0.114])  # weights of brightness, ITU-R BT.601
    return image, np.where(gone, np.nan, image)
