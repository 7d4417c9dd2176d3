"""The normalised problem: derivatives from every source, kinds, scales, counts, and the way back."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import BFGS, SR1, Bounds, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from aitken.optimize import _problem
from aitken.optimize._problem import PatternUnion, Problem
from aitken.optimize._quasi_newton import LowRank

X = np.array([0.7, -0.4, 1.3, 0.2])
N = 4
A = np.array([[1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 3.0, 0.0]])
MIX = np.zeros((N, N))
MIX[0, 1] = MIX[1, 0] = 1.0
CROSS = np.zeros((N, N))
CROSS[0, 2] = CROSS[2, 0] = 1.0


def f(x):
    return np.sum(x**4) + x[0] * x[1]


def g(x):
    return 4 * x**3 + MIX @ x


def H(x):
    return np.diag(12 * x**2) + MIX


def c(x):
    return np.array([x @ x + x[3] ** 3, x[0] * x[2]])


def J(x):
    return np.array([2 * x + [0, 0, 0, 3 * x[3] ** 2], [x[2], 0 * x[0], x[0], 0 * x[0]]])


def Hc(x, v):
    return v[0] * (2 * np.eye(N) + np.diag([0, 0, 0, 6 * x[3]])) + v[1] * CROSS


LAM = np.array([1.5, -2.0])


def exact(x=X, lam=LAM, sigma=1.0):
    return sigma * H(x) + Hc(x, lam)


def nonlinear(lower=0.0, upper=0.0, jac=J, hess=Hc):
    return NonlinearConstraint(c, lower, upper, jac=jac, hess=hess)


def build(fun=f, x0=X, jac=g, hess=H, constraints=None, **rest):
    constraints = nonlinear() if constraints is None else constraints
    return Problem.from_arguments(
        fun,
        x0,
        rest.pop("args", ()),
        jac,
        hess,
        rest.pop("hessp", None),
        constraints,
        rest.pop("bounds", None),
        **rest,
    )


def evaluate(**arguments):
    """All that a solver asks for at one point."""
    P = build(**arguments)
    P.values(X)
    P.derivatives(X)
    P.hessian(X, LAM)


def dense(matrix):
    if isinstance(matrix, LinearOperator):
        return np.asarray(matrix @ np.eye(matrix.shape[1]))
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix


# --- values and first derivatives ----------------------------------------------------------------------


def test_everything_exact_and_dense():
    P = build(
        constraints=[
            LinearConstraint(A, -1, 2),
            nonlinear(),
            {"type": "ineq", "fun": lambda x: x[0], "jac": lambda x: [1, 0, 0, 0]},
        ]
    )
    assert (P.n, P.m, P.n_equalities) == (4, 5, 2)
    assert (P.kind, P.jacobian_kind, P.hessian_kind) == ("dense",) * 3
    np.testing.assert_array_equal(P.equality, [False, False, True, True, False])
    np.testing.assert_array_equal(P.lower, [-1, -1, 0, 0, 0])
    np.testing.assert_array_equal(P.upper, [2, 2, 0, 0, np.inf])
    value, rows = P.values(X)
    assert value == f(X)
    np.testing.assert_allclose(rows, np.concatenate([A @ X, c(X), X[:1]]))
    gradient, jac = P.derivatives(X)
    np.testing.assert_array_equal(gradient, g(X))
    np.testing.assert_array_equal(jac, np.vstack([A, J(X), [1, 0, 0, 0]]))
    assert jac.flags.c_contiguous
    assert jac.dtype == np.float64


@pytest.mark.parametrize(
    ("scheme", "error"), [(None, 1e-6), ("2-point", 1e-6), ("3-point", 1e-8), ("cs", 1e-12)]
)
def test_gradient_by_differences(scheme, error):
    P = build(jac=scheme, hess=None)
    np.testing.assert_allclose(P.gradient(X), g(X), rtol=error, atol=error)
    assert P.nfev == {None: 5, "2-point": 5, "3-point": 8, "cs": 4}[scheme]
    assert P.ngev == 1


def test_relative_step_of_the_objective():
    seen = []

    def watched(x):
        seen.append(x.copy())
        return f(x)

    build(fun=watched, jac=None, hess=None, finite_diff_rel_step=[1e-3, 1e-2, 1e-3, 1e-3]).gradient(X)
    assert seen[2][1] - X[1] == pytest.approx(-4e-3)


def test_gradient_with_the_value():
    P = build(fun=lambda x: (f(x), g(x)), jac=True)
    assert P.values(X)[0] == f(X)
    np.testing.assert_array_equal(P.gradient(X), g(X))
    assert (P.nfev, P.ngev) == (1, 1)


def test_args_go_to_the_objective_alone():
    calls = []
    P = Problem.from_arguments(
        lambda x, a, b: a * f(x) + b,
        X,
        (2.0, 3.0),
        lambda x, a, b: a * g(x),
        lambda x, a, b: calls.append((a, b)) or a * H(x),
        None,
        nonlinear(),
    )
    assert P.values(X)[0] == 2 * f(X) + 3
    np.testing.assert_allclose(P.hessian(X, LAM), exact(sigma=2.0))
    assert calls == [(2.0, 3.0)]
    assert Problem.from_arguments(lambda x, a: a, X, 4.0).values(X)[0] == 4.0


def test_a_value_may_be_an_array_of_one():
    assert build(fun=lambda x: np.array([[f(x)]])).values(X)[0] == f(X)


@pytest.mark.parametrize("x0", [[1, 2, 3, 4], np.float32(X), np.arange(4), X[::-1][::-1], X.astype(">f8")])
def test_forms_of_x0(x0):
    P = build(x0=x0)
    assert P.x0.dtype == np.float64
    assert P.x0.dtype.isnative
    np.testing.assert_array_equal(P.x0, np.asarray(x0, dtype=float))


def test_a_number_is_a_vector_of_one():
    P = Problem.from_arguments(lambda x: x[0] ** 2, 3.0, jac=lambda x: 2 * x[0])
    np.testing.assert_array_equal(P.gradient(P.x0), [6.0])


def test_non_finite_numbers_are_passed_on():
    P = build(
        fun=lambda x: np.nan,
        jac=lambda x: np.full(4, np.inf),
        constraints={"type": "eq", "fun": lambda x: -np.inf},
    )
    assert np.isnan(P.values(X)[0])
    assert P.values(X)[1][0] == -np.inf
    assert (P.gradient(X) == np.inf).all()


# --- second derivatives --------------------------------------------------------------------------------

HESSIANS = {
    "dense": (H, None, "exact", 1e-12),
    "sparse": (lambda x: sp.csc_array(H(x)), None, "exact", 1e-12),
    "operator": (lambda x: aslinearoperator(H(x)), None, "exact", 1e-12),
    "products": (None, lambda x, p: H(x) @ p, "exact", 1e-12),
    "2-point": ("2-point", None, "differences", 1e-6),
    "3-point": ("3-point", None, "differences", 1e-8),
    "cs": ("cs", None, "differences", 1e-12),
}
CURVATURES = {
    "dense": (Hc, 1e-12),
    "sparse": (lambda x, v: sp.coo_array(Hc(x, v)), 1e-12),
    "operator": (lambda x, v: aslinearoperator(Hc(x, v)), 1e-12),
    "2-point": ("2-point", 1e-6),
    "3-point": ("3-point", 1e-8),
    "cs": ("cs", 1e-12),
}


@pytest.mark.parametrize(("of_f", "of_c"), list(itertools.product(HESSIANS, CURVATURES)))
@pytest.mark.parametrize("jac", [J, lambda x: sp.csr_array(J(x))], ids=["dense", "sparse"])
def test_hessian_from_every_source(of_f, of_c, jac):
    hess, hessp, kind, error = HESSIANS[of_f]
    curvature, error_c = CURVATURES[of_c]
    P = build(hess=hess, hessp=hessp, constraints=nonlinear(jac=jac, hess=curvature))
    got = P.hessian(X, LAM, 2.0)
    np.testing.assert_allclose(
        dense(got), exact(sigma=2.0), rtol=max(error, error_c), atol=3 * max(error, error_c)
    )
    assert P.hess_kind == ("differences" if isinstance(curvature, str) else kind)
    if "operator" in (of_f, of_c):
        assert P.kind == "operator"
        assert isinstance(got, LinearOperator)
        np.testing.assert_allclose(got.T @ X, got @ X)
    elif "sparse" in (of_f, of_c) or sp.issparse(jac(X)):
        assert P.kind == "sparse"
        assert sp.issparse(got)
        assert sp.issparse(P.jacobian(X))
        assert abs(got - got.T).max() == 0.0
    else:
        assert P.kind == "dense"
        np.testing.assert_array_equal(got, got.T)


def test_hessian_of_constraints_alone():
    """sigma = 0 is what a feasibility phase asks for."""
    np.testing.assert_allclose(build().hessian(X, LAM, 0.0), Hc(X, LAM))
    P = build(hess="2-point", constraints=nonlinear(hess="3-point"))
    np.testing.assert_allclose(P.hessian(X, LAM, 0.0), Hc(X, LAM), atol=1e-8)
    assert P.ngev == 0


def test_hessp_stays_a_product_where_asked_or_large():
    P = build(hess=None, hessp=lambda x, p: H(x) @ p, form_products=False)
    assert (P.hess_kind, P.kind, P.jacobian_kind) == ("products", "operator", "dense")
    np.testing.assert_allclose(P.hessian(X, LAM) @ X, exact() @ X)
    assert P.nhev == 1 + 1  # one product, and one probe of the constraint's Hessian that is the larger count
    n = _problem._PRODUCTS_UP_TO + 1
    big = Problem.from_arguments(lambda x: x @ x / 2, np.ones(n), jac=lambda x: x, hessp=lambda x, p: p)
    assert big.hess_kind == "products"


def test_products_with_differences_of_constraints():
    P = build(
        hess=None, hessp=lambda x, p: H(x) @ p, form_products=False, constraints=nonlinear(hess="2-point")
    )
    assert P.hess_kind == "products"
    np.testing.assert_allclose(P.hessian(X, LAM) @ X, exact() @ X, rtol=1e-6)


def test_large_problems_take_differences_along_directions():
    n = _problem._COLUMNS_UP_TO + 1
    P = Problem.from_arguments(lambda x: np.sum(x**4), np.ones(n), jac=lambda x: 4 * x**3, hess="3-point")
    assert (P.hess_kind, P.hessian_kind) == ("products", "operator")
    before = P.ngev
    np.testing.assert_allclose(P.hessian(P.x0, np.empty(0)) @ np.ones(n), np.full(n, 12.0), rtol=1e-6)
    assert P.ngev - before == 2


def test_hessian_of_the_whole_lagrangian():
    seen = []

    def whole(x, v):
        seen.append(v.copy())
        return H(x) + Hc(x, v[2:4])

    P = build(
        hess=None, lagrangian_hess=whole, constraints=[LinearConstraint(A, [0, -np.inf], np.inf), nonlinear()]
    )
    assert (P.m, P.hess_kind) == (3, "exact")
    lam = np.array([0.5, 1.5, -2.0])
    np.testing.assert_allclose(P.hessian(X, lam, 2.0), exact(sigma=2.0))
    np.testing.assert_allclose(seen[-1], np.array([0.5, 0.0, 1.5, -2.0]) / 2)
    np.testing.assert_allclose(P.hessian(X, lam, 0.0), Hc(X, LAM))


def test_differences_of_a_hessian_stay_inside_the_bounds():
    def guarded(x):
        assert (x >= 0.5).all()
        return g(x)

    x = np.array([0.5, 0.5 + 1e-12, 1.0, 2.0])
    P = build(x0=x, jac=guarded, hess="2-point", bounds=Bounds(0.5, np.inf), constraints=())
    np.testing.assert_allclose(P.hessian(x, np.empty(0)), H(x), rtol=1e-6, atol=1e-6)


def test_coloured_hessian_of_constraints_costs_three_jacobians():
    """c_i = x_i x_(i+1): each row's clique is two columns, so the Hessian is tridiagonal."""
    n = 300
    counts = [0]

    def jac(x):
        counts[0] += 1
        return sp.csr_array(sp.diags_array([x[1:], x[:-1]], offsets=[0, 1], shape=(n - 1, n)))

    given = NonlinearConstraint(lambda x: x[:-1] * x[1:], 0, 0, jac=jac)
    P = Problem.from_arguments(
        lambda x: x @ x / 2, np.ones(n), jac=lambda x: x, hess=lambda x: sp.eye_array(n), constraints=given
    )
    assert (P.kind, P.hess_kind) == ("sparse", "differences")
    lam = np.linspace(1, 2, n - 1)
    P.jacobian(P.x0)
    before = counts[0]
    got = P.hessian(P.x0, lam)
    assert counts[0] - before == 3
    expected = sp.eye_array(n) + sp.diags_array([lam, lam], offsets=[-1, 1], shape=(n, n))
    assert abs(got - expected).max() < 1e-7
    version = P.pattern_version
    P.hessian(2 * P.x0, lam)
    assert P.pattern_version == version


