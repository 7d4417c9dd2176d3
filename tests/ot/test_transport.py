"""`SinkhornTransport`: scikit-learn's contract, the barycentric map, new samples, labels, unbalanced maps."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimator needs scikit-learn")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from aitken import ConvergenceWarning, ot
from aitken.ot import SinkhornTransport


@parametrize_with_checks(
    [
        SinkhornTransport(),
        SinkhornTransport(0.2, metric="cityblock", scale="max"),
        SinkhornTransport(0.5, metric="euclidean", unbalanced=1.0),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def clouds(n=40, m=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)), rng.standard_normal((m, 2)) @ [[1.0, 0.4], [0.0, 0.7]] + [4.0, -2.0]


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_samples_of_the_fit_go_where_the_plan_sends_them(metric, weighted):
    X, Y = clouds()
    rng = np.random.default_rng(1)
    a = rng.random(40) + 0.1 if weighted else np.ones(40)
    b = rng.random(30) + 0.1 if weighted else np.ones(30)
    weights = {"source_weight": a, "target_weight": b} if weighted else {}
    model = SinkhornTransport(0.1, metric=metric, tol=1e-11).fit(X, Xt=Y, **weights)
    M = ot.dist(X, Y, metric)
    a, b = a / a.sum(), b / b.sum()
    assert model.scale_ == pytest.approx(a @ M @ b, rel=1e-12)
    plan = ot.sinkhorn(a, b, M, 0.1 * model.scale_, tol=1e-12).plan
    np.testing.assert_allclose(model.transform(X), plan @ Y / plan.sum(1)[:, None], atol=1e-8)
    np.testing.assert_allclose(model.inverse_transform(Y), plan.T @ X / plan.sum(0)[:, None], atol=1e-8)


def test_new_samples_follow_the_formula():
    X, Y = clouds()
    new = clouds(7, seed=5)[0]
    model = SinkhornTransport(0.1).fit(X, Xt=Y)
    g = model.potentials_[1]
    logits = (g - ot.dist(new, Y)) / model.reg_
    weights = np.exp(logits - logits.max(1, keepdims=True))
    expected = weights @ Y / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(model.transform(new), expected, atol=1e-12)
    np.testing.assert_allclose(model.transform(new[2:3]), model.transform(new)[2:3], rtol=1e-13)


def test_a_translation_is_found():
    X, _ = clouds(200)
    moved = SinkhornTransport(0.002).fit(X, Xt=X + [5.0, -3.0]).transform(X)
    assert np.abs(moved - (X + [5.0, -3.0])).mean() < 0.1


def test_blocks_do_not_matter(monkeypatch):
    X, Y = clouds()
    model = SinkhornTransport().fit(X, Xt=Y)
    expected = model.transform(X)
    monkeypatch.setattr("aitken.ot._transport._BLOCK", 70)  # two rows at a time
    np.testing.assert_allclose(model.transform(X), expected, rtol=1e-13)
    again = SinkhornTransport(scale="max").fit(X, Xt=Y)
    assert again.scale_ == ot.dist(X, Y).max()


def test_labels_keep_classes_together():
    rng = np.random.default_rng(0)
    y, yt = np.repeat([0, 1], 40), np.repeat([0, 1], 40)
    X = rng.normal(size=(80, 2)) + 6.0 * y[:, None]
    Y = rng.normal(size=(80, 2)) + 6.0 * (1 - yt)[:, None]  # the classes have changed places
    without = SinkhornTransport().fit(X, Xt=Y).transform(X)
    model = SinkhornTransport(label_penalty=10.0).fit(X, y, Y, yt)
    moved = model.transform(X, y)

    def nearest(points):
        return KNeighborsClassifier(1).fit(Y, yt).predict(points)

    assert (nearest(without) == y).mean() < 0.2
    assert (nearest(moved) == y).mean() == 1.0
    assert (KNeighborsClassifier(1).fit(X, y).predict(model.inverse_transform(Y, yt)) == yt).mean() == 1.0
    unknown = SinkhornTransport().fit(X, y, Y, np.full(80, -1))
    np.testing.assert_allclose(unknown.transform(X, y), without, atol=1e-6)


def test_outliers_are_left_behind():
    X, Y = clouds(60, 60)
    far = np.vstack([Y, [[25.0, 25.0]] * 6])
    inner = (X**2).sum(1).argsort()[:20]
    balanced = SinkhornTransport(0.5, scale=None).fit(X, Xt=far).transform(X)
    relaxed = SinkhornTransport(0.5, scale=None, unbalanced=(np.inf, 5.0)).fit(X, Xt=far).transform(X)
    assert balanced.max() > 24
    assert relaxed.max() < 10
    assert np.abs(relaxed[inner].mean(0) - Y.mean(0)).max() < 1.0


def test_without_a_target_samples_draw_together():
    X, _ = clouds()
    moved = SinkhornTransport(0.1).fit(X).transform(X)
    np.testing.assert_allclose(moved.mean(0), X.mean(0), atol=1e-7)
    assert moved.var() < X.var()
    assert SinkhornTransport(1e-3).fit(X).transform(X) == pytest.approx(X, abs=0.2)


def test_dtype_clone_and_pickle():
    X, Y = clouds()
    model = SinkhornTransport(0.2, unbalanced=None).fit(X, Xt=Y)
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    assert clone(model).get_params() == model.get_params()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.transform(X))


def test_no_convergence_is_said():
    X, Y = clouds()
    with pytest.warns(ConvergenceWarning):
        model = SinkhornTransport(1e-4, maxiter=1).fit(X, Xt=Y)
    assert not model.result_.success


@pytest.mark.parametrize(
    ("options", "fit", "error", "text"),
    [
        ({"reg": -1}, {}, ValueError, "`reg`"),
        ({"metric": "l2"}, {}, ValueError, "`metric`"),
        ({"scale": "median"}, {}, ValueError, "`scale`"),
        ({"unbalanced": -1.0}, {}, ValueError, "`unbalanced`"),
        ({"label_penalty": -1.0}, {}, ValueError, "`label_penalty`"),
        ({}, {"Xt": np.zeros((3, 4))}, ValueError, "`Xt` has 4 features; `X` has 2"),
        ({}, {"yt": [1, 2]}, ValueError, "`yt` is given but `Xt` is None"),
        ({}, {"target_weight": [1.0]}, ValueError, "`target_weight` is given but `Xt` is None"),
        ({}, {"source_weight": np.ones(3)}, ValueError, r"`source_weight` has shape \(3,\)"),
        ({}, {"source_weight": -np.ones(40)}, ValueError, "`source_weight` has a negative value"),
        ({}, {"source_weight": np.zeros(40)}, ValueError, "`source_weight` has no mass"),
        ({}, {"y": np.ones(40), "Xt": clouds()[1], "yt": [1]}, ValueError, r"`yt` has shape \(1,\)"),
    ],
)
def test_bad_input(options, fit, error, text):
    with pytest.raises(error, match=text):
        SinkhornTransport(**options).fit(clouds()[0], **fit)


def test_bad_transforms():
    X, Y = clouds()
    with pytest.raises(NotFittedError):
        SinkhornTransport().transform(X)
    model = SinkhornTransport().fit(X, Xt=Y)
    with pytest.raises(ValueError, match="`y` is given, but `fit` was not given labels"):
        model.transform(X, np.zeros(40))


def test_pipeline_and_search_on_digits():
    """Digits seen by a worse camera are moved to clean ones; a classifier then works on both."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:600] / 16.0, y[:600]
    rng = np.random.default_rng(0)
    clean, labels = X[:300], y[:300]
    drifted = 0.4 * X[300:] + 0.5 + 0.02 * rng.standard_normal((300, 64))
    clean_model = KNeighborsClassifier(1).fit(clean, labels)
    before = clean_model.score(drifted, y[300:])
    after = clean_model.score(SinkhornTransport(0.01).fit(drifted, Xt=clean).transform(drifted), y[300:])
    assert after > before + 0.1, (before, after)

    search = GridSearchCV(
        make_pipeline(SinkhornTransport(), KNeighborsClassifier(1)),
        {"sinkhorntransport__reg": [0.02, 5.0]},
        cv=2,
        error_score="raise",
    ).fit(drifted, y[300:], sinkhorntransport__Xt=clean)
    assert search.best_score_ > 0.8
    assert search.best_estimator_[0].result_.success


@pytest.mark.parametrize("far", [1e4, 1e10, 1e150])
def test_far_points_stay_in_the_hull_of_the_target(far):
    rng = np.random.default_rng(9)
    X, Y = rng.standard_normal((30, 2)), rng.standard_normal((25, 2)) + 2.0
    moved = ot.SinkhornTransport(reg=0.01).fit(X, Xt=Y).transform([[far, 0.0], [0.0, -far]])
    assert (moved >= Y.min(axis=0) - 1e-12).all()
    assert (moved <= Y.max(axis=0) + 1e-12).all()
