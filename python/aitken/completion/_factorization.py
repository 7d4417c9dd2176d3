"""Ratings or counts as a product of two thin matrices, as a scikit-learn estimator."""

from __future__ import annotations

import inspect
import json
import os
import zipfile
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .. import _files, _validate
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

_FORMAT = 1


class MatrixFactorization(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Factors of users and items from a sparse matrix of ratings or counts.

    The rating of user u for item i is modelled as ``mean + a_u + b_i + <p_u, q_i>``. All that belongs to
    users and all that belongs to items are found in turn by exact or nearly exact ridge regressions
    (`matrix_completion`). With ``implicit=True`` the entries are counts instead (plays, clicks): every cell
    is fitted, to 1 where there is a count r and 0 elsewhere, with weight ``1 + alpha * r``.

    Rows are users, columns are items, and the number of a row or column is the number of the user or item.
    In sparse matrices what is stored is observed, zeros too. In dense arrays every cell is observed except
    those equal to `missing_values`; pass ``missing_values=0`` for ratings in a dense array where 0 says that
    there is none.

    Parameters
    ----------
    n_factors : int, default 64
        Numbers per user and per item. At most the number of users and of items are used.
    lam : float, default 0.1
        Weight of the ridge penalty on factors and biases.
    lam_scaling : {"degree", "none"}, default "degree"
        "degree" multiplies `lam` by the number of entries of the user or item, so that a good value hardly
        depends on the size of the data; "none" gives everybody the same penalty.
    bias : bool or "auto", default "auto"
        Levels `a` of users and `b` of items, found jointly with the factors. "auto" has them except with
        `implicit` or `nonneg`, which exclude them.
    center : bool or "auto", default "auto"
        Subtract the mean of all entries. "auto" does so where there are biases.
    implicit : bool, default False
        Entries are counts, see above. They must not be negative.
    alpha : float, default 1.0
        Weight of a count of one, beside the 1 that every cell has.
    nonneg : bool, default False
        Factors without negative entries.
    max_iter : int, default 30
        Limit on the sweeps; one sweep solves for all items and all users once.
    tol : float, default 1e-3
        Stop when the training RMSE changed by less than this part of itself, twice in a row.
    inner : {"auto", "exact", "cg", "qcg", "sketch", "lowprec"}, default "auto"
        How the regressions are solved; see `matrix_completion`. The last sweep is exact whatever it says.
    validation_fraction : float or None, default None
        Part of the entries, in (0, 1), to hold out; the fit then stops when the RMSE on them has not
        improved for `n_iter_no_change` sweeps, and keeps the best factors. Not with `implicit`.
    n_iter_no_change : int, default 3
        Patience of that rule.
    missing_values : float, default nan
        What stands for "not observed" in dense arrays. Sparse matrices are not looked at for it.
    duplicates : {"raise", "mean", "last"}, default "raise"
        What to do where a sparse matrix stores an entry twice. (Its own `sum_duplicates` adds counts up.)
    random_state : int, RandomState instance or None, default None
        For the start of the iteration and the entries held out.
    n_threads : int or None, default None
        Threads of the native code; None is the package's default. The result does not depend on it.

    Attributes
    ----------
    user_factors_, item_factors_ : ndarray of shape (n_users_, n_factors_), (n_items_, n_factors_)
        The factors; also as `user_factors` and `item_factors`.
    user_bias_, item_bias_ : ndarray of shape (n_users_,), (n_items_,), or None
        Levels; None without `bias`.
    mean_ : float
        What was subtracted from all entries.
    n_users_, n_items_, n_factors_ : int
        Sizes; they grow in `partial_fit`, except `n_factors_`.
    interactions_ : csr_array of shape (n_users_, n_items_)
        The entries seen so far, for `partial_fit` and for filtering in `recommend`.
    n_iter_ : int
        Sweeps done by `fit`.
    history_ : dict of ndarray
        Per sweep, as in `CompletionResult.history`.
    rmse_train_, rmse_validation_ : float
        Root mean square error at the end of `fit`; NaN where there is none.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of str
        Names of the columns, where the data had any.

    Raises
    ------
    TypeError, ValueError
        In `fit`, for options out of range, named, and for entries that are stored twice or not finite.
    sklearn.exceptions.NotFittedError
        For all else before `fit`, `partial_fit` or `load`.

    See Also
    --------
    matrix_completion : The solver itself, with weights, robust losses and exact recovery.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from aitken.completion import MatrixFactorization
    >>> rng = np.random.default_rng(0)
    >>> full = 3 + rng.normal(size=(40, 1)) + rng.normal(size=(40, 2)) @ rng.normal(size=(2, 30))
    >>> ratings = sp.csr_array(np.where(rng.random(full.shape) < 0.5, full, 0))
    >>> model = MatrixFactorization(n_factors=2, lam=0.05, random_state=0).fit(ratings)
    >>> unseen = ratings.toarray() == 0
    >>> error = model.predict(*np.nonzero(unseen)) - full[unseen]
    >>> bool(np.sqrt(np.mean(error**2)) < 0.2 * full.std())
    True
    >>> items, scores = model.recommend([0, 7], n_items=3)
    >>> items.shape, bool(unseen[[[0], [7]], items].all())
    ((2, 3), True)
    """

    n_features_in_: int
    feature_names_in_: Any

    def __init__(
        self,
        n_factors: int = 64,
        *,
        lam: float = 0.1,
        lam_scaling: str = "degree",
        bias: bool | str = "auto",
        center: bool | str = "auto",
        implicit: bool = False,
        alpha: float = 1.0,
        nonneg: bool = False,
        max_iter: int = 30,
        tol: float = 1e-3,
        inner: str = "auto",
        validation_fraction: float | None = None,
        n_iter_no_change: int = 3,
        missing_values: Any = np.nan,
        duplicates: str = "raise",
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> None:
        self.n_factors = n_factors
        self.lam = lam
        self.lam_scaling = lam_scaling
        self.bias = bias
        self.center = center
        self.implicit = implicit
        self.alpha = alpha
        self.nonneg = nonneg
        self.max_iter = max_iter
        self.tol = tol
        self.inner = inner
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.missing_values = missing_values
        self.duplicates = duplicates
        self.random_state = random_state
        self.n_threads = n_threads

    @classmethod
    def from_spark_params(
        cls,
        rank: int = 10,
        regParam: float = 0.1,
        alpha: float = 1.0,
        implicitPrefs: bool = False,
        nonnegative: bool = False,
        maxIter: int = 10,
        **params: Any,
    ) -> MatrixFactorization:
        """Make an estimator from the parameters of Spark's ALS, by its names and with its defaults.

        Spark minimises, over the observed ratings, ``sum (r_ui - <p_u, q_i>)^2`` plus ``regParam`` times
        ``sum_u n_u ||p_u||^2 + sum_i n_i ||q_i||^2`` with n the number of ratings of the user or item: here,
        ``lam=regParam`` with ``lam_scaling="degree"``, no biases and no mean. With ``implicitPrefs`` the sum
        is over all cells with weights ``1 + alpha r``, and the penalty is the same. Spark runs exactly
        ``maxIter`` iterations, so `tol` is 0 here; its starting point is another one.

        Parameters
        ----------
        rank, regParam, alpha, implicitPrefs, nonnegative, maxIter
            As in Spark.
        **params
            Further parameters of this class, such as `random_state`.

        Returns
        -------
        MatrixFactorization
            Not fitted.
        """
        given: dict[str, Any] = {
            "n_factors": rank,
            "lam": regParam,
            "lam_scaling": "degree",
            "bias": False,
            "center": False,
            "alpha": alpha,
            "implicit": implicitPrefs,
            "nonneg": nonnegative,
            "max_iter": maxIter,
            "tol": 0.0,
        }
        return cls(**{**given, **params})

    # ------------------------------------------------------------------------------------------ scikit-learn

    def _more_tags(self) -> dict[str, Any]:  # scikit-learn 1.5
        return {
            "allow_nan": allows_nan(self.missing_values),
            "X_types": ["2darray", "sparse"],
            "preserves_dtype": [np.float64, np.float32],
            "requires_positive_X": self.implicit is True,
        }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = allows_nan(self.missing_values)
        tags.input_tags.positive_only = self.implicit is True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_factors_

    @property
    def user_factors(self) -> np.ndarray:
        """The same as `user_factors_`."""
        return self._fitted("user_factors_")

    @property
    def item_factors(self) -> np.ndarray:
        """The same as `item_factors_`."""
        return self._fitted("item_factors_")

    @property
    def n_users_(self) -> int:
        """Number of users."""
        return len(self.user_factors_)

    @property
    def n_items_(self) -> int:
        """Number of items."""
        return len(self.item_factors_)

    @property
    def n_factors_(self) -> int:
        """Numbers per user and per item in use."""
        return int(self.item_factors_.shape[1])

    def _fitted(self, name: str) -> np.ndarray:
        check_is_fitted(self, "item_factors_")
        array: np.ndarray = getattr(self, name)
        return array

    # ------------------------------------------------------------------------------------------------ fitting

    def _check_options(self) -> None:
        _validate.integer("n_factors", self.n_factors, minimum=1)
        _validate.tolerance("lam", self.lam)
        _validate.choice("lam_scaling", self.lam_scaling, ("degree", "none"))
        _validate.choice("bias", self.bias, ("auto", True, False))
        _validate.choice("center", self.center, ("auto", True, False))
        _validate.boolean("implicit", self.implicit)
        _validate.boolean("nonneg", self.nonneg)
        _validate.positive_scalar("alpha", self.alpha)
        _validate.integer("max_iter", self.max_iter, minimum=1)
        _validate.tolerance("tol", self.tol)
        _validate.integer("n_iter_no_change", self.n_iter_no_change, minimum=1)
        _validate.choice("duplicates", self.duplicates, ("raise", "mean", "last"))
        checked_missing_value(self.missing_values)
        if self.bias is True and (self.implicit or self.nonneg):
            other = "implicit" if self.implicit else "nonneg"
            raise ValueError(f"`bias` and `{other}` exclude each other; got True for both")
        if self.validation_fraction is not None:
            _validate.real_scalar(
                "validation_fraction",
                self.validation_fraction,
                minimum=0.0,
                maximum=1.0,
                open_minimum=True,
                open_maximum=True,
            )
            if self.implicit:
                raise ValueError(
                    "`validation_fraction` must be None with `implicit`, where unseen entries are zeros; "
                    f"got {self.validation_fraction!r}"
                )

    @property
    def _has_bias(self) -> bool:
        return not (self.implicit or self.nonneg) if self.bias == "auto" else bool(self.bias)

    def _checked(self, X: Any, *, reset: bool | None) -> Any:
        nan = bool(np.isnan(checked_missing_value(self.missing_values)))
        return checked_input(self, X, reset=reset, sparse=True, allow_nan=nan)

    def _entries(self, X: Any) -> Any:
        """Checked input as CSR of what is observed."""
        if not sp.issparse(X):
            entries = entries_of(X, observed_mask(X, checked_missing_value(self.missing_values)))
        else:
            entries = entries_of(X, duplicates=self.duplicates)
        if self.implicit:
            if entries.nnz and entries.data.min() < 0:
                raise ValueError(
                    "Negative values in data passed to MatrixFactorization with `implicit`: `X` has "
                    f"{entries.data.min():g}, and counts are needed"
                )
            entries.eliminate_zeros()  # a count of 0 is what every unseen cell has
        return entries

    def fit(self, X: Any, y: Any = None) -> MatrixFactorization:
        """Find the factors.

        Parameters
        ----------
        X : sparse matrix or array-like, shape (n_users, n_items)
            Ratings or counts in any of SciPy's sparse formats, or dense. float32 and float64 stay what they
            are, other numbers become float64.
        y : None
            Not used.

        Returns
        -------
        self : MatrixFactorization
        """
        self._check_options()
        entries = self._entries(self._checked(X, reset=True))
        if entries.nnz == 0:
            raise ValueError(f"`X` of shape {entries.shape} has no observed entry")
        result = complete(
            entries,
            min(self.n_factors, *entries.shape),
            lam=self.lam,
            lam_scaling=self.lam_scaling,
            bias=self._has_bias,
            center=self.center,
            nonneg=bool(self.nonneg),
            implicit=bool(self.implicit),
            alpha=self.alpha,
            inner=self.inner,
            maxiter=self.max_iter,
            tol=self.tol,
            holdout=self.validation_fraction,
            patience=self.n_iter_no_change,
            n_threads=self.n_threads,
            rng=seed_of(self.random_state),
        )
        self.user_factors_, self.item_factors_ = result.U, result.V
        self.user_bias_, self.item_bias_ = result.row_bias, result.col_bias
        self.mean_ = float(result.mu)
        self.interactions_ = entries
        self.n_iter_ = int(result.nit)
        self.history_ = dict(result.history)
        self.rmse_train_ = float(result.rmse_train)
        held_out = result.rmse_holdout
        self.rmse_validation_ = float("nan") if held_out is None else float(held_out)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> MatrixFactorization:
        """Take in new entries; solve again for the users and items that have any, and for no others.

        Where an entry was known, the new value replaces it. The items concerned are solved for with all
        entries they have by now, then the users concerned, each by an exact regression; new users are first
        described by what they said of old items. All other factors stay as they are to the last bit, so many
        updates drift away from what `fit` on everything would give: refit now and then. A call copies all
        entries once, so collect updates before it.

        Parameters
        ----------
        X : sparse matrix or array-like, shape (n_users, n_items)
            New entries, of the shape of all data so far or larger: rows and columns at the end are new users
            and items. Without a fit before, this is `fit`.
        y : None
            Not used.

        Returns
        -------
        self : MatrixFactorization
        """
        if not hasattr(self, "item_factors_"):
            return self.fit(X)
        self._check_options()
        self._need_interactions("`partial_fit`")
        new = self._entries(self._checked_growing(X))
        n_users, n_items = new.shape
        old_items = self.n_items_
        self._grow(n_users, n_items)
        self.interactions_ = _replaced(self.interactions_, new)
        users = np.flatnonzero(np.diff(new.indptr))
        items = np.unique(new.indices)
        if len(users) == 0:
            return self
        # New items say nothing about a user before they have factors.
        self._solve_users(users, slice(0, old_items))
        self._solve_items(items)
        self._solve_users(users, slice(None))
        return self

    def _checked_growing(self, X: Any) -> Any:
        before = self.n_items_
        names = getattr(self, "feature_names_in_", None)
        shape = getattr(X, "shape", None)
        if shape is None:
            shape = np.shape(X)
        if len(shape) != 2 or shape[1] <= before:
            X = self._checked(X, reset=False)
        else:
            X = self._checked(X, reset=True)
            now = getattr(self, "feature_names_in_", None)
            same = names is None and now is None
            if not same and (names is None or now is None or not np.array_equal(names, now[:before])):
                self.n_features_in_ = before
                if names is None:
                    del self.feature_names_in_
                else:
                    self.feature_names_in_ = names
                raise ValueError("the first columns of `X` must have the names of the columns so far")
        if X.shape[0] < self.n_users_:
            self.n_features_in_ = before
            raise ValueError(
                f"`X` has shape {X.shape}; at least {self.n_users_} rows are needed, one for each user so far"
            )
        return X

    def _grow(self, n_users: int, n_items: int) -> None:
        self.user_factors_ = _padded(self.user_factors_, n_users)
        self.item_factors_ = _padded(self.item_factors_, n_items)
        if self.user_bias_ is not None:
            self.user_bias_ = _padded(self.user_bias_, n_users)
            self.item_bias_ = _padded(self.item_bias_, n_items)

    def _half_sweep(self, entries: Any, factors: np.ndarray, bias: np.ndarray | None) -> tuple[Any, Any]:
        found = als_half_sweep(
            entries,
            np.ascontiguousarray(factors),
            lam=self.lam,
            lam_scaling=self.lam_scaling,
            col_bias=bias,
            bias=bias is not None,
            mu=self.mean_,
            nonneg=bool(self.nonneg),
            implicit=bool(self.implicit),
            alpha=self.alpha,
            inner="exact",
            n_threads=self.n_threads,
        )
        return found if bias is not None else (found, None)

    def _solve_users(self, users: np.ndarray, items: slice) -> None:
        if self.implicit:  # cells without entries count there, and items without factors only add a constant
            items = slice(None)
        rows = self.interactions_[users][:, items]
        bias = None if self.item_bias_ is None else self.item_bias_[items]
        factors, level = self._half_sweep(rows, self.item_factors_[items], bias)
        self.user_factors_[users] = factors
        if level is not None:
            self.user_bias_[users] = level

    def _solve_items(self, items: np.ndarray) -> None:
        rows = self.interactions_[:, items].T.tocsr()
        factors, level = self._half_sweep(rows, self.user_factors_, self.user_bias_)
        self.item_factors_[items] = factors
        if level is not None:
            self.item_bias_[items] = level

    # ------------------------------------------------------------------------------------------------- using

    def _new_users(self, X: Any) -> tuple[Any, Any, Any]:
        """Entries, factors and levels of users given by their ratings."""
        entries = self._entries(X).astype(X.dtype, copy=False)
        kind = X.dtype
        bias = None if self.item_bias_ is None else self.item_bias_.astype(kind, copy=False)
        factors, level = self._half_sweep(entries, self.item_factors_.astype(kind, copy=False), bias)
        return entries, factors, level

    def transform(self, X: Any) -> np.ndarray:
        """Factors of users given by their ratings, known to the model or not.

        Parameters
        ----------
        X : sparse matrix or array-like, shape (n, n_items_)
            A row of ratings or counts per user.

        Returns
        -------
        ndarray of shape (n, n_factors_)
            One exact regression per row on the item factors; 0 for rows without entries.
        """
        check_is_fitted(self, "item_factors_")
        X = self._checked(X, reset=False)
        factors: np.ndarray = self._new_users(X)[1]
        return factors

    def recalculate_user(self, user_row: Any) -> np.ndarray:
        """Factors of one user given by the ratings, without a change to the model.

        Parameters
        ----------
        user_row : sparse matrix of shape (1, n_items_), or array-like of shape (n_items_,) or (1, n_items_)

        Returns
        -------
        ndarray of shape (n_factors_,)
        """
        check_is_fitted(self, "item_factors_")
        row = user_row
        if sp.issparse(row):
            row = row.reshape(1, -1) if row.ndim == 1 else row
        else:
            row = np.asarray(row)
            row = row[None] if row.ndim == 1 else row
        if row.shape[0] != 1:
            raise ValueError(f"`user_row` has shape {tuple(np.shape(user_row))}; one row is needed")
        row = self._checked(row, reset=None)
        if row.shape[1] != self.n_items_:
            raise ValueError(f"`user_row` has {row.shape[1]} columns; there are {self.n_items_} items")
        factors: np.ndarray = self._new_users(row)[1][0]
        return factors

    def predict(self, rows: Any, cols: Any = None) -> np.ndarray:
        """Ratings by the model; with `implicit`, scores near 1 for what a user is likely to want.

        Parameters
        ----------
        rows : int or array-like of int, shape (p,)
            Numbers of users. Without `cols`: a dense array of shape (n, n_items_) with the ratings of n
            users, known or not, in rows.
        cols : int or array-like of int, shape (p,), optional
            Numbers of items.

        Returns
        -------
        ndarray of shape (p,), or (n, n_items_) without `cols`

        Raises
        ------
        ValueError
            For numbers out of range; and for a sparse matrix without `cols`, because the answer would be
            dense (`recommend` ranks items without making it).
        """
        check_is_fitted(self, "item_factors_")
        if cols is not None:
            users = _validate.index_array("rows", rows, self.n_users_)
            items = _validate.index_array("cols", cols, self.n_items_)
            if users.shape != items.shape and 1 not in (users.size, items.size):
                raise ValueError(f"`rows` has shape {users.shape} and `cols` {items.shape}; they must agree")
            users, items = np.broadcast_arrays(users, items)
            out: np.ndarray = self._model().predict(users.ravel(), items.ravel())
            return out
        if sp.issparse(rows):
            raise ValueError(
                "`predict` of a sparse matrix would be dense; pass `rows` and `cols`, or use `recommend`"
            )
        X = self._checked(rows, reset=False)
        _, factors, level = self._new_users(X)
        out = factors @ self.item_factors_.T + self.mean_
        if level is not None:
            out += level[:, None] + self.item_bias_
        return out.astype(X.dtype, copy=False)

    def score(self, X: Any, y: Any = None) -> float:
        """How well entries are predicted; higher is better.

        For ratings, minus the root mean square error, so 0 is best. With `implicit`, 1 minus the mean
        percentile rank of the entries, weighted by their counts: 1 where each user's items rank first, 1/2
        for a random order. An item that the user has in the fit and not in `X` is left out of the ranking.

        Parameters
        ----------
        X : sparse matrix or array-like, shape (n_users_, n_items_)
            Entries held out, of the users in the fit: row u is user u.
        y : None
            Not used.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            For another number of rows (users left out of the fit are not what is predicted here), or no
            entries.
        """
        check_is_fitted(self, "item_factors_")
        X = self._checked(X, reset=False)
        if X.shape[0] != self.n_users_:
            raise ValueError(f"`X` has {X.shape[0]} rows; {self.n_users_} are needed, one for each user")
        entries = self._entries(X)
        if entries.nnz == 0:
            raise ValueError("`X` has no observed entry")
        if self.implicit:
            return 1.0 - self._percentile_rank(entries)
        rows = np.repeat(np.arange(self.n_users_), np.diff(entries.indptr))
        error = self._model().predict(rows, entries.indices) - entries.data
        return -float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))

    def _percentile_rank(self, entries: Any) -> float:
        """Mean over entries of the part of a user's other items that rank higher; ties count half."""
        total = 0.0
        for user in np.flatnonzero(np.diff(entries.indptr)):
            scores = self.item_factors_ @ self.user_factors_[user]
            mine = slice(entries.indptr[user], entries.indptr[user + 1])
            ranked = np.ones(self.n_items_, dtype=bool)
            if self.interactions_ is not None:
                known = self.interactions_
                ranked[known.indices[known.indptr[user] : known.indptr[user + 1]]] = False
            ranked[entries.indices[mine]] = True
            order = np.sort(scores[ranked])
            own = scores[entries.indices[mine]]
            higher = len(order) - np.searchsorted(order, own, side="right")
            equal = len(order) - np.searchsorted(order, own, side="left") - higher - 1
            part = (higher + 0.5 * equal) / max(len(order) - 1, 1)
            total += float(part @ entries.data[mine])
        return total / float(entries.data.sum(dtype=np.float64))

    def recommend(
        self, users: Any, n_items: int = 10, *, filter_seen: bool = True, items: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items with the highest predictions.

        Parameters
        ----------
        users : int, array-like of int of shape (n,), or sparse matrix of shape (n, n_items_)
            Numbers of users; or rows of ratings or counts of users, known or not.
        n_items : int, default 10
            Items per user.
        filter_seen : bool, default True
            Leave out items of which the user has an entry.
        items : array-like of int, optional
            Choose among these items only.

        Returns
        -------
        items : ndarray of int64, shape (n, n_items), or (n_items,) for one number
            Best first; -1 where fewer items remain.
        scores : ndarray of the same shape
            Predictions; -inf where fewer items remain.
        """
        check_is_fitted(self, "item_factors_")
        n_items = _validate.integer("n_items", n_items, minimum=1)
        filter_seen = _validate.boolean("filter_seen", filter_seen)
        single = not sp.issparse(users) and np.ndim(users) == 0
        if sp.issparse(users):
            rows = self._checked(users, reset=None)
            if rows.shape[1] != self.n_items_:
                raise ValueError(f"`users` has {rows.shape[1]} columns; there are {self.n_items_} items")
            seen, factors, level = self._new_users(rows)
        else:
            which = _validate.index_array("users", users, self.n_users_)
            if which.ndim != 1:
                raise ValueError(f"`users` has shape {which.shape}; numbers in one dimension are needed")
            factors = self.user_factors_[which]
            level = None if self.user_bias_ is None else self.user_bias_[which]
            seen = None
            if filter_seen:
                self._need_interactions("`filter_seen`")
                seen = self.interactions_[which]
        among = None
        if items is not None:
            among = np.unique(_validate.index_array("items", items, self.n_items_))
            if len(among) == 0:
                raise ValueError("`items` is empty")
            seen = None if seen is None else seen[:, among]
        model = self._model(factors, level, among)
        found, scores = model.topk(np.arange(len(factors)), n_items, exclude=seen if filter_seen else None)
        if among is not None:
            found = np.where(found >= 0, among[found], -1)
        return (found[0], scores[0]) if single else (found, scores)

    def similar_items(self, item: Any, n: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Items whose factors point in the most similar direction.

        Parameters
        ----------
        item : int or array-like of int, shape (p,)
            Numbers of items.
        n : int, default 10
            Items to find for each, itself not among them.

        Returns
        -------
        items : ndarray of int64, shape (n,) or (p, n)
            Most similar first; -1 where fewer items remain.
        scores : ndarray of the same shape
            Cosines of the angles, at most 1; -inf where fewer items remain.
        """
        check_is_fitted(self, "item_factors_")
        n = _validate.integer("n", n, minimum=1)
        which = _validate.index_array("item", item, self.n_items_)
        found, scores = self._model().similar(which, n)
        return (found[0], scores[0]) if np.ndim(item) == 0 else (found, scores)

    def _model(
        self, factors: Any = None, level: Any = None, items: np.ndarray | None = None
    ) -> CompletionResult:
        """The model, or one of other users or some items, in the form that predicts and ranks."""
        if factors is None:
            factors, level = self.user_factors_, self.user_bias_
        chosen = slice(None) if items is None else items
        return CompletionResult(
            U=factors,
            V=self.item_factors_[chosen],
            row_bias=level,
            col_bias=None if self.item_bias_ is None else self.item_bias_[chosen],
            mu=self.mean_,
        )

    def _need_interactions(self, what: str) -> None:
        if self.interactions_ is None:
            raise ValueError(f"{what} needs the entries of the fit, and the model was saved without them")

    # ------------------------------------------------------------------------------------------- persistence

    def save(self, path: str | os.PathLike[str], *, interactions: bool = True) -> None:
        """Write the fitted model to an npz file with a JSON header (beside, then renamed).

        Parameters
        ----------
        path : path
            The file, by whatever name.
        interactions : bool, default True
            Include the entries of the fit. Without them the file is smaller and holds no data of users, and
            the model that is loaded can neither filter what was seen nor `partial_fit`.
        """
        check_is_fitted(self, "item_factors_")
        interactions = _validate.boolean("interactions", interactions)
        params = self.get_params()
        for name in ("lam", "alpha", "tol", "missing_values", "validation_fraction"):
            if params[name] is not None:  # NumPy's numbers are not JSON's; NaN passes
                params[name] = float(checked_missing_value(params[name]))
        for name in ("n_factors", "max_iter", "n_iter_no_change", "n_threads", "random_state"):
            value = params[name]
            params[name] = int(value) if isinstance(value, int | np.integer) else None
        head = {"format": _FORMAT, "kind": type(self).__name__, "params": params}
        head["fitted"] = {
            name: getattr(self, name) for name in ("mean_", "n_iter_", "rmse_train_", "rmse_validation_")
        }
        arrays = {"user_factors": self.user_factors_, "item_factors": self.item_factors_}
        if self.user_bias_ is not None:
            arrays.update(user_bias=self.user_bias_, item_bias=self.item_bias_)
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names"] = np.array([str(name) for name in self.feature_names_in_])
        arrays.update({f"history_{name}": np.asarray(values) for name, values in self.history_.items()})
        if interactions and self.interactions_ is not None:
            entries = self.interactions_
            arrays.update(indptr=entries.indptr, indices=entries.indices, data=entries.data)
        _files.save_npz(path, head, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MatrixFactorization:
        """Read what `save` wrote. No pickle is read; a `random_state` that was no int is None.

        Raises
        ------
        ValueError
            For a file that is something else, or whose arrays do not fit together.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(bytes(arrays.pop("head")).decode())
            found = head["format"], head["kind"]
        except (ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"`path` {path!r} is not a saved {cls.__name__}: {error}") from None
        if found != (_FORMAT, cls.__name__):
            raise ValueError(
                f"`path` {path!r} has format {found[0]} of {found[1]}; {_FORMAT} of {cls.__name__} is needed"
            )
        try:
            known = inspect.signature(cls).parameters
            model = cls(**{name: value for name, value in head["params"].items() if name in known})
            model._restore(head["fitted"], arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"`path` {path!r} is not a saved {cls.__name__}: {error}") from None
        return model

    def _restore(self, fitted: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        for name in ("mean_", "rmse_train_", "rmse_validation_"):
            setattr(self, name, float(fitted[name]))
        self.n_iter_ = int(fitted["n_iter_"])
        users, items = arrays["user_factors"], arrays["item_factors"]
        if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1]:
            raise ValueError(f"factors of shape {users.shape} and {items.shape}")
        self.user_bias_, self.item_bias_ = arrays.get("user_bias"), arrays.get("item_bias")
        if (self.user_bias_ is None) != (self.item_bias_ is None):
            raise ValueError("biases of one side only")
        if self.user_bias_ is not None:
            shapes = self.user_bias_.shape, self.item_bias_.shape
            if shapes != ((len(users),), (len(items),)):
                raise ValueError(f"biases of shape {shapes[0]} and {shapes[1]}")
        for name in ("user_factors", "item_factors", "user_bias", "item_bias"):
            array = arrays.get(name)
            if array is not None and (array.dtype.kind != "f" or not np.isfinite(array).all()):
                raise ValueError(f"{name} of dtype {array.dtype} or with NaN or Inf")
        self.user_factors_, self.item_factors_ = users, items
        self.interactions_ = None
        if "indptr" in arrays:
            parts = (arrays["data"], arrays["indices"], arrays["indptr"])
            self.interactions_ = sp.csr_array(parts, shape=(len(users), len(items)))
            self.interactions_.check_format(full_check=True)
        self.n_features_in_ = len(items)
        if "feature_names" in arrays:
            self.feature_names_in_ = arrays["feature_names"].astype(object)
        prefix = "history_"
        self.history_ = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _padded(array: np.ndarray, n: int) -> np.ndarray:
    """A copy with zeros appended up to length `n`."""
    out = np.zeros((n, *array.shape[1:]), dtype=array.dtype)
    out[: len(array)] = array
    return out


def _replaced(old: Any, new: Any) -> Any:
    """The entries of both, those of `new` where both have one; of the shape of `new`."""
    n_rows, n_cols = new.shape
    rows = [np.repeat(np.arange(m.shape[0], dtype=np.int64), np.diff(m.indptr)) for m in (new, old)]
    cols = [m.indices.astype(np.int64) for m in (new, old)]
    # The first of equal places is kept, and the new ones come first.
    places, first = np.unique(np.concatenate(rows) * n_cols + np.concatenate(cols), return_index=True)
    data = np.concatenate([new.data.astype(old.dtype, copy=False), old.data])[first]
    indptr = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(places // n_cols, minlength=n_rows), out=indptr[1:])
    return sp.csr_array((data, places % n_cols, indptr), shape=(n_rows, n_cols))


__all__ = ["MatrixFactorization"]
