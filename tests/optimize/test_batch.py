"""`sketched_newton_batch`: kernels against the oracle, known minima, isolation, bits, errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds

from aitken import ConvergenceWarning, _core
from aitken.optimize import sketched_newton_batch
from aitken.optimize._batch import BatchResult
from tests.optimize.problems import CASES, Case
from tests.oracles import optimize_batch as oracle

FAMOUS = (
    "HS6 HS7 HS26 HS27 HS28 HS35 HS39 HS40 HS42 HS43 HS48 HS49 HS50 HS51 HS52 HS61 HS71 HS76 HS77 HS78 HS79 "
    "HS100LNP"
).split()


# ------------------------------------------------------------------------------------------- L D L' and KKT


def symmetric(n: int, seed: int, kind: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    if kind == 1:  # zero diagonal: blocks of two
        np.fill_diagonal(a, 0.0)
    if kind == 2:  # scales far apart, as barriers make them
        a *= np.exp(4 * rng.standard_normal(n))[:, None]
    if kind == 3:  # sparse
        a *= rng.random((n, n)) < 0.3
    return np.tril(a) + np.tril(a, -1).T


@given(st.integers(1, 60), st.integers(0, 10**6), st.integers(0, 3))
def test_ldlt_has_the_inertia_and_solves(n: int, seed: int, kind: int) -> None:
    a = symmetric(n, seed, kind)
    b = np.random.default_rng(seed).standard_normal(n)
    x, signs = _core.solve_symmetric_batch(a[None], b[None].copy(), 1)
    w = np.linalg.eigvalsh(a)
    if np.abs(w).min() > 1e-9 * np.abs(w).max():
        assert tuple(signs[0]) == oracle.inertia(a)
        scale = np.abs(a).sum(axis=1).max() * np.abs(x[0]).max()
        assert np.abs(a @ x[0] - b).max() <= 1e-13 * n * (scale + 1)
    assert signs[0].sum() == n


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_the_oracle_has_scipys_inertia(n: int) -> None:
    for seed in range(20):
        a = symmetric(n, seed, seed % 2)
        _, d, _ = scipy.linalg.ldl(a)
        if np.abs(np.linalg.eigvalsh(a)).min() > 1e-8:
            assert oracle.inertia(a) == oracle.inertia(d)


def kkt_systems(count: int, n: int, m: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((count, n, n))
    h = h + h.transpose(0, 2, 1) + (3.0 * n * (np.arange(count) % 3 == 0))[:, None, None] * np.eye(n)
    d = np.abs(rng.standard_normal((count, n)))
    d[1::4, -1] = -1.0
    j = rng.standard_normal((count, m, n))
    sigma = np.where(rng.random((count, m)) < 0.4, -1.0, np.abs(rng.standard_normal((count, m))))
    if m > 1:
        sigma[2::5, 1] = -2.0
    parts = [h, d, j, sigma, rng.standard_normal((count, n)), rng.standard_normal((count, m))]
    return [*parts, rng.standard_normal((count, m)), rng.random(count), np.full(count, 1e-10)]


@pytest.mark.parametrize(("n", "m"), [(1, 0), (1, 1), (2, 1), (4, 2), (7, 5), (30, 12), (90, 38)])
def test_kkt_systems_like_the_oracle(n: int, m: int) -> None:
    parts = kkt_systems(12, n, m, n + m)
    dx, dlam, t, regular, attempts = _core.solve_kkt_batch(*parts, 0.1, 1)
    for k in range(12):
        expected = oracle.solve_kkt(*(p[k] for p in parts), 0.1)
        assert t[k] == pytest.approx(expected[2], rel=1e-15)
        assert regular[k] == expected[3]
        assert attempts[k] == expected[4]
        z, mine = np.concatenate(expected[:2]), np.concatenate([dx[k], dlam[k]])
        np.testing.assert_allclose(mine, z, atol=1e-8 * (1 + np.abs(z).max()))


def test_rows_that_depend_on_each_other_are_regularised() -> None:
    j = np.ones((1, 2, 3))  # one row twice, right sides that agree
    arrays = (np.zeros((1, 3)), np.full((1, 2), -1.0), np.ones((1, 3)), np.ones((1, 2)), np.zeros((1, 2)))
    d, sigma, rx, rc, rs = arrays
    dx, dlam, t, _, _ = _core.solve_kkt_batch(
        np.eye(3)[None], d, j, sigma, rx, rc, rs, np.zeros(1), np.full(1, 1e-10), 0.1, 1
    )
    assert t[0] == 0
    np.testing.assert_allclose(dx[0].sum(), -1.0, atol=1e-7)
    assert np.abs(dlam).max() < 10


# ------------------------------------------------------------------------------------------------- problems


def near(case: Case, count: int, seed: int = 0) -> np.ndarray:
    """Starts around the usual one, by a tenth."""
    rng = np.random.default_rng(seed)
    return case.x0 + 0.1 * np.maximum(np.abs(case.x0), 0.1) * rng.standard_normal((count, case.n))


def solve(case: Case, X0: np.ndarray, **options: Any) -> BatchResult:
    given: dict[str, Any] = {"jac": case.grad, "hess": case.hess_lagrangian}
    if case.m:
        given |= {"cons": case.cons, "cons_jac": case.jac, "lower": case.lower, "upper": case.upper}
    if case.bounded:
        given["bounds"] = case.bounds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return sketched_newton_batch(case.fun, X0, **(given | options))


def check_certificates(case: Case, r: BatchResult, tol: float = 1e-6) -> None:
    """Success is exactly what the recomputed certificate says."""
    g, c, j = case.grad(r.x), case.cons(r.x), case.jac(r.x)
    for k in range(len(r.x)):
        kkt, violation = oracle.certificate(
            g[k], c[k], j[k], r.x[k], r.lam[k], r.z_lo[k], r.z_up[k], case.lower, case.upper, case.xl, case.xu
        )
        assert r.kkt[k] == pytest.approx(kkt, rel=1e-6, abs=1e-12)
        assert r.constr_violation[k] == pytest.approx(violation, rel=1e-9, abs=1e-14)
        if r.success[k]:
            assert kkt <= tol * (1 + 1e-6)
            assert violation <= tol
            assert (r.z_lo[k] >= 0).all()
            assert (r.z_up[k] >= 0).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # trial points where a formula overflows
@pytest.mark.parametrize("name", FAMOUS)
@pytest.mark.parametrize("how", ["auto", "merit", "filter", "differences"])
def test_famous_problems_from_perturbed_starts(name: str, how: str) -> None:
    case = CASES[name]
    options: dict[str, Any] = {"hess": None} if how == "differences" else {"globalization": how}
    r = solve(case, near(case, 50), **options)
    least = {"auto": 0.98, "differences": 0.98, "merit": 0.9, "filter": 0.9}[how]
    assert r.success.mean() >= least
    check_certificates(case, r)
    assert np.mean([case.optimal(float(f), 1e-4) for f in r.fun[r.success]]) >= (
        0.4 if name == "HS61" else 0.95
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_problems_from_their_own_starts() -> None:
    for case in CASES.values():
        r = solve(case, case.x0[None])
        check_certificates(case, r)
        assert r.success[0] == (case.name != "HS13"), f"{case.name}: {r.message}, kkt {r.kkt[0]}"


def test_no_multipliers_exist_and_no_success_is_claimed() -> None:
    case = CASES["HS13"]
    r = solve(case, near(case, 5))
    assert not r.success.any()
    check_certificates(case, r)


def test_gradients_by_differences() -> None:
    case = CASES["HS71"]
    r = solve(case, near(case, 20), jac=None, hess=None, cons_jac=None)
    assert r.success.all()
    np.testing.assert_allclose(r.fun, case.f_opt, rtol=1e-5)


def test_contradictory_rows_are_locally_infeasible() -> None:
    r = solve_quadratic(np.ones((4, 2)), cons=lambda X: X[:, :1] ** 2 + 1, cons_jac=lambda X: slope(X))
    assert not r.success.any()
    assert (r.status == 7).all()
    assert (r.constr_violation >= 1 - 1e-9).all()


def slope(X: np.ndarray) -> np.ndarray:
    j = np.zeros((len(X), 1, 2))
    j[:, 0, 0] = 2 * X[:, 0]
    return j


def solve_quadratic(X0: np.ndarray, **options: Any) -> BatchResult:
    """min |x - 1|^2 / 2."""
    given: dict[str, Any] = {"jac": lambda X: X - 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return sketched_newton_batch(lambda X: 0.5 * ((X - 1) ** 2).sum(axis=1), X0, **(given | options))


def test_unbounded_problems_say_so() -> None:
    with pytest.warns(ConvergenceWarning, match="3 diverged"):
        r = sketched_newton_batch(
            lambda X: -(X**3).sum(axis=1),
            np.ones((3, 2)),
            jac=lambda X: -3 * X**2,
            hess=lambda X, V: -6 * X[:, :, None] * np.eye(2),
        )
    assert not r.success.any()


def test_bounds_fixed_variables_and_free_rows() -> None:
    X0 = np.tile([0.0, 5.0, 2.0], (6, 1))
    lb, ub = np.array([2.0, -np.inf, 0.5]), np.array([np.inf, -3.0, 0.5])
    r = solve_quadratic(
        X0,
        hess=lambda X, V: np.broadcast_to(np.eye(3), (len(X), 3, 3)),
        bounds=Bounds(lb, ub),
        cons=lambda X: X[:, :2] * 1.0,
        cons_jac=lambda X: np.broadcast_to(np.eye(3)[:2], (len(X), 2, 3)),
        lower=[-np.inf, -np.inf],
        upper=[np.inf, 100.0],
    )
    assert r.success.all()
    np.testing.assert_allclose(r.x, np.tile([2.0, -3.0, 0.5], (6, 1)), atol=1e-5)
    np.testing.assert_allclose(r.z_lo[:, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(r.z_up[:, 1], 4.0, atol=1e-5)
    np.testing.assert_allclose(r.z_up[:, 2], 0.5, atol=1e-6)
    np.testing.assert_allclose(r.lam, 0.0, atol=1e-5)
    assert (r.x[:, 0] >= 2).all()


def test_limits_and_bounds_of_each_problem() -> None:
    top = np.array([[0.2], [0.5], [3.0]])
    r = solve_quadratic(
        np.zeros((3, 2)),
        cons=lambda X: X.sum(axis=1, keepdims=True),
        cons_jac=lambda X: np.ones((len(X), 1, 2)),
        lower=np.full((3, 1), -np.inf),
        upper=top,
        bounds=(np.zeros((3, 2)), np.full((3, 2), 0.9)),
    )
    assert r.success.all()
    np.testing.assert_allclose(r.x, np.minimum(top / 2, 0.9) * np.ones((1, 2)), atol=1e-5)


def test_multipliers_as_a_start() -> None:
    case = CASES["HS78"]
    first = solve(case, near(case, 10))
    again = solve(case, first.x, lam0=first.lam)
    assert again.success.all()
    assert (again.nit == 0).all()
    assert (again.nfev == 1).all()


# ---------------------------------------------------------------------------------- isolation, bits, calls


def hs71_like(b: int) -> tuple[Any, np.ndarray, dict[str, Any]]:
    rng = np.random.default_rng(1)
    case = CASES["HS71"]
    P = rng.uniform(20, 28, b)
    first = np.array([1.0, 0.0])
    options = {
        "jac": lambda X, P: case.grad(X),
        "hess": lambda X, V, P: case.hess_lagrangian(X, V),
        "cons": lambda X, P: case.cons(X) - (P[:, None] - 25) * first,
        "cons_jac": lambda X, P: case.jac(X),
        "lower": case.lower,
        "upper": case.upper,
        "bounds": case.bounds,
        "params": P,
    }
    return (lambda X, P: case.fun(X)), near(case, b), options


FIELDS = ("x", "fun", "lam", "z_lo", "z_up", "kkt", "constr_violation", "status", "nit", "nfev", "nhev")


def test_a_problem_has_the_bits_it_would_have_alone() -> None:
    fun, X0, options = hs71_like(40)
    whole = sketched_newton_batch(fun, X0, **options)
    assert whole.success.all()
    for k in (0, 7, 39):
        alone = sketched_newton_batch(
            fun, X0[k : k + 1], **(options | {"params": options["params"][k : k + 1]})
        )
        for name in FIELDS:
            np.testing.assert_array_equal(alone[name][0], whole[name][k], err_msg=name)


def test_bits_do_not_depend_on_threads() -> None:
    fun, X0, options = hs71_like(1200)
    one, three = (sketched_newton_batch(fun, X0, n_threads=t, **options) for t in (1, 3))
    for name in FIELDS:
        np.testing.assert_array_equal(one[name], three[name], err_msg=name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from the callables
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_alone(bad: float) -> None:
    fun, X0, options = hs71_like(30)
    clean = sketched_newton_batch(fun, X0, **options)
    P = options["params"].copy()
    P[11] = bad
    X1 = X0.copy()
    X1[4, 2] = bad
    with pytest.warns(ConvergenceWarning, match="28 of 30 problems converged; 2 nonfinite"):
        r = sketched_newton_batch(fun, X1, **(options | {"params": P}))
    good = np.delete(np.arange(30), [4, 11])
    assert (r.status[[4, 11]] == 4).all()
    assert r.success[good].all()
    for name in FIELDS:
        np.testing.assert_array_equal(r[name][good], clean[name][good], err_msg=name)


def test_callables_see_the_active_problems_alone() -> None:
    b, seen = 50, []
    P, Q = np.arange(b) / 10.0, np.arange(2.0 * b).reshape(b, 2)

    def fun(X: np.ndarray, P: np.ndarray, Q: np.ndarray, scale: float, *, index: np.ndarray) -> np.ndarray:
        assert scale == 2.0
        np.testing.assert_array_equal(P, index / 10.0)
        np.testing.assert_array_equal(Q[:, 0], 2.0 * index)
        seen.append(len(X))
        X += 0.0  # a copy of ours
        value: np.ndarray = ((X[:, 0] ** 2 + P - 5) ** 2) * scale
        X[:] = np.nan
        return value

    def jac(X: np.ndarray, P: np.ndarray, Q: np.ndarray, scale: float, *, index: np.ndarray) -> np.ndarray:
        return scale * 4 * X * (X**2 + P[:, None] - 5)

    r = sketched_newton_batch(fun, np.full((b, 1), 3.0), jac=jac, params=(P, Q), args=(2.0,), index=True)
    assert r.success.all()
    np.testing.assert_allclose(r.x[:, 0], np.sqrt(5 - P), atol=1e-3)
    assert seen[0] == b
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < b
    assert sum(seen) == r.nfev.sum()


def test_callback_sees_progress_and_stops() -> None:
    fun, X0, options = hs71_like(20)
    rounds = []

    def watch(intermediate_result: Any) -> None:
        rounds.append(intermediate_result.n_active)
        assert intermediate_result.x.shape == X0.shape
        if len(rounds) == 3:
            raise StopIteration

    r = sketched_newton_batch(fun, X0, callback=watch, **options)
    assert len(rounds) == 3
    assert (r.status == 5).all()
    assert not r.success.any()
    assert np.isfinite(r.kkt).all()


def test_iteration_limit_is_said() -> None:
    fun, X0, options = hs71_like(10)
    with pytest.warns(ConvergenceWarning, match="0 of 10 problems converged; 10 max iterations"):
        r = sketched_newton_batch(fun, X0, maxiter=2, **options)
    assert (r.status == 1).all()
    assert (r.nit == 2).all()


def test_starts_stay_and_nothing_to_do_is_done() -> None:
    fun, X0, options = hs71_like(5)
    kept = X0.copy()
    sketched_newton_batch(fun, X0, **options)
    np.testing.assert_array_equal(X0, kept)
    r = sketched_newton_batch(lambda X: X.sum(axis=1), np.zeros((0, 3)), jac=lambda X: np.ones_like(X))
    assert r.x.shape == (0, 3)
    assert r.success.shape == (0,)


def test_exceptions_of_callables_pass_through() -> None:
    def fun(X: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        sketched_newton_batch(fun, np.ones((2, 2)))


# ---------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"fun": 3}, TypeError, "`fun` must be callable, not 3"),
        ({"hess": "bfgs"}, TypeError, "`hess` must be callable"),
        ({"X0": np.ones(3)}, ValueError, r"`X0` has shape \(3,\); 2-D"),
        ({"X0": np.ones((2, 2)) * 1j}, TypeError, "`X0` is complex"),
        ({"X0": np.ones((2, 0))}, ValueError, "there must be a variable"),
        ({"X0": np.ones((2, 200))}, ValueError, "200 variables and `cons` 0 rows; at most 128"),
        ({"jac": lambda X: X[:, 0]}, ValueError, r"`jac\(X\)` has shape \(2,\); \(2, 2\) is needed"),
        ({"fun": lambda X: 1.0}, ValueError, r"`fun\(X\)` has shape \(\); \(2,\)"),
        ({"hess": lambda X, V: np.eye(2)}, ValueError, r"`hess\(X\)` has shape \(2, 2\); \(2, 2, 2\)"),
        ({"cons": lambda X: X[:, 0]}, ValueError, r"`cons\(X\)` has shape \(1,\); 2-D"),
        ({"cons_jac": lambda X: X}, ValueError, "`cons_jac` is given but `cons` is None"),
        (
            {"cons": lambda X: X, "lower": 2.0, "upper": 1.0},
            ValueError,
            "`lower` is 2.0 and `upper` 1.0 at index 0",
        ),
        ({"cons": lambda X: X, "lower": np.zeros(3)}, ValueError, r"`lower` has shape \(3,\); \(2,\)"),
        ({"cons": lambda X: X, "upper": np.nan}, ValueError, "`upper` has a NaN"),
        ({"bounds": [(0, 1)]}, ValueError, "`bounds` has 1 pairs; there are 2 variables"),
        ({"bounds": [(0, 1), (3, 2)]}, ValueError, "`bounds lower` is 3.0 and `bounds upper` 2.0 at index 1"),
        ({"bounds": 7}, TypeError, "`bounds` must be a Bounds"),
        (
            {"params": np.ones(3)},
            ValueError,
            r"`params\[0\]` has shape \(3,\); its first axis must have length 2",
        ),
        ({"lam0": np.ones((2, 3))}, ValueError, r"`lam0` has shape \(2, 3\)"),
        ({"tol": -1.0}, ValueError, "`tol` must be finite, > 0; got -1.0"),
        ({"maxiter": 2.5}, TypeError, "`maxiter` must be an integer"),
        ({"nu": 1.0}, ValueError, "`nu` must be finite, > 1"),
        ({"globalization": "merits"}, ValueError, "did you mean 'merit'"),
        ({"index": 1}, TypeError, "`index` must be True or False"),
        ({"callback": 1}, TypeError, "`callback` must be callable"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], error: type, match: str) -> None:
    given: dict[str, Any] = {
        "fun": lambda X: (X**2).sum(axis=1),
        "X0": np.ones((2, 2)),
        "jac": lambda X: 2 * X,
    }
    given |= change
    with pytest.raises(error, match=match):
        sketched_newton_batch(given.pop("fun"), given.pop("X0"), **given)
