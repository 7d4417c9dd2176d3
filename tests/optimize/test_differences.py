"""Differences against closed forms: accuracy, bounds, groups of columns and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from aitken.optimize import _differences
from aitken.optimize._differences import Grouping, directional, group_columns, jacobian, steps

ERROR = {"2-point": 2e-6, "3-point": 1e-8, "cs": 1e-12}


class Smooth:
    """A map from n to m numbers with its Jacobian; it keeps the points it was called at."""

    def __init__(self, n, m, seed=0):
        self.B = np.random.default_rng(seed).standard_normal((m, n))
        self.points = []

    def __call__(self, x):
        self.points.append(x.copy())
        return np.sin(self.B @ x) + self.B @ (x * x)

    def jacobian(self, x):
        return np.cos(self.B @ x)[:, None] * self.B + 2.0 * self.B * x


def banded(n, width=1):
    """A tridiagonal (or wider) map: row i sees columns i - width to i + width."""
    A = sp.csr_array(
        sp.diags_array(np.ones((2 * width + 1, n)), offsets=range(-width, width + 1), shape=(n, n))
    )
    weights = sp.csr_array((1.0 + np.arange(A.nnz) % 7, A.indices, A.indptr), shape=A.shape)
    return weights, (lambda x: weights @ np.exp(x)), (lambda x: weights.toarray() * np.exp(x))


@pytest.mark.parametrize("scheme", _differences.SCHEMES)
def test_dense_jacobian(scheme):
    f = Smooth(5, 3)
    x = np.array([0.3, -1.2, 0.0, 5.0, -0.7])
    J = jacobian(f, x, lambda: f(x), scheme)
    assert J.shape == (3, 5)
    np.testing.assert_allclose(J, f.jacobian(x), atol=ERROR[scheme], rtol=ERROR[scheme])


@pytest.mark.parametrize(("scheme", "calls"), [("2-point", 6), ("3-point", 10), ("cs", 5)])
def test_cost_of_dense_differences(scheme, calls):
    f = Smooth(5, 3)
    x = np.linspace(-1, 1, 5)
    jacobian(f, x, lambda: f(x), scheme)
    assert len(f.points) == calls


@pytest.mark.parametrize(("scheme", "calls"), [("2-point", 4), ("3-point", 6), ("cs", 3)])
def test_groups_cost_three_calls_for_a_tridiagonal_jacobian(scheme, calls):
    pattern, function, exact = banded(40)
    count = [0]

    def counted(x):
        count[0] += 1
        return function(x)

    x = np.linspace(-1, 1, 40)
    grouping = Grouping(pattern)
    assert grouping.n_groups == 3
    J = jacobian(counted, x, lambda: counted(x), scheme, grouping=grouping)
    assert count[0] == calls
    assert sp.issparse(J)
    np.testing.assert_allclose(J.toarray(), exact(x), atol=10 * ERROR[scheme], rtol=10 * ERROR[scheme])


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
def test_grouped_differences_at_bounds_mix_one_and_two_sided_columns(scheme):
    pattern, function, exact = banded(12)
    x = np.linspace(-1, 1, 12)
    lower, upper = np.full(12, -np.inf), np.full(12, np.inf)
    lower[::3], upper[1::3] = x[::3], x[1::3]
    seen = []

    def watched(z):
        seen.append(z.copy())
        return function(z)

    J = jacobian(
        watched, x, lambda: function(x), scheme, lower=lower, upper=upper, grouping=Grouping(pattern)
    )
    assert all((z >= lower).all() and (z <= upper).all() for z in seen)
    np.testing.assert_allclose(J.toarray(), exact(x), rtol=1e-6 if scheme == "2-point" else 1e-8, atol=1e-6)


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
@pytest.mark.parametrize("side", ["at lower", "at upper", "narrow", "very narrow", "near lower"])
def test_points_stay_inside_the_bounds(scheme, side):
    f = Smooth(4, 2)
    x = np.array([1.0, -2.0, 0.5, 3.0])
    width = {"narrow": 1e-7, "very narrow": 1e-12, "near lower": 1e-9}.get(side, 0.0)
    lower, upper = np.full(4, -np.inf), np.full(4, np.inf)
    if side != "at upper":
        lower = x - width
    if side != "at lower" and side != "near lower":
        upper = x + width
    J = jacobian(f, x, lambda: f(x), scheme, lower=lower, upper=upper)
    for point in f.points:
        assert (point >= lower).all()
        assert (point <= upper).all()
    # A step as short as 1e-12 leaves three digits; that they are digits of the derivative is the point.
    error = {"narrow": 1e-6, "very narrow": 2e-2}.get(side, 3e-6 if scheme == "2-point" else 1e-8)
    np.testing.assert_allclose(J, f.jacobian(x), rtol=error, atol=error)


def test_bounds_do_not_matter_where_x_is_outside():
    h, one_sided = steps(np.array([5.0]), "3-point", None, np.array([0.0]), np.array([1.0]))
    assert abs(h[0]) > 1e-6
    assert not one_sided[0]


def test_relative_step_and_its_fallback():
    x = np.array([4.0, 0.0, -2.0])
    h, _ = steps(x, "2-point", 1e-3)
    np.testing.assert_allclose(h, [4e-3, np.sqrt(np.finfo(float).eps), -2e-3], rtol=1e-9)
    h, _ = steps(x, "2-point", np.array([1e-3, 1e-3, 1e-4]))
    assert h[2] == pytest.approx(-2e-4)


def test_steps_are_exact_in_floating_point():
    x = np.array([1e8 / 3, -1 / 7, 1e-12])
    h, _ = steps(x, "2-point")
    assert ((x + h) - x == h).all()


def test_non_finite_values_are_passed_on():
    J = jacobian(
        lambda x: np.array([np.inf, x[0], np.nan]),
        np.ones(2),
        lambda: np.array([np.inf, 1.0, np.nan]),
        "2-point",
    )
    assert np.isnan(J[0]).all()
    assert np.isnan(J[2]).all()
    np.testing.assert_allclose(J[1], [1.0, 0.0], atol=1e-7)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.floats(0.0, 0.6))
def test_columns_of_a_group_share_no_row(seed, m, n, density):
    A = sp.random_array((m, n), density=density, rng=np.random.default_rng(seed), format="csr")
    group = group_columns(A)
    dense = A.toarray() != 0
    for k in range(group.max(initial=-1) + 1):
        members = group == k
        assert members.any()
        assert (dense[:, members].sum(axis=1) <= 1).all()
    np.testing.assert_array_equal(group == -1, ~dense.any(axis=0))


def test_a_dense_row_needs_a_group_for_every_column():
    A = sp.csr_array(np.vstack([np.ones(70), np.eye(70)]))
    assert Grouping(A).n_groups == 70


def test_an_arrow_needs_two_groups_by_columns():
    A = np.eye(30)
    A[:, 0] = 1.0
    assert Grouping(sp.csr_array(A)).n_groups == 2


@pytest.mark.parametrize("scheme", _differences.SCHEMES)
def test_directional_derivative(scheme):
    f = Smooth(6, 4)
    x, p = np.linspace(-1, 2, 6), np.random.default_rng(1).standard_normal(6) * 1e5
    d = directional(f, x, p, lambda: f(x), scheme)
    np.testing.assert_allclose(d, f.jacobian(x) @ p, rtol=1e-5, atol=ERROR[scheme] * 1e6)


def test_directional_derivative_of_nothing():
    f = Smooth(3, 2)
    assert (directional(f, np.ones(3), np.zeros(3), lambda: f(np.ones(3)), "3-point") == 0.0).all()


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
def test_directional_derivative_turns_round_at_a_bound(scheme):
    f = Smooth(3, 2)
    x = np.array([1.0, 0.2, -0.4])
    lower, upper = np.full(3, -np.inf), np.array([1.0, np.inf, np.inf])
    p = np.array([2.0, 1.0, -1.0])
    d = directional(f, x, p, lambda: f(x), scheme, lower=lower, upper=upper)
    assert all((z <= upper).all() for z in f.points)
    np.testing.assert_allclose(d, f.jacobian(x) @ p, rtol=1e-4)


def test_directional_derivative_between_two_bounds_prefers_digits():
    """No step fits either way: the bounds are left by 1e-8 rather than a derivative of rounding errors."""
    f = Smooth(2, 2)
    x = np.array([0.0, 1.0])
    p = np.array([1.0, 1.0])
    lower, upper = np.array([0.0, -np.inf]), np.array([np.inf, 1.0])
    d = directional(f, x, p, lambda: f(x), "2-point", lower=lower, upper=upper)
    np.testing.assert_allclose(d, f.jacobian(x) @ p, rtol=1e-5)
