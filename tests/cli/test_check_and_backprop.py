"""`etude check` and `etude backprop`: exit status, JSON, page."""

from __future__ import annotations

from pathlib import Path

FAULTY = """
import torch
from etude import Recipe, Task

x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
net = lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1))
task = Task(net, (x, (x[:, 0] > 0).long()), loss=torch.nn.functional.cross_entropy)
recipe = Recipe(lr=0.01, steps=20, batch_size=16)
"""


def test_a_healthy_task_is_told_in_one_line(etude):
    said = etude("check", "cancer-mlp", "--with", "width=8")
    assert said.code == 0
    assert said.out.split() == ["cancer-mlp:", "healthy"]
    more = etude("check", "cancer-mlp", "--with", "width=8", "--verbose")
    assert "looked at" in more.out
    assert "against chance" in more.out


def test_a_fault_is_told_and_ends_with_status_1(etude):
    Path("own.py").write_text(FAULTY)
    said = etude("check", "own.py:task")
    assert said.code == 1
    assert "wrong loss or output" in said.out
    assert "Leave the softmax out of the network." in said.out
    read = etude("check", "own.py:task", "--json")
    assert read.code == 1
    assert read.json["healthy"] is False
    assert read.json["findings"][0]["what"] == "wrong_loss_or_output"


def test_backprop_prints_the_chain_and_writes_a_page(etude):
    said = etude("backprop", "cancer-mlp", "--batch", "8", "--save", "step.html")
    assert said.code == 0
    for text in ("8 samples", "layers.0.linear", "factor", "update / weights", "step.html"):
        assert text in said.out
    page = Path("step.html").read_text()
    assert "The gradient on its way back" in page
    assert "plotly" in page.lower()


def test_backprop_as_json(etude):
    read = etude("backprop", "cancer-mlp", "--after", "3", "--json").json
    assert read["step"] == 3
    assert read["layers"][0]["name"] == "input"
    assert read["html"] is None


def test_two_sizes_of_the_batch_are_refused(etude):
    said = etude("backprop", "cancer-mlp", "--batch", "8", "--batch-size", "16")
    assert said.code == 2
    assert "give one of them" in said.err
