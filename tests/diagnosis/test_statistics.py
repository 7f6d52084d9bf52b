"""Norms from a few entries of each tensor, in one buffer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.diagnosis.watching.statistics import MOST, Entries, EntryLayout, variance_and_mean

shapes = st.lists(st.integers(1, 12), min_size=0, max_size=4).map(tuple)


def norms(tensors, given_=None):
    """Return the norms of tensors whose layout is that of others of the same shapes."""
    layout = EntryLayout(tensors)
    held = Entries(layout)
    held.copy(range(len(tensors)), tensors if given_ is None else given_)
    found = layout.norms([held.rows, 2 * held.rows])
    assert torch.allclose(found[1], 2 * found[0])
    return [float(n) * scale for n, scale in zip(found[0], layout.scales, strict=True)]


@given(st.lists(shapes, min_size=1, max_size=5), st.sampled_from([-22, 0, 12]))
@settings(max_examples=25)
def test_norms_of_small_tensors_are_exact_at_every_size(sizes, power):
    """Also where the squares of single precision would be 0 or infinite."""
    torch.manual_seed(0)
    tensors = [torch.randn(size) * 10.0**power for size in sizes]
    small = [t for t in tensors if t.numel() <= MOST]
    expected = [float(t.double().norm()) for t in small]
    assert norms(small) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_norms_of_large_tensors_are_within_a_few_percent(dtype):
    torch.manual_seed(0)
    tensors = [
        torch.randn(300, 700).to(dtype), torch.randn(5).to(dtype),
        torch.randn(64, 32, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last),
        torch.randn(500, 400).to(dtype).T,
    ]  # fmt: skip
    expected = [float(torch.linalg.vector_norm(t.cfloat() if t.is_complex() else t.double()))
                for t in tensors]  # fmt: skip
    assert norms(tensors) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("rows", [1, 3, 400])
def test_a_sparse_gradient_has_the_norm_of_its_values(rows):
    torch.manual_seed(0)
    weight = torch.zeros(1000, 16)
    index = torch.randperm(1000)[:rows][None]
    gradient = torch.sparse_coo_tensor(
        index, torch.randn(rows, 16), (1000, 16), check_invariants=True
    )
    expected = float(gradient.to_dense().norm())
    assert norms([weight, weight], [gradient, weight])[0] == pytest.approx(expected, rel=0.05)


def test_no_tensors_have_no_norms():
    assert norms([]) == []


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([None, 0]), st.booleans())
def test_variance_and_mean_are_those_of_torch(rows, columns, dim, unbiased):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 3 + 7
    correction = int(unbiased and (rows > 1 or (dim is None and columns > 1)))
    expected = torch.var_mean(values, dim, correction=correction)
    found = variance_and_mean(values, dim, correction)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
