"""Known entries on disk, completed block by block: matrices larger than memory."""

from __future__ import annotations

import json
import math
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._files import publish
from .._progress import Monitor
from .._result import Status, warn_not_converged
from ._completion_result import CompletionResult, finished, penalty
from ._entries import Entries, Rows, implicit_entries, take_entries

if TYPE_CHECKING:
    from ._matrix_completion import _Settings

_CHUNK = 1 << 22  # entries sorted at a time: some 150 MB
_BLOCK = 1 << 23  # entries of a block of a half sweep: 64 MB in float32
_FORMAT = 1


class EntryStore:
    """Known entries of a matrix in a folder of memory-mapped arrays, by rows and by columns.

    `matrix_completion` reads it block by block, each entry twice per sweep and in order, and keeps only the
    factors in memory. Make one with `EntryStore.write`, open it again with ``EntryStore(path)``.

    Parameters
    ----------
    path : path-like
        The folder.

    Attributes
    ----------
    shape : (int, int)
    nnz : int
    dtype : numpy.dtype
        Of the values: float32 or float64.
    mean, rms : float
        Of the values.

    Raises
    ------
    FileNotFoundError, ValueError
        Where the folder holds no store, or one of another format.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from aitken.completion import EntryStore, matrix_completion
    >>> rng = np.random.default_rng(0)
    >>> M = rng.standard_normal((80, 2)) @ rng.standard_normal((2, 60))
    >>> rows, cols = np.nonzero(rng.random(M.shape) < 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     chunks = ((rows[i::3], cols[i::3], M[rows[i::3], cols[i::3]]) for i in range(3))
    ...     store = EntryStore.write(folder, chunks, shape=M.shape, dtype=np.float64)
    ...     result = matrix_completion(store, 2, lam=1e-6, maxiter=60, rng=0)
    >>> bool(np.abs(result.to_dense() - M).max() < 1e-3)
    True
    """

    def __init__(self, path: Any) -> None:
        self.path = Path(path)
        with open(self.path / "store.json", encoding="utf-8") as file:
            facts = json.load(file)
        if facts.get("format") != _FORMAT:
            raise ValueError(
                f"`path` {self.path} holds a store of format {facts.get('format')}, not {_FORMAT}"
            )
        self.shape: tuple[int, int] = (facts["shape"][0], facts["shape"][1])
        self.nnz: int = facts["nnz"]
        self.dtype = np.dtype(facts["dtype"])
        self.mean: float = facts["mean"]
        self.rms: float = facts["rms"]

    @classmethod
    def write(
        cls,
        path: Any,
        chunks: Iterable[tuple[Any, Any, Any]],
        *,
        shape: tuple[int, int],
        dtype: Any = np.float32,
    ) -> EntryStore:
        """Write entries that come in chunks, in any order, and open the store.

        Parameters
        ----------
        path : path-like
            A folder, made where there is none.
        chunks : iterable of (rows, cols, values)
            Read once. No place may come twice.
        shape : (int, int)
        dtype : float32 (default) or float64

        Returns
        -------
        EntryStore
        """
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"`dtype` must be float32 or float64; got {kind}")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        counts = [np.zeros(int(n), dtype=np.int64) for n in shape]
        total = square = 0.0
        raw = [folder / f"raw.{name}" for name in ("rows", "cols", "values")]
        (folder / "store.json").unlink(missing_ok=True)  # what is there is no store until it is written whole
        try:
            with open(raw[0], "wb") as f0, open(raw[1], "wb") as f1, open(raw[2], "wb") as f2:
                for number, chunk in enumerate(chunks):
                    e = take_entries(
                        f"chunks[{number}]", tuple(chunk), shape=shape, dtype=kind, allow_empty=True
                    )
                    for count, index in zip(counts, (e.row, e.col), strict=True):
                        count += np.bincount(index, minlength=len(count))
                    total += float(e.values.sum(dtype=np.float64))
                    square += float(np.square(e.values, dtype=np.float64).sum())
                    for file, array in zip((f0, f1, f2), (e.row, e.col, e.values), strict=True):
                        array.tofile(file)
            nnz = int(counts[0].sum())
            if nnz == 0:
                raise ValueError("`chunks` has no known entry")
            indptr = [np.concatenate([[0], np.cumsum(c)]) for c in counts]
            for name, pointers in zip(("rows", "cols"), indptr, strict=True):
                np.save(folder / f"{name}.indptr.npy", pointers)
            given = _Coordinates(
                *(np.memmap(f, dtype=t, mode="r") for f, t in zip(raw, ("i4", "i4", kind), strict=True))
            )
            # Each pass keeps the order of the one before within a row: after two more both are ascending.
            _distribute(folder, "cols", given, 1, indptr[1], kind)
            _distribute(folder, "rows", _Ordered(folder, "cols", indptr[1]), 0, indptr[0], kind, check=True)
            _distribute(folder, "cols", _Ordered(folder, "rows", indptr[0]), 1, indptr[1], kind)
        finally:
            for path_of in (*raw, *folder.glob("*.new.npy")):
                path_of.unlink(missing_ok=True)
        facts = {
            "format": _FORMAT, "shape": [int(n) for n in shape], "nnz": nnz, "dtype": kind.name,
            "mean": total / nnz, "rms": math.sqrt(square / nnz),
        }  # fmt: skip
        text = json.dumps(facts)
        publish(folder / "store.json", folder / "store.json.part", lambda p: _write_text(p, text))
        return cls(folder)

    def indptr(self, side: str) -> np.ndarray:
        """Where each row ("rows") or column ("cols") begins, in memory: (n + 1,) int64."""
        return np.load(self.path / f"{side}.indptr.npy")

    def blocks(self, side: str, indptr: np.ndarray, entries: int = _BLOCK) -> Iterator[tuple[slice, Rows]]:
        """Blocks of whole rows of about `entries` entries: (which rows, compressed rows).

        They lie in the file's pages, which are given back when the next block is asked for.
        """
        indices = np.load(self.path / f"{side}.indices.npy", mmap_mode="r")
        values = np.load(self.path / f"{side}.values.npy", mmap_mode="r")
        first = 0
        while first < len(indptr) - 1:
            last = int(np.searchsorted(indptr, indptr[first] + entries, side="right")) - 1
            last = min(max(last, first + 1), len(indptr) - 1)
            part = slice(int(indptr[first]), int(indptr[last]))
            yield (
                slice(first, last),
                (indptr[first : last + 1] - indptr[first], indices[part], values[part], None),
            )
            for array in (indices, values):
                _release(array, part)
            first = last

    def __repr__(self) -> str:
        return f"<EntryStore {self.shape}, {self.nnz} entries of {self.dtype}, at {self.path}>"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


