"""The tuners as their users see them: arms, tokens, failures, saving, threads, and what they refuse."""

from __future__ import annotations

import copy
import json
import math
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitken.tune import BanditTuner, SORTuner

KINDS = {
    "gp": {},
    "gp with context": {"method": "gp", "context": (0.0, 1.0)},
    "gp cusum": {"method": "gp", "restart": "cusum"},
    "tsallis iw": {"method": "tsallis", "estimator": "iw"},
    "tsallis discounted": {"method": "tsallis", "discount": 0.98, "restart": "cusum"},
    "tsallis-cb": {"method": "tsallis-cb", "context": (0.0, 1.0)},
    "chebcb": {"method": "chebcb", "context": (0.0, 1.0), "discount": 0.99},
    "chebcb log": {"method": "chebcb", "context": (0.1, 1.0), "context_transform": "log", "restart": "cusum"},
    "thompson": {"method": "thompson"},
    "thompson first": {"method": "thompson", "fixed_first": (1.4, 5), "discount": 0.95},
}
ARMS = [1.0, 1.2, 1.4, 1.6, 1.8]


def make(kind, arms=ARMS, **options):
    return BanditTuner(arms, rng=7, **{**KINDS[kind], **options})


def where(tuner, rng):
    return float(rng.uniform(-0.1, 1.1)) if tuner.context else None


def cost_of(omega, rng):
    return 30.0 + 1000.0 * (omega - 1.6) ** 2 + 5.0 * float(rng.random())


def play(tuner, rng, steps, failures=0.02):
    choices = []
    for _ in range(steps):
        omega = tuner.suggest(where(tuner, rng))
        choices.append(omega)
        tuner.observe(cost_of(omega, rng), failed=bool(rng.random() < failures))
    return choices


