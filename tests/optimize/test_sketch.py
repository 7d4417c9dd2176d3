"""Sketch-and-project and the sketched preconditioner against their oracle, and the oracle against facts."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from aitken import _core
from aitken.optimize._kkt import KKTMatrix
from aitken.optimize._sketch import METHODS, SketchedPreconditioner, default_block, solve_projection
from tests.oracles import optimize_sketch as oracle

COLUMN_METHODS = ("gaussian", "block_gaussian", "countsketch")


def kkt(n: int, m: int, seed: int = 0, *, form: str = "dense", e: float = 0.0) -> KKTMatrix:
    """A random convex system with a full-rank Jacobian."""
    g = np.random.default_rng(seed)
    B = g.standard_normal((n, n)) / np.sqrt(n)
    H = B @ B.T + np.eye(n)
    J = g.standard_normal((m, n)) / np.sqrt(n)
    if form == "sparse":
        J[g.random((m, n)) < 0.5] = 0.0
        J[np.arange(m), np.arange(m)] += 1.0
        return KKTMatrix(sp.csr_array(H), sp.csr_array(J), g.random(n), np.full(m, e))
    return KKTMatrix(H, J, g.random(n), np.full(m, e))


def solve(K: KKTMatrix, b: np.ndarray, method: str, **options):
    return solve_projection(K, b, method=method, **options)


# ------------------------------------------------------------------------------------ the oracle's own facts


def test_philox_known_answers():
    """The published vectors of the generator: all zeros, all ones, digits of pi."""
    ones = 0xFFFFFFFF
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, wanted in cases:
        assert tuple(oracle.philox(counter, key)) == wanted


@pytest.mark.parametrize("method", COLUMN_METHODS)
def test_oracle_step_is_the_nearest_point(method):
    """A step solves S' K z = S' b and moves within the range of K S: the projection, by its definition."""
    g = np.random.default_rng(1)
    K = g.standard_normal((12, 12))
    K += K.T
    b, z = g.standard_normal(12), g.standard_normal(12)
    new = oracle.project_columns(K, b, z, method, 4, 3, 1, first=5)
    S = oracle.sketch(method, 12, 4, 3, 5)
    assert np.abs(S.T @ (K @ new - b)).max() < 1e-9 * np.abs(S.T @ (K @ z - b)).max()
    move, W = new - z, K @ S
    assert np.linalg.norm(move - W @ np.linalg.lstsq(W, move)[0]) < 1e-9 * np.linalg.norm(move)


def test_oracle_mix_keeps_the_system_and_spreads_its_rows():
    g = np.random.default_rng(2)
    K = g.standard_normal((13, 13))
    K += K.T
    truth = g.standard_normal(13)
    A, c = oracle.mixed(K, K @ truth, 4)
    assert A.shape == (16, 13)
    assert np.allclose(A.T @ A, K @ K)
    assert np.allclose(A @ truth, c)
    # Of a diagonal matrix all mixed rows have the same length, however uneven it was.
    spike = oracle.mixed(np.diag([1e3, *np.ones(12)]), np.zeros(13), 4)[0]
    assert np.allclose(np.linalg.norm(spike, axis=1), np.sqrt((1e6 + 12) / 16))


def test_oracle_memory_solves():
    g = np.random.default_rng(2)
    K = g.standard_normal((13, 13))
    K = K + K.T + 12 * np.diag([-1.0, 1.0] * 6 + [1.0])
    truth = g.standard_normal(13)
    z, blocks, rates = oracle.project_mixed(K, K @ truth, np.zeros(13), 4, 4, 400)
    assert np.linalg.norm(z - truth) < 1e-9 * np.linalg.norm(truth)
    assert 1 < blocks < 100
    assert len(rates) == 400 // 10
    assert 0 < np.mean(rates) < 1
    assert min(rates) < 0  # single windows are noise


def test_oracle_expected_contraction_of_kaczmarz():
    """E ||z - z*||^2 falls by 1 - s_min^2 / ||K||_F^2 at least, and by just that where all s are one."""
    g = np.random.default_rng(3)
    Q = np.linalg.qr(g.standard_normal((8, 8)))[0]
    K = Q @ np.diag([1, -1, 1, 1, -1, 1, 1, 1]) @ Q.T  # orthogonal and symmetric
    truth = g.standard_normal(8)
    errors = [np.sum((oracle.project_rows(K, K @ truth, np.zeros(8), s, 8) - truth) ** 2) for s in range(400)]
    assert np.mean(errors) == pytest.approx((1 - 1 / 8) ** 8 * (truth @ truth), rel=0.1)


def test_oracle_count_sketch_is_unbiased():
    """E S'S = I, since signs are independent of each other."""
    mean = np.mean([S.T @ S for S in (oracle.count_sketch(6, 4, seed, 0) for seed in range(4000))], axis=0)
    assert np.abs(mean - np.eye(6)).max() < 5 * 0.5 / np.sqrt(4000)


