"""`tune`: which learning rate trains this task best, with the trained model as evidence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from etude.engines import Engine
from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.storage.tuning_folder import TuningFolder, trial_place
from etude.tasks.references.fingerprint import Parts, identified
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.clock import clock_of
from etude.training.observer import Observer
from etude.training.world import World, current, given
from etude.trials.folds import folds_of
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import goal_for, judged_by, usual_objective
from etude.trials.session import trial_session
from etude.trials.trial import Trial
from etude.trials.valid_samples import ValidSamples, checked_wanted
from etude.tuning import tuning_folder
from etude.tuning.assessment import assess
from etude.tuning.beginning import begun
from etude.tuning.best_trial import best_trial, selector_for
from etude.tuning.break_cause import cause_said
from etude.tuning.final_evaluation import affords_all, noise_said, on_all
from etude.tuning.inspection import remarks
from etude.tuning.outcome import Outcome
from etude.tuning.published import read_rule
from etude.tuning.recipes.space import Space
from etude.tuning.result import RungCost, TuneResult
from etude.tuning.search.allowed_rates import AllowedRates
from etude.tuning.search.ladder import full_runs, ladder_for
from etude.tuning.search.search import Search
from etude.tuning.search.seed_budget import check_budget, checked_seeds
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.seed_summary import seed_runs, seeds_said
from etude.tuning.trial_summary import TrialSummary
from etude.tuning.tuning_folder import Request
from etude.warning_filters import filters_kept

BUDGET = 3.0
"""Full runs that are spent where nothing is said."""

SHORTEST = 16
"""Updates below which a rung would be less than two updates long."""


@filters_kept()
def tune(
    task: Task,
    recipe: Recipe | None = None,
    budget: float | None = None,
    *,
    objective: str | None = None,
    maximize: bool | None = None,
    folds: int = 1,
    seeds: int = 1,
    valid_samples: ValidSamples = "auto",
    lr_range: tuple[float, float] | None = None,
    lrs: Iterable[float] | None = None,
    start_from: str | None = None,
    over: Mapping[str, Any] | None = None,
    engine: str | Engine | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    more: float | None = None,
    accept_changes: bool = False,
    device: str | torch.device | None = None,
    memory: int | None = None,
    observers: Sequence[Observer] = (),
    progress: bool | None = None,
    world: World | None = None,
    paused: Callable[[Sequence[Trial]], None] | None = None,
) -> TuneResult:
    """Find the learning rate that trains a task best, and return the model trained with it.

    A few trials start on the recipe's real, full-length schedule from the same initial
    weights and with the same batches. They are paused, the worse are dropped, the better go on
    from where they stood, and the best is finished: its whole past is part of the final run.
    Where one is seen to overfit, a lower rate is started, which its curve points to.

    The user's model, generators and the global random state are left as they were.

    Args:
        task: What to learn.
        recipe: How; its `lr` is what is looked for. None takes the task's defaults.
        budget: In full training runs, the finished model included; at least 1.2. None is 3.0, or
            what the folder's tuning has. With `resume` a larger one goes on with the trials that
            are kept, also of a finished tuning: it looks beyond what was tried, finishes more, and
            trains no update twice.
        objective: What is compared: 'loss', 'metric', or the metric's name. None takes the loss,
            but the metric where parts of the model take turns, whose losses say little.
        maximize: Whether a larger metric is better; None takes the metric's own direction.
        folds: Cut the training data into so many parts, compare rates by their mean over the
            parts held out, and then train on all of it. The task's validation data is not
            looked at for the choice. Every rate costs that many runs.
        seeds: Over how many seeds the best rates are compared, from the recipe's upward. The search
            narrows with the first, in half the budget; then the best rates are trained with the
            others, paired, as far as the rest goes: the mean over seeds decides, and `tied`,
            `stable_below` and `confidence` are over seeds. The model is that of the first.
        valid_samples: On how many validation samples rates are compared: a number, 'all' (None is
            the same), or 'auto': all of up to 2,048, of a larger set as many as cost a fifth of
            the gradients, and at least 256. They are drawn once, for all trials. The finished
            model is evaluated on all, with 'auto' if that too keeps evaluations within a fifth of
            the work.
        lr_range: The lowest and the highest rate that may be tried. The result says so if its rate
            lies at one of them.
        lrs: The only rates that may be tried, two at least, instead of a range.
        start_from: A published rule for the first rates, in place of the prior: 'step law',
            'mup(base_width=64, lr=0.01)', 'lora' or 'lora(full=1e-4)'; see
            `etude.tuning.published`. Not with `over`.
        over: What else to choose, from the same budget: fields of the recipe, hyperparameters
            such as 'optimizer.weight_decay', or 'warmup', each with a list of values or a pair
            (low, high). Another batch size gets as many samples in all. Rate-free and
            schedule-free optimizers are values of 'optimizer' like any other.
        engine: What takes several trials further: 'loop', 'pool', 'vmap', 'vmap pool', 'ray' or
            'auto'. None takes the faster of loop and pool, which give the same bits.
        folder: Where to keep everything; None keeps it in memory. With a folder, Ctrl-C and
            SIGTERM save and leave.
        more: With `resume`, full runs beside the budget that the tuning has. No update is made
            twice: the trials go on from where they stand.
        resume: Go on with the tuning that `folder` holds. Refused where the data, the model or
            the loss are known to be others than those it began with.
        accept_changes: Go on although they are.
        device: Where to train; None takes the model's own device, else an accelerator.
        memory: Bytes that paused trials may take; the others wait on disk, those of a GPU in the
            machine's memory. None allows half of what is free.
        observers: Called while the trials train; each run has copies. What they return becomes
            series of its record.
        progress: Whether to draw a bar; None draws it where somebody sits at a terminal.
        world: The processes that train every run together, from `etude.distributed.join()`; each
            of them makes the same call. None trains in one process, or in those of `engine`.
        paused: Called at each pause with the trials that were trained, by the main process.

    Returns:
        The rate, what ties with it, where training breaks, the cost, and the trained model.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If the budget is too small, or a value does not fit the task.
        StorageError: If the folder cannot be written, or holds another run.
        Interrupted: After Ctrl-C or SIGTERM; the message says how to resume.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> best = tune(task, Recipe(steps=80, batch_size=16), budget=1.5, progress=False)
    >>> best.tied[0] <= best.lr <= best.tied[1], best.cost <= 1.5
    (True, True)
    """
    check_given(task, recipe)
    world = given(world)
    home = None if folder is None else TuningFolder(Path(folder))
    parts: Parts = {}
    if home is not None and world.is_main:  # of the task as given: whoever goes on compares that
        task, parts = identified(task)
    base = recipe or Recipe(**task.defaults)
    space = None if over is None else Space.of(base, over)
    if start_from is not None and over is not None:
        raise BadValueError(
            f"start_from={start_from!r} is where one recipe's search begins: leave it or over= out"
        )
    if more is not None and not resume:
        raise BadValueError(f"more={more!r} needs resume=True: give a new tuning its whole budget=")
    aim = objective or usual_objective(task)
    valid_samples = checked_wanted(valid_samples)
    spent = BUDGET if budget is None else full_runs(budget)
    rates = AllowedRates.of(lr_range, lrs)
    rule = None if start_from is None else read_rule(start_from)
    request = Request(
        base, spent, aim, maximize, folds, space, valid_samples, rates, rule, checked_seeds(seeds)
    )
    told: dict[str, object] = {"objective": objective, "maximize": maximize, "space": space}
    told |= {"folds": None if folds == 1 else folds, "seeds": None if seeds == 1 else seeds}
    told |= {"valid_samples": None if valid_samples == "auto" else valid_samples}
    with world.active():
        if resume:
            request, finished = _kept(
                home,
                request,
                (recipe, None if budget is None else spent, more, told),
                task,
                parts,
                accept=accept_changes,
            )
            if finished is not None:
                return finished
        with trial_session(
            "tune",
            task,
            home,
            engine=engine,
            device=device,
            memory=memory,
            observers=observers,
            progress=progress,
            paused=paused,
        ) as setting:
            return _tuned(task, request, setting, None if resume else parts)


def _kept(
    home: TuningFolder | None,
    asked: Request,
    given: tuple[Recipe | None, float | None, float | None, Mapping[str, object]],
    task: Task,
    parts: Parts,
    *,
    accept: bool,
) -> tuple[Request, TuneResult | None]:
    """Return what to go on with in a folder, and its result, if there is nothing left to do.

    Args:
        home: The folder.
        asked: The request that was made of the arguments.
        given: The recipe, the budget, the further runs and what else decides the answer, as they
            were given; None for what was not.
        task: The task.
        parts: Its digests.
        accept: Whether the task may be another.

    Raises:
        BadValueError: If there is no folder, or an argument asks for something else than the
            folder's tuning.
    """
    if asked.rates.bounded or asked.start_from is not None:
        raise BadValueError(
            "resume=True goes on with the rates that the folder's tuning may try: leave "
            "lr_range, lrs and start_from out"
        )
    if home is None:
        raise BadValueError("resume=True needs folder=, the run folder to go on from")
    recipe, budget, more, told = given
    world = current()
    kept = world.from_main(partial(tuning_folder.kept_request, home, recipe))
    tuning_folder.refuse_other_question(kept, told)
    request = tuning_folder.larger(kept, tuning_folder.grown(kept, budget, more), home)
    world.from_main(partial(tuning_folder.check_task, home, task, parts, accept=accept))
    return request, tuning_folder.finished(home, task) if request == kept else None


def _tuned(
    task: Task, request: Request, setting: TrialContext, digests: Parts | None
) -> TuneResult:
    """Search, and train the best; `digests` are of the task whose folder is to be claimed."""
    started = time.perf_counter()
    recipe, folds = request.recipe, request.folds
    ladder_for(request.budget, folds)  # refuses a budget that compares nothing
    check_budget(request.budget, request.seeds, folds)
    goal = goal_for(task, request.objective, request.maximize)
    given, task = task, judged_by(task, goal)
    parts = [task] if folds == 1 else folds_of(task, folds)
    if folds > 1:
        recipe = recipe.replace(steps=clock_of(task, recipe).horizon)
    compared = [request.compared_on(part, recipe) for part in parts]
    pool = TrialPool(compared, recipe, request.budget - (folds > 1), goal, setting)
    pool.pauses_only = request.at_pauses(parts[0], recipe)
    try:
        if pool.length < SHORTEST:
            raise BadValueError(
                f"steps={pool.length} is too short to compare rates on: give at least {SHORTEST}"
            )
        selector = selector_for(task, pool, request)
        if setting.folder is not None:
            if digests is not None:
                claim = partial(tuning_folder.claim, setting.folder, task, digests, request)
            else:
                claim = partial(setting.folder.reopen, request.plain(task.name))
            current().from_main(claim)
        search, best, selection, over_seeds = best_trial(task, pool, selector, request)
        last = pool if folds == 1 else whole(task, best, request, setting)
        seconds = max(0.0, time.perf_counter() - started)
        result = judged(pool, search, best, last, request, seconds, over_seeds)
        if compared != parts:
            result = replace(result, valid_samples=compared[0].valid.samples)
            if request.valid_samples == "auto":
                said = noise_said(pool, search, best, parts[0].valid.samples)
                result = replace(result, notes=(*result.notes, *said))
        final = _final(best, last).runs[0]
        if affords_all([pool, last], final, given, request):
            result = on_all(result, final, given)
        else:
            result = replace(result, judged_on=final.task.valid.samples)
        if selection is not None:
            edge = result.outcome == Outcome.AT_AN_EDGE
            found = Outcome.FOUND if edge else result.outcome
            result = replace(result, selection=selection, outcome=found)
        if setting.folder is not None:
            save = partial(tuning_folder.save, result, [pool, last], setting.folder)
            current().from_main(save)
        return result
    finally:
        pool.close()


def whole(task: Task, best: Trial, request: Request, setting: TrialContext) -> TrialPool:
    """Train the rate that was best over the folds on all the training data."""
    part = request.compared_on(task, best.recipe)
    pool = TrialPool([part], best.recipe, 1.0, best.goal, setting)
    pool.pauses_only = request.at_pauses(task, best.recipe)
    if not best.diverged:
        pool.go([pool.add(best.recipe, "whole")], 1.0, Phase.FINISH_ON_ALL)
    return pool


def judged(
    pool: TrialPool,
    search: Search[Trial],
    best: Trial,
    last: TrialPool,
    request: Request,
    seconds: float,
    seeds: SeedEvidence | None = None,
) -> TuneResult:
    """Turn a finished search into what it says."""
    trials = sorted(search.pool.trials(), key=lambda c: c.lr)
    update, cause = pool.verdict_of_break(trials)
    found = assess(pool, search, best, edge=update is None, seeds=seeds)
    kept = list(zip(trials, found.unstable, found.alike, strict=True))
    above = [c.lr for c, bad, _ in kept if bad and c.lr > best.lr]
    trains = not cause and found.outcome != Outcome.NOTHING_TRAINS
    final = _final(best, last)
    spent = [r.cost for p in {pool, last} for c in p.trials for r in c.records()]
    costs = {**pool.costs, **(last.costs if last is not pool else {})}
    return TuneResult(
        recipe=_as_asked(best, last, request),
        lr=best.lr,
        tied=found.tied if trains else (best.lr, best.lr),
        stable_below=min(above, default=None),
        sensitivity=found.sensitivity,
        confidence=found.confidence,
        cost=math.fsum(costs.values()),
        costs=tuple(RungCost(name, runs) for name, runs in costs.items()),
        outcome=Outcome.NOTHING_TRAINS if cause else found.outcome,
        untrained=last.untrained if last.trials else pool.untrained,
        record=final.records()[0],
        trials=tuple(
            TrialSummary(
                c.lr,
                c.record(),
                bad,
                tied if trains else c is best,
                trial_place(c.name),
                c.compared(),
                seed_runs(c, seeds),
            )
            for c, bad, tied in kept
        ),
        budget=request.budget,
        seconds=seconds,
        objective=pool.goal.name,
        folds=request.folds,
        seeds=1 if seeds is None else seeds.count,
        allowed=request.rates,
        constant=pool.constant,
        cause=cause_said(pool, update, cause),
        doubts=found.doubts,
        notes=(
            *begun(pool, request),
            *seeds_said(request, best, seeds),
            *remarks(final.runs[0]),
        ),
        compute_seconds=math.fsum(cost.seconds for cost in spent),
        evaluation_seconds=math.fsum(cost.evaluation_seconds or 0.0 for cost in spent),
        model=final.runs[0].model,
    )


def _final(best: Trial, last: TrialPool) -> Trial:
    """Return the trial whose model is returned: with folds, the one on all training data."""
    return best if best in last.trials else next(iter(last.trials), best)


def _as_asked(best: Trial, last: TrialPool, request: Request) -> Recipe:
    """Return the best recipe, its length as the user put it where that is the same."""
    asked = best.recipe.replace(steps=request.recipe.steps)
    same = clock_of(last.tasks[0], asked).horizon == best.length
    return asked if request.folds > 1 and same else best.recipe
