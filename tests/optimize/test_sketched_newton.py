"""The solver as users see it: every named problem, every form of input, every way to end."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import (
    BFGS,
    SR1,
    Bounds,
    LinearConstraint,
    NonlinearConstraint,
    OptimizeResult,
    lsq_linear,
    minimize,
)
from scipy.sparse.linalg import aslinearoperator

import aitken
from aitken._errors import ConvergenceWarning
from aitken._result import Status
from aitken.optimize import OptimizationResult, sketched_newton
from tests.interruption import check_ctrl_c, needs_posix
from tests.optimize.problems import CASES, EQUALITY, INEQUALITY

ROOT = Path(__file__).resolve().parents[2]
DEGENERATE = {"HS13", "BT8"}  # multipliers do not exist or are not unique at the minimum


def solve(case, **options):
    return sketched_newton(
        case.fun,
        case.x0,
        **{
            "jac": case.grad,
            "hess": case.hess,
            "constraints": case.constraints,
            "bounds": case.bounds,
            **options,
        },
    )


def check_kkt(case, r, tol=1e-6):
    """The optimality conditions with the returned multipliers, recomputed from the formulas alone."""
    x = r.x
    g, c, J = case.grad(x), case.cons(x), case.jac(x)
    total = np.abs(r.lam).sum() + r.z_lo.sum() + r.z_up.sum()
    sides = np.isfinite(case.xl).sum() + np.isfinite(case.xu).sum()
    mean = total / max(1, case.m + sides)
    scale = max(100.0, 2 * mean) / 100.0
    residual = g + J.T @ r.lam - r.z_lo + r.z_up
    assert np.abs(residual).max(initial=0) <= tol * scale
    assert np.maximum(case.lower - c, c - case.upper).max(initial=0) <= tol
    assert np.maximum(case.xl - x, x - case.xu).max(initial=0) <= 0
    assert (r.z_lo >= 0).all()
    assert (r.z_up >= 0).all()
    assert not r.z_lo[np.isinf(case.xl)].any()
    assert not r.z_up[np.isinf(case.xu)].any()
    inequality = case.lower != case.upper
    up, low = np.maximum(r.lam, 0)[inequality], np.maximum(-r.lam, 0)[inequality]
    with np.errstate(invalid="ignore"):
        above = np.where(up > 0, up * (case.upper - c)[inequality], 0)
        below = np.where(low > 0, low * (c - case.lower)[inequality], 0)
        at_lo = np.where(r.z_lo > 0, r.z_lo * (x - case.xl), 0)
        at_up = np.where(r.z_up > 0, r.z_up * (case.xu - x), 0)
    for products in (above, below, at_lo, at_up):
        assert products.max(initial=0) <= 1.01 * tol * scale
    return float(np.abs(residual).max(initial=0))


def near_optimum(case, r, tol=1e-5):
    """Whether the value is a known one, to within what the violation is worth at the multipliers' price."""
    price = np.abs(r.lam).max(initial=0) * r.constr_violation
    return case.optimal(r.fun, tol + 2 * price / max(1.0, abs(r.fun)))


def best_multipliers(case, x, near=1e-4):
    """Norm of the Lagrangian's gradient with the best multipliers of the right signs on active sides."""
    c, J = case.cons(x), case.jac(x)
    columns, lower = [], []
    for i in range(case.m):
        if case.lower[i] == case.upper[i]:
            columns.append(J[i])
            lower.append(-np.inf)
        else:
            if c[i] - case.lower[i] <= near:
                columns.append(-J[i])
                lower.append(0.0)
            if case.upper[i] - c[i] <= near:
                columns.append(J[i])
                lower.append(0.0)
    for i in range(case.n):
        e = np.eye(case.n)[i]
        if x[i] - case.xl[i] <= near:
            columns.append(-e)
            lower.append(0.0)
        if case.xu[i] - x[i] <= near:
            columns.append(e)
            lower.append(0.0)
    g = case.grad(x)
    if not columns:
        return float(np.abs(g).max())
    A = np.array(columns).T
    lam = lsq_linear(A, -g, (lower, np.full(len(lower), np.inf)), tol=1e-14).x
    return float(np.abs(A @ lam + g).max())


# ------------------------------------------------------------------------------------------ named problems


