"""Recycled CG and MINRES, and the result class of all linear solvers."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from hypothesis import given
from hypothesis import strategies as st

from aitken import ConvergenceWarning, Status
from aitken.linalg import LinearResult, RecycleState, bicgstab, cg, minres, rcg, rminres
from tests.oracles import krylov as oracle

RECYCLED = pytest.mark.parametrize("solver", [rcg, rminres], ids=["rcg", "rminres"])


def laplacian(m, shift=0.0):
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    return sp.csr_array(sp.kronsum(line, line) + shift * sp.eye_array(m * m))


def two_phase(m, seed, change=0.0):
    """-div(a grad u) by finite volumes, a = 12 or 3 in blobs, drifting with `change`."""
    rng = np.random.default_rng(seed)
    s = np.arange(m) / m
    field = sum(
        np.cos(2 * np.pi * (k * s[:, None] + l * s[None, :]) + p + change)
        for k, l, p in zip(rng.integers(1, 4, 6), rng.integers(1, 4, 6), rng.uniform(0, 6, 6), strict=True)
    )
    a = np.where(field >= 0, 12.0, 3.0)
    index = np.arange(m * m).reshape(m, m)
    rows, cols, values = [], [], []
    diagonal = np.zeros((m, m))
    for shift, axis in ((1, 0), (1, 1)):
        low, high = [slice(None)] * 2, [slice(None)] * 2
        low[axis], high[axis] = slice(0, -shift), slice(shift, None)
        w = 2 / (1 / a[tuple(low)] + 1 / a[tuple(high)])
        i, j = index[tuple(low)].ravel(), index[tuple(high)].ravel()
        rows += [i, j]
        cols += [j, i]
        values += [-w.ravel(), -w.ravel()]
        diagonal[tuple(low)] += w
        diagonal[tuple(high)] += w
    diagonal[0] += 2 * a[0]
    diagonal[-1] += 2 * a[-1]
    diagonal[:, 0] += 2 * a[:, 0]
    diagonal[:, -1] += 2 * a[:, -1]
    rows.append(index.ravel())
    cols.append(index.ravel())
    values.append(diagonal.ravel())
    return sp.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))))


def relative(A, x, b):
    return np.linalg.norm(b - A @ x) / np.linalg.norm(b)


# ------------------------------------------------------------------------------------------------ recycling


@RECYCLED
@pytest.mark.parametrize("M", [None, "ic0"])
def test_a_slowly_varying_sequence_gets_cheaper(solver, M):
    rng = np.random.default_rng(0)
    state, cold, warm = RecycleState(), [], []
    for i in range(6):
        A = two_phase(40, seed=1, change=0.01 * i)
        b = rng.normal(size=1600)
        cold.append(solver(A, b, rtol=1e-8, M=M))
        warm.append(solver(A, b, rtol=1e-8, M=M, recycle=state))
        assert warm[-1].converged
        assert relative(A, warm[-1].x, b) <= 1e-8
    assert cold[0].recycled == 0
    assert warm[-1].recycled == warm[-1].k_used == state.k == 20
    assert state.generation == 6
    assert warm[-1].nit < (0.6 if M else 0.9) * cold[-1].nit
    assert warm[-1].nit < warm[1].nit


@RECYCLED
def test_exact_eigenvectors_are_deflated(solver):
    """With the slow eigenvectors as space the count is that of a matrix without them."""
    n, k = 500, 12
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    fast = np.linspace(1.0, 3.0, n - k)
    slow = np.geomspace(1e-5, 1e-2, k)
    if solver is rminres:
        slow[::2] *= -1
    A = Q @ np.diag(np.concatenate([slow, fast])) @ Q.T
    A = 0.5 * (A + A.T)
    easy = Q @ np.diag(np.concatenate([np.ones(k), fast])) @ Q.T
    b = rng.normal(size=n)
    state = RecycleState()
    state.U = np.asfortranarray(Q[:, :k])
    plain, wanted = solver(A, b, rtol=1e-8), solver(0.5 * (easy + easy.T), b, rtol=1e-8)
    result = solver(A, b, rtol=1e-8, recycle=state)
    assert result.converged
    assert result.nit <= wanted.nit + 1 < 0.7 * plain.nit
    assert result.matvecs <= result.nit + k + 3


@RECYCLED
def test_the_space_found(solver):
    """Its images are right, it is orthonormal in the solver's product, and it nears the slow eigenvectors."""
    A = laplacian(24, -0.3 if solver is rminres else 0.0)
    n = A.shape[0]
    weights = np.linspace(1.0, 2.0, n)
    M = sp.diags_array(1 / weights)
    state, rng = RecycleState(), np.random.default_rng(0)
    for _ in range(8):
        assert solver(
            A, rng.normal(size=n), rtol=1e-9, M=M, recycle=state, recycle_dim=10, window=50
        ).converged
    U, C = state.U, state.C
    assert U.shape == (n, 10)
    np.testing.assert_allclose(A @ U, C, atol=1e-7 * np.abs(C).max())
    product = U.T @ C if solver is rcg else C.T @ (M @ C)
    np.testing.assert_allclose(product, np.eye(10), atol=1e-6)
    values = np.linalg.eigvals((M @ A).toarray()).real
    slowest = values[np.argsort(np.abs(values))][:6]
    root = sp.diags_array(np.sqrt(weights))
    basis = np.linalg.qr(root @ U)[0]
    S = sp.diags_array(1 / np.sqrt(weights)) @ A @ sp.diags_array(1 / np.sqrt(weights))
    ritz = np.linalg.eigvalsh(basis.T @ (S @ basis))
    for value in slowest:
        assert np.abs(ritz - value).min() <= 5e-3 * np.abs(value)


