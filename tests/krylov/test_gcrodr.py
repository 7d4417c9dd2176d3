"""GCRO-DR against the oracle and against what it promises."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from aitken import ConvergenceWarning, Status
from aitken.linalg import RecycleState, gcrodr
from tests.interruption import check_ctrl_c, needs_posix
from tests.krylov import problems
from tests.oracles import krylov as oracle

ROOT = Path(__file__).resolve().parents[2]
N = 120
DTYPES = pytest.mark.parametrize("dtype", [float, complex])
WAYS = pytest.mark.parametrize(
    ("side", "carry"), [("right", "x"), ("right", "t"), ("left", "x"), ("flexible", "x")]
)


def norm(x):
    return np.linalg.norm(x)


def two_systems(dtype=float, n=N):
    """Two near matrices, a right-hand side for each, and a preconditioner."""
    rng = np.random.default_rng(5)
    A = problems.nonsymmetric(n, 0, dtype=dtype)
    near = A + 0.01 * problems.nonsymmetric(n, 7, dtype=dtype)
    b = rng.standard_normal((2, n)).astype(dtype)
    if dtype is complex:
        b = b + 1j * rng.standard_normal((2, n))
    M = np.diag(1 / (1 + rng.random(n))) + 0.02 * rng.standard_normal((n, n)) / np.sqrt(n)
    return (A, near), b, M.astype(dtype)


def convection(s, wind=0.4, seed=0):
    """Convection-diffusion on s x s nodes."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(s, s))
    drift = sp.diags_array([-wind, wind], offsets=[-1, 1], shape=(s, s))
    A = sp.csr_array(sp.kronsum(line, line) + sp.kron(drift, sp.eye_array(s)))
    return A, np.random.default_rng(seed).standard_normal(s * s)


def certify(A, b, result, rtol=1e-10):
    """The result is what it says it is."""
    residual = norm(b - A @ result.x)
    assert result.true_residual == pytest.approx(residual, rel=1e-6, abs=1e-13 * norm(b))
    assert result.target == pytest.approx(rtol * norm(b))
    assert result.converged == result.success == (result.status == Status.CONVERGED)
    assert result.converged == (result.true_residual <= result.target)
    assert np.isfinite(result.x).all()


def near(ours, theirs):
    return abs(ours - theirs) <= max(1, 0.02 * theirs)


# ----------------------------------------------------------------------------------------- against the oracle


@DTYPES
@WAYS
@pytest.mark.parametrize("select", ["harmonic", "sv"])
@pytest.mark.parametrize("with_m", [False, True])
def test_counts_are_the_oracles(dtype, side, carry, select, with_m):
    matrices, rhs, M = two_systems(dtype)
    options = {"rtol": 1e-10, "M": M if with_m else None, "side": side, "carry": carry, "select": select}
    state, U = RecycleState(), None
    for A, b in zip(matrices, rhs, strict=True):
        ours = gcrodr(A, b, restart=20, recycle_dim=7, recycle=state, **options)
        theirs = oracle.gcrodr(A, b, U=U, m=20, k=7, **options)
        certify(A, b, ours)
        assert near(ours.nit, theirs.nit), (ours.nit, theirs.nit)
        assert ours.recycled == (0 if U is None else U.shape[1])
        assert len(ours.residuals) == ours.nit + 1
        U = theirs.U
        assert state.k == ours.k_used == U.shape[1]
        steps = slice(0, min(ours.nit, 10))
        np.testing.assert_allclose(ours.residuals[steps][1:], theirs.residuals[steps][1:], rtol=1e-6)


@pytest.mark.parametrize("select", oracle.TARGETS)
def test_other_targets(select):
    """What is kept decides how many steps a restarted solve takes."""
    dtype = complex if select == "SI" else float  # real eigenvalues tie in the size of imaginary parts
    (A, _), (b, _), _ = two_systems(dtype)
    options = {"rtol": 1e-6, "select": select, "maxiter": 400}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # keeping the largest may never end
        ours = gcrodr(A, b, restart=20, recycle_dim=7, **options)
    theirs = oracle.gcrodr(A, b, m=20, k=7, **options, stagnation=0)
    assert near(ours.nit, theirs.nit), (ours.nit, theirs.nit)
    assert ours.true_residual == pytest.approx(theirs.residual, rel=0.1)


