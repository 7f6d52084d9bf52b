"""Runs an update directly, as a traced graph, or compiled, whichever is expected to be fastest."""

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
"""Seconds to compile one operation of the traced graph; measured: 0.03 to 0.06 on an idle core."""

SHARE = 0.5
"""The time of a compiled update relative to one that is not compiled; measured: 0.2 to 0.6."""

TRACING = 2.0
"""A graph is traced if compiling would save at least this many seconds; tracing takes some tenths
of a second."""

LARGEST = 1500
"""The number of operations above which a graph is not compiled, because it would take minutes."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_compiler_threads)


class Execution:
    """Runs the updates of one program, and keeps what was traced and compiled.

    Args:
        program: The program.
        compile: When to compile; 'auto' if it saves time within the remaining updates.
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

    def expect_updates(self, ahead: int) -> None:
        """Set the number of updates that remain."""
        self._ahead = ahead

    @property
    def compiled(self) -> bool:
        """Whether anything was compiled."""
        return bool(self._compiled)

    def is_compiled(self, state: Stacked) -> bool:
        """Return whether updates of a stack of this size are compiled."""
        shape = tuple(state.rows.shape)
        return any(shape == key[0] for key in self._compiled)

    def step(
        self, state: Stacked, feed: Feed, data: Leaves, scales: Scales
    ) -> tuple[Stacked, Tensor]:
        """Do one update; see `BatchedUpdate.step`."""
        key = _key(state, feed)
        self._ahead -= 1
        if key not in self._compiled and key not in self._tried and self._is_worth_compiling(key):
            self._compile(key, state, feed, data, scales)
        ready = self._compiled.get(key) or self._traced.get(key)
        if ready is not None:
            result: tuple[Stacked, Tensor] = ready(state, feed, data, scales)
            return result
        started = time.perf_counter()
        result = self.program.step(state, feed, data, scales)
        times = self._times.setdefault(key, [])
        if len(times) < 8:  # only the shortest time is used
            times.append(time.perf_counter() - started)
        return result

    def seconds_saved(self, key: Key) -> float:
        """Return the seconds that compiling would save in the remaining updates."""
        times = self._times.get(key, [])
        # Fewer would mislead: the first update of a kind is slower than the following ones.
        return 0.0 if len(times) < 3 else min(times) * self._ahead * (1 - SHARE)

    def _is_worth_compiling(self, key: Key) -> bool:
        if self.mode != "auto":
            return self.mode == "always"
        return self.seconds_saved(key) > TRACING

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
            # Even without compilation, the graph is faster than the update it was traced from.
            self._traced[key] = _nested(graph, shape)
            if self.mode == "auto" and (
                nodes > LARGEST or self.seconds_saved(key) < 1.3 * expected
            ):
                return
            self._compiled[key] = _nested(compiled(graph, leaves), shape)
        except Exception as error:  # noqa: BLE001  (no compiler, or one that cannot)
            self.reason = f"not compiled: {str(error).strip().partition(chr(10))[0][:120]}"
            return
        finally:
            self.seconds += time.perf_counter() - started


def _nested(flat: Callable[..., Any], shape: list[Any]) -> Callable[..., Any]:
    """Return a function of nested arguments from a function of flat tensors."""

    def call(state: Stacked, feed: Feed, data: Leaves, scales: Scales) -> Any:
        with torch.no_grad():
            leaves = leaves_of((state, feed, data, scales))
            return unflattened(flat(*leaves), shape[0])

    return call


def _key(state: Stacked, feed: Feed) -> Key:
    return (tuple(state.rows.shape), tuple(feed.samples.shape))
