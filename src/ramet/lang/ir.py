"""The operations of a program, as frozen records.

Knows what can be said, not what it means: `lower` turns a generation into a call, `interpreter` executes.
A record holds nothing of any run, so one expression may be appended to many states, many times.

The names are those that programs import (`SglGen`, `SglConstantText`, ...). `SglVariable`, `SglArgument`
and `SglGetForkItem` occur in graphs only: a running program has real values in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ramet.errors import InvalidRequest
from ramet.lang.sampling_record import SglSamplingParams

__all__ = [
    "REGEX_BOOL",
    "REGEX_FLOAT",
    "REGEX_INT",
    "REGEX_JSON_STR",
    "REGEX_STR",
    "REGEX_STRING",
    "SglArgument",
    "SglCommitLazy",
    "SglConcateAndAppend",
    "SglConstantText",
    "SglExpr",
    "SglExprList",
    "SglFork",
    "SglGen",
    "SglGetForkItem",
    "SglImage",
    "SglJoin",
    "SglRoleBegin",
    "SglRoleEnd",
    "SglSamplingParams",
    "SglSelect",
    "SglSeparateReasoning",
    "SglVarScopeBegin",
    "SglVarScopeEnd",
    "SglVariable",
    "SglVideo",
]

# White space at the end lets a model finish a number early; the stop strings of a typed gen cut it off.
REGEX_INT = r"[-+]?[0-9]+[ \n]*"
REGEX_FLOAT = r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
REGEX_BOOL = r"(True|False)"
REGEX_STR = r"\"[\w\d\s]*\""
REGEX_STRING = REGEX_STR
# Any text as JSON writes it, punctuation and escapes included. A half of a surrogate pair alone is not
# text: it has no UTF-8.
REGEX_JSON_STR = (
    r'"(?:[^"\\\x00-\x1f]'
    r'|\\["\\/bfnrt]'
    r"|\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
    r'|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"'
)


class SglExpr:
    """Something that can be appended to a state. `+` with another one or with text gives a list."""

    __slots__ = ()

    def __add__(self, other: SglExpr | str) -> SglExprList:
        if not isinstance(other, (SglExpr, str)):
            return NotImplemented
        return SglExprList([self, other])

    def __radd__(self, other: SglExpr | str) -> SglExprList:
        if not isinstance(other, (SglExpr, str)):
            return NotImplemented
        return SglExprList([other, self])

    def __format__(self, spec: str) -> str:
        raise InvalidRequest(
            "f-string", self, "is an operation, not text", 'write "text" + gen("x") + "text"'
        )


class SglExprList(SglExpr):
    """Expressions one after the other; lists within lists are flattened."""

    __slots__ = ("expr_list",)

    def __init__(self, expr_list: list[SglExpr | str] | tuple[SglExpr | str, ...]) -> None:
        flat: list[SglExpr] = []
        for expr in expr_list:
            if isinstance(expr, SglExprList):
                flat.extend(expr.expr_list)
            elif isinstance(expr, str):
                flat.append(SglConstantText(expr))
            elif isinstance(expr, SglExpr):
                flat.append(expr)
            else:
                raise InvalidRequest(
                    "expression", expr, "is neither text nor an expression", "convert it with str()"
                )
        self.expr_list: tuple[SglExpr, ...] = tuple(flat)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SglExprList) and other.expr_list == self.expr_list

    def __repr__(self) -> str:
        return f"ExprList({list(self.expr_list)!r})"


@dataclass(frozen=True, slots=True)
class SglConstantText(SglExpr):
    value: str

    def __repr__(self) -> str:
        return f"Constant({self.value!r})"


@dataclass(frozen=True, slots=True)
class SglGen(SglExpr):
    """A generation. `options` holds only what was given, under the names of `SamplingParams` and of the
    log-probability fields of `GenerateCall`, and `dtype`."""

    name: str | None
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Gen({self.name!r})"


@dataclass(frozen=True, slots=True)
class SglSelect(SglExpr):
    """A choice by log-probability. `choices_method` as in `ramet.lang.choices`."""

    name: str | None
    choices: tuple[str, ...]
    temperature: float
    choices_method: Callable[..., Any]

    def __repr__(self) -> str:
        return f"Select({self.name!r}, choices={list(self.choices)!r})"


@dataclass(frozen=True, slots=True)
class SglRoleBegin(SglExpr):
    role: str

    def __repr__(self) -> str:
        return f"RoleBegin({self.role})"


@dataclass(frozen=True, slots=True)
class SglRoleEnd(SglExpr):
    role: str

    def __repr__(self) -> str:
        return f"RoleEnd({self.role})"


@dataclass(frozen=True, slots=True)
class SglVarScopeBegin(SglExpr):
    name: str


@dataclass(frozen=True, slots=True)
class SglVarScopeEnd(SglExpr):
    name: str


@dataclass(frozen=True, slots=True)
class SglFork(SglExpr):
    """The position is handed to `number` branches."""

    number: int

    def __repr__(self) -> str:
        return f"Fork(number={self.number})"


@dataclass(frozen=True, slots=True)
class SglJoin(SglExpr):
    """Waits for branches and takes over their variables, or their texts."""

    mode: str
    return_exceptions: bool = False


@dataclass(frozen=True, slots=True)
class SglCommitLazy(SglExpr):
    """Advice to compute the prompt up to here: a continuation will come."""


@dataclass(frozen=True, slots=True)
class SglImage(SglExpr):
    path: Any


@dataclass(frozen=True, slots=True)
class SglVideo(SglExpr):
    path: Any
    num_frames: int


@dataclass(frozen=True, slots=True)
class SglSeparateReasoning(SglExpr):
    model_type: str
    names: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(f"{name}_reasoning_content" for name in self.names)
        return f"SeparateReasoning(model_type={self.model_type}, name={names})"


@dataclass(frozen=True, slots=True)
class SglVariable(SglExpr):
    name: str
    source: SglExpr

    def __repr__(self) -> str:
        return f"Variable({self.name!r})"


@dataclass(frozen=True, slots=True)
class SglArgument(SglExpr):
    name: str
    value: Any = None

    def __repr__(self) -> str:
        return f"Argument(name={self.name})"


@dataclass(frozen=True, slots=True)
class SglGetForkItem(SglExpr):
    index: int

    def __repr__(self) -> str:
        return f"GetForkItem(index={self.index})"


SglConcateAndAppend = SglJoin
