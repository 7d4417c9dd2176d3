"""Entropic optimal transport: distances, plans and gradients.

Argument order and names follow POT: ``sinkhorn(a, b, M, reg)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._barycenter import BarycenterResult, barycenter
from ._batch import OTBatchResult, sinkhorn_batch
from ._cost import dist
from ._divergence import DivergenceResult, sinkhorn_divergence
from ._exact import ExactResult, exact_ot
from ._grid import GridPlan, GridResult, sinkhorn_grid
from ._line import wasserstein_1d
from ._pairwise import PairwiseResult, pairwise_distances
from ._plan import LazyPlan
from ._points import OTPointsResult, sinkhorn_points
from ._quadratic import QuadraticResult, quadratic_ot
from ._sinkhorn import OTResult, sinkhorn
from ._sparse_ot import SparseOTResult, sparse_ot

if TYPE_CHECKING:
    from ._estimators import OTDistance, OTKernel
    from ._transport import SinkhornTransport

# Built on scikit-learn, which loads when they are asked for.
_ESTIMATORS = {"OTDistance": "_estimators", "OTKernel": "_estimators", "SinkhornTransport": "_transport"}

__all__ = [
    "BarycenterResult",
    "DivergenceResult",
    "ExactResult",
    "GridPlan",
    "GridResult",
    "LazyPlan",
    "OTBatchResult",
    "OTDistance",
    "OTKernel",
    "OTPointsResult",
    "OTResult",
    "PairwiseResult",
    "QuadraticResult",
    "SinkhornTransport",
    "SparseOTResult",
    "barycenter",
    "dist",
    "exact_ot",
    "pairwise_distances",
    "quadratic_ot",
    "sinkhorn",
    "sinkhorn_batch",
    "sinkhorn_divergence",
    "sinkhorn_grid",
    "sinkhorn_points",
    "sparse_ot",
    "wasserstein_1d",
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
