"""What computes with an array: the compiled module of NumPy's, the calls for CuPy's."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core


def of(array: Any) -> tuple[Any, Any]:
    """Return (provider of the ``ot_*`` calls, array module) for an array."""
    if isinstance(array, np.ndarray):
        return _core, np
    import cupy

    from . import _cuda_calls

    return _cuda_calls, cupy


def to_numpy(x: Any) -> np.ndarray:
    """Return an array of NumPy or CuPy as one of NumPy."""
    return x if isinstance(x, np.ndarray) else x.get()
