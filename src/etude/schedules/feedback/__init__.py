"""Schedules that react to a metric: pure functions of a log of events."""
