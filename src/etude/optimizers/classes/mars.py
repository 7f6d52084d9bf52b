"""MARS of pytorch_optimizer, with one rule and one rate for tensors of every shape."""

from __future__ import annotations

from pytorch_optimizer import MARS
from torch.optim.optimizer import ParamsT


class Mars(MARS):
    """MARS-AdamW: AdamW of a gradient that is corrected by its change since the last update.

        c = g + γ β1 / (1 - β1) (g - g_last),   c ← c / max(1, ‖c‖)   per tensor
        then AdamW with c in place of g

    The library's default trains vectors by AdamW at a separate rate of 3e-3, whatever the rate of
    the matrices is; a search over the rate would leave it as it is. Here every tensor follows the
    rule above (`optimize_1d`), at the one rate.

    Args:
        params: Parameters, or groups of them.
        lr: The rate.
        betas: (β1, β2).
        gamma: γ.
        weight_decay: Decoupled.
        eps: Added to the root of the second moment.

    Source: Yuan et al. 2024, arXiv:2411.10438, with the gradient of the last batch (MARS-approx).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        gamma: float = 0.025,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            gamma=gamma,
            weight_decay=weight_decay,
            eps=eps,
            optimize_1d=True,
            lr_1d=lr,
        )
