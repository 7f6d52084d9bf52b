"""Trials a second of `etude.study` against Optuna's own loop over the same trials."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import optuna
import torch

from etude import tasks
from etude.engines.process.engine import cores
from etude.recipe import Recipe
from etude.studies.plan import StudyPlan
from etude.studies.study import study
from etude.studies.trials import planned_trials
from etude.tasks.task import Task
from etude.training.train import train

NETWORKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "small dense, width 32": ("digits-mlp", {"width": 32}, 4.0),
    "small dense, width 16": ("digits-mlp", {"width": 16}, 4.0),
    **{
        name: (name, {}, 1.6)
        for name in (
            "digits-mlp", "digits-deep-mlp", "digits-cnn", "digits-resnet", "digits-rnn",
            "digits-lstm", "digits-gru", "digits-transformer", "digits-autoencoder", "digits-vqa",
            "patches-cnn-lstm",
        )
    },
}  # fmt: skip
"""By name: the task, its options, and the ratio that is aimed at."""

TRIALS = 32
LOST = 600.0
"""Seconds after which a process that does not come is given up."""

ROUNDS = 2
"""How often both are timed, in turn; the better time of each counts."""

SECONDS, LONG = 20.0, 40.0
"""What the loop takes for all trials, about; of small dense networks, whose stacks are compiled.

A trial then takes .6 s or more. At their own lengths these networks take 2 s or more."""


def plan_of(task: str, options: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return a plan of so many rates around the task's own."""
    lr = float(tasks.get(task).defaults["lr"])
    return {
        "name": "rivals",
        "tasks": task,
        "models": options,
        "lrs": {"from": lr / 10, "to": lr, "points": TRIALS},
        "steps": steps,
    }


def steps_for(task: Task, seconds: float) -> int:
    """Return the length of a trial of which the loop does all within some seconds."""

    def spent(steps: int) -> float:
        started = time.perf_counter()
        train(task, Recipe(**{**task.defaults, "steps": steps}))
        return time.perf_counter() - started

    spent(40)
    short, long = spent(40), spent(240)
    each = max(1e-5, (long - short) / 200)
    return max(40, round((seconds / TRIALS - (short - 40 * each)) / each))


def recipes_of(plan: dict[str, Any]) -> list[Recipe]:
    """Return the recipes of a plan's trials."""
    return [one.recipe for one in planned_trials(StudyPlan(**plan))]


def optuna_loop(task: Task, plan: dict[str, Any]) -> float:
    """Return the seconds of `optimize` over the trials of a plan, in memory, one by one."""
    recipes = recipes_of(plan)
    rates = [recipe.lr for recipe in recipes]
    started = time.perf_counter()
    search = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for lr in rates:
        search.enqueue_trial({"lr": lr})

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", min(rates), max(rates), log=True)
        return train(task, recipes[0].replace(lr=lr)).valid_loss

    search.optimize(objective, n_trials=len(rates))
    return time.perf_counter() - started


def etude_study(plan: dict[str, Any]) -> float:
    """Return the seconds of a whole study: plan, database, engines and compiling."""
    with tempfile.TemporaryDirectory() as name:
        # A compiler's cache that is empty, so that compiling counts.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/compiler"
        try:
            started = time.perf_counter()
            found = study(plan, storage=Path(name) / "studies.db", progress=False)
            spent = time.perf_counter() - started
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        assert found.done == TRIALS
    return spent


def bare_loops(plan: dict[str, Any]) -> float:
    """Return the seconds of the trials in two processes of one thread, half in each.

    Nothing else is counted: the processes have started, and have trained once. No scheduler that
    trains these trials one by one on two cores can be faster, but for the noise of both.
    """
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3, timeout=LOST)
    workers = [context.Process(target=_half, args=(plan, i, together)) for i in (0, 1)]
    for worker in workers:
        worker.start()
    together.wait()
    started = time.perf_counter()
    together.wait()
    spent = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return spent


def _half(plan: dict[str, Any], which: int, together: Barrier) -> None:
    """Train every second trial of a plan, once all processes are ready; then meet again."""
    torch.set_num_threads(1)
    recipes = recipes_of(plan)
    task = tasks.get(plan["tasks"], **plan["models"])
    train(task, recipes[0])
    together.wait()
    for recipe in recipes[which::2]:
        train(task, recipe)
    together.wait()


def measure() -> dict[str, Any]:
    """Return the seconds of all three for each network; the figures go to the log as they come."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[str, Any] = {}
    for name, (reference, options, aim) in NETWORKS.items():
        task = tasks.get(reference, **options)
        steps = steps_for(task, LONG if options else SECONDS)
        plan = plan_of(reference, options, steps)
        rounds = [
            (optuna_loop(task, plan), etude_study(plan), bare_loops(plan)) for _ in range(ROUNDS)
        ]
        theirs, ours, bare = (min(column) for column in zip(*rounds, strict=True))
        found[name] = {
            "steps": steps,
            "aim": aim,
            "load": os.getloadavg()[0],
            "optuna": theirs,
            "etude": ours,
            "bare": bare,
            "rounds": [loop / study for loop, study, _ in rounds],
        }
        each = ", ".join(f"{one:.2f}" for one in found[name]["rounds"])
        print(
            f"{name}: {theirs / ours:.2f}x (rounds: {each}); bare {theirs / bare:.2f}x", flush=True
        )
    return {"cores": cores(), "networks": found}


def page(found: dict[str, Any]) -> list[str]:
    """Return the lines of this section."""
    lines = [
        "## Against Optuna's own loop", "",
        f"{TRIALS} rates of each network, one evaluation of the objective after the other by "
        "`study.optimize` with Optuna's storage in memory (nothing durable), its objective being "
        "`etude.train`; and `etude.study` with its database, everything counted: plan, processes, "
        f"tracing and compiling with an empty cache. {found['cores']} cores. The better of "
        f"{ROUNDS} rounds of each, in turn; beside it the ratio of each round. Bare: the ratio of "
        "two processes of one thread that train half of the trials each and do nothing else, "
        "without their start: about the most that these cores give (it varies as the rounds do) "
        "unless trials are trained together, as small dense ones are.", "",
        "| network | updates | Optuna, trials/s | Etude, trials/s | ratio | rounds | bare | aim "
        "| load |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name, one in found["networks"].items():
        lines.append(
            f"| {name} | {one['steps']:,} | {TRIALS / one['optuna']:.2f} | "
            f"{TRIALS / one['etude']:.2f} | {one['optuna'] / one['etude']:.2f} | "
            f"{', '.join(f'{ratio:.2f}' for ratio in one['rounds'])} | "
            f"{one['optuna'] / one['bare']:.2f} | {one['aim']} | "
            f"{one['load']:.1f} |"
        )
    return lines
