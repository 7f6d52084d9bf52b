"""DiLoCo: an outer optimizer on the mean of what the processes learned alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from etude.distributed.exchange.base import ExchangeSetting, average
from etude.distributed.exchange.replicas import LocalExchange
from etude.recipe_exchange import DiLoCo

LARGEST_MOMENTUM, OUTER_STEPS = 0.9, 40
"""The paper's; and how often the momentum's memory, 1 / (1 - momentum), fits into a run."""


class DiLoCoExchange(LocalExchange[DiLoCo]):
    """Makes a Nesterov step on the mean difference after every `inner` updates.

    Attributes:
        anchor: The weights after the last outer step, by name; equal in all processes.
        outer: The outer optimizer; its momentum is equal in all processes.
    """

    anchor: dict[str, Tensor]
    outer: torch.optim.SGD

    def prepare(self, setting: ExchangeSetting) -> None:
        """Keep the first weights."""
        super().prepare(setting)
        self.period, self.start = self.policy.inner, 0
        model = setting.model
        self.anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
        momentum = self.policy.momentum
        if momentum is None:
            momentum = usual_momentum(setting.length // self.period)
        self.outer = torch.optim.SGD(
            list(self.anchor.values()),
            lr=self.policy.lr,
            momentum=momentum,
            nesterov=momentum > 0,
        )

    def bring_together(self) -> None:
        """Make an outer step, and go on from there."""
        parameters = dict(self.model.named_parameters())
        moved = [kept - parameters[name] for name, kept in self.anchor.items()]
        for kept, mean in zip(self.anchor.values(), average(self.group, moved), strict=True):
            kept.grad = mean
        self.outer.step()
        self.outer.zero_grad()
        for name, kept in self.anchor.items():
            parameters[name].copy_(kept)

    def state(self) -> dict[str, Any]:
        """Return the state of all processes, the weights of the last outer step, its momentum."""
        return {
            **super().state(),
            "anchor": {name: kept.detach().cpu().clone() for name, kept in self.anchor.items()},
            "momentum": {
                name: self.outer.state[kept]["momentum_buffer"].detach().cpu().clone()
                for name, kept in self.anchor.items()
                if self.outer.state[kept].get("momentum_buffer") is not None
            },
        }

    def load(self, saved: Mapping[str, Any], processes: int) -> None:
        """Restore them."""
        super().load(saved, processes)
        with torch.no_grad():
            for name, kept in self.anchor.items():
                kept.copy_(saved["anchor"][name])
        self.outer.state.clear()
        for name, momentum in saved["momentum"].items():
            kept = self.anchor[name]
            self.outer.state[kept]["momentum_buffer"] = momentum.to(kept)


def usual_momentum(outer_steps: int) -> float:
    """Return the momentum for a run of so many outer steps.

    Where all outer steps agree, momentum makes them 1 / (1 - momentum) times as large, and in a run
    of few it still pushes after the schedule has let the inner rate fall.

    >>> usual_momentum(1_000), usual_momentum(80), usual_momentum(10)
    (0.9, 0.5, 0.0)
    """
    if outer_steps < 1:
        return 0.0
    return min(LARGEST_MOMENTUM, max(0.0, 1 - OUTER_STEPS / outer_steps))
