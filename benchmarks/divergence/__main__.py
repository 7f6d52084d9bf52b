"""Records or scores; see the package."""

from __future__ import annotations

import sys

from benchmarks.divergence.record import record, record_zoo
from benchmarks.divergence.score import write

if __name__ == "__main__":
    if "record" in sys.argv[1:]:
        record()
    if "zoo" in sys.argv[1:]:
        record_zoo()
    write()
