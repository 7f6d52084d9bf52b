"""The rate of a Trainer in two lines, and what is to be pasted."""

import re

import pytest
import torch

import etude
import etude.interop.transformers
from etude.errors import BadTypeError, BadValueError
from etude.interop.transformers import task, tune
from etude.interop.transformers.tuning import scheduler_options
from etude.optimizers.adapters import adapters
from etude.optimizers.prior import centre_of
from etude.training.evaluation.evaluate import move
from tests.interop.trainers.hugging_face import (
    adapted,
    arguments,
    classifier,
    losses,
    trainer_of,
    transformers,
)


def test_the_arguments_to_paste_train_as_the_tuned_run_did(tmp_path):
    options = {"lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 4, "max_steps": 24}
    floor = {"lr_scheduler_kwargs": {"min_lr": 1e-3}}
    trainer = trainer_of(tmp_path, classifier(), **options, **floor)
    found = tune(trainer, 1.5, progress=False, engine="loop")
    assert trainer.args.learning_rate == 3e-3
    pasted = eval(found.code(), {"TrainingArguments": lambda **given: given})
    assert pasted == found.arguments
    assert pasted["learning_rate"] == found.lr
    share = pasted["lr_scheduler_kwargs"]["min_lr"] / found.lr
    assert share == pytest.approx(1e-3 / 3e-3)
    again = trainer_of(tmp_path, classifier(), **{**options, **floor, **pasted})
    ours = found.result.record.series["loss"]
    assert losses(again) == pytest.approx(list(ours), abs=1e-6)


def test_a_trainer_is_trained_at_the_rate_if_asked(tmp_path):
    trainer = trainer_of(tmp_path, classifier(), max_steps=20)
    trainer.remove_callback(transformers.PrinterCallback)
    found = tune(trainer, 1.5, train=True, progress=False, engine="loop")
    assert trainer.args.learning_rate == found.lr
    assert found.trained.global_step == 20
    with pytest.raises(BadValueError, match="already has an optimizer or a scheduler"):
        tune(trainer, 1.5, train=True)


def test_a_schedule_of_etude_is_pasted_as_such(tmp_path):
    trainer = trainer_of(tmp_path, classifier(), max_steps=20)
    found = tune(trainer, 1.5, schedule="warmup(2) >> cosine()", progress=False, engine="loop")
    assert set(found.arguments) == {"learning_rate"}
    assert "scheduled(" in found.code()
    assert "warmup(2) >> cosine()" in found.code()
    with pytest.raises(BadValueError, match="would train with its own scheduler"):
        tune(trainer, train=True, schedule="cosine()")


def hits(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_metric_for_best_model_is_what_is_compared(tmp_path):
    trainer = trainer_of(
        tmp_path,
        classifier(),
        compute_metrics=hits,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        max_steps=20,
    )
    found = tune(trainer, 1.5, progress=False, engine="loop")
    assert found.result.objective == "accuracy"


def test_a_polynomial_keeps_the_share_of_its_end(tmp_path):
    args = arguments(tmp_path, lr_scheduler_type="polynomial", learning_rate=1e-3)
    assert scheduler_options(args, 1e-2) == {"lr_end": pytest.approx(1e-6)}
    linear = arguments(tmp_path)
    assert scheduler_options(linear, 1e-2) == {}


class HeadRate(transformers.Trainer):
    """Trains the head at 16 times the Trainer's rate, as LoRA+ does with its second matrices."""

    def create_optimizer(self, model=None):
        head = list(self.model.classifier.parameters())
        known = {id(p) for p in head}
        body = [p for p in self.model.parameters() if id(p) not in known]
        rate = self.args.learning_rate
        groups = [{"params": body, "lr": rate}, {"params": head, "lr": 16 * rate}]
        self.optimizer = torch.optim.AdamW(groups)
        return self.optimizer


class OwnRate(transformers.Trainer):
    """Trains at a rate of its own."""

    def create_optimizer(self, model=None):
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        return self.optimizer


def head_rate(folder, **options):
    return trainer_of(folder, classifier(), trainer=HeadRate, max_steps=20, **options)


def test_the_rate_to_paste_is_the_trainers_where_a_group_has_a_multiple_of_it(tmp_path):
    found = tune(head_rate(tmp_path), 1.3, progress=False, engine="loop")
    assert found.arguments["learning_rate"] == pytest.approx(found.lr / 16)
    theirs = losses(head_rate(tmp_path, **found.arguments))
    assert theirs == pytest.approx(list(found.result.record.series["loss"]), abs=1e-6)


def test_a_schedule_to_paste_keeps_the_proportion_of_the_groups(tmp_path):
    found = tune(head_rate(tmp_path), 1.3, schedule="cosine()", progress=False, engine="loop")
    names = {"etude": etude, "Trainer": HeadRate, "TrainingArguments": lambda **given: given}
    exec(found.code(), names)
    again = trainer_of(
        tmp_path, classifier(), trainer=names["Trainer"], max_steps=20, **found.arguments
    )
    theirs = losses(again)
    assert theirs == pytest.approx(list(found.result.record.series["loss"]), abs=1e-6)


def test_an_optimizer_that_does_not_follow_the_trainers_rate_is_not_trained_at_it(tmp_path):
    trainer = trainer_of(tmp_path, classifier(), trainer=OwnRate, max_steps=20)
    with pytest.raises(
        BadValueError, match=r"learning_rate=0\.003 does not change the rate 0\.001"
    ):
        tune(trainer, 1.3, train=True, progress=False, engine="loop")


def test_a_schedule_that_was_chosen_is_pasted(tmp_path):
    trainer = trainer_of(tmp_path, classifier(), max_steps=20)
    over = {"schedule": ["constant()", "cosine()"]}
    found = tune(trainer, 3.0, over=over, progress=False, engine="loop")
    assert found.schedule == found.result.recipe.schedule
    assert repr(found.schedule) in found.code()
    assert "lr_scheduler_type" not in found.arguments
    with pytest.raises(BadValueError, match="with its own scheduler, not with one of over="):
        tune(trainer, over=over, train=True)


@pytest.mark.parametrize("name", ["optimizer", "optimizer.momentum", "optimizer.amsgrad"])
def test_what_the_arguments_cannot_say_is_not_chosen(name, tmp_path):
    trainer = trainer_of(tmp_path, classifier(), max_steps=20)
    with pytest.raises(
        BadValueError, match=re.escape(f"over={{'{name}': ...}}: TrainingArguments")
    ):
        tune(trainer, over={name: [0, 1]})


def wrong_by(prediction):
    return {"rmse": float((prediction.predictions.argmax(-1) != prediction.label_ids).mean())}


def test_an_error_that_the_arguments_call_better_when_greater_is_refused(tmp_path):
    options = {"compute_metrics": wrong_by, "metric_for_best_model": "rmse"}
    unsaid = trainer_of(tmp_path, classifier(), **options)
    if unsaid.args.greater_is_better:  # what TrainingArguments takes where nothing is given
        with pytest.raises(BadValueError, match="which is better when smaller"):
            task(unsaid)
    said = trainer_of(tmp_path, classifier(), **options, greater_is_better=False)
    assert task(said).task.metric.maximize is False


def test_losses_of_compute_metrics_are_no_metric_and_no_failure(tmp_path, recwarn):
    trainer = trainer_of(tmp_path, classifier(), compute_metrics=lambda _: {"val_loss": 1.0})
    assert task(trainer).task.metric is None
    assert not [w for w in recwarn if "compute_metrics failed" in str(w.message)]


@pytest.mark.slow
def test_an_adapters_rate_lies_in_the_tied_range_of_its_own_grid(tmp_path):
    found, recipe = task(trainer_of(tmp_path, adapted(), max_steps=60))
    best = etude.tune(found, recipe, budget=3.0, progress=False, engine="loop")
    rates = [best.lr * 10 ** (k / 4) for k in range(-4, 5)]
    around = etude.grid(found, recipe, lrs=rates, progress=False, engine="loop")
    assert around.tied[0] <= best.lr <= around.tied[-1]
    assert around.tied[-1] < max(rates)


def test_an_adapters_search_begins_at_the_prior_of_adapters(tmp_path):
    found, recipe = task(trainer_of(tmp_path, adapted(), max_steps=20))
    network = found.build()
    assert len(adapters(network)) == 1
    prior = 10 ** centre_of(network, found.train.targets(), recipe.optimizer)
    best = etude.tune(found, recipe, budget=1.2, progress=False, engine="loop")
    assert min(trial.lr for trial in best.trials) < 1.5 * prior
    assert max(trial.lr for trial in best.trials) > prior / 1.5


def test_a_model_in_place_of_its_trainer_is_told_so():
    for train in (False, True):
        with pytest.raises(BadTypeError, match=r"expected a transformers.Trainer, got a Linear"):
            tune(torch.nn.Linear(1, 1), train=train)


def test_an_evaluation_leaves_a_batch_where_the_network_is(tmp_path):
    learned, _ = task(trainer_of(tmp_path, classifier()))
    batch, _ = next(iter(learned.valid.sweep(1)))
    moved = move(batch, torch.device("meta"))._replace(items=1)
    with torch.no_grad():
        loss, _ = learned.step(learned.build().eval().to("meta"), moved)
    assert loss.is_meta
