"""Missing values of a dense array from a low-rank model, as a scikit-learn transformer."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils.validation import check_is_fitted

from .. import _validate
from .._errors import ConvergenceWarning
from ._completion_result import CompletionResult
from ._estimator_base import (
    allows_nan,
    checked_input,
    checked_missing_value,
    complete,
    entries_of,
    observed_mask,
    seed_of,
)
from ._half_sweep import als_half_sweep

# lam="auto" tries these in turn, per observed value of a row or column of variance 1.
_LAMS = (0.3, 0.1, 0.05, 0.02, 0.01, 0.003, 1e-3, 1e-4, 1e-5)
_HELD_OUT = 0.1
_FEWEST = 50  # observed values below which none are held out


class LowRankImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill missing values of numeric features from a low-rank model of the whole array.

    Every sample is described by a few numbers and every feature depends linearly on them; both are fitted to
    the observed values by alternating ridge regressions (`matrix_completion`). Observed values are returned
    exactly as they came. Samples that were not in the fit are described by one exact regression each on the
    fitted features, so `transform` depends on no other sample.

    Parameters
    ----------
    rank : int or "auto", default 20
        Numbers per sample. At most the number of samples and of features are used. With regularisation,
        more than needed does little harm. "auto" adds one at a time while values held out profit, and never
        more than `max_rank`.
    lam : float or "auto", default "auto"
        Weight of the ridge penalty. "auto" holds out a tenth of the observed values, tries weights from 0.3
        down to 1e-5 while the error on them falls, and fits again to all values with the best: some five
        fits instead of one. With fewer than 50 observed values it is 0.1.
    lam_scaling : {"degree", "none"}, default "degree"
        "degree" multiplies `lam` by the number of values observed in the row or column that it acts on, so
        that a good value does not depend on the size of the array.
    shrink : float, default 0.25
        Part of `lam` that `transform` applies to a sample. In the fit the penalty must keep both factors in
        check; given the features, it shrinks samples more than is good. With ``shrink=1`` the values filled
        in are those of the fit.
    scale : bool, default True
        Bring each feature to mean 0 and variance 1 (of its observed values) for the fit, and back after it.
        Without this, features in small units are hardly fitted, as all errors are added up. False only
        subtracts the means: for features of one kind, such as pixels or sensors.
    bias : bool, default False
        Give each sample a level of its own that is common to all its features (and each feature one), beside
        the low-rank part. Helps where features move together, as ratings by one person do.
    nonneg : bool, default False
        Factors without negative entries; means are then not subtracted. Not together with `bias`.
    missing_values : float, default nan
        What stands for a missing value. NaN elsewhere in the array is an error if it is not NaN.
    add_indicator : bool, default False
        Append `sklearn.impute.MissingIndicator`'s columns: 1 where a value was missing, for the features
        with missing values in the fit.
    keep_empty_features : bool, default False
        Keep features without any observed value in the fit, as 0; otherwise they are dropped.
    max_rank : int or None, default None
        Limit for ``rank="auto"``; None is 20.
    max_iter : int, default 100
        Limit on the sweeps of one fit.
    tol : float, default 1e-3
        Stop when the training RMSE changed by less than this part of itself, twice in a row; with `scale`,
        also when it is below this part of the features' spread.
    random_state : int, RandomState instance or None, default None
        For the start of the iteration and the values held out. Pass an int for the same result every time.
    n_threads : int or None, default None
        Threads of the native code; None is the package's default. The result does not depend on it.

    Attributes
    ----------
    components_ : ndarray of shape (rank_, n_kept_features)
        What each number of a sample adds to each feature that was not dropped, in scaled units.
    mean_, scale_ : ndarray of shape (n_features_in_,)
        What is subtracted from each feature, and what it is then divided by.
    feature_bias_ : ndarray of shape (n_kept_features,) or None
        Levels of features in scaled units; None without `bias`.
    lam_ : float
        The weight used in the final fit.
    rank_ : int
        The rank used.
    n_iter_ : int
        Sweeps of the final fit; 0 if nothing was observed.
    rmse_train_, rmse_holdout_ : float
        Root mean square error in scaled units, on the values fitted and on those held out to choose `lam`;
        NaN if there are none.
    indicator_ : sklearn.impute.MissingIndicator or None
        Present with `add_indicator`.
    n_features_in_ : int
        Features in the fit.
    feature_names_in_ : ndarray of str
        Their names, where the array had any.

    Raises
    ------
    TypeError, ValueError
        In `fit`, for options out of range, named, and for infinite values.
    sklearn.exceptions.NotFittedError
        In `transform` before `fit`.

    See Also
    --------
    matrix_completion : The solver itself, for sparse entries, weights, robust losses and exact recovery.

    Notes
    -----
    The model sees values that are missing at random. Where features depend on each other nonlinearly, or the
    samples form neighbourhoods, `sklearn.impute.KNNImputer` or a nonlinear `IterativeImputer` can be better.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.completion import LowRankImputer
    >>> x = np.linspace(1.0, 2.0, 30)
    >>> X = np.column_stack([x, 2 * x, 3 - x, 5 * x])
    >>> X[3, 1] = np.nan
    >>> filled = LowRankImputer(rank=2, lam=1e-4, random_state=0).fit_transform(X)
    >>> bool(abs(filled[3, 1] - 2 * x[3]) < 0.02)
    True
    """

    def __init__(
        self,
        rank: int | str = 20,
        *,
        lam: float | str = "auto",
        lam_scaling: str = "degree",
        shrink: float = 0.25,
        scale: bool = True,
        bias: bool = False,
        nonneg: bool = False,
        missing_values: Any = np.nan,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        max_rank: int | None = None,
        max_iter: int = 100,
        tol: float = 1e-3,
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> None:
        self.rank = rank
        self.lam = lam
        self.lam_scaling = lam_scaling
        self.shrink = shrink
        self.scale = scale
        self.bias = bias
        self.nonneg = nonneg
        self.missing_values = missing_values
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.max_rank = max_rank
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.n_threads = n_threads

    def _more_tags(self) -> dict[str, Any]:  # scikit-learn 1.5
        return {"allow_nan": allows_nan(self.missing_values), "preserves_dtype": [np.float64, np.float32]}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = allows_nan(self.missing_values)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_options(self) -> None:
        if self.rank != "auto" or not isinstance(self.rank, str):
            _validate.integer("rank", self.rank, minimum=1)
        if self.lam != "auto" or not isinstance(self.lam, str):
            _validate.real_scalar("lam", self.lam, minimum=0.0)
        _validate.choice("lam_scaling", self.lam_scaling, ("degree", "none"))
        _validate.tolerance("shrink", self.shrink)
        for name in ("scale", "bias", "nonneg", "add_indicator", "keep_empty_features"):
            _validate.boolean(name, getattr(self, name))
        if self.nonneg and self.bias:
            raise ValueError("`nonneg` and `bias` exclude each other; got True for both")
        _validate.optional_integer("max_rank", self.max_rank, minimum=1)
        _validate.integer("max_iter", self.max_iter, minimum=1)
        _validate.tolerance("tol", self.tol)

    def fit(self, X: Any, y: Any = None) -> LowRankImputer:
        """Fit the model to the observed values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            float32 and float64 stay what they are, other numbers become float64.
        y : None
            Not used.

        Returns
        -------
        self : LowRankImputer
        """
        self._check_options()
        X, observed = self._checked(X, reset=True)
        counts = observed.sum(axis=0)
        self._keep = counts > 0
        self._fit_scaling(X, observed, counts)
        self.indicator_ = None
        if self.add_indicator:
            gaps = np.where(observed, 0.0, np.nan)
            self.indicator_ = MissingIndicator(error_on_new=False).fit(gaps)
        kept = int(self._keep.sum())
        seed = seed_of(self.random_state)
        if kept == 0:
            self.components_ = np.zeros((0, 0), dtype=X.dtype)
            self.feature_bias_ = None
            self.lam_, self.rank_, self.n_iter_ = 0.0, 0, 0
            self.rmse_train_ = self.rmse_holdout_ = float("nan")
            return self

        entries = self._entries(X, observed)
        self.rmse_holdout_ = float("nan")
        self.lam_ = self._choose_lam(entries, seed) if isinstance(self.lam, str) else float(self.lam)
        result = self._complete(entries, self.lam_, seed)
        self.rank_ = int(result.rank)
        self.components_ = np.ascontiguousarray(result.V[:, : self.rank_].T)
        self.feature_bias_ = result.col_bias
        self.n_iter_ = int(result.nit)
        self.rmse_train_ = float(result.rmse_train)
        return self

    def _checked(self, X: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """The array, and where it holds values."""
        missing = checked_missing_value(self.missing_values)
        X = checked_input(self, X, reset=reset, allow_nan=bool(np.isnan(missing)))
        return X, observed_mask(X, missing)

    def _fit_scaling(self, X: np.ndarray, observed: np.ndarray, counts: np.ndarray) -> None:
        n = np.maximum(counts, 1)
        values = np.where(observed, X, 0)
        mean = values.sum(axis=0, dtype=np.float64) / n
        deviation = np.where(observed, X - mean, 0)
        spread = np.sqrt((deviation * deviation).sum(axis=0) / n)
        if self.nonneg:
            spread = np.sqrt((values.astype(np.float64) ** 2).sum(axis=0) / n)
            mean = np.zeros_like(mean)
        # Rounding of the mean leaves a constant feature with a spread that means nothing.
        tiny = 10 * np.finfo(X.dtype).eps * np.abs(mean)
        self.mean_ = np.where(counts > 0, mean, 0.0)
        self.scale_ = np.where(self.scale & (spread > tiny), spread, 1.0)

    def _entries(self, X: np.ndarray, observed: np.ndarray) -> Any:
        """What is observed of the kept features, in scaled units."""
        scaled = ((X - self.mean_) / self.scale_).astype(X.dtype, copy=False)
        return entries_of(scaled[:, self._keep], observed[:, self._keep])

    def _complete(self, entries: Any, lam: float, seed: int) -> Any:
        limit = min(entries.shape)
        settings: dict[str, Any] = {
            "lam": lam,
            "lam_scaling": self.lam_scaling,
            "bias": bool(self.bias),
            "center": False,
            "nonneg": bool(self.nonneg),
            "maxiter": self.max_iter,
            "tol": self.tol,
            "atol_rmse": self.tol if self.scale else 0.0,
            "n_threads": self.n_threads,
            "rng": seed,
        }
        if isinstance(self.rank, str):
            settings["max_rank"] = min(self.max_rank or 20, limit)
            return complete(entries, "auto", **settings)
        return complete(entries, min(self.rank, limit), **settings)

    def _choose_lam(self, entries: Any, seed: int) -> float:
        """The weight with the least error on values held out.

        All fits start afresh. One that starts from a larger weight, where columns have vanished, may stay
        there or not, and says nothing reliable about the fit that follows.
        """
        if entries.nnz < _FEWEST:
            return 0.1
        coo = entries.tocoo()
        out = np.zeros(coo.nnz, dtype=bool)
        out[np.random.default_rng(seed).permutation(coo.nnz)[: round(_HELD_OUT * coo.nnz)]] = True
        train = sp.csr_array((coo.data[~out], (coo.row[~out], coo.col[~out])), shape=coo.shape)
        best, chosen = np.inf, _LAMS[0]
        for lam in _LAMS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the final fit has the say
                model = self._complete(train, lam, seed)
            factors, level = self._describe(train, model.V, model.col_bias, lam)
            held = CompletionResult(U=factors, V=model.V, row_bias=level, col_bias=model.col_bias, mu=0.0)
            misfit = held.predict(coo.row[out], coo.col[out]) - coo.data[out]
            error = float(np.sqrt(np.mean(np.square(misfit, dtype=np.float64))))
            if error > 1.02 * best:
                break
            if error < best:
                best, chosen = error, lam
        self.rmse_holdout_ = best
        return chosen

    def transform(self, X: Any) -> Any:
        """Fill in what is missing.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Any samples, those of the fit or others.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            A new array of the dtype of `X`: observed values as they came, the others from the model; a
            sample without any value gets the features' means.
        """
        check_is_fitted(self, "components_")
        X, observed = self._checked(X, reset=False)
        filled = X.copy()
        rows = np.flatnonzero(~observed.all(axis=1))
        if len(rows):
            fitted = np.zeros((len(rows), X.shape[1]), dtype=X.dtype)
            if self._keep.any():
                fitted[:, self._keep] = self._predict(X[rows], observed[rows])
            filled[rows] = np.where(observed[rows], X[rows], fitted)
        if not self.keep_empty_features:
            filled = filled[:, self._keep]
        if self.indicator_ is None:
            return filled
        flags = self.indicator_.transform(np.where(observed, 0.0, np.nan))
        return np.hstack([filled, flags.astype(X.dtype)])

    def _describe(self, entries: Any, V: np.ndarray, col_bias: Any, lam: float) -> tuple[Any, Any]:
        """Factors of samples, and their levels if there are any, by one exact regression each."""
        found = als_half_sweep(
            entries,
            V,
            lam=self.shrink * lam,
            lam_scaling=self.lam_scaling,
            col_bias=col_bias,
            bias=bool(self.bias),
            nonneg=bool(self.nonneg),
            n_threads=self.n_threads,
        )
        return found if self.bias else (found, None)

    def _predict(self, X: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The model's values of the kept features for some samples, in their own units."""
        V = np.ascontiguousarray(self.components_.T, dtype=X.dtype)
        col_bias = None if self.feature_bias_ is None else self.feature_bias_.astype(X.dtype)
        factors, level = self._describe(self._entries(X, observed), V, col_bias, self.lam_)
        fitted = factors @ self.components_
        if level is not None:
            fitted += level[:, None] + self.feature_bias_
        # float64, lest a large mean take the digits of a small deviation
        return fitted * self.scale_[self._keep] + self.mean_[self._keep]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns that `transform` returns.

        Parameters
        ----------
        input_features : array-like of str or None, default None
            Names of the features; by default those of the fit, or x0, x1, ...

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self, "components_")
        names = super().get_feature_names_out(input_features)
        kept = names if self.keep_empty_features else names[self._keep]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])


__all__ = ["LowRankImputer"]
