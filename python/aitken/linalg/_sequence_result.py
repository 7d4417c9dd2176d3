"""The one result class of sequences and batches, and how records of single systems become one."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from .._errors import ConvergenceWarning
from .._result import Result, Status


class SequenceResult(Result):
    """What a sequence of solves gives; per-system arrays are in the order in which systems were given.

    Attributes
    ----------
    X : ndarray, shape (N, n), or None
        Solutions; None with ``keep=False``.
    order : ndarray of int, shape (N,)
        The order in which they were solved.
    chains : list of ndarray
        The same, cut into the pieces that were solved independently of one another.
    status : ndarray of int, shape (N,)
        Numbers of `aitken.Status`.
    converged : bool
        Whether every system met its tolerance.
    nit, matvecs : ndarray of int, shape (N,)
        Iterations, and products with the matrix, those for the recycled space and the start included.
    residuals : ndarray, shape (N,)
        ``||b - A x||_2 / ||b||_2``, recomputed from the solutions.
    costs : ndarray, shape (N,)
        What each solve cost: iterations, or what the tuner was told.
    recycled, projected : ndarray of int, shape (N,)
        Carried vectors that were used, earlier solutions from which the start was taken.
    carried : ndarray of bool, shape (N,)
        False where nothing was carried: the recycled space had cost more than it saved.
    seconds : ndarray, shape (N,)
        Time of each solve; `time` is that of the whole call.
    params
        As given; with a tuner, the arms played.
    contexts : ndarray, shape (N,), or None
        What the tuner was told before each solve.
    tuner
        The tuner, ready for another sequence; or None.
    seconds_tuner : float
        Time spent in the tuner.
    records : dict or None
        What a solver callable returned, by system.
    solver, reason : str
        Which solver ran, and why.
    """

    X: Any
    order: np.ndarray
    chains: list[np.ndarray]
    status: np.ndarray
    converged: bool
    success: bool
    nit: np.ndarray
    matvecs: np.ndarray
    residuals: np.ndarray
    costs: np.ndarray
    recycled: np.ndarray
    projected: np.ndarray
    carried: np.ndarray
    seconds: np.ndarray
    time: float
    params: Any
    contexts: np.ndarray | None = None
    tuner: Any = None
    seconds_tuner: float = 0.0
    records: dict[int, Any] | None
    solver: str
    reason: str


def empty_records(count: int) -> dict[str, np.ndarray]:
    return {
        "status": np.full(count, int(Status.STOPPED_BY_CALLBACK)),
        "nit": np.zeros(count, dtype=np.int64),
        "matvecs": np.zeros(count, dtype=np.int64),
        "residual": np.full(count, np.nan),
        "norm_b": np.zeros(count),
        "recycled": np.zeros(count, dtype=np.int64),
        "projected": np.zeros(count, dtype=np.int64),
        "carried": np.zeros(count, dtype=bool),
        "seconds": np.zeros(count),
    }


def finish_sequence(
    result: SequenceResult,
    records: dict[str, np.ndarray],
    *,
    solver: str,
    rtol: float,
    atol: float,
    start: float,
) -> SequenceResult:
    norm_b = records["norm_b"]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(norm_b > 0, records["residual"] / norm_b, records["residual"])
    result.status = records["status"]
    result.converged = result.success = bool(np.all(result.status == Status.CONVERGED))
    result.nit = records["nit"]
    result.matvecs = records["matvecs"]
    result.residuals = relative
    result.recycled = records["recycled"]
    result.projected = records["projected"]
    result.carried = records["carried"]
    result.seconds = records["seconds"]
    result.time = time.perf_counter() - start
    failed = np.flatnonzero(
        (result.status != Status.CONVERGED) & (result.status != Status.STOPPED_BY_CALLBACK)
    )
    if failed.size:
        worst = int(failed[np.argmax(np.nan_to_num(relative[failed], nan=np.inf))])
        status = Status(int(result.status[worst]))
        warnings.warn(
            f"{solver}: {failed.size} of {result.status.size} systems did not converge; system {worst}: "
            f"{status.message}; relative residual {relative[worst]:.3g}, target {max(rtol, atol):.3g}. "
            f"{status.advice}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return result


__all__ = ["SequenceResult"]
