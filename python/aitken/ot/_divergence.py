"""`sinkhorn_divergence`: entropic transport between point clouds without its bias."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _dispatch, _validate
from .._result import Result, Status, warn_not_converged
from . import _unbalanced
from ._cost import METRICS
from ._points import solve_points

_TERMS = ("xy", "xx", "yy")


class DivergenceResult(Result):
    """A Sinkhorn divergence, its three terms and its gradients.

    Attributes
    ----------
    value : float
        The divergence: >= 0 up to the tolerance, 0 for equal clouds.
    terms : dict of float
        Regularised transport values ``"xy"``, ``"xx"`` and ``"yy"``.
    potentials : (ndarray of shape (n,), ndarray of shape (m,))
        Dual potentials less those of the cloud with itself, ``f_xy - f_xx`` and ``g_xy - g_yy``. For balanced
        transport: the derivative of `value` with respect to the weights. float64.
    err : float
        The largest certificate of the terms: L1 marginal error for total mass 1.
    nit, nit_newton : int
        Iterations of the three solves together, and the Newton steps among them.
    success, status, message : bool, Status, str
        ``success`` only if all three terms are within `tol`; else the status of the first that is not.
    time : float
        Wall seconds of the whole call.
    """

    value: float
    terms: dict[str, float]
    potentials: tuple[Any, Any]
    err: float
    nit: int
    nit_newton: int
    success: bool
    status: Status
    message: str
    time: float
    _solved: dict[str, Any]
    _backend: _dispatch.Backend
    _excess: float  # reg * (mass of a - mass of b), 0 when balanced
    _equal: bool

    @property
    def term_potentials(self) -> dict[str, tuple[Any, Any]]:
        """Dual potentials of the terms ``"xy"``, ``"xx"``, ``"yy"``: an `init` that holds no clouds."""
        return {name: term.potentials for name, term in self._solved.items()}

    def vjp(self, grad_value: float = 1.0) -> dict[str, Any]:
        """Gradients of a scalar function of `value` with respect to the clouds and their weights.

        The envelope theorem's: no solve, a pass over the pairs of points of each term, no n x m array.

        Parameters
        ----------
        grad_value : float
            dL/dvalue.

        Returns
        -------
        dict
            ``"X"`` of shape (n, d), ``"Y"`` of shape (m, d), ``"a"`` of shape (n,), ``"b"`` of shape (m,).
            Those of the weights are defined up to adding a constant to one and subtracting it from the other,
            where the masses must be equal. All are 0 where the clouds are equal.

        Raises
        ------
        TypeError, ValueError
            `grad_value` is not a finite number.

        Examples
        --------
        >>> import numpy as np
        >>> from aitken import ot
        >>> X = np.random.default_rng(0).random((50, 2))
        >>> grad = ot.sinkhorn_divergence(X, X + 0.5, reg=0.05).vjp()
        >>> bool(np.allclose(grad["X"].sum(axis=0), -1.0))  # a shift of X by t: |0.5 - t|^2
        True
        """
        scale = _validate.real_scalar("grad_value", grad_value)
        found = {}
        for name in _TERMS if not self._equal else _TERMS[:1]:
            grads = self._solved[name].vjp(grad_value=scale)
            found[name] = {key: self._backend.take(key, grads[key]) for key in ("X", "Y", "a", "b")}
        if self._equal:  # the minimum
            return {key: self._backend.give(0.0 * grad) for key, grad in found["xy"].items()}
        out = dict(found["xy"])
        for point, weight, own in (("X", "a", found["xx"]), ("Y", "b", found["yy"])):
            # Both arguments of the term are this cloud.
            out[point] = out[point] - 0.5 * (own["X"] + own["Y"])
            out[weight] = out[weight] - 0.5 * (own["a"] + own["b"])
        out["a"] = out["a"] + scale * self._excess
        out["b"] = out["b"] - scale * self._excess
        return {key: self._backend.give(grad) for key, grad in out.items()}


def one_penalty(unbalanced: Any) -> tuple[float, float]:
    """The penalties of `unbalanced`, which have to be alike: a divergence is symmetric."""
    rho = _unbalanced.penalties(unbalanced)
    if rho[0] != rho[1]:
        raise ValueError(f"`unbalanced` must be one number for both clouds; got {unbalanced!r}")
    return rho


def sinkhorn_divergence(
    X: Any,
    Y: Any,
    a: Any = None,
    b: Any = None,
    *,
    reg: float,
    metric: str = "sqeuclidean",
    scale: float | None = None,
    unbalanced: float | None = None,
    method: str = "auto",
    tol: float | None = None,
    maxiter: int | None = None,
    init: Any = None,
    callback: Callable[[Result], Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
    n_threads: int | None = None,
) -> DivergenceResult:
    """Sinkhorn divergence of two weighted point clouds.

    ``OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2`` with the regularised values of `sinkhorn_points`, plus
    ``reg / 2 * (mass(a) - mass(b))**2`` where masses may differ [1]_. Unlike the value alone it is 0 for
    equal clouds and positive for others, so that minimising it over `X` moves `X` onto `Y`. Beyond 2
    million pairs no n x m array is formed; the terms of a cloud with itself use the symmetric iteration.

    Parameters
    ----------
    X : array_like of shape (n, d)
        Points, float32 or float64 (integers become float64).
    Y : array_like of shape (m, d)
        Other points.
    a, b : array_like of shape (n,), (m,), optional
        Weights, non-negative, of equal mass unless `unbalanced`. None is uniform with mass 1.
    reg : float
        Regularisation strength > 0, in the units of the cost.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        Cost of a pair. ``exp(-cost / reg)`` is a positive definite kernel for all of them, which is what
        makes the divergence non-negative.
    scale : float, optional
        The costs are divided by it. Default 1.
    unbalanced : float, optional
        Strength of the KL penalties on both marginals, as in `sinkhorn`; the masses may then differ.
    method : str
        As in `sinkhorn_points`.
    tol : float, optional
        Bound on the L1 marginal error of each term for total mass 1. Default 1e-9 (float32 points: 1e-6).
    maxiter : int, optional
        Bound on the iterations of each term. Default 10000.
    init : DivergenceResult or dict, optional
        Where to start: the result for clouds nearby of the same sizes, or potentials
        ``{"xy": (f, g), "xx": (f, g), "yy": (f, g)}``, of which any may be left out.
    callback, verbose, progress, n_threads
        As in `sinkhorn`, for the three solves one after another.

    Returns
    -------
    DivergenceResult
        See there for the fields.

    Raises
    ------
    TypeError
        Complex or object data, arguments on different devices, a wrong `init`.
    ValueError
        As `sinkhorn_points`.

    Warns
    -----
    ConvergenceWarning
        If a term missed `tol`; the message has the largest error.

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating between Optimal
           Transport and MMD using Sinkhorn Divergences", AISTATS 2019; for unequal masses T. Séjourné et al.,
           "Sinkhorn Divergences for Unbalanced Optimal Transport", 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken import ot
    >>> X = np.random.default_rng(0).random((100, 2))
    >>> ot.sinkhorn_divergence(X, X[::-1].copy(), reg=0.01).value < 1e-7
    True
    >>> float(round(ot.sinkhorn_divergence(X, X + [0.3, 0.4], reg=0.01).value, 6))  # a shift: its square
    0.25
    """
    start = time.perf_counter()
    backend = _dispatch.select(X=X, Y=Y, a=a, b=b)
    xp = backend.xp
    _validate.choice("metric", metric, METRICS)
    X = _validate.as_float_array("X", backend.take("X", X), ndim=2, xp=xp)
    Y = _validate.as_float_array("Y", backend.take("Y", Y), shape=(None, X.shape[1]), xp=xp)
    weights = []
    for name, w, cloud in (("a", a, X), ("b", b, Y)):
        if w is not None:
            w = _validate.as_float_array(name, backend.take(name, w), shape=(cloud.shape[0],), xp=xp)
        weights.append(w)
    wa, wb = weights
    rho = one_penalty(unbalanced)
    starts = _starts(init)
    options: dict[str, Any] = {
        "reg": reg,
        "metric": metric,
        "scale": scale,
        "unbalanced": unbalanced,
        "method": method,
        "tol": tol,
        "maxiter": maxiter,
        "return_plan": False,
        "callback": callback,
        "verbose": verbose,
        "progress": progress,
        "n_threads": n_threads,
    }

    equal = X.shape == Y.shape and _same(X, Y, xp) and _same(wa, wb, xp)
    solved: dict[str, Any] = {}
    for name, clouds in (("xx", (X, X, wa, wa)), ("yy", (Y, Y, wb, wb)), ("xy", (X, Y, wa, wb))):
        if equal and name != "xx":
            solved[name] = solved["xx"]
        else:
            solved[name], target = solve_points(
                *clouds, symmetric=name != "xy", init=starts.get(name), **options
            )

    result = DivergenceResult()
    result._solved, result._backend, result._equal = solved, backend, equal
    reg = float(reg)
    masses = [1.0 if w is None else float(w.sum(dtype=np.float64)) for w in (wa, wb)]
    difference = masses[0] - masses[1] if _unbalanced.is_soft(rho) else 0.0
    result._excess = reg * difference
    values = {name: float(solved[name].value) for name in _TERMS}
    result.value = values["xy"] - 0.5 * (values["xx"] + values["yy"]) + 0.5 * reg * difference**2
    result.terms = values
    f, g = (backend.take("potentials", q) for q in solved["xy"].potentials)
    own = [sum(backend.take("potentials", q) for q in solved[name].potentials) for name in ("xx", "yy")]
    result.potentials = (backend.give(f - 0.5 * own[0]), backend.give(g - 0.5 * own[1]))
    result.err = max(term.err for term in solved.values())
    distinct = {id(term): term for term in solved.values()}.values()
    result.nit = sum(term.nit for term in distinct)
    result.nit_newton = sum(term.nit_newton for term in distinct)
    failed = [name for name in _TERMS if not solved[name].success]
    first = solved[failed[0]] if failed else solved["xy"]
    result.status, result.success = first.status, not failed
    result.message = f"term {failed[0]}: {first.message}" if failed else first.message
    result.time = time.perf_counter() - start
    warn_not_converged(
        result, solver="sinkhorn_divergence", quantity="L1 marginal error", error=result.err, target=target
    )
    return result


def _starts(init: Any) -> dict[str, Any]:
    """Potentials to start the terms from."""
    if init is None:
        return {}
    if isinstance(init, DivergenceResult):
        return init.term_potentials
    if not isinstance(init, dict):
        raise TypeError(
            f"`init` must be a DivergenceResult or a dict of potentials, not {type(init).__name__}"
        )
    for name in init:
        _validate.choice("init", name, _TERMS)
    return dict(init)


def _same(p: Any, q: Any, xp: Any) -> bool:
    if p is None or q is None:
        return p is q
    return p is q or bool(xp.array_equal(p, q))
