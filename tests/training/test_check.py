"""What is wrong with the data or the model is named before training, with its place."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from etude import Recipe, Task, train
from etude.errors import EtudeError, StorageError, TaskError, where
from etude.storage.run_folder import RunFolder
from etude.training.request import AdvanceRequest
from etude.training.run import Run

COUNT = 64
X = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
BASE = Recipe(optimizer="sgd", lr=0.05, steps=20, batch_size=8)


def linear() -> nn.Module:
    return nn.Linear(3, 1)


def masked(output: Tensor, target: Tensor) -> Tensor:
    """Passes over targets that are NaN."""
    known = target.isfinite()
    return (output - target.nan_to_num()).square().mul(known).sum() / known.sum().clamp_min(1)


# ---- NaN and Inf in the data -------------------------------------------------------------


@settings(max_examples=25)
@given(
    row=st.integers(0, COUNT - 1),
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
    where_=st.sampled_from(["inputs", "targets"]),
    seed=st.integers(0, 3),
)
def test_a_row_that_breaks_the_loss_is_found_wherever_it_is(row, value, where_, seed):
    x, y = X.clone(), Y.clone()
    (x if where_ == "inputs" else y)[row] = value
    name = r"inputs\[0\] holds 3 values that are" if where_ == "inputs" else "targets holds 1 val"
    task = Task(linear, (x, y), valid=(X, Y), loss=mse_loss)
    with pytest.raises(TaskError, match=rf"untrained model is \S+ on .*: {name}"):
        Run(task, BASE.replace(seed=seed)).check()


def test_the_first_row_is_named():
    x = X.clone()
    x[[63, 17, 40], 0] = math.nan
    message = (
        r"^the loss of the untrained model is nan on training row 17: inputs\[0\] holds 3 values "
        "that are NaN or Inf, the first in row 17$"
    )
    recipe = BASE.replace(seed=next(s for s in range(99) if not _in_first_batch(s, {17, 40, 63})))
    with pytest.raises(TaskError, match=message):
        train(Task(linear, (x, Y), valid=(X, Y), loss=mse_loss), recipe)


def test_a_row_of_a_part_that_was_split_off_keeps_its_number():
    for row in (5, 6, 7, 8, 9, 10):  # some of them are held out
        x = X.clone()
        x[row, 1] = math.inf
        with pytest.raises(TaskError, match=rf"holds 1 value .* the first in row {row}$"):
            train(Task(linear, (x, Y), loss=mse_loss), BASE)
    held = {int(r) for r in Task(linear, (X, Y), loss=mse_loss).valid.origin}
    assert 0 < len(held & {5, 6, 7, 8, 9, 10}) < 6


def _in_first_batch(seed: int, rows: set[int]) -> bool:
    task = Task(linear, (torch.arange(COUNT).float(), Y), valid=(X, Y), loss=mse_loss)
    run = Run(task, BASE.replace(seed=seed))
    first = next(run.task.train.stream(8, seed, run.state.cursor))
    return bool(rows & set(first[0].tolist()))


def test_a_loss_that_passes_over_what_is_missing_trains():
    y = Y.clone()
    y[::3] = math.nan
    record = train(Task(linear, (X, y), valid=(X, y), loss=masked), BASE.replace(steps=100))
    assert record.status == "finished"
    assert record.valid_loss < 0.1 * record.evaluations[0].loss
    with pytest.raises(TaskError, match="targets holds"):
        train(Task(linear, (X, y), valid=(X, Y), loss=mse_loss), BASE)


def test_a_mapping_is_named_by_its_key_and_a_step_by_its_place():
    x = X.clone()
    x[:] = math.inf

    def of_mapping(model: nn.Module, batch: Any) -> Tensor:
        return model(batch["pixels"]).square().mean()

    def of_tuple(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[1]).square().mean()

    with pytest.raises(TaskError, match="on the first batch: 'pixels' holds 153 values that are"):
        train(Task(linear, {"ids": Y, "pixels": x}, step=of_mapping), BASE)
    with pytest.raises(TaskError, match=r"on the first batch: batch\[1\] holds 153 values"):
        train(Task(linear, (Y, x), step=of_tuple), BASE)


def test_a_loader_is_looked_into_batch_by_batch():
    x = X.clone()
    x[2, 1] = math.nan
    loader = DataLoader(TensorDataset(x, Y), batch_size=8)
    with pytest.raises(TaskError, match=r"first batch: inputs\[0\] holds 1 value that is .* row 2"):
        train(Task(linear, loader, valid=(X, Y), loss=mse_loss), BASE)


def test_a_fault_that_is_not_in_the_data_is_said_to_be_elsewhere():
    def broken(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).mean() * math.nan

    with pytest.raises(
        TaskError, match="is nan on the first batch: the data is finite, so look in"
    ):
        train(Task(linear, (X, Y), loss=broken), BASE)


# ---- where the user's own code failed ----------------------------------------------------


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("here")


LINE = fails.__code__.co_firstlineno + 1


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 1))
        self.inner.register_forward_hook(fails)  # torch's own frames lie between

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class FailingStream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return fails()


FAILURES = {
    "loss": lambda: Task(linear, (X, Y), loss=fails),
    "step": lambda: Task(linear, (X, Y), step=fails),
    "model": lambda: Task(Failing, (X, Y), loss=mse_loss),
    "factory": lambda: Task(lambda: fails(), (X, Y), loss=mse_loss),
    "metric": lambda: Task(linear, (X, Y), loss=mse_loss, metric=fails),
    "metric of a step": lambda: Task(
        linear, (X, Y), step=lambda m, b: m(b[0]).mean(), metric=fails
    ),
    "stream": lambda: Task(linear, FailingStream(), valid=(X, Y), loss=mse_loss),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_in_the_users_code_names_its_line(name):
    with pytest.raises(TaskError, match=rf"here \(test_check\.py:{LINE}\)$"):
        train(FAILURES[name](), BASE)


def test_an_error_of_torch_alone_names_no_line():
    with pytest.raises(TaskError, match=r"cannot be multiplied \(8x3 and 4x1\); the model"):
        train(Task(lambda: nn.Linear(4, 1), (X, Y), loss=mse_loss), BASE)
    assert where(EtudeError("never raised")) == ""


# ---- a state that is carried from batch to batch -----------------------------------------


class Windows(IterableDataset):
    """Four long series, side by side, cut into windows that follow each other."""

    def __init__(self, windows: int = 12, length: int = 6) -> None:
        self.windows, self.length = windows, length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        time = torch.arange(self.windows * self.length + 1) * 0.3
        series = torch.stack([(time + phase).sin() for phase in range(4)])
        for w in range(self.windows):
            part = series[:, w * self.length : (w + 1) * self.length + 1]
            # One sample is one series: four of them, in order, are a batch.
            yield from zip(part[:, :-1, None], part[:, 1:, None], strict=True)

    def __len__(self) -> int:
        return 4 * self.windows


class Carrying(nn.Module):
    """A GRU that goes on from where the last batch ended: truncated backpropagation in time."""

    def __init__(self, kind: str = "set") -> None:
        super().__init__()
        self.kind = kind
        self.cell = nn.GRU(1, 8, batch_first=True)
        self.head = nn.Linear(8, 1)
        if kind == "in place":
            self.register_buffer("state", torch.zeros(1, 4, 8))
        elif kind == "set":
            self.register_buffer("state", None)
        elif kind == "not kept":
            self.register_buffer("state", None, persistent=False)
        else:
            self.state = None

    def forward(self, x: Tensor) -> Tensor:
        state = self.state
        if state is not None and state.shape[1] != len(x):
            state = None
        elif self.kind == "in place":
            state = state.clone()  # the backward pass needs it as it was
        output, state = self.cell(x, state)
        if self.kind == "in place":
            if len(x) == 4:
                self.state.copy_(state.detach())
        else:
            self.state = state.detach()
        return self.head(output)


def step(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return mse_loss(model(x), y)


def carrying(kind: str) -> Task:
    return Task(lambda: Carrying(kind), Windows(), valid=Windows(4), step=step)


RECIPE = Recipe(optimizer="adam", lr=0.01, steps=30, batch_size=4, accumulate=2)


@pytest.mark.parametrize("kind", ["in place", "set", "not kept"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("at", [0, 1, 13])
def test_a_state_in_a_buffer_is_carried_paused_and_resumed_to_the_bit(kind, precision, at):
    recipe = RECIPE.replace(precision=precision)
    whole, first, second = (Run(carrying(kind), recipe) for _ in range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole.check()
    whole.advance(AdvanceRequest(evaluation_steps=whole.state.evenly_spaced(5)))
    first.advance(AdvanceRequest(at, evaluation_steps=first.state.evenly_spaced(5)))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.advance(AdvanceRequest(evaluation_steps=second.state.evenly_spaced(5)))
    assert second.series == whole.series
    assert second.evaluations == whole.evaluations
    assert torch.equal(second.model.state, whole.model.state)
    assert float(whole.model.state.abs().sum()) > 0


class Normed(Carrying):
    """Its statistics are taken anew for an optimizer that is judged at other weights."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


