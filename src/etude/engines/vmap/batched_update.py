"""One update of all members at once: losses, gradients, clipping, the optimizer's formula."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from etude.engines.vmap.dropout import MaskReplay
from etude.engines.vmap.layout import Layout
from etude.engines.vmap.optimizers import RULES, Moments
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.data import Batch
from etude.tasks.task import Task
from etude.training.gradient.accumulation import positive
from etude.training.gradient.clipping import SMALLEST
from etude.training.run import Run

ALWAYS = ("lr", "weight_decay", "clip_norm", "clip_value", "clip_adaptive", "l1", "l2")
"""The columns that every optimizer has; those that a recipe does not set are not read."""

Leaves = tuple[Tensor, ...] | Mapping[str, Tensor]


class Stacked(NamedTuple):
    """The state of all members, one row each.

    Attributes:
        rows: The trained weights, (members, weights).
        moments: The optimizer's state tensors, (members, weights) each.
        fixed: The buffers and untrained parameters, (members, *shape) each.
    """

    rows: Tensor
    moments: Moments
    fixed: tuple[Tensor, ...]


class Feed(NamedTuple):
    """The inputs of one update besides the state.

    Attributes:
        columns: The scalars of the formula, (members, columns).
        samples: The indices of the batches' samples: (accumulate, samples) if all members read the
            same ones, else (members, accumulate, samples).
        masks: The dropout masks, batch by batch, (members, *shape) each.
    """

    columns: Tensor
    samples: Tensor
    masks: tuple[Tensor, ...]


class _Loss(nn.Module):
    """Computes the task's loss as a module, so that `functional_call` can replace the weights."""

    def __init__(self, net: nn.Module, task: Task) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, batch: Batch, watch: bool) -> WeightedLoss:
        """Return the loss of a batch, with its weight if `watch` is set."""
        loss, _, _ = self.task.weighed(self.net, batch, watch=watch)
        return loss


