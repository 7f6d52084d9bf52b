"""Tune the learning rate of a loop that trains with Hugging Face's Accelerator."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_wine
from torch import nn
from torch.nn.functional import cross_entropy

from etude.interop.accelerate import AcceleratorReport, tune

wine = load_wine()
inputs = torch.tensor(wine.data, dtype=torch.float32)
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
labels = torch.tensor(wine.target)


def train(lr: float, report: AcceleratorReport) -> nn.Module:
    """Train a network from where it was paused."""
    accelerator = Accelerator(cpu=True)
    model: nn.Module = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr))
    done = report.resume(accelerator)
    for step in range(done + 1, 101):
        rows = torch.randint(0, 140, (32,))
        loss = cross_entropy(model(inputs[rows]), labels[rows])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        report(step, lambda: cross_entropy(model(inputs[140:]), labels[140:]).item())
    return model


if __name__ == "__main__":
    best = tune(train, steps=100)
    print(f"rate {best.lr}, ties with {best.tied}, for {best.cost:.2f} full runs")
