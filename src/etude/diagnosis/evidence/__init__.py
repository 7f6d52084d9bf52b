"""What the loss, its targets and the first inputs of a run show, and the causes that they prove."""
