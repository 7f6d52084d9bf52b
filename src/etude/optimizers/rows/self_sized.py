"""Optimizers that find their rate, or do without a schedule."""

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
        "no time to look for a rate: it finds Adam's while it trains; keep lr at 1",
        {**REAL, **ALONE, "why_no_rates": ESTIMATES, "decay_flag": "decouple"},
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
        "as prodigy, more careful and slower to find its rate",
        {**REAL, **ALONE, "why_no_rates": ESTIMATES, "decay_flag": "decouple"},
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
        "training whose length is not known: good at every moment, no schedule",
        {
            **REAL,
            "in_turns": False,
            "decay": "decoupled",
            "eval_mode": True,
            "schedule_free": True,
            "why_no_slices": AVERAGED,
        },
        {"usual": (0.4, "needs no schedule"), "noise": (0.2, "it averages the weights over it")},
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
        "as sgd with momentum, where the length is not known",
        {"in_turns": False, "eval_mode": True, "schedule_free": True, "why_no_slices": AVERAGED},
        {},
        momentum=Number(0.9, high=1, above=True),
        weight_decay=Number(0.0),
        r=Number(0.0),
        weight_lr_power=Number(2.0),
    ),
)
