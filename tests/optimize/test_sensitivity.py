"""Derivatives of solutions against central differences of solves, for every kind of active set."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from aitken._errors import ConvergenceWarning, RecoveryWarning
from aitken.optimize import sketched_newton
from tests.optimize.problems import CASES

TIGHT = {"tol": 1e-11, "constr_tol": 1e-11}


def differenced(solve, p, pick, h=1e-4):
    """Jacobian of pick(solve(p)) by central differences, one row per output."""
    p = np.atleast_1d(np.asarray(p, dtype=float))
    columns = []
    for i in range(len(p)):
        ends = []
        for sign in (1, -1):
            q = p.copy()
            q[i] += sign * h
            ends.append(np.atleast_1d(pick(solve(q))))
        columns.append((ends[0] - ends[1]) / (2 * h))
    return np.column_stack(columns)


class Quadratic:
    """min sum d^4 / 12 + d' Q d / 2 with d = x - a - T p, and a sphere row of radius p[0]."""

    def __init__(self, n=5, k=3, seed=0):
        rng = np.random.default_rng(seed)
        M = rng.standard_normal((n, n))
        self.Q = M @ M.T + np.eye(n)
        self.T = rng.standard_normal((n, k))
        self.a = rng.standard_normal(n)
        self.n, self.k = n, k
        self.p = rng.standard_normal(k) * 0.3
        self.E = rng.standard_normal((2, n))
        self.x0 = 0.1 * rng.standard_normal(n)

    def fun(self, x, p):
        d = x - self.a - self.T @ p
        return float(np.sum(d**4) / 12 + 0.5 * d @ self.Q @ d)

    def jac(self, x, p):
        d = x - self.a - self.T @ p
        return d**3 / 3 + self.Q @ d

    def hess(self, x, p):
        d = x - self.a - self.T @ p
        return np.diag(d**2) + self.Q

    def dgrad(self, x, p):
        return -self.hess(x, p) @ self.T

    def sphere(self, p, side):
        """Half of x'x is the radius 0.5 + p[0]^2 / 2: equal to it, or at most it."""
        return NonlinearConstraint(
            lambda x: [0.5 * x @ x - 0.5 * p[0] ** 2],
            0.5 if side == "eq" else -np.inf,
            0.5,
            jac=lambda x: x[None, :],
            hess=lambda x, v: v[0] * np.eye(self.n),
        )

    def dsphere(self, p):
        row = np.zeros((1, self.k))
        row[0, 0] = -p[0]
        return row


def check_all(solve, p, r, *, dgrad, dcons, dfun, rel=2e-5):
    """Every cotangent of r = solve(p) against the whole Jacobian by differences."""
    n, m = len(r.x), len(r.lam)
    X = differenced(solve, p, lambda s: s.x)
    scale = np.abs(X).max()
    assert scale > 1e-3
    for i in range(n):
        got = r.vjp(np.eye(n)[i], dgrad=dgrad, dcons=dcons)
        np.testing.assert_allclose(got, X[i], rtol=0, atol=rel * scale)
    if m:
        L = differenced(solve, p, lambda s: s.lam)
        for i in range(m):
            got = r.vjp(grad_lam=np.eye(m)[i], dgrad=dgrad, dcons=dcons)
            np.testing.assert_allclose(got, L[i], rtol=0, atol=rel * max(1.0, np.abs(L).max()))
    F = differenced(solve, p, lambda s: s.fun)[0]
    got = r.vjp(grad_fun=1.0, dgrad=dgrad, dcons=dcons, dfun=dfun)
    np.testing.assert_allclose(got, F, rtol=0, atol=rel * max(1.0, np.abs(F).max()))
    # All at once is the sum.
    gx, gl = np.arange(1.0, n + 1), np.arange(2.0, m + 2)
    whole = r.vjp(gx, grad_lam=gl, grad_fun=-2.0, dgrad=dgrad, dcons=dcons, dfun=dfun)
    expected = gx @ X - 2 * F + (gl @ L if m else 0.0)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=20 * rel * np.abs(expected).max())


