"""Sequences of linear systems against the peers: the same matrices, the same true residual, one thread.

Every answer has to meet ``||b - A x||_2 <= rtol * ||b||_2``, recomputed here. A peer that stops on another
quantity gets a smaller tolerance until that holds, and only those solves are timed. Seconds are per system:
those of the whole sequence, set-up and sorting included, over the number of systems; CPU seconds where there
is one thread, so that other load on the machine does not count. A peer that needs longer
than ``--limit`` seconds for the sequence is cut off and rated by the systems that it finished.

SciPy's Krylov solvers get the incomplete factors that ours use as their `M`, so that methods are compared
and not preconditioners, and beside that SciPy's own (`spilu`). PETSc and HPDDM run in a process of their
own, with this interpreter or with the one that ``--petsc-python`` names.

    python bench/krylov.py --quick                          # under a minute
    python bench/krylov.py --json bench/results/FILE.json   # about twenty minutes
    python bench/krylov.py --only T7 --update --json FILE   # some problems again
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import _harness as harness  # noqa: E402

if "numpy" not in sys.modules:
    harness.pin_threads()

import numpy as np  # noqa: E402
from scipy import fft, sparse  # noqa: E402
from scipy.sparse import linalg as sla  # noqa: E402

from aitken import linalg  # noqa: E402
from aitken._demo.krylov import density_steps  # noqa: E402
from aitken.datagen import generate, make_family, stream  # noqa: E402
from aitken.linalg._operators import as_system  # noqa: E402

# One thread: its own seconds, which other load on the machine does not lengthen. Else the wall's.
_clock = time.process_time if harness.early_threads() == 1 else time.perf_counter
PEERS = {"pyamg": "pyamg"}
DISTRIBUTIONS = ("pyamg", "threadpoolctl")
ROOT = harness.ROOT


# ------------------------------------------------------------------------------------------ problems


@dataclass
class Problem:
    """A sequence of systems: values on one CSR pattern, or operators."""

    name: str
    indptr: Any
    indices: Any
    data: Any  # (N, nnz), or (nnz,) for one matrix
    b: Any  # (N, n) or (n,)
    params: Any = None
    rtol: float = 1e-8
    spd: bool = False
    warm: bool = False  # slowly varying: peers start from the last answer
    operators: list[Any] | None = None  # matrix-free: nobody sees entries
    diagonals: Any = None  # of the operators
    order: int = 0
    goals: tuple[str, ...] = ()
    text: str = ""
    _matrices: list[Any] = field(default_factory=list)

    @property
    def n(self) -> int:
        return int(self.b.shape[-1])

    @property
    def count(self) -> int:
        if self.operators is not None:
            return len(self.operators)
        return max(a.shape[0] for a in (self.data, self.b) if a.ndim == 2)

    def matrix(self, i: int) -> Any:
        """Matrix or operator i; the same object for all systems where they share it."""
        if self.operators is not None:
            return self.operators[i]
        if not self._matrices:
            shape = (self.n, self.n)
            rows = [self.data] if self.data.ndim == 1 else self.data
            self._matrices = [sparse.csr_array((row, self.indices, self.indptr), shape=shape) for row in rows]
        return self._matrices[0] if self.data.ndim == 1 else self._matrices[i]

    def rhs(self, i: int) -> Any:
        return self.b if self.b.ndim == 1 else self.b[i]

    def worst(self, X: dict[int, Any]) -> float:
        """The certificate: the largest relative residual of the answers given."""
        largest = 0.0
        for i, x in X.items():
            b = self.rhs(i)
            largest = max(largest, float(np.linalg.norm(b - self.matrix(i) @ x) / np.linalg.norm(b)))
        return largest


def from_family(name: str, kind: str, grid: int, count: int, **options: Any) -> Problem:
    """The first samples of a shipped family."""
    family = make_family(kind, grid, **options)
    P = np.stack([family.parameters(0, i) for i in range(count)])
    data, b = family.assemble(P)
    data = data[0] if family.same_matrix else np.ascontiguousarray(data)
    b = b[0] if all(np.array_equal(b[0], row) for row in b) else np.ascontiguousarray(b)
    key = family.sort_key(P)
    return Problem(name, family.indptr, family.indices, data, b, key, spd=family.positive_definite)


def steps(name: str, kind: str, grid: int, count: int) -> Problem:
    """T8: A_i = A_0 + t_i E with two samples of a family, t_i = 0.02 i."""
    family = make_family(kind, grid)
    data, b = family.assemble(np.stack([family.parameters(0, i) for i in range(2)]))
    t = 0.02 * np.arange(count)
    values = data[0] + t[:, None] * data[1]
    return Problem(
        name, family.indptr, family.indices, values, b[0].copy(), t, spd=family.positive_definite, warm=True
    )


def sources(name: str, grid: int, count: int, *, random: bool) -> Problem:
    """One 3-D Darcy matrix and many right-hand sides: a source that moves along a curve, or white noise."""
    family = make_family("darcy3d", grid)
    data, _ = family.assemble(family.parameters(0, 0)[None])
    x, y, z = np.meshgrid(*family.coordinates(), indexing="ij")
    if random:
        b = stream(1, 0).standard_normal((count, family.n))
        return Problem(name, family.indptr, family.indices, data[0], b, spd=True)
    t = np.linspace(0, 1, count)
    b = np.stack(
        [
            np.exp(
                -60
                * ((x - 0.5 - 0.3 * math.cos(s)) ** 2 + (y - 0.5 - 0.3 * math.sin(s)) ** 2 + (z - 0.5) ** 2)
            )
            for s in 4 * t
        ]
    ).reshape(count, -1)
    return Problem(name, family.indptr, family.indices, data[0], b, t, spd=True, warm=True)


def densities(name: str, grid: int, count: int, step: float) -> Problem:
    """Steps of a topology optimisation, see `aitken._demo.krylov.density_steps`."""
    family, data, b, t = density_steps(grid, count, step)
    return Problem(name, family.indptr, family.indices, data, b, t, rtol=1e-6, spd=True, warm=True)


class Oseen(sla.LinearOperator):
    """``-Lap u + div(v u)`` on the unit cube, u = 0 around, upwind, by slices; h^2 times the finite volumes.

    `velocity` holds h v on the inner faces of each axis; v is divergence-free and zero on the boundary's
    normal. One product reads and writes about 40 arrays of n numbers; no entry is stored.
    """

    def __init__(self, shape: tuple[int, ...], velocity: list[Any]) -> None:
        n = math.prod(shape)
        super().__init__(np.float64, (n, n))
        self.grid = shape
        self.out = [np.maximum(v, 0.0) + 1.0 for v in velocity]  # what the lower cell sends up
        self.back = [np.minimum(v, 0.0) - 1.0 for v in velocity]

    @staticmethod
    def _sides(axis: int) -> tuple[Any, Any]:
        lo, hi = [slice(None)] * 3, [slice(None)] * 3
        lo[axis], hi[axis] = slice(None, -1), slice(1, None)
        return tuple(lo), tuple(hi)

    def _matvec(self, x: Any) -> Any:
        u = x.reshape(self.grid)
        y = np.zeros(self.grid)
        for axis in range(3):
            lo, hi = self._sides(axis)
            flux = self.out[axis] * u[lo]
            flux += self.back[axis] * u[hi]
            y[lo] += flux
            y[hi] -= flux
            for end in (0, -1):  # half a cell to the boundary
                at = tuple(end if a == axis else slice(None) for a in range(3))
                y[at] += 2.0 * u[at]
        return y.ravel()

    def diagonal(self) -> Any:
        d = np.zeros(self.grid)
        for axis in range(3):
            lo, hi = self._sides(axis)
            d[lo] += self.out[axis]
            d[hi] -= self.back[axis]
            for end in (0, -1):
                d[tuple(end if a == axis else slice(None) for a in range(3))] += 2.0
        return d.ravel()

    def entries(self, family: Any) -> Any:
        """The same operator as values on the stencil of the convection-diffusion family."""
        s = family._stencil
        data = np.zeros(family.nnz)
        data[s.diagonal] = self.diagonal()
        for axis in range(3):
            data[s.upper[axis]] = self.back[axis].ravel()
            data[s.lower[axis]] = -self.out[axis].ravel()
        return data


class Scattering(Oseen):
    """`Oseen` plus ``s (u - K * u)`` with a Gaussian kernel K, by FFTs: every row is full.

    Neither a factor nor multigrid nor an incomplete factor can be had at the price of a few products.
    """

    def __init__(self, shape: tuple[int, ...], velocity: list[Any], strength: float) -> None:
        super().__init__(shape, velocity)
        distance = np.minimum(np.arange(shape[0]), shape[0] - np.arange(shape[0])) / shape[0]
        g = np.exp(-((distance / 0.1) ** 2))
        kernel = g[:, None, None] * g[:, None] * g
        self.strength = strength / shape[0] ** 2
        self.centre = 1.0 / kernel.sum()
        self.spectrum = fft.rfftn(kernel / kernel.sum())

    def _matvec(self, x: Any) -> Any:
        u = x.reshape(self.grid)
        scattered = fft.irfftn(self.spectrum * fft.rfftn(u, workers=1), s=self.grid, workers=1)
        return super()._matvec(x) + self.strength * (u - scattered).ravel()

    def diagonal(self) -> Any:
        return super().diagonal() + self.strength * (1.0 - self.centre)


def oseen(
    name: str,
    grid: int,
    count: int,
    turn: float,
    *,
    assembled: bool = False,
    peclet: float = 200.0,
    scattering: float = 0.0,
) -> Problem:
    """Convection-diffusion in a field of three turning vortices; each system turns it by `turn` radians."""
    family = make_family("convection-diffusion", grid, coefficient="constant")
    h = 1.0 / grid
    cells, faces = (np.arange(grid) + 0.5) * h, np.arange(1, grid) * h
    x, y, z = np.meshgrid(cells, cells, cells, indexing="ij")
    operators, b = [], []
    for i in range(count):
        t = turn * i
        weight = (math.cos(t), math.sin(t), math.sin(0.7 * t))
        velocity = []
        for axis in range(3):
            at = [cells] * 3
            at[axis] = faces
            p = [np.pi * g for g in np.meshgrid(*at, indexing="ij")]
            v = np.zeros(p[0].shape)
            for w, (first, second) in zip(weight, ((0, 1), (1, 2), (2, 0)), strict=True):  # vortex in a plane
                if axis == first:
                    v += w * np.sin(p[first]) * np.cos(p[second])
                elif axis == second:
                    v -= w * np.cos(p[first]) * np.sin(p[second])
            velocity.append(peclet * h * v)
        made = Scattering(family.shape, velocity, scattering) if scattering else Oseen(family.shape, velocity)
        operators.append(made)
        place = 0.3 + 0.2 * math.sin(t)
        b.append(h * h * np.exp(-60 * ((x - place) ** 2 + (y - 0.4) ** 2 + (z - 0.5) ** 2)).ravel())
    params = turn * np.arange(count)
    rhs = np.stack(b)
    if assembled:
        data = np.stack([op.entries(family) for op in operators])
        return Problem(name, family.indptr, family.indices, data, rhs, params, rtol=1e-6, warm=True)
    return Problem(
        name, None, None, None, rhs, params, rtol=1e-6, warm=True,
        operators=operators, diagonals=[op.diagonal() for op in operators],
    )  # fmt: skip


def absorbing(name: str, grid: int, ndim: int, count: int, waves: float, sweep: float) -> Problem:
    """Complex Helmholtz, impedance on all sides: `waves` wavelengths across, each time more by `sweep`."""
    h = 1.0 / (grid + 1)
    tridiagonal = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(grid, grid)).astype(
        complex
    )
    eye = sparse.eye_array(grid)
    ends = np.zeros(grid)
    ends[[0, -1]] = 1.0

    def kron(parts: list[Any]) -> Any:
        out = sparse.eye_array(1)
        for part in parts:
            out = sparse.kron(out, part)
        return out

    laplacian = sum(kron([tridiagonal if a == axis else eye for a in range(ndim)]) for axis in range(ndim))
    edges = sum(
        kron([sparse.diags_array(ends) if a == axis else eye for a in range(ndim)]) for axis in range(ndim)
    )
    base = sparse.csr_array(laplacian)
    base.sort_indices()
    diagonal = np.flatnonzero(base.indices == np.repeat(np.arange(base.shape[0]), np.diff(base.indptr)))
    frequency = waves + sweep * np.arange(count)
    data = np.repeat(base.data[None], count, axis=0)
    for row, f in zip(data, frequency, strict=True):
        k = 2 * np.pi * f
        row[diagonal] -= edges.diagonal() / (1 - 1j * k * h) + (k * h) ** 2
    t = np.arange(1, grid + 1) * h
    fields = np.meshgrid(*[t] * ndim, indexing="ij")
    narrow = max(200.0, (2 * np.pi * waves) ** 2 / 4)  # a source that is wide for its waves sends out none
    b = np.exp(-narrow * sum((g - 0.3) ** 2 for g in fields)).ravel().astype(complex)
    return Problem(name, base.indptr, base.indices, data, b, frequency, rtol=1e-6, warm=True)


def problems(quick: bool) -> dict[str, Callable[[], Problem]]:
    """Name -> maker. The quick run has fewer systems of the first of each kind."""
    table: dict[str, Callable[[], Problem]] = {}

    def add(
        make: Callable[..., Problem],
        name: str,
        *args: Any,
        goals: tuple[str, ...] = (),
        fast: int = 0,
        **kw: Any,
    ) -> None:
        if quick and not fast:
            return
        order = len(table)

        def build() -> Problem:
            if fast and quick:
                kw["count"] = fast
            p = make(name, *args, **kw)
            p.order, p.goals = order, goals
            return p

        table[name] = build

    auto = ("auto",)
    add(
        from_family,
        "T1 published Darcy 80x80",
        "darcy-published",
        80,
        count=32,
        goals=("gcrotmk", "auto"),
        fast=8,
    )
    add(from_family, "T2 published Helmholtz 80x80", "helmholtz-published", 80, count=32)
    for coefficient in ("lognormal", "rough", "binary"):
        for grid, count in ((64, 64), (100, 32)):
            add(
                from_family, f"T5 Darcy {coefficient} {grid}x{grid}", "darcy", grid, count=count,
                coefficient=coefficient, goals=auto, fast=10 if (coefficient, grid) == ("binary", 64) else 0,
            )  # fmt: skip
    for k in (12, 24):
        add(
            from_family, f"T6 Helmholtz k={k} 64x64", "helmholtz", 64, count=64, wavenumber=k, goals=auto,
            fast=16 if k == 12 else 0,
        )  # fmt: skip
    for grid, count in ((20, 24), (32, 12)):
        fast = 8 if grid == 20 else 0
        for word in ("darcy3d", "convection-diffusion"):
            title = f"T7 {word.replace('darcy3d', 'Darcy')} {grid}^3"
            add(from_family, title, word, grid, count=count, goals=auto, fast=fast)
    add(steps, "T8 Darcy 64x64 steps", "darcy", 64, count=50)
    add(steps, "T8 Darcy 20^3 steps", "darcy3d", 20, count=50)
    add(steps, "T8 convection-diffusion 20^3 steps", "convection-diffusion", 20, count=50)
    add(from_family, "one A: Poisson 100x100", "poisson", 100, count=100)
    add(sources, "one A: moving source 24^3", 24, count=60, random=False)
    add(sources, "one A: random b 24^3", 24, count=60, random=True)
    win = ("win",)
    for turn in (0.03, 0.3):
        add(oseen, f"scattering 32^3, turn {turn:g}", 32, count=24, turn=turn, scattering=50.0, goals=win)
    for turn in (0.03, 0.1, 0.3, 1.0):
        add(
            oseen, f"Oseen 32^3 matrix-free, turn {turn:g}", 32, count=24, turn=turn, goals=win,
            fast=6 if turn == 0.03 else 0,
        )  # fmt: skip
    add(oseen, "Oseen 32^3 assembled, turn 0.03", 32, count=24, turn=0.03, assembled=True, goals=win)
    add(oseen, "Oseen 32^3 assembled, turn 1", 32, count=24, turn=1.0, assembled=True, goals=win)
    for step, count in ((0.005, 30), (0.02, 30), (0.05, 14)):  # longer, and the design stands still
        add(densities, f"densities 32^3, step {step:g}", 32, count=count, step=step, goals=win)
    add(absorbing, "absorbing Helmholtz 24^3, 2.5 waves", 24, 3, count=24, waves=2.5, sweep=0.02, goals=win)
    add(absorbing, "absorbing Helmholtz 32^3, 4 waves", 32, 3, count=12, waves=4.0, sweep=0.02, goals=win)
    add(
        absorbing, "absorbing Helmholtz 240x240, 24 waves", 240, 2, count=3, waves=24.0, sweep=0.02, goals=win
    )
    return table


# ----------------------------------------------------------------------------------------------- peers


class _Late(Exception):
    pass


class _Counted(sla.LinearOperator):
    """Counts products, and ends a solve that runs out of time."""

    def __init__(self, A: Any, deadline: float) -> None:
        super().__init__(A.dtype, A.shape)
        self._product, self._deadline, self.count = (
            A.__matmul__ if sparse.issparse(A) else A.matvec,
            deadline,
            0,
        )

    def _matvec(self, x: Any) -> Any:
        if _clock() > self._deadline:
            raise _Late
        self.count += 1
        return self._product(x)


Solve = Callable[[Any, Any, int], tuple[Any, int]]  # (A, b, i) -> (x, products)


def scipy_krylov(method: str, factors: str) -> Callable[[Problem, float, float], Solve]:
    """A SciPy solver with our incomplete factors (``"ilu0"``, ``"ic0"``), ``"spilu"`` or ``"jacobi"``."""

    def start(p: Problem, rtol: float, deadline: float) -> Solve:
        kept: dict[str, Any] = {"CU": [], "x": None, "A": None, "M": None}

        def preconditioner(A: Any, i: int) -> Any:
            if factors == "jacobi":
                inverse = 1.0 / (p.diagonals[i] if p.diagonals is not None else A.diagonal())
                return sla.LinearOperator(A.shape, matvec=lambda v: inverse * v.ravel(), dtype=A.dtype)
            if factors == "spilu":
                ilu = sla.spilu(sparse.csc_array(A))
                return sla.LinearOperator(A.shape, matvec=ilu.solve, dtype=A.dtype)
            if kept["M"] is not None:
                return kept["M"].update(A)
            return {"ilu0": linalg.ILU0, "ic0": linalg.IC0}[factors](A)

        def solve(A: Any, b: Any, i: int) -> tuple[Any, int]:
            if A is not kept["A"]:
                kept["M"], kept["A"] = preconditioner(A, i), A
            counted = _Counted(A, deadline)
            x0 = kept["x"] if p.warm else None
            options: dict[str, Any] = {"rtol": rtol, "M": kept["M"], "maxiter": 20_000}
            if method == "gmres":
                options |= {"restart": 40}
            elif method == "lgmres":
                options |= {"inner_m": 37, "outer_k": 3}
            elif method == "gcrotmk":
                # A U = C holds for the matrix of the last solve only.
                options |= {"m": 20, "k": 20, "CU": [(None, u) for _, u in kept["CU"]]}
            x, _ = getattr(sla, method)(counted, b, x0, **options)
            kept["CU"], kept["x"] = options.get("CU", []), x
            return x, counted.count

        return solve

    return start


def superlu(p: Problem, rtol: float, deadline: float) -> Solve:
    """SuperLU as the specification sets it; one factor where there is one matrix."""
    kept: dict[str, Any] = {}

    def solve(A: Any, b: Any, i: int) -> tuple[Any, int]:
        if kept.get("A") is not A:
            options = {"SymmetricMode": True}
            kept["lu"] = sla.splu(
                sparse.csc_array(A), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options=options
            )
            kept["A"] = A
        x = kept["lu"].solve(b)
        return x + kept["lu"].solve(b - A @ x), 2

    return solve


def spsolve(p: Problem, rtol: float, deadline: float) -> Solve:
    """The call of most scripts."""
    return lambda A, b, i: (sla.spsolve(A, b), 0)


def pyamg(accel: str, keep: bool = False) -> Callable[[Problem, float, float], Solve]:
    """Classical multigrid as a preconditioner; `keep`: one hierarchy until iterations grow by half."""

    def start(p: Problem, rtol: float, deadline: float) -> Solve:
        import pyamg as amg

        kept: dict[str, Any] = {"A": None, "x": None, "first": 0, "last": 0}

        def solve(A: Any, b: Any, i: int) -> tuple[Any, int]:
            if _clock() > deadline:
                raise _Late
            stale = not keep or kept["A"] is None or kept["last"] > 1.5 * kept["first"] + 1
            fresh = kept["A"] is not A and stale
            if fresh:
                kept["levels"] = amg.ruge_stuben_solver(sparse.csr_matrix(A))
            kept["A"] = A
            counted, x0 = _Counted(A, deadline), kept["x"] if p.warm else None
            M = kept["levels"].aspreconditioner()
            options = {"restart": 40} if accel == "gmres" else {}
            x, _ = getattr(sla, accel)(counted, b, x0, rtol=rtol, M=M, maxiter=2000, **options)
            kept["x"], kept["last"] = x, counted.count
            if fresh:
                kept["first"] = counted.count
            return x, counted.count

        return solve

    return start


def peers_of(p: Problem, found: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Name -> starter of everything that can take this problem."""
    if p.operators is not None:
        methods = ("gcrotmk", "bicgstab") if quick else ("gmres", "lgmres", "gcrotmk", "bicgstab")
        return {f"SciPy {m} + Jacobi": scipy_krylov(m, "jacobi") for m in methods}
    out: dict[str, Any] = {}
    if p.spd:
        out["SciPy cg + our IC(0)"] = scipy_krylov("cg", "ic0")
        if not quick:
            out["SciPy gcrotmk + our ILU(0)"] = scipy_krylov("gcrotmk", "ilu0")
            out["SciPy bicgstab + spilu"] = scipy_krylov("bicgstab", "spilu")
    else:
        for method in ("gcrotmk", "bicgstab") if quick else ("gmres", "lgmres", "gcrotmk", "bicgstab"):
            out[f"SciPy {method} + our ILU(0)"] = scipy_krylov(method, "ilu0")
        if not quick:
            out["SciPy gcrotmk + spilu"] = scipy_krylov("gcrotmk", "spilu")
            out["SciPy bicgstab + spilu"] = scipy_krylov("bicgstab", "spilu")
    out["SuperLU"] = superlu
    if not quick and p.n <= 12_000:
        out["SciPy spsolve"] = spsolve
    if "pyamg" in found:
        if p.spd:
            out["PyAMG RS + cg"] = pyamg("cg")
        elif p.data.dtype.kind != "c":
            out["PyAMG RS + gmres"] = pyamg("gmres")
            if not quick:
                out["PyAMG RS + bicgstab"] = pyamg("bicgstab")
        if p.warm and p.data.ndim == 2 and p.data.dtype.kind != "c":
            out["PyAMG RS kept"] = pyamg("cg" if p.spd else "bicgstab", keep=True)
    return out


