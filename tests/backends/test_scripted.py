"""The scripted backend keeps the backends' contract, so that programs tested on it meet no surprise."""

# ruff: noqa: ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import asyncio
import doctest
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.backend import Backend, Capabilities, Chunk, GenerateCall, Hint, ScoreCall
from ramet.backends import scripted, scripted_checks
from ramet.backends.scripted import EOS_ID, Fail, Hang, Scripted, tokenize
from ramet.errors import BackendError, EngineClosed, InvalidRequest
from ramet.params import SamplingParams
from ramet.prompt import EMPTY


def call(prompt: str = "p", rid: str = "r", **options: Any) -> GenerateCall:
    names = SamplingParams.__dataclass_fields__
    params = {name: options.pop(name) for name in list(options) if name in names}
    return GenerateCall(
        prompt=EMPTY + prompt, params=SamplingParams.from_dict(params), rid=rid, **options
    )


def generate(backend: Scripted, *args: Any, on_chunk: Any = None, **options: Any):
    return asyncio.run(backend.generate(call(*args, **options), on_chunk))


def test_it_is_a_backend() -> None:
    assert isinstance(Scripted(), Backend)


def test_the_docstrings_example_runs() -> None:
    code = "\n".join(
        line[4:] for line in (scripted.__doc__ or "").splitlines() if line.startswith("    ")
    )
    assert "capital.run" in code
    exec(compile(code, "docstring", "exec"), {})
    assert doctest.testmod(scripted).failed == 0


def test_lists_mappings_functions_and_the_default() -> None:
    backend = Scripted(["one", ["two", "three"]])
    assert [c.text for c in generate(backend)] == ["one"]
    assert [c.text for c in generate(backend, n=2)] == ["two", "three"]
    with pytest.raises(BackendError, match="all 2 scripted responses are used up"):
        generate(backend)
    mapping = Scripted({"a+": "first", r"\d": lambda c: c.rid, ".*": Fail("none")})
    assert generate(mapping, "xxaa")[0].text == "first"
    assert generate(mapping, "a1", rid="id")[0].text == "id"
    with pytest.raises(BackendError, match="none"):
        generate(mapping, "b")
    with pytest.raises(BackendError, match="no scripted response fits"):
        generate(Scripted({"a": "b"}), "b")
    assert generate(Scripted(), "x")[0].text == generate(Scripted(), "x")[0].text
    assert generate(Scripted(), "x")[0].text != generate(Scripted(), "y")[0].text
    with pytest.raises(InvalidRequest, match="one text per sample"):
        generate(Scripted([["a", "b"]]))


@given(st.text())
def test_tokens_add_up_to_the_text(text: str) -> None:
    assert "".join(word.text for word in tokenize(text)) == text
    [done] = generate(Scripted([text]), max_new_tokens=1000)
    assert "".join(span.text for span in done.spans) == done.text == text


@pytest.mark.parametrize(
    ("options", "text", "tokens", "reason"),
    [
        ({}, "one two, three", 4, {"type": "stop", "matched": EOS_ID}),
        ({"max_new_tokens": 2}, "one two", 2, {"type": "length", "length": 2}),
        ({"max_new_tokens": 0}, "", 0, {"type": "length", "length": 0}),
        ({"max_new_tokens": 4}, "one two, three", 4, {"type": "stop", "matched": EOS_ID}),
        ({"stop": ["three", " t"]}, "one", 2, {"type": "stop", "matched": " t"}),
        ({"stop": ", th"}, "one two", 4, {"type": "stop", "matched": ", th"}),
        ({"stop": "wo", "no_stop_trim": True}, "one two", 2, {"type": "stop", "matched": "wo"}),
        ({"stop": "one", "min_new_tokens": 1}, "one two, three", 4, {"type": "stop", "matched": 0}),
        ({"stop_regex": "[ou]+,"}, "one tw", 3, {"type": "stop", "matched": "[ou]+,"}),
        ({"ignore_eos": True}, "one two, three", 4, {"type": "length", "length": 4}),
    ],
)
def test_limits_and_stops(options, text: str, tokens: int, reason) -> None:
    [done] = generate(Scripted(["one two, three"]), **options)
    assert (done.text, done.meta_info["completion_tokens"]) == (text, tokens)
    assert done.meta_info["finish_reason"] == reason


def test_stop_tokens() -> None:
    comma = tokenize(",")[0].id
    [done] = generate(Scripted(["one two, three"]), stop_token_ids=[comma])
    assert (done.text, done.meta_info["finish_reason"]["matched"]) == ("one two", comma)


