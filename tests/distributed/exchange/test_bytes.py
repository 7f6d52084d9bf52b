"""The bytes that are counted: by the formula of each collective, and by the kernel's counters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from etude.distributed.exchange.counting import CountingGroup
from tests.distributed.exchange.common import LENGTH, Replica, in_ranks

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_each_collective_counts_what_a_ring_sends(count):
    def run(group):
        counting = CountingGroup(group)
        dist.all_reduce(torch.zeros(12, dtype=torch.float64), group=counting)
        reduced = counting.bytes_sent
        rows = [torch.empty(5) for _ in range(count)]
        dist.all_gather(rows, torch.full((5,), float(group.rank())), group=counting)
        assert [row[0].item() for row in rows] == list(range(count))
        return reduced, counting.bytes_sent - reduced, counting.calls

    expected = (round(2 * (count - 1) / count * 96), (count - 1) * 20, 2)
    assert in_ranks(count, run) == [expected] * count


def test_a_method_sends_what_its_formula_says():
    """Of the network 6-48-48-2, with 2 processes: a ring sends each number once."""
    sizes = (6 * 48 + 48, 48 * 48 + 48, 48 * 2 + 2)
    whole = 4 * sum(sizes)

    def sent(name):
        return in_ranks(2, lambda g: Replica(g, name).train(LENGTH).exchange.bytes_sent)[0]

    assert sent("none") == LENGTH * whole
    assert sent("fp16") == sent("bf16") == LENGTH * whole // 2
    # Rank 1 of 48×6 and 48×48; the head, 2×48, would only shrink to 50 numbers of 96.
    thin = 4 * (48 + 6 + 48 + 48 + 96 + 48 + 48 + 2)
    assert sent("powersgd") == 2 * whole + (LENGTH - 2) * thin
    # ⌈0.1 n⌉ entries of each tensor, a float and an int each.
    assert sent("topk(ratio=0.1)") == LENGTH * 8 * (29 + 5 + 231 + 5 + 10 + 1)
    assert sent("local-sgd(period=3, start=0)") == LENGTH // 3 * whole
    assert sent("diloco(inner=5)") == 3 * whole  # after 5, 10, and the last


def command() -> list[str] | None:
    """Return the words that start a program in a network namespace of its own; None without."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return None
    for words in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        tried = subprocess.run([*words, "ip", "link", "set", "lo", "up"], capture_output=True)
        if tried.returncode == 0:
            return words
    return None


@pytest.mark.slow
def test_the_count_is_what_the_kernel_sends_on_the_loopback_device():
    """Beside the counted bytes there are the headers of gloo and TCP, and acknowledgements."""
    if not sys.platform.startswith("linux") or (words := command()) is None:
        pytest.skip("no network namespaces here: they need iproute2 and the rights")
    methods = ["none", "fp16", "topk(ratio=0.1)", "powersgd(rank=8)", "diloco(inner=2)"]
    program = f"ip link set lo up && exec {sys.executable} -m tests.distributed.exchange.wire"
    done = subprocess.run(
        [*words, "sh", "-c", f"{program} " + " ".join(f"'{m}'" for m in methods)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for method, (counted, sent) in found.items():
        assert counted > 0
        assert counted <= sent <= 1.1 * counted + 50_000, (method, counted, sent)
