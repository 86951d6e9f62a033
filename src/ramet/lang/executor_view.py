"""The names of SGLang's executor, for programs that look at `s.stream_executor`.

Knows how those names map to this package's state; holds nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ramet.lang import ir
from ramet.lang.location import caller
from ramet.lang.media import media_of
from ramet.lang.promise import Promise

if TYPE_CHECKING:
    from ramet.lang.group import ProgramStateGroup
    from ramet.lang.state import ProgramState

__all__ = ["StreamExecutor"]


class VariableEvent:
    """Has the variable its value, or the error in its place?"""

    def __init__(self, promise: Promise[Any]) -> None:
        self._promise = promise

    def is_set(self) -> bool:
        return self._promise.done

    def wait(self, timeout: float | None = None) -> bool:
        """False if `timeout` seconds passed first."""
        try:
            self._promise.wait("variable_event", "write `await s.value(...)`", timeout)
        except TimeoutError:
            return False
        return True


class StreamExecutor:
    """Fields ending in an underscore show what has been executed so far; they do not wait."""

    def __init__(self, state: ProgramState) -> None:
        self._state = state

    @property
    def sid(self) -> str:
        script = self._state._script
        return f"{script.run.id}/{script.chain.path}"

    @property
    def text_(self) -> str:
        return self._state._script.chain.position.prompt.text()

    @property
    def messages_(self) -> list[dict[str, Any]]:
        return [dict(message) for message in self._state._script.chain.position.messages]

    @property
    def variables(self) -> dict[str, Any]:
        return {
            name: variable.promise.result()
            for name, variable in self._state._script.variables.items()
            if variable.promise.done and variable.promise.error is None
        }

    @property
    def meta_info(self) -> dict[str, Any]:
        return {
            name: variable.meta_info
            for name, variable in self._state._script.variables.items()
            if variable.promise.done and variable.meta_info is not None
        }

    @property
    def variable_event(self) -> dict[str, VariableEvent]:
        return {
            name: VariableEvent(variable.promise)
            for name, variable in self._state._script.variables.items()
        }

    @property
    def images_(self) -> list[tuple[str, str]]:
        """(kind, content in base64) of each image and video in the prompt."""
        return media_of(self._state._script.chain.position.prompt)

    @property
    def cur_images(self) -> list[tuple[str, str]]:
        """Those of the open role block."""
        position = self._state._script.chain.position
        if position.role is None:
            return []
        return media_of(position.prompt, since=position.role.start)

    @property
    def cur_role(self) -> str | None:
        role = self._state._script.role
        return role[0] if role is not None else None

    @property
    def chat_template(self) -> Any:
        return self._state._script.run.template

    @property
    def backend(self) -> Any:
        return self._state._script.run.backend

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self._state._script.arguments)

    @property
    def default_sampling_para(self) -> ir.SglSamplingParams:
        return ir.SglSamplingParams.from_dict(dict(self._state._script.run.defaults))

    @property
    def num_api_spec_tokens(self) -> int | None:
        return self._state._script.run.num_api_spec_tokens

    @property
    def stream(self) -> bool:
        return self._state._script.run.stream

    @property
    def is_finished(self) -> bool:
        return self._state._script.run.over.done

    @property
    def error_(self) -> Exception | None:
        return self._state._script.chain.error

    def submit(self, expr: Any) -> None:
        self._state._append(expr, caller())

    def sync(self) -> None:
        self._state.sync()

    def text(self) -> str:
        return self._state.text()

    def messages(self) -> list[dict[str, Any]]:
        return self._state.messages()

    def get_var(self, name: str) -> Any:
        return self._state.get_var(name)

    def set_var(self, name: str, value: Any) -> None:
        self._state.set_var(name, value)

    def get_meta_info(self, name: str, timeout: float | None = None) -> Any:
        return self._state.get_meta_info(name, timeout)

    def fork(
        self, size: int = 1, position_ids_offset: list[int] | None = None
    ) -> ProgramStateGroup:
        return self._state.fork(size, position_ids_offset)

    def end(self) -> None:
        """Nothing to do: a state owns no thread."""