def same(a, b):
    return json.dumps(a.to_dict(), sort_keys=True) == json.dumps(b.to_dict(), sort_keys=True)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryMethod:
    def test_learns(self, kind):
        tuner, rng = make(kind), np.random.default_rng(0)
        play(tuner, rng, 600, failures=0.0)
        assert tuner.best(0.5 if tuner.context else None) == 1.6
        plays = tuner.stats["plays"]
        assert plays[3] == max(plays)
        assert sum(plays) == tuner.stats["observations"] == 600

    @settings(max_examples=8)
    @given(before=st.integers(0, 80), after=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
    def test_resumes_exactly(self, kind, before, after, seed):
        tuner, rng = make(kind), np.random.default_rng(seed)
        play(tuner, rng, before)
        omega, token = tuner.suggest(where(tuner, rng), return_token=True)
        tuner.suggest(where(tuner, rng))
        saved = json.dumps(tuner.to_dict(), allow_nan=False)
        twins = [tuner, BanditTuner.from_dict(json.loads(saved)), pickle.loads(pickle.dumps(tuner))]
        twins.append(copy.deepcopy(tuner))
        ways = []
        for twin in twins:
            again = np.random.default_rng(seed + 1)
            twin.observe(33.0)
            ways.append(play(twin, again, after))
            twin.observe(cost_of(omega, again), token)
            ways[-1] += play(twin, again, after)
        assert ways[1:] == ways[:1] * 3
        assert all(same(tuner, twin) for twin in twins)

    def test_probabilities(self, kind):
        tuner, rng = make(kind), np.random.default_rng(1)
        for _ in range(40):
            context = where(tuner, rng)
            p = tuner.probabilities(context)
            assert p.shape == (5,)
            assert p.min() >= 0.0
            assert abs(p.sum() - 1.0) <= 1e-12
            before = tuner.to_dict()
            tuner.probabilities(context)
            tuner.best(context)
            assert tuner.to_dict() == before
            assert p[ARMS.index(tuner.suggest(context))] > 0.0
            tuner.observe(cost_of(1.4, rng))

    def test_one_arm_is_never_drawn(self, kind):
        tuner, rng = make(kind, arms=[1.4]), np.random.default_rng(2)
        assert set(play(tuner, rng, 50)) == {1.4}
        assert tuner.to_dict()["state"]["draws"] == [0.0]
        assert tuner.probabilities(0.5 if tuner.context else None).tolist() == [1.0]
        assert tuner.stats["barred"] == []

    def test_unit_of_cost(self, kind):
        """With floor 0, costs in seconds lead where costs in iterations do (powers of 2 scale exactly)."""
        ways = []
        for unit in (1.0, 2.0**-12):
            tuner, rng = make(kind, floor=0.0), np.random.default_rng(3)
            ways.append([])
            for _ in range(200):
                omega = tuner.suggest(where(tuner, rng))
                ways[-1].append(omega)
                tuner.observe(unit * cost_of(omega, rng))
        if kind.startswith("gp"):  # a logarithm shifts by a rounding: no draw, but near ties
            assert np.mean(np.array(ways[0]) == ways[1]) > 0.9
        else:
            assert ways[0] == ways[1]

    def test_eight_threads(self, kind):
        tuner = make(kind)
        lost = []

        def work(number):
            rng = np.random.default_rng(number)
            try:
                for _ in range(250):
                    batch = [tuner.suggest(where(tuner, rng), return_token=True) for _ in range(3)]
                    for i in rng.permutation(3):
                        omega, token = batch[i]
                        tuner.observe(cost_of(omega, rng), token)
            except Exception as error:  # a thread's exception would be lost
                lost.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not lost
        stats, history = tuner.stats, tuner.history
        assert stats["observations"] == 8 * 750 == len(history["cost"])
        assert stats["in_flight"] == 0
        assert stats["plays"] == np.bincount(history["arm"], minlength=5).tolist()
        assert stats["total_cost"] == pytest.approx(history["cost"].sum(), rel=1e-12)
        assert abs(tuner.probabilities(0.5 if tuner.context else None).sum() - 1.0) < 1e-12


@pytest.mark.parametrize("estimator", ["rv", "iw"])
def test_tsallis_distribution_at_extremes(estimator):
    """Sums of losses 1e12 apart, at round 1e7: the distribution is one, and positive."""
    d = 12
    tuner = BanditTuner(range(d), method="tsallis", estimator=estimator, rng=0)
    state = tuner.to_dict()
    state["state"].update(
        {
            "policy.cell0.sums": np.geomspace(1.0, 1e12, d).tolist(),
            "policy.cell0.weights": [0.0] * d,
            "policy.cell0.total": [2e7],
            "policy.cell0.rounds": [1e7],
            "known": [1.0],
            "least": [1.0],
            "most": [9.0],
            "least_positive": [1.0],
        }
    )
    tuner = BanditTuner.from_dict(state)
    p = tuner.probabilities()
    assert abs(p.sum() - 1.0) <= 1e-12
    assert p.min() > 0.0
    assert p[0] > 0.1
    for _ in range(100):
        tuner.observe(5.0, tuner.suggest(return_token=True)[1])
        assert abs(tuner.probabilities().sum() - 1.0) <= 1e-12


def test_ten_thousand_rounds_leave_a_long_gap():
    """The distribution after many rounds is that of the closed form with two arms."""
    tuner = BanditTuner(["good", "bad"], method="tsallis", estimator="iw", rng=1)
    for _ in range(10_000):
        tuner.observe(2.0 if tuner.suggest() == "good" else 9.0)
    assert tuner.probabilities()[0] > 0.99
    assert tuner.stats["plays"][0] > 9_500


class TestArms:
    def test_the_very_objects(self):
        arms = [object(), {"drop": 1e-3}, ("ilu0", 2), "jacobi", None, 3, [1, 2]]
        tuner = BanditTuner(arms, method="thompson", rng=0)
        seen = set()
        for _ in range(60):
            arm = tuner.suggest()
            seen.add(next(i for i, a in enumerate(arms) if a is arm))
            tuner.observe(10.0)
        assert seen == set(range(7))

    @pytest.mark.parametrize(
        "arms",
        [["a", "b"], [1.5, "young", None, True], [(1, (2.5, "x")), {"k": [1, {"m": 2}]}], [math.inf, 1]],
    )
    def test_plain_arms_survive_json(self, arms):
        tuner = BanditTuner(arms, method="tsallis", rng=0)
        again = BanditTuner.from_dict(json.loads(json.dumps(tuner.to_dict(), allow_nan=False)))
        assert again.arms == arms
        assert [type(a) for a in again.arms] == [type(a) for a in arms]

    def test_other_arms_are_given_again(self):
        arms = [complex(1, 2), frozenset({1})]
        tuner = BanditTuner(arms, rng=0)
        state = json.loads(json.dumps(tuner.to_dict()))
        with pytest.raises(ValueError, match="pass them as `arms`"):
            BanditTuner.from_dict(state)
        with pytest.raises(ValueError, match="`arms` has 1 entries"):
            BanditTuner.from_dict(state, arms[:1])
        assert BanditTuner.from_dict(state, arms).suggest() is arms[0]
        assert pickle.loads(pickle.dumps(tuner)).arms == arms

    def test_numpy_arms_become_scalars(self):
        assert all(type(a) is float for a in BanditTuner(np.linspace(1, 1.9, 4)).arms)

    def test_related_arms_teach_each_other(self):
        """After one arm was bad, its neighbour is judged worse than a stranger."""
        for arms, features in (
            ([1.0, 1.05, 1.9], None),
            ([1e-4, 2e-4, 1e-1], None),
            ([10, 12, 90], "linear"),
            (["a", "b", "c"], [0.0, 0.1, 1.0]),
            (["a", "b", "c"], [[0.0, 1.0], [0.0, 1.1], [5.0, 9.0]]),
        ):
            tuner = BanditTuner(arms, features=features, prior=[(arms[2], None, 50.0)] * 3, rng=0)
            for _ in range(3):
                tuner._native.replay(0, 0.0, 500.0)
            assert tuner.best() == arms[2]
            assert tuner.suggest() == arms[2]
            tuner._native.replay(2, 0.0, 450.0)
            assert tuner.best() == arms[2]

    def test_mixed_arms(self):
        tuner = SORTuner([1.2, 1.5, 1.9999], young=True, rng=0)
        assert tuner.arms == [1.0, 1.2, 1.5, 1.99, "young"]
        for _ in range(200):
            omega = tuner.suggest()
            tuner.observe(20.0 if omega == "young" else 60.0)
        assert tuner.best() == "young"
        again = SORTuner.from_dict(json.loads(json.dumps(tuner.to_dict())))
        assert type(again) is SORTuner
        assert again.best() == "young"

    def test_default_grid(self):
        grid = SORTuner().arms
        assert grid[0] == 1.0
        assert len(grid) == 20
        assert max(grid) <= 1.99
        assert grid == sorted(grid)


class TestTokens:
    def test_any_order(self):
        tuner = BanditTuner(ARMS, rng=0)
        flying = [tuner.suggest(return_token=True) for _ in range(5)]
        assert tuner.stats["in_flight"] == 5
        for omega, token in reversed(flying):
            tuner.observe(100.0 * omega, token)
        assert tuner.history["cost"].tolist() == [100.0 * omega for omega, _ in reversed(flying)]

    def test_observe_without_suggest(self):
        tuner = BanditTuner(ARMS)
        with pytest.raises(RuntimeError, match="without suggest"):
            tuner.observe(1.0)
        tuner.suggest()
        tuner.observe(1.0)
        with pytest.raises(RuntimeError, match="without suggest"):
            tuner.observe(1.0)
        _, token = tuner.suggest(return_token=True)
        with pytest.raises(RuntimeError, match="`token`"):
            tuner.observe(1.0)
        tuner.observe(1.0, token)
        with pytest.raises(ValueError, match=f"`token` {token} is not in flight"):
            tuner.observe(1.0, token)

    def test_a_bad_cost_leaves_the_suggestion(self):
        tuner = BanditTuner(ARMS)
        tuner.suggest()
        for bad in (math.nan, math.inf, -1.0):
            with pytest.raises(ValueError, match="`cost`"):
                tuner.observe(bad)
        for bad in ("12", None, True, 1j, [1.0, 2.0]):
            with pytest.raises(TypeError, match="`cost`"):
                tuner.observe(bad)
        tuner.observe(np.float32(3.0))
        assert tuner.stats["total_cost"] == 3.0

    def test_discarding(self):
        tuner = BanditTuner(ARMS, rng=0)
        _, token = tuner.suggest(return_token=True)
        tuner.discard(token)
        tuner.suggest()
        tuner.suggest()  # replaces the one before
        assert tuner.stats["in_flight"] == 1
        assert tuner.stats["discarded"] == 2
        tuner.discard()
        with pytest.raises(RuntimeError):
            tuner.observe(1.0)


class TestFailures:
    def test_a_success_between_keeps_the_arm(self):
        tuner = BanditTuner(["only", "other"], fixed_first=("only", 9), rng=0)
        for k in range(9):
            tuner.suggest()
            tuner.observe(10.0, failed=k % 3 != 2)
        assert tuner.stats["failures"] == 6
        assert tuner.stats["barred"] == []

    def test_costs_twice_the_largest_and_bars_the_arm(self):
        tuner = BanditTuner(["good", "bad"], method="tsallis", rng=0)
        while tuner.stats["failures"] < 3:  # every one of "bad"
            if tuner.suggest() == "bad":
                tuner.observe(math.nan, failed=True)
            else:
                tuner.observe(40.0)
        assert tuner.stats["barred"] == ["bad"]
        failed = tuner.history["failed"]
        assert failed.sum() == 3
        assert (tuner.history["cost"][np.flatnonzero(failed)[-1]]) == 80.0
        assert {tuner.suggest() for _ in range(50)} == {"good"}
        assert tuner.probabilities().tolist() == [1.0, 0.0]

    def test_own_cost_if_it_is_more(self):
        tuner = BanditTuner(ARMS, rng=0)
        for cost, failed in ((30.0, False), (1000.0, True), (5.0, True)):
            tuner.suggest()
            tuner.observe(cost, failed=failed)
        assert tuner.history["cost"].tolist() == [30.0, 1000.0, 60.0]

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_last_arm_is_never_barred(self, kind):
        tuner, rng = make(kind), np.random.default_rng(5)
        for _ in range(60):
            tuner.suggest(where(tuner, rng))
            tuner.observe(math.inf, failed=True)
        assert len(tuner.stats["barred"]) == 4
        p = tuner.probabilities(0.3 if tuner.context else None)
        assert sorted(p.tolist()) == [0.0, 0.0, 0.0, 0.0, 1.0]


class TestContext:
    @pytest.mark.parametrize("kind", ["gp with context", "tsallis-cb", "chebcb", "chebcb log"])
    def test_outside_is_clipped_and_counted(self, kind):
        tuner = make(kind)
        for context, clipped in ((0.5, 0), (7.0, 1), (-math.inf, 2), (math.nan, 3), (np.float32(0.5), 3)):
            tuner.suggest(context)
            tuner.observe(10.0)
            assert tuner.stats["clipped"] == clipped
        low, high = tuner.context
        seen = tuner.history["context"]
        assert seen[1:3].tolist() == [high, low]
        assert low < seen[3] < high

    def test_needed_or_refused(self):
        with pytest.raises(ValueError, match="`context` is None"):
            make("gp with context").suggest()
        with pytest.raises(ValueError, match=r"`context` is 0\.5"):
            make("gp").suggest(0.5)
        with pytest.raises(TypeError, match="`context`"):
            make("chebcb").suggest("high")

    def test_each_context_has_its_own_best_arm(self):
        for kind in ("gp with context", "tsallis-cb", "chebcb"):
            tuner, rng = make(kind), np.random.default_rng(6)
            for _ in range(2500):
                x = float(rng.random())
                omega = tuner.suggest(x)
                tuner.observe(20.0 + 300.0 * (omega - 1.0 - 0.8 * x) ** 2)
            assert tuner.best(0.02) == 1.0, kind
            assert tuner.best(0.98) == 1.8, kind


class TestBackstop:
    def test_follows_the_median(self):
        tuner = BanditTuner(ARMS)
        assert tuner.limit() is None
        for cost, limit in ((10.0, 50.0), (30.0, 60.0), (200.0, 90.0)):
            tuner.suggest()
            tuner.observe(cost)
            assert tuner.limit() == limit
        for _ in range(200):  # the window forgets
            tuner.suggest()
            tuner.observe(1000.0)
        assert tuner.limit() == 3000.0

    def test_options(self):
        tuner = BanditTuner(ARMS, backstop=(5.0, 0.0))
        tuner.suggest()
        tuner.observe(0.25)
        assert tuner.limit() == 1.25
        tuner = BanditTuner(ARMS, backstop=None)
        tuner.suggest()
        tuner.observe(10.0)
        assert tuner.limit() is None


def test_fixed_first_and_prior():
    tuner = BanditTuner(ARMS, method="tsallis", fixed_first=(1.4, 4), rng=0)
    assert tuner.probabilities().tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert play(tuner, np.random.default_rng(0), 4) == [1.4] * 4
    assert tuner.probabilities().tolist() == [0.2] * 5  # a forced play says nothing about the others
    known = [(omega, 0.5, 20.0 + 300.0 * abs(omega - 1.2)) for omega in ARMS]
    tuner = BanditTuner(ARMS, context=(0.0, 1.0), prior=known, rng=0)
    assert tuner.best(0.5) == tuner.suggest(0.5) == 1.2
    assert tuner.stats["observations"] == 0


def test_cost_below_one_and_zero():
    """The floor is 1 only while costs look like iterations; a zero cost is possible."""
    for kind in KINDS:
        tuner, rng = make(kind), np.random.default_rng(8)
        for _ in range(400):
            omega = tuner.suggest(where(tuner, rng))
            tuner.observe(1e-3 * cost_of(omega, rng) if rng.random() < 0.98 else 0.0)
        assert tuner.best(0.5 if tuner.context else None) in (1.4, 1.6, 1.8), kind


def test_cusum_restarts_after_a_jump_and_not_before():
    tuner, rng = BanditTuner(ARMS, method="tsallis", restart="cusum", rng=0), np.random.default_rng(9)
    for step in range(3000):
        omega = tuner.suggest()
        best = 1.2 if step < 1500 else 1.8
        tuner.observe((30.0 + 400.0 * abs(omega - best)) * math.exp(0.1 * rng.standard_normal()))
        if step == 1499:
            assert tuner.stats["restarts"] == 0
    assert 1 <= tuner.stats["restarts"] <= 3
    assert tuner.best() == 1.8


def test_history_is_bounded():
    tuner = BanditTuner(ARMS, keep=10, rng=0)
    for k in range(57):
        tuner.suggest()
        tuner.observe(float(k))
        assert tuner.history["cost"].tolist() == [float(v) for v in range(max(0, k - 9), k + 1)]
    assert tuner.stats["observations"] == 57


def test_seeds():
    def way(rng):
        return play(BanditTuner(ARMS, method="thompson", rng=rng), np.random.default_rng(0), 60)

    assert way(1) == way(1) != way(2)
    assert way(np.random.SeedSequence(3)) == way(np.random.SeedSequence(3)) != way(None)
    assert way(np.random.default_rng(4)) == way(np.random.default_rng(4))


@pytest.mark.parametrize(
    ("arms", "options", "error", "match"),
    [
        ([], {}, ValueError, "`arms`"),
        ("abc", {}, TypeError, "`arms`"),
        (np.eye(2), {}, ValueError, r"`arms` has shape \(2, 2\)"),
        ([1.0, math.nan], {}, ValueError, "`arms`"),
        (ARMS, {"method": "gpx"}, ValueError, "did you mean 'gp'"),
        (ARMS, {"method": "chebcb"}, ValueError, "`context` is None"),
        (ARMS, {"method": "tsallis", "context": (0, 1)}, ValueError, "use 'tsallis-cb'"),
        (ARMS, {"context": (1.0, 1.0)}, ValueError, "a < b"),
        (ARMS, {"context": 3}, ValueError, "`context` must be a pair"),
        (ARMS, {"context": (0.0, math.inf)}, ValueError, "`context`"),
        (ARMS, {"context": (0.0, 1.0), "context_transform": "log"}, ValueError, "positive"),
        (ARMS, {"context_transform": "sqrt"}, ValueError, "`context_transform`"),
        (ARMS, {"bins": 4}, ValueError, "`bins` is 4"),
        (ARMS, {"discount": 0.0}, ValueError, "`discount`"),
        (ARMS, {"discount": 1.5}, ValueError, "`discount`"),
        (ARMS, {"restart": "always"}, ValueError, "`restart`"),
        (ARMS, {"estimator": "x"}, ValueError, "`estimator`"),
        (ARMS, {"degree": 17}, ValueError, "`degree`"),
        (ARMS, {"floor": -1.0}, ValueError, "`floor`"),
        (ARMS, {"prior": [(1.0, None)]}, ValueError, "`prior`"),
        (ARMS, {"prior": [(1.1, None, 3.0)]}, ValueError, r"`prior` names 1\.1"),
        (ARMS, {"prior": [(1.0, None, math.nan)]}, ValueError, "`prior`"),
        (ARMS, {"fixed_first": (7.0, 2)}, ValueError, r"`fixed_first` names 7\.0"),
        (ARMS, {"fixed_first": 1.0}, ValueError, "`fixed_first` must be a pair"),
        (ARMS, {"features": [1.0, 2.0]}, ValueError, "`features` has shape"),
        (ARMS, {"features": "cubic"}, ValueError, "`features`"),
        ([0.5, 3.0], {"features": "omega"}, ValueError, r"\(0, 2\)"),
        ([0.0, 3.0], {"features": "log"}, ValueError, "positive"),
        (ARMS, {"backstop": (0.5, 1.0)}, ValueError, "`backstop`"),
        (ARMS, {"backstop": 3.0}, ValueError, "`backstop` must be"),
        (ARMS, {"noise": 0.0}, ValueError, "`noise`"),
        (ARMS, {"rng": "x"}, TypeError, "`rng`"),
        ([str(k) for k in range(400)], {"context": (0.0, 1.0)}, ValueError, "pass `features`"),
    ],
)
def test_refused_options(arms, options, error, match):
    with pytest.raises(error, match=match):
        BanditTuner(arms, **options)


@pytest.mark.parametrize("grid", [[0.0, 1.5], [1.0, 2.0], [math.nan]])
def test_refused_grids(grid):
    with pytest.raises(ValueError, match="`grid`"):
        SORTuner(grid)


def test_floor_is_kept():
    tuner = BanditTuner(ARMS, method="tsallis", floor=5.0)
    tuner.suggest()
    with pytest.raises(ValueError, match="below `floor`"):
        tuner.observe(4.0)


class TestCorruptState:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda s: s.clear(), "format"),
            (lambda s: s.update(format="x"), "'x'"),
            (lambda s: s.update(version=99), "version 99"),
            (lambda s: s.update(method="x"), "'method'"),
            (lambda s: s.update(n_arms=7), "`state` is of 7"),
            (lambda s: s.pop("n_arms"), "`state` is of None"),
            (lambda s: s.update(arms=[{"a": 1, "b": 2}] * 5), "no arm"),
            (lambda s: s.pop("options"), "'options'"),
            (lambda s: s["options"].pop("seed"), "seed"),
            (lambda s: s["options"].update(bins=0), "`bins`"),
            (lambda s: s["options"].update(bins="4"), "'bins'"),
            (lambda s: s["options"].update(lo=5.0), "`context`"),
            (lambda s: s["options"].update(discount=7.0), "'discount'"),
            (lambda s: s["options"].update(kernel=[1.0]), "`kernel`"),
            (lambda s: s.update(state=[]), "'state'"),
            (lambda s: s["state"].pop("policy.theta"), "'policy.theta' is missing"),
            (lambda s: s["state"]["policy.theta"].pop(), "theta' has length"),
            (lambda s: s["state"].update({"policy.theta": "abc"}), "theta"),
            (lambda s: s["state"].update({"policy.level": [math.nan]}), "level"),
            (lambda s: s["state"].update(draws=[-1.0]), "'draws'"),
            (lambda s: s["state"].update(draws=[0.5]), "'draws'"),
            (lambda s: s["state"].update(barred=[1.0] * 5), "'barred' leaves no arm"),
            (lambda s: s["state"]["history.arm"].append(77.0), "history"),
            (lambda s: s["state"]["in_flight"].append(0.0), "'in_flight'"),
            (lambda s: s["state"]["in_flight"].__setitem__(1, 99.0), "'in_flight' names no arm"),
            (lambda s: s["state"]["in_flight"].__setitem__(4, 99.0), "'in_flight'"),
        ],
    )
    def test_says_what_is_wrong(self, change, match):
        tuner = make("gp with context")
        play(tuner, np.random.default_rng(0), 5)
        tuner.suggest(0.5, return_token=True)
        state = tuner.to_dict()
        change(state)
        with pytest.raises(ValueError, match=match):
            BanditTuner.from_dict(state)

    @pytest.mark.parametrize("bad", [None, [], "{}", 3])
    def test_no_dict(self, bad):
        with pytest.raises(ValueError, match="`state` must be a dict"):
            BanditTuner.from_dict(bad)

    @given(data=st.data())
    def test_any_number_changed(self, data):
        """Whatever number is replaced: a ValueError, or a tuner that still works."""
        kind = data.draw(st.sampled_from(sorted(KINDS)))
        tuner = make(kind)
        play(tuner, np.random.default_rng(0), 8)
        tuner.suggest(0.5 if tuner.context else None)
        state = tuner.to_dict()
        name = data.draw(st.sampled_from(sorted(k for k, v in state["state"].items() if v)))
        position = data.draw(st.integers(0, len(state["state"][name]) - 1))
        value = data.draw(st.sampled_from([math.nan, math.inf, -1.0, 1e300, 0.0, 2.0, 3.7, 2.0**60]))
        state["state"][name][position] = value
        try:
            changed = BanditTuner.from_dict(state)
        except ValueError:
            return
        assert changed.suggest(0.5 if tuner.context else None) in ARMS
        changed.observe(10.0)
