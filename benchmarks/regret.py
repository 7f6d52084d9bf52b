"""What ways of choosing a learning rate miss, and what they cost.

    python -m benchmarks.regret             trains what is missing, then reports: hours of a core
    python -m benchmarks.regret --report    reports what is there

Regret is the share of the attainable drop of the validation loss that a choice missed (see
`benchmarks.table.Table.regret`), by task × seed; cost counts full training runs, the delivered
model included. What is trained is kept in benchmarks/results/regret.json (see
`benchmarks.regret_jobs`); regret.md and regret.svg are made of it and of the oracle's tables.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import arguments, contest, finders, regret_figure, samplers, table
from benchmarks.regret_jobs import (
    BUDGETS,
    FREE,
    RESULTS,
    SEEDS,
    Job,
    current,
    rate_job,
    read,
    version,
    work,
)
from benchmarks.table import Table
from etude.recipe import Recipe

TARGETS = {"3": (0.003, 0.006, 0.02), "1.5": (0.006, 0.015, 0.06), "1.3": (0.01, 0.03, 0.10)}
"""Median, mean and worst regret that Etude is to stay below, by budget."""

GROUPS: dict[str, Callable[[str], bool]] = {
    "Bundled tasks, looked at in development": lambda t: t in contest.BUNDLED and not _held(t),
    "Bundled tasks, held apart": lambda t: t in contest.BUNDLED and _held(t),
    "Harder kin, looked at in development": lambda t: t in contest.KIN and not _held(t),
    "Harder kin, held apart": lambda t: t in contest.KIN and _held(t),
}


def _held(task: str) -> bool:
    return task in contest.HELD


@dataclass(frozen=True)
class Choice:
    """One way on one task with one seed.

    Attributes:
        way: Of choosing.
        task: Of the contest.
        seed: The recipe's.
        regret: What it missed; see `Table.regret`.
        cost: In full runs.
        trained: Whether it was trained here, or else read off the oracle's table.
    """

    way: str
    task: str
    seed: int
    regret: float
    cost: float
    trained: bool


def choices(runs: dict[str, Any], tasks: Sequence[str]) -> list[Choice]:
    """Return every way's choices on every task, from what was trained and from the tables."""
    found: list[Choice] = []
    for task in tasks:
        one = table.load(task)
        for seed in SEEDS:
            for ways in (etude, own_rate, suggested, untuned, sampled, limit):
                found += ways(runs, one, seed)
    return found


def etude(runs: dict[str, Any], one: Table, seed: int) -> Iterator[Choice]:
    """Etude: trained, with the replay beside it; where it was not, the replay alone."""
    for budget in sorted(BUDGETS):
        found = table.replay(one, seed, budget, table.start(one.task))
        replayed = Choice(
            f"Etude {budget:g}, replayed",
            one.task,
            seed,
            one.regret(found.loss),
            found.cost,
            False,
        )
        done = current(runs.get(Job("tune", f"{budget:g}", one.task, seed).key))
        way = f"Etude {budget:g}"
        if done is None:
            yield replace(replayed, way=way)
        else:
            yield Choice(way, one.task, seed, one.regret(done["loss"]), done["cost"], True)
            yield replayed


def own_rate(_: dict[str, Any], one: Table, seed: int) -> Iterator[Choice]:
    """The rate that stands in the recipe: the framework's or the paper's default."""
    lr = Recipe(**contest.get(one.task).defaults).lr
    loss = one.between(seed, lr)
    yield Choice("the default rate", one.task, seed, one.regret(loss), one.end(seed, lr), False)


def suggested(runs: dict[str, Any], one: Table, seed: int) -> Iterator[Choice]:
    """The range tests: the ramp, then a full run at what it suggests."""
    for name in finders.RAMPS:
        ramp = runs.get(Job("ramp", name, one.task, seed).key)
        if ramp is None:
            continue
        for way, lr in ramp["suggested"].items():
            if lr is None:
                yield Choice(way, one.task, seed, 1.0, ramp["cost"], True)
                continue
            done = runs.get(rate_job(lr, one.task, seed).key)
            loss = one.between(seed, lr) if done is None else done["loss"]
            cost = ramp["cost"] + (one.end(seed, lr) if done is None else done["cost"])
            yield Choice(way, one.task, seed, one.regret(loss), cost, done is not None)


