"""Optimizers that estimate their rate, or need no schedule."""

from __future__ import annotations

from etude.optimizers.hyperparameters import Flag, Number
from etude.optimizers.rows.parts import ALONE, AVERAGED, ESTIMATES, REAL, betas, row

DADAPT = "Defazio & Mishchenko 2023, arXiv:2301.07733"

ROWS = (
    row(
        "prodigy",
        "prodigyopt:Prodigy",
        1.0,
        0.0,
        "Mishchenko & Defazio 2024, arXiv:2306.06101",
        "no time to tune a rate: it estimates Adam's rate during training; keep lr at 1",
        {
            **REAL,
            **ALONE,
            "why_no_rates": ESTIMATES,
            "why_no_shards": "it estimates its step from all weights together",
            "decay_flag": "decouple",
        },
        {"usual": (0.4, "needs no rate")},
        betas=betas(),
        eps=Number(1e-8, above=True),
        weight_decay=Number(0.0),
        decouple=Flag(default=True),
        use_bias_correction=Flag(),
        safeguard_warmup=Flag(),
        d0=Number(1e-6, above=True, once=True),
        d_coef=Number(1.0, above=True),
    ),
    row(
        "dadapt_adam",
        "dadaptation:DAdaptAdam",
        1.0,
        0.0,
        DADAPT,
        "like prodigy, but more careful, and slower to estimate the rate",
        {
            **REAL,
            **ALONE,
            "why_no_rates": ESTIMATES,
            "why_no_shards": "it estimates its step from all weights together",
            "decay_flag": "decouple",
        },
        {},
        betas=betas(),
        eps=Number(1e-8, above=True),
        weight_decay=Number(0.0),
        decouple=Flag(),
        use_bias_correction=Flag(),
        d0=Number(1e-6, above=True, once=True),
    ),
    row(
        "schedulefree_adamw",
        "schedulefree:AdamWScheduleFree",
        2.5e-3,
        -1.7,
        "Defazio et al. 2024, arXiv:2405.15682",
        "training of unknown length: no schedule, and good weights at any time",
        {
            **REAL,
            "in_turns": False,
            "decay": "decoupled",
            "eval_mode": True,
            "schedule_free": True,
            "why_no_slices": AVERAGED,
        },
        {"usual": (0.4, "needs no schedule"), "noise": (0.2, "it averages the weights")},
        betas=betas(above=True),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
        r=Number(0.0),
        weight_lr_power=Number(2.0),
    ),
    row(
        "schedulefree_sgd",
        "schedulefree:SGDScheduleFree",
        1.0,
        0.1,
        "Defazio et al. 2024, arXiv:2405.15682",
        "sgd with momentum for training of unknown length",
        {"in_turns": False, "eval_mode": True, "schedule_free": True, "why_no_slices": AVERAGED},
        {},
        momentum=Number(0.9, high=1, above=True),
        weight_decay=Number(0.0),
        r=Number(0.0),
        weight_lr_power=Number(2.0),
    ),
)
