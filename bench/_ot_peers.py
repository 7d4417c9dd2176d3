"""OTT-JAX and GeomLoss on the problems of `bench/ot.py`, in a child process that may be ended.

Each job names a problem and a solver; what is yielded per solve is its seconds, the settings, the iterations
and the certificate, recomputed here in NumPy from the potentials that the solver returned. Compilation is not
timed.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.special import logsumexp

from aitken import datasets
from aitken._demo import tightened

Sample = dict[str, Any]
Solve = Callable[[Any], tuple[Any, Any, int]]  # threshold or budget -> row and column potentials, iterations


def pin(threads: int) -> None:
    """Keep this process on that many CPUs: the pools of JAX and torch take one thread for each."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + ("true" if threads > 1 else "false")


def plan_of(p: Any, M: Any, f: Any, g: Any, kl: bool, k: Any = slice(None)) -> Any:
    """The plan of entropy-form potentials, or with `kl` of those that leave the weights outside."""
    a, b, M = p.a[k], p.b[k], M[k] if M.ndim == 3 else M
    with np.errstate(all="ignore"):
        plan = np.exp((f[..., :, None] + g[..., None, :] - M) / p.reg)
        return a[..., :, None] * b[..., None, :] * plan if kl else plan


def marginal_error(plan: Any, a: Any, b: Any) -> float:
    """Largest L1 error of both marginals over the plans of a batch."""
    error = np.abs(plan.sum(-1) - a).sum(-1) + np.abs(plan.sum(-2) - b).sum(-1)
    return float(np.max(error))


def grid_error(p: Any, f: Any, g: Any) -> float:
    """L1 error of both marginals on a grid, by sums of exponentials along each axis."""
    shape = p.info["image_shape"]
    scale = p.reg * p.info["cost_scale"]
    matrices = []
    for k in shape:
        x = (np.arange(k) + 0.5) / k
        matrices.append(-((x[:, None] - x) ** 2) / scale)

    def along(z: Any) -> Any:
        z = logsumexp(matrices[0][:, :, None] + z[None], axis=1)
        return logsumexp(matrices[1][None] + z[:, None], axis=2)

    u, v = (np.reshape(q, shape) / p.reg for q in (f, g))
    a, b = p.a.reshape(shape), p.b.reshape(shape)
    rows = a * np.exp(u + along(np.log(b) + v))
    columns = b * np.exp(v + along(np.log(a) + u))
    return float(np.abs(rows - a).sum() + np.abs(columns - b).sum())


def cost_of(p: Any) -> Any:
    """The cost matrices of a problem, from the points where it has none."""
    return datasets.transport._cost(p.X, p.Y, "sqeuclidean") if p.M is None else p.M


# ------------------------------------------------------------------------------------------------- OTT-JAX


