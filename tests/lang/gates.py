"""A backend whose answers wait for the test, so that no test depends on how fast the machine is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ramet.backend import Completion, GenerateCall
from ramet.backends.scripted import Scripted


class Gated(Scripted):
    """Answers nobody before `gate` is set."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = threading.Event()

    async def generate(self, call: GenerateCall, on_chunk: Any = None) -> list[Completion]:
        while not self.gate.is_set():
            await asyncio.sleep(0.001)
        return await super().generate(call, on_chunk)
