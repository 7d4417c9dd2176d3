"""Constrained minimisation problems: control of an elliptic equation, and constrained logistic regression.

Both come with sparse derivatives where they are sparse, a square root of the objective's Hessian, and SciPy's
constraint objects, so that every solver in `scipy.optimize` form can take them. They need NumPy and SciPy;
real data is read from scikit-learn where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import LinearConstraint, NonlinearConstraint
from scipy.special import expit

from .. import _validate

Array = NDArray[Any]

__all__ = ["ConstrainedProblem", "constrained_logistic", "elliptic_control"]


@dataclass(frozen=True, eq=False)
class ConstrainedProblem:
    """``min f(x)`` subject to equations ``c(x) = 0``, in the form that `scipy.optimize` takes.

    Attributes
    ----------
    name : str
        Identifier that includes the parameters the problem was made with.
    fun : callable(x) -> float
        Objective.
    grad : callable(x) -> ndarray, shape (n,)
        Its gradient.
    hess : callable(x) -> ndarray or csr_array, shape (n, n)
        Its Hessian.
    hess_sqrt : callable(x) -> ndarray or csr_array, shape (rows, n)
        A matrix W with ``hess(x) = W.T @ W``.
    constraints : list
        `LinearConstraint` and `NonlinearConstraint` objects with Jacobians and Hessians.
    x0 : ndarray, shape (n,)
        Start.
    lam0 : ndarray, shape (m,)
        Multipliers to start with, by constraints in their order; ``L = f + lam @ c``.
    f_opt : float or None
        Objective at the minimum, where it is known.
    info : dict
        Further facts.
    """

    name: str
    fun: Callable[[Array], float]
    grad: Callable[[Array], Array]
    hess: Callable[[Array], Any]
    hess_sqrt: Callable[[Array], Any]
    constraints: list[Any]
    x0: Array
    lam0: Array
    f_opt: float | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.x0)

    @property
    def m(self) -> int:
        """Number of constraints."""
        return len(self.lam0)


# -------------------------------------------------------------------------------------------------- control

# Minima of the problems with the default parameters.
_ELLIPTIC_MINIMA = {("linear", 3): 9.64444, ("nonlinear", 8): 78.939637, ("nonlinear", 32): 1241.9671}


def _laplacian(N: int, h: float) -> sparse.csr_array:
    """Five-point Laplacian on N x N inner points, zero on the boundary, shape (N^2, N^2)."""
    line = sparse.diags_array([np.ones(N - 1), -2.0 * np.ones(N), np.ones(N - 1)], offsets=[-1, 0, 1])
    one = sparse.diags_array(np.ones(N))
    return sparse.csr_array((sparse.kron(line, one) + sparse.kron(one, line)) / h**2)


def elliptic_control(
    N: int = 8,
    kind: Literal["linear", "nonlinear", "manufactured"] = "linear",
    *,
    gamma: float = 0.1,
    kappa: float = 5.0,
) -> ConstrainedProblem:
    """Optimal control of an elliptic equation on a square, discretised on N x N inner points.

    State w and control z are grid functions, ``x = (w, z)``, ``n = 2 N**2``; the state equation is the
    constraint, ``m = N**2``; w = 0 on the boundary. The objective is
    ``|w - target|^2 / 2 + gamma |z|^2 / 2``.

    - ``"linear"``: ``Lap w + z = 0`` on (-1, 1)^2 for the five-point Laplacian, a convex quadratic program.
    - ``"nonlinear"``: ``Lap w - kappa w^3 + z = 0`` on the same square.
    - ``"manufactured"``: ``Lap w + z + s = 0`` on (0, 1)^2 with source and target made so that the solution
      of the continuous problem is ``w = p = sin(pi x) sin(pi y)``, ``z = -p / gamma`` with multiplier p: the
      error of the discrete one falls as h^2.

    Parameters
    ----------
    N : int
        Inner points per side.
    kind : {"linear", "nonlinear", "manufactured"}
        Which state equation.
    gamma : float
        Weight of the control, above 0.
    kappa : float
        Weight of the cubic term of ``"nonlinear"``.

    Returns
    -------
    ConstrainedProblem
        With csr Jacobian and Hessian of float64, ``x0`` and ``lam0`` of ones. ``info`` holds ``"h"``,
        ``"laplacian"``, ``"target"``, ``"source"``, and for ``"manufactured"`` the continuous solution at
        the points as ``"w"``, ``"z"`` and ``"p"``.

    Raises
    ------
    TypeError, ValueError
        For another kind, ``N < 1`` or ``gamma <= 0``.

    Examples
    --------
    >>> from scipy.optimize import minimize
    >>> from aitken.datasets import elliptic_control
    >>> p = elliptic_control(3)
    >>> r = minimize(p.fun, p.x0, jac=p.grad, hess=p.hess, method="trust-constr", constraints=p.constraints)
    >>> round(r.fun, 3)
    9.644
    """
    N = _validate.integer("N", N, minimum=1)
    _validate.choice("kind", kind, ("linear", "nonlinear", "manufactured"))
    gamma = _validate.positive_scalar("gamma", gamma)
    kappa = _validate.real_scalar("kappa", kappa)
    size = N * N
    made = kind == "manufactured"
    h = (1.0 if made else 2.0) / (N + 1)
    lap = _laplacian(N, h)
    steps = np.arange(1, N + 1)
    info: dict[str, Any] = {"h": h, "laplacian": lap, "gamma": gamma, "kappa": kappa}
    if made:
        wave = np.sin(np.pi * h * steps)
        w = np.outer(wave, wave).ravel()
        lap_w = -2.0 * np.pi**2 * w
        z = -w / gamma
        target, source = w + lap_w, -(lap_w + z)
        info |= {"w": w, "z": z, "p": w}
    else:
        e = 0.1 / np.sqrt(15.0)
        shift = e * (steps - (N + 1) / 2)
        target = np.add.outer(np.sin(4.0 + shift), np.cos(3.0 + shift)).ravel()
        source = np.zeros(size)
    info |= {"target": target, "source": source}

    weights = np.concatenate([np.ones(size), np.full(size, gamma)])
    shift_all = np.concatenate([target, np.zeros(size)])
    H, root = (sparse.csr_array(sparse.diags_array(d)) for d in (weights, np.sqrt(weights)))
    J = sparse.csr_array(sparse.hstack([lap, sparse.diags_array(np.ones(size))]))

    def fun(x: Array) -> float:
        d = x - shift_all
        return 0.5 * float(d @ (weights * d))

    def grad(x: Array) -> Array:
        return weights * (x - shift_all)

    constraint: Any
    if kind == "nonlinear":
        J.sort_indices()
        owner = np.repeat(np.arange(size), np.diff(J.indptr))
        diagonal = np.flatnonzero(J.indices == owner)  # where the cubic term enters the state's block

        def cons(x: Array) -> Array:
            return J @ x - kappa * x[:size] ** 3

        def jac(x: Array) -> sparse.csr_array:
            values = J.data.copy()
            values[diagonal] -= 3.0 * kappa * x[:size] ** 2
            return sparse.csr_array((values, J.indices, J.indptr), J.shape)

        def cons_hess(x: Array, v: Array) -> sparse.csr_array:
            bend = np.concatenate([-6.0 * kappa * x[:size] * v, np.zeros(size)])
            return sparse.csr_array(sparse.diags_array(bend))

        constraint = NonlinearConstraint(cons, 0.0, 0.0, jac=jac, hess=cons_hess)
    else:
        constraint = LinearConstraint(J, -source, -source)
    known = gamma == 0.1 and (kind != "nonlinear" or kappa == 5.0)
    name = f"elliptic-{kind}-N{N}-gamma{gamma:g}" + (f"-kappa{kappa:g}" if kind == "nonlinear" else "")
    return ConstrainedProblem(
        name, fun, grad, lambda x: H, lambda x: root, [constraint], np.ones(2 * size), np.ones(size),
        _ELLIPTIC_MINIMA.get((kind, N)) if known else None, info,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- regression


def _binary_rows(rows: int, n: int, density: float, seed: int) -> tuple[sparse.csr_array, Array]:
    """Sparse rows of zeros and ones with labels from a linear rule and noise."""
    rng = np.random.default_rng(seed)
    A = sparse.csr_array((rng.random((rows, n)) < density).astype(float))
    score = A @ rng.standard_normal(n)
    return A, np.where(score - np.median(score) + 0.5 * rng.standard_normal(rows) > 0, 1.0, -1.0)


def _named_data(name: str, seed: int) -> tuple[Any, Array]:
    if name == "binary-5000":
        return _binary_rows(5000, 123, 0.11, seed)
    if name == "binary-20000":
        return _binary_rows(20_000, 300, 0.04, seed)
    try:
        from sklearn import datasets as real
    except ImportError as error:
        raise ImportError(
            f"`constrained_logistic` needs scikit-learn for {name!r} ({error}): pip install 'aitken[sklearn]'"
        ) from error
    A, label = (real.load_breast_cancer if name == "breast_cancer" else real.load_digits)(return_X_y=True)
    spread = A.std(axis=0)
    A = (A - A.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    return A, np.where(label == 1 if name == "breast_cancer" else label >= 5, 1.0, -1.0)


def _given_data(data: Any) -> tuple[Any, Array]:
    try:
        A, y = data
    except (TypeError, ValueError):
        raise TypeError(
            f"`data` must be a name or a pair of a matrix and labels, got {type(data).__name__}"
        ) from None
    if sparse.issparse(A):
        A = sparse.csr_array(A, dtype=float)
    else:
        A = _validate.as_float_array("data[0]", A, ndim=2, dtype=np.float64)
    y = _validate.as_float_array("data[1]", y, ndim=1, dtype=np.float64)
    if len(y) != A.shape[0]:
        raise ValueError(f"`data` has {A.shape[0]} rows and {len(y)} labels")
    if not np.isin(y, (-1.0, 1.0)).all():
        raise ValueError(f"`data` must have labels -1 and 1, got {np.unique(y)[:5]}")
    return A, y


def constrained_logistic(
    data: Any = "breast_cancer", *, n_linear: int = 10, seed: int = 0
) -> ConstrainedProblem:
    """Logistic regression on a sphere cut by random planes.

    ``f(x) = mean_i log(1 + exp(-y_i a_i'x))`` subject to ``B x = b`` with normal random B and b, and
    ``|x|^2 = 1``: one constraint is not linear, and the feasible set is not convex.

    Parameters
    ----------
    data : str or (matrix, labels)
        ``"breast_cancer"`` (569 x 30) and ``"digits"`` (1797 x 61; 5 to 9 against 0 to 4) are real, from
        scikit-learn, standardised, without constant columns; ``"binary-5000"`` (5000 x 123, a tenth of the
        entries 1) and ``"binary-20000"`` (20000 x 300) are made from the seed and sparse. Or a dense or
        sparse matrix of shape (rows, n) with labels -1 and 1.
    n_linear : int
        Rows of B, at most ``n - 1``.
    seed : int
        Seed of B, b and the data that are made. b is drawn again until the planes meet the ball.

    Returns
    -------
    ConstrainedProblem
        `hess_sqrt` is the data matrix with scaled rows, sparse if the data are; `hess` is dense. ``x0`` and
        ``lam0`` are ones, with ``m = n_linear + 1``: the planes first. ``info`` holds ``"A"`` and ``"y"``.

    Raises
    ------
    ImportError
        If scikit-learn is missing for data that come with it.
    TypeError, ValueError
        For another name, labels that are not -1 and 1, shapes that do not fit, or ``n_linear`` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.datasets import constrained_logistic
    >>> p = constrained_logistic("binary-5000")
    >>> p.n, p.m
    (123, 11)
    >>> W = p.hess_sqrt(p.x0)
    >>> bool(np.allclose((W.T @ W).toarray(), p.hess(p.x0)))
    True
    """
    if isinstance(data, str):
        names = ("breast_cancer", "digits", "binary-5000", "binary-20000")
        A, y = _named_data(_validate.choice("data", data, names), seed)
        name = data
    else:
        A, y = _given_data(data)
        name = f"data-{A.shape[0]}x{A.shape[1]}"
    rows, n = A.shape
    n_linear = _validate.integer("n_linear", n_linear, minimum=0, maximum=n - 1)
    rng = np.random.default_rng(seed)
    B, b = rng.standard_normal((n_linear, n)), rng.standard_normal(n_linear)
    for _ in range(1000):
        if np.linalg.norm(np.linalg.lstsq(B, b)[0]) < 0.95:
            break
        b = rng.standard_normal(n_linear)
    else:
        raise ValueError(f"`n_linear` = {n_linear} planes in {n} dimensions do not meet the ball")
    signed = sparse.csr_array(A.multiply(y[:, None])) if sparse.issparse(A) else A * y[:, None]

    def fun(x: Array) -> float:
        return float(np.logaddexp(0.0, -(signed @ x)).mean())

    def grad(x: Array) -> Array:
        return np.asarray(signed.T @ (-expit(-(signed @ x)))) / rows

    def hess_sqrt(x: Array) -> Any:
        t = signed @ x
        scale = np.sqrt(expit(t) * expit(-t) / rows)
        if not sparse.issparse(A):
            return A * scale[:, None]
        return sparse.csr_array((A.data * np.repeat(scale, np.diff(A.indptr)), A.indices, A.indptr), A.shape)

    def hess(x: Array) -> Array:
        W = hess_sqrt(x)
        product = W.T @ W
        return product.toarray() if sparse.issparse(product) else product

    sphere = NonlinearConstraint(
        lambda x: np.array([x @ x - 1.0]),
        0.0,
        0.0,
        jac=lambda x: 2.0 * np.asarray(x)[None, :],
        hess=lambda x, v: 2.0 * v[0] * np.eye(n),
    )
    planes = [LinearConstraint(B, b, b)] if n_linear else []
    return ConstrainedProblem(
        f"logistic-{name}-planes{n_linear}-s{seed}", fun, grad, hess, hess_sqrt, [*planes, sphere],
        np.ones(n), np.ones(n_linear + 1), None, {"A": A, "y": y},
    )  # fmt: skip
