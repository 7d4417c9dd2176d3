"""GridPoisson and its native multigrid cycle against the NumPy twins."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import cg as scipy_cg

from aitken import _core
from aitken.datasets import obstacle_mask
from aitken.linalg import GridPoisson, deep_conjugate_direction
from tests.oracles import deepcg as oracle

RNG = np.random.default_rng


def random_faces(shape: tuple[int, ...], rng: np.random.Generator) -> list[Any]:
    out = []
    for a in range(len(shape)):
        faces = 10 ** rng.uniform(-1, 1, tuple(n + (k == a) for k, n in enumerate(shape)))
        faces[rng.random(faces.shape) < 0.1] = 0.0
        # The last face is the first one, in case the axis is periodic.
        out.append(np.concatenate([np.delete(faces, -1, axis=a), np.take(faces, [0], axis=a)], axis=a))
    return out


CASES = [
    # shape, exterior, variable conductances, spacing, shift, share of solids
    ((13,), "dirichlet", False, 1.0, 0.0, 0.1),
    ((8, 11), "dirichlet", False, 1.0, 0.0, 0.25),
    ((16, 16), "neumann", False, 0.5, 0.0, 0.3),
    ((9, 14), "periodic", False, 1.0, 0.0, 0.2),
    ((12, 20), (("neumann", "dirichlet"), "periodic"), True, 1.0, 0.0, 0.2),
    ((12, 33), "dirichlet", False, (1.0, 0.2), 0.0, 0.1),
    ((10, 9), "neumann", True, (0.3, 1.0), 0.7, 0.3),
    ((6, 7, 9), "dirichlet", False, 1.0, 0.0, 0.2),
    ((8, 8, 8), "periodic", True, 1.0, 0.0, 0.2),
    ((5, 12, 10), "neumann", False, (1.0, 1.0, 3.0), 0.0, 0.25),
    ((11, 1, 12), (("dirichlet", "neumann"), "neumann", "dirichlet"), True, 1.0, 0.1, 0.1),
]


def make(case: Any, seed: int = 0) -> tuple[GridPoisson, Any]:
    shape, exterior, variable, spacing, shift, solid = case
    rng = RNG(seed)
    flags = np.where(rng.random(shape) < solid, 1, 0).astype(np.uint8)
    flags[rng.random(shape) < 0.05] = 2
    faces = random_faces(shape, rng) if variable else None
    A = GridPoisson(shape, flags, exterior=exterior, conductance=faces, spacing=spacing, shift=shift)
    level = oracle.finest(flags, exterior=exterior, conductance=faces, spacing=spacing, shift=shift)
    return A, level


@pytest.mark.parametrize("case", CASES)
def test_operator_is_that_of_the_oracle(case: Any) -> None:
    A, level = make(case)
    matrix = level.matrix()
    x = RNG(1).standard_normal(A.grid_shape)
    expected = (matrix @ np.where(A.fluid, x, 0.0).ravel()).reshape(A.grid_shape)
    expected[~A.fluid] = 0.0
    np.testing.assert_allclose(A.apply(x), expected, atol=1e-11)
    np.testing.assert_allclose(A @ x.ravel(), expected.ravel(), atol=1e-11)
    np.testing.assert_allclose(A.compress(A.apply(x)), A.apply(A.compress(x)), atol=0)
    np.testing.assert_allclose(A.tocsr() @ A.compress(x), A.compress(expected), atol=1e-11)
    np.testing.assert_allclose(A.tocsr(compact=False) @ x.ravel(), expected.ravel(), atol=1e-11)
    np.testing.assert_allclose(A.diagonal(), np.where(A.fluid, level.diagonal(), 0.0), atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_components_are_those_of_the_oracle(case: Any) -> None:
    A, level = make(case)
    label, singular = oracle.components(level, A.fluid)
    assert A.n_components == len(singular)
    assert A.n_singular == sum(singular)
    mine = A.labels().ravel()
    for k, is_singular in enumerate(singular):
        cells = np.flatnonzero(np.asarray(label).ravel() == k)
        assert len(set(mine[cells])) == 1
        assert (mine[cells[0]] < A.n_singular) == bool(is_singular)
    x = np.where(A.fluid, RNG(2).standard_normal(A.grid_shape), 0.0)
    projected, taken = A.project(x)
    expected, _ = oracle.project(x.ravel(), label, singular)
    np.testing.assert_allclose(projected.ravel(), expected, atol=1e-13)
    assert taken == pytest.approx(np.linalg.norm((x - projected).ravel()), abs=1e-12)


def with_exact_means(level: Any, fluid: Any, shift: float, cycle: Any, r: Any) -> Any:
    """A cycle that solves for constants on floating regions exactly, as the native one does with a shift."""
    if shift == 0:
        return cycle(r).reshape(level.shape)
    label, floating = oracle.components(dataclasses.replace(level, s=np.zeros(level.shape)), fluid)
    flat, _ = oracle.project(r.ravel(), label, floating)
    z, _ = oracle.project(cycle(flat), label, floating)
    return (z + (r.ravel() - flat) / shift).reshape(level.shape)


def native_cycle(A: GridPoisson, r: Any, *options: Any) -> Any:
    cycle = _core.MultigridCycle(A._native, *options)
    out = np.empty(A.grid_shape)
    cycle.apply(np.ascontiguousarray(r), out, False)
    return cycle, out


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("visits", "smoother", "omega", "degree"),
    [
        (1, "jacobi", [], 3),
        (2, "jacobi", [0.9, 0.6, 0.7], 3),
        (2, "chebyshev", [], 3),
        (1, "chebyshev", [], 1),
    ],
)
def test_cycle_is_that_of_the_oracle(case: Any, visits: int, smoother: str, omega: Any, degree: int) -> None:
    A, level = make(case)
    r, _ = A.project(np.where(A.fluid, RNG(3).standard_normal(A.grid_shape), 0.0))
    _, mine = native_cycle(A, r, visits, smoother, omega, degree, 4.0, None)
    twin = oracle.Multigrid(
        level, visits=visits, smoother=smoother, omega=omega or None, degree=degree, fluid=A.fluid
    )
    expected = with_exact_means(level, A.fluid, A.shift, twin, r)
    assert np.abs(mine - expected).max() <= 2e-5 * np.abs(expected).max()
    assert not mine[~A.fluid].any()


def random_weights(ndim: int, size: float, seed: int) -> dict[str, Any]:
    rng = RNG(seed)
    shapes = {
        "W1": (16, 4) + (3,) * ndim,
        "b1": (16,),
        "W2": (16, 16),
        "b2": (16,),
        "W3": (3, 16),
        "b3": (3,),
    }
    weights: dict[str, Any] = {
        name: (size * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()
    }
    return {"ndim": ndim, "omega": [1.24, 0.6], **weights}


@pytest.mark.parametrize("case", [c for c in CASES if len(c[0]) > 1])
def test_learned_cycle_is_that_of_the_oracle(case: Any) -> None:
    A, level = make(case)
    weights = random_weights(A.ndim_grid, 0.4, 5)
    r, _ = A.project(np.where(A.fluid, RNG(3).standard_normal(A.grid_shape), 0.0))
    cycle, mine = native_cycle(A, r, 1, "jacobi", [], 3, 4.0, weights)
    twin = oracle.Multigrid(level, visits=1)
    fields = []
    counted = dataclasses.replace(level, s=(level.diagonal() > 0).astype(float))
    for k, one in enumerate(twin.levels):
        phi, constant, linear = (cycle.field(k, which).reshape(one.shape) for which in range(3))
        safe = np.where(constant > 0, constant, 1.0)
        fields.append(oracle.Fields(phi=phi, g=linear / safe, sc=constant))
        expected = oracle_fields(one, counted.s, weights)
        counted = oracle.coarser(counted)
        active = one.diagonal() > 0
        if k + 1 == len(twin.levels):
            break
        for given, wanted in zip((phi, constant, linear), expected, strict=True):
            np.testing.assert_allclose(given[active], wanted[active], atol=2e-5)
    learned = oracle.Multigrid(level, visits=1, omega=weights["omega"], fields=fields, fluid=A.fluid)
    expected = with_exact_means(level, A.fluid, A.shift, learned, r)
    assert np.abs(mine - expected).max() <= 2e-5 * np.abs(expected).max()


def oracle_fields(level: Any, volume: Any, weights: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The fields of one level: features, network and its outputs, as the guide states them."""
    from scipy.ndimage import correlate, uniform_filter

    D = level.diagonal()
    children = np.prod([2.0**k for k in level.halved])
    f0 = np.where(D > 0, volume / children, 0.0)
    features = [
        f0,
        np.minimum(4.0, D / (2 * sum(level.c))),
        uniform_filter(f0, 3, mode="constant"),
        uniform_filter(f0, 5, mode="constant"),
    ]
    W1 = weights["W1"].astype(float)
    hidden = np.stack(
        [
            sum(correlate(f, W1[o, i], mode="constant") for i, f in enumerate(features)) + weights["b1"][o]
            for o in range(16)
        ]
    )
    hidden = np.maximum(hidden, 0)
    hidden = np.maximum(np.tensordot(weights["W2"], hidden, 1) + weights["b2"].reshape(-1, *[1] * D.ndim), 0)
    out = np.tensordot(weights["W3"], hidden, 1) + weights["b3"].reshape(-1, *[1] * D.ndim)
    phi = np.maximum(1e-3, 1 / (1 + np.exp(-(out[0] + 4))))
    g = 1 / (1 + np.exp(-(out[1] - 4)))
    sc = np.exp(np.clip(out[2] / 2, -0.7, 0.7))
    return phi, sc, sc * g


