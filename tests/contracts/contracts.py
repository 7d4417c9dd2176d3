"""The register of public solvers. What is entered here has to pass every test of test_contracts.py.

A new solver adds one `Contract`; it writes no test of inputs, errors, callbacks or warnings of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        """Solve with this contract's options, those given taking precedence."""
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
