"""Batches of constrained problems for CuPy arrays, as `aitken._core` has them for NumPy arrays.

Work runs on CuPy's current stream of the arrays' device, and its memory comes from CuPy's pool. Nothing is
waited for: arrays are complete in the order of that stream. `n_threads` means nothing on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._cuda_place import cuda_place


def _address(name: str, x: Any, like: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> int:
    """Where the CuPy array `x` lies; raise unless contiguous, beside `like`, of this shape and dtype."""
    import cupy

    if not isinstance(x, cupy.ndarray):
        raise TypeError(f"`{name}` must be a cupy.ndarray, not {type(x).__name__}")
    if x.device.id != like.device.id:
        raise TypeError(f"`{name}` is on CUDA device {x.device.id} but `X0` is on device {like.device.id}")
    if x.dtype != dtype:
        raise TypeError(f"`{name}` is {x.dtype}; {np.dtype(dtype)} is needed")
    if x.shape != shape:
        raise ValueError(f"`{name}` has shape {x.shape}; {shape} is needed")
    if not x.flags.c_contiguous:
        raise ValueError(f"`{name}` must be contiguous; its strides are {x.strides}")
    return int(x.data.ptr)


class BatchNewton:
    """Records of many small constrained problems on a GPU, and the steps on them: `_core.BatchNewton`.

    Parameters
    ----------
    numbers, tags : cupy.ndarray of float64 and int32, shapes (count, numbers), (count, tags)
        The records, whose sizes `_core.batch_layout` gives.
    n, m : int
        Variables and rows.
    xl, xu : cupy.ndarray, shape (count, n) or (1, n)
        Bounds.
    lower, upper : cupy.ndarray, shape (count, m) or (1, m)
        Limits of rows.
    options : dict
        As for the CPU's class.

    Raises
    ------
    TypeError, ValueError
        For arrays of another kind, device, dtype, shape or layout; by its methods too.
    """

    def __init__(
        self,
        numbers: Any,
        tags: Any,
        n: int,
        m: int,
        xl: Any,
        xu: Any,
        lower: Any,
        upper: Any,
        options: dict[str, Any],
    ) -> None:
        self._held = (numbers, tags, xl, xu, lower, upper)
        self._like, self._n, self._m, self._options = numbers, n, m, options
        count = self._count = int(numbers.shape[0])
        sides, limits = int(xl.shape[0]), int(lower.shape[0])
        self._batch = (
            _address("numbers", numbers, numbers, (count, int(numbers.shape[1]))),
            _address("tags", tags, numbers, (count, int(tags.shape[1])), np.int32),
            count,
            n,
            m,
            _address("bounds", xl, numbers, (1 if sides == 1 else count, n)),
            _address("bounds", xu, numbers, (sides, n)),
            _address("lower", lower, numbers, (1 if limits == 1 else count, m)),
            _address("upper", upper, numbers, (limits, m)),
            sides,
            limits,
        )

    def _rows(self, name: str, x: Any) -> int:
        return _address(name, x, self._like, (len(x),), np.int32)

    def _values(self, problem: Any, f: Any, g: Any, c: Any, j: Any) -> tuple[int, ...]:
        a, n, m = len(problem), self._n, self._m
        return (
            self._rows("problem", problem),
            a,
            _address("fun", f, self._like, (a,)),
            _address("jac", g, self._like, (a, n)),
            _address("cons", c, self._like, (a, m)),
            _address("cons_jac", j, self._like, (a, m, n)),
        )

    def begin(self, starts: Any, lam: Any) -> None:
        """Make the records from starts (count, n) and multipliers (count, m) or None."""
        x = _address("X0", starts, self._like, (self._count, self._n))
        v = 0 if lam is None else _address("lam0", lam, self._like, (self._count, self._m))
        with cuda_place(self._like) as (module, where):
            module.batch_begin(where, self._batch, x, v, self._options)

    def points(self, problem: Any) -> Any:
        """The next points (a, n) of the problems listed."""
        import cupy

        out = cupy.empty((len(problem), self._n))
        listed = self._rows("problem", problem)
        with cuda_place(self._like) as (module, where):
            module.batch_points(where, self._batch, listed, len(problem), int(out.data.ptr))
        return out

    def hessian_points(self, problem: Any) -> tuple[Any, Any]:
        """Points (a, n) and multipliers (a, m) at which Hessians are due."""
        import cupy

        x, v = cupy.empty((len(problem), self._n)), cupy.empty((len(problem), self._m))
        listed = self._rows("problem", problem)
        with cuda_place(self._like) as (module, where):
            module.batch_hessian_points(
                where, self._batch, listed, len(problem), int(x.data.ptr), int(v.data.ptr)
            )
        return x, v

    def judge(self, problem: Any, f: Any, g: Any, c: Any, j: Any) -> Any:
        """Take the values at the next points: what each problem then waits for, uint8 (a,)."""
        import cupy

        values = self._values(problem, f, g, c, j)
        wanted = cupy.empty(len(problem), dtype=np.uint8)
        with cuda_place(self._like) as (module, where):
            module.batch_judge(where, self._batch, values, self._options, int(wanted.data.ptr))
        return wanted

    def direct(
        self, problem: Any, f: Any, g: Any, c: Any, j: Any, rows: Any, hessian: Any, wanted: Any
    ) -> None:
        """Solve the KKT systems of the rows listed, with Hessians (len(rows), n, n) or None."""
        values = self._values(problem, f, g, c, j)
        listed, n = self._rows("rows", rows), self._n
        h = 0 if hessian is None else _address("hess", hessian, self._like, (len(rows), n, n))
        out = _address("wanted", wanted, self._like, (len(problem),), np.uint8)
        with cuda_place(self._like) as (module, where):
            module.batch_direct(where, self._batch, values, listed, len(rows), h, self._options, out)

    def conclude(self, problem: Any, f: Any, g: Any, c: Any, j: Any, status_of_others: int) -> None:
        """End every problem; certificates of the problems listed are taken from the values at their x."""
        values = self._values(problem, f, g, c, j)
        with cuda_place(self._like) as (module, where):
            module.batch_conclude(where, self._batch, values, self._options, status_of_others)


def solve_kkt_batch(
    h: Any, d: Any, j: Any, sigma: Any, rx: Any, rc: Any, rs: Any, shift: Any, regular: Any, xi: float
) -> tuple[Any, Any, Any, Any, Any]:
    """Solve many KKT systems, as the CPU's function of that name.

    Parameters
    ----------
    h, d, j, sigma, rx, rc, rs, shift, regular : cupy.ndarray of float64
        Shapes (b, n, n), (b, n), (b, m, n), (b, m), (b, n), (b, m), (b, m), (b,), (b,).
    xi : float
        The first shift.

    Returns
    -------
    dx, dlam, shift, regular, attempts : cupy.ndarray
        ``attempts < 0`` where no shift did.

    Raises
    ------
    TypeError, ValueError
        As `BatchNewton`.
    """
    import cupy

    b, n, m = int(h.shape[0]), int(h.shape[1]), int(j.shape[1])
    shapes = ((b, n, n), (b, n), (b, m, n), (b, m), (b, n), (b, m), (b, m))
    names = ("h", "d", "j", "sigma", "rx", "rc", "rs")
    given = [
        _address(name, x, h, shape)
        for name, x, shape in zip(names, (h, d, j, sigma, rx, rc, rs), shapes, strict=True)
    ]
    t, r = cupy.array(shift), cupy.array(regular)
    dx, dlam, attempts = cupy.empty((b, n)), cupy.empty((b, m)), cupy.empty(b, dtype=np.int32)
    out = [
        _address(name, x, h, x.shape)
        for name, x in (("dx", dx), ("dlam", dlam), ("shift", t), ("regular", r))
    ]
    with cuda_place(h) as (module, where):
        module.solve_kkt_batch(where, (b, n, m), (*given, *out, int(attempts.data.ptr)), xi)
    return dx, dlam, t, r, attempts


__all__ = ["BatchNewton", "solve_kkt_batch"]
