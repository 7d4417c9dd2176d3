"""The Poisson operator of a regular grid with obstacles, without a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator

from .. import _core, _validate

Array = NDArray[Any]

FLUID, SOLID, DIRICHLET = 0, 1, 2
_SIDES = ("dirichlet", "neumann")


def _sides(exterior: Any, ndim: int) -> tuple[Any, ...]:
    """What lies beyond the two ends of each axis: "periodic", or a pair."""
    given = (exterior,) * ndim if isinstance(exterior, str) else exterior
    if not isinstance(given, Sequence) or len(given) != ndim:
        raise ValueError(
            f"`exterior` must be one name, or one entry for each of the {ndim} axes, got {exterior!r}"
        )
    out = []
    for a, side in enumerate(given):
        if side == "periodic":
            out.append(side)
            continue
        pair = (side, side) if isinstance(side, str) else side
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"`exterior[{a}]` must be a name or a pair of names, got {side!r}")
        for end in pair:
            if end not in _SIDES:
                allowed = '"dirichlet", "neumann" or, for both ends, "periodic"'
                raise ValueError(f"`exterior[{a}]` must be {allowed}, got {end!r}")
        out.append(tuple(pair))
    return tuple(out)


def _spacing(spacing: Any, ndim: int) -> tuple[float, ...]:
    if np.ndim(spacing) == 0:
        return (_validate.positive_scalar("spacing", spacing),) * ndim
    if len(spacing) != ndim:
        raise ValueError(f"`spacing` must be one number or {ndim}, got {len(spacing)}")
    return tuple(_validate.positive_scalar(f"spacing[{a}]", h) for a, h in enumerate(spacing))


class GridPoisson(LinearOperator):
    """The negative Laplacian of a 2-D or 3-D grid of cells, some of them solid or held at zero.

    ``(A x)_i = sum_j w_ij (x_i - x_j) + shift x_i`` over the neighbours j of each FLUID cell i, where
    ``w = conductance / spacing^2`` of the face between them; x_j = 0 in DIRICHLET cells and beyond DIRICHLET
    sides, and faces towards SOLID cells and beyond Neumann sides conduct nothing. Cells that are not FLUID
    are no unknowns: as entries of vectors of all cells they are ignored, and zero in results. A is symmetric
    positive semidefinite, and definite where every connected region of fluid touches a DIRICHLET face or
    `shift` is positive.

    Parameters
    ----------
    shape : tuple of 1, 2 or 3 ints
        Cells along each axis.
    flags : array_like, shape `shape`, optional
        bool with True for FLUID, or integers with FLUID = 0, SOLID = 1, DIRICHLET = 2. Default: all FLUID.
    spacing : float or one per axis, default 1.0
        Width of a cell. 1.0 is the stencil without scale: 2 d on the diagonal inside.
    exterior : {"dirichlet", "neumann", "periodic"} or tuple, default "dirichlet"
        What lies beyond the box, for all sides, or for each axis a name or a pair (lower side, upper side).
        x = 0 at the centres of the cells that would come next beyond a DIRICHLET side.
    conductance : sequence of array_like or None, one per axis, optional
        Of the faces normal to each axis: array a has shape `shape` with one more entry along axis a, the
        first and last of which are the box's faces. At least 0: 1 / density, or the open part of a cut face.
        On periodic axes the first must equal the last. None: 1.
    shift : float, default 0.0
        At least 0, added to the diagonal: an implicit step of the heat equation, Helmholtz with its good
        sign.

    Attributes
    ----------
    shape : tuple of int
        (N, N) with N the number of all cells.
    grid_shape : tuple of int
    n_fluid : int
        Unknowns.
    n_components, n_singular : int
        Connected regions of fluid, and how many of them determine x up to a constant only.

    Raises
    ------
    TypeError, ValueError
        For wrong shapes, unknown flags or sides, spacings that are not positive, conductances or shifts that
        are negative or not finite.

    Notes
    -----
    Vectors may have the shape of the grid, (N,), or hold the FLUID cells alone in C order, (n_fluid,):
    `apply` and the solvers take each of these; as a SciPy operator it acts on (N,).

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import GridPoisson
    >>> A = GridPoisson((3, 4))
    >>> A.apply(np.ones((3, 4))).astype(int)
    array([[2, 1, 1, 2],
           [1, 0, 0, 1],
           [2, 1, 1, 2]])
    """

    def __init__(
        self,
        shape: Sequence[int],
        flags: Any = None,
        *,
        spacing: Any = 1.0,
        exterior: Any = "dirichlet",
        conductance: Any = None,
        shift: float = 0.0,
    ) -> None:
        if isinstance(shape, int | np.integer) or not isinstance(shape, Sequence):
            raise TypeError(f"`shape` must be a tuple of 1, 2 or 3 integers, got {shape!r}")
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"`shape` must have 1, 2 or 3 entries, got {tuple(shape)!r}")
        self.grid_shape = tuple(_validate.integer(f"shape[{a}]", n, minimum=1) for a, n in enumerate(shape))
        self.spacing = _spacing(spacing, self.ndim_grid)
        self.exterior = _sides(exterior, self.ndim_grid)
        scale = [(1.0 / h) ** 2 if h > 1e-150 else np.inf for h in self.spacing]
        if not all(np.isfinite(s) and s > 0 for s in scale):
            raise ValueError(f"`spacing` must have finite inverse squares, got {spacing!r}")
        wide = [s for s, n in zip(scale, self.grid_shape, strict=True) if n > 1]
        # What the axes share needs no array of faces.
        self._variable = conductance is not None or len(set(wide)) > 1
        common = wide[0] if wide else scale[0]
        axes = scale if self._variable else [common] * self.ndim_grid
        self._lead = 3 - self.ndim_grid
        n_cells = int(np.prod(self.grid_shape))
        super().__init__(dtype=np.dtype(np.float64), shape=(n_cells, n_cells))
        self._native = _core.PoissonGrid(
            self.ndim_grid,
            (1,) * self._lead + self.grid_shape,
            (False,) * self._lead + tuple(side == "periodic" for side in self.exterior),
            (axes[0],) * self._lead + tuple(axes),
            self._variable,
        )
        self._flags: Array | None = None
        self._faces: tuple[Array | None, ...] = (None,) * self.ndim_grid
        self.shift = 0.0
        self.update(flags, conductance=conductance, shift=shift)

    @property
    def ndim_grid(self) -> int:
        """Axes of the grid."""
        return len(self.grid_shape)

    @property
    def n_fluid(self) -> int:
        """FLUID cells."""
        return int(self._native.n_fluid)

    @property
    def n_components(self) -> int:
        """Connected regions of fluid."""
        return int(self._native.n_components)

    @property
    def n_singular(self) -> int:
        """Regions whose solution is determined up to a constant only."""
        return int(self._native.n_singular)

    @property
    def flags(self) -> Array:
        """A copy of the cells' kinds: uint8, shape of the grid."""
        if self._flags is None:
            return np.zeros(self.grid_shape, dtype=np.uint8)
        return self._flags.copy()

    @property
    def fluid(self) -> Array:
        """Which cells are FLUID: bool, shape of the grid."""
        return self.flags == FLUID

    # ---- changing the coefficients -------------------------------------------------------------------

    def update(self, flags: Any = None, *, conductance: Any = None, shift: float | None = None) -> Self:
        """Take new obstacles or coefficients on the same grid, in O(N); what is not given stays.

        Parameters
        ----------
        flags : array_like, shape of the grid, optional
        conductance : sequence of array_like or None, optional
            Only for a grid that was made with conductances or different spacings.
        shift : float, optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            As for the class; the operator is then as before.
        """
        new_flags = self._flags if flags is None else self._checked_flags(flags)
        new_faces = self._faces if conductance is None else self._checked_faces(conductance)
        new_shift = self.shift if shift is None else _validate.tolerance("shift", shift)
        sides = (("neumann",) * 2,) * self._lead + self.exterior
        ends = tuple(
            (False, False) if side == "periodic" else tuple(end == "dirichlet" for end in side)
            for side in sides
        )
        self._native.update(new_flags, (None,) * self._lead + new_faces, ends, new_shift)
        self._flags, self._faces, self.shift = new_flags, new_faces, new_shift
        return self

    def _checked_flags(self, flags: Any) -> Array:
        given = np.asarray(flags)
        if given.shape != self.grid_shape:
            raise ValueError(f"`flags` has shape {given.shape}; the grid has {self.grid_shape}")
        if given.dtype == np.bool_:
            return np.where(given, np.uint8(FLUID), np.uint8(SOLID))
        if given.dtype.kind not in "iu":
            raise TypeError(
                f"`flags` has dtype {given.dtype}; bool (True = fluid) or integers 0, 1, 2 are needed"
            )
        if given.size and not (given.min() >= 0 and given.max() <= DIRICHLET):
            worst = given.max() if given.max() > DIRICHLET else given.min()
            raise ValueError(f"`flags` holds {worst}; 0 (FLUID), 1 (SOLID) and 2 (DIRICHLET) are known")
        return np.array(given, dtype=np.uint8, order="C")

    def _checked_faces(self, conductance: Any) -> tuple[Array | None, ...]:
        if not self._variable:
            raise ValueError("`conductance` cannot be given to a grid that was made without; make a new one")
        if not isinstance(conductance, Sequence) or len(conductance) != self.ndim_grid:
            raise TypeError(f"`conductance` must be a sequence of {self.ndim_grid} arrays, one per axis")
        out: list[Array | None] = []
        for a, faces in enumerate(conductance):
            if faces is None:
                out.append(None)
                continue
            name = f"conductance[{a}]"
            wanted = tuple(n + (k == a) for k, n in enumerate(self.grid_shape))
            array = np.array(_validate.as_float_array(name, faces, shape=wanted), dtype=np.float64, order="C")
            _validate.check_nonnegative(name, array)
            if self.exterior[a] == "periodic":
                ends = np.take(array, [0, -1], axis=a)
                if not np.array_equal(np.take(ends, 0, axis=a), np.take(ends, 1, axis=a)):
                    raise ValueError(
                        f"`{name}` differs between the first and the last face of periodic axis {a}"
                    )
            out.append(array)
        return tuple(out)

    # ---- vectors -------------------------------------------------------------------------------------

    def form(self, name: str, x: Any) -> bool:
        """Whether a vector holds the FLUID cells alone.

        Raises
        ------
        ValueError
            For a shape that is neither the grid's, (N,), (N, 1), (n_fluid,) nor (n_fluid, 1).
        """
        shape = np.shape(x)
        if shape == self.grid_shape or shape in ((self.shape[0],), (self.shape[0], 1)):
            return False
        if shape in ((self.n_fluid,), (self.n_fluid, 1)):
            return True
        raise ValueError(
            f"`{name}` has shape {shape}; {self.grid_shape}, ({self.shape[0]},) or, for the fluid cells "
            f"alone, ({self.n_fluid},) is needed"
        )

    def apply(self, x: Any) -> Array:
        """``A x`` in the shape of `x`: the grid's, (N,), or (n_fluid,) for the FLUID cells alone.

        Raises
        ------
        TypeError, ValueError
            For complex numbers and other shapes.
        """
        given = np.ascontiguousarray(_validate.as_float_array("x", x), dtype=np.float64)
        compact = self.form("x", given)
        out = np.empty_like(given)
        self._native.apply(given, out, compact)
        return out

    def _matvec(self, x: Array) -> Array:
        if x.dtype.kind == "c":
            return self._matvec(x.real) + 1j * self._matvec(x.imag)
        given = np.ascontiguousarray(x, dtype=np.float64)
        out = np.empty_like(given)
        self._native.apply(given, out, False)
        return out

    def _rmatvec(self, x: Array) -> Array:
        return self._matvec(x)

    def diagonal(self) -> Array:
        """The diagonal in the shape of the grid; zero where a cell is not FLUID."""
        return np.asarray(self._native.diagonal(False)).reshape(self.grid_shape)

    def labels(self) -> Array:
        """The number of each cell's region, -1 where it is not FLUID: int32, shape of the grid.

        Regions 0 .. `n_singular` - 1 are those whose solution is determined up to a constant only.
        """
        return np.asarray(self._native.labels()).reshape(self.grid_shape)

    def project(self, x: Any) -> tuple[Array, float]:
        """`x` with its means over singular regions taken off, and the 2-norm of what was taken.

        Raises
        ------
        TypeError, ValueError
            For complex numbers and other shapes.
        """
        given = np.ascontiguousarray(_validate.as_float_array("x", x), dtype=np.float64)
        compact = self.form("x", given)
        out = np.empty_like(given)
        taken = self._native.project(given, out, compact)
        return out, float(taken)

    def compress(self, x: Any) -> Array:
        """The FLUID cells of a vector of all cells, in C order."""
        return np.asarray(x).reshape(self.grid_shape)[self.fluid]

    def expand(self, x: Any) -> Array:
        """The grid with a vector of the FLUID cells, and zeros elsewhere."""
        values = np.asarray(x)
        out = np.zeros(self.grid_shape, dtype=values.dtype)
        out[self.fluid] = values.reshape(-1)
        return out

    def tocsr(self, *, compact: bool = True) -> sparse.csr_array:
        """The matrix.

        Parameters
        ----------
        compact : bool, default True
            Of the FLUID cells alone, (n_fluid, n_fluid); else (N, N) with zero rows for the others.

        Returns
        -------
        csr_array of float64, rows sorted
        """
        fluid = self.fluid
        number = np.full(self.grid_shape, -1, dtype=np.int64)
        size = self.n_fluid if compact else self.shape[0]
        number[fluid] = np.arange(self.n_fluid) if compact else np.flatnonzero(fluid)
        rows, cols, data = [], [], []
        for a, side in enumerate(self.exterior):
            n = self.grid_shape[a]
            if n == 1:
                continue
            wraps = side == "periodic"
            upper = np.arange(0 if wraps else 1, n)
            faces = self._faces[a]
            at, below = np.take(number, upper, axis=a), np.take(number, upper - 1, axis=a, mode="wrap")
            w = np.ones(at.shape) if faces is None else np.take(faces, upper, axis=a)
            joined = (at >= 0) & (below >= 0) & (w > 0)
            values = -w[joined] / self.spacing[a] ** 2
            rows += [at[joined], below[joined]]
            cols += [below[joined], at[joined]]
            data += [values, values]
        rows.append(number[fluid])
        cols.append(number[fluid])
        data.append(np.asarray(self._native.diagonal(True)))
        matrix = sparse.coo_array(
            (np.concatenate(data), (np.concatenate(rows), np.concatenate(cols))), shape=(size, size)
        ).tocsr()
        matrix.sort_indices()
        return matrix

    def __reduce__(self) -> tuple[Any, ...]:
        faces = self._faces if self._variable else None
        return _rebuild, (
            type(self),
            self.grid_shape,
            self._flags,
            self.spacing,
            self.exterior,
            faces,
            self.shift,
        )

    def __repr__(self) -> str:
        return f"<GridPoisson {' x '.join(map(str, self.grid_shape))}, {self.n_fluid} fluid cells>"


def _rebuild(
    kind: type[GridPoisson], shape: Any, flags: Any, spacing: Any, exterior: Any, faces: Any, shift: float
) -> GridPoisson:
    return kind(shape, flags, spacing=spacing, exterior=exterior, conductance=faces, shift=shift)
