"""The register of public solvers. What is entered here has to pass every test of test_contracts.py.

A new solver adds one `Contract`; it writes no test of inputs, errors, callbacks or warnings of its own.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aitken import RecoveryWarning

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
    allows : mapping
        Option -> values that most solvers refuse for it and this one does not.
    differs : mapping
        Part of a test's name -> why this solver does not do what that test asks for; the test is skipped.
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
    allows: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
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

register(
    linear_contract(
        "deep_conjugate_direction",
        options=", model='identity', fallback=None",
        accepts=(),
        fields=(
            *("x", "info", "converged", "nit", "matvecs", "residuals", "true_residual", "target", "time"),
            *("model", "n_model", "n_replaced", "fallback_step", "setup_time", "removed_mean"),
        ),
    )
)

# One step per cycle, since callbacks with `intermediate_result` see cycles; recycling: tests/krylov.
_steps = {"restart": 1, "recycle_dim": 0}
register(replace(linear_contract("gcrodr", options=", restart=30, recycle_dim=10"), options=_steps))


# ------------------------------------------------------------------------------------------------- completion


def _measured(n1: int, n2: int, m: int) -> Inputs:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n1, 2)) @ rng.standard_normal((2, n2))
    A = rng.standard_normal((m, n1 * n2))
    return {"A": A, "y": A @ X.ravel()}


def _integer_measured() -> Inputs:
    A = np.concatenate([np.eye(144), 2 * np.eye(144), np.eye(144) + np.eye(144, k=1)])
    return {"A": A, "y": A[:, [14, 15, 26, 27]].sum(axis=1)}  # four ones in a square: rank 1


def _sensing(inputs: Inputs, **options: Any) -> Any:
    from aitken.completion import matrix_sensing

    side = 1 if np.shape(inputs["A"])[1:] == (1,) else 12
    options = {"rng": 0, "shape": (side, side), **({"tol": 1e-13} if side == 1 else {}), **options}
    return matrix_sensing(inputs["A"], inputs["y"], min(side, 2), **options)


def _measured_error(inputs: Inputs, result: Any, options: Mapping[str, Any]) -> float:
    A, y = (np.asarray(inputs[k], dtype=np.float64) for k in ("A", "y"))
    X = result.F.astype(np.float64) @ result.G.T.astype(np.float64)
    return float(np.linalg.norm(A @ X.ravel() - y) / np.linalg.norm(y))


_LONG_SENSING = """
import numpy as np
from aitken.completion import matrix_sensing
rng = np.random.default_rng(0)
A = rng.standard_normal((3000, 3600))
y = rng.standard_normal(3000)
def call():
    for _ in range(20):
        matrix_sensing(A, y, 5, shape=(60, 60), tol=1e-15, maxiter=10**6, rng=0)
"""

register(
    Contract(
        path="aitken.completion:matrix_sensing",
        solve=_sensing,
        inputs=lambda: _measured(12, 12, 140),
        integers=_integer_measured,
        smallest=lambda: {"A": np.full((1, 1), 2.0), "y": np.full(1, 0.5)},
        certificate=_measured_error,
        error="err",
        answers=lambda r: {"F": r.F, "G": r.G, "s": r.s},
        keeps_dtype=("F", "G"),
        fields=("F", "G", "s", "value", "err", "relative_residual", "nit", "n_rejected", "history", "time"),
        sized=("y",),
        long={"dense": _LONG_SENSING},
        allows={"tol": (0.0,), "maxiter": (0,)},  # all of `maxiter`; the start alone
        differs={
            "forms_of_one_input": "its products are BLAS's, whose bits follow the order of memory",
            "bits_do_not_depend": "its products are BLAS's, whose bits may follow its threads",
        },
    )
)


def _entries() -> Inputs:
    rng = np.random.default_rng(0)
    M = rng.standard_normal((90, 2)) @ rng.standard_normal((2, 70))
    return {"M": np.where(rng.random(M.shape) < 0.6, M, np.nan)}


def _integer_entries() -> Inputs:
    rng = np.random.default_rng(1)
    return {"M": (rng.integers(0, 5, (90, 2)) @ rng.integers(0, 5, (2, 70))).astype(float)}


def _completion(inputs: Inputs, **options: Any) -> Any:
    from aitken.completion import matrix_completion

    # Without `tol`, which is on changes, the certificate alone ends the sweeps.
    options = {"rng": 0, "tol": 0.0, "atol_rmse": 1e-9, **options}
    with warnings.catch_warnings():
        if np.shape(inputs["M"]) == (1, 1):
            warnings.simplefilter("ignore", RecoveryWarning)  # one entry for one degree of freedom
            return matrix_completion(inputs["M"], 1, **options)
        return matrix_completion(inputs["M"], 2, **options)


def _entry_error(inputs: Inputs, result: Any, options: Mapping[str, Any]) -> float:
    M = np.asarray(inputs["M"], dtype=np.float64)
    left = (M - result.U.astype(np.float64) @ result.V.T.astype(np.float64))[~np.isnan(M)]
    return float(np.sqrt(np.mean(left**2)))


_LONG_COMPLETION = """
import numpy as np
from aitken.completion import matrix_completion
from aitken.datasets import low_rank_problem
p = low_rank_problem(6000, rank=20, oversampling=5.0, noise=0.1)
def call():
    for _ in range(50):
        matrix_completion((p.rows, p.cols, p.vals), 20, shape=p.shape, tol=0.0, maxiter=10**6, rng=0)
