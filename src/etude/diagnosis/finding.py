"""`Finding`: one thing that is wrong, with its evidence. `Diagnosis`: all that was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from etude.record import to_json

if TYPE_CHECKING:
    from etude.diagnosis.history import History


class Symptom(StrEnum):
    """What is seen: each is equal to the word that JSON holds."""

    VANISHING = "vanishing"
    EXPLODING = "exploding"
    DEAD = "dead"
    SATURATED = "saturated"
    DIVERGING = "diverging"
    OSCILLATING = "oscillating"
    STALLED = "stalled"
    SLOW = "slow"
    SPIKING = "spiking"
    OVERFITTING = "overfitting"
    CONSTANT_OUTPUT = "constant_output"
    SILENT_PARAMETER = "silent_parameter"


class Cause(StrEnum):
    """What is wrong: each is equal to the word that JSON holds."""

    LR_TOO_HIGH = "lr_too_high"
    LR_TOO_LOW = "lr_too_low"
    WARMUP_MISSING = "warmup_missing"
    BAD_INITIALISATION = "bad_initialisation"
    SATURATING_ACTIVATION = "saturating_activation"
    MISSING_NORMALISATION = "missing_normalisation"
    MISSING_RESIDUAL = "missing_residual"
    MISSING_CLIPPING = "missing_clipping"
    UNSCALED_INPUTS = "unscaled_inputs"
    UNSCALED_TARGETS = "unscaled_targets"
    WRONG_LOSS_OR_OUTPUT = "wrong_loss_or_output"
    WRONG_LAST_LAYER = "wrong_last_layer"
    GRADIENTS_NOT_CLEARED = "gradients_not_cleared"
    PARAMETERS_NOT_TRAINED = "parameters_not_trained"
    EVAL_MODE_IN_TRAINING = "eval_mode_in_training"
    LABELS_DO_NOT_MATCH = "labels_do_not_match"
    BAD_DATA = "bad_data"
    DATA_NOT_SHUFFLED = "data_not_shuffled"
    BATCH_TOO_SMALL = "batch_too_small"
    BATCH_TOO_LARGE = "batch_too_large"
    TOO_MUCH_REGULARISATION = "too_much_regularisation"
    TOO_LITTLE_REGULARISATION = "too_little_regularisation"
    OPTIMIZER_MISMATCH = "optimizer_mismatch"
    SAMPLES_MIXED = "samples_mixed"
    NOT_REPEATABLE = "not_repeatable"


@dataclass(frozen=True)
class Finding:
    """One symptom or cause, with what shows it.

    Attributes:
        what: The symptom or the cause.
        text: One sentence that states what was seen.
        layer: The dotted name of the layer or parameter; None if it concerns the whole run.
        step: The update at which it was seen, counted from 0; None before training.
        evidence: The numbers and names that the sentence states.
        fix: One sentence that says what to do; '' if that cannot be told from this alone.
        certain: Whether it is read from the data or the network and no run could contradict it:
            training cannot begin, has nothing to learn, or never reaches a part that it should.

    >>> found = Finding(Symptom.DEAD, "40 of 64 units never fire.", layer="2", step=30)
    >>> print(found)
    dead in 2, update 30: 40 of 64 units never fire.
    """

    what: Symptom | Cause
    text: str
    layer: str | None = None
    step: int | None = None
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    fix: str = ""
    certain: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", MappingProxyType(dict(self.evidence)))

    def __str__(self) -> str:
        where = f" in {self.layer}" if self.layer is not None else ""
        when = f", update {self.step}" if self.step is not None else ""
        text = f"{self.what.replace('_', ' ')}{where}{when}: {self.text}"
        return f"{text} {self.fix}" if self.fix else text

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON.

        >>> Finding(Cause.BAD_DATA, "3 inputs are NaN.", evidence={"nan": 3.0}).to_dict()["what"]
        'bad_data'
        """
        return {
            "what": str(self.what),
            "kind": "symptom" if isinstance(self.what, Symptom) else "cause",
            "layer": self.layer,
            "step": self.step,
            "text": self.text,
            "fix": self.fix,
            "certain": self.certain,
            "evidence": {
                name: value if isinstance(value, str) else to_json(float(value))
                for name, value in self.evidence.items()
            },
        }


def chance(probability: float) -> str:
    """Return a probability in words: 'certain' is said of 1 alone.

    >>> chance(0.84), chance(0.998), chance(1.0)
    ('84%', 'over 99%', 'certain')
    """
    if probability == 1.0:
        return "certain"
    return f"{probability:.0%}" if probability < 0.995 else "over 99%"


