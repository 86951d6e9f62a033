"""A server's process: when it is ready, stopping it while another is measured, and that it ends in all cases.

It runs in process groups of its own, and a guard beside it ends them should the benchmark itself be killed.
Knows processes, signals and what Linux tells of both; refuses to know what is started and what it is
asked. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.process import ROOT

__all__ = ["Failed", "Server", "free_port", "more_files"]

_START_SECONDS = 600.0  # one compiles its model when it first meets it
_LAST_WORDS = 1500  # characters of a server's messages that an error repeats
_FILES = 65_536
_DEPTH = 8  # generations of processes
# Reads lines of process groups and ends those of the last line when there are no more.
_GUARD = (
    'while read -r line; do groups=$line; done; for g in $groups; do kill -s KILL -- "-$g"; done'
)


class Failed(Exception):
    """The server did not come up, or is gone; the text says what it last said."""


# -- processes -------------------------------------------------------------------------------------


class _Process(NamedTuple):
    parent: int
    group: int
    seconds: float  # of processors


def _processes() -> dict[int, _Process]:
    """All that there are, as far as the system tells."""
    found = {}
    each = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        ticks = sum(map(int, fields[11:15]))
        found[int(path.parent.name)] = _Process(int(fields[1]), int(fields[2]), ticks / each)
    return found


# -- a running server ------------------------------------------------------------------------------


def more_files() -> int:
    """Raise the limit of open files, also for servers started afterwards, as far as may be; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < want:
        resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
    return max(soft, want)


class Server:
    """One server, ready when built. Not for several threads at once. Raises `Failed`."""

    def __init__(
        self, start: list[str], env: Mapping[str, str], port: int, log: Path,
        patience: float = _START_SECONDS,
    ) -> None:  # fmt: skip
        self.port, self._log = port, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as messages:
            self._process = subprocess.Popen(
                start,
                env=dict(env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
            )
        began = time.monotonic()
        self._groups = {self.pid}
        try:
            self._guard = subprocess.Popen(
                ["sh", "-c", _GUARD],
                stdin=subprocess.PIPE,  # ends when this process does, however it ends
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._tell_guard()
            self._wait(began + patience)
        except BaseException:
            self.close(patience=0)
            raise
        self.seconds = time.monotonic() - began

    @property
    def pid(self) -> int:
        return self._process.pid

    def groups(self) -> set[int]:
        """The process groups of it and of all that it started: an engine may have one of its own."""
        processes = _processes()
        family = {self.pid}
        for _ in range(_DEPTH):
            family |= {pid for pid, found in processes.items() if found.parent in family}
        alive = {found.group for found in processes.values()}
        known = self._groups | {processes[pid].group for pid in family if pid in processes}
        # What has left the family, its parent gone, is still known from before.
        known = (known & alive) | {self.pid}
        if known != self._groups:
            self._groups = known
            self._tell_guard()
        return known

    def cpu_seconds(self) -> float:
        """Of all its processes so far, with their ended children."""
        groups = self.groups()
        return sum(found.seconds for found in _processes().values() if found.group in groups)

    def _tell_guard(self) -> None:
        assert self._guard.stdin is not None
        with suppress(OSError):
            self._guard.stdin.write((" ".join(map(str, self._groups)) + "\n").encode())
            self._guard.stdin.flush()

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Failed(f"ended with {self._process.returncode}{self.last_words()}")
            if self.answers():
                return
            time.sleep(0.2)
        raise Failed(f"did not come up in time{self.last_words()}")

    def answers(self, limit: float = 5) -> bool:
        """Whether /health is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ask(self, path: str, body: bytes, limit: float) -> tuple[int, bytes]:
        """One request and its whole answer. Raises `Failed` if there is none within `limit` seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"no answer: {error!r}{self.last_words()}") from None
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        """What a path says in JSON, {} if it says nothing of the kind."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            found = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return found if isinstance(found, dict) else {}

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self, patience: float = 10) -> None:
        """Ask it to end, then end whatever is left of its groups. May be called again."""
        self.go_on()
        if patience:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._signal(signal.SIGKILL)
        self._process.wait()
        guard = getattr(self, "_guard", None)
        if guard is not None:
            guard.kill()
            guard.wait()
            with suppress(OSError):
                guard.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        for group in self.groups():
            with suppress(ProcessLookupError):
                os.killpg(group, number)

    def last_words(self) -> str:
        text = self._log.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
        return f"; its last messages ({self._log}):\n{text}" if text else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
