"""The register of public solvers. What is entered here has to pass every test of test_contracts.py.

A new solver adds one `Contract`; it writes no test of inputs, errors, callbacks or warnings of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Inputs = dict[str, Any]
NONFINITE = (np.nan, np.inf, -np.inf)


@dataclass(frozen=True)
class Contract:
    """One public solver and how to ask it something small.

    Attributes
    ----------
    path : str
        ``"module:function"`` of the public name.
    solve : callable
        ``solve(inputs, **options) -> result``, with `inputs` by parameter name.
    inputs : callable
        ``inputs() -> dict`` of float64 arrays: a problem that converges within a second and is large enough
        for two chunks of work.
    integers : callable
        Like `inputs`, with integer values (as float64) only.
    smallest : callable
        Like `inputs`, the smallest shape there is (1x1).
    certificate : callable
        ``certificate(inputs, result, options) -> float``: the result's error recomputed with NumPy from the
        returned answer alone.
    error : str
        Attribute of the result with the solver's own certificate.
    answers : callable
        ``answers(result) -> dict`` of the arrays that are the answer.
    keeps_dtype : sequence of str
        Those of `answers` that have the dtype of the input.
    fields : sequence of str
        What a result must have beside ``status``, ``success`` and ``message``.
    sized : sequence of str
        Inputs whose length the solver checks against another's.
    refuses : mapping
        Input -> values that may not occur in it; default NaN, Inf and -Inf in all.
    options : mapping
        Options of every solve of this contract.
    hard : mapping
        Options under which ``maxiter=1`` to 3 cannot be enough.
    long : mapping of str to str
        Name -> statements for a fresh interpreter that define ``call()``, a solve of tens of seconds.
    tol : str
        The solver's name for the tolerance on its certificate.
    positional : sequence of str
        Options that may be given by position, as the function of another library that has this name does.
    accepts : sequence of str
        Kinds of data that most solvers refuse and this one does not: "complex".
    legacy_callback : bool
        Callbacks without a parameter ``intermediate_result`` get the iterate.
    """

    path: str
    solve: Callable[..., Any]
    inputs: Callable[[], Inputs]
    integers: Callable[[], Inputs]
    smallest: Callable[[], Inputs]
    certificate: Callable[[Inputs, Any, Mapping[str, Any]], float]
    error: str
    answers: Callable[[Any], dict[str, Any]]
    keeps_dtype: Sequence[str]
    fields: Sequence[str]
    sized: Sequence[str] = ()
    refuses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    hard: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, str] = field(default_factory=dict)
    tol: str = "tol"
    positional: Sequence[str] = ()
    accepts: Sequence[str] = ()
    legacy_callback: bool = False

    @property
    def function(self) -> Callable[..., Any]:
        """The public function."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)

    @property
    def name(self) -> str:
        """How the solver calls itself in warnings."""
        return self.path.partition(":")[2]

    def run(self, inputs: Inputs, **options: Any) -> Any:
        """Solve with this contract's options, those given taking precedence; `tol` by the solver's name."""
        if "tol" in options:
            options[self.tol] = options.pop("tol")
        return self.solve(inputs, **{**self.options, **options})

    def refused_values(self, parameter: str) -> Sequence[float]:
        """Values that `parameter` may not hold."""
        return self.refuses.get(parameter, NONFINITE)


CONTRACTS: dict[str, Contract] = {}


def register(contract: Contract) -> Contract:
    """Enter a solver; each may be entered once."""
    if contract.path in CONTRACTS:
        raise ValueError(f"{contract.path} is registered already")
    CONTRACTS[contract.path] = contract
    return contract


# --------------------------------------------------------------------------------------------------------- ot


