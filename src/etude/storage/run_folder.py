"""The run folder: which file is what, and who may write there."""

from __future__ import annotations

import shlex
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from safetensors.torch import save_model as save_module
from torch import nn

from etude import files
from etude.errors import StorageError
from etude.recipe import Recipe
from etude.storage import task_digests as sameness
from etude.storage.model_weights import fit_buffers
from etude.tasks.fingerprint import Parts

RECIPE = "recipe.toml"
CHECKPOINTS = "checkpoints"
MODEL = "model.safetensors"
TUNING = "tuning.json"
"""What only the folder of a tuning holds."""


def claim(folder: Path, recipe: Recipe, parts: Parts | None = None) -> None:
    """Take a folder for a new run; it is taken once the recipe stands there.

    Args:
        folder: The run folder.
        recipe: The run's.
        parts: The digests of its task; None for a candidate, whose tuning keeps them.

    Raises:
        StorageError: If the folder cannot be written, or already holds a run.
    """
    files.make_folder(folder)
    if (folder / RECIPE).is_file():
        raise StorageError(
            f"{str(folder)!r} already holds a run: resume it, or choose another folder"
        )
    if parts is not None:
        sameness.keep(folder, parts)
    recipe.save(folder / RECIPE)


def kept_recipe(folder: Path, recipe: Recipe | None) -> Recipe:
    """Return the recipe of the run that a folder holds.

    Args:
        folder: The run folder to go on with.
        recipe: The recipe asked for, if any: one that differs in more than its length is refused.

    Returns:
        The recipe to go on with: the kept one, in the length asked for.

    Raises:
        StorageError: If the folder holds no run, or one of another recipe.
    """
    path = folder / RECIPE
    if (folder / TUNING).exists():
        raise StorageError(
            f"{str(folder)!r} holds a tuning, which is not trained further as a run: resume it as "
            "a tuning, or train its recipe in another folder"
        )
    if not path.exists():
        raise StorageError(
            f"{str(folder)!r} holds no run to resume: there is no {RECIPE} in it. If a run was "
            "stopped there before it began, nothing is lost: begin it anew in the same folder"
        )
    kept = Recipe.load(path)
    if recipe is not None and recipe != kept:
        ours, theirs = recipe.plain(), kept.plain()
        changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if changed == ["steps"]:
            return recipe
        raise StorageError(
            f"{str(folder)!r} holds a run of another recipe (other {', '.join(changed)}): "
            "leave the recipe out to go on with the run's own"
        )
    return kept


def save_model(model: nn.Module, folder: Path) -> None:
    """Write a model's weights to `model.safetensors`; tied weights are kept once."""

    def write(temporary: Path) -> None:
        try:
            save_module(model, str(temporary))
        except SafetensorError as error:
            raise OSError(str(error)) from error

    files.write_atomic(folder / MODEL, write)


def read_model(model: nn.Module, folder: Path) -> None:
    """Put the weights that `save_model` wrote into a model.

    Raises:
        StorageError: If the file is damaged, or of another model.
    """
    path = folder / MODEL
    try:
        weights = load_file(files.regular(path, "the model"))
        fit_buffers(model, weights)
        load_model(model, str(path))
    except StorageError:
        raise
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise StorageError(f"{str(path)!r} is damaged, or of another task: {error}") from error


def quoted(folder: Path) -> str:
    """Return the folder as it can be pasted into a shell."""
    return shlex.quote(str(folder))
