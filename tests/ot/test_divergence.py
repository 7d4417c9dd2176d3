"""`sinkhorn_divergence`: zero on itself, positive, symmetric, with the right gradients."""

from __future__ import annotations

import numpy as np
import pytest

from aitken import ConvergenceWarning, Status, ot

METRICS = ("sqeuclidean", "euclidean", "cityblock", "cosine")
H = 1e-5


def clouds(n=30, m=25, d=2, seed=0):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, d)), 0.7 * rng.standard_normal((m, d)) + 0.5
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return X, Y, a / a.sum(), b / b.sum()


def reference(X, Y, a, b, reg, metric="sqeuclidean", unbalanced=None):
    """Three dense solves."""
    values = [
        ot.sinkhorn(p, q, ot.dist(P, Q, metric), reg, tol=1e-13, unbalanced=unbalanced).value
        for P, Q, p, q in ((X, Y, a, b), (X, X, a, a), (Y, Y, b, b))
    ]
    excess = 0.0 if unbalanced is None else a.sum() - b.sum()
    return values[0] - 0.5 * (values[1] + values[2]) + 0.5 * reg * excess**2, values


def central(f):
    return (f(H) - f(-H)) / (2 * H)


@pytest.mark.parametrize("metric", METRICS)
def test_value_and_terms(metric):
    X, Y, a, b = clouds()
    r = ot.sinkhorn_divergence(X, Y, a, b, reg=0.1, metric=metric)
    expected, terms = reference(X, Y, a, b, 0.1, metric)
    assert r.success
    assert r.status == Status.CONVERGED
    assert r.err <= 1e-9
    assert r.value == pytest.approx(expected, abs=1e-8)
    assert [r.terms[name] for name in ("xy", "xx", "yy")] == pytest.approx(terms, abs=1e-8)
    f, g = r.potentials
    assert a @ f + b @ g == pytest.approx(r.value, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("reg", [1.0, 0.1, 0.01])
def test_zero_on_itself_and_positive_elsewhere(metric, reg):
    X, _, a, _ = clouds(60)
    largest = ot.dist(X, X, metric).max()
    assert ot.sinkhorn_divergence(X, X, a, a, reg=reg, metric=metric).value == 0.0
    assert ot.sinkhorn_divergence(X, X.copy(), a, a.copy(), reg=reg, metric=metric).value == 0.0
    order = np.random.default_rng(1).permutation(60)
    r = ot.sinkhorn_divergence(X, X[order].copy(), a, a[order].copy(), reg=reg, metric=metric)
    assert abs(r.value) <= 1e-7 * largest
    for seed in range(5):
        near = X + 1e-3 * np.random.default_rng(seed).standard_normal(X.shape)
        assert ot.sinkhorn_divergence(X, near, a, a, reg=reg, metric=metric).value > -1e-9 * largest
    other = np.roll(a, 1)
    assert ot.sinkhorn_divergence(X, X, a, other, reg=reg, metric=metric).value > 1e-6 * largest


def test_float32_of_a_permuted_copy():
    X = np.random.default_rng(2).random((200, 3)).astype(np.float32)
    r = ot.sinkhorn_divergence(X, X[::-1].copy(), reg=0.01)
    assert r.success
    assert abs(r.value) <= 1e-6 * ot.dist(X).max()
    assert r.vjp()["X"].shape == X.shape


@pytest.mark.parametrize("unbalanced", [None, 0.5])
def test_symmetric_in_its_arguments(unbalanced):
    X, Y, a, b = clouds()
    b = b if unbalanced is None else 1.3 * b
    r = ot.sinkhorn_divergence(X, Y, a, b, reg=0.05, unbalanced=unbalanced)
    s = ot.sinkhorn_divergence(Y, X, b, a, reg=0.05, unbalanced=unbalanced)
    assert r.value == pytest.approx(s.value, rel=1e-9)
    left, right = r.vjp(), s.vjp()
    np.testing.assert_allclose(left["X"], right["Y"], atol=1e-8)
    np.testing.assert_allclose(left["Y"], right["X"], atol=1e-8)


def test_a_shift_costs_its_square():
    """With squared distances the divergence of a cloud and its translate is |t|^2, whatever reg is."""
    X, _, a, _ = clouds(50)
    for reg in (0.01, 0.1, 10.0):
        r = ot.sinkhorn_divergence(X, X + [0.3, -0.4], a, a, reg=reg)
        assert r.value == pytest.approx(0.25, rel=1e-8)
        np.testing.assert_allclose(r.vjp()["Y"], 2 * a[:, None] * [0.3, -0.4], atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("unbalanced", [None, 0.7])
@pytest.mark.parametrize("mass", [1.0, 2.0])
def test_gradients(metric, unbalanced, mass):
    X, Y, a, b = clouds(12, 9)
    a, b = mass * a, mass * b * (1.0 if unbalanced is None else 0.6)
    options = {"reg": 0.1, "metric": metric, "unbalanced": unbalanced, "tol": 1e-13}
    grad = ot.sinkhorn_divergence(X, Y, a, b, **options).vjp(grad_value=1.3)
    rng = np.random.default_rng(3)
    dX, dY = rng.standard_normal(X.shape), rng.standard_normal(Y.shape)
    da, db = rng.standard_normal(a.size), rng.standard_normal(b.size)
    if unbalanced is None:
        da -= da.mean()
        db -= db.mean()

    def value(X, Y, a, b):
        return 1.3 * ot.sinkhorn_divergence(X, Y, a, b, **options).value

    for name, delta, f in (
        ("X", dX, lambda t: value(X + t * dX, Y, a, b)),
        ("Y", dY, lambda t: value(X, Y + t * dY, a, b)),
        ("a", da, lambda t: value(X, Y, a + t * da, b)),
        ("b", db, lambda t: value(X, Y, a, b + t * db)),
    ):
        assert (grad[name] * delta).sum() == pytest.approx(central(f), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS)
def test_a_cloud_with_itself_is_pulled_once(metric, monkeypatch):
    from aitken.ot._point_cost import PointCost

    X, Y, a, b = clouds()
    r = ot.sinkhorn_divergence(X, Y, a, b, reg=0.1, metric=metric)
    pulls, pull = [], PointCost.pull

    def spy(self, *args):
        pulls.append(self.shape)
        return pull(self, *args)

    monkeypatch.setattr(PointCost, "pull", spy)
    once = r.vjp()
    assert pulls == [(30, 25), (25, 30), (30, 30), (25, 25)]
    for term in r._solved.values():
        term._symmetric = False
    twice = r.vjp()
    assert len(pulls) == 4 + 6
    for name, grad in once.items():
        np.testing.assert_array_equal(grad, twice[name])


def test_gradients_vanish_at_the_minimum():
    X, _, a, _ = clouds()
    grad = ot.sinkhorn_divergence(X, X, a, a, reg=0.05).vjp()
    assert all(not np.any(g) for g in grad.values())
    order = np.random.default_rng(4).permutation(len(X))
    grad = ot.sinkhorn_divergence(X, X[order].copy(), a, a[order].copy(), reg=0.05).vjp()
    assert np.abs(grad["X"]).max() < 1e-7


def test_unbalanced_against_dense():
    X, Y, a, b = clouds()
    b = 1.5 * b
    r = ot.sinkhorn_divergence(X, Y, a, b, reg=0.1, unbalanced=0.4)
    expected, terms = reference(X, Y, a, b, 0.1, unbalanced=0.4)
    assert r.value == pytest.approx(expected, abs=1e-8)
    assert [r.terms[name] for name in ("xy", "xx", "yy")] == pytest.approx(terms, abs=1e-8)
    assert ot.sinkhorn_divergence(X, X, a, a, reg=0.1, unbalanced=0.4).value == 0.0
    # The same points with another mass: the terms' bias in the mass cancels, what remains is positive.
    assert ot.sinkhorn_divergence(X, X, a, 1.5 * a, reg=0.1, unbalanced=0.4).value > 1e-3
    hard = ot.sinkhorn_divergence(X, Y, a, b / 1.5, reg=0.1, unbalanced=np.inf)
    assert hard.value == pytest.approx(ot.sinkhorn_divergence(X, Y, a, b / 1.5, reg=0.1).value, rel=1e-9)


def test_uniform_weights_by_default():
    X, Y, _, _ = clouds()
    uniform = np.full(len(X), 1 / len(X)), np.full(len(Y), 1 / len(Y))
    implied = ot.sinkhorn_divergence(X, Y, reg=0.1)
    assert implied.value == pytest.approx(ot.sinkhorn_divergence(X, Y, *uniform, reg=0.1).value, rel=1e-12)
    assert implied.vjp()["a"].shape == (len(X),)


@pytest.mark.parametrize("kind", ["result", "potentials"])
def test_warm_start(kind):
    X, Y, a, b = clouds(100, 80)
    cold = ot.sinkhorn_divergence(X, Y, a, b, reg=0.005)
    moved = X + 1e-4 * np.random.default_rng(5).standard_normal(X.shape)
    start = cold if kind == "result" else cold.term_potentials
    warm = ot.sinkhorn_divergence(moved, Y, a, b, reg=0.005, init=start)
    fresh = ot.sinkhorn_divergence(moved, Y, a, b, reg=0.005)
    assert warm.success
    assert warm.value == pytest.approx(fresh.value, rel=1e-7)
    assert warm.nit < 0.5 * fresh.nit


def test_gradient_flow():
    """The divergence falls along its gradient flow, and the cloud arrives; a value alone would shrink it."""
    X, Y, _, _ = clouds(60, 60)
    values = []
    last = None
    for _ in range(60):
        last = ot.sinkhorn_divergence(X, Y, reg=0.05, init=last)
        values.append(last.value)
        X = X - 0.4 * len(X) * last.vjp()["X"]
    assert np.all(np.diff(values) < 1e-9)
    assert values[-1] < 1e-3 * values[0]
    np.testing.assert_allclose(X.std(axis=0), Y.std(axis=0), rtol=0.05)


def test_not_converged():
    X, Y, a, b = clouds(80, 80)
    with pytest.warns(ConvergenceWarning):
        r = ot.sinkhorn_divergence(X, Y, a, b, reg=1e-3, maxiter=2)
    assert not r.success
    assert r.status == Status.MAX_ITERATIONS
    assert r.err > 1e-9
    assert "term" in r.message


def test_inputs_stay():
    X, Y, a, b = clouds()
    kept = [x.copy() for x in (X, Y, a, b)]
    ot.sinkhorn_divergence(X, Y, a, b, reg=0.1).vjp()
    for x, k in zip((X, Y, a, b), kept, strict=True):
        np.testing.assert_array_equal(x, k)


def test_threads_do_not_matter():
    X, Y, a, b = clouds(150, 130)
    one = ot.sinkhorn_divergence(X, Y, a, b, reg=0.02, n_threads=1)
    two = ot.sinkhorn_divergence(X, Y, a, b, reg=0.02, n_threads=2)
    assert one.value == two.value


def test_pickles():
    import pickle

    X, Y, a, b = clouds()
    r = ot.sinkhorn_divergence(X, Y, a, b, reg=0.1)
    again = pickle.loads(pickle.dumps(r))
    np.testing.assert_array_equal(again.vjp()["X"], r.vjp()["X"])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"X": np.zeros(5)}, ValueError, r"`X` has shape \(5,\)"),
        ({"Y": np.zeros((5, 3))}, ValueError, r"`Y` has shape \(5, 3\)"),
        ({"Y": np.full((5, 2), np.nan)}, ValueError, "`Y` has a non-finite value"),
        ({"a": np.ones(3)}, ValueError, r"`a` has shape \(3,\)"),
        ({"a": -np.ones(30)}, ValueError, "`a` has a negative value"),
        ({"a": np.ones(30)}, ValueError, "must have equal mass"),
        ({"reg": 0.0}, ValueError, "`reg`"),
        ({"metric": "sqeuclid"}, ValueError, "`metric` must be one of"),
        ({"unbalanced": (1.0, 2.0)}, ValueError, "`unbalanced` must be one number"),
        ({"unbalanced": -1.0}, ValueError, "`unbalanced`"),
        ({"init": 3}, TypeError, "`init` must be a DivergenceResult or a dict"),
        ({"init": {"zz": None}}, ValueError, "`init` must be one of"),
    ],
)
def test_bad_input(change, error, match):
    X, Y, a, b = clouds()
    arguments = {"X": X, "Y": Y, "a": a, "b": b, "reg": 0.1} | change
    with pytest.raises(error, match=match):
        ot.sinkhorn_divergence(**arguments)


def test_bad_gradient():
    X, Y, a, b = clouds()
    with pytest.raises(TypeError, match="`grad_value`"):
        ot.sinkhorn_divergence(X, Y, a, b, reg=0.1).vjp(grad_value="one")
