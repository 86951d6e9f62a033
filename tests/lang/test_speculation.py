"""Speculation over API calls: fewer calls and tokens, the same fields, and nothing done in silence."""

from __future__ import annotations

import asyncio
import inspect
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import ramet as sgl
from ramet.backend import Capabilities, Completion, GenerateCall
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import InvalidRequest, ProgramError

CHAT = Capabilities(chat_only=True)
PEOPLE = {"Ada": ("1815", "mathematics"), "Bob": ("1930", "plumbing")}


def follows(*texts: str) -> Any:
    """A model that continues any beginning of one of the texts, and says no more behind its end."""

    def answer(call: GenerateCall) -> str:
        said = call.prompt.text().replace("ASSISTANT: ", "ASSISTANT:")
        for text in texts:
            for size in range(len(text), -1, -1):
                if said.endswith(text[:size]) and (size or said.endswith(":")):
                    return text[size:]
        raise AssertionError(said)

    return answer


FORM = "Name: Ada\nBirthday: 1815\nJob: mathematics\n"


class Silent(Scripted):
    """Tells the tokens of whole calls only, as services do."""

    async def generate(self, call: GenerateCall, _: Any = None) -> list[Completion]:
        return await super().generate(call)


def fields(s: Any, **options: Any) -> None:
    s += "Name:" + sgl.gen("name", stop="\n", **options)
    s += "\nBirthday:" + sgl.gen("birthday", stop="\n", **options)
    s += "\nJob:" + sgl.gen("job", stop="\n", **options)


def in_text(s):
    s += "People.\n"
    fields(s)


def in_chat(s):
    s += sgl.user("Who?")
    with s.assistant():
        fields(s)


def values(state: Any) -> tuple[str, ...]:
    return tuple(state[name] for name in ("name", "birthday", "job"))


def told(state: Any, name: str) -> dict[str, Any]:
    found = state.get_meta_info(name)["speculation"]
    assert isinstance(found, dict)
    return found


# One call for several fields


@pytest.mark.parametrize("kind", [Scripted, Silent])
def test_one_call_serves_three_fields(kind) -> None:
    plain = sgl.function(in_text).run(backend=Scripted(follows(FORM)))
    backend = kind(follows(FORM))
    state = sgl.function(num_api_spec_tokens=64)(in_text).run(backend=backend)
    assert values(state) == values(plain) == (" Ada", " 1815", " mathematics")
    assert state.text() == plain.text()
    assert len(backend.calls) == 1
    assert backend.calls[0].params.stop == ()
    assert [told(state, name)["calls"] for name in ("name", "birthday", "job")] == [1, 0, 0]
    assert all(told(state, name)["matched"] for name in ("name", "birthday", "job"))
    assert [m["finish_reason"] for m in map(state.get_meta_info, ("name", "job"))] == [
        {"type": "stop", "matched": "\n"}
    ] * 2


def test_a_chat_is_asked_once_for_a_block() -> None:
    backend = Scripted(follows(FORM.strip()), capabilities=CHAT)
    state = sgl.function(num_api_spec_tokens=64)(in_chat).run(backend=backend)
    assert values(state) == (" Ada", " 1815", " mathematics")
    assert len(backend.calls) == 1
    assert backend.calls[0].messages == ({"role": "user", "content": "Who?"},)
    assert backend.calls[0].params.max_new_tokens == 64
    assert state.messages()[-1]["content"] == FORM.strip()


def test_what_was_paid_and_saved() -> None:
    plain = sgl.function(in_text).run(backend=Scripted(follows(FORM)))
    state = sgl.function(num_api_spec_tokens=64)(in_text).run(backend=Scripted(follows(FORM)))
    names = ("name", "birthday", "job")
    records = [told(state, name) for name in names]
    paid = sum(record["prompt_tokens_paid"] for record in records)
    saved = sum(record["prompt_tokens_saved"] for record in records)
    without = sum(plain.get_meta_info(name)["prompt_tokens"] for name in names)
    assert paid == sum(call.prompt_tokens for call in state.calls)
    assert paid + saved == without
    assert sum(state.get_meta_info(name)["completion_tokens"] for name in names) == sum(
        call.completion_tokens for call in state.calls
    )


# Equal to a run without it


