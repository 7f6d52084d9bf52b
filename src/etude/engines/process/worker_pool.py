"""The worker processes of a pool: starts them, sends them jobs, and ends them."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.multiprocessing
from torch import nn

from etude.engines.base import Engine
from etude.engines.process.devices import seen_alone
from etude.engines.process.state_transfer import StateTransfer, portable, room_for
from etude.engines.process.worker import Job, JobMessage, RunParts, WorkerContext, serve
from etude.optimizers.importable import can_be_named
from etude.tasks.sources.data import TensorData
from etude.tasks.task import Task
from etude.torch_internals import version_of
from etude.training.run import Run

Start = Literal["fork", "spawn"]
PATIENCE = 5.0
"""Seconds that a process has to end before it is killed."""


def usual_start() -> Start:
    """Return how to start processes on this machine: 'fork' if that is safe, else 'spawn'.

    A forked process inherits the task, even if it cannot be pickled, and shares its data. Forking
    is safe under the same conditions as for torch's own DataLoader: on Linux, with one thread in
    the child, and while no accelerator is in use.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        return "spawn"
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return "spawn" if used else "fork"


def can_be_sent(run: Run) -> bool:
    """Return whether another process can build a run, for which its observers are pickled.

    An optimizer of one's own must be one that can be imported there.
    """
    if not can_be_named(run.recipe.optimizer.name):
        return False
    try:
        pickle.dumps(run.observers.listed)
    except Exception:  # noqa: BLE001  (pickling an object of the user can raise anything)
        return False
    return True


@dataclass(eq=False)
class WorkerHandle:
    """One process of the pool.

    Attributes:
        process: The process.
        connection: The connection for messages.
        transfer: The memory through which states are sent.
        known: The numbers of the runs that the process has.
        gpu: The GPU that it sees; None for the CPU.
        job: Its current job; None if it is idle.
    """

    process: Any
    connection: Connection
    transfer: StateTransfer
    known: set[int]
    gpu: str | None = None
    job: Job | None = None


