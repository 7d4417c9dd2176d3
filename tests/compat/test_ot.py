"""`aitken.compat.ot`: POT's names, keywords, logs and conventions, with answers checked from outside."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy.special import logsumexp, xlogy

import aitken.compat.ot as cot
from aitken import ConvergenceWarning, ot

# POT's own solvers pass options that SciPy no longer wants.
pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize.*L-BFGS-B:DeprecationWarning")

METHODS = ["sinkhorn", "sinkhorn_log", "greenkhorn", "sinkhorn_stabilized", "sinkhorn_epsilon_scaling"]


def problem(n=12, m=9, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return a / a.sum(), b / b.sum(), rng.random((n, m))


def reference(a, b, M, reg, rho=(np.inf, np.inf), steps=5000):
    """Plain log-domain Sinkhorn for KL to a b^T."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(steps):
        f_new = -reg / (1 + reg / rho[0]) * logsumexp((g - M) / reg, b=b, axis=1)
        g_new = -reg / (1 + reg / rho[1]) * logsumexp((f_new[:, None] - M) / reg, b=a[:, None], axis=0)
        change = max(np.abs(f_new - f).max(), np.abs(g_new - g).max())
        f, g = f_new, g_new
        if change < 1e-14:
            break
    return a[:, None] * b * np.exp((f[:, None] + g - M) / reg)


def kl(p, q):
    return float((xlogy(p, p / np.where(q > 0, q, 1.0)) - p + q).sum())


@pytest.fixture
def without_pot(monkeypatch):
    """As if POT were not installed."""
    for name in [name for name in sys.modules if name == "ot" or name.startswith("ot.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ot", None)


@pytest.fixture
def pot():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ot", reason="needs POT")


# ------------------------------------------------------------------------------------- names and signatures


@pytest.mark.parametrize("name", cot.__all__[1:])
def test_signatures_are_pot_s(pot, name):
    def shape(function):
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]

    assert shape(getattr(cot, name)) == shape(getattr(pot, name))


def test_results_have_pot_s_attributes(pot):
    theirs = {name for name in dir(pot.utils.OTResult) if not name.startswith("_")}
    result = cot.solve(problem()[2], reg=0.1)
    assert theirs - {"a_to_b", "b_to_a", "citation"} <= set(dir(result))  # the former two POT does not fill


@pytest.mark.parametrize("method", METHODS)
def test_logs_have_pot_s_keys(pot, method):
    a, b, M = problem()
    theirs = pot.sinkhorn(a, b, M, 0.1, method=method, log=True)[1]
    ours = cot.sinkhorn(a, b, M, 0.1, method=method, log=True)[1]
    assert set(theirs) <= set(ours)
    for key in ("u", "v", "log_u", "alpha"):
        if key in theirs:
            assert ours[key].shape == np.shape(theirs[key])


def test_other_names_are_pot_s(pot):
    assert cot.emd is pot.emd
    assert cot.unif(4).tolist() == [0.25] * 4
    assert cot.bregman.sinkhorn is cot.sinkhorn
    assert cot.bregman.screenkhorn is pot.bregman.screenkhorn
    assert cot.solvers.solve is cot.solve
    assert cot.batch.solve_batch is cot.solve_batch
    assert "emd" in dir(cot)
    with pytest.raises(AttributeError, match=r"neither 'aitken.compat.ot' nor POT .* has 'emdd'"):
        _ = cot.emdd


def test_other_names_without_pot(without_pot):
    with pytest.raises(AttributeError, match=r"no attribute 'emd'.*pip install POT"):
        _ = cot.emd
    with pytest.raises(NotImplementedError, match="pip install POT"):
        cot.solve(problem()[2], unbalanced=1.0)
    assert not hasattr(cot, "__wrapped__")
    assert dir(cot) == sorted(cot.__all__)


def test_import_loads_no_optional_library():
    code = "import sys, json, aitken.compat.ot; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not roots & {"ot", "torch", "jax", "sklearn", "cupy", "matplotlib"}


# ------------------------------------------------------------------------------------- sinkhorn, sinkhorn2


