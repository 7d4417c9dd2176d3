"""Models: how fast good ones are, that broken ones do no harm, and the forms they may have."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sl

from aitken import ConvergenceWarning, Status
from aitken.datasets import obstacle_mask, poisson_rhs
from aitken.linalg import (
    IC0,
    GridPoisson,
    Jacobi,
    Multigrid,
    as_preconditioner,
    deep_conjugate_direction,
    prepare,
    save_model,
)
from aitken.linalg._deepcg_networks import VARIANTS, ConvolutionalModel, LearnedMultigrid, cycle_shapes

CASES = {
    "2-D white": ("multi", (64, 64), "white"),
    "2-D dipole": ("multi", (64, 64), "dipole"),
    "3-D white": ("multi", (24, 24, 24), "white"),
    "2-D open": ("none", (48, 80), "white"),
}


def _case(name):
    kind, shape, rhs = CASES[name]
    mask = obstacle_mask(kind, shape)
    return GridPoisson(shape, mask), poisson_rhs(rhs, mask)


def _broken(name, grid):
    """A model that is of no use, or works against the solver; new each time."""
    rng = np.random.default_rng(0)
    M = as_preconditioner("mg", grid)
    half = np.random.default_rng(1).random(grid.grid_shape) < 0.5

    def cycle(r):
        return (M @ r.ravel()).reshape(r.shape)

    return {
        "NaN": lambda r: np.full(r.shape, np.nan),
        "Inf in one cell": lambda r: np.where(np.arange(r.size).reshape(r.shape) == 40, np.inf, r),
        "zero": lambda r: np.zeros(r.shape),
        "random": lambda r: rng.normal(size=r.shape),
        "constant": lambda r: np.ones(r.shape),
        "sign-flipped": lambda r: -cycle(r),
        "half zero": lambda r: np.where(half, cycle(r), 0),
        "sign of each cell lost": lambda r: np.abs(cycle(r)),
        "identity": lambda r: r,
    }[name]


BROKEN = (
    *("NaN", "Inf in one cell", "zero", "random", "constant", "sign-flipped", "half zero"),
    *("sign of each cell lost", "identity"),
)


# ------------------------------------------------------------------------------------------- broken models


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("case", CASES)
def test_a_broken_model_costs_little(case, name):
    """No more than CG and a fifth without a fallback; with it no later than the fallback and 20 steps.

    A constant direction has something to add, and takes a little more than its share.
    """
    grid, b = _case(case)
    for rtol in (1e-4, 1e-7):
        cg = deep_conjugate_direction(grid, b, model="identity", rtol=rtol).nit
        alone = deep_conjugate_direction(grid, b, model="mg", rtol=rtol).nit
        result = deep_conjugate_direction(grid, b, model=_broken(name, grid), fallback=None, rtol=rtol)
        assert result.converged
        assert result.fallback_step is None
        assert result.nit <= (1.25 if name == "constant" else 1.2) * cg
        result = deep_conjugate_direction(grid, b, model=_broken(name, grid), rtol=rtol)
        assert result.converged
        assert result.nit <= alone + 20


@pytest.mark.parametrize("name", ["NaN", "zero", "random", "sign-flipped", "half zero"])
@pytest.mark.parametrize("case", ["2-D white", "2-D dipole", "3-D white"])
def test_the_same_for_a_matrix(case, name):
    grid, b = _case(case)
    A, b = grid.tocsr(), grid.compress(b)
    model = _broken(name, grid)
    alone = deep_conjugate_direction(A, b, rtol=1e-5)
    assert alone.model == "mic0"
    result = deep_conjugate_direction(A, b, model=lambda r: grid.compress(model(grid.expand(r))))
    assert result.converged
    assert result.nit <= alone.nit + 20


@pytest.mark.parametrize("name", ["NaN", "zero", "random", "half zero"])
def test_why_and_when_the_fallback_took_over(name):
    grid, b = _case("2-D white")
    result = deep_conjugate_direction(grid, b, model=_broken(name, grid))
    assert result.fallback_step == (3 if name in ("NaN", "zero") else 15)
    assert result.n_model == result.fallback_step
    assert result.n_replaced == (3 if name in ("NaN", "zero") else 0)
    assert len(result.residuals) == result.nit + 1
    later = deep_conjugate_direction(grid, b, model=_broken("random", grid), stall_window=25)
    assert later.fallback_step == 25
    never = deep_conjugate_direction(grid, b, model=_broken("random", grid), stall_window=0)
    assert never.fallback_step is None
    other = deep_conjugate_direction(grid, b, model=_broken("random", grid), fallback="mic0")
    assert other.fallback_step == 15


def test_one_bad_output_is_forgiven():
    grid, b = _case("2-D white")
    M, calls = as_preconditioner("mg", grid), []

    def model(r):
        calls.append(1)
        return np.full(r.shape, np.nan) if len(calls) == 2 else (M @ r.ravel()).reshape(r.shape)

    result = deep_conjugate_direction(grid, b, model=model)
    assert result.fallback_step is None
    assert result.n_replaced == 1
    assert result.nit <= 7


@pytest.mark.parametrize("case", CASES)
def test_a_good_model_is_kept(case):
    """Neither judgement fires on a model that is worth its time, though it is not linear."""
    grid, b = _case(case)
    A, compact = grid.tocsr(), grid.compress(b)
    rng = np.random.default_rng(0)
    M, ic = as_preconditioner("mg", grid), IC0(A)
    for model in (
        lambda r: ic @ r,
        lambda r: (ic @ r).astype(np.float16),
        lambda r: (1 + 0.3 * rng.normal(size=r.shape)) * (ic @ r),
        Jacobi(A).dot,
    ):
        result = deep_conjugate_direction(A, compact, model=model)
        assert result.converged
        assert result.fallback_step is None
    result = deep_conjugate_direction(
        grid, b, model=lambda r: (1 + 0.1 * rng.normal()) * (M @ r.ravel()).reshape(r.shape)
    )
    assert result.fallback_step is None


def test_as_published_nothing_is_saved():
    grid, b = _case("2-D white")
    for name, status in (
        ("NaN", Status.NONFINITE),
        ("zero", Status.BREAKDOWN),
        ("random", Status.MAX_ITERATIONS),
    ):
        with pytest.warns(ConvergenceWarning):
            result = deep_conjugate_direction(
                grid, b, model=_broken(name, grid), method="published", maxiter=400
            )
        assert result.status == status
        assert result.true_residual > 0.1 * np.linalg.norm(b)
        recomputed = np.linalg.norm(grid.compress(b) - grid.tocsr() @ grid.compress(result.x))
        assert result.true_residual == pytest.approx(recomputed)


def test_a_model_may_do_what_it_likes_with_its_input():
    grid, b = _case("2-D white")
    M = as_preconditioner("mg", grid)
    plain = deep_conjugate_direction(grid, b, model=lambda r: (M @ r.ravel()).reshape(r.shape))
    kept = []

    def overwrites(r):
        kept.append(r)
        r[...] = (M @ r.ravel()).reshape(r.shape)
        for old in kept[:-1]:
            old[...] = np.nan
        return r

    result = deep_conjugate_direction(grid, b, model=overwrites)
    np.testing.assert_array_equal(result.x, plain.x)
    same = np.empty(grid.grid_shape)

    def one_buffer(r):
        same[...] = (M @ r.ravel()).reshape(r.shape)
        return same

    np.testing.assert_array_equal(deep_conjugate_direction(grid, b, model=one_buffer).x, plain.x)


def test_what_a_model_sees():
    grid, b = _case("2-D white")
    seen = []

    def model(r):
        seen.append(r.copy())
        return r

    deep_conjugate_direction(grid, 1e100 * b, model=model, maxiter=20, fallback=None, rtol=1e-1)
    assert all(r.shape == (64, 64) for r in seen)
    assert all(r.dtype == np.float64 for r in seen)
    np.testing.assert_allclose([np.linalg.norm(r) for r in seen], 1.0, rtol=1e-12)
    assert not any(r[~grid.fluid].any() for r in seen)
    seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for method in ("pcg", "published"):
            deep_conjugate_direction(
                grid.tocsr(), grid.compress(b), model=model, method=method, maxiter=5, fallback=None
            )
    assert all(r.shape == (grid.n_fluid,) for r in seen)
    np.testing.assert_allclose([np.linalg.norm(r) for r in seen], 1.0, rtol=1e-12)


# --------------------------------------------------------------------------------------------- good models

# Iterations to 1e-4 and 1e-6 at 64^2 and 32^3, white: as measured when the models were designed.
COUNTS = {
    ("mg", 2, "none"): (4, 6),
    ("mg", 2, "ball"): (4, 6),
    ("mg", 2, "multi"): (4, 6),
    ("mg", 3, "none"): (5, 7),
    ("mg", 3, "ball"): (5, 7),
    ("mg", 3, "multi"): (5, 7),
    ("fft", 2, "none"): (1, 1),
    ("fft", 2, "ball"): (5, 7),
    ("fft", 2, "multi"): (13, 17),
    ("mic0", 2, "multi"): (27, 39),
}


@pytest.mark.parametrize(("model", "ndim", "kind"), COUNTS)
def test_iterations(model, ndim, kind):
    shape = (64, 64) if ndim == 2 else (32, 32, 32)
    mask = obstacle_mask(kind, shape)
    grid, b = GridPoisson(shape, mask), poisson_rhs("white", mask)
    for rtol, most in zip((1e-4, 1e-6), COUNTS[model, ndim, kind], strict=True):
        result = deep_conjugate_direction(grid, b, model=model, rtol=rtol)
        assert result.converged
        assert result.nit <= most + (model != "mg")
        assert result.fallback_step is None


@pytest.mark.parametrize(
    ("shape", "exterior"),
    [
        ((11,), "dirichlet"),
        ((9, 12), "neumann"),
        ((8, 15), "periodic"),
        ((7, 10), (("neumann", "dirichlet"), "periodic")),
        ((6, 5), (("dirichlet", "neumann"), ("neumann", "dirichlet"))),
        ((5, 6, 7), ("periodic", ("neumann", "dirichlet"), "periodic")),
        ((1, 6), "periodic"),
        ((2, 3), "periodic"),
        ((4, 1, 5), "neumann"),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_fft_is_exact_without_obstacles(shape, exterior, shift):
    spacing = tuple(0.5 + 0.25 * a for a in range(len(shape)))
    grid = GridPoisson(shape, exterior=exterior, shift=shift, spacing=spacing)
    b = np.random.default_rng(0).normal(size=shape)
    if grid.n_singular:
        b -= b.mean()
    result = deep_conjugate_direction(grid, b, model="fft", rtol=1e-11)
    assert result.converged
    assert result.nit == 1
    M = as_preconditioner("fft", grid) @ np.eye(b.size)
    np.testing.assert_allclose(M, M.T, atol=1e-12 * np.abs(M).max())
    assert np.linalg.eigvalsh(M).min() > 0


def test_fft_with_obstacles_and_closed_sides():
    """The box alone is singular, the grid with cells held at zero is not."""
    flags = np.zeros((20, 20), dtype=np.uint8)
    flags[8:11, 9:12] = 2
    grid, b = GridPoisson((20, 20), flags, exterior="neumann"), np.random.default_rng(0).normal(size=(20, 20))
    assert grid.n_singular == 0
    result = deep_conjugate_direction(grid, b, model="fft", rtol=1e-9)
    assert result.converged
    assert result.nit <= 20


@pytest.mark.parametrize(
    "model",
    [
        Multigrid(),
        Multigrid("V"),
        Multigrid("V", smoother="chebyshev"),
        Multigrid("W", smoother="chebyshev", degree=2),
        Multigrid("V", smoother="jacobi"),
        Multigrid("V", smoother="jacobi", omega=(1.24, 0.6)),
    ],
    ids=lambda m: f"{m.cycle} {m.smoother} {m.omega} {m.degree}",
)
def test_multigrid_options(model):
    grid, b = _case("2-D white")
    result = deep_conjugate_direction(grid, b, model=model, rtol=1e-6)
    assert result.converged
    assert result.nit <= 10
    assert result.model == ("mg" if model.cycle == "W" else "mg_v")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cycle": "F"}, "`cycle`"),
        ({"smoother": "sor"}, "`smoother`"),
        ({"degree": 0}, "`degree`"),
        ({"degree": 9}, "`degree`"),
        ({"lower_ratio": 1.0}, "`lower_ratio`"),
        ({"smoother": "jacobi", "omega": (np.nan,)}, "`omega`"),
        ({"omega": (0.8, 0.8)}, "`omega` is of Jacobi"),
    ],
)
def test_multigrid_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Multigrid(**options)


def test_sweeps_that_diverge_are_refused():
    with pytest.raises(ValueError, match="omega"):
        prepare(GridPoisson((16, 16)), Multigrid(smoother="jacobi", omega=(2.5,)))


def test_default_models():
    grid, b = _case("2-D white")
    A, compact = grid.tocsr(), grid.compress(b)
    assert deep_conjugate_direction(grid, b).model == "mg"
    assert deep_conjugate_direction(A, compact).model == "mic0"
    assert deep_conjugate_direction(sl.LinearOperator(A.shape, A.dot), compact).model == "identity"
    assert deep_conjugate_direction(A, compact, grid=grid).model == "mg"
    rough = sp.random_array((60, 60), density=0.1, rng=np.random.default_rng(0))
    rough = sp.csr_array(rough @ rough.T + 1e-3 * sp.eye_array(60))
    assert deep_conjugate_direction(rough, np.ones(60), rtol=1e-6).converged


# ------------------------------------------------------------------------------------------ forms of models


def test_model_objects():
    grid, b = _case("2-D white")

    class State:
        def __init__(self, A):
            self.M = as_preconditioner("mg", A)

        def apply(self, r):
            return (self.M @ r.ravel()).reshape(r.shape)

    class Mine:
        name, linear, spd, ndim = "mine", True, True, 2

        def setup(self, A):
            assert isinstance(A, GridPoisson)
            return State(A)

    result = deep_conjugate_direction(grid, b, model=Mine(), rtol=1e-6)
    assert (result.model, result.nit) == ("mine", deep_conjugate_direction(grid, b, rtol=1e-6).nit)
    assert result.matvecs <= result.nit + 2  # conjugate gradients: one product a step

    class Nonlinear(Mine):
        linear = spd = False

    result = deep_conjugate_direction(grid, b, model=Nonlinear(), rtol=1e-6)
    assert result.converged
    assert result.matvecs > 2 * result.nit
    cube = GridPoisson((8, 8, 8))
    with pytest.raises(ValueError, match="`model` 'mine' is for grids of 2 axes"):
        deep_conjugate_direction(cube, np.ones((8, 8, 8)), model=Mine())
    with pytest.raises(TypeError, match="`model` is 'mine', which works on a grid"):
        deep_conjugate_direction(grid.tocsr(), grid.compress(b), model=Mine())

    class Native:
        linear = spd = True

        def setup(self, A):
            return IC0(A)  # has a compiled map

    A = grid.tocsr()
    result = deep_conjugate_direction(A, grid.compress(b), model=Native())
    assert result.nit == deep_conjugate_direction(A, grid.compress(b), model=IC0(A)).nit


def test_operators_as_models():
    grid, b = _case("2-D white")
    A, compact = grid.tocsr(), grid.compress(b)
    M = IC0(A)
    known = deep_conjugate_direction(A, compact, model=M)
    assert known.matvecs <= known.nit + 2  # known to be definite
    unknown = deep_conjugate_direction(A, compact, model=sl.LinearOperator(A.shape, M.dot, dtype=float))
    assert unknown.matvecs > 2 * unknown.nit
    inverse = sl.splu(A.tocsc())
    assert deep_conjugate_direction(A, compact, model=sl.LinearOperator(A.shape, inverse.solve)).nit == 1
    for size in (grid.n_fluid, grid.shape[0]):
        M = as_preconditioner("jacobi", A if size == grid.n_fluid else grid)
        result = deep_conjugate_direction(grid, b, model=M)
        assert result.nit == deep_conjugate_direction(grid, b, model="jacobi").nit
    explicit = sp.diags_array(1 / A.diagonal())
    assert deep_conjugate_direction(A, compact, model=explicit.tocsr(), fallback=None).converged


def test_networks():
    """Whatever weights a network has; these are random."""
    rng = np.random.default_rng(0)
    weights = {k: 0.1 * rng.standard_normal(s) for k, s in VARIANTS["2d"].shapes().items()}
    network = ConvolutionalModel(weights, variant="2d")
    grid, b = _case("2-D white")
    result = deep_conjugate_direction(grid, b, model=network, fallback=None, rtol=1e-4)
    assert result.converged
    assert result.model == "dcdm2d"
    assert result.nit <= 1.2 * deep_conjugate_direction(grid, b, model="identity", rtol=1e-4).nit
    batch = deep_conjugate_direction(grid, np.stack([b, -2 * b]), model=network, rtol=1e-4)
    assert batch.converged
    assert batch.nit[0] <= 25
    with pytest.warns(ConvergenceWarning):
        assert (
            deep_conjugate_direction(
                grid, b, model=network, enrich=False, n_previous=0, fallback=None, rtol=1e-14
            ).nit
            <= 1000  # the default limit for networks
        )


def test_learned_cycle(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {k: 0.3 * rng.standard_normal(s) for k, s in cycle_shapes(2, 2).items()}
    arrays["omega"] = np.array([1.2, 0.6])
    learned = LearnedMultigrid(arrays, ndim=2)
    grid, b = _case("2-D white")
    result = deep_conjugate_direction(grid, b, model=learned, rtol=1e-6)
    assert result.converged
    assert result.model == "learned_mg"
    assert result.fallback_step is None
    path = tmp_path / "mine.npz"
    save_model(path, learned)
    for name in (path, str(path)):
        again = deep_conjugate_direction(grid, b, model=name, rtol=1e-6)
        np.testing.assert_array_equal(again.x, result.x)
    flat = {k: v if k == "omega" else 0 * v for k, v in arrays.items()}
    flat["omega"] = np.array([0.8, 0.8])
    cube = GridPoisson((8, 8, 8))
    with pytest.raises(ValueError, match="2"):
        deep_conjugate_direction(cube, np.ones((8, 8, 8)), model=LearnedMultigrid(flat, ndim=2))


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken\.npz"):
        deep_conjugate_direction(GridPoisson((8, 8)), np.ones((8, 8)), model=path)
