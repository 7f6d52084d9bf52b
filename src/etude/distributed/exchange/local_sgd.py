"""Post-local SGD: each process trains alone after the warmup, and weights are averaged at times."""

from __future__ import annotations

from etude.distributed.exchange.base import ExchangeSetting, average
from etude.distributed.exchange.replicas import LocalExchange
from etude.recipe_exchange import LocalSGD


class LocalSGDExchange(LocalExchange[LocalSGD]):
    """Averages the weights after every `period` updates."""

    def prepare(self, setting: ExchangeSetting) -> None:
        """Note when to average."""
        super().prepare(setting)
        self.period = self.policy.period
        self.start = setting.peak if self.policy.start is None else self.policy.start

    def bring_together(self) -> None:
        """Average the parameters."""
        parameters = list(self.model.parameters())
        for parameter, mean in zip(parameters, average(self.group, parameters), strict=True):
            parameter.copy_(mean)
