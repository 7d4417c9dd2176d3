"""Which machine a call runs on, decided by the types of its arrays alone.

NumPy arrays and SciPy sparse matrices run on the CPU, CuPy's on their GPU; every other producer of
DLPack capsules (torch, jax, ...) is taken zero-copy to the device its data lives on, and results go
back to its own library. No array library is imported to find out what an object is.
"""

from __future__ import annotations

import numbers
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _loader
from ._errors import CudaUnavailableError

# Device types of the DLPack standard that one of our backends can read.
_DL_CPU, _DL_CUDA, _DL_CUDA_HOST, _DL_CUDA_MANAGED = 1, 2, 3, 13


@dataclass(frozen=True)
class Place:
    """Where an argument lives: backend ("cpu" or "cuda"), device number, owning library."""

    backend: str
    device: int
    library: str

    def __str__(self) -> str:
        where = "the CPU" if self.backend == "cpu" else f"CUDA device {self.device}"
        return f"{where} ({self.library})"


def _library(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def locate(name: str, x: Any) -> Place | None:
    """Where the parameter `name` with value `x` lives; None for what belongs anywhere.

    None, Python and NumPy scalars are at home on every device. Sequences and whatever else NumPy can
    read count as CPU data.

    Raises
    ------
    TypeError
        For a device that no backend serves.
    """
    if x is None or isinstance(x, numbers.Number | np.generic | str):
        return None
    if isinstance(x, np.ndarray):
        return Place("cpu", 0, "numpy")
    library = _library(x)
    if library in ("cupy", "cupyx"):
        owner = getattr(x, "device", None) or x.data.device  # a sparse matrix keeps it in its data
        return Place("cuda", int(owner.id), "cupy")
    if hasattr(x, "__dlpack_device__") and hasattr(x, "__dlpack__"):
        kind, number = x.__dlpack_device__()
        if int(kind) in (_DL_CPU, _DL_CUDA_HOST):
            return Place("cpu", 0, library)
        if int(kind) in (_DL_CUDA, _DL_CUDA_MANAGED):
            return Place("cuda", int(number), library)
        raise TypeError(
            f"`{name}` is a {library} array on DLPack device type {int(kind)}; "
            "only CPU and CUDA are supported"
        )
    if hasattr(x, "__cuda_array_interface__"):
        return Place("cuda", 0, library)
    return Place("cpu", 0, "numpy")


class Backend:
    """The machine of one call: takes arguments in, gives results back.

    Attributes
    ----------
    name : {"cpu", "cuda"}
        Which backend runs the call.
    device : int
        CUDA device number; 0 on the CPU.
    library : str
        The library that results are returned in.
    xp : module
        numpy, or cupy on a GPU.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.name = place.backend
        self.device = place.device
        self.library = place.library
        self.xp: Any = np
        if place.backend == "cuda":
            import cupy

            self.xp = cupy

    @property
    def is_cuda(self) -> bool:
        """Whether the call runs on a GPU."""
        return self.name == "cuda"

    def take(self, name: str, x: Any) -> Any:
        """`x` as an array of `xp` without a copy, or as it is if it needs no conversion.

        Sparse matrices, scalars and None pass through; sequences are left to `_validate`.
        """
        if x is None or isinstance(x, numbers.Number | np.generic | np.ndarray):
            return x
        library = _library(x)
        if library in ("cupy", "cupyx", "scipy"):
            return x
        if getattr(x, "requires_grad", False) is True:
            raise TypeError(
                f"`{name}` requires grad, which {library} does not export; pass `{name}.detach()`"
            )
        if hasattr(x, "__dlpack__"):
            try:
                return self.xp.from_dlpack(x)
            except (BufferError, RuntimeError, TypeError) as error:
                dtype = getattr(x, "dtype", "unknown")
                raise TypeError(
                    f"`{name}`, a {library} array of dtype {dtype}, cannot be read: {error}"
                ) from error
        if self.is_cuda and hasattr(x, "__cuda_array_interface__"):
            return self.xp.asarray(x)
        return x

    def give(self, x: Any) -> Any:
        """An array of `xp` as one of the caller's library, without a copy; anything else unchanged."""
        if self.library in ("numpy", "cupy") or not isinstance(x, self.xp.ndarray):
            return x
        # The caller holds an array of that library, so it is loaded already.
        module: Any = sys.modules.get(self.library)
        if self.library in ("jax", "jaxlib"):
            module = sys.modules.get("jax.numpy")
        from_dlpack = getattr(module, "from_dlpack", None)
        return x if from_dlpack is None else from_dlpack(x)

    def __reduce__(self) -> tuple[type[Backend], tuple[Place]]:
        return Backend, (self._place,)  # modules do not pickle

    def __repr__(self) -> str:
        return f"<Backend {self.name}:{self.device}, results in {self.library}>"


def select(**arguments: Any) -> Backend:
    """The backend for these arguments, given as ``name=value`` in the order of the signature.

    Raises
    ------
    TypeError
        If two arguments live on different devices, or belong to two libraries other than NumPy and
        CuPy. The message names both.
    CudaUnavailableError
        For GPU data where the GPU path is off; the message says why.

    Examples
    --------
    >>> import numpy as np
    >>> select(a=None, M=np.eye(2), reg=0.1)
    <Backend cpu:0, results in numpy>
    """
    first: tuple[str, Place] | None = None  # decides the device
    owner: tuple[str, Place] | None = None  # decides the library of the results
    for name, value in arguments.items():
        place = locate(name, value)
        if place is None:
            continue
        if first is None:
            first = (name, place)
        elif (first[1].backend, first[1].device) != (place.backend, place.device):
            raise TypeError(
                f"`{first[0]}` is on {first[1]} but `{name}` is on {place}; move both to one device"
            )
        if place.library not in ("numpy", "cupy"):
            if owner is None:
                owner = (name, place)
            elif owner[1].library != place.library:
                raise TypeError(
                    f"`{owner[0]}` is a {owner[1].library} array but `{name}` is a {place.library} array; "
                    "pass arrays of one library"
                )
    if first is None:
        return Backend(Place("cpu", 0, "numpy"))
    name, place = owner or first
    if place.backend == "cuda":
        status = _loader.cuda_status()
        if not status.cupy:
            raise CudaUnavailableError(
                f"`{name}` is on {place}, and CUDA arrays need CuPy; pip install 'aitken[cuda13]'"
            )
        if not status.available:
            raise CudaUnavailableError(f"`{name}` is on {place}, but the GPU path is off: {status.reason}")
    return Backend(place)


def select_cpu(function: str, **arguments: Any) -> Backend:
    """`select` for a `function` without a GPU form: a TypeError names the first argument on a GPU.

    Examples
    --------
    >>> select_cpu("exact_ot", M=[[0.0, 1.0]])
    <Backend cpu:0, results in numpy>
    """
    for name, value in arguments.items():
        place = locate(name, value)
        if place is not None and place.backend != "cpu":
            raise TypeError(
                f"`{name}` is on {place}, but {function} runs on the CPU; pass a copy in host memory"
            )
    return select(**arguments)


__all__ = ["Backend", "Place", "locate", "select", "select_cpu"]
