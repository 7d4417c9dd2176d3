"""Quasi-Newton matrices: the secant equation, definiteness under damping, agreement of the two forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import BFGS, SR1, HessianUpdateStrategy

from aitken.optimize._quasi_newton import CompactLBFGS, DampedBFGS, LowRank, SecantRemainder, StrategyHessian

N = 7


def dense(B):
    return B.toarray() if isinstance(B, LowRank) else B


def pairs(count, seed=0, curvature=None):
    """Steps and changes of gradients of a quadratic, convex unless `curvature` says otherwise."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((N, N)))[0]
    A = Q @ np.diag(np.linspace(1, 30, N) if curvature is None else curvature) @ Q.T
    S = rng.standard_normal((count, N))
    return A, [(s, A @ s) for s in S]


@pytest.mark.parametrize("make", [DampedBFGS, CompactLBFGS])
def test_secant_equation_and_definiteness(make):
    B = make(N)
    for s, y in pairs(15)[1]:
        B.update(s, y)
        matrix = dense(B.hessian())
        np.testing.assert_allclose(matrix @ s, y, rtol=1e-8)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("make", [DampedBFGS, CompactLBFGS])
def test_damping_keeps_the_matrix_definite_on_an_indefinite_quadratic(make):
    B = make(N)
    _, taken = pairs(40, seed=3, curvature=np.linspace(-5, 5, N))
    assert sum(s @ y < 0 for s, y in taken) > 5
    for s, y in taken:
        before = dense(B.hessian())
        B.update(s, y)
        matrix = dense(B.hessian())
        assert np.linalg.eigvalsh(matrix).min() > 0
        if make is DampedBFGS and before[0, 1] != 0.0:  # Powell's rule: s'B+s >= 0.2 s'Bs
            assert s @ matrix @ s >= 0.2 * (s @ before @ s) * (1 - 1e-8)


def test_a_pair_with_enough_curvature_is_not_damped():
    _, taken = pairs(3)
    B = DampedBFGS(N)
    s, y = taken[0]
    B.update(s, y)
    scale = (y @ y) / (s @ y)
    first = scale * np.eye(N)
    expected = first - np.outer(first @ s, first @ s) / (s @ first @ s) + np.outer(y, y) / (s @ y)
    np.testing.assert_allclose(B.hessian(), expected, rtol=1e-12)


def test_bfgs_learns_a_quadratic():
    """Conjugate steps, one per dimension, give the exact matrix."""
    A, _ = pairs(1)
    B = DampedBFGS(N)
    for v in np.linalg.eigh(A)[1].T:
        B.update(v, A @ v)
    np.testing.assert_allclose(B.hessian(), A, rtol=1e-6, atol=1e-6)


def test_compact_form_is_the_recursion():
    """Against BFGS updates from gamma I with the pairs in memory, oldest first."""
    memory = 4
    B = CompactLBFGS(N, memory)
    _, taken = pairs(9)
    for s, y in taken:
        B.update(s, y)
    kept = taken[-memory:]
    s, y = kept[-1]
    matrix = (y @ y) / (s @ y) * np.eye(N)
    for s, y in kept:
        Bs = matrix @ s
        matrix = matrix - np.outer(Bs, Bs) / (s @ Bs) + np.outer(y, y) / (s @ y)
    got = B.hessian()
    assert got.U.shape == (N, 2 * memory)
    np.testing.assert_allclose(got.toarray(), matrix, rtol=1e-8, atol=1e-8)
    x = np.linspace(0, 1, N)
    np.testing.assert_allclose(got @ x, matrix @ x, rtol=1e-8)


def test_compact_form_takes_scales_apart():
    B = CompactLBFGS(N)
    _, taken = pairs(5)
    for k, (s, y) in enumerate(taken):
        B.update(s * 10.0 ** (-2 * k), y * 10.0 ** (-2 * k))
    s, y = taken[-1]
    np.testing.assert_allclose(B.hessian() @ s, y, rtol=1e-8)


