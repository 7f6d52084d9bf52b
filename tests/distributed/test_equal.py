"""Several processes equal one at the same global batch, in weights, losses, metrics and ends."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed.equalities import CASES
from tests.distributed.together import result_of, together

TOLERANCE = 1e-6


@cache
def alone(name: str) -> dict[str, Any]:
    return result_of(name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return together(tmp_path_factory.mktemp("pair"), 2, *CASES)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return together(tmp_path_factory.mktemp("four"), 4, *CASES)


def check_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert "error" not in found, found["trace"]
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=TOLERANCE)
    assert set(found["series"]) == set(expected["series"])
    for name, values in expected["series"].items():
        np.testing.assert_allclose(found["series"][name], values, atol=TOLERANCE, rtol=1e-5)
    for one, other in zip(found["evaluations"], expected["evaluations"], strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1], other[1], rtol=1e-5, atol=TOLERANCE)
        assert (one[2] is None) == (other[2] is None)
        if other[2] is not None:
            np.testing.assert_allclose(one[2], other[2], rtol=1e-5, atol=TOLERANCE)
        np.testing.assert_allclose(one[3], other[3], rtol=1e-5, atol=TOLERANCE)
        assert one[4] == other[4]
    for name in ("status", "reason", "gradients", "steps"):
        assert found[name] == expected[name]


def check_same(ranks: list[dict[str, Any]]) -> None:
    """Every process holds the same bits: weights, losses, evaluations."""
    first = ranks[0]
    for other in ranks[1:]:
        assert other["series"] == first["series"] or _nan_equal(other["series"], first["series"])
        assert other["evaluations"] == first["evaluations"]
        for name, value in first["weights"].items():
            assert torch.equal(other["weights"][name], value), name


def _nan_equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(pair, name):
    check_equal(pair[name][0], alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_hold_the_same_bits(pair, name):
    check_same(pair[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_four_processes_equal_one(four, name):
    check_equal(four[name][0], alone(name))
    check_same(four[name])


@pytest.mark.parametrize("name", CASES)
def test_cases_train(name):
    """The law says something only of runs that move and do not break."""
    found = alone(name)
    assert found["status"] == "finished"
    assert min(found["series"]["loss"]) < found["series"]["loss"][0]
