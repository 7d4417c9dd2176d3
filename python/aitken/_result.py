"""Results: one status enum, one base class, one way to say that a solve did not converge."""

from __future__ import annotations

import sys
import warnings
from collections.abc import ItemsView, Iterator, KeysView
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ._errors import ConvergenceWarning


class Status(IntEnum):
    """How a solve ended; the numbers are those of ``csrc/core/status.hpp``."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STAGNATED = 2
    BREAKDOWN = 3
    NONFINITE = 4
    STOPPED_BY_CALLBACK = 5
    NOT_POSITIVE_DEFINITE = 6
    LOCALLY_INFEASIBLE = 7
    DIVERGED = 8
    BAD_INPUT = 9

    @property
    def message(self) -> str:
        """What happened, as a phrase that can stand alone."""
        return _SENTENCES[self][0]

    @property
    def advice(self) -> str:
        """One sentence on what to try next; empty when there is nothing to mend."""
        return _SENTENCES[self][1]


# status: (what happened, what to try)
_SENTENCES: dict[Status, tuple[str, str]] = {
    Status.CONVERGED: ("converged: the certificate is within the tolerance", ""),
    Status.MAX_ITERATIONS: (
        "the iteration limit was reached",
        "Raise `maxiter`, loosen the tolerance, or start from a previous solution.",
    ),
    Status.STAGNATED: (
        "progress stopped above the tolerance",
        "With an error near the target rounding is the limit: loosen the tolerance or pass float64 data; "
        "far above it, start closer (larger regularisation, a previous solution) or check that a solution "
        "exists.",
    ),
    Status.BREAKDOWN: (
        "the method broke down",
        "Rescale the problem, regularise it more, or choose another `method`.",
    ),
    Status.NONFINITE: (
        "NaN or Inf appeared during the iteration",
        "Check the scale of the data; a larger regularisation or float64 input usually cures it.",
    ),
    Status.STOPPED_BY_CALLBACK: ("the callback asked to stop", ""),
    Status.NOT_POSITIVE_DEFINITE: (
        "the matrix is not positive definite",
        "Use a method for indefinite matrices, or add a shift to the diagonal.",
    ),
    Status.LOCALLY_INFEASIBLE: (
        "the constraints cannot be met near the current point",
        "Start from another point, or relax the constraints.",
    ),
    Status.DIVERGED: (
        "the iterates grew without bound",
        "Reduce the relaxation or step length, or use a stronger preconditioner.",
    ),
    Status.BAD_INPUT: (
        "the problem is not one that can be solved",
        "Mend or leave out the problems whose status is 9; their messages say what is wrong.",
    ),
}

_PACKAGE = str(Path(__file__).resolve().parent)


def _text(value: Any, width: int) -> str:
    if isinstance(value, np.ndarray):
        if value.size > 1000 or value.ndim > 2:
            return f"<{type(value).__name__} {value.dtype} {value.shape}>"
        return np.array2string(value, max_line_width=width, threshold=10, edgeitems=3, precision=4)
    if isinstance(value, Status):
        return f"{int(value)} ({value.name.lower()})"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Result | dict):
        pairs = list(value.items())
        pad = max((len(str(key)) for key, _ in pairs), default=0)
        return "\n".join(
            f"{key!s:>{pad}}: {_indent(_text(item, width - pad - 2), pad + 2)}" for key, item in pairs
        )
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"<{type(value).__name__} of {len(value)}>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # sparse, cupy, torch: never pull the data
        library = type(value).__module__.partition(".")[0]
        return f"<{library} {type(value).__name__} {value.dtype} {tuple(value.shape)}>"
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 400 else text[:397] + "..."


def _indent(text: str, by: int) -> str:
    return text.replace("\n", "\n" + " " * by)


class Result:
    """Named fields of a solve: attributes, item access, a readable ``repr``, and pickling.

    Fields are the instance attributes whose names do not start with an underscore, in the order in
    which they were set. Subclasses may add properties for what is computed on demand.

    Examples
    --------
    >>> r = Result(x=1.5, nit=3, status=Status.CONVERGED)
    >>> r.nit, r["x"], "nit" in r
    (3, 1.5, True)
    >>> r
    Result
           x: 1.5
         nit: 3
      status: 0 (converged)
    """

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def keys(self) -> KeysView[str]:
        """Names of the fields."""
        return self._public().keys()

    def items(self) -> ItemsView[str, Any]:
        """Pairs of name and value."""
        return self._public().items()

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or `default` where there is no such field."""
        return getattr(self, name, default) if not name.startswith("_") else default

    def _public(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __getitem__(self, name: str) -> Any:
        if not isinstance(name, str) or name.startswith("_") or not hasattr(self, name):
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._public()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._public())

    def __len__(self) -> int:
        return len(self._public())

    def __repr__(self) -> str:
        fields = self._public()
        if not fields:
            return f"{type(self).__name__}()"
        pad = max(map(len, fields)) + 2
        lines = (
            f"{name:>{pad}}: {_indent(_text(value, 100 - pad), pad + 2)}" for name, value in fields.items()
        )
        return "\n".join((type(self).__name__, *lines))


def _caller_stacklevel() -> int:
    """Stack level, as `warnings.warn` counts it for its caller's caller, of the first frame outside."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level


def warn_not_converged(
    result: Any, *, solver: str, quantity: str, error: float, target: float, advice: str | None = None
) -> None:
    """Issue a `ConvergenceWarning` unless `result` converged or the caller's callback stopped it.

    Parameters
    ----------
    result : Result
        Anything with a ``status`` of type `Status` (or its number).
    solver : str
        The public function's name, e.g. ``"sinkhorn"``.
    quantity : str
        What `error` measures, with its norm, e.g. ``"L1 marginal error"``.
    error, target : float
        The certificate recomputed from the answer, and the tolerance it had to meet.
    advice : str, optional
        What to try, where the solver knows better than the status.
    """
    status = Status(result.status)
    if status in (Status.CONVERGED, Status.STOPPED_BY_CALLBACK):
        return
    warnings.warn(
        f"{solver}: {status.message}; {quantity} {error:.3g}, target {target:.3g}. "
        f"{status.advice if advice is None else advice}",
        ConvergenceWarning,
        stacklevel=_caller_stacklevel(),
    )


__all__ = ["Result", "Status", "warn_not_converged"]
