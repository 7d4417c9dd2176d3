"""Conjugate directions from any model of the inverse, safe whatever the model gives."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .. import _core, _dispatch, _validate
from .._errors import ConvergenceWarning
from .._result import Status, _caller_stacklevel
from ._deepcg_setup import Ready, Target, make_ready, make_target
from ._grid_poisson import GridPoisson
from ._linear_result import LinearResult, answer_dtype, finish_linear_result, residual_norms
from ._operators import _refuse_cuda, prepare_vectors
from ._relaxation import _scale, _unscaled
from ._short import as_listener

Array = NDArray[Any]

METHODS = ("auto", "pcg", "robust", "published")


def deep_conjugate_direction(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    model: Any = "auto",
    method: str = "auto",
    n_previous: int = 2,
    enrich: bool | None = None,
    fallback: Any = "auto",
    stall_window: int = 15,
    recompute: int = 50,
    grid: Any = None,
    callback: Callable[..., Any] | None = None,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> LinearResult:
    """Solve ``A x = b``, `A` symmetric positive definite, along directions that a model proposes.

    Per step the A-norm of the error is minimised over ``x + span{f(r), r}``, both made conjugate to the last
    steps, where f is the model and r the residual. So no f can keep the solve from converging: a good one
    makes it fast, with a useless one it is about conjugate gradients, and one that misleads costs at most
    about twice their steps.

    Parameters
    ----------
    A : GridPoisson, sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Real, symmetric positive definite; of a `GridPoisson` also semidefinite.
    b : array_like, shape (n,) or (n, 1); for a GridPoisson the grid's, (N,), (n_fluid,) or (k, *grid)
        Right-hand side; k of them are solved side by side. On a grid, entries of cells that are not FLUID are
        ignored, and means over enclosed regions are taken off (see `removed_mean`).
    x0 : array_like, shape of `b`, optional
        Start; default zero. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    maxiter : int, optional
        Limit on iterations; default ``10 * n``, at most 1000 with a network.
    model : str, path, model object, LinearOperator, callable; default "auto"
        The guess f of the inverse. On grids ``"mg"`` (multigrid, a W-cycle; the default), ``"mg_v"``, a
        `Multigrid`, ``"learned_mg"``, ``"fft"`` (exact without obstacles), the networks ``"dcdm2d"
        "dcdm64" "dcdm128"``; for matrices and grids ``"mic0"`` (incomplete Cholesky; the default for
        matrices), ``"jacobi"``, ``"identity"`` (the default for operators). Or a file of a model; an object
        with ``setup(A)`` that gives a state with ``apply(r)``, and attributes ``linear`` and ``spd``; a
        LinearOperator; or any function r -> z. Functions and states get a copy of the residual divided by
        its 2-norm: float64, of the grid's shape for a GridPoisson, else (n,); the scale and sign of z do not
        matter.
    method : {"auto", "pcg", "robust", "published"}
        ``"pcg"``: conjugate gradients with the model as preconditioner, which must be linear, symmetric and
        definite ("auto" takes it for these). ``"robust"``: as above. ``"published"``: the method of [1]_:
        f(r) alone, two products with `A` per step and no fallback; it may stop or stagnate.
    n_previous : int, default 2
        Last steps that a new one is made conjugate to; 2 n numbers each.
    enrich : bool, optional
        Robust: whether r is among the directions, which costs a second product per step. Default: unless the
        model is linear, symmetric and definite.
    fallback : None or as `model`, default "auto"
        Takes over, as preconditioner of conjugate gradients, from a model that breaks down, gives nothing but
        zeros or NaN, or is judged to be of no use over `stall_window` steps. "auto": ``"mg"`` on grids, for
        matrices as `model`.
    stall_window : int, default 15
        Steps after which a model that is not linear, symmetric and definite is given up: if most of them
        gained less than a twentieth from it, or, where multigrid is the fallback, as soon as it would need
        more than as many further steps. 0: never.
    recompute : int, default 50
        Steps between two residuals from scratch.
    grid : GridPoisson or (shape, flags), optional
        The grid of a matrix `A`, so that models of grids may be used. The matrix must be that grid's, of the
        FLUID cells or with zero rows for the others, up to a positive factor.
    callback : callable, optional
        Called after every iteration, as ``callback(intermediate_result)`` if its parameter has that name,
        else as ``callback(xk)``. May raise StopIteration. Not with several right-hand sides.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.
    n_threads : int, optional
        Threads; by default the library's. Bits do not depend on it, where those of `model` do not.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``; `x` has the shape and precision of `b`. Also `model` (its name), `n_model`
        (its applications), `n_replaced` (its outputs that could not be used), `fallback_step` (iterations
        done when the fallback took over, else None), `setup_time` (seconds), `removed_mean` (2-norm of what
        was taken off `b`). With several right-hand sides `nit`, `true_residual`, `target`, `n_model`,
        `n_replaced`, `removed_mean` and `statuses` are arrays, `fallback_step` too (-1 for None); `converged`
        is of all.

    Raises
    ------
    TypeError, ValueError
        For unknown types and names, wrong shapes, complex or non-finite data, models of grids without a grid,
        a matrix that is not that of `grid`, and malformed model files.
    numpy.linalg.LinAlgError
        For a zero or NaN on the diagonal of a matrix; the message names the row.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance; an indefinite `A` found on the way is status 6. Also where a
        removed mean is more than 1e-8 of `b`.

    References
    ----------
    .. [1] A. Kaneda, O. Akar, J. Chen, V. A. T. Kala, D. Hyde, J. Teran, "A Deep Conjugate Direction Method
           for Iteratively Solving Linear Systems", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import GridPoisson, deep_conjugate_direction
    >>> A = GridPoisson((64, 64))
    >>> b = np.random.default_rng(0).normal(size=(64, 64))
    >>> result = deep_conjugate_direction(A, b)
    >>> result.model, result.nit <= 5, result.converged
    ('mg', True, True)
    >>> useless = lambda r: np.full(r.shape, np.nan)
    >>> deep_conjugate_direction(A, b, model=useless).fallback_step
    3
    """
    start = time.perf_counter()
    backend = _dispatch.select(A=None if isinstance(A, GridPoisson) else A, b=b, x0=x0)
    A, b, x0 = backend.take("A", A), backend.take("b", b), backend.take("x0", x0)
    if backend.is_cuda:
        from ._deepcg_cuda import solve_on_gpu

        return solve_on_gpu(
            backend,
            A,
            b,
            x0,
            start,
            rtol=rtol,
            atol=atol,
            maxiter=maxiter,
            model=model,
            method=method,
            n_previous=n_previous,
            enrich=enrich,
            fallback=fallback,
            stall_window=stall_window,
            recompute=recompute,
            grid=grid,
            callback=callback,
            check_finite=check_finite,
        )
    options = _Options(method, n_previous, enrich, stall_window, recompute)
    prepared = PreparedModel(A, model, grid=grid, fallback=fallback, _options=options)
    return prepared._solve(
        b,
        x0,
        start,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        callback=callback,
        check_finite=check_finite,
        n_threads=n_threads,
        give=backend.give,
    )


_MOST_STEPS = 2**62


class _Options:
    """Options of the loop, checked."""

    def __init__(
        self, method: str, n_previous: int, enrich: bool | None, stall_window: int, recompute: int
    ) -> None:
        self.method = _validate.choice("method", method, METHODS)
        self.n_previous = _validate.integer("n_previous", n_previous, minimum=0, maximum=1000)
        self.enrich = None if enrich is None else _validate.boolean("enrich", enrich)
        self.stall_window = _validate.integer("stall_window", stall_window, minimum=0, maximum=10**6)
        self.recompute = _validate.integer("recompute", recompute, minimum=1, maximum=_MOST_STEPS)


def prepare(
    A: Any,
    model: Any = "auto",
    *,
    grid: Any = None,
    method: str = "auto",
    n_previous: int = 2,
    enrich: bool | None = None,
    fallback: Any = "auto",
    stall_window: int = 15,
    recompute: int = 50,
) -> PreparedModel:
    """Make a model ready for one operator, and use it for many right-hand sides.

    Parameters
    ----------
    A, model, grid, method, n_previous, enrich, fallback, stall_window, recompute
        As in `deep_conjugate_direction`.

    Returns
    -------
    PreparedModel

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `deep_conjugate_direction`.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import GridPoisson, prepare
    >>> fluid = np.ones((48, 48), dtype=bool)
    >>> solver = prepare(GridPoisson((48, 48), fluid))
    >>> for i in range(3):  # an obstacle that moves
    ...     fluid[:] = True
    ...     fluid[10 + i : 20 + i, 15:30] = False
    ...     result = solver.update(fluid).solve(np.ones((48, 48)))
    >>> result.converged
    True
    """
    options = _Options(method, n_previous, enrich, stall_window, recompute)
    return PreparedModel(A, model, grid=grid, fallback=fallback, _options=options)


class PreparedModel:
    """A model made ready for one operator, by `prepare`.

    One solve at a time: another thread's waits.

    Attributes
    ----------
    A : GridPoisson, matrix or LinearOperator
        As given.
    model : str
        The model's name.
    linear, spd : bool
        What it is.
    setup_time : float
        Seconds that making it ready, or the last `update`, took.
    """

    def __init__(
        self, A: Any, model: Any = "auto", *, grid: Any = None, fallback: Any = "auto", _options: _Options
    ) -> None:
        start = time.perf_counter()
        self.A, self._model_given, self._grid_given = A, model, grid
        self._options = _options
        self._target = make_target(A, grid)
        self._ready = make_ready(model, self._target, unit_norm=_options.method == "pcg")
        self._fallback_given = fallback
        self._fallback: Ready | None = None
        self._fallback_made = fallback is None or _options.method == "published"
        if not self._fallback_made and not (isinstance(fallback, str) and fallback == "auto"):
            self._fallback = make_ready(fallback, self._target, role="fallback", unit_norm=True)
            self._fallback_made = True
        self._lock = threading.Lock()
        self._owner: int | None = None
        self.setup_time = time.perf_counter() - start

    def __reduce__(self) -> tuple[Any, ...]:
        return _prepare_again, (
            self.A,
            self._model_given,
            self._grid_given,
            self._fallback_given,
            self._options,
        )

    @property
    def model(self) -> str:
        """The model's name."""
        return self._ready.name

    @property
    def linear(self) -> bool:
        """Whether it is declared linear."""
        return self._ready.linear

    @property
    def spd(self) -> bool:
        """Whether it is declared symmetric positive definite."""
        return self._ready.spd

    def __repr__(self) -> str:
        return f"<PreparedModel {self.model!r} for {self._target.length} unknowns>"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One solve at a time, and no change of the operator meanwhile."""
        if self._owner == threading.get_ident():
            raise RuntimeError("this model is in use by the solve that called back; prepare another one")
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def update(self, flags: Any = None, *, conductance: Any = None, shift: float | None = None) -> Self:
        """Take new obstacles or coefficients of a `GridPoisson`; what is not given stays.

        With multigrid in O(N), and without allocating natively; other models are made anew.

        Parameters
        ----------
        flags, conductance, shift
            As `GridPoisson.update`.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If `A` is no GridPoisson.
        ValueError
            As `GridPoisson.update`.
        """
        if not self._target.on_grid:
            raise TypeError("`A` is a matrix or operator; only a GridPoisson takes new obstacles")
        start = time.perf_counter()
        with self._alone():
            self.A.update(flags, conductance=conductance, shift=shift)
            for ready in (self._ready, self._fallback):
                if ready is not None and ready.refresh is not None:
                    ready.refresh()
        self.setup_time = time.perf_counter() - start
        return self

    def as_preconditioner(self) -> LinearOperator:
        """The model as a SciPy operator, an approximation of the inverse.

        Shape (n, n) for matrices, (N, N) for a GridPoisson, as these have. As `M` of conjugate gradients it
        is valid only if `spd`.

        Returns
        -------
        LinearOperator
        """
        return _ModelOperator(self)

    def solve(
        self,
        b: Any,
        x0: Any = None,
        *,
        rtol: float = 1e-5,
        atol: float = 0.0,
        maxiter: int | None = None,
        callback: Callable[..., Any] | None = None,
        check_finite: bool = True,
        n_threads: int | None = None,
    ) -> LinearResult:
        """Solve ``A x = b``.

        Parameters
        ----------
        b, x0, rtol, atol, maxiter, callback, check_finite, n_threads
            As in `deep_conjugate_direction`.

        Returns
        -------
        LinearResult
        """
        start = time.perf_counter()
        backend = _dispatch.select(b=b, x0=x0)
        return self._solve(
            backend.take("b", b),
            backend.take("x0", x0),
            start,
            rtol=rtol,
            atol=atol,
            maxiter=maxiter,
            callback=callback,
            check_finite=check_finite,
            n_threads=n_threads,
            give=backend.give,
        )

    # ---- the solve -----------------------------------------------------------------------------------

    def _take_fallback(self) -> Ready | None:
        """The fallback, made when a solve that could need it begins."""
        if self._fallback_made:
            return self._fallback
        # What is linear, symmetric and definite breaks down by rounding or an unsuitable A alone.
        name = "identity" if self._ready.linear and self._ready.spd else "auto"
        self._fallback = make_ready(name, self._target, role="fallback", unit_norm=True)
        self._fallback_made = True
        return self._fallback

    def _solve(
        self,
        b: Any,
        x0: Any,
        start: float,
        *,
        rtol: float,
        atol: float,
        maxiter: int | None,
        callback: Callable[..., Any] | None,
        check_finite: bool,
        n_threads: int | None,
        give: Callable[[Any], Any],
    ) -> LinearResult:
        target, ready = self._target, self._ready
        options: dict[str, Any] = {
            "rtol": _validate.tolerance("rtol", rtol),
            "atol": _validate.tolerance("atol", atol),
            "n_threads": _validate.n_threads(n_threads),
            "n_previous": self._options.n_previous,
            "recompute": self._options.recompute,
        }
        _validate.callback("callback", callback)
        check_finite = _validate.boolean("check_finite", check_finite)
        limit = _validate.optional_integer("maxiter", maxiter, minimum=1, maximum=_MOST_STEPS)
        vectors = _Vectors(target, b, x0, check_finite)
        if limit is None:
            limit = max(10 * vectors.unknowns, 1)
            limit = min(limit, 1000) if ready.network else limit
        options["maxiter"] = limit
        symmetric = ready.linear and ready.spd
        method = self._options.method
        options["method"] = ("pcg" if symmetric else "robust") if method == "auto" else method
        options["enrich"] = not symmetric if self._options.enrich is None else self._options.enrich
        if options["method"] != "robust":
            options["enrich"] = False
        if callback is not None and vectors.batch:
            raise ValueError(f"`callback` sees one right-hand side, but `b` has shape {vectors.shape}")
        with self._alone():
            fallback = self._take_fallback() if options["method"] != "published" else None
            options["window"] = 0 if symmetric or fallback is None else self._options.stall_window
            options["fast_fallback"] = fallback is not None and fallback.fast
            dtype = answer_dtype(b if target.on_grid else self.A, b)
            return vectors.solve(self, fallback, options, callback, dtype, start, give)


def as_preconditioner(model: Any, A: Any, *, grid: Any = None) -> LinearOperator:
    """A model of the inverse of `A` as a SciPy operator.

    As `M` of conjugate gradients it is valid only if the model is symmetric positive definite (attribute
    `spd`): ``"mg" "mg_v" "learned_mg" "fft" "mic0" "jacobi"`` are.

    Parameters
    ----------
    model, A, grid
        As in `deep_conjugate_direction`.

    Returns
    -------
    LinearOperator
        Of the shape of `A`. With attributes `linear` and `spd`.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import GridPoisson, as_preconditioner, cg
    >>> A = GridPoisson((32, 32))
    >>> M = as_preconditioner("mg", A)
    >>> cg(A, np.ones(1024), M=M, rtol=1e-8).nit <= 10
    True
    """
    return prepare(A, model, grid=grid, fallback=None).as_preconditioner()


def _prepare_again(A: Any, model: Any, grid: Any, fallback: Any, options: _Options) -> PreparedModel:
    return PreparedModel(A, model, grid=grid, fallback=fallback, _options=options)


class _ModelOperator(LinearOperator):
    """A prepared model on vectors of all cells, or of the unknowns of a matrix."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._prepared,)

    def __init__(self, prepared: PreparedModel) -> None:
        self._prepared = prepared
        self.linear, self.spd, self.name = prepared.linear, prepared.spd, prepared.model
        length = prepared._target.length
        super().__init__(dtype=np.dtype(np.float64), shape=(length, length))

    @property
    def _native_map(self) -> Any:
        """A compiled map, which native solvers call without Python; None where there is none."""
        native = self._prepared._ready.native if self.linear else None
        if isinstance(native, _core.MultigridCycle):
            return _core.cycle_map(native, False)
        return native if native is not None and native.size == self.shape[0] else None

    def _matvec(self, x: Array) -> Array:
        x = np.asarray(x)
        if x.dtype.kind == "c":
            return self._matvec(x.real) + 1j * self._matvec(x.imag)
        target, native = self._prepared._target, self._prepared._ready.native
        r = np.array(x, dtype=np.float64).reshape(-1)
        if native is None:
            return r
        size = float(np.linalg.norm(r))
        if not self.linear and size > 0:
            return size * self._apply(target, native, r / size)
        return self._apply(target, native, r)

    @staticmethod
    def _apply(target: Target, native: Any, r: Array) -> Array:
        z = np.empty_like(r)
        if isinstance(native, _core.MultigridCycle):
            native.apply(r, z, False)
        elif native.size == r.size:
            native.apply(r, z)
        else:  # of the FLUID cells alone
            assert target.grid is not None
            inside = target.grid.compress(r)
            out = np.empty_like(inside)
            native.apply(inside, out)
            return target.grid.expand(out).reshape(-1)
        return z

    def _rmatvec(self, x: Array) -> Array:
        if not self.spd:
            raise NotImplementedError(f"the adjoint of model {self.name!r} is not known")
        return self._matvec(x)


