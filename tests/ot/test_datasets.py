"""The transport test problems: masses, shapes, definitions, reproducibility, and independence of the rest."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aitken import datasets

SMALL = {
    "T1": {"n": 20},
    "T2": {"side": 6},
    "T3": {"side": 6},
    "T4": {"n": 20, "m": 15},
    "T5": {"n": 30},
    "T6": {"batch": 3, "n": 5},
    "T7": {"count": 4, "side": 5},
    "T8": {"n": 50, "m": 40},
    "T9": {},
    "digits": {},
    "photos": {"n": 50},
}


def make(name, **extra):
    if name in ("digits", "photos"):
        pytest.importorskip("sklearn")
    if name == "photos":
        pytest.importorskip("PIL")
    return datasets.transport_problem(name, **(SMALL[name] | extra))


def test_every_name_is_tested():
    assert set(SMALL) == set(datasets.transport_problem_names())


@pytest.mark.parametrize("name", SMALL)
def test_masses_shapes_and_costs(name):
    p = make(name)
    for weights in (p.a, p.b):
        if weights is not None:
            assert weights.min() >= 0
            np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-14)
    n, m = p.shape
    if p.M is not None:
        assert p.M.shape[-2:] == (n, m)
        assert p.M.min() >= 0
        assert np.isfinite(p.M).all()
    if p.X is not None:
        assert p.X.shape[0] == n
        assert p.Y.shape[0] == m
        assert p.X.shape[1] == p.Y.shape[1]
    assert p.reg > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.reg = 1.0


@pytest.mark.parametrize("name", [k for k in SMALL if k not in ("T1", "T6", "T8")])  # no points or no matrix
def test_cost_is_the_named_metric_of_the_points(name):
    p = make(name)
    steps = p.X[:, None] - p.Y[None]
    cost = (steps**2).sum(-1) if p.metric == "sqeuclidean" else np.abs(steps).sum(-1)
    np.testing.assert_allclose(p.M * p.info["cost_scale"], cost, rtol=1e-13, atol=1e-15)
    if name != "T5":
        assert p.M.max() == 1.0


@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_problem(name):
    first, second = make(name), make(name)
    for key in ("a", "b", "M", "X", "Y"):
        np.testing.assert_array_equal(getattr(first, key), getattr(second, key))


@pytest.mark.parametrize("name", ["T1", "T4", "T6", "T7", "T8", "photos"])
def test_seed_changes_the_problem(name):
    first, second = make(name), make(name, seed=1)
    assert any(
        getattr(first, key) is not None and not np.array_equal(getattr(first, key), getattr(second, key))
        for key in ("a", "M", "X")
    )


def test_definitions():
    lap = datasets.random_assignment(6, seed=4)
    np.testing.assert_array_equal(lap.M, np.random.default_rng(4).random((6, 6)))
    np.testing.assert_array_equal(lap.a, np.full(6, 1 / 6))
    images = datasets.image_pair()
    assert images.shape == (784, 784)
    ring, bar = images.a.reshape(28, 28), images.b.reshape(28, 28)
    np.testing.assert_allclose(ring, ring[::-1, ::-1], rtol=1e-12)  # the ring is symmetric about the centre
    np.testing.assert_allclose(bar, bar[::-1, ::-1], rtol=1e-12)
    assert not np.allclose(bar, bar[:, ::-1])  # ... and the bar is slanted
    assert ring.min() == pytest.approx(0.01 / 1.01 * ring.max(), rel=0.05)
    line = datasets.interval_densities(500)
    x = line.X[:, 0]
    np.testing.assert_allclose(line.a, np.exp(-x) / np.exp(-x).sum(), rtol=1e-14)
    assert line.b @ x == pytest.approx(0.2 * 1.0 + 0.8 * 3.0, abs=1e-3)
    assert line.b @ x**2 == pytest.approx(0.2 * (1 + 0.04) + 0.8 * (9 + 0.25), abs=2e-2)
    assert datasets.transport_problem("T3", side=4).metric == "cityblock"
    cloud = datasets.gaussian_clouds(4000, 4000)
    A = np.array([[1.0, 0.6], [-0.6, 0.8]])
    np.testing.assert_allclose(cloud.Y.mean(axis=0), 1.0, atol=0.1)
    np.testing.assert_allclose(np.cov(cloud.Y.T), A.T @ A, atol=0.1)
    batch = datasets.random_batch()
    assert batch.M.shape == (64, 64, 64)
    assert batch.a.shape == (64, 64)
    histograms = datasets.histogram_set(5)
    assert histograms.b is None
    assert histograms.a.shape == (5, 256)
    assert histograms.shape == (256, 256)
    points = datasets.point_clouds(1000, d=4)
    assert points.M is None
    assert points.Y.shape == (1000, 4)


@pytest.mark.parametrize("kind", datasets.EDGE_CASES)
def test_edge_cases_have_their_property(kind):
    p = datasets.edge_case(kind, 12, 9)
    assert p.M.shape == p.shape
    assert p.a.sum() == pytest.approx(p.b.sum(), rel=1e-6)
    if kind == "zero_bins":
        assert np.all(p.a[p.info["zero_rows"]] == 0)
        assert np.all(p.b[p.info["zero_cols"]] == 0)
        assert np.count_nonzero(p.a) == p.a.size - p.info["zero_rows"].size
    elif kind == "tiny_bins":
        assert 0 < p.a.min() < 1e-29
        assert 0 < p.b.min() < 1e-29
    elif kind == "one_row":
        assert p.shape == (1, 9)
    elif kind == "one_column":
        assert p.shape == (12, 1)
    elif kind == "duplicated_points":
        np.testing.assert_array_equal(p.M[0], p.M[1])
        np.testing.assert_array_equal(p.M[:, 0], p.M[:, -1])
    elif kind == "forbidden_pairs":
        assert np.isinf(p.M).sum() == p.info["forbidden"] > 0
        assert np.isfinite(np.diag(p.M)).all()
    elif kind == "non_contiguous":
        assert not p.M.flags.c_contiguous
        assert not p.M.flags.f_contiguous
        assert not p.a.flags.contiguous
        np.testing.assert_array_equal(p.M, datasets.gaussian_clouds(12, 9).M)
    elif kind == "float32":
        assert p.a.dtype == p.M.dtype == np.float32
    else:
        assert kind == "integer"
        assert p.a.dtype.kind == p.M.dtype.kind == "i"
        assert p.a.sum() == p.b.sum() == 12 * 9


def test_real_data():
    digits = make("digits", i=3, j=9)
    assert digits.info["labels"] == (3, 9)
    grey = (digits.a / digits.a.min() - 1) * 0.01 * 16  # undo background and normalisation: levels 0 to 16
    np.testing.assert_allclose(grey, np.rint(grey), atol=1e-10)
    assert grey.max() >= 15
    photos = make("photos")
    assert photos.X.min() >= 0
    assert photos.X.max() <= 1
    np.testing.assert_allclose(photos.X * 255, np.rint(photos.X * 255), atol=1e-10)


def test_ragged_problems():
    problems = datasets.ragged_problems(200, 5, 9)
    sizes = np.array([p.shape for p in problems])
    assert set(sizes.ravel()) == set(range(5, 10))  # both bounds occur
    assert (sizes[:, 0] != sizes[:, 1]).any()
    for p in problems:
        assert p.M.shape == p.shape
        assert p.a.sum() == pytest.approx(1.0, rel=1e-14)
        assert p.b.sum() == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_array_equal(problems[7].M, datasets.ragged_problems(8, 5, 9)[7].M)
    other = datasets.ragged_problems(8, 5, 9, seed=1)
    assert [p.shape for p in other] != [p.shape for p in problems[:8]]


def test_colour_images():
    evening, noon = datasets.colour_images(48)
    for image in (evening, noon):
        assert image.shape == (48, 48, 3)
        assert image.min() >= 0
        assert image.max() <= 1
    top = slice(0, 12)
    assert noon[top, :, 2].mean() > noon[top, :, 0].mean()  # a blue sky
    assert evening[20:28, :, 0].mean() > evening[20:28, :, 2].mean()  # a red one


@pytest.mark.parametrize("kind", ["disk", "ring", "star", "heart", "moons"])
def test_planar_shapes(kind):
    points = datasets.planar_shape(kind, 4000)
    assert points.shape == (4000, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    assert not np.array_equal(points, datasets.planar_shape(kind, 4000, seed=1))
    np.testing.assert_array_equal(points, datasets.planar_shape(kind, 4000))
    radius = np.hypot(*(points - 0.5).T) * 2.4
    if kind == "disk":
        assert radius.mean() == pytest.approx(2 / 3, abs=0.02)  # evenly spread
    elif kind == "ring":
        assert radius.min() > 0.59
    elif kind == "star":
        assert radius.max() == pytest.approx(1.1, abs=0.05)
    else:
        mirrored = points[:, 0] if kind == "heart" else points.sum(axis=1)
        assert mirrored.mean() == pytest.approx(0.5 if kind == "heart" else 1.0, abs=0.02)


def test_digit_images():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    still, labels = datasets.digit_images(10)
    moved, same = datasets.digit_images(12, 2)
    digits = load_digits()
    np.testing.assert_array_equal(still[:, 1:9, 1:9], digits.images / 16)
    np.testing.assert_array_equal(labels, digits.target)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_allclose(moved.sum((1, 2)), still.sum((1, 2)), rtol=1e-13)  # nothing is cut off
    rows = (moved.sum(2) * np.arange(12)).sum(1) / moved.sum((1, 2)) - 2
    steps = rows - (still.sum(2) * np.arange(10)).sum(1) / still.sum((1, 2)) + 1
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert set(np.rint(steps)) == {-2, -1, 0, 1, 2}
    counts, labels = datasets.digit_images(photons=40)
    assert counts.shape == (1797, 8, 8)
    np.testing.assert_array_equal(counts.sum((1, 2)), 40)
    assert not counts[digits.images == 0].any()  # no photons where it is black
    mean = digits.images / digits.images.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(counts.mean(0), 40 * mean.mean(0), atol=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.ragged_problems(3, 5, 4), r"`high` must be at least `low` = 5, got 4"),
        (lambda: datasets.planar_shape("cube"), r"`kind`.*'cube'"),
        (lambda: datasets.digit_images(photons=0), r"`photons` must be at least 1, got 0"),
        (lambda: datasets.digit_images(7), r"`side` must be at least 8, got 7"),
        (lambda: datasets.digit_images(12, 3), r"`shift` must be in \[0, 2\] for `side` = 12, got 3"),
        (lambda: datasets.transport_problem("T0"), r"`name`.*'T0'"),
        (lambda: datasets.edge_case("odd"), r"`kind`.*'odd'"),
        (lambda: datasets.image_pair(metric="cosine"), r"`metric`.*'cosine'"),
        (lambda: datasets.interval_densities(metric="cosine"), r"`metric`.*'cosine'"),
        (lambda: datasets.random_assignment(0), r"`n` must be at least 1, got 0"),
        (lambda: datasets.gaussian_clouds(5, 0), r"`m` must be at least 1, got 0"),
        (lambda: datasets.interval_densities(1), r"`n` must be at least 2, got 1"),
    ],
)
def test_errors_name_the_parameter(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_digits_index_out_of_range():
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=r"`j` must be in \[0, 1797\), got 1797"):
        datasets.digits_pair(0, 1797)


def test_missing_sklearn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for make_real in (datasets.digits_pair, datasets.digit_images, datasets.photo_colours):
        with pytest.raises(ImportError, match=r"scikit-learn.*aitken\[demo\]"):
            make_real()


def test_import_needs_numpy_alone():
    # The module is loaded by path, so nothing of the package around it can help.
    source = Path(datasets.__file__).with_name("transport.py")
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('d', {str(source)!r})\n"
        "d = importlib.util.module_from_spec(spec); sys.modules['d'] = d; spec.loader.exec_module(d)\n"
        "assert d.transport_problem('T1', n=3).M.shape == (3, 3)\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "assert not loaded & {'aitken', 'scipy', 'sklearn', 'PIL', 'cupy', 'torch'}, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
