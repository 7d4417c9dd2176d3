"""Training data for neural operators: families of systems, seeded fields, a factory that can be resumed."""

from ._families import Family, families, make_family
from ._fields import gaussian_random_field, stream
from ._generate import GenerateResult, generate

__all__ = [
    "Family",
    "GenerateResult",
    "families",
    "gaussian_random_field",
    "generate",
    "make_family",
    "stream",
]