class WorkerPool:
    """Processes that train runs, job by job.

    A forked process has the runs that existed when it was forked. It builds later runs from their
    recipes and observers, if they are of the same task and the observers can be pickled.

    Args:
        runs: The first runs; all of one task.
        start: How to start a process.
        inner: The engine that trains the runs of a job; None for the plain loop. It needs 'fork'.
        at_once: The largest number of runs in one job.
        devices: The GPUs, one for each process; empty for the CPU. They need 'spawn'.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        start: Start,
        inner: Engine | None = None,
        at_once: int = 1,
        devices: Sequence[str] = (),
    ) -> None:
        self.runs, self.start, self.inner, self.at_once = tuple(runs), start, inner, at_once
        # Typed as Any: torch's wrapper adds the sharing of tensors to the standard library's.
        self._context: Any = torch.multiprocessing.get_context(start)
        # Shared without a lock: only this process writes it, and a worker that reads it one update
        # late stops one update later. Forked processes share it without a file, which needs
        # /dev/shm or a folder for temporary files.
        self._flag: Any = (
            ctypes.c_int.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
            if start == "fork"
            else self._context.RawValue("i", 0)
        )
        self.workers: list[WorkerHandle] = []
        self.devices = tuple(devices)
        self._task = runs[0].task
        self._surroundings = _surroundings(self._task)
        self._numbers: WeakKeyDictionary[Run, int] = WeakKeyDictionary()
        self._count = itertools.count()
        self._owner = os.getpid()
        _POOLS.add(self)

    def __del__(self) -> None:
        if "_flag" in vars(self):  # not where the memory for it could not be had
            self.close()

    def number(self, run: Run) -> int:
        """Return the number by which the processes identify a run."""
        if run not in self._numbers:
            self._numbers[run] = next(self._count)
        return self._numbers[run]

    def set_runs(self, runs: Sequence[Run]) -> None:
        """Set the runs that the next jobs refer to."""
        self.runs = tuple(runs)
        self._flag.value = 0

    def suits(self, runs: Sequence[Run]) -> bool:
        """Return whether the processes can train some runs."""
        return (
            self._owner == os.getpid()
            and self._surroundings is not None
            and self._surroundings == _surroundings(self._task)
            and all(self._buildable(run) for run in runs)
        )

    def _buildable(self, run: Run) -> bool:
        known = all(self.number(run) in worker.known for worker in self.workers)
        return type(run) is Run and run.task is self._task and (known or can_be_sent(run))

    def start_worker(self) -> WorkerHandle:
        """Start one more process.

        Raises:
            Exception: If the task cannot be sent to a process that is not forked.
        """
        gpu = self._free_gpu()
        ours, theirs = self._context.Pipe()
        others = [worker.connection for worker in self.workers] + [ours]
        main: Callable[..., None]
        args: tuple[Any, ...]
        common = (theirs, self._flag, os.getpid())
        known: dict[int, Run] = {}
        if self.start == "fork":
            transfer = StateTransfer(room_for(self.runs, self.at_once))
            known = {self.number(run): run for run in self.runs}
            main, args = _forked, (*common, others, transfer, known, self._building(), self.inner)
        else:
            transfer = StateTransfer(0)
            main, args = _spawned, (*common, _parts(self._task), gpu is not None)
        process = self._context.Process(target=main, args=args, name="etude-pool")
        try:
            with warnings.catch_warnings(), seen_alone(gpu):
                # Python and JAX warn about forking a process with threads; the child uses none.
                warnings.filterwarnings("ignore", message=".*fork")
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = WorkerHandle(process, ours, transfer, set(known), gpu)
        self.workers.append(worker)
        return worker

    def _free_gpu(self) -> str | None:
        """Return the GPU that the fewest processes see; None without GPUs."""
        taken = [worker.gpu for worker in self.workers]
        return min(self.devices, key=taken.count, default=None)

    def _building(self) -> Callable[[RunParts], Run]:
        task = self._task
        return lambda parts: _built(task, parts)

    def give(self, worker: WorkerHandle, job: Job) -> None:
        """Send a job to a process, with the current states of its runs."""
        worker.job = job
        runs = {self.number(run): run for run in self.runs}
        chosen = {number: runs[number] for number in job.numbers}
        # Runs that the caller has deleted: otherwise the worker would keep their models.
        gone = frozenset(worker.known - set(self._numbers.values()))
        new = {
            n: RunParts(run.recipe, run.observers.listed)
            for n, run in chosen.items()
            if n not in worker.known
        }
        worker.known = (worker.known - gone) | set(chosen)
        packed_states = worker.transfer.put(
            [portable(run) if self.devices else run.state_dict() for run in chosen.values()]
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `receive` reports it
            worker.connection.send(JobMessage(job, packed_states, new, gone))

    def receive(self, seconds: float) -> list[tuple[WorkerHandle, tuple[Any, ...] | None]]:
        """Wait for messages, and return each with its worker; None if the worker has died."""
        heard: list[tuple[WorkerHandle, tuple[Any, ...] | None]] = []
        ready = wait([worker.connection for worker in self.workers], seconds)
        for worker in [s for s in self.workers if s.connection in ready]:
            try:
                heard.append((worker, worker.connection.recv()))
            except (EOFError, OSError):
                heard.append((worker, None))
        return heard

    def ask_to_stop(self) -> None:
        """Request every process to end its job after the current update."""
        self._flag.value = 1

    def dismiss(self, worker: WorkerHandle) -> int | None:
        """End one process, and return its exit code."""
        self._ask_to_leave(worker)
        return self._wait_for_exit(worker)

    def _ask_to_leave(self, worker: WorkerHandle) -> None:
        self.workers.remove(worker)
        with contextlib.suppress(OSError):
            worker.connection.send(None)
        worker.connection.close()

    def _wait_for_exit(self, worker: WorkerHandle) -> int | None:
        worker.process.join(0.0 if worker.job is not None else PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        code: int | None = worker.process.exitcode
        worker.process.close()
        return code

    def close(self) -> None:
        """End every process."""
        if self._owner != os.getpid():
            return  # a copy in a forked process, which does not own the workers
        self.ask_to_stop()
        workers = list(self.workers)
        for worker in workers:
            self._ask_to_leave(worker)
        for worker in workers:
            self._wait_for_exit(worker)


_POOLS: WeakSet[WorkerPool] = WeakSet()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


# The function registered last is called first, so before multiprocessing waits for its processes.
atexit.register(_close_all)


def _surroundings(task: Task) -> tuple[Any, ...] | None:
    """Return the settings and data versions that a forked process keeps; None if unknown."""
    found: list[Any] = [
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.backends.mkldnn.enabled,
    ]
    for data in (task.train, task.valid):
        if not isinstance(data, TensorData):
            return None
        tensors = data.tensors.values() if isinstance(data.tensors, dict) else data.tensors
        if any(tensor.is_inference() for tensor in tensors):
            return None
        found += map(version_of, tensors)
    return tuple(found)


def cause_of_death(code: int | None) -> str:
    """Return the meaning of an exit code.

    >>> cause_of_death(-9), cause_of_death(3)
    ('SIGKILL', 'exit code 3')
    """
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _forked(
    connection: Connection,
    flag: Any,
    parent: int,
    others: list[Connection],
    transfer: StateTransfer,
    runs: dict[int, Run],
    build: Callable[[RunParts], Run],
    inner: Engine | None,
) -> None:
    for other in others:  # or the parent would not notice the death of another worker
        other.close()
    serve(WorkerContext(connection, transfer, runs, build, inner, flag, parent))


def _parts(task: Task) -> dict[str, Any]:
    """Return the parts of a task, which, unlike the task itself, can be pickled.

    Data and network are sent from the CPU: memory of a GPU cannot be seen by a process that sees
    another.
    """
    task = task.on(torch.device("cpu"))
    names = ("model", "train", "valid", "loss", "step", "metric", "name", "param_groups")
    parts = {name: getattr(task, name) for name in names}
    if isinstance(task.model, nn.Module) and any(
        tensor.device.type != "cpu" for tensor in (*task.model.parameters(), *task.model.buffers())
    ):
        parts["model"] = task.build().cpu()
    return parts


def _spawned(
    connection: Connection, flag: Any, parent: int, parts: dict[str, Any], on_gpu: bool
) -> None:
    device = "cuda" if on_gpu else "cpu"
    task = Task(**parts).on(torch.device(device))
    transfer = StateTransfer(0)

    def build(one: RunParts) -> Run:
        return _built(task, one, device)

    serve(WorkerContext(connection, transfer, {}, build, None, flag, parent))


def _built(task: Task, parts: RunParts, device: str = "cpu") -> Run:
    return Run(task, parts.recipe, device=device, observers=parts.observers)
