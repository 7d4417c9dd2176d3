"""A forked child of a process that has used its OpenMP threads finishes, and gets the same numbers."""

import os
import subprocess
import sys

import pytest

from aitken import _core

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

CODE = """
import os, sys, hashlib
from aitken import _core, get_num_threads

def work():
    return hashlib.sha256(_core.philox_uniform(1, 2, 3, 4, 1 << 20).tobytes()).hexdigest()

def child():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.write(write, f"{get_num_threads()} {work()}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read().split()
    assert os.waitpid(pid, 0)[1] == 0
    return answer

use_before = sys.argv[1] == "used"
mine = work() if use_before else None
threads, digest = child()
assert digest == (mine or work()), "child and parent differ"
print(threads, get_num_threads())
"""


def run(mode: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CODE, mode],
        capture_output=True,
        text=True,
        timeout=60,  # a hang is the failure this test is about
        env={**os.environ, "OMP_NUM_THREADS": "3"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_child_of_a_used_pool_runs_serially():
    expected = "3" if _core.build_info()["openmp"] else "1"
    assert run("used") == ["1", expected]


def test_child_of_an_unused_pool_keeps_its_threads():
    expected = "3" if _core.build_info()["openmp"] else "1"
    assert run("unused") == [expected, expected]
