"""Models of the inverse, made ready for one operator."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft as scipy_fft
from scipy import sparse
from scipy.sparse.linalg import LinearOperator

from .. import _core, _dispatch, _validate
from ._grid_poisson import GridPoisson
from ._operators import System, as_inverse, as_system, scalar_type
from ._preconditioners import IC0, SSOR, BlockJacobi, Chebyshev, Jacobi

Array = NDArray[Any]

MATRIX_MODELS = ("identity", "jacobi", "mic0")
CYCLES = ("mg", "mg_v", "learned_mg")
NETWORKS = ("dcdm2d", "dcdm64", "dcdm128")
NAMES = ("auto", *MATRIX_MODELS, *CYCLES, "fft", *NETWORKS)
_SYMMETRIC = (Jacobi, BlockJacobi, SSOR, IC0, Chebyshev)  # definite where the matrix is
_RELAXED = 0.97  # share of the dropped fill that goes to the diagonal
_MOST_SHIFT = 0.05  # a modified factorisation that needs more is worse than a plain one


@dataclass(frozen=True)
class Multigrid:
    """Conductance multigrid as a model: one cycle, symmetric positive definite, for a `GridPoisson`.

    Parameters
    ----------
    cycle : {"W", "V"}, default "W"
        Whether a level visits the coarser one twice or once.
    smoother : {"chebyshev", "jacobi"}, default "chebyshev"
        A Chebyshev polynomial before and after the coarse correction; or damped Jacobi sweeps before it, and
        the same in reverse order after it.
    omega : sequence of float, optional
        Damping of the Jacobi sweeps, 1 to 8 numbers; default twice 0.8, in three dimensions 0.857.
    degree : int, default 3
        Of the Chebyshev polynomial, 1 to 8.
    lower_ratio : float, default 4.0
        It damps the part of the spectrum above 1 / `lower_ratio` of its upper end.
    learned : LearnedMultigrid, optional
        Weights, as from `load_model`, in place of `omega`.

    Raises
    ------
    TypeError, ValueError
        For unknown names, a degree out of range, and sweeps that are not positive definite.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import GridPoisson, Multigrid, deep_conjugate_direction
    >>> A, b = GridPoisson((64, 64)), np.ones((64, 64))
    >>> deep_conjugate_direction(A, b, model=Multigrid("V", smoother="chebyshev")).nit <= 6
    True
    """

    cycle: str = "W"
    smoother: str = "chebyshev"
    omega: Sequence[float] | None = None
    degree: int = 3
    lower_ratio: float = 4.0
    learned: Any = None

    linear = True
    spd = True

    def __post_init__(self) -> None:
        _validate.choice("cycle", self.cycle, ("W", "V"))
        _validate.choice("smoother", self.smoother, ("jacobi", "chebyshev"))
        _validate.integer("degree", self.degree, minimum=1, maximum=8)
        _validate.real_scalar("lower_ratio", self.lower_ratio, minimum=1.0, open_minimum=True)
        if self.omega is not None:
            if self.smoother != "jacobi":
                raise ValueError(f"`omega` is of Jacobi sweeps, but `smoother` is {self.smoother!r}")
            sweeps = tuple(_validate.real_scalar("omega", w) for w in self.omega)
            object.__setattr__(self, "omega", sweeps)

    @property
    def name(self) -> str:
        """As results say it."""
        if self.learned is not None:
            return "learned_mg"
        return "mg" if self.cycle == "W" else "mg_v"

    def native_options(self) -> tuple[Any, ...]:
        """What the compiled modules make a cycle of."""
        return (
            2 if self.cycle == "W" else 1,
            self.smoother,
            list(self.omega or ()),
            self.degree,
            self.lower_ratio,
            None if self.learned is None else self.learned.weights(),
        )

    def native(self, grid: GridPoisson) -> Any:
        """The compiled cycle on a grid."""
        return _core.MultigridCycle(grid._native, *self.native_options())


@dataclass
class Target:
    """The operator of a solve: a grid, a matrix or operator, or a matrix that is known to be a grid's."""

    given: Any  # as models see it
    grid: GridPoisson | None
    system: System | None

    @property
    def on_grid(self) -> bool:
        """Whether vectors are the grid's."""
        return self.system is None

    @property
    def length(self) -> int:
        """Numbers of a vector of all unknowns and, on a grid, other cells."""
        if self.system is not None:
            return self.system.n
        assert self.grid is not None
        return int(self.grid.shape[0])

    @property
    def compact(self) -> bool:
        """Whether vectors of a matrix that is a grid's hold the FLUID cells alone."""
        return self.system is not None and self.grid is not None and self.system.n == self.grid.n_fluid

    def needs_grid(self, name: str) -> GridPoisson:
        """The grid, or TypeError."""
        if self.grid is None:
            raise TypeError(
                f"`model` is {name!r}, which works on a grid, but `A` is no GridPoisson; pass one, or for a "
                "matrix that is a grid's `grid=(shape, flags)`"
            )
        return self.grid

    def matrix(self) -> System | None:
        """The entries, where there are any; on a grid those of the FLUID cells."""
        if self.system is not None:
            return self.system if self.system.has_entries else None
        assert self.grid is not None
        return as_system(self.grid.tocsr())


