"""`OTDistance` and `OTKernel`: scikit-learn's contract, distances checked one by one, pipelines on digits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from aitken import ot
from aitken.ot import OTDistance, OTKernel


@parametrize_with_checks(
    [
        OTDistance(),
        OTDistance(0.05, metric="cityblock", value="regularized", divergence=True),
        OTKernel(),
        OTKernel(gamma=0.1, divergence=False),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def histograms(n=8, m=12, seed=0):
    return np.random.default_rng(seed).random((n, m)) + 0.05


def one_by_one(A, B, M, reg, field="value_linear", divergence=False):
    A, B = (H / H.sum(axis=1, keepdims=True) for H in (A, B))

    def value(a, b):
        return getattr(ot.sinkhorn(a, b, M, reg, tol=1e-10, return_plan=False), field)

    out = np.array([[value(a, b) for b in B] for a in A])
    if divergence:
        out -= 0.5 * np.array([[value(a, a)] for a in A]) + 0.5 * np.array([value(b, b) for b in B])
    return out


@pytest.mark.parametrize("value", ["linear", "regularized"])
@pytest.mark.parametrize("divergence", [False, True])
def test_distances_are_those_of_sinkhorn(value, divergence):
    A, B = histograms(), histograms(5, seed=1)
    M = ot.dist(np.arange(12.0)[:, None])
    model = OTDistance(0.02, value=value, divergence=divergence, tol=1e-9).fit(A)
    field = {"linear": "value_linear", "regularized": "value"}[value]
    expected = one_by_one(B, A, M, 0.02 * M.max(), field, divergence)
    found = model.transform(B)
    assert found.shape == (5, 8)
    np.testing.assert_allclose(found, expected, atol=1e-7 * M.max())
    np.testing.assert_allclose(model.fit_transform(A), model.transform(A), atol=1e-7 * M.max())
    np.testing.assert_array_equal(model.M_, M)
    assert model.reg_ == 0.02 * M.max()


def test_grid_and_given_cost_agree():
    X = histograms()
    cells = np.stack(np.meshgrid(np.arange(3), np.arange(4), indexing="ij"), axis=-1).reshape(12, 2)
    M = ot.dist(cells.astype(float), metric="euclidean")
    on_grid = OTDistance(grid=(3, 4), metric="euclidean").fit_transform(X)
    given = OTDistance(M=M).fit_transform(X)
    np.testing.assert_array_equal(on_grid, given)
    assert not np.allclose(on_grid, OTDistance().fit_transform(X))


def test_a_cost_without_symmetry():
    X, M = histograms(5), np.random.default_rng(2).random((12, 12))
    found = OTDistance(M=M, tol=1e-9).fit_transform(X)
    np.testing.assert_allclose(found, one_by_one(X, X, M, 0.01 * M.max()), atol=1e-7)


def test_scale_of_a_histogram_does_not_matter_and_nothing_counts_as_uniform():
    X = histograms()
    model = OTDistance().fit(X)
    np.testing.assert_allclose(model.transform(3 * X), model.transform(X), atol=1e-6)
    np.testing.assert_allclose(model.transform(np.zeros((1, 12))), model.transform(np.ones((1, 12))))


def test_kernel_of_equal_histograms_is_one():
    X = histograms()
    K = OTKernel(tol=1e-9).fit_transform(X)
    np.testing.assert_allclose(np.diag(K), 1.0, atol=1e-6)
    np.testing.assert_allclose(K, K.T, atol=1e-6)
    assert (K > 0).all()
    assert (K <= 1).all()
    apart = K[~np.eye(8, dtype=bool)]
    assert np.median(-np.log(apart)) == pytest.approx(1.0, rel=1e-6)  # what gamma="median" means


def test_gamma_of_many_histograms():
    X = histograms(230)
    model = OTKernel(0.01 + 0.0, divergence=False, value="linear").fit(X)
    assert model.gamma_ == 0.01
    median = OTKernel(divergence=False, value="linear").fit(X)
    D = OTDistance().fit_transform(X)
    assert 1 / median.gamma_ == pytest.approx(np.median(D[~np.eye(230, dtype=bool)]), rel=0.05)
    assert median.fit_transform(X) == pytest.approx(np.exp(-median.gamma_ * D), rel=1e-4)


def test_clone_pickle_and_names():
    model = OTDistance(0.03, grid=(3, 4)).fit(histograms())
    assert clone(model).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(histograms(2)), model.transform(histograms(2)))
    assert list(model.get_feature_names_out()) == [f"otdistance{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"reg": 0}, ValueError, "`reg` must be finite, > 0"),
        ({"value": "x"}, ValueError, "`value`"),
        ({"tol": -1.0}, ValueError, "`tol`"),
        ({"divergence": "yes"}, TypeError, "`divergence`"),
        ({"n_threads": -3}, ValueError, "`n_threads`"),
        ({"grid": (3, 5)}, ValueError, r"`grid` is \(3, 5\), 15 cells; `X` has 12 features"),
        ({"grid": (3, -4)}, ValueError, "`grid` must be >= 1"),
        ({"grid": 16}, TypeError, "`grid` must be a tuple of integers; got 16"),
        ({"metric": "cosine"}, ValueError, "`metric` must be one of"),
        ({"M": np.zeros((12, 11))}, ValueError, r"`M` has shape \(12, 11\)"),
        ({"M": -np.ones((12, 12))}, ValueError, "`M` has a negative value"),
    ],
)
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text):
        OTDistance(**options).fit(histograms())


@pytest.mark.parametrize(("gamma", "error"), [("mean", ValueError), (-1.0, ValueError), (None, TypeError)])
def test_bad_gamma(gamma, error):
    with pytest.raises(error, match="`gamma`"):
        OTKernel(gamma).fit(histograms())


def test_bad_data():
    with pytest.raises(NotFittedError):
        OTDistance().transform(histograms())
    with pytest.raises(ValueError, match="Negative values"):
        OTDistance().fit(-histograms())
    with pytest.raises(ValueError, match="features"):
        OTDistance().fit(histograms()).transform(histograms(2, 11))


# ------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits():
    """Digits in light so dim that 40 photons make an image: pixels of two images hardly ever agree."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(X))[:240]
    images = np.zeros((240, 16, 16))
    for image, bright in zip(images, X[chosen], strict=True):
        i, j = np.unravel_index(rng.choice(64, 40, p=bright / bright.sum()), (8, 8))
        np.add.at(image, (2 * i + rng.integers(0, 2, 40), 2 * j + rng.integers(0, 2, 40)), 1.0)
    images = images.reshape(240, 256)
    return images[:120], y[chosen[:120]], images[120:], y[chosen[120:]]


