"""The oracles against independent facts, and the compiled tuners against the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from aitken.tune import BanditTuner
from aitken.tune._arms import kernel
from tests.oracles import tune as oracle

SEED = 2024


def cost_of(arm: int, x: float, noise: float) -> float:
    """Any smooth dependence with a best arm that moves with x."""
    return 20.0 + 60.0 * (arm / 7.0 - 0.2 - 0.6 * x) ** 2 + noise


# ---- facts about the oracles -----------------------------------------------------------------------------


def test_tsallis_distribution_minimises_its_objective():
    """<p, L> - (4 / eta) sum sqrt(p) over the simplex, found by a general optimiser."""
    losses, eta = np.array([0.0, 0.4, 1.5, 3.0]), 0.8
    found = optimize.minimize(
        lambda p: p @ losses - 4.0 / eta * np.sqrt(p).sum(),
        np.full(4, 0.25),
        bounds=[(1e-9, 1.0)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1.0},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert np.abs(found.x - oracle.tsallis_distribution(losses, eta)).max() < 1e-6


def test_gp_is_the_textbook_regression():
    """Without inflation and with the noise known: K (K + s I)^-1 (y - level)."""
    rng = np.random.default_rng(0)
    k = kernel(list(np.linspace(1.0, 1.9, 6)), None)
    gp = oracle.GaussianProcess(k, 4, inflation=0.0, plain=False)
    gp.noise_variance = lambda: 0.04
    plays = [(rng.random(), int(rng.integers(6)), rng.uniform(10, 30)) for _ in range(25)]
    for x, arm, cost in plays:
        gp.learn(x, arm, cost)
    cells = [gp.cell(x, arm) for x, arm, _ in plays]
    y = np.log([cost for _, _, cost in plays])
    full = gp.prior + 1.0
    solved = full[:, cells] @ np.linalg.inv(full[np.ix_(cells, cells)] + 0.04 * np.eye(25))
    assert np.abs(y[0] + solved @ (y - y[0]) - gp.mean).max() < 1e-10
    assert np.abs(full - solved @ full[cells] - gp.P).max() < 1e-10


def test_chebyshev_fit_recovers_a_polynomial():
    x = np.random.default_rng(1).random(30)
    theta = np.array([0.3, -0.2, 0.1, 0.05, -0.02, 0.01])
    y = np.polynomial.chebyshev.chebval(2.0 * x - 1.0, theta)
    found = oracle.chebyshev_fit(list(x), y, np.ones(6))
    assert np.abs(found - theta).max() < 1e-12
    tight = oracle.chebyshev_fit(list(x), y, np.full(6, 0.15))
    direct = optimize.minimize(
        lambda t: ((np.polynomial.chebyshev.chebval(2.0 * x - 1.0, t) - y) ** 2).sum(),
        np.zeros(6),
        bounds=[(-0.15, 0.15)] * 6,
        options={"ftol": 1e-16, "gtol": 1e-12},
    )
    assert np.abs(tight - direct.x).max() < 1e-5


def test_thompson_moments_by_hand():
    thompson = oracle.Thompson(2, [(0, 11.0), (0, 31.0), (1, 21.0)])
    mean, sd = thompson.moments()
    assert mean == pytest.approx([40.0 / 3.0, 10.0])
    # Losses 10 and 30 of the first arm, one of the second: 200 in one degree of freedom.
    assert sd == pytest.approx([np.sqrt(200.0 / 3.0), np.sqrt(200.0 / 2.0)])


# ---- the compiled tuners ---------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["rv", "iw"])
def test_tsallis(estimator):
    twin = oracle.Tsallis(8, estimator == "rv")
    tuner = BanditTuner(range(8), method="tsallis", estimator=estimator, rng=SEED)
    rng = np.random.default_rng(3)
    for step in range(300):
        p = twin.probabilities()
        # Rounding feeds on itself: each p enters the next ones as 1 / p.
        assert np.abs(tuner.probabilities() - p).max() < (1e-10 if step < 50 else 1e-8)
        arm = tuner.suggest()
        assert arm == oracle.sample(p, oracle.uniform(SEED, step))
        cost = cost_of(arm, 0.5, 8.0 * rng.random())
        tuner.observe(cost)
        twin.learn(arm, cost, p)
    assert not twin.reduced or any(when * p.max() >= 16 for _, _, p, when in twin.plays)


def test_tsallis_bins_are_separate_instances():
    twins = [oracle.Tsallis(8, True) for _ in range(5)]
    tuner = BanditTuner(range(8), method="tsallis-cb", context=(0.0, 1.0), rng=SEED)
    rng = np.random.default_rng(4)
    for step in range(300):
        x = rng.random()
        twin = twins[int(5 * x)]
        p = twin.probabilities()
        arm = tuner.suggest(x)
        assert arm == oracle.sample(p, oracle.uniform(SEED, step))
        cost = cost_of(arm, x, 8.0 * rng.random())
        tuner.observe(cost)
        twin.learn(arm, cost, p)


def test_thompson():
    twin = oracle.Thompson(8)
    tuner = BanditTuner(range(8), method="thompson", rng=SEED)
    rng = np.random.default_rng(5)
    for step in range(300):
        arm = tuner.suggest()
        assert arm == twin.choose(oracle.normals(SEED, step, 8))
        cost = cost_of(arm, 0.5, 8.0 * rng.random())
        tuner.observe(cost)
        twin.plays.append((arm, cost))


def test_thompson_probabilities_are_the_frequencies():
    tuner = BanditTuner(range(5), method="thompson", rng=0)
    for arm, cost in [(0, 30.0), (1, 20.0), (2, 25.0), (3, 60.0), (1, 22.0), (2, 21.0)]:
        tuner._native.replay(arm, 0.0, cost)
    p = tuner.probabilities()
    twin = oracle.Thompson(5, [(0, 30.0), (1, 20.0), (2, 25.0), (3, 60.0), (1, 22.0), (2, 21.0)])
    mean, sd = twin.moments()
    draws = 40_000
    z = np.random.default_rng(6).standard_normal((draws, 5))
    counts = np.bincount(np.argmin(mean + sd * z, axis=1), minlength=5)
    assert stats.chisquare(counts, p * draws).pvalue > 1e-4
    assert p.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_chebcb(noise):
    twin = oracle.ChebCB(6, 6)
    tuner = BanditTuner(range(6), method="chebcb", context=(-1.0, 3.0), rng=SEED)
    rng = np.random.default_rng(7)
    for step in range(150):
        x = rng.random()
        context = -1.0 + 4.0 * x
        p = twin.probabilities((context + 1.0) / 4.0)
        assert np.abs(tuner.probabilities(context) - p).max() < 1e-6  # the Gram matrix squares the condition
        arm = tuner.suggest(context)
        assert arm == oracle.sample(p, oracle.uniform(SEED, step))
        cost = cost_of(arm, x, noise * rng.random())
        tuner.observe(cost)
        twin.learn(arm, (context + 1.0) / 4.0, cost)
    assert max(tuner.stats["plays"]) > 150 / 6 + 2.0 * np.sqrt(150 / 6)  # it has learned


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("discount", [1.0, 0.99])
def test_gp(context, discount):
    """Identical choices although the native process keeps 1e-6 less of the prior covariance."""
    omegas = list(np.linspace(1.0, 1.95, 12))
    k = kernel(omegas, None)
    z = -np.log(2.0 - np.array(omegas))
    z = (z - z[0]) / (z[-1] - z[0])
    assert np.abs(k - np.exp(-0.5 * ((z[:, None] - z) / 0.2) ** 2)).max() < 1e-14
    twin = oracle.GaussianProcess(k, 16 if context else 1, inflation=1.0 - discount, plain=not context)
    tuner = BanditTuner(omegas, context=(0.0, 1.0) if context else None, discount=discount, rng=0)
    rng = np.random.default_rng(8)
    for _ in range(250):
        x = rng.random()
        scores = twin.scores(x)
        where = x if context else None
        arm = omegas.index(tuner.suggest(where))
        assert scores[arm] < scores.min() + 1e-4
        cheapest = twin.scores(x, 0.0)
        assert cheapest[omegas.index(tuner.best(where))] < cheapest.min() + 1e-4
        cost = cost_of(arm, x, 8.0 * rng.random())
        tuner.observe(cost)
        twin.learn(x, arm, cost)
