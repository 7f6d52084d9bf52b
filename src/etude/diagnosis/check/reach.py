"""Whether a gradient reaches every trainable parameter, and every one is in the optimizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding, Symptom
from etude.layerwise.parts import kind_of, owner_of

NAMED = 4
"""The number of parameters that a sentence names."""


def gradients(subject: Subject) -> Look:
    """Look for trainable parameters that no gradient reaches in the first updates.

    A parameter that is not in the loss's graph in any update is not trained. A matrix whose
    gradient is exactly 0 in every entry and every update is silent.

    Cost: ten updates of the recipe, at a constant rate.
    """
    updates = subject.updates
    if updates.error:
        return Look(unseen=f"whether a gradient reaches every parameter: {updates.error}")
    network = subject.run.model
    order = [name for name, _ in network.named_parameters()]
    outside = [n for n in order if n in updates.trainable - updates.reached]
    still = [n for n in order if n in updates.reached - updates.moved]
    if not any(network.get_parameter(n).ndim > 1 for n in still):
        still = []  # a bias alone may cancel, such as that of a score of which differences count
    found: list[Finding] = []
    count = len(updates.losses)
    if outside:
        why = f"the loss does not depend on {'it' if len(outside) == 1 else 'them'}"
        if subject.recipe.lr_mult:
            why += ", or a multiplier of 0 keeps the rate at 0"
        found.append(
            Finding(
                Cause.PARAMETERS_NOT_TRAINED,
                layer=_layer(outside[0]),
                evidence={"parameters": len(outside), "first": outside[0]},
                text=f"No gradient reaches {_named(outside)} in the first {count} updates: {why}.",
                fix="Use the layer in forward, look for detach() and torch.no_grad() after it, or "
                "set its requires_grad to False.",
            )
        )
    if still:
        found.append(
            Finding(
                Symptom.SILENT_PARAMETER,
                layer=_layer(still[0]),
                evidence={"parameters": len(still), "first": still[0]},
                text=f"The gradient of {_named(still)} is exactly 0 in each of the first {count} "
                "updates.",
                fix="Look at the layers after it: units that never fire, or weights that are 0.",
            )
        )
    seen = f"the gradient of {len(updates.trainable)} parameters in {count} updates"
    return Look((*found, *_symmetric(subject, updates.alike)), seen)


def _symmetric(subject: Subject, alike: Sequence[str]) -> list[Finding]:
    """Return a finding if all units of a layer began alike, and still are."""
    network = subject.run.model
    hidden = [
        n
        for n in alike
        if n in subject.updates.reached
        and kind_of(owner_of(network, n)[0]) in ("linear", "convolution", "recurrent")
    ]
    if not hidden:
        return []
    return [
        Finding(
            Cause.BAD_INITIALISATION,
            layer=_layer(hidden[0]),
            evidence={"matrices": len(hidden), "first": hidden[0]},
            text=f"All rows of {_named(hidden)} are equal, and still are after "
            f"{len(subject.updates.losses)} updates: units that begin alike get the same gradient "
            "and stay alike.",
            fix="Draw the weights at random.",
        )
    ]


def untrainable(network: nn.Module) -> tuple[Finding, ...]:
    """Return a finding if no parameter of a network is trainable.

    >>> [finding.text for finding in untrainable(nn.Linear(2, 1).requires_grad_(False))]
    ["None of the network's 2 parameters is trainable: there is no gradient to follow."]
    """
    parameters = list(network.parameters())
    if not parameters or any(p.requires_grad for p in parameters):
        return ()
    return (
        Finding(
            Cause.PARAMETERS_NOT_TRAINED,
            evidence={"parameters": len(parameters)},
            text=f"None of the network's {len(parameters)} parameters is trainable: there is no "
            "gradient to follow.",
            fix="Set requires_grad to True for what is to be trained.",
            certain=True,
        ),
    )


def graph(subject: Subject) -> Look:
    """Look whether the loss depends on any trainable parameter, so that a gradient can be computed.

    Cost: one forward pass.
    """
    if subject.error is not None:
        return Look()
    network = subject.network()
    if subject.forward(network, subject.batch)[0].requires_grad:
        return Look()
    count = sum(p.requires_grad for p in network.parameters())
    return Look(
        (
            Finding(
                Cause.PARAMETERS_NOT_TRAINED,
                evidence={"trainable": count},
                text=f"The loss depends on none of the {count} trainable parameters: there is no "
                "gradient to follow.",
                fix="Look for detach(), .data, .item() and torch.no_grad() in the model and the "
                "loss.",
                certain=True,
            ),
        )
    )


def optimized(subject: Subject) -> Look:
    """Look for trainable parameters that the optimizer does not have.

    Cost: none.
    """
    found = missing_from_optimizer(subject.run.model, subject.run.optimizer)
    count = sum(len(group["params"]) for group in subject.run.optimizer.param_groups)
    return Look(tuple(found), f"the optimizer's {count} parameters")


def missing_from_optimizer(
    model: nn.Module, optimizer: Optimizer | Collection[Optimizer]
) -> list[Finding]:
    """Return a finding if the optimizer does not update a trainable parameter of the model.

    Args:
        model: The network.
        optimizer: The optimizer; several may share the parameters.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> missing_from_optimizer(net, torch.optim.SGD(net.parameters(), lr=0.1))
    []
    >>> missing_from_optimizer(net, torch.optim.SGD(net[0].parameters(), lr=0.1))[0].layer
    '2'
    """
    several = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    known = {id(p) for one in several for group in one.param_groups for p in group["params"]}
    missing = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if not missing:
        return []
    return [
        Finding(
            Cause.PARAMETERS_NOT_TRAINED,
            layer=_layer(missing[0]),
            evidence={"parameters": len(missing), "first": missing[0]},
            text=f"The optimizer does not have {_named(missing)}: "
            f"{'it is' if len(missing) == 1 else 'they are'} never updated.",
            fix="Build the optimizer after the last layer is in place, from model.parameters(), or "
            "set requires_grad to False for what is to stand still.",
            certain=True,
        )
    ]


def _layer(name: str) -> str:
    """Return the layer of a parameter; the parameter itself if it belongs to no layer."""
    return name.rpartition(".")[0] or name


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
