"""Rescales the updates of rows of tensors by factors.

An optimizer has one rate per tensor. If some rows should have another rate, their values are saved
before the step, and after it the change Δ is replaced by ratio · Δ. This is exact for every
optimizer whose update is linear in its rate, entry by entry, with any momentum, averages or weight
decay, and it keeps no state between steps.

The tensor's rate has the largest multiplier of its rows, so that a ratio is at most 1: w + r·Δ is
then between the old and the new value, and is as precise as the type of the weights allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from etude.torch_internals import foreach

WIDE = (torch.float32, torch.float64)
"""The types of weights that represent multipliers with enough precision."""


class Slices:
    """Rows of tensors whose update is rescaled after each step.

    Args:
        places: For each slice the parameter, the first row, and one past the last row.
    """

    def __init__(self, places: list[tuple[Tensor, int, int]]) -> None:
        self.places = places
        self._parameters = list({id(parameter): parameter for parameter, _, _ in places}.values())
        self._ratios: list[float] = [1.0] * len(places)
        self._addresses: list[int] = []
        self._views: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._weights: list[float] = []

    def set(self, ratios: list[float]) -> None:
        """Set the ratio of each slice, in [0, 1]; a ratio of 1 costs nothing."""
        if ratios != self._ratios:
            self._ratios, self._addresses = ratios, []

    def keep(self) -> None:
        """Save the values before a step."""
        # The model may be cast or moved to a device between two steps, which changes the data.
        addresses = [parameter.data_ptr() for parameter in self._parameters]
        if addresses != self._addresses:
            self._addresses = addresses
            self._create_views()
        if self._views:
            foreach.copy_(self._kept, self._views)

    def rescale(self) -> None:
        """Replace the change Δ of each slice by ratio · Δ."""
        # lerp(new, old, 1 - r) = old + r (new - old): exactly new for r = 1, exactly old for 0.
        count = len(self._columns)
        for view, kept, column in zip(
            self._views[:count], self._kept[:count], self._columns, strict=True
        ):
            view.lerp_(kept, column)
        if self._weights:
            foreach.lerp_(self._views[count:], self._kept[count:], self._weights)

    def _create_views(self) -> None:
        """Create views of the rows to rescale, all rows of a tensor together if possible.

        On a CPU a call costs more than the rows between the slices, so a tensor's rows are rescaled
        in one call, by a column of ratios. In half precision the column would round the ratios.
        """
        together: dict[int, list[int]] = {}
        alone = []
        for index, (parameter, _, _) in enumerate(self.places):
            if self._ratios[index] == 1:
                continue
            if parameter.device.type == "cpu" and parameter.dtype in WIDE:
                together.setdefault(id(parameter), []).append(index)
            else:
                alone.append(index)
        blocks = [self._block(indices) for indices in together.values()]
        self._columns = [column for _, column in blocks]
        chosen = [self.places[index] for index in alone]
        self._views = [
            *(view for view, _ in blocks),
            *(parameter.detach()[first:last] for parameter, first, last in chosen),
        ]
        self._weights = [1 - self._ratios[index] for index in alone]
        self._kept = [torch.empty_like(view) for view in self._views]

    def _block(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the rows from the first to the last of some slices, and their weights."""
        parameter = self.places[indices[0]][0].detach()
        first = min(self.places[index][1] for index in indices)
        last = max(self.places[index][2] for index in indices)
        column = torch.zeros(last - first, dtype=parameter.dtype)
        for index in indices:
            _, start, stop = self.places[index]
            column[start - first : stop - first] = 1 - self._ratios[index]
        view = parameter[first:last]
        return view, column.view(-1, *[1] * (view.dim() - 1))
