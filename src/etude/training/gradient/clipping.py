"""Clips gradients: by norm, by value, relative to the weights, or by the run's earlier norms."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from etude.layerwise.frozen_tensors import FrozenTensors, gradient_rows
from etude.recipe import Recipe
from etude.recipe_spikes import ZClip
from etude.torch_internals import foreach
from etude.training.gradient.norm_moments import NormMoments
from etude.training.sharded import own_part, whole

SMALLEST = 1e-3
"""The smallest norm of a weight in adaptive clipping, so that weights of zero can grow."""


class Clipper:
    """Clips gradients as the recipe says: adaptive, percentile or z-score, norm, value.

    Args:
        parameters: The parameters whose gradients are clipped, in place.
        recipe: The recipe with clip_adaptive, clip_percentile, spikes, clip_norm and clip_value.

    Attributes:
        clipped: Whether the last gradient was clipped by its z-score; None if the recipe does not.
    """

    def __init__(self, parameters: Sequence[Tensor], recipe: Recipe) -> None:
        self.parameters = list(parameters)
        self.recipe = recipe
        self._works = bounds_gradient(recipe) or recipe.spikes is not None
        self._sorted: list[float] = []
        self._seen = 0
        self._moments = NormMoments(recipe.spikes) if isinstance(recipe.spikes, ZClip) else None
        self.clipped = None if self._moments is None else False

    def __bool__(self) -> bool:
        return self._works

    @torch.no_grad()
    def clip(self, history: Sequence[float], frozen: FrozenTensors | None = None) -> Tensor | None:
        """Clip the gradients.

        Args:
            history: The norms of all earlier updates.
            frozen: What is frozen in this update. Rows that are frozen for a time do not count in
                any norm, but they are scaled by the same factor as the others.

        Returns:
            The norm before clipping by norm, percentile or z-score; None if the recipe has neither
            of these nor another policy at spikes.
        """
        recipe = self.recipe
        waiting = [] if frozen is None else _zero_frozen_rows(self.parameters, frozen)
        if recipe.clip_adaptive is not None:
            clip_adaptive(self.parameters, recipe.clip_adaptive, frozen)
        tensors = entries(self.parameters)
        if not tensors:
            measured = (recipe.clip_norm, recipe.clip_percentile, recipe.spikes)
            return None if all(one is None for one in measured) else torch.zeros(())
        norm: Tensor | None = None
        if recipe.clip_percentile is not None:
            norm = total_norm(tensors)
            bound = self._bound(float(norm), history, recipe.clip_percentile)
            scale_to([*tensors, *(kept for _, kept in waiting)], norm, bound)
        elif recipe.spikes is not None:
            norm = total_norm(tensors)
        if self._moments is not None and norm is not None:
            outlier = self._moments.bound(float(norm), history)
            self.clipped = outlier is not None
            if outlier is not None:
                scale_to([*tensors, *(kept for _, kept in waiting)], norm, outlier)
        if recipe.clip_norm is not None:
            now = total_norm(tensors)
            scale_to([*tensors, *(kept for _, kept in waiting)], now, recipe.clip_norm)
            norm = now if norm is None else norm
        for rows, kept in waiting:
            rows.copy_(kept)
        if recipe.clip_value is not None:
            own = [own_part(tensor) for tensor in tensors]
            foreach.clamp_min_(own, -recipe.clip_value)
            foreach.clamp_max_(own, recipe.clip_value)
        return norm

    def _bound(self, norm: float, history: Sequence[float], percentile: float) -> float:
        """Return the percentile of all finite norms so far, including this one."""
        if self._seen != len(history):  # the run was loaded from a checkpoint
            self._sorted = sorted(value for value in history if math.isfinite(value))
        self._seen = len(history) + 1
        if math.isfinite(norm):
            bisect.insort(self._sorted, norm)
        return at_percentile(self._sorted, percentile) if self._sorted else math.inf


def bounds_gradient(recipe: Recipe) -> bool:
    """Return whether a recipe clips the gradient in any way.

    >>> bounds_gradient(Recipe()), bounds_gradient(Recipe(clip_norm=1.0))
    (False, True)
    """
    bounds = (recipe.clip_norm, recipe.clip_value, recipe.clip_adaptive, recipe.clip_percentile)
    return any(bound is not None for bound in bounds) or isinstance(recipe.spikes, ZClip)


def clips_by_history(recipe: Recipe) -> bool:
    """Return whether the bound of an update follows from the norms of those before it.

    >>> clips_by_history(Recipe(clip_norm=1.0)), clips_by_history(Recipe(clip_percentile=10))
    (False, True)
    """
    return recipe.clip_percentile is not None or isinstance(recipe.spikes, ZClip)


def _zero_frozen_rows(
    parameters: Sequence[Tensor], frozen: FrozenTensors
) -> list[tuple[Tensor, Tensor]]:
    """Set the gradients of temporarily frozen rows to 0; return the rows with their old values."""
    found = [
        rows
        for parameter in parameters
        for span in frozen.waiting.get(id(parameter), ())
        for rows in gradient_rows(parameter, span)
    ]
    kept = [(rows, rows.clone()) for rows in found]
    for rows in found:
        rows.zero_()
    return kept


def at_percentile(values: Sequence[float], percentile: float) -> float:
    """Return a percentile of sorted values, with linear interpolation as in NumPy.

    >>> at_percentile([1.0, 2.0, 4.0], 75)
    3.0
    """
    place = (len(values) - 1) * percentile / 100
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def entries(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors with the gradients' entries: for a sparse gradient, its values."""
    found: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            found.append(parameter.grad.values())
        else:
            found.append(parameter.grad)
    return found


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together, without changing them; 0 if there is none.

    >>> w = nn.Parameter(torch.zeros(2))
    >>> w.grad = torch.tensor([3.0, 4.0])
    >>> gradient_norm([w, nn.Parameter(torch.zeros(1))])
    tensor(5.)
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Entries of a sparse gradient with the same index are summed in a copy.
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    return total_norm(dense)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of all entries together, also of tensors that processes keep in parts."""
    return whole(nn.utils.get_total_norm(tensors))


def scale_to(tensors: Sequence[Tensor], norm: Tensor, bound: float) -> None:
    """Scale tensors with a common norm down to a bound, as torch's `clip_grad_norm_` does."""
    factor = torch.clamp(bound / (norm + 1e-6), max=1.0)
    foreach.mul_([own_part(tensor) for tensor in tensors], factor.to(tensors[0].device))