def test_masses_apart_by_rounding():
    a, b, M = problem()
    a32, b32 = (w.astype(np.float32).astype(np.float64) for w in (a, b))
    assert abs(a32.sum() / b32.sum() - 1) > 1e-9
    plan = cot.sinkhorn(a32, b32, M, 0.05)
    np.testing.assert_allclose(plan.sum(0), b32 * (a32.sum() / b32.sum()), atol=1e-9)
    np.testing.assert_allclose(cot.solve(M, a32, b32, reg=0.05).plan, plan, atol=1e-9)
    assert cot.solve(M, a32, b32).value == pytest.approx(cot.solve(M, a, b).value, rel=1e-6)
    both = np.stack([b32, b], axis=1)
    losses = cot.sinkhorn2(a32, both, M, 0.05)
    assert losses[0] == pytest.approx((plan * M).sum(), rel=1e-8)
    batch = cot.solve_batch(np.stack([M, M]), 0.05, np.stack([a32, a]), np.stack([b32, b]), tol=1e-10).plan
    np.testing.assert_allclose(batch[0], plan, atol=1e-9)
    X = np.random.default_rng(0).random((a.size, 2))
    assert cot.solve_sample(X, X[: b.size], a32, b32, reg=0.1, lazy=True).value > 0
    with pytest.raises(ValueError, match="equal mass"):
        cot.sinkhorn(a32, 1.0001 * b32, M, 0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mass", [1.0, 2.5])
def test_sinkhorn(method, mass):
    a, b, M = problem()
    plan, log = cot.sinkhorn(mass * a, mass * b, M, 0.05, method=method, log=True)
    np.testing.assert_allclose(plan, mass * reference(a, b, M, 0.05), atol=1e-9)
    np.testing.assert_allclose(log["u"][:, None] * np.exp(-M / 0.05) * log["v"], plan, rtol=1e-9)
    np.testing.assert_allclose(np.exp((log["alpha"][:, None] + log["beta"] - M) / 0.05), plan, rtol=1e-9)
    assert log["err"][-1] <= 1e-9
    assert log["niter"] == log["n_iter"] > 0


def test_agrees_with_pot(pot):
    a, b, M = problem()
    plan = pot.sinkhorn(a, b, M, 0.05, stopThr=1e-13, numItermax=100000)
    np.testing.assert_allclose(cot.sinkhorn(a, b, M, 0.05), plan, atol=1e-9)
    loss = pot.sinkhorn2(a, b, M, 0.05, stopThr=1e-13, numItermax=100000)
    assert cot.sinkhorn2(a, b, M, 0.05) == pytest.approx(loss, rel=1e-8)


@pytest.mark.parametrize("threshold", [1e-3, 1e-6, 1e-9])
def test_the_threshold_is_met_in_pot_s_measure(threshold):
    a, b, M = problem(40, 30)
    plan = cot.sinkhorn(a, b, M, 0.01, stopThr=threshold)
    assert np.linalg.norm(plan.sum(0) - b) <= threshold
    assert np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum() <= threshold * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_warm_start(method):
    a, b, M = problem(60, 50)
    plan, log = cot.sinkhorn(a, b, M, 0.003, method=method, log=True)
    again, warm = cot.sinkhorn(a, b, M, 0.003, method=method, log=True, warmstart=log["warmstart"])
    np.testing.assert_allclose(again, plan, atol=1e-10)
    assert warm["niter"] <= 2 < log["niter"]


def test_empty_weights_are_uniform():
    M = problem()[2]
    expected = reference(np.full(12, 1 / 12), np.full(9, 1 / 9), M, 0.1)
    np.testing.assert_allclose(cot.sinkhorn([], [], M, 0.1), expected, atol=1e-9)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("mass", [1.0, 2.0, 0.3])
def test_histograms_in_columns(log, mass):
    a, _, M = problem()
    b = np.random.default_rng(1).random((9, 4)) + 0.1
    b /= b.sum(0)
    expected = [mass * (reference(a, b[:, k], M, 0.1) * M).sum() for k in range(4)]
    a, b = mass * a, mass * b
    found = cot.sinkhorn(a, b, M, 0.1, log=log)
    if log:
        found, facts = found
        assert facts["u"].shape == (12, 4)
        plans = facts["u"][:, None, :] * np.exp(-M / 0.1)[:, :, None] * facts["v"][None]
        np.testing.assert_allclose(plans.sum(0), b, atol=1e-9)
        warm = cot.sinkhorn(a, b, M, 0.1, log=True, warmstart=facts["warmstart"])[1]
        assert warm["niter"] <= 2
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    np.testing.assert_allclose(cot.sinkhorn2(a, b, M, 0.1), expected, rtol=1e-7)


@pytest.mark.parametrize("log", [False, True])
def test_columns_are_checked(log):
    a, b, M = problem()
    both = np.stack([b, b], axis=1)
    with pytest.raises(ValueError, match="`a` and the columns of `b` must have equal mass"):
        cot.sinkhorn2(a, both * [1.0, 3.0], M, 0.1, log=log)
    for bad, words in ((np.nan, "`b` has a non-finite value"), (-0.1, "`b` has a negative value")):
        spoiled = both.copy()
        spoiled[2, 1] = bad
        with pytest.raises(ValueError, match=words):
            cot.sinkhorn2(a, spoiled, M, 0.1, log=log)
    with pytest.raises(ValueError, match=r"`b` has shape \(8, 2\)"):
        cot.sinkhorn2(a, both[:-1], M, 0.1, log=log)
    with pytest.raises(ValueError, match="`linear_solver`"):
        cot.sinkhorn2(a, both, M, 0.1, log=log, linear_solver="junk")


def test_the_limit_reaches_columns(monkeypatch):
    seen = {}
    pairwise = ot.pairwise_distances

    def spy(*args, **options):
        seen.update(options)
        return pairwise(*args, **options)

    monkeypatch.setattr(ot, "pairwise_distances", spy)
    a, b, M = problem()
    cot.sinkhorn2(a, b[:, None], M, 0.1, numItermax=7)
    assert seen["maxiter"] == 7


def test_float32_keeps_its_dtype_and_more_than_its_accuracy():
    a, b, M = (x.astype(np.float32) for x in problem())
    plan = cot.sinkhorn(a, b, M, 0.05)
    assert plan.dtype == np.float32
    exact = reference(a.astype(float), b.astype(float) * a.sum() / b.sum(), M.astype(float), 0.05)
    np.testing.assert_allclose(plan, exact, rtol=2e-6)
    loss = cot.sinkhorn2(a, b, M, 0.05)
    assert loss.dtype == np.float32
    assert loss == pytest.approx((exact * M).sum(), rel=1e-6)


def test_warnings_are_asked_for():
    a, b, M = problem()
    with pytest.warns(ConvergenceWarning, match="sinkhorn: the iteration limit"):
        cot.sinkhorn(a, b, M, 1e-4, numItermax=1)
    with pytest.warns(ConvergenceWarning):
        cot.sinkhorn(a, b, M, 0.1, stopThr=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cot.sinkhorn(a, b, M, 1e-4, numItermax=1, warn=False)
        cot.sinkhorn2(a, b, M, 1e-4, numItermax=1)


def test_no_regularisation():
    a, b, M = problem()
    with pytest.warns(UserWarning, match="`reg` is 0"):
        plan = cot.sinkhorn(a, b, M, 0)
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-12)
    assert (plan > 0).sum() <= 12 + 9 - 1


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda a, b, M: cot.sinkhorn(a, b, M, 0.1, method="sinkhron"), ValueError, "`method` of sinkhorn"),
        (
            lambda a, b, M: cot.sinkhorn2(a, b, M, 0.1, method="greenkhorn"),
            ValueError,
            "`method` of sinkhorn2",
        ),
        (lambda a, b, M: cot.sinkhorn(a, b, M, 0.1, taau=3), TypeError, "`taau`; did you mean `tau`"),
        (lambda a, b, M: cot.sinkhorn(a, b, M, -0.1), ValueError, "`reg`"),
        (lambda a, b, M: cot.sinkhorn(a, b[:-1], M, 0.1), ValueError, r"`b` has shape \(8,\)"),
        (lambda a, b, M: cot.solve(M, a, b, reg=1, grad="all"), ValueError, "`grad`"),
        (lambda a, b, M: cot.solve(M, a, b, reg=1, method="newton"), ValueError, "`method` of solve"),
        (lambda a, b, M: cot.solve(M, a, b, reg=1, unbalanced=(1, 2, 3)), ValueError, "`unbalanced` has 3"),
        (lambda a, b, M: cot.solve(M, a, b, reg=1, reg_type="L3"), NotImplementedError, "`reg_type`"),
        (
            lambda a, b, M: cot.solve(M, unbalanced=1, unbalanced_type="X"),
            NotImplementedError,
            "unbalanced_type",
        ),
        (lambda a, b, M: cot.solve_batch(M[None], method="sinkhorn"), ValueError, "`reg` must be positive"),
        (lambda a, b, M: cot.solve_batch(M[None], 1.0, reg_type="KL"), ValueError, "`reg_type`"),
        (lambda a, b, M: cot.solve_sample(M, M, method="2d"), ValueError, "`method`"),
        (
            lambda a, b, M: cot.solve_sample(M, M, reg=1, reg_type="L2", lazy=True),
            NotImplementedError,
            "lazy",
        ),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call(*problem())


