"""Typed results: `gen(type=...)` gives values of the type or an error that says why not."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import jsonschema_rs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ramet as sgl
from ramet.backend import Capabilities
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError, ResultError
from ramet.lang.result_types import result_type
from ramet.lang.schema_types import schema_of
from ramet.lang.values import Misfit, reader_of

ENFORCES = Capabilities(regex=True, json_schema=True)
FREE = Capabilities()
CHAT = Capabilities(chat_only=True)


@dataclass
class Pet:
    name: str
    age: int = 0


@dataclass
class Family:
    pets: list[Pet]
    head: Family | None = None
    tags: dict[str, float] = field(default_factory=dict)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Address(TypedDict, total=False):
    street: str
    number: int


class Order(pydantic.BaseModel):
    item: str
    count: int = pydantic.Field(ge=1)

    @pydantic.field_validator("item")
    @classmethod
    def known(cls, item: str) -> str:
        if item not in ("tea", "salt"):
            raise ValueError("we sell tea and salt")
        return item


@dataclass
class Span:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def ask(kind: Any, responses: Any, capabilities: Capabilities = FREE, **options: Any) -> Any:
    run = {k: options.pop(k) for k in ("stream", "listener") if k in options}

    @sgl.function
    def program(s):
        s += "Say:"
        s += sgl.gen("x", type=kind, **options)
        s += "."

    backend = Scripted(responses, capabilities=capabilities)
    return program.run(backend=backend, **run), backend


# Values

TEXTS: list[tuple[Any, str, Any]] = [
    (int, "42", 42),
    (int, "-7", -7),
    (float, "2.50", 2.5),
    (bool, "True", True),
    (bool, "False", False),
    (str, " any text\nat all", " any text\nat all"),
    (Literal["yes", "no"], "no", "no"),
    (Literal["a", "ab"], "ab", "ab"),
    (Literal[1, "one", None], "None", None),
    (Color, "blue", Color.BLUE),
    (Pet, '{"name": "Rex", "age": 3}', Pet("Rex", 3)),
    (Pet, '{"name": "Rex"}', Pet("Rex")),
    (Address, '{"number": 5}', {"number": 5}),
    (Point, "[1, 2]", Point(1, 2.0)),
    (Point, "[1]", Point(1)),
    (list[int], "[1, 2.0, 3]", [1, 2, 3]),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (tuple[int, ...], "[1, 2]", (1, 2)),
    (set[str], '["a", "b"]', {"a", "b"}),
    (dict[str, list[bool]], '{"a": [true]}', {"a": [True]}),
    (int | None, "null", None),
    (float | int, "3", 3),
    (list[Color], '["red"]', [Color.RED]),
    (Family, '{"pets": [], "head": {"pets": [{"name": "R"}]}}', Family([], Family([Pet("R")]))),
    (Order, '{"item": "tea", "count": 2}', Order(item="tea", count=2)),
    (list[Order], '[{"item": "salt", "count": 1}]', [Order(item="salt", count=1)]),
    (Annotated[int, pydantic.Field(ge=3)], "4", 4),
    (Span, '{"low": 1, "high": 2}', Span(1, 2)),
]


@pytest.mark.parametrize("capabilities", [ENFORCES, FREE], ids=["enforces", "free"])
@pytest.mark.parametrize(
    ("kind", "text", "value"), TEXTS, ids=lambda x: str(sorted(x) if isinstance(x, set) else x)[:30]
)
def test_a_value_of_the_type(kind, text, value, capabilities) -> None:
    state, backend = ask(kind, [text], capabilities)
    assert state["x"] == value
    assert type(state["x"]) is type(value)
    assert state.text("x") == text
    assert state.text() == f"Say:{text}."
    assert state.get_meta_info("x")["attempts"] == len(backend.calls) == 1
    wants_form = kind is not str and capabilities is ENFORCES
    assert (backend.calls[0].params.constraint is not None) == wants_form


@pytest.mark.parametrize(
    ("kind", "answer", "text", "value"),
    [
        (int, " 12 apples", " 12", 12),
        (float, "\n1.5. Next", "\n1.5", 1.5),
        (bool, " True, because", " True", True),
        (Literal["a", "ab"], " ab, not a", " ab", "ab"),
        (Pet, ' {"name": "R"} That is it.', ' {"name": "R"}', Pet("R")),
        (list[int], "```json\n[1]\n```\nDone", "```json\n[1]\n```", [1]),
    ],
)
def test_a_free_answer_ends_where_its_value_ends(kind, answer, text, value) -> None:
    state, _ = ask(kind, [answer])
    assert (state["x"], state.text("x"), state.text()) == (value, text, f"Say:{text}.")


def test_what_is_asked_of_a_backend_that_enforces() -> None:
    def params(kind, answer):
        state, backend = ask(kind, [answer], ENFORCES)
        state.sync()
        return backend.calls[0].params

    assert params(Literal["a b", "c.d"], "c.d").regex == r" ?(a b|c\.d)"
    assert params(Pet, '{"name": "R"}').json_schema == schema_of(Pet)
    assert params(str, "text").constraint is None


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2)
    | st.sampled_from(["", "red"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "age", "pets", "head", "tags"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
_exact = [
    int,
    float,
    str,
    bool,
    Pet,
    Family,
    Point,
    Address,
    list[int],
    dict[str, float],
    int | None,
]
_exact += [tuple[int, str], Color, Literal["red", 1], list[Pet | int]]


@given(st.sampled_from(_exact), _json)
def test_exactly_what_the_schema_lets_through_is_read(kind, value) -> None:
    allowed = jsonschema_rs.validator_for(json.loads(schema_of(kind))).is_valid(value)
    reader = reader_of(kind)
    assert reader.exact
    if allowed:
        reader.read(value)
        return
    with pytest.raises(Misfit) as caught:
        reader.read(value)
    assert caught.value.path.startswith(reader.name)


@given(
    st.builds(
        Family,
        st.lists(st.builds(Pet, st.text(max_size=5), st.integers()), max_size=3),
        st.none() | st.builds(Family, st.just([])),
        st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False)),
    )
)
def test_what_python_writes_is_read_back(family) -> None:
    from dataclasses import asdict

    found = result_type(Family, FREE).find(json.dumps(asdict(family)), False)
    assert found[0] == family


# Asking again


def test_a_wrong_answer_is_asked_for_again() -> None:
    state, backend = ask(int, [" old", " 31 years"])
    assert state["x"] == 31
    assert state.text() == "Say: 31.", "the program's text remembers no wrong answer"
    assert state.get_meta_info("x")["attempts"] == 2
    assert [call.error for call in state.calls] == ["ResultError: it is not a whole number", None]
    assert backend.prompts[1].startswith(
        "Say: old\n\n(it is not a whole number. Write only a whole"
    )
    assert backend.prompts[1].endswith("\n\nSay:")


def test_asking_again_in_a_chat() -> None:
    @sgl.function
    def program(s):
        s += sgl.user("How old?")
        s += sgl.assistant("Age: " + sgl.gen("age", type=int))

    backend = Scripted(["old", "7"], capabilities=CHAT)
    state = program.run(backend=backend)
    assert state["age"] == 7
    assert state.messages()[-1] == {"role": "assistant", "content": "Age: 7"}
    first, second = backend.calls
    assert [m["role"] for m in first.messages] == ["user", "assistant"]
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user", "assistant"]
    assert second.messages[1]["content"] == "Age: old"
    assert "whole number" in second.messages[2]["content"]
    assert second.messages[3]["content"] == "Age: "
    assert second.prompt.text().count("ASSISTANT:Age: ") == 2


def test_no_retry_is_left() -> None:
    answers = ['{"pets": [{"name": "R", "age": "three"}]}'] * 3
    state, backend = ask(Family, answers)
    with pytest.raises(ProgramError) as caught:
        _ = state["x"]
    cause = caught.value.__cause__
    assert isinstance(cause, ResultError)
    assert (cause.path, cause.problem) == ("Family.pets[0].age", '"three" is not a whole number')
    assert (cause.text, cause.attempts, len(backend.calls)) == (answers[0], 3, 3)
    lines, start = inspect.getsourcelines(ask)
    line = start + next(i for i, text in enumerate(lines) if "sgl.gen(" in text)
    assert caught.value.location == f"{__file__}:{line}"
    assert "three" in str(caught.value)
    assert [call.error is not None for call in state.calls] == [True] * 3


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_the_budget(retries) -> None:
    state, backend = ask(int, ["?"] * 9, retries=retries)
    assert state.error() is not None
    assert len(backend.calls) == retries + 1


def test_a_class_that_checks_itself() -> None:
    state, _ = ask(Span, ['{"low": 3, "high": 2}', '{"low": 1, "high": 2}'], ENFORCES)
    assert state["x"] == Span(1, 2)
    assert "low is above high" in state.calls[0].error
    state, _ = ask(Order, ['{"item": "gold", "count": 1}'] * 3, ENFORCES)
    cause = state.error().__cause__
    assert cause.path == "Order.item"
    assert "we sell tea" in cause.problem


def test_a_form_that_a_backend_only_checks_is_checked_here() -> None:
    """Else there would be two budgets, and answers without a record."""
    checks = Capabilities(regex=True, json_schema=True, emulated=("regex", "json_schema"))
    for kind, answer in ((int, "7"), (bool, "True"), (Pet, '{"name": "R"}')):
        state, backend = ask(kind, ["?", answer], checks)
        assert state.text("x") == answer
        assert [call.params.constraint for call in backend.calls] == [None, None]


def test_a_failure_of_the_backend_is_not_asked_again() -> None:
    state, backend = ask(int, [Fail("down")])
    assert "down" in str(state.error())
    assert len(backend.calls) == 1


# Cut answers


@pytest.mark.parametrize("capabilities", [ENFORCES, FREE], ids=["enforces", "free"])
@pytest.mark.parametrize(
    ("kind", "answer", "limit"),
    [
        (int, "1 ", 1),
        (str, "one two three", 2),
        (Pet, '{"name": "Rex"}', 4),
        (Literal["a", "a b"], "a b", 1),
        (int | None, "1\n", 1),
    ],
)
def test_a_cut_text_is_no_value(kind, answer, limit, capabilities) -> None:
    state, backend = ask(kind, lambda _: answer, capabilities, max_tokens=limit)
    with pytest.raises(ProgramError, match=r"cut|raise max_tokens") as caught:
        _ = state["x"]
    assert "max_tokens" in str(caught.value)
    is_hopeless = capabilities is ENFORCES or kind is str
    assert len(backend.calls) == (1 if is_hopeless else 3)


def test_a_document_that_is_whole_at_the_limit_is_a_value() -> None:
    state, backend = ask(list[int], lambda _: "[1] and", max_tokens=3)
    assert state["x"] == [1]
    assert len(backend.calls) == 1


# Samples, branches, batches, coroutines


def test_each_sample_is_judged_alone() -> None:
    answers = iter([["1", "two", "3"], "22"])
    state, backend = ask(int, lambda _: next(answers), n=3)
    assert state["x"] == [1, 22, 3]
    assert state.text("x") == ["1", "22", "3"]
    assert [meta["attempts"] for meta in state.get_meta_info("x")] == [1, 2, 1]
    assert state.text() == "Say:1."
    assert [call.params.n for call in backend.calls] == [3, 1]


def test_in_branches() -> None:
    @sgl.function
    def program(s):
        branches = s.fork(3)
        branches += lambda i: f"{i}:" + sgl.gen("v", type=int)
        branches.join()

    backend = Scripted(lambda call: call.prompt.text()[-2] + " is it", capabilities=FREE)
    assert program.run(backend=backend)["v"] == [0, 1, 2]
    answer = {r"[02]:": "5", "": "x"}
    failing = Scripted(answer, capabilities=FREE)
    with pytest.raises(ProgramError, match="branch 1"):
        program.run(backend=failing)


def test_in_batches_and_coroutines() -> None:
    @sgl.function
    def program(s, number):
        s += f"{number}:" + sgl.gen("v", type=Literal["odd", "even"])

    @sgl.function
    async def aprogram(s, number):
        s += f"{number}:" + sgl.gen("v", type=bool)
        return await s.value("v"), await s.atext("v")

    def answer(call):
        return "odd" if int(call.prompt.text().split(":")[0]) % 2 else "even"

    states = program.run_batch([{"number": i} for i in range(5)], backend=Scripted(answer))
    assert [state["v"] for state in states] == ["even", "odd", "even", "odd", "even"]
    state = asyncio.run(aprogram.arun(number=1, backend=Scripted(["False"])))
    assert state.ret_value == (False, "False")


# Streams


def test_a_stream_gives_text_and_then_the_value() -> None:
    text = '{"name": "Rex", "age": 3}'
    state, _ = ask(Pet, [text], ENFORCES, stream=True)
    pieces = list(state.text_iter("x"))
    assert len(pieces) > 3, "the backend keeps to the form: the text is shown as it comes"
    assert "".join(pieces) == text
    assert "".join(state.text_iter()) == f"Say:{text}."
    assert state["x"] == Pet("Rex", 3)


def test_white_space_behind_a_document_does_not_disturb_its_stream() -> None:
    state, _ = ask(Pet, ['{"name": "R"}\n '], ENFORCES, stream=True)
    assert "".join(state.text_iter("x")) == state.text("x") == '{"name": "R"}\n '
    assert state["x"] == Pet("R")


def test_a_stream_never_shows_an_answer_that_was_refused() -> None:
    state, _ = ask(Pet, ["no", '{"name": "R"} so'], stream=True)
    assert list(state.text_iter("x")) == ['{"name": "R"}']
    state, _ = ask(Span, ['{"low": 3, "high": 2}', '{"low": 1, "high": 2}'], ENFORCES, stream=True)
    assert list(state.text_iter("x")) == ['{"low": 1, "high": 2}']


def test_watching_changes_nothing() -> None:
    events: list[Any] = []
    answers = ["no", " 5 or"]
    watched, seen = ask(int, list(answers), listener=events.append)
    alone, unseen = ask(int, list(answers))
    assert (watched["x"], watched.text(), seen.prompts) == (
        alone["x"],
        alone.text(),
        unseen.prompts,
    )
    assert [e.record.error is None for e in events if e.kind == "call_finished"] == [False, True]


def test_a_typed_value_read_like_a_stream_without_one() -> None:
    state, _ = ask(int, [" 5 or"])
    assert list(state.text_iter("x")) == [" 5"]


# Wrong requests


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"type": int, "regex": "a"}, "regex"),
        ({"type": int, "dtype": int}, "dtype"),
        ({"type": Pet, "json_schema": Pet}, "json_schema"),
        ({"type": int, "retries": -1}, "retries"),
        ({"type": int, "retries": True}, "retries"),
        ({"retries": 1}, "retries"),
    ],
)
def test_what_does_not_go_together(options, field) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sgl.gen("x", **options)
    assert field in {caught.value.field, str(caught.value.value)} or field in str(caught.value)


@pytest.mark.parametrize("kind", [complex, "int", {"type": "object"}, Literal["a", ""], lambda: 1])
def test_what_is_no_type_of_values(kind) -> None:
    with pytest.raises(InvalidRequest):
        ask(kind, ["x"])


def test_a_text_is_asked_of_a_value_that_has_none() -> None:
    state, _ = ask(int, ["5"])
    state["y"] = 7
    with pytest.raises(InvalidRequest, match="has no text"):
        state.text("y")


# The embedded model


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    pytest.importorskip("torch", reason="torch is not installed")
    from ramet.backends.local import Engine

    with Engine("pocket", seed=0) as engine:
        yield engine


@pytest.mark.parametrize(
    "kind", [int, float, bool, Literal["tea", "milk"], Color, Pet, list[int], Point, Span | None]
)
def test_on_the_embedded_model(engine, kind) -> None:
    @sgl.function
    def program(s):
        s += "A dog named Rex, 3 years old.\nAnswer:"
        s += sgl.gen("x", type=kind, max_tokens=60)

    state = program.run(backend=engine, temperature=0, stream=True)
    pieces = "".join(state.text_iter("x"))
    if state.error() is None:
        assert pieces == state.text("x")
        schema = json.loads(schema_of(kind))
        value = state["x"]
        plain = json.loads(pieces) if kind in (Pet, list[int], Point, Span | None) else value
        plain = plain.value if isinstance(plain, Enum) else plain
        assert jsonschema_rs.validator_for(schema).is_valid(plain)
    else:
        cause = state.error().__cause__
        assert isinstance(cause, ResultError)
        assert kind in (Span | None, int, float) or "cut" in cause.problem
