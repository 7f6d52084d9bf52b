"""The role of a parameter: it reads the input, produces the output, both, or neither.

The flow of a forward pass determines it. Without a flow, names and the module tree determine it in
many models (a classifier called `head`, a `Sequential`, a matrix tied to an embedding); otherwise
the role is a guess, and is marked as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etude.errors import BadValueError
from etude.layerwise.parts import Part, Role, kind_of, owner_of

if TYPE_CHECKING:
    from torch import nn

    from etude.layerwise.flow import Flow

HEAD = re.compile(
    r"^(?:.*_)?(?:heads?|classifiers?|logits|lm_head)(?:_.*|\d*)$"
    r"|^(?:fc|fc_?out|out|output|out_?layer|output_?layer|proj_?out|out_?proj|readout|predictor"
    r"|predictions?|regressor|score|final|final_?layer|last|last_?layer|last_?linear|linear_?out)$"
)
"""Common names of modules that produce the output."""

ADDED = re.compile(
    r"(?:^|[._])(?:pos|position|positional|cls|class|mask|dist)?_?(?:embed\w*|token)"
    r"|(?:^|[._])(?:pos|positions?|positional|pos_?enc\w*|positional_?enc\w*)$"
)
"""Names of parameters that are embeddings but not layers: they are added or concatenated."""

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


def give_roles(parts: Sequence[Part], model: nn.Module, flow: Flow | None) -> None:
    """Set the roles and places of newly created parts.

    Args:
        parts: Parts with depth, kind and names; changed in place, since copying many is slow.
        model: The network that has these parts.
        flow: The flow of a forward pass, or None.
    """
    known = {name for name, _ in model.named_parameters()}  # a frozen head is no part
    if flow is not None and not known.isdisjoint(flow.outputs):
        for part in parts:
            _set(part, **_seen(part, flow))
    else:
        outputs, told = _outputs(parts, model)
        tied = any(part.aliases and part.name in outputs for part in parts)
        for part in parts:
            _set(part, **_named(part, outputs, told, tied))
    found = places(parts)
    for part in parts:
        _set(part, places=found[part.name])


def _set(part: Part, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(part, name, value)


def _seen(part: Part, flow: Flow) -> dict[str, Any]:
    known = part.name in flow.applied or part.name not in flow.order
    applied = known or len(part.shape) < 2
    added = not applied and part.kind != "normalisation"
    first = part.name in flow.inputs or added
    role = _role(first, part.name in flow.outputs, part.name in flow.direct)
    return {"role": role, "applied": applied}


def _named(part: Part, outputs: frozenset[str], told: bool, tied: bool) -> dict[str, Any]:
    applied = not (part.kind == "other" and ADDED.search(part.name))
    beside = tied and part.bias and part.name in outputs  # the head's, wherever that was assigned
    first = (part.depth == 0 and not beside) or part.kind == "embedding" or not applied
    role = _role(first, part.name in outputs, not part.aliases)
    return {"role": role, "applied": applied, "told": told}


def _role(first: bool, last: bool, direct: bool) -> Role:
    if first and last:
        return "direct" if direct else "both"
    return "input" if first else "output" if last else "hidden"


def _outputs(parts: Sequence[Part], model: nn.Module) -> tuple[frozenset[str], bool]:
    """Return the names of the parts that produce the output, and whether this is no guess."""
    tied = [p for p in parts if p.aliases and p.kind == "embedding" and _ties_a_head(p, model)]
    if tied:
        homes = {
            name.rpartition(".")[0]
            for part in tied
            for name in part.names
            if kind_of(owner_of(model, name)[0]) != "embedding"
        }
        beside = [p for p in parts if p.bias and p.name.rpartition(".")[0] in homes]
        return frozenset(part.name for part in (*tied, *beside)), True
    frozen = _frozen(model)
    heads = _heads([*parts, *frozen])
    if heads and all(part in frozen for members in heads for part in members):
        return frozenset(), True
    heads = [own for members in heads if (own := [p for p in members if p not in frozen])]
    if heads:
        groups = [_last_matrix(members) for members in heads]
        sure = all(sure for _, sure in groups) and _is_last(heads, parts)
        return frozenset().union(*(names for names, _ in groups)), sure
    if not parts:
        return frozenset(), False
    if _ends_frozen(parts, frozen, model):
        return frozenset(), _in_order(model)
    deepest = max(part.depth for part in parts)
    names, sure = _last_matrix([part for part in parts if part.depth == deepest])
    return names, sure and (deepest == 0 or _in_order(model))


def _frozen(model: nn.Module) -> list[Part]:
    """Return the parameters of a model that are not trained, with their kinds."""
    return [
        Part(name, tuple(parameter.shape), kind_of(owner_of(model, name)[0]))
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    ]


def _ends_frozen(parts: Sequence[Part], frozen: Sequence[Part], model: nn.Module) -> bool:
    """Return whether the layer that was assigned last is not trained."""
    layers = {part.name for part in (*parts, *frozen) if _is_layer(part)}
    last = [name for name, _ in model.named_parameters() if name in layers][-1:]
    return any(part.name in last for part in frozen)


def _ties_a_head(part: Part, model: nn.Module) -> bool:
    """Return whether one of the modules that share a table is not an embedding."""
    return any(kind_of(owner_of(model, name)[0]) != "embedding" for name in part.names) or any(
        HEAD.match(piece.lower()) for name in part.names for piece in name.split(".")
    )


def _heads(parts: Sequence[Part]) -> list[list[Part]]:
    """Return the parts of each module that is called a head, nearest to the model's root."""
    found: dict[int, dict[str, list[Part]]] = {}
    for part in parts:
        pieces = part.name.split(".")[:-1]
        for place, piece in enumerate(pieces):
            if piece.isdigit():
                break  # a layer of the body may have an `output` of its own
            if HEAD.match(piece.lower()):
                # Each member of a list of heads is a separate head.
                several = piece.lower().endswith("heads") and place + 1 < len(pieces)
                path = ".".join(pieces[: place + 1 + several])
                found.setdefault(place, {}).setdefault(path, []).append(part)
                break
    return list(found[min(found)].values()) if found else []


