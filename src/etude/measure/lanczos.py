"""The ends of a symmetric matrix's spectrum, from products with it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """What products with a symmetric matrix say of its eigenvalues.

    Attributes:
        highest: The largest eigenvalue, with its sign.
        lowest: The smallest one seen; the true one may lie lower.
        rms: The root mean square eigenvalue, an estimate.
        converged: Whether ‖A v - highest · v‖ came within the tolerance.
        products: How many products with the matrix that took.
    """

    highest: float
    lowest: float
    rms: float
    converged: bool
    products: int


def spectrum(
    times: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int, tolerance: float = 0.0
) -> Spectrum:
    """Return the ends of a symmetric matrix's spectrum by Lanczos' method.

    After k products the ends of the spectrum of a k × k tridiagonal matrix approach those of the
    matrix from within. The basis is made orthogonal in full at every step, and kept: `iterations`
    vectors. It ends when the residual of the largest eigenvalue is within `tolerance` of its
    size, or after `iterations` products. The root mean square is ‖A v‖ / ‖v‖ of the first
    product, exact on average over random signs v.

    Args:
        times: The product with the matrix.
        start: A vector that is not orthogonal to the eigenvector: random signs.
        iterations: Products at most.
        tolerance: Largest ‖A v - λ v‖ / |λ|; 0 uses all products.

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
        for _ in range(2):  # the second pass removes what rounding left of the first
            for one in basis:
                product = product - (one @ product) * one
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
