"""Batches of every kind on the device of a network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from etude.training.evaluation.evaluate import move

META = torch.device("meta")


class Sentences:
    """A batch of one's own, as tokenizers return it."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def to(self, device: torch.device) -> Sentences:
        return Sentences(self.ids.to(device))


def test_a_batch_of_ones_own_is_moved_by_its_own_method():
    batch = {"text": Sentences(torch.ones(2, 3)), "name": "first"}
    moved = move(batch, META)
    assert moved["text"].ids.is_meta
    assert moved["name"] == "first"
    assert move(batch, torch.device("cpu"))["text"] is batch["text"]


def test_the_lengths_of_packed_sequences_stay_on_the_cpu():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    (moved,) = move((packed,), META)
    assert moved.data.is_meta
    assert moved.batch_sizes.device.type == "cpu"
