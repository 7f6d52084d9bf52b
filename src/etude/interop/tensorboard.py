"""Records in TensorBoard: every series and evaluation as scalars."""

from __future__ import annotations

import math
from pathlib import Path

from etude.errors import MissingExtraError
from etude.record import Record


def write(record: Record, folder: str | Path) -> None:
    """Write a record as an event file that TensorBoard shows.

    Series become `train/NAME` over updates, evaluations `valid/loss` and `valid/METRIC` over
    updates done; what is not finite is left out. The recipe stands as text.

    Args:
        record: Of `etude.train`, or `best.record` of `etude.tune`.
        folder: The log folder; each record in a folder of its own is a run of its own.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard is missing: pip install 'etude[tracking]'") from error
    with SummaryWriter(str(folder)) as writer:
        scalars = [
            (f"train/{name}", step, float(value))
            for name, values in record.series.items()
            for step, value in enumerate(values)
        ]
        for evaluation in record.evaluations:
            scalars.append(("valid/loss", evaluation.step, evaluation.loss))
            if evaluation.metric is not None:
                scalars.append((f"valid/{record.metric}", evaluation.step, evaluation.metric))
        for name, step, value in scalars:
            if math.isfinite(value):
                writer.add_scalar(name, value, step)
        writer.add_text("recipe", f"```toml\n{record.recipe.to_toml()}\n```")
