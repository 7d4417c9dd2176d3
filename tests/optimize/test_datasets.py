"""Control and regression problems: derivatives by differences, minima by an independent solve."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import LinearConstraint, minimize
from scipy.sparse.linalg import spsolve

from aitken.datasets import constrained_logistic, elliptic_control


def dense(M):
    return M.toarray() if sparse.issparse(M) else np.asarray(M)


def rows(p):
    """All constraints as one function of x: values less their sides, Jacobian, and Hessian of (x, v)."""

    def split(c):
        if isinstance(c, LinearConstraint):
            A = c.A
            return (lambda x: A @ x - c.lb), (lambda x: A), (lambda x, v: np.zeros((p.n, p.n)))
        return (lambda x: c.fun(x) - c.lb), c.jac, c.hess

    parts = [split(c) for c in p.constraints]

    def cons(x):
        return np.concatenate([f(x) for f, _, _ in parts])

    def jac(x):
        return np.vstack([dense(J(x)) for _, J, _ in parts])

    def hess(x, v):
        sizes = np.cumsum([len(f(x)) for f, _, _ in parts])[:-1]
        shares = np.split(v, sizes)
        return sum(dense(H(x, share)) for (_, _, H), share in zip(parts, shares, strict=True))

    return cons, jac, hess


def central(function, x, h=1e-5):
    columns = []
    for i in range(len(x)):
        e = np.zeros(len(x))
        e[i] = h
        columns.append((np.asarray(function(x + e)) - np.asarray(function(x - e))) / (2 * h))
    return np.stack(columns, axis=-1)


def close(value, wanted, rtol=1e-7):
    np.testing.assert_allclose(value, wanted, rtol=rtol, atol=rtol * max(1.0, np.abs(wanted).max()))


def small_data(kind, n=9, count=40):
    rng = np.random.default_rng(3)
    A = rng.standard_normal((count, n)) * (rng.random((count, n)) < 0.6)
    return (sparse.csr_array(A) if kind == "sparse" else A), np.where(rng.random(count) < 0.5, 1.0, -1.0)


CASES = {
    "linear": lambda: elliptic_control(3, gamma=0.3),
    "nonlinear": lambda: elliptic_control(4, "nonlinear", kappa=2.0),
    "manufactured": lambda: elliptic_control(3, "manufactured"),
    "logistic dense": lambda: constrained_logistic(small_data("dense"), n_linear=3),
    "logistic sparse": lambda: constrained_logistic(small_data("sparse"), n_linear=0),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_derivatives(make):
    p = make()
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal(p.n), rng.standard_normal(p.m)
    cons, jac, hess = rows(p)
    assert p.x0.shape == (p.n,)
    assert cons(x).shape == (p.m,)
    assert isinstance(p.fun(x), float)
    close(p.grad(x), central(p.fun, x))
    close(dense(p.hess(x)), central(p.grad, x))
    W = dense(p.hess_sqrt(x))
    close(W.T @ W, dense(p.hess(x)), 1e-13)
    close(jac(x), central(cons, x))
    close(hess(x, v), central(lambda y: v @ jac(y), x))
    before = x.copy()
    p.fun(x), p.grad(x), p.hess(x), cons(x), jac(x)
    np.testing.assert_array_equal(x, before)


def newton(p, steps=30):
    """Full Newton steps on the optimality conditions, by a sparse LU."""
    (c,) = p.constraints
    x, lam = p.x0.copy(), p.lam0.copy()
    for _ in range(steps):
        if isinstance(c, LinearConstraint):
            J, value, bend = c.A, c.A @ x - c.lb, 0.0
        else:
            J, value, bend = c.jac(x), c.fun(x), c.hess(x, lam)
        K = sparse.block_array([[p.hess(x) + bend, J.T], [J, None]], format="csc")
        step = spsolve(K, -np.concatenate([p.grad(x), value]))
        x, lam = x + step[: p.n], step[p.n :]
        if np.abs(step[: p.n]).max() < 1e-9:
            return x, lam
    pytest.fail("Newton's steps do not end")


@pytest.mark.parametrize(("kind", "N"), [("linear", 3), ("nonlinear", 8), ("nonlinear", 32)])
def test_elliptic_minima(kind, N):
    p = elliptic_control(N, kind)
    x, _ = newton(p)
    assert p.fun(x) == pytest.approx(p.f_opt, rel=1e-6)


def test_elliptic_minimum_by_scipy():
    p = elliptic_control(3)
    r = minimize(p.fun, p.x0, jac=p.grad, hess=p.hess, method="trust-constr", constraints=p.constraints)
    assert r.fun == pytest.approx(p.f_opt, rel=1e-6)
    r = minimize(p.fun, p.x0, jac=p.grad, method="SLSQP", constraints=p.constraints, options={"ftol": 1e-10})
    assert r.fun == pytest.approx(p.f_opt, rel=1e-6)


def test_elliptic_second_order():
    """The error at the points falls by four when h is halved, and has the size known for this problem."""
    errors = {}
    for N in (15, 31, 63):
        p = elliptic_control(N, "manufactured")
        x, lam = newton(p)
        w, z = x[: p.m], x[p.m :]
        errors[N] = [np.abs(w - p.info["w"]).max(), np.abs(z - p.info["z"]).max()]
        assert np.abs(lam - p.info["p"]).max() < 3 * errors[N][0]
    for N, w in ((15, 1.54e-3), (31, 3.86e-4), (63, 9.66e-5)):
        assert errors[N][0] == pytest.approx(w, rel=5e-3)
    for coarse, fine in ((15, 31), (31, 63)):
        np.testing.assert_allclose(np.array(errors[coarse]) / errors[fine], 4.0, rtol=0.01)


def test_elliptic_sizes():
    p = elliptic_control(5, "nonlinear")
    (c,) = p.constraints
    assert (p.n, p.m) == (50, 25)
    J = c.jac(p.x0)
    assert sparse.issparse(J)
    assert sparse.issparse(p.hess(p.x0))
    assert J.nnz == 5 * 25 - 4 * 5 + 25
    np.testing.assert_array_equal(c.jac(2 * p.x0).indices, J.indices)  # one pattern for every x
    assert elliptic_control(1).n == 2
    assert elliptic_control(8, "nonlinear", kappa=1.0).f_opt is None
    assert elliptic_control(8, "nonlinear", gamma=0.2).f_opt is None


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_logistic_minimum_by_scipy(kind):
    """SciPy's answer is feasible, and no feasible neighbour is better."""
    p = constrained_logistic(small_data(kind), n_linear=3)
    r = minimize(p.fun, p.x0, jac=p.grad, hess=p.hess, method="trust-constr", constraints=p.constraints)
    cons, jac, hess = rows(p)
    assert np.abs(cons(r.x)).max() < 1e-6
    J = jac(r.x)
    lam = np.linalg.lstsq(J.T, -p.grad(r.x))[0]
    assert np.abs(p.grad(r.x) + J.T @ lam).max() < 1e-5
    null = np.linalg.svd(J)[2][p.m :]
    assert np.linalg.eigvalsh(null @ (dense(p.hess(r.x)) + hess(r.x, lam)) @ null.T).min() > 0


