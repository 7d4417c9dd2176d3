"""Krylov solvers of Newton systems: the residual they promise, their budgets, and the choice between them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from aitken.datasets import elliptic_control
from aitken.optimize._kkt import DirectSolver, KKTMatrix
from aitken.optimize._krylov_kkt import (
    choose,
    direct_flops,
    factor_flops,
    product_flops,
    solve_chain,
    solve_minres,
    solve_sketch_prec,
)
from aitken.optimize._sketch import METHODS, SketchedPreconditioner


def system(n: int, m: int, condition: float, form: str = "dense", seed: int = 0) -> KKTMatrix:
    """H with eigenvalues from 1 to 1 / condition, random J."""
    g = np.random.default_rng(seed)
    Q = np.linalg.qr(g.standard_normal((n, n)))[0]
    H = (Q * np.logspace(0, -np.log10(condition), n)) @ Q.T
    J = g.standard_normal((m, n)) / np.sqrt(n)
    if form == "sparse":
        return KKTMatrix(sp.csr_array(H), sp.csr_array(J), np.zeros(n), np.zeros(m))
    if form == "operator":
        return KKTMatrix(aslinearoperator(H), aslinearoperator(J), np.zeros(n), np.zeros(m))
    return KKTMatrix(H, J, np.zeros(n), np.zeros(m))


def glm(rows: int, n: int, m: int, condition: float, seed: int = 0):
    """W of columns whose norms fall by sqrt(condition), and the system with H = W'W + mu I."""
    g = np.random.default_rng(seed)
    W = g.standard_normal((rows, n)) * np.logspace(0, -0.5 * np.log10(condition), n)
    mu = 0.1 * rows / condition
    return W, KKTMatrix(W.T @ W + mu * np.eye(n), g.standard_normal((m, n)), np.zeros(n), np.zeros(m))


def elliptic(N: int) -> tuple[KKTMatrix, np.ndarray]:
    """The Newton system of linear elliptic control at its start."""
    p = elliptic_control(N)
    J = sp.csr_array(p.constraints[0].A)
    g = p.grad(p.x0) + J.T @ p.lam0
    c = J @ p.x0 - p.constraints[0].lb
    return KKTMatrix(sp.csr_array(p.hess(p.x0)), J, np.zeros(p.n), np.zeros(p.m)), -np.concatenate([g, c])


def true_residual(K: KKTMatrix, z: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(K.matvec(z) - b) / np.linalg.norm(b))


# ------------------------------------------------------------------------------------------------- MINRES


@pytest.mark.parametrize("form", ["dense", "sparse", "operator"])
@pytest.mark.parametrize("rtol", [1e-1, 1e-4, 1e-9])
def test_minres_meets_the_true_residual(form, rtol):
    K = system(60, 15, 1e4, form)
    b = np.random.default_rng(1).standard_normal(75)
    found = solve_minres(K, b, None, rtol)
    assert found.converged
    assert found.residual <= rtol
    assert found.residual == pytest.approx(true_residual(K, found.z, b), rel=1e-6)
    assert found.solver == "minres"
    assert found.iterations > 0


@pytest.mark.parametrize("rtol", [1e-1, 1e-4, 1e-9])
def test_minres_on_elliptic_control(rtol):
    """SciPy's estimate-based test stops too early on this system at each of the three tolerances."""
    K, b = elliptic(8)
    found = solve_minres(K, b, None, rtol)
    assert found.converged
    assert true_residual(K, found.z, b) <= rtol


def test_minres_starts_from_what_it_is_given():
    K = system(60, 15, 1e3)
    b = np.random.default_rng(2).standard_normal(75)
    rough = solve_minres(K, b, None, 1e-3)
    kept = rough.z.copy()
    fine = solve_minres(K, b, rough.z, 1e-6)
    assert (rough.z == kept).all()
    assert fine.converged
    assert fine.iterations < solve_minres(K, b, None, 1e-6).iterations
    assert solve_minres(K, b, fine.z, 1e-5).iterations <= 1


def test_minres_budget_and_singular_systems():
    K = system(60, 15, 1e8)
    b = np.random.default_rng(3).standard_normal(75)
    short = solve_minres(K, b, None, 1e-10, 20)
    assert not short.converged
    assert 20 <= short.iterations <= 22
    K.J[1] = K.J[0]  # b is not in the range any more
    found = solve_minres(K, b, None, 1e-10, 2000)
    assert not found.converged
    assert np.isfinite(found.z).all()
    assert found.residual == pytest.approx(true_residual(K, found.z, b), rel=1e-9)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_not_finite_is_no_success(form):
    K = system(10, 3, 10.0, form)
    (K.H.data if form == "sparse" else K.H)[1] = np.nan
    b = np.ones(13)
    for found in (
        solve_minres(K, b, None, 1e-6),
        solve_sketch_prec(K, b, None, 1e-6, None, np.ones((20, 10))),
        solve_minres(K, np.full(13, np.inf), None, 1e-6),
    ):
        assert not found.converged


