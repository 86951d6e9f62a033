"""The interface of backends that are plain objects with blocking methods.

Knows names and defaults only. `ramet.lang.third_party` makes a `ramet.backend.Backend` of such an object,
so it can be given wherever a backend is expected; it need not derive from this class.
"""

# ruff: noqa: ARG002 - the parameters are the interface
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ramet.errors import Unsupported
from ramet.lang.chat_template import ChatTemplate, get_chat_template
from ramet.lang.choices import ChoicesDecision
from ramet.lang.sampling_record import SglSamplingParams

__all__ = ["BaseBackend"]


class BaseBackend:
    """Derive, and override what the model can do. `s` has `text_`, `messages_`, `images_` and what else
    `ramet.lang.third_party.ProgramView` names. Methods are called from worker threads, several at a time.
    """

    def __init__(self) -> None:
        self.support_concate_and_append = False
        self.chat_template = get_chat_template("default")

    def get_model_name(self) -> str:
        return type(self).__name__

    def get_chat_template(self) -> ChatTemplate:
        return self.chat_template

    # Advice

    def cache_prefix(self, prefix_str: str) -> None:
        pass

    def uncache_prefix(self, rid: str) -> None:
        pass

    def end_request(self, rid: str | list[str]) -> None:
        pass

    def begin_program(self, s: Any) -> None:
        pass

    def end_program(self, s: Any) -> None:
        pass

    def commit_lazy_operations(self, s: Any) -> None:
        pass

    def fork_program(
        self, src: Any, dst: Sequence[Any], position_ids_offset: list[int] | None = None
    ) -> None:
        pass

    def fill_image(self, s: Any) -> None:
        pass

    # Calls

    def generate(
        self, s: Any, sampling_params: SglSamplingParams
    ) -> tuple[str | list[str], dict[str, Any]]:
        """The text (a list for n > 1) and its meta information."""
        raise Unsupported(f"{self.get_model_name()} does not generate")

    def generate_stream(
        self, s: Any, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """New pieces of the text with their meta information."""
        raise NotImplementedError

    def select(
        self,
        s: Any,
        choices: list[str],
        temperature: float,
        choices_method: Callable[..., Any],
    ) -> ChoicesDecision:
        raise Unsupported(f"{self.get_model_name()} does not select")

    def concatenate_and_append(self, src_rids: list[str], dst_rid: str) -> None:
        raise Unsupported(f"{self.get_model_name()} does not glue caches")

    def shutdown(self) -> None:
        pass

    def flush_cache(self) -> bool:
        return False

    def get_server_info(self) -> dict[str, Any]:
        return {"model_path": self.get_model_name()}
