"""The installable rivals, run on each case's own loop as their README says.

torchmortem 0.1.1 and trainscope 1.8.1; both are in the extra `bench`, and are imported when used.
Where a tool names a symptom, the causes are those that its own advice for the symptom would mend,
in the order in which it gives it. A tool that raises on a case has said nothing of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from benchmarks.doctor.case import Case
from benchmarks.doctor.diagnoser import Verdict
from benchmarks.doctor.heard import Heard, heard
from etude.interop._peer import load

ADVICE: Mapping[str, tuple[str, ...]] = {
    "Vanishing gradients": ("missing_residual", "saturating_activation", "missing_normalisation"),
    "Exploding gradients": (
        "missing_clipping", "lr_too_high", "bad_initialisation", "missing_normalisation",
    ),
    "Gradient stalling": ("bad_initialisation", "missing_residual"),
    "Dead units": ("lr_too_high", "bad_initialisation", "missing_normalisation"),
    "Activation saturation": (
        "saturating_activation", "missing_normalisation", "lr_too_high", "bad_initialisation",
    ),
    "High gradient noise": ("batch_too_small", "lr_too_high"),
    "Training divergence": ("lr_too_high", "missing_clipping", "bad_data", "warmup_missing"),
    "Loss plateau": ("lr_too_low", "optimizer_mismatch"),
    "Rank collapse": ("too_much_regularisation", "lr_too_high", "optimizer_mismatch"),
    "Update ratio too low": ("lr_too_low", "optimizer_mismatch"),
    "Update ratio too high": (
        "lr_too_high", "missing_clipping", "warmup_missing", "optimizer_mismatch",
    ),
    "Weight norm explosion": ("too_little_regularisation", "lr_too_high", "missing_clipping"),
    "Stagnant weight norms": ("lr_too_low", "parameters_not_trained"),
    "Inter-layer weight norm": (
        "optimizer_mismatch", "missing_normalisation", "bad_initialisation",
    ),
}  # fmt: skip
"""The causes that torchmortem's remedies for a finding would mend, by the start of its title."""


@dataclass
class Told:
    """What the two tools said of one run.

    Attributes:
        report: torchmortem's report; None if it raised.
        spikes: (update, score) of each spike that trainscope returned.
        last: The last update of the run.
        failures: What was raised, by the tool's name.
    """

    report: Any = None
    spikes: list[tuple[int, float]] = field(default_factory=list)
    last: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class Torchmortem:
    """`torchmortem.Autopsy` at its default; a warning or worse is an alarm, a note is not."""

    name = "torchmortem"

    def diagnose(self, case: Case) -> Verdict:
        """Return what the report of a run says; it is written when the run has ended."""
        told = run(case, self.name)
        if told.report is None:
            return Verdict(text=told.failures.get(self.name, ""))
        findings = [one for one in told.report.findings if one.severity.name != "INFO"]
        if not findings:
            return Verdict()
        causes = [cause for one in findings for cause in advised(one.title)]
        layers = (layer for one in findings for layer in one.affected_layers)
        titles = "; ".join(one.title for one in findings)
        return Verdict(tuple(dict.fromkeys(causes)), next(layers, ""), told.last, True, titles)


@dataclass(frozen=True)
class Trainscope:
    """`trainscope.TrainScope` at its default: a spike is an alarm. It names no cause.

    Attributes:
        name: The name in tables.
        rising: Whether only a loss that rises counts: the tool also reports one that falls faster
            than before.
    """

    name: str = "trainscope"
    rising: bool = False

    def diagnose(self, case: Case) -> Verdict:
        """Return whether there was a spike."""
        told = run(case, "trainscope")
        steps = [step for step, score in told.spikes if score > 0 or not self.rising]
        if not steps:
            return Verdict(text=told.failures.get("trainscope", ""))
        return Verdict((), "", steps[0], True, f"{len(steps)} spikes")


INSTALLED = (Torchmortem(), Trainscope(), Trainscope("trainscope, rising", True))
"""The rivals that can be installed."""


def advised(title: str) -> Sequence[str]:
    """Return the causes that torchmortem's advice for a finding would mend."""
    return next((causes for start, causes in ADVICE.items() if title.startswith(start)), ())


@lru_cache(maxsize=4)
def run(case: Case, tool: str) -> Told:
    """Run a case under a tool; what the tool raises is kept, and the case runs on without it."""
    told = Told()
    listening, ears = heard(case)
    attach = {"torchmortem": autopsy, "trainscope": scope}[tool]
    try:
        listening.run(lambda model, optimizer: attach(model, optimizer, ears, told))
    except Exception as error:  # noqa: BLE001  (whatever the tool raises, it has said nothing)
        told.failures[tool] = f"{type(error).__name__}: {str(error)[:200]}"
    return told


@contextmanager
def autopsy(model: nn.Module, optimizer: Any, ears: Heard, told: Told) -> Iterator[None]:
    """Watch by torchmortem, which is told of an update when it has been made."""
    torchmortem = load("torchmortem")
    several = optimizer if isinstance(optimizer, tuple) else (optimizer,)

    def after() -> None:
        watching.step(loss=ears.update())
        told.last += 1

    with torchmortem.Autopsy(model, optimizer=several[-1]) as watching, after_step(several, after):
        yield
    told.report = watching.get_report()
    told.last -= 1


@contextmanager
def scope(model: nn.Module, optimizer: Any, ears: Heard, told: Told) -> Iterator[None]:
    """Watch by trainscope, which is told of an update between the gradient and the step.

    L-BFGS computes the loss inside its step: there, it is told when the step has been made.
    """
    trainscope = load("trainscope")
    config = load("trainscope.core.config")
    several = optimizer if isinstance(optimizer, tuple) else (optimizer,)
    inside = isinstance(several[-1], torch.optim.LBFGS)

    def at_step() -> None:
        spike = watching.step(ears.update())
        if spike:
            told.spikes.append((spike["step"], spike["spike_score"]))
        told.last += 1

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        chosen = config.TrainScopeConfig(run_dir=folder)
        watching = trainscope.TrainScope(model, several[-1], config=chosen).attach()
        stack.callback(watching.detach)
        stack.enter_context((after_step if inside else before_step)(several, at_step))
        yield


@contextmanager
def after_step(optimizers: Sequence[Any], call: Callable[[], None]) -> Iterator[None]:
    """Call something after each step of the last of some optimizers."""
    handle = optimizers[-1].register_step_post_hook(lambda *_: call())
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def before_step(optimizers: Sequence[Any], call: Callable[[], None]) -> Iterator[None]:
    """Call something before each step of the last of some optimizers."""
    handle = optimizers[-1].register_step_pre_hook(lambda *_: call())
    try:
        yield
    finally:
        handle.remove()
