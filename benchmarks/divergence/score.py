"""Scores the rules on what was recorded, and writes benchmarks/results/divergence.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.divergence.cases import OPEN, cases
from benchmarks.divergence.judge import AHEAD, Outcome, judge
from benchmarks.divergence.record import kept, kept_zoo
from benchmarks.divergence.rules import RULES

PAGE = Path(__file__).parent.parent / "results" / "divergence.md"

HEAD = """# How early a divergence is told

`python -m benchmarks.divergence` makes this page from recorded runs of bundled tasks. The
definitions are those of `benchmarks/divergence/judge.py`. They do not depend on a rule. They were
revised once, when the first recordings showed runs that explode and then fall back; the bounds of
our rule were set after that.

- **Diverged**: a loss is not finite, or five losses in a row have a median above five times the
  start. The divergence is at the update from which no loss is below the start until then.
- **Precursor**: at least 30 updates before it, and ten updates before it the loss or the gradient's
  norm, as medians of ten, is above 1.5 times its lowest earlier level.
- **Undecided**: no explosion, but most of what was learned is lost, as by a collapse to a constant.
  These count nowhere.
- **False**: an alarm in a run that did not diverge and kept most of what it learned. Runs whose
  rate was raised 200 to 2,700 times, or is 40 times the usual one without warmup, are shown apart
  from the usual ones (usual rates, four times those with warmup, small batches, edge of stability).
- **Zoo**: the healthy cases of the open programs of `benchmarks/doctor` at seed 0, where one loss
  is minimised.

A rule that often gives alarms is early by chance: read the columns together. The lead is that of
the first alarm of a run, however early. The rules read the loss alone.
"""


def table(names: Sequence[str], outcomes: dict[str, Outcome], rows: dict[str, np.ndarray]) -> str:
    """Return the table of some runs."""
    lines = [
        "| rule | warned 10 updates ahead | warned ahead | median lead | false, rate raised | "
        "false, usual |",
        "|---|---|---|---|---|---|",
    ]
    faults = {case.name: case.fault for case in cases()}
    coming = [n for n in names if outcomes[n].precursor]
    calm = [n for n in names if outcomes[n].diverged is False]
    usual = [n for n in calm if faults[n] == "none"]
    raised = [n for n in calm if faults[n] != "none"]
    for title, rule in RULES.items():
        alarms = {n: rule(rows[n][0].tolist()) for n in (*coming, *calm)}
        leads = {n: _lead(outcomes[n], alarms[n]) for n in coming}
        early = sum(lead is not None and lead >= AHEAD for lead in leads.values())
        ahead = [lead for lead in leads.values() if lead is not None and lead > 0]
        false = [
            f"{sum(alarms[n] is not None for n in some)}/{len(some)}" for some in (raised, usual)
        ]
        lines.append(
            f"| {title} | {_share(early, len(coming))} | {_share(len(ahead), len(coming))} | "
            f"{median(ahead) if ahead else '-'} | {false[0]} | {false[1]} |"
        )
    return "\n".join(lines)


def _lead(outcome: Outcome, alarm: int | None) -> int | None:
    return None if alarm is None or outcome.update is None else outcome.update - alarm


def _share(count: int, of: int) -> str:
    return f"{count}/{of} ({100 * count / of:.0f}%)" if of else "-"


def score() -> str:
    """Return the page."""
    rows, zoo = kept(), kept_zoo()
    outcomes = {name: judge(values) for name, values in rows.items()}
    groups = {
        "All tasks": list(rows),
        f"The tasks on which our rule was made ({', '.join(OPEN)})": [
            n for n in rows if n.startswith(OPEN)
        ],
        "The other tasks (their figures were in sight, and no bound was set by them)": [
            n for n in rows if not n.startswith(OPEN)
        ],
    }
    diverged = sum(o.diverged is True for o in outcomes.values())
    undecided = sum(o.diverged is None for o in outcomes.values())
    precursor = sum(o.precursor for o in outcomes.values())
    parts = [
        HEAD,
        f"{len(rows)} runs: {diverged} diverged, {precursor} of them with a precursor; "
        f"{undecided} are undecided.",
    ]
    for title, names in groups.items():
        parts += [f"\n## {title}\n", table(names, outcomes, rows)]
    parts.append(
        "\n## False alarms in the zoo\n\n| rule | healthy cases with an alarm |\n|---|---|"
    )
    for title, rule in RULES.items():
        count = sum(rule(losses.tolist()) is not None for losses in zoo.values())
        parts.append(f"| {title} | {_share(count, len(zoo))} |")
    parts.append("\n## The runs that diverged\n\n| run | update | precursor | etude's lead |")
    parts.append("|---|---|---|---|")
    for name, outcome in outcomes.items():
        if outcome.diverged:
            lead = _lead(outcome, RULES["etude"](rows[name][0].tolist()))
            said = "no warning" if lead is None else f"{lead}"
            parts.append(
                f"| {name} | {outcome.update} | {'yes' if outcome.precursor else 'no'} | {said} |"
            )
    return "\n".join(parts) + "\n"


def write() -> None:
    """Write the page."""
    PAGE.write_text(score(), encoding="utf-8")
