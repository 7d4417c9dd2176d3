"""Each piece of the completion oracle against one independent fact: dense algebra, slopes, closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.linalg import norm

from aitken.datasets import low_rank_problem
from tests.completion import problems
from tests.oracles import completion as oracle
from tests.oracles.completion import Entries, Factors, Options

VARIANTS = {
    "plain": Options(),
    "ridge": Options(lam=0.7),
    "ridge by degree": Options(lam=0.3, lam_by_degree=True),
    "bias": Options(lam=0.5, bias=True),
    "background": Options(lam=0.4, background=True),
    "huber": Options(lam=0.2, loss="huber", delta=0.5),
    "l1": Options(lam=0.2, bias=True, loss="l1", delta=0.1),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def entries(n1=9, n2=7, part=0.6, seed=0, weighted=True):
    g = rng(seed)
    rows, cols = np.nonzero(g.random((n1, n2)) < part)
    w = 0.5 + g.random(len(rows)) if weighted else None
    return Entries(rows, cols, g.standard_normal(len(rows)), (n1, n2), w)


def factors(shape, k, bias=False, seed=1):
    g = rng(seed)
    biases = [g.standard_normal(n) * bias for n in shape]
    return Factors(*(g.standard_normal((n, k)) for n in shape), *biases)


def known(problem):
    return Entries(problem.rows, problem.cols, problem.vals, problem.shape)


def slopes(function, x, step=1e-6):
    out = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        for sign, y in zip((1, -1), moved, strict=True):
            y[at] += sign * step
        out[at] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return out


def random_row(d=12, k=4, lam=0.3, seed=0):
    g = rng(seed)
    A, c, w = g.standard_normal((d, k)), g.standard_normal(d), 0.5 + g.random(d)
    return oracle.Row(A, c, w, lam)


# ----------------------------------------------------------------------------------------------- one row


@pytest.mark.parametrize("name", VARIANTS)
def test_equations_of_a_row_are_the_slope_of_the_objective(name):
    """Also of the robust ones: their squares touch the loss where the row is."""
    options, e = VARIANTS[name], entries()
    f = factors(e.shape, 3, options.bias)

    def value(x):
        moved = f.copy()
        moved.U[4] = x[:3]
        if options.bias:
            moved.a[4] = x[3]
        return oracle.objective(e, moved, options)

    x = np.append(f.U[4], f.a[4]) if options.bias else f.U[4]
    row = oracle.row_problem(e.row(4), f.V, f.b, x, options)
    np.testing.assert_allclose(slopes(value, x), -2 * row.residual(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["plain", "ridge", "ridge by degree", "bias", "background"])
def test_half_sweep_is_the_minimum(name):
    options, e = VARIANTS[name], entries()
    f = factors(e.shape, 3, options.bias)
    U, a, _ = oracle.half_sweep(e, f.V, f.U, options, f.b, f.a)

    def value(x):
        return oracle.objective(e, Factors(x, f.V, a, f.b), options)

    np.testing.assert_allclose(slopes(value, U), 0, atol=1e-7)
    if options.bias:
        np.testing.assert_allclose(
            slopes(lambda x: oracle.objective(e, Factors(U, f.V, x, f.b), options), a), 0, atol=1e-7
        )
    assert value(U) < oracle.objective(e, f, options)


def test_row_by_normal_equations():
    row = random_row()
    W = np.diag(row.w)
    G = row.A.T @ W @ row.A + 0.3 * np.eye(4)
    np.testing.assert_allclose(row.gram(), G, rtol=1e-14)
    np.testing.assert_allclose(oracle.exact(row), np.linalg.solve(G, row.A.T @ W @ row.c), rtol=1e-12)
    M, y = row.stacked()
    np.testing.assert_allclose(M.T @ M, G, rtol=1e-13, atol=1e-14)
    x = np.arange(4.0)
    assert row.value(x) == pytest.approx(norm(M @ x - y) ** 2, rel=1e-13)


def test_too_few_entries_give_the_least_norm():
    row = random_row(d=2, lam=0.0)._replace(w=np.ones(2))
    x = oracle.exact(row)
    np.testing.assert_allclose(row.A @ x, row.c, rtol=1e-12)
    np.testing.assert_allclose(x, np.linalg.pinv(row.A) @ row.c, rtol=1e-12)


def test_entries_without_weight_do_not_count():
    e = entries()
    dropped = np.arange(len(e.vals)) % 3 == 0
    w = np.where(dropped, 0.0, e.weights)
    less = Entries(e.rows[~dropped], e.cols[~dropped], e.vals[~dropped], e.shape, e.weights[~dropped])
    f, options = factors(e.shape, 2), Options(lam=0.1, lam_by_degree=True)
    same = Entries(e.rows, e.cols, e.vals, e.shape, w)
    np.testing.assert_array_equal(same.degrees(), less.degrees())
    np.testing.assert_array_equal(
        oracle.half_sweep(same, f.V, f.U, options)[0], oracle.half_sweep(less, f.V, f.U, options)[0]
    )


@pytest.mark.parametrize("seed", range(5))
def test_nonneg_three_ways(seed):
    row = random_row(seed=seed, k=5, d=6 + 3 * seed)
    x = oracle.nonneg_brute(row)
    g = row.residual(x)  # of a minimum: no way down, and none to the side from where x > 0
    assert (x >= 0).all()
    assert (g < 1e-12).all()
    np.testing.assert_allclose(g[x > 0], 0, atol=1e-12)
    assert 0 < (x > 0).sum() < 5
    np.testing.assert_allclose(oracle.nonneg(row), x, atol=1e-12)
    np.testing.assert_allclose(oracle.coordinate_descent(row, np.ones(5), 500), x, atol=1e-10)
    assert row.value(oracle.coordinate_descent(row, np.ones(5), 1)) < row.value(np.ones(5))


@pytest.mark.parametrize("loss", ["huber", "l1"])
def test_squares_lie_above_the_loss_and_touch_it(loss):
    r, delta = np.linspace(-3, 3, 121), 0.5
    values = oracle.loss_values(r, loss, delta)
    for at, weight in zip(r, oracle.loss_weights(r, loss, delta), strict=True):
        here = oracle.loss_values(np.array([at]), loss, delta)[0]
        assert (values <= here + weight * (r**2 - at**2) + 1e-12).all()
    large = np.array([10.0, -20.0])
    wanted = np.abs(large) * (1 if loss == "l1" else 2 * delta) - (0 if loss == "l1" else delta**2)
    np.testing.assert_allclose(oracle.loss_values(large, loss, delta), wanted)
    both_sides = oracle.loss_values(np.array([delta - 1e-9, delta + 1e-9]), loss, delta)
    assert both_sides[0] == pytest.approx(both_sides[1], abs=1e-8)


def test_automatic_delta():
    r = rng().standard_normal(100_001)
    assert oracle.automatic_delta(r, "huber") == pytest.approx(1.345, rel=0.02)
    assert oracle.automatic_delta(np.array([-4.0, 1.0, 2.0]), "l1") == pytest.approx(2e-3)


# ------------------------------------------------------------------------------------------- inner solvers


def test_conjugate_gradients():
    row = random_row(k=6, d=30)
    x, steps = oracle.conjugate_gradients(row, np.ones(6), 6, 0.0)
    assert steps == 6  # as many as unknowns: exact
    np.testing.assert_allclose(x, oracle.exact(row), rtol=1e-9, atol=1e-11)
    M = row.gram()
    x, steps = oracle.conjugate_gradients(row, np.ones(6), 9, 1e-10, lambda r: np.linalg.solve(M, r))
    assert steps == 1
    np.testing.assert_allclose(x, oracle.exact(row), rtol=1e-10)
    first = oracle.conjugate_gradients(row, np.ones(6), 1, 0.0)[0]  # one step is steepest descent
    r = row.residual(np.ones(6))
    np.testing.assert_allclose(first, np.ones(6) + (r @ r) / (r @ M @ r) * r, rtol=1e-13)
    many, steps = oracle.conjugate_gradients(row, np.ones(6), 50, 0.03)
    before = oracle.conjugate_gradients(row, np.ones(6), steps - 1, 0.0)[0]
    assert norm(row.residual(many)) <= 0.03 * norm(r) < norm(row.residual(before))


def test_conjugate_gradients_leave_a_solution_alone():
    row = random_row(lam=0.0)
    nothing = row._replace(c=np.zeros(12))
    x, steps = oracle.conjugate_gradients(nothing, np.zeros(4), 3, 0.03)
    assert steps == 0
    np.testing.assert_array_equal(x, 0)
    flat = row._replace(A=np.zeros((12, 4)))  # no curvature at all
    np.testing.assert_array_equal(oracle.conjugate_gradients(flat, np.ones(4), 3, 0.0)[0], 1)


def test_count_sketch():
    A = rng().standard_normal((40, 3))
    S = oracle.count_sketch(np.eye(40), 8, rng(5))
    np.testing.assert_allclose(oracle.count_sketch(A, 8, rng(5)), S @ A, rtol=1e-12, atol=1e-14)
    assert (np.abs(S).sum(axis=0) == 1).all()
    assert ((S != 0).sum(axis=0) == 1).all()
    g = rng(7)
    mean = np.mean([B.T @ B for B in (oracle.count_sketch(A, 8, g) for _ in range(3000))], axis=0)
    np.testing.assert_allclose(mean, A.T @ A, atol=0.1 * norm(A) ** 2 / 3)


def test_preconditioners_of_a_row():
    """Iterations to 1e-8 with 32 unknowns, as measured before by an independent implementation."""
    known = {  # the whole factor's Gram matrix, sketches of 4 and 8 rows per unknown
        (0.0, 64): (29, 1, 1),
        (0.0, 256): (16, 19, 1),
        (0.0, 1024): (10, 19, 15),
        (1.5, 64): (60, 1, 1),
        (1.5, 256): (42, 19, 1),
        (1.5, 1024): (34, 19, 15),
    }
    for (spikes, d), wanted in known.items():
        V, idx, vals = problems.spiky_row(d, spikes=spikes)
        x = np.zeros(32)
        row = oracle.row_problem((idx, vals, np.ones(d)), V, np.zeros(len(V)), x, Options())
        for (kind, factor), count in zip((("qcg", 0), ("sketch", 4), ("sketch", 8)), wanted, strict=True):
            M = oracle.preconditioner(row, kind, V, factor, rng())
            steps = oracle.conjugate_gradients(row, x, 200, 1e-8, lambda r, M=M: np.linalg.solve(M, r))[1]
            assert abs(steps - count) <= max(2, 0.15 * count), (spikes, d, kind, factor)
        M = oracle.preconditioner(row, "lowprec", V)
        assert norm(M - row.gram()) < 1e-5 * norm(M)
        assert norm(M - row.gram()) > 0


# ---------------------------------------------------------------------------------------------- half sweeps


def test_rows_without_entries():
    e = entries()
    some = e.rows != 3
    e = Entries(e.rows[some], e.cols[some], e.vals[some], e.shape)
    f = factors(e.shape, 2)
    assert not oracle.half_sweep(e, f.V, f.U, Options(lam=0.1))[0][3].any()
    assert not oracle.half_sweep(e, f.V, f.U, Options(lam=0.1, background=True))[0][3].any()


def test_background_is_the_whole_matrix_with_weights():
    e = entries()
    f = factors(e.shape, 2)
    M, W = e.dense(), np.where(e.dense(np.ones(len(e.vals))) > 0, e.dense(e.weights), 1.0)
    U = oracle.half_sweep(e, f.V, f.U, Options(lam=0.4, background=True))[0]
    for i in range(9):  # the formula that spares the unseen entries
        seen = np.flatnonzero(e.dense(np.ones(len(e.vals)))[i])
        G = f.V.T @ f.V + f.V[seen].T @ ((W[i, seen] - 1)[:, None] * f.V[seen]) + 0.4 * np.eye(2)
        np.testing.assert_allclose(
            U[i], np.linalg.solve(G, f.V[seen].T @ (W[i, seen] * M[i, seen])), rtol=1e-11
        )
    wanted = (W * (M - U @ f.V.T) ** 2).sum() + 0.4 * ((U**2).sum() + (f.V**2).sum())
    value = oracle.objective(e, Factors(U, f.V, f.a, f.b), Options(lam=0.4, background=True))
    assert value == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("loss", ["huber", "l1"])
def test_reweighting_never_climbs(loss):
    e, options = entries(30, 20), Options(lam=0.1, loss=loss, delta=0.3)
    values = []
    oracle.complete(
        e, 2, options, auto_delta=False, max_sweeps=15, tol=0, start="random",
        monitor=lambda _, f: values.append(oracle.objective(e, f, options)),
    )  # fmt: skip
    assert (np.diff(values) < 0).all()


# --------------------------------------------------------------------------------------------------- starts


def test_spectral_start_of_a_full_matrix_is_exact():
    problem = low_rank_problem(40, 30, rank=3, cond=5.0)
    rows, cols = np.indices((40, 30)).reshape(2, -1)
    full = Entries(rows, cols, (problem.U @ problem.V.T)[rows, cols], (40, 30))
    true = np.linalg.qr(problem.U)[0]
    for by_degree in (False, True):
        U = oracle.spectral_start(full, 3, by_degree=by_degree)
        np.testing.assert_allclose(U.T @ U, np.eye(3), atol=1e-13)
        assert norm(U - true @ (true.T @ U)) < 1e-12
    u = oracle.leading_vector(full, oracle.zeros((40, 30), 3))
    assert abs(u[:, 0] @ problem.U[:, 0]) == pytest.approx(norm(problem.U[:, 0]), rel=1e-12)


def test_degrees_of_both_sides_scale_a_start():
    """Where whole rows and columns are seen more than once over, degrees undo that."""
    problem = low_rank_problem(30, 20, rank=2)
    M = problem.U @ problem.V.T
    r, c = rng(3).integers(1, 30, 30), rng(4).integers(1, 20, 20)
    e = Entries(*np.indices((30, 20)).reshape(2, -1), (r[:, None] * M * c).ravel(), (30, 20))
    e.degrees = lambda: r  # type: ignore[method-assign]
    transposed = e.T
    transposed.degrees = lambda: c  # type: ignore[method-assign]
    e_class = type("E", (Entries,), {"T": property(lambda self: transposed)})
    e.__class__ = e_class
    true = np.linalg.qr(problem.U)[0]
    U = oracle.spectral_start(e, 2, by_degree=True, clip=False)
    assert norm(U - true @ (true.T @ U)) < 1e-12
    U = oracle.spectral_start(e, 2, clip=False)
    assert norm(U - true @ (true.T @ U)) > 0.1


def test_eased_degrees_start_nearer_on_a_power_law():
    """Plain degrees do where rows have many entries, and lose where many rows have few."""
    angles = {}
    for draws in (40_000, 12_000):
        problem = problems.power_law(500, 250, draws=draws, rank=3, noise=0.0)
        true, e = np.linalg.qr(problem.U)[0], known(problem)
        for name, options in {
            "plain": {},
            "degrees": {"by_degree": True},
            "eased": {"by_degree": True, "ease": 1.0},
        }.items():
            U = oracle.spectral_start(e, 3, **options)
            angles[draws, name] = norm(U - true @ (true.T @ U)) / np.sqrt(3)
    assert angles[40_000, "degrees"] < 0.8 * angles[40_000, "plain"]
    assert angles[12_000, "degrees"] > angles[12_000, "plain"]
    for draws in (40_000, 12_000):
        assert angles[draws, "eased"] < 0.9 * angles[draws, "plain"]


def test_clipping():
    U = np.ones((20, 2)) * 0.1
    U[7] *= 50
    V = oracle.clipped(U)
    np.testing.assert_array_equal(np.delete(V, 7, axis=0), np.delete(U, 7, axis=0))
    assert norm(V[7]) == pytest.approx(2 * np.sqrt(2 / 20))
    np.testing.assert_allclose(V[7] / norm(V[7]), U[7] / norm(U[7]))


def test_balancing_keeps_the_product():
    f = factors((12, 9), 3)
    Q, Y = oracle.balanced(f.U, f.V)
    np.testing.assert_allclose(Q.T @ Q, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(Q @ Y.T, f.U @ f.V.T, rtol=1e-12, atol=1e-13)
    f.U[:, 0] = f.U[:, 1] - 2 * f.U[:, 2]
    Q, Y = oracle.balanced(f.U, f.V)
    assert (Q.shape, Y.shape) == ((12, 2), (9, 2))
    np.testing.assert_allclose(Q @ Y.T, f.U @ f.V.T, rtol=1e-12, atol=1e-13)
    P, Q, s = oracle.svd_balanced(f.U, f.V)
    np.testing.assert_allclose(P @ Q.T, f.U @ f.V.T, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(P.T @ P, np.diag(s), atol=1e-12)
    np.testing.assert_allclose(Q.T @ Q, np.diag(s), atol=1e-12)


# --------------------------------------------------------------------------------------------------- driver


@pytest.mark.parametrize("background", [False, True])
def test_a_full_matrix_has_a_closed_form(background):
    """The ridge on both factors shrinks the singular values by itself."""
    M = rng().standard_normal((15, 10))
    left, s, right = np.linalg.svd(M, full_matrices=False)
    e = Entries(*np.indices(M.shape).reshape(2, -1), M.ravel(), M.shape)
    r = oracle.complete(
        e, 3, Options(lam=0.8, background=background), start="random", tol=1e-13, max_sweeps=900
    )
    assert r.why == oracle.TOLERANCE
    np.testing.assert_allclose(r.factors.dense(), left[:, :3] @ np.diag(s[:3] - 0.8) @ right[:3], atol=2e-5)
    best = 2 * 0.8 * (s[:3] - 0.8).sum() + 3 * 0.8**2 + (s[3:] ** 2).sum()
    assert r.objective == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("inner", ["exact", "cg", "qcg", "sketch", "lowprec"])
def test_recovery(inner):
    problem = low_rank_problem(120, 100, rank=3, oversampling=5.0)
    r = oracle.complete(known(problem), 3, Options(inner=inner), max_sweeps=80)
    assert r.why == oracle.FLOOR
    assert r.sweeps == len(r.train) <= 60
    assert problems.relative_error(r.factors.U, r.factors.V, problem) < 1e-12
    assert (np.array(r.inner) > 0).all() == (inner != "exact")


def test_recovery_of_an_ill_conditioned_matrix_one_rank_at_a_time():
    problem = low_rank_problem(150, rank=4, oversampling=3.0, cond=100.0, seed=2)
    errors = {}
    for start in ("spectral", "increment"):
        r = oracle.complete(known(problem), 4, start=start, max_sweeps=80)
        errors[start] = problems.relative_error(r.factors.U, r.factors.V, problem)
    assert r.rank[:25] == [1] * 8 + [2] * 8 + [3] * 8 + [4]
    assert errors["increment"] < 1e-10
    assert errors["spectral"] > 1e-3


def test_continuation_recovers_from_fewer_entries():
    problem = low_rank_problem(120, rank=3, oversampling=1.7, seed=15)
    e = known(problem)
    path = oracle.continuation(e)
    assert path[0] == pytest.approx(30 * len(e.vals) / 120**2)
    r = oracle.complete(e, 3, lam_path=path, max_sweeps=130)
    plain = oracle.complete(e, 3, max_sweeps=130)
    assert r.lam[:60] == path
    assert set(r.lam[60:]) == {0.0}
    assert problems.relative_error(r.factors.U, r.factors.V, problem) < 1e-4
    assert problems.relative_error(plain.factors.U, plain.factors.V, problem) > 1


def test_split_samples_lose_to_all_of_them():
    problem = low_rank_problem(150, rank=3, oversampling=10.0)
    f = oracle.sample_splitting(known(problem), 3, 4, 0)
    r = oracle.complete(known(problem), 3, max_sweeps=4)
    split = problems.relative_error(f.U, f.V, problem)
    assert problems.relative_error(r.factors.U, r.factors.V, problem) < 1e-2 * split


def test_noise_is_averaged():
    for noise in (1e-3, 1e-1):
        problem = low_rank_problem(200, rank=4, oversampling=8.0, noise=noise, seed=5)
        r = oracle.complete(known(problem), 4)
        assert r.why == oracle.TOLERANCE
        assert problems.relative_error(r.factors.U, r.factors.V, problem) < 1.15 * noise / np.sqrt(8)


def test_outliers_need_another_loss():
    problem = low_rank_problem(100, rank=2, oversampling=12.0)
    e = known(problem)
    hit = rng(1).random(len(e.vals)) < 0.05
    e.vals[hit] += 10 * rng(2).standard_normal(hit.sum())
    errors = {}
    for loss in ("linear", "huber", "l1"):
        r = oracle.complete(e, 2, Options(loss=loss), max_sweeps=30)
        errors[loss] = problems.relative_error(r.factors.U, r.factors.V, problem)
    assert errors["huber"] < 1e-6
    assert errors["l1"] < 0.05
    assert errors["linear"] > 1


def test_scale_of_the_entries_does_not_matter_without_a_ridge():
    problem = low_rank_problem(80, rank=2)
    e = known(problem)
    one = oracle.complete(e, 2, max_sweeps=6, tol=0)
    two = oracle.complete(replace(e, vals=1e6 * e.vals), 2, max_sweeps=6, tol=0)
    np.testing.assert_allclose(two.factors.dense(), 1e6 * one.factors.dense(), rtol=1e-8, atol=1e-2)
    np.testing.assert_allclose(two.train, 1e6 * np.array(one.train), rtol=1e-8)


def test_a_rank_too_many_is_lost():
    M = low_rank_problem(30, rank=2)
    rows, cols = np.indices((30, 30)).reshape(2, -1)
    full = Entries(rows, cols, (M.U @ M.V.T)[rows, cols], (30, 30))
    r = oracle.complete(full, 4, start="random", max_sweeps=20)
    assert r.why == oracle.FLOOR
    assert r.rank[-1] == r.factors.U.shape[1] == 2
    assert problems.relative_error(r.factors.U, r.factors.V, M) < 1e-12


def test_a_rank_too_many_is_not_determined_by_part_of_the_entries():
    """What one row does not show can hold anything, at one rank more: the fit is perfect, and wrong."""
    problem = low_rank_problem(60, rank=2, oversampling=10.0)
    r = oracle.complete(known(problem), 4, max_sweeps=40)
    assert r.why == oracle.FLOOR
    assert problems.relative_error(r.factors.U, r.factors.V, problem) > 1e-4


def test_signs():
    problem = low_rank_problem(40, rank=2, oversampling=6.0)
    e = replace(known(problem), vals=np.abs(problem.vals))
    values = []
    r = oracle.complete(
        e, 3, Options(lam=0.1, nonneg=True), start="random", max_sweeps=20, tol=0,
        monitor=lambda _, f: values.append(oracle.objective(e, f, Options(lam=0.1))),
    )  # fmt: skip
    assert (r.factors.U >= 0).all()
    assert (r.factors.V >= 0).all()
    assert (np.diff(values) < 1e-10).all()


def test_rules_that_stop():
    problem = low_rank_problem(100, rank=3, oversampling=8.0, noise=0.3, seed=1)
    train, test = (known(part) for part in problem.split(0.2))
    r = oracle.complete(train, 3, Options(lam=0.5), tol=1e-3, start="random")
    small = np.abs(np.diff(r.train)) <= 1e-3 * np.array(r.train[1:])
    assert r.why == oracle.TOLERANCE
    assert list(small[-2:]) == [True, True]
    assert not (small[:-2] & small[1:-1]).any()
    r = oracle.complete(train, 3, max_sweeps=3, tol=0)
    assert (r.why, r.sweeps) == (oracle.SWEEPS, 3)
    between = (r.train[0] + r.train[2]) / 2
    r = oracle.complete(train, 3, atol=between)
    assert r.why == oracle.FLOOR
    assert r.train[-1] <= between < r.train[-2]
    r = oracle.complete(train, 12, Options(lam=0.01), start="random", holdout=test, patience=2)
    assert r.why == oracle.HOLDOUT
    assert r.rmse_holdout == min(r.holdout)
    assert len(r.holdout) >= np.argmin(r.holdout) + 3
    r = oracle.complete(train, 3, monitor=lambda sweep, f: sweep == 2)
    assert (r.why, r.sweeps) == (oracle.CALLBACK, 2)


def test_last_sweep_is_exact():
    problem = low_rank_problem(60, rank=3, oversampling=8.0, noise=0.1)
    e, options = known(problem), Options(lam=0.5, inner="cg", inner_maxiter=1)
    ends = {}
    for finalize in (False, True):
        r = oracle.complete(e, 3, options, start="random", max_sweeps=5, finalize=finalize)
        f = r.factors
        row = [oracle.row_problem(e.row(i), f.V, f.b, f.U[i], options).residual(f.U[i]) for i in range(60)]
        ends[finalize] = r.sweeps, norm(row)
    assert [ends[key][0] for key in (False, True)] == [5, 6]
    assert ends[True][1] < 1e-12 < 1e-3 < ends[False][1]


def test_biases_are_solved_together_with_the_rows():
    g = rng()
    a, b = 2 * g.standard_normal(30), 3 * g.standard_normal(25)
    rows, cols = np.nonzero(g.random((30, 25)) < 0.6)
    e = Entries(rows, cols, a[rows] + b[cols], (30, 25))
    r = oracle.complete(e, 1, Options(lam=1e-6, bias=True), start="random", max_sweeps=60)
    held = (a[:, None] + b)[~np.isin(np.arange(750), rows * 25 + cols).reshape(30, 25)]
    fitted = r.factors.dense()[~np.isin(np.arange(750), rows * 25 + cols).reshape(30, 25)]
    np.testing.assert_allclose(fitted, held, atol=1e-3)


# -------------------------------------------------------------------------------------------------- problems


def test_relative_error():
    problem = low_rank_problem(30, 20, rank=2, cond=3.0)
    g = rng()
    U, V = problem.U + 0.1 * g.standard_normal((30, 2)), problem.V
    M = problem.U @ problem.V.T
    assert problems.relative_error(U, V, problem) == pytest.approx(norm(U @ V.T - M) / norm(M), rel=1e-12)
    assert problems.relative_error(problem.U[:, ::-1], V[:, ::-1], problem) < 1e-15


def test_implicit_counts():
    rows, cols, counts, shape = problems.implicit_counts()
    assert (counts >= 1).all()
    assert 0.1 < len(counts) / (shape[0] * shape[1]) < 0.6
    confidence = Entries(rows, cols, np.ones(len(rows)), shape, 1 + counts)
    r = oracle.complete(confidence, 3, Options(lam=0.5, background=True), start="random", max_sweeps=15)
    fit = r.factors.dense()
    seen = confidence.dense() > 0
    assert fit[seen].mean() > 0.7
    assert fit[~seen].mean() < 0.3