@pytest.mark.parametrize("ortho", ["auto", "cgs2", "mgs"])
@pytest.mark.parametrize("basis", [None, "float32"])
def test_counts_with_every_orthogonalisation_and_basis(ortho, basis):
    matrices, rhs, M = two_systems()
    state, U = RecycleState(), None
    for A, b in zip(matrices, rhs, strict=True):
        options = {"M": M, "rtol": 1e-10}
        ours = gcrodr(
            A, b, restart=20, recycle_dim=7, ortho=ortho, basis_dtype=basis, recycle=state, **options
        )
        theirs = oracle.gcrodr(A, b, U=U, m=20, k=7, **options)
        certify(A, b, ours)
        slack = max(4, 0.1 * theirs.nit) if basis else max(1, 0.02 * theirs.nit)
        assert abs(ours.nit - theirs.nit) <= slack, (ours.nit, theirs.nit)
        U = theirs.U


@DTYPES
@WAYS
@pytest.mark.parametrize("select", ["harmonic", "sv", "LR"])
@pytest.mark.parametrize("ortho", ["auto", "cgs2"])
def test_the_state_is_a_space_and_its_image(dtype, side, carry, select, ortho):
    matrices, rhs, M = two_systems(dtype)
    state = RecycleState()
    for A, b in zip(matrices, rhs, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gcrodr(
                A,
                b,
                restart=20,
                recycle_dim=7,
                rtol=1e-10,
                maxiter=150,
                M=M,
                side=side,
                carry=carry,
                select=select,
                ortho=ortho,
                recycle=state,
            )
        operator = M @ A if side == "left" else A @ M if carry == "t" else A
        U, C = state.U, state.C
        assert norm(operator @ U - C) <= 1e-12 * np.linalg.norm(operator, 2) * norm(U)
        assert norm(C.conj().T @ C - np.eye(state.k)) <= 1e-12
        assert 7 <= state.k <= 8


@pytest.mark.parametrize("restart", [7, 30])
def test_without_recycling_it_is_scipys_gmres(restart):
    (A, _), (b, _), _ = two_systems()
    history = []
    x, info = spla.gmres(
        A,
        b,
        rtol=1e-9,
        restart=restart,
        maxiter=20,
        callback=history.append,
        callback_type="pr_norm",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = gcrodr(A, b, rtol=1e-9, restart=restart, recycle_dim=0, maxiter=len(history))
    assert ours.k_used == ours.recycled == 0
    assert abs(ours.nit - len(history)) <= 1
    shared = min(ours.nit, len(history)) - 1
    np.testing.assert_allclose(ours.residuals[1 : shared + 1] / norm(b), history[:shared], rtol=1e-5)
    if info == 0:
        np.testing.assert_allclose(ours.x, x, atol=1e-6 * norm(x))


@pytest.mark.parametrize("k", range(1, 9))
def test_complex_pairs_are_never_split(k):
    """The four smallest eigenvalues are complex pairs: an odd k keeps one vector more."""
    A = problems.nonsymmetric(N, 3, complex_pairs=4)
    b = np.random.default_rng(1).standard_normal(N)
    state = RecycleState()
    ours = gcrodr(A, b, restart=30, recycle_dim=k, rtol=1e-10, recycle=state, maxiter=2000)
    theirs = oracle.gcrodr(A, b, m=30, k=k, rtol=1e-10)
    assert ours.converged
    assert state.k == theirs.U.shape[1]
    assert near(ours.nit, theirs.nit), (ours.nit, theirs.nit)
    if k % 2 == 1 and ours.nit > 60:  # long enough for the pairs to be found
        assert state.k == k + 1


# -------------------------------------------------------------------------------------------------- recycling


def test_a_right_hand_side_in_the_image_takes_no_iteration():
    (A, _), (b, _), M = two_systems()
    for way in ({}, {"side": "left"}, {"carry": "t"}, {"side": "flexible"}):
        state = RecycleState()
        options = {"restart": 20, "recycle_dim": 8, "recycle": state, "M": M, "rtol": 1e-10, **way}
        gcrodr(A, b, **options)
        U = M @ state.U if "carry" in way else state.U
        again = gcrodr(A, A @ U @ np.arange(1.0, 1 + state.k), **options)
        assert again.nit == 0, way
        assert again.converged
        assert again.matvecs <= 2  # the residuals before and after
        assert again.recycled == again.k_used == 8


@pytest.mark.parametrize("ortho", ["auto", "cgs2", "mgs"])
def test_many_right_hand_sides_of_one_matrix(ortho):
    """The space stays orthonormal and as good as it was, solve after solve."""
    A, _ = convection(20, wind=0.3)
    rng = np.random.default_rng(0)
    state, counts = RecycleState(), []
    for _ in range(40):
        b = rng.standard_normal(400)
        result = gcrodr(A, b, M="ilu0", recycle=state, rtol=1e-9, ortho=ortho)
        certify(A, b, result, 1e-9)
        counts.append(result.nit)
        assert norm(state.C.T @ state.C - np.eye(state.k)) <= 1e-12
        assert norm(A @ state.U - state.C) <= 1e-11 * norm(state.U)
    assert max(counts[2:]) <= 0.75 * counts[0]
    assert max(counts[-10:]) <= max(counts[2:12]) + 1


def test_a_solve_that_needs_no_work_leaves_no_wrong_image():
    """b = 0 with another matrix: C belongs to neither matrix from then on."""
    first, second = np.diag(np.linspace(1, 100, 60)), np.diag(np.linspace(50, 2, 60))
    first[0, 5] = 3
    rng = np.random.default_rng(0)
    options = {"recycle_dim": 10, "restart": 20, "rtol": 1e-10}
    b = rng.standard_normal(60)
    for idle in ({"b": np.zeros(60)}, {"b": second @ b, "x0": b}):
        state = RecycleState()
        gcrodr(first, rng.standard_normal(60), recycle=state, **options)
        nothing = gcrodr(second, recycle=state, **idle, **options)
        assert nothing.nit == 0
        result = gcrodr(second, b, recycle=state, **options)
        certify(second, b, result)
        assert result.recycled == 10
        assert norm(second @ state.U - state.C) <= 1e-12 * 50 * norm(state.U)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda U: np.c_[U, U[:, :1]],
        lambda U: np.c_[U[:, :1], U],
        lambda U: np.c_[U, 0 * U[:, :1]],
        lambda U: np.c_[U, U[:, :1] + 1e-14 * U[:, 1:2]],
        lambda U: np.c_[U, np.nan * U[:, :1]],
        lambda U: np.c_[np.inf * U[:, :1], U],
        lambda U: np.c_[U, 1e-320 * U[:, :1]],
        lambda U: U * np.geomspace(1e-100, 1e100, U.shape[1]),
        lambda U: U @ np.vander(np.linspace(1, 2, U.shape[1])),
    ],
    ids=["duplicated", "first twice", "zero", "nearly so", "NaN", "Inf", "denormal", "scaled", "mixed"],
)
@pytest.mark.parametrize("basis", [None, "float32"])
def test_bad_vectors_in_the_space_do_no_harm(spoil, basis):
    (A, near_A), (b, other), _ = two_systems()
    options = {"restart": 20, "recycle_dim": 8, "rtol": 1e-9, "basis_dtype": basis}
    clean = RecycleState()
    gcrodr(A, b, recycle=clean, **options)
    cold = gcrodr(near_A, other, **options)
    state = clean.copy()
    state.U, state.C = np.asfortranarray(spoil(clean.U)), None
    result = gcrodr(near_A, other, recycle=state, **options)
    certify(near_A, other, result, 1e-9)
    assert np.isfinite(state.U).all()
    if basis is None:
        assert result.recycled >= 5
        assert result.nit < 0.75 * cold.nit
    assert result.nit <= cold.nit + 3


