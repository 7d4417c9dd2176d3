"""`sor_batch` against its NumPy twin: counts, bits for any company and thread count, and how systems fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from aitken import ConvergenceWarning, Status
from aitken.linalg._sor_batch import sor_batch
from tests.oracles import relaxation_batch as oracle
from tests.relaxation import problems

SWEEPS = ("forward", "backward", "symmetric")


def varied(count, m=5, seed=0):
    """Nonsymmetric matrices of one pattern with dominant diagonals, right-hand sides, starts and omegas."""
    rng = np.random.default_rng(seed)
    pattern = problems.laplacian(m, m + 1)
    data = -rng.random((count, pattern.nnz))
    rows = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
    on_diagonal = pattern.indices == rows
    for values in data:
        total = np.bincount(rows, -values * ~on_diagonal)
        values[on_diagonal] = total + 0.05 + 0.3 * rng.random(pattern.shape[0])
    n = pattern.shape[0]
    return (
        (pattern.indptr, pattern.indices, data),
        rng.standard_normal((count, n)),
        rng.standard_normal((count, n)),
        rng.uniform(0.6, 1.5, count),
    )


def dense(arrays, k):
    indptr, indices, data = arrays
    return sp.csr_array((data[k], indices, indptr), shape=(indptr.size - 1,) * 2).toarray()


def shifted(count, m=10, seed=0):
    """Spec problem P1, high variance: shifts of the five-point matrix, balls of right-hand sides."""
    rng = np.random.default_rng(seed)
    shift = -0.15 + 0.6 * rng.beta(0.5, 1.5, count)
    b = rng.standard_normal((count, m * m))
    long = np.linalg.norm(b, axis=1) > m
    while long.any():
        b[long] = rng.standard_normal((int(long.sum()), m * m))
        long = np.linalg.norm(b, axis=1) > m
    mu = np.cos(np.pi / (m + 1)) * 4 / (4 + shift)
    return problems.laplacian(m), shift, b, 2 / (1 + np.sqrt(1 - mu**2))


def same_counts(nit, twin, target):
    """Counts are equal, or differ by one where the twin's residual is within rounding of the target."""
    if nit == twin.nit:
        return True
    near = twin.residuals[min(nit, twin.nit)] / target
    return abs(nit - twin.nit) == 1 and abs(near - 1) < 1e-6


@pytest.mark.parametrize("norm_ref", ["b", "r0"])
@pytest.mark.parametrize("direction", SWEEPS)
def test_twin_with_a_matrix_each(direction, norm_ref):
    arrays, B, x0, omega = varied(21)
    r = sor_batch(arrays, B, x0, omega=omega, sweep=direction, norm_ref=norm_ref, rtol=1e-9)
    assert r.converged
    for k in range(21):
        A = dense(arrays, k)
        twin = oracle.sor(A, B[k], x0[k], omega=omega[k], direction=direction, norm_ref=norm_ref, rtol=1e-9)
        assert twin.status == oracle.CONVERGED
        assert same_counts(r.nit[k], twin, twin.target)
        assert r.target[k] == pytest.approx(twin.target, rel=1e-13)
        if r.nit[k] == twin.nit:
            np.testing.assert_allclose(r.X[k], twin.x, rtol=0, atol=1e-12 * np.abs(twin.x).max())
        true = np.linalg.norm(B[k] - A @ r.X[k])
        assert true <= r.target[k] * (1 + 1e-6)
        assert r.residuals[k] * np.linalg.norm(B[k]) == pytest.approx(true, rel=1e-5)
    assert len(set(r.nit.tolist())) > 3


@pytest.mark.parametrize("direction", SWEEPS)
def test_twin_with_shifts_of_one_matrix(direction):
    A, shift, B, omega = shifted(17)
    r = sor_batch(A, B, omega=omega, shift=shift, sweep=direction)
    assert r.converged
    for k in range(17):
        full = A.toarray() + shift[k] * np.eye(100)
        twin = oracle.sor(full, B[k], np.zeros(100), omega=omega[k], direction=direction)
        assert same_counts(r.nit[k], twin, twin.target)
        if r.nit[k] == twin.nit:
            np.testing.assert_allclose(r.X[k], twin.x, rtol=0, atol=1e-12 * np.abs(twin.x).max())


def test_known_first_sweep():
    with pytest.warns(ConvergenceWarning, match="1 of 1 systems"):
        r = sor_batch(sp.csr_array(problems.SMALL_A), problems.SMALL_B[None], omega=0.5, maxiter=1)
    np.testing.assert_allclose(r.X[0], problems.SMALL_SWEEP, rtol=1e-15)
    assert r.nit[0] == 1
    assert r.status[0] == Status.MAX_ITERATIONS


