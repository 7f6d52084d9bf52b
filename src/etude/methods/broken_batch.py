"""Whether a batch, rather than the rates, ended all trials of a grid or of a population."""

from __future__ import annotations

from collections.abc import Sequence

from etude.training.run import Run
from etude.trials.bad_batch import End, batch_to_blame
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial


def broken_batch(pool: TrialPool, trials: Sequence[Trial]) -> str:
    """Return in a sentence that a batch ends all trials at any rate; empty if none does.

    With folds it is not looked for: each fold has other batches.

    Args:
        pool: What the trials share.
        trials: Trials of one seed.
    """
    if len(pool.tasks) > 1:
        return ""
    ends = [End(one.lr, min(one.steps, one.reached), one.diverged) for one in trials]
    return batch_to_blame(ends, lambda: Run(pool.tasks[0], pool.recipe, device=pool.device))