_words = st.sampled_from(["a", "bb", "\n", ": ", "ab:", " c", "é", "."])
_plans = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.lists(_words, min_size=1, max_size=3).map("".join)),
        st.tuples(
            st.just("gen"),
            st.sampled_from(["\n", ".", (".", "\n"), "ab", "b\n", None]),
            st.sampled_from([1, 3, 20]),
        ),
        st.tuples(st.just("model"), st.integers(1, 8)),
    ),
    min_size=2,
    max_size=8,
)


def prefix_model(seed: int) -> Any:
    """A model whose next character is a function of the text before it, so that its text goes on in the
    same way wherever it is begun."""
    letters = "aaabbb  \n.:é"

    def answer(call: GenerateCall) -> str:
        text, said = call.prompt.text(), ""
        while len(text + said) < 400:
            place = zlib.crc32(f"{seed}{(text + said)[-6:]}".encode())
            if place % 71 == 0:
                break
            said += letters[place % len(letters)]
        return said

    return answer


@settings(max_examples=200)
@given(_plans, st.integers(0, 10**6), st.sampled_from([4, 30]), st.sampled_from([Scripted, Silent]))
def test_the_same_text_on_any_deterministic_model(plan, seed, ahead, kind) -> None:
    model = prefix_model(seed)

    def program(s):
        s += "P:"
        for index, (what, *how) in enumerate(plan):
            if what == "text":
                s += how[0]
            elif (
                what == "model"
            ):  # text that the model itself would say: the program keeps to the form
                s += model(_Call(s.text()))[: how[0]]
            else:
                s += sgl.gen(f"v{index}", stop=how[0], max_tokens=how[1])

    plain = sgl.function(program).run(backend=Scripted(model))
    state = sgl.function(num_api_spec_tokens=ahead)(program).run(backend=kind(model))
    assert state.text() == plain.text()
    event(f"served: {sum(not told(state, n)['calls'] for n in _names(plan))}")
    for index, (what, *_) in enumerate(plan):
        if what == "gen":
            name = f"v{index}"
            assert state[name] == plain[name]
            ends = [one.get_meta_info(name)["finish_reason"]["type"] for one in (state, plain)]
            assert ends[0] == ends[1]
            record = told(state, name)
            assert (record["calls"] > 0) == ("reason" in record)


def _names(plan: Any) -> list[str]:
    return [f"v{index}" for index, (what, *_) in enumerate(plan) if what == "gen"]


class _Call:
    """The part of a call that the models above look at."""

    def __init__(self, text: str) -> None:
        self.prompt, self._text = self, text

    def text(self) -> str:
        return self._text


def test_wrong_guesses_are_paid_and_told() -> None:
    backend = Scripted([" Ada\nBorn: 1815\n", " 1815\nJob: none\n"])
    state = sgl.function(num_api_spec_tokens=64)(in_text).run(backend=backend)
    assert values(state) == (" Ada", " 1815", " none")
    assert [told(state, name)["calls"] for name in ("name", "birthday", "job")] == [1, 1, 0]
    assert len(backend.calls) == 2
    assert "said 'orn: 1815" in told(state, "birthday")["reason"]


def test_a_form_that_is_not_kept_says_so() -> None:
    answers = ["Name: Ada\nBorn in 1815\nJob: none", " 1815\n", " none\n"]
    backend = Scripted(list(answers), capabilities=CHAT)
    state = sgl.function(num_api_spec_tokens=64)(in_chat).run(backend=backend)
    assert values(state) == (" Ada", " 1815", " none")
    assert [told(state, name)["matched"] for name in ("name", "birthday", "job")] == [
        True,
        False,
        False,
    ]
    assert "said 'orn in 1815" in told(state, "birthday")["reason"]
    assert [call.messages[-1]["content"] for call in backend.calls[1:]] == [
        "Name: Ada\nBirthday:",
        "Name: Ada\nBirthday: 1815\nJob:",
    ]


def test_a_block_that_fails_from_the_beginning_pays_on_its_first_field() -> None:
    backend = Scripted(["I cannot", " Ada\n", " 1815\n", " x\n"], capabilities=CHAT)
    state = sgl.function(num_api_spec_tokens=64)(in_chat).run(backend=backend)
    assert values(state) == (" Ada", " 1815", " x")
    first = told(state, "name")
    assert (first["calls"], first["matched"]) == (2, False)
    names = ("name", "birthday", "job")
    paid = sum(told(state, name)["prompt_tokens_paid"] for name in names)
    assert paid == sum(call.prompt_tokens for call in state.calls)


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_message_may_begin_without_the_programs_blank(blank) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?")
        s += sgl.assistant(" Name:" + sgl.gen("a", stop="\n") + "\nJob:" + sgl.gen("b", stop="\n"))

    backend = Scripted([f"{blank}Name: Ada\nJob: none"], capabilities=CHAT)
    state = program.run(backend=backend)
    assert (state["a"], state["b"]) == (" Ada", " none")


