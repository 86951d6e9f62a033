"""A process that compiles what is too large to be compiled beside an engine.

Parsing holds the interpreter, so a large source would delay every step; and what cannot be interrupted can
be killed here. Lines of JSON go in and out; what was made lies in a file. Started when first needed. Knows
processes; what they make is `product`'s business.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ramet.constraints import product
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.product import Product
from ramet.errors import InvalidRequest

__all__ = ["Workshop"]

MEMORY = 2 << 30  # bytes that the process may have
_LOOK_SECONDS = 0.05
_MOST_WAITED = 4  # times the limit, where processors are busy with other things


class Workshop:
    """One process, one source at a time."""

    def __init__(self, limits: ConstraintLimits) -> None:
        self.limits = limits
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._at_work: tuple[str, str] | None = None
        self._closed = False

    def make(self, kind: str, source: str) -> Product:
        """`product.make` elsewhere. Raises what it raises, and `InvalidRequest` if it takes too long or
        too much memory."""
        with self._turn, tempfile.TemporaryDirectory(prefix="ramet-") as folder:
            target = Path(folder) / "made"
            process, started = self._running()
            self._at_work = kind, source
            done = threading.Event()
            threading.Thread(target=self._guard, args=(process, done), daemon=True).start()
            try:
                reply = self._ask(process, kind, source, target)
            finally:
                done.set()
                self._at_work = None
            if reply is None:
                self._kill()
                what = f"takes more than {self.limits.seconds:g} s or {MEMORY >> 20} MiB to compile"
                if not started:
                    what = "is too long to be compiled here, and no process could be started for it"
                raise InvalidRequest(kind, source, what, "make it smaller")
            if "problem" in reply:
                raise InvalidRequest(
                    reply["field"], reply["value"], reply["problem"], reply["remedy"]
                )
            made = product.load(target, self.limits, kind, source)
        if made is None:
            raise InvalidRequest(kind, source, "could not be compiled")
        return made

    def interrupt(self, kind: str, source: str) -> None:
        """End the work on this source, if that is what is being done."""
        if self._at_work == (kind, source):
            self._kill()

    def close(self) -> None:
        self._closed = True
        self._kill()

    def _ask(
        self, process: subprocess.Popen[str], kind: str, source: str, target: Path
    ) -> dict[str, Any] | None:
        """None if the process ended instead."""
        if process.stdin is None or process.stdout is None:
            return None
        try:
            question = {
                "kind": kind,
                "source": source,
                "target": str(target),
                "limits": dataclasses.asdict(self.limits),
            }
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            return None
        found: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
        return found

    def _guard(self, process: subprocess.Popen[str], done: threading.Event) -> None:
        """Kill the process when it has had its time: its own, since others may be using the processors,
        but not for ever."""
        begin, had = time.monotonic(), _processor_seconds(process.pid)
        while not done.wait(_LOOK_SECONDS):
            waited = time.monotonic() - begin
            now = _processor_seconds(process.pid)
            spent = waited if now is None or had is None else now - had
            if spent > self.limits.seconds or waited > _MOST_WAITED * self.limits.seconds:
                process.kill()
                return

    def _running(self) -> tuple[subprocess.Popen[str], bool]:
        """The process, and whether it works."""
        if self._process is None or self._process.poll() is not None:
            self._kill()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ramet.constraints.workshop"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                errors="surrogatepass",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            out = self._process.stdout
            # Starting is not compiling. An empty line: it has ended.
            return self._process, out is not None and bool(out.readline())
        return self._process, True

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def main() -> None:
    """What the process does: a line in, a line out, until there are no more."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(10)
    _limit_memory()
    _end_with_parent()
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            limits = ConstraintLimits(**question["limits"])
            made = product.make(question["kind"], question["source"], limits)
            product.save(made, Path(question["target"]))
            reply = {}
        except InvalidRequest as error:
            value = str(error.value)[:200]
            reply = {
                "field": error.field,
                "value": value,
                "problem": error.problem,
                "remedy": error.remedy,
            }
        except (MemoryError, RecursionError) as error:
            reply = {
                "field": question["kind"],
                "value": question["source"][:200],
                "problem": f"is too much: {type(error).__name__}",
                "remedy": "make it smaller",
            }
        print(json.dumps(reply), flush=True)


def _processor_seconds(pid: int) -> float | None:
    """That a process has had; None where nobody can say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _end_with_parent() -> None:
    """Linux ends this process with the one that started it, also in the middle of its work."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
