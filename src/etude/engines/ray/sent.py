"""What is sent to a Ray worker: references, plain values and packed tensors, never live objects."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from typing import Any

from etude import tasks
from etude.engines.base import describe
from etude.engines.process.state_transfer import pack, unpack
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.optimizers.importable import can_be_named, own_factory
from etude.optimizers.own_optimizer import own
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.references.fingerprint import changed, fingerprint
from etude.tasks.references.origin import DataRows, Side, TaskOrigin
from etude.tasks.references.ref import TaskRef
from etude.tasks.task import Task
from etude.training.observer import Observer
from etude.training.observers import refusal
from etude.training.run import Run

SIDES: tuple[Side, Side] = ("train", "valid")


def sent_task(task: Task) -> dict[str, Any]:
    """Return a task as a worker builds it: its reference, its rows, and what it must then be.

    Args:
        task: The task of the runs, on any device.

    Raises:
        BadValueError: If nothing outside this process can build it.
    """
    if task.origin is None:
        raise BadValueError(
            f"the task {task.name!r} was put together in this program, so no other machine can "
            "build it: put it in a file and load it by its name, as in "
            "etude.tasks.load('my_project.py:task'), or train with engine='pool', in processes of "
            "this machine"
        )
    origin = task.origin
    rows = {"train": origin.train, "valid": origin.valid}
    plain = {
        "ref": TaskRef.of(origin.ref.reference, origin.ref.options).plain(),
        "sides": {name: one.side for name, one in rows.items()},
        "noise": bool(getattr(task.metric, "noise", False)),
        "parts": dict(fingerprint(task)),
    }
    index = {name: one.index for name, one in rows.items() if one.index is not None}
    packed = pack({"index": index})
    key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode() + packed).hexdigest()
    return {"plain": plain, "index": packed, "key": key}


def built_task(sent: Mapping[str, Any]) -> Task:
    """Return the task that `sent_task` described.

    Raises:
        TaskError: If this machine builds another one.
    """
    plain, index = sent["plain"], unpack(sent["index"])["index"]
    ref = TaskRef.from_plain(plain["ref"], "a task")
    # A file may draw random numbers as it is loaded: in every process the same.
    with random_state_kept(0):
        whole = tasks.load(ref.reference, **ref.options)
    data = {name: getattr(whole, plain["sides"][name]) for name in SIDES}
    parts = {name: one.part(index[name]) if name in index else one for name, one in data.items()}
    metric = replace(whole.metric, noise=True) if plain["noise"] else whole.metric
    rows = {name: DataRows(plain["sides"][name], index.get(name)) for name in SIDES}
    task = replace(whole, **parts, metric=metric).known_as(ref, TaskOrigin(ref, **rows))
    if others := changed(plain["parts"], fingerprint(task)):
        raise TaskError(
            f"the worker builds another task from {ref.reference!r} than the driver has: its "
            f"{', '.join(others)} differ; load the same data there, and seed what the file draws"
        )
    return task


def sent_run(run: Run) -> dict[str, Any]:
    """Return what a worker builds a run from, besides its task and its state.

    Raises:
        BadTypeError: If one of its observers cannot be built there.
    """
    if reason := refusal(run.observers, "pool"):
        raise BadTypeError(f"{describe(run)}: {reason}; train with engine='loop'")
    name = run.recipe.optimizer.name
    if not can_be_named(name):
        raise BadTypeError(
            f"the optimizer {name} cannot be built on another machine: put it in a module that can "
            "be imported there, or train with engine='pool', in processes of this machine"
        )
    own = own_factory(name)
    return {
        "recipe": run.recipe.plain(),
        "optimizer": None if own is None else (own.__module__, own.__qualname__),
        "observers": [_sent_observer(one) for one in run.observers],
        "device": run.device.type,
        "threads": run.threads,
    }


def built_run(task: Task, sent: Mapping[str, Any], state: Mapping[str, Any]) -> Run:
    """Return the run that `sent_run` described, in a state."""
    observers = [_built_observer(*one) for one in sent["observers"]]
    if sent["optimizer"] is not None:
        place, name = sent["optimizer"]
        own(_imported(place, name, "optimizer"))
    run = Run(task, Recipe(**sent["recipe"]), device=sent["device"], observers=observers)
    run.load_state_dict(state)
    run.limit_threads(sent["threads"])  # the state contains another number
    return run


def _sent_observer(observer: Observer) -> tuple[str, str, dict[str, Any]]:
    kind = type(observer)
    arguments = observer.arguments()
    if arguments is None and kind.__init__ is Observer.__init__:
        arguments = {"name": observer.name or None, "every": observer.every}
    if arguments is None or not _importable(kind) or not _is_plain(arguments):
        raise BadTypeError(
            f"the observer {kind.__qualname__} cannot be built on another machine: put its class "
            "in a module that can be imported there, and let its `arguments` return plain values; "
            "or train with engine='pool', in processes of this machine"
        )
    return kind.__module__, kind.__qualname__, dict(arguments)


def _importable(kind: type) -> bool:
    """Return whether a class is found under its name in a module other than the program."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__ != "__main__" and getattr(module, kind.__qualname__, None) is kind


def _is_plain(values: Mapping[str, Any]) -> bool:
    """Return whether JSON can hold some values.

    >>> _is_plain({"every": 10, "tied": (0.1, 0.2)}), _is_plain({"hook": print})
    (True, False)
    """
    try:
        json.dumps(dict(values))
    except (TypeError, ValueError):
        return False
    return True


def _imported(place: str, name: str, what: str) -> Any:
    try:
        return attrgetter(name)(import_module(place))
    except (ImportError, AttributeError) as error:
        raise TaskError(
            f"the {what} {place}:{name} cannot be imported on the worker ({error}): make its "
            "module available there"
        ) from error


def _built_observer(place: str, name: str, arguments: Mapping[str, Any]) -> Observer:
    found = _imported(place, name, "observer")(**arguments)
    if not isinstance(found, Observer):
        raise TaskError(f"{place}:{name} on the worker is no observer")
    return found
