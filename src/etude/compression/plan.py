"""What is done to one network: which weights go, which layers become int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from etude.compression import int8_layers, linear_int8
from etude.compression.derived import compressible, left_out, owners
from etude.compression.linear_int8 import Int8Mode
from etude.compression.masks import magnitude_masks, mask, unmask
from etude.compression.measuring import CPU, caller, first_batches, measured, model_inputs
from etude.compression.method import CompressionMethod
from etude.compression.source import TrainedNetwork
from etude.compression.structured import Sizes, remove_channels
from etude.errors import BadValueError
from etude.model_copy import copy_model
from etude.tasks.sources.data import Cursor
from etude.training.clock import batch_size_of
from etude.training.evaluation.evaluate import move

CALIBRATION = 16
"""Training batches on which the range of a layer's inputs is measured."""


@dataclass
class CompressionPlan:
    """What is done to one network.

    Attributes:
        method: What was asked for.
        masks: The weights that stay, by the parameter's name.
        sizes: The layers that are smaller.
        linear: The layers that torchao makes int8.
        weights: The layers with int8 weights of Etude's own.
        scales: Of the inputs of layers, for 'static'.
        treatments: What is done to each layer, in words.
        notes: What else to know, as sentences.
    """

    method: CompressionMethod
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=dict)
    linear: Collection[str] = ()
    weights: Collection[str] = ()
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    treatments: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def planned(found: TrainedNetwork, method: CompressionMethod) -> tuple[CompressionPlan, nn.Module]:
    """Return what is done, and the network as fine-tuning begins with it."""
    model = copy_model(found.model)
    if method.prune is not None:
        masks = magnitude_masks(model, method.prune, method.scope)
        mask(model, masks)
        known = (names for names in owners(model).values() if names[0] in masks)
        layers = (name.rpartition(".")[0] for names in known for name in names)
        treatments = dict.fromkeys(layers, "pruned")
        plan = CompressionPlan(
            method, masks, treatments=treatments, notes=_left(found.model, "pruned")
        )
        return plan, model
    if method.structured is not None:
        batch = first_batches(found.task, batch_size_of(found.task, found.recipe), 1, train=False)
        removal = remove_channels(model, method.structured, model_inputs(found.task, batch[0]))
        mask(model, removal.masks)
        treatments = {
            name: "channels removed" if any(one.startswith("out_") for one in changes)
            else "inputs removed"
            for name, changes in removal.sizes.items()
        }  # fmt: skip
        treatments |= {name: f"masked: {why}" for name, why in removal.reasons.items()}
        plan = CompressionPlan(
            method, removal.masks, removal.sizes, treatments=treatments, notes=removal.notes
        )
        return plan, model
    plan = _int8_plan(found, method)
    if method.int8 == Int8Mode.QAT:
        int8_layers.fake_quantise(model, plan.weights)
        linear_int8.train_rounded(model, plan.linear)
    return plan, model


def _int8_plan(found: TrainedNetwork, method: CompressionMethod) -> CompressionPlan:
    model = found.model
    shared = int8_layers.shared_elsewhere(model)
    tied = set(int8_layers.tied_layers(model))
    kinds = {name: type(layer) for name, layer in compressible(model) if name not in shared}
    if not kinds:
        raise BadValueError(
            "the model has no layer that can be int8: linear, convolutional, recurrent and "
            "embedding layers of torch can"
        )
    linear = [name for name, kind in kinds.items() if kind is nn.Linear and name not in tied]
    own = [name for name in kinds if name not in linear]
    treatments = dict.fromkeys(linear, "int8 weights and inputs, by torchao")
    treatments |= dict.fromkeys(own, "int8 weights")
    notes = list(_left(model, "int8"))
    both = [name for name in own if kinds[name] is nn.Linear]
    if both:
        notes.append(
            f"Layers that share their weights ({', '.join(sorted(tied - shared))}) keep one int8 "
            "tensor, and are computed in floating point."
        )
    scales: Mapping[str, Tensor] = {}
    if method.int8 == Int8Mode.STATIC:
        scales = _input_scales(found, linear)
        notes += [
            f"The inputs of {name} were not measured (it is not called, or with inputs of "
            "different shapes): its range is that of each row, as with 'dynamic'."
            for name in linear
            if name not in scales
        ]
    return CompressionPlan(
        method,
        linear=linear,
        weights=own,
        scales=scales,
        treatments=treatments,
        notes=tuple(notes),
    )


def _input_scales(found: TrainedNetwork, names: Collection[str]) -> dict[str, Tensor]:
    task, recipe = found.task, found.recipe
    with task.train.untouched(), measured(found.model):
        stream = task.train.stream(batch_size_of(task, recipe), recipe.seed, Cursor())
        batches = [move(next(stream), CPU) for _ in range(CALIBRATION)]
        return linear_int8.input_scales(found.model, names, batches, caller(task))


def _left(model: nn.Module, what: str) -> tuple[str, ...]:
    names = left_out(model)
    if not names:
        return ()
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"Not {what}: {shown}. These weights belong to modules of other classes than torch's "
        "linear, convolutional, recurrent and embedding layers, or are shared with one.",
    )


def finished(plan: CompressionPlan, model: nn.Module) -> nn.Module:
    """Return a network as it is saved: without masks and rounding, int8 where that was asked."""
    mode = plan.method.int8
    if mode == Int8Mode.QAT:
        linear_int8.forget_ranges(model)
    model = copy_model(model).cpu().eval()
    unmask(model)
    if mode is None:
        return model
    int8_layers.unfake(model)
    if mode == Int8Mode.QAT:
        linear_int8.end_rounding(model)
    linear_int8.quantise(model, plan.linear, mode, plan.scales)
    int8_layers.to_int8(model, plan.weights)
    return model
