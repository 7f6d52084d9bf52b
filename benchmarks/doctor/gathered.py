"""The evidence of each case, kept in `cache/evidence/`, so that a verdict can be fitted anew.

A case has three parts, each its own file: `watch` (its own loop under the watch), `run` (check and
watched run of its task) and `probes`. A part is measured again when the case or its number in
`VERSIONS` changes.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import numpy as np
from torch import nn

import etude
from benchmarks.doctor.case import Case
from benchmarks.doctor.keep import CACHE, digest
from etude.diagnosis.diagnose import diagnose
from etude.diagnosis.finding import Cause, Finding, Symptom
from etude.diagnosis.history import (
    History,
    LargestSample,
    LayerInfo,
    OutputFault,
    ParameterInfo,
    Quantity,
    RunQuantity,
)
from etude.diagnosis.suspects import facts
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.measures import Measures, measures
from etude.diagnosis.verdict.probes import Probes, ShortProbe, probe
from etude.errors import EtudeError
from etude.record import Evaluation

FOLDER = CACHE / "evidence"

VERSIONS = {"watch": 4, "run": 4, "measures": 4, "probes": 2}
"""Raised by hand where the code that measures a part changes what it measures."""


def watched(case: Case) -> Evidence:
    """Run a case's own loop under the watch; return the evidence."""
    opened: list[Any] = []

    @contextlib.contextmanager
    def watcher(model: nn.Module, optimizer: Any) -> Iterator[None]:
        several = list(optimizer) if isinstance(optimizer, tuple) else optimizer
        with etude.watch(model, several, on_finding=lambda finding: None) as watch:
            opened.append(watch)
            yield

    case.run(watcher)
    known: Evidence = opened[0].evidence()
    return known


def _watch(case: Case) -> dict[str, Any]:
    return {"evidence": plain(watched(case))}


def _run(case: Case) -> dict[str, Any]:
    task, recipe = case.task(), case.recipe()
    started = time.perf_counter()
    found = diagnose(task, recipe, probes=0, progress=False)
    evaluations = () if found.record is None else found.record.evaluations
    broken = found.record is None or found.record.status.value != "finished"
    evidence = Evidence(found.findings, found.history, None, evaluations)
    return {
        "evidence": plain(evidence), "broken": broken, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def _measures(case: Case) -> dict[str, Any]:
    return {"measures": asdict(measures(case.task(), case.recipe()))}


def _probes(case: Case) -> dict[str, Any]:
    task, recipe, before = case.task(), case.recipe(), part(case, "run")
    found, known = read(before["evidence"]), Measures(**part(case, "measures")["measures"])
    if facts(found.findings):
        return {"probes": None, "seconds": 0.0}
    final = None if before["broken"] or not found.evaluations else found.evaluations[-1]
    started = time.perf_counter()
    probes = probe(task, recipe, known, final, engine="loop", progress=False)
    return {"probes": asdict(probes), "seconds": time.perf_counter() - started}


PARTS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "run": _run, "measures": _measures, "probes": _probes, "watch": _watch,
}  # fmt: skip


def part(case: Case, name: str, *, anew: bool = False) -> dict[str, Any]:
    """Return a part of a case's evidence: from its file, or from a run that writes it.

    Args:
        case: The case.
        name: The part.
        anew: Whether to measure it, whatever is there.
    """
    path = FOLDER / f"{case.name.replace('/', '+').replace(' ', '_')}.{name}.json.gz"
    told = f"{digest(case)} {VERSIONS[name]}"
    if path.exists() and not anew:
        content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        if content["digest"] == told:
            return content
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = {"digest": told, **PARTS[name](case)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(content).encode(), 3))
    return content


