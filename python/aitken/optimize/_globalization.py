"""When a step is accepted: the exact augmented Lagrangian, or a filter of violation and barrier value."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ._barrier import Barrier, Direction, NewtonSystem, Point

_ROUND_OFF = 10 * float(np.finfo(float).eps)


class ExactMerit:
    """M(w, lam) = phi + lam'c + eta1/2 ||c||^2 + eta2/2 ||grad_w (phi + lam'c)||^2.

    Parameters
    ----------
    eta1, eta2 : float
        Weights of constraints and of the Lagrangian's gradient; also where `relax` returns to.
    nu : float
        Raises eta1 by nu^2 and lowers eta2 by nu where a step would not descend.
    beta : float
        Share of the predicted decrease that a step has to give.
    """

    eta1_max, eta2_min = 1e8, 1e-8
    max_rounds = 60

    def __init__(self, eta1: float, eta2: float, nu: float, beta: float) -> None:
        self.eta1, self.eta2, self.nu, self.beta = eta1, eta2, nu, beta
        self.start = (eta1, eta2)
        self.slope = 0.0

    def relax(self) -> None:
        """Penalty recovery: one step back towards the first weights."""
        self.eta1 = max(self.eta1 / self.nu**2, self.start[0])
        self.eta2 = min(self.eta2 * self.nu, self.start[1])

    def value(self, barrier: Barrier, point: Point, mu: float) -> float:
        """M at a point with derivatives."""
        r = barrier.gradient(point, mu) + barrier.adjoint(point, point.lam)
        return self.lower_bound(barrier, point, mu) + 0.5 * self.eta2 * float(r @ r)

    def lower_bound(self, barrier: Barrier, point: Point, mu: float) -> float:
        """M without its last term, which is never negative: needs no derivatives."""
        c = barrier.constraint(point)
        return barrier.value(point, mu) + float(point.lam @ c) + 0.5 * self.eta1 * float(c @ c)

    def directional(
        self, system: NewtonSystem, step: Direction, residual: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, float, float]:
        """Parts of D = grad M' z (constant, times eta1, times eta2), ||F||^2, and the residual's share."""
        barrier, point, mu = system.barrier, system.point, system.mu
        n = barrier.n
        r, c = system.residual, system.c
        Hr = np.empty_like(r)
        Hr[:n] = system.H @ r[:n]
        Hr[n:] = 0.0
        if barrier.n_bounds:
            Hr += (mu / system.below**2 + mu / system.above**2) * r
        parts = np.array(
            [
                r @ step.w + c @ step.lam,
                barrier.adjoint(point, c) @ step.w,
                Hr @ step.w + barrier.forward(point, r) @ step.lam,
            ]
        )
        r1, r2 = residual
        share = float(
            self.eta1 * (c[: len(r2)] @ r2) + self.eta2 * (r[:n] @ r1) + r1 @ step.w[:n] - r2 @ step.lam
        )
        return parts, float(r @ r + c @ c), share

    def fit(self, parts: np.ndarray, size: float) -> bool:
        """Change the weights until D <= -(eta2/2) ||F||^2; False where no weights within limits do."""
        for _ in range(self.max_rounds):
            self.slope = float(parts @ (1.0, self.eta1, self.eta2))
            if self.slope <= -0.5 * self.eta2 * size:
                return True
            if self.eta1 > self.eta1_max or self.eta2 < self.eta2_min:
                break
            self.eta1 *= self.nu**2
            self.eta2 /= self.nu
        return False

    def bar(self, now: float, alpha: float) -> float:
        """What M has to be at a step of length alpha, round-off forgiven."""
        return now + alpha * self.beta * self.slope + _ROUND_OFF * abs(now)


@dataclass
class Filter:
    """Pairs (violation, barrier value) that no later iterate may be worse than in both.

    After Waechter and Biegler, Math. Program. 106 (2006): a trial is accepted when it is acceptable to the
    filter and either decreases the barrier value enough where the model promises that and the violation is
    small, or decreases one of the two by a margin.
    """

    theta_max: float
    theta_min: float
    entries: list[tuple[float, float]] = field(default_factory=list)

    margin_theta, margin_phi, armijo = 1e-5, 1e-8, 1e-8
    power_theta, power_phi = 1.1, 2.3

    @classmethod
    def starting_at(cls, theta: float) -> Filter:
        """The filter of a new barrier problem."""
        return cls(theta_max=1e4 * max(1.0, theta), theta_min=1e-4 * max(1.0, theta))

    def admits(self, theta: float, phi: float) -> bool:
        """Whether no entry dominates the pair."""
        if not (theta <= self.theta_max and np.isfinite(phi)):
            return False
        return all(theta < t or phi < p for t, p in self.entries)

    def add(self, theta: float, phi: float) -> None:
        """Forbid what is not better than this pair by a margin."""
        entry = ((1 - self.margin_theta) * theta, phi - self.margin_phi * theta)
        kept = [e for e in self.entries if not (e[0] >= entry[0] and e[1] >= entry[1])]
        self.entries = [*kept, entry]

    def promises(self, slope: float, alpha: float, theta: float) -> bool:
        """The switching condition: the model's decrease outweighs the violation."""
        return slope < 0 and alpha * _power(-slope, self.power_phi) > _power(theta, self.power_theta)

    def accepts(
        self, theta: float, phi: float, slope: float, alpha: float, theta_new: float, phi_new: float
    ) -> bool:
        """Whether a trial may be taken; it augments the filter unless it descended."""
        if not self.admits(theta_new, phi_new):
            return False
        noise = _ROUND_OFF * abs(phi)
        if theta <= self.theta_min and self.promises(slope, alpha, theta):
            return bool(phi_new <= phi + self.armijo * alpha * slope + noise)
        return (
            theta_new <= (1 - self.margin_theta) * theta or phi_new <= phi - self.margin_phi * theta + noise
        )

    def descended(self, theta: float, phi: float, slope: float, alpha: float, phi_new: float) -> bool:
        """Whether the accepted step was one of descent, which leaves the filter as it is."""
        noise = _ROUND_OFF * abs(phi)
        return self.promises(slope, alpha, theta) and bool(
            phi_new <= phi + self.armijo * alpha * slope + noise
        )

    def shortest_step(self, slope: float, theta: float) -> float:
        """Steps below this length call for restoration."""
        bound = self.margin_theta
        if slope < 0:
            bound = min(bound, self.margin_phi * theta / -slope)
            if theta <= self.theta_min:
                bound = min(bound, _power(theta, self.power_theta) / _power(-slope, self.power_phi))
        return 0.05 * bound


def _power(x: float, p: float) -> float:
    """x^p for x >= 0 where Python's floats may overflow."""
    return float(min(x, 1e120) ** p)


def violation(barrier: Barrier, point: Point) -> float:
    """||c(w)||_1, what the filter measures."""
    return float(np.abs(barrier.constraint(point)).sum())


def make_filter(barrier: Barrier, point: Point) -> Filter:
    """A filter for the barrier problem that starts here."""
    return Filter.starting_at(violation(barrier, point))


__all__ = ["ExactMerit", "Filter", "make_filter", "violation"]
