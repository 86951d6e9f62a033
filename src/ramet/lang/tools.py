"""Python functions that a model may call: what it is told of them, and what becomes of a call it wrote.

Knows signatures, schemas and texts. A tool's arguments are what its signature says; a call is data, read as
JSON and checked, never run as code. What is wrong with a call is a value that the model and the program can
read. Refuses to know how the model is asked and how functions are run: that is `tool_calls`.
"""

from __future__ import annotations

import functools
import inspect
import json
import operator
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from typing import Any, Literal, overload

from ramet.errors import InvalidRequest
from ramet.lang import ir
from ramet.lang.result_types import json_at_start
from ramet.lang.schema_types import schema_of
from ramet.lang.values import Misfit, Reader, reader_of

__all__ = [
    "CALL_BEGIN",
    "CALL_END",
    "SglTools",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolTurn",
    "calls_in",
    "describe_tools",
    "read_call",
    "response_of",
    "schema_of_calls",
    "tool",
    "toolset",
]

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolError:
    """Why a call has no value: what was written is no call (`malformed`), no tool has the name (`unknown`),
    the arguments do not fit (`arguments`), the function raised (`raised`, `cause` is its exception), it took
    too long (`timeout`), or no more calls were allowed (`refused`)."""

    kind: Literal["malformed", "unknown", "arguments", "raised", "timeout", "refused"]
    message: str
    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model wrote. `arguments` are Python values of the parameters' types, None if they
    could not be read. `value` is what the function returned, None with an `error`."""

    name: str
    arguments: Mapping[str, Any] | None = None
    value: Any = None
    error: ToolError | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """What `use_tools` gives: the calls in their order, and the `text` that the model wrote beside them (its
    answer, if there are no calls). True if there are calls; iterating gives the calls."""

    text: str
    calls: tuple[ToolCall, ...] = ()

    def __iter__(self) -> Iterator[ToolCall]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def values(self) -> list[Any]:
        """What the calls without an error returned."""
        return [call.value for call in self.calls if call.error is None]

    @property
    def errors(self) -> list[ToolError]:
        return [call.error for call in self.calls if call.error is not None]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function (`def` or `async def`) with what a model must know of it. Calling it calls the function.
    `arguments` is the type of its arguments, all by name; `timeout` seconds, None for that of the call."""

    function: Callable[..., Any]
    name: str
    description: str
    arguments: Any
    reader: Reader = field(compare=False)
    timeout: float | None = None

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @property
    def schema(self) -> str:
        """The JSON Schema of the arguments, as text."""
        return schema_of(self.arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class SglTools(ir.SglExpr):
    """A turn of the model in which it may call tools. `choice` is "auto", "none", "required" or a tool's
    name, `options` are those of its generations."""

    name: str | None
    tools: tuple[Tool, ...]
    choice: str
    max_calls: int
    max_rounds: int
    parallel: bool
    timeout: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"use_tools({self.name!r})" if self.name is not None else "use_tools()"


_TYPED_DICT: Any = typing.TypedDict  # made of names that are known only now


# From functions to tools


@overload
def tool(function: Callable[..., Any]) -> Tool: ...
@overload
def tool(
    function: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function: its name, its docstring and its parameters' types are what a model is
    told. `use_tools` does this to plain functions by itself; the decorator is for other words or a timeout.
    Raises `InvalidRequest` for parameters without a type, without a JSON Schema, or without a name."""

    def made(function: Callable[..., Any]) -> Tool:
        said = str(name or getattr(function, "__name__", ""))
        if not re.fullmatch(r"[A-Za-z_][\w.-]{0,63}", said):
            raise InvalidRequest("tools", function, "has no name that a model can write", "name it")
        words = inspect.getdoc(function) or "" if description is None else description
        arguments = _arguments(function, said)
        return Tool(function, said, words, arguments, reader_of(arguments), timeout)

    return made if function is None else made(function)


def _arguments(function: Callable[..., Any], name: str) -> Any:
    """A TypedDict of the parameters; those with a default need not be given."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise InvalidRequest("tools", function, f"has no signature to read: {error}") from error
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            problem = f"has a parameter {str(parameter)!r}, which has no name in a call"
            raise InvalidRequest("tools", function, problem, "name each parameter")
        if parameter.name not in hints:
            problem = f"has a parameter {parameter.name!r} without a type"
            raise InvalidRequest("tools", function, problem, "annotate it")
        hint = hints[parameter.name]
        needed = parameter.default is parameter.empty
        fields[parameter.name] = hint if needed else typing.NotRequired[hint]
    arguments = _TYPED_DICT(name, fields)
    schema_of(arguments)
    return arguments


def toolset(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """The tools, made of functions where they are such. Raises `InvalidRequest` for none or equal names."""
    if not isinstance(tools, (list, tuple)) or not tools:
        raise InvalidRequest("tools", tools, "is not a list of functions")
    found = tuple(one if isinstance(one, Tool) else tool(_function(one)) for one in tools)
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest("tools", twice, "is the name of two tools", "use @tool(name=...)")
    return found


def _function(one: Any) -> Callable[..., Any]:
    if not callable(one):
        raise InvalidRequest("tools", one, "is not a function")
    function: Callable[..., Any] = one
    return function


# What the model is told


def describe_tools(tools: Sequence[Any]) -> str:
    """Words for a prompt: the tools, their arguments as JSON Schemas, and how to call them. A program puts
    them where it wants them (mostly into the system block); nothing is put there behind its back."""
    lines = ["You can call these tools:"]
    for one in toolset(tools):
        about = {"name": one.name, "description": one.description}
        lines.append(json.dumps({**about, "arguments": json.loads(one.schema)}, ensure_ascii=False))
    form = '{"name": "...", "arguments": {...}}'
    lines += [
        "To call one, write",
        CALL_BEGIN,
        form,
        CALL_END,
        "and its result will be shown to you.",
    ]
    return "\n".join(lines)


def schema_of_calls(tools: Sequence[Tool]) -> str:
    """The JSON Schema of one call of any of the tools, as text."""
    kinds = [
        _TYPED_DICT(f"{one.name}_call", {"name": Literal[one.name], "arguments": one.arguments})
        for one in tools
    ]
    return schema_of(functools.reduce(operator.or_, kinds))


# What the model wrote


def read_call(text: str, tools: Sequence[Tool], *, cut: bool = False) -> ToolCall:
    """The call that the text is, tags around it or not, checked but not made."""
    inside = re.sub(rf"\A\s*{CALL_BEGIN}|{CALL_END}\s*\Z", "", text)
    try:
        value, _, after = json_at_start(inside, cut)
        if inside[after:].strip():
            raise Misfit("more than the call was written")
    except Misfit as misfit:
        return ToolCall("", error=ToolError("malformed", str(misfit)))
    return _checked(value, tools)


def _checked(value: Any, tools: Sequence[Tool]) -> ToolCall:
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        return ToolCall("", error=ToolError("malformed", "a call is an object with a name"))
    found = next((one for one in tools if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in tools)
        return ToolCall(
            name, error=ToolError("unknown", f"no tool is named {name!r}: there are {known}")
        )
    try:
        return ToolCall(name, found.reader.read(value.get("arguments", {})))
    except Misfit as misfit:
        return ToolCall(name, error=ToolError("arguments", str(misfit)))


def calls_in(text: str, tools: Sequence[Tool], *, cut: bool = False) -> tuple[str, list[ToolCall]]:
    """A whole answer taken apart: the text beside the calls, and the calls. A call is read before its end is
    looked for, because an argument may hold a tag."""
    beside, calls, at = "", list[ToolCall](), 0
    while (begin := text.find(CALL_BEGIN, at)) >= 0:
        beside += text[at:begin]
        begin += len(CALL_BEGIN)
        try:
            end = begin + json_at_start(text[begin:], cut)[2]
        except Misfit:
            end = begin
        close = text.find(CALL_END, end)
        end = close if close >= 0 else len(text)
        calls.append(read_call(text[begin:end], tools, cut=cut and close < 0))
        at = end + len(CALL_END)
    return (beside + text[at:]).strip() if calls else text, calls


# What the model is shown of a result


def response_of(call: ToolCall) -> str:
    """The result as JSON. A `<` that could begin a tag or a marker of a chat template is escaped: a result
    must not speak for anyone else."""
    said = {"error": call.error.message} if call.error is not None else {"result": call.value}
    try:
        text = json.dumps({"name": call.name, **said}, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a circle
        text = json.dumps({"name": call.name, "result": repr(call.value)}, ensure_ascii=False)
    return re.sub(r"<(?=[/|\w])", r"\\u003c", text).replace("<｜", "\\u003c｜")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)
