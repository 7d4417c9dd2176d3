"""Recycled CG and recycled MINRES: short recurrences that carry a space from one system to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._result import Result
from ._linear_result import LinearResult, answer_dtype, finish_linear_result
from ._operators import as_inverse, as_system, prepare_vectors, scalar_type
from ._recycle_state import RecycleState, matrix_token


def rcg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    recycle: RecycleState | None = None,
    recycle_dim: int = 20,
    window: int | None = None,
    callback: Callable[..., Any] | None = None,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> LinearResult:
    """Solve ``A x = b`` by conjugate gradients that deflate what earlier, related systems found slow.

    The start and every direction are kept A-orthogonal to a carried space W, so that CG sees the rest of the
    spectrum alone. The first `window` directions of each solve sharpen W: it becomes the vectors of smallest
    Ritz values of ``M A`` on W and those directions.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Symmetric (Hermitian) positive definite; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like, shape of `b`, optional
        Start; default zero. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    maxiter : int, optional
        Limit on iterations; default ``10 * n``.
    M : str, LinearOperator, callable or sparse matrix, optional
        Preconditioner, an approximation of the inverse of `A`, symmetric positive definite; or a name, such
        as ``"ic0"`` or ``"jacobi"``, of one to be made from `A`.
    recycle : RecycleState, optional
        Carried from call to call; updated in place. Without it this is CG.
    recycle_dim : int, default 20
        Vectors kept.
    window : int, optional
        Directions of a solve that are kept until its end, two vectors each (three with `M`); default
        ``2 * recycle_dim``.
    callback : callable, optional
        Called after every iteration, as ``callback(intermediate_result)`` if its parameter has that name,
        else as ``callback(xk)``. May raise StopIteration.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``. `recycled` is how many vectors of `recycle` were used (one product with `A`
        each, unless `A` is the matrix of the call before), `k_used` how many were left there.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data, malformed sparse arrays, or a
        `recycle` of another size.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance; an indefinite `A` or `M` found on the way is status 6.

    Notes
    -----
    Bits of `x` do not depend on the number of threads where those of `M` do not.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import RecycleState, rcg
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(300, 300), format="csr")
    >>> rng, state = np.random.default_rng(0), RecycleState()
    >>> counts = [rcg(A, rng.normal(size=300), rtol=1e-8, recycle=state).nit for _ in range(4)]
    >>> counts[3] < 0.8 * counts[0]
    True
    """
    return _recycled(
        "rcg",
        A,
        b,
        x0,
        M,
        recycle,
        callback,
        check_finite,
        method="cg",
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        recycle_dim=recycle_dim,
        window=window,
        n_threads=n_threads,
    )


def rminres(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    recycle: RecycleState | None = None,
    recycle_dim: int = 20,
    window: int | None = None,
    callback: Callable[..., Any] | None = None,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> LinearResult:
    """Solve ``A x = b``, `A` symmetric and possibly indefinite, by MINRES with a carried space.

    Lanczos runs on `A` projected away from ``C = A U``, with C orthonormal in the inner product of `M`; the
    solution's part in U comes for free. Every `window` Lanczos vectors, U becomes the harmonic Ritz vectors
    of smallest magnitude on U and those vectors.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Symmetric (Hermitian); float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like, shape of `b`, optional
        Start; default zero. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual, also
        with `M`.
    maxiter : int, optional
        Limit on iterations; default ``5 * n``.
    M : str, LinearOperator, callable or sparse matrix, optional
        Preconditioner, symmetric positive definite; or the name of one to be made from `A`.
    recycle : RecycleState, optional
        Carried from call to call; updated in place. Without it this is MINRES.
    recycle_dim : int, default 20
        Vectors kept.
    window : int, optional
        Lanczos vectors between two choices of U, two vectors of memory each; default ``2 * recycle_dim``.
    callback : callable, optional
        Called after every iteration, as ``callback(intermediate_result)`` if its parameter has that name,
        else as ``callback(xk)``. May raise StopIteration.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of a matrix are always checked.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``. `recycled` and `k_used` as in `rcg`.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, negative tolerances, non-finite data, malformed sparse arrays, or a
        `recycle` of another size.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance. A singular, inconsistent system ends as stagnated, at a
        least-squares solution.

    References
    ----------
    .. [1] S. Wang, E. de Sturler, G. H. Paulino, "Large-scale topology optimization using preconditioned
           Krylov subspace methods with recycling", Int. J. Numer. Meth. Engng. 69 (2007).

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import RecycleState, rminres
    >>> A = sp.diags_array([-1.0, 1.9, -1.0], offsets=[-1, 0, 1], shape=(300, 300), format="csr")
    >>> rng, state = np.random.default_rng(0), RecycleState()
    >>> counts = [rminres(A, rng.normal(size=300), rtol=1e-8, recycle=state).nit for _ in range(4)]
    >>> counts[3] < 0.8 * counts[0]
    True
    """
    return _recycled(
        "rminres",
        A,
        b,
        x0,
        M,
        recycle,
        callback,
        check_finite,
        method="minres",
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        recycle_dim=recycle_dim,
        window=window,
        n_threads=n_threads,
    )


def _recycled(
    solver: str,
    A: Any,
    b: Any,
    x0: Any,
    M: Any,
    recycle: RecycleState | None,
    callback: Callable[..., Any] | None,
    check_finite: bool,
    *,
    method: str,
    rtol: float,
    atol: float,
    maxiter: int | None,
    recycle_dim: int,
    window: int | None,
    n_threads: int | None,
) -> LinearResult:
    start = time.perf_counter()
    recycle_dim = _validate.integer("recycle_dim", recycle_dim, minimum=1)
    options = {
        "method": method,
        "recycle": recycle is not None,
        "rtol": _validate.tolerance("rtol", rtol),
        "atol": _validate.tolerance("atol", atol),
        "recycle_dim": recycle_dim,
        "window": _validate.integer("window", 2 * recycle_dim if window is None else window, minimum=1),
        "n_threads": _validate.n_threads(n_threads),
    }
    if recycle is not None and not isinstance(recycle, RecycleState):
        raise TypeError(f"`recycle` must be a RecycleState, not {type(recycle).__name__}")
    _validate.callback("callback", callback)
    backend = _dispatch.select(A=A, b=b, x0=x0)
    A, b, x0 = backend.take("A", A), backend.take("b", b), backend.take("x0", x0)
    system = as_system(A, dtype=scalar_type(A=A, b=b, x0=x0))
    inverse = as_inverse(M, system)
    B, X, shape = prepare_vectors(system, b, x0, check_finite=check_finite)
    n = system.n
    options["recycle_dim"] = min(recycle_dim, n)
    default = 10 * n if method == "cg" else 5 * n
    options["maxiter"] = default if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1)
    if B.shape[1] != 1:
        raise ValueError(f"`b` has shape {tuple(shape)}; {solver} solves for one right-hand side")
    state = recycle if recycle is not None else RecycleState()
    U, C = state.vectors(n, B.dtype)
    token = matrix_token(system, None) if recycle is not None else None
    same = recycle is not None and state.same_matrix(token)
    report = run_short(system.handle, inverse, B[:, 0], X[:, 0], options, callback, shape, (U, C), same)
    if recycle is not None:
        recycle.update(report["U"], report["C"], token, report["nit"], report["matvecs"], report["recycled"])
    return finish_linear_result(
        X.reshape(shape, order="F"),
        [report],
        solver=solver,
        system=system,
        b=B,
        start=start,
        dtype=answer_dtype(A, b),
        give=backend.give,
    )


def as_listener(
    callback: Callable[..., Any] | None, shape: tuple[int, ...]
) -> Callable[[int, float, float, np.ndarray], bool] | None:
    """The user's callback as native solvers call it, with copies of the iterate; True: stop."""
    if callback is None:
        return None
    named = _validate.takes_intermediate_result(callback)

    def listen(nit: int, residual: float, target: float, xk: np.ndarray) -> bool:
        xk = xk.reshape(shape)
        try:
            if named:
                callback(intermediate_result=Result(x=xk, nit=nit, residual=residual, target=target))
            else:
                callback(xk)
        except StopIteration:
            return True
        return False

    return listen


def run_short(
    handle: Any,
    inverse: Any,
    b: np.ndarray,
    x: np.ndarray,
    options: dict[str, Any],
    callback: Callable[..., Any] | None,
    shape: tuple[int, ...],
    space: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    same_matrix: bool = False,
) -> dict[str, Any]:
    """One native solve from `x`, in place, with the user's callback around it."""
    listen = as_listener(callback, shape)
    options = {**options, "zero_start": not x.any(), "report_x": listen is not None}
    report: dict[str, Any] = _core.short_recurrence_solve(
        handle, inverse, b, x, options, space[0], space[1], same_matrix, listen
    )
    return report


__all__ = ["rcg", "rminres"]
