"""Low-rank matrices from some of their entries, or from other linear measurements."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._completion_result import CompletionResult
from ._entry_store import EntryStore
from ._half_sweep import als_half_sweep
from ._matrix_completion import matrix_completion
from ._sensing import SensingResult, matrix_sensing

if TYPE_CHECKING:
    from ._factorization import MatrixFactorization
    from ._imputer import LowRankImputer

# Built on scikit-learn, which loads when they are asked for.
_ESTIMATORS = {"LowRankImputer": "_imputer", "MatrixFactorization": "_factorization"}

__all__ = [
    "CompletionResult",
    "EntryStore",
    "LowRankImputer",
    "MatrixFactorization",
    "SensingResult",
    "als_half_sweep",
    "matrix_completion",
    "matrix_sensing",
]


def __getattr__(name: str) -> Any:
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_ESTIMATORS[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError(f"{name} needs scikit-learn; pip install 'aitken[sklearn]'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_ESTIMATORS})
