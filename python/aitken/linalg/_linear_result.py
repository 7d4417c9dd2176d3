"""The one result class of `aitken.linalg`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .._result import Result, Status, warn_not_converged


class LinearResult(Result):
    """What a linear solve gives: SciPy's pair ``x, info`` when unpacked, named fields otherwise.

    Attributes
    ----------
    x : ndarray, shape (n,)
        The answer.
    info : int
        0 if converged; the iterations done for status 1, 2 and 5; minus the status otherwise.
    status : Status
        How the solve ended.
    message : str
        The same in words, with the residual and its target.
    converged, success : bool
        Whether ``true_residual`` is within the target.
    nit : int
        Iterations.
    matvecs : int
        Products with the matrix, all of them.
    residuals : ndarray
        Norms of the residual as the recurrence had them: at the start, then after each iteration. A list of
        such arrays where there are several right-hand sides.
    true_residual : float
        ``||b - A x||_2``, recomputed from the `x` returned.
    target : float
        What it had to meet: ``max(rtol ||b||_2, atol)``.
    time : float
        Seconds.

    Solvers add fields of their own.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import cg
    >>> result = cg(np.diag([1.0, 2.0, 4.0]), np.ones(3))
    >>> x, info = result
    >>> info, result.converged, result.nit
    (0, True, 3)
    """

    x: Any
    info: int
    status: Status
    message: str
    converged: bool
    success: bool
    nit: int
    matvecs: int
    residuals: Any
    recycled: int
    k_used: int
    true_residual: float
    target: float
    time: float

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, name: Any) -> Any:
        return (self.x, self.info)[name] if isinstance(name, int | slice) else super().__getitem__(name)


def info_of(status: Status, nit: int) -> int:
    """SciPy's integer: 0, the iterations done, or a negative number for a breakdown.

    Examples
    --------
    >>> info_of(Status.CONVERGED, 7), info_of(Status.MAX_ITERATIONS, 7), info_of(Status.BREAKDOWN, 7)
    (0, 7, -3)
    """
    if status == Status.CONVERGED:
        return 0
    if status in (Status.MAX_ITERATIONS, Status.STAGNATED, Status.STOPPED_BY_CALLBACK):
        return max(int(nit), 1)  # 0 would claim success
    return -int(status)


def answer_dtype(A: Any, b: Any) -> np.dtype[Any]:
    """What the caller gets for a matrix and a right-hand side: SciPy's rule, integers count as double."""
    kinds = []
    for operand in (A, b):
        try:
            dtype = np.dtype(getattr(operand, "dtype", np.float64))
        except TypeError:  # another library's
            dtype = np.dtype(str(operand.dtype).rpartition(".")[2])
        single = dtype.kind in "fc" and dtype.itemsize <= (8 if dtype.kind == "c" else 4)
        real, complex_ = (np.float32, np.complex64) if single else (np.float64, np.complex128)
        kinds.append(np.dtype(complex_ if dtype.kind == "c" else real))
    return np.result_type(*kinds)


def residual_norms(system: Any, x: np.ndarray, b: np.ndarray, shift: float = 0.0) -> list[float]:
    """``||b - (A - shift I) x||_2`` of every column, in double precision."""
    columns = np.array(x.reshape(system.n, -1), dtype=system.dtype, order="F")
    image = np.empty_like(columns)
    system.handle.apply(columns, image)
    image -= shift * columns
    return [float(v) for v in np.linalg.norm(b.reshape(system.n, -1) - image, axis=0)]


def finish_linear_result(
    x: np.ndarray,
    reports: Sequence[Mapping[str, Any]],
    *,
    solver: str,
    system: Any,
    b: np.ndarray,
    start: float,
    dtype: Any = None,
    failed_info: int | None = None,
    shift: float = 0.0,
    give: Callable[[Any], Any] | None = None,
    **extras: Any,
) -> LinearResult:
    """The result of native reports, one per right-hand side, and its warning where a column did not converge.

    Of several columns the result has the slowest one's iterations, the sum of the products, and the status,
    residual and target of the first that failed, or else of the one nearest its target; `residuals` is then a
    list of histories.

    Parameters
    ----------
    x : ndarray
        The answer in double precision, as the caller gets it or of shape (n, s).
    reports : sequence of mapping
        ``status nit matvecs residual target residuals`` and optionally ``detail recycled kept``.
    solver : str
        The public function's name.
    system : System
        What was solved.
    b : ndarray, shape (n,) or (n, s)
        Right-hand sides in double precision.
    start : float
        ``time.perf_counter()`` when the call began.
    dtype : dtype, optional
        What the caller gets; an answer rounded to single precision is certified anew.
    failed_info : int, optional
        `info` where an iteration limit was reached, if it counts something else than iterations.
    shift : float
        What was subtracted from the diagonal.
    give : callable, optional
        Takes the answer to the caller's array library.
    **extras
        Further fields.
    """
    statuses = [Status(r["status"]) for r in reports]
    norms = [float(r["residual"]) for r in reports]
    targets = [float(r["target"]) for r in reports]
    details = [str(r.get("detail", "")) for r in reports]
    if dtype is not None and x.dtype != dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            x = x.astype(dtype)
            norms = residual_norms(system, x, b, shift)
        for j, status in enumerate(statuses):
            if status == Status.CONVERGED and not norms[j] <= targets[j]:
                statuses[j], details[j] = Status.STAGNATED, f"rounding the answer to {np.dtype(dtype)}"
    failed = [j for j, status in enumerate(statuses) if status != Status.CONVERGED]
    shown = failed[0] if failed else int(np.argmax([n - t for n, t in zip(norms, targets, strict=True)]))
    status, residual, target = statuses[shown], norms[shown], targets[shown]

    result = LinearResult()
    result.x = x if give is None else give(x)
    result.nit = max(int(r["nit"]) for r in reports)
    result.info = info_of(status, result.nit)
    if failed_info is not None and result.info > 0:
        result.info = failed_info
    result.status = status
    clause = f" ({details[shown]})" if details[shown] else ""
    column = f" in column {shown}" if len(reports) > 1 else ""
    result.message = f"{status.message}{clause}; ||b - A x|| {residual:.2e}{column}, target {target:.2e}"
    result.converged = result.success = status == Status.CONVERGED
    result.matvecs = sum(int(r["matvecs"]) for r in reports)
    histories = [np.asarray(r["residuals"], dtype=np.float64) for r in reports]
    result.residuals = histories[0] if len(reports) == 1 else histories
    result.true_residual = residual
    result.target = target
    if "kept" in reports[0]:
        result.recycled, result.k_used = int(reports[0]["recycled"]), int(reports[0]["kept"])
    for name, value in extras.items():
        setattr(result, name, value)
    result.time = time.perf_counter() - start
    warn_not_converged(
        result, solver=solver, quantity="residual norm ||b - A x||_2", error=residual, target=target
    )
    return result


__all__ = ["LinearResult", "answer_dtype", "finish_linear_result", "info_of", "residual_norms"]