@dataclass
class Ready:
    """A model made ready for one operator."""

    name: str
    linear: bool = False
    spd: bool = False
    native: Any = None  # a compiled cycle or map; None: the identity
    calls_python: bool = False
    network: bool = False
    fast: bool = False  # needs a handful of steps on every grid
    refresh: Callable[[], None] | None = None  # after the grid's coefficients have changed


def make_target(A: Any, grid: Any = None) -> Target:
    """Check `A` and `grid`.

    Raises
    ------
    TypeError, ValueError
        For what is no real square operator, and a matrix that is not the grid's.
    numpy.linalg.LinAlgError
        For a zero or NaN on the diagonal of a matrix; the message names the row.
    """
    if isinstance(A, GridPoisson):
        if grid is not None:
            raise TypeError("`grid` belongs to a matrix, but `A` is a GridPoisson, which has its own")
        return Target(A, A, None)
    if scalar_type(A=A).kind == "c":
        raise TypeError("`A` is complex; a real symmetric matrix is needed")
    system = as_system(A, check_finite=False)
    if system.has_entries:
        _check_diagonal(system, empty_rows=grid is not None)
        system = as_system(A)
    if grid is None:
        return Target(A, None, system)
    return Target(A, _matching_grid(system, grid), system)


def _check_diagonal(system: System, *, empty_rows: bool) -> None:
    """LinAlgError for the first row without a diagonal; a grid's cells without equation are empty rows."""
    assert system.csr is not None
    diagonal = _diagonal(system)
    bad = (diagonal == 0) | np.isnan(diagonal)
    if empty_rows:
        bad &= np.diff(system.csr[0]) > 0
    if bad.any():
        row = int(np.argmax(bad))
        raise np.linalg.LinAlgError(f"`A`: the diagonal of row {row} is {diagonal[row]:g}")


def _matching_grid(system: System, grid: Any) -> GridPoisson:
    """The grid whose operator the matrix is, up to a positive factor."""
    if isinstance(grid, GridPoisson):
        poisson = grid
    else:
        if not isinstance(grid, Sequence) or isinstance(grid, str) or len(grid) != 2:
            raise TypeError(f"`grid` must be a GridPoisson or a pair (shape, flags), not {grid!r}")
        poisson = GridPoisson(grid[0], grid[1])
    if not system.has_entries:
        raise TypeError("`grid` needs a matrix, whose entries can be compared; `A` is an operator")
    if system.n not in (poisson.n_fluid, poisson.shape[0]):
        raise ValueError(
            f"`A` has {system.n} rows, but `grid` has {poisson.n_fluid} fluid cells of {poisson.shape[0]}"
        )
    own = poisson.tocsr(compact=system.n == poisson.n_fluid)
    assert system.csr is not None
    given = sparse.csr_array((system.csr[2], system.csr[1], system.csr[0]), shape=own.shape)
    given.eliminate_zeros()
    same = given.nnz == own.nnz and np.array_equal(given.indptr, own.indptr)
    if not same or not np.array_equal(given.indices, own.indices):
        raise ValueError("`A` and `grid` have entries in different places: `A` is not that grid's operator")
    if own.nnz == 0:
        return poisson
    scale = float(given.data @ own.data) / float(own.data @ own.data)
    off = np.abs(given.data - scale * own.data).max()
    if scale < 0:
        raise ValueError(f"`A` is {scale:.3g} times the operator of `grid`; a positive multiple is needed")
    if not scale > 0 or off > 1e-9 * np.abs(given.data).max():
        raise ValueError(
            f"`A` and `grid` have other entries: `A` is no positive multiple of that grid's operator (they "
            f"differ by {off:.3g} at best)"
        )
    return poisson


