"""Matrix completion on a GPU against the CPU, and on any machine the glue between CuPy and the module."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aitken import _core, _loader
from aitken.completion import _cuda_calls as gpu
from aitken.completion import als_half_sweep, matrix_completion
from tests.gpu.test_krylov_gpu import STREAM, FakeArray, fake
from tests.gpu.test_krylov_gpu import read as read_full

TYPES = ("float64", "float32")
HALF: dict[str, Any] = {"lam": 0.3, "inner": "exact", "inner_maxiter": 3, "inner_tol": 0.03}
WHOLE: dict[str, Any] = {**HALF, "init": "random", "maxiter": 5, "tol": 0.0, "seed": 3}


def problem(
    n1: int, n2: int, rank: int, share: float, dtype: str, *, noise: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A low-rank matrix and some of its entries."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((n1, rank)) @ rng.standard_normal((rank, n2))
    cells = rng.choice(n1 * n2, size=int(share * n1 * n2), replace=False)
    rows, cols = np.unravel_index(np.sort(cells), (n1, n2))
    values = M[rows, cols] + noise * rng.standard_normal(rows.size)
    return M, (rows, cols, values.astype(dtype))


def compressed(
    n1: int, n2: int, entries: tuple[np.ndarray, np.ndarray, np.ndarray], weighted: bool
) -> tuple[Any, Any]:
    """The entries by rows and by columns, as native functions take them."""
    rows, cols, values = entries
    weights = 0.5 + np.arange(values.size, dtype=values.dtype) % 5 if weighted else None
    out = []
    for n, m, i, j in ((n1, n2, rows, cols), (n2, n1, cols, rows)):
        indptr, indices, source, _ = _core.sort_entries(n, m, i.astype(np.int64), j.astype(np.int64))
        out.append((indptr, indices, values[source], None if weights is None else weights[source]))
    return out[0], out[1]


def factors(n1: int, n2: int, rank: int, bias: bool, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    shapes: list[Any] = [(n1, rank), (n2, rank), n1 if bias else 0, n2 if bias else 0]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def fitted(f: list[np.ndarray]) -> np.ndarray:
    u, v, a, b = (np.asarray(part, dtype=float) for part in f)
    return u @ v.T + (a[:, None] + b if a.size else 0.0)


def moved(xp: Any, part: Any) -> Any:
    """The same in the arrays of `xp`."""
    if part is None:
        return None
    if isinstance(part, tuple):
        return tuple(moved(xp, each) for each in part)
    return xp.asarray(part)


def close(dtype: str) -> dict[str, float]:
    return {"rtol": 0, "atol": 1e-7 if dtype == "float64" else 2e-2}


# ------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("inner", ["exact", "cg", "qcg"])
@pytest.mark.parametrize("rank", [1, 10, 20, 50, 100, 130, 200])
def test_half_sweeps_like_the_cpu(cupy: Any, rank: int, inner: str, dtype: str) -> None:
    _, entries = problem(150, 400, 4, 0.4, dtype, noise=0.1)
    for bias, weighted in ((False, False), (True, True)):
        rows, _ = compressed(150, 400, entries, weighted)
        x, v, a, b = factors(150, 400, rank, bias, dtype)
        options = {**HALF, "inner": inner, "bias": bias, "lam": 5.0, "n_threads": 0}
        x_gpu, a_gpu = cupy.asarray(x), cupy.asarray(a)
        here = _core.als_half_sweep(rows, v, b, x, a, options)
        there = gpu.als_half_sweep(moved(cupy, rows), cupy.asarray(v), cupy.asarray(b), x_gpu, a_gpu, options)
        np.testing.assert_allclose(x_gpu.get(), x, **close(dtype))
        np.testing.assert_allclose(a_gpu.get(), a, **close(dtype))
        assert there["squared_error"] == pytest.approx(here["squared_error"], rel=1e-2)
        if inner != "exact":
            assert there["inner_iterations"] == pytest.approx(here["inner_iterations"], abs=3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("init", ["random", "spectral", "rank_increment"])
def test_completions_like_the_cpu(cupy: Any, init: str, dtype: str) -> None:
    n1, n2, rank = 300, 200, 5
    _, entries = problem(n1, n2, 3, 0.3, dtype, noise=0.2)
    rows, columns = compressed(n1, n2, entries, True)
    bias = init == "random"
    options = {**WHOLE, "init": init, "bias": bias}
    if not bias:
        options |= {"lam": 0.0, "balance": True, "per_rank": 2, "maxiter": 12}
    f = factors(n1, n2, rank, bias, dtype)
    there = [cupy.asarray(part) for part in f]
    expected = _core.complete_matrix(rows, columns, rows, *f, options, None)
    runs = []
    for _ in range(2):
        mine = [part.copy() for part in there]
        report = gpu.complete_matrix(
            moved(cupy, rows), moved(cupy, columns), moved(cupy, rows), *mine, options, None
        )
        runs.append([part.get() for part in mine])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)  # the same bits
    assert report["rmse_train"] == pytest.approx(expected["rmse_train"], rel=1e-2)
    if dtype == "float64":
        assert report["nit"] == expected["nit"]
        np.testing.assert_allclose(fitted(runs[0]), fitted(f), atol=1e-4 * np.abs(fitted(f)).max())
    assert report["reads"] <= 6 * report["nit"] + 200


@pytest.mark.gpu
def test_recovery_through_the_public_function(cupy: Any) -> None:
    n1, n2, rank = 600, 500, 5
    M, (rows, cols, values) = problem(n1, n2, rank, 0.1, "float64")
    r = matrix_completion(
        (cupy.asarray(rows), cupy.asarray(cols), cupy.asarray(values)), rank, shape=(n1, n2), rng=0
    )
    assert isinstance(r.U, cupy.ndarray)
    got = (r.U @ r.V.T).get()
    assert np.linalg.norm(got - M) <= 1e-6 * np.linalg.norm(M)
    here = matrix_completion((rows, cols, values), rank, shape=(n1, n2), rng=0)
    assert abs(r.nit - here.nit) <= 2


@pytest.mark.gpu
def test_ratings_through_the_public_function(cupy: Any) -> None:
    n1, n2 = 500, 300
    _, (rows, cols, values) = problem(n1, n2, 3, 0.2, "float32", noise=0.5)
    arrays = (rows, cols, values)
    options: dict[str, Any] = {"shape": (n1, n2), "lam": 5.0, "bias": True, "rng": 0}
    here = matrix_completion(arrays, 8, **options)
    there = matrix_completion(moved(cupy, arrays), 8, **options)
    assert there.U.dtype == np.float32
    assert there.rmse_train == pytest.approx(here.rmse_train, rel=1e-3)
    np.testing.assert_allclose(
        cupy.asnumpy(there.predict(*moved(cupy, (rows[:50], cols[:50])))),
        here.predict(rows[:50], cols[:50]),
        atol=2e-2,
    )


@pytest.mark.gpu
def test_runs_on_the_current_stream(cupy: Any) -> None:
    """Input still being written on a side stream is seen complete, with no synchronisation between."""
    _, entries = problem(60, 50, 3, 0.5, "float64")
    rows, _ = compressed(60, 50, entries, False)
    x, v, a, b = factors(60, 50, 4, False, "float64")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        busy = cupy.ones((3000, 3000))
        for _ in range(10):
            busy = busy @ busy / 3000.0
        late = cupy.asarray(v) + 0.0 * busy[0, 0]
        x_gpu = cupy.asarray(x)
        gpu.als_half_sweep(moved(cupy, rows), late, cupy.asarray(b), x_gpu, cupy.asarray(a), HALF)
        got = x_gpu.get()
    _core.als_half_sweep(rows, v, b, x, a, HALF)
    np.testing.assert_allclose(got, x, atol=1e-9)


@pytest.mark.gpu
def test_errors_on_the_gpu(cupy: Any) -> None:
    _, entries = problem(30, 20, 2, 0.5, "float64")
    rows, columns = compressed(30, 20, entries, False)
    f = [cupy.asarray(part) for part in factors(30, 20, 2, False, "float64")]
    there = moved(cupy, rows)
    bad = list(there)
    bad[1] = there[1].copy()
    bad[1][3] = 20
    with pytest.raises(ValueError, match=r"`rows`.*out of range"):
        gpu.complete_matrix(tuple(bad), moved(cupy, columns), None, *f, WHOLE, None)
    with pytest.raises(ValueError, match="`rows`"):
        gpu.als_half_sweep((there[0][:-1], *there[1:]), f[1], f[3], f[0], f[2], HALF)
    for option, match in (({"inner": "sketch"}, "`inner`"), ({"nonneg": True}, "`nonneg`")):
        with pytest.raises(ValueError, match=match):
            gpu.als_half_sweep(there, f[1], f[3], f[0], f[2], {**HALF, **option})
    with pytest.raises((TypeError, ValueError)):
        als_half_sweep(there, factors(30, 20, 2, False, "float64")[1])


# ------------------------------------------------------------- the glue, on a machine without one


def read(array: Any, dtype: Any) -> np.ndarray:
    return read_full(array, dtype) if int(np.prod(array[1:])) else np.zeros(array[1:], dtype=dtype)


def rows_of(entries: Any, dtype: str) -> Any:
    indptr, indices, values, weights = entries
    return (
        read(indptr, "i8"),
        read(indices, "i4"),
        read(values, dtype),
        None if weights is None else read(weights, dtype),
    )


class FakeModule:
    """``aitken._cuda`` in terms of ``aitken._core``."""

    @staticmethod
    def _place(where: Any) -> None:
        assert where[:2] == (3, STREAM)
        assert where[2](100) == 4096

    @classmethod
    def complete_matrix(cls, dtype: str, where: Any, *args: Any) -> Any:
        cls._place(where)
        *entries, u, v, a, b, options, callback = args
        entries = [None if e is None else rows_of(e, dtype) for e in entries]
        return _core.complete_matrix(*entries, *(read(x, dtype) for x in (u, v, a, b)), options, callback)

    @classmethod
    def als_half_sweep(cls, dtype: str, where: Any, rows: Any, *args: Any) -> Any:
        cls._place(where)
        return _core.als_half_sweep(rows_of(rows, dtype), *(read(x, dtype) for x in args[:-1]), args[-1])

    @classmethod
    def completion_error(cls, dtype: str, where: Any, rows: Any, *args: Any) -> Any:
        cls._place(where)
        return _core.completion_error(rows_of(rows, dtype), *(read(x, dtype) for x in args), 1)

    @classmethod
    def predict_entries(cls, dtype: str, where: Any, *args: Any) -> None:
        cls._place(where)
        *parts, rows, cols, out = args
        fit = _core.predict_entries(*(read(x, dtype) for x in parts), read(rows, "i4"), read(cols, "i4"), 1)
        read(out, dtype)[:] = fit

    def __getattr__(self, name: str) -> Any:
        run, suffix = name.rsplit("_", 1)
        dtype = {"f64": "f8", "f32": "f4"}[suffix]
        return lambda *args: getattr(type(self), run)(dtype, *args)


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    held: list[int] = []

    def alloc(size: int) -> Any:
        held.append(size)
        return SimpleNamespace(ptr=4096)

    cupy = types.ModuleType("cupy")
    for name in ("empty", "zeros", "ascontiguousarray", "asarray"):
        make = getattr(np, name)
        setattr(cupy, name, lambda *args, make=make, **options: fake(make(*args, **options)))
    cupy.ndarray = FakeArray  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        alloc=alloc,
        Device=lambda number=None: contextlib.nullcontext(),
        get_current_stream=lambda: SimpleNamespace(ptr=STREAM),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_loader, "cuda_module", FakeModule)
    yield cupy
    assert held  # every test here makes a call


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_call_arrives(fake_cupy: Any, weighted: bool, bias: bool, dtype: str) -> None:
    n1, n2, rank = 40, 30, 3
    _, entries = problem(n1, n2, 2, 0.4, dtype, noise=0.1)
    rows, columns = compressed(n1, n2, entries, weighted)
    options = {**WHOLE, "bias": bias}
    told: list[list[Any]] = [[], []]
    here, there = (factors(n1, n2, rank, bias, dtype) for _ in range(2))
    there = [fake(part) for part in there]

    def tell(where: list[Any]) -> Any:
        return lambda *step: bool(where.append(step))  # type: ignore[func-returns-value]

    expected = _core.complete_matrix(rows, columns, rows, *here, options, tell(told[0]))
    got = gpu.complete_matrix(
        moved(fake_cupy, rows),
        moved(fake_cupy, columns),
        moved(fake_cupy, rows),
        *there,
        options,
        tell(told[1]),
    )
    assert got["rmse_train"] == expected["rmse_train"]
    assert told[0] == told[1]
    assert len(told[0]) == 5
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)
    without = gpu.complete_matrix(
        moved(fake_cupy, rows), moved(fake_cupy, columns), None, *there, options, None
    )
    assert without["nit"] == 5

    x, x_there = here[0].copy(), fake(here[0].copy())
    a, a_there = here[2].copy(), fake(here[2].copy())
    half = {**HALF, "bias": bias}
    one = _core.als_half_sweep(rows, here[1], here[3], x, a, half)
    assert one == gpu.als_half_sweep(
        moved(fake_cupy, rows), fake(here[1]), fake(here[3]), x_there, a_there, half
    )
    np.testing.assert_array_equal(x, x_there)
    np.testing.assert_array_equal(a, a_there)

    error = gpu.completion_error(moved(fake_cupy, rows), *(fake(part) for part in here), 0)
    assert error == _core.completion_error(rows, *here, 1)
    padded = [fake(np.pad(part, ((0, 0), (0, 2)))[:, :rank]) for part in here[:2]]
    assert not padded[0].flags.c_contiguous
    assert gpu.completion_error(moved(fake_cupy, rows), *padded, *map(fake, here[2:]), 0) == error
    i, j = (np.array(k, dtype=np.int32) for k in ([3, 0, 39], [29, 1, 5]))
    fit = gpu.predict_entries(*padded, *map(fake, here[2:]), fake(i), fake(j), 0)
    np.testing.assert_array_equal(fit, _core.predict_entries(*here, i, j, 1))
    assert isinstance(fit, FakeArray)
    assert fit.dtype == dtype


def test_wrong_input_is_named(fake_cupy: Any) -> None:
    _, entries = problem(20, 15, 2, 0.5, "float64")
    host, host_columns = compressed(20, 15, entries, True)
    rows, columns = moved(fake_cupy, host), moved(fake_cupy, host_columns)
    f = [fake(part) for part in factors(20, 15, 2, False, "float64")]
    assert gpu.complete_matrix(rows, columns, None, *f, WHOLE, None)["nit"] == 5

    def half(rows: Any = rows, fixed: Any = f[1], x: Any = f[0], options: dict[str, Any] = HALF) -> Any:
        return gpu.als_half_sweep(rows, fixed, f[3], x, f[2], options)

    for call, error, match in (
        (lambda: half(rows=host), TypeError, r"`rows\[0\]` must be a cupy.ndarray, not ndarray"),
        (lambda: half(rows=(rows[0].astype(np.int32), *rows[1:])), TypeError, r"`rows\[0\]` is int32"),
        (lambda: half(rows=(*rows[:3], rows[3].astype(np.float32))), TypeError, r"`rows\[3\]` is float32"),
        (lambda: half(fixed=f[1][:, 0]), ValueError, r"`fixed` has shape \(15,\)"),
        (lambda: half(fixed=f[1][:, ::-1]), ValueError, "`fixed` must be contiguous"),
        (lambda: half(x=f[0].astype(np.int64)), TypeError, "`x` is int64; float32 or float64"),
        (lambda: half(options={**HALF, "inner": "lowprec"}), ValueError, '`inner` is "lowprec"'),
        (lambda: half(options={**HALF, "nonneg": True}), ValueError, "`nonneg` is True"),
        (
            lambda: gpu.complete_matrix(rows, columns, None, *f, {**WHOLE, "inner": "sketch"}, None),
            ValueError,
            '`inner` is "sketch"',
        ),
    ):
        with pytest.raises(error, match=match):
            call()
    elsewhere = f[1].copy()
    elsewhere.number = 1
    with pytest.raises(TypeError, match="`fixed` is on CUDA device 1"):
        half(fixed=elsewhere)
    places = [fake(np.array(k, dtype=np.int32)) for k in ([1, 2], [3, 15])]
    with pytest.raises(ValueError, match="`cols` has the index 15 at position 1; 0 to 14"):
        gpu.predict_entries(*f, *places, 0)
    with pytest.raises(ValueError, match="`rows` has length 1 but `cols`"):
        gpu.predict_entries(*f, places[0][:1], places[1], 0)