# ------------------------------------------------------------------------------------- solve


@pytest.mark.parametrize("kind", ["KL", "entropy"])
@pytest.mark.parametrize("mass", [1.0, 0.4])
def test_solve_balanced(kind, mass):
    a, b, M = problem()
    r = cot.solve(M, mass * a, mass * b, reg=0.1, reg_type=kind)
    P = mass * reference(a, b, M, 0.1)
    np.testing.assert_allclose(r.plan, P, atol=1e-9)
    against = mass**2 * a[:, None] * b if kind == "KL" else np.ones_like(M)
    assert r.value_linear == pytest.approx((P * M).sum(), rel=1e-8)
    assert r.value == pytest.approx((P * M).sum() + 0.1 * xlogy(P, P / against).sum(), rel=1e-8)
    np.testing.assert_allclose(np.exp(r.potential_a[:, None] + r.potential_b - M / 0.1), r.plan, rtol=1e-9)
    np.testing.assert_allclose(r.marginals[0], mass * a, atol=1e-9)
    np.testing.assert_allclose(r.sparse_plan.toarray(), r.plan)
    assert r.value_quad is None
    assert r.status == 0
    assert "OTResult(value=" in repr(r)


def test_solve_agrees_with_pot(pot):
    a, b, M = problem()
    for kind in ("KL", "entropy", "L2"):
        theirs = pot.solve(M, a, b, reg=0.1, reg_type=kind, tol=1e-12, max_iter=100000)
        ours = cot.solve(M, a, b, reg=0.1, reg_type=kind)
        np.testing.assert_allclose(ours.plan, theirs.plan, atol=1e-5)  # L2: as far as L-BFGS goes
        assert ours.value == pytest.approx(theirs.value, rel=1e-5)
        assert ours.value_linear == pytest.approx(theirs.value_linear, rel=1e-5)
    theirs = pot.solve(M, 2 * a, 2 * b, reg=0.1, tol=1e-12, max_iter=100000)
    assert cot.solve(M, 2 * a, 2 * b, reg=0.1).value == pytest.approx(theirs.value, rel=1e-7)


