"""A PostgreSQL server for tests, from Debian's package: on loopback, in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER = "postgres"
"""The user of Debian's package: a server refuses to run as root."""


def programs() -> Path | None:
    """The folder of the server's programs, of the newest version that is installed."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found = sorted(debian, key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0)
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return None if on_path is None else Path(on_path).resolve().parent


def why_not() -> str:
    """Why no server can be started here; empty if one can."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.getuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"a server does not run as root, and there is no user {USER!r}"
    return ""


class Server:
    """A server that can be stopped and started again; `close` deletes it."""

    def __init__(self) -> None:
        folder = programs()
        assert folder is not None
        self.programs = folder
        self.folder = Path(tempfile.mkdtemp(prefix="etude-postgres-"))
        self.identity: dict[str, object] = {}
        if os.getuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off"
        options += f" -c unix_socket_directories={self.folder} -c max_connections=60"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "--wait", "--log", log, "--options", options)

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def restart_after(self, seconds: float) -> None:
        """End the server at once, as a crash would, and start it again later."""
        self.stop("immediate")
        time.sleep(seconds)
        self.start()

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{USER}"

    def emptied(self) -> str:
        """Empty the database and return its URL."""
        self.sql("drop schema public cascade; create schema public")
        return self.url

    def sql(self, text: str) -> None:
        """Run statements."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(text)

    def close(self) -> None:
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), "--pgdata", str(self.folder / "data"), *words]
        subprocess.run(
            command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, **self.identity,
        )  # fmt: skip
