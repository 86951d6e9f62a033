"""An open-loop load: requests leave at times that were fixed before, whatever the answers do.

A generator that waits for answers before it asks again asks a slow server less, and hides its slowness
(coordinated omission). Here the times are drawn first, and every time in an `Outcome` is to be read
against `intended`, the time at which the request should have left.

Knows times, and which connections are free. Refuses to know what is in a request or an answer: answers are
kept as they come and read afterwards, so that little is computed on the cores that the server under test
computes on. Standard library only.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving_connection import Call, Connection, Outcome

__all__ = [
    "MOST_REQUESTS",
    "Arrival",
    "Outcome",
    "Run",
    "offer",
    "poisson",
    "poisson_of",
    "post",
]

MOST_REQUESTS = 50_000  # of one load
MOST_OPEN = 8192  # requests under way at a time: what comes on top is not sent, and counted
_TICK = 0.1  # seconds between looks for requests that are over their time
_LEAD = 0.05  # seconds before the first arrival: the loop is awake by then


@dataclass(frozen=True, slots=True)
class Arrival:
    """`at`: seconds after the beginning; `request`: the whole of it, head and body."""

    at: float
    request: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """`outcomes` are in the order of arrivals. `cpu_seconds`: of this process over `seconds`. `late`:
    seconds from each intended time to the moment when the generator turned to it."""

    outcomes: list[Outcome]
    seconds: float
    cpu_seconds: float
    late: list[float]
    connections: int


def poisson(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Times of a Poisson process: `rate` a second on average, within [0, seconds). Raises `ValueError` for
    a rate or time that is not positive, or for more than `MOST_REQUESTS`."""
    if not rate > 0 or not seconds > 0:
        raise ValueError(f"rate {rate} and seconds {seconds} must be above 0")
    if rate * seconds > MOST_REQUESTS:
        raise ValueError(f"{rate} a second for {seconds} s are more than {MOST_REQUESTS} requests")
    times: list[float] = []
    at = rng.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += rng.expovariate(rate)
    return times


def poisson_of(count: int, seconds: float, rng: random.Random) -> list[float]:
    """Times of a Poisson process of which `count` are known to fall in [0, seconds): independent and
    uniform. So a short measurement at a rate is one at exactly this rate."""
    if not 0 <= count <= MOST_REQUESTS:
        raise ValueError(f"{count} requests are not between 0 and {MOST_REQUESTS}")
    return sorted(rng.random() * seconds for _ in range(count))


def post(path: str, body: bytes, keep: bool = True) -> bytes:
    """A whole POST of JSON. `keep`: the connection may serve another request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + (b"\r\n" if keep else b"Connection: close\r\n\r\n") + body


async def offer(
    load: Sequence[Arrival], port: int, *, timeout: float, most_open: int = MOST_OPEN
) -> Run:
    """Send `load` to 127.0.0.1:`port` at its times. A request that is not answered in full `timeout`
    seconds after its intended time is given up and its connection closed.

    Ends at most `timeout` seconds after the last arrival. `load` must be in the order of times."""
    if len(load) > MOST_REQUESTS:
        raise ValueError(f"{len(load)} requests; at most {MOST_REQUESTS}")
    gc.collect()
    gc.disable()  # a pause of the collector would be counted as the server's
    client = _Client(load, port, timeout, most_open)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        await client.run()
    finally:
        client.close()
        gc.enable()
    return Run(
        client.outcomes,
        time.perf_counter() - began,
        time.process_time() - cpu,
        client.late,
        client.opened,
    )


class _Client:
    """All requests of one load and the connections they leave on."""

    def __init__(self, load: Sequence[Arrival], port: int, timeout: float, most_open: int) -> None:
        self._load, self._port = load, port
        self._timeout, self._most_open = timeout, most_open
        self.outcomes = [Outcome(arrival.at) for arrival in load]
        self.late: list[float] = []
        self.opened = 0
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[Call] = deque()  # in the order of their times, ended ones among them
        self._open = 0
        self._next = 0
        self._loop = asyncio.get_running_loop()
        self._zero = 0.0
        self._finished = asyncio.Event()

    async def run(self) -> None:
        if not self._load:
            return
        self._zero = self._loop.time() + _LEAD
        self._turn()
        self._look()
        await self._finished.wait()

    def close(self) -> None:
        self._finished.set()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._all):
            connection.abandon()

    def now(self) -> float:
        return self._loop.time() - self._zero

    def _turn(self) -> None:
        """Everything that is due leaves; the next turn is when the next is due."""
        if self._finished.is_set():
            return
        while self._next < len(self._load):
            now = self.now()
            arrival, outcome = self._load[self._next], self.outcomes[self._next]
            if arrival.at > now:
                self._loop.call_at(self._zero + arrival.at, self._turn)
                return
            self._next += 1
            self.late.append(now - arrival.at)
            if self._open >= self._most_open:
                outcome.error, outcome.ended = "unsent", now
                continue
            call = Call(arrival.request, outcome)
            self._open += 1
            self._waiting.append(call)
            self.start(call)
        self._check()

    def start(self, call: Call) -> None:
        call.outcome.tries += 1
        while self._idle and call.outcome.tries == 1:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(call)
                return
        task = self._loop.create_task(self._connect(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, call: Call) -> None:
        self.opened += 1
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            self.end(call, "connect")
            return
        self._all.add(connection)
        if call.done:  # given up meanwhile
            self.rest(connection)
        else:
            connection.send(call)

    def rest(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)

    def end(self, call: Call, error: str | None) -> None:
        if call.done:
            return
        call.done = True
        call.outcome.error, call.outcome.ended = error, self.now()
        self._open -= 1
        self._check()

    def _check(self) -> None:
        if self._next == len(self._load) and self._open == 0:
            self._finished.set()

    def _look(self) -> None:
        """Give up what is over its time."""
        if self._finished.is_set():
            return
        over = self.now() - self._timeout
        while self._waiting and (self._waiting[0].done or self._waiting[0].outcome.intended < over):
            call = self._waiting.popleft()
            if not call.done:
                connection = call.connection
                self.end(call, "time")
                if connection is not None:
                    connection.abandon()
        self._loop.call_later(_TICK, self._look)