class _GridOperator:
    """A grid as what certificates are recomputed with."""

    def __init__(self, grid: GridPoisson, compact: bool) -> None:
        self.n = grid.n_fluid if compact else grid.shape[0]
        self.dtype = np.dtype(np.float64)
        self._grid, self._compact = grid, compact

    @property
    def handle(self) -> Any:
        return self

    def apply(self, x: Array, y: Array) -> None:
        for j in range(x.shape[1]):
            image = np.empty(self.n)
            self._grid._native.apply(np.ascontiguousarray(x[:, j]), image, self._compact)
            y[:, j] = image


class _Vectors:
    """Right-hand sides and starts of one solve, and the way from reports to a result."""

    def __init__(self, target: Target, b: Any, x0: Any, check_finite: bool) -> None:
        self.target = target
        self.batch = False
        if target.on_grid:
            self._of_grid(target.needs_grid("grid"), b, x0, check_finite)
            return
        assert target.system is not None
        self.B, self.X, self.shape = prepare_vectors(target.system, b, x0, check_finite=check_finite)
        if self.B.dtype.kind == "c":
            raise TypeError("`b` is complex; a real right-hand side is needed")
        if self.B.shape[1] != 1:
            raise ValueError(
                f"`b` has shape {self.shape}; ({target.system.n},) or ({target.system.n}, 1) is needed"
            )
        self.system: Any = target.system
        self.unknowns = target.system.n

    def _of_grid(self, grid: GridPoisson, b: Any, x0: Any, check_finite: bool) -> None:
        shape = tuple(int(s) for s in np.shape(b))
        for name, value in (("b", b), ("x0", x0)):
            _refuse_cuda(name, value)
        self.batch = len(shape) == grid.ndim_grid + 1 and shape[1:] == grid.grid_shape
        self.compact = False if self.batch else self._form(grid, b)
        if self.batch and shape[0] == 0:
            raise ValueError(f"`b` has shape {shape}; at least one right-hand side is needed")
        self.shape, self.unknowns = shape, grid.n_fluid
        self.system = _GridOperator(grid, self.compact)
        self.B = self._rows("b", b, check_finite)
        if x0 is None:
            self.X = np.zeros_like(self.B)
        else:
            if tuple(np.shape(x0)) != shape:
                raise ValueError(f"`x0` has shape {tuple(np.shape(x0))}; {shape} is needed, as `b` has")
            self.X = self._rows("x0", x0, check_finite)

    @staticmethod
    def _form(grid: GridPoisson, b: Any) -> bool:
        try:
            return grid.form("b", b)
        except ValueError as error:
            raise ValueError(f"{error}; (k, *{grid.grid_shape}) for several right-hand sides") from None

    def _rows(self, name: str, value: Any, check_finite: bool) -> Array:
        """A right-hand side or start per column, with zeros where a cell is not FLUID."""
        grid = self.target.needs_grid(name)
        given = _validate.as_float_array(name, value, finite=False)
        rows = np.array(given, dtype=np.float64, order="C").reshape(self.shape[0] if self.batch else 1, -1)
        if not self.compact and grid._flags is not None:
            rows[:, ~grid.fluid.ravel()] = 0.0
        if check_finite and not np.isfinite(rows.sum()):
            _validate.check_finite(name, rows.reshape(self.shape))
        return rows.T

    def solve(
        self,
        prepared: PreparedModel,
        fallback: Ready | None,
        options: dict[str, Any],
        callback: Callable[..., Any] | None,
        dtype: Any,
        start: float,
        give: Callable[[Any], Any],
    ) -> LinearResult:
        """Run the native loop and certify what it gives."""
        B, X = self.B, self.X
        # Squares of very large and very small numbers would not be numbers.
        powers = np.array([_scale(B[:, j], X[:, j]) for j in range(B.shape[1])])
        B, X = B * powers, X * powers
        listener = _unscaled(as_listener(callback, self.shape), float(powers[0]))
        options |= {"zero_start": not X.any(), "report_x": listener is not None}
        run = self._on_grid if self.target.on_grid else self._on_matrix
        reports: list[dict[str, Any]] = []
        for first, last in _runs_of_equals(powers):
            now = options | {"atol": options["atol"] * powers[first]}
            part = slice(first, last)
            B[:, part], X[:, part], done = run(
                prepared._ready, fallback, B[:, part], X[:, part], now, listener
            )
            reports += done
        _warn_of_means(reports, np.linalg.norm(B, axis=0))
        inside = X
        with np.errstate(over="ignore", under="ignore"):
            B, X = B / powers, X / powers
            lost = np.linalg.norm(X * powers - inside, axis=0) > 1e-15 * np.linalg.norm(inside, axis=0)
        for report, power, beyond in zip(reports, powers, lost, strict=True):
            if beyond:
                report["status"], report["residual"] = int(Status.NONFINITE), np.inf
                report["detail"] = "the answer is beyond the range of double precision"
            for name in ("residual", "target", "residuals", "removed"):
                report[name] = report[name] / power
        return self._result(X, reports, B, prepared, dtype, start, give)

    def _on_grid(
        self,
        ready: Ready,
        fallback: Ready | None,
        B: Array,
        X: Array,
        options: dict[str, Any],
        listener: Any,
    ) -> tuple[Array, Array, list[dict[str, Any]]]:
        grid = self.target.needs_grid("grid")
        rows, starts = np.ascontiguousarray(B.T), np.ascontiguousarray(X.T)
        if rows.size == 0:  # no cell, or no right-hand side
            return B, X, [_nothing(options) for _ in range(rows.shape[0])]
        python = ready.calls_python or (fallback is not None and fallback.calls_python)
        reports = _core.deepcg_solve_grid(
            grid._native,
            ready.native,
            None if fallback is None else fallback.native,
            fallback is not None,
            not python,
            rows,
            starts,
            self.compact,
            options,
            listener,
        )
        if grid.n_singular:
            for row in rows:
                grid._native.project(row.copy(), row, self.compact)
        return rows.T, starts.T, reports

    def _on_matrix(
        self,
        ready: Ready,
        fallback: Ready | None,
        B: Array,
        X: Array,
        options: dict[str, Any],
        listener: Any,
    ) -> tuple[Array, Array, list[dict[str, Any]]]:
        grid, compact = self.target.grid, self.target.compact
        removed = 0.0
        singular = grid is not None and grid.n_singular > 0
        if grid is not None and not compact and grid._flags is not None:
            fluid = grid.fluid.ravel()[:, np.newaxis]
            B, X = np.where(fluid, B, 0.0), np.where(fluid, X, 0.0)
        if grid is not None and singular:
            column = np.ascontiguousarray(B[:, 0])
            removed = float(grid._native.project(column.copy(), column, compact))
            B = column[:, np.newaxis]
        if B.size == 0:
            return B, X, [_nothing(options)]
        x = np.ascontiguousarray(X[:, 0])
        report = _core.deepcg_solve(
            self.system.handle,
            ready.native,
            None if fallback is None else fallback.native,
            fallback is not None and fallback.native is None,
            np.ascontiguousarray(B[:, 0]),
            x,
            options,
            listener,
        )
        if grid is not None and singular:
            grid._native.project(x.copy(), x, compact)
            report["residual"] = residual_norms(self.system, x, B)[0]
            if report["status"] == Status.CONVERGED and not report["residual"] <= report["target"]:
                report["status"] = int(Status.STAGNATED)
        return B, x[:, np.newaxis], [report | {"removed": removed}]

    def _result(
        self,
        X: Array,
        reports: list[dict[str, Any]],
        B: Array,
        prepared: PreparedModel,
        dtype: Any,
        start: float,
        give: Callable[[Any], Any],
    ) -> LinearResult:
        result = finish_linear_result(
            X if self.batch else X.reshape(self.shape),
            reports,
            solver="deep_conjugate_direction",
            system=self.system,
            b=B,
            start=start,
            dtype=dtype,
            give=None if self.batch else give,
            model=prepared.model,
            setup_time=prepared.setup_time,
            **_counts(reports, self.batch),
        )
        return self._split(result, reports, B, give) if self.batch else result

    def _split(
        self, result: LinearResult, reports: list[dict[str, Any]], B: Array, give: Callable[[Any], Any]
    ) -> LinearResult:
        """The result of several right-hand sides with their own counts and certificates."""
        norms = [float(r["residual"]) for r in reports]
        if result.x.dtype != np.float64:
            norms = residual_norms(self.system, result.x, B)
        result.x = give(np.ascontiguousarray(result.x.T).reshape(self.shape))
        return _with_own_fields(result, reports, norms)