def test_zero_right_side():
    W, K = glm(100, 6, 2, 10.0)
    for found in (
        solve_minres(K, np.zeros(8), np.ones(8)),
        solve_sketch_prec(K, np.zeros(8), np.ones(8), 1e-6, None, W),
    ):
        assert found.converged
        assert not found.z.any()
        assert found.residual == 0


# -------------------------------------------------------------------------------------------- sketch_prec


@pytest.mark.parametrize("form", ["dense", "sparse", "operator"])
def test_sketch_prec_meets_the_true_residual(form):
    W, K = glm(2000, 40, 7, 1e6)
    root = {"dense": W, "sparse": sp.csr_array(W), "operator": aslinearoperator(W)}[form]
    if form == "operator":
        K = KKTMatrix(aslinearoperator(K.H), aslinearoperator(K.J), K.d, K.e)
    b = np.random.default_rng(4).standard_normal(47)
    for rtol in (1e-1, 1e-4, 1e-8):
        found = solve_sketch_prec(K, b, None, rtol, None, root)
        assert found.converged
        assert found.residual <= rtol
        assert found.residual == pytest.approx(true_residual(K, found.z, b), rel=1e-4)


def test_sketch_prec_does_not_see_the_condition_number():
    """Iterations at k = 4 n: flat from condition 1e2 to 1e8, where MINRES runs out of its 20 N products."""
    counts = []
    for condition in (1e2, 1e4, 1e6, 1e8):
        W, K = glm(3000, 50, 8, condition)
        b = K.matvec(np.random.default_rng(5).standard_normal(58))
        found = solve_sketch_prec(K, b, None, 1e-6, None, W)
        assert found.converged
        counts.append(found.iterations)
        last = solve_minres(K, b, None, 1e-6)
    assert max(counts) <= 30
    assert max(counts) - min(counts) <= 10
    assert not last.converged or last.iterations > 10 * max(counts)


def test_sketch_prec_needs_fewer_iterations_with_more_rows():
    W, K = glm(4000, 40, 5, 1e5)
    b = np.random.default_rng(6).standard_normal(45)
    counts = [solve_sketch_prec(K, b, None, 1e-6, None, W, sketch_size=k * 40).iterations for k in (2, 4, 16)]
    assert counts[0] > counts[1] > counts[2]
    assert solve_sketch_prec(K, b, None, 1e-6, None, W, sketch_size=4000).iterations <= 2  # all of W


def test_sketch_prec_is_redrawn_when_the_problem_has_moved():
    W, K = glm(2000, 30, 4, 1e4)
    b = np.random.default_rng(7).standard_normal(34)
    state = SketchedPreconditioner(seed=1)
    for _ in range(3):
        assert solve_sketch_prec(K, b, None, 1e-6, None, W, state).converged
    assert state.draws == 1
    g = np.random.default_rng(8)
    other = W * np.exp(2 * g.standard_normal(30))
    moved = KKTMatrix(other.T @ other + np.eye(30), K.J, K.d, K.e)
    first = solve_sketch_prec(moved, b, None, 1e-6, None, other, state)
    second = solve_sketch_prec(moved, b, None, 1e-6, None, other, state)
    assert first.converged
    assert second.converged
    assert state.draws == 2
    assert second.iterations < first.iterations


def test_sketch_prec_with_curvature_of_constraints_and_a_barrier():
    W, K = glm(2000, 30, 4, 1e3)
    g = np.random.default_rng(9)
    C = g.standard_normal((30, 30))
    K.H += 5.0 * (C + C.T)
    K.d[:] = np.logspace(-2, 5, 30)
    b = g.standard_normal(34)
    found = solve_sketch_prec(K, b, None, 1e-8, None, W)
    assert found.converged
    assert true_residual(K, found.z, b) <= 1e-8


def test_sketch_prec_budget():
    W, K = glm(2000, 40, 7, 1e6)
    found = solve_sketch_prec(K, np.ones(47), None, 1e-12, 3, W)
    assert not found.converged
    assert found.iterations == 3


# ------------------------------------------------------------------------------------------------- choice


def test_choice_follows_the_stated_model():
    for kind, root in itertools.product(("dense", "sparse"), (False, True)):
        assert [c.solver for c in choose(5000, 100, product=1e7, kind=kind, has_root=root)] == ["ldlt"]
        chain = choose(50, 10, product=1e4, kind=kind, has_root=root, kkt_solver="gaussian")
        expected = ["gaussian", "sketch_prec", "minres", "ldlt"] if root else ["gaussian", "minres", "ldlt"]
        assert [c.solver for c in chain] == expected
    for n, root, expected in [
        (40, False, ["minres"]),
        (40, True, ["minres", "sketch_prec", "minres"]),
        (8001, True, ["minres"]),
    ]:
        chain = choose(n, 9, product=1e4, kind="operator", has_root=root)
        assert [c.solver for c in chain] == expected
        first = [4.0 * n**3] if len(chain) == 3 else []  # what squaring a sketch would cost
        assert [c.budget for c in chain] == [*first, *(20 * (n + 9) * 1e4 for _ in chain[len(first) :])]
    known = choose(5000, 100, product=1e5, kind="sparse", kkt_solver="minres", factor_flops=8e6)
    assert known[0].budget == 4e6


