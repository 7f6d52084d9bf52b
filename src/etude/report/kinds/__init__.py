"""The reports, one file for each type of result. `etude.report.registry` finds the files."""
