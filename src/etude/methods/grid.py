"""`grid`: trains every rate of a list to its end, over seeds or folds, and compares them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from etude.engines import Engine
from etude.errors import check_whole
from etude.methods.broken_batch import broken_batch
from etude.methods.grid_result import GridRate, GridResult
from etude.methods.kept_request import kept_request
from etude.optimizers.prior import centre_of
from etude.recipe import Recipe
from etude.storage.grid_folder import GridFolder
from etude.tasks.references.fingerprint import Parts, identified
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.clock import clock_of
from etude.training.observer import Observer
from etude.trials.folds import folds_of
from etude.trials.given_rates import checked_rates
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import goal_for, judged_by, usual_objective
from etude.trials.session import trial_session
from etude.trials.trial import Trial
from etude.warning_filters import filters_kept

POINTS, APART = 7, 0.5
"""How many rates a grid has where none are given, and how many decades they are apart."""


@dataclass(frozen=True)
class GridRequest:
    """What was asked for: all that decides the answer."""

    recipe: Recipe
    lrs: tuple[float, ...]
    seeds: int
    objective: str
    maximize: bool | None
    folds: int

    def plain(self, task: str) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "task": task,
            "recipe": self.recipe.plain(),
            "lrs": list(self.lrs),
            "seeds": self.seeds,
            "objective": self.objective,
            "maximize": self.maximize,
            "folds": self.folds,
        }


@filters_kept()
def grid(
    task: Task,
    recipe: Recipe | None = None,
    lrs: Iterable[float] | None = None,
    *,
    seeds: int | None = None,
    objective: str | None = None,
    maximize: bool | None = None,
    folds: int | None = None,
    engine: str | Engine | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    device: str | torch.device | None = None,
    observers: Sequence[Observer] = (),
    progress: bool | None = None,
) -> GridResult:
    """Train every rate of a grid to the end of its run, and return how they end.

    All rates start from the same weights and see the same batches, for each seed. The textbook's
    way: it costs a full run for each rate and seed. `etude.tune` leaves the worse rates early.

    Args:
        task: What to learn.
        recipe: How; its rate is not used. None takes the task's defaults.
        lrs: The rates. None takes seven, half a decade apart, around the rate at which the tuner
            begins for this optimizer and model.
        seeds: With how many seeds each rate is trained, from the recipe's upward; None takes one.
        objective: What is compared: 'loss', 'metric', or the metric's name. None takes the loss,
            but the metric where parts of the model take turns.
        maximize: Whether a larger metric is better; None takes the metric's own direction.
        folds: Cut the training data into so many parts, train each rate without one of them, and
            compare by the mean over the parts held out: k-fold cross-validation. The best rate is
            then trained on all of it. The validation data is not looked at for the choice. None
            takes the validation data instead.
        engine: What trains the runs: 'loop', 'pool', 'vmap', 'vmap pool', 'ray' or 'auto'. None
            takes the faster of loop and pool, which give the same bits.
        folder: Where to keep everything; None keeps it in memory. With a folder, Ctrl-C and
            SIGTERM save and leave.
        resume: Go on with the grid that `folder` holds. Recipe, rates, seeds, objective and folds
            are the folder's: leave them out.
        accept_changes: Go on although data, model or loss differ from those of the grid.
        device: Where to train; None takes the model's own device, else an accelerator.
        observers: Called while the runs train; each run has copies.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The losses by rate, the best rate with those that tie, the cost, and the best model.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a value is out of bounds.
        StorageError: If the folder cannot be written, or holds another grid.
        Interrupted: After Ctrl-C or SIGTERM; the message says how to resume.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> flat = Recipe(optimizer="sgd", steps=80, batch_size=16)
    >>> found = grid(task, flat, [0.001, 0.01, 0.1], progress=False)
    >>> found.lr, found.cost
    (0.1, 3.0)
    """
    check_given(task, recipe)
    home = None if folder is None else GridFolder(Path(folder))
    parts: Parts = {}
    if home is not None:
        task, parts = identified(task)
    if resume:
        request = _kept(home, (recipe, lrs, seeds, objective, maximize, folds))
    else:
        base = recipe or Recipe(**task.defaults)
        rates = default_rates(task, base) if lrs is None else checked_rates(lrs)
        count = check_whole("seeds", 1 if seeds is None else seeds, 1)
        parts_of_data = check_whole("folds", 1 if folds is None else folds, 1)
        aim = objective or usual_objective(task)
        request = GridRequest(base, rates, count, aim, maximize, parts_of_data)
    if home is not None and resume:
        home.check_task(parts, accept=accept_changes)
    elif home is not None:
        home.claim(request.plain(task.name), parts, task.ref)
    with trial_session(
        "grid", task, home, engine=engine, device=device, observers=observers, progress=progress
    ) as setting:
        found = _trained(task, request, setting)
    if home is not None:
        found.save(home)
    return found


def default_rates(task: Task, recipe: Recipe) -> tuple[float, ...]:
    """Return seven rates, half a decade apart, around the prior of the optimizer and the model.

    They are powers of √10, so that grids of several recipes share rates.

    Args:
        task: The task.
        recipe: The recipe, whose optimizer counts.
    """
    centre = round(centre_of(task.build(), task.train.targets(), recipe.optimizer) / APART)
    half = POINTS // 2
    return tuple(
        float(f"{10 ** (APART * place):.3g}") for place in range(centre - half, centre + half + 1)
    )


def _kept(home: GridFolder | None, given: tuple[object, ...]) -> GridRequest:
    """Return what was asked of the grid in a folder; the errors are of `kept_request`."""
    own = "recipe, rates, seeds, objective and folds"
    with kept_request(home, given, "grid", leave_out=own) as plain:
        for name in ("seeds", "folds"):
            check_whole(name, plain[name], 1)
        request = GridRequest(
            Recipe(**plain["recipe"]),
            checked_rates(plain["lrs"]),
            plain["seeds"],
            plain["objective"],
            plain["maximize"],
            plain["folds"],
        )
    return request


def _trained(task: Task, request: GridRequest, setting: TrialContext) -> GridResult:
    started = time.perf_counter()
    recipe, folds = request.recipe, request.folds
    goal = goal_for(task, request.objective, request.maximize)
    judged = judged_by(task, goal)
    parts = [judged] if folds == 1 else folds_of(judged, folds)
    if folds > 1:
        recipe = recipe.replace(steps=clock_of(judged, recipe).horizon)
    seeds = tuple(range(recipe.seed, recipe.seed + request.seeds))
    runs = float(len(request.lrs) * len(seeds) * folds)
    pool = TrialPool(parts, recipe.replace(lr=request.lrs[0]), runs, goal, setting)
    try:
        trials = {
            (lr, seed): pool.add(recipe.replace(lr=lr, seed=seed), f"lr-{lr:g}-seed-{seed}")
            for lr in request.lrs
            for seed in seeds
        }
        pool.go(list(trials.values()), 1.0, Phase.FINISH)
        rates = tuple(
            GridRate(lr, tuple(trials[lr, seed].record() for seed in seeds)) for lr in request.lrs
        )
        found = GridResult(
            recipe, rates, seeds, folds, goal, pool.untrained, pool.constant, pool.spent, 0.0
        )
        if found.lr is None:
            own = [trials[lr, seeds[0]] for lr in request.lrs]
            found = replace(found, cause=broken_batch(pool, own))
        else:
            best, extra = trials[found.lr, seeds[0]], 0.0
            if folds > 1:
                best, extra = _on_all(judged, best, setting)
            found = replace(
                found,
                recipe=request.recipe.replace(lr=found.lr),
                cost=found.cost + extra,
                record=best.records()[0],
                model=best.runs[0].model,
            )
        for trial in trials.values():
            trial.finish()
        return replace(found, seconds=max(0.0, time.perf_counter() - started))
    finally:
        pool.close()


def _on_all(task: Task, best: Trial, setting: TrialContext) -> tuple[Trial, float]:
    """Train the best rate of the folds on all training data; return this trial and its cost."""
    pool = TrialPool([task], best.recipe, 1.0, best.goal, setting)
    try:
        trial = pool.add(best.recipe, "whole")
        pool.go([trial], 1.0, Phase.FINISH_ON_ALL)
        return trial, pool.spent
    finally:
        pool.close()