@pytest.mark.parametrize("name", CASES)
def test_named_problem(name):
    case = CASES[name]
    r = solve(case)
    assert r.success
    assert r.status is Status.CONVERGED
    check_kkt(case, r)
    assert near_optimum(case, r, 1e-3 if name == "HS13" else 1e-5)
    if name not in DEGENERATE:
        assert best_multipliers(case, r.x) <= 1e-5
    # What the result says of itself is so.
    residual = case.grad(r.x) + case.jac(r.x).T @ r.lam - r.z_lo + r.z_up
    np.testing.assert_allclose(r.optimality, np.abs(residual).max(), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(r.fun, case.fun(r.x), rtol=1e-14)
    np.testing.assert_allclose(r.jac, case.grad(r.x), rtol=1e-12, atol=1e-300)
    violation = np.maximum(case.lower - case.cons(r.x), case.cons(r.x) - case.upper).max(initial=0)
    np.testing.assert_allclose(r.constr_violation, violation, rtol=1e-9, atol=1e-14)
    assert len(r.alpha_hist) == len(r.kkt_hist) == len(r.rtol_hist) == r.nit
    assert len(r.v) == len(case.constraints)
    np.testing.assert_array_equal(np.concatenate([*r.v, []]), r.lam)


@pytest.mark.parametrize("globalization", ["merit", "filter"])
@pytest.mark.parametrize("case", [p for p in EQUALITY if p.name not in DEGENERATE], ids=lambda p: p.name)
def test_globalizations(case, globalization):
    r = solve(case, globalization=globalization)
    assert r.success
    check_kkt(case, r)
    assert near_optimum(case, r)


THEORY = [
    "HS6",
    "HS7",
    "HS26",
    "HS27",
    "HS28",
    "HS39",
    "HS40",
    "HS42",
    "HS46",
    "HS47",
    "HS48",
    "HS49",
    "HS50",
    "HS51",
    "HS52",
    "HS56",
    "HS77",
    "HS78",
    "HS79",
    "HS100LNP",
    "BT3",
    "BT5",
    "BT9",
    "BT10",
    "BT11",
    "BT12",
]


@pytest.mark.parametrize("name", THEORY)
def test_theory(name):
    """The published method on the published kind of problem: the 2-norm of gradient and constraints."""
    case = CASES[name]
    r = solve(case, accuracy="theory", lam0=np.zeros(case.m))
    assert r.success
    F = np.concatenate([case.grad(r.x) + case.jac(r.x).T @ r.lam, case.cons(r.x)])
    assert np.linalg.norm(F) <= 1e-4
    np.testing.assert_allclose(r.kkt, np.linalg.norm(F), rtol=1e-6, atol=1e-12)
    assert case.optimal(r.fun, 1e-3)


@pytest.mark.parametrize("name", ["HS7", "HS14", "HS71", "HS100", "ROSENBR-BOX"])
def test_tolerance_is_met_to_the_letter(name):
    case = CASES[name]
    errors = []
    for tol in (1e-3, 1e-6, 1e-9):
        r = solve(case, tol=tol)
        assert r.success
        errors.append(check_kkt(case, r, tol))
        assert r.optimality <= tol * max(100, np.abs(r.lam).max(initial=0)) / 100
    assert errors[2] <= 1e-9
    loose = solve(case, tol=1e-3, constr_tol=1e-10)
    assert loose.constr_violation <= 1e-10


# ------------------------------------------------------------------------------------ forms of derivatives

FORMS = {
    "dense": {},
    "sparse": {
        "hess": lambda c: lambda x: sp.csr_array(c.hess(x)),
        "jacobian": lambda c: lambda x: sp.csc_array(c.jac(x)),
    },
    "sparse jacobian alone": {"jacobian": lambda c: lambda x: sp.csr_array(c.jac(x))},
    "hessp": {"hess": lambda c: None, "hessp": lambda c: lambda x, p: c.hess(x) @ p},
    "lagrangian": {"lagrangian_hess": lambda c: c.hess_lagrangian, "hess": lambda c: None},
    "bfgs": {"hess": lambda c: "bfgs"},
    "lbfgs": {"hess": lambda c: "lbfgs"},
    "default": {"hess": lambda c: None},
    "SR1": {"hess": lambda c: SR1()},
    "BFGS object": {"hess": lambda c: BFGS(exception_strategy="damp_update")},
    "constraints without hess": {"cons_hess": lambda c: BFGS()},
    "hess by 2-point": {"hess": lambda c: "2-point", "cons_hess": lambda c: "2-point"},
    "hess by 3-point": {"hess": lambda c: "3-point", "cons_hess": lambda c: "3-point"},
    "gradient by 2-point": {"jac": lambda c: "2-point", "hess": lambda c: None},
    "gradient by 3-point": {
        "jac": lambda c: "3-point",
        "hess": lambda c: None,
        "jacobian": lambda c: "3-point",
    },
    "nothing": {"jac": lambda c: None, "hess": lambda c: None, "jacobian": lambda c: "2-point"},
    "value and gradient": {"jac": lambda c: True, "fun": lambda c: lambda x: (c.fun(x), c.grad(x))},
}


@pytest.mark.parametrize("name", ["HS28", "HS42", "HS79", "HS14", "HS43", "HS65", "HS71", "HS76"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_derivatives(name, form):
    case, parts = CASES[name], FORMS[form]
    given = {key: make(case) for key, make in parts.items()}
    rows = NonlinearConstraint(
        case.cons,
        case.lower,
        case.upper,
        jac=given.pop("jacobian", case.jac),
        hess=given.pop("cons_hess", case.cons_hess if "bfgs" not in form else BFGS()),
    )
    if "gradient by" in form or form == "nothing":
        rows.hess = BFGS()
    fun = given.pop("fun", case.fun)
    tol = 1e-5 if "gradient by" in form or form == "nothing" else 1e-6
    r = sketched_newton(
        fun,
        case.x0,
        constraints=rows,
        bounds=case.bounds,
        tol=tol,
        **{"jac": case.grad, "hess": case.hess, **given},
    )
    assert r.success
    assert case.optimal(r.fun, 1e-4)
    check_kkt(case, r, 1e-3 if tol > 1e-6 else 1e-6)


def test_complex_step_gradients():
    case = CASES["HS71"]
    formula = lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2]  # noqa: E731
    rows = NonlinearConstraint(
        lambda x: np.array([x[0] * x[1] * x[2] * x[3] - 25, np.sum(x**2) - 40]),
        case.lower,
        case.upper,
        jac="cs",
        hess=case.cons_hess,
    )
    r = sketched_newton(formula, case.x0, jac="cs", hess=case.hess, constraints=rows, bounds=case.bounds)
    exact = solve(case)
    assert r.success
    assert r.nit == exact.nit
    np.testing.assert_allclose(r.x, exact.x, atol=1e-9)


def test_gauss_newton():
    """Zero residuals on a plane: quadratic convergence from the root of the Hessian alone."""
    t = np.linspace(0, 1, 15)
    y = 2.0 * np.exp(-1.5 * t) + 0.5

    def residual(x):
        return x[0] * np.exp(x[1] * t) + x[2] - y

    def root(x):
        e = np.exp(x[1] * t)
        return np.column_stack([e, x[0] * t * e, np.ones_like(t)])

    for wrap in (lambda W: W, sp.csr_array, aslinearoperator):
        r = sketched_newton(
            lambda x: 0.5 * residual(x) @ residual(x),
            [1.5, -1.0, 0.7],
            jac=lambda x: root(x).T @ residual(x),
            hess_sqrt=lambda x, wrap=wrap: wrap(root(x)),
            constraints=LinearConstraint([[1.0, 0.0, 1.0]], 2.5, 2.5),
            tol=1e-9,
        )
        assert r.success
        np.testing.assert_allclose(r.x, [2.0, -1.5, 0.5], atol=1e-6)
        assert r.nit <= 12


@pytest.mark.parametrize("name", ["HS28", "HS42", "HS79", "BT11", "HS48"])
def test_operators(name):
    case = CASES[name]
    rows = NonlinearConstraint(
        case.cons,
        case.lower,
        case.upper,
        jac=lambda x: aslinearoperator(case.jac(x)),
        hess=lambda x, v: aslinearoperator(case.cons_hess(x, v)),
    )
    r = solve(case, hess=lambda x: aslinearoperator(case.hess(x)), constraints=rows)
    assert r.success
    check_kkt(case, r)
    assert "minres" in r.solver_used


def chain(n, m, sparse=False):
    """A convex problem: value, derivatives, a root of the Hessian, m rows of n / m variables each."""
    D = sp.diags_array([np.full(n, 3.0), np.full(n - 1, -1.0), np.full(n - 1, -1.0)], offsets=[0, 1, -1])
    A = sp.csr_array(sp.kron(sp.eye_array(m), np.ones((1, n // m))))
    b = np.sin(np.arange(n))

    def form(M):
        return sp.csr_array(M) if sparse else M.toarray()

    return {
        "fun": lambda x: 0.5 * x @ (D @ x) - b @ x + 0.25 * np.sum(x**4),
        "jac": lambda x: D @ x - b + x**3,
        "hess": lambda x: form(D + sp.diags_array(3 * x**2)),
        "constraints": LinearConstraint(form(A), np.ones(m), np.ones(m)),
        "x0": np.zeros(n),
        "hess_sqrt": lambda x: form(sp.diags_array(np.sqrt(3.0 + 3 * x**2))),
    }


KKT_SOLVERS = (
    "auto",
    "ldlt",
    "minres",
    "sketch_prec",
    "gaussian",
    "kaczmarz",
    "block_gaussian",
    "countsketch",
    "block_kaczmarz",
)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kkt_solver", KKT_SOLVERS)
def test_every_kkt_solver(kkt_solver, sparse):
    p = chain(160, 20, sparse)
    exact = sketched_newton(**p, kkt_solver="ldlt", tol=1e-10)
    if kkt_solver != "sketch_prec":
        del p["hess_sqrt"]
    r = sketched_newton(**p, kkt_solver=kkt_solver, rng=1)
    assert r.success
    np.testing.assert_allclose(r.x, exact.x, atol=1e-5)
    assert r.inner_flops > 0
    # Budgets are in flops of a factorisation: who exceeds his is followed by the next, and that is counted.
    if kkt_solver in ("auto", "ldlt"):
        assert r.solver_used in ("ldlt", "sparse_ldlt")
        assert r.n_fallback == 0
    else:
        assert kkt_solver in r.solver_used.split() or r.n_fallback > 0
    if kkt_solver in ("minres", "sketch_prec", "kaczmarz") and not sparse:
        assert kkt_solver in r.solver_used.split()
        assert r.inner_iters > 0


# -------------------------------------------------------------------------------------------- SciPy's door


@pytest.mark.parametrize("name", ["HS7", "HS14", "HS71", "HS76", "ROSENBR-BOX"])
def test_minimize_gives_the_same_bits(name):
    case = CASES[name]
    direct = solve(case)
    through = minimize(
        case.fun,
        case.x0,
        jac=case.grad,
        hess=case.hess,
        constraints=case.constraints,
        bounds=case.bounds,
        method=sketched_newton,
    )
    assert isinstance(through, OptimizationResult)
    assert isinstance(through, OptimizeResult)
    for key in ("x", "fun", "lam", "z_lo", "z_up", "nit", "nfev", "kkt_hist"):
        np.testing.assert_array_equal(direct[key], through[key])


def test_minimize_passes_everything_on():
    case = CASES["HS71"]
    r = minimize(
        lambda x, a: (a * case.fun(x), a * case.grad(x)),
        case.x0,
        args=(2.0,),
        jac=True,
        hess=lambda x, a: a * case.hess(x),
        bounds=[(1, 5)] * 4,
        tol=1e-7,
        method=sketched_newton,
        constraints=[
            {"type": "ineq", "fun": lambda x: np.prod(x) - 25, "jac": lambda x: np.prod(x) / x},
            {
                "type": "eq",
                "fun": lambda x, s: s * (x @ x - 40),
                "jac": lambda x, s: s * 2 * x,
                "args": (0.5,),
            },
        ],
        options={"maxiter": 200, "kkt_solver": "ldlt"},
    )
    assert r.success
    np.testing.assert_allclose(r.fun, 2 * 17.0140173, rtol=1e-7)
    assert r.optimality <= 1e-7 * max(100, np.abs(r.lam).max()) / 100


def test_options_of_trust_constr_are_accepted():
    case = CASES["HS14"]
    options = {
        "gtol": 1e-7,
        "xtol": 1e-10,
        "barrier_tol": 1e-8,
        "sparse_jacobian": None,
        "maxiter": 100,
        "verbose": 0,
        "finite_diff_rel_step": None,
        "initial_constr_penalty": 1.0,
        "initial_tr_radius": 1.0,
        "initial_barrier_parameter": 0.1,
        "initial_barrier_tolerance": 0.1,
        "factorization_method": None,
        "disp": False,
    }
    common = {"jac": case.grad, "hess": case.hess, "constraints": case.constraints}
    r = minimize(case.fun, case.x0, method=sketched_newton, options=options, **common)
    assert r.success
    check_kkt(case, r, 1e-7)
    peer = minimize(case.fun, case.x0, method="trust-constr", options=options, **common)
    np.testing.assert_allclose(r.x, peer.x, atol=1e-3)
    np.testing.assert_allclose(r.v[0], peer.v[0], atol=1e-2)  # the same signs


@pytest.mark.parametrize("form", ["bounds object", "pairs", "pairs with None"])
def test_forms_of_bounds(form):
    case = CASES["ROSENBR-BOX"]
    bounds = {
        "bounds object": Bounds(case.xl, case.xu),
        "pairs": list(zip(case.xl, case.xu, strict=True)),
        "pairs with None": [(-2, 0.5), (None, None)],
    }[form]
    r = solve(case, bounds=bounds)
    assert r.success
    np.testing.assert_allclose(r.x, [0.5, 0.25], atol=1e-6)


# ------------------------------------------------------------------------------------- callbacks, messages


def test_forms_of_callback():
    case = CASES["HS71"]
    seen = []

    def named(intermediate_result):
        assert isinstance(intermediate_result, OptimizeResult)
        seen.append(intermediate_result)

    r = solve(case, callback=named)
    assert len(seen) in (r.nit, r.nit + 1)
    assert {"x", "fun", "nit", "optimality", "constr_violation"} <= set(seen[-1].keys())
    np.testing.assert_allclose(seen[-1].x, r.x, atol=1e-6)
    np.testing.assert_allclose(seen[-1].fun, case.fun(seen[-1].x), rtol=1e-12)
    plain = []
    s = solve(case, callback=lambda xk: plain.append(xk))
    assert all(isinstance(x, np.ndarray) for x in plain)
    np.testing.assert_array_equal(plain, [item.x for item in seen])
    through = []
    minimize(
        case.fun,
        case.x0,
        jac=case.grad,
        hess=case.hess,
        constraints=case.constraints,
        bounds=case.bounds,
        method=sketched_newton,
        callback=lambda intermediate_result: through.append(intermediate_result.x),
    )
    np.testing.assert_array_equal(through, plain)
    np.testing.assert_array_equal(r.x, s.x)

    def vandal(xk):
        xk[:] = np.nan

    np.testing.assert_array_equal(solve(case, callback=vandal).x, r.x)


@pytest.mark.parametrize("through_scipy", [False, True])
@pytest.mark.parametrize("accuracy", ["adaptive", "theory"])
def test_stop_iteration(accuracy, through_scipy):
    case = CASES["HS26"]
    count = [0]

    def stop(intermediate_result):
        count[0] += 1
        if count[0] == 4:
            raise StopIteration

    given = {"jac": case.grad, "hess": case.hess, "constraints": case.constraints, "callback": stop}
    if through_scipy:
        r = minimize(case.fun, case.x0, method=sketched_newton, options={"accuracy": accuracy}, **given)
    else:
        r = sketched_newton(case.fun, case.x0, accuracy=accuracy, **given)
    assert count[0] == 4
    assert int(r.status) == 5
    assert not r.success
    assert "callback" in r.message


def test_stop_iteration_at_a_solution_is_still_a_stop():
    case = CASES["HS28"]

    def stop(xk):
        if np.abs(case.cons(xk)).max() < 1e-9 and case.fun(xk) < 1e-12:
            raise StopIteration

    r = solve(case, callback=stop)
    assert int(r.status) == 5
    assert not r.success


def test_verbose_lines(caplog):
    case = CASES["HS71"]
    for how in ({"verbose": 1}, {"disp": True}):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="aitken"):
            r = solve(case, **how)
        lines = [record.getMessage() for record in caplog.records if record.name == "aitken"]
        assert len(lines) in (r.nit + 1, r.nit + 2)
        assert {"objective", "inf_pr", "inf_du", "alpha"} <= set(lines[0].split())
        assert len({len(line.rstrip()) for line in lines[2:]}) == 1  # aligned
        assert f"{r.fun:.4e}"[:6] in lines[-1]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="aitken"):
        solve(case)
    assert not caplog.records


def test_progress_bar(capsys):
    pytest.importorskip("tqdm")
    r = solve(CASES["HS71"], progress=True)
    assert r.success
    assert "sketched_newton" in capsys.readouterr().err


def test_check_derivatives():
    case = CASES["HS71"]
    assert solve(case, check_derivatives=True).success
    with pytest.raises(ValueError, match="jac"):
        solve(case, jac=lambda x: case.grad(x) + [0, 0, 0.1, 0], check_derivatives=True)


def test_result_reads_and_pickles():
    r = solve(CASES["HS71"])
    text = repr(r)
    assert "success: True" in text
    again = pickle.loads(pickle.dumps(r))
    assert again.keys() == r.keys()
    assert again.status is Status.CONVERGED
    np.testing.assert_array_equal(again.x, r.x)
    assert r.time > 0
    assert r.nfev >= r.nit + 1
    assert r.nhev >= r.nit


def test_counts_are_calls():
    case = CASES["HS71"]
    count = dict.fromkeys(("f", "g", "h", "c", "J"), 0)

    def counted(name, function):
        def call(*args):
            count[name] += 1
            return function(*args)

        return call

    rows = NonlinearConstraint(
        counted("c", case.cons), case.lower, case.upper, jac=counted("J", case.jac), hess=case.cons_hess
    )
    r = sketched_newton(
        counted("f", case.fun),
        case.x0,
        jac=counted("g", case.grad),
        hess=counted("h", case.hess),
        constraints=rows,
        bounds=case.bounds,
    )
    assert (r.nfev, r.ncev, r.njev, r.ncjev, r.nhev) == tuple(count[k] for k in ("f", "c", "g", "J", "h"))
    assert count["f"] <= 2 * (r.nit + 1)


# --------------------------------------------------------------------------------------------- warm starts


@pytest.mark.parametrize("name", ["HS71", "HS43", "HS100", "HS113", "HS77", "BT12"])
def test_warm_start(name):
    case = CASES[name]
    first = solve(case)
    shift = 1e-3 * np.cos(np.arange(case.n))

    def nearby(**how):
        return sketched_newton(
            lambda x: case.fun(x) + shift @ x,
            case.x0,
            jac=lambda x: case.grad(x) + shift,
            hess=case.hess,
            constraints=case.constraints,
            bounds=case.bounds,
            **how,
        )

    cold, warm = nearby(), nearby(warm_start=first)
    assert warm.success
    assert cold.success
    np.testing.assert_allclose(warm.fun, cold.fun, rtol=1e-6)
    assert warm.nit < cold.nit
    again = solve(case, warm_start=first)
    assert again.success
    assert again.nit <= 3
    for bad in (OptimizeResult(x=case.x0), "yesterday's"):
        with pytest.raises(TypeError, match="`warm_start`"):
            nearby(warm_start=bad)


def test_forms_of_lam0():
    case = CASES["HS42"]
    one = NonlinearConstraint(
        lambda x: case.cons(x)[0], 0, 0, jac=lambda x: case.jac(x)[:1], hess=lambda x, v: np.zeros((4, 4))
    )
    two = NonlinearConstraint(
        lambda x: case.cons(x)[1:],
        0,
        0,
        jac=lambda x: case.jac(x)[1:],
        hess=lambda x, v: case.cons_hess(x, np.array([0.0, v[0]])),
    )
    rows = [one, two]
    exact = solve(case, constraints=rows, tol=1e-11).lam
    forms = [
        exact,
        list(exact),
        tuple(exact),
        [exact[:1], exact[1:]],
        [exact[:1].tolist(), exact[1:].tolist()],
    ]
    results = [solve(case, constraints=rows, lam0=lam0) for lam0 in forms]
    for r in results:
        assert r.success
        np.testing.assert_array_equal(r.x, results[0].x)
    # First multipliers are what the first iterate has, signs and all.
    with pytest.warns(ConvergenceWarning):
        r = solve(case, constraints=rows, lam0=[5.0, -7.0], maxiter=0)
    np.testing.assert_allclose(r.lam, [5.0, -7.0], rtol=1e-14)
    for bad, match in (
        ([1.0], "1 multipliers"),
        ([1.0, 2.0, 3.0], "3 multipliers"),
        ([[1.0], [2.0, 3.0]], "3 multipliers"),
    ):
        with pytest.raises(ValueError, match=match):
            solve(case, constraints=rows, lam0=bad)
    with pytest.raises(ValueError, match="lam0"):
        solve(case, constraints=rows, lam0=[np.nan, 0.0])


# --------------------------------------------------------------------------------- problems without answer


def ends(match, **arguments):
    with pytest.warns(ConvergenceWarning, match=match):
        r = sketched_newton(**arguments)
    assert not r.success
    assert r.message
    return r


def test_unbounded_below():
    r = ends(
        "grew|unbounded",
        fun=lambda x: x[0] + x[1],
        x0=[0.0, 0.0],
        jac=lambda x: np.ones(2),
        hess=lambda x: np.zeros((2, 2)),
        bounds=[(None, 1.0), (0.0, None)],
    )
    assert r.status is Status.DIVERGED
    assert "unbounded" in r.message
    r = ends(
        "grew|unbounded",
        fun=lambda x: -np.sum(x**2),
        x0=[0.5, 0.1],
        jac=lambda x: -2 * x,
        hess=lambda x: -2 * np.eye(2),
        constraints=LinearConstraint([[1.0, -1.0]], 0, 0),
    )
    assert r.status is Status.DIVERGED
    r = ends(
        "grew|unbounded",
        fun=lambda x: -np.exp(x[0]),
        x0=[1.0],
        jac=lambda x: -np.exp(x),
        hess=lambda x: -np.exp(x)[:, None],
    )
    assert r.status is Status.DIVERGED


@pytest.mark.parametrize("kind", ["nonlinear equality", "nonlinear inequality", "two rows", "bounds"])
def test_infeasible(kind):
    def curve(x):
        return np.array([x @ x + 1.0])

    zero = {
        "nonlinear equality": {
            "constraints": NonlinearConstraint(
                curve, 0, 0, jac=lambda x: 2 * x[None, :], hess=lambda x, v: 2 * v[0] * np.eye(2)
            )
        },
        "nonlinear inequality": {
            "constraints": NonlinearConstraint(
                curve, -np.inf, 0.5, jac=lambda x: 2 * x[None, :], hess=lambda x, v: 2 * v[0] * np.eye(2)
            )
        },
        "two rows": {
            "constraints": LinearConstraint([[1.0, 1.0], [1.0, 1.0]], [-np.inf, 2.0], [1.0, np.inf])
        },
        "bounds": {"constraints": LinearConstraint([[1.0, 1.0]], 3.0, 3.0), "bounds": [(0, 1), (0, 1)]},
    }[kind]
    r = ends(
        "cannot be met",
        fun=lambda x: x[0] + x @ x,
        x0=[1.0, 2.0],
        jac=lambda x: 2 * x + [1, 0],
        hess=lambda x: 2 * np.eye(2),
        **zero,
    )
    assert r.status is Status.LOCALLY_INFEASIBLE
    assert r.constr_violation > 0.1
    if kind == "nonlinear equality":  # the violation's minimum is where the run ends
        np.testing.assert_allclose(r.x, 0.0, atol=1e-2)


def test_contradictory_linear_equalities():
    r = ends(
        "cannot be met",
        fun=lambda x: x @ x,
        x0=np.ones(3),
        jac=lambda x: 2 * x,
        hess=lambda x: 2 * np.eye(3),
        constraints=LinearConstraint([[1, 1, 0], [2, 2, 0]], [1, 3], [1, 3]),
    )
    assert r.status is Status.LOCALLY_INFEASIBLE


@pytest.mark.parametrize("sparse", [False, True])
def test_redundant_rows_are_solved_and_named(sparse):
    n = 200 if sparse else 4
    A = np.zeros((4, n))
    A[0], A[1, :2], A[3, 2] = 1.0, 1.0, 1.0
    A[2] = A[0] + A[1]
    b = A @ np.linspace(0, 1, n)
    r = sketched_newton(
        lambda x: x @ x,
        np.ones(n),
        jac=lambda x: 2 * x,
        hess=lambda x: 2 * (sp.eye_array(n, format="csr") if sparse else np.eye(n)),
        constraints=LinearConstraint(sp.csr_array(A) if sparse else A, b, b),
    )
    assert r.success
    np.testing.assert_allclose(r.x, np.linalg.pinv(A) @ b, atol=1e-6)
    if sparse:  # the static shift of a sparse factorisation takes dependent rows in its stride, unseen
        return
    assert "depend" in r.message
    assert len(r.dependent_rows) == 1
    assert r.dependent_rows[0] in (0, 1, 2)
    assert re.search(rf"rows? {r.dependent_rows[0]}\b", r.message)


def test_more_equalities_than_variables():
    A = np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 0.0]])
    arguments = {
        "fun": lambda x: x @ x,
        "x0": np.zeros(2),
        "jac": lambda x: 2 * x,
        "hess": lambda x: 2 * np.eye(2),
    }
    with pytest.warns(UserWarning, match="3 equality constraints on 2 variables"):
        r = sketched_newton(**arguments, constraints=LinearConstraint(A, A @ [1, 2], A @ [1, 2]))
    assert r.success
    np.testing.assert_allclose(r.x, [1.0, 2.0], atol=1e-6)


def test_maxiter():
    case = CASES["HS26"]
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        r = solve(case, maxiter=0)
    assert r.status is Status.MAX_ITERATIONS
    assert r.nit == 0
    np.testing.assert_array_equal(r.x, case.x0)
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        r = solve(case, maxiter=3)
    assert r.nit == 3
    at_solution = solve(CASES["HS28"], warm_start=solve(CASES["HS28"]), maxiter=0)
    assert at_solution.success


def test_xtol_is_no_success():
    case = CASES["HS26"]
    with pytest.warns(ConvergenceWarning):
        r = solve(case, xtol=1e-1, tol=1e-13)
    assert r.status is Status.STAGNATED
    assert not r.success
    assert "xtol" in r.message


# -------------------------------------------------------------------------------- functions that misbehave


def test_nan_at_trial_points_is_survived():
    """log(x) - x has no value for x <= 0; the first Newton step goes there."""
    with np.errstate(invalid="ignore", divide="ignore"):
        calls = []

        def fun(x):
            value = float(x[0] - np.log(x[0]) + (x[1] - 1) ** 2)
            calls.append(value)
            return value

        r = sketched_newton(
            fun,
            [3.0, 0.0],
            jac=lambda x: np.array([1 - 1 / x[0], 2 * (x[1] - 1)]),
            hess=lambda x: np.diag([1 / x[0] ** 2, 2.0]),
        )
        assert not np.isfinite(calls).all()
    assert r.success
    np.testing.assert_allclose(r.x, [1.0, 1.0], atol=1e-5)


@pytest.mark.parametrize("what", ["value", "gradient", "constraint", "jacobian"])
def test_nan_at_the_start(what):
    case = CASES["HS71"]
    given = {"jac": case.grad, "hess": case.hess, "bounds": case.bounds, "fun": case.fun}
    cons, jac = case.cons, case.jac
    if what == "value":
        given["fun"] = lambda x: np.nan
    elif what == "gradient":
        given["jac"] = lambda x: np.full(4, np.inf)
    elif what == "constraint":
        cons = lambda x: np.full(2, np.nan)  # noqa: E731
    else:
        jac = lambda x: np.full((2, 4), np.nan)  # noqa: E731
    rows = NonlinearConstraint(cons, case.lower, case.upper, jac=jac, hess=case.cons_hess)
    r = ends("NaN or Inf", x0=case.x0, constraints=rows, **given)
    assert r.status is Status.NONFINITE


class Mine(Exception):
    pass


@pytest.mark.parametrize("where", ["fun", "jac", "hess", "cons", "cons_jac", "cons_hess", "callback"])
@pytest.mark.parametrize("call", [1, 3])
def test_exceptions_pass_unchanged(where, call):
    case = CASES["HS71"]
    error = Mine("as it was")
    count = [0]

    def failing(function):
        def raising(*args, **kwargs):
            count[0] += 1
            if count[0] >= call:
                raise error
            return function(*args, **kwargs)

        return raising

    parts = {
        "fun": case.fun,
        "jac": case.grad,
        "hess": case.hess,
        "cons": case.cons,
        "cons_jac": case.jac,
        "cons_hess": case.cons_hess,
        "callback": lambda xk: None,
    }
    parts[where] = failing(parts[where])
    rows = NonlinearConstraint(
        parts["cons"], case.lower, case.upper, jac=parts["cons_jac"], hess=parts["cons_hess"]
    )
    with pytest.raises(Mine) as caught:
        sketched_newton(
            parts["fun"],
            case.x0,
            jac=parts["jac"],
            hess=parts["hess"],
            constraints=rows,
            bounds=case.bounds,
            callback=parts["callback"],
        )
    assert caught.value is error
    assert count[0] == call


def test_user_functions_may_write_where_they_like():
    case = CASES["HS71"]
    clean = solve(case)
    gradient, jacobian, hessian = np.empty(4), np.empty((2, 4)), np.empty((4, 4))

    def vandal(function, buffer=None):
        def call(x, *args):
            value = function(x.copy(), *args)
            x[:] = np.nan  # the solver's own x must not be this one
            if buffer is None:
                return value
            buffer[...] = value  # the same memory each time
            return buffer

        return call

    rows = NonlinearConstraint(
        vandal(case.cons), case.lower, case.upper, jac=vandal(case.jac, jacobian), hess=vandal(case.cons_hess)
    )
    r = sketched_newton(
        vandal(case.fun),
        case.x0,
        jac=vandal(case.grad, gradient),
        hess=vandal(case.hess, hessian),
        constraints=rows,
        bounds=case.bounds,
    )
    np.testing.assert_array_equal(r.x, clean.x)
    np.testing.assert_array_equal(r.lam, clean.lam)


def test_inputs_are_left_alone():
    n = 4
    x0 = np.array([5.0, -5.0, 0.3, 0.2])  # outside the bounds
    A, low, high = np.ones((1, n)), np.array([1.0]), np.array([1.0])
    bounds = Bounds(np.zeros(n), np.ones(n))
    target = np.arange(4.0)
    lam0 = np.array([0.5])
    kept = [a.copy() for a in (x0, A, low, high, bounds.lb, bounds.ub, target, lam0)]
    read_only = [x0, A, low, high, target, lam0]
    for a in read_only:
        a.setflags(write=False)
    r = sketched_newton(
        lambda x, t: 1e5 * (x - t) @ (x - t),
        x0,
        args=(target,),
        jac=lambda x, t: 2e5 * (x - t),
        hess=lambda x, t: 2e5 * np.eye(n),
        constraints=LinearConstraint(A, low, high),
        bounds=bounds,
        lam0=lam0,
    )
    assert r.success
    for before, after in zip(kept, (x0, A, low, high, bounds.lb, bounds.ub, target, lam0), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.shares_memory(r.x, x0)


@pytest.mark.parametrize("x0", [[2, 2], (2, 2), np.array([2, 2]), np.array([2, 2], dtype=np.float32)])
def test_integer_and_single_starts(x0):
    case = CASES["HS7"]
    r = sketched_newton(case.fun, x0, jac=case.grad, hess=case.hess, constraints=case.constraints)
    assert r.x.dtype == np.float64
    np.testing.assert_array_equal(r.x, solve(case).x)


def test_scalar_start_and_all_fixed():
    r = sketched_newton(lambda x: (x[0] - 2) ** 2, 0.5, jac=lambda x: 2 * (x - 2), hess=lambda x: [[2.0]])
    np.testing.assert_allclose(r.x, [2.0])
    fixed = sketched_newton(
        lambda x: x @ x,
        [1.0, 2.0],
        jac=lambda x: 2 * x,
        hess=lambda x: 2 * np.eye(2),
        bounds=[(1, 1), (2, 2)],
    )
    assert fixed.success
    np.testing.assert_array_equal(fixed.x, [1.0, 2.0])
    np.testing.assert_allclose(fixed.z_lo - fixed.z_up, [2.0, 4.0])


def test_fixed_variables_have_multipliers():
    case = CASES["HS71"]
    free = solve(case, tol=1e-10)
    fixed = solve(case, bounds=Bounds([1.0, free.x[1], 1, 1], [5.0, free.x[1], 5, 5]), tol=1e-10)
    assert fixed.success
    assert fixed.x[1] == free.x[1]
    np.testing.assert_allclose(fixed.x, free.x, atol=1e-6)
    np.testing.assert_allclose(fixed.z_lo - fixed.z_up, free.z_lo - free.z_up, atol=1e-5)


# ----------------------------------------------------------------------------------------------- same bits


@pytest.mark.parametrize("kkt_solver", ["kaczmarz", "sketch_prec"])
def test_seeds(kkt_solver):
    p = chain(160, 20)
    if kkt_solver != "sketch_prec":
        del p["hess_sqrt"]

    def run(rng):
        return sketched_newton(**p, kkt_solver=kkt_solver, rng=rng, tol=1e-5)

    one, two, other = run(7), run(7), run(8)
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.kkt_hist, two.kkt_hist)
    assert not np.array_equal(one.x, other.x)
    np.testing.assert_array_equal(run(np.random.default_rng(3)).x, run(np.random.default_rng(3)).x)


def test_thread_count_does_not_change_bits():
    def run(threads):
        before = aitken.get_num_threads()
        aitken.set_num_threads(threads)
        try:
            return [
                sketched_newton(**chain(200, 20, sparse), kkt_solver=k, rng=0)
                for k in ("ldlt", "minres", "kaczmarz", "sketch_prec")
                for sparse in (False, True)
            ]
        finally:
            aitken.set_num_threads(before)

    for one, two in zip(run(1), run(2), strict=True):
        np.testing.assert_array_equal(one.x, two.x)
        np.testing.assert_array_equal(one.lam, two.lam)


# --------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("error", "match", "given"),
    [
        (TypeError, "unknown option `maxitre`; did you mean `maxiter`", {"maxitre": 3}),
        (TypeError, "unknown option `gtool`", {"gtool": 3}),
        (ValueError, "`kkt_solver`", {"kkt_solver": "magic"}),
        (ValueError, "`accuracy`", {"accuracy": "high"}),
        (ValueError, "`globalization`", {"globalization": "none"}),
        (ValueError, "`tol`", {"tol": -1.0}),
        (ValueError, "`tol`", {"tol": 0.0}),
        (ValueError, "`constr_tol`", {"constr_tol": np.nan}),
        (ValueError, "`maxiter`", {"maxiter": -1}),
        (TypeError, "`maxiter`", {"maxiter": 1.5}),
        (ValueError, "`nu` must be > 1; got 1.0", {"nu": 1.0}),
        (ValueError, "`beta` must be < 0.5", {"beta": 0.5}),
        (ValueError, "`eta1`", {"eta1": 0.0}),
        (ValueError, "`kappa`", {"kappa": -1}),
        (TypeError, "`rng`", {"rng": "seed"}),
        (TypeError, "`callback`", {"callback": 3}),
        (TypeError, "`jac`", {"jac": 3}),
        (ValueError, "`x0`", {"x0": [np.nan, 1, 1, 1]}),
        (ValueError, "`x0`", {"x0": np.ones((2, 2))}),
        (TypeError, "`x0`", {"x0": np.ones(4) * 1j}),
        (TypeError, "`fun`", {"fun": 3}),
        (ValueError, "bounds", {"bounds": [(2, 1)] * 4}),
        (ValueError, "bounds", {"bounds": [(1, 2)] * 3}),
        (ValueError, "`jac`", {"jac": lambda x: np.ones(3)}),
        (ValueError, "`hess`", {"hess": lambda x: np.ones((3, 3))}),
        (TypeError, "constraint", {"constraints": 3}),
        (ValueError, "hess_sqrt", {"kkt_solver": "sketch_prec"}),
    ],
    ids=str,
)
def test_bad_options(error, match, given):
    case = CASES["HS71"]
    arguments = {
        "fun": case.fun,
        "x0": case.x0,
        "jac": case.grad,
        "hess": case.hess,
        "constraints": case.constraints,
        "bounds": case.bounds,
        **given,
    }
    with pytest.raises(error, match=match):
        sketched_newton(**arguments)


