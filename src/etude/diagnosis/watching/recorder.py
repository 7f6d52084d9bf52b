"""Turns the readings of sampled updates into a `History`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.diagnosis.history import Floats, History, Quantity, RunQuantity, Steps
from etude.diagnosis.watching.layers import LayerTable
from etude.diagnosis.watching.noise import noise_over_batch
from etude.diagnosis.watching.sample import Row, Sample, read

MOST_ROWS = 2_048
"""With more sampled updates than this, every second one is dropped."""

FROM_FORWARD = {
    "mean": Quantity.ACTIVATION_MEAN,
    "variance": Quantity.ACTIVATION_VARIANCE,
    "dead": Quantity.DEAD,
    "saturated": Quantity.SATURATED,
    "gates": Quantity.GATES_SATURATED,
}


class Recorder:
    """Keeps the readings of a run.

    Args:
        table: The layers and parameters.
    """

    def __init__(self, table: LayerTable) -> None:
        self._table = table
        self._waiting: list[Sample] = []
        self.rows: list[Row] = []

    def add(self, sample: Sample) -> None:
        """Keep a sample, to be read later."""
        self._waiting.append(sample)

    @property
    def waiting(self) -> int:
        """How many samples are not read yet."""
        return len(self._waiting)

    def read(self) -> None:
        """Read all samples from the device."""
        samples, self._waiting = self._waiting, []
        self.rows += read(samples, len(self._table))
        if len(self.rows) > MOST_ROWS:
            self.rows = self.rows[::2]

    def history(
        self,
        updates: int,
        loss: Sequence[float],
        lr: Sequence[float],
        *,
        one_loss: bool,
        adaptive: bool,
        evaluating_layer: str,
        broken_from: int | None,
        period: int,
        overhead: float,
    ) -> History:
        """Return the history of what was read; the arguments are its other attributes."""
        rows = self.rows
        layers, parameters = self._table.layers(), self._table.parameters()
        steps = np.array([row.update for row in rows], np.int64)
        gradients, weights, moves = (
            np.array([getattr(row, name) for row in rows]).reshape(len(rows), len(parameters))
            for name in ("gradients", "weights", "updates")
        )
        layer = np.array([parameter.layer for parameter in parameters], int)
        groups = np.eye(len(layers))[layer] if len(layers) else np.zeros((0, 0))
        gradient_norm, weight_norm, move = (
            _joined(values, groups) for values in (gradients, weights, moves)
        )
        readings = {
            Quantity.GRADIENT_NORM: gradient_norm,
            Quantity.WEIGHT_NORM: weight_norm,
            Quantity.UPDATE_RATIO: _ratio(move, weight_norm),
            Quantity.UPDATE_COSINE: _cosine(steps, moves, _sums(rows, "update_sums"), groups),
        }
        cosine = _cosine(steps, gradients, _sums(rows, "gradient_sums"), groups)
        with np.errstate(all="ignore"):
            readings[Quantity.GRADIENT_SNR] = np.maximum(0.0, cosine) / np.maximum(1 - cosine, 1e-6)
        readings |= _of_forward(rows, len(layers))
        starts = _sums(rows, "starts").reshape(len(rows), len(parameters))
        usual = np.array(self._table.usual_norms)
        readings[Quantity.WEIGHTS_OVER_USUAL] = _over_usual(starts, usual, layer, groups)
        run: dict[RunQuantity, Floats] = {
            quantity: np.array([row.run.get(quantity, np.nan) for row in rows])
            for quantity in RunQuantity
        }
        whole = np.ones((len(parameters), 1))
        run[RunQuantity.GRADIENT_NORM] = _joined(gradients, whole)[:, 0]
        cosines = _cosine(steps, gradients, _sums(rows, "gradient_sums"), whole)[:, 0]
        parts = np.array([row.parts for row in rows]).reshape(len(rows), 2)
        stay = run[RunQuantity.UNCLEARED] == 1
        cosines[stay], parts[stay] = np.nan, np.nan
        run[RunQuantity.NOISE_OVER_BATCH] = noise_over_batch(cosines, parts)
        return History(
            updates=updates,
            loss=_padded(loss, updates),
            lr=_padded(lr, updates),
            steps=steps,
            layers=layers,
            parameters=parameters,
            readings=readings,
            run_readings=run,
            parameter_gradients=gradients,
            parameter_updates=_relative(moves, weights),
            parameter_norms=weights,
            one_loss=one_loss,
            adaptive=adaptive,
            evaluating_layer=evaluating_layer,
            broken_from=broken_from,
            period=period,
            overhead=overhead,
        )


def _of_forward(rows: Sequence[Row], layers: int) -> dict[Quantity, Floats]:
    """Return (rows, layers) what forward passes have shown; most rows have none."""
    found = {quantity: np.full((len(rows), layers), np.nan) for quantity in FROM_FORWARD.values()}
    for place, row in enumerate(rows):
        for (layer, name), value in row.layers.items():
            if name in FROM_FORWARD:
                found[FROM_FORWARD[name]][place, layer] = value
    return found


def _over_usual(starts: Floats, usual: Floats, layer: Steps, groups: Floats) -> Floats:
    """Return (rows, layers) the size of weights over the usual one, of the weight furthest from it.

    Args:
        starts: (rows, parameters) the norms before the first update; NaN in all other rows.
        usual: (parameters) the norms that the layers draw.
        layer: (parameters) the numbers of the layers.
        groups: (parameters, layers) 1 where a parameter belongs to a layer.
    """
    found = np.full((len(starts), groups.shape[1]), np.nan)
    with np.errstate(all="ignore"):
        ratios = np.where(starts > 0, starts / usual, np.nan)  # 0 is deliberate, as in a new head
    for row in np.flatnonzero(np.isfinite(ratios).any(axis=1)):
        for place in np.flatnonzero(np.isfinite(ratios[row])):
            before, now = found[row, layer[place]], ratios[row, place]
            if not abs(np.log(before)) >= abs(np.log(now)):
                found[row, layer[place]] = now
    return found


def _padded(values: Sequence[float], length: int) -> Floats:
    found = np.full(length, np.nan)
    found[: min(length, len(values))] = values[:length]
    return found


def _joined(values: Floats, groups: Floats) -> Floats:
    """Return (Σ v²)^(1/2) over the members of each group; NaN for a group without a value."""
    known = ~np.isnan(values)
    with np.errstate(all="ignore"):
        total = np.sqrt(_grouped(np.where(known, values, 0.0) ** 2, groups))
    return np.where(known.astype(float) @ groups > 0, total, np.nan)


def _grouped(values: Floats, groups: Floats) -> Floats:
    """Return sums over groups; infinite where a member is."""
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0) @ groups
    return np.where((~finite).astype(float) @ groups > 0, np.inf, total)


def _ratio(over: Floats, under: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.where(under > 0, over / under, np.nan)


def _relative(moves: Floats, weights: Floats) -> Floats:
    """Return update over weight: 0 where nothing moved, infinite where a weight of 0 did."""
    with np.errstate(all="ignore"):
        return np.where(moves == 0, 0.0, moves / weights)


def _sums(rows: Sequence[Row], name: str) -> Floats:
    return np.array([getattr(row, name) for row in rows])


def _cosine(steps: np.ndarray, norms: Floats, sums: Floats, groups: Floats) -> Floats:
    """Return the cosine between consecutive vectors, from the norm of their sum.

    a·b = (‖a + b‖² - ‖a‖² - ‖b‖²) / 2; NaN where the update before was not sampled.
    """
    found = np.full((len(steps), groups.shape[1]), np.nan)
    if len(steps) < 2:
        return found
    before, now, both = norms[:-1], norms[1:], sums[1:]
    with np.errstate(all="ignore"):
        known = np.isfinite(before) & np.isfinite(now) & np.isfinite(both)
        dots = np.where(known, both**2 - before**2 - now**2, 0.0) @ groups / 2
        size = np.sqrt(
            (np.where(known, before, 0.0) ** 2 @ groups) * (np.where(known, now, 0.0) ** 2 @ groups)
        )
        cosine = np.clip(dots / size, -1.0, 1.0)
    consecutive = (np.diff(steps) == 1)[:, None] & (size > 0)
    found[1:] = np.where(consecutive, cosine, np.nan)
    return found
