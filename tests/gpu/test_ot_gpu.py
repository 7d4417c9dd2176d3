"""The transport solver on a GPU against the CPU: every native call, then every public one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aitken import _core, ot
from aitken.datasets import EDGE_CASES, edge_case, gaussian_clouds, random_assignment

pytestmark = pytest.mark.gpu

DTYPES = (np.float64, np.float32)


@pytest.fixture
def gpu(cupy: Any) -> Any:
    """The provider of the ``ot_*`` calls for CuPy arrays."""
    from aitken.ot import _cuda_calls

    return _cuda_calls


@pytest.fixture(params=DTYPES, ids=["f64", "f32"])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


def potentials(dtype: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A problem with forbidden pairs, its cost in padded rows, and potentials with an empty bin."""
    p = gaussian_clouds(300, 270, seed=2, reg=1e-2)
    room = np.full((300, 277), np.nan, dtype=dtype)
    room[:, :270] = p.M
    room[5:9, 17] = np.inf
    x, y = np.log(p.a) * p.reg + 0.1, np.log(p.b) * p.reg
    x[3] = -np.inf
    return p, room, x, y


def allclose(got: Any, expected: np.ndarray, rtol: float) -> None:
    """Relative to the largest finite entry; infinities must agree."""
    got = got.get()
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    scale = np.abs(expected[finite]).max()
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=rtol * scale)


# ---------------------------------------------------------------------------------- native calls


def test_passes_over_the_plan(cupy: Any, gpu: Any, dtype: Any, tolerance: Callable[..., Any]) -> None:
    p, room, x, y = potentials(dtype)
    rtol = 10 * tolerance(dtype, "cuda").kernel
    M, M_gpu = room[:, :270], cupy.asarray(room)[:, :270]
    x_gpu, y_gpu = cupy.asarray(x), cupy.asarray(y)

    for transposed, v in ((False, np.cos(np.arange(270.0))), (True, np.cos(np.arange(300.0)))):
        n = M.shape[1 if transposed else 0]
        expected, got = np.empty(n), cupy.empty(n)
        _core.ot_plan_times(M, p.reg, x, y, transposed, v, expected, 1)
        gpu.ot_plan_times(M_gpu, p.reg, x_gpu, y_gpu, transposed, cupy.asarray(v), got, 1)
        allclose(got, expected, rtol)

        expected, got = np.empty(n), cupy.empty(n)
        potential = x if transposed else y
        _core.ot_c_transform(M, p.reg, transposed, potential, expected, 1)
        gpu.ot_c_transform(M_gpu, p.reg, transposed, cupy.asarray(potential), got, 1)
        allclose(got, expected, rtol)

    rows, got_rows = np.empty((40, 270), dtype), cupy.empty((40, 270), dtype)
    _core.ot_plan_rows(M, p.reg, x, y, 7, rows, 1)
    gpu.ot_plan_rows(M_gpu, p.reg, x_gpu, y_gpu, 7, got_rows, 1)
    allclose(got_rows, rows, rtol)
    in_place = M_gpu.copy()
    gpu.ot_plan_rows(in_place, p.reg, x_gpu, y_gpu, 0, in_place, 1)  # the plan may replace its cost
    allclose(in_place[7:47], rows, rtol)

    assert gpu.ot_inspect(M_gpu, 1) == _core.ot_inspect(M, 1)


def test_compress(cupy: Any, gpu: Any, dtype: Any) -> None:
    p, room, x, y = potentials(dtype)
    args = (room[:, :270], p.reg, x, y, p.a, p.b)
    on_gpu = [x if isinstance(x, float) else cupy.asarray(x) for x in args]
    on_gpu[0] = cupy.asarray(room)[:, :270]
    expected = _core.ot_compress(*args, 1e-3, 1)
    got = [part.get() for part in gpu.ot_compress(*on_gpu, 1e-3, 1)]
    # A limit within the rounding of an exponential may fall either way.
    assert abs(len(got[1]) - len(expected[1])) <= 2
    if len(got[1]) == len(expected[1]):
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
        np.testing.assert_allclose(got[2], expected[2], rtol=1e-12 if dtype == np.float64 else 1e-6)


