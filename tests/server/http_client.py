"""HTTP by hand: connections of which every byte, and every pause, is the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int, **options: Any) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, **options))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, seconds: float = 40.0) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(seconds):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        status = int(lines[0].split()[1])
        if status == 100:
            return status, headers, b""
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
            return status, headers, body
        return status, headers, await self.reader.read()

    async def dribble(self, data: bytes, pause: float) -> int:
        """Send `data` again and again until the server says something. Returns how often."""
        for count in range(200):
            if self.reader._buffer or self.reader.at_eof() or self.writer.is_closing():  # type: ignore[attr-defined]
                return count
            self.send(data)
            await asyncio.sleep(pause)
        raise AssertionError("the server said nothing")

    async def ended(self, seconds: float = 5.0) -> bytes:
        """What comes before the server hangs up."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read()
        except ConnectionError:
            return b""
        finally:
            self.writer.close()

    # -- whole requests ----------------------------------------------------------------------------

    def post(self, path: str, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + data)

    def get(self, path: str, method: str = "GET") -> None:
        self.send(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())

    async def head(self) -> tuple[int, dict[str, str]]:
        """Of a streamed answer; its events follow."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def events(self) -> AsyncIterator[Any]:
        """To the end of the answer. Raises `IncompleteReadError` where the connection ends before it."""
        rest = b""
        while size := int(await self.reader.readuntil(b"\n"), 16):
            rest += (await self.reader.readexactly(size + 2))[:-2]
            *whole, rest = rest.split(b"\n\n")
            for one in whole:
                if one.startswith(b"data: "):
                    yield one[6:].decode() if one == b"data: [DONE]" else json.loads(one[6:])
        await self.reader.readuntil(b"\n")

    def close(self) -> None:
        self.writer.close()


async def ask(
    port: int, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request on a connection of its own: status, headers, and what JSON it brought."""
    client = await Client.to(port)
    try:
        if body is None:
            client.get(path)
        else:
            client.post(path, body, **headers)
        status, found, data = await client.answer()
        return status, found, json.loads(data) if data[:1] in b"{[" and data else data.decode()
    finally:
        client.close()
