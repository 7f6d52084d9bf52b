"""Why no rate gets past an update, in a sentence."""

from __future__ import annotations

from etude.trials.pool import TrialPool


def cause_said(pool: TrialPool, update: int | None, cause: str) -> str:
    """Return why no rate gets past an update; empty where none is to blame but the rate."""
    if not cause:
        return ""
    kinds = {str(p.dtype).removeprefix("torch.") for p in pool.first.parameters}
    narrow = sorted(kinds & {"float16", "bfloat16"})
    said = (
        f"Every rate that came to update {update} broke there, and the rate is not the cause: "
        f"{cause}"
    )
    if not narrow:
        return f"{said}. Look at that data, and at what model and loss make of it."
    return (
        f"{said}. The weights are {narrow[0]}: keep them in float32, and give the recipe "
        "precision='bfloat16' for speed."
    )
