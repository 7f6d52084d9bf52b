"""The table of optimizers: one frozen row each. To add an optimizer, add a row here.

A row names its factory as text, so that reading the table loads no torch. torch's own come
first; then those of the extra `optimizers`; Etude's own only where neither has the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from etude.errors import unknown_name
from etude.optimizers.hyperparameters import (
    Flag,
    Hyperparameter,
    Number,
    Pair,
    Selectors,
    Whole,
)
from etude.optimizers.row import OptimizerRow

__all__ = ["ROWS", "Number", "OptimizerRow", "Pair", "get"]


def _row(
    name: str,
    factory: str,
    lr: float,
    centre: float,
    paper: str,
    when: str,
    can: Mapping[str, Any] | None = None,
    **hyperparameters: Hyperparameter,
) -> OptimizerRow:
    if ":" not in factory:
        factory = f"torch.optim:{factory}"
    return OptimizerRow(
        name=name,
        factory=factory,
        lr=lr,
        centre=centre,
        paper=paper,
        when=when,
        hyperparameters=MappingProxyType(hyperparameters),
        **(can or {}),
    )


def _betas(first: float = 0.9, second: float = 0.999, *, above: bool = False) -> Pair:
    return Pair(Number(first, high=1, above=above), Number(second, high=1))


def _share(default: float) -> Number:
    return Number(default, high=1)


_OWN = "etude.optimizers."
_ADAM = "Kingma & Ba 2015, arXiv:1412.6980"
_DADAPT = "Defazio & Mishchenko 2023, arXiv:2301.07733"
_WHOLE = {"linear": False}
"""Its step depends on a whole tensor, or on rates gone by: no part of it has its own rate."""
_ALONE = {"linear": False, "group_rates": False, "rate_free": True, "in_turns": False}
_REAL = {"complex_numbers": False}

# The centres of sgd, adam, adamw, rmsprop and adagrad were fitted on 47 small tasks. Those of the
# others are the mean over digits-mlp, digits-cnn, digits-gru and diabetes-mlp of the best of nine
# rates, 0.4 decades apart, with the same correction for size (where adam's comes out as fitted);
# averaged_momentum's follows from sgd's, and 0.0 stands where the rate is a multiplier.
_FIRST_ORDER = (
    _row(
        "sgd",
        "SGD",
        1e-3,
        -0.9,
        "Robbins & Monro 1951; momentum: Polyak 1964; nesterov: Sutskever et al. 2013",
        "convolutional networks with normalisation; batch_size='all' is batch descent, 1 is "
        "stochastic, momentum=0.9 the heavy ball, nesterov=true Nesterov's",
        {"vmap": True, "sparse": "without decay"},
        momentum=_share(0.0),
        dampening=Number(0.0, high=1, closed=True),
        weight_decay=Number(0.0),
        nesterov=Flag(),
    ),
    _row(
        "averaged_momentum",
        _OWN + "averaged_momentum:AveragedMomentum",
        1e-3,
        0.1,
        "Polyak 1964, averaged as Ng's lecture notes and Kingma & Ba 2015 do",
        "momentum whose best rate stays where it is when the momentum changes",
        momentum=_share(0.9),
        weight_decay=Number(0.0),
    ),
    _row(
        "adagrad",
        "Adagrad",
        1e-2,
        -0.6,
        "Duchi et al. 2011, JMLR 12",
        "sparse features and convex problems",
        {"vmap": True, "sparse": "without decay"},
        lr_decay=Number(0.0),
        weight_decay=Number(0.0),
        initial_accumulator_value=Number(0.0, once=True),
        eps=Number(1e-10),
    ),
    _row(
        "adadelta",
        "Adadelta",
        1.0,
        0.0,
        "Zeiler 2012, arXiv:1212.5701",
        "old recipes that name it; its rate multiplies a step it chooses itself",
        {"rate_free": True},
        rho=Number(0.9, high=1, closed=True),
        eps=Number(1e-6),
        weight_decay=Number(0.0),
    ),
    _row(
        "rmsprop",
        "RMSprop",
        1e-2,
        -1.7,
        "Tieleman & Hinton 2012, lecture 6.5",
        "recurrent networks and reinforcement learning",
        {"vmap": True},
        alpha=_share(0.99),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        momentum=_share(0.0),
        centered=Flag(),
    ),
)

_ADAMS = (
    _row(
        "adam",
        "Adam",
        1e-3,
        -1.6,
        _ADAM,
        "a first try on almost anything without weight decay",
        {"vmap": True},
        betas=_betas(),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        amsgrad=Flag(),
    ),
    _row(
        "adam_uncorrected",
        _OWN + "adam_uncorrected:UncorrectedAdam",
        1e-3,
        -2.2,
        _ADAM + ", algorithm 1 without its two corrections",
        "textbooks that print Adam so; its first steps are about three times too long",
        betas=_betas(),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
    ),
    _row(
        "adamw",
        "AdamW",
        1e-3,
        -1.6,
        "Loshchilov & Hutter 2019, arXiv:1711.05101",
        "transformers, and the default for anything new",
        {"vmap": True, "decay": "decoupled"},
        betas=_betas(),
        eps=Number(1e-8),
        weight_decay=Number(1e-2),
        amsgrad=Flag(),
    ),
    _row(
        "nadam",
        "NAdam",
        2e-3,
        -1.6,
        "Dozat 2016, ICLR workshop",
        "Adam with a look ahead; recurrent networks",
        {"vmap": True, "decay_flag": "decoupled_weight_decay"},
        betas=_betas(),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        momentum_decay=Number(4e-3),
        decoupled_weight_decay=Flag(),
    ),
    _row(
        "radam",
        "RAdam",
        1e-3,
        -1.0,
        "Liu et al. 2020, arXiv:1908.03265",
        "Adam where no warmup is wanted",
        {"decay_flag": "decoupled_weight_decay"},
        betas=_betas(),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        decoupled_weight_decay=Flag(),
    ),
    _row(
        "adamax",
        "Adamax",
        2e-3,
        -1.3,
        _ADAM + ", section 7",
        "gradients with rare large entries",
        betas=_betas(),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
    ),
    _row(
        "sparse_adam",
        _OWN + "sparse_adam:SparseDenseAdam",
        1e-3,
        -1.6,
        _ADAM + "; lazily, on the rows a sparse gradient holds",
        "large embedding tables with sparse=True; Adam for every other tensor",
        {"sparse": "yes", "decay": "none"},
        betas=_betas(),
        eps=Number(1e-8, above=True),
    ),
    _row(
        "lion",
        "pytorch_optimizer:Lion",
        1e-4,
        -2.4,
        "Chen et al. 2023, arXiv:2302.06675",
        "half of Adam's memory; a rate three to ten times smaller, decay as much larger",
        {"vmap": True, "decay": "decoupled"},
        betas=_betas(0.9, 0.99),
        weight_decay=Number(0.0),
    ),
)

_TENSORS = (
    _row(
        "adafactor",
        "Adafactor",
        1e-2,
        -0.6,
        "Shazeer & Stern 2018, arXiv:1804.04235",
        "models whose optimizer state must be small: a row and a column per matrix",
        {**_REAL, "linear": False, "decay": "decoupled"},
        beta2_decay=Number(-0.8, low=-float("inf"), high=0, closed=True),
        d=Number(1.0, low=1, closed=True),
        weight_decay=Number(0.0),
    ),
    _row(
        "lamb",
        _OWN + "lamb:Lamb",
        1e-3,
        -1.3,
        "You et al. 2020, arXiv:1904.00962",
        "transformers with batches of thousands",
        {"linear": False, "decay": "decoupled"},
        betas=_betas(),
        eps=Number(1e-6),
        weight_decay=Number(1e-2),
    ),
    _row(
        "lars",
        "pytorch_optimizer:LARS",
        1e-3,
        0.8,
        "You et al. 2017, arXiv:1708.03888",
        "convolutional networks with batches of thousands",
        _WHOLE,
        momentum=_share(0.9),
        dampening=_share(0.0),
        weight_decay=Number(0.0),
        trust_coefficient=Number(1e-3),
        nesterov=Flag(),
    ),
    _row(
        "muon",
        _OWN + "muon:MuonAdamW",
        1e-3,
        -1.7,
        "Jordan et al. 2024, kellerjordan.github.io/posts/muon; rate: arXiv:2502.16982",
        "hidden matrices and kernels; AdamW for head, embeddings, biases and normalisations",
        {**_REAL, "linear": False, "decay": "decoupled"},
        matrix=Selectors(),
        momentum=_share(0.95),
        nesterov=Flag(default=True),
        ns_steps=Whole(5),
        weight_decay=Number(0.1),
        betas=_betas(),
        eps=Number(1e-8),
    ),
    _row(
        "shampoo",
        "pytorch_optimizer:Shampoo",
        1e-3,
        -0.2,
        "Gupta et al. 2018, arXiv:1802.09568",
        "ill-conditioned problems with small layers: it keeps a matrix per side of a tensor",
        {**_WHOLE, **_REAL},
        # No momentum: the library's averages the gradient with an update it has preconditioned.
        weight_decay=Number(0.0),
        preconditioning_compute_steps=Whole(1),
        matrix_eps=Number(1e-6, above=True),
    ),
    _row(
        "soap",
        "pytorch_optimizer:SOAP",
        3e-3,
        -1.7,
        "Vyas et al. 2024, arXiv:2409.11321",
        "fewest updates on transformers, each of them dearer: Adam in Shampoo's eigenbasis",
        {**_REAL, "in_turns": False, "linear": False, "decay": "decoupled"},
        betas=_betas(0.95, 0.95),
        eps=Number(1e-8),
        weight_decay=Number(1e-2),
        precondition_frequency=Whole(10),
    ),
)

_SELF_SIZED = (
    _row(
        "prodigy",
        "prodigyopt:Prodigy",
        1.0,
        0.0,
        "Mishchenko & Defazio 2024, arXiv:2306.06101",
        "no time to look for a rate: it finds Adam's while it trains; keep lr at 1",
        {**_ALONE, **_REAL, "decay_flag": "decouple"},
        betas=_betas(),
        eps=Number(1e-8, above=True),
        weight_decay=Number(0.0),
        decouple=Flag(default=True),
        use_bias_correction=Flag(),
        safeguard_warmup=Flag(),
        d0=Number(1e-6, above=True, once=True),
        d_coef=Number(1.0, above=True),
    ),
    _row(
        "dadapt_adam",
        "dadaptation:DAdaptAdam",
        1.0,
        0.0,
        _DADAPT,
        "as prodigy, more careful and slower to find its rate",
        {**_ALONE, **_REAL, "decay_flag": "decouple"},
        betas=_betas(),
        eps=Number(1e-8, above=True),
        weight_decay=Number(0.0),
        decouple=Flag(),
        use_bias_correction=Flag(),
        d0=Number(1e-6, above=True, once=True),
    ),
    _row(
        "schedulefree_adamw",
        "schedulefree:AdamWScheduleFree",
        2.5e-3,
        -1.7,
        "Defazio et al. 2024, arXiv:2405.15682",
        "training whose length is not known: good at every moment, no schedule",
        {
            **_REAL,
            "in_turns": False,
            "linear": False,
            "decay": "decoupled",
            "eval_mode": True,
            "schedule_free": True,
        },
        betas=_betas(above=True),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        r=Number(0.0),
        weight_lr_power=Number(2.0),
    ),
    _row(
        "schedulefree_sgd",
        "schedulefree:SGDScheduleFree",
        1.0,
        0.1,
        "Defazio et al. 2024, arXiv:2405.15682",
        "as sgd with momentum, where the length is not known",
        {"in_turns": False, "linear": False, "eval_mode": True, "schedule_free": True},
        momentum=Number(0.9, high=1, above=True),
        weight_decay=Number(0.0),
        r=Number(0.0),
        weight_lr_power=Number(2.0),
    ),
)

_SECOND_ORDER = (
    _row(
        "lbfgs",
        _OWN + "lbfgs:LBFGS",
        1.0,
        0.0,
        "Liu & Nocedal 1989; strong Wolfe line search: Nocedal & Wright 2006, algorithm 3.5",
        "small smooth problems in full batches (batch_size='all')",
        {**_ALONE, "decay": "none", "closure": "gradient"},
        max_iter=Whole(20),
        tolerance_grad=Number(1e-7),
        tolerance_change=Number(1e-9),
        history_size=Whole(100),
    ),
    _row(
        "newton",
        _OWN + "newton:DampedNewton",
        1.0,
        0.0,
        "Levenberg 1944; Marquardt 1963; Nocedal & Wright 2006, section 3.4",
        "at most 2,000 parameters and full batches: the exact Hessian, damped until it helps",
        {**_ALONE, **_REAL, "decay": "none", "closure": "graph"},
        damping=Number(1e-3, above=True),
    ),
    _row(
        "newton_cg",
        _OWN + "newton_cg:NewtonCG",
        1.0,
        0.0,
        "Dembo & Steihaug 1983; Martens 2010 (Hessian-free); Nocedal & Wright 2006, algorithm 7.1",
        "ill-conditioned problems of any size in large batches: Hessian-vector products only",
        {**_ALONE, **_REAL, "decay": "none", "closure": "graph"},
        damping=Number(1e-3),
        iterations=Whole(30),
    ),
)

ROWS: Mapping[str, OptimizerRow] = MappingProxyType(
    {row.name: row for row in (*_FIRST_ORDER, *_ADAMS, *_TENSORS, *_SELF_SIZED, *_SECOND_ORDER)}
)


def get(name: str) -> OptimizerRow:
    """Return the row of an optimizer.

    Raises:
        UnknownNameError: If there is none of that name; the message offers near ones.

    >>> get("adamw").hyperparameters["weight_decay"].default
    0.01
    """
    if name not in ROWS:
        raise unknown_name("optimizer", name, ROWS)
    return ROWS[name]
