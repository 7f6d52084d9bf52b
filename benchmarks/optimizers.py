"""What optimizers cost to build and to step, and whether `optimizers match` recommends well.

    python -m benchmarks.optimizers            construction and steps: a minute
    python -m benchmarks.optimizers --match    every task × optimizer × rate: half an hour
    python -m benchmarks.optimizers --centres NAME ...    where the best rates of rows lie

Costs are measured in turns within one run; the figure is the median of the ratios of neighbours.
The results go to benchmarks/results/optimizers.json and optimizers.md; the part that is not
measured keeps its last figures.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from benchmarks import arguments
from etude import Recipe, tasks, train
from etude.errors import EtudeError
from etude.measure.traits import measure
from etude.optimizers import ROWS, build
from etude.optimizers.factory import factory
from etude.optimizers.match import Traits, match
from etude.optimizers.prior import log10_centre
from etude.tasks.task import parameter_count

RESULTS = Path(__file__).parent / "results"
BOUND = 0.05
"""Seconds in which an optimizer for a thousand tensors is to be built."""

PAIRS = {
    "averaged_momentum": ("sgd", {"momentum": 0.9, "foreach": True}),
    "adam_uncorrected": ("adam", {"foreach": True}),
    "lamb": ("adamw", {"foreach": True}),
    "sparse_adam": ("adam", {"foreach": True}),
    "muon": ("torch.optim.Muon", {}),
    "torch_muon": ("torch.optim.Muon", {}),
    "cautious_adamw": ("adamw", {"foreach": True}),
    "schedulefree_plus": ("adamw", {"foreach": True}),
}
"""Our own optimizers, and torch's that is closest, both with foreach."""

TASKS = (
    "digits-mlp",
    "digits-deep-mlp",
    "digits-cnn",
    "digits-resnet",
    "digits-rnn",
    "digits-lstm",
    "digits-transformer",
    "digits-autoencoder",
    "cancer-mlp",
    "diabetes-mlp",
    "patches-cnn",
    "text-gru",
)
HELD = ("digits-gru", "text-lstm", "text-transformer", "patches-resnet")
"""Tasks that were not looked at while the weights of the recommendation were set."""

TRIED = (
    "sgd",
    "adagrad",
    "rmsprop",
    "adam",
    "adamw",
    "nadam",
    "muon",
    "shampoo",
    "soap",
    "lion",
    "schedulefree_adamw",
    "prodigy",
    "newton_cg",
    "lbfgs",
)
CENTRED = ("digits-mlp", "digits-cnn", "digits-gru", "diabetes-mlp")
"""Tasks on which the rate at which a search begins is measured."""

CONTROL = "adamw"
"""The row whose centre was fitted on 47 tasks; those of others are measured against it."""

FIRST_CENTRE = -1.6
"""log10 of the middle of the rates that are tried, before the correction for the size."""

CENTRE_TIED = 0.02
"""A rate ties with the best if it misses at most this share of the drop in loss."""

CENTRE_SHIFTS = tuple(round(0.4 * k, 1) for k in range(-4, 5))
CENTRE_SHARE = 0.3
"""Of the task's own length that a rate is trained to measure that."""

SHIFTS: tuple[float, ...] = (-0.6, 0.0, 0.6)
SHARE = 0.15
"""Of the task's own length that each trial is trained."""


def construction() -> list[dict[str, Any]]:
    """Seconds to build each optimizer for a model of a thousand tensors, the median of nine."""
    model = nn.ModuleList([nn.Linear(4, 4) for _ in range(500)])
    rows = []
    for name, row in ROWS.items():
        if name == "newton":
            continue  # for 2,000 numbers at most
        factory(row)
        taken = []
        for _ in range(9):
            started = time.perf_counter()
            build(name, model, lr=0.1)
            taken.append(time.perf_counter() - started)
        rows.append({"optimizer": name, "seconds": statistics.median(taken), "bound": BOUND})
    return rows


