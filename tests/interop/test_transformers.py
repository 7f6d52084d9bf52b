import copy
import sys

import pytest
import torch

from etude.errors import BadValueError
from etude.interop.torch import Scheduler
from etude.interop.transformers import FeedbackCallback, optimizers, scheduled
from etude.schedules import cosine, plateau, warmup
from tests.interop.peers import adamw, sgd

transformers = pytest.importorskip("transformers")

TEXT = "0.1 * (warmup('10%') >> cosine())"
BOUND = 0.1 * (warmup(5) >> cosine(45))


def test_optimizers_is_the_pair_that_the_trainer_takes():
    optimizer = adamw()
    same, scheduler = optimizers(optimizer, 50, lr=TEXT, weight_decay="0.1 * linear()")
    assert same is optimizer
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    scheduler.seek(25)
    assert scheduler.get_last_lr() == [BOUND(25)]
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.05)
    with pytest.raises(BadValueError, match="no length in steps yet"):
        optimizers(adamw(), lr=TEXT)


def _trainer(**schedules):
    """A Trainer that has not been constructed: that needs accelerate, this does not."""
    cls = scheduled(transformers.Trainer, **schedules)
    trainer = cls.__new__(cls)
    trainer.lr_scheduler, trainer.optimizer, trainer._created_lr_scheduler = None, sgd(), False
    return trainer


def test_the_trainer_makes_its_scheduler_once_the_run_is_known():
    trainer = _trainer(lr=TEXT)
    assert type(trainer).__name__ == "Trainer"
    assert isinstance(trainer, transformers.Trainer)
    scheduler = trainer.create_scheduler(50)
    assert scheduler is trainer.create_scheduler(99) is trainer.lr_scheduler
    assert trainer._created_lr_scheduler
    scheduler.seek(25)
    assert trainer.optimizer.param_groups[0]["lr"] == BOUND(25)
    other = adamw()
    assert _trainer(lr=TEXT).create_scheduler(50, other).optimizer is other


def test_each_evaluation_reports_to_a_plateau():
    scheduler = Scheduler(sgd(), lr=plateau(factor=0.5, patience=0))
    handler = transformers.trainer_callback.CallbackHandler(
        [FeedbackCallback("eval_loss")], None, None, scheduler.optimizer, scheduler
    )
    state = transformers.TrainerState()
    control = transformers.TrainerControl()
    for _ in range(3):
        scheduler.step()
        handler.on_evaluate(None, state, control, {"eval_loss": 1.0})
    assert scheduler.get_last_lr() == [0.25]
    with pytest.raises(BadValueError, match="did not report; it reported eval_accuracy"):
        handler.on_evaluate(None, state, control, {"eval_accuracy": 1.0})
    handler.lr_scheduler = Scheduler(sgd(), lr=cosine(10))
    with pytest.raises(BadValueError, match="which does not react to a metric"):
        handler.on_evaluate(None, state, control, {"eval_loss": 1.0})


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, labels):
        loss = torch.nn.functional.mse_loss(self.layer(x), labels)
        return {"loss": loss, "logits": self.layer(x)}


class Rates(transformers.TrainerCallback):
    def __init__(self):
        self.used = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.used.append(optimizer.param_groups[0]["lr"])


def _fit(folder, callbacks=(), resume=None, lr=TEXT, **options):
    data = [{"x": torch.ones(2), "labels": torch.ones(1)}] * 40
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=20,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        save_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    rates = Rates()
    cls = scheduled(transformers.Trainer, lr=lr)
    trainer = cls(Net(), args, train_dataset=data, eval_dataset=data, callbacks=[rates, *callbacks])
    trainer.train(resume_from_checkpoint=resume)
    return rates.used, trainer


def test_a_real_run_and_its_resumption(tmp_path):
    pytest.importorskip("accelerate")
    s = 0.1 * (warmup(2) >> cosine(18))
    used, trainer = _fit(tmp_path)
    assert used == [s(t) for t in range(20)]
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(any(abs(value - s(t)) < 1e-12 for t in range(21)) for value in logged)
    resumed, _ = _fit(tmp_path, resume=str(tmp_path / "checkpoint-10"))
    assert resumed == [s(t) for t in range(10, 20)]


def test_a_real_run_on_a_plateau(tmp_path):
    pytest.importorskip("accelerate")
    s = 0.1 * plateau(factor=0.5, patience=0, threshold=9.0, threshold_mode="abs")
    options = {"eval_strategy": "steps", "eval_steps": 5}
    used, _ = _fit(tmp_path, [FeedbackCallback()], lr=s, **options)
    assert used == [0.1] * 10 + [0.05] * 5 + [0.025] * 5


def test_a_run_whose_plateau_gets_no_metric_is_refused(tmp_path):
    pytest.importorskip("accelerate")
    with pytest.raises(
        BadValueError, match=r"callbacks=\[FeedbackCallback\('eval_loss'\)\]\), which does"
    ):
        _fit(tmp_path, lr=0.1 * plateau(), eval_strategy="steps", eval_steps=5)
    _, scheduler = optimizers(sgd(), lr=0.1 * plateau())
    with pytest.raises(BadValueError, match="which the Trainer does not report"):
        scheduler.step()
    scheduler.step(1.0)  # in a loop of one's own
    scheduler.step()


def test_the_module_loads_transformers_only_when_asked():
    import subprocess

    code = (
        "import sys, etude.interop.transformers, etude.interop.lightning, etude.interop.keras\n"
        "import etude.interop.optax, etude.interop.parity.torch\n"
        "print(sorted({'transformers', 'lightning', 'keras', 'jax', 'ignite'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_its_state_is_what_the_trainer_saves(tmp_path):
    _, scheduler = optimizers(sgd(), 50, lr=TEXT)
    scheduler.seek(7)
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    _, other = optimizers(sgd(), 50, lr=TEXT)
    other.load_state_dict(copy.deepcopy(torch.load(tmp_path / "scheduler.pt", weights_only=True)))
    assert (other.last_epoch, other.get_last_lr()) == (7, [BOUND(7)])