def solve(provider: Any, xp: Any, p: Any, dtype: Any, stored: bool, **options: Any) -> tuple[Any, ...]:
    M = xp.asarray(p.M.astype(dtype))
    x, y = xp.zeros(p.shape[0]), xp.zeros(p.shape[1])
    plan = xp.empty(p.shape, dtype=dtype) if stored else None
    report = provider.ot_solve(
        M, xp.asarray(p.a), xp.asarray(p.b), float(np.ptp(p.M)), x, y, plan, {"reg": p.reg} | options, None
    )
    return report, x, y, plan


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "recomputed"])
@pytest.mark.parametrize("method", ["auto", "newton", "sinkhorn"])
def test_solve(
    cupy: Any, gpu: Any, dtype: Any, method: str, stored: bool, tolerance: Callable[..., Any]
) -> None:
    reg = 5e-2 if method == "sinkhorn" else 1e-3 if dtype == np.float64 else 1e-2
    p = gaussian_clouds(300, 270, reg=reg)
    tol = 1e-9 if dtype == np.float64 else 1e-6
    there = solve(gpu, cupy, p, dtype, stored, method=method, tol=tol)
    here = solve(_core, np, p, dtype, stored, method=method, tol=tol)
    assert there[0]["status"] == here[0]["status"] == 0
    assert there[0]["err"] <= tol
    answer = tolerance(dtype, "cuda").answer
    assert there[0]["value_linear"] == pytest.approx(here[0]["value_linear"], rel=answer)
    again = solve(gpu, cupy, p, dtype, stored, method=method, tol=tol)
    cupy.testing.assert_array_equal(there[1], again[1])  # same problem, same bits
    cupy.testing.assert_array_equal(there[2], again[2])


def test_traffic_is_counted_and_small(cupy: Any, gpu: Any) -> None:
    p = random_assignment(500)
    report = solve(gpu, cupy, p, np.float64, True, linear_solver="jacobi", method="newton")[0]
    assert report["nit_cg"] > 100
    # Two reads for a look and a CG start, one per line search and per ten CG iterations; stages on top.
    steps = report["nit_newton"] + report["nit_sinkhorn"]
    assert report["reads"] <= 4 * steps + report["nit_cg"] / 10 + report["n_trials"] + 10
    assert report["launches"] <= 7 * report["nit_cg"] + 20 * steps + 6 * report["n_trials"] + 50


def test_adjoint(cupy: Any, gpu: Any, dtype: Any, tolerance: Callable[..., Any]) -> None:
    p = gaussian_clouds(90, 70, reg=1e-2)
    _, x, y, _ = solve(_core, np, p, np.float64, True, tol=1e-12)
    rng = np.random.default_rng(0)
    w = p.a * rng.standard_normal(90)
    z = p.b * rng.standard_normal(70)
    z += (w.sum() - z.sum()) * p.b
    options = {"reg": p.reg, "tol": 1e-9, "maxiter": 2000}
    out = []
    for provider, xp in ((_core, np), (gpu, cupy)):
        u, v = xp.zeros(90), xp.zeros(70)
        given = [xp.asarray(q) for q in (p.M.astype(dtype), p.a, p.b)]
        vectors = [xp.asarray(q) for q in (x, y, w, z)]
        report = provider.ot_adjoint(*given, 1.0, *vectors, u, v, None, options)
        assert report["status"] == 0
        out.append((u, v))
    (u, v), (u_gpu, v_gpu) = out
    answer = tolerance(dtype, "cuda").answer
    allclose(u_gpu - u_gpu.mean(), u - u.mean(), answer)
    allclose(v_gpu - v_gpu.mean(), v - v.mean(), answer)


