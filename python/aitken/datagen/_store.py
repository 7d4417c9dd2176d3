"""Files of a data set: chains published whole, a manifest that pins the run, a lock, the final layouts.

Everything is written to another name, synchronised and renamed, so a file that has its name is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .._files import publish

__all__ = ["LAYOUTS", "Store", "check_layout", "read_rows"]

Array = NDArray[Any]
Blocks = Callable[[Sequence[str]], Iterator[tuple[int, dict[str, Array]]]]

LAYOUTS = ("fno", "pdebench", "npz", "neuralop")
_HDF5 = ("fno", "pdebench")
_SUFFIXES: dict[str, tuple[str, ...]] = {
    ".npz": ("npz",),
    ".pt": ("neuralop",),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".mat": _HDF5,
}
_NAMES = {  # of inputs and solutions
    "fno": ("coeff", "sol"),
    "npz": ("coeff", "sol"),
    "pdebench": ("nu", "tensor"),
    "neuralop": ("x", "y"),
}


def check_layout(layout: str, out: Path) -> None:
    """Raise before the first sample is solved where the last step could not write the file."""
    for_suffix = _SUFFIXES.get(out.suffix.lower(), LAYOUTS)
    if layout not in for_suffix:
        wanted = " or ".join(map(repr, for_suffix))
        raise ValueError(f"`out` is {out.name!r}, but `layout` {layout!r} is another format; use {wanted}")
    if layout in _HDF5:
        try:
            import h5py  # noqa: F401
        except ImportError:
            raise ImportError(
                f"`layout` {layout!r} needs h5py: pip install 'aitken[io]', or use layout='npz'"
            ) from None
    if layout == "neuralop":
        try:
            import torch  # noqa: F401
        except ImportError:
            raise ImportError(
                "`layout` 'neuralop' needs torch: pip install 'aitken[train]', or use layout='npz'"
            ) from None


# ------------------------------------------------------------------------------------------- safe writing


def _error_number(error: Exception) -> int | None:
    """The number of an error of the system; HDF5 hides it in its text, torch behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        found = re.search(r"errno = (\d+)", str(cause))
        if found:
            return int(found[1])
        cause = cause.__cause__ or cause.__context__
    return None


# -------------------------------------------------------------------------------------------------- lock

_held: set[str] = set()
_held_guard = threading.Lock()


class _Lock:
    """A lock file that a killed process, or a child forked from this one, cannot leave locked.

    POSIX record locks belong to the process, so runs inside one process are told apart by `_held`.
    """

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self.out = path, out
        self.key = str(path.resolve())
        self.file: IO[bytes] | None = None

    def acquire(self) -> None:
        with _held_guard:
            if self.key in _held:
                raise self._busy()
            _held.add(self.key)
        try:
            while True:
                self.path.parent.mkdir(exist_ok=True)
                try:
                    file = open(self.path, "ab")
                except FileNotFoundError:  # a run that just ended removed the folder
                    continue
                try:
                    _lock_file(file)
                    same = os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
                except FileNotFoundError:
                    same = False
                except OSError as error:
                    file.close()
                    if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                        raise self._busy() from None
                    raise
                if same:
                    self.file = file
                    return
                file.close()  # locked a file that was removed meanwhile
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
        with _held_guard:
            _held.discard(self.key)

    def _busy(self) -> BlockingIOError:
        return BlockingIOError(errno.EAGAIN, "another run is writing this data set", str(self.out))


if sys.platform == "win32":

    def _lock_file(file: IO[bytes]) -> None:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:

    def _lock_file(file: IO[bytes]) -> None:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ------------------------------------------------------------------------------------------------- store


