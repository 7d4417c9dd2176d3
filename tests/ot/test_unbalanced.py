"""Unbalanced and semi-balanced `sinkhorn` against a dense oracle, finite differences, POT and its limits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitken import ConvergenceWarning, Status, ot
from tests.oracles import unbalanced as oracle

INF = float("inf")
H = 1e-5  # central differences err by H^2; the solves by 1e-13 / H
PRICES = [(0.5, 0.5), (0.3, 2.0), (INF, 0.4), (0.4, INF)]
SOLVERS = ["auto", "jacobi", "hybrid", "direct"]


def problem(n=9, m=7, seed=0, masses=(1.0, 1.0)):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return masses[0] * a / a.sum(), masses[1] * b / b.sum(), rng.random((n, m)), 0.1


def line(n=60, seed=1):
    """Two histograms on a line, the second wider: what Sinkhorn iterations are slow on."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 1.0, n)
    a = np.exp(-(((t - 0.3) / 0.08) ** 2)) + 0.01 + 0.01 * rng.random(n)
    b = np.exp(-(((t - 0.65) / 0.12) ** 2)) + 0.01 + 0.01 * rng.random(n)
    return a / a.sum(), b / b.sum(), (t[:, None] - t[None, :]) ** 2


def certificate(r, a, b, M, reg, rho):
    """The error of a result, recomputed from its potentials alone."""
    f, g = r.potentials
    with np.errstate(invalid="ignore"):
        P = np.where(np.isfinite(M), np.outer(a, b) * np.exp((f[:, None] + g[None, :] - M) / reg), 0.0)
    err = np.abs(P.sum(1) - a * np.exp(-f / rho[0])).sum() + np.abs(P.sum(0) - b * np.exp(-g / rho[1])).sum()
    return err / P.sum(), P


# ------------------------------------------------------------------------------------------ the solution


@pytest.mark.parametrize("rho", PRICES)
@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_agrees_with_the_oracle(rho, method, order):
    a, b, M, reg = problem(masses=(1.3, 0.8))
    r = ot.sinkhorn(a, b, np.asarray(M, order=order), reg, unbalanced=rho, method=method, tol=1e-12)
    expected = oracle.newton(a, b, M, reg, rho, tol=1e-13)
    assert r.success
    assert r.err <= 1e-12
    np.testing.assert_allclose(r.plan, expected.plan, atol=1e-11)
    np.testing.assert_allclose(r.potentials[0], expected.f, atol=1e-10)
    np.testing.assert_allclose(r.potentials[1], expected.g, atol=1e-10)
    assert r.value == pytest.approx(oracle.primal(r.plan, a, b, M, reg, rho), rel=1e-10)
    assert r.value_linear == pytest.approx((M * r.plan).sum(), rel=1e-12)
    err, P = certificate(r, a, b, M, reg, rho)
    assert err <= 2e-12
    np.testing.assert_allclose(r.plan, P, rtol=1e-11)


@pytest.mark.parametrize("linear_solver", SOLVERS)
@pytest.mark.parametrize("rho", [(0.5, 0.5), (INF, 0.05), (50.0, 0.01)])
@pytest.mark.parametrize("store_plan", [True, False])
def test_linear_solvers(linear_solver, rho, store_plan):
    rng = np.random.default_rng(3)
    n, m, reg = 90, 70, 2e-3
    X, Y = rng.standard_normal((n, 2)), rng.standard_normal((m, 2)) + 0.5
    M = ((X[:, None] - Y[None]) ** 2).sum(-1)
    M /= M.max()
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    a, b = a / a.sum(), 1.5 * b / b.sum()
    r = ot.sinkhorn(
        a, b, M, reg, unbalanced=rho, method="newton", linear_solver=linear_solver, store_plan=store_plan
    )
    assert r.success
    assert r.err <= 1e-9
    assert certificate(r, a, b, M, reg, rho)[0] <= 2e-9
    assert r.value == pytest.approx(oracle.primal(r.plan, a, b, M, reg, rho), rel=1e-8)
    if linear_solver in ("jacobi", "hybrid", "direct"):
        assert r.linear_solver == linear_solver


def test_newton_where_sinkhorn_needs_hundreds():
    a, b, M = line()
    rho = (0.5, 0.5)
    r = ot.sinkhorn(a, b, M, 0.01, unbalanced=0.5, method="newton", tol=1e-10)
    plain = oracle.sinkhorn(a, b, M, 0.01, rho, tol=1e-10)
    assert plain.err <= 1e-10
    assert plain.nit > 200
    last = r.history["eps"] == 0.01
    steps = int(((r.history["kind"] == "newton") & last).sum())
    assert r.success
    assert steps <= 8, steps
    assert r.nit_newton <= 16
    np.testing.assert_allclose(r.plan, plain.plan, atol=1e-10)


