"""The published method: its rules one by one, how it ends, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import aslinearoperator

from aitken._result import Status
from aitken.optimize._problem import Problem
from aitken.optimize._theory import SOLVERS, TheoryStep, _shift, minimize_theory
from tests.optimize.problems import CASES, EQUALITY


def problem(p) -> Problem:
    return Problem.from_arguments(
        p.fun, p.x0, jac=p.grad, hess=p.hess, constraints=p.constraints, bounds=p.bounds
    )


def kkt(p, r) -> float:
    gradient = p.grad(r.x) + p.jac(r.x).T @ r.lam
    return float(np.linalg.norm(np.concatenate([gradient, p.cons(r.x) - p.lower])))


@pytest.mark.parametrize("p", EQUALITY, ids=lambda p: p.name)
def test_success_is_a_kkt_point_and_nothing_else_is_success(p):
    r = minimize_theory(problem(p), maxiter=300)
    assert r.kkt == pytest.approx(kkt(p, r), rel=1e-9, abs=1e-13)
    assert (r.status == Status.CONVERGED) == (r.kkt <= 1e-4)
    if r.status == Status.BREAKDOWN:
        J = p.jac(r.x)
        assert np.linalg.eigvalsh(J @ J.T)[0] < 1e-2
        assert "singular" in r.detail
    assert len(r.alpha_hist) == len(r.eta_hist) == r.nit
    assert len(r.kkt_hist) == r.nit + 1
    assert r.points >= r.nit + 1


@pytest.mark.parametrize(("name", "weights_change"), [("HS7", False), ("HS47", True), ("BT9", True)])
def test_merit_function_decreases_by_armijo(name, weights_change):
    """M at each accepted point against D, from the iterates alone; D is found by differences."""
    p = CASES[name]
    steps: list[TheoryStep] = []
    r = minimize_theory(problem(p), monitor=lambda s: steps.append(s) or False)
    points = [(p.x0, np.zeros(p.m)), *((s.x, s.lam) for s in steps)]

    def merit(x, lam, eta1, eta2):
        c, g = p.cons(x), p.grad(x) + p.jac(x).T @ lam
        return p.fun(x) + lam @ c + 0.5 * eta1 * c @ c + 0.5 * eta2 * g @ g

    for (x, lam), (x1, lam1), alpha, (eta1, eta2), norm in zip(
        points, points[1:], r.alpha_hist, r.eta_hist, r.kkt_hist, strict=False
    ):
        dx, dlam, h = (x1 - x) / alpha, (lam1 - lam) / alpha, 1e-6
        slope = (
            merit(x + h * dx, lam + h * dlam, eta1, eta2) - merit(x - h * dx, lam - h * dlam, eta1, eta2)
        ) / (2 * h)
        assert slope <= -0.5 * eta2 * norm**2 * (1 - 1e-3) + 1e-6
        assert merit(x1, lam1, eta1, eta2) <= merit(x, lam, eta1, eta2) + 0.1 * alpha * slope + 1e-6 * norm**2
        if alpha < 1:  # the step before halving was refused
            before = merit(x + 2 * alpha * dx, lam + 2 * alpha * dlam, eta1, eta2)
            assert before > merit(x, lam, eta1, eta2) + 0.2 * alpha * slope - 1e-6 * norm**2
    weights = np.array(r.eta_hist)
    assert (np.diff(weights[:, 0]) >= 0).all()
    assert (np.diff(weights[:, 1]) <= 0).all()
    assert (weights[-1, 0] > 1) == weights_change
    assert np.allclose(weights[:, 0] * (weights[:, 1] / 0.1) ** 2, 1.0)  # by nu^2 and by 1 / nu, together


def test_shift_is_by_the_null_space():
    H = np.diag([-1.0, 2.0, 3.0])
    assert _shift(H, np.array([[1.0, 0.0, 0.0]]), 1e-6, 0.1) == 0.0
    assert _shift(H, np.array([[0.0, 1.0, 0.0]]), 1e-6, 0.1) == pytest.approx(0.1 + np.sqrt(14))
    assert _shift(H, np.eye(3), 1e-6, 0.1) == 0.0
    assert _shift(H, np.zeros((0, 3)), 1e-6, 0.1) == pytest.approx(0.1 + np.sqrt(14))


def test_accuracy_is_that_of_the_rule():
    """First iteration of a quadratic problem, by hand: Psi, Upsilon, delta and the relative residual."""
    H, J = np.diag([2.0, 4.0]), np.array([[1.0, 1.0]])
    r = minimize_theory(
        Problem.from_arguments(
            lambda x: 0.5 * x @ H @ x,
            [1.0, 2.0],
            jac=lambda x: H @ x,
            hess=lambda x: H,
            constraints=LinearConstraint(J, 1, 1),
        )
    )
    assert r.nit == 1
    assert r.status == Status.CONVERGED
    psi = 20 * 20.0 / 0.1
    trial = 0.4 * 0.1 / (2.1 * 20.0 * psi**2)
    assert trial < 1e-6  # so that the floor decides, as on all problems of the paper
    assert r.rtol_hist[0] == pytest.approx(1e-6 / (np.sqrt(24) * psi))


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "ldlt"])
def test_every_inner_solver_follows_the_exact_one(solver, n_threads):
    p = CASES["HS28"]
    exact = minimize_theory(problem(p))
    r = minimize_theory(problem(p), kkt_solver=solver, seed=3, n_threads=n_threads)
    assert r.status == Status.CONVERGED
    assert r.nit == exact.nit == 1
    assert r.inner_iters > 0
    assert r.inner_flops > 0
    assert np.abs(r.x - exact.x).max() < 1e-7


def test_seed_and_threads():
    p = CASES["HS7"]
    runs = [
        minimize_theory(problem(p), kkt_solver="gaussian", seed=s, n_threads=t)
        for s, t in ((1, 1), (1, 4), (2, 1))
    ]
    assert (runs[0].x == runs[1].x).all()
    assert runs[0].inner_iters == runs[1].inner_iters
    assert (runs[0].x != runs[2].x).any()


def test_forms_of_matrices_agree():
    p = CASES["HS77"]
    results = []
    for wrap in (np.asarray, sp.csr_array, aslinearoperator):
        constraint = NonlinearConstraint(
            p.cons,
            p.lower,
            p.upper,
            jac=lambda x, wrap=wrap: wrap(p.jac(x)),
            hess=lambda x, v, wrap=wrap: wrap(p.cons_hess(x, v)),
        )
        q = Problem.from_arguments(
            p.fun,
            p.x0,
            jac=p.grad,
            hess=lambda x, wrap=wrap: wrap(p.hess(x)),
            constraints=constraint,
        )
        results.append(minimize_theory(q))
    assert len({r.nit for r in results}) == 1
    assert all(np.allclose(r.x, results[0].x, atol=1e-10) for r in results)


def test_limits_and_callback():
    p = CASES["HS47"]
    r = minimize_theory(problem(p), maxiter=3)
    assert (r.status, r.nit) == (Status.MAX_ITERATIONS, 3)
    seen = []
    r = minimize_theory(problem(p), monitor=lambda s: seen.append((s.nit, s.kkt, s.alpha)) or s.nit == 2)
    assert (r.status, r.nit) == (Status.STOPPED_BY_CALLBACK, 2)
    assert [s[0] for s in seen] == [1, 2]
    assert seen[1][1] == r.kkt
    r = minimize_theory(problem(p), kkt_solver="gaussian", max_inner=5, maxiter=2)
    assert r.inner_short >= 2
    assert r.inner_iters <= 10


def test_start_at_the_solution():
    p = CASES["HS28"]
    first = minimize_theory(problem(p))
    q = Problem.from_arguments(
        p.fun, first.x, jac=p.grad, hess=p.hess, constraints=p.constraints, bounds=p.bounds
    )
    again = minimize_theory(q, first.lam)
    assert (again.status, again.nit, again.points) == (Status.CONVERGED, 0, 1)


def test_not_finite():
    bad = Problem.from_arguments(lambda x: np.nan, [1.0], jac=lambda x: x, hess=lambda x: np.eye(1))
    assert minimize_theory(bad).status == Status.NONFINITE
    # A trial where f is NaN is refused like one where M is too large.
    r = minimize_theory(
        Problem.from_arguments(
            lambda x: np.nan if x[0] < 0.5 else -np.log(x[0]) + x[0] + 50 * (x[0] - 1) ** 2,
            [30.0],
            jac=lambda x: -1 / x + 1 + 100 * (x - 1),
            hess=lambda x: np.diag(1 / x**2 + 100),
        )
    )
    assert r.status == Status.CONVERGED
    assert abs(r.x[0] - 1) < 1e-3


def test_refuses_what_the_paper_does_not_cover():
    def quadratic(**more):
        return Problem.from_arguments(
            lambda x: x @ x, [1.0, 1.0], jac=lambda x: 2 * x, hess=lambda x: 2 * np.eye(2), **more
        )

    with pytest.raises(ValueError, match="constraint 0 is an inequality"):
        minimize_theory(quadratic(constraints=LinearConstraint([[1, 1]], 0, 1)))
    with pytest.raises(ValueError, match="no `bounds`"):
        minimize_theory(quadratic(bounds=Bounds(0, 3)))
    with pytest.raises(ValueError, match="at most as many constraints as variables; got 3 and 2"):
        minimize_theory(quadratic(constraints=LinearConstraint(np.ones((3, 2)), 1, 1)))
    with pytest.raises(ValueError, match=r"`kkt_solver` must be one of 'ldlt'.*got 'sketch_prec'"):
        minimize_theory(quadratic(), kkt_solver="sketch_prec")
