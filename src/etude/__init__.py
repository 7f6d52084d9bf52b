"""Etude: the learning rate of neural networks."""
