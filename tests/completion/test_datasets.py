"""Completion data sets: what the seeded ones promise, and what the files of other packages hold."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from aitken import datasets
from aitken.datasets import completion as readers
from aitken.datasets import low_rank_problem, power_law_pattern
from tests.completion import problems


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


# ------------------------------------------------------------------------------------------------- seeded


def test_low_rank_problem():
    problem = low_rank_problem(80, 60, rank=4, oversampling=3.5, cond=20.0, seed=3)
    assert problem.shape == (80, 60)
    assert problem.nnz == len(problem.rows) == len(problem.cols) == int(3.5 * 4 * 136)
    assert len(np.unique(problem.rows * 60 + problem.cols)) == problem.nnz
    M = problem.U @ problem.V.T
    np.testing.assert_allclose(problem.vals, M[problem.rows, problem.cols], rtol=1e-11, atol=1e-13)
    s = np.linalg.svd(M, compute_uv=False)
    np.testing.assert_allclose(s[:4], np.sqrt(80 * 60 / 4) * np.geomspace(1, 0.05, 4), rtol=1e-12)
    assert s[4] < 1e-12
    assert problem.info["rms"] == pytest.approx(np.sqrt((M**2).mean()))
    again = low_rank_problem(80, 60, rank=4, oversampling=3.5, cond=20.0, seed=3)
    np.testing.assert_array_equal(again.vals, problem.vals)
    assert (low_rank_problem(80, 60, rank=4, seed=4).vals[:9] != problem.vals[:9]).all()
    assert low_rank_problem(50).shape == (50, 50)


def test_low_rank_noise():
    quiet, loud = (low_rank_problem(200, rank=5, cond=9.0, noise=n) for n in (0.0, 0.3))
    np.testing.assert_array_equal(quiet.rows, loud.rows)
    added = loud.vals - quiet.vals
    assert added.std() == pytest.approx(0.3 * quiet.info["rms"], rel=0.05)
    assert abs(added.mean()) < 0.02


def test_required_sizes():
    assert problems.recovery(n=400).nnz == 4 * 10 * 790
    assert problems.phase(1.5, 10).nnz == int(1.5 * 5 * 1195)
    assert problems.hard(3).nnz == 3 * 6 * 1994
    assert problems.noisy(0.1).nnz == 8 * 5 * 1995


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n1": 0}, "`n1`"),
        ({"n2": 2.5}, "`n2`"),
        ({"rank": 0}, "`rank`"),
        ({"n1": 4, "rank": 5}, "`rank` must be at most min"),
        ({"n1": 10, "rank": 5, "oversampling": 4.0}, "`oversampling` = 4.0 asks for 300 entries"),
        ({"oversampling": 0}, "`oversampling`"),
        ({"cond": 0.5}, "`cond`"),
        ({"noise": -1.0}, "`noise`"),
    ],
)
def test_bad_low_rank_problems(options, named):
    with pytest.raises((TypeError, ValueError), match=named):
        low_rank_problem(**options)


def test_power_law_pattern():
    rows, cols = power_law_pattern(500, 300, draws=20_000, seed=1)
    assert (np.diff(rows * 300 + cols) > 0).all()
    assert rows.min() == 0
    assert rows.max() < 500
    assert cols.max() < 300
    assert 10_000 < len(rows) < 20_000
    weights = (np.arange(500) + 1e3) ** -0.9  # flat enough for hardly any place to be drawn twice
    drawn = np.bincount(power_law_pattern(500, 10**6, draws=20_000, offset=1e3)[0], minlength=500)
    expected = drawn.sum() * weights / weights.sum()
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected)).all()
    flat = np.bincount(power_law_pattern(50, 10**6, draws=50_000, exponent=0.0)[0])
    assert flat.max() < 1.3 * flat.min()
    with pytest.raises(ValueError, match="`offset`"):
        power_law_pattern(10, 10, offset=0.0)
    with pytest.raises(ValueError, match="`draws`"):
        power_law_pattern(10, 10, draws=0)


@pytest.mark.slow
def test_power_law_pattern_of_the_benchmark():
    assert len(power_law_pattern()[0]) == 7_167_276


def test_splits():
    problem = low_rank_problem(40, rank=2)
    train, test = problem.split(0.1, seed=7)
    order = np.random.default_rng(7).permutation(problem.nnz)
    assert test.nnz == round(0.1 * problem.nnz)
    np.testing.assert_array_equal(train.rows, problem.rows[order[test.nnz :]])
    np.testing.assert_array_equal(test.vals, problem.vals[order[: test.nnz]])
    both = np.concatenate([train.rows * 40 + train.cols, test.rows * 40 + test.cols])
    np.testing.assert_array_equal(np.sort(both), np.sort(problem.rows * 40 + problem.cols))
    assert train.U is problem.U
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="`fraction`"):
            problem.split(fraction)


def test_dense_form():
    problem = low_rank_problem(30, 20, rank=2)
    M = problem.to_dense()
    assert np.isnan(M).sum() == 600 - problem.nnz
    np.testing.assert_array_equal(M[problem.rows, problem.cols], problem.vals)


def test_nothing_is_imported_before_it_is_needed():
    program = (
        "import sys, aitken.datasets\n"
        "found = {'sklearn', 'rdata', 'pandas', 'xarray', 'recbole', 'torch'} & set(sys.modules)\n"
        "sys.exit(str(sorted(found)) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -------------------------------------------------------------------------------------------------- ratings


@needs("recbole")
def test_movielens():
    ratings = datasets.read_movielens_100k()
    assert ratings.shape == (943, 1682)
    assert ratings.nnz == 100_000
    assert len(np.unique(ratings.rows * 1682 + ratings.cols)) == 100_000
    np.testing.assert_array_equal(np.unique(ratings.vals), [1, 2, 3, 4, 5])
    assert ratings.vals.mean() == pytest.approx(3.52986)
    assert (ratings.rows[0], ratings.cols[0], ratings.vals[0]) == (195, 241, 3)  # user 196, film 242
    assert ratings.info["times"][0] == 881250949
    assert "recbole" not in sys.modules


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "7\t30\t4\t100\n2\t30\t3\t200\n7\t5\t1\t300\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n7,30,4.0,100\n2,30,3.0,200\n7,5,1.0,300\n"),
    ],
)
def test_files_of_ratings(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    ratings = datasets.read_movielens_100k(path=file)
    assert ratings.shape == (2, 2)
    np.testing.assert_array_equal(ratings.rows, [1, 0, 1])
    np.testing.assert_array_equal(ratings.cols, [1, 1, 0])
    np.testing.assert_array_equal(ratings.vals, [4, 3, 1])
    np.testing.assert_array_equal(ratings.info["users"], [2, 7])
    np.testing.assert_array_equal(ratings.info["items"], [5, 30])
    np.testing.assert_array_equal(ratings.info["times"], [100, 200, 300])


def test_files_of_something_else(tmp_path):
    file = tmp_path / "u.data"
    for text in ("1\t2\t3\n", "1\ttwo\t3\t4\n"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="`path` is no table of user, item, rating and time"):
            datasets.read_movielens_100k(file)
    with pytest.raises(FileNotFoundError):
        datasets.read_movielens_100k(tmp_path / "absent")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps recbole"):
        datasets.read_movielens_100k()
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(ImportError, match="pip install rdata"):
        datasets.read_colorado_climate()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install 'aitken\\[demo\\]'"):
        datasets.image_with_gaps()


# -------------------------------------------------------------------------------------------------- climate


@needs("rdata")
@pytest.mark.filterwarnings("ignore")  # of the packages that rdata loads
def test_climate():
    if readers._r_file("fields", "COmonthlyMet.rda") is None:
        pytest.skip("R's package fields is not installed")
    known = {"tmax": (178337, 10.10), "tmin": (177803, 9.18), "ppt": (192784, 3.47)}
    for name, (count, spread) in known.items():
        months = datasets.read_colorado_climate(name)
        assert months.shape == (1236, 376)
        assert np.isfinite(months).sum() == count
        assert np.nanstd(months) == pytest.approx(spread, abs=0.005)
    year = np.nanmean(months_of("tmax"), axis=(0, 2))
    assert year.argmax() == 6  # July
    assert year.argmin() in (0, 11)


def months_of(name):
    return datasets.read_colorado_climate(name).reshape(103, 12, 376)


@needs("rdata")
@pytest.mark.filterwarnings("ignore")
def test_climate_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`name` must be"):
        datasets.read_colorado_climate("wind")
    with pytest.raises(FileNotFoundError, match="`path` is no file"):
        datasets.read_colorado_climate(path=tmp_path / "absent.rda")
    monkeypatch.setattr(readers, "_R_LIBRARIES", ())
    for key in ("R_LIBS", "R_LIBS_USER"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(FileNotFoundError, match="r-cran-fields"):
        datasets.read_colorado_climate()


def test_where_packages_of_r_are(tmp_path, monkeypatch):
    file = tmp_path / "fields" / "data" / "COmonthlyMet.rda"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setenv("R_LIBS", f"{tmp_path / 'other'}:{tmp_path}")
    assert readers._r_file("fields", "COmonthlyMet.rda") == file
    assert readers._r_file("fields", "absent.rda") is None


# -------------------------------------------------------------------------------------------------- images


@needs("sklearn")
@needs("PIL")
def test_image():
    image, gaps = datasets.image_with_gaps()
    assert image.shape == gaps.shape == (427, 640)
    assert image.min() >= 0
    assert 0.9 < image.max() <= 1
    missing = np.isnan(gaps)
    assert missing.mean() == pytest.approx(0.5, abs=0.005)
    np.testing.assert_array_equal(gaps[~missing], image[~missing])
    np.testing.assert_array_equal(datasets.image_with_gaps()[1], gaps)
    assert (np.isnan(datasets.image_with_gaps(seed=1)[1]) != missing).any()
    whole, same = datasets.image_with_gaps("flower", missing=0.0, step=4)
    assert whole.shape == (107, 160)
    np.testing.assert_array_equal(whole, same)


@needs("sklearn")
@needs("PIL")
def test_image_in_colour():
    grey, _ = datasets.image_with_gaps("flower", step=2)
    image, gaps = datasets.image_with_gaps("flower", colour=True, missing=0.3, step=2)
    assert image.shape == (214, 960)
    channels = np.split(image, 3, axis=1)
    np.testing.assert_allclose(
        0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2], grey, rtol=1e-12
    )
    missing = np.isnan(gaps)
    assert missing.mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(missing[:, :320], missing[:, 320:640])
    np.testing.assert_array_equal(missing[:, :320], missing[:, 640:])


def test_bad_images():
    with pytest.raises(ValueError, match="`name` must be"):
        datasets.image_with_gaps("moon")
    with pytest.raises(ValueError, match="`missing`"):
        datasets.image_with_gaps(missing=1.0)
    with pytest.raises(ValueError, match="`step`"):
        datasets.image_with_gaps(step=0)
