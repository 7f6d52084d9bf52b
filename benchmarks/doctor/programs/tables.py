"""Programs on tables: small and deep multilayer perceptrons for classes."""

from __future__ import annotations

import itertools
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor import data
from benchmarks.doctor.case import Edit, Program
from benchmarks.doctor.edits import (
    UNSHUFFLED,
    batches,
    both,
    constant_but,
    fields,
    followed_by,
    frozen,
    inputs,
    mixed,
    network,
    normal,
    not_given,
    optimizer,
    options,
    rate,
    repeated_class,
    stretched,
    training_targets,
    weights,
    with_gaps,
)  # fmt: skip
from benchmarks.doctor.edits import data as rows
from benchmarks.doctor.loops import accumulated, by_epochs, drawn, plain, with_trainer
from benchmarks.doctor.setup import Setup

COSINE, WARM_COSINE = "cosine()", "warmup('10%') >> cosine()"


def digits_net(width: int = 48, act: type[nn.Module] = nn.ReLU, drop: float = 0.0) -> nn.Module:
    """Three layers on flat pictures."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), act(), nn.Dropout(drop),
        nn.Linear(width, width), act(), nn.Dropout(drop), nn.Linear(width, 10),
    )  # fmt: skip


def digits_mlp() -> Setup:
    """Digits, SGD with momentum."""
    return Setup(
        *data.digits(), digits_net, F.cross_entropy, "classes", "sgd", 0.1,
        {"momentum": 0.9}, COSINE, steps=300, batch=64,
    )  # fmt: skip


class CancerNet(nn.Module):
    """Two hidden layers and one logit."""

    def __init__(self, hidden: int = 24, drop: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(30, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.drop = nn.Dropout(drop)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a sample."""
        x = self.drop(torch.relu(self.first(x)))
        return self.out(self.drop(torch.relu(self.second(x))))  # type: ignore[no-any-return]


def cancer_mlp() -> Setup:
    """Malignant or not, Adam at its usual rate."""
    return Setup(
        *data.cancer(), CancerNet, F.binary_cross_entropy_with_logits, "binary", "adam", 1e-3,
        steps=260, batch=32,
    )  # fmt: skip


def wine_net(hidden: int = 6) -> nn.Module:
    """A tiny network of tanh units."""
    return nn.Sequential(nn.Linear(13, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def wine_tiny() -> Setup:
    """Three wines, plain SGD, batches of four drawn with replacement."""
    return Setup(
        *data.classes("wine"), wine_net, F.cross_entropy, "classes", "sgd", 0.1, steps=400, batch=4
    )


def parity_net(width: int = 64) -> nn.Module:
    """One wide hidden layer."""
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 2))


def parity_plateau() -> Setup:
    """The product of three signs: nothing is learned for long, then everything."""
    return Setup(
        *data.parity(), parity_net, F.cross_entropy, "classes", "sgd", 0.2,
        {"momentum": 0.9}, steps=700, batch=64,
    )  # fmt: skip