def test_theory_refuses_inequalities():
    with pytest.raises(ValueError, match="equality"):
        solve(CASES["HS71"], accuracy="theory")


# ----------------------------------------------------------------------------------------- random problems


def enumerate_qp(H, b, A, r, G, h, xl):
    """The minimum of x'Hx / 2 - b'x, Ax = r, Gx <= h, x >= xl, by trying every active set."""
    n, m = len(b), len(r)
    rows = np.vstack([G, -np.eye(n)])
    limits = np.concatenate([h, -xl])
    best, where = np.inf, None
    for pattern in range(1 << len(limits)):
        active = [i for i in range(len(limits)) if pattern >> i & 1]
        C = np.vstack([A, rows[active]])
        if len(C) > n:
            continue
        K = np.block([[H, C.T], [C, np.zeros((len(C), len(C)))]])
        try:
            z = np.linalg.solve(K, np.concatenate([b, r, limits[active]]))
        except np.linalg.LinAlgError:
            continue
        x, mult = z[:n], z[n + m :]
        if (mult >= -1e-9).all() and (rows @ x <= limits + 1e-9).all():
            value = 0.5 * x @ H @ x - b @ x
            if value < best:
                best, where = value, x
    return best, where


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 2), st.integers(0, 3))
def test_random_convex_quadratic_programs(seed, n, m, q):
    rng = np.random.default_rng(seed)
    m = min(m, n - 1)
    M = rng.standard_normal((n, n))
    H = M @ M.T + 0.1 * np.eye(n)
    inside = rng.uniform(0.1, 1.0, n)  # strictly feasible
    A, G = rng.standard_normal((m, n)), rng.standard_normal((q, n))
    r, h = A @ inside, G @ inside + rng.uniform(0.0, 0.5, q) + 1e-3
    b, xl = 3 * rng.standard_normal(n), np.zeros(n)
    value, where = enumerate_qp(H, b, A, r, G, h, xl)
    rows = [LinearConstraint(A, r, r)] * bool(m) + [LinearConstraint(G, -np.inf, h)] * bool(q)
    s = sketched_newton(
        lambda x: 0.5 * x @ H @ x - b @ x,
        rng.standard_normal(n),
        jac=lambda x: H @ x - b,
        hess=lambda x: H,
        constraints=rows,
        bounds=Bounds(xl, np.inf),
        tol=1e-9,
    )
    assert s.success
    np.testing.assert_allclose(s.fun, value, atol=1e-6 * max(1.0, abs(value)))
    np.testing.assert_allclose(s.x, where, atol=1e-4)
    assert np.abs(A @ s.x - r).max(initial=0) <= 1e-9
    assert np.maximum(G @ s.x - h, 0).max(initial=0) <= 1e-9


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_random_smooth_problems_never_succeed_falsely(seed, n):
    """Non-convex objectives on a random ellipsoid and a random half-space: whatever the end, it is honest."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((n, n))
    P = M @ M.T / n + 0.2 * np.eye(n)
    B = rng.standard_normal((n, n))
    B = B + B.T
    a, d = rng.standard_normal(n), rng.standard_normal(n)
    rows = NonlinearConstraint(
        lambda x: np.array([x @ P @ x - 1.0, a @ x]),
        [0.0, -np.inf],
        [0.0, 0.2],
        jac=lambda x: np.vstack([2 * P @ x, a]),
        hess=lambda x, v: 2 * v[0] * P,
    )
    r = sketched_newton(
        lambda x: 0.5 * x @ B @ x + np.sum(np.cos(d * x)),
        rng.standard_normal(n),
        jac=lambda x: B @ x - d * np.sin(d * x),
        hess=lambda x: B - np.diag(d**2 * np.cos(d * x)),
        constraints=rows,
    )
    assert r.success
    J = np.vstack([2 * P @ r.x, a])
    g = B @ r.x - d * np.sin(d * r.x)
    assert np.abs(g + J.T @ r.lam).max() <= 1e-6 * max(1, np.abs(r.lam).sum() / 100)
    assert abs(r.x @ P @ r.x - 1) <= 1e-6
    assert a @ r.x <= 0.2 + 1e-6
    assert r.lam[1] >= 0
    # No direction along the active rows goes down.
    active = J if r.lam[1] > 1e-4 else J[:1]
    if r.lam[1] > 1e-4 or a @ r.x < 0.2 - 1e-4:
        H = B - np.diag(d**2 * np.cos(d * r.x)) + 2 * r.lam[0] * P
        Z = np.linalg.svd(active)[2][len(active) :].T
        assert np.linalg.eigvalsh(Z.T @ H @ Z).min(initial=np.inf) >= -1e-5


# -------------------------------------------------------------------------------------------------- Ctrl-C

SETUP = """
import numpy as np, scipy.sparse as sp
from scipy.optimize import LinearConstraint
from aitken.optimize import sketched_newton
{body}
"""
LONG = {
    "user function": {
        "body": "def fun(x):\n    time.sleep(0.02)\n    return float(np.sum(np.cos(x)))",
        "call": "sketched_newton(fun, np.ones(50), maxiter=10**6)",
    },
    # One factorisation of a three-dimensional grid takes many seconds.
    "factorisation": {
        "body": "k = 38\n"
        "line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(k, k))\n"
        "L = sp.csr_array(sp.kronsum(sp.kronsum(line, line), line))\n"
        "n = L.shape[0]\n"
        "x0 = np.ones(n)",
        "call": "sketched_newton(lambda x: 0.5 * x @ (L @ x) - x.sum(), x0, jac=lambda x: L @ x - 1, "
        "hess=lambda x: L, constraints=LinearConstraint(sp.eye_array(10, n, format='csr'), 0, 0), "
        "maxiter=10**6, tol=1e-300)",
    },
}


@needs_posix
@pytest.mark.parametrize("case", LONG)
def test_ctrl_c(case):
    check_ctrl_c(SETUP.format(body=LONG[case]["body"]), LONG[case]["call"], wait=1.5)


def test_every_inequality_case_is_in_the_set():
    """The list above is not empty by accident."""
    assert len(EQUALITY) >= 35
    assert len(INEQUALITY) >= 18
    assert DEGENERATE <= set(CASES)
