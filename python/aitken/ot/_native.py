"""The compiled module that serves an array: NumPy's on the CPU, CuPy's on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core


def of(array: Any) -> tuple[Any, Any]:
    """Return (provider of the ``ot_*`` calls, array module) for an array of ours."""
    if isinstance(array, np.ndarray):
        return _core, np
    import cupy

    from . import _cuda_calls

    return _cuda_calls, cupy
