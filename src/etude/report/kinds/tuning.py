"""The report on a tuning of the rate, or of the whole recipe."""

from __future__ import annotations

from etude.record import Status
from etude.report import health, pieces, words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.figures import loss_against_rate, trial_curves
from etude.report.registry import presents
from etude.report.seed_table import seed_table
from etude.report.sentences import broken_said, range_said, tie_said
from etude.report.trials import trial_table
from etude.tasks.task import Task
from etude.trials.phase import Phase
from etude.tuning.loops.result import LoopResult
from etude.tuning.outcome import Outcome
from etude.tuning.recipes.selection import HORIZONS, Selection
from etude.tuning.result import RungCost, TuneResult

PHASES = {
    Phase.RUNG: "the remaining rates",
    Phase.RECIPE_RUNG: "the remaining recipes",
    Phase.BEYOND_EDGE: "the best rate was the lowest or highest one",
    Phase.CURVE_TURNED: "a lower rate, computed from that curve",
    Phase.ANEW_LOWER: "a rate had begun to overfit",
    Phase.FINISH: "the best rate, to the end of its run",
    Phase.AFTER_DIVERGENCE: "lower rates, continued",
    Phase.RUNNER_UP: "rates with the same progress as the best",
    Phase.REFINE: "neighbours of the best rate",
    Phase.EDGE_OF_STABILITY: "the rate at which training breaks",
    Phase.ANOTHER_SEED: "the best two rates tied",
    Phase.OTHER_SEEDS: "the best rates, paired over seeds",
    Phase.FINISH_ON_ALL: "the folds only chose the rate",
    Phase.POPULATION: "the members of a population",
    Phase.REPEATED: "what a loop had done before it was paused, and could not be resumed",
}
"""The purpose of each part of a tuning, in a few words."""

TWICE = 1.99
"""By how much a rate differs from another that is twice as high: rates have three digits."""

WORTH = {
    Outcome.FOUND: "the peak",
    Outcome.TOO_SMALL_TO_TELL: "not distinguished from the others",
    Outcome.AT_AN_EDGE: "best, at an edge",
    Outcome.UNFINISHED: "best stable rate, not finished",
    Outcome.NO_BETTER_THAN_A_CONSTANT: "no better than a constant",
}
"""A note on the chosen rate, by the outcome."""


@presents(TuneResult)
def of_tuning(result: TuneResult, task: Task | None = None) -> Report:
    """Return the report on a tuning."""
    trains = result.outcome != Outcome.NOTHING_TRAINS
    return _report(result, pieces.recipe(result.record, task, use=trains))


@presents(LoopResult)
def of_loop(result: LoopResult, task: Task | None = None) -> Report:
    """Return the report on the tuning of a loop, whose recipe is its own."""
    rows = {**result.record.environment, "seed": result.record.recipe.seed}
    table = DataTable(
        (TableColumn(""), TableColumn("")),
        tuple(TableRow((name, str(value))) for name, value in rows.items()),
    )
    return _report(result, (Section("Where it was run", (table,), detail=True),))


def _report(result: TuneResult, last: tuple[Section, ...]) -> Report:
    return Report(
        kind="Tuning of the learning rate",
        subject=result.record.task,
        title=_title(result),
        lede=" ".join(_lede(result)),
        notice=result.advice(),
        facts=tuple(_facts(result)),
        sections=(*_sections(result), *last),
    )


def _title(result: TuneResult) -> str:
    task = result.record.task
    if result.outcome == Outcome.NO_BETTER_THAN_A_CONSTANT:
        return f"{task}: no learning rate that was tried made it better than a constant"
    if result.outcome == Outcome.NOTHING_TRAINS:
        return f"{task}: no learning rate that was tried trains it"
    rate, left = words.rate(result.lr), result.left_better
    if left is not None:
        return f"{task}: {rate} was trained to the end, {words.rate(left.lr)} was left while better"
    if result.outcome == Outcome.TOO_SMALL_TO_TELL:
        return f"{task}: which rate is best cannot be told; {rate} was trained to the end"
    return f"{task}: of the rates tried, {rate} trains best"


