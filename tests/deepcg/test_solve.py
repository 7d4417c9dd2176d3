"""`deep_conjugate_direction`: the loop's mathematics, inputs and outputs, and every way to end."""

from __future__ import annotations

import pickle
import threading
import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sl
from hypothesis import given
from hypothesis import strategies as st

from aitken import ConvergenceWarning, Status
from aitken.datasets import obstacle_mask, poisson_rhs
from aitken.linalg import (
    IC0,
    GridPoisson,
    Multigrid,
    as_preconditioner,
    cg,
    deep_conjugate_direction,
    prepare,
)
from tests.interruption import check_ctrl_c, needs_posix
from tests.oracles import deepcg as oracle

MASK = obstacle_mask("multi", (64, 64))
GRID = GridPoisson((64, 64), MASK)
MATRIX = GRID.tocsr()
WHITE = poisson_rhs("white", MASK)
CG_COUNT = 157  # iterations of CG on it to 1e-4


def _spd(n, seed, spread=2.0):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return Q @ np.diag(10.0 ** rng.uniform(-spread / 2, spread / 2, n)) @ Q.T


def _iterates(solve):
    seen = []
    solve(lambda xk: seen.append(np.array(xk).ravel()))
    return np.array(seen)


def _quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return deep_conjugate_direction(*args, **options)


# --------------------------------------------------------------------------------------------- mathematics


@pytest.mark.parametrize(
    "options",
    [
        {"method": "pcg", "model": "identity"},
        {"method": "robust", "model": "identity", "n_previous": 1},
        {"method": "robust", "model": lambda r: r, "enrich": False},
        {"method": "robust", "model": lambda r: r, "enrich": True},
        {"method": "published", "model": lambda r: r},
    ],
    ids=["pcg", "robust-1", "robust-2", "enriched", "published"],
)
def test_identity_is_cg(options):
    b = WHITE[MASK]
    theirs = _iterates(lambda seen: sl.cg(MATRIX, b, rtol=0, maxiter=50, callback=seen))
    ours = _iterates(
        lambda seen: _quiet(MATRIX, b, rtol=0, maxiter=50, fallback=None, callback=seen, **options)
    )
    assert ours.shape == theirs.shape == (50, len(b))
    scale = np.abs(theirs).max(axis=1, keepdims=True)
    assert (np.abs(ours - theirs) / scale).max() <= 1e-10


def test_a_preconditioner_is_pcg():
    b = WHITE[MASK]
    M = IC0(MATRIX)
    theirs = _iterates(lambda seen: sl.cg(MATRIX, b, M=M, rtol=0, maxiter=30, callback=seen))
    for method in ("pcg", "robust", "published"):
        ours = _iterates(
            lambda seen, method=method: _quiet(
                MATRIX, b, model=M, method=method, rtol=0, maxiter=30, callback=seen
            )
        )
        scale = np.abs(theirs).max(axis=1, keepdims=True)
        assert (np.abs(ours - theirs) / scale).max() <= 1e-9


