"""Real fits: what Lightning makes of a schedule, under accumulation, on resuming, on a plateau."""

import logging
import warnings

import pytest
import torch

from etude.errors import BadValueError
from etude.interop import lightning as adapter
from etude.interop.lightning import configure
from etude.schedules import cosine, plateau, warmup

lightning = pytest.importorskip("lightning.pytorch")
ScheduleCallback = adapter.ScheduleCallback

DATA = torch.utils.data.TensorDataset(torch.ones(24, 2), torch.ones(24, 1))


class Module(lightning.LightningModule):
    def __init__(self, **schedules):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.schedules = schedules
        self.used = []

    def training_step(self, batch, _):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def validation_step(self, batch, _):
        self.log("val_loss", torch.tensor(1.0))

    def on_before_optimizer_step(self, optimizer):
        group = optimizer.param_groups[0]
        self.used.append((group["lr"], group["momentum"]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
        if not self.schedules:
            return optimizer
        return configure(optimizer, self.trainer, **self.schedules)


@pytest.fixture
def fit(tmp_path):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def run(module, *callbacks, validate=False, resume=None, **options):
        trainer = lightning.Trainer(
            **{"max_epochs": 3, **options},
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
        )
        loaders = [torch.utils.data.DataLoader(DATA, batch_size=4)] * (1 + validate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, *loaders, ckpt_path=resume, weights_only=True)
        return trainer

    return run


S = "0.1 * (warmup('25%') >> cosine())"
BOUND = 0.1 * (warmup(4) >> cosine(14))  # 3 epochs of 24/4 updates: 18, and a quarter of it


def lrs(module):
    return [lr for lr, _ in module.used]


def test_configure_binds_to_the_length_of_the_run(fit):
    module = Module(lr="0.1 * (warmup(4) >> cosine())", momentum="0.9 * linear()")
    fit(module)
    assert lrs(module) == [BOUND(t) for t in range(18)]
    assert module.used[9][1] == pytest.approx(0.45)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_steps_are_updates_under_accumulation(fit, accumulate):
    updates = 3 * -(-6 // accumulate)
    expected = [(0.1 * cosine(updates))(t) for t in range(updates)]
    configured, plain = Module(lr="0.1 * cosine()"), Module()
    fit(configured, accumulate_grad_batches=accumulate)
    fit(plain, ScheduleCallback(lr="0.1 * cosine()"), accumulate_grad_batches=accumulate)
    assert lrs(configured) == lrs(plain) == expected


def test_epochs_are_epochs_of_updates(fit):
    module = Module()
    fit(module, ScheduleCallback(scale="step('1 epoch', 0.5)"), accumulate_grad_batches=2)
    assert lrs(module) == [0.5] * 3 + [0.25] * 3 + [0.125] * 3


@pytest.mark.parametrize("configured", [True, False])
def test_a_resumed_fit_goes_on_at_the_right_rate(fit, tmp_path, configured):
    def made():
        schedules = {"lr": BOUND, "momentum": 0.9 * warmup(9)}
        if configured:
            return Module(**schedules), []
        return Module(), [ScheduleCallback(**schedules)]

    whole, callbacks = made()
    fit(whole, *callbacks)
    first, callbacks = made()
    trainer = fit(first, *callbacks, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    rest, callbacks = made()
    fit(rest, *callbacks, resume=tmp_path / "one.ckpt")
    assert first.used + rest.used == whole.used


def test_a_plateau_reacts_to_what_is_monitored(fit, tmp_path):
    s = 0.1 * plateau(factor=0.5, patience=0)
    module, callback = Module(), ScheduleCallback(lr=s, monitor="val_loss")
    trainer = fit(module, callback, validate=True)
    assert lrs(module) == [0.1] * 12 + [0.05] * 6
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    more = Module()
    resumed = ScheduleCallback(lr=s, monitor="val_loss")
    fit(more, resumed, validate=True, resume=tmp_path / "three.ckpt", max_epochs=4)
    assert lrs(more) == [0.025] * 6
    assert resumed.scheduler.state_dict()["events"] == [[6 * n, 1.0] for n in (1, 2, 3, 4)]


def test_feedback_needs_to_know_the_metric(fit):
    with pytest.raises(BadValueError, match="give its name, such as monitor='val_loss'"):
        fit(Module(), ScheduleCallback(lr=plateau()))
    with pytest.raises(
        BadValueError, match="monitor is 'loss', which was not logged; the logged metrics are"
    ):
        fit(Module(), ScheduleCallback(lr=plateau(), monitor="loss"), validate=True)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with pytest.raises(BadValueError, match="which Lightning reports only to its own plateau"):
        configure(optimizer, lr=plateau())


def test_an_endless_run_has_no_percent(fit):
    with pytest.raises(BadValueError, match="a share of a horizon that is not known"):
        fit(Module(), ScheduleCallback(lr=S), max_epochs=-1, max_steps=-1)