# ---------------------------------------------------------------------------------------- native kernels


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_of_the_oracle(method, form, n_threads):
    K = kkt(23, 8, form=form)
    A, size = K.to_dense(), 31
    g = np.random.default_rng(4)
    b, z0 = A @ g.standard_normal(size), g.standard_normal(size)
    steps = 90 if method == "kaczmarz" else 40
    options = {"rtol": 0.0, "max_steps": steps, "sketch_size": 6, "seed": 77, "n_threads": n_threads}
    found = solve(K, b, method, z0=z0, counter=0, **options)
    if method == "kaczmarz":
        wanted = oracle.project_rows(A, b, z0, 77, steps)
    elif method == "block_kaczmarz":
        wanted = oracle.project_mixed(A, b, z0, 6, 77, steps)[0]
    else:
        wanted = oracle.project_columns(A, b, z0, method, 6, 77, steps)
    assert found.iterations == steps
    assert np.abs(found.z - wanted).max() < 1e-8 * np.abs(wanted).max()
    assert found.residual == pytest.approx(np.linalg.norm(A @ found.z - b) / np.linalg.norm(b))


@pytest.mark.parametrize("method", ["kaczmarz", *COLUMN_METHODS])
def test_counter_far_out_is_the_oracle_too(method):
    K = kkt(9, 3)
    A, far = K.to_dense(), 2**40 + 12345
    b = np.ones(12)
    found = solve(K, b, method, rtol=0.0, max_steps=5, sketch_size=4, seed=2**63 + 5, counter=far)
    if method == "kaczmarz":
        wanted = oracle.project_rows(A, b, np.zeros(12), 2**63 + 5, 5, first=far)
    else:
        wanted = oracle.project_columns(A, b, np.zeros(12), method, 4, 2**63 + 5, 5, first=far)
    assert np.abs(found.z - wanted).max() < 1e-9 * np.abs(wanted).max()


@pytest.mark.parametrize("method", METHODS)
def test_converges_with_the_residual_it_says(method):
    K = kkt(30, 10, 5)
    b = np.random.default_rng(6).standard_normal(40)
    rtol = 1e-6 if method == "gaussian" else 1e-9
    found = solve(K, b, method, rtol=rtol, max_steps=400_000)
    assert found.converged
    assert found.solver == method
    true = np.linalg.norm(K.matvec(found.z) - b) / np.linalg.norm(b)
    assert true <= rtol
    assert found.residual == pytest.approx(true, rel=1e-3)
    assert found.flops > 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    n=st.integers(1, 12),
    m=st.integers(0, 12),
    method=st.sampled_from(METHODS),
    bad=st.sampled_from([None, np.nan, np.inf]),
)
def test_never_a_false_success(seed, n, m, method, bad):
    """Any system, singular ones among them: finite z, and converged only where the residual says so."""
    g = np.random.default_rng(seed)
    H = g.standard_normal((n, n))
    K = KKTMatrix(H + H.T, g.standard_normal((m, n)), np.zeros(n), np.zeros(m))
    if bad is not None:
        K.H[0, 0] = bad
    b = g.standard_normal(n + m)
    found = solve(K, b, method, rtol=1e-6, max_steps=300, seed=seed)
    assert np.isfinite(found.z).all()
    if bad is not None:
        assert not found.converged
        assert not found.z.any()
    else:
        true = np.linalg.norm(K.matvec(found.z) - b) / np.linalg.norm(b)
        assert found.converged == (found.residual <= 1e-6)
        assert found.residual == pytest.approx(true, rel=1e-6, abs=1e-12)


