"""Histories as nested plain values: for a checkpoint with tensors, for a record with lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch

from etude.diagnosis.finding import Finding
from etude.diagnosis.health.finding_plain import finding_of
from etude.diagnosis.health.shape import TreeShape
from etude.diagnosis.history import (
    Floats,
    History,
    LargestSample,
    LayerInfo,
    OutputFault,
    ParameterInfo,
    RunQuantity,
    Steps,
)
from etude.errors import StorageError, shown
from etude.record import from_json, to_json
from etude.record_shape import refuse_other

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
        return [_plain(one) for one in value]
    return value


def _plain(value: Any) -> Any:
    """Return one entry of a tuple as JSON can hold it."""
    if isinstance(value, LayerInfo):
        return _layer_plain(value)
    if isinstance(value, ParameterInfo):
        return asdict(value)
    if isinstance(value, LargestSample):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def from_tree(tree: Mapping[str, Any]) -> History:
    """Return the history that `to_tree` took apart; fields that are not known are left out.

    Raises:
        StorageError: If a value is of another type, or an array of another shape: a checkpoint may
            come from an unknown source.
    """
    fault = tree.get("output_fault")
    scalars = {**tree, "output_fault": tuple(fault) if isinstance(fault, list) else fault}
    refuse_other(scalars, TreeShape)
    known = {one.name for one in fields(History)}
    found = History(**{name: _back(name, v) for name, v in tree.items() if name in known})
    _refuse_arrays(found)
    return found


def _refuse_arrays(found: History) -> None:
    """Raise for arrays of another type or shape than a history has.

    Raises:
        StorageError: If there is one; the message names it.
    """
    arrays: dict[str, tuple[Any, type, int]] = {
        "steps": (found.steps, np.int64, 1),
        "loss": (found.loss, np.float64, 1),
        "lr": (found.lr, np.float64, 1),
    }
    rows = {f"readings {q}": (v, np.float64, 2) for q, v in found.readings.items()}
    rows |= {f"run_readings {q}": (v, np.float64, 1) for q, v in found.run_readings.items()}
    for one in fields(History):
        if one.name.startswith("parameter_") or one.name == "target_means":
            rows[one.name] = getattr(found, one.name), np.float64, 2
    for name, (value, kind, axes) in (arrays | rows).items():
        if not isinstance(value, np.ndarray) or value.dtype != kind or value.ndim != axes:
            raise StorageError(f"its {shown(name)} is no array of {axes} axes of {kind.__name__}")
    for name, (value, _, _) in rows.items():
        wide = len(found.layers) if name.startswith("readings ") else None
        if len(value) not in (found.samples, 0) or (wide is not None and value.shape[1] != wide):
            raise StorageError(f"its {shown(name)} has the shape {value.shape}")


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
    if name == "largest_samples":
        return tuple(LargestSample(int(at), share, int(rows)) for at, share, rows in value)
    if name == "output_fault" and value is not None:
        return OutputFault(*value)
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

    Of many sampled updates some are kept, evenly spread, those first in which the curvature was
    measured; numbers are rounded. Single parameters are left out, and so are loss and rate, which
    the record has.
    """
    row = sum(values[0].size for values in _readings(history).values() if len(values))
    most = max(1, min(MOST_ROWS, MOST_NUMBERS // max(1, row)))
    kept = np.arange(history.samples)
    if len(kept) > most:
        rare = np.flatnonzero(~np.isnan(history.of_run(RunQuantity.RATE_OVER_CRITICAL)))
        rare = _spread(rare, most // 2)
        kept = np.union1d(rare, _spread(np.setdiff1d(kept, rare), most - len(rare)))
    return {
        "updates": history.updates,
        "samples": history.samples,
        "period": history.period,
        "steps": history.steps[kept].tolist(),
        "layers": [_layer_plain(layer) for layer in history.layers],
        "readings": {str(q): _rows(v[kept]) for q, v in history.readings.items()},
        "run_readings": {str(q): _row(v[kept]) for q, v in history.run_readings.items()},
    }


def _spread(rows: Steps, most: int) -> Steps:
    """Return so many of the rows at most, evenly spread, the first and the last included."""
    if len(rows) <= most:
        return rows
    kept: Steps = rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
    return kept


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
