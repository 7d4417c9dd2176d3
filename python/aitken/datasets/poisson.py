"""Pressure equations on grids with obstacles: masks, right-hand sides, and a plume of smoke that needs them.

Cells of the unit square or cube have their centres at ``(i + 0.5) / n`` along each axis; a mask is True where
a cell is fluid. The equations are those of `aitken.linalg.GridPoisson` with unit spacing: conductance 1
between fluid cells and towards p = 0 beyond the box, none towards solids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate

Array = NDArray[Any]

__all__ = ["SmokePlume", "obstacle_mask", "poisson_rhs"]

OBSTACLES = ("none", "ball", "multi", "maze", "random30")
RIGHT_HAND_SIDES = ("white", "dipole", "divergence", "Ax")


def _grid_shape(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or len(shape) not in (2, 3):
        raise TypeError(f"`{name}` must be two or three integers, not {shape!r}")
    return tuple(_validate.integer(f"{name}[{a}]", n, minimum=1) for a, n in enumerate(shape))


def _centres(shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Coordinates of the cells' centres, each of a shape that broadcasts to the grid's."""
    return np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij", sparse=True)


# ------------------------------------------------------------------------------------------------- obstacles


def _ball(shape: tuple[int, ...], centre: Any, radius: float) -> Array:
    squares = sum((x - c) ** 2 for x, c in zip(_centres(shape), centre, strict=True))
    return np.broadcast_to(squares < radius * radius, shape)


