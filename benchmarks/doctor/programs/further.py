"""Further edits of open programs, so that what is fitted sees frequent causes in many programs.

They are fitted to and not scored, and have one seed. They were added when held programs had been
scored twice, for causes that were seldom named there and had few open cases.
"""

from __future__ import annotations

from torch import nn

from benchmarks.doctor.case import Edit
from benchmarks.doctor.edits import (
    batches,
    both,
    fields,
    inputs,
    network,
    normal,
    optimizer,
    options,
    rate,
    times,
    weights,
    with_gaps,
    with_outliers,
)  # fmt: skip
from benchmarks.doctor.edits import data as rows
from benchmarks.doctor.programs.values import told_sharply

HIGH, LOW = "lr_too_high", "lr_too_low"
FLAT, MUCH = "saturating_activation", "too_much_regularisation"
LARGE, UNCLIPPED = "batch_too_large", "missing_clipping"
DRAWN, DATA, SMALL = "bad_initialisation", "bad_data", "batch_too_small"
UNSCALED = "unscaled_inputs"

FURTHER: dict[str, tuple[Edit, ...]] = {
    "cancer-mlp": (
        Edit("dropout of a half", network(drop=0.5)),
        Edit("rate 1000 times", rate(1000), HIGH),
        Edit("drop 0.95", network(drop=0.95), MUCH),
    ),
    "wine-tiny": (
        Edit("adam", optimizer("adam", 2e-2)),
        Edit("rate 100 times", rate(100), HIGH),
        Edit("units drawn large", weights("0*", normal(10.0)), DRAWN, "0"),
    ),
    "clusters-deep": (
        Edit("rate 100 times", rate(100), HIGH),
        Edit("decay of 1", options(weight_decay=1.0), MUCH),
    ),
    "clusters-plain": (
        Edit("tanh", network(act=nn.Tanh)),
        Edit("rate 30 times", rate(30), HIGH),
        Edit("six sigmoids", network(depth=6, act=nn.Sigmoid), FLAT, "1"),
        Edit("tanh drawn large", both(network(act=nn.Tanh), weights("*", times(5.0))), DRAWN, "0"),
    ),
    "digits-cnn": (
        Edit("adam", optimizer("adam", 5e-3)),
        Edit("no normalisation, clipped", both(network(norm=False), rate(3), fields(clip=0.5))),
        Edit("no normalisation, not clipped", fields(clip=None), UNCLIPPED,
             twin="no normalisation, clipped"),
        Edit("drop 0.98", network(drop=0.98), MUCH),
        Edit("epochs of one batch", batches(1437, same_samples=True), LARGE),
        Edit("missing pixels", rows(lambda t: (with_gaps(t[0]), t[1])), DATA),
    ),
    "digits-resnet": (
        Edit("without warmup", fields(schedule="cosine()")),
        Edit("rate 100 times", rate(100), HIGH),
        Edit("rate / 1000", rate(1e-3), LOW),
    ),
    "waves-rnn": (
        Edit("rate 50 times", rate(50), HIGH),
        Edit("missing values", rows(lambda t: (with_gaps(t[0]), t[1])), DATA),
        Edit("input weights drawn large", weights("rnn.weight_ih*", normal(20.0)), DRAWN, "rnn"),
    ),
    "waves-lstm": (
        Edit("sgd, clipped", both(optimizer("sgd", 10.0), fields(clip=0.1))),
        Edit("sgd, not clipped", fields(clip=None), UNCLIPPED, twin="sgd, clipped"),
        Edit("drop 0.97", network(drop=0.97), MUCH),
        Edit("epochs of one batch", batches(600, same_samples=True), LARGE),
    ),
    "text-lstm": (
        Edit("rate 50 times", rate(50), HIGH),
        Edit("gates drawn large", weights("lstm*", normal(6.0)), DRAWN, "lstm"),
    ),
    "rows-gru": (
        Edit("adam", optimizer("adam", 5e-3)),
        Edit("rate / 300", rate(1 / 300), LOW),
        Edit("gates drawn large", weights("gru*", normal(6.0)), DRAWN, "gru"),
    ),
    "chaos-gru": (
        Edit("rate 300 times", rate(300), HIGH),
        Edit("decay of 0.1", options(weight_decay=0.1), MUCH),
    ),
    "bag-sparse": (Edit("rate / 300", rate(1 / 300), LOW),),
    "friedman-adamw": (
        Edit("outliers, sgd, clipped", both(
             rows(with_outliers), optimizer("sgd", 0.05, momentum=0.9), fields(clip=0.5))),
        Edit("outliers, sgd, not clipped", fields(clip=None), UNCLIPPED,
             twin="outliers, sgd, clipped"),
        Edit("rate 100 times", rate(100), HIGH),
        Edit("drop 0.95", network(drop=0.95), MUCH),
    ),
    "countries-huber": (Edit("adam", both(optimizer("adam", 2e-2), fields(clip=None))),),
    "shops-factors": (Edit("rate 50 times", rate(50), HIGH),),
    "digits-autoencoder": (
        Edit("tanh", network(act=nn.Tanh)),
        Edit("rate 50 times", rate(50), HIGH),
        Edit("rate / 300", rate(1 / 300), LOW),
        Edit("drop 0.9", network(drop=0.9), MUCH),
        Edit("small weights", weights("*coder.*", times(0.03)), DRAWN, "encoder.0"),
    ),
    "ring-gan": (
        Edit("tanh", network(act=nn.Tanh)),
        Edit("least squares", fields(loss=told_sharply)),
        Edit("small batches", batches(16)),
        Edit("weights drawn large", weights("generator*", normal(6.0)), DRAWN, "generator.0"),
        Edit("tanh drawn large", weights("generator*", normal(6.0)), DRAWN, "generator.0",
             twin="tanh"),
        Edit("points of 100", inputs(lambda x: 100 * x), UNSCALED, "discriminator.0"),
        Edit("batches of one", batches(1), SMALL),
    ),
}  # fmt: skip
"""Further edits, by program."""
