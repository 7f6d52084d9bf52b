"""Programs on pictures: convolutional and residual networks, fine-tuning and adapters."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

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
    frozen,
    inputs,
    mostly_mixed,
    network,
    not_given,
    options,
    rate,
    same,
    times,
    training_targets,
    weights,
    with_gaps,
)  # fmt: skip
from benchmarks.doctor.edits import data as rows
from benchmarks.doctor.loops import accumulated, by_epochs, drawn, plain, with_trainer
from benchmarks.doctor.setup import Setup

WARM = "warmup('15%') >> cosine()"


def block(fan_in: int, fan_out: int, norm: bool) -> nn.Module:
    """A convolution, batch normalisation, ReLU and pooling."""
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, padding=1),
        nn.BatchNorm2d(fan_out) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def small_cnn(norm: bool = True, drop: float = 0.0) -> nn.Module:
    """Two blocks and a linear layer."""
    return nn.Sequential(
        block(1, 8, norm), block(8, 16, norm), nn.Flatten(), nn.Dropout(drop), nn.Linear(64, 10)
    )


def digits_cnn() -> Setup:
    """Digits, batch normalisation, SGD with momentum."""
    return Setup(
        *data.digits(), small_cnn, F.cross_entropy, "classes", "sgd", 0.1,
        {"momentum": 0.9, "weight_decay": 1e-4}, "cosine()", steps=160, batch=32,
    )  # fmt: skip


class PatchNet(nn.Module):
    """Strided convolutions with group normalisation, averaged over the picture."""

    def __init__(self, width: int = 12, act: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(3, width), nn.GroupNorm(3, 2 * width)
        self.head = nn.Linear(2 * width, 2)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits."""
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def patches_cnn() -> Setup:
    """Which of two photographs a patch is from, AdamW."""
    return Setup(
        *data.patches(), PatchNet, F.cross_entropy, "classes", "adamw", 1e-2,
        schedule="cosine()", steps=160, batch=32,
    )  # fmt: skip


def turn_net(act: type[nn.Module] = nn.ReLU, drop: float = 0.0, out: int = 4) -> nn.Module:
    """Convolutions without normalisation and two linear layers."""
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3), act(), nn.Conv2d(12, 16, 3, stride=2), act(), nn.Flatten(),
        nn.Dropout(drop), nn.Linear(64, 32), act(), nn.Linear(32, out),
    )  # fmt: skip
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return net