def evidence(case: Case, source: str) -> Evidence:
    """Return a case's evidence from 'watch', 'run', or 'probes' (the run, and the probes)."""
    if source == "watch":
        return read(part(case, source)["evidence"])
    known = Measures(**part(case, "measures")["measures"])
    found = replace(read(part(case, "run")["evidence"]), measures=known)
    certain = bool(facts(found.findings))
    seen = {f.what for f in found.findings}
    own = read(part(case, "watch")["evidence"]).findings  # the same run, but for its batches
    more = [f for f in own if isinstance(f.what, Cause) and f.what not in seen]
    found = replace(found, findings=(*found.findings, *more))
    if source == "run" or certain:  # where a cause is a fact, `diagnose` trains no probes
        return found
    probes = part(case, "probes")["probes"]
    if probes is None:  # a fact of an earlier run, which this one does not show
        probes = part(case, "probes", anew=True)["probes"]
    content = dict(probes)
    content["probes"] = tuple(ShortProbe(**row) for row in content["probes"])
    content["skipped"] = tuple(content["skipped"])
    return replace(found, probes=Probes(**content))


# ---- files -------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return evidence as values that JSON holds."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "shape": list(value.shape)}
    if isinstance(value, Finding):
        return {
            "what": str(value.what), "text": value.text, "layer": value.layer, "step": value.step,
            "evidence": dict(value.evidence), "fix": value.fix, "certain": value.certain,
        }  # fmt: skip
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "items"):
        return {str(name): plain(one) for name, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def read(content: dict[str, Any]) -> Evidence:
    """Return evidence from what `plain` made of it."""
    history = content["history"]
    return Evidence(
        tuple(_finding(one) for one in content["findings"]),
        None if history is None else _history(history),
        None,
        tuple(_evaluation(one) for one in content["evaluations"]),
    )


def _finding(content: dict[str, Any]) -> Finding:
    causes = {str(cause): cause for cause in Cause}
    what = content.pop("what")
    return Finding(causes[what] if what in causes else Symptom(what), **content)


def _evaluation(content: dict[str, Any]) -> Evaluation:
    known = {f.name for f in fields(Evaluation)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
        if name in known
    }
    return Evaluation(**values)


def _array(content: dict[str, Any]) -> np.ndarray:
    return np.array(content["array"]).reshape(content["shape"])


def _history(content: dict[str, Any]) -> History:
    values = dict(content)
    for name, value in values.items():
        if isinstance(value, dict) and set(value) == {"array", "shape"}:
            values[name] = _array(value)
    values["steps"] = values["steps"].astype(np.int64)
    values["layers"] = tuple(
        LayerInfo(**{**row, "parameters": tuple(row["parameters"])}) for row in values["layers"]
    )
    values["parameters"] = tuple(ParameterInfo(**row) for row in values["parameters"])
    fault = values.get("output_fault")
    values["output_fault"] = None if fault is None else OutputFault(*fault)
    largest = values.get("largest_samples", ())
    values["largest_samples"] = tuple(LargestSample(*one) for one in largest)
    values["optimizers"] = tuple(values.get("optimizers", ()))
    values["readings"] = {Quantity(n): _array(v) for n, v in values["readings"].items()}
    values["run_readings"] = {RunQuantity(n): _array(v) for n, v in values["run_readings"].items()}
    known = {f.name for f in fields(History)}
    return History(**{name: value for name, value in values.items() if name in known})


def has_task(case: Case) -> bool:
    """Return whether a task and a recipe of Etude's can stand for a case's own loop."""
    if case.in_loop:
        return False
    try:
        case.recipe()
    except EtudeError:
        return False
    return True


def gather(cases: list[Case]) -> Iterator[str]:
    """Measure what is missing of some cases; yield a line for each."""
    for case in cases:
        names = tuple(PARTS) if has_task(case) else ("watch",)
        started = time.perf_counter()
        try:
            for name in names:
                part(case, name)
            evidence(case, "probes" if len(names) > 1 else "watch")
        except Exception as error:  # noqa: BLE001  (one broken case must not stop the others)
            yield f"{case.name}: failed: {type(error).__name__}: {str(error)[:300]}"
            continue
        yield f"{case.name}: {time.perf_counter() - started:.1f} s"
