from __future__ import annotations

import pytest
import torch
from torch.nn.functional import mse_loss

import etude
from etude.errors import MissingExtraError
from etude.interop import tensorboard


@pytest.fixture(scope="module")
def record():
    x = torch.linspace(-1, 1, 64)[:, None]
    task = etude.Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss, metric="r2")
    return etude.train(task, etude.Recipe(lr=0.1, steps=20, batch_size=16), evaluations=4)


def test_what_tensorboard_reads_back_is_the_record(record, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tensorboard.write(record, tmp_path)
    seen = events.EventAccumulator(str(tmp_path), size_guidance={events.SCALARS: 0})
    seen.Reload()
    for name, values in record.series.items():
        written = [event.value for event in seen.Scalars(f"train/{name}")]
        assert written == pytest.approx(values.tolist(), rel=1e-6)
    assert [(e.step, pytest.approx(e.value, rel=1e-6)) for e in seen.Scalars("valid/r2")] == [
        (e.step, e.metric) for e in record.evaluations
    ]


def test_a_missing_tensorboard_says_what_to_install(record, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'etude\[tracking\]'"):
        tensorboard.write(record, tmp_path)
