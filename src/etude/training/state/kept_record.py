"""Looks at the record that a resumed run is about to replace by its own."""

from __future__ import annotations

import warnings
from pathlib import Path

from etude.errors import StorageError
from etude.recipe import Recipe
from etude.record_shape import refuse_other
from etude.storage.layout import RECORD
from etude.storage.record_files import read_plain


def check_record(folder: Path, recipe: Recipe, step: int) -> None:
    """Say what is wrong with the record in the folder of a run that goes on from its checkpoint.

    The run needs no record, and writes its own.

    Args:
        folder: The run folder.
        recipe: The recipe of the run; that of the record may have another length.
        step: The updates in the checkpoint that the run goes on from; 0 without a checkpoint.

    Raises:
        StorageError: If the record is of another run, and would be lost.

    Warns:
        UserWarning: If it is damaged, or has updates of which there is no checkpoint.
    """
    try:
        plain = read_plain(folder)
        if plain is None:
            return
        refuse_other(plain)
        other = Recipe(**plain["recipe"])
        done = plain["cost"]["steps"]
    except (StorageError, ValueError, TypeError) as error:
        warnings.warn(
            f"the record in {str(folder)!r} is damaged ({error}): the run writes it anew from its "
            "checkpoint",
            stacklevel=4,
        )
        return
    other = other.replace(steps=recipe.steps, evaluations=recipe.evaluations)
    if other != recipe:
        ours, theirs = recipe.plain(), other.plain()
        changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        raise StorageError(
            f"the record in {str(folder)!r} is of another run (other {', '.join(changed)}), and "
            f"the run would replace it by its own: move {RECORD} away, and resume again"
        )
    if done and not step:
        warnings.warn(
            f"{str(folder)!r} has a record of {done:,} updates and no checkpoint to go on from: "
            "the run begins again at update 0",
            stacklevel=4,
        )
