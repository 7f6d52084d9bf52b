"""The extreme eigenvalues of a symmetric matrix, from matrix-vector products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def edges(
    times: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 20
) -> tuple[float, float, float]:
    """Return (smallest eigenvalue, largest eigenvalue, root mean square eigenvalue).

    Lanczos with full orthogonalisation: after k products, the extreme eigenvalues of the k × k
    tridiagonal matrix approximate those of the matrix from within. The root mean square is
    ‖A v‖ / ‖v‖ of the first product; its square is exact on average over random signs v.

    Args:
        times: The product with the matrix.
        start: A vector of random signs.
        iterations: The largest number of products.

    Source: Lanczos 1950; Hutchinson 1990 for the mean square.

    >>> matrix = torch.diag(torch.tensor([1.0, -2.0, 3.0, 10.0], dtype=torch.float64))
    >>> low, high, _ = edges(matrix.mv, torch.tensor([1.0, -1, 1, 1], dtype=torch.float64))
    >>> round(low, 6), round(high, 6)
    (-2.0, 10.0)
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    rms = 0.0
    for index in range(min(iterations, len(start))):
        product = times(basis[-1].to(start.dtype))
        if index == 0:
            rms = float(product.norm())
        diagonal.append(float(product @ basis[-1]))
        stack = torch.stack(basis)
        for _ in range(2):  # the second pass removes the rounding errors of the first
            product = product - stack.T @ (stack @ product)
        length = float(product.norm())
        if length <= 1e-10 * max(1e-30, rms):
            break
        beside.append(length)
        basis.append(product / length)
    size = len(diagonal)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(beside[: size - 1]):
        small[i, i + 1] = small[i + 1, i] = value
    values = torch.linalg.eigvalsh(small)
    return float(values[0]), float(values[-1]), rms
