"""`etude.compress` from a run to a folder and back, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import etude
from etude import Recipe, Task
from etude.compression import load
from etude.compression.fine_tuning import TuningOptions, candidate_schedules, fine_tuning_recipe
from etude.compression.result import CompressionResult
from etude.compression.source import TrainedNetwork
from etude.errors import BadTypeError, BadValueError, MissingExtraError, StorageError
from etude.report import present
from etude.schedules import parse
from etude.training.clock import clock_of
from etude.training.train import train
from tests.compression.common import MODELS, Tied, cnn, inputs, task, trained

QUICK = {"progress": False, "engine": "loop"}


def compress(name: str, **asked) -> CompressionResult:
    return etude.compress(trained(name), task=task(name), **{**QUICK, **asked})


@pytest.mark.parametrize("name", MODELS)
def test_pruning_without_fine_tuning(name):
    before = {n: p.clone() for n, p in trained(name).model.named_parameters()}
    found = compress(name, prune=0.5, budget=0)
    assert found.tuning is None
    assert found.compressed is found.after
    assert found.sparsity == pytest.approx(0.5, abs=0.01)
    assert found.smaller > 1
    for one in found.layers:
        layer = found.model.get_submodule(one.name)
        weights = [p for p in layer.parameters(recurse=False) if p.ndim > 1]
        assert one.weights == sum(p.numel() for p in weights)
        assert one.kept == sum(int((p != 0).sum()) for p in weights)
    for n, p in trained(name).model.named_parameters():
        assert torch.equal(p, before[n])


def test_in_each_layer():
    found = compress("mlp", prune=0.25, scope="layer", budget=0)
    assert [round(one.sparsity, 2) for one in found.layers] == [0.25, 0.25, 0.25]
    assert found.method == "prune 0.25 of each layer"


def test_fine_tuning_keeps_what_is_gone_at_zero():
    found = compress("mlp", prune=0.8, budget=1.5, steps=32)
    tuning = found.tuning
    assert tuning is not None
    assert tuning.cost <= 1.5
    assert tuning.updates == 32
    assert {schedule for schedule, _, _ in tuning.tried} == {
        "(warmup(3) >> cosine(61)).shift(-32)", "constant()",
    }  # fmt: skip
    zeros = sum(int((p == 0).sum()) for p in found.model.parameters() if p.ndim > 1)
    assert zeros == sum(one.weights - one.kept for one in found.layers)
    assert found.sparsity == pytest.approx(0.8, abs=0.01)
    better = found.goal.score(found.after.evaluation) < found.goal.score(
        found.compressed.evaluation
    )
    assert better == tuning.used


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pool", "vmap"])
def test_engines_train_masked_networks_alike(engine):
    asked = {"prune": 0.8, "budget": 1.5, "steps": 32}
    one, other = (compress("mlp", **asked, engine=name) for name in ("loop", engine))
    assert one.tuning.lr == other.tuning.lr
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine == 0, theirs == 0)
        if engine == "pool":
            assert torch.equal(mine, theirs)
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_a_smaller_network_is_trained_further():
    found = compress("cnn", structured=0.5, budget=1.5, steps=32)
    assert found.model[0].out_channels == 4
    assert found.after.bytes < found.before.bytes / 2
    assert sum(p.numel() for p in found.model.parameters()) < found.before.tensor_bytes / 8


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("name", MODELS)
def test_int8(mode, name):
    pytest.importorskip("torchao")
    found = compress(name, int8=mode)
    assert found.tuning is None
    assert found.sparsity == 0
    assert found.after.tensor_bytes < found.before.tensor_bytes / 2
    whole = trained(name).model.eval()(inputs(32)).detach()
    error = found.model(inputs(32)).detach() - whole
    assert float(error.abs().max()) < 0.1 * float(whole.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm"])
def test_int8_that_is_trained(name):
    pytest.importorskip("torchao")
    found = compress(name, int8="qat", budget=1.5, steps=32)
    assert found.tuning is not None
    assert found.after.tensor_bytes < found.before.tensor_bytes / 2
    assert found.after.evaluation.metric >= found.before.evaluation.metric - 0.1


@pytest.mark.parametrize(
    "asked",
    [
        {"prune": 0.7, "budget": 0},
        {"structured": 0.5, "budget": 0},
        {"int8": "dynamic"},
        {"int8": "static"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_is_saved_has_the_same_bits(asked, tmp_path):
    if "int8" in asked:
        pytest.importorskip("torchao")
    found = compress("cnn", folder=tmp_path / "small", **asked)
    assert found.folder == tmp_path / "small"
    assert (found.folder / "model.safetensors").stat().st_size == found.after.bytes
    again = load(found.folder, task("cnn"))
    assert not again.training
    assert torch.equal(again(inputs(32)), found.model(inputs(32)))
    written = json.loads((found.folder / "compression.json").read_text())
    assert written["result"] == json.loads(json.dumps(found.plain()))
    with pytest.raises(StorageError, match="does not name its task: give task="):
        load(found.folder)
    with pytest.raises(StorageError, match="already holds a model or a run"):
        compress("cnn", folder=found.folder, **asked)


def test_what_fails_leaves_no_folder(tmp_path):
    with pytest.raises(BadValueError, match="no layer whose channels can be removed"):
        compress("lstm", structured=0.5, folder=tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_from_a_folder_whose_task_is_bundled(tmp_path):
    one = etude.tasks.get("cancer-mlp")
    train(one, Recipe(lr=0.01, steps=20, batch_size=64), folder=tmp_path / "run")
    found = etude.compress(
        tmp_path / "run", prune=0.5, budget=0, folder=tmp_path / "small", **QUICK
    )
    batch, _ = next(one.valid.sweep(8))
    assert torch.equal(load(tmp_path / "small")(batch[0]), found.model(batch[0]))


def test_code_of_a_stranger_is_not_run(tmp_path):
    found = compress("mlp", prune=0.5, budget=0, folder=tmp_path / "small")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ntask = None\n")
    note = {"reference": f"{tmp_path / 'evil.py'}:task", "options": {}, "digest": "", "built": ""}
    (found.folder / "task.json").write_text(json.dumps(note))
    with pytest.raises(StorageError, match=r"has not been run on this machine as it is"):
        load(found.folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "not written by this version"),
        ("[]", "a list where a table"),
        ("{", "is damaged"),
        ('{"version": 1, "seed": 0}', "description of the compressed model is damaged"),
        ('{"version": 1, "seed": "0"}', "not written by this version"),
    ],
)
def test_a_damaged_folder_is_named(content, said, tmp_path):
    found = compress("mlp", prune=0.5, budget=0, folder=tmp_path / "small")
    (found.folder / "compression.json").write_text(content)
    with pytest.raises(StorageError, match=said):
        load(found.folder, task("mlp"))
    (found.folder / "compression.json").unlink()
    with pytest.raises(StorageError, match=r"there is no compression\.json"):
        load(found.folder, task("mlp"))


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("way", ["prune", "structured"])
def test_a_share_out_of_bounds_is_refused(way, share):
    with pytest.raises(BadValueError, match=f"{way}={share!r} is out of bounds.*below 1"):
        compress("mlp", **{way: share})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing was given: give one of prune"),
        ({"prune": 0.5, "structured": 0.5}, "prune and structured was given"),
        ({"int8": "fast"}, "unknown int8 mode 'fast'"),
        ({"prune": 0.5, "scope": "all"}, "unknown scope 'all'"),
        ({"structured": 0.5, "scope": "layer"}, "belongs to prune"),
        ({"int8": "dynamic", "budget": 2}, "int8='dynamic' has none"),
        ({"int8": "qat", "budget": 0}, "leaves nothing of it"),
        ({"prune": 0.5, "budget": 1}, "give at least 1.5 fine-tuning runs"),
        ({"prune": 0.5, "budget": math.nan}, "budget=nan is out of bounds"),
        ({"prune": 0.5, "steps": 3}, "needs at least 16"),
        ({"prune": 0.5, "objective": "speed"}, "give 'loss' or 'metric'"),
    ],
)
def test_what_does_not_fit_together_is_refused(asked, said):
    with pytest.raises(BadValueError, match=said):
        compress("mlp", **asked)


def test_a_share_that_is_no_number_is_refused():
    with pytest.raises(BadTypeError, match=r"prune='0\.5' is not a number"):
        compress("mlp", prune="0.5")
    with pytest.raises(BadTypeError, match="structured=True is not a number"):
        compress("mlp", structured=True)
    with pytest.raises(BadTypeError, match="budget='2' is not a number"):
        compress("mlp", prune=0.5, budget="2")


def test_a_run_without_weights_is_refused(tmp_path):
    bare = replace(trained("mlp"), model=None)
    with pytest.raises(BadValueError, match="has no trained model"):
        etude.compress(bare, prune=0.5, task=task("mlp"))
    with pytest.raises(StorageError, match="holds no finished run"):
        etude.compress(tmp_path / "nowhere", prune=0.5)
    Recipe().save(tmp_path / "recipe.toml")
    with pytest.raises(StorageError, match="has no trained weights"):
        etude.compress(tmp_path, prune=0.5)
    with pytest.raises(BadTypeError, match="run is an int: give a run folder"):
        etude.compress(3, prune=0.5)
    with pytest.raises(StorageError, match="the record does not name its task"):
        etude.compress(trained("mlp"), prune=0.5)


def test_weights_that_are_not_finite_are_refused():
    model = cnn()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.raises(BadValueError, match=r"weights of '0\.weight' are not finite"):
        etude.compress(replace(trained("cnn"), model=model), prune=0.5, task=task("cnn"))


def test_a_model_without_layers_is_refused():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x.mean((1, 2, 3))[:, None] * self.scale

    one = Task(Scale, task("mlp").train, task("mlp").valid, loss=nn.functional.cross_entropy)
    record = train(one, Recipe(lr=0.01, steps=4, batch_size=16))
    with pytest.raises(BadValueError, match="no layer that can be pruned"):
        etude.compress(record, prune=0.5, task=one)
    with pytest.raises(BadValueError, match="no layer whose channels can be removed"):
        etude.compress(record, structured=0.5, task=one)
    pytest.importorskip("torchao")
    with pytest.raises(BadValueError, match="no layer that can be int8"):
        etude.compress(record, int8="dynamic", task=one)


def test_without_torchao_int8_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"etude\[compress\]"):
        compress("mlp", int8="dynamic")


def test_tied_weights_stay_tied():
    x = torch.arange(60).view(20, 3) % 12
    one = Task(
        Tied, (x, x), loss=lambda y, t: nn.functional.cross_entropy(y.flatten(0, 1), t.flatten())
    )
    record = train(one, Recipe(lr=0.01, steps=20, batch_size=5))
    found = etude.compress(record, prune=0.5, budget=0, task=one, **QUICK)
    assert found.model.table.weight is found.model.out.weight
    assert {one.treatment for one in found.layers} == {"pruned"}
    pytest.importorskip("torchao")
    found = etude.compress(record, int8="dynamic", task=one, **QUICK)
    assert found.model.table.weight_int8 is found.model.out.weight_int8
    assert "share their weights (out, table)" in " ".join(found.notes)


def test_a_layer_that_is_pruned_away_is_named():
    found = compress("mlp", prune=0.99, budget=0)
    empty = [one.name for one in found.layers if not one.kept]
    told = " ".join(found.notes)
    assert all(f"{name}.weight" in told for name in empty)
    assert bool(empty) == ("nothing passes there" in told)


# ---- schedules of fine-tuning ------------------------------------------------------------------


@pytest.mark.parametrize("length", [32, 64, 100])
def test_the_rewound_schedule_ends_as_the_runs_own(length):
    record = trained("mlp")
    found = TrainedNetwork(task("mlp"), record.recipe, record.model, None)
    rewound, constant = candidate_schedules(found, length)
    own = record.recipe.schedule.over(64)
    there = parse(rewound).over(length)
    if length <= 64:
        assert [there(t) for t in range(length)] == pytest.approx(
            [own(64 - length + t) for t in range(length)]
        )
    assert parse(constant).over(length)(5) == 1.0


def test_a_schedule_that_hears_the_loss_begins_anew():
    recipe = Recipe(schedule="plateau(0.5, patience=2)", steps=64, batch_size=16)
    found = TrainedNetwork(task("mlp"), recipe, cnn(), None)
    assert list(candidate_schedules(found, 32).values()) == ["anew", "constant"]


def test_weights_are_not_drawn_anew():
    recipe = Recipe(initialisation="orthogonal", steps=64, batch_size=16)
    found = TrainedNetwork(task("mlp"), recipe, cnn(), None)
    tuned = fine_tuning_recipe(found, None)
    assert tuned.initialisation is None
    assert clock_of(found.task, tuned).horizon == 32


def test_the_least_budget():
    TuningOptions(budget=0).check()
    TuningOptions(budget=1.5).check()
    with pytest.raises(BadValueError, match="or 0 for no fine-tuning"):
        TuningOptions(budget=-1).check()


# ---- the report --------------------------------------------------------------------------------


def test_the_report_has_the_table():
    found = compress("cnn", structured=0.5, budget=0)
    told = present(found)
    assert "structured 0.5 makes it" in told.title
    tables = [part for section in told.sections for part in section.parts]
    assert [row.cells[0] for row in tables[0].rows] == ["before", "after"]
    assert [row.cells[0] for row in tables[1].rows] == [one.name for one in found.layers]
    assert "structured 0.5" in found._repr_html_()
    assert "accuracy was" in told.lede.lower()
    assert "smaller" in repr(found)
    assert found.plain()["after"]["bytes"] == found.after.bytes
