"""`join`: meets the other processes, and returns the world in which they train together."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from etude.distributed.environment import TIMEOUT, ProcessPlace
from etude.distributed.failures import FailureNotes
from etude.distributed.process_world import ProcessWorld
from etude.errors import BadValueError, WorldError
from etude.training.world import SINGLE, World

SECONDS = 600.0
"""The time limit of every message between processes, unless another one is given."""

LOCAL = ("127.0.0.1", "localhost", "::1")


def join(
    *,
    device: str | torch.device | None = None,
    devices: Sequence[str] | None = None,
    timeout: float | None = None,
    find_unused: bool = False,
    shard: bool = False,
) -> World:
    """Meet the other processes, and return the world in which they train together.

    Where `torchrun` or `etude train --nproc` has started this process, they meet at the address in
    its environment. Where the caller has made the process group, that group is used. Else there is
    one process, and nothing is done.

    Args:
        device: The device of this process, or its kind: 'cuda' is the GPU of its own number. None
            takes a GPU where there is one for each process, else the CPU.
        devices: The devices of the processes of this machine, one for each.
        timeout: The seconds after which a process that does not answer counts as lost; None for
            the environment's ETUDE_WORLD_TIMEOUT, else 600.
        find_unused: Whether parameters may get no gradient in some processes; it counts as 0 there.
        shard: Whether each process keeps a part of every parameter, gradient and moment, by torch's
            `fully_shard` (Zhao et al. 2023, arXiv:2304.11277), instead of the whole model. For
            `etude.train` alone, without observers and watch.

    Returns:
        The world, to be given as `etude.train(..., world=world)`; it is a context that leaves the
        group at its end.

    Raises:
        BadValueError: If the environment is incomplete, or a device is not there.
        WorldError: If the processes do not meet.

    >>> join().size
    1
    """
    seconds = _seconds(timeout)
    if shard and find_unused:
        raise BadValueError(
            "find_unused is for whole models: with shard, a parameter without a gradient counts as "
            "0 in any case; leave find_unused out"
        )
    if dist.is_initialized():
        rank, count = dist.get_rank(), torch.accelerator.device_count()
        local = int(os.environ.get("LOCAL_RANK", rank % max(1, count)))
        local_size = int(
            os.environ.get("LOCAL_WORLD_SIZE", min(max(1, count), dist.get_world_size()))
        )
        place = _device(device, devices, local, local_size)
        return _world(place, seconds, find_unused, shard, owns=False)
    found = ProcessPlace.read()
    if found is None:
        return SINGLE
    chosen = _device(device, devices, found.local_rank, found.local_size)
    store = _store(found, seconds)
    session = _meet(store, found, seconds)
    _use_loopback(found.address)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        store=PrefixStore(f"etude{session}", store),
        rank=found.rank,
        world_size=found.size,
        timeout=timedelta(seconds=seconds),
    )
    return _world(chosen, seconds, find_unused, shard, owns=True, store=store, session=session)


def _world(
    device: torch.device,
    seconds: float,
    find_unused: bool,
    shard: bool,
    *,
    owns: bool,
    store: Store | None = None,
    session: int = 0,
) -> World:
    if dist.get_world_size() == 1:
        if owns:
            dist.destroy_process_group()
        return SINGLE
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    store = store or _own_store(control)
    notes = FailureNotes(PrefixStore(f"notes{session}", store))
    return ProcessWorld(
        device,
        control,
        notes,
        timeout=seconds,
        find_unused=find_unused,
        shard=shard,
        owns=owns,
    )


def _own_store(control: dist.ProcessGroup) -> Store:
    """Return a store for the notes of a group that the caller has made."""
    hosts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname(), group=control)
    alike = all(host == hosts[0] for host in hosts)
    address = LOCAL[0] if alike else os.environ.get("MASTER_ADDR", "")
    held: list[Any] = [None]
    if dist.get_rank() == 0 and address:
        store = _served(address)
        held = [store.port]
    dist.broadcast_object_list(held, src=0, group=control)
    if held[0] is None:
        return HashStore()
    return store if dist.get_rank() == 0 else TCPStore(address, held[0], is_master=False)


def _served(address: str) -> TCPStore:
    return TCPStore(address, 0, is_master=True, wait_for_workers=False)


def _seconds(timeout: float | None) -> float:
    text = os.environ.get(TIMEOUT, "")
    try:
        found = float(text) if timeout is None and text else SECONDS if timeout is None else timeout
    except ValueError:
        raise BadValueError(f"{TIMEOUT}={text!r}: give a number of seconds above 0") from None
    if not 0 < found < float("inf"):
        raise BadValueError(f"timeout={found!r}: give a number of seconds above 0")
    return float(found)


def _store(place: ProcessPlace, seconds: float) -> TCPStore:
    """Return the store in which the processes meet.

    Raises:
        WorldError: If the port is taken, or nobody answers at it.
    """
    serves = place.rank == 0 and not place.hosted
    where = f"MASTER_ADDR={place.address}, MASTER_PORT={place.port}"
    try:
        return TCPStore(
            place.address,
            place.port,
            is_master=serves,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
    except (RuntimeError, OSError, ValueError) as error:
        text = str(error)
        if serves and ("EADDRINUSE" in text or "address already in use" in text):
            raise WorldError(
                f"{where}: the port is taken by another program; give another MASTER_PORT, such as "
                f"{free_port()}, to every process"
            ) from error
        raise WorldError(
            f"{where}: process {place.rank} of {place.size} reached nobody within {seconds:g} s; "
            "check the address, the port, and whether process 0 was started"
        ) from error


def _meet(store: Store, place: ProcessPlace, seconds: float) -> int:
    """Wait for every process; return the number of this meeting.

    It is the sum of how often each process was started again, which the processes of several
    machines are not always as often: `torchrun` counts on each machine by itself.

    Raises:
        WorldError: If one has not come in time; the message gives the ranks.
    """
    try:
        return _met(store, place, seconds)
    except WorldError:
        raise
    except RuntimeError as error:
        raise WorldError(
            f"process {place.rank} of {place.size} lost the connection to {place.address}:"
            f"{place.port}, where the processes meet ({str(error).partition(chr(10))[0]}): check "
            "the network, and whether process 0 still runs"
        ) from error


def _met(store: Store, place: ProcessPlace, seconds: float) -> int:
    ranks = range(place.size)
    taken = store.add(f"etude/taken/{place.rank}/{place.restarts}", 1)
    if taken > 1:
        raise WorldError(
            f"RANK={place.rank} was given to two processes: give each its own, from 0 to "
            f"{place.size - 1}"
        )
    store.set(f"etude/restarts/{place.rank}", str(place.restarts))
    end = time.monotonic() + seconds
    while True:
        told = [f"etude/restarts/{rank}" for rank in ranks]
        session = sum(int(store.get(key)) for key in told if store.check([key]))
        store.set(f"etude/{session}/here/{place.rank}", "1")
        missing = [rank for rank in ranks if not store.check([f"etude/{session}/here/{rank}"])]
        if not missing:
            return session
        if time.monotonic() > end:
            named = ", ".join(map(str, missing))
            raise WorldError(
                f"{place.size - len(missing)} of {place.size} processes came within {seconds:g} s; "
                f"missing: RANK {named}. Start one process for each rank, or give a smaller "
                "WORLD_SIZE"
            )
        time.sleep(0.02)


def _device(
    device: str | torch.device | None, devices: Sequence[str] | None, rank: int, size: int
) -> torch.device:
    """Return the device of a process, of `size` on its machine.

    Raises:
        BadValueError: If it is not there, or is not one for each process.
    """
    if devices is not None:
        if len(devices) != size:
            raise BadValueError(
                f"devices={','.join(devices)!r} has {len(devices)} for {size} processes: give one "
                "for each"
            )
        return _existing(devices[rank], f"devices={','.join(devices)!r}")
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if device is None:
        if not count:
            return torch.device("cpu")
        _refuse_few(count, size)
        return torch.device(str(torch.accelerator.current_accelerator()), rank)
    chosen = _existing(str(device), f"device={str(device)!r}")
    if chosen.type == "cpu":
        return chosen
    if chosen.index is not None and size > 1:
        raise BadValueError(
            f"device={str(device)!r} is one device for {size} processes: give {chosen.type!r}, of "
            "which each process takes its own, or devices="
        )
    _refuse_few(count, size)
    return torch.device(chosen.type, rank)


def check_devices(
    device: str | torch.device | None, devices: Sequence[str] | None, processes: int
) -> None:
    """Check the devices of processes that are to be started on this machine.

    Raises:
        BadValueError: If one is not there, or there is not one for each process.
    """
    for rank in range(processes):
        _device(device, devices, rank, processes)


def _existing(name: str, shown: str) -> torch.device:
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise BadValueError(f"{shown} cannot be used: {reason}") from error
    return device


def _refuse_few(count: int, size: int) -> None:
    if count < size:
        raise BadValueError(
            f"{size} processes need {size} devices, and this machine has {count}: start {count}, "
            "or give device='cpu'"
        )


def _use_loopback(address: str) -> None:
    """Let gloo use the loopback interface if all processes are on this machine."""
    names = [name for _, name in socket.if_nameindex()]
    loopback = next((name for name in names if name in ("lo", "lo0")), None)
    if address in LOCAL and loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


def free_port() -> int:
    """Return a port of this machine that no program uses now.

    >>> 0 < free_port() < 65_536
    True
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
