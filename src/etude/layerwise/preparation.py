"""Fits multipliers to a model that was just drawn: muP needs it before the optimizer is built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from etude.layerwise.mup import Mup, rescale
from etude.layerwise.spec import LrMult

if TYPE_CHECKING:
    from torch import nn

    from etude.layerwise.flow import Flow


def prepare(
    spec: LrMult | None, model: nn.Module, factory: object, flow: Flow | None = None
) -> LrMult | None:
    """Fit multipliers to a model that was just drawn, and draw muP's output weights smaller.

    Args:
        spec: The multipliers; None stays None.
        model: The model; only muP's output weights are changed, in place.
        factory: What built it; a network in place of a factory keeps its own weights.
        flow: What a forward pass of it showed.

    Returns:
        The same multipliers, muP's growth found against a base model where one can be built.
    """
    from torch import nn

    if spec is None or isinstance(factory, nn.Module) or not callable(factory):
        return spec
    policies = []
    for policy in spec.policies:
        if isinstance(policy, Mup):
            policy = policy.against(model, factory)
            rescale(model, policy, flow)
        policies.append(policy)
    return replace(spec, policies=tuple(policies))