@pytest.mark.parametrize("variant", ["exact", "bfgs", "lbfgs", "hessp", "differences", "operator", "values"])
@pytest.mark.parametrize("side", ["eq", "ineq"])
def test_nonlinear_row_and_linear_rows(side, variant):
    q = Quadratic()
    given = {
        "exact": {"jac": q.jac, "hess": q.hess},
        "bfgs": {"jac": q.jac, "hess": "bfgs"},
        "lbfgs": {"jac": q.jac, "hess": "lbfgs"},
        "hessp": {"jac": q.jac, "hessp": lambda x, v, p: q.hess(x, p) @ v},
        "differences": {"jac": q.jac, "hess": "3-point"},
        "operator": {"jac": q.jac, "hess": lambda x, p: aslinearoperator(q.hess(x, p))},
        "values": {"jac": None},
    }[variant]
    tight = {"tol": {"values": 1e-6, "operator": 1e-7}.get(variant, 1e-9)}

    def solve(p, **options):
        rows = [q.sphere(p, side), LinearConstraint(q.E, [0.1, -np.inf], [0.1, 50.0])]  # the last never binds
        return sketched_newton(q.fun, q.x0, args=(p,), constraints=rows, **options)

    r = solve(q.p, **given, **tight)
    assert r.success
    assert r.v[0][0] != 0
    dcons = np.vstack([q.dsphere(q.p), np.zeros((2, q.k))])
    exact = {"jac": q.jac, "hess": q.hess, **TIGHT}
    check_all(
        lambda p: solve(p, **exact),
        q.p,
        r,
        dgrad=q.dgrad(r.x, q.p),
        dcons=dcons,
        dfun=-q.jac(r.x, q.p) @ q.T,
        rel=2e-3 if variant == "values" else 2e-5,
    )


@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_bounds_fixed_variables_and_scales(scale, scaling):
    q = Quadratic(n=6, seed=3)
    xl = np.array([-np.inf, 0.3, -2.0, 0.25, -np.inf, -5.0])
    xu = np.array([0.0, np.inf, 2.0, 0.25, np.inf, 5.0])  # the fourth is fixed

    def solve(p, **options):
        return sketched_newton(
            lambda x, p: scale * q.fun(x, p),
            np.full(6, 0.1),
            args=(p,),
            jac=lambda x, p: scale * q.jac(x, p),
            hess=lambda x, p: scale * q.hess(x, p),
            bounds=Bounds(xl, xu),
            constraints=LinearConstraint(scale * q.E[:1], scale * p[1], scale * p[1]),
            scaling=scaling,
            tol=1e-9 * scale,
            constr_tol=1e-9,
            **options,
        )

    r = solve(q.p)
    assert r.success
    assert np.count_nonzero(np.maximum(r.z_lo, r.z_up)[[0, 1, 2, 4, 5]] > 1e-6 * scale) >= 1
    dcons = np.zeros((1, q.k))
    dcons[0, 1] = -scale
    dgrad = scale * q.dgrad(r.x, q.p)
    dgrad[3] = np.nan  # of a fixed variable: must not matter once it is made finite
    dgrad[3] = 1e6
    dfun = -scale * q.jac(r.x, q.p) @ q.T
    X = differenced(solve, q.p, lambda s: s.x)
    assert not X[3].any()
    for i in range(6):
        got = r.vjp(np.eye(6)[i], dgrad=dgrad, dcons=dcons)
        np.testing.assert_allclose(got, X[i], rtol=0, atol=3e-5 * np.abs(X).max())
    L = differenced(solve, q.p, lambda s: s.lam)
    np.testing.assert_allclose(
        r.vjp(grad_lam=[1.0], dgrad=dgrad, dcons=dcons), L[0], rtol=0, atol=1e-4 * np.abs(L).max()
    )
    F = differenced(solve, q.p, lambda s: s.fun)[0]
    np.testing.assert_allclose(
        r.vjp(grad_fun=1, dgrad=dgrad, dcons=dcons, dfun=dfun), F, rtol=0, atol=1e-4 * np.abs(F).max()
    )
    adjoint = r.vjp(np.ones(6))
    assert adjoint.u[3] == 0
    held = np.flatnonzero(np.maximum(r.z_lo, r.z_up) > 1e-6 * scale)
    assert not adjoint.u[held].any()


