"""`solve_sequence` with a tuner: what it is told, what happens to bad arms, what is learned."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp

from aitken import ConvergenceWarning, Status
from aitken.datasets import HeatSequence
from aitken.linalg import cg, solve_sequence, sor, ssor_cg
from aitken.tune import BanditTuner, SORTuner
from tests.relaxation import problems


class Scripted:
    """Plays given arms and keeps what it was told."""

    def __init__(self, arms, best=1.5, limit=None):
        self.arms, self._best, self._limit = list(arms), best, limit
        self.contexts, self.observed = [], []

    def suggest(self, context=None, return_token=False):
        self.contexts.append(context)
        token = len(self.contexts)
        return self.arms[(token - 1) % len(self.arms)], token

    def observe(self, cost, token=None, failed=False):
        self.observed.append((token, cost, failed))

    def best(self, context=None):
        return self._best

    def limit(self):
        return self._limit


def _systems(count=6, m=10):
    A, I = problems.laplacian(m), sp.eye_array(m * m, format="csr")
    b = np.random.default_rng(0).normal(size=(count, m * m))
    return [(sp.csr_array(A + 0.05 * i * I), b[i]) for i in range(count)]


@pytest.mark.parametrize(("solver", "alone"), [("sor", sor), ("ssor_cg", ssor_cg)])
def test_arms_are_played_and_costs_told(solver, alone):
    systems, tuner = _systems(), Scripted([1.0, 1.4, 1.8])
    r = solve_sequence(systems, solver=solver, tuner=tuner, x0=None, context=np.arange(6.0))
    assert r.converged
    expected = [alone(A, b, omega=w).nit for (A, b), w in zip(systems, [1.0, 1.4, 1.8] * 2, strict=True)]
    np.testing.assert_array_equal(r.nit, expected)
    np.testing.assert_array_equal(r.costs, expected)
    assert tuner.observed == [(i + 1, float(c), False) for i, c in enumerate(expected)]
    assert tuner.contexts == list(range(6))
    np.testing.assert_array_equal(r.params, [1.0, 1.4, 1.8] * 2)
    np.testing.assert_array_equal(r.contexts, np.arange(6.0))
    assert r.tuner is tuner
    assert 0 < r.seconds_tuner < r.time
    np.testing.assert_array_equal(r.order, np.arange(6))


def test_contexts_from_anywhere():
    systems = _systems(3)
    for given, options in (
        ([(A, b, 0.5 * i) for i, (A, b) in enumerate(systems)], {}),
        (systems, {"context": lambda i: 0.5 * i}),
        (systems, {"context": [0.0, 0.5, 1.0]}),
        (iter(systems), {"context": lambda i: 0.5 * i}),
    ):
        tuner = Scripted([1.5])
        solve_sequence(given, tuner=tuner, **options)
        assert tuner.contexts == [0.0, 0.5, 1.0]


def test_each_system_starts_from_the_last_solution():
    A, b = _systems(1)[0]
    r = solve_sequence([(A, b)] * 3, solver="ssor_cg", tuner=Scripted([1.5]))
    assert r.nit[0] > 0
    assert (r.nit[1:] == 0).all()
    seen = []

    def follow(i, previous):
        seen.append(previous)
        return A, b if previous is None else previous

    r = solve_sequence(follow, n_systems=3, solver="ssor_cg", tuner=Scripted([1.5]))
    assert seen[0] is None
    np.testing.assert_array_equal(seen[2], r.X[1])


def test_a_slow_arm_is_cut_short_and_charged():
    systems = _systems(4)
    slow = sor(*systems[0], omega=1.0).nit
    assert slow > 100
    tuner = Scripted([1.0], best=1.6, limit=50.0)
    r = solve_sequence(systems, solver="sor", tuner=tuner, x0=None)
    assert r.converged
    assert (50 < r.costs).all()
    assert (r.costs < slow).all()  # the rest was done with the best arm
    assert not any(failed for _, _, failed in tuner.observed)
    assert r.costs[0] == r.nit[0]


def test_a_diverging_arm_costs_a_bounded_amount():
    """Not symmetric, not dominant: only small omegas converge."""
    n = 60
    A = sp.csr_array(
        sp.diags_array([2.5, 1.0, -2.5], offsets=[-1, 0, 1], shape=(n, n)) + 1.5 * sp.eye_array(n)
    )
    b = np.ones(n)
    with pytest.warns(ConvergenceWarning):
        alone = sor(A, b, omega=1.9)
    assert alone.status == Status.DIVERGED
    best = sor(A, b, omega=0.3).nit
    tuner = BanditTuner([0.3, 1.9], method="gp", rng=0)
    r = solve_sequence([(A, b)] * 20, solver="sor", tuner=tuner, x0=None)
    assert r.converged
    assert tuner.stats["failures"] >= 1
    assert (r.costs <= alone.nit + best + 1).all()
    assert (r.params[5:] == 0.3).sum() >= 10


def test_failures_without_a_way_out_are_told():
    A = sp.csr_array(problems.laplacian(6) - 3.0 * sp.eye_array(36))
    b = np.random.default_rng(0).normal(size=36)
    tuner = Scripted([1.2], best=1.2)
    with pytest.warns(ConvergenceWarning):
        r = solve_sequence([(A, b)], tuner=tuner)
    assert not r.converged
    assert tuner.observed[0][2]


def test_the_tuner_is_not_left_waiting_by_an_error():
    systems = _systems(3)
    bad = systems[1][0].copy()
    bad.data[bad.indptr[5] : bad.indptr[6]] = 0
    tuner = Scripted([1.5])
    with pytest.raises(np.linalg.LinAlgError, match="row 5"):
        solve_sequence([systems[0], (bad, systems[1][1])], tuner=tuner)
    assert len(tuner.observed) == 2
    assert tuner.observed[1][2]


@pytest.mark.parametrize("cost", ["iterations", "work", "seconds"])
def test_costs(cost):
    systems = _systems(5)
    for solver in ("sor", "ssor_cg", "gcrodr"):
        arms = [{"M": "jacobi"}, {"M": "ilu0"}] if solver == "gcrodr" else [1.2, 1.6]
        r = solve_sequence(systems, solver=solver, tuner=Scripted(arms, best=arms[1]), cost=cost, rtol=1e-8)
        assert r.converged
        assert (r.costs > 0).all()
        if cost == "iterations":
            np.testing.assert_array_equal(r.costs, r.nit)
        if cost == "seconds":
            assert (r.costs <= r.time).all()
        if cost == "work" and solver != "gcrodr":
            assert (r.costs > r.nit).all()
            assert (r.costs < 5 * r.nit + 10).all()


def test_preconditioners_restarts_and_spaces_are_arms():
    systems = _systems(12)
    arms = [
        {"M": "ic0", "restart": 20, "recycle_dim": 8},
        {"M": "jacobi", "restart": 10, "recycle_dim": 4},
        {"M": None, "restart": 30, "recycle_dim": 0},
    ]
    tuner = BanditTuner(arms, rng=0)
    r = solve_sequence(systems, solver="gcrodr", tuner=tuner, cost="work", rtol=1e-8)
    assert r.converged
    assert r.params[0] in arms
    assert tuner.best() == arms[0]
    named = solve_sequence(
        systems, solver="gcrodr", tuner=Scripted([5, 15], best=5), tuned="restart", rtol=1e-8
    )
    np.testing.assert_array_equal(named.params[:4], [5, 15, 5, 15])


def test_a_users_solver():
    calls = []

    def solver(A, b, x0=None, *, omega, rtol=1e-6):
        calls.append(omega)
        r = ssor_cg(A, b, x0, omega=omega, rtol=rtol)
        return r

    r = solve_sequence(_systems(4), solver=solver, tuner=Scripted([1.1, 1.7]), rtol=1e-7)
    assert calls == [1.1, 1.7, 1.1, 1.7]
    assert r.converged
    assert set(r.records) == {0, 1, 2, 3}


def test_a_run_resumes_exactly():
    systems = _systems(30)
    whole = solve_sequence(systems, solver="sor", tuner=SORTuner(method="tsallis", rng=3), x0=None)
    tuner = SORTuner(method="tsallis", rng=3)
    first = solve_sequence(systems[:13], solver="sor", tuner=tuner, x0=None)
    resumed = SORTuner.from_dict(json.loads(json.dumps(tuner.to_dict())))
    second = solve_sequence(systems[13:], solver="sor", tuner=resumed, x0=None)
    np.testing.assert_array_equal(np.append(first.params, second.params), whole.params)
    np.testing.assert_array_equal(np.append(first.costs, second.costs), whole.costs)


def test_tuners_by_name():
    systems, context = _systems(8), 0.05 * np.arange(8)
    for name in ("gp", "tsallis-cb", "chebcb"):
        r = solve_sequence(systems, solver="sor", tuner=name, context=context)
        assert r.converged
        assert r.tuner.context == (0.0, pytest.approx(0.35))
    for name in ("gp", "tsallis", "thompson"):
        assert solve_sequence(systems, tuner=name).converged


def test_heat_is_learned():
    """A quarter of the published problem: tuned between the best fixed omega and the optimum of each step."""
    heat = HeatSequence(50)
    steps = 500
    fixed = {
        w: solve_sequence(heat, n_systems=steps, solver="ssor_cg", omega=w, keep=False, rtol=1e-8).costs.sum()
        for w in (1.0, 1.5, 1.75)
    }
    tuner = SORTuner(method="gp", context=(1e-3, 10.0), context_transform="log", rng=0)
    tuned = solve_sequence(heat, n_systems=steps, tuner=tuner, keep=False, rtol=1e-8)
    plain = solve_sequence(heat, n_systems=20, solver=lambda A, b, x0, **o: cg(A, b, x0, **o), x0="previous")
    assert tuned.converged
    assert plain.converged
    assert tuned.costs.sum() < 1.06 * min(fixed.values())


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (TypeError, "`tuner` must be a BanditTuner", {"tuner": 3}),
        (ValueError, "`method`", {"tuner": "best"}),
        (ValueError, "`executor` must be None", {"tuner": "gp", "executor": 2}),
        (ValueError, "`solver` is 'direct'", {"tuner": "gp", "solver": "direct"}),
        (ValueError, "`cost` must be one of", {"tuner": "gp", "cost": "money"}),
        (ValueError, r"`context` has shape \(2,\); \(3,\)", {"tuner": "gp", "context": [1.0, 2.0]}),
        (TypeError, "`context`", {"tuner": "gp", "context": ["a", "b", "c"]}),
        (TypeError, "`context` of system 0", {"tuner": "gp", "context": lambda i: "x"}),
        (ValueError, "`omega`", {"tuner": Scripted([2.5])}),
        (ValueError, "`omega`", {"solver": "sor", "omega": 2.5}),
        (TypeError, "no_such", {"solver": "sor", "no_such": 1}),
    ],
)
def test_bad_input_is_named(error, match, options):
    with pytest.raises(error, match=match):
        solve_sequence(_systems(3), **options)
