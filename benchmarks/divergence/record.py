"""Trains the runs once, and keeps the loss and the gradient's norm of every update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

import etude
from benchmarks import doctor
from benchmarks.divergence.cases import Case, cases
from etude import Observer
from etude.diagnosis.watching.training_watch import TrainingWatch
from etude.training.gradient.clipping import gradient_norm
from etude.training.run import Run
from etude.training.state.state import RunState

KEPT = Path(__file__).parent.parent / "results" / "divergence.npz"
ZOO = KEPT.with_name("divergence_zoo.npz")


class Gradient(Observer):
    """The gradient's norm, not clipped."""

    reads: ClassVar[Any] = ("gradients",)
    own_randomness = False

    def on_gradient(self, state: RunState) -> Any:
        """Return the norm."""
        return gradient_norm(state.parameters)


def trained(case: Case) -> np.ndarray:
    """Return (2, updates): the loss and the gradient's norm; NaN where a run has ended."""
    run = Run(case.build(), case.recipe, observers=[Gradient()])
    run.advance()
    rows = np.array([run.series["loss"], run.series["gradient"]])
    if run.diverged:
        rows = np.concatenate([rows, [[np.nan], [np.nan]]], axis=1)
    return rows.astype(np.float32)


def kept() -> dict[str, np.ndarray]:
    """Return what was recorded, by the case's name."""
    return _read(KEPT)


def kept_zoo() -> dict[str, np.ndarray]:
    """Return the losses of the healthy open cases of the zoo, by the case's name."""
    return _read(ZOO)


def _write(path: Path, found: Mapping[str, np.ndarray]) -> None:
    arrays: dict[str, Any] = dict(found)
    np.savez_compressed(path, **arrays)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(path) as found:
        return {name: found[name].astype(float) for name in found.files}


def record_zoo() -> None:
    """Run the healthy open cases of the zoo at seed 0, and keep the losses that a watch reads."""
    found = {}
    for case in doctor.cases(doctor.OPEN, (0,)):
        if case.cause:
            continue
        watches: list[TrainingWatch] = []

        @contextmanager
        def watcher(
            model: nn.Module, optimizer: Any, opened: list[Any] = watches
        ) -> Iterator[None]:
            several = list(optimizer) if isinstance(optimizer, tuple) else optimizer
            with etude.watch(model, several, on_finding=lambda finding: None) as watching:
                opened.append(watching)
                yield

        case.run(watcher)
        history = watches[0].report().history
        if history is not None and history.one_loss:
            found[case.name] = history.loss.astype(np.float32)
    _write(ZOO, found)


def record() -> Mapping[str, np.ndarray]:
    """Train the cases that were not recorded yet; write after each."""
    found = kept()
    for case in cases():
        if case.name not in found:
            found[case.name] = trained(case)
            _write(KEPT, {name: loss.astype(np.float32) for name, loss in found.items()})
            print(case.name, found[case.name].shape[1], found[case.name][0, -3:], flush=True)
    return found