def _is_last(heads: Sequence[Sequence[Part]], parts: Sequence[Part]) -> bool:
    """Return whether all other layers were assigned before the heads."""
    inside = {part.name for members in heads for part in members}
    first = min(part.depth for members in heads for part in members)
    return all(part.depth < first for part in parts if part.name not in inside and _is_layer(part))


def _is_layer(part: Part) -> bool:
    return len(part.shape) >= 2 and part.kind not in ("normalisation", "embedding")


def _last_matrix(members: Sequence[Part]) -> tuple[frozenset[str], bool]:
    """Return the last matrix of some parts, with its bias, and whether its position is certain."""
    matrices = [part for part in members if _is_layer(part)]
    if not matrices:
        return frozenset(part.name for part in members), True
    if matrices[-1].kind == "other" and len(matrices) > 1:
        return frozenset([matrices[-1].name]), False  # loose in one module, used in any order
    homes = list(dict.fromkeys(part.name.rpartition(".")[0] for part in matrices))
    own = {part.name for part in members if part.name.rpartition(".")[0] == homes[-1]}
    # Modules numbered in one list follow each other; others may be used in any order.
    lists = {re.sub(r"\d+", "0", home) for home in homes}
    sure = len(homes) == 1 or (len(lists) == 1 and homes[0].rpartition(".")[2].isdigit())
    return frozenset(own), sure


def _in_order(model: nn.Module) -> bool:
    """Return whether the module tree ensures that the last assigned layer is the last used."""
    from torch import nn

    children = [(n, m) for n, m in model.named_children() if any(True for _ in m.parameters())]
    if isinstance(model, nn.Sequential):
        return True
    if len(children) == 1:
        _, only = children[0]
        return isinstance(only, (nn.Sequential, nn.ModuleList)) or _in_order(only)
    numbers: dict[str, list[int]] = {}
    for name, _ in children:
        if found := _NUMBERED.match(name):
            numbers.setdefault(found[1], []).append(int(found[2]))
    last = _NUMBERED.match(children[-1][0]) if children else None
    ascending = all(own == sorted(own) for own in numbers.values())
    return not children or (last is not None and ascending and len(numbers[last[1]]) > 1)


def refuse_guess(parts: Sequence[Part], what: str) -> None:
    """Raise if the roles of a model are only a guess.

    Args:
        parts: The parts of the model.
        what: The rule or option that needs the roles, for the message.

    Raises:
        BadValueError: If the roles are a guess.
    """
    if any(part.role and not part.told for part in parts):
        raise BadValueError(
            f"{what}: the names of this model do not tell which layers read the input and which "
            "produce the output: give flow=etude.layerwise.trace(model, inputs), train it through "
            "a Task, assign the layers in the order of use and call the last one 'head', or name "
            "the layers themselves"
        )


def places(parts: Sequence[Part]) -> Mapping[str, frozenset[str]]:
    """Return name -> places of each part, of 'input', 'middle' and 'output'.

    A layer that produces the output is 'output' as a whole. A matrix that does both, such as an
    embedding tied to the head, is 'input' and 'output'.
    """
    deepest = max((part.depth for part in parts), default=0)
    last = {part.depth for part in parts if part.role == "output"}
    found = {}
    for part in parts:
        if not part.role:  # a part written by hand
            first, final = part.depth == 0, 0 < part.depth == deepest
        else:
            first = part.depth == 0 and part.role != "output"  # a tied head's bias reads nothing
            first = first or part.role in ("input", "both", "direct")
            final = part.role in ("output", "both", "direct")
            final = final or (part.depth in last and part.depth > 0)
        words = {word for word, holds in (("input", first), ("output", final)) if holds}
        found[part.name] = frozenset(words or {"middle"})
    return found