def _row(solver: str, kind: str, **found: Any) -> dict[str, Any]:
    row = {"solver": solver, "kind": kind, "seconds": None, "nit": None, "err": None, "note": ""}
    return row | {key: value for key, value in found.items() if value is not None}


def peer_row(
    p: Problem, name: str, start: Any, order: list[int], limit: float, budget: float
) -> dict[str, Any]:
    """Solve in our order until `limit`, with a tolerance that meets the certificate; then time that."""
    rtol, note = p.rtol, ""

    def go() -> tuple[float, dict[int, Any], list[int]]:
        begin = _clock()
        solve = start(p, rtol, begin + limit)
        X, products, end = {}, [], begin
        try:
            for i in order:
                x, count = solve(p.matrix(i), p.rhs(i), i)
                X[i] = x
                products.append(count)
                end = _clock()
                if end - begin > limit:
                    break
        except _Late:
            pass
        except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            nonlocal note
            note = f"{type(error).__name__}: {error}".splitlines()[0]
        return end - begin, X, products

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for _ in range(4):
            spent, X, products = go()
            if not X:
                return _row(name, "peer", note=note or f"no system within {limit:g} s")
            err = p.worst(X)
            if err <= p.rtol or note or not err < 1e3 * p.rtol:  # beyond that no tolerance helps
                break
            rtol *= max(0.05, min(0.5, 0.5 * p.rtol / err)) if np.isfinite(err) else 0.5
        if not err <= p.rtol:
            reached = err if np.isfinite(err) else None
            return _row(
                name, "peer", err=reached, nit=float(np.mean(products)), note=note or "residual not reached"
            )
        runs = [spent / len(X)]
        while sum(runs) * len(X) < budget and len(runs) < 7:
            again, X, products = go()
            runs.append(again / len(X))
            err = max(err, p.worst(X))
    notes = [f"rtol {rtol:.1e}"] if rtol != p.rtol else []
    if len(X) < len(order):
        notes.append(f"{len(X)} of {len(order)} systems")
    return _row(
        name,
        "peer",
        seconds=harness.Timing(runs).to_json(),
        nit=float(np.mean(products)),
        err=err,
        note=", ".join(notes),
    )


