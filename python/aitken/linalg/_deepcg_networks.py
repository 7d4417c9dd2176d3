"""Networks of the deep conjugate direction: the published direction network, the learned cycle's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core, _validate

Array = NDArray[Any]

CHANNELS = 16
DTYPES = ("float32", "bfloat16")
FIELDS = 3  # that the learned cycle's network gives: damping, blend, scale
FEATURES = 4
MOST_SWEEPS = 8


@dataclass(frozen=True)
class Variant:
    """A published architecture: residual pairs on the fine grid, on the coarse one, and after it."""

    ndim: int
    down: int
    coarse: int
    up: int

    @property
    def n_layers(self) -> int:
        """Convolutions, the first (1 -> 16) and the last (16 -> 1, cell by cell) among them."""
        return 2 * (self.down + self.coarse + self.up) + 4

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights: W0, b0, W1, ... in the order of application, (out, in, 3, ...)."""
        out: dict[str, tuple[int, ...]] = {}
        for k in range(self.n_layers):
            last = k == self.n_layers - 1
            rows, columns = 1 if last else CHANNELS, 1 if k == 0 else CHANNELS
            out[f"W{k}"] = (rows, columns, *[1 if last else 3] * self.ndim)
            out[f"b{k}"] = (rows,)
        return out


VARIANTS = {"2d": Variant(2, 1, 3, 2), "64": Variant(3, 1, 3, 2), "128": Variant(3, 2, 5, 3)}


def cycle_shapes(ndim: int, sweeps: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of the learned cycle with as many sweeps."""
    return {
        "omega": (sweeps,),
        "W1": (CHANNELS, FEATURES, *[3] * ndim),
        "b1": (CHANNELS,),
        "W2": (CHANNELS, CHANNELS),
        "b2": (CHANNELS,),
        "W3": (FIELDS, CHANNELS),
        "b3": (FIELDS,),
    }


def _checked(arrays: Mapping[str, ArrayLike], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Copies in float32 that nobody can write to; ValueError names the array that does not fit."""
    missing = [name for name in shapes if name not in arrays]
    if missing:
        raise ValueError(f"`arrays` has no {missing[0]!r}; {len(missing)} of {len(shapes)} are missing")
    unknown = [name for name in arrays if name not in shapes]
    if unknown:
        raise ValueError(f"`arrays` has {unknown[0]!r}, which no such model has")
    out = {}
    for name, shape in shapes.items():
        given = np.asarray(arrays[name])
        if given.dtype.kind != "f":
            raise ValueError(f"`arrays` has {name} of dtype {given.dtype}; floating point is needed")
        if given.shape != shape:
            raise ValueError(f"`arrays` has {name} of shape {given.shape}; {shape} is needed")
        with np.errstate(over="ignore"):
            single = np.array(given, dtype=np.float32, order="C")
        if not np.isfinite(single).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(single))[0])
            raise ValueError(f"`arrays` has {given[at]} in {name} at {at}; weights must be finite in float32")
        single.flags.writeable = False
        out[name] = single
    return out


def _base_meta(kind: str, ndim: int, layers: int) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": kind,
        "ndim": ndim,
        "channels": CHANNELS,
        "layers": layers,
        "activation": "relu",
    }


def _grid_of(A: Any) -> tuple[tuple[int, ...], Array | None]:
    """Grid shape and FLUID mask (None: all) of a grid operator, or of a shape."""
    shape = getattr(A, "grid_shape", None)
    if shape is not None:
        return tuple(int(n) for n in shape), A.fluid
    if isinstance(A, Sequence) and not isinstance(A, str | bytes):
        return tuple(_validate.integer("A", n, minimum=1) for n in A), None
    raise TypeError(f"`A` must be a GridPoisson or a grid's shape for this model, not {type(A).__name__}")


