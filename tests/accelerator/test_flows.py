"""On a device that refuses tensors of two devices, everything runs and gives what the CPU gives.

The device is compiled, and registered in a process of its own: torch keeps it for good.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.accelerator.device import build
from tests.accelerator.flows import FLOWS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each flow by name, with the error that it ended with."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++, which compiles the device")
    library = build(tmp_path_factory.mktemp("device"), compiler)
    command = [sys.executable, "-m", "tests.accelerator.flows", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {one["name"]: one["error"] for one in told}


@pytest.mark.parametrize("name", FLOWS)
def test_it_runs_on_the_device(errors, name):
    assert not errors[name], errors[name]
