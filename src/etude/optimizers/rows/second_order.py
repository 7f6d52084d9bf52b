"""Optimizers that use the curvature and evaluate the loss themselves."""

from __future__ import annotations

from etude.optimizers.hyperparameters import Number, Whole
from etude.optimizers.rows.parts import (
    ALONE,
    EXACT,
    IN_FULL,
    OWN,
    REAL,
    SECOND_ORDER,
    TOGETHER,
    row,
)

ONE_VECTOR = "it takes all parameters as one vector"

ROWS = (
    row(
        "lbfgs",
        OWN + "lbfgs:LBFGS",
        1.0,
        0.0,
        "Liu & Nocedal 1989; strong Wolfe line search: Nocedal & Wright 2006, algorithm 3.5",
        "small smooth problems in full batches (batch_size='all')",
        {
            **ALONE,
            "decay": "none",
            "closure": "gradient",
            "why_no_rates": "its line search and its curvature use all parameters at one rate",
            "why_no_shards": ONE_VECTOR,
        },
        {**SECOND_ORDER, "one layer": (2.3, EXACT), "bursts": IN_FULL},
        max_iter=Whole(20),
        tolerance_grad=Number(1e-7),
        tolerance_change=Number(1e-9),
        history_size=Whole(100),
    ),
    row(
        "newton",
        OWN + "newton:DampedNewton",
        1.0,
        0.0,
        "Levenberg 1944; Marquardt 1963; Nocedal & Wright 2006, section 3.4",
        "at most 2,000 parameters and full batches: the exact Hessian, with adaptive damping",
        {
            **REAL,
            **ALONE,
            "decay": "none",
            "closure": "graph",
            "why_no_rates": TOGETHER,
            "why_no_shards": ONE_VECTOR,
            "most_parameters": 2_000,
        },
        {**SECOND_ORDER, "one layer": (2.3, EXACT)},
        damping=Number(1e-3, above=True),
    ),
    row(
        "newton_cg",
        OWN + "newton_cg:NewtonCG",
        1.0,
        0.0,
        "Dembo & Steihaug 1983; Martens 2010 (Hessian-free); Nocedal & Wright 2006, algorithm 7.1",
        "ill-conditioned problems of any size in large batches: Hessian-vector products only",
        {
            **REAL,
            **ALONE,
            "decay": "none",
            "closure": "graph",
            "why_no_rates": TOGETHER,
            "why_no_shards": ONE_VECTOR,
        },
        {**SECOND_ORDER, "one layer": (2.0, EXACT)},
        damping=Number(1e-3),
        iterations=Whole(30),
    ),
)