def test_runs_on_the_current_stream(cupy: Any, gpu: Any) -> None:
    """Input still being written on a side stream is seen complete, with no synchronisation between."""
    p = gaussian_clouds(400, 300, reg=1e-2)
    expected = solve(gpu, cupy, p, np.float64, True)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        M = cupy.zeros(p.shape)
        busy = cupy.ones((3000, 3000))
        for _ in range(10):
            busy = busy @ busy / 3000.0
        M += cupy.asarray(p.M) + 0.0 * busy[0, 0]  # waits for the products
        x, y, plan = cupy.zeros(400), cupy.zeros(300), cupy.empty(p.shape)
        report = gpu.ot_solve(M, cupy.asarray(p.a), cupy.asarray(p.b), 1.0, x, y, plan, {"reg": p.reg}, None)
        total = float(plan.sum())
    assert report["status"] == 0
    assert total == pytest.approx(1.0, abs=1e-8)
    cupy.testing.assert_array_equal(x, expected[1])


def test_memory_comes_from_the_pool_and_returns(cupy: Any, gpu: Any) -> None:
    p = gaussian_clouds(400, 300, reg=1e-2)
    pool = cupy.get_default_memory_pool()
    solve(gpu, cupy, p, np.float64, True)
    before = pool.used_bytes()
    held = solve(gpu, cupy, p, np.float64, False)
    assert pool.used_bytes() - before <= sum(v.nbytes for v in held[1:3]) + 4096


def test_callback_stops_and_errors_come_through(cupy: Any, gpu: Any) -> None:
    p = gaussian_clouds(100, 90, reg=1e-3)
    args = [cupy.asarray(q) for q in (p.M, p.a, p.b)]
    x, y = cupy.zeros(100), cupy.zeros(90)
    report = gpu.ot_solve(*args, 1.0, x, y, None, {"reg": p.reg}, lambda step: True)
    assert report["status"] == 5

    def fail(step: dict[str, Any]) -> bool:
        raise ZeroDivisionError("from the callback")

    with pytest.raises(ZeroDivisionError, match="from the callback"):
        gpu.ot_solve(*args, 1.0, x, y, None, {"reg": p.reg}, fail)
    assert gpu.ot_solve(*args, 1.0, x, y, None, {"reg": p.reg}, None)["status"] == 0


# ---------------------------------------------------------------------------------- public calls


@pytest.mark.parametrize("form", ["dense", "sparse", "lazy", False])
def test_sinkhorn_like_the_cpu(
    cupy: Any, dtype: Any, form: str | bool, tolerance: Callable[..., Any]
) -> None:
    p = gaussian_clouds(200, 150, reg=1e-2)
    M = p.M.astype(dtype)
    here = ot.sinkhorn(p.a, p.b, M, p.reg, return_plan=form)
    there = ot.sinkhorn(cupy.asarray(p.a), cupy.asarray(p.b), cupy.asarray(M), p.reg, return_plan=form)
    assert there.success
    answer = tolerance(dtype, "cuda").answer
    assert there.value == pytest.approx(here.value, rel=answer)
    assert there.value_linear == pytest.approx(here.value_linear, rel=answer)
    for got, expected in zip(there.potentials, here.potentials, strict=True):
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_allclose(got.get(), expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-7)
    if form == "dense":
        assert there.plan.dtype == dtype
        np.testing.assert_allclose(there.plan.get(), here.plan, rtol=0, atol=answer)
    elif form == "sparse":
        np.testing.assert_allclose(there.plan.get().toarray(), here.plan.toarray(), rtol=0, atol=answer)
    elif form == "lazy":
        ones = cupy.ones(150)
        np.testing.assert_allclose((there.plan @ ones).get(), here.plan @ np.ones(150), rtol=0, atol=answer)


