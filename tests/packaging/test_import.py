"""What `import aitken` brings along, what `aitken.info()` says, and how the compiled runtime behaves."""

import importlib.metadata
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import aitken
from aitken import _core, _loader


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_optional_library():
    loaded = json.loads(run("import sys, json, aitken; print(json.dumps(list(sys.modules)))"))
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {
        "cupy",
        "cupyx",
        "torch",
        "jax",
        "sklearn",
        "dask",
        "matplotlib",
        "ot",
        "pandas",
        "numba",
    }
    assert not {"aitken.ot", "aitken.datasets", "aitken._cuda"} & set(loaded)


def test_import_of_ot_loads_no_optional_library():
    loaded = json.loads(run("import sys, json, aitken.ot; print(json.dumps(list(sys.modules)))"))
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"cupy", "cupyx", "torch", "jax", "sklearn", "ot", "matplotlib", "tqdm"}
    assert "aitken._cuda" not in loaded


def test_import_of_linalg_loads_no_optional_library():
    code = "import sys, json, aitken.linalg; print(json.dumps(list(sys.modules)))"
    roots = {name.partition(".")[0] for name in json.loads(run(code))}
    assert not roots & {
        "cupy",
        "cupyx",
        "torch",
        "jax",
        "pyamg",
        "h5py",
        "sklearn",
        "distributed",
        "matplotlib",
    }
    assert "aitken._cuda" not in json.loads(run(code))


@pytest.mark.slow
def test_import_time():
    measure = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    base, ours = (
        min(float(run(measure.format(what))) for _ in range(7))
        for what in ("import numpy, scipy.sparse", "import numpy, scipy.sparse, aitken")
    )
    assert ours - base < 0.15, (ours, base)


def test_version_is_the_distribution_s():
    try:
        installed = importlib.metadata.version("aitken")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("aitken runs from a source tree, not from an installation")
    assert aitken.__version__ == installed
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", aitken.__version__)


def test_info_is_complete_and_prints():
    facts = aitken.info()
    assert facts["aitken"] == aitken.__version__
    assert facts["simd"]["level"] in facts["simd"]["supported"]
    assert facts["simd"]["supported"][0] == "base"
    assert facts["threads"]["used"] >= 1
    assert facts["gpu"]["available"] or len(facts["gpu"]["reason"]) > 20
    text = repr(facts)
    for word in ("simd", "level", "gpu", "reason", "lapack", facts["versions"]["numpy"]):
        assert word in text
    json.dumps(facts)  # plain data


def test_lapack_came_from_scipy():
    facts = _core.lapack_info()
    assert facts["int_bits"] in (32, 64)
    assert _loader.lapack_refused == {}
    assert {name for name, entry in facts["routines"].items() if entry["loaded"]} >= {
        "dgemm",
        "dpotrf",
        "dsyevd",
    }


def test_load_lapack_refuses_a_wrong_capsule():
    from scipy.linalg import cython_blas, cython_lapack

    capsules = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}
    try:
        refused = _core.load_lapack({"dgeqrf": capsules["dgemm"]})
        assert list(refused) == ["dgeqrf"]
        assert "dgeqrf" in refused["dgeqrf"]
        assert "void (char *" in refused["dgeqrf"]
        assert not _core.lapack_info()["routines"]["dgeqrf"]["loaded"]
        with pytest.raises(TypeError, match="dgemm"):
            _core.load_lapack({"dgemm": 3})
    finally:
        assert _core.load_lapack({"dgeqrf": capsules["dgeqrf"]}) == {}


@pytest.mark.parametrize("level", _core.simd_levels_supported())
def test_simd_override(level):
    assert run("import aitken; print(aitken.info()['simd']['level'])", AITKEN_SIMD=level).strip() == level


def test_simd_override_is_checked():
    code = """
import aitken
try:
    aitken.info()
except ValueError as error:
    print(error)
"""
    assert "mmx" in run(code, AITKEN_SIMD="mmx")


def test_submodules_and_errors():
    with pytest.raises(AttributeError, match="no_such_thing"):
        aitken.no_such_thing  # noqa: B018
    assert {"ot", "datasets", "info"} <= set(dir(aitken))
    error = pickle.loads(pickle.dumps(aitken.CudaError("cudaMalloc", 2, "out of memory")))
    assert (error.call, error.code, error.text) == ("cudaMalloc", 2, "out of memory")
    assert str(error) == "cudaMalloc failed with CUDA error 2: out of memory"


def test_philox_is_a_pure_function_of_its_counter():
    u = _core.philox_uniform(seed=5, purpose=1, batch=2, iteration=3, n=100_000)
    assert u.min() > 0.0
    assert u.max() < 1.0
    assert np.array_equal(u[:10], _core.philox_uniform(5, 1, 2, 3, 10))
    # First word pair of the published block for a zero counter and key.
    bits = (0x6627E8D5 << 32 | 0xE169C58D) >> 12
    assert _core.philox_uniform(0, 0, 0, 0, 1)[0] == (bits + 0.5) * 2.0**-52
    before = aitken.get_num_threads()
    try:
        for n in (1, 2, 3):
            aitken.set_num_threads(n)
            assert np.array_equal(u, _core.philox_uniform(5, 1, 2, 3, 100_000))
    finally:
        aitken.set_num_threads(0)
    assert aitken.get_num_threads() == before


def test_thread_settings():
    try:
        aitken.set_num_threads(1)
        assert aitken.get_num_threads() == 1
        for bad, kind in ((-2, ValueError), (1.5, TypeError), (True, TypeError)):
            with pytest.raises(kind, match="`n_threads`"):
                aitken.set_num_threads(bad)
    finally:
        aitken.set_num_threads(-1)


@pytest.mark.skipif(not _core.build_info()["openmp"], reason="built without OpenMP")
def test_openmp_environment_and_threadpoolctl():
    pytest.importorskip("threadpoolctl")
    code = """
import aitken, threadpoolctl
print(aitken.get_num_threads(), end=" ")
with threadpoolctl.threadpool_limits(2, user_api="openmp"):
    print(aitken.get_num_threads(), end=" ")
    aitken.set_num_threads(3)
    print(aitken.get_num_threads(), end=" ")
print(aitken.get_num_threads())
"""
    assert run(code, OMP_NUM_THREADS="4").split() == ["4", "2", "2", "3"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this platform")
def test_default_threads_follow_affinity():
    cpu = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); import aitken; print(aitken.get_num_threads())"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout.strip() == "1", done.stderr