def _ott(p: Any, kind: str, scaling: bool) -> Solve:
    """Solver of OTT-JAX on scalings, or with log-sum-exp."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from ott.geometry import geometry, grid, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    rho = p.info.get("rho")
    tau = 1.0 if rho is None else rho / (rho + p.reg)

    def run(threshold: float, M: Any, a: Any, b: Any) -> Any:
        if kind == "grid":
            axes = [jax.numpy.linspace(0.5 / k, 1 - 0.5 / k, k) for k in p.info["image_shape"]]
            geom: Any = grid.Grid(x=axes, epsilon=p.reg * p.info["cost_scale"])
        elif kind == "points":
            geom = pointcloud.PointCloud(p.X, p.Y, epsilon=p.reg)
        else:
            geom = geometry.Geometry(cost_matrix=M, epsilon=p.reg)
        problem = linear_problem.LinearProblem(geom, a, b, tau_a=tau, tau_b=tau)
        solver = sinkhorn.Sinkhorn(lse_mode=not scaling, threshold=threshold, max_iterations=100_000)
        out = solver(problem)
        return out.f, out.g, out.n_iters

    @functools.lru_cache
    def compiled(threshold: float) -> Any:
        one = functools.partial(run, threshold)
        return jax.jit(jax.vmap(one) if kind == "batch" else one)

    # Points and grids bring their own costs; its unbalanced problem measures plans against 1, not a b^T.
    shift = 0.0 if rho is None else p.reg * (np.log(p.a)[:, None] + np.log(p.b))
    M = None if kind in ("points", "grid") else jax.numpy.asarray(p.M - shift)
    unit = p.info["cost_scale"] if kind == "grid" else 1.0
    a, b = jax.numpy.asarray(p.a), jax.numpy.asarray(p.b)

    def solve(threshold: float) -> tuple[Any, Any, int]:
        f, g, nit = compiled(threshold)(M, a, b)
        return f / unit, g / unit, int(np.max(np.asarray(nit)))

    return solve


# ------------------------------------------------------------------------------------------------ GeomLoss


def _geomloss(p: Any, kind: str) -> Solve:
    """Solver of GeomLoss: a number of iterations along decreasing regularisations, no tolerance."""
    import torch
    from geomloss import ot

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    take = torch.from_numpy
    a, b = take(p.a), take(p.b)

    def solve(iterations: int) -> tuple[Any, Any, int]:
        options = {"reg": p.reg, "a": a, "b": b, "max_iter": iterations, "unbalanced": p.info.get("rho")}
        if kind == "points":
            r = ot.solve_sample(take(p.X), take(p.Y), **options)
        elif kind == "batch":
            r = ot.solve_batch(take(p.M), **options)
        else:
            r = ot.solve(take(p.M), **options)
        return r.potential_a, r.potential_b, iterations

    return solve


# ------------------------------------------------------------------------------------------------- the child


def unbalanced_error(plan: Any, a: Any, b: Any, f: Any, g: Any, rho: float) -> float:
    """Distance of the marginals from ``a exp(-f / rho)`` and ``b exp(-g / rho)``, over the mass."""
    rows = np.abs(plan.sum(axis=1) - a * np.exp(-f / rho)).sum()
    return float((rows + np.abs(plan.sum(axis=0) - b * np.exp(-g / rho)).sum()) / plan.sum())


def divergence(job: dict[str, Any]) -> Sample:
    """Divergence between a cloud and a permuted copy, over the largest cost."""
    X, Y, reg = job["X"], job["Y"], job["reg"]
    if job["solver"].startswith("OTT"):
        import jax

        jax.config.update("jax_enable_x64", True)
        from ott.geometry import pointcloud
        from ott.tools import sinkhorn_divergence

        solver = {"threshold": 0.9 * job["tol"], "max_iterations": 100_000}

        @jax.jit
        def value_of(x: Any, y: Any) -> Any:
            return sinkhorn_divergence.sinkhorn_divergence(
                pointcloud.PointCloud, x, y, epsilon=reg, solve_kwargs=solver
            )[0]

        def work() -> float:
            return float(value_of(X, Y))
    else:
        import torch
        from geomloss import SamplesLoss

        # Its cost is half of the squared distance.
        loss = SamplesLoss("sinkhorn", p=2, blur=float(np.sqrt(reg / 2)), scaling=0.9, backend="tensorized")

        def work() -> float:
            return 2 * float(loss(torch.from_numpy(X), torch.from_numpy(Y)))

    work()
    start = time.perf_counter()
    value = work()
    return {"seconds": time.perf_counter() - start, "value": value}


def samples(job: dict[str, Any]) -> Iterator[Sample]:
    """Solve with growing accuracy until the recomputed certificate holds, then repeat that."""
    pin(job["threads"])
    warnings.simplefilter("ignore")
    if job["kind"] == "divergence":
        yield divergence(job)
        return
    p = getattr(datasets, job["make"])(**job["with"])
    p.info.update(job.get("info", {}))
    kind, tol = job["kind"], job["tol"]
    is_ott = job["solver"].startswith("OTT")
    solve = _ott(p, kind, "scaling" in job["solver"]) if is_ott else _geomloss(p, kind)
    M = None if kind == "grid" else cost_of(p)
    rho = p.info.get("rho")

    def certificate(f: Any, g: Any) -> float:
        f, g = np.asarray(f), np.asarray(g)
        if M is None:
            return grid_error(p, f.ravel() - p.reg * np.log(p.a), g.ravel() - p.reg * np.log(p.b))
        if rho is not None:
            return unbalanced_error(plan_of(p, M, f, g, kl=True), p.a, p.b, f, g, rho)
        if M.ndim == 3:
            each = (
                marginal_error(plan_of(p, M, f[k], g[k], not is_ott, k), p.a[k], p.b[k])
                for k in range(len(M))
            )
            return max(each)
        return marginal_error(plan_of(p, M, f.ravel(), g.ravel(), kl=not is_ott), p.a, p.b)

    def sample(knob: Any) -> Sample:
        if is_ott:
            solve(knob)  # compiles
        start = time.perf_counter()
        f, g, nit = solve(knob)
        f, g = np.asarray(f), np.asarray(g)  # waits for asynchronous work
        spent = time.perf_counter() - start
        name = "threshold" if is_ott else "max_iter"
        err = certificate(f, g)
        return {"knob": knob, "settings": {name: knob}, "seconds": spent, "nit": nit, "err": err}

    last: Sample = {}
    if is_ott:
        for last in tightened(sample, tol, 0.9 * tol):
            yield last
    else:
        knob = 100
        while knob <= job.get("most", 100_000):
            last = sample(knob)
            yield last
            if last["err"] <= tol or 10 * last["seconds"] > job["limit"]:
                break
            knob *= 10
    if last["err"] <= tol:
        for _ in range(job["repeats"]):
            yield sample(last["knob"])
