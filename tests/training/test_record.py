"""A record is read back as it was, an old one too; a damaged one is named."""

from __future__ import annotations

import math

import pytest
from torch.nn.functional import cross_entropy

from etude import Record, Task, train
from etude.errors import StorageError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.training.common import BASE, BreaksLate, X, Y, mlp


def test_a_record_is_read_back(tmp_path):
    task = Task(mlp, (X, Y), loss=cross_entropy, metric="accuracy")
    record = train(task, BASE.replace(clip_norm=1.0), folder=tmp_path, probes={"t": lambda r: 1.5})
    again = Record.load(tmp_path)
    assert again.plain() == record.plain()
    assert again.evaluations == record.evaluations
    assert set(again.series) == {"loss", "lr", "grad_norm", "t"}
    for name, values in record.series.items():
        assert again.series[name].tolist() == values.tolist()
    assert again.model is None


def test_a_record_from_before_the_metrics_parts_is_read_back(tmp_path):
    task = Task(mlp, (X, Y), loss=cross_entropy, metric="accuracy")
    record = train(task, BASE)
    arrays = record.arrays()
    assert arrays.pop("valid_metric_parts").shape == arrays["valid_parts"].shape
    again = Record.from_plain(record.plain(), arrays)
    assert [e.metric_parts for e in again.evaluations] == [()] * len(record.evaluations)
    assert [e.parts for e in again.evaluations] == [e.parts for e in record.evaluations]


def test_a_state_from_before_the_metrics_parts_goes_on():
    task = Task(mlp, (X, Y), loss=cross_entropy, metric="accuracy")
    recipe = BASE.replace(early_stopping=50)
    whole, run, again = (Run(task, recipe) for _ in range(3))
    whole.advance(AdvanceRequest(evaluation_steps=whole.state.evaluation_steps))
    run.advance(AdvanceRequest(20, evaluation_steps=run.state.evaluation_steps))
    state = run.state_dict()
    for old in (*state["evaluations"], state["stopping"]["best"]):
        del old["metric_parts"]
    again.load_state_dict(state)
    again.advance(AdvanceRequest(evaluation_steps=again.state.evaluation_steps))
    assert again.series == whole.series
    assert again.evaluations[-1] == whole.evaluations[-1]
    again.record().arrays()


def test_a_record_with_infinities_is_read_back(tmp_path):
    broken = BreaksLate(1, [math.nan])
    task = Task(mlp, (X, Y), valid=(X[:10], Y[:10]), loss=broken, metric="accuracy")
    record = train(task, BASE, folder=tmp_path)
    again = Record.load(tmp_path)
    assert again.status == record.status == "diverged"
    assert math.isnan(again.evaluations[1].loss)
    assert again.evaluations[0] == record.evaluations[0]


@pytest.mark.parametrize("name", ["record.json", "series.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\xff" * 40, None])
def test_a_damaged_record_is_named(tmp_path, name, content):
    train(Task(mlp, (X, Y), loss=cross_entropy), BASE, folder=tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match=rf"{tmp_path.name}.*(damaged|No such file|decode)"):
        Record.load(tmp_path)
