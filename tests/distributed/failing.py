"""Functions that fail in one process, or in all: each gets the world."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from etude import Recipe, Task
from etude.training.train import train
from etude.training.world import World
from tests.distributed.equalities import (
    built,
    classes,
    convolutional,
    dense,
    numbers,
    perceptron,
    recipe,
)  # fmt: skip
from tests.distributed.together import error_of


class Branching(nn.Module):
    """Leaves its second head out of batches that hold a sample with a large first number."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = perceptron(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return found if float(x[:, 0].max()) > 5 else found + self.head(x)


def branching(first: int) -> tuple[Task, Recipe]:
    """Training data of which one sample, in update `first`, leaves out the second head."""
    x, y = numbers(60, 4), classes(60, 3)
    made = recipe(steps=12)
    plain = Task(built(Branching), (x, y), numbers_valid(), loss=F.cross_entropy)
    order = next(plain.train.stream(60, made.seed, _cursor()))[0]
    row = int((x == order[first * 12]).all(1).nonzero()[0])
    x = x.clone()
    x[row, 0] = 9.0
    return Task(built(Branching), (x, y), numbers_valid(), loss=F.cross_entropy), made


def numbers_valid() -> tuple[Tensor, Tensor]:
    return numbers(20, 4, seed=3), classes(20, 3)


def _cursor() -> Any:
    from etude.tasks.sources.source import Cursor

    return Cursor()


def unused_at_first(world: World) -> Any:
    task, made = branching(0)
    return caught(lambda: train(task, made, world=world))


def unused_later(world: World) -> Any:
    task, made = branching(3)
    train(task, made, world=world)


def failing_at(rank: int, update: int) -> tuple[Task, Recipe, Callable[..., Any]]:
    task, made = dense(), recipe(steps=20)

    def on_step(state: Any) -> None:
        if state.world.rank == rank and state.step == update:
            raise ZeroDivisionError("the user's own fault")

    return task, made, on_step


def fails_in_one(world: World) -> Any:
    task, made, on_step = failing_at(1, 3)
    train(task, made, world=world, on_step=on_step)


class Wide(nn.Module):
    """Fails in its sixth backward pass, where the gradients of its second half are under way."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        # More than the megabyte that DDP sends first.
        self.second = nn.Sequential(nn.Tanh(), nn.Linear(500, 500), nn.Tanh(), nn.Linear(500, 3))
        self.first, self.count = nn.Linear(4, 500), 0
        if fails:
            self.second[0].register_full_backward_hook(self.fail)

    def fail(self, *given: Any) -> None:
        self.count += 1
        if self.count == 6:
            raise ZeroDivisionError("the user's own fault")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def cut_off(world: World, compress: str) -> None:
    data = numbers(60, 4), classes(60, 3)
    task = Task(built(lambda: Wide(world.rank == 1)), data, loss=F.cross_entropy)
    train(task, recipe(steps=20, compress=compress), world=world)


def cut_off_topk(world: World) -> Any:
    cut_off(world, "topk")


def cut_off_powersgd(world: World) -> Any:
    cut_off(world, "powersgd")


def killed_in_one(world: World) -> Any:
    def on_step(state: Any) -> None:
        if state.world.rank == 1 and state.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    train(dense(), recipe(steps=20), world=world, on_step=on_step)


def silent_in_one(world: World) -> Any:
    """One process does not answer for longer than the time limit."""

    def on_step(state: Any) -> None:
        if state.world.rank == 1 and state.step == 3:
            time.sleep(40)

    train(dense(), recipe(steps=20), world=world, on_step=on_step)


def caught(function: Callable[[], Any]) -> Any:
    """Return the error that every process must raise, so that the next function can run."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        return error_of(error)
    return None


def small_batch(world: World) -> Any:
    return caught(lambda: train(dense(), recipe(batch_size=1), world=world))


def second_order(world: World) -> Any:
    return caught(lambda: train(dense(), recipe(optimizer="newton_cg", lr=1.0), world=world))


def divided_loader(world: World) -> Any:
    data = TensorDataset(numbers(40, 4), classes(40, 3))
    sampler: Any = DistributedSampler(data, world.size, world.rank)
    loader = DataLoader(data, batch_size=8, sampler=sampler)
    task = Task(built(perceptron), loader, numbers_valid(), loss=F.cross_entropy)
    return caught(lambda: train(task, recipe(batch_size=None), world=world))


def other_recipe(world: World) -> Any:
    return caught(lambda: train(dense(), recipe(lr=0.1 * (1 + world.rank)), world=world))


def one_value(world: World) -> Any:
    """Batch normalisation of one value for each channel in the whole batch."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(x[:1] if len(x) and world.rank == 0 else x[:0]))

    task = Task(built(Narrow), numbers_valid(), numbers_valid(), loss=lambda o, t: o.sum() / 1.0)
    return caught(lambda: train(task, recipe(batch_size=4, steps=2), world=world))


def not_finite(world: World) -> Any:
    """A NaN in one share ends the run everywhere, as diverged, at the same update."""
    x = numbers(60, 4)
    task = Task(built(lambda: nn.Linear(4, 1)), (x, x.sum(1, keepdim=True)), loss=F.mse_loss)
    found = train(task, recipe(lr=1e30, schedule="constant()"), world=world)
    return str(found.status), found.cost.steps, found.reason


def main_fails(world: World) -> Any:
    """A folder that process 0 cannot use is one error in every process."""

    def refused() -> None:
        train(dense(), recipe(steps=2), world=world, folder="/dev/null/folder")

    return caught(refused)


def agreement(world: World) -> Any:
    """What processes tell each other, and what only the main one does."""
    called: list[int] = []
    world.from_main(lambda: called.append(1))
    return {
        "any": world.any(world.rank == 1, False),
        "gather": world.gather({"rank": world.rank}),
        "called": len(called),
        "from_main": world.from_main(lambda: f"from {world.rank}"),
        "main": world.is_main,
    }


def norms(world: World) -> Any:
    """The model that is returned has the classes that it was built with."""
    made = recipe(steps=3, batch_size=10)
    data = numbers(50, 1, 6, 6), classes(50, 3)
    record = train(Task(built(convolutional), data, loss=F.cross_entropy), made, world=world)
    assert record.model is not None
    hooks = [p for p in record.model.parameters() if p._post_accumulate_grad_hooks]
    counted = record.model[1].num_batches_tracked
    return [type(m).__name__ for m in record.model], len(hooks), int(counted), record.notes


def dropout(world: World) -> Any:
    """Every process draws its own masks; the same world gives the same bits."""

    def noisy() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3)).double()

    masks: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Tensor) -> None:
        if module.training and torch.is_grad_enabled():
            masks.append((output[0] == 0).detach().clone())

    def watched() -> nn.Module:
        made = noisy()
        made[1].register_forward_hook(keep)
        return made

    x = torch.ones(40, 4, dtype=torch.float64)
    task = Task(watched, (x, classes(40, 3)), loss=F.cross_entropy)
    record = train(task, recipe(steps=4, batch_size=8), world=world)
    return masks[-1].tolist(), record.series["loss"].tolist()
