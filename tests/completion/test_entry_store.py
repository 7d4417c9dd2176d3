"""Entries on disk: what is written is what came, and completing them gives what memory gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aitken.completion import EntryStore, _entry_store, matrix_completion


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and blocks even for small matrices."""
    monkeypatch.setattr(_entry_store, "_CHUNK", 300)
    monkeypatch.setattr(_entry_store.EntryStore.blocks, "__defaults__", (257,))


def problem(seed: int = 0, shape: tuple[int, int] = (70, 50)) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    rows, cols = np.nonzero(rng.random(shape) < 0.5)
    order = rng.permutation(len(rows))
    return rows[order], cols[order], M[rows, cols][order]


def write(
    folder: Path, entries: Any, shape: tuple[int, int] = (70, 50), dtype: Any = np.float64
) -> EntryStore:
    parts = 7
    return EntryStore.write(
        folder, (tuple(a[i::parts] for a in entries) for i in range(parts)), shape=shape, dtype=dtype
    )


def test_holds_the_entries_by_rows_and_by_columns(tmp_path: Path) -> None:
    rows, cols, values = problem()
    store = write(tmp_path / "store", (rows, cols, values))
    M = np.full(store.shape, np.nan)
    M[rows, cols] = values
    for side, expected in (("rows", M), ("cols", M.T)):
        indptr = store.indptr(side)
        found = np.full(expected.shape, np.nan)
        blocks = list(store.blocks(side, indptr))
        assert len(blocks) > 5
        for part, (pointers, indices, numbers, weights) in blocks:
            assert weights is None
            for i in range(len(pointers) - 1):
                some = slice(pointers[i], pointers[i + 1])
                assert (np.diff(indices[some]) > 0).all()
                found[part.start + i, indices[some]] = numbers[some]
        assert np.array_equal(found, expected, equal_nan=True)
    assert store.nnz == len(rows)
    assert store.mean == pytest.approx(values.mean())
    assert store.rms == pytest.approx(np.sqrt(np.mean(values**2)))
    assert not list((tmp_path / "store").glob("raw.*"))
    assert repr(EntryStore(tmp_path / "store")) == repr(store)


@pytest.mark.parametrize(
    "options",
    [
        {"lam": 0.3},
        {"lam": 0.3, "bias": True},
        {"lam": 0.02, "lam_scaling": "degree"},
        {"lam": 0.3, "inner": "cg", "finalize": False},
        {"lam": 0.3, "inner": "qcg"},
        {"lam": 0.3, "nonneg": True},
        {"lam": 0.3, "implicit": True, "alpha": 2.0},
        {},
    ],
    ids=str,
)
def test_gives_what_memory_gives(tmp_path: Path, options: dict[str, Any]) -> None:
    entries = problem(1)
    if options.get("nonneg") or options.get("implicit"):
        entries = (*entries[:2], np.abs(entries[2]))
    store = write(tmp_path, entries)
    rng = np.random.default_rng(2)
    init = rng.random((70, 3)), rng.random((50, 3))
    options = options | {"maxiter": 5, "tol": 0.0, "init": init, "rng": 0}
    with pytest.warns(UserWarning, match="sweeps are used up|iteration limit"):
        disk = matrix_completion(store, 3, **options)
    with pytest.warns(UserWarning, match="sweeps are used up"):
        memory = matrix_completion(entries, 3, shape=store.shape, **options)
    assert np.abs(disk.to_dense() - memory.to_dense()).max() < 1e-8
    assert disk.fun == pytest.approx(memory.fun, rel=1e-8)
    assert disk.rmse_train == pytest.approx(memory.rmse_train, rel=1e-8)
    assert np.allclose(disk.history["rmse_train"], memory.history["rmse_train"], rtol=1e-7)


def test_recovers_and_stops(tmp_path: Path) -> None:
    rows, cols, values = problem(3)
    store = write(tmp_path, (rows, cols, values), dtype=np.float32)
    result = matrix_completion(store, 3, rng=0)
    assert result.success
    assert result.U.dtype == np.float32
    assert np.abs(result.predict(rows, cols) - values).max() < 1e-3


def test_holdout_and_callback(tmp_path: Path) -> None:
    rows, cols, values = problem(4)
    noisy = values + np.random.default_rng(5).standard_normal(len(values))
    store = write(tmp_path, (rows[300:], cols[300:], noisy[300:]))
    held = rows[:300], cols[:300], noisy[:300]
    result = matrix_completion(store, 10, lam=1e-2, holdout=held, maxiter=200, rng=0)
    assert "stopped early" in result.message
    error = result.predict(*held[:2]) - held[2]
    assert result.rmse_holdout == pytest.approx(np.sqrt(np.mean(error**2)))

    def stop(intermediate_result: Any) -> None:
        raise StopIteration

    assert matrix_completion(store, 3, callback=stop, rng=0).nit == 1


def test_duplicates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"entry \(1, 2\) more than once"):
        EntryStore.write(tmp_path, [([1], [2], [1.0]), ([0, 1], [1, 2], [1.0, 2.0])], shape=(3, 4))
    assert not list(tmp_path.glob("store.json")) + list(tmp_path.glob("*.new.npy"))
    write(tmp_path, problem())
    with pytest.raises(ValueError, match="more than once"):
        EntryStore.write(tmp_path, [([1, 1], [2, 2], [1.0, 1.0])], shape=(3, 4))
    with pytest.raises(FileNotFoundError):  # and not a mixture of the two
        EntryStore(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"robust": True},
        {"lam_path": True},
        {"loss": "l1"},
        {"holdout": 0.1},
        {"init": "spectral"},
        {"weights": np.ones(3)},
        {"shape": (70, 50)},
        {"dtype": np.float32},
        {"duplicates": "last"},
    ],
)
def test_what_needs_memory_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    store = write(tmp_path, problem())
    with pytest.raises(ValueError, match="`"):
        matrix_completion(store, 3, **options)


def test_bad_stores(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EntryStore(tmp_path)
    with pytest.raises(ValueError, match="no known entry"):
        EntryStore.write(tmp_path, [], shape=(3, 4))
    with pytest.raises(ValueError, match="`dtype`"):
        EntryStore.write(tmp_path, [], shape=(3, 4), dtype=np.int32)
    with pytest.raises(ValueError, match="index 3"):
        EntryStore.write(tmp_path, [([3], [0], [1.0])], shape=(3, 4))
    (tmp_path / "store.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99"):
        EntryStore(tmp_path)
