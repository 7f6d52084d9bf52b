"""The commands of docs/scale.md about processes run, one after another, in one folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SECTION = re.search(r"\n## Data-parallel training\n.*?(?=\n## |\Z)", PAGE, re.DOTALL)
assert SECTION is not None
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", SECTION[0], re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("etude ", "torchrun ")) and "--nnodes" not in line
]

pytestmark = pytest.mark.slow


def words(line: str) -> list[str]:
    program, *rest = shlex.split(line)
    module = {"etude": "etude", "torchrun": "torch.distributed.run"}[program]
    return [sys.executable, "-m", module, *rest]


def test_the_commands_of_the_page_run(tmp_path):
    assert len(LINES) >= 5
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for line in LINES:
        done = subprocess.run(
            words(line),
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert done.stdout.count("run folder") == 1, done.stdout
    notes = json.loads((tmp_path / "runs" / "together" / "notes.json").read_text())
    assert notes["world"] == {"processes": 2, "backend": "gloo"}