def _lede(result: TuneResult) -> list[str]:
    low, high = result.trials[0].lr, result.trials[-1].lr
    tried = words.plural(len(result.trials), "rate")
    between = f"from {words.rate(low)} to {words.rate(high)}" if low < high else "alone"
    cost = f"That cost {words.runs(result.cost)} of the recipe"
    if result.outcome == Outcome.NOTHING_TRAINS:
        return [
            f"{tried} {'were' if len(result.trials) > 1 else 'was'} tried, {between}, and none "
            f"came to the end of its run better than untrained. {cost}."
        ]
    parts: list[str] = []
    if low < high:
        parts = [f"{tried} were tried {between}.", range_said(result), tie_said(result)]
    parts = [*parts, broken_said(result)] if low < high else ["No other rate was tried."]
    if result.selection is not None:
        given = ", ".join(
            f"{k} {words.recipe_value(v)}" for k, v in result.selection.values.items()
        )
        tried_recipes = words.plural(len(result.selection.tried), "recipe")
        parts.insert(0, f"Of {tried_recipes} tried, the best has {given}.")
    if result.left_better is not None:
        parts.insert(0, result.left_better.said())
    finished = result.record.status == Status.FINISHED
    parts.append(f"{cost}{', the finished model included' if finished else ''}.")
    return [part for part in parts if part]


# ---- facts -------------------------------------------------------------------------------------


def _facts(result: TuneResult) -> list[Fact]:
    found = []
    if result.outcome != Outcome.NOTHING_TRAINS:
        rate = words.rate(result.lr)
        found = [
            Fact("Learning rate", rate, WORTH[result.outcome], Tone.GOOD),
            *_left_better(result),
            _tied(result),
            *_not_followed(result),
        ]
    found += [*_allowed(result), _broken(result), *_seeds(result)]
    found += _sensitivity(result)
    if result.confidence is not None:
        share = f"{result.confidence:.0%}"
        found.append(
            Fact("Confidence", share, "that no rate ends better by more than 2% of the drop")
        )
    spent = f"of {result.budget:g} allowed; {words.duration(result.seconds)}"
    if result.evaluation_share is not None:
        spent += f", {words.percent(result.evaluation_share)} of the trials' time for validation"
    return [
        *found,
        *pieces.scores(result.record, result.untrained),
        *health.fact(result.record),
        *_compared(result),
        Fact("Cost", words.runs(result.cost), spent),
    ]


def _sensitivity(result: TuneResult) -> list[Fact]:
    """Say what is lost beside the rate, and on which side the rates followed reach so far."""
    if result.sensitivity is None:
        return []
    followed = [result.lr, *(trial.lr for trial in result.trials if trial.followed)]
    up, down = max(followed) >= TWICE * result.lr, min(followed) <= result.lr / TWICE
    name = "At twice or half the rate"
    note = "of the drop is lost at most, interpolated between the rates followed"
    if up != down:
        name = f"At {'twice' if up else 'half'} the rate"
        note += f"; none was followed at {'half' if up else 'twice'} of it or beyond"
    elif not up:
        note = "of the drop is lost, extrapolated from the rates followed, which are closer"
    return [Fact(name, words.share(result.sensitivity, 1), note)]


def _compared(result: TuneResult) -> list[Fact]:
    """Say on how many validation samples rates were compared, where it was on some of them."""
    if result.valid_samples is None:
        return []
    of = "of the validation data" if result.folds == 1 else "of the data that each fold held out"
    note = f"{of}, drawn at random"
    if result.folds == 1:
        note += "; only the final scores are on all of it"
    if result.judged_on is not None:
        judged = words.plural(result.judged_on, "sample")
        note = f"{of}, drawn at random; the final scores are on {judged} too"
    return [Fact("Compared on", words.plural(result.valid_samples, "sample"), note)]