@pytest.mark.parametrize("optimizer", ["adam", "schedulefree_adamw"])
@pytest.mark.parametrize("kind", ["in place", "set"])
def test_looking_does_not_disturb_the_state(kind, optimizer):
    of = Task(lambda: Normed(kind), Windows(), valid=Windows(4), step=step)
    recipe = RECIPE.replace(optimizer=optimizer, schedule="constant()")
    seldom, often = (Run(of, recipe) for _ in range(2))
    seldom.advance(AdvanceRequest(evaluation_steps=seldom.state.evenly_spaced(1)))
    often.advance(AdvanceRequest(evaluation_steps=often.state.evenly_spaced(30)))
    assert seldom.series == often.series


def test_a_state_begins_untouched_after_an_initialisation_that_looks_at_data():
    run = Run(carrying("in place"), RECIPE.replace(initialisation="lsuv"))
    assert float(run.model.state.abs().sum()) == 0
    assert Run(carrying("set"), RECIPE.replace(initialisation="lsuv")).model.state is None


def test_the_state_matters():
    """Else the tests above would hold of anything."""
    run = Run(carrying("set"), RECIPE)
    run.advance(20)
    forgetful = Run(carrying("set"), RECIPE)
    forgetful.advance(20)
    forgetful.model.state = None
    run.advance()
    forgetful.advance()
    assert run.series["loss"][20] != forgetful.series["loss"][20]


