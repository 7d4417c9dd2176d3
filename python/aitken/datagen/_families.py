"""Families of parametrised linear systems on one sparsity pattern each, sampled and assembled in blocks."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from ._fields import gaussian_random_field, stream

__all__ = ["Family", "families", "make_family"]

Array = NDArray[Any]
Grid = int | Sequence[int]


class Family:
    """A family of systems ``A(p) x = b(p)`` with one sparsity pattern; subclass it, or imitate it.

    A subclass sets `indptr`, `indices` and, where solutions are fields, `shape`, and writes `parameters` and
    `assemble`. Samples are pure functions of seed and index, and rows of `assemble` must not depend on which
    other samples are in the block: then data sets do not depend on workers or interruptions.

    Attributes
    ----------
    name : str
        Recorded in data sets.
    indptr, indices : ndarray of int32 or int64, shapes (n + 1,) and (nnz,)
        The CSR pattern, columns ascending in each row.
    shape : tuple of int
        Shape of a solution field as stored.
    symmetric, positive_definite, same_matrix : bool
        Facts of every matrix: ``A = A^T``; also ``x^T A x > 0``; ``A`` is one and the same for all samples.
    mask : ndarray of bool, shape `shape`, or None
        Where fields are defined, for domains that do not fill the box; stored with the data.
    options : dict
        What the family was made with; recorded in data sets, and has to agree when a run is resumed.

    Examples
    --------
    >>> from aitken.datagen import make_family
    >>> family = make_family("darcy", 16, coefficient="binary")
    >>> a = np.stack([family.parameters(seed=0, i=i) for i in range(3)])
    >>> data, b = family.assemble(a)
    >>> data.shape == (3, family.nnz), b.shape
    (True, (3, 256))
    """

    name: str = "custom"
    indptr: Array
    indices: Array
    shape: tuple[int, ...] = ()
    symmetric: bool = False
    positive_definite: bool = False
    same_matrix: bool = False
    mask: Array | None = None

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = options

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of entries of the pattern."""
        return len(self.indices)

    def parameters(self, seed: int, i: int) -> Array:
        """Parameters of sample `i`: an array of float64, the same shape for all samples."""
        raise NotImplementedError(f"{type(self).__name__} defines no `parameters`")

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        """Entries (N, nnz) and right-hand sides (N, n) for a block of parameters (N, ...).

        What is common to all samples may be given once: a read-only broadcast along the first axis.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no `assemble`")

    def sort_key(self, parameters: Array) -> Array:
        """What systems are sorted by, (N, ...); default the parameters themselves."""
        return parameters

    def inputs(self, parameters: Array) -> Array:
        """What a neural operator sees, (N, ...): a field or scalars; default the parameters themselves."""
        return parameters

    def scalars(self, parameters: Array) -> Array | None:
        """Further parameters (N, p) stored as ``params`` where `inputs` does not hold them; default None."""
        return None

    def unpack(self, x: Array, parameters: Array) -> Array:
        """Solutions (N, n) as the fields (N, *shape) that are stored."""
        return x.reshape(x.shape[0], *(self.shape or (self.n,)))

    def coordinates(self) -> tuple[Array, ...]:
        """Coordinates along each axis of a stored field; default unit spacing."""
        return tuple(np.arange(s, dtype=np.float64) for s in self.shape)


def _shape(grid: Any, ndim: int, minimum: int) -> tuple[int, ...]:
    """`grid` as points per axis: one int for all, or one for each."""
    if isinstance(grid, Sequence) and not isinstance(grid, str):
        if len(grid) != ndim:
            raise ValueError(f"`grid` must be an int or {ndim} of them; got {grid!r}")
        return tuple(_validate.integer("grid", g, minimum=minimum) for g in grid)
    return (_validate.integer("grid", grid, minimum=minimum),) * ndim


def _along(axis: int, part: slice | int) -> tuple[Any, ...]:
    """Index of a block of fields: `part` of one spatial axis, all of the rest."""
    return (slice(None),) * (axis + 1) + (part,)


class _Stencil:
    """CSR pattern of the nearest-neighbour stencil on a box of cells, some of which may be left out.

    Attributes
    ----------
    indptr, indices : ndarray of int32
        The pattern, columns ascending.
    diagonal : ndarray, shape (n,)
        Where each diagonal entry lies in the data.
    faces : list of (lo, hi)
        Per axis: the rows on both sides of every inner face.
    upper, lower : list of ndarray
        Per axis and face: where the entries (lo, hi) and (hi, lo) lie.
    """

    def __init__(self, shape: tuple[int, ...], inside: Array | None = None) -> None:
        ndim = len(shape)
        if math.prod(shape) * (2 * ndim + 1) >= 2**31:
            raise ValueError(f"`grid` gives {math.prod(shape)} cells; the pattern would need 64-bit indices")
        inside = np.ones(shape, dtype=bool) if inside is None else inside
        n = int(inside.sum())
        number = np.full(shape, -1, dtype=np.int64)
        number[inside] = np.arange(n)
        self.faces: list[tuple[Array, Array]] = []
        column = np.full((n, 2 * ndim + 1), -1, dtype=np.int64)  # lower axes, diagonal, upper axes reversed
        column[:, ndim] = np.arange(n)
        for axis in range(ndim):
            lo = np.moveaxis(number, axis, 0)[:-1]
            hi = np.moveaxis(number, axis, 0)[1:]
            # back in the order of the fields, so that block views and face lists agree
            lo, hi = (np.moveaxis(side, 0, axis).ravel() for side in (lo, hi))
            both = (lo >= 0) & (hi >= 0)
            lo, hi = lo[both], hi[both]
            column[hi, axis] = lo
            column[lo, 2 * ndim - axis] = hi
            self.faces.append((lo, hi))
        present = column >= 0
        place = np.cumsum(present).reshape(present.shape) - 1
        self.indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int32)
        self.indices = column[present].astype(np.int32)
        self.diagonal = place[:, ndim]
        self.upper = [place[lo, 2 * ndim - axis] for axis, (lo, _) in enumerate(self.faces)]
        self.lower = [place[hi, axis] for axis, (_, hi) in enumerate(self.faces)]


class _BoxFamily(Family):
    """Systems on a box of cells or nodes with the nearest-neighbour stencil.

    Equations are scaled by the square of the smallest spacing, so that a uniform grid has the entries
    2 d and -1 of the plain Laplacian.
    """

    def __init__(self, stencil_shape: tuple[int, ...], inside: Array | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._stencil = _Stencil(stencil_shape, inside)
        self.indptr, self.indices = self._stencil.indptr, self._stencil.indices

    def _laplacian(self, weights: Sequence[float], dirichlet: float) -> Array:
        """Entries of -Laplacian with weight w per axis; boundary faces add ``dirichlet * w``. All cells."""
        s = self._stencil
        data = np.zeros(self.nnz)
        diagonal = np.zeros(self.n)
        for axis, w in enumerate(weights):
            lo, hi = s.faces[axis]
            data[s.upper[axis]] = data[s.lower[axis]] = -w
            faces = np.bincount(lo, minlength=self.n) + np.bincount(hi, minlength=self.n)
            diagonal += w * (faces + dirichlet * (2 - faces))
        data[s.diagonal] = diagonal
        return data


# ----------------------------------------------------------------------------------------------- coefficients


def _coefficient(kind: str, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """A positive coefficient field of the named law."""
    if kind == "binary":
        return np.where(gaussian_random_field(generator, shape, 2.0, 3.0) >= 0, 12.0, 3.0)
    return np.exp((8.0 if kind == "rough" else 1.0) * gaussian_random_field(generator, shape, 2.5, 7.0))


_COEFFICIENTS = ("lognormal", "rough", "binary")


def _diffusion(stencil: _Stencil, a: Array, weights: Sequence[float], out: Array) -> Array:
    """Finite-volume diffusion of cell coefficients `a` (N, *shape) with u = 0 on the boundary.

    Harmonic means on inner faces, half cells at the boundary. Writes the entries off the diagonal to `out`
    (N, nnz) and returns the diagonal (N, n). Per face 5 flops and about 48 bytes.
    """
    count = a.shape[0]
    diagonal = np.zeros_like(a)
    for axis, w in enumerate(weights):
        lo, hi = _along(axis, slice(None, -1)), _along(axis, slice(1, None))
        t = a[lo] * a[hi]
        t *= 2.0 * w
        t /= a[lo] + a[hi]
        diagonal[lo] += t
        diagonal[hi] += t
        np.negative(t, out=t)
        flat = t.reshape(count, -1)
        out[:, stencil.upper[axis]] = flat
        out[:, stencil.lower[axis]] = flat
        for end in (0, -1):
            diagonal[_along(axis, end)] += 2.0 * w * a[_along(axis, end)]
    return diagonal.reshape(count, -1)


class Darcy(_BoxFamily):
    """``-div(a grad u) = 1`` on the unit square or cube, ``u = 0`` on its boundary.

    Cell-centred finite volumes with harmonic means on the faces: symmetric positive definite M-matrices.

    Parameters
    ----------
    grid : int or sequence of int
        Cells per side, at least 2.
    coefficient : {"lognormal", "rough", "binary"}
        ``exp(g)`` or ``exp(8 g)`` of a Gaussian random field (alpha 2.5, tau 7), or 12 where a field
        (alpha 2, tau 3) is at least 0 and 3 elsewhere.
    """

    name = "darcy"
    symmetric = positive_definite = True
    ndim = 2

    def __init__(self, grid: Grid, *, coefficient: str = "lognormal") -> None:
        self.shape = _shape(grid, self.ndim, 2)
        _validate.choice("coefficient", coefficient, _COEFFICIENTS)
        super().__init__(self.shape, coefficient=coefficient)
        self._weights = [(s / max(self.shape)) ** 2 for s in self.shape]

    def parameters(self, seed: int, i: int) -> Array:
        return _coefficient(self.options["coefficient"], self.shape, stream(seed, i))

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        count = parameters.shape[0]
        data = np.empty((count, self.nnz))
        data[:, self._stencil.diagonal] = _diffusion(self._stencil, parameters, self._weights, data)
        return data, np.broadcast_to(1.0 / max(self.shape) ** 2, (count, self.n))

    def sort_key(self, parameters: Array) -> Array:
        return np.log(parameters)

    def coordinates(self) -> tuple[Array, ...]:
        return tuple((np.arange(s) + 0.5) / s for s in self.shape)


class Darcy3D(Darcy):
    """`Darcy` in three dimensions, on the unit cube; the fields have the same alpha and tau."""

    name = "darcy3d"
    ndim = 3


class ConvectionDiffusion(_BoxFamily):
    """``-div(a grad u) + v . grad u = 1`` on the unit cube, ``u = 0`` on its boundary; nonsymmetric.

    Finite volumes as in `Darcy`, first-order upwind convection: nonsymmetric M-matrices. The velocity is
    constant in space, its direction uniform on the sphere.

    Parameters
    ----------
    grid : int or sequence of int
        Cells per side, at least 2.
    coefficient : {"lognormal", "rough", "binary", "constant"}
        The law of `a` as in `Darcy`; ``"constant"`` is ``a = 1``, so that the velocity alone varies.
    speed : tuple of float, default (50, 200)
        Range of the speed, uniformly distributed.
    """

    name = "convection-diffusion"

    def __init__(
        self, grid: Grid, *, coefficient: str = "lognormal", speed: Sequence[float] = (50.0, 200.0)
    ) -> None:
        self.shape = _shape(grid, 3, 2)
        _validate.choice("coefficient", coefficient, (*_COEFFICIENTS, "constant"))
        if not isinstance(speed, Sequence) or isinstance(speed, str) or len(speed) != 2:
            raise ValueError(f"`speed` must be a pair of numbers; got {speed!r}")
        low = _validate.tolerance("speed", speed[0])
        high = _validate.real_scalar("speed", speed[1], minimum=low)
        super().__init__(self.shape, coefficient=coefficient, speed=[low, high])
        self._weights = [(s / max(self.shape)) ** 2 for s in self.shape]

    def parameters(self, seed: int, i: int) -> Array:
        """Velocity along the three axes, followed by the coefficient of every cell unless it is constant."""
        generator = stream(seed, i)
        low, high = self.options["speed"]
        v = generator.standard_normal(3)
        v *= (low + (high - low) * generator.random()) / math.sqrt(float((v * v).sum()))
        if self.options["coefficient"] == "constant":
            return v
        return np.concatenate([v, _coefficient(self.options["coefficient"], self.shape, generator).ravel()])

    def _split(self, parameters: Array) -> tuple[Array, Array]:
        count = parameters.shape[0]
        if self.options["coefficient"] == "constant":
            return parameters, np.ones((count, *self.shape))
        return parameters[:, :3], parameters[:, 3:].reshape(count, *self.shape)

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        v, a = self._split(parameters)
        count, s, finest = len(v), self._stencil, max(self.shape)
        data = np.empty((count, self.nnz))
        diagonal = _diffusion(s, a, self._weights, data)
        for axis, cells in enumerate(self.shape):
            rate = v[:, axis, None] * (cells / finest**2)
            data[:, s.upper[axis]] += np.minimum(rate, 0.0)
            data[:, s.lower[axis]] -= np.maximum(rate, 0.0)
            diagonal += np.abs(rate)  # what flows out, through inner faces and the boundary alike
        data[:, s.diagonal] = diagonal
        return data, np.broadcast_to(1.0 / finest**2, (count, self.n))

    def sort_key(self, parameters: Array) -> Array:
        return self._split(parameters)[0]

    def inputs(self, parameters: Array) -> Array:
        v, a = self._split(parameters)
        return v if self.options["coefficient"] == "constant" else a

    def scalars(self, parameters: Array) -> Array | None:
        return None if self.options["coefficient"] == "constant" else parameters[:, :3]

    def coordinates(self) -> tuple[Array, ...]:
        return tuple((np.arange(s) + 0.5) / s for s in self.shape)


class DarcyPublished(_BoxFamily):
    """The matrix behind the published "Darcy" data of Krylov recycling; not a discretisation of Darcy flow.

    With the weight ``w = exp(g)`` at the inner points of an (q + 2) x (q + 2) field (alpha 2.5, tau 7),
    column j of the five-point Laplacian is multiplied by ``w_j``, and the entries on the diagonal q above the
    main one take the weight two places too early; ``b = 1 / (q - 1)**2``. Nonsymmetric.

    Parameters
    ----------
    grid : int
        Points per side, q >= 3.
    as_published : bool, default True
        Keep the slip of two places; without it the matrix is exactly ``Laplacian @ diag(w)``.
    """

    name = "darcy-published"

    def __init__(self, grid: int, *, as_published: bool = True) -> None:
        q = _validate.integer("grid", grid, minimum=3)
        self.shape = (q, q)
        super().__init__(self.shape, as_published=_validate.boolean("as_published", as_published))

    def parameters(self, seed: int, i: int) -> Array:
        """The weight at the inner points, shape (q, q)."""
        return self._weight(stream(seed, i))

    def _weight(self, generator: np.random.Generator) -> Array:
        q = self.shape[0]
        return np.exp(gaussian_random_field(generator, (q + 2, q + 2), 2.5, 7.0)[1:-1, 1:-1])

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        count, q, s = parameters.shape[0], self.shape[0], self._stencil
        w = parameters.reshape(count, -1)
        data = np.empty((count, self.nnz))
        data[:, s.diagonal] = 4.0 * w
        for axis, (lo, hi) in enumerate(s.faces):
            slip = 2 if axis == 0 and self.options["as_published"] else 0
            data[:, s.upper[axis]] = -w[:, hi - slip]
            data[:, s.lower[axis]] = -w[:, lo]
        return data, np.broadcast_to(1.0 / (q - 1) ** 2, (count, self.n))

    def coordinates(self) -> tuple[Array, ...]:
        return tuple(np.arange(s) / (s - 1.0) for s in self.shape)


class HelmholtzPublished(DarcyPublished):
    """The published "Helmholtz" data: `DarcyPublished` minus ``h**2 kappa**2``, kappa uniform on (0, 1).

    The term is at most 1e-4 of the diagonal on the published grids, so the systems are those of
    `DarcyPublished` numerically.

    Parameters
    ----------
    grid, as_published
        As in `DarcyPublished`.
    """

    name = "helmholtz-published"

    def parameters(self, seed: int, i: int) -> Array:
        """The wavenumber, followed by the weight at the inner points."""
        generator = stream(seed, i)
        return np.concatenate([[generator.random()], self._weight(generator).ravel()])

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        data, b = super().assemble(self.inputs(parameters))
        data[:, self._stencil.diagonal] -= (parameters[:, :1] / (self.shape[0] - 1)) ** 2
        return data, b

    def sort_key(self, parameters: Array) -> Array:
        return self.inputs(parameters)

    def inputs(self, parameters: Array) -> Array:
        return parameters[:, 1:].reshape(-1, *self.shape)

    def scalars(self, parameters: Array) -> Array | None:
        return parameters[:, :1]


class Helmholtz(_BoxFamily):
    """``-Laplacian u - (k c)**2 u = 100 exp(-200 |x - (0.3, 0.4)|**2)`` on the unit square, ``u = 0`` around.

    Five-point differences at the inner nodes; real symmetric, indefinite. The speed field is
    ``c = 1 + 0.15 p0 sin(2 pi x) sin(pi y) + 0.15 p1 cos(pi x) sin(3 pi y)`` with p uniform on (-1, 1).

    Parameters
    ----------
    grid : int or sequence of int
        Inner nodes per side, at least 2.
    wavenumber : float, default 12
        k; resolve the wave: at least ten nodes per ``2 pi / k``.
    """

    name = "helmholtz"
    symmetric = True

    def __init__(self, grid: Grid, *, wavenumber: float = 12.0) -> None:
        self.shape = _shape(grid, 2, 2)
        wavenumber = _validate.tolerance("wavenumber", wavenumber)
        super().__init__(self.shape, wavenumber=wavenumber)
        y, x = np.meshgrid(*self.coordinates(), indexing="ij")
        self._h2 = 1.0 / (max(self.shape) + 1) ** 2
        weights = [((s + 1) / (max(self.shape) + 1)) ** 2 for s in self.shape]
        self._data = self._laplacian(weights, dirichlet=1.0)
        self._waves = (
            0.15 * np.sin(2 * np.pi * x) * np.sin(np.pi * y),
            0.15 * np.cos(np.pi * x) * np.sin(3 * np.pi * y),
        )
        self._b = self._h2 * (100.0 * np.exp(-200.0 * ((x - 0.3) ** 2 + (y - 0.4) ** 2))).ravel()

    def parameters(self, seed: int, i: int) -> Array:
        """p0 and p1."""
        return stream(seed, i).uniform(-1.0, 1.0, 2)

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        count = parameters.shape[0]
        data = np.broadcast_to(self._data, (count, self.nnz)).copy()
        shift = self.inputs(parameters).reshape(count, -1) * self.options["wavenumber"]
        data[:, self._stencil.diagonal] -= self._h2 * shift**2
        return data, np.broadcast_to(self._b, (count, self.n))

    def inputs(self, parameters: Array) -> Array:
        """The speed field c, (N, *grid)."""
        p = parameters[:, :, None, None]
        return 1.0 + p[:, 0] * self._waves[0] + p[:, 1] * self._waves[1]

    def scalars(self, parameters: Array) -> Array | None:
        return parameters

    def coordinates(self) -> tuple[Array, ...]:
        return tuple((np.arange(s) + 1.0) / (s + 1) for s in self.shape)


class Poisson(_BoxFamily):
    """``-Laplacian u = f(x)`` on the unit square with Dirichlet data, all sums of Chebyshev polynomials.

    Five-point differences on a uniform grid, which stands in for the published triangles; one matrix.
    Source and edge values are ``sum_k c_k T_k``, k = 0..5, in the physical coordinate, c uniform on (-1, 1).

    Parameters
    ----------
    grid : int or sequence of int
        Nodes per side, with those on the boundary, at least 3.
    vertical : {"published", "y"}
        The vertical edges' polynomials run in x, as published, and are constants there; or in y.
    """

    name = "poisson"
    symmetric = positive_definite = same_matrix = True

    def __init__(self, grid: Grid, *, vertical: str = "published") -> None:
        self.shape = _shape(grid, 2, 3)
        _validate.choice("vertical", vertical, ("published", "y"))
        super().__init__(tuple(s - 2 for s in self.shape), vertical=vertical)
        self._h2 = 1.0 / (max(self.shape) - 1) ** 2
        self._weights = [((s - 1) / (max(self.shape) - 1)) ** 2 for s in self.shape]
        self._data = self._laplacian(self._weights, dirichlet=1.0)

    def parameters(self, seed: int, i: int) -> Array:
        """Coefficients (5, 6) of the source, and of the edges y = 0, y = 1, x = 0, x = 1."""
        return stream(seed, i).uniform(-1.0, 1.0, (5, 6))

    def _boundary(self, parameters: Array) -> Array:
        """Fields that hold the source inside and the edge values around it."""
        y, x = self.coordinates()

        def chebyshev(c: Array, t: Array) -> Array:
            previous, current = np.ones_like(t), t
            total = c[:, 0, None] * previous + c[:, 1, None] * current
            for k in range(2, 6):
                previous, current = current, 2.0 * t * current - previous
                total += c[:, k, None] * current
            return total

        along = self.options["vertical"] == "y"
        out = np.empty((parameters.shape[0], *self.shape))
        out[:] = chebyshev(parameters[:, 0], x)[:, None, :]
        out[:, :, 0] = chebyshev(parameters[:, 3], y if along else np.zeros(1))
        out[:, :, -1] = chebyshev(parameters[:, 4], y if along else np.ones(1))
        out[:, 0] = chebyshev(parameters[:, 1], x)
        out[:, -1] = chebyshev(parameters[:, 2], x)
        return out

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        count = parameters.shape[0]
        g = self._boundary(parameters)
        b = self._h2 * g[:, 1:-1, 1:-1]
        for axis, end in ((0, 0), (0, -1), (1, 0), (1, -1)):
            edge = g[_along(axis, end)][:, 1:-1]
            b[_along(axis, end)] += self._weights[axis] * edge
        return np.broadcast_to(self._data, (count, self.nnz)), b.reshape(count, -1)

    def inputs(self, parameters: Array) -> Array:
        """Fields (N, *grid) with the source at inner nodes and the Dirichlet values at those on the edges."""
        return self._boundary(parameters)

    def scalars(self, parameters: Array) -> Array | None:
        return parameters.reshape(parameters.shape[0], -1)

    def unpack(self, x: Array, parameters: Array) -> Array:
        out = self._boundary(parameters)
        out[:, 1:-1, 1:-1] = x.reshape(x.shape[0], *(s - 2 for s in self.shape))
        return out

    def coordinates(self) -> tuple[Array, ...]:
        return tuple(np.arange(s) / (s - 1.0) for s in self.shape)


_SLOT = (0.4, 0.05)  # half its height and width


class Thermal(_BoxFamily):
    """Steady heat in the block |x| <= 0.5, |y| <= 0.8 with the slot |x| <= 0.05, |y| <= 0.4 cut out.

    Unit conductivity, cell-centred finite volumes on a structured grid, which stands in for the published
    triangles; cells whose centre lies in the slot are left out. The left edge has a temperature, the right
    edge a heat flux, the rest is insulated. One matrix.

    Parameters
    ----------
    grid : int or pair of int
        Cells across, W >= 10, with 1.6 W rows; or (rows, columns).
    boundary : {"flux", "temperatures"}
        ``"flux"``: left temperature uniform on (0, 100), right flux into the block uniform on (-100, 0).
        ``"temperatures"``: left uniform on (-100, 0), right on (0, 100).
    """

    name = "thermal"
    symmetric = positive_definite = same_matrix = True

    def __init__(self, grid: Grid, *, boundary: str = "flux") -> None:
        if not isinstance(grid, Sequence):
            columns = _validate.integer("grid", grid, minimum=10)
            grid = (round(1.6 * columns), columns)
        self.shape = _shape(grid, 2, 10)
        _validate.choice("boundary", boundary, ("flux", "temperatures"))
        y, x = np.meshgrid(*self.coordinates(), indexing="ij")
        self.mask = ~((np.abs(x) < _SLOT[1]) & (np.abs(y) < _SLOT[0]))
        super().__init__(self.shape, self.mask, boundary=boundary)
        spacing = np.array([1.6 / self.shape[0], 1.0 / self.shape[1]])
        finest = float(spacing.min())
        data = self._laplacian(((finest / spacing) ** 2).tolist(), dirichlet=0.0)
        column = np.nonzero(self.mask)[1]
        self._left, self._right = column == 0, column == self.shape[1] - 1
        held = 2.0 * (finest / spacing[1]) ** 2  # half a cell between centre and edge
        data[self._stencil.diagonal[self._left]] += held
        self._per_left = self._per_right = held
        if boundary == "temperatures":
            data[self._stencil.diagonal[self._right]] += held
        else:
            self._per_right = finest**2 / float(spacing[1])
        self._data = data

    def parameters(self, seed: int, i: int) -> Array:
        """The values on the left and on the right edge."""
        left, right = stream(seed, i).uniform(0.0, 100.0, 2)
        return np.array([left, -right] if self.options["boundary"] == "flux" else [-left, right])

    def assemble(self, parameters: Array) -> tuple[Array, Array]:
        count = parameters.shape[0]
        b = np.zeros((count, self.n))
        b[:, self._left] = self._per_left * parameters[:, :1]
        b[:, self._right] = self._per_right * parameters[:, 1:]
        return np.broadcast_to(self._data, (count, self.nnz)), b

    def unpack(self, x: Array, parameters: Array) -> Array:
        """Temperatures, with zeros in the slot (see `mask`)."""
        out = np.zeros((x.shape[0], *self.shape))
        out[:, self.mask] = x
        return out

    def coordinates(self) -> tuple[Array, ...]:
        rows, columns = self.shape
        return 1.6 * ((np.arange(rows) + 0.5) / rows - 0.5), (np.arange(columns) + 0.5) / columns - 0.5


_FAMILIES: dict[str, Callable[..., Family]] = {
    family.name: family
    for family in (
        Darcy,
        DarcyPublished,
        Helmholtz,
        HelmholtzPublished,
        Poisson,
        Thermal,
        Darcy3D,
        ConvectionDiffusion,
    )
}


def families() -> tuple[str, ...]:
    """Names of the families that come with the package.

    Examples
    --------
    >>> from aitken.datagen import families
    >>> families()[:3]
    ('darcy', 'darcy-published', 'helmholtz')
    """
    return tuple(_FAMILIES)


_NEEDED = ("indptr", "indices", "parameters", "assemble")


class _Imitation(Family):
    """A foreign object with the methods of a family; what it lacks is `Family`'s default."""

    def __init__(self, other: Any) -> None:
        super().__init__(**getattr(other, "options", {}))
        for name in ("name", "indptr", "indices", "shape", "symmetric", "positive_definite", "same_matrix"):
            if hasattr(other, name):
                setattr(self, name, getattr(other, name))
        self.mask = getattr(other, "mask", None)
        for name in ("parameters", "assemble", "sort_key", "inputs", "scalars", "unpack", "coordinates"):
            if hasattr(other, name):
                setattr(self, name, getattr(other, name))


