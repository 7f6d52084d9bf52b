"""Trainers that cannot be read say what to do, and train afterwards as if nothing had been."""

import copy
import types

import pytest
import torch

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.interop.transformers import task
from tests.interop.trainers.hugging_face import (
    causal,
    classifier,
    losses,
    sentences,
    trainer_of,
    transformers,
)


class Halves(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        for group in optimizer.param_groups:
            group["lr"] *= 0.5


class Counts(transformers.TrainerCallback):
    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.seen["lr"] = [group["lr"] for group in optimizer.param_groups]


def deepspeed(trainer):
    trainer.is_deepspeed_enabled = True


def fsdp(trainer):
    trainer.is_fsdp_enabled = True


def half(trainer):
    trainer.args.fp16 = True


def no_length(trainer):
    trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0


def no_evaluation(trainer):
    trainer.eval_dataset = None


def two_evaluations(trainer):
    trainer.eval_dataset = {"a": sentences(8), "b": sentences(8)}


def another_model(trainer):
    trainer.optimizer = torch.optim.AdamW(classifier().parameters())


def own_lambda(trainer):
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters())
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda t: 0.9**t)


def halving(trainer):
    trainer.add_callback(Halves())


def greedy(trainer):
    trainer.args.lr_scheduler_type = transformers.SchedulerType("greedy")


def no_training_data(trainer):
    trainer.train_dataset = None


class OwnAdam(torch.optim.Adam):
    pass


def unknown_optimizer(trainer):
    trainer.optimizer = OwnAdam(trainer.model.parameters(), lr=0.1)


CASES = [
    (deepspeed, BadValueError, "uses DeepSpeed.*make a Trainer without it"),
    (fsdp, BadValueError, "uses FSDP.*make a Trainer without it"),
    (half, BadValueError, "fp16=True needs a loss scaler.*bf16=True"),
    (no_length, BadValueError, "leave the length of the run open: set max_steps"),
    (no_evaluation, TaskError, r"no evaluation data.*eval_dataset=.*valid=0\.1"),
    (two_evaluations, TaskError, "holds 'a', 'b': say with valid="),
    (another_model, TaskError, "not those of its model.*Build the optimizer from the parameters"),
    (own_lambda, BadValueError, "a function of your own.*or give the schedule yourself"),
    (halving, BadValueError, "callback Halves of the Trainer changes the learning rate"),
    (greedy, BadValueError, "GreedyLR.*give the schedule yourself"),
    (no_training_data, TaskError, r"give Trainer\(train_dataset=\.\.\.\)"),
    (unknown_optimizer, BadValueError, "not in Etude's table: register it"),
]


@pytest.mark.parametrize(("spoil", "kind", "message"), CASES, ids=[c[0].__name__ for c in CASES])
def test_what_cannot_be_read_says_what_to_do(spoil, kind, message, tmp_path):
    trainer = trainer_of(tmp_path, classifier())
    spoil(trainer)
    before = dict(vars(trainer))
    with pytest.raises(kind, match=message):
        task(trainer)
    assert {k: v for k, v in vars(trainer).items() if k != "_signature_columns"} == {
        k: v for k, v in before.items() if k != "_signature_columns"
    }


def test_other_things_are_no_trainers():
    with pytest.raises(BadTypeError, match=r"expected a transformers\.Trainer, got a SimpleNames"):
        task(types.SimpleNamespace())


def test_a_callback_that_only_reads_the_rate_is_no_reason(tmp_path):
    trainer = trainer_of(tmp_path, classifier(), callbacks=[Counts()])
    assert task(trainer).recipe.steps == 50


def test_evaluation_data_without_labels(tmp_path):
    bare = [{"input_ids": row["input_ids"]} for row in sentences(8)]
    trainer = trainer_of(tmp_path, classifier(), eval_dataset=bare, compute_metrics=None)
    import etude

    found, recipe = task(trainer)
    with pytest.raises(TaskError, match="has no 'labels', so it gives no loss: add the labels"):
        etude.train(found, recipe.replace(steps=2))


def test_a_share_of_the_training_data_is_held_out(tmp_path):
    trainer = trainer_of(tmp_path, classifier(), eval_dataset=None)
    found = task(trainer, valid=0.25).task
    assert (found.train.samples, found.valid.samples) == (36, 12)
    assert len(trainer.train_dataset) == 48
    with pytest.raises(BadValueError, match=r"valid=0\.001 of 48 samples leaves one part empty"):
        task(trainer, valid=0.001)


def state_of(trainer):
    return (
        copy.deepcopy(trainer.model.state_dict()),
        [module.training for module in trainer.model.modules()],
        torch.get_rng_state(),
        vars(trainer.state).copy(),
        trainer.args.to_dict(),
        len(trainer.accelerator._dataloaders),
    )


@pytest.mark.parametrize("make", [classifier, causal])
def test_a_trainer_is_left_as_it_was_and_trains_as_before(make, tmp_path):
    from etude.interop.transformers import tune

    trainer, other = (trainer_of(tmp_path, make(), max_steps=20) for _ in range(2))
    torch.manual_seed(11)
    before = state_of(trainer)
    tune(trainer, 1.5, progress=False, engine="loop")
    after = state_of(trainer)
    assert all(torch.equal(v, after[0][k]) for k, v in before[0].items())
    assert torch.equal(before[2], after[2])
    assert before[1] == after[1]
    assert before[3:] == after[3:]
    torch.manual_seed(42)
    theirs = losses(other)
    torch.manual_seed(42)
    assert losses(trainer) == theirs