def _counts(reports: list[dict[str, Any]], batch: bool) -> dict[str, Any]:
    """Fields of the result beside those of every solver: arrays for several right-hand sides."""
    counts: dict[str, list[Any]] = {
        "n_model": [int(r["n_model"]) for r in reports],
        "n_replaced": [int(r["n_replaced"]) for r in reports],
        "removed_mean": [float(r["removed"]) for r in reports],
        "fallback_step": [int(r["fallback_step"]) for r in reports],
    }
    if batch:
        return {name: np.array(values) for name, values in counts.items()}
    extras: dict[str, Any] = {name: values[0] for name, values in counts.items()}
    extras["fallback_step"] = None if extras["fallback_step"] < 0 else extras["fallback_step"]
    return extras


def _with_own_fields(result: LinearResult, reports: list[dict[str, Any]], norms: list[float]) -> LinearResult:
    """The result of several right-hand sides with each one's counts and certificate."""
    targets = np.array([float(r["target"]) for r in reports])
    statuses = np.array([int(r["status"]) for r in reports])
    missed = (statuses == Status.CONVERGED) & ~(np.array(norms) <= targets)
    own: dict[str, Any] = {
        "nit": np.array([int(r["nit"]) for r in reports]),
        "statuses": np.where(missed, int(Status.STAGNATED), statuses),
        "true_residual": np.array(norms),
        "target": targets,
        "residuals": [np.asarray(r["residuals"]) for r in reports],
    }
    for name, value in own.items():
        setattr(result, name, value)
    return result


