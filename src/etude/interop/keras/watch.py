"""Reads a training of Keras on torch through its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import Any

from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.watching.training_watch import TrainingWatch
from etude.errors import BadValueError
from etude.interop._peer import load
from etude.interop._watching import Watching

CALL = "call"
"""The method of a model that computes its outputs; an attribute of an instance stands before it."""


def refuse_other_backends(backend: str) -> None:
    """Raise if Keras does not run on torch.

    Raises:
        BadValueError: If it runs on something else.
    """
    if backend != "torch":
        raise BadValueError(
            f"Keras runs on {backend!r}, and a watch reads gradients and updates of torch alone: "
            "set KERAS_BACKEND=torch before Keras is imported"
        )


class KerasWatchHooks(Watching):
    """Watches `fit` as `etude.watch` does a loop of your own.

        with WatchCallback() as watching:
            model.fit(x, y, callbacks=[watching])
        print(watching.report())

    Layers have the names that they have in Keras. With `gradient_accumulation_steps`, an update is
    read once, and its gradient is that of its last batch. An error in the forward or backward pass
    ends the watch. Keras tells its callbacks of no other error; the block ends it after any.
    """

    model: Any

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin to watch."""
        self._stepper = KerasSteps(self, self.model)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin to read an update."""
        self._stepper.before()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Read the update."""
        self._stepper.after()

    def on_train_end(self, logs: Any = None) -> None:
        """End the watch."""
        self.close()

    def close(self) -> None:
        """End the watch, and give the model its own methods back; may be called twice."""
        if (stepper := self.__dict__.get("_stepper")) is not None:
            stepper.restore()
        super().close()


class KerasSteps:
    """Tells a watch where the updates of a Keras model begin and end.

    Args:
        watching: What begins the watch.
        model: The model.
    """

    def __init__(self, watching: Watching, model: Any) -> None:
        self._model, self._optimizer = model, model.optimizer
        variables = list(model.trainable_variables)
        self._stand_in = stand_in(model.name, variables)
        self._view = optimizer_view(model.optimizer, [one.value for one in variables])
        self._parts = int(model.optimizer.gradient_accumulation_steps or 1)
        self._batches = 0
        self.watch: TrainingWatch = watching.begin(
            {"": self._stand_in}, [self._view], first=int(model.optimizer.iterations)
        )
        self.watch.detach()
        self._compiled = bool(model.jit_compile) and model.jit_compile != "auto"
        self._in_update = False

    def before(self) -> None:
        """Read what stands before a batch."""
        watch = self.watch
        watch.attach()
        if not self._in_update:
            self._in_update = True
            watch.before_step(0, closure=True)
        if not self._compiled and not watch.closed:
            self._model.__dict__[CALL] = self._reading(self._model.call)

    def after(self) -> None:
        """Read what stands after it, if the weights were updated."""
        self.restore()
        self._batches += 1
        if self._batches % self._parts == 0:
            self._in_update = False
            self._view.param_groups[0]["lr"] = float(self._optimizer.learning_rate)
            self.watch.after_step(0, closure=True)
        self.watch.detach()

    def restore(self) -> None:
        """Leave the model as it was."""
        self._model.__dict__.pop(CALL, None)

    def _reading(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def read(*args: Any, **options: Any) -> Any:
            self.restore()
            self.watch.before_forward(self._stand_in, args, options)
            output = None
            try:
                output = call(*args, **options)
            finally:
                self.watch.after_forward(self._stand_in, args, options, output)
            return output

        return read


def stand_in(name: str, variables: Iterable[Any]) -> nn.Module:
    """Return a module that has the variables of a model under the names that Keras gives them.

    Args:
        name: The model's name, which is left out.
        variables: Variables with a `path` such as 'model/dense/kernel' and a torch `value`.
    """
    whole = nn.Module()
    for variable in variables:
        *places, leaf = variable.path.removeprefix(f"{name}/").split("/")
        module = whole
        for place in (one.replace(".", "_") for one in places):
            if place not in dict(module.named_children()):
                module.add_module(place, nn.Module())
            module = module.get_submodule(place)
        module.register_parameter(_free(module, leaf.replace(".", "_")), variable.value)
    return whole


def _free(module: nn.Module, name: str) -> str:
    """Return a name that the module does not have yet."""
    found, number = name, 0
    while hasattr(module, found):
        number += 1
        found = f"{name}_{number}"
    return found


def optimizer_view(optimizer: Any, parameters: list[Any]) -> Optimizer:
    """Return an optimizer of torch that holds the same parameters and never steps."""
    kind = type(type(optimizer).__name__, (Optimizer,), {})
    made: Optimizer = kind(parameters, {"lr": float(optimizer.learning_rate)})
    return made


@cache
def _watch_class() -> type[Any]:
    """Create the class when Keras is loaded; Keras must run on torch."""
    keras = load("keras")
    refuse_other_backends(keras.backend.backend())
    made = type(
        "WatchCallback",
        (KerasWatchHooks, keras.callbacks.Callback),
        {"__module__": "etude.interop.keras"},
    )
    made.__doc__ = KerasWatchHooks.__doc__
    return made


def __getattr__(name: str) -> Any:
    if name == "WatchCallback":
        return _watch_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
