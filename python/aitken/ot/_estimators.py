"""Transport distances between histograms for scikit-learn: to the training set, and as a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, check_non_negative

from .. import _validate
from .._sklearn import checked_input
from ._cost import METRICS, dist
from ._pairwise import VALUES, pairwise_distances

_SAMPLE = 200  # histograms whose distances to each other set `gamma`


class OTDistance(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transport distances from histograms to those of the training set.

    The output is what estimators with ``metric="precomputed"`` take: a column per training histogram.

    Parameters
    ----------
    reg : float, default 0.01
        Entropic regularisation, in units of the largest cost.
    M : array_like of shape (n_features, n_features) or None, default None
        Cost between the bins. None puts them on a grid.
    grid : tuple of int or None, default None
        Shape of the grid whose cells are the bins, in C order, e.g. the image's; None is a line.
    metric : {"sqeuclidean", "euclidean", "cityblock"}, default "sqeuclidean"
        Cost between two cells of the grid, whose spacing is 1. Not used with `M`.
    value : {"linear", "regularized"}, default "linear"
        The transport cost of the plan, or the regularised objective.
    divergence : bool, default False
        Subtract half of each histogram's distance to itself, so that it is zero for equal histograms: with
        ``value="regularized"`` the Sinkhorn divergence, with the default the same combination of ``<M, P>``,
        for which nothing guarantees a sign. Negative numbers are returned as 0.
    tol : float or None, default None
        Bound on the L1 marginal error of every problem, for total mass 1; None is 1e-9.
    n_threads : int or None, default None
        Threads of the native code; None is the package's default.

    Attributes
    ----------
    histograms_ : ndarray of shape (n_train, n_features_in_)
        The training histograms, of mass 1.
    M_ : ndarray of shape (n_features_in_, n_features_in_)
        The cost used.
    reg_ : float
        The regularisation in units of the cost.
    n_features_in_ : int
        Bins of a histogram.
    feature_names_in_ : ndarray of str
        Their names, where the array had any.

    Raises
    ------
    TypeError, ValueError
        In `fit`, for options out of range, named, and for negative or infinite values.
    sklearn.exceptions.NotFittedError
        In `transform` before `fit`.

    Warns
    -----
    ConvergenceWarning
        If some distance did not reach `tol`.

    See Also
    --------
    pairwise_distances : The solver.
    OTKernel : The same as a similarity.

    Notes
    -----
    Rows are scaled to mass 1; a row of zeros counts as uniform.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from aitken.ot import OTDistance
    >>> x = np.arange(40)
    >>> bumps = np.array([np.exp(-((x - c) ** 2) / 8.0) for c in (8, 9, 30, 31, 10, 29)])
    >>> model = make_pipeline(OTDistance(), KNeighborsClassifier(1, metric="precomputed"))
    >>> model.fit(bumps[:4], [0, 0, 1, 1]).predict(bumps[4:])
    array([0, 1])
    """

    def __init__(
        self,
        reg: float = 0.01,
        *,
        M: Any = None,
        grid: Any = None,
        metric: str = "sqeuclidean",
        value: str = "linear",
        divergence: bool = False,
        tol: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.reg = reg
        self.M = M
        self.grid = grid
        self.metric = metric
        self.value = value
        self.divergence = divergence
        self.tol = tol
        self.n_threads = n_threads

    def fit(self, X: Any, y: Any = None) -> OTDistance:
        """Keep the training histograms.

        Parameters
        ----------
        X : array_like of shape (n_train, n_features)
            Histograms, non-negative.
        y : None
            Ignored.

        Returns
        -------
        OTDistance
            Itself.
        """
        self._prepare(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Distances from `X` to the training histograms.

        Parameters
        ----------
        X : array_like of shape (n, n_features)
            Histograms, non-negative.

        Returns
        -------
        ndarray of shape (n, n_train)
            float64.
        """
        check_is_fitted(self)
        return self._output(self._distances(self._histograms(X, reset=False), self.histograms_))

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Distances of the training histograms to each other; each pair is solved once.

        Parameters
        ----------
        X : array_like of shape (n_train, n_features)
            Histograms, non-negative.
        y : None
            Ignored.

        Returns
        -------
        ndarray of shape (n_train, n_train)
            float64.
        """
        return self._output(self._prepare(X, distances=True))

    def _prepare(self, X: Any, distances: bool = False) -> Any:
        """Fit; with `distances`, those of the training histograms to each other."""
        reg = _validate.positive_scalar("reg", self.reg)
        _validate.choice("metric", self.metric, METRICS[:3])
        _validate.choice("value", self.value, VALUES)
        _validate.boolean("divergence", self.divergence)
        _validate.n_threads(self.n_threads)
        if self.tol is not None:
            _validate.positive_scalar("tol", self.tol)
        self.histograms_ = self._histograms(X, reset=True)
        self.M_ = self._cost(self.n_features_in_)
        self.reg_ = reg * (float(self.M_.max()) or 1.0)
        self._n_features_out = len(self.histograms_)
        return self._distances(self.histograms_, None) if distances else None

    def _output(self, distances: np.ndarray) -> np.ndarray:
        return distances

    def _histograms(self, X: Any, *, reset: bool) -> np.ndarray:
        X = checked_input(self, X, reset=reset).astype(np.float64, copy=False)
        check_non_negative(X, f"{type(self).__name__} (input `X`)")
        mass = X.sum(axis=1, keepdims=True)
        return np.where(mass > 0, X / np.where(mass > 0, mass, 1.0), 1.0 / X.shape[1])

    def _cost(self, n: int) -> np.ndarray:
        if self.M is not None:
            M = _validate.as_float_array("M", self.M, shape=(n, n), dtype=np.float64)
            _validate.check_nonnegative("M", M)
            return np.asarray(M)
        try:
            shape = (n,) if self.grid is None else tuple(self.grid)
        except TypeError:
            raise TypeError(f"`grid` must be a tuple of integers; got {self.grid!r}") from None
        sides = [_validate.integer("grid", side, minimum=1) for side in shape]
        if np.prod(sides) != n:
            raise ValueError(f"`grid` is {tuple(sides)}, {np.prod(sides)} cells; `X` has {n} features")
        cells = np.stack(np.unravel_index(np.arange(n), sides), axis=1).astype(np.float64)
        return np.asarray(dist(cells, cells, self.metric))

    def _distances(self, A: np.ndarray, B: np.ndarray | None) -> np.ndarray:
        found = pairwise_distances(
            A,
            B,
            self.M_,
            reg=self.reg_,
            value=self.value,
            divergence=self.divergence,
            tol=self.tol,
            n_threads=self.n_threads,
        )
        # With KL to a b^T no value is negative, divergences but for rounding.
        return np.maximum(found, 0.0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def _more_tags(self) -> dict[str, Any]:  # scikit-learn before 1.6
        return {"requires_positive_X": True}


class OTKernel(OTDistance):
    """Similarities ``exp(-gamma d)`` of histograms to those of the training set, d a transport distance.

    The output is what estimators with ``kernel="precomputed"`` take: a column per training histogram.

    Parameters
    ----------
    gamma : float or "median", default "median"
        Decay. "median" is the inverse of the median distance between training histograms (200 of them, evenly
        spaced, where there are more).
    reg, M, grid, metric, value, tol, n_threads
        As in `OTDistance`.
    divergence : bool, default True
        As in `OTDistance`; with it, the similarity of a histogram to itself is 1.

    Attributes
    ----------
    gamma_ : float
        The decay used.
    histograms_, M_, reg_, n_features_in_, feature_names_in_
        As in `OTDistance`.

    See Also
    --------
    OTDistance : The distances.

    Notes
    -----
    Transport distances are not of negative type in general, so the kernel matrix may have negative
    eigenvalues (small ones, for small `gamma`). Solvers that only need similarities, such as libsvm's, work
    with it; those that factor the matrix may not.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import SVC
    >>> from aitken.ot import OTKernel
    >>> x = np.arange(40)
    >>> bumps = np.array([np.exp(-((x - c) ** 2) / 8.0) for c in (8, 9, 30, 31, 10, 29)])
    >>> model = make_pipeline(OTKernel(), SVC(kernel="precomputed"))
    >>> model.fit(bumps[:4], [0, 0, 1, 1]).predict(bumps[4:])
    array([0, 1])
    """

    def __init__(
        self,
        gamma: float | str = "median",
        *,
        reg: float = 0.01,
        M: Any = None,
        grid: Any = None,
        metric: str = "sqeuclidean",
        value: str = "regularized",
        divergence: bool = True,
        tol: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            reg,
            M=M,
            grid=grid,
            metric=metric,
            value=value,
            divergence=divergence,
            tol=tol,
            n_threads=n_threads,
        )
        self.gamma = gamma

    def _prepare(self, X: Any, distances: bool = False) -> Any:
        if isinstance(self.gamma, str):
            _validate.choice("gamma", self.gamma, ("median",))
        found = super()._prepare(X, distances=distances)
        if not isinstance(self.gamma, str):
            self.gamma_ = _validate.positive_scalar("gamma", self.gamma)
            return found
        n = len(self.histograms_)
        some = np.arange(n) if n <= _SAMPLE else np.linspace(0, n - 1, _SAMPLE).astype(int)
        known = self._distances(self.histograms_[some], None) if found is None else found[np.ix_(some, some)]
        apart = known[~np.eye(len(some), dtype=bool)]
        median = float(np.median(apart)) if apart.size else 0.0
        self.gamma_ = 1.0 / median if median > 0 else 1.0
        return found

    def _output(self, distances: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-self.gamma_ * distances))


__all__ = ["OTDistance", "OTKernel"]
