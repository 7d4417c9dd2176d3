"""The compiled module that serves an array: NumPy's on the CPU, CuPy's on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core


def of(array: Any) -> Any:
    """Provider of ``complete_matrix``, ``als_half_sweep``, ``completion_error`` and ``predict_entries``."""
    if isinstance(array, np.ndarray):
        return _core
    from . import _cuda_calls

    return _cuda_calls
