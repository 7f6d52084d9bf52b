"""What happens to a gradient between the backward pass and the optimizer's update."""
