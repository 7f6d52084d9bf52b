"""What `fit` was asked to do: how long it is, on what it is judged, and copies of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.errors import BadTypeError, BadValueError, shown, unknown_name
from etude.interop._peer import load
from etude.interop.keras.internals import compile_arguments, inner_of, keep_exclusions
from etude.randomness import random_state_kept

OPTIONS = (
    "batch_size", "epochs", "callbacks", "validation_split", "validation_data", "shuffle",
    "class_weight", "sample_weight", "steps_per_epoch", "validation_steps",
    "validation_batch_size", "validation_freq",
)  # fmt: skip
"""The arguments of `fit` that are handed on to it."""

USUAL_BATCH = 32
"""Keras's own batch size where none is given."""

OWN_STEPS = ("train_step", "compute_loss")
"""The methods of a Keras model by which a subclass trains without targets."""

RATE_CALLBACKS = ("LearningRateScheduler", "ReduceLROnPlateau")


@dataclass(frozen=True)
class FitCall:
    """A call of `fit`, for every rate the same.

    Attributes:
        x: The inputs, or a dataset.
        y: The targets; None with a dataset.
        options: The other arguments.
    """

    x: Any
    y: Any
    options: Mapping[str, Any]

    @classmethod
    def of(cls, x: Any, y: Any, options: Mapping[str, Any]) -> FitCall:
        """Return a call after checking its arguments.

        Raises:
            UnknownNameError: If `fit` has no such argument, or one that cannot be handed on.
            BadTypeError: If the data can be gone through only once.
            BadValueError: If nothing is held out, or a callback sets the rate.
        """
        for name in options:
            if name not in OPTIONS:
                raise unknown_name("argument of fit", name, OPTIONS)
        if isinstance(x, Iterator):
            raise BadTypeError(
                f"x={shown(x)} can be gone through only once, and every rate needs the same "
                "batches: give arrays, a PyDataset, or a DataLoader"
            )
        if not options.get("validation_split") and options.get("validation_data") is None:
            raise BadValueError(
                "nothing is held out, and rates are compared by the validation loss: give "
                "validation_split=0.2 or validation_data=(x, y), as to fit"
            )
        refuse_rate_callbacks(options.get("callbacks"))
        return cls(x, y, dict(options))

    @property
    def epochs(self) -> int:
        """How many epochs it trains for."""
        return int(self.options.get("epochs", 1))

    @property
    def batch_size(self) -> int:
        """The samples of a batch of arrays."""
        return int(self.options.get("batch_size") or USUAL_BATCH)

    def updates(self) -> int:
        """Return the updates of the whole call.

        With `steps_per_epoch`, Keras goes on in the data where the epoch before ended, and an epoch
        that comes to the end of the data is shorter.

        Raises:
            BadValueError: If that is not known before it is trained.
        """
        batches, given = self._batches(), self.options.get("steps_per_epoch")
        if given is None:
            if batches is None:
                raise BadValueError(
                    "the batches of an epoch cannot be counted: give steps_per_epoch="
                )
            return batches * self.epochs
        if not batches:
            return int(given) * self.epochs
        total = seen = 0
        for _ in range(self.epochs):
            done = min(int(given), batches - seen)
            total += done
            seen = (seen + done) % batches
        return total

    def _batches(self) -> int | None:
        """Return the batches of the training data; None if they cannot be counted."""
        count = samples(self.x)
        if count is not None:
            split = self.options.get("validation_data") is None
            share = float(self.options.get("validation_split") or 0.0) if split else 0.0
            return math.ceil(math.floor(count * (1.0 - share)) / self.batch_size)
        batches = getattr(self.x, "num_batches", None)
        if batches is None and hasattr(self.x, "__len__"):
            batches = len(self.x)
        return None if batches is None else int(batches)

    def held_out(self) -> tuple[Any, Any, Any]:
        """Return what rates are compared on: inputs, targets, weights of the samples.

        Raises:
            BadValueError: If the data cannot be split.
        """
        data = self.options.get("validation_data")
        if data is not None:
            if isinstance(data, (tuple, list)):
                x, y, weight = (*data, None, None)[:3]
                return x, y, weight
            return data, None, None
        count = samples(self.x)
        share = float(self.options["validation_split"])
        if count is None or not 0 < share < 1:
            raise BadValueError(
                f"validation_split={share:g} cannot be taken of {type(self.x).__name__}: give "
                "arrays and a share between 0 and 1, or validation_data="
            )
        first = math.floor(count * (1.0 - share))
        weight = self.options.get("sample_weight")
        x, y, weight = (part(one, slice(first, None)) for one in (self.x, self.y, weight))
        return x, y, weight

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of one call, with callbacks of its own."""
        found = dict(self.options)
        found["callbacks"] = [copy.deepcopy(one) for one in listed(found.get("callbacks"))]
        return {"x": self.x, "y": self.y, "verbose": 0, **found}


def refuse_without_targets(model: Any, call: FitCall) -> None:
    """Raise if a loss that compares outputs with targets is given none.

    A model whose own `train_step` or `compute_loss` needs none is left to Keras, as is a dataset,
    whose batches hold the targets.

    Args:
        model: The compiled model.
        call: The call of `fit`.

    Raises:
        BadValueError: If training or validation data have no targets.
    """
    usual = load("keras").Model
    own = [name for name in OWN_STEPS if getattr(type(model), name) is not getattr(usual, name)]
    if compile_arguments(model).get("loss") is None or own:
        return
    held = call.held_out() if call.options.get("validation_data") is not None else (None, None)
    if call.y is None and samples(call.x) is not None:
        raise BadValueError(
            "y is missing, and the model was compiled with a loss, which compares outputs with "
            "targets: give tune(model, x, y), or y=x for a model that reproduces its inputs"
        )
    if held[1] is None and samples(held[0]) is not None:
        raise BadValueError(
            "validation_data has inputs and no targets: give validation_data=(x, y), as to fit"
        )


def listed(callbacks: Any) -> list[Any]:
    """Return callbacks as a list."""
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def refuse_rate_callbacks(callbacks: Any) -> None:
    """Raise if a callback sets the rate itself.

    Raises:
        BadValueError: If one does.
    """
    keras = load("keras")
    kinds = tuple(getattr(keras.callbacks, name) for name in RATE_CALLBACKS)
    for one in listed(callbacks):
        if isinstance(one, kinds):
            raise BadValueError(
                f"the callback {type(one).__name__} sets the rate that is looked for: leave it "
                "out, and give the shape of the rate as schedule=, such as "
                "\"warmup('5%') >> cosine()\""
            )


def samples(x: Any) -> int | None:
    """Return how many samples nested arrays have; None for a dataset.

    >>> samples({"a": np.zeros((5, 2)), "b": np.zeros(5)}), samples(iter([])) is None
    (5, True)
    """
    if isinstance(x, Mapping):
        return samples(next(iter(x.values()), None))
    if isinstance(x, (list, tuple)) and x and not np.isscalar(x[0]):
        return samples(x[0])
    shape = getattr(x, "shape", None)
    return int(shape[0]) if shape is not None and len(shape) else None


def part(x: Any, place: Any) -> Any:
    """Return some samples of nested arrays."""
    if x is None:
        return None
    if isinstance(x, Mapping):
        return {name: part(one, place) for name, one in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(part(one, place) for one in x)
    return (x.iloc if hasattr(x, "iloc") else x)[place]


class ModelCopies:
    """Makes copies of a compiled model, with its weights and an optimizer of their own.

    Args:
        model: The model; it is only read.

    Raises:
        BadTypeError: If it is no Keras model.
        BadValueError: If it is not built or compiled, or compiles in a way of its own.
    """

    def __init__(self, model: Any) -> None:
        keras = load("keras")
        if not isinstance(model, keras.Model):
            raise BadTypeError(f"model={shown(model)} is not a Keras model")
        if type(model).compile is not keras.Model.compile:
            raise BadValueError(
                f"{type(model).__name__}.compile is its own, and what it sets cannot be copied: "
                "train it by a loop of yours, with etude.tune_loop"
            )
        if not getattr(model, "compiled", False):
            raise BadValueError("the model is not compiled: call compile(optimizer, loss) first")
        if not model.built:
            raise BadValueError(
                "the model has no weights yet, and every rate begins with the same: give it an "
                "Input, or call build(shape) first"
            )
        self.model = model
        self.compiled = compile_arguments(model)
        self.optimizer = self.compiled["optimizer"]
        if "learning_rate" not in inner_of(self.optimizer).get_config():
            raise BadValueError(
                f"{type(self.optimizer).__name__} has no learning_rate of its own to look for: "
                "compile with one optimizer, or train by a loop of yours, with etude.tune_loop"
            )

    def made(self, learning_rate: Any) -> Any:
        """Return a copy with the weights, random seeds and a fresh optimizer."""
        keras = load("keras")
        with random_state_kept():  # layers that draw are seeded from the global state
            twin = self._cloned()
            if not twin.built:
                twin.build_from_config(self.model.get_build_config())
        twin.set_weights(self.model.get_weights())
        for mine, own in zip(_seeds(self.model), _seeds(twin), strict=True):
            own.assign(np.array(keras.ops.convert_to_numpy(mine)))  # JAX gives shared buffers away
        metrics = {
            name: keras.tree.map_structure(_fresh, self.compiled.get(name))
            for name in ("metrics", "weighted_metrics")
        }
        optimizer = _at_rate(self.optimizer, learning_rate)
        variables = zip(self.model.variables, twin.variables, strict=True)
        keep_exclusions(inner_of(self.optimizer), inner_of(optimizer), variables)
        twin.compile(**{**self.compiled, **metrics, "optimizer": optimizer})
        return twin

    def _cloned(self) -> Any:
        """Return a copy as Keras makes it, from the configs of the model and its layers.

        Raises:
            BadValueError: If a class of the user's own cannot be made from its config.
        """
        try:
            return load("keras").models.clone_model(self.model)
        except (TypeError, ValueError, NotImplementedError) as error:
            name = type(self.model).__name__
            raise BadValueError(
                f"keras.models.clone_model cannot copy this {name}, and every rate trains a copy "
                f"({str(error).partition(chr(10))[0]}): give each class of your own a get_config "
                "with the arguments of its __init__, and let __init__ pass **kwargs on to "
                "super().__init__; or train by a loop of yours, with etude.tune_loop"
            ) from error


def _at_rate(optimizer: Any, learning_rate: Any) -> Any:
    """Return a fresh optimizer at a rate; one that scales the loss is made around a fresh one."""
    inner = inner_of(optimizer)
    made = type(inner).from_config({**inner.get_config(), "learning_rate": learning_rate})
    if inner is optimizer:
        return made
    config = {**optimizer.get_config(), "inner_optimizer": made}
    return type(optimizer)(**config)


def _seeds(model: Any) -> list[Any]:
    return [one for one in model.variables if "seed_generator" in one.path]


def _fresh(metric: Any) -> Any:
    """Return a metric with a state of its own."""
    if isinstance(metric, load("keras").metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