@pytest.mark.parametrize("vectors", [0.0, np.nan])
def test_a_useless_space_is_dropped(vectors):
    (A, _), (b, _), _ = two_systems()
    state = RecycleState()
    state.U = np.full((N, 5), vectors, order="F")
    result = gcrodr(A, b, restart=20, recycle_dim=5, rtol=1e-9, recycle=state)
    certify(A, b, result, 1e-9)
    assert result.recycled == 0
    assert result.nit == gcrodr(A, b, restart=20, recycle_dim=5, rtol=1e-9).nit


# ---------------------------------------------------------------------------------- systems without an answer


def cycle_shift(n):
    return np.roll(np.eye(n), 1, axis=0)


INCONSISTENT = {
    "diagonal with a zero": (np.diag(np.r_[0.0, np.linspace(1, 2, 99)]), np.ones(100), 1.0),
    "zero": (np.zeros((40, 40)), np.ones(40), np.sqrt(40)),
    "nilpotent": (np.diag(np.ones(59), 1), np.ones(60), 1.0),
    "Neumann": (
        np.diag(np.r_[1.0, np.full(58, 2.0), 1.0]) - np.eye(60, k=1) - np.eye(60, k=-1),
        np.arange(60.0),
        29.5 * np.sqrt(60),
    ),
    "1 x 1": (np.zeros((1, 1)), np.ones(1), 1.0),
}


