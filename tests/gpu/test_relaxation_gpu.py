"""SOR and SSOR-CG on a GPU against the CPU, and on any machine the glue between CuPy and the module."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from aitken import ConvergenceWarning, _core, _loader, linalg
from aitken.linalg import _relaxation_cuda as gpu
from aitken.linalg._relaxation import RelaxationSolver
from aitken.linalg._sor_batch import sor_batch
from tests.gpu.test_krylov_gpu import STREAM, FakeArray, convection, fake, read
from tests.relaxation.problems import laplacian, nine_point

ORDERS = ("natural", "redblack", "multicolor", "blocks", "auto")
SWEEPS = ("forward", "backward", "symmetric")


def residual(A: Any, x: Any, b: np.ndarray, shift: float = 0.0) -> float:
    return float(np.linalg.norm(b - A @ x - shift * x))


def batch_of(count: int, m: int = 10) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A Laplacian, and right-hand sides, shifts and relaxation parameters of `count` systems."""
    rng = np.random.default_rng(3)
    A = laplacian(m)
    B = rng.standard_normal((count, A.shape[0]))
    return A, B, rng.uniform(-0.1, 0.4, count), rng.uniform(1.2, 1.8, count)


def on_the_gpu(A: Any) -> Any:
    from cupyx.scipy import sparse as there

    return there.csr_matrix(sparse.csr_matrix(A))


# ------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_sor_like_the_cpu(cupy: Any, order: str, sweep: str) -> None:
    for A, omega in ((laplacian(40, 33), 1.7), (nine_point(25), 1.5), (laplacian(120), "young")):
        if order == "redblack" and A.nnz > 8 * A.shape[0]:
            continue
        b = np.random.default_rng(1).standard_normal(A.shape[0])
        options: dict[str, Any] = {"omega": omega, "sweep": sweep, "rtol": 1e-7, "shift": 0.01}
        there = linalg.sor(on_the_gpu(A), cupy.asarray(b), order=order, **options)
        used = there.order_used
        assert order in ("auto", used)
        here = linalg.sor(A, b, order=used, check_every=1, **options)
        assert there.converged
        assert isinstance(there.x, cupy.ndarray)
        assert abs(there.nit - here.nit) <= 1
        assert residual(A, there.x.get(), b, 0.01) <= there.target * (1 + 1e-9)


@pytest.mark.gpu
def test_orders_that_the_gpu_chooses(cupy: Any) -> None:
    for A, order in ((laplacian(30), "redblack"), (nine_point(20), "multicolor")):
        b = cupy.ones(A.shape[0])
        assert linalg.sor(on_the_gpu(A), b, omega=1.5).order_used == order
    assert linalg.ssor_cg(on_the_gpu(laplacian(50)), cupy.ones(2500)).order_used == "blocks"


