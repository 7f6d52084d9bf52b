"""A study as CSV, as parquet, and in Optuna."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import optuna
import pytest
from pyarrow import parquet

from etude.errors import BadValueError, StorageError
from etude.interop.optuna import to_optuna
from etude.storage.study import StoredStudy, StudyDatabase, TrialResult
from etude.storage.study.columns import ColumnKind, columns_of, rows_of
from etude.storage.study.tables import write_csv, write_parquet
from tests.storage.study.common import record

PARAMETERS = [
    {
        "lr": 0.001,
        "depth": 2,
        "norm": "layer",
        "clip": None,
        "batch": 8,
        "task": {"name": "a,\n'b"},
    },
    {"lr": 0.01, "depth": 3, "norm": "batch", "clip": 1.0, "batch": 8, "task": {"name": "=1+1"}},
    {"lr": 0.1, "depth": 3, "norm": True, "clip": 1.0, "batch": 16, "widths": [4, 4]},
    {"lr": 1, "depth": 4, "norm": "layer", "clip": 2.0, "batch": "all", "flag": False},
    {"lr": 10.0, "depth": 4, "norm": 1, "clip": 2.0, "batch": 8, "flag": True},
    {"lr": 0.5, "depth": 4, "norm": "layer", "clip": 2.0, "batch": 8},
]


@pytest.fixture
def study(tmp_path: Path) -> StoredStudy:
    """Three done trials, one of them diverged; one failed, one running, one waiting."""
    made = StudyDatabase(tmp_path / "studies.db").create("kinds", {"lrs": 5}, PARAMETERS)
    done, inf, lost, failed, _ = made.claim(5, "worker, 1")
    made.finish(
        [
            TrialResult.of(done, record(), values={"edge": 0.1, "ratio": math.inf}),
            TrialResult(inf, math.inf, None, diverged=True),
            TrialResult(lost, math.nan, None, diverged=True),
        ]
    )
    made.fail(failed, 'ValueError: "no"\nlayer', "model.py:3")
    return made


def test_columns_have_the_kind_that_holds_all_of_their_values(study):
    columns = columns_of(study)
    kinds = {
        "number": ColumnKind.INT, "parameter.lr": ColumnKind.FLOAT,
        "parameter.depth": ColumnKind.INT, "parameter.norm": ColumnKind.TEXT,
        "parameter.clip": ColumnKind.FLOAT, "parameter.batch": ColumnKind.TEXT,
        "parameter.task.name": ColumnKind.TEXT, "parameter.widths": ColumnKind.TEXT,
        "parameter.flag": ColumnKind.BOOL, "value.edge": ColumnKind.FLOAT,
    }  # fmt: skip
    assert {name: columns[name] for name in kinds} == kinds
    assert len(list(rows_of(study, columns))) == 6


def test_csv_has_one_line_per_trial_and_reads_back(study):
    stream = io.StringIO(newline="")
    assert write_csv(study, stream) == 6
    rows = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert [row["state"] for row in rows] == ["done"] * 3 + ["failed", "running", "waiting"]
    assert [float(row["parameter.lr"]) for row in rows] == [p["lr"] for p in PARAMETERS]
    assert [row["loss"] for row in rows] == ["1.0", "inf", "", "", "", ""]
    assert rows[0]["parameter.task.name"] == "a,\n'b"
    assert rows[3]["error"] == 'ValueError: "no"\nlayer'
    assert (rows[0]["value.ratio"], rows[1]["value.ratio"]) == ("inf", "")
    assert [row["parameter.norm"] for row in rows] == [
        "layer",
        "batch",
        "true",
        "layer",
        "1",
        "layer",
    ]


def test_parquet_holds_the_same_rows_with_types(study, tmp_path, monkeypatch):
    monkeypatch.setattr("etude.storage.study.tables.PAGE", 4)
    assert write_parquet(study, tmp_path / "study.parquet") == 6
    table = parquet.read_table(tmp_path / "study.parquet")
    columns = columns_of(study)
    assert table.column_names == list(columns)
    assert table.to_pylist() == list(rows_of(study, columns))
    assert str(table.schema.field("parameter.lr").type) == "double"
    assert str(table.schema.field("diverged").type) == "bool"


def test_an_empty_study_is_a_table_without_rows(tmp_path):
    study = StudyDatabase(tmp_path / "studies.db").create("none", {})
    assert write_csv(study, stream := io.StringIO()) == 0
    assert stream.getvalue().startswith("number,state,loss,metric")
    assert write_parquet(study, tmp_path / "study.parquet") == 0
    assert parquet.read_table(tmp_path / "study.parquet").num_rows == 0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def test_optunas_own_api_reads_every_trial(study, url):
    assert to_optuna(study, url) == 6
    found = optuna.load_study(study_name="kinds", storage=url)
    states = optuna.trial.TrialState
    assert found.direction == optuna.study.StudyDirection.MINIMIZE
    assert [t.number for t in found.trials] == list(range(6))
    assert [t.state for t in found.trials] == [
        states.COMPLETE, states.COMPLETE, states.COMPLETE, states.FAIL, states.WAITING,
        states.WAITING,
    ]  # fmt: skip
    assert [t.value for t in found.trials[:3]] == [1.0, math.inf, math.inf]
    first, _, third, failed, running, _ = found.trials
    assert first.params == {
        "lr": 0.001, "depth": 2, "norm": "'layer'", "clip": None, "batch": 8, "task.name": "a,\n'b",
    }  # fmt: skip
    assert third.params["widths"] == "[4,4]"
    assert failed.params["lr"] == 1.0
    kinds = optuna.distributions
    assert first.distributions["lr"] == kinds.FloatDistribution(0.001, 10.0, log=True)
    assert first.distributions["depth"] == kinds.IntDistribution(2, 4)
    assert set(first.distributions["norm"].choices) == {"'layer'", "'batch'", "True", "1"}
    assert set(first.distributions["batch"].choices) == {8, 16, "all"}
    assert set(first.distributions["clip"].choices) == {None, 1.0, 2.0}
    assert first.user_attrs["edge"] == 0.1
    assert failed.user_attrs["error"] == 'ValueError: "no"\nlayer'
    assert found.user_attrs["plan"] == {"lrs": 5}
    assert found.best_trial.number == 0
    assert (first.datetime_complete - first.datetime_start).total_seconds() == pytest.approx(0.25)
    assert running.system_attrs["fixed_params"]["lr"] == 10.0
    assert len(found.trials_dataframe()) == 6


def test_optuna_goes_on_with_an_exported_study(study, url):
    to_optuna(study, url)
    found = optuna.load_study(
        study_name="kinds", storage=url, sampler=optuna.samplers.TPESampler(seed=0)
    )
    asked = found.ask()
    assert asked.number == 4
    assert asked.suggest_float("lr", 1e-3, 10.0, log=True) == 10.0
    found.tell(asked, 0.5)
    found.ask()
    sampled = found.ask()
    assert 1e-3 <= sampled.suggest_float("lr", 1e-3, 10.0, log=True) <= 10.0


def test_a_metric_is_maximised_and_curves_are_intermediate_values(study, url):
    to_optuna(study, url, by="metric", curves=True)
    found = optuna.load_study(study_name="kinds", storage=url)
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [t.value for t in found.trials[:3]] == [0.7, -math.inf, -math.inf]
    assert found.trials[0].intermediate_values == {0: 0.1, 4: 0.7}
    assert found.user_attrs["by"] == "metric"


def test_a_study_is_not_written_over_another(study, url):
    to_optuna(study, url)
    with pytest.raises(StorageError, match=r"there is a study 'kinds' in .*optuna\.db' already"):
        to_optuna(study, url)
    with pytest.raises(StorageError, match="cannot write to the Optuna database"):
        to_optuna(study, "sqlite:////no/such/folder/optuna.db")
    with pytest.raises(BadValueError, match="by='accuracy': give 'loss' or 'metric'"):
        to_optuna(study, url, by="accuracy")
    with pytest.raises(BadValueError, match="direction='up': give 'minimize' or 'maximize'"):
        to_optuna(study, url, direction="up")