# -------------------------------------------------------------------------------------------------- models


def make_ready(model: Any, target: Target, *, role: str = "model", unit_norm: bool = False) -> Ready:
    """Make a model ready.

    Parameters
    ----------
    model : str, path, model object, LinearOperator, matrix or callable
    target : Target
    role : {"model", "fallback"}
        The parameter that messages speak of.
    unit_norm : bool
        The loop gives residuals that are not normalised: do that for a nonlinear model.
    """
    if isinstance(model, str) and model in NAMES:
        return _by_name(model, target)
    if isinstance(model, str | os.PathLike):
        model = _from_file(model, role)
    if type(model).__name__ == "LearnedMultigrid" and hasattr(model, "weights"):
        model = Multigrid("V", learned=model)
    if isinstance(model, Multigrid):
        return _cycle(model, target)
    if hasattr(model, "setup") and callable(model.setup):
        return _from_object(model, target, role, unit_norm)
    if isinstance(model, LinearOperator) or sparse.issparse(model) or isinstance(model, np.ndarray):
        return _linear(model, target, role)
    if callable(model):
        return _from_callable(model, target, role, unit_norm)
    raise TypeError(
        f"`{role}` must be one of {', '.join(map(repr, NAMES))}, a model, a file of one, a LinearOperator or "
        f"a callable, not {type(model).__name__}"
    )


def _by_name(name: str, target: Target) -> Ready:
    if name == "auto":
        return _automatic(target)
    if name == "identity":
        return Ready(name, True, True)
    if name in ("mg", "mg_v"):
        return _cycle(Multigrid("W" if name == "mg" else "V"), target)
    if name == "fft":
        return _fft(target)
    if name == "learned_mg":
        from ._deepcg_files import load_model

        grid = target.needs_grid(name)
        if grid.ndim_grid == 1:
            raise ValueError("`model` 'learned_mg' is for 2 or 3 axes; the grid has 1")
        return _cycle(Multigrid("V", learned=load_model(f"learned_mg_{grid.ndim_grid}d")), target)
    if name in NETWORKS:
        from ._deepcg_files import load_model

        target.needs_grid(name)
        return make_ready(load_model(name), target)
    return _factorised(name, target)


def _automatic(target: Target) -> Ready:
    if target.grid is not None:
        return _by_name("mg", target)
    if target.matrix() is None:
        return _by_name("identity", target)
    try:
        return _factorised("mic0", target)
    except np.linalg.LinAlgError:
        pass
    system = target.matrix()
    assert system is not None
    ready = _factorised("jacobi", target)
    # A negative diagonal: not definite, which the iteration without a model finds soonest.
    return ready if (_diagonal(system) > 0).all() else _by_name("identity", target)


def _diagonal(system: System) -> Array:
    assert system.csr is not None
    indptr, indices, data = system.csr
    diagonal: Array = sparse.csr_array((data, indices, indptr), shape=(system.n, system.n)).diagonal()
    return diagonal


def _factorised(name: str, target: Target) -> Ready:
    """Jacobi's or a Cholesky factorisation of the matrix."""
    if target.on_grid:
        grid = target.needs_grid(name)
        ready = Ready(name, True, True)

        def refresh() -> None:
            ready.native = _factor(name, as_system(grid.tocsr()))

        ready.refresh = refresh
        refresh()
        return ready
    system = target.matrix()
    if system is None:
        raise TypeError(f"`model` is {name!r}, which is made from the entries of `A`, but `A` is an operator")
    return Ready(name, True, True, _factor(name, system))


def _factor(name: str, system: System) -> Any:
    if system.n == 0:
        return None
    if name == "jacobi":
        return Jacobi(_definable(system))._native_map
    try:
        modified = IC0(_definable(system), modified=_RELAXED)
        if modified.shift <= _MOST_SHIFT:
            return modified._native_map
    except np.linalg.LinAlgError:
        pass
    return IC0(_definable(system))._native_map


