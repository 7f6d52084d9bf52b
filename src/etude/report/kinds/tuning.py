"""What is told of a tuning of the rate, or of the whole recipe."""

from __future__ import annotations

from etude.record import Status
from etude.report import loss_against_rate, pieces, trial_curves, words
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
from etude.report.registry import tells
from etude.report.sentences import broken_said, range_said, tie_said
from etude.report.trials import trial_table
from etude.tasks.task import Task
from etude.trials.phase import Phase
from etude.tuning.outcome import Outcome
from etude.tuning.recipes.selection import HORIZONS, Selection
from etude.tuning.result import RungCost, TuneResult

PHASES = {
    Phase.RUNG: "those in the running",
    Phase.RECIPE_RUNG: "the recipes in the running",
    Phase.BEYOND_EDGE: "the best stood at one",
    Phase.CURVE_TURNED: "the lower rate that it points to",
    Phase.ANEW_LOWER: "the leader was seen to overfit",
    Phase.FINISH: "the best to the end",
    Phase.AFTER_DIVERGENCE: "lower rates resumed",
    Phase.RUNNER_UP: "those that had come as far as the best",
    Phase.REFINE: "neighbours of the best",
    Phase.EDGE_OF_STABILITY: "where training breaks",
    Phase.ANOTHER_SEED: "the best two tied",
    Phase.FINISH_ON_ALL: "the folds only chose the rate",
}
"""What each part of a tuning was for, in a few words."""

WORTH = {
    Outcome.FOUND: "the peak",
    Outcome.TOO_SMALL_TO_TELL: "not told apart from the others",
    Outcome.AT_AN_EDGE: "best, at an edge",
    Outcome.UNFINISHED: "best that was sound, not finished",
    Outcome.NO_BETTER_THAN_A_CONSTANT: "no better than a constant",
}
"""What the chosen rate is worth, by the outcome."""


@tells(TuneResult)
def of_tuning(result: TuneResult, task: Task | None = None) -> Report:
    """Say what a tuning found."""
    trains = result.outcome != Outcome.NOTHING_TRAINS
    return Report(
        kind="Tuning of the learning rate",
        subject=result.record.task,
        title=_title(result),
        lede=" ".join(_lede(result)),
        notice=result.advice(),
        facts=tuple(_facts(result)),
        sections=(*_sections(result), *pieces.recipe(result.record, task, use=trains)),
    )


def _title(result: TuneResult) -> str:
    task = result.record.task
    if result.outcome == Outcome.NO_BETTER_THAN_A_CONSTANT:
        return f"{task}: no learning rate that was tried made it better than a constant"
    if result.outcome == Outcome.NOTHING_TRAINS:
        return f"{task}: no learning rate that was tried trains it"
    return f"{task}: of the rates tried, {words.rate(result.lr)} trains best"


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
    parts = []
    if low < high:
        parts = [f"{tried} were tried {between}.", range_said(result), tie_said(result)]
    parts = [*parts, broken_said(result)] if low < high else ["No other rate was tried."]
    if result.selection is not None:
        given = ", ".join(f"{k} {words.told(v)}" for k, v in result.selection.values.items())
        tried_recipes = words.plural(len(result.selection.tried), "recipe")
        parts.insert(0, f"Of {tried_recipes} tried, the best has {given}.")
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
            _tied(result),
            *_not_followed(result),
        ]
    found.append(_broken(result))
    if result.sensitivity is not None:
        lost = words.share(result.sensitivity, 1)
        note = "of the drop is lost at most, read between the rates followed"
        found.append(Fact("At twice or half the rate", lost, note))
    if result.confidence is not None:
        share = f"{result.confidence:.0%}"
        found.append(Fact("Confidence", share, "of resampled validation sets agree"))
    spent = f"of {result.budget:g} allowed; {words.duration(result.seconds)}"
    return [
        *found,
        *pieces.scores(result.record, result.untrained),
        Fact("Cost", words.runs(result.cost), spent),
    ]


def _tied(result: TuneResult) -> Fact:
    low, high = result.tied
    if low == high:
        return Fact("May be as good", "none", "no other rate was tried")
    tied = words.plural(sum(t.tied for t in result.trials if t.lr != result.lr), "other rate")
    sides = [
        side for side, open_ in zip(("below", "above"), result.open_ends, strict=True) if open_
    ]
    beyond = f"; {' and '.join(sides)} too, where none was tried" if sides else ""
    value = f"{words.rate(low)} to {words.rate(high)}"
    return Fact("May be as good", value, f"{tied} tried there, with this seed{beyond}")


def _not_followed(result: TuneResult) -> list[Fact]:
    left = [t for t in result.trials if t.lr != result.lr and t.left_open]
    if not left:
        return []
    rates = ", ".join(words.rate(trial.lr) for trial in left)
    note = f"{rates}: how {'it ends' if len(left) == 1 else 'they end'} is not known"
    return [Fact("Not followed to the end", words.plural(len(left), "rate"), note)]


def _broken(result: TuneResult) -> Fact:
    if result.stable_below is None and result.common_break is not None:
        update = words.count(result.common_break)
        note = "where higher rates diverged; no edge known"
        return Fact("Broke training", f"update {update}", note)
    if result.stable_below is None:
        return Fact("Broke training", "none", "of the higher rates, as far as followed")
    trial = next(t for t in result.trials if t.lr == result.stable_below)
    how = "ended with what it had learned lost"
    if trial.record.status == Status.DIVERGED:
        how = f"diverged at update {words.count(trial.record.cost.steps)}"
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
    return [
        *chosen_from,
        Section("Which rate", (against, trial_table(result))),
        Section("How the rates compare over the run", (course,), detail=True),
        Section("The run that was kept", pieces.drawings(result.record), detail=True),
        Section("What it cost", (_costs(result),)),
    ]


def _recipes(selection: Selection) -> Section:
    """Return what the recipe was chosen from, the best first."""
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
        cells = (*(words.told(one.values.get(name, "")) for name in names), words.rate(one.lr))
        tone = Tone.GOOD if one.values == selection.values else Tone.PLAIN
        rows.append(TableRow((*cells, *scores), tone))
    order = ""
    if selection.held is not None:
        order = f" Rank correlation of the first two: {selection.held:.2f}."
    caption = (
        "Every recipe tried, and how it stood after the same share of its run; less is better."
        f"{order}"
    )
    return Section("Which recipe", (DataTable(tuple(heads), tuple(rows), caption),))


def _costs(result: TuneResult) -> DataTable:
    most = max((part.runs for part in result.costs), default=0.0) or 1.0
    return DataTable(
        (TableColumn("part"), TableColumn("runs", number=True)),
        tuple(
            TableRow((part_said(part), f"{part.runs:.2f}"), bar=part.runs / most)
            for part in result.costs
        ),
        "1 run is what one full training of this recipe costs, in gradients. What a rate had "
        "learned when it was paused is not paid again when it goes on.",
        TableRow((f"all, of {result.budget:g} allowed", f"{result.cost:.2f}")),
    )


def part_said(part: RungCost) -> str:
    """Return the name of a part of a tuning, and what it was for.

    >>> part_said(RungCost("to 50%", 0.5))
    'to 50% of the run: those in the running'
    """
    rung = " of the run" if part.phase.rung else ""
    return f"{part.name}{rung}: {PHASES[part.phase]}"