@pytest.mark.parametrize("n", [1, 2, 3, 7, 13, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_after_n_steps(n, seed):
    """With all steps kept, n directions span everything, whatever a model gives."""
    A, rng = _spd(n, seed), np.random.default_rng(seed + 10)
    b = rng.normal(size=n)
    for model in (lambda r: rng.normal(size=n), lambda r: r, lambda r: np.abs(r)):
        result = deep_conjugate_direction(
            A, b, model=model, method="robust", enrich=False, n_previous=n, fallback=None, rtol=1e-9
        )
        assert result.nit <= n + 1  # one more for rounding
        np.testing.assert_allclose(result.x, np.linalg.solve(A, b), rtol=1e-6)


@pytest.mark.parametrize("enrich", [True, False])
@pytest.mark.parametrize("K", [0, 1, 2, 5])
def test_robust_is_the_oracles(K, enrich):
    A, b = MATRIX, WHITE[MASK]
    rng = np.random.default_rng(1)
    noise = 0.3 * rng.normal(size=(400, len(b)))
    smooth = IC0(A)

    def model():
        calls = iter(noise)
        return lambda r: smooth @ r + np.abs(smooth @ r).mean() * next(calls)

    options = {"n_previous": K, "enrich": enrich, "maxiter": 30, "rtol": 1e-12}
    ours = _quiet(A, b, model=model(), method="robust", fallback=None, **options)
    theirs = oracle.robust(A, b, model(), **options)
    assert ours.nit == theirs.nit == 30
    np.testing.assert_allclose(ours.residuals[:31], theirs.residuals[:31], rtol=1e-6)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=0, atol=1e-7 * np.abs(theirs.x).max())


def test_published_is_the_oracles():
    A, b, M = MATRIX, WHITE[MASK], IC0(MATRIX)
    ours = deep_conjugate_direction(A, b, model=lambda r: M @ r, method="published", rtol=1e-6)
    theirs = oracle.published(A, b, lambda r: M @ r, rtol=1e-6)
    assert ours.nit == theirs.nit
    assert ours.matvecs == 2 * ours.nit
    np.testing.assert_allclose(ours.residuals, theirs.residuals, rtol=1e-6)


@given(seed=st.integers(0, 1000), n=st.integers(1, 40), K=st.integers(0, 3))
def test_error_never_grows(seed, n, K):
    """Every step minimises the A-norm of the error over more than a line."""
    A, rng = _spd(n, seed), np.random.default_rng(seed)
    b = rng.normal(size=n)
    answer = np.linalg.solve(A, b)
    seen = [np.zeros(n)]
    _quiet(
        A,
        b,
        model=lambda r: rng.normal(size=n),
        n_previous=K,
        fallback=None,
        rtol=1e-8,
        maxiter=15,
        callback=lambda xk: seen.append(xk),
    )
    errors = [float((x - answer) @ A @ (x - answer)) for x in seen]
    assert all(new <= old * (1 + 1e-12) + 1e-14 * errors[0] for old, new in pairwise(errors))


# ---------------------------------------------------------------------------------------- inputs and outputs


def test_result_fields_and_certificate():
    result = deep_conjugate_direction(GRID, WHITE, rtol=1e-7)
    x, info = result
    assert info == 0
    assert result.status == Status.CONVERGED
    assert x.shape == (64, 64)
    assert (result.model, result.fallback_step, result.n_replaced) == ("mg", None, 0)
    assert result.n_model == result.nit
    assert result.removed_mean == 0.0
    assert 0 < result.setup_time < result.time
    assert len(result.residuals) == result.nit + 1
    norm = np.linalg.norm(WHITE[MASK] - MATRIX @ x[MASK])
    assert norm <= 1e-7 * np.linalg.norm(WHITE)
    assert result.true_residual == pytest.approx(norm, rel=1e-6)
    assert not x[~MASK].any()


def test_forms_of_vectors_on_a_grid():
    full = deep_conjugate_direction(GRID, WHITE)
    for b in (WHITE.ravel(), WHITE.reshape(-1, 1), WHITE[MASK], WHITE[MASK][:, np.newaxis]):
        result = deep_conjugate_direction(GRID, b)
        assert result.x.shape == b.shape
        x = result.x.ravel() if b.size == 64 * 64 else GRID.expand(result.x).ravel()
        np.testing.assert_array_equal(x, full.x.ravel())
    noisy = np.where(MASK, WHITE, np.nan)  # what cells without an equation hold does not matter
    np.testing.assert_array_equal(deep_conjugate_direction(GRID, noisy).x, full.x)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_batch_is_its_solves(n_threads):
    rng = np.random.default_rng(0)
    B = rng.normal(size=(5, 64, 64)) * np.array([1.0, 1e-150, 1e150, 0.0, 3.0])[:, None, None]
    starts = np.zeros_like(B)
    starts[4] = rng.normal(size=(64, 64))
    for model in ("mg", lambda r: np.roll(r, 1), "mic0"):
        options = {"model": model, "fallback": "mg", "rtol": 1e-6}
        together = deep_conjugate_direction(GRID, B, starts, n_threads=n_threads, **options)
        assert together.converged
        assert together.x.shape == B.shape
        for k in range(5):
            alone = deep_conjugate_direction(GRID, B[k], starts[k], n_threads=1, **options)
            np.testing.assert_array_equal(together.x[k], alone.x)
            assert together.nit[k] == alone.nit
            assert together.n_model[k] == alone.n_model
            assert together.true_residual[k] == pytest.approx(alone.true_residual, rel=1e-3)
            assert together.true_residual[k] <= together.target[k]
            assert together.fallback_step[k] == (-1 if alone.fallback_step is None else alone.fallback_step)
    assert together.statuses.tolist() == [0] * 5


def test_a_batch_says_which_missed():
    B = np.stack([WHITE, np.zeros_like(WHITE), WHITE])
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        result = deep_conjugate_direction(GRID, B, maxiter=2, rtol=1e-9)
    assert not result.converged
    assert result.statuses.tolist() == [1, 0, 1]
    assert result.nit.tolist() == [2, 0, 2]


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
@pytest.mark.parametrize("model", ["mg", "mic0", lambda r: r])
def test_scale_does_not_matter(scale, model):
    plain = deep_conjugate_direction(GRID, WHITE, model=model)
    scaled = deep_conjugate_direction(GRID, scale * WHITE, model=model)
    assert scaled.nit == plain.nit
    assert scaled.converged
    np.testing.assert_allclose(scaled.x / scale, plain.x, rtol=0, atol=1e-6 * np.abs(plain.x).max())


@pytest.mark.parametrize("factor", [1e-250, 1e-8, -1.0, 1e8, 1e250])
def test_scale_of_a_model_does_not_matter(factor):
    M = IC0(MATRIX)
    plain = deep_conjugate_direction(MATRIX, WHITE[MASK], model=lambda r: M @ r)
    scaled = deep_conjugate_direction(MATRIX, WHITE[MASK], model=lambda r: factor * (M @ r))
    assert abs(scaled.nit - plain.nit) <= 1


def test_float32():
    b = WHITE.astype(np.float32)
    result = deep_conjugate_direction(GRID, b, rtol=1e-5)
    assert result.x.dtype == np.float32
    exact = WHITE.astype(np.float32).astype(float)[MASK]
    norm = np.linalg.norm(exact - MATRIX @ result.x.astype(float)[MASK])
    assert result.true_residual == pytest.approx(norm, rel=1e-6)
    assert norm <= 1e-5 * np.linalg.norm(exact)
    with pytest.warns(ConvergenceWarning):  # below what single precision holds
        assert deep_conjugate_direction(GRID, b, rtol=1e-9).status == Status.STAGNATED
    batch = deep_conjugate_direction(GRID, np.stack([b, b]))
    assert batch.x.dtype == np.float32
    np.testing.assert_array_equal(batch.x[0], result.x)


def test_zero_right_hand_side():
    for A, b in ((GRID, np.zeros((64, 64))), (MATRIX, np.zeros(MATRIX.shape[0]))):
        result = deep_conjugate_direction(A, b, x0=np.ones_like(b))
        assert (result.nit, result.info) == (0, 0)
        assert not result.x.any()


def test_start():
    answer = deep_conjugate_direction(GRID, WHITE, rtol=1e-10).x
    again = deep_conjugate_direction(GRID, WHITE, x0=answer, rtol=1e-8)
    assert again.nit == 0
    np.testing.assert_allclose(again.x, answer)


def test_inputs_are_not_modified():
    A, b, x0 = MATRIX.copy(), WHITE[MASK].copy(), np.ones(MATRIX.shape[0])
    kept = A.copy(), b.copy(), x0.copy()
    deep_conjugate_direction(A, b, x0)
    assert abs(A - kept[0]).max() == 0
    np.testing.assert_array_equal(b, kept[1])
    np.testing.assert_array_equal(x0, kept[2])
    full, start = WHITE.copy(), np.ones((64, 64))
    deep_conjugate_direction(GRID, full, start)
    np.testing.assert_array_equal(full, WHITE)
    assert (start == 1).all()


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dense", "operator", "csr_matrix"])
def test_kinds_of_matrices(form):
    A = MATRIX[:200, :200]
    given = {
        "csr": A,
        "csc": A.tocsc(),
        "coo": A.tocoo(),
        "dense": A.toarray(),
        "operator": sl.LinearOperator(A.shape, matvec=A.dot, dtype=float),
        "csr_matrix": sp.csr_matrix(A),
    }[form]
    b = np.random.default_rng(0).normal(size=200)
    result = deep_conjugate_direction(given, b, rtol=1e-10)
    assert result.converged
    assert result.model == ("identity" if form == "operator" else "mic0")
    np.testing.assert_allclose(result.x, sl.spsolve(A.tocsc(), b), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (1, 9), (7, 1), (1, 1), (3, 5, 1), (6, 5, 4)])
