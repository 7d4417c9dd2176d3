"""Loads the compiled modules, hands them SciPy's LAPACK, and knows why the GPU path is off."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from scipy.linalg import cython_blas, cython_lapack

from . import _core


def _fill_lapack_table(module: Any) -> dict[str, str]:
    """Give `module` SciPy's routines; returns those refused, with the reason.

    A refused routine is no import error: the solver that needs it says so, and `aitken.info` lists it.
    """
    sources = (cython_blas.__pyx_capi__, cython_lapack.__pyx_capi__)
    wanted = module.lapack_info()["routines"]
    capsules = {name: source[name] for source in sources for name in wanted if name in source}
    refused: dict[str, str] = module.load_lapack(capsules)
    refused.update({name: "SciPy does not export it" for name in wanted if name not in capsules})
    return refused


lapack_refused = _fill_lapack_table(_core)


@dataclass(frozen=True)
class CudaStatus:
    """Whether the GPU path works, and if not, why and what to do."""

    available: bool
    reason: str
    built: bool
    code: int = 0
    n_devices: int = 0
    cupy: bool = False


def _cuda_built() -> bool:
    return importlib.util.find_spec("aitken._cuda") is not None


@functools.cache
def _import_cuda() -> tuple[ModuleType | None, str]:
    """The compiled CUDA module, or None and the reason."""
    if not _cuda_built():
        return None, (
            "this installation has no CUDA module; install from source with nvcc on PATH "
            "(pip install . with -C cmake.define.AITKEN_CUDA=ON fails loudly where nvcc is missing)"
        )
    try:
        module = importlib.import_module("aitken._cuda")
    except ImportError as error:
        return None, f"the CUDA module does not load: {error}"
    _fill_lapack_table(module)
    module.set_num_threads(_core.get_num_threads(requested=True))
    return module, ""


def has_cupy() -> bool:
    """Whether CuPy is installed; it is not imported to find out."""
    return importlib.util.find_spec("cupy") is not None


def cuda_status() -> CudaStatus:
    """Look for the CUDA module, a driver with a device, and CuPy, in this order."""
    module, reason = _import_cuda()
    if module is None:
        return CudaStatus(False, reason, built=_cuda_built(), cupy=has_cupy())
    count, code, text = module.device_status()
    if code != 0 or count == 0:
        detail = f"CUDA error {code}: {text}" if code != 0 else "the driver reports no device"
        return CudaStatus(False, f"no usable CUDA device ({detail})", True, code, 0, has_cupy())
    if not has_cupy():
        reason = "CuPy is missing, which owns GPU arrays here; pip install 'aitken[cuda13]'"
        return CudaStatus(False, reason, True, 0, count, False)
    return CudaStatus(True, "", True, 0, count, True)


def cuda_module() -> Any:
    """The compiled CUDA module; raises `CudaUnavailableError` with the reason where the GPU is off."""
    from ._errors import CudaUnavailableError

    status = cuda_status()
    if not status.available:
        raise CudaUnavailableError(f"the GPU path is off: {status.reason}")
    return _import_cuda()[0]


def set_num_threads(n: int) -> None:
    """Set the number of threads that native loops use from now on.

    Parameters
    ----------
    n : int
        At least 1; or 0 or -1 for the default: ``OMP_NUM_THREADS`` where it is set, else the CPUs that
        this process may run on.

    Examples
    --------
    >>> import aitken
    >>> aitken.set_num_threads(1)
    >>> aitken.get_num_threads()
    1
    >>> aitken.set_num_threads(0)
    """
    from ._validate import n_threads

    count = n_threads(n)
    _core.set_num_threads(count)
    if _import_cuda.cache_info().currsize:
        module, _ = _import_cuda()
        if module is not None:
            module.set_num_threads(count)


def get_num_threads() -> int:
    """Number of threads that the next native loop would use.

    A limit set through threadpoolctl counts; in a forked child of a process that had used its threads
    the number is 1.
    """
    return int(_core.get_num_threads())