def test_repeated_pairs_do_no_harm():
    B = CompactLBFGS(N)
    s, y = pairs(1)[1][0]
    for _ in range(5):
        B.update(s, y)
    matrix = B.hessian().toarray()
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix @ s, y, rtol=1e-6)
    assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("make", [DampedBFGS, CompactLBFGS])
@pytest.mark.parametrize(
    ("s", "y"),
    [(np.zeros(N), np.ones(N)), (np.ones(N), np.full(N, np.nan)), (np.full(N, np.inf), np.ones(N))],
)
def test_useless_pairs_are_ignored(make, s, y):
    B = make(N)
    B.update(*pairs(1)[1][0])
    before = dense(B.hessian()).copy()
    B.update(s, y)
    np.testing.assert_array_equal(dense(B.hessian()), before)


@pytest.mark.parametrize("make", [DampedBFGS, CompactLBFGS])
def test_zero_change_of_gradient_is_damped(make):
    B = make(N)
    B.update(np.ones(N), np.zeros(N))
    assert np.linalg.eigvalsh(dense(B.hessian())).min() > 0


@pytest.mark.parametrize("make", [DampedBFGS, CompactLBFGS])
def test_reset(make):
    B = make(N)
    B.update(*pairs(1)[1][0])
    B.reset()
    np.testing.assert_array_equal(dense(B.hessian()), np.eye(N))


def test_returned_matrix_is_a_copy():
    B = DampedBFGS(N)
    B.hessian()[0, 0] = 99.0
    assert B.hessian()[0, 0] == 1.0


def test_sr1_follows_negative_curvature_and_leaves_the_users_object_alone():
    given = SR1()
    B = StrategyHessian(given, N)
    A, taken = pairs(12, curvature=np.linspace(-5, 5, N))
    for s, y in taken:
        B.update(s, y)
    np.testing.assert_allclose(B.hessian(), A, rtol=1e-6, atol=1e-6)
    assert not hasattr(given, "B") or given.B is None


def test_scipy_bfgs_is_scipys():
    theirs, ours = BFGS(), StrategyHessian(BFGS(), N)
    theirs.initialize(N, "hess")
    for s, y in pairs(4)[1]:
        theirs.update(s, y)
        ours.update(s, y)
    np.testing.assert_allclose(ours.hessian(), theirs.get_matrix(), rtol=1e-14)


def test_a_strategy_with_products_alone():
    class Diagonal(HessianUpdateStrategy):
        def initialize(self, n, approx_type):
            assert approx_type == "hess"
            self.d = np.ones(n)

        def update(self, s, y):
            self.d = y / s

        def dot(self, p):
            return self.d * p

    B = StrategyHessian(Diagonal(), 3)
    B.update(np.ones(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(B.hessian(), np.diag([1.0, 2.0, 3.0]))
    B.update(np.ones(3), np.zeros(3))  # SciPy's own classes warn at a zero change
    np.testing.assert_array_equal(B.hessian(), np.diag([1.0, 2.0, 3.0]))


def test_remainder_learns_what_the_exact_part_leaves():
    A, taken = pairs(12, curvature=np.linspace(-5, 5, N))
    known = np.diag(np.arange(N, dtype=float))
    B = SecantRemainder(N)
    np.testing.assert_array_equal(B.hessian(), np.zeros((N, N)))
    for s, y in taken:
        B.update(s, y)
        np.testing.assert_array_equal(B.hessian(), B.hessian().T)
    B.absorb(lambda p: known @ p)
    np.testing.assert_allclose(known + B.hessian(), A, rtol=1e-6, atol=1e-6)
    before = B.hessian()
    B.absorb(lambda p: 0 * p)  # nothing is pending any more
    np.testing.assert_array_equal(B.hessian(), before)


def test_remainder_leaves_out_small_denominators_and_bad_numbers():
    B = SecantRemainder(2)
    B.update(np.array([1.0, 0.0]), np.array([1e-3, 1.0]))  # s'r is 1e-3 of |s| |r|: B would have 1e3
    B.update(np.array([1.0, 0.0]), np.array([np.nan, 1.0]))
    B.update(np.zeros(2), np.ones(2))
    B.absorb(np.zeros_like)
    np.testing.assert_array_equal(B.hessian(), np.zeros((2, 2)))