def stepper(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], matrices: bool) -> Any:
    """Return a step of an optimizer over 60 tensors of 128 × 128 (and as many vectors)."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(128, 128)) for _ in range(60)]
    if not matrices:
        parameters += [nn.Parameter(torch.randn(128)) for _ in range(60)]
    optimizer = make(parameters)
    getattr(optimizer, "train", lambda: None)()
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return optimizer.step


def in_turns(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Return (median seconds of `one`, median ratio of `one` to its neighbour)."""
    for _ in range(3):
        one()
        other()
    seconds, ratios = [], []
    for index in range(rounds):
        taken = {}
        for step in (one, other) if index % 2 else (other, one):
            started = time.perf_counter()
            step()
            taken[step] = time.perf_counter() - started
        seconds.append(taken[one])
        ratios.append(taken[one] / taken[other])
    return statistics.median(seconds), statistics.median(ratios)


def steps() -> list[dict[str, Any]]:
    """Step time of our own optimizers against torch's closest."""
    rows = []
    for name, (peer, values) in PAIRS.items():
        matrices = "muon" in name

        def theirs(p: list[nn.Parameter], peer: str = peer, values: Any = values) -> Any:
            kind = torch.optim.Muon if "Muon" in peer else factory(ROWS[peer])
            return kind(p, lr=1e-4, **values)

        ours = stepper(lambda p, name=name: build(name, p, lr=1e-4), matrices)  # type: ignore[misc]
        seconds, ratio = in_turns(ours, stepper(theirs, matrices), 20 if matrices else 60)
        rows.append({"optimizer": name, "against": peer, "seconds": seconds, "ratio": ratio})
        print(f"{name}: {ratio:.2f} of {peer}", flush=True)
    return rows


def trials(task_name: str) -> dict[str, float]:
    """Return the best validation loss of each optimizer over its rates, at the same cost."""
    task = tasks.load(task_name)
    base = Recipe(**task.defaults)
    with torch.random.fork_rng():
        size = parameter_count(task.build())
    samples = task.train.samples or 0
    batch = task.train.check(base.batch_size)
    updates = max(40, round(SHARE * (base.steps if isinstance(base.steps, int) else 1000)))
    losses: dict[str, float] = {}
    for name in TRIED:
        row = ROWS[name]
        fields: dict[str, Any] = {"optimizer": name, "schedule": "warmup('5%') >> cosine()"}
        if name == "sgd":
            fields["optimizer"] = {"name": name, "momentum": 0.9}
        shifts = SHIFTS
        steps = updates
        if row.closure:  # as many gradients, in full batches
            each = 22 if row.name == "lbfgs" else 40
            fields |= {"batch_size": "all", "schedule": "constant()"}
            steps, shifts = max(1, round(updates * batch / samples / each)), (0.0,)
        elif row.schedule_free:
            fields["schedule"] = "warmup('5%') >> constant()"
        elif row.rate_free:
            shifts = (-0.4, 0.0)
        recipe = base.replace(**fields, steps=steps)
        centre = log10_centre(recipe.optimizer, size, task.train.targets())
        found = []
        for shift in shifts:
            try:
                record = train(task, recipe.replace(lr=10 ** (centre + shift)), evaluations=1)
                found.append(record.valid_loss)
            except EtudeError as error:
                print(f"{task_name} {name}: {error}", flush=True)
        losses[name] = min(found, default=float("inf"))
        losses["untrained"] = record.evaluations[0].loss
    return losses


