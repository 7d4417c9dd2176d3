"""`quadratic_ot` against closed forms, a NumPy twin, finite differences and bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

from aitken import ConvergenceWarning, ot
from tests.interruption import check_ctrl_c, needs_posix


def problem(n=12, m=9, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return a / a.sum(), b / b.sum(), rng.random((n, m))


def plan_of(f, g, M, gamma):
    return np.maximum(f[:, None] + g - M, 0) / gamma


def twin(a, b, M, gamma):
    """The same problem as a smooth dual for SciPy's L-BFGS-B; the plan it ends with."""
    n = a.size

    def dual(z):
        P = plan_of(z[:n], z[n:], M, gamma)
        value = 0.5 * gamma * (P**2).sum() - a @ z[:n] - b @ z[n:]
        return value, np.concatenate([P.sum(axis=1) - a, P.sum(axis=0) - b])

    z = minimize(
        dual,
        np.zeros(n + b.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-11, "maxcor": 50},
    ).x
    return plan_of(z[:n], z[n:], M, gamma)


def marginal_error(plan, a, b):
    return np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum()


@pytest.mark.parametrize("gamma", [0.01, 0.3, 10.0])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (1, 5), (5, 1), (1, 1)])
def test_optimality(gamma, order, shape):
    """The plan has the dual's form, meets its marginals, and primal and dual values agree."""
    a, b, M = problem(*shape)
    r = ot.quadratic_ot(a, b, np.asarray(M, order=order), gamma, tol=1e-12, return_plan="dense")
    assert r.success
    assert marginal_error(r.plan, a, b) <= 1e-12
    f, g = r.potentials
    np.testing.assert_allclose(r.plan, plan_of(f, g, M, gamma), rtol=0, atol=1e-13)
    primal = (M * r.plan).sum() + 0.5 * gamma * (r.plan**2).sum()
    assert r.value == pytest.approx(primal, rel=1e-10)
    assert abs(r.gap) <= 1e-11
    assert a @ f == pytest.approx(b @ g, rel=1e-10)


@pytest.mark.parametrize("gamma", [0.1, 2.0])
def test_twin(gamma):
    a, b, M = problem(seed=3)
    r = ot.quadratic_ot(a, b, M, gamma, tol=1e-12, return_plan="dense")
    np.testing.assert_allclose(r.plan, twin(a, b, M, gamma), rtol=0, atol=1e-7)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("scale", "offset"),
    [(1e300, 0.0), (1e-300, 0.0), (3e307, 0.0), (1.0, 1e8), (1.0, -1e8), (1e300, 1e302), (1e-300, -1e-299)],
)
def test_scale_and_offset_of_the_cost(scale, offset, order):
    """The plan is that of the plain cost; potentials and value carry scale and offset."""
    a, b, M = problem(30, 35)
    M[3, 4] = np.inf
    gamma, mass = 0.5, 4.0
    kind = {"tol": 1e-12, "return_plan": "dense"}
    plain = ot.quadratic_ot(mass * a, mass * b, np.asarray(M, order=order), gamma, **kind)
    steps = []
    args = (mass * a, mass * b, np.asarray(M * scale + offset, order=order), gamma * scale)
    r = ot.quadratic_ot(*args, **kind, callback=steps.append)
    digits = 1e-15 * (1 + abs(offset) / scale)  # that the offset has left of the cost
    assert r.success
    assert r.err <= 1e-12
    assert abs(r.gap) <= 1e-11 * scale
    np.testing.assert_allclose(r.plan, plain.plan, rtol=0, atol=200 * digits)
    assert r.value / scale - mass * (offset / scale) == pytest.approx(plain.value, abs=50 * digits)
    f, g = r.potentials
    np.testing.assert_allclose(f / scale, plain.potentials[0] + 0.5 * offset / scale, atol=50 * digits)
    np.testing.assert_allclose(g / scale, plain.potentials[1] + 0.5 * offset / scale, atol=50 * digits)
    assert r.history["gamma"][-1] == pytest.approx(scale * plain.history["gamma"][-1], rel=1e-15)
    assert steps[-1].gamma == r.history["gamma"][-1]
    assert ot.quadratic_ot(*args, init=r).nit <= 2


