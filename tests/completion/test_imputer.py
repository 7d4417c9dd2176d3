"""`LowRankImputer`: scikit-learn's contract, exactness, edge cases, and quality on arrays of known rank."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from aitken import ConvergenceWarning, RecoveryWarning
from aitken.completion import LowRankImputer, als_half_sweep

# What scikit-learn's own checks fit are tiny arrays, many without a low-rank structure.
TINY = "ignore::aitken.RecoveryWarning", "ignore::aitken.ConvergenceWarning"


def low_rank(n=120, m=12, rank=3, noise=0.0, seed=0):
    """Features in very different units, and a third of the cells to hide."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, m))
    X = (X + noise * rng.standard_normal((n, m))) * 10.0 ** rng.integers(-3, 4, m) + rng.normal(0, 5, m)
    return X, rng.random((n, m)) < 0.3


def gapped(X, gone):
    return np.where(gone, np.nan, X)


def relative_error(filled, X, gone):
    """RMSE over the cells hidden, in units of each feature's spread."""
    return float(np.sqrt(np.mean((((filled - X) / X.std(axis=0))[gone]) ** 2)))


@pytest.mark.filterwarnings(*TINY)
@parametrize_with_checks(
    [
        LowRankImputer(),
        LowRankImputer(rank=2, lam=0.1, bias=True, add_indicator=True, keep_empty_features=True),
        LowRankImputer(missing_values=-1, nonneg=True, scale=False),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# ------------------------------------------------------------------------------------------------ quality


def test_recovers_a_low_rank_array():
    X, gone = low_rank()
    # The means of observed values are not the true ones: what is left takes one more than the rank.
    imputer = LowRankImputer(rank=4, lam=1e-7, tol=1e-5, max_iter=2000, random_state=0)
    filled = imputer.fit_transform(gapped(X, gone))
    assert relative_error(filled, X, gone) < 1e-3
    assert imputer.rank_ == 4
    assert imputer.components_.shape == (4, X.shape[1])


@pytest.mark.parametrize("noise", [0.05, 1.5])
def test_default_beats_the_mean_and_weights_that_do_not_suit_the_noise(noise):
    X, gone = low_rank(noise=noise)
    holed = gapped(X, gone)
    imputer = LowRankImputer(random_state=0)
    error = relative_error(imputer.fit_transform(holed), X, gone)
    mean = relative_error(SimpleImputer().fit_transform(holed), X, gone)
    assert error < (0.35 if noise < 1 else 0.95) * mean
    assert np.isfinite(imputer.rmse_holdout_)
    for lam in (0.3, 1e-4):
        fixed = LowRankImputer(lam=lam, random_state=0, max_iter=1000).fit_transform(holed)
        assert error <= 1.1 * relative_error(fixed, X, gone)


def test_units_do_not_matter():
    X, gone = low_rank(noise=0.1)
    holed = gapped(X, gone)
    units = 10.0 ** np.arange(-6, 6)
    a = LowRankImputer(random_state=0).fit_transform(holed)
    b = LowRankImputer(random_state=0).fit_transform(holed * units) / units
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_bias_fits_levels_of_samples():
    rng = np.random.default_rng(3)
    X = rng.normal(0, 3, (80, 1)) + rng.normal(0, 0.1, (80, 9))
    gone = rng.random(X.shape) < 0.4
    gone[:, 0] = False
    filled = LowRankImputer(rank=1, bias=True, scale=False, lam=0.01, random_state=0).fit_transform(
        gapped(X, gone)
    )
    assert np.sqrt(np.mean((filled - X)[gone] ** 2)) < 0.2


def test_nonneg_answers_are_not_negative():
    rng = np.random.default_rng(4)
    X = rng.random((60, 2)) @ rng.random((2, 8))
    gone = rng.random(X.shape) < 0.3
    imputer = LowRankImputer(rank=2, lam=1e-3, nonneg=True, random_state=0)
    filled = imputer.fit_transform(gapped(X, gone))
    assert filled.min() >= 0
    assert (imputer.components_ >= 0).all()
    assert (imputer.mean_ == 0).all()
    assert relative_error(filled, X, gone) < 0.3


def test_automatic_rank_finds_enough():
    X, gone = low_rank(n=300, m=20, rank=3, noise=0.01)
    imputer = LowRankImputer(rank="auto", lam=0.01, max_rank=8, random_state=0)
    filled = imputer.fit_transform(gapped(X, gone))
    assert 3 <= imputer.rank_ <= 8
    assert relative_error(filled, X, gone) < 0.15


# --------------------------------------------------------------------------------------------- behaviour


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_observed_values_come_back_exactly(dtype):
    X, gone = low_rank(noise=0.3)
    holed = gapped(X, gone).astype(dtype)
    before = holed.copy()
    filled = LowRankImputer(random_state=0).fit_transform(holed)
    np.testing.assert_array_equal(holed, before)  # the caller's array is not touched
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled[~gone], holed[~gone])
    assert np.isfinite(filled).all()


def test_rows_are_filled_on_their_own_and_as_in_the_fit():
    X, gone = low_rank(noise=0.1)
    holed = gapped(X, gone)
    imputer = LowRankImputer(random_state=0)
    whole = imputer.fit_transform(holed)
    np.testing.assert_allclose(imputer.transform(holed[17:18])[0], whole[17], rtol=1e-10)
    imputer.fit(holed[:80])
    assert relative_error(imputer.transform(holed[80:]), X[80:], gone[80:]) < 0.5


def test_new_rows_are_one_exact_regression_each():
    X, gone = low_rank(noise=0.2)
    imputer = LowRankImputer(rank=3, lam=0.02, shrink=0.5, random_state=0).fit(gapped(X, gone))
    row = gapped(X, gone)[5]
    z = (row - imputer.mean_) / imputer.scale_
    factors = als_half_sweep(z[None], imputer.components_.T.copy(), lam=0.01, lam_scaling="degree")
    expected = factors[0] @ imputer.components_ * imputer.scale_ + imputer.mean_
    filled = imputer.transform(row[None])[0]
    np.testing.assert_allclose(filled[gone[5]], expected[gone[5]], rtol=1e-9)
    # and by the normal equations
    known = ~gone[5]
    A = imputer.components_[:, known]
    x = np.linalg.solve(A @ A.T + 0.01 * known.sum() * np.eye(3), A @ z[known])
    np.testing.assert_allclose(factors[0], x, rtol=1e-6)


def test_same_seed_same_answer_for_any_threads():
    X, gone = low_rank(noise=0.3)
    holed = gapped(X, gone)
    answers = [
        LowRankImputer(random_state=7, n_threads=threads).fit_transform(holed) for threads in (1, 2, None)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_sample_without_values_gets_the_means():
    X, gone = low_rank()
    imputer = LowRankImputer(rank=2, lam=0.05, random_state=0).fit(gapped(X, gone))
    nothing = np.full((1, X.shape[1]), np.nan)
    np.testing.assert_allclose(imputer.transform(nothing)[0], np.nanmean(gapped(X, gone), axis=0))


@pytest.mark.filterwarnings(*TINY)
def test_empty_features():
    X, gone = low_rank(m=6)
    holed = gapped(X, gone)
    holed[:, 2] = np.nan
    dropped = LowRankImputer(rank=2, random_state=0).fit(holed)
    assert dropped.transform(holed).shape == (len(X), 5)
    assert list(dropped.get_feature_names_out()) == ["x0", "x1", "x3", "x4", "x5"]
    kept = LowRankImputer(rank=2, random_state=0, keep_empty_features=True).fit(holed)
    filled = kept.transform(holed)
    assert (filled[:, 2] == 0).all()
    np.testing.assert_array_equal(filled[:, [0, 1, 3, 4, 5]], dropped.transform(holed))
    seen_now = holed[:1].copy()
    seen_now[0, 2] = 4.5
    assert kept.transform(seen_now)[0, 2] == 4.5  # what is observed is never replaced

    nothing = np.full((4, 3), np.nan)
    empty = LowRankImputer().fit(nothing)
    assert empty.transform(nothing).shape == (4, 0)
    assert empty.n_iter_ == 0
    assert (LowRankImputer(keep_empty_features=True).fit_transform(nothing) == 0).all()


@pytest.mark.filterwarnings(*TINY)
def test_constant_and_complete_data():
    X, gone = low_rank(m=6)
    X[:, 4] = 1e6 + 0.1
    gone[:, 4] &= np.arange(len(X)) % 2 == 0
    filled = LowRankImputer(rank=2, random_state=0).fit_transform(gapped(X, gone))
    np.testing.assert_allclose(filled[:, 4], 1e6 + 0.1, rtol=1e-9)
    complete = LowRankImputer(rank=2, random_state=0).fit(X)
    np.testing.assert_array_equal(complete.transform(X), X)
    one = np.array([[1.0, np.nan, 3.0]])
    np.testing.assert_allclose(LowRankImputer(random_state=0).fit_transform(one), [[1.0, 3.0]])


def test_another_marker_for_missing():
    X, gone = low_rank()
    a = LowRankImputer(random_state=0).fit_transform(gapped(X, gone))
    b = LowRankImputer(random_state=0, missing_values=-999).fit_transform(np.where(gone, -999, X))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="NaN"):
        LowRankImputer(missing_values=-999).fit(gapped(X, gone))


def test_indicator_columns():
    X, gone = low_rank(m=5)
    gone[:, 1] = False
    out = LowRankImputer(rank=2, lam=0.05, add_indicator=True, random_state=0).fit(gapped(X, gone))
    filled = out.transform(gapped(X, gone))
    np.testing.assert_array_equal(filled[:, 5:], gone[:, [0, 2, 3, 4]])
    names = out.get_feature_names_out(list("abcde"))
    assert list(names) == [*"abcde", *(f"missingindicator_{c}" for c in "acde")]


# ------------------------------------------------------------------------------------------ scikit-learn


def test_in_a_pipeline_and_a_column_transformer():
    X, gone = low_rank(noise=0.2)
    y = (X / X.std(axis=0)) @ np.arange(X.shape[1])
    holed = gapped(X, gone)

    def score(imputer):
        return cross_val_score(make_pipeline(imputer, StandardScaler(), Ridge()), holed, y).mean()

    assert score(LowRankImputer(random_state=0)) > score(SimpleImputer()) + 0.05
    columns = ColumnTransformer(
        [
            ("low", LowRankImputer(rank=2, lam=0.05, random_state=0), slice(0, 8)),
            ("rest", SimpleImputer(), [9]),
        ]
    )
    filled = columns.fit_transform(holed)
    assert filled.shape == (len(X), 9)
    assert not np.isnan(filled).any()
    assert columns.get_feature_names_out()[0] == "low__x0"


def test_data_frames():
    pd = pytest.importorskip("pandas", reason="data frames need pandas")
    X, gone = low_rank(m=5)
    frame = pd.DataFrame(gapped(X, gone), columns=list("abcde"), index=np.arange(len(X)) + 100)
    imputer = LowRankImputer(rank=2, lam=0.05, random_state=0).set_output(transform="pandas")
    filled = imputer.fit_transform(frame)
    assert list(filled.columns) == list("abcde")
    assert list(filled.index) == list(frame.index)
    assert list(imputer.feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(frame.rename(columns={"a": "z"}))
    nullable = frame.convert_dtypes()
    assert nullable.isna().to_numpy().any()
    again = LowRankImputer(rank=2, lam=0.05, random_state=0, missing_values=pd.NA).fit_transform(nullable)
    np.testing.assert_array_equal(again, filled.to_numpy())


def test_clone_and_pickle():
    X, gone = low_rank()
    imputer = LowRankImputer(rank=3, random_state=1).fit(gapped(X, gone))
    again = pickle.loads(pickle.dumps(imputer))
    np.testing.assert_array_equal(again.transform(gapped(X, gone)), imputer.transform(gapped(X, gone)))
    assert clone(imputer).get_params() == imputer.get_params()
    with pytest.raises(NotFittedError):
        clone(imputer).transform(X)
    with pytest.raises(NotFittedError):
        clone(imputer).get_feature_names_out()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rank": 0}, ValueError, r"`rank` must be >= 1; got 0"),
        ({"rank": "best"}, TypeError, r"`rank` must be an integer"),
        ({"rank": 2.0}, TypeError, r"`rank` must be an integer"),
        ({"lam": -1.0}, ValueError, r"`lam` must be finite, >= 0; got -1"),
        ({"shrink": -0.5}, ValueError, r"`shrink`"),
        ({"lam": "guess"}, TypeError, r"`lam`"),
        ({"lam_scaling": "rows"}, ValueError, r"`lam_scaling`"),
        ({"scale": 1}, TypeError, r"`scale` must be True or False"),
        ({"max_iter": 0}, ValueError, r"`max_iter` must be >= 1"),
        ({"tol": np.nan}, ValueError, r"`tol`"),
        ({"missing_values": "?"}, TypeError, r"`missing_values`"),
        ({"nonneg": True, "bias": True}, ValueError, r"`nonneg` and `bias`"),
        ({"random_state": "x"}, ValueError, r"seed"),
    ],
)
def test_bad_options(options, error, words):
    X, gone = low_rank()
    with pytest.raises(error, match=words):
        LowRankImputer(**options).fit(gapped(X, gone))


def test_bad_data():
    with pytest.raises(ValueError, match="infinity"):
        LowRankImputer().fit([[1.0, np.inf], [2.0, 3.0]])
    with pytest.raises(ValueError, match="1D array"):
        LowRankImputer().fit([1.0, 2.0])


def test_says_when_it_did_not_converge():
    X, gone = low_rank(noise=0.1)
    with pytest.warns(ConvergenceWarning):
        LowRankImputer(rank=3, lam=1e-6, tol=1e-12, max_iter=2, random_state=0).fit(gapped(X, gone))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.simplefilter("ignore", RecoveryWarning)
        LowRankImputer(random_state=0).fit(gapped(X, gone))
