"""A solver that remembers: systems one by one, each with what the earlier ones taught."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core, _validate
from . import _auto
from ._gcrodr import krylov_options
from ._linear_result import LinearResult, finish_linear_result
from ._operators import System, as_inverse, as_system, prepare_vectors, scalar_type
from ._preconditioners import BY_NAME


class RecyclingSolver:
    """Solves related systems one by one, carrying a subspace, solutions and set-ups from each to the next.

    Parameters
    ----------
    method : {"gcrodr", "rcg"}
        Any matrix, or symmetric positive definite ones.
    M : str or callable, optional
        Preconditioner by name, renewed for each new matrix with what depends on the pattern kept; or a
        function ``M(A)`` that makes one. Default: ``"ilu0"`` (``"ic0"`` for rcg) for matrices, none for
        operators.
    project : int, default 8
        Earlier solutions in whose span a start is sought.
    guard : bool, default True
        Drop the recycled space while it costs more than it saves.
    rtol, atol, maxiter, restart, recycle_dim, side, select, carry, ortho, basis_dtype, n_threads
        As in `gcrodr`.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import RecyclingSolver
    >>> T = sp.diags_array([-1.0, 2.0, -1.1], offsets=[-1, 0, 1], shape=(300, 300), format="csr")
    >>> solver = RecyclingSolver(M="jacobi", rtol=1e-8)
    >>> counts = [solver.solve(T + s * sp.eye_array(300), np.ones(300)).nit for s in (0.010, 0.011, 0.012)]
    >>> counts[2] < counts[0]
    True
    """

    def __init__(
        self,
        method: str = "gcrodr",
        *,
        M: Any = None,
        rtol: float = 1e-5,
        atol: float = 0.0,
        maxiter: int | None = None,
        restart: int = 40,
        recycle_dim: int = 20,
        side: str = "right",
        select: str = "harmonic",
        carry: str = "x",
        ortho: str = "auto",
        basis_dtype: Any = None,
        project: int = 8,
        guard: bool = True,
        n_threads: int | None = None,
    ) -> None:
        self.method = _validate.choice("method", method, ("gcrodr", "rcg"))
        if isinstance(M, str):
            _validate.choice("M", M, ["none", *BY_NAME])
        elif M is not None and not callable(M):
            raise TypeError(f"`M` must be a name or a function of the matrix, not {type(M).__name__}")
        self.M = M
        self.options = krylov_options(
            rtol=rtol,
            atol=atol,
            restart=restart,
            recycle_dim=recycle_dim,
            side=side,
            select=select,
            carry=carry,
            ortho=ortho,
            basis_dtype=basis_dtype,
            adaptive=False,
            n_threads=n_threads,
        ) | {
            "method": method,
            "project": _validate.integer("project", project, minimum=0),
            "guard": _validate.boolean("guard", guard),
        }
        self.maxiter = _validate.optional_integer("maxiter", maxiter, minimum=0)
        self.abort: Callable[[], bool] | None = None  # asked in threads that Ctrl-C does not reach
        self.restart()

    def restart(self) -> None:
        """Forget everything: the next system begins a new sequence."""
        self._session: Any = None
        self._previous: System | None = None
        self._inverse: Any = None
        self._shape: tuple[Any, ...] = ()

    def solve(self, A: Any, b: Any, x0: Any = None, *, params: Any = None) -> LinearResult:
        """Solve ``A x = b``.

        Parameters
        ----------
        A : sparse array or matrix, ndarray or LinearOperator, shape (n, n)
        b : array_like, shape (n,)
        x0 : array_like, shape (n,), optional
            Start; default: the best in the span of earlier solutions.
        params : array_like, optional
            Where the system lies among the others; earlier solutions near it are preferred.

        Returns
        -------
        LinearResult
        """
        start = time.perf_counter()
        system = self._system(A, b)
        same = self._previous is not None and _same(self._previous, system)
        if self._previous is not None and (system.n, system.dtype) != self._shape:
            raise ValueError(
                f"`A` has {system.n} rows and computes in {system.dtype}; this solver began with "
                f"{self._shape[0]} and {self._shape[1]}. Call restart(), or use another solver"
            )
        B, X, shape = prepare_vectors(system, b, x0)
        if B.shape[1] != 1:
            raise ValueError(f"`b` has shape {shape}; one right-hand side is needed")
        if same:
            system = self._previous  # type: ignore[assignment]
        else:
            self._renew(system, A)
        where = np.zeros(0) if params is None else np.ascontiguousarray(params, dtype=np.float64).ravel()
        if self._session is None:
            self._open(system)
        report = self._session.solve(
            system.handle, self._inverse, B[:, 0], X[:, 0], where, same, x0 is not None, self.abort
        )
        if not same:
            self._previous = system.own_values()
        return finish_linear_result(
            X.reshape(shape, order="F"),
            [report],
            solver=self.method,
            system=system,
            b=B,
            start=start,
            projected=report["projected"],
            carried=report["carried"],
        )

    def _system(self, A: Any, b: Any) -> System:
        dtype = scalar_type(A=A, b=b)
        if self._shape and np.dtype(self._shape[1]).kind == "c":
            dtype = np.dtype(np.complex128)
        return as_system(A, dtype=dtype)

    def _open(self, system: System) -> None:
        n = system.n
        options = dict(self.options)
        options["restart"] = max(1, min(options["restart"], n))
        options["recycle_dim"] = max(0, min(options["recycle_dim"], options["restart"] - 1))
        options["recycle"] = options["recycle_dim"] > 0
        options["maxiter"] = 10 * n if self.maxiter is None else self.maxiter
        if system.has_entries and system.pattern is not None:
            options |= _auto.carry_costs(self.method, n, system.pattern.nnz, options["recycle_dim"])
        kind = _core.Session128c if system.dtype.kind == "c" else _core.Session64
        self._session = kind(system.handle, self._inverse, options)
        self._shape = (n, system.dtype)

    def _renew(self, system: System, A: Any) -> None:
        """Native maps of a new matrix; where it has the old one's pattern, the old ones with new values."""
        previous = self._previous
        known = system.has_entries and previous is not None and previous.same_pattern(system)
        if known and previous is not None:
            system.adopt(previous)
        if callable(self.M):
            self._inverse = as_inverse(self.M(A), system, varies=self.options["side"] == "flexible")
            return
        default = ("ic0" if self.method == "rcg" else "ilu0") if system.has_entries else "none"
        name = default if self.M is None else self.M
        if known and self._inverse is not None:
            self._inverse.update(system.data)
        else:
            self._inverse = as_inverse(name, system)


def _same(a: System, b: System) -> bool:
    """Whether two systems have one matrix."""
    if a is b:
        return True
    if a.data is not None and b.data is not None:
        return a.data.shape == b.data.shape and np.array_equal(a.data, b.data) and a.same_pattern(b)
    return a.operator is not None and a.operator is b.operator


__all__ = ["RecyclingSolver"]
