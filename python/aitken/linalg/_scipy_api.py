"""SciPy's Krylov solvers by name, signature and meaning, on the native drivers.

Each takes what the function of that name in ``scipy.sparse.linalg`` takes, with the same defaults and the
same meaning of `maxiter`, and `n_threads` and `check_finite` beside. What differs on purpose: the result
carries its certificate and unpacks as ``x, info``; `info` is 0 exactly if the recomputed ``||b - A x||_2``
meets the tolerance; what does not converge is a `ConvergenceWarning`; a breakdown is ``-status``; callbacks
get a copy of the iterate and may raise StopIteration; NaN in `A`, `b` and `x0` is refused.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from .. import _core, _dispatch, _validate
from ._linear_result import LinearResult, answer_dtype, finish_linear_result
from ._operators import System, as_inverse, as_system, prepare_vectors, scalar_type
from ._short import run_short


@dataclass
class _Call:
    """One call's data: checked, and in the form of the native drivers."""

    solver: str
    start: float
    system: System
    inverse: Any
    b: np.ndarray  # as (n, 1)
    x: np.ndarray  # the start, then the answer
    dtype: np.dtype[Any]
    give: Callable[[Any], Any]  # to the library that `A` and `b` are of

    @property
    def n(self) -> int:
        return self.system.n

    def cycles(
        self,
        options: dict[str, Any],
        listen: Callable[..., bool] | None,
        every_step: bool,
        space: tuple[Any, Any] = (None, None),
        outer: tuple[Any, Any] = (None, None),
    ) -> dict[str, Any]:
        """A solve by the cyclic driver."""
        report: dict[str, Any] = _core.krylov_solve(
            self.system.handle,
            self.inverse,
            self.b[:, 0],
            self.x[:, 0],
            options,
            *space,
            space[1] is not None,
            *outer,
            listen,
            every_step,
        )
        return report

    def columns(self, name: str, pairs: list[Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Vectors u of pairs (c, u) as columns, and the c if none is missing."""
        if not pairs:
            return None, None
        stacked: list[np.ndarray | None] = []
        for vectors in ([u for _, u in pairs], [c for c, _ in pairs]):
            if any(v is None for v in vectors):
                stacked.append(None)
                continue
            block = np.empty((self.n, len(vectors)), dtype=self.b.dtype, order="F")
            for j, v in enumerate(vectors):
                v = np.asarray(v)
                if v.size != self.n:
                    raise ValueError(f"`{name}` has a vector of shape {v.shape}; ({self.n},) is needed")
                block[:, j] = v.reshape(self.n)
            stacked.append(block)
        return stacked[0], stacked[1]

    def result(self, report: dict[str, Any], maxiter: int, **extras: Any) -> LinearResult:
        return finish_linear_result(
            self.x[:, 0],
            [report],
            solver=self.solver,
            system=self.system,
            b=self.b,
            start=self.start,
            dtype=self.dtype,
            failed_info=maxiter if report["status"] == 1 else None,
            give=self.give,
            **extras,
        )


def _prepare(solver: str, A: Any, b: Any, x0: Any, M: Any, check_finite: bool) -> _Call:
    start = time.perf_counter()
    check_finite = _validate.boolean("check_finite", check_finite)
    own_solve = getattr(A, "psolve", None)
    if M is None and callable(own_solve):  # an operator that brings its preconditioner
        M = own_solve
    wanted = None if isinstance(x0, str) else x0
    backend = _dispatch.select(A=A, b=b, x0=wanted)
    A, b, wanted = backend.take("A", A), backend.take("b", b), backend.take("x0", wanted)
    system = as_system(A, dtype=scalar_type(A=A, b=b, x0=wanted))
    inverse = as_inverse(M, system)
    B, X, shape = prepare_vectors(system, b, wanted, check_finite=check_finite)
    if B.shape[1] != 1:
        raise ValueError(f"`b` has shape {shape}; ({system.n},) or ({system.n}, 1) is needed")
    if isinstance(x0, str):
        _validate.choice("x0", x0, ("Mb",))
        if inverse is None:
            X[...] = B
        else:
            inverse.apply(B, X)
    return _Call(solver, start, system, inverse, B, X, answer_dtype(A, b), backend.give)


def _tolerances(rtol: Any, atol: Any = 0.0) -> dict[str, Any]:
    """Non-negative numbers, infinity allowed; ValueError for anything else, as in SciPy."""
    checked: dict[str, Any] = {}
    for name, value in (("rtol", rtol), ("atol", atol)):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not number >= 0:
            raise ValueError(f"`{name}` must be a real number >= 0; got {value!r}")
        checked[name] = number
    return checked


def _limit(maxiter: Any, default: int) -> int:
    return default if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1)


def cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    n_threads: int | None = None,
    check_finite: bool = True,
) -> LinearResult:
    """Solve ``A x = b`` by conjugate gradients, as ``scipy.sparse.linalg.cg`` does.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Symmetric (Hermitian) positive definite; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like of the shape of `b`, or "Mb", optional
        Start; default zero, "Mb" is ``M @ b``. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    maxiter : int, optional
        Limit on iterations; default ``10 * n``.
    M : sparse matrix, ndarray, LinearOperator, callable or name, optional
        Preconditioner, an approximation of the inverse of `A`, symmetric positive definite.
    callback : callable, optional
        Called as ``callback(xk)`` after every iteration, with a copy. May raise StopIteration.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``, `x` of shape (n,).

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data and malformed sparse arrays.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance; an indefinite `A` or `M` found on the way is status 6, info -6.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import cg
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(100, 100), format="csr")
    >>> x, info = cg(A, np.ones(100), rtol=1e-10)
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-9)
    (0, True)
    """
    return _short("cg", A, b, x0, rtol, atol, maxiter, M, callback, n_threads, check_finite)


def bicgstab(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    n_threads: int | None = None,
    check_finite: bool = True,
) -> LinearResult:
    """Solve ``A x = b`` by stabilised biconjugate gradients, as ``scipy.sparse.linalg.bicgstab`` does.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Any square matrix; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like of the shape of `b`, or "Mb", optional
        Start; default zero, "Mb" is ``M @ b``. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    maxiter : int, optional
        Limit on iterations; default ``10 * n``.
    M : sparse matrix, ndarray, LinearOperator, callable or name, optional
        Preconditioner, an approximation of the inverse of `A`, applied on the right.
    callback : callable, optional
        Called as ``callback(xk)`` after every iteration, with a copy. May raise StopIteration.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``, `x` of shape (n,). Two products with `A` make one iteration.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data and malformed sparse arrays.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance; a breakdown of the recurrence is status 3, info -3.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import bicgstab
    >>> A = sp.diags_array([-1.2, 2.1, -0.8], offsets=[-1, 0, 1], shape=(100, 100), format="csr")
    >>> x, info = bicgstab(A, np.ones(100), rtol=1e-10)
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-9)
    (0, True)
    """
    return _short("bicgstab", A, b, x0, rtol, atol, maxiter, M, callback, n_threads, check_finite)


def minres(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    shift: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    show: bool = False,
    check: bool = False,
    atol: float = 0.0,
    n_threads: int | None = None,
    check_finite: bool = True,
) -> LinearResult:
    """Solve ``(A - shift * I) x = b`` by minimal residuals, as ``scipy.sparse.linalg.minres`` does.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Symmetric (Hermitian), possibly indefinite; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like of the shape of `b`, or "Mb", optional
        Start; default zero, "Mb" is ``M @ b``. Not modified.
    rtol : float
        The solve ends when ``||b - (A - shift * I) x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed
        residual. (SciPy's test is relative to estimates of ``||A||`` and ``||x||``, and in the norm of `M`.)
    shift : float
        Subtracted from the diagonal.
    maxiter : int, optional
        Limit on iterations; default ``5 * n``.
    M : sparse matrix, ndarray, LinearOperator, callable or name, optional
        Preconditioner, symmetric positive definite.
    callback : callable, optional
        Called as ``callback(xk)`` after every iteration, with a copy. May raise StopIteration.
    show : bool, default False
        Print the residual after every iteration.
    check : bool, default False
        Test on one vector whether `A` and `M` are symmetric.
    atol : float
        See `rtol`; SciPy's function has none.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``, `x` of shape (n,).

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data and malformed sparse arrays;
        with `check`, for an unsymmetric `A` or `M`.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance. A singular, inconsistent system ends as stagnated, at a
        least-squares solution; an indefinite `M` is status 6.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import minres
    >>> A = sp.diags_array([-1.0, 0.5, -1.0], offsets=[-1, 0, 1], shape=(100, 100), format="csr")
    >>> x, info = minres(A, np.ones(100), rtol=1e-8)
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-7)
    (0, True)
    """
    return _short(
        "minres", A, b, x0, rtol, atol, maxiter, M, callback, n_threads, check_finite, shift, show, check
    )


def _short(
    solver: str,
    A: Any,
    b: Any,
    x0: Any,
    rtol: Any,
    atol: Any,
    maxiter: Any,
    M: Any,
    callback: Any,
    n_threads: Any,
    check_finite: Any,
    shift: Any = 0.0,
    show: Any = False,
    check: Any = False,
) -> LinearResult:
    options = _tolerances(rtol, atol)
    options |= {
        "method": solver,
        "shift": _validate.real_scalar("shift", shift),
        "n_threads": _validate.n_threads(n_threads),
    }
    _validate.callback("callback", callback)
    call = _prepare(solver, A, b, x0, M, check_finite)
    options["maxiter"] = maxiter = _limit(maxiter, (5 if solver == "minres" else 10) * call.n)
    if _validate.boolean("check", check):
        for name, handle in (("A", call.system.handle), ("M", call.inverse)):
            _check_symmetric(name, handle, call.b)
    if _validate.boolean("show", show):
        callback = _Printer(callback)
    report = run_short(
        call.system.handle, call.inverse, call.b[:, 0], call.x[:, 0], options, callback, (call.n,)
    )
    return call.result(report, maxiter, shift=options["shift"])


def _check_symmetric(name: str, handle: Any, b: np.ndarray) -> None:
    """ValueError where ``<A y, A y>`` and ``<y, A (A y)>`` differ for ``y = b``."""
    if handle is None:
        return
    once, twice = np.empty_like(b), np.empty_like(b)
    handle.apply(b, once)
    handle.apply(once, twice)
    square = float(np.vdot(once, once).real)
    epsilon = np.finfo(np.float64).eps
    if abs(square - np.vdot(b, twice)) > (square + epsilon) * epsilon ** (1 / 3):
        raise ValueError(f"`{name}` is not symmetric")


class _Printer:
    """Prints a line per iteration, then calls the user's callback."""

    def __init__(self, callback: Callable[..., Any] | None) -> None:
        self.callback = callback

    def __call__(self, intermediate_result: Any) -> None:
        step = intermediate_result
        print(f"minres {step.nit:6d}  ||b - A x|| {step.residual:12.5e}")
        if self.callback is not None:
            self.callback(step.x)


