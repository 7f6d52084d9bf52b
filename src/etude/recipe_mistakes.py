"""Words for the mistakes that pydantic finds in a recipe: the value, the bound and the fix."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from etude.errors import EtudeError, nearest_names, shown, unknown_name

BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
"""What each of pydantic's bounds is called."""

ELSEWHERE = {
    "lr": ("learning_rate", "rate", "lr0", "eta", "max_lr", "base_lr", "peak_lr"),
    "steps": ("epochs", "num_epochs", "max_epochs", "num_train_epochs", "max_steps", "iterations"),
    "batch_size": ("batch", "bs", "batchsize", "per_device_train_batch_size"),
    "schedule": ("scheduler", "lr_scheduler", "lr_scheduler_type"),
    "clip_norm": ("max_grad_norm", "grad_clip", "gradient_clip_val", "clip"),
    "accumulate": ("gradient_accumulation_steps", "accumulate_grad_batches"),
    "early_stopping": ("patience",),
}
"""What other libraries call the fields of a recipe."""

INNER = ("duration is ", "horizon is ")
"""How a length is called inside a clock."""


def explain(mistake: Any, known: Collection[str], *, least: int | None = None) -> str:
    """Return a message with the value, the bound and the fix for one of pydantic's errors.

    Args:
        mistake: One of `ValidationError.errors()`.
        known: The fields of a recipe.
        least: The least whole number that is allowed, where that is known.

    >>> explain({"type": "greater_than", "loc": ("lr",), "input": 0, "ctx": {"gt": 0.0}}, ["lr"])
    'lr=0 is out of bounds: give a number above 0'
    """
    inner = ("function-before", "int")
    name = ".".join(str(part) for part in mistake["loc"] if part not in inner)
    context, value = mistake.get("ctx", {}), mistake.get("input")
    if isinstance(cause := context.get("error"), EtudeError):
        return _caused(name, str(cause))
    if mistake["type"] == "extra_forbidden":
        meant = [field for field, others in ELSEWHERE.items() if name in others]
        near = [field for field in meant if field in known] or nearest_names(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown field {shown(name)} in the recipe: {hint}Known: {', '.join(known)}"
    if mistake["type"] == "literal_error":
        words = str(context["expected"]).replace(" or ", ", ").split(", ")
        return str(unknown_name(name, value, [word.strip("'") for word in words]))
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name}={shown(value)} is not finite: give a finite number"
    for bound, word in BOUNDS.items():
        if bound in context:
            return (
                f"{name}={shown(value)} is out of bounds: give a number {word} {context[bound]:,}"
            ).removesuffix(".0")
    if mistake["type"].startswith("int_"):
        return f"{name}={shown(value)} is not a whole number: {_whole_number(value, least)}"
    if mistake["type"].startswith("float_"):
        return f"{name}={shown(value)} is not a number"
    if mistake["type"] in ("dict_type", "mapping_type"):
        return f"{name}={shown(value)} is not a table: give names and values"
    message = mistake["msg"][:1].lower() + mistake["msg"][1:]
    return f"{name}={shown(value)}: {message}"


def _whole_number(value: object, least: int | None) -> str:
    """Return what to give in place of a value that is not whole.

    >>> _whole_number("1.5", 1), _whole_number("many", None)
    ('give a whole number of at least 1, such as 2', 'give a whole number, such as 1')
    """
    bound = "" if least is None else f" of at least {least:,}"
    try:
        near = math.ceil(float(str(value)))
    except (ValueError, OverflowError):
        near = 1
    return f"give a whole number{bound}, such as {max(near, least or 1)}"


def _caused(name: str, cause: str) -> str:
    """Return a message of Etude's own, with the field to which it belongs."""
    for start in INNER:
        if cause.startswith(start):
            return f"{name} is {cause.removeprefix(start)}"
    return cause if cause.startswith(name) or not name else f"{name}: {cause}"
