"""`ramet build` and `ramet quantize`: work done ahead of time.

Knows which function does it and what to say of the outcome.
"""

from __future__ import annotations

from pathlib import Path

import typer

from ramet.cli.failure import UsageError
from ramet.errors import CheckpointError, InvalidRequest, RametError

__all__ = ["build_kernels", "quantize_checkpoint"]


def build_kernels(level: str | None) -> None:
    from ramet.build import LEVELS, BuildError, best_level, build
    from ramet.constraints.compiled import AUTOMATA, LEVEL
    from ramet.kernels.cpu.build import KERNELS

    if level is not None and level not in LEVELS:
        raise UsageError(f"--level: {level!r} is none of {', '.join(LEVELS)}")
    for library in (KERNELS, AUTOMATA):
        try:
            if library is AUTOMATA:
                chosen = LEVEL  # the same one whatever the machine
            else:
                chosen = best_level() if level is None else LEVELS[level]
            path = build(library, chosen)
        except BuildError as error:
            raise RametError(f"cannot build {library.title}: {error}") from error
        typer.echo(f"{library.title.removeprefix('the ')} ({chosen.name}): {path}")


def quantize_checkpoint(model: str, target: str) -> None:
    from ramet.models.quantized import save_quantized

    if model == "pocket":
        from ramet.pocket import model_path

        model = str(model_path())
    try:
        folder = save_quantized(model, target)
    except (CheckpointError, InvalidRequest) as error:
        raise UsageError(str(error)) from error
    before, after = _weight_bytes(Path(model)), _weight_bytes(folder)
    typer.echo(f"{folder}: {after / 1e6:.1f} MB of weights, before {before / 1e6:.1f} MB")


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