@pytest.mark.parametrize("name", INCONSISTENT)
@pytest.mark.parametrize("k", [0, 8])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("ortho", ["auto", "cgs2"])
def test_inconsistent_systems_end_honestly(name, k, side, ortho):
    A, b, least = INCONSISTENT[name]
    state = RecycleState()
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(
            A, b, restart=20, recycle_dim=k, rtol=1e-8, side=side, ortho=ortho, recycle=state, maxiter=600
        )
    certify(A, b, result, 1e-8)
    assert result.status in (Status.BREAKDOWN, Status.STAGNATED, Status.MAX_ITERATIONS)
    assert result.info != 0
    assert least * (1 - 1e-9) <= result.true_residual <= norm(b)
    if name in ("diagonal with a zero", "Neumann"):  # GMRES finds the least squares there, and keeps it
        assert result.true_residual <= 1.001 * least
    # And the state still serves a system that has an answer.
    good = gcrodr(np.eye(len(b)) + A, b, restart=20, recycle_dim=k, rtol=1e-8, recycle=state)
    assert good.converged


@pytest.mark.parametrize("k", [0, 8])
def test_singular_but_consistent(k):
    D = np.diag(np.r_[0.0, np.linspace(1, 2, 99)])
    b = np.r_[0.0, np.ones(99)]
    certify(D, b, gcrodr(D, b, restart=20, recycle_dim=k, rtol=1e-9), 1e-9)
    A, b = INCONSISTENT["Neumann"][:2]
    b = b - b.mean()
    certify(A, b, gcrodr(A, b, restart=40, recycle_dim=k, rtol=1e-9, maxiter=3000), 1e-9)


def test_a_cyclic_shift_needs_the_whole_space():
    A, b = cycle_shift(60), np.eye(60)[0]
    for k in (0, 5):
        with pytest.warns(ConvergenceWarning):
            short = gcrodr(A, b, restart=30, recycle_dim=k)
        assert short.status in (Status.STAGNATED, Status.BREAKDOWN)
        np.testing.assert_allclose(short.true_residual, 1.0)
        full = gcrodr(A, b, restart=60, recycle_dim=k)
        assert full.converged
        assert full.nit == 60


def test_adaptive_doubles_the_basis_once():
    A, b = cycle_shift(60), np.eye(60)[0]
    assert gcrodr(A, b, restart=30, recycle_dim=0, adaptive=True, maxiter=2000).converged
    with pytest.warns(ConvergenceWarning):
        assert not gcrodr(A, b, restart=29, recycle_dim=0, adaptive=True, maxiter=2000).converged


@pytest.mark.parametrize("side", ["right", "left", "flexible"])
def test_a_preconditioner_that_annuls_everything(side):
    (A, _), (b, _), _ = two_systems()
    with pytest.warns(ConvergenceWarning):
        result = gcrodr(A, b, M=sp.csr_array((N, N)), side=side)
    assert result.status == Status.BREAKDOWN
    certify(A, b, result, 1e-5)


def test_an_operator_that_turns_nan():
    (A, _), (b, _), _ = two_systems()
    for after in (0, 1, 5, 25):
        calls = []

        def matvec(v, after=after, calls=calls):
            calls.append(1)
            return A @ v if len(calls) <= after else np.full_like(v, np.nan)

        operator = spla.LinearOperator((N, N), matvec=matvec, dtype=float)
        state = RecycleState()
        with pytest.warns(ConvergenceWarning, match="NaN or Inf"):
            result = gcrodr(operator, b, rtol=1e-12, restart=20, recycle_dim=8, recycle=state)
        assert result.status == Status.NONFINITE
        assert result.info == -4
        assert np.isfinite(result.x).all()
        assert state.U is None  # as it was before the call
        if after > 0:  # the best x there was, and its residual
            assert result.true_residual == pytest.approx(norm(b - A @ result.x), rel=1e-9)
    assert result.true_residual < 0.5 * norm(b)  # a cycle had been done