def untuned(runs: dict[str, Any], one: Table, seed: int) -> Iterator[Choice]:
    """Optimizers that promise to need no tuning."""
    for way in FREE:
        done = runs.get(Job("free", way, one.task, seed).key)
        if done is not None:
            yield Choice(way, one.task, seed, one.regret(done["loss"]), done["cost"], True)


def sampled(_: dict[str, Any], one: Table, seed: int) -> Iterator[Choice]:
    """Optuna on the table."""
    for sampler in range(samplers.SEEDS):
        for prune in (False, True):
            for found in samplers.tpe(one, seed, sampler, prune=prune):
                missed = one.regret(found.loss)
                yield Choice(found.way, one.task, seed, missed, found.cost, False)


def limit(_: dict[str, Any], one: Table, seed: int) -> Iterator[Choice]:
    """The best rate of the other seeds: what is left is the seed's own."""
    others = [k for k in range(len(one.untrained)) if k != seed]
    rate = int(one.final[others].mean(axis=0).argmin())
    loss = float(one.final[seed, rate])
    yield Choice("limit: other seeds' best rate", one.task, seed, one.regret(loss), 1.0, False)


@dataclass(frozen=True)
class Row:
    """A way over a group of tasks.

    Attributes:
        way: Of choosing.
        cost: Mean, in full runs.
        median: Regret over task × seed.
        mean: The same.
        worst: The same.
        count: Choices.
        trained: How many of them were trained, not read off a table.
    """

    way: str
    cost: float
    median: float
    mean: float
    worst: float
    count: int
    trained: int


def rows(found: Sequence[Choice]) -> list[Row]:
    """Sum up choices by way, in the order in which the ways come."""
    made = []
    for way in dict.fromkeys(one.way for one in found):
        own = [one for one in found if one.way == way]
        missed = [one.regret for one in own]
        made.append(
            Row(
                way,
                statistics.fmean(one.cost for one in own),
                statistics.median(missed),
                statistics.fmean(missed),
                max(missed),
                len(own),
                sum(one.trained for one in own),
            )
        )
    return made


def source(row: Row) -> str:
    """Say where a row's losses come from."""
    if row.trained in (0, row.count):
        return "trained" if row.trained else "table"
    return f"{row.trained} of {row.count} trained, else table"


def section(title: str, found: Sequence[Choice]) -> list[str]:
    """Return a group's table."""
    tasks = list(dict.fromkeys(one.task for one in found))
    named = "" if len(tasks) == len(contest.NAMES) else f": {', '.join(tasks)}"
    lines = ["", f"## {title}", "", f"{len(tasks)} tasks{named}.", ""]
    lines += ["| way | cost, full runs | median | mean | worst | losses |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    lines += [
        f"| {row.way} | {row.cost:.2f} | {row.median:.2%} | {row.mean:.2%} | {row.worst:.1%} "
        f"| {source(row)} |"
        for row in rows(found)
    ]
    return lines


def aims(found: Sequence[Choice]) -> list[str]:
    """Return what was aimed at beside what came out."""
    lines = ["", "## Aims", "", "Median / mean / worst."]
    lines += ["", "| budget | aim | " + " | ".join(GROUPS) + " |"]
    lines += ["|---|---|" + "---|" * len(GROUPS)]
    for budget, aim in TARGETS.items():
        cells = [" / ".join(f"{a:.1%}" for a in aim)]
        for inside in GROUPS.values():
            own = [c for c in found if inside(c.task) and c.way == f"Etude {budget}"]
            cells.append(_against(rows(own)[0], aim) if own else "")
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    cells = ["mean below Optuna's at 30"]
    for inside in GROUPS.values():
        ours = [c.regret for c in found if inside(c.task) and c.way == "Etude 10"]
        theirs = [c.regret for c in found if inside(c.task) and c.way == "Optuna TPE, 30 trials"]
        if not ours:
            cells.append("")
            continue
        mine, other = statistics.fmean(ours), statistics.fmean(theirs)
        verdict = "met" if mine < other else "missed"
        cells.append(f"{mine:.2%} against {other:.2%}: {verdict}")
    lines.append("| 10 | " + " | ".join(cells) + " |")
    return lines


def _against(row: Row, aim: tuple[float, float, float]) -> str:
    values = (row.median, row.mean, row.worst)
    verdict = "met" if all(v <= a for v, a in zip(values, aim, strict=True)) else "missed"
    return " / ".join(f"{v:.2%}" for v in values) + f": {verdict}"


