"""A task that was read from a LightningModule has the losses of `Trainer.fit`."""

import pytest
import torch
from torch.optim import lr_scheduler

from etude.interop.lightning import task
from tests.interop.trainers.modules import (
    Net,
    beside_fit,
    lightning,
    loader,
    made,
    trainer_of,
)


class Configured(Net):
    """A module whose `configure_optimizers` is given."""

    def configure_optimizers(self):
        return self.options["configure"](self)


def one_cycle(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    total = module.trainer.estimated_stepping_batches
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def by_epoch(module):
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02, betas=(0.8, 0.95))
    return {"optimizer": optimizer, "lr_scheduler": lr_scheduler.StepLR(optimizer, 1, 0.7)}


def every_second_epoch(module):
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "frequency": 2}}


def groups(module):
    bias = [p for n, p in module.named_parameters() if n.endswith("bias")]
    weights = [p for n, p in module.named_parameters() if not n.endswith("bias")]
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": 0.3},
            {"params": bias, "lr": 0.2, "weight_decay": 0.0},
        ],
        lr=0.02,
    )


def the_head_alone(module):
    return [torch.optim.SGD(module.net[2].parameters(), lr=0.5)]


CONFIGURED = [one_cycle, by_epoch, every_second_epoch, groups, the_head_alone]


@pytest.mark.parametrize("configure", CONFIGURED, ids=lambda f: f.__name__)
def test_configure_optimizers(configure):
    assert beside_fit(made(Configured, configure=configure)).worst <= 1e-6


OPTIONS = {
    "50 updates": {},
    "accumulation": {"accumulate": 4},
    "accumulation and a rest": {"accumulate": 3},
    "accumulation and a schedule by epoch": {"accumulate": 2},
    "clipping by norm": {"gradient_clip_val": 0.1},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "a part of each epoch": {"limit_train_batches": 3, "max_epochs": 5, "max_steps": -1},
    "a share of each epoch": {"limit_train_batches": 0.5, "max_epochs": 5, "max_steps": -1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_the_trainer_says(options):
    assert beside_fit(made(Configured, configure=by_epoch), **options).worst <= 1e-6


class Table(Net):
    """Its steps return tables, and take no index."""

    def training_step(self, batch):
        return {"loss": self.loss(batch), "batch": len(batch[0])}

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"loss": self.loss(batch)}


class Placed(Net):
    """Its loss depends on where the batch stands, as the Trainer tells it."""

    def training_step(self, batch, batch_idx):
        share = self.global_step / self.trainer.max_steps
        return self.loss(batch) * (1 + batch_idx + 10 * self.current_epoch + share)


class Prepared(Net):
    """Its layers are made in `setup`, and a batch is changed after the transfer."""

    def setup(self, stage):
        torch.manual_seed(5)
        self.extra = torch.nn.Linear(6, 6)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return 2 * x, y

    def loss(self, batch):
        x, y = batch
        return super().loss((self.extra(x), y))


class PartlyStill(Net):
    """A frozen body in evaluation mode, whose batch normalisation keeps its statistics."""

    def __init__(self, **options):
        super().__init__(**options)
        head = torch.nn.Linear(12, 2)
        norm = torch.nn.BatchNorm1d(12)
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 12), norm, torch.nn.Tanh(), head)
        norm.running_mean.add_(0.3)
        self.net[:2].requires_grad_(False).eval()

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class LastBatch(Net):
    """Its loss depends on whether the batch is the last of its epoch."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * (2 if self.trainer.is_last_batch else 1)


@pytest.mark.parametrize("module", [Table, Placed, Prepared, PartlyStill, LastBatch])
def test_a_module_of_another_kind(module):
    assert beside_fit(made(module), max_steps=20).worst <= 1e-6


class Data(lightning.LightningDataModule):
    def setup(self, stage):
        self.loaders = loader(), loader(24)

    def train_dataloader(self):
        return self.loaders[0]

    def val_dataloader(self):
        return self.loaders[1]


def test_a_data_module_is_set_up_as_a_copy():
    data = Data()
    found, recipe = task(made(), data, trainer=trainer_of(max_epochs=4, max_steps=-1))
    assert recipe.steps == 4 * 8
    assert (found.train.samples, found.valid.samples) == (64, 24)
    assert not hasattr(data, "loaders")


def evaluated(found, device=None):
    from etude.training.evaluation.evaluate import evaluate

    return evaluate(found, found.build())


def test_an_evaluation_is_that_of_validate():
    module, trainer = made(), trainer_of()
    found = task(module, loader(), loader(24, 7), trainer=trainer).task
    ours = evaluated(found)
    theirs = trainer.validate(module, loader(24, 7), verbose=False)[0]
    assert ours.loss == pytest.approx(theirs["val_loss"], abs=1e-6)
    assert found.metric_name == "val_acc"
    assert ours.metric == pytest.approx(theirs["val_acc"], abs=1e-6)


class Measured(Net):
    """Logs an object of torchmetrics, whose value over all batches is no mean of theirs."""

    def __init__(self, **options):
        super().__init__(**options)
        torchmetrics = pytest.importorskip("torchmetrics")
        self.f1 = torchmetrics.F1Score("multiclass", num_classes=2, average="macro")

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.f1(self.net(x), y)
        self.log("val_f1", self.f1)
        return self.loss(batch)


def test_an_object_of_torchmetrics_is_computed_once_on_all_batches():
    module, trainer = made(Measured), trainer_of()
    found = task(module, loader(), loader(48, 7), trainer=trainer).task
    assert (found.metric_name, found.metric.maximize) == ("val_f1", True)
    ours = evaluated(found)
    theirs = trainer.validate(module, loader(48, 7), verbose=False)[0]
    assert ours.metric == pytest.approx(theirs["val_f1"], abs=1e-6)


class Reduced(Net):
    """Logs a value whose parts are added up, or whose largest counts."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        wrong = (self.net(x).argmax(1) != y).float().sum()
        self.log("val_loss", self.loss(batch))
        self.log("val_errors", wrong, reduce_fx=self.options["reduce"])


@pytest.mark.parametrize(
    "reduce",
    ["sum", torch.sum, "max", torch.max, "min", "mean"],
    ids=["sum", "torch.sum", "max", "torch.max", "min", "mean"],
)
def test_a_value_is_reduced_as_it_was_logged(reduce):
    module, trainer = made(Reduced, reduce=reduce), trainer_of()
    found = task(module, loader(), loader(48, 7), trainer=trainer).task
    theirs = trainer.validate(module, loader(48, 7), verbose=False)[0]
    assert evaluated(found).metric == pytest.approx(theirs["val_errors"], abs=1e-6)
