"""Networks that learned something before a task begins, for tasks that fine-tune them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fresh.data import kept


def weights(
    name: str,
    model: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor],
    loss: Callable[[Any, Tensor], Tensor],
    *,
    steps: int,
    rate: float,
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Return the weights and buffers of a network after a short training with a fixed seed.

    They are kept in the cache, so that every process and machine that shares it starts a task
    from the same bits. The global random state stays as it was.

    Args:
        name: Of the file in the cache, after 'pretrained-'.
        model: Builds the network.
        data: Inputs and targets.
        loss: (output, target) -> scalar.
        steps: Updates, of Adam with a rate that falls to zero on a straight line.
        rate: The first.
        batch_size: Samples per update, drawn with replacement.
    """

    def train() -> dict[str, Any]:
        x, y = data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = model()
            optimizer = torch.optim.Adam(network.parameters(), lr=rate)
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
                index = torch.randint(len(x), (batch_size,))
                optimizer.zero_grad()
                loss(network(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return {key: value.detach().numpy() for key, value in network.state_dict().items()}

    found = kept(f"pretrained-{name}", train)
    return {key: torch.from_numpy(value) for key, value in found.items()}
