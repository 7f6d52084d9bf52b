"""`diagnose`: trains a task once under watch, says what is wrong, and can try what mends it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from etude.diagnosis.check.checks import check
from etude.diagnosis.find import find
from etude.diagnosis.finding import Cause, Diagnosis, Finding, Verdict
from etude.diagnosis.overfitting import overfitting
from etude.diagnosis.remedies import Repair, check_budget, repair
from etude.diagnosis.stuck import no_better_than_a_constant
from etude.diagnosis.suspects import facts, stated, suspects
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.judge import certain, judge
from etude.diagnosis.verdict.measures import measures
from etude.diagnosis.verdict.probes import BUDGET, Probes, check_probes, probe
from etude.diagnosis.watch import watch
from etude.engines import Engine
from etude.errors import EtudeError
from etude.progress import bar
from etude.recipe import Recipe
from etude.record import Record
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.training.world import World, current, given, refuse_sharded
from etude.warning_filters import filters_kept


@dataclass(frozen=True)
class TaskDiagnosis(Diagnosis):
    """What was found in a run of a task, and what mends it.

    Attributes:
        record: The run that was watched; None if the check found with certainty what is wrong, so
            that nothing was trained.
        repair: What trying remedies has shown; None if none was tried.
        probes: What the probes have shown; None if none was trained.
    """

    record: Record | None = field(default=None, repr=False)
    repair: Repair | None = None
    probes: Probes | None = None

    def __str__(self) -> str:
        told = super().__str__()
        return told if self.repair is None else f"{told}\n{self.repair}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON, without the history."""
        mended = None if self.repair is None else self.repair.to_dict()
        probed = None if self.probes is None else self.probes.to_dict()
        return {**super().to_dict(), "repair": mended, "probes": probed}


@filters_kept()
def diagnose(
    task: Task,
    recipe: Recipe | None = None,
    *,
    repair: bool = False,
    budget: float = 4.0,
    probes: float = BUDGET,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    world: World | None = None,
) -> TaskDiagnosis:
    """Check a task, train it by a recipe under watch, and say what is wrong.

    First the task is checked, as by `etude.check`. If that finds a cause with certainty, such as
    NaN in the data, labels of one class, or labels that the network has no outputs for, the verdict
    names it and nothing is trained: no run could contradict it, and no remedy of a recipe mends it.
    Otherwise the task is trained once. The run is the one that `etude.train` makes, to
    the bit. A symptom is what is seen, such as units that never fire; it can have several causes.
    If no cause is a fact, short probes are trained: the run with one thing changed, beside the
    unchanged one. The verdict names the likeliest cause with its probability; `docs/diagnosis.md`
    says how it is made, and how often it was right.

    With `repair`, the remedies of the causes that were found, and then of those that the symptoms
    can come from, are tried against the unchanged run; see `etude.repair`. If nothing was found,
    nothing is tried.

    Args:
        task: What is learned. Neither it nor its model changes.
        recipe: How; None takes the task's defaults.
        repair: Whether to try remedies.
        budget: For the remedies, in full runs; the run that is watched is not part of it.
        probes: The largest cost of the probes, in full runs; usually 2 to 4 are spent. 0 trains
            none, which makes the verdict less sure.
        engine: As in `tune`, for the probes and the remedies.
        device: As in `train`.
        progress: Whether to show progress; None does so on a terminal.
        world: The processes that train every run together, from `etude.distributed.join()`; each
            of them makes the same call, and gets what the first one has found in its share.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a value of the recipe does not fit the task, or a budget is too small.

    >>> from torch import nn
    >>> x = torch.linspace(-1, 1, 128)[:, None]
    >>> task = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=nn.functional.mse_loss)
    >>> print(diagnose(task, Recipe(lr=0.1, steps=100, batch_size=16), progress=False))
    healthy
    """
    check_given(task, recipe)
    if repair:
        budget = check_budget(budget)
    probes = check_probes(probes)
    recipe = recipe or Recipe(**task.defaults)
    world = given(world)
    refuse_sharded(world, "diagnose")
    with world.active():
        shows = progress if world.is_main else False
        return _diagnosed(task, recipe, repair, budget, probes, engine, device, shows)


