"""Conjugate directions of models on a GPU against the CPU; anywhere the glue between CuPy and the module."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import fft, sparse

from aitken import ConvergenceWarning, _core, _loader
from aitken.linalg import GridPoisson, Multigrid, _deepcg, deep_conjugate_direction, list_models
from aitken.linalg import _deepcg_cuda as gpu
from aitken.linalg._deepcg_setup import fft_solver
from tests.gpu.test_krylov_gpu import STREAM, FakeArray, fake, read
from tests.gpu.test_relaxation_gpu import FakeMatrix, faked
from tests.relaxation.problems import laplacian

MODELS = ("mg", "mg_v", "learned_mg", "fft", "identity", "auto", Multigrid("W", smoother="jacobi"))


def obstacles(shape: tuple[int, ...], seed: int = 0, **options: Any) -> GridPoisson:
    rng = np.random.default_rng(seed)
    return GridPoisson(shape, rng.random(shape) > 0.2, **options)


def on_the_gpu(A: Any) -> Any:
    from cupyx.scipy import sparse as there

    return there.csr_matrix(sparse.csr_matrix(A))


def residual(A: GridPoisson, x: np.ndarray, b: np.ndarray) -> float:
    inside = np.where(A.fluid, b, 0.0)
    return float(np.linalg.norm(A.project(inside)[0] - A.apply(x)))


def scaled(r: Any) -> Any:
    """A rough model that knows no array library."""
    return r * 0.25 + abs(r) * 0.05


# ------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("shape", [(70, 61), (30, 26, 33)])
def test_models_like_the_cpu(cupy: Any, model: Any, shape: tuple[int, ...]) -> None:
    for exterior in ("dirichlet", "neumann", "periodic"):
        A = obstacles(shape, exterior=exterior)
        if model == "learned_mg" and f"learned_mg_{A.ndim_grid}d" not in list_models():
            continue
        b = A.project(np.random.default_rng(1).standard_normal(shape))[0]
        here = deep_conjugate_direction(A, b, model=model, rtol=1e-6)
        there = deep_conjugate_direction(A, cupy.asarray(b), model=model, rtol=1e-6)
        assert isinstance(there.x, cupy.ndarray)
        assert there.converged
        assert there.model == here.model
        assert abs(there.nit - here.nit) <= 1
        assert residual(A, there.x.get(), b) <= there.target * (1 + 1e-6)
        again = deep_conjugate_direction(A, cupy.asarray(b), model=model, rtol=1e-6)
        cupy.testing.assert_array_equal(again.x, there.x)


@pytest.mark.gpu
def test_functions_batches_and_shapes(cupy: Any) -> None:
    A = obstacles((48, 52))
    b = np.random.default_rng(2).standard_normal((3, 48, 52))
    here = deep_conjugate_direction(A, b, model=scaled)
    there = deep_conjugate_direction(A, cupy.asarray(b), model=scaled)
    assert there.converged
    assert np.abs(there.nit - here.nit).max() <= 1
    for k in range(3):
        assert residual(A, there.x[k].get(), b[k]) <= there.target[k] * (1 + 1e-6)
    compact = A.compress(b[0])
    one = deep_conjugate_direction(A, cupy.asarray(compact), model=scaled)
    np.testing.assert_allclose(one.x.get(), A.compress(there.x[0].get()), rtol=0, atol=1e-12)
    small = deep_conjugate_direction(A, cupy.asarray(b[0].astype(np.float32)), rtol=1e-4)
    assert small.x.dtype == np.float32
    assert small.converged


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["auto", "jacobi", "identity", scaled], ids=str)
def test_matrices_like_the_cpu(cupy: Any, model: Any) -> None:
    A = laplacian(60, 55)
    b = np.random.default_rng(3).standard_normal(A.shape[0])
    here = deep_conjugate_direction(A, b, model="jacobi" if model == "auto" else model, rtol=1e-8)
    there = deep_conjugate_direction(on_the_gpu(A), cupy.asarray(b), model=model, rtol=1e-8)
    assert there.converged
    assert abs(there.nit - here.nit) <= 1
    assert np.linalg.norm(b - A @ there.x.get()) <= there.target * (1 + 1e-6)


@pytest.mark.gpu
def test_streams_and_callback(cupy: Any) -> None:
    A, seen = obstacles((40, 40)), []

    def listen(xk: Any) -> None:
        seen.append(xk)
        if len(seen) == 2:
            raise StopIteration

    with cupy.cuda.Stream(non_blocking=True):
        busy = cupy.ones((2000, 2000))
        for _ in range(10):
            busy = busy @ busy / 2000.0
        b = cupy.ones((40, 40)) + 0.0 * busy[0, 0]
        r = deep_conjugate_direction(A, b, rtol=1e-10, callback=listen)
        got = r.x.get()
    assert r.status == 5
    np.testing.assert_allclose(seen[-1].get(), got, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------- the glue, on a machine without one


class FakeModule:
    """``aitken._cuda`` in terms of ``aitken._core``."""

    @staticmethod
    def model(given: Any, grid: Any, n: int, diagonal: Any = None) -> Any:
        if given is None:
            return None
        if given == "jacobi":
            return _core.callback_map(n, lambda r: r / diagonal, None, True, "model", False)
        if len(given) == 6:
            return _core.MultigridCycle(grid, *given)
        r, z, call = read(given[0]), read(given[1]), given[2]

        def apply(x: np.ndarray) -> np.ndarray:
            r[...], z[...] = x, np.nan
            call()
            return z.copy()

        return _core.callback_map(n, apply, None, True, "model", False)

    @classmethod
    def deepcg_solve_grid(cls, where: Any, grid: Any, *rest: Any) -> list[dict[str, Any]]:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096
        model, fallback, has_fallback, b, x, compact, single, options, callback = rest
        rows, starts = read(b), read(x)
        cells = len(grid.labels())
        reports: list[dict[str, Any]] = _core.deepcg_solve_grid(
            grid,
            cls.model(model, grid, cells),
            cls.model(fallback, grid, cells),
            has_fallback,
            False,
            np.ascontiguousarray(rows),
            starts,
            compact,
            options,
            callback,
        )
        if single:
            starts[...] = starts.astype(np.float32)
            for row, start, report in zip(rows, starts, reports, strict=True):
                image, inside = np.empty_like(row), np.empty_like(row)
                grid.apply(start.copy(), image, compact)
                grid.project(row.copy(), inside, compact)
                report["residual"] = float(np.linalg.norm(inside - image))
                if report["residual"] > report["target"]:
                    report |= {"status": 2, "detail": "rounding the answer to float32"}
        return reports

    @classmethod
    def deepcg_solve(cls, where: Any, indptr: Any, indices: Any, data: Any, *rest: Any) -> dict[str, Any]:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096
        model, fallback, has_fallback, b, x, single, options, callback = rest
        assert not single
        arrays = read(indptr, "i8"), read(indices, "i4"), read(data)
        A = sparse.csr_array((arrays[2], arrays[1], arrays[0]))
        n = A.shape[0]
        diagonal = A.diagonal()
        if "jacobi" in (model, fallback) and (diagonal == 0).any():
            raise ValueError(f"`A`: the diagonal of row {np.argmin(abs(diagonal))} is zero or has no inverse")
        pattern = _core.csr_pattern(n, n, *arrays, "A", "row")
        report: dict[str, Any] = _core.deepcg_solve(
            _core.csr_map(pattern, arrays[2]),
            cls.model(model, None, n, diagonal),
            cls.model(fallback, None, n, diagonal),
            has_fallback and fallback is None,
            read(b),
            read(x),
            options,
            callback,
        )
        return report


class FakeCupy(types.ModuleType):
    """NumPy whose arrays answer like CuPy's."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if isinstance(value, type | types.ModuleType):
            return value

        def call(*args: Any, **options: Any) -> Any:
            out = value(*args, **options)
            return fake(out) if isinstance(out, np.ndarray) else out

        return call


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    cupy = FakeCupy("cupy")
    cupy.ndarray = FakeArray  # type: ignore[attr-defined]
    cupy.asarray = faked(np.asarray)  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        alloc=lambda size: SimpleNamespace(ptr=4096),
        Device=lambda number=None: contextlib.nullcontext(),
        get_current_stream=lambda: SimpleNamespace(ptr=STREAM),
    )
    cupyx, scipy = types.ModuleType("cupyx"), types.ModuleType("cupyx.scipy")
    scipy.sparse = SimpleNamespace(csr_matrix=FakeMatrix)  # type: ignore[attr-defined]
    # As CuPy's, which knows types 2 and 3 alone.
    scipy.fft = SimpleNamespace(dctn=fft.dctn, idctn=fft.idctn)  # type: ignore[attr-defined]
    for name, module in (("cupy", cupy), ("cupyx", cupyx), ("cupyx.scipy", scipy)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(_loader, "cuda_module", FakeModule)
    backend = SimpleNamespace(is_cuda=True, xp=cupy, take=lambda name, x: x, give=lambda x: x)
    monkeypatch.setattr(_deepcg._dispatch, "select", lambda **given: backend)
    return cupy


def of_the_cpu(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> Any:
    backend = SimpleNamespace(is_cuda=False, xp=np, take=lambda name, x: x, give=lambda x: x)
    with monkeypatch.context() as m:
        m.setattr(_deepcg._dispatch, "select", lambda **given: backend)
        return deep_conjugate_direction(*args, **options)


@pytest.mark.parametrize("model", [*MODELS, scaled], ids=str)
def test_every_model_arrives(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    rng = np.random.default_rng(0)
    for A in (
        obstacles((24, 31)),
        obstacles((9, 10, 11), exterior=("periodic", "neumann", ("dirichlet", "neumann"))),
        obstacles((20, 18), exterior="neumann"),
    ):
        if model == "learned_mg" and f"learned_mg_{A.ndim_grid}d" not in list_models():
            continue
        b, x0 = (A.project(rng.standard_normal(A.grid_shape))[0] for _ in range(2))
        for options in ({}, {"method": "robust", "n_previous": 3, "rtol": 1e-7, "recompute": 4, "x0": x0}):
            here = of_the_cpu(monkeypatch, A, b, model=model, **options)
            if "x0" in options:
                options = {**options, "x0": fake(x0)}
            there = deep_conjugate_direction(A, fake(b), model=model, **options)
            assert isinstance(there.x, FakeArray)
            assert there.x.shape == b.shape
            assert (there.nit, there.matvecs, there.status) == (here.nit, here.matvecs, here.status)
            assert (there.model, there.n_model) == (here.model, here.n_model)
            assert (there.n_replaced, there.fallback_step) == (here.n_replaced, here.fallback_step)
            np.testing.assert_allclose(there.x, here.x, rtol=0, atol=1e-9 * abs(here.x).max())
            np.testing.assert_allclose(there.residuals, here.residuals, rtol=1e-6)


@pytest.mark.parametrize("exterior", ["dirichlet", "neumann", "periodic", (("neumann", "dirichlet"),) * 2])
def test_transforms(fake_cupy: Any, exterior: Any) -> None:
    A = GridPoisson((7, 10), exterior=exterior, spacing=(1.0, 0.5))
    r = np.random.default_rng(4).standard_normal((7, 10))
    there = fft_solver(A, fake_cupy, gpu.device_transforms(fake_cupy))(fake(r))
    np.testing.assert_allclose(there, fft_solver(A)(r), rtol=1e-12, atol=1e-12)


def test_shapes_precisions_and_means(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    A = obstacles((16, 19))
    rng = np.random.default_rng(1)
    b = rng.standard_normal((4, 16, 19))
    here = of_the_cpu(monkeypatch, A, b, model=scaled)
    there = deep_conjugate_direction(A, fake(b), model=scaled)
    assert there.x.shape == b.shape
    for name in ("nit", "statuses", "n_model", "n_replaced", "fallback_step"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    np.testing.assert_allclose(there.true_residual, here.true_residual, rtol=1e-6)
    for form in (b[0].ravel(), b[0].reshape(-1, 1), A.compress(b[0])):
        one = deep_conjugate_direction(A, fake(form))
        assert one.x.shape == form.shape
        assert one.converged
    holes = np.where(A.fluid, b[0], np.nan)  # what is not fluid does not matter
    assert deep_conjugate_direction(A, fake(holes)).converged
    small = deep_conjugate_direction(A, fake(b[0].astype(np.float32)), rtol=1e-4)
    assert small.x.dtype == np.float32
    assert small.true_residual == pytest.approx(
        residual(A, small.x.astype(float), b[0].astype("f4")), rel=1e-6
    )
    with pytest.warns(ConvergenceWarning, match="rounding"):
        deep_conjugate_direction(A, fake(b[0].astype(np.float32)), rtol=1e-12)
    closed = GridPoisson((12, 12), exterior="neumann")
    with pytest.warns(ConvergenceWarning, match="means over enclosed regions"):
        r = deep_conjugate_direction(closed, fake(np.eye(12)))
    assert r.removed_mean == pytest.approx(1.0)
    nothing = deep_conjugate_direction(GridPoisson((4, 4), np.zeros((4, 4), bool)), fake(np.ones((4, 4))))
    assert nothing.converged
    assert not nothing.x.any()


def test_fallback_and_callback(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    A = obstacles((20, 21))
    b = np.random.default_rng(2).standard_normal((20, 21))

    def broken(r: Any) -> Any:
        return r * np.nan

    here = of_the_cpu(monkeypatch, A, b, model=broken)
    there = deep_conjugate_direction(A, fake(b), model=broken)
    assert there.fallback_step == here.fallback_step == 3
    assert there.converged
    told: list[Any] = []

    def listen(intermediate_result: Any) -> None:
        told.append(intermediate_result)
        if len(told) == 2:
            raise StopIteration

    r = deep_conjugate_direction(A, fake(b), rtol=1e-12, callback=listen)
    assert r.status == 5
    assert isinstance(told[0].x, FakeArray)
    assert told[0].x.shape == b.shape
    np.testing.assert_array_equal(told[-1].x, r.x)


@pytest.mark.parametrize("model", ["auto", "jacobi", "identity", scaled], ids=str)
def test_matrices_arrive(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    A = laplacian(14, 11)
    b = np.random.default_rng(3).standard_normal((154, 1))
    for method in ("auto", "robust"):
        here = of_the_cpu(monkeypatch, A, b, model="jacobi" if model == "auto" else model, method=method)
        there = deep_conjugate_direction(FakeMatrix(A), fake(b), model=model, method=method)
        assert there.converged
        assert there.x.shape == b.shape
        assert abs(there.nit - here.nit) <= 1
        np.testing.assert_allclose(there.x, here.x, rtol=0, atol=1e-3 * abs(here.x).max())


def test_wrong_input_is_named(fake_cupy: Any) -> None:
    A, b = GridPoisson((6, 5)), fake(np.ones((6, 5)))
    M = laplacian(5).copy()
    for given, options, error, match in (
        (A, {"model": "mic0"}, ValueError, "`model` must be one of"),
        (A, {"model": "dcdm2d"}, ValueError, "`model` must be one of"),
        (A, {"model": 3}, TypeError, "`model`.*not int"),
        (A, {"fallback": sparse.eye_array(30)}, TypeError, "`fallback`"),
        (A, {"grid": A}, TypeError, "`grid`"),
        (A, {"model": lambda r: r[:2]}, ValueError, r"`model` returned shape \(2, 5\)"),
        (A, {"model": lambda r: 1.0}, TypeError, "`model` returned float"),
        (A, {"method": "cg"}, ValueError, "`method`"),
        (A, {"n_previous": -1}, ValueError, "`n_previous`"),
        (A, {"x0": fake(np.ones(30))}, ValueError, r"`x0` has shape \(30,\)"),
        (A, {"b": fake(np.ones((6, 4)))}, ValueError, r"`b` has shape \(6, 4\)"),
        (A, {"b": fake(np.full((6, 5), np.inf))}, ValueError, "`b`"),
        (FakeMatrix(M), {"b": fake(np.ones(24))}, ValueError, r"`b` has shape \(24,\)"),
        (FakeMatrix(M), {"b": fake(np.ones(25)), "model": "mg"}, ValueError, "`model` must be one of"),
        (FakeMatrix(M), {"b": fake(np.ones(25)), "model": Multigrid()}, TypeError, "works on a grid"),
    ):
        rhs = options.pop("b", b)
        with pytest.raises(error, match=match):
            deep_conjugate_direction(given, rhs, **options)
    with pytest.raises(ValueError, match="`callback`"):
        deep_conjugate_direction(A, fake(np.ones((2, 6, 5))), callback=print)
    M.data[M.indptr[7] : M.indptr[8]] = 0.0
    with pytest.raises(np.linalg.LinAlgError, match="row 7"):
        deep_conjugate_direction(FakeMatrix(M), fake(np.ones(25)), model="jacobi")
