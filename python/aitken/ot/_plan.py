"""A transport plan that is never stored: rows are recomputed from potentials when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from . import _native
from ._point_cost import PointCost


class LazyPlan:
    """The plan ``P_ij = scale_i exp((x_i + y_j - M_ij) / reg) scale_j + extra_i extra_j`` by formula.

    Takes O(n + m) memory beyond the cost. Products cost one pass over the cost each; between clouds of
    points all vectors share it.

    Parameters
    ----------
    cost : array of shape (n, m), or PointCost
        The cost, rows contiguous.
    x, y : array of shape (n,), (m,)
        Entropy-form potentials; -inf for bins without mass.
    reg : float
        Regularisation.
    mass : float
        Total mass of the plan.
    n_threads : int
        Threads of the passes, 0 for the default.
    scale : (array, array), optional
        Row and column factors (rounding).
    extra : (array, array), optional
        Rank-one addition (rounding).
    transposed : bool
        The plan is the transpose of this formula.
    """

    def __init__(
        self,
        cost: Any,
        x: Any,
        y: Any,
        reg: float,
        *,
        mass: float = 1.0,
        n_threads: int = 0,
        scale: tuple[Any, Any] | None = None,
        extra: tuple[Any, Any] | None = None,
        transposed: bool = False,
    ) -> None:
        self._cost, self._x, self._y, self._reg = cost, x, y, reg
        self._mass, self._n_threads = mass, n_threads
        self._scale, self._extra, self._transposed = scale, extra, transposed
        n, m = cost.shape
        self.shape = (m, n) if transposed else (n, m)
        self.dtype = cost.dtype

    @property
    def T(self) -> LazyPlan:
        """The transposed plan, lazy as well."""
        view = LazyPlan.__new__(LazyPlan)
        view.__dict__.update(self.__dict__)
        view.shape = self.shape[::-1]
        if isinstance(self._cost, PointCost):  # rows and columns differ in name alone
            view._cost, view._x, view._y = self._cost.T, self._y, self._x
        else:
            view._transposed = not self._transposed
        return view

    def _times(self, v: Any, transposed: bool) -> Any:
        native, xp = _native.of(self._cost)
        left, right = (1, 0) if transposed else (0, 1)
        v = xp.ascontiguousarray(v, dtype=xp.float64)
        inner = v if self._scale is None else v * self._scale[right]
        out = xp.empty(self._cost.shape[left], dtype=xp.float64)
        native.ot_plan_times(
            self._cost,
            self._reg,
            self._x,
            self._y,
            transposed,
            xp.ascontiguousarray(inner),
            out,
            self._n_threads,
        )
        if self._scale is not None:
            out *= self._scale[left]
        if self._extra is not None:
            out += self._extra[left] * (self._extra[right] @ v)
        return out * self._mass

    def __matmul__(self, other: Any) -> Any:
        """``plan @ v`` for a vector or a matrix of vectors, float64."""
        xp = _native.of(self._cost)[1]
        other = _validate.as_float_array("other", other, ndim=(1, 2), dtype=np.float64, finite=False, xp=xp)
        if other.shape[0] != self.shape[1]:
            raise ValueError(f"`other` has shape {other.shape}; the first length must be {self.shape[1]}")
        if other.ndim == 1:
            return self._times(other, self._transposed)
        if other.shape[1] == 0:
            return xp.zeros((self.shape[0], 0))
        if isinstance(self._cost, PointCost):
            out = xp.empty((other.shape[1], self.shape[0]))
            _native.of(self._cost)[0].ot_plan_times(
                self._cost,
                self._reg,
                self._x,
                self._y,
                False,
                xp.ascontiguousarray(other.T),
                out,
                self._n_threads,
            )
            return out.T * self._mass
        return xp.stack([self._times(col, self._transposed) for col in other.T], axis=1)

    def __rmatmul__(self, other: Any) -> Any:
        """``v @ plan``."""
        xp = _native.of(self._cost)[1]
        other = _validate.as_float_array("other", other, ndim=(1, 2), dtype=np.float64, finite=False, xp=xp)
        return (self.T @ other.T).T

    __array_ufunc__ = None  # numpy: leave v @ plan to __rmatmul__

    def rows(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop`` as a dense block of the cost's dtype."""
        n = self.shape[0]
        start = _validate.integer("start", start, minimum=0, maximum=n)
        stop = _validate.integer("stop", stop, minimum=start, maximum=n)
        if self._transposed:
            return self.T._columns(start, stop).T
        native, xp = _native.of(self._cost)
        out = xp.empty((stop - start, self.shape[1]), dtype=self.dtype)
        if stop > start:
            native.ot_plan_rows(self._cost, self._reg, self._x, self._y, start, out, self._n_threads)
        return self._finish(out, slice(start, stop), slice(None))

    def __getitem__(self, key: Any) -> Any:
        """``plan[rows]`` or ``plan[rows, columns]``, rows a number or a slice: computes whole rows."""
        rows, *columns = key if isinstance(key, tuple) and key else (key,)
        if len(columns) > 1:
            raise IndexError(f"a plan has two axes; got {len(columns) + 1} indices")
        if isinstance(rows, slice):
            taken = range(self.shape[0])[rows]
            low, high = (min(taken[0], taken[-1]), max(taken[0], taken[-1]) + 1) if taken else (0, 0)
            block = self.rows(low, high)[:: taken.step]
        else:
            i, n = _validate.integer("key", rows), self.shape[0]
            if not -n <= i < n:
                raise IndexError(f"`key` is {i}; the plan has {n} rows")
            block = self.rows(i % n, i % n + 1)[0]
        return block[(..., *columns)]

    def _columns(self, start: int, stop: int) -> Any:
        xp = _native.of(self._cost)[1]
        with np.errstate(under="ignore"):
            z = (self._x[:, None] + self._y[None, start:stop] - self._cost[:, start:stop]) / self._reg
            return self._finish(xp.exp(z).astype(self.dtype), slice(None), slice(start, stop))

    def _finish(self, block: Any, rows: slice, cols: slice) -> Any:
        if self._scale is not None:
            block *= (self._mass * self._scale[0][rows])[:, None]
            block *= self._scale[1][cols][None, :]
        elif self._mass != 1.0:
            block *= self.dtype.type(self._mass)
        if self._extra is not None:
            block += (self._mass * self._extra[0][rows])[:, None] * self._extra[1][cols][None, :]
        return block

    def toarray(self) -> Any:
        """The dense plan."""
        return self.rows(0, self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("a lazy plan cannot become an array without computing it")
        return np.asarray(self.toarray(), dtype=dtype)

    def blocks(self, size: int = 256) -> Any:
        """Iterate over ``(start, dense block of rows)``, at most `size` rows each."""
        size = _validate.integer("size", size, minimum=1)
        for start in range(0, self.shape[0], size):
            yield start, self.rows(start, min(start + size, self.shape[0]))

    def topk(self, k: int) -> tuple[Any, Any]:
        """The `k` largest entries of every row: (columns, values), each of shape (n, k), descending."""
        k = _validate.integer("k", k, minimum=1, maximum=self.shape[1])
        xp = _native.of(self._cost)[1]
        columns, values = [], []
        for _, block in self.blocks():
            order = xp.argsort(-block, axis=1)[:, :k]
            columns.append(order)
            values.append(xp.take_along_axis(block, order, axis=1))
        return xp.concatenate(columns), xp.concatenate(values)

    def __repr__(self) -> str:
        return f"<LazyPlan {self.shape[0]}x{self.shape[1]} {self.dtype}, reg={self._reg:g}>"
