"""A run's own random state, which is separate from that of the caller and of other runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from etude.randomness import RandomState, derive_seed, random_state_kept
from etude.tasks.sources.data import Data


class RunRandomness:
    """The random state of one run: the global state while it trains, saved while it is paused.

    Args:
        seed: The seed of the recipe.
        *path: Where the run is not the whole run: the number of its process, from 1.
    """

    def __init__(self, seed: int, *path: int) -> None:
        with random_state_kept(derive_seed(seed, "noise", *path)):
            self._state: RandomState | None = RandomState.capture()
        self._orders: list[Tensor] = []

    @contextmanager
    def in_use(self, data: Data) -> Iterator[None]:
        """Use it as the global state, and for the data's generators; restore the caller's after."""
        caller = RandomState.capture()
        generators = data.generators()
        with data.untouched():
            if self._orders:
                for generator, state in zip(generators, self._orders, strict=True):
                    generator.set_state(state)
            assert self._state is not None
            self._state.restore()
            self._state = None  # it is now the global state
            try:
                yield
            finally:
                self._state = RandomState.capture()
                self._orders = [generator.get_state() for generator in generators]
                caller.restore()

    def tree(self) -> dict[str, Any]:
        """Return the state as plain values and tensors, for a checkpoint."""
        return (self._state or RandomState.capture()).tree()

    def load(self, tree: dict[str, Any]) -> None:
        """Restore what `tree` returned.

        A GPU of which it has no state, since the run was on another machine or on the CPU, keeps
        its own: it follows from the run's seed too.
        """
        found = RandomState.from_tree(tree)
        own = (self._state or RandomState.capture()).accelerators
        whole = (*found.accelerators, *own[len(found.accelerators) :])
        self._state, self._orders = replace(found, accelerators=whole), []
