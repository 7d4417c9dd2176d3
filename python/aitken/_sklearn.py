"""Checks of arrays for estimators, in any version of scikit-learn; only estimators import this."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

try:
    from sklearn.utils.validation import validate_data as _validate_data
except ImportError:  # before 1.6 it was a method, and another word said which values may be infinite
    _validate_data = None

FLOATS = [np.float64, np.float32]


def checked_input(
    estimator: Any, X: Any, *, reset: bool | None, sparse: bool = False, allow_nan: bool = False
) -> Any:
    """`X` in two dimensions as float32 or float64; features are recorded, compared, or (None) left alone."""
    options: dict[str, Any] = {"accept_sparse": ["csr", "csc", "coo"] if sparse else False, "dtype": FLOATS}
    word = "force_all_finite" if _validate_data is None else "ensure_all_finite"
    options[word] = "allow-nan" if allow_nan else True
    if reset is None:
        return check_array(X, estimator=estimator, input_name="X", **options)
    if _validate_data is None:
        return estimator._validate_data(X, reset=reset, **options)
    return _validate_data(estimator, X, reset=reset, **options)


__all__ = ["FLOATS", "checked_input"]