@pytest.mark.parametrize("first", ["minres", *METHODS])
def test_budgets_of_a_chain_stay_below_twice_the_direct_one(first):
    chain = choose(50, 10, product=1e4, kkt_solver=first, has_root=first != "minres")
    assert sum(c.budget for c in chain[:-1]) < direct_flops(50, 10)
    assert chain[-1].solver == "ldlt"
    assert np.isinf(chain[-1].budget)


def test_choice_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="'ldlt' needs the entries"):
        choose(5, 2, product=1.0, kind="operator", kkt_solver="ldlt")
    with pytest.raises(ValueError, match="'kaczmarz' needs the entries"):
        choose(5, 2, product=1.0, kind="operator", kkt_solver="kaczmarz")
    with pytest.raises(ValueError, match="'sketch_prec' needs `hess_sqrt`"):
        choose(5, 2, product=1.0, kkt_solver="sketch_prec")
    with pytest.raises(ValueError, match="`kkt_solver` must be one of"):
        choose(5, 2, product=1.0, kkt_solver="lu")


def test_flops_of_a_factorisation():
    """Tridiagonal without constraints: 3 flops or so per row; dense: N^3 / 3; fill is counted."""
    n = 200
    H = sp.csr_array(sp.diags_array([np.ones(n - 1), 3 * np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1]))
    line = KKTMatrix(H, sp.csr_array((0, n)), np.zeros(n), np.zeros(0))
    assert n < factor_flops(line) < 40 * n
    K = system(40, 8, 10.0)
    assert factor_flops(K) == direct_flops(40, 8)
    assert factor_flops(system(40, 8, 10.0, "operator")) == np.inf
    assert factor_flops(elliptic(8)[0]) < 0.1 * direct_flops(128, 64)


def test_sketch_size_is_for_the_first_solver():
    """More rows than unknowns for a preconditioner are no columns of the block that stands in for it."""
    W, K = glm(600, 20, 3, 1e6)
    b = np.ones(23)
    for first, sketch_size in (("sketch_prec", 80), ("block_gaussian", 5)):
        chain = choose(20, 3, product=product_flops(K), has_root=True, kkt_solver=first)
        found, _, _ = solve_chain(chain, K, b, None, 1e-8, W=W, sketch_size=sketch_size, direct=direct)
        assert found.converged


def direct(K: KKTMatrix, b: np.ndarray, rtol: float):
    solver = DirectSolver()
    solver.factor(K)
    found = solver.solve(b, rtol)
    found.flops += direct_flops(K.n, K.m)
    return found


@pytest.mark.parametrize("first", ["minres", "sketch_prec", *METHODS])
@pytest.mark.parametrize("condition", [10.0, 1e9])
def test_no_chain_costs_more_than_about_twice_the_direct_solver(first, condition):
    W, K = glm(600, 80, 10, condition)
    b = np.random.default_rng(10).standard_normal(90)
    chain = choose(80, 10, product=product_flops(K), has_root=True, kkt_solver=first)
    found, flops, fallbacks = solve_chain(chain, K, b, None, 1e-6, W=W, direct=direct)
    assert found.converged
    assert true_residual(K, found.z, b) <= 1e-6
    assert fallbacks == [c.solver for c in chain].index(found.solver.replace("sparse_", ""))
    # The build of a sketched preconditioner cannot be cut short; everything else can.
    build = 2 * W.size + 320 * 80 * 81 + 80**3 if "sketch_prec" in [c.solver for c in chain] else 0
    assert flops <= 2.2 * direct_flops(80, 10) + 30 * product_flops(K) + build


def test_chain_of_operators_ends_with_the_best_there_is():
    K = system(40, 8, 1e12, "operator")
    b = np.random.default_rng(11).standard_normal(48)
    chain = choose(40, 8, product=product_flops(K), kind="operator")
    found, _, fallbacks = solve_chain(chain, K, b, None, 1e-14)
    assert not found.converged
    assert fallbacks == 1
    assert found.residual < 1.0


def test_chain_goes_on_from_what_it_has():
    K = system(40, 8, 1e2)
    b = np.random.default_rng(12).standard_normal(48)
    exact = np.linalg.solve(K.to_dense(), b)
    chain = choose(40, 8, product=product_flops(K), kkt_solver="kaczmarz")
    found, _, fallbacks = solve_chain(chain, K, b, exact, 1e-8, direct=direct)
    assert found.solver == "kaczmarz"
    assert fallbacks == 0
    assert found.iterations == 0


def test_user_errors_pass_through():
    def broken(v):
        raise ZeroDivisionError("mine")

    K = KKTMatrix(
        LinearOperator((5, 5), matvec=broken, dtype=float), np.ones((1, 5)), np.zeros(5), np.zeros(1)
    )
    with pytest.raises(ZeroDivisionError, match="mine"):
        solve_minres(K, np.ones(6))
