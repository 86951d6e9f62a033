"""Servers as users start them: `python -m ramet.launch_server` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 50.0


@dataclass
class Launched:
    """`lines` is what the server has printed so far."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def engine_pid(self) -> int:
        """Of the engine's process, which the server is the parent of."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if "engine_process" in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
        raise AssertionError("the server has no engine")

    def wait_healthy(self, seconds: float = START_SECONDS) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            assert time.monotonic() < end, ("the server is not well", self.lines[-20:])
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        """Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


@contextlib.contextmanager
def launched(*arguments: str, **environment: str) -> Iterator[Launched]:
    """A server of the embedded model on a free port, ready; it is ended in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ramet.launch_server", "--port", "0", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        start_new_session=True,
    )
    server = Launched(process)
    known = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.lines.append(line.rstrip())
            if (
                found := re.search(r'(?: at |"url": ")(https?://[^\s"]+)', line)
            ) and not server.url:
                server.url = found[1]
                known.set()
        known.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        known.wait(START_SECONDS)
        assert server.url, ("it did not start", server.lines)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(5)
