"""Sharpness: the largest eigenvalue of the Hessian of the training loss, and its edge.

It is measured on a fixed sample of the training data, batch by batch, with Hessian-vector products
alone. Dropout is off; batch normalisation uses each batch's own statistics, as in training. The
forward pass is in single precision. The run is left as it was, to the bit.

Sources: Lanczos 1950; Pearlmutter 1994; Cohen et al. 2021, arXiv:2103.00065; for adaptive
optimizers Cohen et al. 2022, arXiv:2207.14484.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.measure.threshold import stability
from etude.optimizers.hessian import PRICE, Hessian, flat, move, put, twice_differentiable
from etude.randomness import derive_seed, random_state_kept
from etude.tasks.data import Batch, Cursor
from etude.torch_internals import RUNNING_NORMS
from etude.training.device import deterministic
from etude.training.evaluate import move as to_device
from etude.training.objective import Objective
from etude.training.run import Run
from etude.training.snapshot import Snapshot
from etude.training.threads import use_threads

BATCHES = 4
"""Batches in the sample where no size is asked for."""

EXACT, DIFFERENCES = "second derivatives", "finite differences"


@dataclass(frozen=True)
class Eigen:
    """The upper end of a symmetric matrix's spectrum.

    Attributes:
        value: The largest eigenvalue, with its sign.
        lowest: The smallest one seen; the true one may lie lower.
        converged: Whether ‖A v - value v‖ came within the tolerance.
        products: How many products with the matrix that took.
    """

    value: float
    lowest: float
    converged: bool
    products: int


@dataclass(frozen=True)
class Sharpness:
    """The curvature of the training loss where a run stands.

    Attributes:
        step: Updates done.
        rate: The learning rate in force there.
        value: The largest eigenvalue of the Hessian, with its sign.
        lowest: The smallest eigenvalue seen; negative where the loss curves down.
        converged: Whether both eigenvalue problems came within the tolerance.
        preconditioned: The largest eigenvalue of D^(1/2) H D^(1/2), D being what the optimizer
            and the layers' multipliers scale the gradient by; `value` where they do not. None
            where the optimizer has no threshold.
        threshold: rate × preconditioned above which the update breaks; None if none is known.
        reason: Why there is no threshold; empty if there is one.
        samples: The size of the sample.
        method: 'second derivatives', or 'finite differences' of the gradient where the model has
            none.
        products: Hessian-vector products.
        gradients: Gradients of single samples that were computed, a product counting as
            `etude.optimizers.hessian.PRICE`.
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
        """The rate at which the update breaks here: threshold / preconditioned sharpness.

        None where there is no threshold, or the loss curves up nowhere.
        """
        if self.threshold is None or self.preconditioned is None or self.preconditioned <= 0:
            return None
        return self.threshold / self.preconditioned

    def plain(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold."""
        return {**vars(self), "limit": self.limit}


def sharpness(
    run: Run, *, samples: int | None = None, tolerance: float = 0.01, iterations: int = 30
) -> Sharpness:
    """Measure the sharpness of the training loss where a run stands, and leave no trace in it.

        H v = λ v,                      λ the largest
        D^(1/2) H D^(1/2) u = λ' u,     D = 1 / (√v̂ + ε) for Adam; the update breaks at
                                        rate λ' = threshold

    H is that of what the run minimises: the loss, its penalties, and a weight decay that joins
    the gradient. Lanczos' vectors are all kept: `iterations` times the model's size in memory.

    Args:
        run: A run, at any update.
        samples: Size of the sample, rounded up to whole batches; None takes four batches.
        tolerance: Largest ‖A v - λ v‖ as a share of |λ|.
        iterations: Products with the matrix at most.

    Raises:
        BadValueError: If a number is out of bounds.
        TaskError: If parts of the model take turns: there is no one loss to differentiate.

    >>> from etude import Recipe, Task
    >>> bowl = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.full((8, 1), 2.0)
    >>> task = Task(bowl, (x, x), loss=lambda y, t: ((y - t) ** 2).mean() / 2)
    >>> found = sharpness(Run(task, Recipe(optimizer="sgd", lr=0.1, batch_size="all", steps=10)))
    >>> found.value, found.limit
    (4.0, 0.5)
    """
    _check(samples, tolerance, iterations)
    if run.task.alternates:
        raise TaskError("parts of the model take turns: no one loss has a Hessian to measure")
    edge = stability(run)
    with random_state_kept(derive_seed(run.recipe.seed, "sharpness")), _still(run) as undo:
        matrix = _Matrix(run, _sample(run, samples), undo, edge.decay)
        start = _signs(run)
        first = largest(matrix.times, start, tolerance, iterations)
        second = None
        if edge.threshold is not None:
            second = first
            if edge.scales is not None:
                root = flat(edge.scales).to(start).sqrt()
                second = largest(
                    lambda v: root * matrix.times(root * v), start, tolerance, iterations
                )
    return Sharpness(
        step=run.step,
        rate=run.state.lr,
        value=first.value,
        lowest=first.lowest,
        converged=first.converged and (second is None or second.converged),
        preconditioned=None if second is None else second.value,
        threshold=edge.threshold,
        reason=edge.reason,
        samples=len(matrix.batches) * run.batch_size,
        method=matrix.method,
        products=matrix.products,
        gradients=matrix.gradients,
    )


def largest(
    times: Callable[[Tensor], Tensor], start: Tensor, tolerance: float, iterations: int
) -> Eigen:
    """Return the largest eigenvalue of a symmetric matrix by Lanczos' method.

    The basis is made orthogonal in full at every step. It ends when the residual of the largest
    eigenvalue is within `tolerance` of its size, or after `iterations` products.

    Args:
        times: The product with the matrix.
        start: A vector that is not orthogonal to the eigenvector: random signs.
        tolerance: Largest ‖A v - λ v‖ / |λ|.
        iterations: Products at most.

    >>> matrix = torch.diag(torch.tensor([1.0, -20.0, 3.0, 10.0]))
    >>> found = largest(matrix.mv, torch.tensor([1.0, -1, 1, 1]), 1e-4, 10)
    >>> round(found.value, 4), found.converged
    (10.0, True)
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    tiny = 10 * torch.finfo(start.dtype).eps
    values = torch.zeros(1)
    for _ in range(min(iterations, len(start))):
        product = times(basis[-1])
        diagonal.append(float(product @ basis[-1]))
        for _ in range(2):  # the second pass removes what rounding left of the first
            for one in basis:
                product = product - (one @ product) * one
        length = float(product.norm())
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for i, value in enumerate(beside):
            small[i, i + 1] = small[i + 1, i] = value
        if not bool(torch.isfinite(small).all()):
            return Eigen(float("nan"), float("nan"), False, len(diagonal))
        values, vectors = torch.linalg.eigh(small)
        reach = float(values.abs().max())
        residual = length * abs(float(vectors[-1, -1]))
        if residual <= tolerance * abs(float(values[-1])) or length <= tiny * reach:
            return Eigen(float(values[-1]), float(values[0]), True, len(diagonal))
        beside.append(length)
        basis.append(product / length)
    whole = len(diagonal) == len(start)
    return Eigen(float(values[-1]), float(values[0]), whole, len(diagonal))


class _Matrix:
    """The Hessian of a run's loss over a sample, as what it does to a vector.

    One batch's graph is held at a time, so that it needs little more memory than training.
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
                silent = self.products == 1 and not bool(product.any()) and self._bends(vector)
            except TaskError:
                silent = True
            if silent:
                # Some operation of the model has a first derivative only; one that is cut off
                # from the graph does not even complain.
                self.method, self._kept = DIFFERENCES, None
                product = self._difference(vector)
        else:
            product = self._difference(vector)
        if self.decay is not None:
            product = product + self.decay.to(vector) * vector
        return product

    def _loss(self, batch: Batch) -> Tensor:
        self.undo.restore()  # the same draws and the same statistics at every product
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

    def _bends(self, vector: Tensor) -> bool:
        """Say whether the gradient changes along a vector by more than rounding."""
        ahead, behind, _ = self._sides(vector)
        return float((ahead - behind).norm()) > 1e-3 * float(ahead.norm())

    def _difference(self, vector: Tensor) -> Tensor:
        """Return (∇L(w + h v) - ∇L(w - h v)) / 2h, h as large as rounding asks for."""
        ahead, behind, width = self._sides(vector)
        return (ahead - behind) / (2 * width)

    def _sides(self, vector: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return the gradients on both sides along a vector, and how far off they are, h."""
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


def _check(samples: int | None, tolerance: float, iterations: int) -> None:
    for name, value in (("samples", samples), ("iterations", iterations)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadTypeError(f"{name}={value!r} is not a whole number")
        if value < 1:
            raise BadValueError(f"{name}={value!r} is out of bounds: give at least 1")
    if not 0 < tolerance < 1:
        raise BadValueError(f"tolerance={tolerance!r} is out of bounds: give a number in (0, 1)")


def _sample(run: Run, samples: int | None) -> list[Batch]:
    """Return the batches of the fixed sample: no more than the data has."""
    data = run.task.train
    wanted = BATCHES if samples is None else -(-samples // run.batch_size)
    count = min(wanted, data.steps_per_epoch(run.batch_size) or wanted)
    seed = derive_seed(run.recipe.seed, "sharpness")
    stream = data.stream(run.batch_size, seed, Cursor())
    return [next(stream) for _ in range(count)]


def _signs(run: Run) -> Tensor:
    """Return random signs, one for each number of the run's parameters."""
    first = run.parameters[0]
    size = sum(p.numel() for p in run.parameters)
    draw = torch.Generator().manual_seed(derive_seed(run.recipe.seed, "signs"))
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    signs = torch.randint(0, 2, (size,), generator=draw).to(first.device, dtype)
    return 2 * signs - 1


@contextmanager
def _still(run: Run) -> Iterator[Snapshot]:
    """Hold a run's model still, dropout off, and put back what a forward pass changes."""
    undo = Snapshot(run.model, run.task.train.draws)
    modules = list(run.model.modules())
    modes = [(module, module.training) for module in modules]
    lazy = [module for module in modules if getattr(module, "sparse", False)]
    gradients = [p.grad for p in run.parameters]
    run.model.eval()
    for module, training in modes:
        if isinstance(module, RUNNING_NORMS):
            module.training = training
    for module in lazy:
        module.sparse = False  # type: ignore[assignment]
    try:
        with (
            run.task.train.untouched(),
            twice_differentiable(),
            deterministic(run.device),
            use_threads(run.threads),
        ):
            yield undo
    finally:
        for module in lazy:
            module.sparse = True  # type: ignore[assignment]
        for module, training in modes:
            module.training = training
        for parameter, gradient in zip(run.parameters, gradients, strict=True):
            parameter.grad = gradient
        undo.restore()