def _transport(n: int, m: int, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.5, rng.random(m) + 0.5
    return {"a": a / a.sum(), "b": b / b.sum(), "M": rng.random((n, m))}


def _integer_transport() -> Inputs:
    n, m = 210, 170
    M = np.random.default_rng(1).integers(0, 20, (n, m)).astype(float)
    return {"a": np.full(n, float(m)), "b": np.full(m, float(n)), "M": M}


def _sinkhorn(inputs: Inputs, *, reg: float, **options: Any) -> Any:
    from aitken import ot

    return ot.sinkhorn(inputs["a"], inputs["b"], inputs["M"], reg, **options)


def _marginal_error(inputs: Inputs, result: Any, options: Mapping[str, Any]) -> float:
    """L1 error of the plan that the returned KL potentials define, for total mass 1."""
    a, b, M = (np.asarray(inputs[k], dtype=np.float64) for k in ("a", "b", "M"))
    f, g = result.potentials
    mass = a.sum()
    a, b = a / mass, b / b.sum()
    P = a[:, None] * b[None, :] * np.exp((f[:, None] + g[None, :] - M) / options["reg"])
    return float(np.abs(P.sum(axis=1) - a).sum() + np.abs(P.sum(axis=0) - b).sum())


_LONG_TRANSPORT = """
import numpy as np
from aitken import ot
M = np.random.default_rng(0).random((5000, 5000))
def call():
    for _ in range(20):
        ot.sinkhorn(None, None, M, 1e-5, tol=1e-15, {options})
"""

register(
    Contract(
        path="aitken.ot:sinkhorn",
        solve=_sinkhorn,
        inputs=lambda: _transport(210, 170),
        integers=_integer_transport,
        smallest=lambda: {"a": np.ones(1), "b": np.ones(1), "M": np.full((1, 1), 0.25)},
        certificate=_marginal_error,
        error="err",
        answers=lambda r: {"plan": r.plan, "f": r.potentials[0], "g": r.potentials[1]},
        keeps_dtype=("plan",),
        fields=(
            *("value", "value_linear", "plan", "potentials", "err", "nit", "nit_sinkhorn", "nit_newton"),
            *("nit_cg", "n_exp", "history", "time", "method", "linear_solver"),
        ),
        sized=("a", "b"),
        refuses={"M": (np.nan, -np.inf)},  # +inf forbids a pair
        options={"reg": 0.02},
        hard={"reg": 1e-4},
        long={
            "sinkhorn": _LONG_TRANSPORT.format(options="method='sinkhorn'"),
            "newton": _LONG_TRANSPORT.format(options="method='newton'"),
            "recomputed": _LONG_TRANSPORT.format(options="store_plan=False, return_plan=False"),
        },
    )
)


# ----------------------------------------------------------------------------------------------------- linalg


def _diffusion(m: int, shift: float) -> Any:
    line = 2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)
    return np.kron(line, np.eye(m)) + np.kron(np.eye(m), line) + shift * np.eye(m * m)


def _linear(shift: float) -> Inputs:
    """A well conditioned symmetric matrix; a right-hand side of norm one, so that residuals are relative."""
    b = np.random.default_rng(0).normal(size=144)
    return {"A": _diffusion(12, shift), "b": b / np.linalg.norm(b)}


def _integer_linear(shift: float) -> Inputs:
    b = np.zeros(144)
    b[70] = 1.0
    return {"A": np.abs(_diffusion(12, shift)), "b": b}  # unsigned types too


def _residual(inputs: Inputs, result: Any, options: Mapping[str, Any]) -> float:
    A, b = (np.asarray(inputs[k], dtype=np.float64) for k in ("A", "b"))
    return float(np.linalg.norm(b - A @ np.asarray(result.x, dtype=np.float64)))


def _linear_solver(name: str) -> Callable[..., Any]:
    def solve(inputs: Inputs, **options: Any) -> Any:
        from aitken import linalg

        return getattr(linalg, name)(inputs["A"], inputs["b"], **options)

    return solve


_LONG_LINEAR = """
import numpy as np, scipy.sparse as sp
from aitken.linalg import {name}
line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(1000, 1000))
A = sp.csr_array(sp.kronsum(line, line))
b = np.random.default_rng(0).normal(size=A.shape[0])
def call():
    for _ in range(20):
        {name}(A, b, rtol=1e-13, maxiter=100000{options})
"""


def linear_contract(name: str, *, options: str = "", **changes: Any) -> Contract:
    """The contract of a linear solver ``name(A, b, x0=None, *, rtol, maxiter, callback, n_threads, ...)``."""
    return Contract(
        **{
            "path": f"aitken.linalg:{name}",
            "solve": _linear_solver(name),
            "inputs": lambda: _linear(4.0),
            "integers": lambda: _integer_linear(8.0),
            "smallest": lambda: {"A": np.full((1, 1), 2.0), "b": np.full(1, 0.5)},
            "certificate": _residual,
            "error": "true_residual",
            "answers": lambda r: {"x": r.x},
            "keeps_dtype": ("x",),
            "fields": (
                "x",
                "info",
                "converged",
                "nit",
                "matvecs",
                "residuals",
                "true_residual",
                "target",
                "time",
            ),
            "sized": ("b",),
            "refuses": {"A": ()},  # a matrix's messages name the row: tests/krylov
            "long": {name: _LONG_LINEAR.format(name=name, options=options)},
            "tol": "rtol",
            "positional": ("x0",),
            "accepts": ("complex",),
            "legacy_callback": True,
            **changes,
        }
    )


for _name in ("cg", "minres", "bicgstab", "rcg", "rminres", "ssor_cg"):
    register(linear_contract(_name))
register(
    linear_contract("sor", fields=("x", "converged", "nit", "sweeps", "omega_used", "mu_estimate", "time"))
)

# One step per cycle, since callbacks with `intermediate_result` see cycles; recycling: tests/krylov.
_steps = {"restart": 1, "recycle_dim": 0}
register(replace(linear_contract("gcrodr", options=", restart=30, recycle_dim=10"), options=_steps))
