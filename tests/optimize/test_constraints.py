"""Every form of constraint and bound that SciPy's users write, and what is said about the wrong ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import BFGS, Bounds, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from aitken.optimize._constraints import LinearBlock, Memo, NonlinearBlock, Variables
from aitken.optimize._constraints import standard_bounds as bounds_of
from aitken.optimize._constraints import standard_constraints as constraints_of

N = 3
X = np.array([0.5, -1.0, 2.0])
FREE = Variables(X, np.full(N, -np.inf), np.full(N, np.inf), np.zeros(N, dtype=bool))
FIXED = Variables(X, np.array([-np.inf, -1.0, 0.0]), np.array([1.0, -1.0, 9.0]), np.zeros(N, dtype=bool))


def circle(x):
    return np.array([x @ x, x[0] * x[2]])


def circle_jac(x):
    return np.array([2 * x, [x[2], 0.0, x[0]]])


def blocks(constraints, variables=FREE):
    return constraints_of(constraints, variables, variables.x0)


def says(text):
    return pytest.raises(ValueError, match=re.escape(text))


# --- bounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        Bounds([0, -np.inf, 1], [2, 3, np.inf]),
        [(0, 2), (None, 3), (1, None)],
        np.array([[0, 2], [-np.inf, 3], [1, np.inf]]),
        ((0, 2), [-np.inf, 3], (1, np.inf)),
        zip([0, None, 1], [2, 3, None], strict=True),
    ],
    ids=["Bounds", "pairs", "array", "mixed", "iterator"],
)
def test_forms_of_bounds(given):
    lower, upper, keep = bounds_of(given, 3)
    np.testing.assert_array_equal(lower, [0, -np.inf, 1])
    np.testing.assert_array_equal(upper, [2, 3, np.inf])
    assert not keep.any()


def test_scalar_bounds_and_keep_feasible():
    lower, upper, keep = bounds_of(Bounds(0, [1, 2, 3], keep_feasible=[True, False, True]), 3)
    np.testing.assert_array_equal(lower, np.zeros(3))
    np.testing.assert_array_equal(upper, [1, 2, 3])
    np.testing.assert_array_equal(keep, [True, False, True])
    assert bounds_of(Bounds(0, 1, keep_feasible=True), 3)[2].all()


def test_no_bounds():
    lower, upper, _ = bounds_of(None, 2)
    assert (lower == -np.inf).all()
    assert (upper == np.inf).all()


def test_bounds_are_copied():
    given = Bounds(np.zeros(3), np.ones(3))
    bounds_of(given, 3)[0][:] = 7.0
    np.testing.assert_array_equal(given.lb, np.zeros(3))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([(0, 1)], "`bounds` has 1 pairs; `x0` has 3 entries"),
        ([(0, 1), (0, 1), (5, 2)], "`bounds[2]` has low > high: 5.0 > 2.0"),
        ([(0, 1), (np.nan, 1), (0, 2)], "`bounds[1]` has a NaN"),
        ([(0, 1), (0, 1, 2), (0, 2)], "`bounds[1]` must be a pair (low, high); got (0, 1, 2)"),
        ([(0, 1), 4, (0, 2)], "`bounds[1]` must be a pair (low, high); got 4"),
        ([(0, 1), (np.inf, None), (0, 2)], "`bounds[1]` leaves no number"),
        (Bounds([0, 0, 3], [1, 1, 2]), "`bounds.lb` > `bounds.ub` at index 2: 3.0 > 2.0"),
        (Bounds([0, np.nan, 0], 1), "`bounds.lb` is nan at index 1"),
        (Bounds(0, [1, -np.inf, 1]), "`bounds.ub` is -inf at index 1"),
        (
            Bounds([0, 0], [1, 1]),
            "`bounds.lb` has shape (2,); a number or (3,) is needed (`x0` has 3 entries)",
        ),
    ],
)
def test_wrong_bounds(given, text):
    with says(text):
        bounds_of(given, 3)


@pytest.mark.parametrize("given", [5, [(0, "a"), (0, 1), (0, 1)], [(0, 1j), (0, 1), (0, 1)]])
def test_bounds_of_a_wrong_kind(given):
    with pytest.raises(TypeError, match="`bounds"):
        bounds_of(given, 3)


# --- forms of constraints ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, (), [], np.array([])])
def test_no_constraints(given):
    assert blocks(given) == []


@pytest.mark.parametrize("matrix", [np.array, sp.csr_array, sp.coo_matrix, sp.csc_array])
@pytest.mark.parametrize("variables", [FREE, FIXED], ids=["free", "fixed"])
def test_linear_constraint(matrix, variables):
    A = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, -4.0]])
    (block,) = blocks(LinearConstraint(matrix(A), [0, -np.inf], 5), variables)
    assert isinstance(block, LinearBlock)
    np.testing.assert_array_equal(block.lower, [0, -np.inf])
    np.testing.assert_array_equal(block.upper, [5, 5])
    np.testing.assert_allclose(block.value(variables.x0), A @ X)
    J = block.free_jacobian(variables.x0)
    assert sp.issparse(J) == (matrix is not np.array)
    np.testing.assert_array_equal(J.toarray() if sp.issparse(J) else J, A[:, variables.free])


def test_linear_constraint_of_one_row_and_integers():
    (block,) = blocks(LinearConstraint([1, 2, 3], 1, 1))
    assert block.m == 1
    assert block.value(X).dtype == np.float64


def test_linear_constraint_does_not_follow_the_users_array():
    A = np.ones((1, 3))
    constraint = LinearConstraint(A, 0, 1)
    (block,) = blocks(constraint)
    constraint.A[:] = 7.0
    np.testing.assert_array_equal(block.value(X), [X.sum()])


def test_a_mixture_keeps_its_order():
    made = blocks(
        [
            {"type": "ineq", "fun": lambda x: x[0]},
            LinearConstraint(np.ones((2, 3)), 0, 1),
            NonlinearConstraint(circle, -1, 4),
            {"type": "EQ", "fun": lambda x, a, b: [x[0] - a, x[1] * b], "args": (0.25, 3.0)},
        ]
    )
    assert [b.name for b in made] == [f"constraints[{i}]" for i in range(4)]
    assert [b.m for b in made] == [1, 2, 2, 2]
    np.testing.assert_array_equal(made[0].lower, [0.0])
    np.testing.assert_array_equal(made[0].upper, [np.inf])
    np.testing.assert_array_equal(made[3].upper, [0.0, 0.0])
    np.testing.assert_allclose(made[3].value(X), [0.25, -3.0])


def test_dict_args_that_are_not_a_tuple():
    (block,) = blocks({"type": "eq", "fun": lambda x, a: x[0] - a, "args": 2.0})
    np.testing.assert_allclose(block.value(X), [-1.5])


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", ["dense", "sparse", "matrix", "list"])
@pytest.mark.parametrize("variables", [FREE, FIXED], ids=["free", "fixed"])
def test_jacobians_of_every_kind(kind, variables):
    convert = {"dense": np.asarray, "sparse": sp.coo_array, "matrix": np.asmatrix, "list": np.ndarray.tolist}[
        kind
    ]
    (block,) = blocks(NonlinearConstraint(circle, 0, 1, jac=lambda x: convert(circle_jac(x))), variables)
    J = block.free_jacobian(variables.x0)
    assert sp.issparse(J) == (kind == "sparse")
    dense = J.toarray() if sp.issparse(J) else J
    assert type(dense) is np.ndarray
    np.testing.assert_allclose(dense, circle_jac(X)[:, variables.free])


def test_operator_jacobian():
    made = blocks(NonlinearConstraint(circle, 0, 1, jac=lambda x: aslinearoperator(circle_jac(x))))
    J = made[0].free_jacobian(X)
    assert isinstance(J, LinearOperator)
    np.testing.assert_allclose(J @ np.ones(3), circle_jac(X) @ np.ones(3))


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_a_single_row_may_be_a_vector(shape):
    (block,) = blocks({"type": "eq", "fun": lambda x: x @ x, "jac": lambda x: (2 * x).reshape(shape)})
    np.testing.assert_allclose(block.jacobian(X), [2 * X])


def test_a_single_column_may_be_a_vector():
    v = Variables(np.ones(1), np.array([-np.inf]), np.array([np.inf]), np.zeros(1, dtype=bool))
    (block,) = blocks({"type": "eq", "fun": lambda x: [x[0], 2 * x[0]], "jac": lambda x: [1.0, 2.0]}, v)
    np.testing.assert_array_equal(block.jacobian(np.ones(1)), [[1.0], [2.0]])


@pytest.mark.parametrize("scheme", ["2-point", "3-point", "cs"])
@pytest.mark.parametrize("variables", [FREE, FIXED], ids=["free", "fixed"])
def test_jacobian_by_differences(scheme, variables):
    (block,) = blocks(NonlinearConstraint(circle, 0, 1, jac=scheme), variables)
    error = {"2-point": 1e-6, "3-point": 1e-8, "cs": 1e-12}[scheme]
    np.testing.assert_allclose(
        block.free_jacobian(variables.x0), circle_jac(X)[:, variables.free], rtol=error, atol=error
    )
    assert block.analytic == (scheme == "cs")


@pytest.mark.parametrize("sparsity", [np.array([[1, 1, 1], [1, 0, 1]]), sp.csr_array([[1, 1, 1], [1, 0, 1]])])
def test_sparsity_gives_a_sparse_jacobian(sparsity):
    given = NonlinearConstraint(circle, 0, 1, finite_diff_jac_sparsity=sparsity)
    (block,) = blocks(given)
    J = block.jacobian(X)
    assert sp.issparse(J)
    assert J.nnz == 5
    np.testing.assert_allclose(J.toarray(), circle_jac(X), atol=1e-6)


def test_groups_save_calls():
    n = 60
    v = Variables(np.linspace(0, 1, n), np.full(n, -np.inf), np.full(n, np.inf), np.zeros(n, dtype=bool))
    given = NonlinearConstraint(lambda x: x**2, 0, 1, finite_diff_jac_sparsity=sp.eye_array(n))
    (block,) = blocks(given, v)
    J = block.jacobian(v.x0)
    np.testing.assert_allclose(J.toarray(), np.diag(2 * v.x0), atol=1e-6)
    assert block.n_values == 2  # the value itself, remembered, and one step for all columns


def test_relative_step_of_a_constraint():
    seen = []

    def fun(x):
        seen.append(x.copy())
        return x[:1]

    (block,) = blocks(NonlinearConstraint(fun, 0, 1, finite_diff_rel_step=1e-3))
    block.jacobian(X)
    assert max(np.abs(z - X).max() for z in seen) == pytest.approx(2e-3)


@pytest.mark.parametrize(("hess", "source"), [(None, "default"), (BFGS(), "default"), ("3-point", "3-point")])
def test_sources_of_hessians(hess, source):
    given = {"type": "eq", "fun": circle, "jac": circle_jac, "hess": hess}
    assert blocks(given)[0].hess_source == source
    assert blocks({"type": "eq", "fun": circle})[0].hess_source == "default"


@pytest.mark.parametrize("variables", [FREE, FIXED], ids=["free", "fixed"])
@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array, aslinearoperator])
def test_hessian_of_a_constraint(variables, convert):
    def hess(x, v):
        return convert(2 * v[0] * np.eye(3) + v[1] * np.array([[0, 0, 1.0], [0, 0, 0], [1, 0, 0]]))

    (block,) = blocks(NonlinearConstraint(circle, 0, 1, jac=circle_jac, hess=hess), variables)
    H = block.hessian(variables.x0, np.array([1.0, 3.0])) @ np.eye(variables.n)
    H = H.toarray() if sp.issparse(H) else H
    expected = np.array([[2.0, 0, 3], [0, 2, 0], [3, 0, 2]])[np.ix_(variables.free, variables.free)]
    np.testing.assert_allclose(H, expected)


def test_values_are_remembered_and_not_shared():
    buffer = np.zeros(2)

    def reuse(x):
        buffer[:] = circle(x)
        x[:] = 99.0  # the user's own copy
        return buffer

    (block,) = blocks(NonlinearConstraint(reuse, 0, 1))
    first = block.value(X)
    block.value(2 * X)
    np.testing.assert_array_equal(first, circle(X))
    np.testing.assert_array_equal(block.value(X), circle(X))
    assert block.n_values == 2
    np.testing.assert_array_equal(X, [0.5, -1.0, 2.0])


def test_memo_forgets_the_least_recently_used():
    memo = Memo(2)
    for k in range(2):
        memo.put(np.array([float(k)]), k)
    assert memo.get(np.array([0.0])) == 0
    memo.put(np.array([2.0]), 2)
    assert memo.get(np.array([1.0])) is None
    assert memo.get(np.array([0.0])) == 0


# --- wrong constraints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"fun": circle}, "`constraints` has no key 'type'; it has ['fun']"),
        ([{"type": "eq"}], "`constraints[0]` has no key 'fun'"),
        ([{"type": "le", "fun": circle}], "`constraints[0]['type']` must be 'eq' or 'ineq'; got 'le'"),
        ([{"type": 3, "fun": circle}], "`constraints[0]['type']` must be 'eq' or 'ineq'; got 3"),
        ({"type": "eq", "fun": circle, "jacobian": 1}, "unknown key 'jacobian'; did you mean 'jac'?"),
        (
            [LinearConstraint(np.ones((2, 4)), 0, 1)],
            "`constraints[0].A` has shape (2, 4); 3 columns are needed, one for each entry of `x0`",
        ),
        (
            NonlinearConstraint(circle, [3, 0], [1, 1]),
            "`constraints.lb` > `constraints.ub` at index 0: 3.0 > 1.0",
        ),
        (NonlinearConstraint(circle, [0, np.nan], 1), "`constraints.lb` is nan at index 1"),
        (
            NonlinearConstraint(circle, [0, 0, 0], 1),
            "`constraints.lb` has shape (3,); a number or (2,) is needed "
            "(`constraints.fun` returned 2 values)",
        ),
        (
            NonlinearConstraint(lambda x: np.ones((2, 2)), 0, 1),
            "`constraints.fun` returned shape (2, 2); 1-D is needed",
        ),
        (
            NonlinearConstraint(circle, 0, 1, finite_diff_jac_sparsity=np.ones((3, 3))),
            "`constraints.finite_diff_jac_sparsity` has shape (3, 3); (2, 3) is needed",
        ),
        (
            NonlinearConstraint(circle, 0, 1, finite_diff_rel_step=[1e-3, 0, 1e-3]),
            "`constraints.finite_diff_rel_step` must be > 0; got 0.0 at index 1",
        ),
        (NonlinearConstraint(circle, 0, 1, jac="2point"), "did you mean '2-point'?"),
        (
            NonlinearConstraint(circle, 0, 1, jac="2-point", hess="2-point"),
            "`constraints.hess` is '2-point' while `constraints.jac` is '2-point': differences of diff",
        ),
        (NonlinearConstraint(circle, 0, 1, jac="cs", hess="cs"), "`constraints.hess`='cs' needs"),
    ],
)
def test_wrong_constraints(given, text):
    with says(text):
        blocks(given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (3, "`constraints` must be a LinearConstraint, a NonlinearConstraint or a dict; got 3"),
        ([LinearConstraint(np.ones(3)), "eq"], "`constraints[1]` must be"),
        ([Bounds(0, 1)], "pass it as `bounds`"),
        ({"type": "eq", "fun": 3}, "`constraints['fun']` must be callable; got 3"),
        ({"type": "eq", "fun": circle, "jac": 3}, "`constraints['jac']` must be callable"),
        ({"type": "eq", "fun": circle, "hess": 3}, "`constraints['hess']` must be callable"),
        (
            {"type": "eq", "fun": lambda x: None},
            "`constraints['fun']` returned None; real numbers are needed",
        ),
        ({"type": "eq", "fun": lambda x: 1j * x}, "`constraints['fun']` returned complex numbers"),
        ([LinearConstraint(sp.csr_array(1j * np.ones((1, 3))))], "`constraints[0].A` is complex"),
    ],
)
def test_constraints_of_a_wrong_kind(given, text):
    with pytest.raises(TypeError, match=re.escape(text)):
        blocks(given)


def test_linear_constraint_with_nan():
    with says("`constraints.A` has a non-finite value at index (0, 1): nan"):
        blocks(LinearConstraint([[1.0, np.nan, 2.0]]))


@pytest.mark.parametrize(
    ("jac", "text"),
    [
        (lambda x: x, "`constraints[1]['jac']` returned shape (3,); (2, 3) is needed"),
        (lambda x: np.ones((3, 2)), "`constraints[1]['jac']` returned shape (3, 2); (2, 3) is needed"),
        (lambda x: sp.eye_array(3), "`constraints[1]['jac']` returned shape (3, 3); (2, 3) is needed"),
        (
            lambda x: aslinearoperator(np.eye(3)),
            "`constraints[1]['jac']` returned an operator of shape (3, 3); (2, 3) is needed",
        ),
        (
            lambda x: [[1, 2, 3], [4]],
            "`constraints[1]['jac']` returned something that is not a rectangular array",
        ),
    ],
)
def test_wrong_shapes_of_jacobians_are_named(jac, text):
    made = blocks([LinearConstraint(np.ones(3)), {"type": "eq", "fun": circle, "jac": jac}])
    with says(text):
        made[1].jacobian(X)


@pytest.mark.parametrize(
    "jac", [lambda x: 1j * circle_jac(x), lambda x: sp.csr_array(1j * circle_jac(x)), lambda x: None]
)
def test_jacobians_of_a_wrong_kind(jac):
    (block,) = blocks(NonlinearConstraint(circle, 0, 1, jac=jac))
    with pytest.raises(TypeError, match=re.escape("`constraints.jac` returned")):
        block.jacobian(X)


def test_a_length_that_changes_is_named():
    (block,) = blocks(NonlinearConstraint(lambda x: circle(x)[: 2 if x[0] < 1 else 1], 0, 1))
    with says("`constraints.fun` returned shape (1,); (2,) is needed"):
        block.value(4 * X)


def test_complex_step_of_a_real_function_is_refused():
    (block,) = blocks(NonlinearConstraint(lambda x: np.real(circle(x)), 0, 1, jac="cs"))
    with says("needs a `constraints.fun` that computes with complex numbers; it returned float64"):
        block.jacobian(X)


def test_exceptions_pass_through():
    class Mine(Exception):
        pass

    def fun(x):
        raise Mine("as it was")

    with pytest.raises(Mine, match="as it was"):
        blocks(NonlinearConstraint(fun, 0, 1))


def test_nonlinear_block_is_what_a_dict_makes():
    assert isinstance(blocks({"type": "eq", "fun": circle})[0], NonlinearBlock)
