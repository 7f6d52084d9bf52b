"""The tensors that an optimizer for matrices treats as matrices: kernels and hidden matrices."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etude.errors import BadValueError
from etude.layerwise.model_parts import parts_of
from etude.layerwise.parts import Part, layer_count
from etude.layerwise.roles import refuse_guess
from etude.layerwise.selectors import Selector, near_misses
from etude.optimizers.hyperparameters import EXCEPT, HIDDEN

if TYPE_CHECKING:
    from torch import nn

    from etude.layerwise.flow import Flow


def matrices(
    model: nn.Module, wanted: Sequence[str] = (HIDDEN,), flow: Flow | None = None
) -> frozenset[str]:
    """Return the names of the tensors to be treated as matrices.

    'hidden' selects all matrices and kernels, the first layer included, except embeddings (also of
    positions) and the output layer. Other entries are selectors that replace this choice; an entry
    that starts with '!' excludes tensors.

    Args:
        model: The network.
        wanted: The value of the hyperparameter `matrix` of `muon`.
        flow: The result of `etude.layerwise.trace` for the model. Without it, names tell which
            matrix produces the output; if they do not, the last layer is assumed to.

    Raises:
        BadValueError: If a selector selects rows, or no tensor of two or more axes.

    >>> from torch import nn
    >>> sorted(matrices(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 10))))
    ['0.weight']
    """
    parts = parts_of(model, flow)
    known = selectors(wanted)
    chosen = {
        part.name
        for part in parts
        if _is_matrix(part)
        and part.kind not in ("embedding", "normalisation")
        and part.applied
        and part.role not in ("output", "both", "direct")
    }
    taken, left = ([selector for selector, out in known if out is way] for way in (False, True))
    if not taken:
        _warn_of_guess(parts)
    if taken:
        chosen = {name for selector in taken for name in _named(selector, parts)}
    for selector in left:
        chosen -= set(_named(selector, parts))
    return frozenset(chosen)


def selectors(wanted: Sequence[str]) -> list[tuple[Selector, bool]]:
    """Return the selectors of a `matrix`, each with whether it excludes tensors.

    Raises:
        BadValueError: If a selector selects rows of a tensor.
        UnknownNameError: If a word in a selector is unknown.
    """
    found = []
    for text in wanted:
        if text == HIDDEN:
            continue
        selector = Selector.of(text.removeprefix(EXCEPT))
        if selector.slices:
            raise BadValueError(
                f"matrix={text!r} selects rows of a tensor: select whole tensors, such as 'conv*'"
            )
        found.append((selector, text.startswith(EXCEPT)))
    return found


def split(
    groups: Sequence[dict[str, Any]], model: nn.Module, wanted: Sequence[str], flow: Flow | None
) -> list[dict[str, Any]]:
    """Return parameter groups, with tensors that are not matrices in groups of `"matrix": False`.

    Warns if no matrix is left.
    """
    names = matrices(model, wanted, flow)
    if not names:
        warnings.warn(
            "muon finds no hidden matrix or kernel in this model, so that AdamW trains all of it: "
            "use adamw, or select the tensors that are matrices, such as "
            '{"name": "muon", "matrix": ["head*"]}',
            stacklevel=4,
        )
    own = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    found = []
    for group in groups:
        for is_matrix in (True, False):
            part = [p for p in group["params"] if (id(p) in own) == is_matrix]
            if part:
                mark = {} if is_matrix else {"matrix": False}
                found.append({**group, "params": part, **mark})
    return found


def _is_matrix(part: Part) -> bool:
    return len(part.shape) >= 2 and part.rows > 1 and part.count > part.rows


def _warn_of_guess(parts: Sequence[Part]) -> None:
    guessed = [p.name for p in parts if p.role == "output" and not p.told and _is_matrix(p)]
    if guessed:
        warnings.warn(
            f"muon assumes that {guessed[0]} is the head, which AdamW trains; the names of this "
            "model do not tell: give flow=etude.layerwise.trace(model, inputs), or select the "
            "matrices with matrix=",
            stacklevel=5,
        )


def _named(selector: Selector, parts: Sequence[Part]) -> list[str]:
    depths = layer_count(tuple(parts))
    if selector.by_role:
        refuse_guess(parts, f"matrix={selector.text!r}")
    covered = [part for part in parts if selector.covers(part, depths)]
    named = [part.name for part in covered if len(part.shape) >= 2]
    if not covered:
        hint = near_misses(selector, parts, depths)
        raise BadValueError(f"matrix={selector.text!r} matches no parameter: {hint}")
    if not named:
        raise BadValueError(
            f"matrix={selector.text!r} matches no tensor of two or more axes, only "
            f"{covered[0].name}: name a weight or a kernel"
        )
    return named