def test_sparsity_of_the_objective():
    n = 500
    band = sp.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
    P = Problem.from_arguments(
        lambda x: np.sum(x[:-1] ** 2 * x[1:] ** 2),
        np.ones(n),
        jac=lambda x: np.r_[2 * x[:-1] * x[1:] ** 2, 0] + np.r_[0, 2 * x[:-1] ** 2 * x[1:]],
        hess_sparsity=band,
    )
    assert (P.kind, P.hess_kind) == ("sparse", "differences")
    got = P.hessian(P.x0, np.empty(0))
    assert P.ngev == 1 + 3
    expected = sp.diags_array(
        [np.full(n - 1, 4.0), np.r_[2.0, np.full(n - 2, 4.0), 2.0], np.full(n - 1, 4.0)], offsets=[-1, 0, 1]
    )
    assert abs(got - expected).max() < 1e-6


# --- quasi-Newton --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hess", "kind", "hessian_kind"),
    [
        ("bfgs", "bfgs", "dense"),
        ("lbfgs", "lbfgs", "lowrank"),
        (SR1(), "bfgs", "dense"),
        (BFGS(), "bfgs", "dense"),
    ],
)
def test_quasi_newton_on_the_lagrangian(hess, kind, hessian_kind):
    P = build(hess=hess)
    assert (P.hess_kind, P.hessian_kind, P.kind) == (kind, hessian_kind, "dense")
    s = np.array([0.1, -0.2, 0.05, 0.3])
    y = g(X + s) + J(X + s).T @ LAM - g(X) - J(X).T @ LAM
    P.update(s, y)
    B = P.hessian(X, LAM)
    assert isinstance(B, LowRank) == (kind == "lbfgs")
    np.testing.assert_allclose(dense(B) @ s, y, rtol=1e-8)
    assert P.nhev == 0
    P.set_scaling(0.5, np.ones(2))
    assert abs(dense(P.hessian(X, LAM)) @ s - y).max() > 1e-3  # pairs of the old scale are gone


