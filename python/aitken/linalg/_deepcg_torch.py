"""PyTorch twins of the models, for training alone: the multigrid cycle, the networks, the two losses.

Imported by ``train_model`` and by nothing else. Operators are constants of a geometry, so each is one
autograd function whose derivative is its own transpose; only the learned fields are differentiated through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

SIZE_OF_COARSEST = 4  # axes this short are not coarsened
CHANNELS = 16


# --- levels of a grid -------------------------------------------------------------------------------------


class _Apply(torch.autograd.Function):
    """y = A x on one level; A is symmetric, so the derivative is A again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, level: Level) -> torch.Tensor:
        ctx.level = level
        return level.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.level.product(grads[0]), None


class _Raise(torch.autograd.Function):
    """Coarse values to fine cells, constant or linear; the derivative is `_Lower`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, level: Level, linear: bool) -> torch.Tensor:
        ctx.level, ctx.linear = level, linear
        return level.raised(x, linear)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.level.lowered(grads[0], ctx.linear), None, None


class _Lower(torch.autograd.Function):
    """The transpose of `_Raise`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, level: Level, linear: bool) -> torch.Tensor:
        ctx.level, ctx.linear = level, linear
        return level.lowered(x, linear)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.level.raised(grads[0], ctx.linear), None, None


