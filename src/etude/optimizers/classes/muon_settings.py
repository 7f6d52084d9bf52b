"""What a parameter group of Muon holds: the settings of Muon, and those of AdamW for the rest."""

from __future__ import annotations

from typing import Any

from torch.optim import AdamW

from etude.optimizers.classes.halves import placeholder


def muon_settings(momentum: float, nesterov: bool, ns_steps: int, **adamw: Any) -> dict[str, Any]:
    """Return the defaults of a group; those that nobody gave, as `capturable`, are AdamW's.

    Args:
        momentum: μ.
        nesterov: Whether to use Nesterov momentum.
        ns_steps: Newton-Schulz iterations.
        **adamw: The arguments of torch.optim.AdamW, whose rate and weight decay matrices share.
    """
    return {
        **AdamW(placeholder(), **adamw).defaults,
        "momentum": momentum,
        "nesterov": nesterov,
        "ns_steps": ns_steps,
        "matrix": True,
    }
