"""The table of named tasks: one frozen row each, which loads its parts only when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.errors import unknown_name
from etude.tasks.blueprint import Blueprint
from etude.tasks.references.ref import TaskRef

if TYPE_CHECKING:
    from etude.tasks.task import Task

ADAMW: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "schedule": "warmup('5%') >> cosine()",
}
"""The usual choice for small networks: torch's own rate, a short warmup and a cosine."""

SGD: Mapping[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.9},
    "lr": 0.01,
    "schedule": "warmup('5%') >> cosine()",
}
"""Stochastic gradient descent with momentum at the rate that textbooks start from."""

RESNET: Mapping[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
    "lr": 0.1,
    "schedule": "warmup('5%') >> cosine()",
}
"""The rate, momentum and weight decay of He et al. 2015."""

CROSS_ENTROPY = ("torch.nn.functional:cross_entropy", "accuracy")
SQUARES = ("torch.nn.functional:mse_loss", "r2")
SYMBOLS = ("etude.tasks.loss.losses:symbol_cross_entropy", "perplexity")


@dataclass(frozen=True, eq=False)
class TaskRow:
    """One named task.

    Attributes:
        name: The task's name on the command line.
        summary: One line on it.
        data: The name of its data source.
        family: The family of its network.
        factory: Builds the task; `factory.options()` returns its options and their defaults.
    """

    name: str
    summary: str
    data: str
    family: str
    factory: Blueprint


def _row(
    name: str,
    summary: str,
    *,
    source: str,
    model: str,
    goal: tuple[str, str],
    recipe: Mapping[str, Any],
    steps: int | str,
    batch_size: int,
    **preset: Any,
) -> TaskRow:
    loss, metric = goal
    defaults = {**recipe, "steps": steps, "batch_size": batch_size}
    blueprint = Blueprint(
        name=name,
        summary=summary,
        data=f"etude.tasks.{source}",
        model=f"etude.tasks.models:{model}",
        loss=loss,
        metric=metric,
        defaults=defaults,
        preset=preset,
    )
    data, _, _ = name.partition("-")
    return TaskRow(name=name, summary=summary, data=data, family=model, factory=blueprint)


_DIGITS = (
    _row(
        "digits-mlp",
        "8×8 digits, two hidden layers",
        source="bundled.digits:images",
        model="mlp",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=3_000,
        batch_size=64,
    ),
    _row(
        "digits-deep-mlp",
        "8×8 digits, eight narrow hidden layers without shortcuts",
        source="bundled.digits:images",
        model="mlp",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=2_000,
        batch_size=64,
        depth=8,
        width=64,
    ),
    _row(
        "digits-cnn",
        "8×8 digits, two convolutions and a full layer",
        source="bundled.digits:images",
        model="cnn",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=1_200,
        batch_size=64,
    ),
    _row(
        "digits-resnet",
        "8×8 digits, a residual network of two blocks",
        source="bundled.digits:images",
        model="resnet",
        goal=CROSS_ENTROPY,
        recipe=RESNET,
        steps=600,
        batch_size=64,
        stages=2,
    ),
    _row(
        "digits-rnn",
        "8×8 digits read row by row, a plain recurrent network",
        source="bundled.digits:rows",
        model="rnn",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=2_000,
        batch_size=64,
    ),
    _row(
        "digits-lstm",
        "8×8 digits read row by row, LSTM",
        source="bundled.digits:rows",
        model="lstm",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=2_000,
        batch_size=64,
    ),
    _row(
        "digits-gru",
        "8×8 digits read row by row, GRU",
        source="bundled.digits:rows",
        model="gru",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=1_500,
        batch_size=64,
    ),
    _row(
        "digits-transformer",
        "8×8 digits, eight rows that attend to each other",
        source="bundled.digits:rows",
        model="transformer",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=600,
        batch_size=64,
    ),
    _row(
        "digits-autoencoder",
        "8×8 digits through a code of eight numbers and back",
        source="bundled.digits:copies",
        model="autoencoder",
        goal=SQUARES,
        recipe=ADAMW,
        steps=3_000,
        batch_size=64,
    ),
    _row(
        "digits-vqa",
        "8×8 digits and a question in words: convolutions, GRU and their product",
        source="bundled.questions:about_digits",
        model="vqa",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=600,
        batch_size=64,
    ),
)

