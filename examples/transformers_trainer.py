"""The rate of a Hugging Face Trainer: the last two lines, before them a tiny Trainer."""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
ids = torch.randint(0, 30, (96, 8))
rows = [{"input_ids": row, "labels": row[0] % 3} for row in ids]
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,  # type: ignore[call-arg]
    )
)
trainer = Trainer(
    model,
    TrainingArguments(tempfile.mkdtemp(), max_steps=60, report_to="none"),
    train_dataset=rows[:64],
    eval_dataset=rows[64:],
)

from etude.interop.transformers import tune  # noqa: E402

print(tune(trainer, budget=3.0).code())
