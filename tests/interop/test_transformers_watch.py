"""The real Trainer under watch: the same bits, all updates, nothing left behind after an error."""

import numpy as np
import pytest
import torch
from torch import nn

from etude.diagnosis.finding import Cause
from etude.interop.transformers import WatchCallback
from tests.interop.watching import equal, hooks_of, torch_is_plain

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

G = torch.Generator().manual_seed(0)
X = torch.randn(48, 4, generator=G)
DATA = [{"x": x, "labels": (x[:1] > 0).float()} for x in X]


def quiet(finding):
    """Print nothing."""


class Net(nn.Module):
    def __init__(self, fail=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)
        self.fail, self.calls, self.losses = fail, 0, []

    def forward(self, x, labels):
        self.calls += 1
        if self.fail is not None and self.calls == 5:
            raise self.fail
        logits = self.head(self.body(x))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        self.losses.append(loss.item())
        return {"loss": loss, "logits": logits}


def fit(folder, model, *callbacks, resume=None, data=DATA, **options):
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        **{"max_steps": 12, **options},
        per_device_train_batch_size=4,
        learning_rate=0.01,
        save_strategy="steps",
        save_steps=6,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model=model, args=args, train_dataset=data, callbacks=list(callbacks)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def seeded(**options):
    torch.manual_seed(0)
    return Net(**options)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_watched_training_has_the_bits_of_another(parts, tmp_path):
    plain = fit(tmp_path / "a", seeded(), gradient_accumulation_steps=parts).model
    watching = WatchCallback(every=1, on_finding=quiet)
    trainer = fit(tmp_path / "b", seeded(), watching, gradient_accumulation_steps=parts)
    assert equal(plain, trainer.model)
    report = watching.report()
    assert report.too_short, str(report)
    assert not report.findings
    assert report.history.updates == report.history.samples == 12
    assert [layer.name for layer in report.history.layers] == ["body.0", "head"]
    losses = np.array(trainer.model.losses).reshape(12, -1).mean(1)
    np.testing.assert_allclose(report.history.loss, losses, rtol=1e-5)
    assert "activations" in report.seen
    assert not hooks_of(trainer.model)
    assert torch_is_plain()


def test_a_resumed_training_counts_on(tmp_path):
    fit(tmp_path, seeded(), max_steps=6)
    watching = WatchCallback(every=1, on_finding=quiet)
    fit(tmp_path, seeded(), watching, resume=True)
    assert watching.report().history.steps.tolist() == list(range(6, 12))


class Broken(list):
    def __getitem__(self, index):
        raise OSError("no data")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": Net(fail=OSError("in the forward pass"))}, "in the forward pass"),
        ({"data": Broken(DATA)}, "no data"),
    ],
)
def test_an_error_leaves_nothing_behind(options, error, tmp_path):
    watching = WatchCallback(on_finding=quiet)
    options = {"model": seeded(), **options}
    with pytest.raises(OSError, match=error):
        fit(tmp_path, options["model"], watching, data=options.get("data", DATA))
    assert not hooks_of(options["model"])
    assert torch_is_plain()


class Interrupting(transformers.TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        raise KeyboardInterrupt("stop")


def test_its_block_removes_the_hooks_after_any_error(tmp_path):
    model = seeded()
    with (
        pytest.raises(KeyboardInterrupt, match="stop"),
        WatchCallback(on_finding=quiet) as watching,
    ):
        fit(tmp_path, model, watching, Interrupting())
    assert watching.watch.closed
    assert not hooks_of(model)
    assert torch_is_plain()


def test_a_parameter_that_the_optimizer_does_not_hold_is_found(tmp_path):
    class Forgetful(transformers.Trainer):
        def create_optimizer(self, model=None):
            self.optimizer = torch.optim.SGD(self.model.body.parameters(), lr=0.01)
            return self.optimizer

    found = []
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=12, report_to=[], disable_tqdm=True, use_cpu=True
    )
    watching = WatchCallback(every=1, on_finding=found.append)
    Forgetful(model=seeded(), args=args, train_dataset=DATA, callbacks=[watching]).train()
    assert [(one.what, one.layer) for one in found] == [(Cause.PARAMETERS_NOT_TRAINED, "head")]
