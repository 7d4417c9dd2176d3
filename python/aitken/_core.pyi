"""The compiled CPU module. tests/packaging/test_stubs.py holds this page against the module itself."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

def build_info() -> dict[str, Any]: ...
def get_num_threads(*, requested: bool = False) -> int: ...
def lapack_info() -> dict[str, Any]: ...
def load_lapack(capsules: dict[str, object]) -> dict[str, str]: ...
def philox_normal(seed: int, purpose: int, batch: int, iteration: int, n: int) -> NDArray[np.float64]: ...
def philox_uniform(seed: int, purpose: int, batch: int, iteration: int, n: int) -> NDArray[np.float64]: ...
def set_num_threads(n: int) -> None: ...
def simd_level() -> str: ...
def simd_levels_supported() -> list[str]: ...

# Transport. Costs and plans are float32 or float64 with contiguous rows; everything else is float64.
_Cost: TypeAlias = NDArray[np.float64] | NDArray[np.float32]
_Vector: TypeAlias = NDArray[np.float64]
_Real: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

def ot_pairs_solve(
    axes: list[_Vector],
    A: _Vector,
    B: _Vector,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    value: _Vector,
    linear: _Vector,
    err: _Vector,
    nit: NDArray[np.int64],
    status: NDArray[np.int32],
    x: _Vector | None,
    y: _Vector | None,
    options: dict[str, Any],
) -> dict[str, Any]: ...
def ot_grid_solve(
    axes: list[_Vector], a: _Vector, b: _Vector, x: _Vector, y: _Vector, options: dict[str, Any]
) -> dict[str, Any]: ...
def ot_grid_log(axes: list[_Vector], reg: float, t: _Vector, out: _Vector, n_threads: int) -> None: ...
def ot_barycenter(
    M: _Vector, A: _Vector, weights: _Vector, x: _Vector, p: _Vector, options: dict[str, Any]
) -> dict[str, Any]: ...
def ot_inspect(M: _Cost, n_threads: int) -> dict[str, Any]: ...
def ot_solve(
    M: _Cost,
    a: _Vector,
    b: _Vector,
    range: float,
    x: _Vector,
    y: _Vector,
    plan: _Cost | None,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]: ...
def ot_solve_batch(
    M: list[_Cost],
    a: list[_Vector | None],
    b: list[_Vector | None],
    reg: _Vector,
    f: list[_Vector],
    g: list[_Vector],
    plan: list[_Cost] | None,
    options: dict[str, Any],
    loose: float,
) -> dict[str, Any]: ...
def ot_adjoint(
    M: _Cost,
    a: _Vector,
    b: _Vector,
    range: float,
    x: _Vector,
    y: _Vector,
    w: _Vector,
    z: _Vector,
    p: _Vector,
    q: _Vector,
    plan: _Cost | None,
    options: dict[str, Any],
) -> dict[str, Any]: ...
def ot_quadratic(
    M: _Cost,
    a: _Vector,
    b: _Vector,
    range: float,
    x: _Vector,
    y: _Vector,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]: ...
def ot_topk(
    M: _Cost,
    a: _Vector,
    b: _Vector,
    range: float,
    x: _Vector,
    y: _Vector,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]: ...
def ot_exact(
    M: _Cost, a: _Vector, b: _Vector, x: _Vector, y: _Vector, options: dict[str, Any]
) -> dict[str, Any]: ...
def ot_hard_transform(
    M: _Cost, transposed: bool, potential: _Vector, out: _Vector, n_threads: int
) -> None: ...
def ot_support(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    w: _Vector,
    z: _Vector,
    p: _Vector,
    q: _Vector,
) -> float: ...
def ot_plan_times(
    M: _Cost, reg: float, x: _Vector, y: _Vector, transposed: bool, v: _Vector, out: _Vector, n_threads: int
) -> None: ...
def ot_plan_rows(
    M: _Cost, reg: float, x: _Vector, y: _Vector, first: int, out: _Cost, n_threads: int
) -> None: ...
def ot_c_transform(
    M: _Cost, reg: float, transposed: bool, potential: _Vector, out: _Vector, n_threads: int
) -> None: ...
def ot_compress(
    M: _Cost, reg: float, x: _Vector, y: _Vector, a: _Vector, b: _Vector, drop: float, n_threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], _Vector]: ...

# The same between clouds of points, float64 matrices with contiguous rows.
def ot_points_solve(
    X: _Vector,
    Y: _Vector,
    metric: str,
    a: _Vector,
    b: _Vector,
    range: float,
    x: _Vector,
    y: _Vector,
    plan: _Vector | None,
    options: dict[str, Any],
    callback: Callable[[dict[str, Any]], bool] | None,
) -> dict[str, Any]: ...
def ot_points_adjoint(
    X: _Vector,
    Y: _Vector,
    metric: str,
    a: _Vector,
    b: _Vector,
    range: float,
    x: _Vector,
    y: _Vector,
    w: _Vector,
    z: _Vector,
    p: _Vector,
    q: _Vector,
    plan: _Vector | None,
    options: dict[str, Any],
) -> dict[str, Any]: ...
def ot_points_times(
    X: _Vector,
    Y: _Vector,
    metric: str,
    reg: float,
    x: _Vector,
    y: _Vector,
    v: _Vector,
    out: _Vector,
    n_threads: int,
) -> None: ...
def ot_points_rows(
    X: _Vector,
    Y: _Vector,
    metric: str,
    reg: float,
    x: _Vector,
    y: _Vector,
    first: int,
    out: _Cost,
    n_threads: int,
) -> None: ...
def ot_points_transform(
    X: _Vector, Y: _Vector, metric: str, reg: float, potential: _Vector, out: _Vector, n_threads: int
) -> None: ...
def ot_points_pull(
    X: _Vector, Y: _Vector, metric: str, reg: float, x: _Vector, y: _Vector, out: _Vector, n_threads: int
) -> None: ...
def ot_points_compress(
    X: _Vector,
    Y: _Vector,
    metric: str,
    reg: float,
    x: _Vector,
    y: _Vector,
    a: _Vector,
    b: _Vector,
    drop: float,
    n_threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], _Vector]: ...

# Sparse matrices, preconditioners and callers' functions as linear maps. The F64 kinds take float64 arrays,
# the C128 kinds complex128; x and y are vectors, or have several contiguous columns, and do not overlap.
_Indices: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
_Values: TypeAlias = NDArray[np.float64] | NDArray[np.complex128]

class CsrPattern:
    """Compressed rows that passed every check; a copy that nobody can change."""

    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    @property
    def sorted(self) -> bool: ...
    @property
    def unique(self) -> bool: ...
    def matches(self, indptr: NDArray[np.int64], indices: _Indices) -> bool: ...

class LinearMapF64:
    @property
    def size(self) -> int: ...
    @property
    def varies(self) -> bool: ...
    def apply(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None: ...
    def apply_adjoint(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None: ...

class LinearMapC128:
    @property
    def size(self) -> int: ...
    @property
    def varies(self) -> bool: ...
    def apply(self, x: NDArray[np.complex128], y: NDArray[np.complex128]) -> None: ...
    def apply_adjoint(self, x: NDArray[np.complex128], y: NDArray[np.complex128]) -> None: ...

class CallbackMapF64(LinearMapF64): ...
class CallbackMapC128(LinearMapC128): ...

# Of the properties a map has those of its kind: IC(0) shift, ILUT fill, Chebyshev interval, SSOR omega.
class MatrixMapF64(LinearMapF64):
    omega: float
    @property
    def nnz(self) -> int: ...
    @property
    def shift(self) -> float: ...
    @property
    def fill(self) -> int: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    def update(self, data: NDArray[np.float64]) -> None: ...

class MatrixMapC128(LinearMapC128):
    omega: float
    @property
    def nnz(self) -> int: ...
    @property
    def shift(self) -> float: ...
    @property
    def fill(self) -> int: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    def update(self, data: NDArray[np.complex128]) -> None: ...

_MatrixMap: TypeAlias = MatrixMapF64 | MatrixMapC128

def csr_pattern(
    rows: int,
    cols: int,
    indptr: NDArray[np.int64],
    indices: _Indices,
    data: _Values | None,
    name: str,
    unit: str,
) -> CsrPattern: ...
def csr_map(pattern: CsrPattern, data: _Values) -> _MatrixMap: ...
def jacobi_map(pattern: CsrPattern, data: _Values) -> _MatrixMap: ...
def block_jacobi_map(pattern: CsrPattern, data: _Values, starts: NDArray[np.int64]) -> _MatrixMap: ...
def ssor_map(pattern: CsrPattern, data: _Values, omega: float) -> _MatrixMap: ...
def ilu0_map(pattern: CsrPattern, data: _Values, modified: bool) -> _MatrixMap: ...
def ilut_map(pattern: CsrPattern, data: _Values, drop: float, fill: int) -> _MatrixMap: ...
def ic0_map(pattern: CsrPattern, data: _Values, modified: float) -> _MatrixMap: ...
def chebyshev_map(
    pattern: CsrPattern, data: _Values, degree: int, lo: float, hi: float, ratio: float
) -> _MatrixMap: ...
def schwarz_map(
    pattern: CsrPattern, data: _Values, starts: NDArray[np.int64], overlap: int, exact: bool
) -> _MatrixMap: ...
def callback_map(
    n: int,
    apply: Callable[[NDArray[Any]], Any],
    adjoint: Callable[[NDArray[Any]], Any] | None,
    varies: bool,
    name: str,
    is_complex: bool,
) -> CallbackMapF64 | CallbackMapC128: ...
def complex_map(real: LinearMapF64) -> LinearMapC128: ...

# CG, MINRES and BiCGSTAB. `x` is the start, then the answer; U and C = A U are columns, in Fortran order.
def short_recurrence_solve(
    A: LinearMapF64 | LinearMapC128,
    M: LinearMapF64 | LinearMapC128 | None,
    b: _Values,
    x: _Values,
    options: dict[str, Any],
    U: _Values | None,
    C: _Values | None,
    same_matrix: bool,
    callback: Callable[[int, float, float, Any], bool] | None,
) -> dict[str, Any]: ...

# Relaxation of systems of one pattern, rows sorted. `data` (N, nnz), or (nnz,) for all; `x` the starts, then
# the answers.
def sor_batch(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.float64],
    b: NDArray[np.float64],
    x: NDArray[np.float64],
    shifts: _Vector | None,
    omegas: _Vector,
    options: dict[str, Any],
) -> dict[str, Any]: ...

# SOR and SSOR-CG. `x` is the start, then the answer. callback(nit, residual, target, x) -> stop.

class Sweeper:
    def __init__(
        self, pattern: CsrPattern, data: NDArray[np.float64], order: str, rows: NDArray[np.int32]
    ) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def levels(self) -> int: ...
    @property
    def stencil(self) -> bool: ...
    def update(self, data: NDArray[np.float64]) -> None: ...
    def sor(
        self,
        b: NDArray[np.float64],
        x: NDArray[np.float64],
        shift: float,
        options: dict[str, Any],
        callback: Callable[[int, float, float, Any], bool] | None,
    ) -> dict[str, Any]: ...
    def ssor_cg(
        self,
        b: NDArray[np.float64],
        x: NDArray[np.float64],
        shift: float,
        options: dict[str, Any],
        callback: Callable[[int, float, float, Any], bool] | None,
    ) -> dict[str, Any]: ...
    def estimate(
        self, b: NDArray[np.float64], shift: float, steps: int, with_delta: bool, n_threads: int
    ) -> dict[str, Any]: ...

def is_stencil(pattern: CsrPattern, data: NDArray[np.float64]) -> bool: ...
def sor_complex(
    pattern: CsrPattern,
    data: NDArray[np.complex128],
    b: NDArray[np.complex128],
    x: NDArray[np.complex128],
    shift: float,
    options: dict[str, Any],
    callback: Callable[[int, float, float, Any], bool] | None,
) -> dict[str, Any]: ...

# Matrix completion. Entries are (indptr, indices, values, weights or None) in compressed rows; factors (n, k)
# and biases (n,), of size 0 without, are the start, then the answer. callback(sweep, rank, lam, rmse_train,
# rmse_holdout) gives whether to stop.
_Entries = tuple[NDArray[np.int64], NDArray[np.int32], _Real, _Real | None]

def complete_matrix(
    rows: _Entries,
    columns: _Entries,
    holdout: _Entries | None,
    u: _Real,
    v: _Real,
    a: _Real,
    b: _Real,
    options: dict[str, Any],
    callback: Callable[[int, int, float, float, float], bool] | None,
) -> dict[str, Any]: ...
def als_half_sweep(
    rows: _Entries, fixed: _Real, fixed_bias: _Real, x: _Real, x_bias: _Real, options: dict[str, Any]
) -> dict[str, Any]: ...
def completion_error(rows: _Entries, u: _Real, v: _Real, a: _Real, b: _Real, n_threads: int) -> float: ...
def predict_entries(
    u: _Real, v: _Real, a: _Real, b: _Real, rows: NDArray[np.int32], cols: NDArray[np.int32], n_threads: int
) -> _Real: ...

# (indptr, indices, source, duplicates): entry p of the result is the given entry source[p].
def sort_entries(
    n_rows: int, n_cols: int, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], int]: ...

# GCRO-DR, GMRES, LGMRES and GCROT. `x` is the start, then the answer; several columns are in Fortran order.
# callback(iteration, residual, target, x or None) gives whether to stop; x after cycles only.
def krylov_solve(
    A: LinearMapF64 | LinearMapC128,
    M: LinearMapF64 | LinearMapC128 | None,
    b: _Values,
    x: _Values,
    options: dict[str, Any],
    U: _Values | None,
    C: _Values | None,
    same_matrix: bool,
    outer_u: _Values | None,
    outer_c: _Values | None,
    callback: Callable[[int, float, float, Any], bool] | None,
    every_step: bool,
) -> dict[str, Any]: ...
def krylov_solve_columns(
    A: LinearMapF64 | LinearMapC128,
    M: LinearMapF64 | LinearMapC128 | None,
    b: _Values,
    x: _Values,
    options: dict[str, Any],
    U: _Values | None,
    C: _Values | None,
    same_matrix: bool,
) -> dict[str, Any]: ...
def krylov_solve_block(
    A: LinearMapF64 | LinearMapC128,
    M: LinearMapF64 | LinearMapC128 | None,
    b: _Values,
    x: _Values,
    options: dict[str, Any],
    U: _Values | None,
    C: _Values | None,
    same_matrix: bool,
) -> dict[str, Any]: ...

# Sequences on one checked pattern. Systems are rows of `data`, `b`, `params` and `x`.
def run_chain(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: _Values,
    b: _Values,
    params: _Vector | None,
    chain: NDArray[np.int64],
    options: dict[str, Any],
    x: _Values,
    recycle: _Values | None,
    progress: Callable[[int, int, float], bool] | None,
    abort: Callable[[], bool] | None = None,
) -> dict[str, Any]: ...
def factor_cost(indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> tuple[int, float]: ...

class Session64:
    def __init__(self, A: LinearMapF64, M: LinearMapF64 | None, options: dict[str, Any]) -> None: ...
    def solve(
        self,
        A: LinearMapF64,
        M: LinearMapF64 | None,
        b: NDArray[np.float64],
        x: NDArray[np.float64],
        params: _Vector,
        same_matrix: bool,
        start_given: bool,
        abort: Callable[[], bool] | None = None,
    ) -> dict[str, Any]: ...
    def restart(self) -> None: ...

class Session128c:
    def __init__(self, A: LinearMapC128, M: LinearMapC128 | None, options: dict[str, Any]) -> None: ...
    def solve(
        self,
        A: LinearMapC128,
        M: LinearMapC128 | None,
        b: NDArray[np.complex128],
        x: NDArray[np.complex128],
        params: _Vector,
        same_matrix: bool,
        start_given: bool,
        abort: Callable[[], bool] | None = None,
    ) -> dict[str, Any]: ...
    def restart(self) -> None: ...

# A tuner of arms 0 to arms - 1. token = -1: the last suggestion with keep=False.
class Tuner:
    def suggest(self, context: float, keep: bool) -> tuple[int, int]: ...
    def observe(self, cost: float, token: int, failed: bool) -> None: ...
    def discard(self, token: int) -> None: ...
    def replay(self, arm: int, context: float, cost: float) -> None: ...
    def probabilities(self, context: float) -> NDArray[np.float64]: ...
    def best(self, context: float) -> int: ...
    def limit(self) -> float: ...
    def stats(self) -> tuple[dict[str, Any], list[int], list[int]]: ...
    def history(self) -> dict[str, NDArray[np.float64]]: ...
    def save(self) -> dict[str, list[float]]: ...
    def restore(self, state: dict[str, list[float]]) -> None: ...

def make_tuner(method: str, arms: int, options: dict[str, Any]) -> Tuner: ...

# Sketch-and-project on K z = b with symmetric K, and CountSketch. `z` is the start, then the answer. Matrices
# are arrays, or (indptr, indices, data, columns).
_Matrix = NDArray[np.float64] | tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64], int]

def sketch_project(
    K: _Matrix, b: NDArray[np.float64], z: NDArray[np.float64], options: dict[str, Any]
) -> dict[str, Any]: ...
def count_sketch(W: _Matrix, rows: int, seed: int, draw: int, n_threads: int) -> NDArray[np.float64]: ...
def count_sketch_map(
    rows: int, sketched: int, seed: int, draw: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]: ...

# Constrained minimisation: L D L^T of symmetric indefinite matrices. factor() returns the numbers of
# positive, negative and zero pivots and whether all was finite; solve() x, the residual relative to b in the
# infinity norm, and the refinements.
class IndefiniteFactor:
    @staticmethod
    def dense(n: int) -> IndefiniteFactor: ...
    @staticmethod
    def sparse(n: int, indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> IndefiniteFactor: ...
    @property
    def size(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    @property
    def flops(self) -> float: ...
    def factor(self, values: _Vector, n_primal: int, shift: float) -> tuple[int, int, int, bool]: ...
    def solve(self, b: _Vector, rtol: float, max_steps: int) -> tuple[_Vector, float, int]: ...

# Batches of small constrained problems. Records are (count, numbers) and (count, tags); batch_layout says
# what is where in them. `problem`: which problems rows of values belong to; `rows`: which rows of those.
class BatchNewton:
    def __init__(
        self,
        numbers: NDArray[np.float64],
        tags: NDArray[np.int32],
        n: int,
        m: int,
        xl: NDArray[np.float64],
        xu: NDArray[np.float64],
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        options: dict[str, Any],
    ) -> None: ...
    def begin(self, starts: NDArray[np.float64], lam: NDArray[np.float64] | None) -> None: ...
    def points(self, problem: NDArray[np.int32]) -> NDArray[np.float64]: ...
    def hessian_points(
        self, problem: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def judge(
        self,
        problem: NDArray[np.int32],
        f: NDArray[np.float64],
        g: NDArray[np.float64],
        c: NDArray[np.float64],
        j: NDArray[np.float64],
    ) -> NDArray[np.uint8]: ...
    def direct(
        self,
        problem: NDArray[np.int32],
        f: NDArray[np.float64],
        g: NDArray[np.float64],
        c: NDArray[np.float64],
        j: NDArray[np.float64],
        rows: NDArray[np.int32],
        hessian: NDArray[np.float64] | None,
        next: NDArray[np.uint8],
    ) -> None: ...
    def conclude(
        self,
        problem: NDArray[np.int32],
        f: NDArray[np.float64],
        g: NDArray[np.float64],
        c: NDArray[np.float64],
        j: NDArray[np.float64],
        status_of_others: int,
    ) -> None: ...

def batch_layout(n: int, m: int) -> dict[str, int]: ...
def solve_kkt_batch(
    h: NDArray[np.float64],
    d: NDArray[np.float64],
    j: NDArray[np.float64],
    sigma: NDArray[np.float64],
    rx: NDArray[np.float64],
    rc: NDArray[np.float64],
    rs: NDArray[np.float64],
    shift: NDArray[np.float64],
    regular: NDArray[np.float64],
    xi: float,
    n_threads: int,
) -> tuple[
    NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]
]: ...
def solve_symmetric_batch(
    a: NDArray[np.float64], b: NDArray[np.float64], n_threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]: ...

# Convolutional networks on grids: three axes, the first 1 in two dimensions. `layers` are flat weights and
# biases in the order of application; `level` is a SIMD level, "" for that of the process.
def has_bf16() -> bool: ...
def geometry_fields(
    ndim: int, weights: list[NDArray[np.float32]], features: NDArray[np.float32], level: str, n_threads: int
) -> NDArray[np.float32]: ...

class NetworkWeights:
    def __init__(
        self,
        ndim: int,
        down: int,
        coarse: int,
        up: int,
        layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
        dtype: str,
        level: str,
    ) -> None: ...
    def network(self, shape: tuple[int, ...]) -> DirectionNetwork: ...

class DirectionNetwork:
    @property
    def shape(self) -> list[int]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def flops(self) -> float: ...
    def apply(
        self, r: NDArray[Any], z: NDArray[Any], keep: NDArray[np.float64] | None, n_threads: int
    ) -> None: ...

# The Poisson operator of a grid and its multigrid: three axes with leading ones; vectors of all cells, or
# (compact) of FLUID cells alone.
class PoissonGrid:
    def __init__(
        self,
        ndim: int,
        shape: tuple[int, ...],
        periodic: tuple[bool, ...],
        scale: tuple[float, ...],
        variable: bool,
    ) -> None: ...
    def update(
        self,
        flags: NDArray[np.uint8] | None,
        faces: tuple[NDArray[np.float64] | None, ...],
        open: tuple[tuple[bool, ...], ...],
        shift: float,
    ) -> None: ...
    @property
    def n_fluid(self) -> int: ...
    @property
    def n_components(self) -> int: ...
    @property
    def n_singular(self) -> int: ...
    def apply(self, x: NDArray[np.float64], y: NDArray[np.float64], compact: bool) -> None: ...
    def project(self, x: NDArray[np.float64], y: NDArray[np.float64], compact: bool) -> float: ...
    def diagonal(self, compact: bool) -> NDArray[np.float64]: ...
    def labels(self) -> NDArray[np.int32]: ...

class MultigridCycle:
    def __init__(
        self,
        grid: PoissonGrid,
        visits: int,
        smoother: str,
        omega: list[float],
        degree: int,
        lower_ratio: float,
        learned: dict[str, Any] | None,
    ) -> None: ...
    def update(self) -> None: ...
    def apply(self, x: NDArray[np.float64], y: NDArray[np.float64], compact: bool) -> None: ...
    @property
    def levels(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def field(self, level: int, which: int) -> NDArray[np.float32]: ...

# Flexible conjugate directions. `x` is the start, then the answer; on a grid a right-hand side per row.
def deepcg_solve(
    A: LinearMapF64,
    model: LinearMapF64 | None,
    fallback: LinearMapF64 | None,
    plain_fallback: bool,
    b: NDArray[np.float64],
    x: NDArray[np.float64],
    options: dict[str, Any],
    callback: Callable[[int, float, float, Any], bool] | None,
) -> dict[str, Any]: ...
def deepcg_solve_grid(
    grid: PoissonGrid,
    model: MultigridCycle | LinearMapF64 | None,
    fallback: MultigridCycle | LinearMapF64 | None,
    has_fallback: bool,
    parallel: bool,
    b: NDArray[np.float64],
    x: NDArray[np.float64],
    compact: bool,
    options: dict[str, Any],
    callback: Callable[[int, float, float, Any], bool] | None,
) -> list[dict[str, Any]]: ...
def cycle_map(cycle: MultigridCycle, compact: bool) -> LinearMapF64: ...
