"""One primary cause with a calibrated probability, from all that was seen of a run."""
