"""A run that goes on from any step equals the one that was never interrupted, to the bit."""

from __future__ import annotations

import dataclasses
import re
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Sampler

from etude import Recipe, Record, Task, train
from etude.errors import BadValueError, EtudeError, StorageError, TaskError
from etude.storage import checkpoint
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests import helpers

data = partial(helpers.data, 48)
mlp = partial(helpers.mlp, 6, 10, 2)
noisy = partial(helpers.noisy, 10)


class Augmented(Dataset):
    def __init__(self) -> None:
        self.x, self.y = data()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(6) + np.random.rand()  # noqa: NPY002
        return self.x[index] + 0.1 * noise.float(), self.y[index]


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(7)
    return DataLoader(Augmented(), batch_size=8, shuffle=True, generator=generator)


STEPS = 13
BASE = Recipe(optimizer="adamw", lr=0.05, steps=STEPS, batch_size=8, seed=5)
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": True}
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "adamw": (mlp, data, {}),
    "sgd, dropout, batch norm": (noisy, data, {"optimizer": SGD}),
    "adamw, dropout, batch norm": (noisy, data, {}),
    "rmsprop": (mlp, data, {"optimizer": {"name": "rmsprop", "centered": True, "momentum": 0.5}}),
    "adagrad": (mlp, data, {"optimizer": "adagrad"}),
    "nadam": (mlp, data, {"optimizer": "nadam"}),
    "schedules": (
        mlp,
        data,
        {"schedules": {"momentum": "0.9 * linear(end=0.5)", "weight_decay": "linear()"}},
    ),
    "accumulation, clipping": (noisy, data, {"accumulate": 3, "clip_norm": 0.5, "batch_size": 5}),
    "bfloat16": (noisy, data, {"precision": "bfloat16"}),
    "dataset": (noisy, Augmented, {}),
    "loader": (noisy, loader, {}),
    "loader, accumulation": (noisy, loader, {"accumulate": 2}),
}


def task(model: Any, source: Any) -> Task:
    return Task(model, source(), valid=data(), loss=cross_entropy, metric="accuracy")


def facts(run: Run | Record) -> dict[str, Any]:
    """Everything that must not depend on where a run was interrupted."""
    record = run.record() if isinstance(run, Run) else run
    return {
        "model": {n: v.tolist() for n, v in record.model.state_dict().items()},
        "series": {n: s.tolist() for n, s in record.series.items()},
        "evaluations": [dataclasses.asdict(e) for e in record.evaluations],
        "status": (record.status, record.reason, record.cost.steps, record.cost.gradients),
    }


def optimizer_state(run: Run) -> str:
    return repr(run.optimizer.state_dict())


@pytest.mark.parametrize("name", CASES)
def test_resumed_at_any_step_equals_uninterrupted(name, tmp_path):
    model, source, changes = CASES[name]
    recipe = BASE.replace(**changes)
    whole = Run(task(model, source), recipe)
    quarters = whole.state.evenly_spaced(4)
    whole.advance(AdvanceRequest(evaluation_steps=quarters))
    for stop in range(STEPS + 1):
        first = Run(task(model, source), recipe)
        first.advance(AdvanceRequest(stop, evaluation_steps=quarters))
        folder = tmp_path / str(stop)
        checkpoint.save(folder, first.step, first.state_dict())
        torch.rand(stop)  # a fresh process would stand elsewhere in the global state too
        second = Run(task(model, source), recipe)
        second.load_state_dict(checkpoint.load_newest(folder))
        second.advance(AdvanceRequest(evaluation_steps=quarters))
        assert facts(second) == facts(whole), stop
        assert optimizer_state(second) == optimizer_state(whole), stop


class FaultError(Exception):
    pass


