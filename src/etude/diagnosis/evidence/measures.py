"""Numbers that bear witness for a cause, from a history: pure functions, NaN where unknown.

They prove nothing by themselves. `etude.diagnosis.evidence.facts` states a cause where one of them
leaves no doubt; the verdict weighs the others.
"""

from __future__ import annotations

import math

import numpy as np

from etude.diagnosis.history import Floats, History, Quantity, RunQuantity
from etude.diagnosis.symptoms.curve import loss_curve

CLASSES = ("cross_entropy", "nll_loss")
LOGISTIC = ("binary_cross_entropy", "binary_cross_entropy_with_logits")

NAN = math.nan

WAIT, LITTLE = 30, 0.8
"""The number of updates after which it is judged whether much is learned, and the loss over that of
the best constant output above which little is."""

LEAST_TARGETS = 40
"""How many targets must be known for the loss of the best constant output."""


def median_of(values: Floats, least: int = 1) -> float:
    """Return the median of the known values; NaN where there are fewer than `least`."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) >= least else NAN


# ---- the targets ------------------------------------------------------------------------------


def target_order(history: History) -> float:
    """Return which share of the targets' variance lies between the batches, and not within them.

        F = n · Var(batch means) / mean(variance within), share = (F - 1) / (F - 1 + n)

    with n targets in a batch; classes count as columns of 0 and 1. In random order F is about 1
    and the share 0; in sorted order the share is near 1. It is the intraclass correlation of a
    one-way analysis of variance. At least 8 batches of two or more targets must be known.

    >>> means = np.repeat([[0.0], [1.0]], 8, axis=0)
    >>> flat = {RunQuantity.TARGET_WITHIN: np.full(16, 0.01),
    ...         RunQuantity.TARGET_COUNT: np.full(16, 32.0)}
    >>> ordered = History(16, np.zeros(16), np.zeros(16), np.arange(16), run_readings=flat,
    ...                   loss_name="mse_loss", target_means=means)
    >>> round(target_order(ordered), 2)
    0.96
    """
    f, count = _variance_ratio(history)
    return float((f - 1) / (f - 1 + count)) if np.isfinite(f) else NAN


def batches_differ(history: History) -> bool:
    """Return whether the batches hold different samples, as far as their targets show it."""
    f, _ = _variance_ratio(history, least=2)
    return bool(f > 1e-3)


def whole_data(history: History) -> float:
    """Return how many targets the data has, where every batch holds all of them; else infinite.

    The batch means are then alike up to rounding. NaN where the targets are not known.
    """
    f, count = _variance_ratio(history, least=3)
    return NAN if not np.isfinite(f) else count if f < 1e-3 else math.inf


def largest_class(history: History) -> float:
    """Return the share of the most frequent class in the batches that were read; NaN without."""
    if history.loss_name not in CLASSES or not history.target_means.size:
        return NAN
    known = history.target_means[np.isfinite(history.target_means[:, 0])]
    return float(known.mean(0).max()) if len(known) else NAN


def _variance_ratio(history: History, least: int = 8) -> tuple[float, float]:
    """Return F, and the number of targets in a batch."""
    within = history.of_run(RunQuantity.TARGET_WITHIN)
    count = median_of(history.of_run(RunQuantity.TARGET_COUNT))
    means = history.target_means
    if not history.loss_name or len(means) != len(within) or not count > 1 or not means.size:
        return NAN, NAN
    known = np.isfinite(within) & np.isfinite(means[:, 0])
    if known.sum() < least:
        return NAN, NAN
    between = float(np.var(means[known], axis=0, ddof=1).sum())
    inside = float(within[known].mean())
    if between + inside <= 1e-12:
        return NAN, NAN
    spread = max(inside, 1e-9 * between)
    return (count * between / spread if spread > 0 else NAN), count


def constant_losses(history: History) -> Floats:
    """Return, per sampled update, the loss of the best constant output on its batch.

    The constant is fitted to all batches that were read: the shares of the classes, or the mean of
    the targets. Of numbers it is known for squared errors alone.
    """
    within, means = history.of_run(RunQuantity.TARGET_WITHIN), history.target_means
    count = history.of_run(RunQuantity.TARGET_COUNT)
    if not history.loss_name or means.shape[0] != len(within) or not means.shape[1]:
        return np.full(history.samples, NAN)
    known = np.isfinite(means[:, 0])
    if not known.any():
        return np.full(history.samples, NAN)
    middle = means[known].mean(0)
    with np.errstate(all="ignore"):
        if history.loss_name in CLASSES:
            rest = np.log(np.maximum(middle, 1e-12))
            return np.where(known, -(means @ rest) / means.sum(1), NAN)
        if history.loss_name in LOGISTIC:
            shares = np.clip(middle, 1e-12, 1 - 1e-12)
            both = means * np.log(shares) + (1 - means) * np.log(1 - shares)
            return np.where(known, -both.mean(1), NAN)
        if history.loss_name != "mse_loss":
            return np.full(history.samples, NAN)
        columns = means.shape[1]
        spread = within * (count - 1) / count / columns
        found: Floats = spread + ((means - middle) ** 2).mean(1)
    return found


def relative_losses(history: History) -> Floats:
    """Return the loss of each update over that of the best constant output; NaN where unknown.

        k · loss_t / constant, k = median of (loss without what is added or divided) / loss

    1 is what a network has that ignores its inputs. The constant is that of `constant_losses`, on
    40 targets at least. NaN where the loss that is trained is no multiple of torch's own, as
    with a penalty that is as large, or of absolute and other errors, whose best constant is not
    known.
    """
    nothing = np.full(len(history.loss), NAN)
    constant = constant_losses(history)
    known = np.isfinite(constant)
    counts = history.of_run(RunQuantity.TARGET_COUNT)[known]
    if not known.any() or counts.sum() < LEAST_TARGETS or not history.one_loss:
        return nothing
    usual = float(np.average(constant[known], weights=counts))
    plain, own = history.of_run(RunQuantity.PLAIN_LOSS), history.loss[history.steps]
    with np.errstate(all="ignore"):
        factors = plain / own
    factors = factors[np.isfinite(factors) & (own > 0)]
    factor = median_of(factors, least=3)
    if not factor > 0 or not usual > 0 or not np.median(np.abs(factors / factor - 1)) < 0.25:
        return nothing
    return factor * history.loss / usual


def first_relative_loss(history: History) -> float:
    """Return the loss of the first update over that of the best constant output."""
    found = relative_losses(history)
    return float(found[0]) if len(found) else NAN


def recent_relative_loss(history: History) -> tuple[float, float]:
    """Return the mean relative loss of the last tenth, 10 updates at least, and its error."""
    found = relative_losses(history)
    found = found[np.isfinite(found)]
    last = found[-max(10, len(found) // 10) :]
    if len(last) < 10:
        return NAN, NAN
    return float(last.mean()), float(last.std(ddof=1)) / math.sqrt(len(last))


def learns_little(history: History) -> bool:
    """Return whether little is learned after 30 updates, or at the end.

    The loss is above 80% of that of the best constant output or, where that is not known, has not
    fallen.
    """
    if history.updates < WAIT and not history.ended:
        return False
    loss, _ = recent_relative_loss(history)
    if np.isfinite(loss):
        return loss > LITTLE
    curve = loss_curve(history)
    return curve is not None and not curve.learned


# ---- scales -----------------------------------------------------------------------------------


def target_scale(history: History) -> tuple[float, float, float]:
    """Return mean, standard deviation and reach of targets that are numbers; else NaN.

    The root mean squares over the columns of their means and deviations, and the largest distance
    from a batch's mean.
    """
    if history.loss_name in (*CLASSES, *LOGISTIC) or not history.target_means.size:
        return NAN, NAN, NAN
    means = history.target_means[np.isfinite(history.target_means[:, 0])]
    within = history.of_run(RunQuantity.TARGET_WITHIN)
    if not len(means) or not np.isfinite(within).any():
        return NAN, NAN, NAN
    variance = float(np.nanmean(within)) / means.shape[1] + float(means.var(0).mean())
    reach = history.of_run(RunQuantity.TARGET_REACH)
    return float(np.sqrt((means.mean(0) ** 2).mean())), math.sqrt(variance), float(np.nanmax(reach))


def first_output_size(history: History) -> float:
    """Return the size of the outputs in the first update; of logits around each sample's mean."""
    size = history.of_run(RunQuantity.OUTPUT_SIZE)
    return float(size[0]) if len(size) and history.steps[0] == 0 else NAN