def turned_rmsprop() -> Setup:
    """By how much a digit was turned, RMSprop, batches drawn with replacement."""
    return Setup(
        *data.turned(), turn_net, F.cross_entropy, "classes", "rmsprop", 4e-3,
        {"alpha": 0.9}, "linear()", steps=260, batch=32,
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions that are added to their input."""

    def __init__(self, width: int, norm: bool, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + y if self.residual else y)


class ResNet(nn.Module):
    """A stem, residual blocks at half the size, and a linear layer on the average."""

    def __init__(
        self, blocks: int = 3, width: int = 10, channels: int = 1, classes: int = 10,
        norm: bool = True, residual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.layers = nn.Sequential(*(Residual(width, norm, residual) for _ in range(blocks)))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.fc(self.layers(F.relu(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def digits_resnet() -> Setup:
    """Digits, SGD at a high rate with warmup, ten evaluations."""
    return Setup(
        *data.digits(), ResNet, F.cross_entropy, "classes", "sgd", 0.2,
        {"momentum": 0.9, "weight_decay": 5e-4}, WARM, steps=140, batch=48,
    )  # fmt: skip


def turned_resnet() -> Setup:
    """By how much a digit was turned, a residual network of five blocks, Adam."""
    return Setup(
        *data.turned(), partial(ResNet, 5, 10, 1, 4), F.cross_entropy, "classes", "adam", 1e-2,
        schedule="cosine()", steps=120, batch=32,
    )  # fmt: skip


@cache
def trained_body() -> dict[str, Tensor]:
    """Return the weights of a network that knows the digits 0 to 4."""
    (x, y), _ = data.digits()
    known = y < 5
    torch.manual_seed(0)
    net = Finetuned(False)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(80):
        rows = torch.randint(0, int(known.sum()), (64,))
        optimizer.zero_grad()
        F.cross_entropy(net(x[known][rows]), y[known][rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: value.detach().clone() for name, value in net.body.state_dict().items()}


class Finetuned(nn.Module):
    """A body that may be trained already, and a new head."""

    def __init__(self, pretrained: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(10, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(320, 5)
        if pretrained:
            with torch.random.fork_rng():
                weights = trained_body()
            self.body.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return five logits."""
        return self.head(self.drop(self.body(x)))  # type: ignore[no-any-return]


def digits_finetune() -> Setup:
    """Digits 5 to 9 from a network that knows 0 to 4; its body is frozen."""
    parts = data.digits()
    (x, y), (held, answers) = (tuple(t[part[1] >= 5] for t in part) for part in parts)
    setup = Setup(
        (x[:200], y[:200] - 5), (held, answers - 5), Finetuned, F.cross_entropy, "classes",
        "adam", 5e-3, steps=120, batch=16,
    )  # fmt: skip
    return frozen("body.*")(setup)


class LowRank(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both."""
        return self.layer(x) + self.up(self.down(x))  # type: ignore[no-any-return]


@cache
def upright() -> dict[str, Tensor]:
    """Return the weights of a network that knows digits as they are."""
    (x, y), _ = data.digits()
    torch.manual_seed(1)
    net = body_of_linears()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        rows = torch.randint(0, len(x), (64,))
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def body_of_linears() -> nn.Sequential:
    """Three linear layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )


def adapted(rank: int = 8) -> nn.Module:
    """The trained network with an adapter at every linear layer."""
    net = body_of_linears()
    with torch.random.fork_rng():
        weights = upright()
    net.load_state_dict(weights)
    for place in (1, 3, 5):
        layer = net[place]
        assert isinstance(layer, nn.Linear)
        net[place] = LowRank(layer, rank)
    return net


def digits_lora() -> Setup:
    """Mirrored digits from a network that knows them upright, low-rank adapters."""
    (x, y), (held, answers) = data.digits()
    return Setup(
        (x.flip(3), y), (held.flip(3), answers), adapted, F.cross_entropy, "classes",
        "adamw", 1e-2, schedule="linear()", steps=250, batch=32,
    )  # fmt: skip


PROGRAMS = (
    Program("digits-cnn", "cnn", digits_cnn, by_epochs, (
        Edit("frozen first block", frozen("0.*")),
        Edit("rate 100 times", rate(100), "lr_too_high"),
        Edit("sorted", UNSHUFFLED, "data_not_shuffled", in_loop=True),
        Edit("batches of 2", batches(2), "batch_too_small"),
        Edit("most labels mixed", training_targets(mostly_mixed), "labels_do_not_match"),
        Edit("decay of 1", options(weight_decay=1.0), "too_much_regularisation"),
    )),
    Program("patches-cnn", "cnn", patches_cnn, with_trainer, (
        Edit("rate / 300", rate(1 / 300), "lr_too_low"),
        Edit("missing pixels", rows(lambda t: (with_gaps(t[0]), t[1])), "bad_data"),
        Edit("epochs of one batch", batches(980, same_samples=True), "batch_too_large"),
    )),
    Program("turned-rmsprop", "cnn", turned_rmsprop, drawn, (
        Edit("dropout", network(drop=0.3)),
        Edit("inputs of 2000", inputs(lambda x: (x + 1) * 1000), "unscaled_inputs", "0"),
        Edit("sigmoids", network(act=nn.Sigmoid), "saturating_activation", "1"),
        Edit("drop 0.98", network(drop=0.98), "too_much_regularisation", "5"),
        Edit("sixty samples", both(first(60), fields(steps=500)), "too_little_regularisation",
             by="loss"),
    )),
    Program("digits-resnet", "resnet", digits_resnet, with_trainer, (
        Edit("small batches", both(batches(16), rate(0.5))),
        Edit("trained in eval mode", fields(train_mode=False), "eval_mode_in_training",
             "layers.0.bn1", twin="ten blocks", in_loop=True),
        Edit("no zero_grad", fields(zero_grad=False), "gradients_not_cleared", in_loop=True),
        Edit("no normalisation", network(norm=False), "missing_normalisation", "layers.0.bn1"),
        Edit("no residuals", network(blocks=10, residual=False), "missing_residual", "layers.0",
             twin="ten blocks"),
        Edit("ten blocks", network(blocks=10)),
    )),
    Program("turned-resnet", "resnet", turned_resnet, by_epochs, (
        Edit("trained in eval mode", fields(train_mode=False), "eval_mode_in_training",
             "layers.0.bn1", in_loop=True),
        Edit("blocks not given", not_given("layers.*", "stem.*"), "parameters_not_trained",
             "layers.0.conv1", in_loop=True),
        Edit("one row off", training_targets(lambda y: y.roll(1)), "labels_do_not_match"),
        Edit("no normalisation", both(network(norm=False), weights("layers*", times(2.5))),
             "missing_normalisation", "layers.0.bn1"),
    )),
    Program("digits-finetune", "cnn", digits_finetune, plain, (
        Edit("all layers", fields(model=Finetuned, lr=2e-3)),
        Edit("statistics kept", fields(train_mode=False)),
        Edit("heavy dropout", both(fields(model=partial(Finetuned, drop=0.5)), frozen("body.*"))),
        Edit("head 1000 times as large", weights("head*", times(1e3)), "bad_initialisation",
             "head"),
        Edit("rate 2000 times", rate(2000), "lr_too_high",
             twin="all layers"),
    )),
    Program("digits-lora", "mlp", digits_lora, accumulated, (
        Edit("bfloat16", fields(bf16=True)),
        Edit("adapters not given", not_given("1.*", "3.*", "5.up*"), "parameters_not_trained",
             "1.up", in_loop=True),
        Edit("both matrices 0", weights("*.down.*", same(0.0)), "bad_initialisation", "1.down"),
        Edit("no zero_grad", fields(zero_grad=False), "gradients_not_cleared", in_loop=True),
    )),
)  # fmt: skip
"""Programs on pictures."""