def test_potentials_start_the_next_solve():
    a, b, M = problem(60, 50)
    r = cot.solve(M, a, b, reg=0.003)
    again = cot.solve(M, a, b, reg=0.003, potentials_init=r.potentials)
    assert again.log["niter"] <= 2 < r.log["niter"]
    np.testing.assert_allclose(again.plan, r.plan, atol=1e-10)


@pytest.mark.parametrize("rho", [0.5, (0.3, 0.9), (np.inf, 0.5), [0.5]])
def test_unbalanced(rho):
    a, b, M = problem()
    b = 1.4 * b if np.isfinite(np.asarray(rho)).all() else b
    pair = tuple(np.broadcast_to(rho, 2))
    r = cot.solve(M, a, b, reg=0.1, unbalanced=rho)
    P = reference(a, b, M, 0.1, pair)
    np.testing.assert_allclose(r.plan, P, atol=1e-8)
    value = (P * M).sum() + 0.1 * kl(P, a[:, None] * b)
    for weight, marginal, target in zip(pair, (P.sum(1), P.sum(0)), (a, b), strict=True):
        value += 0.0 if np.isinf(weight) else weight * kl(marginal, target)
    assert r.value == pytest.approx(value, rel=1e-7)
    assert r.value_linear == pytest.approx((P * M).sum(), rel=1e-7)
    scaled = a[:, None] * b * np.exp(r.potential_a[:, None] + r.potential_b - M / 0.1)
    np.testing.assert_allclose(scaled, r.plan, rtol=1e-9)


def test_unbalanced_agrees_with_pot(pot):
    a, b, M = problem()
    theirs = pot.solve(M, a, 1.3 * b, reg=0.1, unbalanced=0.5, tol=1e-13, max_iter=100000)
    ours = cot.solve(M, a, 1.3 * b, reg=0.1, unbalanced=0.5)
    np.testing.assert_allclose(ours.plan, theirs.plan, atol=1e-8)
    assert abs(theirs.value) < 1e-6  # without mass terms nothing is left of it at the solution
    np.testing.assert_allclose(ours.potentials[0] - theirs.potentials[0], 0, atol=1e-6)


def test_unbalanced_with_a_reference_measure(pot):
    a, b, M = problem()
    c = np.random.default_rng(3).random(M.shape) + 0.1
    theirs = pot.solve(M, a, b, reg=0.1, c=c, unbalanced=0.5, tol=1e-13, max_iter=100000)
    ours = cot.solve(M, a, b, reg=0.1, c=c, unbalanced=0.5)
    P = theirs.plan
    np.testing.assert_allclose(ours.plan, P, atol=1e-8)
    value = (P * M).sum() + 0.1 * kl(P, c) + 0.5 * (kl(P.sum(1), a) + kl(P.sum(0), b))
    assert ours.value == pytest.approx(value, rel=1e-6)
    theirs = pot.solve(M, a, b, reg=0.1, reg_type="entropy", unbalanced=0.5, tol=1e-14, max_iter=100000)
    ours = cot.solve(M, a, b, reg=0.1, reg_type="entropy", unbalanced=0.5)
    P = theirs.plan
    np.testing.assert_allclose(ours.plan, P, atol=1e-5)
    value = (P * M).sum() + 0.1 * (xlogy(P, P) - P).sum() + 0.5 * (kl(P.sum(1), a) + kl(P.sum(0), b))
    assert ours.value == pytest.approx(value, rel=1e-6)


def test_linear_program(pot):
    a, b, M = problem()
    r = cot.solve(M, a, b)
    assert r.value == pytest.approx(pot.emd2(a, b, M), rel=1e-12)


def test_linear_program_without_pot(without_pot):
    from scipy.optimize import linprog

    a, b, M = problem()
    r = cot.solve(M, a, b)
    rows = np.vstack([np.kron(np.eye(12), np.ones(9)), np.kron(np.ones(12), np.eye(9))])
    exact = linprog(M.ravel(), A_eq=rows, b_eq=np.concatenate([a, b]), method="highs").fun
    assert r.value == pytest.approx(exact, rel=1e-6)
    np.testing.assert_allclose(r.plan.sum(1), a, atol=1e-12)
    f, g = r.potentials
    assert (f[:, None] + g <= M + 1e-9).all()


def test_what_is_pot_s_own_is_forwarded(pot):
    a, b, M = problem()
    for options in (
        {"unbalanced": 0.9, "unbalanced_type": "TV"},
        {"reg": 0.1, "unbalanced": 0.9, "unbalanced_type": "L2"},
        {"reg": 0.1, "reg_type": (lambda P: (P**2).sum(), lambda P: 2 * P)},
    ):
        np.testing.assert_array_equal(cot.solve(M, a, b, **options).plan, pot.solve(M, a, b, **options).plan)