def test_start_is_not_modified_and_budgets_hold():
    K = kkt(20, 5)
    b, z0 = np.ones(25), np.full(25, 0.5)
    found = solve(K, b, "gaussian", z0=z0, rtol=1e-12, max_flops=1e5)
    assert (z0 == 0.5).all()
    assert not found.converged
    assert 1e5 <= found.flops < 1.2e5


def test_wrong_arguments_are_named():
    K = kkt(4, 2)
    b = np.ones(6)
    with pytest.raises(ValueError, match=r"`kkt_solver`.*gaussian.*'gauss'"):
        solve(K, b, "gauss")
    with pytest.raises(ValueError, match="`sketch_size` must be <= 6; got 7"):
        solve(K, b, "countsketch", sketch_size=7)
    with pytest.raises(ValueError, match="`sketch_size` must be >= 1; got 0"):
        solve(K, b, "block_gaussian", sketch_size=0)
    product = KKTMatrix(aslinearoperator(K.H), K.J, K.d, K.e)
    with pytest.raises(TypeError, match="LinearOperator"):
        solve(product, b, "kaczmarz")
    with pytest.raises(ValueError, match="unknown option `blok`"):
        _core.sketch_project(K.to_dense(), b, np.zeros(6), {"blok": 3})
    with pytest.raises(ValueError, match="`K`"):
        _core.sketch_project((np.array([0, 2]), np.array([0, 0], np.int32), np.ones(2), 1), b, b, {})


def test_default_block():
    assert [default_block(s) for s in (1, 2, 10, 100, 10_000)] == [1, 2, 4, 25, 256]


# ---------------------------------------------------------------------------------------------- CountSketch


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_count_sketch_is_the_oracle(form, n_threads):
    W = np.random.default_rng(7).standard_normal((900, 11))
    W[W < 0.7] = 0.0
    given = W
    if form == "sparse":
        C = sp.csr_array(W)
        given = (C.indptr.astype(np.int64), C.indices.astype(np.int32), C.data, 11)
    S = oracle.count_sketch(900, 40, 2**50 + 1, 3)
    assert np.abs(_core.count_sketch(given, 40, 2**50 + 1, 3, n_threads) - S @ W).max() < 1e-12
    bucket, sign = _core.count_sketch_map(900, 40, 2**50 + 1, 3)
    assert (S[bucket, np.arange(900)] == sign).all()
    assert np.abs(S).sum() == 900


def test_count_sketch_keeps_quadratic_forms():
    """With 16 n rows ||S W x||^2 is ||W x||^2 within a half for all x: a subspace embedding."""
    W = np.random.default_rng(8).standard_normal((6000, 15)) * np.logspace(0, -4, 15)
    SW = _core.count_sketch(W, 240, 1, 0, 0)
    R = np.linalg.qr(W, mode="r")
    s = np.linalg.svd(SW @ np.linalg.inv(R), compute_uv=False)
    assert 0.5 < s[-1]
    assert s[0] < 1.5


def test_count_sketch_refuses():
    with pytest.raises(ValueError, match="`rows` is 0"):
        _core.count_sketch(np.ones((3, 2)), 0, 0, 0, 0)
    with pytest.raises(ValueError, match="`W` must be a matrix"):
        _core.count_sketch(np.ones(3), 2, 0, 0, 0)


# ------------------------------------------------------------------------------------------- preconditioner


def data_problem(rows: int, n: int, m: int, seed: int = 0):
    """W of falling column norms, H = W'W + mu I, and a Jacobian."""
    g = np.random.default_rng(seed)
    W = g.standard_normal((rows, n)) * np.logspace(0, -2, n)
    J = g.standard_normal((m, n))
    return W, KKTMatrix(W.T @ W + 0.3 * np.eye(n), J, np.zeros(n), np.zeros(m))