def test_hard_limit_is_the_balanced_problem():
    a, b, M, reg = problem()
    balanced = ot.sinkhorn(a, b, M, reg, tol=1e-12)
    for price, near in ((1e3, 3e-3), (1e6, 3e-6), (1e9, 1e-8), (1e12, 1e-8)):
        r = ot.sinkhorn(a, b, M, reg, unbalanced=price, tol=1e-12)
        assert r.success
        np.testing.assert_allclose(r.plan, balanced.plan, atol=near)
        assert r.value == pytest.approx(balanced.value, abs=near)
    for hard in (INF, (INF, INF), None):
        r = ot.sinkhorn(a, b, M, reg, unbalanced=hard, tol=1e-12)
        np.testing.assert_array_equal(r.plan, balanced.plan)
        assert r.value == balanced.value


def test_semi_balanced_keeps_its_hard_side():
    a, b, M, reg = problem(masses=(2.0, 0.1))
    r = ot.sinkhorn(a, b, M, reg, unbalanced=(INF, 0.05), tol=1e-12)
    assert r.success
    np.testing.assert_allclose(r.plan.sum(1), a, rtol=1e-11)
    assert np.abs(r.plan.sum(0) - b).sum() > 0.1
    flipped = ot.sinkhorn(b, a, M.T, reg, unbalanced=(0.05, INF), tol=1e-12)
    np.testing.assert_allclose(flipped.plan.T, r.plan, atol=1e-11)
    assert flipped.value == pytest.approx(r.value, rel=1e-10)


def test_any_masses_and_prices():
    """The closed form of one bin on each side: log P is a mean of the costs' and the weights' logarithms."""
    for a, b, cost, reg, rho_a, rho_b in (
        (3.0, 0.2, 0.7, 0.1, 0.5, 2.0),
        (1e8, 1e-8, 0.3, 0.01, 1.0, 1.0),
        (1.0, 1.0, 5.0, 0.01, 0.02, 0.03),
        (1.0, 2.0, -1.0, 0.1, 1e7, 1e7),
        (4.0, 1.0, 0.5, 0.1, INF, 0.1),
    ):
        r = ot.sinkhorn([a], [b], [[cost]], reg, unbalanced=(rho_a, rho_b), tol=1e-11)
        if rho_a == INF:
            expected = np.log(a)
        else:
            top = reg * np.log(a * b) + rho_a * np.log(a) + rho_b * np.log(b) - cost
            expected = top / (reg + rho_a + rho_b)
        assert r.success
        np.testing.assert_allclose(np.log(r.plan), [[expected]], atol=1e-9)


def test_plan_forms_and_memory():
    a, b, M, reg = problem(40, 30, masses=(1.0, 0.5))
    dense = ot.sinkhorn(a, b, M, reg, unbalanced=0.3)
    for form in ("sparse", "lazy"):
        r = ot.sinkhorn(a, b, M, reg, unbalanced=0.3, return_plan=form, store_plan=False)
        np.testing.assert_allclose(r.plan.toarray(), dense.plan, atol=1e-12)
    assert ot.sinkhorn(a, b, M, reg, unbalanced=0.3, return_plan=False).plan is None
    C = M.copy()
    r = ot.sinkhorn(a, b, C, reg, unbalanced=0.3, overwrite_cost=True)
    np.testing.assert_allclose(C, dense.plan, rtol=1e-12)
    single = ot.sinkhorn(a, b, M.astype(np.float32), reg, unbalanced=0.3)
    assert single.plan.dtype == np.float32
    assert single.success
    np.testing.assert_allclose(single.plan, dense.plan, atol=1e-6)


def test_warm_start():
    a, b, M = line()
    cold = ot.sinkhorn(a, 2 * b, M, 2e-3, unbalanced=(0.2, 0.3), method="newton")
    moved = M + 1e-4 * np.sin(np.arange(M.size)).reshape(M.shape)
    warm = ot.sinkhorn(a, 2 * b, moved, 2e-3, unbalanced=(0.2, 0.3), method="newton", init=cold)
    assert warm.success
    assert warm.nit_newton <= 4 < cold.nit_newton
    again = ot.sinkhorn(a, 2 * b, M, 2e-3, unbalanced=(0.2, 0.3), method="newton", init=cold.potentials)
    assert again.success
    assert again.nit_newton <= 1


