"""What people already have: tables, nested inputs and targets, narrow labels, a lone DataLoader."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from etude import Recipe, Task, train, tune
from etude.engines import train_many
from etude.errors import BadTypeError, TaskError
from etude.tasks.references.fingerprint import fingerprint
from etude.tasks.sources.data import NestedData, TensorData, as_data
from etude.tasks.sources.loaders import LoaderData
from etude.trials.folds import folds_of
from etude.trials.valid_samples import compared_on

SHORT = Recipe(optimizer="sgd", lr=0.05, steps=20, batch_size=16, evaluations=4)
X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def same_run(one: Task, two: Task, recipe: Recipe = SHORT) -> bool:
    a, b = train(one, recipe), train(two, recipe)
    return bool((a.series["loss"] == b.series["loss"]).all()) and a.evaluations == b.evaluations


def line() -> nn.Module:
    return nn.Linear(4, 2)


# ---- tables -------------------------------------------------------------------------------------


def frame(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"c{i}" for i in range(values.shape[1])])


def test_a_frame_and_a_series_train_like_their_numbers():
    tables = Task(line, (frame(X.numpy()), pd.Series(Y.numpy())), loss=cross_entropy)
    assert same_run(tables, Task(line, (X, Y), loss=cross_entropy))
    assert (
        fingerprint(tables)["train"] == fingerprint(Task(line, (X, Y), loss=cross_entropy))["train"]
    )


@given(
    st.sampled_from(["float64", "float32", "int64", "int32", "int8", "bool", "Int64", "Float64"]),
    st.integers(1, 9),
)
def test_columns_of_any_type_of_number_are_read(dtype, rows):
    column = pd.Series(np.arange(rows) % 2, dtype=dtype)
    (found,) = as_data(column, "train").tensors
    assert found.tolist() == (np.arange(rows) % 2).tolist()
    assert found.dtype != torch.float64


def test_what_is_missing_is_named_as_nan():
    table = frame(X.numpy()).astype("Float64")
    table.iloc[7, 2] = pd.NA
    with pytest.raises(TaskError, match=r"inputs\[0\] holds 1 value that is NaN or Inf, .* row 7"):
        train(Task(line, (table, Y), (X, Y), loss=cross_entropy), SHORT)


def test_mixed_columns_become_floats_and_whole_ones_stay():
    mixed = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    assert as_data(mixed, "train").tensors[0].dtype == torch.float32
    assert as_data(mixed[["a"]], "train").tensors[0].dtype == torch.int64
    named = as_data({"a": mixed["a"], "b": mixed["b"]}, "train")
    assert {k: v.tolist() for k, v in named.tensors.items()} == {"a": [1, 2], "b": [0.5, 1.5]}


@pytest.mark.parametrize(
    "column", [pd.Series(["x", "y"]), pd.Series(["x", "y"], dtype="category"),
               pd.to_datetime(pd.Series(["2020-01-01", "2020-01-02"]))],
)  # fmt: skip
def test_a_column_that_is_no_number_is_named(column):
    table = pd.DataFrame({"size": [1.0, 2.0], "colour": column})
    with pytest.raises(BadTypeError, match=r"column 'colour' has the dtype .* leave it out"):
        Task(line, (table, Y[:2]), 0.5, loss=cross_entropy)
    with pytest.raises(BadTypeError, match="the series has the dtype"):
        Task(line, (X[:2], column), 0.5, loss=cross_entropy)


# ---- nested inputs and targets ------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, both: tuple[Tensor, Tensor] | dict[str, Tensor]) -> Tensor:
        a, b = both.values() if isinstance(both, dict) else both
        return self.one(a) + self.two(b)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = self.body(x)
        return {"kind": out[:, :2], "size": out[:, 2]}


def both_losses(output: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    return cross_entropy(output["kind"], target["kind"]) + mse_loss(output["size"], target["size"])


NESTED = {
    "pair": (TwoInputs, ((X[:, :2], X[:, 2:]), Y), cross_entropy),
    "list": (TwoInputs, [[X[:, :2], X[:, 2:]], Y], cross_entropy),
    "named": (TwoInputs, ({"a": X[:, :2], "b": X[:, 2:].numpy()}, Y), cross_entropy),
    "targets": (TwoOutputs, (X, {"kind": Y.int(), "size": X[:, 0]}), both_losses),
    "frames": (TwoInputs, ((frame(X[:, :2].numpy()), frame(X[:, 2:].numpy())), Y), cross_entropy),
}


class Rows(Dataset):
    """The samples of nested tensors, one by one."""

    def __init__(self, data: NestedData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.samples

    def __getitem__(self, i: int):
        ((batch, _),) = NestedData(self.data.take(torch.tensor([i]))).sweep(1)
        squeeze = lambda v: (  # noqa: E731
            {k: squeeze(x) for k, x in v.items()} if isinstance(v, dict)
            else tuple(map(squeeze, v)) if isinstance(v, tuple) else v[0]
        )  # fmt: skip
        return squeeze(batch)


@pytest.mark.parametrize("name", NESTED)
def test_nested_tensors_train_like_a_dataset_of_them(name):
    model, data, loss = NESTED[name]
    nested = as_data(data, "train")
    assert isinstance(nested, NestedData)
    assert nested.samples == 96
    rows = Rows(nested)
    assert same_run(Task(model, data, loss=loss), Task(model, rows, loss=loss))
    assert fingerprint(Task(model, data, loss=loss))["train"] is not None


def test_nested_tensors_are_tuned_and_folded():
    model, data, loss = NESTED["targets"]
    task = Task(model, data, loss=loss)
    best = tune(task, SHORT.replace(steps=32), 1.5, engine="loop", progress=False)
    assert best.record.status == "finished"
    held = torch.cat([f.valid.tree[1]["size"] for f in folds_of(task, 3)])
    assert held.sort().values.tolist() == task.train.tree[1]["size"].sort().values.tolist()
    assert compared_on(task, SHORT, 16).valid.samples == 16


@pytest.mark.slow
def test_nested_tensors_have_the_same_bits_in_processes():
    model, data, loss = NESTED["named"]
    task = Task(model, data, loss=loss)
    recipes = [SHORT, SHORT.replace(lr=0.1)]
    for a, b in zip(*(train_many(task, recipes, e) for e in ("loop", "pool")), strict=True):
        assert a.series["loss"].tolist() == b.series["loss"].tolist()


def test_nested_tensors_of_different_lengths_are_refused():
    with pytest.raises(TaskError, match="first axes differ"):
        Task(TwoInputs, ((X, X[:5]), Y), loss=cross_entropy)
    with pytest.raises(BadTypeError, match="train is a tuple of tuple, Tensor"):
        Task(TwoInputs, ((X, "words"), Y), loss=cross_entropy)


def test_flat_tensors_stay_what_they_were():
    assert type(as_data((X, Y), "train")) is TensorData
    assert type(as_data({"x": X}, "train")) is TensorData


# ---- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_labels_of_any_width_train_like_those_of_64_bits(dtype):
    wide = Task(line, (X, Y), loss=cross_entropy, metric="accuracy")
    assert same_run(Task(line, (X, Y.to(dtype)), loss=cross_entropy, metric="accuracy"), wide)
    loader = DataLoader(TensorDataset(X, Y.to(dtype)), batch_size=16)
    task = Task(line, loader, (X, Y.numpy().astype("int32")), loss=cross_entropy)
    assert train(task, SHORT).status == "finished"


# ---- a DataLoader alone -------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_loader_without_validation_data_holds_out_what_tensors_would(shuffle, drop_last):
    loader = DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=shuffle, drop_last=drop_last)
    task = Task(line, loader, loss=cross_entropy)
    tensors = Task(line, (X, Y), loss=cross_entropy)
    assert isinstance(task.train, LoaderData)
    assert task.train.samples == tensors.train.samples == 77
    held = [batch for batch, _ in task.valid.sweep(10)]
    assert torch.equal(torch.cat([x for x, _ in held]), tensors.valid.tensors[0])
    assert len(task.train.loader) == (7 if drop_last else 8)
    assert train(task, SHORT.replace(batch_size=None)).status == "finished"
    assert loader.dataset.tensors[0] is X


class Own(Sampler[int]):
    def __iter__(self):
        return iter(range(96))

    def __len__(self) -> int:
        return 96


ROWS = TensorDataset(X, Y)
OWN_ORDER = {
    "an Own of its own": DataLoader(ROWS, batch_size=8, sampler=Own()),
    "a WeightedRandomSampler of its own": DataLoader(
        ROWS, batch_size=8, sampler=WeightedRandomSampler([1.0] * 96, 96)
    ),
    "a RandomSampler of its own": DataLoader(
        ROWS, batch_size=8, sampler=RandomSampler(ROWS, replacement=True)
    ),
    "a batch_sampler of its own": DataLoader(ROWS, batch_sampler=[[0, 1], [2, 3]]),
    "it makes no batches": DataLoader(ROWS, batch_size=None),
    "leaves samples out": DataLoader(
        ROWS, batch_size=8, sampler=RandomSampler(ROWS, num_samples=50)
    ),
}


@pytest.mark.parametrize("why", OWN_ORDER)
def test_a_loader_with_an_order_of_its_own_is_left_whole(why):
    with pytest.raises(TaskError, match=rf"cannot be split, since .*{why}.*valid=DataLoader"):
        Task(line, OWN_ORDER[why], loss=cross_entropy)
    task = Task(line, OWN_ORDER[why], OWN_ORDER[why], loss=cross_entropy)
    assert compared_on(task, SHORT) is task
    with pytest.raises(BadTypeError, match=f"valid_samples=16 .*{why}"):
        compared_on(task, SHORT, 16)
    with pytest.raises(BadTypeError, match=f"folds=2 .*{why}"):
        folds_of(task, 2)


def test_a_loader_is_compared_on_the_same_samples_as_tensors():
    loader = DataLoader(ROWS, batch_size=10, shuffle=True)
    task, tensors = (Task(line, (X, Y), valid, loss=cross_entropy) for valid in (loader, (X, Y)))
    part, other = compared_on(task, SHORT, 40), compared_on(tensors, SHORT, 40)
    batches = [batch for batch, _ in part.valid.sweep(10)]
    assert torch.equal(torch.cat([x for x, _ in batches]), other.valid.tensors[0])


def test_folds_of_a_loader_hold_out_every_sample_once():
    loader = DataLoader(ROWS, batch_size=10, shuffle=True, drop_last=True)
    task = Task(line, loader, (X, Y), loss=cross_entropy)
    held = [x for f in folds_of(task, 3) for (x, _), _ in f.valid.sweep(10)]
    assert torch.cat(held).sum(1).sort().values.tolist() == X.sum(1).sort().values.tolist()
