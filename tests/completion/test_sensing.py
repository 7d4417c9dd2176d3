"""`matrix_sensing`: against its oracle, at all forms of A, scales, types and kinds of trouble."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from aitken import ConvergenceWarning, Status
from aitken._progress import Monitor
from aitken.completion import _sensing, matrix_sensing
from tests.oracles import sensing as oracle

SHAPE = (14, 18)


def low_rank(rng, shape=SHAPE, s=(1.0, 0.5), psd=False):
    U = np.linalg.qr(rng.standard_normal((shape[0], len(s))))[0]
    V = U if psd else np.linalg.qr(rng.standard_normal((shape[1], len(s))))[0]
    return (U * np.array(s)) @ V.T


def gaussian(seed=0, m=400, shape=SHAPE, s=(1.0, 0.5), psd=False, outliers=0.0):
    """A (m, n1 n2), y, X; `outliers` of the measurements are off by ten standard deviations."""
    rng = np.random.default_rng(seed)
    X = low_rank(rng, shape, s, psd)
    A = rng.standard_normal((m, X.size))
    y = A @ X.ravel()
    bad = rng.choice(m, int(outliers * m), replace=False)
    y[bad] += 10 * rng.standard_normal(len(bad))
    return A, y, X


def rank_one(seed=0, m=500, shape=SHAPE):
    rng = np.random.default_rng(seed)
    X = low_rank(rng, shape)
    L, R = rng.standard_normal((m, shape[0])), rng.standard_normal((m, shape[1]))
    return (L, R), np.einsum("li,ij,lj->l", L, X, R), X


def error(r, X):
    return np.linalg.norm(r.to_dense() - X) / np.linalg.norm(X)


# ------------------------------------------------------------------------------ the oracle, and by the oracle


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_oracle_directions_are_derivatives(kind):
    """Finite differences of the loss along the direction of a plain step; l1 away from its kinks."""
    A, y, _ = gaussian(m=60)
    A = A.reshape(60, *SHAPE)
    rng = np.random.default_rng(1)
    F, G = rng.standard_normal((SHAPE[0], 3)), rng.standard_normal((SHAPE[1], 3))
    if kind == "l2":
        (_, (F1, G1)), unit = oracle.gradient_descent(A, y, F, G, 1.0, 1), 1.0
    else:
        D = oracle.adjoint(A, np.sign(oracle.measure(A, F @ G.T) - y))
        unit = 60 / np.linalg.norm(D, 2)  # the step is normalised, the loss a mean
        _, (F1, G1) = oracle.subgradient_method(A, y, F, G, 1.0, 1, decay=lambda t: 1.0)
    dF, dG = F - F1, G - G1
    h = 1e-7
    up, down = (oracle.loss(A, y, (F + t * dF) @ (G + t * dG).T, kind) for t in (h, -h))
    slope = (up - down) / (2 * h)
    assert slope == pytest.approx((np.sum(dF**2) + np.sum(dG**2)) / unit, rel=1e-5)


def test_oracle_modification_keeps_the_product():
    rng = np.random.default_rng(0)
    F, G = rng.standard_normal((9, 3)), rng.standard_normal((7, 3))
    F1, G1 = oracle.one_step_modification(F, G, 0.7)
    np.testing.assert_allclose(F1 @ G1.T, F @ G.T, atol=1e-13)
    np.testing.assert_allclose(F1.T @ F1, 0.49 * np.eye(3), atol=1e-13)


def problem(amap, y, loss, maxiter):
    return _sensing._Problem(amap, y, loss, 1e-15, maxiter, Monitor("t", None, 0, False, 1e-15, {}))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradient_descent_is_the_oracles(symmetric, scaled):
    shape = (12, 12) if symmetric else SHAPE
    A, y, _ = gaussian(m=300, shape=shape, psd=symmetric)
    A, y = A / np.sqrt(300), y / np.sqrt(300)
    rng = np.random.default_rng(1)
    F = 0.2 * rng.standard_normal((shape[0], 3))
    G = F if symmetric else 0.1 * rng.standard_normal((shape[1], 3))
    fix = not symmetric and not scaled
    p = problem(_sensing._DenseMap(np, A, shape), y, "l2", 80)
    F1, G1, status = _sensing._gradient_descent(p, F, G, 0.2, fix=fix, scaled=scaled)
    assert (status, p.nit, p.n_rejected) == (Status.MAX_ITERATIONS, 80, 0)
    twin = oracle.gradient_descent(
        A.reshape(300, *shape),
        y,
        F,
        G,
        0.2,
        80,
        beta=_sensing._FIX_SCALE if fix else None,
        damping=_sensing._SCALED_DAMPING if scaled else None,
    )
    np.testing.assert_allclose(F1 @ G1.T, twin[-1][0] @ twin[-1][1].T, atol=1e-10)
    errors = [oracle.certificate(A.reshape(300, *shape), y, F @ G.T, "l2") for F, G in twin[::20]]
    np.testing.assert_allclose(p.history["err"][::20], errors, rtol=1e-6)
    assert errors[-1] < 0.1  # so that the modification was made


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_subgradient_method_is_the_oracles(symmetric, decay, monkeypatch):
    """With enough Lanczos steps for an exact norm; few steps, since signs flip at roundings in the end."""
    monkeypatch.setattr(_sensing, "_NORM_STEPS", 30)
    monkeypatch.setattr(_sensing, "_ESCAPE_PATIENCE", 0 if decay else 5)  # so: steps 0 to 2 in full
    monkeypatch.setattr(_sensing, "_PROGRESS", 1e9 if decay else 1e-3)
    shape = (12, 12) if symmetric else SHAPE
    A, y, _ = gaussian(m=300, shape=shape, psd=symmetric, outliers=0.1)
    rng = np.random.default_rng(1)
    F = 0.2 * rng.standard_normal((shape[0], 3))
    G = F if symmetric else 0.1 * rng.standard_normal((shape[1], 3))
    p = problem(_sensing._DenseMap(np, A, shape), y, "l1", 25)
    seen = []
    p.monitor = Monitor("t", lambda r: seen.append((r.F, r.G)), 0, False, 1e-15, {})
    _sensing._subgradient_method(p, F, G, 0.2, decay, rng)
    schedule = None if decay is None else lambda t: decay ** max(0, t - 2)
    twin = oracle.subgradient_method(A.reshape(300, *shape), y, F, G, 0.2, 25, decay=schedule)
    assert len(seen) == len(twin) == 26
    for (F1, G1), (F2, G2) in zip(seen, twin, strict=True):
        np.testing.assert_allclose(F1 @ G1.T, F2 @ G2.T, atol=1e-9)


def test_maps_agree():
    """One rank-one map as pair, array and operator: the same measurements and gradients."""
    (L, R), y, _ = rank_one(m=40)
    dense = np.einsum("li,lj->lij", L, R).reshape(40, -1)
    rng = np.random.default_rng(2)
    F, G = rng.standard_normal((SHAPE[0], 3)), rng.standard_normal((SHAPE[1], 3))
    maps = [
        _sensing._PairMap(np, L, R),
        _sensing._DenseMap(np, dense, SHAPE),
        _sensing._OperatorMap(np, aslinearoperator(dense), SHAPE, np.float64),
    ]
    A = dense.reshape(40, *SHAPE)
    r0 = oracle.measure(A, F @ G.T)
    D0 = oracle.adjoint(A, np.sign(3 * r0 - y))
    for amap in maps:
        amap.gain = 3.0
        np.testing.assert_allclose(amap.measure(F, G), 3 * r0, rtol=1e-10)
        r, gF, gG, D = amap.gradients(F, G, y, np.sign)
        np.testing.assert_allclose(r, 3 * r0 - y, rtol=1e-9)
        for got, want in ((gF, D0 @ G), (gG, D0.T @ F), (D @ G, D0 @ G), (D.T @ F, D0.T @ F)):
            np.testing.assert_allclose(got, 3 * want, rtol=1e-10, atol=1e-10)
        norm, _ = _sensing._norm2(np, D, rng.standard_normal(SHAPE[1]), False)
        assert 0.9 <= norm / np.linalg.norm(3 * D0, 2) <= 1 + 1e-12
    assert [m.energy(rng) for m in maps[:2]] == pytest.approx([np.sum(dense**2) / dense.shape[1]] * 2)
    assert maps[2].energy(rng) == pytest.approx(np.sum(dense**2) / dense.shape[1], rel=0.3)


def test_blocks_of_rows_do_not_matter(monkeypatch):
    A, y, _ = gaussian(m=130)
    rng = np.random.default_rng(2)
    F, G = rng.standard_normal((SHAPE[0], 3)), rng.standard_normal((SHAPE[1], 3))
    one = _sensing._DenseMap(np, A, SHAPE)
    monkeypatch.setattr(_sensing, "_BLOCK_BYTES", 1)
    many = _sensing._DenseMap(np, A, SHAPE)
    assert len(one._blocks()) < len(many._blocks()) == 9
    for a, b in zip(one.gradients(F, G, y, np.sign), many.gradients(F, G, y, np.sign), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


# ------------------------------------------------------------------------------------------------- recovery


OPTIONS = [
    {"loss": "l2"},
    {"loss": "l2", "precondition": False},
    {"loss": "l2", "psd": True},
    {"loss": "l2", "psd": True, "param": "asymmetric"},
    {"loss": "l1"},
    {"loss": "l1", "psd": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("k", [2, 4])
def test_recovers(options, k):
    """From more columns than needed too, with gross errors where the loss is made for them."""
    psd, robust = options.get("psd", False), options["loss"] == "l1"
    A, y, X = gaussian(
        m=700, shape=(16, 16) if psd else SHAPE, psd=psd, outliers=0.1 if robust else 0.0, seed=3
    )
    r = matrix_sensing(A, y, k, shape=X.shape, rng=0, **options)
    assert r.success
    assert r.status == Status.CONVERGED
    assert r.err <= (1e-6 if robust else 1e-8)
    assert error(r, X) < 4 * (1e-6 if robust else 1e-8)
    np.testing.assert_allclose(r.s[:2], [1.0, 0.5], rtol=1e-5)
    assert np.all(r.s[2:] < 1e-5)
    np.testing.assert_allclose(r.F.T @ r.F, np.diag(r.s), atol=1e-12)
    np.testing.assert_allclose(r.G.T @ r.G, np.diag(r.s), atol=1e-12)
    if psd:
        assert r.U is r.F is r.G
    else:
        assert r.U is None


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_condition_does_not_matter_with_preconditioning(loss):
    counts = []
    for s in ((1.0, 0.5), (1.0, 0.005)):
        A, y, X = gaussian(m=900, s=s, outliers=0.1 if loss == "l1" else 0.0)
        r = matrix_sensing(A, y, 4, shape=SHAPE, loss=loss, rng=0)
        assert r.success
        assert error(r, X) < 1e-5
        counts.append(r.nit)
    assert counts[1] < 2 * counts[0]
    if loss == "l2":
        with pytest.warns(ConvergenceWarning):
            plain = matrix_sensing(A, y, 4, shape=SHAPE, rng=0, precondition=False, maxiter=5 * counts[1])
        assert plain.err > 1e-4


@pytest.mark.parametrize("loss", ["l2", "l1"])
@pytest.mark.parametrize("form", ["pair", "operator", "array"])
def test_forms_of_measurements(loss, form):
    (L, R), y, X = rank_one(m=700)
    dense = np.einsum("li,lj->lij", L, R).reshape(len(y), -1)
    A = {"pair": (L, R), "operator": aslinearoperator(dense), "array": dense}[form]
    r = matrix_sensing(A, y, 3, shape=None if form == "pair" else SHAPE, loss=loss, rng=0)
    assert r.success
    assert error(r, X) < 1e-5


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_quadratic_measurements(loss):
    """``y_l = a_l^T X a_l``: not isotropic, the trace is seen n times as strongly."""
    rng = np.random.default_rng(4)
    X = low_rank(rng, (16, 16), psd=True)
    L = rng.standard_normal((500, 16))
    y = np.einsum("li,ij,lj->l", L, X, L)
    r = matrix_sensing((L, L), y, 4, psd=True, loss=loss, rng=0)
    assert r.success
    assert error(r, X) < 1e-5


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("c", "a"), [(1e-9, 1.0), (1e12, 1.0), (3.0, 1e-7), (1e-5, 1e8)])
def test_scales(options, c, a):
    """y -> c y and A -> a A give X -> (c / a) X along the same path, defaults included."""
    psd = options.get("psd", False)
    A, y, X = gaussian(m=350, shape=(12, 12) if psd else SHAPE, psd=psd, seed=5)
    limit = {"maxiter": 60, "tol": 0.0, "rng": 0, "shape": X.shape}
    with pytest.warns(ConvergenceWarning):
        one = matrix_sensing(A, y, 3, **limit, **options)
    with pytest.warns(ConvergenceWarning):
        other = matrix_sensing(a * A, c * y, 3, **limit, **options)
    assert one.nit == other.nit
    # Subgradient paths may part at a rounding; the first steps may not.
    many = slice(0, 20 if options["loss"] == "l1" else None)
    np.testing.assert_allclose(other.history["err"][many], one.history["err"][many], rtol=1e-6)
    np.testing.assert_allclose(other.history["step"][many], one.history["step"][many], rtol=1e-6)
    square = 2 if options["loss"] == "l2" else 1
    np.testing.assert_allclose(
        other.history["value"][many], c**square * one.history["value"][many], rtol=1e-6
    )
    if options["loss"] == "l2":
        np.testing.assert_allclose(other.s, one.s * (c / a), rtol=1e-5)


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_certificate_is_recomputed(loss):
    """What the result claims is what its factors give, also in float32, also when stopped early."""
    for dtype in (np.float64, np.float32):
        A, y, X = gaussian(outliers=0.1 if loss == "l1" else 0.0)
        A, y = A.astype(dtype), y.astype(dtype)
        r = matrix_sensing(A, y, 2, shape=SHAPE, loss=loss, rng=0)
        assert r.success
        Z = r.F.astype(np.float64) @ r.G.astype(np.float64).T
        A3, y3 = A.astype(np.float64).reshape(-1, *SHAPE), y.astype(np.float64)
        assert r.err == pytest.approx(oracle.certificate(A3, y3, Z, loss), rel=1e-5)
        assert r.value == pytest.approx(oracle.loss(A3, y3, Z, loss), rel=1e-5)
        assert r.relative_residual == pytest.approx(oracle.certificate(A3, y3, Z, "l2"), rel=1e-5)
        assert r.mean_absolute_residual == pytest.approx(oracle.loss(A3, y3, Z, "l1"), rel=1e-5)
        assert r.F.dtype == r.G.dtype == dtype
        assert error(r, X) < 1e-4
    with pytest.warns(ConvergenceWarning, match="target 1e-08"):
        r = matrix_sensing(A, y, 2, shape=SHAPE, loss=loss, rng=0, maxiter=3, tol=1e-8)
    assert not r.success
    assert (r.status, r.nit) == (Status.MAX_ITERATIONS, 3)
    assert r.err == pytest.approx(oracle.certificate(A3, y3, r.to_dense().astype(float), loss), rel=1e-4)


def test_types_of_results():
    """float32 comes back only where nothing is float64."""
    A, y, _ = gaussian()
    for a, b, out in ((np.float32, np.float64, np.float64), (np.float64, np.float32, np.float64)):
        r = matrix_sensing(A.astype(a), y.astype(b), 2, shape=SHAPE, rng=0, tol=1e-4)
        assert r.F.dtype == out
    X = np.arange(6).reshape(2, 3) % 2
    r = matrix_sensing(np.eye(6, dtype=int), X.ravel(), 2, shape=(2, 3), rng=0)
    np.testing.assert_allclose(r.to_dense(), X, atol=1e-7)


def test_other_array_libraries(xp):
    A, y, X = gaussian()
    r = matrix_sensing(xp.asarray(A), xp.asarray(y), 2, shape=SHAPE, rng=0)
    assert r.success
    assert xp.owns(r.F)
    np.testing.assert_allclose(xp.to_numpy(r.F) @ xp.to_numpy(r.G).T, X, atol=1e-6)


# ------------------------------------------------------------------------------------------------ honesty


def test_noise_is_not_success():
    """Dense noise leaves a residual: the status says so, and the answer is as good as the noise allows."""
    A, y, X = gaussian(m=800)
    noisy = y + 0.01 * np.std(y) * np.random.default_rng(9).standard_normal(len(y))
    with pytest.warns(ConvergenceWarning, match="Rounding|rounding"):
        r = matrix_sensing(A, noisy, 2, shape=SHAPE, rng=0)
    assert r.status == Status.STAGNATED
    assert not r.success
    assert 0.005 < r.err < 0.02
    assert error(r, X) < 0.01
    assert matrix_sensing(A, noisy, 2, shape=SHAPE, rng=0, tol=0.011).success
    with pytest.warns(ConvergenceWarning):
        r = matrix_sensing(A, noisy, 2, shape=SHAPE, loss="l1", rng=0)
    assert r.status == Status.STAGNATED
    assert r.value == r.mean_absolute_residual <= 1.02 * 0.01 * np.std(y) * np.sqrt(2 / np.pi)
    assert error(r, X) < 0.01


def test_least_squares_fails_where_l1_does_not():
    A, y, X = gaussian(m=700, outliers=0.2)
    with pytest.warns(ConvergenceWarning):
        plain = matrix_sensing(A, y, 2, shape=SHAPE, rng=0, maxiter=500)
    assert not plain.success
    assert error(plain, X) > 0.1
    assert error(matrix_sensing(A, y, 2, shape=SHAPE, loss="l1", rng=0), X) < 1e-5


def test_rank_too_small_is_not_success():
    A, y, _ = gaussian(m=700)
    for loss in ("l2", "l1"):
        with pytest.warns(ConvergenceWarning):
            r = matrix_sensing(A, y, 1, shape=SHAPE, loss=loss, rng=0)
        assert r.status == Status.STAGNATED
        assert r.err > 0.1


def test_psd_of_negative_data_is_not_success():
    A, y, _ = gaussian(m=400, shape=(12, 12), psd=True)
    for loss in ("l2", "l1"):
        with pytest.warns(ConvergenceWarning):
            r = matrix_sensing(A, -y, 2, psd=True, loss=loss, rng=0, maxiter=300)
        assert not r.success
        assert np.isfinite(r.U).all()
        assert r.err > 0.9


def test_zero_data():
    A, y, _ = gaussian()
    for loss in ("l2", "l1"):
        r = matrix_sensing(A, 0 * y, 2, shape=SHAPE, loss=loss)
        assert r.success
        assert (r.nit, r.err, r.value) == (0, 0.0, 0.0)
        assert not r.to_dense().any()


def test_step_too_long_is_halved():
    A, y, X = gaussian(m=600)
    r = matrix_sensing(A, y, 2, shape=SHAPE, rng=0, step=1e6)
    assert r.success
    assert r.n_rejected > 3
    assert error(r, X) < 1e-7
    assert np.all(np.diff(r.history["value"]) <= 1e-12 * r.history["value"][0])


def test_extremes_of_size():
    """One measurement, one entry, full rank, and more measurements than entries."""
    r = matrix_sensing(np.array([[2.0]]), np.array([6.0]), 1, shape=(1, 1), rng=0)
    np.testing.assert_allclose(r.to_dense(), [[3.0]], rtol=1e-7)
    rng = np.random.default_rng(0)
    r = matrix_sensing(rng.standard_normal((1, 12)), [1.0], 3, shape=(3, 4), rng=0)
    assert r.success
    X = rng.standard_normal((4, 3))
    A = rng.standard_normal((60, 12))
    np.testing.assert_allclose(
        matrix_sensing(A, A @ X.ravel(), 3, shape=(4, 3), rng=0).to_dense(), X, atol=1e-6
    )


# ----------------------------------------------------------------------------------------------- contract


def test_inputs_stay_and_runs_repeat():
    A, y, _ = gaussian()
    before = A.copy(), y.copy()
    A.setflags(write=False)
    y.setflags(write=False)
    for loss in ("l2", "l1"):
        options = {"shape": SHAPE, "loss": loss, "tol": 1e-3}
        first, same, other, from_generator = (
            matrix_sensing(A, y, 2, rng=g, **options) for g in (1, 1, 2, np.random.default_rng(1))
        )
        np.testing.assert_array_equal(first.F, same.F)
        assert not np.array_equal(first.F, other.F)
        assert from_generator.success
    for a, b in zip((A, y), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_strided_and_fortran_input():
    A, y, _ = gaussian()
    expected = matrix_sensing(A, y, 2, shape=SHAPE, rng=0)
    wide = np.zeros((len(y), 2 * A.shape[1]))
    wide[:, ::2] = A
    for a, b in ((np.asfortranarray(A), y), (wide[:, ::2], np.repeat(y, 2)[::2])):
        np.testing.assert_allclose(
            matrix_sensing(a, b, 2, shape=SHAPE, rng=0).to_dense(), expected.to_dense(), atol=1e-7
        )


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_callback(loss):
    A, y, _ = gaussian()
    seen = []

    def stop_at_five(intermediate_result):
        seen.append(intermediate_result)
        if intermediate_result.nit == 5:
            raise StopIteration

    r = matrix_sensing(A, 7 * y, 2, shape=SHAPE, loss=loss, rng=0, callback=stop_at_five)
    assert (r.status, r.success, r.nit) == (Status.STOPPED_BY_CALLBACK, False, 4)
    last = seen[-1]
    assert oracle.certificate(A.reshape(-1, *SHAPE), 7 * y, last.F @ last.G.T, loss) == pytest.approx(
        last.err, rel=1e-6
    )
    assert list(r.history["err"]) == [q.err for q in seen]
    with pytest.raises(ZeroDivisionError):
        matrix_sensing(A, y, 2, shape=SHAPE, loss=loss, callback=lambda q: 1 / 0)


def test_log_and_pickle(caplog):
    A, y, _ = gaussian()
    with caplog.at_level(logging.INFO, logger="aitken"):
        r = matrix_sensing(A, y, 2, shape=SHAPE, rng=0, verbose=1)
    assert len(caplog.records) == len(r.history["err"]) + 1
    back = pickle.loads(pickle.dumps(r))
    np.testing.assert_array_equal(back.F, r.F)
    assert "relative residual" in back.message
    assert "converged" in repr(back)


def bad(**changes):
    A, y, _ = gaussian(m=20, shape=(4, 4))
    return {"A": A, "y": y, "rank": 2, "shape": (4, 4)} | changes


REFUSED = [
    (ValueError, r"`rank` must be >= 1; got 0", {"rank": 0}),
    (ValueError, r"`rank` must be <= min\(shape\) = 4; got 5", {"rank": 5}),
    (TypeError, r"`rank` must be an integer, not 2.0", {"rank": 2.0}),
    (ValueError, r"`shape` .*\(4, 5\)", {"shape": (4, 5)}),
    (ValueError, r"`shape` is None", {"shape": None}),
    (TypeError, r"`shape`", {"shape": 16}),
    (ValueError, r"`shape`", {"shape": (4, 2, 2)}),
    (ValueError, r"`shape` must be >= 1", {"shape": (0, 4)}),
    (ValueError, r"`psd` needs a square matrix; `shape` is \(2, 8\)", {"shape": (2, 8), "psd": True}),
    (ValueError, r"`y` has shape \(19,\); `A` makes 20", {"y": np.ones(19)}),
    (ValueError, r"`y` has shape \(0,\)", {"y": np.ones(0)}),
    (ValueError, r"`y` has shape \(20, 1\)", {"y": np.ones((20, 1))}),
    (ValueError, r"`A` has shape .*: 0 measurements", {"A": np.ones((0, 16)), "y": np.ones(1)}),
    (ValueError, r"`A` has a non-finite value at index \(3, 1\)", {"A": "nan"}),
    (ValueError, r"`y` has a non-finite value at index 0", {"y": np.full(20, np.inf)}),
    (ValueError, r"`A` has mean square 0.0", {"A": np.zeros((20, 16))}),
    (ValueError, r"`A` has mean square inf", {"A": np.full((20, 16), 1e200)}),
    (ValueError, r"`A` has shape \(20, 4, 4\)", {"A": np.ones((20, 4, 4))}),
    (TypeError, r"`A` is complex", {"A": np.ones((20, 16), complex)}),
    (TypeError, r"`A` is a sparse matrix.*aslinearoperator", {"A": csr_array(np.ones((20, 16)))}),
    (ValueError, r"`A\[1\]` has shape \(19, 4\)", {"A": (np.ones((20, 4)), np.ones((19, 4)))}),
    (ValueError, r"`shape` is \(4, 4\), but the pair", {"A": (np.ones((20, 4)), np.ones((20, 5)))}),
    (ValueError, r"`A.matvec` returned shape \(3,\)", {"A": "operator"}),
    (ValueError, r"`loss`.*'l2', 'l1'; got 'huber'", {"loss": "huber"}),
    (ValueError, r"`param`", {"param": "asym"}),
    (ValueError, r"`param` 'symmetric'.*`psd`", {"param": "symmetric"}),
    (ValueError, r"`param` 'asymmetric' with `psd`", {"param": "asymmetric", "psd": True, "loss": "l1"}),
    (ValueError, r"`decay` is 0.9, but gradient descent", {"decay": 0.9}),
    (ValueError, r"`decay` is 0.9; .*`precondition`", {"decay": 0.9, "loss": "l1"}),
    (ValueError, r"`decay` must be finite.*1.0", {"decay": 1.0, "loss": "l1", "precondition": False}),
    (ValueError, r"`alpha`.*-1", {"alpha": -1.0}),
    (ValueError, r"`step`.*0", {"step": 0.0}),
    (ValueError, r"`tol`.*-1", {"tol": -1.0}),
    (ValueError, r"`maxiter`.*-1", {"maxiter": -1}),
    (TypeError, r"`step_fix`", {"step_fix": 1}),
    (TypeError, r"`precondition`", {"precondition": "yes"}),
    (TypeError, r"`psd`", {"psd": None}),
    (TypeError, r"`callback`", {"callback": 3}),
    (TypeError, r"`rng`", {"rng": "seed"}),
]


@pytest.mark.parametrize(("kind", "message", "changes"), REFUSED, ids=[m for _, m, _ in REFUSED])
def test_refuses(kind, message, changes):
    arguments = bad(**changes)
    if isinstance(arguments["A"], str) and arguments["A"] == "nan":
        arguments["A"] = bad()["A"]
        arguments["A"][3, 1] = np.nan
    elif isinstance(arguments["A"], str):
        arguments["A"] = LinearOperator(
            (20, 16), matvec=lambda v: np.ones(3), rmatvec=lambda r: np.ones(16), dtype=float
        )
    if changes.keys() == {"A"} and "matvec" in message:
        # SciPy's own wrapper checks shapes too; a bare operator does not.
        class Bare:
            shape, dtype = (20, 16), np.dtype(float)

            def matvec(self, v):
                return np.ones(3)

            def rmatvec(self, r):
                return np.ones(16)

        arguments["A"] = Bare()
    with pytest.raises(kind, match=message):
        matrix_sensing(arguments.pop("A"), arguments.pop("y"), arguments.pop("rank"), **arguments)
