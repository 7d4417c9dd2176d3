"""What arms are: how alike they are for a Gaussian process, and how they are written as JSON."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _validate

_LENGTH = 0.2  # of the squared exponential kernel, in features scaled to [0, 1]
FEATURES = ("omega", "log", "linear", "independent")


def as_arms(arms: Any) -> list[Any]:
    """`arms` as a list; arrays become Python scalars."""
    if isinstance(arms, np.ndarray):
        if arms.ndim != 1:
            raise ValueError(f"`arms` has shape {arms.shape}; 1-D is needed")
        arms = arms.tolist()
    if not isinstance(arms, Sequence) or isinstance(arms, str | bytes):
        raise TypeError(f"`arms` must be a sequence of choices, not {type(arms).__name__}")
    if len(arms) == 0:
        raise ValueError("`arms` must not be empty; got []")
    return list(arms)


def find_arm(name: str, arms: list[Any], wanted: Any) -> int:
    """The index of an arm, by identity or equality."""
    for i, arm in enumerate(arms):
        if arm is wanted:
            return i
    for i, arm in enumerate(arms):
        try:
            if bool(arm == wanted):
                return i
        except (TypeError, ValueError):  # arrays and the like
            continue
    raise ValueError(f"`{name}` names {wanted!r}, which is not one of the {len(arms)} arms")


def _is_number(arm: Any) -> bool:
    return isinstance(arm, numbers.Real) and not isinstance(arm, bool | np.bool_)


def _scaled(z: np.ndarray) -> np.ndarray:
    """Columns moved to [0, 1]; a constant one becomes 0."""
    low, width = z.min(axis=0), np.ptp(z, axis=0)
    return np.asarray((z - low) / np.where(width > 0.0, width, 1.0))


def _squared_exponential(z: np.ndarray, length: float) -> np.ndarray:
    gaps = ((z[:, None, :] - z[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * gaps / length**2))


def _transform(values: np.ndarray, features: str | None) -> np.ndarray:
    """Where numbers lie on the axis along which costs vary evenly."""
    low, high = values.min(), values.max()
    if features is None:
        if low >= 1.0 and high < 2.0:
            features = "omega"
        else:
            features = "log" if low > 0.0 and high / 100.0 >= low else "linear"
    if features == "omega":
        if not (low > 0.0 and high < 2.0):
            raise ValueError(f"`arms` must lie in (0, 2) for features='omega'; got {low:g} to {high:g}")
        return np.asarray(-np.log(2.0 - values))
    if features == "log":
        if low <= 0.0:
            raise ValueError(f"`arms` must be positive for features='log'; got {low:g}")
        return np.asarray(np.log(values))
    return values


def kernel(arms: list[Any], features: Any) -> np.ndarray:
    """Correlations between arms, shape (d, d): numbers by distance, other kinds independent."""
    d = len(arms)
    if features is not None and not isinstance(features, str):
        z = _validate.as_float_array("features", features, ndim=(1, 2), dtype=np.float64)
        z = z.reshape(len(z), -1)
        _validate.check_shape("features", z, (d, None), why="one row per arm")
        return _squared_exponential(_scaled(z), _LENGTH * math.sqrt(max(z.shape[1], 1)))
    if features is not None:
        _validate.choice("features", features, FEATURES)
    k = np.eye(d)
    numeric = [i for i, arm in enumerate(arms) if _is_number(arm)]
    if features == "independent" or not numeric:
        return k
    try:
        values = np.array([float(arms[i]) for i in numeric])
    except OverflowError:
        raise ValueError("`arms` has a number beyond the range of float64") from None
    _validate.check_finite("arms", values)
    if not math.isfinite(float(values.max()) - float(values.min())):
        raise ValueError(f"`arms` span {values.min():g} to {values.max():g}, more than float64 can hold")
    z = _scaled(_transform(values, features)[:, None])
    k[np.ix_(numeric, numeric)] = _squared_exponential(z, _LENGTH)
    return k


def to_json(value: Any) -> Any:
    """`value` as plain JSON from which `from_json` makes an equal one; TypeError for other data."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": [to_json(v) for v in value]}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: to_json(v) for k, v in value.items()}}
    raise TypeError(f"{type(value).__name__} is not plain data")


def from_json(value: Any) -> Any:
    """What `to_json` was given."""
    if isinstance(value, list):
        return [from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items())) if len(value) == 1 else (None, None)
    if kind == "tuple" and isinstance(content, list):
        return tuple(from_json(v) for v in content)
    if kind == "dict" and isinstance(content, dict):
        return {k: from_json(v) for k, v in content.items()}
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    raise ValueError(f"`state` field 'arms' holds {value!r}, which is no arm")
