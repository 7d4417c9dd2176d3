"""`pairwise_distances`: transport between all pairs of two sets of histograms on one cost."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from .. import _core, _dispatch, _validate
from .._errors import ConvergenceWarning
from .._result import Result, Status, _caller_stacklevel

VALUES = ("linear", "regularized")


class PairwiseResult(Result):
    """Distances between all pairs of histograms, with what is known of each.

    Attributes
    ----------
    distances : ndarray of shape (N, N')
        What `pairwise_distances` returns; NaN where `status` is 9.
    err : ndarray of shape (N, N')
        Certificates: ``||P 1 - a||_1 + ||P^T 1 - b||_1`` for mass 1; with ``divergence=True`` the largest of
        the three problems that an entry is made of.
    nit : ndarray of int, shape (N, N')
        Iterations (two products with the kernel each); those of all three problems for a divergence.
    status, success : ndarray of int and of bool, shape (N, N')
        Per pair. Status 9 marks pairs of a row that is no histogram (NaN, Inf, negative, empty).
    n_general : int
        Problems that the general solver had to take over, in the log domain.
    message : str
        How many converged, and what became of the others.
    time : float
        Wall seconds of the whole call.
    """

    distances: Any
    err: np.ndarray
    nit: np.ndarray
    status: np.ndarray
    success: np.ndarray
    n_general: int
    message: str
    time: float


def pairwise_distances(
    A: Any,
    B: Any = None,
    M: Any = None,
    reg: float | None = None,
    *,
    value: str = "linear",
    divergence: bool = False,
    tol: float | None = None,
    maxiter: int = 1000,
    return_result: bool = False,
    n_threads: int | None = None,
) -> Any:
    """Entropic transport between every histogram of one set and every histogram of another.

    All problems share the kernel ``exp(-M / reg)``, so that iterations are products of matrices, sixteen
    problems at a time, each accelerated and stopped by itself. Costs that are sums over the axes of a grid
    (squared Euclidean or city-block distances between its cells) are recognised and multiplied axis by axis.

    Parameters
    ----------
    A : array_like of shape (N, n)
        Histograms, a row each: non-negative, of any mass above 0; rows are scaled to mass 1.
    B : array_like of shape (N', m), optional
        Other histograms. Default `A`; only half of the pairs is then solved where `M` is symmetric.
    M : array_like of shape (n, m)
        Finite cost between bins.
    reg : float
        Regularisation strength > 0, in the units of `M`.
    value : {"linear", "regularized"}
        ``<M, P>`` or ``<M, P> + reg * KL(P | a b^T)``.
    divergence : bool
        Debias: ``d(a, b) - (d(a, a) + d(b, b)) / 2``, exactly 0 for equal rows. `M` must be square.
    tol : float, optional
        Bound on ``||P 1 - a||_1 + ||P^T 1 - b||_1`` of each pair. Default 1e-9 (1e-6 where all data are
        float32). All arithmetic is in float64.
    maxiter : int
        Iterations of a pair before the general solver takes it over.
    return_result : bool
        Return a `PairwiseResult` with errors, iterations and status per pair.
    n_threads : int, optional
        CPU threads; default as `aitken.set_num_threads`. Results do not depend on it.

    Returns
    -------
    ndarray of shape (N, N'), or PairwiseResult
        float32 if all data are float32, else float64.

    Raises
    ------
    TypeError
        Complex or object data, data on a GPU, `M` or `reg` missing.
    ValueError
        Shapes that do not fit, NaN or Inf in `M`, ``reg <= 0``, an unknown option. A row of `A` or `B` that
        is no histogram spoils its own pairs alone: NaN, status 9 and a warning.

    Warns
    -----
    ConvergenceWarning
        Once, if some pair was not solved; it says how many and names the first.

    See Also
    --------
    sinkhorn_batch : Problems with a cost of their own, with plans and gradients.
    wasserstein_1d : Without regularisation, for histograms on a line.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> A = np.random.default_rng(0).random((5, 16))
    >>> x = np.linspace(0.0, 1.0, 16)[:, None]
    >>> D = ot.pairwise_distances(A, M=ot.dist(x), reg=0.01, divergence=True)
    >>> D.shape, bool(np.allclose(D, D.T)), bool((np.diag(D) == 0).all())
    ((5, 5), True, True)
    """
    start = time.perf_counter()
    for name, given in (("M", M), ("reg", reg)):
        if given is None:
            raise TypeError(f"`{name}` is None; pairwise_distances needs a cost and a regularisation")
    backend = _dispatch.select_cpu("pairwise_distances", A=A, B=B, M=M)
    _validate.choice("value", value, VALUES)
    reg = _validate.positive_scalar("reg", reg)
    maxiter = _validate.integer("maxiter", maxiter, minimum=1)
    divergence = _validate.boolean("divergence", divergence)
    return_result = _validate.boolean("return_result", return_result)
    threads = _validate.n_threads(n_threads)
    cost = _validate.as_float_array("M", backend.take("M", M), ndim=2)
    if cost.size == 0:
        raise ValueError(f"`M` has shape {cost.shape}; at least one row and one column are needed")
    _validate.finite_range("M", float(cost.min()), float(cost.max()))
    if divergence and cost.shape[0] != cost.shape[1]:
        raise ValueError(f"`divergence` needs a square `M`; it has shape {cost.shape}")
    first = _validate.as_float_array("A", backend.take("A", A), shape=(None, cost.shape[0]), finite=False)
    second = first
    if B is not None:
        shape = (None, cost.shape[1])
        second = _validate.as_float_array("B", backend.take("B", B), shape=shape, finite=False)
    elif cost.shape[0] != cost.shape[1]:
        raise ValueError(
            f"`B` is None, but `M` has shape {cost.shape}; it must be square to compare `A` with `A`"
        )
    single = all(x.dtype == np.float32 for x in (first, second, cost))
    tol = (1e-6 if single else 1e-9) if tol is None else _validate.positive_scalar("tol", tol)

    cost = np.ascontiguousarray(cost, dtype=np.float64)
    a, bad_a = histograms(first)
    b, bad_b = (a, bad_a) if B is None else histograms(second)
    options = {"reg": reg, "tol": tol, "maxiter": maxiter, "n_threads": threads}
    rows, cols = len(a), len(b)
    mirrored = B is None and bool((cost == cost.T).all())
    i, j = np.triu_indices(rows) if mirrored else (x.ravel() for x in np.indices((rows, cols)))
    jobs: list[tuple[np.ndarray, ...]] = [(a, b, bad_a, bad_b, i, j)]
    if divergence:
        jobs += [(x, x, bad, bad, *[np.arange(len(x))] * 2) for x, bad in ((a, bad_a), (b, bad_b))]
    axes = split_axes(cost, 1e-3 * tol * reg)
    parts = [_solve(axes, cost, job, value, options) for job in jobs]

    fields = parts[0]
    if divergence:
        own, other = parts[1], parts[2]
        fields["distances"] = fields["distances"] - 0.5 * (own["distances"][i] + other["distances"][j])
        fields["err"] = np.maximum.reduce([fields["err"], own["err"][i], other["err"][j]])
        fields["nit"] = fields["nit"] + own["nit"][i] + other["nit"][j]
        for part, at in ((own, i), (other, j)):
            fields["status"] = np.where(fields["status"] == 0, part["status"][at], fields["status"])
    result = PairwiseResult()
    for name in ("distances", "err", "nit", "status"):
        table = np.empty((rows, cols), dtype=fields[name].dtype)
        table[i, j] = fields[name]
        if mirrored:
            table[j, i] = fields[name]
        setattr(result, name, table)
    result.distances = backend.give(result.distances.astype(np.float32) if single else result.distances)
    result.success = result.status == Status.CONVERGED
    result.n_general = sum(part["handed_over"] for part in parts)
    result.message = summary(result.status, "pairs")
    result.time = time.perf_counter() - start
    warn_some(result, "pairwise_distances", tol)
    return result if return_result else result.distances


def histograms(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows scaled to mass 1 in float64, and which of them are no histograms (they become uniform)."""
    rows = np.array(x, dtype=np.float64, order="C")
    with np.errstate(all="ignore"):
        mass = rows.sum(axis=1)
        bad = ~(np.isfinite(mass) & (mass > 0)) | ~np.isfinite(rows).all(axis=1) | (rows < 0).any(axis=1)
    mass[bad] = 1.0
    rows[bad] = 1.0 / max(1, rows.shape[1])
    rows /= mass[:, None]
    return rows, bad


def split_axes(cost: np.ndarray, atol: float) -> list[np.ndarray]:
    """Matrices C_k with cost[i, j] = sum_k C_k[i_k, j_k], or the cost alone; to an absolute `atol`."""
    n = cost.shape[0]
    if cost.shape[1] == n:
        for k in range(2, int(np.sqrt(n)) + 1):
            for size in {k, n // k} if n % k == 0 else ():
                blocks = cost.reshape(size, n // size, size, n // size)
                left, right = blocks[:, 0, :, 0], blocks[0, :, 0, :] - blocks[0, 0, 0, 0]
                corner = left[:, None, :2, None] + right[None, :, None, :2]  # most are no sums: seen here
                if np.abs(blocks[:, :, :2, :2] - corner).max() > atol:
                    continue
                if np.abs(blocks - (left[:, None, :, None] + right[None, :, None, :])).max() <= atol:
                    parts = split_axes(np.ascontiguousarray(left), atol)
                    return parts + split_axes(np.ascontiguousarray(right), atol)
    return [cost]


def _solve(
    axes: list[np.ndarray], cost: np.ndarray, job: tuple[np.ndarray, ...], value: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Fields by pair."""
    a, b, bad_a, bad_b, i, j = job
    first = np.where(bad_a[i] | bad_b[j], -1, i).astype(np.int64)
    second = np.ascontiguousarray(j, dtype=np.int64)
    found = solve_pairs(axes, a, b, first, second, options)
    left = np.flatnonzero((found["status"] != 0) & (first >= 0)) if len(axes) > 1 else np.zeros(0, np.int64)
    if left.size:  # the whole cost, which the general solver needs, in the place of its axes
        again = solve_pairs([cost], a, b, first[left], second[left], options | {"maxiter": 1})
        found["nit"][left] += again.pop("nit")
        found["handed_over"] = again.pop("handed_over")
        for name, numbers in again.items():
            found[name][left] = numbers
    found["distances"] = found["linear" if value == "linear" else "value"]
    return found


def solve_pairs(
    axes: list[np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    options: dict[str, Any],
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
) -> dict[str, Any]:
    """Arrays by pair from the native solver."""
    count = first.size
    value, linear, err = np.empty(count), np.empty(count), np.empty(count)
    nit, status = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int32)
    report = _core.ot_pairs_solve(axes, a, b, first, second, value, linear, err, nit, status, x, y, options)
    fields = {"value": value, "linear": linear, "err": err, "nit": nit, "status": status}
    return {**fields, "handed_over": report["handed_over"]}


def summary(status: np.ndarray, what: str) -> str:
    """How many converged, and what became of the others."""
    flat = status.ravel()
    missed = flat[flat != Status.CONVERGED]
    parts = [f"{flat.size - missed.size} of {flat.size} {what} converged"]
    for s in map(Status, np.unique(missed).tolist()):
        at = np.unravel_index(int((flat == s).argmax()), status.shape)
        place = ", ".join(str(int(k)) for k in at)
        count = int((missed == s).sum())
        parts.append(f"{count} {s.name.lower().replace('_', ' ')} (first: {place})")
    return "; ".join(parts)


def warn_some(result: Any, solver: str, tol: float, detail: str = "") -> None:
    """One `ConvergenceWarning` for all problems that were not solved; `detail` goes on from the message."""
    missed = result.status[result.status != Status.CONVERGED]
    if not missed.size:
        return
    most = Status(int(np.bincount(missed).argmax()))
    finite = result.err[np.isfinite(result.err)]
    worst = f"{finite.max():.3g}" if finite.size else "unknown"
    warnings.warn(
        f"{solver}: {result.message}{detail}. Largest L1 marginal error {worst}, target {tol:.3g}. "
        f"{most.advice}",
        ConvergenceWarning,
        stacklevel=_caller_stacklevel(),
    )


__all__ = ["PairwiseResult", "pairwise_distances"]
