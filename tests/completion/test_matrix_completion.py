"""matrix_completion: recovery, objectives, strategies, honesty about what was reached, bad input."""

from __future__ import annotations

import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from aitken import ConvergenceWarning, RecoveryWarning, Status
from aitken.completion import CompletionResult, matrix_completion
from tests.completion import problems
from tests.oracles import completion as oracle


def low_rank(n1: int = 60, n2: int = 50, k: int = 3, share: float = 0.5, seed: int = 0) -> tuple[Any, Any]:
    """A matrix of rank k, and its known entries with NaN elsewhere."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((n1, k)) @ rng.standard_normal((k, n2))
    return M, np.where(rng.random(M.shape) < share, M, np.nan)


def triple(p: Any) -> tuple[Any, Any, Any]:
    return p.rows, p.cols, p.vals


def quiet(*args: Any, **options: Any) -> CompletionResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return matrix_completion(*args, **options)


# ------------------------------------------------------------------------------------------------ recovery


@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "sketch", "lowprec"])
def test_recovers_a_matrix(inner: str) -> None:
    p = problems.recovery(n=400, rank=5)
    result = matrix_completion(triple(p), 5, shape=p.shape, inner=inner, rng=0)
    assert result.success
    assert result.nit < 40
    assert problems.relative_error(result.U, result.V, p) < 1e-8


@pytest.mark.parametrize("cond", [1.0, 10.0])
def test_sweeps_to_a_relative_error_of_1e_8(cond: float) -> None:
    p = problems.recovery(cond)
    limit = 26 if cond == 1 else 27
    result = quiet(triple(p), 10, shape=p.shape, inner="exact", maxiter=limit, rng=0)
    assert problems.relative_error(result.U, result.V, p) <= 1e-8


def test_single_precision_recovers_to_rounding() -> None:
    p = problems.recovery(n=400, rank=5)
    result = matrix_completion((p.rows, p.cols, p.vals.astype(np.float32)), 5, shape=p.shape, rng=0)
    assert result.U.dtype == np.float32
    assert result.success
    assert problems.relative_error(result.U, result.V, p) < 1e-5


def test_robust_solves_what_is_ill_conditioned() -> None:
    p = problems.hard(4.0)
    result = matrix_completion(triple(p), 6, shape=p.shape, robust=True, rng=0)
    assert result.success
    assert result.rmse_holdout < 1e-6 * np.sqrt(np.mean(p.vals**2))
    assert problems.relative_error(result.U, result.V, p) <= 1e-8


def test_robust_says_when_it_failed() -> None:
    _, seen = low_rank(40, 40, 5, share=0.25, seed=3)
    with pytest.warns(ConvergenceWarning, match="holdout"), pytest.warns(RecoveryWarning):
        result = matrix_completion(seen, 5, robust=True, rng=0)
    assert not result.success
    assert result.status == Status.STAGNATED
    assert result.rmse_holdout > 10 * result.rmse_train


@pytest.mark.slow
def test_continuation_needs_fewer_entries() -> None:
    won: dict[Any, int] = {True: 0, None: 0}
    for path in won:
        for seed in range(10, 14):
            p = problems.phase(2.0, seed)
            result = quiet(triple(p), 5, shape=p.shape, lam_path=path, maxiter=200, rng=0)
            won[path] += problems.relative_error(result.U, result.V, p) < 1e-4
    assert won[True] == 4
    assert won[True] >= won[None]


@pytest.mark.parametrize("noise", [1e-3, 1e-1])
@pytest.mark.parametrize("inner", ["exact", "cg"])
def test_noise(noise: float, inner: str) -> None:
    p = problems.noisy(noise)
    result = matrix_completion(triple(p), 5, shape=p.shape, inner=inner, rng=0)
    assert result.success
    assert problems.relative_error(result.U, result.V, p) <= 1.15 * noise / np.sqrt(8)


def test_uneven_degrees_start_by_degree() -> None:
    rows, cols = np.array([]), np.array([])
    p = problems.power_law(3000, 800, draws=60_000, rank=2, noise=0.0)
    rows, cols = p.rows, p.cols
    degrees = np.bincount(rows, minlength=3000)
    assert degrees.max() > 10 * degrees.mean()
    result = quiet((rows, cols, p.vals), 2, shape=p.shape, lam=1e-3, init="spectral", maxiter=30, rng=0)
    assert result.rmse_train < 0.05 * np.sqrt(np.mean(p.vals**2))


def test_sample_splitting_is_worse() -> None:
    p = problems.recovery(n=300, rank=3)
    split = quiet(triple(p), 3, shape=p.shape, sample_splitting=True, maxiter=4, rng=0)
    whole = quiet(triple(p), 3, shape=p.shape, maxiter=4, rng=0)
    errors = [problems.relative_error(r.U, r.V, p) for r in (split, whole)]
    assert split.nit == 4
    assert np.isfinite(errors[0])
    assert errors[0] > 10 * errors[1]


def test_rank_is_found() -> None:
    M, seen = low_rank(80, 70, 4, share=0.5)
    result = matrix_completion(seen, "auto", rng=0)
    assert result.rank == 4
    assert result.holdout_path[3] < 1e-6 * result.holdout_path[2]
    assert np.abs(result.to_dense() - M).max() < 1e-6


def test_rank_is_found_in_noise() -> None:
    M, seen = low_rank(150, 120, 3, share=0.5, seed=4)
    seen = seen + 0.1 * np.random.default_rng(5).standard_normal(seen.shape)
    result = matrix_completion(seen, "auto", rng=0, max_rank=8)
    assert result.rank == 3
    assert np.sqrt(np.mean((result.to_dense() - M) ** 2)) < 0.05


@pytest.mark.parametrize("loss", ["huber", "l1"])
def test_outliers_are_borne(loss: str) -> None:
    M, seen = low_rank(100, 80, 3, seed=6)
    rng = np.random.default_rng(7)
    wrong = (rng.random(M.shape) < 0.05) & ~np.isnan(seen)
    seen[wrong] += 30 * rng.standard_normal(wrong.sum())
    scale = np.sqrt(np.mean(M**2))
    result = quiet(seen, 3, loss=loss, maxiter=200, rng=0)
    assert np.abs(result.to_dense() - M).max() < 0.02 * scale
    assert np.abs(quiet(seen, 3, maxiter=200, rng=0).to_dense() - M).max() > scale


# ---------------------------------------------------------------------------------------------- objectives


def entries_of(M: np.ndarray, mu: float = 0.0, weights: Any = None) -> oracle.Entries:
    rows, cols = np.nonzero(~np.isnan(M))
    w = None if weights is None else weights[rows, cols]
    return oracle.Entries(rows, cols, M[rows, cols] - mu, M.shape, w)


@pytest.mark.parametrize(
    "options",
    [
        {"lam": 0.3},
        {"lam": 0.05, "lam_scaling": "degree"},
        {"lam": 0.3, "bias": True},
        {"lam": 0.3, "bias": True, "center": False, "inner": "cg"},
        {"lam": 0.3, "nonneg": True},
        {"lam": 0.3, "loss": "huber", "delta": 0.5},
        {"lam": 0.3, "loss": "l1", "delta": 0.01},
        {"lam": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_objective_is_recomputed_from_what_is_returned(options: dict[str, Any], weighted: bool) -> None:
    _, seen = low_rank(seed=8)
    if options.get("nonneg"):
        seen = np.abs(seen)
    weights = np.random.default_rng(9).random(seen.shape) + 0.5 if weighted else None
    result = quiet(seen, 3, weights=weights, maxiter=7, rng=0, **options)
    entries = entries_of(seen, result.mu, weights)
    zero = oracle.zeros(seen.shape, 3)
    f = oracle.Factors(
        result.U, result.V, zero.a if result.row_bias is None else result.row_bias,
        zero.b if result.col_bias is None else result.col_bias,
    )  # fmt: skip
    o = oracle.Options(
        lam=options["lam"], lam_by_degree=options.get("lam_scaling") == "degree",
        bias=options.get("bias", False), loss=options.get("loss", "linear"), delta=options.get("delta", 0.0),
    )  # fmt: skip
    assert result.fun == pytest.approx(oracle.objective(entries, f, o), rel=1e-8, abs=1e-18)
    assert result.rmse_train == pytest.approx(oracle.rmse(entries, f), rel=1e-8, abs=1e-12)
    if options.get("loss", "linear") == "linear":
        assert result.history["rmse_train"][-1] == pytest.approx(result.rmse_train, rel=1e-6, abs=1e-12)


def test_joint_biases_are_stationary() -> None:
    rng = np.random.default_rng(10)
    M = rng.standard_normal((50, 2)) @ rng.standard_normal((2, 40)) + 3 * rng.standard_normal((50, 1)) + 5
    seen = np.where(rng.random(M.shape) < 0.6, M, np.nan)
    result = matrix_completion(seen, 2, lam=0.1, bias=True, maxiter=3000, tol=1e-9, rng=0)
    assert result.success
    residual = np.nan_to_num(seen - result.to_dense())
    # Half the gradient of the objective with respect to each block.
    for gradient in (
        residual.sum(axis=1) - 0.1 * result.row_bias, residual.sum(axis=0) - 0.1 * result.col_bias,
        residual @ result.V - 0.1 * result.U, residual.T @ result.U - 0.1 * result.V,
    ):  # fmt: skip
        assert np.abs(gradient).max() < 1e-3


def test_implicit_objective() -> None:
    rows, cols, counts, shape = problems.implicit_counts()
    R = sparse.csr_array((counts, (rows, cols)), shape=shape)
    result = matrix_completion(R, 3, implicit=True, alpha=4.0, lam=0.5, maxiter=1000, tol=1e-9, rng=0)
    C = 1 + 4 * R.toarray()
    P = (R.toarray() > 0).astype(float)
    fit = result.U @ result.V.T
    loss = (C * (P - fit) ** 2).sum()
    assert result.fun == pytest.approx(loss + 0.5 * ((result.U**2).sum() + (result.V**2).sum()), rel=1e-9)
    assert result.rmse_train == pytest.approx(np.sqrt(loss / C.sum()), rel=1e-9)
    gradient = (C * (P - fit)) @ result.V - 0.5 * result.U
    assert np.abs(gradient).max() < 1e-3


def test_nonneg() -> None:
    rng = np.random.default_rng(11)
    M = rng.random((60, 3)) @ rng.random((3, 50))
    seen = np.where(rng.random(M.shape) < 0.6, M, np.nan)
    result = quiet(seen, 3, nonneg=True, maxiter=400, rng=0)
    assert result.U.min() >= 0
    assert result.V.min() >= 0
    assert np.abs(result.to_dense() - M).max() < 0.05


def test_rescaled_data_give_the_rescaled_answer() -> None:
    _, seen = low_rank(seed=12)
    one = matrix_completion(seen, 3, rng=0)
    two = matrix_completion(1e6 * seen, 3, rng=0)
    assert np.allclose(two.to_dense(), 1e6 * one.to_dense(), rtol=1e-9)
    assert two.rmse_train == pytest.approx(1e6 * one.rmse_train, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 25), st.integers(2, 25), st.integers(1, 4))
def test_any_shape_gives_finite_factors(seed: int, n1: int, n2: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    M = np.where(rng.random((n1, n2)) < 0.4, rng.standard_normal((n1, n2)), np.nan)
    M[0, 0] = 1.0
    for options in ({}, {"lam": 0.1, "bias": True}, {"init": "rank_increment"}):
        result = quiet(M, min(k, n1, n2), rng=seed, maxiter=12, **options)
        assert np.isfinite(result.to_dense()).all()
        assert np.isfinite(result.fun)


def test_objective_falls_with_every_sweep() -> None:
    _, seen = low_rank(seed=13)
    noisy = seen + np.random.default_rng(14).standard_normal(seen.shape)
    for inner in ("exact", "cg"):
        values = []
        for sweeps in range(1, 12):
            values.append(quiet(noisy, 3, lam=1.0, inner=inner, finalize=False, maxiter=sweeps, rng=0).fun)
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))


# ----------------------------------------------------------------------------------------- forms and starts


def test_all_forms_of_the_entries_agree() -> None:
    _, seen = low_rank(seed=15)
    rows, cols = np.nonzero(~np.isnan(seen))
    order = np.random.default_rng(16).permutation(len(rows))
    rows, cols = rows[order], cols[order]
    values = seen[rows, cols]
    table = sparse.coo_array((values, (rows, cols)), shape=seen.shape)
    first = matrix_completion(seen, 3, rng=0).to_dense()
    for M in (table, table.tocsr(), table.tocsc(), sparse.coo_matrix(table), np.ma.masked_invalid(seen),
              np.asfortranarray(seen), seen.astype(">f8")):  # fmt: skip
        assert np.array_equal(matrix_completion(M, 3, rng=0).to_dense(), first)
    assert np.array_equal(
        matrix_completion((rows, cols, values), 3, shape=seen.shape, rng=0).to_dense(), first
    )


def test_stored_zeros_are_known() -> None:
    M = sparse.csr_array(
        (np.array([0.0, 1.0, 1.0]), (np.array([0, 0, 1]), np.array([0, 1, 1]))), shape=(2, 2)
    )
    result = quiet(M, 1, lam=1e-6, rng=0)
    assert abs(result.to_dense()[0, 0]) < 1e-2


def test_weights_of_every_form_agree() -> None:
    _, seen = low_rank(seed=17)
    W = np.random.default_rng(18).random(seen.shape) + 0.1
    rows, cols = np.nonzero(~np.isnan(seen))
    order = np.random.default_rng(19).permutation(len(rows))
    r, c = rows[order], cols[order]
    first = matrix_completion(seen, 2, weights=W, lam=0.1, rng=0).to_dense()
    table = sparse.coo_array((seen[r, c], (r, c)), shape=seen.shape)
    again = sparse.coo_array((W[rows, cols], (rows, cols)), shape=seen.shape).tocsr()
    for M, w in ((table, W[r, c]), (table, again), (table.tocsr(), again)):
        assert np.array_equal(matrix_completion(M, 2, weights=w, lam=0.1, rng=0).to_dense(), first)


def test_weights_count_as_repetition() -> None:
    _, seen = low_rank(seed=20)
    noisy = seen + 0.3 * np.random.default_rng(21).standard_normal(seen.shape)
    one = matrix_completion(noisy, 2, lam=1.0, weights=np.full(seen.shape, 2.0), tol=1e-9, maxiter=300, rng=0)
    two = matrix_completion(noisy, 2, lam=0.5, tol=1e-9, maxiter=300, rng=0)
    assert np.abs(one.to_dense() - two.to_dense()).max() < 1e-5


def test_duplicates() -> None:
    entries = (np.array([0, 1, 0, 1, 0]), np.array([0, 0, 1, 1, 0]), np.array([1.0, 2.0, 2.0, 4.0, 3.0]))
    with pytest.raises(ValueError, match=r"entry \(0, 0\) more than once"):
        matrix_completion(entries, 1, shape=(2, 2))
    mean = quiet(entries, 1, shape=(2, 2), duplicates="mean", lam=1e-9, maxiter=100, rng=0)
    last = quiet(entries, 1, shape=(2, 2), duplicates="last", lam=1e-9, maxiter=100, rng=0)
    assert abs(mean.to_dense()[1, 1] - 4) < 0.5
    assert mean.fun != last.fun
    two = quiet(
        entries, 1, shape=(2, 2), duplicates="mean", weights=np.array([1, 1, 1, 1, 3.0]), lam=1e-9, rng=0
    )
    assert np.isfinite(two.fun)


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_warm_starts(columns: int) -> None:
    M, seen = low_rank(seed=22)
    first = matrix_completion(seen, 3, rng=0)
    if columns == 3:
        again = matrix_completion(seen, 3, init=first, rng=0)
        assert again.nit <= 2
    elif columns == 1:
        again = matrix_completion(seen, 3, init=(first.U[:, :1], first.V[:, :1]), rng=0)
    else:
        pad = np.zeros((60, 2)), np.zeros((50, 2))
        again = matrix_completion(
            seen, 3, init=(np.hstack([first.U, pad[0]]), np.hstack([first.V, pad[1]])), rng=0
        )
        assert again.nit <= 2
    assert np.abs(again.to_dense() - M).max() < 1e-6


def test_warm_start_keeps_biases() -> None:
    _, seen = low_rank(seed=23)
    options: dict[str, Any] = {"lam": 0.5, "bias": True, "tol": 1e-8, "maxiter": 2000}
    first = matrix_completion(seen + 2, 3, rng=0, **options)
    again = matrix_completion(seen + 2, 3, init=first, rng=1, **options)
    assert again.nit < first.nit / 2
    assert again.history["rmse_train"][0] == pytest.approx(first.rmse_train, rel=1e-4)
    assert again.fun == pytest.approx(first.fun, rel=1e-6)


def test_same_seed_same_bits_for_any_number_of_threads() -> None:
    _, seen = low_rank(200, 150, 4, seed=24)
    for options in ({}, {"lam": 1.0, "bias": True, "inner": "cg"}, {"inner": "sketch"}, {"robust": True}):
        results = [quiet(seen, 4, n_threads=n, rng=3, **options) for n in (1, 2, 3)]
        for other in results[1:]:
            assert np.array_equal(results[0].U, other.U)
            assert results[0].fun == other.fun


@pytest.mark.parametrize("scale", [1e-30, 1e6, 1e30])
def test_scales_in_single_precision(scale: float) -> None:
    _, seen = low_rank(120, 100, 36, share=0.9, seed=40)
    M = (scale * seen).astype(np.float32)
    one = quiet(M, 6, rng=0)
    assert np.isfinite(one.to_dense()).all()
    assert one.rmse_train < 3 * scale * np.nanstd(seen)
    if scale == 1e6:
        for lam in (1.0, 1e6):
            cg = quiet(M, 36, lam=lam, inner="cg", rng=0, maxiter=100, tol=1e-5)
            exact = quiet(M, 36, lam=lam, inner="exact", rng=0, maxiter=100, tol=1e-5)
            assert cg.rmse_train < 2 * exact.rmse_train + 1e-4 * scale


@pytest.mark.parametrize("scale", [1e-170, 1e150])
def test_extreme_scales(scale: float) -> None:
    M, seen = low_rank(seed=41)
    result = matrix_completion(scale * seen, 3, rng=0)
    assert result.success
    assert np.abs(result.to_dense() / scale - M).max() < 1e-6


@pytest.mark.parametrize("M", [np.zeros((6, 5)), np.full((6, 5), 7.0), np.array([[3.0]])])
@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "l1"}, {"loss": "huber"}, {"lam": 1.0, "bias": True}, {"nonneg": True}, {"center": True},
     {"init": "rank_increment"}, {"lam": 0.1, "inner": "cg"}],
    ids=str,
)  # fmt: skip
def test_trivial_matrices(M: np.ndarray, options: dict[str, Any]) -> None:
    result = quiet(M, 1, rng=0, **options)
    assert np.isfinite(result.to_dense()).all()
    assert np.isfinite(result.fun)
    if "lam" not in options:
        assert np.abs(result.to_dense() - M).max() < 0.1


# --------------------------------------------------------------------------------- honesty about the outcome


def test_sweeps_used_up() -> None:
    _, seen = low_rank(seed=25)
    with pytest.warns(ConvergenceWarning, match="sweeps are used up"):
        result = matrix_completion(seen, 3, maxiter=2, rng=0)
    assert not result.success
    assert result.status == Status.MAX_ITERATIONS
    assert result.nit == 2


def test_too_few_entries() -> None:
    _, seen = low_rank(30, 30, 3, share=0.2, seed=26)
    with pytest.warns(RecoveryWarning, match="per degree of freedom"):
        result = quietly_converged(seen, 3)
    assert result.oversampling < 1.5
    assert result.n_underdetermined > 0
    assert np.isfinite(result.to_dense()).all()


def quietly_converged(*args: Any, **options: Any) -> CompletionResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return matrix_completion(*args, rng=0, **options)


def test_empty_rows_and_columns_are_flagged() -> None:
    _, seen = low_rank(seed=27)
    seen[4], seen[:, 7] = np.nan, np.nan
    with pytest.warns(RecoveryWarning, match="1 rows and 1 columns have no entry"):
        result = matrix_completion(seen, 3, rng=0)
    assert (result.n_empty_rows, result.n_empty_cols) == (1, 1)
    assert not result.U[4].any()
    assert not result.V[7].any()


def test_a_rank_that_the_data_do_not_have() -> None:
    M, seen = low_rank(80, 60, 2, share=0.6, seed=28)
    with pytest.warns(RecoveryWarning, match="only rank 2 of the 4"):
        result = matrix_completion(seen, 4, init="rank_increment", rng=0)
    assert result.rank == 2
    assert np.abs(result.to_dense() - M).max() < 1e-6


def test_holdout_stops_early() -> None:
    rng = np.random.default_rng(29)
    M, seen = low_rank(80, 60, 2, share=0.4, seed=29)
    noisy = seen + 1.0 * rng.standard_normal(M.shape)
    result = matrix_completion(noisy, 10, lam=1e-2, holdout=0.2, maxiter=200, rng=0)
    assert result.success
    assert "stopped early" in result.message
    held = result.history["rmse_holdout"]
    assert result.rmse_holdout == pytest.approx(np.nanmin(held), rel=1e-6)
    assert result.rmse_holdout < held[-1]


def test_holdout_gives_the_best_factors_however_the_sweeps_end() -> None:
    rng = np.random.default_rng(42)
    _, seen = low_rank(80, 60, 2, share=0.4, seed=42)
    noisy = seen + 1.0 * rng.standard_normal(seen.shape)
    result = quiet(noisy, 10, lam=1e-2, holdout=0.2, patience=1000, maxiter=60, rng=0)
    assert result.rmse_holdout == pytest.approx(np.nanmin(result.history["rmse_holdout"]), rel=1e-6)


def test_rank_search_heeds_callback_and_budget() -> None:
    _, seen = low_rank(seed=43)

    def stop(intermediate_result: Any) -> None:
        if intermediate_result.nit == 3:
            raise StopIteration

    result = quiet(seen, "auto", callback=stop, rng=0)
    assert (result.nit, result.status) == (3, Status.STOPPED_BY_CALLBACK)
    assert quiet(seen, "auto", maxiter=5, rng=0).nit <= 6


def test_sample_splitting_reports_on_all_entries() -> None:
    M, seen = low_rank(200, 150, 2, share=0.8, seed=44)
    weights = np.random.default_rng(45).random(M.shape) + 0.5
    calls = []
    result = quiet(
        seen, 2, sample_splitting=True, maxiter=3, weights=weights, holdout=0.1, rng=0,
        callback=lambda intermediate_result: calls.append(intermediate_result.nit),
    )  # fmt: skip
    assert calls == [1, 2, 3]
    assert result.nit == 3
    assert result.rmse_holdout > 0
    assert result.history["rmse_train"][-1] == pytest.approx(result.rmse_train, rel=1e-8)


def test_holdout_of_ones_own() -> None:
    M, seen = low_rank(seed=30)
    rows, cols = np.nonzero(np.isnan(seen))
    result = matrix_completion(seen, 3, holdout=(rows, cols, M[rows, cols]), rng=0)
    error = result.predict(rows, cols) - M[rows, cols]
    assert result.rmse_holdout == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3, abs=1e-14)


def test_callback() -> None:
    _, seen = low_rank(seed=31)
    seen_reports = []

    def stop(intermediate_result: Any) -> None:
        seen_reports.append(intermediate_result)
        if intermediate_result.nit == 3:
            raise StopIteration

    result = matrix_completion(seen, 3, callback=stop, rng=0)
    assert [r.nit for r in seen_reports] == [1, 2, 3]
    assert result.status == Status.STOPPED_BY_CALLBACK
    assert not result.success
    assert seen_reports[-1].rmse_train == pytest.approx(result.rmse_train, rel=1e-6)

    def fail(intermediate_result: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        matrix_completion(seen, 3, callback=fail, rng=0)


def test_history() -> None:
    _, seen = low_rank(seed=32)
    result = matrix_completion(seen, 3, lam=0.1, inner="cg", holdout=0.1, rng=0, maxiter=500)
    lengths = {name: len(column) for name, column in result.history.items()}
    assert set(lengths.values()) == {result.nit}
    assert (np.diff(result.history["time"]) > 0).all()


# --------------------------------------------------------------------------------------------- result methods


def test_result_methods() -> None:
    M, seen = low_rank(seed=33)
    result = matrix_completion(seen, 3, bias=False, rng=0)
    dense = result.to_dense()
    rows, cols = np.array([0, 5, 59]), np.array([49, 2, 0])
    assert np.allclose(result.predict(rows, cols), dense[rows, cols], atol=1e-12)
    assert np.allclose(result.to_dense(slice(3, 6), [1, 4]), dense[3:6][:, [1, 4]])
    filled = result.fill(seen)
    known = ~np.isnan(seen)
    assert np.array_equal(filled[known], seen[known])
    assert np.abs(filled - M).max() < 1e-6
    U, bias = result.fold_in(seen[:7])
    assert bias is None
    assert np.abs(U - result.U[:7]).max() < 1e-6
    assert np.allclose(result.U.T @ result.U, np.diag(result.s), atol=1e-8 * result.s[0])
    assert np.allclose(result.V.T @ result.V, np.diag(result.s), atol=1e-8 * result.s[0])
    again = pickle.loads(pickle.dumps(result))
    assert np.array_equal(again.to_dense(), dense)
    assert "rmse_train" in repr(result)


def test_topk_and_similar() -> None:
    _, seen = low_rank(seed=34)
    result = matrix_completion(seen + 1, 3, bias=True, lam=0.1, rng=0, maxiter=600)
    dense = result.to_dense()
    items, values = result.topk([2, 40], 5)
    for row, found, scores in zip((2, 40), items, values, strict=True):
        assert np.array_equal(found, np.argsort(-dense[row])[:5])
        assert np.allclose(scores, np.sort(dense[row])[::-1][:5])
    excluded, _ = result.topk([2], 50, exclude=seen)
    left = np.isnan(seen[2]).sum()
    assert set(excluded[0][:left]) == set(np.flatnonzero(np.isnan(seen[2])))
    assert (excluded[0][left:] == -1).all()
    sparse_seen = sparse.csr_array(np.nan_to_num(seen))
    assert np.array_equal(result.topk([2], 50, exclude=sparse_seen)[0], excluded)
    near, cosine = result.similar(3, 4)
    unit = result.V / np.linalg.norm(result.V, axis=1, keepdims=True)
    expected = unit @ unit[3]
    expected[3] = -np.inf
    assert np.array_equal(near[0], np.argsort(-expected)[:4])
    assert np.allclose(cosine[0], np.sort(expected)[::-1][:4])


def test_fold_in_with_biases() -> None:
    _, seen = low_rank(seed=35)
    result = matrix_completion(seen + 3, 3, bias=True, lam=0.2, tol=1e-9, maxiter=3000, rng=0)
    U, bias = result.fold_in(seen[:5] + 3)
    assert np.abs(U - result.U[:5]).max() < 1e-5
    assert np.abs(bias - result.row_bias[:5]).max() < 1e-5


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("M", "rank", "options", "error", "text"),
    [
        (np.ones((4, 3)), 0, {}, ValueError, "`rank` must be >= 1"),
        (np.ones((4, 3)), 4, {}, ValueError, "`rank` must be at most 3"),
        (np.ones((4, 3)), 1.5, {}, TypeError, "`rank` must be an integer"),
        (np.ones((4, 3)), "best", {}, ValueError, "`rank`"),
        (np.full((4, 3), np.nan), 1, {}, ValueError, "no known entry"),
        (np.ones((0, 3)), 1, {}, ValueError, "no known entry"),
        (np.array([[1.0, np.inf]]), 1, {}, ValueError, r"non-finite value at index \(0, 1\)"),
        (([0], [0], [np.nan]), 1, {"shape": (2, 2)}, ValueError, "non-finite"),
        (
            ([0, 2], [0, 0], [1.0, 1]),
            1,
            {"shape": (2, 2)},
            ValueError,
            r"`M\[0\]` has the index 2 at position 1",
        ),
        (([0, -1], [0, 0], [1.0, 1]), 1, {"shape": (2, 2)}, ValueError, "the index -1"),
        (([0], [0, 1], [1.0]), 1, {"shape": (2, 2)}, ValueError, "vectors of one length"),
        (([0.5], [0], [1.0]), 1, {"shape": (2, 2)}, TypeError, r"`M\[0\]` must be integers"),
        (([0], [0], [1.0]), 1, {}, ValueError, "`shape` is needed"),
        (np.ones((4, 3)), 1, {"shape": (4, 4)}, ValueError, "`shape` is"),
        (np.ones((4, 3)), 1, {"lam": -1}, ValueError, "`lam`"),
        (np.ones((4, 3)), 1, {"weights": -np.ones((4, 3))}, ValueError, "`weights` must be positive"),
        (np.ones((4, 3)), 1, {"weights": np.ones(5)}, ValueError, "`weights` has shape"),
        (np.ones((4, 3)), 1, {"nonneg": True, "bias": True}, ValueError, "`nonneg` and `bias`"),
        (np.ones((4, 3)), 1, {"implicit": True, "bias": True}, ValueError, "`implicit`"),
        (
            np.ones((4, 3)),
            1,
            {"implicit": True, "weights": np.ones((4, 3))},
            ValueError,
            "`weights` must be None",
        ),
        (np.ones((4, 3)), 1, {"robust": True, "lam": 1.0}, ValueError, "`robust`"),
        (np.ones((4, 3)), 1, {"robust": True, "loss": "huber"}, ValueError, "`robust`"),
        (np.ones((4, 3)), 1, {"robust": True, "init": "bogus"}, ValueError, "`init`"),
        (np.ones((4, 3)), "auto", {"init": "random"}, ValueError, "`init`"),
        (np.ones((4, 3)), 1, {"lam_path": True, "lam": 1.0}, ValueError, "`lam_path`"),
        (np.ones((4, 3)), 1, {"lam_path": [-1.0]}, ValueError, "`lam_path`"),
        (np.ones((4, 3)), 1, {"holdout": 1.5}, ValueError, "`holdout`"),
        (np.ones((1, 1)), 1, {"holdout": 0.5}, ValueError, "leaves none"),
        (np.ones((4, 3)), 1, {"init": "svd"}, ValueError, "`init`"),
        (np.ones((4, 3)), 1, {"init": (np.ones((4, 1)), np.ones((4, 1)))}, ValueError, "`init` has factors"),
        (np.ones((4, 3)), 1, {"init": 3}, TypeError, "`init`"),
        (np.ones((4, 3)), 1, {"inner": "lu"}, ValueError, "`inner`"),
        (np.ones((4, 3)), 1, {"loss": "cauchy"}, ValueError, "`loss`"),
        (np.ones((4, 3)), 1, {"delta": 0.0, "loss": "huber"}, ValueError, "`delta`"),
        (np.ones((4, 3)), 1, {"maxiter": -1}, ValueError, "`maxiter`"),
        (np.ones((4, 3)), 1, {"dtype": np.int32}, ValueError, "`dtype`"),
        (np.ones((4, 3)), 1, {"duplicates": "sum"}, ValueError, "`duplicates`"),
        (np.ones((4, 3)), 1, {"rng": "seed"}, TypeError, "`rng`"),
        (np.ones((4, 3), dtype=complex), 1, {}, TypeError, "`M` is complex"),
        (np.ones(4), 1, {}, ValueError, "`M` has shape"),
        (np.ones((4, 3), dtype=np.float32), 1, {"inner": "lowprec"}, ValueError, "float64"),
    ],
)
def test_bad_input(M: Any, rank: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        matrix_completion(M, rank, **options)


def test_input_is_not_changed() -> None:
    _, seen = low_rank(seed=36)
    table = sparse.csr_array(np.nan_to_num(seen))
    weights = np.ones(table.nnz)
    before = [a.copy() for a in (table.data, table.indices, table.indptr, weights)]
    factors = np.ones((60, 2)), np.ones((50, 2))
    matrix_completion(table, 2, weights=weights, lam=1.0, init=factors, rng=0)
    for a, b in zip((table.data, table.indices, table.indptr, weights), before, strict=True):
        assert np.array_equal(a, b)
    assert (factors[0] == 1).all()
    assert (factors[1] == 1).all()