def test_unreachable_tolerances():
    (A, _), (b, _), M = two_systems()
    for rtol in (0.0, 1e-30):
        with pytest.warns(ConvergenceWarning):
            result = gcrodr(A, b, M=M, rtol=rtol, maxiter=2000)
        assert result.status in (Status.STAGNATED, Status.MAX_ITERATIONS)
        assert result.true_residual <= 1e-13 * norm(b)


# ------------------------------------------------------------------------------------------- sizes and scales


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("k", [0, 1, 4, 20])
def test_systems_smaller_than_the_basis(dtype, n, k):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n)).astype(dtype) + 3 * np.eye(n)
    state = RecycleState()
    for i in range(4):
        b = rng.standard_normal(n).astype(dtype)
        result = gcrodr(A + 0.1 * (i > 2) * np.eye(n), b, rtol=1e-12, recycle_dim=k, recycle=state)
        certify(A + 0.1 * (i > 2) * np.eye(n), b, result, 1e-12)
        assert result.nit <= n + 2
        assert state.k <= max(0, min(k + 1, n - 1))


def test_nothing_to_do():
    (A, _), (b, _), _ = two_systems()
    zero = gcrodr(A, np.zeros(N), x0=b)
    assert (zero.nit, zero.matvecs, zero.true_residual, zero.converged) == (0, 0, 0.0, True)
    assert not zero.x.any()
    x = np.linalg.solve(A, b)
    exact = gcrodr(A, b, x0=x, rtol=1e-8)
    assert exact.nit == 0
    np.testing.assert_array_equal(exact.x, x)
    assert gcrodr(A, b, atol=2 * norm(b)).nit == 0


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1e160, 1e200, 1e290])
def test_any_size_of_right_hand_side(scale):
    """Squares of such numbers are zero or infinite; success is claimed for neither reason."""
    (A, _), (b, _), _ = two_systems()
    plain = gcrodr(A, b, rtol=1e-9, recycle_dim=0)
    scaled = gcrodr(A, scale * b, rtol=1e-9, recycle_dim=0)
    assert scaled.converged
    assert scaled.nit == plain.nit
    np.testing.assert_allclose(scaled.x / scale, plain.x, rtol=1e-6, atol=1e-9 * norm(plain.x))
    assert norm((scale * b - A @ scaled.x) / scale) <= 1e-9 * norm(b)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_matrices_out_of_range_are_not_called_solved(scale):
    (A, _), (b, _), _ = two_systems()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = gcrodr(scale * A, b, rtol=1e-9)
    assert np.isfinite(result.x).all()
    assert not result.converged or norm(b - scale * A @ result.x) <= 1e-9 * norm(b)


def test_single_precision_comes_back_certified():
    (A, _), (b, _), _ = two_systems()
    A, b = A.astype(np.float32), b.astype(np.float32)
    result = gcrodr(A, b, rtol=1e-5)
    assert result.x.dtype == np.float32
    assert result.converged
    assert norm(b - A.astype(float) @ result.x.astype(float)) <= 1e-5 * norm(b)
    with pytest.warns(ConvergenceWarning, match="progress stopped above the tolerance"):
        beyond = gcrodr(A, b, rtol=1e-10)
    assert beyond.status == Status.STAGNATED
    assert "rounding the answer to float32" in beyond.message
    assert gcrodr(A.astype(np.complex64), b).x.dtype == np.complex64
    assert gcrodr(A, b.astype(float)).x.dtype == np.float64


# --------------------------------------------------------------------------------------------- forms of input


def test_operators_are_as_good_as_matrices():
    (A, _), (b, _), M = two_systems()
    matrix = gcrodr(A, b, M=M, rtol=1e-10)
    forms = (
        sp.csr_array(A),
        sp.csr_matrix(A),
        sp.coo_array(A),
        sp.csc_array(A),
        sp.bsr_array(A, blocksize=(3, 3)),
        spla.aslinearoperator(A),
        spla.LinearOperator((N, N), matvec=lambda v: A @ v, dtype=float),
        spla.LinearOperator((N, N), matvec=lambda v: A @ v),
        A.tolist(),
    )
    for form in forms:
        result = gcrodr(form, b, M=M, rtol=1e-10)
        assert result.nit == matrix.nit
        assert result.matvecs == matrix.matvecs
        np.testing.assert_allclose(result.x, matrix.x, atol=1e-8 * norm(matrix.x))
    for P in (spla.aslinearoperator(M), sp.csr_array(M), lambda v: M @ v):
        result = gcrodr(forms[6], b, M=P, rtol=1e-10)
        assert result.nit == matrix.nit
        np.testing.assert_allclose(result.x, matrix.x, atol=1e-8 * norm(matrix.x))


