"""NumPy oracle of grid Poisson operators, conductance multigrid and the conjugate-direction loops.

Matrices and transfers are explicit, everything is float64 on "full" vectors: all cells in C
order, zero where not FLUID. Level data are arrays of the grid's shape: ``w[a][i]`` is the conductance of the
face between cells i - 1 and i along axis a (index 0: across a periodic box, else 0), ``e[a]`` that towards
p = 0 at unit distance, ``s`` the shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]

FLUID, SOLID, DIRICHLET = 0, 1, 2
CONVERGED, MAXITER, STAGNATED, BREAKDOWN, NONFINITE, NOT_SPD = 0, 1, 2, 3, 4, 6
COARSEST_SIDE = 4


# -------------------------------------------------------------------------------------------------- operator


@dataclass
class Level:
    """One grid of conductances."""

    w: list[Array]
    e: list[Array]
    s: Array
    periodic: tuple[bool, ...]
    c: list[float]  # conductance of a face along each axis where all is fluid
    halved: list[int]  # times each axis has been halved so far
    width: list[Array]  # of cells along each axis, in finest cells
    outer: list[Array]  # along each axis, what a conductance towards p = 0 counts in the diagonal

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return self.s.shape

    def exterior_diagonal(self) -> Array:
        """What the faces towards p = 0, half a finest cell away, add to the diagonal."""
        total = np.zeros(self.shape)
        for a, (e, outer) in enumerate(zip(self.e, self.outer, strict=True)):
            total += e * along(outer, a, len(self.e))
        return total

    def matrix(self) -> sparse.csr_array:
        """A, with zero rows and columns for cells without equation."""
        n = self.s.size
        number = np.arange(n).reshape(self.shape)
        A = sparse.csr_array(sparse.diags_array((self.exterior_diagonal() + self.s).ravel()))
        for a, w in enumerate(self.w):
            i, j, v = number.ravel(), np.roll(number, 1, axis=a).ravel(), w.ravel()
            for rows, columns, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                A = A + sparse.csr_array((sign * v, (rows, columns)), shape=(n, n))
        return sparse.csr_array(A)

    def diagonal(self) -> Array:
        """D: sum of all conductances of a cell, a face to itself included, and the shift."""
        D = self.exterior_diagonal() + self.s
        for a, w in enumerate(self.w):
            D = D + w + np.roll(w, -1, axis=a)
        return D


def sides(exterior: Any, ndim: int) -> list[tuple[str, str]]:
    """``exterior`` as a pair of names per axis."""
    per_axis = [exterior] * ndim if isinstance(exterior, str) else list(exterior)
    return [(side, side) if isinstance(side, str) else tuple(side) for side in per_axis]


def finest(
    flags: Array,
    *,
    spacing: float | Sequence[float] = 1.0,
    exterior: Any = "dirichlet",
    conductance: Sequence[Array] | None = None,
    shift: float = 0.0,
) -> Level:
    """Level 0 from cells and faces, one cell and one face at a time.

    `flags`: bool (True = fluid) or FLUID, SOLID, DIRICHLET. `exterior`: "dirichlet", "neumann" or "periodic",
    one for all, or per axis, or per axis a pair. `conductance[a]`: n_a + 1 faces along axis a.
    """
    flags = np.asarray(flags)
    kind = np.where(flags, FLUID, SOLID) if flags.dtype == bool else flags
    d = kind.ndim
    h = np.broadcast_to(np.asarray(spacing, dtype=float), (d,))
    outside = sides(exterior, d)
    w = [np.zeros(kind.shape) for _ in range(d)]
    e = [np.zeros(kind.shape) for _ in range(d)]
    for cell in np.ndindex(kind.shape):
        if kind[cell] != FLUID:
            continue
        for a in range(d):
            n = kind.shape[a]
            for step in (-1, 1):
                face = list(cell)
                face[a] += step == 1
                periodic = outside[a][0] == "periodic"
                if periodic:
                    face[a] %= n  # the last face is the first one
                value = (1.0 if conductance is None else float(conductance[a][tuple(face)])) / h[a] ** 2
                other = list(cell)
                other[a] += step
                if not 0 <= other[a] < n and not periodic:
                    if outside[a][step == 1] == "dirichlet":
                        e[a][cell] += value
                    continue
                other[a] %= n
                if kind[tuple(other)] == DIRICHLET:
                    e[a][cell] += value
                elif kind[tuple(other)] == FLUID:
                    w[a][tuple(face)] = value
    return Level(
        w,
        e,
        np.where(kind == FLUID, float(shift), 0.0),
        tuple(side[0] == "periodic" for side in outside),
        [1.0 / side**2 for side in h],
        [0] * d,
        [np.ones(n) for n in kind.shape],
        [np.ones(n) for n in kind.shape],
    )


def box_level(fluid: Array) -> Level:
    """`finest` for unit spacing, no DIRICHLET cells and a DIRICHLET exterior, without loops over cells."""
    d = fluid.ndim
    w, e = [], []
    for a in range(d):
        first = [slice(None)] * d
        last = list(first)
        first[a], last[a] = slice(0, 1), slice(-1, None)
        face = fluid & np.roll(fluid, 1, axis=a)
        face[tuple(first)] = False
        out = np.zeros(fluid.shape)
        out[tuple(first)] += fluid[tuple(first)]
        out[tuple(last)] += fluid[tuple(last)]
        w.append(face.astype(float))
        e.append(out)
    ones = [np.ones(n) for n in fluid.shape]
    return Level(w, e, np.zeros(fluid.shape), (False,) * d, [1.0] * d, [0] * d, ones, ones)


def operator(flags: Array, **options: Any) -> sparse.csr_array:
    """A on full vectors; options of `finest`."""
    return finest(flags, **options).matrix()


# ------------------------------------------------------------------------------------- components, null space


def components(level: Level, fluid: Array) -> tuple[Array, list[bool]]:
    """The component of every cell (-1: not fluid) by flood filling, and whether each is singular."""
    label = np.full(level.shape, -1)
    grounded = level.exterior_diagonal() + level.s > 0
    singular: list[bool] = []
    for seed in np.ndindex(level.shape):
        if not fluid[seed] or label[seed] >= 0:
            continue
        number, stack, held = len(singular), [seed], False
        label[seed] = number
        while stack:
            cell = stack.pop()
            held = held or bool(grounded[cell])
            for a in range(len(level.shape)):
                for step in (-1, 1):
                    other = list(cell)
                    other[a] = (other[a] + step) % level.shape[a]
                    face = cell if step == -1 else tuple(other)
                    if level.w[a][face] > 0 and label[tuple(other)] < 0:
                        label[tuple(other)] = number
                        stack.append(tuple(other))
        singular.append(not held)
    return label, singular


def project(x: Array, label: Array, singular: Sequence[bool]) -> tuple[Array, float]:
    """x without its means on singular components, and the 2-norm of what was taken off."""
    out, flat = np.array(x, dtype=float), label.ravel()
    for number, free in enumerate(singular):
        if free:
            out[flat == number] -= out[flat == number].mean()
    return out, float(np.linalg.norm(out - x))


# -------------------------------------------------------------------------------------------------- hierarchy


def along(x: Array, axis: int, ndim: int) -> Array:
    """A vector that broadcasts along one axis."""
    return x.reshape([-1 if a == axis else 1 for a in range(ndim)])


def distances(width: Array) -> Array:
    """From the centre of each cell to that of the one before; before the first comes the last."""
    return 0.5 * (width + np.roll(width, 1))


def halved_axes(shape: Sequence[int], c: Sequence[float]) -> list[bool]:
    """Axes that are long enough, and coupled at least half as strongly as the strongest of those."""
    strongest = max((c[a] for a, n in enumerate(shape) if n > COARSEST_SIDE), default=0.0)
    return [n > COARSEST_SIDE and c[a] >= 0.5 * strongest for a, n in enumerate(shape)]


def pair_sum(x: Array, axis: int) -> Array:
    """Sums of neighbours 2 i and 2 i + 1; a cell missing at the end counts nothing."""
    odd = x.shape[axis] % 2
    x = np.pad(x, [(0, odd if a == axis else 0) for a in range(x.ndim)])
    shape = [*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :]]
    return x.reshape(shape).sum(axis=axis + 1)


def coarser(fine: Level) -> Level:
    """The next level: conductances across each coarse face, less as centres are farther apart."""
    S = halved_axes(fine.shape, fine.c)
    children = 2 ** sum(S)

    def gather(x: Array, skip: int = -1) -> Array:
        for a, halve in enumerate(S):
            if halve and a != skip:
                x = pair_sum(x, a)
        return x

    width = [pair_sum(x, 0) if halve else x for x, halve in zip(fine.width, S, strict=True)]
    w, c, outer = [], [], []
    for a, halve in enumerate(S):
        if halve:
            every_second = [slice(None)] * len(S)
            every_second[a] = slice(0, None, 2)
            # 1/2 but at odd ends, and nowhere less: then the W-cycle is definite. Likewise towards p = 0.
            factor = np.maximum(distances(fine.width[a])[::2] / distances(width[a]), 0.5)
            pairs = np.pad(fine.outer[a], (0, len(fine.outer[a]) % 2)).reshape(-1, 2)
            outer.append(np.maximum(1 / (0.5 * width[a] + 0.5), 0.5 * pairs.max(axis=1)))
            w.append(along(factor, a, len(S)) * gather(fine.w[a][tuple(every_second)], skip=a))
            c.append(fine.c[a] * children / 4)
        else:
            w.append(gather(fine.w[a]))
            c.append(fine.c[a] * children)
            outer.append(fine.outer[a])
    halved = [k + halve for k, halve in zip(fine.halved, S, strict=True)]
    return Level(w, [gather(e) for e in fine.e], gather(fine.s), fine.periodic, c, halved, width, outer)


def transfers(fine: Level, coarse: Level) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Piecewise constant prolongation, and the linear one that does not look across shut faces."""
    S = halved_axes(fine.shape, fine.c)
    n, rows = fine.s.size, np.arange(fine.s.size)
    cell = [i.ravel() for i in np.indices(fine.shape)]
    parent = [i // 2 if halve else i for i, halve in zip(cell, S, strict=True)]

    def matrix(columns: Sequence[Array], values: Array) -> sparse.csr_array:
        at = np.ravel_multi_index(tuple(columns), coarse.shape)
        return sparse.csr_array((values, (rows, at)), shape=(n, coarse.s.size))

    constant = linear = matrix(parent, np.ones(n))
    for a, halve in enumerate(S):
        if not halve:
            continue
        low, high = coarse.w[a], np.roll(coarse.w[a], -1, axis=a)
        most = np.maximum(low, high)
        t = [np.divide(w, most, out=np.zeros(coarse.shape), where=most > 0) for w in (low, high)]
        if not coarse.periodic[a]:
            for side, end in zip(t, (0, -1), strict=True):
                np.moveaxis(side, a, 0)[end] = np.moveaxis(coarse.e[a], a, 0)[end] > 0
        upper = cell[a] % 2 == 1
        weight = 0.25 * np.where(upper, t[1][tuple(parent)], t[0][tuple(parent)])
        beside = list(parent)
        beside[a] = parent[a] + np.where(upper, 1, -1)
        there = (beside[a] >= 0) & (beside[a] < coarse.shape[a]) | coarse.periodic[a]
        beside[a] = beside[a] % coarse.shape[a]
        linear = linear + matrix(beside, weight * there) - matrix(parent, weight)
    return constant, sparse.csr_array(linear)


@dataclass
class Fields:
    """Learned coefficients of one level: phi of its smoother, g and sc of its prolongation."""

    phi: Array | float = 1.0
    g: Array | float = 0.0
    sc: Array | float = 1.0


class Multigrid:
    """The symmetric conductance cycle as a function on full vectors.

    Parameters
    ----------
    level
        Level 0.
    visits
        Of each coarse level: 1 is a V-cycle, 2 a W-cycle.
    smoother
        "jacobi" with the factors `omega`, or "chebyshev" of `degree` on [2 / lower_ratio, 2].
    fields
        Per level, the finest first; missing ones are not learned.
    fluid
        The finest level's unknowns, where singular components are to be projected; None: no projection.
    """

    def __init__(
        self,
        level: Level,
        *,
        visits: int = 2,
        smoother: str = "jacobi",
        omega: Sequence[float] | None = None,
        degree: int = 3,
        lower_ratio: float = 4.0,
        fields: Sequence[Fields] = (),
        fluid: Array | None = None,
    ) -> None:
        self.visits, self.smoother, self.degree, self.lower_ratio = visits, smoother, degree, lower_ratio
        d = len(level.shape)
        self.omega = list(omega) if omega is not None else [0.857 if d == 3 else 0.8] * 2
        self.levels = [level]
        while any(halved_axes(self.levels[-1].shape, self.levels[-1].c)):
            self.levels.append(coarser(self.levels[-1]))
        self.A = [one.matrix() for one in self.levels]
        self.inverse_d, self.P = [], []
        for k, one in enumerate(self.levels):
            learned = fields[k] if k < len(fields) else Fields()
            D = one.diagonal()
            phi = np.broadcast_to(learned.phi, one.shape)
            self.inverse_d.append(np.divide(phi, D, out=np.zeros(one.shape), where=D > 0).ravel())
            if k + 1 == len(self.levels):
                break
            P = transfers(one, self.levels[k + 1])
            g = np.broadcast_to(learned.g, one.shape).ravel()
            sc = np.where(D > 0, learned.sc, 0.0).ravel()
            self.P.append(
                sparse.diags_array(sc) @ (sparse.diags_array(1 - g) @ P[0] + sparse.diags_array(g) @ P[1])
            )
        self.coarse_inverse = np.linalg.pinv(self.A[-1].toarray(), rcond=1e-10, hermitian=True)
        self.label, self.singular = (None, []) if fluid is None else components(level, fluid)

    def smooth(self, k: int, b: Array, x: Array, *, reverse: bool) -> Array:
        """The sweeps of level k."""
        A, F = self.A[k], self.inverse_d[k]
        if self.smoother == "jacobi":
            for om in self.omega[::-1] if reverse else self.omega:
                x = x + om * F * (b - A @ x)
            return x
        upper = 2.0
        lower = upper / self.lower_ratio
        theta, delta = (upper + lower) / 2, (upper - lower) / 2
        sigma = theta / delta
        rho = 1 / sigma
        r = b - A @ x
        p = F * r / theta
        x = x + p
        for _ in range(self.degree - 1):
            r = r - A @ p
            new = 1 / (2 * sigma - rho)
            p = new * rho * p + 2 * new / delta * F * r
            rho = new
            x = x + p
        return x

    def visit(self, k: int, b: Array, x: Array) -> Array:
        """Improve x for level k's equations."""
        if k + 1 == len(self.levels):
            return self.coarse_inverse @ b
        x = self.smooth(k, b, x, reverse=False)
        coarse_b = self.P[k].T @ (b - self.A[k] @ x)
        e = np.zeros(self.levels[k + 1].s.size)
        for _ in range(self.visits):
            e = self.visit(k + 1, coarse_b, e)
        return self.smooth(k, b, x + self.P[k] @ e, reverse=True)

    def __call__(self, r: Array) -> Array:
        """One cycle from zero."""
        r = np.asarray(r, dtype=float).ravel()
        z = self.visit(0, r, np.zeros(r.size))
        return z if self.label is None else project(z, self.label, self.singular)[0]

    def dense(self) -> Array:
        """The cycle as a matrix."""
        return np.stack([self(unit) for unit in np.eye(self.levels[0].s.size)], axis=1)


# ------------------------------------------------------------------------------------------------------ loops


@dataclass
class Result:
    """What a loop returns; `residuals` has the start's norm and one more per iteration."""

    x: Array
    status: int
    nit: int
    residuals: list[float] = field(default_factory=list)
    n_model: int = 0
    n_replaced: int = 0
    fallback_step: int | None = None


def pr_pcg(
    A: Any,
    b: Array,
    M: Callable[[Array], Array],
    x0: Array | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int = 1000,
) -> Result:
    """Conjugate gradients with the preconditioner M and Polak-Ribiere's beta."""
    x = np.zeros_like(b) if x0 is None else np.array(x0, dtype=float)
    goal = max(rtol * np.linalg.norm(b), atol)
    r = b - A @ x
    norms = [float(np.linalg.norm(r))]
    if norms[0] <= goal:
        return Result(x, CONVERGED, 0, norms)
    z = M(r)
    p, rz = z.copy(), float(r @ z)
    for k in range(1, maxiter + 1):
        Ap = A @ p
        pAp = float(p @ Ap)
        if not pAp > 0:
            return Result(x, NOT_SPD, k - 1, norms, n_model=k)
        alpha = rz / pAp
        x = x + alpha * p
        old, r = r, r - alpha * Ap
        norms.append(float(np.linalg.norm(r)))
        if norms[-1] <= goal:
            return Result(x, CONVERGED, k, norms, n_model=k)
        z = M(r)
        beta = float(z @ (r - old)) / rz
        rz = float(r @ z)
        p = z + beta * p
    return Result(x, MAXITER, maxiter, norms, n_model=maxiter)


def published(
    A: Any,
    b: Array,
    f: Callable[[Array], Array],
    x0: Array | None = None,
    *,
    rtol: float = 1e-4,
    maxiter: int = 100,
) -> Result:
    """The iteration of the paper: two directions kept, two products a step, nothing safe about it."""
    x = np.zeros_like(b) if x0 is None else np.array(x0, dtype=float)
    r = b - A @ x
    norms = [float(np.linalg.norm(r))]
    goal = rtol * norms[0]
    kept: list[tuple[Array, Array]] = []
    for k in range(1, maxiter + 1):
        if norms[-1] <= goal:
            return Result(x, CONVERGED, k - 1, norms, n_model=k - 1)
        q = f(r / norms[-1])
        p = q.copy()
        for old, A_old in reversed(kept):
            p = p - old * float(q @ A_old) / float(old @ A_old)
        Ap = A @ p
        pAp = float(p @ Ap)
        if not (np.isfinite(pAp) and pAp != 0):
            return Result(x, BREAKDOWN, k - 1, norms, n_model=k)
        x = x + float(p @ r) / pAp * p
        r = b - A @ x
        norms.append(float(np.linalg.norm(r)))
        kept = [*kept, (p, Ap)][-2:]
    status = CONVERGED if norms[-1] <= goal else MAXITER
    return Result(x, status, maxiter, norms, n_model=maxiter)


PATIENCE = 3  # unusable outputs in a row before the fallback takes over
LEAST_PART = 0.05  # of a step's gain that a useful model's direction brings


def robust(
    A: Any,
    b: Array,
    f: Callable[[Array], Array],
    x0: Array | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int = 1000,
    n_previous: int = 2,
    enrich: bool = True,
    fallback: Callable[[Array], Array] | None = None,
    stall_window: int = 15,
    fast_fallback: bool = True,
    recompute: int = 50,
) -> Result:
    """Least error in the A-norm over the model's output, the residual, and earlier steps.

    `fallback`: an SPD preconditioner with which `pr_pcg` goes on after a breakdown, where the model brings
    nothing beside the residual over `stall_window` steps, and, if it is a fast one, where the rate of so many
    steps promises more than as many further ones.
    """
    x = np.zeros_like(b) if x0 is None else np.array(x0, dtype=float)
    goal = max(rtol * np.linalg.norm(b), atol)
    r = b - A @ x
    norms = [float(np.linalg.norm(r))]
    kept: list[tuple[Array, Array, float]] = []
    n_model = n_replaced = unusable = 0
    plain = False
    beaten: list[bool] = []

    def switch(status: int) -> Result:
        k = len(norms) - 1
        if fallback is None:
            return Result(x, status, k, norms, n_model, n_replaced)
        rest = pr_pcg(A, b, fallback, x, rtol=0.0, atol=goal, maxiter=maxiter - k)
        return Result(
            rest.x,
            rest.status,
            k + rest.nit,
            norms + rest.residuals[1:],
            n_model,
            n_replaced,
            fallback_step=k,
        )

    while len(norms) <= maxiter:
        k = len(norms) - 1
        if norms[-1] <= goal:
            return Result(x, CONVERGED, k, norms, n_model, n_replaced)
        u = r / norms[-1]
        direction = u
        if not plain:
            direction = np.asarray(f(u), dtype=float)
            n_model += 1
        if np.isfinite(direction).all() and direction.any():
            unusable = 0
        else:
            direction, n_replaced, unusable = u, n_replaced + 1, unusable + 1
        Z: list[tuple[Array, Array, float]] = []
        gains = []
        for d in [direction, u] if enrich else [direction]:
            d = d / np.linalg.norm(d)
            for p, Ap, a in kept + Z:
                d = d - p * float(d @ Ap) / a
            length = float(np.linalg.norm(d))
            gains.append(0.0)
            if length < 1e-7:
                continue
            d = d / length
            Ad = A @ d
            a = float(d @ Ad)
            if a < -1e-12 * np.linalg.norm(Ad):
                return Result(x, NOT_SPD, k, norms, n_model, n_replaced)
            if a > 1e-12 * np.linalg.norm(Ad):
                Z.append((d, Ad, a))
                gains[-1] = float(d @ r) ** 2 / a
        if not sum(gains) > 0:
            if not kept and (plain or enrich):
                return switch(BREAKDOWN)
            kept, plain, n_replaced = [], True, n_replaced + 1
            continue
        plain = False
        steps = [float(d @ r) / a for d, _, a in Z]
        delta = sum(t * d for t, (d, _, _) in zip(steps, Z, strict=True))
        A_delta = sum(t * Ad for t, (_, Ad, _) in zip(steps, Z, strict=True))
        x = x + delta
        r = r - A_delta
        if (k + 1) % recompute == 0 or np.linalg.norm(r) <= goal:
            r = b - A @ x
        norms.append(float(np.linalg.norm(r)))
        kept = [*kept, (delta, A_delta, float(delta @ A_delta))][-n_previous:] if n_previous else []
        if fallback is None or norms[-1] <= goal:
            continue
        if unusable == PATIENCE:
            return switch(BREAKDOWN)
        beaten.append(gains[0] < LEAST_PART * sum(gains))
        last = beaten[-stall_window:] if stall_window else []
        if enrich and stall_window and len(last) == stall_window and 2 * sum(last) > stall_window:
            return switch(STAGNATED)
        if fast_fallback and stall_window and len(norms) > stall_window:
            then, now = norms[-1 - stall_window], norms[-1]
            if np.log(now / goal) > np.log(then / now):
                return switch(STAGNATED)
    return Result(x, CONVERGED if norms[-1] <= goal else MAXITER, maxiter, norms, n_model, n_replaced)
