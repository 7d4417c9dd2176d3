"""Solver parameters learned while a sequence of solves runs: from past costs alone, one choice per solve."""

from ._bandit import BanditTuner
from ._diagnostics import near_asymptotic_bound
from ._sor import SORTuner

__all__ = ["BanditTuner", "SORTuner", "near_asymptotic_bound"]