def test_bits_do_not_depend_on_threads():
    a, b, M, _reg = problem(300, 200, masses=(1.0, 2.0))
    one = ot.sinkhorn(a, b, M, 0.01, unbalanced=0.1, n_threads=1)
    two = ot.sinkhorn(a, b, M, 0.01, unbalanced=0.1, n_threads=2)
    np.testing.assert_array_equal(one.plan, two.plan)


def test_spent_budget_is_reported():
    a, b, M = line()
    with pytest.warns(ConvergenceWarning, match="sinkhorn"):
        r = ot.sinkhorn(a, b, M, 1e-3, unbalanced=0.5, maxiter=3)
    assert not r.success
    assert r.status == Status.MAX_ITERATIONS
    assert r.err > 1e-9
    assert certificate(r, a, b, M, 1e-3, (0.5, 0.5))[0] == pytest.approx(r.err, rel=1e-6)


@pytest.mark.parametrize("reg_m", [(0.5, 0.5), (0.05, 0.9)])
def test_agrees_with_pot(reg_m):
    pot = pytest.importorskip("ot")
    a, b, M, reg = problem(20, 15, masses=(1.0, 1.4))
    plan = pot.unbalanced.sinkhorn_unbalanced(
        a, b, M, reg, reg_m, reg_type="kl", stopThr=1e-14, numItermax=20000
    )
    r = ot.sinkhorn(a, b, M, reg, unbalanced=reg_m, tol=1e-12)
    np.testing.assert_allclose(r.plan, plan, atol=1e-11)


# --------------------------------------------------------------------------------------------- gradients


def solve(a, b, M, reg, rho):
    return ot.sinkhorn(a, b, M, reg, unbalanced=rho, tol=1e-13, method="newton")


def central(f):
    return (f(H) - f(-H)) / (2 * H)


