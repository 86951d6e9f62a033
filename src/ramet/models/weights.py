"""Reading the tensors of a checkpoint folder, one at a time.

Knows safetensors files, alone or sharded with an index; refuses to know what the tensors mean and to
open any format that can hold code (pickle: *.bin, *.pt, *.pth).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ramet.errors import CheckpointError
from ramet.models.fields import read_json

__all__ = ["Checkpoint", "Progress"]

Progress = Callable[[int, int], None]
"""Called with (bytes read so far, bytes of all weight files)."""

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Checkpoint:
    """The weight files of `folder`, opened lazily; a context manager.

    Raises CheckpointError with the file, the tensor and a remedy: on construction when the folder, the
    index or a file is missing or broken, on reading when a tensor is missing or has another shape.
    """

    def __init__(self, folder: str | Path, progress: Progress | None = None) -> None:
        self.folder = Path(folder)
        self._progress = progress
        self._num_bytes_read = 0
        self._files: dict[str, Any] = {}
        self._open_files = ExitStack()
        self._file_of = self._find_tensors()
        names = set(self._file_of.values())
        self.num_bytes = sum((self.folder / name).stat().st_size for name in names)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.clear()
        self._open_files.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def names(self) -> list[str]:
        return sorted(self._file_of)

    def any_tensor(self, name: str) -> torch.Tensor:
        """The tensor `name`, whatever its shape and dtype."""
        return self._read(name)

    def tensor(self, name: str, shape: tuple[int, ...], *, int8: bool = False) -> torch.Tensor:
        """The tensor `name` on the CPU in the checkpoint's dtype: float32, float16 or bfloat16, or with
        `int8` that."""
        tensor = self._read(name)
        path = self.folder / self._file_of[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}, config.json asks for "
                f"{list(shape)}; the two do not belong together"
            )
        if tensor.dtype not in ((torch.int8,) if int8 else _DTYPES):
            wanted = "int8, by its config.json" if int8 else "float32, float16 and bfloat16"
            raise CheckpointError(
                f"{path}: tensor {name!r} is {_short(tensor.dtype)}; Ramet reads {wanted}, "
                "so give the unquantized checkpoint"
            )
        return tensor

    def _read(self, name: str) -> torch.Tensor:
        if name not in self._file_of:
            raise CheckpointError(
                f"{self.folder}: tensor {name!r} is missing from the weight files; the checkpoint is "
                "incomplete, or config.json belongs to another model"
            )
        path = self.folder / self._file_of[name]
        try:
            tensor: torch.Tensor = self._open(self._file_of[name]).get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: tensor {name!r} cannot be read: {error}; fetch the file again"
            ) from error
        self._num_bytes_read += tensor.numel() * tensor.element_size()
        if self._progress is not None:
            self._progress(self._num_bytes_read, self.num_bytes)
        return tensor

    def _find_tensors(self) -> dict[str, str]:
        """Tensor name -> file name."""
        if not self.folder.is_dir():
            raise CheckpointError(f"model folder {str(self.folder)!r} does not exist")
        if (self.folder / _INDEX).exists():
            return self._read_index()
        if not (self.folder / _SINGLE).exists():
            raise CheckpointError(self._why_no_weights())
        return dict.fromkeys(self._open(_SINGLE).keys(), _SINGLE)

    def _read_index(self) -> dict[str, str]:
        path = self.folder / _INDEX
        file_of = read_json(path).get("weight_map")
        if not isinstance(file_of, dict) or not file_of:
            raise CheckpointError(f"{path}: weight_map is missing or empty; fetch the file again")
        names = sorted({str(name) for name in file_of.values()})
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise CheckpointError(f"{path}: weight_map names {outside[0]!r}, outside the folder")
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{self.folder}: {len(missing)} of {len(names)} weight files that {_INDEX} names are "
                f"missing ({', '.join(missing[:3])}); fetch them"
            )
        for name in names:  # a broken shard is found now, not after minutes of loading
            absent = {t for t, file in file_of.items() if file == name} - set(
                self._open(name).keys()
            )
            if absent:
                raise CheckpointError(
                    f"{self.folder / name}: tensor {min(absent)!r} is missing, though {_INDEX} places "
                    "it there; fetch the file and the index again"
                )
        return file_of

    def _why_no_weights(self) -> str:
        other = sorted(p.name for p in self.folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        if other:
            return (
                f"{self.folder}: only {other[0]!r} and no *.safetensors; pickle files can run code, so "
                "Ramet never opens them. Convert where you trust them: AutoModelForCausalLM"
                ".from_pretrained(folder).save_pretrained(new_folder, safe_serialization=True)"
            )
        shards = sorted(p.name for p in self.folder.glob("*.safetensors"))
        if shards:
            return (
                f"{self.folder}: has {shards[0]!r} but neither {_SINGLE} nor {_INDEX}; fetch the index "
                f"of the shards, or rename a single file to {_SINGLE}"
            )
        return f"{self.folder}: has no {_SINGLE} and no {_INDEX}; fetch the weights"

    def _open(self, name: str) -> Any:
        if name not in self._files:
            path = self.folder / name
            try:
                opened = safe_open(path, framework="pt", device="cpu")
                self._files[name] = self._open_files.enter_context(opened)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path}: not a whole safetensors file: {error}; fetch it again"
                ) from error
        return self._files[name]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
