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