class ConvolutionalModel:
    """The published two-level network that proposes a direction from a residual, r -> f(r).

    With 16 channels, kernels of 3^d cells, zeros beyond the box, and ReLU: a first convolution 1 -> 16;
    convolutions and residual pairs on the grid; means of 2^d cells; residual pairs on that grid; the result
    repeated and added to the fine one; residual pairs; 16 -> 1 in each cell. Obstacles are seen as zeros of
    r only. It runs on a grid of any size; odd sides get a cell of zeros. f is not homogeneous because of its
    biases: r must have 2-norm 1. f is neither linear nor symmetric.

    Parameters
    ----------
    arrays : mapping of str to array_like
        ``W0``, ``b0``, ``W1``, ...: weights (out, in, 3, ...) and biases (out,) in the order of application,
        float, used in float32. Kernels are not turned round (cross-correlation).
    variant : {"64", "128", "2d"}
        Three dimensions with 16 or 24 convolutions, two dimensions with 16.
    dtype : {"float32", "bfloat16"}, default "float32"
        Of weights and activations between layers; sums are float32. ``"bfloat16"`` needs a processor with
        AVX512_BF16, which `setup` checks, and is about twice as fast.
    meta : mapping, optional
        What a model file says of the model beside the weights, as ``trained_on`` and ``license``.

    Attributes
    ----------
    name : str
        ``"dcdm64"``, ``"dcdm128"`` or ``"dcdm2d"``.
    linear, spd : bool
        False.
    ndim : int
        Axes of the grids it is for.
    arrays : dict of str to ndarray
        The weights, float32, read-only.
    meta : dict
        The `meta` entry of its file.

    Raises
    ------
    ValueError
        For a wrong `variant` or `dtype`, and for arrays that are missing, too many, of a wrong shape, not
        floating point, or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg._deepcg_networks import VARIANTS, ConvolutionalModel
    >>> rng = np.random.default_rng(0)
    >>> arrays = {k: 0.1 * rng.standard_normal(s) for k, s in VARIANTS["2d"].shapes().items()}
    >>> model = ConvolutionalModel(arrays, variant="2d")
    >>> model.n_parameters
    32657
    >>> r = rng.standard_normal((20, 31))
    >>> model.setup((20, 31)).apply(r / np.linalg.norm(r)).shape
    (20, 31)
    """

    linear = False
    spd = False

    def __init__(
        self,
        arrays: Mapping[str, ArrayLike],
        *,
        variant: str,
        dtype: str = "float32",
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.variant = _validate.choice("variant", variant, tuple(VARIANTS))
        self.dtype = _validate.choice("dtype", dtype, DTYPES)
        self.plan = VARIANTS[variant]
        self.arrays = _checked(arrays, self.plan.shapes())
        own = {**_base_meta("dcdm", self.ndim, self.plan.n_layers), "variant": variant}
        self.meta: dict[str, Any] = {**(meta or {}), **own}
        self._packed: Any = None

    @property
    def name(self) -> str:
        return f"dcdm{self.variant}"

    @property
    def ndim(self) -> int:
        return self.plan.ndim

    @property
    def n_parameters(self) -> int:
        """How many numbers were learned."""
        return sum(a.size for a in self.arrays.values())

    def with_dtype(self, dtype: str) -> ConvolutionalModel:
        """The same weights, applied in another precision."""
        return ConvolutionalModel(self.arrays, variant=self.variant, dtype=dtype, meta=self.meta)

    def setup(self, A: Any, fluid: ArrayLike | None = None) -> NetworkState:
        """The network on one grid, with the memory it needs.

        Parameters
        ----------
        A : GridPoisson or sequence of int
            The operator, or the shape of its grid.
        fluid : array_like of bool, shape of the grid, optional
            Cells that count; elsewhere residuals are read, and directions given, as 0. By default those of
            `A`, or all.

        Returns
        -------
        NetworkState

        Raises
        ------
        TypeError
            If `A` has no grid.
        ValueError
            If the grid has another number of axes, `fluid` another shape, or `dtype` has no kernels here.
        MemoryError
            Two fields of 16 numbers a cell, and two on the grid of half the side, are kept.
        """
        shape, given = _grid_of(A)
        if len(shape) != self.ndim:
            raise ValueError(f"`A` has a grid of shape {shape}; model {self.name!r} is for {self.ndim} axes")
        if self._packed is None:
            p = self.plan
            layers = [(self.arrays[f"W{k}"].ravel(), self.arrays[f"b{k}"]) for k in range(p.n_layers)]
            self._packed = _core.NetworkWeights(p.ndim, p.down, p.coarse, p.up, layers, self.dtype, "")
        mask = given if fluid is None else np.asarray(fluid)
        if mask is not None and mask.shape != shape:
            raise ValueError(f"`fluid` has shape {mask.shape}; {shape} is needed")
        padded = (*[1] * (3 - self.ndim), *shape)
        return NetworkState(self._packed.network(padded), shape, mask)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}

    def __repr__(self) -> str:
        return f"<ConvolutionalModel {self.name!r}, {self.n_parameters} parameters, {self.dtype}>"


