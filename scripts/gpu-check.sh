#!/usr/bin/env bash
# Everything that needs a GPU, in one run of at most ten minutes and without a network: build, tests/gpu, the
# native kernel tests alone and under compute-sanitizer, and the quick benchmarks.
#
#   scripts/gpu-check.sh OUTDIR
#
# Writes to OUTDIR: summary.txt (one line per step: pass, FAIL or skip), a log per step, junit.xml, and a
# JSON file per benchmark. Exit status 1 if a step failed or there is no GPU. Touches nothing else: the
# package is built and installed in a temporary folder.
#
# Needs, for $PYTHON (default python3): numpy, scipy, cupy, pytest, hypothesis, threadpoolctl,
# scikit-build-core, pybind11, cmake, ninja; and nvcc on PATH or in /usr/local/cuda/bin.
set -uo pipefail

if [ $# -ne 1 ]; then
    echo "usage: scripts/gpu-check.sh OUTDIR" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
budget=${GPU_CHECK_SECONDS:-580} # of wall time, for all steps together
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PATH="$PATH:/usr/local/cuda/bin"
failed=0
: >"$out/summary.txt"

note() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# step NAME SECONDS COMMAND...: runs it with a log, a time limit and a line in the summary.
# Exit statuses in $tolerated (space separated) count as passed.
tolerated=""
step() {
    local name=$1 limit=$2 begin=$SECONDS left=$((budget - SECONDS)) rc=0
    shift 2
    if [ "$left" -lt 5 ]; then
        note "FAIL  $name: no time left"
        failed=1
        return 1
    fi
    if [ "$limit" -gt "$left" ]; then limit=$left; fi
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
    local took=$((SECONDS - begin))
    if [ "$rc" -eq 0 ]; then
        note "pass  $name (${took} s)"
    elif [[ " $tolerated " == *" $rc "* ]]; then
        note "pass  $name (${took} s, exit status $rc)"
    else
        note "FAIL  $name (${took} s, exit status $rc)"
        tail -n 15 "$out/$name.log" | sed 's/^/      /'
        failed=1
        return 1
    fi
}

# --- is there anything to check? -------------------------------------------------------------------------
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >"$out/gpu.log" 2>&1 || ! grep -q '^GPU' "$out/gpu.log"; then
    note "FAIL  no GPU: nvidia-smi is missing or lists none"
    exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader |
    tee -a "$out/summary.txt"
if ! command -v nvcc >/dev/null; then
    note "FAIL  nvcc is neither on PATH nor in /usr/local/cuda/bin"
    exit 1
fi
{
    nvcc --version
    "$python" --version
    "$python" -m pip list
} >"$out/versions.log" 2>&1

# --- build, once, for Python and for the native tests -------------------------------------------------------
site=$work/site
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
if ! step build 300 "$python" -m pip install --no-index --no-build-isolation --no-deps --no-cache-dir \
    --target "$site" -C build-dir="$work/build" -C cmake.define.AITKEN_CUDA=ON \
    -C cmake.define.AITKEN_TESTS=ON "$root"; then
    exit 1
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
cd "$work" || exit 1 # so that nothing is imported from the checkout

step import 60 "$python" -c '
import aitken
from aitken import _loader
print(aitken.info())
status = _loader.cuda_status()
raise SystemExit(0 if status.available else f"the GPU path is off: {status.reason}")
' || exit 1

# --- tests ----------------------------------------------------------------------------------------------------
tests=$work/build/aitken_cuda_tests
step native 120 "$tests"
# As on a machine without GPU: nothing of it may be skipped here.
step pytest 200 "$python" -m pytest "$root/tests/gpu" -c "$root/pyproject.toml" --rootdir "$root" \
    -p no:cacheprovider --junitxml "$out/junit.xml"
if grep -q ' skipped' "$out/pytest.log"; then
    note "note  pytest skipped some tests; see pytest.log"
fi

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        # The kernels one by one; whole solves launch too much for a tool that slows kernels a hundredfold.
        if ! compute-sanitizer --tool "$tool" "$tests" device_errors >"$out/$tool.log" 2>&1 &&
            grep -q 'Device not supported' "$out/$tool.log"; then
            note "skip  $tool: compute-sanitizer does not support this device or its driver"
            continue
        fi
        step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" device_kernels
    done
else
    note "skip  memcheck, racecheck, initcheck: compute-sanitizer is not installed"
fi

# --- benchmarks: every peer is missing here, which is exit status 3 ------------------------------------------
tolerated=3
for bench in "$root"/bench/[!_]*.py; do
    name=$(basename "$bench" .py)
    if [ "$name" = krylov ]; then # it has no --device cuda yet
        note "skip  bench-krylov: the linear solvers have no GPU benchmark"
        continue
    fi
    if grep -q 'harness.arguments(' "$bench"; then # the others only read results
        step "bench-$name" 90 "$python" "$bench" --device cuda --quick --json "$out/bench-$name.json"
    fi
done

if [ "$failed" -eq 0 ]; then note "all passed in $SECONDS s"; else note "some steps FAILED; $SECONDS s"; fi
exit "$failed"