def test_offset_in_single_precision():
    a, b, M = problem(30, 35)
    M = (np.round(64 * M) + 2**20).astype(np.float32)  # exact with and without the offset
    with_offset = ot.quadratic_ot(a, b, M, 30.0, return_plan="dense")
    without = ot.quadratic_ot(a, b, M - np.float32(2**20), 30.0, return_plan="dense")
    assert with_offset.success
    np.testing.assert_allclose(with_offset.plan, without.plan, rtol=0, atol=1e-7)
    assert with_offset.value == pytest.approx(without.value + 2**20, rel=1e-12)


def test_large_gamma_has_a_closed_form():
    """Where every entry is positive the plan is the projection of -M / gamma onto the marginals."""
    _, _, M = problem(7, 5)
    gamma, (n, m) = 1e4, M.shape
    a, b = np.linspace(0.9, 1.1, n) / n, np.linspace(1.1, 0.9, m) / m
    r = ot.quadratic_ot(a, b, M, gamma, tol=1e-13, return_plan="dense")
    centred = M - M.mean(axis=1, keepdims=True) - M.mean(axis=0) + M.mean()
    expected = a[:, None] / m + b / n - 1 / (n * m) - centred / gamma
    assert expected.min() > 0
    np.testing.assert_allclose(r.plan, expected, rtol=0, atol=1e-13)


def test_small_gamma_is_the_linear_program():
    a, b, M = problem(30, 25)
    exact = ot.exact_ot(a, b, M)
    r = ot.quadratic_ot(a, b, M, 1e-6, tol=1e-7)
    assert r.value_linear == pytest.approx(exact.value, abs=1e-7)


@pytest.mark.parametrize("n", [300, 500])
def test_larger_problems_take_few_steps(n):
    rng = np.random.default_rng(n)
    X, Y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1
    M = ot.dist(X, Y)
    M /= M.max()
    for gamma in (0.1, 10.0):
        r = ot.quadratic_ot(None, None, M, gamma)
        assert r.success
        assert r.nit <= 80
        # Far from all pairs are listed, and the candidates serve many steps.
        assert r.n_pass <= r.nit + 10
        assert marginal_error(r.plan, np.full(n, 1 / n), np.full(n, 1 / n)) <= 1e-9


def test_mass_scales():
    a, b, M = problem()
    one = ot.quadratic_ot(a, b, M, 1.5, tol=1e-12)
    three = ot.quadratic_ot(3 * a, 3 * b, M, 0.5, tol=1e-12)
    np.testing.assert_allclose(three.plan.toarray(), 3 * one.plan.toarray(), atol=1e-11)
    assert three.value == pytest.approx(3 * one.value, rel=1e-9)


def test_zero_bins_forbidden_pairs_and_duplicates():
    a, b, M = problem(14, 10)
    a[3] = a[7] = b[0] = 0.0
    a, b = a / a.sum(), b / b.sum()
    M[5] = M[6]
    M[:, 4] = M[:, 5]
    M[1, :4] = np.inf
    r = ot.quadratic_ot(a, b, M, 0.2, return_plan="dense", tol=1e-12)
    assert r.success
    assert marginal_error(r.plan, a, b) <= 1e-12
    assert (r.plan[~np.isfinite(M)] == 0).all()
    assert (r.plan[3] == 0).all()
    f, g = r.potentials
    assert np.isfinite(f).all()
    assert np.isfinite(g).all()
    # The extended potentials do not open entries in the empty bins.
    assert (f[:, None] + g - M)[[3, 7]].max() <= 1e-12
    assert (f[:, None] + g - M)[:, 0].max() <= 1e-12


def test_disconnected_support_and_equal_costs():
    M = np.kron(np.eye(4), -np.ones((3, 3))) + 1.0  # blocks that cost nothing
    r = ot.quadratic_ot(None, None, M, 0.1, return_plan="dense")
    np.testing.assert_allclose(r.plan, (M == 0) / 36.0, atol=1e-11)
    flat = ot.quadratic_ot(None, None, np.full((5, 8), 2.0), 0.1, return_plan="dense")
    np.testing.assert_allclose(flat.plan, 1 / 40, atol=1e-12)


def test_no_plan_avoids_the_forbidden_pairs():
    M = np.array([[0.0, np.inf], [0.0, 1.0]])
    with pytest.warns(ConvergenceWarning):
        r = ot.quadratic_ot([0.6, 0.4], [0.3, 0.7], M, 0.1)
    assert not r.success
    assert r.err > 0.1


