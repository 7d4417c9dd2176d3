"""Model predictive control: a vehicle drives round an obstacle, one constrained problem per step.

    python examples/optimize_control_loop.py                # 60 steps, horizon 30: some seconds
    python examples/optimize_control_loop.py 100 40         # steps, horizon

At every step the plan for the whole horizon is optimised anew from where the vehicle is, and its first
control is applied. Each problem is solved twice: from a cold start, and from the last result (`warm_start`)
moved on by one step. Prints iterations and seconds of both. State is (x, y, heading, speed), controls are
acceleration and turn rate; dynamics are equations, the obstacle is an inequality at every step that a control
can still change, speed and controls have bounds.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, NonlinearConstraint

from aitken.optimize import OptimizationResult, sketched_newton

H = 0.15  # seconds of a step
GOAL = np.array([6.0, 0.0, 0.0, 0.0])
OBSTACLE, RADIUS = np.array([3.0, 0.1]), 0.8
STATE_WEIGHT, CONTROL_WEIGHT = np.array([1.0, 1.0, 0.05, 0.05]), np.array([0.05, 0.05])


class Plan:
    """One problem: variables are the states 1..T, shape (T, 4), then the controls 0..T-1, shape (T, 2)."""

    def __init__(self, horizon: int, start: np.ndarray) -> None:
        self.T, self.start = horizon, start
        T = horizon
        self.weights = np.concatenate([np.tile(STATE_WEIGHT, T), np.tile(CONTROL_WEIGHT, T)])
        self.weights[4 * (T - 1) : 4 * T] *= 10.0
        self.target = np.concatenate([np.tile(GOAL, T), np.zeros(2 * T)])
        low = np.concatenate([np.tile([-np.inf, -np.inf, -np.inf, 0.0], T), np.tile([-2.0, -1.5], T)])
        high = np.concatenate([np.tile([np.inf, np.inf, np.inf, 2.0], T), np.tile([2.0, 1.5], T)])
        self.bounds = Bounds(low, high)
        self.constraints = [
            NonlinearConstraint(self.defects, 0.0, 0.0, jac=self.defects_jac),
            NonlinearConstraint(self.clearance, RADIUS**2, np.inf, jac=self.clearance_jac),
        ]

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States 0..T, the given one first, and controls."""
        T = self.T
        return np.vstack([self.start, x[: 4 * T].reshape(T, 4)]), x[4 * T :].reshape(T, 2)

    def fun(self, x: np.ndarray) -> float:
        d = x - self.target
        return float(0.5 * self.weights @ d**2)

    def grad(self, x: np.ndarray) -> np.ndarray:
        return self.weights * (x - self.target)

    def defects(self, x: np.ndarray) -> np.ndarray:
        s, u = self.split(x)
        heading, speed = s[:-1, 2], s[:-1, 3]
        moved = np.column_stack([speed * np.cos(heading), speed * np.sin(heading), u[:, 1], u[:, 0]])
        return (s[1:] - s[:-1] - H * moved).ravel()

    def defects_jac(self, x: np.ndarray) -> sp.csr_array:
        s, _ = self.split(x)
        T, heading, speed = self.T, s[:-1, 2], s[:-1, 3]
        blocks = np.zeros((T, 4, 4))  # d(moved)/d(state)
        blocks[:, 0, 2], blocks[:, 0, 3] = -speed * np.sin(heading), np.cos(heading)
        blocks[:, 1, 2], blocks[:, 1, 3] = speed * np.cos(heading), np.sin(heading)
        before = sp.block_diag([np.eye(4) + H * block for block in blocks[1:]], format="csr")
        shifted = sp.block_array(
            [[sp.csr_array((4, 4 * (T - 1))), None], [before, sp.csr_array((4 * (T - 1), 4))]]
        )
        steer = sp.csr_array(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        controls = sp.kron(sp.eye_array(T), -H * steer)
        return sp.csr_array(sp.hstack([sp.eye_array(4 * T) - shifted, controls]))

    def clearance(self, x: np.ndarray) -> np.ndarray:
        s, _ = self.split(
            x
        )  # no control moves the first position: a constraint there could only be redundant
        return ((s[2:, :2] - OBSTACLE) ** 2).sum(axis=1)

    def clearance_jac(self, x: np.ndarray) -> sp.csr_array:
        s, _ = self.split(x)
        T = self.T
        d = 2.0 * (s[2:, :2] - OBSTACLE)
        rows, columns = np.repeat(np.arange(T - 1), 2), (4 * np.arange(1, T)[:, None] + [0, 1]).ravel()
        return sp.csr_array((d.ravel(), (rows, columns)), shape=(T - 1, 6 * T))

    def hess(self, x: np.ndarray, v: np.ndarray) -> sp.csr_array:
        """Of the Lagrangian: v holds the multipliers of the defects, then those of the clearances."""
        T = self.T
        s, _ = self.split(x)
        along, across = H * v[: 4 * T].reshape(T, 4)[1:, :2].T  # of steps that begin at a variable state
        heading, speed = s[1:-1, 2], s[1:-1, 3]
        diagonal = self.weights.copy()
        places = 4 * np.arange(T - 1) + 2  # of the headings
        diagonal[places] += speed * (along * np.cos(heading) + across * np.sin(heading))
        diagonal[(4 * np.arange(1, T)[:, None] + [0, 1]).ravel()] += np.repeat(2.0 * v[4 * T :], 2)
        mixed = along * np.sin(heading) - across * np.cos(heading)
        off = sp.csr_array((mixed, (places, places + 1)), shape=(6 * T, 6 * T))
        return sp.csr_array(sp.diags_array(diagonal) + off + off.T)

    def solve(self, last: OptimizationResult | None) -> OptimizationResult:
        """From the last result, or from a straight line to the goal."""
        line = np.linspace(self.start, GOAL, self.T + 1)[1:]
        x0 = np.concatenate([line.ravel(), np.zeros(2 * self.T)])
        return sketched_newton(
            self.fun, x0, jac=self.grad, lagrangian_hess=self.hess, constraints=self.constraints,
            bounds=self.bounds, warm_start=last,
        )  # fmt: skip


def moved_on(r: OptimizationResult, T: int) -> OptimizationResult:
    """The result one step later: everything that belongs to a step moves by one, the last one is repeated."""

    def moved(parts: np.ndarray, width: int) -> np.ndarray:
        """The states' part, 4 T numbers, and the rest, whose steps have `width` numbers."""
        states, rest = parts[: 4 * T].reshape(T, 4), parts[4 * T :].reshape(-1, width)
        return np.concatenate([part[[*range(1, len(part)), -1]].ravel() for part in (states, rest)])

    changed: dict[str, Any] = {name: moved(r[name], 2) for name in ("x", "z_lo", "z_up")}
    changed |= {"lam": moved(r.lam, 1), "slack": np.append(r.slack[1:], r.slack[-1])}
    return OptimizationResult({**r, **changed})


def main() -> int:
    steps, T = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (60, 30)
    state = np.array([0.0, 0.0, 0.0, 0.5])
    counts: dict[str, list[tuple[int, float]]] = {"cold": [], "warm": []}
    last, nearest = None, np.inf
    for step in range(steps):
        plan = Plan(T, state)
        found = {}
        for kind, start in (("cold", None), ("warm", last and moved_on(last, T))):
            begun = time.perf_counter()
            found[kind] = plan.solve(start)
            counts[kind].append((found[kind].nit, time.perf_counter() - begun))
        last = found["warm"]
        if not last.success:
            print(f"step {step}: {last.message}")
            return 1
        state = plan.split(last.x)[0][1]
        nearest = min(nearest, float(np.linalg.norm(state[:2] - OBSTACLE)))
        if step % 10 == 0:
            gap = found["cold"].fun - last.fun
            place = f"({state[0]:5.2f}, {state[1]:5.2f})"
            print(f"step {step:3d}: at {place}, cost {last.fun:8.4f}, cold - warm {gap:8.1e}")
    for kind, pairs in counts.items():
        nit, seconds = np.array(pairs[1:]).T
        print(f"{kind}: {nit.mean():5.1f} iterations and {1e3 * seconds.mean():6.1f} ms a step")
    left = np.linalg.norm(state[:2] - GOAL[:2])
    print(f"ends {left:.3f} from the goal; nearest to the obstacle {nearest:.4f}, radius {RADIUS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
