"""Published and specified iteration counts of Krylov recycling.

The published Darcy data at n = 6400 and rtol 1e-8 take 473, 376 and 103 iterations with no, the Jacobi and
the ILU(0) preconditioner in the paper (Wang et al., ICLR 2024), and 463, 366 and 103 with HPDDM on samples of
the same law, which is what ours are held to. "Specified" is what a NumPy prototype measured. Samples are
ours, so counts may differ by 5 %; every residual is recomputed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from aitken import linalg
from aitken.datagen import Family, make_family


class Sequence:
    """The first systems of a family, and what solving them took."""

    def __init__(self, kind: str, grid: int, count: int, rtol: float, **options: Any) -> None:
        self.family: Family = make_family(kind, grid, **options)
        P = np.stack([self.family.parameters(0, i) for i in range(count)])
        data, b = self.family.assemble(P)
        self.data, self.b = np.ascontiguousarray(data), np.ascontiguousarray(b)
        self.params, self.rtol = self.family.sort_key(P), rtol

    def matrix(self, i: int) -> Any:
        return sparse.csr_array((self.data[i], self.family.indices, self.family.indptr))

    def solve(self, **options: Any) -> Any:
        """Solve all by GCRO-DR(40, 20) with what `options` say; check residuals, return the result."""
        settings = {"project": 0, "guard": False, "params": self.params, "rtol": self.rtol, **options}
        r = linalg.solve_batch(
            self.family.indptr, self.family.indices, self.data, self.b, solver="gcrodr", **settings
        )
        for i, x in enumerate(r.X):
            b = self.b[i]
            assert np.linalg.norm(b - self.matrix(i) @ x) <= self.rtol * np.linalg.norm(b) * (1 + 1e-12)
        return r

    def alone(self, count: int, **options: Any) -> float:
        """Mean iterations of systems solved one by one, each from nothing."""
        r = [linalg.gcrodr(self.matrix(i), self.b[i], rtol=self.rtol, **options) for i in range(count)]
        assert all(one.converged for one in r)
        return float(np.mean([one.nit for one in r]))


# ------------------------------------------------------------------------------------ the published matrices


@pytest.fixture(scope="module")
def published() -> Sequence:
    return Sequence("darcy-published", 80, 16, 1e-8)


@pytest.mark.parametrize(
    ("M", "wanted"),
    [
        pytest.param("none", 463, marks=pytest.mark.slow),
        pytest.param("jacobi", 366, marks=pytest.mark.slow),
        ("ilu0", 103),
    ],
)
def test_published_darcy(published, M, wanted):
    """Mean over 16 sorted systems, the carried space in t = M^-1 x, which is what suits these matrices."""
    nit = published.solve(M=M, carry="t").nit.mean()
    assert abs(nit - wanted) <= 0.05 * wanted


@pytest.mark.slow
@pytest.mark.parametrize(("M", "wanted"), [("none", 510), ("jacobi", 417), ("ilu0", 120)])
def test_deflated_restarting_does_most_of_it(published, M, wanted):
    """Nothing carried: 1.15 times the iterations of the sequence; GMRES(40) needs thousands."""
    nit = published.alone(8, M=None if M == "none" else M)
    assert 0.9 * wanted <= nit <= 1.05 * wanted


@pytest.mark.slow
def test_restarted_gmres_stagnates_on_it(published):
    """Published: 1760 iterations of GMRES(40) with ILU(0) against 103."""
    r = [
        linalg.gcrodr(published.matrix(i), published.b[i], rtol=1e-8, M="ilu0", recycle_dim=0)
        for i in range(4)
    ]
    assert np.mean([one.nit for one in r]) > 10 * 103


def test_sorting_gains_little_on_it(published):
    """Specified: 105 unsorted, 103 sorted. In a field of thousands of values all samples are far apart."""
    unsorted = published.solve(M="ilu0", carry="t", sort="none").nit.mean()
    assert abs(unsorted - 105) <= 0.05 * 105
    assert abs(unsorted - published.solve(M="ilu0", carry="t").nit.mean()) <= 0.04 * unsorted


# -------------------------------------------------------------------------------- the space that is carried


@pytest.fixture(scope="module")
def binary() -> Sequence:
    return Sequence("darcy", 100, 12, 1e-8, coefficient="binary")


def test_carrying_solution_space_gains_a_quarter(binary):
    """True Darcy with coefficients 12 and 3, ILU(0): 114 alone, 81 carried in the space of x."""
    alone = binary.alone(4, M="ilu0")
    nit = binary.solve(M="ilu0").nit[1:]
    assert abs(alone - 114) <= 0.06 * 114
    assert abs(nit.mean() - 81) <= 0.05 * 81
    assert nit.mean() <= 0.75 * alone


@pytest.mark.slow
def test_space_of_t_is_lost_when_the_preconditioner_changes(binary):
    """119 iterations carried in t, more than 114 alone; 65 with left preconditioning, below x."""
    t = binary.solve(M="ilu0", carry="t").nit.mean()
    left = binary.solve(M="ilu0", side="left").nit.mean()
    assert abs(t - 119) <= 0.05 * 119
    assert left < binary.solve(M="ilu0").nit.mean() < 0.75 * t


# ------------------------------------------------------------------------------ solutions that are carried


@pytest.fixture(scope="module")
def helmholtz() -> Sequence:
    return Sequence("helmholtz", 64, 200, 1e-6, wavenumber=12.0)


def one_chain(helmholtz: Sequence, order: Any, **options: Any) -> float:
    """Mean iterations of `RecyclingSolver` without a preconditioner over all 200 systems."""
    near = options.pop("near", False)
    solver = linalg.RecyclingSolver("gcrodr", M="none", rtol=1e-6, guard=False, **options)
    counts = []
    for i in map(int, order):
        where = helmholtz.params[i] if near else None
        r = solver.solve(helmholtz.matrix(i), helmholtz.b[i], params=where)
        assert r.converged
        counts.append(r.nit)
    return float(np.mean(counts))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_sorted", "options", "wanted"),
    [
        (False, {"project": 0}, 108),
        (True, {"project": 0}, 92),
        (False, {"project": 6}, 85),
        (True, {"project": 6}, 46),
        (True, {"project": 8, "near": True}, 38),
    ],
)
def test_helmholtz_sequence(helmholtz, is_sorted, options, wanted):
    """Two-parameter Helmholtz, 388 iterations alone. Other samples of the law: within 14 %, order kept."""
    order = linalg.sort_systems(helmholtz.params) if is_sorted else range(200)
    assert abs(one_chain(helmholtz, order, **dict(options)) - wanted) <= 0.14 * wanted


@pytest.mark.slow
def test_helmholtz_alone(helmholtz):
    assert abs(helmholtz.alone(20) - 388) <= 0.05 * 388


def nearest_start(helmholtz: Sequence, X: np.ndarray, done: list[int], i: int) -> Any:
    """Least-squares start from the eight solved systems nearest in parameters."""
    if not done:
        return None
    distance = np.linalg.norm(helmholtz.params[done] - helmholtz.params[i], axis=1)
    Y = X[np.array(done)[np.argsort(distance, kind="stable")[:8]]].T
    return Y @ np.linalg.lstsq(helmholtz.matrix(i) @ Y, helmholtz.b[i], rcond=1e-10)[0]


@pytest.mark.slow
def test_helmholtz_nearest_of_all(helmholtz):
    """Specified: at most 53 unsorted, and 38 in the last quarter, where neighbours are nearest."""
    state, X, done, counts = linalg.RecycleState(), np.zeros_like(helmholtz.b), [], []
    for i in range(200):
        x0 = nearest_start(helmholtz, X, done, i)
        r = linalg.gcrodr(helmholtz.matrix(i), helmholtz.b[i], x0, rtol=1e-6, recycle=state)
        assert r.converged
        X[i] = r.x
        done.append(i)
        counts.append(r.nit)
    assert np.mean(counts) <= 53
    assert np.mean(counts[150:]) <= 40


@pytest.mark.slow
def test_helmholtz_nearest_of_the_last(helmholtz):
    """`RecyclingSolver` keeps its last solutions, not all of them, and needs some more: below 65."""
    assert one_chain(helmholtz, range(200), project=8, near=True) <= 65
