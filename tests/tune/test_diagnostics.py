"""The bound on SOR's sweeps that regret bounds rest on."""

from __future__ import annotations

import numpy as np
import pytest

from aitken.linalg import sor
from aitken.tune import near_asymptotic_bound
from tests.oracles import relaxation as oracle
from tests.relaxation import problems

OMEGAS = [1.0, 1.2, 1.4, 1.7, 1.9]


def test_rates_are_youngs_and_the_bound_holds():
    A = problems.laplacian(10)
    for seed in range(4):
        b = np.random.default_rng(seed).normal(size=100)
        sweeps = [sor(A, b, omega=w, norm_ref="r0", order="natural").nit for w in OMEGAS]
        r = near_asymptotic_bound(A, OMEGAS, sweeps)
        np.testing.assert_allclose(r.rho, [oracle.sor_rate(w, np.cos(np.pi / 11)) for w in OMEGAS], rtol=1e-6)
        assert (r.bound >= sweeps).all()
        assert (r.bound[:3] <= 2 * np.array(sweeps)[:3]).all()
        assert 0 < r.tau < 0.2  # 1.7 is near the double eigenvalue: the slowest to become asymptotic


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, r"`A` has shape \(2, 3\)", {"A": np.ones((2, 3))}),
        (ValueError, "`A` has a zero on the diagonal of row 1", {"A": np.array([[1.0, 2], [2, 0]])}),
        (ValueError, "`omegas` must lie between 0 and 2", {"omegas": [1.0, 2.0]}),
        (ValueError, "`sweeps` must hold 2", {"sweeps": [3]}),
        (ValueError, "`sweeps` must hold 2", {"sweeps": [1, 5]}),
        (ValueError, "`tol`", {"tol": 1.0}),
    ],
)
def test_bad_input_is_named(error, match, change):
    given = {"A": np.eye(2), "omegas": [1.0, 1.5], "sweeps": [4, 5], "tol": 1e-6} | change
    with pytest.raises(error, match=match):
        near_asymptotic_bound(given["A"], given["omegas"], given["sweeps"], tol=given["tol"])
