"""Programs on sequences: plain, LSTM and GRU recurrent networks."""

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
    inputs,
    mixed,
    network,
    normal,
    not_given,
    optimizer,
    options,
    rate,
    targets,
    times,
    training_targets,
    weights,
)  # fmt: skip
from benchmarks.doctor.loops import accumulated, by_epochs, drawn, plain, with_trainer
from benchmarks.doctor.setup import Setup


class WaveRNN(nn.Module):
    """A plain recurrent network with an orthogonal recurrent matrix; the last state decides."""

    def __init__(
        self, hidden: int = 32, layers: int = 1, out: int = 4, gain: float = 1.0, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, hidden, layers, batch_first=True)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(hidden, out)
        for name, parameter in self.rnn.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last state."""
        states, _ = self.rnn(x)
        return self.fc(self.drop(states[:, -1]))  # type: ignore[no-any-return]


def waves_rnn() -> Setup:
    """Shapes of waves, Adam, clipped."""
    return Setup(
        *data.waves(24), WaveRNN, F.cross_entropy, "classes", "adam", 4e-3,
        schedule="cosine()", steps=200, batch=32, clip=1.0,
    )  # fmt: skip


class Cell(nn.Module):
    """A recurrence written out, without a nonlinearity that bounds the state."""

    def __init__(self, hidden: int = 24, act: str = "relu") -> None:
        super().__init__()
        self.inward = nn.Linear(1, hidden)
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)
        nn.init.eye_(self.recurrent.weight)
        self.act = getattr(torch, act)

    def forward(self, x: Tensor) -> Tensor:
        """Return one number a sequence."""
        state = x.new_zeros(len(x), self.out.in_features)
        for step in x.unbind(1):
            state = self.act(self.inward(step) + self.recurrent(state))
        return self.out(state)  # type: ignore[no-any-return]


def bursts_rnn() -> Setup:
    """A mean over part of a series with rare bursts, SGD with clipping."""
    return Setup(
        *data.outlying_waves(20), Cell, F.mse_loss, "values", "sgd", 0.03,
        {"momentum": 0.9}, "cosine()", steps=220, batch=32, clip=0.5,
    )  # fmt: skip


class LastLSTM(nn.Module):
    """An LSTM with a bias of 1 at the forget gate; the mean state decides."""

    def __init__(self, hidden: int = 20, out: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        nn.init.ones_(self.lstm.get_parameter("bias_ih_l0").data[hidden : 2 * hidden])
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.drop(self.lstm(x)[0].mean(1)))  # type: ignore[no-any-return]


def waves_lstm() -> Setup:
    """Shapes of waves, AdamW, a DataLoader."""
    return Setup(
        *data.waves(24), LastLSTM, F.cross_entropy, "classes", "adamw", 3e-2,
        schedule="warmup('10%') >> cosine()", steps=200, batch=32, clip=1.0,
    )  # fmt: skip


class Characters(nn.Module):
    """Embedding, LSTM, layer normalisation, logits of the next character."""

    def __init__(self, width: int = 32, drop: float = 0.0) -> None:
        super().__init__()
        count = data.text()[1]
        self.embed = nn.Embedding(count, width)
        self.lstm = nn.LSTM(width, 48, batch_first=True)
        self.norm = nn.LayerNorm(48)
        self.drop = nn.Dropout(drop)
        self.decode = nn.Linear(48, count)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at every place."""
        return self.decode(self.drop(self.norm(self.lstm(self.embed(x))[0])))  # type: ignore[no-any-return]


