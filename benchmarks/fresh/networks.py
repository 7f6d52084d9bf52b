"""Networks of the fresh tasks, as users write them: plain torch, none of Etude's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(*widths: int, dropout: float = 0.0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation, and dropout, between them."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        if i:
            layers += [activation(), *([nn.Dropout(dropout)] if dropout else [])]
        layers.append(nn.Linear(widths[i], widths[i + 1]))
    return nn.Sequential(*layers)


def single(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    """An `mlp` whose one output (N, 1) comes as (N,)."""
    return nn.Sequential(mlp(*widths, dropout=dropout), nn.Flatten(0))


class Summed(nn.Module):
    """Adds the embeddings of several symbols from one table, and ends in linear layers."""

    def __init__(self, symbols: int, width: int, *hidden: int) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, width)
        self.body = mlp(width, *hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map symbols (N, C) to (N, outputs)."""
        y: Tensor = self.body(self.table(x).sum(1))
        return y


class Categories(nn.Module):
    """Embeds categories, puts numbers beside them, and ends in linear layers.

    Args:
        sizes: How many values each category has.
        numbers: Numbers per sample; 0 if the model gets categories alone.
        width: Of each embedding.
        hidden: Widths of the layers, the output's last.
        dropout: Between the layers.
        flat: Whether one output comes as (N,).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        numbers: int,
        width: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        *,
        flat: bool = False,
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.body = mlp(numbers + width * len(sizes), *hidden, dropout=dropout)
        self.flat = flat

    def forward(self, categories: Tensor, *numbers: Tensor) -> Tensor:
        """Map categories (N, C), and numbers (N, D), to (N, outputs)."""
        parts = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        y: Tensor = self.body(torch.cat([*parts, *numbers], dim=1))
        return y.flatten() if self.flat else y


def series_conv(channels: int, width: int, outputs: int, depth: int = 2) -> nn.Sequential:
    """Convolutions over time with batch normalisation and pooling, and the mean over time."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [
            nn.Conv1d(width if i else channels, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.MaxPool1d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(width, outputs))


class Recurrent(nn.Module):
    """A recurrent network that predicts from its last state, or at every step.

    Args:
        cell: nn.GRU or nn.LSTM.
        inputs: Numbers per step; or symbols, each embedded, if `symbols`.
        width: Of the state.
        outputs: Numbers per prediction.
        dropout: Before the prediction.
        symbols: Whether the inputs are symbols.
        every: Whether to predict at every step.
    """

    def __init__(
        self,
        cell: type[nn.GRU] | type[nn.LSTM],
        inputs: int,
        width: int,
        outputs: int,
        *,
        dropout: float = 0.0,
        symbols: bool = False,
        every: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(inputs, width) if symbols else nn.Identity()
        self.cell = cell(width if symbols else inputs, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, inputs), or (N, L), to (N, outputs), or (N, L, outputs)."""
        states, _ = self.cell(self.embedding(x))
        y: Tensor = self.head(self.dropout(states if self.every else states[:, -1]))
        return y


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), with dropout after each branch."""

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mixed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.forth = mlp(width, 2 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, width) to the same."""
        mixed = self.mixed(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        z: Tensor = x + self.dropout(self.forth(self.norms[1](x)))
        return z


class Encoder(nn.Module):
    """A pre-norm transformer: embedded steps and learned positions.

    Args:
        inputs: Numbers per step; or symbols, if `symbols`.
        length: Steps.
        outputs: Numbers per prediction.
        width: Of the residual stream.
        depth: Blocks.
        heads: Of attention.
        dropout: After each branch.
        symbols: Whether the inputs are symbols; attention then looks back only, and every step
            predicts. Otherwise the last step predicts.
    """

    def __init__(
        self,
        inputs: int,
        length: int,
        outputs: int,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 2,
        dropout: float = 0.0,
        symbols: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(inputs, width) if symbols else nn.Linear(inputs, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, dropout, causal=symbols) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.symbols = symbols

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, inputs) to (N, outputs), or symbols (N, L) to (N, L, outputs)."""
        states = self.norm(self.blocks(self.embedding(x) + self.position))
        y: Tensor = self.head(states if self.symbols else states[:, -1])
        return y


class Variational(nn.Module):
    """A variational autoencoder of flat inputs; the code is drawn in training alone."""

    def __init__(self, inputs: int, hidden: int, code: int) -> None:
        super().__init__()
        self.encoder = mlp(inputs, hidden, 2 * code)
        self.decoder = mlp(code, hidden, inputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoded inputs, and mean and log variance of the code."""
        mean, logs = self.encoder(x).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (0.5 * logs).exp()), mean, logs


def picture_conv(width: int, outputs: int, channels: int = 1) -> nn.Sequential:
    """Two convolutions with batch normalisation and pooling, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(1),
        nn.Linear(8 * width, outputs),
    )


class Denoiser(nn.Module):
    """Convolutions with batch normalisation that predict the noise, which is taken off."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.noise = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, H, W) to the same."""
        y: Tensor = x - self.noise(x)
        return y


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (inputs, outputs):
        layers += [
            nn.Conv2d(size, outputs, 3, padding=1),
            nn.GroupNorm(4, outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class Unet(nn.Module):
    """A U-Net of two levels with group normalisation: numbers per pixel."""

    def __init__(self, channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.low = _twice(channels, width), _twice(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = _twice(2 * width, width)
        self.head = nn.Conv2d(width, outputs, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, outputs, H, W); H and W are even."""
        fine = self.first(x)
        y: Tensor = self.last(torch.cat([fine, self.up(self.low(self.pool(fine)))], dim=1))
        y = self.head(y)
        return y


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two small matrices, of which one starts at zero.

    Source: Hu et al., "LoRA: low-rank adaptation of large language models", 2021.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        y: Tensor = self.base(x) + self.up(self.down(x))
        return y
