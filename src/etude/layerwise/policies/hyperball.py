"""Hyperball: hidden matrices keep their norm, and each update has a fixed length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from etude.errors import BadValueError
from etude.layerwise.parts import Part
from etude.layerwise.policies.policy import Factor, Policy, Setting
from etude.optimizers.row import OptimizerRow
from etude.optimizers.table import ROWS


@dataclass(frozen=True, repr=False)
class Hyperball(Policy):
    """A wrapper of any optimizer that fixes the norms of matrices and of their updates.

    With w a matrix, Δ the optimizer's own update of it and R = ‖w‖:

        w ← R · v / ‖v‖,    v = w + lr · R · Δ / ‖Δ‖

    R is the norm of the initial weights, which every update keeps. The rate is then the angle of an
    update, whatever the width. Hidden matrices and kernels are wrapped; embeddings, the layer that
    produces the output, biases and normalisations keep the optimizer's own update at the same rate:
    a table of rules gives them another. Wrapped tensors have no weight decay.

    Source: Wen et al. 2026, arXiv:2606.16899; `hyperball()` around adam is their AdamH, around muon
    their MuonH.
    """

    name: ClassVar[str] = "hyperball"
    what: ClassVar[str] = "a fixed norm"

    @property
    def by_role(self) -> bool:
        """Always True: the layer that produces the output is left out."""
        return True

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: no weight decay for the tensors that are wrapped."""
        row = ROWS.get(setting.optimizer)
        decays = row is None or row.decay != "none"
        return [Factor(decay=0.0 if decays and self.scales(part) else 1.0) for part in parts]

    def scales(self, part: Part) -> bool:
        """Return whether a part's norm is fixed."""
        return (
            len(part.shape) >= 2
            and part.rows > 1
            and part.count > part.rows
            and not part.bias
            and part.applied
            and part.kind not in ("embedding", "normalisation")
            and part.role not in ("output", "both", "direct")
        )


def refuse_hyperball(name: str, row: OptimizerRow | None, *, linear: bool) -> None:
    """Raise for an optimizer that Hyperball cannot wrap.

    Args:
        name: The optimizer's name.
        row: Its row in the table; None if it has none.
        linear: Whether the user says that its update is linear in its rate.

    Raises:
        BadValueError: If it keeps other weights than those that it trains, or is not known.
    """
    if row is None and not linear:
        raise BadValueError(
            f"hyperball: {name} is not known to have an update whose direction does not depend on "
            "its rate: say linear=True if it does"
        )
    if row is not None and (row.eval_mode or row.closure or row.rate_free):
        why = "evaluates other weights than it trains" if row.eval_mode else "chooses its own step"
        raise BadValueError(
            f"hyperball: {name} {why}, which a fixed norm would undo: use an optimizer such as adam"
        )
