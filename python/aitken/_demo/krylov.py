"""The demonstration's linear systems: two sequences, solved with what the systems before them taught."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import linalg as sla

from .. import linalg
from ..datagen import Family, gaussian_random_field, make_family, stream

OURS, PLAIN, PEER = "#1b6ca8", "#7a7a7a", "#c8553d"


@dataclass
class Row:
    """One line of the table; seconds and products are per system."""

    solver: str
    seconds: float
    residual: float
    products: float | None
    note: str = ""


@dataclass
class Sequence:
    """Systems on one pattern, what was solved of them, and how."""

    title: str
    family: Family
    data: Any
    b: Any
    params: Any
    rtol: float
    rows: list[Row] = field(default_factory=list)
    X: Any = None

    def __post_init__(self) -> None:
        shape = (self.family.n, self.family.n)
        pattern = self.family.indices, self.family.indptr
        self.matrices = [sparse.csr_array((values, *pattern), shape=shape) for values in self.data]

    @property
    def count(self) -> int:
        """How many systems there are."""
        return len(self.matrices)

    def rhs(self, i: int) -> Any:
        """Right-hand side i."""
        return self.b if self.b.ndim == 1 else self.b[i]

    def residual(self, X: Any) -> float:
        """The certificate: largest ``||b - A x||_2 / ||b||_2`` of the answers to the first systems."""
        norms = [
            np.linalg.norm(self.rhs(i) - self.matrices[i] @ x) / np.linalg.norm(self.rhs(i))
            for i, x in enumerate(X)
        ]
        return float(max(norms))

    def ok(self) -> bool:
        """Whether both of our answers met the tolerance."""
        return all(row.residual <= self.rtol for row in self.rows if row.solver.startswith("aitken"))


def density_steps(grid: int, count: int, step: float) -> tuple[Family, Any, Any, Any]:
    """Steps of a topology optimisation in three dimensions: conduction with a = 1e-3 + rho^3.

    rho moves by at most `step` each time, as under the move limits of the usual updates, to a design that is
    where a Gaussian random field is positive.
    """
    family = make_family("darcy3d", grid)
    target = (gaussian_random_field(stream(3, 0), family.shape, 2.5, 5.0) > 0).astype(float)
    rho = np.full(family.shape, 0.3)
    fields = np.empty((count, *family.shape))
    for i in range(count):
        rho = np.clip(rho + np.clip(target - rho, -step, step), 1e-2, 1.0)
        fields[i] = 1e-3 + rho**3
    data, b = family.assemble(fields)
    return family, data, b[0].copy(), step * np.arange(count)


def helmholtz_sweep(grid: int, count: int, wavenumber: float = 12.0) -> Sequence:
    """Waves through fields of sound speed that two random parameters describe."""
    family = make_family("helmholtz", grid, wavenumber=wavenumber)
    params = np.stack([family.parameters(0, i) for i in range(count)])
    data, b = family.assemble(params)
    title = f"Helmholtz, {count} random speed fields, {grid} x {grid}"
    return Sequence(title, family, data, b[0].copy(), params, 1e-8)


def sequences(fast: bool) -> list[Sequence]:
    """What the demonstration solves."""
    grid, count = (14, 16) if fast else (20, 30)
    family, data, b, t = density_steps(grid, count, 0.02)
    title = f"topology optimisation, {count} steps, {grid}^3"
    steps = Sequence(title, family, data, b, t, 1e-8)
    return [steps, helmholtz_sweep(40, 32) if fast else helmholtz_sweep(64, 64)]


# --------------------------------------------------------------------------------------------- solvers


def _ours(s: Sequence) -> None:
    method = "rcg" if s.family.positive_definite else "gcrodr"
    for solver in ("auto", method):
        times: list[float] = []
        while len(times) < 3 and sum(times) < 1.0:
            r = linalg.solve_batch(
                s.family.indptr,
                s.family.indices,
                s.data,
                s.b,
                params=s.params,
                rtol=s.rtol,
                solver=solver,
            )
            times.append(r.time)
        name = "aitken auto" if solver == "auto" else "aitken recycled"
        note = f"chose {r.solver}" if solver == "auto" else f"{method}, space and solutions carried"
        seconds = float(np.median(times)) / s.count
        s.rows.append(Row(name, seconds, s.residual(r.X), float(r.matvecs.mean()), note))
        if solver == "auto":
            s.X = r.X


def _peer(s: Sequence, name: str, limit: float, solve: Callable[[Any, Any], Any]) -> None:
    """The first systems by a peer, as many as `limit` seconds allow."""
    X: list[Any] = []
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(X) < s.count and time.perf_counter() - start < limit:
            X.append(solve(s.matrices[len(X)], s.rhs(len(X))))
    spent = time.perf_counter() - start
    note = f"{len(X)} of {s.count} systems" if len(X) < s.count else ""
    s.rows.append(Row(name, spent / len(X), s.residual(X), None, note))


def _peers(s: Sequence, limit: float, with_pyamg: bool) -> None:
    rtol = 0.5 * s.rtol  # some of them stop on estimates

    def krylov(A: Any, b: Any) -> Any:
        ilu = sla.spilu(sparse.csc_array(A))
        M = sla.LinearOperator(A.shape, matvec=ilu.solve, dtype=A.dtype)
        return sla.gcrotmk(A, b, rtol=rtol, M=M, maxiter=25)[0]

    _peer(s, "SciPy spsolve", limit, lambda A, b: sla.spsolve(A, b))
    _peer(s, "SciPy gcrotmk + spilu", limit, krylov)
    if with_pyamg and s.family.positive_definite:
        pyamg = importlib.import_module("pyamg")
        _peer(
            s,
            "PyAMG Ruge-Stuben + cg",
            limit,
            lambda A, b: pyamg.ruge_stuben_solver(sparse.csr_matrix(A)).solve(b, tol=rtol, accel="cg"),
        )


def solve(s: Sequence, *, limit: float, with_pyamg: bool) -> None:
    """Fill the rows of one sequence: ours and the peers, all held to the same residual."""
    _ours(s)
    _peers(s, limit, with_pyamg)


def table_lines(found: list[Sequence]) -> list[tuple[str, ...]]:
    """The table of all sequences, with its header."""
    lines: list[tuple[str, ...]] = [
        ("sequence", "solver", "per system", "residual", "products", "x ours", "remarks")
    ]
    for s in found:
        ours = s.rows[0].seconds
        for k, row in enumerate(s.rows):
            good = row.residual <= s.rtol
            unit = f"{row.seconds:.2f} s" if row.seconds >= 1 else f"{1e3 * row.seconds:.2f} ms"
            lines.append(
                (
                    s.title if k == 0 else "",
                    row.solver,
                    unit,
                    f"{row.residual:.1e}",
                    f"{row.products:.1f}" if row.products is not None else "",
                    "" if k == 0 else f"{row.seconds / ours:.1f}" if good else "-",
                    row.note if good else "residual not reached",
                )
            )
    return lines


# -------------------------------------------------------------------------------------------- pictures


def histories(s: Sequence) -> dict[str, list[Any]]:
    """Residual histories of GCRO-DR(40, 20) without a preconditioner, one by one and carried."""
    order = [int(i) for i in linalg.sort_systems(s.params)]
    carried: dict[str, list[Any]] = {"nothing carried": []}
    for i in order[:: max(1, len(order) // 12)]:
        r = linalg.gcrodr(s.matrices[i], s.rhs(i), rtol=s.rtol)
        carried["nothing carried"].append((order.index(i), r.residuals / np.linalg.norm(s.rhs(i))))
    for name, project in (("space carried", 0), ("space and solutions carried", 8)):
        solver = linalg.RecyclingSolver(M="none", rtol=s.rtol, project=project, guard=False)
        carried[name] = []
        for place, i in enumerate(order):
            r = solver.solve(s.matrices[i], s.rhs(i), params=s.params[i])
            carried[name].append((place, r.residuals / np.linalg.norm(s.rhs(i))))
    return carried


_COLOURS = {"nothing carried": PLAIN, "space carried": PEER, "space and solutions carried": OURS}


def draw_histories(ax: Any, carried: dict[str, list[Any]], rtol: float) -> None:
    """One axis: relative residual against iterations, a dozen systems of each kind."""
    for name, runs in carried.items():
        warm = [curve for place, curve in runs if name == "nothing carried" or place > 0]
        for k, curve in enumerate(warm[:: max(1, len(warm) // 12)]):
            ax.semilogy(curve, color=_COLOURS[name], lw=0.9, alpha=0.75, label=name if k == 0 else None)
    ax.axhline(rtol, color="k", lw=0.6, ls=":")
    ax.set(xlabel="iterations", ylabel="relative residual", ylim=(0.3 * rtol, 3e2))
    ax.legend(fontsize=8, loc="upper right")


def draw_counts(ax: Any, carried: dict[str, list[Any]]) -> None:
    """One axis: iterations of each system along the sorted sequence."""
    for name, runs in carried.items():
        places = [place for place, _ in runs]
        counts = [len(curve) - 1 for _, curve in runs]
        ax.plot(places, counts, ".-", lw=0.7, ms=4, color=_COLOURS[name], label=name)
    ax.set(xlabel="system, in the order solved", ylabel="iterations")
    ax.set_ylim(bottom=0)


def draw_fields(axes: Any, s: Sequence, samples: tuple[int, ...] = (0, 1)) -> None:
    """Pairs of axes: the speed of sound, and the wave that was solved for."""
    speed = s.family.inputs(s.params)
    waves = s.family.unpack(s.X, s.params)
    for (left, right), i in zip(np.reshape(axes, (-1, 2)), samples, strict=True):
        left.imshow(speed[i], cmap="viridis", origin="lower")
        right.imshow(waves[i], cmap="RdBu", origin="lower")
        left.set_title(f"speed of sound {i}", fontsize=9)
        right.set_title(f"wave {i}", fontsize=9)
        for ax in (left, right):
            ax.set_axis_off()