class Store:
    """The folder ``<out>.parts`` of a run and the file it becomes.

    Parameters
    ----------
    out : Path
        The final file.
    layout : str
        One of `LAYOUTS`.
    manifest : dict
        Everything that the data depend on, as JSON values.
    """

    def __init__(self, out: Path, layout: str, manifest: dict[str, Any]) -> None:
        self.out, self.layout, self.manifest = out, layout, manifest
        self.folder = out.with_name(out.name + ".parts")
        text = json.dumps(manifest, sort_keys=True)
        self.run = hashlib.sha256(text.encode()).hexdigest()
        self._lock = _Lock(self.folder / "lock", out)

    def open(self, *, resume: bool, overwrite: bool) -> bool:
        """Take the lock and get ready to publish; True where the finished file is there already."""
        if self.out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "`out` is a folder; a file name is needed", str(self.out))
        if not self.out.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "`out` lies in a folder that does not exist", str(self.out))
        self._refuse_existing(resume, overwrite)
        try:
            self._lock.acquire()
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(error.errno, f"`out` cannot be written: {error.strerror}", str(self.out)) from None
        try:
            self._refuse_existing(resume, overwrite)  # another run may have ended meanwhile
            path = self.folder / "manifest.json"
            if resume and self.out.exists():
                finished = read_manifest(self.out, self.layout)
                if finished == self.manifest:
                    self._remove()
                    return True
                if not path.exists():  # with parts, the file is what an unfinished run is to replace
                    self._compare(finished, str(self.out))
            if overwrite:
                self._remove_parts()
            for rest in self.folder.glob("*.tmp"):
                rest.unlink()
            if path.exists():
                self._compare(json.loads(path.read_text(encoding="utf-8")), str(self.folder))
            else:
                self._remove_parts()
                text = json.dumps(self.manifest, sort_keys=True, indent=1)
                self._publish("manifest.json", lambda p: _write_text(p, text))
        except BaseException:
            self.close()
            raise
        return False

    def _refuse_existing(self, resume: bool, overwrite: bool) -> None:
        if resume or overwrite:
            return
        if self.out.exists():
            raise FileExistsError(
                errno.EEXIST, "`out` exists; pass overwrite=True to replace it", str(self.out)
            )
        if (self.folder / "manifest.json").exists():
            text = (
                "an unfinished run of `out` exists; pass resume=True to finish it, overwrite=True to drop it"
            )
            raise FileExistsError(errno.EEXIST, text, str(self.folder))

    def _compare(self, other: dict[str, Any] | None, where: str) -> None:
        """ValueError unless the run that left files was this one."""
        if other is None:
            raise ValueError(f"`resume`: {where} was not written by aitken.datagen")
        changed = [
            f"`{key}` was {other.get(key)!r} and is {self.manifest.get(key)!r}"
            for key in sorted({*other, *self.manifest})
            if other.get(key) != self.manifest.get(key)
        ]
        if changed:
            raise ValueError(f"`resume`: {where} belongs to another run: {'; '.join(changed)}")

    def _publish(self, name: str, write: Callable[[Path], None]) -> None:
        with self._advice():
            publish(self.folder / name, self.folder / f"{name}.tmp", write)

    @contextlib.contextmanager
    def _advice(self) -> Iterator[None]:
        """Errors of the disk say what became of the run and what to do."""
        try:
            yield
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            number = _error_number(error)
            if number is None:
                raise
            text = f"{os.strerror(number)}; what was published is kept, and resume=True goes on from there"
            raise OSError(number, text, str(self.out)) from error

    # orders and chains ---------------------------------------------------------------------------------

    def order(self, block: int) -> Array | None:
        """The order of a block's samples if it is published; it never changes afterwards."""
        path = self.folder / f"order-{block:06d}.npy"
        try:
            order: Array = np.load(path)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        return order

    def publish_order(self, block: int, order: Array) -> None:
        self._publish(f"order-{block:06d}.npy", lambda p: _write_npy(p, order))

    def chain_path(self, chain: tuple[int, int]) -> Path:
        return self.folder / f"chain-{chain[0]:06d}-{chain[1]:06d}.npz"

    def chain_rows(self, chain: tuple[int, int]) -> dict[str, Array] | None:
        """The records of a published chain without its fields, None where it is not there or damaged."""
        names = ("index", "residual", "status", "nit", "solver", "reason")
        try:
            # Opened here: what numpy opens itself stays open where it is no archive.
            with open(self.chain_path(chain), "rb") as raw, np.load(raw) as file:
                return {name: file[name] for name in names}
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
            return None

    def publish_chain(self, chain: tuple[int, int], arrays: dict[str, Array]) -> None:
        def write(path: Path) -> None:
            with open(path, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

        self._publish(self.chain_path(chain).name, write)

    # the end -------------------------------------------------------------------------------------------

    def finish(
        self,
        n: int,
        blocks: Blocks,
        kinds: dict[str, Array],
        fixed: dict[str, Array],
        used: dict[str, str],
    ) -> None:
        """Assemble the final file, give it its name, and only then remove the parts.

        Parameters
        ----------
        n : int
            Number of samples.
        blocks : callable
            ``blocks(names)`` yields ``(start, arrays)`` over all samples in order.
        kinds : dict
            Name -> one row, for shape and dtype.
        fixed : dict
            What is stored once: coordinates ``axis0``, ..., and ``mask``.
        used : dict
            Solver -> why it was chosen.
        """
        kinds, fixed, attributes = dict(kinds), dict(fixed), dict(self.manifest)
        attributes["solver"] = ",".join(used)
        attributes["reason"] = json.dumps(used)
        attributes["manifest"] = json.dumps(self.manifest, sort_keys=True)
        axes = [fixed.pop(f"axis{k}") for k in range(sum(name.startswith("axis") for name in fixed))]
        names = dict(zip(("inputs", "solutions"), _NAMES[self.layout], strict=True))
        if self.layout == "pdebench":
            # (N, 1, H, W): one snapshot in time
            kinds["solutions"] = kinds["solutions"][None]
            fixed |= {f"{c}-coordinate": a for c, a in zip("xyz", axes[::-1], strict=False)}
        writer = {"npz": _write_npz, "neuralop": _write_torch}.get(self.layout, _write_hdf5)
        with self._advice():
            publish(
                self.out,
                self.folder / "final.tmp",
                lambda p: writer(p, n, blocks, kinds, names, fixed, attributes),
            )
        self._remove()

    def _remove_parts(self) -> None:
        """Remove what a run leaves, and nothing else; the manifest first, so that a rest is not resumed."""
        for pattern in ("manifest.json", "order-*.npy", "chain-*.npz", "*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _remove(self) -> None:
        self._remove_parts()
        with contextlib.suppress(OSError):
            self._lock.path.unlink()
            self.folder.rmdir()

    def close(self) -> None:
        """Release the lock; a folder without a finished chain is not worth resuming, and goes."""
        if not any(self.folder.glob("chain-*.npz")):
            with contextlib.suppress(OSError):
                self._remove_parts()
            with contextlib.suppress(OSError):
                self._lock.path.unlink()
                self.folder.rmdir()
        self._lock.release()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _write_npy(path: Path, array: Array) -> None:
    with open(path, "wb") as file:
        np.save(file, array)


# ----------------------------------------------------------------------------------------------- layouts


def _write_hdf5(
    path: Path,
    n: int,
    blocks: Blocks,
    kinds: dict[str, Array],
    names: dict[str, str],
    fixed: dict[str, Array],
    attributes: dict[str, Any],
) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for key, value in attributes.items():
            file.attrs[key] = json.dumps(value) if isinstance(value, dict | list) else value
        for name, array in fixed.items():
            file.create_dataset(name, data=array, track_times=False)
        sets = {
            name: file.create_dataset(
                names.get(name, name), shape=(n, *row.shape), dtype=row.dtype, track_times=False
            )
            for name, row in kinds.items()
        }
        for start, arrays in blocks(list(kinds)):
            for name, array in arrays.items():
                sets[name][start : start + len(array)] = array.reshape(-1, *kinds[name].shape)


def _write_npz(
    path: Path,
    n: int,
    blocks: Blocks,
    kinds: dict[str, Array],
    names: dict[str, str],
    fixed: dict[str, Array],
    attributes: dict[str, Any],
) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def member(name: str) -> IO[bytes]:
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        for name, array in (*fixed.items(), ("attributes", np.array(json.dumps(attributes, sort_keys=True)))):
            with member(name) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        for name, row in kinds.items():
            with member(names.get(name, name)) as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(row.dtype),
                    "fortran_order": False,
                    "shape": (n, *row.shape),
                }
                np.lib.format.write_array_header_1_0(file, header)
                for _, arrays in blocks([name]):
                    file.write(np.ascontiguousarray(arrays[name]).data)


def _write_torch(
    path: Path,
    n: int,
    blocks: Blocks,
    kinds: dict[str, Array],
    names: dict[str, str],
    fixed: dict[str, Array],
    attributes: dict[str, Any],
) -> None:
    """One dict of tensors, as neural-operator libraries load it; the only layout held in memory whole."""
    import torch

    full = {name: np.empty((n, *row.shape), row.dtype) for name, row in kinds.items()}
    for start, arrays in blocks(list(kinds)):
        for name, array in arrays.items():
            full[name][start : start + len(array)] = array
    tensors: dict[str, Any] = {names.get(k, k): torch.from_numpy(v) for k, v in full.items()}
    tensors |= {name: torch.from_numpy(np.array(array)) for name, array in fixed.items()}
    with open(path, "wb") as file:  # a file object: the archive's inner name must not follow the path
        torch.save({**tensors, "attributes": json.dumps(attributes, sort_keys=True)}, file)


def read_manifest(path: Path, layout: str) -> dict[str, Any] | None:
    """The manifest inside a finished file; None for a file that is not one of ours."""
    try:
        attributes = _read(path, layout, ())[1]
        manifest: dict[str, Any] = json.loads(attributes["manifest"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile):
        return None
    return manifest


def read_rows(path: Path, layout: str) -> tuple[dict[str, Array], dict[str, str]]:
    """The records per sample of a finished file (residual, status, nit); its solvers and why."""
    arrays, attributes = _read(path, layout, ("residual", "status", "nit"))
    used: dict[str, str] = json.loads(attributes["reason"])
    return arrays, used


def _read(path: Path, layout: str, names: Sequence[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    if layout == "npz":
        with np.load(path) as file:
            return {name: file[name] for name in names}, json.loads(str(file["attributes"]))
    if layout == "neuralop":
        import torch

        tensors = torch.load(path, weights_only=True)
        return {name: tensors[name].numpy() for name in names}, json.loads(tensors["attributes"])
    import h5py

    with h5py.File(path, "r") as file:
        return {name: file[name][:] for name in names}, dict(file.attrs)
