"""A command that serves the dashboard, as a process of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Self

from tests.embedded.command import COMMAND

START_S: Final = 60
END_S: Final = 30
_URL: Final = re.compile(rb"http://\S+/")


class Served:
    """`demo` or `serve`: started, found at its URL, and ended."""

    def __init__(self, folder: Path, arguments: tuple[object, ...], environment: dict[str, str]):
        self._errors = (folder / "served.err").open("ab")
        self._process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.said = b""
        try:
            self.url = self._find_url()
            self._wait_ready()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.kill()

    def stop(self) -> str:
        """End it as Ctrl-C does; it must end well. Returns all that it has said."""
        self._process.send_signal(signal.SIGINT)
        rest, _ = self._process.communicate(timeout=END_S)
        self._errors.close()
        assert self._process.returncode == 0, self._told()
        return (self.said + rest).decode()

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._process.kill()
        self._process.communicate(timeout=END_S)
        self._errors.close()

    def wait_for(self, text: bytes) -> None:
        """Return when it has said something."""
        deadline_s = time.monotonic() + START_S
        assert self._process.stdout is not None
        while text not in self.said:
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left_s))
            assert ready, f"{text!r} is not said: {self._told()}"
            chunk = os.read(self._process.stdout.fileno(), 65_536)
            assert chunk, f"it has ended: {self._told()}"
            self.said += chunk

    def _find_url(self) -> str:
        self.wait_for(b"http://")
        self.wait_for(b"/\n")
        found = _URL.search(self.said)
        assert found is not None
        return found[0].decode()

    def _wait_ready(self) -> None:
        """Return when it has read what it serves; until then some of it is answered by 503."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            try:
                with urllib.request.urlopen(f"{self.url}readyz"):  # noqa: S310 - our own server
                    return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 503:
                    raise
        raise AssertionError(f"it is not ready: {self._told()}")

    def _told(self) -> str:
        return f"{self.said.decode()}\n{Path(self._errors.name).read_text()}"


def serve(folder: Path, *arguments: object, **environment: str) -> Served:
    """Start a command in a folder, with further variables in its environment."""
    return Served(folder, arguments, environment)
