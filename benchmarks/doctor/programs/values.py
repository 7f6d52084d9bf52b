"""Programs whose output are values: regression, autoencoders, generators against discriminators."""

from __future__ import annotations

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
    fields,
    first,
    followed_by,
    frozen,
    inputs,
    network,
    normal,
    not_given,
    optimizer,
    options,
    rate,
    repeated_class,
    same,
    stretched,
    targets,
    times,
    training_targets,
    weights,
    with_outliers,
)  # fmt: skip
from benchmarks.doctor.edits import data as rows
from benchmarks.doctor.loops import alternating, by_closure, by_epochs, drawn, plain, with_trainer
from benchmarks.doctor.setup import Setup


def two_layers(features: int, width: int = 32, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """One hidden layer and one output."""
    return nn.Sequential(nn.Linear(features, width), act(), nn.Linear(width, 1))


def diabetes_lbfgs() -> Setup:
    """The progression of a disease, L-BFGS on all of the data."""
    return Setup(
        *data.diabetes(), partial(two_layers, 10, width=4, act=nn.Tanh), F.mse_loss, "values",
        "lbfgs", 0.03,
        {"max_iter": 4, "history_size": 6}, steps=16, batch=309,
    )  # fmt: skip


class Friedman(nn.Module):
    """Three hidden layers with a dropout."""

    def __init__(self, width: int = 40, drop: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(10, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Dropout(drop)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one value."""
        return self.head(self.net(x))  # type: ignore[no-any-return]


def friedman_adam() -> Setup:
    """Friedman's first function, AdamW with weight decay."""
    return Setup(
        *data.friedman(), Friedman, F.mse_loss, "values", "adamw", 1e-2,
        {"weight_decay": 0.01}, "cosine()", steps=300, batch=32,
    )  # fmt: skip


def countries_huber() -> Setup:
    """Life span by income and place, Huber loss, SGD with momentum and clipping."""
    return Setup(
        *data.countries(), partial(two_layers, 8, 24), F.smooth_l1_loss, "values", "sgd", 0.1,
        {"momentum": 0.9}, "cosine()", steps=300, batch=32, clip=2.0,
    )  # fmt: skip


class Factors(nn.Module):
    """The product of two embeddings, and a bias for each."""

    def __init__(self, width: int = 6, scale: float = 0.5) -> None:
        super().__init__()
        self.who, self.what = nn.Embedding(60, width), nn.Embedding(40, width)
        self.bias = nn.Parameter(torch.zeros(1))
        for table in (self.who, self.what):
            nn.init.normal_(table.weight, std=scale)

    def forward(self, pair: Tensor) -> Tensor:
        """Return the rating."""
        product = self.who(pair[:, 0]) * self.what(pair[:, 1])
        return product.sum(1, keepdim=True) + self.bias  # type: ignore[no-any-return]


def shops_factors() -> Setup:
    """Ratings by two embeddings, Adam: most rows get no gradient in an update."""
    return Setup(
        *data.shops(), Factors, F.mse_loss, "values", "adam", 1e-1, schedule="cosine()",
        steps=250, batch=64,
    )  # fmt: skip


class Autoencoder(nn.Module):
    """Encoder and decoder of two layers each."""

    def __init__(
        self, code: int = 10, act: type[nn.Module] = nn.ReLU, last: type[nn.Module] = nn.Tanh,
        drop: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 40), act(), nn.Dropout(drop), nn.Linear(40, code)
        )
        self.decoder = nn.Sequential(nn.Linear(code, 40), act(), nn.Linear(40, 64), last())

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


def digits_autoencoder() -> Setup:
    """Digits through a code of ten, Adam."""
    return Setup(
        *data.digit_copies(), Autoencoder, F.mse_loss, "values", "adam", 5e-3,
        schedule="cosine()", steps=300, batch=64,
    )  # fmt: skip


def denoiser(width: int = 12, norm: bool = True) -> nn.Module:
    """Convolutions down and up again."""

    def normed(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels) if norm else nn.Identity()

    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), normed(width), nn.LeakyReLU(0.1),
        nn.Conv2d(width, width, 3, stride=2, padding=1), normed(width), nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(width, width, 2, stride=2), normed(width), nn.LeakyReLU(0.1),
        nn.Conv2d(width, 1, 3, padding=1),
    )  # fmt: skip


def patches_denoiser() -> Setup:
    """Photographs without their noise, a convolutional autoencoder, SGD with momentum."""
    return Setup(
        *data.grey_patches(), denoiser, F.mse_loss, "values", "sgd", 0.1, {"momentum": 0.9},
        "cosine()", steps=150, batch=24,
    )  # fmt: skip


