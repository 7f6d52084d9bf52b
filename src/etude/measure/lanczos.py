"""Lanczos' method: the extreme eigenvalues of a symmetric matrix, from products with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a symmetric matrix.

    Attributes:
        highest: The largest eigenvalue, with its sign.
        lowest: The smallest eigenvalue found; the true one may be lower.
        rms: An estimate of the root mean square eigenvalue.
        converged: Whether ‖A v - highest · v‖ is within the tolerance.
        products: The number of products with the matrix.
    """

    highest: float
    lowest: float
    rms: float
    converged: bool
    products: int


def spectrum(
    times: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int, tolerance: float = 0.0
) -> Spectrum:
    """Return the extreme eigenvalues of a symmetric matrix by Lanczos' method.

    After k products the extreme eigenvalues of a k × k tridiagonal matrix approximate those of the
    matrix from within. The basis is fully reorthogonalised at every step, which keeps `iterations`
    vectors in memory. The iteration ends when the residual of the largest eigenvalue is within
    `tolerance` of its size, or after `iterations` products. The root mean square is ‖A v‖ / ‖v‖ of
    the first product, whose square is exact on average over random signs v.

    Args:
        times: A function that returns the product of the matrix with a vector.
        start: A vector that is not orthogonal to the eigenvector, such as random signs.
        iterations: The largest number of products.
        tolerance: The largest ‖A v - λ v‖ / |λ|; with 0 all products are used.

    Source: Lanczos 1950; Hutchinson 1990 for the mean square.

    >>> matrix = torch.diag(torch.tensor([1.0, -20.0, 3.0, 10.0]))
    >>> found = spectrum(matrix.mv, torch.tensor([1.0, -1, 1, 1]), iterations=10, tolerance=1e-4)
    >>> round(found.highest, 4), round(found.lowest, 4), found.converged
    (10.0, -20.0, True)
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    tiny = 10 * torch.finfo(start.dtype).eps
    values = torch.zeros(1)
    rms = float("nan")
    for _ in range(min(iterations, len(start))):
        product = times(basis[-1])
        if not diagonal:
            rms = float(product.norm())
        diagonal.append(float(product @ basis[-1]))
        for _ in range(2):  # the second pass removes the rounding errors of the first
            for vector in basis:
                product = product - (vector @ product) * vector
        length = float(product.norm())
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for i, value in enumerate(beside):
            small[i, i + 1] = small[i + 1, i] = value
        if not bool(torch.isfinite(small).all()):
            return Spectrum(float("nan"), float("nan"), rms, False, len(diagonal))
        values, vectors = torch.linalg.eigh(small)
        reach = float(values.abs().max())
        residual = length * abs(float(vectors[-1, -1]))
        if residual <= tolerance * abs(float(values[-1])) or length <= tiny * reach:
            return Spectrum(float(values[-1]), float(values[0]), rms, True, len(diagonal))
        beside.append(length)
        basis.append(product / length)
    whole = len(diagonal) == len(start)
    return Spectrum(float(values[-1]), float(values[0]), rms, whole, len(diagonal))
