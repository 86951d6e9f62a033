"""Selections over the native protocol: exactly the choice's own tokens, whatever a server is like."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.native_server import Fault, NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backend import Completion, GenerateCall, ScoreCall
from ramet.backends.remote_choices import Tail, choice_start, start_in_tails
from ramet.backends.scripted import Scripted
from ramet.errors import BackendError, InvalidRequest
from ramet.prompt import EMPTY, Tokens

MERGES = {"ab", "cd", "abcd", " x", "yy", "yyyy"}


def pairs(text: str) -> list[str]:
    """A toy tokenizer that merges greedily, so that a choice may change the prompt's last tokens."""
    tokens: list[str] = []
    at = 0
    while at < len(text):
        size = next(n for n in (4, 2, 1) if n == 1 or text[at : at + n] in MERGES)
        tokens.append(text[at : at + size])
        at += size
    return tokens


def number(token: str) -> int:
    return int.from_bytes(token.encode(), "big")


def logprob(tokens: list[str], at: int) -> float | None:
    """Depends on the token and all before it."""
    return None if at == 0 else -((hash_of(tokens[: at + 1])) % 1000) / 100


def hash_of(tokens: list[str]) -> int:
    value = 17
    for token in tokens:
        value = (value * 1_000_003 + number(token)) % (2**31)
    return value


class Merging(Scripted):
    """A server's engine with that tokenizer: it computes prompts."""

    async def generate(self, call: GenerateCall, on_chunk: Any = None) -> list[Completion]:
        assert on_chunk is None
        assert call.params.max_new_tokens == 0
        spans = call.prompt.spans()
        if spans and isinstance(spans[0], Tokens):
            tokens = [i.to_bytes(8, "big").lstrip(b"\0").decode() for i in spans[0].ids]
        else:
            tokens = pairs(call.prompt.text())
        meta: dict[str, Any] = {"prompt_tokens": len(tokens), "finish_reason": {"type": "length"}}
        if call.return_logprob:
            start = call.logprob_start_len if call.logprob_start_len >= 0 else len(tokens)
            meta["input_token_logprobs"] = [
                [logprob(tokens, i), number(tokens[i]), tokens[i]]
                for i in range(start, len(tokens))
            ]
        return [Completion(text="", spans=(), meta_info=meta)]


class MergingServer(NativeServer):
    def _encode(self, text: str) -> list[int]:
        return [number(token) for token in pairs(text)]

    def _prompt_of_ids(self, ids: list[int]) -> Any:
        return EMPTY + Tokens(tuple(ids), "")


def wanted(prompt: str, choices: list[str]) -> tuple[list[Any], list[Any]]:
    """By the rule, directly."""
    before = pairs(prompt)
    full = [pairs(prompt + choice) for choice in choices]
    start = min(
        min(
            next(
                (i for i, (a, b) in enumerate(zip(before, f)) if a != b), min(len(before), len(f))
            ),
            len(f) - 1,
        )
        for f in full
    )
    given_ = [[(logprob(f, i), number(f[i]), f[i]) for i in range(start, len(f))] for f in full]
    own = [f[start:] for f in full]
    alone = [[(logprob(f, i), number(f[i]), f[i]) for i in range(len(f))] for f in own]
    return given_, alone


@pytest.fixture(scope="module", params=[True, False], ids=["tokenize", "no tokenize"])
def server(request):
    with MergingServer(Merging(), "sglang", has_tokenize=request.param) as running:
        yield RuntimeEndpoint(running.url)


@settings(max_examples=60)
@given(
    prompt=st.text("abcdxy ", max_size=60),
    choices=st.lists(
        st.text("abcdxy ", min_size=1, max_size=5), min_size=1, max_size=4, unique=True
    ),
)
def test_exactly_the_choices_tokens_count(server, prompt: str, choices: list[str]) -> None:
    call = ScoreCall(prompt=EMPTY + prompt, choices=choices, unconditional=True)
    scores = asyncio.run(server.score(call))
    given_, alone = wanted(prompt, choices)
    assert [list(score.tokens) for score in scores] == given_
    assert [list(score.unconditional or ()) for score in scores] == alone


