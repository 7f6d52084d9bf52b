"""`population`: members train side by side, the worse copy the better, and rates move on the way.

Population-based training (Jaderberg et al. 2017, arXiv:1711.09846), with the rate alone: a
schedule that is learned during one training of several members.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etude.engines import Engine
from etude.errors import BadTypeError, BadValueError, check_whole, shown
from etude.measure.gradient_scale import scaled
from etude.methods.broken_batch import broken_batch
from etude.methods.exploit import Copied, copies
from etude.methods.kept_request import kept_request
from etude.methods.lowering import Lowering, Next, deciding
from etude.methods.population_result import PopulationMember, PopulationResult, best_of
from etude.methods.rate_history import RateHistory
from etude.optimizers.prior import centre_of, grid
from etude.recipe import Recipe
from etude.storage.population_folder import PopulationFolder
from etude.tasks.references.fingerprint import Parts, identified
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.observer import Observer
from etude.training.run import Run
from etude.trials.given_rates import checked_rates
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import goal_for, judged_by, usual_objective
from etude.trials.session import trial_session
from etude.trials.trial import Trial, step_at
from etude.tuning.search.ladder import SPACING
from etude.warning_filters import filters_kept

MEMBERS, GENERATIONS, TRUNCATION = 8, 20, 0.25
FACTORS = (0.8, 1.25)
"""What a copied rate is multiplied by: the paper's 0.8, and its inverse, so that moves cancel."""


@dataclass(frozen=True)
class PopulationRequest:
    """What was asked for: all that decides the answer.

    Attributes:
        recipe: How the members train.
        lrs: The rates that they begin with.
        generations: Into how many parts the run is cut.
        truncation: The share that copies.
        factors: What a copied rate may be multiplied by.
        objective: What is compared.
        maximize: Whether more of it is better.
        lowers: Whether all begin again at lower rates if these are too high: nobody gave them.
    """

    recipe: Recipe
    lrs: tuple[float, ...]
    generations: int
    truncation: float
    factors: tuple[float, ...]
    objective: str
    maximize: bool | None
    lowers: bool = False

    def plain(self, task: str) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "task": task,
            "recipe": self.recipe.plain(),
            "lrs": list(self.lrs),
            "generations": self.generations,
            "truncation": self.truncation,
            "factors": list(self.factors),
            "objective": self.objective,
            "maximize": self.maximize,
            "lowers": self.lowers,
        }


@filters_kept()
def population(
    task: Task,
    recipe: Recipe | None = None,
    members: int | None = None,
    *,
    lrs: Iterable[float] | None = None,
    generations: int | None = None,
    truncation: float | None = None,
    factors: Sequence[float] | None = None,
    objective: str | None = None,
    maximize: bool | None = None,
    engine: str | Engine | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    device: str | torch.device | None = None,
    memory: int | None = None,
    observers: Sequence[Observer] = (),
    progress: bool | None = None,
) -> PopulationResult:
    """Train a population whose members copy each other, and return the schedule that it learned.

    All members start from the same weights and see the same batches, at different rates. At the
    end of each generation the worse ones copy weights, optimizer and rate of the better ones, and
    move the rate by a factor. What the rate of the best was at each update is a schedule, and
    training with it from the start gives the best member's weights to the bit. A population costs
    a full run for each member; `etude.tune` finds a good constant factor for less.

    Args:
        task: What to learn.
        recipe: How; its rate is not used, and its schedule is multiplied by what is learned: with
            'constant()' everything is learned. None takes the task's defaults.
        members: How many train side by side; None takes 8, or one for each of `lrs`.
        lrs: The rates that they begin with. None takes rates 0.4 decades apart around the one at
            which the tuner begins. If the generations of the first fifth of the run end with every
            member worse than the untrained network or diverged, and none was better before, all
            begin again at lower rates, up to three times; if that does not help, the members of
            the first rates go on. The cost includes all of it.
        generations: Into how many equal parts the run is cut; None takes 20. With fewer than 5
            none ends in the first fifth of the run, and no rates are lowered.
        truncation: The share of the members that copies at the end of each, and the share that is
            copied; None takes 0.25.
        factors: What a copied rate may be multiplied by; None takes 0.8 and 1.25.
        objective: What is compared: 'loss', 'metric', or the metric's name. None takes the loss,
            but the metric where parts of the model take turns.
        maximize: Whether a larger metric is better; None takes the metric's own direction.
        engine: What trains the members: 'loop', 'pool', 'vmap', 'vmap pool', 'ray' or 'auto'. None
            takes the faster of loop and pool, which give the same bits.
        folder: Where to keep everything; None keeps it in memory. With a folder, Ctrl-C and
            SIGTERM save and leave.
        resume: Go on with the population that `folder` holds. What was asked is the folder's:
            leave it out.
        accept_changes: Go on although data, model or loss differ from those of the population.
        device: Where to train; None takes the model's own device, else an accelerator.
        memory: Bytes that members may take; the others wait on disk, those of a GPU in the
            machine's memory. None allows half of what is free.
        observers: Called while the members train; each has copies.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The schedule that was learned, all members' rates and scores, the cost, and the model.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a value is out of bounds.
        StorageError: If the folder cannot be written, or holds another population.
        Interrupted: After Ctrl-C or SIGTERM; the message says how to resume.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> flat = Recipe(optimizer="sgd", schedule="constant()", steps=80, batch_size=16)
    >>> found = population(task, flat, 4, lrs=[0.01, 0.03, 0.1, 0.3], generations=4, progress=False)
    >>> found.cost, found.ends
    (4.0, (20, 40, 60, 80))
    """
    check_given(task, recipe)
    home = None if folder is None else PopulationFolder(Path(folder))
    parts: Parts = {}
    if home is not None:
        task, parts = identified(task)
    asked = (recipe, members, lrs, generations, truncation, factors, objective, maximize)
    if resume:
        request = _kept(home, asked)
    else:
        base = recipe or Recipe(**task.defaults)
        request = PopulationRequest(
            base,
            _rates(task, base, members, lrs, device),
            check_whole("generations", GENERATIONS if generations is None else generations, 2),
            TRUNCATION if truncation is None else truncation,
            FACTORS if factors is None else tuple(factors),
            objective or usual_objective(task),
            maximize,
            lowers=lrs is None,
        )
    _check(request)
    if home is not None and resume:
        home.check_task(parts, accept=accept_changes)
    elif home is not None:
        home.claim(request.plain(task.name), parts, task.ref)
    with trial_session(
        "population",
        task,
        home,
        engine=engine,
        device=device,
        memory=memory,
        observers=observers,
        progress=progress,
    ) as setting:
        found = _trained(task, request, setting)
    if home is not None:
        found.save(home)
    return found