@pytest.mark.parametrize("form", ["dense", "sparse", "operator"])
def test_preconditioner_is_the_oracle(form):
    W, K = data_problem(500, 12, 3)
    given = {"dense": W, "sparse": sp.csr_array(W), "operator": aslinearoperator(W)}[form]
    state = SketchedPreconditioner(sketch_size=30, seed=9)
    assert state.prepare(K, given)
    SW = oracle.count_sketch(500, 30, 9, 0) @ W
    # The rest of the Hessian is 0.3 I, and the diagonal is found to be that.
    inverse = oracle.constraint_preconditioner(SW.T @ SW, np.full(12, 0.3), K.J, K.e)
    r = np.random.default_rng(10).standard_normal(15)
    assert np.abs(state.apply(r) - inverse @ r).max() < 1e-9 * np.abs(inverse @ r).max()
    assert np.allclose(state.operator() @ r, state.apply(r))


def test_preconditioner_of_all_rows_is_exact():
    W, K = data_problem(20, 12, 3)
    state = SketchedPreconditioner(sketch_size=20)
    state.prepare(K, W)
    r = np.random.default_rng(11).standard_normal(15)
    assert np.abs(K.matvec(state.apply(r)) - r).max() < 1e-9


def test_preconditioner_with_barrier_terms_and_a_rest_that_is_not_definite():
    W, K = data_problem(400, 10, 2)
    K.d[:] = np.logspace(-3, 4, 10)
    K.e[:] = 1e-3
    state = SketchedPreconditioner(sketch_size=80)
    assert state.prepare(K, W)
    indefinite = KKTMatrix(K.H - 5e3 * np.eye(10), K.J, np.zeros(10), K.e)
    assert state.prepare(indefinite, W)
    assert np.isfinite(state.apply(np.ones(12))).all()


def test_preconditioner_of_redundant_constraints_and_of_none():
    W, K = data_problem(400, 10, 3)
    K.J[2] = K.J[0] + K.J[1]
    assert SketchedPreconditioner().prepare(K, W)
    free = KKTMatrix(K.H, np.zeros((0, 10)), np.zeros(10), np.zeros(0))
    state = SketchedPreconditioner(sketch_size=400)
    assert state.prepare(free, W)
    assert np.allclose(K.H @ state.apply(np.ones(10)), 1.0)


def test_preconditioner_says_where_numbers_are_not_finite():
    for place in ("W", "H", "J"):
        W, K = data_problem(100, 5, 2)
        {"W": W, "H": K.H, "J": K.J}[place][1, 1] = np.nan
        assert not SketchedPreconditioner(sketch_size=20).prepare(K, W)


def test_preconditioner_refuses_another_width():
    W, K = data_problem(100, 5, 2)
    with pytest.raises(ValueError, match=r"`hess_sqrt` gave shape \(100, 4\); \(any, 5\) is needed"):
        SketchedPreconditioner().prepare(K, W[:, :4])


def test_errors_of_an_operator_pass_through():
    _, K = data_problem(100, 5, 2)

    def broken(v):
        raise ZeroDivisionError("mine")

    W = LinearOperator((100, 5), matvec=broken, rmatvec=broken, dtype=float)
    with pytest.raises(ZeroDivisionError, match="mine"):
        SketchedPreconditioner().prepare(K, W)


def test_sketch_is_redrawn_only_when_it_has_aged():
    W, K = data_problem(500, 8, 2)
    state = SketchedPreconditioner(sketch_size=40)
    for iterations, draws in [(10, 1), (12, 1), (15, 1), (16, 1), (9, 2), (9, 2)]:
        state.prepare(K, W)
        assert state.draws == draws
        state.note(iterations)


@pytest.mark.skipif(os.name != "posix", reason="a timer that signals")
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_ends_a_long_solve(method):
    K = kkt(150, 40)

    def stop(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            solve(K, np.ones(190), method, rtol=0.0, max_steps=10**12)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - start < 5


def test_other_python_threads_run_meanwhile():
    """The lock of the interpreter is released: a thread counts while a solve takes its steps."""
    K, counted, done = kkt(150, 40), [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before, start = counted[0], time.perf_counter()
        solve(K, np.ones(190), "kaczmarz", rtol=0.0, max_steps=1_000_000)
        elapsed, ticks = time.perf_counter() - start, counted[0] - before
    finally:
        done.set()
        thread.join()
    assert elapsed > 0.02
    assert ticks >= 5
