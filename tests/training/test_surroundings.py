"""What a run leaves alone, and what it says of a model that cannot be trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pack_sequence

from etude import Recipe, Task, train
from etude.errors import BadValueError, TaskError
from etude.training.evaluation.evaluate import move
from etude.training.machine.device import device_for

RECIPE = Recipe(steps=8, batch_size=8)


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return x, x[:, :1]


def test_the_first_training_leaves_the_warning_filters_alone():
    """In a process of its own: libraries add theirs when they are first loaded."""
    code = (
        "import warnings, torch, etude\n"
        "before = list(warnings.filters)\n"
        "x = torch.randn(40, 3)\n"
        "task = etude.Task(lambda: torch.nn.Linear(3, 1), (x, x[:, :1]),\n"
        "                  loss=torch.nn.functional.mse_loss)\n"
        "recipe = etude.Recipe(steps=20, batch_size=8)\n"
        "etude.train(task, recipe)\n"
        "assert warnings.filters == before, 'train'\n"
        "etude.tune(task, recipe, 1.5, progress=False)\n"
        "assert warnings.filters == before, 'tune'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def whole() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(3, 1)


def half() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1).to("meta"))


def buffer() -> nn.Module:
    model = nn.Linear(3, 1)
    model.register_buffer("scale", torch.ones(2, device="meta"))
    return model


@pytest.mark.parametrize(
    ("make", "name"), [(whole, "'weight'"), (half, r"'1\.weight'"), (buffer, "'scale'")]
)
def test_a_model_on_the_meta_device_is_refused_by_name(make: Callable[[], nn.Module], name: str):
    for model in (make, make()):
        with pytest.raises(
            TaskError, match=f"^{name} of the model is on the meta device.*to_empty"
        ):
            train(Task(model, data(), loss=mse_loss), RECIPE)


def test_data_and_training_on_the_meta_device_are_refused():
    with pytest.raises(TaskError, match="the data are on the meta device"):
        Task(lambda: nn.Linear(3, 1), tuple(t.to("meta") for t in data()), loss=mse_loss)
    task = Task(lambda: nn.Linear(3, 1), data(), loss=mse_loss)
    with pytest.raises(BadValueError, match="device='meta' cannot be used: tensors on it have a"):
        train(task, RECIPE, device="meta")


def test_an_error_names_the_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 1)))
    message = r"the model failed on inputs .* in layer '1\.1' \(Linear\): mat1 and mat2"
    with pytest.raises(TaskError, match=message):
        train(Task(model, data(), loss=mse_loss), RECIPE)


def test_a_clock_that_goes_back_costs_nothing(monkeypatch):
    """Of a virtual machine that is moved, even a monotonic clock may."""
    now = iter(range(10**6, 0, -1))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    record = train(Task(lambda: nn.Linear(3, 1), data(), loss=mse_loss), RECIPE)
    assert record.cost.seconds == 0.0


def test_an_accelerator_is_named_with_its_number(monkeypatch):
    first, model = torch.device("cuda", 0), nn.Linear(1, 1)
    monkeypatch.setattr(torch, "empty", lambda *_, device: SimpleNamespace(device=first))
    assert device_for("cuda", model) == first
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert device_for(None, model) == first
    assert device_for("cpu", model) == torch.device("cpu")


def test_a_batch_of_a_class_of_its_own_moves_itself():
    """The lengths of a packed sequence stay on the CPU, wherever the numbers are."""
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    moved, label = move((packed, torch.ones(2)), torch.device("meta"))
    assert moved.data.is_meta
    assert label.is_meta
    assert moved.batch_sizes.device.type == "cpu"
    same, _ = move((packed, torch.ones(2)), torch.device("cpu"))
    assert torch.equal(same.data, packed.data)