def test_logistic_dense_and_sparse_agree():
    d, s = (constrained_logistic(small_data(kind), n_linear=3) for kind in ("dense", "sparse"))
    x = np.random.default_rng(1).standard_normal(d.n)
    assert d.fun(x) == pytest.approx(s.fun(x), rel=1e-14)
    close(d.grad(x), s.grad(x), 1e-13)
    close(d.hess(x), s.hess(x), 1e-13)
    assert sparse.issparse(s.hess_sqrt(x))
    assert not sparse.issparse(d.hess_sqrt(x))


def test_logistic_large_arguments():
    p = constrained_logistic(small_data("dense"), n_linear=2)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        far = 1e4 * p.x0
        assert np.isfinite(p.fun(far))
        assert np.isfinite(p.grad(far)).all()
        assert np.isfinite(p.hess(far)).all()


def test_logistic_feasible():
    """The planes meet the sphere: their point nearest to zero is inside."""
    for seed in range(5):
        p = constrained_logistic(small_data("dense"), n_linear=8, seed=seed)
        B, b = p.constraints[0].A, p.constraints[0].lb
        assert np.linalg.norm(np.linalg.lstsq(B, b)[0]) < 1.0


@pytest.mark.parametrize(("name", "n", "count"), [("binary-5000", 123, 5000), ("binary-20000", 300, 20000)])
def test_logistic_made_data(name, n, count):
    p = constrained_logistic(name)
    A, y = p.info["A"], p.info["y"]
    assert A.shape == (count, n)
    assert sparse.issparse(A)
    assert p.m == 11
    assert set(A.data) == {1.0}
    assert 0.3 < (y > 0).mean() < 0.7
    again = constrained_logistic(name)
    np.testing.assert_array_equal(again.info["A"].indices, A.indices)
    np.testing.assert_array_equal(again.constraints[0].A, p.constraints[0].A)


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")
@pytest.mark.parametrize(("name", "shape"), [("breast_cancer", (569, 30)), ("digits", (1797, 61))])
def test_logistic_real_data(name, shape):
    p = constrained_logistic(name)
    A = p.info["A"]
    assert A.shape == shape
    np.testing.assert_allclose(A.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(A.std(axis=0), 1.0, rtol=1e-12)
    assert p.m == 11


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: elliptic_control(0), ValueError, "`N`"),
        (lambda: elliptic_control(2.5), TypeError, "`N`"),
        (lambda: elliptic_control(3, "cubic"), ValueError, "`kind`.*cubic"),
        (lambda: elliptic_control(3, gamma=0.0), ValueError, "`gamma`"),
        (lambda: constrained_logistic("iris"), ValueError, "`data`.*iris"),
        (lambda: constrained_logistic(3), TypeError, "`data`.*int"),
        (lambda: constrained_logistic((np.ones((3, 2)), np.ones(4))), ValueError, "3 rows and 4 labels"),
        (lambda: constrained_logistic((np.ones((3, 2)), [0, 1, 1])), ValueError, "labels -1 and 1"),
        (lambda: constrained_logistic(small_data("dense"), n_linear=9), ValueError, "`n_linear`.*9"),
    ],
)
def test_bad_input(make, error, named):
    with pytest.raises(error, match=named):
        make()