def first_head_spread(history: History) -> float:
    """Return how far samples differ, over their size, in what the last layer reads at the start.

    0 where all samples look alike to the last layer.
    """
    found = history.of_run(RunQuantity.HEAD_SPREAD)
    return float(found[0]) if len(found) and history.steps[0] == 0 else NAN


def saturated_gates(history: History) -> Floats:
    """Return, per layer, the share of saturated gates of recurrent layers at the first reading."""
    return _first_known(history.of_layers(Quantity.GATES_SATURATED))


def weights_at_start(history: History) -> Floats:
    """Return, per layer, log10 of the size of its weights over the size that the layer draws.

    As they were before the first update that was watched, of the weight that is furthest from its
    usual size; NaN where that is not known, or weights are 0. See `usual_weights.usual_size`.
    """
    return np.log10(_first_known(history.of_layers(Quantity.WEIGHTS_OVER_USUAL)))


def _first_known(values: Floats) -> Floats:
    """Return the first known value of each column; NaN where there is none."""
    first = np.full(values.shape[1], NAN)
    for number in range(values.shape[1]):
        known = values[np.isfinite(values[:, number]), number]
        if len(known):
            first[number] = known[0]
    return first


# ---- the optimizer ----------------------------------------------------------------------------


def decay_shares(history: History) -> Floats:
    """Return, per layer, the weight decay's part of what moves its weights.

        added to the gradient:     λ‖w‖ / (λ‖w‖ + ‖g‖)
        taken from the weights:    η λ‖w‖ / (η λ‖w‖ + ‖Δw‖)

    of its largest parameter, the median over the last half of the sampled updates. NaN without
    decay.
    """
    shares = np.full(len(history.layers), NAN)
    if not history.samples:
        return shares
    half = slice(history.samples // 2, None)
    lr = np.nan_to_num(history.lr[history.steps])[half]
    for number in range(len(history.layers)):
        own = [i for i, p in enumerate(history.parameters) if p.layer == number and p.decay > 0]
        if not own:
            continue
        pull = np.zeros(len(lr))
        push = np.zeros(len(lr))
        for i in own:
            parameter, norm = history.parameters[i], history.parameter_norms[half, i]
            pulled = parameter.decay * norm
            pushed = history.parameter_gradients[half, i]
            if parameter.decoupled:
                pulled, pushed = lr * pulled, history.parameter_updates[half, i] * norm
            pull, push = np.fmax(pull, pulled), np.fmax(push, pushed)
        with np.errstate(all="ignore"):
            shares[number] = median_of(pull / (pull + push))
    return shares


def decay_time(history: History) -> float:
    """Return in how many updates the decay alone shrinks weights by e, over the run's updates.

    1 / (η λ) / updates, with the mean rate and the strongest decay. Infinite without decay.
    """
    decay = max((p.decay for p in history.parameters), default=0.0)
    lr = history.lr[np.isfinite(history.lr)]
    rate = float(lr.mean()) if len(lr) else 0.0
    return 1 / (rate * decay * max(1, history.updates)) if rate * decay > 0 else math.inf


def weight_shrinkage(history: History) -> float:
    """Return the norm of all trained weights at the end over that at the start."""
    norms = history.of_layers(Quantity.WEIGHT_NORM)
    if not len(norms):
        return NAN
    first, last = (math.sqrt(float(np.nansum(row**2))) for row in (norms[0], norms[-1]))
    return last / first if first > 0 else NAN


def distance_moved(history: History) -> Floats:
    """Return, per layer, the length of the path of its weights over their size.

    The mean of ‖Δw‖/‖w‖ over the sampled updates, times the number of updates.
    """
    ratio = history.of_layers(Quantity.UPDATE_RATIO)
    known = np.isfinite(ratio)
    total = np.where(known, ratio, 0.0).sum(0)
    with np.errstate(all="ignore"):
        return np.where(known.any(0), total / known.sum(0) * history.updates, NAN)


def uneven_updates(history: History) -> float:
    """Return the largest over the smallest relative update of trained matrices, in powers of ten.

    An optimizer with one step size for all parameters, such as SGD, moves some layers a thousand
    times as far as others where their gradients differ.
    """
    moved = distance_moved(history)
    chosen = [
        moved[n]
        for n, layer in enumerate(history.layers)
        if layer.kind != "normalisation" and np.isfinite(moved[n]) and moved[n] > 0
    ]
    return math.log10(max(chosen) / min(chosen)) if len(chosen) > 1 else NAN
