"""`wasserstein_1d`: against the linear program, closed forms and differences; batches, ties, bad input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from aitken import ot


def weights(rng, *shape):
    w = rng.random(shape) + 0.05
    return w / w.sum(axis=-1, keepdims=True)


def program(x, y, a, b, p):
    """Optimal value of the linear program over plans."""
    n, m = len(x), len(y)
    rows = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    cost = (np.abs(x[:, None] - y[None, :]) ** p).ravel()
    found = linprog(cost, A_eq=np.vstack(rows), b_eq=np.concatenate([a, b]), method="highs")
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 1), (6, 6), (9, 5)])
def test_value_is_that_of_the_linear_program(n, m, p):
    rng = np.random.default_rng(n * 10 + m)
    x, y, a, b = rng.normal(size=n), rng.normal(size=m), weights(rng, n), weights(rng, m)
    r = ot.wasserstein_1d(x, y, a, b, p=p)
    assert r.value == pytest.approx(program(x, y, a, b, p), rel=1e-9)
    assert r.distance == pytest.approx(r.value ** (1 / p), rel=1e-14)


@given(st.integers(0, 10**6))
def test_plan_and_potentials_certify_each_other(seed):
    """Feasible on both sides with equal values: optimal, whatever ties and empty bins there are."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 12, size=2)
    p = rng.choice([1.0, 1.7, 2.0])
    x, y = rng.integers(-3, 4, n) / 2, rng.integers(-3, 4, m) / 2
    a, b = rng.integers(0, 3, n).astype(float), rng.integers(0, 3, m).astype(float)
    a[0] += 1
    b[0] += 1
    b *= a.sum() / b.sum()
    r = ot.wasserstein_1d(x, y, a, b, p=p, return_plan=True, return_potentials=True)
    M = np.abs(x[:, None] - y[None, :]) ** p
    plan, (f, g) = r.plan.toarray(), r.potentials
    assert (plan >= 0).all()
    assert r.plan.nnz <= n + m - 1
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-13)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-13)
    assert (f[:, None] + g[None, :] <= M + 1e-12).all()
    assert (plan * M).sum() == pytest.approx(r.value, abs=1e-12)
    assert a @ f + b @ g == pytest.approx(r.value, abs=1e-12)
    assert a @ f == pytest.approx(b @ g, abs=1e-12)


def test_sorted_samples_of_equal_size():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=1000), rng.normal(size=1000) * 2 + 1
    for p in (1, 2, 2.5):
        expected = (np.abs(np.sort(x) - np.sort(y)) ** p).mean()
        assert ot.wasserstein_1d(x, y, p=p).value == pytest.approx(expected, rel=1e-12)


def test_against_scipy():
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(1)
    x, y, a, b = rng.normal(size=40), rng.normal(size=30), weights(rng, 40), weights(rng, 30)
    assert ot.wasserstein_1d(x, y, a, b).value == pytest.approx(wasserstein_distance(x, y, a, b), rel=1e-12)


def test_batches_broadcast():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(4, 1, 6)), rng.normal(size=(3, 5))
    a, b = weights(rng, 6), weights(rng, 4, 3, 5)
    r = ot.wasserstein_1d(x, y, a, b, p=2, return_plan=True, return_potentials=True)
    assert r.value.shape == r.distance.shape == (4, 3)
    assert r.potentials[0].shape == (4, 3, 6)
    assert len(r.plan) == 12
    for i in range(4):
        for j in range(3):
            one = ot.wasserstein_1d(x[i, 0], y[j], a, b[i, j], p=2, return_plan=True, return_potentials=True)
            assert r.value[i, j] == one.value
            np.testing.assert_array_equal(r.plan[3 * i + j].toarray(), one.plan.toarray())
            np.testing.assert_array_equal(r.potentials[1][i, j], one.potentials[1])


@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_gradients_are_differences(p):
    rng = np.random.default_rng(3)
    data = {
        "x": rng.normal(size=(2, 1, 5)),
        "y": rng.normal(size=(3, 4)),
        "a": weights(rng, 5),
        "b": weights(rng, 3, 4),
    }
    G = rng.normal(size=(2, 3))

    def loss(**d):
        return float((G * ot.wasserstein_1d(**d, p=p).value).sum())

    grad = ot.wasserstein_1d(**data, p=p).vjp(G)
    h = 1e-6
    for name, array in data.items():
        assert grad[name].shape == array.shape
        step = rng.normal(size=array.shape)
        if name in "ab":  # masses stay equal
            step -= step.mean(axis=-1, keepdims=True)
        ends = [loss(**{**data, name: array + s * h * step}) for s in (1, -1)]
        assert (grad[name] * step).sum() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_gradient_when_both_masses_grow():
    rng = np.random.default_rng(4)
    x, y, a, b = rng.normal(size=5), rng.normal(size=4), weights(rng, 5), weights(rng, 4)
    grad = ot.wasserstein_1d(x, y, a, b, p=2).vjp()
    h = 1e-6
    da, db = np.eye(5)[2], np.eye(4)[1]
    ends = [ot.wasserstein_1d(x, y, a + s * da, b + s * db, p=2).value for s in (h, -h)]
    assert grad["a"] @ da + grad["b"] @ db == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_weights_not_given_have_no_gradient():
    grad = ot.wasserstein_1d([0.0, 1.0], [2.0, 5.0, 6.0]).vjp(2.0)
    assert grad["a"] is None
    assert grad["b"] is None
    np.testing.assert_allclose(grad["x"], [-1, -1])
    np.testing.assert_allclose(grad["y"], [2 / 3] * 3)


