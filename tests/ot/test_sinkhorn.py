"""`aitken.ot.sinkhorn` against the oracle, closed forms, linear programming and its own symmetries."""

from __future__ import annotations

import logging
import pickle
import re
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from aitken import ConvergenceWarning, Status, ot
from aitken.datasets import (
    edge_case,
    gaussian_clouds,
    image_pair,
    interval_densities,
    random_assignment,
)
from tests.oracles import ot as oracle

PROBLEMS = {
    "assignment": random_assignment(40, reg=1e-2),
    "clouds": gaussian_clouds(40, 30, seed=1, reg=1e-2),
    "clouds-tall": gaussian_clouds(30, 45, seed=2, reg=3e-3),
    "interval": interval_densities(50, metric="cityblock", reg=5e-2),
}
NEWTON = [
    {"method": "newton", "linear_solver": solver, "sparsify": rule}
    for solver in ("auto", "jacobi", "hybrid", "direct")
    for rule in ("mass", "topk", "ssns")
]
METHODS = [{"method": "auto"}, {"method": "sinkhorn"}, {"method": "sns", "lam": 1.0}, *NEWTON]
PLAN_FORMS = ("dense", "sparse", "lazy")


def solve(problem, **options):
    return ot.sinkhorn(problem.a, problem.b, problem.M, options.pop("reg", problem.reg), **options)


def weights(n, seed=0, low=0.1):
    w = np.random.default_rng(seed).random(n) + low
    return w / w.sum()


def kl_plan(a, b, M, reg, potentials):
    """The plan that KL potentials define; bins without mass have no entries."""
    f, g = potentials
    return a[:, None] * b[None, :] * np.exp((f[:, None] + g[None, :] - M) / reg)


def marginal_error(P, a, b):
    return np.abs(P.sum(axis=1) - a).sum() + np.abs(P.sum(axis=0) - b).sum()


@pytest.fixture(scope="module", params=PROBLEMS)
def reference(request):
    """A problem with the oracle's solution to 1e-13."""
    problem = PROBLEMS[request.param]
    found = oracle.newton_oracle(problem.a, problem.b, problem.M, problem.reg, tol=1e-13)
    assert found.err <= 1e-13
    return problem, found


# ----------------------------------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("options", METHODS, ids=lambda o: "-".join(map(str, o.values())))
def test_oracle(reference, options):
    problem, found = reference
    a, b, M, reg = problem.a, problem.b, problem.M, problem.reg
    result = solve(problem, tol=1e-11, maxiter=200_000, **options)
    assert result.success
    assert result.err <= 1e-11

    f, g = oracle.gauge(a, b, *oracle.to_kl(a, b, found.x, found.y, reg))
    P, _, _ = oracle.exp_pass(M, found.x, found.y, reg)
    # A gradient of norm err moves the potentials by at most reg err / lambda, with lambda the smallest
    # eigenvalue of the Hessian beside that of its null vector. The gauge at most doubles it.
    lowest = np.linalg.eigvalsh(oracle.hessian(P))[1]
    atol = 2 * reg * (result.err + found.err) / lowest + 1e-14
    assert atol < 1e-3 * reg
    np.testing.assert_allclose(result.potentials[0], f, rtol=0, atol=atol)
    np.testing.assert_allclose(result.potentials[1], g, rtol=0, atol=atol)
    np.testing.assert_allclose(result.plan, P, rtol=0, atol=1e-9)
    value, linear = oracle.transport_values(a, b, M, found.x, found.y, reg)
    assert result.value == pytest.approx(value, rel=1e-10)
    assert result.value_linear == pytest.approx(linear, rel=1e-8)
    # The certificate is that of the returned potentials.
    assert marginal_error(kl_plan(a, b, M, reg, result.potentials), a, b) == pytest.approx(
        result.err, rel=1e-2, abs=1e-14
    )


