"""Writes records for TensorBoard: every series and evaluation as scalars."""

from __future__ import annotations

import math
from pathlib import Path

from etude.errors import MissingExtraError
from etude.record import Record


def write(record: Record, folder: str | Path) -> None:
    """Write a record as an event file that TensorBoard shows.

    Each series is written as `train/NAME`, with one value per update; evaluations are written as
    `valid/loss` and `valid/METRIC`, over the number of updates done. Values that are not finite
    are left out. The recipe is written as text.

    Args:
        record: The result of `etude.train`, or `best.record` of `etude.tune`.
        folder: The log folder; give each record its own folder, which TensorBoard shows as a run.

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
