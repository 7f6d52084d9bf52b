"""Saved weights of another kind of number are refused; buffers keep the type they were saved in."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import mse_loss

from etude import Recipe, Task, train
from etude.compression.saved import put_together, taken_apart
from etude.errors import StorageError
from etude.storage.layout import MODEL
from etude.storage.run_folder import RunFolder

KINDS = [torch.complex64, torch.int64, torch.bool]


class Counts(nn.Module):
    """Counts its training batches in a buffer that begins as a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("unsaved", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(self, x):
        if self.training:
            self.count = self.count + 0.3
            self.unsaved = self.unsaved + 0.3
        return self.layer(x) * (1 + 0.1 * self.count + 0.1 * self.unsaved)


def counting() -> Task:
    x = torch.linspace(-1, 1, 40)[:, None]
    return Task(Counts, (x, 3 * x), loss=mse_loss)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_of_another_kind_of_number_are_refused(tmp_path, kind):
    model = nn.Linear(2, 1)
    RunFolder(tmp_path).save_model(model)
    path = tmp_path / MODEL
    tensors = load_file(path)
    save_file({**tensors, "weight": tensors["weight"].to(kind)}, path)
    with pytest.raises(StorageError, match=f"'weight' holds numbers of {kind}"):
        RunFolder(tmp_path).read_model(nn.Linear(2, 1))
    layout, _ = taken_apart(model, {}, ())
    with pytest.raises(StorageError, match=f"'weight' holds numbers of {kind}"):
        put_together(nn.Linear(2, 1), layout, load_file(path))


def test_weights_of_another_precision_are_read(tmp_path):
    model = nn.Linear(2, 1).double()
    RunFolder(tmp_path).save_model(model)
    same = nn.Linear(2, 1)
    RunFolder(tmp_path).read_model(same)
    assert same.weight.dtype == torch.float32
    assert torch.equal(same.weight, model.weight.float())


def test_the_error_of_another_model_is_one_line(tmp_path):
    def deep(width: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(width, width) for _ in range(40)))

    RunFolder(tmp_path).save_model(deep(2))
    layout, tensors = taken_apart(deep(2), {}, ())
    for read in (
        lambda: RunFolder(tmp_path).read_model(deep(3)),
        lambda: put_together(deep(3), layout, tensors),
    ):
        with pytest.raises(StorageError, match="of another task") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_buffer_that_changed_its_type_is_resumed_to_the_bit(tmp_path):
    recipe = Recipe(lr=0.05, steps=12, batch_size=8)
    whole = train(counting(), recipe)

    def stop(state) -> None:
        if state.step == 7:
            raise ZeroDivisionError("stopped here")

    with pytest.raises(ZeroDivisionError, match="stopped here"):
        train(counting(), recipe, folder=tmp_path / "run", on_step=stop, checkpoint_every=2)
    resumed = train(counting(), folder=tmp_path / "run", resume=True)
    assert resumed.valid_loss == whole.valid_loss
    assert resumed.model.count.item() == whole.model.count.item() == pytest.approx(3.6)
    again = Counts()
    RunFolder(tmp_path / "run").read_model(again)
    assert torch.equal(again.count, whole.model.count)


def in_one_memory(model: nn.Module) -> nn.Module:
    """Lay all weights of a model into one memory, as a GPU does with those of an LSTM."""
    whole = torch.cat([p.detach().flatten() for p in model.parameters()])
    place = 0
    for parameter in model.parameters():
        parameter.data = whole[place : place + parameter.numel()].view_as(parameter)
        place += parameter.numel()
    return model


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_weights_that_are_parts_of_one_memory_are_written_and_read(tmp_path, saved, read):
    torch.manual_seed(1)
    model, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    RunFolder(tmp_path).save_model(in_one_memory(model) if saved else model)
    RunFolder(tmp_path).read_model(in_one_memory(other) if read else other)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, other.get_parameter(name))
    size = sum(p.numel() for p in model.parameters()) * 4
    assert size < (tmp_path / MODEL).stat().st_size < size + 1000


class Tied(nn.Module):
    """A layer whose weight is also that of another, as it is or transposed."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.outer.weight = (
            nn.Parameter(self.inner.weight.data.T) if transposed else self.inner.weight
        )


@pytest.mark.parametrize("transposed", [False, True])
def test_tied_weights_are_written_once_and_stay_tied(tmp_path, transposed):
    model, other = Tied(transposed), Tied(transposed)
    RunFolder(tmp_path).save_model(model)
    assert list(load_file(tmp_path / MODEL)) == ["inner.weight"]
    RunFolder(tmp_path).read_model(other)
    assert torch.equal(model.inner.weight, other.inner.weight)
    assert torch.equal(model.outer.weight, other.outer.weight)
    assert other.outer.weight.data_ptr() == other.inner.weight.data_ptr()


def test_weights_that_are_missing_or_too_many_are_named(tmp_path):
    RunFolder(tmp_path).save_model(nn.Linear(2, 1, bias=False))
    with pytest.raises(StorageError, match=r'Missing key.* "bias"'):
        RunFolder(tmp_path).read_model(nn.Linear(2, 1))
    RunFolder(tmp_path).save_model(nn.Linear(2, 1))
    with pytest.raises(StorageError, match=r'Unexpected key.* "bias"'):
        RunFolder(tmp_path).read_model(nn.Linear(2, 1, bias=False))
