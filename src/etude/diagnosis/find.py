"""All that can be found in a history."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etude.diagnosis import facts
from etude.diagnosis.evidence import beginning
from etude.diagnosis.evidence import facts as shown
from etude.diagnosis.evidence.saturating_weights import saturating_weights
from etude.diagnosis.finding import Finding
from etude.diagnosis.history import History
from etude.diagnosis.saturating import saturating_activation
from etude.diagnosis.symptoms import gradients, losses, progress, rising, units
from etude.diagnosis.symptoms.constant_loss import no_better_than_constant, with_stuck

RULES: tuple[Callable[[History], Sequence[Finding]], ...] = (
    facts.gradients_not_cleared,
    facts.cleared_before_step,
    facts.eval_mode_in_training,
    facts.parameters_not_trained,
    shown.wrong_output,
    shown.unscaled_inputs,
    shown.unscaled_targets,
    shown.data_not_shuffled,
    shown.batch_norm_of_two,
    shown.full_batch_optimizer,
    shown.decay_too_strong,
    beginning.bad_initialisation,
    beginning.samples_look_alike,
    beginning.saturated_recurrence,
    saturating_weights,
    beginning.rate_too_low,
    gradients.exploding,
    losses.diverging,
    rising.coming_divergence,
    gradients.silent_parameter,
    gradients.vanishing,
    units.dead,
    units.saturated,
    units.constant_output,
    losses.spiking,
    losses.oscillating,
    losses.stalled,
    progress.slow,
    no_better_than_constant,
)
"""Each is silent where its evidence is thin."""


def find(history: History) -> list[Finding]:
    """Return the findings of all rules, causes first.

    >>> import numpy as np
    >>> find(History(0, np.empty(0), np.empty(0), np.empty(0, int)))
    []
    """
    history = with_stuck(history)
    found = [finding for rule in RULES for finding in rule(history)]
    return [*saturating_activation(history, found), *found]
