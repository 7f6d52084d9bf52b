"""How much memory may still be taken: of a GPU, of the machine, of the container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

SELF = Path("/proc/self/cgroup")
CONTROL = Path("/sys/fs/cgroup")


def free_memory(device: torch.device | None = None) -> int:
    """Return the bytes that can be taken of a device's memory without anything being moved out.

    On the CPU it is what the system can give without swapping, the pages that only cache files
    included, and no more than what the limits on the process's control groups leave: a container
    is shown the whole machine's memory, and is killed at its own limit.

    Args:
        device: A CUDA device, or the CPU; None takes the CPU.

    >>> free_memory() > 0
    True
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # here, since little of Etude asks

    return min([int(psutil.virtual_memory().available), *_left_by_limits()])


def _left_by_limits(membership: Path = SELF, control: Path = CONTROL) -> Iterator[int]:
    """Yield what the limit of each control group around this process leaves.

    Args:
        membership: Lines 'number:controllers:path' of the groups that the process is in.
        control: Where the system shows the groups as folders.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # only Linux has them
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _up(control, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _up(control / "memory", path, first)


def _up(root: Path, path: str, files: tuple[str, str, str]) -> Iterator[int]:
    """Yield what is left in a group and in every group that holds it: each has its own limit.

    Within a container the path may be that of the host, where only the root is seen.
    """
    limit, taken, cached = files
    folder = root / path.lstrip("/")
    for place in (folder, *folder.parents):
        try:
            most = int((place / limit).read_text())
            used = int((place / taken).read_text())
            yield max(0, most - used + _cached(place / "memory.stat", cached))
        except (OSError, ValueError):  # no such group, no limit ('max'), or none to be seen
            pass
        if place == root:
            return


def _cached(stat: Path, name: str) -> int:
    """Return the bytes that count as used, and only cache files: they are given up first."""
    rows = (line.split() for line in stat.read_text(encoding="utf-8").splitlines())
    return next((int(row[1]) for row in rows if row[0] == name), 0)
