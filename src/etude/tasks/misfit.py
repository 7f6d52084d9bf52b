"""Says what inputs or targets a model or a loss cannot take, from their shapes and types alone."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from etude.tasks.sources.nested import tensors_of

LABELLED = (functional.cross_entropy, functional.nll_loss)
"""The losses whose targets are class numbers."""


def failed_layer(error: BaseException, model: nn.Module) -> tuple[str, nn.Module, Any] | None:
    """Return the name, the module and the input of the layer in which a model failed.

    The input is None where the layer's call does not name it. None is returned if the error arose
    in no layer of the model.
    """
    modules = {id(module): (name, module) for name, module in model.named_modules()}
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if id(module) in modules:
            name, layer = modules[id(module)]
            found = (name, layer, frame.f_locals.get("input", frame.f_locals.get("x")))
    return found


def input_hint(error: BaseException, model: nn.Module, inputs: list[Any]) -> str:
    """Return why a model cannot take its inputs, and the fix; empty if shapes and types do not say.

    Args:
        error: What the model raised.
        model: The network.
        inputs: What it was called with.

    >>> model, x = nn.Sequential(nn.Linear(5, 2)), torch.zeros(8, 4)
    >>> def hint(model, x):
    ...     try:
    ...         model(x)
    ...     except RuntimeError as error:
    ...         return input_hint(error, model, [x])
    >>> hint(model, x)
    "the layer '0' (Linear) reads 5 features, its input has 4: give it nn.Linear(4, 2)"
    >>> hint(nn.Linear(4, 2), x.double())
    'the inputs are float64, the weights float32: give x.float()'
    """
    name, layer, given = failed_layer(error, model) or ("", None, None)
    place = f"the layer {name!r}" if name else "the model"
    if isinstance(layer, nn.Linear) and isinstance(given, Tensor) and given.ndim:
        width = given.shape[-1]
        if width != layer.in_features:
            return (
                f"{place} (Linear) reads {layer.in_features} features, its input has {width}: "
                f"give it nn.Linear({width}, {layer.out_features})"
            )
    if isinstance(layer, nn.Embedding) and isinstance(given, Tensor):
        if given.is_floating_point():
            return (
                f"{place} (Embedding) reads whole numbers, its input is {_name(given.dtype)}: "
                "give x.long()"
            )
        return ""
    return _types(model, inputs) if "type" in str(error) else ""


def _types(model: nn.Module, inputs: list[Any]) -> str:
    """Return that inputs and weights are of different types; empty if they are not.

    Whole numbers are what an embedding reads, so they are no mistake in a model that has one.
    """
    weights = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {t.dtype for one in inputs for t in tensors_of(one) if not t.is_complex()}
    if len(weights) != 1 or len(given) != 1 or weights == given:
        return ""
    (held,), (seen,) = weights, given
    embeds = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
    if embeds and not seen.is_floating_point:
        return ""
    told = f"the inputs are {_name(seen)}, the weights {_name(held)}: "
    if held is torch.float32:
        return f"{told}give x.float()"
    if held in (torch.float16, torch.bfloat16):
        return (
            f"{told}leave the model in float32, model.float(), and give precision={_name(held)!r} "
            "in the recipe"
        )
    return f"{told}give model.float()" + ("" if seen is torch.float32 else " and x.float()")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def label_hint(loss: Any, output: Any, target: Any) -> str:
    """Return why a loss of class numbers cannot take its targets, and the fix; empty if unknown.

    Args:
        loss: The loss.
        output: What the model gave.
        target: The targets.

    >>> label_hint(nn.CrossEntropyLoss(), torch.zeros(3, 2), torch.tensor([0, 1, 6]))
    'labels go to 6, the model has 2 outputs: labels are 0 to 1'
    >>> label_hint(nn.CrossEntropyLoss(), torch.zeros(3, 2), torch.zeros(3))
    'the labels are float32, and class numbers are whole numbers: give y.long()'
    """
    of_classes = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
    of_classes = of_classes or any(loss is one for one in LABELLED)
    if not (of_classes and isinstance(output, Tensor) and isinstance(target, Tensor)):
        return ""
    if target.is_floating_point():
        if target.ndim != output.ndim - 1:
            return ""
        return (
            f"the labels are {_name(target.dtype)}, and class numbers are whole numbers: give "
            "y.long()"
        )
    # After a failed assertion on a GPU, nothing can be read from its memory.
    if target.device.type != "cpu" or not output.ndim or target.dtype is torch.bool:
        return ""
    classes = output.shape[1 if output.ndim > 1 else 0]
    return labels_out_of_bounds(target, classes, getattr(loss, "ignore_index", -100))


def labels_out_of_bounds(labels: Tensor, classes: int, ignored: int) -> str:
    """Return what is wrong with class numbers; empty if nothing is.

    >>> labels_out_of_bounds(torch.tensor([-100, 0, 2]), 3, -100)
    ''
    >>> labels_out_of_bounds(torch.tensor([-1, 0, 2]), 3, -100)
    'the lowest label is -1, the model has 3 outputs: labels are 0 to 2'
    """
    answered = labels[labels != ignored]
    if not answered.numel():
        return ""
    low, high = int(answered.min()), int(answered.max())
    if low >= 0 and high < classes:
        return ""
    end = f"labels go to {high}" if high >= classes else f"the lowest label is {low}"
    return f"{end}, the model has {classes} outputs: labels are 0 to {classes - 1}"
