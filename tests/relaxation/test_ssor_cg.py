"""`ssor_cg`: both forms against the oracle, rules for omega, orders, ends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from aitken import ConvergenceWarning, Status
from aitken.linalg import SSOR, RelaxationSolver, cg, ssor_cg
from tests.oracles import relaxation as oracle
from tests.relaxation import problems


def _rhs(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


MATRICES = {
    "five-point": lambda: problems.laplacian(31),
    "nine-point": lambda: problems.nine_point(20),
    "seven-point": lambda: problems.seven_point(9),
    "jump": lambda: problems.diffusion(problems.jump_coefficient(20, 5)),
    "lognormal": lambda: problems.diffusion(problems.lognormal_coefficient(24)),
    "L-shape": lambda: problems.delsq("L", 32),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("omega", [0.9, 1.0, 1.3, 1.7, 1.95])
def test_counts_are_the_oracles(name, omega):
    A = MATRICES[name]()
    b = _rhs(A.shape[0])
    theirs = oracle.ssor_cg(A, b, omega=omega)
    plain = ssor_cg(A, b, omega=omega, eisenstat=False)
    ours = ssor_cg(A, b, omega=omega)
    assert abs(plain.nit - theirs.nit) <= 1
    assert abs(ours.nit - theirs.nit) <= 1
    assert ours.true_residual <= 1e-8 * np.linalg.norm(b)
    scale = np.abs(theirs.x).max()
    np.testing.assert_allclose(ours.x, plain.x, atol=1e-6 * scale)
    assert np.linalg.norm(b - A @ ours.x) <= 1e-8 * np.linalg.norm(b)


def test_both_forms_agree_to_ten_digits():
    A, b = problems.laplacian(25), _rhs(625)
    ours = ssor_cg(A, b, omega=1.6, rtol=1e-13)
    plain = ssor_cg(A, b, omega=1.6, rtol=1e-13, eisenstat=False)
    assert abs(ours.nit - plain.nit) <= 1
    np.testing.assert_allclose(ours.x, plain.x, rtol=0, atol=1e-10 * np.abs(plain.x).max())


@given(n=st.integers(1, 30), seed=st.integers(0, 10_000), omega=st.floats(0.2, 1.8))
def test_random_matrices(n, seed, omega):
    rng = np.random.default_rng(seed)
    B = sp.random_array((n, n), density=min(1.0, 3 / n), rng=rng)
    A = sp.csr_array(B @ B.T + sp.diags_array(0.5 + rng.random(n)))
    b = _rhs(n, seed)
    for order in ("natural", "multicolor", "blocks", rng.permutation(n)):
        r = ssor_cg(A, b, omega=omega, order=order, rtol=1e-9, x0=rng.normal(size=n))
        assert r.converged
        np.testing.assert_allclose(A @ r.x, b, atol=1e-8 * max(1.0, np.linalg.norm(b)))


def test_it_is_the_preconditioner_of_the_krylov_solvers():
    A, b = problems.laplacian(20), _rhs(400)
    M = SSOR(A, omega=1.5)
    assert abs(cg(A, b, M=M, rtol=1e-8).nit - ssor_cg(A, b, omega=1.5).nit) <= 1


def test_colours_spoil_it():
    A, b = problems.laplacian(50), _rhs(2500)
    natural = min(ssor_cg(A, b, omega=w).nit for w in (1.0, 1.5, 1.8, 1.9))
    by_colour = {w: ssor_cg(A, b, omega=w, order="redblack").nit for w in (0.8, 1.0, 1.2, 1.5, 1.8)}
    assert min(by_colour, key=by_colour.get) == 1.0
    assert by_colour[1.0] > 1.5 * natural
    by_cluster = min(ssor_cg(A, b, omega=w, order="blocks").nit for w in (1.0, 1.2, 1.5))
    assert natural < by_cluster < 0.9 * by_colour[1.0]


def test_axelsson_where_young_is_wrong():
    A = problems.diffusion(problems.jump_coefficient())
    b = _rhs(A.shape[0])
    young, axelsson = ssor_cg(A, b, omega="young"), ssor_cg(A, b, omega="axelsson")
    assert axelsson.nit < young.nit
    assert axelsson.omega_used < young.omega_used
    ours = RelaxationSolver("ssor_cg")
    ours.solve(A, b, omega="axelsson")
    found = ours._estimates[0.0, True]
    alpha, delta = oracle.axelsson_estimate(A, b, found["products"] // 2)
    assert found["alpha"] == pytest.approx(alpha, rel=1e-6)
    assert found["delta"] == pytest.approx(delta, rel=1e-3)


def test_bounds_hold():
    A, b = problems.laplacian(20), _rhs(400)
    alpha = 1 / (1 - np.cos(np.pi / 21))
    kappa_a = np.linalg.cond(A.toarray())
    for omega in (0.9, 1.2, 1.6, 1.9):
        bound = oracle.iteration_bound(oracle.condition_bound(omega, alpha, 0.0), kappa_a, 1e-8)
        assert ssor_cg(A, b, omega=omega).nit <= bound


def test_a_start_helps_and_is_not_touched():
    A, b = problems.laplacian(20), _rhs(400)
    x = np.linalg.solve(A.toarray(), b)
    near = x + 1e-6 * _rhs(400, 1)
    kept = near.copy()
    assert ssor_cg(A, b, near, omega=1.5).nit < ssor_cg(A, b, omega=1.5).nit
    np.testing.assert_array_equal(near, kept)
    assert ssor_cg(A, b, x).nit == 0
    assert ssor_cg(A, np.zeros(400), near).nit == 0


@pytest.mark.parametrize("eisenstat", [True, False])
def test_indefinite_matrices_are_seen(eisenstat):
    A = sp.csr_array(problems.laplacian(8) - 1.5 * sp.eye_array(64))
    with pytest.warns(ConvergenceWarning, match="positive definite"):
        r = ssor_cg(A, _rhs(64), omega=1.2, eisenstat=eisenstat)
    assert r.status == Status.NOT_POSITIVE_DEFINITE
    assert np.isfinite(r.x).all()
    with pytest.warns(ConvergenceWarning):
        assert ssor_cg(-problems.laplacian(8), _rhs(64), eisenstat=eisenstat).status in (
            Status.NOT_POSITIVE_DEFINITE,
        )


@pytest.mark.parametrize("eisenstat", [True, False])
def test_unreachable_tolerances_end(eisenstat):
    A = problems.laplacian(15)
    with pytest.warns(ConvergenceWarning):
        r = ssor_cg(A, _rhs(225), omega=1.5, rtol=1e-18, eisenstat=eisenstat, maxiter=500)
    assert r.nit <= 500
    assert r.true_residual <= 1e-13 * np.linalg.norm(_rhs(225))


def test_omega_near_two():
    A, b = problems.laplacian(15), _rhs(225)
    assert ssor_cg(A, b, omega=1.999999).converged


def test_threads_do_not_change_bits():
    A = problems.laplacian(190)
    b = _rhs(A.shape[0])
    for order in ("natural", "multicolor"):
        found = [ssor_cg(A, b, omega=1.5, order=order, n_threads=t) for t in (1, 2, 3)]
        for other in found[1:]:
            np.testing.assert_array_equal(found[0].x, other.x)


def test_shift_and_complex():
    A, b = problems.laplacian(12), _rhs(144)
    shifted = sp.csr_array(A + 0.3 * sp.eye_array(144))
    np.testing.assert_array_equal(ssor_cg(A, b, shift=0.3).x, ssor_cg(shifted, b).x)
    H = sp.csr_array(A + 0.2j * (sp.triu(A, 1) - sp.tril(A, -1)))
    r = ssor_cg(H, b + 1j * b[::-1], omega=1.3, shift=0.3)
    assert r.converged
    np.testing.assert_allclose(H @ r.x + 0.3 * r.x, b + 1j * b[::-1], atol=1e-6)


def test_patterns_are_analysed_once():
    A, b = problems.laplacian(12), _rhs(144)
    solver = RelaxationSolver("ssor_cg")
    solver.solve(A, b)
    sweeper = solver._sweeper
    for factor in (2.0, 0.5):
        r = solver.solve(sp.csr_array(factor * A), b, omega=1.4)
        assert solver._sweeper is sweeper
        np.testing.assert_array_equal(r.x, ssor_cg(sp.csr_array(factor * A), b, omega=1.4).x)
    other = solver.solve(problems.nine_point(12), b)
    assert solver._sweeper is not sweeper
    assert other.converged
    assert solver.levels > 12
