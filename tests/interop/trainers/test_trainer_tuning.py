"""The rate of a Trainer in two lines, and what is to be pasted."""

import pytest

import etude
from etude.errors import BadValueError
from etude.interop.transformers import task, tune
from etude.interop.transformers.tuning import scheduler_options
from etude.optimizers.adapters import adapters
from etude.optimizers.prior import centre_of
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
