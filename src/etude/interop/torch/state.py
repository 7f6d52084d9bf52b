"""The state of a scheduler as plain data: its schedules, its step and its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etude.errors import BadTypeError, BadValueError, kind_of, unknown_name
from etude.interop.torch.columns import Column, Entry, differences

FORMAT = 1
ANSWERS = ("error", "keep", "replace")
"""What `load_state_dict` can do if the schedules differ from the saved ones."""


class State(NamedTuple):
    """A state that was read and checked."""

    step: int
    schedules: dict[str, dict[str, str | None]]
    bases: list[dict[str, float]]
    events: list[tuple[float, float | None]]


def state_dict(
    step: int,
    columns: Iterable[Column],
    bases: Iterable[Mapping[str, float]],
    events: Iterable[tuple[float, float | None]],
) -> dict[str, Any]:
    """Return the state as data that JSON and `torch.load(weights_only=True)` can hold."""
    return {
        "etude": FORMAT,
        "step": step,
        "schedules": {column.name: column.texts() for column in columns},
        "bases": [dict(base) for base in bases],
        "events": [list(event) for event in events],
    }


def check(state: Mapping[str, Any]) -> State:
    """Return a saved state, or raise if it is not the state of a Scheduler."""
    if not isinstance(state, Mapping):
        raise BadTypeError(f"the state is {kind_of(state)}; it must be a mapping")
    if "etude" not in state:
        keys = ", ".join(sorted(map(str, state))[:6])
        raise BadValueError(
            f"this is not the state of an etude Scheduler (it has: {keys}): for a scheduler of "
            "torch, create that scheduler, load the state into it, and convert it with from_torch"
        )
    if state["etude"] != FORMAT:
        raise BadValueError(
            f"the state has format {state['etude']!r}; this version reads {FORMAT}: upgrade etude"
        )
    try:
        step, events = state["step"], [(t, metric) for t, metric in state["events"]]
        schedules = {name: dict(texts) for name, texts in state["schedules"].items()}
        bases = [{k: float(v) for k, v in base.items()} for base in state["bases"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadValueError(f"the state is damaged: {type(error).__name__}: {error}") from error
    return State(whole_step(step), schedules, bases, events)


def whole_step(step: object) -> int:
    """Return a step as an int that float64 can represent exactly."""
    if isinstance(step, bool) or not isinstance(step, int):
        raise BadTypeError(f"step is {step!r}; it must be a whole number of updates")
    if not 0 <= step <= 2**53:
        raise BadValueError(f"step is {step}; it must be between 0 and 2**53")
    return step


def explain(
    state: State, columns: Iterable[Column], bases: Iterable[Mapping[str, float]]
) -> list[str]:
    """Describe how a scheduler differs from the one whose state was saved, line by line."""
    now = {column.name: column.texts() for column in columns}
    lines: list[str] = []
    for name in sorted({*state.schedules, *now}):
        lines += differences(name, state.schedules.get(name, {}), now.get(name, {}))
    for place, (before, after) in enumerate(zip(state.bases, bases, strict=False)):
        lines += [
            f"base {name} of group {place} is {after[name]!r}; it was {before[name]!r}"
            for name in sorted({*before} & {*after})
            if before[name] != after[name]
        ]
    return lines


def refuse(lines: list[str], step: int, answer: str) -> None:
    """Raise an error that lists the differences, unless the caller chose a side."""
    if answer not in ANSWERS:
        raise unknown_name("on_difference", answer, ANSWERS)
    if lines and answer == "error":
        listed = "".join(f"\n  {line}" for line in lines)
        raise BadValueError(
            f"the state, at step {step}, was saved under other schedules than this Scheduler has:"
            f"{listed}\n"
            "Create the Scheduler with the saved schedules, or choose the schedules to use: "
            "load_state_dict(state, on_difference='keep') uses this Scheduler's, 'replace' the "
            "saved ones. To change the length of the run without a jump in the rate, give this "
            f"Scheduler saved.extend(at={step}, horizon=...) and use 'keep'"
        )


def saved_columns(state: State) -> tuple[Column, ...]:
    """Return the saved columns."""
    return tuple(
        Column(
            name,
            {
                int(key) if key.isdigit() else key: None if text is None else Entry.of_text(text)
                for key, text in texts.items()
            },
        )
        for name, texts in state.schedules.items()
    )
