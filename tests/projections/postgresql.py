"""A PostgreSQL server of our own, from the packages of the system."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

# The server refuses to run as root; Debian's package brings this user.
USER = "postgres"
HANG_S = 60


def find_server() -> Path | None:
    """Return the folder of the server's programs, None where it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    found = shutil.which("initdb")
    if found is not None:
        folders.append(Path(found).parent)
    return next((f for f in reversed(folders) if (f / "pg_ctl").exists()), None)


class Server:
    """A running server; every database is made anew."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._made = 0

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        self._made += 1
        name = f"views_{self._made}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def add_user(self, name: str) -> None:
        """Make a user who may do nothing."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE USER {name}".encode())

    def _url(self, name: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"


@contextmanager
def running_server(programs: Path) -> Iterator[Server]:
    """Run a server until the end; its data are gone then."""
    folder = Path(tempfile.mkdtemp(prefix="insurance-fund-postgresql-"))
    owner = pwd.getpwnam(USER).pw_uid if os.geteuid() == 0 else os.geteuid()
    os.chown(folder, owner, -1)
    data, port = folder / "data", _free_port()

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        log = folder.with_suffix(".log")
        with log.open("ab") as said:
            ended = subprocess.run(
                command, user=owner, stdout=said, stderr=said, timeout=HANG_S, check=False, cwd="/"
            )
        assert ended.returncode == 0, log.read_text(encoding="utf-8")

    try:
        call("initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        # Its data are not to outlive the tests: no waiting for the disk.
        options = f"-p {port} -h 127.0.0.1 -k {folder} -F"
        call("pg_ctl", "-D", str(data), "-w", "-o", options, "start")
        try:
            yield Server(port)
        finally:
            call("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
