"""Test problems of the solvers, seeded and offline; importing this needs NumPy and SciPy alone."""

from .completion import (
    CompletionProblem,
    image_with_gaps,
    low_rank_problem,
    power_law_pattern,
    read_colorado_climate,
    read_movielens_100k,
)
from .heat import HeatSequence
from .optimize import ConstrainedProblem, constrained_logistic, elliptic_control
from .poisson import SmokePlume, obstacle_mask, poisson_rhs
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
    "CompletionProblem",
    "ConstrainedProblem",
    "EDGE_CASES",
    "HeatSequence",
    "SmokePlume",
    "TransportProblem",
    "constrained_logistic",
    "digits_pair",
    "edge_case",
    "elliptic_control",
    "gaussian_clouds",
    "histogram_set",
    "image_pair",
    "image_with_gaps",
    "interval_densities",
    "low_rank_problem",
    "obstacle_mask",
    "photo_colours",
    "point_clouds",
    "poisson_rhs",
    "power_law_pattern",
    "random_assignment",
    "random_batch",
    "read_colorado_climate",
    "read_movielens_100k",
    "transport_problem",
    "transport_problem_names",
]
