"""What changes a task's digests, and what does not."""

import functools
import subprocess
import sys
import textwrap
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import etude
from etude import tasks
from etude.tasks.references.fingerprint import changed, fingerprint

HEAD = """
import functools
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
import etude
x = torch.arange(256.0).reshape(64, 4) / 256
y = torch.arange(64) % 2
def net(): return nn.Linear(4, 2)
"""

OF_LOSS = "task = etude.Task(net, (x, y), loss=loss)"
READ = {
    "a tensor of the file": "W = torch.tensor([1.0, {}])\n"
    "def loss(o, t): return cross_entropy(o, t, W)",
    "a list of the file": "W = [1.0, {}]\n"
    "def loss(o, t): return cross_entropy(o, t, torch.tensor(W))",
    "a tuple of the file": "W = (1.0, {})\n"
    "def loss(o, t): return cross_entropy(o, t, torch.tensor(W))",
    "a table of the file": "W = dict(a={})\ndef loss(o, t): return cross_entropy(o, t) * W['a']",
    "a set of the file": "W = {{{}, 'b'}}\ndef loss(o, t): return cross_entropy(o, t) * len(W)",
    "a module of the file": "C = nn.CrossEntropyLoss(weight=torch.tensor([1.0, {}]))\n"
    "def loss(o, t): return C(o, t)",
    "an object of the file": "class L:\n  def __init__(s, w): s.w = w\n"
    "  def __call__(s, o, t): return cross_entropy(o, t) * s.w\n"
    "one = L({})\ndef loss(o, t): return one(o, t)",
    "a partial of the file": "P = functools.partial(cross_entropy, label_smoothing={} / 10)\n"
    "def loss(o, t): return P(o, t)",
    "a module closed over": "def make():\n  C = nn.CrossEntropyLoss(label_smoothing={} / 10)\n"
    "  return lambda o, t: C(o, t)\nloss = make()",
    "a frozen network closed over": "def make():\n"
    "  N = nn.Linear(2, 2, bias=False).requires_grad_(False)\n  nn.init.constant_(N.weight, {})\n"
    "  return lambda o, t: cross_entropy(N(o), t)\nloss = make()",
    "a table closed over": "def make():\n  W = dict(a={})\n"
    "  return lambda o, t: cross_entropy(o, t) * W['a']\nloss = make()",
    "a tensor in a table of an object": "class L:\n"
    "  def __init__(s, w): s.w = dict(a=torch.tensor(w))\n"
    "  def __call__(s, o, t): return cross_entropy(o, t) * s.w['a']\nloss = L({})",
    "a slot of an object": "class L:\n  __slots__ = ('w',)\n  def __init__(s, w): s.w = w\n"
    "  def __call__(s, o, t): return cross_entropy(o, t) * s.w\nloss = L({})",
    "a setting of a class": "class L:\n  w = {}\n"
    "  def __call__(s, o, t): return cross_entropy(o, t) * s.w\nloss = L()",
}


def parts(source: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Return the digests of `task` in a file of this text."""
    module = ModuleType("a_users_own")
    monkeypatch.setitem(sys.modules, "a_users_own", module)
    exec(compile(HEAD + source, "a_users_own.py", "exec"), vars(module))
    return fingerprint(module.task)


@pytest.mark.parametrize("source", READ.values(), ids=READ)
def test_what_a_loss_reads_counts(source, monkeypatch):
    first, again, other = (parts(source.format(v) + "\n" + OF_LOSS, monkeypatch) for v in (1, 1, 5))
    assert changed(first, again) == []
    assert changed(first, other) == ["loss"]


def test_the_function_that_a_model_reads_counts(monkeypatch):
    source = (
        "A = torch.{}\nclass N(nn.Linear):\n  def forward(s, x): return A(super().forward(x))\n"
        "task = etude.Task(lambda: N(4, 2), (x, y), loss=cross_entropy)"
    )
    first, other = (parts(source.format(name), monkeypatch) for name in ("relu", "tanh"))
    assert changed(first, other) == ["model"]


@pytest.mark.parametrize(
    "source",
    [
        "seen = []\ndef loss(o, t):\n  seen.append(float(o.sum()))\n  return cross_entropy(o, t)",
        "seen = dict(n=0)\ndef loss(o, t):\n  seen['n'] += 1\n  return cross_entropy(o, t)",
        "mean = torch.zeros(2)\ndef loss(o, t):\n  mean.mul_(0.9).add_(o.detach().mean(0))\n"
        "  return cross_entropy(o, t)",
    ],
)
def test_what_a_loss_changes_itself_does_not_count(source, monkeypatch):
    """A run in the same process goes on after its loss has kept a history."""
    parts(source + "\n" + OF_LOSS, monkeypatch)
    task = sys.modules["a_users_own"].task
    before = fingerprint(task)
    task.loss(torch.randn(3, 2), torch.zeros(3, dtype=torch.long))
    assert changed(before, fingerprint(task)) == []


def of_loader(**options) -> dict[str, str | None]:
    data = TensorDataset(torch.arange(32.0).reshape(32, 1), torch.zeros(32, 1))
    loader = DataLoader(data, batch_size=8, **options)
    return fingerprint(
        etude.Task(lambda: nn.Linear(1, 1), loader, valid=loader, loss=nn.functional.mse_loss)
    )


def test_how_a_loader_draws_and_joins_counts():
    def doubled(samples, factor=2):
        return [factor * torch.stack(part) for part in zip(*samples, strict=True)]

    weights = [1.0] * 31 + [50.0]
    ways = [
        {},
        {"shuffle": True},
        {"collate_fn": doubled},
        {"collate_fn": functools.partial(doubled, factor=3)},
        {"sampler": WeightedRandomSampler([1.0] * 32, 32)},
        {"sampler": WeightedRandomSampler(weights, 32)},
    ]
    found = [of_loader(**way)["train"] for way in ways]
    assert None not in found
    assert len(set(found)) == len(ways)
    assert [of_loader(**way)["train"] for way in ways] == found


def test_a_file_is_one_and_the_same_by_whatever_name_it_was_loaded(tmp_path):
    """Run as a program, imported, or loaded as a task: a run begun one way goes on another way."""
    text = textwrap.dedent(
        """
        import torch
        from torch import nn
        import etude

        SIZE = 4

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.line = nn.Linear(2, SIZE)

            def forward(self, x):
                return self.line(x)

        def loss(output, target):
            return nn.functional.cross_entropy(output, target)

        def task():
            x = torch.ones(20, 2)
            return etude.Task(lambda: Net(), (x, x[:, 0].long()), loss=loss, name="mine")

        if __name__ == "__main__":
            from etude.tasks.references.fingerprint import fingerprint
            print(fingerprint(task()))
        """
    )
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    run = [sys.executable, str(tmp_path / "mine.py")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == str(fingerprint(tasks.load(f"{tmp_path / 'mine.py'}:task")))
