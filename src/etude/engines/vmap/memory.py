"""Estimates how many members fit in memory at once."""

from __future__ import annotations

from etude.engines.vmap.batched_update import BatchedUpdate
from etude.free_memory import free_memory
from etude.training.run import Run

SHARE = 0.4
"""The share of the free memory that a stack may use."""

COPIES = 6
"""The number of rows of weights that an update holds besides the moments: old weights, new
weights, gradient, intermediate results."""


def members_at_once(program: BatchedUpdate, run: Run) -> int:
    """Estimate how many members may be stacked, at least 1.

    If the estimate is too high, the engine halves the stack after the out-of-memory error.

    A member needs several copies of its weights, and the tensors that the forward pass keeps for
    the backward pass: about four times its inputs and its layers' outputs.
    """
    weights = program.layout.width * (COPIES + 2 * len(program.rule.moments(program.flags)))
    tensors = run.task.train.tensors
    leaves = tensors.values() if isinstance(tensors, dict) else tensors
    inputs = sum(t[0].numel() for t in leaves) * run.batch_size
    outputs = run.batch_size * sum(shape[0] for shape in program.layout.shapes if len(shape) > 1)
    pixels = max(1, max(t[0].numel() // max(1, t.shape[1] if t.ndim > 1 else 1) for t in leaves))
    each = 4 * (weights + 4 * inputs + 4 * outputs * pixels)
    return max(1, int(SHARE * free_memory(run.device) / max(1, each)))