_TABULAR = (
    _row(
        "cancer-mlp",
        "Breast cancer: malignant or benign from 30 measurements",
        source="bundled.tabular:cancer",
        model="mlp",
        goal=CROSS_ENTROPY,
        recipe=SGD,
        steps=500,
        batch_size=32,
        width=32,
    ),
    _row(
        "diabetes-mlp",
        "Diabetes: its progression in a year from ten measurements",
        source="bundled.tabular:diabetes",
        model="mlp",
        goal=SQUARES,
        recipe=SGD,
        steps=300,
        batch_size=32,
        width=32,
    ),
)

_PATCHES = (
    _row(
        "patches-cnn",
        "Patches of two photographs: which picture, which height; convolutions",
        source="bundled.patches:origin",
        model="cnn",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=800,
        batch_size=64,
    ),
    _row(
        "patches-resnet",
        "Patches of two photographs: which picture, which height; residual network",
        source="bundled.patches:origin",
        model="resnet",
        goal=CROSS_ENTROPY,
        recipe=RESNET,
        steps=500,
        batch_size=64,
        stages=2,
    ),
    _row(
        "patches-cnn-lstm",
        "Rows of patches, one after another: which picture, which height; CNN and LSTM",
        source="bundled.patches:rows",
        model="cnn_lstm",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps=400,
        batch_size=64,
    ),
)

_TEXT = (
    _row(
        "text-lstm",
        "The next character of Python's own source, LSTM",
        source="bundled.text:characters",
        model="lstm",
        goal=SYMBOLS,
        recipe=ADAMW,
        steps=400,
        batch_size=32,
        width=128,
    ),
    _row(
        "text-gru",
        "The next character of Python's own source, GRU",
        source="bundled.text:characters",
        model="gru",
        goal=SYMBOLS,
        recipe=ADAMW,
        steps=300,
        batch_size=32,
        width=128,
    ),
    _row(
        "text-transformer",
        "The next character of Python's own source, causal transformer",
        source="bundled.text:characters",
        model="transformer",
        goal=SYMBOLS,
        recipe=ADAMW,
        steps=300,
        batch_size=32,
    ),
)

_HUB = (
    _row(
        "mnist-mlp",
        "28×28 digits, two hidden layers",
        source="images.hub:mnist",
        model="mlp",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps="5 epochs",
        batch_size=128,
        width=256,
    ),
    _row(
        "mnist-cnn",
        "28×28 digits, two convolutions and a full layer",
        source="images.hub:mnist",
        model="cnn",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps="5 epochs",
        batch_size=128,
        width=32,
    ),
    _row(
        "cifar10-cnn",
        "Photographs in ten classes, three convolutions and a full layer",
        source="images.hub:cifar10",
        model="cnn",
        goal=CROSS_ENTROPY,
        recipe=ADAMW,
        steps="20 epochs",
        batch_size=128,
        depth=3,
        width=32,
        hidden=128,
    ),
    _row(
        "cifar10-resnet",
        "Photographs in ten classes, ResNet-20",
        source="images.hub:cifar10",
        model="resnet",
        goal=CROSS_ENTROPY,
        recipe=RESNET,
        steps="60 epochs",
        batch_size=128,
        depth=3,
    ),
    _row(
        "imagenet-resnet",
        "Photographs in 1,000 classes, ResNet-18",
        source="images.hub:imagenet",
        model="resnet",
        goal=CROSS_ENTROPY,
        recipe=RESNET,
        steps="90 epochs",
        batch_size=256,
        depth=2,
        width=64,
        stages=4,
        stem="large",
    ),
)

_ROWS = {row.name: row for row in _DIGITS + _TABULAR + _PATCHES + _TEXT + _HUB}


def rows() -> tuple[TaskRow, ...]:
    """Return the rows of the table, bundled data first.

    >>> rows()[0].name
    'digits-mlp'
    """
    return tuple(_ROWS.values())


def get(name: str, /, **options: Any) -> Task:
    """Build the bundled task called `name`.

    Args:
        name: A name in the table.
        options: Options of the task's data or model; `row.factory.options()` lists them.

    Raises:
        UnknownNameError: If the name, or an option, is unknown.
        BadValueError: If an option's value is out of bounds.
        TaskError: If the data cannot be fetched or read.

    >>> task = get("digits-mlp", width=32)
    >>> sum(p.numel() for p in task.build().parameters())
    3466
    """
    if name not in _ROWS:
        raise unknown_name("task", name, _ROWS)
    return _ROWS[name].factory(**options).known_as(TaskRef.told(name, options))


def is_bundled(ref: TaskRef) -> bool:
    """Return whether a reference names a task of the table: those come with Etude.

    >>> is_bundled(TaskRef("digits-mlp")), is_bundled(TaskRef("digits.py:mlp"))
    (True, False)
    """
    return ref.reference in _ROWS
