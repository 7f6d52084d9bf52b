"""The table of rates over seeds: what each scored with each."""

from __future__ import annotations

from etude.report import words
from etude.report.document import DataTable, TableColumn, TableRow, Tone
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import SeedRun


def seed_table(result: TuneResult) -> tuple[DataTable, ...]:
    """Return the scores of the rates that were trained with several seeds; nothing without one."""
    compared = [trial for trial in result.trials if trial.seeds]
    if not compared:
        return ()
    columns = [TableColumn("rate", number=True), TableColumn("updates", number=True)]
    columns += [TableColumn(f"seed {one.seed}", number=True) for one in compared[0].seeds]
    rows = []
    for trial in compared:
        least, most = min(r.updates for r in trial.seeds), max(r.updates for r in trial.seeds)
        span = (
            words.count(least) if least == most else f"{words.count(least)} to {words.count(most)}"
        )
        cells = (words.rate(trial.lr), span, *(_value(one, result) for one in trial.seeds))
        rows.append(TableRow(cells, Tone.GOOD if trial.lr == result.lr else Tone.PLAIN))
    caption = (
        f"The {result.objective} with each seed after its last update; values compare only after "
        "as many updates. Rates are compared by their mean over seeds where all have been."
    )
    return (DataTable(tuple(columns), tuple(rows), caption),)


def _value(run: SeedRun, result: TuneResult) -> str:
    if run.diverged:
        return "diverged"
    if result.objective == "loss":
        return words.number(run.value)
    return words.metric(result.objective, run.value)
