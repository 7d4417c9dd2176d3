"""`sparse_ot`: duality, limits, a NumPy twin, and bad input."""

from __future__ import annotations

import itertools
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

from aitken import ConvergenceWarning, ot
from aitken._result import Status
from tests.interruption import check_ctrl_c, needs_posix


def problem(n=24, m=18, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return a / a.sum(), b / b.sum(), rng.random((n, m))


def simplex_projection(s, mass):
    """max(0, s - theta) with sum `mass`, by bisection."""
    low, high = s.min() - mass, s.max()
    for _ in range(200):
        theta = 0.5 * (low + high)
        low, high = (theta, high) if np.maximum(s - theta, 0).sum() > mass else (low, theta)
    return np.maximum(s - theta, 0)


def semidual(f, a, b, M, k, gamma):
    """The dual's value at f and the plan that attains it; ties go to the lowest index."""
    plan, value = np.zeros(M.shape), a @ f
    for j in range(b.size):
        s = f - M[:, j]
        top = np.argsort(-s, kind="stable")[:k]
        plan[top, j] = simplex_projection(s[top] / gamma, b[j])
        value -= s @ plan[:, j] - 0.5 * gamma * (plan[:, j] ** 2).sum()
    return value, plan


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_twin(k, order):
    """Value and plan are those of the semi-dual at the potentials returned."""
    a, b, M = problem()
    r = ot.sparse_ot(a, b, np.asarray(M, order=order), k, 0.7, return_plan="dense")
    value, plan = semidual(r.potentials[0], a, b, M, k, 0.7)
    assert r.value == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(r.plan, plan, atol=1e-9)
    assert (r.plan > 0).sum(axis=0).max() <= k
    np.testing.assert_allclose(r.plan.sum(axis=0), b, atol=1e-14)
    assert r.err == pytest.approx(np.abs(r.plan.sum(axis=1) - a).sum(), abs=1e-13)
    objective = (M * r.plan).sum() + 0.35 * (r.plan**2).sum()
    assert r.gap == pytest.approx(objective - r.value, abs=1e-13)


def test_gap_shrinks_with_k():
    a, b, M = problem(64, 64, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # a duality gap is no failure
        results = [ot.sparse_ot(a, b, M, k, 1.0) for k in (1, 2, 3, 8)]
    values = [r.value for r in results]
    assert all(x > y for x, y in itertools.pairwise(values))  # fewer plans cost more
    assert results[1].status == Status.STAGNATED
    assert not results[1].success
    assert "duality gap" in results[1].message
    assert results[1].err > results[2].err
    quadratic = ot.quadratic_ot(a, b, M, 1.0)
    assert results[-1].value == pytest.approx(quadratic.value, rel=1e-6)
    assert all(r.value >= quadratic.value - 1e-12 for r in results)


@pytest.mark.parametrize("form", ["semidual", "dual"])
def test_wide_enough_equals_quadratic(form):
    """By Newton steps where k cannot bind, and by L-BFGS from elsewhere."""
    a, b, M = problem()
    quadratic = ot.quadratic_ot(a, b, M, 0.7, tol=1e-12)
    k = int(quadratic.plan.count_nonzero(axis=0).max())
    for given in (k, M.shape[0], 10 * M.shape[0]):
        r = ot.sparse_ot(a, b, M, given, 0.7, form=form)
        assert r.success
        assert r.nit == 0
        np.testing.assert_allclose(r.plan.toarray(), quadratic.plan.toarray(), atol=1e-8)
    start = (np.zeros(a.size), np.zeros(b.size))
    r = ot.sparse_ot(a, b, M, k, 0.7, form=form, init=start, tol=1e-7, ftol=0.0)
    assert r.nit > 5
    assert r.err <= 1e-5
    np.testing.assert_allclose(r.plan.toarray(), quadratic.plan.toarray(), atol=1e-5)
    assert r.value == pytest.approx(quadratic.value, abs=1e-9)


def test_one_entry_per_column():
    """k = 1 on an assignment problem: the assignment, whatever gamma."""
    M = np.random.default_rng(2).random((12, 12))
    exact = ot.exact_ot(None, None, M)
    r = ot.sparse_ot(None, None, M, 1, 1e-3)
    assert r.value_linear == pytest.approx(exact.value, abs=1e-9)
    assert r.success


def test_forms_agree():
    a, b, M = problem(seed=5)
    semi, dual = (ot.sparse_ot(a, b, M, 3, 1.0, form=form) for form in ("semidual", "dual"))
    assert dual.value == pytest.approx(semi.value, rel=1e-3)
    assert dual.value <= semi.value + 1e-4


def test_value_gradient():
    """Where k does not bind and where the rows are met the value is differentiable."""
    a, b, M = problem()
    k, gamma, h = 12, 0.7, 1e-5
    rng = np.random.default_rng(3)
    dM, da, db = rng.standard_normal(M.shape), rng.standard_normal(a.size), rng.standard_normal(b.size)
    da, db = da - da.mean(), db - db.mean()
    r = ot.sparse_ot(a, b, M, k, gamma)
    assert r.success
    grad = r.vjp(2.0)
    values = [2 * ot.sparse_ot(a + t * da, b + t * db, M + t * dM, k, gamma).value for t in (h, -h)]
    expected = (values[0] - values[1]) / (2 * h)
    assert (grad["M"] * dM).sum() + grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 20])
