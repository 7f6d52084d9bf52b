"""Prepares a new model for its multipliers, as muP needs before the optimizer is built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from etude.layerwise.policies.mup import Mup, rescale
from etude.layerwise.spec import LrMult

if TYPE_CHECKING:
    from torch import nn

    from etude.layerwise.flow import Flow


def prepare(
    spec: LrMult | None, model: nn.Module, factory: object, flow: Flow | None = None
) -> LrMult | None:
    """Adapt multipliers to a newly initialised model, and scale its output weights for muP.

    Args:
        spec: The multipliers, or None.
        model: The model; muP scales its output weights in place.
        factory: The function that built the model. If it is a network, its weights are kept.
        flow: The flow of a forward pass of the model.

    Returns:
        The multipliers, with muP's ratios to a base model if that can be built; None for None.
    """
    from torch import nn

    if spec is None or isinstance(factory, nn.Module) or not callable(factory):
        return spec
    policies = []
    for policy in spec.policies:
        if isinstance(policy, Mup):
            policy = policy.with_ratios(model, factory)
            rescale(model, policy, flow)
        policies.append(policy)
    return replace(spec, policies=tuple(policies))