def test_a_preconditioner_that_varies():
    (A, _), (b, _), M = two_systems()
    calls = []

    def varying(v):
        calls.append(1)
        return (1 + 0.5 * (len(calls) % 3)) * (M @ v) + 0.05 * (len(calls) % 7) * v

    result = gcrodr(A, b, M=varying, side="flexible", restart=20, recycle_dim=8, rtol=1e-10)
    certify(A, b, result)
    assert len(calls) == result.nit


def test_names_make_preconditioners():
    A, b = convection(16)
    counts = {}
    for name in ("none", "jacobi", "block-jacobi", "ssor", "ilu0", "ilut", "schwarz", "chebyshev"):
        result = gcrodr(A, b, M=name, rtol=1e-9)
        certify(A, b, result, 1e-9)
        counts[name] = result.nit
    assert counts["ilut"] < counts["ilu0"] < counts["jacobi"] <= counts["none"]
    with pytest.raises(ValueError, match=r"`M` is 'ilu0'.*operator"):
        gcrodr(spla.LinearOperator(A.shape, matvec=A.__matmul__, dtype=float), b, M="ilu0")


def test_several_columns():
    (A, near_A), _, M = two_systems()
    B = np.random.default_rng(2).standard_normal((N, 3))
    state = RecycleState()
    gcrodr(A, B[:, 0], recycle=state, restart=20, recycle_dim=7)
    singles = [
        gcrodr(near_A, b, M=M, rtol=1e-10, restart=20, recycle_dim=7, recycle=state.copy()) for b in B.T
    ]
    together = gcrodr(near_A, B, M=M, rtol=1e-10, restart=20, recycle_dim=7, recycle=state)
    assert together.x.shape == (N, 3)
    assert [len(h) - 1 for h in together.residuals] == [r.nit for r in singles]
    assert together.nit == max(r.nit for r in singles)
    for j, single in enumerate(singles):
        np.testing.assert_allclose(together.x[:, j], single.x, atol=1e-8 * norm(single.x))
        assert norm(B[:, j] - near_A @ together.x[:, j]) <= 1e-10 * norm(B[:, j])
    column = gcrodr(A, B[:, :1], x0=np.zeros((N, 1)))
    assert column.x.shape == (N, 1)
    some_zero = gcrodr(A, np.c_[B[:, 0], np.zeros(N), B[:, 1]], rtol=1e-9)
    assert some_zero.converged
    assert not some_zero.x[:, 1].any()


def test_nothing_of_the_callers_changes():
    A, b = convection(12)
    A.data[3] *= 1.5
    x0, M = np.linspace(0, 1, b.size), sp.diags_array(1 / A.diagonal()).tocsr()
    keep = [v.copy() for v in (A.data, A.indices, A.indptr, b, x0, M.data)]
    for v in (A.data, A.indices, A.indptr, b, x0, M.data):
        v.flags.writeable = False
    result = gcrodr(A, b, x0, M=M, rtol=1e-9, recycle=RecycleState())
    for v, before in zip((A.data, A.indices, A.indptr, b, x0, M.data), keep, strict=True):
        np.testing.assert_array_equal(v, before)
        assert not np.shares_memory(result.x, v)


def test_bits_do_not_depend_on_threads():
    A, b = convection(150)
    for options in ({"M": "ilu0"}, {"M": "jacobi", "side": "left", "basis_dtype": "float32", "maxiter": 120}):
        answers = []
        for n_threads in (1, 2, 3):
            state = RecycleState()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                result = gcrodr(A, b, rtol=1e-7, recycle=state, n_threads=n_threads, **options)
            answers.append((result.x, result.residuals, state.U, state.C))
        for other in answers[1:]:
            for one, two in zip(answers[0], other, strict=True):
                np.testing.assert_array_equal(one, two)


# -------------------------------------------------------------------------------------------------- callbacks


