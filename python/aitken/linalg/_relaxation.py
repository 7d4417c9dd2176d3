"""SOR, and conjugate gradients preconditioned by its symmetric form."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from ._linear_result import LinearResult, answer_dtype, finish_linear_result
from ._operators import System, as_system, prepare_vectors, scalar_type
from ._short import as_listener

ORDERS = ("auto", "natural", "redblack", "multicolor", "blocks")
# Enough for the optimum of SOR on large grids; CG gains little from the last of them.
LANCZOS_STEPS = {"sor": 100, "ssor_cg": 32}
_DELTA_STEPS = 24  # with the basis in memory
# From here on a stencil on a grid is swept red-black, which costs a fraction of the natural order.
_STENCIL_ROWS = 10_000


def sor(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    omega: float | str = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    maxiter: int | None = None,
    sweep: str = "forward",
    order: Any = "auto",
    shift: float = 0.0,
    check_every: int | None = None,
    norm_ref: str = "b",
    callback: Callable[..., Any] | None = None,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> LinearResult:
    """Solve ``(A + shift I) x = b`` by successive over-relaxation.

    A sweep takes the rows in turn, each with the newest values of the others:
    ``x_i += omega * ((b_i - sum_{j != i} a_ij x_j) / a_ii - x_i)``.

    Parameters
    ----------
    A : sparse array or matrix, or ndarray, shape (n, n)
        Any matrix with a nonzero diagonal. SOR converges for every `omega` in (0, 2) if `A` is symmetric
        positive definite, for ``omega <= 1`` if it is an M-matrix. float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like, shape of `b`, optional
        Start; default zero. Not modified.
    omega : float, "young" or "adaptive", default 1.0
        Relaxation parameter in (0, 2). ``"young"``: ``2 / (1 + sqrt(1 - mu^2))``, optimal for consistently
        ordered matrices, with the spectral radius mu of the Jacobi matrix from a Lanczos run (symmetric
        `A`). ``"adaptive"``: starts at 1 and is raised during the solve as the rate of convergence suggests.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual; with
        ``norm_ref="r0"`` relative to the first residual. Defaults 1e-8 (1e-5 for float32) and 0.
    maxiter : int, default 10000
        Limit on sweeps.
    sweep : {"forward", "backward", "symmetric"}
        Symmetric: forward, then backward; both count as one.
    order : {"auto", "natural", "redblack", "multicolor", "blocks"} or array_like of int, shape (n,)
        In what order rows are swept: as numbered, by the two colours of the graph, by greedy colours, by
        coloured clusters of neighbouring rows, or in the order of a permutation. ``"auto"`` is red-black for
        matrices of 10000 rows or more that are one stencil with constant coefficients on a grid, and
        natural otherwise; on a GPU red-black where the graph has two colours, else multicolour.
    shift : float, default 0.0
        Added to the diagonal.
    check_every : int, optional
        Form the residual every so many sweeps, which costs a product; the count of sweeps is then a multiple.
        By default it is found in every sweep at little cost, but for symmetric sweeps, where it is formed
        after each (from 10000 rows on, after every second).
    norm_ref : {"b", "r0"}
        What `rtol` is relative to.
    callback : callable, optional
        Called after every sweep, as ``callback(intermediate_result)`` if its parameter has that name, else as
        ``callback(xk)``. May raise StopIteration.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of the matrix are always checked.
    n_threads : int, optional
        Threads of a sweep; the result's bits do not depend on it.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``. `nit` is the number of sweeps after which the residual first met the target,
        `sweeps` that of sweeps done: one more where the residual fell faster than foreseen. `omega_used` is
        the final omega, `mu_estimate` the estimate of mu behind it (NaN where there is none).

    Raises
    ------
    TypeError, ValueError
        For operators, wrong shapes, an `omega` outside of (0, 2), unknown options and non-finite data.
    numpy.linalg.LinAlgError
        For a zero on the diagonal; the message names the row.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance; one that has grown by 1e8 ends the solve with status 8, and the
        start is given back.

    Notes
    -----
    Any order is executed by the levels of its dependences, with the bits of the serial sweep.

    References
    ----------
    .. [1] D. M. Young, "Iterative Solution of Large Linear Systems", Academic Press, 1971.
    .. [2] L. A. Hageman, D. M. Young, "Applied Iterative Methods", Academic Press, 1981.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import sor
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50), format="csr")
    >>> x, info = sor(A, np.ones(50), omega="young", rtol=1e-6)
    >>> info, bool(np.linalg.norm(A @ x - 1) <= 1e-6 * np.sqrt(50))
    (0, True)
    """
    return _once(
        "sor",
        A,
        b,
        x0,
        omega,
        callback,
        check_finite,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        sweep=sweep,
        order=order,
        shift=shift,
        check_every=check_every,
        norm_ref=norm_ref,
        n_threads=n_threads,
    )


def ssor_cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    omega: float | str = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    maxiter: int | None = None,
    eisenstat: bool = True,
    order: Any = "auto",
    shift: float = 0.0,
    callback: Callable[..., Any] | None = None,
    check_finite: bool = True,
    n_threads: int | None = None,
) -> LinearResult:
    """Solve ``(A + shift I) x = b`` by conjugate gradients with SSOR as preconditioner.

    With D, L, U the diagonal and the triangles of A, ``M = (D/w + L) (D/w)^-1 (D/w + U)``.

    Parameters
    ----------
    A : sparse array or matrix, or ndarray, shape (n, n)
        Symmetric (Hermitian) positive definite; float32 is computed in float64.
    b : array_like, shape (n,) or (n, 1)
        Right-hand side.
    x0 : array_like, shape of `b`, optional
        Start; default zero. Not modified.
    omega : float, "young" or "axelsson", default 1.0
        Relaxation parameter in (0, 2). ``"young"``: the optimum of SOR, as good for CG where coefficients are
        constant and poor where they are rough. ``"axelsson"``: the minimiser of the bound on the condition
        number, from two Lanczos estimates.
    rtol, atol : float
        The solve ends when ``||b - A x||_2 <= max(rtol * ||b||_2, atol)`` for the recomputed residual.
        Defaults 1e-8 (1e-5 for float32) and 0.
    maxiter : int, optional
        Limit on iterations; default ``10 * n``.
    eisenstat : bool, default True
        One solve with each triangle per iteration and no product with `A`; False adds the product. The
        iterates are the same.
    order : {"auto", "natural", "redblack", "multicolor", "blocks"} or array_like of int, shape (n,)
        As in `sor`. ``"auto"`` is natural: colours cost SSOR-CG several times the iterations.
    shift : float, default 0.0
        Added to the diagonal.
    callback : callable, optional
        Called after every iteration, as ``callback(intermediate_result)`` if its parameter has that name,
        else as ``callback(xk)``. May raise StopIteration.
    check_finite : bool, default True
        Reject NaN and Inf in `b` and `x0`; the entries of the matrix are always checked.
    n_threads : int, optional
        Threads of single operations; the result's bits do not depend on it.

    Returns
    -------
    LinearResult
        Unpacks as ``x, info``. `omega_used` is omega, `mu_estimate` the estimate of the Jacobi matrix's
        spectral radius behind it (NaN where there is none). With ``eisenstat=True`` the norms in
        `residuals` are estimates but for those near the target.

    Raises
    ------
    TypeError, ValueError
        For operators, wrong shapes, an `omega` outside of (0, 2), unknown options and non-finite data.
    numpy.linalg.LinAlgError
        For a zero on the diagonal; the message names the row.

    Warns
    -----
    ConvergenceWarning
        If the residual misses the tolerance; an indefinite `A` found on the way is status 6.

    References
    ----------
    .. [1] O. Axelsson, "A generalized SSOR method", BIT 12 (1972).
    .. [2] S. C. Eisenstat, "Efficient implementation of a class of preconditioned conjugate gradient
           methods", SIAM J. Sci. Stat. Comput. 2 (1981).

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import ssor_cg
    >>> T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30))
    >>> A = sp.csr_array(sp.kronsum(T, T))
    >>> r = ssor_cg(A, np.ones(900), omega="young")
    >>> r.converged, r.nit < ssor_cg(A, np.ones(900)).nit
    (True, True)
    """
    return _once(
        "ssor_cg",
        A,
        b,
        x0,
        omega,
        callback,
        check_finite,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        eisenstat=eisenstat,
        order=order,
        shift=shift,
        n_threads=n_threads,
    )


def _once(
    method: str,
    A: Any,
    b: Any,
    x0: Any,
    omega: float | str,
    callback: Callable[..., Any] | None,
    check_finite: bool,
    **options: Any,
) -> LinearResult:
    backend = _dispatch.select(A=A, b=b, x0=x0)
    shift = options.pop("shift")
    solver = RelaxationSolver(method, **options)
    if backend.is_cuda:
        from . import _relaxation_cuda  # no GPU code is loaded for CPU data

        return _relaxation_cuda.solve(
            solver,
            backend,
            A,
            b,
            x0,
            omega=omega,
            shift=shift,
            callback=callback,
            check_finite=check_finite,
        )
    A, b, x0 = backend.take("A", A), backend.take("b", b), backend.take("x0", x0)
    return solver.solve(
        A,
        b,
        x0,
        omega=omega,
        shift=shift,
        callback=callback,
        check_finite=check_finite,
        give=backend.give,
    )


class RelaxationSolver:
    """SOR or SSOR-CG for a sequence of matrices of one pattern, which is analysed once.

    Parameters
    ----------
    method : {"ssor_cg", "sor"}
        The solver.
    rtol, atol, maxiter, order, n_threads
        As in `sor` and `ssor_cg`.
    eisenstat
        As in `ssor_cg`.
    sweep, check_every, norm_ref
        As in `sor`.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.linalg import RelaxationSolver
    >>> T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(300, 300), format="csr")
    >>> solver = RelaxationSolver("ssor_cg")
    >>> [solver.solve(T + c * sp.eye_array(300), np.ones(300), omega=1.6).converged for c in (0.1, 0.2)]
    [True, True]
    """

    def __init__(
        self,
        method: str = "ssor_cg",
        *,
        rtol: float | None = None,
        atol: float = 0.0,
        maxiter: int | None = None,
        eisenstat: bool = True,
        sweep: str = "forward",
        order: Any = "auto",
        check_every: int | None = None,
        norm_ref: str = "b",
        n_threads: int | None = None,
    ) -> None:
        self.method = _validate.choice("method", method, ("ssor_cg", "sor"))
        self.order = _checked_order(order)
        self.maxiter = _validate.optional_integer("maxiter", maxiter, minimum=1)
        self.rtol = None if rtol is None else _validate.tolerance("rtol", rtol)
        self.options: dict[str, Any] = {
            "atol": _validate.tolerance("atol", atol),
            "n_threads": _validate.n_threads(n_threads),
        }
        sweep = _validate.choice("sweep", sweep, ("forward", "backward", "symmetric"))
        every = _validate.optional_integer("check_every", check_every, minimum=1)
        norm_ref = _validate.choice("norm_ref", norm_ref, ("b", "r0"))
        eisenstat = _validate.boolean("eisenstat", eisenstat)
        if method == "sor":
            self.options |= {"sweep": sweep, "check_every": every or 0, "norm_ref": norm_ref}
        else:
            self.options |= {"eisenstat": eisenstat}
        self._lock = threading.Lock()
        self._owner: int | None = None
        self.restart()

    def restart(self) -> None:
        """Forget the pattern and what was estimated."""
        self._sweeper: Any = None
        self._system: System | None = None
        self._estimates: dict[tuple[float, bool], dict[str, Any]] = {}

    @property
    def levels(self) -> int:
        """How many levels the order has: as many steps one sweep consists of."""
        return int(self._sweeper.levels) if self._sweeper is not None else 0

    def solve(
        self,
        A: Any,
        b: Any,
        x0: Any = None,
        *,
        omega: float | str = 1.0,
        shift: float = 0.0,
        maxiter: int | None = None,
        callback: Callable[..., Any] | None = None,
        check_finite: bool = True,
        give: Callable[[Any], Any] | None = None,
    ) -> LinearResult:
        """Solve ``(A + shift I) x = b``.

        Parameters
        ----------
        A : sparse array or matrix, or ndarray, shape (n, n)
        b : array_like, shape (n,) or (n, 1)
        x0 : array_like, shape of `b`, optional
        omega : float or str
            As in `sor` and `ssor_cg`.
        shift : float, default 0.0
        maxiter : int, optional
            Instead of the solver's own.
        callback, check_finite
            As in `sor`.
        give : callable, optional
            Takes the answer to the caller's array library.

        Returns
        -------
        LinearResult
        """
        start = time.perf_counter()
        rule = _checked_omega(self.method, omega)
        shift = _validate.real_scalar("shift", shift)
        _validate.callback("callback", callback)
        limit = _validate.optional_integer("maxiter", maxiter, minimum=1)
        limit = self.maxiter if limit is None else limit
        system = as_system(A, dtype=scalar_type(A=A, b=b, x0=x0))
        if not system.has_entries:
            raise TypeError("`A` is an operator; a matrix is needed, whose entries are known")
        B, X, shape = prepare_vectors(system, b, x0, check_finite=check_finite)
        if B.shape[1] != 1:
            raise ValueError(f"`b` has shape {shape}; {self.method} solves for one right-hand side")
        if limit is None:
            limit = 10_000 if self.method == "sor" else 10 * system.n
        dtype = answer_dtype(A, b)
        rtol = self.rtol
        if rtol is None:
            rtol = 1e-8 if np.finfo(dtype).eps < 1e-10 else 1e-5
        options = self.options | {"maxiter": limit, "rtol": rtol}
        extras: dict[str, Any] = {"omega_used": float("nan"), "mu_estimate": float("nan")}
        power = _scale(B, X)  # squares of very large and very small numbers would not be numbers
        if power != 1.0:
            B, X, options["atol"] = B * power, X * power, options["atol"] * power
        listener = _unscaled(as_listener(callback, shape), power)
        with self._alone(), _named_diagonal():
            if system.dtype.kind == "c":
                report = self._complex(system, B, X, rule, shift, options, listener)
            else:
                report = self._real(system, B, X, rule, shift, options, listener, extras)
        if power != 1.0:
            B, X = B / power, X / power
            report |= {name: report[name] / power for name in ("residual", "target", "residuals")}
        extras["omega_used"] = report.get("omega", omega)
        if report.get("mu", 0) > 0:
            extras["mu_estimate"] = report["mu"]
        if self.method == "sor":
            extras["sweeps"] = report["sweeps"]
        return finish_linear_result(
            X.reshape(shape, order="F"),
            [report],
            solver=self.method,
            system=system,
            b=B,
            start=start,
            dtype=dtype,
            shift=-shift,
            give=give,
            **extras,
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One solve at a time: the numbers of a matrix are laid out in one place."""
        if self._owner == threading.get_ident():
            raise RuntimeError("this solver is in use by the solve that called back; use another one")
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def _real(
        self,
        system: System,
        B: np.ndarray,
        X: np.ndarray,
        rule: float | str,
        shift: float,
        options: dict[str, Any],
        listener: Callable[..., bool] | None,
        extras: dict[str, Any],
    ) -> dict[str, Any]:
        self._take(system)
        products = 0
        if rule == "adaptive":
            if options["sweep"] == "symmetric":
                raise ValueError("`omega` is 'adaptive', which needs forward or backward sweeps")
            options |= {"omega": 1.0, "adaptive": True}
        elif isinstance(rule, str):
            omega, extras["mu_estimate"], products = self._estimate(rule, B[:, 0], shift)
            options["omega"] = omega
        else:
            options["omega"] = rule
        options["report_x"] = listener is not None
        run = self._sweeper.sor if self.method == "sor" else self._sweeper.ssor_cg
        report: dict[str, Any] = run(B[:, 0], X[:, 0], shift, options, listener)
        report["matvecs"] += products
        if self.method == "sor":
            report["matvecs"] += report["sweeps"] * (2 if options["sweep"] == "symmetric" else 1)
        elif options["eisenstat"]:
            report["matvecs"] += report["nit"]  # two half products each
        return report

    def _complex(
        self,
        system: System,
        B: np.ndarray,
        X: np.ndarray,
        rule: float | str,
        shift: float,
        options: dict[str, Any],
        listener: Callable[..., bool] | None,
    ) -> dict[str, Any]:
        """Row by row, or by the preconditioner of the Krylov solvers; in the natural order."""
        if not isinstance(self.order, str) or self.order not in ("auto", "natural"):
            raise ValueError("`order` must be natural where the system is complex")
        if isinstance(rule, str):
            raise ValueError(f"`omega` is {rule!r}; a number is needed where the system is complex")
        pattern, indptr, indices, data = _entries(system)
        if self.method == "sor":
            options |= {"omega": rule, "report_x": listener is not None}
            report: dict[str, Any] = _core.sor_complex(
                pattern, data, B[:, 0], X[:, 0], shift, options, listener
            )
            return report
        if shift != 0:
            rows = np.repeat(np.arange(system.n), np.diff(indptr))
            data = data + shift * (rows == indices)
            system = System(
                system.n, system.dtype, "A", pattern=pattern, indptr=indptr, indices=indices, data=data
            )
        inverse = _core.ssor_map(pattern, data, rule)
        short = {k: options[k] for k in ("rtol", "atol", "maxiter", "n_threads")} | {"method": "cg"}
        short |= {"zero_start": not X.any(), "report_x": listener is not None}
        report = _core.short_recurrence_solve(
            system.handle, inverse, B[:, 0], X[:, 0], short, None, None, False, listener
        )
        return report | {"omega": rule}

    def _take(self, system: System) -> None:
        """The sweeper of this matrix; the old one with new numbers where the pattern is the same."""
        known = self._system
        if self._sweeper is not None and known is not None and known.same_pattern(system):
            data = _entries(system)[3]
            if np.array_equal(_entries(known)[3], data):
                return
            self._system = None  # until the values are taken: they may be refused
            self._sweeper.update(data)
        else:
            self._sweeper = _make_sweeper(system, self.order, self.method)
        self._estimates.clear()
        self._system = system.own_values()

    def _estimate(self, rule: str, b: np.ndarray, shift: float) -> tuple[float, float, int]:
        """omega, mu and the products that were needed; kept per matrix and shift."""
        key = (shift, rule == "axelsson")
        found = self._estimates.get(key)
        products = 0
        if found is None:
            steps = _DELTA_STEPS if key[1] else LANCZOS_STEPS[self.method]
            found = self._sweeper.estimate(b, shift, steps, key[1], self.options["n_threads"])
            self._estimates[key] = found
            products = found["products"]
        mu = float(found["mu"])
        if rule == "young":
            return 2 / (1 + np.sqrt(1 - mu * mu)), mu, products
        return axelsson_omega(found["alpha"], found["delta"]), mu, products


