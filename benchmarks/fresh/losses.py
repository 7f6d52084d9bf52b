"""Losses of the fresh tasks that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

QUANTILES = (0.1, 0.5, 0.9)


def poisson(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of counts, with Stirling's term."""
    return F.poisson_nll_loss(output, target, log_input=True, full=True)


def pinball(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean pinball loss of the quantiles, max(q e, (q - 1) e) with e = y - ŷ.

    Args:
        output: One number per quantile, (N, quantiles).
        target: (N,).

    Source: Koenker and Bassett, "Regression quantiles", 1978.
    """
    error = target[:, None] - output
    level = output.new_tensor(QUANTILES)
    return torch.maximum(level * error, (level - 1) * error).mean()


def cox(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log partial likelihood of a batch, and its number of events.

        Σ over events i of log Σ over j with t_j >= t_i of exp(r_j)  −  r_i

    Args:
        output: The log risk r of each, (N,).
        target: The time t and whether it ended with an event, (N, 2).

    Source: Cox, "Regression models and life-tables", 1972; ties as Breslow has them.
    """
    time, event = target.unbind(1)
    later = time[None, :] >= time[:, None]
    at_risk = output[None, :].masked_fill(~later, -torch.inf).logsumexp(dim=1)
    return ((at_risk - output) * event).sum(), event.sum()


def hazard(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy over the intervals that were seen, and their number.

    Args:
        output: The log odds of the event in each interval, (N, intervals).
        target: 1 where it happened, 0 where it did not, -1 where nobody looked.

    Source: Singer and Willett, "It's about time: discrete-time survival analysis", 1993.
    """
    seen = target >= 0
    each = F.binary_cross_entropy_with_logits(output, target.clamp(min=0), reduction="none")
    return (each * seen).sum(), seen.sum()


def evidence(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    """Return the negative evidence bound per sample, in units of the noise's variance of 1.

        ½ |x − x̂|²  +  ½ Σ (μ² + σ² − 1 − log σ²)

    Source: Kingma and Welling, "Auto-encoding variational Bayes", 2013.
    """
    decoded, mean, logs = output
    squares = 0.5 * (decoded - target).square().sum(1)
    divergence = 0.5 * (mean.square() + logs.exp() - 1 - logs).sum(1)
    return (squares + divergence).mean()