def gmres(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    restart: int | None = None,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    callback_type: str | None = None,
    n_threads: int | None = None,
    check_finite: bool = True,
) -> LinearResult:
    """Solve ``A x = b`` by restarted GMRES, as ``scipy.sparse.linalg.gmres`` does.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Any square matrix; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like of the shape of `b`, or "Mb", optional
        Start; default zero, "Mb" is ``M @ b``. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    restart : int, optional
        Iterations of a cycle; default ``min(20, n)``.
    maxiter : int, optional
        Limit on cycles, or with the legacy `callback_type` on iterations; default ``10 * n``.
    M : sparse matrix, ndarray, LinearOperator, callable or name, optional
        Preconditioner, an approximation of the inverse of `A`, applied on the left; the solve ends by the
        residual of the unpreconditioned system.
    callback : callable, optional
        Called as `callback_type` says. May raise StopIteration.
    callback_type : {"legacy", "pr_norm", "x"}, optional
        "pr_norm": after every iteration, with the preconditioned residual's norm relative to ``||b||``; "x":
        after every cycle, with a copy of the iterate; "legacy" (default): like "pr_norm", and `maxiter`
        counts iterations.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``, `x` of shape (n,); where the limit was reached, `info` is `maxiter`.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data, malformed sparse arrays and an
        unknown `callback_type`.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance.
    DeprecationWarning
        For a `callback` without `callback_type`, as in SciPy.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import gmres
    >>> A = sp.diags_array([-1.2, 2.1, -0.8], offsets=[-1, 0, 1], shape=(100, 100), format="csr")
    >>> x, info = gmres(A, np.ones(100), rtol=1e-10, M="ilu0")
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-9)
    (0, True)
    """
    if callback is not None and callback_type is None:
        warnings.warn(
            'gmres called without specifying `callback_type`; "legacy" is assumed, where `maxiter` counts '
            'iterations. Pass callback_type="legacy", "pr_norm" or "x"',
            DeprecationWarning,
            stacklevel=2,
        )
    kind = _validate.choice("callback_type", callback_type or "legacy", ("x", "pr_norm", "legacy"))
    _validate.callback("callback", callback)
    options = _tolerances(rtol, atol)
    call = _prepare("gmres", A, b, x0, M, check_finite)
    limit = _limit(maxiter, 10 * call.n)
    restart = 20 if restart is None else _validate.integer("restart", restart, minimum=1)
    by_iteration = callback is not None and kind == "legacy"
    options = {
        **options,
        "restart": min(restart, call.n),
        "recycle_dim": 0,
        "side": "left",
        "maxiter": limit if by_iteration else _ENDLESS,
        "max_cycles": -1 if by_iteration else limit,
        "watch_stagnation": False,
        "n_threads": _validate.n_threads(n_threads),
    }
    norm_b = float(np.linalg.norm(call.b))
    every_step = kind != "x"

    def listen(nit: int, residual: float, target: float, x: np.ndarray | None) -> bool:
        assert callback is not None
        if every_step:
            return x is None and _stops(callback, np.float64(residual / norm_b))
        return nit > 0 and _stops(callback, x)

    report = call.cycles(options, None if callback is None else listen, every_step)
    if callback is not None and not every_step and report["status"] == 0 and report["cycles"] > 0:
        _stops(callback, call.x[:, 0].copy())  # the driver does not ask about what is solved
    return call.result(report, limit)


