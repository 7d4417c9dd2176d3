"""Each piece of the relaxation oracle against one independent fact: dense algebra, theory, known counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg as scipy_cg

from tests.oracles import preconditioners
from tests.oracles import relaxation as oracle
from tests.relaxation import problems

DIRECTIONS = ["forward", "backward", "symmetric"]
MU = np.cos(np.pi / 11)  # of the Laplacian on 10 x 10 points


def rng(seed=0):
    return np.random.default_rng(seed)


def random_dominant(n=12, seed=0):
    A = np.where(rng(seed).random((n, n)) < 0.4, rng(seed + 1).standard_normal((n, n)), 0.0)
    return A + np.diag(np.abs(A).sum(axis=1) + 0.5)


def rough():
    return problems.diffusion(problems.jump_coefficient(20, 5, 100.0))


def matrix_of(A, omega, direction, rows):
    """x -> G x + c of one sweep, as the dense G, from the splittings."""
    n = len(A)
    rows = np.arange(n) if rows is None else rows
    P = np.eye(n)[rows]
    S = P @ A @ P.T
    D = np.diag(np.diag(S)) / omega
    forward = np.eye(n) - np.linalg.inv(D + np.tril(S, -1)) @ S
    backward = np.eye(n) - np.linalg.inv(D + np.triu(S, 1)) @ S
    G = {"forward": forward, "backward": backward, "symmetric": backward @ forward}[direction]
    return P.T @ G @ P


# ----------------------------------------------------------------------------------------------------- sweeps


def test_known_example():
    x = oracle.sweep(problems.SMALL_A, problems.SMALL_B, np.zeros(4), 0.5)
    np.testing.assert_array_equal(x, problems.SMALL_SWEEP)
    res = oracle.sor(problems.SMALL_A, problems.SMALL_B, omega=0.5, rtol=1e-13)
    np.testing.assert_allclose(res.x, problems.SMALL_X, rtol=1e-11)
    np.testing.assert_array_equal(problems.SMALL_A @ problems.SMALL_X, problems.SMALL_B)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("omega", [0.6, 1.0, 1.7])
def test_sweep_is_that_of_the_splitting(direction, ordered, omega):
    A = random_dominant()
    rows = rng(3).permutation(len(A)) if ordered else None
    x, b = rng(4).standard_normal((2, len(A)))
    exact = np.linalg.solve(A, b)
    wanted = exact + matrix_of(A, omega, direction, rows) @ (x - exact)
    np.testing.assert_allclose(oracle.sweep(A, b, x, omega, direction, rows), wanted, rtol=1e-12, atol=1e-13)
    first = oracle.sor(A, b, x, omega=omega, direction=direction, rows=rows, maxiter=1)
    assert first.nit == 1
    np.testing.assert_allclose(first.x, wanted, rtol=1e-12, atol=1e-13)


def test_sweep_leaves_its_arguments_alone():
    A, x, b = random_dominant(), np.ones(12), np.ones(12)
    oracle.sweep(A, b, x, 1.2)
    oracle.colour_sweep(problems.laplacian(3), np.ones(9), x[:9], 1.2, [0, 1] * 4 + [0])
    np.testing.assert_array_equal(x, 1)


def test_red_black_is_the_checkerboard_and_sweeps_as_such():
    A = problems.laplacian(6, 5)
    colour = oracle.two_colours(A)
    assert colour == [(i + j) % 2 for i in range(6) for j in range(5)]
    x, b = rng().standard_normal((2, 30))
    wanted = oracle.colour_sweep(A, b, x, 1.4, colour)
    np.testing.assert_allclose(
        oracle.sweep(A, b, x, 1.4, rows=oracle.by_colour(colour)), wanted, rtol=1e-13, atol=1e-14
    )
    assert oracle.two_colours(problems.nine_point(4)) is None


@pytest.mark.parametrize("make", [problems.nine_point, problems.seven_point, problems.laplacian])
def test_colours_separate_neighbours(make):
    A = make(4)
    colour = np.array(oracle.greedy_colours(A))
    i, j = sparse.coo_array(A).coords
    assert (colour[i] != colour[j])[i != j].all()
    assert colour.max() + 1 == (4 if make is problems.nine_point else 2)
    x, b = rng().standard_normal((2, A.shape[0]))
    np.testing.assert_allclose(
        oracle.colour_sweep(A, b, x, 1.1, colour),
        oracle.sweep(A, b, x, 1.1, rows=oracle.by_colour(colour)),
        rtol=1e-13,
        atol=1e-14,
    )


def test_colours_of_one_sided_couplings_and_of_several_components():
    A = np.diag([1.0] * 5)
    A[3, 0] = A[1, 4] = 1  # 0 - 3, 4 - 1 and 2 alone
    assert oracle.two_colours(A) == [0, 0, 0, 1, 1]
    assert oracle.greedy_colours(A) == [0, 0, 0, 1, 1]


# ----------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reference", ["b", "r0"])
def test_count_is_the_first_sweep_that_passes(direction, reference):
    A = problems.laplacian(6)
    b, x = rng(5).standard_normal((2, 36))
    x *= 100
    res = oracle.sor(A, b, x, omega=1.3, rtol=1e-6, direction=direction, norm_ref=reference)
    target = 1e-6 * (norm(b) if reference == "b" else norm(b - A @ x))
    for k in range(res.nit + 1):
        assert norm(b - A @ x) == pytest.approx(res.residuals[k], rel=1e-8)
        assert (norm(b - A @ x) <= target) == (k == res.nit)
        x = oracle.sweep(A, b, x, 1.3, direction)


def test_count_of_a_start_that_passes_and_of_zero():
    A = problems.laplacian(4)
    b = rng().standard_normal(16)
    exact = np.linalg.solve(A.toarray(), b)
    for solve in (oracle.sor, oracle.ssor_cg):
        assert solve(A, b, exact).nit == 0
        assert solve(A, b, rtol=1.0).nit == 0
        zero = solve(A, np.zeros(16))
        assert (zero.nit, zero.status, zero.x.any()) == (0, oracle.CONVERGED, False)
        assert solve(A, b, rtol=1e-30, maxiter=3).status == oracle.MAXITER


def test_divergence_is_seen():
    A = np.eye(6) + 3 * np.triu(np.ones((6, 6)), 1) + 2 * np.tril(np.ones((6, 6)), -1)
    assert oracle.sor(A, np.ones(6), omega=1.5).status == oracle.DIVERGED


def test_shift_is_that_of_the_matrix():
    A, cs, B = problems.shifted_laplacians("high", 3)
    for c, b in zip(cs, B, strict=True):
        explicit = A + c * sparse.eye_array(100)
        assert oracle.sor(A, b, omega=1.6, shift=c).nit == oracle.sor(explicit, b, omega=1.6).nit
        np.testing.assert_allclose(
            oracle.ssor_cg(A, b, omega=1.6, shift=c).x, oracle.ssor_cg(explicit, b, omega=1.6).x, rtol=1e-13
        )


# ----------------------------------------------------------------------------------------------------- theory


@pytest.mark.parametrize("omega", [1.0, 1.2, 1.4, 1.5, 1.65, 1.8])  # the best is 1.560
@pytest.mark.parametrize("order", ["natural", "redblack"])
def test_measured_rates_are_youngs(omega, order):
    """Without a right-hand side the error shrinks for ever, and what is left of it shows the rate."""
    A = problems.laplacian(10)
    rows = oracle.by_colour(oracle.two_colours(A)) if order == "redblack" else None
    wanted = oracle.sor_rate(omega, MU)
    assert max(abs(np.linalg.eigvals(matrix_of(A.toarray(), omega, "forward", rows)))) == pytest.approx(
        wanted, rel=1e-5
    )
    res = oracle.sor(A, np.zeros(100), rng().standard_normal(100), omega=omega, rows=rows, maxiter=700)
    sizes = np.array(res.residuals)
    assert (sizes[-1] / sizes[100]) ** (1 / 600) == pytest.approx(wanted, rel=0.01)


def test_youngs_omega_is_the_best():
    best = oracle.young_omega(MU)
    rates = [oracle.sor_rate(w, MU) for w in np.linspace(0.5, 1.99, 1491)]
    assert np.linspace(0.5, 1.99, 1491)[np.argmin(rates)] == pytest.approx(best, abs=1e-3)
    assert oracle.sor_rate(best, MU) == pytest.approx(best - 1, rel=1e-6)
    assert oracle.sor_rate(1.0, MU) == pytest.approx(MU**2)


@pytest.mark.parametrize(("m", "omega"), [(10, 1.5604), (19, 1.7295), (31, 1.8215)])
def test_youngs_omega_on_grids(m, omega):
    """The tabulated omega = 2 / (1 + sin(pi / (m + 1))), found by Lanczos steps from random vectors."""
    A = problems.laplacian(m)
    mu = oracle.young_estimate(A, rng(m).standard_normal(m * m), 6 * m)
    assert mu == pytest.approx(np.cos(np.pi / (m + 1)), abs=1e-9)
    assert oracle.young_omega(mu) == pytest.approx(2 / (1 + np.sin(np.pi / (m + 1))), abs=1e-6)
    assert oracle.young_omega(mu) == pytest.approx(omega, abs=1e-4)
    few = oracle.young_estimate(A, rng(m).standard_normal(m * m), 16)
    assert few <= mu + 1e-12  # Ritz values lie within the spectrum


def test_jacobi_radius_of_shifted_matrices():
    A = problems.laplacian(10)
    for c in (-0.15, 0.3):
        shifted = A + c * sparse.eye_array(100)
        mu = oracle.young_estimate(shifted, rng().standard_normal(100), 60)
        assert mu == pytest.approx(MU * 4 / (4 + c), abs=1e-9)


def test_lanczos_basis():
    S = oracle.scaled(rough())
    Q, T = oracle.lanczos(S, rng().standard_normal(len(S)), 30)
    np.testing.assert_allclose(Q.T @ Q, np.eye(30), atol=1e-12)
    assert abs(np.triu(T, 2)).max() < 1e-12
    one = np.zeros(400)
    one[0] = 1
    assert oracle.lanczos(np.eye(400), one, 30)[0].shape == (400, 1)  # stops in an invariant space


@pytest.mark.parametrize("m", [6, 10])
def test_axelssons_numbers_are_the_dense_ones(m):
    for A in (problems.laplacian(m), problems.diffusion(problems.lognormal_coefficient(m))):
        D, L = np.diag(A.diagonal()), np.tril(A.toarray(), -1)
        wanted = linalg.eigh(D, A.toarray(), eigvals_only=True)[-1]
        excess = linalg.eigh(L @ np.linalg.inv(D) @ L.T - D / 4, A.toarray(), eigvals_only=True)[-1]
        alpha, delta = oracle.axelsson_estimate(A, rng().standard_normal(m * m), m * m)
        assert alpha == pytest.approx(wanted, rel=1e-8)
        assert delta == pytest.approx(max(excess, 0), rel=1e-5, abs=1e-10)
        mu = oracle.young_estimate(A, rng().standard_normal(m * m), m * m)
        assert alpha == pytest.approx(1 / (1 - mu), rel=1e-8)  # the spectrum is symmetric about 1


@pytest.mark.parametrize("omega", [0.9, 1.3, 1.6, 1.9])
def test_condition_number_obeys_the_bound(omega):
    for A in (problems.laplacian(8), problems.diffusion(problems.lognormal_coefficient(8))):
        alpha, delta = oracle.axelsson_estimate(A, rng().standard_normal(64), 64)
        A = A.toarray()
        spectrum = linalg.eigh(A, preconditioners.ssor(A, omega), eigvals_only=True)
        kappa = spectrum[-1] / spectrum[0]
        bound = oracle.condition_bound(omega, alpha, delta)
        assert kappa <= bound * (1 + 1e-10)
        b = rng(1).standard_normal(64)
        limit = oracle.iteration_bound(bound, np.linalg.cond(A), 1e-8)
        assert 5 < oracle.ssor_cg(A, b, omega=omega).nit <= limit


def test_axelssons_omega_minimises_the_bound():
    for alpha, delta in ((50.0, 0.0), (1e4, 30.0)):
        best = oracle.axelsson_omega(alpha, delta)
        value = oracle.condition_bound(best, alpha, delta)
        assert value == pytest.approx(0.5 + np.sqrt((0.5 + delta) * alpha))
        assert all(oracle.condition_bound(best + d, alpha, delta) > value for d in (-1e-2, 1e-2))


def test_youngs_omega_is_wrong_for_rough_coefficients():
    """Where delta is large the best omega for CG is far from Young's, and Axelsson's is near it."""
    A, b = problems.diffusion(problems.jump_coefficient(40, 10)), rng().standard_normal(1600)
    alpha, delta = oracle.axelsson_estimate(A, b, 200)
    assert delta > 3
    counts = {w: oracle.ssor_cg(A, b, omega=w).nit for w in np.linspace(1, 1.95, 20)}
    young = oracle.ssor_cg(A, b, omega=oracle.young_omega(oracle.young_estimate(A, b, 200))).nit
    assert oracle.ssor_cg(A, b, omega=oracle.axelsson_omega(alpha, delta)).nit <= 1.1 * min(counts.values())
    assert young > 1.3 * min(counts.values())


# ----------------------------------------------------------------------------------------------- adaptive SOR


def test_adaptive_omega_is_raised_to_youngs_and_never_lowered():
    A, b = problems.laplacian(20), rng().standard_normal(400)
    best = oracle.young_omega(np.cos(np.pi / 21))
    res = oracle.sor(A, b, omega="adaptive")
    assert res.status == oracle.CONVERGED
    assert np.all(np.diff(res.omegas) >= 0)
    assert res.omegas[:5] == [1.0] * 5  # no rate before the fifth change has settled
    assert best < res.omega < 1.95  # it overshoots
    assert res.nit < 0.25 * oracle.sor(A, b, omega=1.0).nit
    assert res.nit < 2.1 * oracle.sor(A, b, omega=best).nit
    start = oracle.sor(A, b, omega=("adaptive", best))
    assert start.nit <= 1.3 * oracle.sor(A, b, omega=best).nit


def test_adaptive_rule_inverts_youngs_relation():
    """Changes that shrink exactly as theory says give mu, at the fifth sweep and not before."""
    for omega, mu in ((1.0, 0.95), (1.3, 0.99)):
        rule = oracle.AdaptiveOmega(omega)
        rate = oracle.sor_rate(omega, mu)
        assert [rule.observe(rate**k) for k in range(5)] == [False, False, False, False, True]
        assert rule.mu == pytest.approx(mu)
        assert rule.omega == pytest.approx(oracle.young_omega(mu))


def test_adaptive_rule_waits_for_a_rate_that_settles():
    rule = oracle.AdaptiveOmega()
    assert not any(rule.observe(c) for c in (1, 0.5, 0.4, 0.3, 0.29, 0.2, 0.19, 0.12))
    rule = oracle.AdaptiveOmega(1.9)
    assert not any(rule.observe(0.9**k) for k in range(30))  # the rate omega - 1 says nothing about mu


# ---------------------------------------------------------------------------------------------------- SSOR-CG


@pytest.mark.parametrize("omega", [0.8, 1.0, 1.5, 1.9])
def test_ssor_is_cg_with_the_dense_matrix(omega):
    A, b = problems.laplacian(12), rng().standard_normal(144)
    M = np.linalg.inv(preconditioners.ssor(A.toarray(), omega))
    seen = []
    x, info = scipy_cg(A, b, rtol=1e-8, M=LinearOperator(M.shape, matvec=M.dot), callback=seen.append)
    assert info == 0
    res = oracle.ssor_cg(A, b, omega=omega)
    assert abs(res.nit - len(seen)) <= 1
    np.testing.assert_allclose(res.x, x, rtol=1e-6, atol=1e-9)
    assert norm(b - A @ res.x) <= 1.01e-8 * norm(b)


def test_ssor_is_one_symmetric_sweep():
    """From zero a symmetric sweep makes omega (2 - omega) M^-1 b, where M = N D^-1 N' with D / omega."""
    A, b = rough(), rng().standard_normal(400)
    d, N, _ = oracle.splitting(A, 1.4)
    lower, upper = oracle.triangular(N), oracle.triangular(N.T)
    applied = upper(d / 1.4 * lower(b))
    swept = oracle.sweep(A, b, np.zeros(400), 1.4, "symmetric")
    np.testing.assert_allclose(swept, (2 - 1.4) * applied, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("omega", [1.0, 1.4, 1.8])
@pytest.mark.parametrize("order", ["natural", "redblack", "random"])
def test_eisenstats_form_takes_the_same_steps(omega, order):
    for A in (problems.laplacian(20), rough()):
        b, x0 = rng(8).standard_normal((2, 400))
        rows = {
            "natural": None,
            "redblack": oracle.by_colour(oracle.two_colours(A)),
            "random": rng().permutation(400),
        }
        plain, form = (
            oracle.ssor_cg(A, b, x0, omega=omega, rows=rows[order], eisenstat=e, rtol=1e-12)
            for e in (False, True)
        )
        assert abs(plain.nit - form.nit) <= 1
        np.testing.assert_allclose(plain.x, form.x, rtol=1e-10, atol=1e-10 * norm(plain.x, np.inf))
        np.testing.assert_allclose(plain.residuals[:20], form.residuals[:20], rtol=1e-9)
        np.testing.assert_allclose(form.x, np.linalg.solve(A.toarray(), b), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("eisenstat", [False, True])
def test_indefinite_matrix_is_seen(eisenstat):
    A = problems.laplacian(6) - 2 * sparse.eye_array(36)
    assert (
        oracle.ssor_cg(A, rng().standard_normal(36), omega=1.0, eisenstat=eisenstat).status == oracle.NOT_SPD
    )


def test_colours_spoil_the_preconditioner():
    """In two colours the best omega of SSOR-CG is 1, and its count far above that of the natural order."""
    A, b = problems.laplacian(40), rng().standard_normal(1600)
    rows = oracle.by_colour(oracle.two_colours(A))
    grid = np.linspace(1, 1.9, 10)
    natural = [oracle.ssor_cg(A, b, omega=w).nit for w in grid]
    coloured = [oracle.ssor_cg(A, b, omega=w, rows=rows).nit for w in grid]
    assert grid[np.argmin(coloured)] == 1.0
    assert grid[np.argmin(natural)] > 1.75
    assert min(coloured) > 1.8 * min(natural)


# --------------------------------------------------------------------------------------------------- problems


def test_known_counts():
    """Counts that were published for, or measured on, these definitions."""
    A = problems.laplacian(10)
    random = [oracle.sor(A, b, omega=1.4).nit for b in problems.bounded_normal(5, 100)]
    assert np.mean(random) == pytest.approx(75, abs=2)
    assert oracle.sor(A, problems.degenerate_rhs(), omega=1.4).nit == 12
    nine, b = problems.nine_point(60), rng().standard_normal(3600)
    assert oracle.ssor_cg(nine, b, omega=1.0).nit == pytest.approx(66, abs=1)
    assert oracle.ssor_cg(nine, b, omega=1.893).nit == pytest.approx(30, abs=1)


@pytest.mark.slow
def test_mean_sweeps_on_shifted_laplacians():
    """Fixed omegas on problem P1, low variance: measured independently as 271, 178, 110, 62, 86."""
    counts = [
        [oracle.sor(A, b, omega=w, shift=c, norm_ref="r0").nit for w in (1, 1.2, 1.4, 1.6, 1.8)]
        for A, cs, B in [problems.shifted_laplacians("low", 600)]
        for c, b in zip(cs, B, strict=True)
    ]
    np.testing.assert_allclose(np.mean(counts, axis=0), [271, 178, 110, 62, 86], rtol=0.08)


def test_matrices():
    A = problems.laplacian(10)
    assert np.linalg.eigvalsh(A.toarray())[0] == pytest.approx(8 * np.sin(np.pi / 22) ** 2)
    assert problems.delsq("S", 12).shape == (100, 100)
    assert abs(problems.delsq("S", 12) - A).max() == 0
    assert problems.delsq("L", 12).shape == (75, 75)
    ell = problems.delsq("L", 12).toarray()
    assert np.array_equal(ell, ell.T)
    assert (ell.sum(axis=1) >= 0).all()
    assert problems.seven_point(3).shape == (27, 27)
    for A in (problems.diffusion(problems.lognormal_coefficient(12)), problems.nine_point(5)):
        assert abs(A - A.T).max() <= 1e-15 * abs(A).max()
        assert np.linalg.eigvalsh(A.toarray())[0] > 0


def test_random_data():
    assert (norm(problems.bounded_normal(50, 100), axis=1) <= 10).all()
    for kind, mean, deviation in (("high", 0.25, 0.25), ("low", 0.25, 0.1443)):
        t = (problems.shifts(kind, 20_000) + 0.15) / 0.6
        assert 0 <= t.min() < t.max() <= 1
        assert t.mean() == pytest.approx(mean, abs=0.01)
        assert t.std() == pytest.approx(deviation, abs=0.005)
    halves = problems.changing_shifts(1000)
    assert halves[:500].mean() > 0.3
    assert halves[500:].mean() < -0.05
