"""A run's own random state, which nobody else sees and nobody else moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from etude.randomness import RandomState, derive_seed, random_state_kept
from etude.tasks.data import Data


class RunRandomness:
    """The random state of one run: the global one while it trains, put away while it pauses.

    Args:
        seed: The recipe's.
    """

    def __init__(self, seed: int) -> None:
        with random_state_kept(derive_seed(seed, "noise")):
            self._state: RandomState | None = RandomState.capture()
        self._orders: list[Tensor] = []

    @contextmanager
    def held(self, data: Data) -> Iterator[None]:
        """Swap it in, for the data's own generators too; the caller's is back when this ends."""
        caller = RandomState.capture()
        generators = data.generators()
        with data.untouched():
            if self._orders:
                for generator, state in zip(generators, self._orders, strict=True):
                    generator.set_state(state)
            assert self._state is not None
            self._state.restore()
            self._state = None  # it is the global state now
            try:
                yield
            finally:
                self._state = RandomState.capture()
                self._orders = [generator.get_state() for generator in generators]
                caller.restore()

    def tree(self) -> dict[str, Any]:
        """Return it as plain values and tensors, for a checkpoint."""
        return (self._state or RandomState.capture()).tree()

    def load(self, tree: dict[str, Any]) -> None:
        """Go back to what `tree` returned."""
        self._state, self._orders = RandomState.from_tree(tree), []
