"""accelerate: a paused loop ends as one that nobody paused; what it cannot do it says."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from etude.errors import BadTypeError, BadValueError
from tests import helpers

accelerate = pytest.importorskip("accelerate")

from etude.interop.accelerate import AcceleratorReport, tune  # noqa: E402

STEPS = 40
X, Y = helpers.data(64)


def loader(order):
    data = torch.utils.data.TensorDataset(X[:48], Y[:48])
    return torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=order)


def train(lr, report):
    accelerator = accelerate.Accelerator(cpu=True)
    model = helpers.noisy()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    order = torch.Generator()
    model, optimizer, batches, decay = accelerator.prepare(model, optimizer, loader(order), decay)

    def valid():
        model.eval()
        with torch.no_grad():
            found = cross_entropy(model(X[48:]), Y[48:], reduction="none").tolist()
        model.train()
        return found

    done = report.resume(accelerator)
    if not done:
        report(0, valid)
    per_epoch = len(batches)
    while done < STEPS:
        order.manual_seed(done // per_epoch)  # of the epoch alone, wherever it is entered
        rest = accelerator.skip_first_batches(batches, done % per_epoch)
        for x, y in rest:
            loss = cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            decay.step()
            optimizer.zero_grad()
            done += 1
            report(done, valid, training=float(loss.detach()))
            if done == STEPS:
                break
    return accelerator.unwrap_model(model).state_dict()


class Unbroken:
    """What a loop reports to that nobody pauses."""

    def resume(self, accelerator):
        return 0

    def __call__(self, step, loss, training=None):
        pass


def quick(loop=train, budget=1.3, **more):
    return tune(loop, STEPS, budget, around=0.01, progress=False, **more)


def test_a_paused_loop_ends_as_one_that_nobody_paused(tmp_path):
    best = quick(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert best.repeated == 0
    assert best.cost <= 1.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = train(best.lr, Unbroken())
    assert all(torch.equal(best.value[name], alone[name]) for name in alone)
    assert best.record.task == "train"


def test_a_loop_that_does_not_resume_starts_over_and_pays():
    def forgetful(lr, report):
        w = 3.0
        for step in range(1, STEPS + 1):
            w -= lr * 2 * (w - 1)
            report(step, (w - 1) ** 2)

    assert quick(forgetful, 3.0).repeated > 0


def test_checkpoints_that_name_themselves_are_left_alone(tmp_path):
    project = accelerate.utils.ProjectConfiguration(
        project_dir=str(tmp_path), automatic_checkpoint_naming=True
    )
    accelerator = accelerate.Accelerator(cpu=True, project_config=project)
    accelerator.prepare(torch.nn.Linear(1, 1))
    saved = {}

    class Pausing:
        saved = None

        def __call__(self, step, loss, training=None, state=None):
            saved["state"] = state()

    place = tmp_path / "place"
    place.mkdir()
    report = AcceleratorReport(Pausing(), None, place)
    assert report.resume(accelerator) == 0
    report(7, 1.0)
    assert Path(saved["state"].folder).parent == place
    assert saved["state"].step == 7
    assert project.automatic_checkpoint_naming
    assert project.iteration == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["place"]


def test_several_processes_and_other_objects_are_refused(tmp_path, monkeypatch):
    report = AcceleratorReport(None, None, tmp_path)
    with pytest.raises(BadTypeError, match="give the Accelerator that prepared the model"):
        report.resume(torch.nn.Linear(1, 1))
    accelerator = accelerate.Accelerator(cpu=True)
    monkeypatch.setattr(accelerate.Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(BadValueError, match="runs in 2 processes"):
        report.resume(accelerator)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda report: None, r"<lambda>\(report\) takes no rate and report: give a function"),
        (lambda: None, r"<lambda>\(\) takes no rate and report"),
        (None, "train=None is not a function: give a function train"),
    ],
)
def test_a_loop_without_rate_or_report_is_told_what_it_takes(wrong, message):
    with pytest.raises(BadTypeError, match=message):
        tune(wrong, STEPS, progress=False)
