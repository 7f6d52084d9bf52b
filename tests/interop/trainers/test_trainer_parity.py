"""A task that was read from a Trainer has the losses of `Trainer.train()`."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from etude.interop.transformers import task
from tests.interop.trainers.hugging_face import (
    adapted,
    beside_the_trainer,
    causal,
    classifier,
    trainer_of,
    transformers,
)


def test_a_classifier(tmp_path):
    assert beside_the_trainer(trainer_of(tmp_path, classifier(), weight_decay=0.1)).worst <= 1e-6


def test_a_causal_model_with_padding_and_accumulation(tmp_path):
    # 40 texts are 5 batches: the last update of each epoch takes one, the others two.
    trainer = trainer_of(tmp_path, causal(), gradient_accumulation_steps=2)
    assert beside_the_trainer(trainer).worst <= 1e-6


def test_a_lora_adapter(tmp_path):
    found = beside_the_trainer(trainer_of(tmp_path, adapted(), learning_rate=3e-2))
    assert found.worst <= 1e-6
    record = found.record
    trained = [n for n, p in record.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)


OPTIONS = {
    "cosine with warmup": {"lr_scheduler_type": "cosine", "warmup_steps": 5},
    "a floor": {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1e-4},
        "warmup_steps": 0.1,
    },
    "polynomial": {"lr_scheduler_type": "polynomial"},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "another seed": {"seed": 7},
    "a seed of the order": {"seed": 7, "data_seed": 3},
    "epochs and a part of a batch": {
        "max_steps": -1,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 7,
        "gradient_accumulation_steps": 3,
    },
    "drop_last": {"per_device_train_batch_size": 7, "dataloader_drop_last": True},
    "no clipping": {"max_grad_norm": 0.0},
    "sgd": {"optim": "sgd", "learning_rate": 0.3},
    "in sequence": {"train_sampling_strategy": "sequential"},
    "gradient checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_the_arguments_say(options, tmp_path):
    trainer = trainer_of(tmp_path, classifier(), **{"max_steps": 20, **options})
    assert beside_the_trainer(trainer).worst <= 1e-6


class MeanPerBatch(transformers.Trainer):
    """Computes its own mean over a batch, which the Trainer averages over the batches."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs["logits"], labels, label_smoothing=0.2)
        self.log({"own": loss.item()})
        return (loss, outputs) if return_outputs else loss


class LayerRates(transformers.Trainer):
    """Gives the head ten times the rate of the body."""

    def create_optimizer(self, model=None):
        head = list(self.model.classifier.parameters())
        known = {id(p) for p in head}
        body = [p for p in self.model.parameters() if id(p) not in known]
        rate = self.args.learning_rate
        self.optimizer = torch.optim.Adam(
            [{"params": body, "lr": rate / 10}, {"params": head, "lr": rate}], betas=(0.8, 0.99)
        )
        return self.optimizer


@pytest.mark.parametrize("kind", [MeanPerBatch, LayerRates])
def test_a_subclass(kind, tmp_path):
    assert (
        beside_the_trainer(
            trainer_of(
                tmp_path, classifier(), trainer=kind, max_steps=20, gradient_accumulation_steps=2
            )
        ).worst
        <= 1e-6
    )


def summed(outputs, labels, num_items_in_batch=None):
    total = cross_entropy(outputs.logits, labels, reduction="sum")
    return total / num_items_in_batch


def test_a_loss_function_of_sums_over_the_count(tmp_path):
    assert (
        beside_the_trainer(
            trainer_of(
                tmp_path,
                classifier(),
                compute_loss_func=summed,
                max_steps=20,
                gradient_accumulation_steps=4,
            )
        ).worst
        <= 1e-6
    )


def test_an_optimizer_and_a_scheduler_of_ones_own(tmp_path):
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)
    trainer = trainer_of(tmp_path, model, optimizers=(optimizer, scheduler), max_steps=20)
    assert beside_the_trainer(trainer).worst <= 1e-6


def test_one_cycle_moves_the_momentum_too(tmp_path):
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=20)
    trainer = trainer_of(tmp_path, model, optimizers=(optimizer, scheduler), max_steps=20)
    found = task(trainer).recipe
    assert found.lr == pytest.approx(5e-3)
    assert "momentum" in found.schedules
    assert beside_the_trainer(trainer).worst <= 1e-6


def test_bfloat16(tmp_path):
    # Autocast ends with the model in one, with the loss in the other.
    assert (
        beside_the_trainer(trainer_of(tmp_path, classifier(), bf16=True, max_steps=20)).worst
        <= 2e-2
    )


def test_an_evaluation_is_the_trainers(tmp_path):
    trainer = trainer_of(tmp_path, causal(), per_device_eval_batch_size=16)
    found, recipe = task(trainer)
    from etude.training.evaluation.evaluate import evaluate

    ours = evaluate(found, found.build())
    theirs = trainer.evaluate()["eval_loss"]
    assert ours.loss == pytest.approx(theirs, abs=1e-6)
    assert recipe.lr == trainer.args.learning_rate


def accuracy(prediction):
    hits = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"accuracy": hits.mean(), "count": float(len(hits))}


def test_a_metric_is_that_of_the_whole_evaluation_data(tmp_path):
    trainer = trainer_of(
        tmp_path, classifier(), compute_metrics=accuracy, per_device_eval_batch_size=5
    )
    from etude.training.evaluation.evaluate import evaluate

    found = task(trainer).task
    assert (found.metric_name, found.metric.maximize) == ("accuracy", True)
    assert task(trainer, metric="count").task.metric_name == "count"
    theirs = trainer.evaluate()
    assert evaluate(found, found.build()).metric == pytest.approx(theirs["eval_accuracy"])


def tokens(prediction):
    asked = prediction.label_ids[:, 1:] != -100
    hits = prediction.predictions[:, :-1] == prediction.label_ids[:, 1:]
    return {"token_accuracy": float(hits[asked].mean())}


def test_logits_of_unequal_lengths_are_padded_for_a_metric(tmp_path):
    trainer = trainer_of(
        tmp_path,
        causal(),
        compute_metrics=tokens,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        per_device_eval_batch_size=3,
    )
    from etude.training.evaluation.evaluate import evaluate

    found = task(trainer).task
    theirs = trainer.evaluate()
    assert evaluate(found, found.build()).metric == pytest.approx(
        theirs["eval_token_accuracy"], abs=1e-6
    )


def test_an_evaluation_loss_is_over_all_tokens_in_whatever_batches(tmp_path):
    """The Trainer's depends on its batches: it weighs each by its samples."""
    from etude.training.evaluation.evaluate import evaluate

    found = {}
    for size in (1, 3, 5, 16):
        trainer = trainer_of(tmp_path, causal(), per_device_eval_batch_size=size)
        trainer.model.eval()
        ours = evaluate(made := task(trainer).task, made.build())
        loader = trainer.get_eval_dataloader()
        losses, tokens, samples = [], [], []
        for batch in loader:
            loss, *_ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
            losses.append(float(loss))
            tokens.append(int((batch["labels"] != -100).sum()))
            samples.append(len(batch["labels"]))
        assert len(set(tokens)) > 1 or size == 16
        by_token = np.average(losses, weights=tokens)
        by_sample = np.average(losses, weights=samples)
        assert ours.loss == pytest.approx(by_token, rel=1e-6)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(by_sample, rel=1e-6)
        found[size] = ours.loss
    assert list(found.values()) == pytest.approx([found[16]] * 4, rel=1e-6)
