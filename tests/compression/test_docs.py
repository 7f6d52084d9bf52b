"""The commands of docs/scale.md on compressed models, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path):
    pytest.importorskip("torchao")
    section = PAGE.read_text().split("## Compressed models")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    env = {**os.environ, "ETUDE_STATE_DIR": str(tmp_path / "state")}
    for line in block.splitlines():
        words = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, (line, done.stderr)
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    assert made == {"cnn", "cnn-prune-0.8", "cnn-structured-0.5", "cnn-int8-dynamic"}