class Failing(nn.Module):
    """Draws dropout's numbers and moves batch statistics, and only then fails."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = noisy()
        self.at: int | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        output = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls == self.at:
                raise FaultError("the disk of the user is on fire")
        return output


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("source", [data, Augmented, loader], ids=["tensors", "dataset", "loader"])
def test_an_error_in_the_middle_of_an_update_costs_nothing(tmp_path, source, accumulate):
    recipe = BASE.replace(accumulate=accumulate)
    whole = train(task(Failing, source), recipe, folder=tmp_path / "whole")

    def break_it(run: Run) -> None:
        if run.step == 9:
            run.model.at = run.model.calls + accumulate  # in the last batch of the next update

    folder = tmp_path / "broken"
    with pytest.raises(TaskError, match="the disk of the user is on fire") as caught:
        train(task(Failing, source), recipe, folder=folder, on_step=break_it)
    notes = " ".join(caught.value.__notes__)
    assert notes == (
        f"Saved up to update 9. Go on with: etude.train(task, folder={str(folder)!r}, resume=True)"
    )
    kept = Record.load(folder)
    assert (kept.status, kept.cost.steps) == ("stopped", 9)
    assert "the disk of the user is on fire" in kept.reason
    assert kept.series["loss"].tolist() == whole.series["loss"][:9].tolist()
    again = train(task(Failing, source), folder=folder, resume=True)
    assert facts(again) == facts(whole)
    one, other = (tmp_path / name / "model.safetensors" for name in ("whole", "broken"))
    assert one.read_bytes() == other.read_bytes()


def test_an_error_outside_the_update_costs_nothing(tmp_path):
    whole = train(task(noisy, data), BASE)

    def fail(run: Run) -> None:
        if run.step == 9:
            raise FaultError("in a callback")

    with pytest.raises(FaultError, match="in a callback") as caught:
        train(task(noisy, data), BASE, folder=tmp_path / "run", on_step=fail)
    assert "Saved up to update 9" in caught.value.__notes__[0]
    assert facts(train(task(noisy, data), folder=tmp_path / "run", resume=True)) == facts(whole)


def test_a_run_stopped_in_memory_goes_on(tmp_path):
    whole = Run(task(noisy, loader), BASE)
    whole.advance()
    stopped = Run(task(noisy, loader), BASE)
    stopped.advance(AdvanceRequest(stop=lambda: stopped.step == 7))
    assert (stopped.step, stopped.status) == (7, "stopped")
    stopped.advance()
    assert facts(stopped) == facts(whole)


def test_half_an_update_inside_the_optimizer_is_not_saved(tmp_path):
    def break_optimizer(run: Run) -> None:
        if run.step == 8:

            def fail(*args: object, **kwargs: object) -> None:
                raise FaultError("inside the optimizer")

            run.optimizer.step = fail

    folder = tmp_path / "run"
    with pytest.raises(FaultError, match="inside the optimizer") as caught:
        train(task(noisy, data), BASE, folder=folder, on_step=break_optimizer, checkpoint_every=3)
    assert "an update is half done" in caught.value.__notes__[0]
    whole = train(task(noisy, data), BASE)
    assert facts(train(task(noisy, data), folder=folder, resume=True)) == facts(whole)


def partial(folder: Path, at: int = 9) -> None:
    """Leave a run in `folder` that was interrupted after `at` updates."""

    def stop(run: Run) -> None:
        if run.step == at:
            raise FaultError("stop")

    with pytest.raises(FaultError, match="stop"):
        train(task(noisy, data), BASE, folder=folder, on_step=stop, checkpoint_every=3)


def test_a_damaged_newest_checkpoint_gives_the_same_result(tmp_path):
    whole = train(task(noisy, data), BASE)
    folder = tmp_path / "run"
    partial(folder, at=10)
    newest = sorted((folder / "checkpoints").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="step-000000000010.*is damaged.*continuing from step 9"):
        again = train(task(noisy, data), folder=folder, resume=True)
    assert facts(again) == facts(whole)


def test_lost_checkpoints_are_a_start_anew_and_damaged_ones_are_not(tmp_path):
    whole = train(task(noisy, data), BASE)
    folder = tmp_path / "run"
    partial(folder)
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    shutil.rmtree(folder / "checkpoints")
    assert facts(train(task(noisy, data), folder=folder, resume=True)) == facts(whole)
    for path in (kept / "checkpoints").iterdir():
        path.write_bytes(b"")
    before = {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()}
    with pytest.raises(StorageError, match=r"no checkpoint in .* is whole"):
        train(task(noisy, data), folder=kept, resume=True)
    assert {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()} == before


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    whole = train(task(noisy, data), BASE, folder=folder)
    content = (folder / "model.safetensors").read_bytes()
    again = train(task(noisy, data), folder=folder, resume=True)
    assert facts(again) == facts(whole)
    assert (folder / "model.safetensors").read_bytes() == content


def test_what_can_be_resumed_and_what_cannot(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(BadValueError, match="resume=True needs folder="):
        train(task(mlp, data), resume=True)
    with pytest.raises(StorageError, match=r"holds no run to resume: there is no recipe\.toml"):
        train(task(mlp, data), folder=folder, resume=True)
    partial(folder)
    with pytest.raises(StorageError, match="already holds a run: resume it, or choose another"):
        train(task(noisy, data), BASE, folder=folder)
    with pytest.raises(StorageError, match=r"another recipe \(other lr, seed\): leave the recipe"):
        train(task(noisy, data), BASE.replace(lr=1.0, seed=0), folder=folder, resume=True)
    with pytest.raises(StorageError, match="the checkpoint is of another model"):
        train(task(mlp, data), folder=folder, resume=True)
    (folder / "recipe.toml").write_text("lr = ", encoding="utf-8")
    with pytest.raises(EtudeError, match=r"recipe\.toml: the recipe is not valid TOML"):
        train(task(noisy, data), folder=folder, resume=True)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    run = Run(task(mlp, data), BASE)
    with pytest.raises(StorageError, match=r"the checkpoint is of recipe .*, not "):
        Run(task(mlp, data), BASE.replace(lr=0.1)).load_state_dict(run.state_dict())


@pytest.mark.parametrize("change", [torch.Tensor.int, torch.Tensor.half, lambda t: t.new_zeros(3)])
def test_an_optimizer_s_state_that_does_not_fit_is_named(change):
    """What an optimizer remembers has shapes of its own: its first update shows whether it fits."""
    run = Run(task(mlp, data), BASE.replace(optimizer="adam"))
    run.advance(3)
    state = run.state_dict()
    kept = state["optimizer"]["state"]
    for moments in kept.values():
        moments["exp_avg"] = change(moments["exp_avg"])
    other = Run(task(mlp, data), BASE.replace(optimizer="adam"))
    other.load_state_dict(state)
    with pytest.raises(StorageError, match="holds an optimizer's state that does not fit: "):
        other.advance(5)


class Carries(nn.Module):
    """A network whose state from batch to batch is in a buffer that `state_dict` leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.register_buffer("carried", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x) + self.carried
        if self.training:
            self.carried = 0.5 * self.carried + out.detach().mean(0)
        return out


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"early_stopping": 2, "lr": 0.5},
        {"spikes": "rewind(back=4, skip=6, sigmas=1, window=8, after=8)"},
    ],
)
def test_buffers_that_the_state_dict_leaves_out_are_resumed(tmp_path, more):
    of = Task(Carries, helpers.data(90), loss=cross_entropy)
    recipe = Recipe(**{"lr": 0.05, "steps": 30, "batch_size": 8, "evaluations": 10} | more)
    whole = train(of, recipe)

    def stop(run):
        if run.step == 5 if "early_stopping" in more else run.step == 11:
            raise ZeroDivisionError("cut off")

    with pytest.raises(ZeroDivisionError, match="cut off"):
        train(of, recipe, folder=tmp_path / "run", on_step=stop)
    resumed = train(of, folder=tmp_path / "run", resume=True)
    assert resumed.series["loss"].tolist() == whole.series["loss"].tolist()
    assert resumed.evaluations == whole.evaluations
    assert torch.equal(resumed.model.carried, whole.model.carried)


