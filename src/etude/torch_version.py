"""The oldest torch that Etude runs on, and what an older one lacks; see docs/torch-versions.md."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from etude.errors import MissingExtraError

FLOOR = (2, 6)
LACKING = "it has no torch.accelerator, and Etude was not tried with it"


@cache
def require_torch() -> None:
    """Refuse a torch that is too old; torch itself is not loaded for it.

    Raises:
        MissingExtraError: If torch is missing, or older than `FLOOR`.

    >>> require_torch()
    """
    wanted = ".".join(map(str, FLOOR))
    try:
        found = version("torch")
    except PackageNotFoundError as error:
        raise MissingExtraError(
            f"Etude trains with torch, which is not installed: pip install 'torch>={wanted}'"
        ) from error
    if _numbers(found) < FLOOR:
        raise MissingExtraError(
            f"torch {found} is too old: {LACKING}; pip install 'torch>={wanted}'"
        )


def _numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version.

    >>> _numbers("2.13.0+cpu"), _numbers("2.9.0a0")
    ((2, 13), (2, 9))
    """
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])