def test_position_of_a_bound():
    q = Quadratic(n=4, seed=1)

    def solve(p):
        upper = np.array([np.inf, p[0], np.inf, np.inf])
        return sketched_newton(
            q.fun, np.zeros(4), args=(q.p,), jac=q.jac, hess=q.hess, bounds=Bounds(-np.inf, upper), **TIGHT
        )

    free = solve(np.array([np.inf]))
    p = free.x[1:2] - 0.4
    r = solve(p)
    assert r.z_up[1] > 0.01
    X = differenced(solve, p, lambda s: s.x)[:, 0]
    F = differenced(solve, p, lambda s: s.fun)[0, 0]
    for i in range(4):
        np.testing.assert_allclose(r.vjp(np.eye(4)[i]).bounds[1], X[i], atol=1e-5)
    np.testing.assert_allclose(r.vjp(grad_fun=1.0).bounds[1], F, rtol=1e-6)
    np.testing.assert_allclose(F, -r.z_up[1], rtol=1e-5)
    assert not r.vjp(np.ones(4)).bounds[[0, 2, 3]].any()


def test_limits_of_rows_on_both_sides():
    """A row that presses against its lower side, and one against its upper; the limits are the parameters."""
    q = Quadratic(n=4, seed=2)
    E = q.E

    def solve(p):
        return sketched_newton(
            q.fun, np.zeros(4), args=(q.p,), jac=q.jac, hess=q.hess, **TIGHT,
            constraints=LinearConstraint(E, [p[0], -np.inf], [np.inf, p[1]]),
        )  # fmt: skip

    at = E @ sketched_newton(q.fun, np.zeros(4), args=(q.p,), jac=q.jac, hess=q.hess).x
    p = at + [0.3, -0.2]
    r = solve(p)
    assert r.lam[0] < -1e-3
    assert r.lam[1] > 1e-3
    check_all(lambda s: solve(s), p, r, dgrad=np.zeros((4, 2)), dcons=-np.eye(2), dfun=np.zeros(2))


