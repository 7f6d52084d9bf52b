"""A Task says what to learn: a model, data, and a loss or step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import BadTypeError, BadValueError, TaskError, as_real, kind_of, where
from etude.model_copy import copy_model
from etude.tasks.groups import groups_of
from etude.tasks.loss.weighted import WeightedLoss, as_loss, weighed
from etude.tasks.metrics import as_metric
from etude.tasks.misfit import failed_layer, input_hint, label_hint
from etude.tasks.references.origin import TaskOrigin
from etude.tasks.references.ref import TaskRef
from etude.tasks.sources.data import Batch, Data, IndexedData, IterableData, LoaderData, as_data
from etude.tasks.sources.nested import mapped, tensors_of
from etude.tasks.turns import check_reach, takes_turns, turns

Call = Callable[..., tuple[Any, Any, Any]]
"""How a loss is called, with its arguments: returns the loss, and the weight of its mean and its
terms if they were looked for."""


def _without_weight(loss: Callable[..., Any], *args: Any) -> tuple[Any, None, tuple[()]]:
    return loss(*args), None, ()


_with_weight: Call = weighed


@dataclass(frozen=True, eq=False)
class Task:
    """What to learn.

    Attributes:
        model: A function without arguments that builds the network (its weights are then drawn
            from the recipe's seed), or a network, which is copied and never changed.
        train: `(inputs, ..., targets)` as tensors, arrays or tables with one row per sample, also
            in nested tuples and mappings; a mapping of tensors, a Dataset, an IterableDataset, or
            a DataLoader.
        valid: The same, or the share of `train` to hold out.
        loss: (output, target) -> scalar tensor, the mean over the targets that count; or the pair
            (sum, weight) of the batch, whose mean is sum / weight. The weight of a mean computed
            by torch is found automatically: see docs/tasks.md.
        step: Instead of `loss`, your own (model, batch) -> scalar loss (or such a pair, or a
            mapping with one under 'loss', as the models of transformers return), for training
            that does not fit `loss(model(*inputs), target)`. A generator function updates parts of
            the model in turn: after each `yield 'critic', loss` the parameters of `model.critic`
            alone are updated, before the function continues.
        metric: A name ('accuracy', 'balanced_accuracy', 'f1', 'auroc', 'average_precision',
            'top5', 'mse', 'mae', 'r2', 'perplexity'); a function (outputs, targets) -> number,
            which is called once on all the validation data; an object with `update`, `compute`
            and `reset`, such as one of torchmetrics; a Metric of sums, or a `mean_metric`. None for
            the loss alone. With `step`, a function (model, batch) -> number, averaged over the
            samples, or a Metric whose `sums` takes these two.
        name: The task's name in reports.
        summary: One line on it.
        defaults: Fields of the recipe that is used if the user gives none.
        maximize: Whether a larger metric is better. None takes the metric's own attribute or infers
            it from the metric's name; tuning by the metric raises an error if neither tells.
        param_groups: A function of the model that returns parameter groups as a torch optimizer
            takes them, for parts with their own weight decay or rate: [{'params': [...],
            'weight_decay': 0.0}, ...]. Their rates ('lr' in every group, or 'lr_mult') stand in
            a fixed proportion, whose largest is the recipe's rate; no schedule changes what a
            group sets itself. Parameters in no group, or in one with a rate of 0, are frozen.
        ref: How to build the same task elsewhere. `etude.tasks.get` and `etude.tasks.load` set
            it; None for a task that was put together in a program. It is no argument: what
            `dataclasses.replace` makes of a task is another task, and has none.
        origin: How another process builds exactly this task, which may have only some rows of the
            data that a reference builds; None where nothing can. It is no argument either.

    Raises:
        TaskError: If the data is empty or its parts do not fit together.
        BadTypeError: If an argument is of the wrong type.

    >>> import torch
    >>> from torch.nn.functional import mse_loss
    >>> x = torch.randn(100, 3)
    >>> task = Task(lambda: nn.Linear(3, 1), (x, x.sum(1, keepdim=True)), loss=mse_loss)
    >>> task.train.samples, task.valid.samples
    (80, 20)
    """

    model: Callable[[], nn.Module] | nn.Module
    train: Any
    valid: Any = 0.2
    loss: Callable[..., Tensor] | None = None
    step: Callable[[nn.Module, Batch], Any] | None = None
    metric: Any = None
    name: str = "task"
    summary: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    maximize: bool | None = None
    param_groups: Callable[[nn.Module], Any] | None = None
    ref: TaskRef | None = field(default=None, init=False)
    origin: TaskOrigin | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise BadTypeError(
                f"model is {kind_of(self.model)}: give a function that builds the "
                "network, or the network"
            )
        if (self.loss is None) == (self.step is None):
            given = "both" if self.loss is not None else "neither"
            raise TaskError(f"a task needs either loss= or step=, and {given} was given")
        for name, part in (
            ("loss", self.loss),
            ("step", self.step),
            ("param_groups", self.param_groups),
        ):
            _check_function(name, part)
        metric = as_metric(self.metric, self.maximize, of_step=self.step is not None)
        train, valid = _split(self.train, self.valid)
        for name, value in (
            ("train", train),
            ("valid", valid),
            ("metric", metric),
            ("defaults", MappingProxyType(dict(self.defaults))),
        ):
            object.__setattr__(self, name, value)

    def build(self) -> nn.Module:
        """Return a new network: built by the model function, or a copy of the given network.

        The weights are drawn from the global random state. The result of a model function is copied
        too, because the function may return the same network every time.
        """
        if isinstance(self.model, nn.Module):
            return copy_model(self.model)
        try:
            network = self.model()
        except Exception as error:
            raise TaskError(f"building the model failed: {error}{where(error)}") from error
        if not isinstance(network, nn.Module):
            raise BadTypeError(
                f"model() returned {kind_of(network)}: it must return a torch.nn.Module"
            )
        return copy_model(network)

    def groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return the parameter groups of a model; None if the task has no `param_groups`.

        Raises:
            TaskError: If `param_groups` fails, or does not fit the model.
        """
        return None if self.param_groups is None else groups_of(self.param_groups, model)

    def on(self, device: torch.device) -> Task:
        """Return the same task with its tensors on a device.

        Those of a loss that is a module, or a `functools.partial` such as of `cross_entropy` and
        the weights of the classes, are moved too; the user's own loss stays where it is.
        """
        train, valid, loss = self.train.to(device), self.valid.to(device), self.loss
        if isinstance(loss, nn.Module) and any(
            _is_away(t, device) for t in (*loss.parameters(), *loss.buffers())
        ):
            loss = copy.deepcopy(loss).to(device)
        elif isinstance(loss, partial) and any(
            isinstance(t, Tensor) and _is_away(t, device)
            for t in (*loss.args, *loss.keywords.values())
        ):
            args = [_moved(value, device) for value in loss.args]
            named = {name: _moved(value, device) for name, value in loss.keywords.items()}
            loss = partial(loss.func, *args, **named)
        if train is self.train and valid is self.valid and loss is self.loss:
            return self
        return replace(self, train=train, valid=valid, loss=loss).known_as(self.ref, self.origin)

    def known_as(self, ref: TaskRef | None, origin: TaskOrigin | None = None) -> Task:
        """Return the same task with the reference that builds it.

        Args:
            ref: The reference.
            origin: How another process builds it; None for all that the reference builds.
        """
        same = copy.copy(self)
        object.__setattr__(same, "ref", ref)
        whole = None if ref is None else TaskOrigin(ref)
        object.__setattr__(same, "origin", origin or whole)
        return same

    @property
    def alternates(self) -> bool:
        """Whether `step` yields, so that parts of the model are updated in turn."""
        return self.step is not None and takes_turns(self.step)

    def check(self, model: nn.Module, batch: Batch) -> tuple[Tensor, list[str]]:
        """Compute the loss of one batch before training, and raise where torch would only warn.

        Returns:
            The loss, and the parts for which `step` yielded a loss.

        Raises:
            TaskError: If `forward` fails; if the loss would broadcast an output against targets of
                another shape; if the loss depends on no trainable parameter; or if the loss yielded
                for a part depends on none of its parameters.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            if self.alternates:
                seen = []
                for part, turn in self.turns(model, batch):
                    check_reach(model, part, turn.mean)
                    seen.append((part, turn.mean.detach()))
                return torch.stack([loss for _, loss in seen]).sum(), [part for part, _ in seen]
            loss, _, _ = self.forward(model, batch)
        if not loss.requires_grad:
            raise TaskError(
                "the loss depends on no trainable parameter: check requires_grad, detach() and "
                "torch.no_grad() in the model and the loss"
            )
        return loss, []

    def turns(
        self, model: nn.Module, batch: Batch
    ) -> Generator[tuple[str, WeightedLoss], None, None]:
        """Yield the pairs (part, loss) of a `step` that yields.

        Raises:
            TaskError: If the step fails, yields anything else, or yields nothing.
        """
        assert self.step is not None
        for part, loss in turns(self.step, model, batch, describe(batch)):
            yield part, as_loss(loss, "step", "yield")

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any, Any]:
        """Return (loss, output, target) of one batch; output and target are None with `step`.

        The loss of a step that yields is the sum of the yielded losses; no update happens between.

        Raises:
            TaskError: If the model, the loss or the step fails on the batch, or the loss is not
                a scalar.
        """
        loss, output, target = self.weighed(model, batch, watch=False)
        return loss.mean, output, target

    def weighed(
        self, model: nn.Module, batch: Batch, *, watch: bool = True
    ) -> tuple[WeightedLoss, Any, Any]:
        """Return (loss, output, target) like `forward`, the loss together with its weight.

        Args:
            model: The network.
            batch: The batch to compute the loss of.
            watch: Whether to find the weight of a loss that returns a scalar, which takes a few
                microseconds for each torch function that the loss calls.

        Raises:
            TaskError: If `forward` fails.
        """
        return self._forward(model, batch, _with_weight if watch else _without_weight)

    def _forward(self, model: nn.Module, batch: Batch, call: Call) -> tuple[WeightedLoss, Any, Any]:
        if self.step is not None:
            return self._stepped(self.step, model, batch, call), None, None
        *inputs, target = _inputs(batch)
        try:
            output = model(*inputs)
        except Exception as error:
            raise TaskError(
                f"the model failed on inputs {describe(inputs)}{_layer(error, model)}: "
                f"{error}{where(error)}{_and(input_hint(error, model, inputs))}"
            ) from error
        return self.compare(output, target, call), output, target

    def _stepped(
        self, step: Callable[..., Any], model: nn.Module, batch: Batch, call: Call
    ) -> WeightedLoss:
        if self.alternates:
            total = torch.stack([loss.mean for _, loss in self.turns(model, batch)]).sum()
            return WeightedLoss(total)
        try:
            loss, weight, terms = call(step, model, batch)
        except Exception as error:
            raise TaskError(f"step failed on {describe(batch)}: {error}{where(error)}") from error
        return as_loss(loss, "step", weight=weight, terms=terms)

    def compare(self, output: Any, target: Any, call: Call = _with_weight) -> WeightedLoss:
        """Return the loss of an output, together with its weight.

        Raises:
            TaskError: If the loss fails, or returns neither a scalar nor a pair (sum, weight).
        """
        loss = self.loss
        assert loss is not None
        name = getattr(loss, "__name__", type(loss).__name__)
        try:
            found, weight, terms = call(loss, output, widened(target))
        except Exception as error:
            raise TaskError(
                f"the model's output {describe(output)} does not fit the loss {name} with "
                f"targets {describe(target)}: {error}{where(error)}"
                f"{_and(label_hint(loss, output, widened(target)))}"
            ) from error
        return as_loss(found, name, weight=weight, terms=terms)

    @property
    def metric_name(self) -> str | None:
        """The metric's name, or None if the task has no metric."""
        return None if self.metric is None else str(self.metric.name)


def _is_away(tensor: Tensor, device: torch.device) -> bool:
    own = tensor.device
    return own.type != device.type or device.index not in (None, own.index)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _layer(error: BaseException, model: nn.Module) -> str:
    """Return the layer of a model that failed, as ' in layer NAME (Class)'; empty if unknown."""
    name, layer, _ = failed_layer(error, model) or ("", None, None)
    return f" in layer {name!r} ({type(layer).__name__})" if name else ""


def _and(hint: str) -> str:
    return f"; {hint}" if hint else ""


def _check_function(name: str, part: Any) -> None:
    if isinstance(part, type):
        home = "nn." if part.__module__.startswith("torch.nn.") else ""
        raise BadTypeError(
            f"{name} is the class {part.__name__}: give an instance, {home}{part.__name__}()"
        )
    if part is not None and not callable(part):
        raise BadTypeError(f"{name} is {kind_of(part)}: give a function")


def _split(train: Any, valid: Any) -> tuple[Data, Data]:
    data = as_data(train, "train")
    if valid is None:
        raise TaskError(
            "valid=None: rates are compared on held-out data; give validation data, or the share "
            "of the training data to hold out"
        )
    share = None if hasattr(valid, "__len__") else as_real(valid)
    if share is None:
        return data, as_data(valid, "valid")
    if not 0 < share < 1:
        raise BadValueError(f"valid={valid}: the share to hold out must be between 0 and 1")
    if isinstance(data, IterableData):
        raise TaskError(
            "an IterableDataset cannot be split: give the validation data as valid=, a dataset "
            "that ends"
        )
    if isinstance(data, LoaderData) and (why := data.why_whole()):
        raise TaskError(
            f"the DataLoader cannot be split, since {why}: give the validation data as "
            "valid=DataLoader(...)"
        )
    if not isinstance(data, (IndexedData, LoaderData)):
        raise TaskError(f"{kind_of(data)} cannot be split: give the validation data as valid=")
    return data.split(share)


def _inputs(batch: Batch) -> list[Any]:
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return list(batch)
    what = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else "batch"
    raise TaskError(
        f"a batch is a {what}, but loss= needs (inputs, ..., targets): "
        "give the targets too, or use step=lambda model, batch: ..."
    )


def describe(value: Any) -> str:
    """Return a short description of a batch: shapes and dtypes, never the numbers."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(describe(v) for v in value[:4]) + "]"
    return type(value).__name__


NARROW = frozenset({torch.int8, torch.int16, torch.int32, torch.uint8})
"""Types of whole numbers that torch takes as labels only after they were widened."""


def widened(target: Any) -> Any:
    """Return targets with whole numbers as int64, which is what torch takes as labels.

    >>> widened(torch.zeros(2, dtype=torch.int32)).dtype, widened(torch.zeros(2)).dtype
    (torch.int64, torch.float32)
    """
    if isinstance(target, Tensor):
        return target.long() if target.dtype in NARROW else target
    if not isinstance(target, (Mapping, tuple, list)):
        return target
    if any(tensor.dtype in NARROW for tensor in tensors_of(target)):
        return mapped(target, widened)
    return target


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable scalars in a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