def told(logits: Tensor, real: bool) -> Tensor:
    """Return the loss of a discriminator."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def told_sharply(logits: Tensor, real: bool) -> Tensor:
    """Return the hinge-like least-squares loss of a discriminator."""
    return F.mse_loss(logits, torch.full_like(logits, float(real)))


class Gan(nn.Module):
    """A generator of points in the plane, and a discriminator."""

    def __init__(
        self, noise: int = 4, width: int = 32, act: type[nn.Module] = nn.ReLU,
        last: type[nn.Module] = nn.Identity,
    ) -> None:  # fmt: skip
        super().__init__()
        self.noise = noise
        self.generator = nn.Sequential(
            nn.Linear(noise, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 2),
            last(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Linear(2, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, noise: Tensor) -> Tensor:
        """Return points."""
        return self.generator(noise)  # type: ignore[no-any-return]


def ring_gan() -> Setup:
    """Points around six centres, Adam with a low first beta."""
    return Setup(
        *data.ring(), Gan, told, "points", "adam", 1e-2, {"betas": (0.5, 0.99)}, steps=400, batch=64
    )


def curve_gan() -> Setup:
    """Points along a curve, least-squares loss, RMSprop."""
    return Setup(
        *data.curve(), partial(Gan, 2, 40, nn.Tanh), told_sharply, "points", "rmsprop", 1e-3,
        schedule="linear()", steps=500, batch=48,
    )  # fmt: skip


PROGRAMS = (
    Program("diabetes-lbfgs", "regression", diabetes_lbfgs, by_closure, (
        Edit("one row off", training_targets(lambda y: y.roll(1, 0)), "labels_do_not_match"),
        Edit("targets of 1000", targets(lambda y: 1000 * y + 5000), "unscaled_targets", "2"),
    )),
    Program("friedman-adamw", "regression", friedman_adam, plain, (
        Edit("dropout", network(width=80, drop=0.2)),
        Edit("large weights, sgd, warmed up", both(weights("net*", times(5.0)), optimizer(
             "sgd", 0.015, momentum=0.9), fields(schedule="warmup('30%') >> cosine()"))),
        Edit("large weights, sgd, no warmup", fields(schedule="cosine()"), "warmup_missing",
             twin="large weights, sgd, warmed up"),
        Edit("one batch an epoch", both(batches(630), fields(steps=300))),
        Edit("targets of 1000", targets(lambda y: 1000 * y + 5000), "unscaled_targets", "head"),
        Edit("tanh output", followed_by(nn.Tanh, "squashed"), "wrong_last_layer", "squashed"),
        Edit("forty samples", first(40), "too_little_regularisation"),
        Edit("wrong shapes", fields(loss=lambda o, t: ((o - t.T) ** 2).mean()),
             "wrong_loss_or_output"),
    )),
    Program("countries-huber", "regression", countries_huber, drawn, (
        Edit("no clipping, momentum 0", both(options(momentum=0.0), rate(2), fields(clip=None))),
        Edit("raw inputs", inputs(partial(stretched, largest=1e4, shift=2000.0)),
             "unscaled_inputs", "0"),
        Edit("outliers, clipped", both(rows(with_outliers), fields(loss=F.mse_loss, clip=1.0))),
        Edit("outliers, not clipped", fields(clip=None), "missing_clipping",
             twin="outliers, clipped"),
        Edit("batches of one", both(batches(1), rate(2)), "batch_too_small"),
        Edit("no zero_grad", both(fields(zero_grad=False), fields(clip=None)),
             "gradients_not_cleared", in_loop=True),
        Edit("first layer frozen at 0", both(weights("0*", same(0.0)), frozen("0*")),
             "parameters_not_trained", "0"),
    )),
    Program("shops-factors", "regression", shops_factors, by_epochs, (
        Edit("both tables 0", weights("wh*", same(0.0)), "bad_initialisation", "who"),
        Edit("decay of 0.1", options(weight_decay=0.1), "too_much_regularisation"),
        Edit("rows of sixty", first(60), "too_little_regularisation"),
        Edit("one table not given", not_given("who*"), "parameters_not_trained", "who",
             in_loop=True),
    )),
    Program("digits-autoencoder", "autoencoder", digits_autoencoder, plain, (
        Edit("sigmoid output", network(last=nn.Sigmoid), "wrong_last_layer", "decoder.3"),
        Edit("inputs of 1000", inputs(lambda x: 1000 * (x + 1)), "unscaled_inputs", "encoder.0"),
        Edit("tanh drawn large", both(network(act=nn.Tanh), weights("*coder.0.*", normal(20.0))),
             "bad_initialisation", "encoder.0"),
        Edit("sigmoids", network(act=nn.Sigmoid), "saturating_activation", "encoder.1"),
        Edit("one digit repeated", rows(lambda t: repeated_class(t, 0.98)), "bad_data"),
    )),
    Program("patches-denoiser", "autoencoder", patches_denoiser, with_trainer, (
        Edit("adam", optimizer("adam", 5e-3)),
        Edit("relu output", followed_by(nn.ReLU, "positive"), "wrong_last_layer", "positive"),
        Edit("batches of one epoch", batches(840, same_samples=True), "batch_too_large"),
        Edit("rate 100 times", rate(100), "lr_too_high"),
        Edit("sorted", UNSHUFFLED, "data_not_shuffled", in_loop=True),
    )),
    Program("ring-gan", "gan", ring_gan, alternating, (
        Edit("rate 50 times", rate(50), "lr_too_high"),
        Edit("rate / 100", rate(0.01), "lr_too_low"),
        Edit("no zero_grad", fields(zero_grad=False), "gradients_not_cleared"),
        Edit("probabilities", fields(loss=lambda x, real: told(x.sigmoid(), real)),
             "wrong_loss_or_output"),
    )),
    Program("curve-gan", "gan", curve_gan, alternating, (
        Edit("weights drawn large", weights("generator*", normal(6.0)), "bad_initialisation",
             "generator.0"),
        Edit("points of 100", inputs(lambda x: 100 * x), "unscaled_inputs", "discriminator.0"),
        Edit("batches of one", batches(1), "batch_too_small"),
    )),
)  # fmt: skip
"""Programs whose output are values."""
