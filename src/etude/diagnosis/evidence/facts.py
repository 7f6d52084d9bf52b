"""Causes that the loss, its targets, the first inputs and the optimizer prove."""

from __future__ import annotations

import numpy as np

from etude.diagnosis.check.scale import UNEQUAL, Spread
from etude.diagnosis.evidence.measures import (
    batches_differ,
    decay_shares,
    decay_time,
    first_output_size,
    learns_little,
    median_of,
    recent_relative_loss,
    target_order,
    target_scale,
)
from etude.diagnosis.finding import Cause, Finding
from etude.diagnosis.history import History, RunQuantity
from etude.tasks.loss.loss_calls import SQUARES
from etude.tuning.inspection import FAR

IN_A_ROW = 3
"""How many sampled updates in a row must show the same."""

PATIENCE = 300
"""The number of updates after which targets that were not reached are far from the outputs."""

SHORT, PART, MOSTLY = 0.25, 0.3, 0.5
"""The time of a strong decay in runs, and its part of what moves the weights: by itself, and for
adaptive optimizers."""

BETWEEN = 0.5
"""The share of the targets' variance that lies between batches of sorted samples."""


def wrong_output(history: History) -> list[Finding]:
    """Find a loss that is not given what it takes, as `etude check` does.

    A softmax or sigmoid before a loss of logits, an activation that cannot reach the targets,
    outputs and targets that broadcast; in three sampled updates in a row.
    """
    fault = history.output_fault
    if fault is None:
        return []
    step = int(history.steps[0])
    return [
        Finding(Cause(fault.cause), fault.text, step=step, evidence=fault.evidence, fix=fault.fix)
    ]


def unscaled_inputs(history: History) -> list[Finding]:
    """Find inputs of the first layer that are far from a scale of 1.

    The bounds are those of `etude check` (`check.scale`), for the medians of the sampled updates,
    three at least. A first layer that normalises, that is frozen or that reads whole numbers is
    left alone.
    """
    number, spread, why = history.input_layer, _inputs(history), has_unscaled_inputs(history)
    if number is None or spread is None or not why or not learns_little(history):
        return []
    name = history.layers[number].name
    return [
        Finding(
            Cause.UNSCALED_INPUTS,
            f"The inputs of the first layer, {name}, have {why}, far from 1.",
            layer=name,
            step=int(history.steps[0]),
            evidence={
                "mean": spread.mean,
                "deviation": spread.spread,
                "smallest": spread.low,
                "largest": spread.high,
            },
            fix="Bring every feature to mean 0 and standard deviation 1, with the numbers of the "
            "training data.",
        )
    ]


def has_unscaled_inputs(history: History) -> str:
    """Return why the inputs of the first layer are far from a scale of 1; empty if they are not."""
    number, spread = history.input_layer, _inputs(history)
    if number is None or spread is None or history.layers[number].kind == "normalisation":
        return ""
    if not any(p.trainable for p in history.parameters if p.layer == number):
        return ""
    if spread.fault:
        return spread.fault
    if spread.high > UNEQUAL * spread.low and spread.high > FAR:
        return f"features whose standard deviations go from {spread.low:.2g} to {spread.high:.2g}"
    return ""


def _inputs(history: History) -> Spread | None:
    """Return the spread of what the first layer reads; None if it is not known."""
    read = [
        median_of(history.of_run(quantity), least=IN_A_ROW)
        for quantity in (
            RunQuantity.INPUT_MEAN,
            RunQuantity.INPUT_DEVIATION,
            RunQuantity.INPUT_LOW,
            RunQuantity.INPUT_HIGH,
            RunQuantity.INPUT_REACH,
        )
    ]
    return Spread(*read) if np.all(np.isfinite(read)) and read[3] > 0 else None


def unscaled_targets(history: History) -> list[Finding]:
    """Find numbers to learn that are far from the scale of the untrained network's outputs.

    The bounds are those of `etude check` (`check.scale`). Said at the end, or after 300 updates, of
    a run whose loss is above that of the best constant output: an adaptive optimizer reaches large
    targets too, after a while.
    """
    if history.loss_name not in SQUARES or not history.one_loss:
        return []
    mean, deviation, reach = target_scale(history)
    answer = first_output_size(history)
    if not np.all(np.isfinite([mean, deviation, reach, answer])) or deviation == 0:
        return []
    spread = Spread(mean, deviation, deviation, deviation, reach)
    if not spread.fault or spread.answered_by(answer):
        return []
    recent, _ = recent_relative_loss(history)
    if not (history.ended or history.updates >= PATIENCE) or not recent > 1:
        return []
    outputs = [layer.name for layer in history.layers if layer.output]
    return [
        Finding(
            Cause.UNSCALED_TARGETS,
            f"The targets have {spread.fault}, far from the scale of the untrained network's "
            f"outputs, {answer:.2g}.",
            layer=outputs[-1] if outputs else None,
            step=int(history.steps[0]),
            evidence={"mean": mean, "deviation": deviation, "outputs": answer},
            fix="Train on (target - mean) / standard deviation, and undo that in what you report.",
        )
    ]


