"""Optimizers that solve for all parameters together, and so have one group of them."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer

from etude.errors import BadValueError


class OneGroup(Optimizer):
    """The base of optimizers with one parameter group; it refuses a second one.

    Attributes:
        row_name: The name of the optimizer in the table, for the message.
    """

    row_name: ClassVar[str]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the parameters, all in one group.

        Raises:
            BadValueError: If there is a group already.
        """
        if self.param_groups:
            raise BadValueError(
                f"{self.row_name} solves for all parameters at once: give one group"
            )
        super().add_param_group(param_group)
