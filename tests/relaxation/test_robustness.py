"""Relaxation and tuned sequences at odd sizes and scales, with signals, threads and unruly callbacks."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import scipy.sparse as sp

from aitken import ConvergenceWarning, Status
from aitken.datasets import HeatSequence
from aitken.linalg import RelaxationSolver, solve_sequence, sor, sor_batch, ssor_cg
from aitken.tune import BanditTuner, SORTuner

SOLVERS = (sor, ssor_cg)


def line(n, diagonal=2.5):
    return sp.csr_array(sp.diags_array([-1.0, diagonal, -1.0], offsets=[-1, 0, 1], shape=(n, n)))


def certificate(A, b, result):
    return np.linalg.norm(b - A @ result.x) / np.linalg.norm(b)


def arrow(n):
    """Full rows and columns at both ends and in the middle, symmetric positive definite."""
    i = np.arange(n)
    rows, cols, values = [i], [i], [np.full(n, 8.0)]
    for k in (0, n // 2, n - 1):
        others = np.delete(i, k)
        rows += [np.full(n - 1, k), others]
        cols += [others, np.full(n - 1, k)]
        values += [np.full(n - 1, 1.0 / n)] * 2
    coo = sp.coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=(n, n))
    return sp.csr_array(coo)


class TestOddInputs:
    @pytest.mark.parametrize("solve", SOLVERS)
    def test_nothing_and_one(self, solve):
        empty = solve(sp.csr_array((0, 0)), np.zeros(0))
        assert empty.converged
        assert empty.x.shape == (0,)
        one = solve(np.array([[4.0]]), np.array([3.0]))
        assert one.converged
        assert one.x[0] == 0.75

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_forms_of_the_same_system(self, solve):
        A, b = line(60), np.linspace(1, 2, 60)
        plain = solve(A, b)
        shuffled = A.tocoo()
        order = np.random.default_rng(0).permutation(shuffled.nnz)
        twice = np.r_[order, order]
        halves = sp.coo_array(
            (shuffled.data[twice] / 2, (shuffled.row[twice], shuffled.col[twice])), shape=A.shape
        )
        wide = A.copy()
        wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
        strided = np.repeat(b, 2)[::2]
        strided.flags.writeable = False
        swapped = sp.csr_array((A.data.astype(">f8"), A.indices, A.indptr), shape=A.shape)
        for matrix, rhs in (
            (sp.csr_array(halves), b),
            (wide, b),
            (A, strided),
            (swapped, b.astype(">f8")),
            (A, b[:, None]),
        ):
            result = solve(matrix, rhs)
            assert result.nit == plain.nit
            assert np.array_equal(np.asarray(result.x).ravel(), plain.x)

    @pytest.mark.parametrize("order", ["natural", "multicolor", "blocks"])
    def test_full_rows_and_columns(self, order):
        A, b = arrow(20_000), np.ones(20_000)
        begin = time.perf_counter()
        for solve in SOLVERS:
            result = solve(A, b, order=order)
            assert result.converged
            assert certificate(A, b, result) <= 1e-8
        assert time.perf_counter() - begin < 5

    @pytest.mark.parametrize("order", ["natural", "multicolor", "blocks", "given"])
    @pytest.mark.parametrize("sweep", ["forward", "backward", "symmetric"])
    @pytest.mark.parametrize("check_every", [None, 1, 7])
    def test_unsymmetric_patterns(self, order, sweep, check_every):
        rng = np.random.default_rng(1)
        A = sp.random_array((300, 300), density=0.02, rng=rng, format="csr")
        A = sp.csr_array(A + sp.diags_array(np.abs(A).sum(axis=1) + 0.1))
        b = rng.standard_normal(300)
        given = rng.permutation(300) if order == "given" else order
        result = sor(A, b, order=given, sweep=sweep, check_every=check_every)
        assert result.converged
        assert certificate(A, b, result) <= 1e-8

    def test_nearly_a_stencil(self):
        T = line(40, 2.0)
        A = sp.csr_array(sp.kronsum(T, T))
        b = np.random.default_rng(0).standard_normal(1600)
        solver = RelaxationSolver("sor", order="redblack")
        exact = solver.solve(A, b, omega=1.8)
        moved = A.copy()
        moved.data[777] = np.nextafter(moved.data[777], 0)
        other = solver.solve(moved, b, omega=1.8)  # by the layout of a general matrix
        assert other.nit == exact.nit
        assert certificate(moved, b, other) <= 1e-8
        again = solver.solve(A, b, omega=1.8)
        assert np.array_equal(again.x, exact.x)


class TestScales:
    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e150, 1e160, 1e200, 1e300])
    @pytest.mark.parametrize("sweep", ["forward", "backward", "symmetric"])
    def test_batches_of_any_size_of_number(self, scale, sweep):
        A, B = line(50), np.ones((9, 50))
        plain = sor_batch(A, B, sweep=sweep)
        scaled = sor_batch(A, B * scale, sweep=sweep)
        assert scaled.converged
        assert plain.converged
        for x in scaled.X:
            assert np.linalg.norm(1 - A @ (x / scale)) <= 1e-8 * np.sqrt(50)

    def test_batches_that_blow_up_still_end(self):
        A = line(50, 0.9)
        with pytest.warns(ConvergenceWarning):
            result = sor_batch(A, np.ones((5, 50)) * 1e200)
        assert (result.status == Status.DIVERGED).all()
        assert np.array_equal(result.X, np.zeros((5, 50)))
        assert result.nit.max() < 200

    @pytest.mark.parametrize("scale", [1e-290, 1e290])
    def test_sor_of_scaled_matrices(self, scale):
        A, b = line(50), np.ones(50)
        plain, scaled = sor(A, b), sor(A * scale, b)
        assert scaled.nit == plain.nit
        assert np.allclose(scaled.x * scale, plain.x, rtol=1e-6)


class TestCallbacks:
    @pytest.mark.parametrize("method", ["sor", "ssor_cg"])
    def test_one_that_uses_its_own_solver(self, method):
        """An error, where waiting for oneself would be for ever."""
        A, b = line(50), np.ones(50)
        solver = RelaxationSolver(method)

        def callback(xk):
            solver.solve(A, b)

        with pytest.raises(RuntimeError):
            solver.solve(A, b, callback=callback)
        assert solver.solve(A, b).converged

    @pytest.mark.parametrize("solve", SOLVERS)
    @pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
    def test_one_that_raises(self, solve, error):
        def callback(xk):
            raise error("mine")

        with pytest.raises(error, match="mine"):
            solve(line(50), np.ones(50), callback=callback)


def _interrupted_after(call, delay=0.3):
    """Seconds from the signal to the exception."""
    sent = []

    def send():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay, send)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        timer.cancel()
        timer.join()
    return time.perf_counter() - sent[0]


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to the process itself")
class TestInterrupts:
    @pytest.mark.parametrize("n_threads", [1, 2])
    def test_solvers(self, n_threads):
        A, b = line(30_000, 2.0), np.ones(30_000)
        calls = (
            lambda: sor(A, b, maxiter=10**7, n_threads=n_threads),
            lambda: ssor_cg(A, b, rtol=1e-15, maxiter=10**7, n_threads=n_threads),
        )
        for call in calls:
            assert _interrupted_after(call) < 1

    def test_batch_whose_last_systems_are_another_threads(self):
        """The caller's thread, done with its own systems, still hears of the signal."""
        A = line(20_000, 2.0)
        B = np.zeros((16, 20_000))
        for hard in (slice(0, 8), slice(8, 16)):
            B[:] = 0
            B[hard] = 1
            assert _interrupted_after(lambda: sor_batch(A, B, maxiter=10**6, n_threads=2)) < 1

    def test_an_arm_is_not_blamed_for_ctrl_c(self):
        tuner = SORTuner(rng=0)
        A, b = line(100), np.ones(100)

        def solver(A, b, x0=None, omega=1.0):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            solve_sequence([(A, b)] * 3, solver=solver, tuner=tuner)
        assert tuner.stats["observations"] == tuner.stats["failures"] == tuner.stats["in_flight"] == 0
        assert tuner.stats["discarded"] == 1

        def fails(A, b, x0=None, omega=1.0):
            raise ArithmeticError("mine")

        with pytest.raises(ArithmeticError, match="mine"):
            solve_sequence([(A, b)] * 3, solver=fails, tuner=tuner)
        assert tuner.stats["failures"] == 1
        assert tuner.stats["in_flight"] == 0


