"""Loads another library when it is first used, and says what to install if it is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from etude.errors import MissingExtraError

_INSTALL = {
    "keras": "pip install 'etude[keras]'",
    "jax": "pip install 'etude[jax]'",
    "lightning": "pip install lightning",
    "optuna": "pip install 'etude[search]'",
    "transformers": "pip install transformers",
    "mlflow": "pip install 'etude[tracking]'",
    "wandb": "pip install 'etude[tracking]'",
}
"""The command that installs each library, by its name."""


def load(module: str) -> ModuleType:
    """Import a module of another library.

    Args:
        module: Its full name, such as `'keras'` or `'lightning.pytorch'`.

    Returns:
        The module.

    Raises:
        MissingExtraError: The library, or one that it needs, is not installed.

    Examples:
        >>> load("torch").__name__
        'torch'
    """
    name = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in (name, ""):
            raise MissingExtraError(
                f"{name} cannot be imported ({error}): {_INSTALL.get(name, f'pip install {name}')}"
            ) from error
        hint = f"pip install {missing}"
        if name == "keras":
            hint = f"choose a backend that is installed, such as KERAS_BACKEND=torch, or {hint}"
        raise MissingExtraError(f"{name} is installed, but it needs {missing}: {hint}") from error
