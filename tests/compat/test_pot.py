"""POT's own tests of the functions that `aitken.compat.ot` replaces, run against it.

They are not part of this repository: set AITKEN_POT_CHECKOUT to a checkout of POT (the folder that holds
``test/conftest.py``) of the installed version.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = os.environ.get("AITKEN_POT_CHECKOUT", "")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="AITKEN_POT_CHECKOUT names no checkout of POT"),
]

# file: names of tests (all their parameters)
TESTS = {
    "test_bregman.py": [
        "test_sinkhorn",
        "test_convergence_warning",
        "test_not_implemented_method",
        "test_nan_warning",
        "test_sinkhorn_stabilization",
        "test_sinkhorn_multi_b",
        "test_sinkhorn_backends",
        "test_sinkhorn2_backends",
        "test_sinkhorn2_gradients",
        "test_sinkhorn_empty",
        "test_sinkhorn_variants",
        "test_sinkhorn_variants_dtype_device",
        "test_sinkhorn2_variants_dtype_device",
        "test_sinkhorn_variants_multi_b",
        "test_sinkhorn2_variants_multi_b",
        "test_sinkhorn_variants_log",
        "test_sinkhorn_variants_log_multib",
        "test_stabilized_vs_sinkhorn_multidim",
        "test_implemented_methods",
        "test_sinkhorn_warmstart",
    ],
    "test_solvers.py": [
        "test_solve",
        "test_solve_last_step",
        "test_solve_detach",
        "test_solve_envelope",
        "test_solve_grid",
        "test_solve_not_implemented",
        "test_solve_sample",
        "test_solve_sample_lazy",
        "test_solve_sample_lazy_emd",
        "test_solve_sample_lazy_emd_large",
        "test_solve_sample_geomloss",
        "test_solve_sample_methods",
        "test_zero_mass_solvers",
        "test_solve_sample_debias",
        "test_solve_sample_bsp",
        "test_solvers_bad_method",
        "test_solve_sample_scaler",
        "test_solve_sample_NotImplemented",
    ],
    "batch/test_solve_batch.py": [
        "test_solve_batch",
        "test_metrics",
        "test_gradients_torch",
        "test_backend",
    ],
}


@pytest.mark.parametrize("file", TESTS)
def test_pot_s_own_tests_pass(file, tmp_path):
    path = Path(CHECKOUT) / "test" / file
    if not path.exists():
        pytest.skip(f"the checkout has no test/{file}")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    paths = [str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    present = [name for name in TESTS[file] if re.search(rf"^def {name}\(", path.read_text("utf-8"), re.M)]
    assert present, f"test/{file} has none of the tests that are run"  # else all of this folder would be
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "tests.compat.pot_plugin"),
            *("-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini")),
            *(f"{path}::{name}" for name in present),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed.group(1)) >= len(present) // 2
