"""Sharpness: the largest eigenvalue of the Hessian of the training loss, and the rate's limit.

It is measured on a fixed sample of the training data, batch by batch, by Hessian-vector products.
Dropout is off; batch normalisation uses each batch's own statistics, as in training. The forward
pass is in single precision. The run is not changed, to the bit.

Sources: Lanczos 1950; Pearlmutter 1994; Cohen et al. 2021, arXiv:2103.00065; for adaptive
optimizers Cohen et al. 2022, arXiv:2207.14484.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadValueError, TaskError, check_whole
from etude.measure.held_still import curved, held_still
from etude.measure.lanczos import spectrum
from etude.measure.threshold import stability
from etude.optimizers.classes.hessian import PRICE, Hessian, flat, move, put
from etude.randomness import derive_seed
from etude.tasks.sources.data import Batch, Cursor
from etude.torch_internals import RUNNING_NORMS
from etude.training.evaluation.evaluate import move as to_device
from etude.training.machine.device import deterministic
from etude.training.machine.threads import use_threads
from etude.training.objective import Objective
from etude.training.run import Run
from etude.training.state.snapshot import Snapshot

BATCHES = 4
"""The number of batches in the sample, unless its size is given."""

EXACT, DIFFERENCES = "second derivatives", "finite differences"


@dataclass(frozen=True)
class Sharpness:
    """The curvature of the training loss at one point of a run.

    Attributes:
        step: The number of updates done.
        rate: The learning rate at that step.
        value: The largest eigenvalue of the Hessian, with its sign.
        lowest: The smallest eigenvalue found; negative if the loss has negative curvature.
        converged: Whether both eigenvalues are within the tolerance.
        preconditioned: The largest eigenvalue of D^(1/2) H D^(1/2), where D contains the factors by
            which the optimizer and the layers' multipliers scale the gradient; equal to `value` if
            they do not scale it. None if the optimizer has no threshold.
        threshold: The value of rate × preconditioned above which training is unstable; None if it
            is unknown.
        reason: Why there is no threshold; empty if there is one.
        samples: The size of the sample.
        method: 'second derivatives', or 'finite differences' of the gradient if the model has no
            second derivatives.
        products: The number of Hessian-vector products.
        gradients: The number of gradients of single samples that were computed; a product counts as
            `etude.optimizers.classes.hessian.PRICE` of them.
    """

    step: int
    rate: float
    value: float
    lowest: float
    converged: bool
    preconditioned: float | None
    threshold: float | None
    reason: str
    samples: int
    method: str
    products: int
    gradients: int

    @property
    def limit(self) -> float | None:
        """The rate above which training is unstable: threshold / preconditioned sharpness.

        None if there is no threshold, or the largest eigenvalue is not positive.
        """
        if self.threshold is None or self.preconditioned is None or self.preconditioned <= 0:
            return None
        return self.threshold / self.preconditioned

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {**vars(self), "limit": self.limit}


def sharpness(
    run: Run, *, samples: int | None = None, tolerance: float = 0.01, iterations: int = 30
) -> Sharpness:
    """Measure the sharpness of the training loss at the current state of a run.

        H v = λ v,                      λ the largest
        D^(1/2) H D^(1/2) u = λ' u,     D = 1 / (√v̂ + ε) for Adam; training is unstable if
                                        rate · λ' > threshold

    H is the Hessian of all that the run minimises: the loss, its penalties, and a weight decay that
    is added to the gradient. The measurement keeps all vectors of Lanczos' method in memory, which
    takes `iterations` times the size of the model. It does not change the run.

    Args:
        run: A run, at any update.
        samples: The size of the sample, rounded up to whole batches; None takes four batches.
        tolerance: The largest ‖A v - λ v‖ as a share of |λ|.
        iterations: The largest number of products with the matrix.

    Returns:
        The curvature, and the rate's limit if a threshold is known.

    Raises:
        BadValueError: If a number is out of bounds.
        TaskError: If parts of the model take turns, because there is no single loss.

    >>> from etude import Recipe, Task
    >>> bowl = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.full((8, 1), 2.0)
    >>> task = Task(bowl, (x, x), loss=lambda y, t: ((y - t) ** 2).mean() / 2)
    >>> found = sharpness(Run(task, Recipe(optimizer="sgd", lr=0.1, batch_size="all", steps=10)))
    >>> found.value, found.limit
    (4.0, 0.5)
    """
    samples = None if samples is None else check_whole("samples", samples, 1)
    iterations = check_whole("iterations", iterations, 1)
    if not 0 < tolerance < 1:
        raise BadValueError(f"tolerance={tolerance!r} is out of bounds: give a number in (0, 1)")
    if run.task.alternates:
        raise TaskError("parts of the model take turns: there is no single loss to differentiate")
    edge = stability(run)
    own = derive_seed(run.recipe.seed, "sharpness")
    with (
        held_still(run.model, run.task.train, own, but=RUNNING_NORMS) as undo,
        curved(run.model),
        deterministic(run.device),
        use_threads(run.threads),
    ):
        matrix = _Matrix(run, _sample(run, samples), undo, edge.decay)
        start = _signs(run)
        find = partial(spectrum, start=start, iterations=iterations, tolerance=tolerance)
        first = find(matrix.times)
        second = None
        if edge.threshold is not None:
            second = first
            if edge.scales is not None:
                root = flat(edge.scales).to(start).sqrt()
                second = find(lambda v: root * matrix.times(root * v))
    return Sharpness(
        step=run.step,
        rate=run.state.lr,
        value=first.highest,
        lowest=first.lowest,
        converged=first.converged and (second is None or second.converged),
        preconditioned=None if second is None else second.highest,
        threshold=edge.threshold,
        reason=edge.reason,
        samples=len(matrix.batches) * run.batch_size,
        method=matrix.method,
        products=matrix.products,
        gradients=matrix.gradients,
    )


class _Matrix:
    """The Hessian of a run's loss over a sample, as a linear operator on vectors.

    It keeps the graph of one batch at a time, so that it needs little more memory than training.
    """

    def __init__(
        self, run: Run, batches: list[Batch], undo: Snapshot, decay: Sequence[float]
    ) -> None:
        self.batches, self.undo = batches, undo
        self.parameters: list[Tensor] = list(run.parameters)
        self.size, self.device = run.batch_size, run.device
        self.objective = Objective(run.task, run.model, run.recipe, nullcontext)
        sizes = [torch.full((p.numel(),), d) for p, d in zip(self.parameters, decay, strict=True)]
        self.decay = flat(sizes) if any(decay) else None
        self.method = EXACT
        self.products = self.gradients = 0
        self._kept: Hessian | None = None

    def times(self, vector: Tensor) -> Tensor:
        """Return the product with a vector."""
        self.products += 1
        if self.method == EXACT:
            try:
                product = self._exact(vector)
                failed = self.products == 1 and not bool(product.any()) and self._curves(vector)
            except TaskError:
                failed = True
            if failed:
                # An operation of the model has no second derivative. If its gradient is detached
                # from the graph, the product is 0 and no error is raised.
                self.method, self._kept = DIFFERENCES, None
                product = self._difference(vector)
        else:
            product = self._difference(vector)
        if self.decay is not None:
            product = product + self.decay.to(vector) * vector
        return product

    def _loss(self, batch: Batch) -> Tensor:
        self.undo.restore()  # every product uses the same random numbers and statistics
        return self.objective.value([to_device(batch, self.device)]) / len(self.batches)

    def _exact(self, vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for batch in self.batches:
            hessian = self._kept
            if hessian is None:
                hessian = Hessian(self._loss(batch), self.parameters)
                self.gradients += self.size
            if len(self.batches) == 1:
                self._kept = hessian
            total += hessian.times(vector.to(hessian.gradient)).to(total)
            self.gradients += PRICE * self.size
        return total

    def _curves(self, vector: Tensor) -> bool:
        """Return whether the gradient changes along a vector by more than rounding errors."""
        ahead, behind, _ = self._sides(vector)
        return float((ahead - behind).norm()) > 1e-3 * float(ahead.norm())

    def _difference(self, vector: Tensor) -> Tensor:
        """Return (∇L(w + h v) - ∇L(w - h v)) / 2h, with h chosen for the precision."""
        ahead, behind, width = self._sides(vector)
        return (ahead - behind) / (2 * width)

    def _sides(self, vector: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return the gradients at w + h v and w - h v, and h."""
        kept = [p.detach().clone() for p in self.parameters]
        long = float(vector.norm()) or 1.0
        eps = torch.finfo(self.parameters[0].dtype).eps
        width: float = eps ** (1 / 3) * (1 + float(flat(kept).norm())) / long
        sides = []
        try:
            for sign in (1, -1):
                put(self.parameters, kept)
                move(self.parameters, vector.to(kept[0]), sign * width)
                total = torch.zeros_like(vector)
                for batch in self.batches:
                    total += flat(
                        torch.autograd.grad(
                            self._loss(batch), self.parameters, materialize_grads=True
                        )
                    ).to(total)
                    self.gradients += self.size
                sides.append(total)
        finally:
            put(self.parameters, kept)
        return sides[0], sides[1], width


def _sample(run: Run, samples: int | None) -> list[Batch]:
    """Return the batches of the fixed sample, at most as many as the data has."""
    data = run.task.train
    wanted = BATCHES if samples is None else -(-samples // run.batch_size)
    count = min(wanted, data.steps_per_epoch(run.batch_size) or wanted)
    seed = derive_seed(run.recipe.seed, "sharpness")
    stream = data.stream(run.batch_size, seed, Cursor())
    return [next(stream) for _ in range(count)]


def _signs(run: Run) -> Tensor:
    """Return random signs, one for each scalar of the run's parameters."""
    first = run.parameters[0]
    size = sum(p.numel() for p in run.parameters)
    draw = torch.Generator().manual_seed(derive_seed(run.recipe.seed, "signs"))
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    signs = torch.randint(0, 2, (size,), generator=draw).to(first.device, dtype)
    return 2 * signs - 1
