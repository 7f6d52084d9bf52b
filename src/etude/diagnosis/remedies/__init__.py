"""What mends a cause, tried against an unchanged control before it is recommended."""

from etude.diagnosis.remedies.remedy import Applied, Remedy
from etude.diagnosis.remedies.repair import check_budget, repair
from etude.diagnosis.remedies.result import Attempt, Repair
from etude.diagnosis.remedies.table import OF_CAUSE, REMEDIES, remedies_for

__all__ = [
    "OF_CAUSE",
    "REMEDIES",
    "Applied",
    "Attempt",
    "Remedy",
    "Repair",
    "check_budget",
    "remedies_for",
    "repair",
]