def test_scipy_takes_it_as_an_operator() -> None:
    A = GridPoisson((20, 24), obstacle_mask("ball", (20, 24)))
    b = np.where(A.fluid, RNG(0).standard_normal(A.grid_shape), 0.0).ravel()
    x, info = scipy_cg(A, b, rtol=1e-10)
    assert info == 0
    assert np.linalg.norm(b - A.tocsr(compact=False) @ x) <= 1e-9 * np.linalg.norm(b)
    np.testing.assert_allclose((A @ (b + 2j * b)).imag, 2 * (A @ b))


def test_update_is_a_new_grid() -> None:
    rng = RNG(4)
    shape = (14, 17)
    masks = [rng.random(shape) > 0.3 for _ in range(3)]
    A = GridPoisson(shape, masks[0])
    cycle = _core.MultigridCycle(A._native, 2, "jacobi", [], 3, 4.0, None)
    for mask in [*masks[1:], masks[0]]:
        A.update(mask)
        cycle.update()
        fresh = GridPoisson(shape, mask)
        x = rng.standard_normal(shape)
        np.testing.assert_array_equal(A.apply(x), fresh.apply(x))
        r, _ = A.project(np.where(mask, x, 0.0))
        mine, other = np.empty(shape), np.empty(shape)
        cycle.apply(r, mine, False)
        _core.MultigridCycle(fresh._native, 2, "jacobi", [], 3, 4.0, None).apply(r, other, False)
        np.testing.assert_array_equal(mine, other)


