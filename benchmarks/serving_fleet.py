"""The servers of one run: started when they are first asked, measured in turn, all ended at the end.

Knows which measurement is missing and what is kept of it; refuses to know which should be made.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import serving_cells, serving_peers
from benchmarks.peers.models import home, read_config
from benchmarks.peers.process import NotInstalled
from benchmarks.peers.store import Store
from benchmarks.serving_cells import Target
from benchmarks.serving_peers import EXTRA, Setting
from benchmarks.serving_report import line
from benchmarks.serving_server import Failed, Server, free_port
from benchmarks.serving_workloads import OUT

__all__ = ["PRECISION", "Cell", "Fleet"]

PRECISION = "int8"
_SETTLE_SECONDS = 60.0  # a server that is not idle by then is started again
_WARM, _WARM_SECONDS = 8, 300.0  # requests


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement. `rate`: requests per second; of a flood the server's peak."""

    kind: str
    workload: str
    server: str
    rate: float

    @property
    def key(self) -> dict[str, str]:
        what = "overload" if self.kind == "overload" else f"rate {self.rate:g}"
        return {
            "precision": PRECISION,
            "engine": self.server,
            "workload": self.workload,
            "round": what,
        }


class Fleet:
    """The servers: started when they are first asked, stopped while another is, all ended at the end."""

    def __init__(self, given: argparse.Namespace, store: Store) -> None:
        self._given, self._store = given, store
        self._running: dict[str, Server] = {}
        self._useless: set[str] = set()
        self._vocab = int(read_config(given.folder)["vocab_size"])

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        while self._running:
            self._end(next(iter(self._running)))

    def take_turns(self, cells: Sequence[Cell]) -> bool:
        """Measure and store `cells`, one after the other, as far as they are missing and there are the
        servers. False if the time was over before the last."""
        for cell in cells:
            if self._store.has(cell.key, self._given.calm) or cell.server in self._useless:
                continue
            if time.monotonic() > self._given.deadline:
                return False
            if cell.server not in self._running and not self._start(cell.server):
                continue
            run = {**cell.key, "kind": cell.kind, "rate": cell.rate, **self._measure(cell)}
            run["when"] = int(time.time())
            self._store.add(run)
            print(line(run), flush=True)
        return True

    def _measure(self, cell: Cell) -> dict[str, Any]:
        server = self._running[cell.server]
        measure: Callable[..., dict[str, Any]] = serving_cells.steady
        if cell.kind == "overload":
            measure = serving_cells.overload
        given = self._given
        server.go_on()
        try:
            self._settle(server, cell.server)
            found = measure(
                self._target(server, cell.server),
                cell.workload,
                cell.rate,
                given.times,
                given.limits,
                given.seed,
            )
            if not server.alive():
                raise Failed(f"ended while it was measured{server.last_words()}")
            self._settle(server, cell.server)
        except Failed as error:
            self._end(cell.server)
            return {"error": str(error)}
        server.stop()
        return found

    def _target(self, server: Server, name: str) -> Target:
        return Target(server.port, server.cpu_seconds, self._vocab, EXTRA[name])

    def _settle(self, server: Server, name: str) -> None:
        """A short request is answered behind whatever was left. Raises `Failed`."""
        body = {"model": "bench", "prompt": [400, 401, 402], "max_tokens": 1, **EXTRA[name]}
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"busy {_SETTLE_SECONDS:.0f} s after a load{server.last_words()}")
            status, _ = server.ask("/v1/completions", json.dumps(body).encode(), left)
            if status == 200:
                return
            time.sleep(0.2)

    def _start(self, name: str) -> bool:
        """False, with the reason noted, if it cannot be."""
        given, port = self._given, free_port()
        setting = Setting(given.folder, given.threads, given.options.get(name, {}))
        log = home() / "logs" / f"serving-{name}.log"
        try:
            start = serving_peers.command(name, setting, port)
            print(f"  starting {name}", flush=True)
            env = serving_peers.environment(name, setting)
            self._running[name] = server = Server(start, env, port, log)
            notes = self._greet(server, name)
            if name == "ramet" and "--no-drafts" not in start:
                notes.append("drafts are on, which the repetitions of random weights flatter")
        except (NotInstalled, Failed) as error:
            self._end(name)
            reason = str(error) if isinstance(error, NotInstalled) else f"failed: {error}"
            print(f"  {name}: {reason}", flush=True)
            self._useless.add(name)
            self._store.about(PRECISION, name, missing=reason)
            return False
        shown = [str(word).replace(str(Path.home()), "~") for word in start[1:]]
        self._store.about(
            PRECISION, name, version=_version(name, server), command=shown,
            load_seconds=round(server.seconds, 1), notes=notes,
        )  # fmt: skip
        server.stop()
        return True

    def _greet(self, server: Server, name: str) -> list[str]:
        """Warm it up with some requests of each kind and say what is odd about its answers. Raises
        `Failed` if it has none."""
        notes = []
        for workload in self._given.workloads:
            target = self._target(server, name)
            answers = serving_cells.burst(target, workload, _WARM, _WARM_SECONDS)
            if not all(answer.whole for answer in answers):
                bad = next(answer for answer in answers if not answer.whole)
                said = b"".join(piece for _, piece in bad.outcome.pieces)[:300].decode(
                    errors="replace"
                )
                raise Failed(f"{workload}: {bad.failure}: {said}{server.last_words()}")
            lengths = {answer.tokens for answer in answers}
            if lengths != {OUT}:
                notes.append(f"{workload}: answers of {lengths} tokens, {OUT} were asked for")
            if answers[0].cached_tokens is None:
                notes.append(f"{workload}: does not say how many tokens were cached")
        return notes

    def _end(self, name: str) -> None:
        server = self._running.pop(name, None)
        if server is not None:
            server.close()


def _version(name: str, server: Server) -> str:
    if name == "llamacpp":
        noted = home() / "llamacpp" / "VERSION"
        return noted.read_text().strip() if noted.is_file() else "unknown"
    if name == "vllm":
        return str(server.get("/version").get("version", "unknown"))
    import ramet

    return ramet.__version__
