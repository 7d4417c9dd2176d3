"""The compiled module that serves a cost: arrays of NumPy on the CPU, of CuPy on the GPU, or points."""

from __future__ import annotations

from typing import Any

from . import _arrays, _point_cost


def of(cost: Any) -> tuple[Any, Any]:
    """Return (provider of the ``ot_*`` calls, array module) for an array of ours or a `PointCost`."""
    if isinstance(cost, _point_cost.PointCost):
        return _point_cost, cost.xp
    return _arrays.of(cost)


def contiguous(cost: Any) -> Any:
    """The cost with contiguous rows; points have nothing to copy."""
    return cost if isinstance(cost, _point_cost.PointCost) else of(cost)[1].ascontiguousarray(cost)
