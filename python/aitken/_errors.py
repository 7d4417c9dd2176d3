"""Every warning and exception type of aitken that Python code can see."""

from __future__ import annotations


class ConvergenceWarning(UserWarning):
    """A solver stopped before its tolerance was met; the message says by how much and what to try."""


class RecoveryWarning(UserWarning):
    """The data may not determine the answer; the message says what is missing."""


class CudaError(RuntimeError):
    """A CUDA call failed.

    Parameters
    ----------
    call : str
        The call that failed, e.g. ``"cudaMalloc"``.
    code : int
        The CUDA error number.
    text : str
        The runtime's own description.
    """

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(call, code, text)  # all three in args, so that the error pickles
        self.call = call
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.call} failed with CUDA error {self.code}: {self.text}"


class CudaUnavailableError(RuntimeError):
    """A GPU array was passed but the GPU path is off; the message says why and how to switch it on."""


__all__ = ["ConvergenceWarning", "CudaError", "CudaUnavailableError", "RecoveryWarning"]