@RECYCLED
def test_the_same_matrix_needs_no_new_images(solver):
    A, rng, state = laplacian(20), np.random.default_rng(0), RecycleState()
    solver(A, rng.normal(size=400), recycle=state, recycle_dim=8)
    same = solver(A.copy(), rng.normal(size=400), recycle=state, recycle_dim=8)
    other = solver(laplacian(20, 0.01), rng.normal(size=400), recycle=state, recycle_dim=8)
    assert same.recycled == other.recycled == 8
    assert same.matvecs <= same.nit + 3
    assert same.nit + 8 < other.matvecs - other.nit + same.nit + 3
    assert other.matvecs >= other.nit + 8


@RECYCLED
def test_complex_operators_and_callables(solver):
    n = 300
    A = sp.diags_array([-1j, 2.05, 1j], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    state, rng = RecycleState(), np.random.default_rng(0)
    operator = spla.LinearOperator((n, n), matvec=lambda v: A @ v, dtype=complex)
    weights = 0.5 + 0.01 * (np.arange(n) % 5)
    for _ in range(3):
        b = rng.normal(size=n) + 1j * rng.normal(size=n)
        by_matrix = solver(A, b, rtol=1e-9)
        by_operator = solver(operator, b, rtol=1e-9, M=lambda v: weights * v, recycle=state)
        for result in (by_matrix, by_operator):
            assert relative(A, result.x, b) <= 1e-9
            assert result.x.dtype == np.complex128
    assert state.U.dtype == np.complex128
    with pytest.raises(ValueError, match="`recycle` holds complex vectors"):
        solver(laplacian(10), np.ones(100), recycle=_sized(state, 100))


def _sized(state, n):
    smaller = state.copy()
    smaller.U, smaller.C = np.asfortranarray(state.U[:n]), None
    return smaller


@RECYCLED
@given(n=st.integers(1, 12), k=st.integers(1, 15), seed=st.integers(0, 100))
def test_tiny_systems_and_too_many_vectors(solver, n, k, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    A = A @ A.T + np.eye(n)
    state = RecycleState()
    for _ in range(3):
        b = rng.normal(size=n)
        result = solver(A, b, rtol=1e-8, recycle=state, recycle_dim=k)
        assert result.converged
        assert relative(A, result.x, b) <= 1e-8
        assert state.k <= min(n, k)


@RECYCLED
def test_bits_do_not_depend_on_threads(solver):
    A = laplacian(200, 0.05)
    b = np.random.default_rng(0).normal(size=(2, A.shape[0]))
    answers = []
    for n_threads in (1, 2):
        state = RecycleState()
        for row in b:
            result = solver(A, row, M="jacobi", recycle=state, recycle_dim=5, n_threads=n_threads)
        answers.append((result.x, state.U, state.C))
    for one, two in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, two)


# --------------------------------------------------------------------------------------- against the oracle


@RECYCLED
@pytest.mark.parametrize("with_m", [False, True])
def test_against_the_oracle(solver, with_m):
    """The same residuals at first, the same counts, and the same next space."""
    A = laplacian(15, -0.3 if solver is rminres else 0.0)
    n = A.shape[0]
    M = sp.diags_array(1 / np.linspace(1, 2, n)).tocsr() if with_m else None
    rng = np.random.default_rng(0)
    state = RecycleState()
    solver(A, rng.normal(size=n), rtol=1e-8, M=M, recycle=state, recycle_dim=6, window=15)
    b, U = rng.normal(size=n), state.U.copy()
    ours = solver(A, b, rtol=1e-8, M=M, recycle=state, recycle_dim=6, window=15)
    twin = getattr(oracle, solver.__name__)
    theirs = twin(A, b, None, U, k=6, harvest=15, rtol=1e-8, M=None if M is None else (lambda v: M @ v))
    assert abs(ours.nit - theirs.nit) <= 2
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-5 * np.abs(theirs.x).max())
    assert ours.matvecs <= ours.nit + 3
    values, more = (np.sort(_ritz(A, space)) for space in (state.U, theirs.U))
    np.testing.assert_allclose(values, more, rtol=0.08)  # windows are joined in bases that differ a little


