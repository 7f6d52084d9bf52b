"""Multipliers of the learning rate for parameters, or slices of parameters.

Reading and comparing multipliers loads no torch; applying them to a model does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.errors import MovedError
from etude.torch_version import require_torch

if TYPE_CHECKING:
    from etude.layerwise.flow import Flow, trace
    from etude.layerwise.model_parts import parts_of
    from etude.layerwise.parts import Part
    from etude.layerwise.planning import Plan, PlanRow, plan
    from etude.layerwise.policies.mup import mup_from, rescale
    from etude.layerwise.policies.text import POLICIES, parse_policies
    from etude.layerwise.rates import Rates, apply, rates_of
    from etude.layerwise.spec import LrMult, Rule

require_torch()

_MODULES = {
    "Flow": "flow",
    "LrMult": "spec",
    "POLICIES": "policies.text",
    "Part": "parts",
    "Plan": "planning",
    "Rates": "rates",
    "PlanRow": "planning",
    "Rule": "spec",
    "parts_of": "model_parts",
    "apply": "rates",
    "mup_from": "policies.mup",
    "parse_policies": "policies.text",
    "plan": "planning",
    "rates_of": "rates",
    "rescale": "policies.mup",
    "trace": "flow",
}

__all__ = [
    "POLICIES",
    "Flow",
    "LrMult",
    "Part",
    "Plan",
    "PlanRow",
    "Rates",
    "Rule",
    "apply",
    "mup_from",
    "parse_policies",
    "parts_of",
    "plan",
    "rates_of",
    "rescale",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name == "Row":
        raise MovedError("etude.layerwise.Row is now etude.layerwise.PlanRow")
    if name == "anatomy":
        raise MovedError("etude.layerwise.anatomy is now etude.layerwise.parts_of")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"etude.layerwise.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
