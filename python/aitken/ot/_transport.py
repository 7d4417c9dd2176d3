"""Maps between two samples by optimal transport, as a scikit-learn transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .. import _validate
from .._sklearn import checked_input
from . import _native, _unbalanced
from ._cost import METRICS, dist
from ._points import sinkhorn_points
from ._sinkhorn import OTResult, sinkhorn

SCALES = ("mean", "max", None)
_BLOCK = 1 << 20  # entries of the cost that are formed at a time
_UNKNOWN = -1  # label of a sample whose class is not known


class SinkhornTransport(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Move samples of one distribution onto another by entropic optimal transport.

    `fit` couples the samples with those of a target at the least cost. `transform` sends a point to the mean
    of the target samples that the coupling gives it (the barycentric map). The map is a formula in the dual
    potentials and holds for every point of the space, so new samples need no new coupling, and each is moved
    independently of the others.

    Parameters
    ----------
    reg : float, default 0.05
        Entropic regularisation, in units of `scale`. Small values map samples one by one, large ones towards
        the mean of the target.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}, default "sqeuclidean"
        Cost of moving a sample.
    scale : {"mean", "max", None}, default "mean"
        What `reg` and `unbalanced` are measured in: the mean or largest cost between the two samples, or the
        cost itself.
    unbalanced : float, pair of float, or None, default None
        Weight of the Kullback-Leibler penalty that replaces the constraint that all mass of the source
        (first) and of the target (second) be moved, in units of `scale`; outliers are then left behind.
        ``inf`` keeps a constraint; None keeps both.
    label_penalty : float, default 10.0
        Added to the cost of moving a sample onto one of another class, in units of the largest cost, where
        `fit` was given both labels.
    tol : float or None, default None
        Bound on the L1 error of the coupling's marginals, for total mass 1; None is 1e-9.
    maxiter : int or None, default None
        Limit on the iterations of the solver.
    n_threads : int or None, default None
        Threads of the native code; None is the package's default. The result does not depend on it.

    Attributes
    ----------
    source_, target_ : ndarray of shape (n_source, n_features_in_), (n_target, n_features_in_)
        The coupled samples.
    source_weights_, target_weights_ : ndarray of shape (n_source,), (n_target,)
        Their weights, of mass 1 unless `unbalanced`.
    potentials_ : (ndarray of shape (n_source,), ndarray of shape (n_target,))
        Dual potentials of the coupling.
    scale_, reg_ : float
        The unit of cost, and the regularisation in units of the cost.
    result_ : OTResult
        The solver's result, without a plan: its error, status and iterations.
    n_features_in_ : int
        Features in the fit.
    feature_names_in_ : ndarray of str
        Their names, where the array had any.

    Raises
    ------
    TypeError, ValueError
        In `fit`, for options out of range and samples or weights that do not fit, named.
    sklearn.exceptions.NotFittedError
        In `transform` before `fit`.

    Warns
    -----
    ConvergenceWarning
        In `fit`, if `tol` was not reached.

    See Also
    --------
    sinkhorn_points : The solver.

    Notes
    -----
    Neither `fit` (without labels) nor `transform` holds a matrix of the size n_source x n_target.

    scikit-learn's metadata routing, where enabled, passes no parameters named `Xt`: a pipeline that is to get
    a target as ``sinkhorntransport__Xt`` needs it off.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.ot import SinkhornTransport
    >>> rng = np.random.default_rng(0)
    >>> target = rng.standard_normal((200, 2))
    >>> source = target[:150] + [5.0, -3.0]
    >>> moved = SinkhornTransport(reg=0.01).fit(source, Xt=target).transform(source)
    >>> bool(np.abs(moved.mean(axis=0) - target.mean(axis=0)).max() < 1e-6)
    True
    """

    def __init__(
        self,
        reg: float = 0.05,
        *,
        metric: str = "sqeuclidean",
        scale: str | None = "mean",
        unbalanced: Any = None,
        label_penalty: float = 10.0,
        tol: float | None = None,
        maxiter: int | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.reg = reg
        self.metric = metric
        self.scale = scale
        self.unbalanced = unbalanced
        self.label_penalty = label_penalty
        self.tol = tol
        self.maxiter = maxiter
        self.n_threads = n_threads

    def fit(
        self,
        X: Any,
        y: Any = None,
        Xt: Any = None,
        yt: Any = None,
        *,
        source_weight: Any = None,
        target_weight: Any = None,
    ) -> SinkhornTransport:
        """Couple `X` with the target `Xt`.

        Parameters
        ----------
        X : array_like of shape (n_source, n_features)
            Samples to be moved.
        y : array_like of shape (n_source,), optional
            Their classes; used only together with `yt`.
        Xt : array_like of shape (n_target, n_features), optional
            Samples of the distribution to move to. None is `X` itself: the map then draws each sample towards
            its neighbours.
        yt : array_like of shape (n_target,), optional
            Classes of the target's samples, integers; -1 is unknown (in `y` as well).
        source_weight, target_weight : array_like of shape (n_source,), (n_target,), optional
            Masses of the samples; None is uniform, with mass 1. Only their ratios count, unless `unbalanced`.

        Returns
        -------
        SinkhornTransport
            Itself.
        """
        reg = _validate.positive_scalar("reg", self.reg)
        _validate.choice("metric", self.metric, METRICS)
        _validate.choice("scale", self.scale, SCALES)
        penalty = _validate.tolerance("label_penalty", self.label_penalty)
        source = checked_input(self, X, reset=True).astype(np.float64, copy=False)
        target = source if Xt is None else self._target("Xt", Xt)
        if Xt is None:
            if yt is not None or target_weight is not None:
                name = "yt" if yt is not None else "target_weight"
                raise ValueError(f"`{name}` is given but `Xt` is None; there are no samples it belongs to")
            target_weight = source_weight
        balanced = self.unbalanced is None
        a = _weights("source_weight", source_weight, len(source), balanced)
        b = _weights("target_weight", target_weight, len(target), balanced)
        self.source_, self.target_, self.source_weights_, self.target_weights_ = source, target, a, b

        self.labels_ = self._labels(y, yt, len(source), len(target))
        mean, largest = self._cost_range()
        self.scale_ = {"mean": mean, "max": largest, None: 1.0}[self.scale] or 1.0
        self.reg_ = reg * self.scale_
        self._added_cost = penalty * largest
        options: dict[str, Any] = {
            "reg": self.reg_,
            "tol": self.tol,
            "maxiter": self.maxiter,
            "unbalanced": self._scaled_penalties(),
            "return_plan": False,
            "n_threads": self.n_threads,
        }
        if self.labels_ is None:
            self.result_: OTResult = sinkhorn_points(source, target, a, b, metric=self.metric, **options)
        else:
            cost = self._cost(source, target, self.labels_[0], self.labels_[1])
            self.result_ = sinkhorn(a, b, cost, **options)
        self.potentials_ = self.result_.potentials
        return self

    def transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Where the coupling sends the points `X`.

        Parameters
        ----------
        X : array_like of shape (n, n_features)
            Points of the source's space, in the fit or not.
        y : array_like of shape (n,), optional
            Their classes, -1 where unknown, if `fit` was given labels. With them, samples of the fit go where
            the plan sends them; without, the map uses the cost alone.

        Returns
        -------
        ndarray of shape (n, n_features)
            Means of target samples, of the dtype of `X`.
        """
        check_is_fitted(self)
        return self._map(X, y, 0)

    def inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Where the coupling sends points of the target's space in the source's.

        Parameters
        ----------
        X : array_like of shape (n, n_features)
            Points of the target's space, in the fit or not.
        y : array_like of shape (n,), optional
            As in `transform`.

        Returns
        -------
        ndarray of shape (n, n_features)
            Means of source samples, of the dtype of `X`.
        """
        check_is_fitted(self)
        return self._map(X, y, 1)

    def _target(self, name: str, X: Any) -> np.ndarray:
        X = checked_input(self, X, reset=None).astype(np.float64, copy=False)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"`{name}` has {X.shape[1]} features; `X` has {self.n_features_in_}")
        return X

    def _labels(self, y: Any, yt: Any, n: int, m: int) -> tuple[np.ndarray, np.ndarray] | None:
        if y is None or yt is None:
            return None
        return _classes("y", y, n), _classes("yt", yt, m)

    def _scaled_penalties(self) -> Any:
        rho = _unbalanced.penalties(self.unbalanced)
        return tuple(value * self.scale_ for value in rho) if _unbalanced.is_soft(rho) else None

    def _cost_range(self) -> tuple[float, float]:
        """Mean and largest cost between the two samples."""
        a, b = (w / w.sum() for w in (self.source_weights_, self.target_weights_))
        needs_max = self.scale == "max" or self.labels_ is not None
        if self.scale is None and not needs_max:
            return 0.0, 0.0
        if self.metric == "sqeuclidean" and not needs_max:
            centres = a @ self.source_, b @ self.target_
            spreads = (a @ (self.source_ - centres[0]) ** 2) + (b @ (self.target_ - centres[1]) ** 2)
            return float(spreads.sum() + ((centres[0] - centres[1]) ** 2).sum()), 0.0
        mean, largest = 0.0, 0.0
        for start, stop in _blocks(len(self.source_), len(self.target_)):
            cost = dist(self.source_[start:stop], self.target_, self.metric)
            mean += float(a[start:stop] @ cost @ b)
            largest = max(largest, float(cost.max()))
        return mean, largest

    def _cost(self, points: Any, others: Any, labels: Any, other_labels: Any) -> np.ndarray:
        cost: np.ndarray = dist(points, others, self.metric)
        if labels is not None:
            known = (labels != _UNKNOWN)[:, None] & (other_labels != _UNKNOWN)
            cost += self._added_cost * (known & (labels[:, None] != other_labels))
        return cost

    def _map(self, X: Any, y: Any, side: int) -> np.ndarray:
        """Means of the samples on the other side under the plan's row of each point.

        The plan is a_i b_j exp((f_i + g_j - M_ij) / reg); f_i and a_i cancel in the mean, which leaves
        weights that any point has: the c-transform normalises them.
        """
        given = checked_input(self, X, reset=False)
        points = given.astype(np.float64, copy=False)
        others = (self.target_, self.source_)[side]
        weights = (self.target_weights_, self.source_weights_)[side]
        labels, other_labels = None, None
        if y is not None:
            if self.labels_ is None:
                raise ValueError("`y` is given, but `fit` was not given labels of both samples")
            labels, other_labels = _classes("y", y, len(points)), self.labels_[1 - side]
        with np.errstate(divide="ignore"):
            bias = self.potentials_[1 - side] + self.reg_ * np.log(weights)
        threads = _validate.n_threads(self.n_threads)
        native = _native.of(points)[0]
        out = np.empty((len(points), others.shape[1]))
        for start, stop in _blocks(len(points), len(others)):
            block = None if labels is None else labels[start:stop]
            cost = np.ascontiguousarray(self._cost(points[start:stop], others, block, other_labels))
            cost -= cost[:, weights > 0].min(axis=1, keepdims=True)  # far points: levels do not cancel
            level = np.empty(stop - start)
            native.ot_c_transform(cost, self.reg_, False, bias, level, threads)
            native.ot_plan_rows(cost, self.reg_, level, bias, 0, cost, threads)
            out[start:stop] = (cost / cost.sum(axis=1, keepdims=True)) @ others
        return out.astype(given.dtype, copy=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _more_tags(self) -> dict[str, Any]:  # scikit-learn before 1.6
        return {"preserves_dtype": [np.float64, np.float32]}


def _blocks(n: int, m: int) -> list[tuple[int, int]]:
    rows = max(1, _BLOCK // m)
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def _weights(name: str, given: Any, size: int, normalise: bool) -> np.ndarray:
    if given is None:
        return np.full(size, 1.0 / size)
    w = _validate.as_float_array(name, given, shape=(size,), dtype=np.float64)
    _validate.check_nonnegative(name, w)
    if not w.sum() > 0:
        raise ValueError(f"`{name}` has no mass: all {size} weights are zero")
    return np.asarray(w / w.sum() if normalise else w)


def _classes(name: str, y: Any, size: int) -> np.ndarray:
    labels = np.asarray(y)
    if labels.shape != (size,):
        raise ValueError(f"`{name}` has shape {labels.shape}; {(size,)} is needed")
    return labels


__all__ = ["SinkhornTransport"]