# ------------------------------------------------------------------------------------- batches and samples


@pytest.mark.parametrize("kind", ["entropy", "kl"])
@pytest.mark.parametrize("method", ["auto", "sinkhorn"])
def test_solve_batch(kind, method):
    rng = np.random.default_rng(0)
    M = rng.random((4, 12, 9))
    a = rng.random((4, 12)) + 0.2
    a /= a.sum(1, keepdims=True)
    r = cot.solve_batch(M, 0.1, a, reg_type=kind, method=method, tol=1e-10)
    assert r.value.shape == r.value_linear.shape == (4,)
    for k in range(4):
        one = cot.solve(M[k], a[k], reg=0.1, reg_type=kind, tol=1e-10)
        np.testing.assert_allclose(r.plan[k], one.plan, atol=1e-9)
        assert r.value[k] == pytest.approx(one.value, rel=1e-8)
    f, g = r.potentials
    u, v = (f, g) if method == "sinkhorn" else (np.exp(f), np.exp(g))
    np.testing.assert_allclose(u[:, :, None] * np.exp(-M / 0.1) * v[:, None, :], r.plan, rtol=1e-8)


def test_solve_batch_without_regularisation_is_pot_s(pot):
    M = np.random.default_rng(0).random((2, 5, 4))
    np.testing.assert_array_equal(cot.solve_batch(M).plan, pot.solve_batch(M).plan)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_solve_sample(metric):
    rng = np.random.default_rng(0)
    X, Y = rng.random((20, 2)), rng.random((15, 2)) + 0.3
    r = cot.solve_sample(X, Y, metric=metric, reg=0.05)
    expected = cot.solve(ot.dist(X, Y, metric), reg=0.05)
    np.testing.assert_array_equal(r.plan, expected.plan)
    lazy = cot.solve_sample(X, Y, metric=metric, reg=0.05, lazy=True)
    assert lazy.plan is None
    np.testing.assert_allclose(lazy.lazy_plan[:], expected.plan, atol=1e-8)
    np.testing.assert_allclose(lazy.lazy_plan[3:5], expected.plan[3:5], atol=1e-8)
    for key in (3, (3, -1), (slice(2, 4), 1), (slice(None), slice(1, 3)), (slice(5), [0, 2])):
        np.testing.assert_allclose(lazy.lazy_plan[key], expected.plan[key], atol=1e-8)
    assert lazy.log["lazy_plan"] is lazy.lazy_plan
    assert lazy.log["u"] is lazy.potentials[0]
    assert lazy.value == pytest.approx(expected.value, rel=1e-7)
    np.testing.assert_allclose(lazy.marginal_a, 1 / 20, atol=1e-8)
    np.testing.assert_allclose(lazy.marginal_b, 1 / 15, atol=1e-8)
    logs = lazy.potentials
    np.testing.assert_allclose(
        np.exp(logs[0][:, None] + logs[1] - ot.dist(X, Y, metric) / 0.05), expected.plan, atol=1e-8
    )


@pytest.mark.parametrize(("metric", "p"), [("sqeuclidean", 2), ("euclidean", 1), ("cityblock", 1)])
def test_samples_on_a_line_are_sorted(without_pot, metric, p):
    """Exact, so it needs no permission; and it needs no POT."""
    rng = np.random.default_rng(0)
    X, Y = rng.random((20, 1)), rng.random((15, 1))
    r = cot.solve_sample(X, Y, metric=metric)
    assert r.value == ot.wasserstein_1d(X[:, 0], Y[:, 0], p=p).value
    M = ot.dist(X, Y, metric)
    assert (r.plan * M).sum() == pytest.approx(r.value, rel=1e-12)
    assert (r.potential_a[:, None] + r.potential_b <= M + 1e-12).all()


def test_debiased():
    rng = np.random.default_rng(0)
    X, Y = rng.random((20, 2)), rng.random((15, 2)) + 0.3
    r = cot.solve_sample(X, Y, reg=0.1, debias=True)
    whole, left, right = (cot.solve_sample(*pair, reg=0.1).value for pair in ((X, Y), (X, X), (Y, Y)))
    assert r.value == pytest.approx(whole - 0.5 * (left + right), rel=1e-10)
    assert abs(cot.solve_sample(X, X[::-1], reg=0.1, debias=True).value) < 1e-8


def test_metrics_that_are_pot_s(pot):
    rng = np.random.default_rng(0)
    X, Y = rng.random((8, 2)), rng.random((6, 2))
    r = cot.solve_sample(X, Y, metric="chebyshev", reg=0.1)
    np.testing.assert_allclose(r.plan, cot.solve(pot.dist(X, Y, "chebyshev"), reg=0.1).plan)


# ------------------------------------------------------------------------------------- array libraries