class SpiralNet(nn.Module):
    """Hidden layers of one width in a list, with tanh."""

    def __init__(self, width: int = 32, depth: int = 3, act: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        sizes = [2] + [width] * depth
        self.hidden = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.act = act()
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits."""
        for layer in self.hidden:
            x = self.act(layer(x))
        return self.head(x)  # type: ignore[no-any-return]


def spirals_adamw() -> Setup:
    """Two spirals, AdamW with warmup, in a trainer class."""
    return Setup(
        *data.spirals(), SpiralNet, F.cross_entropy, "classes", "adamw", 2e-2,
        schedule=WARM_COSINE, steps=350, batch=64,
    )  # fmt: skip


class DeepNormed(nn.Module):
    """Many narrow ReLU layers, each with batch normalisation."""

    def __init__(
        self, depth: int = 10, width: int = 32, norm: bool = True, act: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(20, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width) if norm else nn.Identity() for _ in range(depth)
        )
        self.act = act()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return five logits."""
        x = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.head(x)  # type: ignore[no-any-return]


def clusters_deep() -> Setup:
    """Five overlapping clusters through ten normalised layers, Adam."""
    return Setup(
        *data.clusters(), DeepNormed, F.cross_entropy, "classes", "adam", 1e-2,
        schedule=WARM_COSINE, steps=250, batch=48,
    )  # fmt: skip


class DeepResidual(nn.Module):
    """Sixteen tanh layers, each added to what came before."""

    def __init__(self, depth: int = 16, width: int = 24, residual: bool = True) -> None:
        super().__init__()
        self.inward = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outward = nn.Linear(width, 10)
        self.residual, self.scale = residual, 1 / math.sqrt(depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return ten logits."""
        x = self.inward(x.flatten(1))
        for block in self.blocks:
            change = torch.tanh(block(x))
            x = x + 2 * self.scale * change if self.residual else change
        return self.outward(x)  # type: ignore[no-any-return]


def digits_deep_residual() -> Setup:
    """Digits through sixteen residual layers, AdamW."""
    return Setup(
        *data.digits(), DeepResidual, F.cross_entropy, "classes", "adamw", 8e-3,
        {"weight_decay": 1e-2}, COSINE, steps=180, batch=64,
    )  # fmt: skip


def deep_plain(
    depth: int = 10, width: int = 40, act: type[nn.Module] = nn.ReLU, gain: float = 1.0
) -> nn.Module:
    """Ten layers drawn by He's rule, without normalisation or residuals."""
    layers: list[nn.Module] = []
    sizes = [16] + [width] * depth
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(layer.weight)
        layer.weight.data.mul_(gain)
        nn.init.zeros_(layer.bias)
        layers += [layer, act()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def clusters_plain() -> Setup:
    """Three clusters through ten plain layers, SGD with momentum and clipping."""
    return Setup(
        *data.clusters(1200, 16, 3), deep_plain, F.cross_entropy, "classes", "sgd", 0.02,
        {"momentum": 0.9}, COSINE, steps=250, batch=32, clip=5.0,
    )  # fmt: skip


PROGRAMS = (
    Program("digits-mlp", "mlp", digits_mlp, plain, (
        Edit("high rate with warmup", both(rate(2), fields(schedule="warmup('30%') >> cosine()"))),
        Edit("dropout of a half", network(width=128, drop=0.5)),
        Edit("rate 30 times", rate(30), "lr_too_high"),
        Edit("drop 0.95", network(width=128, drop=0.95), "too_much_regularisation",
             twin="dropout of a half"),
        Edit("tanh on logits", followed_by(nn.Tanh, "last"), "wrong_last_layer", "last", by="loss"),
        Edit("sorted", UNSHUFFLED, "data_not_shuffled", in_loop=True),
        Edit("softmax twice", followed_by(partial(nn.Softmax, 1), "probabilities"),
             "wrong_loss_or_output", "probabilities", by="loss"),
        Edit("labels mixed", training_targets(mixed), "labels_do_not_match"),
    )),
    Program("cancer-mlp", "mlp", cancer_mlp, by_epochs, (
        Edit("first layer frozen", both(frozen("first.*"), rate(6))),
        Edit("small batches", batches(4)),
        Edit("raw inputs", inputs(partial(stretched, largest=1e5, shift=1e4)), "unscaled_inputs",
             "first", by="loss"),
        Edit("sigmoid twice", followed_by(nn.Sigmoid, "probability",
             decide=torch.logit), "wrong_loss_or_output", "probability", by="loss"),
        Edit("missing values", rows(lambda t: (with_gaps(t[0]), t[1])), "bad_data"),
        Edit("large weights", weights("*", normal(4.0)), "bad_initialisation", "first"),
    )),
    Program("wine-tiny", "mlp", wine_tiny, drawn, (
        Edit("batches of one", both(batches(1), rate(0.4))),
        Edit("rate / 1000", rate(1e-3), "lr_too_low"),
        Edit("constant features", inputs(partial(constant_but, kept=1)), "bad_data"),
        Edit("decay of 1", options(weight_decay=1.0), "too_much_regularisation"),
    )),
    Program("parity-plateau", "mlp", parity_plateau, plain, (
        Edit("a wider layer", network(width=160)),
        Edit("huge batches", batches(1400, same_samples=True), "batch_too_large"),
        Edit("rate / 100", rate(0.01), "lr_too_low"),
        Edit("hidden layer not given", not_given("0.*"), "parameters_not_trained", "0",
             in_loop=True),
        Edit("decay of 0.1", options(weight_decay=0.1), "too_much_regularisation"),
    )),
    Program("spirals-adamw", "mlp", spirals_adamw, with_trainer, (
        Edit("edge of stability", both(optimizer("sgd", 0.4), fields(schedule="constant()"),
             batches(630), fields(steps=700))),
        Edit("eight layers", both(network(depth=8), rate(0.6), fields(
             schedule="warmup('40%') >> cosine()"))),
        Edit("eight layers, no warmup", both(rate(2), fields(schedule="cosine()")),
             "warmup_missing", twin="eight layers"),
        Edit("plain sgd", optimizer("sgd", 0.02), "optimizer_mismatch"),
        Edit("sigmoids drawn large", both(network(act=nn.Sigmoid),
             weights("hidden.*", normal(20.0))), "bad_initialisation", "hidden.1"),
        Edit("inputs of 100", inputs(lambda x: 100 * x), "unscaled_inputs", "hidden.0"),
        Edit("rate 50 times", rate(50), "lr_too_high"),
    )),
    Program("clusters-deep", "deep mlp", clusters_deep, by_epochs, (
        Edit("shallower", network(depth=5)),
        Edit("no normalisation", network(norm=False), "missing_normalisation", "norms.0"),
        Edit("trained in eval mode", fields(train_mode=False), "eval_mode_in_training",
             "norms.0", in_loop=True),
        Edit("rprop", optimizer("rprop", 2e-3), "optimizer_mismatch"),
        Edit("one class repeated", rows(repeated_class), "bad_data"),
    )),
    Program("digits-deep-residual", "deep mlp", digits_deep_residual, with_trainer, (
        Edit("long warmup", fields(schedule="warmup('40%') >> cosine()")),
        Edit("no residuals", network(residual=False), "missing_residual", "blocks.0"),
        Edit("large weights", weights("blocks.*", normal(6.0)), "bad_initialisation", "blocks.0"),
        Edit("batches of one", batches(1), "batch_too_small"),
        Edit("rate / 300", rate(1 / 300), "lr_too_low"),
    )),
    Program("clusters-plain", "deep mlp", clusters_plain, accumulated, (
        Edit("bfloat16", fields(bf16=True)),
        Edit("sigmoids", network(act=nn.Sigmoid), "saturating_activation", "1"),
        Edit("default weights / 4", network(gain=0.25), "bad_initialisation", "0"),
        Edit("no clipping, large weights", both(network(gain=1.5), fields(clip=None)),
             "missing_clipping", twin="large weights, clipped"),
        Edit("large weights, clipped", network(gain=1.5)),
        Edit("large weights, warmed up", both(network(gain=1.5), rate(0.3), fields(
             clip=None, schedule="warmup('30%') >> cosine()"))),
        Edit("large weights, no warmup", fields(schedule="cosine()"), "warmup_missing",
             twin="large weights, warmed up"),
        Edit("no zero_grad", fields(zero_grad=False), "gradients_not_cleared", in_loop=True),
        Edit("sorted", UNSHUFFLED, "data_not_shuffled", in_loop=True),
    )),
)  # fmt: skip
"""Programs on tables."""