def test_entropy_convention(reference):
    problem, found = reference
    a, b, M, reg = problem.a, problem.b, problem.M, problem.reg
    kl, entropy = (solve(problem, tol=1e-11, reg_type=kind) for kind in ("kl", "entropy"))
    value, linear = oracle.transport_values(a, b, M, found.x, found.y, reg, "entropy")
    assert entropy.value == pytest.approx(value, rel=1e-10)
    assert entropy.value_linear == kl.value_linear == pytest.approx(linear, rel=1e-8)
    np.testing.assert_array_equal(entropy.plan, kl.plan)
    x, y = entropy.potentials
    np.testing.assert_allclose(x - reg * np.log(a), kl.potentials[0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(y - reg * np.log(b), kl.potentials[1], rtol=0, atol=1e-13)
    # The two objectives on the returned plan, from their definitions.
    P = entropy.plan
    log_p = np.log(P, out=np.zeros_like(P), where=P > 0)
    assert entropy.value == pytest.approx((M * P).sum() + reg * (P * log_p).sum(), rel=1e-9)
    log_q = log_p - np.log(np.outer(a, b))
    assert kl.value == pytest.approx((M * P).sum() + reg * (P * log_q)[P > 0].sum(), rel=1e-9)


def test_gauge(reference):
    problem, _ = reference
    result = solve(problem, tol=1e-11)
    f, g = result.potentials
    assert problem.a @ f == pytest.approx(problem.b @ g, rel=1e-12)
    assert problem.a @ f + problem.b @ g == pytest.approx(result.value, rel=1e-10)


def test_counts_add_up(reference):
    result = solve(reference[0], method="newton")
    assert result.nit == result.nit_sinkhorn + result.nit_newton
    kinds = list(result.history["kind"])
    assert kinds.count("newton") == result.nit_newton
    assert result.history["n_cg"].sum() == result.nit_cg
    assert result.n_exp >= 2


# ------------------------------------------------------------------------------------------------- symmetries

SIZES = st.tuples(st.integers(2, 9), st.integers(2, 9))


@st.composite
def small_problems(draw):
    """(a, b, M, reg) with costs in [0, 1], weights within a factor of 30 and regs from mild to sharp."""
    n, m = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reg = draw(st.sampled_from([1.0, 0.1, 0.02]))
    return (
        weights(n, rng.integers(2**32), 0.03),
        weights(m, rng.integers(2**32), 0.03),
        rng.random((n, m)),
        reg,
    )


def tight(*args, **options):
    return ot.sinkhorn(*args, tol=1e-12, **options)


@given(small_problems(), st.sampled_from([1e-8, 0.3, 7.0, 1e9]))
def test_scaling_cost_and_reg_together(problem, factor):
    a, b, M, reg = problem
    one, scaled = tight(a, b, M, reg), tight(a, b, factor * M, factor * reg)
    np.testing.assert_allclose(scaled.plan, one.plan, rtol=0, atol=1e-10)
    np.testing.assert_allclose(scaled.potentials[0] / factor, one.potentials[0], rtol=0, atol=1e-8)
    assert scaled.value == pytest.approx(factor * one.value, rel=1e-8, abs=1e-10 * factor)


@given(small_problems(), st.randoms(use_true_random=False))
def test_permutation(problem, random):
    a, b, M, reg = problem
    rows, cols = list(range(a.size)), list(range(b.size))
    random.shuffle(rows)
    random.shuffle(cols)
    one, other = tight(a, b, M, reg), tight(a[rows], b[cols], M[np.ix_(rows, cols)], reg)
    np.testing.assert_allclose(other.plan, one.plan[np.ix_(rows, cols)], rtol=0, atol=1e-10)
    np.testing.assert_allclose(other.potentials[0], one.potentials[0][rows], rtol=0, atol=1e-8)


@given(small_problems())
def test_transposition(problem):
    a, b, M, reg = problem
    one, other = tight(a, b, M, reg), tight(b, a, M.T, reg)
    np.testing.assert_allclose(other.plan, one.plan.T, rtol=0, atol=1e-10)
    for mine, theirs in zip(one.potentials, other.potentials[::-1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-8)
    copied = tight(b, a, np.ascontiguousarray(M.T), reg)
    np.testing.assert_allclose(copied.plan, one.plan.T, rtol=0, atol=1e-10)


@given(small_problems(), st.floats(-50.0, 50.0))
def test_shifting_the_cost_shifts_the_potentials(problem, size):
    a, b, M, reg = problem
    rng = np.random.default_rng(0)
    f, g = size * rng.random(a.size), rng.random(b.size)
    one, other = tight(a, b, M, reg), tight(a, b, M + f[:, None] + g[None, :], reg)
    np.testing.assert_allclose(other.plan, one.plan, rtol=0, atol=1e-10)
    assert other.value == pytest.approx(one.value + a @ f + b @ g, rel=1e-9, abs=1e-9)
    moved = other.potentials[0] - one.potentials[0] - f
    assert np.ptp(moved) < 1e-8
    assert other.value_linear == pytest.approx(one.value_linear + a @ f + b @ g, rel=1e-8, abs=1e-8)


@given(small_problems(), st.sampled_from([1e-12, 0.25, 40.0, 1e15]))
def test_mass_scaling(problem, mass):
    a, b, M, reg = problem
    one, other = tight(a, b, M, reg), tight(mass * a, mass * b, M, reg)
    np.testing.assert_allclose(other.plan, mass * one.plan, rtol=0, atol=1e-10 * mass)
    np.testing.assert_allclose(other.potentials[0], one.potentials[0], rtol=0, atol=1e-8)
    assert other.value_linear == pytest.approx(mass * one.value_linear, rel=1e-8)
    assert other.value == pytest.approx(mass * one.value, rel=1e-8, abs=1e-10 * mass)
    assert other.err <= 1e-12


def test_mass_in_the_entropy_convention():
    p = PROBLEMS["clouds"]
    result = ot.sinkhorn(3 * p.a, 3 * p.b, p.M, p.reg, reg_type="entropy", tol=1e-12)
    x, y = result.potentials
    P = np.exp((x[:, None] + y[None, :] - p.M) / p.reg)
    np.testing.assert_allclose(P, result.plan, rtol=1e-9)
    log_p = np.log(P, out=np.zeros_like(P), where=P > 0)
    assert result.value == pytest.approx((p.M * P).sum() + p.reg * (P * log_p).sum(), rel=1e-9)


@given(small_problems())
def test_large_reg_gives_the_product(problem):
    a, b, M, _ = problem
    result = tight(a, b, M, 1e7)
    np.testing.assert_allclose(result.plan, np.outer(a, b), rtol=1e-6)
    assert result.value == pytest.approx(a @ M @ b, rel=1e-6)


def linear_programme(a, b, M):
    n, m = M.shape
    rows = sparse.kron(sparse.eye_array(n), np.ones((1, m)))
    cols = sparse.kron(np.ones((1, n)), sparse.eye_array(m))
    found = linprog(M.ravel(), A_eq=sparse.vstack([rows, cols]), b_eq=np.concatenate([a, b]))
    assert found.status == 0
    return found.fun


@given(small_problems())
def test_small_reg_gives_the_linear_programme(problem):
    a, b, M, _ = problem
    exact = linear_programme(a, b, M)
    entropy = min(-(a @ np.log(a)), -(b @ np.log(b)))  # bounds KL(P | a b^T) of every plan
    for reg in (1e-1, 1e-2, 1e-3):
        result = ot.sinkhorn(a, b, M, reg)
        assert -1e-9 <= result.value_linear - exact <= reg * entropy + 1e-9
        assert result.value_linear - 1e-9 <= result.value <= exact + reg * entropy + 1e-9


# ----------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("reg", [0.05, 0.5, 5.0])
def test_gaussians_on_the_line(reg):
    """Entropic transport between N(m, s^2) and N(k, t^2) with squared distances, KL against the product.

    The plan is Gaussian with covariance (D - reg / 2) / 2, D = sqrt(4 s^2 t^2 + reg^2 / 4), and the value
    is (m - k)^2 + s^2 + t^2 - D + (reg / 2) (1 - log(reg) + log(D + reg / 2)).
    """
    m, s, k, t = 0.3, 0.8, -0.5, 1.3
    x, y = np.linspace(m - 8 * s, m + 8 * s, 300), np.linspace(k - 8 * t, k + 8 * t, 340)
    a, b = np.exp(-0.5 * ((x - m) / s) ** 2), np.exp(-0.5 * ((y - k) / t) ** 2)
    a, b = a / a.sum(), b / b.sum()
    result = ot.sinkhorn(a, b, ot.dist(x[:, None], y[:, None]), reg)
    D = np.sqrt(4 * s**2 * t**2 + reg**2 / 4)
    value = (m - k) ** 2 + s**2 + t**2 - D + 0.5 * reg * (1 - np.log(reg) + np.log(D + reg / 2))
    assert result.value == pytest.approx(value, abs=1e-7)
    covariance = (x - m) @ result.plan @ (y - k)
    assert covariance == pytest.approx(0.5 * (D - reg / 2), abs=1e-7)
    assert result.value_linear == pytest.approx((m - k) ** 2 + s**2 + t**2 - 2 * covariance, abs=1e-7)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_points_on_the_line_are_matched_in_order(metric):
    rng = np.random.default_rng(3)
    n = 60
    x, y = rng.random(n), rng.random(n) ** 2
    M = ot.dist(x[:, None], y[:, None], metric)
    power = 2 if metric == "sqeuclidean" else 1
    exact = np.mean(np.abs(np.sort(x) - np.sort(y)) ** power)
    for reg in (1e-3, 1e-4):
        gap = ot.sinkhorn(None, None, M, reg).value_linear - exact
        assert -1e-9 <= gap <= reg * np.log(n)
    # At 1e-5 the strictly convex cost's plan is the sorted matching itself.
    if power == 2:
        plan = ot.sinkhorn(None, None, M, 1e-6).plan
        order = np.empty(n, dtype=int)
        order[np.argsort(x)] = np.argsort(y)
        assert n * plan[np.arange(n), order].mean() > 0.9


def test_two_by_two():
    """One free entry p: p (1 - 2 .. + p) against the odds ratio exp(-(M00 + M11 - M01 - M10) / reg)."""
    a, b, M, reg = np.array([0.3, 0.7]), np.array([0.6, 0.4]), np.array([[0.1, 0.9], [0.4, 0.3]]), 0.25
    odds = np.exp(-(M[0, 0] + M[1, 1] - M[0, 1] - M[1, 0]) / reg)
    # p (1 - a0 - b0 + p) = odds (a0 - p) (b0 - p)
    roots = np.roots([1 - odds, 1 - a[0] - b[0] + odds * (a[0] + b[0]), -odds * a[0] * b[0]])
    p = roots[(roots > 0) & (roots < min(a[0], b[0]))].item()
    expected = np.array([[p, a[0] - p], [b[0] - p, 1 - a[0] - b[0] + p]])
    np.testing.assert_allclose(ot.sinkhorn(a, b, M, reg, tol=1e-14).plan, expected, atol=1e-13)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("method", ["auto", "newton", "sns", "sinkhorn"])
def test_one_row_or_column(shape, method):
    n, m = shape
    a, b = weights(n), weights(m, 1)
    M = np.random.default_rng(2).random(shape)
    result = ot.sinkhorn(a, b, M, 1e-3, method=method)
    assert result.success
    np.testing.assert_allclose(result.plan, np.outer(a, b), rtol=0, atol=1e-12)
    assert result.value == result.value_linear == pytest.approx((M * np.outer(a, b)).sum(), rel=1e-10) or (
        result.value == pytest.approx(result.value_linear, rel=1e-10)
    )


# ---------------------------------------------------------------------------------------------- awkward input


@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn"])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_empty_bins(method, reg_type, order):
    p = edge_case("zero_bins", 25, 20, reg=1e-2)
    result = ot.sinkhorn(
        p.a, p.b, np.asarray(p.M, order=order), p.reg, method=method, reg_type=reg_type, tol=1e-12
    )
    assert result.success
    rows, cols = p.a > 0, p.b > 0
    assert (result.plan[~rows] == 0).all()
    assert (result.plan[:, ~cols] == 0).all()
    inner = oracle.newton_oracle(p.a[rows], p.b[cols], p.M[np.ix_(rows, cols)], p.reg, tol=1e-13)
    f, g = oracle.gauge(p.a[rows], p.b[cols], *oracle.to_kl(p.a[rows], p.b[cols], inner.x, inner.y, p.reg))
    f, g = oracle.extend_zero_bins(p.a, p.b, p.M, f, g, p.reg)
    kl = solve(p, method=method, tol=1e-12)
    np.testing.assert_allclose(kl.potentials[0], f, rtol=0, atol=1e-8)
    np.testing.assert_allclose(kl.potentials[1], g, rtol=0, atol=1e-8)
    for q in result.potentials:
        assert np.isfinite(q).all()
    smaller = ot.sinkhorn(p.a[rows], p.b[cols], p.M[np.ix_(rows, cols)], p.reg, reg_type=reg_type, tol=1e-12)
    assert result.value == pytest.approx(smaller.value, rel=1e-10)
    np.testing.assert_allclose(result.plan[np.ix_(rows, cols)], smaller.plan, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn"])
@pytest.mark.parametrize("reg", [1e-1, 1e-2, 1e-3])
def test_bins_of_1e_30(method, reg):
    p = edge_case("tiny_bins", reg=reg)
    result = solve(p, method=method, maxiter=100_000)
    assert result.success
    assert marginal_error(result.plan, p.a, p.b) <= 1e-9 + 1e-14
    # Tiny bins of the columns, which are scaled last, are right relative to their own mass too.
    np.testing.assert_allclose(result.plan.sum(axis=0), p.b, rtol=1e-6)
    for q in result.potentials:
        assert np.isfinite(q).all()


def test_duplicated_points():
    p = edge_case("duplicated_points", reg=1e-3)
    result = solve(p, tol=1e-12)
    # Equal columns of the cost have equal potentials, and plans in the ratio of their masses.
    assert result.potentials[1][-1] == pytest.approx(result.potentials[1][0], abs=1e-9)
    np.testing.assert_allclose(result.plan[:, -1] / p.b[-1], result.plan[:, 0] / p.b[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.potentials[0][1::2], result.potentials[0][:-1:2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn"])
@pytest.mark.parametrize("linear_solver", ["jacobi", "hybrid", "direct"])
def test_forbidden_pairs(method, linear_solver):
    p = edge_case("forbidden_pairs", reg=1e-2)
    result = solve(p, method=method, linear_solver=linear_solver, maxiter=100_000)
    assert result.success
    assert (result.plan[np.isinf(p.M)] == 0).all()
    assert marginal_error(result.plan, p.a, p.b) <= 1e-9 + 1e-14
    assert np.isfinite([result.value, result.value_linear]).all()
    for form in ("sparse", "lazy"):
        other = solve(p, method=method, linear_solver=linear_solver, return_plan=form, maxiter=100_000).plan
        np.testing.assert_allclose(other.toarray(), result.plan, rtol=0, atol=1e-10)


def blocks(masses_a, masses_b, size=6, seed=0):
    """Diagonal blocks allowed, all else forbidden; uniform weights inside a block."""
    k = len(masses_a)
    M = np.full((k * size, k * size), np.inf)
    rng = np.random.default_rng(seed)
    for i in range(k):
        M[i * size : (i + 1) * size, i * size : (i + 1) * size] = rng.random((size, size))
    return np.repeat(masses_a, size) / size, np.repeat(masses_b, size) / size, M


@pytest.mark.parametrize("options", METHODS, ids=lambda o: "-".join(map(str, o.values())))
def test_separate_blocks(options):
    """Each block is a problem of its own; the dual has one free constant per block."""
    a, b, M = blocks([0.2, 0.5, 0.3], [0.2, 0.5, 0.3])
    result = ot.sinkhorn(a, b, M, 0.05, **options)
    assert result.success
    for i in range(3):
        s = slice(6 * i, 6 * i + 6)
        own = ot.sinkhorn(a[s], b[s], M[s, s], 0.05)
        np.testing.assert_allclose(result.plan[s, s], own.plan, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", METHODS, ids=lambda o: "-".join(map(str, o.values())))
def test_infeasible_patterns_end_honestly(options):
    """Blocks whose masses differ: no plan exists, and 0.2 is the smallest error there is."""
    a, b, M = blocks([0.6, 0.4], [0.5, 0.5])
    start = time.perf_counter()
    with pytest.warns(ConvergenceWarning):
        result = ot.sinkhorn(a, b, M, 0.05, maxiter=2000, **options)
    assert time.perf_counter() - start < 10
    assert not result.success
    assert result.status != Status.CONVERGED
    assert result.err >= 0.2 - 1e-12
    assert not np.isnan(result.plan).any()
    assert not np.isnan(result.potentials[0]).any()


def test_infeasible_by_a_cut_that_no_row_shows():
    """Two rows that reach only one column, which is too small for both (Hall's condition)."""
    M = np.zeros((3, 3))
    M[:2, 1:] = np.inf
    with pytest.warns(ConvergenceWarning):
        result = ot.sinkhorn(None, None, M, 0.1, maxiter=3000)
    assert result.status != Status.CONVERGED


def test_a_bin_with_nowhere_to_go_is_named():
    M = np.random.default_rng(0).random((4, 5))
    M[2] = np.inf
    with pytest.raises(ValueError, match=r"`M` forbids \(inf\) every pair of row 2"):
        ot.sinkhorn(None, None, M, 0.1)
    with pytest.raises(ValueError, match="column 2"):
        ot.sinkhorn(None, None, M.T, 0.1)
    a = np.array([0.5, 0.25, 0.0, 0.25])  # without mass it may stay
    result = ot.sinkhorn(a, None, M, 0.1)
    assert result.success
    M = np.random.default_rng(0).random((3, 3))
    M[1, :2] = np.inf  # reaches only a column that has no mass
    with pytest.raises(ValueError, match="row 1"):
        ot.sinkhorn(None, [0.5, 0.5, 0.0], M, 0.1)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_costs_of_any_magnitude(scale):
    p = PROBLEMS["clouds"]
    plain = solve(p)
    scaled = ot.sinkhorn(p.a, p.b, scale * p.M, scale * p.reg)
    assert scaled.success
    np.testing.assert_allclose(scaled.plan, plain.plan, rtol=0, atol=1e-8)


def test_constant_cost():
    a, b = weights(5), weights(8, 1)
    for reg in (1e-6, 1.0):
        result = ot.sinkhorn(a, b, np.full((5, 8), 3.5), reg)
        np.testing.assert_allclose(result.plan, np.outer(a, b), rtol=1e-9)
        assert result.value == pytest.approx(3.5, rel=1e-12)


def test_mass_must_agree():
    M = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"`a` and `b` must have equal mass; they sum to 1\.0 and 2\.0"):
        ot.sinkhorn([0.5, 0.5], [1.0, 1.0], M, 1.0)
    with pytest.raises(ValueError, match="`a` and `b` must have equal mass"):
        ot.sinkhorn([2.0, 2.0], None, M, 1.0)
    with pytest.raises(ValueError, match="`a` has no mass"):
        ot.sinkhorn([0.0, 0.0], None, M, 1.0)
    with pytest.raises(ValueError, match=r"`b`.*-0\.5"):
        ot.sinkhorn(None, [1.5, -0.5], M, 1.0)
    # What float32 rounds is no mismatch.
    a = np.full(3, 1 / 3, dtype=np.float32)
    assert ot.sinkhorn(a, None, np.zeros((3, 4)), 1.0).success


@pytest.mark.parametrize("reg", [0, -1.0, np.nan, np.inf])
def test_reg_is_positive(reg):
    with pytest.raises(ValueError, match="`reg`"):
        ot.sinkhorn(None, None, np.zeros((2, 2)), reg)


def test_reg_none_points_to_the_exact_solver():
    with pytest.raises(TypeError, match="exact_ot"):
        ot.sinkhorn(None, None, np.zeros((2, 2)), None)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "newtn"}, ValueError, "`method`.*did you mean 'newton'"),
        ({"reg_type": "l2"}, ValueError, "`reg_type`"),
        ({"linear_solver": "lu"}, ValueError, "`linear_solver`"),
        ({"sparsify": 3}, TypeError, "`sparsify`"),
        ({"return_plan": True}, (TypeError, ValueError), "`return_plan`"),
        ({"return_plan": "csr"}, ValueError, "`return_plan`"),
        ({"warmup": 0}, ValueError, "`warmup`"),
        ({"warmup": 2**31}, ValueError, "`warmup` must be <= 2147483647"),
        ({"n_threads": 2**31}, ValueError, "`n_threads` must be <= 2147483647"),
        ({"maxiter": 2**63}, ValueError, "`maxiter` must be <= 9223372036854775807"),
        ({"unbalanced": 1e26}, ValueError, r"`unbalanced` is 1e\+26, beyond 1e\+18 times `reg`"),
        ({"lam": 0.0}, ValueError, "`lam`"),
        ({"lam": 1.5}, ValueError, "`lam`"),
        ({"round": 1}, TypeError, "`round`"),
        ({"eps_scaling": "no"}, TypeError, "`eps_scaling`"),
        ({"store_plan": None}, TypeError, "`store_plan`"),
        ({"verbose": "much"}, TypeError, "`verbose`"),
        ({"round": True, "return_plan": "sparse"}, ValueError, "`round`"),
        ({"overwrite_cost": True, "return_plan": "lazy"}, ValueError, "`overwrite_cost`"),
        ({"init": 3}, TypeError, "`init`"),
        ({"init": (np.zeros(3),)}, ValueError, "`init` has 1 item"),
        ({"init": (np.zeros(3), np.zeros(3))}, ValueError, r"`init\[1\]` has shape \(3,\)"),
        ({"init": (np.zeros(3), np.full(4, np.nan))}, ValueError, r"`init\[1\]`"),
    ],
)
def test_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        ot.sinkhorn(None, None, np.random.default_rng(0).random((3, 4)), 0.1, **options)


# ------------------------------------------------------------------------------------------------ warm starts


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("form", ["result", "potentials", "lists"])
def test_warm_start(order, reg_type, form):
    p = gaussian_clouds(120, 90, seed=3, reg=1e-3)
    M = np.asarray(p.M, order=order)
    cold = ot.sinkhorn(p.a, p.b, M, p.reg, method="newton", reg_type=reg_type)
    init = {
        "result": cold,
        "potentials": cold.potentials,
        "lists": [q.tolist() for q in cold.potentials],
    }[form]
    warm = ot.sinkhorn(p.a, p.b, M, p.reg, method="newton", init=init, reg_type=reg_type)
    assert warm.success
    assert warm.nit_newton <= 1 < cold.nit_newton
    np.testing.assert_allclose(warm.plan, cold.plan, rtol=0, atol=1e-9)


def test_warm_start_from_a_neighbour():
    """Costs moved by 1 % of reg: at most two Newton steps instead of seven."""
    p = gaussian_clouds(120, 90, seed=3, reg=1e-2)
    cold = solve(p, method="newton")
    rng = np.random.default_rng(0)
    M = p.M + 1e-2 * p.reg * rng.random(p.M.shape)
    warm = ot.sinkhorn(p.a, p.b, M, p.reg, method="newton", init=cold)
    assert warm.success
    assert warm.nit_newton <= 2
    again = ot.sinkhorn(p.a, p.b, M, p.reg, method="newton")
    assert warm.nit < again.nit
    np.testing.assert_allclose(warm.plan, again.plan, rtol=0, atol=1e-8)


def test_warm_start_leaves_what_it_was_given():
    p = PROBLEMS["clouds"]
    cold = solve(p)
    kept = [q.copy() for q in cold.potentials]
    solve(p, init=cold.potentials, reg=2 * p.reg)
    solve(p, init=cold, reg=2 * p.reg)
    for q, k in zip(cold.potentials, kept, strict=True):
        np.testing.assert_array_equal(q, k)


@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn", "sns"])
def test_bad_warm_starts_are_survived(method):
    p = PROBLEMS["clouds"]
    rng = np.random.default_rng(1)
    init = (100 * rng.standard_normal(40), 100 * rng.standard_normal(30))
    result = solve(p, init=init, method=method, maxiter=100_000, **({"lam": 1.0} if method == "sns" else {}))
    assert result.success
    np.testing.assert_allclose(result.plan, solve(p).plan, rtol=0, atol=1e-7)


def test_warm_start_with_empty_bins():
    p = edge_case("zero_bins", 25, 20, reg=1e-2)
    cold = solve(p, method="newton")
    for init in (cold, cold.potentials):
        warm = solve(p, method="newton", init=init)
        assert warm.nit_newton <= 1
        np.testing.assert_allclose(warm.plan, cold.plan, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------ forms of the plan


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("store_plan", [True, False])
def test_plan_forms_agree(order, dtype, store_plan, tolerance):
    p = gaussian_clouds(70, 45, seed=4, reg=5e-3)
    M = np.asarray(p.M, dtype=dtype, order=order)
    dense, *others, none = (
        ot.sinkhorn(2 * p.a, 2 * p.b, M, p.reg, return_plan=form, store_plan=store_plan)
        for form in ("dense", "sparse", "lazy", False)
    )
    kernel = max(tolerance(dtype).kernel, 4e-12)  # a sparse plan drops shares of 1e-12
    for other in others:
        assert other.plan.shape == dense.plan.shape
        assert other.plan.dtype == dense.plan.dtype == dtype
        np.testing.assert_allclose(other.plan.toarray(), dense.plan, rtol=0, atol=kernel)
        assert other.err == dense.err
    assert isinstance(others[0].plan, sparse.csr_array)
    assert others[0].plan.nnz < dense.plan.size
    assert none.plan is None
    assert none.value == dense.value
    np.testing.assert_array_equal(none.potentials[0], dense.potentials[0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_recomputing_the_kernel_changes_rounding_only(dtype, tolerance):
    p = gaussian_clouds(90, 60, seed=5, reg=5e-3)
    M = p.M.astype(dtype)
    stored, recomputed = (
        ot.sinkhorn(p.a, p.b, M, p.reg, method="newton", store_plan=keep) for keep in (True, False)
    )
    assert recomputed.success
    assert abs(recomputed.nit - stored.nit) <= 1
    np.testing.assert_allclose(recomputed.plan, stored.plan, rtol=0, atol=tolerance(dtype).solve)


@pytest.fixture(scope="module", params=["C", "F", "rounded", "zero bins", "float32"])
def lazy(request):
    """A lazy plan with the dense array it stands for."""
    p = (
        edge_case("zero_bins", 33, 21, reg=1e-2)
        if request.param == "zero bins"
        else gaussian_clouds(33, 21, reg=1e-2)
    )
    M = np.asarray(p.M, order="F") if request.param == "F" else p.M
    M = M.astype(np.float32) if request.param == "float32" else M
    options = {"round": request.param == "rounded", "tol": 1e-3 if request.param == "rounded" else None}
    args = (1.5 * p.a, 1.5 * p.b, M, p.reg)
    return ot.sinkhorn(*args, return_plan="lazy", **options).plan, ot.sinkhorn(*args, **options).plan


class TestLazyPlan:
    def close(self, lazy_value, dense_value, dtype):
        atol = 1e-13 if dtype == np.float64 else 3e-7
        np.testing.assert_allclose(lazy_value, dense_value, rtol=0, atol=atol)

    def test_toarray(self, lazy):
        plan, dense = lazy
        assert plan.shape == dense.shape
        assert plan.dtype == dense.dtype
        for array in (plan.toarray(), np.asarray(plan), plan.rows(0, 33), np.array(plan, dtype=np.float64)):
            self.close(array, dense, plan.dtype)
        assert np.asarray(plan, dtype=np.float32).dtype == np.float32
        with pytest.raises(ValueError, match="without computing it"):
            np.asarray(plan, copy=False)

    def test_products(self, lazy):
        plan, dense = lazy
        rng = np.random.default_rng(0)
        v, w = rng.standard_normal(21), rng.standard_normal(33)
        V, W = rng.standard_normal((21, 3)), rng.standard_normal((4, 33))
        self.close(plan @ v, dense @ v, plan.dtype)
        self.close(w @ plan, w @ dense, plan.dtype)
        self.close(plan.T @ w, dense.T @ w, plan.dtype)
        self.close(v @ plan.T, v @ dense.T, plan.dtype)
        self.close(plan @ V, dense @ V, plan.dtype)
        self.close(W @ plan, W @ dense, plan.dtype)
        self.close(plan @ v.tolist(), dense @ v, plan.dtype)
        assert (plan @ v).dtype == np.float64

    def test_product_shapes(self, lazy):
        plan, _ = lazy
        for wrong in (np.ones(33), np.ones((33, 2))):
            with pytest.raises(ValueError, match=r"`other` has shape \(33"):
                plan @ wrong
        with pytest.raises(ValueError, match="`other` has shape"):
            np.ones(21) @ plan

    def test_rows_and_blocks(self, lazy):
        plan, dense = lazy
        self.close(plan.rows(5, 12), dense[5:12], plan.dtype)
        self.close(plan.T.rows(5, 12), dense.T[5:12], plan.dtype)
        assert plan.rows(4, 4).shape == (0, 21)
        for view, array in ((plan, dense), (plan.T, dense.T)):
            starts, parts = zip(*view.blocks(8), strict=True)
            assert list(starts) == list(range(0, array.shape[0], 8))
            self.close(np.concatenate(parts), array, plan.dtype)
        for start, stop in ((-1, 2), (3, 2), (0, 34)):
            with pytest.raises(ValueError, match=r"`(start|stop)`"):
                plan.rows(start, stop)

    def test_topk(self, lazy):
        plan, dense = lazy
        columns, values = plan.topk(4)
        assert columns.shape == values.shape == (33, 4)
        self.close(values, -np.sort(-dense, axis=1)[:, :4], plan.dtype)
        self.close(np.take_along_axis(dense, columns, axis=1), values, plan.dtype)
        assert (np.diff(values, axis=1) <= 0).all()
        for k in (0, 22):
            with pytest.raises(ValueError, match="`k`"):
                plan.topk(k)

    def test_transpose_twice(self, lazy):
        plan, dense = lazy
        assert plan.T.shape == (21, 33)
        self.close(plan.T.toarray(), dense.T, plan.dtype)
        self.close(plan.T.T.toarray(), dense, plan.dtype)

    def test_pickle_and_repr(self, lazy):
        plan, _ = lazy
        again = pickle.loads(pickle.dumps(plan))
        np.testing.assert_array_equal(again.toarray(), plan.toarray())
        assert "33x21" in repr(plan)


@pytest.mark.parametrize("form", ["dense", "lazy"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-9])
def test_rounding_gives_exact_marginals(form, order, tol):
    p = gaussian_clouds(50, 35, seed=6, reg=1e-3)
    a, b = 2.5 * p.a, 2.5 * p.b
    M = np.asarray(p.M, order=order)
    plain = ot.sinkhorn(a, b, M, p.reg, tol=tol)
    result = ot.sinkhorn(a, b, M, p.reg, tol=tol, round=True, return_plan=form)
    P = np.asarray(result.plan)
    assert (P >= 0).all()
    assert marginal_error(P, a, b) < 1e-14 * 50
    assert np.abs(P - plain.plan).sum() <= 2 * 2.5 * plain.err + 1e-13  # the theorem's bound
    np.testing.assert_allclose(P, oracle.round_plan(plain.plan, a, b), rtol=0, atol=1e-13)
    assert result.value_linear == pytest.approx((M * P).sum(), rel=1e-12)
    assert result.err == plain.err  # the certificate is that before rounding


def test_rounding_with_forbidden_pairs_and_empty_bins():
    p = edge_case("zero_bins", 25, 20, reg=1e-2)
    P = solve(p, tol=1e-2, round=True).plan
    assert marginal_error(P, p.a, p.b) < 1e-14
    assert (P[p.a == 0] == 0).all()
    with pytest.raises(ValueError, match=r"`round`.*forbid"):  # its rank-one part would use them
        solve(edge_case("forbidden_pairs", reg=1e-2), round=True)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", [{}, {"store_plan": False}, {"round": True}])
def test_overwrite_cost(order, dtype, options, tolerance):
    p = gaussian_clouds(40, 30, reg=1e-2)
    M = np.array(p.M, dtype=dtype, order=order)
    expected = ot.sinkhorn(p.a, p.b, M, p.reg, **options)
    given = M.copy(order="K")
    result = ot.sinkhorn(p.a, p.b, given, p.reg, overwrite_cost=True, **options)
    assert np.shares_memory(result.plan, given)
    np.testing.assert_allclose(given, expected.plan, rtol=0, atol=tolerance(dtype).kernel)
    np.testing.assert_array_equal(result.plan, given)
    assert result.value_linear == pytest.approx(expected.value_linear, rel=1e-12)


@pytest.mark.parametrize(
    "M",
    [
        np.ones((3, 3), dtype=int),
        [[1.0, 2.0], [3.0, 4.0]],
        np.ones((4, 4))[::2, ::2],
        np.ones((3, 3), dtype=">f8"),
        np.broadcast_to(np.ones(3), (3, 3)),
    ],
    ids=["int", "list", "spaced", "big-endian", "broadcast"],
)
def test_overwrite_cost_refuses_what_it_cannot_write(M):
    with pytest.raises(ValueError, match="`overwrite_cost`"):
        ot.sinkhorn(None, None, M, 1.0, overwrite_cost=True)


def test_broadcast_cost():
    M = np.broadcast_to(np.linspace(0.0, 1.0, 6), (4, 6))
    np.testing.assert_allclose(ot.sinkhorn(None, None, M, 0.1).plan, np.full((4, 6), 1 / 24), rtol=1e-8)
    M = np.broadcast_to(np.linspace(0.0, 1.0, 6)[:, None], (6, 4))
    np.testing.assert_allclose(ot.sinkhorn(None, None, M, 0.1).plan, np.full((6, 4), 1 / 24), rtol=1e-8)


def test_cost_that_is_a_window_of_a_larger_array():
    p = gaussian_clouds(40, 30, reg=1e-2)
    wide = np.full((50, 60), np.nan)
    wide[3:43, 7:37] = p.M
    result = ot.sinkhorn(p.a, p.b, wide[3:43, 7:37], p.reg)
    np.testing.assert_array_equal(result.plan, solve(p).plan)


# ----------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("shape", [(7, 90), (90, 7), (2, 300), (300, 2), (33, 65)])
@pytest.mark.parametrize("options", [{"method": "auto"}, {"method": "newton", "linear_solver": "hybrid"}])
def test_rectangular(shape, options):
    n, m = shape
    a, b, M = weights(n), weights(m, 1), np.random.default_rng(2).random(shape)
    result = ot.sinkhorn(a, b, M, 5e-3, tol=1e-11, **options)
    assert result.success
    assert result.plan.shape == shape
    found = oracle.newton_oracle(a, b, M, 5e-3, tol=1e-12)
    np.testing.assert_allclose(result.plan, oracle.exp_pass(M, found.x, found.y, 5e-3)[0], rtol=0, atol=1e-9)


# ---------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize("reg", [1e-2, 1e-3, 1e-4])
def test_float32_error_floor(reg):
    """float32 costs and plans with float64 potentials and sums reach 1e-7 whatever the regularisation."""
    p = gaussian_clouds(200, 200, reg=reg)
    result = ot.sinkhorn(p.a, p.b, p.M.astype(np.float32), reg, tol=2e-7)
    assert result.success
    assert result.plan.dtype == np.float32
    assert marginal_error(result.plan.astype(np.float64), p.a, p.b) <= 2.5e-7
    exact = ot.sinkhorn(p.a, p.b, p.M.astype(np.float32).astype(np.float64), reg)
    np.testing.assert_allclose(result.plan, exact.plan, rtol=0, atol=1e-6)
    assert result.value == pytest.approx(exact.value, rel=1e-6)


def test_float32_default_tolerance():
    result = solve(edge_case("float32"))
    assert result.success
    assert result.plan.dtype == np.float32
    assert result.potentials[0].dtype == np.float64
    assert result.err <= 1e-6


# -------------------------------------------------------------------------------- history, callback, messages


def test_history():
    p = PROBLEMS["clouds"]
    result = solve(p, method="newton", reg=1e-3)
    history = result.history
    assert set(history) == {"kind", "eps", "err", "n_cg", "alpha", "nnz", "time"}
    assert len({len(column) for column in history.values()}) == 1
    assert set(history["kind"]) <= {"sinkhorn", "newton"}
    assert (np.diff(history["time"]) >= 0).all()
    assert (np.diff(history["eps"]) <= 0).all()
    assert history["eps"][-1] == pytest.approx(1e-3)
    assert history["eps"][0] == pytest.approx(0.05 * np.ptp(p.M))
    assert ((history["alpha"] > 0) & (history["alpha"] <= 1)).all()
    last = history["err"][history["eps"] == history["eps"][-1]]
    assert last[-1] < 1e-2 * last[0]
    unscaled = solve(p, method="newton", reg=1e-3, eps_scaling=False)
    assert set(unscaled.history["eps"]) == {1e-3}
    np.testing.assert_allclose(unscaled.plan, result.plan, rtol=0, atol=1e-8)


def test_callback_fields():
    seen = []
    result = solve(PROBLEMS["clouds"], method="newton", callback=seen.append)
    for name in ("kind", "eps", "err", "n_cg", "alpha", "nnz", "time"):
        np.testing.assert_array_equal([s[name] for s in seen], result.history[name])
    assert [s.nit for s in seen] == list(range(1, len(seen) + 1))


def test_stopping_at_an_error_of_ones_own():
    def enough(state):
        if state.eps == 1e-3 and state.err < 1e-4:
            raise StopIteration

    result = solve(PROBLEMS["clouds"], method="newton", reg=1e-3, callback=enough)
    assert result.status == Status.STOPPED_BY_CALLBACK
    assert result.err < 1e-3
    assert result.plan.shape == (40, 30)


def test_verbose_logs_one_line_per_step(caplog):
    with caplog.at_level(logging.INFO, logger="aitken"):
        result = solve(PROBLEMS["clouds"], method="newton", verbose=1)
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 + len(result.history["err"])
    assert all(line.startswith("sinkhorn") for line in lines)
    assert len({len(line) for line in lines}) == 1  # aligned
    for name in ("err", "n_cg", "alpha", "nnz"):
        assert name in lines[0]
    assert f"{result.history['err'][0]:.3e}" in lines[1]


def test_silence_is_the_default(caplog, capsys):
    with caplog.at_level(logging.DEBUG):
        solve(PROBLEMS["clouds"])
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_progress_bar(capsys):
    pytest.importorskip("tqdm")
    solve(PROBLEMS["clouds"], method="newton", progress=True)
    shown = capsys.readouterr().err
    assert "sinkhorn" in shown
    percent = [int(p) for p in re.findall(r"(\d+)%", shown)]
    assert percent == sorted(percent)
    assert percent[-1] > 50  # of the decades of error, before the last step
    assert shown.endswith("\n")


def test_message_and_warning_agree():
    p = image_pair(10)
    with pytest.warns(ConvergenceWarning, match="sinkhorn: the iteration limit was reached") as caught:
        result = solve(p, method="sinkhorn", maxiter=20)
    assert result.nit == 20
    assert f"{result.err:.3g}" in str(caught[0].message)
    assert f"{result.err:.2e}" in result.message
    assert "1.00e-09" in result.message


@pytest.mark.parametrize("method", ["auto", "newton", "sns", "sinkhorn"])
def test_maxiter_bounds_the_iterations(method):
    p = random_assignment(60, reg=1e-3)
    for maxiter in (1, 2, 5, 25):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = solve(p, method=method, maxiter=maxiter, tol=1e-13)
        assert result.nit <= maxiter


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_what_a_stopped_solve_returns_is_a_plan(steps):
    """Wherever a Newton solve is stopped, also far from the target regularisation, the mass is all there."""

    def stop(state):
        if state.nit == steps:
            raise StopIteration

    p = random_assignment(60, reg=1e-3)
    result = solve(p, method="newton", callback=stop)
    assert result.status == Status.STOPPED_BY_CALLBACK
    assert result.err < 0.5
    assert abs(result.plan.sum() - 1.0) <= 0.5 * result.err + 1e-12  # each side's error is at least that
    assert result.value_linear > 0.5 * linear_programme(p.a, p.b, p.M)


@pytest.mark.parametrize("init", [None, (np.zeros(2), np.zeros(2)), (np.array([3.0, -3.0]), np.zeros(2))])
def test_mass_that_must_cross_a_wide_gap_arrives(init):
    """Between two bins a hundred times reg apart, entries that must grow begin below rounding."""
    a, b = np.array([0.50391092, 0.49608908]), np.array([0.51155427, 0.48844573])
    r = ot.sinkhorn(a, b, 1.0 - np.eye(2), 0.01, init=init)
    assert r.success
    assert r.value_linear == pytest.approx(b[0] - a[0], abs=1e-9)


@pytest.mark.parametrize("reg", [0.01, 0.001])
@pytest.mark.parametrize("method", ["auto", "newton"])
def test_many_pairs_of_two_bins(method, reg):
    """However little mass has to cross: an entry of e^-1000 may have to become 1e-9."""
    rng = np.random.default_rng(3)
    a = 0.2 + 0.6 * rng.random(100)
    b = a + 10.0 ** rng.uniform(-9, -1, 100) * rng.choice([-1, 1], 100)
    pair = [np.stack([w, 1 - w], axis=1) for w in (a, b)]
    r = ot.sinkhorn_batch(*pair, 1.0 - np.eye(2), reg, method=method)
    assert r.success.all(), r.message
    np.testing.assert_allclose(r.value_linear, np.abs(a - b), atol=1e-9)
