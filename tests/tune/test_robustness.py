"""Tuners under impossible costs, units of any size, corrupted states and many threads."""

from __future__ import annotations

import copy
import json
import math
import threading

import numpy as np
import pytest

from aitken.tune import BanditTuner

METHODS = ("gp", "tsallis", "tsallis-cb", "chebcb", "thompson")
ARMS = [1.0, 1.3, 1.6, 1.9]


def make(method, **options):
    if method in ("tsallis-cb", "chebcb"):
        options.setdefault("context", (0.0, 1.0))
    options.setdefault("rng", 1)
    return BanditTuner(ARMS, method=method, **options)


def context_of(tuner):
    return None if tuner.context is None else 0.4


def check_probabilities(tuner):
    p = tuner.probabilities(context_of(tuner))
    assert np.isfinite(p).all()
    assert (p >= 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-9)


COSTS = {
    "largest": [1e100] * 25,
    "smallest": [1e-100] * 25,
    "denormal": [5e-324] * 25,
    "zero": [0.0] * 25,
    "both ends": [1e-100, 1e100] * 12,
    "zero and largest": [0.0, 1e100] * 12,
    "failures": [math.inf] * 25,
    "failures among large": [1e100, math.inf, math.nan] * 8,
}


@pytest.mark.parametrize("restart", [None, "cusum"])
@pytest.mark.parametrize("discount", [1.0, 0.5, 1e-300])
@pytest.mark.parametrize("method", METHODS)
def test_probabilities_under_extreme_costs(method, discount, restart):
    for costs in COSTS.values():
        tuner = make(method, discount=discount, restart=restart)
        for cost in costs:
            check_probabilities(tuner)
            tuner.suggest(context_of(tuner))
            tuner.observe(cost, failed=not math.isfinite(cost))
            assert tuner.best(context_of(tuner)) in ARMS
        check_probabilities(tuner)
        state = json.loads(json.dumps(tuner.to_dict(), allow_nan=False))
        again = BanditTuner.from_dict(state)
        assert again.to_dict() == tuner.to_dict()


@pytest.mark.parametrize("method", METHODS)
def test_costs_too_large_to_square_are_refused(method):
    tuner = make(method)
    tuner.suggest(context_of(tuner))
    for cost in (1e101, 1.7e308, math.inf, math.nan, -1.0):
        with pytest.raises(ValueError, match="`cost` must be in \\[0, 1e100\\]"):
            tuner.observe(cost)
    tuner.observe(3.0)  # the suggestion has waited
    assert tuner.stats["observations"] == 1
    with pytest.raises(ValueError, match="`prior` has the cost"):
        make(method, prior=[(1.0, context_of(tuner), 1e200)])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"arms": [1e308, -1e308]}, "`arms` span"),
        ({"arms": [10**400, 1]}, "`arms` has a number beyond"),
        ({"arms": ARMS, "context": (-1e308, 1e308)}, "`context` must be"),
        ({"arms": ARMS, "method": "thompson", "floor": 1e200}, "`floor`"),
    ],
)
def test_options_beyond_float64(options, name):
    with pytest.raises(ValueError, match=name):
        BanditTuner(**options)


class TestLimit:
    """Three times the median, whatever the unit."""

    def limit(self, costs, **options):
        tuner = BanditTuner(ARMS, rng=0, **options)
        for cost in costs:
            tuner.suggest()
            tuner.observe(cost)
        return tuner.limit()

    def test_iterations_have_a_floor(self):
        assert self.limit([8.0, 10.0, 12.0]) == 50.0
        assert self.limit([80.0, 100.0, 120.0]) == 300.0

    @pytest.mark.parametrize("unit", [1e-9, 1e-3, 0.37, 61.7])
    def test_other_units_have_none(self, unit):
        costs = [8.5 * unit, 10.5 * unit, 12.5 * unit]
        assert self.limit(costs) == pytest.approx(31.5 * unit, rel=1e-14)
        assert self.limit(costs, backstop=(3.0, 20 * unit)) == pytest.approx(31.5 * unit, rel=1e-14)
        assert self.limit(costs, backstop=(3.0, 90 * unit)) == 90 * unit

    def test_survives_saving(self):
        tuner = BanditTuner(ARMS, rng=0)
        for cost in (0.1, 0.2, 0.3):
            tuner.suggest()
            tuner.observe(cost)
        again = BanditTuner.from_dict(json.loads(json.dumps(tuner.to_dict())))
        assert again.limit() == tuner.limit() == pytest.approx(0.6)


def _places(value, path=()):
    """The ways to the parts of nested data, of long lists to some entries."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in {*range(min(len(value), 4)), *((len(value) - 1,) if value else ())}:
            yield from _places(value[i], (*path, i))


WRONG = [None, True, -1, 0, 2, 0.5, 1e308, -1e308, 5e-324, math.nan, 10**400, 2**64, "x", [], [1.0], {}]


@pytest.mark.parametrize("method", METHODS)
def test_corrupted_states_are_refused_or_work(method):
    tuner = make(method, restart="cusum", fixed_first=(1.3, 2))
    context = context_of(tuner)
    for i in range(30):
        tuner.suggest(context)
        tuner.observe(10.0 + i % 7, failed=i % 13 == 0)
    tuner.suggest(context, return_token=True)
    tuner.suggest(context)
    good = json.loads(json.dumps(tuner.to_dict()))
    refused = 0
    for path in _places(good):
        if not path:
            continue
        for wrong in WRONG:
            state = copy.deepcopy(good)
            parent = state
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = wrong
            try:
                loaded = BanditTuner.from_dict(state)
            except ValueError:
                refused += 1
                continue
            # A number may be wrong and possible; then all goes on.
            where = None if loaded.context is None else 0.4
            p = loaded.probabilities(where)
            assert np.isfinite(p).all(), (path, wrong)
            assert p.sum() == pytest.approx(1, abs=1e-6), (path, wrong)
            loaded.suggest(where)
            assert loaded.limit() is None or loaded.limit() >= 0
    assert refused > 500


@pytest.mark.parametrize("method", METHODS)
def test_many_suggestions_without_an_answer(method):
    tuner = make(method)
    context = context_of(tuner)
    tokens = [tuner.suggest(context, return_token=True)[1] for _ in range(3000)]
    assert tuner.stats["in_flight"] == 3000
    for token in tokens[::-1]:
        tuner.observe(5.0, token=token)
    assert tuner.stats["in_flight"] == 0
    with pytest.raises(ValueError, match=f"`token` {tokens[7]} is not in flight"):
        tuner.observe(5.0, token=tokens[7])
    assert tuner.stats["observations"] == 3000


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_a_tuner(method):
    tuner = make(method)
    context = context_of(tuner)
    failures = []

    def play():
        try:
            for _ in range(300):
                arm, token = tuner.suggest(context, return_token=True)
                tuner.observe(10 * arm, token=token)
                tuner.probabilities(context)
                tuner.to_dict()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=play) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert tuner.stats["observations"] == 1200
    assert sum(tuner.stats["plays"]) == 1200
    assert tuner.stats["in_flight"] == 0
