"""How many members a stack may have: more memory, more; larger networks, fewer; never none."""

from __future__ import annotations

import pytest
from torch import nn

from etude.engines.vmap import memory
from etude.engines.vmap.batched_update import BatchedUpdate
from etude.engines.vmap.layout import Layout
from etude.engines.vmap.memory import members_at_once
from etude.engines.vmap.optimizers import flags_of
from etude.training.run import Run
from tests.engines.common import BASE, task


def members(width: int, optimizer: str = "sgd") -> int:
    recipe = BASE.replace(optimizer=optimizer)
    of = task(lambda: nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2)))
    run = Run(of, recipe)
    flags = flags_of(recipe.optimizer, run.state.hyperparameter_schedules)
    return members_at_once(BatchedUpdate(run, run.model, Layout.of(run.model), flags), run)


def test_larger_networks_and_longer_memories_leave_room_for_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)
    assert members(8) > members(64) > members(512) > 1
    assert members(512, "adam") < members(512)


def test_room_grows_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)
    whole = members(64)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**29)
    assert abs(whole - 2 * members(64)) <= 1
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert members(64) == 1
