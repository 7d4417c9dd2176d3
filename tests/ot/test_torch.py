"""`aitken.ot.torch`: gradients, second derivatives, batches and warm starts."""

from __future__ import annotations

import numpy as np
import pytest

from aitken import ConvergenceWarning, ot

torch = pytest.importorskip("torch")
tot = pytest.importorskip("aitken.ot.torch")

CHECK = {"eps": 1e-5, "atol": 1e-7, "rtol": 1e-6}
FAST = {"eps": 1e-5, "atol": 1e-6, "rtol": 1e-5, "fast_mode": True}  # random directions, not every entry
TIGHT = {"tol": 1e-13}


def problem(n=5, m=4, lead=(), seed=0, grad=True):
    """Logits of the weights (their softmax has mass 1) and a cost."""
    rng = np.random.default_rng(seed)
    data = (rng.standard_normal((*lead, n)), rng.standard_normal((*lead, m)), rng.random((*lead, n, m)))
    return [torch.tensor(x, requires_grad=grad) for x in data]


def weights(s, t):
    return torch.softmax(s, -1), torch.softmax(t, -1)


def clouds(n=6, m=5, d=2, seed=0):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) + 0.5
    return [torch.tensor(x, requires_grad=True) for x in (X, Y)]


# --- one problem -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_gradcheck_of_the_value_twice(reg_type):
    def function(s, t, M):
        return tot.sinkhorn(*weights(s, t), M, 0.2, reg_type=reg_type, **TIGHT)

    assert torch.autograd.gradcheck(function, problem(), **CHECK)
    assert torch.autograd.gradgradcheck(function, problem(), **CHECK)


