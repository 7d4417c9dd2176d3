"""Right derivatives pass; one wrong entry is found, named by the user's indices, with both values."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import aslinearoperator

from aitken.optimize._check_derivatives import check_derivatives
from aitken.optimize._problem import Problem

X = np.array([0.7, -0.4, 1.3, 0.2])
CROSS = np.zeros((4, 4))
CROSS[0, 2] = CROSS[2, 0] = 1.0


def f(x):
    return np.sum(np.exp(x)) + x[0] * x[2]


def real_f(x):
    return float(np.sum(np.exp(np.asarray(x, dtype=np.float64)))) + float(x[0] * x[2])


def g(x):
    return np.exp(x) + CROSS @ x


def H(x):
    return np.diag(np.exp(x)) + CROSS


def c(x):
    return np.array([x @ x, np.sin(x[1]) * x[3]])


def J(x):
    return np.array([2 * x, [0 * x[0], np.cos(x[1]) * x[3], 0 * x[0], np.sin(x[1])]])


def Hc(x, v):
    second = np.zeros((4, 4))
    second[1, 1] = -np.sin(x[1]) * x[3]
    second[1, 3] = second[3, 1] = np.cos(x[1])
    return 2 * v[0] * np.eye(4) + v[1] * second


def check(fun=f, jac=g, hess=H, hessp=None, c=c, J=J, Hc=Hc, x=X, constraints=None, **rest):
    if constraints is None:
        constraints = [LinearConstraint(np.ones((1, 4)), 0, 1), NonlinearConstraint(c, 0, 0, jac=J, hess=Hc)]
    P = Problem.from_arguments(fun, X, (), jac, hess, hessp, constraints, **rest)
    return check_derivatives(P, np.asarray(x)[P.variables.free], 0)


def off(function, *index, by=1e-3):
    """`function` with one entry of its result moved."""

    def wrong(*arguments):
        result = np.array(function(*arguments))
        result[index] += by
        return result

    return wrong


def test_right_derivatives_are_listed():
    found = {finding.name: finding for finding in check()}
    assert list(found) == ["jac", "constraints[1].jac", "hess", "constraints[1].hess"]
    assert {finding.method for finding in found.values()} == {"complex step"}
    assert [finding.compared for finding in found.values()] == [4, 8, 16, 16]
    assert max(finding.error for finding in found.values()) < 1e-12


def test_real_functions_are_compared_with_central_differences():
    found = {finding.name: finding for finding in check(fun=real_f)}
    assert found["jac"].method == "central differences"
    assert 0.0 < found["jac"].error < 1e-6
    assert found["hess"].method == "complex step"


@pytest.mark.parametrize("fun", [f, real_f])
@pytest.mark.parametrize("k", range(4))
def test_a_wrong_gradient_is_named(fun, k):
    text = f"`jac` is wrong at [{k}]: it gives {g(X)[k] + 1e-3:.6g}"
    with pytest.raises(ValueError, match=re.escape(text)[:-1]) as caught:
        check(fun=fun, jac=off(g, k))
    reference = float(str(caught.value).split("give ")[-1])
    assert reference == pytest.approx(g(X)[k], rel=1e-8)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"J": off(J, 1, 3)}, "`constraints[1].jac` is wrong at [1, 3]"),
        ({"J": off(J, 0, 0, by=-1e-5)}, "`constraints[1].jac` is wrong at [0, 0]"),
        ({"J": lambda x: sp.csr_array(off(J, 1, 0)(x))}, "`constraints[1].jac` is wrong at [1, 0]"),
        ({"J": lambda x: aslinearoperator(off(J, 1, 2)(x))}, "`constraints[1].jac` is wrong at [1, 2]"),
        ({"hess": off(H, 2, 2)}, "`hess` is wrong at [2, 2]"),
        ({"hess": lambda x: np.triu(H(x))}, "`hess` is not symmetric: [0, 2] is 1, [2, 0] is 0"),
        (
            {"hess": lambda x: sp.csr_array(np.tril(H(x)))},
            "`hess` is not symmetric: [0, 2] is 0, [2, 0] is 1",
        ),
        ({"hess": lambda x: aslinearoperator(off(H, 3, 3)(x))}, "`hess` is wrong at [3, 3]"),
        ({"hess": None, "hessp": lambda x, p: off(H, 1, 1)(x) @ p}, "`hessp` is wrong at [1, 1]"),
        ({"Hc": lambda x, v: Hc(x, -v)}, "`constraints[1].hess` is wrong at [0, 0]"),
        ({"Hc": off(Hc, 3, 3)}, "`constraints[1].hess` is wrong at [3, 3]"),
        ({"jac": None, "hess": lambda x: 1.01 * H(x)}, "`hess` is wrong: p'Hp is"),
        ({"lagrangian_hess": lambda x, v: H(x) + Hc(x, v[:2])}, "`lagrangian_hess` is wrong at"),
        ({"jac": lambda x: np.r_[g(x)[:3], np.nan]}, "`jac` is wrong at [3]: it gives nan"),
        (
            {"constraints": {"type": "eq", "fun": c, "jac": off(J, 1, 1)}},
            "`constraints['jac']` is wrong at [1, 1]",
        ),
    ],
)
def test_each_kind_of_mistake_is_named(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        check(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"J": lambda x: sp.coo_array(J(x))},
        {"J": lambda x: aslinearoperator(J(x))},
        {"hess": lambda x: sp.csr_array(H(x))},
        {"hess": lambda x: aslinearoperator(H(x))},
        {"hess": None, "hessp": lambda x, p: H(x) @ p},
        {"hess": None, "hessp": lambda x, p: H(x) @ p, "form_products": False},
        {"jac": None},
        {"jac": "cs"},
        {"J": "2-point"},
        {"J": "cs"},
        {"lagrangian_hess": lambda x, v: H(x) + Hc(x, v[1:])},
        {"jac": None, "lagrangian_hess": lambda x, v: H(x) + Hc(x, v[1:])},
        {"fun": lambda x: (f(x), g(x)), "jac": True},
        {"bounds": Bounds(X, np.inf)},
        {"bounds": Bounds(X - 1e-5, X + 1e-5)},
        {"bounds": [(None, None), (-0.4, -0.4), (0, 9), (0.2, 0.2)]},
        {"hess": None, "Hc": None},
    ],
)
def test_right_derivatives_pass_in_every_form(arguments):
    for finding in check(**arguments):
        assert finding.error < 1e-4


def test_indices_are_those_of_all_variables():
    fixed = [(None, None), (-0.4, -0.4), (0, 9), (0.2, 0.2)]
    with pytest.raises(ValueError, match=re.escape("`jac` is wrong at [2]")):
        check(jac=off(g, 2), bounds=fixed)
    with pytest.raises(ValueError, match=re.escape("`hess` is wrong at [2, 2]")):
        check(hess=off(H, 2, 2), bounds=fixed)
    check(jac=off(g, 1), hess="2-point", bounds=fixed)  # the derivative by a fixed variable is not used


def test_points_compared_are_inside_the_bounds():
    lower, upper = X - np.array([0, 1e-7, 1, 1]), X + np.array([1, 1e-7, 0, 1])

    def guarded(function):
        def inner(x, *rest):
            x = np.real(x)
            assert (x >= lower).all()
            assert (x <= upper).all()
            return function(x, *rest)

        return inner

    check(fun=guarded(real_f), jac=guarded(g), hess=guarded(H), constraints=(), bounds=Bounds(lower, upper))


def test_a_function_that_is_not_analytic_is_not_condemned():
    """A complex step through abs() is wrong: central differences have the last word."""
    check(fun=lambda x: np.sum(np.abs(x) ** 3) + 0j * x[0] if np.iscomplexobj(x) else np.sum(np.abs(x) ** 3),
          jac=lambda x: 3 * np.abs(x) * x, hess="3-point", constraints=())  # fmt: skip


def test_numbers_that_are_not_finite_are_not_judged():
    found = check(fun=lambda x: np.inf, jac=lambda x: np.zeros(4), hess="2-point", constraints=())
    assert found[0].compared == 0


def large(n=450, wrong=None):
    rng = np.random.default_rng(5)
    a = rng.standard_normal(n)

    def fun(x):
        return np.sum(np.cos(a * x))

    def jac(x):
        result = -a * np.sin(a * x)
        if wrong is not None:
            result[wrong] *= 1.01
        return result

    def con(x):
        return np.array([x @ x, x[0] * x[-1]])

    def con_jac(x):
        result = np.vstack([2 * x, 0 * x])
        result[1, 0], result[1, -1] = x[-1], x[0]
        return result

    given = NonlinearConstraint(con, 0, 0, jac=con_jac, hess="2-point")
    P = Problem.from_arguments(fun, rng.uniform(1, 2, n), (), jac, "bfgs", None, given)
    return P, check_derivatives


@pytest.mark.parametrize("k", [0, 173, 449])
def test_large_problems_are_compared_along_directions_and_searched_by_halves(k):
    P, run = large(wrong=k)
    with pytest.raises(ValueError, match=re.escape(f"`jac` is wrong at [{k}]")):
        run(P, P.x0, 1)


def test_large_problems_that_are_right():
    P, run = large()
    found = run(P, P.x0, 1)
    assert [finding.name for finding in found] == ["jac", "constraints.jac"]
    assert [finding.compared for finding in found] == [10, 20]
    assert P.ngev == 1