def _definable(system: System) -> System:
    """The matrix with ones on the diagonal of rows that are zero, so that it can be factorised."""
    assert system.csr is not None
    indptr, indices, data = system.csr
    matrix = sparse.csr_array((data, indices, indptr), shape=(system.n, system.n))
    empty = np.abs(matrix).sum(axis=1) == 0
    if not empty.any():
        return system
    ones = np.where(empty, 1.0, 0.0)
    return as_system(sparse.csr_array(matrix + sparse.diags_array(ones, format="csr")))


def _cycle(model: Multigrid, target: Target) -> Ready:
    grid = target.needs_grid(model.name)
    native = model.native(grid)
    if target.on_grid:
        return Ready(model.name, True, True, native, fast=True, refresh=native.update)
    return Ready(model.name, True, True, _core.cycle_map(native, target.compact), fast=True)


def _fft(target: Target) -> Ready:
    grid = target.needs_grid("fft")
    ready = Ready("fft", True, True, calls_python=True)

    def refresh() -> None:
        solve = fft_solver(grid)
        apply = (lambda r: grid.compress(solve(grid.expand(r)))) if target.compact else solve
        ready.native = _core.callback_map(target.length, apply, None, False, "model", False)

    refresh()
    if target.on_grid:
        ready.refresh = refresh
    return ready


def _axis_transform(
    side: Any, n: int, xp: Any, fft: Any
) -> tuple[Callable[..., Array], Callable[..., Array], Array]:
    """Forward and backward transform along an axis and the eigenvalues of its second difference."""
    if n == 1 and side == "periodic":  # the cell is its own neighbour
        return (lambda x, axis: x), (lambda x, axis: x), np.zeros(1)
    if side == "periodic":
        angle = math.pi * np.arange(n) / n
        return fft.fft, fft.ifft, 4 * np.sin(angle) ** 2
    if side == ("neumann", "neumann"):
        angle = math.pi * np.arange(n) / (2 * n)
        return (
            lambda x, axis: _line(xp, fft.dctn, x, axis, 2),
            lambda x, axis: _line(xp, fft.idctn, x, axis, 2),
            4 * np.sin(angle) ** 2,
        )
    if side == ("dirichlet", "dirichlet"):
        angle = math.pi * np.arange(1, n + 1) / (2 * (n + 1))
        return (
            lambda x, axis: _line(xp, fft.dstn, x, axis, 1),
            lambda x, axis: _line(xp, fft.idstn, x, axis, 1),
            4 * np.sin(angle) ** 2,
        )
    # One end each: the axis with its mirror image beyond the Neumann end has two Dirichlet ends.
    angle = math.pi * np.arange(1, 2 * n + 1) / (2 * (2 * n + 1))
    mirrored_first = side[0] == "neumann"

    def forward(x: Array, axis: int) -> Array:
        parts = [xp.flip(x, axis), x] if mirrored_first else [x, xp.flip(x, axis)]
        return _line(xp, fft.dstn, xp.concatenate(parts, axis=axis), axis, 1)

    def backward(x: Array, axis: int) -> Array:
        both = _line(xp, fft.idstn, x, axis, 1)
        return xp.take(both, xp.arange(n, 2 * n) if mirrored_first else xp.arange(n), axis=axis)

    return forward, backward, 4 * np.sin(angle) ** 2


def _line(xp: Any, transform: Callable[..., Array], x: Array, axis: int, kind: int) -> Array:
    if xp.iscomplexobj(x):
        return transform(x.real, type=kind, axes=[axis]) + 1j * transform(x.imag, type=kind, axes=[axis])
    return transform(x, type=kind, axes=[axis])


def fft_solver(grid: GridPoisson, xp: Any = np, fft: Any = scipy_fft) -> Callable[[Array], Array]:
    """r -> mask * inverse(mask * r) with the operator of the whole box without obstacles.

    `xp` and `fft`: NumPy and its transforms, or those of arrays on a GPU.
    """
    axes = [_axis_transform(side, n, xp, fft) for side, n in zip(grid.exterior, grid.grid_shape, strict=True)]
    values = np.zeros(())
    for (_, _, line), h in zip(axes, grid.spacing, strict=True):
        values = np.add.outer(values, line / h**2)
    values = values + grid.shift
    # The null space of the box, if it has one: any positive value keeps the model definite.
    smallest = values[values > 1e-13 * values.max()].min(initial=math.inf)
    values = np.where(values > 1e-13 * values.max(), values, smallest if math.isfinite(smallest) else 1.0)
    values, mask, shape = xp.asarray(values), xp.asarray(grid.fluid), grid.grid_shape
    # Complex transforms last and first, so that the others see real numbers wherever that is possible.
    order = sorted(range(len(axes)), key=lambda a: grid.exterior[a] == "periodic")

    def solve(r: Array) -> Array:
        x: Array = xp.where(mask, xp.asarray(r).reshape(shape), 0.0)
        for a in order:
            x = axes[a][0](x, axis=a)
        x = x / values
        for a in reversed(order):
            x = axes[a][1](x, axis=a)
        return xp.where(mask, x.real, 0.0).ravel()

    return solve


