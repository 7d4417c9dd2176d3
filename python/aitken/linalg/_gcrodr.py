"""GCRO-DR: restarted GMRES that keeps what it learned, within a solve and from one solve to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._result import Result, Status
from ._linear_result import LinearResult, answer_dtype, finish_linear_result
from ._operators import as_inverse, as_system, prepare_vectors, scalar_type
from ._recycle_state import RecycleState, matrix_token

SIDES = ("right", "left", "flexible")
CARRIES = ("x", "t")
SELECTIONS = {
    "harmonic": "SM",
    "SM": "SM",
    "LM": "LM",
    "SR": "SR",
    "LR": "LR",
    "SI": "SI",
    "LI": "LI",
    "sv": "sv",
}
ORTHOS = ("auto", "cgs2", "mgs")
CALLBACK_TYPES = ("pr_norm", "x", "legacy")


def gcrodr(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    restart: int = 40,
    recycle_dim: int = 20,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    callback_type: str = "pr_norm",
    recycle: RecycleState | None = None,
    side: str = "right",
    select: str = "harmonic",
    carry: str = "x",
    ortho: str = "auto",
    basis_dtype: Any = None,
    adaptive: bool = False,
    block: bool = False,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> LinearResult:
    """Solve ``A x = b`` by GCRO-DR, deflated restarted GMRES with subspace recycling.

    Each cycle of at most `restart` basis vectors keeps the `recycle_dim` directions that slow convergence
    most, so that restarts do not stall; through `recycle` they also serve the next, related system.

    Parameters
    ----------
    A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        Real or complex; float32 is computed in float64.
    b : array_like, shape (n,), (n, 1) or (n, s)
        Right-hand side(s). Several columns advance together, one product with `A` for all of them.
    x0 : array_like, shape of `b`, optional
        Start; default zero. Not modified.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
    restart : int, default 40
        Basis vectors of a cycle, recycled ones included.
    recycle_dim : int, default 20
        Vectors kept, ``0 <= recycle_dim < restart``; 0 is restarted GMRES.
    maxiter : int, optional
        Limit on inner iterations (products with `A` inside cycles); default ``10 * n``.
    M : str, LinearOperator, callable or sparse matrix, optional
        Preconditioner, an approximation of the inverse of `A`; or a name, such as ``"ilu0"`` or ``"jacobi"``,
        of one to be made from `A`.
    callback : callable, optional
        Called after every cycle as ``callback(intermediate_result)`` if its parameter has that name, else as
        `callback_type` says. May raise StopIteration.
    callback_type : {"pr_norm", "legacy", "x"}
        After every inner iteration with the residual's estimate (the first two), or after every cycle with
        the iterate.
    recycle : RecycleState, optional
        Carried from call to call; updated in place, unless NaN or Inf ended the solve.
    side : {"right", "left", "flexible"}
        Build the space with ``A M``, ``M A``, or ``A M_j`` with an `M` that varies from call to call.
    select : {"harmonic", "sv", "LM", "SR", "LR", "SI", "LI"}
        What is kept: harmonic Ritz vectors of smallest magnitude, right singular vectors of the smallest
        singular values, or Ritz vectors by another target.
    carry : {"x", "t"}
        Keep vectors of the solution's space, or of the space of ``t`` with ``x = M t`` (right side only).
    ortho : {"auto", "cgs2", "mgs"}
        Gram-Schmidt: classical with a second pass where the first cancels nine tenths, always two passes, or
        modified.
    basis_dtype : dtype, optional
        ``numpy.float32`` stores the basis in single precision (arithmetic stays double, residuals are
        recomputed each cycle): half the memory traffic. Default: double.
    adaptive : bool, default False
        On stagnation double `restart`, once.
    block : bool, default False
        Several columns of `b` share one block Krylov space instead of having one each.
    check_finite : bool, default True
        Reject NaN and Inf in `A`, `b` and `x0`.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``. `true_residual` is ``||b - A x||_2`` recomputed, `residuals` the history of
        its estimates, `recycled` how many vectors came from `recycle`, `k_used` how many were left there.

    Raises
    ------
    TypeError, ValueError
        For unknown types, wrong shapes, ``recycle_dim >= restart``, negative tolerances, non-finite data,
        malformed sparse arrays, or a `recycle` of another size.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance.

    Notes
    -----
    Parks, de Sturler, Mackey, Johnson, Maiti, "Recycling Krylov subspaces for sequences of linear systems",
    SIAM J. Sci. Comput. 28 (2006); flexible variant: Carvalho, Gratton, Lago, Vasseur, SIAM J. Matrix Anal.
    Appl. 32 (2011).

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import gcrodr
    >>> A = sp.diags_array([-1.0, 2.0, -0.8], offsets=[-1, 0, 1], shape=(500, 500), format="csr")
    >>> x, info = gcrodr(A, np.ones(500), rtol=1e-10, M="ilu0")
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-10 * np.sqrt(500))
    (0, True)
    """
    start = time.perf_counter()
    options = krylov_options(
        rtol=rtol,
        atol=atol,
        restart=restart,
        recycle_dim=recycle_dim,
        side=side,
        select=select,
        carry=carry,
        ortho=ortho,
        basis_dtype=basis_dtype,
        adaptive=adaptive,
        n_threads=n_threads,
    )
    _validate.choice("callback_type", callback_type, CALLBACK_TYPES)
    if recycle is not None and not isinstance(recycle, RecycleState):
        raise TypeError(f"`recycle` must be a RecycleState, not {type(recycle).__name__}")
    _validate.callback("callback", callback)
    options["keep"] = recycle is not None
    place = _dispatch.locate("A", A)
    if place is not None and place.backend == "cuda":
        from . import _cuda_calls  # no GPU code is loaded for CPU data

        options["maxiter"] = _validate.optional_integer("maxiter", maxiter, minimum=1)
        listener, every_step = _listener(callback, callback_type, np.shape(b))
        return _cuda_calls.solve_system(A, b, x0, M, options, recycle, listener, every_step, start)
    backend = _dispatch.select(A=A, b=b, x0=x0)
    A, b, x0 = backend.take("A", A), backend.take("b", b), backend.take("x0", x0)
    system = as_system(A, dtype=scalar_type(A=A, b=b, x0=x0), check_finite=check_finite)
    inverse = as_inverse(M, system, varies=side == "flexible")
    B, X, shape = prepare_vectors(system, b, x0, check_finite=check_finite)
    if B.shape[1] == 0:
        raise ValueError(f"`b` has shape {shape}; at least one column is needed")
    n = system.n
    options["maxiter"] = 10 * n if maxiter is None else _validate.integer("maxiter", maxiter, minimum=1)
    # A space of n vectors is everything there is.
    options["restart"] = max(1, min(restart, n))
    options["recycle_dim"] = max(0, min(recycle_dim, options["restart"] - 1))
    state = recycle if recycle is not None else RecycleState()
    token = (
        matrix_token(system, None if carry == "x" and side != "left" else M) if recycle is not None else None
    )
    same = recycle is not None and state.same_matrix(token)
    U, C = state.vectors(n, B.dtype)
    if options["recycle_dim"] == 0:
        U = C = None
    if callback is not None and B.shape[1] > 1:
        raise ValueError(f"`callback` is for one right-hand side; `b` has shape {tuple(np.shape(b))}")
    if block and B.shape[1] > 1:
        report = _core.krylov_solve_block(system.handle, inverse, B, X, options, U, C, same)
    elif B.shape[1] == 1:
        listener, every_step = _listener(callback, callback_type, shape)
        report = _core.krylov_solve(
            system.handle, inverse, B[:, 0], X[:, 0], options, U, C, same, None, None, listener, every_step
        )
        if listener is not None and not every_step and report["status"] == int(Status.CONVERGED):
            listener(report["nit"], report["residual"], report["target"], X[:, 0])
    else:
        report = _core.krylov_solve_columns(system.handle, inverse, B, X, options, U, C, same)
    columns = report.get("columns", [report])
    sound = all(c["status"] != int(Status.NONFINITE) for c in columns)
    if recycle is not None and options["recycle_dim"] > 0 and sound:
        recycle.update(
            report["U"],
            report["C"],
            token,
            max(c["nit"] for c in columns),
            sum(c["matvecs"] for c in columns),
            columns[0]["recycled"],
        )
    return finish_linear_result(
        X.reshape(shape, order="F"),
        columns,
        solver="gcrodr",
        system=system,
        b=B,
        start=start,
        dtype=answer_dtype(A, b),
        give=backend.give,
    )


def krylov_options(
    *,
    rtol: float,
    atol: float,
    restart: int,
    recycle_dim: int,
    side: str,
    select: str,
    carry: str,
    ortho: str,
    basis_dtype: Any,
    adaptive: bool,
    n_threads: int | None,
) -> dict[str, Any]:
    """The native driver's options, checked."""
    restart = _validate.integer("restart", restart, minimum=1)
    recycle_dim = _validate.integer("recycle_dim", recycle_dim, minimum=0)
    if recycle_dim >= restart:
        raise ValueError(f"`recycle_dim` must be below `restart`; got {recycle_dim} and {restart}")
    _validate.choice("side", side, SIDES)
    _validate.choice("carry", carry, CARRIES)
    _validate.choice("select", select, tuple(SELECTIONS))
    _validate.choice("ortho", ortho, ORTHOS)
    if carry == "t" and side != "right":
        raise ValueError(f'`carry` "t" goes with `side` "right"; got {side!r}')
    basis = "full"
    if basis_dtype is not None:
        kind = np.dtype(basis_dtype)
        if kind in (np.float32, np.complex64):
            basis = "single"
        elif kind not in (np.float64, np.complex128):
            raise ValueError(f"`basis_dtype` must be a 32- or 64-bit floating type; got {kind}")
    return {
        "rtol": _validate.tolerance("rtol", rtol),
        "atol": _validate.tolerance("atol", atol),
        "restart": restart,
        "recycle_dim": recycle_dim,
        "side": side,
        "carry": carry,
        "select": SELECTIONS[select],
        "ortho": ortho,
        "basis": basis,
        "adaptive": bool(adaptive),
        "n_threads": _validate.n_threads(n_threads),
    }


def _listener(
    callback: Callable[..., Any] | None, kind: str, shape: tuple[int, ...]
) -> tuple[Callable[..., bool] | None, bool]:
    """The native monitor for a user's callback, and whether it wants every inner iteration."""
    if callback is None:
        return None, False
    named = _validate.takes_intermediate_result(callback)

    def listen(nit: int, residual: float, target: float, x: np.ndarray | None) -> bool:
        try:
            if named:
                if x is not None and nit > 0:
                    callback(
                        intermediate_result=Result(
                            x=x.reshape(shape), nit=nit, residual=residual, target=target
                        )
                    )
            elif kind == "x":
                if x is not None and nit > 0:
                    callback(x.reshape(shape))
            elif x is None:
                callback(residual)
        except StopIteration:
            return True
        return False

    return listen, not named and kind != "x"


__all__ = ["gcrodr"]
