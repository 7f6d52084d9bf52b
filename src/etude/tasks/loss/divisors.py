"""The divisors of torch's mean-reduced losses, computed from the losses' arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def exact(weights: Tensor) -> Tensor:
    """Return numbers in double precision if the device supports it."""
    return weights if weights.device.type == "mps" else weights.double()


def _labels(given: Mapping[str, Any]) -> float | Tensor:
    """Cross-entropy and negative log-likelihood: Σ of the weights of the labels not ignored."""
    scores: Tensor = given["input"]
    target: Tensor = given["target"]
    weight: Tensor | None = given.get("weight")
    if target.is_floating_point():  # class probabilities: a mean over the positions
        return float(scores.numel() / scores.shape[1 if scores.ndim > 1 else 0])
    answered: Tensor = target != given.get("ignore_index", -100)
    if weight is None:
        return answered.sum()
    return (exact(weight[torch.where(answered, target, 0)]) * answered).sum()


def _elements(given: Mapping[str, Any]) -> float | Tensor:
    broadcast, _ = torch.broadcast_tensors(given["input"], given["target"])  # type: ignore[no-untyped-call]
    return float(broadcast.numel())


def _by_elements_or_weight(given: Mapping[str, Any]) -> float | Tensor:
    weight = given.get("weight")
    return _elements(given) if weight is None else exact(weight.detach()).sum()


def _divergence(given: Mapping[str, Any]) -> float | Tensor:
    scores = given["input"]
    return float(scores.shape[0]) if given["reduction"] == "batchmean" else _elements(given)


def _sequences(given: Mapping[str, Any]) -> float | Tensor:
    """CTC divides each sequence by its target's length, then takes the mean over the batch."""
    scores = given["log_probs"]
    return float(scores.shape[1] if scores.ndim == 3 else 1)


DIVISORS: Mapping[str, Callable[[Mapping[str, Any]], float | Tensor]] = {
    "cross_entropy": _labels,
    "nll_loss": _labels,
    "binary_cross_entropy": _elements,  # weights scale the terms, and the mean is over all
    "binary_cross_entropy_with_logits": _elements,
    "mse_loss": _by_elements_or_weight,
    "l1_loss": _by_elements_or_weight,
    "smooth_l1_loss": _elements,
    "huber_loss": _elements,
    "gaussian_nll_loss": _elements,
    "poisson_nll_loss": _elements,
    "soft_margin_loss": _elements,
    "kl_div": _divergence,
    "ctc_loss": _sequences,
}
"""Name of a loss function -> function of its arguments by name -> the divisor of its mean."""