@pytest.mark.parametrize("maxiter", [0, 1, 2, 7])
@pytest.mark.parametrize("direction", SWEEPS)
def test_sweeps_are_limited(direction, maxiter):
    arrays, B, x0, omega = varied(9)
    with pytest.warns(ConvergenceWarning):
        r = sor_batch(arrays, B, x0, omega=omega, sweep=direction, maxiter=maxiter)
    assert (r.nit == maxiter).all()
    assert (r.status == Status.MAX_ITERATIONS).all()
    for k in range(9):
        x = x0[k]
        for _ in range(maxiter):
            x = oracle.sweep(dense(arrays, k), B[k], x, omega[k], direction)
        np.testing.assert_allclose(r.X[k], x, rtol=0, atol=1e-13 * np.abs(x).max())


def test_the_last_sweep_allowed_counts():
    arrays, B, x0, omega = varied(9)
    free = sor_batch(arrays, B, x0, omega=omega)
    for k in range(9):
        one = ((arrays[0], arrays[1], arrays[2][k : k + 1]), B[k : k + 1], x0[k : k + 1])
        tight = sor_batch(*one, omega=omega[k], maxiter=int(free.nit[k]))
        assert tight.converged
        assert tight.nit[0] == free.nit[k]
        with pytest.warns(ConvergenceWarning):
            less = sor_batch(*one, omega=omega[k], maxiter=int(free.nit[k]) - 1)
        assert less.status[0] == Status.MAX_ITERATIONS
        assert less.nit[0] == free.nit[k] - 1


@pytest.mark.parametrize("direction", SWEEPS)
def test_bits_do_not_depend_on_company(direction):
    arrays, B, x0, omega = varied(45, seed=3)
    r = sor_batch(arrays, B, x0, omega=omega, sweep=direction)
    order = np.random.default_rng(1).permutation(45)
    moved = (arrays[0], arrays[1], arrays[2][order])
    s = sor_batch(moved, B[order], x0[order], omega=omega[order], sweep=direction)
    assert np.array_equal(s.X, r.X[order])
    assert np.array_equal(s.nit, r.nit[order])
    assert np.array_equal(s.residuals, r.residuals[order])
    for k in range(0, 45, 4):
        one = (arrays[0], arrays[1], arrays[2][k : k + 1])
        alone = sor_batch(one, B[k : k + 1], x0[k], omega=omega[k], sweep=direction)
        assert np.array_equal(alone.X[0], r.X[k])
        assert alone.nit[0] == r.nit[k]


def test_bits_do_not_depend_on_threads():
    A, shift, B, omega = shifted(1000, m=6)
    r = sor_batch(A, B, omega=omega, shift=shift, n_threads=1)
    for threads in (2, 3, 5):
        s = sor_batch(A, B, omega=omega, shift=shift, n_threads=threads)
        assert np.array_equal(s.X, r.X)
        assert np.array_equal(s.nit, r.nit)
        assert np.array_equal(s.residuals, r.residuals)


def test_every_instruction_set():
    """The other levels agree with this one up to rounding."""
    program = """
import json
import numpy as np
from tests.relaxation.test_sor_batch import shifted, sor_batch, varied
arrays, B, x0, omega = varied(30)
found = [sor_batch(arrays, B, x0, omega=omega, sweep=s, maxiter=400) for s in ("forward", "backward")]
A, shift, C, w = shifted(30)
found.append(sor_batch(A, C, omega=w, shift=shift))
found.append(sor_batch(A, C, omega=1.0, shift=shift, sweep="symmetric"))
print(json.dumps([(r.nit.tolist(), float(np.abs(r.X).sum()), r.converged) for r in found]))
"""
    results = []
    for level in ("base", "v3", "v4"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "AITKEN_SIMD": level},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0 and "AITKEN_SIMD" in run.stderr and level != "base":
            continue  # this machine has it not
        assert run.returncode == 0, run.stderr
        results.append(json.loads(run.stdout))
    for other in results[1:]:
        for (nit, total, done), (nit0, total0, done0) in zip(other, results[0], strict=True):
            assert done
            assert done0
            assert total == pytest.approx(total0, rel=1e-6)
            assert np.abs(np.subtract(nit, nit0)).max() <= 1
            assert np.mean(np.not_equal(nit, nit0)) < 0.1


