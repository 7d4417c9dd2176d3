"""Each piece of the grid oracle against one independent fact: dense algebra, energies, published counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg as scipy_cg

from aitken.datasets import obstacle_mask, poisson_rhs
from tests.oracles import deepcg as oracle
from tests.oracles import preconditioners


def rng(seed=0):
    return np.random.default_rng(seed)


def line(n, low, high):
    """Second differences of n cells with unit spacing, by what lies beyond either end."""
    T = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    if low == "periodic":
        T[0, -1] -= 1
        T[-1, 0] -= 1
        return T
    T[0, 0] -= low == "neumann"
    T[-1, -1] -= high == "neumann"
    return T


def kronecker_sum(lines):
    total = np.zeros((1, 1))
    for T in lines:
        total = np.kron(total, np.eye(len(T))) + np.kron(np.eye(len(total)), T)
    return total


def random_mask(shape, seed, solid=0.25):
    return rng(seed).random(shape) >= solid


# -------------------------------------------------------------------------------------------------- operator


@pytest.mark.parametrize(
    ("shape", "exterior"),
    [
        ((5, 7), "dirichlet"),
        ((5, 4), "neumann"),
        ((6, 3), "periodic"),
        ((1, 6), "dirichlet"),
        ((5, 6), ["periodic", ("neumann", "dirichlet")]),
        ((3, 4, 5), "dirichlet"),
        ((3, 5, 4), [("dirichlet", "neumann"), "periodic", "neumann"]),
    ],
)
def test_a_box_without_obstacles_is_a_kronecker_sum(shape, exterior):
    h = 0.5 + np.arange(len(shape))
    ends = [exterior] * len(shape) if isinstance(exterior, str) else exterior
    ends = [(end, end) if isinstance(end, str) else end for end in ends]
    lines = [line(n, *end) / step**2 for n, end, step in zip(shape, ends, h, strict=True)]
    A = oracle.operator(np.ones(shape, dtype=bool), spacing=h, exterior=exterior, shift=0.3)
    np.testing.assert_allclose(
        A.toarray(), kronecker_sum(lines) + 0.3 * np.eye(int(np.prod(shape))), atol=1e-14
    )


@pytest.mark.parametrize("periodic", [False, True])
def test_energy_is_that_of_the_faces(periodic):
    """x'Ax = sum of w (x_i - x_j)^2 over faces between fluid cells and w x_i^2 over those to p = 0."""
    shape, h = (6, 5), (0.5, 2.0)
    flags = rng(1).choice([0, 0, 0, 1, 2], size=shape).astype(np.uint8)
    faces = [rng(2).random((7, 5)), rng(3).random((6, 6))]
    exterior = ["periodic", "dirichlet"] if periodic else [("neumann", "dirichlet"), "dirichlet"]
    A = oracle.operator(flags, spacing=h, exterior=exterior, conductance=faces, shift=0.1)
    x = np.where(flags == oracle.FLUID, rng(4).standard_normal(shape), 0.0)
    energy = 0.1 * float((x**2).sum())
    for j in range(5):
        for i in range(7):
            if periodic and i == 6:
                continue  # the first face again
            low, high = (i - 1) % 6 if periodic else i - 1, i % 6 if periodic else i
            kinds = [flags[k, j] if 0 <= k < 6 else (1 if k < 0 else 2) for k in (low, high)]
            values = [x[k, j] if 0 <= k < 6 else 0.0 for k in (low, high)]
            if oracle.SOLID not in kinds:
                energy += faces[0][i, j] / h[0] ** 2 * (values[0] - values[1]) ** 2
    for i in range(6):
        for j in range(6):
            kinds = [flags[i, k] if 0 <= k < 5 else 2 for k in (j - 1, j)]
            values = [x[i, k] if 0 <= k < 5 else 0.0 for k in (j - 1, j)]
            if oracle.SOLID not in kinds:
                energy += faces[1][i, j] / h[1] ** 2 * (values[0] - values[1]) ** 2
    assert float(x.ravel() @ (A @ x.ravel())) == pytest.approx(energy, rel=1e-13)
    empty = (flags != oracle.FLUID).ravel()
    assert abs(A - A.T).max() == 0
    assert not A[empty].toarray().any()


