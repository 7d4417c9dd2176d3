"""Krylov solvers of Newton systems, whose stopping test is the true residual, and the choice of a solver."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

from .. import _core, _validate
from ..linalg._gcrodr import krylov_options
from ..linalg._operators import as_inverse, as_system
from ..linalg._short import run_short
from ._kkt import InnerResult, KKTMatrix
from ._sketch import METHODS, SketchedPreconditioner, solve_projection

# Basis vectors of a GMRES cycle: a sketch of 4 n rows needs about 25 for six digits.
_CYCLE = 60
# Variables up to which the dense factors of a sketched Hessian are worth their memory.
_LARGEST_SKETCHED = 8000
# Products that a system may take where there is no factorisation to compare with, per unknown.
_PRODUCTS = 20


def product_flops(K: KKTMatrix) -> float:
    """Flops of one product with K, as counted; an operator block counts as a dense one."""
    parts = [A.nnz if sp.issparse(A) else A.shape[0] * A.shape[1] for A in (K.H, K.J)]
    return 2.0 * parts[0] + 4.0 * parts[1]


def _system(K: KKTMatrix) -> Any:
    size = K.n + K.m
    if K.is_sparse and not K.is_operator:
        return as_system(K.to_csr(), name="K", check_finite=False)
    return as_system(LinearOperator((size, size), matvec=K.matvec, rmatvec=K.matvec, dtype=float), name="K")


def _certified(
    K: KKTMatrix, b: np.ndarray, z: np.ndarray, iterations: int, flops: float, rtol: float, solver: str
) -> InnerResult:
    norm = float(np.linalg.norm(b))
    residual = float(np.linalg.norm(K.matvec(z) - b)) / norm if norm > 0 else 0.0
    return InnerResult(z, residual, iterations, flops + product_flops(K), residual <= rtol, solver)


def _finite(b: np.ndarray, z: np.ndarray) -> bool:
    return bool(np.isfinite(b).all() and np.isfinite(z).all())


def solve_minres(
    K: KKTMatrix, b: np.ndarray, z0: np.ndarray | None = None, rtol: float = 1e-6, maxiter: int | None = None
) -> InnerResult:
    """MINRES on ``K z = b``, restarted from z until the recomputed residual is what its recurrence believes.

    Parameters
    ----------
    K : KKTMatrix
        Entries or operators.
    b : ndarray, shape (N,)
        Right-hand side.
    z0 : ndarray, shape (N,), optional
        Start, zero by default; not modified.
    rtol : float
        Stop when ``||K z - b||_2 <= rtol ||b||_2``, recomputed.
    maxiter : int, optional
        Products in all restarts together; by default 20 N.

    Returns
    -------
    InnerResult
        `converged` is False where the products ran out, or the matrix is singular and b not in its range.
    """
    size = K.n + K.m
    z = np.zeros(size) if z0 is None else np.array(z0, dtype=float)
    z_start = z.copy()
    limit = _PRODUCTS * size if maxiter is None else maxiter
    if size == 0 or not _finite(b, z) or not b.any():
        return _certified(K, b, z if size and b.any() else np.zeros(size), 0, 0.0, rtol, "minres")
    handle = _system(K).handle
    options = {"method": "minres", "rtol": rtol, "atol": 0.0, "shift": 0.0, "n_threads": 0}
    norm_b = float(np.linalg.norm(b))
    best, least, done = z.copy(), np.inf, 0
    while done < limit:
        # A leg of some N steps: past that, rounding has taken the short recurrence off its residual.
        leg = min(limit - done, max(2 * size, 50))
        report = run_short(handle, None, b, z, options | {"maxiter": leg}, None, (size,))
        done += max(report["nit"], 1)
        norm = report["residual"]
        if not norm < least:  # NaN too
            break
        gain, least = norm / least, norm
        best[:] = z
        if norm <= rtol * norm_b or (report["nit"] < leg and gain > 0.5):
            break
    if not least <= float(np.linalg.norm(K.matvec(z_start) - b)):
        best = z_start
    return _certified(K, b, best, done, done * (product_flops(K) + 18.0 * size), rtol, "minres")


def solve_sketch_prec(
    K: KKTMatrix,
    b: np.ndarray,
    z0: np.ndarray | None,
    rtol: float,
    maxiter: int | None,
    W: Any,
    state: SketchedPreconditioner | None = None,
    rng_seed: int = 0,
    sketch_size: int | None = None,
) -> InnerResult:
    """GMRES on ``K z = b``, preconditioned from the right by a sketch of the Hessian's square root.

    Right preconditioning leaves the residual what it is: the test is on ``K z - b`` itself.

    Parameters
    ----------
    K : KKTMatrix
        Entries or operators.
    b : ndarray, shape (N,)
        Right-hand side.
    z0 : ndarray, shape (N,), optional
        Start, zero by default; not modified.
    rtol : float
        Stop when ``||K z - b||_2 <= rtol ||b||_2``, recomputed.
    maxiter : int, optional
        Limit on iterations; by default 10 N, at most 1000.
    W : ndarray, sparse matrix or LinearOperator, shape (rows, n)
        The Hessian of the objective is about ``W'W``.
    state : SketchedPreconditioner, optional
        Kept from one Newton system to the next, so that a sketch serves several; new by default.
    rng_seed : int
        Of a new state.
    sketch_size : int, optional
        Rows of the sketch of a new state; by default 4 n.

    Returns
    -------
    InnerResult
        Flops include what the preconditioner cost.
    """
    size = K.n + K.m
    z = np.zeros(size) if z0 is None else np.array(z0, dtype=float)
    if size == 0 or not _finite(b, z) or not b.any():
        return _certified(K, b, z if size and b.any() else np.zeros(size), 0, 0.0, rtol, "sketch_prec")
    state = SketchedPreconditioner(sketch_size, rng_seed) if state is None else state
    before = state.flops
    if not state.prepare(K, W):
        return _certified(K, b, z, 0, state.flops - before, rtol, "sketch_prec")
    options = krylov_options(
        rtol=rtol,
        atol=0.0,
        restart=min(_CYCLE, size),
        recycle_dim=0,
        side="right",
        select="harmonic",
        carry="x",
        ortho="auto",
        basis_dtype=None,
        adaptive=False,
        n_threads=None,
    )
    options |= {"keep": False, "maxiter": min(10 * size, 1000) if maxiter is None else maxiter}
    system = _system(K)
    report = _core.krylov_solve(
        system.handle,
        as_inverse(state.operator(), system),
        np.ascontiguousarray(b, dtype=float),
        z,
        options,
        None,
        None,
        False,
        None,
        None,
        None,
        False,
    )
    iterations = report["nit"]
    state.note(iterations)
    cycle = min(_CYCLE, max(iterations, 1))
    flops = state.flops - before + report["matvecs"] * product_flops(K) + iterations * 4.0 * size * cycle / 2
    return _certified(K, b, z, iterations, flops, rtol, "sketch_prec")


class Choice(NamedTuple):
    """A solver to try and the flops it may spend; infinity for a factorisation, which ends by itself."""

    solver: str
    budget: float


def direct_flops(n: int, m: int, factor_flops: float | None = None) -> float:
    """Flops of a dense LDL' of order n + m with its triangular solves, or of a known sparse one."""
    size = float(n + m)
    return size**3 / 3.0 + 4.0 * size**2 if factor_flops is None else factor_flops


