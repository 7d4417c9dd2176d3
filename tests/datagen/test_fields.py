"""Random streams and Gaussian random fields: independence of the order of drawing, law, definition."""

from __future__ import annotations

import numpy as np
import pytest

from aitken.datagen import gaussian_random_field, stream


def test_streams_depend_on_seed_and_sample_alone():
    first = [stream(5, i).standard_normal(4) for i in range(6)]
    again = [stream(5, i).standard_normal(4) for i in reversed(range(6))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({row.tobytes() for row in first}) == 6
    assert stream(5, 6).random() != stream(6, 5).random()
    assert stream(2**64 - 1, 2**64 - 1).random() < 1


@pytest.mark.parametrize(("seed", "i"), [(-1, 0), (2**64, 0), (0, -1), (0.5, 0), ("a", 0), (True, 0)])
def test_bad_seeds(seed, i):
    with pytest.raises((TypeError, ValueError), match=r"`(seed|i)`"):
        stream(seed, i)


def dense_field(generator, shape, alpha, tau):
    """The definition, as a sum over modes: slow, without an FFT."""
    d = len(shape)
    z = generator.standard_normal((*shape, 2))
    z = (z[..., 0] + 1j * z[..., 1]) / np.sqrt(2)
    grids = np.indices(shape)
    total = np.zeros(shape, dtype=complex)
    for mode in np.ndindex(*shape):
        k = [m if m < (s + 1) // 2 else m - s for m, s in zip(mode, shape, strict=True)]
        if any(k):
            k2 = 4 * np.pi**2 * sum(v * v for v in k) + tau**2
            phase = sum(2j * np.pi * v * g / s for v, g, s in zip(k, grids, shape, strict=True))
            total += np.sqrt(2) * tau ** (alpha - d / 2) * k2 ** (-alpha / 2) * z[mode] * np.exp(phase)
    return total.real


@pytest.mark.parametrize("shape", [(8, 8), (6, 9), (4, 5, 6)])
def test_field_is_its_definition(shape):
    field = gaussian_random_field(stream(1, 2), shape, 2.5, 7.0)
    np.testing.assert_allclose(field, dense_field(stream(1, 2), shape, 2.5, 7.0), rtol=1e-11, atol=1e-13)
    assert abs(field.mean()) < 1e-14


def test_pointwise_variance_and_periodic_covariance():
    """Against the sum over modes, from 4000 fields; standard errors are below a fiftieth."""
    s, alpha, tau = 16, 2.5, 7.0
    fields = np.array([gaussian_random_field(stream(0, i), (s, s), alpha, tau) for i in range(4000)])
    k = np.fft.fftfreq(s, 1 / s)
    k2 = k[:, None] ** 2 + k**2
    power = tau ** (2 * alpha - 2) * (4 * np.pi**2 * k2 + tau**2) ** -alpha
    power[0, 0] = 0
    expected = np.fft.ifft2(power).real * s * s
    for shift in ((0, 0), (1, 0), (0, 3), (2, 2)):
        moved = np.roll(fields, shift, axis=(1, 2))
        assert (fields * moved).mean() == pytest.approx(expected[shift], abs=0.02 * expected[0, 0])


@pytest.mark.parametrize(
    ("shape", "alpha", "tau"), [((8, 0), 2, 3), ((8, 8), 0, 3), ((8, 8), 2, -1), ((8.0, 8), 2, 3)]
)
def test_bad_field_arguments(shape, alpha, tau):
    with pytest.raises((TypeError, ValueError), match=r"`(shape|alpha|tau)`"):
        gaussian_random_field(stream(0, 0), shape, alpha, tau)