def test_array_libraries(xp):
    if xp.backend == "cuda":
        pytest.skip("the GPU tests are elsewhere")
    a, b, M = problem()
    ta, tb, tM = (xp.asarray(x) for x in (a, b, M))
    plan, log = cot.sinkhorn(ta, tb, tM, 0.1, log=True)
    assert xp.owns(plan)
    assert xp.owns(log["u"])
    np.testing.assert_allclose(xp.to_numpy(plan), cot.sinkhorn(a, b, M, 0.1))
    loss = cot.sinkhorn2(ta, tb, tM, 0.1)
    assert xp.name == "numpy" or xp.owns(loss)
    assert float(loss) == pytest.approx(float(cot.sinkhorn2(a, b, M, 0.1)))
    r = cot.solve(tM, ta, tb, reg=0.1)
    assert xp.owns(r.plan)
    assert xp.owns(r.potential_a)
    assert float(r.value) == pytest.approx(float(cot.solve(M, a, b, reg=0.1).value))
    batch = cot.solve_batch(xp.asarray(np.stack([M, M])), 0.1)
    assert xp.owns(batch.value)
    x = cot.solve_sample(xp.asarray(M[:, :1]), xp.asarray(M[:, 1:2]))
    assert xp.owns(x.plan)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch")


def leaves(torch):
    return [torch.tensor(x, requires_grad=True) for x in problem()]


def directional(loss, rng):
    """(derivative by differences, the step) of loss(a, b, M) along a step that keeps the masses equal."""
    a, b, M = problem()
    step = [rng.standard_normal(x.shape) for x in (a, b, M)]
    step[0] -= step[0].mean()
    step[1] -= step[1].mean()
    h = 1e-5
    ends = [loss(*(x + s * h * d for x, d in zip((a, b, M), step, strict=True))) for s in (1, -1)]
    return (ends[0] - ends[1]) / (2 * h), step


def along(tensors, step):
    return sum(float((t.grad.numpy() * d).sum()) for t, d in zip(tensors, step, strict=True))


def test_loss_has_gradients(torch):
    data = leaves(torch)
    cot.sinkhorn2(*data, 0.1, stopThr=1e-12).backward()
    expected, step = directional(
        lambda a, b, M: cot.sinkhorn2(a, b, M, 0.1, stopThr=1e-12), np.random.default_rng(1)
    )
    assert along(data, step) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("field", ["value", "value_linear", "plan"])
@pytest.mark.parametrize("grad", ["autodiff", "last_step"])
@pytest.mark.parametrize("unbalanced", [None, 0.5])
def test_solve_has_gradients(torch, field, grad, unbalanced):
    rng = np.random.default_rng(2)
    G = rng.standard_normal((12, 9)) if field == "plan" else 1.0

    def run(a, b, M, **options):
        r = cot.solve(M, a, b, reg=0.1, unbalanced=unbalanced, tol=1e-12, **options)
        weight = torch.tensor(G) if torch.is_tensor(M) and field == "plan" else G
        return (getattr(r, field) * weight).sum()

    data = leaves(torch)
    run(*data, grad=grad).backward()
    expected, step = directional(run, rng)
    assert along(data, step) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_envelope_and_detached(torch):
    a, b, M = leaves(torch)
    r = cot.solve(M, a, b, reg=0.1, grad="envelope")
    assert not r.plan.requires_grad
    assert not r.value_linear.requires_grad
    r.value.backward()
    np.testing.assert_allclose(M.grad.numpy(), r.plan.numpy(), atol=1e-9)
    assert not cot.solve(M, a, b, reg=0.1, grad="detach").value.requires_grad


def test_recorded_float32_is_solved_as_its_certificate_says(torch):
    """Costs in single precision do not hold the default threshold."""
    weights = [w.astype(np.float32) for w in problem(60, 50)[:2]]
    cost = problem(60, 50)[2].astype(np.float32)
    options = {"reg": 0.01, "tol": 1e-9}
    M = torch.tensor(cost, requires_grad=True)
    a, b = (torch.tensor(w, requires_grad=True) for w in weights)
    one = cot.solve(M, a, b, **options)
    many = cot.solve_batch(M[None], 0.01, a[None], b[None], tol=1e-9, grad="autodiff", reg_type="kl")
    wide = [w.astype(float) / w.sum(dtype=float) for w in weights]
    exact = cot.solve(cost.astype(float), *wide, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = cot.sinkhorn(a, b, M, 0.01)
    for found in (one.plan, many.plan[0], plan):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.detach().numpy(), exact.plan, rtol=1e-6, atol=1e-12)
    for r in (one, many):
        assert r.status == 0
        assert r.value.dtype == r.value_linear.dtype == torch.float32
        assert float(r.value.detach().sum()) == pytest.approx(exact.value, rel=1e-6)
    slopes = torch.autograd.grad(plan.square().sum(), (a, b, M))
    expected = exact.result.vjp(grad_plan=2 * exact.plan)
    for slope, like, name in zip(slopes, (a, b, M), "abM", strict=True):
        assert slope.dtype == like.dtype
        wanted = expected[name]
        found = slope.numpy()
        if name != "M":  # up to a constant
            found, wanted = found - found.mean(), wanted - wanted.mean()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_traced_float32_is_solved_in_float64():
    jax = pytest.importorskip("jax", reason="needs jax")
    a, b, M = (x.astype(np.float32) for x in problem(60, 50))
    b = (b * (a.sum(dtype=float) / b.sum(dtype=float))).astype(np.float32)
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            loss, grad = jax.value_and_grad(lambda M: cot.sinkhorn2(a, b, M, 0.01, warn=True))(M)
            jax.block_until_ready(grad)
    finally:
        jax.config.update("jax_enable_x64", before)
    assert loss.dtype == grad.dtype == np.float32
    assert float(loss) == pytest.approx(float(cot.sinkhorn2(a, b, M, 0.01)), rel=1e-6)


