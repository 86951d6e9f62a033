"""An engine in a process of its own, asleep while it is not asked.

Starts `serve` with the engine's own Python, hands requests over and waits for answers with a limit. The
whole process group is stopped between requests, because idle engines spin on the cores that another one
is measured on. Knows processes, signals and where peers are installed; refuses to know what is asked.

Standard library only.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.peers.models import home

__all__ = ["ROOT", "Failed", "NotInstalled", "Process", "command", "environment"]

ROOT = Path(__file__).resolve().parents[2]
_LAST_WORDS = 1500  # characters of an engine's messages that an error repeats


class NotInstalled(Exception):
    """The engine has no environment on this machine; the text says what makes one."""


class Failed(Exception):
    """The engine said that it could not, or died, or did not answer in time."""


def command(name: str) -> list[str]:
    """How engine `name` is started. Raises `NotInstalled`."""
    python = sys.executable
    if name != "ramet":
        folder = home() / name
        needed = [folder / "bin" / "python"]
        if name == "llamacpp":
            needed.append(folder / "bin" / "llama-server")
        if not all(path.exists() for path in needed):
            raise NotInstalled(f"not installed: benchmarks/peers/install/{name}.sh installs it")
        python = str(needed[0])
    return [python, "-m", "benchmarks.peers.serve", name]


def environment(name: str, threads: int) -> dict[str, str]:
    """This process's environment with the thread count that libraries read before anything else."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    env["TOKENIZERS_PARALLELISM"] = "false"
    path = [str(ROOT)]
    if name == "ramet" and (ROOT / "src" / "ramet").is_dir():
        path.append(str(ROOT / "src"))
    env["PYTHONPATH"] = os.pathsep.join(path)
    if name == "vllm":
        # Its own advice for CPUs: Intel's OpenMP and tcmalloc, both of which its packages bring.
        libraries = [*(home() / name).glob("lib/libiomp5.so")]
        libraries += (home() / name).glob("lib/python*/site-packages/vllm/libs/libtcmalloc*.so*")
        if libraries:
            env["LD_PRELOAD"] = ":".join(map(str, libraries))
    return env


class Process:
    """One running engine. Not for several threads at once."""

    def __init__(self, start: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as messages:
            self._process = subprocess.Popen(
                start,
                env=dict(env),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The answer to `request`, within `limit` seconds. Asleep again afterwards. Raises `Failed`."""
        self._signal(signal.SIGCONT)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except OSError:
            line = ""
        except queue.Empty:
            raise Failed(f"no answer in {limit:.0f} s{self._last_words()}") from None
        if not line:
            code = self._process.wait()
            raise Failed(f"ended with {code}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise Failed(answer["error"])
        self._signal(signal.SIGSTOP)
        return answer

    def close(self, patience: float = 10) -> None:
        """Ask it to quit, then end whatever is left of its group."""
        self._signal(signal.SIGCONT)
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):
            assert self._process.stdin is not None
            self._process.stdin.write('{"do": "quit"}\n')
            self._process.stdin.close()
            self._process.wait(patience)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        text = self._log.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
        return f"; its last messages ({self._log}):\n{text}" if text else ""