@pytest.mark.gpu
def test_adaptive_and_callback(cupy: Any) -> None:
    A, b = laplacian(45), np.random.default_rng(2).standard_normal(2025)
    here = linalg.sor(A, b, omega="adaptive", order="natural")
    there = linalg.sor(on_the_gpu(A), cupy.asarray(b), omega="adaptive", order="natural")
    assert there.converged
    assert abs(there.nit - here.nit) <= 1
    assert there.omega_used == pytest.approx(here.omega_used, rel=1e-6)
    seen: list[Any] = []

    def listen(xk: Any) -> None:
        seen.append(xk)
        if len(seen) == 5:
            raise StopIteration

    r = linalg.sor(on_the_gpu(A), cupy.asarray(b), callback=listen)
    assert r.status == 5
    assert isinstance(seen[0], cupy.ndarray)
    np.testing.assert_allclose(seen[-1].get(), r.x.get(), rtol=1e-13, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("order", ["natural", "multicolor", "blocks", "auto"])
def test_ssor_cg_like_the_cpu(cupy: Any, order: str) -> None:
    A = laplacian(70, 61)
    b = np.random.default_rng(1).standard_normal(A.shape[0])
    there = linalg.ssor_cg(on_the_gpu(A), cupy.asarray(b), omega="young", order=order)
    here = linalg.ssor_cg(A, b, omega="young", order=there.order_used)
    assert there.converged
    assert abs(there.nit - here.nit) <= 1
    assert residual(A, there.x.get(), b) <= there.target * (1 + 1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("m", [5, 10, 20, 36, 45])  # one kernel for each size of shared memory
def test_batch_like_the_cpu(cupy: Any, m: int, sweep: str) -> None:
    A, B, shift, omega = batch_of(200 if m < 30 else 20, m)
    shift = np.abs(shift)
    options: dict[str, Any] = {"omega": omega, "shift": shift, "sweep": sweep, "rtol": 1e-6}
    here = sor_batch(A, B, **options)
    there = sor_batch(on_the_gpu(A), cupy.asarray(B), **options)
    assert there.converged
    assert np.abs(there.nit - here.nit).max() <= 1
    X = there.X.get()
    for k in range(len(B)):
        assert residual(A, X[k], B[k], shift[k]) <= there.target[k] * (1 + 1e-9)
    again = sor_batch(on_the_gpu(A), cupy.asarray(B), **options)
    np.testing.assert_array_equal(again.X.get(), X)


@pytest.mark.gpu
def test_batch_of_matrices(cupy: Any) -> None:
    A, data = convection(13, 9, 40)
    B = np.random.default_rng(5).standard_normal((40, A.shape[0]))
    here = sor_batch((A.indptr, A.indices, data), B, omega=1.1)
    arrays = tuple(cupy.asarray(part) for part in (A.indptr, A.indices, data))
    there = sor_batch(arrays, cupy.asarray(B), omega=1.1)
    assert there.converged
    assert np.abs(there.nit - here.nit).max() <= 1
    np.testing.assert_allclose(there.X.get(), here.X, rtol=0, atol=1e-6)


@pytest.mark.gpu
def test_sweeps_do_not_read(cupy: Any) -> None:
    A = on_the_gpu(laplacian(64))
    x = cupy.zeros(4096)
    options = {"omega": 1.0, "rtol": 1e-14, "maxiter": 500, "sweep": "forward"}
    r = gpu.run("sor", A.indptr, A.indices, A.data, cupy.ones(4096), x, "auto", 0.0, options, None)
    assert r["stencil"]
    assert r["sweeps"] == 500
    assert r["launches"] <= 2 * 500 + 20
    assert r["reads"] <= 500 / 10 + 10


@pytest.mark.gpu
def test_runs_on_the_current_stream(cupy: Any) -> None:
    """Input still being written on a side stream is seen complete, with no synchronisation between."""
    A = laplacian(30)
    A_gpu = on_the_gpu(A)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        busy = cupy.ones((3000, 3000))
        for _ in range(10):
            busy = busy @ busy / 3000.0
        b = cupy.ones(900) + 0.0 * busy[0, 0]
        r = linalg.sor(A_gpu, b, omega=1.8)
        got = r.x.get()
    assert r.converged
    assert residual(A, got, np.ones(900)) <= r.target * (1 + 1e-9)


@pytest.mark.gpu
def test_errors(cupy: Any) -> None:
    A = laplacian(6).copy()
    b = cupy.ones(36)
    with pytest.raises(ValueError, match="odd cycle"):
        linalg.sor(on_the_gpu(nine_point(6)), b, order="redblack")
    with pytest.raises(TypeError, match=r"`A`.*`b`"):
        linalg.sor(A, b)
    with pytest.raises(ValueError, match="axelsson"):
        linalg.ssor_cg(on_the_gpu(A), b, omega="axelsson")
    A.data[A.indptr[7] : A.indptr[8]] = 0.0
    with pytest.raises(np.linalg.LinAlgError, match="row 7"):
        linalg.sor(on_the_gpu(A), b)


# ------------------------------------------------------------- the glue, on a machine without one


class FakeMatrix(sparse.csr_matrix):
    """SciPy's compressed rows over arrays that answer like CuPy's."""

    def __init__(self, A: Any, shape: Any = None, dtype: Any = None, copy: bool = False) -> None:
        super().__init__(A, shape=shape, dtype=dtype, copy=copy)
        self.wrap()

    def wrap(self) -> None:
        self.data, self.indices, self.indptr = (fake(v) for v in (self.data, self.indices, self.indptr))

    def sum_duplicates(self) -> None:
        super().sum_duplicates()
        self.wrap()


FakeMatrix.__module__ = "cupyx.scipy.sparse"  # by which the place of an argument is found


class FakeModule:
    """``aitken._cuda`` in terms of ``aitken._core``."""

    @staticmethod
    def _solve(method: str, where: Any, indptr: Any, indices: Any, data: Any, *rest: Any) -> dict[str, Any]:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096
        b, x, order, rows, shift, options, callback = rest
        arrays = read(indptr, "i8"), read(indices, "i4"), read(data)
        n = arrays[0].size - 1
        pattern = _core.csr_pattern(n, n, *arrays, "A", "row")
        used = "multicolor" if order == "auto" else order
        sweeper = _core.Sweeper(pattern, arrays[2], used, rows)
        run = getattr(sweeper, method)
        report: dict[str, Any] = run(read(b), read(x), shift, options, callback)
        return report | {"order": used, "stencil": False}

    @classmethod
    def sor(cls, *args: Any) -> dict[str, Any]:
        return cls._solve("sor", *args)

    @classmethod
    def ssor_cg(cls, *args: Any) -> dict[str, Any]:
        return cls._solve("ssor_cg", *args)

    @staticmethod
    def sor_batch(where: Any, indptr: Any, indices: Any, *rest: Any) -> dict[str, np.ndarray]:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096
        data, b, x, shifts, omegas, options, room = rest
        assert room == 250
        found: dict[str, np.ndarray] = _core.sor_batch(
            read(indptr, "i8"),
            read(indices, "i4"),
            *(read(v) for v in (data, b, x)),
            None if shifts is None else read(shifts),
            read(omegas),
            options,
        )
        return found


def faked(make: Any) -> Any:
    return lambda *args, **options: fake(make(*args, **options))


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    held: list[int] = []

    def alloc(size: int) -> Any:
        held.append(size)
        return SimpleNamespace(ptr=4096)

    def device(number: int | None = None) -> Any:
        place = contextlib.nullcontext()
        place.mem_info = (600, 1000)  # type: ignore[attr-defined]
        return place

    cupy = types.ModuleType("cupy")
    for name in ("isfinite", "sqrt", "zeros_like", "flatnonzero", "linalg", "float64", "argmax", "any"):
        setattr(cupy, name, getattr(np, name))
    for name in ("zeros", "empty", "full", "asarray", "ascontiguousarray"):
        setattr(cupy, name, faked(getattr(np, name)))
    cupy.ndarray = FakeArray  # type: ignore[attr-defined]
    cupy.asnumpy = np.asarray  # type: ignore[attr-defined]
    cupy.get_default_memory_pool = (  # type: ignore[attr-defined]
        lambda: SimpleNamespace(free_bytes=lambda: 400)
    )
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        alloc=alloc, Device=device, get_current_stream=lambda: SimpleNamespace(ptr=STREAM)
    )
    cupyx, scipy = types.ModuleType("cupyx"), types.ModuleType("cupyx.scipy")
    scipy.sparse = SimpleNamespace(csr_matrix=FakeMatrix)  # type: ignore[attr-defined]
    for name, module in (("cupy", cupy), ("cupyx", cupyx), ("cupyx.scipy", scipy)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(_loader, "cuda_module", FakeModule)
    yield cupy
    assert held  # every test here makes a call


def solve(cupy: Any, method: str, A: Any, b: Any, x0: Any = None, **given: Any) -> Any:
    """`gpu.solve` as the public functions call it."""
    of_call = {name: given.pop(name, default) for name, default in CALL.items()}
    backend: Any = SimpleNamespace(xp=cupy, take=lambda name, x: x, give=lambda x: x)
    return gpu.solve(RelaxationSolver(method, **given), backend, A, b, x0, **of_call)


CALL: dict[str, Any] = {"omega": 1.0, "shift": 0.0, "callback": None, "check_finite": True}


@pytest.mark.parametrize("order", [*ORDERS[:-1], "given"])
def test_every_call_arrives(fake_cupy: Any, order: str) -> None:
    A = laplacian(12, 9)
    rng = np.random.default_rng(0)
    b, x0 = rng.standard_normal((2, 108))
    rows: Any = rng.permutation(108).astype(np.int32) if order == "given" else order
    for method, options in (
        ("sor", {"omega": 1.6, "sweep": "backward", "rtol": 1e-6, "norm_ref": "r0", "maxiter": 300}),
        ("sor", {"omega": "adaptive", "check_every": 3, "shift": 0.2}),
        ("ssor_cg", {"omega": 1.4, "rtol": 1e-10, "shift": 0.1}),
    ):
        here = getattr(linalg, method)(A, b, x0, order=rows, **options)
        there = solve(fake_cupy, method, FakeMatrix(A), fake(b), fake(x0), order=rows, **options)
        np.testing.assert_array_equal(there.x, here.x)
        assert isinstance(there.x, FakeArray)
        assert (there.nit, there.matvecs, there.status) == (here.nit, here.matvecs, here.status)
        assert (there.omega_used, there.target) == (here.omega_used, here.target)
        assert there.order_used == order
        assert there.converged


def test_young_and_shapes(fake_cupy: Any) -> None:
    A = laplacian(15)
    b = np.random.default_rng(4).standard_normal((225, 1))
    for method in ("sor", "ssor_cg"):
        here = getattr(linalg, method)(A, b, omega="young", shift=0.05, order="natural")
        there = solve(fake_cupy, method, FakeMatrix(A), fake(b), omega="young", shift=0.05, order="natural")
        assert there.x.shape == (225, 1)
        assert there.mu_estimate == pytest.approx(here.mu_estimate, rel=1e-9)
        assert there.omega_used == pytest.approx(here.omega_used, rel=1e-9)
        assert (there.nit, there.matvecs) == (here.nit, here.matvecs)
    mu, products = gpu.estimate_mu(A, np.zeros(225), 0.0, np, 100)  # b = 0: ones in its place
    assert mu == pytest.approx(np.cos(np.pi / 16), rel=1e-6)
    assert products <= 100
    small = solve(
        fake_cupy, "sor", FakeMatrix(A.astype(np.float32)), fake(b[:, 0].astype(np.float32)), rtol=1e-4
    )
    assert small.x.dtype == np.float32
    assert small.true_residual == pytest.approx(residual(A, small.x.astype(float), b[:, 0]), rel=1e-4)
    single = FakeMatrix(A.astype(np.float32)), fake(b[:, 0].astype(np.float32))
    with pytest.warns(ConvergenceWarning, match="rounding"):
        solve(fake_cupy, "sor", *single, rtol=1e-9, omega=1.6)


def test_callback_gets_device_arrays(fake_cupy: Any) -> None:
    A = laplacian(8)
    told: list[Any] = []

    def listen(intermediate_result: Any) -> None:
        told.append(intermediate_result)
        if len(told) == 4:
            raise StopIteration

    r = solve(fake_cupy, "sor", FakeMatrix(A), fake(np.ones(64)), order="natural", callback=listen)
    assert r.status == 5
    assert [t.nit for t in told] == [1, 2, 3, 4]
    assert isinstance(told[0].x, FakeArray)
    np.testing.assert_array_equal(told[-1].x, r.x)


@pytest.mark.parametrize("form", ["matrix", "arrays", "rows of arrays", "matrices"])
def test_every_batch_arrives(fake_cupy: Any, form: str) -> None:
    A, B, shift, omega = batch_of(12, 7)
    shift = np.abs(shift)
    data = A.data * (1 + 0.01 * np.arange(12)[:, None])
    data[:, A.indices == np.repeat(np.arange(49), np.diff(A.indptr))] += 0.5
    many = [sparse.csr_matrix((v, A.indices, A.indptr)) for v in data]
    given, there_given = {
        "matrix": (A, FakeMatrix(A)),
        "arrays": ((A.indptr, A.indices, A.data), tuple(fake(v) for v in (A.indptr, A.indices, A.data))),
        "rows of arrays": ((A.indptr, A.indices, data), tuple(fake(v) for v in (A.indptr, A.indices, data))),
        "matrices": (many, [FakeMatrix(m) for m in many]),
    }[form]
    x0 = np.random.default_rng(1).standard_normal(B.shape)
    options = {
        "rtol": 1e-7,
        "atol": 0.0,
        "maxiter": 2000,
        "sweep": "backward",
        "norm_ref": "r0",
        "n_threads": 0,
    }
    for shifts, start in ((shift, x0), (None, x0[0]), (shift, None)):
        here = sor_batch(
            given,
            B,
            start,
            omega=omega,
            shift=shifts,
            rtol=1e-7,
            maxiter=2000,
            sweep="backward",
            norm_ref="r0",
        )
        X, found, norms = gpu.solve_batch(
            there_given, fake(B), None if start is None else fake(start), omega, shifts, options, True
        )
        np.testing.assert_array_equal(X, here.X)
        assert isinstance(X, FakeArray)
        np.testing.assert_array_equal(found["nit"], here.nit)
        np.testing.assert_array_equal(found["status"], here.status)
        np.testing.assert_array_equal(found["target"], here.target)
        np.testing.assert_allclose(norms, np.linalg.norm(B, axis=1))


def test_wrong_input_is_named(fake_cupy: Any) -> None:
    A, b = laplacian(5), np.ones(25)
    assert solve(fake_cupy, "sor", FakeMatrix(A), fake(b)).converged
    for options, match in (
        ({"omega": "axelsson"}, "`omega`"),
        ({"omega": 2.0}, "`omega`"),
        ({"order": np.arange(24)}, "`order` has length 24; 25"),
        ({"shift": np.nan}, "`shift`"),
    ):
        with pytest.raises(ValueError, match=match):
            solve(fake_cupy, "ssor_cg", FakeMatrix(A), fake(b), **options)
    with pytest.raises(ValueError, match=r"`b` has shape \(24,\)"):
        solve(fake_cupy, "sor", FakeMatrix(A), fake(np.ones(24)))
    bad = A.copy()
    bad.data[7] = np.nan
    with pytest.raises(ValueError, match="`A`"):
        solve(fake_cupy, "sor", FakeMatrix(bad), fake(b))
    zero = A.copy()
    zero.data[zero.indptr[3] : zero.indptr[4]] = 0.0
    with pytest.raises(np.linalg.LinAlgError, match="`A`: the diagonal of row 3"):
        solve(fake_cupy, "sor", FakeMatrix(zero), fake(b))
    with pytest.raises(ValueError, match="row 3 is not positive"):
        solve(fake_cupy, "sor", FakeMatrix(zero), fake(b), omega="young")

    def batch(A: Any, B: Any = None, x0: Any = None) -> Any:
        B = np.ones((2, 25)) if B is None else B
        options = {
            "rtol": 1e-7,
            "atol": 0.0,
            "maxiter": 10,
            "sweep": "forward",
            "norm_ref": "b",
            "n_threads": 0,
        }
        return gpu.solve_batch(A, fake(B), x0, np.ones(2), None, options, True)

    arrays = [fake(v) for v in (A.indptr, A.indices, A.data)]
    for given, error, match in (
        (FakeMatrix(laplacian(4)), ValueError, "`B` has rows of length 25, but `A`"),
        (A, TypeError, "`A` is on the CPU"),
        ([FakeMatrix(A)], ValueError, "`A` holds 1 matrices"),
        ([FakeMatrix(A), FakeMatrix(nine_point(5))], ValueError, r"`A\[1\]` and `A\[0\]` have different"),
        ((arrays[0][1:], *arrays[1:]), ValueError, "`indptr` has shape"),
        ((*arrays[:2], fake(np.ones((3, A.nnz)))), ValueError, r"`data` has shape \(3, 105\)"),
    ):
        with pytest.raises(error, match=match):
            batch(given)
    with pytest.raises(ValueError, match="`x0`"):
        batch(FakeMatrix(A), x0=fake(np.ones((3, 25))))