def test_small_and_thin_grids(shape):
    grid, b = GridPoisson(shape), np.random.default_rng(0).normal(size=shape)
    result = deep_conjugate_direction(grid, b, rtol=1e-10)
    assert result.converged
    answer = np.linalg.solve(grid.tocsr().toarray(), b.ravel())
    np.testing.assert_allclose(result.x.ravel(), answer, rtol=1e-7)


def test_a_grid_without_fluid():
    grid = GridPoisson((4, 5), np.zeros((4, 5), dtype=bool))
    for b in (np.ones((4, 5)), np.ones(20), np.ones((2, 4, 5)), np.ones(0)):
        result = deep_conjugate_direction(grid, b)
        assert result.converged
        assert np.all(result.nit == 0)
        assert result.x.shape == b.shape
        assert not result.x.any()


def test_enclosed_regions():
    """A region that touches no side has a solution up to a constant only; its mean is taken off."""
    fluid = np.ones((20, 24), dtype=bool)
    fluid[5:12, 6:15] = False
    fluid[7:10, 8:13] = True  # a pocket of 15 cells
    grid, b = GridPoisson(fluid.shape, fluid), np.random.default_rng(0).normal(size=fluid.shape)
    mean = b[7:10, 8:13].mean()
    for model in ("mg", "fft", "mic0", lambda r: r):
        with pytest.warns(ConvergenceWarning, match="enclosed"):
            result = deep_conjugate_direction(grid, b, model=model, rtol=1e-8)
        assert result.converged
        assert result.removed_mean == pytest.approx(abs(mean) * np.sqrt(15))
        assert abs(result.x[7:10, 8:13].mean()) <= 1e-12 * np.abs(result.x).max()
        left = b[fluid] - grid.tocsr() @ result.x[fluid]
        label = grid.labels()[fluid]
        left[label == 0] -= mean
        assert np.linalg.norm(left) <= 1.01e-8 * np.linalg.norm(b[fluid])
    consistent = b.copy()
    consistent[7:10, 8:13] -= mean
    assert deep_conjugate_direction(grid, consistent).removed_mean <= 1e-14  # no warning
    closed = GridPoisson((30, 31), exterior="neumann")
    b = np.random.default_rng(1).normal(size=(30, 31))
    b -= b.mean()
    result = deep_conjugate_direction(closed, b, rtol=1e-9)
    assert result.converged
    assert result.nit <= 12
    assert abs(result.x.mean()) <= 1e-12


