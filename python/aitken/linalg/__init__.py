"""Krylov solvers with recycling, preconditioners, and sequences of linear systems."""

from ._batch import solve_batch
from ._deepcg import PreparedModel, as_preconditioner, deep_conjugate_direction, prepare
from ._deepcg_files import list_models, load_model, save_model
from ._deepcg_setup import Multigrid
from ._deepcg_training import train_model
from ._gcrodr import gcrodr
from ._grid_poisson import GridPoisson
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
    "GridPoisson",
    "IC0",
    "ILU0",
    "ILUT",
    "Jacobi",
    "LinearResult",
    "Multigrid",
    "PreparedModel",
    "RecycleState",
    "RecyclingSolver",
    "RelaxationSolver",
    "SSOR",
    "SequenceResult",
    "as_preconditioner",
    "bicgstab",
    "cg",
    "deep_conjugate_direction",
    "gcrodr",
    "gcrotmk",
    "gmres",
    "lgmres",
    "list_models",
    "load_model",
    "minres",
    "prepare",
    "rcg",
    "rminres",
    "save_model",
    "solve_batch",
    "solve_sequence",
    "sor",
    "sor_batch",
    "sort_systems",
    "sorting_report",
    "ssor_cg",
    "train_model",
]
