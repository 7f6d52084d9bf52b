"""`Program`, `Edit` and `Case`: a program as it is or with one edit, from one seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from benchmarks.doctor.judge import Score, judged
from benchmarks.doctor.loops import Loop, Watcher, alternating
from benchmarks.doctor.setup import Setup
from etude.errors import BadValueError
from etude.randomness import derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.tasks.task import Task

METRICS = {"classes": "accuracy", "values": "mse"}


def nobody(model: nn.Module, optimizer: Any) -> nullcontext[None]:
    """Watch nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Edit:
    """A change of a program: a fault if it has a cause, else an unusual but healthy variant.

    Attributes:
        name: What was changed, in a word or two; unique in its program.
        apply: The change. That of a fault is made on top of its twin.
        cause: What is wrong, by a name in `causes.CAUSES`; empty for a healthy variant.
        layer: The module at fault, by its name in the model; empty where none is.
        twin: The name of the healthy variant that the fault is compared with; empty for the
            program as it is.
        in_loop: Whether the fault lies in the training loop, so that no task and recipe show it.
        by: By what the damage is measured: 'error', or 'loss' where the loss alone is harmed.
    """

    name: str
    apply: Callable[[Setup], Setup]
    cause: str = ""
    layer: str = ""
    twin: str = ""
    in_loop: bool = False
    by: str = "error"


@dataclass(frozen=True)
class Program:
    """A whole training program: model, data and loop.

    Attributes:
        name: Its name.
        kind: The kind of network, from `causes.KINDS`.
        setup: Builds the healthy setup.
        loop: Trains it.
        edits: Faults and healthy variants.
    """

    name: str
    kind: str
    setup: Callable[[], Setup]
    loop: Loop
    edits: tuple[Edit, ...]

    def edit(self, name: str) -> Edit | None:
        """Return the edit of that name; None for the program as it is."""
        return next(edit for edit in self.edits if edit.name == name) if name else None

    @property
    def faults(self) -> tuple[Edit, ...]:
        """The edits that have a cause."""
        return tuple(edit for edit in self.edits if edit.cause)

    @property
    def variants(self) -> tuple[Edit, ...]:
        """The healthy edits."""
        return tuple(edit for edit in self.edits if not edit.cause)


@dataclass(frozen=True)
class Outcome:
    """What a run of a case ended with.

    Attributes:
        losses: Training loss of every update.
        score: How well the network does on the validation data.
        seconds: How long the run took.
    """

    losses: tuple[float, ...]
    score: Score
    seconds: float


@dataclass(frozen=True)
class Case:
    """A program with one edit, or none, from one seed."""

    program: Program
    edit: Edit | None
    seed: int

    @property
    def name(self) -> str:
        """The case's name: program, edit and seed."""
        return f"{self.program.name}/{self.edit.name if self.edit else 'healthy'}/{self.seed}"

    @property
    def cause(self) -> str:
        """What is wrong; empty for a healthy case."""
        return self.edit.cause if self.edit else ""

    @property
    def twin(self) -> Case:
        """The healthy case that this one is compared with; a healthy case is its own twin."""
        if not self.cause:
            return self
        assert self.edit is not None
        return replace(self, edit=self.program.edit(self.edit.twin))

    def setup(self) -> Setup:
        """Return the case's own setup."""
        with self.seeded("setup"):
            setup = self.program.setup()
            if self.edit is None:
                return setup
            if self.cause and self.twin.edit is not None:
                setup = self.twin.edit.apply(setup)
            return self.edit.apply(setup)

    def run(self, watcher: Watcher = nobody) -> Outcome:
        """Train the case under a watcher and judge the network.

        Args:
            watcher: Called with the model and the optimizer (a GAN's: a pair of optimizers); a
                context manager around the training.
        """
        return run(self, watcher)

    def seeded(self, use: str) -> AbstractContextManager[None]:
        """Return a block with random numbers of the case's own."""
        return random_state_kept(derive_seed(self.seed, self.program.name, use))

    def task(self) -> Task:
        """Return model, data and loss as a task.

        Raises:
            BadValueError: If the case is one of a training loop's own.
        """
        self._check_loop()
        setup = self.setup()
        metric = METRICS.get(setup.kind)
        return Task(
            setup.model, setup.train, valid=setup.valid, loss=setup.loss, metric=metric,
            name=self.name.replace("/", "-"),
        )  # fmt: skip

    def recipe(self) -> Recipe:
        """Return optimizer, rate, schedule and length as a recipe.

        Raises:
            BadValueError: If the case is one of a training loop's own.
        """
        self._check_loop()
        setup = self.setup()
        return Recipe(
            optimizer={"name": setup.optimizer, **setup.options},
            lr=setup.lr,
            schedule=setup.schedule,
            steps=setup.steps,
            batch_size=min(setup.batch, len(setup.train[-1])),
            accumulate=setup.accumulate,
            clip_norm=setup.clip,
            precision="bfloat16" if setup.bf16 else "float32",
            seed=self.seed,
        )

    @property
    def in_loop(self) -> bool:
        """Whether the case can only be run by its own loop."""
        return self.program.loop is alternating or bool(self.edit and self.edit.in_loop)

    def _check_loop(self) -> None:
        if self.in_loop:
            raise BadValueError(
                f"{self.name} lies in the training loop, which a task and a recipe do not have: "
                "use run"
            )


def run(case: Case, watcher: Watcher = nobody) -> Outcome:
    """Train a case under a watcher and judge the network."""
    setup = case.setup()
    start = time.perf_counter()
    with case.seeded("run"):
        model = setup.model()
        order = torch.Generator().manual_seed(derive_seed(case.seed, case.program.name, "order"))
        losses = case.program.loop(setup, model, watcher, order)
        seconds = time.perf_counter() - start
        return Outcome(tuple(losses), judged(model, setup, case.program.setup()), seconds)
