"""A seeded storm over a running server: requests of all kinds, clients that leave, aborts, and an engine that is
killed; and what must hold after each round of it.

Answers are compared with those that the same server gave to each request alone. Used by the suite for a few
rounds and by the soak test for as long as one likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.server.http_client import Client, ask
from tests.server.launched import Launched

WORDS = [
    "sun",
    "moon",
    "rabbit",
    "river",
    "stone",
    "little",
    "red",
    "old",
    "found",
    "lost",
    "under",
    "over",
    "kind",
    "brave",
    "quiet",
    "song",
]


@dataclass(frozen=True)
class Wish:
    """One request, and how to read its answer."""

    path: str
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    def streamed(self, stream: bool) -> Wish:
        return Wish(self.path, {**self.body, "stream": stream})


def wish(prompt: str, kind: int, length: int) -> Wish:
    """A deterministic one. Kinds share prompts, so that they share the cache."""
    if kind == 0:
        params = {"max_new_tokens": length, "temperature": 0, "ignore_eos": True}
        return Wish("/generate", {"text": prompt, "sampling_params": params})
    if kind == 1:
        return Wish(
            "/v1/completions",
            {"prompt": prompt, "max_tokens": length, "temperature": 0, "logprobs": 1},
        )
    if kind == 2:
        messages = [{"role": "user", "content": prompt}]
        return Wish(
            "/v1/chat/completions", {"messages": messages, "max_tokens": length, "temperature": 0}
        )
    if kind == 3:
        params = {"max_new_tokens": length, "temperature": 0.9, "sampling_seed": 7, "n": 2}
        return Wish("/generate", {"text": prompt, "sampling_params": params})
    params = {"max_new_tokens": length, "temperature": 0, "regex": "( [a-z]{2,8}){3,6}\\."}
    return Wish("/generate", {"text": prompt, "sampling_params": params})


def text_of(path: str, answer: Any) -> Any:
    """What was said, of an answer in one piece."""
    if isinstance(answer, list):
        return [one["text"] for one in answer]
    if path == "/generate":
        return answer["text"]
    choice = answer["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def text_of_events(path: str, events: list[Any]) -> Any:
    """What was said, of a stream that came to its end."""
    if path == "/generate":
        last: dict[int, str] = {}
        for one in events:
            last[one.get("index", 0)] = one["text"]
        return [last[i] for i in sorted(last)] if "index" in events[0] else last[0]
    pieces = [one["choices"][0] for one in events if one["choices"]]
    return "".join((p.get("delta") or {}).get("content") or p.get("text") or "" for p in pieces)


@dataclass
class Outcome:
    """How a request ended: "right", "wrong", "429", "503", "left", "broken" (the connection was cut without
    a word), "error event", "aborted" or another status."""

    kind: str
    said: Any = None


@dataclass
class Storm:
    server: Launched
    seed: int
    rids: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.alone: dict[str, Any] = {}
        self.num_rids = 0

    async def prepare(self, count: int = 12) -> None:
        """Choose what is asked, and ask each alone."""
        draw = self.random
        shared = "Once upon a time there was a " + " ".join(draw.choices(WORDS, k=20))
        self.wishes = []
        for i in range(count):
            prompt = shared * draw.randint(0, 3) + " and " + " ".join(draw.choices(WORDS, k=9))
            self.wishes.append(wish(prompt, i % 5, draw.choice([8, 24, 60])))
        for one in self.wishes:
            status, _, answer = await ask(self.server.port, one.path, one.body)
            assert status == 200, (one, answer)
            self.alone[repr(one.streamed(False))] = text_of(one.path, answer)

    # -- one request ----------------------------------------------------------------------------------

    async def send(self, one: Wish, leave_after: float | None = None, rid: str = "") -> Outcome:
        """`leave_after`: seconds after which the client is gone."""
        said = self.alone[repr(one.streamed(False))]
        body = dict(one.body)
        if rid and one.path == "/generate":
            body["rid"] = rid
        client = await Client.to(self.server.port)
        try:
            async with asyncio.timeout(leave_after):
                client.post(one.path, body)
                return await self._outcome(client, one, said)
        except TimeoutError:
            return Outcome("left")
        except (asyncio.IncompleteReadError, ConnectionError):
            return Outcome("broken")
        finally:
            client.close()

    async def _outcome(self, client: Client, one: Wish, said: Any) -> Outcome:
        if not one.stream:
            status, headers, data = await client.answer()
            return self._judged(one, status, headers, data, said)
        status, headers = await client.head()
        if status != 200:
            data = await client.reader.readexactly(int(headers["content-length"]))
            return self._judged(one, status, headers, data, said)
        events = [event async for event in client.events()]
        if events[-1] == "[DONE]":
            events.pop()
        if any("error" in event for event in events):
            return Outcome("error event", events[-1])
        if any("'abort'" in str(event) for event in events):
            return Outcome("aborted")
        return self._compared(one, text_of_events(one.path, events), said)

    def _compared(self, one: Wish, found: Any, said: Any) -> Outcome:
        return Outcome("right") if found == said else Outcome("wrong", (one, found, said))

    def _judged(self, one: Wish, status: int, headers: Any, data: bytes, said: Any) -> Outcome:
        if status != 200:
            assert b"error" in data
            if status in (429, 503):
                assert int(headers["retry-after"]) >= 1
            return Outcome(str(status), data)
        answer = json.loads(data)
        if '"abort"' in data.decode():
            return Outcome("aborted")
        return self._compared(one, text_of(one.path, answer), said)

    # -- rounds ---------------------------------------------------------------------------------------

    async def round(self, size: int = 24, kill: bool = False) -> None:
        """So many requests at once and meanwhile whatever comes to mind; then what must hold."""
        draw = self.random
        tasks, patient = [], []
        for _ in range(size):
            one = draw.choice(self.wishes).streamed(draw.random() < 0.5)
            leave = draw.expovariate(8.0) if draw.random() < 0.3 else None
            rid = ""
            if draw.random() < 0.3:
                rid, self.num_rids = f"rid-{self.num_rids}", self.num_rids + 1
            task = asyncio.create_task(self.send(one, leave, rid))
            tasks.append(task)
            if leave is None:
                patient.append(task)
            await asyncio.sleep(draw.expovariate(200.0))
        bothering = asyncio.create_task(self._bother())
        if kill:
            await asyncio.sleep(draw.random() * 0.2)
            before = await num_starts(self.server)
            os.kill(self.server.engine_pid, signal.SIGKILL)
        async with asyncio.timeout(50):
            outcomes = await asyncio.gather(*tasks)
        bothering.cancel()
        await asyncio.gather(bothering, return_exceptions=True)
        self.counts.update(outcome.kind for outcome in outcomes)
        allowed = {"right", "left", "aborted", "429"}
        if kill:
            allowed |= {"503", "error event"}
        for outcome in outcomes:
            if outcome.kind not in allowed:
                self.wrong.append(f"{outcome.kind}: {outcome.said!r}")
        assert not self.wrong, (self.seed, self.wrong)
        if kill:
            await healthy(self.server, starts=before + 1)
        await check_nothing_is_held(self.server)

    async def _bother(self) -> None:
        """Questions, aborts by name, and bodies that never come to their end."""
        draw = self.random
        while True:
            await asyncio.sleep(draw.expovariate(100.0))
            port, choice = self.server.port, draw.randrange(4)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                if choice == 0:
                    await ask(port, "/get_server_info")
                elif choice == 1 and self.num_rids:
                    await ask(port, "/abort_request", {"rid": f"rid-{self.num_rids - 1}"})
                elif choice == 2:
                    client = await Client.to(port)
                    client.send(
                        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
                    )
                    client.close()
                else:
                    await ask(port, "/v1/completions", {"prompt": 5, "max_tokens": -1})


async def stats(server: Launched) -> dict[str, Any]:
    status, _, info = await ask(server.port, "/get_server_info")
    assert status == 200, info
    found: dict[str, Any] = info["internal_states"][0]
    return found


async def check_nothing_is_held(server: Launched, seconds: float = 30.0) -> None:
    """It is well, nothing runs or waits or is pinned, nothing was repaired, and all can be forgotten."""
    await healthy(server, seconds)
    end = time.monotonic() + 5.0  # a client that left is noticed when its packet has come
    while True:
        found = await stats(server)
        held = [found[f"num_{name}"] for name in ("running", "waiting", "pinned_tokens")]
        if held == [0, 0, 0] or time.monotonic() > end:
            break
        await asyncio.sleep(0.02)
    assert held == [0, 0, 0]
    assert found["num_repairs"] == 0
    status, _, _ = await ask(server.port, "/flush_cache?timeout=2")
    assert status == 200
    found = await stats(server)
    assert found["num_free_slots"] == found["num_slots"]


async def num_starts(server: Launched) -> int:
    _, _, info = await ask(server.port, "/get_server_info")
    return int(info["num_engine_starts"])


async def healthy(server: Launched, seconds: float = 30.0, starts: int = 1) -> None:
    """Waits until it is; and until the engine has been started so often."""
    end = time.monotonic() + seconds
    while True:
        status, _, answer = await ask(server.port, "/get_server_info")
        if status == 200 and answer["num_engine_starts"] >= starts:
            break
        assert status in (200, 503)
        assert time.monotonic() < end, ("the server is not well", server.lines[-20:])
        await asyncio.sleep(0.03)
    assert (await ask(server.port, "/health"))[0] == 200


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
