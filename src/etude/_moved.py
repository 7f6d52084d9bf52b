"""Modules that have another name now: an import of the old one says which."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

MOVED = {
    "etude.layerwise.picture": "etude.measure.layer_rates",
    "etude.layerwise.rest": "etude.layerwise.frozen_tensors",
    "etude.optimizers.lanczos": "etude.measure.lanczos",
    "etude.pytorch_code": "etude.export.pytorch",
    "etude.report.candidate_curves": "etude.report.figures.trial_curves",
    "etude.report.answer": "etude.report.kinds.tuning",
    "etude.report.stability_map": "etude.report.study.stability_map",
    "etude.report.study_curves": "etude.report.study.loss_curves",
    "etude.report.style": "etude.report.templates",
    "etude.report.tables": "etude.report.trials",
    "etude.studies.local": "etude.studies.driver",
    "etude.training.broken": "etude.training.checks.divergence",
    "etude.training.checkpoint": "etude.storage.checkpoint",
    "etude.training.engines": "etude.engines",
    "etude.training.engines.auto": "etude.engines.auto",
    "etude.training.engines.engine": "etude.engines.base",
    "etude.training.engines.loop": "etude.engines.loop",
    "etude.training.engines.pace": "etude.engines.process.cost_model",
    "etude.training.engines.parcel": "etude.engines.process.state_transfer",
    "etude.training.engines.pieces": "etude.engines.process.partition",
    "etude.training.engines.pool": "etude.engines.process.engine",
    "etude.training.engines.shift": "etude.engines.process.dispatcher",
    "etude.training.engines.team": "etude.engines.process.worker_pool",
    "etude.training.engines.train_many": "etude.engines.train_many",
    "etude.training.engines.worker": "etude.engines.process.worker",
    "etude.training.folder": "etude.storage.run_folder",
    "etude.training.further": "etude.training.state.extension",
    "etude.training.given": "etude.training.checks.validation",
    "etude.training.groups": "etude.training.gradient.param_groups",
    "etude.training.keeper": "etude.training.state.checkpointer",
    "etude.training.length": "etude.training.clock",
    "etude.training.private": "etude.training.state.rng",
    "etude.training.record": "etude.record",
    "etude.training.record_shape": "etude.record_shape",
    "etude.training.sameness": "etude.storage.task_digests",
    "etude.training.state_tree": "etude.storage.state_tree",
    "etude.training.still": "etude.training.gradient.frozen",
    "etude.training.undo": "etude.training.state.snapshot",
    "etude.training.unequal": "etude.training.checks.unequal_parts",
    "etude.training.weights": "etude.training.evaluation.evaluation_weights",
    "etude.tuning.arm": "etude.tuning.search.recipe_trials",
    "etude.tuning.baseline": "etude.trials.baseline",
    "etude.tuning.broken": "etude.trials.bad_batch",
    "etude.tuning.candidate": "etude.trials.trial",
    "etude.tuning.coordinate_check": "etude.measure.coordinate_check",
    "etude.tuning.curve": "etude.trials.curve",
    "etude.tuning.edge": "etude.measure.edge",
    "etude.tuning.field": "etude.trials.pool",
    "etude.tuning.folds": "etude.trials.folds",
    "etude.tuning.goal": "etude.trials.score",
    "etude.tuning.improve": "etude.tuning.search.refine",
    "etude.tuning.ladder": "etude.tuning.search.ladder",
    "etude.tuning.noise_scale": "etude.measure.noise_scale",
    "etude.tuning.prior": "etude.optimizers.prior",
    "etude.tuning.probe": "etude.measure.probe",
    "etude.tuning.replicates": "etude.tuning.search.replicates",
    "etude.tuning.rules": "etude.tuning.transfer.rules",
    "etude.tuning.scaling": "etude.tuning.transfer.scaling",
    "etude.tuning.selection": "etude.tuning.recipes.selection",
    "etude.tuning.selector": "etude.tuning.recipes.selector",
    "etude.tuning.sensitivity": "etude.measure.sensitivity",
    "etude.tuning.sharpness": "etude.measure.sharpness",
    "etude.tuning.space": "etude.tuning.recipes.space",
    "etude.tuning.stability": "etude.tuning.search.stability",
    "etude.tuning.standing": "etude.tuning.search.ranking",
    "etude.tuning.starters": "etude.tuning.search.protocol",
    "etude.tuning.threshold": "etude.measure.threshold",
    "etude.tuning.traits": "etude.measure.traits",
    "etude.tuning.turning": "etude.tuning.search.overfitting",
    "etude.tuning.verdict": "etude.tuning.assessment",
}
"""The old name of a module, and the new one."""


class Moved(MetaPathFinder):
    """Refuses the old names. It stands behind all other finders, so that it costs nothing."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Raise for a name that has moved; leave every other one to Python.

        Raises:
            ModuleNotFoundError: With the new name.
        """
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} is now {MOVED[name]}", name=name)


def install() -> None:
    """Let imports of old names say where they went."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
