"""Checks of arrays for estimators, in any version of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

FLOATS = [np.float64, np.float32]


def checked_input(
    estimator: Any, X: Any, *, reset: bool | None, sparse: bool = False, allow_nan: bool = False
) -> Any:
    """`X` in two dimensions as float32 or float64; features are recorded, compared, or (None) left alone."""
    from sklearn.utils import validation

    # Before 1.6 it was a method, and another word said which values may be infinite.
    validate_data = getattr(validation, "validate_data", None)
    options: dict[str, Any] = {"accept_sparse": ["csr", "csc", "coo"] if sparse else False, "dtype": FLOATS}
    word = "force_all_finite" if validate_data is None else "ensure_all_finite"
    options[word] = "allow-nan" if allow_nan else True
    if reset is None:
        return validation.check_array(X, estimator=estimator, input_name="X", **options)
    if validate_data is None:
        return estimator._validate_data(X, reset=reset, **options)
    return validate_data(estimator, X, reset=reset, **options)


__all__ = ["checked_input"]
