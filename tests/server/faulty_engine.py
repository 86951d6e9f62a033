"""The engine's process with a fault: a step that computes token 666 has no memory for it."""

from __future__ import annotations

from typing import Any

from ramet.engine.runner import ModelRunner
from ramet.server.engine_process import main

POISON = 666


def _without_memory() -> None:
    run = ModelRunner.run

    def failing(self: Any, batch: Any) -> Any:
        if POISON in batch.token_ids:
            raise MemoryError("cannot allocate 123 bytes at 0x7f00")
        return run(self, batch)

    ModelRunner.run = failing  # type: ignore[method-assign]


if __name__ == "__main__":
    _without_memory()
    main()
