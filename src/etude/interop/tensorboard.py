"""TensorBoard: records as event files; a sink for a watch, and for `log="tensorboard"`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from etude.diagnosis.finding import Finding
from etude.diagnosis.watching.sink import TRIALS
from etude.errors import MissingExtraError
from etude.record import Record
from etude.storage.run_folder import RunFolder


class TensorBoardSink:
    """Shows what a watch reads as scalars, and what it finds as text.

        etude.watch(model, optimizer, sink=TensorBoardSink("logs"))

    Args:
        folder: The log folder, which TensorBoard shows as a run.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer = _writer(folder)

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Write each value as a scalar, at the update."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def finding(self, finding: Finding) -> None:
        """Write a finding as text under 'watch/findings', at its update."""
        self._writer.add_text("watch/findings", str(finding), finding.step or 0)

    def settings(self, config: Mapping[str, Any]) -> None:
        """Write the values of a recipe as text."""
        self._writer.add_text("recipe", "\n".join(f"    {k} = {v}" for k, v in config.items()))

    def part(self, title: str, name: str) -> TensorBoardSink:
        """Return a sink that writes to 'trials/NAME' in the log folder: a run for TensorBoard.

        Args:
            title: Not used: TensorBoard shows the folder's name.
            name: The name of the folder.
        """
        return TensorBoardSink(self.folder / TRIALS / name)

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()


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
    with _writer(folder) as writer:
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


def available() -> None:
    """Check that TensorBoard can be imported.

    Raises:
        MissingExtraError: If it is not installed.
    """
    _summary_writer()


def open_log(title: str, folder: Path | None) -> TensorBoardSink:
    """Return a sink that writes to `FOLDER/tensorboard`, else to a new folder under `runs/`.

    Args:
        title: Part of the name of a new folder under `runs/`.
        folder: The run folder; None for none.
    """
    return TensorBoardSink(_fresh(title) if folder is None else RunFolder(folder).tensorboard)


def _fresh(title: str) -> Path:
    """Return a folder under runs/ that does not exist yet."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    short = re.sub(r"[^\w.-]+", "-", title).strip("-.") or "run"
    names = (f"{short}-{stamp}{number}" for number in chain([""], (f"-{n}" for n in count(2))))
    return next(place for name in names if not (place := Path("runs") / name).exists())


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard is missing: pip install 'etude[tracking]'") from error
    return SummaryWriter


def _writer(folder: str | Path) -> Any:
    return _summary_writer()(str(folder))
