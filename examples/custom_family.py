"""Training data for an equation of your own: a reaction-diffusion problem as a `Family`.

    python examples/custom_family.py                       # 200 samples into reaction.npz
    aitken datagen examples.custom_family:Reaction --n 200 --grid 32 --out reaction.h5

The equation is ``-Laplacian u + c(x) u = 1`` on the unit square with ``u = 0`` around it, and c is a positive
random field. A family is a pattern, a sampler and an assembler; the factory does the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from aitken.datagen import Family, gaussian_random_field, generate, stream


class Reaction(Family):
    """``-Laplacian u + c u = 1`` by five-point differences on `grid` x `grid` inner nodes."""

    name = "reaction"
    symmetric = positive_definite = True  # facts that let the solver choose well

    def __init__(self, grid: int, *, strength: float = 500.0) -> None:
        super().__init__(strength=strength)  # recorded in the file; a resumed run has to agree
        self.shape = (grid, grid)
        self.h2 = 1.0 / (grid + 1) ** 2
        one = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(grid, grid))
        eye = sparse.eye_array(grid)
        self.laplacian = sparse.csr_array(sparse.kron(one, eye) + sparse.kron(eye, one))
        self.laplacian.sort_indices()
        self.indptr, self.indices = self.laplacian.indptr, self.laplacian.indices
        rows = np.repeat(np.arange(grid * grid), np.diff(self.indptr))
        self.diagonal = np.flatnonzero(rows == self.indices)  # where the diagonal lies in the data

    def parameters(self, seed: int, i: int) -> Any:
        """Sample i: drawn from its own stream, so that it depends on nothing but (seed, i)."""
        field = gaussian_random_field(stream(seed, i), self.shape, alpha=2.0, tau=3.0)
        return self.options["strength"] * np.exp(field)

    def assemble(self, parameters: Any) -> tuple[Any, Any]:
        """A whole block at once: entries (N, nnz) and right-hand sides (N, n)."""
        count = len(parameters)
        data = np.tile(self.laplacian.data, (count, 1))
        data[:, self.diagonal] += self.h2 * parameters.reshape(count, -1)
        return data, np.full((count, self.n), self.h2)


if __name__ == "__main__":
    result = generate(Reaction, 200, 32, "reaction.npz", layout="npz", overwrite=True)
    print(result)
    with np.load("reaction.npz") as data:
        print({name: data[name].shape for name in data.files})