def _allowed(result: TuneResult) -> list[Fact]:
    """Say which rates could be tried, where not all could, and whether the best lies at a bound."""
    allowed = result.allowed
    if not allowed.bounded:
        return []
    value = f"{words.rate(allowed.low)} to {words.rate(allowed.high)}"
    note = "no rate beyond was looked at"
    if allowed.listed:
        note = f"{len(allowed.listed)} rates that were given; no other was looked at"
    if result.at_bound is not None:
        note = f"{note}, and the best lies at a bound"
    return [Fact("Rates allowed", value, note)]


def _tied(result: TuneResult) -> Fact:
    low, high = result.tied
    if low == high:
        return Fact("May be as good", "none", "no other rate was tried")
    tied = words.plural(sum(t.tied for t in result.trials if t.lr != result.lr), "other rate")
    value = f"{words.rate(low)} to {words.rate(high)}"
    untried = _untried_said(result)
    return Fact(
        "May be as good", value, f"{tied} tried there, {words.seeds(result.seeds)}{untried}"
    )


def _untried_said(result: TuneResult) -> str:
    """Say on which sides the range reaches beyond the rates that were tried."""
    first, last = words.rate(result.trials[0].lr), words.rate(result.trials[-1].lr)
    sides = {
        (True, True): f"lower than {first} or higher than {last}",
        (True, False): f"lower than {first}",
        (False, True): f"higher than {last}",
    }
    side = sides.get(result.open_ends)
    return "" if side is None else f"; none {side} was tried"


def _left_better(result: TuneResult) -> list[Fact]:
    """Say which rate was left although its loss was lower than the chosen one's at the end."""
    left = result.left_better
    if left is None:
        return []
    where = "ended at" if left.until is None else f"after {words.count(left.until)} had"
    mean = "" if left.until is None else "mean "
    note = (
        f"left after {words.count(left.step)} of {words.count(left.length)} updates with a "
        f"{mean}validation loss of {words.number(left.loss)}; {words.rate(left.chosen)} {where} "
        f"{words.number(left.final)}"
    )
    return [Fact("Better when left", words.rate(left.lr), note, Tone.WARN)]


def _not_followed(result: TuneResult) -> list[Fact]:
    left = [t for t in result.trials if t.lr != result.lr and t.left_open]
    if not left:
        return []
    rates = ", ".join(words.rate(trial.lr) for trial in left)
    note = f"{rates}: how {'it ends' if len(left) == 1 else 'they end'} is not known"
    return [Fact("Not followed to the end", words.plural(len(left), "rate"), note)]


def _seeds(result: TuneResult) -> list[Fact]:
    """Say which rates were compared over seeds, and how far they were trained with each."""
    compared = [trial for trial in result.trials if trial.seeds]
    if not compared:
        return []
    length = result.record.length
    told = []
    for trial in compared:
        least = min((one.updates for one in trial.seeds if not one.diverged), default=0)
        told.append(f"{words.rate(trial.lr)} to {words.share(least / length, 1)}")
    note = f"{', '.join(told)} of the run; other rates with the first seed"
    return [Fact("Compared over", words.plural(result.seeds, "seed"), note)]


def _broken(result: TuneResult) -> Fact:
    if result.stable_below is None and result.common_break is not None:
        update = words.count(result.common_break)
        note = "at which higher rates diverged; no edge is known"
        return Fact("Broke training", f"update {update}", note)
    if result.stable_below is None:
        return Fact("Broke training", "none", "of the higher rates, as far as they were trained")
    trial = next(t for t in result.trials if t.lr == result.stable_below)
    how = "lost what it had learned by its end"
    if trial.record.status == Status.DIVERGED:
        how = f"diverged at update {words.count(trial.record.cost.steps)}"
    elif trial.broken_seed is not None:
        how = f"diverged at {words.broken_seed(trial.broken_seed)}"
    times = result.stable_below / result.lr
    note = f"{how}; {times:.3g} times the chosen"
    return Fact("Broke training", words.rate(result.stable_below), note)