def petsc_rows(p: Problem, python: str, limit: float) -> list[dict[str, Any]]:
    """PETSc's and HPDDM's rows, by the interpreter that has petsc4py."""
    if p.data is None or p.data.dtype.kind == "c" or p.count < 2:
        return []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "systems.npz", Path(folder) / "answers.npz"
        order = linalg.sort_systems(p.params) if p.params is not None else np.arange(p.count)
        np.savez(
            source, indptr=p.indptr, indices=p.indices, data=p.data if p.data.ndim == 1 else p.data[order],
            b=p.b if p.b.ndim == 1 else p.b[order], rtol=p.rtol, limit=limit, spd=p.spd, warm=p.warm,
        )  # fmt: skip
        script = str(Path(__file__).with_name("_petsc.py"))
        command = [python, script, str(source), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        except (subprocess.SubprocessError, OSError) as error:
            return [_row("PETSc", "peer", note=f"{type(error).__name__}")]
        found = json.loads(done.stdout.splitlines()[-1])
        answers = dict(np.load(target))
    rows = []
    for name, got in found["rows"].items():
        if "error" in got:
            rows.append(_row(name, "peer", note=f"not in this PETSc {found['version']}, or broke down"))
            continue
        X = dict(zip(map(int, order), answers[got["key"]], strict=False))
        err = p.worst(X)
        notes = [f"PETSc {found['version']}"] + (
            [f"{len(X)} of {p.count} systems"] if len(X) < p.count else []
        )
        good = err <= p.rtol
        t = {"min": got["seconds"], "median": got["seconds"], "runs": 1} if good else None
        note = ", ".join(notes) if good else "residual not reached"
        mean = float(np.mean(got["nit"]))
        rows.append(_row(name, "peer", seconds=t, nit=mean, err=err if np.isfinite(err) else None, note=note))
    return rows


# ------------------------------------------------------------------------------------------------ ours


def _batch(p: Problem, **options: Any) -> Callable[[int], Any]:
    def run(threads: int) -> Any:
        r = linalg.solve_batch(
            p.indptr, p.indices, p.data, p.b, params=p.params, rtol=p.rtol, n_threads=threads, **options
        )
        return r, dict(enumerate(r.X)), float(r.matvecs.mean())

    return run


def _jacobi(p: Problem) -> Callable[[Any], Any]:
    place = {id(op): 1.0 / d for op, d in zip(p.operators or [], p.diagonals or [], strict=True)}

    def make(A: Any) -> Any:
        inverse = place[id(A)]
        return sla.LinearOperator(
            A.shape,
            matvec=lambda v: inverse * v.ravel(),
            matmat=lambda V: inverse[:, None] * V,
            dtype=A.dtype,
        )

    return make


def _one_by_one(p: Problem, carry: bool, **options: Any) -> Callable[[int], Any]:
    """`RecyclingSolver`, or, with nothing carried, single calls with the preconditioner's pattern kept."""

    def run(threads: int) -> Any:
        X, products = {}, []
        order = linalg.sort_systems(p.params) if p.params is not None and carry else range(p.count)
        M: Any = _jacobi(p) if p.operators is not None else None
        solver = (
            linalg.RecyclingSolver("gcrodr", rtol=p.rtol, M=M, n_threads=threads, **options)
            if carry
            else None
        )
        factors = None
        for i in map(int, order):
            A, b = p.matrix(i), p.rhs(i)
            if solver is not None:
                where = None if p.params is None else p.params[i]
                r = solver.solve(A, b, params=where)
            else:
                if p.operators is not None:
                    factors = M(A)
                else:
                    kind = linalg.IC0 if p.spd else linalg.ILU0
                    factors = (
                        kind(A) if factors is None else factors.update(A) if p.data.ndim == 2 else factors
                    )
                call = linalg.rcg if p.spd else linalg.gcrodr
                r = call(A, b, rtol=p.rtol, M=factors, n_threads=threads, **options)
            X[i] = r.x
            products.append(r.matvecs)
        return None, X, float(np.mean(products))

    return run


def ours_of(p: Problem, quick: bool) -> dict[str, Callable[[int], Any]]:
    """Our rows: what is offered, and what is left of it with parts switched off."""
    if p.operators is not None:
        out = {
            "aitken recycled": _one_by_one(p, True),
            "aitken, solutions only": _one_by_one(p, True, recycle_dim=0),
            "aitken, space only": _one_by_one(p, True, project=0),
            "aitken, nothing carried": _one_by_one(p, False),
        }
        return out if not quick else {k: out[k] for k in ("aitken recycled", "aitken, nothing carried")}
    method = "rcg" if p.spd else "gcrodr"
    out = {"aitken auto": _batch(p), "aitken recycled": _batch(p, solver=method)}
    if "gcrotmk" in p.goals:
        out["aitken recycled, float32 basis"] = _batch(p, solver=method, basis_dtype=np.float32)
    if not quick:
        out["aitken, solutions only"] = _batch(p, solver=method, recycle_dim=0)
        out["aitken, space only"] = _batch(p, solver=method, project=0)
    out["aitken, nothing carried"] = _one_by_one(p, False)
    A = p.matrix(0)
    if A.dtype.kind != "c" and abs(A - A.T).max() < 1e-14 * abs(A).max():
        out["aitken direct"] = _batch(p, solver="direct")
    return out


def own_row(p: Problem, name: str, run: Callable[[int], Any], threads: int, budget: float) -> dict[str, Any]:
    runs: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while not runs or (sum(runs) * p.count < budget and len(runs) < 15):
            start = _clock()
            try:
                r, X, products = run(threads)
            except (ValueError, ImportError) as error:
                return _row(name, "ours", note=f"{type(error).__name__}: {error}")
            runs.append((_clock() - start) / p.count)
    err = p.worst(X)
    notes = [] if r is None or name != "aitken auto" else [f"chose {r.solver}"]
    if r is not None and not r.carried.all() and name == "aitken recycled":
        notes.append(f"space dropped in {int((~r.carried).sum())} of {p.count}")
    if err > p.rtol:
        notes.append(f"residual not reached after {harness.seconds(runs[0])} a system")
    return _row(
        name, "ours", nit=products, err=err,
        seconds=harness.Timing(runs).to_json() if err <= p.rtol else None,
        note=", ".join(notes), reason=getattr(r, "reason", None), chosen=getattr(r, "solver", None),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------- the run


def targets(p: Problem, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measured ratio (peer over ours) beside each target."""
    median = {row["solver"]: row["seconds"]["median"] for row in rows if row["seconds"]}
    out = []

    def add(text: str, wanted: float, ours: str, others: list[str]) -> None:
        times = {name: median[name] for name in others if name in median}
        if ours in median and times:
            best = min(times, key=lambda name: times[name])
            ratio = times[best] / median[ours]
            out.append(
                {"against": text, "best": best, "wanted": wanted, "ratio": ratio, "met": ratio >= wanted}
            )

    if "gcrotmk" in p.goals:
        add("recycled against SciPy's gcrotmk", 3.0, "aitken recycled", ["SciPy gcrotmk + our ILU(0)"])
        single = "aitken recycled, float32 basis"
        add("the same with a float32 basis", 3.0, single, ["SciPy gcrotmk + our ILU(0)"])
        add("recycled against HPDDM", 2.0, "aitken recycled", ["HPDDM gcrodr+ilu(0)"])
    if "auto" in p.goals:
        rivals = ["SuperLU", "PyAMG RS + cg", "aitken recycled"]
        add("auto against the best of SuperLU, PyAMG-CG, recycled", 1 / 1.3, "aitken auto", rivals)
    if "win" in p.goals:
        peers = [row["solver"] for row in rows if row["kind"] == "peer"]
        add("recycled against every peer", 1.0, "aitken recycled", peers)
    return out


def show(problem: dict[str, Any]) -> None:
    """Print one problem's table and its targets."""
    ours = next((r["seconds"]["median"] for r in problem["rows"] if r["seconds"]), None)
    lines = []
    for row in problem["rows"]:
        t = row["seconds"]
        row["ratio"] = t["median"] / ours if t and ours else None
        lines.append(
            [
                row["solver"],
                harness.seconds(t["min"]) if t else "-",
                harness.seconds(t["median"]) if t else "-",
                str(t["runs"]) if t else "-",
                f"{row['nit']:.1f}" if row["nit"] else "-",
                f"{row['err']:.1e}" if row["err"] is not None else "-",
                f"{row['ratio']:.3g}" if row["ratio"] is not None else "-",
                row["note"],
            ]
        )
    print(
        f"{problem['name']}   {problem['count']} systems, n = {problem['n']}, residual <= {problem['rtol']:g}"
    )
    head = ["solver", "min", "median", "runs", "products", "residual", "x first", "remarks"]
    print(harness.table(head, lines))
    for t in problem["targets"]:
        verdict = "met" if t["met"] else "MISSED"
        print(f"  target {t['against']} >= {t['wanted']:.2f}: {t['ratio']:.2f} ({t['best']})  {verdict}")
    print(flush=True)


def own_ceilings(quick: bool) -> dict[str, float]:
    """Bandwidths of our product, SciPy's, and of the orthogonalisation of a GMRES cycle, beyond the caches.

    Product: 12 bytes an entry, 20 a row. Cycle of m steps: step j reads j columns twice and moves w five
    times, the update reads all columns once; products with the diagonal matrix are timed alone and taken off.
    """
    side = 70 if quick else 100
    family = make_family("darcy3d", side)
    A = sparse.csr_array(
        (family._laplacian([1.0] * 3, 1.0), family.indices, family.indptr), shape=(family.n, family.n)
    )
    x, y = np.ones((family.n, 1), order="F"), np.empty((family.n, 1), order="F")
    handle = as_system(A).handle
    nominal = 12e-9 * A.nnz + 20e-9 * family.n
    ours = harness.timed(lambda: handle.apply(x, y), repeats=7).min
    scipys = harness.timed(lambda: A @ x[:, 0], repeats=7).min
    n, m = 250_000 if quick else 500_000, 40
    D = sparse.diags_array(np.geomspace(1.0, 1e8, n), format="csr")
    b, handle = np.ones(n), as_system(D).handle
    u, v = np.ones((n, 1), order="F"), np.empty((n, 1), order="F")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def cycle(steps: int) -> float:
            return harness.timed(
                lambda: linalg.gcrodr(D, b, rtol=1e-15, restart=m, recycle_dim=0, maxiter=steps), repeats=3
            ).min

        product = harness.timed(lambda: handle.apply(u, v), repeats=5).min
        spent = cycle(m) - cycle(1) - (m - 1) * product
    moved = 8e-9 * n * (sum(2 * j + 5 for j in range(2, m + 1)) + m - 1)
    return {"spmv_gbs": nominal / ours, "spmv_scipy_gbs": nominal / scipys, "cycle_gbs": moved / spent}


FAMILIES = {
    "darcy": 64, "darcy-published": 64, "helmholtz": 64, "helmholtz-published": 64, "poisson": 66,
    "thermal": 40, "darcy3d": 16, "convection-diffusion": 16,
}  # fmt: skip


def datagen(quick: bool) -> dict[str, Any]:
    """Samples per second of the factory, on one worker, beside a loop of `spsolve` over the same samples."""
    rows, lines = [], []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, grid in FAMILIES.items():
            if quick and kind not in ("darcy", "helmholtz"):
                continue
            count = 64
            out = Path(folder) / f"{kind}.npz"
            start = _clock()
            r = generate(kind, count, grid, out, layout="npz", executor=1)
            each = (_clock() - start) / count
            family = make_family(kind, grid)
            start = _clock()
            few = min(count, 16)
            for i in range(few):
                data, b = family.assemble(family.parameters(0, i)[None])
                sla.spsolve(sparse.csr_array((data[0], family.indices, family.indptr)), b[0])
            loop = (_clock() - start) / few
            rows.append(
                {
                    "kind": kind, "n": family.n, "count": count, "solver": r.solver, "seconds": each,
                    "spsolve": loop, "ratio": loop / each, "residual": r.residual_max,
                }
            )  # fmt: skip
            lines.append(
                [
                    kind,
                    str(family.n),
                    r.solver,
                    harness.seconds(each),
                    harness.seconds(loop),
                    f"{loop / each:.2f}",
                    f"{r.residual_max:.1e}",
                ]
            )
        count = 200 if quick else 1000
        r = generate("darcy", count, 64, Path(folder) / "thousand.npz", layout="npz", executor=2)
        thousand = {
            "count": count,
            "seconds": r.seconds,
            "residual": r.residual_max,
            "wanted": 8.0 * count / 1000,
        }
    print("datagen, one worker; seconds per sample, from sampling to file")
    print(harness.table(["family", "n", "solver", "aitken", "spsolve loop", "ratio", "residual"], lines))
    met = "met" if thousand["seconds"] <= thousand["wanted"] else "MISSED"
    wanted, took = thousand["wanted"], thousand["seconds"]
    print(f"  target {count} x darcy 64x64 on two workers <= {wanted:g} s: {took:.2f} s  {met}")
    slow = ", ".join(row["kind"] for row in rows if row["ratio"] < 1)
    print(f"  target never slower than the loop: {'MISSED by ' + slow if slow else 'met'}\n", flush=True)
    return {"rows": rows, "thousand": thousand}


def _petsc(python: str | None) -> str | None:
    """The interpreter to run PETSc with, or None with a word on how to get one."""
    candidate = python or (sys.executable if importlib.util.find_spec("petsc4py") else None)
    if candidate is not None:
        check = [candidate, "-c", "from petsc4py import PETSc"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return candidate
    print(
        "optional peer not here: PETSc with HPDDM (build PETSc with --download-hpddm --download-hypre and "
        "pip install petsc4py, or name an interpreter that has it by --petsc-python)"
    )
    return None


def run_cpu(args: Any, report: harness.Report) -> None:
    found, report.missing = harness.import_peers(PEERS)
    for name in report.missing:
        print(f"peer missing: {name}")
    petsc = _petsc(args.petsc_python)
    limits = report.data["ceilings"] | own_ceilings(args.quick)
    report.data["ceilings"] = limits
    share = limits["cycle_gbs"] / limits["triad_gbs"]
    print(
        f"product {limits['spmv_gbs']:.1f} GB/s (SciPy's {limits['spmv_scipy_gbs']:.1f}), "
        f"orthogonalisation of a cycle {limits['cycle_gbs']:.1f} GB/s = {share:.0%} of triad "
        f"(target 60 %: {'met' if share >= 0.6 else 'MISSED'})\n",
        flush=True,
    )
    limit = args.limit or (2.0 if args.quick else 5.0)
    budget = 0.1 if args.quick else 1.5
    for name, make in problems(args.quick).items():
        if not re.search(args.only, name):
            continue
        p = make()
        order = list(map(int, linalg.sort_systems(p.params) if p.params is not None else range(p.count)))
        with harness.blas_threads(args.threads):
            rows = [own_row(p, who, run, args.threads, budget) for who, run in ours_of(p, args.quick).items()]
            for who, start in peers_of(p, found, args.quick).items():
                rows.append(peer_row(p, who, start, order, limit, budget))
            if petsc is not None:
                rows += petsc_rows(p, petsc, limit)
        problem = {
            "name": name, "order": p.order, "n": p.n, "count": p.count, "rtol": p.rtol, "rows": rows,
            "targets": targets(p, rows),
        }  # fmt: skip
        show(problem)
        report.add(problem)
        report.save()
    if re.search(args.only, "datagen"):
        report.data["datagen"] = datagen(args.quick)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=float, metavar="S", help="seconds that a peer may take (5; quick 2)")
    parser.add_argument("--petsc-python", metavar="PATH", help="an interpreter that has petsc4py")


def main() -> int:
    args = harness.arguments(__doc__ or "", _options)
    if args.device == "cuda":
        print("the linear solvers of this version run on the CPU only", file=sys.stderr)
        return harness.NO_DEVICE
    report = harness.Report("krylov", args, DISTRIBUTIONS)
    run_cpu(args, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
