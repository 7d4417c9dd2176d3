"""Solvers for sequences and batches of related problems, on CPUs and GPUs.

The submodules load on first use: ``aitken.ot`` (optimal transport), ``aitken.linalg`` (sequences of linear
systems), ``aitken.tune`` (solver parameters learned online), ``aitken.completion`` (low-rank matrices from
some of their entries), ``aitken.optimize`` (minimisation under constraints), ``aitken.datagen``,
``aitken.datasets``, ``aitken.compat`` (other libraries' names over these solvers).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _core
from ._errors import ConvergenceWarning, CudaError, CudaUnavailableError, RecoveryWarning
from ._info import info
from ._loader import get_num_threads, set_num_threads
from ._result import Result, Status

if TYPE_CHECKING:
    from . import compat, completion, datagen, datasets, linalg, optimize, ot, tune

__version__: str = _core.build_info()["version"]

_SUBMODULES = ("ot", "linalg", "tune", "completion", "optimize", "datagen", "datasets", "compat")

__all__ = [
    "ConvergenceWarning",
    "CudaError",
    "CudaUnavailableError",
    "RecoveryWarning",
    "Result",
    "Status",
    "__version__",
    "compat",
    "completion",
    "datagen",
    "datasets",
    "get_num_threads",
    "info",
    "linalg",
    "optimize",
    "ot",
    "set_num_threads",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
