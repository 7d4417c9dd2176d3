"""Every family against an independent fact: manufactured solutions, slow loops, symmetry, signs."""

from __future__ import annotations

import types

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import spsolve

from aitken import datagen
from aitken.datagen import _families, families, make_family

SMALL = {
    "darcy": 9,
    "darcy-published": 8,
    "helmholtz": 10,
    "helmholtz-published": 8,
    "poisson": 9,
    "thermal": 12,
    "darcy3d": 5,
    "convection-diffusion": 5,
}
OPTIONS = [
    *((name, {}) for name in SMALL),
    ("darcy", {"coefficient": "rough"}),
    ("darcy", {"coefficient": "binary"}),
    ("darcy-published", {"as_published": False}),
    ("poisson", {"vertical": "y"}),
    ("thermal", {"boundary": "temperatures"}),
    ("convection-diffusion", {"coefficient": "constant"}),
]


def block(family, count=3, seed=0):
    return np.stack([family.parameters(seed, i) for i in range(count)])


def matrices(family, parameters):
    data, b = family.assemble(parameters)
    shape = (family.n, family.n)
    return [csr_array((d, family.indices, family.indptr), shape=shape) for d in data], b


def solutions(family, parameters):
    A, b = matrices(family, parameters)
    return family.unpack(np.array([spsolve(M.tocsc(), rhs) for M, rhs in zip(A, b, strict=True)]), parameters)


def test_every_family_is_tested():
    assert set(SMALL) == set(families())


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_facts_and_shapes(name, options):
    family = make_family(name, SMALL[name], **options)
    p = block(family)
    A, b = matrices(family, p)
    assert b.shape == (3, family.n)
    for M in A:
        assert csr_array(M.tocoo()).nnz == family.nnz  # no duplicates
        assert M.has_sorted_indices
    dense = np.array([M.toarray() for M in A])
    assert np.isfinite(dense).all()
    assert family.symmetric == np.array_equal(dense, dense.transpose(0, 2, 1))
    assert family.same_matrix == np.array_equal(dense[0], dense[1])
    if family.symmetric:
        assert family.positive_definite == (np.linalg.eigvalsh(dense).min() > 0)
    x = solutions(family, p)
    assert x.shape[1:] == family.shape
    assert [len(c) for c in family.coordinates()] == list(family.shape)
    assert len(family.inputs(p)) == 3
    assert len(family.sort_key(p)) == 3
    if family.scalars(p) is not None:
        assert family.scalars(p).ndim == 2
    assert family.options.items() >= options.items()


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_samples_do_not_follow_their_block(name, options):
    """Bits: a sample alone, in a block, and from a new object of the family."""
    family = make_family(name, SMALL[name], **options)
    p = block(family, 7)
    data, b = family.assemble(p)
    x = np.random.default_rng(0).standard_normal((7, family.n))
    for i in (0, 3, 6):
        other = make_family(name, SMALL[name], **options)
        alone = other.parameters(0, i)[None]
        np.testing.assert_array_equal(alone[0], p[i])
        one, rhs = other.assemble(alone)
        np.testing.assert_array_equal(one[0], data[i])
        np.testing.assert_array_equal(rhs[0], b[i])
        np.testing.assert_array_equal(other.inputs(alone)[0], family.inputs(p)[i])
        np.testing.assert_array_equal(other.unpack(x[i : i + 1], alone)[0], family.unpack(x, p)[i])
    assert not np.array_equal(p[0], p[1])
    assert not np.array_equal(block(family, 1, seed=1)[0], p[0])


def is_m_matrix(M):
    dense = M.toarray()
    off = dense - np.diag(np.diag(dense))
    return off.max() <= 0 and np.linalg.inv(dense).min() >= 0


@pytest.mark.parametrize("name", ["darcy", "darcy3d", "convection-diffusion", "poisson", "thermal"])
def test_discrete_maximum_principle(name):
    family = make_family(name, SMALL[name])
    for M in matrices(family, block(family))[0]:
        assert is_m_matrix(M)