def test_zero_bins_and_forbidden_pairs(k):
    a, b, M = problem()
    a[2] = b[3] = b[7] = 0.0
    a, b = a / a.sum(), b / b.sum()
    M[0, :5] = np.inf
    M[:, 5] = M[:, 6]
    r = ot.sparse_ot(a, b, M, k, 0.5, return_plan="dense")
    assert np.isfinite(r.plan).all()
    assert (r.plan[~np.isfinite(M)] == 0).all()
    assert (r.plan[2] == 0).all()
    np.testing.assert_allclose(r.plan.sum(axis=0), b, atol=1e-9)
    assert all(np.isfinite(q).all() for q in r.potentials)
    assert (r.plan > 0).sum(axis=0).max() <= k


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
def test_slim(shape):
    a, b, M = problem(*shape)
    r = ot.sparse_ot(a, b, M, 6, 0.5, return_plan="dense")
    np.testing.assert_allclose(r.plan, np.outer(a, b), atol=1e-9)


@pytest.mark.parametrize(
    ("args", "k", "gamma", "status", "words"),
    [
        (
            (None, None, np.random.default_rng(0).random((30, 40))),
            30,
            1e-12,
            Status.STAGNATED,
            "Raise `gamma`",
        ),
        ((None, None, np.random.default_rng(0).random((4, 5))), 2, 1e-18, Status.STAGNATED, "Raise `gamma`"),
        (([0.9, 0.1], [0.1, 0.9], [[0, np.inf], [0, 0]]), 2, 1.0, Status.DIVERGED, "nothing may be sent"),
    ],
)
def test_what_k_does_not_explain_warns(args, k, gamma, status, words):
    with pytest.warns(ConvergenceWarning, match=words):
        r = ot.sparse_ot(*args, k, gamma)
    assert r.status == status
    assert not r.success


def test_ties_go_to_the_lowest_index():
    with pytest.warns(ConvergenceWarning):
        r = ot.sparse_ot(
            None, [0.4, 0.6], np.ones((5, 2)), 2, 1.0, init=(np.zeros(5), np.zeros(2)), maxiter=1
        )
    first = semidual(r.potentials[0], np.full(5, 0.2), np.array([0.4, 0.6]), np.ones((5, 2)), 2, 1.0)[1]
    np.testing.assert_allclose(r.plan.toarray(), first, atol=1e-12)


def test_threads_do_not_change_bits():
    M = np.random.default_rng(5).random((300, 400))
    one, two = (ot.sparse_ot(None, None, M, 2, 0.5, n_threads=k, ftol=1e-5) for k in (1, 2))
    assert one.value == two.value
    assert (one.plan != two.plan).nnz == 0


def test_callback_and_budget():
    a, b, M = problem()
    seen = []

    def stop(intermediate_result):
        seen.append(intermediate_result.value)
        if len(seen) == 4:
            raise StopIteration

    r = ot.sparse_ot(a, b, M, 1, 0.5, callback=stop)
    assert r.status == Status.STOPPED_BY_CALLBACK
    assert seen == sorted(seen)  # the dual rises
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        ot.sparse_ot(a, b, M, 1, 0.5, maxiter=2)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (ValueError, {"k": 0}, "`k` must be >= 1; got 0"),
        (TypeError, {"k": 1.5}, "`k` must be an integer"),
        (ValueError, {"gamma": -1.0}, "`gamma`"),
        (ValueError, {"form": "primal"}, "`form`"),
        (ValueError, {"ftol": -1.0}, "`ftol`"),
        (ValueError, {"M": np.full((3, 2), np.nan)}, "`M` has a non-finite"),
        (ValueError, {"b": [0.5, 0.6]}, "equal mass"),
        (ValueError, {"init": (np.zeros(3),)}, "`init` has 1 items"),
    ],
)
def test_bad_input(kind, change, words):
    given = {"a": None, "b": None, "M": np.arange(6.0).reshape(3, 2), "k": 1, "gamma": 1.0, **change}
    with pytest.raises(kind, match=words):
        ot.sparse_ot(**given)


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\nM = np.random.default_rng(0).random((2500, 2500))",
        "ot.sparse_ot(None, None, M, 2, 1.0, n_threads=1, ftol=0.0, maxiter=10**6)",
        wait=2.0,
    )


def test_routing_example(capsys):
    """What the example prints holds: capacities kept, loads balanced, nobody dropped by transport."""
    path = Path(__file__).resolve().parents[2] / "examples" / "ot_routing.py"
    example = runpy.run_path(str(path))
    logits, results = example["route"](200, 8)
    gating, sparse, quadratic, exact = results
    capacity = 32
    assert logits.shape == (200, 8)
    assert (gating.weights.sum(axis=1) == 0).sum() > 20  # popular experts are full
    assert (sparse.weights > 0).sum(axis=0).max() <= capacity
    for r in (quadratic, exact):
        np.testing.assert_allclose(r.weights.sum(axis=1), 1, atol=1e-9)
        np.testing.assert_allclose(r.loads, 25, atol=1e-5)
    assert (sparse.weights.sum(axis=1) == 0).sum() < (gating.weights.sum(axis=1) == 0).sum() / 2
    assert sparse.loads.max() < gating.loads.max() + 1e-9
    # The assignment is the best of all balanced ones.
    assert (exact.weights * logits).sum() >= (quadratic.weights * logits).sum()
    example["main"](["60", "4"])
    assert "60 tokens, 4 experts" in capsys.readouterr().out
