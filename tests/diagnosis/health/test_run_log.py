"""`log=` of `train` and `tune`: what arrives in each logger, and that nothing else changes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

import etude
from etude.diagnosis.health.run_log import LOGGERS
from etude.errors import BadTypeError, MissingExtraError, UnknownNameError
from etude.recipe import Recipe

X = torch.linspace(-1, 1, 64)[:, None]
TASK = etude.Task(
    lambda: torch.nn.Linear(1, 1), (X, 3 * X), (X, 3 * X), loss=mse_loss, metric="mae", name="line"
)
RECIPE = Recipe(lr=0.1, steps=20, batch_size=16, evaluations=4)


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        self.rows.append((update, dict(values)))

    def finding(self, finding: Any) -> None:
        raise AssertionError(finding)

    def close(self) -> None:
        self.closed += 1

    def series(self, name: str) -> dict[int, float]:
        return {update: values[name] for update, values in self.rows if name in values}


def logged(record: Any) -> dict[str, dict[int, float]]:
    """What should be logged of a record."""
    found = {f"train/{k}": dict(enumerate(map(float, v))) for k, v in record.series.items()}
    found["valid/loss"] = {e.step: e.loss for e in record.evaluations}
    found[f"valid/{record.metric}"] = {e.step: e.metric for e in record.evaluations}
    return found


def test_every_update_and_evaluation_is_logged_once():
    sink = Kept()
    record = etude.train(TASK, RECIPE, log=sink)
    for name, values in logged(record).items():
        assert sink.series(name) == values
    assert sink.closed == 1
    assert len(sink.series("train/loss")) == 20


def test_a_log_changes_no_bit():
    with_log = etude.train(TASK, RECIPE, log=Kept())
    without = etude.train(TASK, RECIPE)
    assert with_log.series["loss"].tolist() == without.series["loss"].tolist()
    assert set(with_log.series) == set(without.series)
    assert with_log.notes == without.notes
    for ours, theirs in zip(with_log.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_resumed_run_logs_the_rest(tmp_path):
    first, second = Kept(), Kept()

    def stop(state: Any) -> None:
        if state.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="Go on with"):
        etude.train(TASK, RECIPE, folder=tmp_path / "run", log=first, on_step=stop)
    assert first.closed == 1
    record = etude.train(TASK, RECIPE, folder=tmp_path / "run", resume=True, log=second)
    for name, values in logged(record).items():
        assert {**first.series(name), **second.series(name)} == values
        assert not set(first.series(name)) & set(second.series(name))


def test_a_run_that_breaks_logs_what_was_finite():
    sink = Kept()
    record = etude.train(TASK, RECIPE.replace(lr=1e6, optimizer="sgd", steps=60), log=sink)
    assert record.status == "diverged"
    losses = sink.series("train/loss")
    assert losses
    assert all(math.isfinite(value) for value in losses.values())
    assert len(losses) == int(np.isfinite(record.series["loss"]).sum())


def test_a_tuning_logs_trials_answer_and_the_finished_run():
    sink = Kept()
    best = etude.tune(TASK, RECIPE, budget=2.0, log=sink, progress=False)
    assert list(sink.series("trial/lr").values()) == [trial.lr for trial in best.trials]
    assert len(sink.series("trial/score")) == len(best.trials)
    assert sink.series("answer/lr") == {0: best.lr}
    assert sink.series("answer/cost") == {0: best.cost}
    assert sink.series("answer/tied_low") == {0: best.tied[0]}
    assert sink.series("train/loss") == logged(best.record)["train/loss"]
    chosen = [trial.lr for trial in best.trials].index(best.lr)
    assert sink.series("trial/score")[chosen] == pytest.approx(best.loss)
    assert sink.closed == 1


class KeptParts(Kept):
    """A sink in memory that has one of its own for each trial, and takes many updates at once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, KeptParts] = {}
        self.config: dict[str, Any] = {}
        self.calls = 0

    def settings(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def many(self, rows: Any) -> None:
        self.calls += 1
        self.rows += [(update, dict(values)) for update, values in rows]

    def part(self, title: str, name: str) -> KeptParts:
        assert title == f"line {name}"
        assert not self.closed
        return self.parts.setdefault(name, KeptParts())


@pytest.mark.parametrize("engine", ["loop", "pool"])
def test_each_trial_is_logged_as_a_run_of_its_own(engine):
    sink = KeptParts()
    best = etude.tune(TASK, RECIPE, budget=2.0, engine=engine, log=sink, progress=False)
    by_rate = {one.config["lr"]: one for one in sink.parts.values()}
    assert set(by_rate) >= {trial.lr for trial in best.trials}
    for trial in best.trials:
        one = by_rate[trial.lr]
        for name, values in logged(trial.record).items():
            assert one.series(name) == values
        assert one.closed == 1
        assert 1 <= one.calls <= 8  # one at each pause
    assert sink.config == best.recipe.plain()
    assert by_rate[best.lr].series("trial/score")[20] == best.loss


def test_trials_are_logged_as_they_come():
    """When the first trial is paused for the first time, its points are there."""
    seen: list[int] = []

    class Watching(KeptParts):
        def many(self, rows: Any) -> None:
            super().many(rows)
            seen.append(len(self.rows))

        def part(self, title: str, name: str) -> KeptParts:
            return self.parts.setdefault(name, Watching())

    sink = Watching()

    def stop(step: int) -> None:
        if len(seen) == 2:
            raise KeyboardInterrupt("stopped here")

    class Stopping(etude.Observer):
        name = "stopping"

        def on_update(self, state: Any) -> None:
            stop(state.step)

    with pytest.raises(KeyboardInterrupt, match="stopped here"):
        etude.tune(
            TASK,
            RECIPE,
            budget=2.0,
            engine="loop",
            log=sink,
            progress=False,
            observers=[Stopping()],
        )
    assert len(seen) == 2
    first = next(iter(sink.parts.values()))
    assert 0 < len(first.series("train/loss")) < 20
    assert all(part.closed == 1 for part in sink.parts.values())
    assert not sink.series("answer/lr")


def test_a_sink_without_parts_has_the_trials_as_series():
    sink = Kept()
    best = etude.tune(TASK, RECIPE, budget=2.0, log=sink, progress=False)
    for trial in best.trials:
        name = f"trials/{Path(trial.folder).name}" if trial.folder else f"trials/lr-{trial.lr:g}"
        for key, values in logged(trial.record).items():
            assert sink.series(f"{name}/{key}") == values
    assert sink.closed == 1


def test_a_logged_tuning_has_the_bits_of_one_that_is_not():
    with_log = etude.tune(TASK, RECIPE, budget=2.0, log=KeptParts(), progress=False)
    without = etude.tune(TASK, RECIPE, budget=2.0, progress=False)
    assert with_log.lr == without.lr
    for one, other in zip(with_log.trials, without.trials, strict=True):
        assert one.record.series["loss"].tolist() == other.record.series["loss"].tolist()
        assert one.record.evaluations == other.record.evaluations


def test_folds_and_the_run_on_all_data_are_logged():
    sink = KeptParts()
    etude.tune(TASK, RECIPE, budget=4.0, folds=2, log=sink, progress=False)
    assert "whole" in sink.parts
    assert len(sink.parts["whole"].series("train/loss")) == 20


def test_a_part_that_fails_is_told_of_and_the_tuning_goes_on():
    class Failing(KeptParts):
        def part(self, title: str, name: str) -> KeptParts:
            raise OSError("no room")

    with pytest.warns(UserWarning, match=r"Failing failed and is not used again: OSError") as said:
        best = etude.tune(TASK, RECIPE, budget=2.0, log=Failing(), progress=False)
    assert best.loss is not None
    assert len([one for one in said if "not used" in str(one.message)]) == 1


@pytest.mark.parametrize("method", ["readings", "close"])
def test_a_logger_that_fails_is_told_of_once_and_the_run_goes_on(method):
    class Failing(Kept):
        calls = 0

        def fail(self, *args: Any) -> None:
            type(self).calls += 1
            raise OSError("no network")

    setattr(Failing, method, Failing.fail)
    with pytest.warns(UserWarning, match=r"Failing failed and is not used again: OSError") as said:
        record = etude.train(TASK, RECIPE, log=Failing())
    assert record.status == "finished"
    assert Failing.calls == 1
    assert len([one for one in said if "not used" in str(one.message)]) == 1


def test_a_logger_that_cannot_be_opened_is_told_of_once(monkeypatch):
    from etude.interop import tensorboard

    def refuse(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tensorboard, "open_log", refuse)
    with pytest.warns(UserWarning, match=r"the log cannot be opened.*OSError: disk full") as said:
        assert etude.train(TASK, RECIPE, log="tensorboard").status == "finished"
    assert len([one for one in said if "cannot be opened" in str(one.message)]) == 1


def test_wrong_names_are_told_of_before_training():
    with pytest.raises(UnknownNameError, match=r"unknown logger of log= 'wanb'.*'wandb'"):
        etude.train(TASK, RECIPE, log="wanb")
    with pytest.raises(BadTypeError, match=r"log is 3: give 'wandb', 'mlflow', 'tensorboard', 'a"):
        etude.tune(TASK, RECIPE, log=3)
    with pytest.raises(BadTypeError, match=r"log is .*Kept.*an object with the methods readings"):
        etude.train(TASK, RECIPE, log=Kept)


@pytest.mark.parametrize("name", [name for name in LOGGERS if name != "tensorboard"])
def test_a_missing_library_is_told_of_before_training(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install"):
        etude.train(TASK, RECIPE, log=name)


# ---- the real ones -------------------------------------------------------------------------------


def test_tensorboard_reads_the_run_back(tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    record = etude.train(TASK, RECIPE, folder="run", log="tensorboard")
    etude.train(TASK, RECIPE, log="tensorboard")
    free = list(Path("runs").glob("line-*"))
    assert len(free) == 1
    for place in (Path("run/tensorboard"), *free):
        seen = events.EventAccumulator(str(place), size_guidance={events.SCALARS: 0})
        seen.Reload()
        for name, values in logged(record).items():
            found = {e.step: e.value for e in seen.Scalars(name)}
            assert found == pytest.approx(values, rel=1e-6)
        text = bytes(seen.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]).decode()
        assert "lr = 0.1" in text


def test_mlflow_reads_the_run_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        record = etude.train(TASK, RECIPE, log="mlflow")
        client = mlflow.MlflowClient()
        (run,) = client.search_runs(["0"])
        assert (run.info.run_name, run.info.status) == ("line", "FINISHED")
        assert run.data.params["recipe.lr"] == "0.1"
        for name, values in logged(record).items():
            history = client.get_metric_history(run.info.run_id, name)
            assert {one.step: one.value for one in history} == values
        with mlflow.start_run() as mine:
            etude.train(TASK, RECIPE, log="mlflow")
            assert mlflow.active_run().info.run_id == mine.info.run_id
        assert "train/loss" in client.get_run(mine.info.run_id).data.metrics
        assert len(client.search_runs(["0"])) == 2
    finally:
        mlflow.set_tracking_uri(before)


def test_mlflow_nests_the_trials_of_a_tuning(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    calls: list[int] = []
    batch = mlflow.MlflowClient.log_batch

    def counted(client: Any, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        calls.append(len(metrics))
        return batch(client, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    try:
        best = etude.tune(TASK, RECIPE, budget=2.0, log="mlflow", progress=False)
        client = mlflow.MlflowClient()
        runs = client.search_runs(["0"])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        nested = {
            float(run.data.params["recipe.lr"]): run
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        }
        assert len(nested) == len(runs) - 1
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert parent.data.params["recipe.lr"] == str(best.lr)
        for trial in best.trials:
            for name, values in logged(trial.record).items():
                history = client.get_metric_history(nested[trial.lr].info.run_id, name)
                assert {one.step: one.value for one in history} == values
        # At most one call at each pause, and one or two for the answer: none for each update.
        assert len(calls) < 8 * len(nested) + 3
    finally:
        mlflow.set_tracking_uri(before)


def test_tensorboard_has_a_folder_for_each_trial(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    best = etude.tune(
        TASK, RECIPE, budget=1.5, folder=folder, log="tensorboard", progress=False, watch=False
    )
    for trial in best.trials:
        place = folder / "tensorboard" / "trials" / Path(trial.folder).name
        seen = events.EventAccumulator(str(place), size_guidance={events.SCALARS: 0})
        seen.Reload()
        for name, values in logged(trial.record).items():
            found = {e.step: e.value for e in seen.Scalars(name)}
            assert found == pytest.approx(values, rel=1e-6)


@pytest.mark.slow
def test_wandb_offline_has_a_run_for_each_trial(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    from etude.interop.wandb import OwnWandbRun

    made: list[Any] = []
    start = wandb.init

    def kept(**options: Any) -> Any:
        made.append((options, start(**options)))
        return made[-1][1]

    ends: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # a finished run has no summary
    finish = OwnWandbRun.close

    def read(sink: OwnWandbRun) -> None:
        ends[sink.run.id] = dict(sink.run.config), dict(sink.run.summary)
        finish(sink)

    monkeypatch.setattr(wandb, "init", kept)
    monkeypatch.setattr(OwnWandbRun, "close", read)
    best = etude.tune(TASK, RECIPE, budget=1.5, log="wandb", progress=False)
    assert wandb.run is None
    (_, tuning), *trials = made
    config, summary = ends[tuning.id]
    assert (config["recipe"]["lr"], summary["answer/lr"]) == (best.lr, best.lr)
    assert {options["group"] for options, _ in trials} == {tuning.id}
    found = {ends[run.id][0]["recipe"]["lr"]: ends[run.id][1] for _, run in trials}
    for trial in best.trials:
        assert found[trial.lr]["train/loss"] == trial.record.series["loss"][-1]
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1 + len(trials)
    assert all(file.stat().st_size > 0 for file in files)


def test_wandb_has_the_trials_as_series_in_a_run_of_a_sweep():
    pytest.importorskip("wandb")
    from etude.interop.wandb import WandbSink

    class Run(SimpleNamespace):
        def define_metric(self, name: str, **options: Any) -> None:
            pass

    assert WandbSink(Run(sweep_id="abc")).part("line lr-0.1", "lr-0.1") is None


@pytest.mark.slow
def test_wandb_offline_keeps_the_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()  # it keeps the folder in which it was first used
    record = etude.train(TASK, RECIPE, log="wandb")
    assert wandb.run is None  # its own run is finished
    with wandb.init(project="mine", dir=tmp_path, mode="offline") as run:
        etude.train(TASK, RECIPE, log="wandb")
        assert run.summary["train/loss"] == record.series["loss"][-1]
        assert run.summary["valid/mae"] == record.valid_metric
        assert run.summary["update"] == 20
        assert run.config["recipe"]["lr"] == 0.1
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert all(file.stat().st_size > 0 for file in files)


def test_aim_is_called_by_its_own_signatures(monkeypatch):
    """Aim's own library is not needed: a run with the three calls that are made of it."""

    class Run:
        made: ClassVar[list[Run]] = []

        def __init__(self, *, experiment: str) -> None:
            self.rows: dict[str, dict[int, float]] = {}
            self.values: dict[str, Any] = {}
            self.closed = False
            self.made.append(self)

        def __setitem__(self, key: str, value: Any) -> None:
            self.values[key] = value

        def track(self, value: float, name: str, step: int) -> None:
            self.rows.setdefault(name, {})[step] = value

        def close(self) -> None:
            self.closed = True

    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Run=Run, Text=str))
    record = etude.train(TASK, RECIPE, log="aim")
    (run,) = Run.made
    assert run.rows == logged(record)
    assert (run.name, run.values["recipe"]["lr"], run.closed) == ("line", "0.1", True)
