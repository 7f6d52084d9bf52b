"""The position of each parameter in a row of the stacked weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etude.schedules import Schedule
from etude.training.run import Run


@dataclass(frozen=True)
class Layout:
    """The order of the trained parameters in a row, and the names of all other tensors.

    Attributes:
        names: The names of the trained parameters, in the model's order; tied ones once.
        shapes: Their shapes.
        fixed: The names of the buffers, and of the parameters that are not trained.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    fixed: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, untouched: Sequence[str] = ()) -> Layout:
        """Return the layout of a model.

        Args:
            model: The network.
            untouched: Parameters that get no gradient, so that the optimizer does not change them.
        """
        trained = {
            n: p for n, p in model.named_parameters() if p.requires_grad and n not in untouched
        }
        others = [n for n, _ in model.named_parameters() if n not in trained]
        buffers = [n for n, _ in model.named_buffers()]
        shapes = tuple(p.shape for p in trained.values())
        return cls(tuple(trained), shapes, (*others, *buffers))

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def width(self) -> int:
        """The number of elements of a row."""
        return sum(self.sizes)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the parameters in stacked rows, by name: (members, *shape)."""
        parts = torch.split(rows, self.sizes, 1)
        return {
            name: part.reshape(len(rows), *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def row(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return one row from the tensors by name."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def cut(self, row: Tensor) -> dict[str, Tensor]:
        """Return the tensors in one row, by name."""
        parts = torch.split(row, self.sizes)
        return {
            name: part.reshape(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }


def multipliers(run: Run, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Return the multipliers of rate and weight decay of every weight; None if all are 1."""
    if run.state.rates is None:
        return None
    by_name = run.state.rates.plan.of()
    rates, decays = [], []
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        rate, decay = torch.ones(shape), torch.ones(shape)
        for row in by_name.get(name, ()):
            assert not isinstance(row.multiplier, Schedule)  # such a run is not eligible
            for first, last in row.spans:
                rate[first:last] = row.multiplier
            decay.fill_(row.decay)
        rates.append(rate.flatten())
        decays.append(decay.flatten())
    return torch.cat(rates).to(run.device), torch.cat(decays).to(run.device)
