"""Cost matrices between two sets of points."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from .. import _dispatch, _validate

METRICS = ("sqeuclidean", "euclidean", "cityblock", "cosine")


def dist(X: Any, Y: Any = None, metric: str = "sqeuclidean", out: Any = None) -> Any:
    """Cost between every point of `X` and every point of `Y`.

    Parameters
    ----------
    X : array_like of shape (n, d)
        Points.
    Y : array_like of shape (m, d), optional
        Other points; default `X`.
    metric : {"sqeuclidean", "euclidean", "cityblock", "cosine"}
        All but "cosine" are formed from differences, not from inner products: a point's distance to itself
        is exactly 0.
    out : array of shape (n, m), optional
        Where to put the result.

    Returns
    -------
    ndarray of shape (n, m)
        float32 if both sets are float32, else float64.

    Raises
    ------
    TypeError
        Complex or object data, or arguments on different devices.
    ValueError
        An unknown `metric`, shapes that do not fit, NaN or Inf.

    Examples
    --------
    >>> from aitken import ot
    >>> ot.dist([[0.0, 0.0], [3.0, 4.0]], metric="euclidean")
    array([[0., 5.],
           [5., 0.]])
    """
    backend = _dispatch.select(X=X, Y=Y, out=out)
    xp = backend.xp
    _validate.choice("metric", metric, METRICS)
    X = _validate.as_float_array("X", backend.take("X", X), ndim=2, xp=xp)
    Y = (
        X
        if Y is None
        else _validate.as_float_array("Y", backend.take("Y", Y), shape=(None, X.shape[1]), xp=xp)
    )
    dtype = np.result_type(X.dtype, Y.dtype)
    shape = (X.shape[0], Y.shape[0])
    target = backend.take("out", out)
    if target is not None:
        _validate.check_shape("out", target, shape)
        if target.dtype != dtype:
            raise ValueError(f"`out` has dtype {target.dtype}; {dtype} is needed")
    if backend.is_cuda:
        cost = _differences(X, Y, metric, xp)
    else:
        cost = cdist(X, Y, metric)  # float64 inside, whatever the input
    if target is not None:
        target[...] = cost
        return out
    return backend.give(cost.astype(dtype, copy=False))


def _differences(X: Any, Y: Any, metric: str, xp: Any) -> Any:
    """The same costs on the GPU, one coordinate at a time: O(n m) memory, no cancellation."""
    if metric == "cosine":
        unit = [z / xp.sqrt((z * z).sum(axis=1, keepdims=True)) for z in (X, Y)]
        return 1.0 - unit[0] @ unit[1].T
    cost = xp.zeros((X.shape[0], Y.shape[0]), dtype=np.float64)
    for k in range(X.shape[1]):
        delta = X[:, k, None].astype(np.float64) - Y[None, :, k]
        cost += xp.abs(delta) if metric == "cityblock" else delta * delta
    return xp.sqrt(cost) if metric == "euclidean" else cost
