"""The glue between CuPy arrays and the compiled module, on a machine without a GPU.

CuPy is played by NumPy arrays with addresses, and the compiled module by one that reads those addresses
and calls the CPU's functions: each call must reach them with every argument in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from aitken import _core, _loader, ot
from aitken.datasets import gaussian_clouds
from aitken.ot import _arrays, _points, _sinkhorn
from aitken.ot import _cuda_calls as gpu
from tests.gpu.test_deepcg_gpu import FakeCupy
from tests.gpu.test_krylov_gpu import STREAM, FakeArray, fake


def read(array: tuple[int, ...] | None) -> np.ndarray | None:
    """The array at an address, as the compiled module would see it."""
    if array is None:
        return None
    if len(array) == 2:
        address, size = array
        buffer = (ctypes.c_double * size).from_address(address)
        return np.frombuffer(buffer, dtype=np.float64)
    address, rows, cols, ld, size = array
    buffer = (ctypes.c_char * (((rows - 1) * ld + cols) * size)).from_address(address)
    flat = np.frombuffer(buffer, dtype=f"f{size}")
    return np.lib.stride_tricks.as_strided(flat, (rows, cols), (ld * size, size))


class FakeModule:
    """``aitken._cuda`` in terms of ``aitken._core``."""

    def __getattr__(self, name: str) -> Any:
        without = ("ot_solve", "ot_adjoint", "ot_solve_batch", "ot_points_solve", "ot_points_adjoint")
        needs_threads = name not in without

        def call(where: tuple[int, int, Any], *args: Any) -> Any:
            device, stream, allocate = where
            assert (device, stream) == (3, STREAM)
            assert allocate(100) == 4096
            given = [read(a) if isinstance(a, tuple) else a for a in args]
            if name == "ot_solve_batch":
                given = [[read(x) for x in a] if isinstance(a, list) else a for a in given]
            return getattr(_core, name)(*given, *([1] if needs_threads else []))

        return call


@pytest.fixture(autouse=True)
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    asked: list[int] = []

    def alloc(size: int) -> Any:
        asked.append(size)
        return SimpleNamespace(ptr=4096)

    cuda = SimpleNamespace(
        alloc=alloc,
        Device=lambda number: contextlib.nullcontext(),
        get_current_stream=lambda: SimpleNamespace(ptr=STREAM),
    )
    module = SimpleNamespace(ndarray=FakeArray, asarray=fake, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_loader, "cuda_module", FakeModule)
    yield asked
    assert asked  # every test here makes a call


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_call_arrives(dtype: Any) -> None:
    p = gaussian_clouds(40, 30, reg=1e-2)
    room = np.zeros((40, 37), dtype)  # rows further apart than they are long
    room[:, :30] = p.M
    M = room[:, :30]
    M_gpu, a, b = fake(room)[:, :30], fake(p.a), fake(p.b)
    options = {"reg": p.reg, "tol": 1e-9 if dtype == np.float64 else 1e-6}

    x, y, plan = np.zeros(40), np.zeros(30), np.empty((40, 30), dtype)
    report = _core.ot_solve(M, p.a, p.b, 1.0, x, y, plan, options, None)
    x_gpu, y_gpu, plan_gpu = fake(np.zeros(40)), fake(np.zeros(30)), fake(np.empty((40, 30), dtype))
    steps: list[Any] = []
    got = gpu.ot_solve(M_gpu, a, b, 1.0, x_gpu, y_gpu, plan_gpu, options, lambda s: bool(steps.append(s)))
    assert (got["status"], got["nit_newton"], got["err"]) == (
        report["status"],
        report["nit_newton"],
        report["err"],
    )
    assert steps
    for one, other in ((x_gpu, x), (y_gpu, y), (plan_gpu, plan)):
        np.testing.assert_array_equal(one, other)

    rng = np.random.default_rng(0)
    w, z = p.a * rng.standard_normal(40), p.b * rng.standard_normal(30)
    z += (w.sum() - z.sum()) * p.b
    pair, pair_gpu = (np.zeros(40), np.zeros(30)), (fake(np.zeros(40)), fake(np.zeros(30)))
    _core.ot_adjoint(M, p.a, p.b, 1.0, x, y, w, z, *pair, None, options)
    gpu.ot_adjoint(M_gpu, a, b, 1.0, x_gpu, y_gpu, fake(w), fake(z), *pair_gpu, None, options)
    np.testing.assert_array_equal(pair_gpu[0], pair[0])
    np.testing.assert_array_equal(pair_gpu[1], pair[1])
    assert np.abs(pair[0]).max() > 0

    for transposed in (False, True):
        v, n = rng.standard_normal(M.shape[0 if transposed else 1]), M.shape[1 if transposed else 0]
        out, out_gpu = np.empty(n), fake(np.empty(n))
        _core.ot_plan_times(M, p.reg, x, y, transposed, v, out, 1)
        gpu.ot_plan_times(M_gpu, p.reg, x_gpu, y_gpu, transposed, fake(v), out_gpu, 1)
        np.testing.assert_array_equal(out_gpu, out)
        _core.ot_c_transform(M, p.reg, transposed, x if transposed else y, out, 1)
        gpu.ot_c_transform(M_gpu, p.reg, transposed, x_gpu if transposed else y_gpu, out_gpu, 1)
        np.testing.assert_array_equal(out_gpu, out)

    rows, rows_gpu = np.empty((5, 30), dtype), fake(np.empty((5, 30), dtype))
    _core.ot_plan_rows(M, p.reg, x, y, 11, rows, 1)
    gpu.ot_plan_rows(M_gpu, p.reg, x_gpu, y_gpu, 11, rows_gpu, 1)
    np.testing.assert_array_equal(rows_gpu, rows)

    for one, other in zip(
        gpu.ot_compress(M_gpu, p.reg, x_gpu, y_gpu, a, b, 1e-3, 1),
        _core.ot_compress(M, p.reg, x, y, p.a, p.b, 1e-3, 1),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert isinstance(one, FakeArray)
    assert gpu.ot_inspect(M_gpu, 1) == _core.ot_inspect(M, 1)


def test_one_row_and_one_column() -> None:
    one_row = fake(np.arange(4.0)[None, :])
    assert gpu.ot_inspect(one_row, 1)["largest"] == 3.0
    assert gpu.ot_inspect(fake(np.arange(8.0).reshape(4, 2))[:, :1], 1)["largest"] == 6.0


def test_wrong_arrays_are_named() -> None:
    M, v = fake(np.ones((4, 3))), fake(np.ones(3))
    gpu.ot_inspect(M, 1)
    out = fake(np.ones(4))
    for bad, error, match in (
        (np.ones(3), TypeError, r"`potential` must be a cupy\.ndarray"),
        (fake(np.ones((3, 1))), TypeError, "`potential` must be .* of 1 dim"),
        (fake(np.ones(3, np.float32)), TypeError, "`potential` .* float32"),
        (fake(np.ones(6))[::2], TypeError, "`potential` must be a contiguous"),
    ):
        with pytest.raises(error, match=match):
            gpu.ot_c_transform(M, 0.1, False, bad, out, 1)
    elsewhere = fake(np.ones(3))
    elsewhere.number = 1
    with pytest.raises(TypeError, match="`potential` is on CUDA device 1 but `M` is on device 3"):
        gpu.ot_c_transform(M, 0.1, False, elsewhere, out, 1)
    with pytest.raises(ValueError, match="`M` must be a matrix with contiguous rows"):
        gpu.ot_inspect(fake(np.ones((4, 6)))[:, ::2], 1)
    with pytest.raises(TypeError, match="`M` is int64"):
        gpu.ot_inspect(fake(np.ones((4, 3), np.int64)), 1)
    with pytest.raises(TypeError, match="`out` is float32"):
        gpu.ot_plan_rows(M, 0.1, out, v, 0, fake(np.ones((1, 3), np.float32)), 1)


def test_signatures_follow_the_cpu_module() -> None:
    gpu.ot_inspect(fake(np.ones((2, 2))), 1)
    cuda = pytest.importorskip("aitken._cuda", reason="this installation has no CUDA module")
    for name in gpu.__all__:
        here, there = (
            re.findall(r"(\w+): ", re.search(r"\((.*?)\) ->", getattr(module, name).__doc__)[1])
            for module in (_core, cuda)
        )
        assert there == ["where", *[argument for argument in here if argument != "n_threads"]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("with_plan", [True, False])
def test_batches_arrive(dtype: Any, with_plan: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = [(9, 12), (20, 20), (1, 4)]
    room = [rng.random((n, m + 5)).astype(dtype) for n, m in sizes]  # rows further apart than they are long
    costs = [c[:, :m] for c, (_, m) in zip(room, sizes, strict=True)]
    a = [None, rng.random(20), np.ones(1)]
    b = [rng.random(12), None, np.full(4, 0.25)]
    a[1] /= a[1].sum()
    b[0] /= b[0].sum()
    reg = np.array([0.05, 0.1, 0.2])
    options = {"tol": 1e-6}

    def outputs() -> tuple[list[Any], list[Any], list[Any] | None]:
        plans = [np.empty(s, dtype) for s in sizes] if with_plan else None
        return [np.zeros(n) for n, _ in sizes], [np.zeros(m) for _, m in sizes], plans

    f, g, plans = outputs()
    expected = _core.ot_solve_batch(costs, a, b, reg, f, g, plans, options, 1e-9)
    on_gpu = [[None if x is None else fake(x) for x in items] for items in (a, b, *outputs()[:2])]
    gpu_plans = None if plans is None else [fake(np.empty(s, dtype)) for s in sizes]
    gpu_costs = [fake(c)[:, :m] for c, (_, m) in zip(room, sizes, strict=True)]
    got = gpu.ot_solve_batch(
        gpu_costs, on_gpu[0], on_gpu[1], reg, on_gpu[2], on_gpu[3], gpu_plans, options, 1e-9
    )
    assert (expected["status"] == 0).all()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
    for here, there in zip(f + g + (plans or []), on_gpu[2] + on_gpu[3] + (gpu_plans or []), strict=True):
        np.testing.assert_array_equal(there, here)
    with pytest.raises(TypeError, match=re.escape("`b[0]`")):
        gpu.ot_solve_batch(
            gpu_costs,
            on_gpu[0],
            [b[0], None, None],
            reg,
            on_gpu[2],
            on_gpu[3],
            None,
            options,
            1e-9,
        )


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_calls_for_points_arrive(metric: str) -> None:
    rng = np.random.default_rng(5)
    X, Y = rng.random((30, 3)), rng.random((25, 3)) + 0.3
    a, b = np.full(30, 1 / 30), np.full(25, 1 / 25)
    options = {"reg": 0.1, "tol": 1e-9}
    pair, pair_gpu = (np.zeros(30), np.zeros(25)), (fake(np.zeros(30)), fake(np.zeros(25)))
    here, there = (X, Y, metric), (fake(X), fake(Y), metric)
    expected = _core.ot_points_solve(*here, a, b, 3.0, *pair, None, options, None)
    got = gpu.ot_points_solve(*there, fake(a), fake(b), 3.0, *pair_gpu, None, options, None)
    assert got["err"] == expected["err"] <= 1e-9
    np.testing.assert_array_equal(pair_gpu[0], pair[0])
    np.testing.assert_array_equal(pair_gpu[1], pair[1])

    w, z = a * rng.standard_normal(30), b * rng.standard_normal(25)
    z += (w.sum() - z.sum()) * b
    out, out_gpu = (np.zeros(30), np.zeros(25)), (fake(np.zeros(30)), fake(np.zeros(25)))
    _core.ot_points_adjoint(*here, a, b, 3.0, *pair, w, z, *out, None, options)
    gpu.ot_points_adjoint(*there, fake(a), fake(b), 3.0, *pair_gpu, fake(w), fake(z), *out_gpu, None, options)
    np.testing.assert_array_equal(out_gpu[0], out[0])
    np.testing.assert_array_equal(out_gpu[1], out[1])

    def both(name: str, shape: Any, *middle: Any, dtype: Any = np.float64) -> None:
        here_out, there_out = np.empty(shape, dtype), fake(np.empty(shape, dtype))
        getattr(_core, name)(*here, 0.1, *middle, here_out, 1)
        faked = [fake(v) if isinstance(v, np.ndarray) else v for v in middle]
        getattr(gpu, name)(*there, 0.1, *faked, there_out, 1)
        np.testing.assert_array_equal(there_out, here_out)
        assert np.isfinite(here_out).all()
        assert np.abs(here_out).max() > 0

    both("ot_points_times", (2, 30), *pair, rng.random((2, 25)))
    both("ot_points_rows", (7, 25), *pair, 11)
    both("ot_points_rows", (7, 25), *pair, 11, dtype=np.float32)
    both("ot_points_transform", 30, pair[1])
    both("ot_points_pull", (30, 3), *pair)
    sparse = _core.ot_points_compress(*here, 0.1, *pair, a, b, 1e-3, 1)
    sparse_gpu = gpu.ot_points_compress(*there, 0.1, *(fake(v) for v in pair), fake(a), fake(b), 1e-3, 1)
    for one, other in zip(sparse_gpu, sparse, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(TypeError, match="float64 is needed"):
        gpu.ot_points_times(
            fake(X.astype(np.float32)),
            fake(Y.astype(np.float32)),
            metric,
            0.1,
            *pair_gpu,
            fake(np.ones((1, 25), np.float32)),
            fake(np.ones((1, 30), np.float32)),
            1,
        )


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Public functions take `fake` arrays as CuPy's; gives the module that plays CuPy."""
    cupy = FakeCupy("cupy")
    cupy.__dict__.update(vars(sys.modules["cupy"]))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    here = _arrays.of
    monkeypatch.setattr(_arrays, "of", lambda x: (gpu, cupy) if isinstance(x, FakeArray) else here(x))
    monkeypatch.setattr(_sinkhorn, "_csr_container", lambda xp: sparse.csr_array)
    backend = SimpleNamespace(is_cuda=True, xp=cupy, take=lambda name, x: x, give=lambda x: x)
    select = _points._dispatch.select

    def chosen(**given: Any) -> Any:
        return backend if any(isinstance(x, FakeArray) for x in given.values()) else select(**given)

    monkeypatch.setattr(_points._dispatch, "select", chosen)
    return cupy


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine"])
@pytest.mark.parametrize("distance", [0.3, 1e4], ids=["near", "far"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-300], ids=["plain", "tiny"])
def test_clouds_arrive(on_gpu: Any, metric: str, distance: float, scale: float) -> None:
    rng = np.random.default_rng(6)
    X, Y = scale * rng.random((30, 3)), scale * (rng.random((25, 3)) + distance)
    a, b = rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(25))
    unit = 1.0 if metric == "cosine" else scale**2 if metric == "sqeuclidean" else scale
    options: dict[str, Any] = {"reg": 0.05 * unit, "metric": metric, "tol": 1e-7, "n_threads": 1}
    here = ot.sinkhorn_points(X, Y, a, b, **options)
    there = ot.sinkhorn_points(fake(X), fake(Y), fake(a), fake(b), **options)
    assert (there.status, there.nit, there.err) == (here.status, here.nit, here.err)
    assert (there.value, there.value_linear) == (here.value, here.value_linear)
    for got, expected in zip(there.potentials, here.potentials, strict=True):
        assert isinstance(got, FakeArray)
        np.testing.assert_array_equal(got, expected)
    for one, other in ((there.plan, here.plan), (there.plan.T, here.plan.T)):
        ones = np.ones((one.shape[1], 2))
        assert isinstance(one @ fake(ones), FakeArray)
        np.testing.assert_array_equal(one @ fake(ones), other @ ones)
        np.testing.assert_array_equal(one[3:9], other[3:9])
    G = rng.standard_normal((30, 25))
    for given in ((1.0, None, None), (None, G, None), (None, None, (a, b))):
        wrapped = tuple(fake(x) if isinstance(x, np.ndarray) else x for x in given)
        if given[2]:
            wrapped = (None, None, (fake(a), fake(b)))
        expected = here.vjp(*given)
        for name, got in there.vjp(*wrapped).items():
            assert isinstance(got, FakeArray)
            np.testing.assert_array_equal(got, expected[name], err_msg=name)
    warm = ot.sinkhorn_points(fake(X), fake(Y), fake(a), fake(b), init=there, **options)
    assert warm.nit == ot.sinkhorn_points(X, Y, a, b, init=here, **options).nit <= max(3, here.nit)


