"""Training loops as different people write them; each trains a `Setup` under a watcher.

Every loop takes (setup, model, watcher, order) and returns the losses of its updates. `watcher` is
called with the model and the optimizer, and is a context manager around the training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from benchmarks.doctor.setup import Setup
from etude.schedules import parse

Watcher = Callable[[nn.Module, Any], AbstractContextManager[Any]]
Loop = Callable[[Setup, nn.Module, Watcher, torch.Generator], list[float]]


def multiples(setup: Setup) -> Callable[[int], float]:
    """Return the schedule as a function of the update."""
    schedule = parse(setup.schedule).over(setup.steps)
    return lambda step: float(schedule(min(step, setup.steps - 1)))


def back_to_training(setup: Setup, model: nn.Module) -> None:
    """Put the network into the mode in which the program trains."""
    model.train(setup.train_mode)


def minibatches(setup: Setup, order: torch.Generator) -> Iterator[list[Tensor]]:
    """Yield batches epoch after epoch; the last of an epoch is dropped where it is short."""
    samples = len(setup.train[-1])
    size = min(setup.batch, samples)
    while True:
        places = torch.arange(samples)
        if setup.shuffle:
            places = torch.randperm(samples, generator=order)
        for start in range(0, samples - size + 1, size):
            yield [part[places[start : start + size]] for part in setup.train]


def plain(setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator) -> list[float]:
    """The shortest loop: index, forward, backward, step, schedule."""
    optimizer = setup.optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiples(setup))
    back_to_training(setup, model)
    losses = []
    with watcher(model, optimizer):
        for *inputs, target in itertools.islice(minibatches(setup, order), setup.steps):
            if setup.zero_grad:
                optimizer.zero_grad()
            loss = setup.loss(model(*inputs), target)
            loss.backward()  # type: ignore[no-untyped-call]
            if setup.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), setup.clip)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses


def by_epochs(
    setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator
) -> list[float]:
    """A DataLoader, an evaluation after every epoch, a rate set by hand."""
    data = TensorDataset(*setup.train)
    sampler = RandomSampler(data, generator=order) if setup.shuffle else SequentialSampler(data)
    size = min(setup.batch, len(data))
    batches = BatchSampler(sampler, size, drop_last=True)
    loader = DataLoader(data, batch_size=None, sampler=batches)
    optimizer, rate = setup.optimizer_of(model), multiples(setup)
    losses: list[float] = []
    with watcher(model, optimizer):
        while len(losses) < setup.steps:
            back_to_training(setup, model)
            for batch in loader:
                if len(losses) == setup.steps:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = setup.lr * rate(len(losses))
                loss = setup.loss(model(*batch[:-1]), batch[-1])
                loss.backward()  # type: ignore[no-untyped-call]
                if setup.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), setup.clip)
                optimizer.step()
                if setup.zero_grad:
                    optimizer.zero_grad(set_to_none=True)
                losses.append(float(loss.detach()))
            model.eval()
            with torch.no_grad():
                setup.loss(model(*setup.valid[:-1]), setup.valid[-1])
    return losses


def drawn(setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator) -> list[float]:
    """Batches drawn with replacement, gradients cleared by hand."""
    optimizer, rate = setup.optimizer_of(model), multiples(setup)
    samples, kept = len(setup.train[-1]), []
    back_to_training(setup, model)
    with watcher(model, optimizer):
        for step in range(setup.steps):
            start = step * setup.batch % max(samples - setup.batch, 1)
            rows = torch.arange(start, start + setup.batch)
            if setup.shuffle:
                rows = torch.randint(0, samples, (setup.batch,), generator=order)
            *inputs, target = (part[rows] for part in setup.train)
            loss = setup.loss(model(*inputs), target)
            loss.backward()  # type: ignore[no-untyped-call]
            if setup.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), setup.clip)
            for group in optimizer.param_groups:
                group["lr"] = setup.lr * rate(step)
            optimizer.step()
            if setup.zero_grad:
                for parameter in model.parameters():
                    parameter.grad = None
            kept.append(loss.detach())
    return torch.stack(kept).tolist()


def accumulated(
    setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator
) -> list[float]:
    """Several small batches for one update; under autocast where the setup says so."""
    optimizer = setup.optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiples(setup))
    back_to_training(setup, model)
    batches, losses = minibatches(setup, order), []
    half = torch.autocast("cpu", torch.bfloat16) if setup.bf16 else nullcontext()
    with watcher(model, optimizer):
        for _ in range(setup.steps):
            total = 0.0
            for *inputs, target in itertools.islice(batches, setup.accumulate):
                with half:
                    output = model(*inputs)
                    loss = setup.loss(output.float(), target) / setup.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            if setup.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), setup.clip)
            optimizer.step()
            if setup.zero_grad:
                optimizer.zero_grad()
            scheduler.step()
            losses.append(total)
    return losses


def by_closure(
    setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator
) -> list[float]:
    """The optimizer calls the loss itself, as L-BFGS needs it."""
    optimizer, rate = setup.optimizer_of(model), multiples(setup)
    back_to_training(setup, model)
    losses = []
    with watcher(model, optimizer):
        for step, batch in zip(range(setup.steps), minibatches(setup, order), strict=False):

            def closure(batch: list[Tensor] = batch) -> Tensor:
                if setup.zero_grad:
                    optimizer.zero_grad()
                loss = setup.loss(model(*batch[:-1]), batch[-1])
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            for group in optimizer.param_groups:
                group["lr"] = setup.lr * rate(step)
            loss: Any = optimizer.step(closure)  # type: ignore[arg-type]
            losses.append(float(loss.detach()))
    return losses


class Trainer:
    """A class with a method for every part, as larger projects have it."""

    def __init__(self, setup: Setup, model: nn.Module, order: torch.Generator) -> None:
        self.setup, self.model, self.rate = setup, model, multiples(setup)
        self.optimizer = setup.optimizer_of(model)
        self.batches = minibatches(setup, order)
        self.history: list[float] = []

    def training_step(self) -> Tensor:
        """Return the loss of the next batch."""
        *inputs, target = next(self.batches)
        return self.setup.loss(self.model(*inputs), target)

    def optimize(self, loss: Tensor) -> None:
        """Make one update."""
        if self.setup.zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.setup.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.setup.clip)
        self.optimizer.step()
        self.history.append(loss.item())

    @torch.no_grad()
    def validate(self) -> None:
        """Evaluate, and leave the network in the mode in which it trains."""
        self.model.eval()
        *inputs, target = self.setup.valid
        self.setup.loss(self.model(*inputs), target)
        back_to_training(self.setup, self.model)

    def fit(self) -> None:
        """Train for the setup's updates, with an evaluation before and ten during the training."""
        for step in range(self.setup.steps):
            if step % max(self.setup.steps // 10, 1) == 0:
                self.validate()
            for group in self.optimizer.param_groups:
                group["lr"] = self.setup.lr * self.rate(step)
            self.optimize(self.training_step())


def with_trainer(
    setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator
) -> list[float]:
    """A `Trainer` under the watcher."""
    trainer = Trainer(setup, model, order)
    with watcher(model, trainer.optimizer):
        trainer.fit()
    return trainer.history


def alternating(
    setup: Setup, model: nn.Module, watcher: Watcher, order: torch.Generator
) -> list[float]:
    """A generator against a discriminator, each with an optimizer; the losses are the latter's."""
    assert isinstance(model.generator, nn.Module)
    assert isinstance(model.discriminator, nn.Module)
    play, judge = setup.optimizer_of(model.generator), setup.optimizer_of(model.discriminator)
    rate, losses = multiples(setup), []
    back_to_training(setup, model)
    with watcher(model, (play, judge)):
        for step, (real, _) in zip(range(setup.steps), minibatches(setup, order), strict=False):
            for optimizer in (play, judge):
                optimizer.param_groups[0]["lr"] = setup.lr * rate(step)
            fake = model(torch.randn(len(real), model.noise))  # type: ignore[call-overload]
            if setup.zero_grad:
                judge.zero_grad()
            told = setup.loss(model.discriminator(real), True) + setup.loss(
                model.discriminator(fake.detach()), False
            )
            told.backward()  # type: ignore[no-untyped-call]
            judge.step()
            if setup.zero_grad:
                play.zero_grad()
            setup.loss(model.discriminator(fake), True).backward()  # type: ignore[no-untyped-call]
            play.step()
            losses.append(told.item())
    return losses