def test_update_is_ignored_by_exact_hessians():
    P = build()
    P.update(np.ones(4), np.ones(4))
    np.testing.assert_allclose(P.hessian(X, LAM), exact())


@pytest.mark.parametrize(
    "arguments",
    [
        {"jac": g, "hess": None},
        {"jac": None, "hess": None},
        {"jac": "3-point", "hess": None},
        {"jac": g, "hess": None, "constraints": NonlinearConstraint(c, 0, 0)},
        {"jac": "cs", "hess": None, "constraints": {"type": "eq", "fun": c}},
    ],
)
def test_bfgs_is_the_default_and_stands_in_for_missing_gradients(arguments):
    assert build(**arguments).hess_kind == "bfgs"


def test_complex_step_gradients_are_exact_enough_for_differences():
    P = build(jac="cs", hess="3-point", constraints=NonlinearConstraint(c, 0, 0, jac="cs"))
    assert P.hess_kind == "differences"
    np.testing.assert_allclose(P.hessian(X, LAM), exact(), atol=1e-6)


def quadratic(n, **rest):
    return Problem.from_arguments(lambda x: x @ x / 2, np.ones(n), jac=lambda x: x, **rest)


def test_default_by_size():
    assert quadratic(1).hess_kind == "bfgs"
    assert quadratic(_problem._BFGS_UP_TO).hess_kind == "bfgs"
    assert quadratic(_problem._BFGS_UP_TO + 1).hess_kind == "lbfgs"


def lagrangian_change(x, s):
    return g(x + s) - g(x) + (J(x + s) - J(x)).T @ LAM


