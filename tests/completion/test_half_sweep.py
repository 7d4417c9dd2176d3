"""Half sweeps against the oracle in every mode, and what they promise about threads, blocks and input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from aitken.completion import als_half_sweep
from tests.oracles import completion as oracle

SHAPE = (40, 60)


def problem(seed: int = 0, k: int = 5, share: float = 0.3, dtype: Any = float) -> tuple[Any, Any, Any, Any]:
    """A sparse block with an empty row and a full one, weights, the fixed factor, and starts."""
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < share
    mask[3], mask[7] = False, True
    values = np.where(mask, rng.standard_normal(SHAPE), np.nan)
    weights = rng.random(SHAPE) + 0.5
    V, X = rng.standard_normal((SHAPE[1], k)), rng.standard_normal((SHAPE[0], k))
    return values.astype(dtype), weights.astype(dtype), V.astype(dtype), X.astype(dtype)


def known(values: np.ndarray, weights: Any = None) -> oracle.Entries:
    rows, cols = np.nonzero(~np.isnan(values))
    return oracle.Entries(
        rows, cols, values[rows, cols], values.shape, None if weights is None else weights[rows, cols]
    )


@pytest.mark.parametrize("k", [1, 5, 16, 17, 33])
@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "lowprec"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lam_scaling", ["none", "degree"])
def test_oracle(k: int, inner: str, weighted: bool, lam_scaling: str) -> None:
    values, weights, V, X = problem(k=k)
    options = oracle.Options(lam=0.3, lam_by_degree=lam_scaling == "degree", inner=inner, inner_tol=1e-3)
    expected = oracle.half_sweep(known(values, weights if weighted else None), V, X, options)[0]
    found = als_half_sweep(
        values, V, X, lam=0.3, lam_scaling=lam_scaling, inner=inner, inner_tol=1e-3,
        weights=weights if weighted else None,
    )  # fmt: skip
    # Single precision in a preconditioner moves iterates that are not converged.
    assert np.abs(found - expected).max() < (1e-3 if inner == "lowprec" else 1e-8)
    assert not found[3].any()


@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "sketch", "lowprec"])
def test_biases(inner: str) -> None:
    values, weights, V, X = problem(1)
    rng = np.random.default_rng(2)
    b, a = rng.standard_normal(SHAPE[1]), rng.standard_normal(SHAPE[0])
    options = oracle.Options(lam=0.3, bias=True)
    expected, biases, _ = oracle.half_sweep(known(values - 0.7, weights), V, X, options, b, a)
    found, found_biases = als_half_sweep(
        values, V, X, lam=0.3, bias=True, col_bias=b, row_bias=a, mu=0.7, weights=weights, inner=inner,
        inner_maxiter=100, inner_tol=1e-12,
    )  # fmt: skip
    assert np.abs(found - expected).max() < 1e-7
    assert np.abs(found_biases - biases).max() < 1e-7


@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "sketch", "lowprec"])
def test_implicit(inner: str) -> None:
    rng = np.random.default_rng(3)
    counts = np.where(rng.random(SHAPE) < 0.2, rng.integers(-1, 5, SHAPE), 0)
    V = rng.standard_normal((SHAPE[1], 4))
    confidence, preference = 1 + 2.5 * np.abs(counts), (counts > 0).astype(float)
    expected = np.stack(
        [
            np.linalg.solve((V.T * c) @ V + 0.1 * np.eye(4), V.T @ (c * p))
            for c, p in zip(confidence, preference, strict=True)
        ]
    )
    found = als_half_sweep(
        sparse.csr_array(counts), V, lam=0.1, implicit=True, alpha=2.5, inner=inner, inner_maxiter=60,
        inner_tol=1e-12,
    )  # fmt: skip
    assert np.abs(found - expected).max() < 1e-7


def test_nonneg() -> None:
    values, weights, V, _ = problem(4, k=3)
    options = oracle.Options(lam=0.2, nonneg=True)
    expected = oracle.half_sweep(known(values, weights), V, np.zeros((SHAPE[0], 3)), options)[0]
    found = als_half_sweep(values, V, lam=0.2, nonneg=True, weights=weights, inner_maxiter=1000)
    assert found.min() >= 0
    assert (found == 0).any()
    assert np.abs(found - expected).max() < 1e-7


@pytest.mark.parametrize("loss", ["huber", "l1"])
@pytest.mark.parametrize("inner", ["exact", "cg"])
def test_robust_losses(loss: str, inner: str) -> None:
    values, weights, V, X = problem(5)
    options = oracle.Options(lam=0.2, loss=loss, delta=0.4, inner=inner, inner_tol=1e-3)
    expected = oracle.half_sweep(known(values, weights), V, X, options)[0]
    found = als_half_sweep(
        values, V, X, lam=0.2, loss=loss, delta=0.4, inner=inner, inner_tol=1e-3, weights=weights
    )
    assert np.abs(found - expected).max() < 1e-8


def heavy(seed: int = 6, k: int = 9) -> tuple[Any, Any, Any, Any]:
    """Two rows with a large share of all entries, which are worked on by all threads."""
    rng = np.random.default_rng(seed)
    n2 = 50_000
    A = rng.standard_normal((4, n2))
    A[0, rng.random(n2) < 0.1] = np.nan
    A[2:, rng.random(n2) < 0.99] = np.nan
    return A, rng.random(A.shape) + 0.5, rng.standard_normal((n2, k)), rng.standard_normal((4, k))


@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "sketch", "lowprec"])
@pytest.mark.parametrize("bias", [False, True])
def test_heavy_rows(inner: str, bias: bool) -> None:
    A, W, V, X = heavy()
    options = {"lam": 0.5, "inner": inner, "inner_maxiter": 60, "inner_tol": 1e-12, "bias": bias}
    expected, biases, _ = oracle.half_sweep(
        known(A, W), V, X, oracle.Options(lam=0.5, bias=bias), np.zeros(len(V)), np.zeros(4)
    )
    found = als_half_sweep(A, V, X, weights=W, **options)
    if bias:
        assert np.abs(found[1] - biases).max() < 1e-8
        found = found[0]
    assert np.abs(found - expected).max() < 1e-8


@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "sketch", "lowprec", "nonneg", "huber"])
def test_bits_do_not_depend_on_threads_or_blocks(inner: str) -> None:
    A, W, V, X = heavy()
    more = np.where(np.random.default_rng(8).random((300, len(V))) < 0.01, 1.25, np.nan)
    A, W = np.vstack([A, more]), np.vstack([W, np.ones_like(more)])
    X = np.vstack([X, np.ones((300, X.shape[1]))])
    options: dict[str, Any] = {"lam": 0.1, "weights": W}
    options |= {"nonneg": {"nonneg": True}, "huber": {"loss": "huber", "delta": 0.5}}.get(
        inner, {"inner": inner}
    )
    one, two, three = (als_half_sweep(A, V, X, n_threads=n, **options) for n in (1, 2, 3))
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)
    options["weights"] = W[40:]
    assert np.array_equal(one[40:], als_half_sweep(A[40:], V, X[40:], first_row=40, **options))


def test_single_precision() -> None:
    values, weights, V, X = problem(9, dtype=np.float32)
    found = als_half_sweep(values, V, X, lam=0.3, weights=weights)
    assert found.dtype == np.float32
    expected = oracle.half_sweep(known(values, weights), V, X, oracle.Options(lam=0.3))[0]
    assert np.abs(found - expected).max() < 1e-4


def test_too_few_entries_give_the_least_norm() -> None:
    rng = np.random.default_rng(10)
    V = rng.standard_normal((8, 6))
    A = np.full((1, 8), np.nan)
    A[0, [1, 4]] = [2.0, -1.0]
    expected = np.linalg.lstsq(V[[1, 4]], A[0, [1, 4]], rcond=None)[0]
    assert np.abs(als_half_sweep(A, V) - expected).max() < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("inner", ["exact", "cg"])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 18])
def test_scales(dtype: Any, inner: str, scale: float, k: int) -> None:
    """A factor times c and a penalty times c^2 give the answer over c."""
    values, _, V, X = problem(13, k=k, dtype=dtype)
    options: dict[str, Any] = {"inner": inner, "inner_maxiter": 50, "inner_tol": 1e-6}
    plain = als_half_sweep(values, V, 0 * X, lam=0.5, **options)
    scaled = als_half_sweep(values, (V * scale).astype(dtype), 0 * X, lam=0.5 * scale**2, **options)
    assert (
        np.abs(scaled * scale - plain).max() < (2e-3 if dtype == np.float32 else 1e-6) * np.abs(plain).max()
    )


def test_sketches_go_by_the_number_of_the_row() -> None:
    values, _, V, X = problem(14)
    options: dict[str, Any] = {"lam": 0.1, "inner": "sketch", "inner_maxiter": 1}
    whole = als_half_sweep(values, V[:, :2], X[:, :2], **options)
    part = als_half_sweep(values[7:], V[:, :2], X[7:, :2], first_row=7, **options)
    assert np.array_equal(whole[7:], part)


def test_a_factor_of_zeros_gives_zeros() -> None:
    assert not als_half_sweep(np.ones((2, 3)), np.zeros((3, 2))).any()


def test_input_is_not_changed_and_forms_agree() -> None:
    values, _, V, X = problem(11)
    before = [a.copy() for a in (values, V, X)]
    dense = als_half_sweep(values, V, X, lam=0.1, inner="cg")
    rows, cols = np.nonzero(~np.isnan(values))
    coordinates = (rows, cols, values[rows, cols])
    table = sparse.coo_array((coordinates[2], (rows, cols)), shape=SHAPE)
    # A triple has no shape: its rows are taken to be as many as are named.
    for form in (table, table.tocsr(), table.tocsc(), np.ma.masked_invalid(values)):
        assert np.array_equal(als_half_sweep(form, V, X, lam=0.1, inner="cg"), dense)
    for a, b in zip((values, V, X), before, strict=True):
        assert np.array_equal(a, b, equal_nan=True)
    strided = np.asfortranarray(V)
    assert np.array_equal(als_half_sweep(values, strided, X[::1], lam=0.1, inner="cg"), dense)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lam": -1.0}, ValueError, "`lam`"),
        ({"lam": np.nan}, ValueError, "`lam`"),
        ({"lam_scaling": "rows"}, ValueError, "`lam_scaling`"),
        ({"inner": "svd"}, ValueError, "`inner`"),
        ({"inner_maxiter": 0}, ValueError, "`inner_maxiter`"),
        ({"col_bias": np.ones(60)}, ValueError, "`bias=True`"),
        ({"bias": True, "col_bias": np.ones(3)}, ValueError, "`col_bias`"),
        ({"nonneg": True, "bias": True}, ValueError, "`nonneg`"),
        ({"implicit": True, "bias": True}, ValueError, "`implicit`"),
        ({"loss": "huber"}, ValueError, "`delta`"),
        ({"X0": np.ones((2, 5))}, ValueError, "`X0`"),
        ({"V": np.ones((7, 5))}, ValueError, "`V` has 7 rows"),
        ({"V": np.full((60, 5), np.inf)}, ValueError, "`V` has a non-finite value"),
        ({"V": np.ones((60, 0))}, ValueError, "`V`"),
        ({"weights": np.zeros(SHAPE)}, ValueError, "`weights`"),
        ({"n_threads": 1.5}, TypeError, "`n_threads`"),
        ({"V": np.ones((60, 5), dtype=np.float32), "inner": "lowprec"}, ValueError, "float64"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], text: str) -> None:
    values, _, V, _ = problem(12)
    arguments = {"A": values, "V": V} | change
    A, fixed, start = arguments.pop("A"), arguments.pop("V"), arguments.pop("X0", None)
    with pytest.raises(error, match=text):
        als_half_sweep(A, fixed, start, **arguments)


def test_csr_with_an_index_out_of_range() -> None:
    A = sparse.csr_array((np.ones(2), np.array([0, 3]), np.array([0, 1, 2])), shape=(2, 4))
    A.indices[1] = 9
    with pytest.raises(ValueError, match="`A` of shape"):
        als_half_sweep(A, np.ones((4, 2)))
