"""What of a Trainer cannot be read into a task, each with the way out."""

from __future__ import annotations

from typing import Any

from etude.errors import BadTypeError, BadValueError, kind_of
from etude.interop._peer import load
from etude.interop.trainers import rate_changes


def check_is_trainer(trainer: Any) -> None:
    """Check that something is a Trainer.

    Raises:
        BadTypeError: If it is not.
    """
    if not isinstance(trainer, load("transformers").Trainer):
        raise BadTypeError(
            f"expected a transformers.Trainer, got {kind_of(trainer)}: give the Trainer "
            "that you call train() of"
        )


def check_trainer(trainer: Any) -> None:
    """Raise for a Trainer whose training a task cannot repeat.

    Raises:
        BadTypeError: If it is not a Trainer.
        BadValueError: If it trains in a way that one process cannot, or a callback changes the
            rate.
    """
    check_is_trainer(trainer)
    peer = load("transformers")
    args = trainer.args
    _check_one_process(trainer, args)
    _check_precision(args)
    base = peer.TrainerCallback
    own = [
        callback
        for callback in trainer.callback_handler.callbacks
        if not type(callback).__module__.startswith("transformers.")
    ]
    rate_changes.refuse(own, base, "the Trainer")
    if args.batch_eval_metrics and trainer.compute_metrics is not None:
        raise BadValueError(
            "batch_eval_metrics=True calls compute_metrics batch by batch, with a state of its "
            "own: set batch_eval_metrics=False for the tuning"
        )


def _check_one_process(trainer: Any, args: Any) -> None:
    way_out = (
        "make a Trainer without it for the tuning, in one process, with a smaller model, a LoRA "
        "adapter or gradient checkpointing if memory is short, and paste the rate back"
    )
    if getattr(trainer, "is_deepspeed_enabled", False) or args.deepspeed:
        raise BadValueError(f"this Trainer uses DeepSpeed, which tuning cannot pause: {way_out}")
    fsdp = getattr(trainer, "is_fsdp_enabled", False) or getattr(
        trainer, "is_fsdp_xla_enabled", False
    )
    if fsdp or args.fsdp:
        raise BadValueError(f"this Trainer uses FSDP, which tuning cannot pause: {way_out}")
    processes = max(args.world_size, getattr(trainer.accelerator, "num_processes", 1))
    if processes > 1 or args.n_gpu > 1:
        count = max(processes, args.n_gpu)
        raise BadValueError(
            f"this Trainer trains on {count} devices: tune in one process on one device "
            "(CUDA_VISIBLE_DEVICES=0), with gradient_accumulation_steps times "
            f"{count}, so that an update has the same samples"
        )
    if trainer.is_model_parallel:
        raise BadValueError(
            "the model of this Trainer lies on several devices (hf_device_map): tuning copies a "
            "model on one device; load it on one, or tune a smaller one"
        )


def _check_precision(args: Any) -> None:
    if args.fp16:
        raise BadValueError(
            "fp16=True needs a loss scaler, which a recipe does not have: make a Trainer with "
            "bf16=True or in float32 for the tuning. The rate carries over: a loss scaler changes "
            "no update that it does not skip"
        )
