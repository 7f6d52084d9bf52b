"""Keeps the norms of tensors, and gives each update of them a length in proportion to its norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.errors import BadValueError
from etude.layerwise.rescaling.tensor_changes import TensorChanges, copies


class FixedNorms:
    """Tensors whose norm stays as it is; see `etude.layerwise.policies.hyperball.Hyperball`.

    Args:
        places: The tensors, each with the index of its group in the optimizer.
        names: Their names, for messages.

    Raises:
        BadValueError: If a tensor is 0, and so has no norm to keep, or if its type is too coarse:
            the norm grows by a share of lr²/2 in a step, less than half precision can undo.
    """

    def __init__(self, places: list[tuple[Tensor, int]], names: list[str]) -> None:
        for (parameter, _), name in zip(places, names, strict=True):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                kind = str(parameter.dtype).removeprefix("torch.")
                raise BadValueError(
                    f"hyperball() keeps the norm of {name}, and {kind} is too coarse for it: keep "
                    f"the weights in float32; a recipe's precision={kind!r} then computes in {kind}"
                )
            if not bool(parameter.detach().any()):
                raise BadValueError(
                    f"hyperball() keeps the norm of {name}, which begins with zeros: initialise it "
                    "with other values, or leave hyperball() out"
                )
        self.places = places
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Save the values before a step."""
        self._kept = copies(self.places)

    def rescale(self, rates: list[Any]) -> None:
        """Replace the change Δ by lr · ‖w‖ · Δ / ‖Δ‖, and then restore the norm.

        Args:
            rates: The rate of each of the optimizer's groups.
        """
        step = TensorChanges(self.places, self._kept, rates)
        lengths = step.lengths
        ratios = torch.where(
            lengths > 0, step.rates * step.sizes / lengths, torch.zeros_like(lengths)
        )
        # A change that is not finite must stay visible: the run has diverged.
        step.scale(torch.where(lengths.isfinite(), ratios, torch.full_like(ratios, torch.nan)))
        step.restore_sizes()
