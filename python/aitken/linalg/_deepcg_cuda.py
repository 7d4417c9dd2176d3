"""Flexible conjugate directions for CuPy arrays, on a grid or with a matrix in compressed rows.

Work runs on CuPy's current stream of the arrays' device, and its memory comes from CuPy's pool. A
`GridPoisson` keeps its geometry on the host: flags and conductances are sent in every call, and the levels
of a cycle are made on the device. Several right-hand sides are solved one after the other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from .. import _dispatch, _validate
from .._cuda_place import cuda_place
from ._cuda_calls import _check, _rows, _vector, compressed_rows
from ._deepcg import METHODS, _counts, _nothing, _warn_of_means, _with_own_fields
from ._deepcg_setup import Multigrid, fft_solver
from ._grid_poisson import GridPoisson
from ._linear_result import LinearResult, answer_dtype, finish_linear_result
from ._short import as_listener

GRID_MODELS = ("auto", "mg", "mg_v", "learned_mg", "fft", "identity")
MATRIX_MODELS = ("auto", "jacobi", "identity")


@dataclass
class _Model:
    """A model ready for the compiled module."""

    name: str
    linear: bool = True
    spd: bool = True
    cycle: tuple[Any, ...] | None = None
    jacobi: bool = False
    function: Callable[[Any], Any] | None = None
    fast: bool = False  # needs a handful of steps

    def native(self, like: Any, shape: tuple[int, ...], xp: Any, role: str) -> Any:
        """What the compiled module takes; functions work on arrays of this shape beside `like`."""
        if self.function is None:
            return "jacobi" if self.jacobi else self.cycle
        r, z, given = xp.zeros(shape), xp.zeros(shape), self.function

        def call() -> None:
            out = given(r.copy())
            if not isinstance(out, xp.ndarray):
                raise TypeError(f"`{role}` returned {type(out).__name__}; a cupy.ndarray is needed")
            if tuple(out.shape) not in (shape, (r.size,), (r.size, 1)):
                raise ValueError(f"`{role}` returned shape {tuple(out.shape)}; {shape} is needed")
            z[...] = out.reshape(shape)

        for name, array in (("r", r), ("z", z)):
            _check(name, array, like, (len(shape),))
        return (r.data.ptr, r.size), (z.data.ptr, z.size), call


def _sine(xp: Any, x: Any, axis: int) -> Any:
    """Type 1, by a complex transform of the odd extension: CuPy has types 2 and 3 alone."""
    n = x.shape[axis]
    zero = xp.zeros_like(xp.take(x, xp.arange(1), axis=axis))
    odd = xp.concatenate([zero, x, zero, -xp.flip(x, axis)], axis=axis)
    return xp.take(-xp.fft.rfft(odd, axis=axis).imag, xp.arange(1, n + 1), axis=axis)


def device_transforms(xp: Any) -> Any:
    """The transforms that `fft_solver` needs, in the manner of `scipy.fft`."""
    from cupyx.scipy import fft as there

    def dstn(x: Any, *, type: int, axes: list[int]) -> Any:
        assert type == 1
        return _sine(xp, x, axes[0])

    def idstn(x: Any, *, type: int, axes: list[int]) -> Any:
        return dstn(x, type=type, axes=axes) / (2 * (x.shape[axes[0]] + 1))

    return SimpleNamespace(
        fft=xp.fft.fft, ifft=xp.fft.ifft, dctn=there.dctn, idctn=there.idctn, dstn=dstn, idstn=idstn
    )


def _make_model(model: Any, A: Any, csr: Any, xp: Any, role: str, unit_norm: bool) -> _Model:
    """A model for a grid, or for a matrix where `csr` is not None."""
    names = GRID_MODELS if csr is None else MATRIX_MODELS
    if isinstance(model, str | os.PathLike) and not (isinstance(model, str) and model in names):
        model = _from_file(model, names, role, csr is None)
    if isinstance(model, str):
        return _named(model, A, csr, xp)
    if type(model).__name__ == "LearnedMultigrid" and hasattr(model, "weights"):
        model = Multigrid("V", learned=model)
    if isinstance(model, Multigrid):
        if csr is not None:
            raise TypeError(f"`{role}` is {model.name!r}, which works on a grid, but `A` is a matrix")
        learned = model.learned
        if learned is not None and learned.ndim != A.ndim_grid:
            raise ValueError(
                f"`{role}` {model.name!r} is for grids of {learned.ndim} axes; the grid has {A.ndim_grid}"
            )
        return _Model(model.name, cycle=model.native_options(), fast=True)
    if hasattr(model, "setup") or isinstance(model, LinearOperator) or not callable(model):
        raise TypeError(
            f"`{role}` must be one of {', '.join(map(repr, names))}, a Multigrid or a function of CuPy "
            f"arrays on a GPU, not {type(model).__name__}"
        )
    given, linear = model, bool(getattr(model, "linear", False))

    def of_unit_norm(r: Any) -> Any:
        size = float(xp.linalg.norm(r))
        return given(r if size == 0 else r / size)

    name = getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__
    function = of_unit_norm if unit_norm and not linear else given
    return _Model(str(name), linear, bool(getattr(model, "spd", False)), function=function)


def _from_file(model: Any, names: tuple[str, ...], role: str, on_grid: bool) -> Any:
    """Learned cycles; networks and factorisations are for the CPU."""
    text = os.fspath(model)
    if on_grid and (
        os.sep in text or text.endswith((".npz", ".safetensors")) or text.startswith("learned_mg")
    ):
        from ._deepcg_files import load_model

        return load_model(model)
    listed = ", ".join(f'"{name}"' for name in names)
    raise ValueError(f"`{role}` must be one of {listed} on a GPU, got {text!r}")


def _named(name: str, A: Any, csr: Any, xp: Any) -> _Model:
    if name == "auto":
        name = "mg" if csr is None else "jacobi" if bool((csr.diagonal() > 0).all()) else "identity"
    if name in ("mg", "mg_v"):
        cycle = Multigrid("W" if name == "mg" else "V")
        return _Model(name, cycle=cycle.native_options(), fast=True)
    if name == "learned_mg":
        from ._deepcg_files import load_model

        if A.ndim_grid == 1:
            raise ValueError("`model` 'learned_mg' is for 2 or 3 axes; the grid has 1")
        learned = Multigrid("V", learned=load_model(f"learned_mg_{A.ndim_grid}d"))
        return _Model(name, cycle=learned.native_options(), fast=True)
    if name == "fft":
        return _Model(name, function=fft_solver(A, xp, device_transforms(xp)))
    return _Model(name, jacobi=name == "jacobi")


def solve_on_gpu(
    backend: _dispatch.Backend,
    A: Any,
    b: Any,
    x0: Any,
    start: float,
    *,
    rtol: float,
    atol: float,
    maxiter: int | None,
    model: Any,
    method: str,
    n_previous: int,
    enrich: bool | None,
    fallback: Any,
    stall_window: int,
    recompute: int,
    grid: Any,
    callback: Callable[..., Any] | None,
    check_finite: bool,
) -> LinearResult:
    """`deep_conjugate_direction` for CuPy right-hand sides, on their device.

    Parameters
    ----------
    backend : Backend
        Of the arguments.
    A : GridPoisson or sparse matrix of CuPy
        A grid is where it was made, on the host.
    b, x0 : cupy.ndarray
        Shapes as in `deep_conjugate_direction`.
    start : float
        ``time.perf_counter()`` when the call began.
    rtol, atol, maxiter, n_previous, enrich, stall_window, recompute, callback, check_finite
        As there, checked here; norms are 2-norms.
    model, fallback : str, Multigrid, LearnedMultigrid, file of one, callable
        On grids "auto" ("mg"), "mg", "mg_v", "learned_mg", "fft", "identity"; for matrices "auto" ("jacobi"
        where the diagonal is positive), "jacobi", "identity". Functions take and give CuPy arrays.
    method : {"auto", "pcg", "robust", "published"}
    grid : None
        The grid of a matrix is for the CPU alone.

    Returns
    -------
    LinearResult
        As there; `x` is on the device.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there; also for models that are for the CPU alone.
    """
    options: dict[str, Any] = {
        "rtol": _validate.tolerance("rtol", rtol),
        "atol": _validate.tolerance("atol", atol),
        "n_previous": _validate.integer("n_previous", n_previous, minimum=0, maximum=1000),
        "recompute": _validate.integer("recompute", recompute, minimum=1),
    }
    window = _validate.integer("stall_window", stall_window, minimum=0, maximum=10**6)
    method = _validate.choice("method", method, METHODS)
    enrich = None if enrich is None else _validate.boolean("enrich", enrich)
    limit = _validate.optional_integer("maxiter", maxiter, minimum=1)
    _validate.callback("callback", callback)
    check_finite = _validate.boolean("check_finite", check_finite)
    if grid is not None:
        raise TypeError("`grid` is for the CPU; on a GPU pass a GridPoisson as `A`")
    xp = backend.xp
    csr = None
    if not isinstance(A, GridPoisson):
        csr = compressed_rows(A)
        _validate.check_finite("A", csr.data, xp=xp)
    vectors = _Vectors(A, csr, b, x0, check_finite, xp)
    if callback is not None and vectors.batch:
        raise ValueError(f"`callback` sees one right-hand side, but `b` has shape {vectors.shape}")

    set_up = time.perf_counter()
    first = _make_model(model, A, csr, xp, "model", method == "pcg")
    symmetric = first.linear and first.spd
    second = None
    if fallback is not None and method != "published":
        if isinstance(fallback, str) and fallback == "auto" and symmetric:
            fallback = "identity"
        second = _make_model(fallback, A, csr, xp, "fallback", True)
    set_up = time.perf_counter() - set_up
    options["method"] = ("pcg" if symmetric else "robust") if method == "auto" else method
    options["enrich"] = options["method"] == "robust" and (not symmetric if enrich is None else enrich)
    options["maxiter"] = max(10 * vectors.unknowns, 1) if limit is None else limit
    options["window"] = 0 if symmetric or second is None else window
    options["fast_fallback"] = second is not None and second.fast
    options["zero_start"] = x0 is None
    tell = as_listener(callback, vectors.shape)
    options["report_x"] = tell is not None
    listener = None if tell is None else lambda nit, norm, aim, seen: tell(nit, norm, aim, xp.asarray(seen))

    reports = vectors.solve(first, second, options, listener)
    return vectors.result(backend, reports, first.name, start, set_up)


class _Vectors:
    """Right-hand sides and solutions on the device, and the calls."""

    def __init__(self, A: Any, csr: Any, b: Any, x0: Any, check_finite: bool, xp: Any) -> None:
        self.A, self.csr, self.xp = A, csr, xp
        self.shape = tuple(int(s) for s in b.shape)
        self.batch = self.compact = False
        given = _validate.as_float_array("b", b, finite=False, xp=xp)
        if csr is None:
            self.batch = len(self.shape) == A.ndim_grid + 1 and self.shape[1:] == A.grid_shape
            if self.batch and self.shape[0] == 0:
                raise ValueError(f"`b` has shape {self.shape}; at least one right-hand side is needed")
            if not self.batch:
                try:
                    self.compact = A.form("b", b)
                except ValueError as error:
                    raise ValueError(f"{error}; (k, *{A.grid_shape}) for several right-hand sides") from None
            self.unknowns = int(A.n_fluid)
            self.dtype = answer_dtype(b, b)
        else:
            n = int(csr.shape[0])
            if self.shape not in ((n,), (n, 1)):
                raise ValueError(f"`b` has shape {self.shape}; ({n},) or ({n}, 1) is needed")
            self.unknowns = n
            self.dtype = answer_dtype(A, b)
        self.B = self._rows("b", given, check_finite)
        if x0 is None:
            self.X = xp.zeros(self.B.shape)
        else:
            if tuple(x0.shape) != self.shape:
                raise ValueError(f"`x0` has shape {tuple(x0.shape)}; {self.shape} is needed, as `b` has")
            begin = _validate.as_float_array("x0", x0, finite=False, xp=xp)
            self.X = self._rows("x0", begin, check_finite).copy()

    def _rows(self, name: str, given: Any, check_finite: bool) -> Any:
        """A row per right-hand side; numbers in cells that are not FLUID do not matter."""
        count = self.shape[0] if self.batch else 1
        rows = self.xp.ascontiguousarray(given, dtype=np.float64).reshape(count, -1)
        if check_finite and not np.isfinite(float(rows.sum())):
            inside = rows
            if self.csr is None and not self.compact:
                inside = rows[:, self.xp.asarray(self.A.fluid.ravel())]
            _validate.check_finite(name, inside, xp=self.xp)
        return rows

    def solve(
        self, first: _Model, second: _Model | None, options: dict[str, Any], listener: Any
    ) -> list[dict[str, Any]]:
        """Reports of the compiled module, one per right-hand side."""
        xp, single = self.xp, self.dtype != np.float64
        if self.unknowns == 0:
            self.X[...] = 0
            return [_nothing(options) for _ in range(self.B.shape[0])]
        with cuda_place(self.B) as (module, where):
            shape = self.A.grid_shape if self.csr is None else (self.unknowns,)
            natives = [
                None if m is None else m.native(self.B, shape, xp, role)
                for m, role in ((first, "model"), (second, "fallback"))
            ]
            if self.csr is None:
                found: list[dict[str, Any]] = module.deepcg_solve_grid(
                    where,
                    self.A._native,
                    *natives,
                    second is not None,
                    _rows("b", self.B, self.B),
                    _rows("x0", self.X, self.B),
                    self.compact,
                    single,
                    options,
                    listener,
                )
                return found
            starts = self.csr.indptr.astype(np.int64)  # this one lives to the end of the call
            try:
                report: dict[str, Any] = module.deepcg_solve(
                    where,
                    _vector("indptr", starts, self.B, np.int64),
                    _vector("indices", self.csr.indices, self.B, np.int32),
                    _vector("data", self.csr.data, self.B),
                    *natives,
                    second is not None,
                    _vector("b", self.B.reshape(-1), self.B),
                    _vector("x0", self.X.reshape(-1), self.B),
                    single,
                    options,
                    listener,
                )
            except ValueError as error:
                if "diagonal" in str(error):
                    raise np.linalg.LinAlgError(str(error)) from None
                raise
            return [report | {"removed": 0.0}]

    def result(
        self,
        backend: _dispatch.Backend,
        reports: list[dict[str, Any]],
        model: str,
        start: float,
        setup_time: float,
    ) -> LinearResult:
        """The result of the reports; the module has certified answers as they are rounded here."""
        _warn_of_means(reports, np.array([float(r.get("norm_b", 0.0)) for r in reports]))
        x = self.X.astype(self.dtype).reshape(self.shape)
        result = finish_linear_result(
            backend.give(x),
            reports,
            solver="deep_conjugate_direction",
            system=None,
            b=self.B,
            start=start,
            model=model,
            setup_time=setup_time,
            **_counts(reports, self.batch),
        )
        if not self.batch:
            return result
        return _with_own_fields(result, reports, [float(r["residual"]) for r in reports])


__all__ = ["GRID_MODELS", "MATRIX_MODELS", "device_transforms", "solve_on_gpu"]