def test_mass_scales_the_value():
    rng = np.random.default_rng(5)
    x, y, a = rng.normal(size=5), rng.normal(size=4), weights(rng, 5)
    assert ot.wasserstein_1d(x, y, 3 * a, p=2).value == pytest.approx(
        3 * ot.wasserstein_1d(x, y, a, p=2).value, rel=1e-13
    )


def test_libraries_and_dtypes(xp):
    if xp.backend == "cuda":
        pytest.skip("runs on the CPU")
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    r = ot.wasserstein_1d(xp.asarray(x), xp.asarray(y), return_potentials=True)
    expected = ot.wasserstein_1d(x.astype(np.float64), y.astype(np.float64)).value
    assert xp.owns(r.value)
    assert xp.owns(r.potentials[0])
    assert xp.to_numpy(r.value).dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(r.value), expected, rtol=1e-6)
    assert xp.owns(r.vjp()["x"])


def test_inputs_are_left_alone_and_results_pickle():
    x, a = np.array([3.0, 1.0, 2.0]), np.array([0.2, 0.3, 0.5])
    kept = x.copy(), a.copy()
    r = ot.wasserstein_1d(x, x + 1, a, a[::-1], p=2, return_plan=True)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(a, kept[1])
    again = pickle.loads(pickle.dumps(r))
    assert again.value == r.value
    np.testing.assert_array_equal(again.vjp()["x"], r.vjp()["x"])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"p": 0.5}, ValueError, "`p` must be finite, >= 1"),
        ({"p": "2"}, TypeError, "`p`"),
        ({"x": []}, ValueError, r"`x` has shape \(0,\)"),
        ({"x": 3.0}, ValueError, r"`x` has shape \(\)"),
        ({"x": [0.0, np.nan]}, ValueError, "`x` has a non-finite value at index 1"),
        ({"y": [1j, 2]}, TypeError, "`y` is complex"),
        ({"a": [1.0]}, ValueError, r"`a` has shape \(1,\); its last length must be that of `x`, 2"),
        ({"a": [-0.5, 1.5]}, ValueError, "`a` has a negative value at index 0"),
        ({"a": [0.0, 0.0]}, ValueError, "`a` has no mass"),
        ({"b": [[0.5, 0.5], [0.0, 0.0]]}, ValueError, "`b` has no mass: the weights of problem 1 sum to 0"),
        ({"a": [0.5, 0.5], "b": [0.5, 0.6]}, ValueError, "equal mass; they sum to 1.0 and 1.1"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((3, 2))}, ValueError, "do not broadcast"),
        ({"return_plan": 1}, TypeError, "`return_plan`"),
    ],
)
def test_bad_input(change, error, text):
    arguments = {"x": [0.0, 1.0], "y": [1.0, 2.0], **change}
    with pytest.raises(error, match=text):
        ot.wasserstein_1d(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_an_empty_batch_has_gradients():
    grads = ot.wasserstein_1d(np.zeros((0, 3)), [1.0, 2.0]).vjp()
    assert grads["x"].shape == (0, 3)
    assert not grads["y"].any()


def test_bad_gradient():
    r = ot.wasserstein_1d(np.zeros((3, 2)), [1.0, 2.0])
    with pytest.raises(ValueError, match=r"`grad_value` has shape \(2,\)"):
        r.vjp([1.0, 2.0])


@pytest.mark.parametrize(("scale", "p"), [(1e200, 2.0), (1e-200, 2.0), (1.0, 1e6), (1e100, 3.5)])
def test_distance_survives_powers_out_of_range(scale, p):
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal(12), rng.standard_normal(9)
    r = ot.wasserstein_1d(x * scale, y * scale, p=p, return_potentials=True)
    gaps = np.abs(np.subtract.outer(np.sort(x), np.sort(y)))
    plan = ot.wasserstein_1d(np.sort(x), np.sort(y), p=p, return_plan=True).plan.toarray()
    mass, gaps = plan[plan > 0], gaps[plan > 0]
    expected = gaps.max() * ((mass * (gaps / gaps.max()) ** p).sum()) ** (1 / p)
    np.testing.assert_allclose(r.distance / scale, expected, rtol=1e-11)
    assert r.value == (np.inf if expected * scale > 1 else 0.0)
    assert not np.isnan(np.concatenate(r.potentials)).any()
    assert not np.isnan(r.vjp()["x"]).any()


def test_weights_beyond_the_range_are_refused():
    with pytest.raises(ValueError, match=r"`a` has weights up to 1e\+308; their sum exceeds"):
        ot.wasserstein_1d([0.0, 1.0], [1.0, 2.0], [1e308, 1e308], [1e308, 1e308])
