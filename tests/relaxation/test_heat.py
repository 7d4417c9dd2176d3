"""The heat sequence: its matrices, its accuracy against exact solutions, its energy, its checks."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.sparse.linalg import splu

from aitken.datasets import HeatSequence
from tests.relaxation import problems


def mode(x, y):
    return np.sin(np.pi * x) * np.sin(2 * np.pi * y)


def nothing(t, x, y):
    return np.zeros_like(x)


def decay(nx):
    """Eigenvalue of minus the discrete Laplacian for `mode`."""
    return 4 * nx**2 * (np.sin(np.pi / (2 * nx)) ** 2 + np.sin(np.pi / nx) ** 2)


def run(heat):
    u = heat.u0
    for i in range(len(heat)):
        A, b, _ = heat(i, u)
        u = splu(A.tocsc()).solve(b)
        yield u


def test_matrices_share_a_pattern_and_are_positive_definite():
    heat = HeatSequence(nx=9, n_steps=700)
    first, last = heat.matrix(250), heat.matrix(699)
    for A in (first, last):
        assert A.has_sorted_indices
        assert np.shares_memory(A.indices, first.indices)
        assert np.shares_memory(A.indptr, first.indptr)
        D = A.toarray()
        assert np.array_equal(D, D.T)
        assert np.linalg.eigvalsh(D)[0] > 1  # I minus a multiple of the Laplacian
    assert not np.array_equal(first.data, last.data)
    again = heat.matrix(250)
    assert np.array_equal(again.data, first.data)  # a step does not change another's matrix
    c = 0.5 * heat.dt * heat.diffusivity(250.5 * heat.dt)
    wanted = np.eye(64) + c * 81 * problems.laplacian(8).toarray()
    np.testing.assert_allclose(first.toarray(), wanted, rtol=1e-14)


def test_default_data():
    heat = HeatSequence(nx=24)
    assert (len(heat), heat.n, heat.contexts.shape) == (5000, 529, (5000,))
    assert heat.contexts[0] == 0
    assert heat.contexts[250] == pytest.approx(0.1)
    assert heat.contexts[750] == pytest.approx(10)
    assert heat.contexts.min() >= 0
    assert heat.contexts.max() <= 10
    np.testing.assert_allclose(heat.contexts[1000:2000], heat.contexts[:1000], atol=1e-11)
    assert heat.context(750) == heat(750)[2] == heat.contexts[750]
    assert heat.u0.max() == 1.0  # the middle is a point of this grid
    outside = np.hypot(heat.x - 0.5, heat.y - 0.5) >= 0.25
    assert not heat.u0[outside].any()
    assert (heat.u0[~outside] > 0).all()
    _, b = heat.system(0, np.zeros(529))  # the source alone, half a step after it stood at (3/4, 1/2)
    assert b.max() == pytest.approx(heat.dt * 32, rel=0.05)
    far = np.hypot(heat.x - 0.75, heat.y - 0.5) > 0.125 + 0.01
    assert not b[far].any()
    assert list(inspect.signature(heat).parameters) == ["i", "previous"]


def test_one_step_of_an_eigenfunction():
    """A mode is multiplied by (1 - z) / (1 + z), z = kappa dt / 2 times its eigenvalue."""
    heat = HeatSequence(12, 3, 0.02, diffusivity=lambda t: 1 + t, source=nothing, initial=mode)
    factor = 1.0
    for i, u in enumerate(run(heat)):
        z = (1 + (i + 0.5) * 0.02) * 0.01 * decay(12)
        factor *= (1 - z) / (1 + z)
        np.testing.assert_allclose(u, factor * mode(heat.x, heat.y), rtol=1e-11, atol=1e-14)


def test_second_order_in_time():
    """Against u = exp(-t) mode, with the source that makes it exact in space."""
    errors = []
    for n_steps in (8, 16, 32):

        def kappa(t):
            return 0.3 + 0.2 * np.cos(3 * t)

        def source(t, x, y):
            return (kappa(t) * decay(10) - 1) * np.exp(-t) * mode(x, y)

        heat = HeatSequence(10, n_steps, 1 / n_steps, diffusivity=kappa, source=source, initial=mode)
        u = list(run(heat))[-1]
        errors.append(np.abs(u - np.exp(-1) * mode(heat.x, heat.y)).max())
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 4, rtol=0.15)
    assert errors[-1] < 1e-3


def test_second_order_in_space():
    errors = []
    for nx in (8, 16, 32):

        def exact(t, x, y):
            return np.exp(-0.1 * 5 * np.pi**2 * t) * mode(x, y)

        heat = HeatSequence(nx, 100, 5e-3, diffusivity=lambda t: 0.1, source=nothing, initial=mode)
        u = list(run(heat))[-1]
        errors.append(np.abs(u - exact(0.5, heat.x, heat.y)).max())
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 4, rtol=0.15)


def test_energy_falls_without_a_source():
    heat = HeatSequence(16, 30, 0.01, source=nothing)
    sizes = np.array([np.linalg.norm(u) for u in [heat.u0, *run(heat)]])
    assert (np.diff(sizes) <= 1e-14).all()
    assert sizes[-1] < 0.9 * sizes[0]


def test_step_energy():
    """``||u'||^2 - ||u||^2 = -kappa dt |m|_1^2 dt-weighted + 2 dt (f, m)`` with the mean m of both states."""
    heat = HeatSequence(14, 20, 0.01)
    lap = 14.0**2 * problems.laplacian(13)
    u = heat.u0
    for i, new in enumerate(run(heat)):
        t = (i + 0.5) * heat.dt
        _, b = heat.system(i, np.zeros(heat.n))  # dt f
        mean = (u + new) / 2
        gained = new @ new - u @ u
        lost = 2 * heat.dt * heat.diffusivity(t) * (mean @ (lap @ mean))
        assert gained == pytest.approx(2 * (b @ mean) - lost, abs=1e-11)
        u = new


def test_previous_may_be_left_out_and_is_not_changed():
    heat = HeatSequence(8, 4)
    u = heat.u0.copy()
    np.testing.assert_array_equal(heat(0)[1], heat(0, u)[1])
    np.testing.assert_array_equal(u, heat.u0)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"nx": 1}, ValueError, "nx"),
        ({"nx": 10.5}, TypeError, "nx"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"dt": 0.0}, ValueError, "dt"),
        ({"dt": np.inf}, ValueError, "dt"),
        ({"diffusivity": 1.0}, TypeError, "diffusivity"),
        ({"diffusivity": lambda t: -1.0}, ValueError, "diffusivity"),
        ({"diffusivity": lambda t: np.nan}, ValueError, "diffusivity"),
        ({"source": "none"}, TypeError, "source"),
        ({"initial": lambda x, y: x[:2]}, ValueError, "initial"),
        ({"initial": lambda x, y: x / 0 * np.nan}, ValueError, "initial"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_arguments_are_named(arguments, error, name):
    with pytest.raises(error, match=f"`{name}`"):
        HeatSequence(**{"nx": 6, "n_steps": 2} | arguments)


def test_bad_steps_are_named():
    heat = HeatSequence(6, 2, source=lambda t, x, y: x[:3])
    for i in (-1, 2):
        with pytest.raises(ValueError, match="`i`"):
            heat.matrix(i)
    with pytest.raises(ValueError, match="`u`"):
        heat.system(0, np.zeros(3))
    with pytest.raises(ValueError, match="`source`"):
        heat.system(0, np.zeros(25))