def lgmres(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = 1000,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    inner_m: int = 30,
    outer_k: int = 3,
    outer_v: list[Any] | None = None,
    store_outer_Av: bool = True,
    prepend_outer_v: bool = False,
    n_threads: int | None = None,
    check_finite: bool = True,
) -> LinearResult:
    """Solve ``A x = b`` by LGMRES, as ``scipy.sparse.linalg.lgmres`` does.

    Restarted GMRES whose cycles also search along the corrections of the last cycles.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Any square matrix; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like of the shape of `b`, or "Mb", optional
        Start; default zero, "Mb" is ``M @ b``. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    maxiter : int, default 1000
        Limit on cycles.
    M : sparse matrix, ndarray, LinearOperator, callable or name, optional
        Preconditioner, an approximation of the inverse of `A`, applied on the right (SciPy: left), so that
        the true residual is minimised.
    callback : callable, optional
        Called as ``callback(xk)`` before every cycle and at the end, with a copy. May raise StopIteration.
    inner_m : int, default 30
        Iterations of a cycle, corrections not counted.
    outer_k : int, default 3
        Corrections kept.
    outer_v : list of (v, Av), optional
        Corrections to begin with, Av an array or None; replaced in place by those of this solve.
    store_outer_Av : bool, default True
        Put Av into `outer_v`, which saves a product each when `A` stays the same.
    prepend_outer_v : bool, default False
        Search along the corrections first instead of last.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``, `x` of shape (n,); where the limit was reached, `info` is `maxiter`.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data and malformed sparse arrays.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import lgmres
    >>> A = sp.diags_array([-1.2, 2.1, -0.8], offsets=[-1, 0, 1], shape=(100, 100), format="csr")
    >>> x, info = lgmres(A, np.ones(100), rtol=1e-10)
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-9)
    (0, True)
    """
    options = _tolerances(rtol, atol)
    _validate.callback("callback", callback)
    call = _prepare("lgmres", A, b, x0, M, check_finite)
    limit = _limit(maxiter, 1000)
    outer_v = [] if outer_v is None else _pairs("outer_v", outer_v)
    outer_k = _validate.integer("outer_k", outer_k, minimum=0)
    keep_images = _validate.boolean("store_outer_Av", store_outer_Av)
    space = call.columns("outer_v", [(image, v) for v, image in outer_v])
    known = space[1] is not None or space[0] is None
    options = {
        **options,
        "restart": _validate.integer("inner_m", inner_m, minimum=1),
        "recycle_dim": 0,
        "outer": max(outer_k, len(outer_v)),
        "outer_first": _validate.boolean("prepend_outer_v", prepend_outer_v),
        "side": "right",
        "maxiter": _ENDLESS,
        "max_cycles": limit,
        "watch_stagnation": False,
        "n_threads": _validate.n_threads(n_threads),
    }
    listen = None if callback is None else _BeforeCycles(callback, limit)
    report = call.cycles(options, listen, False, outer=space)
    if listen is not None:
        listen.at_end(report, call.x[:, 0])
    U, images = report["outer_u"], report["outer_c"]
    count = 0 if U is None else U.shape[1]
    stored = keep_images and known and images is not None
    outer_v[:] = [(U[:, j], images[:, j] if stored else None) for j in range(count)][-outer_k or count :]
    return call.result(report, limit)


