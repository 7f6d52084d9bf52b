"""Gradient descent, and the first optimizers with a rate per entry."""

from __future__ import annotations

from etude.optimizers.hyperparameters import Flag, Number
from etude.optimizers.rows.parts import IN_FULL, ONE_RATE, OWN, RECURRENT, row, share

# The centres of sgd, adam, adamw, rmsprop and adagrad were fitted on 47 small tasks. Those of the
# others are the mean over digits-mlp, digits-cnn, digits-gru and diabetes-mlp of the best of nine
# rates, 0.4 decades apart, with the same correction for size (which reproduces adam's fitted
# centre); averaged_momentum's follows from sgd's, and 0.0 is used if the rate is a multiplier.

ROWS = (
    row(
        "sgd",
        "SGD",
        1e-3,
        -0.9,
        "Robbins & Monro 1951; momentum: Polyak 1964; nesterov: Sutskever et al. 2013",
        "convolutional networks with normalisation; batch_size='all' is batch gradient descent, "
        "1 is stochastic, momentum=0.9 the heavy ball, nesterov=true Nesterov's method",
        {
            "stacked": "sgd",
            "stability": "sgd",
            "family": "sgd",
            "centre_share": 0.1,
            "sparse": "without decay",
            "advised": {"momentum": 0.9},
        },
        {
            **ONE_RATE,
            "usual": (0.5, "it needs the least memory, but its momentum must be chosen too"),
            "even curvature": (0.5, "one rate can suit all directions"),
            "normalised convolutions": (
                0.8,
                "normalised convolutions often generalise best with it",
            ),
            "bursts": IN_FULL,
        },
        momentum=share(0.0),
        dampening=Number(0.0, high=1, closed=True),
        weight_decay=Number(0.0),
        nesterov=Flag(),
    ),
    row(
        "averaged_momentum",
        OWN + "averaged_momentum:AveragedMomentum",
        1e-3,
        0.1,
        "Polyak 1964, averaged as in Ng's lecture notes and Kingma & Ba 2015",
        "momentum whose best rate does not depend on the momentum",
        {"stability": "averaged_momentum", "family": "sgd"},
        {**ONE_RATE, "bursts": IN_FULL},
        momentum=share(0.9),
        weight_decay=Number(0.0),
    ),
    row(
        "adagrad",
        "Adagrad",
        1e-2,
        -0.6,
        "Duchi et al. 2011, JMLR 12",
        "sparse features and convex problems",
        {"stacked": "adagrad", "stability": "adagrad", "family": "adam", "sparse": "without decay"},
        {
            "sparse gradients": (2.0, "takes the model's sparse gradients"),
            "rare rows": (1.0, "a rare row keeps its large rate"),
            "bursts": IN_FULL,
        },
        lr_decay=Number(0.0),
        weight_decay=Number(0.0),
        initial_accumulator_value=Number(0.0, once=True),
        eps=Number(1e-10),
    ),
    row(
        "adadelta",
        "Adadelta",
        1.0,
        0.0,
        "Zeiler 2012, arXiv:1212.5701",
        "old recipes that use it; its rate multiplies a step size that it chooses itself",
        {"rate_free": True},
        {},
        rho=Number(0.9, high=1, closed=True),
        eps=Number(1e-6),
        weight_decay=Number(0.0),
    ),
    row(
        "rmsprop",
        "RMSprop",
        1e-2,
        -1.7,
        "Tieleman & Hinton 2012, lecture 6.5",
        "recurrent networks and reinforcement learning",
        {"stacked": "rmsprop", "stability": "rmsprop", "family": "adam"},
        {"recurrent": RECURRENT},
        alpha=share(0.99),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        momentum=share(0.0),
        centered=Flag(),
    ),
)
