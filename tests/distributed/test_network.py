"""A network that is cut for ten seconds costs no update: two namespaces, joined by a veth pair.

The command is that of docs/scale.md. Namespaces need root and `ip` (Debian: iproute2).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude.record import Record

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
COMMAND = next(line for line in PAGE.splitlines() if line.startswith("torchrun --nnodes 2"))
SPACES = ("etude-one", "etude-two")
LINKS = ("etude-veth1", "etude-veth2")
CUT = 10.0
LIMIT = 300.0

pytestmark = pytest.mark.slow


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def remove() -> None:
    for space in SPACES:
        subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", LINKS[0]], check=False, capture_output=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, which see nothing but each other."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (Debian: apt-get install iproute2)")
    remove()
    try:
        for space in SPACES:
            ip("netns", "add", space)
        ip("link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1])
        for number, (space, link) in enumerate(zip(SPACES, LINKS, strict=True), 1):
            ip("link", "set", link, "netns", space)
            ip("-n", space, "address", "add", f"10.77.0.{number}/24", "dev", link)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", link, "up")
    except subprocess.CalledProcessError as error:
        remove()
        pytest.skip(f"this machine makes no network namespaces: {error.stderr}")
    yield
    remove()


def begin(node: int, folder: Path) -> subprocess.Popen[str]:
    words = shlex.split(COMMAND.replace("--node-rank 0", f"--node-rank {node}"))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": LINKS[node],
    }  # fmt: skip
    with (folder / f"said-{node}").open("w") as said:
        return subprocess.Popen(
            ["ip", "netns", "exec", SPACES[node],
             sys.executable, "-m", "torch.distributed.run", *words[1:], "--seed", "1"],
            env=environment, cwd=folder, stdout=said, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def weights(folder: Path) -> torch.Tensor:
    found = load_file(folder / "model.safetensors")
    return torch.cat([found[name].flatten() for name in sorted(found)])


def checkpoints(folder: Path) -> int:
    return len(list((folder / "checkpoints").glob("*"))) if folder.exists() else 0


def test_a_cut_of_ten_seconds_costs_no_update(tmp_path, network):
    runs = [begin(node, tmp_path) for node in (0, 1)]
    said = ""
    try:
        home, start = tmp_path / "runs" / "machines", time.monotonic()
        while checkpoints(home) < 2 and time.monotonic() < start + LIMIT:
            assert all(run.poll() is None for run in runs), (tmp_path / "said-0").read_text()
            time.sleep(0.02)
        ip("-n", SPACES[1], "link", "set", LINKS[1], "down")
        time.sleep(CUT)
        assert all(run.poll() is None for run in runs), "it ended before the network was back"
        ip("-n", SPACES[1], "link", "set", LINKS[1], "up")
        codes = [run.wait(LIMIT) for run in runs]
        said = "".join((tmp_path / f"said-{node}").read_text() for node in (0, 1))
        assert codes == [0, 0], said
    finally:
        for run in runs:
            run.terminate()
            run.wait(60)
    assert re.search("does not answer|lost the connection|reached nobody", said), said
    steps = int(re.search(r"--steps (\d+)", COMMAND)[1])
    record = Record.load(home)
    assert record.cost.steps == steps
    assert all(len(values) == steps for values in record.series.values())
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    undisturbed = subprocess.run(
        [sys.executable, "-m", "etude", "train", "digits-mlp", "--nproc", "2", "--steps",
         str(steps), "--seed", "1", "--out", str(tmp_path / "whole")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert undisturbed.returncode == 0, undisturbed.stdout
    assert torch.equal(weights(home), weights(tmp_path / "whole"))
    assert record.series["loss"].tolist() == Record.load(tmp_path / "whole").series["loss"].tolist()
