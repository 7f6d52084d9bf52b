"""The stability threshold of an update rule: the largest stable rate × curvature.

On a quadratic loss whose curvature along one direction is λ, an update

    m ← β m + (1 - β) g,    w ← w - lr (c g + k m) / P

with a fixed divisor P oscillates with growing amplitude if

    lr λ  >  (2 + 2 β) / (c (1 + β) + k (1 - β)),

where λ is the largest eigenvalue of P^(-1/2) H P^(-1/2). The threshold of gradient descent, with
c = 1 and k = 0, is 2; of the heavy ball 2 + 2 μ; of Nesterov momentum (2 + 2 μ) / (1 + 2 μ); of
Adam 2 (1 + β1) / (1 - β1), which is 38 at 0.9.

Sources: Cohen et al. 2021, arXiv:2103.00065 (descent with and without momentum); Cohen et al.
2022, arXiv:2207.14484 (Adam and similar optimizers). The formula is Jury's condition at z = -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.layerwise.rates import at

if TYPE_CHECKING:
    from etude.training.run import Run

Group = Mapping[str, Any]
State = Mapping[str, Any]


@dataclass(frozen=True)
class Terms:
    """The numbers β, c and k of an update rule; see the module's docstring."""

    beta: float
    direct: float
    through: float

    @property
    def threshold(self) -> float:
        """The largest stable rate × curvature."""
        beta = self.beta
        return (2 + 2 * beta) / (self.direct * (1 + beta) + self.through * (1 - beta))


