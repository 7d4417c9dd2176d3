"""The demonstration's constrained minimisation: regression on spheres, control of a field."""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import NonlinearConstraint, minimize
from scipy.sparse.linalg import splu

from ..datasets import ConstrainedProblem, constrained_logistic, elliptic_control
from ..optimize import sketched_newton
from .figures import OURS, PEER, PLAIN

TOL = 1e-6
_DENSE_LIMIT = 500  # variables beyond which SLSQP, whose least squares are dense, is not asked


@dataclass
class Row:
    """One line of the table; of several problems the worst errors and the sums of everything else."""

    solver: str
    seconds: float = 0.0
    kkt: float = 0.0  # ||g + J'lam||_inf with multipliers of least squares
    violation: float = 0.0  # ||c||_inf
    fun: float = 0.0
    gradients: int = 0
    note: str = ""

    def ok(self) -> bool:
        """Whether the recomputed certificate holds; not for NaN."""
        return bool(self.kkt <= TOL and self.violation <= TOL)


@dataclass
class Case:
    """Problems solved one after the other, who solved them, and where the gradients were asked for."""

    title: str
    problems: list[ConstrainedProblem]
    rows: list[Row] = field(default_factory=list)
    paths: dict[str, list[tuple[float, Any]]] = field(default_factory=dict)  # solver: (seconds, x)

    def ok(self) -> bool:
        """Whether our answer, the first row, met its certificate."""
        return self.rows[0].ok()


def stacked(p: ConstrainedProblem, x: Any) -> tuple[Any, Any]:
    """c(x) of all equations, shape (m,), and its Jacobian, (m, n)."""
    values, slopes = [], []
    for constraint in p.constraints:
        if isinstance(constraint, NonlinearConstraint):
            values.append(np.atleast_1d(constraint.fun(x)) - constraint.lb)
            slopes.append(constraint.jac(x))
        else:
            values.append(constraint.A @ x - constraint.lb)
            slopes.append(constraint.A)
    if any(sparse.issparse(J) for J in slopes):
        return np.concatenate(values), sparse.csr_array(sparse.vstack(slopes))
    return np.concatenate(values), np.vstack(slopes)


def errors(p: ConstrainedProblem, x: Any) -> tuple[float, float]:
    """``(||g + J'lam||_inf, ||c||_inf)`` of a point, lam by least squares: the same for every solver."""
    if not np.isfinite(x).all():
        return np.nan, np.nan
    g = p.grad(x)
    c, J = stacked(p, x)
    if sparse.issparse(J):  # normal equations, and once more for what they lose
        gram, left = splu(sparse.csc_array(J @ J.T), permc_spec="MMD_AT_PLUS_A"), g
        for _ in range(2):
            left = left - J.T @ gram.solve(J @ left)
    else:
        left = g + J.T @ np.linalg.lstsq(J.T, -g)[0]
    return float(np.abs(left).max()), float(np.abs(c).max())


def _radii(p: ConstrainedProblem, largest: float, count: int) -> list[ConstrainedProblem]:
    """The regression on spheres of growing radius: less and less is forbidden."""

    def on_sphere(radius: float) -> ConstrainedProblem:
        sphere = p.constraints[-1]
        grown = NonlinearConstraint(
            lambda x: sphere.fun(x) + 1.0 - radius**2, 0.0, 0.0, jac=sphere.jac, hess=sphere.hess
        )
        return replace(p, name=f"{p.name}-radius{radius:g}", constraints=[*p.constraints[:-1], grown])

    return [on_sphere(radius) for radius in np.linspace(1.0, largest, count)]


def cases(fast: bool) -> tuple[list[Case], list[str]]:
    """The problems, and what is missing for others."""
    missing = []
    try:
        regression, name = constrained_logistic("breast_cancer"), "breast cancer"
    except ImportError as error:
        missing.append(
            str(error).replace("`constrained_logistic` ", "the regression's data: aitken.datasets ")
        )
        regression, name = constrained_logistic("binary-5000"), "made data"
    N = 32 if fast else 64
    field_problem = elliptic_control(N, "nonlinear")
    count = 4 if fast else 24
    return [
        Case(f"logistic regression, {name}, n = {regression.n}, m = {regression.m}", [regression]),
        Case(f"the same on {count} spheres", _radii(regression, 3.0, count)),
        Case(f"control of a field, {N} x {N}, n = {field_problem.n}, m = {field_problem.m}", [field_problem]),
    ], missing


# --------------------------------------------------------------------------------------------- solvers


class _Watched:
    """A problem whose gradients are counted and noted with the time."""

    def __init__(self, p: ConstrainedProblem, path: list[tuple[float, Any]], begun: float) -> None:
        self.p, self.path, self.begun = p, path, begun

    def grad(self, x: Any) -> Any:
        self.path.append((time.perf_counter() - self.begun, np.array(x)))
        return self.p.grad(x)


