"""What every test shares: tolerances, array libraries, thread counts, iteration budgets.

Nothing here imports an array library that is not installed, and a test that asks for `xp` runs once per
library that works on this machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from aitken import _loader

# One profile for every machine: the same examples each time, no deadline on shared processors.
settings.register_profile("aitken", derandomize=True, deadline=None, max_examples=20, database=None)
settings.load_profile("aitken")


@dataclass(frozen=True)
class Tolerance:
    """How near two computations of one thing must be.

    Attributes
    ----------
    solve : float
        Tolerance asked of an iterative solver, on its own certificate.
    answer : float
        Relative, for answers of solves to `solve` whose problems are well conditioned.
    kernel : float
        Relative, for one pass of a kernel with another order of summation.
    """

    solve: float
    answer: float
    kernel: float


# The one place for tolerances. float32 data is accumulated in float64, so its kernels err by the rounding
# of what is stored, not by the length of the sum.
TOLERANCES = {
    ("cpu", "float64"): Tolerance(solve=1e-11, answer=1e-8, kernel=1e-13),
    ("cpu", "float32"): Tolerance(solve=1e-6, answer=2e-4, kernel=6e-8),
    ("cuda", "float64"): Tolerance(solve=1e-11, answer=1e-8, kernel=1e-12),
    ("cuda", "float32"): Tolerance(solve=1e-6, answer=2e-4, kernel=1.2e-7),
}


@pytest.fixture
def tolerance() -> Callable[..., Tolerance]:
    """``tolerance(dtype, backend="cpu")``: the entry of `TOLERANCES`."""
    return lambda dtype, backend="cpu": TOLERANCES[backend, np.dtype(dtype).name]


class ArrayLibrary:
    """An array library seen through the three things a test needs of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = importlib.import_module("jax.numpy" if name == "jax" else name)
        self.backend = "cuda" if name == "cupy" else "cpu"
        if name == "jax":
            importlib.import_module("jax").config.update("jax_enable_x64", True)

    def asarray(self, x: Any) -> Any:
        """A NumPy array as one of this library, same dtype and values."""
        if self.name == "torch":
            return self.module.from_numpy(np.array(x))
        return self.module.asarray(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        """An array of this library as NumPy's."""
        return x.get() if self.name == "cupy" else np.asarray(x)

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this library."""
        return type(x).__module__.partition(".")[0] in (self.name, f"{self.name}lib")

    def __repr__(self) -> str:
        return f"<ArrayLibrary {self.name}>"


def _libraries() -> list[Any]:
    found: list[Any] = ["numpy"]
    found += [name for name in ("torch", "jax") if importlib.util.find_spec(name) is not None]
    if importlib.util.find_spec("cupy") is not None and _loader.cuda_status().available:
        found.append(pytest.param("cupy", marks=pytest.mark.gpu))
    return found


@pytest.fixture(params=_libraries())
def xp(request: pytest.FixtureRequest) -> ArrayLibrary:
    """Every installed array library that works here, one after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library says while it is imported is not ours
        return ArrayLibrary(request.param)


@pytest.fixture(params=[1, 2])
def n_threads(request: pytest.FixtureRequest) -> int:
    """A serial and a parallel run."""
    return int(request.param)


@pytest.fixture
def counts() -> Callable[..., None]:
    """``counts(result, nit_newton=7, ...)``: no count is above its published or measured value by a tenth.

    The allowance is ``ceil(1.1 x) + 1``: rounding may cost a step, a lost property may not.
    """

    def check(result: Any, **expected: int) -> None:
        for name, value in expected.items():
            limit = math.ceil(1.1 * value) + 1
            assert result[name] <= limit, f"{name} = {result[name]}, at most {limit} ({value} measured)"

    return check