class OwnNoise(Augmented):
    def __init__(self, own: bool = True) -> None:
        super().__init__()
        if own:
            self.rng = np.random.default_rng(0)


class OwnOrder(Sampler):
    def __init__(self) -> None:
        self.order = np.random.RandomState(0)

    def __iter__(self):
        return iter(self.order.permutation(48).tolist())

    def __len__(self) -> int:
        return 48


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (OwnNoise, r"\(OwnNoise\.rng\), whose state no checkpoint holds: from update 5 on"),
        (lambda: DataLoader(OwnNoise(), 8), r"\(OwnNoise\.rng\)"),
        (lambda: DataLoader(OwnNoise(own=False), 8, sampler=OwnOrder()), r"\(OwnOrder\.order\)"),
        (lambda: DataLoader(Augmented(), 8, shuffle=True, generator=torch.Generator()), None),
    ],
)
def test_a_generator_that_is_not_saved_is_named(tmp_path, source, name):
    def of() -> Task:
        return Task(mlp, source(), valid=data(), loss=cross_entropy)

    def stop(run):
        if run.step == 5:
            raise ZeroDivisionError("cut off")

    recipe = Recipe(steps=8, batch_size=8)
    with pytest.raises(ZeroDivisionError, match="cut off"):
        train(of(), recipe, folder=tmp_path / "run", on_step=stop)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(of(), folder=tmp_path / "run", resume=True)
    said = [str(one.message) for one in told if "of their own" in str(one.message)]
    assert len(said) == (name is not None)
    assert name is None or re.search(name, said[0])
