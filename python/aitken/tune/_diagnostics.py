"""What theory says about the cost of SOR, for matrices small enough to be looked at whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg, sparse

from .. import _validate
from .._result import Result

_MOST_ROWS = 2000


def near_asymptotic_bound(A: Any, omegas: Any, sweeps: Any, *, tol: float = 1e-8) -> Result:
    """Bound on the sweeps of SOR for which regret bounds of tuners are proved: a diagnostic, dense.

    With ``C = I - A (D/omega + L)^-1`` of spectral radius rho, the residual after k sweeps is ``C^k b``. The
    bound is ``1 + ln(tol) / ln(rho + tau (1 - rho))``, where tau measures how far ``||C^(k-1)||_2`` is from
    its asymptotic rate at the k where SOR stops, at worst over the omegas.

    Parameters
    ----------
    A : sparse array or matrix, or ndarray, shape (n, n)
        Real, with a nonzero diagonal; n is at most 2000.
    omegas : array_like, shape (d,)
        Relaxation parameters in (0, 2).
    sweeps : array_like of int, shape (d,)
        Sweeps that SOR took with each, at least 2.
    tol : float, default 1e-8
        The residual, relative to the first, at which SOR was stopped.

    Returns
    -------
    Result
        `bound` and `rho`, ndarrays of shape (d,), and `tau`. The theory asks for ``tau <= exp(-2)`` and a
        Jacobi radius of 0.468 at least.

    Raises
    ------
    TypeError, ValueError
        For another shape, more rows, omegas out of range, and a zero on the diagonal.

    References
    ----------
    .. [1] M. Khodak, E. Chow, M.-F. Balcan, A. Talwalkar, "Learning to Relax: Setting Solver Parameters
           Across a Sequence of Linear System Instances", ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.linalg import sor
    >>> from aitken.tune import near_asymptotic_bound
    >>> A = 2.1 * np.eye(30) - np.eye(30, k=1) - np.eye(30, k=-1)
    >>> omegas, b = [1.2, 1.5], np.random.default_rng(0).normal(size=30)
    >>> sweeps = [sor(A, b, omega=w, norm_ref="r0").nit for w in omegas]
    >>> r = near_asymptotic_bound(A, omegas, sweeps)
    >>> bool((r.bound >= sweeps).all())
    True
    """
    matrix = _validate.as_float_array("A", A.toarray() if sparse.issparse(A) else A, ndim=2, dtype=np.float64)
    n = matrix.shape[0]
    if matrix.shape != (n, n) or n > _MOST_ROWS:
        raise ValueError(
            f"`A` has shape {matrix.shape}; a square matrix of at most {_MOST_ROWS} rows is needed"
        )
    diagonal = np.diag(matrix)
    zero = np.flatnonzero(diagonal == 0)
    if zero.size:
        raise ValueError(f"`A` has a zero on the diagonal of row {zero[0]}")
    w = _validate.as_float_array("omegas", omegas, ndim=1, dtype=np.float64)
    if not ((w > 0) & (w < 2)).all():
        raise ValueError(f"`omegas` must lie between 0 and 2, got {w[~((w > 0) & (w < 2))][0]}")
    k = np.asarray(sweeps)
    if k.shape != w.shape or k.dtype.kind not in "iu" or (k < 2).any():
        raise ValueError(f"`sweeps` must hold {w.size} integers >= 2, got {sweeps!r}")
    tol = _validate.real_scalar("tol", tol, minimum=0.0, maximum=1.0, open_minimum=True, open_maximum=True)
    rho, excess = np.empty(w.size), np.empty(w.size)
    for i, omega in enumerate(w):
        N = np.diag(diagonal / omega) + np.tril(matrix, -1)
        C = np.eye(n) - linalg.solve_triangular(N, matrix.T, lower=True, trans="T").T
        rho[i] = np.abs(np.linalg.eigvals(C)).max()
        steps = int(k[i]) - 1
        rate = np.linalg.norm(np.linalg.matrix_power(C, steps), 2) ** (1 / steps)
        excess[i] = (rate - rho[i]) / (1 - rho[i])
    tau = float(max(excess.max(), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = rho + tau * (1 - rho)
        bound = np.where(mixed < 1, 1 + np.log(tol) / np.log(mixed), np.inf)
    return Result(bound=bound, rho=rho, tau=tau)


__all__ = ["near_asymptotic_bound"]