@pytest.mark.parametrize(("name", "shape"), [("darcy", (5, 4)), ("darcy3d", (3, 4, 2))])
def test_darcy_entry_by_entry(name, shape):
    """Fluxes over single faces of the box, from the definition, cells of any aspect ratio."""
    family = make_family(name, shape)
    a = np.random.default_rng(0).random((2, *shape)) + 0.1
    A, b = matrices(family, a)
    spacing = [1 / s for s in shape]
    scale = min(spacing) ** 2
    for k in range(2):
        expected = np.zeros((family.n, family.n))
        for cell in np.ndindex(*shape):
            row = np.ravel_multi_index(cell, shape)
            for axis, side in [(axis, side) for axis in range(len(shape)) for side in (-1, 1)]:
                near = list(cell)
                near[axis] += side
                w = scale / spacing[axis] ** 2
                if 0 <= near[axis] < shape[axis]:
                    other = a[k][tuple(near)]
                    t = w * 2 / (1 / a[k][cell] + 1 / other)
                    expected[row, np.ravel_multi_index(near, shape)] -= t
                else:
                    t = w * 2 * a[k][cell]
                expected[row, row] += t
        np.testing.assert_allclose(A[k].toarray(), expected, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(b[k], scale, rtol=1e-15)


@pytest.mark.parametrize("name", ["darcy", "darcy3d"])
def test_darcy_converges_to_a_manufactured_solution(name):
    """-div(a grad u) = f for a smooth a: second order in the maximum norm."""
    errors = []
    for grid in (12, 24):
        family = make_family(name, grid)
        d = len(family.shape)
        X = np.meshgrid(*family.coordinates(), indexing="ij")
        sines = [np.sin(np.pi * x) for x in X]
        u = np.prod(sines, axis=0)
        a = 2 + np.sin(X[0]) * np.cos(X[-1])
        gradients = [
            np.pi * np.cos(np.pi * X[k]) * np.prod(sines[:k] + sines[k + 1 :], axis=0) for k in range(d)
        ]
        f = a * d * np.pi**2 * u
        f -= np.cos(X[0]) * np.cos(X[-1]) * gradients[0] - np.sin(X[0]) * np.sin(X[-1]) * gradients[-1]
        A, _ = matrices(family, a[None])
        x = spsolve(A[0].tocsc(), f.ravel() / grid**2)
        errors.append(np.abs(x - u.ravel()).max())
    assert 3.3 < errors[0] / errors[1] < 4.7


def test_darcy_coefficient_laws():
    rough = block(make_family("darcy", 32, coefficient="rough"), 4)
    smooth = block(make_family("darcy", 32), 4)
    np.testing.assert_allclose(np.log(rough), 8 * np.log(smooth), rtol=1e-12, atol=1e-12)
    assert set(np.unique(block(make_family("darcy", 32, coefficient="binary"), 4))) == {3.0, 12.0}


def published(w, q, slip):
    """T1 by a double loop over the points."""
    v = w.ravel()
    A = np.zeros((q * q, q * q))
    for i in range(q):
        for j in range(q):
            r = i * q + j
            A[r, r] = 4 * v[r]
            if j > 0:
                A[r, r - 1] = -v[r - 1]
            if j < q - 1:
                A[r, r + 1] = -v[r + 1]
            if i > 0:
                A[r, r - q] = -v[r - q]
            if i < q - 1:
                A[r, r + q] = -v[(q - slip) + r]
    return A


@pytest.mark.parametrize("as_published", [True, False])
def test_published_darcy(as_published):
    q = 7
    family = make_family("darcy-published", q, as_published=as_published)
    w = block(family, 2)
    A, b = matrices(family, w)
    for k in range(2):
        np.testing.assert_array_equal(A[k].toarray(), published(w[k], q, 2 if as_published else 0))
    np.testing.assert_array_equal(b, (1 / (q - 1)) ** 2 * np.ones((2, q * q)))
    one = make_family("darcy-published", q, as_published=False)
    laplacian = matrices(one, np.ones((1, q, q)))[0][0].toarray()
    assert np.array_equal(A[0].toarray(), laplacian @ np.diag(w[0].ravel())) != as_published


def test_published_helmholtz_is_darcy_with_a_small_shift():
    q = 30
    family, darcy = make_family("helmholtz-published", q), make_family("darcy-published", q)
    p = block(family, 5)
    kappa, w = family.scalars(p)[:, 0], family.inputs(p)
    assert np.all((0 <= kappa) & (kappa < 1))
    A, _ = matrices(family, p)
    D, _ = matrices(darcy, w)
    for k in range(5):
        shift = (D[k] - A[k]).toarray()
        np.testing.assert_allclose(np.diag(shift), (kappa[k] / (q - 1)) ** 2, rtol=0, atol=4e-15)
        assert np.count_nonzero(shift - np.diag(np.diag(shift))) == 0


def test_helmholtz_converges_to_a_manufactured_solution():
    """With c = 1 (p = 0) the eigenfunctions of the Laplacian give an exact right-hand side."""
    errors = []
    for grid in (23, 47):
        family = make_family("helmholtz", grid, wavenumber=12.0)
        y, x = np.meshgrid(*family.coordinates(), indexing="ij")
        u = np.sin(2 * np.pi * x) * np.sin(np.pi * y)
        f = (5 * np.pi**2 - 144) * u
        A, _ = matrices(family, np.zeros((1, 2)))
        found = spsolve(A[0].tocsc(), f.ravel() / (grid + 1) ** 2)
        errors.append(np.abs(found - u.ravel()).max())
    assert 3.6 < errors[0] / errors[1] < 4.6


def test_helmholtz_speed_and_source():
    family = make_family("helmholtz", (8, 11), wavenumber=24)
    p = block(family, 3)
    y, x = np.meshgrid(np.arange(1, 9) / 9, np.arange(1, 12) / 12, indexing="ij")
    A, b = matrices(family, p)
    rest = matrices(family, np.zeros((1, 2)))[0][0]
    for k, (p0, p1) in enumerate(p):
        c = 1 + 0.15 * p0 * np.sin(2 * np.pi * x) * np.sin(np.pi * y)
        c += 0.15 * p1 * np.cos(np.pi * x) * np.sin(3 * np.pi * y)
        np.testing.assert_allclose(family.inputs(p)[k], c, rtol=1e-14)
        expected = rest.toarray() + np.diag(((24**2 - (24 * c) ** 2) / 144).ravel())
        np.testing.assert_allclose(A[k].toarray(), expected, atol=1e-12)
        f = 100 * np.exp(-200 * ((x - 0.3) ** 2 + (y - 0.4) ** 2))
        np.testing.assert_allclose(b[k] * 144, f.ravel(), rtol=1e-12)
    # the plain part, both spacings: exact on the product of parabolas x (1 - x) y (1 - y)
    u = x * (1 - x) * y * (1 - y)
    minus_laplacian = (rest.toarray() + np.eye(88) * 24**2 / 144) @ u.ravel() * 144
    np.testing.assert_allclose(minus_laplacian, (2 * (x * (1 - x) + y * (1 - y))).ravel(), rtol=1e-11)


@pytest.mark.parametrize("vertical", ["published", "y"])
def test_poisson_boundary_and_source(vertical):
    """Chebyshev sums by NumPy's own evaluation, placed on the edges; corners lie on horizontal edges."""
    family = make_family("poisson", (6, 9), vertical=vertical)
    p = block(family, 2)
    field, x = family.inputs(p), np.linspace(0, 1, 9)
    y = np.linspace(0, 1, 6)
    value = np.polynomial.chebyshev.chebval
    u = solutions(family, p)
    for k, (f, bottom, top, left, right) in enumerate(p):
        np.testing.assert_allclose(field[k, 1:-1, 1:-1], np.tile(value(x, f)[1:-1], (4, 1)), atol=1e-14)
        for edges in (field[k], u[k]):
            np.testing.assert_allclose(edges[0], value(x, bottom), atol=1e-14)
            np.testing.assert_allclose(edges[-1], value(x, top), atol=1e-14)
            at_left, at_right = (y, y) if vertical == "y" else (0 * y, 0 * y + 1)
            np.testing.assert_allclose(edges[1:-1, 0], value(at_left, left)[1:-1], atol=1e-14)
            np.testing.assert_allclose(edges[1:-1, -1], value(at_right, right)[1:-1], atol=1e-14)
        # the five-point equation at every inner node
        v, hx, hy = u[k], 1 / 8, 1 / 5
        lhs = (2 * v[1:-1, 1:-1] - v[1:-1, 2:] - v[1:-1, :-2]) / hx**2
        lhs += (2 * v[1:-1, 1:-1] - v[2:, 1:-1] - v[:-2, 1:-1]) / hy**2
        np.testing.assert_allclose(lhs, field[k, 1:-1, 1:-1], rtol=1e-9, atol=1e-9)


def test_poisson_right_hand_sides_have_the_published_rank():
    for vertical, rank in (("published", 20), ("y", 30)):
        family = make_family("poisson", 20, vertical=vertical)
        assert np.linalg.matrix_rank(family.assemble(block(family, 60))[1], tol=1e-10) == rank


def test_thermal_without_slot_is_linear(monkeypatch):
    """Through a plain block the temperature is linear: T + flux * (x + 0.5), exactly for finite volumes."""
    monkeypatch.setattr(_families, "_SLOT", (0.0, 0.0))
    family = make_family("thermal", (12, 10))
    assert family.mask.all()
    u = solutions(family, np.array([[70.0, -30.0]]))[0]
    _, x = np.meshgrid(*family.coordinates(), indexing="ij")
    np.testing.assert_allclose(u, 70 - 30 * (x + 0.5), rtol=1e-11)


@pytest.mark.parametrize("boundary", ["flux", "temperatures"])
def test_thermal_conserves_heat(boundary):
    family = make_family("thermal", 20, boundary=boundary)
    p = block(family, 4)
    left, right = p.T
    low, high = ((0, 100), (-100, 0)) if boundary == "flux" else ((-100, 0), (0, 100))
    assert np.all((low[0] <= left) & (left <= low[1]) & (high[0] <= right) & (right <= high[1]))
    u = solutions(family, p)
    h = 1 / 20
    enters = ((left[:, None] - u[:, :, 0]) / (h / 2) * h).sum(axis=1)
    if boundary == "flux":
        leaves = -right * 1.6
    else:
        leaves = ((u[:, :, -1] - right[:, None]) / (h / 2) * h).sum(axis=1)
    np.testing.assert_allclose(enters, leaves, rtol=1e-9)
    assert np.all(u[:, ~family.mask] == 0)
    slot = np.argwhere(~family.mask)
    y, x = family.coordinates()
    assert np.abs(x[slot[:, 1]]).max() < 0.05
    assert np.abs(y[slot[:, 0]]).max() < 0.4
    assert len(slot) == 2 * 16  # 0.1 by 0.8 in cells of 0.05


def test_thermal_slot_has_insulated_walls():
    """No entry couples across the slot, and away from the held edge every row sums to zero."""
    family = make_family("thermal", 20)
    A = matrices(family, block(family, 1))[0][0]
    rows = np.asarray(A.sum(axis=1))
    column = np.nonzero(family.mask)[1]
    np.testing.assert_allclose(rows[column > 0], 0, atol=1e-13)
    np.testing.assert_allclose(rows[column == 0], 2, rtol=1e-13)


def test_convection_diffusion_entry_by_entry():
    family = make_family("convection-diffusion", (3, 4, 2), coefficient="constant")
    v = np.array([[3.0, -50.0, 7.0], [-100.0, 0.0, 2.0]])
    A, b = matrices(family, v)
    h = np.array([1 / 3, 1 / 4, 1 / 2])
    for k in range(2):
        expected = np.zeros((24, 24))
        for cell in np.ndindex(3, 4, 2):
            row = np.ravel_multi_index(cell, (3, 4, 2))
            for axis, side in [(axis, side) for axis in range(3) for side in (-1, 1)]:
                near = list(cell)
                near[axis] += side
                inside = 0 <= near[axis] < (3, 4, 2)[axis]
                diffusion = 1 / h[axis] ** 2 if inside else 2 / h[axis] ** 2
                outflow = side * v[k, axis] / h[axis]
                expected[row, row] += diffusion + max(outflow, 0)
                if inside:
                    expected[row, np.ravel_multi_index(near, (3, 4, 2))] += min(outflow, 0) - diffusion
        np.testing.assert_allclose(A[k].toarray() * 16, expected, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(b, 1 / 16)


def test_convection_diffusion_converges_at_first_order():
    """u = product of sines under a constant wind; upwinding is first order."""
    v = np.array([20.0, -10.0, 5.0])
    errors = []
    for grid in (10, 20):
        family = make_family("convection-diffusion", grid, coefficient="constant")
        X = np.meshgrid(*family.coordinates(), indexing="ij")
        s, c = [np.sin(np.pi * x) for x in X], [np.cos(np.pi * x) for x in X]
        u = s[0] * s[1] * s[2]
        f = 3 * np.pi**2 * u
        f += np.pi * (v[0] * c[0] * s[1] * s[2] + v[1] * s[0] * c[1] * s[2] + v[2] * s[0] * s[1] * c[2])
        A, _ = matrices(family, v[None])
        errors.append(np.abs(spsolve(A[0].tocsc(), f.ravel() / grid**2) - u.ravel()).mean())
    assert 1.7 < errors[0] / errors[1] < 2.6


def test_wind_law():
    family = make_family("convection-diffusion", 4, coefficient="constant", speed=(3, 5))
    v = block(family, 400)
    speed = np.linalg.norm(v, axis=1)
    assert 3 <= speed.min() < 3.1
    assert 4.9 < speed.max() <= 5
    assert np.abs((v / speed[:, None]).mean(axis=0)).max() < 0.1
    mixed = make_family("convection-diffusion", 4)
    p = block(mixed, 2)
    np.testing.assert_array_equal(mixed.scalars(p), p[:, :3])
    assert mixed.inputs(p).shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("kind", "grid", "options", "error", "match"),
    [
        ("darci", 8, {}, ValueError, "did you mean 'darcy'"),
        ("darcy", 1, {}, ValueError, "`grid` must be >= 2; got 1"),
        ("darcy", 8.0, {}, TypeError, "`grid`"),
        ("darcy", (8, 8, 8), {}, ValueError, "`grid` must be an int or 2"),
        ("darcy", 8, {"coefficient": "ruogh"}, ValueError, "did you mean 'rough'"),
        ("darcy", 8, {"coefficients": "rough"}, TypeError, "did you mean `coefficient`"),
        ("poisson", 2, {}, ValueError, "`grid`"),
        ("thermal", 9, {}, ValueError, "`grid`"),
        ("helmholtz", 8, {"wavenumber": -1}, ValueError, "`wavenumber`"),
        ("convection-diffusion", 4, {"speed": (5, 3)}, ValueError, "`speed`"),
        ("convection-diffusion", 4, {"speed": 5}, ValueError, "`speed`"),
        ("no_such_module:f", 8, {}, ImportError, "no_such_module"),
        ("math:no_such", 8, {}, ImportError, "no_such"),
        (":f", 8, {}, ValueError, "`kind`"),
        (7, 8, {}, TypeError, "`kind`"),
        ("math:sqrt", 4, {}, TypeError, "has no `indptr`"),
        ("darcy3d", 700, {}, ValueError, "64-bit"),
    ],
)
def test_bad_families(kind, grid, options, error, match):
    with pytest.raises(error, match=match):
        make_family(kind, grid, **options)


def foreign(**changes):
    """An object that only imitates a family: the scalar p scales a 1-D Laplacian of three points."""
    base = np.array([2.0, -1, -1, 2, -1, -1, 2])
    fields = {
        "indptr": [0, 2, 5, 7],
        "indices": [0, 1, 0, 1, 2, 1, 2],
        "parameters": lambda seed, i: np.array([1.0 + datagen.stream(seed, i).random()]),
        "assemble": lambda p: (p * base, np.ones((len(p), 3))),
    }
    return types.SimpleNamespace(**{**fields, **changes})


def test_imitations_get_the_defaults():
    family = make_family(foreign())
    assert (family.n, family.nnz, family.name, family.mask) == (3, 7, "custom", None)
    p = block(family, 2)
    assert family.inputs(p) is p
    assert solutions(family, p).shape == (2, 3)
    with pytest.raises(TypeError, match="`speed` cannot be set"):
        make_family(foreign(), speed=1)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"indptr": [0, 2, 5, 8]}, ValueError, "`indptr`"),
        ({"indptr": [1, 2, 5, 7]}, ValueError, "`indptr`"),
        ({"indptr": [0, 5, 2, 7]}, ValueError, "`indptr`"),
        ({"indptr": [0.0, 2, 5, 7]}, TypeError, "`indptr`"),
        ({"indices": [0, 1, 0, 1, 2, 1, 3]}, ValueError, r"`indices` must lie in \[0, 3\)"),
        ({"indices": [0, 1, 0, 1, 2, 1, -1]}, ValueError, "`indices`"),
        ({"indices": [1, 0, 0, 1, 2, 1, 2]}, ValueError, "ascend"),
        ({"indices": [0, 0, 0, 1, 2, 1, 2]}, ValueError, "ascend"),
    ],
)
def test_bad_patterns(changes, error, match):
    with pytest.raises(error, match=match):
        make_family(foreign(**changes))
