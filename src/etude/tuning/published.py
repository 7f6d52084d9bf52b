"""Published rules for the rate at which a search begins: Step Law, muP and LoRA.

A rule is text, `tune(task, start_from="step law")`. It says where the first rates are tried and
bounds nothing: the search goes on from there by what it measures.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import nn

from etude.errors import BadTypeError, BadValueError, shown, unknown_name
from etude.layerwise.model_parts import parts_of
from etude.layerwise.parts import layer_count
from etude.layerwise.policies.mup import Mup, input_width
from etude.layerwise.policies.policy import Named, number
from etude.layerwise.policies.text import expression, read_call
from etude.layerwise.selectors import Selector, near_misses
from etude.optimizers.adapters import Adapter, adapters
from etude.optimizers.prior import has_attention, lora_centre
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.tuning.transfer.rules import width_rule

STEP_LAW = (1.79, -0.713, 0.307)
"""Factor, exponent of the parameters and exponent of the tokens."""

STEP_LAW_PARAMETERS, STEP_LAW_TOKENS = (2.1e8, 1.1e9), (4e9, 1e11)
"""The sizes of the dense models in its authors' table, data/dense_lr_bs_loss.csv of
github.com/step-law/steplaw."""

LORA_TIMES = 10.0
"""The rate of LoRA over that of full fine-tuning; Schulman et al. 2025, "LoRA without regret"."""


@dataclass(frozen=True)
class Setup:
    """What a rule may read.

    Attributes:
        model: The network, before its first update.
        task: What it learns.
        recipe: How.
        samples: The number of samples that a full run sees.
    """

    model: nn.Module
    task: Task
    recipe: Recipe
    samples: int


@dataclass(frozen=True)
class Start:
    """Where a search begins.

    Attributes:
        lr: The rate.
        source: The rule, with its numbers and its source.
        outside: In what the task lies outside of the rule's domain; empty if it lies within.
    """

    lr: float
    source: str
    outside: str = ""


@dataclass(frozen=True, repr=False)
class PublishedRule(Named, ABC):
    """A named rule; `repr` is its text."""

    @abstractmethod
    def start(self, setup: Setup) -> Start:
        """Return where the search of a task begins.

        Raises:
            BadValueError: If the rule says nothing about such a task.
        """


def step_law(parameters: float, tokens: float) -> float:
    """Return the best peak rate of a language model: 1.79 · N^-0.713 · D^0.307.

    Args:
        parameters: N, without embedding and output layer.
        tokens: D, seen in the whole run.

    Source: Li et al. 2025, arXiv:2503.04715. Fitted on dense models of 0.2 to 1.1 billion
    parameters and 4 to 100 billion tokens, with AdamW, batches near the best, and a final rate of
    1e-5. On the 17 sizes of the authors' table it lies between 0.59 and 1.28 times the best rate.

    >>> round(step_law(1.07e9, 2e10), 5)
    0.00095
    """
    factor, of_parameters, of_tokens = STEP_LAW
    return float(factor * parameters**of_parameters * tokens**of_tokens)


@dataclass(frozen=True, repr=False)
class StepLawStart(PublishedRule):
    """`step_law()`: by the size of a language model and of its data; see `step_law`.

    Args:
        tokens: The tokens of the whole run; None counts them.
    """

    name: ClassVar[str] = "step_law"
    by_position: ClassVar[int] = 0
    tokens: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:
            self.put(tokens=number("step_law", "tokens", self.tokens, open_low=True))

    def start(self, setup: Setup) -> Start:
        """Return the rate of the law."""
        name = setup.recipe.optimizer.name
        if name != "adamw":
            raise BadValueError(
                f"step law is known for adamw, not for {name}: leave start_from out, or tune adamw"
            )
        samples, targets = setup.task.train.samples, setup.task.train.targets()
        if not has_attention(setup.model) or not samples or not targets or targets <= samples:
            raise BadValueError(
                "step law is known for transformers that predict each token: this task has "
                f"{'no attention' if not has_attention(setup.model) else 'no target per token'}; "
                "leave start_from out"
            )
        counted = sum(
            part.count
            for part in parts_of(setup.model)
            if part.kind != "embedding" and part.role not in ("output", "both")
        )
        tokens = self.tokens or setup.samples * targets / samples
        outside = [
            f"{count:.3g} {what} (fitted on {low:.2g} to {high:.2g})"
            for what, count, (low, high) in (
                ("parameters", counted, STEP_LAW_PARAMETERS),
                ("tokens", tokens, STEP_LAW_TOKENS),
            )
            if not low <= count <= high
        ]
        return Start(
            step_law(counted, tokens),
            f"step law, 1.79 · {counted:.3g}^-0.713 · {tokens:.3g}^0.307 (arXiv:2503.04715)",
            " and ".join(outside),
        )


@dataclass(frozen=True, repr=False)
class MupStart(PublishedRule):
    """`mup(base_width, lr)`: a rate that was tuned at another width.

    If the recipe's multipliers are `mup(base_width)`, the rate holds as it is. Otherwise one rate
    serves all layers, and the rule of `etude transfer` for the width scales it.

    Args:
        base_width: The width at which the rate was tuned.
        lr: The rate.

    Source: Yang et al. 2022, arXiv:2203.03466, table 3.
    """

    name: ClassVar[str] = "mup"
    by_position: ClassVar[int] = 2
    base_width: int = 0
    lr: float = 0.0

    def __post_init__(self) -> None:
        given = not isinstance(self.base_width, bool) and isinstance(self.base_width, int)
        if not given or self.base_width < 1 or not self.lr:
            raise BadValueError(
                f"start_from={self!r}: give the width and the rate that was tuned at it, such as "
                "'mup(base_width=64, lr=0.01)'"
            )
        self.put(lr=number("mup", "lr", self.lr, open_low=True))

    def start(self, setup: Setup) -> Start:
        """Return the rate at this width."""
        policies = setup.recipe.lr_mult.policies if setup.recipe.lr_mult else ()
        own = next((one for one in policies if isinstance(one, Mup)), None)
        if own is not None and own.base_width not in (None, self.base_width):
            raise BadValueError(
                f"start_from={self!r}, but the recipe's multipliers are of a base width of "
                f"{own.base_width}: give the rate that was tuned at that width"
            )
        try:
            width = self.base_width if own else input_width(parts_of(setup.model))
        except BadValueError as error:
            raise BadValueError(
                f"start_from={self!r}: the width of this model cannot be inferred: leave "
                "start_from out, or give the recipe lr_mult with mup(ratios=...)"
            ) from error
        rule = width_rule(
            setup.recipe, setup.task, self.base_width, round(width), mup=own is not None
        )
        return Start(self.lr * rule.factor, f"mup from lr={self.lr:g}: {rule.text()}")


@dataclass(frozen=True, repr=False)
class LoraStart(PublishedRule):
    """`lora()`: for low-rank adapters, by rank and alpha, or ten times a known rate.

    Args:
        full: The rate of full fine-tuning, if it is known: the search begins at ten times it.
            None uses the prior of adapters, `etude.optimizers.prior.lora_centre`.
        first: A selector of the matrices A (rank × inputs) of adapters that are not named lora_A,
            such as '*.down.weight'.
        scaling: The factor of B A for `first`, usually alpha / rank.

    Source: Schulman et al. 2025, "LoRA without regret" (thinkingmachines.ai/blog/lora): ten times,
    for AdamW, ranks 1 to 512, alpha 32, at all layers of models of 1 billion parameters and more.
    """

    name: ClassVar[str] = "lora"
    by_position: ClassVar[int] = 0
    full: float | None = None
    first: str = ""
    scaling: float = 1.0

    def __post_init__(self) -> None:
        if self.full is not None:
            self.put(full=number("lora", "full", self.full, open_low=True))
        if not isinstance(self.first, str):
            raise BadTypeError(f"lora: first={self.first!r}: give a selector of the matrices A")
        self.put(scaling=number("lora", "scaling", self.scaling, open_low=True))

    def start(self, setup: Setup) -> Start:
        """Return ten times the rate of full fine-tuning, or the prior."""
        found = self._selected(setup.model) if self.first else adapters(setup.model)
        if not found:
            raise BadValueError(
                "start_from='lora': no trained parameter is named lora_A with its lora_B: add "
                "adapters to the model first, or select their matrices A, such as "
                "\"lora(first='*.down.weight', scaling=2.0)\""
            )
        if self.full is not None:
            lr = LORA_TIMES * self.full
            return Start(lr, f"lora, 10 times full fine-tuning at {self.full:g}")
        attention = has_attention(setup.model)
        return Start(
            10 ** lora_centre(found, setup.recipe.optimizer, attention=attention),
            f"lora, the prior of {len(found)} adapters of rank {found[0].rank} and alpha "
            f"{found[0].alpha:g}",
        )

    def _selected(self, model: nn.Module) -> tuple[Adapter, ...]:
        parts = parts_of(model)
        selector, depths = Selector.of(self.first), layer_count(parts)
        chosen = [p for p in parts if selector.covers(p, depths) and len(p.shape) >= 2]
        if not chosen:
            hint = near_misses(selector, parts, depths)
            raise BadValueError(f"lora: first={self.first!r} matches no matrix: {hint}")
        return tuple(
            Adapter(p.name, p.rows, p.count // p.rows, self.scaling, p.count) for p in chosen
        )


RULES: Mapping[str, type[PublishedRule]] = MappingProxyType(
    {rule.name: rule for rule in (StepLawStart, MupStart, LoraStart)}
)
"""The rules. To add one, add its class here."""


def read_rule(text: object) -> PublishedRule:
    """Read a rule from its text, without running code.

    Args:
        text: 'step law', 'mup(base_width=64, lr=0.01)', 'lora' or 'lora(full=1e-4)'.

    Raises:
        BadTypeError: If it is no text.
        BadValueError: If it is not a rule, or an argument is wrong.
        UnknownNameError: If the rule or an argument is unknown.

    >>> read_rule("step law"), read_rule("lora(full=1e-4)")
    (step_law(), lora(full=0.0001))
    """
    if isinstance(text, PublishedRule):
        return text
    if not isinstance(text, str) or not text.strip():
        raise BadTypeError(f"start_from={shown(text)}: give a rule as text, such as 'step law'")
    spelled = text.strip()
    if spelled.lower().startswith("step law"):
        spelled = "step_law" + spelled[len("step law") :]
    tree = expression(spelled)
    name = tree.func if isinstance(tree, ast.Call) else tree
    if not isinstance(name, ast.Name) or name.id not in RULES:
        raise unknown_name("rule", name.id if isinstance(name, ast.Name) else text, RULES)
    if isinstance(tree, ast.Name):
        tree = ast.Call(tree, [], [])
    return read_call(tree, spelled, RULES)
