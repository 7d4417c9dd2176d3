"""``solver="auto"``: what it picks on the four kinds of problem, why, and that it always picks the same."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
import scipy.sparse as sp

from aitken.linalg import _auto, solve_batch, solve_sequence
from tests.krylov import problems


def varied(cells, wind, count=40, spread=0.2, seed=0):
    """Diffusion with a smooth random coefficient (and a wind): matrices of one pattern, sorted rows."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.linspace(0, 1, c) for c in cells], indexing="ij")
    params, data = rng.random((count, 2)), []
    for p in params:
        a = np.exp(spread * (p[0] * np.sin(4 * grids[0]) + p[1] * np.cos(5 * grids[-1])))
        A, _ = problems.true_darcy(a)
        if wind:
            drift = sp.diags_array([-wind, wind], offsets=[-1, 1], shape=(cells[-1],) * 2)
            A = sp.csr_array(A + sp.kron(sp.eye_array(a.size // cells[-1]), drift))
        A.sort_indices()
        data.append(A.data)
    b = rng.standard_normal((count, A.shape[0]))
    return A.indptr.astype(np.int64), A.indices.astype(np.int32), np.array(data), b, params


@pytest.fixture
def without_amg(monkeypatch):
    """As where PyAMG is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        _auto.importlib.util, "find_spec", lambda name, *a: None if name == "pyamg" else found(name, *a)
    )


CASES = {
    # The regimes: cheap factors in two dimensions, expensive ones in three.
    "2-D SPD": ((40, 40), 0.0, "direct"),
    "3-D SPD": ((16, 16, 16), 0.0, "rcg"),
    "3-D nonsymmetric": ((14, 14, 14), 0.3, "gcrodr"),
    "2-D nonsymmetric": ((100, 100), 0.3, "superlu"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_choice_and_its_reason(case, without_amg):
    cells, wind, expected = CASES[case]
    rough = {"count": 32, "spread": 6.0} if expected == "superlu" else {}
    indptr, indices, data, b, params = varied(cells, wind, **rough)
    result = solve_batch(indptr, indices, data, b, params=params, rtol=1e-8)
    assert result.solver == expected, result.reason
    assert result.converged
    assert result.residuals.max() <= 1e-8
    # The sentence names the two costs that were compared.
    if expected in ("direct", "superlu"):
        assert re.search(
            r"a factor of [\d.e+]+ entries made in [\d.e+]+ flops (costs less|is small)", result.reason
        )
    else:
        assert re.search(
            r"\d+ iterations with (ic0|ilu0) \(first system \d+\) cost less than a", result.reason
        )


def test_multigrid_is_a_candidate_where_it_is_installed():
    pytest.importorskip("pyamg")
    indptr, indices, data, _, _ = varied((64, 64), 0.0, count=2)
    facts = _auto.facts_of(indptr, indices, data[0], 40, False)
    assert facts.positive_definite
    hard = _auto.choose(facts, indptr, indices, lambda method, M, limit: (500, 0))
    assert hard.solver in ("direct", "amg")
    # Nonsymmetric matrices, and symmetric ones that are no M-matrices, never get it.
    wind = varied((64, 64), 0.3, count=1)
    for values in (wind[2][0], -data[0]):
        other = _auto.facts_of(indptr, indices, values, 40, False)
        assert not other.positive_definite
        for limit in (0, 5):
            assert _auto.choose(other, indptr, indices, lambda *_, k=limit: (k, k)).solver != "amg"


def test_the_choice_is_always_the_same(without_amg):
    indptr, indices, data, b, params = varied((12, 12, 12), 0.3)
    results = [
        solve_batch(indptr, indices, data, b, params=params, rtol=1e-8, n_threads=n, executor=e)
        for n, e in ((1, None), (2, None), (1, 2))
    ]
    for result in results[1:]:
        assert (result.solver, result.reason) == (results[0].solver, results[0].reason)
        np.testing.assert_array_equal(result.X, results[0].X)
        np.testing.assert_array_equal(result.nit, results[0].nit)


def test_a_sequence_asks_the_same_rule(without_amg):
    indptr, indices, data, b, params = varied((12, 12, 12), 0.3)
    n = indptr.size - 1
    systems = [(sp.csr_array((v, indices, indptr), shape=(n, n)), r) for v, r in zip(data, b, strict=True)]
    batch = solve_batch(indptr, indices, data, b, params=params, rtol=1e-8)
    result = solve_sequence(systems, params=params, rtol=1e-8)
    assert (result.solver, result.reason) == (batch.solver, batch.reason)
    np.testing.assert_array_equal(result.X, batch.X)


def test_facts():
    T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30), format="csr")

    def facts(A):
        A = sp.csr_array(A)
        return _auto.facts_of(A.indptr, A.indices, A.data, 10, False)

    assert facts(T).symmetric
    assert facts(T).positive_definite
    assert not facts(-T).positive_definite
    assert not facts(T - 0.5 * sp.eye_array(30)).positive_definite  # indefinite
    neumann = T.copy()
    neumann[0, 0] = neumann[29, 29] = 1.0
    assert facts(neumann).symmetric
    assert not facts(neumann).positive_definite  # singular
    lopsided = sp.diags_array([-1.0, 2.0, -0.9], offsets=[-1, 0, 1], shape=(30, 30))
    assert not facts(lopsided).symmetric
    assert not facts(abs(T)).m_matrix
    assert not facts(T * 1j).positive_definite
    assert facts(sp.eye_array(5)).positive_definite


def test_singular_and_tiny_batches_get_an_answer():
    one = solve_batch([0, 1], [0], [[2.0]], [[3.0]])
    assert one.converged
    assert one.X[0, 0] == 1.5
    assert one.reason
    zero_diagonal = solve_batch([0, 1, 2], [1, 0], [[2.0, 4.0]], [[2.0, 4.0]])
    np.testing.assert_allclose(zero_diagonal.X, [[1.0, 1.0]])