def test_ways_to_give_matrices():
    arrays, B, x0, omega = varied(11)
    indptr, indices, data = arrays
    r = sor_batch(arrays, B, x0, omega=omega)
    shape = (indptr.size - 1,) * 2
    matrices = [sp.csr_array((v, indices, indptr), shape=shape) for v in data]
    s = sor_batch(matrices, B, x0, omega=omega)
    t = sor_batch([m.tocoo() for m in matrices], B, x0, omega=omega)
    assert np.array_equal(s.X, r.X)
    assert np.array_equal(t.X, r.X)
    # Three matrices are no (indptr, indices, data).
    three = sor_batch(tuple(matrices[:3]), B[:3], x0[:3], omega=omega[:3])
    assert np.array_equal(three.X, r.X[:3])
    # Unsorted rows, and lists.
    turned, places = indices.copy(), np.arange(indices.size)
    for i in range(indptr.size - 1):
        part = slice(indptr[i], indptr[i + 1])
        turned[part], places[part] = indices[part][::-1], places[part][::-1]
    kept = turned.copy()
    u = sor_batch((indptr.tolist(), turned, data[:, places]), B.tolist(), x0.tolist(), omega=omega.tolist())
    assert np.array_equal(u.X, r.X)
    assert np.array_equal(turned, kept)
    # One matrix in every form.
    A = matrices[0]
    forms = [A, A.toarray(), A.tocsc(), (indptr, indices, data[0]), [A] * 11]
    shared = [sor_batch(form, B, x0, omega=omega) for form in forms]
    for other in shared[1:]:
        assert np.array_equal(other.X, shared[0].X)


def test_a_missing_diagonal_may_come_from_the_shift():
    off = sp.csr_array(np.array([[0.0, 1, 0], [1, 0, -1], [0.5, 0, 0]]))
    B = np.arange(9.0).reshape(3, 3) + 1
    r = sor_batch(off, B, shift=[4.0, 5.0, 6.0])
    for k, d in enumerate([4.0, 5.0, 6.0]):
        np.testing.assert_allclose(r.X[k], np.linalg.solve(off.toarray() + d * np.eye(3), B[k]), rtol=1e-7)
    data = np.stack([off.data, 2 * off.data, 0 * off.data])
    s = sor_batch((off.indptr, off.indices, data), B, shift=5.0)
    for k in range(3):
        full = [1, 2, 0][k] * off.toarray() + 5 * np.eye(3)
        np.testing.assert_allclose(s.X[k], np.linalg.solve(full, B[k]), rtol=1e-7)


def test_nothing_to_do():
    arrays, B, x0, omega = varied(10)
    B[3] = 0
    x0[5] = np.linalg.solve(dense(arrays, 5), B[5])
    for direction in SWEEPS:
        r = sor_batch(arrays, B, x0, omega=omega, sweep=direction)
        assert r.converged
        assert r.nit[3] == 0
        assert not r.X[3].any()
        assert r.residuals[3] == 0
        assert r.nit[5] == 0
        assert np.array_equal(r.X[5], x0[5])
        assert (np.delete(r.nit, [3, 5]) > 5).all()
    loose = sor_batch(arrays, B, x0, omega=omega, rtol=0.0, atol=1e9)
    assert (loose.nit == 0).all()
    assert np.array_equal(np.delete(loose.X, 3, 0), np.delete(x0, 3, 0))


def test_one_bad_system_spoils_no_other():
    arrays, B, x0, omega = varied(40, seed=5)
    good = sor_batch(arrays, B, x0, omega=omega)
    indptr, indices, data = arrays[0], arrays[1], arrays[2].copy()
    place = {k: int(indptr[k] + np.flatnonzero(indices[indptr[k] : indptr[k + 1]] == k)[0]) for k in range(9)}
    data[4, place[2]] = 0
    data[11, place[8]] = np.nan
    data[12, place[0] + 1] = np.nan
    data[20] *= np.where(np.arange(data.shape[1]) == place[5], 1, 40)  # far from dominant in row 5
    B = B.copy()
    B[30, 1] = np.inf
    with pytest.warns(ConvergenceWarning, match="5 of 40 systems") as caught:
        r = sor_batch((indptr, indices, data), B, x0, omega=omega, check_finite=False)
    assert len(caught) == 1
    bad = {4: Status.BREAKDOWN, 11: Status.BREAKDOWN, 12: Status.NONFINITE, 30: Status.NONFINITE}
    for k, status in bad.items():
        assert r.status[k] == status
        assert r.nit[k] == 0
        assert np.array_equal(r.X[k], x0[k])
    assert r.status[20] == Status.DIVERGED
    assert 0 < r.nit[20] < 10000
    rest = np.setdiff1d(np.arange(40), [*bad, 20])
    assert (r.status[rest] == Status.CONVERGED).all()
    assert np.array_equal(r.X[rest], good.X[rest])
    assert np.array_equal(r.nit[rest], good.nit[rest])


