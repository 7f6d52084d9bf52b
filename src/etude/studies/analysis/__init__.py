"""What the trials of a study show together: intervals, drift, ranks, edges, contrasts."""