NAMED = ("HS6", "HS28", "HS40", "HS42", "HS77", "HS79", "BT12", "HS14", "HS24", "HS35", "HS43", "HS65",
         "HS71", "HS76", "HS100", "HS113")  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_named_problems_with_a_linear_term(name):
    """f + p'x and rows shifted by p: x, lam and fun move as the adjoint says."""
    case = CASES[name]
    n, m = case.n, case.m
    rng = np.random.default_rng(5)
    first = 0.01 * rng.standard_normal(n + m)

    def solve(p, x0=case.x0):
        a, b = p[:n], p[n:]
        row = NonlinearConstraint(
            lambda x: case.cons(x) + b, case.lower, case.upper, jac=case.jac, hess=case.cons_hess
        )
        return sketched_newton(
            lambda x: case.fun(x) + a @ x,
            x0,
            jac=lambda x: case.grad(x) + a,
            hess=case.hess,
            constraints=row,
            bounds=case.bounds,
            tol=1e-10,
        )

    r = solve(first)
    assert r.success
    gx, gl = rng.standard_normal(n), rng.standard_normal(m)
    adjoint = r.vjp(gx, grad_lam=gl)
    got = np.concatenate([adjoint.u, adjoint.w])

    def scalar(s):
        return gx @ s.x + gl @ s.lam

    # From the solution itself, so that every solve ends at the same minimum.
    expected = differenced(lambda p: solve(p, r.x), first, scalar, h=1e-5)[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("form", ["csr", "operator"])
def test_sparse_chain_and_operators(form):
    """A chain of variables, some held by bounds, with rows of ten; differences of sparse solves."""
    n = 300 if form == "csr" else 60
    D = sp.diags_array([np.full(n, 2.2), np.full(n - 1, -1.0), np.full(n - 1, -1.0)], offsets=[0, 1, -1])
    D = sp.csr_array(D)
    A = sp.csr_array(sp.kron(sp.eye_array(n // 10), np.ones((1, 10))))
    target = np.sin(np.arange(n) / 7.0)

    def solve(p, wrap=lambda M: M, tol=1e-8):
        return sketched_newton(
            lambda x: 0.5 * x @ (D @ x) - (target * p[0]) @ x + 0.25 * np.sum(x**4),
            np.zeros(n),
            jac=lambda x: D @ x - target * p[0] + x**3,
            hess=lambda x: wrap(sp.csr_array(D + sp.diags_array(3 * x**2))),
            constraints=NonlinearConstraint(
                lambda x: A @ x, -np.inf, 4.0 + p[1], jac=lambda x: wrap(A),
                hess=lambda x, v: wrap(sp.csr_array((n, n))),
            ),
            bounds=Bounds(-0.8, np.inf),
            tol=tol,
        )  # fmt: skip

    p = np.array([3.1, 0.0])
    r = solve(p) if form == "csr" else solve(p, aslinearoperator, 1e-4)
    assert r.success
    assert 3 < np.count_nonzero(r.z_lo > 1e-2) < n // 2
    assert 0 < np.count_nonzero(r.lam > 1e-2) < n // 10
    dgrad = np.zeros((n, 2))
    dgrad[:, 0] = -target
    dcons = sp.csr_array(np.array([[0.0, -1.0]] * (n // 10)))
    gx = np.cos(np.arange(n))
    got = r.vjp(gx, dgrad=dgrad, dcons=dcons)
    expected = differenced(solve, p, lambda s: gx @ s.x)[0]
    rel = 1e-4 if form == "csr" else 1e-3
    np.testing.assert_allclose(got, expected, atol=rel * np.abs(expected).max())


def test_products_alone_beyond_the_size_that_is_formed(monkeypatch):
    from aitken.optimize import _sensitivity

    q = Quadratic(n=6, seed=4)
    row = NonlinearConstraint(
        lambda x: [0.5 * x @ x], -np.inf, 0.5, jac=lambda x: aslinearoperator(x[None, :]),
        hess=lambda x, v: LinearOperator((6, 6), matvec=lambda d: v[0] * np.ravel(d), dtype=float),
    )  # fmt: skip

    def solve():
        return sketched_newton(
            q.fun, np.full(6, 0.1), args=(q.p,), jac=q.jac, constraints=row, tol=1e-6,
            hess=lambda x, p: aslinearoperator(q.hess(x, p)), bounds=Bounds(-0.15, np.inf),
        )  # fmt: skip

    gx = np.arange(1.0, 7.0)
    formed = solve().vjp(gx)
    monkeypatch.setattr(_sensitivity, "_FORMED_UP_TO", 2)
    products = solve().vjp(gx)
    assert np.abs(formed.u).max() > 0.1
    for one, other in zip(formed, products, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    quasi = sketched_newton(q.fun, q.x0, args=(q.p,), jac=q.jac, hess="bfgs")
    with pytest.raises(ValueError, match="second derivatives"):
        quasi.vjp(gx)


@pytest.mark.parametrize("gradient", ["callable", "with value", "values alone"])
def test_arguments_of_the_objective(gradient):
    q = Quadratic()

    def both(x, s, p):
        return s * q.fun(x, p), s * q.jac(x, p)

    fun = both if gradient == "with value" else (lambda x, s, p: s * q.fun(x, p))
    jac = {"callable": lambda x, s, p: s * q.jac(x, p), "with value": True, "values alone": None}[gradient]
    rel = 1e-3 if gradient == "values alone" else 1e-5
    tol = {"tol": 1e-6} if gradient == "values alone" else {"tol": 1e-10}

    def solve(s, p, fun=fun, jac=jac, **options):
        return sketched_newton(
            fun, q.x0, args=(s, p), jac=jac, constraints=q.sphere(q.p, "eq"), **(options or tol)
        )

    def exactly(s, p):
        def hess(x, s, p):
            return s * q.hess(x, p)

        return solve(
            s, p, lambda x, s, p: s * q.fun(x, p), lambda x, s, p: s * q.jac(x, p), hess=hess, **TIGHT
        )

    r = solve(1.5, q.p)
    gx = np.arange(1.0, 6.0)

    def scalar(t):
        return gx @ t.x + 3 * t.fun

    expected = differenced(lambda p: exactly(1.5, p), q.p, scalar)[0]
    got = r.vjp(gx, grad_fun=3.0, argnum=1)
    assert got.shape == (q.k,)
    np.testing.assert_allclose(got, expected, atol=rel * np.abs(expected).max())
    expected = differenced(lambda s: exactly(float(s[0]), q.p), 1.5, scalar)[0, 0]
    got = r.vjp(gx, grad_fun=3.0, argnum=0)
    assert np.ndim(got) == 0
    np.testing.assert_allclose(got, expected, atol=rel * max(1.0, abs(expected)))


def test_argument_with_constraints_that_share_it():
    q = Quadratic()

    def solve(p):
        return sketched_newton(
            q.fun, q.x0, args=(p,), jac=q.jac, hess=q.hess, constraints=q.sphere(p, "eq"), **TIGHT
        )

    r = solve(q.p)
    gx = np.arange(1.0, 6.0)
    expected = differenced(solve, q.p, lambda s: gx @ s.x)[0]
    got = r.vjp(gx, argnum=0, dcons=lambda x: q.dsphere(q.p))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    without = r.vjp(gx, argnum=0)
    assert np.abs(without - expected).max() > 1e-3  # the row's share is not nothing


def test_parameters_of_any_shape():
    q = Quadratic()
    r = sketched_newton(q.fun, q.x0, args=(q.p,), jac=q.jac, hess=q.hess)
    mixed = np.arange(5.0 * 6).reshape(5, 2, 3)
    adjoint = r.vjp(np.ones(5))
    assert r.vjp(np.ones(5), dgrad=mixed).shape == (2, 3)
    np.testing.assert_allclose(r.vjp(np.ones(5), dgrad=mixed), np.tensordot(adjoint.u, mixed, 1))
    np.testing.assert_allclose(
        r.vjp(np.ones(5), dgrad=sp.csr_array(mixed[:, 0])), np.tensordot(adjoint.u, mixed[:, 0], 1)
    )
    np.testing.assert_allclose(
        r.vjp(np.ones(5), dgrad=lambda x, lam: x[:, None] * mixed[:, 0]), (adjoint.u * r.x) @ mixed[:, 0]
    )


def test_theory_mode_and_repeated_calls():
    q = Quadratic()
    calls = [0]

    def hess(x, p):
        calls[0] += 1
        return q.hess(x, p)

    rows = q.sphere(q.p, "eq")
    r = sketched_newton(
        q.fun, q.x0, args=(q.p,), jac=q.jac, hess=hess, constraints=rows, accuracy="theory", tol=1e-8
    )
    s = sketched_newton(q.fun, q.x0, args=(q.p,), jac=q.jac, hess=q.hess, constraints=rows, tol=1e-10)
    np.testing.assert_allclose(r.vjp(np.ones(5)).u, s.vjp(np.ones(5)).u, atol=1e-6)
    before = calls[0]
    one, two = r.vjp(np.ones(5)), r.vjp(np.ones(5))
    assert calls[0] == before  # the factorisation is kept
    np.testing.assert_array_equal(one.u, two.u)


def test_loose_solutions_do_not_leave_the_barrier_in_the_derivative():
    """At tol 1e-5 the multiplier of 2e-4 and its distance are alike; the estimate still tells them apart."""
    # min x'Hx / 2 - b'x with x[0] <= bound
    H, b = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([1.0, 2.0])
    inverse = np.linalg.inv(H)
    for multiplier, expected in ((2e-4, [0.0, -1.0]), (-2e-4, -inverse[1])):
        bound = (inverse @ b)[0] - multiplier * inverse[0, 0]
        r = sketched_newton(
            lambda x: 0.5 * x @ H @ x - x @ b, [0.0, 0.0], jac=lambda x: H @ x - b, hess=lambda x: H,
            bounds=[(None, bound), (None, None)], tol=1e-5,
        )  # fmt: skip
        assert r.success
        np.testing.assert_allclose(r.vjp([0.0, 1.0]).u, expected, atol=1e-8)


# ------------------------------------------------------------------------------- what has no derivative


def test_weakly_active_sides_are_said():
    H = np.eye(2)

    def solve(**how):
        return sketched_newton(
            lambda x: 0.5 * (x - [1.0, 2.0]) @ (x - [1.0, 2.0]), [0.0, 0.0], jac=lambda x: x - [1.0, 2.0],
            hess=lambda x: H, **how,
        )  # fmt: skip

    with pytest.warns(RecoveryWarning, match="bounds of variables 0"):
        solve(bounds=[(None, 1.0), (None, None)]).vjp([1.0, 1.0])
    row = LinearConstraint([[0.0, 0.0], [1.0, 1.0]], [-1.0, -np.inf], [1.0, 3.0])
    with pytest.warns(RecoveryWarning, match="constraint rows 1:?"):
        solve(constraints=row).vjp([1.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(bounds=[(None, 1.01), (None, None)]).vjp([1.0, 1.0])
        solve(bounds=[(None, 0.99), (None, None)]).vjp([1.0, 1.0])


@pytest.mark.parametrize("sparse", [False, True])
def test_dependent_gradients_are_refused_by_name(sparse):
    n = 250 if sparse else 3
    A = np.zeros((3, n))
    A[0], A[1, 0], A[2] = 1.0, 1.0, 2.0
    row = LinearConstraint(sp.csr_array(A) if sparse else A, [1.0, 0.5, 2.0], [1.0, 0.5, 2.0])
    eye = sp.eye_array(n, format="csr") if sparse else np.eye(n)
    r = sketched_newton(
        lambda x: 0.5 * x @ x, np.zeros(n), jac=lambda x: x, hess=lambda x: eye, constraints=row
    )
    assert r.success
    with pytest.raises(np.linalg.LinAlgError, match=r"depend on each other \(rows 0, 2,"):
        r.vjp(np.ones(n))


def test_more_active_rows_than_variables():
    """Three rows meet in a corner of the plane, with multipliers on all of them."""
    r = sketched_newton(
        lambda x: x @ x + 4 * x[0], np.ones(2), jac=lambda x: 2 * x + [4, 0], hess=lambda x: 2 * np.eye(2),
        constraints=LinearConstraint([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]], [1.0, 1.0, 1.0], np.inf),
    )  # fmt: skip
    assert r.success
    assert (np.abs(r.lam) > 0.1).all()
    with pytest.raises(np.linalg.LinAlgError, match="3 constraints are active on 2"):
        r.vjp(np.ones(2))


def test_minimiser_that_is_not_isolated():
    r = sketched_newton(
        lambda x: (x[0] + x[1]) ** 2, np.ones(2), jac=lambda x: np.full(2, 2 * (x[0] + x[1])),
        hess=lambda x: np.full((2, 2), 2.0),
    )  # fmt: skip
    assert r.success
    with pytest.raises(np.linalg.LinAlgError, match="not isolated"):
        r.vjp(np.ones(2))


def test_failed_solves_and_lost_problems():
    q = Quadratic()
    with pytest.warns(ConvergenceWarning):
        failed = sketched_newton(q.fun, q.x0, args=(q.p,), jac=q.jac, hess=q.hess, maxiter=1)
    with pytest.raises(ValueError, match="needs a solution"):
        failed.vjp(np.ones(5))
    r = sketched_newton(q.fun, q.x0, args=(q.p,), jac=q.jac, hess=q.hess)
    for other in (pickle.loads(pickle.dumps(r)), copy.copy(r), copy.deepcopy(r)):
        assert type(other) is type(r)
        assert other.keys() == r.keys()
        np.testing.assert_array_equal(other.x, r.x)
        with pytest.raises(RuntimeError, match="does not hold"):
            other.vjp(np.ones(5))
    assert "_sensitivity" not in r
    assert "_sensitivity" not in repr(r)


def test_bad_arguments():
    q = Quadratic()
    r = sketched_newton(
        q.fun,
        q.x0,
        args=(q.p,),
        jac=q.jac,
        hess=q.hess,
        constraints=[q.sphere(q.p, "eq"), LinearConstraint(q.E, 0, 0)],
    )
    one = np.ones(5)
    for error, match, given in [
        (ValueError, "must be given", {}),
        (ValueError, "`grad_x`", {"grad_x": np.ones(4)}),
        (ValueError, "`grad_x`", {"grad_x": [np.nan, 0, 0, 0, 0]}),
        (ValueError, "`grad_lam`", {"grad_lam": np.ones(2)}),
        (ValueError, "`grad_lam`", {"grad_lam": [np.ones(1), np.ones(1)]}),
        (TypeError, "`grad_fun`", {"grad_fun": "one"}),
        (ValueError, "`dgrad` has shape", {"grad_x": one, "dgrad": np.ones((4, 2))}),
        (ValueError, "`dgrad` has shape", {"grad_x": one, "dgrad": 1.0}),
        (ValueError, "`dcons` has shape", {"grad_x": one, "dcons": sp.csr_array(np.ones((2, 2)))}),
        (ValueError, "different shapes", {"grad_x": one, "dgrad": np.ones((5, 2)), "dcons": np.ones((3, 3))}),
        (ValueError, "`grad_fun` needs `dfun`", {"grad_fun": 1.0, "dgrad": np.ones((5, 2))}),
        (ValueError, "`argnum`", {"grad_x": one, "argnum": 1}),
        (TypeError, "`argnum`", {"grad_x": one, "argnum": "p"}),
    ]:
        with pytest.raises(error, match=match):
            r.vjp(**given)
    s = sketched_newton(
        lambda x, k: float(k * x @ x), np.ones(2), args=(2,), jac=lambda x, k: 2 * k * x,
        hess=lambda x, k: 2 * k * np.eye(2),
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"`args\[0\]` must be a float"):
        s.vjp(np.ones(2), argnum=0)
    split = r.vjp(grad_lam=[np.ones(1), np.ones(2)])
    np.testing.assert_array_equal(split.u, r.vjp(grad_lam=np.ones(3)).u)
