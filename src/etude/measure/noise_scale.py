"""The gradient noise scale: the batch size at which signal and noise of a gradient are equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import BadValueError, MovedError
from etude.measure.held_still import held_still
from etude.randomness import derive_seed
from etude.tasks.sources.data import Batch, Cursor, IndexedData
from etude.torch_internals import DROPOUTS, RUNNING_NORMS
from etude.training.evaluation.evaluate import move
from etude.training.observer import Observer
from etude.training.run import Run
from etude.training.state.state import RunState


@dataclass(frozen=True)
class NoiseScale:
    """A measured gradient noise scale.

    Attributes:
        noise: tr Σ, the total variance of one sample's gradient.
        signal: |G|², the squared norm of the true gradient.
        samples: noise / signal, in samples; infinite if no signal was found.
        error: The standard error of `samples`, by the jackknife over the draws.
        cost: The number of gradients of single samples that were computed.
    """

    noise: float
    signal: float
    samples: float
    error: float
    cost: int


def noise_scale(
    run: Run | RunState, *, small: int | None = None, parts: int = 8, draws: int = 8, seed: int = 0
) -> NoiseScale:
    """Measure the gradient noise scale at the current state of a run, which is not changed.

        S = (|g_b|² - |g_B|²) / (1/b - 1/B),   |G|² = (B |g_B|² - b |g_b|²) / (B - b)
        noise scale = S / |G|²,                  each averaged over the draws first

    g_b is the gradient of b samples, g_B the mean of `parts` such gradients. Dropout is off, and
    batch normalisation uses its running statistics, so that the gradient of a sample does not
    depend on the others.

    Args:
        run: A run, at any update.
        small: b; None takes the recipe's batch size divided by `parts`, at least 1.
        parts: B / b, at least 2.
        draws: The number of draws, at least 2.
        seed: The seed of the draws.

    Raises:
        BadValueError: If a size is out of bounds.

    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.
    """
    b = small if small is not None else max(1, run.batch_size // parts)
    for name, value, least in (("small", b, 1), ("parts", parts, 2), ("draws", draws, 2)):
        if value < least:
            raise BadValueError(f"{name}={value} is out of bounds: give at least {least}")
    pairs = []
    own = derive_seed(run.recipe.seed, "noise scale", seed)
    with held_still(run.model, run.task.train, own, only=(*DROPOUTS, *RUNNING_NORMS)):
        batches = _batches(run, b, seed)
        for _ in range(draws):
            gradients = [_gradient(run, next(batches)) for _ in range(parts)]
            square = sum(float(g @ g) for g in gradients) / parts
            mean = torch.stack(gradients).mean(0)
            pairs.append((square, float(mean @ mean)))
    large = b * parts

    def ratio(chosen: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
        of_small = sum(pair[0] for pair in chosen) / len(chosen)
        of_large = sum(pair[1] for pair in chosen) / len(chosen)
        noise = max(0.0, (of_small - of_large) / (1 / b - 1 / large))
        signal = (large * of_large - b * of_small) / (large - b)
        return noise, signal, noise / signal if signal > 0 else math.inf

    noise, signal, samples = ratio(pairs)
    others = [ratio(pairs[:i] + pairs[i + 1 :])[2] for i in range(draws)]
    error = math.inf
    if all(map(math.isfinite, (*others, samples))):
        centre = sum(others) / draws
        error = math.sqrt((draws - 1) / draws * sum((o - centre) ** 2 for o in others))
    return NoiseScale(noise, max(signal, 0.0), samples, error, draws * large)


class NoiseScaleObserver(Observer):
    """Measures the noise scale, in samples, during a run.

    Each measurement costs `draws` · `parts` · `small` gradients of single samples, which are not
    included in the cost of the run.

    Args:
        every: Updates between two measurements.
        small: As in `noise_scale`.
        parts: As in `noise_scale`.
        draws: As in `noise_scale`.
        name: The name of the series.
    """

    reads = ("weights",)

    def __init__(
        self,
        every: int = 50,
        *,
        small: int | None = None,
        parts: int = 8,
        draws: int = 4,
        name: str = "noise_scale",
    ) -> None:
        super().__init__(name=name, every=every)
        self.small, self.parts, self.draws = small, parts, draws

    def on_update(self, state: RunState) -> float:
        """Return the noise scale at this update."""
        return noise_scale(
            state, small=self.small, parts=self.parts, draws=self.draws, seed=state.step
        ).samples


def __getattr__(name: str) -> Any:
    if name == "NoiseScaleProbe":
        raise MovedError("NoiseScaleProbe is now NoiseScaleObserver, for train(observers=[...])")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _batches(run: Run | RunState, size: int, seed: int) -> Iterator[Batch]:
    """Yield batches drawn with replacement, or a DataLoader's batches if it cannot be indexed."""
    data = run.task.train
    if not isinstance(data, IndexedData):
        yield from data.stream(size, derive_seed(seed, "noise scale"), Cursor())
    draw = torch.Generator().manual_seed(derive_seed(run.recipe.seed, "noise draws", seed))
    assert isinstance(data, IndexedData)
    while True:
        yield data.take(torch.randint(data.samples, (size,), generator=draw))


def _gradient(run: Run | RunState, batch: Batch) -> Tensor:
    parameters: list[nn.Parameter] = [p for p in run.model.parameters() if p.requires_grad]
    with torch.enable_grad(), run.autocast():
        loss, _, _ = run.task.forward(run.model, move(batch, run.device))
    parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
    dense = [part.to_dense() if part.is_sparse else part for part in parts]
    return torch.cat([part.flatten() for part in dense]).double()