Solve = Callable[[ConstrainedProblem, Callable[..., Any], Any, float], tuple[Any, Any]]


def _once(
    problems: list[ConstrainedProblem], row: Row, solve: Solve, stops: tuple[float, ...], warm: bool
) -> Any:
    """Fill `row`: all problems in order, each from the last answer; returns where gradients were asked for.

    Thresholds are tightened until the certificate holds; of the runs that takes only the last one counts.
    """
    path: list[tuple[float, Any]] = []
    carried, nit = None, 0
    for p in problems:
        for stop in stops:
            taken: list[tuple[float, Any]] = []
            start = time.perf_counter()
            watched = _Watched(p, taken, start - row.seconds)
            x, result = solve(p, watched.grad, carried if warm else None, stop)
            seconds = time.perf_counter() - start
            kkt, violation = errors(p, x)
            if kkt <= TOL and violation <= TOL:
                break
        carried = result
        row.seconds += seconds
        row.kkt = float(np.maximum(row.kkt, kkt))  # NaN stays
        row.violation = float(np.maximum(row.violation, violation))
        row.fun += p.fun(x)
        row.gradients += len(taken)
        nit += int(result.nit)
        path += taken
    row.note = f"{nit} iterations{', ' + row.note if row.note else ''}"
    return path


def _walk(
    case: Case, name: str, solve: Solve, stops: tuple[float, ...], note: str = "", *, warm: bool = True
) -> None:
    """Append the row of one solver: the median of one to three runs after a first one."""
    runs: list[tuple[Row, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(runs) < 2 or (len(runs) < 4 and runs[0][0].seconds < 0.02):
            row = Row(name, note=note)
            runs.append((row, _once(case.problems, row, solve, stops, warm)))
    runs = sorted(runs[1:], key=lambda run: run[0].seconds)
    row, path = runs[(len(runs) - 1) // 2]
    case.rows.append(row)
    case.paths[name] = path


def ours(p: ConstrainedProblem, grad: Any, last: Any, stop: float) -> tuple[Any, Any]:
    """Our point, NaN where it is no success, and our result."""
    r = sketched_newton(
        p.fun, p.x0, jac=grad, hess=p.hess, constraints=p.constraints, tol=stop, warm_start=last
    )
    return (r.x if r.success else np.full(p.n, np.nan)), r


def _trust_constr(p: ConstrainedProblem, grad: Any, last: Any, stop: float) -> tuple[Any, Any]:
    r = minimize(
        p.fun, p.x0 if last is None else last.x, jac=grad, hess=p.hess, method="trust-constr",
        constraints=p.constraints, options={"gtol": stop, "xtol": 1e-10},
    )  # fmt: skip
    return r.x, r


def _slsqp(p: ConstrainedProblem, grad: Any, last: Any, stop: float) -> tuple[Any, Any]:
    r = minimize(
        p.fun, p.x0 if last is None else last.x, jac=grad, method="SLSQP",
        constraints=p.constraints, options={"ftol": stop, "maxiter": 1000},
    )  # fmt: skip
    return r.x, r


class _Ipopt:
    """What cyipopt asks for: the Jacobian by rows, the lower triangle of the Lagrangian's Hessian."""

    nit = 0

    def __init__(self, p: ConstrainedProblem, grad: Any) -> None:
        self.p, self.objective, self.gradient = p, p.fun, grad
        J, H = stacked(p, p.x0)[1], self._curvature(p.x0, np.ones(p.m), 1.0)
        if sparse.issparse(J):
            self.rows, self.columns = np.repeat(np.arange(p.m), np.diff(J.indptr)), J.indices
            self.lower = sparse.coo_array(sparse.tril(H)).coords
        else:
            self.rows, self.columns = (part.ravel() for part in np.indices(J.shape))
            self.lower = np.tril_indices(p.n)

    def constraints(self, x: Any) -> Any:
        return stacked(self.p, x)[0]

    def jacobianstructure(self) -> tuple[Any, Any]:
        return self.rows, self.columns

    def jacobian(self, x: Any) -> Any:
        J = stacked(self.p, x)[1]
        return J.data if sparse.issparse(J) else J.ravel()

    def hessianstructure(self) -> tuple[Any, Any]:
        return self.lower

    def hessian(self, x: Any, v: Any, weight: float) -> Any:
        return np.asarray(self._curvature(x, v, weight)[self.lower]).ravel()

    def intermediate(self, _mode: int, count: int, *_: Any) -> bool:
        self.nit = count
        return True

    def _curvature(self, x: Any, v: Any, weight: float) -> Any:
        H, first = weight * self.p.hess(x), 0
        for constraint in self.p.constraints:
            size = np.size(constraint.lb)
            if isinstance(constraint, NonlinearConstraint):
                size = np.atleast_1d(constraint.fun(x)).size
                H = H + constraint.hess(x, v[first : first + size])
            first += size
        return sparse.csr_array(H) if sparse.issparse(H) else H


def _ipopt(p: ConstrainedProblem, grad: Any, last: Any, stop: float) -> tuple[Any, Any]:
    calls = _Ipopt(p, grad)
    zero = np.zeros(p.m)
    nlp = importlib.import_module("cyipopt").Problem(n=p.n, m=p.m, problem_obj=calls, cl=zero, cu=zero)
    for option, value in {"tol": stop, "print_level": 0, "sb": "yes"}.items():
        nlp.add_option(option, value)
    calls.x, _ = nlp.solve(p.x0 if last is None else last.x)  # type: ignore[attr-defined]
    return calls.x, calls  # type: ignore[attr-defined]


def _one_thread() -> Any:
    """On matrices as small as these BLAS's second thread makes every solver several times slower."""
    try:
        return importlib.import_module("threadpoolctl").threadpool_limits(1, user_api="blas")
    except ImportError:
        return contextlib.nullcontext()


def solve(case: Case, *, with_ipopt: bool) -> None:
    """Fill the rows: ours and the peers, each from the same start, or from its own last answer."""
    sequence, large = len(case.problems) > 1, case.problems[0].n > _DENSE_LIMIT
    with _one_thread():
        _walk(case, "aitken", ours, (TOL,), "warm starts" if sequence else "")
        if sequence:
            _walk(case, "aitken, cold starts", ours, (TOL,), warm=False)
        _walk(case, "SciPy trust-constr", _trust_constr, (1e-6, 1e-8, 1e-10))
        if not large:
            _walk(case, "SciPy SLSQP", _slsqp, (1e-10, 1e-13, 1e-16), "no Hessian")
        if with_ipopt:
            _walk(case, "Ipopt", _ipopt, (1e-7, 1e-9))


def table_lines(all_cases: list[Case]) -> list[tuple[str, ...]]:
    """The table, with its header."""
    header = ("problem", "solver", "time", "KKT", "violation", "gradients", "x ours", "objective, remarks")
    lines: list[tuple[str, ...]] = [header]
    for case in all_cases:
        for k, row in enumerate(case.rows):
            seconds = f"{row.seconds:.2f} s" if row.seconds >= 1 else f"{1e3 * row.seconds:.1f} ms"
            ratio = "" if k == 0 else f"{row.seconds / case.rows[0].seconds:.2g}" if row.ok() else "-"
            errs = (f"{row.kkt:.0e}", f"{row.violation:.0e}", str(row.gradients))
            first, remark = case.title if k == 0 else "", f"{row.fun:.8g}, {row.note}"
            lines.append((first, row.solver, seconds, *errs, ratio, remark))
        if case.problems[0].n > _DENSE_LIMIT:
            lines.append(
                ("", "SciPy SLSQP", "-", "", "", "", "-", f"not run: dense, n = {case.problems[0].n}")
            )
    return lines


# -------------------------------------------------------------------------------------------- pictures


def draw_paths(axes: Any, case: Case, *, clock: bool = False) -> None:
    """Three axes: objective from the best one, violation and KKT error, wherever a gradient was asked for.

    The x axis counts these points, or with `clock` has their milliseconds.
    """
    p = case.problems[0]
    best = min(case.rows, key=lambda row: max(row.kkt, row.violation)).fun
    styles = {"aitken": (OURS, "o-"), "SciPy trust-constr": (PEER, "s-"), "SciPy SLSQP": (PLAIN, "^-")}
    for name, path in case.paths.items():
        colour, style = styles.get(name, ("#d9b44a", "d-"))
        t = np.array([1e3 * when for when, _ in path]) if clock else np.arange(1, len(path) + 1)
        found = np.array([errors(p, x) for _, x in path])
        gaps = np.array([abs(p.fun(x) - best) for _, x in path])
        for ax, values in zip(axes, (gaps, found[:, 1], found[:, 0]), strict=True):
            ax.semilogy(t, np.maximum(values, 1e-14), style, color=colour, ms=3, lw=1.2, label=name)
    for ax, title in zip(axes, ("|f - f*|", "violation", "KKT"), strict=True):
        ax.set(xlabel="milliseconds" if clock else "gradients", title=title)
        ax.title.set_fontsize(10)
    for ax in axes[1:]:
        ax.axhline(TOL, color="#999999", lw=0.8, ls=":")
    axes[0].legend(fontsize=7, loc="upper right")