def _from_file(name: Any, role: str) -> Any:
    text = os.fspath(name)
    if not (os.sep in text or text.endswith((".npz", ".safetensors")) or os.path.exists(text)):
        from ._deepcg_files import list_models

        _validate.choice(role, text, list(dict.fromkeys([*NAMES, *list_models()])))  # names the nearest
    from ._deepcg_files import load_model

    return load_model(name)


def _name_of(model: Any) -> str:
    for name in (getattr(model, "name", None), getattr(model, "__name__", None)):
        if isinstance(name, str):
            return name
    return type(model).__name__


def _from_object(model: Any, target: Target, role: str, unit_norm: bool) -> Ready:
    """An object with `setup`, whose state has `apply` or a native map."""
    ndim = getattr(model, "ndim", None)
    name = _name_of(model)
    if ndim is not None:
        grid = target.needs_grid(name)
        if grid.ndim_grid != ndim:
            raise ValueError(f"`{role}` {name!r} is for grids of {ndim} axes; the grid has {grid.ndim_grid}")
    given = target.given if target.grid is None else target.grid
    ready = Ready(
        name,
        bool(getattr(model, "linear", False)),
        bool(getattr(model, "spd", False)),
        network=not getattr(model, "linear", False),
    )

    def refresh() -> None:
        state = model.setup(given)
        native = getattr(state, "_native_map", None)
        if native is not None:
            ready.native = native
            return
        apply = state.apply
        if target.grid is not None and not target.on_grid and target.compact:
            whole = target.grid

            def apply(r: Array) -> Array:
                return whole.compress(state.apply(whole.expand(r)))

        made = _from_callable(apply, target, role, unit_norm and not ready.linear)
        ready.native, ready.calls_python = made.native, True

    refresh()
    ready.refresh = refresh
    return ready


def _linear(model: Any, target: Target, role: str) -> Ready:
    """A LinearOperator or a matrix, linear but not known to be symmetric."""
    _dispatch.select(**{role: model})
    n, fluid = target.length, target.grid.n_fluid if target.grid is not None else target.length
    allowed = {(n, n), (fluid, fluid)} if target.on_grid else {(n, n)}
    shape = tuple(model.shape)
    if shape not in allowed:
        wanted = " or ".join(str(s) for s in sorted(allowed))
        raise ValueError(f"`{role}` has shape {shape}; {wanted} is needed, as `A` has")
    own = getattr(model, "_native_map", None)
    system = System(shape[0], np.dtype(np.float64), "A")
    native = as_inverse(model, system, name=role)
    spd = isinstance(model, _SYMMETRIC) or bool(getattr(model, "spd", False))
    return Ready(_name_of(model), True, spd, native, calls_python=own is None and not sparse.issparse(model))


def _from_callable(model: Any, target: Target, role: str, unit_norm: bool) -> Ready:
    """Any function of the normalised residual."""
    linear, spd = bool(getattr(model, "linear", False)), bool(getattr(model, "spd", False))
    shape = (target.length,) if not target.on_grid else target.needs_grid(role).grid_shape
    length = target.length

    def apply(r: Array) -> Any:
        size = float(np.linalg.norm(r)) if unit_norm and not linear else 1.0
        if size not in (0.0, 1.0):
            r = r / size
        z = model(r.reshape(shape))
        given = np.shape(z)
        if given != shape and given not in ((length,), (length, 1)):
            raise ValueError(f"`{role}` returned shape {given}; {shape} is needed, as the residual has")
        return np.reshape(z, length)

    native = _core.callback_map(length, apply, None, True, role, False)
    return Ready(_name_of(model), linear, spd, native, calls_python=True)


__all__ = [
    "MATRIX_MODELS",
    "NAMES",
    "Multigrid",
    "Ready",
    "Target",
    "fft_solver",
    "make_ready",
    "make_target",
]
