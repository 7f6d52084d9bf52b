"""Tiny models of transformers, built from a configuration, and Trainers of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import etude
from tests.interop.trainers.parity import Parity

transformers = pytest.importorskip("transformers")

VOCABULARY, CLASSES = 23, 3


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def causal(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def adapted(seed: int = 0, **options: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, **options
    )
    return peft.get_peft_model(causal(seed), config)


def sentences(count: int = 48, seed: int = 1) -> list[dict[str, Any]]:
    """Sequences of one length whose class is that of their first token."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (count, 8), generator=g)
    return [{"input_ids": row.tolist(), "labels": int(row[0]) % CLASSES} for row in ids]


def texts(count: int = 40, seed: int = 1) -> list[dict[str, Any]]:
    """Sequences of unequal lengths, each token the one before it plus one."""
    g = torch.Generator().manual_seed(seed)
    starts = torch.randint(1, VOCABULARY, (count,), generator=g)
    lengths = torch.randint(3, 12, (count,), generator=g)
    return [
        {"input_ids": [int(1 + (a + i) % (VOCABULARY - 1)) for i in range(int(n))]}
        for a, n in zip(starts, lengths, strict=True)
    ]


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad a batch of texts; padding has no label."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[place, :length] = labels[place, :length] = torch.tensor(row["input_ids"])
        mask[place, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def arguments(folder: Any, **options: Any) -> Any:
    return transformers.TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 8,
            "max_steps": 50,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **options,
        }
    )


def trainer_of(folder: Any, model: nn.Module, **options: Any) -> Any:
    """A Trainer of a classifier or, if the model has a language model's head, of texts."""
    kind = options.pop("trainer", transformers.Trainer)
    own = {
        name: options.pop(name)
        for name in (
            "compute_metrics", "compute_loss_func", "optimizers", "callbacks", "eval_dataset",
            "train_dataset", "data_collator", "preprocess_logits_for_metrics",
        )
        if name in options
    }  # fmt: skip
    of_texts = not hasattr(model, "classifier")
    given = {
        "train_dataset": texts() if of_texts else sentences(),
        "eval_dataset": texts(16, 2) if of_texts else sentences(16, 2),
        "data_collator": padded if of_texts else None,
        **own,
    }
    return kind(model=model, args=arguments(folder, **options), **given)


def losses(trainer: Any) -> list[float]:
    """Train a Trainer; return its losses, update by update."""
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def beside_the_trainer(trainer: Any) -> Parity:
    """Train the task that was read, then the Trainer, which must be as it was before."""
    from etude.interop.transformers import task

    before = copy.deepcopy(trainer.model.state_dict())
    found, recipe = task(trainer)
    record = etude.train(found, recipe.replace(evaluations=1))
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    theirs = losses(trainer)
    assert len(theirs) == recipe.steps
    assert theirs[-1] < theirs[0]
    return Parity.of(record, theirs)