class BatchedUpdate:
    """The update of runs of one kind.

    Args:
        run: One of the runs.
        net: A copy of its network, on which the computation is traced.
        layout: The position of each parameter in a row.
        flags: The options of the optimizer's formula.
        weighs: Whether the number of targets that the loss averages over depends on the batch.
    """

    def __init__(
        self,
        run: Run,
        net: nn.Module,
        layout: Layout,
        flags: Mapping[str, bool],
        *,
        weighs: bool = False,
    ) -> None:
        recipe = run.recipe
        self.rule = RULES[run.state.optimizer_spec.stacked]
        self.loss = _Loss(net, run.objective.task)
        self.layout, self.flags, self.weighs = layout, flags, weighs
        self.batches = recipe.accumulate
        self.names = (*ALWAYS, *self.rule.names)
        self.buffers = frozenset(name for name, _ in net.named_buffers())
        self.clips = {
            name: getattr(recipe, name) is not None
            for name in ("clip_adaptive", "clip_norm", "clip_value")
        }
        self.stacks_evaluations = True  # until stacking the forward pass alone has failed
        self.penalised = recipe.l1 is not None or recipe.l2 is not None
        sizes = zip(layout.shapes, layout.sizes, strict=True)
        self.weighty = torch.cat(
            [torch.full((size,), float(len(shape) > 1)) for shape, size in sizes]
        ).to(run.device)

    @property
    def reports(self) -> tuple[str, ...]:
        """The names of the series that an update reports, in order."""
        return (
            "loss",
            *(("penalty",) if self.penalised else ()),
            *(("grad_norm",) if self.clips["clip_norm"] else ()),
        )

    def step(
        self, state: Stacked, feed: Feed, data: Leaves, scales: tuple[Tensor, Tensor] | None
    ) -> tuple[Stacked, Tensor]:
        """Return the state after one update, and its report: (series, members).

        Args:
            state: The state before the update.
            feed: The inputs of the update.
            data: The training data.
            scales: The multipliers of rate and decay, (members, weights) each; None if all are 1.
        """
        columns = {
            name: column.unsqueeze(1)
            for name, column in zip(self.names, feed.columns.unbind(1), strict=True)
        }
        gradient, fixed, report = self.gradient(state, feed, data, columns, scales)
        with torch.no_grad():
            rows = state.rows
            moving = None if scales is None else scales[0] != 0
            if moving is not None:  # frozen weights do not count in any norm
                gradient = torch.where(moving, gradient, 0.0)
            gradient = self._clipped(rows, gradient, moving, columns, report)
            lr, decay = columns["lr"], columns["weight_decay"]
            if scales is not None:
                lr, decay = lr * scales[0], decay * scales[1]
            rows, moments = self.rule.update(
                rows, gradient, state.moments, columns, lr, decay, self.flags
            )
        return Stacked(rows, moments, fixed), torch.stack(report)

    def gradient(
        self,
        state: Stacked,
        feed: Feed,
        data: Leaves,
        columns: Mapping[str, Tensor],
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return (gradient, fixed tensors after the forward passes, [losses, penalties])."""
        rows = state.rows.detach().requires_grad_()
        fixed = state.fixed
        shared = feed.samples.ndim == 2
        with torch.enable_grad():
            weights = self.layout.views(rows)
            parts: list[WeightedLoss] = []
            count = len(feed.masks) // self.batches
            for i in range(self.batches):
                index = feed.samples[i] if shared else feed.samples[:, i]
                masks = feed.masks[i * count : (i + 1) * count]
                losses, fixed = self._losses(weights, fixed, _take(data, index), masks, shared)
                parts.append(losses)
            total = _combined(parts)
            objective, report = total, [total.detach()]
            if self.penalised:
                still = None if scales is None else scales[0] == 0
                penalty = self._penalty(
                    rows if still is None else rows.masked_fill(still, 0.0), columns
                )
                objective = total + penalty
                report.append(penalty.detach())
            # Each member's loss depends only on its own row: the gradient of the sum has the
            # gradients of all members as its rows.
            (gradient,) = torch.autograd.grad(objective.sum(), rows)
        return gradient.detach(), tuple(t.detach() for t in fixed), report

    def _losses(
        self,
        weights: dict[str, Tensor],
        fixed: tuple[Tensor, ...],
        batch: Batch,
        masks: tuple[Tensor, ...],
        shared: bool,
    ) -> tuple[WeightedLoss, tuple[Tensor, ...]]:
        def member(
            weights: dict[str, Tensor],
            fixed: tuple[Tensor, ...],
            batch: Batch,
            masks: tuple[Tensor, ...],
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            mine = dict(zip(self.layout.fixed, fixed, strict=True))
            # A forward pass writes into buffers. Copies leave the state as it is.
            held = {f"net.{n}": t.clone() if n in self.buffers else t for n, t in mine.items()}
            held |= {f"net.{name}": tensor for name, tensor in weights.items()}
            # The mode intercepts every call of torch, which takes time: only used with dropout.
            with MaskReplay(masks) if masks else nullcontext():
                loss = functional_call(self.loss, held, (batch, self.weighs))
            own = (loss.mean, loss.weight) if isinstance(loss.weight, Tensor) else (loss.mean,)
            return own, tuple(held[f"net.{name}"] for name in self.layout.fixed)

        axes = (0, 0, None if shared else 0, 0)
        # The masks are already drawn. Any other random operation here would differ from the loop.
        found, after = vmap(member, axes, randomness="error")(weights, fixed, batch, masks)
        mean, *weight = found
        return WeightedLoss(mean, weight[0] if weight else None), after

    def _penalty(self, rows: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        l1, l2 = columns["l1"].squeeze(1), columns["l2"].squeeze(1)
        return l1 * (rows.abs() @ self.weighty) + l2 / 2 * ((rows * rows) @ self.weighty)

    def _clipped(
        self,
        rows: Tensor,
        gradient: Tensor,
        moving: Tensor | None,
        columns: Mapping[str, Tensor],
        report: list[Tensor],
    ) -> Tensor:
        """Clip the gradients in the loop's order: adaptive, norm, value."""
        if self.clips["clip_adaptive"]:
            rows = rows if moving is None else torch.where(moving, rows, 0.0)
            gradient = self._adaptive(rows, gradient, columns["clip_adaptive"])
        if self.clips["clip_norm"]:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient = gradient * torch.clamp(columns["clip_norm"] / (norm + 1e-6), max=1.0)
            report.append(norm.squeeze(1))
        if self.clips["clip_value"]:
            bound = columns["clip_value"]
            gradient = torch.minimum(torch.maximum(gradient, -bound), bound)
        return gradient

    def _adaptive(self, rows: Tensor, gradient: Tensor, bound: Tensor) -> Tensor:
        parts = []
        weights, gradients = self.layout.views(rows), self.layout.views(gradient)
        for name, shape in zip(self.layout.names, self.layout.shapes, strict=True):
            units = shape[0] if len(shape) > 1 else 1
            w = weights[name].reshape(len(rows), units, -1)
            g = gradients[name].reshape(len(rows), units, -1)
            size = torch.linalg.vector_norm(g, dim=2)
            allowed = bound * torch.linalg.vector_norm(w, dim=2).clamp_min(SMALLEST)
            factor = torch.where(size > allowed, allowed / size.clamp_min(1e-12), 1.0)
            parts.append((g * factor.unsqueeze(2)).reshape(len(rows), -1))
        return torch.cat(parts, 1)


def _combined(losses: list[WeightedLoss]) -> Tensor:
    """Return each member's mean loss over all answered targets of its batches; 0 if none is.

    Σ_b w_b L_b / Σ_b w_b, or the mean of the losses if all their weights are equal
    """
    total: Tensor | None = None
    weight = sum((loss.weight for loss in losses if loss.weight is not None), start=0.0)
    for loss in losses:
        if loss.weight is not None:
            part = loss.times(loss.weight / positive(weight))
        else:
            part = loss.mean / len(losses) if len(losses) > 1 else loss.mean
        total = part if total is None else total + part
    assert total is not None
    return total


def _take(data: Leaves, index: Tensor) -> Batch:
    if isinstance(data, Mapping):
        return {name: tensor[index] for name, tensor in data.items()}
    return tuple(tensor[index] for tensor in data)
