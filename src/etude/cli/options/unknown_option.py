"""Says which option is meant by one that a verb does not have."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from etude.errors import nearest_names

OTHER_NAMES = {
    "--lr": (
        *("--learning-rate", "--rate", "--lr0", "--eta", "--alpha", "--peak-lr", "--max-lr"),
        *("--init-lr", "--base-lr", "--step-size"),
    ),
    "--steps": (
        *("--iterations", "--iters", "--max-steps", "--num-steps", "--updates", "--length"),
        *("--epochs", "--num-epochs", "--max-epochs", "--num-train-epochs", "--n-epochs"),
    ),
    "--batch-size": ("--batch", "--bs", "--batchsize", "--mini-batch", "--train-batch-size"),
    "--out": ("--output", "--output-dir", "--out-dir", "--dir", "--run-dir", "--save", "-o"),
    "--budget": ("--budget-runs", "--runs", "--trials", "--n-trials", "--num-samples"),
    "--optimizer": ("--opt", "--optim", "--optimiser"),
    "--schedule": ("--scheduler", "--lr-schedule", "--lr-scheduler", "--sched"),
    "--seed": ("--random-seed", "--random-state", "--rng"),
    "--weight-decay": ("--wd", "--decay"),
    "--recipe": ("--config", "--cfg"),
    "--nproc": ("--workers", "--processes", "--n-jobs", "--jobs", "--nproc-per-node"),
    "--resume": ("--continue", "--restart", "--from-checkpoint"),
    "--device": ("--gpu", "--gpus", "--cuda", "--accelerator"),
    "--precision": ("--amp", "--fp16", "--bf16", "--half", "--dtype"),
    "--lrs": ("--rates", "--learning-rates", "--grid"),
    "--lr-range": ("--bounds", "--range"),
    "--folds": ("--cv", "--k-folds", "--kfold"),
    "--json": ("--format",),
}
"""For each option, what other programs call it."""

FIELDS = {
    "clip_norm": ("clip", "grad_clip", "gradient_clipping", "max_grad_norm", "clip_grad_norm"),
    "label_smoothing": ("smoothing",),
    "early_stopping": ("patience",),
    "accumulate": ("grad_accum", "accumulation", "gradient_accumulation_steps"),
    "dropout": ("dropout_rate", "drop_rate"),
}
"""The same for the fields of a recipe that have no option of their own."""

ALIKE = 0.7
"""Share of the letters of two names that must agree for the one to be meant by the other."""

WHICH_RATE = {"--lr": "the verb looks for the rate itself: leave it out"}
"""What is said of an option that is known and hidden, because the verb has no use for it."""


def unknown_option(command: Any, path: str, typed: str, args: Sequence[str]) -> str:
    """Return what to type instead of an option that a verb does not have.

    Args:
        command: The verb.
        path: The verb as it is called, such as 'etude tune'.
        typed: The option.
        args: All arguments that were typed.
    """
    options = {name: one for one in command.params for name in one.opts if name.startswith("-")}
    meant = _meant(options, typed, _value_after(typed, args))
    return f"unknown option {typed}: {meant}`{path} --help` lists all options"


def _meant(options: dict[str, Any], typed: str, value: str) -> str:
    name = typed.replace("_", "-").lower()
    for option, others in OTHER_NAMES.items():
        if option not in options or not (name in others or name == option):
            continue
        if options[option].hidden:
            return f"{WHICH_RATE.get(option, 'leave it out')}; "
        return f"{_asked(option, name, value)}; "
    if "--set" in options and (field := _field(name.lstrip("-").replace("-", "_"))):
        return f"write --set {field}={shlex.quote(value) if value else 'VALUE'}; "
    shown = [one for one, option in options.items() if not option.hidden]
    near = [one for one in nearest_names(name, shown) if _alike(name, one)]
    near += [one for one in shown if len(name) > 4 and one.startswith(name)]
    return f"did you mean {near[0]}? " if near else ""


def _alike(name: str, option: str) -> bool:
    """Return whether most letters of two options are the same, in the same order."""
    return SequenceMatcher(None, name.lstrip("-"), option.lstrip("-")).ratio() > ALIKE


def _asked(option: str, name: str, value: str) -> str:
    """Return the question that names the option, with its value where the unit differs."""
    if "epoch" in name:
        count = value if value.replace(".", "", 1).isdigit() else "20"
        return f"write {option} '{count} epochs'"
    if name in ("--amp", "--fp16", "--bf16", "--half"):
        return f"write {option} {'bfloat16' if name in ('--amp', '--bf16') else 'float16'}"
    if name in ("--gpu", "--gpus", "--cuda"):
        return f"write {option} cuda"
    return f"write {option}{f' {shlex.quote(value)}' if value else ''}"


def _field(name: str) -> str:
    """Return a field of the recipe, or a hyperparameter of an optimizer; empty if it is neither."""
    from etude import optimizers
    from etude.recipe import Recipe

    for field, others in FIELDS.items():
        if name in others and field in Recipe.model_fields:
            return field
    if name in Recipe.model_fields:
        return name
    known = any(name in row.hyperparameters for row in optimizers.ROWS.values())
    return f"optimizer.{name}" if known else ""


def _value_after(typed: str, args: Sequence[str]) -> str:
    """Return the value that was typed for an option; empty for none."""
    for word, after in zip(args, (*args[1:], ""), strict=True):
        option, equals, value = word.partition("=")
        if option == typed:
            return value if equals else ("" if after.startswith("-") else after)
    return ""
