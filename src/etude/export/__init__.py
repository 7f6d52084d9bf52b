"""A recipe as code or configuration for other programs."""

from etude.export.keras import keras_code
from etude.export.lambda_lr import lambda_lr_code
from etude.export.nanogpt import nanogpt_config
from etude.export.optax import optax_code
from etude.export.pytorch import pytorch_code
from etude.export.table import TARGETS, Target, export_code
from etude.export.torchtitan import torchtitan_code, torchtitan_toml
from etude.export.trainer_arguments import axolotl_yaml, training_arguments

__all__ = [
    "TARGETS",
    "Target",
    "axolotl_yaml",
    "export_code",
    "keras_code",
    "lambda_lr_code",
    "nanogpt_config",
    "optax_code",
    "pytorch_code",
    "torchtitan_code",
    "torchtitan_toml",
    "training_arguments",
]
