"""The observers of one run: calls their hooks when they are due, and keeps what they return."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadTypeError, BadValueError, EtudeError, ObserverError, kind_of
from etude.randomness import derive_seed, random_state_kept
from etude.record import Evaluation
from etude.training.observer import Observer, Value
from etude.training.state.state import RunState

OWN_SERIES = {"loss", "lr", "grad_norm", "penalty", "valid_parts", "valid_metric_parts"}
OWN_SERIES |= {"skipped", "rewound", "clipped"}
OF_PARTS = ("loss/", "grad_norm/", "clipped/")
"""Names of the record's own series, and prefixes of such names; no observer may use them."""

READS = ("weights", "gradients", "optimizer")
HOOKS = ("on_start", "on_gradient", "on_update", "on_evaluation", "on_end", "attached", "note")
ENGINES = ("loop", "pool", "vmap")


class Observers:
    """The observers of one run: calls them when due, and keeps the results without reading them.

    Args:
        observers: The observers, in the order of their calls.

    Raises:
        BadTypeError: If one is not an observer.
        BadValueError: If an attribute of one is invalid, or two have the same name.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.listed = tuple(observers)
        self._names = _checked(self.listed)
        self._with_hook = {hook: self._having(hook) for hook in HOOKS}
        self._started = self._ended = False
        self._late: list[tuple[int, dict[str, Value]]] = []

    def __iter__(self) -> Iterator[Observer]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def _having(self, hook: str) -> list[tuple[str, Observer]]:
        """Return the observers that define a hook."""
        return [
            (name, observer)
            for name, observer in zip(self._names, self.listed, strict=True)
            if getattr(type(observer), hook) is not getattr(Observer, hook)
        ]

    def has(self, hook: str) -> bool:
        """Return whether any observer defines a hook."""
        return bool(self._with_hook[hook])

    def start(self, state: RunState) -> None:
        """Call `on_start`, once, if the run is at its start."""
        if not self._started and state.step == 0:
            for name, observer in self._with_hook["on_start"]:
                _called(name, observer, "on_start", "before the first update", state)
        self._started = True

    def gradient(self, state: RunState) -> dict[str, Value]:
        """Call `on_gradient` of those that are due; return the values by series."""
        found: dict[str, Value] = {}
        for name, observer in self._with_hook["on_gradient"]:
            if state.step % observer.every == 0:
                where = f"at update {state.step}"
                found |= _series(name, _called(name, observer, "on_gradient", where, state), where)
        return found

    def update(self, state: RunState) -> None:
        """Call `on_update` of those that are due, after an update, and keep the values."""
        update = state.step - 1
        for name, observer in self._with_hook["on_update"]:
            if observer.next_due(update) == update:
                where = f"after update {update}"
                values = _series(name, _called(name, observer, "on_update", where, state), where)
                if values:
                    self._late.append((update, values))

    def next_update(self, step: int) -> int | None:
        """Return the first update from `step` on after which `on_update` is due, or None."""
        due = (one.next_due(step) for _, one in self._with_hook["on_update"])
        return min((update for update in due if update is not None), default=None)

    def evaluation(self, state: RunState, evaluation: Evaluation) -> None:
        """Call `on_evaluation`."""
        for name, observer in self._with_hook["on_evaluation"]:
            where = f"at the evaluation after {state.step} updates"
            _called(name, observer, "on_evaluation", where, state, evaluation)

    def end(self, state: RunState) -> None:
        """Call `on_end`, once, if the run has ended."""
        if state.ended and not self._ended:
            self._ended = True
            for name, observer in self._with_hook["on_end"]:
                _called(name, observer, "on_end", "at the end", state)

    @contextmanager
    def attached(self, state: RunState) -> Iterator[None]:
        """Open the contexts of those that attach something while updates are made."""
        with ExitStack() as opened:
            for name, observer in self._with_hook["attached"]:
                where = f"before update {state.step}"
                opened.enter_context(_called(name, observer, "attached", where, state))
            yield

    def notes(self, state: RunState) -> dict[str, Any]:
        """Return the notes for the record, by the observers' names."""
        where = f"after {state.step} updates"
        found = {
            name: _called(name, observer, "note", where, state)
            for name, observer in self._with_hook["note"]
        }
        return {name: note for name, note in found.items() if note is not None}

    def write(self, series: dict[str, list[float]], end: int) -> None:
        """Write what `on_update` returned into series that are `end` updates long.

        Every series is extended to this length; values of later updates are kept.
        """
        ready = [(update, values) for update, values in self._late if update < end]
        self._late = [(update, values) for update, values in self._late if update >= end]
        numbers = iter(read_numbers([v for _, values in ready for v in values.values()]))
        for update, values in ready:
            for name in values:
                series.setdefault(name, [])
                series[name] += [float("nan")] * (end - len(series[name]))
                series[name][update] = next(numbers)
        for name, values_ in series.items():
            if len(values_) < end:
                series[name] = values_ + [float("nan")] * (end - len(values_))

    @property
    def waits(self) -> bool:
        """Whether some results of `on_update` are still to be read."""
        return bool(self._late)

    def forget(self, end: int) -> None:
        """Drop the values of updates from `end` on, which count as not done."""
        self._late = [(update, values) for update, values in self._late if update < end]

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        kept = {}
        for name, observer in zip(self._names, self.listed, strict=True):
            if (state := _called(name, observer, "state", "when its state was saved")) is not None:
                kept[name] = state
        return {"started": self._started, "ended": self._ended, "states": kept}

    def load_state_dict(self, saved: Mapping[str, Any] | None, ended: bool) -> None:
        """Restore what `state_dict` returned; an observer without a saved state starts afresh.

        Args:
            saved: What `state_dict` returned; None if it was not saved.
            ended: Whether the run has ended.
        """
        self._late.clear()
        saved = saved or {"started": True, "ended": ended, "states": {}}
        self._started, self._ended = saved["started"], saved["ended"] and ended
        for name, observer in zip(self._names, self.listed, strict=True):
            if name in saved["states"]:
                _called(name, observer, "load", "when its state was loaded", saved["states"][name])


