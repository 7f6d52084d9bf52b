"""What a watch reads and finds, as TensorBoard, MLflow and W&B give it back, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import etude
from etude.diagnosis.finding import Cause, Finding
from etude.diagnosis.watching.sink import Sink, readings_of
from etude.errors import BadTypeError, BadValueError, MissingExtraError
from tests.diagnosis.programs import classes, net


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.found: list[Finding] = []
        self.closed = 0

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        assert update not in self.values
        self.values[update] = dict(values)

    def finding(self, finding: Finding) -> None:
        self.found.append(finding)

    def close(self) -> None:
        self.closed += 1


def watched(*sinks: Sink, updates: int = 20) -> Any:
    """A loop that clears no gradients."""
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    options: dict[str, Any] = {"sink": list(sinks)} if sinks else {}
    with etude.watch(model, optimizer, every=2, on_finding=lambda one: None, **options) as w:
        for _ in range(updates):
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return w.report()


def test_a_sink_gets_each_reading_and_each_finding_once():
    sink = Kept()
    report = watched(sink)
    assert isinstance(sink, Sink)
    assert sink.values == dict(readings_of(report.history))
    assert list(sink.values) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert {"watch/loss", "watch/lr", "watch/run/gradient_norm", "watch/update_ratio/2"} <= set(
        sink.values[18]
    )
    assert sink.found == list(report.findings)
    assert sink.closed == 1


def test_a_sink_changes_no_bit_of_the_readings():
    assert watched(Kept()).history.loss.tolist() == watched().history.loss.tolist()


@pytest.mark.parametrize("method", ["readings", "finding", "close"])
def test_a_sink_that_fails_is_told_of_once_and_stops_nothing(method):
    class Failing(Kept):
        calls = 0

    def fail(self, *args):
        self.calls += 1
        raise OSError("disk full")

    setattr(Failing, method, fail)
    failing, fine = Failing(), Kept()
    with pytest.warns(UserWarning, match="the sink Failing failed and is not used again: OSError"):
        report = watched(failing, fine)
    assert failing.calls == 1
    assert report.history.updates == 20
    assert len(fine.values) == 10


@pytest.mark.parametrize("sink", [3, Kept, [Kept(), "logs"]])
def test_something_else_is_no_sink(sink):
    model = nn.Linear(1, 1)
    with pytest.raises(BadTypeError, match=r"sink is .*: give an object with the methods"):
        etude.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), sink=sink)


# ---- the real ones -------------------------------------------------------------------------------


def test_tensorboard_reads_back_what_was_read(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from etude.interop.tensorboard import TensorBoardSink

    kept = Kept()
    watched(TensorBoardSink(tmp_path), kept)
    seen = events.EventAccumulator(str(tmp_path), size_guidance={events.SCALARS: 0})
    seen.Reload()
    for name in ("watch/loss", "watch/gradient_norm/0"):
        assert [(e.step, e.value) for e in seen.Scalars(name)] == [
            (update, pytest.approx(values[name], rel=1e-6))
            for update, values in kept.values.items()
        ]
    texts = seen.Tensors("watch/findings/text_summary")
    assert [str(kept.found[0])] == [
        bytes(text.tensor_proto.string_val[0]).decode() for text in texts
    ]


def test_mlflow_reads_back_what_was_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    from etude.interop.mlflow import MlflowSink

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    run = client.create_run(client.create_experiment("watch"))
    kept = Kept()
    sink = MlflowSink(run.info.run_id, uri=(tmp_path / "runs").as_uri())
    watched(sink, kept)
    for name in ("watch/loss", "watch/weight_norm/2"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(one.step, one.value) for one in history] == [
            (update, values[name]) for update, values in kept.values.items()
        ]
    assert client.get_run(run.info.run_id).data.tags["watch/finding/0"] == str(kept.found[0])


def test_mlflow_without_a_run_is_told_of():
    mlflow = pytest.importorskip("mlflow")
    from etude.interop.mlflow import MlflowSink

    assert mlflow.active_run() is None
    with pytest.raises(BadValueError, match=r"no run of MLflow is active: call mlflow.start_run"):
        MlflowSink()


@pytest.mark.slow
def test_wandb_offline_keeps_what_was_read(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from etude.interop.wandb import WandbSink

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="watch", dir=tmp_path, mode="offline") as run:
        kept = Kept()
        watched(WandbSink(), kept)
        assert run.summary["watch/findings"] == str(kept.found[0])
        assert run.summary["watch/loss"] == kept.values[18]["watch/loss"]
        assert run.summary["watch/update"] == 18
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [file.stat().st_size > 0 for file in files] == [True]


def test_wandb_logs_over_the_update_and_leaves_the_step_of_the_run_alone():
    pytest.importorskip("wandb")
    from etude.interop.wandb import WandbSink

    class Run:
        """What of a run is used."""

        def __init__(self) -> None:
            self.rows: list[dict[str, Any]] = []
            self.axes: dict[str, dict[str, Any]] = {}
            self.summary: dict[str, Any] = {}

        def define_metric(self, name: str, **options: Any) -> None:
            self.axes[name] = options

        def log(self, row: dict[str, Any]) -> None:
            self.rows.append(row)

    run, kept = Run(), Kept()
    watched(WandbSink(run), kept)
    assert run.axes["watch/*"] == {"step_metric": "watch/update"}
    assert run.rows == [{**values, "watch/update": t} for t, values in kept.values.items()]
    assert "gradients not cleared" in run.summary["watch/findings"]
    assert [one.what for one in kept.found] == [Cause.GRADIENTS_NOT_CLEARED]


def test_wandb_without_a_run_is_told_of():
    wandb = pytest.importorskip("wandb")
    from etude.interop.wandb import WandbSink

    assert wandb.run is None
    with pytest.raises(BadValueError, match=r"no run of W&B is active: call wandb.init"):
        WandbSink()


@pytest.mark.parametrize("peer", ["mlflow", "wandb"])
def test_a_missing_peer_says_what_to_install(peer, monkeypatch):
    from etude.interop import mlflow, wandb

    monkeypatch.setitem(sys.modules, peer, None)
    make = {"mlflow": mlflow.MlflowSink, "wandb": wandb.WandbSink}[peer]
    with pytest.raises(MissingExtraError, match=r"pip install 'etude\[tracking\]'"):
        make()


def test_importing_etude_and_its_sinks_loads_no_peer():
    code = (
        "import json, sys\n"
        "import etude, etude.interop, etude.interop.mlflow, etude.interop.wandb\n"
        "import etude.interop.tensorboard, etude.diagnosis.health.observer\n"
        "print(json.dumps([m for m in ('mlflow', 'wandb', 'tensorboard') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert json.loads(done.stdout) == []
