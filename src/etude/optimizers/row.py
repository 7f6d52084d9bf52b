"""The row of an optimizer in the table: all that is known of it before it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Literal

from etude.errors import unknown_name
from etude.optimizers.hyperparameters import Hyperparameter, Number, Pair, Selectors

Closure = Literal["", "gradient", "graph"]
Decay = Literal["coupled", "decoupled", "none"]
Sparse = Literal["no", "yes", "without decay"]
Family = Literal["", "sgd", "adam"]
Trait = Literal[
    "usual",
    "sparse gradients",
    "rare rows",
    "noise",
    "one layer",
    "curvature",
    "curvature of matrices",
    "even curvature",
    "attention",
    "normalised convolutions",
    "recurrent",
    "matrices",
    "mostly matrices",
    "deep without normalisation",
    "bursts",
    "large batch",
    "large batch of images",
    "large model",
]
"""What `optimizers.match` looks for in a task; "usual" holds for every task."""

WeightedReason = tuple[float, str]
"""A reason for (or, with a negative weight, against) an optimizer: its weight and its text."""

Suits = Mapping[Trait, WeightedReason]
"""How each trait of a task speaks for or against an optimizer."""

EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "schedulefree": "schedulefree",
        "prodigyopt": "prodigyopt",
        "dadaptation": "dadaptation",
        "pytorch_optimizer": "pytorch_optimizer",
    }
)
"""Module -> distribution of the libraries that the extra `optimizers` installs."""

INSTALL = "pip install 'etude[optimizers]'"
"""The command that installs all of them."""


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """All that is known of one optimizer.

    Attributes:
        name: Its name in recipes.
        factory: 'module:attribute' of the torch Optimizer class.
        hyperparameters: The hyperparameters that a recipe can set, with their bounds and the
            factory's defaults.
        lr: The factory's default rate.
        centre: log10 of the rate around which a search begins; a prior, never a bound.
        paper: Its source.
        when: When to choose it, in one line.
        decay: Whether `weight_decay` is added to the gradient ('coupled'), shrinks the weights
            separately ('decoupled'), or does not exist ('none').
        decay_flag: The hyperparameter that decouples the decay, if there is one.
        closure: What its step needs. '': only the gradient in `p.grad`. 'gradient': a closure that
            computes the gradient and returns the loss. 'graph': a closure that returns the loss
            with its graph, for Hessian-vector products.
        eval_mode: Whether it evaluates other weights than those that it trains, and has `train()`
            and `eval()` to switch between them.
        why_no_slices: Why rows of a tensor cannot have separate rates; empty if they can, because
            the change of each entry is its rate times a value that does not depend on any rate.
        why_no_rates: Why parameter groups cannot have separate rates; empty if they can.
        why_no_tensor: Why its rate cannot be a tensor; empty if it can.
        why_no_shards: Why its parameters cannot be kept in parts by several processes; empty if
            they can, because each entry's update needs that entry's gradients alone.
        sparse: Whether sparse gradients are accepted; 'without decay': only with weight_decay=0.
        rate_free: Whether it chooses its step size; its rate is then a multiplier, usually 1.
        schedule_free: Whether it is designed for a constant rate (after a warmup).
        stacked: The name of the formula that trains many runs as one, in
            `etude.engines.vmap.optimizers.RULES`; empty if there is none: such runs are trained one
            after another.
        in_turns: Whether parts of a model can be updated in turns, while the others have no
            gradient. That requires a state for each parameter, and none that all of them share.
        complex_numbers: Whether parameters can be complex; each number then counts as two real
            ones.
        family: 'sgd' if its step grows with the gradient, 'adam' if it does not. This determines
            how its rate depends on batch size, width and depth. Empty if no rule is known.
        stability: The rule for the largest stable rate, by its name in
            `etude.measure.threshold.RULES`; empty if none is known.
        why_no_threshold: Why no such rule is known.
        centre_share: The value of 1 - momentum for which `centre` holds, if the step is the rate
            times a sum of gradients, which grows with the momentum; None for others.
        most_parameters: The largest number of parameters that it supports; None without a limit.
        suits: For each trait of a task, the reason for or against it in `optimizers.match`.
        advised: Hyperparameters that `optimizers.match` proposes for it.
        needs: The module of another library that a factory of Etude's own wraps; empty if none.
        by_blocks: Whether entries of a tensor share a second moment, by the groups' 'axis' and
            'blocks', which are read from the model; see `etude.layerwise.blocks`.
    """

    name: str
    factory: str
    lr: float
    centre: float
    paper: str
    when: str
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict)
    decay: Decay = "coupled"
    decay_flag: str = ""
    closure: Closure = ""
    eval_mode: bool = False
    why_no_slices: str = ""
    why_no_rates: str = ""
    why_no_tensor: str = ""
    why_no_shards: str = ""
    sparse: Sparse = "no"
    rate_free: bool = False
    schedule_free: bool = False
    stacked: str = ""
    in_turns: bool = True
    complex_numbers: bool = True
    family: Family = ""
    stability: str = ""
    why_no_threshold: str = ""
    centre_share: float | None = None
    most_parameters: int | None = None
    suits: Suits = field(default_factory=dict)
    advised: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    by_blocks: bool = False

    @property
    def linear(self) -> bool:
        """Whether a multiplier of the rate for a part of a tensor is exact."""
        return not (self.why_no_slices or self.why_no_rates)

    @property
    def group_rates(self) -> bool:
        """Whether parameter groups can have separate rates."""
        return not self.why_no_rates

    @property
    def vmap(self) -> bool:
        """Whether many runs of it can be trained as one under `torch.func.vmap`."""
        return bool(self.stacked)

    @property
    def chooses_matrices(self) -> bool:
        """Whether it treats hidden matrices separately, for which it needs the model's flow."""
        return any(isinstance(kind, Selectors) for kind in self.hyperparameters.values())

    @property
    def module(self) -> str:
        """The module the factory is in."""
        return self.factory.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The factory's name in its module."""
        return self.factory.partition(":")[2]

    @property
    def package(self) -> str:
        """The package to install for it; empty if it comes with torch or Etude."""
        return EXTRAS.get(self._library, "")

    @property
    def installed(self) -> bool:
        """Whether it can be built: it comes with torch or Etude, or its package is installed."""
        return not self.package or find_spec(self._library) is not None

    @property
    def _library(self) -> str:
        return self.needs or self.module.partition(".")[0]

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Its special properties, in words."""
        words = {
            "sizes its own step": self.rate_free,
            "no schedule needed": self.schedule_free,
            "needs a closure": bool(self.closure),
            "has an eval mode": self.eval_mode,
            "sparse gradients": self.sparse != "no",
            "one rate for all": not self.group_rates,
        }
        return tuple(word for word, true in words.items() if true)

    def check(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters, each checked against its bounds, by name.

        Raises:
            UnknownNameError: If the optimizer has no hyperparameter of a name.
            BadValueError: If a value is out of bounds.
        """
        checked = {}
        for name in sorted(hyperparameters):
            if name not in self.hyperparameters:
                raise unknown_name(f"hyperparameter of {self.name}", name, self.hyperparameters)
            checked[name] = self.hyperparameters[name].check(
                f"{self.name}.{name}", hyperparameters[name]
            )
        return checked

    def value(self, hyperparameters: Mapping[str, Any], name: str) -> Any:
        """Return the value that is used: the given one, else the default."""
        return hyperparameters.get(name, self.hyperparameters[name].default)

    def decays(self, hyperparameters: Mapping[str, Any]) -> Decay:
        """Return how `weight_decay` acts with these hyperparameters."""
        if self.decay_flag and self.value(hyperparameters, self.decay_flag):
            return "decoupled"
        return self.decay

    def scheduled(self, name: str) -> Number | None:
        """Return the bounds of a hyperparameter that can follow a schedule; None if it cannot.

        Of a pair of betas, the names are 'momentum' (or 'beta1') and 'beta2'.
        """
        kind = self.hyperparameters.get(name)
        if isinstance(kind, Number):
            return None if kind.once else kind
        betas = self.hyperparameters.get("betas")
        if isinstance(betas, Pair):
            return {"momentum": betas.first, "beta1": betas.first, "beta2": betas.second}.get(name)
        return None
