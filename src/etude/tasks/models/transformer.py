"""Small pre-norm transformers: a causal model for symbols, and an encoder for classification.

Vaswani et al., "Attention is all you need", 2017. The norm before each branch is from GPT-2, 2019,
and so is the initialisation N(0, 0.02²), times 1/√(2·depth) for each branch's last layer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

from etude.errors import BadValueError
from etude.tasks.checks import flag, share, whole
from etude.tasks.models import parts
from etude.tasks.models.initialisation import initialise, weights


class Attention(nn.Module):
    """Multi-head attention; each head has width / heads numbers.

    With `qk_norm` the queries and keys of each head are normalised, which bounds the logits of the
    attention (Henry et al. 2020; with layer normalisation, Dehghani et al. 2023).
    """

    def __init__(
        self, width: int, heads: int, *, causal: bool, dropout: float, qk_norm: bool
    ) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.qk_norm = qk_norm
        if qk_norm:
            self.query_norm = nn.LayerNorm(width // heads)
            self.key_norm = nn.LayerNorm(width // heads)
        self.heads = heads
        self.causal = causal
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, width) to (N, L, width)."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        if self.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=self.causal)
        out: Tensor = self.out(y.transpose(1, 2).flatten(-2))
        return out


class FeedForward(nn.Module):
    """Two linear layers with a hidden width of four times the width."""

    def __init__(self, width: int, *, activation: str) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.activation = parts.activation(activation)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, width) to (N, L, width)."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class TransformerBlock(nn.Module):
    """x + attention(norm1(x)), then x + feed_forward(norm2(x)); without x if not residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool,
        activation: str,
        normalisation: str,
        residual: bool,
        dropout: float,
        qk_norm: bool,
    ) -> None:
        super().__init__()
        self.norm1 = parts.normalisation(normalisation, width)
        self.attention = Attention(width, heads, causal=causal, dropout=dropout, qk_norm=qk_norm)
        self.norm2 = parts.normalisation(normalisation, width)
        self.feed_forward = FeedForward(width, activation=activation)
        self.dropout = parts.dropout(dropout)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, width) to (N, L, width)."""
        y: Tensor = self.dropout(self.attention(self.norm1(x)))
        x = x + y if self.residual else y
        y = self.dropout(self.feed_forward(self.norm2(x)))
        return x + y if self.residual else y


class Transformer(nn.Module):
    """`embedding`, `position`, `blocks`, `norm`, `head`: predicts per step, or from their mean."""

    def __init__(
        self,
        embedding: nn.Module,
        blocks: nn.Sequential,
        norm: nn.Module,
        head: nn.Linear,
        *,
        context: int,
        every_step: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = nn.Embedding(context, head.in_features)
        self.dropout = parts.dropout(dropout)
        self.blocks = blocks
        self.norm = norm
        self.head = head
        self.every_step = every_step

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L), or (N, L, inputs), to (N, L, outputs) or (N, outputs); L <= context."""
        steps = self.position.weight[: x.shape[1]]
        states = self.norm(self.blocks(self.dropout(self.embedding(x) + steps)))
        y: Tensor = self.head(states if self.every_step else states.mean(1))
        return y


def _draw(model: Transformer, name: str, depth: int) -> nn.Module:
    """Draw the weights; `default` is GPT-2's, and embedding tables always use GPT-2's."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
    if name != "default":
        return initialise(model, name)
    initialise(model, "normal")
    for weight in weights(model):
        init.normal_(weight, std=0.02)
    for block in model.blocks:
        assert isinstance(block, TransformerBlock)
        for last in (block.attention.out, block.feed_forward.down):
            init.normal_(last.weight, std=0.02 / (2 * depth) ** 0.5)
    return model


def transformer(
    *,
    context: int,
    outputs: int,
    inputs: int | None = None,
    vocabulary: int | None = None,
    every_step: bool = False,
    causal: bool = False,
    depth: int = 2,
    width: int = 64,
    heads: int = 4,
    activation: str = "gelu",
    normalisation: str = "layer",
    residual: bool = True,
    initialisation: str = "default",
    dropout: float = 0.0,
    qk_norm: bool = False,
) -> nn.Module:
    """Build a pre-norm transformer with learned positions.

    Args:
        context: The longest sequence, in steps.
        outputs: Numbers per prediction, for instance the number of classes or symbols.
        inputs: Numbers per step, which a linear layer embeds; or else
        vocabulary: The number of symbols, each embedded as `width` numbers.
        every_step: Predict at each step, (N, L, outputs), instead of once from the mean over the
            steps, (N, outputs).
        causal: Let a step attend only to itself and earlier steps.
        depth: Blocks of attention and feed-forward, at least 1.
        width: Numbers per step in the residual stream, a multiple of `heads`.
        heads: Attention heads.
        activation: A name in `parts.ACTIVATIONS`, of the feed-forward layers.
        normalisation: 'layer' or 'none', before each branch and before the head.
        residual: Whether the branches add to a residual stream.
        initialisation: A name in `initialisation.INITIALISATIONS`; 'default' is GPT-2's.
        dropout: The share that training drops of attention weights, embeddings and branches.
        qk_norm: Whether to normalise the queries and keys of each head; a head then needs at least
            2 numbers.

    Returns:
        A module that takes (N, L, inputs), or symbol numbers (N, L).

    Raises:
        BadValueError: If an option is out of bounds, unknown, or not supported here.

    >>> import torch
    >>> transformer(inputs=8, context=8, outputs=10)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """
    whole("context", context)
    whole("outputs", outputs)
    whole("depth", depth)
    flag("residual", residual)
    flag("every_step", every_step)
    flag("causal", causal)
    if whole("width", width) % whole("heads", heads):
        raise BadValueError(
            f"width={width} cannot be divided among heads={heads}: give a multiple of {heads}"
        )
    if flag("qk_norm", qk_norm) and width // heads < 2:
        raise BadValueError(
            f"qk_norm=True with one number in each head (width={width}, heads={heads}) would turn "
            "every query and key into 0: give fewer heads, or qk_norm=False"
        )
    why = "a transformer normalises each step by itself"
    parts.only("normalisation", normalisation, ("layer", "none"), why)
    parts.check_source(inputs, vocabulary)
    embedding: nn.Module
    if vocabulary is not None:
        embedding = nn.Embedding(whole("vocabulary", vocabulary), width)
    else:
        embedding = nn.Linear(whole("inputs", inputs), width)
    blocks = (
        TransformerBlock(
            width,
            heads,
            causal=causal,
            activation=activation,
            normalisation=normalisation,
            residual=residual,
            dropout=share("dropout", dropout),
            qk_norm=qk_norm,
        )
        for _ in range(depth)
    )
    model = Transformer(
        embedding,
        nn.Sequential(*blocks),
        parts.normalisation(normalisation, width),
        nn.Linear(width, outputs),
        context=context,
        every_step=every_step,
        dropout=dropout,
    )
    return _draw(model, initialisation, depth)
