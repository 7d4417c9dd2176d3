"""Entropic optimal transport: distances, plans and gradients.

Argument order and names follow POT: ``sinkhorn(a, b, M, reg)``.
"""

from ._cost import dist
from ._plan import LazyPlan
from ._sinkhorn import OTResult, sinkhorn

__all__ = ["LazyPlan", "OTResult", "dist", "sinkhorn"]
