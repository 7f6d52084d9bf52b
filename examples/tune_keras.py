"""Tune the learning rate of `model.fit` of Keras."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from sklearn.datasets import load_wine

from etude.interop.keras import tune

wine = load_wine()
order = np.random.default_rng(0).permutation(len(wine.target))
inputs = ((wine.data - wine.data.mean(0)) / wine.data.std(0))[order].astype("float32")
model = keras.Sequential(
    [keras.layers.Input((13,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3)]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

if __name__ == "__main__":
    best = tune(model, inputs, wine.target[order], 1.5, epochs=5, validation_split=0.2)
    print(f"rate {best.lr}, ties with {best.tied}, for {best.cost:.2f} calls of fit")
