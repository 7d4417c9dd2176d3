"""`aitken.ot.sinkhorn_grid` against dense solves, a closed form, finite differences and itself."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from aitken import ConvergenceWarning, Status, _core, ot
from tests.interruption import check_ctrl_c, needs_posix


def images(shape, count=2, seed=0, low=0.01):
    h = np.random.default_rng(seed).random((count, *shape)) ** 4 + low
    return h / h.sum(axis=tuple(range(1, h.ndim)), keepdims=True)


def dense_cost(shape, spacing=1.0, p=2):
    cells = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1) * np.asarray(spacing)
    return (np.abs(cells[:, None] - cells) ** p).sum(axis=2)


def marginal_error(P, a, b):
    return np.abs(P.sum(axis=1) - a.ravel()).sum() + np.abs(P.sum(axis=0) - b.ravel()).sum()


CASES = [
    ((23,), 1.0, 2, 20.0),
    ((40,), 0.1, 1, 0.2),
    ((9, 9), 1 / 9, 2, 0.02),
    ((9, 7), (0.1, 0.3), 2, 0.05),
    ((5, 18), 1.0, 1, 1.0),
    ((4, 5, 6), (1.0, 2.0, 0.5), 2, 1.5),
    ((6, 4, 17), 1.0, 1, 1.0),
    ((9, 7), 1.0, 2, 0.1),  # range of the cost / reg = 1000
    ((9, 7), 1.0, 2, 0.08),  # along an axis 800: in logarithms
]


@pytest.mark.parametrize("seed", range(8))
def test_numbers_whose_products_leave_the_doubles(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(4, 14, 2))
    a, b = (rng.random(shape) ** rng.integers(1, 6) for _ in range(2))
    if seed % 3 == 0:
        a[rng.random(shape) < 0.5] = 0.0
    if seed % 4 == 0:
        b[:, : shape[1] // 2] = 1e-12
    a, b = a / a.sum(), b / b.sum()
    M = dense_cost(shape)
    reg = M.max() / rng.uniform(700, 1400)
    r = ot.sinkhorn_grid(a, b, reg=reg)
    known = ot.sinkhorn(a.ravel(), b.ravel(), M, reg)
    assert r.success
    assert r.value == pytest.approx(known.value, abs=1e-8 * M.max())
    f, g = (q.ravel() for q in r.potentials)
    with np.errstate(under="ignore"):
        P = np.outer(a, b) * np.exp((f[:, None] + g - M) / reg)
    assert marginal_error(P, a, b) <= 2e-9


@pytest.mark.parametrize(("shape", "spacing", "p", "reg"), CASES)
def test_dense(shape, spacing, p, reg):
    a, b = images(shape)
    a.ravel()[3] = b.ravel()[-1] = 0.0
    a, b = a / a.sum(), b / b.sum()
    M = dense_cost(shape, spacing, p)
    r = ot.sinkhorn_grid(a, b, spacing=spacing, p=p, reg=reg, tol=1e-11)
    known = ot.sinkhorn(a.ravel(), b.ravel(), M, reg, tol=1e-11)
    assert r.success
    assert r.err <= 1e-11
    assert r.value == pytest.approx(known.value, rel=1e-9)
    assert r.value_linear == pytest.approx(known.value_linear, rel=1e-7)
    for ours, theirs in zip(r.potentials, known.potentials, strict=True):
        assert ours.shape == shape
        np.testing.assert_allclose(ours.ravel(), theirs, rtol=0, atol=1e-6 * M.max())
    P = r.plan.toarray()
    np.testing.assert_allclose(P, known.plan, rtol=0, atol=1e-9)
    assert marginal_error(P, a, b) == pytest.approx(r.err, rel=1e-2, abs=1e-13)
    f, g = (q.ravel() for q in r.potentials)
    from_potentials = np.outer(a, b) * np.exp((f[:, None] + g - M) / reg)
    np.testing.assert_allclose(P, from_potentials, rtol=1e-9, atol=1e-300)
    assert (a.ravel() * f).sum() == pytest.approx((b.ravel() * g).sum(), abs=1e-12 * M.max())


@pytest.mark.parametrize("shape", [(15,), (6, 7), (3, 4, 5)])
def test_plan_operator(shape):
    a, b = images(shape)
    r = ot.sinkhorn_grid(3.0 * a, 3.0 * b, reg=2.0)
    P = r.plan.toarray()
    assert P.sum() == pytest.approx(3.0)
    v = np.random.default_rng(1).standard_normal(shape)
    np.testing.assert_allclose((r.plan @ v).ravel(), P @ v.ravel(), rtol=0, atol=1e-13)
    np.testing.assert_allclose((r.plan.T @ v).ravel(), P.T @ v.ravel(), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(v @ r.plan, r.plan.T @ v)
    np.testing.assert_allclose(r.plan.T.toarray(), P.T, rtol=1e-12)
    assert not (r.plan @ np.zeros(shape)).any()
    with pytest.raises(ValueError, match="`other` has shape"):
        r.plan @ np.ones(a.size + 1)


def test_mass_scales_the_values():
    a, b = images((8, 8))
    one, four = ot.sinkhorn_grid(a, b, reg=2.0), ot.sinkhorn_grid(4 * a, 4 * b, reg=2.0)
    assert four.value == pytest.approx(4 * one.value)
    assert four.value_linear == pytest.approx(4 * one.value_linear)


def test_translation():
    """Squared distance between an image and its translate in an empty frame: the shift, squared, and more."""
    a = np.zeros((20, 20))
    a[4:9, 4:9] = images((5, 5), 1)[0]
    b = np.roll(a, (6, 3), axis=(0, 1))
    same, moved = (ot.sinkhorn_grid(a, x, reg=1.0, tol=1e-11) for x in (a, b))
    # Translation adds a linear function to the cost, and the marginals fix what that costs.
    assert moved.value_linear - same.value_linear == pytest.approx(6**2 + 3**2, rel=1e-9)
    assert moved.value - same.value == pytest.approx(6**2 + 3**2, rel=1e-9)


def test_ladder_of_regularisations_meets_in_the_middle():
    """Just below and above where exponentials give way to logarithms the values join."""
    a, b = images((8, 8))
    values = [
        ot.sinkhorn_grid(a, b, reg=98.0 / x, tol=1e-10).value for x in (640.0, 680.0, 707.0, 709.0, 740.0)
    ]
    steps = np.diff(values)
    assert (steps < 0).all()
    np.testing.assert_allclose(steps / [40, 27, 2, 31], steps.mean() / 25, rtol=0.2)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_batch(count):
    A, B = images((7, 6), count), images((7, 6), count, seed=1)
    r = ot.sinkhorn_grid(A, B, n_axes=2, reg=1.0, tol=1e-11)
    assert r.success.all()
    assert r.value.shape == r.err.shape == r.nit.shape == (count,)
    assert r.potentials[0].shape == (count, 7, 6)
    for k in range(count):
        one = ot.sinkhorn_grid(A[k], B[k], reg=1.0, tol=1e-11)
        assert r.value[k] == pytest.approx(one.value, rel=1e-10)
        assert r.value_linear[k] == pytest.approx(one.value_linear, rel=1e-9)
        np.testing.assert_allclose(r.potentials[0][k], one.potentials[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(r.plan[k].toarray(), one.plan.toarray(), rtol=0, atol=1e-10)


def test_batch_in_logarithms():
    A, B = images((7, 6), 5), images((7, 6), 5, seed=1)
    r = ot.sinkhorn_grid(A, B, spacing=(1.0, 1.0), reg=0.05)
    assert r.success.all()
    one = ot.sinkhorn(A[4].ravel(), B[4].ravel(), dense_cost((7, 6)), 0.05, tol=1e-11)
    assert r.value[4] == pytest.approx(one.value, rel=1e-8)


@pytest.mark.parametrize("count", [3, 20])
def test_batch_with_bad_items(count):
    A, b = images((7, 6), count), images((7, 6), 1, seed=1)[0]
    good = ot.sinkhorn_grid(A, b, n_axes=2, reg=1.0)
    A[1, 2, 3] = np.nan
    A[2] *= 2.0
    with pytest.warns(ConvergenceWarning, match=r"2 bad input \(first: 1\)"):
        r = ot.sinkhorn_grid(A, b, n_axes=2, reg=1.0)
    assert r.status[1] == r.status[2] == Status.BAD_INPUT
    assert np.isnan(r.value[1:3]).all()
    assert np.isnan(r.potentials[0][1]).all()
    assert r.plan[1] is None
    keep = np.setdiff1d(np.arange(count), [1, 2])
    np.testing.assert_array_equal(r.value[keep], good.value[keep])
    grads = r.vjp(np.ones(count))
    assert not grads["a"][1:3].any()
    assert grads["b"].shape == (7, 6)
    np.testing.assert_allclose(grads["b"], good.potentials[1][keep].sum(axis=0), rtol=1e-12)
    with pytest.raises(ValueError, match="`grad_value` has shape"):
        r.vjp(np.ones(count + 1))


def test_vjp():
    a, b = images((5, 6))
    r = ot.sinkhorn_grid(a, b, reg=1.0, tol=1e-13)
    grads = r.vjp(2.0)
    d = np.random.default_rng(2).standard_normal((2, 5, 6))
    d -= d.mean(axis=(1, 2), keepdims=True)
    h = 1e-6
    up, down = (
        ot.sinkhorn_grid(a + s * h * d[0], b + s * h * d[1], reg=1.0, tol=1e-13).value for s in (1, -1)
    )
    expected = 2.0 * (up - down) / (2 * h)
    assert (grads["a"] * d[0]).sum() + (grads["b"] * d[1]).sum() == pytest.approx(expected, rel=1e-6)


def test_init():
    a, b = images((12, 12))
    cold = ot.sinkhorn_grid(a, b, reg=1.0)
    for init in (cold, cold.potentials):
        assert ot.sinkhorn_grid(a, b, reg=1.0, init=init).nit < cold.nit / 3


@pytest.mark.parametrize("value", [1e300, -1e300, 1e5])
@pytest.mark.parametrize("reg", [1.0, 0.05])
def test_absurd_init(value, reg):
    a, b = images((9, 9))
    f = np.random.default_rng(3).standard_normal((9, 9)) * value
    cold = ot.sinkhorn_grid(a, b, reg=reg)
    for start in (f, np.full((9, 9), value)):
        r = ot.sinkhorn_grid(a, b, reg=reg, init=(start, 0))
        assert r.success
        assert r.value == pytest.approx(cold.value, rel=1e-8)


@pytest.mark.parametrize("empty", [False, True])
def test_small_reg_is_handed_over(empty):
    """Where acceleration stalls, small grids go to the general solver."""
    a, b = images((12, 13), seed=5, low=0.0)
    if empty:
        a[::2] = 0.0
        b[1::2] = 0.0
    a, b = a / a.sum(), b / b.sum()
    r = ot.sinkhorn_grid(a, b, reg=0.01)
    known = ot.sinkhorn(a.ravel(), b.ravel(), dense_cost((12, 13)), 0.01)
    assert r.success
    assert marginal_error(r.plan.toarray(), a, b) <= 1e-8
    assert r.value == pytest.approx(known.value, rel=1e-9)
    assert r.value_linear == pytest.approx(known.value_linear, rel=1e-8)


@pytest.mark.parametrize("maxiter", [1200, 10_000])
def test_goes_on_where_acceleration_stalls(maxiter):
    """Without the general solver, as for large grids, only the tolerance and the limit end the iteration."""
    a, b = images((12, 13), seed=5, low=0.0)
    a[::2] = 0.0
    b[1::2] = 0.0
    a, b = a / a.sum(), b / b.sum()
    axes = [np.subtract.outer(np.arange(n), np.arange(n)).astype(float) ** 2 for n in a.shape]
    x, y = np.zeros(a.size), np.zeros(a.size)
    options = {"reg": 0.01, "tol": 1e-9, "maxiter": maxiter, "hand_over": False}
    report = _core.ot_grid_solve(axes, a.ravel(), b.ravel(), x, y, options)
    P = np.exp(x[:, None] + y - dense_cost((12, 13)) / 0.01)
    assert marginal_error(P, a, b) == pytest.approx(report["err"], rel=1e-3, abs=1e-10)
    if maxiter == 1200:
        assert report["status"] == Status.MAX_ITERATIONS
        assert report["nit"] == maxiter
    else:
        assert report["status"] == Status.CONVERGED
        known = ot.sinkhorn(a.ravel(), b.ravel(), dense_cost((12, 13)), 0.01)
        assert report["value"] == pytest.approx(known.value, rel=1e-9)


@pytest.mark.parametrize(("shape", "reg"), [((40, 50), 10.0), ((13, 20), 0.6)])
def test_threads_do_not_count(shape, reg):
    a, b = images(shape)
    one, two, three = (ot.sinkhorn_grid(a, b, reg=reg, n_threads=t) for t in (1, 2, 3))
    for other in (two, three):
        assert one.value == other.value
        np.testing.assert_array_equal(one.potentials[0], other.potentials[0])


def test_float32_and_copies():
    a, b = images((8, 9))
    r = ot.sinkhorn_grid(a.astype(np.float32), b.astype(np.float32), reg=1.0)
    assert r.success
    assert r.err <= 1e-6
    assert r.value == pytest.approx(ot.sinkhorn_grid(a, b, reg=1.0).value, rel=1e-4)
    again = pickle.loads(pickle.dumps(r))
    np.testing.assert_array_equal(again.plan.toarray(), r.plan.toarray())
    assert copy.copy(r).value == r.value


def test_not_converged():
    a, b = images((16, 16))
    with pytest.warns(ConvergenceWarning, match="sinkhorn_grid: the iteration limit was reached"):
        r = ot.sinkhorn_grid(a, b, reg=1.0, maxiter=3)
    assert r.status == Status.MAX_ITERATIONS
    assert r.nit == 3
    assert marginal_error(r.plan.toarray(), a, b) == pytest.approx(r.err, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"reg": 0.0}, ValueError, "`reg`"),
        ({"p": 3}, ValueError, "`p` must be one of 1, 2; got 3"),
        ({"a": np.ones((3, 4))}, ValueError, "`a` and `b` must share one grid"),
        ({"a": np.full((4, 4), 2 / 16)}, ValueError, "`a` and `b` must have equal mass"),
        ({"a": np.zeros((4, 4))}, ValueError, "`a` has no mass"),
        ({"a": -np.ones((4, 4))}, ValueError, "`a` has a negative value"),
        ({"b": np.full((4, 4), np.nan)}, ValueError, "`b` has a non-finite value"),
        ({"spacing": (1.0, 2.0, 3.0)}, ValueError, "`a` has shape"),
        ({"spacing": -1.0}, ValueError, "`spacing` must be > 0"),
        ({"spacing": 1e160}, ValueError, "`spacing` makes the cost overflow; got 1e\\+160"),
        ({"spacing": 1e150, "reg": 1e-10}, ValueError, "`reg` is 1e-10, the largest cost"),
        ({"reg": 1e-9}, ValueError, "`reg` is 1e-09, the largest cost 18; their ratio"),
        (
            {"n_axes": 2, "a": np.full((1, 4, 4), 1 / 16), "b": np.full((3, 4, 4), 1 / 16)},
            ValueError,
            "batches of 1",
        ),
        ({"n_axes": 2, "a": np.ones((0, 4, 4)), "b": np.full((3, 4, 4), 1 / 16)}, ValueError, "batches of 0"),
        ({"n_axes": 4}, ValueError, "`n_axes` is 4"),
        ({"n_axes": 1, "init": (1, 2)}, ValueError, "`init` is for single problems"),
        ({"init": 3}, TypeError, "`init` must be a pair"),
        ({"maxiter": 1.5}, TypeError, "`maxiter`"),
    ],
)
def test_bad_arguments(change, error, match):
    given = {"a": np.full((4, 4), 1 / 16), "b": np.full((4, 4), 1 / 16), "reg": 1.0} | change
    with pytest.raises(error, match=match):
        ot.sinkhorn_grid(**given)


def test_potentials_beyond_the_doubles_are_no_success():
    with pytest.warns(ConvergenceWarning, match="NaN or Inf"):
        r = ot.sinkhorn_grid([0.2, 0.8], [0.5, 0.5], reg=1.5e308)
    assert r.status == Status.NONFINITE


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\na, b = np.random.default_rng(0).random((2, 256, 256))\n"
        "a, b = a / a.sum(), b / b.sum()",
        "ot.sinkhorn_grid(a, b, reg=1.0, tol=1e-13)",
    )
