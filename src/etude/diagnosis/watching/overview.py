"""What a watch looked at, and what it could not see, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.diagnosis.history import History, Quantity, RunQuantity
from etude.diagnosis.symptoms.departure import ENOUGH, too_short
from etude.diagnosis.watching.loop_reader import LoopReader
from etude.diagnosis.watching.sampling import BOUND


def seen(history: History, reader: LoopReader) -> tuple[str, ...]:
    """Return what was looked at; empty if no update was read."""
    if not history.samples:
        return ()
    found = [
        f"{history.samples} of {history.updates} updates, lately one in {history.period}",
        f"{len(history.layers)} layers with {len(history.parameters)} parameters",
    ]
    if np.isfinite(history.overhead):
        found.append(f"the watch took {history.overhead:.1%} of the loop's own time")
    if rested := reader.sampler.rested_updates:
        heard = history.updates - rested
        found.append(
            f"the losses of {heard} of {history.updates} updates, since hearing each would take "
            f"more than {BOUND:.0%} of the time"
        )
    names = {
        "gradients": history.parameter_gradients,
        "updates": history.parameter_updates,
        "activations": history.of_layers(Quantity.ACTIVATION_VARIANCE),
        "losses": history.loss,
        "clipping": history.of_run(RunQuantity.CLIPPED),
        "gradient noise": history.of_run(RunQuantity.NOISE_OVER_BATCH),
        "curvature": history.of_run(RunQuantity.RATE_OVER_CRITICAL),
    }
    readable = [name for name, values in names.items() if np.any(~np.isnan(values))]
    return (*found, *readable)


def unseen(
    history: History,
    reader: LoopReader,
    *,
    compiled: bool,
    hookless: Sequence[str],
    error: str,
) -> tuple[str, ...]:
    """Return what could not be seen, and why, one sentence each.

    Args:
        history: What was read.
        reader: What read it.
        compiled: Whether the model goes through `torch.compile`.
        hookless: The classes of models whose forward pass is not read.
        error: The error that stopped the watch; '' if none did.
    """
    found = []
    if not len(reader.table):
        found.append("The model has no parameters.")
    if not history.updates:
        found.append("No step of the optimizer was seen.")
    elif not history.samples:
        found.append("No update was read.")
    if error:
        found.append(f"The watch stopped after {history.updates} updates with {error}.")
    if history.updates and not np.any(np.isfinite(history.loss)) and not reader.backwards:
        found.append(
            "The losses were not seen, since torch.autograd.backward was not called: "
            "call log(loss=...) before each step."
        )
    elif history.samples and too_short(history):
        found.append(
            f"The run is too short: {np.isfinite(history.loss).sum()} losses were read, and "
            f"{ENOUGH} are needed to call a run healthy."
        )
    if compiled:
        found.append("Activations cannot be read, since the model is compiled.")
    elif hookless:
        found.append(
            f"Activations are not read, since a hook would change how {hookless[0]} evaluates."
        )
    elif history.updates and not reader.forwards:
        found.append(
            "Activations were not read, since the model itself was not called in a sampled update "
            "(only parts of it, or a compiled or replicated copy)."
        )
    if history.updates and reader.losses.amp:
        found.append(
            "Whether updates are clipped cannot be seen, since a GradScaler scales the loss."
        )
    if reader.curvature is not None and reader.curvature.error:
        found.append(
            f"The curvature could not be measured: loss() failed with {reader.curvature.error}. "
            "Let it return the loss of the current batch without calling backward."
        )
    gates = np.any(np.isfinite(history.of_layers(Quantity.GATES_SATURATED)), axis=0).tolist()
    recurrent = [
        layer.name
        for layer, read in zip(history.layers, gates, strict=True)
        if layer.kind == "recurrent" and not read
    ]
    if recurrent:
        found.append(f"The gates inside {', '.join(recurrent[:3])} cannot be read.")
    return tuple(found)
