"""Opening a model for a command, with a progress bar while it loads.

Knows the engine's options that the command line has, and what to say when one of its parts is missing.
The bar is drawn on standard error, and only where someone sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ramet.cli.failure import UsageError
from ramet.errors import CheckpointError, InvalidRequest, RametError

__all__ = ["open_engine"]


@contextmanager
def open_engine(model: str, **options: Any) -> Iterator[Any]:
    """A `ramet.Engine` for `model` ("pocket" or a folder), shut down at the end of the block. Options
    that are None are left to the engine. Wrong ones are a `UsageError`."""
    given = {name: value for name, value in options.items() if value is not None}
    with _bar(model) as progress:
        try:
            from ramet import Engine

            engine = Engine(model, progress=progress, **given)
        except (CheckpointError, InvalidRequest, FileNotFoundError) as error:
            raise UsageError(f"cannot load the model {model!r}: {error}") from error
        except ModuleNotFoundError as error:
            raise RametError(
                f"running a model here needs {error.name}, which is not installed "
                "(this is the language alone): pip install ramet"
            ) from error
    with engine:
        yield engine


@contextmanager
def _bar(model: str) -> Iterator[Any]:
    """The function (bytes read, bytes in all) that moves a bar for the length of the block."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"loading {model}", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
