"""What a running solve tells its user: callbacks, one log line per iteration, a bar."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from ._result import Result

logger = logging.getLogger("aitken")


class Monitor:
    """Turns native progress reports into the user's callback, log lines and a tqdm bar.

    Parameters
    ----------
    solver : str
        Name in log lines and on the bar.
    callback : callable or None
        Called as ``callback(intermediate_result)``; raising StopIteration ends the solve.
    verbose : int
        1 logs one aligned line per report through ``logging`` (logger ``"aitken"``, level INFO).
    progress : bool
        Show a bar over the decades of the error still to go, where tqdm is installed.
    tol : float
        The error at which the bar is full.
    columns : mapping of str to str
        Field of the report -> format of its column.
    """

    def __init__(
        self,
        solver: str,
        callback: Callable[..., Any] | None,
        verbose: int,
        progress: bool,
        tol: float,
        columns: Mapping[str, str],
    ) -> None:
        self.solver, self.callback, self.verbose, self.tol = solver, callback, verbose, tol
        self.columns = columns
        self.count = 0
        self.start: float | None = None
        self.bar: Any = None
        if progress:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                logger.warning("progress=True needs tqdm; pip install 'aitken[progress]'")
            else:
                self.bar = tqdm(
                    total=1.0, desc=solver, bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}"
                )

    @property
    def silent(self) -> bool:
        """Whether there is nobody to tell, so that native code need not call at all."""
        return self.callback is None and not self.verbose and self.bar is None

    def __call__(self, report: dict[str, Any]) -> bool:
        """Pass one report on; True asks the solver to stop."""
        self.count += 1
        report = {"nit": self.count, **report}  # a solver that counts differently says so itself
        if self.verbose:
            self._log(report)
        if self.bar is not None:
            self._advance(report["err"])
        if self.callback is None:
            return False
        try:
            self.callback(Result(**report))
        except StopIteration:
            return True
        return False

    def _log(self, report: dict[str, Any]) -> None:
        width = {
            name: max(len(name), len(f"{0:{form}}") if form[-1] != "s" else 8) + 2
            for name, form in self.columns.items()
        }
        if self.count == 1:
            logger.info("%s%5s%s", self.solver, "nit", "".join(f"{n:>{w}}" for n, w in width.items()))
        row = "".join(f"{report[n]:{f}}".rjust(width[n]) for n, f in self.columns.items())
        logger.info("%s%5d%s", self.solver, report["nit"], row)

    def _advance(self, err: float) -> None:
        if not (err > 0 and math.isfinite(err)):
            return
        if self.start is None:
            self.start = max(err, 10 * self.tol)
        done = math.log(self.start / err) / math.log(self.start / self.tol)
        self.bar.n = max(self.bar.n, min(1.0, done))
        self.bar.set_postfix_str(f"err {err:.1e}, {self.count} it")

    def close(self, converged: bool = False) -> None:
        """Finish the bar; reports carry the error before a step, so only the caller knows that it is full."""
        if self.bar is not None:
            if converged:
                self.bar.n = 1.0
                self.bar.refresh()
            self.bar.close()
