"""One file for each kind of result: what is told of it. `etude.report.registry` finds them all."""