@pytest.mark.parametrize("shape", [(7, 6), (4, 5, 3)])
def test_the_two_ways_to_a_level_agree(shape):
    fluid = random_mask(shape, 5)
    one, other = oracle.finest(fluid), oracle.box_level(fluid)
    for a, b in zip([*one.w, *one.e], [*other.w, *other.e], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("exterior", ["dirichlet", "neumann", "periodic"])
def test_components_are_those_of_the_graph_and_singular_ones_its_null_space(exterior):
    fluid = random_mask((9, 8), 6, solid=0.45)
    level = oracle.finest(fluid, exterior=exterior)
    label, singular = oracle.components(level, fluid)
    A = level.matrix()
    inside = fluid.ravel()
    count, graph = connected_components(A[inside][:, inside], directed=False)
    assert count == len(singular)
    pairs = set(zip(graph.tolist(), label.ravel()[inside].tolist(), strict=True))
    assert len(pairs) == count
    spectrum = np.linalg.eigvalsh(A[inside][:, inside].toarray())
    assert np.count_nonzero(spectrum < 1e-10) == sum(singular)
    x = rng(7).standard_normal(inside.size) * inside
    flat, taken = oracle.project(x, label, singular)
    null = [(label.ravel() == k).astype(float) for k, free in enumerate(singular) if free]
    assert null
    for v in null:
        assert norm(A @ v) == 0
        assert abs(v @ flat) < 1e-12
    assert taken == pytest.approx(norm(x - flat))
    assert norm(x) ** 2 == pytest.approx(taken**2 + norm(flat) ** 2)


# ------------------------------------------------------------------------------------------------- multigrid


@pytest.mark.parametrize("d", [2, 3])
def test_coarse_grids_discretise_anew(d):
    """Without obstacles: conductance 2^(d-2) per level, p = 0 half a finest cell outside."""
    level = oracle.box_level(np.ones((16,) * d, dtype=bool))
    for k in (1, 2):
        level = oracle.coarser(level)
        n = 16 // 2**k
        assert level.shape == (n,) * d
        inner = np.take(level.w[0], range(1, n), axis=0)
        np.testing.assert_array_equal(inner, 2.0 ** (k * (d - 2)))
        np.testing.assert_allclose(level.c, 2.0 ** (k * (d - 2)))
        # A line of n cells of width 2^k: conductance area / distance.
        area, distance = 2.0 ** (k * (d - 1)), 0.5 * 2.0**k + 0.5
        expected = area / distance
        edge = level.exterior_diagonal()[(0, *(n // 2,) * (d - 1))]
        assert edge == pytest.approx(expected)


def test_odd_ends_have_their_own_widths():
    """A line of 11 cells: conductance is area over the distance of centres, to p = 0 half a cell outside."""
    level = oracle.finest(np.ones(11, dtype=bool))
    for n, width in ((6, [2, 2, 2, 2, 2, 1]), (3, [4, 4, 3])):
        level = oracle.coarser(level)
        assert level.shape == (n,)
        np.testing.assert_array_equal(level.width[0], width)
        apart = np.add(width[1:], width[:-1]) / 2
        np.testing.assert_allclose(level.w[0][1:], 1 / apart)
        ends = level.exterior_diagonal()[[0, -1]]
        np.testing.assert_allclose(ends, [1 / (width[0] / 2 + 0.5), 1 / (width[-1] / 2 + 0.5)])
    ring = oracle.coarser(oracle.finest(np.ones(7, dtype=bool), exterior="periodic"))
    np.testing.assert_allclose(ring.w[0], [1 / 1.5, 0.5, 0.5, 1 / 1.5])


def test_a_wall_of_one_cell_stays_closed():
    fluid = np.ones((16, 16), dtype=bool)
    fluid[8] = False
    level = oracle.finest(fluid, exterior="neumann")
    for _ in range(2):
        level = oracle.coarser(level)
        assert not level.w[0][level.shape[0] // 2].any()


def test_axes_are_halved_where_they_are_strongly_coupled():
    assert oracle.halved_axes((16, 16), [1.0, 1.0]) == [True, True]
    assert oracle.halved_axes((16, 16), [1.0, 0.4]) == [True, False]
    assert oracle.halved_axes((4, 16), [1.0, 0.4]) == [False, True]
    level = oracle.finest(np.ones((16, 16), dtype=bool), spacing=(1.0, 4.0))
    shapes = [level.shape]
    while any(oracle.halved_axes(level.shape, level.c)):
        level = oracle.coarser(level)
        shapes.append(level.shape)
    assert shapes == [(16, 16), (8, 16), (4, 16), (4, 8), (4, 4)]


@pytest.mark.parametrize("shape", [(16, 12), (10, 12, 14)])
def test_transfers_are_interpolations(shape):
    """Constants stay constant, and away from the ends linear functions stay linear."""
    fine = oracle.finest(np.ones(shape, dtype=bool), exterior="periodic")
    coarse = oracle.coarser(fine)
    constant, linear = oracle.transfers(fine, coarse)
    ones = np.ones(coarse.s.size)
    np.testing.assert_array_equal(constant @ ones, 1)
    np.testing.assert_array_equal(ones @ (constant.T @ constant), 2.0 ** len(shape))
    np.testing.assert_allclose(linear @ ones, 1)
    inner = tuple(slice(2, -2) for _ in shape)
    for a in range(len(shape)):
        on_fine, on_coarse = np.indices(shape)[a], 2.0 * np.indices(coarse.shape)[a] + 0.5
        np.testing.assert_allclose((linear @ on_coarse.ravel()).reshape(shape)[inner], on_fine[inner])
        assert abs((constant @ on_coarse.ravel()).reshape(shape) - on_fine).max() == 0.5


def test_the_linear_transfer_meets_walls_and_ends():
    fluid = np.ones((16, 16), dtype=bool)
    fluid[8] = False
    fine = oracle.finest(fluid, exterior=["dirichlet", "neumann"])
    coarse = oracle.coarser(fine)
    P = oracle.transfers(fine, coarse)[1].toarray().reshape(16, 16, 8, 8)
    assert not P[:8, :, 4:].any()  # nothing comes across the wall
    assert not P[8:, :, :4].any()
    sums = P.sum(axis=(2, 3))
    np.testing.assert_allclose(sums[1:15], 1)
    np.testing.assert_allclose(sums[[0, 15]], 0.75)  # towards p = 0
    np.testing.assert_allclose(P[1:7, 0, :, 0].sum(axis=1), 1)  # nothing beyond a closed end


def test_the_coarsest_grid_is_solved_exactly():
    fluid = obstacle_mask("none", (4, 3))
    level = oracle.finest(fluid)
    np.testing.assert_allclose(
        oracle.Multigrid(level).dense(), np.linalg.inv(level.matrix().toarray()), atol=1e-13
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_the_chebyshev_smoother_is_its_polynomial(degree):
    level = oracle.finest(np.ones((6, 5), dtype=bool), shift=0.2)
    mg = oracle.Multigrid(level, smoother="chebyshev", degree=degree, lower_ratio=6)
    b = rng(8).standard_normal(30)
    x = mg.smooth(0, b, np.zeros(30), reverse=False)
    M = preconditioners.chebyshev(level.matrix().toarray(), degree - 1, 2 / 6, 2)
    np.testing.assert_allclose(x, M @ b, rtol=1e-11)


OPTIONS = {
    "W": {},
    "V": {"visits": 1},
    "Chebyshev V": {"visits": 1, "smoother": "chebyshev"},
    "one sweep": {"visits": 1, "omega": [0.7]},
    "two unlike sweeps": {"visits": 2, "omega": [1.24, 0.6]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("exterior", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("shape", [(13, 9), (7, 6, 5)])
def test_cycles_are_symmetric_and_positive_definite(options, exterior, shape):
    """On every mask, where A is: on vectors without means on singular components."""
    for seed in range(3):
        fluid = random_mask(shape, seed, solid=0.2 + 0.1 * seed)
        level = oracle.finest(fluid, exterior=exterior)
        mg = oracle.Multigrid(level, fluid=fluid, **options)
        unknown = fluid.ravel()
        Q = np.stack([oracle.project(u, mg.label, mg.singular)[0] for u in np.eye(fluid.size)])
        B = (mg.dense() @ Q)[np.ix_(unknown, unknown)]
        assert abs(B - B.T).max() <= 1e-12 * abs(B).max()
        spectrum = np.linalg.eigvalsh(B)
        singular = sum(mg.singular)
        assert np.count_nonzero(spectrum <= 1e-9 * spectrum[-1]) == singular
        assert abs(spectrum[:singular]).max(initial=0) < 1e-12 * spectrum[-1]


@pytest.mark.parametrize("exterior", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("shape", [(13, 16), (8, 6, 9)])
def test_coarse_operators_are_at_least_half_of_the_galerkin_product(exterior, shape):
    """P'AP <= 2 A_c for constant P: what keeps a second visit, and with it the W-cycle, positive definite."""
    fluid = random_mask(shape, 9)
    level = oracle.finest(fluid, spacing=1.0 + 0.3 * np.arange(len(shape)), exterior=exterior, shift=0.01)
    while any(oracle.halved_axes(level.shape, level.c)):
        coarse = oracle.coarser(level)
        P = oracle.transfers(level, coarse)[0]
        gap = (2.0 * coarse.matrix() - P.T @ level.matrix() @ P).toarray()
        assert np.linalg.eigvalsh(gap)[0] >= -1e-12 * abs(gap).max()
        level = coarse


@pytest.mark.parametrize("seed", range(4))
def test_adversarial_fields_stay_positive_definite(seed):
    """One phi in (0, 1] for all sweeps: extremes on a checkerboard, and any prolongation."""
    random = rng(seed)
    fluid = random_mask((12, 11), seed)
    level = oracle.finest(fluid)
    plain = oracle.Multigrid(level)
    checker = [np.indices(one.shape).sum(axis=0) % 2 for one in plain.levels]
    fields = [
        oracle.Fields(np.where(c, 1.0, 0.02), random.random(c.shape), random.uniform(0.5, 2.0, c.shape))
        for c in checker
    ]
    mg = oracle.Multigrid(level, visits=1, omega=[1.24, 0.6], fields=fields)
    unknown = (level.diagonal() > 0).ravel()
    B = mg.dense()[np.ix_(unknown, unknown)]
    assert abs(B - B.T).max() <= 1e-12 * abs(B).max()
    assert np.linalg.eigvalsh(B)[0] > 0


def test_factors_swapped_from_cell_to_cell_are_not_safe():
    """Why one field serves all sweeps: 1.3 and 0.8 in either order grow the error in the energy."""
    level = oracle.finest(np.ones((16, 16), dtype=bool))
    A = level.matrix().toarray()
    D = level.diagonal().ravel()
    checker = (np.indices((16, 16)).sum(axis=0) % 2).ravel()
    first, second = np.where(checker, 1.3, 0.8), np.where(checker, 0.8, 1.3)
    E = (np.eye(256) - (second / D)[:, None] * A) @ (np.eye(256) - (first / D)[:, None] * A)
    root = np.linalg.cholesky(A).T
    assert norm(root @ E @ np.linalg.inv(root), 2) > 1.1


# -------------------------------------------------------------------------------- counts that are known

# Iterations to 1e-4 for white right-hand sides: none, ball, multi; of CG, and of the V- and the W-cycle.
KNOWN = {
    (64, 64): ((129, 117, 157), (5, 5, 6), (4, 4, 4)),
    (128, 128): ((241, 253, 322), (5, 5, 6), (4, 4, 4)),
    (256, 256): ((491, 460, 545), (5, 5, 7), (4, 4, 4)),
    (16, 16, 16): ((38, 38, 42), None, (5, 5, 5)),
    (32, 32, 32): ((69, 69, 71), None, (5, 5, 5)),
}


@pytest.mark.parametrize("n", [63, 65, 129])
def test_odd_sides_take_no_more_iterations(n):
    fluid = obstacle_mask("none", (n, n))
    level = oracle.box_level(fluid)
    for kind, most in (("white", 5), ("dipole", 6)):
        b = poisson_rhs(kind, fluid).ravel()
        assert oracle.pr_pcg(level.matrix(), b, oracle.Multigrid(level, visits=1), rtol=1e-4).nit <= most


@pytest.mark.parametrize("shape", KNOWN, ids=lambda s: "x".join(map(str, s)))
def test_iteration_table(shape):
    for k, kind in enumerate(("none", "ball", "multi")):
        fluid = obstacle_mask(kind, shape)
        level = oracle.box_level(fluid)
        A, b = level.matrix(), poisson_rhs("white", fluid).ravel()
        plain, v, w = KNOWN[shape]
        models = [(lambda r: r, plain[k]), (oracle.Multigrid(level), w[k])]
        if v is not None:
            models.append((oracle.Multigrid(level, visits=1), v[k]))
        for model, known in models:
            res = oracle.pr_pcg(A, b, model, rtol=1e-4)
            assert res.status == oracle.CONVERGED
            assert norm(b - A @ res.x) <= 1.001e-4 * norm(b)
            assert abs(res.nit - known) <= 1, (kind, res.nit, known)


# ------------------------------------------------------------------------------------------------------ loops


def identity(r):
    return r


def iterates_of_cg(A, b, steps):
    seen = []
    scipy_cg(A, b, rtol=0.0, atol=0.0, maxiter=steps, callback=lambda x: seen.append(x.copy()))
    return seen


LOOPS = {
    "pr_pcg": lambda A, b, k: oracle.pr_pcg(A, b, identity, rtol=0.0, maxiter=k),
    "published": lambda A, b, k: oracle.published(A, b, identity, rtol=0.0, maxiter=k),
    "robust, one kept": lambda A, b, k: oracle.robust(
        A, b, identity, rtol=0.0, maxiter=k, n_previous=1, enrich=False
    ),
    "robust, two kept": lambda A, b, k: oracle.robust(A, b, identity, rtol=0.0, maxiter=k, enrich=False),
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_loops_with_the_identity_are_cg(loop):
    fluid = obstacle_mask("multi", (32, 32))
    A, b = oracle.box_level(fluid).matrix(), poisson_rhs("white", fluid).ravel()
    expected = iterates_of_cg(A, b, 50)
    for k in (1, 2, 3, 10, 50):
        x = loop(A, b, k).x
        np.testing.assert_allclose(x, expected[k - 1], atol=1e-9 * norm(expected[k - 1], np.inf))


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_spd_model_makes_one_kept_direction_enough(seed):
    fluid = obstacle_mask("multi", (24, 24), seed=seed)
    level = oracle.box_level(fluid)
    A, b = level.matrix(), poisson_rhs("dipole", fluid).ravel()
    mg = oracle.Multigrid(level)
    x = oracle.pr_pcg(A, b, mg, rtol=0.0, maxiter=4).x
    for other in (
        oracle.published(A, b, mg, rtol=0.0, maxiter=4),
        oracle.robust(A, b, mg, rtol=0.0, maxiter=4, enrich=False),
    ):
        np.testing.assert_allclose(other.x, x, atol=1e-10 * norm(x, np.inf))


def bend(r):
    """A nonlinear model that is no good."""
    return np.abs(r) + 0.3 * r - r**3


@pytest.mark.parametrize("n", [5, 12, 20])
@pytest.mark.parametrize("enrich", [False, True])
def test_all_directions_kept_solve_in_n_steps(n, enrich):
    X = rng(n).standard_normal((n, n))
    A = X @ X.T + np.eye(n)
    b = rng(n + 1).standard_normal(n)
    res = oracle.robust(A, b, bend, rtol=1e-10, maxiter=n, n_previous=n, enrich=enrich)
    assert res.status == oracle.CONVERGED
    assert norm(A @ res.x - b) <= 1e-10 * norm(b)


def test_every_step_is_at_least_steepest_descent():
    """Where the residual is among the directions, the error's energy falls by (1 - 1/kappa)."""
    fluid = obstacle_mask("ball", (10, 10))
    inside = fluid.ravel()
    A = oracle.box_level(fluid).matrix()[inside][:, inside].toarray()
    b = rng(3).standard_normal(len(A))
    exact = np.linalg.solve(A, b)
    spectrum = np.linalg.eigvalsh(A)
    rate = 1 - spectrum[0] / spectrum[-1]
    energy = b @ exact
    for k in range(1, 12):
        x = oracle.robust(A, b, bend, rtol=0.0, maxiter=k).x
        left = (x - exact) @ A @ (x - exact)
        assert left <= rate * energy
        energy = left


@pytest.fixture(scope="module")
def hard():
    fluid = obstacle_mask("multi", (64, 64))
    level = oracle.box_level(fluid)
    A, b = level.matrix(), poisson_rhs("white", fluid).ravel()
    return A, b, oracle.Multigrid(level)


def test_bad_models_cost_no_more_than_cg(hard):
    A, b, mg = hard
    plain = oracle.pr_pcg(A, b, identity, rtol=1e-4).nit
    assert plain == 157
    half = np.arange(b.size) % 2
    random = rng(0)
    models = {
        "NaN": lambda r: np.full(r.size, np.nan),
        "zero": np.zeros_like,
        "random": lambda r: random.standard_normal(r.size) * (b != 0),
        "half the cells": lambda r: half * r,
    }
    for name, model in models.items():
        res = oracle.robust(A, b, model, rtol=1e-4)
        assert res.status == oracle.CONVERGED
        assert norm(b - A @ res.x) <= 1e-4 * norm(b), name
        assert res.nit <= 1.2 * plain, (name, res.nit)
        assert res.n_replaced == (res.nit if name in ("NaN", "zero") else 0)
    flipped = oracle.robust(A, b, lambda r: -mg(r), rtol=1e-4)
    assert flipped.nit <= 6
    lost = oracle.published(A, b, models["random"], rtol=1e-4, maxiter=300)
    assert lost.status == oracle.MAXITER
    assert lost.residuals[-1] > 1e-2 * lost.residuals[0]


@pytest.mark.parametrize("name", ["NaN", "random", "half the cells"])
def test_a_model_without_use_hands_over(hard, name):
    A, b, mg = hard
    alone = oracle.pr_pcg(A, b, mg, rtol=1e-4).nit
    random = rng(0)
    model = {
        "NaN": lambda r: np.full(r.size, np.nan),
        "random": lambda r: random.standard_normal(r.size) * (b != 0),
        "half the cells": lambda r: np.arange(r.size) % 2 * r,
    }[name]
    res = oracle.robust(A, b, model, rtol=1e-4, fallback=mg)
    assert res.status == oracle.CONVERGED
    assert res.fallback_step == (oracle.PATIENCE if name == "NaN" else 15)
    assert res.nit <= alone + 20
    assert norm(b - A @ res.x) <= 1e-4 * norm(b)
    good = oracle.robust(A, b, lambda r: -mg(r), rtol=1e-4, fallback=mg)
    assert good.fallback_step is None


def test_no_direction_is_a_breakdown_and_an_indefinite_matrix_is_found():
    A = sparse.csr_array(np.diag([1.0, 2.0, 3.0]))
    b = np.array([0.0, 1.0, 0.0])
    res = oracle.published(A, b, np.zeros_like)
    assert res.status == oracle.BREAKDOWN
    A = sparse.csr_array(np.diag([1.0, -2.0, 3.0]))
    for res in (oracle.robust(A, np.ones(3), identity), oracle.pr_pcg(A, np.ones(3), identity)):
        assert res.status == oracle.NOT_SPD
