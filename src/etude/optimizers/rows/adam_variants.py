"""Variants of Adam since 2023: the same size of step, another gradient, mask or denominator."""

from __future__ import annotations

from etude.optimizers.hyperparameters import Flag, Number
from etude.optimizers.rows.parts import IGNORED, OWN, REAL, SMALL_STATE, betas, row

# Centres: AdamW's, which was fitted on 47 tasks, plus the mean difference of the best rates on four
# tasks, with one seed (benchmarks/results/optimizers.md).

BLOCKS = "entries of a row or an attention head share its second moment"

ROWS = (
    row(
        "adam_mini",
        OWN + "adam_mini:AdamMini",
        1e-3,
        -1.5,
        "Zhang et al. 2024, arXiv:2406.16793",
        "about half of Adam's state at Adam's rate: one second moment for each neuron or head",
        {
            "family": "adam",
            "decay": "decoupled",
            "by_blocks": True,
            "why_no_slices": BLOCKS,
            "why_no_shards": BLOCKS,
            "why_no_threshold": BLOCKS,
        },
        {"large model": SMALL_STATE},
        betas=betas(),
        eps=Number(1e-8),
        weight_decay=Number(0.0),
    ),
    row(
        "adopt",
        "pytorch_optimizer:ADOPT",
        1e-3,
        -1.9,
        "Taniguchi et al. 2024, arXiv:2411.02853, with the clipping of its second version",
        "Adam that converges for any β2: each gradient is divided by the moment before it",
        {
            **REAL,
            "in_turns": False,
            "family": "adam",
            "decay_flag": "weight_decouple",
            "why_no_threshold": "its gradient is clipped at a bound that grows with the step",
            "why_no_shards": "torch has no form of one of its operations for tensors in parts",
        },
        {"bursts": IGNORED},
        betas=betas(0.9, 0.9999),
        eps=Number(1e-6),
        weight_decay=Number(0.0),
        weight_decouple=Flag(),
    ),
    row(
        "cautious_adamw",
        OWN + "cautious:CautiousAdamW",
        1e-3,
        -1.8,
        "Liang et al. 2024, arXiv:2411.16085",
        "AdamW without the entries whose momentum goes against the gradient",
        {
            "family": "adam",
            "decay": "decoupled",
            "why_no_slices": "its mask is scaled over a whole tensor",
            "why_no_threshold": "its mask changes from update to update",
        },
        {},
        betas=betas(),
        eps=Number(1e-8),
        weight_decay=Number(1e-2),
    ),
    row(
        "grams",
        "pytorch_optimizer:Grams",
        1e-3,
        -1.1,
        "Cao et al. 2024, arXiv:2412.17107",
        "the gradient's sign with the size of Adam's step",
        {
            **REAL,
            "in_turns": False,
            "family": "adam",
            "decay": "decoupled",
            "why_no_threshold": "its step has the sign of the gradient, whatever the momentum",
        },
        {"bursts": IGNORED},
        betas=betas(),
        eps=Number(1e-6),
        weight_decay=Number(0.0),
    ),
    row(
        "mars",
        OWN + "mars:Mars",
        3e-3,
        -1.3,
        "Yuan et al. 2024, arXiv:2411.10438",
        "AdamW of a gradient corrected by its last change, which lowers its variance",
        {
            **REAL,
            "in_turns": False,
            "needs": "pytorch_optimizer",
            "family": "adam",
            "decay": "decoupled",
            "why_no_slices": "it clips the corrected gradient of a whole tensor by its norm",
            "why_no_shards": "it clips the corrected gradient of a whole tensor by its norm",
            "why_no_threshold": "it clips the corrected gradient of a whole tensor by its norm",
        },
        {},
        betas=betas(0.95, 0.99),
        gamma=Number(0.025),
        weight_decay=Number(0.0),
        eps=Number(1e-8),
    ),
    row(
        "stable_adamw",
        "pytorch_optimizer:StableAdamW",
        1e-3,
        -1.4,
        "Wortsman et al. 2023, arXiv:2304.13013",
        "training with spikes of the loss: AdamW whose rate falls where a gradient exceeds its "
        "moment",
        {
            **REAL,
            "in_turns": False,
            "family": "adam",
            "decay": "decoupled",
            "why_no_slices": "it divides the rate of a whole tensor by the size of its update",
            "why_no_threshold": "it divides the rate of a whole tensor by the size of its update",
        },
        {"bursts": IGNORED},
        betas=betas(0.9, 0.99),
        eps=Number(1e-8),
        weight_decay=Number(1e-2),
    ),
)
