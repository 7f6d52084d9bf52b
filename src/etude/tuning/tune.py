"""`tune`: which learning rate trains this task best, with the trained model as evidence."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model

from etude import files
from etude.errors import BadValueError, StorageError
from etude.progress import bar
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.training.folder import MODEL, quoted
from etude.training.given import check_given
from etude.training.interrupt import StopRequest, stop_on_signal
from etude.tuning.candidate import Candidate
from etude.tuning.result import TUNING, Outcome, RungCost, Trial, TuneResult, tie
from etude.tuning.search import Search


def tune(
    task: Task,
    recipe: Recipe | None = None,
    budget: float = 3.0,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> TuneResult:
    """Find the learning rate that trains a task best, and return the model trained with it.

    A few candidates start on the recipe's real, full-length schedule from the same initial
    weights and with the same batches. They are paused, the worse are dropped, the better go on
    from where they stood, and the best is finished: its whole past is part of the final run.

    The user's model, generators and the global random state are left as they were.

    Args:
        task: What to learn.
        recipe: How; its `lr` is what is looked for. None takes the task's defaults.
        budget: In full training runs, the finished model included; at least 1.25.
        folder: Where to keep everything; None keeps it in memory. With a folder, Ctrl-C and
            SIGTERM save and leave.
        resume: Go on with the tuning that `folder` holds.
        device: Where to train; None takes the model's own device, else an accelerator.
        progress: Whether to draw a bar; None draws it where somebody sits at a terminal.

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
    home = None if folder is None else Path(folder)
    if resume:
        if home is None:
            raise BadValueError("resume=True needs folder=, the run folder to go on from")
        if (finished := _finished(home, task)) is not None:
            return finished
        recipe, budget = _kept_request(home, recipe)
    recipe = recipe or Recipe(**task.defaults)
    watched: AbstractContextManager[StopRequest | None] = (
        nullcontext() if home is None else stop_on_signal()
    )
    started = time.perf_counter()
    with watched as request, bar(progress, task.name) as show:
        search = Search(
            task,
            recipe,
            budget,
            folder=home,
            device=device,
            bar=show,
            stop=lambda: bool(request),
            again="" if home is None else f"etude tune --resume {quoted(home)}",
        )
        if home is not None and not resume:
            _claim(home, task, recipe, budget)
        result = judge(search, search.run(), budget, lambda: time.perf_counter() - started)
        if home is not None:
            _save(result, search, home)
    return result


def judge(
    search: Search, best: Candidate, budget: float, seconds: Callable[[], float]
) -> TuneResult:
    """Turn a finished search into what it says."""
    rates = sorted(search.field)
    candidates = [search.field[rate] for rate in rates]
    unstable = [search.unstable(c, best) for c in candidates]
    ties = [
        not bad and _tied(c, best, search.untrained.loss)
        for c, bad in zip(candidates, unstable, strict=True)
    ]
    place = low = high = rates.index(best.lr)
    while low > 0 and ties[low - 1]:
        low -= 1
    while high < len(rates) - 1 and ties[high + 1]:
        high += 1
    above = [rate for rate, bad in zip(rates, unstable, strict=True) if bad and rate > best.lr]
    final = best.last()
    outcome: Outcome = "found"
    if best.diverged or final is None or not _learned(final.loss, search.untrained.loss):
        outcome = "nothing trains"
    elif best.run.status != "finished":
        outcome = "unfinished"
    elif place in (0, len(rates) - 1):
        outcome = "at an edge"
    return TuneResult(
        recipe=best.run.recipe,
        lr=best.lr,
        tied=(rates[low], rates[high]),
        stable_below=min(above, default=None),
        cost=search.spent / search.length,
        costs=tuple(RungCost(name, n / search.length) for name, n in search.costs.items()),
        outcome=outcome,
        untrained=search.untrained,
        record=best.run.record().without_model(),
        trials=tuple(
            Trial(c.lr, c.run.record().without_model(), bad, low <= i <= high)
            for i, (c, bad) in enumerate(zip(candidates, unstable, strict=True))
        ),
        budget=budget,
        seconds=seconds(),
        model=best.run.model,
    )


def _learned(loss: float, untrained: float) -> bool:
    """Say whether a loss is lower than the untrained one by more than rounding."""
    return loss < untrained - 1e-3 * abs(untrained)


def _tied(candidate: Candidate, best: Candidate, untrained: float) -> bool:
    if candidate is best:
        return True
    last = candidate.last()
    if candidate.diverged or last is None or not _learned(last.loss, untrained):
        return False  # whatever it had been before: it stands no better than untrained
    steps = {e.step for e in candidate.run.evaluations if 0 < e.step <= candidate.reached}
    common = [e for e in best.run.evaluations if e.step in steps]
    if not common:
        return False
    one = candidate.at(common[-1].step)
    return one is not None and tie(one, common[-1], untrained - common[-1].loss)


def _claim(home: Path, task: Task, recipe: Recipe, budget: float) -> None:
    files.make_folder(home)
    if (home / TUNING).exists() or (home / "recipe.toml").exists():
        raise StorageError(
            f"{str(home)!r} already holds a run: resume it, or choose another folder"
        )
    request: dict[str, Any] = {"task": task.name, "recipe": recipe.plain(), "budget": budget}
    files.write_json(home / TUNING, {"request": request})


def _kept_request(home: Path, recipe: Recipe | None) -> tuple[Recipe, float]:
    """Return recipe and budget of the tuning in a folder."""
    if not (home / TUNING).exists():
        raise StorageError(f"{str(home)!r} holds no tuning to resume: there is no {TUNING} in it")
    try:
        request = files.read_json(home / TUNING, "the tuning")["request"]
        kept, budget = Recipe(**request["recipe"]), float(request["budget"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"the tuning {str(home / TUNING)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
    if recipe is not None and recipe != kept:
        raise StorageError(
            f"{str(home)!r} holds a tuning of another recipe: leave the recipe out to go on"
        )
    return kept, budget


def _finished(home: Path, task: Task) -> TuneResult | None:
    """Return the findings of a tuning that had come to its end, with its model."""
    if not (home / TUNING).exists() or "result" not in files.read_json(home / TUNING, "the tuning"):
        return None
    with random_state_kept():
        model = task.build()
    if (home / MODEL).exists():
        try:
            load_model(model, str(home / MODEL))
        except (RuntimeError, SafetensorError) as error:
            raise StorageError(
                f"{str(home / MODEL)!r} is damaged, or of another task: {error}"
            ) from error
    return replace(TuneResult.load(home), model=model)


def _save(result: TuneResult, search: Search, home: Path) -> None:
    """Write the findings; the paused states have served and go."""
    result.save(home)
    for candidate in search.field.values():
        if candidate.keeper is not None:
            candidate.keeper.finish()
