"""The tables: trials, parts of the cost, environment; as rows of text, and as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etude.record import Record
from etude.report import words
from etude.report.palette import DARK, LIGHT, heat, places
from etude.tuning.recipes.selection import HORIZONS
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary

PARTS = {
    "beyond an edge": "beyond an edge: the best stood at one",
    "finish": "finish: the best to the end",
    "refine": "refine: neighbours of the best",
    "edge of stability": "edge of stability: where training breaks",
    "after a divergence": "after a divergence: lower rates resumed",
    "anew, lower": "anew, lower: the leader was seen to overfit",
    "where a curve turned": "where a curve turned: the lower rate that it points to",
    "another seed, for a tie": "another seed: the best two tied",
    "finish on all the data": "finish on all the data: the folds only chose the rate",
}
"""What the parts of a tuning are for; one that is not named here keeps its own name."""


@dataclass(frozen=True)
class TrialRow:
    """A rate in the table.

    Attributes:
        lr: The rate.
        updates: Updates made.
        share: The same, of the full run.
        loss: The last validation loss; NaN where there is none, infinite where it diverged.
        metric: The last metric; None where the task has none.
        verdict: What became of it.
        chosen: Whether it was kept.
    """

    lr: float
    updates: int
    share: float
    loss: float
    metric: float | None
    verdict: str
    chosen: bool


def trial_rows(result: TuneResult) -> tuple[TrialRow, ...]:
    """Return the rows of the trials, ascending by rate."""
    return tuple(_row(trial, result) for trial in result.trials)


def _row(trial: TrialSummary, result: TuneResult) -> TrialRow:
    record = trial.record
    chosen = trial.lr == result.lr
    loss = record.evaluations[-1].loss if record.evaluations else math.nan
    return TrialRow(
        lr=trial.lr,
        updates=record.cost.steps,
        share=record.cost.steps / record.length,
        loss=math.inf if record.status == "diverged" else loss,
        metric=record.valid_metric,
        verdict=_verdict(trial, chosen, result),
        chosen=chosen,
    )


def _verdict(trial: TrialSummary, chosen: bool, result: TuneResult) -> str:
    if trial.record.status == "diverged":
        return f"diverged: {trial.record.reason}" if trial.record.reason else "diverged"
    if trial.unstable:
        return "lost what it learned"
    if chosen:
        return "least bad" if result.outcome == "nothing trains" else "chosen"
    if trial.tied:
        return "tied"
    return "worse" if trial.followed else "not followed further"


def trials(result: TuneResult) -> str:
    """Return the table of trials as HTML."""
    rows = trial_rows(result)
    columns = {
        "learning rate": [words.rate(r.lr) for r in rows],
        "updates": [words.count(r.updates) for r in rows],
        "of the run": [words.share(r.share, 1) for r in rows],
        "validation loss": [
            "diverged" if r.loss == math.inf else words.number(r.loss) for r in rows
        ],
    }
    if result.record.metric is not None:
        columns[result.record.metric] = [words.number(r.metric) for r in rows]
    cells = zip(*map(words.aligned, columns.values()), strict=True)
    head = "".join(f'<th scope="col">{words.safe(name)}</th>' for name in columns)
    body = "".join(
        _trial(row, place, texts)
        for row, place, texts in zip(rows, places([r.lr for r in rows]), cells, strict=True)
    )
    return (
        '<div class="wide"><table class="trials"><caption>Every rate tried: how far it was taken '
        "and how it stood there. Losses compare only after the same number of updates.</caption>"
        f'<thead><tr>{head}<th scope="col">verdict</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _trial(row: TrialRow, place: float, texts: Sequence[str]) -> str:
    colours = f"--light:{heat(place, LIGHT)};--dark:{heat(place, DARK)}"
    first, *others = texts
    return (
        ('<tr class="chosen">' if row.chosen else "<tr>")
        + f'<th scope="row"><i class="key" style="{colours}"></i>{first}</th>'
        + "".join(f"<td>{text}</td>" for text in others)
        + f"<td>{words.safe(row.verdict)}</td></tr>"
    )


def cost(result: TuneResult) -> str:
    """Return the parts of the cost as a table with bars."""
    most = max((part.runs for part in result.costs), default=0.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{words.safe(part_name(part.name))}</th>'
        f'<td class="n">{part.runs:.2f}</td>'
        f'<td class="bar"><i style="width:{100 * part.runs / most:.1f}%"></i></td></tr>'
        for part in result.costs
    )
    return (
        '<table class="cost"><caption>1 run is what one full training of this recipe costs, in '
        "gradients. What a rate had learned when it was paused is not paid again when it goes on."
        '</caption><thead><tr><th scope="col">part</th><th scope="col" class="n">runs</th>'
        f'<td></td></tr></thead><tbody>{rows}</tbody><tfoot><tr><th scope="row">all, of '
        f'{result.budget:g} allowed</th><td class="n">{result.cost:.2f}</td><td></td></tr></tfoot>'
        "</table>"
    )


def part_name(name: str) -> str:
    """Return what a part of a tuning is for.

    >>> part_name("to 50%")
    'to 50% of the run: those that still led'
    """
    if name.startswith("to "):
        return f"{name} of the run: those that still led"
    return PARTS.get(name, name)


def selection(result: TuneResult) -> str:
    """Return what the recipe was chosen from as HTML, empty where only the rate was looked for."""
    found = result.selection
    if found is None:
        return ""
    names = list(dict.fromkeys(name for one in found.tried for name in one.values))
    head = "".join(
        f'<th scope="col">{words.safe(name)}</th>'
        for name in (*names, "rate", *(f"at {words.share(share, 1)}" for share in HORIZONS))
    )
    rows = []
    for one in found.tried:
        scores = [words.number(score) for score in one.scores]
        scores += [""] * (len(HORIZONS) - len(scores))
        values = [words.told(one.values.get(name, "")) for name in names]
        texts = [words.safe(text) for text in (*values, words.rate(one.lr), *scores)]
        cells = f'<th scope="row">{texts[0]}</th>'
        cells += "".join(f"<td>{text}</td>" for text in texts[1:])
        chosen = ' class="chosen"' if one.values == found.values else ""
        rows.append(f"<tr{chosen}>{cells}</tr>")
    order = "" if found.held is None else f" Rank correlation of the first two: {found.held:.2f}."
    return (
        "<h2>Which recipe</h2>"
        '<div class="wide"><table class="trials"><caption>Every recipe tried, and how it stood '
        f"after the same share of its run; less is better.{order}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def environment(record: Record) -> str:
    """Return where the run was made, as a table."""
    rows: Sequence[tuple[str, object]] = [
        *record.environment.items(),
        ("seed", record.recipe.seed),
        ("recipe", record.recipe.digest),
    ]
    body = "".join(
        f'<tr><th scope="row">{words.safe(name)}</th><td>{words.safe(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table class="environment"><tbody>{body}</tbody></table>'
