"""`History`: the readings of a run, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


class Quantity(StrEnum):
    """What is read of each layer at a sampled update."""

    GRADIENT_NORM = "gradient_norm"
    WEIGHT_NORM = "weight_norm"
    UPDATE_RATIO = "update_ratio"
    UPDATE_COSINE = "update_cosine"
    GRADIENT_SNR = "gradient_snr"
    ACTIVATION_MEAN = "activation_mean"
    ACTIVATION_VARIANCE = "activation_variance"
    DEAD = "dead"
    SATURATED = "saturated"
    GATES_SATURATED = "gates_saturated"
    WEIGHTS_OVER_USUAL = "weights_over_usual"


class RunQuantity(StrEnum):
    """What is read of the whole run at a sampled update."""

    GRADIENT_NORM = "gradient_norm"
    CLIPPED = "clipped"
    TRAINING_MODE = "training_mode"
    UNCLEARED = "uncleared"
    CLEARED_EARLY = "cleared_early"
    OUTPUT_SPREAD = "output_spread"
    CRITICAL_SHARPNESS = "critical_sharpness"
    RATE_OVER_CRITICAL = "rate_over_critical"
    NOISE_OVER_BATCH = "noise_over_batch"
    INPUT_MEAN = "input_mean"
    INPUT_DEVIATION = "input_deviation"
    INPUT_LOW = "input_low"
    INPUT_HIGH = "input_high"
    INPUT_REACH = "input_reach"
    HEAD_SPREAD = "head_spread"
    NORMALISED_SAMPLES = "normalised_samples"
    OUTPUT_SIZE = "output_size"
    TARGET_COUNT = "target_count"
    TARGET_WITHIN = "target_within"
    TARGET_REACH = "target_reach"
    PLAIN_LOSS = "plain_loss"


class OutputFault(NamedTuple):
    """What is wrong with what a loss is given: the parts of a `Finding`.

    Attributes:
        cause: The name of the cause.
        text: What was seen.
        evidence: Its numbers and names.
        fix: What to do.
    """

    cause: str
    text: str
    evidence: Mapping[str, float | str]
    fix: str


class LargestSample(NamedTuple):
    """The largest loss of a batch.

    Attributes:
        update: The update.
        share: Its share of the sum over the batch.
        rows: How many rows the loss compares; in a network with one output per sample, samples.
    """

    update: int
    share: float
    rows: int


@dataclass(frozen=True)
class LayerInfo:
    """A layer: a module that owns parameters.

    Attributes:
        name: The dotted name of the module; '(model)' for the model itself.
        kind: One of `etude.layerwise.parts.KINDS`.
        depth: Its place in the order of first use, from 0.
        parameters: The dotted names of its parameters.
        units: How many units its output has; 0 if unknown.
        activation: The function applied to its output ('relu', 'tanh', 'sigmoid'); '' if none was
            seen.
        gate: Whether the activation is multiplied with something, as a gate is.
        output: Whether no other layer follows it on the way to the model's result.
    """

    name: str
    kind: str = "other"
    depth: int = 0
    parameters: tuple[str, ...] = ()
    units: int = 0
    activation: str = ""
    gate: bool = False
    output: bool = False


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter of the model.

    Attributes:
        name: Its dotted name.
        layer: The number of its layer in `History.layers`.
        optimizer: The number of the optimizer that holds it; None if none does.
        trainable: Whether it required a gradient in the newest sampled update.
        decay: The weight decay of its optimizer.
        decoupled: Whether the decay is taken from the weight itself, as AdamW does, and not added
            to the gradient.
    """

    name: str
    layer: int
    optimizer: int | None = 0
    trainable: bool = True
    decay: float = 0.0
    decoupled: bool = False


