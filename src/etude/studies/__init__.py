"""Studies: the learning rate × architectures, optimizers, schedules, batch sizes and seeds."""