def test_pickle_and_copies() -> None:
    A, _ = make(CASES[4])
    again = pickle.loads(pickle.dumps(A))
    x = RNG(0).standard_normal(A.grid_shape)
    np.testing.assert_array_equal(A.apply(x), again.apply(x))
    flags = np.zeros((4, 4), dtype=np.uint8)
    B = GridPoisson((4, 4), flags)
    flags[:] = 1
    assert B.n_fluid == 16
    B.flags[:] = 1
    assert B.n_fluid == 16


def test_nothing_but_solid() -> None:
    A = GridPoisson((5, 6), np.zeros((5, 6), dtype=bool))
    assert A.n_fluid == A.n_components == 0
    assert A.tocsr().shape == (0, 0)
    assert not A.apply(np.ones((5, 6))).any()
    _, z = native_cycle(A, np.zeros((5, 6)), 2, "jacobi", [], 3, 4.0, None)
    assert not z.any()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((7,), {}, TypeError, "`shape`"),
        (((2, 2, 2, 2),), {}, ValueError, "`shape`"),
        (((0, 4),), {}, ValueError, r"`shape\[0\]`"),
        (((4, 4.0),), {}, TypeError, r"`shape\[1\]`"),
        (((4, 4), np.zeros((4, 5), bool)), {}, ValueError, r"`flags` has shape \(4, 5\)"),
        (((4, 4), np.zeros((4, 4))), {}, TypeError, "`flags` has dtype float64"),
        (((4, 4), np.full((4, 4), 3)), {}, ValueError, "`flags` holds 3"),
        (((4, 4), np.full((4, 4), -1)), {}, ValueError, "`flags` holds -1"),
        (((4, 4),), {"spacing": 0.0}, ValueError, "`spacing`"),
        (((4, 4),), {"spacing": (1.0, 1.0, 1.0)}, ValueError, "`spacing`"),
        (((4, 4),), {"spacing": 1e-200}, ValueError, "`spacing`"),
        (((4, 4),), {"exterior": "open"}, ValueError, "`exterior"),
        (((4, 4),), {"exterior": ("dirichlet",)}, ValueError, "`exterior`"),
        (((4, 4),), {"exterior": (("periodic", "dirichlet"), "neumann")}, ValueError, "`exterior"),
        (((4, 4),), {"shift": -1.0}, ValueError, "`shift`"),
        (((4, 4),), {"shift": np.nan}, ValueError, "`shift`"),
        (((4, 4),), {"conductance": 1.0}, TypeError, "`conductance`"),
        (((4, 4),), {"conductance": (np.ones((4, 4)), None)}, ValueError, r"`conductance\[0\]`"),
        (((4, 4),), {"conductance": (-np.ones((5, 4)), None)}, ValueError, r"`conductance\[0\]`"),
        (((4, 4),), {"conductance": (np.full((5, 4), np.nan), None)}, ValueError, r"`conductance\[0\]`"),
        (
            ((4, 4),),
            {"conductance": (np.arange(20.0).reshape(5, 4), None), "exterior": "periodic"},
            ValueError,
            "periodic axis 0",
        ),
    ],
)
def test_bad_input(arguments: Any, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        GridPoisson(*arguments, **options)


def test_bad_vectors_and_updates() -> None:
    A = GridPoisson((4, 4), np.eye(4, dtype=bool))
    for x in (np.ones(5), np.ones((2, 8)), np.ones((1, 16))):
        with pytest.raises(ValueError, match="`x` has shape"):
            A.apply(x)
    with pytest.raises(TypeError, match="complex"):
        A.apply(np.ones((4, 4), dtype=complex))
    with pytest.raises(ValueError, match="`conductance`"):
        A.update(conductance=(None, None))
    with pytest.raises(ValueError, match="`flags`"):
        A.update(np.full((4, 4), 7))
    assert A.n_fluid == 4


def test_update_inside_a_solve_is_refused() -> None:
    A = GridPoisson((8, 8))
    b = RNG(0).standard_normal((8, 8))

    def change(xk: Any) -> None:
        A.update(np.eye(8, dtype=bool))

    with pytest.raises(RuntimeError, match="inside of a solve"):
        deep_conjugate_direction(A, b, callback=change)
    assert deep_conjugate_direction(A, b).converged


@pytest.mark.parametrize("visits", [1, 2])
def test_cycles_are_definite_on_odd_boxes_with_contrasts(visits: int) -> None:
    """Narrow cells at odd ends are where corrections could be more than twice too long."""
    rng = RNG(11)
    for _ in range(40):
        shape = ((int(rng.integers(20, 60)),), tuple(rng.integers(5, 12, 2).tolist()))[int(rng.integers(2))]
        flags = np.where(rng.random(shape) < 0.35, 1, 0)
        faces = [
            10 ** rng.uniform(-1, 1, tuple(n + (k == a) for k, n in enumerate(shape)))
            for a in range(len(shape))
        ]
        A = GridPoisson(shape, flags, conductance=faces)
        if A.n_fluid == 0:
            continue
        units = [A.project(e)[0] for e in np.eye(A.n_fluid)]
        cycle = _core.MultigridCycle(A._native, visits, "chebyshev", [], 3, 4.0, None)
        B = np.empty((A.n_fluid, A.n_fluid))
        for column, unit in enumerate(units):
            out = np.empty(A.n_fluid)
            cycle.apply(unit, out, True)
            B[:, column] = out
        share, basis = np.linalg.eigh(np.array(units))
        free = basis[:, share > 0.5]
        if free.shape[1] == 0:
            continue
        values = np.linalg.eigvals((free.T @ B @ free) @ (free.T @ A.tocsr() @ free))
        assert values.real.min() > 0
        assert values.real.max() < (2.01 if visits == 2 else 8)