@pytest.mark.parametrize("kind", EDGE_CASES)
def test_sinkhorn_edge_cases(cupy: Any, kind: str, tolerance: Callable[..., Any]) -> None:
    p = edge_case(kind, reg=1e-2)
    here = ot.sinkhorn(p.a, p.b, p.M, p.reg)
    there = ot.sinkhorn(cupy.asarray(p.a), cupy.asarray(p.b), cupy.asarray(p.M), p.reg)
    assert there.success == here.success
    assert there.err <= 1e-6
    atol = tolerance(np.float32 if here.plan.dtype == np.float32 else np.float64, "cuda").answer
    np.testing.assert_allclose(there.plan.get(), here.plan, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {"linear_solver": "jacobi"},
        {"linear_solver": "hybrid"},
        {"linear_solver": "direct"},
        {"linear_solver": "direct", "sparsify": "ssns"},
        {"linear_solver": "hybrid", "sparsify": "topk"},
        {"store_plan": False},
        {"round": True},
    ],
    ids=str,
)
def test_sinkhorn_options(cupy: Any, options: dict[str, Any]) -> None:
    p = random_assignment(200)
    args = [cupy.asarray(q) for q in (p.a, p.b, p.M)]
    there = ot.sinkhorn(*args, p.reg, method="newton", **options)
    here = ot.sinkhorn(p.a, p.b, p.M, p.reg, method="newton", **options)
    assert there.success
    assert there.value_linear == pytest.approx(here.value_linear, rel=1e-7)


def test_vjp_like_the_cpu(cupy: Any) -> None:
    p = gaussian_clouds(60, 50, reg=1e-2)
    G = np.random.default_rng(1).standard_normal((60, 50))
    here = ot.sinkhorn(p.a, p.b, p.M, p.reg, tol=1e-12).vjp(1.0, G)
    args = [cupy.asarray(q) for q in (p.a, p.b, p.M)]
    there = ot.sinkhorn(*args, p.reg, tol=1e-12).vjp(1.0, cupy.asarray(G))
    for name in ("M", "a", "b"):
        allclose(there[name], np.asarray(here[name]), 1e-6)


