"""The Krylov solvers on a GPU against the CPU, and on any machine the glue between CuPy and the module."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from aitken import _core, _loader
from aitken.linalg import _cuda_calls as gpu

PRECONDITIONERS = ("none", "jacobi", "block-jacobi", "chebyshev", "ilu0")
BLOCK = 48
OPTIONS: dict[str, Any] = {"rtol": 1e-10, "restart": 30, "recycle_dim": 8, "maxiter": 2000}


def convection(nx: int, ny: int, count: int) -> tuple[Any, np.ndarray]:
    """A nonsymmetric pattern and the values of `count` matrices on it, each a little off the one before."""
    west, north = np.full(nx - 1, -1.3), np.full(ny - 1, -1.1)
    Tx = sparse.diags_array([west, np.full(nx, 2.01), west + 0.6], offsets=[-1, 0, 1])
    Ty = sparse.diags_array([north, np.full(ny, 2.01), north + 0.2], offsets=[-1, 0, 1])
    A = (sparse.kron(sparse.eye_array(ny), Tx) + sparse.kron(Ty, sparse.eye_array(nx))).tocsr()
    A.sort_indices()
    noise = np.random.default_rng(0).uniform(-1, 1, (count, A.nnz))
    off = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)) != A.indices
    return A, A.data * (1 + 0.02 * np.arange(count)[:, None] * noise * off)


def on_the_cpu(A: Any, data: np.ndarray, M: str) -> tuple[Any, Any]:
    """The CPU module's handles of the matrix with these values, and of its preconditioner."""
    indptr, indices = A.indptr.astype(np.int64), A.indices.astype(np.int32)
    pattern = _core.csr_pattern(*A.shape, indptr, indices, data, "A", "row")
    starts = np.append(np.arange(0, A.shape[0], BLOCK), A.shape[0])
    inverse = {
        "none": lambda: None,
        "jacobi": lambda: _core.jacobi_map(pattern, data),
        "block-jacobi": lambda: _core.block_jacobi_map(pattern, data, starts),
        "chebyshev": lambda: _core.chebyshev_map(pattern, data, 4, 0.0, 0.0, 30.0),
        "ilu0": lambda: _core.ilu0_map(pattern, data, False),
    }[M]
    return _core.csr_map(pattern, data), inverse()


def arrays(xp: Any, A: Any) -> tuple[Any, Any]:
    return xp.asarray(A.indptr.astype(np.int32)), xp.asarray(A.indices.astype(np.int32))


def residual(A: Any, data: np.ndarray, x: np.ndarray, b: np.ndarray) -> float:
    matrix = sparse.csr_array((data, A.indices, A.indptr), shape=A.shape)
    return float(np.linalg.norm(b - matrix @ x) / np.linalg.norm(b))


# ------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("M", PRECONDITIONERS)
@pytest.mark.parametrize("basis", ["full", "single"])
def test_solve_like_the_cpu(cupy: Any, M: str, basis: str) -> None:
    A, data = convection(45, 38, 2)
    n = A.shape[0]
    options = {**OPTIONS, "basis": basis}
    rng = np.random.default_rng(1)
    U = C = U_gpu = C_gpu = None
    for system in range(2):  # the second starts from the space of the first
        b = rng.standard_normal(n)
        x, x_gpu = np.zeros(n), cupy.zeros(n)
        here = _core.krylov_solve(
            *on_the_cpu(A, data[system], M), b, x, options, U, C, False, None, None, None, False
        )
        given = (*arrays(cupy, A), cupy.asarray(data[system]), M, cupy.asarray(b), x_gpu, options)
        there = gpu.solve(*given, U_gpu, C_gpu, False, None, None, None, False, block=BLOCK)
        assert there["status"] == here["status"] == 0
        assert abs(there["nit"] - here["nit"]) <= 2
        assert there["recycled"] == here["recycled"]
        assert residual(A, data[system], x_gpu.get(), b) <= 1.001e-10
        U, C, U_gpu, C_gpu = here["U"], here["C"], there["U"], there["C"]
        assert U_gpu.shape == U.shape


