"""After each test, torch is as it was."""

from __future__ import annotations

import gc

import pytest
import torch

from tests.diagnosis.watch.common import PLAIN


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was():
    yield
    gc.collect()
    assert (torch.autograd.backward, torch.amp.GradScaler.scale) == PLAIN
