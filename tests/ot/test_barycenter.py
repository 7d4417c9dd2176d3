"""`aitken.ot.barycenter` against a NumPy twin, POT, a closed form and its own symmetries."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from aitken import ConvergenceWarning, Status, ot
from tests.interruption import check_ctrl_c, needs_posix


def histograms(n, count, seed=0):
    h = np.random.default_rng(seed).random((n, count)) ** 4 + 1e-3
    return h / h.sum(axis=0)


def twin(A, M, reg, weights, tol=1e-13):
    """Iterative Bregman projections."""
    K = np.exp(-M / reg)
    u = np.ones((M.shape[0], A.shape[1]))
    for _ in range(100_000):
        w = K @ (A / (K.T @ u))
        p = np.exp(np.log(w) @ weights)
        if (weights * np.abs(u * w - p[:, None]).sum(axis=0)).sum() < tol:
            return p
        u = p[:, None] / w
    raise AssertionError("the twin did not converge")


LINE = np.linspace(0.0, 1.0, 40)[:, None]
COSTS = {
    "line": ot.dist(LINE),
    "random": np.random.default_rng(1).random((40, 40)),
    "rectangular": ot.dist(np.linspace(0.1, 0.9, 25)[:, None], LINE),
}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("count", [1, 3, 16, 35])
def test_twin(kind, count):
    M = COSTS[kind]
    A = histograms(40, count)
    weights = np.random.default_rng(2).random(count) + 0.1
    weights /= weights.sum()
    r = ot.barycenter(A, M, 0.02, weights, tol=1e-11)
    assert r.success
    assert r.err <= 1e-11
    np.testing.assert_allclose(r.barycenter, twin(A, M, 0.02, weights), rtol=0, atol=1e-9)
    # The certificate is that of the returned potentials.
    K, u = np.exp(-M / 0.02), np.exp(r.potentials / 0.02)
    rows = u * (K @ (A / (K.T @ u)))
    err = (weights * np.abs(rows - r.barycenter[:, None]).sum(axis=0)).sum()
    assert err == pytest.approx(r.err, rel=1e-2, abs=1e-14)


def test_pot():
    pot = pytest.importorskip("ot")
    A, M = histograms(40, 5), COSTS["line"]
    # With other weights it starts, and stays, where the weighted product of the scalings is not 1.
    theirs = pot.barycenter(A, M, 0.01, numItermax=100_000, stopThr=1e-13, warn=False)
    ours = ot.barycenter(A, M, 0.01, tol=1e-11)
    np.testing.assert_allclose(ours.barycenter, theirs, rtol=0, atol=1e-9)


def test_accelerates():
    """Fewer iterations than the projections alone."""
    A, M = histograms(40, 4), COSTS["line"]
    K, u, plain = np.exp(-M / 2e-3), np.ones((40, 4)), 0
    while True:
        w = K @ (A / (K.T @ u))
        p = np.exp(np.log(w).mean(axis=1))
        if np.abs(u * w - p[:, None]).sum(axis=0).mean() < 1e-9:
            break
        u, plain = p[:, None] / w, plain + 1
    assert ot.barycenter(A, M, 2e-3).nit < plain / 3


def test_gaussians_meet_in_the_middle():
    x = np.linspace(-8.0, 8.0, 200)
    A = np.stack([np.exp(-((x + 2) ** 2) / 2), np.exp(-((x - 2) ** 2) / 2)], axis=1)
    r = ot.barycenter(A, ot.dist(x[:, None]), 0.1, tol=1e-11)
    assert r.barycenter.sum() == pytest.approx(1.0, abs=1e-10)
    assert r.barycenter @ x == pytest.approx(0.0, abs=1e-9)
    # Gaussians of one variance under squared distance: that of the barycentre is greater by reg / 2.
    assert r.barycenter @ x**2 == pytest.approx(1.0 + 0.05, abs=1e-6)


def test_zero_bins_weights_and_masses():
    A = histograms(40, 3)
    A[5:20, 0] = 0.0
    A *= [2.0, 1.0, 5.0]
    M = COSTS["line"]
    r = ot.barycenter(A, M, 0.02, [1.0, 0.0, 3.0], tol=1e-11)
    assert r.success
    two = A[:, [0, 2]] / A[:, [0, 2]].sum(axis=0)
    np.testing.assert_allclose(r.barycenter, twin(two, M, 0.02, np.array([0.25, 0.75])), rtol=0, atol=1e-9)


def test_init_threads_and_dtype():
    A, M = histograms(40, 20), COSTS["line"]
    cold = ot.barycenter(A, M, 0.005)
    for init in (cold, cold.potentials):
        assert ot.barycenter(A, M, 0.005, init=init).nit < cold.nit / 3
    for threads in (1, 2, 3):
        r = ot.barycenter(A, M, 0.005, n_threads=threads)
        np.testing.assert_array_equal(r.barycenter, cold.barycenter)
        assert r.nit == cold.nit
    single = ot.barycenter(A.astype(np.float32), M.astype(np.float32), 0.005)
    assert single.barycenter.dtype == np.float32
    np.testing.assert_allclose(single.barycenter, cold.barycenter, rtol=0, atol=1e-5)


def test_not_converged():
    with pytest.warns(ConvergenceWarning, match="barycenter: the iteration limit was reached"):
        r = ot.barycenter(histograms(40, 3), COSTS["line"], 0.005, maxiter=2)
    assert r.status == Status.MAX_ITERATIONS
    assert not r.success


def log_twin(A, M, reg, tol=1e-10):
    """Iterative Bregman projections of measures of equal weight, in the log domain."""
    logsumexp = pytest.importorskip("scipy.special").logsumexp
    with np.errstate(divide="ignore"):
        log_a = np.log(A)
    x = np.zeros((M.shape[0], A.shape[1]))
    for _ in range(20_000):
        y = log_a - logsumexp(x[:, None] - M[:, :, None] / reg, axis=0)
        w = logsumexp(y[None] - M[:, :, None] / reg, axis=1)
        mean = w.mean(axis=1, keepdims=True)
        if np.abs(np.exp(x + w) - np.exp(mean)).sum(axis=0).mean() < tol:
            return np.exp(mean[:, 0])
        x = mean - w
    raise AssertionError("the twin did not converge")


def test_kernel_beyond_doubles():
    """Two ends of a line at range / reg = 10000: all products of the kernel in doubles are zero."""
    r = ot.barycenter(np.eye(40)[:, [0, 39]], COSTS["line"], 1e-4)
    assert r.success
    np.testing.assert_allclose(r.barycenter, log_twin(np.eye(40)[:, [0, 39]], COSTS["line"], 1e-4), atol=1e-8)
    assert r.barycenter[19:21].sum() == pytest.approx(1.0, abs=1e-5)  # midway
    assert np.isfinite(r.potentials).all()


def test_regularisation_beyond_all_numbers():
    """Where even logarithms lose their digits, the last finite barycentre comes with a warning."""
    with pytest.warns(ConvergenceWarning, match="barycenter"):
        r = ot.barycenter(histograms(40, 3), COSTS["line"], 1e-300)
    assert not r.success
    assert np.isfinite(r.barycenter).all()
    assert np.isfinite(r.potentials).all()
    assert r.barycenter.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("reg", [1e-3, 1e-4, 1e-6, 1e-12])
def test_never_nan(reg):
    A = histograms(40, 3)
    A[5:30, 0] = A[:20, 1] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        r = ot.barycenter(A, COSTS["line"], reg, maxiter=2000)
    assert np.isfinite(r.barycenter).all()
    assert np.isfinite(r.potentials).all()
    assert np.isfinite(r.err)
    assert r.barycenter.sum() == pytest.approx(1.0, abs=r.err + 1e-9)
    assert r.success == (r.err <= 1e-9)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"reg": -1.0}, ValueError, "`reg`"),
        ({"A": np.ones((3, 2))}, ValueError, r"`A` has shape \(3, 2\)"),
        ({"A": np.ones((40, 0))}, ValueError, "at least one histogram"),
        ({"A": -np.ones((40, 2))}, ValueError, "`A` has a negative value"),
        ({"A": np.zeros((40, 2))}, ValueError, r"`A\[:, 0\]` has no mass"),
        ({"M": np.full((40, 40), np.inf)}, ValueError, "`M` has a non-finite value"),
        ({"weights": [1.0]}, ValueError, "`weights` has shape"),
        ({"weights": [1.0, -1.0]}, ValueError, "`weights` has a negative value"),
        ({"weights": [0.0, 0.0]}, ValueError, "`weights` has no mass"),
        ({"weights": [1e308, 1e308]}, ValueError, "`weights` has weights up to"),
        ({"A": np.full((40, 2), 1e308)}, ValueError, r"`A\[:, 0\]` has weights up to"),
        ({"init": np.ones((2, 40))}, ValueError, "`init` has shape"),
        ({"maxiter": 0}, ValueError, "`maxiter`"),
    ],
)
def test_bad_arguments(change, error, match):
    given = {"A": histograms(40, 2), "M": COSTS["line"], "reg": 0.1} | change
    with pytest.raises(error, match=match):
        ot.barycenter(**given)


@needs_posix
def test_ctrl_c():
    check_ctrl_c(
        "import numpy as np\nfrom aitken import ot\nrng = np.random.default_rng(0)\n"
        "A, M = rng.random((500, 200)), rng.random((500, 500))",
        "ot.barycenter(A, M, 2e-3, tol=1e-18, maxiter=10**6)",
    )
