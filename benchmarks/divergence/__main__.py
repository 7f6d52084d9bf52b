"""How early a divergence is told, by Etude's rule and by those of others.

python -m benchmarks.divergence          # score what is recorded: ../results/divergence.md
python -m benchmarks.divergence record   # first train the runs that are not recorded yet
python -m benchmarks.divergence zoo      # first record the healthy open programs of the zoo
"""

from __future__ import annotations

import argparse

from benchmarks.divergence.record import record, record_zoo
from benchmarks.divergence.score import write

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=("record", "zoo"), default=[])
    given = parser.parse_args()
    if "record" in given.parts:
        record()
    if "zoo" in given.parts:
        record_zoo()
    write()
