"""NumPy oracle of the tuners: every step recomputes everything from the list of past plays.

Each class has ``suggest(x)`` and ``learn(...)`` on the scaled context x in [0, 1]. Random numbers are handed
in, so that the compiled tuners can be followed draw by draw (`uniforms` and `normals` give their stream).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import optimize

from aitken import _core

PURPOSE = 0x74756E65


def uniform(seed: int, draw: int) -> float:
    """The uniform number of a tuner's draw."""
    return float(_core.philox_uniform(seed, PURPOSE, draw >> 32, draw & 0xFFFFFFFF, 1)[0])


def normals(seed: int, draw: int, n: int) -> np.ndarray:
    """The normal numbers of a tuner's draw."""
    return _core.philox_normal(seed, PURPOSE, draw >> 32, draw & 0xFFFFFFFF, n)


def sample(p: np.ndarray, u: float) -> int:
    """Index whose share of the unit interval holds u."""
    return min(int(np.searchsorted(np.cumsum(p), u, side="right")), len(p) - 1)


def tsallis_distribution(losses: np.ndarray, eta: float) -> np.ndarray:
    """p_i = 4 / (eta (L_i - x))^2 with sum 1, x by bisection."""
    losses = losses - losses.min()
    low, high = -2.0 * np.sqrt(len(losses)) / eta, -2.0 / eta
    if len(losses) > 1:
        x = optimize.brentq(lambda x: (4.0 / (eta * (losses - x)) ** 2).sum() - 1.0, low, high, xtol=1e-300)
    else:
        x = high
    p = 4.0 / (eta * (losses - x)) ** 2
    return p / p.sum()


@dataclass
class Tsallis:
    """Tsallis-INF; `plays` holds (arm, cost, probabilities, round)."""

    d: int
    reduced: bool
    plays: list[tuple[int, float, np.ndarray, int]] = field(default_factory=list)

    def probabilities(self) -> np.ndarray:
        t = len(self.plays) + 1
        sums, shift = np.zeros(self.d), np.zeros(self.d)
        floor = 1.0 if self.plays and min(cost for _, cost, _, _ in self.plays) >= 1.0 else 0.0
        for arm, cost, p, when in self.plays:
            sums[arm] += (cost - floor) / p[arm]
            if self.reduced:
                shift += 0.5 * (when * p >= 16.0)
                if when * p[arm] >= 16.0:
                    shift[arm] -= 0.5 / p[arm]
        scale = np.mean([cost - floor for _, cost, _, _ in self.plays]) if self.plays else 1.0
        eta = (4.0 if self.reduced else 2.0) / np.sqrt(t)
        return tsallis_distribution(sums / (scale if scale > 0.0 else 1.0) + shift, eta)

    def learn(self, arm: int, cost: float, p: np.ndarray) -> None:
        self.plays.append((arm, cost, p, len(self.plays) + 1))


@dataclass
class Thompson:
    """Gaussian Thompson sampling; `plays` holds (arm, cost)."""

    d: int
    plays: list[tuple[int, float]] = field(default_factory=list)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        costs = np.array([cost for _, cost in self.plays])
        floor = 1.0 if len(costs) and costs.min() >= 1.0 else 0.0
        count = np.array([sum(arm == i for arm, _ in self.plays) for i in range(self.d)], float)
        sums = np.array([sum(cost - floor for arm, cost in self.plays if arm == i) for i in range(self.d)])
        sd = 1.0 if len(costs) == 0 else costs[0] - floor if len(costs) == 1 else costs.std(ddof=1)
        degrees = len(costs) - np.count_nonzero(count)
        if degrees >= 1:
            own = sums / np.maximum(count, 1.0)
            sd = np.sqrt(sum((cost - floor - own[arm]) ** 2 for arm, cost in self.plays) / degrees)
        return sums / (count + 1.0), sd / np.sqrt(count + 1.0)

    def choose(self, z: np.ndarray) -> int:
        mean, sd = self.moments()
        return int(np.argmin(mean + sd * z))


def chebyshev_features(x: float, m: int) -> np.ndarray:
    """T_0 .. T_{m-1} at 2 x - 1."""
    return np.cos(np.arange(m) * np.arccos(np.clip(2.0 * x - 1.0, -1.0, 1.0)))


