"""What compressing a network gave: its size, latency, loss and metric, before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.compression.measuring import Latency
from etude.record import Evaluation, to_json
from etude.shows_itself import ShowsItself
from etude.trials.score import Goal
from etude.tuning.result import TuneResult


@dataclass(frozen=True)
class LayerChange:
    """What became of one layer.

    Attributes:
        name: Its name.
        kind: Its class.
        weights: Numbers in its matrices before.
        kept: How many of these are left; zeros of a mask do not count.
        treatment: What was done to it, in words.
    """

    name: str
    kind: str
    weights: int
    kept: int
    treatment: str

    @property
    def sparsity(self) -> float:
        """The share of its weights that are gone."""
        return 1 - self.kept / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Stage:
    """A network at one point: how large it is, and how good.

    Attributes:
        bytes: Size of its weights as a file.
        tensor_bytes: The same without the names and shapes in the file.
        evaluation: On the validation data.
    """

    bytes: int
    tensor_bytes: int
    evaluation: Evaluation

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "bytes": self.bytes,
            "tensor_bytes": self.tensor_bytes,
            "loss": to_json(self.evaluation.loss),
            "metric": to_json(self.evaluation.metric),
        }


@dataclass(frozen=True)
class FineTuning:
    """How a compressed network was trained further.

    Attributes:
        schedule: The schedule that was chosen.
        how: What it is: 'rewound' (the run's own from where as many updates are left), 'anew' (the
            run's own from its start) or 'constant'.
        lr: The rate that was chosen.
        updates: Its length.
        cost: In fine-tuning runs, the search included.
        tried: Each schedule and rate that was tried, with its last score; lower is better.
        used: Whether the network is the one that was trained further; not if that was no better.
    """

    schedule: str
    how: str
    lr: float
    updates: int
    cost: float
    tried: tuple[tuple[str, float, float], ...]
    used: bool

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "schedule": self.schedule,
            "how": self.how,
            "lr": self.lr,
            "updates": self.updates,
            "cost": self.cost,
            "used": self.used,
            "tried": [
                {"schedule": schedule, "lr": lr, "score": to_json(score)}
                for schedule, lr, score in self.tried
            ],
        }


@dataclass(frozen=True, eq=False)
class CompressionResult(ShowsItself):
    """A compressed network, and what it cost.

    Attributes:
        task: The name of the task.
        method: What was done, as typed: 'prune 0.8', 'structured 0.5', 'int8 dynamic'.
        goal: What is compared.
        metric: The name of the task's metric; None where it has none.
        maximize: Whether a larger metric is better; None where that is not known.
        before: The network of the run.
        compressed: After compressing, before any fine-tuning.
        after: The final network.
        latency: How long a forward pass takes, before and after.
        layers: What became of each layer.
        tuning: How it was trained further; None where it was not.
        notes: What else to know, as sentences.
        folder: Where it is saved; None where it is not.
        model: The final network, in evaluation mode on the CPU.
        tuned: What the tuner returned; None where nothing was trained.
    """

    task: str
    method: str
    goal: Goal
    metric: str | None
    maximize: bool | None
    before: Stage
    compressed: Stage
    after: Stage
    latency: Latency
    layers: tuple[LayerChange, ...]
    tuning: FineTuning | None
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    model: Any = field(default=None, repr=False)
    tuned: TuneResult | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return (
            f"<CompressionResult of {self.task!r} by {self.method}: {self.smaller:.2f}× smaller, "
            f"{self.goal.name} {self.goal.value(self.after.evaluation):.4g}, before "
            f"{self.goal.value(self.before.evaluation):.4g}>"
        )

    @property
    def smaller(self) -> float:
        """How many times smaller the file is: bytes before / bytes after."""
        return self.before.bytes / self.after.bytes

    @property
    def sparsity(self) -> float:
        """The share of the weights of all layers that are gone."""
        weights = sum(layer.weights for layer in self.layers)
        return 1 - sum(layer.kept for layer in self.layers) / weights if weights else 0.0

    @property
    def lost(self) -> float | None:
        """By how much the metric is worse, in its own units; None without a metric's direction."""
        before, after = self.before.evaluation.metric, self.after.evaluation.metric
        if self.maximize is None or before is None or after is None:
            return None
        return before - after if self.maximize else after - before

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "task": self.task,
            "method": self.method,
            "metric_name": self.metric,
            "before": self.before.plain(),
            "compressed": self.compressed.plain(),
            "after": self.after.plain(),
            "smaller": self.smaller,
            "latency": self.latency.plain(),
            "sparsity": self.sparsity,
            "layers": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "weights": one.weights,
                    "kept": one.kept,
                    "sparsity": one.sparsity,
                    "treatment": one.treatment,
                }
                for one in self.layers
            ],
            "tuning": None if self.tuning is None else self.tuning.plain(),
            "notes": list(self.notes),
        }