def worst(found: Sequence[Choice], count: int = 8) -> list[str]:
    """Return where Etude missed most at three runs."""
    own = sorted((c for c in found if c.way == "Etude 3"), key=lambda c: -c.regret)[:count]
    lines = ["", "## Where Etude misses most at 3 runs", "", "| task | seed | regret |"]
    lines += ["|---|---:|---:|"]
    return lines + [f"| {c.task} | {c.seed} | {c.regret:.1%} |" for c in own]


def header(content: dict[str, Any], tasks: Sequence[str]) -> list[str]:
    """Return what one needs to know to read the numbers."""
    missing = [name for name in contest.NAMES if name not in tasks]
    without = f" No table yet of {', '.join(missing)}." if missing else ""
    return [
        "# What ways of choosing a learning rate miss",
        "",
        f"{content.get('machine', '')}; one thread for each run; trained with the code of commit "
        f"{content.get('code', '')}, replayed with that of {version()}. "
        "Written by `python -m benchmarks.regret`.",
        "",
        "**Regret** is the share of the attainable drop of the validation loss that a choice "
        "missed: (L − L*) / (L₀ − L*), L* the mean over 3 seeds at the best of 25 rates 0.2 "
        "decades apart, L₀ the mean untrained loss. Diverged or missing counts 100%, and no more. "
        "It is below 0 where a seed, or another optimizer, beats that mean. **Cost** counts full "
        "runs, the delivered model included. Both over task × 3 seeds." + without,
        "",
        "- **trained**: the tuning or run was done. **table**: read off the oracle's runs. Where "
        "no tuning was trained with today's search, it runs on the table, its rates moved to the "
        "nearest of the grid; rows *replayed* repeat the trained tunings so, as a check of the "
        f"table. {stale(content['runs'])} A replay never trains other seeds where two rates tie, "
        "as `tune` does where the budget allows, and compares the weights alone, not their mean.",
        "- Range tests (trained ramps of 100 updates, their cost counted, then one full run on "
        "the recipe's schedule): pytorch-lr-finder from 1e-7 to 100; Lightning's Tuner from 1e-8 "
        "to 1; the fastai rows are its rules in own code after its documentation, since fastai "
        "needs torchvision. Where no full run was trained, the loss lies on a straight line, in "
        "log rate, between the grid's neighbours; beyond the grid, its end stands.",
        f"- Optuna {_version('optuna')} runs on the table throughout (log-uniform over the "
        "grid's 4.8 decades, losses as above, "
        f"{samplers.SEEDS} seeds of the sampler): its rows hold that many times more choices. "
        "With Hyperband the cost is what its pruned trials trained.",
        "- Prodigy runs at its package's rate on the recipe's schedule, Schedule-Free AdamW at "
        "its package's rate after a warmup; both replace the recipe's optimizer.",
        "- The limit is the best rate of the other two seeds: what is left is the seed's own.",
    ]


def stale(runs: dict[str, Any]) -> str:
    """Say how many trained tunings are of an older search, and left out."""
    old = [key for key, run in runs.items() if key.startswith("tune ") and current(run) is None]
    if not old:
        return ""
    return f"{len(old)} tunings that were trained with an older search are not counted."


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def report(found: Sequence[Choice], content: dict[str, Any]) -> str:
    """Return the whole report as Markdown."""
    tasks = list(dict.fromkeys(one.task for one in found))
    lines = header(content, tasks)
    lines += aims(found)
    lines += section("All tasks", [c for c in found if not c.way.endswith("replayed")])
    for title, inside in GROUPS.items():
        own = [one for one in found if inside(one.task)]
        lines += section(title, own) if own else []
    return "\n".join([*lines, *worst(found)]) + "\n"


def points(found: Sequence[Choice]) -> list[regret_figure.Point]:
    """Return a point for each way, over all bundled tasks."""
    own = [c for c in found if c.task in contest.BUNDLED and not c.way.endswith("replayed")]
    return [
        regret_figure.Point(row.way, row.cost, row.mean, row.worst, row.trained == row.count)
        for row in rows(own)
    ]


def main(*, training: bool = True) -> None:
    """Train what is missing, unless told not to, and report."""
    if training:
        work()
    content = read()
    found = choices(content["runs"], table.known())
    assert not any(math.isnan(one.regret) for one in found)
    text = report(found, content)
    print(text)
    (RESULTS / "regret.md").write_text(text)
    regret_figure.draw(points(found), RESULTS / "regret.svg")


if __name__ == "__main__":
    main(training="--report" not in arguments.read(__doc__, flags=["--report"])[1])