@pytest.mark.parametrize("direction", SWEEPS)
def test_divergence_is_found_when_the_twin_finds_it(direction):
    rng = np.random.default_rng(2)
    A = rng.standard_normal((8, 8))
    B = rng.standard_normal((5, 8))
    with pytest.warns(ConvergenceWarning, match="grew"):
        r = sor_batch(sp.csr_array(A), B, omega=1.9, sweep=direction)
    for k in range(5):
        twin = oracle.sor(A, B[k], np.zeros(8), omega=1.9, direction=direction)
        assert twin.status == oracle.DIVERGED
        assert r.status[k] == Status.DIVERGED
        assert r.nit[k] == twin.nit
        assert np.array_equal(r.X[k], twin.x)
        assert r.residuals[k] == pytest.approx(1.0)


def test_tiny_and_huge_right_hand_sides():
    A, shift, B, omega = shifted(4)
    plain = sor_batch(A, B, omega=omega, shift=shift)
    for factor in (2.0**-600, 2.0**500):
        r = sor_batch(A, factor * B, omega=omega, shift=shift)
        assert r.converged
        assert (r.nit > 10).all()
        np.testing.assert_allclose(r.X / factor, plain.X, rtol=1e-5, atol=1e-7 * np.abs(plain.X).max())


def test_residual_that_comes_back():
    """A system that passes and is lost again by the sweep after goes on until its answer passes."""
    # Far from normal: the residual rises and falls.
    A = np.array([[1.0, 0.0, 0.0], [-3.0, 1.0, 0.0], [0.0, -3.0, 1.0]])[::-1, ::-1].copy()
    rng = np.random.default_rng(0)
    seen_later = 0
    for _ in range(60):
        b, start = rng.standard_normal(3), 5 * rng.standard_normal(3)
        for rtol in (0.5, 0.2, 0.05):
            r = sor_batch(A, b[None], start, omega=0.5, rtol=rtol)
            twin = oracle.sor(A, b, start, omega=0.5, rtol=rtol)
            assert r.nit[0] == twin.nit
            assert r.status[0] == twin.status
            assert np.linalg.norm(b - A @ r.X[0]) <= r.target[0]
            first = next(i for i, v in enumerate(twin.residuals) if v <= twin.target)
            seen_later += first < twin.nit
    assert seen_later > 0


def test_ten_thousand_copies():
    A, shift, B, omega = shifted(10_000)
    r = sor_batch(A, B, omega=omega, shift=shift, norm_ref="r0")
    assert r.converged
    R = B - (A @ r.X.T).T - shift[:, None] * r.X
    assert (np.linalg.norm(R, axis=1) <= r.target * (1 + 1e-6)).all()
    assert 54.5 < r.nit.mean() < 58.0  # the tabulated mean of Young's omega is 56.2


def test_arguments_are_not_written_to():
    arrays, B, x0, omega = varied(6)
    copies = [a.copy() for a in (*arrays, B, x0, omega)]
    sor_batch(arrays, B, x0, omega=omega, shift=np.zeros(6))
    for a, copy in zip((*arrays, B, x0, omega), copies, strict=True):
        assert np.array_equal(a, copy)