@pytest.mark.parametrize(
    "given",
    [
        NonlinearConstraint(c, 0, 0, jac=J),
        NonlinearConstraint(c, 0, 0, jac=J, hess=SR1()),
        NonlinearConstraint(c, 0, 0),
        {"type": "eq", "fun": c, "jac": J},
        NonlinearConstraint(c, 0, 0, jac=lambda x: sp.csr_array(J(x))),
    ],
)
@pytest.mark.parametrize("of_f", ["dense", "sparse", "operator", "products"])
def test_exact_curvature_of_f_is_kept_where_a_constraint_has_the_default(given, of_f):
    hess, hessp, _, _ = HESSIANS[of_f]
    P = build(hess=hess, hessp=hessp, constraints=given)
    assert P.hess_kind == "structured"
    np.testing.assert_allclose(dense(P.hessian(X, LAM)), H(X))
    before = (P.ngev, P.njev, P.ncev)
    s = np.array([0.3, -0.1, 0.2, 0.4]) * 1e-3
    P.update(s, lagrangian_change(X - s, s))
    got = dense(P.hessian(X, LAM))
    assert (P.ngev, P.njev, P.ncev) == before
    np.testing.assert_allclose(got @ s, lagrangian_change(X - s, s), rtol=1e-8)
    assert np.linalg.matrix_rank(got - H(X), tol=1e-6) == 1
    np.testing.assert_allclose(dense(P.hessian(X, LAM)), got)  # the pair is taken once
    P.set_scaling(1.0, np.ones(2))
    np.testing.assert_allclose(dense(P.hessian(X, LAM)), H(X))


def test_structured_pairs_wait_for_the_objective():
    """At sigma = 0 the exact terms do not explain a pair of the whole Lagrangian."""
    P = build(constraints=NonlinearConstraint(c, 0, 0, jac=J))
    s = np.full(4, 1e-3)
    P.update(s, lagrangian_change(X - s, s))
    np.testing.assert_array_equal(P.hessian(X, LAM, 0.0), np.zeros((4, 4)))
    np.testing.assert_allclose(P.hessian(X, LAM) @ s, lagrangian_change(X - s, s), rtol=1e-8)


def test_structured_beside_differences_of_another_constraint():
    other = {
        "type": "eq",
        "fun": lambda x: x[3] ** 4,
        "jac": lambda x: [0, 0, 0, 4 * x[3] ** 3],
        "hess": "3-point",
    }
    P = build(constraints=[NonlinearConstraint(c, 0, 0, jac=J), other])
    assert P.hess_kind == "differences"
    s = np.array([0.3, -0.1, 0.2, 0.4]) * 1e-3
    y = lagrangian_change(X - s, s) + 2.0 * np.array([0, 0, 0, 4 * X[3] ** 3 - 4 * (X[3] - s[3]) ** 3])
    P.update(s, y)
    np.testing.assert_allclose(P.hessian(X, np.r_[LAM, 2.0]) @ s, y, rtol=1e-6, atol=1e-10)


def test_structured_by_size():
    given = NonlinearConstraint(lambda x: x @ x, 0, 1, jac=lambda x: 2 * x)
    for n, kind in ((_problem._REMAINDER_UP_TO, "structured"), (_problem._REMAINDER_UP_TO + 1, "bfgs")):
        assert quadratic(n, hess=lambda x: sp.eye_array(x.size), constraints=given).hess_kind == kind


def test_bfgs_makes_a_small_sparse_jacobian_dense():
    P = build(hess="bfgs", constraints=nonlinear(jac=lambda x: sp.csr_array(J(x))))
    assert P.kind == "dense"
    np.testing.assert_array_equal(P.jacobian(X), J(X))


def test_bfgs_beside_a_large_sparse_jacobian(monkeypatch):
    monkeypatch.setattr(_problem, "_DENSE_JACOBIAN_UP_TO", 1)
    P = build(hess="bfgs", constraints=nonlinear(jac=lambda x: sp.csr_array(J(x))))
    assert P.kind == "sparse"
    np.testing.assert_array_equal(P.hessian(X, LAM).toarray(), np.eye(4))


# --- Gauss-Newton --------------------------------------------------------------------------------------

