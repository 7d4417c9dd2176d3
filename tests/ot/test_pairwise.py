"""`aitken.ot.pairwise_distances` against single solves, a NumPy twin, POT and its own symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from aitken import ConvergenceWarning, Status, ot
from aitken.ot._pairwise import split_axes
from tests.interruption import check_ctrl_c, needs_posix


def histograms(count, n, seed=0, low=1e-3):
    h = np.random.default_rng(seed).random((count, n)) ** 4 + low
    return h / h.sum(axis=1, keepdims=True)


def grid_cost(side, metric="sqeuclidean"):
    cells = np.stack(np.unravel_index(np.arange(side * side), (side, side)), axis=1).astype(float)
    M = ot.dist(cells, metric=metric)
    return M / M.max()


def twin(a, b, M, reg, tol=1e-12):
    """Plain Sinkhorn, to an L1 error of `tol`."""
    K = np.exp(-M / reg)
    u = np.ones_like(a)
    for _ in range(200_000):
        v = b / (K.T @ u)
        w = K @ v
        if np.abs(u * w - a).sum() < tol:
            break
        u = a / w
    P = u[:, None] * K * v
    kl = (P * np.log(np.where(P > 0, P, 1) / np.outer(np.where(a > 0, a, 1), np.where(b > 0, b, 1)))).sum()
    return (P * M).sum(), (P * M).sum() + reg * kl


COSTS = {
    "grid": grid_cost(6),
    "grid-euclidean": grid_cost(6, "euclidean"),
    "random": np.random.default_rng(3).random((36, 36)),
    "rectangular": np.random.default_rng(4).random((36, 25)),
    "negative": np.random.default_rng(5).random((36, 36)) - 3.0,
}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("value", ["linear", "regularized"])
def test_twin(kind, value):
    M = COSTS[kind]
    A, B = histograms(5, M.shape[0]), histograms(4, M.shape[1], seed=1)
    r = ot.pairwise_distances(A, B, M, 0.05, value=value, tol=1e-11, return_result=True)
    assert r.success.all()
    assert r.err.max() <= 1e-11
    expected = [[twin(a, b, M, 0.05)[value == "regularized"] for b in B] for a in A]
    np.testing.assert_allclose(r.distances, expected, rtol=0, atol=1e-10)


def test_single_solves():
    """Every pair equals `ot.sinkhorn`, whatever lane it had; more pairs than lanes."""
    M = grid_cost(7)
    A, B = histograms(11, 49, low=0.0), histograms(13, 49, seed=1)
    r = ot.pairwise_distances(A, B, M, 0.02, return_result=True)
    assert r.success.all()
    for i, j in ((0, 0), (10, 12), (3, 7), (7, 3)):
        one = ot.sinkhorn(A[i], B[j], M, 0.02, tol=1e-12)
        assert r.distances[i, j] == pytest.approx(one.value_linear, rel=1e-8)
        alone = ot.pairwise_distances(A[i : i + 1], B[j : j + 1], M, 0.02)
        assert alone[0, 0] == r.distances[i, j]


def test_pot():
    pot = pytest.importorskip("ot")
    M = grid_cost(6)
    A, B = histograms(3, 36), histograms(6, 36, seed=1)
    ours = ot.pairwise_distances(A, B, M, 0.02)
    for a, row in zip(A, ours, strict=True):
        theirs = pot.sinkhorn2(a, B.T, M, 0.02, stopThr=1e-12, numItermax=100_000, warn=False)
        np.testing.assert_allclose(row, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_a_with_itself(kind):
    """Half of the pairs where the cost is symmetric, all of them where it is not."""
    M = COSTS[kind]
    A = histograms(6, 36)
    D = ot.pairwise_distances(A, M=M, reg=0.05, tol=1e-11)
    full = ot.pairwise_distances(A, A.copy(), M, 0.05, tol=1e-11)
    np.testing.assert_allclose(D, full, rtol=0, atol=1e-10)
    assert (D == D.T).all() == (kind == "grid")


def test_divergence():
    M = COSTS["grid"]
    A, B = histograms(4, 36), histograms(3, 36, seed=1)
    for value, which in (("linear", 0), ("regularized", 1)):
        D = ot.pairwise_distances(A, B, M, 0.05, value=value, divergence=True, tol=1e-11)
        own_a, own_b = ([twin(x, x, M, 0.05)[which] for x in X] for X in (A, B))
        expected = [
            [twin(a, b, M, 0.05)[which] - (p + q) / 2 for b, q in zip(B, own_b, strict=True)]
            for a, p in zip(A, own_a, strict=True)
        ]
        np.testing.assert_allclose(D, expected, rtol=0, atol=1e-9)
    D = ot.pairwise_distances(A, M=M, reg=0.05, value="regularized", divergence=True)
    assert (np.diag(D) == 0).all()
    assert (D[~np.eye(4, dtype=bool)] > 0).all()


def test_mass_does_not_count():
    A, B, M = histograms(3, 36), histograms(3, 36, seed=1), COSTS["grid"]
    np.testing.assert_allclose(
        ot.pairwise_distances(7.0 * A, 0.5 * B, M, 0.05), ot.pairwise_distances(A, B, M, 0.05), rtol=1e-12
    )


def test_bad_rows_spoil_their_own_pairs():
    M = COSTS["grid"]
    A, B = histograms(20, 36), histograms(3, 36, seed=1)
    good = ot.pairwise_distances(A, B, M, 0.05)
    A[2, 5], A[4], A[7, 0], B[1, 3] = np.nan, 0.0, -0.1, np.inf
    with pytest.warns(ConvergenceWarning, match=r"26 bad input \(first: 0, 1\)"):
        r = ot.pairwise_distances(A, B, M, 0.05, return_result=True)
    bad = np.zeros((20, 3), dtype=bool)
    bad[[2, 4, 7]] = True
    bad[:, 1] = True
    assert (np.isnan(r.distances) == bad).all()
    assert ((r.status == Status.BAD_INPUT) == bad).all()
    np.testing.assert_array_equal(r.distances[~bad], good[~bad])


def test_small_regularisation_goes_to_the_general_solver():
    """Costs that underflow: solved in the log domain, to the same tolerance."""
    M = COSTS["grid"]
    A, B = histograms(2, 36), histograms(2, 36, seed=1)
    for reg in (1.0 / 690, 1e-4):
        r = ot.pairwise_distances(A, B, M, reg, return_result=True)
        assert r.success.all()
        assert r.err.max() <= 1e-9
        assert r.n_general > 0 or reg > 1e-3
        for i in range(2):
            for j in range(2):
                one = ot.sinkhorn(A[i], B[j], M, reg, tol=1e-11)
                assert r.distances[i, j] == pytest.approx(one.value_linear, rel=1e-6)


def test_handed_over_after_maxiter():
    M = COSTS["random"]
    A, B = histograms(3, 36), histograms(3, 36, seed=1)
    r = ot.pairwise_distances(A, B, M, 0.01, maxiter=2, return_result=True)
    assert r.n_general == 9
    assert r.success.all()
    np.testing.assert_allclose(r.distances, ot.pairwise_distances(A, B, M, 0.01), rtol=1e-7)


def test_unreachable_tolerance_is_said():
    with pytest.warns(ConvergenceWarning, match="pairwise_distances: 0 of 4 pairs converged"):
        r = ot.pairwise_distances(
            histograms(2, 36), histograms(2, 36, seed=1), COSTS["random"], 0.01, tol=1e-19, return_result=True
        )
    assert not r.success.any()
    assert np.isfinite(r.distances).all()


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_threads_do_not_count(kind):
    A, B, M = histograms(30, 36), histograms(40, 36, seed=1), COSTS[kind]
    one, two, three = (
        ot.pairwise_distances(A, B, M, 0.01, n_threads=t, return_result=True) for t in (1, 2, 3)
    )
    for other in (two, three):
        np.testing.assert_array_equal(one.distances, other.distances)
        np.testing.assert_array_equal(one.nit, other.nit)


def test_float32():
    A, B, M = (x.astype(np.float32) for x in (histograms(3, 36), histograms(2, 36, seed=1), COSTS["grid"]))
    D = ot.pairwise_distances(A, B, M, 0.05)
    assert D.dtype == np.float32
    np.testing.assert_allclose(D, ot.pairwise_distances(A, B, M.astype(float), 0.05), rtol=1e-5)
    assert ot.pairwise_distances(A, B, M.astype(float), 0.05).dtype == np.float64


def test_layouts_and_untouched_inputs():
    A, B, M = histograms(3, 36), histograms(2, 36, seed=1), COSTS["random"].copy()
    kept = A.copy(), B.copy(), M.copy()
    D = ot.pairwise_distances(A, B, M, 0.05)
    for x, y in zip((A, B, M), kept, strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(
        D, ot.pairwise_distances(np.asfortranarray(A), B, np.asfortranarray(M), 0.05)
    )
    wide = np.zeros((3, 72))
    wide[:, ::2] = A
    np.testing.assert_array_equal(D, ot.pairwise_distances(wide[:, ::2], B.tolist(), M, 0.05))
    assert ot.pairwise_distances(A[:0], B, M, 0.05).shape == (0, 2)
    one = ot.pairwise_distances([[2.0]], [[3.0]], [[0.7]], 0.1)
    assert one == pytest.approx(0.7)


def test_split_axes():
    cells = np.stack(np.unravel_index(np.arange(60), (3, 4, 5)), axis=1).astype(float)
    parts = split_axes(ot.dist(cells) / 7.0, 1e-12)
    assert sorted(len(p) for p in parts) == [3, 4, 5]
    total = np.zeros((1, 1))
    for c in parts:
        total = (total[:, None, :, None] + c[None, :, None, :]).reshape(len(total) * len(c), -1)
    np.testing.assert_allclose(total, ot.dist(cells) / 7.0, rtol=0, atol=1e-13)
    for M in (COSTS["grid-euclidean"], COSTS["random"], COSTS["rectangular"]):
        assert len(split_axes(M, 1e-12)) == 1
    spoiled = COSTS["grid"].copy()
    spoiled[17, 23] += 1e-6
    assert len(split_axes(spoiled, 1e-12)) == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"M": None}, TypeError, "`M` is None"),
        ({"reg": None}, TypeError, "`reg` is None"),
        ({"reg": -1.0}, ValueError, "`reg` must be finite, > 0; got -1.0"),
        ({"reg": "1"}, TypeError, "`reg`"),
        ({"A": np.ones(36)}, ValueError, r"`A` has shape \(36,\)"),
        ({"A": np.ones((2, 35))}, ValueError, r"`A` has shape \(2, 35\)"),
        ({"B": np.ones((2, 35))}, ValueError, r"`B` has shape \(2, 35\)"),
        ({"B": np.ones((2, 36), complex)}, TypeError, "`B` is complex"),
        ({"M": np.full((36, 36), np.nan)}, ValueError, "`M` has a non-finite value"),
        ({"M": np.ones((36, 30)), "B": None}, ValueError, "`B` is None"),
        ({"M": np.ones((36, 30)), "B": np.ones((1, 30)), "divergence": True}, ValueError, "`divergence`"),
        ({"value": "lin"}, ValueError, "`value` must be one of"),
        ({"divergence": 1}, TypeError, "`divergence`"),
        ({"M": 1.7e308 * (np.eye(36) - np.eye(36)[::-1])}, ValueError, "`M` goes from"),
        ({"tol": 0.0}, ValueError, "`tol`"),
        ({"maxiter": 0}, ValueError, "`maxiter`"),
        ({"n_threads": 1.5}, TypeError, "`n_threads`"),
    ],
)
def test_bad_arguments(change, error, match):
    given = {"A": histograms(2, 36), "B": histograms(2, 36), "M": COSTS["grid"], "reg": 0.1} | change
    with pytest.raises(error, match=match):
        ot.pairwise_distances(**given)


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\nrng = np.random.default_rng(0)\n"
        "A, M = rng.random((400, 256)), rng.random((256, 256))",
        "ot.pairwise_distances(A, M=M, reg=0.01, tol=1e-13)",
    )
