"""Source text of Python's standard library, for predicting the next character.

The modules are a fixed list, so that the text is small, and the same in every run of one Python
version. Another Python version has a slightly different text.
"""

from __future__ import annotations

import string
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from etude.errors import TaskError
from etude.tasks.bundled.examples import Examples
from etude.tasks.checks import whole

TRAIN_MODULES = (
    "heapq",
    "textwrap",
    "fractions",
    "csv",
    "copy",
    "random",
    "shlex",
    "queue",
    "statistics",
    "contextlib",
    "selectors",
    "functools",
)
VALID_MODULES = ("bisect", "sched", "cmd", "glob")
"""Modules for validation, none of which is used for training."""

SYMBOLS = "\n" + string.digits + string.ascii_letters + string.punctuation + " "
"""The printable characters of ASCII and the newline; any other becomes symbol number 96."""

VOCABULARY = len(SYMBOLS) + 1

_NUMBERS = {symbol: i for i, symbol in enumerate(SYMBOLS)}


def encode(text: str) -> Tensor:
    r"""Return the symbol numbers of a text, in [0, VOCABULARY).

    >>> encode("\n09é").tolist()
    [0, 1, 10, 96]
    """
    return torch.tensor([_NUMBERS.get(c, len(SYMBOLS)) for c in text], dtype=torch.long)


def decode(numbers: Tensor) -> str:
    """Return the text of symbol numbers; an unknown symbol becomes the replacement character.

    >>> decode(encode("x = 1"))
    'x = 1'
    """
    table = SYMBOLS + "\N{REPLACEMENT CHARACTER}"
    return "".join(table[i] for i in numbers.tolist())


def source(module: str) -> str:
    """Return the source text of a module of the standard library.

    Raises:
        TaskError: If this Python comes without the source.

    >>> source("heapq").splitlines()[0]
    '\"\"\"Heap queue algorithm (a.k.a. priority queue).'
    """
    folder = Path(sysconfig.get_path("stdlib"))
    for path in (folder / f"{module}.py", folder / module / "__init__.py"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise TaskError(
        f"this Python has no source of its module {module!r} in {folder}: "
        "the text tasks need a Python installed with its standard library as .py files"
    )


@cache
def _symbols(modules: tuple[str, ...]) -> Tensor:
    return encode("\n".join(source(module) for module in modules))


def _windows(symbols: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (N, context): adjacent windows, and the same shifted by one."""
    count = (len(symbols) - 1) // context
    inputs = symbols[: count * context].view(count, context)
    targets = symbols[1 : count * context + 1].view(count, context)
    return inputs, targets.clone()


def characters(*, context: int = 64, characters: int = 200_000) -> Examples:
    """Return windows of text (N, context), and for each position the character that follows.

    Args:
        context: Characters in a sample.
        characters: Characters of training text; the validation text is a tenth as long, from
            other modules.

    >>> x, y = characters(context=16).train
    >>> bool((x[0, 1:] == y[0, :-1]).all())
    True
    """
    text, held = _symbols(TRAIN_MODULES), _symbols(VALID_MODULES)
    most = min(len(text), 10 * len(held))
    whole("characters", characters, least=1_000, most=most)
    whole("context", context, least=1, most=characters // 10 - 1)
    facts = {
        "vocabulary": VOCABULARY,
        "outputs": VOCABULARY,
        "context": context,
        "every_step": True,
        "causal": True,
    }
    train = _windows(text[:characters], context)
    return Examples(train, _windows(held[: characters // 10], context), facts)
