"""A blueprint of a named task: its data, model, loss and default recipe, and its options.

The parts are named by text, 'module:function', so that a table of blueprints loads no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.errors import EtudeError, TaskError, lacks

if TYPE_CHECKING:
    from etude.tasks.task import Task

FACTS = frozenset(
    {"inputs", "vocabulary", "outputs", "channels", "size", "context", "every_step", "causal"}
)
"""Arguments of a model that follow from the data, and so are not options of the task."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """How a named task is built.

    Attributes:
        name: The task's name.
        summary: One line on it.
        data: 'module:function' that returns Examples.
        model: 'module:function' that returns a network.
        loss: 'module:function' of (output, target).
        metric: The metric's name.
        defaults: Fields of the recipe it is trained with when none is given.
        preset: Options of data or model that differ from the functions' own.
    """

    name: str
    summary: str
    data: str
    model: str
    loss: str
    metric: str
    defaults: Mapping[str, Any]
    preset: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return every option that `__call__` takes, with its value when it is not given.

        Values that follow from the data, such as the number of classes, are not options.
        """
        own = _optional(resolve(self.data))
        of_model = _optional(resolve(self.model))
        own |= {k: v for k, v in of_model.items() if k not in FACTS}
        return own | dict(self.preset)

    def __call__(self, /, **options: Any) -> Task:
        """Build the task, passing `options` to its data or its model.

        Raises:
            UnknownNameError: If neither the data nor the model has such an option.
            BadValueError: If an option's value is out of bounds; the model is built once to check.
            TaskError: If the data cannot be fetched or read.
        """
        from etude.randomness import random_state_kept
        from etude.tasks.task import Task

        chosen = self.options()
        for option in options:
            if option not in chosen:
                raise lacks(f"the task {self.name!r}", "option", option, chosen)
        chosen |= options
        data, model = resolve(self.data), resolve(self.model)
        of_data = _optional(data)
        examples = data(**{k: v for k, v in chosen.items() if k in of_data})
        takes = inspect.signature(model).parameters
        of_model = {k: v for k, v in chosen.items() if k not in of_data}
        facts = {k: v for k, v in examples.facts.items() if k in takes}
        build = partial(model, **(of_model | facts))
        with random_state_kept():
            try:
                build()
            except (RuntimeError, MemoryError, OverflowError) as error:
                if isinstance(error, EtudeError):
                    raise
                raise TaskError(
                    f"the model of task {self.name!r} cannot be built with these options: "
                    f"{next(iter(str(error).splitlines()), type(error).__name__)}"
                ) from error
        return Task(
            name=self.name,
            summary=self.summary,
            model=build,
            train=examples.train,
            valid=examples.valid,
            loss=resolve(self.loss),
            metric=self.metric,
            defaults=self.defaults,
        )


def resolve(reference: str) -> Callable[..., Any]:
    """Return the function that 'module:function' names.

    >>> resolve("math:sqrt")(9)
    3.0
    """
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _optional(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword arguments that have a default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
