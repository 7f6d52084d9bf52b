"""Tune your own network: run it, or `etude tune examples/own_network.py:task`.

The command takes the object `recipe` of this file too.
"""

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.nn.functional import cross_entropy

import etude

wine = load_wine()
inputs = torch.tensor(wine.data, dtype=torch.float32)
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
labels = torch.tensor(wine.target)


def make_network() -> nn.Module:
    """Build the network; called once for each rate, always with the same seed."""
    return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))


task = etude.Task(
    make_network, train=(inputs, labels), valid=0.25, loss=cross_entropy, metric="accuracy"
)
recipe = etude.Recipe(optimizer="adamw", schedule="warmup('5%') >> cosine()", steps=400)

if __name__ == "__main__":
    best = etude.tune(task, recipe, budget=3.0)
    print(f"rate {best.lr}, ties with {best.tied}, broke at {best.stable_below}")
    print(f"accuracy {best.metric:.1%} for {best.cost:.2f} full runs")
    predictions = best.model(inputs).argmax(1)  # the trained network
