"""Records or scores; see the package."""

from __future__ import annotations

import sys

from benchmarks.divergence.record import record

if __name__ == "__main__":
    if "record" in sys.argv[1:]:
        record()
