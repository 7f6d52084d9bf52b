"""Programs with attention: language, recall and pictures in patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor import data
from benchmarks.doctor.case import Edit, Program
from benchmarks.doctor.edits import (
    batches,
    both,
    fields,
    first,
    network,
    not_given,
    optimizer,
    rate,
    times,
    weights,
)  # fmt: skip
from benchmarks.doctor.loops import accumulated, by_epochs, plain, with_trainer
from benchmarks.doctor.programs.sequences import over_places
from benchmarks.doctor.setup import Setup

WARM = "warmup('15%') >> cosine()"


class Attention(nn.Module):
    """Self-attention of a few heads, causal or not."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed values."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        query, key, value = parts.unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and two linear layers, normalised before or after, or not at all."""

    def __init__(self, width: int, causal: bool, norm: str, residual: bool, drop: float) -> None:
        super().__init__()
        self.attention = Attention(width, 2, causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.ln1 = nn.LayerNorm(width) if norm else nn.Identity()
        self.ln2 = nn.LayerNorm(width) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.norm, self.residual = norm, residual

    def forward(self, x: Tensor) -> Tensor:
        """Return what goes into the next layer."""
        for part, norm in ((self.attention, self.ln1), (self.mlp, self.ln2)):
            if self.norm == "after":
                y = part(x)
                x = norm(x + self.drop(y) if self.residual else y)
            else:
                y = self.drop(part(norm(x)))
                x = x + y if self.residual else y
        return x


class Language(nn.Module):
    """A causal transformer whose output matrix is its embedding's."""

    def __init__(
        self, width: int = 48, depth: int = 2, norm: str = "before", residual: bool = True,
        drop: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        count = data.text()[1]
        self.tokens = nn.Embedding(count, width)
        self.places = nn.Parameter(torch.randn(24, width) * 0.02)
        nn.init.normal_(self.tokens.weight, std=0.2)
        self.layers = nn.ModuleList(Layer(width, True, norm, residual, drop) for _ in range(depth))
        self.final = nn.LayerNorm(width)
        self.decode = nn.Linear(width, count, bias=False)
        self.decode.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at every place."""
        x = self.tokens(x) + self.places[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.decode(self.final(x))  # type: ignore[no-any-return]


def text_transformer() -> Setup:
    """The next character, tied weights, AdamW with warmup and clipping."""
    return Setup(
        *data.windows(16), Language, over_places, "classes", "adamw", 1e-2,
        {"weight_decay": 0.01}, WARM, steps=240, batch=32, clip=1.0,
    )  # fmt: skip


class Recall(nn.Module):
    """A transformer of two layers that answers at the last place."""

    def __init__(self, width: int = 32, depth: int = 2, norm: str = "before") -> None:
        super().__init__()
        self.embed = nn.Embedding(16, width)
        self.place = nn.Embedding(5, width)
        self.layers = nn.Sequential(*(Layer(width, False, norm, True, 0.0) for _ in range(depth)))
        self.answer = nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return eight logits."""
        x = self.embed(x) + self.place.weight
        return self.answer(self.layers(x)[:, -1])  # type: ignore[no-any-return]


def recall_transformer() -> Setup:
    """Which value belongs to a key: learned after a plateau, Adam."""
    return Setup(
        *data.recall(2), Recall, F.cross_entropy, "classes", "adam", 5e-3,
        schedule="warmup('10%') >> linear()", steps=500, batch=48,
    )  # fmt: skip


class Patches(nn.Module):
    """A picture as sixteen patches, with normalisation after each part."""

    def __init__(
        self, width: int = 24, depth: int = 3, norm: str = "after", drop: float = 0.0,
        residual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(torch.randn(16, width) * 0.1)
        self.encoder = nn.Sequential(
            *(Layer(width, False, norm, residual, drop) for _ in range(depth))
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return ten logits."""
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(x).mean(1))  # type: ignore[no-any-return]


def digits_vit() -> Setup:
    """Digits by patches, AdamW at a high rate with warmup."""
    return Setup(
        *data.digits(), Patches, F.cross_entropy, "classes", "adamw", 5e-3,
        schedule=WARM, steps=240, batch=32,
    )  # fmt: skip


class Bag(nn.Module):
    """The mean of embeddings that give sparse gradients."""

    def __init__(self, width: int = 16, sparse: bool = True) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(512, width, sparse=sparse)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return four logits."""
        return self.head(self.bag(x))  # type: ignore[no-any-return]


def bag_sparse() -> Setup:
    """Which text a snippet is from, embeddings with sparse gradients, Adagrad."""
    return Setup(
        *data.sources(24), Bag, F.cross_entropy, "classes", "adagrad", 0.2, steps=300, batch=32
    )


PROGRAMS = (
    Program("text-transformer", "transformer", text_transformer, with_trainer, (
        Edit("dropout", network(drop=0.1)),
        Edit("sgd", optimizer("sgd", 0.1), "optimizer_mismatch"),
        Edit("layers not given, small", both(weights("layers*", times(0.01)),
             not_given("layers.*")), "parameters_not_trained", "layers.0", in_loop=True),
        Edit("rate 50 times", rate(50), "lr_too_high"),
        Edit("thirty windows", both(first(30), fields(steps=240)), "too_little_regularisation",
             by="loss"),
    )),
    Program("recall-transformer", "transformer", recall_transformer, plain, (
        Edit("rate / 100", rate(0.01), "lr_too_low"),
        Edit("sgd", optimizer("sgd", 0.02), "optimizer_mismatch"),
        Edit("batches of 2", batches(2), "batch_too_small"),
    )),
    Program("digits-vit", "transformer", digits_vit, by_epochs, (
        Edit("six layers", both(network(depth=6), rate(0.5),
             fields(schedule="warmup('40%') >> cosine()"))),
        Edit("no residuals", network(residual=False), "missing_residual", "encoder.0"),
        Edit("rate 100 times", rate(100), "lr_too_high"),
    )),
    Program("bag-sparse", "mlp", bag_sparse, accumulated, (
        Edit("sgd at a high rate", optimizer("sgd", 5.0)),
        Edit("plain sgd", optimizer("sgd", 0.02), "optimizer_mismatch"),
        Edit("embedding not given", not_given("bag*"), "parameters_not_trained", "bag",
             in_loop=True),
        Edit("twenty snippets", first(20), "too_little_regularisation", by="loss"),
    )),
)  # fmt: skip
"""Programs with attention."""