# Tokens, not characters


def test_limits_are_tokens() -> None:
    """20 letters of two tokens are within 2 tokens; a field of 3 tokens is cut where its own call would be."""

    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += "P:" + sgl.gen("a", stop="\n", max_tokens=3) + "\nQ:" + sgl.gen("b", max_tokens=2)

    said = " abcdefghij klmnopqrst\nQ: one two three"
    backend = Scripted([said])
    state = program.run(backend=backend)
    assert (state["a"], state["b"]) == (" abcdefghij klmnopqrst", " one two")
    assert state.get_meta_info("b")["finish_reason"] == {"type": "length", "length": 2}
    assert len(backend.calls) == 1
    silent = Silent([said, " abcdefghij klmnopqrst", " one two three"])
    state = program.run(backend=silent)
    assert state["a"] == " abcdefghij klmnopqrst"
    assert told(state, "a")["calls"] == 2, "it may have been more than 3 tokens: nobody told"
    assert "max_tokens" in told(state, "a")["reason"]


def test_the_models_own_end_is_the_end_of_a_field() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += "P:" + sgl.gen("a", stop="\n") + "\nQ:" + sgl.gen("b", stop="\n") + sgl.gen("c")

    backend = Scripted([" x\nQ: end", " more"])
    state = program.run(backend=backend)
    assert (state["a"], state["b"], state["c"]) == (" x", " end", " more")
    assert told(state, "c")["calls"] == 1, "no field is empty because the text was used up"


def test_text_cut_by_the_limit_is_not_a_field() -> None:
    @sgl.function(num_api_spec_tokens=5)
    def program(s):
        s += "P:" + sgl.gen("a", stop="\n", max_tokens=2) + "\nQ:" + sgl.gen("b", stop="\n")

    backend = Scripted([" x\nQ: half a", " half a loaf\n"])
    state = program.run(backend=backend)
    assert (state["a"], state["b"]) == (" x", " half a loaf")
    assert "no stop string" in told(state, "b")["reason"]


# What is not speculated


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"regex": r" \w+"}, "regex"),
        ({"json_schema": True}, "json_schema"),
        ({"n": 2}, "samples"),
        ({"return_logprob": True}, "log-prob"),
        ({"dtype": int}, "type"),
        ({"type": bool}, "type"),
        ({"stop_regex": "x"}, "stop_regex"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"frequency_penalty": 0.5}, "penalties"),
        ({"sampling_seed": 1}, "seed"),
        ({"temperature": 0.3}, "other sampling"),
    ],
)
def test_fields_with_a_call_of_their_own(options, why) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += "P:" + sgl.gen("a", stop="\n") + "\nQ:" + sgl.gen("b", **options)
        s += "\nR:" + sgl.gen("c", stop="\n")

    answer = (
        "True"
        if "type" in options
        else "7"
        if "dtype" in options or "json_schema" in options
        else " y"
    )
    backend = Scripted({"P:": f" x\nQ:{answer}\nR: z\n", "Q:": answer, "R:": " z\n"})
    state = program.run(backend=backend)
    meta = state.get_meta_info("b")
    record = (meta[0] if isinstance(meta, list) else meta)["speculation"]
    assert why in record["reason"]
    assert (record["calls"], record["matched"]) == (1, "temperature" in options)
    assert backend.calls[1].params.max_new_tokens == 128
    assert state["c"] == " z"
    expected = 1 if "temperature" in options else 0  # a new text was said for these parameters
    assert told(state, "c")["calls"] == expected


def test_a_choice_in_between_is_matched_like_text() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += "P:" + sgl.gen("a", stop="\n") + "\nQ:" + sgl.select("b", [" y", " n"])
        s += "\nR:" + sgl.gen("c", stop="\n")

    backend = Scripted([" x\nQ: y\nR: z\n"], scores={" y": -1, " n": -2})
    state = program.run(backend=backend)
    assert (state["b"], state["c"], told(state, "c")["calls"]) == (" y", " z", 0)


# Programs of all kinds


