"""Bodies, read within bounds: bytes, time, depth, and JSON objects out of them.

Knows HTTP's bytes and JSON's forms; refuses to know what the objects mean.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request

from ramet.server.exchange import Failure
from ramet.server.generation import Refused

__all__ = ["MAX_DEPTH", "ClientDisconnect", "json_object", "read_body"]

MAX_DEPTH = 100  # of lists and objects within each other
PIECE_SECONDS = 30.0  # that a client may take for the next piece of its body

_decoder = msgspec.json.Decoder(dict[str, Any])


async def read_body(request: Request, most: int) -> bytes:
    """Raises `Refused` for more than `most` bytes and for a client that stops sending, and
    `ClientDisconnect`."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise Refused(too_large(most))
    pieces: list[bytes] = []
    size = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                piece = await anext(stream, None)
        except TimeoutError:
            message = f"no part of the body came for {PIECE_SECONDS:.0f} s"
            raise Refused(Failure(status=408, message=message)) from None
        if piece is None:
            return b"".join(pieces)
        size += len(piece)
        if size > most:
            raise Refused(too_large(most))
        pieces.append(piece)


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
