"""The figures of reports, and what they share."""
