"""The report on one step of back-propagation."""

from __future__ import annotations

import math

from etude.measure.backprop import Backprop, LayerPass, ParameterUpdate
from etude.report import words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.figures import gradient_chain
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(Backprop)
def of_step(found: Backprop, task: Task | None = None) -> Report:
    """Return the report on one step."""
    chain = gradient_chain.info(found)
    drawing = Drawing(
        gradient_chain.caption(chain), lambda theme: gradient_chain.draw(chain, theme)
    )
    change = "lowers" if found.loss_after < found.loss else "raises"
    return Report(
        kind="Back-propagation",
        subject=found.task,
        title=f"{found.task}: one step {change} the loss from {words.number(found.loss)} to "
        f"{words.number(found.loss_after)}",
        lede=f"Update {found.step}, {words.plural(found.samples, 'sample')}: forward, loss, "
        "backward, update.",
        facts=tuple(_facts(found)),
        sections=(
            Section("Forward and backward", (_told(found), _layers(found))),
            Section("The gradient on its way back", (drawing,), detail=True),
            Section("Update", (_update_told(found), _parameters(found))),
        ),
    )


def _facts(found: Backprop) -> list[Fact]:
    change = found.loss_after - found.loss
    facts = [
        Fact("Loss", words.number(found.loss), "forward pass"),
        Fact(
            "Loss after the update",
            words.number(found.loss_after),
            f"the same batch: {_signed(change)}, where the gradient predicts "
            f"{_signed(found.predicted)}",
            Tone.GOOD if change < 0 else Tone.WARN,
        ),
        Fact(
            "Learning rate",
            words.rate(found.lr),
            "the peak rate of the recipe, without its schedule",
        ),
    ]
    if found.product is not None and found.ends is not None:
        first, last = found.ends
        facts.append(
            Fact(
                "Gradient, back to front",
                f"× {words.number(found.product, 3)}",
                f"from {words.number(last.gradient, 3)} at {last.name} to "
                f"{words.number(first.gradient, 3)} at {first.name}: the product of "
                f"{words.plural(len(found.chain), 'factor')}",
            )
        )
    return facts


def _signed(value: float) -> str:
    """Return a number with its sign.

    >>> _signed(0.5), _signed(-0.25)
    ('+0.5', '−0.25')
    """
    return f"{'+' if value >= 0 else ''}{words.number(value, 3)}"


def _told(found: Backprop) -> str:
    text = (
        "The forward pass goes down this table, the backward pass up. A layer turns the gradient "
        "of its output into that of what it reads; its factor is the ratio of the two norms. "
    )
    if found.unchained:
        return f"{text}No factors are given: {found.unchained}."
    if any(not row.trunk for row in found.layers):
        text += (
            "Layers without a factor are in a branch: the gradient also passes beside them, and "
            "the factor of the next layer covers the branch. "
        )
    return f"{text}Functions that are no layers count to the layer below them."


def _layers(found: Backprop) -> DataTable:
    reach = _reach(found)
    return DataTable(
        (
            TableColumn("layer", whole=True),
            TableColumn("kind", minor=True),
            TableColumn("output", minor=True, whole=True),
            TableColumn("mean", number=True, minor=True),
            TableColumn("spread", number=True),
            TableColumn("gradient", number=True),
            TableColumn("factor", number=True),
        ),
        tuple(_layer(row, reach) for row in found.layers),
        "Spread: standard deviation of the outputs. Gradient: the norm of the loss's gradient in "
        "them.",
        centred=True,
        scale=f"Bars: the factor, on a logarithmic scale from × {10**-reach:.3g} to "
        f"× {10**reach:.3g}.",
    )


def _reach(found: Backprop) -> float:
    """Return the number of decades in half of the bars' scale, at least log10(2)."""
    factors = [row.factor for row in found.chain if row.factor]
    return max([math.log10(2), *(abs(math.log10(factor)) for factor in factors)])


def _layer(row: LayerPass, reach: float) -> TableRow:
    return TableRow(
        (
            row.name,
            row.kind,
            _shape(row.shape),
            words.number(row.mean, 2),
            words.number(row.deviation, 3),
            words.number(row.gradient, 3),
            "" if row.factor is None else f"× {words.number(row.factor, 3)}",
        ),
        Tone.PLAIN if row.trunk else Tone.SOFT,
        bar=math.log10(row.factor) / reach if row.factor else None,
    )


def _update_told(found: Backprop) -> str:
    ratios = [row.ratio for row in found.parameters if row.ratio]
    text = "The optimizer turns the gradient of each parameter into an update."
    if ratios:
        text += (
            f" Of the weights it changes a share from {words.number(min(ratios), 2)} to "
            f"{words.number(max(ratios), 2)}: the ratio of the norms."
        )
    return text


def _parameters(found: Backprop) -> DataTable:
    names = ("weights", "gradient", "update", "update / weights")
    return DataTable(
        (
            TableColumn("parameter", whole=True),
            TableColumn("shape", minor=True, whole=True),
            *(TableColumn(name, number=True, minor=name == "weights") for name in names),
        ),
        tuple(_parameter(row) for row in found.parameters),
        "Norms: of the weights before the update, of the loss's gradient before any clipping, and "
        "of the update made.",
    )


def _parameter(row: ParameterUpdate) -> TableRow:
    numbers = (row.weight, row.gradient, row.update, row.ratio)
    cells = (row.name, _shape(row.shape), *(words.number(value, 3) for value in numbers))
    return TableRow(cells, Tone.PLAIN if row.update else Tone.SOFT)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