W = np.array(
    [[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [3.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0], [1.0, 1.0, 0, 0]]
)


@pytest.mark.parametrize("convert", [np.asarray, sp.coo_array, aslinearoperator])
@pytest.mark.parametrize("bounds", [None, [(None, None), (-0.4, -0.4), (0, 9), (None, None)]])
def test_gauss_newton(convert, bounds):
    P = build(hess=None, hess_sqrt=lambda x: convert(W), bounds=bounds)
    free = [0, 1, 2, 3] if bounds is None else [0, 2, 3]
    assert P.hess_kind == "gauss_newton"
    P.set_scaling(0.25, np.array([2.0, 1.0]))
    expected = 0.25 * W.T @ W + Hc(X, LAM * [2.0, 1.0])
    np.testing.assert_allclose(dense(P.hessian(X[free], LAM)), expected[np.ix_(free, free)])
    np.testing.assert_allclose(dense(P.root(X[free])), 0.5 * W[:, free])
    assert P.kind == {np.asarray: "dense", sp.coo_array: "sparse", aslinearoperator: "operator"}[convert]


def test_root_beside_an_exact_hessian():
    P = build(hess_sqrt=lambda x: W)
    assert P.hess_kind == "exact"
    np.testing.assert_allclose(P.hessian(X, LAM), exact())
    np.testing.assert_array_equal(P.root(X), W)
    assert build().root(X) is None


def test_gauss_newton_leaves_out_constraints_without_jacobian():
    P = build(hess=None, hess_sqrt=lambda x: W, constraints=NonlinearConstraint(c, 0, 0))
    np.testing.assert_allclose(P.hessian(X, LAM), W.T @ W)


# --- operators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, [(None, None), (-0.4, -0.4), (0, 9), (None, None)]])
def test_operator_jacobian_among_others(bounds):
    constraints = [
        LinearConstraint(sp.csr_array(A), [0, -np.inf], [1, np.inf]),
        nonlinear(jac=lambda x: aslinearoperator(J(x))),
        {"type": "eq", "fun": lambda x: x[0], "jac": lambda x: [1.0, 0, 0, 0]},
    ]
    P = build(constraints=constraints, bounds=bounds)
    free = [0, 1, 2, 3] if bounds is None else [0, 2, 3]
    P.set_scaling(1.0, np.array([1.0, 2.0, 3.0, 4.0]))
    got = P.jacobian(X[free])
    expected = (np.vstack([A, J(X), [1, 0, 0, 0]])[[0, 2, 3, 4]] * np.array([[1.0], [2], [3], [4]]))[:, free]
    assert (P.kind, P.jacobian_kind, P.hessian_kind) == ("operator", "operator", "dense")
    assert got.shape == expected.shape
    np.testing.assert_allclose(dense(got), expected)
    np.testing.assert_allclose(dense(got.T), expected.T)
    split = P.split(np.ones(4), np.zeros(P.n), np.zeros(P.n), X[free])
    if bounds is not None:
        residual = (g(X) + np.vstack([A, J(X), [1, 0, 0, 0]]).T @ split["lam_full"])[1]
        assert split["zl_full"][1] - split["zu_full"][1] == pytest.approx(residual)


def test_operator_without_adjoint_is_refused():
    forward = LinearOperator((2, 4), matvec=lambda p: J(X) @ p)
    with pytest.raises(ValueError, match=r"`constraints` has a LinearOperator without `rmatvec`"):
        build(constraints=nonlinear(jac=lambda x: forward)).jacobian(X)


def test_differences_of_an_operator_jacobian():
    P = build(hess="3-point", constraints=nonlinear(jac=lambda x: aslinearoperator(J(x)), hess="3-point"))
    np.testing.assert_allclose(dense(P.hessian(X, LAM)), exact(), rtol=1e-8, atol=1e-8)


# --- sparse patterns -----------------------------------------------------------------------------------


def test_patterns_grow_to_their_union_and_then_stay():
    def jac(x):  # scipy drops what is exactly zero
        return sp.csr_array(J(x))

    P = build(constraints=nonlinear(jac=jac, hess=lambda x, v: sp.csr_array(Hc(x, v))))
    first = P.jacobian(np.array([0.0, 1.0, 1.0, 1.0]))
    assert first.nnz == 4
    version = P.pattern_version
    second = P.jacobian(X)
    assert P.pattern_version == version + 1
    third = P.jacobian(np.array([1.0, 0.0, 0.0, 0.0]))
    assert P.pattern_version == version + 1
    assert second.nnz == third.nnz == 6
    np.testing.assert_array_equal(second.indices, third.indices)
    np.testing.assert_array_equal(third.toarray(), J(np.array([1.0, 0, 0, 0])))
    assert third.indices.dtype == np.int32
    assert third.has_sorted_indices


def test_hessian_pattern_is_symmetric_and_keeps_explicit_zeros():
    upper = sp.csr_array((np.array([1.0, 0.0]), (np.array([0, 1]), np.array([0, 3]))), shape=(4, 4))
    P = build(hess=lambda x: upper, constraints=())
    got = P.hessian(X, np.empty(0))
    assert got.nnz == 3  # (0, 0), (1, 3) and its mirror
    np.testing.assert_array_equal(got.toarray(), np.diag([1.0, 0, 0, 0]))


def test_duplicates_are_summed_and_unsorted_input_is_sorted():
    def jac(x):
        return sp.coo_array(([1.0, 2.0, 5.0, 7.0], ([0, 0, 1, 1], [2, 2, 3, 0])), shape=(2, 4))

    got = build(constraints=nonlinear(jac=jac)).jacobian(X)
    np.testing.assert_array_equal(got.toarray(), [[0, 0, 3, 0], [7, 0, 0, 5]])
    np.testing.assert_array_equal(got.indices, [2, 0, 3])


def test_sums_on_one_pattern():
    rng = np.random.default_rng(0)
    union = PatternUnion((6, 9))
    for k in range(4):
        terms = [
            (float(i + 1), sp.random_array((6, 9), density=0.2, rng=rng, format="csr")) for i in range(3)
        ]
        for _, matrix in terms:
            matrix.sum_duplicates()
        total = union.combine(terms)
        expected = sum(coefficient * matrix.toarray() for coefficient, matrix in terms)
        np.testing.assert_allclose(total.toarray(), expected)
        assert union.version == k + 1
        again = union.combine(terms)
        np.testing.assert_array_equal(again.indices, total.indices)
        assert union.version == k + 1


def test_empty_patterns():
    union = PatternUnion((3, 3), symmetric=True)
    assert union.combine([(1.0, sp.csr_array((3, 3)))]).nnz == 0
    assert union.combine([]).shape == (3, 3)
    P = build(hess=lambda x: sp.csr_array((4, 4)), constraints=())
    assert P.jacobian(X).shape == (0, 4)
    assert sp.issparse(P.jacobian(X))
    assert P.hessian(X, np.empty(0)).nnz == 0


# --- fixed variables and dropped rows ------------------------------------------------------------------

FIXED = [(None, None), (-0.4, -0.4), (0, 9), (0.2, 0.2)]
FREE = [0, 2]


@pytest.mark.parametrize(
    ("jac", "hess", "cjac", "chess"),
    [
        (g, H, J, Hc),
        (g, lambda x: sp.csr_array(H(x)), lambda x: sp.csr_array(J(x)), lambda x, v: sp.csr_array(Hc(x, v))),
        (g, lambda x: aslinearoperator(H(x)), J, Hc),
        (g, "cs", J, "cs"),
        (g, "2-point", lambda x: sp.csr_array(J(x)), "2-point"),
    ],
)
def test_fixed_variables_are_removed(jac, hess, cjac, chess):
    P = build(jac=jac, hess=hess, constraints=nonlinear(jac=cjac, hess=chess), bounds=FIXED, x0=X + 1)
    x = X[FREE]
    assert P.n == 2
    np.testing.assert_array_equal(P.x0, (X + 1)[FREE])
    np.testing.assert_array_equal(P.xl, [-np.inf, 0])
    np.testing.assert_array_equal(P.xu, [np.inf, 9])
    np.testing.assert_allclose(P.values(x)[1], c(X))
    np.testing.assert_allclose(P.gradient(x), g(X)[FREE])
    np.testing.assert_allclose(dense(P.jacobian(x)), J(X)[:, FREE])
    np.testing.assert_allclose(dense(P.hessian(x, LAM)), exact()[np.ix_(FREE, FREE)], atol=1e-6)
    np.testing.assert_array_equal(P.expand(x), X)


def test_fixed_variables_with_hessp_and_differences_of_values():
    def hessp(x, p):
        assert p.shape == (4,)
        assert p[1] == p[3] == 0.0
        return H(x) @ p

    P = build(hess=None, hessp=hessp, bounds=FIXED)
    np.testing.assert_allclose(P.hessian(X[FREE], LAM), exact()[np.ix_(FREE, FREE)])
    P = build(jac=None, hess=None, bounds=FIXED)
    np.testing.assert_allclose(P.gradient(X[FREE]), g(X)[FREE], atol=1e-6)
    assert P.nfev == 3
    report = P.report_values(X[FREE])
    np.testing.assert_array_equal(np.isnan(report.grad), [False, True, False, True])


def test_all_variables_fixed():
    P = build(bounds=Bounds(X, X))
    assert P.n == 0
    assert P.values(P.x0)[0] == f(X)
    assert P.jacobian(P.x0).shape == (2, 0)
    assert P.hessian(P.x0, LAM).shape == (0, 0)


def test_free_rows_are_dropped_and_come_back_as_zeros():
    constraints = [LinearConstraint(A, [-np.inf, 0], [np.inf, 0]), nonlinear([-np.inf, -1], np.inf)]
    P = build(constraints=constraints)
    assert P.m == 2
    np.testing.assert_array_equal(P.equality, [True, False])
    np.testing.assert_allclose(P.values(X)[1], [(A @ X)[1], c(X)[1]])
    np.testing.assert_allclose(P.jacobian(X), [A[1], J(X)[1]])
    np.testing.assert_allclose(P.hessian(X, np.array([5.0, 2.0])), exact(lam=np.array([0.0, 2.0])))
    split = P.split(np.array([5.0, 2.0]), np.zeros(4), np.zeros(4))
    np.testing.assert_array_equal(split["v"][0], [0, 5])
    np.testing.assert_array_equal(split["v"][1], [0, 2])
    np.testing.assert_array_equal(P.join(split["v"]), [5, 2])


def test_keep_feasible_reaches_the_driver():
    constraints = [
        LinearConstraint(A, 0, 1, keep_feasible=True),
        NonlinearConstraint(c, [0, -np.inf], [1, np.inf], keep_feasible=[False, True]),
    ]
    P = build(
        constraints=constraints,
        bounds=Bounds(np.array([0, -0.4, 0, 0]), np.array([1, -0.4, 9, 9]), [True, True, False, False]),
    )
    np.testing.assert_array_equal(P.keep_feasible, [True, False, False])
    np.testing.assert_array_equal(P.rows_keep_feasible, [True, True, False])


def test_constraints_are_first_called_inside_the_bounds():
    def guarded(x):
        assert (x <= 1.0).all()
        return c(x)

    P = build(
        x0=np.full(4, 5.0),
        constraints=NonlinearConstraint(guarded, 0, 1, jac=J, hess=Hc),
        bounds=Bounds(-1, 1),
    )
    np.testing.assert_array_equal(P.x0, np.full(4, 5.0))
    assert P.kind == "dense"


# --- scales and the way back ---------------------------------------------------------------------------


@pytest.mark.parametrize("jac", [J, lambda x: sp.csr_array(J(x))], ids=["dense", "sparse"])
def test_scales(jac):
    P = build(constraints=nonlinear([-1, 0], [3, 0], jac=jac))
    plain = P.jacobian(X)
    sc = np.array([0.1, 4.0])
    P.set_scaling(0.5, sc)
    np.testing.assert_allclose(P.lower, [-0.1, 0])
    np.testing.assert_allclose(P.upper, [0.3, 0])
    value, rows = P.values(X)
    assert value == 0.5 * f(X)
    np.testing.assert_allclose(rows, sc * c(X))
    np.testing.assert_allclose(P.gradient(X), 0.5 * g(X))
    np.testing.assert_allclose(dense(P.jacobian(X)), sc[:, None] * J(X))
    np.testing.assert_allclose(dense(plain), J(X))
    np.testing.assert_allclose(dense(P.hessian(X, LAM)), 0.5 * H(X) + Hc(X, sc * LAM))
    # Multipliers: the Lagrangian's gradient must agree in both scales.
    zl, zu = np.array([1.0, 0, 0, 2]), np.array([0, 3.0, 0, 0])
    scaled = P.gradient(X) + dense(P.jacobian(X)).T @ LAM - zl + zu
    back = P.split(LAM, zl, zu)
    unscaled = g(X) + J(X).T @ back["v"][0] - back["zl_full"] + back["zu_full"]
    np.testing.assert_allclose(0.5 * unscaled, scaled)
    np.testing.assert_allclose(P.join(back["v"]), LAM)
    np.testing.assert_allclose(P.join(back["lam_full"]), LAM)
    P.set_scaling(1.0, np.ones(2))
    np.testing.assert_array_equal(P.upper, [3, 0])


def test_multipliers_of_fixed_variables_make_the_point_stationary():
    P = build(bounds=FIXED)
    x = X[FREE]
    split = P.split(LAM, np.zeros(2), np.zeros(2), x)
    residual = g(X) + J(X).T @ split["v"][0] - split["zl_full"] + split["zu_full"]
    np.testing.assert_allclose(residual[[1, 3]], 0.0, atol=1e-12)
    assert min(split["zl_full"].min(), split["zu_full"].min()) >= 0.0
    np.testing.assert_array_equal(P.split(LAM, np.zeros(2), np.zeros(2))["zl_full"], 0.0)


def test_join_counts_rows():
    with pytest.raises(ValueError, match=re.escape("`lam0` has 3 multipliers; the constraints have 2 rows")):
        build().join(np.zeros(3))


def test_report():
    P = build(
        constraints=[LinearConstraint(A, [0, -np.inf], np.inf), nonlinear(jac=lambda x: sp.csr_array(J(x)))]
    )
    P.set_scaling(0.1, np.full(3, 7.0))
    P.values(X), P.derivatives(X)
    calls = (P.nfev, P.ngev, P.ncev, P.njev)
    report = P.report_values(X)
    assert (P.nfev, P.ngev, P.ncev, P.njev) == calls
    assert report.fun == f(X)
    np.testing.assert_array_equal(report.x, X)
    np.testing.assert_array_equal(report.grad, g(X))
    np.testing.assert_allclose(report.constr[0], A @ X)
    np.testing.assert_allclose(report.constr[1], c(X))
    np.testing.assert_array_equal(report.jac[0], A)
    np.testing.assert_array_equal(report.jac[1].toarray(), J(X))
    assert report.violation == pytest.approx(np.abs(np.r_[min((A @ X)[0], 0.0), c(X)]).max())
    outside = build(constraints=(), bounds=Bounds(-np.inf, 0.0)).report_values(X)
    assert outside.violation == 1.3


def test_report_widens_differenced_jacobians():
    sparsity = np.array([[1, 1, 1, 1], [1, 0, 1, 0]])
    constraints = [
        NonlinearConstraint(c, 0, 0),
        NonlinearConstraint(c, 0, 0, finite_diff_jac_sparsity=sparsity),
    ]
    report = build(constraints=constraints, bounds=FIXED).report_values(X[FREE])
    assert np.isnan(report.jac[0][:, [1, 3]]).all()
    np.testing.assert_allclose(report.jac[0][:, FREE], J(X)[:, FREE], atol=1e-6)
    np.testing.assert_allclose(report.jac[1].toarray()[:, FREE], J(X)[:, FREE], atol=1e-6)
    assert report.jac[1].shape == (2, 4)


# --- calls ---------------------------------------------------------------------------------------------


def test_counts_and_remembered_points():
    P = build()
    assert (P.nfev, P.ncev, P.ngev, P.njev, P.nhev) == (0, 1, 0, 0, 0)  # c once: its length
    trial = X + 0.1
    for point in (X, trial, X, trial, X):
        P.values(point)
        P.derivatives(point)
    assert (P.nfev, P.ncev, P.ngev, P.njev) == (2, 2, 2, 2)
    probe = P.nhev
    P.hessian(X, LAM)
    P.hessian(X, 2 * LAM)
    assert P.nhev - probe == 2  # one call of the constraint's for each pair of multipliers


def test_hessian_of_the_objective_is_remembered():
    calls = []
    P = build(hess=lambda x: calls.append(1) or H(x), constraints=())
    P.derivatives(X)
    for _ in range(3):
        P.hessian(X, np.empty(0))
    assert len(calls) == P.nhev == 1


def test_differences_of_gradients_do_not_displace_the_iterate():
    P = build(hess="3-point", constraints=nonlinear(hess="3-point"))
    P.derivatives(X)
    before = (P.ngev, P.njev)
    P.hessian(X, LAM)
    assert (P.ngev, P.njev) == (before[0] + 8, before[1] + 8)
    P.derivatives(X)
    assert (P.ngev, P.njev) == (before[0] + 8, before[1] + 8)


def test_users_may_reuse_their_buffers_and_spoil_their_x():
    gradient, rows, jac, hess = np.empty(4), np.empty(2), np.empty((2, 4)), np.empty((4, 4))

    def spoil(function, buffer):
        def wrapped(x, *rest):
            buffer[...] = function(x, *rest)
            x[:] = np.nan
            for r in rest:
                r[:] = np.nan
            return buffer

        return wrapped

    P = build(
        jac=spoil(g, gradient),
        hess=spoil(H, hess),
        constraints=NonlinearConstraint(
            spoil(c, rows), 0, 0, jac=spoil(J, jac), hess=spoil(Hc, np.empty((4, 4)))
        ),
    )
    x, lam = X.copy(), LAM.copy()
    got = [P.gradient(x), P.constraints(x), P.jacobian(x), P.hessian(x, lam)]
    other = X + 1
    P.derivatives(other), P.values(other), P.hessian(other, lam)
    for array, expected in zip(got, [g(X), c(X), J(X), exact()], strict=True):
        np.testing.assert_allclose(array, expected)
    np.testing.assert_array_equal(P.gradient(x), g(X))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(lam, LAM)


def test_a_sparse_buffer_reused():
    buffer = sp.csr_array(np.ones((2, 4)))

    def jac(x):
        buffer.data[:] = J(x).ravel()
        return buffer

    P = build(constraints=nonlinear(jac=jac))
    first = P.jacobian(X)
    P.jacobian(X + 1)
    np.testing.assert_array_equal(first.toarray(), J(X))
    np.testing.assert_array_equal(P.jacobian(X).toarray(), J(X))


def test_the_gradient_returned_may_be_modified():
    P = build(hess=H)
    P.gradient(X)[:] = 0.0
    np.testing.assert_array_equal(P.gradient(X), g(X))


def test_x0_and_bounds_stay_as_they_are():
    x0, bounds = X.copy(), Bounds(np.full(4, -9.0), np.full(4, 9.0))
    P = build(x0=x0, bounds=bounds)
    P.x0[:] = 0.0
    P.xl[:] = 0.0
    np.testing.assert_array_equal(x0, X)
    np.testing.assert_array_equal(bounds.lb, np.full(4, -9.0))


@pytest.mark.parametrize("where", ["fun", "jac", "hess", "hessp", "constraints", "hess_sqrt"])
def test_exceptions_of_users_pass_through_unchanged(where):
    class Mine(Exception):
        pass

    error = Mine("mine")

    def fail(*_):
        raise error

    arguments = {where: fail} if where != "constraints" else {"constraints": {"type": "eq", "fun": fail}}
    if where in ("hessp", "hess_sqrt"):
        arguments["hess"] = None
    with pytest.raises(Mine) as caught:
        evaluate(**arguments)
    assert caught.value is error


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"fun": 3}, TypeError, "`fun` must be callable; got 3"),
        (
            {"jac": 3},
            TypeError,
            "`jac` must be callable, True, None or one of '2-point', '3-point', 'cs'; got 3",
        ),
        ({"jac": "3point"}, ValueError, "did you mean '3-point'?"),
        ({"hess": 3}, TypeError, "`hess` must be callable, a HessianUpdateStrategy, None or one of"),
        ({"hess": "newton"}, ValueError, "`hess` must be one of '2-point', '3-point', 'cs', 'bfgs', 'lbfgs'"),
        ({"hess": None, "hessp": 3}, TypeError, "`hessp` must be callable or None, not 3"),
        ({"hess_sqrt": 3}, TypeError, "`hess_sqrt` must be callable or None, not 3"),
        ({"lagrangian_hess": 3}, TypeError, "`lagrangian_hess` must be callable or None, not 3"),
        ({"jac": None, "hess": "2-point"}, ValueError, "`hess` is '2-point' while `jac` is None"),
        (
            {"jac": "cs", "hess": "cs"},
            ValueError,
            "`hess`='cs' needs a `jac` that computes with complex numbers",
        ),
        ({"x0": np.ones((2, 2))}, ValueError, "`x0` has shape (2, 2); 1-D is needed"),
        ({"x0": [1.0, np.nan, 2, 3]}, ValueError, "`x0` has a non-finite value at index 1: nan"),
        ({"x0": []}, ValueError, "`x0` has shape (0,); at least one variable"),
        ({"x0": 1j * X}, TypeError, "`x0` is complex"),
        ({"x0": "abcd"}, TypeError, "`x0` has dtype"),
        ({"bounds": [(0, 1)]}, ValueError, "`bounds` has 1 pairs; `x0` has 4 entries"),
        (
            {"finite_diff_rel_step": -1.0},
            ValueError,
            "`finite_diff_rel_step` must be > 0; got -1.0 at index 0",
        ),
        ({"finite_diff_rel_step": [1e-8] * 3}, ValueError, "`finite_diff_rel_step` has shape (3,)"),
        ({"hess_sparsity": np.eye(3)}, ValueError, "`hess_sparsity` has shape (3, 3); (4, 4) is needed"),
    ],
)
def test_refused_at_once(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        build(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"fun": lambda x: x[:3]}, ValueError, "`fun` returned shape (3,); a number is needed"),
        ({"fun": lambda x: 1j}, TypeError, "`fun` returned complex numbers"),
        ({"fun": lambda x: None}, TypeError, "`fun` returned None; real numbers are needed"),
        ({"fun": lambda x: "low"}, TypeError, "`fun` returned str"),
        ({"jac": True}, TypeError, "`fun` must return (value, gradient) where `jac` is True"),
        ({"jac": lambda x: np.ones(3)}, ValueError, "`jac` returned shape (3,); (4,) is needed"),
        ({"jac": lambda x: np.ones((2, 2))}, ValueError, "`jac` returned shape (2, 2); (4,) is needed"),
        ({"jac": lambda x: 1j * x}, TypeError, "`jac` returned complex numbers"),
        ({"hess": lambda x: np.ones((4, 3))}, ValueError, "`hess` returned shape (4, 3); (4, 4) is needed"),
        ({"hess": lambda x: sp.eye_array(3)}, ValueError, "`hess` returned shape (3, 3); (4, 4) is needed"),
        (
            {"hess": None, "hessp": lambda x, p: p[:2]},
            ValueError,
            "`hessp` returned shape (2,); (4,) is needed",
        ),
        (
            {"constraints": nonlinear(hess=lambda x, v: np.eye(2))},
            ValueError,
            "`constraints.hess` returned shape (2, 2); (4, 4) is needed",
        ),
        (
            {"lagrangian_hess": lambda x, v: np.eye(5)},
            ValueError,
            "`lagrangian_hess` returned shape (5, 5); (4, 4) is needed",
        ),
        (
            {"hess": None, "hess_sqrt": lambda x: np.ones((7, 3))},
            ValueError,
            "`hess_sqrt` returned shape (7, 3); (7, 4) is needed",
        ),
        (
            {"jac": "cs", "hess": None, "fun": lambda x: float(f(x).real)},
            ValueError,
            "computes with complex numbers",
        ),
    ],
)
def test_refused_when_called(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        evaluate(**arguments)