class _Coordinates:
    """Raw entries as they came."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray, values: np.ndarray) -> None:
        self.arrays = (rows, cols, values)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for first in range(0, len(self.arrays[0]), _CHUNK):
            part = slice(first, first + _CHUNK)
            yield tuple(np.array(a[part]) for a in self.arrays)  # type: ignore[misc]
            for a in self.arrays:
                _release(a, part)


class _Ordered:
    """Entries of a store in the order of one of its sides."""

    def __init__(self, folder: Path, side: str, indptr: np.ndarray) -> None:
        self.folder, self.side, self.indptr = folder, side, indptr

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        indices = np.load(self.folder / f"{self.side}.indices.npy", mmap_mode="r")
        values = np.load(self.folder / f"{self.side}.values.npy", mmap_mode="r")
        for first in range(0, len(indices), _CHUNK):
            last = min(first + _CHUNK, len(indices))
            part = slice(first, last)
            major = (np.searchsorted(self.indptr, np.arange(first, last), side="right") - 1).astype(np.int32)
            minor = np.array(indices[part])
            pair = (major, minor) if self.side == "rows" else (minor, major)
            yield *pair, np.array(values[part])
            for a in (indices, values):
                _release(a, part)


def _distribute(
    folder: Path,
    side: str,
    source: Any,
    axis: int,
    indptr: np.ndarray,
    dtype: np.dtype[Any],
    check: bool = False,
) -> None:
    """Entries of `source` into compressed rows or columns, each in the order in which they come."""
    nnz = int(indptr[-1])
    new = {name: folder / f"{side}.{name}.new.npy" for name in ("indices", "values")}
    indices = np.lib.format.open_memmap(new["indices"], mode="w+", dtype=np.int32, shape=(nnz,))
    values = np.lib.format.open_memmap(new["values"], mode="w+", dtype=dtype, shape=(nnz,))
    place = indptr[:-1].copy()
    for rows, cols, numbers in source.chunks():
        major, minor = (rows, cols) if axis == 0 else (cols, rows)
        order = np.argsort(major, kind="stable")
        sorted_major = major[order]
        starts = np.flatnonzero(np.r_[True, sorted_major[1:] != sorted_major[:-1]])
        lengths = np.diff(np.r_[starts, len(order)])
        keys = sorted_major[starts]
        to = np.repeat(place[keys] - starts, lengths) + np.arange(len(order))
        indices[to] = minor[order]
        values[to] = numbers[order]
        place[keys] += lengths
        for array in (indices, values):
            array.flush()
            _release(array, slice(0, nnz))
    if check:
        _check_distinct(indices, indptr)
    del indices, values
    for name, path in new.items():
        os.replace(path, folder / f"{side}.{name}.npy")


def _check_distinct(indices: np.ndarray, indptr: np.ndarray) -> None:
    """Raise ValueError where an entry is there twice; rows are ascending."""
    for first in range(0, len(indices), _CHUNK):
        part = np.array(indices[first : first + _CHUNK + 1])
        for at in first + 1 + np.flatnonzero(part[1:] == part[:-1]):
            row = int(np.searchsorted(indptr, at, side="right")) - 1
            if indptr[row] < at:
                raise ValueError(f"`chunks` gives entry ({row}, {int(indices[at])}) more than once")


def _release(array: np.ndarray, part: slice) -> None:
    """Give the pages of a part of a memory-mapped array back to the system."""
    base: Any = getattr(array, "_mmap", None)
    if base is None:
        return
    offset = int(getattr(array, "offset", 0)) % mmap.ALLOCATIONGRANULARITY
    page = mmap.PAGESIZE
    begin = (offset + part.start * array.itemsize) // page * page
    end = min(offset + min(part.stop, len(array)) * array.itemsize, len(base))
    if hasattr(mmap, "MADV_DONTNEED") and end > begin:
        base.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def complete_store(
    store: EntryStore, s: _Settings, *, init: Any, holdout: Any, monitor: Monitor, rng: np.random.Generator,
    start: float,
) -> CompletionResult:  # fmt: skip
    """`matrix_completion` of a store: the sweeps of the driver, over blocks, with the factors in memory.

    Bytes read per sweep: 2 nnz (4 + size of a value), in order. Factors: 2 (n1 + n2) k numbers.
    """
    for name, used in (
        ("robust", s.robust), ("sample_splitting", s.sample_splitting), ('rank="auto"', s.rank == "auto"),
        ("lam_path", s.lam_path is not None), ("implicit with holdout", s.implicit and holdout is not None),
        ('loss != "linear"', s.loss != "linear"),
    ):  # fmt: skip
        if used:
            raise ValueError(f"`{name}` is not for an EntryStore: it needs the entries in memory")
    if holdout is not None and not isinstance(holdout, tuple):
        raise ValueError(
            "`holdout` of an EntryStore must be (rows, cols, values): entries that it does not hold"
        )
    stream = _Stream(store, s, rng)
    stream.begin(init)
    held = None
    if holdout is not None:
        held = take_entries("holdout", holdout, shape=store.shape, dtype=store.dtype, duplicates="mean")
    limit = s.maxiter if s.maxiter is not None else (30 if s.lam > 0 else 100)
    ending = stream.iterate(limit, held, monitor)
    monitor.close(ending == "tolerance")
    result = stream.finish(ending, held)
    result.time = time.perf_counter() - start
    changes = result.history["rmse_train"][-2:]
    change = abs(changes[0] - changes[-1]) / changes[-1] if len(changes) == 2 and changes[-1] else 0.0
    warn_not_converged(
        result, solver="matrix_completion", quantity="relative change of the training RMSE", error=change,
        target=s.tol,
    )  # fmt: skip
    from ._matrix_completion import doubts_of_recovery, warn_of_doubts

    doubts = doubts_of_recovery(result, store.nnz) if s.pure else []
    warn_of_doubts(result, doubts, implicit=s.implicit)
    return result


class _Stream:
    """Factors in memory and sweeps over the blocks of a store."""

    def __init__(self, store: EntryStore, s: _Settings, rng: np.random.Generator) -> None:
        assert isinstance(s.rank, int)
        self.store, self.s, self.rng, self.rank = store, s, rng, s.rank
        self.mu = store.mean if s.center else 0.0
        rms = math.sqrt(max(store.rms**2 - (store.mean**2 if s.center else 0.0), 0.0))
        self.scale = rms if s.pure and rms > 0 else 1.0
        self.indptr = {side: store.indptr(side) for side in ("rows", "cols")}
        self.options = s.half | {"inner": s.inner_for(s.rank, store.dtype), "n_threads": s.n_threads}
        self.options["seed"] = int(rng.integers(2**63))
        self.history: dict[str, list[float]] = {
            name: [] for name in ("rmse_train", "rmse_holdout", "lam", "rank", "inner_iterations", "time")
        }
        self.retries = 0
        # What rounding leaves; csrc/drivers/completion.hpp has the same.
        relative = 1e-11 if store.dtype == np.float64 else 16 * float(np.finfo(np.float32).eps)
        self.noise = relative * rms / self.scale

        # As in matrix_completion: what the error over all entries has beside the sum over the known ones.
        self.constant, self.weight = 0.0, float(store.nnz)
        if s.implicit:
            self.weight = float(store.shape[0]) * store.shape[1]
            for _, given in store.blocks("rows", self.indptr["rows"]):
                _, _, targets, weights = self.values_of(given)
                self.constant -= float(targets.sum(dtype=np.float64))
                self.weight += float(weights.sum(dtype=np.float64))

    def begin(self, init: Any) -> None:
        """Random factors, or the caller's."""
        n, k, dtype = self.store.shape, self.rank, self.store.dtype
        biases = n if self.s.bias else (0, 0)
        self.a, self.b = (np.zeros(size, dtype=dtype) for size in biases)
        if isinstance(init, str):
            _validate.choice("init", init, ("auto", "random"))
            deviation = 1 / math.sqrt(k)
            self.u, self.v = (self.rng.standard_normal((size, k)).astype(dtype) * deviation for size in n)
            if self.s.nonneg:
                self.u, self.v = np.abs(self.u), np.abs(self.v)
            return
        if isinstance(init, CompletionResult):
            pair = (init.U, init.V)
            if self.s.bias and init.row_bias is not None:
                self.a[...], self.b[...] = init.row_bias / self.scale, init.col_bias / self.scale
        else:
            try:
                pair = tuple(init)
            except TypeError:
                raise TypeError(
                    f'`init` must be "random", a pair or a CompletionResult, not {init!r}'
                ) from None
            if len(pair) != 2:
                raise ValueError(f"`init` has {len(pair)} items; a pair (U0, V0) is needed")
        root = math.sqrt(1 / self.scale)
        self.u, self.v = (
            np.array(_validate.as_float_array(f"init[{i}]", f, shape=(size, k), dtype=dtype))
            * dtype.type(root)
            for i, (f, size) in enumerate(zip(pair, n, strict=True))
        )
        if self.s.nonneg:
            self.u, self.v = np.maximum(self.u, 0), np.maximum(self.v, 0)

    def values_of(self, rows: Rows) -> Rows:
        """A block's entries as the half sweep wants them: centred and scaled."""
        indptr, indices, values, _ = rows
        if self.s.implicit:
            empty = np.empty(0, dtype=np.int32)
            e = implicit_entries(Entries((0, 0), indptr, empty, indices, values, None, np), self.s.alpha)
            return indptr, indices, e.values, e.weights
        if self.mu != 0 or self.scale != 1:
            values = ((values - values.dtype.type(self.mu)) / self.scale).astype(values.dtype)
        return indptr, indices, values, None

    def half_sweep(self, side: str) -> tuple[float, int]:
        """Solve for one factor; (squared error, inner iterations)."""
        mine, fixed = (self.u, self.v) if side == "rows" else (self.v, self.u)
        bias, fixed_bias = (self.a, self.b) if side == "rows" else (self.b, self.a)
        error, iterations = 0.0, 0
        known = self.options["inner"] != "exact" and not self.s.nonneg
        for part, given in self.store.blocks(side, self.indptr[side]):
            rows = self.values_of(given)
            x, x_bias = mine[part], bias[part] if self.s.bias else bias
            options = self.options | {"first_row": part.start, "sweep": len(self.history["rmse_train"])}
            report = _core.als_half_sweep(rows, fixed, fixed_bias, x, x_bias, options)
            iterations += report["inner_iterations"]
            self.retries += report["n_pivot_retries"]
            if known:
                error += report["squared_error"]
            elif side == "rows":
                error += _core.completion_error(rows, x, fixed, x_bias, fixed_bias, self.s.n_threads)
        if not known and self.s.implicit:
            error += float(np.sum((self.u.T @ self.u).astype(np.float64) * (self.v.T @ self.v)))
        return error, iterations

    def sweep(self, begun: float) -> float:
        """Both half sweeps; the training RMSE behind them, in the scale of the data given."""
        iterations = self.half_sweep("cols")[1]
        if self.s.pure:
            self.v, r = np.linalg.qr(self.v)
            self.u = self.u @ r.T
        error, more = self.half_sweep("rows")
        if self.s.pure:
            self.u, r = np.linalg.qr(self.u)
            self.v = self.v @ r.T
        error += self.constant
        rmse = math.sqrt(max(error, 0.0) / self.weight) if math.isfinite(error) else math.nan
        for name, value in (
            ("rmse_train", rmse * self.scale), ("lam", self.s.lam), ("rank", self.rank),
            ("inner_iterations", iterations + more), ("time", time.perf_counter() - begun),
        ):  # fmt: skip
            self.history[name].append(value)
        return rmse

    def held_error(self, held: Entries) -> float:
        """RMSE of entries in memory."""
        e = self.values_of((held.indptr, held.col, held.values, None))
        total = _core.completion_error(e, self.u, self.v, self.a, self.b, self.s.n_threads)
        return math.sqrt(total / max(len(held), 1)) * self.scale

    def iterate(self, limit: int, held: Entries | None, monitor: Monitor) -> str:
        """Sweeps until a rule holds; its name."""
        begun, last, small, waiting = time.perf_counter(), math.inf, 0, 0
        best: tuple[np.ndarray, ...] | None = None
        finite: tuple[np.ndarray, ...]
        best_error = math.inf
        for _ in range(limit):
            finite = tuple(f.copy() for f in (self.u, self.v, self.a, self.b))
            rmse = self.sweep(begun)
            if not math.isfinite(rmse):
                self.u, self.v, self.a, self.b = finite
                return "nonfinite"
            error = math.nan if held is None else self.held_error(held)
            self.history["rmse_holdout"].append(error)
            if monitor({"rank": self.rank, "lam": self.s.lam, "rmse_train": rmse * self.scale,
                        "rmse_holdout": error, "err": rmse}):  # fmt: skip
                return "callback"
            if rmse <= max(self.s.atol_rmse / self.scale, self.noise):
                return "floor"
            if held is not None:
                waiting = 0 if error < best_error * (1 - 1e-4) else waiting + 1
                if error < best_error:
                    best_error = error
                    best = tuple(f.copy() for f in (self.u, self.v, self.a, self.b))
                if waiting >= self.s.patience and best is not None:
                    self.u, self.v, self.a, self.b = best
                    return "holdout"
            small = small + 1 if abs(last - rmse) <= self.s.tol * rmse else 0
            if small >= 2:
                return "tolerance"
            last = rmse
        return "sweeps"

    def finish(self, ending: str, held: Entries | None) -> CompletionResult:
        """The answer, its errors recomputed."""
        from ._matrix_completion import ENDINGS

        s, dtype = self.s, self.store.dtype
        if (
            s.finalize
            and ending in ("tolerance", "sweeps")
            and self.options["inner"] != "exact"
            and not s.nonneg
        ):
            self.options["inner"] = "exact"
            self.sweep(time.perf_counter())
            self.history["rmse_holdout"].append(math.nan)
        root, full = dtype.type(math.sqrt(self.scale)), dtype.type(self.scale)
        u, v, values = finished(
            self.u * root, self.v * root, np, nonneg=s.nonneg, weighted=s.half["lam_by_degree"] and s.lam > 0
        )
        status = {
            "sweeps": Status.MAX_ITERATIONS, "callback": Status.STOPPED_BY_CALLBACK,
            "nonfinite": Status.NONFINITE,
        }.get(ending, Status.CONVERGED)  # fmt: skip
        result = CompletionResult(
            U=u, V=v, s=values, row_bias=self.a * full if s.bias else None,
            col_bias=self.b * full if s.bias else None, mu=self.mu, rank=self.rank,
            success=status == Status.CONVERGED, status=status, message=ENDINGS[ending],
        )  # fmt: skip
        error = 0.0
        a, b = result._biases()
        self.scale = 1.0
        for part, given in self.store.blocks("rows", self.indptr["rows"]):
            rows = self.values_of(given)
            error += _core.completion_error(rows, u[part], v, a[part] if s.bias else a, b, s.n_threads)
        result.nit = len(self.history["rmse_train"])
        if s.implicit:
            error += float(np.sum((u.T @ u).astype(np.float64) * (v.T @ v))) + self.constant
        result.rmse_train = math.sqrt(max(error, 0.0) / self.weight)
        result.rmse_holdout = math.nan
        if held is not None:
            self.u, self.v, self.a, self.b = u, v, a, b
            result.rmse_holdout = self.held_error(held)
        degrees = [np.diff(self.indptr[side]) for side in ("rows", "cols")]
        weights = degrees if s.half["lam_by_degree"] else [1.0, 1.0]
        result.fun = error + penalty((u, v), (a, b), weights, s.lam)
        n1, n2 = self.store.shape
        result.oversampling = self.store.nnz / (self.rank * (n1 + n2 - self.rank))
        unknowns = self.rank + int(s.bias)
        result.n_underdetermined = (
            sum(int(((d > 0) & (d < unknowns)).sum()) for d in degrees)
            if s.lam == 0 and not s.implicit
            else 0
        )
        result.n_empty_rows, result.n_empty_cols = (int((d == 0).sum()) for d in degrees)
        result.n_pivot_retries = self.retries
        result.history = {name: np.array(column) for name, column in self.history.items()}
        result._options = {
            "lam": s.lam, "lam_scaling": "degree" if s.half["lam_by_degree"] else "none", "nonneg": s.nonneg,
            "implicit": s.implicit, "alpha": s.alpha,
        }  # fmt: skip
        return result


__all__ = ["EntryStore"]
