"""Files that are there whole or not at all: written beside, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable; not every platform can open folders."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def publish(target: Path, temporary: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill `temporary`, then give it its name; after an error nothing of it is left."""
    try:
        write(temporary)
        sync_file(temporary)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


def save_npz(
    path: str | os.PathLike[str],
    head: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    name: str = "head",
) -> None:
    """Write arrays, and `head` as JSON under `name`, to an npz file by whatever name."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # given a name, savez would change its ending
            packed = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
            np.savez(file, **{name: packed}, **arrays)  # type: ignore[arg-type]

    publish_as(path, write)


def publish_as(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """`publish` by way of a temporary file beside the target that is this process's own."""
    target = Path(path)
    publish(target, target.with_name(f"{target.name}.{os.getpid()}.tmp"), write)


__all__ = ["publish", "publish_as", "save_npz", "sync_file", "sync_folder"]