@pytest.mark.gpu
@pytest.mark.parametrize("M", PRECONDITIONERS)
def test_chains_like_the_cpu(cupy: Any, M: str) -> None:
    A, data = convection(31, 29, 9)
    n = A.shape[0]
    b = np.random.default_rng(2).standard_normal((9, n))
    chains = [np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([8, 7, 6])]
    options = {**OPTIONS, "M": M, "block": BLOCK, "project": 3, "method": "gcrodr"}
    here = np.zeros((9, n))
    nit = np.zeros(9, dtype=np.int64)
    for chain in chains:
        indptr, indices = A.indptr.astype(np.int64), A.indices.astype(np.int32)
        r = _core.run_chain(indptr, indices, data, b, None, chain, options, here, None, None)
        nit[r["system"]] = r["nit"]
    solutions = []
    for memory in (None, 1):  # all chains together, and one after the other
        x = cupy.full((9, n), cupy.nan)
        r = gpu.run_chains(
            *arrays(cupy, A),
            cupy.asarray(data),
            cupy.asarray(b),
            None,
            chains,
            options,
            x,
            None,
            None,
            memory=memory,
        )
        assert sorted(r["system"]) == list(range(9))
        assert not r["status"].any()
        assert np.abs(r["nit"] - nit[r["system"]]).max() <= 2
        solutions.append(x.get())
    np.testing.assert_array_equal(*solutions)  # bits do not depend on how many advance together
    np.testing.assert_allclose(solutions[0], here, rtol=0, atol=1e-6 * np.abs(here).max())
    for i in range(9):
        assert residual(A, data[i], solutions[0][i], b[i]) <= 1.001e-10


@pytest.mark.gpu
def test_steps_do_not_read(cupy: Any) -> None:
    A, data = convection(30, 30, 1)
    x = cupy.zeros(900)
    options = {**OPTIONS, "rtol": 1e-14, "restart": 200, "recycle_dim": 0, "maxiter": 100}
    given = (*arrays(cupy, A), cupy.asarray(data[0]), "ilu0", cupy.ones(900), x, options)
    r = gpu.solve(*given, None, None, False, None, None, None, False)
    assert r["nit"] > 30
    assert r["launches"] <= 8 * r["nit"] + 120
    assert r["reads"] <= r["nit"] / 10 + 20


@pytest.mark.gpu
def test_runs_on_the_current_stream(cupy: Any) -> None:
    """Input still being written on a side stream is seen complete, with no synchronisation between."""
    A, data = convection(40, 40, 1)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        busy = cupy.ones((3000, 3000))
        for _ in range(10):
            busy = busy @ busy / 3000.0
        values = cupy.asarray(data[0]) + 0.0 * busy[0, 0]
        x = cupy.zeros(1600)
        given = (*arrays(cupy, A), values, "ilu0", cupy.ones(1600), x, OPTIONS)
        r = gpu.solve(*given, None, None, False, None, None, None, False)
        got = x.get()
    assert r["status"] == 0
    assert residual(A, data[0], got, np.ones(1600)) <= 1.001e-10


@pytest.mark.gpu
def test_callback_and_errors(cupy: Any) -> None:
    A, data = convection(20, 20, 3)
    seen: list[Any] = []

    def listen(nit: int, residual: float, target: float, x: Any) -> bool:
        seen.append(x)
        return nit >= 5

    given = (*arrays(cupy, A), cupy.asarray(data[0]), None, cupy.ones(400), cupy.zeros(400), OPTIONS)
    r = gpu.solve(*given, None, None, False, None, None, listen, True)
    assert r["status"] == 5
    assert isinstance(seen[0], cupy.ndarray)
    data[2, A.indptr[77] : A.indptr[78]] = 0.0
    with pytest.raises(ValueError, match="system 2: `A`: zero or non-finite pivot in row 77"):
        gpu.run_chains(
            *arrays(cupy, A),
            cupy.asarray(data),
            cupy.ones(400),
            None,
            [np.array([0, 1, 2])],
            {**OPTIONS, "M": "ilu0"},
            cupy.zeros((3, 400)),
            None,
            None,
        )
    indptr, indices = arrays(cupy, A)
    indices[5] = 400
    with pytest.raises(ValueError, match="`A`"):
        gpu.solve(indptr, indices, *given[2:], None, None, False, None, None, None, False)


# ------------------------------------------------------------- the glue, on a machine without one