def test_float32_and_integers():
    a, b, M = problem()
    r = ot.quadratic_ot(a, b, M.astype(np.float32), 0.5)
    assert r.plan.dtype == np.float32
    assert r.err <= 1e-6
    assert ot.quadratic_ot(a, b, (10 * M).astype(int), 0.5).success


def test_warm_start_takes_fewer_steps():
    a, b, M = problem(80, 80)
    cold = ot.quadratic_ot(a, b, M, 0.2)
    warm = ot.quadratic_ot(a, b, M + 1e-6, 0.2, init=cold)
    assert warm.nit <= 3 < cold.nit
    again = ot.quadratic_ot(a, b, M, 0.2, init=cold.potentials)
    assert again.nit <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_far_start_is_no_divergence(seed):
    rng = np.random.default_rng(seed)
    M, f, g = rng.random((6, 6)), 100 * rng.random(6), 100 * rng.random(6)
    r = ot.quadratic_ot(None, None, M, 1.0, init=(f, g))
    assert r.success
    assert r.value == pytest.approx(ot.quadratic_ot(None, None, M, 1.0).value, rel=1e-9)


def test_threads_do_not_change_bits():
    rng = np.random.default_rng(5)
    M = rng.random((400, 300))
    one, two = (ot.quadratic_ot(None, None, M, 0.5, n_threads=k) for k in (1, 2))
    assert (one.plan != two.plan).nnz == 0
    assert one.value == two.value


def test_forms_of_the_plan():
    a, b, M = problem()
    r = ot.quadratic_ot(a, b, M, 0.1)
    assert isinstance(r.plan, sparse.csr_array)
    assert r.plan.nnz < M.size
    np.testing.assert_array_equal(ot.quadratic_ot(a, b, M, 0.1, return_plan="dense").plan, r.plan.toarray())
    assert ot.quadratic_ot(a, b, M, 0.1, return_plan=False).plan is None


def test_callback_and_budget():
    a, b, M = problem(60, 60)
    seen = []

    def stop(intermediate_result):
        seen.append(intermediate_result.err)
        if len(seen) == 3:
            raise StopIteration

    r = ot.quadratic_ot(a, b, M, 0.01, callback=stop)
    assert r.status == 5
    assert len(seen) == 3
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        r = ot.quadratic_ot(a, b, M, 0.01, maxiter=2)
    assert (r.status, r.nit) == (1, 2)


H = 1e-6


def central(f):
    return (f(H) - f(-H)) / (2 * H)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mass", [1.0, 2.5])
def test_value_gradient(order, mass):
    a, b, M = problem()
    a, b, M = mass * a, mass * b, np.asarray(M, order=order)
    grad = ot.quadratic_ot(a, b, M, 0.3, tol=1e-13).vjp(grad_value=1.7)
    rng = np.random.default_rng(1)
    dM, da, db = rng.standard_normal(M.shape), rng.standard_normal(a.size), rng.standard_normal(b.size)
    da -= da.mean() - 0.1
    db -= db.mean() - 0.1 * a.size / b.size

    def value(t, da=da, db=db, dM=dM):
        return 1.7 * ot.quadratic_ot(a + t * da, b + t * db, M + t * dM, 0.3, tol=1e-13).value

    expected = central(value)
    assert (grad["M"] * dM).sum() + grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 50.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plan_gradient(gamma, order):
    """At gamma = 50 all entries are positive; at 0.5 the support is sparse but connected."""
    a, b, M = problem(seed=8)
    M = np.asarray(M, order=order)
    rng = np.random.default_rng(2)
    G = rng.standard_normal(M.shape)
    r = ot.quadratic_ot(a, b, M, gamma, tol=1e-13)
    grad = r.vjp(grad_plan=G)
    assert components(r.plan) == 1

    def loss(a, b, M):
        return (G * ot.quadratic_ot(a, b, M, gamma, tol=1e-13).plan.toarray()).sum()

    for seed in range(3):
        rng = np.random.default_rng(seed)
        dM, da, db = rng.standard_normal(M.shape), rng.standard_normal(a.size), rng.standard_normal(b.size)
        da, db = da - da.mean(), db - db.mean()
        assert (grad["M"] * dM).sum() == pytest.approx(
            central(lambda t, dM=dM: loss(a, b, M + t * dM)), rel=1e-5, abs=1e-8
        )
        assert grad["a"] @ da + grad["b"] @ db == pytest.approx(
            central(lambda t, da=da, db=db: loss(a + t * da, b + t * db, M)), rel=1e-5, abs=1e-8
        )