class NetworkState:
    """A direction network on one grid; `apply` allocates its result alone.

    Attributes
    ----------
    shape : tuple of int
        The grid.
    native : object
        The compiled network.
    nbytes : int
        Memory of its fields.
    flops : float
        Of one application.
    """

    def __init__(self, native: Any, shape: tuple[int, ...], fluid: Array | None) -> None:
        self.native, self.shape = native, shape
        everywhere = fluid is None or bool(np.all(fluid))
        self._keep = None if everywhere else np.ascontiguousarray(fluid != 0, dtype=np.float64)

    @property
    def nbytes(self) -> int:
        return int(self.native.bytes)

    @property
    def flops(self) -> float:
        return float(self.native.flops)

    def apply(self, r: ArrayLike, *, out: Array | None = None, n_threads: int | None = None) -> Array:
        """f(r) for one residual or several, each with 2-norm 1.

        Parameters
        ----------
        r : array_like, shape of the grid, (n,), (k, *grid) or (k, n)
            Residuals on the whole grid, float32 or float64, C order for speed.
        out : ndarray, optional
            Where to write: of the shape and dtype of `r`, C order; it may be `r`.
        n_threads : int, optional
            Threads; by default the library's. Bits do not depend on it.

        Returns
        -------
        ndarray
            Of the shape and dtype of `r`; 0 where the grid is not FLUID.

        Raises
        ------
        TypeError
            If `r` is neither float32 nor float64.
        ValueError
            If `r` or `out` does not fit.
        """
        r = np.asarray(r)
        if r.dtype not in (np.float32, np.float64):
            raise TypeError(f"`r` has dtype {r.dtype}; float32 or float64 is needed")
        n, d = math.prod(self.shape), len(self.shape)
        if not (r.shape[-d:] == self.shape and r.ndim <= d + 1) and not (
            r.shape[-1:] == (n,) and r.ndim <= 2
        ):
            raise ValueError(f"`r` has shape {r.shape}; {self.shape} or (k, *{self.shape}) is needed")
        if out is None:
            out = np.empty(r.shape, dtype=r.dtype)
        elif out.shape != r.shape or out.dtype != r.dtype or not out.flags.c_contiguous:
            raise ValueError(f"`out` must be C-ordered {r.dtype} of shape {r.shape}, as `r` is")
        self.native.apply(np.ascontiguousarray(r), out, self._keep, _validate.n_threads(n_threads))
        return out


