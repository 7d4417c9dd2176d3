"""Batches of constrained problems on a GPU against the CPU, and on any machine the glue to the module."""

from __future__ import annotations

import contextlib
import sys
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aitken import _core, _loader
from aitken.optimize import _cuda_calls as gpu
from aitken.optimize import sketched_newton_batch
from aitken.optimize._batch import _Functions, _iterate
from tests.gpu.test_krylov_gpu import STREAM, FakeArray, fake, read

SIZES = [(1, 0), (4, 2), (20, 13), (40, 24), (70, 27), (100, 28)]


def systems(count: int, n: int, m: int, seed: int = 0) -> list[np.ndarray]:
    """h, d, j, sigma, rx, rc, rs, shift, regular of KKT systems with indefinite Hessians."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((count, n, n))
    h = h + h.transpose(0, 2, 1)
    d, j = np.abs(rng.standard_normal((count, n))), rng.standard_normal((count, m, n))
    sigma = np.where(rng.random((count, m)) < 0.4, -1.0, np.abs(rng.standard_normal((count, m))))
    right = [rng.standard_normal((count, k)) for k in (n, m, m)]
    return [h, d, j, sigma, *right, rng.random(count), np.full(count, 1e-10)]


def nearest(xp: Any, count: int) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """The points of the unit sphere with x_0 + x_1 <= 1 and x_2 >= 0 that are nearest to given ones."""
    rng = np.random.default_rng(3)
    P, X0 = rng.standard_normal((count, 3)), 0.3 + 0.5 * rng.standard_normal((count, 3))

    def cons(X: Any, P: Any) -> Any:
        return xp.stack([(X**2).sum(axis=1), X[:, 0] + X[:, 1]], axis=1)

    def cons_jac(X: Any, P: Any) -> Any:
        j = xp.zeros((len(X), 2, 3))
        j[:, 0], j[:, 1, :2] = 2 * X, 1.0
        return j

    options = {
        "jac": lambda X, P: 2 * (X - P),
        "hess": lambda X, V, P: 2 * (1 + V[:, :1, None]) * xp.eye(3),
        "cons": cons,
        "cons_jac": cons_jac,
        "lower": [1.0, -np.inf],
        "upper": [1.0, 1.0],
        "bounds": [(None, None), (None, None), (0, None)],
        "params": P,
    }
    return (lambda X, P: ((X - P) ** 2).sum(axis=1)), X0, options


# ------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_kkt_systems_like_the_cpu(cupy: Any, n: int, m: int) -> None:
    parts = systems(100, n, m)
    here = _core.solve_kkt_batch(*parts, 0.1, 0)
    there = [x.get() for x in gpu.solve_kkt_batch(*(cupy.asarray(p) for p in parts), 0.1)]
    for k in (2, 3, 4):
        np.testing.assert_array_equal(there[k], here[k])
    for k in (0, 1):
        np.testing.assert_allclose(there[k], here[k], atol=1e-7 * (1 + np.abs(here[k]).max(initial=0.0)))


@pytest.mark.gpu
def test_batches_like_the_cpu(cupy: Any) -> None:
    fun, X0, options = nearest(np, 2000)
    here = sketched_newton_batch(fun, X0, **options)
    fun, _, options = nearest(cupy, 2000)
    options["params"] = cupy.asarray(options["params"])
    runs = [sketched_newton_batch(fun, cupy.asarray(X0), **options) for _ in range(2)]
    for r in runs:
        assert isinstance(r.x, cupy.ndarray)
        np.testing.assert_array_equal(r.status.get(), here.status)
        assert float(r.kkt.max()) <= 1e-6
        np.testing.assert_allclose(r.x.get(), here.x, atol=1e-6)
        assert np.abs(r.nit.get() - here.nit).max() <= 2
    np.testing.assert_array_equal(runs[0].x.get(), runs[1].x.get())  # the same bits


@pytest.mark.gpu
def test_what_is_not_finite_stays_alone(cupy: Any) -> None:
    fun, X0, options = nearest(cupy, 50)
    options["params"][7] = np.nan
    options["params"] = cupy.asarray(options["params"])
    with pytest.warns(UserWarning, match="49 of 50 problems converged; 1 nonfinite"):
        r = sketched_newton_batch(fun, cupy.asarray(X0), **options)
    assert int(r.status[7]) == 4


@pytest.mark.gpu
def test_arrays_on_two_devices_are_refused(cupy: Any) -> None:
    fun, X0, options = nearest(cupy, 5)  # params stay on the CPU
    with pytest.raises(TypeError, match=r"`X0` is on CUDA device 0.*but `params\[0\]` is on the CPU"):
        sketched_newton_batch(fun, cupy.asarray(X0), **options)


# ------------------------------------------------------------------------------- the glue, on any machine


def _engine(batch: Any, options: Any) -> Any:
    numbers, tags, count, n, m, xl, xu, low, high, sides, limits = batch
    layout = _core.batch_layout(n, m)
    return _core.BatchNewton(
        read((numbers, count, layout["numbers"])),
        read((tags, count, layout["tags"]), "i4"),
        n,
        m,
        read((xl, sides, n)),
        read((xu, sides, n)),
        read((low, limits, m)) if m else np.zeros((limits, 0)),
        read((high, limits, m)) if m else np.zeros((limits, 0)),
        options,
    )


OPTIONS: dict[str, Any] = {
    "tol": 1e-6, "constr_tol": 1e-6, "maxiter": 100, "eta1": 1.0, "eta2": 0.1, "nu": 1.5, "beta": 0.1,
    "xi": 0.1, "mu": 0.1, "globalization": "auto", "given_multipliers": False, "n_threads": 1,
}  # fmt: skip


class FakeModule:
    """``aitken._cuda`` in terms of ``aitken._core``."""

    @staticmethod
    def _values(batch: Any, values: Any) -> tuple[Any, ...]:
        problem, a, f, g, c, j = values
        n, m = batch[3:5]
        arrays = [(f, a), (g, a, n), (c, a, m), (j, a, m, n)]
        return (read((problem, a), "i4"), *(read(x) for x in arrays))

    @staticmethod
    def batch_begin(where: Any, batch: Any, starts: int, lam: int, options: Any) -> None:
        assert where[:2] == (3, STREAM)
        count, n, m = batch[2:5]
        _engine(batch, options).begin(read((starts, count, n)), read((lam, count, m)) if lam else None)

    @staticmethod
    def batch_points(where: Any, batch: Any, problem: int, count: int, out: int) -> None:
        assert where[2](100) == 4096
        read((out, count, batch[3]))[:] = _engine(batch, OPTIONS).points(read((problem, count), "i4"))

    @staticmethod
    def batch_hessian_points(where: Any, batch: Any, problem: int, count: int, x: int, v: int) -> None:
        points, lam = _engine(batch, OPTIONS).hessian_points(read((problem, count), "i4"))
        read((x, count, batch[3]))[:] = points
        read((v, count, batch[4]))[:] = lam

    @staticmethod
    def batch_judge(where: Any, batch: Any, values: Any, options: Any, wanted: int) -> None:
        read((wanted, values[1]), "u1")[:] = _engine(batch, options).judge(*FakeModule._values(batch, values))

    @staticmethod
    def batch_direct(
        where: Any, batch: Any, values: Any, rows: int, count: int, hessian: int, options: Any, wanted: int
    ) -> None:
        n = batch[3]
        h = read((hessian, count, n, n)) if hessian else None
        given = FakeModule._values(batch, values)
        listed, out = read((rows, count), "i4"), read((wanted, values[1]), "u1")
        _engine(batch, options).direct(*given, listed, h, out)

    @staticmethod
    def batch_conclude(where: Any, batch: Any, values: Any, options: Any, status: int) -> None:
        _engine(batch, options).conclude(*FakeModule._values(batch, values), status)

    @staticmethod
    def solve_kkt_batch(where: Any, sizes: Any, arrays: Any, xi: float) -> None:
        b, n, m = sizes
        shapes = [(b, n, n), (b, n), (b, m, n), (b, m), (b, n), (b, m), (b, m), (b, n), (b, m), (b,), (b,)]
        views = [read((at, *shape)) for at, shape in zip(arrays, shapes, strict=False)]
        found = _core.solve_kkt_batch(*views[:7], views[9].copy(), views[10].copy(), xi, 1)
        for view, value in zip((*views[7:], read((arrays[11], b), "i4")), found, strict=True):
            view[:] = value


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("cupy")
    module.ndarray = FakeArray
    module.array = lambda x: fake(np.array(x))
    module.empty = lambda shape, dtype=np.float64: fake(np.full(shape, 255).astype(dtype))
    module.cuda = SimpleNamespace(
        alloc=lambda size: SimpleNamespace(ptr=4096),
        Device=lambda number: contextlib.nullcontext(),
        get_current_stream=lambda: SimpleNamespace(ptr=STREAM),
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_loader, "cuda_module", lambda: FakeModule)
    return module


def engine_of(count: int) -> tuple[Any, Any, Any, dict[str, int]]:
    layout = _core.batch_layout(3, 2)
    numbers = fake(np.zeros((count, layout["numbers"])))
    tags = fake(np.zeros((count, layout["tags"]), dtype=np.int32))
    limits = [[-np.inf, -np.inf, 0.0], [np.inf] * 3, [1.0, -np.inf], [1.0, 1.0]]
    rows = [fake(np.array([limit])) for limit in limits]
    return gpu.BatchNewton(numbers, tags, 3, 2, *rows, OPTIONS), numbers, tags, layout


def test_whole_solves_pass_through_the_glue(fake_cupy: Any) -> None:
    fun, X0, options = nearest(np, 30)
    expected = sketched_newton_batch(fun, X0, n_threads=1, maxiter=100, **options)
    engine, numbers, tags, layout = engine_of(30)
    xp = SimpleNamespace(
        ndarray=FakeArray,
        flatnonzero=lambda x: fake(np.flatnonzero(x)),
        ascontiguousarray=lambda x: fake(np.ascontiguousarray(x)),
        asarray=lambda x: fake(np.asarray(x)),
    )
    callables = [options[name] for name in ("jac", "hess", "cons", "cons_jac")]
    functions = _Functions(xp, fun, *callables, (fake(options["params"]),), (), False, 3)
    functions.m = 2
    engine.begin(fake(X0), None)
    rounds, _, stopped = _iterate(functions, engine, fake(np.arange(30)), numbers, tags, layout, None)
    none = fake(np.zeros(0, dtype=np.int32))
    functions.select(none)
    engine.conclude(none, *functions.values(fake(np.zeros((0, 3)))), 1)
    assert (rounds, stopped) == (expected.rounds, False)
    x = layout["x"]
    np.testing.assert_array_equal(numbers[:, x : x + 3], expected.x)
    np.testing.assert_array_equal(numbers[:, layout["lam"] : layout["lam"] + 2], expected.lam)
    np.testing.assert_array_equal(tags[:, layout["nit"]], expected.nit)


def test_kkt_systems_pass_through_the_glue(fake_cupy: Any) -> None:
    parts = systems(5, 4, 2)
    found = gpu.solve_kkt_batch(*(fake(p) for p in parts), 0.1)
    for mine, theirs in zip(found, _core.solve_kkt_batch(*parts, 0.1, 1), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(parts[7], systems(5, 4, 2)[7])  # the shifts given stay


def test_wrong_arrays_are_named(fake_cupy: Any) -> None:
    engine, *_ = engine_of(4)
    f, g, c, j = (fake(np.zeros(shape)) for shape in ((4,), (4, 3), (4, 2), (4, 2, 3)))
    which = fake(np.arange(4, dtype=np.int32))
    for call, error, match in (
        (lambda: engine.begin(np.zeros((4, 3)), None), TypeError, "`X0` must be a cupy.ndarray, not ndarray"),
        (lambda: engine.begin(fake(np.zeros((4, 2))), None), ValueError, r"`X0` has shape \(4, 2\)"),
        (lambda: engine.judge(which, f.astype(np.float32), g, c, j), TypeError, "`fun` is float32; float64"),
        (lambda: engine.judge(which.astype(np.int64), f, g, c, j), TypeError, "`problem` is int64; int32"),
        (
            lambda: engine.judge(which, f, fake(np.zeros((3, 4))).T, c, j),
            ValueError,
            "`jac` must be contiguous",
        ),
        (lambda: engine.judge(which, f, g, c, j[:, :1]), ValueError, r"`cons_jac` has shape \(4, 1, 3\)"),
    ):
        with pytest.raises(error, match=match):
            call()
    elsewhere = c.copy()
    elsewhere.number = 1
    with pytest.raises(TypeError, match="`cons` is on CUDA device 1 but `X0` is on device 3"):
        engine.judge(which, f, g, elsewhere, j)
