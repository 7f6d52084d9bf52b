"""Questions in words about a handwritten digit: two modalities, a picture and a text.

The answer is yes or no. Half of the answers to each question are yes, so that the question alone
does not tell it.

Source of the pictures: `etude.tasks.bundled.digits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from etude.tasks.bundled import digits
from etude.tasks.bundled.examples import Examples
from etude.tasks.bundled.text import VOCABULARY, encode
from etude.tasks.checks import whole

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

KINDS: Mapping[str, Callable[[int, int], bool]] = MappingProxyType(
    {
        "is it {}?": int.__eq__,
        "is it more than {}?": int.__gt__,
        "is it less than {}?": int.__lt__,
        "is it near {}?": lambda digit, word: abs(digit - word) <= 1,
    }
)
"""Each kind of question, and when the answer is yes: a function of the digit and the word."""

LENGTH = max(len(kind.format(max(WORDS, key=len))) for kind in KINDS)
"""The longest question; the others get spaces in front, so that all end at the same place."""


def _questions() -> Tensor:
    """Return the symbols (kinds, words, LENGTH) of every question."""
    texts = [[encode(kind.format(word).rjust(LENGTH)) for word in WORDS] for kind in KINDS]
    return torch.stack([torch.stack(row) for row in texts])


def _answers() -> Tensor:
    """Return whether the answer is yes, as (kinds, words, digits)."""
    numbers = range(len(WORDS))
    return torch.tensor(
        [[[yes(digit, word) for digit in numbers] for word in numbers] for yes in KINDS.values()]
    )


def _asked(
    pictures: Tensor, labels: Tensor, count: int, source: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `count` pictures, symbols and answers, drawn at random.

    A question that can be answered both ways is drawn, then its answer, then a picture that has
    this answer. Where no picture has it, one with the other answer is drawn.
    """
    answers = _answers()
    open_ones = (answers.any(2) & ~answers.all(2)).nonzero()
    kind, word = open_ones[torch.randint(len(open_ones), (count,), generator=source)].T
    answer = torch.randint(2, (count,), generator=source)
    frequency = labels.bincount(minlength=len(WORDS)).double()
    fits = (answers[kind, word] == answer[:, None].bool()) * frequency
    none = ~fits.any(1)
    answer = torch.where(none, 1 - answer, answer)
    fits = torch.where(none[:, None], frequency, fits)
    digit = torch.multinomial(fits, 1, generator=source)[:, 0]
    first = frequency.cumsum(0) - frequency
    place = torch.rand(count, generator=source, dtype=torch.float64) * frequency[digit]
    order = labels.argsort(stable=True)
    chosen = order[(first[digit] + place.floor()).long()]
    return pictures[chosen], _questions()[kind, word], answer


def about_digits(*, questions: int = 4, valid_share: float = 0.2, split_seed: int = 0) -> Examples:
    """Return pictures (N, 1, 8, 8) with questions (N, 22) as symbols, and answers (N,): 1 is yes.

    No picture of the validation part is in the training part.

    Args:
        questions: Samples for each picture of a part, at least 1.
        valid_share: The share of the pictures held out, in (0, 1).
        split_seed: The seed that selects those pictures, and the questions.

    >>> pictures, symbols, answers = about_digits().train
    >>> pictures.shape, symbols.shape
    (torch.Size([5752, 1, 8, 8]), torch.Size([5752, 22]))
    >>> from etude.tasks.bundled.text import decode
    >>> decode(symbols[0]).strip(), int(answers[0])
    ('is it near six?', 1)
    """
    whole("questions", questions, most=1_000)
    found = digits.images(valid_share=valid_share, split_seed=split_seed)
    source = torch.Generator().manual_seed(split_seed)
    facts = {"channels": 1, "size": 8, "vocabulary": VOCABULARY, "outputs": 2}
    train, valid = (
        _asked(images, labels, questions * len(images), source)
        for images, labels in (found.train, found.valid)
    )
    return Examples(train, valid, facts)