def _scale(B: np.ndarray, X: np.ndarray) -> float:
    """A power of two that brings `B` near 1 where its squares would over- or underflow.

    A start so large that its own squares overflow then is found to be no number; one may not make `B` vanish.
    """
    largest = float(np.abs(B).max(initial=0.0)) or float(np.abs(X).max(initial=0.0))
    if largest == 0 or 1e-100 < largest < 1e100 or not np.isfinite(largest):
        return 1.0
    return float(np.ldexp(1.0, -max(min(int(np.frexp(largest)[1]), 1000), -1000)))


def _unscaled(listener: Callable[..., bool] | None, power: float) -> Callable[..., bool] | None:
    if listener is None or power == 1.0:
        return listener
    return lambda nit, residual, target, x: listener(nit, residual / power, target / power, x / power)


@contextmanager
def _named_diagonal() -> Iterator[None]:
    """A diagonal without an inverse is the matrix's fault, not an argument's."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("the diagonal of row"):
            raise np.linalg.LinAlgError(f"`A`: {error}") from None
        raise


def axelsson_omega(alpha: float, delta: float) -> float:
    """The omega that minimises Axelsson's bound on the condition number of SSOR-preconditioned matrices.

    Parameters
    ----------
    alpha : float
        ``max x' D x / x' A x``.
    delta : float
        ``max x' (L D^-1 L' - D / 4) x / x' A x``.
    """
    return float(min(2 / (1 + 2 * np.sqrt((0.5 + delta) / alpha)), 2 - 1e-9))


def _make_sweeper(system: System, order: Any, method: str) -> Any:
    nothing = np.zeros(0, dtype=np.int32)
    pattern, _, _, data = _entries(system)
    if not isinstance(order, str):
        if order.size != system.n:
            raise ValueError(f"`order` has length {order.size}; {system.n} is needed, as `A` has rows")
        return _core.Sweeper(pattern, data, "given", order)
    name = order
    if order == "auto":
        name = "natural"
        if method == "sor" and system.n >= _STENCIL_ROWS and _core.is_stencil(pattern, data):
            name = "redblack"
    return _core.Sweeper(pattern, data, name, nothing)


def _entries(system: System) -> tuple[_core.CsrPattern, Any, Any, Any]:
    """Pattern, indptr, indices and data of a matrix whose entries are known."""
    assert system.pattern is not None
    assert system.csr is not None
    return system.pattern, *system.csr


def _checked_order(order: Any) -> Any:
    if isinstance(order, str):
        return _validate.choice("order", order, ORDERS)
    rows = np.asarray(order)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(f"`order` must be one of {ORDERS} or a permutation, not {order!r}")
    if not np.array_equal(np.sort(rows), np.arange(rows.size)):
        raise ValueError(f"`order` is no permutation of 0..{rows.size - 1}")
    return np.ascontiguousarray(rows, dtype=np.int32)


def _checked_omega(method: str, omega: Any) -> float | str:
    if isinstance(omega, str):
        names = ("young", "adaptive") if method == "sor" else ("young", "axelsson")
        return str(_validate.choice("omega", omega, names))
    return _validate.real_scalar(
        "omega", omega, minimum=0.0, maximum=2.0, open_minimum=True, open_maximum=True
    )


__all__ = ["RelaxationSolver", "axelsson_omega", "sor", "ssor_cg"]