def test_certificate_is_of_the_projected_system():
    grid, b = GridPoisson((16, 16), exterior="periodic"), np.random.default_rng(0).normal(size=(16, 16))
    with pytest.warns(ConvergenceWarning, match="enclosed"):
        result = deep_conjugate_direction(grid, np.stack([b + 5, b]).astype(np.float32))
    assert result.converged
    assert result.removed_mean[0] == pytest.approx(16 * np.float32(b + 5).mean(), rel=1e-5)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_bits_do_not_depend_on_threads(n_threads):
    grid = GridPoisson((40, 41, 42))
    b = np.random.default_rng(0).normal(size=(40, 41, 42))
    for options in ({}, {"model": lambda r: np.abs(r)}, {"model": "mic0"}):
        one = deep_conjugate_direction(grid, b, n_threads=1, **options)
        other = deep_conjugate_direction(grid, b, n_threads=n_threads, **options)
        np.testing.assert_array_equal(one.x, other.x)


def test_result_pickles():
    result = pickle.loads(pickle.dumps(deep_conjugate_direction(GRID, WHITE)))
    assert result.model == "mg"


# ------------------------------------------------------------------------------------------------- endings


def test_callback():
    seen = []

    def named(intermediate_result):
        seen.append(intermediate_result)

    result = deep_conjugate_direction(GRID, WHITE, callback=named)
    assert [s.nit for s in seen] == list(range(1, result.nit + 1))
    assert seen[0].x.shape == (64, 64)
    np.testing.assert_array_equal(seen[-1].x, result.x)
    assert seen[-1].residual <= seen[-1].target
    compact = []
    deep_conjugate_direction(GRID, WHITE[MASK], callback=compact.append)
    np.testing.assert_array_equal(compact[0], seen[0].x[MASK])

    def stop(xk):
        raise StopIteration

    result = deep_conjugate_direction(GRID, WHITE, callback=stop)
    assert (result.status, result.nit, result.info) == (Status.STOPPED_BY_CALLBACK, 1, 1)
    assert result.true_residual < np.linalg.norm(WHITE)
    with pytest.raises(ValueError, match="`callback`"):
        deep_conjugate_direction(GRID, np.stack([WHITE, WHITE]), callback=stop)


