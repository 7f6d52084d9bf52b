"""Changes of a model that can mend its training, made on a copy."""

from etude.diagnosis.rewrites.activations import swap_activations
from etude.diagnosis.rewrites.fresh_weights import fresh_weights
from etude.diagnosis.rewrites.frozen import train_frozen
from etude.diagnosis.rewrites.normalisation import insert_normalisation
from etude.diagnosis.rewrites.output import drop_output_function
from etude.diagnosis.rewrites.residual import add_residuals
from etude.diagnosis.rewrites.rewrite import Change, Rewrite
from etude.diagnosis.rewrites.scaling import scale_outputs, standardise_inputs

__all__ = [
    "Change",
    "Rewrite",
    "add_residuals",
    "drop_output_function",
    "fresh_weights",
    "insert_normalisation",
    "scale_outputs",
    "standardise_inputs",
    "swap_activations",
    "train_frozen",
]
