"""Runs a block without `torch.compile`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etude.torch_internals import DYNAMO


@contextmanager
def eagerly() -> Iterator[None]:
    """Run the block without `torch.compile`: what is compiled runs as it was written.

    A forward pass in another mode, with other hooks or another number of samples would be compiled
    for itself, which takes seconds.
    """
    if DYNAMO not in sys.modules:  # then nothing is compiled, and loading it takes long
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