"""

register(
    Contract(
        path="aitken.completion:matrix_completion",
        solve=_completion,
        inputs=_entries,
        integers=_integer_entries,
        smallest=lambda: {"M": np.full((1, 1), 0.5)},
        certificate=_entry_error,
        error="rmse_train",
        answers=lambda r: {"U": r.U, "V": r.V, "s": r.s},
        keeps_dtype=("U", "V", "s"),
        fields=(
            *("U", "V", "s", "mu", "rank", "fun", "nit", "rmse_train", "rmse_holdout", "oversampling"),
            *("n_underdetermined", "n_empty_rows", "n_empty_cols", "n_pivot_retries", "history", "time"),
        ),
        refuses={"M": (np.inf, -np.inf)},  # NaN is an entry that is not known
        tol="atol_rmse",
        long={"sweeps": _LONG_COMPLETION},
        accepts=("masked",),
        allows={"tol": (0.0,), "maxiter": (0,)},
        differs={
            # A training error at rounding, 1e-11 of the entries in float64, ends a solve with success.
            "test_success_is_certified[float32": "float32 entries are fitted to 2e-6, not 1e-6",
            "test_the_tolerance_is_the_certificates[1e-12": "the ridge of the rows leaves some 1e-12",
            "test_unreachable_tolerance": "a training error at rounding counts as success",
            "test_every_array_library[torch": "answers are NumPy's for tensors",
            "test_every_array_library[jax": "answers are NumPy's for those of jax",
            "test_running_out": "the message has the change of the training error and `tol`, no other target",
        },
    )
)


# --------------------------------------------------------------------------------------------------- optimize


def _hill(x: np.ndarray) -> float:
    return float(np.cosh(x - 0.5) @ np.arange(1, len(x) + 1))


def _hill_slope(x: np.ndarray) -> np.ndarray:
    return np.sinh(x - 0.5) * np.arange(1, len(x) + 1)


def _minimum(inputs: Inputs, **options: Any) -> Any:
    """Multiples of cosh, one per variable, whose sum is given; a single variable is free."""
    from aitken.optimize import sketched_newton

    count = np.size(inputs["x0"])
    sums = {"type": "eq", "fun": lambda x: x.sum() - 3.0, "jac": lambda x: np.ones((1, count))}
    options = {
        "jac": _hill_slope,
        "hess": lambda x: np.diag(np.cosh(x - 0.5) * np.arange(1, count + 1)),
        "constraints": sums if count > 1 else (),
        **({"tol": 1e-13} if count == 1 else {}),
        **options,
    }
    return sketched_newton(_hill, inputs["x0"], **options)


def _gradient_error(inputs: Inputs, result: Any, options: Mapping[str, Any]) -> float:
    return float(np.abs(_hill_slope(result.x) + result.lam.sum()).max())


_LONG_MINIMUM = """
from aitken.datasets import elliptic_control
from aitken.optimize import sketched_newton
p = elliptic_control(64, "nonlinear")
def call():
    for _ in range(1000):
        sketched_newton(p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=p.constraints)
"""

register(
    Contract(
        path="aitken.optimize:sketched_newton",
        solve=_minimum,
        inputs=lambda: {"x0": np.array([4.0, -1.5, 2.5, 3.0, -5.0])},
        integers=lambda: {"x0": np.array([4.0, 1.0, 2.0, 3.0, 6.0])},
        smallest=lambda: {"x0": np.zeros(1)},
        certificate=_gradient_error,
        error="optimality",
        answers=lambda r: {"x": r.x, "lam": r.lam, "jac": r.jac},
        keeps_dtype=(),
        fields=(
            *(
                "x",
                "fun",
                "jac",
                "nit",
                "nfev",
                "ncev",
                "njev",
                "ncjev",
                "nhev",
                "lam",
                "v",
                "z_lo",
                "z_up",
                "slack",
            ),
            *(
                "barrier",
                "constr",
                "optimality",
                "constr_violation",
                "complementarity",
                "kkt",
                "eta1",
                "eta2",
            ),
            *(
                "inner_iters",
                "inner_flops",
                "n_fallback",
                "n_restoration",
                "alpha_hist",
                "kkt_hist",
                "rtol_hist",
            ),
            *("solver_used", "time"),
        ),
        long={"sparse": _LONG_MINIMUM},
        positional=("args", "jac", "hess", "hessp", "constraints", "bounds", "tol", "callback"),
        allows={"maxiter": (0,)},  # the certificate of the start
        differs={
            "test_every_array_library[torch": "user functions compute with NumPy arrays, and so does it",
            "test_every_array_library[jax": "user functions compute with NumPy arrays, and so does it",
            "test_wrong_number_of_dimensions": "a number is a start of one variable, as SciPy has it",
            "test_bits_do_not_depend": "it has no threads of its own; its dense algebra is LAPACK's",
        },
        legacy_callback=True,
    )
)
