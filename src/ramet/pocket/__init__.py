"""`pocket`: the small model that lives inside Ramet, so that examples run with no download.

This module knows where the checkpoint lies and nothing else; importing it costs nothing. The data
generator is `ramet.pocket.skills` (torch-free), training is `python -m ramet.pocket.train`, the
accuracy table is `python -m ramet.pocket.evaluate`. README.md in this folder has the prompt formats.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["model_path"]


def model_path() -> Path:
    """The folder of the checkpoint in Hugging Face format; FileNotFoundError when it is missing."""
    path = Path(__file__).parent / "model"
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"pocket's checkpoint is missing: {path} has no config.json")
    return path