def _diagnosed(
    task: Task,
    recipe: Recipe,
    repair: bool,
    budget: float,
    probes: float,
    engine: str | Engine | None,
    device: str | torch.device | None,
    progress: bool | None,
) -> TaskDiagnosis:
    world = current()
    checked = _shared(check(task, recipe, device=device), world)
    if certain(checked.findings):
        return _proved(checked, repair)
    run = Run(task, recipe, device=device)
    try:
        run.check()
    except EtudeError as error:
        if not checked.findings:
            raise
        unseen = (*checked.unseen, f"The run: {error}.")
        return TaskDiagnosis(checked.findings, checked.seen, unseen)
    watched = _shared(_watched(run, progress), world)
    assert watched.history is not None
    stuck = no_better_than_a_constant(run)
    history = replace(watched.history, stuck=bool(stuck))
    seen = (*watched.findings, *(find(history) if stuck else []))
    found = (*checked.findings, *seen, *stuck, *overfitting(run.record(), task))
    findings = tuple({(one.what, one.layer): one for one in reversed(found)}.values())[::-1]
    evidence = Evidence(findings, history, measures(task, recipe, device), tuple(run.evaluations))
    if probes and not facts(findings):
        final = None if run.diverged or not run.evaluations else run.evaluations[-1]
        assert evidence.measures is not None
        shown = probe(
            task, recipe, evidence.measures, final,
            budget=probes, engine=engine, device=device, progress=progress,
        )  # fmt: skip
        evidence = replace(evidence, probes=shown)
    verdict = judge(evidence)
    if watched.too_short and not findings and verdict is not None and not verdict.faulty:
        verdict = None
    tried, (causes, others) = None, _suspected(findings, verdict)
    if repair and (causes or others):
        tried = _repair(
            task,
            recipe,
            causes,
            possible=others,
            budget=budget,
            engine=engine,
            device=device,
            progress=progress,
        )
    run.release()
    return TaskDiagnosis(
        findings,
        (*checked.seen, *watched.seen),
        (*checked.unseen, *watched.unseen),
        history,
        verdict,
        watched.too_short,
        run.record(),
        tried,
        evidence.probes,
    )


def _proved(checked: Diagnosis, repair: bool) -> TaskDiagnosis:
    """Return the verdict on what the check found with certainty; nothing is trained for it."""
    unseen = ["The run: it was not trained, since what the check found is certain."]
    if repair:
        unseen.append("Remedies: none was tried, since the data or the code has to change first.")
    return TaskDiagnosis(
        checked.findings,
        checked.seen,
        (*checked.unseen, *unseen),
        verdict=judge(Evidence(checked.findings)),
    )


def _shared(watched: Diagnosis, world: World) -> Diagnosis:
    """Return what the first process has seen: each one sees its own share of the batches."""
    return watched if world.size == 1 else world.from_main(lambda: watched)


def _suspected(
    findings: tuple[Finding, ...], verdict: Verdict | None
) -> tuple[tuple[Cause, ...], tuple[Cause, ...]]:
    """Return the causes whose remedies are tried first, and those that are only possible."""
    first, others = stated(findings), suspects(findings)
    if verdict is not None and verdict.faulty:
        ranked = [cause for cause, _ in verdict.ranked]
        first = first or tuple(ranked[:1])
        others = (*ranked, *others)
    return first, tuple(cause for cause in dict.fromkeys(others) if cause not in first)


_repair = repair
"""The function; `diagnose` has an argument of that name."""


def _watched(run: Run, progress: bool | None) -> Diagnosis:
    """Train a run to its end under watch; return what was found."""
    with bar(progress, f"{run.task.name}: watched run") as show:

        def on_step(state: RunState, step: int) -> None:
            show(step, state.length, "")

        request = AdvanceRequest(
            evaluation_steps=run.state.evenly_spaced(run.recipe.evaluations), on_step=on_step
        )
        objective = run.objective
        with watch(
            run.model,
            run.optimizer,
            loss=None if run.task.alternates else objective.again,
            on_finding=lambda finding: None,
        ) as watching:
            objective.keeps = watching.will_measure
            run.advance(request)
        objective.forget()
    return watching.report()
