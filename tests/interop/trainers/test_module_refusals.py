"""Modules and Trainers that cannot be read say what to do, and fit as before."""

import copy

import pytest
import torch

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.interop.lightning import task, tune
from tests.interop.trainers.modules import Net, fitted, lightning, loader, made, trainer_of


class Manual(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False


class Two(Net):
    def configure_optimizers(self):
        return [torch.optim.SGD(p.parameters(), lr=0.1) for p in (self.net[0], self.net[2])]


class NoOptimizer(Net):
    def configure_optimizers(self):
        return None


class Silent(Net):
    def training_step(self, batch, batch_idx):
        self.loss(batch)


class Mute(Net):
    def validation_step(self, batch, batch_idx):
        self.loss(batch)


class Foreign(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(made().parameters(), lr=0.1)


class OwnStep(Net):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)


class Plateau(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"},
        }


class NoValidation(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


MODULES = [
    (Manual, BadValueError, "trains by manual optimization.*yields the loss of each part"),
    (Two, BadValueError, "returned 2 optimizers.*parameter groups of one optimizer"),
    (NoOptimizer, BadValueError, "configure_optimizers returned nothing: return an optimizer"),
    (Silent, TaskError, "training_step returned nothing: return the loss"),
    (Mute, TaskError, r"returned no loss and logged nothing.*self\.log\('val_loss', loss\)"),
    (Foreign, TaskError, "not those of its model.*Build the optimizer from the parameters"),
    (OwnStep, BadValueError, "overrides optimizer_step.*leave it out while tuning"),
    (Plateau, BadValueError, "reacts to a metric by the epoch.*give schedule="),
    (NoValidation, TaskError, "has no validation_step.*define one"),
]


@pytest.mark.parametrize(
    ("kind", "error", "message"), MODULES, ids=[m[0].__name__ for m in MODULES]
)
def test_a_module_that_cannot_be_read(kind, error, message):
    module = made(kind)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(error, match=message):
        task(module, loader(), loader(24), trainer=trainer_of())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert module.training


class Falls(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= 0.9


TRAINERS = [
    ({"max_steps": -1}, "has max_epochs=-1, and so no length: give Trainer"),
    (
        {"max_steps": -1, "max_epochs": None},
        "neither max_epochs nor max_steps.*give Trainer",
    ),
    ({"precision": "64-true"}, "precision='64-true' keeps the weights.*bf16-mixed"),
    ({"overfit_batches": 2}, "overfit_batches=2: rates are compared on held-out data"),
    ({"devices": 2, "strategy": "ddp"}, "DDPStrategy on 2 devices: tune in one process"),
    ({"strategy": "fsdp"}, "FSDPStrategy|fsdp"),
]


@pytest.mark.parametrize(("options", "message"), TRAINERS, ids=[str(t[0]) for t in TRAINERS])
def test_a_trainer_that_cannot_be_read(options, message):
    try:
        trainer = trainer_of(**options)
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"Lightning itself refuses it here: {error}")
    with pytest.raises(BadValueError, match=message):
        task(made(), loader(), loader(24), trainer=trainer)


def test_callbacks_that_change_the_rate():
    averaging = lightning.callbacks.StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(BadValueError, match="StochasticWeightAveraging replaces the rates"):
        task(made(), loader(), loader(24), trainer=trainer_of(averaging))
    with pytest.raises(BadValueError, match="callback Falls of the Trainer changes the learning"):
        task(made(), loader(), loader(24), trainer=trainer_of(Falls()))
    reads = lightning.callbacks.EarlyStopping("val_loss")
    assert task(made(), loader(), loader(24), trainer=trainer_of(reads)).recipe.steps == 50


def test_data_that_cannot_be_read():
    with pytest.raises(TaskError, match="has no train_dataloader: give a DataLoader"):
        task(made(), trainer=trainer_of())
    with pytest.raises(TaskError, match=r"no validation data.*third argument"):
        task(made(), loader(), trainer=trainer_of())
    with pytest.raises(BadTypeError, match="the training data are 2 loaders"):
        task(made(), [loader(), loader()], loader(), trainer=trainer_of())
    with pytest.raises(BadTypeError, match="expected a LightningModule, got a Linear"):
        task(torch.nn.Linear(1, 1), loader(), loader())
    with pytest.raises(BadValueError, match=r"neither max_epochs nor max_steps.*or steps="):
        task(made(), loader(), loader(24))


class Hooked(Net):
    def on_train_batch_end(self, *_):
        raise AssertionError


def test_hooks_that_are_not_called_are_named():
    with pytest.warns(UserWarning, match="overrides on_train_batch_end, which a tuning does not"):
        task(made(Hooked), loader(), loader(24), trainer=trainer_of())


def test_module_trainer_and_random_state_stay_and_the_fit_is_the_same():
    module, other, trainer = made(), made(), trainer_of(max_steps=20)
    loaders = loader(shuffle=True), loader(24)
    torch.manual_seed(9)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    found = tune(module, *loaders, 1.5, trainer=trainer, progress=False, engine="loop")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert trainer.global_step == 0
    assert module._trainer is None
    assert found.result.model is not module
    losses = fitted(module, *loaders, max_steps=20)
    torch.manual_seed(9)
    assert fitted(other, *loaders, max_steps=20) == losses


class AsksForOptimizers(Net):
    def training_step(self, batch, batch_idx):
        self.log("rate", self.optimizers().param_groups[0]["lr"])
        return self.loss(batch)


class ReducesItsLoss(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), reduce_fx="sum")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (AsksForOptimizers, "reads self.optimizers.., which it cannot while it is tuned"),
        (ReducesItsLoss, "with reduce_fx='sum': give 'mean', or return the loss"),
    ],
)
def test_what_a_step_cannot_be_given_is_named(module, message):
    with pytest.raises(TaskError, match=message):
        task(made(module), loader(), loader(24), trainer=trainer_of())


class ClearsItself(Net):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass

    def on_fit_start(self):
        pass


def test_hooks_around_the_fit_and_the_gradient_are_named_too():
    with pytest.warns(UserWarning, match="on_fit_start, optimizer_zero_grad, which a tuning does"):
        task(made(ClearsItself), loader(), loader(24), trainer=trainer_of())
