"""The program of a worker process: `python -m etude.studies.executors.serve FILE-DESCRIPTOR`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait

from etude.studies.executors.worker import train_plain

POLL = 2.0
"""How often a process that trains looks whether its parent is alive, in seconds."""


def serve(connection: Connection) -> None:
    """Train the groups that come through a connection, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    while True:
        try:
            told, trials = connection.recv()
            connection.send(train_plain(told, trials))
        except (EOFError, OSError):
            return


def _end_with(parent: int) -> None:
    """End this process when its parent does, however that ends."""
    while os.getppid() == parent:
        wait([], POLL)
    os._exit(1)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