def clip_adaptive(
    parameters: Sequence[Tensor], bound: float, frozen: FrozenTensors | None = None
) -> None:
    """Clip each unit's gradient relative to the norm of its weights.

        g_i ← g_i · min(1, bound · max(‖w_i‖, 10⁻³) / ‖g_i‖)   for the weights of each output i

    A vector (a bias, a gain) is one unit. A sparse gradient is clipped row by row.

    Args:
        parameters: The parameters whose gradients are clipped in place.
        bound: λ; 0.01 is usual, and less for larger batches.
        frozen: What is frozen; its rows do not count in a unit's norm.

    Source: Brock et al. 2021, arXiv:2102.06171, equation 3.

    >>> w = nn.Parameter(torch.ones(1, 4))
    >>> w.grad = torch.full((1, 4), 10.0)
    >>> clip_adaptive([w], 0.01)
    >>> round(w.grad.norm().item(), 4)
    0.02
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        weight = parameter.detach() if frozen is None else frozen.trained_values(parameter)
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            parameter.grad = gradient
            weight = weight[gradient.indices()[0]]
            gradient = gradient.values()
        allowed = bound * _unit_norm(weight).clamp_min(SMALLEST)
        size = _unit_norm(gradient)
        gradient.mul_(torch.where(size > allowed, allowed / size.clamp_min(1e-12), 1.0))


def _unit_norm(tensor: Tensor) -> Tensor:
    axes = tuple(range(1, tensor.ndim))
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=axes or None, keepdim=bool(axes))
    return norm
