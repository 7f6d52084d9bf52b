"""Trains the runs once, and keeps the loss and the gradient's norm of every update."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.divergence.cases import Case, cases
from etude import Observer
from etude.training.clipping import gradient_norm
from etude.training.run import Run
from etude.training.state import RunState

KEPT = Path(__file__).parent.parent / "results" / "divergence.npz"
SERIES = ("loss", "gradient")


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
    if not KEPT.exists():
        return {}
    with np.load(KEPT) as found:
        return {name: found[name].astype(float) for name in found.files}


def record() -> Mapping[str, np.ndarray]:
    """Train the cases that were not recorded yet; write after each."""
    found = kept()
    for case in cases():
        if case.name not in found:
            found[case.name] = trained(case)
            np.savez_compressed(KEPT, **{n: v.astype(np.float32) for n, v in found.items()})
            print(case.name, found[case.name].shape[1], found[case.name][0, -3:], flush=True)
    return found