def test_a_merge_far_back_is_found(server) -> None:
    prompt = "a" + "y" * 41  # one more y and all pairs are quadruples of another phase
    call = ScoreCall(prompt=EMPTY + prompt, choices=["y", "x"], unconditional=False)
    scores = asyncio.run(server.score(call))
    assert [list(score.tokens) for score in scores] == wanted(prompt, ["y", "x"])[0]
    assert scores[0].unconditional is None
    assert scores[0].meta_info["prompt_tokens"] == len(pairs(prompt + "y"))
    assert all(math.isfinite(token[0] or 0) for score in scores for token in score.tokens)


@pytest.mark.parametrize("choices", [[], ["a", ""], ["a", "a"]])
def test_choices_that_are_none(server, choices: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="choices"):
        asyncio.run(server.score(ScoreCall(prompt=EMPTY + "x", choices=choices)))


@pytest.mark.parametrize(
    "method",
    [
        sgl.token_length_normalized,
        sgl.greedy_token_selection,
        sgl.unconditional_likelihood_normalized,
    ],
)
def test_every_method_works_with_null_in_the_first_entry(method) -> None:
    @sgl.function
    def program(s):
        s += "Is it so?" + sgl.select("v", [" yes", " no it is not"], choices_method=method)

    local = program.run(backend=Scripted())
    for has_tokenize in (True, False):
        with NativeServer(Scripted(), "sglang", has_tokenize) as running:
            state = program.run(backend=RuntimeEndpoint(running.url))
            assert state["v"] == local["v"]
            meta, own = state.get_meta_info("v"), local.get_meta_info("v")
            assert meta.keys() == own.keys()
            assert meta["normalized_prompt_logprobs"] == own["normalized_prompt_logprobs"]
            assert [[t[0] for t in c] for c in meta["input_token_logprobs"]] == [
                [t[0] for t in c] for c in own["input_token_logprobs"]
            ]


def test_the_prompt_is_computed_once_before_the_choices() -> None:
    @sgl.function
    def program(s):
        s += "A rather long question" + sgl.select("v", [" yes", " no"])

    with NativeServer(Scripted(), "sglang") as running:
        program.run(backend=RuntimeEndpoint(running.url)).sync()
        first, second = running.bodies()
    assert len(first["input_ids"]) == 1
    assert "return_logprob" not in first
    assert len(second["input_ids"]) == 2
    assert second["logprob_start_len"] == len(first["input_ids"][0]) - 1


def test_a_server_that_gives_no_scores() -> None:
    class Silent(Merging):
        async def generate(self, call: GenerateCall, on_chunk: Any = None) -> list[Completion]:
            (completion,) = await super().generate(call, on_chunk)
            completion.meta_info["input_token_logprobs"] = []
            return [completion]

    for has_tokenize in (True, False):
        with MergingServer(Silent(), "sglang", has_tokenize) as running:
            endpoint = RuntimeEndpoint(running.url)
            call = ScoreCall(prompt=EMPTY + "abc", choices=["d", "x"])
            with pytest.raises(BackendError, match="log-probabilities"):
                asyncio.run(endpoint.score(call))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"scores": []}', b'{"scores": [1]}', b'{"scores": [{"tokens": [[1]]}]}']
)
def test_answers_of_another_form(body: bytes) -> None:
    def faults(path: str, _count: int) -> Fault | None:
        return Fault("status", status=200, body=body) if path == "/score_choices" else None

    with NativeServer(Scripted(), faults=faults) as running:
        endpoint = RuntimeEndpoint(running.url)
        with pytest.raises(BackendError):
            asyncio.run(endpoint.score(ScoreCall(prompt=EMPTY + "x", choices=["a"])))


def tail(start: int, ids: list[int]) -> Tail:
    return Tail(start, tuple((-1.0, i, None) for i in ids))


def test_positions_are_counted_from_the_end() -> None:
    prompt, longer = tail(5, [1, 2, 3]), tail(6, [2, 3, 4])
    assert start_in_tails(prompt, [longer]) == 8
    assert start_in_tails(prompt, [tail(5, [1, 9, 9])]) == 6
    assert start_in_tails(prompt, [tail(5, [7, 2, 3, 4])]) is None
    assert start_in_tails(tail(0, [1]), [tail(0, [7, 8])]) == 0
    assert choice_start([1, 2], [[1, 2, 3], [1, 2]]) == 1  # each has a token there
    with pytest.raises(BackendError, match="from token 5, not from 4"):
        prompt.since(4)
    with pytest.raises(BackendError, match="for token 6"):
        Tail(5, ((-1.0, 1, None), (None, 2, None))).since(5)
