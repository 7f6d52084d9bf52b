"""How far several processes are from one: weights after 100 updates in float64, on this machine.

Every case of tests/distributed is trained in one process, in 2 and in 4, at the same global batch.
The table gives the largest difference of any weight, of any training loss, and of any evaluation.

    python -m benchmarks.scale

The table goes to benchmarks/results/scale.md and docs/scale.md, between two marks.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import arguments
from tests.distributed.equalities import CASES
from tests.distributed.together import result_of, together

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "benchmarks" / "results" / "scale.md", ROOT / "docs" / "scale.md")
BEGIN, END = "<!-- equality: begin -->", "<!-- equality: end -->"
COUNTS = (2, 4)

WHAT = {
    "mlp": "dense, SGD with momentum",
    "mlp_adamw_clipped": "dense, AdamW, clipped by norm",
    "cnn": "convolutional, batch norm; metric F1",
    "lstm": "LSTM, Adam, clipped; metric AUC",
    "transformer": "transformer, AdamW, ignored targets",
    "accumulated": "transformer, 3 batches an update, L2",
    "activity": "dense, 2 batches an update, L1 and activity",
    "remainder": "DataLoader, last batch of 5",
    "one_left": "DataLoader, last batch of 1",
    "step_pair": "own step with weights, 2 batches",
    "turns": "two parts in turn, batch norm",
    "closure": "L-BFGS, all samples",
    "plateau": "rate and end from the validation loss",
    "skipping": "spikes skipped",
    "unused": "a layer without gradient",
    "carrying": "a state carried in evaluation",
}


def difference(one: Any, other: Any) -> float:
    """Return the largest absolute difference of two lists of numbers; NaN equals NaN."""
    a, b = np.asarray(one, dtype=float).ravel(), np.asarray(other, dtype=float).ravel()
    both = np.isnan(a) & np.isnan(b)
    return float(np.max(np.where(both, 0.0, np.abs(a - b)), initial=0.0))


def compared(found: dict[str, Any], alone: dict[str, Any]) -> tuple[float, float, float]:
    """Return the largest difference of weights, of losses and of evaluations."""
    if "error" in found:
        raise RuntimeError(found["trace"])
    weights = max(
        difference(found["weights"][name], value) for name, value in alone["weights"].items()
    )
    losses = difference(found["series"]["loss"], alone["series"]["loss"])
    evaluations = difference(
        [e[1] for e in found["evaluations"]], [e[1] for e in alone["evaluations"]]
    )
    return weights, losses, evaluations


def table() -> str:
    """Return the table of all cases, as Markdown."""
    torch.set_num_threads(1)
    alone = {name: result_of(name) for name in CASES}
    lines = [
        "| case | updates | weights, 2 | weights, 4 | losses, 4 | evaluations, 4 |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[int, dict[str, list[Any]]] = {}
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            found[count] = together(Path(folder), count, *CASES)
    for name in CASES:
        two, four = (compared(found[count][name][0], alone[name]) for count in COUNTS)
        numbers = " | ".join(f"{value:.1e}" for value in (two[0], *four))
        lines.append(f"| {WHAT[name]} | {alone[name]['steps']} | {numbers} |")
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Write a table between the marks of a page, which is made if it is not there."""
    section = f"{BEGIN}\n{text}\n{END}"
    if not page.exists():
        page.write_text(f"# Scale\n\n## Several processes equal one\n\n{section}\n")
        return
    old = page.read_text()
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(old):
        page.write_text(f"{old.rstrip()}\n\n## Several processes equal one\n\n{section}\n")
        return
    page.write_text(pattern.sub(lambda _: section, old))


def main() -> None:
    """Measure, and write the table."""
    arguments.read(__doc__)
    found = table()
    print(found)
    for page in PAGES:
        write(page, found)


if __name__ == "__main__":
    main()