def centre(name: str) -> dict[str, Any]:
    """Return where the best rates of an optimizer lie, without the correction for the size."""
    row = ROWS[name]
    bests: dict[str, float] = {}
    losses: dict[str, dict[str, float]] = {}
    for task_name in CENTRED:
        task = tasks.load(task_name)
        base = Recipe(**task.defaults)
        with torch.random.fork_rng():
            size = parameter_count(task.build())
        schedule = "constant()" if row.schedule_free else "cosine()"
        steps = max(40, round(CENTRE_SHARE * (base.steps if isinstance(base.steps, int) else 1000)))
        recipe = base.replace(optimizer=name, schedule=f"warmup('5%') >> {schedule}", steps=steps)
        offset = log10_centre(recipe.optimizer, size, task.train.targets()) - row.centre
        ends, before = {}, math.nan
        for shift in CENTRE_SHIFTS:
            log10 = round(FIRST_CENTRE + shift, 1)
            record = train(task, recipe.replace(lr=10 ** (log10 + offset)), evaluations=1)
            loss, before = record.valid_loss, record.evaluations[0].loss
            ends[log10] = loss if loss is not None and math.isfinite(loss) else math.inf
        bests[task_name] = middle_of_ties(ends, before)
        losses[task_name] = {f"{log10:g}": loss for log10, loss in ends.items()}
    return {"optimizer": name, "tasks": bests, "losses": losses}


def middle_of_ties(ends: dict[float, float], before: float) -> float:
    """Return the middle of the rates that miss at most 2% of the best's drop in loss.

    Args:
        ends: The loss at the end of each rate, by log10 of the rate.
        before: The loss before training.

    >>> middle_of_ties({-3.0: 0.9, -2.0: 0.1, -1.0: 0.11, 0.0: math.inf}, 1.0)
    -1.5
    """
    best = min(ends.values())
    tied = [rate for rate, loss in ends.items() if loss - best <= CENTRE_TIED * (before - best)]
    return (min(tied) + max(tied)) / 2


def fitted_centre(centres: dict[str, Any], name: str) -> float:
    """Return the centre of a row by what was measured of it and of AdamW, on the same tasks.

    AdamW's centre + mean over tasks of (the row's best - AdamW's best), to a tenth
    """
    own, control = centres[name]["tasks"], centres[CONTROL]["tasks"]
    shifts = [own[task] - control[task] for task in CENTRED]
    return round(ROWS[CONTROL].centre + statistics.fmean(shifts), 1)


def regret(losses: dict[str, float], name: str) -> float:
    """Return the share of the attainable drop that a choice misses."""
    best = min(v for k, v in losses.items() if k != "untrained")
    return (min(losses[name], losses["untrained"]) - best) / (losses["untrained"] - best)


def matching() -> list[dict[str, Any]]:
    """What each optimizer misses on each task, with the task's traits."""
    rows = []
    for task_name in (*TASKS, *HELD):
        losses = trials(task_name)
        missed = {name: regret(losses, name) for name in TRIED}
        traits = measure(tasks.load(task_name)).plain()
        rows.append({"task": task_name, "missed": missed, "traits": traits})
        print(f"{task_name}: best {min(TRIED, key=lambda name: losses[name])}", flush=True)
    return rows


def recommended(row: dict[str, Any]) -> list[str]:
    """Return the optimizers recommended for a measured task, best first, of those tried."""
    plain: dict[str, Any] = {
        key: float(v) if isinstance(v, str) else v for key, v in row["traits"].items()
    }
    traits = Traits(**{**plain, "kinds": frozenset(plain["kinds"])})
    return [one.name for one in match(traits) if one.name in TRIED]


def choices(rows: list[dict[str, Any]], title: str) -> list[str]:
    """Return the lines on what the recommendation misses on some tasks."""
    lines = [
        "",
        f"### {title}",
        "",
        "| task | recommended | it misses | best of the first three | adamw | sgd | best |",
        "|---|---|---|---|---|---|---|",
    ]
    columns: dict[str, list[float]] = {"the recommended": [], "the best of the first three": []}
    for row in rows:
        missed, first = row["missed"], recommended(row)[:3]
        three = min(missed[name] for name in first)
        columns["the recommended"].append(missed[first[0]])
        columns["the best of the first three"].append(three)
        for name in TRIED:
            columns.setdefault(name, []).append(missed[name])
        best = min(missed, key=lambda name: missed[name])
        lines.append(
            f"| {row['task']} | {first[0]} | {missed[first[0]]:.1%} | {three:.1%} "
            f"| {missed['adamw']:.1%} | {missed['sgd']:.1%} | {best} |"
        )
    lines += ["", "| choice | median | mean | worst |", "|---|---|---|---|"]
    for name, values in columns.items():
        middle, mean = statistics.median(values), statistics.fmean(values)
        lines.append(f"| {name} | {middle:.1%} | {mean:.1%} | {max(values):.1%} |")
    return lines


