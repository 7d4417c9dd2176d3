"""`train_model`: how the models of this package were trained, and how a user trains or tunes one.

Every random number of step k comes from generators seeded by (seed, stage, attempt, k), so that a run needs
no stored generator to go on from a checkpoint to the same bits.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _files, _validate
from .._progress import Monitor

Array = NDArray[Any]

KINDS = ("learned_mg", "dcdm2d", "dcdm64", "dcdm128")
REPORT_EVERY = 50  # steps between two reports, each with the mean loss of these steps
USELESS = 0.9  # a loss of 1 is that of a direction orthogonal to the residual
TRIAL_SAMPLES = 500  # after so many a run that learns is far below USELESS
ATTEMPTS = 4
WARM_UP = 20  # steps over which the rate rises at the start of a stage


# ------------------------------------------------------------------------------------------------ geometries


def _coordinates(shape: Sequence[int]) -> list[Array]:
    """Cell centres in units of the longest side, each of a shape that broadcasts to the grid's."""
    top = max(shape)
    return list(np.meshgrid(*[(np.arange(n) + 0.5) / top for n in shape], indexing="ij", sparse=True))


def _bodies(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Random balls and boxes, and up to two walls one cell thick."""
    d, sides = len(shape), np.array(shape) / max(shape)
    x = _coordinates(shape)
    solid = np.zeros(shape, dtype=bool)
    for _ in range(rng.integers(2, 7 if d == 2 else 12)):
        centre, radius = rng.uniform(0.1, 0.9, d) * sides, rng.uniform(0.04, 0.15)
        if rng.random() < 0.5:
            solid |= sum((u - c) ** 2 for u, c in zip(x, centre, strict=True)) < radius**2
        else:
            body = np.ones(shape, dtype=bool)
            for u, c, w in zip(x, centre, rng.uniform(0.3, 1.5, d), strict=True):
                body &= np.abs(u - c) < radius * w
            solid |= body
    for _ in range(rng.integers(0, 3)):
        a = int(rng.integers(d))
        wall = [slice(int(n * rng.uniform(0, 0.3)), int(n * rng.uniform(0.6, 1))) for n in shape]
        at = int(rng.integers(shape[a] // 4, 3 * shape[a] // 4))
        wall[a] = slice(at, at + 1)
        if d == 3 and rng.random() < 0.5:
            wall[(a + 2) % 3] = slice(None)
        solid[tuple(wall)] = True
    return solid


def _maze(rng: np.random.Generator, shape: Sequence[int], corridor: int) -> Array:
    """Solid walls one cell thick between blocks of `corridor` cells, opened along a random spanning tree."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    period = corridor + 1
    solid = np.zeros(shape, dtype=bool)
    for a, n in enumerate(shape):
        solid |= (np.arange(n) % period == corridor).reshape([-1 if k == a else 1 for k in range(len(shape))])
    blocks = [-(-n // period) for n in shape]
    number = np.arange(math.prod(blocks)).reshape(blocks)
    low = np.concatenate([np.delete(number, -1, axis=a).ravel() for a in range(len(shape))])
    high = np.concatenate([np.delete(number, 0, axis=a).ravel() for a in range(len(shape))])
    weights = coo_array((rng.uniform(1, 2, len(low)), (low, high)), shape=(number.size, number.size))
    tree = minimum_spanning_tree(weights.tocsr()).tocoo()
    for i, j in zip(tree.row, tree.col, strict=True):
        here = np.unravel_index(min(i, j), blocks)
        there = np.unravel_index(max(i, j), blocks)
        gate = [slice(period * int(k), period * int(k) + corridor) for k in here]
        a = next(a for a in range(len(shape)) if here[a] != there[a])
        gate[a] = slice(period * int(there[a]) - 1, period * int(there[a]))
        solid[tuple(gate)] = False
    return solid


def fill_pockets(fluid: Array, exterior: Sequence[tuple[bool, bool]]) -> NDArray[np.bool_]:
    """The mask without fluid that no open side of the box touches: there A would be singular.

    Parameters
    ----------
    fluid : ndarray of bool
        True where a cell is fluid.
    exterior : sequence of (bool, bool)
        Per axis, whether p = 0 beyond its lower and its upper end.
    """
    from scipy.ndimage import label

    labels, n = label(fluid)
    keep = np.zeros(n + 1, dtype=bool)
    for a, ends in enumerate(exterior):
        for is_open, at in zip(ends, (0, -1), strict=True):
            if is_open:
                keep[np.take(labels, at, axis=a).ravel()] = True
    keep[0] = False
    kept: NDArray[np.bool_] = keep[labels]
    return kept


def random_geometry(
    rng: np.random.Generator, shape: Sequence[int], exterior: Sequence[tuple[bool, bool]]
) -> NDArray[np.bool_]:
    """A mask to train the learned cycle on: nothing, a ball, many bodies; now and then dust or a maze."""
    while True:
        kind = rng.random()
        if kind < 0.12:
            solid = np.zeros(shape, dtype=bool)
        elif kind < 0.25:
            sides = np.array(shape) / max(shape)
            centre, radius = rng.uniform(0.3, 0.7, len(shape)) * sides, rng.uniform(0.1, 0.3)
            gaps = ((u - c) ** 2 for u, c in zip(_coordinates(shape), centre, strict=True))
            solid = np.broadcast_to(sum(gaps) < radius**2, shape)
        elif kind < 0.82:
            solid = _bodies(rng, shape)
        elif kind < 0.9:
            solid = rng.random(shape) < rng.uniform(0.02, 0.3)
        else:
            solid = _maze(rng, shape, int(rng.integers(2, 9)))
        fluid = fill_pockets(~solid, exterior)
        if fluid.mean() > 0.2:
            return fluid


def random_source(rng: np.random.Generator, fluid: Array) -> NDArray[np.float32]:
    """A right-hand side of unit norm: white, a few narrow blobs, or noise smoothed over a random width."""
    from scipy.ndimage import gaussian_filter

    shape = fluid.shape
    while True:
        kind = rng.random()
        if kind < 0.4:
            b = rng.standard_normal(shape)
        elif kind < 0.7:
            b = np.zeros(shape)
            for _ in range(rng.integers(1, 4)):
                width = 10 ** rng.uniform(-2.6, -1.2)
                centres = rng.uniform(0.1, 0.9, len(shape)) * np.array(shape) / max(shape)
                gaps = ((u - c) ** 2 for u, c in zip(_coordinates(shape), centres, strict=True))
                b += rng.choice([-1.0, 1.0]) * np.exp(-sum(gaps) / width)
        else:
            b = gaussian_filter(rng.standard_normal(shape), rng.uniform(0.5, max(shape) / 8), mode="nearest")
            b = b / b.std() + rng.choice([0.0, 0.03]) * rng.standard_normal(shape)
        b = b * fluid
        norm = np.linalg.norm(b)
        if norm > 1e-6:
            return (b / norm).astype(np.float32)


# ------------------------------------------------------------------------------------------------ Ritz data


class RitzData:
    """Training residuals made of Ritz vectors of the obstacle-free grid matrix, low frequencies ninefold.

    Lanczos from A times a normal vector with full re-orthogonalisation gives A's Ritz pairs
    (lambda_j, Q s_j). A sample is sum_j c_j Q s_j = Q (S c), so the Ritz vectors are never formed. Q is
    stored in float32 and read in blocks of rows, each twice a step: 4 m^2 n bytes and flops in all.

    Parameters
    ----------
    shape : sequence of int
        The grid.
    m : int
        Ritz pairs wanted; fewer if the Krylov space ends before.
    seed : sequence of int
        Of the start vector and of the samples.
    """

    def __init__(self, shape: Sequence[int], m: int, seed: Sequence[int]) -> None:
        from scipy.linalg import eigh_tridiagonal

        self.shape, self.seed = tuple(shape), list(seed)
        n = math.prod(shape)
        start = np.random.default_rng([*self.seed, 0]).standard_normal(shape)
        w = self._product(start).ravel()
        self.basis = np.empty((min(m, n), n), dtype=np.float32)
        diagonal, off = [], []
        norm = np.linalg.norm(w)
        for k in range(len(self.basis)):
            self.basis[k] = w / norm
            q = self.basis[k].astype(np.float64)
            w = self._product(q.reshape(shape)).ravel()
            diagonal.append(float(q @ w))
            for _ in range(2):  # once leaves what float32 lost
                self._orthogonalise(w, k + 1)
            norm = np.linalg.norm(w)
            if norm < 1e-5 or k + 1 == len(self.basis):  # A has norm 4 d: the space is invariant
                break
            off.append(float(norm))
        self.basis = self.basis[: len(diagonal)]
        values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off[: len(diagonal) - 1]))
        kept = values >= 1e-8
        self.values: Array = values[kept]
        self.vectors: Array = np.ascontiguousarray(vectors[:, kept])
        self.weights = np.ones(len(self.values))
        self.weights[: len(self.values) // 2 + m // 20] = 9.0

    @staticmethod
    def _product(x: Array) -> Array:
        """A x without obstacles and with p = 0 beyond the box."""
        y = 2.0 * x.ndim * x
        for a in range(x.ndim):
            low, high = [slice(None)] * x.ndim, [slice(None)] * x.ndim
            low[a], high[a] = slice(None, -1), slice(1, None)
            y[tuple(low)] -= x[tuple(high)]
            y[tuple(high)] -= x[tuple(low)]
        return y

    def _orthogonalise(self, w: Array, k: int) -> None:
        """w minus its part in the first k basis vectors, block by block so that each is read once."""
        for first in range(0, k, 256):
            block = self.basis[first : min(first + 256, k)]
            w -= (block @ w.astype(np.float32)) @ block

    def sample(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """The samples of these numbers, unit vectors of shape (len(indices), *shape)."""
        c = np.stack(
            [np.random.default_rng([*self.seed, 1, i]).standard_normal(len(self.weights)) for i in indices]
        )
        r = ((c * self.weights) @ self.vectors.T).astype(np.float32) @ self.basis
        r /= np.linalg.norm(r, axis=1, keepdims=True)
        return r.reshape(len(indices), *self.shape)


# ------------------------------------------------------------------------------------------------ tasks


@dataclass(frozen=True)
class _Plan:
    """What decides a run's bits; a checkpoint goes on only with the same."""

    kind: str
    ndim: int
    shapes: list[list[int]]
    steps: list[int]
    batch: list[int]
    lr: list[float]
    unroll: int
    n_ritz: list[int]
    n_samples: int
    geometries: str

    @property
    def n_steps(self) -> int:
        return sum(self.steps)


def _seeded(seed: int, make: Callable[[], Any]) -> Any:
    """`make()` with PyTorch's generator seeded, and left as it was."""
    import torch

    state = torch.get_rng_state()
    torch.manual_seed(seed % 2**63)
    try:
        return make()
    finally:
        torch.set_rng_state(state)


class _CycleTask:
    """The learned cycle: one stage, a random shape and fresh geometries at each step."""

    def __init__(self, twin: Any, plan: _Plan, masks: Sequence[Array] | None, seed: int) -> None:
        self.twin, self.plan, self.masks, self.seed = twin, plan, masks, seed
        self.restarts = False  # its loss has no value that means useless

    def network(self, attempt: int) -> Any:
        return _seeded(self.seed + attempt, lambda: self.twin.GeometryNetwork(self.plan.ndim))

    def enter(self, stage: int) -> None:
        """Nothing to prepare."""

    def loss(self, network: Any, stage: int, attempt: int, step: int) -> Any:
        import torch

        rng = np.random.default_rng([self.seed, stage, attempt, step])
        which = int(rng.integers(len(self.plan.shapes)))
        shape, batch = tuple(self.plan.shapes[which]), self.plan.batch[which]
        exterior = [(True, True)] * len(shape)
        if self.masks is None and rng.random() < 0.1:  # some sides solid, one at least open
            ends = rng.random((len(shape), 2)) < 0.5
            ends[rng.integers(len(shape)), rng.integers(2)] = True
            exterior = [(bool(low), bool(high)) for low, high in ends]
        if self.masks is None:
            fluid = np.stack([random_geometry(rng, shape, exterior) for _ in range(batch)])
        else:
            group = [mask for mask in self.masks if mask.shape == shape]
            fluid = np.stack([group[i] for i in rng.integers(len(group), size=batch)])
        b = torch.from_numpy(np.stack([random_source(rng, mask) for mask in fluid]))
        hierarchy = self.twin.Hierarchy(fluid, exterior=exterior)
        loss = self.twin.unrolled_loss
        return loss(hierarchy, network.fields(hierarchy), network.omega(), b, self.plan.unroll)


class _DirectionTask:
    """The published network: a stage per grid, each with the Ritz data of that grid."""

    def __init__(self, twin: Any, plan: _Plan, seed: int) -> None:
        self.twin, self.plan, self.seed = twin, plan, seed
        self.restarts = True
        self.variant = plan.kind.removeprefix("dcdm")

    def network(self, attempt: int) -> Any:
        return _seeded(self.seed + attempt, lambda: self.twin.DirectionNetwork(self.variant))

    def enter(self, stage: int) -> None:
        shape = self.plan.shapes[stage]
        self.data = RitzData(shape, self.plan.n_ritz[stage], [self.seed, stage])
        free = self.twin.Hierarchy(np.ones((1, *shape), dtype=bool), levels=1)
        self.top = free.levels[0]
        self.epoch: tuple[int, ...] = ()
        self.order: Array = np.empty(0, dtype=np.int64)

    def loss(self, network: Any, stage: int, attempt: int, step: int) -> Any:
        import torch

        batch, n = self.plan.batch[stage], self.plan.n_samples
        indices = []
        for place in range(step * batch, (step + 1) * batch):
            if self.epoch != (stage, attempt, place // n):
                self.epoch = (stage, attempt, place // n)
                self.order = np.random.default_rng([self.seed, *self.epoch]).permutation(n)
            indices.append(int(self.order[place % n]))
        r = torch.from_numpy(self.data.sample(indices))
        return self.twin.direction_loss(network, self.top, r)


# ------------------------------------------------------------------------------------------------ the run


class _StepBar(Monitor):
    """The monitor of a solve with a bar over steps in place of one over decades."""

    def __init__(self, name: str, n_steps: int, callback: Any, verbose: int, progress: bool) -> None:
        super().__init__(name, callback, verbose, progress, 1.0, {"loss": ".4f", "lr": ".1e", "grid": "s"})
        self.n_steps, self.done = n_steps, 0

    def tell(self, report: dict[str, Any]) -> bool:
        """Pass one report on; True asks to stop."""
        self.done = report["nit"]
        return self(report)

    def _advance(self, err: float) -> None:
        self.bar.n = self.done / self.n_steps
        self.bar.set_postfix_str(f"loss {err:.4f}, {self.done} of {self.n_steps} steps")


class _Run:
    """One training run: weights, Adam's moments, where it stands, and the losses so far."""

    def __init__(self, task: Any, plan: _Plan, seed: int, start: Any) -> None:
        self.task, self.plan, self.seed = task, plan, seed
        self.stage = self.step = self.attempt = 0
        self.rate = 1.0  # halved by each restart
        self.losses: list[float] = []
        self.network = task.network(0)
        if start is not None:
            self._load(start)
        self.fresh = start is None
        self.whole = True  # False while weights, moments and counters do not belong together
        self.stage_start = self._weights()
        self._new_optimiser()

    def _new_optimiser(self) -> None:
        import torch

        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1.0)

    def _weights(self) -> list[Array]:
        return [p.detach().numpy().copy() for p in self.network.parameters()]

    def _load(self, weights: Sequence[Array]) -> None:
        import torch

        with torch.no_grad():
            for p, w in zip(self.network.parameters(), weights, strict=True):
                p.copy_(torch.from_numpy(np.ascontiguousarray(w)))

    @property
    def done(self) -> int:
        """Steps done over all stages."""
        return sum(self.plan.steps[: self.stage]) + self.step

    def learning_rate(self) -> float:
        """Cosine decay over the stage, with a short rise before."""
        n = self.plan.steps[self.stage]
        decay = 0.5 * (1 + math.cos(math.pi * self.step / n))
        return self.rate * self.plan.lr[self.stage] * min(decay, (self.step + 1) / WARM_UP)

    def restart(self) -> None:
        """Back to the start of the stage with half the rate; in the first one with other initial weights."""
        self.whole = False
        self.attempt += 1
        if self.attempt >= ATTEMPTS:
            raise RuntimeError(
                f"training did not begin to learn in {ATTEMPTS} attempts (loss above {USELESS} or not "
                "finite); lower `lr` or start on a smaller grid"
            )
        self.rate *= 0.5
        del self.losses[len(self.losses) - self.step :]
        self.step = 0
        if self.stage == 0 and self.fresh:
            self.network = self.task.network(self.attempt)
            self.stage_start = self._weights()
        else:
            self._load(self.stage_start)
        self._new_optimiser()
        self.whole = True

    def advance(self) -> None:
        """One step of Adam, or a restart where it went wrong."""
        import torch

        loss = self.task.loss(self.network, self.stage, self.attempt, self.step)
        value = float(loss.detach())
        if not math.isfinite(value):
            self.restart()
            return
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not math.isfinite(float(norm)):
            self.restart()
            return
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.whole = False
        self.optimiser.step()
        self.losses.append(value)
        self.step += 1
        self.whole = True
        if self.task.restarts:
            trial = -(-TRIAL_SAMPLES // self.plan.batch[self.stage])
            if self.step == trial and np.mean(self.losses[-max(1, trial // 5) :]) > USELESS:
                self.restart()

    def next_stage(self) -> None:
        self.whole = False
        self.stage, self.step, self.rate = self.stage + 1, 0, 1.0
        self.stage_start = self._weights()
        self._new_optimiser()
        self.whole = True

    # --- checkpoints

    def save(self, path: str | os.PathLike[str]) -> None:
        arrays: dict[str, Array] = {"losses": np.array(self.losses)}
        for i, (p, w, s) in enumerate(
            zip(self.network.parameters(), self._weights(), self.stage_start, strict=True)
        ):
            arrays[f"weights_{i}"], arrays[f"start_{i}"] = w, s
            for name, value in self.optimiser.state.get(p, {}).items():
                arrays[f"{name}_{i}"] = value.detach().numpy()
        head = {
            "format": 1,
            "kind": "training",
            "plan": asdict(self.plan),
            "seed": self.seed,
            "stage": self.stage,
            "step": self.step,
            "attempt": self.attempt,
            "rate": self.rate,
            "fresh": self.fresh,
        }
        _files.save_npz(path, head, arrays)

    def restore(self, head: dict[str, Any], arrays: dict[str, Array]) -> None:
        import torch

        self.stage, self.step, self.attempt = head["stage"], head["step"], head["attempt"]
        self.rate, self.fresh = head["rate"], head["fresh"]
        self.losses = [float(v) for v in arrays["losses"]]
        parameters = list(self.network.parameters())
        self._load([arrays[f"weights_{i}"] for i in range(len(parameters))])
        self.stage_start = [arrays[f"start_{i}"] for i in range(len(parameters))]
        self._new_optimiser()
        for i, p in enumerate(parameters):
            state = {n: arrays.get(f"{n}_{i}") for n in ("step", "exp_avg", "exp_avg_sq")}
            if state["step"] is not None:
                self.optimiser.state[p] = {n: torch.from_numpy(np.array(v)) for n, v in state.items()}


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Head and arrays of a checkpoint; ValueError for any other file."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(arrays.pop("head").tobytes())
        if head["format"] != 1 or head["kind"] != "training":
            raise ValueError(f"it holds {head['kind']!r} in format {head['format']!r}")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`checkpoint` {os.fspath(path)!r} was not written by train_model: {error}"
        ) from None
    return head, arrays


def _load_twin() -> Any:
    try:
        from . import _deepcg_torch
    except ImportError as error:
        raise ImportError("`train_model` needs PyTorch: pip install 'aitken[train]'") from error
    return _deepcg_torch


# ------------------------------------------------------------------------------------------------ options


def _per_stage(name: str, value: Any, n: int, check: Callable[[str, Any], Any]) -> list[Any]:
    """One value for all stages, or a sequence with one each."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != n:
            raise ValueError(
                f"`{name}` must be one value or one for each of the {n} shapes; got {len(value)}"
            )
        return [check(f"{name}[{i}]", v) for i, v in enumerate(value)]
    return [check(name, value)] * n


def _shape_list(shapes: Any, ndim: int, even: bool) -> list[list[int]]:
    if not isinstance(shapes, Sequence) or isinstance(shapes, str) or len(shapes) == 0:
        raise TypeError(f"`shapes` must be a sequence of grid shapes, not {shapes!r}")
    result = []
    for i, shape in enumerate(shapes):
        if not isinstance(shape, Sequence) or isinstance(shape, str):
            raise TypeError(f"`shapes[{i}]` must be a grid shape, not {shape!r}")
        if len(shape) != ndim:
            raise ValueError(f"`shapes[{i}]` must have {ndim} sides; got {tuple(shape)}")
        sides = [_validate.integer(f"shapes[{i}][{a}]", n, minimum=8) for a, n in enumerate(shape)]
        if even and any(n % 2 for n in sides):
            raise ValueError(f"`shapes[{i}]` must have even sides for a dcdm network; got {tuple(sides)}")
        result.append(sides)
    return result


def _mask_list(geometries: Any) -> list[Array]:
    if not isinstance(geometries, Sequence | np.ndarray) or len(geometries) == 0:
        raise TypeError(f"`geometries` must be a sequence of boolean masks, not {type(geometries).__name__}")
    masks: list[Array] = []
    for i, mask in enumerate(geometries):
        array = np.asarray(mask)
        if array.dtype != np.bool_:
            raise TypeError(f"`geometries[{i}]` must be boolean (True = fluid), got dtype {array.dtype}")
        _validate.check_ndim(f"geometries[{i}]", array, (2, 3))
        if masks and array.ndim != masks[0].ndim:
            raise ValueError(f"`geometries[{i}]` has {array.ndim} axes, the first has {masks[0].ndim}")
        if min(array.shape) < 8:
            raise ValueError(f"`geometries[{i}]` must have sides >= 8; got {array.shape}")
        array = fill_pockets(array, [(True, True)] * array.ndim)
        if not array.any():
            raise ValueError(f"`geometries[{i}]` has no fluid that reaches the box's side")
        masks.append(array)
    return masks


# kind and ndim: shapes (the stages of dcdm, the mixture of learned_mg), steps, batch, lr
_DEFAULTS: dict[tuple[str, int], tuple[list[list[int]], Any, Any, Any]] = {
    ("learned_mg", 2): ([[32, 32], [64, 64], [128, 128], [96, 48], [65, 50]], 3000, None, 0.01),
    ("learned_mg", 3): ([[16, 16, 16], [32, 32, 32], [24, 16, 32], [21, 18, 25]], 2500, None, 0.01),
    ("dcdm2d", 2): ([[64, 64]], 2400, 10, 2e-3),
    ("dcdm64", 3): ([[16, 16, 16], [32, 32, 32]], [1000, 1000], 4, [1e-3, 5e-4]),
    ("dcdm128", 3): ([[16, 16, 16], [32, 32, 32]], [1000, 1000], 4, [1e-3, 5e-4]),
}


def _make_plan(
    kind: str, masks: list[Array] | None, ndim: Any, shapes: Any, steps: Any, batch: Any, lr: Any, rest: dict
) -> _Plan:
    if kind == "learned_mg":
        known = masks[0].ndim if masks else None
        d = _validate.optional_integer("ndim", ndim, minimum=2, maximum=3) or known
        if d is None:
            raise ValueError("`ndim` must be 2 or 3 for kind 'learned_mg' without `geometries`")
        if known is not None and d != known:
            raise ValueError(f"`ndim` is {d}, the masks in `geometries` have {known} axes")
    else:
        d = 2 if kind == "dcdm2d" else 3
        if ndim is not None and _validate.integer("ndim", ndim) != d:
            raise ValueError(f"`ndim` must be {d} for kind {kind!r}; got {ndim}")
        if masks is not None:
            raise ValueError(f"`geometries` are for kind 'learned_mg'; {kind!r} is trained without obstacles")
    base = _DEFAULTS[kind, d]
    if masks is not None:
        if shapes is not None:
            raise ValueError("`shapes` follow from `geometries`; give one of the two")
        grids = [list(s) for s in sorted({mask.shape for mask in masks})]
    else:
        grids = base[0] if shapes is None else _shape_list(shapes, d, even=kind != "learned_mg")
    n = len(grids)
    learned = kind == "learned_mg"

    def cells(shape: Sequence[int]) -> int:
        return math.prod(shape)

    def count(name: str, value: Any) -> int:
        return _validate.integer(name, value, minimum=1)

    def default(value: Any, given: Any) -> Any:
        """The default of this kind; its last entry for stages beyond its own."""
        if given is not None:
            return given
        return [value[min(i, len(value) - 1)] for i in range(n)] if isinstance(value, list) else value

    if learned:  # about as much work at each shape
        batches = [max(1, min(8, 2**16 // cells(s))) for s in grids]
        stage_steps = [count("steps", base[1] if steps is None else steps)]
        rates = [_validate.positive_scalar("lr", base[3] if lr is None else lr)]
        if batch is not None:
            batches = _per_stage("batch", batch, n, count)
    else:
        stage_steps = _per_stage("steps", default(base[1], steps), n, count)
        rates = _per_stage("lr", default(base[3], lr), n, _validate.positive_scalar)
        batches = _per_stage("batch", default(base[2], batch), n, count)
    ritz = rest["n_ritz"]
    if ritz is None:
        ritz = [min(2000, cells(s) // 4) for s in grids]
    import hashlib

    digest = hashlib.sha256()
    for mask in masks or []:
        digest.update(repr(mask.shape).encode() + np.packbits(mask).tobytes())
    return _Plan(
        kind=kind,
        ndim=d,
        shapes=grids,
        steps=stage_steps,
        batch=batches,
        lr=rates,
        unroll=_validate.integer("unroll", rest["unroll"], minimum=1, maximum=50),
        n_ritz=[] if learned else _per_stage("n_ritz", ritz, n, count),
        n_samples=_validate.integer("n_samples", rest["n_samples"], minimum=1),
        geometries=digest.hexdigest() if masks else "",
    )


def train_model(
    kind: str,
    geometries: Sequence[Any] | None = None,
    *,
    ndim: int | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
    steps: int | Sequence[int] | None = None,
    batch: int | Sequence[int] | None = None,
    lr: float | Sequence[float] | None = None,
    unroll: int = 6,
    n_ritz: int | Sequence[int] | None = None,
    n_samples: int = 20_000,
    model: Any = None,
    rng: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 250,
    n_threads: int | None = None,
    callback: Callable[..., Any] | None = None,
    verbose: int = 0,
    progress: bool = False,
) -> Any:
    """Train a model for `deep_conjugate_direction`; needs PyTorch, ``pip install 'aitken[train]'``.

    ``"learned_mg"`` minimises mean(log(||r_k|| / ||r_0||) / k) after k = `unroll` steps of conjugate
    gradients with the learned cycle, over random obstacles and over white and smooth right-hand sides; -2.3
    means that a step leaves a tenth of the residual's 2-norm. ``"dcdm2d"``, ``"dcdm64"`` and ``"dcdm128"``
    are the published networks with the published loss, the mean of ||r - alpha A f(r)||_2^2 over unit
    residuals r made of Ritz vectors of the grid matrix without obstacles; 1 is useless, 0 is exact.

    Parameters
    ----------
    kind : {"learned_mg", "dcdm2d", "dcdm64", "dcdm128"}
        What to train.
    geometries : sequence of bool ndarrays, optional
        Masks, True where a cell is fluid, to train ``"learned_mg"`` on in place of random ones; beyond the
        box p = 0. Fluid that does not touch the box's side is left out.
    ndim : {2, 3}, optional
        Axes of the grids of ``"learned_mg"``; follows from `geometries` where they are given.
    shapes : sequence of shapes, optional
        Grids. ``"learned_mg"`` draws one at each step; a dcdm network is trained on one after the other
        (small grids first) and needs even sides. Sides >= 8.
    steps : int or sequence of int, optional
        Steps of the optimiser; for dcdm on each grid.
    batch : int or sequence of int, optional
        Samples a step, one number or one for each of `shapes`.
    lr : float or sequence of float, optional
        Adam's rate at its peak; it falls as a cosine to 0 at the end of a stage.
    unroll : int, default 6
        Steps of conjugate gradients in the loss of ``"learned_mg"``.
    n_ritz : int or sequence of int, optional
        Ritz pairs for dcdm, by default min(2000, n / 4) for n cells. The published number is 10000.
    n_samples : int, default 20000
        Different residuals of a dcdm network's training set on one grid; reshuffled each time it is used up.
    model : str, path or model, optional
        Where to start: a model of this kind, or what `load_model` takes. By default from scratch.
    rng : None, int, SeedSequence or Generator, optional
        Seed of everything random. The same seed gives the same bits on the same CPU, PyTorch and `n_threads`.
    checkpoint : path, optional
        File (npz and JSON) written every `checkpoint_every` steps, at the end, and when the run is
        interrupted. If it exists the run goes on from it, to the same bits as one that was never stopped.
    checkpoint_every : int, default 250
        Steps between two checkpoints.
    n_threads : int, optional
        Threads of PyTorch while training; None, 0 and -1 leave its own setting.
    callback : callable, optional
        ``callback(intermediate_result)`` every 50 steps and at the end, with `nit` (steps done), `n_steps`,
        `loss` (mean since the report before), `lr` and `grid`. StopIteration ends the training; the model as
        it is then is returned.
    verbose : int, default 0
        1 logs a line with every report.
    progress : bool, default False
        Show a bar over the steps, where tqdm is installed.

    Returns
    -------
    model
        As from `load_model`; `save_model` writes it to a file.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError, ValueError
        For options that do not fit `kind`, masks that are not boolean, or a `checkpoint` of another run.
    FileNotFoundError
        If the folder of `checkpoint` does not exist.
    RuntimeError
        If a dcdm network's loss is above 0.9 after 500 samples, or not finite, in four attempts: each
        starts its stage anew, with half the rate.

    Examples
    --------
    >>> from aitken.linalg import train_model
    >>> model = train_model("learned_mg", ndim=2, shapes=[(16, 16)], steps=3, rng=0)  # doctest: +SKIP
    >>> model.name  # doctest: +SKIP
    'learned_mg'
    """
    _validate.choice("kind", kind, KINDS)
    masks = None if geometries is None else _mask_list(geometries)
    _validate.callback("callback", callback)
    threads = _validate.n_threads(n_threads)
    every = _validate.integer("checkpoint_every", checkpoint_every, minimum=1)
    options = {"unroll": unroll, "n_ritz": n_ritz, "n_samples": n_samples}
    plan = _make_plan(kind, masks, ndim, shapes, steps, batch, lr, options)
    twin = _load_twin()
    import torch

    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():  # now, not after minutes of training
        raise FileNotFoundError(f"`checkpoint` {os.fspath(path)!r} is in a folder that does not exist")
    saved = _read_checkpoint(path) if path is not None and path.exists() else None
    if saved is None:
        seed = _validate.rng_seed(rng)
    else:
        seed = _check_same_run(saved[0], plan, rng, os.fspath(checkpoint))  # type: ignore[arg-type]
    task: Any = (
        _CycleTask(twin, plan, masks, seed) if kind == "learned_mg" else _DirectionTask(twin, plan, seed)
    )
    threads_before = torch.get_num_threads()
    monitor = _StepBar(
        kind,
        plan.n_steps,
        callback,
        _validate.integer("verbose", verbose),
        _validate.boolean("progress", progress),
    )
    try:
        if threads:
            torch.set_num_threads(threads)
        run = _Run(task, plan, seed, None if model is None else _start_weights(task.network(0), model, plan))
        if saved is not None:
            run.restore(*saved)
        _train(run, monitor, path, every)
    finally:
        torch.set_num_threads(threads_before)
        monitor.close()
    return _finished(run)


def _train(run: _Run, monitor: _StepBar, path: Path | None, every: int) -> None:
    """Steps until the plan is done or the callback asks to stop; the checkpoint is written in any case."""
    plan, told = run.plan, run.done
    try:
        for stage in range(run.stage, len(plan.steps)):
            run.task.enter(stage)
            while run.step < plan.steps[stage]:
                rate = run.learning_rate()
                run.advance()
                told = min(told, run.done)  # a restart goes back
                last = run.done == plan.n_steps
                if run.done - told >= REPORT_EVERY or last:
                    loss = float(np.mean(run.losses[told:])) if run.done > told else math.nan
                    shape = plan.shapes[stage] if plan.kind != "learned_mg" else max(plan.shapes)
                    told = run.done
                    grid = "x".join(map(str, shape))
                    report = {"n_steps": plan.n_steps, "loss": loss, "lr": rate, "grid": grid}
                    if monitor.tell({"nit": run.done, "err": loss, **report}):
                        return
                if path is not None and run.done % every == 0:
                    run.save(path)
            if stage + 1 < len(plan.steps):
                run.next_stage()
    finally:
        if path is not None and run.whole:
            run.save(path)


def _check_same_run(head: dict[str, Any], plan: _Plan, rng: Any, path: str) -> int:
    """The seed of a checkpoint, if it is of this plan."""
    mine, its = asdict(plan), head["plan"]
    for name, value in mine.items():
        if its.get(name) != value:
            raise ValueError(
                f"`checkpoint` {path!r} is of another run: its {name} is {its.get(name)!r}, not {value!r}"
            )
    seed = int(head["seed"])
    if rng is not None and not isinstance(rng, np.random.Generator) and _validate.rng_seed(rng) != seed:
        raise ValueError(f"`checkpoint` {path!r} is of another run: its seed is {seed}, `rng` is {rng!r}")
    return seed


def _start_weights(network: Any, model: Any, plan: _Plan) -> list[Array]:
    """Weights of a model of the same kind, in the network's order."""
    from ._deepcg_files import load_model

    source = load_model(model) if isinstance(model, str | os.PathLike) else model
    meta, arrays = getattr(source, "meta", None), getattr(source, "arrays", None)
    wanted = _meta(plan)
    if meta is None or arrays is None:
        raise TypeError(f"`model` must be a name, a file or a model to train, not {type(model).__name__}")
    for name in ("kind", "ndim", "variant"):
        if meta.get(name) != wanted.get(name):
            raise ValueError(
                f"`model` has {name} {meta.get(name)!r}; kind {plan.kind!r} needs {wanted.get(name)!r}"
            )
    network.adopt(arrays)
    return [p.detach().numpy().copy() for p in network.parameters()]


def _meta(plan: _Plan) -> dict[str, Any]:
    """The `meta` entry of the trained model, but for how it was trained."""
    meta: dict[str, Any] = {"format": 1, "kind": "learned_mg", "ndim": plan.ndim, "channels": 16, "layers": 3}
    if plan.kind != "learned_mg":
        meta |= {"kind": "dcdm", "variant": plan.kind.removeprefix("dcdm")}
        meta["layers"] = 24 if plan.kind == "dcdm128" else 16
    return meta | {"activation": "relu", "license": "BSD-3-Clause"}


def _finished(run: _Run) -> Any:
    """The trained model, with how it was trained in its `meta`."""
    import torch

    from ._deepcg_files import build_model

    history = asdict(run.plan)
    history |= {"seed": run.seed, "steps_done": run.done, "restarts": run.attempt, "torch": torch.__version__}
    history["loss"] = float(np.mean(run.losses[-100:])) if run.losses else None
    return build_model(_meta(run.plan) | {"trained_on": history}, run.network.arrays())