@pytest.mark.parametrize("form", ["dense", "sparse", False])
def test_plans_of_clouds_arrive(on_gpu: Any, form: Any) -> None:
    rng = np.random.default_rng(7)
    X, Y = rng.random((20, 2)).astype(np.float32), rng.random((15, 2)).astype(np.float32)
    here = ot.sinkhorn_points(X, Y, reg=0.1, return_plan=form, unbalanced=1.0)
    there = ot.sinkhorn_points(fake(X), fake(Y), reg=0.1, return_plan=form, unbalanced=1.0)
    assert there.value == here.value
    if form == "sparse":
        np.testing.assert_array_equal(there.plan.toarray(), here.plan.toarray())
    elif form == "dense":
        assert there.plan.dtype == np.float32
        np.testing.assert_array_equal(there.plan, here.plan)


def test_divergences_arrive(on_gpu: Any) -> None:
    rng = np.random.default_rng(8)
    X, Y, a = rng.random((20, 2)), rng.random((15, 2)), rng.dirichlet(np.ones(20))
    here = ot.sinkhorn_divergence(X, Y, a, reg=0.05)
    there = ot.sinkhorn_divergence(fake(X), fake(Y), fake(a), reg=0.05)
    assert there.success
    assert there.value == here.value > 0
    for name, got in there.vjp().items():
        assert isinstance(got, FakeArray)
        np.testing.assert_array_equal(got, here.vjp()[name])
    equal = ot.sinkhorn_divergence(fake(X), fake(X.copy()), reg=0.05)
    assert equal.value == 0


def test_wrong_clouds_are_named(on_gpu: Any) -> None:
    X = fake(np.ones((3, 2)))
    ot.sinkhorn_points(X, X, reg=0.1)
    with pytest.raises(ValueError, match="`Y` has shape"):
        ot.sinkhorn_points(X, fake(np.ones((3, 4))), reg=0.1)
    with pytest.raises(ValueError, match=r"`X`.*(nan|NaN)"):
        ot.sinkhorn_points(fake(np.full((3, 2), np.nan)), X, reg=0.1)
    with pytest.raises(ValueError, match="`Y` has a zero vector at index 1"):
        ot.sinkhorn_points(X, fake(np.array([[1.0, 0.0], [0.0, 0.0]])), reg=0.1, metric="cosine")
