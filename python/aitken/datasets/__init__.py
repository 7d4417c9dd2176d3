"""Test problems of the solvers, seeded and offline; importing this needs NumPy alone."""

from .heat import HeatSequence
from .transport import (
    EDGE_CASES,
    TransportProblem,
    digits_pair,
    edge_case,
    gaussian_clouds,
    histogram_set,
    image_pair,
    interval_densities,
    photo_colours,
    point_clouds,
    random_assignment,
    random_batch,
    transport_problem,
    transport_problem_names,
)

__all__ = [
    "EDGE_CASES",
    "HeatSequence",
    "TransportProblem",
    "digits_pair",
    "edge_case",
    "gaussian_clouds",
    "histogram_set",
    "image_pair",
    "interval_densities",
    "photo_colours",
    "point_clouds",
    "random_assignment",
    "random_batch",
    "transport_problem",
    "transport_problem_names",
]
