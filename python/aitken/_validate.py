"""The one home of argument checks. Every message names the parameter in backticks and what it got."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

_LONGEST = 2**63 - 1  # what native code counts in


def _describe(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def as_float_array(
    name: str,
    x: Any,
    *,
    ndim: int | tuple[int, ...] | None = None,
    shape: Sequence[int | None] | None = None,
    dtype: Any = None,
    finite: bool = True,
    xp: Any = np,
) -> Any:
    """`x` as a native-endian float32 or float64 array; the caller's array is never modified.

    float32 and float64 keep their type (no copy where none is needed, strides allowed); booleans,
    integers and extended precision become float64, half precision float32.

    Parameters
    ----------
    name : str
        The parameter's name, for messages.
    x : array_like
        An array of `xp`, or for NumPy anything that ``numpy.asarray`` accepts.
    ndim : int or tuple of int, optional
        Allowed numbers of dimensions.
    shape : sequence of int or None, optional
        Required shape; None leaves a dimension free.
    dtype : dtype, optional
        Convert to this floating type after the checks of kind.
    finite : bool, default True
        Reject NaN and Inf.
    xp : module, default numpy
        The array module: numpy or cupy.

    Raises
    ------
    TypeError
        For sparse, masked, object, complex, text and date data.
    ValueError
        For a wrong shape or a non-finite value.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array; fill it or drop the masked entries first")
    if hasattr(x, "tocsr") and hasattr(x, "nnz"):
        raise TypeError(f"`{name}` is a sparse matrix of shape {tuple(x.shape)}; pass a dense array")
    try:
        array = xp.asarray(x)
    except ValueError as error:  # ragged nested sequences
        raise ValueError(f"`{name}` is not a rectangular array: {error}") from None
    kind = array.dtype.kind
    if kind == "c":
        raise TypeError(f"`{name}` is complex (dtype {array.dtype}); a real array is needed")
    if kind not in "fiub":
        raise TypeError(f"`{name}` has dtype {array.dtype}; a real numeric array is needed")
    if dtype is not None:
        target = np.dtype(dtype)
    elif kind == "f" and array.dtype.itemsize <= 4:
        target = np.dtype(np.float32)
    else:
        target = np.dtype(np.float64)
    if array.dtype != target:  # also true for the other byte order
        array = array.astype(target)
    check_ndim(name, array, ndim)
    check_shape(name, array, shape)
    if finite:
        check_finite(name, array, xp=xp)
    return array


def check_ndim(name: str, x: Any, ndim: int | tuple[int, ...] | None) -> None:
    """Raise ValueError unless `x` has (one of) `ndim` dimensions."""
    if ndim is None:
        return
    allowed = (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if x.ndim not in allowed:
        wanted = " or ".join(f"{d}-D" for d in allowed)
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}; {wanted} is needed")


def check_shape(name: str, x: Any, shape: Sequence[int | None] | None, *, why: str = "") -> None:
    """Raise ValueError unless `x` has the shape `shape`, where None matches any length."""
    if shape is None:
        return
    actual = tuple(x.shape)
    if len(actual) != len(shape) or any(w is not None and w != s for s, w in zip(actual, shape, strict=True)):
        inside = ", ".join("any" if w is None else str(w) for w in shape)
        wanted = f"({inside},)" if len(shape) == 1 else f"({inside})"
        raise ValueError(f"`{name}` has shape {actual}; {wanted} is needed" + (f" ({why})" if why else ""))


def _first(mask: Any, xp: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(xp.argmax(mask.ravel())), mask.shape))


def _place(index: tuple[int, ...]) -> str:
    return str(index[0]) if len(index) == 1 else str(index)


def check_finite(name: str, x: Any, *, allow_posinf: bool = False, xp: Any = np) -> None:
    """Raise ValueError naming the first NaN or Inf of `x`; +inf may be allowed (forbidden pairs)."""
    if x.size == 0:
        return
    if not allow_posinf:
        # One pass without a temporary: a finite sum proves that every term is finite.
        with np.errstate(all="ignore"):
            total = float(x.sum(dtype=np.float64))
        if math.isfinite(total):
            return
    bad = ~xp.isfinite(x)
    if allow_posinf:
        bad &= ~(x == math.inf)
    if bool(bad.any()):
        index = _first(bad, xp)
        raise ValueError(f"`{name}` has a non-finite value at index {_place(index)}: {float(x[index])}")


def check_nonnegative(name: str, x: Any, *, xp: Any = np) -> None:
    """Raise ValueError naming the first negative entry of `x`."""
    if x.size == 0 or float(x.min()) >= 0.0:
        return
    index = _first(x < 0, xp)
    if float(x[index]) < 0.0:
        raise ValueError(f"`{name}` has a negative value at index {_place(index)}: {float(x[index])}")


def positive_mass(name: str, w: Any) -> float:
    """The sum of the non-negative weights `w`; raise ValueError unless it is > 0 and a double."""
    with np.errstate(over="ignore"):
        mass = float(w.sum(dtype=np.float64))
    if not mass > 0:
        raise ValueError(f"`{name}` has no mass: its {w.size} weights sum to {mass}")
    if mass == math.inf:
        raise ValueError(f"`{name}` has weights up to {float(w.max())!r}; their sum exceeds the double range")
    return mass


def finite_range(name: str, low: float, high: float) -> float:
    """``high - low`` of the finite entries of `name`; raise ValueError where that is no double."""
    spread = max(0.0, high - low)
    if spread == math.inf:
        raise ValueError(f"`{name}` goes from {low!r} to {high!r}; its range exceeds the doubles")
    return spread