def test_the_setting_stays_with_bound_programs_and_branches() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s, who):
        s += f"{who}.\n"
        branches = s.fork(2)
        for branch in branches:
            fields(branch)
        branches.join()

    backend = Scripted(follows(FORM))
    state = program.bind(who="Ada").run(backend=backend)
    assert state["job"] == [" mathematics"] * 2
    assert len(backend.calls) == 2, "one for each branch"
    metas = state.get_meta_info("birthday")
    assert [meta["speculation"]["calls"] for meta in metas] == [0, 0]


def test_branches_do_not_take_what_the_parent_heard() -> None:
    """Samples of different branches are independent."""

    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += "P:" + sgl.gen("a", stop="\n")
        branches = s.fork(2)
        branches += "\nQ:" + sgl.gen("b", stop="\n")
        branches.join()
        s += "\nQ:" + sgl.gen("c", stop="\n")

    backend = Scripted([" x\nQ: parent\n", " one\n", " two\n"])
    state = program.run(backend=backend)
    assert (sorted(state["b"]), state["c"]) == ([" one", " two"], " parent")


@pytest.mark.parametrize("body", [in_text, in_chat])
def test_programs_of_a_batch_do_not_mix(body) -> None:
    def person(s, who):
        s += who + ". "
        body(s)

    def answer(call):
        text = call.prompt.text()
        born, job = PEOPLE[text[:3]]
        full = f"Name: {text[:3]}\nBirthday: {born}\nJob: {job}\n"
        place = text.find("Name:")
        return full[len(text) - place :] if place >= 0 else full

    program = sgl.function(num_api_spec_tokens=64)(person)
    capabilities = CHAT if body is in_chat else None
    backend = Scripted(answer, capabilities=capabilities, latency=0.001)
    batch = [{"who": who} for who in list(PEOPLE) * 10]
    for state, item in zip(program.run_batch(batch, backend=backend), batch):
        born, job = PEOPLE[item["who"]]
        assert values(state) == (f" {item['who']}", f" {born}", f" {job}")
    assert len(backend.calls) == 20


@pytest.mark.parametrize("chat", [False, True])
def test_in_coroutines(chat) -> None:
    @sgl.function(num_api_spec_tokens=64)
    async def program(s):
        (in_chat if chat else in_text)(s)
        return await s.value("job")

    backend = Scripted(follows(FORM), capabilities=CHAT if chat else None)
    state = asyncio.run(program.arun(backend=backend))
    assert state.ret_value == " mathematics"
    assert len(backend.calls) == 1


def test_reading_inside_a_block_does_not_hang() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?")
        with s.assistant():
            s += "Name:" + sgl.gen("name", stop="\n")
            seen = s["name"]
            s += (
                "\nBirthday:"
                + sgl.gen("birthday", stop="\n")
                + "\nJob:"
                + sgl.gen("job", stop="\n")
            )
            assert s.text().endswith("mathematics")
        return seen

    backend = Scripted(follows(FORM.strip()), capabilities=CHAT)
    state = program.run(backend=backend)
    assert state.ret_value == " Ada"
    assert values(state) == (" Ada", " 1815", " mathematics")


def test_a_block_that_is_never_closed_is_said_at_the_end() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?") + sgl.assistant_begin()
        fields(s)

    backend = Scripted(follows(FORM.strip()), capabilities=CHAT)
    assert values(asyncio.run(program.arun(backend=backend))) == (" Ada", " 1815", " mathematics")


def test_branches_of_a_block() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?") + sgl.assistant_begin()
        s += "Name:" + sgl.gen("name", stop="\n") + "\nBirthday:"
        branches = s.fork(2)
        branches += sgl.gen("b", stop="\n") + "\nJob:" + sgl.gen("j", stop="\n")
        branches.join()

    backend = Scripted(follows(FORM.strip()), capabilities=CHAT)
    state = program.run(backend=backend)
    assert (state["name"], state["b"], state["j"]) == (" Ada", [" 1815"] * 2, [" mathematics"] * 2)


@pytest.mark.parametrize("chat", [False, True])
def test_one_operation_at_a_time(chat) -> None:
    body = in_chat if chat else in_text
    backend = Scripted(follows(FORM.strip()), capabilities=CHAT if chat else None)
    state = sgl.function(num_api_spec_tokens=64)(body).run(backend=backend, use_thread=False)
    assert values(state) == (" Ada", " 1815", " mathematics")


# Streams


