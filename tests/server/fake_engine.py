"""Engines that are no engine: processes that speak the frames of one, or misbehave in the way that is named.

    python tests/server/fake_engine.py MODE FOLDER

It is started as the real one is, and leaves a file with its number in FOLDER. What a mode does the first time
only, it does when the folder was empty. Imports nothing of ramet, so that it starts at once: the frames are
spelled out once more.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from msgspec import msgpack


def frame(kind: str, **fields: Any) -> bytes:
    return _framed(msgpack.encode({"type": kind, **fields}))


def _framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def update(key: int, index: int, text: str, ids: list[int], meta: dict[str, Any]) -> list[Any]:
    return [key, index, text, ids, meta, None]


class Fake:
    def __init__(self, connection: socket.socket, mode: str, first: bool) -> None:
        self.connection, self.mode, self.first = connection, mode, first
        self.frozen = threading.Event()

    def say(self, kind: str, **fields: Any) -> None:
        self.connection.sendall(frame(kind, **fields))

    def read(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._exactly(4))
        message: dict[str, Any] = msgpack.decode(self._exactly(length))
        return message

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                sys.exit(0)
            data += piece
        return data

    def load(self) -> None:
        if self.mode == "exits at start":
            sys.exit(3)
        if self.mode == "junk at start":
            self.connection.sendall(os.urandom(1000))
        self.say("hello", pid=1 if self.mode == "somebody else" else os.getpid())
        if self.mode == "complains":
            self.say("failed", key=0, status=500, message="model.safetensors: the file is broken")
            sys.exit(1)
        if self.mode == "silent at start":
            time.sleep(100)
        if self.mode == "slow start":
            for _ in range(20):
                time.sleep(0.1)
                self.say("beat", num_steps=0)
        if self.mode == "dies while loading" and self.first:
            os.kill(os.getpid(), 9)
        facts = {"vocab_size": 2048, "max_context": 4096, "num_slots": 1000}
        self.say("ready", **facts, info={"mode": self.mode})
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self) -> None:
        while not self.frozen.wait(0.05):
            self.say("beat", num_steps=1)

    def serve(self) -> None:
        while True:
            message = self.read()
            key, kind = message["key"], message["type"]
            if kind == "ask":
                value = {"asked": message["what"], "argument": message["argument"]}
                self.say("reply", key=key, value=value)
            elif kind == "submit":
                if self.first:
                    self.misbehave()
                if self.mode == "never answers":
                    continue
                for index, part in enumerate(message["parts"]):
                    meta = {"finish_reason": {"type": "length", "length": 1}}
                    ids = [part[1][0]]
                    self.say("news", updates=[update(key, index, f"<{ids[0]}>", ids, meta)])
            elif kind == "abort":
                print("abort", key, message["told"], flush=True)

    def misbehave(self) -> None:
        """At the first request, the first time."""
        raw: dict[str, bytes] = {
            "junk": os.urandom(4096),
            "oversized": struct.pack("<I", 0xFFFFFFFF) + b"x" * 100,
            "no message": frame("ask", key=1, what="stats"),
            "no kind": _framed(msgpack.encode({"key": 1})),
            "wrong types": frame("news", updates=5),
            "deep": _framed(b"\x91" * 100_000 + b"\xc0"),
            "half a frame": struct.pack("<I", 100) + b"x",
            "ready twice": frame("ready", vocab_size=1, max_context=1, num_slots=1, info={}),
            "somebody's hello": frame("hello", pid=1),
            "bad update": b"".join(
                frame("news", updates=[update(1, 0, "x", [1], {"output_x": value})])
                for value in ([1], 3, [1])
            ),
        }
        if self.mode in raw:
            self.connection.sendall(raw[self.mode])
            if self.mode == "half a frame":
                sys.exit(0)
            time.sleep(100)
        elif self.mode == "exits":
            sys.exit(7)
        elif self.mode == "is killed":
            os.kill(os.getpid(), 9)
        elif self.mode == "freezes":
            self.frozen.set()
            time.sleep(100)
        elif self.mode == "hangs up":
            self.frozen.set()
            self.connection.shutdown(socket.SHUT_RDWR)
            time.sleep(100)


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    first = not any(folder.iterdir())
    (folder / str(os.getpid())).touch()
    setting = json.loads(sys.stdin.readline())
    fake = Fake(socket.socket(fileno=setting["fd"]), mode, first)
    if mode == "has a child":
        child = subprocess.Popen(["sleep", "100"])
        (folder / f"child-{child.pid}").touch()
    fake.load()
    fake.serve()


if __name__ == "__main__":
    main()