STREAM = 77


@pytest.mark.gpu
def test_public_functions_take_cupy_arrays(cupy: Any) -> None:
    from cupyx.scipy import sparse as on_the_gpu

    from aitken import linalg

    A, data = convection(30, 25, 6)
    n = A.shape[0]
    b = np.random.default_rng(2).standard_normal(n)
    here = linalg.gcrodr(A, b, rtol=1e-9, M="ilu0")
    there = linalg.gcrodr(on_the_gpu.csr_matrix(sparse.csr_matrix(A)), cupy.asarray(b), rtol=1e-9, M="ilu0")
    assert there.converged
    assert abs(there.nit - here.nit) <= 2
    np.testing.assert_allclose(cupy.asnumpy(there.x), here.x, rtol=1e-6, atol=1e-8)
    options: dict[str, Any] = {"solver": "gcrodr", "rtol": 1e-9}
    batch = linalg.solve_batch(A.indptr, A.indices, data, b, **options)
    indptr, indices = arrays(cupy, A)
    lanes = linalg.solve_batch(indptr, indices, cupy.asarray(data), cupy.asarray(b), **options)
    assert lanes.converged
    np.testing.assert_allclose(cupy.asnumpy(lanes.X), batch.X, rtol=1e-6, atol=1e-8)


class FakeArray(np.ndarray):
    """A NumPy array that answers like CuPy's."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(id=int(getattr(self, "number", 3)))


def fake(x: Any) -> FakeArray:
    return np.asarray(x).view(FakeArray)


def read(array: tuple[int, ...], dtype: str = "f8") -> np.ndarray:
    """The array at an address, as the compiled module would see it."""
    shape = array[1:] if array[1] >= 0 else array[2:]
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(array[0]), dtype=dtype).reshape(shape)


class FakeModule:
    """``aitken._cuda`` in terms of ``aitken._core``."""

    @staticmethod
    def krylov_solve(
        where: Any, indptr: Any, indices: Any, data: Any, M: Any, b: Any, x: Any, *rest: Any
    ) -> Any:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096
        options, U, C, same, outer_u, outer_c, callback, every_step = rest
        A = sparse.csr_array((read(data), read(indices, "i4"), read(indptr, "i8")))
        assert M.get("block", BLOCK) == BLOCK
        tell = None if callback is None else lambda it, r, target, x: callback(it, r, target, x is not None)
        handles = on_the_cpu(A, read(data), M.get("M", "none"))
        return _core.krylov_solve(
            *handles, read(b), read(x), options, U, C, same, outer_u, outer_c, tell, every_step
        )

    @staticmethod
    def run_chains(where: Any, indptr: Any, indices: Any, data: Any, b: Any, params: Any, *rest: Any) -> Any:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096
        chains, options, x, recycle, memory, progress = rest
        assert memory == 500
        matrix = (read(indptr, "i8"), read(indices, "i4"), read(data), read(b))
        parts = [
            _core.run_chain(*matrix, params, chain, options, read(x), recycle, progress) for chain in chains
        ]
        return {name: np.concatenate([p[name] for p in parts]) for name in ("system", "nit", "status")}


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    held: list[int] = []

    def alloc(size: int) -> Any:
        held.append(size)
        return SimpleNamespace(ptr=4096)

    def device(number: int | None = None) -> Any:
        place = contextlib.nullcontext()
        place.mem_info = (600, 1000)  # type: ignore[attr-defined]
        return place

    module = SimpleNamespace(
        ndarray=FakeArray,
        cuda=SimpleNamespace(
            alloc=alloc, Device=device, get_current_stream=lambda: SimpleNamespace(ptr=STREAM)
        ),
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 400),
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_loader, "cuda_module", FakeModule)
    yield
    assert held  # every test here makes a call


@pytest.mark.parametrize("M", PRECONDITIONERS)
def test_every_call_arrives(fake_cupy: None, M: str) -> None:
    A, data = convection(17, 15, 4)
    n = A.shape[0]
    b = np.random.default_rng(3).standard_normal((4, n))
    x, x_gpu = np.zeros(n), fake(np.zeros(n))
    told: dict[str, list[tuple[int, Any]]] = {"here": [], "there": []}

    def listener(side: str) -> Any:
        def listen(nit: int, residual: float, target: float, at: Any) -> bool:
            told[side].append((nit, at))
            return False

        return listen

    state = (None, None, False, None, None)
    short = {**OPTIONS, "restart": 12, "recycle_dim": 4}  # several cycles
    here = _core.krylov_solve(*on_the_cpu(A, data[1], M), b[0], x, short, *state, listener("here"), True)
    given = (*arrays(SimpleNamespace(asarray=fake), A), fake(data[1]), M, fake(b[0]), x_gpu, short)
    there = gpu.solve(*given, *state, listener("there"), True, block=BLOCK)
    assert there["nit"] == here["nit"]
    np.testing.assert_array_equal(x_gpu, x)
    np.testing.assert_array_equal(there["U"], here["U"])
    assert len(told["there"]) == len(told["here"]) > here["nit"]
    cycles = 0
    for (nit, at), (nit_there, at_there) in zip(told["here"], told["there"], strict=True):
        assert nit == nit_there
        assert (at is None) == (at_there is None)
        if at is not None:
            np.testing.assert_array_equal(at_there, at)  # a copy: the solve went on
            cycles += nit > 0
    assert cycles > 0

    options = {**OPTIONS, "M": M, "block": BLOCK, "method": "gcrodr"}
    chains = [np.array([0, 2]), np.array([3, 1])]
    x, x_gpu = np.zeros((4, n)), fake(np.zeros((4, n)))
    pattern = (A.indptr.astype(np.int64), A.indices.astype(np.int32))
    nit = [_core.run_chain(*pattern, data, b, None, c, options, x, None, None)["nit"] for c in chains]
    done: list[int] = []
    r = gpu.run_chains(
        *given[:2],
        fake(data),
        fake(b),
        None,
        chains,
        options,
        x_gpu,
        None,
        lambda system, nit, residual: bool(done.append(system)),
    )
    np.testing.assert_array_equal(x_gpu, x)
    np.testing.assert_array_equal(r["nit"], np.concatenate(nit))
    assert done == [0, 2, 3, 1]


def test_one_matrix_and_one_right_hand_side(fake_cupy: None) -> None:
    A, data = convection(9, 8, 1)
    b = np.ones(72)
    options = {**OPTIONS, "M": "ilu0", "method": "gcrodr"}
    x = fake(np.zeros((2, 72)))
    given = arrays(SimpleNamespace(asarray=fake), A)
    gpu.run_chains(*given, fake(data[0]), fake(b), None, [np.arange(2)], options, x, None, None, memory=500)
    for row in x:
        assert residual(A, data[0], np.asarray(row), b) <= 1e-10


def test_wrong_arrays_are_named(fake_cupy: None) -> None:
    A, data = convection(5, 4, 1)
    given = [
        *arrays(SimpleNamespace(asarray=fake), A),
        fake(data[0]),
        None,
        fake(np.ones(20)),
        fake(np.zeros(20)),
    ]
    state = (OPTIONS, None, None, False, None, None, None, False)
    assert gpu.solve(*given, *state)["status"] == 0
    elsewhere = fake(np.ones(20))
    elsewhere.number = 1
    for place, bad, error, match in (
        (4, np.ones(20), TypeError, r"`b` must be a cupy\.ndarray, not ndarray"),
        (4, elsewhere, TypeError, "`b` is on CUDA device 1 but `data` is on device 3"),
        (
            4,
            fake(np.ones(20, complex)),
            TypeError,
            "`b` is complex128; complex systems are solved on the CPU",
        ),
        (4, fake(np.ones(20, np.float32)), TypeError, "`b` is float32; float64 is needed"),
        (4, fake(np.ones((20, 1))), ValueError, r"`b` has shape \(20, 1\); 1 dimensions are needed"),
        (5, fake(np.ones(40))[::2], ValueError, "`x` must be contiguous"),
        (1, fake(A.indices.astype(np.int64)), TypeError, "`indices` is int64; int32 is needed"),
        (3, "ssor", ValueError, "`M` must be None or one of .* on a GPU; got 'ssor'"),
    ):
        changed = list(given)
        changed[place] = bad
        with pytest.raises(error, match=match):
            gpu.solve(*changed, *state)