def _rates(
    task: Task,
    recipe: Recipe,
    members: int | None,
    lrs: Iterable[float] | None,
    device: str | torch.device | None,
) -> tuple[float, ...]:
    """Return the rates that the members begin with, ascending.

    Raises:
        BadValueError: If there are fewer than two, or not as many as members.
    """
    if members is not None:
        members = check_whole("members", members, 2)
    if lrs is None:
        centre = centre_of(task.build(), task.train.targets(), recipe.optimizer)
        centre = scaled(centre, Run(task, recipe, device=device))
        return tuple(grid(centre, members or MEMBERS, SPACING))
    rates = checked_rates(lrs)
    if len(rates) < 2:
        raise BadValueError("lrs has one rate: a population needs at least two members")
    if members is not None and members != len(rates):
        raise BadValueError(
            f"members={members} and {len(rates)} rates in lrs: give one rate for each member, or "
            "leave members out"
        )
    return rates


def _check(request: PopulationRequest) -> None:
    """Raise for what no population can be trained with.

    Raises:
        BadTypeError: If a value is no number.
        BadValueError: If one is out of bounds.
    """
    check_whole("generations", request.generations, 2)
    share = request.truncation
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise BadTypeError(f"truncation={shown(share)} is not a number: give a share such as 0.25")
    if not 0 < share <= 0.5:
        raise BadValueError(
            f"truncation={share} is out of bounds: give more than 0 and at most 0.5, the share "
            "that copies and the share that is copied"
        )
    if not request.factors:
        raise BadValueError("factors is empty: give at least one, such as (0.8, 1.25)")
    for factor in request.factors:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            raise BadTypeError(f"factors has {shown(factor)}, which is not a number")
        if not 0 < factor < math.inf:
            raise BadValueError(f"factors has {factor}: give numbers above 0")
    if request.recipe.early_stopping is not None:
        raise BadValueError(
            "early_stopping would end the members of a population at different updates: leave it "
            "out of the recipe"
        )


def _kept(home: PopulationFolder | None, asked: tuple[object, ...]) -> PopulationRequest:
    """Return what was asked of the population in a folder; the errors are of `kept_request`."""
    own = "recipe, members and all other values"
    with kept_request(home, asked, "population", leave_out=own) as plain:
        request = PopulationRequest(
            Recipe(**plain["recipe"]),
            checked_rates(plain["lrs"]),
            plain["generations"],
            plain["truncation"],
            tuple(plain["factors"]),
            plain["objective"],
            plain["maximize"],
            lowers=bool(plain.get("lowers", False)),
        )
        _check(request)
    return request


@dataclass
class _Place:
    """One place in the population: the trial that holds it now, and what came of it so far."""

    trial: Trial
    history: RateHistory
    rates: list[float]
    scores: list[float]
    donors: list[int | None]

    @property
    def lr(self) -> float:
        """What the recipe's schedule multiplies now."""
        return self.history.lr * self.history.factors[-1]