def make_family(kind: Any, grid: Any = None, **options: Any) -> Family:
    """The family of that name, of a user's function, or the family itself.

    Parameters
    ----------
    kind : str, callable or Family
        A name of `families`; ``"module:function"``; a function or class called as ``kind(grid, **options)``
        that gives a `Family` or an object with its methods; or such an object.
    grid : int or sequence of int
        Points per side; its exact meaning is the family's.
    **options
        The family's own options.

    Returns
    -------
    Family

    Raises
    ------
    TypeError
        For options that the family does not have, and objects that are no family.
    ValueError
        For unknown names, and a pattern that is no CSR pattern.
    ImportError
        Where the module or its function is not found.

    Examples
    --------
    >>> from aitken.datagen import make_family
    >>> make_family("helmholtz", 32, wavenumber=24).symmetric
    True
    """
    if isinstance(kind, str) and ":" in kind:
        module, _, attribute = kind.partition(":")
        if not module or not attribute:
            raise ValueError(f"`kind` must be a name or 'module:function'; got {kind!r}")
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except AttributeError:
            raise ImportError(f"`kind`: module {module!r} has no {attribute!r}") from None
    elif isinstance(kind, str):
        kind = _FAMILIES[_validate.choice("kind", kind, _FAMILIES)]
    made = kind
    if isinstance(kind, type) or not all(hasattr(kind, name) for name in _NEEDED):
        if not callable(kind):
            raise TypeError(
                f"`kind` must be a name, 'module:function' or a family, not {type(kind).__name__}"
            )
        _check_options(kind, options)
        made = kind(grid, **options)
    elif options:
        raise TypeError(f"`{next(iter(options))}` cannot be set on a family that is made already")
    missing = [name for name in _NEEDED if not hasattr(made, name)]
    if missing:
        raise TypeError(f"`kind` gave a {type(made).__name__}, which has no `{missing[0]}`")
    family = made if isinstance(made, Family) else _Imitation(made)
    _check_pattern(family)
    return family


