"""The names of what can be wrong, and of what is seen of it, as the zoo and every diagnoser say."""

from __future__ import annotations

CAUSES = (
    "lr_too_high",
    "lr_too_low",
    "warmup_missing",
    "bad_initialisation",
    "saturating_activation",
    "missing_normalisation",
    "missing_residual",
    "missing_clipping",
    "unscaled_inputs",
    "unscaled_targets",
    "wrong_loss_or_output",
    "wrong_last_layer",
    "gradients_not_cleared",
    "parameters_not_trained",
    "eval_mode_in_training",
    "labels_do_not_match",
    "bad_data",
    "data_not_shuffled",
    "batch_too_small",
    "batch_too_large",
    "too_much_regularisation",
    "too_little_regularisation",
    "optimizer_mismatch",
)
"""What can be wrong."""

KINDS = (
    "mlp",
    "deep mlp",
    "cnn",
    "resnet",
    "rnn",
    "lstm",
    "gru",
    "transformer",
    "autoencoder",
    "gan",
    "regression",
)
"""The kinds of network that the zoo covers."""
