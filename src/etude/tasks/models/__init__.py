"""Networks to train, by family: plain torch modules with the options that affect the rate."""

from __future__ import annotations

from etude.tasks.models.autoencoder import autoencoder
from etude.tasks.models.cnn import cnn
from etude.tasks.models.cnn_lstm import cnn_lstm
from etude.tasks.models.initialisation import INITIALISATIONS, initialise
from etude.tasks.models.mlp import mlp
from etude.tasks.models.parts import ACTIVATIONS, NORMALISATIONS
from etude.tasks.models.recurrent import gru, lstm, recurrent, rnn
from etude.tasks.models.resnet import resnet
from etude.tasks.models.transformer import transformer
from etude.tasks.models.vqa import vqa

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "NORMALISATIONS",
    "autoencoder",
    "cnn",
    "cnn_lstm",
    "gru",
    "initialise",
    "lstm",
    "mlp",
    "recurrent",
    "resnet",
    "rnn",
    "transformer",
    "vqa",
]
