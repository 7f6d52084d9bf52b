"""The arrays of the fresh tasks: from a cache, or from the package that ships them.

    data.arrays("segment")      # {"x": ..., "y": ...}

The first call reads the package's own files and writes `cache/NAME.npz`, which git ignores. A copy
of that folder is all that another machine needs: no package has to be installed there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.fresh.sources import SOURCES
from etude.errors import MissingExtraError

CACHE = Path(__file__).parent / "cache"


def folder_of(package: str) -> Path | None:
    """Return the folder of an installed package, without importing it; None if it is not there."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def missing(names: tuple[str, ...]) -> str:
    """Say why arrays cannot be had here; empty if they can."""
    for name in names:
        package = SOURCES[name].package
        if not (CACHE / f"{name}.npz").exists() and folder_of(package) is None:
            return f"{name}: neither {CACHE / name}.npz nor the package {package} is here"
    return ""


@cache
def arrays(name: str) -> Mapping[str, np.ndarray]:
    """Return the arrays of a data set by name.

    Raises:
        MissingExtraError: If neither the cache nor the package is there.
    """
    source = SOURCES[name]

    def read() -> dict[str, np.ndarray]:
        folder = folder_of(source.package)
        if folder is None:
            raise MissingExtraError(
                f"{missing((name,))}: pip install 'etude[fresh]', or copy the folder "
                f"{CACHE.name} from a machine that has it"
            )
        return source.read(folder)

    return kept(name, read)


def kept(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays from the cache; make and keep them if they are not in it."""
    path = CACHE / f"{name}.npz"
    if not path.exists():
        found = make()
        CACHE.mkdir(exist_ok=True)
        # Several processes may build the same task at once: each writes its own file, and the
        # last rename wins.
        handle, partial = tempfile.mkstemp(dir=CACHE, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **found)  # type: ignore[arg-type]
        Path(partial).replace(path)
    with np.load(path, allow_pickle=False) as content:
        return dict(content)
