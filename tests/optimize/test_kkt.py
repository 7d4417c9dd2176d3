"""Factorisations of Newton systems: solutions and inertia against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from aitken import _core
from aitken.optimize._kkt import DirectSolver, KKTMatrix, transposed_product
from aitken.optimize._quasi_newton import LowRank


def system(n, m, seed=0, *, definite=True, e=0.0, sparse=False, density=0.05, spread=0.0):
    """A KKT matrix with rows of full rank; `spread` decades between the scales of its variables."""
    rng = np.random.default_rng(seed)
    if sparse:
        A = sp.random_array((n, n), density=density, rng=rng)
        H = (A + A.T).toarray() / 2 + np.diag(
            rng.uniform(2, 4, n) * (1 if definite else rng.choice([-1, 1], n))
        )
        J = sp.random_array((m, n), density=density, rng=rng).toarray()
        J[np.arange(m), rng.permutation(n)[:m]] += 2.0
    else:
        A = rng.standard_normal((n, n))
        H = A @ A.T / n + np.eye(n) if definite else A + A.T
        J = rng.standard_normal((m, n))
    s = 10.0 ** rng.uniform(-spread, spread, n)
    H, J = s[:, None] * H * s[None, :], J * s[None, :]
    d = rng.uniform(0, 1, n) * s**2
    form = sp.csr_array if sparse else np.ascontiguousarray
    return KKTMatrix(form(H), form(J), d, np.full(m, e))


def numbers(K):
    """Positive and negative eigenvalues of the equilibrated matrix, which has the same inertia."""
    A = K.to_dense()
    s = np.ones(len(A))
    for _ in range(5):
        s /= np.sqrt(np.maximum(np.abs(A * np.outer(s, s)).max(axis=1), 1e-300))
    w = np.linalg.eigvalsh(A * np.outer(s, s))
    return int((w > 0).sum()), int((w < 0).sum())


@pytest.mark.parametrize("sparse", [False, True])
def test_forms_of_the_matrix(sparse):
    K = system(30, 7, sparse=sparse, e=0.3)
    A = K.to_dense()
    H = K.H.toarray() if sparse else K.H
    J = K.J.toarray() if sparse else K.J
    expected = np.block([[H + np.diag(K.d), J.T], [J, -np.diag(K.e)]])
    np.testing.assert_allclose(A, expected, rtol=1e-15)
    np.testing.assert_allclose(K.to_csr().toarray(), expected, rtol=1e-15)
    z = np.random.default_rng(1).standard_normal(37)
    np.testing.assert_allclose(K.matvec(z), expected @ z, rtol=1e-12, atol=1e-12)
    by_products = KKTMatrix(aslinearoperator(K.H), aslinearoperator(K.J), K.d, K.e)
    assert by_products.is_operator
    assert not K.is_operator
    assert K.is_sparse == sparse
    np.testing.assert_allclose(by_products.matvec(z), expected @ z, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        transposed_product(by_products.J, z[30:]), J.T @ z[30:], rtol=1e-12, atol=1e-12
    )


@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(0, 15),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 4.0]),
)
def test_dense_solution_and_inertia(seed, n, m, definite, e, spread):
    m = min(m, n)
    K = system(n, m, seed, definite=definite, e=e, spread=spread)
    solver = DirectSolver()
    positive, negative, zero, finite = solver.factor(K)
    assert finite
    assert zero == 0
    assert (positive, negative) == numbers(K)
    if definite:
        assert (positive, negative) == (n, m)
    b = np.random.default_rng(seed + 1).standard_normal(n + m)
    found = solver.solve(b)
    assert found.solver == "ldlt"
    A = K.to_dense()
    rounding = 1e-13 * np.abs(A).max() * np.abs(found.z).max() * (n + m) / np.linalg.norm(b)
    np.testing.assert_allclose(
        found.residual, np.linalg.norm(A @ found.z - b) / np.linalg.norm(b), atol=rounding
    )
    if spread == 0.0 and definite:
        np.testing.assert_allclose(found.z, np.linalg.solve(A, b), rtol=1e-7, atol=1e-9)
    assert found.residual <= 1e-8 + rounding


@pytest.mark.parametrize(("n", "m"), [(200, 0), (200, 60), (160, 1)])
@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("e", [0.0, 0.1])
def test_sparse_solution_and_inertia(n, m, definite, e):
    K = system(n, m, 3, definite=definite, e=e, sparse=True, density=0.01, spread=2.0 if definite else 0.0)
    solver = DirectSolver()
    positive, negative, zero, finite = solver.factor(K)
    assert finite
    assert solver.name == "sparse_ldlt"
    assert positive + negative + zero == n + m
    if zero == 0:  # a pivot without a sign says so, a sign is right
        assert (positive, negative) == numbers(K)
    if definite:
        assert (positive, negative, zero) == (n, m, 0)
        b = np.random.default_rng(1).standard_normal(n + m)
        found = solver.solve(b)
        assert found.residual <= 1e-10
        exact = np.linalg.solve(K.to_dense(), b)
        np.testing.assert_allclose(found.z, exact, rtol=1e-5, atol=1e-6 * np.abs(exact).max())
        assert solver.flops > 0


def test_small_sparse_matrices_are_factored_as_dense_ones():
    K = system(30, 10, sparse=True, density=0.2)
    solver = DirectSolver()
    assert solver.factor(K) == (30, 10, 0, True)
    assert solver.name == "ldlt"


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("r", [0, 4, 20])
def test_low_rank_hessians(sparse, r):
    n, m = 220, 30
    rng = np.random.default_rng(2)
    K = system(n, m, sparse=sparse, density=0.02)
    U, C = rng.standard_normal((n, r)), rng.standard_normal((r, r))
    H = LowRank(3.0, U, C @ C.T)  # positive definite
    K = KKTMatrix(H, K.J, K.d, K.e)
    solver = DirectSolver()
    solver.factor(K)
    dense = np.block(
        [
            [H.toarray() + np.diag(K.d), transposed_product(K.J, np.eye(m))],
            [K.J @ np.eye(n), np.zeros((m, m))],
        ]
    )
    for seed in range(3):
        b = np.random.default_rng(seed).standard_normal(n + m)
        found = solver.solve(b)
        np.testing.assert_allclose(found.z, np.linalg.solve(dense, b), rtol=1e-6, atol=1e-8)
        assert found.residual <= 1e-9
    assert solver.name == "sparse_ldlt"  # gamma I and the rows are factored, the rest is an update


def test_the_pattern_is_analysed_once():
    K = system(300, 40, sparse=True, density=0.01)
    solver = DirectSolver()
    solver.factor(K)
    first = solver._factor
    for scale in (2.0, -1.0):
        other = KKTMatrix(sp.csr_array(K.H * scale), sp.csr_array(K.J * 0.5), K.d + 5.0 * abs(scale), K.e)
        solver.factor(other)
        assert solver._factor is first
        b = np.ones(340)
        np.testing.assert_allclose(
            solver.solve(b).z, np.linalg.solve(other.to_dense(), b), rtol=1e-6, atol=1e-9
        )
    J = K.J.tolil()
    J[3, 7] = J[3, 8] = J[3, 9] = 1.0
    wider = KKTMatrix(K.H, sp.csr_array(J), K.d, K.e)
    solver.factor(wider)
    assert solver._factor is not first
    b = np.ones(340)
    np.testing.assert_allclose(solver.solve(b).z, np.linalg.solve(wider.to_dense(), b), rtol=1e-6, atol=1e-9)
    assert solver.n_factorizations == 4


def test_one_solver_for_matrices_of_every_kind():
    solver = DirectSolver()
    for K in (
        system(5, 2),
        system(200, 20, sparse=True),
        system(6, 2),
        system(5, 2, 1),
        system(200, 20, 1, sparse=True),
    ):
        assert solver.factor(K) == (K.n, K.m, 0, True)
        b = np.ones(K.n + K.m)
        np.testing.assert_allclose(solver.solve(b).z, np.linalg.solve(K.to_dense(), b), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_solution_does_not_depend_on_the_matrix_before(sparse):
    K, other = system(180, 30, sparse=sparse), system(180, 30, 9, sparse=sparse)
    b = np.sin(np.arange(210))
    fresh, used = DirectSolver(), DirectSolver()
    fresh.factor(K)
    used.factor(other)
    used.solve(b)
    used.factor(K)
    np.testing.assert_array_equal(fresh.solve(b).z, used.solve(b).z)


def test_singular_matrices():
    solver = DirectSolver()
    J = np.ones((2, 3))  # twice the same row
    found = solver.factor(KKTMatrix(np.eye(3), J, np.zeros(3), np.zeros(2)))
    assert found[2] >= 1
    assert found[3]
    assert solver.factor(KKTMatrix(np.zeros((3, 3)), np.zeros((0, 3)), np.zeros(3), np.zeros(0)))[:3] == (
        0,
        0,
        3,
    )
    # With a small e it has the signs of a regular one.
    assert solver.factor(KKTMatrix(np.eye(3), J, np.zeros(3), np.full(2, 1e-8)))[:3] == (3, 2, 0)
    n = 200
    rows = sp.csr_array(np.vstack([np.ones((2, n)), np.eye(n)[:1]]))
    solver.factor(KKTMatrix(sp.eye_array(n, format="csr"), rows, np.zeros(n), np.zeros(3)))
    inconsistent = np.zeros(n + 3)
    inconsistent[n] = 1.0
    assert solver.solve(inconsistent).residual > 0.1  # no solution exists, and it is not hidden
    consistent = np.zeros(n + 3)
    consistent[n : n + 2] = 1.0
    assert solver.solve(consistent).residual < 1e-6


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_matrices_that_are_not_finite(sparse, bad):
    K = system(200, 20, sparse=sparse)
    K.d[5] = bad
    solver = DirectSolver()
    assert not solver.factor(K)[3]
    K.d[5] = 1.0
    assert solver.factor(K) == (200, 20, 0, True)  # and the solver is none the worse


def test_edges():
    solver = DirectSolver()
    with pytest.raises(RuntimeError, match="no matrix"):
        solver.solve(np.ones(3))
    assert solver.factor(KKTMatrix(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0), np.zeros(0))) == (
        0,
        0,
        0,
        True,
    )
    assert solver.solve(np.zeros(0)).z.shape == (0,)
    assert solver.factor(KKTMatrix(np.array([[2.0]]), np.zeros((0, 1)), np.zeros(1), np.zeros(0))) == (
        1,
        0,
        0,
        True,
    )
    assert solver.solve(np.array([4.0])).z == [2.0]
    found = solver.solve(np.zeros(1))
    assert found.z == [0.0]
    assert found.residual == 0.0
    # A saddle of 2 x 2 blocks alone.
    assert solver.factor(KKTMatrix(np.zeros((2, 2)), np.eye(2), np.zeros(2), np.zeros(2))) == (2, 2, 0, True)


def test_native_handles_check_their_input():
    handle = _core.IndefiniteFactor
    with pytest.raises(ValueError, match="`n`"):
        handle.dense(-1)
    for indptr, indices in (([0, 1, 2], [0, 2]), ([0, 1], [0]), ([0, 2, 1], [0, 0])):
        with pytest.raises(ValueError):
            handle.sparse(2, np.array(indptr, dtype=np.int64), np.array(indices, dtype=np.int32))
    with pytest.raises(ValueError, match="above the diagonal"):
        handle.sparse(2, np.array([0, 2, 3], dtype=np.int64), np.array([0, 1, 1], dtype=np.int32))
    with pytest.raises(ValueError, match="lacks a diagonal"):
        handle.sparse(2, np.array([0, 1, 2], dtype=np.int64), np.array([0, 0], dtype=np.int32))
    with pytest.raises(ValueError, match="twice"):
        handle.sparse(2, np.array([0, 1, 4], dtype=np.int64), np.array([0, 0, 0, 1], dtype=np.int32))
    f = handle.dense(2)
    with pytest.raises(ValueError, match="`values` has 3"):
        f.factor(np.ones(3), 2, 0.0)
    with pytest.raises(RuntimeError, match="no matrix"):
        f.solve(np.ones(2), 1e-12, 1)
    f.factor(np.eye(2), 2, 0.0)
    with pytest.raises(ValueError, match="`b`"):
        f.solve(np.ones(3), 1e-12, 1)
    f.factor(np.full((2, 2), np.nan), 2, 0.0)
    with pytest.raises(RuntimeError, match="no matrix"):
        f.solve(np.ones(2), 1e-12, 1)
