"""Small training loops, each written as its author would write it, with a watch around it.

Each program takes the keywords of `etude.watch` and returns the watch, closed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude.diagnosis.watching.training_watch import TrainingWatch

Program = Callable[..., TrainingWatch]
HEALTHY: dict[str, Program] = {}


def healthy(program: Program) -> Program:
    HEALTHY[program.__name__] = program
    return program


def quiet(finding: Any) -> None:
    """Tell nobody."""


def opened(model: Any, optimizer: Any, **options: Any) -> TrainingWatch:
    return etude.watch(model, optimizer, **{"on_finding": quiet, **options})


def classes(count: int = 512, features: int = 8, kinds: int = 3) -> tuple[Tensor, Tensor]:
    """Points whose class is that of the nearest of a few centres."""
    torch.manual_seed(1)
    x = torch.randn(count, features)
    return x, torch.cdist(x, torch.randn(kinds, features)).argmin(1)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    updates: int = 150,
    batch: int = 32,
    loss: Callable[..., Tensor] = cross_entropy,
    each: Callable[[int], None] = lambda t: None,
    **options: Any,
) -> TrainingWatch:
    """The plain loop."""
    with opened(model, optimizer, **options) as w:
        for t in range(updates):
            each(t)
            i = torch.randint(0, len(x), (batch,))
            optimizer.zero_grad()
            loss(model(x[i]), y[i]).backward()
            optimizer.step()
    return w


def net(*sizes: int, between: Callable[[int], list[nn.Module]] | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place, (inward, outward) in enumerate(pairwise(sizes)):
        if place:
            layers += [nn.ReLU()] if between is None else between(inward)
        layers.append(nn.Linear(inward, outward))
    return nn.Sequential(*layers)


@healthy
def mlp_sgd(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 32, 3)
    return fit(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), x, y, **options)


@healthy
def tanh_adam(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 32, 32, 3, between=lambda width: [nn.Tanh()])
    return fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), x, y, **options)


@healthy
def tiny_sigmoid(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 4, 3, between=lambda width: [nn.Sigmoid()])
    return fit(model, torch.optim.Adam(model.parameters(), lr=1e-2), x, y, **options)


@healthy
def deep_normalised(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, *[32] * 12, 3, between=lambda width: [nn.BatchNorm1d(width), nn.ReLU()])
    return fit(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, **options)


@healthy
def heavy_dropout(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 64, 64, 3, between=lambda width: [nn.ReLU(), nn.Dropout(0.8)])
    return fit(model, torch.optim.AdamW(model.parameters(), lr=3e-3), x, y, updates=300, **options)


@healthy
def single_samples(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    return fit(model, optimizer, x, y, batch=1, updates=500, **options)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.head(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def pictures(count: int = 256) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    y = torch.randint(0, 3, (count,))
    x = torch.randn(count, 1, 8, 8) + torch.randn(3, 1, 8, 8)[y]
    return x, y


@healthy
def cnn(**options):
    x, y = pictures()
    torch.manual_seed(0)
    model = ConvNet()
    return fit(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), x, y, **options)


@healthy
def high_rate_with_warmup(**options):
    x, y = pictures()
    torch.manual_seed(0)
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 40))
    return fit(model, optimizer, x, y, each=lambda t: schedule.step() if t else None, **options)


class Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.body = kind(16, 24, batch_first=True)
        self.head = nn.Linear(24, 2)

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens))[0][:, -1])


def sequences(count: int = 256) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(0, 12, (count, 10))
    return tokens, (tokens.sum(1) > 55).long()


@healthy
def lstm(**options):
    x, y = sequences()
    torch.manual_seed(0)
    model = Reader(nn.LSTM)
    return fit(model, torch.optim.Adam(model.parameters(), lr=5e-3), x, y, **options)


@healthy
def gru(**options):
    x, y = sequences()
    torch.manual_seed(0)
    model = Reader(nn.GRU)
    return fit(model, torch.optim.RMSprop(model.parameters(), lr=2e-3), x, y, **options)


class Language(nn.Module):
    """A transformer whose head is tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.place = nn.Parameter(0.02 * torch.randn(10, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.body(self.embed(tokens) + self.place, mask=mask, is_causal=True))


@healthy
def transformer_tied(**options):
    torch.manual_seed(1)
    x = (torch.randint(0, 12, (256, 1)) + 5 * torch.arange(11)) % 12
    torch.manual_seed(0)
    model = Language()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(
        model, optimizer, x[:, :-1], x[:, 1:], updates=100,
        loss=lambda out, target: cross_entropy(out.flatten(0, 1), target.flatten()), **options,
    )  # fmt: skip


@healthy
def autoencoder(**options):
    torch.manual_seed(1)
    x = torch.sigmoid(torch.randn(256, 3) @ torch.randn(3, 16))
    torch.manual_seed(0)
    model = nn.Sequential(net(16, 16, 3), net(3, 16, 16), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return fit(model, optimizer, x, x, loss=mse_loss, **options)


@healthy
def regression_of_large_targets(**options):
    torch.manual_seed(1)
    x = torch.randn(256, 4)
    y = 300 + 40 * x.sum(1, keepdim=True)
    torch.manual_seed(0)
    model = net(4, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    return fit(model, optimizer, x, y, loss=mse_loss, **options)


@healthy
def frozen_body(**options):
    x, y = pictures()
    torch.manual_seed(0)
    model = ConvNet()
    for module in (model.conv1, model.bn1, model.conv2, model.bn2):
        module.requires_grad_(False)
    model.bn1.eval(), model.bn2.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    return fit(model, torch.optim.SGD(trained, lr=0.1), x, y, **options)


@healthy
def probe_in_evaluation_mode(**options):
    """A frozen body in evaluation mode, and a head that is trained."""
    x, y = classes()
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
    body.requires_grad_(False)
    model = nn.Sequential(body, nn.Linear(32, 3)).eval()
    return fit(model, torch.optim.Adam(model[1].parameters(), lr=1e-2), x, y, **options)


@healthy
def adapters(**options):
    """Low-rank adapters whose second matrix begins at zero, beside frozen weights."""

    class Adapted(nn.Module):
        def __init__(self, inward, outward):
            super().__init__()
            self.base = nn.Linear(inward, outward).requires_grad_(False)
            self.down = nn.Linear(inward, 4, bias=False)
            self.up = nn.Linear(4, outward, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    x, y = classes()
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(8, 32), nn.ReLU(), Adapted(32, 3))
    trained = [p for p in model.parameters() if p.requires_grad]
    return fit(model, torch.optim.AdamW(trained, lr=5e-3), x, y, **options)


@healthy
def accumulation(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 32, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with opened(model, optimizer, **options) as w:
        for t in range(600):
            i = torch.randint(0, len(x), (8,))
            (cross_entropy(model(x[i]), y[i]) / 4).backward()
            if t % 4 == 3:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return w


@healthy
def bfloat16_autocast(**options):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 32, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with opened(model, optimizer, **options) as w:
        for _ in range(150):
            i = torch.randint(0, len(x), (32,))
            optimizer.zero_grad(set_to_none=False)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(model(x[i]), y[i])
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    return w


@healthy
def lbfgs(**options):
    x, y = classes(128)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    with opened(model, optimizer, **options) as w:
        for _ in range(30):
            optimizer.step(closure)
    return w


@healthy
def two_optimizers(**options):
    """One loss, the matrices with momentum and the rest with Adam."""
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 32, 3, between=lambda width: [nn.LayerNorm(width), nn.GELU()])
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    first = torch.optim.SGD(matrices, lr=0.05, momentum=0.9)
    second = torch.optim.Adam(rest, lr=3e-3)
    with opened(model, [first, second], **options) as w:
        for _ in range(150):
            i = torch.randint(0, len(x), (32,))
            first.zero_grad(), second.zero_grad()
            cross_entropy(model(x[i]), y[i]).backward()
            first.step(), second.step()
    return w


@healthy
def gan(**options):
    """Two networks against each other; the generator's backward reaches the other's gradients."""
    torch.manual_seed(1)
    real = torch.randn(512, 2) * 0.3 + 2.0
    torch.manual_seed(0)
    generator, judge = net(4, 32, 2), net(2, 32, 1)
    g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    d = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.9))
    yes, no = torch.ones(32, 1), torch.zeros(32, 1)
    judged = F.binary_cross_entropy_with_logits
    with opened({"generator": generator, "judge": judge}, [d, g], **options) as w:
        for _ in range(150):
            fake = generator(torch.randn(32, 4))
            d.zero_grad()
            truth = judged(judge(real[torch.randint(0, 512, (32,))]), yes)
            (truth + judged(judge(fake.detach()), no)).backward()
            d.step()
            g.zero_grad()
            judged(judge(fake), yes).backward()
            g.step()
    return w


@healthy
def full_batch_at_the_edge(**options):
    """Gradient descent at the edge of stability: updates point to and fro, the loss falls."""
    x, y = classes(128)
    torch.manual_seed(0)
    model = net(8, 32, 3, between=lambda width: [nn.Tanh()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with opened(model, optimizer, **options) as w:
        for _ in range(400):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return w


@healthy
def long_plateau(**options):
    """Parity of bits: nothing is learned for a long while."""
    torch.manual_seed(1)
    x = torch.randint(0, 2, (2048, 10)).float() * 2 - 1
    y = (x[:, :4].prod(1) > 0).long()
    torch.manual_seed(0)
    model = net(10, 64, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return fit(model, optimizer, x, y, updates=500, **options)


@healthy
def sparse_embedding(**options):
    torch.manual_seed(1)
    x = torch.randint(0, 2000, (512, 5))
    y = (x[:, 0] % 2).long()
    torch.manual_seed(0)
    table = nn.EmbeddingBag(2000, 16, sparse=True)
    head = nn.Linear(16, 2)
    model = nn.Sequential(table, head)
    first = torch.optim.SparseAdam(table.parameters(), lr=1e-2)
    second = torch.optim.Adam(head.parameters(), lr=1e-2)
    with opened(model, [first, second], **options) as w:
        for _ in range(100):
            i = torch.randint(0, 512, (32,))
            cross_entropy(model(x[i]), y[i]).backward()
            first.step(), second.step()
            first.zero_grad(), second.zero_grad()
    return w
