"""Masks, right-hand sides and the smoke: against the oracle's matrix, graphs and conservation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm
from scipy.ndimage import label
from scipy.sparse.linalg import splu

from aitken.datasets import SmokePlume, obstacle_mask, poisson_rhs
from tests.oracles import deepcg as oracle

KINDS = ["none", "ball", "multi", "maze", "random30"]


@pytest.mark.parametrize("shape", [(64, 64), (33, 50), (24, 24, 24), (9, 20, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_seeded_and_leave_fluid(kind, shape):
    fluid = obstacle_mask(kind, shape)
    assert fluid.dtype == bool
    assert fluid.shape == shape
    assert fluid.any()
    np.testing.assert_array_equal(fluid, obstacle_mask(kind, shape))
    if kind in ("multi", "maze", "random30"):
        assert (fluid != obstacle_mask(kind, shape, seed=11)).any()


def test_shares_of_fluid():
    assert obstacle_mask("none", (20, 20)).all()
    assert 1 - obstacle_mask("ball", (400, 400)).mean() == pytest.approx(np.pi * 0.04, abs=1e-3)
    assert 1 - obstacle_mask("ball", (100,) * 3).mean() == pytest.approx(4 / 3 * np.pi * 0.008, abs=1e-3)
    assert obstacle_mask("random30", (300, 300)).mean() == pytest.approx(0.7, abs=0.01)
    wall = obstacle_mask("multi", (64, 64))[32, 8:56]
    assert not wall.any()


@pytest.mark.parametrize("corridor", [1, 3, 7])
@pytest.mark.parametrize("blocks", [(8, 8), (4, 3, 5)])
def test_a_maze_is_a_spanning_tree(corridor, blocks):
    """One connected piece, and one opening fewer than blocks."""
    period = corridor + 1
    fluid = obstacle_mask("maze", [period * n for n in blocks], corridor=corridor)
    assert label(fluid)[1] == 1
    room = corridor ** len(blocks)
    opening = corridor ** (len(blocks) - 1)
    count = int(np.prod(blocks))
    assert fluid.sum() == count * room + (count - 1) * opening


@pytest.mark.parametrize("shape", [(20, 23), (10, 9, 12)])
@pytest.mark.parametrize("kind", ["white", "dipole", "divergence", "Ax"])
def test_right_hand_sides_vanish_in_solids(kind, shape):
    fluid = obstacle_mask("multi", shape)
    b = poisson_rhs(kind, fluid)
    assert b.shape == shape
    assert b.dtype == np.float64
    assert not b[~fluid].any()
    assert norm(b) > 0
    if kind in ("white", "Ax"):
        x = np.random.default_rng(7).standard_normal(fluid.sum())
        if kind == "white":
            np.testing.assert_array_equal(b[fluid], x)
        else:
            A = oracle.operator(fluid)[fluid.ravel()][:, fluid.ravel()]
            np.testing.assert_allclose(b[fluid], A @ x, atol=1e-12)


def test_the_dipole_at_a_point():
    b = poisson_rhs("dipole", np.ones((10, 10), dtype=bool))
    x, y = 0.35, 0.45
    expected = np.exp(-((x - 0.3) ** 2 + (y - 0.5) ** 2) / 0.005)
    expected -= np.exp(-((x - 0.4) ** 2 + (y - 0.55) ** 2) / 0.01)
    assert b[3, 4] == pytest.approx(expected)
    cube = poisson_rhs("dipole", np.ones((10, 10, 3), dtype=bool))
    np.testing.assert_array_equal(cube, np.repeat(b[:, :, None], 3, axis=2))


def test_outflow_is_what_crosses_the_boundary():
    """Nothing but the box's faces and those of the solids makes or takes fluid."""
    fluid = obstacle_mask("ball", (32, 32))
    b, free = poisson_rhs("divergence", fluid), poisson_rhs("divergence", np.ones_like(fluid))
    assert b.sum() == pytest.approx(free.sum(), abs=1e-12)
    near = np.zeros_like(fluid)
    near[1:] |= ~fluid[:-1]
    near[:-1] |= ~fluid[1:]
    changed = b != np.where(fluid, free, 0.0)
    assert changed.any()
    assert not changed[~near].any()


def direct(fluid, b):
    A = oracle.box_level(fluid).matrix()
    inside = fluid.ravel()
    p = np.zeros(b.size)
    p[inside] = splu(A[inside][:, inside].tocsc()).solve(b.ravel()[inside])
    return p.reshape(b.shape)


def test_the_plume_stays_free_of_divergence_and_out_of_the_ball():
    plume = SmokePlume(32, 2.0)
    masks = []
    for _ in range(40):
        plume.step(direct)
        masks.append(plume.fluid)
        scale = max(abs(plume.velocity[0]).max(), 1e-3)
        assert abs(plume.divergence()).max() < 1e-12 * scale * 32
        assert plume.smoke.min() >= 0
        assert plume.smoke.max() <= 1
        assert not plume.smoke[~plume.fluid].any()
    assert plume.i == 40
    assert (masks[0] != masks[-1]).any()
    height = np.flatnonzero(plume.smoke.max(axis=1) > 0.1).max()
    assert height > 8  # it rises
    closed = ~plume.fluid[:-1] | ~plume.fluid[1:]
    assert not plume.velocity[0][1:-1][closed].any()


def test_the_plume_knows_its_matrix():
    plume = SmokePlume(16)
    fluid, b = plume.begin()
    x = np.random.default_rng(0).standard_normal((16, 16))
    A = oracle.operator(fluid)
    np.testing.assert_allclose(plume.apply(x).ravel(), A @ x.ravel(), atol=1e-13)
    assert norm(plume.apply(direct(fluid, b)) - b) < 1e-12 * norm(b)


def test_a_ball_at_rest_keeps_a_mirror_image():
    plume = SmokePlume(24, moving=False)
    for _ in range(10):
        plume.step(direct)
    np.testing.assert_allclose(plume.smoke, plume.smoke[:, ::-1], atol=1e-12)
    assert plume.smoke.max() > 0.9


def test_bad_input():
    with pytest.raises(ValueError, match=r"`kind`.*'blal'.*'ball'"):
        obstacle_mask("blal", (8, 8))
    with pytest.raises(TypeError, match="`shape`"):
        obstacle_mask("ball", 8)
    with pytest.raises(TypeError, match="`shape`"):
        obstacle_mask("ball", (8,))
    with pytest.raises(ValueError, match=r"`shape\[1\]` must be >= 1"):
        obstacle_mask("ball", (8, 0))
    with pytest.raises(ValueError, match="`corridor`"):
        obstacle_mask("maze", (8, 8), corridor=0)
    with pytest.raises(TypeError, match="`fluid` must be boolean"):
        poisson_rhs("white", np.ones((4, 4)))
    with pytest.raises(ValueError, match="`fluid`"):
        poisson_rhs("white", np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="`n`"):
        SmokePlume(4)
    with pytest.raises(ValueError, match="`p`"):
        SmokePlume(8).end(np.zeros(64))