def test_an_error_in_a_step_puts_a_state_back_that_was_set_anew():
    calls = []

    def breaking(model: nn.Module, batch: Any) -> Tensor:
        loss = step(model, batch)
        calls.append(1)
        if len(calls) == 7:
            raise ValueError("once")
        return loss

    whole = Run(carrying("set"), RECIPE)
    whole.advance()
    run = Run(Task(lambda: Carrying("set"), Windows(), valid=Windows(4), step=breaking), RECIPE)
    with pytest.raises(TaskError, match="once"):
        run.advance()
    run.advance()
    assert run.series == whole.series


def test_the_best_weights_of_a_model_with_a_state_are_put_back():
    recipe = RECIPE.replace(early_stopping=1, lr=0.3, evaluations=10)
    run = Run(carrying("set"), recipe)
    run.advance(AdvanceRequest(evaluation_steps=run.state.evaluation_steps))
    assert run.status == "finished"
    assert "its weights were kept" in run.reason


def test_a_trained_model_with_a_state_is_read_back(tmp_path):
    record = train(carrying("set"), RECIPE, folder=tmp_path)
    model = Carrying("set")
    RunFolder(tmp_path).read_model(model)
    for name, value in record.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(StorageError, match="is damaged, or of another task"):
        RunFolder(tmp_path).read_model(linear())


@pytest.mark.parametrize("kind", ["plain"])
def test_a_state_that_no_checkpoint_holds_is_warned_of(kind):
    run = Run(carrying(kind), RECIPE)
    with pytest.warns(UserWarning, match=r"carries state from batch .* self.register_buffer\('sta"):
        run.check()


class Showing(Carrying):
    """Keeps its last output to be looked at, and a table it has computed once."""

    def __init__(self) -> None:
        super().__init__("in place")
        self.shown = None
        self.table = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.table) != x.shape[1]:
            self.table = torch.linspace(0, 1, x.shape[1])[:, None]
        self.shown = super().forward(x + self.table).detach()
        return self.shown + super().forward(x + self.table)


def test_what_is_kept_for_show_or_computed_once_is_no_state():
    run = Run(Task(Showing, Windows(), valid=Windows(4), step=step), RECIPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.check()