def test_dist_like_the_cpu(cupy: Any, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((30, 3)).astype(dtype), rng.standard_normal((20, 3)).astype(dtype)
    for metric in ("sqeuclidean", "euclidean", "cityblock", "cosine"):
        got = ot.dist(cupy.asarray(X), cupy.asarray(Y), metric)
        np.testing.assert_allclose(got.get(), ot.dist(X, Y, metric), rtol=1e-5, atol=1e-6)


def test_mixed_devices_are_refused(cupy: Any) -> None:
    p = gaussian_clouds(20, 20, reg=0.1)
    with pytest.raises(TypeError, match=r"`a` is on CUDA device \d+ \(cupy\) but `b` is on the CPU"):
        ot.sinkhorn(cupy.asarray(p.a), p.b, cupy.asarray(p.M), p.reg)


# ---------------------------------------------------------------------------------- batches and points


def ragged(dtype: Any) -> tuple[list[np.ndarray], list[Any], list[Any], np.ndarray]:
    """Problems of every size class and beyond, one of them bad."""
    rng = np.random.default_rng(8)
    sizes = [(1, 3), (12, 9), (32, 32), (40, 64), (64, 50), (90, 100), (110, 111), (140, 120)]
    costs = [rng.random(s).astype(dtype) for s in sizes]
    a = [None if k % 2 else rng.dirichlet(np.ones(n)) for k, (n, _) in enumerate(sizes)]
    b = [rng.dirichlet(np.ones(m)) for _, m in sizes]
    costs[3][2, 5] = np.nan
    return costs, a, b, np.full(len(sizes), 0.02)


@pytest.mark.parametrize("warm", [False, True])
def test_batches_like_the_cpu(
    cupy: Any, dtype: Any, warm: bool, tolerance: Callable[..., Any], recwarn: Any
) -> None:
    costs, a, b, reg = ragged(dtype)
    here = ot.sinkhorn_batch(a, b, costs, reg)
    on_gpu = [[None if x is None else cupy.asarray(x) for x in items] for items in (a, b, costs)]
    there = ot.sinkhorn_batch(*on_gpu, reg)
    if warm:
        there = ot.sinkhorn_batch(*on_gpu, reg, init=there)
    np.testing.assert_array_equal(there.status, here.status)
    assert there.status[3] == 9
    assert there.messages[3] == here.messages[3]
    answer = tolerance(dtype, "cuda").answer
    good = here.status == 0
    assert good.sum() == len(costs) - 1
    np.testing.assert_allclose(cupy.asnumpy(there.value)[good], here.value[good], rtol=answer)
    for k in np.flatnonzero(good):
        np.testing.assert_allclose(cupy.asnumpy(there.plan[k]), here.plan[k], rtol=0, atol=answer)


def test_batches_of_one_size_give_the_same_bits_twice(cupy: Any) -> None:
    M = cupy.asarray(np.random.default_rng(9).random((64, 64, 64)))
    one, two = (ot.sinkhorn_batch(None, None, M, 0.01) for _ in range(2))
    assert one.success.all()
    cupy.testing.assert_array_equal(one.plan, two.plan)
    cupy.testing.assert_array_equal(one.potentials[0], two.potentials[0])


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
@pytest.mark.parametrize("d", [2, 7])
def test_points_like_the_cpu(cupy: Any, gpu: Any, metric: str, d: int) -> None:
    rng = np.random.default_rng(10)
    X, Y = rng.random((300, d)), rng.random((260, d)) + 0.3
    a, b = np.full(300, 1 / 300), np.full(260, 1 / 260)
    options = {"reg": 0.05 * d, "tol": 1e-9}
    x, y = np.zeros(300), np.zeros(260)
    expected = _core.ot_points_solve(X, Y, metric, a, b, float(d), x, y, None, options, None)
    clouds = (cupy.asarray(X), cupy.asarray(Y), metric)
    x_gpu, y_gpu = cupy.zeros(300), cupy.zeros(260)
    report = gpu.ot_points_solve(
        *clouds, cupy.asarray(a), cupy.asarray(b), float(d), x_gpu, y_gpu, None, options, None
    )
    assert report["status"] == expected["status"] == 0
    assert report["err"] <= 1e-9
    assert report["value_linear"] == pytest.approx(expected["value_linear"], rel=1e-8)
    reg = options["reg"]
    pull, pull_gpu = np.empty((300, d)), cupy.empty((300, d))
    _core.ot_points_pull(X, Y, metric, reg, x, y, pull, 1)
    gpu.ot_points_pull(*clouds, reg, cupy.asarray(x), cupy.asarray(y), pull_gpu, 1)
    allclose(pull_gpu, pull, 1e-11)
    v = rng.random((3, 260))
    out, out_gpu = np.empty((3, 300)), cupy.empty((3, 300))
    _core.ot_points_times(X, Y, metric, reg, x, y, v, out, 1)
    gpu.ot_points_times(*clouds, reg, cupy.asarray(x), cupy.asarray(y), cupy.asarray(v), out_gpu, 1)
    allclose(out_gpu, out, 1e-11)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine"])
def test_sinkhorn_points_like_the_cpu(cupy: Any, metric: str) -> None:
    rng = np.random.default_rng(11)
    X, Y = rng.random((300, 3)), rng.random((260, 3)) + 0.3
    here = ot.sinkhorn_points(X, Y, reg=0.05, metric=metric)
    there = ot.sinkhorn_points(cupy.asarray(X), cupy.asarray(Y), reg=0.05, metric=metric)
    assert there.success
    assert there.value == pytest.approx(here.value, rel=1e-8)
    assert there.value_linear == pytest.approx(here.value_linear, rel=1e-8)
    V = rng.random((260, 3))
    allclose(there.plan @ cupy.asarray(V), here.plan @ V, 1e-8)
    for name, got in there.vjp(1.0).items():
        allclose(got, here.vjp(1.0)[name], 1e-6)
    again = ot.sinkhorn_points(cupy.asarray(X), cupy.asarray(Y), reg=0.05, metric=metric, init=there)
    assert again.nit <= 3


def test_divergence_like_the_cpu(cupy: Any) -> None:
    rng = np.random.default_rng(12)
    X, Y = rng.random((200, 3)), rng.random((180, 3)) + 0.3
    here = ot.sinkhorn_divergence(X, Y, reg=0.05)
    there = ot.sinkhorn_divergence(cupy.asarray(X), cupy.asarray(Y), reg=0.05)
    assert there.value == pytest.approx(here.value, abs=1e-9)
    for name, got in there.vjp().items():
        allclose(got, here.vjp()[name], 1e-6)
    assert abs(ot.sinkhorn_divergence(cupy.asarray(X), cupy.asarray(X[::-1].copy()), reg=0.05).value) <= 1e-9