@pytest.mark.parametrize("chunk_size", [1, 2, 50])
@pytest.mark.parametrize("options", [{}, {"stop": "wo, th"}, {"max_new_tokens": 3}])
def test_chunks_add_up(chunk_size: int, options) -> None:
    chunks: list[Chunk] = []
    backend = Scripted(["one two, three"], chunk_size=chunk_size)
    [done] = generate(
        backend, on_chunk=chunks.append, return_logprob=True, top_logprobs_num=2, **options
    )
    assert "".join(chunk.text for chunk in chunks) == done.text
    for name in ("output_token_logprobs", "output_top_logprobs"):
        assert sum((chunk.meta_info[name] for chunk in chunks), []) == done.meta_info[name]  # noqa: RUF017
    assert chunks[-1].meta_info["finish_reason"] == done.meta_info["finish_reason"]
    assert all(chunk.meta_info["finish_reason"] is None for chunk in chunks[:-1])
    assert done.meta_info["output_token_logprobs_length"] == done.meta_info["completion_tokens"]


def test_logprobs_are_numbers_that_repeat() -> None:
    options = {"return_logprob": True, "logprob_start_len": 1, "return_text_in_logprobs": True}
    first, second = (generate(Scripted(["x y"]), "a b c", **options)[0] for _ in range(2))
    meta = first.meta_info
    assert meta["output_token_logprobs"] == second.meta_info["output_token_logprobs"]
    assert [t[2] for t in meta["input_token_logprobs"]] == [" b", " c"]
    assert all(t[0] < 0 for t in meta["input_token_logprobs"] + meta["output_token_logprobs"])
    assert generate(Scripted(["x"]), return_logprob=True)[0].meta_info["input_token_logprobs"] == []


def score(backend: Scripted, *choices: str, unconditional: bool = False, prompt: str = "p"):
    request = ScoreCall(prompt=EMPTY + prompt, choices=choices, unconditional=unconditional)
    return asyncio.run(backend.score(request))


def test_scores() -> None:
    [yes, no] = score(Scripted(scores={"yes sir": -0.5, "no": [-1, -2]}), "yes sir", "no")
    assert [t[0] for t in yes.tokens] == [-0.5, -0.5]
    assert [t[0] for t in no.tokens] == [-1, -2]
    by_call = Scripted(scores=lambda prompt, choice: -float(len(prompt)))
    [found] = score(by_call, "a b", unconditional=True, prompt="long")
    assert [t[0] for t in found.tokens] == [-4, -4]
    assert [t[0] for t in found.unconditional] == [None, 0]
    assert score(Scripted(), "a")[0].tokens == score(Scripted(), "a")[0].tokens
    with pytest.raises(BackendError, match="no scripted score"):
        score(Scripted(scores={}), "a")


def test_shared_prefixes_are_counted() -> None:
    backend = Scripted(share=True)
    cached = [generate(backend, p)[0].meta_info["cached_tokens"] for p in ("a b", "a b c", "b a")]
    assert cached == [0, 2, 0]
    assert backend.flush_cache() is True
    assert generate(backend, "a b")[0].meta_info["cached_tokens"] == 0


def test_faults_by_number_and_in_mid_stream() -> None:
    backend = Scripted(faults={1: Fail(ValueError("second")), 2: Fail("third", text="a b c")})
    generate(backend)
    with pytest.raises(ValueError, match="second"):
        score(backend, "a")
    chunks: list[Chunk] = []
    with pytest.raises(BackendError, match="third"):
        generate(backend, on_chunk=chunks.append)
    assert [chunk.text for chunk in chunks] == ["a", " b", " c"]
    assert backend.active == 0


def test_hanging_ends_with_a_cancellation() -> None:
    backend = Scripted(lambda c: Hang("some text"), faults={1: Hang()})

    async def main() -> None:
        chunks: list[Chunk] = []
        tasks = [
            asyncio.create_task(backend.generate(call(rid="one"), chunks.append)),
            asyncio.create_task(backend.score(ScoreCall(prompt=EMPTY, choices=["a"], rid="two"))),
        ]
        while len(chunks) < 2 or len(backend.calls) < 2:
            await asyncio.sleep(0)
        assert backend.active == 2
        assert backend.flush_cache() is False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert (sorted(backend.cancelled), backend.active, backend.max_active) == (["one", "two"], 0, 2)


def test_latency() -> None:
    backend = Scripted(latency=lambda c: 0.02 if c.rid == "slow" else 0.0)
    assert generate(backend, rid="slow")[0].meta_info["e2e_latency"] >= 0.02


def test_a_regex_is_kept_or_it_fails() -> None:
    assert generate(Scripted(["12"]), regex="[0-9]+")[0].text == "12"
    with pytest.raises(BackendError, match="does not match the regex"):
        generate(Scripted(["x"]), regex="[0-9]+")


PET = '{"type": "object", "required": ["name"], "additionalProperties": {"type": "string"}}'


