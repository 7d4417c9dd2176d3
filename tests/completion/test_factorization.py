"""`MatrixFactorization`: scikit-learn's contract, quality, updates, recommendations, files."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from aitken import ConvergenceWarning
from aitken.completion import MatrixFactorization, als_half_sweep

# What scikit-learn's own checks fit are tiny arrays, many without a low-rank structure.
TINY = "ignore::aitken.RecoveryWarning", "ignore::aitken.ConvergenceWarning"


@pytest.mark.filterwarnings(*TINY)
@parametrize_with_checks(
    [
        MatrixFactorization(),
        MatrixFactorization(n_factors=2, lam=5.0, lam_scaling="none", validation_fraction=0.2),
        MatrixFactorization(implicit=True),
        MatrixFactorization(nonneg=True, missing_values=0),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def ratings(n_users=150, n_items=60, rank=3, density=0.4, noise=0.1, seed=0):
    """Full matrix with levels of users and items, and the part of it that is known, zeros possible."""
    rng = np.random.default_rng(seed)
    full = rng.normal(0, 0.5, (n_users, 1)) + rng.normal(0, 0.5, (1, n_items)) + 3.5
    full = full + 0.6 * rng.standard_normal((n_users, rank)) @ rng.standard_normal((rank, n_items))
    seen = rng.random(full.shape) < density
    rows, cols = np.nonzero(seen)
    values = full[seen] + noise * rng.standard_normal(len(rows))
    return full, seen, sp.csr_array((values, (rows, cols)), shape=full.shape)


def clicks(n_users=120, n_items=80, groups=4, seed=0):
    """Counts: users and items fall into groups, and users click in their own group most of the time."""
    rng = np.random.default_rng(seed)
    same = (np.arange(n_users) % groups)[:, None] == (np.arange(n_items) % groups)[None, :]
    return sp.csr_array(rng.poisson(np.where(same, 0.6, 0.02)).astype(float)), same


@pytest.fixture(scope="module")
def explicit():
    full, seen, X = ratings()
    return full, seen, X, MatrixFactorization(n_factors=4, lam=0.02, random_state=0).fit(X)


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


# ------------------------------------------------------------------------------------------------ quality


def test_predicts_what_was_hidden(explicit):
    full, seen, X, model = explicit
    hidden = np.nonzero(~seen)
    error = rmse(model.predict(*hidden), full[hidden])
    assert error < 0.25 * full.std()
    assert error < 0.6 * rmse(full.mean(axis=1)[hidden[0]], full[hidden])
    test = sp.csr_array((full[hidden], hidden), shape=full.shape)
    assert model.score(test) == pytest.approx(-error)
    assert model.score(X) == pytest.approx(-model.rmse_train_, rel=1e-6)
    assert model.mean_ == pytest.approx(X.data.mean())
    assert model.user_bias_.shape == (150,)
    assert model.item_factors.shape == (60, 4)
    assert model.user_factors is model.user_factors_


def test_transform_solves_the_normal_equations(explicit):
    _, _, X, model = explicit
    row = X[[7]].tocsr()
    V = np.column_stack([model.item_factors_[row.indices], np.ones(row.nnz)])
    target = row.data - model.mean_ - model.item_bias_[row.indices]
    x = np.linalg.solve(V.T @ V + 0.02 * row.nnz * np.eye(5), V.T @ target)
    np.testing.assert_allclose(model.transform(row)[0], x[:4], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(model.recalculate_user(row), model.transform(row)[0])
    dense = np.full(X.shape[1], np.nan)
    dense[row.indices] = row.data
    np.testing.assert_array_equal(model.recalculate_user(dense), model.transform(row)[0])
    fitted = model.predict(dense[None])
    np.testing.assert_allclose(
        fitted[0], model.mean_ + model.item_bias_ + x[4] + model.item_factors_ @ x[:4], rtol=1e-6
    )


def test_users_of_the_fit_are_nearly_unchanged_by_transform(explicit):
    _, _, X, model = explicit
    tight = clone(model).set_params(tol=1e-9, max_iter=500).fit(X)
    np.testing.assert_allclose(tight.transform(X), tight.user_factors_, atol=1e-3)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok"])
def test_formats_agree(explicit, form):
    _, _, X, model = explicit
    np.testing.assert_array_equal(clone(model).fit(X.asformat(form)).item_factors_, model.item_factors_)


def test_stored_zeros_are_ratings_and_dense_zeros_too_unless_told():
    _, _, X = ratings(n_users=40, n_items=20, density=0.6)
    X.data = np.maximum(np.round(X.data), 1.0)
    X.data[::7] = 0.0
    dense = np.full(X.shape, np.nan)
    dense[X.nonzero()] = X[X.nonzero()]
    rows = np.repeat(np.arange(40), np.diff(X.indptr))
    dense[rows, X.indices] = X.data
    make = MatrixFactorization(n_factors=2, lam=0.1, random_state=0)
    a, b = clone(make).fit(X), clone(make).fit(dense)
    np.testing.assert_array_equal(a.item_factors_, b.item_factors_)
    assert a.interactions_.nnz == X.nnz
    without = X.copy()
    without.eliminate_zeros()
    c = clone(make).set_params(missing_values=0).fit(X.toarray())
    np.testing.assert_array_equal(c.item_factors_, clone(make).fit(without).item_factors_)
    assert not np.allclose(a.item_factors_, c.item_factors_)


def test_float32_stays_float32():
    _, _, X = ratings()
    model = MatrixFactorization(n_factors=4, lam=0.02, random_state=0).fit(X.astype(np.float32))
    assert model.user_factors_.dtype == np.float32
    assert model.predict([0, 1], [2, 3]).dtype == np.float32
    assert model.transform(X.astype(np.float32)[:5]).dtype == np.float32
    double = clone(model).fit(X)
    assert abs(model.rmse_train_ - double.rmse_train_) < 1e-2 * double.rmse_train_


def test_more_factors_than_users_or_items():
    _, _, X = ratings(n_users=12, n_items=7, density=0.9)
    model = MatrixFactorization(random_state=0).fit(X)
    assert model.n_factors_ <= 7
    assert model.transform(X).shape == (12, model.n_factors_)
    assert len(model.get_feature_names_out()) == model.n_factors_
    assert model.get_feature_names_out()[0] == "matrixfactorization0"


def test_nonnegative_factors():
    rng = np.random.default_rng(0)
    full = rng.random((60, 2)) @ rng.random((2, 30)) + 0.1
    seen = rng.random(full.shape) < 0.5
    X = sp.csr_array(np.where(seen, full, 0))
    model = MatrixFactorization(n_factors=3, lam=0.005, nonneg=True, max_iter=200, random_state=0).fit(X)
    assert model.user_bias_ is None
    assert model.mean_ == 0
    assert min(model.user_factors_.min(), model.item_factors_.min(), model.transform(X).min()) >= 0
    hidden = np.nonzero(~seen)
    assert rmse(model.predict(*hidden), full[hidden]) < 0.2 * full.std()


def test_early_stopping_keeps_the_best():
    _, _, X = ratings(noise=1.0, density=0.3)
    stopped = MatrixFactorization(
        6, lam=0.05, max_iter=100, tol=1e-9, validation_fraction=0.1, random_state=0
    )
    held = stopped.fit(X).history_["rmse_holdout"]
    assert stopped.n_iter_ < 60
    assert stopped.rmse_validation_ <= 1.05 * np.nanmin(held)
    assert len(stopped.history_["rmse_train"]) >= stopped.n_iter_


def test_same_seed_same_answer_for_any_threads():
    _, _, X = ratings()
    fits = [MatrixFactorization(8, random_state=3, n_threads=t).fit(X).user_factors_ for t in (1, 2)]
    np.testing.assert_array_equal(*fits)


# ----------------------------------------------------------------------------------------------- implicit


def test_implicit_ranks_the_own_group_first():
    X, same = clicks()
    model = MatrixFactorization(n_factors=6, implicit=True, alpha=5.0, random_state=0).fit(X)
    assert model.user_bias_ is None
    items, _ = model.recommend(np.arange(120), 5)
    assert same[np.arange(120)[:, None], items].mean() > 0.9
    later, _ = clicks(seed=1)
    assert model.score(later) > 0.7
    assert 0.4 < MatrixFactorization(6, implicit=True, random_state=0).fit(X[::-1]).score(later) < 0.75


def test_implicit_rows_solve_their_normal_equations():
    X, _ = clicks()
    model = MatrixFactorization(
        n_factors=5, implicit=True, alpha=3.0, lam=0.5, lam_scaling="none", random_state=0
    ).fit(X)
    V, row = model.item_factors_, X[[4]].toarray()[0]
    weight = 1 + 3.0 * row
    x = np.linalg.solve(V.T @ (weight[:, None] * V) + 0.5 * np.eye(5), V.T @ (weight * (row > 0)))
    np.testing.assert_allclose(model.transform(X[[4]])[0], x, rtol=1e-6, atol=1e-10)


def test_percentile_rank_by_hand():
    model = MatrixFactorization(n_factors=1, implicit=True, random_state=0)
    model.fit(sp.csr_array(np.array([[1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 1.0]])))
    model.user_factors_ = np.array([[1.0], [1.0]])
    model.item_factors_ = np.array([[9.0], [4.0], [3.0], [2.0], [1.0]])
    X = sp.csr_array(([1.0, 3.0], ([0, 0], [1, 4])), shape=(2, 5))
    # Of the items 1 to 4 that user 0 had not: rank 0 with count 1 and rank 1 with count 3.
    assert model.score(X) == pytest.approx(1 - 3 / 4)


# -------------------------------------------------------------------------------------------- recommend


def test_recommend_filters_seen_and_sorts(explicit):
    _, _, X, model = explicit
    items, scores = model.recommend(np.arange(20), 8)
    known = X.toarray() != 0
    assert not known[np.arange(20)[:, None], items].any()
    assert (np.diff(scores, axis=1) <= 0).all()
    for user in (0, 11):
        all_scores = model.predict(np.full(60, user), np.arange(60))
        all_scores[known[user]] = -np.inf
        np.testing.assert_array_equal(items[user], np.argsort(-all_scores, kind="stable")[:8])
        np.testing.assert_allclose(scores[user], np.sort(all_scores)[::-1][:8])
    one, one_score = model.recommend(11, 8)
    np.testing.assert_array_equal(one, items[11])
    np.testing.assert_allclose(one_score, scores[11])
    everything, _ = model.recommend(11, 60, filter_seen=False)
    assert sorted(everything) == list(range(60))


def test_recommend_among_some_items_and_when_few_remain(explicit):
    _, _, X, model = explicit
    known = X.toarray() != 0
    among = np.array([50, 3, 17, 40, 3])
    items, scores = model.recommend([5, 6], 10, items=among)
    for row, user in enumerate((5, 6)):
        left = [i for i in np.unique(among) if not known[user, i]]
        found = items[row][items[row] >= 0]
        assert sorted(found) == left
        assert (items[row][len(left) :] == -1).all()
        assert np.isneginf(scores[row][len(left) :]).all()
        np.testing.assert_allclose(scores[row][: len(left)], model.predict([user] * len(left), found))


def test_recommend_to_users_given_by_their_ratings(explicit):
    _, _, X, model = explicit
    rows = X[[3, 30]]
    items, scores = model.recommend(rows, 4)
    assert items.shape == (2, 4)
    assert not (rows.toarray()[[[0], [1]], items] != 0).any()
    dense = np.where(rows.toarray() != 0, rows.toarray(), np.nan)
    np.testing.assert_allclose(scores[0], model.predict(dense)[0, items[0]])


def test_similar_items(explicit):
    *_, model = explicit
    items, scores = model.similar_items(4, 6)
    unit = model.item_factors_ / np.linalg.norm(model.item_factors_, axis=1, keepdims=True)
    cosine = unit @ unit[4]
    cosine[4] = -np.inf
    np.testing.assert_array_equal(items, np.argsort(-cosine)[:6])
    np.testing.assert_allclose(scores, np.sort(cosine)[::-1][:6])
    assert model.similar_items([1, 2], 3)[0].shape == (2, 3)


# ------------------------------------------------------------------------------------------- partial_fit


def pieces(X, users, items, seed=0):
    """Some entries of `X` in the given users and items, as a matrix of the same shape."""
    rng = np.random.default_rng(seed)
    block = sp.lil_array(X.shape)
    for u in users:
        for i in items:
            block[u, i] = rng.uniform(1, 5)
    return block.tocsr()


@pytest.mark.parametrize("implicit", [False, True])
def test_partial_fit_is_exact_half_sweeps_of_what_changed(implicit):
    X = clicks()[0] if implicit else ratings(120, 80)[2]
    model = MatrixFactorization(n_factors=4, lam=0.05, implicit=implicit, random_state=0).fit(X)
    names = ("user_factors_", "item_factors_", "user_bias_", "item_bias_")
    users, items, user_bias, item_bias = (
        None if getattr(model, name) is None else getattr(model, name).copy() for name in names
    )
    some_users, some_items = [5, 60], [7, 33, 41]
    new = pieces(X, some_users, some_items)
    model.partial_fit(new)

    merged = X.tolil()
    merged[np.ix_(some_users, some_items)] = new.toarray()[np.ix_(some_users, some_items)]
    merged = merged.tocsr()
    np.testing.assert_array_equal(model.interactions_.toarray(), merged.toarray())
    others = np.setdiff1d(np.arange(120), some_users)
    np.testing.assert_array_equal(model.user_factors_[others], users[others])
    others = np.setdiff1d(np.arange(80), some_items)
    np.testing.assert_array_equal(model.item_factors_[others], items[others])

    def half_sweep(rows, factors, bias):
        options = {"lam": 0.05, "lam_scaling": "degree", "implicit": implicit, "mu": model.mean_}
        found = als_half_sweep(rows, factors, col_bias=bias, bias=not implicit, **options)
        return (found, None) if implicit else found

    # Users by the items as they were, items by all users, users by all items.
    by_users, by_items = merged[some_users], merged[:, some_items].T.tocsr()
    users[some_users], level = half_sweep(by_users, items, item_bias)
    if not implicit:
        user_bias[some_users] = level
    items[some_items], level = half_sweep(by_items, users, user_bias)
    if not implicit:
        item_bias[some_items] = level
    users[some_users], level = half_sweep(by_users, items, item_bias)
    np.testing.assert_allclose(model.item_factors_, items, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(model.user_factors_, users, rtol=1e-10, atol=1e-13)
    if not implicit:
        np.testing.assert_allclose(model.user_bias_[some_users], level, rtol=1e-10)
        np.testing.assert_allclose(model.item_bias_, item_bias, rtol=1e-10)


def test_partial_fit_takes_new_users_and_items():
    full, seen, X = ratings(160, 70, noise=0.05)
    model = MatrixFactorization(n_factors=3, lam=0.02, random_state=0).fit(X[:150, :60])
    rows, cols = np.nonzero(seen)
    fresh = (rows >= 150) | (cols >= 60)
    new = sp.csr_array((full[rows, cols][fresh], (rows[fresh], cols[fresh])), shape=X.shape)
    old_users = model.user_factors_
    kept = old_users.copy()
    model.partial_fit(new)
    np.testing.assert_array_equal(old_users, kept)  # arrays handed out before do not change
    assert (model.n_users_, model.n_items_, model.n_features_in_) == (160, 70, 70)
    assert model.interactions_.nnz == X.nnz
    hidden = np.nonzero(~seen & ((np.arange(160) >= 150)[:, None] | (np.arange(70) >= 60)[None, :]))
    error = rmse(model.predict(*hidden), full[hidden])
    assert error < 0.45 * full.std()
    with pytest.raises(ValueError, match="X has 60 features"):
        model.partial_fit(X[:, :60])
    with pytest.raises(ValueError, match=r"at least 160 rows"):
        model.partial_fit(X[:150])
    assert model.n_features_in_ == 70


def test_partial_fit_without_fit_and_without_entries():
    _, _, X = ratings()
    a = MatrixFactorization(4, random_state=0).partial_fit(X)
    np.testing.assert_array_equal(
        a.user_factors_, MatrixFactorization(4, random_state=0).fit(X).user_factors_
    )
    before = a.user_factors_.copy()
    a.partial_fit(sp.csr_array(X.shape))
    np.testing.assert_array_equal(a.user_factors_, before)


# ----------------------------------------------------------------------------------------- names, files


def test_spark_words():
    model = MatrixFactorization.from_spark_params(rank=7, regParam=0.05, maxIter=4, random_state=0)
    assert (model.n_factors, model.lam, model.lam_scaling, model.max_iter) == (7, 0.05, "degree", 4)
    assert (model.bias, model.center, model.implicit, model.nonneg) == (False, False, False, False)
    _, _, X = ratings()
    with pytest.warns(ConvergenceWarning):  # four iterations do not meet a tolerance of 0
        model.fit(X)
    assert model.mean_ == 0
    assert model.n_iter_ == 4
    implicit = MatrixFactorization.from_spark_params(implicitPrefs=True, alpha=40.0)
    assert (implicit.implicit, implicit.alpha) == (True, 40.0)


@pytest.mark.parametrize("implicit", [False, True])
def test_save_and_load(tmp_path, implicit):
    X = clicks()[0] if implicit else ratings()[2]
    model = MatrixFactorization(5, implicit=implicit, random_state=0).fit(X)
    path = tmp_path / "model.bin"
    model.save(path)
    assert os.listdir(tmp_path) == ["model.bin"]
    again = MatrixFactorization.load(path)
    for key, value in model.get_params().items():
        assert again.get_params()[key] == value or value != value
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    for a, b in zip(again.recommend([1, 2]), model.recommend([1, 2]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.score(X) == model.score(X)
    new = pieces(X, [3], [4, 5])
    np.testing.assert_array_equal(again.partial_fit(new).user_factors_, model.partial_fit(new).user_factors_)
    model.save(path, interactions=False)
    bare = MatrixFactorization.load(path)
    assert bare.recommend(3, filter_seen=False)[0].shape == (10,)
    with pytest.raises(ValueError, match="without them"):
        bare.recommend(3)
    with pytest.raises(ValueError, match="without them"):
        bare.partial_fit(new)


def test_load_refuses_other_files(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="`path`"):
        MatrixFactorization.load(path)
    with pytest.raises(FileNotFoundError):
        MatrixFactorization.load(tmp_path / "absent")
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="`path`"):
        MatrixFactorization.load(path)
    MatrixFactorization(2, random_state=0).fit(ratings(30, 20)[2]).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "item_factors": arrays["item_factors"][:, :1]})
    with pytest.raises(ValueError, match="shape"):
        MatrixFactorization.load(path)
    np.savez(path, **{**arrays, "user_factors": np.full_like(arrays["user_factors"], np.nan)})
    with pytest.raises(ValueError, match="NaN"):
        MatrixFactorization.load(path)
    head = {**json.loads(bytes(arrays["head"]).decode()), "format": 99}
    np.savez(path, **{**arrays, "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)})
    with pytest.raises(ValueError, match="format 99"):
        MatrixFactorization.load(path)


def test_pickle_and_pipeline(explicit):
    _, _, X, model = explicit
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    y = model.user_factors_ @ np.arange(4.0)
    assert make_pipeline(clone(model), Ridge(alpha=1e-3)).fit(X, y).score(X, y) > 0.99


def test_feature_names_grow_with_the_data():
    pd = pytest.importorskip("pandas", reason="data frames need pandas")
    _, _, X = ratings(30, 8, density=0.8)
    frame = pd.DataFrame(np.where(X.toarray() != 0, X.toarray(), np.nan), columns=list("abcdefgh"))
    model = MatrixFactorization(2, random_state=0).fit(frame[list("abcdef")])
    assert list(model.feature_names_in_) == list("abcdef")
    with pytest.raises(ValueError, match="names of the columns"):
        model.partial_fit(frame[list("bacdefg")])
    assert (list(model.feature_names_in_), model.n_features_in_) == (list("abcdef"), 6)
    model.partial_fit(frame)
    assert list(model.feature_names_in_) == list("abcdefgh")
    assert model.transform(frame).shape == (30, 2)


# --------------------------------------------------------------------------------------------- bad input


def test_not_fitted(tmp_path):
    model = MatrixFactorization()
    _, _, X = ratings(20, 10)
    calls = [
        lambda: model.transform(X),
        lambda: model.predict([0], [0]),
        lambda: model.score(X),
        lambda: model.recommend(0),
        lambda: model.similar_items(0),
        lambda: model.recalculate_user(X[[0]]),
        lambda: model.save(tmp_path / "x"),
        lambda: model.user_factors,
        lambda: model.get_feature_names_out(),
    ]
    for call in calls:
        with pytest.raises(NotFittedError):
            call()
    assert not hasattr(model, "n_features_in_")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_factors": 0}, ValueError, r"`n_factors` must be >= 1; got 0"),
        ({"n_factors": 2.5}, TypeError, r"`n_factors`"),
        ({"lam": -0.1}, ValueError, r"`lam`.*-0.1"),
        ({"lam_scaling": "user"}, ValueError, r"`lam_scaling`"),
        ({"bias": "yes"}, ValueError, r"`bias`"),
        ({"implicit": 1}, TypeError, r"`implicit`"),
        ({"implicit": True, "bias": True}, ValueError, r"`bias` and `implicit`"),
        ({"nonneg": True, "bias": True}, ValueError, r"`bias` and `nonneg`"),
        ({"alpha": 0.0}, ValueError, r"`alpha`"),
        ({"max_iter": 0}, ValueError, r"`max_iter`"),
        ({"tol": -1.0}, ValueError, r"`tol`"),
        ({"inner": "qr"}, ValueError, r"`inner`"),
        ({"validation_fraction": 1.0}, ValueError, r"`validation_fraction`"),
        ({"validation_fraction": 0.1, "implicit": True}, ValueError, r"`validation_fraction`"),
        ({"duplicates": "sum"}, ValueError, r"`duplicates`"),
        ({"n_threads": 1.5}, TypeError, r"`n_threads`"),
    ],
)
def test_bad_options(options, error, words):
    _, _, X = ratings(20, 10)
    X.data = np.abs(X.data)
    with pytest.raises(error, match=words):
        MatrixFactorization(**{"n_factors": 2, **options}).fit(X)


def test_bad_entries(explicit):
    _, _, X, model = explicit
    twice = sp.coo_array(([1.0, 2.0, 3.0], ([0, 0, 1], [1, 1, 0])), shape=(3, 3))
    with pytest.raises(ValueError, match=r"\(0, 1\) more than once"):
        MatrixFactorization(1).fit(twice)
    assert MatrixFactorization(1, duplicates="last", random_state=0).fit(twice).interactions_[0, 1] == 2.0
    bad = X.copy()
    bad.data[3] = np.nan
    with pytest.raises(ValueError, match=r"`X` has a non-finite value"):
        MatrixFactorization(2).fit(bad)
    with pytest.raises(ValueError, match="no observed entry"):
        MatrixFactorization(2).fit(sp.csr_array((5, 4)))
    with pytest.raises(ValueError, match="Negative values"):
        MatrixFactorization(2, implicit=True).fit(sp.csr_array(-np.eye(4)))
    with pytest.raises(ValueError, match="no observed entry"):
        model.score(sp.csr_array(X.shape))
    with pytest.raises(ValueError, match="150 are needed"):
        model.score(X[:10])
    with pytest.raises(ValueError, match="X has 59 features"):
        model.transform(X[:, :59])


def test_bad_numbers(explicit):
    _, _, X, model = explicit
    with pytest.raises(ValueError, match="`rows` has the index 150 at position 0; 0 to 149 is allowed"):
        model.predict([150], [0])
    with pytest.raises(ValueError, match="`cols` has the index -1 at position 0"):
        model.predict([0], [-1])
    with pytest.raises(TypeError, match=r"`rows` must be integers"):
        model.predict([0.5], [0])
    with pytest.raises(ValueError, match="must agree"):
        model.predict([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match="sparse"):
        model.predict(X)
    with pytest.raises(ValueError, match=r"`users`"):
        model.recommend([1000])
    with pytest.raises(ValueError, match=r"`n_items`"):
        model.recommend(0, 0)
    with pytest.raises(ValueError, match=r"`items` is empty"):
        model.recommend(0, items=[])
    with pytest.raises(ValueError, match="59 columns"):
        model.recommend(X[:2, :59])
    with pytest.raises(ValueError, match=r"`item`"):
        model.similar_items(60)
    with pytest.raises(ValueError, match="one row"):
        model.recalculate_user(X[:2])
    assert model.predict([], []).shape == (0,)