def chebyshev_fit(x: list[float], y: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Least squares of minimal norm, within |theta| <= bound where that one is not."""
    m = len(bound)
    phi = np.array([chebyshev_features(v, m) for v in x])
    theta = np.linalg.lstsq(phi, y, rcond=np.sqrt(1e-9))[0]
    if (np.abs(theta) <= bound).all():
        return np.asarray(theta)
    ridge = np.sqrt(1e-9 * (phi**2).sum())
    stacked = np.vstack([phi, ridge * np.eye(m)])
    wide = np.maximum(bound, 1e-300)
    found = optimize.lsq_linear(stacked, np.append(y, np.zeros(m)), (-wide, wide), method="bvls", tol=1e-15)
    return np.asarray(found.x)


@dataclass
class ChebCB:
    """Chebyshev regression per arm with inverse-gap weighting; `plays` holds (arm, x, cost, prediction)."""

    d: int
    m: int
    plays: list[tuple[int, float, float, float]] = field(default_factory=list)

    def constants(self) -> tuple[float, float, float, float]:
        """Greatest cost, range of costs, N, floor."""
        costs = [cost for _, _, cost, _ in self.plays]
        spread = max(costs) - min(costs)
        big_n = 2.0 + 4.0 * spread / max(costs) * (1.0 + np.log(self.m))
        return max(costs), spread, big_n, 1.0 if min(costs) >= 1.0 else 0.0

    def predictions(self, x: float) -> np.ndarray:
        y = np.zeros(self.d)
        if not self.plays:
            return y
        most, spread, big_n, floor = self.constants()
        scale = most * big_n
        bound = np.append(1.0 / big_n, 2.0 * spread / (scale * np.arange(1, self.m)))
        for arm in range(self.d):
            mine = [(v, cost) for i, v, cost, _ in self.plays if i == arm]
            if mine:
                target = (np.array([cost for _, cost in mine]) - floor) / scale
                theta = chebyshev_fit([v for v, _ in mine], target, bound)
                y[arm] = chebyshev_features(x, self.m) @ theta
        return y

    def probabilities(self, x: float) -> np.ndarray:
        y = self.predictions(x)
        if not self.plays:
            return np.full(self.d, 1.0 / self.d)
        most, spread, big_n, floor = self.constants()
        scale, t = most * big_n, len(self.plays)
        squares = sum((guess - (cost - floor) / scale) ** 2 for _, _, cost, guess in self.plays)
        alpha = (np.pi + 2.0 / np.pi * np.log(2 * self.m + 1)) / (2.0 * scale * (self.m + 1)) * spread
        rate = 2.0 * t * np.sqrt(self.d * t / max(squares + 2.0 * alpha**2 * t, 1e-30))
        k = int(np.argmin(y))
        p = 1.0 / (self.d + rate * (y - y[k]))
        p[k] = 0.0
        p[k] = 1.0 - p.sum()
        return p

    def learn(self, arm: int, x: float, cost: float) -> None:
        self.plays.append((arm, x, cost, float(self.predictions(x)[arm])))


class GaussianProcess:
    """The dense Kalman filter over all arms x bins with the exact kernels."""

    def __init__(self, kernel: np.ndarray, bins: int, *, inflation: float, plain: bool) -> None:
        gaps = np.subtract.outer(np.arange(bins), np.arange(bins)) / bins / 0.2
        self.prior = 0.7**2 * np.kron(np.exp(-0.5 * gaps**2), kernel)
        self.d, self.bins, self.inflation, self.plain = len(kernel), bins, inflation, plain
        self.P = self.prior + 1.0
        self.mean = np.zeros(len(self.P))
        self.plays: list[tuple[int, float]] = []  # cell, ln(cost)

    def noise_variance(self) -> float:
        halves = []
        for cell in {cell for cell, _ in self.plays}:
            values = [y for own, y in self.plays if own == cell]
            halves += [0.5 * (a - b) ** 2 for a, b in zip(values[1:], values[:-1], strict=True)]
        return max((30.0 * 0.2**2 + sum(halves)) / (30.0 + len(halves)), 0.1**2)

    def scores(self, x: float, explore: float = 1.5) -> np.ndarray:
        own = slice(self.cell(x, 0), self.cell(x, 0) + self.d)
        score = self.mean[own] - explore * np.sqrt(np.maximum(np.diag(self.P)[own], 0.0))
        if self.plain:
            for arm in range(self.d):
                y = np.array([v for cell, v in self.plays if cell == arm])
                squares = ((y - y.mean()) ** 2).sum() if len(y) else 0.0
                score[arm] += 0.5 * (squares + 3.0 * 0.2**2) / (max(len(y) - 1, 0) + 3.0)
        return score

    def cell(self, x: float, arm: int) -> int:
        return min(int(x * self.bins), self.bins - 1) * self.d + arm

    def learn(self, x: float, arm: int, cost: float) -> None:
        y, cell = np.log(cost), self.cell(x, arm)
        if not self.plays:
            self.mean[:] = y
        self.plays.append((cell, y))
        k = self.P[:, cell].copy()
        s = k[cell] + self.noise_variance()
        self.mean = self.mean + k * (y - self.mean[cell]) / s
        self.P = self.P - np.outer(k, k) / s + self.inflation * self.prior
