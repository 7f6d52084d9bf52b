"""How often the best rate is one that was left, or was not tried: what the confidence rests on.

The search is replayed on the tables of the open half of `benchmarks.fresh` and of the contest's
tasks, at the budgets of `BUDGETS`. Where the best rate of the grid is better than the chosen one by
more than 2% of the drop, its place is counted: between the chosen rate and the next one tried,
beyond the chosen one where that is the lowest or highest tried, or at another rate or beyond it.
`etude.tuning.untried` and `etude.tuning.confidence` store the shares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from benchmarks import arguments, evidence, table
from benchmarks.fresh import OPEN
from benchmarks.replayed import Searched, searched
from etude.tuning.confidence import AHEAD, LAST_AHEAD, LEFT_AHEAD, LEFT_BEHIND, fall_of
from etude.tuning.untried import BETWEEN, BEYOND, EARLY, FAR_APART, NEAR, TRAILING, compared, gaps

BUDGETS = (1.3, 1.5, 2.0, 3.0)
When = str
Case = tuple[str, When, str]
"""The place, when the trial beside it was compared, and how far it trailed there."""

SIZES = ("below 5%", "5% to 20%", "above")


def stored() -> dict[Case, float]:
    """Return what the package stores, by case."""
    found: dict[Case, float] = {}
    for place, risk in (("between", BETWEEN), ("beyond the chosen", BEYOND)):
        for when, values in (("early", risk.early), ("later", risk.later)):
            found |= {(place, when, s): v for s, v in zip(SIZES, values, strict=True)}
    found["between", "", "far apart"] = FAR_APART
    for place, pair in (
        ("left behind", LEFT_BEHIND),
        ("left ahead", LEFT_AHEAD),
        ("left ahead, the last tried", LAST_AHEAD),
    ):
        found |= {(place, when, ""): v for when, v in zip(("early", "later"), pair, strict=True)}
    return found


def places(found: Searched, seed: int) -> Iterator[tuple[Case, bool]]:
    """Yield every case of a search, and whether the best rate of the grid was there."""
    best, trials, goal = found.best, found.trials, found.pool.goal
    fall = fall_of(best, goal, found.pool.untrained_score)
    ends = found.table.final[seed]
    rate = found.table.rates[int(ends.argmin())]
    missed = bool(ends[best.rate] - ends.min() > NEAR * (found.table.untrained[seed] - ends.min()))
    beside = gaps(trials, best, goal, fall)
    inside = [gap.low < rate < gap.high for gap in beside]
    for gap, here in zip(beside, inside, strict=True):
        size = SIZES[sum(gap.trailing >= bound for bound in TRAILING)]
        place = "beyond the chosen" if gap.beyond else "between"
        case = (place, "early" if gap.share < EARLY else "later", size)
        if not gap.beyond and gap.risk == FAR_APART:
            case = ("between", "", "far apart")
        yield case, missed and here
    others = [trial for trial in trials if trial is not best]
    nearest = min(others, key=lambda t: abs(math.log10(t.lr / rate)), default=None)
    for trial in others:
        share, trailing = compared(trial, best, goal, fall)
        if not 0 < share < 3 / 4 or trial.diverged:
            continue
        place = "left behind"
        if trailing < -AHEAD:
            last = trial in (trials[0], trials[-1])
            place = "left ahead, the last tried" if last else "left ahead"
        here = missed and not any(inside) and trial is nearest
        yield (place, "early" if share < EARLY else "later", ""), here


def counted(budgets: Iterable[float] = BUDGETS) -> dict[Case, tuple[int, int]]:
    """Return for every case how often the best rate was there, and how often the case came up."""
    held: Counter[Case] = Counter()
    seen: Counter[Case] = Counter()
    for budget in budgets:
        for name in (*OPEN, *table.known()):
            for seed in evidence.SEEDS:
                found = searched(name, seed, budget)
                if not found.best.ended:
                    continue
                for case, here in places(found, seed):
                    seen[case] += 1
                    held[case] += here
    return {case: (held[case], seen[case]) for case in stored()}


def lines() -> list[str]:
    """Return the section of the page."""
    counts = counted()
    rows = [
        "",
        "## Rates that were left, or not tried",
        "",
        "How often the best rate of the grid, better than the chosen one by more than 2% of the "
        "drop, was there; on the open half and the contest's tasks, at "
        f"{', '.join(f'{b:g}' for b in BUDGETS)} runs. `confidence` is the product of one minus "
        "these. Early: the trial beside it was left before 3/8 of its run; by how much of the drop "
        "it trailed there.",
        "",
        "| where | compared | trailing | stored | measured | times |",
        "|---|---|---|---:|---:|---:|",
    ]
    for case, value in stored().items():
        held, seen = counts[case]
        share = f"{held / seen:.1%}" if seen else "–"
        rows.append(f"| {' | '.join(case)} | {value:.0%} | {share} | {held} of {seen} |")
    return rows


if __name__ == "__main__":
    arguments.read(__doc__)
    print("\n".join(lines()))