@dataclass(frozen=True)
class Verdict:
    """The one primary cause, or that the run is healthy, with the probability of being right.

    Attributes:
        faulty: Whether something is wrong.
        cause: What is wrong; None if nothing is, or if no cause is likely enough.
        probability: Of the cause; if none is named, that something is wrong, or that nothing is.
            1 where a finding is certain.
        ranked: The likeliest causes with their probabilities, in order. If several are certain,
            each has the probability 1: all of them have to be mended.
        evidence: What speaks for the cause, one sentence each.
        follows: The symptoms that were seen and that follow from the cause.
        layer: The layer at fault; None where the cause has none, or it is not known.
        step: The update at which it was first seen; None if it was seen in no update.
        reliability: How often such verdicts were right, as a sentence.

    >>> print(Verdict(True, Cause.LR_TOO_LOW, 0.84, evidence=("No layer moved.",)))
    lr_too_low (84%): No layer moved.
    >>> print(Verdict(False, None, 0.97))
    healthy (97%)
    >>> print(Verdict(True, Cause.BAD_DATA, 1.0, evidence=("The inputs hold NaN.",)))
    bad_data (certain): The inputs hold NaN.
    """

    faulty: bool
    cause: Cause | None
    probability: float
    ranked: tuple[tuple[Cause, float], ...] = ()
    evidence: tuple[str, ...] = ()
    follows: tuple[Symptom, ...] = ()
    layer: str | None = None
    step: int | None = None
    reliability: str = ""

    def __str__(self) -> str:
        if not self.faulty:
            return f"healthy ({chance(self.probability)})"
        if self.cause is None:
            likely = ", ".join(f"{cause} {chance(p)}" for cause, p in self.ranked[:3])
            text = f"something is wrong ({chance(self.probability)}), I cannot tell what"
            return f"{text}; the likeliest: {likely}" if likely else text
        where = f" in {self.layer}" if self.layer is not None else ""
        text = f"{self.cause}{where} ({chance(self.probability)})"
        text = f"{text}: {' '.join(self.evidence)}" if self.evidence else text
        if self.follows:
            names = ", ".join(str(one).replace("_", " ") for one in self.follows)
            text += f" From it follows what was seen: {names}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "faulty": self.faulty,
            "cause": None if self.cause is None else str(self.cause),
            "probability": self.probability,
            "ranked": [{"cause": str(cause), "probability": p} for cause, p in self.ranked],
            "evidence": list(self.evidence),
            "follows": list(map(str, self.follows)),
            "layer": self.layer,
            "step": self.step,
            "reliability": self.reliability,
        }


@dataclass(frozen=True)
class Diagnosis:
    """All that was found, and what was looked at.

    Attributes:
        findings: What is wrong, in the order in which it was seen.
        seen: What was looked at, one phrase each.
        unseen: What could not be looked at, and why, one sentence each.
        history: The readings of the run; None if nothing was trained.
        verdict: The primary cause; None if nothing was trained and no finding is certain, or if the
            run is too short to tell.
        too_short: Whether too few losses were read to call the run healthy.

    >>> print(Diagnosis((), seen=("20 updates",)))
    healthy
    >>> print(Diagnosis((), unseen=("No update was seen.",)))
    cannot tell: No update was seen.
    """

    findings: tuple[Finding, ...] = ()
    seen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    history: History | None = None
    verdict: Verdict | None = None
    too_short: bool = False

    @property
    def healthy(self) -> bool:
        """Whether something was looked at, nothing was found, and the verdict is no fault.

        A run that is too short to tell is not called healthy.
        """
        suspected = self.verdict is not None and self.verdict.faulty
        nothing = not self.findings and not suspected
        return nothing and bool(self.seen) and not self.too_short

    def __str__(self) -> str:
        if self.healthy:
            return "healthy"
        if not self.findings and self.verdict is None:
            return " ".join(["cannot tell:", *(self.unseen or ["Nothing was looked at."])])
        first = [] if self.verdict is None else [str(self.verdict)]
        unseen = [f"not seen: {one}" for one in self.unseen]
        return "\n".join([*first, *map(str, self.findings), *unseen])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON, without the history.

        >>> Diagnosis((), seen=("20 updates",)).to_dict()["healthy"]
        True
        """
        return {
            "healthy": self.healthy,
            "too_short": self.too_short,
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "seen": list(self.seen),
            "unseen": list(self.unseen),
        }