@pytest.mark.parametrize("rho", PRICES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_value_gradient(rho, order):
    a, b, M, reg = problem(masses=(1.2, 0.7))
    M = np.asarray(M, order=order)
    rng = np.random.default_rng(1)
    grad = solve(a, b, M, reg, rho).vjp(grad_value=1.7)
    for name, like in (("a", a), ("b", b), ("M", M)):
        d = rng.standard_normal(like.shape)

        def value(t, name=name, d=d):
            moved = {"a": a, "b": b, "M": M}
            moved[name] = moved[name] + t * d
            return 1.7 * solve(moved["a"], moved["b"], moved["M"], reg, rho).value

        assert (grad[name] * d).sum() == pytest.approx(central(value), rel=1e-6), name


@pytest.mark.parametrize("rho", PRICES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_plan_and_potential_gradients(rho, order):
    a, b, M, reg = problem(masses=(1.2, 0.7))
    M = np.asarray(M, order=order)
    rng = np.random.default_rng(2)
    G, gf, gg = rng.standard_normal(M.shape), rng.standard_normal(a.size), rng.standard_normal(b.size)
    r = solve(a, b, M, reg, rho)
    parts = {
        "plan": (r.vjp(grad_plan=G), lambda r: (G * r.plan).sum()),
        "potentials": (
            r.vjp(grad_potentials=(gf, gg)),
            lambda r: gf @ r.potentials[0] + gg @ r.potentials[1],
        ),
        "all": (
            r.vjp(grad_value=0.5, grad_plan=G, grad_potentials=(gf, gg)),
            lambda r: 0.5 * r.value + (G * r.plan).sum() + gf @ r.potentials[0] + gg @ r.potentials[1],
        ),
    }
    for what, (grad, scalar) in parts.items():
        for name, like in (("a", a), ("b", b), ("M", M)):
            d = rng.standard_normal(like.shape)

            def moved(t, name=name, d=d, scalar=scalar):
                args = {"a": a, "b": b, "M": M}
                args[name] = args[name] + t * d
                return scalar(solve(args["a"], args["b"], args["M"], reg, rho))

            assert (grad[name] * d).sum() == pytest.approx(central(moved), rel=1e-6, abs=1e-8), (what, name)


@pytest.mark.parametrize("rho", [(0.5, 0.3), (INF, 0.4)])
def test_gradient_of_an_empty_bin(rho):
    """One-sided differences: a bin without mass gets a little."""
    a, b, M, reg = problem(masses=(1.2, 0.7))
    b[2] = 0.0
    if np.isfinite(rho[0]):
        a[3] = 0.0
    rng = np.random.default_rng(4)
    G, gf, gg = rng.standard_normal(M.shape), rng.standard_normal(a.size), rng.standard_normal(b.size)

    def scalar(a, b):
        r = solve(a, b, M, reg, rho)
        return r.value + (G * r.plan).sum() + gf @ r.potentials[0] + gg @ r.potentials[1]

    grad = solve(a, b, M, reg, rho).vjp(1.0, G, (gf, gg))
    small = 1e-6
    db = np.zeros_like(b)
    db[2] = small
    assert grad["b"][2] == pytest.approx((scalar(a, b + db) - scalar(a, b)) / small, rel=1e-4)
    if np.isfinite(rho[0]):
        da = np.zeros_like(a)
        da[3] = small
        assert grad["a"][3] == pytest.approx((scalar(a + da, b) - scalar(a, b)) / small, rel=1e-4)
    dM = rng.standard_normal(M.shape)
    expected = central(
        lambda t: (lambda r: r.value + (G * r.plan).sum() + gf @ r.potentials[0] + gg @ r.potentials[1])(
            solve(a, b, M + t * dM, reg, rho)
        )
    )
    assert (grad["M"] * dM).sum() == pytest.approx(expected, rel=1e-6)


# -------------------------------------------------------------------------------------------- edge cases


def test_isolated_bins_stay():
    a, b, M, reg = problem()
    M[4] = INF
    M[:, 1] = INF
    rho = (0.5, 0.3)
    r = ot.sinkhorn(a, b, M, reg, unbalanced=rho, tol=1e-12)
    keep_a, keep_b = np.arange(a.size) != 4, np.arange(b.size) != 1
    rest = ot.sinkhorn(a[keep_a], b[keep_b], M[np.ix_(keep_a, keep_b)], reg, unbalanced=rho, tol=1e-12)
    assert r.success
    assert np.all(r.plan[4] == 0)
    assert np.all(r.plan[:, 1] == 0)
    assert r.potentials[0][4] == INF
    assert r.potentials[1][1] == INF
    np.testing.assert_allclose(r.plan[np.ix_(keep_a, keep_b)], rest.plan, rtol=1e-10)
    assert r.value == pytest.approx(oracle.primal(r.plan, a, b, np.where(M < INF, M, 0), reg, rho), rel=1e-10)
    grad = r.vjp(1.0, np.ones(M.shape))
    assert all(np.isfinite(grad[name]).all() for name in "abM")
    for init in (r, r.potentials):
        again = ot.sinkhorn(a, b, M, reg, unbalanced=rho, tol=1e-12, init=init)
        assert again.nit <= 2 < r.nit
        assert again.potentials[0][4] == INF
        np.testing.assert_allclose(again.plan, r.plan, rtol=1e-10)
    many = {"unbalanced": rho, "tol": 1e-12}
    batch = ot.sinkhorn_batch(a, b, np.stack([M, 2 * M]), reg, **many)
    np.testing.assert_allclose(batch.plan[0], r.plan, rtol=1e-10)
    for init in (batch, batch.potentials):
        again = ot.sinkhorn_batch(a, b, np.stack([M, 2 * M]), reg, init=init, **many)
        assert (again.nit <= 2).all()
        assert again.potentials[0][0, 4] == INF
        np.testing.assert_allclose(again.plan, batch.plan, rtol=1e-10)
    with pytest.raises(ValueError, match=r"`init\[0\]` has a non-finite value at index 0: nan"):
        ot.sinkhorn(a, b, M, reg, unbalanced=rho, init=(np.full(a.size, np.nan), np.zeros(b.size)))
    for hard in ((INF, 0.3), (0.5, INF)):
        with pytest.raises(ValueError, match="`M` forbids"):
            ot.sinkhorn(a, b, M, reg, unbalanced=hard)
    with pytest.raises(ValueError, match="`M` forbids"):
        ot.sinkhorn(a, b, np.full(M.shape, INF), reg, unbalanced=1.0)


@pytest.mark.parametrize("far", [30.0, 200.0, 1e4])
@pytest.mark.parametrize("rho", [(INF, 5.0), (5.0, 5.0)])
@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_bins_too_far_to_serve(far, rho, method):
    """Their marginals underflow; the others must not notice, and their potentials are the c-transform."""
    rng = np.random.default_rng(0)
    X, Y, reg = rng.standard_normal((40, 2)), rng.standard_normal((40, 2)), 0.5
    near, M = ot.dist(X, Y), ot.dist(X, np.vstack([Y, np.full((6, 2), far)]))
    a, b = np.full(40, 1 / 40), np.full(46, 1 / 46)
    r = ot.sinkhorn(a, b, M, reg, unbalanced=rho, method=method)
    rest = ot.sinkhorn(a, b[:40], near, reg, unbalanced=rho, method=method)
    assert r.success
    assert rest.success
    assert r.nit <= 200
    np.testing.assert_allclose(r.plan[:, :40], rest.plan, atol=1e-9)
    f, g = r.potentials
    lse = np.logaddexp.reduce(np.log(a)[:, None] + (f[:, None] - M[:, 40:]) / reg, axis=0)
    np.testing.assert_allclose(g[40:], -reg * lse / (1 + reg / rho[1]), rtol=1e-9)
    # Their mass stays at the price rho; the reference plan a b^T grows by it as well.
    left = b[40:].sum()
    assert r.value == pytest.approx(rest.value + left * (rho[1] + reg), rel=1e-8)
    flipped = ot.sinkhorn(b, a, M.T.copy(), reg, unbalanced=rho[::-1], method=method)
    assert flipped.value == pytest.approx(r.value, rel=1e-8)


def test_refusals():
    a, b, M, reg = problem()
    for bad, kind in ((0, ValueError), (-1.0, ValueError), (np.nan, ValueError), ("x", TypeError)):
        with pytest.raises(kind, match="`unbalanced`"):
            ot.sinkhorn(a, b, M, reg, unbalanced=bad)
    with pytest.raises(ValueError, match=r"`unbalanced\[1\]`"):
        ot.sinkhorn(a, b, M, reg, unbalanced=(1.0, -2.0))
    with pytest.raises(ValueError, match="`unbalanced` has 3 items"):
        ot.sinkhorn(a, b, M, reg, unbalanced=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="`method` is 'sns'"):
        ot.sinkhorn(a, b, M, reg, unbalanced=1.0, method="sns")
    with pytest.raises(ValueError, match="`round`"):
        ot.sinkhorn(a, b, M, reg, unbalanced=1.0, round=True)
    with pytest.raises(ValueError, match="`reg_type`"):
        ot.sinkhorn(a, b, M, reg, unbalanced=1.0, reg_type="entropy")
    with pytest.raises(ValueError, match="`unbalanced`"):
        ot.sinkhorn(a, 2 * b, M, reg)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    reg=st.sampled_from([1.0, 0.1, 0.01, 2e-3]),
    prices=st.tuples(*[st.sampled_from([1e-3, 0.02, 0.5, 10.0, 1e4, 1e9, INF])] * 2),
    masses=st.tuples(*[st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e7])] * 2),
    empty=st.booleans(),
    forbid=st.booleans(),
    method=st.sampled_from(["auto", "newton"]),
)
def test_awkward_problems(n, m, seed, reg, prices, masses, empty, forbid, method):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.01, rng.random(m) + 0.01
    M = rng.random((n, m))
    if empty and n > 2 and m > 2:
        a[rng.integers(n)] = 0
        b[rng.integers(m)] = 1e-30
    if forbid and n > 1 and m > 1 and min(prices) < 1e4:  # else the hard problem may have no solution
        M[rng.integers(n), rng.integers(m)] = INF
        if not np.isfinite(M[np.ix_(a > 0, b > 0)]).any(0).all():
            return
        if not np.isfinite(M[np.ix_(a > 0, b > 0)]).any(1).all():
            return
    a, b = masses[0] * a / a.sum(), masses[1] * b / b.sum()
    if prices == (INF, INF):
        b *= a.sum() / b.sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r = ot.sinkhorn(a, b, M, reg, unbalanced=prices, method=method, tol=1e-8)
    assert r.success
    assert r.err <= 1e-8
    if prices == (INF, INF) or r.plan.sum() < 1e-280:
        return
    f, g = r.potentials
    for marginal, weight, q, rho in ((r.plan.sum(1), a, f, prices[0]), (r.plan.sum(0), b, g, prices[1])):
        wanted = np.where(weight > 0, weight * np.exp(-q / rho), 0.0)
        scale = 1e-15 * (np.abs(q).max() / rho + np.abs(f).max() / reg + np.abs(g).max() / reg)
        assert np.abs(marginal - wanted).sum() <= (2e-8 + 10 * scale) * r.plan.sum()
