"""`sor`: counts, bits, orders, rules for omega, ends, inputs."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator

from aitken import ConvergenceWarning, Status
from aitken.linalg import RelaxationSolver, sor
from tests.oracles import relaxation as oracle
from tests.relaxation import problems

SWEEPS = ("forward", "backward", "symmetric")


def _rough(n: int, seed: int) -> sp.csr_array:
    """An M-matrix without any structure, nonsymmetric in pattern and values."""
    rng = np.random.default_rng(seed)
    A = sp.random_array((n, n), density=min(1.0, 4 / n), rng=rng, format="csr")
    A.data *= -1
    A = A - sp.diags_array(A.diagonal())
    return sp.csr_array(A + sp.diags_array(-A.sum(axis=1) + 0.1 + rng.random(n)))


def _rhs(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def test_the_example_of_the_books():
    A = np.array([[4, -1, -6, 0], [-5, -4, 10, 8], [0, 9, 4, -2], [1, 0, -7, 5.0]])
    b = np.array([2, 21, -12, -6.0])
    with pytest.warns(ConvergenceWarning):
        first = sor(A, b, omega=0.5, maxiter=1)
    np.testing.assert_array_equal(first.x, [0.25, -2.78125, 1.62890625, 0.515234375])
    np.testing.assert_allclose(sor(A, b, omega=0.5, rtol=1e-12).x, [3, -2, 2, 1], atol=1e-10)


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("omega", [0.7, 1.0, 1.4, 1.66, 1.9])
def test_counts_are_the_oracles(sweep, omega):
    A = problems.laplacian(10)
    for seed in range(3):
        b = _rhs(100, seed)
        ours = sor(A, b, omega=omega, sweep=sweep, order="natural")
        theirs = oracle.sor(A, b, omega=omega, direction=sweep)
        assert abs(ours.nit - theirs.nit) <= 1
        steps = min(len(ours.residuals), len(theirs.residuals))
        np.testing.assert_allclose(
            ours.residuals[:steps], theirs.residuals[:steps], rtol=1e-9, atol=1e-14 * theirs.residuals[0]
        )
        assert np.linalg.norm(A @ ours.x - b) <= 1e-8 * np.linalg.norm(b)


@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    omega=st.floats(0.3, 1.2),
    sweep=st.sampled_from(SWEEPS),
)
def test_unstructured_matrices(n, seed, omega, sweep):
    A, b = _rough(n, seed), _rhs(n, seed)
    rows = np.random.default_rng(seed).permutation(n)
    for order in ("natural", "multicolor", "blocks", rows):
        ours = sor(A, b, omega=omega, sweep=sweep, order=order, rtol=1e-10)
        assert ours.converged
        if not isinstance(order, str) or order == "natural":
            given_rows = rows if not isinstance(order, str) else None
            theirs = oracle.sor(A, b, omega=omega, direction=sweep, rows=given_rows, rtol=1e-10)
            assert abs(ours.nit - theirs.nit) <= 1
        np.testing.assert_allclose(A @ ours.x, b, atol=1e-9 * max(1, np.linalg.norm(b)))


def _serial(A, b, omega, sweeps, backward=False):
    """The sweep by its definition, row by row; without fused multiply-adds."""
    n, x = len(b), np.zeros(len(b))
    inverse = 1.0 / A.diagonal()
    for _ in range(sweeps):
        for i in range(n - 1, -1, -1) if backward else range(n):
            total = 0.0
            for p in range(A.indptr[i], A.indptr[i + 1]):
                if A.indices[p] != i:
                    total += A.data[p] * x[A.indices[p]]
            x[i] += omega * ((b[i] - total) * inverse[i] - x[i])
    return x


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("make", [lambda: problems.laplacian(13), lambda: problems.nine_point(11)])
def test_levels_do_what_a_serial_sweep_does(make, backward):
    # Powers of two make every product exact, so that fused and separate multiply-adds agree to the bit.
    A = make()
    A.data = np.sign(A.data) * 2.0 ** np.round(np.log2(np.abs(A.data)))
    b = np.round(_rhs(A.shape[0]) * 2**10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = sor(
            A,
            b,
            omega=1.5,
            maxiter=4,
            order="natural",
            rtol=1e-300,
            sweep="backward" if backward else "forward",
        )
    np.testing.assert_array_equal(ours.x, _serial(A, b, 1.5, 4, backward))


@pytest.mark.parametrize("order", ["natural", "redblack", "multicolor", "blocks"])
def test_bits_do_not_depend_on_the_threads(order):
    A = problems.laplacian(190)  # levels wide enough for two threads in the orders by colour
    b = _rhs(A.shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [sor(A, b, omega=1.8, order=order, maxiter=20, n_threads=t) for t in (1, 2, 3)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].x, other.x)
        np.testing.assert_array_equal(found[0].residuals, other.residuals)


def test_red_black_is_natural_on_the_permuted_matrix():
    A, b = problems.laplacian(12), _rhs(144)
    rows = oracle.by_colour(oracle.two_colours(A))
    ours = sor(A, b, omega=1.5, order="redblack")
    permuted = sor(sp.csr_array(A[rows][:, rows]), b[rows], omega=1.5, order="natural")
    assert ours.nit == permuted.nit
    np.testing.assert_allclose(ours.x[rows], permuted.x, rtol=1e-12)
    np.testing.assert_allclose(ours.x, sor(A, b, omega=1.5, order=rows).x, rtol=1e-12)


def test_stencils_are_swept_as_such_with_the_same_counts():
    for A in (problems.laplacian(30), problems.seven_point(9)):
        b = _rhs(A.shape[0])
        solver = RelaxationSolver("sor", order="redblack")
        found = solver.solve(A, b, omega=1.6)
        rough = A.copy()
        rough.data[3] *= 1 + 1e-14  # no stencil any more
        general = sor(rough, b, omega=1.6, order="redblack")
        assert abs(found.nit - general.nit) <= 1
        np.testing.assert_allclose(found.x, general.x, rtol=1e-6, atol=1e-6)


def test_asymptotic_rate_is_the_theorys():
    A, b = problems.laplacian(10), _rhs(100)
    mu = np.cos(np.pi / 11)
    for omega in (1.0, 1.3, 1.5, 1.75, 1.9):
        r = sor(A, b, omega=omega, rtol=1e-12)
        tail = len(r.residuals) // 3
        rate = (r.residuals[-1] / r.residuals[-1 - tail]) ** (1 / tail)
        assert rate == pytest.approx(oracle.sor_rate(omega, mu), rel=0.012)


def test_shift_is_the_shifted_matrix():
    A, b = problems.laplacian(10), _rhs(100)
    for shift in (-0.1, 0.0, 0.4):
        ours = sor(A, b, omega=1.6, shift=shift)
        explicit = sor(sp.csr_array(A + shift * sp.eye_array(100)), b, omega=1.6)
        np.testing.assert_array_equal(ours.x, explicit.x)
        assert ours.true_residual == explicit.true_residual


# ----------------------------------------------------------------------------------------------------- omega


def test_young_finds_the_optimum():
    A, b = problems.laplacian(10), _rhs(100)
    r = sor(A, b, omega="young")
    mu = np.cos(np.pi / 11)
    assert r.mu_estimate == pytest.approx(mu, abs=2e-3)
    assert r.omega_used == pytest.approx(oracle.young_omega(mu), abs=0.02)
    best = min(sor(A, b, omega=w).nit for w in np.linspace(1, 1.95, 39))
    assert r.nit <= best + 4


def test_young_is_estimated_once_per_matrix():
    A, b = problems.laplacian(20), _rhs(400)
    solver = RelaxationSolver("sor")
    first = solver.solve(A, b, omega="young")
    again = solver.solve(A, b, omega="young")
    other = solver.solve(sp.csr_array(2 * A), b, omega="young")
    assert again.matvecs < first.matvecs == other.matvecs
    assert again.omega_used == first.omega_used == pytest.approx(other.omega_used)


def test_adaptive_is_the_oracles():
    A = problems.laplacian(10)
    for seed in range(4):
        b = _rhs(100, seed)
        ours, theirs = sor(A, b, omega="adaptive", order="natural"), oracle.sor(A, b, omega="adaptive")
        assert abs(ours.nit - theirs.nit) <= 1
        assert ours.omega_used == pytest.approx(theirs.omega, abs=1e-6)
        assert ours.mu_estimate == pytest.approx(theirs.mu, abs=1e-6)


# ------------------------------------------------------------------------------------------------------ ends


def test_nothing_to_do():
    A, b = problems.laplacian(6), _rhs(36)
    x = np.linalg.solve(A.toarray(), b)
    r = sor(A, b, x)
    assert (r.nit, r.sweeps, r.info) == (0, 0, 0)
    np.testing.assert_array_equal(r.x, x)
    zero = sor(A, np.zeros(36), b)
    assert (zero.nit, zero.converged) == (0, True)
    np.testing.assert_array_equal(zero.x, 0)


def test_reference_of_the_tolerance():
    A, b = problems.laplacian(10), _rhs(100)
    near = np.linalg.solve(A.toarray(), b) + 1e-3 * _rhs(100, 1)
    by_b = sor(A, b, near, omega=1.5, rtol=1e-6)
    by_r0 = sor(A, b, near, omega=1.5, rtol=1e-6, norm_ref="r0")
    assert by_b.nit < by_r0.nit
    assert by_r0.true_residual <= 1e-6 * np.linalg.norm(b - A @ near)


@pytest.mark.parametrize("every", [1, 3, 10])
def test_looking_less_often(every):
    A, b = problems.laplacian(10), _rhs(100)
    exact = sor(A, b, omega=1.5).nit
    r = sor(A, b, omega=1.5, check_every=every)
    assert r.nit % every == 0
    assert exact <= r.nit < exact + every


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("every", [None, 4])
def test_divergence_is_seen(sweep, every):
    A = np.array([[1.0, 3.0], [4.0, 1.0]])
    x0 = np.array([0.5, 0.25])
    with pytest.warns(ConvergenceWarning, match="sor"):
        r = sor(A, np.ones(2), x0, omega=1.9, sweep=sweep, check_every=every)
    assert r.status == Status.DIVERGED
    assert r.info < 0
    assert r.sweeps < 200
    np.testing.assert_array_equal(r.x, x0)
    assert r.true_residual == pytest.approx(np.linalg.norm(1 - A @ x0))


def test_the_limit_is_kept():
    A, b = problems.laplacian(10), _rhs(100)
    exact = sor(A, b, omega=1.5)
    with pytest.warns(ConvergenceWarning):
        r = sor(A, b, omega=1.5, maxiter=exact.nit - 1)
    assert (r.status, r.sweeps) == (Status.MAX_ITERATIONS, exact.nit - 1)
    assert sor(A, b, omega=1.5, maxiter=exact.nit).converged


def test_complex_matrices():
    rng = np.random.default_rng(0)
    A = problems.laplacian(7) + 1j * sp.diags_array(rng.random(49))
    b = _rhs(49) + 1j * _rhs(49, 1)
    for sweep in SWEEPS:
        r = sor(A, b, omega=1.2, sweep=sweep)
        assert r.converged
        np.testing.assert_allclose(r.x, np.linalg.solve(A.toarray(), b), rtol=1e-6)
    real = sor(problems.laplacian(7), _rhs(49), omega=1.2)
    assert sor(problems.laplacian(7).astype(complex), _rhs(49), omega=1.2).nit == real.nit


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_zero_on_the_diagonal_is_named(value):
    A = problems.laplacian(5).tolil()
    A[7, 7] = value
    error = np.linalg.LinAlgError if value == 0 else ValueError
    with pytest.raises(error, match="row 7"):
        sor(A.tocsr(), np.ones(25))
    missing = problems.laplacian(5).tocoo()
    keep = ~((missing.row == missing.col) & (missing.row == 3))
    with pytest.raises(np.linalg.LinAlgError, match="row 3"):
        sor(sp.csr_array((missing.data[keep], (missing.row[keep], missing.col[keep]))), np.ones(25))
    with pytest.raises(np.linalg.LinAlgError, match="row 0"):
        sor(problems.laplacian(5), np.ones(25), shift=-4.0)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "`omega`.*0", {"omega": 0.0}),
        (ValueError, "`omega`.*2", {"omega": 2.0}),
        (ValueError, "`omega`.*nan", {"omega": np.nan}),
        (ValueError, "`omega` must be one of.*'best'", {"omega": "best"}),
        (ValueError, "`omega` must be one of.*'axelsson'", {"omega": "axelsson"}),
        (TypeError, "`omega`", {"omega": None}),
        (ValueError, "`omega` is 'adaptive'", {"omega": "adaptive", "sweep": "symmetric"}),
        (ValueError, "`sweep` must be one of", {"sweep": "both"}),
        (ValueError, "`order` must be one of", {"order": "random"}),
        (ValueError, "`order` is no permutation", {"order": [0] * 25}),
        (ValueError, "`order` has length 3; 25", {"order": [2, 0, 1]}),
        (TypeError, "`order`", {"order": 3.5}),
        (ValueError, "`check_every`", {"check_every": 0}),
        (ValueError, "`norm_ref` must be one of", {"norm_ref": "x"}),
        (ValueError, "`shift`", {"shift": np.inf}),
        (ValueError, "`maxiter`", {"maxiter": 0}),
    ],
)
def test_options_are_named(error, match, options):
    with pytest.raises(error, match=match):
        sor(problems.laplacian(5), np.ones(25), **options)


def test_matrices_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`A` has shape \(3, 4\)"):
        sor(np.ones((3, 4)), np.ones(3))
    with pytest.raises(TypeError, match="`A` is an operator"):
        sor(LinearOperator((3, 3), lambda x: x), np.ones(3))
    with pytest.raises(ValueError, match="odd cycle"):
        sor(np.array([[3.0, 1, 1], [1, 3, 1], [1, 1, 3]]), np.ones(3), order="redblack")
    with pytest.raises(ValueError, match=r"`b` has shape \(25, 2\)"):
        sor(problems.laplacian(5), np.ones((25, 2)))
    with pytest.raises(ValueError, match="diagonal of row 0 is not positive"):
        sor(-problems.laplacian(5), np.ones(25), omega="young")


def test_refused_values_leave_the_solver_usable():
    A, b = problems.laplacian(5), np.ones(25)
    solver = RelaxationSolver("sor")
    good = solver.solve(A, b, omega=1.2)
    bad = A.copy()
    bad.data[0] = 0.0
    with pytest.raises(np.linalg.LinAlgError, match="row 0"):
        solver.solve(bad, b, omega=1.2)
    np.testing.assert_array_equal(solver.solve(A, b, omega=1.2).x, good.x)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e155, 1e250])
@pytest.mark.parametrize("method", ["sor", "ssor_cg"])
def test_very_large_and_very_small_numbers(size, method):
    A, b = problems.laplacian(8), _rhs(64)
    solver = RelaxationSolver(method, atol=1e-12 * size)
    plain = RelaxationSolver(method, atol=1e-12).solve(A, b, 0.5 * b, omega=1.4)
    seen = []
    r = solver.solve(A, size * b, 0.5 * size * b, omega=1.4, callback=lambda x: seen.append(x))
    assert r.converged
    assert r.nit == plain.nit == len(seen)
    np.testing.assert_allclose(r.x / size, plain.x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(seen[-1] / size, plain.x, rtol=1e-6, atol=1e-9)
    assert r.target == pytest.approx(size * plain.target, rel=1e-9)


def test_one_solver_in_several_threads():
    matrices = [sp.csr_array(problems.laplacian(12) + c * sp.eye_array(144)) for c in (0.0, 0.5, 2.0)]
    b = _rhs(144)
    expected = [sor(A, b, omega=1.5).x for A in matrices]
    solver = RelaxationSolver("sor")

    def work(k):
        for _ in range(40):
            np.testing.assert_array_equal(solver.solve(matrices[k % 3], b, omega=1.5).x, expected[k % 3])

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, k) for k in range(6)]:
            future.result()


def test_a_solver_is_not_entered_from_its_callback():
    A, b = problems.laplacian(6), _rhs(36)
    solver = RelaxationSolver("sor")
    with pytest.raises(RuntimeError, match="in use"):
        solver.solve(A, b, omega=1.2, callback=lambda x: solver.solve(A, b))
    assert solver.solve(A, b, omega=1.2).converged


def test_shifts_refused_and_needed():
    A, b = problems.laplacian(5), _rhs(25)
    solver = RelaxationSolver("sor")
    for _ in range(2):
        with pytest.raises(np.linalg.LinAlgError, match="row 0"):
            solver.solve(A, b, shift=-4.0)
    hollow = sp.csr_array(A - 4 * sp.eye_array(25))
    assert sor(hollow, b, shift=4.0).nit == sor(A, b).nit
