"""Schedules that follow a metric: pure functions of a log of events."""
