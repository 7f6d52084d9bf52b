"""Lanczos' method: both ends of a spectrum, from within, and the mean square."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.measure.lanczos import spectrum


def symmetric(size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    return matrix + matrix.T, signs


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_all_products_give_both_ends_and_fewer_lie_within(size, seed):
    matrix, signs = symmetric(size, seed)
    found = spectrum(matrix.mv, signs, iterations=size)
    values = torch.linalg.eigvalsh(matrix)
    assert found.lowest == pytest.approx(values[0].item(), rel=1e-4, abs=1e-6)
    assert found.highest == pytest.approx(values[-1].item(), rel=1e-4, abs=1e-6)
    assert found.rms == pytest.approx((matrix @ signs).norm().item() / math.sqrt(size))
    few = spectrum(matrix.mv, signs, iterations=max(1, size // 3))
    assert found.lowest - 1e-9 <= few.lowest <= few.highest <= found.highest + 1e-9
    assert few.products == max(1, size // 3)


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(0, 10_000), st.floats(1e-6, 0.3))
def test_what_is_called_converged_is_within_its_tolerance_of_an_eigenvalue(size, seed, tolerance):
    matrix, signs = symmetric(size, seed)
    found = spectrum(matrix.mv, signs, iterations=size, tolerance=tolerance)
    assert found.converged
    off = (torch.linalg.eigvalsh(matrix) - found.highest).abs().min().item()
    assert off <= tolerance * abs(found.highest) + 1e-6
    assert found.products <= size


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_spectrum(bad):
    found = spectrum(lambda v: v * bad, torch.ones(4), iterations=4)
    assert math.isnan(found.highest)
    assert not found.converged


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_the_mean_square_is_met_on_average(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.linspace(-1, 3, 400, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(400, 400, generator=generator, dtype=torch.float64))
    matrix = turn * values @ turn.T
    signs = torch.randint(0, 2, (400,), generator=generator).double() * 2 - 1
    found = spectrum(matrix.mv, signs, iterations=1)
    assert found.rms == pytest.approx(values.square().mean().sqrt().item(), rel=0.2)
