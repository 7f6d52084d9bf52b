"""torch's own Muon for the hidden matrices of a model, torch's AdamW for all other tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from etude.errors import BadValueError
from etude.optimizers.classes.gather import Loss, loss_of
from etude.optimizers.classes.halves import placeholder, step_part
from etude.optimizers.classes.muon_settings import muon_settings


class TorchMuonAdamW(Optimizer):
    """`torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` and `torch.optim.AdamW` as one.

        matrices:  B ← μ B + (1 - μ) g,   w ← (1 - lr λ) w - lr 0.2 √max(rows, columns) · NS(U)
        the rest:  AdamW with the same lr and λ

    torch's class takes matrices of two axes only, so that kernels belong to the rest; the row
    `muon` orthogonalises them too. A tensor of two axes is a matrix unless its group has
    `"matrix": False`, which `etude.optimizers.build` sets for all tensors that AdamW trains.

    Args:
        params: Parameters, or groups of them.
        lr: The rate, of matrices and all other tensors.
        momentum: μ.
        nesterov: Whether to use Nesterov momentum.
        ns_steps: Newton-Schulz iterations.
        weight_decay: λ, decoupled.
        betas: AdamW's (β1, β2).
        eps: AdamW's ε.
        matrix: Selectors of the matrices, which only `build` reads.

    Source: torch.optim.Muon, of torch 2.9 and later; Liu et al. 2025, arXiv:2502.16982.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        matrix: Any = ("hidden",),
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise BadValueError(
                f"torch {torch.__version__} has no torch.optim.Muon, which came with 2.9: use muon"
            )
        adamw = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, muon_settings(momentum, nesterov, ns_steps, **adamw))

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        matrices, rest = [], []
        for group in self.param_groups:
            chosen = [p for p in group["params"] if group["matrix"] and p.ndim == 2]
            known = {id(p) for p in chosen}
            muon = torch.optim.Muon(placeholder(), adjust_lr_fn="match_rms_adamw").defaults
            matrices.append(({**muon, **_of_muon(group)}, chosen))
            rest.append((group, [p for p in group["params"] if id(p) not in known]))
        step_part(torch.optim.Muon(placeholder()), self, matrices)
        step_part(AdamW(placeholder()), self, rest)
        return loss


def _of_muon(group: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a group that torch's Muon reads; its ε is its own."""
    names = ("lr", "weight_decay", "momentum", "nesterov", "ns_steps")
    return {name: group[name] for name in names}