def test_gradcheck_with_masses_and_with_uniform_weights():
    def scaled(s, t, M):
        a, b = weights(s, t)
        return tot.sinkhorn(2.5 * a, 2.5 * b, M, 0.2, **TIGHT)

    def uniform(M):
        return tot.sinkhorn(None, None, M, 0.2, **TIGHT)

    assert torch.autograd.gradcheck(scaled, problem(), **CHECK)
    assert torch.autograd.gradgradcheck(scaled, problem(), **CHECK)
    assert torch.autograd.gradcheck(uniform, problem()[2:], **CHECK)
    assert torch.autograd.gradgradcheck(uniform, problem()[2:], **CHECK)


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("reg", [0.2, [0.2, 0.5], "learned"])
def test_gradcheck_along_the_common_mass(reg_type, reg):
    """A recorded gradient is the plain one, also where both masses grow."""
    learned = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def function(s, t, M, log_mass):
        a, b = (log_mass.exp() * w for w in weights(s, t))
        return tot.sinkhorn(a, b, M, learned if reg == "learned" else reg, reg_type=reg_type, **TIGHT).sum()

    data = [*problem(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(function, data, **CHECK)
    assert torch.autograd.gradgradcheck(function, data, **CHECK)
    plain = torch.autograd.grad(function(*data), data)
    recorded = torch.autograd.grad(function(*data), data, create_graph=True)
    for left, right in zip(plain, recorded, strict=True):
        np.testing.assert_allclose(left.detach(), right.detach(), atol=1e-11)


def test_gradcheck_of_the_plan():
    def function(s, t, M):
        return tot.sinkhorn_plan(*weights(s, t), M, 0.2, **TIGHT)

    assert torch.autograd.gradcheck(function, problem(), **CHECK)


@pytest.mark.parametrize("unbalanced", [0.5, (0.3, 0.9), (np.inf, 0.5)])
def test_gradcheck_of_unbalanced_transport_twice(unbalanced):
    """No constraint ties the masses: the weights themselves are the variables."""

    def function(a, b, M):
        return tot.sinkhorn(a, b, M, 0.2, unbalanced=unbalanced, **TIGHT)

    s, t, M = problem()
    data = [x.detach().exp().requires_grad_() for x in (s, t)]
    assert torch.autograd.gradcheck(function, (*data, M), **CHECK)
    assert torch.autograd.gradgradcheck(function, (*data, M), **CHECK)


def test_gradcheck_of_reg():
    def function(M, reg):
        return tot.sinkhorn(None, None, M, reg.exp(), **TIGHT)

    reg = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (problem()[2], reg), **CHECK)
    assert torch.autograd.gradgradcheck(function, (problem()[2], reg), **CHECK)
    # against the closed form: KL(P | a b^T)
    r = ot.sinkhorn(None, None, problem(grad=False)[2].numpy(), np.exp(-1.5), **TIGHT)
    (slope,) = torch.autograd.grad(function(problem()[2], reg), reg)
    assert float(slope) == pytest.approx(r.value - r.value_linear, rel=1e-8)


def test_value_and_first_derivatives_are_those_of_the_core():
    s, t, M = problem(9, 7)
    a, b = (w.detach().requires_grad_() for w in weights(s, t))
    value = tot.sinkhorn(a, b, M, 0.1)
    value.backward()
    r = ot.sinkhorn(*(x.detach().numpy() for x in (a, b, M)), 0.1)
    assert value.item() == r.value
    np.testing.assert_allclose(M.grad, r.plan, atol=1e-12)
    np.testing.assert_allclose(a.grad, r.potentials[0], atol=1e-12)
    np.testing.assert_allclose(b.grad, r.potentials[1], atol=1e-12)
    np.testing.assert_allclose(tot.sinkhorn_plan(a, b, M, 0.1).detach(), r.plan, atol=1e-12)


def test_only_what_is_asked_for():
    s, t, M = problem()
    a, b = (w.detach() for w in weights(s, t))
    value = tot.sinkhorn(a, b, M, 0.2)
    value.backward()
    assert a.grad is None
    assert M.grad is not None
    assert not tot.sinkhorn(a, b, M.detach(), 0.2).requires_grad


def test_hessian_of_the_value_is_the_derivative_of_the_plan():
    M = problem()[2]
    H = torch.autograd.functional.hessian(lambda M: tot.sinkhorn(None, None, M, 0.2, **TIGHT), M)
    J = torch.autograd.functional.jacobian(lambda M: tot.sinkhorn_plan(None, None, M, 0.2, **TIGHT), M)
    np.testing.assert_allclose(H, J, atol=1e-9)
    np.testing.assert_allclose(H, H.permute(2, 3, 0, 1), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_types_are_kept(dtype):
    M = problem(20, 15)[2]
    single = M.detach().to(dtype).requires_grad_()
    value = tot.sinkhorn(None, None, single, 0.1)
    value.backward()
    assert value.dtype == single.grad.dtype == dtype
    exact = tot.sinkhorn(None, None, M.detach(), 0.1)
    assert value.item() == pytest.approx(exact.item(), rel=1e-3 if dtype == torch.float16 else 1e-6)
    (second,) = torch.autograd.grad(
        torch.autograd.grad(tot.sinkhorn(None, None, single, 0.1), single, create_graph=True)[0]
        .square()
        .sum(),
        single,
    )
    assert second.dtype == dtype
    assert torch.isfinite(second).all()


def test_integer_costs():
    M = torch.arange(12).reshape(3, 4)
    value = tot.sinkhorn(None, None, M, 1.0)
    assert value.dtype == torch.float64
    assert value.item() == ot.sinkhorn(None, None, M.numpy(), 1.0).value


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_tensors_are_read_in_place(layout, monkeypatch):
    seen = []
    solve = ot.sinkhorn

    def spy(*args, **kwargs):
        r = solve(*args, **kwargs)
        seen.append(r._problem.cost)
        return r

    M = torch.rand(30, 40, dtype=torch.float64)
    M = M if layout == "contiguous" else M.T
    spy.__signature__ = __import__("inspect").signature(solve)
    monkeypatch.setattr(ot, "sinkhorn", spy)
    tot.sinkhorn(None, None, M, 0.1)
    assert seen[0].__array_interface__["data"][0] == M.data_ptr()


def test_data_changed_in_place_is_refused():
    M = problem()[2].detach().requires_grad_()
    leaf = M * 1.0
    value = tot.sinkhorn(None, None, leaf, 0.2)
    with torch.no_grad():
        leaf.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_inputs_stay():
    s, t, M = problem()
    kept = M.detach().clone()
    tot.sinkhorn(*weights(s, t), M, 0.2).backward()
    assert torch.equal(M.detach(), kept)


# --- batches ---------------------------------------------------------------------------------------------


def test_gradcheck_of_a_batch_twice():
    def function(s, t, M):
        return tot.sinkhorn(*weights(s, t), M, 0.2, **TIGHT)

    data = problem(4, 3, (3,))
    assert function(*data).shape == (3,)
    assert torch.autograd.gradcheck(function, data, **FAST)
    assert torch.autograd.gradgradcheck(function, data, **FAST)

    def plan(s, t, M):
        return tot.sinkhorn_plan(*weights(s, t), M, 0.2, **TIGHT)

    assert torch.autograd.gradcheck(plan, data, **FAST)


@pytest.mark.parametrize("shared", ["M", "a", "b", "ab"])
def test_gradcheck_of_shared_data(shared):
    s, t, M = problem(4, 3, (3,))
    if "a" in shared:
        s = s[0].detach().requires_grad_()
    if "b" in shared:
        t = t[0].detach().requires_grad_()
    if "M" in shared:
        M = M[0].detach().requires_grad_()

    def function(s, t, M):
        return tot.sinkhorn(*weights(s, t), M, 0.2, **TIGHT)

    assert function(s, t, M).shape == (3,)
    assert torch.autograd.gradcheck(function, (s, t, M), **FAST)
    assert torch.autograd.gradgradcheck(function, (s, t, M), **FAST)


def test_batches_of_any_rank_and_of_many_regs():
    s, t, M = problem(4, 3, (2, 3))
    a, b = weights(s, t)
    regs = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    value, plan = tot.sinkhorn(a, b, M, regs), tot.sinkhorn_plan(a, b, M, regs)
    assert value.shape == (2, 3)
    assert plan.shape == (2, 3, 4, 3)
    for i in range(2):
        for j in range(3):
            one = tot.sinkhorn(a[i, j], b[i, j], M[i, j], float(regs[j]))
            assert value[i, j].item() == pytest.approx(one.item(), abs=1e-9)
    learned = regs.requires_grad_()
    slope = torch.autograd.grad(tot.sinkhorn(a, b, M, learned).sum(), learned)[0]
    assert slope.shape == (3,)
    only_reg = tot.sinkhorn(a[0, 0], b[0, 0], M[0, 0], regs.detach())
    assert only_reg.shape == (3,)
    assert only_reg[1].item() == pytest.approx(tot.sinkhorn(a[0, 0], b[0, 0], M[0, 0], 0.2).item(), abs=1e-9)


def test_one_bad_problem_of_a_batch():
    _, _, M = problem(4, 3, (3,))
    M = M.detach().clone()
    M[1, 0, 0] = torch.nan
    M.requires_grad_()
    with pytest.warns(ConvergenceWarning):
        value = tot.sinkhorn(None, None, M, 0.2)
    assert torch.isfinite(value).tolist() == [True, False, True]
    value[[0, 2]].sum().backward()
    assert torch.isfinite(M.grad[[0, 2]]).all()


# --- clouds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sinkhorn_points", "sinkhorn_divergence"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine"])
def test_gradcheck_of_clouds_twice(name, metric):
    function = getattr(tot, name)

    def value(X, Y, s, t):
        a, b = weights(s, t)
        return function(X, Y, a, b, reg=0.3, metric=metric, **TIGHT)

    X, Y = clouds()
    s, t, _ = problem(6, 5)
    assert torch.autograd.gradcheck(value, (X, Y, s, t), **FAST)
    assert torch.autograd.gradgradcheck(value, (X, Y, s, t), **FAST)


@pytest.mark.parametrize("name", ["sinkhorn_points", "sinkhorn_divergence"])
def test_gradcheck_of_unbalanced_clouds_twice(name):
    function = getattr(tot, name)

    def value(X, Y, a, b):
        return function(X, Y, a, b, reg=0.3, unbalanced=0.8, **TIGHT)

    s, t, _ = problem(6, 5)
    data = (*clouds(), *(x.detach().exp().requires_grad_() for x in (s, t)))
    assert torch.autograd.gradcheck(value, data, **FAST)
    assert torch.autograd.gradgradcheck(value, data, **FAST)


@pytest.mark.parametrize("name", ["sinkhorn_points", "sinkhorn_divergence"])
def test_batches_of_clouds(name):
    function = getattr(tot, name)
    X, Y = (torch.stack([z, z + 0.1 * z.square()]).detach().requires_grad_() for z in clouds())
    together = function(X, Y, reg=0.3, **TIGHT)
    assert together.shape == (2,)
    for i in range(2):
        assert together[i].item() == pytest.approx(function(X[i], Y[i], reg=0.3, **TIGHT).item(), abs=1e-10)
    assert torch.autograd.gradcheck(lambda X, Y: function(X, Y, reg=0.3, **TIGHT), (X, Y), **FAST)


def test_divergence_of_a_cloud_with_itself():
    X, _ = clouds(40)
    value = tot.sinkhorn_divergence(X, X.detach().clone(), reg=0.1)
    value.backward()
    assert value.item() == 0.0
    assert not X.grad.any()


def test_learned_reg_of_clouds():
    X, Y = clouds()
    reg = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for function in (tot.sinkhorn_points, tot.sinkhorn_divergence):
        assert torch.autograd.gradcheck(
            lambda X, reg, f=function: f(X, Y.detach(), reg=reg, **TIGHT), (X, reg), **FAST
        )


# --- loops -----------------------------------------------------------------------------------------------


def train(steps, init, rate=2.0):
    """Points that learn to lie on others; returns the losses and the iterations of every step."""
    X, Y = clouds(80, 80, seed=3)
    X = X.detach().requires_grad_()
    optimiser = torch.optim.SGD([X], lr=rate)
    losses, nit = [], []
    for _ in range(steps):
        used = init if init is not None else tot.Warm()
        value = tot.sinkhorn_divergence(X, Y.detach(), reg=0.05, init=used)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
        nit.append(used.nit)
    return losses, nit


def test_a_warm_loop_takes_the_same_way_in_fewer_steps():
    cold, cold_nit = train(30, None)
    warm, warm_nit = train(30, tot.Warm())
    assert np.all(np.diff(cold) < 0)
    assert cold[-1] < 0.5 * cold[0]
    np.testing.assert_allclose(warm, cold, rtol=1e-6)
    assert warm_nit[0] == cold_nit[0]
    assert sum(warm_nit[1:]) < 0.7 * sum(cold_nit[1:])


def test_two_newton_steps_in_a_loop():
    """With small changes of the cost Newton needs two steps, or fewer, from the last potentials."""
    rng = np.random.default_rng(4)
    X, Y = rng.random((60, 2)), rng.random((60, 2))
    M, warm = torch.tensor(ot.dist(X, Y)), tot.Warm()
    tot.sinkhorn(None, None, M, 1e-3, init=warm, method="newton")
    first, counts = warm.nit_newton, []
    for _ in range(10):
        M = M + 1e-6 * torch.rand(
            M.shape, dtype=M.dtype, generator=torch.Generator().manual_seed(len(counts))
        )
        tot.sinkhorn(None, None, M, 1e-3, init=warm, method="newton")
        counts.append(warm.nit_newton)
        assert warm.nit <= warm.nit_newton + 1  # no scaling of reg
    assert first > 6
    assert max(counts) <= 2


def test_warm_batches_and_sizes():
    s, t, M = problem(20, 15, (3,), grad=False)
    warm = tot.Warm()
    cold = tot.sinkhorn(*weights(s, t), M, 0.02, init=warm)
    first = warm.nit
    again = tot.sinkhorn(*weights(s, t), M + 1e-6, 0.02, init=warm)
    assert warm.nit < 0.5 * first
    torch.testing.assert_close(again, cold + 1e-6, rtol=1e-7, atol=1e-9)
    tot.sinkhorn(None, None, M[0], 0.02, init=warm)  # another size: from nothing
    assert warm.success
    tot.sinkhorn(None, None, M[0], 0.02, init=warm)
    warm.reset()
    last = warm.nit
    tot.sinkhorn(None, None, M[0], 0.02, init=warm)
    assert warm.nit > last


def test_what_did_not_converge_is_forgotten():
    M = problem(30, 30)[2].detach()
    warm = tot.Warm()
    with pytest.warns(ConvergenceWarning):
        tot.sinkhorn(None, None, M, 1e-3, init=warm, maxiter=1)
    assert not warm.success
    tot.sinkhorn(None, None, M, 1e-3, init=warm)
    assert warm.success


def test_init_of_the_core():
    s, t, M = problem(20, 15, grad=False)
    a, b = weights(s, t)
    r = ot.sinkhorn(a, b, M, 0.02)
    for init in (r, r.potentials):
        assert tot.sinkhorn(a, b, M, 0.02, init=init).item() == pytest.approx(r.value, abs=1e-9)


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda M: tot.sinkhorn(None, None, M.numpy(), 0.1), TypeError, "`M` must be a torch tensor"),
        (lambda M: tot.sinkhorn(None, None, M[0], 0.1), ValueError, r"`M` has shape \(4,\)"),
        (lambda M: tot.sinkhorn(torch.ones(3), None, M, 0.1), ValueError, r"`a` has shape \(3,\)"),
        (lambda M: tot.sinkhorn(None, None, M, 0.0), ValueError, "`reg`"),
        (lambda M: tot.sinkhorn(None, None, M, None), TypeError, "`reg`"),
        (lambda M: tot.sinkhorn(None, None, M, 0.1, return_plan=True), TypeError, "`return_plan`"),
        (lambda M: tot.sinkhorn(None, None, M, 0.1, tool=1), TypeError, "did you mean `tol`"),
        (lambda M: tot.sinkhorn_points(M, M[:, :2], reg=0.1), ValueError, "`X` has points of length 4"),
        (lambda M: tot.sinkhorn_points(M, M, reg=0.1, metric="l2"), ValueError, "`metric`"),
        (lambda M: tot.sinkhorn_divergence(M[0], M, reg=0.1), ValueError, r"`X` has shape \(4,\)"),
        (
            lambda M: tot.sinkhorn(None, None, M, torch.tensor(-1.0, requires_grad=True)),
            ValueError,
            "`reg` must be > 0",
        ),
        (
            lambda M: tot.sinkhorn(None, None, M, torch.tensor(1.0, requires_grad=True), unbalanced=1.0),
            ValueError,
            "`unbalanced`",
        ),
        (
            lambda M: tot.sinkhorn(torch.ones(2, 5), None, M.expand(3, 5, 4), 0.1),
            ValueError,
            "leading dimensions",
        ),
    ],
)
def test_errors_are_named(call, error, match):
    M = problem(grad=False)[2]
    with pytest.raises(error, match=match):
        call(M)


