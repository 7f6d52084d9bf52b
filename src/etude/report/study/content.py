"""`StudyContent`: everything that the report on a study draws, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from etude.diagnosis.health.read import health_of
from etude.errors import StorageError
from etude.record import Record
from etude.report.figures import layer_readings
from etude.report.figures.palette import Theme
from etude.report.study import (
    learning_curves,
    loss_curves,
    schedule_shapes,
    sensitivity_bars,
    size_curves,
    stability_map,
)
from etude.report.study.choose import MOST_FIGURES, panels, shown_rows
from etude.report.study.finding_text import StudyFinding
from etude.report.study.findings import findings
from etude.report.study.loss_curves import StudyCurve
from etude.report.study.naming import differing_parts, mean_of, name_of, shared_name
from etude.report.study.schedule_shapes import ScheduleShape
from etude.report.study.sensitivity_bars import SensitivityBar
from etude.report.study.stability_map import MapRow
from etude.report.study.table import mean_rank
from etude.studies.analysis.groups import RankedPart, SizeDrift, drifts, rankings
from etude.studies.analysis.intervals import mean_interval
from etude.studies.analysis.progress import ToTarget, records_of, targets_of, to_target
from etude.studies.result import StudyResult
from etude.studies.summary import RateSummary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Draw = Callable[[Theme], "Figure"]
Named = list[tuple[str, Draw]]


@dataclass(frozen=True)
class StudyContent:
    """What the report on a study draws.

    Attributes:
        result: The study.
    """

    result: StudyResult

    @cached_property
    def summaries(self) -> list[RateSummary]:
        """One summary for each kind of run."""
        return self.result.summaries()

    @cached_property
    def differing(self) -> tuple[str, ...]:
        """The parts of a kind that are not the same everywhere."""
        return differing_parts([one.kind for one in self.summaries])

    @cached_property
    def at_best(self) -> tuple[list[RateSummary], str]:
        """The kinds that have a row in a figure, and what is left out."""
        return shown_rows(self.summaries)

    @cached_property
    def records(self) -> dict[int, Record]:
        """Records: first those at the best rates, then those of the kinds that are shown."""
        wanted = [n for one in self.summaries for n in one.best_trials]
        wanted += [n for one in self.at_best[0] for n in one.trials]
        return records_of(wanted, self.result.record)

    @cached_property
    def findings(self) -> list[StudyFinding]:
        """Every sentence that the trials support."""
        return findings(self.result, self.records)

    @cached_property
    def targets(self) -> dict[int, ToTarget]:
        """The updates to the target of the task, by the place of the kind."""
        losses = targets_of(self.summaries)
        found = {
            i: to_target(one, losses[one.kind.task], self.records)
            for i, one in enumerate(self.summaries)
            if one.kind.task in losses and one.best_trials
        }
        return {i: one for i, one in found.items() if one is not None}

    @cached_property
    def ranks(self) -> dict[str, list[RankedPart]]:
        """The ranks of the optimizers and of the schedules."""
        return {part: rankings(self.summaries, part) for part in ("optimizer", "schedule")}

    @cached_property
    def drifts(self) -> list[SizeDrift]:
        """How the best rate moves with each size."""
        return drifts(self.summaries)

    # ---- figures -------------------------------------------------------------------------------

    @cached_property
    def map_rows(self) -> list[MapRow]:
        """The rows of the map."""
        return [
            MapRow(
                self._row_name(one),
                one.lrs,
                one.losses,
                one.untrained,
                None if one.optimum is None else one.optimum.lr,
            )
            for one in self.at_best[0]
        ]

    def _row_name(self, one: RateSummary) -> str:
        """Return a name without the schedule where each kind stands at its best one."""
        parts = self.differing
        if self.at_best[1]:
            parts = tuple(name for name in parts if name != "schedule")
        return name_of(one.kind, parts)

    @cached_property
    def losses(self) -> list[tuple[str, list[StudyCurve], float]]:
        """The panels of the loss against the rate: name, lines, untrained loss."""
        groups, shared = panels([one for one in self.summaries if one.lrs], self.differing)
        rest = [name for name in self.differing if name not in shared]
        found = []
        for own in list(groups.values())[:MOST_FIGURES]:
            start = mean_of(one.untrained for one in own)
            lines = [_curve(one, name_of(one.kind, rest)) for one in own]
            found.append((name_of(own[0].kind, shared), lines, start))
        return found

    @cached_property
    def bars(self) -> list[SensitivityBar]:
        """The bars of the sensitivity, the most sensitive first; none where no rate trains."""
        found = [
            SensitivityBar(self._row_name(one), one.sensitivity_interval)
            for one in self.at_best[0]
            if one.sensitivity_interval is not None and one.stable is not None
        ]
        return sorted(found, key=lambda one: -one.found.value)

    @cached_property
    def shapes(self) -> list[ScheduleShape]:
        """The schedules as they were run, in the order of their mean rank."""
        ranks: dict[str, list[int]] = {}
        for group in self.ranks["schedule"]:
            for rival in group.ranking.rivals:
                ranks.setdefault(rival.name, []).append(rival.rank)
        found: dict[str, ScheduleShape] = {}
        for one in self.summaries:
            name = one.kind.schedule
            record = next((self.records[n] for n in one.best_trials if n in self.records), None)
            if name in found or record is None:
                continue
            note = f"mean rank {mean_rank(ranks[name])}" if name in ranks else ""
            shape = schedule_shapes.shape_of(name, note, record)
            if shape is not None:
                found[name] = shape
        return sorted(found.values(), key=lambda s: _mean(ranks.get(s.name)))

    @cached_property
    def curves(self) -> list[tuple[int, str, learning_curves.LearningCurves]]:
        """The learning curves of the kinds that are shown: place, name, data."""
        found = []
        places = {id(one): i for i, one in enumerate(self.summaries)}
        for one in self.at_best[0][:MOST_FIGURES]:
            data = learning_curves.info(one, self.records)
            if data is not None:
                found.append((places[id(one)], name_of(one.kind, self.differing), data))
        return found

    @cached_property
    def layers(self) -> Named:
        """The gradient of each layer, of the runs at the best rates that were watched."""
        found: Named = []
        for one in self.at_best[0][:MOST_FIGURES]:
            record = next((self.records[n] for n in one.best_trials if n in self.records), None)
            readings = None if record is None else _readings(record)
            if readings:
                name = name_of(one.kind, self.differing)
                found.append((name, partial(layer_readings.draw, readings)))
        return found

    @cached_property
    def drawn(self) -> dict[str, Named]:
        """All figures by kind, each with a name; kinds without a figure are left out."""
        found: dict[str, Named] = {
            "map": [("", partial(stability_map.draw, self.map_rows))] if self.map_rows else [],
            "losses": [
                (name, partial(loss_curves.draw, lines, start))
                for name, lines, start in self.losses
            ],
            "curves": [
                (name, partial(learning_curves.draw, data)) for _, name, data in self.curves
            ],
            "sensitivity": ([("", partial(sensitivity_bars.draw, self.bars))] if self.bars else []),
            "schedules": [("", partial(schedule_shapes.draw, self.shapes))] if self.shapes else [],
            "layers": self.layers,
        }
        for one in self.drifts:
            if len(found.get(one.size, ())) == MOST_FIGURES:
                continue
            if sum(kind.optimum is not None for kind in one.summaries) > 1:
                found.setdefault(one.size, []).append(
                    (shared_name(one, self.differing), partial(size_curves.draw, one))
                )
        return {kind: drawn for kind, drawn in found.items() if drawn}


def _curve(one: RateSummary, name: str) -> StudyCurve:
    intervals = [mean_interval(row) for row in one.table]
    best = one.optimum
    return StudyCurve(
        name,
        one.lrs,
        tuple(found.low for found in intervals),
        tuple(found.value for found in intervals),
        tuple(found.high for found in intervals),
        None if best is None else (best.low, best.high),
        None if best is None else (best.lr, best.loss),
        one.limit,
    )


def _readings(record: Record) -> layer_readings.LayerReadings | None:
    try:
        found = health_of(record)
    except StorageError:
        return None
    if found is None or found.history is None:
        return None
    return layer_readings.info(found.history)


def _mean(ranks: Sequence[int] | None) -> float:
    return sum(ranks) / len(ranks) if ranks else math.inf