class TestTunedSequences:
    @pytest.mark.parametrize("method", ["gp", "tsallis", "thompson"])
    def test_contexts_that_a_tuner_does_not_take(self, method):
        heat = HeatSequence(nx=12, n_steps=5)
        tuner = SORTuner(method=method, rng=0)
        result = solve_sequence(heat, tuner=tuner)
        assert result.converged
        assert np.array_equal(result.contexts, heat.contexts[:5])
        assert solve_sequence(heat, tuner=method).converged
        assert solve_sequence(heat, tuner=method, context=heat.contexts).converged

    def test_contexts_of_triples_make_the_range(self):
        systems = [(line(40, 2.1 + c), np.ones(40), c) for c in (0.0, 0.7, 0.3, 2.0)]
        for method in ("gp", "chebcb", "tsallis-cb"):
            result = solve_sequence(systems, tuner=method)
            assert result.converged
            assert result.tuner.context == (0.0, 2.0)
            assert result.tuner.stats["clipped"] == 0

    def test_runaway_solves_end_where_costs_are_no_iterations(self):
        """A bad arm costs a bounded number of iterations."""
        A, b = line(400, 2.01), np.ones(400)
        good = sor(A, b, omega=1.82).nit
        assert sor(A, b, omega=1.0).nit > 9 * good
        tuner = BanditTuner([1.82, 1.0], rng=0, fixed_first=(1.82, 15))
        nits = []
        result = solve_sequence(
            [(A, b)] * 24,
            solver="sor",
            tuner=tuner,
            cost="work",
            x0=None,
            callback=lambda i, r: nits.append(r.nit),
        )
        assert result.converged
        bad = [nit for nit, omega in zip(nits, result.params, strict=True) if omega == 1.0]
        assert len(bad) >= 1
        # Three times the usual cost, then the rest with the good arm.
        assert max(bad) < 7 * good

    def test_systems_of_changing_pattern(self):
        systems = []
        for k in range(1, 7):
            off = 0.1 * sp.eye_array(30, k=k) + 0.1 * sp.eye_array(30, k=-k)
            systems.append((sp.csr_array(line(30) + off), np.ones(30)))
        result = solve_sequence(systems, tuner="gp")
        assert result.converged
        for (A, b), x in zip(systems, result.X, strict=True):
            assert np.linalg.norm(b - A @ x) <= 1e-8 * np.linalg.norm(b)

    def test_sizes_that_change(self):
        systems = [(line(n), np.ones(n)) for n in (10, 20, 1, 30)]
        assert solve_sequence(systems, tuner="gp", x0=None, keep=False).converged
        with pytest.raises(ValueError, match="`x0` has shape"):
            solve_sequence(systems, tuner="gp")

    def test_generators_that_raise_leave_nothing_in_flight(self):
        def systems():
            for i in range(5):
                if i == 3:
                    raise LookupError("mine")
                yield line(50), np.ones(50)

        tuner = SORTuner(rng=0)
        with pytest.raises(LookupError, match="mine"):
            solve_sequence(systems(), tuner=tuner)
        assert tuner.stats["observations"] == 3
        assert tuner.stats["in_flight"] == 0

    def test_threads_share_a_tuner(self):
        tuner, failures = SORTuner(rng=0), []

        def work():
            try:
                assert solve_sequence([(line(100), np.ones(100))] * 20, tuner=tuner).converged
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert tuner.stats["observations"] == 80
        assert tuner.stats["in_flight"] == 0
