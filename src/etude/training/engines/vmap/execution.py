"""How an update is run: as it is, as a traced graph, or compiled; whichever pays."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from etude.training.engines.vmap.program import Feed, Leaves, Program, Stacked

Mode = Literal["auto", "never", "always"]
"""When to compile."""

Scales = tuple[Tensor, Tensor] | None

SECONDS_PER_NODE = 0.08
"""Seconds that compiling costs per operation of the traced graph: 0.05 to 0.1 on one core."""

SHARE = 0.5
"""Share of the time that a compiled update takes of one that is not: 0.2 to 0.6."""

LARGEST = 1500
"""Operations beyond which a graph is not compiled: it would take minutes."""


class Execution:
    """Runs the updates of one program, and remembers what was traced and compiled.

    Args:
        program: What to run.
        compile: 'auto' where it pays within the updates to come.
    """

    def __init__(self, program: Program, compile: Mode = "auto") -> None:
        self.program, self.mode = program, compile
        self.reason = ""
        self.seconds = 0.0
        self._compiled: dict[Hashable, Callable[..., Any]] = {}
        self._tried: set[Hashable] = set()
        self._times: dict[Hashable, list[float]] = {}
        self._ahead = 0

    def plan(self, ahead: int) -> None:
        """Say how many updates are to come."""
        self._ahead = ahead

    @property
    def compiled(self) -> bool:
        """Whether anything was compiled."""
        return bool(self._compiled)

    def step(
        self, state: Stacked, feed: Feed, data: Leaves, scales: Scales
    ) -> tuple[Stacked, Tensor]:
        """Do one update; see `Program.step`."""
        key = _key(state, feed)
        self._ahead -= 1
        if key not in self._compiled and key not in self._tried and self._pays(key):
            self._compile(key, state, feed, data, scales)
        if key in self._compiled:
            result: tuple[Stacked, Tensor] = self._compiled[key](state, feed, data, scales)
            return result
        started = time.perf_counter()
        result = self.program.step(state, feed, data, scales)
        times = self._times.setdefault(key, [])
        if len(times) < 8:
            times.append(time.perf_counter() - started)
        return result

    def worth(self, key: Hashable) -> float:
        """Return the seconds that compiling would save over the updates to come."""
        times = self._times.get(key, [])
        return 0.0 if len(times) < 3 else min(times) * self._ahead * (1 - SHARE)

    def _pays(self, key: Hashable) -> bool:
        if self.mode != "auto":
            return self.mode == "always"
        # Nothing compiles in less than some seconds: not worth a trace to find out.
        return self.worth(key) > 5.0

    def _compile(
        self, key: Hashable, state: Stacked, feed: Feed, data: Leaves, scales: Scales
    ) -> None:
        self._tried.add(key)
        started = time.perf_counter()
        try:
            leaves, tree = pytree.tree_flatten((state, feed, data, scales))
            shape: list[Any] = []

            def flat(*tensors: Tensor) -> list[Any]:
                outputs, spec = pytree.tree_flatten(
                    self.program.step(*pytree.tree_unflatten(tensors, tree))
                )
                shape[:] = [spec]
                return outputs

            graph = make_fx(flat)(*leaves)
            nodes = len(graph.graph.nodes)
            expected = nodes * SECONDS_PER_NODE
            if self.mode == "auto" and (nodes > LARGEST or self.worth(key) < 1.3 * expected):
                return
            compiled = _inductor(graph, leaves)
            with torch.no_grad():
                compiled(*leaves)  # what is compiled late is compiled now
        except Exception as error:  # noqa: BLE001  (no compiler, or one that cannot)
            self.reason = f"not compiled: {str(error).strip().partition(chr(10))[0][:120]}"
            return
        finally:
            self.seconds += time.perf_counter() - started

        def call(state: Stacked, feed: Feed, data: Leaves, scales: Scales) -> Any:
            with torch.no_grad():
                leaves = pytree.tree_leaves((state, feed, data, scales))
                return pytree.tree_unflatten(compiled(*leaves), shape[0])

        self._compiled[key] = call


def _inductor(graph: torch.fx.GraphModule, leaves: list[Any]) -> Callable[..., Any]:
    import torch._inductor

    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    with torch.no_grad():
        compiled: Callable[..., Any] = torch._inductor.compile(graph, leaves)
    return compiled


def _key(state: Stacked, feed: Feed) -> Hashable:
    return (tuple(state.rows.shape), tuple(feed.samples.shape))
