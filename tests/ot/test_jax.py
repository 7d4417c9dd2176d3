"""`aitken.ot.jax`: gradients, second derivatives, jit and vmap."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from aitken import ConvergenceWarning, ot

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
jot = pytest.importorskip("aitken.ot.jax")

TIGHT = {"tol": 1e-13}
H = 1e-5


@pytest.fixture(autouse=True)
def _double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def problem(n=6, m=5, seed=0, lead=()):
    rng = np.random.default_rng(seed)
    a, b = rng.random((*lead, n)) + 0.2, rng.random((*lead, m)) + 0.2
    return (
        jnp.asarray(np.log(a / a.sum(-1, keepdims=True))),
        jnp.asarray(np.log(b / b.sum(-1, keepdims=True))),
        jnp.asarray(rng.random((*lead, n, m))),
    )


def value(s, t, M, reg=0.2, **options):
    return jot.sinkhorn(jax.nn.softmax(s), jax.nn.softmax(t), M, reg, **TIGHT, **options)


def check(function, data, rel=1e-6):
    """Reverse-mode derivative along a random direction against central differences."""
    rng = np.random.default_rng(1)
    along = [jnp.asarray(rng.standard_normal(x.shape)) for x in data]

    def at(h):
        return float(function(*(x + h * d for x, d in zip(data, along, strict=True))))

    grads = jax.grad(function, argnums=tuple(range(len(data))))(*data)
    slope = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True))
    assert slope == pytest.approx((at(H) - at(-H)) / (2 * H), rel=rel, abs=1e-8)


def slopes(function, data, seed=2):
    """A scalar function of the gradient of `function`, whose derivative needs second derivatives."""
    rng = np.random.default_rng(seed)
    weights = [jnp.asarray(rng.standard_normal(x.shape)) for x in data]

    def contracted(*data):
        grads = jax.grad(function, argnums=tuple(range(len(data))))(*data)
        return sum((w * g).sum() for w, g in zip(weights, grads, strict=True))

    return contracted


# --- one problem -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_value_twice(reg_type):
    function = functools.partial(value, reg_type=reg_type)
    check(function, problem())
    check(slopes(function, problem()), problem(), rel=1e-5)


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_value_along_the_common_mass(reg_type):
    def function(s, t, M, log_mass):
        a, b = (jnp.exp(log_mass) * jax.nn.softmax(x) for x in (s, t))
        return jot.sinkhorn(a, b, M, 0.2, reg_type=reg_type, **TIGHT)

    data = (*problem(), jnp.asarray(0.7))
    check(function, data)
    check(slopes(function, data), data, rel=1e-5)


@pytest.mark.parametrize("unbalanced", [0.5, (0.3, 0.9), (np.inf, 0.5)])
def test_unbalanced_twice(unbalanced):
    def function(a, b, M):
        return jot.sinkhorn(a, b, M, 0.2, unbalanced=unbalanced, **TIGHT)

    s, t, M = problem()
    data = (jnp.exp(s), 1.5 * jnp.exp(t), M)
    check(function, data)
    check(slopes(function, data), data, rel=1e-5)


def test_plan():
    G = jnp.asarray(np.random.default_rng(3).standard_normal((6, 5)))

    def function(s, t, M):
        return (G * jot.sinkhorn_plan(jax.nn.softmax(s), jax.nn.softmax(t), M, 0.2, **TIGHT)).sum()

    check(function, problem())


def test_reg_may_be_traced_and_learned():
    def function(M, reg):
        return jot.sinkhorn(None, None, M, jnp.exp(reg), **TIGHT)

    M = problem()[2]
    check(function, (M, jnp.asarray(-1.5)))
    check(slopes(function, (M, jnp.asarray(-1.5))), (M, jnp.asarray(-1.5)), rel=1e-5)
    assert float(jax.jit(function)(M, -1.5)) == pytest.approx(
        ot.sinkhorn(None, None, np.asarray(M), np.exp(-1.5), **TIGHT).value, abs=1e-12
    )


def test_equal_to_the_core():
    _, _, M = problem(9, 7)
    r = ot.sinkhorn(None, None, np.asarray(M), 0.1)
    assert float(jot.sinkhorn(None, None, M, 0.1)) == pytest.approx(r.value, rel=1e-14)
    np.testing.assert_allclose(jax.grad(lambda M: jot.sinkhorn(None, None, M, 0.1))(M), r.plan, atol=1e-12)
    np.testing.assert_allclose(jot.sinkhorn_plan(None, None, M, 0.1), r.plan, atol=1e-12)


def test_hessian_is_symmetric():
    M = problem(3, 4)[2]
    J = jax.jacrev(lambda M: jot.sinkhorn_plan(None, None, M, 0.2, **TIGHT))(M)
    np.testing.assert_allclose(J, J.transpose(2, 3, 0, 1), atol=1e-9)
    HM = jax.jacrev(jax.grad(lambda M: jot.sinkhorn(None, None, M, 0.2, **TIGHT)))(M)
    np.testing.assert_allclose(HM, J, atol=1e-9)


def test_single_precision():
    M = jnp.asarray(problem(20, 15)[2], dtype=jnp.float32)
    out, grad = jax.value_and_grad(lambda M: jot.sinkhorn(None, None, M, 0.1))(M)
    assert out.dtype == grad.dtype == jnp.float32
    exact = ot.sinkhorn(None, None, np.asarray(M, dtype=np.float64), 0.1)
    assert float(out) == pytest.approx(exact.value, rel=1e-5)
    np.testing.assert_allclose(grad, exact.plan, atol=1e-6)
    second = jax.grad(lambda M: (jax.grad(lambda M: jot.sinkhorn(None, None, M, 0.1))(M) ** 2).sum())(M)
    assert second.dtype == jnp.float32
    G = 2 * exact.plan
    np.testing.assert_allclose(second, exact.vjp(grad_plan=G)["M"], atol=1e-4 * np.abs(second).max())


# --- transformations -------------------------------------------------------------------------------------


def test_jit():
    s, t, M = problem()
    jitted = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))
    out, grads = jitted(s, t, M)
    plain, expected = jax.value_and_grad(value, argnums=(0, 1, 2))(s, t, M)
    assert float(out) == float(plain)
    for g, e in zip(grads, expected, strict=True):
        np.testing.assert_allclose(g, e, atol=1e-12)


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, 0), (None, None, 0), (0, 0, None), (0, None, None)])
def test_vmap(axes):
    """Mapped and shared arguments; values, gradients and second derivatives of each problem."""
    data = [x if axis == 0 else x[0] for x, axis in zip(problem(lead=(3,)), axes, strict=True)]
    contracted = slopes(value, [x[0] if axis == 0 else x for x, axis in zip(data, axes, strict=True)])
    for function in (value, jax.grad(value, argnums=2), jax.grad(contracted, argnums=2)):
        together = jax.jit(jax.vmap(function, in_axes=axes))(*data)
        for i in range(3):
            one = function(*(x[i] if axis == 0 else x for x, axis in zip(data, axes, strict=True)))
            np.testing.assert_allclose(together[i], one, rtol=1e-7, atol=1e-9)


def test_vmap_is_one_batch(monkeypatch):
    calls = []
    batch = ot.sinkhorn_batch

    @functools.wraps(batch)
    def spy(*args, **kwargs):
        calls.append(args[2].shape)
        return batch(*args, **kwargs)

    monkeypatch.setattr(ot, "sinkhorn_batch", spy)
    data = problem(lead=(4,))
    jax.vmap(value)(*data)
    jax.vmap(value, in_axes=(0, 0, None))(*data[:2], data[2][0])
    assert calls == [(4, 6, 5), (6, 5)]  # a shared cost is not repeated


def test_nested_vmap():
    s, t, M = problem(lead=(2, 3))
    out = jax.vmap(jax.vmap(value))(s, t, M)
    assert out.shape == (2, 3)
    np.testing.assert_allclose(out[1, 2], value(s[1, 2], t[1, 2], M[1, 2]), atol=1e-9)
    shared = jax.vmap(lambda t: jax.vmap(lambda s: value(s, t, M[0, 0]))(s[0]))(t[0])
    np.testing.assert_allclose(shared[2, 1], value(s[0, 1], t[0, 2], M[0, 0]), atol=1e-9)


def test_one_bad_problem_of_a_batch():
    M = problem(lead=(3,))[2].at[1, 0, 0].set(jnp.nan)
    with pytest.warns(ConvergenceWarning):
        out = jax.block_until_ready(jax.vmap(lambda M: jot.sinkhorn(None, None, M, 0.2))(M))
    assert np.isfinite(out).tolist() == [True, False, True]


# --- clouds ----------------------------------------------------------------------------------------------


def clouds(n=6, m=5, d=2):
    rng = np.random.default_rng(4)
    return jnp.asarray(rng.standard_normal((n, d))), jnp.asarray(rng.standard_normal((m, d)) + 0.5)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        *(("sinkhorn_points", metric) for metric in ("sqeuclidean", "euclidean", "cityblock", "cosine")),
        ("sinkhorn_divergence", "sqeuclidean"),
    ],
)
def test_clouds_twice(name, metric):
    def function(X, Y, s, t):
        a, b = jax.nn.softmax(s), jax.nn.softmax(t)
        return getattr(jot, name)(X, Y, a, b, reg=0.3, metric=metric, **TIGHT)

    data = (*clouds(), *problem()[:2])
    check(function, data)
    check(slopes(function, data), data, rel=1e-5)


@pytest.mark.parametrize("name", ["sinkhorn_points", "sinkhorn_divergence"])
def test_unbalanced_clouds_twice(name):
    def function(X, Y, a, b):
        return getattr(jot, name)(X, Y, a, b, reg=0.3, unbalanced=0.8, **TIGHT)

    s, t, _ = problem()
    data = (*clouds(), jnp.exp(s), 1.5 * jnp.exp(t))
    check(function, data)
    check(slopes(function, data), data, rel=1e-5)


@pytest.mark.parametrize("name", ["sinkhorn_points", "sinkhorn_divergence"])
def test_vmap_of_clouds(name):
    X, Y = clouds()
    many = jnp.stack([X, X + 0.1, 2 * X])

    def function(X, Y):
        return getattr(jot, name)(X, Y, reg=0.3)

    together, grads = jax.jit(jax.vmap(jax.value_and_grad(function), in_axes=(0, None)))(many, Y)
    for i in range(3):
        one, grad = jax.value_and_grad(function)(many[i], Y)
        assert float(together[i]) == pytest.approx(float(one), abs=1e-12)
        np.testing.assert_allclose(grads[i], grad, atol=1e-12)


def test_divergence_of_a_cloud_with_itself():
    X, _ = clouds(40)
    assert float(jot.sinkhorn_divergence(X, X, reg=0.1)) == 0.0


def test_gradient_descent_lowers_the_divergence():
    X, Y = clouds(40, 40)
    step = jax.jit(jax.value_and_grad(lambda X: jot.sinkhorn_divergence(X, Y, reg=0.1)))
    values = []
    for _ in range(15):
        out, grad = step(X)
        values.append(float(out))
        X = X - 10.0 * grad
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.1 * values[0]


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda M: jot.sinkhorn(None, None, M[0], 0.1), ValueError, r"`M` has shape \(5,\)"),
        (lambda M: jot.sinkhorn(jnp.ones(3), None, M, 0.1), ValueError, r"`a` has shape \(3,\)"),
        (lambda M: jot.sinkhorn(None, None, M * 1j, 0.1), TypeError, "`M` is complex"),
        (lambda M: jot.sinkhorn(None, None, M, 0.0), ValueError, "`reg`"),
        (lambda M: jot.sinkhorn(None, None, M, 0.1, tool=1), TypeError, "did you mean `tol`"),
        (lambda M: jot.sinkhorn(None, None, M, 0.1, init=1), TypeError, "`init`"),
        (lambda M: jot.sinkhorn(None, None, M, jnp.asarray(0.1), unbalanced=1.0), ValueError, "`unbalanced`"),
        (lambda M: jot.sinkhorn_points(M, M[:, :2], reg=0.1), ValueError, r"`Y` has shape \(6, 2\)"),
        (lambda M: jot.sinkhorn_divergence(M, M, reg=0.1, metric="l2"), ValueError, "`metric`"),
    ],
)
def test_errors_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call(problem()[2])


def test_bad_numbers_are_reported():
    with pytest.raises(Exception, match="`a` has a negative value at index 1"):
        jax.block_until_ready(jot.sinkhorn(jnp.asarray([1.0, -1.0]), None, jnp.ones((2, 2)), 0.1))
