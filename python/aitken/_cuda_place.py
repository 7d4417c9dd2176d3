"""Where a native call on a GPU runs: the device of its arrays, CuPy's current stream and memory pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import _loader


@contextmanager
def cuda_place(array: Any) -> Iterator[tuple[Any, tuple[int, int, Callable[[int], int]]]]:
    """The compiled module and (device, stream, allocate) for the device of `array`."""
    import cupy

    module = _loader.cuda_module()
    held = []  # to the end of the call: then the pool may hand it out again, in the order of the stream

    def allocate(size: int) -> int:
        held.append(cupy.cuda.alloc(size))
        return int(held[-1].ptr)

    with cupy.cuda.Device(array.device.id):
        yield module, (array.device.id, cupy.cuda.get_current_stream().ptr, allocate)


__all__ = ["cuda_place"]
