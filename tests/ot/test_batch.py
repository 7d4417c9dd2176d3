"""`sinkhorn_batch`: each problem as `sinkhorn` solves it, and none disturbed by another."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitken import ConvergenceWarning, Status, ot
from tests.interruption import check_ctrl_c, needs_posix


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def random_batch(rng, size=5, n=12, m=9):
    M = rng.random((size, n, m))
    a, b = rng.random((size, n)) + 0.1, rng.random((size, m)) + 0.1
    return a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True), M


def certificate(plan, a, b):
    return np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn", "sns"])
def test_each_problem_is_solved_as_alone(rng, method, reg_type):
    a, b, M = random_batch(rng)
    together = ot.sinkhorn_batch(a, b, M, 0.05, method=method, reg_type=reg_type)
    assert together.success.all()
    assert together.plan.shape == M.shape
    for i in range(len(M)):
        alone = ot.sinkhorn(a[i], b[i], M[i], 0.05, method=method, reg_type=reg_type)
        assert together.value[i] == pytest.approx(alone.value, rel=1e-13, abs=1e-15)
        assert together.value_linear[i] == pytest.approx(alone.value_linear, rel=1e-13)
        np.testing.assert_allclose(together.plan[i], alone.plan, rtol=1e-10, atol=1e-300)
        for ours, theirs in zip(together.potentials, alone.potentials, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-12, atol=1e-14)
        assert together.nit[i] == alone.nit
        assert together.err[i] == pytest.approx(alone.err, abs=1e-11)
        assert certificate(together.plan[i], a[i], b[i]) <= 1e-9


def test_ragged_lists_keep_their_sizes(rng):
    sizes = [(1, 1), (1, 7), (6, 1), (32, 20), (90, 128), (3, 3)]
    costs = [rng.random(s) for s in sizes]
    a = [None, np.ones(1), rng.random(6) + 0.1, None, rng.random(90) + 0.1, None]
    b = [None, rng.random(7) + 0.1, None, None, rng.random(128) + 0.1, np.array([0.0, 1.0, 2.0])]
    b = [w if w is None else w / w.sum() for w in b]
    a = [w if w is None else w / w.sum() for w in a]
    regs = np.linspace(0.02, 0.3, len(sizes))
    r = ot.sinkhorn_batch(a, b, costs, regs)
    assert r.success.all(), r.messages
    assert [p.shape for p in r.plan] == sizes
    for i, (n, m) in enumerate(sizes):
        assert r.potentials[0][i].shape == (n,)
        assert r.potentials[1][i].shape == (m,)
        alone = ot.sinkhorn(a[i], b[i], costs[i], regs[i])
        assert r.value[i] == pytest.approx(alone.value, rel=1e-12)
        np.testing.assert_allclose(r.potentials[0][i], alone.potentials[0], atol=1e-10)


def test_shared_arguments_are_broadcast(rng):
    a, b, M = random_batch(rng)
    one = ot.sinkhorn_batch(a, b[0], M[0], 0.1)
    for i in range(len(a)):
        assert one.value[i] == pytest.approx(ot.sinkhorn(a[i], b[0], M[0], 0.1).value, rel=1e-12)
    regs = np.array([0.05, 0.1, 0.2])
    along = ot.sinkhorn_batch(a[0], b[0], M[0], regs)
    assert along.value.shape == (3,)
    assert along.value[1] == pytest.approx(ot.sinkhorn(a[0], b[0], M[0], 0.1).value, rel=1e-12)


def test_bits_do_not_depend_on_threads_or_neighbours(rng):
    a, b, M = random_batch(rng, size=40)
    one = ot.sinkhorn_batch(a, b, M, 0.01, n_threads=1)
    two = ot.sinkhorn_batch(a, b, M, 0.01, n_threads=2)
    part = ot.sinkhorn_batch(a[7:9], b[7:9], M[7:9], 0.01)
    np.testing.assert_array_equal(one.plan, two.plan)
    np.testing.assert_array_equal(one.plan[7:9], part.plan)
    np.testing.assert_array_equal(one.value, two.value)


BAD = {
    "NaN cost": (lambda a, b, M: M.__setitem__((0, 0), np.nan), "`M` contains NaN"),
    "-inf cost": (lambda a, b, M: M.__setitem__((0, 0), -np.inf), "`M` contains -inf"),
    "forbidden row": (lambda a, b, M: M.__setitem__(2, np.inf), "row 2"),
    "forbidden column": (lambda a, b, M: M.__setitem__((slice(None), 3), np.inf), "column 3"),
    "negative weight": (lambda a, b, M: a.__setitem__(1, -0.5), "`a` has a weight of -0.5"),
    "NaN weight": (lambda a, b, M: b.__setitem__(1, np.nan), "`b` has a weight of nan at 1"),
    "no mass": (lambda a, b, M: a.__setitem__(slice(None), 0.0), "`a` has no mass"),
    "infinite mass": (lambda a, b, M: a.__setitem__(slice(None), 1e308), "sum exceeds the double range"),
    "unequal masses": (lambda a, b, M: a.__setitem__(slice(None), 1.0), "equal mass"),
}


@pytest.mark.parametrize("fault", list(BAD))
def test_a_bad_problem_is_flagged_and_spoils_no_other(rng, fault):
    a, b, M = random_batch(rng)
    clean = ot.sinkhorn_batch(a, b, M, 0.05)
    spoil, clause = BAD[fault]
    spoil(a[2], b[2], M[2])
    before = [x.copy() for x in (a, b, M)]
    with pytest.warns(ConvergenceWarning, match="problem 2"):
        r = ot.sinkhorn_batch(a, b, M, 0.05)
    assert r.status.tolist() == [0, 0, int(Status.BAD_INPUT), 0, 0]
    assert clause in r.messages[2]
    assert "1 bad input" in r.message
    assert np.isnan(r.value[2])
    assert np.isnan(r.err[2])
    assert not r.plan[2].any()
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(r.plan[others], clean.plan[others])
    np.testing.assert_array_equal(r.value[others], clean.value[others])
    grads = r.vjp(grad_value=np.ones(5))
    assert not grads["M"][2].any()
    assert np.isfinite(grads["M"]).all()
    for x, y in zip((a, b, M), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_unsolved_problem_alone_has_no_gradient(rng):
    a, b, M = random_batch(rng)
    M[2, 0, 0] = np.nan
    with pytest.warns(ConvergenceWarning, match="problem 2"):
        r = ot.sinkhorn_batch(a, b, M, 0.05)
    with pytest.raises(ValueError, match="no solution to differentiate"):
        r[2].vjp(1.0)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("unbalanced", [None, 1.0])
def test_gradients_are_those_of_the_weights_that_were_solved(rng, ragged, unbalanced):
    a, b, M = random_batch(rng)
    G = rng.random(M.shape)
    given = (list(a), list(b)) if ragged else (a, b)
    r = ot.sinkhorn_batch(*given, M, 0.1, unbalanced=unbalanced)
    before = r.vjp(None, G)
    a[:] = a[:, ::-1]
    b[:] = b[:, ::-1]
    for name, grad in r.vjp(None, G).items():
        np.testing.assert_array_equal(grad, before[name])


@pytest.mark.parametrize("mass", [1e-310, 1e-300, 1e300])
def test_masses_near_the_ends_of_the_doubles(mass):
    M = np.random.default_rng(0).random((1, 4, 4))
    r = ot.sinkhorn_batch([[mass] * 4], [[mass] * 4], M, 0.5)
    assert r.success.all()
    assert r.value[0] / (4 * mass) == pytest.approx(ot.sinkhorn(None, None, M[0], 0.5).value, rel=1e-9)


def test_bad_regs_in_an_array_are_flagged(rng):
    a, b, M = random_batch(rng, size=4)
    with pytest.warns(ConvergenceWarning, match="3 bad input"):
        r = ot.sinkhorn_batch(a, b, M, [0.1, 0.0, -1.0, np.nan])
    assert r.success.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda r, M: ot.sinkhorn_batch(None, None, M, 0.1, init=(1.0, 2.0)),
            TypeError,
            r"`init\[0\]` must hold",
        ),
        (
            lambda r, M: ot.sinkhorn_batch(
                None, None, M, 0.1, init=(np.full((2, 4), np.nan), np.ones((2, 5)))
            ),
            ValueError,
            r"`init\[0\]\[0\]` has a non-finite value",
        ),
        (lambda r, M: r.vjp(None, 3.0), TypeError, "`grad_plan` must hold"),
        (lambda r, M: r.vjp(None, None, 3.0), TypeError, "`grad_potentials` must be a pair"),
        (lambda r, M: r.vjp(None, None, (np.ones((2, 4)), None)), TypeError, r"`grad_potentials\[1\]`"),
        (lambda r, M: r.vjp(None, np.ones((3, 4, 5))), ValueError, "`grad_plan` has 3 items"),
        (lambda r, M: ot.sinkhorn_batch(None, None, M, 0.1, unbalanced=1e26), ValueError, "`unbalanced`"),
    ],
)
def test_what_is_no_batch_is_named(call, error, match):
    M = np.random.default_rng(0).random((2, 4, 5))
    r = ot.sinkhorn_batch(None, None, M, 0.1)
    with pytest.raises(error, match=match):
        call(r, M)


def test_a_hard_problem_runs_out_alone(rng):
    a, b, M = random_batch(rng, size=3, n=30, m=30)
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        r = ot.sinkhorn_batch(a, b, M, np.array([0.5, 1e-4, 0.5]), method="sinkhorn", maxiter=60)
    assert r.status.tolist() == [0, 1, 0]
    assert np.isfinite(r.value[1])
    assert r.err[1] > 1e-9
    assert certificate(r.plan[1], a[1], b[1]) == pytest.approx(r.err[1], rel=1e-6)


def test_warm_starts_take_two_newton_steps(rng):
    a, b, M = random_batch(rng, size=6, n=40, m=40)
    r = ot.sinkhorn_batch(a, b, M, 0.005)
    again = ot.sinkhorn_batch(a, b, M + 1e-6 * rng.random(M.shape), 0.005, init=r, method="newton")
    assert again.success.all()
    assert (again.nit_newton <= 2).all()
    by_potentials = ot.sinkhorn_batch(a, b, M, 0.005, init=r.potentials, method="newton")
    assert (by_potentials.nit_newton <= 1).all()
    entropy = ot.sinkhorn_batch(a, b, M, 0.005, reg_type="entropy")
    back = ot.sinkhorn_batch(a, b, M, 0.005, reg_type="entropy", init=entropy.potentials, method="newton")
    assert (back.nit_newton <= 1).all()
    np.testing.assert_allclose(back.value, entropy.value, rtol=1e-12)


def test_results_of_a_bad_problem_are_no_start(rng):
    a, b, M = random_batch(rng, size=3)
    broken = M.copy()
    broken[1, 0, 0] = np.nan
    with pytest.warns(ConvergenceWarning):
        r = ot.sinkhorn_batch(a, b, broken, 0.05)
    again = ot.sinkhorn_batch(a, b, M, 0.05, init=r)
    assert again.success.all()


def test_items_are_results_of_their_own(rng):
    a, b, M = random_batch(rng, size=3)
    r = ot.sinkhorn_batch(2 * a, 2 * b, M, 0.05)
    assert len(r) == 3
    assert len(list(r)) == 3
    one, alone = r[-1], ot.sinkhorn(2 * a[2], 2 * b[2], M[2], 0.05)
    assert one.success
    assert one.value == pytest.approx(alone.value, rel=1e-13)
    G = rng.random(M[2].shape)
    for ours, theirs in zip(one.vjp(0.7, G).values(), alone.vjp(0.7, G).values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-10)
    with pytest.raises(IndexError, match="`index`"):
        r[3]
    assert r["value"] is r.value


def test_gradients_sum_over_what_is_shared(rng):
    a, b, M = random_batch(rng, size=4)
    G = rng.random(M.shape)
    gv = rng.random(4)
    full = ot.sinkhorn_batch(a, b, M, 0.1).vjp(gv, G)
    assert full["M"].shape == M.shape
    assert full["a"].shape == a.shape
    for i in range(4):
        alone = ot.sinkhorn(a[i], b[i], M[i], 0.1).vjp(gv[i], G[i])
        for name in ("M", "a", "b"):
            np.testing.assert_allclose(full[name][i], alone[name], rtol=1e-7, atol=1e-9)
    shared = ot.sinkhorn_batch(a, b[0], M[0], 0.1).vjp(gv)
    assert shared["M"].shape == M[0].shape
    assert shared["b"].shape == b[0].shape
    parts = [ot.sinkhorn(a[i], b[0], M[0], 0.1).vjp(gv[i]) for i in range(4)]
    np.testing.assert_allclose(shared["M"], sum(p["M"] for p in parts), rtol=1e-9)
    np.testing.assert_allclose(shared["b"], sum(p["b"] for p in parts), atol=1e-9)
    ragged = ot.sinkhorn_batch([a[0], a[1, :5] / a[1, :5].sum()], None, [M[0], M[1, :5]], 0.1)
    grads = ragged.vjp(np.ones(2), [None, np.ones((5, 9))])
    assert [g.shape for g in grads["M"]] == [(12, 9), (5, 9)]


@pytest.mark.parametrize("price", [0.5, (0.1, 3.0), (np.inf, 0.7), (2.0, np.inf)])
def test_unbalanced_problems_are_solved_as_alone(rng, price):
    a, b, M = random_batch(rng)
    a, b = 1.3 * a, b * (1.3 if np.inf in np.atleast_1d(price) else 0.4)
    a[1, 2] = b[3, 0] = 0.0
    if price == 0.5:
        M[2, 4] = np.inf  # a bin with mass that sends none
    r = ot.sinkhorn_batch(a, b, M, 0.05, unbalanced=price)
    assert r.success.all()
    gv, G = rng.random(5), rng.random(M.shape)
    grads = r.vjp(gv, G)
    for i in range(5):
        alone = ot.sinkhorn(a[i], b[i], M[i], 0.05, unbalanced=price)
        assert r.value[i] == pytest.approx(alone.value, rel=1e-10)
        assert r.value_linear[i] == pytest.approx(alone.value_linear, rel=1e-9)
        np.testing.assert_allclose(r.plan[i], alone.plan, rtol=1e-8, atol=1e-14)
        for ours, theirs in zip(r.potentials, alone.potentials, strict=True):
            np.testing.assert_allclose(ours[i], theirs, atol=1e-9)
        expected = alone.vjp(gv[i], G[i])
        for name in ("M", "a", "b"):
            np.testing.assert_allclose(grads[name][i], expected[name], rtol=1e-6, atol=1e-8)
    again = ot.sinkhorn_batch(a, b, M, 0.05, unbalanced=price, init=r, method="newton")
    assert again.success.all()
    assert (again.nit_newton <= 1).all()


@pytest.mark.parametrize("form", ["lazy", False])
def test_forms_of_the_plan(rng, form):
    a, b, M = random_batch(rng, size=3)
    a[1, 4] = 0.0
    a /= a.sum(1, keepdims=True)
    dense = ot.sinkhorn_batch(3 * a, 3 * b, M, 0.05)
    r = ot.sinkhorn_batch(3 * a, 3 * b, M, 0.05, return_plan=form)
    np.testing.assert_array_equal(r.value, dense.value)
    assert np.isfinite(r.potentials[0]).all()
    if form is False:
        assert r.plan is None
    else:
        for lazy, plan in zip(r.plan, dense.plan, strict=True):
            np.testing.assert_allclose(lazy.toarray(), plan, rtol=1e-12, atol=1e-300)


def test_float32_costs_stay_float32(rng):
    a, b, M = random_batch(rng)
    r = ot.sinkhorn_batch(a.astype(np.float32), b.astype(np.float32), M.astype(np.float32), 0.05)
    assert r.plan.dtype == np.float32
    assert r.success.all()
    assert r.potentials[0].dtype == np.float64
    mixed = ot.sinkhorn_batch(None, None, [M[0].astype(np.float32), M[1]], 0.05)
    assert mixed.plan.dtype == np.float64


def test_any_layout_and_empty_batches(rng):
    a, b, M = random_batch(rng)
    expected = ot.sinkhorn_batch(a, b, M, 0.05).value
    strided = np.asfortranarray(M)
    np.testing.assert_array_equal(ot.sinkhorn_batch(np.asfortranarray(a), b, strided, 0.05).value, expected)
    np.testing.assert_array_equal(ot.sinkhorn_batch(a[::-1], b[::-1], M[::-1], 0.05).value[::-1], expected)
    empty = ot.sinkhorn_batch(None, None, np.empty((0, 3, 4)), 0.1)
    assert len(empty) == 0
    assert len(ot.sinkhorn_batch(None, None, [], 0.1)) == 0
    assert empty.value.shape == (0,)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"reg": None}, TypeError, "`reg` is None"),
        ({"reg": 0.0}, ValueError, "`reg`"),
        ({"reg": [0.1, 0.2]}, ValueError, "`reg` has 2 entries; the batch has 3 problems"),
        ({"M": np.ones(3)}, ValueError, "`M`"),
        ({"M": np.ones((3, 0, 2))}, ValueError, "`M` has shape"),
        ({"M": np.ones((4, 5)), "a": None, "b": None}, ValueError, "is shared"),
        ({"M": [np.ones((2, 2)), np.ones((2, 2), complex)]}, TypeError, r"`M\[1\]`"),
        ({"a": np.ones((2, 4))}, ValueError, "`a` has 2 items"),
        ({"a": np.ones(7)}, ValueError, "`a` has shape"),
        ({"b": [np.ones(5), np.ones(4), np.ones(5)]}, ValueError, r"`b\[1\]` has shape \(4,\)"),
        ({"method": "magic"}, ValueError, "`method`"),
        ({"return_plan": "sparse"}, ValueError, "`return_plan`"),
        ({"init": 3}, TypeError, "`init`"),
        ({"init": (np.zeros((2, 4)), np.zeros((2, 5)))}, ValueError, r"`init\[0\]` has 2 items"),
        ({"tol": 0.0}, ValueError, "`tol`"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    arguments = {"a": None, "b": None, "M": np.ones((3, 4, 5)), "reg": 0.1} | change
    with pytest.raises(error, match=words):
        ot.sinkhorn_batch(**arguments)


def test_gradient_arguments_are_checked(rng):
    r = ot.sinkhorn_batch(None, None, rng.random((3, 4, 5)), 0.1)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        r.vjp()
    with pytest.raises(ValueError, match="`grad_value`"):
        r.vjp(np.ones(2))
    with pytest.raises(ValueError, match="`grad_plan` has 2 items"):
        r.vjp(None, np.ones((2, 4, 5)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    reg=st.floats(1e-3, 10.0),
    zeros=st.booleans(),
)
def test_any_batch_meets_its_certificates(seed, sizes, reg, zeros):
    rng = np.random.default_rng(seed)
    costs = [rng.random(s) * rng.choice([1e-3, 1.0, 1e3]) for s in sizes]
    weights = []
    for axis in (0, 1):
        side = [rng.random(s[axis]) + 1e-3 for s in sizes]
        if zeros:
            for w in side:
                w[1:][rng.random(w.size - 1) < 0.3] = 0.0
        weights.append([w / w.sum() for w in side])
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        r = ot.sinkhorn_batch(*weights, costs, reg)
    for i in np.flatnonzero(r.success):
        assert certificate(r.plan[i], weights[0][i], weights[1][i]) <= 2e-9
        assert np.isfinite(r.potentials[0][i]).all()
        assert np.isfinite(r.potentials[1][i]).all()
    assert np.isfinite(r.value).all()


def test_lazy_plans_of_bad_problems_are_zeros(rng):
    M = rng.random((3, 4, 5))
    M[1, 0, 0] = np.nan
    with pytest.warns(ConvergenceWarning):
        r = ot.sinkhorn_batch(None, None, M, 0.1, return_plan="lazy")
    assert not r.plan[1].toarray().any()
    assert r.plan[2].toarray().sum() == pytest.approx(1.0)


def test_items_cost_the_same_in_any_batch(rng):
    r = ot.sinkhorn_batch(None, None, rng.random((4000, 3, 3)), 0.1, return_plan=False)
    assert sum(item.value for item in r) == pytest.approx(r.value.sum())
    assert r.vjp(np.ones(4000))["M"].shape == (4000, 3, 3)


def test_it_pickles(rng):
    r = ot.sinkhorn_batch(None, None, rng.random((2, 3, 4)), 0.1)
    again = pickle.loads(pickle.dumps(r))
    np.testing.assert_array_equal(again.value, r.value)
    assert "OTBatchResult" in repr(again)


def test_large_problems_share_the_threads(rng):
    costs = [rng.random((1100, 1000)), rng.random((20, 30))]
    one = ot.sinkhorn_batch(None, None, costs, 0.05, n_threads=1, return_plan=False)
    two = ot.sinkhorn_batch(None, None, costs, 0.05, n_threads=2, return_plan=False)
    np.testing.assert_array_equal(one.value, two.value)
    assert one.success.all()


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\nM = np.random.default_rng(0).random((20000, 40, 40))",
        "ot.sinkhorn_batch(None, None, M, 2e-4, method='sinkhorn', maxiter=10**6, return_plan=False)",
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_common_part_of_all_costs_changes_nothing(rng, dtype):
    a, b, M = random_batch(rng)
    M = M.astype(np.float32).astype(dtype)
    offset = 2.0**26 if dtype is np.float64 else 2.0**9
    far = (M + dtype(offset)).astype(dtype)
    near = (far - dtype(offset)).astype(dtype)  # what is left of M
    plain = ot.sinkhorn_batch(2 * a, 2 * b, near, 0.02)
    moved = ot.sinkhorn_batch(2 * a, 2 * b, far, 0.02)
    single = ot.sinkhorn(2 * a[0], 2 * b[0], far[0], 0.02)
    assert moved.success.all()
    assert single.success
    scale = offset * 4e-16
    np.testing.assert_allclose(
        moved.plan, plain.plan, rtol=1e-9 if dtype is np.float64 else 1e-4, atol=1e-300
    )
    np.testing.assert_allclose(moved.value - 2 * offset, plain.value, atol=8 * scale)
    np.testing.assert_allclose(moved.value_linear - 2 * offset, plain.value_linear, atol=8 * scale)
    np.testing.assert_allclose(moved.potentials[0] - offset / 2, plain.potentials[0], atol=scale)
    assert single.value == pytest.approx(moved.value[0], rel=1e-14)
    np.testing.assert_allclose(single.plan, plain.plan[0], rtol=1e-9 if dtype is np.float64 else 1e-4)
    G = rng.random(M.shape)
    for name, expected in plain.vjp(None, G).items():
        np.testing.assert_allclose(moved.vjp(None, G)[name], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved.vjp(np.ones(5))["M"], plain.vjp(np.ones(5))["M"], rtol=1e-5, atol=1e-12)
    again = ot.sinkhorn_batch(2 * a, 2 * b, far, 0.02, init=moved)
    assert again.success.all()


def test_starts_with_infinite_potentials():
    """A bin without mass whose every pair is forbidden has an infinite potential."""
    M = np.random.default_rng(0).random((3, 6, 5)) + 1e8
    M[1, :, 2] = np.inf
    b = np.array([0.3, 0.3, 0.0, 0.2, 0.2])
    r = ot.sinkhorn_batch(None, b, M, 0.05, tol=1e-7)
    assert np.isinf(r.potentials[1][1][2])
    again = ot.sinkhorn_batch(None, b, M, 0.05, tol=1e-7, init=r)
    assert again.success.all()
    assert again.nit.max() <= 3
    np.testing.assert_allclose(again.value, r.value, rtol=1e-12)
