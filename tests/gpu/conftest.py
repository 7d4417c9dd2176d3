"""What the GPU tests share: CuPy, or the reason why it cannot be used."""

from typing import Any

import pytest

from aitken import _loader


@pytest.fixture(scope="session")
def cupy() -> Any:
    """The CuPy module; skips with the loader's own reason where the GPU path is off."""
    status = _loader.cuda_status()
    if not status.available:
        pytest.skip(f"the GPU path is off: {status.reason}")
    return pytest.importorskip("cupy")
