"""Visual question answering: a picture and a question in words (Antol et al. 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from etude.tasks.checks import whole
from etude.tasks.models.cnn import convolutions
from etude.tasks.models.initialisation import initialise
from etude.tasks.models.mlp import DenseLayer


class PictureAndQuestion(nn.Module):
    """`convs` and `look` read the picture, `embedding` and `cell` the question.

    Their product goes through `dense` to `head`.
    """

    def __init__(
        self,
        convs: nn.Sequential,
        look: nn.Linear,
        embedding: nn.Embedding,
        cell: nn.GRU,
        dense: DenseLayer,
        outputs: int,
    ) -> None:
        super().__init__()
        self.convs = convs
        self.look = look
        self.embedding = embedding
        self.cell = cell
        self.dense = dense
        self.head = nn.Linear(dense.linear.out_features, outputs)

    def forward(self, picture: Tensor, question: Tensor) -> Tensor:
        """Map (N, channels, size, size) and symbols (N, L) to (N, outputs)."""
        seen = self.look(self.convs(picture.contiguous()).flatten(1))
        asked = self.cell(self.embedding(question))[0][:, -1]
        y: Tensor = self.head(self.dense(seen * asked))
        return y


def vqa(
    *,
    channels: int,
    size: int,
    vocabulary: int,
    outputs: int,
    depth: int = 2,
    width: int = 16,
    hidden: int = 64,
    activation: str = "relu",
    normalisation: str = "none",
    residual: bool = False,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a network of two inputs: convolutions for the picture, a GRU for the question.

    With the convolutions f, the question's symbols q_1 .. q_L and the product of elements ⊙:

        y = head(dense((W f(picture) + b) ⊙ GRU(q_1 .. q_L)))

    Args:
        channels: Channels of a picture.
        size: Pixels along each side of a picture, at least 2.
        vocabulary: The number of symbols of the question.
        outputs: Numbers per prediction, for instance the number of answers.
        depth: Convolutions, at least 1.
        width: Channels of the first convolution; they double with each pooling.
        hidden: Units of the GRU, of the embedding and of the layer that joins both.
        activation: A name in `parts.ACTIVATIONS`, of the convolutions and the joining layer.
        normalisation: 'none', 'batch', 'layer' or 'group', before each activation.
        residual: Add each convolution's input to its output.
        initialisation: A name in `initialisation.INITIALISATIONS`.
        dropout: The share of each hidden layer's outputs that training drops, in [0, 1).

    Returns:
        A module from (N, channels, size, size) and (N, L) to (N, outputs).

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    Source: Antol et al., "VQA: visual question answering", 2015, whose network joins both by
    their product.

    >>> import torch
    >>> model = vqa(channels=1, size=8, vocabulary=97, outputs=2)
    >>> model(torch.zeros(5, 1, 8, 8), torch.zeros(5, 20).long()).shape
    torch.Size([5, 2])
    """
    whole("vocabulary", vocabulary)
    whole("outputs", outputs)
    whole("hidden", hidden)
    convs, features = convolutions(
        channels=channels,
        size=size,
        depth=depth,
        width=width,
        activation=activation,
        normalisation=normalisation,
        residual=residual,
        dropout=dropout,
    )
    dense = DenseLayer(
        hidden,
        hidden,
        activation=activation,
        normalisation=normalisation,
        residual=False,
        dropout=dropout,
    )
    model = PictureAndQuestion(
        convs,
        nn.Linear(features, hidden),
        nn.Embedding(vocabulary, hidden),
        nn.GRU(hidden, hidden, batch_first=True),
        dense,
        outputs,
    )
    return initialise(model, initialisation)
