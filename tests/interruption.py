"""Ctrl-C for a long call, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 0.2  # seconds from the signal to KeyboardInterrupt

needs_posix = pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child needs POSIX")

_CHILD = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the parent is a background job
{setup}
print("ready", flush=True)
try:
{call}
except KeyboardInterrupt:
    word = "interrupted"
else:
    word = "finished"
now = time.monotonic()
{after}
print(word, now, flush=True)
"""


def environment() -> dict[str, str]:
    """This process's, with the modules that it sees."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *[p for p in sys.path if p]])}


def check_ctrl_c(setup: str, call: str, *, after: str = "", wait: float = 0.7) -> None:
    """The call ends within 0.2 s of a signal sent `wait` seconds after it began, as KeyboardInterrupt.

    `setup` runs before it, `after` behind it (assertions).
    """
    body = "\n".join("    " + line for line in call.splitlines())
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _CHILD.format(setup=setup, call=body, after=after)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        time.sleep(wait)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert out.split(), err
    word, when = out.split()
    assert word == "interrupted", err
    assert float(when) - sent < WITHIN