@dataclass(frozen=True)
class History:
    """The readings of a run. Updates are counted from 0.

    With several optimizers, one update is one step of each of them that steps.

    Attributes:
        updates: How many updates were made.
        loss: (updates,) the loss of each, NaN where none was seen; of several backward passes,
            their mean.
        lr: (updates,) the rate of the first optimizer's first parameter group.
        steps: (samples,) the sampled updates, in order.
        layers: The layers, by depth.
        parameters: The parameters, in the model's order.
        readings: Per quantity (samples, layers); NaN where it was not read or does not exist.
        run_readings: Per quantity (samples,); NaN where it was not read. The shares and flags
            (`CLIPPED`, `TRAINING_MODE`, `UNCLEARED`, `CLEARED_EARLY`) are 0 or 1.
            `CRITICAL_SHARPNESS` is 2/η_c and `RATE_OVER_CRITICAL` is η/η_c (see
            `etude.measure.critical_rate`), where the loss is known; `NOISE_OVER_BATCH`
            is the gradient noise scale in batches (see `etude.diagnosis.watching.noise`).
        parameter_gradients: (samples, parameters) the norm of the gradient; NaN if there is none.
        parameter_updates: (samples, parameters) the norm of the update over that of the weight;
            infinite where a weight of 0 changed.
        parameter_norms: (samples, parameters) the norm of the weight after the update.
        one_loss: Whether all optimizers minimise one loss; False for games such as GANs.
        adaptive: Whether every optimizer scales its update by the gradient's own size, as Adam
            does.
        broken_from: The update from which no loss is finite; None if the newest one is.
        evaluating_layer: The first layer in evaluation mode at the newest sampled update; '' if the
            mode is right.
        stuck: Whether the network is known to be no better than a constant output at the end.
        ended: Whether the run is over, and not by an error.
        optimizers: The class names of the optimizers.
        loss_name: The name of torch's loss that the backward passes start from; '' if it is not
            known.
        target_means: (samples, columns) the mean over the batch of each number of the targets, or
            the share of each class; NaN where it was not read.
        output_fault: What is wrong with what the loss is given, in three sampled updates in a row;
            None if nothing is.
        input_layer: The number of the first layer; None if its inputs were not read.
        largest_samples: The largest loss in each of the updates whose loss jumped, as far as the
            graph of one of torch's losses showed it, on a CPU.
        period: The number of updates from one sampled update to the next, at the end.
        overhead: The watch's own time over that of the run between; NaN if not measured.
    """

    updates: int
    loss: Floats
    lr: Floats
    steps: Steps
    layers: tuple[LayerInfo, ...] = ()
    parameters: tuple[ParameterInfo, ...] = ()
    readings: Mapping[Quantity, Floats] = field(default_factory=dict)
    run_readings: Mapping[RunQuantity, Floats] = field(default_factory=dict)
    parameter_gradients: Floats = field(default_factory=lambda: np.empty((0, 0)))
    parameter_updates: Floats = field(default_factory=lambda: np.empty((0, 0)))
    parameter_norms: Floats = field(default_factory=lambda: np.empty((0, 0)))
    one_loss: bool = True
    adaptive: bool = False
    broken_from: int | None = None
    evaluating_layer: str = ""
    stuck: bool = False
    ended: bool = False
    optimizers: tuple[str, ...] = ()
    loss_name: str = ""
    target_means: Floats = field(default_factory=lambda: np.empty((0, 0)))
    output_fault: OutputFault | None = None
    input_layer: int | None = None
    largest_samples: tuple[LargestSample, ...] = ()
    period: int = 1
    overhead: float = float("nan")

    @property
    def samples(self) -> int:
        """How many updates were sampled."""
        return len(self.steps)

    def of_layers(self, quantity: Quantity) -> Floats:
        """Return a quantity as (samples, layers), NaN where it was not read."""
        missing = np.full((self.samples, len(self.layers)), np.nan)
        return self.readings.get(quantity, missing)

    def of_run(self, quantity: RunQuantity) -> Floats:
        """Return a quantity as (samples,), NaN where it was not read."""
        return self.run_readings.get(quantity, np.full(self.samples, np.nan))

    def until(self, updates: int) -> History:
        """Return the readings of the first updates, as they stood then.

        >>> loss = np.linspace(1.0, 0.5, 10)
        >>> short = History(10, loss, loss, np.array([0, 4, 8])).until(5)
        >>> short.updates, len(short.loss), short.steps.tolist()
        (5, 5, [0, 4])
        """
        rows = self.steps < updates
        broken = self.broken_from
        return replace(
            self,
            updates=min(updates, self.updates),
            loss=self.loss[:updates],
            lr=self.lr[:updates],
            steps=self.steps[rows],
            readings={name: values[rows] for name, values in self.readings.items()},
            run_readings={name: values[rows] for name, values in self.run_readings.items()},
            parameter_gradients=self.parameter_gradients[rows[: len(self.parameter_gradients)]],
            parameter_updates=self.parameter_updates[rows[: len(self.parameter_updates)]],
            parameter_norms=self.parameter_norms[rows[: len(self.parameter_norms)]],
            broken_from=None if broken is None or broken + 1 >= updates else broken,
            stuck=False,
            ended=False,
            target_means=self.target_means[rows[: len(self.target_means)]],
            largest_samples=tuple(one for one in self.largest_samples if one.update < updates),
        )

    def spike_score(self, window: int = 1_000, sigmas: float = 7.0) -> float:
        """Return the share of losses that are spikes.

            share of t with loss_t >= mean + sigmas * std of the `window` losses before t

        At least 100 losses must stand before t. NaN if no loss can be judged. Source: OLMo 2's
        spike score (arXiv 2501.00656).

        >>> rng = np.random.default_rng(0)
        >>> loss = rng.normal(1.0, 0.01, 500)
        >>> loss[300] = 2.0
        >>> History(500, loss, loss, np.arange(0)).spike_score()
        0.0025
        """
        loss = self.loss[np.isfinite(self.loss)]
        first = 100
        if len(loss) <= first:
            return float("nan")
        total = np.concatenate([[0.0], np.cumsum(loss - loss[0])])
        square = np.concatenate([[0.0], np.cumsum((loss - loss[0]) ** 2)])
        ends = np.arange(first, len(loss))
        starts = np.maximum(0, ends - window)
        count = ends - starts
        mean = (total[ends] - total[starts]) / count
        variance = np.maximum(0.0, (square[ends] - square[starts]) / count - mean**2)
        spikes = (loss[ends] - loss[0] - mean) > sigmas * np.sqrt(variance) + 1e-12
        return float(np.mean(spikes))
