"""The remedies, and which of them each cause calls for, the cheapest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import nn

from etude.diagnosis.finding import Cause
from etude.diagnosis.remedies import edits
from etude.diagnosis.remedies.remedy import Remedy
from etude.diagnosis.rewrites import (
    Rewrite,
    add_residuals,
    drop_output_function,
    fresh_weights,
    insert_normalisation,
    scale_outputs,
    standardise_inputs,
    swap_activations,
    train_frozen,
)
from etude.tasks.task import Task


def _inputs(task: Task, model: nn.Module) -> Rewrite:
    return standardise_inputs(task, model)


def _targets(task: Task, model: nn.Module) -> Rewrite:
    return scale_outputs(task)


def _anew(task: Task, model: nn.Module) -> Rewrite:
    return fresh_weights(model)


def _scaled_residuals(task: Task, model: nn.Module) -> Rewrite:
    return add_residuals(task, model, scaled=True)


def _unfrozen(task: Task, model: nn.Module) -> Rewrite:
    return train_frozen(model)


ALL = (
    Remedy(
        "usual rate", "Use the rate that is usual for this optimizer and size", edits.usual_rate
    ),
    Remedy("rate / 3", "Divide the learning rate by 3", edits.rate_times(1 / 3)),
    Remedy("rate / 10", "Divide the learning rate by 10", edits.rate_times(1 / 10)),
    Remedy("rate / 100", "Divide the learning rate by 100", edits.rate_times(1 / 100)),
    Remedy("rate x 3", "Multiply the learning rate by 3", edits.rate_times(3)),
    Remedy("rate x 10", "Multiply the learning rate by 10", edits.rate_times(10)),
    Remedy("rate x 100", "Multiply the learning rate by 100", edits.rate_times(100)),
    Remedy("warmup", "Warm the rate up over the first tenth of the run", edits.warm_up(10)),
    Remedy("long warmup", "Warm the rate up over three tenths of the run", edits.warm_up(30)),
    Remedy("clip 90%", "Clip the gradient's norm at its 90th percentile", edits.clip),
    Remedy("clip 1", "Clip the gradient's norm at 1", edits.clip_to_one),
    Remedy("zclip", "Clip the gradient's norm by its z-score (ZClip)", edits.at_spikes("zclip")),
    Remedy(
        "skip spikes",
        "Leave out steps whose loss or gradient norm is 6 sigma above those before",
        edits.at_spikes("skip"),
    ),
    Remedy(
        "rewind at spikes",
        "Go back 100 updates at a spike of the loss, and leave out the batches in between",
        edits.at_spikes("rewind"),
    ),
    Remedy(
        "he_normal",
        "Initialise with variance 2 / fan_in (He et al.)",
        edits.initialise_by("he_normal"),
    ),
    Remedy(
        "xavier_normal",
        "Initialise with variance 2 / (fan_in + fan_out) (Glorot and Bengio)",
        edits.initialise_by("xavier_normal"),
    ),
    Remedy(
        "lsuv",
        "Scale each layer so that its outputs have variance 1 (LSUV)",
        edits.initialise_by("lsuv"),
    ),
    Remedy("fresh weights", "Draw the weights as the layers themselves do", rewrites=(_anew,)),
    Remedy("all trained", "Train the frozen parameters too", rewrites=(_unfrozen,)),
    Remedy(
        "all trained + fresh weights",
        "Train the frozen parameters too, and draw the weights as the layers themselves do",
        rewrites=(_unfrozen, _anew),
    ),
    Remedy("relu", "Replace saturating activations by ReLU", rewrites=(swap_activations,)),
    Remedy(
        "relu + he_normal",
        "Replace saturating activations by ReLU, and initialise with variance 2 / fan_in",
        edits.initialise_by("he_normal"),
        (swap_activations,),
    ),
    Remedy(
        "normalisation",
        "Normalise the inputs of the activations",
        rewrites=(insert_normalisation,),
    ),
    Remedy(
        "relu + normalisation",
        "Replace saturating activations by ReLU, and normalise their inputs",
        rewrites=(swap_activations, insert_normalisation),
    ),
    Remedy("residual", "Add residual connections", rewrites=(add_residuals,)),
    Remedy(
        "scaled residual",
        "Add residual connections around blocks scaled by their number",
        rewrites=(_scaled_residuals,),
    ),
    Remedy(
        "normalisation + residual",
        "Normalise the inputs of the activations, and add residual connections",
        rewrites=(insert_normalisation, add_residuals),
    ),
    Remedy("inputs standardised", "Standardise the inputs", rewrites=(_inputs,)),
    Remedy("targets standardised", "Standardise the targets", rewrites=(_targets,)),
    Remedy(
        "inputs and targets standardised",
        "Standardise the inputs and the targets",
        rewrites=(_inputs, _targets),
    ),
    Remedy(
        "no output function",
        "Remove the function at the model's output",
        rewrites=(drop_output_function,),
    ),
    Remedy("batch x 4", "Use batches four times as large", edits.batches_times(4)),
    Remedy("batch x 16", "Use batches sixteen times as large", edits.batches_times(16)),
    Remedy("batch / 4", "Use batches a quarter as large", edits.batches_times(1 / 4)),
    Remedy("batch / 16", "Use batches a sixteenth as large", edits.batches_times(1 / 16)),
    Remedy("early stopping", "Keep the best weights (early stopping)", edits.stop_early),
    Remedy("more weight decay", "Raise the weight decay", edits.regularise),
    Remedy("label smoothing", "Smooth the labels by 0.1", edits.smooth_labels),
    Remedy(
        "less regularisation",
        "Remove weight decay, penalties and dropout",
        edits.regularise_less,
    ),
    Remedy("adamw", "Use AdamW at its usual rate", edits.optimise_with("adamw")),
    Remedy(
        "sgd",
        "Use SGD with momentum 0.9 at its usual rate",
        edits.optimise_with("sgd", momentum=0.9),
    ),
)

REMEDIES: Mapping[str, Remedy] = MappingProxyType({remedy.name: remedy for remedy in ALL})
"""Every remedy, by name."""

OF_CAUSE: Mapping[Cause, Sequence[str]] = MappingProxyType(
    {
        Cause.LR_TOO_HIGH: ("rate / 3", "rate / 10", "usual rate", "warmup", "rate / 100"),
        Cause.LR_TOO_LOW: ("usual rate", "rate x 10", "rate x 3", "rate x 100"),
        Cause.WARMUP_MISSING: (
            "warmup",
            "rate / 3",
            "long warmup",
            "clip 90%",
            "rate / 10",
            "clip 1",
        ),
        Cause.MISSING_CLIPPING: (
            "clip 90%",
            "clip 1",
            "rate / 3",
            "rate / 10",
            "warmup",
            "zclip",
            "skip spikes",
            "rewind at spikes",
        ),
        Cause.BAD_INITIALISATION: (
            "fresh weights",
            "he_normal",
            "xavier_normal",
            "lsuv",
            "normalisation",
        ),
        Cause.MISSING_NORMALISATION: (
            "normalisation",
            "lsuv",
            "normalisation + residual",
            "he_normal",
            "rate / 3",
        ),
        Cause.SATURATING_ACTIVATION: (
            "xavier_normal",
            "normalisation",
            "relu",
            "relu + he_normal",
            "relu + normalisation",
            "fresh weights",
            "lsuv",
        ),
        Cause.MISSING_RESIDUAL: (
            "residual",
            "normalisation",
            "normalisation + residual",
            "scaled residual",
        ),
        Cause.UNSCALED_INPUTS: (
            "inputs standardised",
            "inputs and targets standardised",
            "rate / 10",
        ),
        Cause.UNSCALED_TARGETS: (
            "targets standardised",
            "inputs and targets standardised",
            "rate x 10",
        ),
        Cause.PARAMETERS_NOT_TRAINED: ("all trained", "all trained + fresh weights"),
        Cause.WRONG_LOSS_OR_OUTPUT: ("no output function",),
        Cause.WRONG_LAST_LAYER: ("no output function",),
        Cause.BATCH_TOO_SMALL: ("batch x 4", "rate / 3", "clip 90%", "rate / 10", "batch x 16"),
        Cause.BATCH_TOO_LARGE: ("batch / 4", "rate x 3", "batch / 16", "rate x 10"),
        Cause.TOO_MUCH_REGULARISATION: ("less regularisation",),
        Cause.TOO_LITTLE_REGULARISATION: (
            "early stopping",
            "more weight decay",
            "label smoothing",
            "rate / 10",
        ),
        Cause.OPTIMIZER_MISMATCH: ("adamw", "sgd", "usual rate", "rate x 10"),
    }
)
"""The remedies of each cause that a recipe or a rewrite can mend, the cheapest first.

The order is that of the tuning playbook: rate, warmup, clipping, then initialisation,
normalisation, activation, residual connections. Faults of the loop and of the data have none: only
their author can mend them.
"""


def remedies_for(causes: Sequence[Cause], possible: Sequence[Cause] = ()) -> tuple[Remedy, ...]:
    """Return the remedies of some causes: the first of each, then the second of each, and so on.

    Args:
        causes: The causes, the most likely first.
        possible: Causes that are only possible; their remedies follow.

    >>> [remedy.name for remedy in remedies_for([Cause.LR_TOO_LOW, Cause.BAD_INITIALISATION])][:3]
    ['usual rate', 'fresh weights', 'rate x 10']
    """
    names = [*_in_turn(causes), *_in_turn(possible)]
    return tuple(REMEDIES[name] for name in dict.fromkeys(names))


def _in_turn(causes: Sequence[Cause]) -> list[str]:
    lists = [OF_CAUSE.get(cause, ()) for cause in causes]
    longest = max(map(len, lists), default=0)
    return [names[i] for i in range(longest) for names in lists if i < len(names)]
