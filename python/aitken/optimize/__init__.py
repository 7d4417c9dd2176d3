"""Constrained minimisation: one problem as `scipy.optimize.minimize` takes it, or a batch of small ones."""

from __future__ import annotations

from ._batch import BatchResult, sketched_newton_batch
from ._result import OptimizationResult
from ._sketched_newton import sketched_newton

__all__ = ["BatchResult", "OptimizationResult", "sketched_newton", "sketched_newton_batch"]