@pytest.fixture(params=["jsonschema_rs", "jsonschema", None])
def validator(request, monkeypatch):
    """Each kind of validator, the others hidden. `jsonschema` itself need not be installed: a stand-in
    with its interface takes its place."""
    if request.param == "jsonschema_rs":
        pytest.importorskip("jsonschema_rs", reason="it is one of the validators")
    else:
        monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    stand_in = None
    if request.param == "jsonschema":
        kind = type("Kind", (_Validator,), {})
        stand_in = types.SimpleNamespace(
            validators=types.SimpleNamespace(validator_for=lambda schema, default: default),
            Draft202012Validator=kind,
        )
    monkeypatch.setitem(sys.modules, "jsonschema", stand_in)
    registry = types.SimpleNamespace(Registry=dict)
    monkeypatch.setitem(sys.modules, "referencing", registry if stand_in else None)
    scripted_checks._validator.cache_clear()
    yield request.param
    scripted_checks._validator.cache_clear()


class _Validator:
    """Knows `type` and `required`, which is enough for the tests below."""

    def __init__(self, schema: dict[str, Any], registry: object) -> None:
        assert registry is not None
        self.schema = schema

    @staticmethod
    def check_schema(schema: dict[str, Any]) -> None:
        if schema.get("type") not in (None, "object", "string"):
            raise RuntimeError("no such type")

    def iter_errors(self, value: Any):
        for name in self.schema.get("required", ()):
            if name not in value:
                yield types.SimpleNamespace(message=f'"{name}" is a required property')


def test_a_json_schema_is_kept_or_it_fails(validator) -> None:
    assert generate(Scripted(['{"name": "Rex"}']), json_schema=PET)[0].text == '{"name": "Rex"}'
    for text in ("name: Rex", '{"name": NaN}', "[" * 100_000, '{"name": "Rex"'):
        with pytest.raises(BackendError, match=r"does not match the JSON schema.*it is not JSON"):
            generate(Scripted([text]), max_new_tokens=9, json_schema=PET)
    if validator is None:  # nothing judges but whether it is JSON
        assert generate(Scripted(["{}"]), json_schema=PET)[0].text == "{}"
        return
    with pytest.raises(BackendError, match=r'JSON schema.*: "name" is a required property'):
        generate(Scripted(["{}"]), json_schema=PET)
    with pytest.raises(InvalidRequest, match=r"json_schema.*is no JSON Schema"):
        generate(Scripted(["{}"]), json_schema='{"type": "pet"}')


@pytest.mark.usefixtures("validator")
def test_a_schema_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"json_schema.*is no JSON Schema"):
        generate(Scripted(["{}"]), json_schema="{")


def test_no_schema_is_fetched() -> None:
    pytest.importorskip("jsonschema_rs", reason="it is the validator that could fetch one")
    with pytest.raises(InvalidRequest, match="is not fetched: http://localhost/pet"):
        generate(Scripted(["{}"]), json_schema='{"$ref": "http://localhost/pet"}')


def test_what_a_limit_cuts_short_of_its_constraint_says_so() -> None:
    for params in ({"regex": "a b c"}, {"json_schema": '{"type": "string"}'}):
        text = "a b c" if "regex" in params else '"a b c"'
        [done] = generate(Scripted([text]), max_new_tokens=2, **params)
        assert done.meta_info["finish_reason"] == {
            "type": "length",
            "length": 2,
            "incomplete": True,
        }
        [done] = generate(Scripted([text]), stop=" b", **params)
        assert done.meta_info["finish_reason"] == {"type": "stop", "matched": " b"}
    [done] = generate(Scripted(["a b c"]), max_new_tokens=2, regex="a b( c)?")
    assert done.meta_info["finish_reason"] == {"type": "length", "length": 2}


def test_grammars_and_tags_are_recorded_only() -> None:
    for params in ({"ebnf": 'root ::= "a"'}, {"structural_tag": "{}"}):
        backend = Scripted(["anything"])
        assert generate(backend, **params)[0].text == "anything"
        [(name, value)] = params.items()
        assert getattr(backend.calls[0].params, name) == value


def test_capabilities_are_as_told() -> None:
    can = Scripted().capabilities
    assert (can.regex, can.json_schema, can.ebnf, can.structural_tag) == (True, True, False, False)
    told = Capabilities(ebnf=True, structural_tag=True)
    assert Scripted(capabilities=told).capabilities is told


def test_what_it_remembers_and_tells() -> None:
    backend = Scripted(model_path="my/model", capabilities=Capabilities(score=False))
    generate(backend, "one")
    backend.hint(Hint(kind="done", rid="r"))
    assert (backend.prompts, backend.hints[0].rid) == (["one"], "r")
    assert backend.get_server_info() == {
        "model_path": "my/model",
        "backend": "scripted",
        "num_calls": 1,
    }
    assert backend.capabilities.score is False
    backend.shutdown()
    with pytest.raises(EngineClosed):
        generate(backend)