def report(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    where = results["environment"]
    lines = ["# Optimizers", "", f"{where['machine']}, {where['torch']}, one thread.", ""]
    lines += ["## Building for 1,000 tensors", "", "| optimizer | ms | allowed |", "|---|---|---|"]
    for row in results.get("construction", ()):
        lines.append(f"| {row['optimizer']} | {1e3 * row['seconds']:.1f} | {1e3 * BOUND:.0f} |")
    lines += ["", "## A step of our own against torch's closest (foreach)", ""]
    lines += ["| optimizer | against | ms | ratio |", "|---|---|---|---|"]
    for row in results.get("steps", ()):
        ms = 1e3 * row["seconds"]
        lines.append(f"| {row['optimizer']} | {row['against']} | {ms:.2f} | {row['ratio']:.2f} |")
    if centres := results.get("centres"):
        lines += [
            "",
            "## Where the best rates lie",
            "",
            f"log10 of the rate: the middle of those that miss at most {CENTRE_TIED:.0%} of the "
            f"drop in validation loss, of nine, 0.4 decades apart, over {CENTRE_SHARE:.0%} of each "
            "task's length, without the prior's correction for the size; one seed. A row begins "
            "its searches at `centre`: that of adamw, which was fitted on 47 tasks, plus the mean "
            "difference to adamw.",
            "",
            "| optimizer | " + " | ".join(CENTRED) + " | difference | `centre` |",
            "|---" * (len(CENTRED) + 3) + "|",
        ]
        for name in sorted(centres):
            own = centres[name]["tasks"]
            each = " | ".join(f"{own[task]:.1f}" for task in CENTRED)
            apart = statistics.fmean(
                own[task] - centres[CONTROL]["tasks"][task] for task in CENTRED
            )
            lines.append(f"| {name} | {each} | {apart:+.2f} | {ROWS[name].centre:g} |")
    if rows := results.get("matching"):
        lines += [
            "",
            "## What `etude optimizers match` misses",
            "",
            f"Share of the attainable drop in validation loss, each optimizer at its best of "
            f"{len(SHIFTS)} rates over {SHARE:.0%} of the task's length, second order at the same "
            "cost in gradients. One seed.",
        ]
        lines += choices([r for r in rows if r["task"] in TASKS], "Tasks the weights were set on")
        held = [r for r in rows if r["task"] in HELD]
        lines += choices(held, "Tasks that were held apart") if held else []
    return "\n".join(lines) + "\n"


def main(names: list[str], flags: set[str]) -> None:
    """Measure, and keep the results."""
    if names and "--centres" not in flags:
        raise SystemExit(f"{', '.join(names)}: optimizers are named with --centres only")
    path = RESULTS / "optimizers.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    torch.set_num_threads(1)
    results["environment"] = {
        "torch": f"torch {torch.__version__}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    if "--match" in flags:
        results["matching"] = matching()
    elif "--centres" in flags:
        for name in names:
            results.setdefault("centres", {})[name] = centre(name)
            print(name, results["centres"][name]["tasks"], flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
    else:
        results["construction"], results["steps"] = construction(), steps()
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "optimizers.md").write_text(report(results))


if __name__ == "__main__":
    main(*arguments.read(__doc__, flags=["--match", "--centres"], names="optimizer"))
