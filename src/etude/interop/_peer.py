"""Load another library only when it is used, and say what to install where it is not there."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from etude.errors import MissingExtraError

_INSTALL = {
    "keras": "pip install 'etude[keras]'",
    "jax": "pip install 'etude[jax]'",
    "lightning": "pip install lightning",
    "transformers": "pip install transformers",
}
"""How each peer is installed, by the name of its distribution."""


def load(module: str) -> ModuleType:
    """Return a module of a peer.

    Args:
        module: Its full name, such as `'keras'` or `'lightning.pytorch'`.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed, or something that it needs is not.

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
