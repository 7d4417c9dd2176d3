"""`aitken.ot.dist` against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from aitken import ot

METRICS = {
    "sqeuclidean": lambda d, x, y: (d * d).sum(),
    "euclidean": lambda d, x, y: np.sqrt((d * d).sum()),
    "cityblock": lambda d, x, y: np.abs(d).sum(),
    "cosine": lambda d, x, y: 1 - x @ y / np.sqrt((x @ x) * (y @ y)),
}


def points(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (17, 33, 1), (8, 9, 20)])
def test_definition(metric, shape):
    n, m, d = shape
    X, Y = points(n, d), points(m, d, 1)
    expected = [[METRICS[metric](x - y, x, y) for y in Y] for x in X]
    np.testing.assert_allclose(ot.dist(X, Y, metric), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_one_set(metric):
    X = points(12, 3)
    D = ot.dist(X, metric=metric)
    np.testing.assert_array_equal(D, ot.dist(X, X.copy(), metric))
    np.testing.assert_allclose(D, D.T, rtol=0, atol=1e-15)
    if metric != "cosine":
        assert (np.diag(D) == 0).all()


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_no_cancellation_far_from_the_origin(metric):
    """Inner products would lose every digit here."""
    X = points(6, 2)
    np.testing.assert_allclose(ot.dist(X + 1e8, metric=metric), ot.dist(X, metric=metric), atol=1e-6)
    near = ot.dist(X + 1e8, X + 1e8, metric)
    assert (near >= 0).all()
    assert (np.diag(near) == 0).all()


def test_default_is_squared_euclidean():
    X, Y = points(4, 3), points(5, 3, 1)
    np.testing.assert_array_equal(ot.dist(X, Y), ot.dist(X, Y, "sqeuclidean"))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("f4", "f4", "f4"),
        ("f4", "f8", "f8"),
        ("f8", "f8", "f8"),
        ("i4", "f4", "f8"),
        ("i4", "u1", "f8"),
        ("f2", "f4", "f4"),
        (">f4", "f4", "f4"),
    ],
)
def test_dtype(first, second, expected):
    X, Y = np.rint(5 + points(4, 3)).astype(first), np.rint(5 + points(5, 3, 1)).astype(second)
    D = ot.dist(X, Y)
    assert D.dtype == np.dtype(expected)
    np.testing.assert_array_equal(D, ot.dist(X.astype(float), Y.astype(float)))


def test_layouts():
    X, Y = points(8, 6), points(7, 6, 1)
    expected = ot.dist(X[::2, ::2], Y[:, ::2])
    np.testing.assert_array_equal(ot.dist(np.asfortranarray(X[::2, ::2]), Y[:, ::2].copy()), expected)
    np.testing.assert_array_equal(ot.dist(X[::2, ::2].tolist(), Y[:, ::2].tolist()), expected)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_out(dtype, order):
    X, Y = points(4, 3).astype(dtype), points(5, 3, 1).astype(dtype)
    out = np.full((4, 5), np.nan, dtype=dtype, order=order)
    assert ot.dist(X, Y, out=out) is out
    np.testing.assert_array_equal(out, ot.dist(X, Y))
    wide = np.full((8, 10), np.nan, dtype=dtype)
    ot.dist(X, Y, out=wide[::2, ::2])
    np.testing.assert_array_equal(wide[::2, ::2], out)


def test_out_must_fit():
    X, Y = points(4, 3), points(5, 3, 1)
    with pytest.raises(ValueError, match=r"`out` has shape \(5, 4\); \(4, 5\) is needed"):
        ot.dist(X, Y, out=np.empty((5, 4)))
    with pytest.raises(ValueError, match="`out` has dtype float32; float64 is needed"):
        ot.dist(X, Y, out=np.empty((4, 5), dtype=np.float32))


def test_every_array_library(xp):
    X, Y = points(6, 3), points(4, 3, 1)
    got = ot.dist(xp.asarray(X), xp.asarray(Y))
    assert xp.owns(got)
    np.testing.assert_allclose(xp.to_numpy(got), ot.dist(X, Y), rtol=1e-13)


@pytest.mark.parametrize(
    ("X", "Y", "options", "error", "match"),
    [
        (np.ones(3), None, {}, ValueError, r"`X` has shape \(3,\)"),
        (np.ones((3, 2)), np.ones((3, 3)), {}, ValueError, r"`Y` has shape \(3, 3\); \(any, 2\) is needed"),
        (np.full((3, 2), np.nan), None, {}, ValueError, "`X`"),
        (np.ones((3, 2)), np.full((3, 2), np.inf), {}, ValueError, "`Y`"),
        (np.ones((3, 2), dtype=complex), None, {}, TypeError, "`X` is complex"),
        (np.ones((3, 2), dtype=object), None, {}, TypeError, "`X` has dtype object"),
        (np.ones((3, 2)), None, {"metric": "minkowski"}, ValueError, "`metric`"),
        (np.ones((3, 2)), None, {"metric": "euclidian"}, ValueError, "did you mean 'euclidean'"),
        (np.ones((3, 2)), None, {"metric": np.hypot}, TypeError, "`metric`"),
    ],
)
def test_errors_are_named(X, Y, options, error, match):
    with pytest.raises(error, match=match):
        ot.dist(X, Y, **options)
