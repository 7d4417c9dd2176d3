"""Seeded random streams, one per sample, and Gaussian random fields."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .. import _validate

__all__ = ["gaussian_random_field", "stream"]

Floats = NDArray[np.float64]


def stream(seed: int, i: int) -> np.random.Generator:
    """The random stream of sample `i` of a data set.

    Parameters
    ----------
    seed : int
        Seed of the data set, 0 to 2**64 - 1.
    i : int
        Index of the sample, 0 to 2**64 - 1.

    Returns
    -------
    numpy.random.Generator
        Philox keyed by the pair, so that a sample does not depend on what was drawn before it.

    Raises
    ------
    TypeError, ValueError
        For anything but integers of that range.

    Examples
    --------
    >>> from aitken.datagen import stream
    >>> stream(0, 7).random() == stream(0, 7).random(), stream(0, 7).random() == stream(0, 8).random()
    (True, False)
    """
    top = 2**64 - 1
    key = [_validate.integer(name, v, minimum=0, maximum=top) for name, v in (("seed", seed), ("i", i))]
    return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


@functools.lru_cache(maxsize=8)
def _spectrum(shape: tuple[int, ...], alpha: float, tau: float) -> Floats:
    """Factor of each Fourier coefficient, scaled for numpy's inverse transform; zero mean mode."""
    k2 = np.zeros(shape)
    for axis, s in enumerate(shape):
        k = np.fft.fftfreq(s, 1 / s)
        k2 += (k**2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    sigma = tau ** (alpha - len(shape) / 2)
    factor = np.sqrt(2.0) * sigma * (4 * np.pi**2 * k2 + tau**2) ** (-alpha / 2) * float(np.prod(shape))
    factor.flat[0] = 0.0
    factor.setflags(write=False)
    return factor


def gaussian_random_field(
    generator: np.random.Generator, shape: tuple[int, ...], alpha: float, tau: float
) -> Floats:
    """Periodic Gaussian random field on the unit box, without mean, by one FFT.

    The covariance is ``tau**(2 alpha - d) (-Laplacian + tau**2)**(-alpha)`` in d dimensions.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of ``2 * prod(shape)`` normal numbers.
    shape : tuple of int
        Points per axis.
    alpha : float
        Smoothness; above d/2, or the variance grows with the number of points.
    tau : float
        Inverse length scale, positive.

    Returns
    -------
    ndarray of float64, shape `shape`

    Raises
    ------
    TypeError, ValueError
        For a bad shape, `alpha` or `tau`.

    Examples
    --------
    >>> from aitken.datagen import gaussian_random_field, stream
    >>> gaussian_random_field(stream(0, 0), (64, 64), alpha=2.5, tau=7.0).shape
    (64, 64)
    """
    shape = tuple(_validate.integer("shape", s, minimum=1) for s in shape)
    alpha, tau = _validate.positive_scalar("alpha", alpha), _validate.positive_scalar("tau", tau)
    # Real and imaginary parts of variance 1/2 each: the complex coefficients have variance 1.
    z = generator.standard_normal((*shape, 2)).view(np.complex128)[..., 0]
    z *= _spectrum(shape, alpha, tau) * np.sqrt(0.5)
    return np.ascontiguousarray(np.fft.ifftn(z).real)