def test_recorded_solves_start_from_the_first(torch, monkeypatch):
    calls = []

    def spied(solve):
        @functools.wraps(solve)
        def spy(*args, **options):
            calls.append(solve(*args, **options))
            return calls[-1]

        return spy

    for name in ("sinkhorn", "sinkhorn_batch"):
        monkeypatch.setattr(ot, name, spied(getattr(ot, name)))
    a, b, M = (torch.tensor(x, requires_grad=True) for x in problem(60, 50))
    first = cot.solve(M, a, b, reg=0.003)
    assert [call.nit <= 2 for call in calls] == [False, True, True]
    calls.clear()
    again = cot.solve(M, a, b, reg=0.003, potentials_init=first.potentials)
    assert [call.nit <= 2 for call in calls] == [True, True, True]
    np.testing.assert_allclose(again.plan.detach(), first.plan.detach(), atol=1e-10)
    calls.clear()
    cot.solve(M, a, 1.2 * b, reg=0.003, unbalanced=(0.5, 0.4))
    assert [call.nit <= 2 for call in calls] == [False, True, True]
    calls.clear()
    cot.solve_batch(torch.stack([M, 2 * M]), 0.003, grad="autodiff")
    assert [call.nit.max() <= 2 for call in calls] == [False, True, True]


@pytest.mark.parametrize("grad", ["envelope", "autodiff", "last_step", "detach"])
def test_batch_gradients(torch, grad):
    M = torch.tensor(np.random.default_rng(0).random((2, 5, 4)), requires_grad=True)
    r = cot.solve_batch(M, 0.1, grad=grad, tol=1e-10)
    assert r.value.requires_grad == (grad != "detach")
    assert r.plan.requires_grad == (grad in ("autodiff", "last_step"))
    if grad != "detach":
        r.value.sum().backward()
        np.testing.assert_allclose(M.grad.numpy(), r.plan.detach().numpy(), atol=1e-8)


# -------------------------------------------------------------------------------------- edges


def test_batches_of_any_mass_follow_pot(pot):
    a, b, M = problem()
    for kind in ("kl", "entropy"):
        options = {"reg_type": kind, "tol": 1e-10}
        found = cot.solve_batch(M[None], 0.2, 2 * a[None], 2 * b[None], **options).value
        theirs = pot.solve_batch(M[None], 0.2, 2 * a[None], 2 * b[None], max_iter=20000, **options).value
        np.testing.assert_allclose(found, theirs, rtol=1e-7)


def test_weights_once_float32_are_taken():
    rng = np.random.default_rng(0)
    a, b = ((w / w.sum()).astype(np.float32).astype(float) for w in (rng.random(50), rng.random(40)))
    assert a.sum() != 1.0
    assert b.sum() != 1.0
    M, x, y = rng.random((50, 40)), rng.random((50, 1)), rng.random((40, 1))
    for given in ((a, b), (None, b), (a, None)):
        assert cot.solve(M, *given, reg=0.1).status == 0
        assert cot.solve_sample(x, y, *given, reg=0.1, lazy=True).status == 0
        assert cot.solve_sample(x, y, *given).status == 0
    assert cot.sinkhorn([], [0.5, 0.5 + 5e-7], M[:2, :2], 0.2).sum() == pytest.approx(1.0)
    assert cot.sinkhorn([1, 1], [1.0, 1 + 5e-7], M[:2, :2], 0.2).sum() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="equal mass"):
        cot.sinkhorn([1, 1], [1.0, 1 + 5e-6], M[:2, :2], 0.2)


@pytest.mark.parametrize("mass", [1.0, 2.0])
def test_infinite_penalties_have_potentials_as_finite_ones(mass):
    a, b, M = problem()
    a, b = mass * a, mass * b
    r = cot.solve(M, a, b, 0.2, unbalanced=np.inf)
    f, g = r.potentials
    np.testing.assert_allclose(np.outer(a, b) * np.exp(f[:, None] + g - M / 0.2), r.plan, atol=1e-12)
    again = cot.solve(M, a, b, 0.2, unbalanced=np.inf, potentials_init=r.potentials)
    assert again.log["niter"] <= 2