def gcrotmk(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = 1000,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    m: int = 20,
    k: int | None = None,
    CU: list[Any] | None = None,
    discard_C: bool = False,
    truncate: str = "oldest",
    n_threads: int | None = None,
    check_finite: bool = True,
) -> LinearResult:
    """Solve ``A x = b`` by flexible GCROT(m, k), as ``scipy.sparse.linalg.gcrotmk`` does.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Any square matrix; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like of the shape of `b`, or "Mb", optional
        Start; default zero, "Mb" is ``M @ b``. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    maxiter : int, default 1000
        Limit on cycles.
    M : sparse matrix, ndarray, LinearOperator, callable or name, optional
        Preconditioner, an approximation of the inverse of `A`; it may change from call to call.
    callback : callable, optional
        Called as ``callback(xk)`` before every cycle and at the end, with a copy. May raise StopIteration.
    m : int, default 20
        Iterations of a cycle, beside those that fill up the `k` vectors.
    k : int, optional
        Vectors kept from cycle to cycle; default `m`.
    CU : list of (c, u), optional
        Vectors to begin with, ``c = A u`` or None; replaced in place by those of this solve.
    discard_C : bool, default False
        Keep no c, neither of those given nor of those returned: for a sequence of different matrices.
    truncate : {"oldest", "smallest"}
        What makes room: the oldest vector, or the combination that did least.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``, `x` of shape (n,); where the limit was reached, `info` is `maxiter`.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data and malformed sparse arrays.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import gcrotmk
    >>> A = sp.diags_array([-1.2, 2.1, -0.8], offsets=[-1, 0, 1], shape=(100, 100), format="csr")
    >>> x, info = gcrotmk(A, np.ones(100), rtol=1e-10)
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-9)
    (0, True)
    """
    options = _tolerances(rtol, atol)
    _validate.callback("callback", callback)
    _validate.choice("truncate", truncate, ("oldest", "smallest"))
    call = _prepare("gcrotmk", A, b, x0, M, check_finite)
    limit = _limit(maxiter, 1000)
    m = _validate.integer("m", m, minimum=1)
    k = m if k is None else _validate.integer("k", k, minimum=0)
    CU = [] if CU is None else _pairs("CU", CU)
    if _validate.boolean("discard_C", discard_C):
        CU[:] = [(None, u) for _, u in CU]
    U, C = call.columns("CU", CU)
    products = 0
    if U is not None and C is None and any(c is not None for c, _ in CU):
        U, C, products = _complete(call, CU)
    options = {
        **options,
        "restart": m,
        "recycle_dim": max(k, 0 if U is None else U.shape[1]),
        "steps_beside": True,
        "select": truncate,
        "side": "flexible",
        "maxiter": _ENDLESS,
        "max_cycles": limit,
        "watch_stagnation": False,
        "n_threads": _validate.n_threads(n_threads),
    }
    listen = None if callback is None else _BeforeCycles(callback, limit)
    report = call.cycles(options, listen, False, space=(U, C))
    report["matvecs"] += products
    if listen is not None:
        listen.at_end(report, call.x[:, 0])
    U, C = report["U"], report["C"]
    CU[:] = [
        (None if discard_C or C is None else C[:, j], U[:, j]) for j in range(0 if U is None else U.shape[1])
    ]
    CU.append((None, call.x[:, 0].copy()))
    return call.result(report, limit)


