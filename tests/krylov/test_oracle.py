"""Each piece of the Krylov oracle against one independent fact: dense algebra, definitions, SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm
from scipy import linalg, sparse
from scipy.sparse.linalg import cg, gcrotmk, gmres, lgmres, minres

from tests.krylov import problems
from tests.oracles import krylov as oracle

N = 120
DTYPES = [float, complex]
WAYS = [("right", "x"), ("right", "t"), ("left", "x"), ("flexible", "x")]


def system(dtype=float, n=N, seed=0):
    rng = np.random.default_rng(100 + seed)
    b = rng.standard_normal(n)
    if dtype is complex:
        b = b + 1j * rng.standard_normal(n)
    A = problems.nonsymmetric(n, seed, dtype=dtype)
    M = np.diag(1 / (1 + rng.random(n))) + 0.02 * rng.standard_normal((n, n)) / np.sqrt(n)
    return A, b, M.astype(dtype)


def operator_of(side, carry, A, M):
    """Op of the relation ``Op That = What G`` as a dense matrix."""
    return M @ A if side == "left" else A @ M if carry == "t" else A


def orthonormal(C):
    return norm(C.conj().T @ C - np.eye(C.shape[1]))


# ------------------------------------------------------------------------------------------------- GCRO-DR


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("side", "carry"), WAYS)
@pytest.mark.parametrize("select", ["harmonic", "sv", *oracle.TARGETS])
def test_every_cycle_keeps_its_relations(dtype, side, carry, select):
    A, b, M = system(dtype)
    U = None
    for seed in (0, 1):  # the second system starts with the space of the first
        E = 0.01 * problems.nonsymmetric(N, 7 + seed, dtype=dtype)
        res = oracle.gcrodr(
            A + seed * E,
            b,
            U=U,
            m=20,
            k=7,
            M=M,
            side=side,
            carry=carry,
            select=select,
            maxiter=90,
            record=True,
        )
        Op = operator_of(side, carry, A + seed * E, M)
        assert len(res.cycles) >= 2
        for cycle in res.cycles:
            assert orthonormal(cycle.C) < 1e-12
            assert norm(Op @ cycle.U - cycle.C) <= 1e-12 * norm(Op) * norm(cycle.U)
            assert norm(Op @ cycle.That - cycle.What @ cycle.G) <= 1e-12 * norm(Op) * norm(cycle.That)
            assert orthonormal(cycle.What) < 1e-12
            assert 7 <= cycle.U.shape[1] <= (8 if dtype is float else 7)
        U = res.U
        assert U.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("side", "carry"), WAYS)
def test_solution_is_the_dense_one_and_recycling_pays(dtype, side, carry):
    A, b, M = system(dtype)
    options = {"m": 20, "k": 8, "rtol": 1e-11, "M": M, "side": side, "carry": carry}
    first = oracle.gcrodr(A, b, **options)
    assert first.status == oracle.CONVERGED
    np.testing.assert_allclose(first.x, np.linalg.solve(A, b), rtol=1e-8, atol=1e-8 * norm(first.x))
    assert first.residual == pytest.approx(norm(b - A @ first.x), abs=1e-14 * norm(b))
    again = oracle.gcrodr(A, b[::-1].copy(), U=first.U, **options)
    cold = oracle.gcrodr(A, b[::-1].copy(), **options)
    assert again.status == cold.status == oracle.CONVERGED
    assert again.nit <= 0.75 * cold.nit
    # The carried space serves the same operator with or without its image.
    same = oracle.gcrodr(A, b[::-1].copy(), U=first.U, C=first.C, **options)
    assert abs(same.nit - again.nit) <= 1
    assert same.matvecs <= again.matvecs - first.U.shape[1] + 1


def test_a_preconditioner_that_varies_is_met_by_the_stored_directions():
    A, b, M = system()
    calls = []

    def varying(v):
        calls.append(1)
        return (1 + 0.5 * (len(calls) % 3)) * (M @ v) + 0.05 * len(calls) / N * v

    res = oracle.gcrodr(A, b, m=20, k=8, rtol=1e-11, M=varying, side="flexible", record=True)
    assert res.status == oracle.CONVERGED
    np.testing.assert_allclose(res.x, np.linalg.solve(A, b), rtol=1e-8, atol=1e-8 * norm(res.x))
    for cycle in res.cycles:
        assert norm(A @ cycle.That - cycle.What @ cycle.G) <= 1e-12 * norm(A) * norm(cycle.That)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [7, 30])
def test_without_recycling_it_is_restarted_gmres(dtype, m):
    A, b, M = system(dtype)
    for P in (None, M):
        history = []
        gmres(A, b, rtol=1e-9, restart=m, maxiter=3, M=P, callback=history.append, callback_type="pr_norm")
        steps = min(len(history), 3 * m)
        ours = oracle.gmres(A, b, m=m, rtol=1e-9, maxiter=steps, M=P, side="left", stagnation=0)
        # SciPy divides the preconditioned residual by that of its start.
        theirs = np.array(history[: ours.nit])
        mine = np.array(ours.residuals[1:])
        scale = mine[0] / theirs[0]
        assert scale == pytest.approx(ours.residuals[0], rel=1e-10) or scale == pytest.approx(
            norm(b), rel=1e-10
        )
        np.testing.assert_allclose(mine, scale * theirs, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_step_minimises_the_residual_over_its_space(dtype):
    A, b, _ = system(dtype)
    U = np.random.default_rng(5).standard_normal((N, 4)).astype(dtype)
    res = oracle.gcrodr(A, b, U=U, m=16, k=4, rtol=1e-14, maxiter=12)
    # Range of U plus the Krylov space of (I - C C^H) A started with the projected residual.
    C = np.linalg.qr(A @ U)[0]
    v = b - C @ (C.conj().T @ b)
    basis = [v]
    for _ in range(11):
        v = A @ v
        v = v - C @ (C.conj().T @ v)
        v = v / norm(v)
        basis.append(v)
    S = A @ np.column_stack([U, np.linalg.qr(np.column_stack(basis))[0]])
    best = norm(b - S @ np.linalg.lstsq(S, b, rcond=None)[0])
    assert res.nit == 12
    assert res.residual == pytest.approx(best, rel=1e-8)
    assert res.residuals[-1] == pytest.approx(best, rel=1e-8)


@pytest.mark.parametrize(("dtype", "m", "k"), [(float, 20, 8), (float, 17, 3), (complex, 20, 6)])
def test_without_carry_it_is_gmresdr(dtype, m, k):
    A, b, _ = system(dtype)
    iterates = oracle.gmresdr_cycles(A, b, m, k, 3)
    first = oracle.gcrodr(A, b, m=m, k=k, rtol=1e-15, maxiter=m)
    kk = first.U.shape[1]  # k or, with a pair at the border, k + 1
    for steps, x in ((m, iterates[0]), (2 * m - kk, iterates[1])):
        res = oracle.gcrodr(A, b, m=m, k=k, rtol=1e-15, maxiter=steps, record=True)
        assert res.nit == steps
        assert norm(res.x - x) <= 1e-10 * norm(x)
        assert norm(res.x) > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_pencil_is_that_of_the_harmonic_ritz_values(dtype):
    rng = np.random.default_rng(2)
    j = 12
    H = np.triu(
        rng.standard_normal((j + 1, j)) + (1j * rng.standard_normal((j + 1, j)) if dtype is complex else 0),
        -1,
    )
    f = np.linalg.solve(H[:j].conj().T, np.eye(j)[-1])
    expected = np.linalg.eigvals(H[:j] + abs(H[j, j - 1]) ** 2 * np.outer(f, np.eye(j)[-1]))
    Y, theta = oracle.harmonic_vectors(H, np.eye(j + 1, j), j)
    assert Y.shape == (j, j)
    np.testing.assert_allclose(np.sort(np.abs(theta)), np.sort(np.abs(expected)), rtol=1e-10)
    assert np.all(np.diff(np.abs(theta)) >= -1e-12)


@pytest.mark.parametrize(("side", "carry"), WAYS)
def test_chosen_vectors_are_harmonic_ritz_vectors_of_the_operator(side, carry):
    A, b, M = system(complex)
    res = oracle.gcrodr(A, b, m=20, k=6, M=M, side=side, carry=carry, maxiter=60, record=True)
    Op = operator_of(side, carry, A, M)
    cycle = res.cycles[-1]
    Y, theta = oracle.harmonic_vectors(cycle.G, cycle.What.conj().T @ cycle.That, 6)
    images = Op @ cycle.That
    for y, t in zip(Y.T, theta, strict=True):
        u = cycle.That @ y
        defect = images.conj().T @ (Op @ u - t * u)
        assert norm(defect) <= 1e-9 * norm(images) * norm(Op @ u)
    # They span the space that is kept.
    basis = np.linalg.qr(cycle.That @ Y)[0]
    assert norm(cycle.U - basis @ (basis.conj().T @ cycle.U)) <= 1e-9 * norm(cycle.U)


def test_smallest_singular_directions_are_kept_by_sv():
    A, b, _ = system()
    res = oracle.gcrodr(A, b, m=20, k=5, select="sv", maxiter=35, record=True)
    cycle = res.cycles[-1]
    Q = np.linalg.qr(cycle.That)[0]
    sigma = np.linalg.svd(A @ Q, compute_uv=False)
    kept = np.linalg.svd(A @ np.linalg.qr(cycle.U)[0], compute_uv=False)
    np.testing.assert_allclose(np.sort(kept), np.sort(sigma)[:5], rtol=1e-8)


def test_a_complex_pair_at_the_border_is_never_split():
    D = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])
    D[1:3, 1:3] = [[0.5, 2.0], [-2.0, 0.5]]  # |theta| = 1, 2.06, 2.06, 4, 5
    G = np.vstack([D, np.zeros(5)])
    gram = np.eye(6, 5)
    extended, theta = oracle.harmonic_vectors(G, gram, 2)
    assert extended.shape == (5, 3)
    assert np.isrealobj(extended)
    np.testing.assert_allclose(theta, [1, 0.5 + 2j, 0.5 - 2j])
    assert np.linalg.matrix_rank(extended[1:3, 1:3]) == 2  # Re y and Im y span the plane of the pair
    assert oracle.harmonic_vectors(G, gram, 2, pairs="drop")[0].shape == (5, 1)
    assert oracle.harmonic_vectors(G, gram, 2, limit=2)[0].shape == (5, 1)
    assert oracle.harmonic_vectors(G, gram, 3)[0].shape == (5, 3)
    assert oracle.harmonic_vectors(G.astype(complex), gram, 2)[0].shape == (5, 2)


@pytest.mark.parametrize(
    ("target", "expected"),
    [("SM", -1.0), ("LM", -5.0), ("SR", -5.0), ("LR", 4.0), ("SI", -1.0), ("LI", 1 + 3j)],
)
def test_targets_choose_the_end_they_name(target, expected):
    D = linalg.block_diag(-1.0, -5.0, 4.0, [[1.0, 3.0], [-3.0, 1.0]])
    _, theta = oracle.harmonic_vectors(np.vstack([D, np.zeros(5)]), np.eye(6, 5), 1, target)
    assert theta[0] == pytest.approx(expected)


@pytest.mark.parametrize(("side", "carry"), WAYS)
def test_a_right_hand_side_in_the_recycled_image_needs_no_step(side, carry):
    A, b, M = system()
    options = {"m": 20, "k": 8, "M": M, "side": side, "carry": carry}
    first = oracle.gcrodr(A, b, **options)
    y = np.arange(1.0, first.U.shape[1] + 1)
    lifted = M @ (first.U @ y) if carry == "t" else first.U @ y
    for C in (first.C, None):
        res = oracle.gcrodr(A, A @ lifted, U=first.U, C=C, rtol=1e-10, **options)
        assert (res.status, res.nit) == (oracle.CONVERGED, 0)
        np.testing.assert_allclose(res.x, lifted, rtol=1e-8, atol=1e-9 * norm(lifted))


def test_left_side_is_verified_on_the_true_residual():
    A, b, _ = system()
    M = np.diag(np.geomspace(1, 1e-2, N))  # weighs the residual so that its norm says little
    loose = oracle.gcrodr(A, b, m=40, k=10, M=M, side="left", stop="preconditioned", rtol=1e-6)
    assert loose.status == oracle.CONVERGED
    assert norm(M @ (b - A @ loose.x)) <= 1.01e-6 * norm(M @ b)
    assert loose.residual > 1e-6 * norm(b)
    for rtol in np.geomspace(1e-2, 1e-9, 15):
        res = oracle.gcrodr(A, b, m=20, k=10, M=M, side="left", rtol=rtol, stagnation=0, maxiter=2000)
        assert res.status == oracle.CONVERGED
        assert norm(b - A @ res.x) <= rtol * norm(b)


def test_a_deficient_carried_space_loses_only_its_bad_columns():
    A, b, _ = system()
    U = oracle.gcrodr(A, b, m=20, k=8).U
    bad = np.column_stack([U, U[:, 0], np.zeros(N), np.full(N, np.nan), 1e-200 * U[:, 1]])
    good = oracle.gcrodr(A, b[::-1].copy(), U=U, m=20, k=8)
    with np.errstate(invalid="ignore"):
        res = oracle.gcrodr(A, b[::-1].copy(), U=bad, m=20, k=8)
    assert res.status == oracle.CONVERGED
    assert abs(res.nit - good.nit) <= 1
    V, C = oracle.image_of_recycled(np.column_stack([U, U[:, 0]]), lambda X: A @ X)
    assert V.shape[1] == U.shape[1]
    assert orthonormal(C) < 1e-12
    assert norm(A @ V - C) <= 1e-12 * norm(A) * norm(V)


def test_zero_right_hand_side_and_a_start_that_is_the_solution():
    A, b, _ = system()
    res = oracle.gcrodr(A, np.zeros(N), x0=b)
    assert (res.status, res.nit, res.matvecs) == (oracle.CONVERGED, 0, 0)
    assert not res.x.any()
    x = np.linalg.solve(A, b)
    res = oracle.gcrodr(A, b, x0=x)
    assert (res.status, res.nit) == (oracle.CONVERGED, 0)
    np.testing.assert_array_equal(res.x, x)
    zero = oracle.cg(problems.spd(N), np.zeros(N)), oracle.minres(problems.spd(N), np.zeros(N))
    assert all((r.status, r.nit) == (oracle.CONVERGED, 0) and not r.x.any() for r in zero)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_systems_end_by_happy_breakdown(n):
    A, b, _ = system(n=60)
    A, b = A[:n, :n] + 2 * np.eye(n), b[:n]
    res = oracle.gcrodr(A, b, m=40, k=20, rtol=1e-13)
    assert res.status == oracle.CONVERGED
    assert res.nit <= n
    np.testing.assert_allclose(res.x, np.linalg.solve(A, b), rtol=1e-11)


def test_singular_systems_converge_if_consistent_and_say_so_otherwise():
    n = 60
    A = (np.diag(2.0 * np.ones(n)) - np.eye(n, k=1) - np.eye(n, k=-1)) * n
    A[0, 0] = A[-1, -1] = n  # Neumann: constants are the null space
    b = np.cos(np.pi * (np.arange(n) + 0.5) / n) + np.random.default_rng(0).standard_normal(n)
    consistent = b - b.mean()
    null = np.full((n, 1), n**-0.5)
    for space in (None, null):
        res = oracle.gcrodr(A, consistent, m=20, k=5, rtol=1e-9, nullspace=space)
        assert res.status == oracle.CONVERGED
        assert norm(consistent - A @ res.x) <= 1e-9 * norm(b)
    jacobi = oracle.gcrodr(A, consistent, M=np.diag(1 / np.diag(A)), m=20, k=5, rtol=1e-9, nullspace=null)
    assert jacobi.status == oracle.CONVERGED
    assert abs(jacobi.x.sum()) <= 1e-9 * norm(jacobi.x)
    inconsistent = oracle.gcrodr(A, b, m=20, k=5, rtol=1e-9, maxiter=300)
    assert inconsistent.status in (oracle.STAGNATED, oracle.BREAKDOWN)
    shift = np.eye(6, k=1)  # nilpotent: e_1 has A e_1 = 0
    assert oracle.gcrodr(shift, np.eye(6)[0], m=6, k=2).status == oracle.BREAKDOWN


def test_maxiter_and_not_a_number_are_told():
    A, b, _ = system()
    res = oracle.gcrodr(A, b, m=10, k=4, maxiter=13)
    assert (res.status, res.nit) == (oracle.MAXITER, 13)
    assert len(res.residuals) == 14
    assert oracle.gcrodr(lambda v: np.full(N, np.nan), b).status == oracle.NONFINITE


# --------------------------------------------------------------------------------------- LGMRES and GCROT


@pytest.mark.parametrize("precondition", [False, True])
def test_lgmres_takes_scipys_path(precondition):
    A, b, M = system()
    M = M if precondition else None
    cycles = []
    _, info = lgmres(
        A, b, rtol=1e-9, inner_m=10, outer_k=3, M=M, callback=lambda x: cycles.append(norm(b - A @ x))
    )
    res = oracle.lgmres(A, b, m=10, k=3, rtol=1e-9, M=M)
    assert info == res.status == oracle.CONVERGED
    assert len(cycles) > 3
    assert abs(len(cycles) - len(res.residuals)) <= 1
    np.testing.assert_allclose(res.residuals[:4], cycles[:4], rtol=1e-6)


def test_lgmres_adapts_its_inner_tolerance_like_scipy():
    A, b, _ = system()
    M = np.diag(np.geomspace(1, 1e-5, N))  # inner solves meet their tolerance long before the outer one
    cycles = []
    lgmres(A, b, rtol=1e-6, inner_m=100, M=M, callback=lambda x: cycles.append(norm(b - A @ x)))
    res = oracle.lgmres(A, b, m=100, rtol=1e-6, M=M)
    assert len(cycles) == len(res.residuals) > 3
    np.testing.assert_allclose(res.residuals, cycles, rtol=1e-3)


@pytest.mark.parametrize("truncate", ["oldest", "smallest"])
@pytest.mark.parametrize("precondition", [False, True])
def test_gcrotmk_takes_scipys_path(truncate, precondition):
    A, b, M = system()
    M = M if precondition else None
    cycles, CU = [], []
    gcrotmk(
        A,
        b,
        rtol=1e-9,
        m=8,
        k=4,
        M=M,
        truncate=truncate,
        CU=CU,
        callback=lambda x: cycles.append(norm(b - A @ x)),
    )
    ours = [
        oracle.gcrotmk(A, b, m=8, k=4, rtol=1e-9, M=M, truncate=truncate, maxiter=j)
        for j in range(len(cycles) + 2)
    ]
    assert len(cycles) > 5
    np.testing.assert_allclose([r.residual for r in ours[:6]], cycles[:6], rtol=1e-6)
    count = next(j for j, r in enumerate(ours) if r.residual <= 1e-9 * norm(b))
    assert abs(count - (len(cycles) - 1)) <= 1
    # The next system with what was kept.
    assert ours[-1].U.shape[1] == len(CU)
    again = []
    b2 = b + 0.1 * b[::-1]
    gcrotmk(
        A,
        b2,
        rtol=1e-9,
        m=8,
        k=4,
        M=M,
        truncate=truncate,
        CU=CU,
        callback=lambda x: again.append(norm(b2 - A @ x)),
    )
    next_ = oracle.gcrotmk(A, b2, U=ours[-1].U, m=8, k=4, rtol=1e-9, M=M, truncate=truncate)
    assert next_.status == oracle.CONVERGED
    cold = oracle.gcrotmk(A, b2, m=8, k=4, rtol=1e-9, M=M, truncate=truncate)
    assert next_.nit < cold.nit
    # A given space, its images of distinct norms so that the pivots have one order.
    U = np.random.default_rng(5).standard_normal((N, 4)) * 10.0 ** np.arange(4)
    given = []
    gcrotmk(
        A,
        b,
        rtol=1e-9,
        m=8,
        k=4,
        M=M,
        truncate=truncate,
        CU=[(None, u.copy()) for u in U.T],  # SciPy orthogonalises them in place
        callback=lambda x: given.append(norm(b - A @ x)),
    )
    for j in range(5):
        part = oracle.gcrotmk(A, b, U=U, m=8, k=4, rtol=1e-9, M=M, truncate=truncate, maxiter=j)
        assert part.residual == pytest.approx(given[j], rel=1e-6)


# ------------------------------------------------------------------------------------------ block GCRO-DR


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("carry", ["x", "t"])
def test_block_relations_solutions_and_deflation(dtype, carry):
    A, b, M = system(dtype)
    rng = np.random.default_rng(3)
    B = np.column_stack([b, rng.standard_normal(N), b[::-1], 2 * b, np.zeros(N)])  # rank 3 of 5
    Op = operator_of("right", carry, A, M)
    options = {"m": 30, "k": 8, "M": M, "carry": carry, "rtol": 1e-10}
    res = oracle.block_gcrodr(A, B, record=True, **options)
    assert res.status == oracle.CONVERGED
    assert res.x.shape == B.shape
    assert np.all(norm(B - A @ res.x, axis=0) <= 1e-10 * norm(B, axis=0))
    np.testing.assert_allclose(res.x, np.linalg.solve(A, B), atol=1e-7 * norm(res.x))
    for cycle in res.cycles:
        assert orthonormal(cycle.What) < 1e-11
        assert orthonormal(cycle.C) < 1e-11
        # A deflated direction leaves a defect of the deflation tolerance.
        assert norm(Op @ cycle.That - cycle.What @ cycle.G) <= 1e-9 * norm(Op) * norm(cycle.That)
        assert norm(Op @ cycle.U - cycle.C) <= 1e-9 * norm(Op) * norm(cycle.U)
    # Three independent columns cost as much as the five, two of which are copies.
    lean = oracle.block_gcrodr(A, B[:, :3], **options)
    assert abs(lean.nit - res.nit) <= 1
    assert lean.matvecs <= res.matvecs
    again = oracle.block_gcrodr(A, B[::-1].copy(), U=res.U, **options)
    cold = oracle.block_gcrodr(A, B[::-1].copy(), **options)
    assert again.status == oracle.CONVERGED
    assert again.nit < cold.nit


def test_a_nearly_dependent_block_stays_orthonormal():
    A, b, _ = system()
    rng = np.random.default_rng(3)
    B = np.column_stack([b, 2 * b + 1e-8 * rng.standard_normal(N)])
    U = rng.standard_normal((N, 4))
    res = oracle.block_gcrodr(A, B, U=U, m=20, k=4, rtol=1e-9, maxiter=8, record=True)
    assert res.cycles[0].What.shape[1] == 4 + 18  # nothing was deflated
    for cycle in res.cycles:
        assert orthonormal(cycle.What) < 1e-12
        assert norm(A @ cycle.That - cycle.What @ cycle.G) <= 1e-12 * norm(A) * norm(cycle.That)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_column_block_is_the_vector_form(dtype):
    A, b, _ = system(dtype)
    for steps in (20, 32, 44):  # inside and at the end of cycles
        one = oracle.gcrodr(A, b, m=20, k=8, rtol=1e-15, maxiter=steps)
        block = oracle.block_gcrodr(A, b[:, None], m=20, k=8, rtol=1e-15, maxiter=steps)
        assert norm(block.x[:, 0] - one.x) <= 1e-9 * norm(one.x)


def test_block_step_minimises_over_the_block_krylov_space():
    A, b, _ = system()
    B = np.column_stack([b, b[::-1]])
    res = oracle.block_gcrodr(A, B, m=40, k=0, rtol=1e-14, maxiter=6)
    blocks = [B]
    for _ in range(5):
        blocks.append(np.linalg.qr(A @ blocks[-1])[0])
    S = A @ np.linalg.qr(np.column_stack(blocks))[0]
    best = B - S @ np.linalg.lstsq(S, B, rcond=None)[0]
    np.testing.assert_allclose(norm(B - A @ res.x, axis=0), norm(best, axis=0), rtol=1e-7)


# -------------------------------------------------------------------------------------- symmetric matrices


@pytest.mark.parametrize("precondition", [False, True])
def test_cg_takes_scipys_path(precondition):
    A, b = problems.spd(N), np.random.default_rng(1).standard_normal(N)
    M = np.diag(1 / (1 + np.random.default_rng(2).random(N))) if precondition else None
    path = []
    cg(A, b, rtol=1e-10, M=M, callback=lambda x: path.append(x.copy()))
    res = oracle.cg(A, b, rtol=1e-10, M=M, record=True)
    assert res.status == oracle.CONVERGED
    assert len(path) > 20
    assert abs(res.nit - len(path)) <= 2
    for ours, theirs in zip(res.iterates[:20], path[:20], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * norm(theirs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_recycled_cg_scales_its_basis_and_deflates(dtype):
    A = problems.spd(N).astype(dtype)
    rng = np.random.default_rng(1)
    if dtype is complex:
        D = np.exp(1j * rng.random(N))
        A = D[:, None] * A * D.conj()
    b = rng.standard_normal(N).astype(dtype)
    M = np.diag(1 / (1 + rng.random(N)))
    first = oracle.rcg(A, b, M=M, k=8, harvest=40, rtol=1e-10)
    again = oracle.rcg(A, b[::-1].copy(), W=first.U, M=M, k=8, harvest=40, rtol=1e-10)
    third = oracle.rcg(A, b, W=again.U, M=M, k=8, harvest=40, rtol=1e-10)
    assert first.status == again.status == third.status == oracle.CONVERGED
    W, AW = np.hsplit(again.C, 2)
    assert norm(W.conj().T @ A @ W - np.eye(8)) < 1e-11
    assert norm(A @ W - AW) <= 1e-12 * norm(A) * norm(W)
    np.testing.assert_allclose(again.x, np.linalg.solve(A, b[::-1]), rtol=1e-6, atol=1e-7 * norm(again.x))
    assert third.nit <= 0.6 * first.nit
    # The harvest are the smallest eigenvectors of M^-1 A in the space, in the end of the matrix itself.
    values = np.sort(linalg.eigvals(M @ A).real)[:4]
    found = linalg.eigh(third.U.conj().T @ A @ third.U, third.U.conj().T @ np.linalg.solve(M, third.U))[0][:4]
    np.testing.assert_allclose(found, values, rtol=5e-2)  # the next value is a third away


def test_recycled_cg_is_cg_on_the_rest_of_the_spectrum():
    A, b = problems.spd(N), np.random.default_rng(1).standard_normal(N)
    d, Q = np.linalg.eigh(A)
    res = oracle.rcg(A, b, W=Q[:, :8], k=0, rtol=1e-11, record=True)
    rest = Q[:, 8:] @ (Q[:, 8:].T @ b)
    plain = oracle.cg(A, rest, rtol=1e-11, record=True)
    start = Q[:, :8] @ (Q[:, :8].T @ b / d[:8])
    for with_w, without in zip(res.iterates[:10], plain.iterates[:10], strict=True):
        np.testing.assert_allclose(with_w - start, without, atol=1e-9 * norm(start))
    # A dependent and a doubled column change nothing.
    wide = oracle.rcg(A, b, W=np.column_stack([Q[:, :8], Q[:, 0], Q[:, 1] + Q[:, 2]]), k=0, rtol=1e-11)
    assert abs(wide.nit - res.nit) <= 1
    assert wide.C.shape[1] == 16


def test_an_indefinite_matrix_ends_cg_with_its_own_status():
    res = oracle.cg(problems.indefinite(N), np.random.default_rng(0).standard_normal(N))
    assert res.status == oracle.NOT_SPD


@pytest.mark.parametrize("precondition", [False, True])
def test_minres_takes_scipys_path(precondition):
    A, b = problems.indefinite(N), np.random.default_rng(1).standard_normal(N)
    M = np.diag(1 / (1 + np.random.default_rng(2).random(N))) if precondition else None
    path = []
    minres(A, b, rtol=1e-10, M=M, callback=lambda x: path.append(x.copy()))
    res = oracle.minres(A, b, rtol=1e-10, M=M, record=True)
    assert res.status == oracle.CONVERGED
    assert len(path) > 20
    for ours, theirs in zip(res.iterates[:20], path[:20], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * norm(theirs))
    np.testing.assert_allclose(res.x, np.linalg.solve(A, b), atol=1e-7 * norm(res.x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_recycled_minres_minimises_over_its_space(dtype):
    A = problems.indefinite(N).astype(dtype)
    rng = np.random.default_rng(4)
    if dtype is complex:
        D = np.exp(1j * rng.random(N))
        A = D[:, None] * A * D.conj()
    b = rng.standard_normal(N).astype(dtype)
    M = np.diag(1 / (1 + rng.random(N)))
    root = np.sqrt(M)  # residuals are measured by M, the inverse application
    U = rng.standard_normal((N, 5)).astype(dtype)
    res = oracle.rminres(A, b, U=U, M=M, k=5, rtol=1e-14, maxiter=10)
    V, C, MC = np.hsplit(res.C, 3)
    assert norm(A @ V - C) <= 1e-11 * norm(A) * norm(V)
    assert norm(C.conj().T @ M @ C - np.eye(5)) < 1e-12
    assert norm(M @ C - MC) < 1e-12
    v = b - C @ (MC.conj().T @ b)
    basis = [M @ v]
    for _ in range(9):
        v = A @ basis[-1]
        v = v - C @ (MC.conj().T @ v)
        basis.append(M @ v / norm(v))
    S = root @ A @ np.column_stack([U, np.linalg.qr(np.column_stack(basis))[0]])
    best = norm(root @ b - S @ np.linalg.lstsq(S, root @ b, rcond=None)[0])
    assert norm(root @ (b - A @ res.x)) == pytest.approx(best, rel=1e-7)
    assert res.residuals[-1] == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("windows", [1, None])
def test_recycled_minres_harvests_the_smallest_values(windows):
    A, rng = problems.indefinite(200), np.random.default_rng(1)
    M = np.diag(1 / (1 + rng.random(200)))
    U, counts = None, []
    for _ in range(4):
        res = oracle.rminres(
            A, rng.standard_normal(200), U=U, M=M, k=8, harvest=40, windows=windows, rtol=1e-8
        )
        assert res.status == oracle.CONVERGED
        U = res.U
        counts.append(res.nit)
    assert counts[-1] <= 0.7 * counts[0]
    values = linalg.eigvals(M @ A).real
    values = np.sort(np.abs(values))[:8]
    small = linalg.eigh(U.T @ A @ U, U.T @ np.linalg.solve(M, U))[0]
    np.testing.assert_allclose(np.sort(np.abs(small))[:4], values[:4], rtol=2e-2)


# ----------------------------------------------------------------------------------------------- sequences


def test_projection_on_old_solutions_is_the_least_squares_one():
    A, b, _ = system()
    X = np.random.default_rng(0).standard_normal((N, 5))
    x0 = oracle.project_solutions(A, b, X)
    np.testing.assert_allclose(x0, X @ np.linalg.lstsq(A @ X, b, rcond=None)[0], rtol=1e-9, atol=1e-12)
    doubled = oracle.project_solutions(A, b, np.column_stack([X, X[:, 2], np.zeros(N)]))
    np.testing.assert_allclose(doubled, x0, rtol=1e-8, atol=1e-10)
    exact = np.linalg.solve(A, b)
    np.testing.assert_allclose(oracle.project_solutions(A, b, np.column_stack([X, exact])), exact, atol=1e-9)
    assert not oracle.project_solutions(A, b, np.zeros((N, 2))).any()


def test_greedy_order_walks_to_the_nearest_and_breaks_ties_by_index():
    np.testing.assert_array_equal(oracle.greedy_order(np.array([0.0, 5.0, 1.0, 2.5, 4.0])), [0, 2, 3, 4, 1])
    np.testing.assert_array_equal(oracle.greedy_order(np.array([0.0, 1.0, -1.0, 1.0])), [0, 1, 3, 2])
    P = np.random.default_rng(0).random((30, 3, 4))
    order = oracle.greedy_order(P, start=4)
    assert order[0] == 4
    assert sorted(order) == list(range(30))
    for t in range(29):
        step = norm(P[order[t]] - P[order[t + 1]])
        assert all(step <= norm(P[order[t]] - P[j]) for j in order[t + 1 :])


def test_nearest_solved_are_the_nearest():
    P = np.array([[0.0], [1.0], [3.0], [7.0], [2.0]])
    assert oracle.nearest_solved(P, [0, 1, 2, 3], 4, 2) == [1, 2]


# ------------------------------------------------------------------------------------------- the problems


def test_published_matrix_is_a_scaled_laplacian_up_to_its_slip():
    s = 9
    q = s - 2
    w = np.exp(problems.random_field(s, 2.5, 7, np.random.default_rng(0)))
    one = 2 * np.eye(q) - np.eye(q, k=1) - np.eye(q, k=-1)
    laplacian = np.kron(one, np.eye(q)) + np.kron(np.eye(q), one)
    A, b = problems.published_darcy(w, as_published=False)
    np.testing.assert_allclose(A.toarray(), laplacian * w[1:-1, 1:-1].ravel(), atol=1e-15)
    np.testing.assert_array_equal(b, np.full(q * q, (q - 1.0) ** -2))
    slipped = problems.published_darcy(w)[0].toarray()
    same = np.ones_like(slipped, bool)
    same[np.arange(q, q * q), np.arange(q * q - q)] = False
    np.testing.assert_array_equal(slipped[same], A.toarray()[same])
    # Column 2 of that diagonal has the coefficient of column 0; the first two come from the boundary row.
    assert slipped[q + 2, 2] == -w[1, 1]
    assert slipped[q, 0] == -w[0, -3]


@pytest.mark.parametrize("dim", [2, 3])
def test_finite_volumes_put_half_cells_in_series(dim):
    layers = np.array([1.0, 4.0, 2.0, 5.0]).reshape(4, *[1] * (dim - 1))
    A, b = problems.true_darcy(layers * np.ones([4] * dim))
    dense = A.toarray()
    np.testing.assert_array_equal(dense, dense.T)
    assert b.size == 4**dim
    stride = 4 ** (dim - 1)  # from one layer to the next
    assert dense[0, stride] == pytest.approx(-2 / (1 / 1 + 1 / 4))
    assert dense[0, 1] == -1.0
    # Rows sum to the faces on the boundary, half a cell away: every face of a corner's `dim` outer sides.
    assert dense[0].sum() == pytest.approx(2 * dim * 1.0)
    inner = np.ravel_multi_index([1] * dim, [4] * dim)
    assert dense[inner].sum() == pytest.approx(0, abs=1e-14)


def test_stencil_ilu_is_the_ilu_of_the_definition():
    rng = np.random.default_rng(0)
    for A in (
        problems.true_darcy(problems.two_phase(8, rng))[0],
        problems.true_darcy(np.exp(rng.random((4, 4, 4))))[0],
    ):
        v = rng.standard_normal(A.shape[0])
        np.testing.assert_allclose(problems.stencil_ilu0(A)(v), problems.ilu0(A)(v), rtol=1e-11)
        L, U = problems.triangular_ilu0(A)
        product = (L @ U).toarray()
        at = A.toarray() != 0
        np.testing.assert_allclose(
            product[at], A.toarray()[at], rtol=1e-12, atol=1e-12
        )  # ILU(0) matches A on its pattern
        assert np.count_nonzero(product[~at]) > 0
        assert sparse.issparse(L)