def _check_options(function: Callable[..., Any], options: dict[str, Any]) -> None:
    """TypeError that names an option which `function` does not take."""
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in C, no signature to read
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        return
    named = [p for p in taken if p != "grid"]
    name = str(getattr(function, "name", function.__name__))
    _validate.no_unknown_keywords(name, [o for o in options if o not in named], named)


def _check_pattern(family: Family) -> None:
    for name in ("indptr", "indices"):
        array = np.asarray(getattr(family, name))
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TypeError(f"`{name}` must be a 1-D integer array; got {array.dtype} of shape {array.shape}")
    indptr, indices = np.asarray(family.indptr), np.asarray(family.indices)
    n = indptr.size - 1
    if n < 1 or indptr[0] != 0 or indptr[-1] != indices.size or np.any(np.diff(indptr) < 0):
        raise ValueError(f"`indptr` must rise from 0 to len(indices) = {indices.size}")
    if indices.size and (indices.min() < 0 or indices.max() >= n):
        raise ValueError(f"`indices` must lie in [0, {n}); got {indices.min()} to {indices.max()}")
    row_start = np.zeros(indices.size, dtype=bool)
    row_start[indptr[:-1][np.diff(indptr) > 0]] = True
    if np.any((np.diff(indices) <= 0) & ~row_start[1:]):
        raise ValueError("`indices` must ascend in each row, without duplicates")
