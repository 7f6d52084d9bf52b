"""Real fits under watch: the same bits, all updates, and nothing left behind after an error."""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from etude.diagnosis.finding import Cause
from etude.errors import BadValueError
from etude.interop import lightning as adapter
from tests.interop.watching import equal, hooks_of, torch_is_plain

lightning = pytest.importorskip("lightning.pytorch")

G = torch.Generator().manual_seed(0)
X = torch.randn(48, 4, generator=G)
DATA = torch.utils.data.TensorDataset(X, (X[:, :1] > 0).float())


def quiet(finding):
    """Print nothing."""


class Module(lightning.LightningModule):
    """Calls parts of itself, as most modules do."""

    def __init__(self, fail=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)
        self.fail, self.losses = fail, []

    def training_step(self, batch, index):
        if self.fail is not None and self.global_step == 3:
            raise self.fail
        x, y = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.head(self.body(x)), y)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, index):
        self.head(self.body(batch[0]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Game(Module):
    """Two optimizers, stepped by hand."""

    automatic_optimization = False

    def training_step(self, batch, index):
        for optimizer, part in zip(self.optimizers(), (self.body, self.head), strict=True):
            loss = (self.head(self.body(batch[0])) - batch[1]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss, inputs=list(part.parameters()))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.body, self.head)]


def fit(module, folder, *callbacks, resume=None, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        **{"max_epochs": 2, **options},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    loaders = [torch.utils.data.DataLoader(DATA, batch_size=4)] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, *loaders, ckpt_path=resume, weights_only=True)
    return trainer


def trained(kind, folder, *callbacks, **options):
    torch.manual_seed(0)
    module = kind()
    return module, fit(module, folder, *callbacks, **options)


@pytest.mark.parametrize(
    ("kind", "options", "updates"),
    [
        (Module, {}, 24),
        (Module, {"accumulate_grad_batches": 3}, 8),
        (Module, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}, 24),
        (Game, {}, 24),
    ],
)
def test_a_watched_fit_has_the_bits_of_another(kind, options, updates, tmp_path):
    plain, _ = trained(kind, tmp_path, **options)
    watching = adapter.WatchCallback(every=1, on_finding=quiet)
    watched, trainer = trained(kind, tmp_path, watching, **options)
    assert equal(plain, watched)
    report = watching.report()
    assert report.history.updates == updates
    assert report.history.samples == updates
    assert {"body.0", "head"} == {layer.name for layer in report.history.layers}
    assert not report.findings, str(report)
    assert report.healthy is (updates >= 20)  # fewer are too few to say so
    assert not hooks_of(watched, *trainer.optimizers)
    assert torch_is_plain()
    if kind is Module:
        losses = np.array(watched.losses).reshape(updates, -1).mean(1)
        np.testing.assert_allclose(report.history.loss, losses, rtol=1e-6)
        assert "activations" in report.seen
        assert report.history.layers[0].activation == "relu"


@pytest.mark.parametrize("error", [BadValueError("in the step"), KeyboardInterrupt("in the step")])
def test_an_error_in_a_fit_leaves_nothing_behind(error, tmp_path):
    watching = adapter.WatchCallback(on_finding=quiet)
    module = Module(fail=error)
    with pytest.raises((BadValueError, SystemExit), match=r"in the step|1"):
        fit(module, tmp_path, watching)
    assert not hooks_of(module)
    assert torch_is_plain()
    assert watching.report().history.updates >= 3


def test_a_fit_in_evaluation_mode_is_found(tmp_path):
    class Frozen(Module):
        def training_step(self, batch, index):
            self.eval()
            return super().training_step(batch, index)

    found = []
    trained(Frozen, tmp_path, adapter.WatchCallback(every=1, on_finding=found.append))
    assert [one.what for one in found] == [Cause.EVAL_MODE_IN_TRAINING]


def test_a_resumed_fit_counts_on(tmp_path):
    module, trainer = trained(Module, tmp_path)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    watching = adapter.WatchCallback(every=1, on_finding=quiet)
    fit(module, tmp_path, watching, resume=tmp_path / "half.ckpt", max_epochs=3)
    assert watching.report().history.steps.tolist() == list(range(24, 36))
    assert watching.report().history.updates == 36
