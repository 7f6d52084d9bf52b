"""Real data that ships in a dependency, by source; loaded when asked for, once a process."""
