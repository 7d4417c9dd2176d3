"""NumPy oracle of the networks on grids: one shifted product at a time, in float64.

Fields are (channels, *grid), weights (out, in, 3, ...), zeros beyond the box; kernels are not turned.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def conv(x: Array, weights: Array, bias: Array) -> Array:
    """sum over channels and neighbours of weights times x, plus bias; kernels of 3^d cells or of one."""
    d, reach = x.ndim - 1, weights.shape[-1] // 2
    padded = np.pad(np.asarray(x, dtype=np.float64), [(0, 0)] + [(reach, reach)] * d)
    out = np.zeros((len(weights), *x.shape[1:]))
    for offset in itertools.product(range(weights.shape[-1]), repeat=d):
        near = padded[(slice(None), *[slice(o, o + n) for o, n in zip(offset, x.shape[1:], strict=True)])]
        out += np.tensordot(np.float64(weights[(..., *offset)]), near, axes=1)
    return out + np.reshape(np.float64(bias), (-1,) + (1,) * d)


def relu(x: Array) -> Array:
    """The positive part."""
    return np.maximum(x, 0.0)


def pool(x: Array) -> Array:
    """Means of 2^d cells."""
    corners = itertools.product((0, 1), repeat=x.ndim - 1)
    return np.mean([x[(slice(None), *[slice(o, None, 2) for o in corner])] for corner in corners], axis=0)


def repeat(x: Array) -> Array:
    """Every cell 2^d times."""
    for axis in range(1, x.ndim):
        x = np.repeat(x, 2, axis=axis)
    return x


def bfloat16(x: Array) -> Array:
    """The nearest numbers with eight bits of mantissa, ties to even."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def direction(
    arrays: Mapping[str, Array],
    pairs: tuple[int, int, int],
    r: Array,
    store: Callable[[Array], Array] = np.float64,
) -> Array:
    """The published network on one residual; pairs: residual pairs down, coarse and up.

    `store` rounds fields between layers and the weights of layers 16 -> 16.
    """
    down, coarse, up = pairs
    n_layers = 2 * sum(pairs) + 4
    layers = iter(range(n_layers))

    def layer(x: Array) -> Array:
        k = next(layers)
        weights = arrays[f"W{k}"]
        return conv(x, store(weights) if 0 < k < n_layers - 1 else weights, arrays[f"b{k}"])

    x = np.pad(r, [(0, n % 2) for n in r.shape])[None]
    a = store(relu(layer(store(layer(x)))))
    b = store(relu(layer(a)))
    for _ in range(down):
        a = store(relu(layer(b)) + a)
        b = store(relu(layer(a)))
    h = store(pool(b))
    for _ in range(coarse):
        t = store(relu(layer(h)))
        h = store(relu(layer(t)) + h)
    v = store(repeat(h) + b)
    for _ in range(up):
        t = store(relu(layer(v)))
        v = store(relu(layer(t)) + v)
    return layer(v)[0][tuple(slice(n) for n in r.shape)]


def geometry(arrays: Mapping[str, Array], features: Array) -> Array:
    """The network of a multigrid level: (4, *grid) to (3, *grid)."""
    d = features.ndim - 1
    cell = {k: np.reshape(arrays[k], (*arrays[k].shape, *[1] * d)) for k in ("W2", "W3")}
    h = relu(conv(features, arrays["W1"], arrays["b1"]))
    return conv(relu(conv(h, cell["W2"], arrays["b2"])), cell["W3"], arrays["b3"])