@pytest.mark.parametrize("method", ["pcg", "robust", "published"])
@pytest.mark.parametrize("where", ["model", "callback", "A"])
def test_exceptions_pass_unchanged(method, where):
    class Mine(Exception):
        pass

    calls = []

    def fails(x, then=lambda x: x):
        calls.append(1)
        if len(calls) == 3:
            raise Mine("the third")
        return then(x)

    A = sl.LinearOperator(MATRIX.shape, matvec=(lambda x: fails(x, MATRIX.dot)), dtype=float)
    options = {"model": fails} if where == "model" else {"callback": fails} if where == "callback" else {}
    with pytest.raises(Mine, match="the third"):
        deep_conjugate_direction(A if where == "A" else MATRIX, WHITE[MASK], method=method, **options)


_LONG = """
import warnings
import numpy as np
from aitken.linalg import GridPoisson, deep_conjugate_direction
warnings.simplefilter("ignore")
options = dict(rtol=0.0, maxiter=10**7, fallback=None)
def call(grid, b, model):
    while True:
        deep_conjugate_direction(grid, b, model=model, **options)
"""


@needs_posix
@pytest.mark.parametrize(
    "call",
    [
        "call(GridPoisson((64, 64)), np.ones((64, 64)), lambda r: np.roll(r, 1))",
        "call(GridPoisson((64, 64, 64)), np.ones((64, 64, 64)), 'identity')",
        "call(GridPoisson((64, 64, 64)), np.ones((4, 64, 64, 64)), 'mg')",
    ],
    ids=["Python model", "native", "batch"],
)
def test_interrupt(call):
    check_ctrl_c(_LONG, call)


def test_indefinite_is_a_status():
    A = np.diag([3.0, 1.0, 2.0, -1.0, 4.0]) + 0.1
    b = np.array([1.0, 2.0, -1.0, 3.0, 0.5])
    models = ("auto", "identity", "jacobi", lambda r: r, lambda r: np.ones(5))
    for k, model in enumerate(models):
        for method in ("auto", "published")[: 1 if k == 4 else 2]:  # as published, ones lead nowhere
            with pytest.warns(ConvergenceWarning, match="not positive definite"):
                result = deep_conjugate_direction(A, b, model=model, method=method)
            assert result.status == Status.NOT_POSITIVE_DEFINITE
            assert result.info == -6
            assert np.isfinite(result.x).all()
    with pytest.warns(ConvergenceWarning):
        result = deep_conjugate_direction(-MATRIX, WHITE[MASK])
    assert result.status == Status.NOT_POSITIVE_DEFINITE


def test_unreachable_tolerances_end():
    for options in ({}, {"model": "mic0"}, {"model": lambda r: r}, {"model": lambda r: r, "fallback": None}):
        with pytest.warns(ConvergenceWarning):
            result = deep_conjugate_direction(GRID, WHITE, rtol=1e-17, **options)
        assert result.status == Status.STAGNATED
        assert result.nit < 2000
        assert result.true_residual <= 1e-12 * np.linalg.norm(WHITE)


def test_singular_and_inconsistent():
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(40, 40)).tolil()
    line[0, 0] = line[-1, -1] = 1.0
    for model in ("identity", lambda r: r, lambda r: np.sign(r)):
        with pytest.warns(ConvergenceWarning):
            result = deep_conjugate_direction(line.tocsr(), np.ones(40), model=model, fallback=None)
        assert not result.converged
        assert np.isfinite(result.x).all()


