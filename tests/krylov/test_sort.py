"""The order of a sequence: greedy against brute force, curve and chains, reductions, local search."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aitken
from aitken.linalg import _sort
from aitken.linalg._sort import hilbert_index, sort_systems, sorting_report


def brute_force(P, start=0, norm=2):
    """The nearest unvisited row, distances from explicit differences, smallest index on ties."""
    X = P.reshape(P.shape[0], -1)
    order, left = [start], set(range(len(X))) - {start}
    while left:
        here = X[order[-1]]
        order.append(min(left, key=lambda j: (np.linalg.norm(X[j] - here, norm), j)))
        left.remove(order[-1])
    return order


@pytest.mark.parametrize("metric", ["l2", "l1"])
@pytest.mark.parametrize("shape", [(1,), (2,), (60,), (77, 3), (50, 4, 5)])
def test_greedy_is_the_nearest_neighbour_walk(shape, metric):
    P = np.random.default_rng(3).standard_normal(shape)
    start = shape[0] // 3
    order = sort_systems(P, method="greedy", metric=metric, start=start)
    assert order.tolist() == brute_force(P, start, norm=1 if metric == "l1" else 2)


@pytest.mark.parametrize("metric", ["l2", "l1"])
def test_ties_go_to_the_smallest_index(metric):
    """On a lattice of decimal fractions nearly all distances tie up to rounding."""
    ticks = np.stack(np.meshgrid(np.arange(9), np.arange(8)), -1).reshape(-1, 2)
    ticks = np.random.default_rng(0).permutation(np.concatenate([ticks, ticks]))
    exact = brute_force(ticks.astype(float), norm=1 if metric == "l1" else 2)
    assert sort_systems(0.1 * ticks + 7.3, metric=metric).tolist() == exact


def test_without_reduction_fields_are_compared_whole():
    P = np.random.default_rng(1).standard_normal((40, 20, 20))
    assert sort_systems(P, dim=None).tolist() == brute_force(P)


def test_low_frequencies_keep_distances_of_smooth_fields():
    """Parseval: fields that hold only kept frequencies have exactly the distances of their coefficients."""
    rng = np.random.default_rng(2)
    y, x = np.meshgrid(np.arange(30) / 30, np.arange(25) / 25, indexing="ij")
    waves = [np.cos(2 * np.pi * (a * y + b * x) + 1) for a in range(-5, 6) for b in range(6)]
    P = np.tensordot(rng.standard_normal((12, len(waves))), waves, 1)
    C = _sort._low_frequencies(P, 6)
    for i, j in pairwise(range(12)):
        assert np.linalg.norm(C[i] - C[j]) == pytest.approx(np.linalg.norm(P[i] - P[j]), rel=1e-12)
    z = np.random.default_rng(3).standard_normal((5, 16, 15, 14))  # white noise: a fraction only, never more
    K = _sort._low_frequencies(z, 3)
    assert np.all((K**2).sum(1) < (z.reshape(5, -1) ** 2).sum(1))


@pytest.mark.parametrize("shape", [(300, 8, 9), (40, 3000), (100, 50)])
def test_reduced_coordinates_follow_the_distances(shape):
    rng = np.random.default_rng(4)
    few = rng.standard_normal((shape[0], 5))
    P = (few @ rng.standard_normal((5, int(np.prod(shape[1:]))))).reshape(shape)
    X = _sort._reduced(P, 6)
    assert X.shape == (shape[0], 6)
    flat = P.reshape(shape[0], -1)
    ratio = np.linalg.norm(X[1:] - X[:-1], axis=1) / np.linalg.norm(flat[1:] - flat[:-1], axis=1)
    slack = 0.2 if flat.shape[1] > 2048 else 1e-7  # rank five: exact without the random projection
    assert np.abs(ratio - 1).max() < slack


def test_hilbert_curve_visits_every_cell_by_unit_steps():
    """The defining property, by enumeration in two, three and four dimensions."""
    for d, bits in ((1, 5), (2, 4), (3, 3), (4, 2)):
        grid = np.indices((2**bits,) * d).reshape(d, -1).T.astype(np.uint64)
        key = hilbert_index(grid, bits)
        assert sorted(key.tolist()) == list(range(2 ** (bits * d)))
        path = grid[np.argsort(key)].astype(int)
        assert np.all(np.abs(np.diff(path, axis=0)).sum(axis=1) == 1)


def test_large_sets_take_the_curve(monkeypatch):
    monkeypatch.setattr(_sort, "_GREEDY_LIMIT", 999)
    monkeypatch.setattr(_sort, "_CELL", 200)
    P = np.random.default_rng(5).random((1000, 3))
    order = sort_systems(P, start=17)
    assert order[0] == 17
    assert sorted(order.tolist()) == list(range(1000))
    assert np.array_equal(order, sort_systems(P, method="hilbert", start=17))
    curve, greedy = (sorting_report(P, o).mean_after for o in (order, sort_systems(P, method="greedy")))
    before = sorting_report(P, order).mean_before
    assert greedy < curve < 0.3 * before


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 5), st.sampled_from(["l1", "l2"]))
def test_local_search_never_lengthens_the_path(n, d, seed, metric):
    P = np.random.default_rng(seed).random((n, d))
    plain = sort_systems(P, metric=metric)
    better = sort_systems(P, metric=metric, two_opt=True)
    assert better[0] == plain[0]
    assert sorted(better.tolist()) == list(range(n))
    length = [sorting_report(P, o, metric=metric).mean_after for o in (plain, better)]
    assert length[1] <= length[0] * (1 + 1e-12)


def test_local_search_undoes_crossings_and_moves_stragglers():
    angle = np.linspace(0, np.pi, 60)
    P = np.column_stack([np.cos(angle), np.sin(angle)])
    order = np.arange(60)
    order[20:40] = order[20:40][::-1].copy()  # a crossing
    order = np.concatenate([order[:5], order[6:50], order[5:6], order[50:]])  # a straggler
    assert np.array_equal(_sort._improved(P, order, "l2"), np.arange(60))
    before = sum(_sort._steps(P, order, "l2"))
    moved = order.copy()
    gain = _sort._or_opt_pass(P, moved, "l2")
    assert gain > 0
    assert sum(_sort._steps(P, moved, "l2")) == pytest.approx(before - gain, rel=1e-12)
    turned = order.copy()
    gain = _sort._two_opt_pass(P, turned, "l2")
    assert gain > 0
    assert sum(_sort._steps(P, turned, "l2")) == pytest.approx(before - gain, rel=1e-12)


def test_greedy_path_of_uniform_points_is_shortened():
    P = np.random.default_rng(6).random((400, 2))
    plain, better = (sorting_report(P, sort_systems(P, two_opt=t)).mean_after for t in (False, True))
    assert better < 0.9 * plain


def test_chains_are_contiguous_pieces():
    P = np.random.default_rng(7).random((203, 2))
    whole = sort_systems(P)
    chains = sort_systems(P, n_chains=4)
    assert np.array_equal(np.concatenate(chains), whole)
    assert [len(c) for c in chains] == [51, 51, 51, 50]
    assert len(sort_systems(P, n_chains=100)) == 6  # 203 // 32
    assert len(sort_systems(P[:5], n_chains=2)) == 1
    report = sorting_report(P, chains)
    inside = np.concatenate([np.linalg.norm(np.diff(P[c], axis=0), axis=1) for c in chains])
    assert report.mean_after == pytest.approx(inside.mean(), rel=1e-13)
    assert report.max_after == pytest.approx(inside.max(), rel=1e-13)


def test_report_over_several_blocks():
    P = np.random.default_rng(8).random((1025, 3))
    step = np.linalg.norm(np.diff(P, axis=0), axis=1)
    report = sorting_report(P, np.arange(1025))
    assert report.mean_before == report.mean_after == pytest.approx(step.mean(), rel=1e-13)
    assert report.max_before == report.max_after == pytest.approx(step.max(), rel=1e-13)


def test_none_keeps_the_order_and_one_system_is_enough():
    P = np.random.default_rng(9).random((5, 2))
    assert sort_systems(P, method="none").tolist() == [0, 1, 2, 3, 4]
    assert sort_systems(P[:1], two_opt=True).tolist() == [0]
    assert sorting_report(P[:1], [0]).max_after == 0.0
    assert sort_systems(np.ones((6, 3))).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("P", "options", "error", "match"),
    [
        (np.ones((3, 2)) * 1j, {}, TypeError, "`P` is complex"),
        ([[1.0, np.nan]], {}, ValueError, "`P` has a non-finite value"),
        (np.zeros((0, 3)), {}, ValueError, r"`P` has shape \(0, 3\)"),
        (1.0, {}, ValueError, "`P` has shape"),
        ([1.0, 2.0], {"start": 2}, ValueError, "`start` must be <= 1; got 2"),
        ([1.0, 2.0], {"start": -1}, ValueError, "`start`"),
        ([1.0, 2.0], {"method": "gredy"}, ValueError, "did you mean 'greedy'"),
        ([1.0, 2.0], {"metric": "l3"}, ValueError, "`metric`"),
        ([1.0, 2.0], {"n_chains": 0}, ValueError, "`n_chains`"),
        ([1.0, 2.0], {"dim": 1.5}, TypeError, "`dim`"),
        ([1.0, 2.0], {"two_opt": 1}, TypeError, "`two_opt`"),
    ],
)
def test_bad_input(P, options, error, match):
    with pytest.raises(error, match=match):
        sort_systems(P, **options)


def test_report_refuses_what_is_no_permutation():
    with pytest.raises(ValueError, match="no permutation"):
        sorting_report(np.arange(3.0), [0, 1, 1])
    with pytest.raises(TypeError, match="integer"):
        sorting_report(np.arange(3.0), [0.0, 1.0, 2.0])


def test_order_does_not_follow_blas_threads():
    """Fields wide enough that the reduction's products run threaded."""
    code = """
import hashlib, numpy as np
from aitken.linalg._sort import sort_systems
P = np.random.default_rng(0).standard_normal((700, 40, 40)).cumsum(1).cumsum(2)
P[350:] = P[:350]  # exact ties
print(hashlib.sha256(sort_systems(P).tobytes()).hexdigest())
"""
    package = str(Path(aitken.__file__).parents[1])
    digests = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
