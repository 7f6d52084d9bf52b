"""Says which verb is meant by one that the program does not have."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperGroup

from etude.errors import UnknownNameError, nearest_names, shown

OTHER_NAMES = {
    "train": ("fit", "run", "learn", "launch"),
    "tune": ("search", "find", "optimize", "optimise", "hpo", "find-lr", "lr"),
    "grid": ("grid-search", "gridsearch"),
    "range-test": ("lr-find", "lr-finder", "lrfinder", "lr-range-test", "finder"),
    "compare-methods": ("compare",),
    "population": ("pbt",),
    "study": ("sweep", "experiment", "studies"),
    "diagnose": ("doctor", "debug", "watch", "health"),
    "schedule": ("scheduler", "schedulers", "schedules"),
    "optimizers": ("optimizer", "optimisers", "optim"),
    "layerwise": ("layers", "lr-mult"),
    "tasks": ("datasets", "models", "list"),
    "compress": ("quantize", "quantise", "pruning"),
    "backprop": ("backward", "gradients"),
    "edge": ("stability",),
    "transfer": ("mup",),
}
"""For each verb, what other programs call it, or what somebody may look for it as."""


MOST = 4
"""How many verbs with an option of the name are listed."""


class VerbGroup(TyperGroup):
    """A group of verbs; an unknown one is answered with what to type."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb.

        Raises:
            UnknownNameError: If there is none of this name.
        """
        refuse_unknown_verb(self, ctx, args)
        return super().resolve_command(ctx, args)


def refuse_unknown_verb(group: Any, context: Any, args: list[str]) -> None:
    """Raise for a verb that a group of verbs does not have.

    Args:
        group: The group.
        context: Its context, which knows how it is called.
        args: What was typed after it; the first word is the verb.

    Raises:
        UnknownNameError: The message says what to type instead.
    """
    typed, called = args[0], context.command_path
    path = f"etude{called.removeprefix(context.find_root().command_path)}"
    if group.get_command(context, typed) is None and not typed.startswith("-"):
        raise UnknownNameError(
            f"unknown verb {shown(typed)}: {_meant(group, path, typed)}`{path} --help` lists all "
            "verbs"
        )


def _meant(group: Any, path: str, typed: str) -> str:
    """Return the verb that is meant, the option, or the verb that takes a task; '' for none."""
    name, verbs = typed.replace("_", "-").lower(), group.commands
    if _has(group, f"--{name}"):
        return f"write `{path} --{name}`; "
    inner = [f"{verb} {name}" for verb, one in verbs.items() if name in _verbs_of(one)]
    other = [verb for verb, others in OTHER_NAMES.items() if name in others and verb in verbs]
    exact = [name] if name in verbs else inner or other
    owners = [verb for verb, one in verbs.items() if _has(one, f"--{name}")]
    found = exact or ([] if owners else nearest_names(name, verbs, most=2))
    told = f"did you mean {_joined(path, found)}? " if found else ""
    if owners:
        more = f" and {len(owners) - MOST} more" if len(owners) > MOST else ""
        told += f"--{name} is an option of {_joined(path, owners[:MOST])}{more}; "
    if not told and "tune" in verbs and (":" in typed or "-" in typed):
        told = f"if it is a task, write `{path} tune {shlex.quote(typed)}`; "
    return told


def _verbs_of(verb: Any) -> Iterable[str]:
    found: Iterable[str] = getattr(verb, "commands", ())
    return found


def _has(verb: Any, option: str) -> bool:
    return any(option in one.opts and not getattr(one, "hidden", False) for one in verb.params)


def _joined(path: str, words: Sequence[str]) -> str:
    """Return commands with 'or' between them.

    >>> _joined("etude", ["study ls", "tasks"])
    '`etude study ls` or `etude tasks`'
    """
    *first, last = (f"`{path} {word}`" for word in words)
    return f"{', '.join(first)} or {last}" if first else last
