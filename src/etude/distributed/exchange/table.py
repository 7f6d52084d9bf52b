"""The table of ways to exchange gradients: one row each, which tests and refusals read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch.distributed as dist

from etude import optimizers
from etude.distributed.exchange.base import GradientExchange
from etude.distributed.exchange.diloco import DiLoCoExchange
from etude.distributed.exchange.half import BrainFloatExchange, HalfPrecisionExchange
from etude.distributed.exchange.local_sgd import LocalSGDExchange
from etude.distributed.exchange.powersgd import PowerSGDExchange
from etude.distributed.exchange.topk import TopKExchange
from etude.distributed.exchange.whole import WholeExchange
from etude.recipe import Recipe
from etude.recipe_exchange import (
    NONE,
    BrainExchange,
    Compression,
    DiLoCo,
    HalfExchange,
    LocalSGD,
    PowerSGD,
    TopK,
)


@dataclass(frozen=True)
class ExchangeRow:
    """All that is known of one way to exchange gradients.

    Attributes:
        name: Its name in recipes.
        policy: The class of the recipe's value, with the defaults and bounds; None for 'none'.
        factory: Makes the exchange of one process.
        what: What it does, in one line.
        source: Where it comes from.
        local: Whether each process trains its own weights between two exchanges.
        remembers: Whether what is not sent stays in the process for later.
        sixteen: Whether it sends 16-bit floats, which not every backend adds up.
    """

    name: str
    policy: type[Compression] | None
    factory: Callable[[Any, dist.ProcessGroup], GradientExchange[Any]]
    what: str
    source: str
    local: bool = False
    remembers: bool = False
    sixteen: bool = False

    def why_not(self, recipe: Recipe) -> str:
        """Return why it does not fit the other fields of a recipe; empty if it does."""
        row = optimizers.get(recipe.optimizer.name)
        if row.closure and (self.local or self.remembers):
            return (
                f"{row.name} computes several gradients in one update, and {self.name} counts on "
                "one: take an optimizer without a line search, or 'fp16'"
            )
        if self.local and (row.eval_mode or row.schedule_free):
            return (
                f"{row.name} keeps a second set of weights, which {self.name} does not average: "
                "take 'powersgd' or 'topk', or another optimizer"
            )
        if self.local and row.rate_free:
            return (
                f"{row.name} estimates its own step, and each process would find another one: "
                "take 'powersgd' or 'topk', or another optimizer"
            )
        spikes = None if recipe.spikes is None else recipe.spikes.name
        if spikes in ("skip", "rewind") and (self.local or self.remembers):
            return (
                f"spikes={recipe.spikes!r} undoes an update, but not what {self.name} has kept of "
                "its gradients: leave spikes out, or take 'zclip'"
            )
        if self.local and recipe.early_stopping is not None:
            return (
                f"early_stopping={recipe.early_stopping} keeps the best weights, and between two "
                f"exchanges of {self.name} every process has others: leave early_stopping out"
            )
        return ""


EXCHANGES: Mapping[str, ExchangeRow] = MappingProxyType(
    {
        row.name: row
        for row in (
            ExchangeRow(
                NONE, None, WholeExchange,
                "sends whole gradients", "Li et al. 2020, arXiv:2006.15704",
            ),
            ExchangeRow(
                "fp16", HalfExchange, HalfPrecisionExchange,
                "sends gradients as float16", "torch's fp16_compress_hook",
                sixteen=True,
            ),
            ExchangeRow(
                "bf16", BrainExchange, BrainFloatExchange,
                "sends gradients as bfloat16", "torch's bf16_compress_hook",
                sixteen=True,
            ),
            ExchangeRow(
                "powersgd", PowerSGD, PowerSGDExchange,
                "sends each gradient matrix as a product of two thin ones",
                "Vogels et al. 2019, arXiv:1905.13727; torch's powerSGD_hook",
                remembers=True,
            ),
            ExchangeRow(
                "topk", TopK, TopKExchange,
                "sends the largest entries, and keeps the others for later",
                "Stich et al. 2018, arXiv:1809.07599",
                remembers=True,
            ),
            ExchangeRow(
                "local-sgd", LocalSGD, LocalSGDExchange,
                "averages the weights every few updates instead of the gradients",
                "Lin et al. 2018, arXiv:1808.07217",
                local=True,
            ),
            ExchangeRow(
                "diloco", DiLoCo, DiLoCoExchange,
                "trains each process alone, then makes an outer step on the mean difference",
                "Douillard et al. 2023, arXiv:2311.08105",
                local=True,
            ),
        )
    }
)  # fmt: skip
"""The ways to exchange gradients, by name. To add one, add a row and a class of the recipe."""


def row_of(policy: Compression | None) -> ExchangeRow:
    """Return the row of a recipe's `compress`."""
    return EXCHANGES[NONE if policy is None else policy.name]


def exchange_of(recipe: Recipe, group: dist.ProcessGroup) -> GradientExchange[Any]:
    """Return the exchange of gradients that a recipe asks for, in this process; bind it to a run.

    Args:
        recipe: The recipe.
        group: The process group.
    """
    return row_of(recipe.compress).factory(recipe.compress, group)