def components(plan):
    graph = sparse.block_array([[None, plan], [plan.T, None]])
    return sparse.csgraph.connected_components(graph)[0]


@pytest.mark.parametrize(("residual", "warns"), [(1e-9, False), (1e-5, True), (np.nan, True)])
def test_an_implicit_system_that_was_not_solved_warns(monkeypatch, residual, warns):
    from aitken.ot import _quadratic

    solve = _quadratic._core.ot_support

    class Stalled:
        def ot_support(self, *args):
            assert solve(*args) <= 1e-12
            return residual

    a, b, M = problem()
    r = ot.quadratic_ot(a, b, M, 0.3)
    monkeypatch.setattr(_quadratic, "_core", Stalled())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r.vjp(grad_plan=np.ones(M.shape))
    assert [w.category for w in caught] == [ConvergenceWarning] * warns
    assert all("relative residual (max-norm) of the implicit system" in str(w.message) for w in caught)


def test_plan_gradient_on_a_disconnected_support():
    M = problem(10, 10, seed=4)[2]
    r = ot.quadratic_ot(None, None, M + 5 * (1 - np.kron(np.eye(2), np.ones((5, 5)))), 1e-3, tol=1e-10)
    assert components(r.plan) > 1
    grad = r.vjp(grad_plan=np.random.default_rng(0).standard_normal(M.shape))
    # Adding a constant to a row or column of M changes nothing.
    np.testing.assert_allclose(grad["M"].sum(axis=1), 0, atol=1e-7)
    np.testing.assert_allclose(grad["M"].sum(axis=0), 0, atol=1e-7)
    assert all(np.isfinite(x).all() for x in grad.values())


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (ValueError, {"gamma": 0.0}, "`gamma`.*0.0"),
        (ValueError, {"gamma": np.nan}, "`gamma`"),
        (TypeError, {"gamma": "1"}, "`gamma`"),
        (ValueError, {"a": [0.5, -0.5, 1.0]}, "`a` has a negative"),
        (ValueError, {"a": [1.0, 1.0, 1.0]}, "equal mass"),
        (ValueError, {"a": [0.5, 0.5]}, "`a` has shape"),
        (ValueError, {"M": np.full((3, 2), np.nan)}, "`M` has a non-finite"),
        (ValueError, {"M": np.array([[0, 1], [np.inf, np.inf], [1, 0.0]])}, "`M` forbids.*row 1"),
        (TypeError, {"M": np.zeros((3, 2), complex)}, "`M` is complex"),
        (ValueError, {"tol": -1.0}, "`tol`"),
        (ValueError, {"maxiter": 0}, "`maxiter`"),
        (ValueError, {"return_plan": "lazy"}, "`return_plan`"),
        (TypeError, {"init": 3.0}, "`init`"),
        (ValueError, {"init": (np.zeros(2), np.zeros(2))}, r"`init\[0\]`"),
        (TypeError, {"callback": 1}, "`callback`"),
    ],
)
def test_bad_input(kind, change, words):
    given = {"a": None, "b": None, "M": np.arange(6.0).reshape(3, 2), "gamma": 1.0, **change}
    with pytest.raises(kind, match=words):
        ot.quadratic_ot(**given)


def test_bad_gradients():
    r = ot.quadratic_ot(None, None, np.eye(3), 1.0)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        r.vjp()
    with pytest.raises(ValueError, match="`grad_plan` has shape"):
        r.vjp(grad_plan=np.zeros((2, 3)))


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\nM = np.random.default_rng(0).random((3000, 3000))",
        "for gamma in (1e-2, 1e-3, 1e-4, 1e-5): ot.quadratic_ot(None, None, M, gamma, n_threads=1)",
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_against_pot():
    pot = pytest.importorskip("ot")
    a, b, M = problem(40, 30)
    ours = ot.quadratic_ot(a, b, M, 0.5, tol=1e-11, return_plan="dense")
    theirs = pot.smooth.smooth_ot_dual(a, b, M, 0.5, reg_type="l2", stopThr=1e-14, numItermax=5000)
    np.testing.assert_allclose(ours.plan, theirs, atol=1e-5)
