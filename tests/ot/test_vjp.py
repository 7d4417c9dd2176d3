"""Gradients of `sinkhorn` against central differences of it, and against the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from aitken import ot
from aitken.datasets import edge_case, gaussian_clouds
from tests.oracles import ot as oracle

H = 1e-5  # central differences err by H^2; the solves by 1e-13 / H


def problem(n=9, m=7, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return a / a.sum(), b / b.sum(), rng.random((n, m)), 0.1


def solve(a, b, M, reg, **options):
    return ot.sinkhorn(a, b, M, reg, tol=1e-13, **options)


def tangent(n, m, rng, grow=0.0):
    """A direction of (a, b) that keeps their masses equal (`grow`: changes both)."""
    da, db = rng.standard_normal(n), rng.standard_normal(m)
    return da - da.mean() + grow / n, db - db.mean() + grow / m


def central(f):
    return (f(H) - f(-H)) / (2 * H)


def layouts():
    return pytest.mark.parametrize("order", ["C", "F"])


@layouts()
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("mass", [1.0, 2.5])
def test_value_gradient(order, reg_type, mass):
    a, b, M, reg = problem()
    a, b, M = mass * a, mass * b, np.asarray(M, order=order)
    rng = np.random.default_rng(1)
    grad = solve(a, b, M, reg, reg_type=reg_type).vjp(grad_value=1.7)

    def value(a, b, M):
        return 1.7 * solve(a, b, M, reg, reg_type=reg_type).value

    dM = rng.standard_normal(M.shape)
    assert (grad["M"] * dM).sum() == pytest.approx(central(lambda t: value(a, b, M + t * dM)), rel=1e-6)
    da, db = tangent(a.size, b.size, rng)
    expected = central(lambda t: value(a + t * da, b + t * db, M))
    assert grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6)


def test_value_gradient_when_the_mass_grows():
    a, b, M, reg = problem()
    grad = solve(a, b, M, reg).vjp(grad_value=1.0)
    da, db = tangent(a.size, b.size, np.random.default_rng(2), grow=1.0)
    expected = central(lambda t: solve(a + t * da, b + t * db, M, reg).value)
    assert grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6)


@layouts()
@pytest.mark.parametrize("mass", [1.0, 2.5])
@pytest.mark.parametrize("shape", [(9, 7), (5, 12), (1, 4), (4, 1)])
def test_plan_gradient(order, mass, shape):
    a, b, M, reg = problem(*shape)
    a, b, M = mass * a, mass * b, np.asarray(M, order=order)
    rng = np.random.default_rng(3)
    G = rng.standard_normal(shape)
    grad = solve(a, b, M, reg).vjp(grad_plan=G)

    def loss(a, b, M):
        return (G * solve(a, b, M, reg).plan).sum()

    for i, j in [(0, 0), (shape[0] - 1, shape[1] // 2)]:
        E = np.zeros(shape)
        E[i, j] = 1.0
        expected = central(lambda t, E=E: loss(a, b, M + t * E))
        assert grad["M"][i, j] == pytest.approx(expected, rel=1e-6, abs=1e-8)
    dM = rng.standard_normal(shape)
    assert (grad["M"] * dM).sum() == pytest.approx(
        central(lambda t: loss(a, b, M + t * dM)), rel=1e-6, abs=1e-8
    )
    for grow in (0.0, 1.0):
        da, db = tangent(*shape, rng, grow)
        expected = central(lambda t, da=da, db=db: loss(a + t * da, b + t * db, M))
        assert grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6, abs=1e-8)


@layouts()
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("mass", [1.0, 2.5])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("shape", [(9, 7), (5, 12), (1, 4), (4, 1)])
def test_potentials_gradient(order, reg_type, mass, empty, shape):
    """Of any function of the potentials, the gauge included; alone and together with the plan."""
    a, b, M, reg = problem(*shape)
    if empty and min(shape) > 1:
        a[1], b[2] = 0.0, 0.0
    a, b, M = mass * a / a.sum(), mass * b / b.sum(), np.asarray(M, order=order)
    rng = np.random.default_rng(14)
    gf, gg, G = rng.standard_normal(shape[0]), rng.standard_normal(shape[1]), rng.standard_normal(shape)
    result = solve(a, b, M, reg, reg_type=reg_type)
    grad = result.vjp(grad_potentials=(gf, gg))
    both = result.vjp(0.7, G, (gf, gg))
    apart = result.vjp(grad_value=0.7, grad_plan=G)
    for name in ("M", "a", "b"):
        np.testing.assert_allclose(both[name], grad[name] + apart[name], rtol=1e-9, atol=1e-11)

    def loss(a, b, M):
        f, g = solve(a, b, M, reg, reg_type=reg_type).potentials
        return gf @ f + gg @ g

    dM = rng.standard_normal(shape)
    expected = central(lambda t: loss(a, b, M + t * dM))
    assert (grad["M"] * dM).sum() == pytest.approx(expected, rel=1e-6, abs=1e-8)
    for grow in (0.0, 1.0):
        da, db = tangent(*shape, rng, grow)
        da, db = np.where(a > 0, da, 0.0), np.where(b > 0, db, 0.0)
        db[0] += da.sum() - db.sum()
        expected = central(lambda t, da=da, db=db: loss(a + t * da, b + t * db, M))
        assert grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_potentials_gradient_where_mass_arrives():
    """One-sided differences into an empty row and an empty column at once."""
    a, b, M, reg = problem()
    a[1], b[2] = 0.0, 0.0
    a, b = a / a.sum(), b / b.sum()
    rng = np.random.default_rng(15)
    gf, gg = rng.standard_normal(a.size), rng.standard_normal(b.size)
    grad = solve(a, b, M, reg).vjp(grad_potentials=(gf, gg))
    da, db = tangent(a.size, b.size, rng)
    da[1], db[2] = 0.5, 0.7
    db[0] += da.sum() - db.sum()

    def loss(t):
        f, g = solve(a + t * da, b + t * db, M, reg).potentials
        return gf @ f + gg @ g

    h = 2e-5
    expected = (-3 * loss(0.0) + 4 * loss(h) - loss(2 * h)) / (2 * h)
    assert grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-5)


def test_a_nonlinear_function_of_value_and_plan():
    """L = value^2 + sum(P^2): both cotangents in one call."""
    a, b, M, reg = problem()
    result = solve(a, b, M, reg)
    grad = result.vjp(grad_value=2 * result.value, grad_plan=2 * result.plan)
    rng = np.random.default_rng(4)
    dM = rng.standard_normal(M.shape)

    def loss(t):
        r = solve(a, b, M + t * dM, reg)
        return r.value**2 + (r.plan**2).sum()

    assert (grad["M"] * dM).sum() == pytest.approx(central(loss), rel=1e-6)
    parts = [result.vjp(grad_value=2 * result.value), result.vjp(grad_plan=2 * result.plan)]
    for name in ("M", "a", "b"):
        np.testing.assert_allclose(grad[name], parts[0][name] + parts[1][name], rtol=1e-10, atol=1e-13)


@layouts()
@pytest.mark.parametrize("reg", [1e-1, 1e-2])
def test_oracle(order, reg):
    p = gaussian_clouds(40, 30, seed=7, reg=reg)
    G = np.random.default_rng(5).standard_normal(p.M.shape)
    result = solve(p.a, p.b, np.asarray(p.M, order=order), reg)
    grad = result.vjp(grad_value=0.3, grad_plan=G)
    f, g = result.potentials
    x, y = oracle.to_entropy(p.a, p.b, f, g, reg)
    expected = oracle.vjp(p.a, p.b, p.M, x, y, reg, grad_value=0.3, grad_plan=G)
    np.testing.assert_allclose(grad["M"], expected["M"], rtol=0, atol=1e-7 * np.abs(expected["M"]).max())
    # Cotangents of a and b come up to a constant each that sums to nothing on the simplex.
    for name in ("a", "b"):
        np.testing.assert_allclose(
            grad[name] - grad[name].mean(), expected[name], rtol=0, atol=1e-7 * np.abs(expected[name]).max()
        )


@layouts()
def test_empty_bins(order):
    """One-sided differences where mass would enter a bin that has none; plain ones elsewhere."""
    a, b, M, reg = problem(8, 6)
    a[2], b[4] = 0.0, 0.0
    a, b, M = a / a.sum(), b / b.sum(), np.asarray(M, order=order)
    G = np.random.default_rng(6).standard_normal(M.shape)
    for cotangents in ({"grad_value": 1.0}, {"grad_plan": G}):

        def loss(a, b, M, cotangents=cotangents):
            r = solve(a, b, M, reg)
            return r.value if "grad_value" in cotangents else (G * r.plan).sum()

        grad = solve(a, b, M, reg).vjp(**cotangents)
        assert all(np.isfinite(x).all() for x in grad.values())
        h = 1e-4
        for da, db in [
            (np.eye(8)[2] - np.eye(8)[0], np.zeros(6)),
            (np.zeros(8), np.eye(6)[4] - np.eye(6)[1]),
            (np.eye(8)[2], np.eye(6)[4]),
        ]:
            f0, f1, f2, f3 = (loss(a + k * h * da, b + k * h * db, M) for k in range(4))
            expected = (-11 * f0 + 18 * f1 - 9 * f2 + 2 * f3) / (6 * h)  # third order
            assert grad["a"] @ da + grad["b"] @ db == pytest.approx(expected, rel=1e-6, abs=1e-7)
        dM = np.random.default_rng(7).standard_normal(M.shape)
        expected = central(lambda t, dM=dM: loss(a, b, M + t * dM))
        assert (grad["M"] * dM).sum() == pytest.approx(expected, rel=1e-6)
        assert (grad["M"][2] == 0).all()
        assert (grad["M"][:, 4] == 0).all()


def test_forbidden_pairs_have_no_gradient():
    p = edge_case("forbidden_pairs", 12, 12, reg=0.05)
    G = np.random.default_rng(8).standard_normal(p.M.shape)
    grad = solve(p.a, p.b, p.M, p.reg).vjp(grad_value=1.0, grad_plan=G)
    assert (grad["M"][np.isinf(p.M)] == 0).all()
    dM = np.where(np.isinf(p.M), 0.0, np.random.default_rng(9).standard_normal(p.M.shape))

    def loss(t):
        r = solve(p.a, p.b, p.M + t * dM, p.reg)
        return r.value + (G * r.plan).sum()

    assert (grad["M"] * dM).sum() == pytest.approx(central(loss), rel=1e-6)


def test_float32():
    p = gaussian_clouds(30, 25, reg=3e-2)
    M = p.M.astype(np.float32)
    G = np.random.default_rng(10).standard_normal(M.shape).astype(np.float32)
    single = ot.sinkhorn(p.a, p.b, M, p.reg).vjp(grad_value=1.0, grad_plan=G)
    double = solve(p.a, p.b, M.astype(np.float64), p.reg).vjp(grad_value=1.0, grad_plan=G)
    for name in ("M", "a", "b"):
        scale = np.abs(double[name]).max()
        np.testing.assert_allclose(single[name], double[name], rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("form", ["dense", "sparse", "lazy", False])
def test_every_form_of_the_plan_differentiates(form):
    a, b, M, reg = problem()
    G = np.random.default_rng(11).standard_normal(M.shape)
    expected = solve(a, b, M, reg).vjp(grad_value=1.0, grad_plan=G)
    grad = solve(a, b, M, reg, return_plan=form).vjp(grad_value=1.0, grad_plan=G)
    for name in ("M", "a", "b"):
        np.testing.assert_allclose(grad[name], expected[name], rtol=1e-9, atol=1e-12)


def test_inputs_stay():
    a, b, M, reg = problem()
    G = np.random.default_rng(12).standard_normal(M.shape)
    kept = [x.copy() for x in (a, b, M, G)]
    result = solve(a, b, M, reg)
    plan = result.plan.copy()
    first = result.vjp(grad_value=1.0, grad_plan=G)
    second = result.vjp(grad_value=1.0, grad_plan=np.asfortranarray(G))
    for name in ("M", "a", "b"):
        np.testing.assert_array_equal(first[name], second[name])
    for x, k in zip((a, b, M, G, result.plan), (*kept, plan), strict=True):
        np.testing.assert_array_equal(x, k)


def test_after_pickling():
    import pickle

    a, b, M, reg = problem()
    G = np.random.default_rng(13).standard_normal(M.shape)
    result = solve(a, b, M, reg)
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.vjp(grad_plan=G)["M"], result.vjp(grad_plan=G)["M"])


def test_overwritten_cost():
    a, b, M, reg = problem()
    expected = solve(a, b, M, reg).vjp(grad_value=2.0)
    result = solve(a, b, M.copy(), reg, overwrite_cost=True)
    np.testing.assert_allclose(result.vjp(grad_value=2.0)["M"], expected["M"], rtol=1e-12)
    with pytest.raises(ValueError, match="`overwrite_cost`"):
        result.vjp(grad_plan=np.ones(M.shape))
    rounded = solve(a, b, M.copy(), reg, overwrite_cost=True, round=True)
    with pytest.raises(ValueError, match="`overwrite_cost` with `round`"):
        rounded.vjp(grad_value=1.0)


def test_errors_are_named():
    a, b, M, reg = problem()
    result = solve(a, b, M, reg)
    with pytest.raises(ValueError, match="`grad_value`, `grad_plan` and `grad_potentials` are all None"):
        result.vjp()
    with pytest.raises(ValueError, match=r"`grad_plan` has shape \(7, 9\); \(9, 7\) is needed"):
        result.vjp(grad_plan=M.T)
    with pytest.raises(ValueError, match="`grad_plan`"):
        result.vjp(grad_plan=np.full(M.shape, np.nan))
    with pytest.raises(TypeError, match="`grad_potentials` must be a pair"):
        result.vjp(grad_potentials=1.0)
    with pytest.raises(ValueError, match=r"`grad_potentials\[1\]` has shape \(9,\); \(7,\) is needed"):
        result.vjp(grad_potentials=(np.ones(9), np.ones(9)))
    with pytest.raises(ValueError, match="`rtol`"):
        result.vjp(grad_plan=M, rtol=0.0)
    with pytest.raises((TypeError, ValueError), match="`grad_value`"):
        result.vjp(grad_value="one")


def test_torch_gradcheck():
    torch = pytest.importorskip("torch")

    class Transport(torch.autograd.Function):
        """(value, plan) of a cost; the potentials' gradients are projected to equal masses."""

        @staticmethod
        def forward(ctx, a, b, M):
            ctx.result = ot.sinkhorn(a.detach(), b.detach(), M.detach(), 0.1, tol=1e-13)
            return M.new_tensor(ctx.result.value), ctx.result.plan

        @staticmethod
        def backward(ctx, grad_value, grad_plan):
            grad = ctx.result.vjp(grad_value=float(grad_value), grad_plan=grad_plan)
            return grad["a"], grad["b"], grad["M"]

    a, b, M, _ = problem(5, 4)
    logits = [torch.tensor(np.log(w), requires_grad=True) for w in (a, b)]
    cost = torch.tensor(M, requires_grad=True)

    def function(s, t, cost):  # softmax keeps the masses equal
        return Transport.apply(torch.softmax(s, 0), torch.softmax(t, 0), cost)

    assert torch.autograd.gradcheck(function, (*logits, cost), eps=1e-5, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_gradients_hold_where_both_masses_grow(reg_type):
    rng = np.random.default_rng(11)
    M, a, b, da, db = (
        rng.random((6, 7)),
        rng.random(6) + 0.1,
        rng.random(7) + 0.1,
        rng.random(6),
        rng.random(7),
    )
    a, b, db = 2.5 * a / a.sum(), 2.5 * b / b.sum(), db * da.sum() / db.sum()

    def value(t):
        return ot.sinkhorn(a + t * da, b + t * db, M, 0.1, reg_type=reg_type, tol=1e-13).value

    grads = ot.sinkhorn(a, b, M, 0.1, reg_type=reg_type, tol=1e-13).vjp(1.0)
    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    assert grads["a"] @ da + grads["b"] @ db == pytest.approx(expected, rel=1e-7)