class LearnedMultigrid:
    """Weights of the learned multigrid cycle, model ``"learned_mg"``.

    The cycle is that of ``"mg"`` with damped sweeps at `omega`, over which a small network spreads three
    fields per level: a damping of each cell, how linear its interpolation is, and a scale of what it
    receives. It sees the geometry alone, once per geometry: the cycle stays linear, symmetric and positive
    definite whatever the weights are.

    Parameters
    ----------
    arrays : mapping of str to array_like
        ``omega`` (nu,), 1 <= nu <= 8, with ``|prod(1 - omega_s t)| < 1`` for 0 < t <= 2; ``W1``
        (16, 4, 3, ...), ``b1`` (16,), ``W2`` (16, 16), ``b2`` (16,), ``W3`` (3, 16), ``b3`` (3,); float, used
        in float32.
    ndim : {2, 3}
        Axes of the grids it is for.
    meta : mapping, optional
        What a model file says of the model beside the weights.

    Attributes
    ----------
    name : str
        ``"learned_mg"``.
    linear, spd : bool
        True.
    ndim : int
        Axes.
    omega : tuple of float
        Damping of the sweeps before the coarse correction; they come back in reverse order after it.
    arrays, meta : dict
        The weights, float32, read-only; the `meta` entry of its file.

    Raises
    ------
    ValueError
        For arrays that are missing, too many, of a wrong shape, not floating point or not finite, and for an
        `omega` whose sweeps do not converge.
    """

    linear = True
    spd = True
    name = "learned_mg"

    def __init__(
        self, arrays: Mapping[str, ArrayLike], *, ndim: int, meta: Mapping[str, Any] | None = None
    ) -> None:
        self.ndim = _validate.choice("ndim", ndim, (2, 3))
        sweeps = int(np.size(arrays["omega"])) if "omega" in arrays else 1
        if not 1 <= sweeps <= MOST_SWEEPS:
            raise ValueError(f"`arrays` has {sweeps} numbers in omega; 1 to {MOST_SWEEPS} are needed")
        self.arrays = _checked(arrays, cycle_shapes(ndim, sweeps))
        self.omega = tuple(float(om) for om in self.arrays["omega"])
        worst = sweep_norm(self.omega)
        if not worst < 1:
            raise ValueError(
                f"`arrays` has omega {self.omega}: |prod(1 - omega t)| reaches {worst:.6g} for 0 < t <= 2, "
                "and must stay below 1"
            )
        self.meta: dict[str, Any] = {**(meta or {}), **_base_meta("learned_mg", ndim, 3)}

    @property
    def n_parameters(self) -> int:
        """How many numbers were learned."""
        return sum(a.size for a in self.arrays.values())

    def weights(self) -> dict[str, Any]:
        """What the compiled cycle takes."""
        return {**self.arrays, "ndim": self.ndim, "omega": list(self.omega)}

    def fields(self, features: ArrayLike, *, n_threads: int | None = None) -> Array:
        """The network's three planes for the four features of a level.

        Parameters
        ----------
        features : array_like, shape (4, *grid)
            Used in float32.
        n_threads : int, optional
            Threads; by default the library's. Bits do not depend on it.

        Returns
        -------
        ndarray of float32, shape (3, *grid)

        Raises
        ------
        ValueError
            If `features` has another shape.
        """
        x = np.ascontiguousarray(features, dtype=np.float32)
        if x.ndim != self.ndim + 1 or x.shape[0] != FEATURES:
            raise ValueError(f"`features` has shape {x.shape}; (4, *grid) with {self.ndim} axes is needed")
        names = ("W1", "b1", "W2", "b2", "W3", "b3")
        weights = [self.arrays[name].ravel() for name in names]
        out: Array = _core.geometry_fields(self.ndim, weights, x, "", _validate.n_threads(n_threads))
        return out

    def __repr__(self) -> str:
        return f"<LearnedMultigrid, {self.ndim} axes, {self.n_parameters} parameters>"


def sweep_norm(omega: Sequence[float]) -> float:
    """Below 1 exactly where |prod(1 - omega_s t)| < 1 for 0 < t <= 2: its largest value at a turn or at 2."""
    q = np.polynomial.Polynomial([1.0])
    for om in omega:
        q = q * np.polynomial.Polynomial([1.0, -om])
    if not any(c < 0 for c in q.coef[np.flatnonzero(q.coef)[1:2]]):  # it does not fall from 1 at t = 0
        return 1.0
    turns = q.deriv().roots()
    real = turns.real[np.abs(turns.imag) < 1e-6]  # also double ones, which rounding takes off the axis
    places = np.append(real[(real > 0) & (real < 2)], 2.0)
    return float(np.abs(q(places)).max())


__all__ = ["ConvolutionalModel", "LearnedMultigrid", "NetworkState"]
