"""One row of the table: what is known of an optimizer before it is built."""

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

Voice = tuple[float, str]
"""How much a trait weighs for (or against) an optimizer, and the words."""

Suits = Mapping[Trait, Voice]

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
"""What brings them all."""


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """What is known of one optimizer.

    Attributes:
        name: What a recipe calls it.
        factory: 'module:attribute' of the torch Optimizer class.
        hyperparameters: Those a recipe may set, with bounds; the defaults are the factory's own.
        lr: The factory's own default rate.
        centre: log10 of the rate around which a search begins; a prior, never a bound.
        paper: Where it comes from.
        when: One line on when to choose it.
        decay: Whether `weight_decay` joins the gradient ('coupled'), shrinks the weights on its
            own ('decoupled'), or is not there.
        decay_flag: The switch among its hyperparameters that decouples the decay, if any.
        closure: What its step needs: '' the gradient in `p.grad` alone; 'gradient' a closure
            that sets the gradient anew and returns the loss; 'graph' one that returns the loss
            with its graph, for Hessian-vector products.
        eval_mode: Whether it trains at other weights than those to be evaluated, and has
            `train()` and `eval()` to move between them.
        why_no_slices: Why rows of a tensor cannot have rates of their own; empty where each entry's
            change is that entry's rate times something that no rate enters.
        why_no_rates: Why parameter groups cannot have rates of their own; empty if they can.
        sparse: Whether sparse gradients are accepted; 'without decay': only at weight_decay 0.
        rate_free: Whether it sizes its step itself, its rate being a multiplier that starts at 1.
        schedule_free: Whether a constant rate (after a warmup) is what it is made for.
        stacked: The formula by which many runs of it are trained as one, by its name in
            `etude.engines.vmap.optimizers.RULES`; empty if there is none, and such runs are then
            trained one after another.
        in_turns: Whether parts of a model may be updated in turns, the others having no gradient:
            what it remembers is of single parameters, so that it is as if each part had its own.
        complex_numbers: Whether parameters may be complex; each number is then two real ones.
        family: Whether its step grows with the gradient ('sgd') or does not ('adam'): that decides
            how its rate goes with batch size, width and depth. Empty if no rule is known.
        stability: The rule for the largest stable rate, by its name in
            `etude.measure.threshold.RULES`; empty if none is known.
        why_no_threshold: Why none is known.
        centre_share: 1 - momentum at which `centre` is stated, for an optimizer whose step is the
            rate times a sum of gradients, which grows with the momentum; None for others.
        most_parameters: The largest model it takes; None without a limit.
        suits: What `optimizers.match` says of it, by the trait of the task.
        advised: Hyperparameters that `optimizers.match` proposes with it.
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

    @property
    def linear(self) -> bool:
        """Whether a multiplier of the rate for a part of a tensor is exact."""
        return not (self.why_no_slices or self.why_no_rates)

    @property
    def group_rates(self) -> bool:
        """Whether parameter groups may have rates of their own."""
        return not self.why_no_rates

    @property
    def vmap(self) -> bool:
        """Whether many runs of it can be trained as one under `torch.func.vmap`."""
        return bool(self.stacked)

    @property
    def chooses_matrices(self) -> bool:
        """Whether it treats hidden matrices apart, which asks for the flow through the model."""
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
        """What to install for it; empty if it comes with torch or with Etude."""
        return EXTRAS.get(self.module.partition(".")[0], "")

    @property
    def installed(self) -> bool:
        """Whether it can be built here: it comes with torch or with Etude, or its package is in."""
        return not self.package or find_spec(self.module.partition(".")[0]) is not None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What sets it apart, in words."""
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
        """Return the value in force: the one given, else the default."""
        return hyperparameters.get(name, self.hyperparameters[name].default)

    def decays(self, hyperparameters: Mapping[str, Any]) -> Decay:
        """Return how `weight_decay` acts with these hyperparameters."""
        if self.decay_flag and self.value(hyperparameters, self.decay_flag):
            return "decoupled"
        return self.decay

    def scheduled(self, name: str) -> Number | None:
        """Return the bounds of a value that may follow a schedule; None if it may not.

        Besides the plain numbers these are 'momentum' (or 'beta1') and 'beta2' of a pair of
        betas.
        """
        kind = self.hyperparameters.get(name)
        if isinstance(kind, Number):
            return None if kind.once else kind
        betas = self.hyperparameters.get("betas")
        if isinstance(betas, Pair):
            return {"momentum": betas.first, "beta1": betas.first, "beta2": betas.second}.get(name)
        return None