def over_places(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over all places."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def text_lstm() -> Setup:
    """The next character of a text, Adam, gradients accumulated over two batches."""
    return Setup(
        *data.windows(16), Characters, over_places, "classes", "adam", 1e-2,
        schedule="cosine()", steps=150, batch=16, clip=1.0, accumulate=2,
    )  # fmt: skip


class RowGRU(nn.Module):
    """Two GRU layers over the rows of a picture."""

    def __init__(self, hidden: int = 28, drop: float = 0.0) -> None:
        super().__init__()
        self.gru = nn.GRU(8, hidden, 2, batch_first=True, dropout=drop)
        self.norm = nn.BatchNorm1d(hidden)
        self.classifier = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return ten logits."""
        return self.classifier(self.norm(self.gru(x)[1][-1]))  # type: ignore[no-any-return]


def rows_gru() -> Setup:
    """Digits row by row, RMSprop."""
    return Setup(
        *data.digit_rows(), RowGRU, F.cross_entropy, "classes", "rmsprop", 5e-3,
        schedule="linear()", steps=200, batch=32, clip=5.0,
    )  # fmt: skip


class Forecast(nn.Module):
    """A GRU and a linear layer on its last state."""

    def __init__(self, hidden: int = 20) -> None:
        super().__init__()
        self.gru = nn.GRU(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast."""
        return self.head(self.gru(x)[1][-1])  # type: ignore[no-any-return]


def chaos_gru() -> Setup:
    """A chaotic series six steps ahead, NAdam, in a trainer class."""
    return Setup(
        *data.chaos(16), Forecast, F.mse_loss, "values", "nadam", 1e-2, schedule="cosine()",
        steps=240, batch=32,
    )  # fmt: skip


PROGRAMS = (
    Program("waves-rnn", "rnn", waves_rnn, plain, (
        Edit("without clipping, low rate", both(rate(0.5), fields(clip=None))),
        Edit("recurrent weights of 3", network(gain=3.0), "bad_initialisation", "rnn"),
        Edit("series of 100", inputs(lambda x: 100 * x), "unscaled_inputs", "rnn"),
        Edit("labels mixed", training_targets(mixed), "labels_do_not_match"),
        Edit("no zero_grad", fields(zero_grad=False), "gradients_not_cleared",
             twin="without clipping, low rate", in_loop=True),
    )),
    Program("bursts-rnn", "rnn", bursts_rnn, drawn, (
        Edit("tighter clipping", both(rate(2), fields(clip=0.2))),
        Edit("no clipping", fields(clip=None), "missing_clipping"),
        Edit("targets of 1000", targets(lambda y: 1000 * y + 3000), "unscaled_targets", "out"),
        Edit("relu output", followed_by(nn.ReLU, "positive"), "wrong_last_layer", "positive"),
        Edit("recurrent weights not given", both(weights("recurrent*", times(0.3)),
             not_given("recurrent*")), "parameters_not_trained", "recurrent", in_loop=True),
    )),
    Program("waves-lstm", "lstm", waves_lstm, by_epochs, (
        Edit("heavy dropout", network(drop=0.5)),
        Edit("larger batches", batches(96)),
        Edit("sorted", UNSHUFFLED, "data_not_shuffled", in_loop=True),
        Edit("thirty samples", both(first(30), fields(steps=300)), "too_little_regularisation",
             by="loss"),
        Edit("gates drawn large", weights("lstm*", normal(6.0)), "bad_initialisation", "lstm"),
    )),
    Program("text-lstm", "lstm", text_lstm, accumulated, (
        Edit("one batch an update", both(batches(32), fields(accumulate=1))),
        Edit("sgd, clipped", both(optimizer("sgd", 8.0), fields(clip=0.3))),
        Edit("sgd, not clipped", fields(clip=None), "missing_clipping", twin="sgd, clipped"),
        Edit("decay of 0.1", options(weight_decay=0.1), "too_much_regularisation"),
        Edit("log softmax of a softmax", followed_by(partial(nn.Softmax, -1), "probabilities"),
             "wrong_loss_or_output", "probabilities", by="loss"),
    )),
    Program("rows-gru", "gru", rows_gru, by_epochs, (
        Edit("dropout between layers", network(drop=0.4)),
        Edit("rate 100 times", rate(100), "lr_too_high"),
        Edit("batches of 2", batches(2), "batch_too_small"),
        Edit("sorted", UNSHUFFLED, "data_not_shuffled", in_loop=True),
    )),
    Program("chaos-gru", "gru", chaos_gru, with_trainer, (
        Edit("amsgrad", optimizer("adam", 1e-2, amsgrad=True)),
        Edit("targets of 1000", targets(lambda y: 1000 * y + 5000), "unscaled_targets", "head"),
        Edit("sigmoid output", followed_by(nn.Sigmoid, "squashed"), "wrong_last_layer",
             "squashed"),
        Edit("adadelta", optimizer("adadelta", 1e-2), "optimizer_mismatch"),
        Edit("head not given", both(weights("head*", times(0.1)), not_given("head*")),
             "parameters_not_trained", "head", in_loop=True),
    )),
)  # fmt: skip
"""Programs on sequences."""