@dataclass(frozen=True)
class StabilityRule:
    """The stability threshold of one optimizer.

    Attributes:
        terms: Returns β, c and k for a parameter group and the state of one of its parameters.
        formula: The threshold as text.
        divisor: Returns P for the state of a parameter and its group; None if there is no divisor.
    """

    terms: Callable[[Group, State], Terms]
    formula: str
    divisor: Callable[[State, Group], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Stability:
    """The stability threshold of a run's update rule at its current state.

    Attributes:
        threshold: The largest stable rate × eigenvalue; None if it is unknown.
        formula: The formula of the threshold; empty if it is unknown.
        reason: Why the threshold is unknown; empty if it is known.
        scales: For each parameter of the run, 1 / P times the multiplier of its rate; None if all
            are 1.
        decay: For each parameter, the weight decay that is added to the gradient and therefore to
            the curvature; 0 for a decoupled decay.
    """

    threshold: float | None
    formula: str
    reason: str
    scales: tuple[Tensor, ...] | None
    decay: tuple[float, ...]


def stability(run: Run) -> Stability:
    """Return the stability threshold of a run, from the current state of its optimizer.

    Adam's bias correction of the first moment, which is negligible after tens of updates, is left
    out.
    """
    groups = run.optimizer.param_groups
    coupled = run.state.optimizer_spec.decays(run.recipe.optimizer.hyperparameters) == "coupled"
    decay = tuple(
        float(group.get("weight_decay", 0.0)) if coupled else 0.0
        for group in groups
        for _ in group["params"]
    )
    row = run.state.optimizer_spec
    kind = RULES.get(row.stability)
    if kind is None:
        why = row.why_no_threshold or "its step is not a fixed multiple of the gradient"
        return Stability(None, "", f"no threshold is known for {row.name}: {why}", None, decay)
    if run.state.rates is not None and run.state.rates.plan.trust is not None:
        return Stability(
            None, "", "trust ratios make the step independent of the gradient's size", None, decay
        )
    state = run.optimizer.state
    first = next((p for p in run.parameters if state.get(p)), None)
    if first is None and kind.divisor is not None:
        return Stability(
            None,
            "",
            f"{run.state.optimizer_spec.name} has no second moment before its first update",
            None,
            decay,
        )
    scales = multipliers(run)
    if kind.divisor is not None:
        divided = []
        flat = [(p, group) for group in groups for p in group["params"]]
        ones = scales or tuple(torch.ones_like(p) for p in run.parameters)
        for (parameter, group), scale in zip(flat, ones, strict=True):
            own = state.get(parameter)
            # The Hessian is 0 for a parameter that never had a gradient.
            divided.append(scale / kind.divisor(own, group) if own else scale)
        scales = tuple(divided)
    terms = kind.terms(groups[0], {} if first is None else state[first])
    return Stability(terms.threshold, kind.formula, "", scales, decay)


def multipliers(run: Run) -> tuple[Tensor, ...] | None:
    """Return the rate multiplier of every scalar of a run's parameters; None if all are 1."""
    if run.state.rates is None:
        return None
    rows = run.state.rates.plan.of()
    names = {id(p): name for name, p in run.model.named_parameters()}
    found = []
    for parameter in run.parameters:
        scale = torch.ones_like(parameter)
        for row in rows.get(names[id(parameter)], ()):
            value = at(row.multiplier, run.step, row.rule)
            if not row.label:
                scale.fill_(value)
                continue
            for first, last in row.spans:
                scale[first:last] = value
        found.append(scale)
    return tuple(found)


def _ball(group: Group, _: State) -> Terms:
    mu = float(group["momentum"])
    if group.get("nesterov"):
        return Terms(mu, 1.0, mu / (1 - mu))
    if mu == 0:
        return Terms(0.0, 1.0, 0.0)
    return Terms(mu, 0.0, (1 - float(group.get("dampening", 0.0))) / (1 - mu))


def _averaged(group: Group, _: State) -> Terms:
    return Terms(float(group["momentum"]), 0.0, 1.0)


def _first_moment(group: Group, _: State) -> Terms:
    return Terms(float(group["betas"][0]), 0.0, 1.0)


def _nadam(group: Group, state: State) -> Terms:
    beta, rate = float(group["betas"][0]), float(group["momentum_decay"])
    step = float(state["step"])
    now, later = (beta * (1 - 0.5 * 0.96 ** (t * rate)) for t in (step, step + 1))
    return Terms(beta, 1 - now, later)


def _none(group: Group, _: State) -> Terms:
    return Terms(0.0, 1.0, 0.0)


def _adam(state: State, group: Group) -> Tensor:
    second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    corrected = second / (1 - float(group["betas"][1]) ** float(state["step"]))
    return _plus(corrected.sqrt(), group)


def _uncorrected(state: State, group: Group) -> Tensor:
    return _plus(state["exp_avg_sq"].sqrt(), group)


def _adamax(state: State, _: Group) -> Tensor:
    found: Tensor = state["exp_inf"]  # includes ε
    return found.clone()


def _rmsprop(state: State, group: Group) -> Tensor:
    second = state["square_avg"]
    if group.get("centered"):
        second = (second - state["grad_avg"] ** 2).clamp(min=0)
    return _plus(second.sqrt(), group)


def _adagrad(state: State, group: Group) -> Tensor:
    slower = 1 + max(0.0, float(state["step"]) - 1) * float(group["lr_decay"])
    return _plus(state["sum"].sqrt(), group) * slower


def _plus(root: Tensor, group: Group) -> Tensor:
    found: Tensor = root + float(group["eps"])
    # With ε = 0, a scalar whose gradient was always 0 does not change.
    return found.where(found > 0, torch.inf)


_FORMULA = "2 (1 + β1) / (1 - β1)"
RULES: Mapping[str, StabilityRule] = MappingProxyType(
    {
        "sgd": StabilityRule(
            _ball, "2 + 2 μ; divided by 1 + 2 μ with nesterov, by 1 - d with dampening d"
        ),
        "averaged_momentum": StabilityRule(_averaged, "(2 + 2 β) / (1 - β)"),
        "adam": StabilityRule(_first_moment, _FORMULA, _adam),
        "adam_uncorrected": StabilityRule(_first_moment, _FORMULA, _uncorrected),
        "adamax": StabilityRule(_first_moment, _FORMULA, _adamax),
        "nadam": StabilityRule(_nadam, "(2 + 2 β1) / ((1 - μ) (1 + β1) + μ' (1 - β1))", _adam),
        "rmsprop": StabilityRule(_ball, "2 + 2 μ", _rmsprop),
        "adagrad": StabilityRule(_none, "2", _adagrad),
    }
)
"""The known rules, by the name in `stability` of an optimizer's row."""