def test_clouds_take_the_same_options_alone_and_in_batches():
    X, Y = (torch.rand(9, 2, generator=torch.manual_seed(k), dtype=torch.float64) for k in (0, 1))
    for cloud in (X, X[None]):
        with pytest.raises(ValueError, match="`unbalanced` must be one number"):
            tot.sinkhorn_divergence(cloud, Y, reg=0.1, unbalanced=(5.0, 0.05))
        with pytest.raises(TypeError, match="unknown option `reg_type`"):
            tot.sinkhorn_divergence(cloud, Y, reg=0.1, reg_type="entropy")
    one = tot.sinkhorn_points(X, Y, reg=0.1, verbose=0)
    assert float(tot.sinkhorn_points(X[None], Y, reg=0.1, verbose=0)) == pytest.approx(float(one), rel=1e-8)


def test_penalties_get_no_gradient():
    M, rho = torch.rand(5, 4), torch.tensor(1.0, requires_grad=True)
    with pytest.raises(TypeError, match="`unbalanced` requires grad"):
        tot.sinkhorn(None, None, M, 0.1, unbalanced=rho)
    with pytest.raises(TypeError, match="`unbalanced` requires grad"):
        tot.sinkhorn(None, None, M, 0.1, unbalanced=(rho, 1.0))
    assert tot.sinkhorn(None, None, M, 0.1, unbalanced=1.0).isfinite()