# ---- sections ----------------------------------------------------------------------------------


def _sections(result: TuneResult) -> list[Section]:
    rates, curves = loss_against_rate.info(result), trial_curves.info(result)
    against = Drawing(
        loss_against_rate.caption(rates), lambda theme: loss_against_rate.draw(rates, theme)
    )
    course = Drawing(trial_curves.caption(curves), lambda theme: trial_curves.draw(curves, theme))
    chosen_from = [] if result.selection is None else [_recipes(result.selection)]
    tied = None if result.outcome == Outcome.NOTHING_TRAINS else result.tied
    return [
        *chosen_from,
        Section("Which rate", (against, trial_table(result), *seed_table(result))),
        Section("How the rates compare over the run", (course,), detail=True),
        Section("The chosen run", _run(result), detail=True),
        *health.sections(result.record, tied),
        Section("What it cost", (_costs(result),)),
    ]


def _run(result: TuneResult) -> tuple[Drawing, ...]:
    """Return the figures of the chosen run: of a loop's rate only where its schedule is known."""
    drawings = pieces.drawings(result.record if result.folds > 1 else result.paired_record)
    return drawings if "lr" in result.record.series else drawings[:1]


def _recipes(selection: Selection) -> Section:
    """Return the recipes that were tried, the best first."""
    names = list(dict.fromkeys(name for one in selection.tried for name in one.values))
    heads = [TableColumn(name.removeprefix("optimizer.")) for name in names]
    heads += [
        TableColumn(name, number=True)
        for name in ("rate", *(f"at {words.share(share, 1)}" for share in HORIZONS))
    ]
    rows = []
    for one in selection.tried:
        scores = [words.number(score) for score in one.scores]
        scores += [""] * (len(HORIZONS) - len(scores))
        cells = (
            *(words.recipe_value(one.values.get(name, "")) for name in names),
            words.rate(one.lr),
        )
        tone = Tone.GOOD if one.values == selection.values else Tone.PLAIN
        rows.append(TableRow((*cells, *scores), tone))
    order = ""
    if selection.held is not None:
        order = f" Rank correlation of the first two: {selection.held:.2f}."
    caption = (
        "Every recipe tried, with its score after the same shares of its run; lower is better."
        f"{order}"
    )
    return Section("Which recipe", (DataTable(tuple(heads), tuple(rows), caption),))


def _costs(result: TuneResult) -> DataTable:
    most = max((part.runs for part in result.costs), default=0.0) or 1.0
    unit = "updates" if isinstance(result, LoopResult) else "gradients"
    repeats = any(part.phase == Phase.REPEATED for part in result.costs)
    but = ", but for what was repeated" if repeats else ""
    return DataTable(
        (TableColumn("part"), TableColumn("runs", number=True)),
        tuple(
            TableRow((part_said(part), f"{part.runs:.2f}"), bar=part.runs / most)
            for part in result.costs
        ),
        f"1 run is what one full training costs, in {unit}. What a rate had learned when it was "
        f"paused is not paid again when it goes on{but}.{evaluations_said(result)}",
        TableRow((f"all, of {result.budget:g} allowed", f"{result.cost:.2f}")),
    )


def evaluations_said(result: TuneResult) -> str:
    """Say how much of the time went into evaluations; empty where it is not known."""
    share = result.evaluation_share
    if share is None:
        return ""
    return f" Evaluations, which cost no gradients, took {words.percent(share)} of the time."


def part_said(part: RungCost) -> str:
    """Return the name of a part of a tuning, and what it was for.

    >>> part_said(RungCost("to 50%", 0.5))
    'to 50% of the run: the remaining rates'
    """
    rung = " of the run" if part.phase.rung else ""
    return f"{part.name}{rung}: {PHASES[part.phase]}"