def factor_flops(K: KKTMatrix) -> float:
    """Flops of the factorisation that K would get, and of its solves; infinity for operators.

    A sparse K is ordered and analysed for it, which costs about as much as a few of its products.
    """
    if K.is_operator:
        return float("inf")
    if not K.is_sparse:
        return direct_flops(K.n, K.m)
    A = K.to_csr()
    entries, flops = _core.factor_cost(A.indptr.astype(np.int64), A.indices.astype(np.int32))
    return float(flops + 8.0 * entries)


def choose(
    n: int,
    m: int,
    *,
    product: float,
    has_root: bool = False,
    kind: str = "dense",
    kkt_solver: str = "auto",
    factor_flops: float | None = None,
) -> list[Choice]:
    """The solvers to try in turn, each with a budget, so that all cost at most about twice the direct one.

    The order is sketch-and-project, "sketch_prec" (where a root of the Hessian is at hand), "minres", "ldlt"
    (where K has entries), beginning with `kkt_solver`. Where there is a factorisation, the others share its
    flops: the first gets half, the next a quarter, and so on. Without one each may make 20 N products.

    Under "auto" what has entries is factored: a sketch of 4 n rows costs 4 n^3 flops to square where the
    factorisation of H, once it is there, costs n^3 / 3. Operators take "minres"; where there is a root and n
    is at most 8000 it may spend what a sketch costs to square, and "sketch_prec" follows.

    Parameters
    ----------
    n, m : int
        Order of the Hessian, and number of constraints.
    product : float
        Flops of one product with K.
    has_root : bool
        Whether W with ``H ~ W'W`` is at hand.
    kind : {"dense", "sparse", "operator"}
        What H and J are.
    kkt_solver : str
        "auto", "ldlt", "minres", "sketch_prec" or a method of `solve_projection`.
    factor_flops : float, optional
        Of a factorisation, see `factor_flops`; by default that of a dense one.

    Raises
    ------
    ValueError
        For "ldlt" or a sketch-and-project method with operators, and for "sketch_prec" without a root.

    Examples
    --------
    >>> [c.solver for c in choose(40, 10, product=5000.0)]
    ['ldlt']
    >>> [c.solver for c in choose(40, 10, product=5000.0, kkt_solver="kaczmarz")]
    ['kaczmarz', 'minres', 'ldlt']
    >>> [c.solver for c in choose(40, 10, product=5000.0, kind="operator", has_root=True)]
    ['minres', 'sketch_prec', 'minres']
    """
    _validate.choice("kkt_solver", kkt_solver, ("auto", "ldlt", "minres", "sketch_prec", *METHODS))
    operator = kind == "operator"
    if operator and (kkt_solver == "ldlt" or kkt_solver in METHODS):
        raise ValueError(
            f"`kkt_solver` {kkt_solver!r} needs the entries of the Hessian and the Jacobian; with a "
            "LinearOperator 'minres' and 'sketch_prec' are possible"
        )
    if kkt_solver == "sketch_prec" and not has_root:
        raise ValueError("`kkt_solver` 'sketch_prec' needs `hess_sqrt`, a square root of the Hessian")
    direct = direct_flops(n, m, factor_flops)
    first = kkt_solver
    if first == "auto":
        first = "ldlt"
        if operator:
            first = "sketch_prec" if has_root and n <= _LARGEST_SKETCHED else "minres"
    chain = [first] if first in METHODS else []
    if has_root and first in ("sketch_prec", *METHODS):
        chain.append("sketch_prec")
    if first != "ldlt":
        chain.append("minres")
    if operator:
        budgets = [Choice(solver, _PRODUCTS * (n + m) * product) for solver in chain]
        if kkt_solver == "auto" and first == "sketch_prec":  # may end before a sketch would be factored
            budgets.insert(0, Choice("minres", 4.0 * float(n) ** 3))
        return budgets
    budgets = [Choice(solver, direct / 2.0 ** (k + 1)) for k, solver in enumerate(chain)]
    return [*budgets, Choice("ldlt", np.inf)]