def real_scalar(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> float:
    """`value` as a finite float within the bounds; an open bound is itself excluded."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be a real number, not {value!r}")
    if not isinstance(value, numbers.Real):
        if (
            getattr(value, "shape", None) != ()
            or getattr(getattr(value, "dtype", None), "kind", "f") not in "fiu"
        ):
            raise TypeError(f"`{name}` must be a real number, not {_describe(value)}")
    number = float(value)
    low = number > minimum if open_minimum else number >= minimum
    high = number < maximum if open_maximum else number <= maximum
    if not (math.isfinite(number) and low and high):
        bounds = []
        if minimum > -math.inf:
            bounds.append(f"{'>' if open_minimum else '>='} {minimum:g}")
        if maximum < math.inf:
            bounds.append(f"{'<' if open_maximum else '<='} {maximum:g}")
        raise ValueError(f"`{name}` must be finite" + "".join(f", {b}" for b in bounds) + f"; got {number!r}")
    return number


def positive_scalar(name: str, value: Any) -> float:
    """`value` as a finite float > 0."""
    return real_scalar(name, value, minimum=0.0, open_minimum=True)


def tolerance(name: str, value: Any) -> float:
    """`value` as a finite float >= 0."""
    return real_scalar(name, value, minimum=0.0)


def integer(name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """`value` as an int within the bounds; floats are refused even where they hold whole numbers."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, not {_describe(value)}") from None
    if minimum is not None and number < minimum:
        raise ValueError(f"`{name}` must be >= {minimum}; got {number}")
    most = _LONGEST if maximum is None else maximum
    if number > most:
        raise ValueError(f"`{name}` must be <= {most}; got {number}")
    return number


def optional_integer(
    name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None
) -> int | None:
    """None, or `value` as `integer` returns it."""
    return None if value is None else integer(name, value, minimum=minimum, maximum=maximum)


def index_array(name: str, value: Any, limit: int, *, xp: Any = np) -> Any:
    """`value` as an int64 vector (of one number for a scalar) of indices from 0 to ``limit - 1``."""
    array = xp.atleast_1d(xp.asarray(value))
    check_ndim(name, array, 1)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must be integers; got dtype {array.dtype}")
    bad = (array < 0) | (array >= limit)
    if bool(bad.any()):
        at = int(xp.argmax(bad))
        raise ValueError(
            f"`{name}` has the index {int(array[at])} at position {at}; 0 to {limit - 1} is allowed"
        )
    return array.astype(np.int64, copy=False)


def boolean(name: str, value: Any) -> bool:
    """`value` as a bool; anything but a bool is refused."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, not {_describe(value)}")
    return bool(value)


def pair(name: str, value: Any, what: str, instead: str = "") -> tuple[Any, Any]:
    """The two items of `value`; `what` they are, as "a pair (f, g)", and what else is accepted `instead`."""
    try:
        items = tuple(value)
    except TypeError:
        raise TypeError(f"`{name}` must be {what}{instead}") from None
    if len(items) != 2:
        raise ValueError(f"`{name}` has {len(items)} items; {what} is needed")
    return items[0], items[1]


def choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """`value` if it is one of `choices`, compared by type and value."""
    allowed = list(choices)
    if any(type(value) is type(c) and value == c for c in allowed):
        return value
    listed = ", ".join(map(repr, allowed))
    near = (
        difflib.get_close_matches(str(value), [str(c) for c in allowed], 1) if isinstance(value, str) else []
    )
    hint = f"; did you mean {near[0]!r}?" if near else ""
    error = ValueError if any(type(value) is type(c) for c in allowed) else TypeError
    raise error(f"`{name}` must be one of {listed}; got {_describe(value)}{hint}")


def callback(name: str, value: Any) -> Callable[..., Any] | None:
    """None or something callable."""
    if value is not None and not callable(value):
        raise TypeError(f"`{name}` must be callable or None, not {_describe(value)}")
    result: Callable[..., Any] | None = value
    return result


def takes_intermediate_result(function: Callable[..., Any]) -> bool:
    """Whether a callback wants the keyword ``intermediate_result``: it is its only parameter's name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False
    return list(parameters) == ["intermediate_result"]


def n_threads(value: Any) -> int:
    """The `n_threads` option: None, 0 and -1 mean the default and become 0."""
    if value is None:
        return 0
    number = integer("n_threads", value, minimum=-1, maximum=2**31 - 1)
    return max(number, 0)


def rng_seed(value: Any, *, name: str = "rng") -> int:
    """A 64-bit seed for native generators: None is fresh entropy; or an int, SeedSequence, Generator."""
    if value is None:
        value = np.random.SeedSequence()
    if isinstance(value, np.random.SeedSequence):
        return int(value.generate_state(1, np.uint64)[0])
    if isinstance(value, np.random.Generator):
        return int(value.integers(0, 2**64, dtype=np.uint64))
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return integer(name, value, minimum=0, maximum=2**64 - 1)
    raise TypeError(
        f"`{name}` must be None, an int, a numpy.random.SeedSequence or a numpy.random.Generator, "
        f"not {_describe(value)}"
    )


def no_unknown_keywords(function: str, extra: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for the first keyword in `extra`, with the nearest known name."""
    for name in extra:
        near = difflib.get_close_matches(name, list(known), 1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise TypeError(f"{function}() got an unknown option `{name}`{hint}")


__all__ = [
    "as_float_array",
    "boolean",
    "callback",
    "check_finite",
    "check_ndim",
    "check_nonnegative",
    "check_shape",
    "choice",
    "index_array",
    "integer",
    "n_threads",
    "no_unknown_keywords",
    "optional_integer",
    "positive_scalar",
    "real_scalar",
    "rng_seed",
    "takes_intermediate_result",
    "tolerance",
]
