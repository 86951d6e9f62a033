"""Bodies, read within bounds: bytes, time, depth, and JSON objects out of them.

Knows HTTP's bytes and JSON's forms; refuses to know what the objects mean.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request

from ramet.server.exchange import Failure
from ramet.server.generation import Refused

__all__ = ["MAX_DEPTH", "Bodies", "ClientDisconnect", "json_object", "read_body"]

MAX_DEPTH = 100  # of lists and objects within each other
PIECE_SECONDS = (
    30.0  # that a client may take for the next piece of its body, and for the first of them
)
SLOWEST = 1000.0  # bytes per second that a longer body must come at

_decoder = msgspec.json.Decoder(dict[str, Any])


class Bodies:
    """Memory for bodies that are being read, of all connections together: at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.num_bytes = most, 0

    def take(self, size: int) -> None:
        """Raises `Refused` where there is not so much."""
        if self.num_bytes and self.num_bytes + size > self.most:
            message = "the server is reading too many long bodies; try again later"
            raise Refused(Failure(status=503, message=message, retry_after=5.0))
        self.num_bytes += size

    def give_back(self, size: int) -> None:
        self.num_bytes -= size


async def read_body(request: Request, most: int, bodies: Bodies | None = None) -> bytes:
    """Raises `Refused` for more than `most` bytes, for more than `bodies` has room for, and for a client that
    stops sending or sends very slowly, and `ClientDisconnect`."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > most:
        raise Refused(too_large(most))
    bodies = bodies or Bodies(most)
    pieces: list[bytes] = []
    size = 0
    began, stream = time.monotonic(), request.stream()
    try:
        while True:
            piece = await _next_piece(stream, began + PIECE_SECONDS + size / SLOWEST)
            if piece is None:
                return b"".join(pieces)
            if size + len(piece) > most:
                raise Refused(too_large(most))
            bodies.take(len(piece))
            size += len(piece)
            pieces.append(piece)
    finally:
        bodies.give_back(size)


async def _next_piece(stream: AsyncIterator[bytes], end: float) -> bytes | None:
    seconds = max(min(PIECE_SECONDS, end - time.monotonic()), 0.0)
    try:
        async with asyncio.timeout(seconds):
            return await anext(stream, None)
    except TimeoutError:
        message = f"the body came too slowly: a piece is waited for {PIECE_SECONDS:g} s"
        raise Refused(Failure(status=408, message=message)) from None


def too_large(most: int) -> Failure:
    return Failure(status=413, message=f"the body is longer than {most} bytes; send less at once")


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises `Refused`."""
    if _depth(body) > MAX_DEPTH:
        raise Refused(_no_json(f"lists and objects lie more than {MAX_DEPTH} deep in each other"))
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Refused(_no_json(str(error))) from None


def _no_json(why: str) -> Failure:
    return Failure(status=400, message=f"the body is not the JSON that is expected: {why}")


_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def _depth(body: bytes) -> int:
    """How deep lists and objects lie in each other at most; brackets in texts do not count."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0  # few enough for any depth
    rest = np.frombuffer(_TEXT.sub(b"", body), np.uint8)
    step = np.zeros(256, np.int32)
    step[list(b"[{")], step[list(b"]}")] = 1, -1
    return int(np.cumsum(step[rest]).max(initial=0))
