"""Every figure that the theory page of the Krylov solvers quotes, computed anew.

    python examples/krylov_reproduction.py                  # all parts, some minutes
    python examples/krylov_reproduction.py paper carry      # some of them

Parts: paper (what the published speed-up is made of), carry (in which space to carry), solutions (carrying
solutions), options (defaults), guard (when carrying does not pay), precision.
Counts do not depend on the machine. Every residual is recomputed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from aitken import linalg
from aitken.datagen import make_family


class Systems:
    """The first systems of a family."""

    def __init__(self, kind: str, grid: int, count: int, **options: Any) -> None:
        self.family = make_family(kind, grid, **options)
        P = np.stack([self.family.parameters(0, i) for i in range(count)])
        data, b = self.family.assemble(P)
        self.data, self.b = np.ascontiguousarray(data), np.ascontiguousarray(b)
        self.params, self.count = self.family.sort_key(P), count

    def pair(self, i: int) -> tuple[Any, Any]:
        A = sparse.csr_array((self.data[i], self.family.indices, self.family.indptr))
        return A, self.b[i]


def mean(nit: Any, ok: bool = True) -> str:
    """Mean iterations, marked where a system missed its tolerance."""
    return f"{np.mean(nit):8.1f}{'' if ok else '  (not all converged)'}"


def alone(s: Systems, count: int, **options: Any) -> str:
    """Mean iterations of systems solved each from nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = [linalg.gcrodr(*s.pair(i), rtol=1e-8, **options) for i in range(count)]
    return mean([one.nit for one in r], all(one.converged for one in r))


def batch(s: Systems, **options: Any) -> Any:
    settings = {"solver": "gcrodr", "project": 0, "guard": False, "params": s.params, "rtol": 1e-8, **options}
    return linalg.solve_batch(s.family.indptr, s.family.indices, s.data, s.b, **settings)


def paper() -> None:
    """What the published speed-up is made of: the published Darcy matrices, n = 6400, rtol 1e-8."""
    s = Systems("darcy-published", 80, 16)
    for M in ("none", "jacobi", "ilu0"):
        inverse = None if M == "none" else M
        print(f"preconditioner {M}")
        few = 2 if M != "ilu0" else 4
        print(
            f"  GMRES(40)                          {alone(s, few, M=inverse, recycle_dim=0, maxiter=10_000)}"
        )
        print(f"  GCRO-DR(40, 20), nothing carried   {alone(s, 8, M=inverse)}")
        for words, options in (
            ("carried in t, as they come", {"carry": "t", "sort": "none"}),
            ("carried in t, sorted", {"carry": "t"}),
            ("carried in x, sorted", {}),
            ("left preconditioning, sorted", {"side": "left"}),
        ):
            r = batch(s, M=M, **options)
            products = f"products {r.matvecs.mean():.1f}"
            print(f"  {words:<34} {mean(r.nit, r.converged)}   {products}")


def carry() -> None:
    """Which space to carry: true Darcy with coefficients 12 and 3, n = 10000, rtol 1e-8."""
    s = Systems("darcy", 100, 16, coefficient="binary")
    for M in ("none", "ilu0"):
        print(f"preconditioner {M}")
        print(f"  nothing carried                    {alone(s, 8, M=None if M == 'none' else M)}")
        for words, options in (
            ("t", {"carry": "t"}),
            ("x", {}),
            ('x, select="sv"', {"select": "sv"}),
            ("left preconditioning", {"side": "left"}),
        ):
            r = batch(s, M=M, **options)
            print(f"  {words:<34} {mean(r.nit, r.converged)}   products {r.matvecs.mean():.1f}")


def solutions() -> None:
    """Carrying solutions: two-parameter Helmholtz, n = 4096, 200 systems, rtol 1e-6, no preconditioner."""
    s = Systems("helmholtz", 64, 200, wavenumber=12.0)
    order = linalg.sort_systems(s.params)
    nothing = [linalg.gcrodr(*s.pair(i), rtol=1e-6).nit for i in range(0, 200, 10)]
    print(f"  {'nothing carried':<44} {mean(nothing)}")
    for words, sequence, project, near in (
        ("space, as they come", range(200), 0, False),
        ("space, sorted", order, 0, False),
        ("space and last 6 solutions, as they come", range(200), 6, False),
        ("space and last 6 solutions, sorted", order, 6, False),
        ("space and 8 nearest solutions, as they come", range(200), 8, True),
        ("space and 8 nearest solutions, sorted", order, 8, True),
    ):
        solver = linalg.RecyclingSolver(M="none", rtol=1e-6, project=project, guard=False)
        r = [solver.solve(*s.pair(i), params=s.params[i] if near else None) for i in map(int, sequence)]
        print(f"  {words:<44} {mean([one.nit for one in r], all(one.converged for one in r))}")


def options() -> None:
    """Defaults: restart and recycled vectors, orthogonalisation, on true Darcy 12 and 3 with ILU(0)."""
    s = Systems("darcy", 64, 24, coefficient="binary")
    for m, k in ((20, 10), (30, 10), (30, 20), (40, 10), (40, 20), (40, 30), (60, 20), (60, 30)):
        r = batch(s, M="ilu0", restart=m, recycle_dim=k)
        print(
            f"  restart {m}, recycle_dim {k:<16} {mean(r.nit, r.converged)}   products {r.matvecs.mean():.1f}"
        )
    for ortho in ("auto", "cgs2", "mgs"):
        r = batch(s, M="ilu0", ortho=ortho)
        print(f"  ortho {ortho:<28} {mean(r.nit, r.converged)}")


def guard() -> None:
    """Where the carried space does not pay: products with A, that is iterations plus the price of A U."""
    for kind, grid, count, keywords in (
        ("darcy", 64, 24, {"coefficient": "binary"}),
        ("darcy3d", 20, 24, {}),
        ("convection-diffusion", 20, 24, {}),
    ):
        s = Systems(kind, grid, count, **keywords)
        print(kind)
        r = [linalg.gcrodr(*s.pair(i), rtol=1e-8, M="ilu0") for i in range(8)]
        print(f"  {'nothing carried':<20} products {np.mean([one.matvecs for one in r]):.1f}")
        for words, settings in (
            ("space", {"guard": False}),
            ("space, guarded", {"guard": True}),
            ("solutions", {"recycle_dim": 0, "project": 8}),
            ("both, guarded", {"guard": True, "project": 8}),
        ):
            r = batch(s, M="ilu0", **settings)
            print(f"  {words:<20} products {r.matvecs.mean():.1f}")


def precision() -> None:
    """A basis stored in single precision: counts and residuals."""
    s = Systems("darcy", 64, 24, coefficient="binary")
    for rtol in (1e-6, 1e-8, 1e-10):
        for words, kind in (("double", None), ("single", np.float32)):
            r = batch(s, M="ilu0", rtol=rtol, basis_dtype=kind)
            worst = f"largest residual {r.residuals.max():.1e}"
            print(f"  rtol {rtol:g}, {words:<10} {mean(r.nit, r.converged)}   {worst}")


PARTS: dict[str, Callable[[], None]] = {
    "paper": paper,
    "carry": carry,
    "solutions": solutions,
    "options": options,
    "guard": guard,
    "precision": precision,
}


def main() -> int:
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no part {unknown[0]!r}; there is {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"--- {name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
        PARTS[name]()
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