def _trained(task: Task, request: PopulationRequest, setting: TrialContext) -> PopulationResult:
    started = time.perf_counter()
    goal = goal_for(task, request.objective, request.maximize)
    runs = float(len(request.lrs))
    first = request.recipe.replace(lr=request.lrs[0])
    pool = TrialPool([judged_by(task, goal)], first, runs, goal, setting)
    try:
        if pool.length < request.generations:
            raise BadValueError(
                f"generations={request.generations} is out of bounds: the run has "
                f"{pool.length} updates, and each generation takes at least one"
            )
        first_places = places = _entered(pool, request)
        lowering = Lowering(request.generations, pool.untrained, goal, open=_may_lower(request))
        ends: list[int] = []
        notes: list[str] = []
        generation = 0
        while generation < request.generations:
            generation += 1
            ends.append(_go(pool, places, generation / request.generations))
            seen = [None if p.trial.diverged else p.trial.at(ends[-1]) for p in places]
            then = lowering.after(generation, seen)
            if then is Next.LOWER:
                places = _entered(pool, request, lowering.lowered)
                notes.append(_lowered(ends[-1], places))
                ends, generation = [], 0
                continue
            if then is Next.RETURN:
                places = first_places
                notes.append(_returned(ends[-1], request.lrs))
            if generation < request.generations:
                _exploit(pool, request, places, generation, ends[-1], lowering.lowered)
        found = _result(pool, request, places, tuple(ends), notes)
        for trial in pool.trials:
            trial.finish()
        seconds = max(0.0, time.perf_counter() - started)
        return PopulationResult(**found, seconds=seconds)
    finally:
        pool.close()


def _entered(pool: TrialPool, request: PopulationRequest, lowered: int = 0) -> list[_Place]:
    """Return the members before their first update.

    Args:
        pool: The trials.
        request: What was asked for.
        lowered: How often the rates were lowered: each time they lie next to those before.
    """
    places = []
    down = 10.0 ** (-SPACING * len(request.lrs) * lowered)
    for number, lr in enumerate(request.lrs):
        history = RateHistory(lr * down if lowered else lr)
        trial = pool.add(history.recipe(request.recipe), _name(number, lowered))
        places.append(_Place(trial, history, [], [], [None]))
    return places


def _name(number: int, lowered: int) -> str:
    return f"member-{number}-lower-{lowered}" if lowered else f"member-{number}"


def _may_lower(request: PopulationRequest) -> bool:
    """Return whether nobody gave the rates, and a generation ends early enough to lower them."""
    return request.lowers and deciding(request.generations) > 0


def _go(pool: TrialPool, places: Sequence[_Place], share: float) -> int:
    """Train the members up to a share of their runs, and return the update at which they stand."""
    for place in places:
        place.rates.append(place.lr)
    alive = [place.trial for place in places if not place.trial.diverged]
    if alive:
        pool.go(alive, share, Phase.POPULATION)
    end = step_at(places[0].trial, share)
    for place in places:
        place.scores.append(math.inf if place.trial.diverged else place.trial.score(end))
    return end


def _lowered(step: int, places: Sequence[_Place]) -> str:
    """Return a note of lower rates, at which all members begin again."""
    rates = [place.lr for place in places]
    return (
        f"After update {step} every member was worse than the untrained network or had diverged: "
        f"all began again, at rates from {min(rates):.3g} to {max(rates):.3g}."
    )


def _returned(step: int, lrs: Sequence[float]) -> str:
    """Return a note that lower rates did not help."""
    return (
        f"After update {step} no member was clearly better than the untrained network at the lower "
        f"rates either: those that began at {min(lrs):.3g} to {max(lrs):.3g} went on from there."
    )


def _exploit(
    pool: TrialPool,
    request: PopulationRequest,
    places: list[_Place],
    generation: int,
    step: int,
    lowered: int,
) -> None:
    """Let the worse members go on from where better ones stand, at moved rates."""
    scores = [place.scores[-1] for place in places]
    found = copies(scores, request.truncation, request.factors, request.recipe.seed, generation)
    by_member: dict[int, Copied] = {one.member: one for one in found}
    # Who copies is never copied, so that the order does not matter.
    for number, place in enumerate(places):
        copied = by_member.get(number)
        place.donors.append(None if copied is None else copied.donor)
        if copied is None:
            continue
        donor = places[copied.donor]
        name = _name(number, lowered)
        place.history = donor.history.moved(step, copied.factor)
        place.trial = pool.branch(
            donor.trial,
            place.history.recipe(request.recipe),
            f"{name}-from-{generation}",
        )


def _result(
    pool: TrialPool,
    request: PopulationRequest,
    places: list[_Place],
    ends: tuple[int, ...],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the fields of the result, but for the time."""
    best = best_of([place.scores[-1] for place in places])
    shown_place = places[best or 0]
    return {
        "recipe": shown_place.trial.recipe,
        "history": shown_place.history,
        "best": best,
        "members": tuple(
            PopulationMember(i, tuple(p.rates), tuple(p.scores), tuple(p.donors))
            for i, p in enumerate(places)
        ),
        "ends": ends,
        "goal": pool.goal,
        "untrained": pool.untrained,
        "cost": pool.spent,
        "record": shown_place.trial.records()[0],
        "notes": (*notes, *pool.setting.engine.notes),
        "cause": "" if best is not None else broken_batch(pool, pool.trials),
        "model": shown_place.trial.runs[0].model,
    }
