"""A checkpoint's own chat template, rendered.

Templates are programs from strangers: they run in jinja2's sandbox with limits on their size, their work
and their output. Knows messages and texts, no token ids.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

from ramet.backend import Message
from ramet.engine.template_sizes import format_length, method_length, percent_length
from ramet.errors import CheckpointError, InvalidRequest

__all__ = ["MAX_SOURCE", "ChatTemplate"]

MAX_SOURCE = 1 << 18  # characters of a template
MAX_OUTPUT = 1 << 24  # characters of a rendered conversation, and of any string made on the way
MAX_WORK = 500_000  # in one rendering: loop rounds, and calls
_CALL = 5  # loop rounds that take as long as a call
_RESERVED = frozenset({"messages", "add_generation_prompt", "raise_exception", "strftime_now"})


class _TooMuch(jinja2.TemplateError):
    pass


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


_work: contextvars.ContextVar[list[int]] = contextvars.ContextVar("_work")


def _charge(amount: int = 1) -> None:
    """Count work of the rendering that runs in this context."""
    left = _work.get(None)
    if left is None:  # a constant expression, while the template is compiled
        return
    left[0] -= amount
    if left[0] < 0:
        raise _TooMuch(f"it does more than {MAX_WORK} rounds and calls")


def _counted(items: Any) -> Iterator[Any]:
    for item in items:
        _charge()
        yield item


def _bounded(text: Any) -> Any:
    if hasattr(text, "__len__") and len(text) > MAX_OUTPUT:
        raise _TooMuch(f"it makes something longer than {MAX_OUTPUT}")
    return text


def _fits(length: int) -> None:
    if length > MAX_OUTPUT:
        raise _TooMuch(f"it makes something longer than {MAX_OUTPUT}")


def _measured(filter_: Any, length: Callable[..., int]) -> Any:
    """A filter that is refused before it makes too much."""

    @functools.wraps(filter_)  # Jinja reads marks from it: whether it wants its context
    def measured(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if hasattr(filter_, "jinja_pass_arg") else args
        _fits(length(*given, **kwargs))
        return filter_(*args, **kwargs)

    return measured


def _indented(text: Any, width: Any = 4, *_more: Any, **_options: Any) -> int:
    lines = str(text).count("\n") + 1
    return len(str(text)) + lines * (len(width) if isinstance(width, str) else abs(int(width)))


_FILTERS: Mapping[str, Callable[..., int]] = {
    "replace": lambda text, old, new, *_: method_length(str(text).replace, (str(old), str(new))),
    "join": lambda parts, d="", **_: method_length(
        str(d).join, ([str(one) for one in parts] if isinstance(parts, (list, tuple)) else (),)
    ),
    "indent": _indented,
    "format": lambda form, *args, **kwargs: percent_length(str(form), args or kwargs),
}


def _range(*args: int) -> range:
    numbers = range(*args)
    _charge(min(len(numbers), MAX_WORK + 1))
    return numbers


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`: marks for training, transparent here."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a plain set

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Counts every loop round and call, and looks at the size of what operators make."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        self.filters["tojson"] = _to_json
        for name in ("replace", "join", "indent", "format"):
            self.filters[name] = _measured(self.filters[name], _FILTERS[name])
        del self.filters["center"]  # pads to any width; no chat template has a use for it
        self.filters["ramet_counted"] = _counted
        self.filters["ramet_bounded"] = _bounded
        self.globals.update(range=_range, raise_exception=_raise_exception)

    def _generate(
        self, source: jinja2.nodes.Template, name: Any, filename: Any, defer_init: bool = False
    ) -> str:
        for loop in list(source.find_all(jinja2.nodes.For)):
            loop.iter = _filtered(loop.iter, "ramet_counted")
        for concat in list(source.find_all(jinja2.nodes.Concat)):
            concat.nodes = [_filtered(node, "ramet_bounded") for node in concat.nodes]
        return super()._generate(source, name, filename, defer_init)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _charge(_CALL)
        if any(isinstance(a, int) and abs(a) > MAX_OUTPUT for a in (*args, *kwargs.values())):
            raise _TooMuch("it calls something with a number that is too large")  # a width, say
        _fits(method_length(obj, (*args, *kwargs.values())))
        return _bounded(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` is checked where a template takes it: it is not known any more when it is called."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None
        form = value.__self__

        @functools.wraps(safe)
        def measured(*args: Any, **kwargs: Any) -> str:
            _fits(format_length(form, (*args, *kwargs.values())))
            return safe(*args, **kwargs)

        return measured

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            repeats = operator == "*" and hasattr(one, "__len__") and isinstance(other, int)
            if repeats and len(one) * other > MAX_OUTPUT:
                raise _TooMuch(f"it makes something longer than {MAX_OUTPUT}")
        if operator == "%" and isinstance(left, str):
            _fits(percent_length(left, right))
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise _TooMuch("it computes a power that is too large")
        return _bounded(super().call_binop(context, operator, left, right))


def _filtered(node: Any, name: str) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As templates expect it: no HTML escapes, other scripts as they are."""
    options.setdefault("ensure_ascii", False)
    return json.dumps(value, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise _Refused(message)


class ChatTemplate:
    """One template. `special_texts` (bos_token and so on) are variables in it; `now` is the clock of its
    `strftime_now`. Raises `CheckpointError` for a source that is no template or too long."""

    def __init__(
        self,
        source: str,
        special_texts: Mapping[str, str],
        name: str = "default",
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        self.name, self.source = name, source
        self._variables = {**special_texts, "strftime_now": lambda form: now().strftime(form)}
        if len(source) > MAX_SOURCE:
            raise CheckpointError(
                f"chat template {name!r} has {len(source)} characters, more than {MAX_SOURCE}"
            )
        try:
            self._template = _Sandbox().from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
            where = ""
            if isinstance(error, jinja2.TemplateSyntaxError):
                where = f" (line {error.lineno})"
            raise CheckpointError(f"chat template {name!r} is broken{where}: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """The conversation as a prompt's text; `variables` (tools, enable_thinking, ...) go to the
        template. Raises `InvalidRequest` with the template's own words where it refuses the messages."""
        taken = _RESERVED & variables.keys()
        if taken:
            raise InvalidRequest("chat_template_kwargs", sorted(taken), "are set by Ramet itself")
        try:
            return self._render(
                {
                    **self._variables,
                    **variables,
                    "messages": _plain(messages),
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except _Refused as error:
            raise InvalidRequest(
                "messages", _roles(messages), f"are refused by the model's chat template: {error}"
            ) from error
        except Exception as error:  # the template's code may raise anything
            raise InvalidRequest(
                "messages",
                _roles(messages),
                f"make the model's chat template {self.name!r} fail: {type(error).__name__}: {error}",
            ) from error

    def _render(self, variables: dict[str, Any]) -> str:
        token = _work.set([MAX_WORK])
        try:
            parts: list[str] = []
            length = 0
            for part in self._template.generate(variables):
                length += len(part)
                if length > MAX_OUTPUT:
                    raise _TooMuch(f"it writes more than {MAX_OUTPUT} characters")
                parts.append(part)
            return "".join(parts)
        finally:
            _work.reset(token)


def _plain(value: Any) -> Any:
    """Messages as dictionaries and lists, whatever mappings and sequences they were."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return value


def _roles(messages: Iterable[Message]) -> list[object]:
    return [
        message.get("role") if isinstance(message, Mapping) else message for message in messages
    ]
