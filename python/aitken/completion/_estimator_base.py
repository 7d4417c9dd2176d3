"""What both estimators share: options, and entries as CSR."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_random_state

from .. import _validate
from .._errors import RecoveryWarning
from .._sklearn import checked_input
from ._completion_result import CompletionResult
from ._entries import take_entries
from ._matrix_completion import matrix_completion


def seed_of(random_state: Any) -> int:
    """One seed for native generators out of what scikit-learn takes for a `random_state`."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def checked_missing_value(value: Any) -> float:
    """The `missing_values` option as a float; None and pandas' NA are NaN."""
    if value is None or type(value).__name__ == "NAType":
        return float("nan")
    if isinstance(value, float | np.floating) and np.isnan(value):
        return float("nan")
    return _validate.real_scalar("missing_values", value)


def allows_nan(missing_values: Any) -> bool:
    """Whether NaN is how a value is missing, for the tags; what is no number at all is refused by `fit`."""
    try:
        return bool(np.isnan(checked_missing_value(missing_values)))
    except (TypeError, ValueError):
        return False


def observed_mask(X: np.ndarray, missing_values: float) -> np.ndarray:
    """True where `X` holds a value."""
    return ~np.isnan(X) if np.isnan(missing_values) else X != X.dtype.type(missing_values)


def entries_of(X: Any, observed: np.ndarray | None = None, duplicates: str = "raise") -> sp.csr_array:
    """What is known of `X` as CSR, zeros stored like any value.

    Parameters
    ----------
    X : sparse matrix, or ndarray of shape (n, m)
    observed : ndarray of bool, shape (n, m)
        Which cells of a dense array are known.
    duplicates : {"raise", "mean", "last"}
        What to do where a sparse matrix stores a place twice.
    """
    given = X if observed is None else np.ma.MaskedArray(X, mask=~observed)
    known = take_entries("X", given, duplicates=duplicates, allow_empty=True)
    return sp.csr_array((known.values, known.col, known.indptr), shape=known.shape)


def complete(entries: sp.csr_array, rank: Any, *, lam: float, **options: Any) -> CompletionResult:
    """`matrix_completion` for estimators; for ``lam > 0`` rows and columns may well have no entries."""
    with warnings.catch_warnings():
        if lam > 0:
            warnings.simplefilter("ignore", RecoveryWarning)
        return matrix_completion(entries, rank, lam=lam, **options)


__all__ = [
    "allows_nan",
    "checked_input",
    "checked_missing_value",
    "complete",
    "entries_of",
    "observed_mask",
    "seed_of",
]