def _multi(shape: tuple[int, ...], seed: int) -> Array:
    """Random balls and boxes, and a wall one cell thick with gaps at both of its ends."""
    rng = np.random.default_rng(seed)
    d = len(shape)
    solid = np.zeros(shape, dtype=bool)
    centres = _centres(shape)
    for _ in range(6 if d == 2 else 10):
        c = rng.uniform(0.1, 0.9, d)
        r = rng.uniform(0.04, 0.15)
        if rng.random() < 0.5:
            solid |= _ball(shape, c, r)
        else:
            w = rng.uniform(0.3, 1.5, d)
            inside = np.ones(shape, dtype=bool)
            for x, x_c, side in zip(centres, c, r * w, strict=True):
                inside &= np.abs(x - x_c) < side
            solid |= inside
    n = shape[1]
    solid[shape[0] // 2, n // 8 : n - n // 8] = True
    return solid


def _maze(shape: tuple[int, ...], corridor: int, seed: int) -> Array:
    """Blocks of ``corridor + 1`` cells, their last ones walls, joined along a random spanning tree.

    The tree is that of a walk that goes on to a random block not yet visited and turns back where there is
    none: long corridors, few forks.
    """
    rng = np.random.default_rng(seed)
    period = corridor + 1
    solid = np.zeros(shape, dtype=bool)
    for a, n in enumerate(shape):
        wall = np.arange(n) % period == corridor
        solid |= wall.reshape([-1 if k == a else 1 for k in range(len(shape))])
    blocks = [-(-n // period) for n in shape]
    visited = np.zeros(blocks, dtype=bool)
    here = tuple(0 for _ in blocks)
    visited[here] = True
    path = [here]
    while path:
        here = path[-1]
        ways = [
            (a, step)
            for a in range(len(shape))
            for step in (-1, 1)
            if 0 <= here[a] + step < blocks[a] and not visited[(*here[:a], here[a] + step, *here[a + 1 :])]
        ]
        if not ways:
            path.pop()
            continue
        a, step = ways[rng.integers(len(ways))]
        there = (*here[:a], here[a] + step, *here[a + 1 :])
        visited[there] = True
        path.append(there)
        gate = [slice(period * k, period * k + corridor) for k in here]
        wall_at = period * max(here[a], there[a]) - 1
        gate[a] = slice(wall_at, wall_at + 1)
        solid[tuple(gate)] = False
    return solid


def obstacle_mask(
    kind: str, shape: Sequence[int], *, seed: int | None = None, corridor: int = 7
) -> NDArray[np.bool_]:
    """Which cells of a grid are fluid.

    - ``"none"``: all of them.
    - ``"ball"``: a solid ball of radius 0.2 in the middle.
    - ``"multi"``: 6 (in three dimensions 10) random balls and boxes, and a wall one cell thick.
    - ``"maze"``: a labyrinth of corridors of `corridor` cells between walls one cell thick.
    - ``"random30"``: each cell solid with probability 0.3, which leaves enclosed pockets of fluid.

    Parameters
    ----------
    kind : {"none", "ball", "multi", "maze", "random30"}
        Which obstacles.
    shape : sequence of 2 or 3 ints
        Cells along each axis.
    seed : int, optional
        Of the random kinds; by default 3 (in three dimensions 4) for ``"multi"``, else 0.
    corridor : int, default 7
        Width of the corridors of ``"maze"``, at least 1.

    Returns
    -------
    ndarray of bool, shape `shape`
        True where a cell is fluid.

    Raises
    ------
    TypeError, ValueError
        For another kind, a shape that is not 2 or 3 positive integers, or a corridor below 1.

    Examples
    --------
    >>> from aitken.datasets import obstacle_mask
    >>> obstacle_mask("ball", (64, 64)).mean().round(3)
    np.float64(0.872)
    """
    kind = _validate.choice("kind", kind, OBSTACLES)
    cells = _grid_shape("shape", shape)
    corridor = _validate.integer("corridor", corridor, minimum=1)
    default = len(cells) + 1 if kind == "multi" else 0
    seed = default if seed is None else _validate.integer("seed", seed, minimum=0)
    if kind == "none":
        return np.ones(cells, dtype=bool)
    if kind == "ball":
        return ~_ball(cells, (0.5,) * len(cells), 0.2)
    if kind == "multi":
        return ~_multi(cells, seed)
    if kind == "maze":
        return ~_maze(cells, corridor, seed)
    return np.random.default_rng(seed).random(cells) >= 0.3


# ----------------------------------------------------------------------------------------- discrete calculus


def _open_faces(fluid: Array, axis: int) -> Array:
    """Faces along an axis, n + 1 of them, that no solid cell touches; all is open beyond the box."""
    pad = [(1, 1) if a == axis else (0, 0) for a in range(fluid.ndim)]
    cells = np.pad(fluid, pad, constant_values=True)
    lower = [slice(None)] * fluid.ndim
    upper = list(lower)
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    open_faces: Array = cells[tuple(lower)] & cells[tuple(upper)]
    return open_faces


def _divergence(velocity: Sequence[Array]) -> Array:
    """Net outflow of each cell from velocities on faces, n_a + 1 along axis a, for unit cells."""
    total: Array = sum(np.diff(u, axis=a) for a, u in enumerate(velocity))  # type: ignore[assignment]
    return total


def _gradient(p: Array, axis: int) -> Array:
    """Differences on all n + 1 faces along an axis, p = 0 beyond the box."""
    pad = [(1, 1) if a == axis else (0, 0) for a in range(p.ndim)]
    return np.diff(np.pad(p, pad), axis=axis)


def apply_poisson(fluid: NDArray[np.bool_], p: Any) -> NDArray[np.float64]:
    """A p for conductance 1 and p = 0 beyond the box, by differences; shape of `fluid`, 0 where not fluid."""
    p = np.where(fluid, np.reshape(p, fluid.shape), 0.0)
    flow = [_open_faces(fluid, a) * -_gradient(p, a) for a in range(fluid.ndim)]
    return np.where(fluid, _divergence(flow), 0.0)


# ------------------------------------------------------------------------------------------ right-hand sides


def poisson_rhs(kind: str, fluid: Any, *, seed: int = 7) -> NDArray[np.float64]:
    """A right-hand side for a grid with obstacles.

    - ``"white"``: independent normal numbers; all frequencies alike.
    - ``"dipole"``: a smooth narrow source beside a wider sink, the same along a third axis.
    - ``"divergence"``: minus the divergence of a jet along the first axis that solids cut off, and of the
      lift of a cloud of smoke: what the pressure of a fluid has to undo.
    - ``"Ax"``: A times independent normal numbers. Its energy sits in high frequencies, where any method
      is fast; never a test by itself.

    Parameters
    ----------
    kind : {"white", "dipole", "divergence", "Ax"}
        Which right-hand side.
    fluid : array_like of bool, 2-D or 3-D
        True where a cell is fluid, as from `obstacle_mask`.
    seed : int, default 7
        Of the normal numbers; one for each fluid cell in C order.

    Returns
    -------
    ndarray of float64, shape of `fluid`
        Zero in cells that are not fluid.

    Raises
    ------
    TypeError, ValueError
        For another kind, or a mask that is not boolean with 2 or 3 axes.

    Examples
    --------
    >>> import numpy as np
    >>> from aitken.datasets import obstacle_mask, poisson_rhs
    >>> fluid = obstacle_mask("ball", (32, 32))
    >>> b = poisson_rhs("divergence", fluid)
    >>> b.shape, bool((b[~fluid] == 0).all()), bool(np.abs(b).max() > 0.5)
    ((32, 32), True, True)
    """
    kind = _validate.choice("kind", kind, RIGHT_HAND_SIDES)
    fluid = np.asarray(fluid)
    if fluid.dtype != np.bool_:
        raise TypeError(f"`fluid` must be boolean, got dtype {fluid.dtype}")
    _validate.check_ndim("fluid", fluid, (2, 3))
    rng = np.random.default_rng(_validate.integer("seed", seed, minimum=0))
    b = np.zeros(fluid.shape)
    if kind == "white":
        b[fluid] = rng.standard_normal(np.count_nonzero(fluid))
        return b
    if kind == "Ax":
        b[fluid] = rng.standard_normal(np.count_nonzero(fluid))
        return apply_poisson(fluid, b)
    x, y = _centres(fluid.shape)[:2]
    if kind == "dipole":
        field = np.exp(-((x - 0.3) ** 2 + (y - 0.5) ** 2) / 0.005)
        field = field - np.exp(-((x - 0.4) ** 2 + (y - 0.55) ** 2) / 0.01)
        return np.where(fluid, field, 0.0)
    n = fluid.shape[0]
    at = (np.arange(n + 1) / n).reshape([-1] + [1] * (fluid.ndim - 1))  # the faces of the first axis
    across = sum((c - 0.5) ** 2 for c in _centres(fluid.shape)[1:])
    up = np.exp(-across / 0.02) + 0.5 * np.exp(-((at - 0.2) ** 2 + across) / 0.01)
    return np.where(fluid, -np.diff(up * _open_faces(fluid, 0), axis=0), 0.0)


# ------------------------------------------------------------------------------------------------------ smoke


def _sample(field: Array, at: Sequence[Array]) -> Array:
    """Bilinear interpolation at points in units of the field's own nodes, clamped to its box."""
    low, weight = [], []
    for n, x in zip(field.shape, at, strict=True):
        x = np.clip(x, 0.0, n - 1.0)
        i = np.minimum(x.astype(np.intp), max(n - 2, 0))
        low.append(i)
        weight.append(x - i)
    (i, j), (s, t) = low, weight
    k, m = np.minimum(i + 1, field.shape[0] - 1), np.minimum(j + 1, field.shape[1] - 1)
    out: Array = (1 - s) * ((1 - t) * field[i, j] + t * field[i, m])
    return out + s * ((1 - t) * field[k, j] + t * field[k, m])


class SmokePlume:
    """Smoke that rises past a ball which moves back and forth, in an open box of n x n cells.

    Velocities lie on faces, smoke and pressure in cells. A step moves the ball, carries smoke and velocities
    along (to first order: the value at the point where the flow comes from), lets smoke rise, and takes from
    the velocity the gradient of a pressure that leaves no divergence. That pressure solves ``A p = b`` on the
    grid's fluid cells, by a function that the caller gives. Lengths are cells, p is times the time step.

    Parameters
    ----------
    n : int, default 128
        Cells along each side, at least 8.
    dt : float, default 1.0
        Time step; the smoke takes about 80 units of time to the top.
    moving : bool, default True
        Whether the ball moves; else it stays in the middle.

    Attributes
    ----------
    fluid : ndarray of bool, shape (n, n)
        True where a cell is fluid, now. The first axis points up.
    smoke : ndarray, shape (n, n)
        Density of smoke, 0 to 1.
    velocity : list of two ndarrays, shapes (n + 1, n) and (n, n + 1)
        Velocities on the faces of each axis, in cells per unit of time.
    i : int
        Steps done.

    Raises
    ------
    TypeError, ValueError
        For a side that is no integer or below 8, or a `dt` that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import LinearOperator, cg
    >>> from aitken.datasets import SmokePlume
    >>> plume = SmokePlume(32)
    >>> def solve(fluid, b):
    ...     A = LinearOperator((b.size, b.size), lambda p: plume.apply(p).ravel())
    ...     return cg(A, b.ravel(), rtol=1e-6)[0].reshape(b.shape)
    >>> for _ in range(3):
    ...     plume.step(solve)
    >>> plume.i, bool(np.abs(plume.divergence()).max() < 1e-5)
    (3, True)
    """

    def __init__(self, n: int = 128, dt: float = 1.0, *, moving: bool = True) -> None:
        self.n = _validate.integer("n", n, minimum=8)
        self.dt = _validate.positive_scalar("dt", dt)
        self.moving = _validate.boolean("moving", moving)
        self.i = 0
        self.smoke = np.zeros((self.n, self.n))
        self.velocity = [np.zeros((self.n + 1, self.n)), np.zeros((self.n, self.n + 1))]
        self.fluid, self._ball_speed = self._place_ball()

    def __repr__(self) -> str:
        return f"SmokePlume(n={self.n}, dt={self.dt:g}, moving={self.moving}) after {self.i} steps"

    def _place_ball(self) -> tuple[Array, float]:
        """The mask now, and the ball's speed along the second axis in cells per unit of time."""
        rate, reach = 0.05, 0.12
        phase = rate * self.dt * self.i if self.moving else 0.0
        centre = (0.45, 0.5 + reach * np.sin(phase))
        speed = reach * rate * np.cos(phase) * self.n if self.moving else 0.0
        return ~_ball((self.n, self.n), centre, 0.1), speed

    def _carry(self) -> None:
        """Smoke and velocities from where the flow comes from."""
        n, dt = self.n, self.dt
        u, v = self.velocity
        grids = {"smoke": (0.5, 0.5, n, n), "u": (0.0, 0.5, n + 1, n), "v": (0.5, 0.0, n, n + 1)}
        new = {}
        for name, (di, dj, rows, columns) in grids.items():
            x, y = np.meshgrid(np.arange(rows) + di, np.arange(columns) + dj, indexing="ij")
            back = (
                x - dt * _sample(u, (x, y - 0.5)),
                y - dt * _sample(v, (x - 0.5, y)),
            )
            field = {"smoke": self.smoke, "u": u, "v": v}[name]
            new[name] = _sample(field, (back[0] - di, back[1] - dj))
        self.smoke, self.velocity = new["smoke"], [new["u"], new["v"]]

    def begin(self) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Everything of a step but the pressure.

        Returns
        -------
        fluid : ndarray of bool, shape (n, n)
            The cells of this step.
        b : ndarray, shape (n, n)
            Minus the divergence, 0 where not fluid: the right-hand side for the pressure.
        """
        n = self.n
        self._carry()
        self.fluid, self._ball_speed = self._place_ball()
        x, y = _centres((n, n))
        self.smoke[(x - 0.1) ** 2 + (y - 0.5) ** 2 < 0.06**2] = 1.0
        self.smoke[~self.fluid] = 0.0
        lift = 0.05 * (n / 64) * self.dt
        self.velocity[0][1:-1] += lift * 0.5 * (self.smoke[1:] + self.smoke[:-1])
        for a, speed in ((0, 0.0), (1, self._ball_speed)):
            self.velocity[a][~_open_faces(self.fluid, a)] = speed
        return self.fluid, -self.divergence()

    def end(self, p: Any) -> None:
        """Subtract the gradient of the pressure; `p` of shape (n, n), ignored where not fluid."""
        p = _validate.as_float_array("p", p, shape=(self.n, self.n), dtype=np.float64)
        p = np.where(self.fluid, p, 0.0)
        for a in range(2):
            self.velocity[a] -= _open_faces(self.fluid, a) * _gradient(p, a)
        self.i += 1

    def step(self, solve: Callable[[NDArray[np.bool_], NDArray[np.float64]], Any]) -> None:
        """One time step with the pressure ``solve(fluid, b)``, an array of shape (n, n)."""
        self.end(solve(*self.begin()))

    def divergence(self) -> NDArray[np.float64]:
        """Net outflow of each fluid cell, shape (n, n); 0 where not fluid."""
        return np.where(self.fluid, _divergence(self.velocity), 0.0)

    def apply(self, p: Any) -> NDArray[np.float64]:
        """A p with the matrix of this step's pressure, shape (n, n); 0 where not fluid."""
        return apply_poisson(self.fluid, p)