def test_kinds_of_callback():
    (A, _), (b, _), _ = two_systems()
    options = {"restart": 20, "recycle_dim": 7, "rtol": 1e-10}
    estimates, legacy, iterates, named = [], [], [], []
    silent = gcrodr(A, b, **options)
    result = gcrodr(A, b, callback=estimates.append, **options)
    gcrodr(A, b, callback=legacy.append, callback_type="legacy", **options)
    gcrodr(A, b, callback=iterates.append, callback_type="x", **options)
    gcrodr(A, b, callback=lambda intermediate_result: named.append(intermediate_result), **options)
    np.testing.assert_array_equal(result.x, silent.x)
    assert legacy == estimates
    assert len(estimates) == result.nit
    np.testing.assert_array_equal(estimates, result.residuals[1:])
    assert len(iterates) == len(named) >= 3
    np.testing.assert_array_equal(iterates[-1], result.x)
    assert named[-1].nit == result.nit
    assert [s.nit for s in named] == sorted({s.nit for s in named})
    for step in named:
        assert step.residual == pytest.approx(norm(b - A @ step.x), rel=1e-5)
        assert step.target == result.target


@pytest.mark.parametrize("kind", ["pr_norm", "x", "named"])
def test_stop_iteration(kind):
    (A, _), (b, _), _ = two_systems()
    seen = []

    def stop(value):
        seen.append(value)
        if len(seen) == 2:
            raise StopIteration

    def named(intermediate_result):
        stop(intermediate_result)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = gcrodr(
            A,
            b,
            restart=12,
            recycle_dim=4,
            rtol=1e-10,
            callback=named if kind == "named" else stop,
            callback_type="x" if kind == "named" else kind,
        )
    assert len(seen) == 2
    assert result.status == Status.STOPPED_BY_CALLBACK
    assert result.info == max(1, result.nit)
    certify(A, b, result)
    assert result.nit == {"pr_norm": 2, "x": 20, "named": 20}[kind]


def test_errors_of_callbacks_and_operators_arrive():
    (A, _), (b, _), _ = two_systems()

    def fails(*_):
        raise RuntimeError("mine")

    for options in ({"callback": fails}, {"M": fails}, {"M": fails, "side": "left"}):
        with pytest.raises(RuntimeError, match="mine"):
            gcrodr(A, b, **options)
    with pytest.raises(RuntimeError, match="mine"):
        gcrodr(spla.LinearOperator((N, N), matvec=fails, dtype=float), b)
    with pytest.raises(ValueError, match="`callback` is for one right-hand side"):
        gcrodr(A, np.c_[b, b], callback=print)


# -------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_named():
    A, b = convection(6)
    n = b.size
    for error, match, options in (
        (ValueError, "`recycle_dim` must be below `restart`; got 5 and 5", {"restart": 5, "recycle_dim": 5}),
        (ValueError, "`recycle_dim` must be below `restart`; got 50 and 40", {"recycle_dim": 50}),
        (ValueError, "`restart` must be >= 1; got 0", {"restart": 0, "recycle_dim": 0}),
        (ValueError, "`recycle_dim` must be >= 0; got -1", {"recycle_dim": -1}),
        (TypeError, "`restart`", {"restart": 2.5}),
        (ValueError, "`rtol` must be finite, >= 0; got -1.0", {"rtol": -1.0}),
        (ValueError, "`rtol`.*nan", {"rtol": np.nan}),
        (ValueError, "`atol`.*-2", {"atol": -2.0}),
        (ValueError, "`maxiter` must be >= 1; got 0", {"maxiter": 0}),
        (TypeError, "`maxiter`", {"maxiter": 1.5}),
        (ValueError, "`side` must be one of.*got 'top'", {"side": "top"}),
        (ValueError, "`carry` must be one of.*got 'z'", {"carry": "z"}),
        (ValueError, '`carry` "t" goes with `side` "right"; got \'left\'', {"carry": "t", "side": "left"}),
        (ValueError, "`select` must be one of.*got 'XX'", {"select": "XX"}),
        (ValueError, "`ortho` must be one of.*got 'qr'", {"ortho": "qr"}),
        (ValueError, "`basis_dtype`.*int32", {"basis_dtype": np.int32}),
        (ValueError, "`callback_type` must be one of.*got 'y'", {"callback_type": "y"}),
        (TypeError, "`callback`", {"callback": 3}),
        (TypeError, "`recycle` must be a RecycleState, not dict", {"recycle": {}}),
        (ValueError, "`n_threads`", {"n_threads": -2}),
        (ValueError, r"`x0` has shape \(35,\)", {"x0": np.zeros(n - 1)}),
        (ValueError, "`x0` has a non-finite value at index 2", {"x0": np.r_[0, 0, np.inf, np.zeros(n - 3)]}),
        (TypeError, "`x0` is complex", {"x0": np.zeros(n, complex).astype(object)}),
        (ValueError, "`M` must be one of.*'nonsense'", {"M": "nonsense"}),
        (ValueError, r"`M` has shape \(3, 3\)", {"M": np.eye(3)}),
        (TypeError, "`M` is complex", {"M": 1j * sp.eye_array(n)}),
    ):
        if "object" in str(getattr(options.get("x0"), "dtype", "")):
            error, match = TypeError, "`x0` has dtype object"
        with pytest.raises(error, match=match):
            gcrodr(A, b, **options)
    for wrong, match in (
        (np.ones(n - 1), r"`b` has shape \(35,\)"),
        (np.ones((n, 2, 1)), r"`b` has shape \(36, 2, 1\)"),
        (np.ones((n, 0)), r"`b` has shape \(36, 0\)"),
        (np.where(np.arange(n) == 7, np.nan, 1.0), "`b` has a non-finite value at index 7: nan"),
    ):
        with pytest.raises(ValueError, match=match):
            gcrodr(A, wrong)
    for wrong, match in (
        (np.ones((3, 4)), r"`A` has shape \(3, 4\)"),
        (np.ones(3), r"`A`.*shape \(3,\)"),
        (np.full((2, 2), np.nan), "`A`.*row 0"),
    ):
        with pytest.raises(ValueError, match=match):
            gcrodr(wrong, np.ones(3))


