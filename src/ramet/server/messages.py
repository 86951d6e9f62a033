"""What the HTTP process and the engine's process say to each other, and how it travels.

Frames are MessagePack of the types below, behind their length in four bytes, over a pair of sockets that the
engine's process is born with: nothing listens, so nobody else can speak. Nothing else is ever decoded: a
frame of another form ends the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import numpy as np

from ramet.kernels.plan import IntArray

__all__ = [
    "MAX_FRAME",
    "Abort",
    "Ask",
    "Beat",
    "Failed",
    "FromEngine",
    "Hello",
    "News",
    "Part",
    "Question",
    "Ready",
    "Reply",
    "Scoring",
    "Submit",
    "ToEngine",
    "Update",
    "WireError",
    "frame",
    "packed_ids",
    "read_frame",
    "unpacked_ids",
    "write_frame",
]

MAX_FRAME = 1 << 28  # bytes: far above the largest request that HTTP lets in
_LENGTH_BYTES = 4


class WireError(Exception):
    """What came is no frame of ours."""


class Scoring(msgspec.Struct, array_like=True):
    """`LogprobOptions` on the wire."""

    output: bool
    prompt_start: int | None
    top: int
    token_ids: list[int]


class Part(msgspec.Struct, array_like=True):
    """One prompt, and `params["n"]` samples of it. `ids`: int32, little-endian."""

    rid: str
    ids: bytes
    params: dict[str, Any]
    scoring: Scoring | None
    salt: str
    num_public: int
    token_text: bool
    spans: bool


class Submit(msgspec.Struct, tag="submit"):
    """Generate all `parts`, in one batch where it can be. Without `stream` only the first tokens
    and the ends are told."""

    key: int
    parts: list[Part]
    stream: bool


class Abort(msgspec.Struct, tag="abort"):
    """End the requests of `key`: silently, or with `told` as any others end, and then of part `part` alone
    where one is named."""

    key: int
    told: bool = False
    part: int | None = None


Question = Literal["stats", "flush", "audit", "start_profile", "stop_profile", "look", "tree"]


class Ask(msgspec.Struct, tag="ask"):
    """A question, to be answered between two steps."""

    key: int
    what: Question
    argument: int = 0


class Hello(msgspec.Struct, tag="hello"):
    """The engine's process is there and loads the model."""

    pid: int


class Ready(msgspec.Struct, tag="ready"):
    """The model is loaded. `info`: `Engine.get_server_info()`."""

    vocab_size: int
    max_context: int
    num_slots: int
    info: dict[str, Any]


class Update(msgspec.Struct, array_like=True):
    """What is new in sample `index` of the requests of `key`: text, tokens, and (first, last, and always
    where log-probabilities are wanted) `meta`, whose per-token lists hold the new entries only. `kept`: see
    `Sample`, of a sample that has ended."""

    key: int
    index: int
    text: str
    ids: list[int]
    meta: dict[str, Any] | None = None
    kept: tuple[list[int], str] | None = None


class News(msgspec.Struct, tag="news"):
    """All that a step has to say."""

    updates: list[Update]


class Failed(msgspec.Struct, tag="failed"):
    """None of the requests of `key` runs any more. `status` as in HTTP. Of key 0: there will be no engine,
    for whoever started the server to read."""

    key: int
    status: int
    message: str
    field: str | None = None


class Reply(msgspec.Struct, tag="reply"):
    key: int
    value: Any


class Beat(msgspec.Struct, tag="beat"):
    """The engine lives: sent from between two steps (or while it waits for work)."""

    num_steps: int


ToEngine = Submit | Abort | Ask
FromEngine = Hello | Ready | News | Failed | Reply | Beat


def packed_ids(ids: IntArray) -> bytes:
    return ids.astype("<i4").tobytes()


def unpacked_ids(data: bytes) -> IntArray:
    return np.frombuffer(data, "<i4").astype(np.int64)


def _plain(value: Any) -> Any:
    """Figures of arrays as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not travel")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)


def frame(message: msgspec.Struct) -> bytes:
    """Raises `WireError` for what does not fit, or cannot travel."""
    try:
        body = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"{type(message).__name__} cannot be sent: {error}") from error
    if len(body) > MAX_FRAME:
        raise WireError(f"a frame of {len(body)} bytes is too long")
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def write_frame(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
    writer.write(frame(message))


async def read_frame(
    reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Any], most: int = MAX_FRAME
) -> Any:
    """The next message. Raises `WireError`, and `IncompleteReadError` at the end of the stream."""
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "little")
    if length > most:
        raise WireError(f"a frame of {length} bytes is too long")
    body = await reader.readexactly(length)
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a frame is of another form: {error}") from None
