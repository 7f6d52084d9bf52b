"""Steps that yield: the parts of a model are updated in turn, such as critic and generator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError, kind_of, unknown_name, where


def takes_turns(step: Callable[..., Any] | None) -> bool:
    """Return whether a step is a generator function, or an object whose call is one."""
    return inspect.isgeneratorfunction(step) or inspect.isgeneratorfunction(
        getattr(type(step), "__call__", None)  # noqa: B004  (the method itself is inspected)
    )


def turns(
    step: Callable[..., Any], model: nn.Module, batch: Any, shown: str
) -> Generator[tuple[str, Any], None, None]:
    """Yield the pairs (part's name, loss) that a step yields, and check them.

    Args:
        step: A generator function of (model, batch).
        model: The network.
        batch: The batch that the step is called on.
        shown: A description of the batch, for error messages.

    Raises:
        TaskError: If the step fails, yields something else, or yields nothing.
    """
    walk = step(model, batch)
    count = 0
    try:
        while True:
            try:
                turn = next(walk)
            except StopIteration:
                break
            except Exception as error:
                raise TaskError(f"step failed on {shown}: {error}{where(error)}") from error
            if not (isinstance(turn, tuple) and len(turn) == 2 and isinstance(turn[0], str)):
                raise TaskError(
                    f"step yielded {kind_of(turn)}: yield a part's name and its loss, "
                    "as in yield 'generator', loss"
                )
            count += 1
            yield turn
    finally:
        walk.close()
    if not count:
        raise TaskError("step yielded nothing: yield at least one part's name and its loss")


def parameters_of(model: nn.Module, part: str) -> list[nn.Parameter]:
    """Return the trainable parameters of a part: a submodule, or a single parameter, by name.

    Raises:
        UnknownNameError: If the model has no part of that name.
        TaskError: If it has no trainable parameter.

    >>> gan = nn.ModuleDict({"critic": nn.Linear(2, 1), "generator": nn.Linear(3, 2)})
    >>> [tuple(p.shape) for p in parameters_of(gan, "critic")]
    [(1, 2), (1,)]
    """
    # A parameter that two parts share belongs to both.
    found = {
        id(parameter): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if part and (name == part or name.startswith(f"{part}."))
    }
    if not found:
        deep = "." in part
        known = [name for name, _ in (model.named_modules() if deep else model.named_children())]
        known += [name for name, _ in model.named_parameters() if deep or "." not in name]
        raise unknown_name("part of the model", part, filter(None, known))
    trained = [parameter for parameter in found.values() if parameter.requires_grad]
    if not trained:
        raise TaskError(
            f"step yields a loss for {part!r}, which has no trainable parameter: check "
            "requires_grad"
        )
    return trained


def check_reach(model: nn.Module, part: str, loss: Tensor) -> None:
    """Raise if a loss does not depend on the part for which it is yielded.

    Raises:
        UnknownNameError: If the model has no such part.
        TaskError: If no parameter of the part would get a gradient.
    """
    inputs = parameters_of(model, part)
    gradients: tuple[Tensor | None, ...] = ()
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise TaskError(
            f"the loss yielded for {part!r} depends on none of its parameters: check detach() and "
            "torch.no_grad() in the step, and the name"
        )