def test_nearest_neighbours_on_digits(digits):
    """Better than neighbours by Euclidean distance, by a margin."""
    X, y, test, labels = digits
    model = make_pipeline(OTDistance(0.02, grid=(16, 16)), KNeighborsClassifier(1, metric="precomputed"))
    accuracy = model.fit(X, y).score(test, labels)
    euclidean = KNeighborsClassifier(1).fit(X, y).score(test, labels)
    assert accuracy > euclidean + 0.1, (accuracy, euclidean)


def test_support_vectors_on_digits(digits):
    X, y, test, labels = digits
    model = make_pipeline(OTKernel(grid=(16, 16)), SVC(kernel="precomputed", C=10.0))
    accuracy = model.fit(X, y).score(test, labels)
    euclidean = SVC(C=10.0).fit(X, y).score(test, labels)
    assert accuracy > euclidean + 0.1, (accuracy, euclidean)


def test_grid_search_on_digits(digits):
    X, y, test, labels = digits
    search = GridSearchCV(
        make_pipeline(OTDistance(grid=(16, 16)), KNeighborsClassifier(3, metric="precomputed")),
        {"otdistance__reg": [0.02, 10.0], "kneighborsclassifier__n_neighbors": [1, 3]},
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_["otdistance__reg"] == 0.02  # 10 blurs everything
    assert search.score(test, labels) > 0.4
