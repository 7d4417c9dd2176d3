"""Krylov solvers with recycling, preconditioners, and sequences of linear systems."""

from ._batch import solve_batch
from ._gcrodr import gcrodr
from ._linear_result import LinearResult
from ._preconditioners import (
    IC0,
    ILU0,
    ILUT,
    SSOR,
    AdditiveSchwarz,
    BlockJacobi,
    Chebyshev,
    Jacobi,
)
from ._recycle_state import RecycleState
from ._recycling import RecyclingSolver
from ._relaxation import RelaxationSolver, sor, ssor_cg
from ._scipy_api import bicgstab, cg, gcrotmk, gmres, lgmres, minres
from ._sequence import solve_sequence
from ._sequence_result import SequenceResult
from ._short import rcg, rminres
from ._sor_batch import sor_batch
from ._sort import sort_systems, sorting_report

__all__ = [
    "AdditiveSchwarz",
    "BlockJacobi",
    "Chebyshev",
    "IC0",
    "ILU0",
    "ILUT",
    "Jacobi",
    "LinearResult",
    "RecycleState",
    "RecyclingSolver",
    "RelaxationSolver",
    "SSOR",
    "SequenceResult",
    "bicgstab",
    "cg",
    "gcrodr",
    "gcrotmk",
    "gmres",
    "lgmres",
    "minres",
    "rcg",
    "rminres",
    "solve_batch",
    "solve_sequence",
    "sor",
    "sor_batch",
    "sort_systems",
    "sorting_report",
    "ssor_cg",
]
