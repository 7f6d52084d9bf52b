"""Histories as nested plain values: for a checkpoint with tensors, for a record with lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from etude.diagnosis.finding import Finding
from etude.diagnosis.health.finding_plain import finding_of
from etude.diagnosis.history import Floats, History, LayerInfo, ParameterInfo
from etude.record import from_json, to_json

MOST_ROWS, MOST_NUMBERS = 200, 50_000
"""The largest number of sampled updates, and of numbers, that a record keeps."""

ROUNDED = 5
"""Significant digits that a record keeps."""

FINDING = "finding"
"""The key of a finding in a tree."""


def to_tree(history: History) -> dict[str, Any]:
    """Return a history as plain values and tensors, for a checkpoint."""
    return {one.name: _tree(getattr(history, one.name)) for one in fields(history)}


def _tree(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {str(name): _tree(one) for name, one in value.items()}
    if isinstance(value, Finding):
        return {FINDING: value.to_dict()}
    if isinstance(value, tuple):
        return [asdict(one) if is_dataclass(one) else one for one in value]  # type: ignore[arg-type]
    return value


def from_tree(tree: Mapping[str, Any]) -> History:
    """Return the history that `to_tree` took apart; fields that are not known are left out."""
    known = {one.name for one in fields(History)}
    return History(**{name: _back(name, v) for name, v in tree.items() if name in known})


def _back(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    if isinstance(value, Mapping):
        if FINDING in value:
            return finding_of(value[FINDING])
        return {key: _back(key, one) for key, one in value.items()}
    if name == "layers":
        return tuple(_layer(one) for one in value)
    if name == "parameters":
        return tuple(ParameterInfo(**_known(ParameterInfo, one)) for one in value)
    return tuple(value) if isinstance(value, list) else value


def _layer(plain: Mapping[str, Any]) -> LayerInfo:
    return LayerInfo(**{**_known(LayerInfo, plain), "parameters": tuple(plain["parameters"])})


def _known(kind: type[LayerInfo | ParameterInfo], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a class has a field for: those of another version may be more."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in plain.items() if name in names}


# ---- for a record ------------------------------------------------------------------------------


def to_plain(history: History) -> dict[str, Any]:
    """Return the layers and their readings as JSON can hold them, for a record.

    Of many sampled updates some are kept, evenly spread, and numbers are rounded. Single parameters
    are left out, and so are loss and rate, which the record has.
    """
    row = sum(values[0].size for values in _readings(history).values() if len(values))
    most = max(1, min(MOST_ROWS, MOST_NUMBERS // max(1, row)))
    kept = np.arange(history.samples)
    if len(kept) > most:
        kept = np.unique(np.linspace(0, len(kept) - 1, most).round().astype(int))
    return {
        "updates": history.updates,
        "samples": history.samples,
        "period": history.period,
        "steps": history.steps[kept].tolist(),
        "layers": [_layer_plain(layer) for layer in history.layers],
        "readings": {str(q): _rows(v[kept]) for q, v in history.readings.items()},
        "run_readings": {str(q): _row(v[kept]) for q, v in history.run_readings.items()},
    }


def _readings(history: History) -> dict[str, Floats]:
    run = {str(q): v for q, v in history.run_readings.items()}
    return {**{f"layer {q}": v for q, v in history.readings.items()}, **run}


def _layer_plain(layer: LayerInfo) -> dict[str, Any]:
    return {**asdict(layer), "parameters": list(layer.parameters)}


def _row(values: Floats) -> list[Any]:
    return [to_json(float(f"{value:.{ROUNDED}g}")) for value in values.tolist()]


def _rows(values: Floats) -> list[list[Any]]:
    return [_row(row) for row in values]


def from_plain(plain: Mapping[str, Any]) -> History:
    """Return the history that a record kept, without loss and rate.

    The values were compared with `etude.diagnosis.health.shape.HistoryShape` before.

    Raises:
        ValueError: If a reading has not one number for each layer and update.
    """
    steps = np.array(plain["steps"], np.int64)
    layers = tuple(_layer(one) for one in plain["layers"])
    readings: Any = {  # a StrEnum is equal to its text
        name: _numbers(rows, (len(steps), len(layers))) for name, rows in plain["readings"].items()
    }
    run: Any = {name: _numbers(row, (len(steps),)) for name, row in plain["run_readings"].items()}
    nothing = np.full(0, np.nan)
    return History(
        updates=plain["updates"],
        loss=nothing,
        lr=nothing,
        steps=steps,
        layers=layers,
        readings=readings,
        run_readings=run,
        period=plain["period"],
    )


def _numbers(values: Any, shape: tuple[int, ...]) -> Floats:
    found: Floats = np.array(
        [
            [from_json(v) for v in row] if isinstance(row, list) else from_json(row)
            for row in values
        ],
        np.float64,
    )
    return found.reshape(shape)
