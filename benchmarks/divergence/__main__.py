"""How early a divergence is told, by Etude's rule and by those of others.

python -m benchmarks.divergence          # score what is recorded: ../results/divergence.md
python -m benchmarks.divergence record   # first train the runs that are not recorded yet
python -m benchmarks.divergence zoo      # first record the healthy open programs of the zoo
"""

from __future__ import annotations

from benchmarks import arguments
from benchmarks.divergence.record import record, record_zoo
from benchmarks.divergence.score import write

RECORDERS = {"record": record, "zoo": record_zoo}

if __name__ == "__main__":
    parts, _ = arguments.read(__doc__, names="part")
    for part in parts:
        if part not in RECORDERS:
            raise SystemExit(f"unknown part {part!r}: give record or zoo")
        RECORDERS[part]()
    write()