def _ritz(A, U):
    Q = np.linalg.qr(U)[0]
    return np.linalg.eigvalsh(Q.T @ (A @ Q))


@pytest.mark.parametrize("solver", [cg, minres])
def test_first_residuals_are_the_oracles(solver):
    A, b = laplacian(15, 0.1), np.random.default_rng(0).normal(size=225)
    ours, theirs = solver(A, b, rtol=1e-8), getattr(oracle, solver.__name__)(A, b, rtol=1e-8)
    assert abs(ours.nit - theirs.nit) <= 1
    np.testing.assert_allclose(ours.residuals[:25], theirs.residuals[:25], rtol=1e-8)


# -------------------------------------------------------------------------------------- errors and endings


@RECYCLED
def test_bad_input(solver):
    A, b = laplacian(5), np.ones(25)
    state = RecycleState()
    solver(A, b, recycle=state)
    for error, match, arguments, options in (
        (ValueError, "`recycle` holds vectors of length 25", (laplacian(4), np.ones(16)), {"recycle": state}),
        (TypeError, "`recycle` must be a RecycleState, not dict", (A, b), {"recycle": {}}),
        (ValueError, "`recycle_dim` must be >= 1; got 0", (A, b), {"recycle_dim": 0}),
        (ValueError, "`window` must be >= 1; got 0", (A, b), {"window": 0}),
        (ValueError, "`rtol`", (A, b), {"rtol": -1.0}),
        (TypeError, "`maxiter` must be an integer", (A, b), {"maxiter": 1.5}),
        (ValueError, r"`b` has shape \(25, 2\)", (A, np.ones((25, 2))), {}),
        (ValueError, r"`b` has shape \(24,\)", (A, np.ones(24)), {}),
        (
            ValueError,
            "`b` has a non-finite value at index 3",
            (A, np.where(np.arange(25) == 3, np.nan, 1.0)),
            {},
        ),
        (ValueError, "`M` is 'nonsense'|`M` must be one of", (A, b), {"M": "nonsense"}),
        (TypeError, "`callback` must be callable", (A, b), {"callback": 3}),
    ):
        with pytest.raises(error, match=match):
            solver(*arguments, **options)


@pytest.mark.parametrize("solver", [cg, rcg])
def test_an_indefinite_matrix_is_named(solver):
    A = laplacian(10, -1.0)
    with pytest.warns(ConvergenceWarning, match="the matrix is not positive definite"):
        result = solver(A, np.ones(100), rtol=1e-10)
    assert result.status == Status.NOT_POSITIVE_DEFINITE
    assert result.info == -6
    assert np.isfinite(result.x).all()
    assert result.true_residual == pytest.approx(np.linalg.norm(1 - A @ result.x), rel=1e-12)