def data_not_shuffled(history: History) -> list[Finding]:
    """Find batches that hold samples of like targets, as sorted data gives them.

    More than half of the targets' variance lies between the batches (see `target_order`), which
    has eight times the variance that random batches have.
    """
    share = target_order(history)
    count = median_of(history.of_run(RunQuantity.TARGET_COUNT))
    if not history.one_loss or not share > BETWEEN or not share / (1 - share) * count > 8:
        return []
    return [
        Finding(
            Cause.DATA_NOT_SHUFFLED,
            f"The samples of a batch have like targets: {share:.0%} of the targets' variance lies "
            "between the batches, and in random order about none would.",
            step=int(history.steps[0]),
            evidence={"between": share, "batch": count},
            fix="Draw the batches in random order: shuffle=True of a DataLoader.",
        )
    ]


def full_batch_optimizer(history: History) -> list[Finding]:
    """Find Rprop on batches that differ.

    Rprop changes the size of a step by the sign of the product of two gradients. Between two
    batches the sign changes by chance, so that its step sizes follow the noise.
    Source: Riedmiller and Braun 1993, who use the gradient of all samples.
    """
    if "Rprop" not in history.optimizers or not batches_differ(history):
        return []
    return [rprop_finding(int(history.steps[0]))]


def rprop_finding(step: int | None) -> Finding:
    """Return the finding of Rprop on batches that differ."""
    return Finding(
        Cause.OPTIMIZER_MISMATCH,
        "Rprop compares the signs of consecutive gradients, but each update has another batch, so "
        "that signs change by chance.",
        step=step,
        evidence={"optimizer": "Rprop"},
        fix="Use Adam or RMSprop, or all samples in every update.",
    )


def decay_too_strong(history: History) -> list[Finding]:
    """Find a weight decay that outweighs the loss, where little is learned.

    The decay alone would shrink the weights by e⁴ or more within the run (see `decay_time`), and
    makes up a third of what moves a layer's weights (see `decay_shares`). An adaptive optimizer to
    whose gradient the decay is added, such as Adam, divides by the size of both, so that the rate
    says nothing: there, it must be larger than the loss's gradient in half of the layers. In both
    cases the loss is above 80% of that of the best constant output. A decay of up to 0.01, or 0.1
    where it is decoupled as in AdamW, is not named: with it the rate is at fault.
    """
    if not any(p.decay > (0.1 if p.decoupled else 0.01) for p in history.parameters):
        return []
    shares = decay_shares(history)
    known = shares[np.isfinite(shares)]
    if not len(known) or not learns_little(history):
        return []
    added = history.adaptive and not any(p.decoupled for p in history.parameters)
    if added and not np.median(known) >= MOSTLY:
        return []
    if not added and not (decay_time(history) < SHORT and known.max() >= PART):
        return []
    number = int(np.nanargmax(shares))
    share = float(shares[number])
    decay = max(p.decay for p in history.parameters)
    return [
        Finding(
            Cause.TOO_MUCH_REGULARISATION,
            f"A weight decay of {decay:.3g} makes up {share:.0%} of what moves the weights of "
            f"{history.layers[number].name}, and little is learned.",
            step=int(history.steps[-1]),
            evidence={"decay": decay, "share": share},
            fix="Take a weight decay of 1e-4 to 1e-2 with SGD, and up to 0.1 with AdamW.",
        )
    ]


def batch_norm_of_two(history: History) -> list[Finding]:
    """Find a batch normalisation over one or two samples.

    Mean and variance of two values tell only which of the two is larger; over places of a picture
    too, all values of two samples are taken for the whole data. Optimizers that play a game are
    left out: networks that make pictures are trained on single ones, and then normalise each.
    Source: Wu and He 2018 (arXiv:1803.08494), whose error rises by 11 points with batches of two.
    """
    count = history.of_run(RunQuantity.NORMALISED_SAMPLES)
    known = count[np.isfinite(count)]
    if not history.one_loss or len(known) < IN_A_ROW or not np.all(known[-IN_A_ROW:] <= 2):
        return []
    return [batch_norm_finding(int(known[-1]), int(history.steps[0]))]


def batch_norm_finding(samples: int, step: int | None) -> Finding:
    """Return the finding of a batch normalisation over one or two samples."""
    return Finding(
        Cause.BATCH_TOO_SMALL,
        f"Batch normalisation takes mean and variance of {samples} "
        f"{'samples' if samples > 1 else 'sample'}, which say little about the others.",
        step=step,
        evidence={"samples": float(samples)},
        fix="Use batches of 16 samples or more, or a normalisation within each sample, such as "
        "GroupNorm or LayerNorm.",
    )
