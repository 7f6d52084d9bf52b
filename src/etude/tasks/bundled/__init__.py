"""Real data that a dependency ships, by source; loaded on first use, once per process."""
