"""`exact_ot` against other solvers of the linear program, and its certificate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from aitken import ConvergenceWarning, ot
from aitken._result import Status
from tests.interruption import check_ctrl_c, needs_posix


def problem(n=25, m=18, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return a / a.sum(), b / b.sum(), rng.random((n, m))


def check(r, a, b, M, tol=1e-12):
    """Feasible plan, feasible potentials, and no gap between them."""
    plan = r.plan.toarray()
    n, m = M.shape
    assert plan.min() >= 0
    assert np.count_nonzero(plan) <= n + m - 1
    assert np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum() <= 1e-12 * a.sum()
    f, g = r.potentials
    assert (f[:, None] + g - M).max() <= 1e-12 * max(1.0, np.abs(f).max())
    assert r.lower_bound == pytest.approx(a @ f + b @ g, abs=tol)
    paid = plan[plan > 0] @ M[plan > 0]
    assert r.value == pytest.approx(paid, abs=tol)
    assert abs(r.value - r.lower_bound) <= tol
    assert r.success


@pytest.mark.parametrize("n", [1, 2, 3, 17, 120])
def test_assignment(n):
    M = np.random.default_rng(n).random((n, n))
    rows, cols = linear_sum_assignment(M)
    r = ot.exact_ot(None, None, M)
    check(r, np.full(n, 1 / n), np.full(n, 1 / n), M)
    assert r.value == pytest.approx(M[rows, cols].mean(), rel=1e-12)
    assert r.plan.nnz == n


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (1, 7), (7, 1)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_linear_program(shape, order):
    a, b, M = problem(*shape)
    n, m = shape
    equal = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    expected = linprog(M.ravel(), A_eq=equal, b_eq=np.concatenate([a, b]), method="highs").fun
    r = ot.exact_ot(a, b, np.asarray(M, order=order))
    check(r, a, b, M)
    assert r.value == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cityblock"])
def test_clouds_against_pot(metric):
    pot = pytest.importorskip("ot")
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((300, 2)), 1 + rng.standard_normal((250, 2))
    M = ot.dist(X, Y, metric)
    a, b, _ = problem(300, 250)
    r = ot.exact_ot(a, b, M)
    check(r, a, b, M, tol=1e-12 * M.max())
    assert r.value == pytest.approx(pot.emd2(a, b, M), abs=1e-12 * M.max())


def test_many_ties():
    """Points on a grid: equal costs, degenerate pivots, several optima."""
    g = np.arange(9.0)
    P = np.stack(np.meshgrid(g, g), axis=-1).reshape(-1, 2)
    M = ot.dist(P, metric="cityblock")
    n = len(P)
    b = np.where(P[:, 0] < 3, 3.0, 0.0) / n
    r = ot.exact_ot(None, b, M)
    # Every column of the grid moves to three times fewer: known from one dimension.
    expected = np.abs(np.repeat([0, 1, 2], 3) - g).mean()
    assert r.value == pytest.approx(expected, rel=1e-12)
    assert r.success
    check(
        ot.exact_ot(None, None, np.ones((20, 30))), np.full(20, 0.05), np.full(30, 1 / 30), np.ones((20, 30))
    )


def cloud(seed, side=5, n=200, dim=2):
    return np.random.default_rng(seed).integers(0, side, (n, dim)).astype(float)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("order", ["same", "reversed", "permuted"])
def test_a_cloud_with_repeated_points_onto_itself(seed, order):
    """Every basis is degenerate and the first plan is optimal: only its potentials have to move."""
    Z = cloud(seed)
    n = len(Z)
    index = {"same": np.arange(n), "reversed": np.arange(n)[::-1]}.get(
        order, np.random.default_rng(seed).permutation(n)
    )
    M = ot.dist(Z, Z[index])
    r = ot.exact_ot(None, None, M)
    assert r.value == 0.0
    check(r, np.full(n, 1 / n), np.full(n, 1 / n), M, tol=1e-12 * M.max())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("side", "dim"), [(2, 1), (3, 2), (5, 2), (2, 4)])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cityblock", "euclidean"])
def test_integer_clouds(seed, side, dim, metric):
    X, Y = cloud(seed, side, 90, dim), cloud(seed + 100, side, 90, dim)
    M = ot.dist(X, Y, metric)
    uniform = np.full(90, 1 / 90)
    r = ot.exact_ot(None, None, M)
    check(r, uniform, uniform, M)
    rows, cols = linear_sum_assignment(M)
    assert r.value == pytest.approx(M[rows, cols].mean(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("init", ["entropic", "zeros", "random"])
def test_repeated_points_with_weights(seed, init):
    """Weights in tenths and thirds, whose partial sums tie but for rounding; starts of any quality."""
    rng = np.random.default_rng(seed)
    X, Y = cloud(seed, 3, 120), cloud(seed + 50, 3, 150)
    a, b = rng.integers(1, 4, 120) / 10, rng.integers(1, 4, 150) / 3
    a, b = a / a.sum(), b / b.sum()
    M = ot.dist(X, Y)
    start = {"zeros": (np.zeros(120), np.zeros(150)), "random": (rng.random(120), rng.random(150))}
    r = ot.exact_ot(a, b, M, init=start.get(init))
    check(r, a, b, M)


@pytest.mark.parametrize("seed", range(6))
def test_more_ties_than_pairs_to_start_from(seed):
    """Four places only: the pairs without reduced cost never are few."""
    X, Y = cloud(seed, 2, 190), cloud(seed + 9, 2, 214)
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 4, 190) / 7, rng.integers(1, 4, 214) / 7
    a, b = a / a.sum(), b / b.sum()
    M = ot.dist(X, Y)
    check(ot.exact_ot(a, b, M), a, b, M)


@pytest.mark.parametrize("level", [0.0, 1.0, -3.0, 1e8])
@pytest.mark.parametrize("shape", [(40, 40), (40, 60), (70, 20)])
def test_costs_all_equal(level, shape):
    n, m = shape
    M = np.full(shape, level)
    check(ot.exact_ot(None, None, M), np.full(n, 1 / n), np.full(m, 1 / m), M, tol=4e-15 * abs(level))


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e300])
def test_the_gap_counts_in_units_of_the_cost(scale):
    """Few pivots leave a gap; however small the cost, it is not taken for rounding."""
    Z = cloud(0)
    M = ot.dist(Z, Z[::-1]) * scale
    r = ot.exact_ot(None, None, M)
    assert r.success
    assert abs(r.gap) <= 1e-12 * M.max()
    with pytest.warns(ConvergenceWarning):
        assert not ot.exact_ot(None, None, M, maxiter=1).success


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([2, 5, 10**6]),
)
def test_random_problems(n, m, seed, levels):
    """Integer costs and weights, zero bins included: total unimodularity makes degeneracy the rule."""
    rng = np.random.default_rng(seed)
    M = rng.integers(0, levels, (n, m)).astype(float)
    a = rng.multinomial(20, np.full(n, 1 / n)).astype(float)
    b = rng.multinomial(20, np.full(m, 1 / m)).astype(float)
    r = ot.exact_ot(a, b, M)
    check(r, a, b, M, tol=20e-12 * levels)


def test_zero_bins_and_duplicates():
    a, b, M = problem()
    a[[0, 4]] = b[6] = 0.0
    a, b = a / a.sum(), b / b.sum()
    M[1] = M[2]
    M[:, 3] = M[:, 4]
    check(ot.exact_ot(a, b, M), a, b, M)


def test_tiny_bins():
    a, b, M = problem()
    a[3], b[2] = 1e-30, 1e-17
    a, b = a / a.sum(), b / b.sum()
    check(ot.exact_ot(a, b, M), a, b, M)


def test_forbidden_pairs():
    a, b, M = problem(8, 8)
    M[np.triu_indices(8, 2)] = np.inf
    a = b = np.full(8, 0.125)
    r = ot.exact_ot(a, b, M)
    assert r.success
    plan = r.plan.toarray()
    assert (plan[~np.isfinite(M)] == 0).all()
    rows, cols = linear_sum_assignment(M)
    assert r.value == pytest.approx(M[rows, cols].mean(), abs=1e-12)
    f, g = r.potentials
    assert (f[:, None] + g - M).max() <= 1e-12


def test_no_plan_avoids_the_forbidden_pairs():
    M = np.array([[0.0, np.inf], [0.0, 1.0]])
    with pytest.warns(ConvergenceWarning):
        r = ot.exact_ot([0.6, 0.4], [0.3, 0.7], M)
    assert r.status == Status.LOCALLY_INFEASIBLE
    assert not r.success


def test_costs_of_any_sign_and_scale():
    a, b, M = problem()
    for scale, shift in ((1e-8, 0.0), (1e8, 0.0), (1.0, -5.0), (-1.0, 0.0)):
        r = ot.exact_ot(a, b, scale * M + shift)
        check(r, a, b, scale * M + shift, tol=1e-12 * max(abs(scale), abs(shift)))


def test_mass_dtype_and_forms():
    a, b, M = problem()
    one, five = ot.exact_ot(a, b, M), ot.exact_ot(5 * a, 5 * b, M, return_plan="dense")
    assert five.value == pytest.approx(5 * one.value, rel=1e-12)
    np.testing.assert_allclose(five.plan, 5 * one.plan.toarray(), atol=1e-14)
    single = ot.exact_ot(a, b, M.astype(np.float32))
    assert single.plan.dtype == np.float32
    assert single.value == pytest.approx(one.value, rel=1e-6)
    assert ot.exact_ot(a, b, M, return_plan=False).plan is None


def test_warm_start_skips_the_entropic_one():
    a, b, M = problem(100, 100)
    cold = ot.exact_ot(a, b, M)
    warm = ot.exact_ot(a, b, M, init=cold)
    assert warm.nit_sinkhorn == 0 < cold.nit_sinkhorn
    assert warm.nit < ot.exact_ot(a, b, M, init=(np.zeros(100), np.zeros(100))).nit
    assert warm.value == pytest.approx(cold.value, abs=1e-13)


def test_value_gradient():
    """Unique and non-degenerate: the value is differentiable there."""
    a, b, M = problem()
    rng = np.random.default_rng(3)
    dM, da, db = rng.standard_normal(M.shape), rng.standard_normal(a.size), rng.standard_normal(b.size)
    da, db = da - da.mean(), db - db.mean()
    grad, h = ot.exact_ot(a, b, M).vjp(3.0), 1e-6
    values = [3 * ot.exact_ot(a + t * da, b + t * db, M + t * dM).value for t in (h, -h)]
    expected = (values[0] - values[1]) / (2 * h)
    assert (grad["M"] * dM).sum() + grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6)


def test_budget_and_honesty():
    a, b, M = problem(60, 60)
    with pytest.warns(ConvergenceWarning, match="duality gap"):
        r = ot.exact_ot(a, b, M, maxiter=1)
    assert r.status == Status.MAX_ITERATIONS
    assert r.gap > 1e-6
    exact = ot.exact_ot(a, b, M).value
    assert r.lower_bound <= exact <= r.value


def test_threads_do_not_change_bits():
    M = np.random.default_rng(5).random((300, 400))
    one, two = (ot.exact_ot(None, None, M, n_threads=k) for k in (1, 2))
    assert one.value == two.value
    assert (one.plan != two.plan).nnz == 0


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (ValueError, {"tol": -1.0}, "`tol`"),
        (ValueError, {"M": np.full((3, 2), -np.inf)}, "`M` has a non-finite"),
        (ValueError, {"a": [0.0, 0.0, 0.0]}, "`a` has no mass"),
        (
            ValueError,
            {"a": [1e308] * 3, "b": [1e308] * 2},
            "`a` has weights up to 1e\\+308; their sum exceeds",
        ),
        (ValueError, {"M": [[-1.7e308, 0], [1.7e308, 0], [0, 0]]}, "`M` goes from -1.7e\\+308 to 1.7e\\+308"),
        (ValueError, {"b": [1.0]}, "`b` has shape"),
        (TypeError, {"maxiter": 1.5}, "`maxiter`"),
        (ValueError, {"return_plan": "lazy"}, "`return_plan`"),
    ],
)
def test_bad_input(kind, change, words):
    given = {"a": None, "b": None, "M": np.arange(6.0).reshape(3, 2), **change}
    with pytest.raises(kind, match=words):
        ot.exact_ot(**given)


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\nrng = np.random.default_rng(0)\n"
        "M = ot.dist(rng.random((3000, 2)), rng.random((3000, 2)))",
        "for k in range(50): ot.exact_ot(rng.dirichlet(np.ones(3000)), None, M, n_threads=1)",
    )
