"""Residual network of basic blocks (He et al., "Deep residual learning", 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from etude.tasks.checks import flag, whole
from etude.tasks.models import parts
from etude.tasks.models.initialisation import initialise

STEMS = ("small", "large")


class BasicBlock(nn.Module):
    """y = activation(norm2(K2 * dropout(activation(norm1(K1 * x)))) + shortcut(x)).

    The shortcut is the input, or a normalised 1×1 convolution of it if the shape changes.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        activation: str,
        normalisation: str,
        residual: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        bias = normalisation == "none"
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = parts.normalisation(normalisation, width, axes=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm2 = parts.normalisation(normalisation, width, axes=2)
        self.activation1 = parts.activation(activation)
        self.activation2 = parts.activation(activation)
        self.dropout = parts.dropout(dropout)
        self.shortcut: nn.Module | None = None
        if residual and (stride > 1 or inputs != width):
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride=stride, bias=bias),
                parts.normalisation(normalisation, width, axes=2),
            )
        elif residual:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H / stride, W / stride)."""
        y = self.dropout(self.activation1(self.norm1(self.conv1(x))))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        out: Tensor = self.activation2(y)
        return out


class ResNet(nn.Module):
    """`stem`, `stages` (of blocks), global average, `head`."""

    def __init__(self, stem: nn.Module, stages: nn.Sequential, width: int, outputs: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = stages
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, outputs)."""
        # On some processors the kernels for few channels in channels-last layout are faulty.
        y: Tensor = self.head(self.stages(self.stem(x.contiguous())).mean((2, 3)))
        return y


def _stem(kind: str, channels: int, width: int, activation: str, normalisation: str) -> nn.Module:
    parts.only("stem", kind, STEMS, "it is 3×3 for small images, or 7×7 with pooling for large")
    bias = normalisation == "none"
    layers = [
        nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        if kind == "small"
        else nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=bias),
        parts.normalisation(normalisation, width, axes=2),
        parts.activation(activation),
    ]
    if kind == "large":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def resnet(
    *,
    channels: int,
    outputs: int,
    depth: int = 1,
    width: int = 16,
    stages: int = 3,
    stem: str = "small",
    activation: str = "relu",
    normalisation: str = "batch",
    residual: bool = True,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a residual network: `stages` of `depth` blocks, each stage half as large and twice
    as wide as the one before; a global average; a linear head.

    depth=3, width=16, stages=3 is ResNet-20 for CIFAR-10; depth=2, width=64, stages=4 with the
    large stem is ResNet-18 for ImageNet.

    Args:
        channels: Channels of an image of any size.
        outputs: Numbers per prediction, for instance the number of classes.
        depth: Blocks of two convolutions in each stage, at least 1.
        width: Channels of the first stage.
        stages: Stages, at least 1.
        stem: 'small' (3×3) or 'large' (7×7, stride 2, pooling: a quarter of the side).
        activation: A name in `parts.ACTIVATIONS`.
        normalisation: 'none', 'batch', 'layer' or 'group', after each convolution.
        residual: False leaves the shortcuts out, which is the paper's plain network.
        initialisation: A name in `initialisation.INITIALISATIONS`.
        dropout: The share that training drops between a block's two convolutions, in [0, 1).

    Returns:
        A module from (N, channels, H, W) to (N, outputs).

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    >>> import torch
    >>> resnet(channels=3, outputs=10)(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 10])
    """  # noqa: D205
    whole("channels", channels)
    whole("outputs", outputs)
    whole("depth", depth)
    whole("width", width)
    whole("stages", stages)
    flag("residual", residual)
    inputs = width
    built = []
    for stage in range(stages):
        blocks = []
        for block in range(depth):
            blocks.append(
                BasicBlock(
                    inputs,
                    width * 2**stage,
                    stride=2 if stage and not block else 1,
                    activation=activation,
                    normalisation=normalisation,
                    residual=residual,
                    dropout=dropout,
                )
            )
            inputs = width * 2**stage
        built.append(nn.Sequential(*blocks))
    first = _stem(stem, channels, width, activation, normalisation)
    return initialise(ResNet(first, nn.Sequential(*built), inputs, outputs), initialisation)
