"""The heat equation with a changing diffusivity: a sequence of systems whose matrix changes at each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate

Array = NDArray[Any]

__all__ = ["HeatSequence"]


class HeatSequence:
    """Crank-Nicolson steps of ``u_t = kappa(t) Lap u + f`` on the unit square, u = 0 on the boundary.

    Step i solves, with ``t = i dt`` and the diffusivity and the source taken at ``t + dt / 2``,

        (I - kappa dt/2 Lap) u_{i+1} = (I + kappa dt/2 Lap) u_i + dt f

    for the five-point Laplacian on ``n = (nx - 1)**2`` inner points. All matrices are symmetric positive
    definite and share one pattern; the right-hand side needs the last solution. By default the diffusivity
    is the larger of ``0.1 sin(2 pi t)`` and ``-10 sin(2 pi t)``, so that half of each unit of time is a
    hundred times as stiff as the other half, and a round source travels through the domain.

    The object is a function ``systems(i, previous) -> (A, b, context)`` with a length, for whoever walks
    along the sequence.

    Parameters
    ----------
    nx : int, default 50
        Intervals per side.
    n_steps : int, default 5000
        Length of the sequence.
    dt : float, default 1e-3
        Time step.
    diffusivity : callable, optional
        ``diffusivity(t)``, a float >= 0.
    source : callable, optional
        ``source(t, x, y)`` at points given by two arrays of shape (n,).
    initial : callable, optional
        ``initial(x, y)``, u at t = 0; by default a bump of radius 1/4 in the middle.

    Attributes
    ----------
    n : int
        Unknowns.
    x, y : ndarray, shape (n,)
        Coordinates of the points, y growing fastest.
    u0 : ndarray, shape (n,)
        The solution at t = 0, from which step 0 starts.
    contexts : ndarray, shape (n_steps,)
        The diffusivity at the start of each step: what is known of a system before it is solved.

    Raises
    ------
    TypeError, ValueError
        For sizes that are no integers or too small, a `dt` that is not positive, functions that are not
        callable, return another shape, or a value that is not finite.

    Examples
    --------
    >>> from scipy.sparse.linalg import spsolve
    >>> from aitken.datasets import HeatSequence
    >>> heat = HeatSequence(nx=20, n_steps=3)
    >>> u = heat.u0
    >>> for i in range(len(heat)):
    ...     A, b, kappa = heat(i, u)
    ...     u = spsolve(A, b)
    >>> u.shape, float(u.max()) > 0.9
    ((361,), True)
    """

    def __init__(
        self,
        nx: int = 50,
        n_steps: int = 5000,
        dt: float = 1e-3,
        *,
        diffusivity: Callable[[float], float] | None = None,
        source: Callable[[float, Array, Array], Array] | None = None,
        initial: Callable[[Array, Array], Array] | None = None,
    ) -> None:
        self.nx = _validate.integer("nx", nx, minimum=2)
        self.n_steps = _validate.integer("n_steps", n_steps, minimum=1)
        self.dt = _validate.positive_scalar("dt", dt)
        self._diffusivity = _validate.callback("diffusivity", diffusivity) or periodic_diffusivity
        self._source = _validate.callback("source", source) or travelling_source
        initial = _validate.callback("initial", initial) or middle_bump
        side = self.nx - 1
        self.n = side * side
        inner = np.arange(1, self.nx) / self.nx
        self.x, self.y = (c.ravel() for c in np.meshgrid(inner, inner, indexing="ij"))
        self.indptr, self.indices, self._laplacian = _five_points(side, self.nx)
        self._diagonal = self._laplacian == -4.0 * self.nx**2
        self.u0 = self._values("initial", initial(self.x, self.y))
        self.contexts = np.array([self.diffusivity(i * self.dt) for i in range(self.n_steps)])

    def __len__(self) -> int:
        """Number of steps."""
        return self.n_steps

    def __call__(self, i: int, previous: Array | None = None) -> tuple[Any, Array, float]:
        """System i with its context; `previous` None is the solution at t = 0."""
        A, b = self.system(i, self.u0 if previous is None else previous)
        return A, b, self.context(i)

    def __repr__(self) -> str:
        return f"HeatSequence(nx={self.nx}, n_steps={self.n_steps}, dt={self.dt:g})"

    def diffusivity(self, t: float) -> float:
        """kappa(t)."""
        return _validate.real_scalar("diffusivity", self._diffusivity(t), minimum=0.0)

    def context(self, i: int) -> float:
        """The diffusivity at the start of step i."""
        return float(self.contexts[self._step(i)])

    def matrix(self, i: int) -> Any:
        """The matrix of step i, a `scipy.sparse.csr_array` whose index arrays all steps share."""
        from scipy import sparse

        data = -self._factor(i) * self._laplacian
        data[self._diagonal] += 1.0
        return sparse.csr_array((data, self.indices, self.indptr), shape=(self.n, self.n))

    def system(self, i: int, u: Any) -> tuple[Any, Array]:
        """Matrix and right-hand side of step i, given the solution u of shape (n,) at its start."""
        u = self._values("u", u)
        A = self.matrix(i)
        f = self._values("source", self._source((i + 0.5) * self.dt, self.x, self.y))
        return A, 2.0 * u - A @ u + self.dt * f  # I + c Lap = 2 I - A

    def _factor(self, i: int) -> float:
        return 0.5 * self.dt * self.diffusivity((self._step(i) + 0.5) * self.dt)

    def _step(self, i: int) -> int:
        return _validate.integer("i", i, minimum=0, maximum=self.n_steps - 1)

    def _values(self, name: str, values: Any) -> Array:
        array: Array = _validate.as_float_array(name, values, dtype=np.float64, shape=(self.n,))
        return array


def periodic_diffusivity(t: float) -> float:
    """The larger of ``0.1 sin(2 pi t)`` and ``-10 sin(2 pi t)``."""
    s = math.sin(2 * math.pi * t)
    return max(0.1 * s, -10.0 * s)


def bump(x: Array, y: Array, centre: tuple[float, float], radius: float) -> Array:
    """Smooth, 1 at the centre, 0 from `radius` on."""
    square = np.minimum(1.0, ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2)
    out = np.zeros_like(square)
    inside = square < 1.0
    out[inside] = np.exp(1.0 - 1.0 / (1.0 - square[inside]))
    return out


def middle_bump(x: Array, y: Array) -> Array:
    """A bump of radius 1/4 in the middle of the square."""
    return bump(x, y, (0.5, 0.5), 0.25)


def travelling_source(t: float, x: Array, y: Array) -> Array:
    """A bump of height 32 and radius 1/8 that goes round the middle eight times per unit of time."""
    angle = 16 * math.pi * t
    return 32.0 * bump(x, y, (0.5 + math.cos(angle) / 4, 0.5 + math.sin(angle) / 4), 0.125)


def _five_points(side: int, nx: int) -> tuple[Array, Array, Array]:
    """CSR arrays of the five-point Laplacian, columns sorted."""
    number = np.arange(side * side, dtype=np.int32).reshape(side, side)
    padded = np.full((side + 2, side + 2), -1, dtype=np.int32)
    padded[1:-1, 1:-1] = number
    neighbours = [padded[:-2, 1:-1], padded[1:-1, :-2], number, padded[1:-1, 2:], padded[2:, 1:-1]]
    columns = np.stack([c.ravel() for c in neighbours], axis=1)
    there = columns >= 0
    values = np.broadcast_to(nx**2 * np.array([1.0, 1.0, -4.0, 1.0, 1.0]), columns.shape)[there]
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return indptr, columns[there], values