def test_operators_that_give_nan():
    A = sl.LinearOperator((4, 4), matvec=lambda x: x * np.nan, dtype=float)
    for method in ("auto", "robust", "published"):
        with pytest.warns(ConvergenceWarning, match="NaN"):
            result = deep_conjugate_direction(A, np.ones(4), method=method)
        assert result.status == Status.NONFINITE
        assert not result.x.any()


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"A": GRID, "b": np.ones((64, 63))}, ValueError, r"`b` has shape \(64, 63\)"),
        ({"A": GRID, "b": np.ones((64, 64), dtype=complex)}, TypeError, "`b` is complex"),
        ({"A": GRID, "b": np.ones((0, 64, 64))}, ValueError, "`b` has shape"),
        ({"A": GRID, "b": np.full((64, 64), np.nan)}, ValueError, "`b` has a non-finite value"),
        ({"A": GRID, "b": WHITE, "x0": np.ones(64 * 64)}, ValueError, "`x0` has shape"),
        ({"A": GRID, "b": WHITE, "x0": np.where(MASK, np.inf, 0)}, ValueError, "`x0` has a non-finite"),
        ({"b": np.ones(3)}, ValueError, "`b` has shape"),
        ({"b": WHITE[MASK] * 1j}, TypeError, "`b`"),
        ({"A": MATRIX * 1j}, TypeError, "`A` is complex"),
        ({"A": MATRIX[:, :-1]}, ValueError, "`A` has shape"),
        ({"A": "matrix"}, TypeError, "`A`"),
        (
            {"A": sp.diags_array([1.0, 0.0, 2.0]).tocsr(), "b": np.ones(3)},
            np.linalg.LinAlgError,
            "row 1 is 0",
        ),
        ({"A": np.diag([1.0, 2.0, np.nan]), "b": np.ones(3)}, np.linalg.LinAlgError, "row 2 is nan"),
        ({"A": np.array([[1.0, np.inf], [0.0, 1.0]]), "b": np.ones(2)}, ValueError, "`A`.*row 0"),
        ({"model": "multigrid"}, ValueError, "`model`"),
        ({"model": "mg"}, TypeError, "`model` is 'mg', which works on a grid"),
        ({"model": Multigrid()}, TypeError, "`model` is 'mg', which works on a grid"),
        ({"model": "fft"}, TypeError, "`grid="),
        ({"model": "missing.npz"}, (ValueError, OSError), "missing.npz"),
        ({"model": 3}, TypeError, "`model` must be"),
        ({"model": np.eye(3)}, ValueError, r"`model` has shape \(3, 3\)"),
        ({"model": lambda r: r[:-1]}, ValueError, "`model` returned shape"),
        ({"model": lambda r: r * 1j}, TypeError, "`model` returned dtype"),
        ({"model": lambda r: "direction"}, (TypeError, ValueError), "`model` returned"),
        ({"fallback": "multigrid"}, ValueError, "`fallback`"),
        ({"fallback": 1.0}, TypeError, "`fallback`"),
        ({"method": "best"}, ValueError, "`method`"),
        ({"rtol": -1.0}, ValueError, "`rtol`"),
        ({"atol": "small"}, TypeError, "`atol`"),
        ({"maxiter": 0}, ValueError, "`maxiter`"),
        ({"n_previous": -1}, ValueError, "`n_previous`"),
        ({"stall_window": 1.5}, TypeError, "`stall_window`"),
        ({"recompute": 0}, ValueError, "`recompute`"),
        ({"enrich": 1}, TypeError, "`enrich`"),
        ({"callback": 1}, TypeError, "`callback`"),
        ({"grid": (64, 64)}, TypeError, "`shape`"),
        ({"grid": ((64, 64),)}, TypeError, "`grid`"),
        ({"grid": ((64, 64), np.ones((64, 64), bool))}, ValueError, "`A` has .* rows, but `grid`"),
        ({"grid": ((64, 64), np.roll(MASK, 1, axis=0))}, ValueError, "`A` and `grid`"),
        (
            {"A": MATRIX + sp.eye_array(MATRIX.shape[0]), "grid": ((64, 64), MASK)},
            ValueError,
            "other entries",
        ),
        ({"A": -MATRIX, "grid": ((64, 64), MASK)}, ValueError, "positive multiple"),
        ({"A": GRID, "b": WHITE, "grid": ((64, 64), MASK)}, TypeError, "`grid`"),
        (
            {"A": sl.aslinearoperator(sl.LinearOperator(MATRIX.shape, MATRIX.dot)), "grid": ((64, 64), MASK)},
            TypeError,
            "`grid` needs a matrix",
        ),
    ],
)
def test_bad_input_is_named(changes, error, words):
    given = {"A": MATRIX, "b": WHITE[MASK], **changes}
    with pytest.raises(error, match=words):
        deep_conjugate_direction(given.pop("A"), given.pop("b"), given.pop("x0", None), **given)


def test_integers_are_promoted():
    b = np.zeros((64, 64), dtype=np.int64)
    b[20, 30] = 1
    assert deep_conjugate_direction(GRID, b).x.dtype == np.float64