@pytest.mark.parametrize("zero", [0, 0.0, np.int64(0), np.float32(0)])
def test_no_regularisation_in_any_type(pot, zero):
    a, b, M = problem()
    with pytest.warns(UserWarning, match="`reg` is 0"):
        losses = cot.sinkhorn2(a, np.stack([b, b[::-1]], axis=1), M, zero)
    np.testing.assert_allclose(losses, [pot.emd2(a, w, M) for w in (b, b[::-1].copy())], rtol=1e-9)
    with pytest.warns(UserWarning, match="`reg` is 0"):
        assert cot.sinkhorn(a, b, M, zero).sum() == pytest.approx(1.0)


def test_recorded_warm_starts_and_logs(torch):
    a, b, M = leaves(torch)
    plain = [x.detach() for x in (a, b, M)]
    warm = cot.sinkhorn(*plain, 0.02, log=True)[1]["warmstart"]
    plan, log = cot.sinkhorn(a, b, M, 0.02, warmstart=warm, numItermax=3, log=True)
    assert log["niter"] <= 3
    error = (plan.sum(1) - a).abs().sum() + (plan.sum(0) - b).abs().sum()
    assert float(error.detach()) <= 1e-9
    losses, log = cot.sinkhorn2(a, torch.stack([b, b.flip(0)], 1), M, 0.02, warmstart=warm, log=True)
    assert losses.requires_grad
    assert max(log["err"]) <= 1e-9


def test_learned_regularisation(torch, pot):
    a, b, M = (x.detach() for x in leaves(torch))

    def slope(function):
        reg = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        function(reg).sum().backward()
        return float(reg.grad)

    theirs = slope(lambda reg: pot.sinkhorn2(a, b, M, reg, numItermax=5000, stopThr=1e-12))
    assert slope(lambda reg: cot.sinkhorn2(a, b, M, reg, log=True)[0]) == pytest.approx(theirs, rel=1e-5)
    theirs = slope(lambda reg: pot.solve(M, a, b, reg, max_iter=5000).value)
    assert slope(lambda reg: cot.solve(M, a, b, reg).value) == pytest.approx(theirs, rel=1e-5)
    batch = slope(lambda reg: cot.solve_batch(M[None], reg, a[None], b[None], reg_type="kl").value)
    assert batch == pytest.approx(theirs, rel=1e-4)


def test_recorded_forbidden_pairs_without_weights(torch):
    M = problem()[2]
    M[0, 0] = np.inf
    tensor = torch.tensor(M, requires_grad=True)
    assert float(cot.solve(tensor, reg=0.2).value.detach()) == pytest.approx(
        cot.solve(M, reg=0.2).value, rel=1e-9
    )
    assert float(cot.sinkhorn([], [], tensor, 0.2).detach().sum()) == pytest.approx(1.0)
    r = cot.solve_batch(tensor[None], 0.2, grad="autodiff")
    assert bool(torch.isfinite(r.plan).all())


def test_recorded_quadratic_and_lazy(torch, pot):
    a, b, M = leaves(torch)
    cot.solve(M, a, b, 0.2, reg_type="L2").value_linear.backward()
    assert bool(M.grad.abs().sum() > 0)
    assert not cot.solve(M, a, b, 0.2, reg_type="L2", grad="detach").value.requires_grad
    rng = np.random.default_rng(0)
    X, Y = torch.tensor(rng.random((12, 2)), requires_grad=True), torch.tensor(rng.random((9, 2)))
    for kind in ("KL", "entropy"):
        r = cot.solve_sample(X, Y, a, b, reg=0.1, reg_type=kind, lazy=True, tol=1e-11)
        dense = cot.solve_sample(X, Y, a, b, reg=0.1, reg_type=kind, tol=1e-11)
        assert float(r.value.detach()) == pytest.approx(float(dense.value.detach()), rel=1e-9)
        for x in (X, a):
            ours, theirs = (torch.autograd.grad(v.value, x, retain_graph=True)[0] for v in (r, dense))
            if x is a:  # up to a constant
                ours, theirs = ours - ours.mean(), theirs - theirs.mean()
            np.testing.assert_allclose(ours, theirs, atol=1e-7)
    assert not cot.solve_sample(X, Y, reg=0.1, lazy=True, grad="detach").value.requires_grad


def test_traced_batches_logs_and_detached():
    jax = pytest.importorskip("jax", reason="needs jax")
    a, b, M = problem()
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        slope = jax.grad(lambda M: cot.solve_batch(M[None], 0.2, tol=1e-10).value.sum())(M)
        np.testing.assert_allclose(slope, cot.solve_batch(M[None], 0.2, tol=1e-10).plan[0], atol=1e-9)
        loss = cot.sinkhorn2(a, b, M, 0.2)
        traced, slope = jax.value_and_grad(lambda M: cot.sinkhorn2(a, b, M, 0.2, log=True)[0])(M)
        assert float(traced) == pytest.approx(float(loss), rel=1e-8)
        for call in (
            lambda M: cot.solve(M, a, b, 0.2, grad="detach").value,
            lambda M: cot.solve_batch(M[None], 0.2, grad="detach").value.sum(),
        ):
            assert not np.asarray(jax.grad(call)(M)).any()
    finally:
        jax.config.update("jax_enable_x64", before)