@pytest.mark.parametrize("solver", [cg, minres, bicgstab, rcg, rminres])
def test_an_operator_that_turns_nan(solver):
    A, calls = laplacian(12), []

    def matvec(v):
        calls.append(1)
        return A @ v if len(calls) < 9 else np.full_like(v, np.nan)

    with pytest.warns(ConvergenceWarning, match="NaN or Inf"):
        result = solver(spla.LinearOperator(A.shape, matvec=matvec, dtype=float), np.ones(144), rtol=1e-12)
    assert result.status == Status.NONFINITE
    assert result.info == -4
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize("solver", [cg, minres, bicgstab, rcg, rminres])
def test_errors_of_callbacks_arrive(solver):
    def fails(*args):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        solver(laplacian(8), np.ones(64), callback=fails)
    with pytest.raises(RuntimeError, match="mine"):
        solver(spla.LinearOperator((64, 64), matvec=fails, dtype=float), np.ones(64))


@pytest.mark.parametrize("solver", [cg, minres, bicgstab, rcg, rminres])
def test_callbacks(solver):
    A, b, iterates, steps = laplacian(12), np.ones(144), [], []

    def named(intermediate_result):
        steps.append(intermediate_result)
        if intermediate_result.nit == 4:
            raise StopIteration

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = solver(A, b, rtol=1e-10, callback=iterates.append)
        stopped = solver(A, b, rtol=1e-10, callback=named)
    assert len(iterates) == full.nit == len(full.residuals) - 1
    np.testing.assert_array_equal(iterates[-1], full.x)
    for x, norm in zip(iterates, full.residuals[1:], strict=True):
        assert np.linalg.norm(b - A @ x) == pytest.approx(norm, rel=1e-4, abs=1e-11)
    assert stopped.status == Status.STOPPED_BY_CALLBACK
    assert stopped.info == stopped.nit == 4
    np.testing.assert_array_equal(stopped.x, iterates[3])
    np.testing.assert_array_equal(steps[3].x, iterates[3])


def test_minres_of_an_inconsistent_system():
    """Singular and unsolvable: a least-squares solution, and no claim of success."""
    values = np.concatenate([[0.0], np.linspace(1, 2, 9), -np.linspace(1, 2, 10)])
    b = np.ones(20)
    for solver in (minres, rminres):
        with pytest.warns(ConvergenceWarning):
            result = solver(np.diag(values), b)
        assert result.status == Status.STAGNATED
        assert result.true_residual == pytest.approx(1.0, abs=1e-9)


def test_single_precision_is_certified_as_returned():
    A = laplacian(30).astype(np.float32)
    b = np.random.default_rng(0).normal(size=900).astype(np.float32)
    for solver in (cg, minres, bicgstab, rcg, rminres):
        result = solver(A, b, rtol=1e-4)
        assert result.x.dtype == np.float32
        assert result.converged
        assert result.true_residual == pytest.approx(
            np.linalg.norm(b - A.astype(float) @ result.x.astype(float)), rel=1e-9
        )
        with pytest.warns(ConvergenceWarning, match="progress stopped above the tolerance"):
            beyond = solver(A, b, rtol=1e-9)
        assert "rounding the answer to float32" in beyond.message
        assert beyond.status == Status.STAGNATED
        assert not beyond.converged


def test_linear_result():
    result = cg(np.diag([1.0, 2.0, 4.0]), np.ones(3))
    assert isinstance(result, LinearResult)
    x, info = result
    assert x is result.x
    assert (info, len(result), result[1], result["nit"]) == (0, 2, 0, 3)
    assert result[0] is result.x
    assert {
        "x",
        "info",
        "status",
        "message",
        "converged",
        "nit",
        "matvecs",
        "residuals",
        "true_residual",
    } <= set(result.keys())
    assert "converged" in result.message
    assert repr(result).startswith("LinearResult\n")
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.x, x)
    assert again.status is Status.CONVERGED