def read_numbers(values: Sequence[Value]) -> list[float]:
    """Return the values as numbers; those on one accelerator are read from it at once.

    >>> read_numbers([torch.tensor(1.5), 2])
    [1.5, 2.0]
    """
    waiting = [v for v in values if isinstance(v, Tensor) and not v.is_cpu]
    if len(waiting) < 2:
        return [float(value) for value in values]
    numbers: dict[int, float] = {}
    kinds = {(value.device, value.dtype) for value in waiting}
    for device, dtype in kinds:
        alike = [v for v in waiting if v.device == device and v.dtype == dtype]
        read = torch.stack([v.reshape(()) for v in alike]).tolist()
        numbers |= {id(value): number for value, number in zip(alike, read, strict=True)}
    return [float(numbers.get(id(value), value)) for value in values]


def refusal(observers: Observers, engine: str) -> str:
    """Return why observers cannot run in an engine ('pool', 'vmap'); empty if they can."""
    for name, observer in zip(observers._names, observers.listed, strict=True):
        if engine not in observer.engines:
            return f"the observer {name!r} does not list {engine!r} among its engines"
        if engine == "vmap":
            hidden = [what for what in observer.reads if what != "weights"]
            if hidden:
                return f"the observer {name!r} reads {' and '.join(hidden)}, which stacks lack"
    return ""


def _called(name: str, observer: Observer, hook: str, where: str, *args: Any) -> Any:
    """Call a hook, with its own random numbers if it may draw any.

    Raises:
        ObserverError: If it fails; the message gives its name and the place.
    """
    state = args[0] if args and isinstance(args[0], RunState) else None
    try:
        with _own_randomness(name, hook, state, observer.own_randomness), torch.no_grad():
            return getattr(observer, hook)(*args)
    except EtudeError as error:
        error.add_note(f"in {hook} of the observer {name!r}, {where}")
        raise
    except Exception as error:
        raise ObserverError(
            f"{hook} of the observer {name!r} failed {where}: {type(error).__name__}: {error}"
        ) from error


def _own_randomness(
    name: str, hook: str, state: RunState | None, draws: bool
) -> AbstractContextManager[None]:
    """Return the context of a hook: setting the random state aside takes as long as a small one."""
    if not draws:
        return nullcontext()
    if state is None:
        return random_state_kept()
    return random_state_kept(derive_seed(state.recipe.seed, "observer", name, hook, state.step))


def _series(name: str, reading: Any, where: str) -> dict[str, Value]:
    """Return the result of a hook as values by series, each in its own memory."""
    if reading is None:
        return {}
    if not isinstance(reading, Mapping):
        return {name: _number(name, reading, where)}
    return {f"{name}/{key}": _number(f"{name}/{key}", v, where) for key, v in reading.items()}


def _number(name: str, value: Any, where: str) -> Value:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.detach().clone().reshape(())  # a weight may change before it is read
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)  # a NumPy scalar
    except (TypeError, ValueError, RuntimeError):
        raise ObserverError(
            f"the observer's {name!r} is {_described(value)} {where}: return one number, a tensor "
            "with one element, or a mapping of such by name"
        ) from None


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{kind_of(value)}"


def _checked(observers: Sequence[Any]) -> list[str]:
    """Return the observers' names, and check their attributes."""
    names: list[str] = []
    for place, observer in enumerate(observers):
        if not isinstance(observer, Observer):
            kind = observer.__name__ if isinstance(observer, type) else type(observer).__name__
            hint = f": give {kind}(), not the class" if isinstance(observer, type) else ""
            raise BadTypeError(f"observers[{place}] is {kind}, not an etude.Observer{hint}")
        name = observer.name or _lower(type(observer).__name__)
        _refuse_name(name, names)
        names.append(name)
        every = observer.every
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise BadValueError(
                f"every={every!r} of the observer {name!r}: give a whole number of updates, at "
                "least 1"
            )
        for what, declared, known in (
            ("reads", observer.reads, READS),
            ("engines", observer.engines, ENGINES),
        ):
            wrong = [one for one in declared if one not in known]
            if wrong or isinstance(declared, str):
                raise BadValueError(
                    f"{what}={declared!r} of the observer {name!r}: give some of {known}"
                )
        own = type(observer).on_gradient is not Observer.on_gradient
        if own and "gradients" not in observer.reads:
            raise BadValueError(
                f"the observer {name!r} has on_gradient, and its reads {tuple(observer.reads)} "
                "do not include 'gradients'"
            )
    return names


def _refuse_name(name: Any, taken: Sequence[str]) -> None:
    if not isinstance(name, str) or not name.strip():
        raise BadTypeError(f"an observer's name is {name!r}: give a text")
    if name in OWN_SERIES or name.startswith(OF_PARTS):
        raise BadValueError(f"observer {name!r}: the record already has a series of that name")
    if name in taken:
        raise BadValueError(f"two observers have the name {name!r}: give one of them another name=")


def _lower(name: str) -> str:
    """Return the name of a class as the name of a series.

    >>> _lower("WeightNorm")
    'weight_norm'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
