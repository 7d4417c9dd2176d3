"""Tuners of a relaxation factor."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from ._bandit import BanditTuner

_LARGEST = 1.99  # nearer to 2 the SSOR factors are too ill-conditioned


class SORTuner(BanditTuner):
    """A `BanditTuner` whose arms are relaxation factors.

    Parameters
    ----------
    grid : array_like (d,), optional
        Factors in (0, 2). 1 is added where it is missing, and what exceeds 1.99 is moved there. Default:
        ``linspace(1, 1.95, 20)``. Grids with more than some 100 points per side want factors nearer to 2, for
        instance ``2 - geomspace(1, 0.015, 20)``.
    young : bool, default False
        Also offer the arm ``"young"``: the optimal factor by Young's theory, estimated by the solver from the
        matrix itself.
    **options
        As for `BanditTuner`.

    Examples
    --------
    >>> from aitken.tune import SORTuner
    >>> tuner = SORTuner(young=True, context=(0.0, 1.0), rng=0)
    >>> len(tuner.arms), tuner.arms[0], tuner.arms[-1]
    (21, 1.0, 'young')
    """

    def __init__(self, grid: Any = None, *, young: bool = False, **options: Any) -> None:
        if grid is None:
            omegas = np.linspace(1.0, 1.95, 20).tolist()
        else:
            values = _validate.as_float_array("grid", grid, ndim=1, dtype=np.float64)
            for value in values.tolist():
                if not 0.0 < value < 2.0:
                    raise ValueError(f"`grid` must lie in (0, 2); got {value!r}")
            omegas = sorted({1.0, *np.minimum(values, _LARGEST).tolist()})
        arms: list[Any] = [*omegas, "young"] if _validate.boolean("young", young) else list(omegas)
        options.setdefault("features", "omega")
        super().__init__(arms, **options)
