"""Task + Recipe -> Record: the plain loop, evaluation, checkpoints."""
