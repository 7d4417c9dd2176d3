"""Tokens to experts: routing of a mixture of experts by transport, beside the usual top-1 gating.

    python examples/ot_routing.py                        # 1024 tokens, 16 experts
    python examples/ot_routing.py 4096 64                # others
    python examples/ot_routing.py 1024 16 loads.png      # with a picture (matplotlib)

Popular experts are wanted by far more tokens than they have room for: top-1 gating drops what is beyond an
expert's capacity, and leaves other experts idle. Transport from tokens (equal weights) to experts (equal
loads) with the negative logits as costs looks at all tokens at once. `sparse_ot` lets no expert take more
tokens than its capacity, `exact_ot` gives the best balanced assignment. Prints, for each way: tokens without
an expert, the largest load over the mean, the mean logit of what was routed, entries per token, and seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aitken import ot


@dataclass
class Routing:
    """Weights of tokens (rows) at experts (columns), each row of sum 1 or 0."""

    name: str
    weights: np.ndarray
    seconds: float

    @property
    def loads(self) -> np.ndarray:
        """What every expert carries, in tokens."""
        return self.weights.sum(axis=0)

    def line(self, logits: np.ndarray) -> str:
        routed = self.weights.sum(axis=1) > 0
        affinity = (self.weights * logits).sum() / max(1, routed.sum())
        return (
            f"{self.name:>24}{int((~routed).sum()):>10}{self.loads.max() / self.loads.mean():>12.3f}"
            f"{affinity:>13.4f}{(self.weights > 0).sum() / max(1, routed.sum()):>12.2f}{self.seconds:>10.4f}"
        )


def make_logits(tokens: int, experts: int, rng: np.random.Generator) -> np.ndarray:
    """Scores of tokens from a few topics by experts some of which are popular."""
    topics = rng.standard_normal((max(2, experts // 2), 8))
    X = topics[rng.integers(len(topics), size=tokens)] + 0.7 * rng.standard_normal((tokens, 8))
    W = rng.standard_normal((8, experts))
    popularity = 1.5 * rng.standard_normal(experts)
    return X @ W / np.sqrt(8) + popularity


def top_one(logits: np.ndarray, capacity: int) -> np.ndarray:
    """Every token asks for its best expert, which takes the first `capacity` that come."""
    wanted = logits.argmax(axis=1)
    weights = np.zeros_like(logits)
    for expert in range(logits.shape[1]):
        weights[np.flatnonzero(wanted == expert)[:capacity], expert] = 1.0
    return weights


def shares(plan: np.ndarray) -> np.ndarray:
    """Rows of a plan as shares of a token; tokens that got nothing stay without."""
    mass = plan.sum(axis=1, keepdims=True)
    return np.divide(plan, mass, out=np.zeros_like(plan), where=mass > 0)


def route(tokens: int, experts: int, seed: int = 0) -> tuple[np.ndarray, list[Routing]]:
    """All ways on one set of logits."""
    logits = make_logits(tokens, experts, np.random.default_rng(seed))
    capacity = int(np.ceil(1.25 * tokens / experts))  # the usual quarter of slack
    gamma = 0.1 * tokens
    ways: list[tuple[str, Callable[[], np.ndarray]]] = [
        ("top-1 gating", lambda: top_one(logits, capacity)),
        (
            f"sparse_ot, k = {capacity}",
            lambda: shares(
                ot.sparse_ot(None, None, -logits, capacity, gamma, ftol=1e-7, return_plan="dense").plan
            ),
        ),
        (
            "quadratic_ot",
            lambda: shares(ot.quadratic_ot(None, None, -logits, gamma, return_plan="dense").plan),
        ),
        ("exact_ot", lambda: shares(ot.exact_ot(None, None, -logits, return_plan="dense").plan)),
    ]
    results = []
    for name, way in ways:
        start = time.perf_counter()
        weights = way()
        results.append(Routing(name, weights, time.perf_counter() - start))
    return logits, results


def draw(results: list[Routing], path: str) -> None:
    """Loads of the experts, sorted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for k, r in enumerate(results):
        experts = np.arange(r.loads.size)
        axes.bar(experts + 0.2 * (k - 1.5), np.sort(r.loads)[::-1], width=0.2, label=r.name)
    axes.set(xlabel="expert, by load", ylabel="tokens", title="What the experts carry")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str]) -> None:
    tokens, experts = (int(x) for x in (*arguments[:2], *("1024", "16")[len(arguments[:2]) :]))
    logits, results = route(tokens, experts)
    head = ("without", "load / mean", "mean logit", "per token", "seconds")
    print(f"{tokens} tokens, {experts} experts")
    print(f"{'':>24}{head[0]:>10}{head[1]:>12}{head[2]:>13}{head[3]:>12}{head[4]:>10}")
    for r in results:
        print(r.line(logits))
    if len(arguments) > 2:
        draw(results, arguments[2])
        print(f"loads drawn to {arguments[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
