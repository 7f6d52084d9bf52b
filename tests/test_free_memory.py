"""Free memory: what the system says, and no more than a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude import free_memory as module
from etude.free_memory import _left_by_limits, free_memory


def group(folder: Path, most: int | str, used: int, cached: int, *, old: bool = False) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit, taken, inactive = names if old else ("memory.max", "memory.current", "inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text(f"{most}\n")
    (folder / taken).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{inactive} {cached}\nshmem 0\n")


def left(tmp_path: Path, line: str) -> list[int]:
    member = tmp_path / "cgroup"
    member.write_text(line)
    return list(_left_by_limits(member, tmp_path))


def test_a_limit_leaves_what_is_not_taken_or_only_caches_files(tmp_path):
    group(tmp_path / "job", 1000, 700, 250)
    assert left(tmp_path, "0::/job\n") == [550]


def test_every_group_around_has_its_say(tmp_path):
    group(tmp_path / "slice", 500, 400, 0)
    group(tmp_path / "slice" / "job", "max", 300, 0)
    group(tmp_path / "slice" / "job" / "inner", 1000, 300, 0)
    assert left(tmp_path, "0::/slice/job/inner\n") == [700, 100]


def test_in_a_container_the_path_is_the_hosts_and_the_root_is_ours(tmp_path):
    group(tmp_path, 1000, 200, 0)
    assert left(tmp_path, "0::/docker/0123abc\n") == [800]


def test_the_older_groups_are_read_too(tmp_path):
    group(tmp_path / "memory" / "job", 1000, 900, 50, old=True)
    lines = "12:cpu,cpuacct:/job\n5:memory:/job\n1:name=systemd:/job\n0::/other\n"
    assert left(tmp_path, lines) == [150]


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path):
    group(tmp_path, 100, 120, 0)
    assert left(tmp_path, "0::/\n") == [0]


def test_without_groups_there_is_no_limit(tmp_path):
    assert list(_left_by_limits(tmp_path / "none", tmp_path)) == []


@given(st.integers(0, 2**44), st.lists(st.integers(0, 2**44), max_size=3))
def test_the_tightest_bound_holds(available, limits):
    with pytest.MonkeyPatch.context() as patch:
        seen = type("Seen", (), {"available": available})
        patch.setattr(psutil, "virtual_memory", lambda: seen)
        patch.setattr(module, "_left_by_limits", lambda: iter(limits))
        found = free_memory(torch.device("cpu"))
    assert found == min([available, *limits]) == free_memory_of(available, limits)


def free_memory_of(available: int, limits: list[int]) -> int:
    return sorted([available, *limits])[0]


def test_this_machine_has_some_and_less_than_in_all():
    assert 2**20 < free_memory() <= psutil.virtual_memory().total