def _warn_of_means(reports: list[dict[str, Any]], norms: Array) -> None:
    """`norms`: of the right-hand sides without what was removed."""
    removed = np.array([float(r["removed"]) for r in reports])
    if not removed.any():
        return
    share = float((removed / np.maximum(np.hypot(removed, norms), 1e-300)).max())
    if share > 1e-8:
        warnings.warn(
            "deep_conjugate_direction: `b` has means over enclosed regions, which no A x has; they were "
            f"taken off, {share:.2g} of its 2-norm. Open the regions, or make the sums of `b` over them "
            "zero.",
            ConvergenceWarning,
            stacklevel=_caller_stacklevel(),
        )


def _nothing(options: dict[str, Any]) -> dict[str, Any]:
    """The report of a system without unknowns."""
    counts = dict.fromkeys(("status", "nit", "matvecs", "n_model", "n_replaced"), 0)
    floats = {"residual": 0.0, "removed": 0.0, "target": options["atol"]}
    return {**counts, **floats, "fallback_step": -1, "detail": "", "residuals": np.zeros(1)}


def _runs_of_equals(values: Array) -> list[tuple[int, int]]:
    """First and last + 1 of the runs of equal numbers."""
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


__all__ = ["PreparedModel", "as_preconditioner", "deep_conjugate_direction", "prepare"]
