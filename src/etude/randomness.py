"""Random numbers: seeds derived from a run's seed, and isolation of the global random state."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *path: str | int) -> int:
    """Return an independent 63-bit seed, derived from a run's seed for a named purpose.

    >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
    True
    """
    text = "/".join(map(str, (seed, *path))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class RandomState:
    """The global random state of Python, NumPy and torch at one moment."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: Tensor
    accelerators: tuple[Tensor, ...]

    @classmethod
    def capture(cls) -> RandomState:
        """Read the state without drawing from it."""
        started = torch.cuda.is_initialized() and torch.cuda.is_available()  # type: ignore[no-untyped-call]
        devices = torch.cuda.get_rng_state_all() if started else []
        return cls(
            random.getstate(),
            np.random.get_state(legacy=True),  # type: ignore[arg-type]  # noqa: NPY002
            torch.get_rng_state(),
            tuple(devices),
        )

    def restore(self) -> None:
        """Write the state back.

        The state may be of a machine with more GPUs. If no GPU was in use when it was read, those
        in use now get what `torch.manual_seed` gave them, with the same seed as the CPU.
        """
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch)
        if self.accelerators:
            count = torch.cuda.device_count()
            for place, state in enumerate(self.accelerators[:count]):
                torch.cuda.set_rng_state(state, place)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(torch.initial_seed())

    def is_current(self) -> bool:
        """Return whether the global random state is this one: nothing was drawn since.

        >>> state = RandomState.capture()
        >>> before = state.is_current()
        >>> _ = torch.rand(())
        >>> before, state.is_current()
        (True, False)
        """
        now = RandomState.capture()
        kind, keys, *rest = self.numpy
        other, own, *left = now.numpy
        return (
            self.python == now.python
            and (kind, rest) == (other, left)
            and np.array_equal(keys, own)
            and torch.equal(self.torch, now.torch)
            and len(self.accelerators) == len(now.accelerators)
            and all(map(torch.equal, self.accelerators, now.accelerators))
        )

    def tree(self) -> dict[str, Any]:
        """Return the state as plain values and tensors, for a checkpoint."""
        version, words, gauss = self.python
        kind, keys, *rest = self.numpy
        return {
            "python": [version, list(words), gauss],
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
            "torch": self.torch,
            "accelerators": list(self.accelerators),
        }

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> RandomState:
        """Rebuild a state from `tree()`."""
        version, words, gauss = tree["python"]
        kind, keys, *rest = tree["numpy"]
        return cls(
            (version, tuple(words), gauss),
            (kind, keys.numpy().astype(np.uint32), *rest),
            tree["torch"],
            tuple(tree["accelerators"]),
        )


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device) from one number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # for devices that are not there, `manual_seed` keeps the stack of its caller: 0.4 ms
        torch.default_generator.manual_seed(seed)


class OwnRandomness:
    """A separate global random state, which is active within each `with` block.

    >>> own = OwnRandomness(0)
    >>> with own:
    ...     first = torch.rand(())
    >>> with own, random_state_kept(0):
    ...     again = torch.rand(())
    >>> with own:
    ...     second = torch.rand(())
    >>> bool(first == again), bool(first == second)
    (True, False)
    """

    def __init__(self, seed: int) -> None:
        with random_state_kept(seed):
            self._own = RandomState.capture()

    def __enter__(self) -> None:
        self._caller = RandomState.capture()
        self._own.restore()

    def __exit__(self, *error: object) -> None:
        self._own = RandomState.capture()
        self._caller.restore()


@contextmanager
def random_state_kept(seed: int | None = None) -> Iterator[None]:
    """Restore the caller's random state after a block; with a seed, seed the block."""
    before = RandomState.capture()
    try:
        if seed is not None:
            seed_everything(seed)
        yield
    finally:
        before.restore()
