"""The fresh tasks: each builds and trains, the lot is fair, and what is held out stays apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fresh
from benchmarks.fresh import data, losses, parts, tables
from etude.errors import MissingExtraError
from etude.recipe import Recipe
from etude.training.run import Run

MADE_UP = [name for name, row in fresh.ROWS.items() if not row.data]
SHIPPED = [name for name, row in fresh.ROWS.items() if row.data]


def assert_trains(name: str) -> None:
    """Three updates of the task's own recipe change the loss, and every number is finite."""
    task = fresh.get(name)
    assert task.name == name
    run = Run(task, Recipe(**{"lr": 1e-3, **task.defaults}))
    before = run.evaluate()
    run.advance(3)
    after = run.evaluate()
    assert all(map(math.isfinite, [*run.series["loss"], before.loss, after.loss]))
    assert before.loss != after.loss
    assert not run.diverged


@pytest.mark.parametrize("name", MADE_UP)
def test_a_task_with_made_up_data_trains_and_is_the_same_every_time(name: str):
    assert_trains(name)
    one, other = fresh.get(name), fresh.get(name)
    for part in ("train", "valid"):
        pairs = zip(getattr(one, part).tensors, getattr(other, part).tensors, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_task_with_shipped_data_trains(name: str):
    if why := fresh.absent(name):
        pytest.skip(why)
    assert_trains(name)


def test_the_lot_divides_the_tasks_into_halves_late_ones_too():
    assert not set(fresh.OPEN) & set(fresh.HELD)
    assert {*fresh.OPEN, *fresh.HELD} == set(fresh.TASKS)
    for late in (True, False):
        names = [name for name, row in fresh.ROWS.items() if row.late == late]
        assert sum(name in fresh.HELD for name in names) == len(names) // 2


def test_at_least_seven_tasks_learn_late():
    assert sum(row.late for row in fresh.ROWS.values()) >= 7


def test_every_task_names_data_that_can_be_read():
    named = {name for row in fresh.ROWS.values() for name in row.data}
    assert named == set(data.SOURCES)


def test_arrays_are_made_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.arange(6.0).reshape(2, 3), "y": np.array([1, 0])}

    for _ in range(2):
        kept = data.kept("some", make)
        assert {name: array.tolist() for name, array in kept.items()} == {
            "x": [[0, 1, 2], [3, 4, 5]],
            "y": [1, 0],
        }
    assert calls == [1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["some.npz"]


def test_without_cache_and_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(data, "CACHE", tmp_path)
    monkeypatch.setattr(data, "folder_of", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"the package river is here: pip install 'etude"):
        data.arrays.__wrapped__("segment")
    assert "segment" in fresh.absent("segment-sgd")
    assert fresh.absent("parity-two") == ""


@given(
    length=st.integers(40, 200),
    width=st.integers(2, 12),
    block=st.integers(12, 20),
    every=st.integers(2, 3),
    stride=st.integers(1, 5),
)
def test_windows_of_both_parts_share_no_value(
    length: int, width: int, block: int, every: int, stride: int
):
    train, valid = parts.blocks(
        torch.arange(length), width, block=block, every=every, stride=stride
    )
    assert train.shape[1] == valid.shape[1] == width
    assert not set(train.flatten().tolist()) & set(valid.flatten().tolist())
    assert (train.diff(dim=1) == 1).all()


def test_patches_of_both_parts_share_no_pixel():
    picture = np.arange(20 * 90).reshape(20, 90)
    train, valid = parts.patches(picture, 8, 4, strip=18)
    assert train.shape[1:] == valid.shape[1:] == (8, 8)
    assert not set(train.flatten().tolist()) & set(valid.flatten().tolist())


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.floats(-3, 3)), min_size=1))
def test_cox_is_the_sum_over_events_of_the_log_share_of_the_risk(
    people: list[tuple[int, bool, float]],
):
    expected = sum(
        math.log(sum(math.exp(r) for t, _, r in people if t >= time)) - risk
        for time, event, risk in people
        if event
    )
    risk = torch.tensor([r for *_, r in people], dtype=torch.float64)
    seen = torch.tensor([[t, e] for t, e, _ in people], dtype=torch.float64)
    total, count = losses.cox(risk, seen)
    assert total.item() == pytest.approx(expected, abs=1e-9)
    assert count.item() == sum(event for _, event, _ in people)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=5))
def test_hazards_add_up_to_the_likelihood_of_what_was_seen(seen: list[tuple[int, bool]]):
    logits = torch.linspace(-2, 2, len(tables.YEARS), dtype=torch.float64)
    hazards = logits.sigmoid().tolist()
    expected = 0.0
    for years, event in seen:
        last = next(i for i, end in enumerate(tables.YEARS) if years <= end)
        expected -= sum(math.log(1 - hazards[i]) for i in range(last))
        expected -= math.log(hazards[last] if event else 1 - hazards[last])
    target = tables.intervals(
        torch.tensor([float(y) for y, _ in seen]), torch.tensor([float(e) for _, e in seen])
    )
    total, count = losses.hazard(logits.expand(len(seen), -1), target)
    assert total.item() == pytest.approx(expected)
    assert count.item() == (target >= 0).sum()


def test_the_pinball_loss_is_least_at_the_quantiles():
    target = torch.linspace(0, 1, 1001)
    best = torch.tensor(losses.QUANTILES)

    def loss(shift: float) -> float:
        return losses.pinball((best + shift).expand(1001, -1), target).item()

    assert loss(0) < min(loss(-0.01), loss(0.01))