A3 = sp.csr_array(np.diag([2.0, 3.0, 4.0]) + 0.5 * np.eye(3, k=1))
B3 = np.ones((2, 3))


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (ValueError, "`omega`.*2.0 for system 0", (A3, B3), {"omega": 2.0}),
        (ValueError, "`omega`.*0.0 for system 1", (A3, B3), {"omega": [1.0, 0.0]}),
        (ValueError, "`omega`.*shape", (A3, B3), {"omega": [1.0, 1.0, 1.0]}),
        (ValueError, "`omega`.*non-finite", (A3, B3), {"omega": np.nan}),
        (ValueError, r"`shift`.*shape \(3,\)", (A3, B3), {"shift": [1.0, 1.0, 1.0]}),
        (ValueError, "`shift`.*non-finite", (A3, B3), {"shift": [np.inf, 0.0]}),
        (ValueError, r"`B`.*\(3,\)", (A3, np.ones(3)), {}),
        (ValueError, "`B`.*length 4", (A3, np.ones((2, 4))), {}),
        (ValueError, "`B`.*must be a system", (A3, np.ones((0, 3))), {}),
        (ValueError, "`B`.*nan", (A3, np.full((2, 3), np.nan)), {}),
        (TypeError, "`B`.*complex", (A3, B3 + 1j), {}),
        (TypeError, "`A`.*complex", (A3 * 1j, B3), {}),
        (ValueError, r"`A`.*\(2, 3\)", (A3[:2], B3), {}),
        (ValueError, r"`A`.*3 matrices.*\(2, 3\)", ([A3] * 3, B3), {}),
        (ValueError, r"`A\[1\]`.*different patterns", ([A3, sp.eye_array(3)], B3), {}),
        (TypeError, "`A`.*operator", (LinearOperator((3, 3), matvec=A3.dot), B3), {}),
        (ValueError, "`data`.*row per system", ((A3.indptr, A3.indices, np.ones((3, 5))), B3), {}),
        (ValueError, "`data`.*length 5", ((A3.indptr, A3.indices, np.ones(4)), B3), {}),
        (ValueError, "`indptr`.*length 3", ((A3.indptr[:-1], A3.indices, A3.data), B3), {}),
        (ValueError, "`indices`.*outside", ((A3.indptr, A3.indices + 2, A3.data), B3), {}),
        (ValueError, r"`x0`.*\(3, 3\)", (A3, B3, np.ones((3, 3))), {}),
        (ValueError, "`x0`.*inf", (A3, B3, np.full(3, np.inf)), {}),
        (ValueError, "`rtol`", (A3, B3), {"rtol": -1.0}),
        (ValueError, "`maxiter`", (A3, B3), {"maxiter": -1}),
        (TypeError, "`maxiter`", (A3, B3), {"maxiter": 1.5}),
        (ValueError, "`sweep`.*did you mean 'forward'", (A3, B3), {"sweep": "forwards"}),
        (ValueError, "`norm_ref`", (A3, B3), {"norm_ref": "x"}),
        (TypeError, "`check_finite`", (A3, B3), {"check_finite": 1}),
        (TypeError, "`n_threads`", (A3, B3), {"n_threads": 1.5}),
    ],
)
def test_bad_input(error, match, arguments, options):
    with pytest.raises(error, match=match):
        sor_batch(*arguments, **options)


def test_devices_are_not_mixed():
    class Array:  # looks like CuPy's
        __cuda_array_interface__ = {"shape": (2, 3)}  # noqa: RUF012
        shape = (2, 3)

    for options in ({"x0": Array()}, {"omega": Array()}, {"shift": Array()}):
        with pytest.raises(TypeError, match="is on CUDA device 0"):
            sor_batch(A3, np.ones((2, 3)), **options)


def test_twin_solves():
    """The oracle's answer is that of a dense solve, and its sweep is the matrix iteration."""
    arrays, B, x0, omega = varied(3)
    for k in range(3):
        A = dense(arrays, k)
        D, L, U = np.diag(np.diag(A)), np.tril(A, -1), np.triu(A, 1)
        r = B[k] - A @ x0[k]
        forward = x0[k] + np.linalg.solve(D / omega[k] + L, r)
        np.testing.assert_allclose(oracle.sweep(A, B[k], x0[k], omega[k], "forward"), forward, rtol=1e-12)
        backward = x0[k] + np.linalg.solve(D / omega[k] + U, r)
        np.testing.assert_allclose(oracle.sweep(A, B[k], x0[k], omega[k], "backward"), backward, rtol=1e-12)
        for direction in SWEEPS:
            found = oracle.sor(A, B[k], x0[k], omega=omega[k], direction=direction, rtol=1e-12)
            np.testing.assert_allclose(found.x, np.linalg.solve(A, B[k]), rtol=1e-9, atol=1e-10)


def test_interrupt_ends_a_long_batch():
    """Ctrl-C is noticed within a batch that would take minutes."""
    program = """
import signal, threading, time, os
import numpy as np
from tests.relaxation.test_sor_batch import shifted, sor_batch
A, shift, B, omega = shifted(3000)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
start = time.perf_counter()
try:
    sor_batch(A, B, omega=0.001, maxiter=10**7, rtol=1e-14, shift=shift)
except KeyboardInterrupt:
    print("interrupted", time.perf_counter() - start)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout.startswith("interrupted"), run.stderr
    assert float(run.stdout.split()[1]) < 3


def test_converged_batches_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sor_batch(A3, B3).converged