# ------------------------------------------------------------------------------------------------- prepare


def test_prepare_and_update():
    fluid = np.ones((48, 40), dtype=bool)
    b = np.random.default_rng(0).normal(size=(48, 40))
    solver = prepare(GridPoisson((48, 40), fluid))
    for step in range(3):
        fluid = np.ones((48, 40), dtype=bool)
        fluid[10 + 3 * step : 20 + 3 * step, 10:30] = False
        ours = solver.update(fluid).solve(b, rtol=1e-8)
        fresh = deep_conjugate_direction(GridPoisson((48, 40), fluid), b, rtol=1e-8)
        np.testing.assert_array_equal(ours.x, fresh.x)
        assert ours.nit == fresh.nit
    for model in ("mic0", "fft", "jacobi"):
        solver = prepare(GridPoisson((48, 40)), model).update(fluid)
        fresh = deep_conjugate_direction(GridPoisson((48, 40), fluid), b, model=model)
        assert solver.solve(b).nit == fresh.nit
    with pytest.raises(TypeError, match="`A`"):
        prepare(MATRIX).update(fluid)
    with pytest.raises(ValueError, match="`flags`"):
        solver.update(fluid[1:])


def test_a_prepared_model_is_used_by_one_at_a_time():
    solver = prepare(MATRIX)

    def again(xk):
        solver.solve(WHITE[MASK])

    with pytest.raises(RuntimeError, match="in use"):
        solver.solve(WHITE[MASK], callback=again)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(solver.solve(WHITE[MASK]).nit)) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(results)) == 1
    assert len(results) == 4


def test_a_callback_may_use_the_model():
    solver = prepare(GRID)
    M = solver.as_preconditioner()
    seen = []
    solver.solve(WHITE, callback=lambda xk: seen.append(M @ xk.ravel()))
    assert len(seen) == solver.solve(WHITE).nit


@pytest.mark.parametrize("model", ["mg", "mg_v", "fft", "mic0", "jacobi", "identity"])
def test_as_preconditioner(model):
    M = as_preconditioner(model, GRID)
    assert M.shape == GRID.shape
    assert M.spd
    u, v = np.random.default_rng(0).normal(size=(2, GRID.shape[0]))
    u[~MASK.ravel()] = v[~MASK.ravel()] = 0
    assert abs(u @ (M @ v) - v @ (M @ u)) <= 1e-6 * np.linalg.norm(M @ u) * np.linalg.norm(v)
    assert u @ (M @ u) > 0
    theirs = sl.cg(GRID, u, M=M, rtol=1e-6)
    ours = cg(GRID, u, M=M, rtol=1e-6)
    assert theirs[1] == 0
    assert ours.converged
    assert abs(ours.nit - deep_conjugate_direction(GRID, u, model=model, rtol=1e-6).nit) <= 2
    compact = as_preconditioner(model, MATRIX, grid=((64, 64), MASK))
    inner = compact @ u[MASK.ravel()]
    np.testing.assert_allclose(inner, (M @ u)[MASK.ravel()], rtol=1e-5, atol=1e-6 * np.abs(inner).max())


def test_as_preconditioner_of_a_function():
    M = as_preconditioner(lambda r: r * np.linalg.norm(r), MATRIX)  # sees residuals of norm one
    x = np.random.default_rng(0).normal(size=MATRIX.shape[0])
    np.testing.assert_allclose(M @ (5 * x), 5 * x, rtol=1e-12)
    assert not M.spd


def test_grid_of_a_matrix():
    b = WHITE[MASK]
    on_grid = deep_conjugate_direction(GRID, b, rtol=1e-8)
    for factor in (1.0, 2.5, 1e-6):
        result = deep_conjugate_direction(factor * MATRIX, factor * b, rtol=1e-8, grid=((64, 64), MASK))
        assert (result.model, result.nit) == ("mg", on_grid.nit)
        np.testing.assert_allclose(result.x, on_grid.x, rtol=0, atol=1e-6 * np.abs(on_grid.x).max())
    full = GRID.tocsr(compact=False)
    result = deep_conjugate_direction(full, WHITE.ravel(), rtol=1e-8, model="fft", grid=GRID)
    np.testing.assert_allclose(result.x[MASK.ravel()], on_grid.x, rtol=0, atol=1e-6 * np.abs(on_grid.x).max())