_ENDLESS = np.iinfo(np.int64).max


def _stops(callback: Callable[..., Any], argument: Any) -> bool:
    try:
        callback(argument)
    except StopIteration:
        return True
    return False


class _BeforeCycles:
    """Calls a callback as SciPy's outer loops do: before every cycle, and when the last one has converged."""

    def __init__(self, callback: Callable[..., Any], limit: int) -> None:
        self.callback, self.limit, self.count = callback, limit, 0

    def __call__(self, nit: int, residual: float, target: float, x: np.ndarray) -> bool:
        if self.count >= self.limit:
            return False
        self.count += 1
        return _stops(self.callback, x)

    def at_end(self, report: dict[str, Any], x: np.ndarray) -> None:
        """The driver does not ask about what is solved."""
        if report["status"] == 0 and report["norm_b"] > 0:
            self(report["nit"], report["residual"], report["target"], x.copy())


def _pairs(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"`{name}` must be a list, which is changed in place; got {type(value).__name__}")
    for item in value:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"`{name}` must hold pairs of vectors; got an item {type(item).__name__}")
    return value


def _complete(call: _Call, CU: list[Any]) -> tuple[np.ndarray, np.ndarray, int]:
    """U and orthonormal ``C = A U`` where some of the c are missing, those first; and the products made."""
    ordered = sorted(CU, key=lambda pair: pair[0] is not None)
    missing = sum(c is None for c, _ in ordered)
    U, _ = call.columns("CU", [(None, u) for _, u in ordered])
    assert U is not None
    C = np.empty_like(U)
    call.system.handle.apply(np.asfortranarray(U[:, :missing]), C[:, :missing])
    for j, (c, _) in enumerate(ordered[missing:]):
        C[:, missing + j] = np.asarray(c).reshape(call.n)
    Q, R, order = scipy.linalg.qr(C, mode="economic", pivoting=True)
    size = np.abs(np.diagonal(R))
    rank = int((size > 1e-12 * size[0]).sum()) if size.size else 0
    U = scipy.linalg.solve_triangular(R[:rank, :rank], U[:, order[:rank]].T, trans="T").T
    return np.asfortranarray(U), np.asfortranarray(Q[:, :rank]), missing


__all__ = ["bicgstab", "cg", "gcrotmk", "gmres", "lgmres", "minres"]
