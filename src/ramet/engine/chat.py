"""A checkpoint's own chat template.

`ChatTemplate` renders conversations; `DerivedRoleTemplate` finds out, by rendering, what the template
puts before and after each block, so that a program can write a conversation block by block and ends up
with the text that the template gives for the whole. Templates are programs from strangers: they run in
jinja2's sandbox with limits on their size, their work and their output. Knows texts only, no token ids.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

from ramet.backend import Message
from ramet.errors import CheckpointError, InvalidRequest

__all__ = ["ChatTemplate", "DerivedRoleTemplate", "derive_role_template"]

MAX_SOURCE = 1 << 18  # characters of a template
MAX_OUTPUT = 1 << 24  # characters of a rendered conversation, and of any string made on the way
MAX_WORK = 1_000_000  # loop rounds and calls in one rendering
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
        _charge()
        if any(isinstance(a, int) and abs(a) > MAX_OUTPUT for a in (*args, *kwargs.values())):
            raise _TooMuch("it calls something with a number that is too large")  # a width, say
        return _bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            repeats = operator == "*" and hasattr(one, "__len__") and isinstance(other, int)
            if repeats and len(one) * other > MAX_OUTPUT:
                raise _TooMuch(f"it makes something longer than {MAX_OUTPUT}")
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


# -- block by block ----------------------------------------------------------------------------------


class _Inconsistent(ValueError):
    """The template does not render block after block."""


class DerivedRoleTemplate:
    """A `ramet.backend.RoleTemplate` that asks the template itself.

    Each block's content is replaced by a mark and the conversation is rendered; what stands around the
    marks is what the template puts around contents. An assistant's prefix is the template's generation
    prompt. A system text that the template adds of its own accord is part of the first prefix.
    """

    def __init__(self, template: ChatTemplate, stop_str: Sequence[str] = ()) -> None:
        self._template = template
        self.stop_str: tuple[str, ...] = tuple(stop_str)
        self._find = functools.lru_cache(maxsize=256)(self._find_around)

    @property
    def name(self) -> str:
        return self._template.name

    @property
    def default_system_prompt(self) -> str | None:
        return None

    def get_prefix_and_suffix(self, role: str, earlier: Sequence[Message]) -> tuple[str, str]:
        """Raises `InvalidRequest` for a role that the template refuses at this place."""
        roles = (*(str(message["role"]) for message in earlier), role)
        try:
            return self._find(roles)
        except _Inconsistent as error:
            raise InvalidRequest(
                "role", role, f"cannot be written here with the model's chat template: {error}"
            ) from error

    def _find_around(self, roles: tuple[str, ...]) -> tuple[str, str]:
        before, last = roles[:-1], roles[-1]
        written = self._find(before)[1] if before else ""
        if last == "assistant":
            gaps = self._gaps(roles)
            prefix = self._generation_prompt(before, written)
            own = gaps[len(before)]
            if not prefix and own.strip() != written.strip():  # it has no generation prompt
                prefix = _after(own, written)
            return prefix, gaps[-1]
        gaps = self._visible_gaps(roles)
        return _after(gaps[len(before)], written), gaps[len(roles)]

    def _generation_prompt(self, before: tuple[str, ...], written: str) -> str:
        if not before:
            try:
                return self._template.render([], add_generation_prompt=True)
            except InvalidRequest:  # a template that looks at its first message
                return self._gaps(("assistant",))[0]
        return _after(self._gaps(before, add_generation_prompt=True)[-1], written)

    def _visible_gaps(self, roles: tuple[str, ...]) -> list[str]:
        """Gaps around the last block. Where the template shows a block only with the one after it (a
        system text inside the first user block), all of the text between them is the former's suffix."""
        try:
            return self._gaps(roles)
        except (_Inconsistent, InvalidRequest) as error:
            if roles[-1] != "system":
                raise
            try:
                return self._gaps((*roles, "user"))
            except (_Inconsistent, InvalidRequest):
                raise error from None

    def _gaps(self, roles: tuple[str, ...], add_generation_prompt: bool = False) -> list[str]:
        """The texts before, between and after the contents of blocks with these roles."""
        marks = [f"RametBlock{i}x{len(roles)}Content" for i in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks)]
        rest = self._template.render(messages, add_generation_prompt)
        gaps: list[str] = []
        for role, mark in zip(roles, marks):
            gap, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise _Inconsistent(f"its {role!r} block is not written once and in order")
            gaps.append(gap)
        return [*gaps, rest]


def _after(gap: str, written: str) -> str:
    if not gap.startswith(written):
        raise _Inconsistent(f"{gap!r} follows where {written!r} was written already")
    return gap[len(written) :]


class _Checkpoint(Protocol):
    """What is needed of `ramet.engine.tokenizer.Tokenizer`."""

    @property
    def chat_template(self) -> str | None: ...

    @property
    def special_texts(self) -> Mapping[str, str]: ...

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    @property
    def special_texts_by_id(self) -> Mapping[int, str]: ...


def derive_role_template(tokenizer: _Checkpoint) -> DerivedRoleTemplate | None:
    """The checkpoint's default template for programs. None if there is none, or if it does not give two
    turns block by block: a table of known templates is then the better guess."""
    if tokenizer.chat_template is None:
        return None
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_texts)
    derived = DerivedRoleTemplate(template)
    try:
        for roles in _samples(template):
            _check(template, derived, roles)
        ending = derived.get_prefix_and_suffix("assistant", [{"role": "user", "content": "x"}])[1]
    except (InvalidRequest, _Inconsistent):
        return None
    return DerivedRoleTemplate(template, _stops(ending, tokenizer))


def _samples(template: ChatTemplate) -> list[list[str]]:
    turns = ["user", "assistant", "user", "assistant"]
    try:
        template.render([{"role": role, "content": "x"} for role in ["system", *turns[:3]]])
    except InvalidRequest:  # knows no system role: says so when a program uses one
        return [turns]
    return [turns, ["system", *turns]]


def _check(template: ChatTemplate, derived: DerivedRoleTemplate, roles: list[str]) -> None:
    """The blocks put together must be what the template gives, at every user block and where the model's
    turn begins. White space in front of an answer is left to the model (with SentencePiece vocabularies it
    is part of the answer's first token), and what a template shows of the last answer only (its thoughts)
    is not asked for."""
    messages: list[dict[str, str]] = []
    text = ""
    for i, role in enumerate(roles):
        prefix, suffix = derived.get_prefix_and_suffix(role, messages)
        if role == "assistant" and template.render(messages, True) not in (text, text + prefix):
            raise _Inconsistent("the model's turn begins with another text")
        messages.append({"role": role, "content": f"Text{i}"})
        space = ""
        if role == "assistant":
            shown = template.render(messages).removeprefix(text + prefix)
            space = shown[: len(shown) - len(shown.lstrip())]
        text += f"{prefix}{space}Text{i}{suffix}"
        if role == "user" and template.render(messages) != text:
            raise _Inconsistent("blocks put together give another text")


def _stops(ending: str, tokenizer: _Checkpoint) -> tuple[str, ...]:
    """The special token that the template ends an answer with, unless it ends generations anyway."""
    found = ending.lstrip()
    longest_first = sorted(tokenizer.special_texts_by_id.items(), key=lambda item: -len(item[1]))
    for token_id, text in longest_first:
        if found.startswith(text) and token_id not in tokenizer.eos_token_ids:
            return (text,)
    return ()