@pytest.mark.parametrize("chat", [False, True])
def test_streams_hold_every_character_once(chat) -> None:
    body = in_chat if chat else in_text
    backend = Scripted(follows(FORM), capabilities=CHAT if chat else None)
    state = sgl.function(num_api_spec_tokens=64)(body).run(backend=backend, stream=True)
    assert "".join(state.text_iter()) == state.text()
    for name in ("name", "birthday", "job"):
        assert "".join(state.text_iter(name)) == state[name]
    assert len(backend.calls) == 1


def test_the_first_field_streams_up_to_its_stop() -> None:
    @sgl.function(num_api_spec_tokens=8)
    def program(s):
        s += "P:" + sgl.gen("a", stop=["END", "\n"])

    backend = Scripted([" one two E three EN four END five"])
    state = program.run(backend=backend, stream=True)
    pieces = list(state.text_iter("a"))
    assert "".join(pieces) == state["a"] == " one two E three EN four "
    assert len(pieces) > 3
    assert not any("END" in piece for piece in pieces)


# Failures


@pytest.mark.parametrize("chat", [False, True])
def test_a_failure_names_the_line_of_the_field(chat) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s):
        s += sgl.user("Who?") + sgl.assistant_begin()
        s += "Name:" + sgl.gen("name", stop="\n")
        s += "\nBirthday:" + sgl.gen("birthday", stop="\n")
        s += sgl.assistant_end()

    answers = ["Name: Ada\nBorn" if chat else " Ada\nBorn", Fail("down")]
    backend = Scripted(answers, capabilities=CHAT if chat else None)
    state = program.run(backend=backend)
    assert state["name"] == " Ada", "what came before stays readable"
    with pytest.raises(ProgramError, match="down") as caught:
        _ = state["birthday"]
    lines, start = inspect.getsourcelines(program.func)
    line = start + next(i for i, text in enumerate(lines) if "Birthday" in text)
    assert caught.value.location.endswith(f"test_speculation.py:{line}")


def test_a_failed_block_fails_all_its_fields() -> None:
    backend = Scripted([Fail("down")], capabilities=CHAT)
    state = sgl.function(num_api_spec_tokens=64)(in_chat).run(backend=backend)
    for name in ("name", "birthday", "job"):
        with pytest.raises(ProgramError, match="down"):
            _ = state[name]


@pytest.mark.parametrize("number", [0, -1, True, "8", 1.5])
def test_a_wrong_number(number) -> None:
    with pytest.raises(InvalidRequest, match="num_api_spec_tokens"):
        sgl.function(num_api_spec_tokens=number)(in_text)


def test_the_view_of_the_executor_has_the_setting() -> None:
    state = sgl.function(num_api_spec_tokens=64)(in_text).run(backend=Scripted(follows(FORM)))
    assert state.stream_executor.num_api_spec_tokens == 64


# The embedded model


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    pytest.importorskip("torch", reason="torch is not installed")
    from ramet.backends.local import Engine

    with Engine("pocket", seed=0) as engine:
        yield engine


def lines(s, text):
    """In the words that the embedded model knows."""
    s += sgl.user(
        f"Extract title, author and year as lines of the form field: value.\n\nText: {text}"
    )
    with s.assistant():
        s += "title:" + sgl.gen("title", stop="\n", max_tokens=24)
        s += "\nauthor:" + sgl.gen("author", stop="\n", max_tokens=24)
        s += "\nyear:" + sgl.gen("year", stop="\n", max_tokens=24)


@pytest.mark.parametrize(
    ("text", "calls"),
    [("Eva Hill published The House of Tin in 1934.", 1), ("Nothing is said here.", 3)],
)
def test_on_the_embedded_model(engine, text, calls) -> None:
    plain = sgl.function(lines).run(text=text, backend=engine, temperature=0)
    state = sgl.function(num_api_spec_tokens=48)(lines).run(
        text=text, backend=engine, temperature=0
    )
    names = ("title", "author", "year")
    assert [state[name] for name in names] == [plain[name] for name in names]
    assert state.text() == plain.text()
    assert len(state.calls) <= calls
    assert told(state, "title")["matched"]


def test_the_embedded_models_tokens_stay_its_tokens(engine) -> None:
    from ramet.prompt import Tokens

    def ids(ahead):
        program = sgl.function(num_api_spec_tokens=ahead)(lines)
        state = program.run(text="Tom Reed published Songs in 1951.", backend=engine, temperature=0)
        state.sync()
        spans = state._script.chain.position.prompt.spans()
        return [span.ids for span in spans if isinstance(span, Tokens)]

    assert ids(48) == ids(None)
    assert len(ids(48)) == 3
