"""What is checked before, during and after training, so that a fault is named."""