def _pairs(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Sums of neighbouring pairs along `axis`; a missing last partner is zero."""
    even, odd = x[_at(x, axis, slice(0, None, 2))], x[_at(x, axis, slice(1, None, 2))]
    total = even.clone()
    total[_at(x, axis, slice(0, odd.shape[axis]))] += odd
    return total


def _distances(widths: torch.Tensor) -> torch.Tensor:
    """Distances between the centres of cells i - 1 and i; the first is not used."""
    return (widths + torch.roll(widths, 1)) / 2


def _at(x: torch.Tensor, axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if a == axis else slice(None) for a in range(x.ndim))


class Level:
    """One level of a batch of geometries: arrays are (batch, n_0, ..., n_{d-1}).

    Parameters
    ----------
    faces : list of Tensor
        Per axis the conductance between cell i - 1 and cell i, zero at i = 0.
    walls : list of Tensor
        Per axis the conductance of a cell to Dirichlet half a finest cell away, both sides together.
    shift : Tensor
        Diagonal added to the operator.
    scales : list of float
        Per axis the conductance that a grid without obstacles has.
    fraction : Tensor or None
        Share of fluid; None on the finest level, where it is 1 on active cells.
    widths : list of Tensor
        Per axis the widths of its cells in finest cells; the last one is narrower where a child is missing.
    """

    def __init__(
        self,
        faces: list[torch.Tensor],
        walls: list[torch.Tensor],
        shift: torch.Tensor,
        scales: list[float],
        fraction: torch.Tensor | None,
        widths: list[torch.Tensor],
    ) -> None:
        self.faces, self.walls, self.shift, self.scales, self.widths = faces, walls, shift, scales, widths
        self.ndim = len(faces)
        diagonal = shift.clone()
        for a, (face, wall) in enumerate(zip(faces, walls, strict=True)):
            diagonal += face
            diagonal[_at(face, a + 1, slice(0, -1))] += face[_at(face, a + 1, slice(1, None))]
            # the point where the solution is zero stays half a finest cell outside
            diagonal += wall / (0.5 + 0.5 * self._along(widths[a], a))
        self.diagonal = diagonal
        self.active = (diagonal > 0).to(diagonal)
        self.inverse = torch.where(diagonal > 0, 1 / diagonal.clamp_min(1e-30), torch.zeros_like(diagonal))
        self.fraction = self.active if fraction is None else fraction
        n = self.shape
        self.inner = [face[_at(face, a + 1, slice(1, None))].contiguous() for a, face in enumerate(faces)]
        large = [a for a in range(self.ndim) if n[a] > SIZE_OF_COARSEST]
        top = max((scales[a] for a in large), default=0.0)
        self.coarsened = [a for a in large if scales[a] >= 0.5 * top]
        self.openings: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.diagonal.shape[1:])

    def _along(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """Values along one axis, as an array that broadcasts over the others."""
        return values.reshape([1] * (axis + 1) + [-1] + [1] * (self.ndim - 1 - axis))

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """A x: 1 + 2 d multiply-adds a cell."""
        y = self.diagonal * x
        for a, w in enumerate(self.inner):
            lo, hi = _at(x, a + 1, slice(0, -1)), _at(x, a + 1, slice(1, None))
            y[hi].addcmul_(w, x[lo], value=-1)
            y[lo].addcmul_(w, x[hi], value=-1)
        return y

    def raised(self, x: torch.Tensor, linear: bool) -> torch.Tensor:
        """Interpolation from the next level.

        A child has its parent's value; linear adds a quarter of the way to the parent's neighbour on the
        child's side, as far as the coarse face between them is open.
        """
        steps = []
        for a, *sides in self.openings if linear else []:
            low, high = _at(x, a + 1, slice(0, -1)), _at(x, a + 1, slice(1, None))
            down, up = (t * x for t in sides)
            down[high].addcmul_(sides[0][high], x[low], value=-1)
            up[low].addcmul_(sides[1][low], x[high], value=-1)
            steps.append((down, up))
        full = [n * 2 if a - 1 in self.coarsened else n for a, n in enumerate(x.shape)]
        y = x.new_empty(full)
        for corner, part in self._corners():
            value = y[part]
            value.copy_(x)
            for side, step in zip(corner, steps, strict=bool(steps)):
                value.sub_(step[side])
        return y[(slice(None), *(slice(0, n) for n in self.shape))].contiguous()

    def lowered(self, x: torch.Tensor, linear: bool) -> torch.Tensor:
        """Transpose of `raised`."""
        pad = [(a in self.coarsened and self.shape[a] % 2) for a in reversed(range(self.ndim))]
        if any(pad):
            x = functional.pad(x, [n for odd in pad for n in (0, int(odd))])
        parts = [(corner, x[part]) for corner, part in self._corners()]
        y = parts[0][1].clone()
        for _, part in parts[1:]:
            y += part
        for k, (a, *sides) in enumerate(self.openings if linear else []):
            low, high = _at(y, a + 1, slice(0, -1)), _at(y, a + 1, slice(1, None))
            down, up = (
                t * sum(part for corner, part in parts if corner[k] == side) for side, t in enumerate(sides)
            )
            y -= down
            y -= up
            y[low] += down[high]
            y[high] += up[low]
        return y

    def _corners(self) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """The children of a coarse cell: on which side of it along each halved axis, and where they lie."""
        result = []
        for corner in itertools.product((0, 1), repeat=len(self.coarsened)):
            part = [slice(None)] * (self.ndim + 1)
            for a, side in zip(self.coarsened, corner, strict=True):
                part[a + 1] = slice(side, None, 2)
            result.append((corner, tuple(part)))
        return result

    def _open_sides(self, coarse: Level) -> None:
        """How far each side of each coarse cell is open to linear interpolation, times a quarter."""
        for a in self.coarsened:
            lower = coarse.faces[a]
            first, last = _at(lower, a + 1, slice(0, 1)), _at(lower, a + 1, slice(-1, None))
            upper = torch.zeros_like(lower)
            upper[_at(lower, a + 1, slice(0, -1))] = lower[_at(lower, a + 1, slice(1, None))]
            most = torch.maximum(lower, upper)
            share = torch.where(most > 0, 0.25 / most.clamp_min(1e-30), torch.zeros_like(most))
            lower, upper = lower * share, upper * share
            wall = 0.25 * (coarse.walls[a] > 0).to(lower)
            lower[first], upper[last] = wall[first], wall[last]
            self.openings.append((a, lower, upper))

    def coarse(self) -> Level:
        """The next level, from sums of conductances."""
        chosen, d = self.coarsened, self.ndim
        widths = [_pairs(w, 0) if a in chosen else w for a, w in enumerate(self.widths)]
        faces, walls = [], []
        for a in range(d):
            face, wall = self.faces[a], self.walls[a]
            for b in chosen:
                wall = _pairs(wall, b + 1)
                # along a itself only the faces between two coarse cells remain
                face = face[_at(face, a + 1, slice(0, None, 2))] if b == a else _pairs(face, b + 1)
            if a in chosen:  # the same difference over a longer way
                ratio = _distances(self.widths[a])[::2] / _distances(widths[a])
                face = face * self._along(ratio, a)
            faces.append(face)
            walls.append(wall)
        shift, fraction = self.shift, self.fraction
        for b in chosen:
            shift, fraction = _pairs(shift, b + 1), _pairs(fraction, b + 1)
        cells = 2 ** len(chosen)
        scales = [c * (cells / 4 if a in chosen else cells) for a, c in enumerate(self.scales)]
        level = Level(faces, walls, shift, scales, fraction / cells, widths)
        self._open_sides(level)
        return level

    def dense(self) -> torch.Tensor:
        """The level as matrices (batch, n, n), 1 on the diagonal of inactive cells."""
        n, batch = math.prod(self.shape), self.diagonal.shape[0]
        columns = torch.eye(n, dtype=self.diagonal.dtype).reshape(n, 1, *self.shape)
        matrix = torch.stack(
            [self.product(c.expand(batch, *self.shape)).reshape(batch, n) for c in columns], 2
        )
        return matrix + torch.diag_embed(1 - self.active.reshape(batch, n))

    def features(self) -> torch.Tensor:
        """Input of the geometry network, (batch, 4, n_0, ..., n_{d-1})."""
        f0 = self.fraction
        f1 = torch.clamp(self.diagonal / (2 * sum(self.scales)), max=4.0)
        return torch.stack([f0, f1, _box_mean(f0, 3), _box_mean(f0, 5)], 1)


def _box_mean(x: torch.Tensor, side: int) -> torch.Tensor:
    """Means over boxes of `side` cells a side; outside the grid is zero."""
    pool = functional.avg_pool2d if x.ndim == 3 else functional.avg_pool3d
    wide = functional.pad(x[:, None], [side // 2] * (2 * (x.ndim - 1)))
    return pool(wide, side, stride=1)[:, 0]


class Hierarchy:
    """Levels of a batch of masks on one grid shape.

    Parameters
    ----------
    fluid : ndarray of bool, shape (batch, n_0, ..., n_{d-1})
        Unknown cells; the others are solid.
    spacing : sequence of float
        Cell width per axis.
    exterior : sequence of (bool, bool)
        Per axis, whether its lower and upper face of the box is Dirichlet (else solid).
    shift : float
        Added to the diagonal on fluid cells.
    levels : int or None
        At most so many levels.
    """

    def __init__(
        self,
        fluid: np.ndarray,
        *,
        spacing: Sequence[float] | None = None,
        exterior: Sequence[tuple[bool, bool]] | None = None,
        shift: float = 0.0,
        levels: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        mask = torch.from_numpy(np.ascontiguousarray(fluid)).to(dtype)
        d = mask.ndim - 1
        spacing = [1.0] * d if spacing is None else list(spacing)
        exterior = [(True, True)] * d if exterior is None else list(exterior)
        faces, walls = [], []
        for a in range(d):
            face, wall = torch.zeros_like(mask), torch.zeros_like(mask)
            lo, hi = _at(mask, a + 1, slice(0, -1)), _at(mask, a + 1, slice(1, None))
            face[hi] = mask[lo] * mask[hi]
            for open_end, end in zip(exterior[a], (slice(0, 1), slice(-1, None)), strict=True):
                if open_end:
                    wall[_at(mask, a + 1, end)] += mask[_at(mask, a + 1, end)]
            faces.append(face / spacing[a] ** 2)
            walls.append(wall / spacing[a] ** 2)
        scales = [1 / h**2 for h in spacing]
        widths = [torch.ones(n, dtype=dtype) for n in mask.shape[1:]]
        self.levels = [Level(faces, walls, shift * mask, scales, None, widths)]
        while self.levels[-1].coarsened and len(self.levels) != levels:
            self.levels.append(self.levels[-1].coarse())
        self.factor: torch.Tensor | None = None

    @property
    def fluid(self) -> torch.Tensor:
        return self.levels[0].active

    def solve_coarsest(self, b: torch.Tensor) -> torch.Tensor:
        """Exact solution on the last level, zero where nothing is active."""
        if self.factor is None:
            self.factor = torch.linalg.cholesky(self.levels[-1].dense())
        x = torch.cholesky_solve(b.reshape(b.shape[0], -1, 1), self.factor)
        return x.reshape(b.shape) * self.levels[-1].active


# --- the learned cycle ------------------------------------------------------------------------------------


class Fields:
    """The learned fields of one geometry: phi per level, g and sc per pair; None stands for 1, 0, 1."""

    def __init__(self, phi: list[Any], blend: list[Any], scale: list[Any]) -> None:
        self.phi, self.blend, self.scale = phi, blend, scale

    @classmethod
    def plain(cls, n_levels: int) -> Fields:
        return cls([None] * n_levels, [None] * n_levels, [None] * n_levels)


def cycle(
    hierarchy: Hierarchy,
    fields: Fields,
    omega: Sequence[Any],
    b: torch.Tensor,
    gamma: int = 1,
    depth: int = 0,
) -> torch.Tensor:
    """One symmetric multigrid cycle from zero; gamma 1 is the V-cycle, 2 the W-cycle."""
    if depth == len(hierarchy.levels) - 1:
        return hierarchy.solve_coarsest(b)
    level = hierarchy.levels[depth]
    phi, g, sc = fields.phi[depth], fields.blend[depth], fields.scale[depth]
    jacobi = level.inverse if phi is None else level.inverse * phi
    weight = level.active if sc is None else level.active * sc
    x = omega[0] * (jacobi * b)
    for om in omega[1:]:
        x = x + om * (jacobi * (b - _Apply.apply(x, level)))
    r = weight * (b - _Apply.apply(x, level))
    if g is None:
        coarse = _Lower.apply(r, level, False)
    else:
        coarse = _Lower.apply(r - g * r, level, False) + _Lower.apply(g * r, level, True)
    e = cycle(hierarchy, fields, omega, coarse, gamma, depth + 1)
    if depth + 2 < len(hierarchy.levels):  # the last level is exact: a second visit would change nothing
        for _ in range(gamma - 1):
            left = coarse - _Apply.apply(e, hierarchy.levels[depth + 1])
            e = e + cycle(hierarchy, fields, omega, left, gamma, depth + 1)
    up = _Raise.apply(e, level, False)
    if g is not None:
        up = up + g * (_Raise.apply(e, level, True) - up)
    x = x + weight * up
    for om in reversed(omega):
        x = x + om * (jacobi * (b - _Apply.apply(x, level)))
    return x


class GeometryNetwork(torch.nn.Module):
    """phi, g and sc from a geometry: a 3^d convolution and two of 1^d; untrained 0.98, 0.02 and 1."""

    def __init__(self, ndim: int) -> None:
        super().__init__()
        conv = torch.nn.Conv2d if ndim == 2 else torch.nn.Conv3d
        self.ndim = ndim
        layers: list[Any] = [
            conv(4, CHANNELS, 3, padding=1),
            conv(CHANNELS, CHANNELS, 1),
            conv(CHANNELS, 3, 1),
        ]
        torch.nn.init.zeros_(layers[2].weight)
        torch.nn.init.zeros_(layers[2].bias)
        self.layers: Any = torch.nn.ModuleList(layers)
        self.raw_omega = torch.nn.Parameter(torch.tensor([-1.81, 1.5]))

    def omega(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two damping numbers with |(1 - om_1 t)(1 - om_2 t)| < 1 on (0, 2], whatever the parameters.

        With u = t / 2 the polynomial is 1 - S u + P u^2. P = S^2 / (4 (1 + k)), 0 < k < 1, makes its roots
        real and its minimum -k; S < 4 (1 + k) keeps it below 1 at u = 1.
        """
        k = 0.98 * torch.sigmoid(self.raw_omega[0])
        total = 3.96 * (1 + k) * torch.sigmoid(self.raw_omega[1])
        spread = torch.sqrt(k / (1 + k))
        return total * (1 + spread) / 4, total * (1 - spread) / 4

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        h = functional.relu(self.layers[0](features))
        return self.layers[2](functional.relu(self.layers[1](h)))

    def fields(self, hierarchy: Hierarchy) -> Fields:
        """phi, g, sc of every level but the last, which is solved exactly."""
        result = Fields([], [], [])
        for level in hierarchy.levels[:-1]:
            o = self(level.features())
            result.phi.append(torch.sigmoid(o[:, 0] + 4))
            result.blend.append(torch.sigmoid(o[:, 1] - 4))
            result.scale.append(torch.exp(torch.clamp(o[:, 2] / 2, -0.7, 0.7)))
        return result

    def adopt(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over the weights of a model file."""
        large, small = sorted((float(om) for om in arrays["omega"]), reverse=True)
        total, spread = 2 * (large + small), max((large - small) / (large + small), 1e-3)
        k = spread**2 / (1 - spread**2)
        shares = torch.tensor([k / 0.98, total / (3.96 * (1 + k))]).clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            self.raw_omega.copy_(torch.logit(shares))
            for i, layer in enumerate(self.layers, 1):
                layer.weight.copy_(torch.from_numpy(np.array(arrays[f"W{i}"])).reshape(layer.weight.shape))
                layer.bias.copy_(torch.from_numpy(np.array(arrays[f"b{i}"])))

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model file holds."""
        out = {"omega": np.array([float(om.detach()) for om in self.omega()], dtype=np.float32)}
        for i, layer in enumerate(self.layers, 1):
            weight = layer.weight.detach().numpy()
            out[f"W{i}"] = weight.copy() if i == 1 else weight.reshape(weight.shape[:2]).copy()
            out[f"b{i}"] = layer.bias.detach().numpy().copy()
        return out


def _dots(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Inner products of a batch, (batch, 1, ..., 1)."""
    return (x * y).sum(dim=tuple(range(1, x.ndim)), keepdim=True)


def unrolled_loss(
    hierarchy: Hierarchy, fields: Fields, omega: Sequence[Any], b: torch.Tensor, steps: int
) -> torch.Tensor:
    """Mean of log(||r_k|| / ||r_0||) / k after k steps of preconditioned conjugate gradients.

    Each term is the logarithm of the factor by which one step shrinks the residual.
    """
    r = b / torch.sqrt(_dots(b, b))
    top, factor = hierarchy.levels[0], torch.zeros_like(_dots(r, r))
    p, rz = torch.zeros_like(r), torch.ones_like(_dots(r, r))
    for _ in range(steps):
        z = cycle(hierarchy, fields, omega, r)
        rz, rz_before = _dots(r, z), rz
        p = z + (rz / rz_before) * p
        q = _Apply.apply(p, top)
        r = r - (rz / _dots(p, q).clamp_min(1e-30)) * q
        # ||r|| = 1 again, its logarithm kept apart: float32 then never underflows
        norm = torch.sqrt(_dots(r, r).clamp_min(1e-30))
        factor = factor + torch.log(norm)
        r, rz, p = r / norm, rz / norm**2, p / norm
    return (factor / steps).mean()


# --- the published network --------------------------------------------------------------------------------

# variant: (fine residual pairs on the way down, coarse pairs, fine pairs on the way up)
VARIANTS = {"2d": (1, 3, 2), "64": (1, 3, 2), "128": (2, 5, 3)}


class DirectionNetwork(torch.nn.Module):
    """The published two-level network, r -> f(r); shapes (batch, 1, n_0, ..., n_{d-1}), even sides."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant, self.ndim = variant, 2 if variant == "2d" else 3
        self.pairs = VARIANTS[variant]
        conv = torch.nn.Conv2d if self.ndim == 2 else torch.nn.Conv3d
        inner = 2 + 2 * sum(self.pairs)
        sizes = [(1, CHANNELS, 3), *[(CHANNELS, CHANNELS, 3)] * inner, (CHANNELS, 1, 1)]
        layers: list[Any] = [conv(i, o, k, padding=k // 2) for i, o, k in sizes]
        for layer in layers:
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        self.layers: Any = torch.nn.ModuleList(layers)

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        layers = iter(self.layers)
        down, coarse, up = self.pairs
        pool = functional.avg_pool2d if self.ndim == 2 else functional.avg_pool3d

        def relu_conv(x: torch.Tensor) -> torch.Tensor:
            return functional.relu(next(layers)(x))

        a = relu_conv(next(layers)(r))
        b = relu_conv(a)
        for _ in range(down):
            a = relu_conv(b) + a
            b = relu_conv(a)
        h = pool(b, 2)
        for _ in range(coarse):
            t = relu_conv(h)
            h = relu_conv(t) + h
        v = functional.interpolate(h, scale_factor=2, mode="nearest") + b
        for _ in range(up):
            t = relu_conv(v)
            v = relu_conv(t) + v
        return next(layers)(v)

    def adopt(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over the weights of a model file."""
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                layer.weight.copy_(torch.from_numpy(np.array(arrays[f"W{i}"])))
                layer.bias.copy_(torch.from_numpy(np.array(arrays[f"b{i}"])))

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model file holds: W0, b0, W1, ... in the order of application."""
        out = {}
        for i, layer in enumerate(self.layers):
            out[f"W{i}"] = layer.weight.detach().numpy().copy()
            out[f"b{i}"] = layer.bias.detach().numpy().copy()
        return out


def direction_loss(network: Any, top: Level, r: torch.Tensor) -> torch.Tensor:
    """Mean of ||r - alpha A f(r)||^2 over unit r, alpha = (f.r)/(f.A f): the step that the solver takes."""
    f = network(r[:, None])[:, 0]
    q = _Apply.apply(f, top)
    energy = _dots(f, q)
    # an all but vanishing f.A f would make alpha, and its derivative, overflow
    alpha = _dots(f, r) / energy.clamp_min(1e-12)
    return _dots(r - alpha * q, r - alpha * q).mean()


__all__ = [
    "DirectionNetwork",
    "Fields",
    "GeometryNetwork",
    "Hierarchy",
    "Level",
    "cycle",
    "direction_loss",
    "unrolled_loss",
]
