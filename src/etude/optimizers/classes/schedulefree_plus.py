"""ScheduleFree+ with an ordinary step: the rate is the given one, not Polyak's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from etude.errors import BadValueError
from etude.optimizers.classes.gather import Loss, gather, loss_of


class ScheduleFreePlus(Optimizer):
    """Schedule-Free with inner momentum, a growing window of the average, and AdamC's decay.

        z ← z - lr² λ y
        m ← β1 m + (1 - β1) g,    v ← β2 v + (1 - β2) g²      g is the gradient at y
        z ← z - lr m̂ / (√v̂ + ε)
        x ← (1 - c) x + c z,    c = k^r lr_max^p / Σ k^r lr_max^p;  c = 1 in the first c_warmup
        y = β x + (1 - β) z,    1 - β from 1 - sf_beta1 to 1 - sf_beta1_max, in equal ratios

    k counts updates from 1, and lr_max is the largest rate so far. Weights are trained at y;
    after `eval()` they are the average x, after `train()` they are y again.

    The paper also multiplies the rate by Polyak's step, (loss + β ⟨g, z - x⟩) / ‖g‖₁ √(2/π), which
    needs the loss in every step. This class has the rest of it, at the rate that is given and
    tuned. Decay counts as lr² λ: for the decay of AdamW at a rate η, give λ / η.

    Args:
        params: Parameters, or groups of them.
        lr: The rate.
        betas: (β1, β2) of the inner Adam.
        sf_beta1: β at the first update.
        sf_beta1_max: β after `anneal_steps` updates.
        anneal_steps: Updates over which β grows; 0 leaves it at `sf_beta1`.
        eps: ε.
        weight_decay: λ.
        r: The power of the update's number in the weights of the average.
        weight_lr_power: p.
        c_warmup: Updates in which x follows z; best as long as the warmup, or twice.

    Source: Defazio 2026, arXiv:2605.19095; its research code is `AdamCScheduleFreePlusPaper` in
    facebookresearch/schedule_free. The decay: Defazio 2025 (AdamC), arXiv:2506.02285.

    >>> w = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = ScheduleFreePlus([w], lr=0.1)
    >>> optimizer.train()
    >>> w.grad = torch.ones(1)
    >>> optimizer.step()
    >>> round(w.item(), 4)
    -0.1
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        sf_beta1: float = 0.9,
        sf_beta1_max: float = 0.965,
        anneal_steps: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        c_warmup: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "sf_beta1": sf_beta1,
            "sf_beta1_max": sf_beta1_max,
            "anneal_steps": anneal_steps,
            "eps": eps,
            "weight_decay": weight_decay,
            "r": r,
            "weight_lr_power": weight_lr_power,
            "c_warmup": c_warmup,
            "train_mode": False,
            "k": 0,
            "lr_max": 0.0,
            "weight_sum": 0.0,
        }
        super().__init__(params, defaults)

    def train(self) -> None:
        """Put the weights at y, where gradients are taken."""
        self._switch(to_train=True)

    def eval(self) -> None:
        """Put the weights at x, their average."""
        self._switch(to_train=False)

    @torch.no_grad()
    def _switch(self, *, to_train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == to_train:
                continue
            for parameter in group["params"]:
                state = self.state[parameter]
                if "x" in state:
                    here = _between(group, state) if to_train else state["x"]
                    parameter.copy_(here)
            group["train_mode"] = to_train

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            if not group["train_mode"]:
                raise BadValueError(
                    "ScheduleFreePlus trains other weights than it evaluates: call "
                    "optimizer.train() before step(), and optimizer.eval() before an evaluation"
                )
            group["k"] += 1
            share = self._share(group)
            for parameter, gradient, first, second in self._moments(group):
                self._update(group, parameter, gradient, first, second, share)
        return loss

    def _share(self, group: dict[str, Any]) -> float:
        """Return c, the weight of z in the average."""
        count = group["k"]
        group["lr_max"] = max(group["lr_max"], float(group["lr"]))
        if count - 1 < group["c_warmup"]:
            return 1.0
        weight = count ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += weight
        return float(weight / group["weight_sum"]) if group["weight_sum"] else 0.0

    def _moments(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        parameters, gradients, (first, second) = gather(self, group, "exp_avg", "exp_avg_sq")
        for parameter in parameters:
            state = self.state[parameter]
            for name in ("z", "x"):
                if name not in state:
                    state[name] = parameter.detach().clone(memory_format=torch.preserve_format)
        return list(zip(parameters, gradients, first, second, strict=True))

    def _update(
        self,
        group: dict[str, Any],
        parameter: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        share: float,
    ) -> None:
        state, rate, count = self.state[parameter], group["lr"], group["k"]
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            state["z"].sub_(parameter, alpha=rate * rate * group["weight_decay"])
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = second.div(1 - beta2**count).sqrt_().add_(group["eps"])
        state["z"].addcdiv_(first / (1 - beta1**count), scale, value=-rate)
        state["x"].lerp_(state["z"], share)
        parameter.copy_(_between(group, state))


def _between(group: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """Return y = β x + (1 - β) z for the β of the group's last update."""
    steps = group["anneal_steps"]
    done = min(max(group["k"] - 1, 0) / steps, 1.0) if steps > 0 else 0.0
    first, last = math.log(1 - group["sf_beta1"]), math.log(1 - group["sf_beta1_max"])
    return torch.lerp(state["x"], state["z"], math.exp(first * (1 - done) + last * done))
