"""How an update is run: as it is, as a traced graph, or compiled; whichever pays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from etude.engines.vmap.batched_update import BatchedUpdate, Feed, Leaves, Stacked
from etude.torch_internals import (
    compiled,
    flattened,
    forget_compiler_threads,
    leaves_of,
    traced,
    unflattened,
)

Mode = Literal["auto", "never", "always"]
"""When to compile."""

Key = tuple[tuple[int, ...], tuple[int, ...]]

Scales = tuple[Tensor, Tensor] | None

SECONDS_PER_NODE = 0.05
"""Seconds that compiling costs per operation of the traced graph: 0.03 to 0.06 on an idle core."""

SHARE = 0.5
"""Share of the time that a compiled update takes of one that is not: 0.2 to 0.6."""

TRACING = 2.0
"""Seconds to be saved before a graph is traced, which takes some tenths of one."""

LARGEST = 1500
"""Operations beyond which a graph is not compiled: it would take minutes."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_compiler_threads)


class Execution:
    """Runs the updates of one program, and remembers what was traced and compiled.

    Args:
        program: What to run.
        compile: 'auto' where it pays within the updates to come.
    """

    def __init__(self, program: BatchedUpdate, compile: Mode = "auto") -> None:
        self.program, self.mode = program, compile
        self.reason = ""
        self.seconds = 0.0
        self._compiled: dict[Key, Callable[..., Any]] = {}
        self._traced: dict[Key, Callable[..., Any]] = {}
        self._tried: set[Key] = set()
        self._times: dict[Key, list[float]] = {}
        self._ahead = 0

    def plan(self, ahead: int) -> None:
        """Say how many updates are to come."""
        self._ahead = ahead

    @property
    def compiled(self) -> bool:
        """Whether anything was compiled."""
        return bool(self._compiled)

    def is_compiled(self, state: Stacked) -> bool:
        """Whether updates of so many members are."""
        shape = tuple(state.rows.shape)
        return any(shape == key[0] for key in self._compiled)

    def step(
        self, state: Stacked, feed: Feed, data: Leaves, scales: Scales
    ) -> tuple[Stacked, Tensor]:
        """Do one update; see `BatchedUpdate.step`."""
        key = _key(state, feed)
        self._ahead -= 1
        if key not in self._compiled and key not in self._tried and self._pays(key):
            self._compile(key, state, feed, data, scales)
        ready = self._compiled.get(key) or self._traced.get(key)
        if ready is not None:
            result: tuple[Stacked, Tensor] = ready(state, feed, data, scales)
            return result
        started = time.perf_counter()
        result = self.program.step(state, feed, data, scales)
        times = self._times.setdefault(key, [])
        if len(times) < 8:  # the least of these is all that is asked for
            times.append(time.perf_counter() - started)
        return result

    def worth(self, key: Key) -> float:
        """Return the seconds that compiling would save over the updates to come."""
        times = self._times.get(key, [])
        # Fewer do not tell: the first update of a kind is slower than those that follow.
        return 0.0 if len(times) < 3 else min(times) * self._ahead * (1 - SHARE)

    def _pays(self, key: Key) -> bool:
        if self.mode != "auto":
            return self.mode == "always"
        return self.worth(key) > TRACING

    def _compile(self, key: Key, state: Stacked, feed: Feed, data: Leaves, scales: Scales) -> None:
        self._tried.add(key)
        started = time.perf_counter()
        try:
            leaves, tree = flattened((state, feed, data, scales))
            shape: list[Any] = []

            def flat(*tensors: Tensor) -> list[Any]:
                outputs, spec = flattened(self.program.step(*unflattened(tensors, tree)))
                shape[:] = [spec]
                return outputs

            graph = traced(flat, leaves)
            nodes = len(graph.graph.nodes)
            expected = nodes * SECONDS_PER_NODE
            # The graph is faster than the update that it was traced from, compiled or not.
            self._traced[key] = _called(graph, shape)
            if self.mode == "auto" and (nodes > LARGEST or self.worth(key) < 1.3 * expected):
                return
            self._compiled[key] = _called(compiled(graph, leaves), shape)
        except Exception as error:  # noqa: BLE001  (no compiler, or one that cannot)
            self.reason = f"not compiled: {str(error).strip().partition(chr(10))[0][:120]}"
            return
        finally:
            self.seconds += time.perf_counter() - started


def _called(flat: Callable[..., Any], shape: list[Any]) -> Callable[..., Any]:
    """Return a function of the flat tensors as one of the nested arguments."""

    def call(state: Stacked, feed: Feed, data: Leaves, scales: Scales) -> Any:
        with torch.no_grad():
            leaves = leaves_of((state, feed, data, scales))
            return unflattened(flat(*leaves), shape[0])

    return call


def _key(state: Stacked, feed: Feed) -> Key:
    return (tuple(state.rows.shape), tuple(feed.samples.shape))