def solve_chain(
    chain: list[Choice],
    K: KKTMatrix,
    b: np.ndarray,
    z0: np.ndarray | None,
    rtol: float,
    *,
    W: Any = None,
    state: SketchedPreconditioner | None = None,
    seed: int = 0,
    counter: int = 0,
    sketch_size: int | None = None,
    max_inner: int | None = None,
    direct: Any = None,
) -> tuple[InnerResult, float, int]:
    """Try the solvers of `chain` in turn, each from the best iterate so far, until one meets `rtol`.

    Parameters
    ----------
    chain : list of Choice
        From `choose`.
    K, b, z0, rtol
        The system, its start and the tolerance on ``||K z - b||_2 / ||b||_2``.
    W, state : optional
        For "sketch_prec"; see `solve_sketch_prec`.
    seed, counter : int
        For the sketch-and-project methods; see `solve_projection`.
    sketch_size : int, optional
        For the first solver of the chain, whose meaning it has: columns, or rows of a new `state`.
    max_inner : int, optional
        Limit on the steps of each iterative solver besides its budget.
    direct : callable, optional
        ``direct(K, b, rtol) -> InnerResult``; needed where the chain ends with "ldlt".

    Returns
    -------
    result : InnerResult
        Of the solver that met the tolerance, else the best one found.
    flops : float
        Of all that were tried.
    fallbacks : int
        How many fell short.
    """
    product = product_flops(K)
    size = K.n + K.m
    best: InnerResult | None = None
    flops, fallbacks = 0.0, 0
    for solver, budget in chain:
        start = z0 if best is None else best.z
        size_asked = sketch_size if solver == chain[0].solver else None
        if solver == "ldlt":
            if direct is None:
                raise ValueError("`direct` is None, but the chain ends with a factorisation")
            found = direct(K, b, rtol)
        elif solver in METHODS:
            found = solve_projection(
                K,
                b,
                start,
                rtol,
                100_000 if max_inner is None else max_inner,
                solver,
                size_asked,
                seed,
                counter,
                max_flops=budget,
            )
        else:
            per_iteration = product + 18.0 * size
            if solver == "sketch_prec":
                per_iteration += 2.0 * K.n**2 + 4.0 * K.n * K.m + 2.0 * size * _CYCLE
            limit = max(1, int(min(budget / per_iteration, np.inf if max_inner is None else max_inner)))
            if solver == "minres":
                found = solve_minres(K, b, start, rtol, limit)
            else:
                found = solve_sketch_prec(K, b, start, rtol, limit, W, state, seed, size_asked)
        flops += found.flops
        if best is None or found.residual < best.residual or not np.isfinite(best.residual):
            best = found
        if found.converged:
            return found, flops, fallbacks
        fallbacks += 1
    assert best is not None
    return best, flops, fallbacks


__all__ = [
    "Choice",
    "choose",
    "direct_flops",
    "factor_flops",
    "product_flops",
    "solve_chain",
    "solve_minres",
    "solve_sketch_prec",
]