def test_malformed_rows_are_refused():
    """What makes SciPy read outside its arrays is a ValueError here that names the row."""
    good, b = convection(6)
    n = b.size

    def broken(**changes):
        A = good.copy()
        for name, (at, value) in changes.items():
            array = getattr(A, name).copy()
            array[at] = value
            setattr(A, name, array)
        return A

    for A, match in (
        (broken(indices=(10, n)), "`A`.*36.*row 2"),
        (broken(indices=(10, 10**8)), "`A`.*row 2"),
        (broken(indices=(0, -1)), "`A`.*-1.*row 0"),
        (broken(indptr=(0, 3)), r"`A`.*indptr\[0\]"),
        (broken(indptr=(5, 40)), "`A`"),
        (broken(indptr=(n, 10**7)), "`A`"),
        (broken(data=(4, np.nan)), "`A`.*row 1"),
        (broken(data=(4, np.inf)), "`A`.*row 1"),
    ):
        with pytest.raises(ValueError, match=match):
            gcrodr(A, b)
    unsorted = good.copy()
    for i in range(n):
        row = slice(good.indptr[i], good.indptr[i + 1])
        unsorted.indices[row] = good.indices[row][::-1]
        unsorted.data[row] = good.data[row][::-1]
    unsorted.has_sorted_indices = False
    turned = gcrodr(unsorted, b, rtol=1e-9, M="ilu0")
    assert norm(b - unsorted @ turned.x) <= 1e-9 * norm(b)


def test_finite_checks_can_be_left_out():
    (A, _), (b, _), _ = two_systems()
    np.testing.assert_array_equal(gcrodr(A, b, check_finite=False).x, gcrodr(A, b).x)
    A[5, 5] = np.nan
    with pytest.warns(ConvergenceWarning, match="NaN or Inf"):
        result = gcrodr(A, b, check_finite=False)
    assert result.status == Status.NONFINITE
    assert np.isfinite(result.x).all()


# ----------------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = """
import numpy as np, scipy.sparse as sp
from aitken.linalg import RecycleState, gcrodr
line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(700, 700))
A = sp.csr_array(sp.kronsum(line, line))
b = np.random.default_rng(0).normal(size=A.shape[0])
state = RecycleState()
gcrodr(A[:900, :900].tocsr(), b[:900], rtol=1e-2, recycle=state)
U = state.U.copy()
state.U, state.C = np.random.default_rng(1).normal(size=(A.shape[0], 4)), None
before = state.U.copy()
"""


@needs_posix
def test_ctrl_c_leaves_the_state_as_it_was():
    check_ctrl_c(
        INTERRUPTED,
        "gcrodr(A, b, rtol=1e-14, maxiter=10**6, recycle=state)",
        after="assert np.array_equal(state.U, before), 'half-written'",
    )
