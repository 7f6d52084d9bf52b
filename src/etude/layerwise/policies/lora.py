"""LoRA+: the second matrix of a low-rank adapter learns faster than the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.parts import Part
from etude.layerwise.policies.policy import Factor, Policy, Setting, number
from etude.layerwise.selectors import Selector, near_misses
from etude.optimizers.adapters import is_second


@dataclass(frozen=True, repr=False)
class LoraPlus(Policy):
    """LoRA+: the matrices B of low-rank adapters have `ratio` times the rate of all others.

    An adapter changes a layer's weights by scaling · B A. B begins with zeros, and has as many
    rows as the layer has outputs. With one rate for both, A learns too fast or B too slowly as the
    layer grows wider; the ratio mends this.

    The matrices are found by name: `lora_B` or `lora_embedding_B`, as peft names them. Compared
    with `peft.optimizers.create_loraplus_optimizer`, weight decay stays as the recipe has it,
    biases keep the rate of A, and so do the adapters of embeddings, which there have a fixed rate
    of 1e-6.

    Args:
        ratio: The rate of B over that of A, at least 1. The paper uses 16 with a rate somewhat
            below that of LoRA.
        second: A selector of the matrices B, for adapters with other names, such as '*.up.weight'.

    Source: Hayou et al. 2024 (LoRA+), arXiv:2402.12354.
    """

    name: ClassVar[str] = "lora_plus"
    ratio: float = 16.0
    second: str = ""

    def __post_init__(self) -> None:
        self.put(ratio=number("lora_plus", "ratio", self.ratio, low=1.0))
        if not isinstance(self.second, str):
            raise BadTypeError(
                f"lora_plus: second={self.second!r}: give a selector, such as '*.up.weight'"
            )
        if self.second and Selector.of(self.second).slices:
            raise BadValueError(
                f"lora_plus: second={self.second!r} selects rows of a tensor: select whole tensors"
            )

    @property
    def by_role(self) -> bool:
        """Whether the selector of B depends on input and output."""
        return bool(self.second) and Selector.of(self.second).by_role

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: `ratio` for the matrices B, else 1."""
        if not self.second:
            chosen = [is_second(part.name) for part in parts]
            if not any(chosen):
                raise BadValueError(
                    f"{self!r}: no trained parameter is named lora_B or lora_embedding_B: add "
                    "adapters to the model first, or select their matrices B, such as "
                    "lora_plus(second='*.up.weight')"
                )
        else:
            selector = Selector.of(self.second)
            chosen = [selector.covers(part, setting.depths) for part in parts]
            if not any(chosen):
                hint = near_misses(selector, parts, setting.depths)
                raise BadValueError(f"{self!r} matches no parameter: {hint}")
        return [Factor(self.ratio if is_b else 1.0) for is_b in chosen]
