"""`aitken.ot.sinkhorn_points` against `sinkhorn` on the cost matrix, loops in NumPy, and its own promises."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from aitken import ConvergenceWarning, ot
from tests.interruption import check_ctrl_c, environment, needs_posix
from tests.oracles import ot as oracle

METRICS = ("sqeuclidean", "euclidean", "cityblock", "cosine")
H = 1e-5  # of central differences


def clouds(n, m, d, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) + 0.5
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    return X.astype(dtype), Y.astype(dtype), a / a.sum(), b / b.sum()


def relative(x, y):
    return np.abs(np.asarray(x) - y).max() / max(np.abs(y).max(), 1e-3)


def check_same(points, matrix, rtol=1e-10):
    """Results of one problem, by points and by matrix."""
    assert points.success
    assert matrix.success
    assert relative(points.value, matrix.value) < rtol
    assert relative(points.value_linear, matrix.value_linear) < rtol
    for q, p in zip(points.potentials, matrix.potentials, strict=True):
        assert relative(q, p) < rtol
    plan = points.plan if isinstance(points.plan, np.ndarray) else points.plan.toarray()
    assert relative(plan, matrix.plan) < rtol


def test_lazy_plans_are_indexed_as_arrays():
    X = np.random.default_rng(0).random((7, 2))
    plan = ot.sinkhorn_points(X, X[:5], reg=0.1).plan
    dense = plan.toarray()
    keys = [0, -1, (0, 1), (slice(2, 4), 1), (slice(None), slice(1, 3)), (slice(None, 5), [0, 2])]
    keys += [slice(None, None, 2), slice(None, None, -2), slice(6, 1, -2), slice(3, 3), (slice(5, 2), 0)]
    for key in keys:
        np.testing.assert_array_equal(plan[key], dense[key])
        np.testing.assert_allclose(plan.T[key], dense.T[key], rtol=1e-12)
    for key, error in ((9, IndexError), ((1, 2, 3), IndexError), ("a", TypeError), ([0, 1], TypeError)):
        with pytest.raises(error, match=r"`key`|two axes"):
            plan[key]
    with pytest.raises(ValueError, match="`size` must be >= 1"):
        next(plan.blocks(0))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("n", "m", "d"), [(1, 1, 1), (1, 7, 3), (9, 1, 2), (60, 45, 1), (257, 300, 3), (80, 90, 11)]
)
@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn"])
def test_same_as_on_the_matrix(metric, n, m, d, method):
    X, Y, a, b = clouds(n, m, d)
    M = ot.dist(X, Y, metric)
    reg = 0.05 * max(M.max(), 1e-3)
    options = {"reg": reg, "method": method, "tol": 1e-12}
    check_same(ot.sinkhorn_points(X, Y, a, b, metric=metric, **options), ot.sinkhorn(a, b, M, **options))


@pytest.mark.parametrize("metric", METRICS)
def test_same_where_the_kernel_is_not_kept(metric):
    n, m = 1600, 1400  # more pairs than are kept
    X, Y, a, b = clouds(n, m, 3)
    a[::7] = 0.0
    a /= a.sum()
    M = ot.dist(X, Y, metric)
    for method in ("sinkhorn", "newton"):
        options = {"reg": 0.02 * M.max(), "method": method, "tol": 1e-11}
        check_same(ot.sinkhorn_points(X, Y, a, b, metric=metric, **options), ot.sinkhorn(a, b, M, **options))


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_far_blocks_are_passed_over_without_a_trace(metric):
    """At a regularisation where most blocks are far, and where every row lost some."""
    X, Y, a, b = clouds(2500, 2400, 2, seed=3)
    M = ot.dist(X, Y, metric)
    reg = (2e-4 if metric == "sqeuclidean" else 1e-3) * M.max()
    assert ((M < 46 * reg).mean(axis=1) < 0.5).all()
    options = {"reg": reg, "tol": 1e-10}
    points, matrix = ot.sinkhorn_points(X, Y, a, b, metric=metric, **options), ot.sinkhorn(a, b, M, **options)
    assert points.success
    assert relative(points.value, matrix.value) < 1e-10
    P = np.exp((points._x[:, None] + points._y - M) / reg)
    assert np.abs(P.sum(axis=1) - a).sum() + np.abs(P.sum(axis=0) - b).sum() < 1.1e-10


@pytest.mark.parametrize("rho", [1.0, (0.5, np.inf)])
@pytest.mark.parametrize("n", [60, 1500])
def test_unbalanced(rho, n):
    X, Y, a, b = clouds(n, 1450, 3, seed=4)
    a = 1.7 * a
    M = ot.dist(X, Y)
    options = {"reg": 0.01 * M.max(), "unbalanced": rho, "tol": 1e-11}
    check_same(ot.sinkhorn_points(X, Y, a, b, **options), ot.sinkhorn(a, b, M, **options), rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_scale_divides_the_cost(metric):
    X, Y, a, b = clouds(40, 50, 3)
    scaled = ot.sinkhorn_points(X, Y, a, b, metric=metric, reg=0.01, scale=7.5, tol=1e-12)
    check_same(scaled, ot.sinkhorn(a, b, ot.dist(X, Y, metric) / 7.5, 0.01, tol=1e-12))


@pytest.mark.parametrize("metric", METRICS)
def test_float32_points(metric):
    X, Y, a, b = clouds(200, 150, 3, dtype=np.float32)
    r = ot.sinkhorn_points(X, Y, a, b, metric=metric, reg=0.1, return_plan="dense")
    assert r.success
    assert r.plan.dtype == np.float32
    assert r.err <= 1e-6
    M = ot.dist(X.astype(float), Y.astype(float), metric)
    assert relative(r.value, ot.sinkhorn(a, b, M, 0.1).value) < 1e-5
    lazy = ot.sinkhorn_points(X, Y, a, b, metric=metric, reg=0.1).plan
    assert lazy.dtype == np.float32
    np.testing.assert_allclose(lazy.rows(3, 9), r.plan[3:9], rtol=1e-6)


def test_far_from_the_origin_nothing_is_lost():
    X, Y, a, b = clouds(100, 90, 3)
    near = ot.sinkhorn_points(X, Y, a, b, reg=0.05, tol=1e-12)
    far = ot.sinkhorn_points(X + 1024.0, Y + 1024.0, a, b, reg=0.05, tol=1e-12)
    M = ot.dist(X + 1024.0, Y + 1024.0)
    check_same(far, ot.sinkhorn(a, b, M, 0.05, tol=1e-12), rtol=1e-9)
    assert relative(far.value, near.value) < 1e-9


# ------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [70, 1500])
def test_lazy_plan(metric, n):
    X, Y, a, b = clouds(n, 1450, 3, seed=1)
    reg = 0.05 * ot.dist(X, Y, metric).max()
    r = ot.sinkhorn_points(X, Y, 2.0 * a, 2.0 * b, metric=metric, reg=reg)
    plan = r.plan
    P = plan.toarray()
    assert plan.shape == P.shape == (n, 1450)
    np.testing.assert_allclose(P.sum(axis=1), 2.0 * a, rtol=1e-7)
    rng = np.random.default_rng(0)
    V, W = rng.standard_normal((1450, 5)), rng.standard_normal((n, 3))
    for got, want in (
        (plan @ V, P @ V),
        (plan @ V[:, 0], P @ V[:, 0]),
        (plan.T @ W, P.T @ W),
        (plan.T @ W[:, 0], P.T @ W[:, 0]),
        (W.T @ plan, W.T @ P),
        (plan.T.T @ V, P @ V),
        (plan.T.rows(5, 40), P.T[5:40]),
        (plan.rows(5, 40), P[5:40]),
        (plan.T.toarray(), P.T),
    ):
        assert got.shape == want.shape
        assert relative(got, want) < 1e-12


def test_plan_forms_agree():
    X, Y, a, b = clouds(1500, 1450, 2)
    forms = {
        f: ot.sinkhorn_points(X, Y, a, b, reg=0.02, return_plan=f).plan for f in ("lazy", "dense", "sparse")
    }
    P = forms["lazy"].toarray()
    assert relative(forms["dense"], P) < 1e-14
    assert np.abs(forms["sparse"].toarray() - P).sum() < 3e-12
    assert forms["sparse"].nnz < P.size
    assert ot.sinkhorn_points(X, Y, a, b, reg=0.02, return_plan=False).plan is None


def test_bins_without_mass_have_finite_potentials():
    X, Y, a, b = clouds(50, 40, 2)
    a[[0, 7]] = b[3] = 0.0
    a, b = a / a.sum(), b / b.sum()
    options = {"reg": 0.05, "tol": 1e-12}
    r = ot.sinkhorn_points(X, Y, a, b, **options)
    check_same(r, ot.sinkhorn(a, b, ot.dist(X, Y), **options))
    assert np.isfinite(r.potentials[0]).all()
    assert (r.plan.rows(0, 1) == 0).all()


def test_warm_start_and_pickle():
    X, Y, a, b = clouds(300, 250, 3)
    cold = ot.sinkhorn_points(X, Y, a, b, reg=0.05)
    for init in (cold, cold.potentials):
        warm = ot.sinkhorn_points(X, Y, a, b, reg=0.05, init=init)
        assert warm.success
        assert warm.nit <= 3 < cold.nit
    again = pickle.loads(pickle.dumps(cold))
    np.testing.assert_array_equal(again.plan.rows(0, 4), cold.plan.rows(0, 4))
    assert again.vjp(1.0).keys() == {"X", "Y", "a", "b"}


# --------------------------------------------------------------------------------------------- symmetric


def symmetric_oracle(a, M, reg, tol):
    """Averaged updates of one potential, each by log-sum-exp; also the errors met."""
    x = 0.5 * reg * np.log(a)
    errors = []
    while not errors or errors[-1] > tol:
        full = reg * np.log(a) - oracle.lse_rows(M, x, reg)
        errors.append(2.0 * np.abs(a - a * np.exp((x - full) / reg)).sum())
        x = 0.5 * (x + full)
    return x, errors


SYMMETRIC = [(60, reg, metric) for reg in (1.0, 1e-2, 1e-4) for metric in METRICS]


@pytest.mark.parametrize(
    ("n", "reg", "metric"), [*SYMMETRIC, (1500, 1e-1, "euclidean"), (1500, 1e-3, "sqeuclidean")]
)
def test_symmetric(n, reg, metric):
    X, _, a, _ = clouds(n, 1, 3, seed=2)
    M = ot.dist(X, X, metric)
    steps = []
    r = ot.sinkhorn_points(
        X,
        X.copy(),
        a,
        a.copy(),
        metric=metric,
        reg=reg,
        symmetric=True,
        tol=1e-11,
        callback=lambda step: steps.append(step.err),
    )
    assert r.success
    np.testing.assert_array_equal(*r.potentials)
    np.testing.assert_array_equal(r._x, r._y)
    x, errors = symmetric_oracle(a, M, reg, 1e-11)
    f = x - reg * np.log(a)
    assert relative(r.potentials[0] + 1.0, f + 1.0) < 1e-9
    assert abs(len(steps) - len(errors)) <= 1
    np.testing.assert_allclose(steps[:20], errors[: len(steps)][:20], rtol=1e-6, atol=1e-13)
    assert r.nit <= 45  # the error halves whatever reg
    general = ot.sinkhorn_points(X, X, a, a, metric=metric, reg=reg, tol=1e-9)
    assert abs(general.value - r.value) < 1e-8 * max(1.0, abs(r.value))


def test_symmetric_needs_equal_sides():
    X, Y, a, b = clouds(20, 20, 2)
    for args in ((X, Y, a, a), (X, X, a, b), (X, X[:10], None, None)):
        with pytest.raises(ValueError, match="`symmetric` needs"):
            ot.sinkhorn_points(*args, reg=0.1, symmetric=True)


@pytest.mark.parametrize("options", [{"method": "newton"}, {"unbalanced": 0.5}])
def test_symmetric_with_another_method_is_solved_all_the_same(options):
    X, _, a, _ = clouds(50, 1, 2)
    given = {"reg": 0.1, "tol": 1e-11, **options}
    r = ot.sinkhorn_points(X, X, a, a, symmetric=True, **given)
    check_same(r, ot.sinkhorn(a, a, ot.dist(X, X), **given), rtol=1e-9)


# ---------------------------------------------------------------------------------------------- gradients


def gradient_problem(metric, d=2):
    X, Y, a, b = clouds(8, 6, d, seed=5)
    return X, Y, a, b, {"reg": 0.3, "metric": metric, "scale": 1.3, "tol": 1e-13}


def check_gradient(grad, function, given, names="XYab"):
    """Along random directions, for a and b such that their masses stay equal."""
    rng = np.random.default_rng(8)
    for k, name in enumerate(names):
        direction = rng.standard_normal(given[k].shape)
        if name in "ab":
            direction -= direction.mean()
        moved = [[g + s * H * direction if i == k else g for i, g in enumerate(given)] for s in (1, -1)]
        slope = (function(*moved[0]) - function(*moved[1])) / (2 * H)
        assert (grad[name] * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-8), name


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("rho", [None, 0.8])
def test_value_gradient(metric, d, rho):
    X, Y, a, b, options = gradient_problem(metric, d)
    a, b = 2.5 * a, 2.5 * b

    def value(X, Y, a, b):
        return ot.sinkhorn_points(X, Y, a, b, unbalanced=rho, **options).value

    r = ot.sinkhorn_points(X, Y, a, b, unbalanced=rho, **options)
    grad = r.vjp(1.7)
    check_gradient(grad, lambda *given: 1.7 * value(*given), (X, Y, a, b))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rho", [None, 0.8])
def test_plan_and_potential_gradient(metric, rho):
    X, Y, a, b, options = gradient_problem(metric)
    rng = np.random.default_rng(6)
    G, gf, gg = rng.standard_normal((8, 6)), rng.standard_normal(8), rng.standard_normal(6)

    def loss(X, Y, a, b):
        r = ot.sinkhorn_points(X, Y, a, b, unbalanced=rho, **options)
        f, g = r.potentials
        return 0.4 * r.value + (G * r.plan.toarray()).sum() + gf @ f + gg @ g

    grad = ot.sinkhorn_points(X, Y, a, b, unbalanced=rho, **options).vjp(0.4, G, (gf, gg))
    check_gradient(grad, loss, (X, Y, a, b))


@pytest.mark.parametrize("metric", METRICS)
def test_value_gradient_of_large_clouds_is_that_of_loops(metric):
    X, Y, a, b = clouds(1500, 1450, 3)
    r = ot.sinkhorn_points(X, Y, a, b, metric=metric, reg=0.1)
    grad, P = r.vjp(1.0), r.plan.toarray()
    if metric == "cityblock":  # a kink is within any step of some pair
        delta = np.sign(X[:, None] - Y[None])
        np.testing.assert_allclose(grad["X"], np.einsum("ij,ijk->ik", P, delta), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(grad["Y"], -np.einsum("ij,ijk->jk", P, delta), rtol=1e-9, atol=1e-15)
        return
    direction = np.random.default_rng(1).standard_normal(X.shape)
    plus, minus = (ot.dist(X + s * H * direction, Y, metric) for s in (1, -1))
    assert (grad["X"] * direction).sum() == pytest.approx((P * (plus - minus)).sum() / (2 * H), rel=1e-6)


def test_no_derivative_counts_nothing():
    X = np.array([[0.0, 1.0], [2.0, 3.0]])
    for metric in ("euclidean", "cityblock", "sqeuclidean"):
        grad = ot.sinkhorn_points(X, X, reg=1e-3, metric=metric).vjp(1.0)
        np.testing.assert_allclose(grad["X"], 0.0, atol=1e-12)
        assert np.isfinite(grad["Y"]).all()


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": [[0.0, np.nan]]}, ValueError, "`X` has a non-finite value at index (0, 1): nan"),
        ({"Y": [[np.inf, 0.0]]}, ValueError, "`Y` has a non-finite value at index (0, 0): inf"),
        ({"Y": [[1.0, 2.0, 3.0]]}, ValueError, "`Y` has shape (1, 3); (any, 2) is needed"),
        ({"X": [1.0, 2.0]}, ValueError, "`X` has shape (2,); 2-D is needed"),
        ({"X": np.zeros((0, 2))}, ValueError, "`X` has shape (0, 2); at least one point"),
        ({"X": np.ones((3, 2), complex)}, TypeError, "`X` is complex"),
        ({"a": [0.5, -0.5, 1.0]}, ValueError, "`a` has a negative value at index 1: -0.5"),
        ({"a": [1.0, 1.0]}, ValueError, "`a` has shape (2,); (3,) is needed"),
        ({"a": [1.0, 1.0, 1.0]}, ValueError, "`a` and `b` must have equal mass; they sum to 3.0 and 1.0"),
        ({"a": [0.0, 0.0, 0.0]}, ValueError, "`a` has no mass"),
        ({"reg": 0.0}, ValueError, "`reg` must be finite, > 0; got 0.0"),
        ({"reg": None}, TypeError, "`reg` is None"),
        ({"scale": -1.0}, ValueError, "`scale` must be finite, > 0; got -1.0"),
        ({"metric": "chebyshev"}, ValueError, "`metric` must be one of"),
        ({"method": "emd"}, ValueError, "`method` must be one of"),
        ({"symmetric": 1}, TypeError, "`symmetric` must be True or False"),
        ({"return_plan": "full"}, ValueError, "`return_plan` must be one of"),
        ({"init": (np.zeros(2), np.zeros(1))}, ValueError, "`init[0]` has shape (2,); (3,) is needed"),
        ({"metric": "cosine", "X": np.zeros((3, 2))}, ValueError, "`X` has a zero vector at index 0"),
        ({"unbalanced": -1.0}, ValueError, "`unbalanced` must be finite, > 0; got -1.0"),
    ],
)
def test_bad_input(change, error, message):
    good = {"X": np.ones((3, 2)), "Y": np.ones((1, 2)), "reg": 0.1}
    with pytest.raises(error, match=re.escape(message)):
        ot.sinkhorn_points(**{**good, **change})


def test_zero_vector_is_named():
    X = np.ones((3, 2))
    X[1] = 0.0
    with pytest.raises(ValueError, match=r"`Y` has a zero vector at index 1"):
        ot.sinkhorn_points(np.ones((2, 2)), X, reg=0.1, metric="cosine")


def test_result_says_when_it_stopped_short():
    X, Y, a, b = clouds(100, 90, 2)
    with pytest.warns(ConvergenceWarning, match="sinkhorn_points"):
        r = ot.sinkhorn_points(X, Y, a, b, reg=1e-3, maxiter=3)
    assert not r.success


def test_input_is_left_alone_and_strides_do():
    X, Y, a, b = clouds(60, 50, 6)
    kept = [z.copy() for z in (X, Y, a, b)]
    r = ot.sinkhorn_points(X[:, ::2], Y[:, ::2], a, b, reg=0.1)
    for z, k in zip((X, Y, a, b), kept, strict=True):
        np.testing.assert_array_equal(z, k)
    plain = ot.sinkhorn_points(X[:, ::2].copy(), Y[:, ::2].tolist(), a, b, reg=0.1)
    assert plain.value == r.value


# --------------------------------------------------------------------------------------- time and memory


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("reg", [0.1, 1e-3])
def test_bits_do_not_depend_on_threads(symmetric, reg):
    X, Y, a, b = clouds(1500, 1500, 2)
    if symmetric:
        Y, b = X, a
    one, two = (ot.sinkhorn_points(X, Y, a, b, reg=reg, symmetric=symmetric, n_threads=t) for t in (1, 2))
    assert one.value == two.value
    for p, q in zip(one.potentials, two.potentials, strict=True):
        np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(one.plan @ Y, two.plan @ Y)
    np.testing.assert_array_equal(one.vjp(1.0)["X"], two.vjp(1.0)["X"])


MEMORY = """
import resource
import numpy as np
from aitken import ot
rng = np.random.default_rng(0)
X, Y = rng.random((12000, 3)), rng.random((12000, 3))
small = ot.sinkhorn_points(X[:2000], Y[:2000], reg={reg}, method="{method}", tol=1e-6)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
r = ot.sinkhorn_points(X, Y, reg={reg}, method="{method}", tol=1e-6)
moved = r.plan @ Y
grad = r.vjp(1.0)["X"]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB")
@pytest.mark.parametrize(("method", "reg"), [("sinkhorn", 0.1), ("newton", 0.02)])
def test_memory_is_linear(method, reg):
    """12000 x 12000 costs would be 1100 MiB."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY.format(method=method, reg=reg)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) < 60, run.stdout


@needs_posix
@pytest.mark.parametrize("reg", [1.0, 1e-3])
def test_ctrl_c(reg):
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\n"
        "X = np.random.default_rng(0).random((60000, 3)); Y = X[::-1] + 0.1",
        f"ot.sinkhorn_points(X, Y, reg={reg}, method='sinkhorn', tol=1e-15)",
    )


def _dyadic(rng, *shape):
    """Normal numbers on a grid fine enough to matter and coarse enough to move by 1e8 without rounding."""
    return np.round(rng.standard_normal(shape) * 64) / 64


@pytest.mark.parametrize("distance", [1e3, 1e4, 1e8])
def test_far_clouds_lose_nothing(distance):
    rng = np.random.default_rng(3)
    X, Y = _dyadic(rng, 60, 2), _dyadic(rng, 50, 2)
    near = ot.sinkhorn_points(X, Y, reg=0.05)
    far = ot.sinkhorn_points(X, Y + distance, reg=0.05)
    assert far.success
    assert far.nit <= near.nit + 5
    np.testing.assert_allclose(far.plan.toarray(), near.plan.toarray(), rtol=0, atol=1e-9)
    moved = 2 * distance**2 + 2 * distance * (Y.mean(axis=0) - X.mean(axis=0)).sum()
    for name in ("value", "value_linear"):
        np.testing.assert_allclose(getattr(far, name), getattr(near, name) + moved, rtol=1e-13)
    f, g = far.potentials
    np.testing.assert_allclose(f.mean(), g.mean(), rtol=1e-13)
    cost = far._problem.cost
    np.testing.assert_allclose(
        cost.toarray() + cost.shift[0][:, None] + cost.shift[1], ot.dist(X, Y + distance), rtol=1e-14
    )
    for start in (near, far):  # a cloud's translation does not spoil the start
        again = ot.sinkhorn_points(X, Y + distance, reg=0.05, init=start)
        assert again.success
        assert again.history["err"][0] < 1e-6
    back = ot.sinkhorn_points(X, Y, reg=0.05, init=far)
    assert back.history["err"][0] < 1e-6
    if distance < 1e5:  # beyond, the potentials' own rounding is in the way
        assert ot.sinkhorn_points(X, Y + distance, reg=0.05, init=far.potentials).history["err"][0] < 1e-4
        assert ot.sinkhorn_points(X, Y + distance, reg=0.05, init=near.potentials).success


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_far_clouds_are_the_dense_problem(reg_type):
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((9, 2)), rng.standard_normal((7, 2)) + 60.0
    a, b = rng.random(9), rng.random(7)
    a[2] = b[1] = 0.0
    b *= a.sum() / b.sum()
    options = {"reg": 0.8, "reg_type": reg_type, "tol": 1e-12}
    points = ot.sinkhorn_points(X, Y, a, b, **options)
    assert points._problem.cost.shift is not None
    dense = ot.sinkhorn(a, b, ot.dist(X, Y), init=points, **options)
    for name in ("value", "value_linear"):
        np.testing.assert_allclose(getattr(points, name), getattr(dense, name), rtol=1e-11)
    for p, d in zip(points.potentials, dense.potentials, strict=True):
        np.testing.assert_allclose(p, d, rtol=1e-9)
    weights = rng.standard_normal(9), rng.standard_normal(7)
    G = rng.standard_normal((9, 7))
    for given in (
        {"grad_value": 1.3},
        {"grad_plan": G},
        {"grad_potentials": weights},
    ):
        ours, theirs = points.vjp(**given), dense.vjp(**given)
        # Along (1, -1) the weights' gradients are free.
        for grads in (ours, theirs):
            t = grads["a"][0]
            grads["a"], grads["b"] = grads["a"] - t, grads["b"] + t
        for name in "ab":
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-7, atol=1e-7)
        W = theirs["M"]
        X_grad = 2 * (X * W.sum(axis=1)[:, None] - W @ Y)
        Y_grad = 2 * (Y * W.sum(axis=0)[:, None] - W.T @ X)
        np.testing.assert_allclose(ours["X"], X_grad, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(ours["Y"], Y_grad, rtol=1e-8, atol=1e-8)


def test_far_gradients_are_central_differences():
    rng = np.random.default_rng(5)
    X, Y = rng.standard_normal((6, 2)), rng.standard_normal((5, 2)) + 40.0
    dX, dY, G = rng.standard_normal((6, 2)), rng.standard_normal((5, 2)), rng.standard_normal((6, 5))

    def solve(t):
        return ot.sinkhorn_points(X + t * dX, Y + t * dY, reg=0.7, tol=1e-13, return_plan="dense")

    result, h = solve(0.0), 1e-5
    assert result._problem.cost.shift is not None
    for given, scalar in (
        ({"grad_value": 1.0}, lambda r: r.value),
        ({"grad_plan": G}, lambda r: (G * r.plan).sum()),
        ({"grad_potentials": (G[:, 0], G[0])}, lambda r: G[:, 0] @ r.potentials[0] + G[0] @ r.potentials[1]),
    ):
        grads = result.vjp(**given)
        slope = (scalar(solve(h)) - scalar(solve(-h))) / (2 * h)
        np.testing.assert_allclose((grads["X"] * dX).sum() + (grads["Y"] * dY).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cityblock"])
@pytest.mark.parametrize("power", [-1000, -700, 700, 1000])
def test_extreme_coordinates_are_scaled(metric, power):
    rng = np.random.default_rng(6)
    X, Y, unit = rng.random((20, 2)), rng.random((15, 2)), 2.0**power
    one = ot.sinkhorn_points(X, Y, reg=0.1, metric=metric)
    r = ot.sinkhorn_points(X * unit, Y * unit, reg=0.1 * unit, metric=metric)
    assert r.success
    assert r.nit == one.nit
    np.testing.assert_allclose(r.value_linear / unit, one.value_linear, rtol=1e-12)
    np.testing.assert_allclose(r.value / unit, one.value, rtol=1e-12)
    np.testing.assert_allclose(r.potentials[0] / unit, one.potentials[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(r.history["eps"] / unit, one.history["eps"], rtol=1e-14)
    np.testing.assert_allclose(r.plan @ Y, one.plan @ Y, rtol=1e-10)
    np.testing.assert_allclose(r.plan.toarray(), one.plan.toarray(), rtol=1e-9)
    np.testing.assert_allclose(r.vjp(1.0)["X"], one.vjp(1.0)["X"], rtol=1e-9, atol=1e-15)


def test_extreme_squares():
    rng = np.random.default_rng(7)
    X, Y, c = rng.random((20, 2)), rng.random((15, 2)), 1e150
    one = ot.sinkhorn_points(X, Y, reg=0.1)
    r = ot.sinkhorn_points(X * c, Y * c, reg=0.1 * c * c)
    assert r.success
    np.testing.assert_allclose(r.plan.toarray(), one.plan.toarray(), rtol=1e-7)
    np.testing.assert_allclose(r.vjp(1.0)["X"] / c, one.vjp(1.0)["X"], rtol=1e-7, atol=1e-12)
    for pair in ((X * 1e200, Y * 1e200), (X, Y + 1e200)):
        with pytest.raises(
            ValueError, match=r"`X` and `Y` have coordinates up to .* exceed the double range"
        ):
            ot.sinkhorn_points(*pair, reg=1.0)


@pytest.mark.parametrize("method", ["auto", "newton"])
def test_costs_that_reg_cannot_resolve_end_soon(method):
    X, Y, _, _ = clouds(30, 20, 2)
    steps = []
    with pytest.warns(ConvergenceWarning):
        r = ot.sinkhorn_points(
            X * 1e200, Y * 1e200, scale=1e300, reg=0.1, method=method, callback=lambda s: steps.append(s.nit)
        )
    assert r.status == 4
    assert not r.success
    assert len(steps) < 2000


def test_symmetric_keeps_to_maxiter():
    X = clouds(20, 20, 2)[0]
    for maxiter in (1, 2, 5):
        with pytest.warns(ConvergenceWarning):
            r = ot.sinkhorn_points(X, X, reg=0.5, symmetric=True, maxiter=maxiter, tol=1e-14)
        assert r.nit == maxiter
        assert r.status == 1
        assert 0 < r.err < 2
    assert ot.sinkhorn_points(X, X, reg=0.5, symmetric=True).success


def test_products_with_no_vectors():
    X, Y, _, _ = clouds(6, 4, 2)
    dense = ot.sinkhorn(None, None, ot.dist(X, Y), 0.5, return_plan="lazy").plan
    for plan in (ot.sinkhorn_points(X, Y, reg=0.5).plan, dense):
        assert (plan @ np.zeros((4, 0))).shape == (6, 0)
        assert (np.zeros((0, 6)) @ plan).shape == (0, 4)
