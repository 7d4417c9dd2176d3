"""Block GCRO-DR: several right-hand sides in one Krylov space."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from aitken import ConvergenceWarning, Status
from aitken.linalg import RecycleState, gcrodr
from tests.krylov import problems
from tests.oracles import krylov as oracle

N = 240
DTYPES = pytest.mark.parametrize("dtype", [float, complex])


def columns(s, dtype=float, n=N, seed=0):
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, s))
    return B + 1j * rng.standard_normal((n, s)) if np.dtype(dtype).kind == "c" else B


def errors(A, X, B):
    return np.linalg.norm(B - A @ X, axis=0) / np.linalg.norm(B, axis=0)


def scaling(n=N):
    """A diagonal inverse, far enough from the identity to matter."""
    return np.diag(1 / (1 + 0.5 * np.random.default_rng(5).random(n)))


# ----------------------------------------------------------------------------------------------- every option


@DTYPES
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"carry": "t"},
        {"side": "left"},
        {"side": "flexible"},
        {"select": "sv"},
        {"select": "LM"},
        {"select": "SR"},
        {"ortho": "cgs2"},
        {"ortho": "mgs"},
        {"basis_dtype": np.float32},
        {"recycle_dim": 0},
        {"adaptive": True},
        {"select": "sv", "side": "left", "basis_dtype": np.float32},
        {"side": "flexible", "basis_dtype": np.float32},
    ],
    ids=str,
)
def test_every_option_meets_the_tolerance(dtype, options):
    A, B = problems.nonsymmetric(N, 2, dtype=dtype), columns(4, dtype)
    result = gcrodr(A, B, block=True, rtol=1e-10, M=scaling(), **{"restart": 36, "recycle_dim": 10} | options)
    assert result.converged
    assert result.x.shape == B.shape
    assert np.all(errors(A, result.x, B) <= 1e-10)
    np.testing.assert_allclose(result.x, np.linalg.solve(A, B), atol=1e-7 * np.linalg.norm(result.x))
    assert len(result.residuals) == 4
    for history in result.residuals:
        assert history[-1] < 1e-9 * history[0]
    again = gcrodr(A, B, block=True, rtol=1e-10, M=scaling(), **{"restart": 36, "recycle_dim": 10} | options)
    np.testing.assert_array_equal(again.x, result.x)


def test_a_given_start_is_used_and_left_alone():
    A, B = problems.nonsymmetric(N, 2), columns(3)
    near = np.linalg.solve(A, B) + 1e-7 * columns(3, seed=1)
    start = near.copy()
    cold = gcrodr(A, B, block=True, rtol=1e-9)
    warm = gcrodr(A, B, near, block=True, rtol=1e-9)
    np.testing.assert_array_equal(near, start)
    assert np.all(errors(A, warm.x, B) <= 1e-9)
    assert warm.nit < 0.6 * cold.nit
    done = gcrodr(A, B, cold.x, block=True, rtol=1e-8)
    assert done.nit == 0
    assert done.matvecs == 3
    np.testing.assert_array_equal(done.x, cold.x)


@pytest.mark.parametrize("threads", [2, 4])
def test_bits_do_not_depend_on_the_thread_count(threads):
    A, b = problems.helmholtz(60, 5.0, np.array([0.3, -0.2]))
    B = np.column_stack([b, np.roll(b, 700), b[::-1]])
    options = {"block": True, "rtol": 1e-6, "M": "ilu0", "restart": 80}
    one, many = gcrodr(A, B, n_threads=1, **options), gcrodr(A, B, n_threads=threads, **options)
    assert one.converged
    np.testing.assert_array_equal(one.x, many.x)


# ----------------------------------------------------------------------------------------- against the oracle


@DTYPES
@pytest.mark.parametrize("select", ["harmonic", "sv"])
@pytest.mark.parametrize("carry", ["x", "t"])
@pytest.mark.parametrize(("m", "k", "s"), [(40, 12, 3), (30, 8, 3), (26, 8, 2)])
def test_as_many_products_as_the_oracle(dtype, select, carry, m, k, s):
    A, B, M = problems.nonsymmetric(N, 3, dtype=dtype), columns(s, dtype), scaling()
    result = gcrodr(
        A, B, block=True, rtol=1e-9, restart=m, recycle_dim=k, M=M, carry=carry, select=select, maxiter=3000
    )
    expected = oracle.block_gcrodr(A, B, m=m, k=k, rtol=1e-9, M=M, carry=carry, select=select)
    assert result.converged
    assert expected.status == oracle.CONVERGED
    # The oracle takes whole blocks, the solver goes on to the last vector of a cycle.
    assert abs(result.nit - s * expected.nit) <= 0.05 * s * expected.nit + s


@DTYPES
def test_one_cycle_is_the_best_of_the_block_krylov_space(dtype):
    A, B = problems.nonsymmetric(N, 2, dtype=dtype), columns(3, dtype)
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(A, B, block=True, restart=40, recycle_dim=0, rtol=1e-14, maxiter=15)
    assert result.nit == 15
    expected = oracle.block_gcrodr(A, B, m=40, k=0, rtol=1e-14, maxiter=5)
    np.testing.assert_allclose(result.x, expected.x, atol=1e-10 * np.linalg.norm(expected.x))


@pytest.mark.parametrize("select", ["harmonic", "sv"])
def test_the_space_left_is_the_oracles(select):
    A, B = problems.nonsymmetric(N, 2), columns(3)
    state = RecycleState()
    with pytest.warns(ConvergenceWarning):
        gcrodr(
            A, B, block=True, restart=30, recycle_dim=8, rtol=1e-14, maxiter=30, select=select, recycle=state
        )
    expected = oracle.block_gcrodr(A, B, m=30, k=8, rtol=1e-14, maxiter=10, select=select)
    assert state.k == expected.U.shape[1]
    ours, theirs = np.linalg.qr(state.C)[0], np.linalg.qr(expected.C)[0]
    assert np.linalg.svd(ours.T @ theirs, compute_uv=False).min() > 1 - 1e-9
    np.testing.assert_allclose(A @ state.U, state.C, atol=1e-9)
    np.testing.assert_allclose(state.C.T @ state.C, np.eye(state.k), atol=1e-9)


# ------------------------------------------------------------------------------------------ dependent columns


@DTYPES
def test_copies_and_zero_columns_cost_nothing(dtype):
    A, lean = problems.nonsymmetric(N, 2, dtype=dtype), columns(2, dtype)
    b, c = lean.T
    B = np.column_stack([b, c, 2 * b, np.zeros(N), b - 3 * c])
    options = {"block": True, "rtol": 1e-10, "restart": 30, "recycle_dim": 8}
    result, two = gcrodr(A, B, **options), gcrodr(A, lean, **options)
    assert result.converged
    assert not result.x[:, 3].any()
    keep = [0, 1, 2, 4]
    assert np.all(errors(A, result.x[:, keep], B[:, keep]) <= 1e-10)
    # Columns that differ by rounding alone stay one direction to the end.
    assert result.nit <= 1.1 * two.nit


def test_nearly_equal_columns():
    A, b = problems.nonsymmetric(N, 2), columns(1)[:, 0]
    B = np.column_stack([b, b + 1e-8 * columns(1, seed=1)[:, 0]])
    result = gcrodr(A, B, block=True, rtol=1e-12, restart=30, recycle_dim=8)
    assert result.converged
    assert np.all(errors(A, result.x, B) <= 1e-12)
    # The difference is not lost: it is solved for to the accuracy that the tolerance leaves it.
    exact = np.linalg.solve(A, B[:, 1] - B[:, 0])
    difference = result.x[:, 1] - result.x[:, 0]
    assert np.linalg.norm(difference - exact) < 0.02 * np.linalg.norm(exact)


def test_only_zero_columns():
    state = RecycleState()
    result = gcrodr(problems.nonsymmetric(N, 2), np.zeros((N, 3)), np.ones((N, 3)), block=True, recycle=state)
    assert result.converged
    assert result.nit == 0
    assert not result.x.any()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("recycled", [False, True])
def test_more_columns_than_unknowns(n, recycled):
    rng = np.random.default_rng(n)
    A, B = rng.standard_normal((n, n)) + 3 * np.eye(n), rng.standard_normal((n, 8))
    state = RecycleState() if recycled else None
    for _ in range(2):
        result = gcrodr(A, B, block=True, rtol=1e-11, recycle=state)
        assert result.converged
        assert result.nit <= 2 * n
        np.testing.assert_allclose(result.x, np.linalg.solve(A, B), rtol=1e-8, atol=1e-10)


def test_more_columns_than_a_cycle_has_vectors():
    A, B = problems.nonsymmetric(N, 2), columns(12)
    result = gcrodr(A, B, block=True, rtol=1e-8, restart=8, recycle_dim=3, maxiter=20_000)
    assert result.converged
    assert np.all(errors(A, result.x, B) <= 1e-8)


def test_columns_in_invariant_subspaces_end_early():
    d = np.arange(1.0, N + 1)
    B = np.zeros((N, 3))
    B[4, 0], B[[10, 20], 1], B[[30, 40, 50], 2] = 1, 1, 1
    result = gcrodr(sp.diags_array(d).tocsr(), B, block=True, rtol=1e-12)
    assert result.converged
    assert result.nit == 1 + 2 + 3
    np.testing.assert_allclose(result.x, B / d[:, None], atol=1e-13)


# --------------------------------------------------------------------------------------------- what it is for


def test_fewer_products_than_columns_on_their_own():
    A, B = problems.spd(400, smallest=1e-5), columns(6, n=400)
    options = {"rtol": 1e-9, "restart": 60, "recycle_dim": 12, "maxiter": 5000}
    shared, alone = gcrodr(A, B, block=True, **options), gcrodr(A, B, **options)
    assert shared.converged
    assert alone.converged
    # Eight tiny eigenvalues are found once for all columns instead of once for each.
    assert shared.matvecs < 0.75 * alone.matvecs


@pytest.mark.parametrize(
    "options", [{}, {"side": "left"}, {"carry": "t"}, {"basis_dtype": np.float32}], ids=str
)
def test_the_space_serves_the_next_block(options):
    A, M = problems.nonsymmetric(N, 2), scaling()
    options = {"block": True, "rtol": 1e-9, "restart": 40, "recycle_dim": 12, "M": M} | options
    state = RecycleState()
    first = gcrodr(A, columns(3), recycle=state, **options)
    assert first.recycled == 0
    assert first.k_used == state.k == 12
    B = columns(3, seed=1)
    cold, warm = gcrodr(A, B, **options), gcrodr(A, B, recycle=state, **options)
    assert warm.converged
    assert np.all(errors(A, warm.x, B) <= 1e-9)
    assert warm.recycled == 12
    assert warm.nit < 0.8 * cold.nit
    # The same matrix: no products for images that are still good. Another one needs one for each vector.
    E = 1e-3 * np.random.default_rng(8).standard_normal((N, N)) / np.sqrt(N)
    other = gcrodr(A + E, B, recycle=state, **options)
    assert other.converged
    assert np.all(errors(A + E, other.x, B) <= 1e-9)
    assert other.recycled == 12
    assert other.nit < 0.8 * cold.nit
    assert other.matvecs - other.nit >= warm.matvecs - warm.nit + 12 - 3


def test_single_vectors_and_blocks_share_their_space():
    A = problems.nonsymmetric(N, 2)
    options = {"rtol": 1e-9, "restart": 40, "recycle_dim": 12}
    B, b = columns(3), columns(1, seed=1)[:, 0]
    state = RecycleState()
    gcrodr(A, b, recycle=state, **options)
    assert gcrodr(A, B, block=True, recycle=state, **options).nit < gcrodr(A, B, block=True, **options).nit
    assert gcrodr(A, b, recycle=state, **options).nit < gcrodr(A, b, **options).nit
    wide = RecycleState()
    wide.update(columns(40, seed=3), None, None, 0, 0, 0)  # more than there is room for
    kept = gcrodr(A, B, block=True, recycle=wide, **options)
    assert kept.converged
    assert kept.recycled <= 13


# ------------------------------------------------------------------------------------------------ honest ends


def test_columns_end_one_by_one():
    A, B = problems.nonsymmetric(N, 2), columns(3)
    start = np.zeros((N, 3))
    start[:, 1] = np.linalg.solve(A, B[:, 1])  # solved before the first step
    result = gcrodr(A, B, start, block=True, rtol=1e-9)
    pair = gcrodr(A, B[:, [0, 2]], block=True, rtol=1e-9)
    assert result.converged
    assert result.nit == pair.nit
    np.testing.assert_array_equal(result.x[:, 1], start[:, 1])
    np.testing.assert_array_equal(result.x[:, [0, 2]], pair.x)


@pytest.mark.parametrize("maxiter", [1, 7, 31])
def test_maxiter_counts_products(maxiter):
    A, B = problems.nonsymmetric(N, 2), columns(3)
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(A, B, block=True, rtol=1e-12, maxiter=maxiter, restart=20, recycle_dim=5)
    assert result.status == Status.MAX_ITERATIONS
    assert result.nit == maxiter
    assert all(len(history) == maxiter + 1 for history in result.residuals)
    norms = np.linalg.norm(B - A @ result.x, axis=0)
    assert np.isclose(result.true_residual, norms, rtol=1e-10).any()


def test_products_are_counted():
    A, B = problems.nonsymmetric(N, 2), columns(3)
    done = []

    def matvec(v):
        done.append(1)
        return A @ v

    operator = spla.LinearOperator((N, N), matvec=matvec, dtype=float)
    options = {"block": True, "rtol": 1e-9, "restart": 24, "recycle_dim": 8}
    state = RecycleState()
    for A_changed in (False, True):
        if A_changed:
            A = A + 1e-3 * np.eye(N)
        done.clear()
        fresh = spla.LinearOperator((N, N), matvec=matvec, dtype=float)
        result = gcrodr(fresh if A_changed else operator, B, recycle=state, **options)
        assert result.converged
        assert result.matvecs == len(done)


@pytest.mark.parametrize("options", [{}, {"recycle_dim": 0}, {"select": "sv"}, {"ortho": "mgs"}], ids=str)
def test_a_singular_matrix_says_so(options):
    d = np.concatenate([np.zeros(2), 1 + np.arange(N - 2) / N])
    A = sp.diags_array(d).tocsr()
    B = columns(3)
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(A, B, block=True, rtol=1e-8, maxiter=5000, **options)
    assert result.status in (Status.BREAKDOWN, Status.STAGNATED)
    # What can be reached is reached, and rounding in the null space does not spoil it.
    np.testing.assert_allclose(
        np.linalg.norm(B - A @ result.x, axis=0), np.linalg.norm(B[:2], axis=0), rtol=1e-6
    )
    assert np.linalg.norm(result.x) < 1e9
    B[:2] = 0  # consistent
    result = gcrodr(A, B, block=True, rtol=1e-8, **options)
    assert result.converged
    B[:2, 1] = 1  # one column that has no solution does not keep the others from theirs
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(A, B, block=True, rtol=1e-8, maxiter=5000, **options)
    assert result.status in (Status.BREAKDOWN, Status.STAGNATED)
    assert "column 1" in result.message
    assert np.all(errors(A, result.x[:, [0, 2]], B[:, [0, 2]]) <= 1e-8)


@pytest.mark.parametrize("after", [0, 3, 20])
def test_an_operator_that_gives_nan(after):
    A, B = problems.nonsymmetric(N, 2), columns(3)
    calls = []

    def matvec(v):
        calls.append(1)
        return np.full(N, np.nan) if len(calls) > after else A @ v

    operator = spla.LinearOperator((N, N), matvec=matvec, dtype=float)
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(operator, B, block=True, rtol=1e-10)
    assert result.status == Status.NONFINITE
    assert result.info < 0
    assert np.isfinite(result.x).all()


def test_stagnation_is_noticed_and_adaptive_helps():
    shift = sp.diags_array([np.ones(N - 1)], offsets=[-1], shape=(N, N)).tolil()
    shift[0, N - 1] = 1.0
    A = shift.tocsr()  # GMRES on a cyclic shift makes no progress before the last step
    B = np.zeros((N, 2))
    B[0, 0], B[N // 2, 1] = 1, 1
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(A, B, block=True, restart=20, recycle_dim=0, maxiter=100_000)
    assert result.status == Status.STAGNATED
    assert result.nit == 12 * 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gcrodr(A, B, block=True, restart=N // 2 + 1, recycle_dim=0, adaptive=True).converged


def test_a_callback_is_refused():
    A, B = problems.nonsymmetric(N, 2), columns(3)
    with pytest.raises(ValueError, match="`callback` is for one right-hand side"):
        gcrodr(A, B, block=True, callback=lambda residual: None)


def test_one_column_is_the_plain_solver():
    A, b = problems.nonsymmetric(N, 2), columns(1)
    block, plain = gcrodr(A, b, block=True, rtol=1e-9), gcrodr(A, b, rtol=1e-9)
    np.testing.assert_array_equal(block.x, plain.x)
    assert block.nit == plain.nit
