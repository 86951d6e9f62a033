"""A server somewhere else as a backend: a Ramet or an SGLang server, over the native HTTP protocol.

Knows which requests make up a call. `remote_protocol` knows their form, `remote_choices` which tokens
belong to a choice, `remote_http` how bytes come and go, `runtime_process` how a server is started here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ramet.backend import (
    Capabilities,
    ChoiceScore,
    Completion,
    GenerateCall,
    Hint,
    OnChunk,
    RoleTemplate,
    ScoreCall,
)
from ramet.backends.remote_choices import (
    Tail,
    check_choices,
    choice_start,
    score_of,
    start_in_tails,
)
from ramet.backends.remote_http import NoAnswer, Refused, Wire
from ramet.backends.remote_protocol import (
    Answer,
    ServerFacts,
    StreamAnswers,
    answers_of,
    generate_body,
    image_data,
    read_choice_scores,
    sampling_values,
    wire_spans,
)
from ramet.errors import BackendError, RametError
from ramet.params import SamplingParams
from ramet.prompt import Prompt

if TYPE_CHECKING:
    from ramet.backends.runtime_process import Runtime as Runtime

__all__ = ["Runtime", "RuntimeEndpoint"]

_NOTHING_NEW = SamplingParams(max_new_tokens=0, temperature=0.0)
_CONTROL_SECONDS = 30.0  # for a question that needs no model
_FIRST_TAIL = 16  # tokens before the end of a prompt at which a choice is expected not to change it
_PER_TOKEN = ("input_token_logprobs", "output_token_logprobs")


class RuntimeEndpoint:
    """`base_url` as "http://host:port". `verify`: for https, False or a file of certificates to trust.
    `chat_template_name`: a template of the table, instead of the one that the model's path suggests.

    `timeout`: seconds in which an answer, or the next piece of a streamed one, must come. `retries`: how
    often a call is repeated whose connection failed before any of its answer came; the meta information
    then tells of `retries`. The constructor asks the server for its model (`model_info`) and raises
    `BackendError` if it does not answer within `connect_timeout` seconds.

    An SGLang server gets whole texts. A Ramet server gets what was generated as the tokens it was.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: bool | str | ssl.SSLContext | None = None,
        chat_template_name: str | None = None,
        *,
        timeout: float = 600.0,
        connect_timeout: float = 10.0,
        retries: int = 3,
    ) -> None:
        self._wire = Wire(
            base_url,
            api_key=api_key,
            verify=verify,
            timeout=timeout,
            connect_timeout=connect_timeout,
            retries=retries,
        )
        self.base_url, self.chat_template_name = self._wire.base_url, chat_template_name
        self.model_info = self._told("model_info", connect_timeout)
        server_info: dict[str, Any] = {}
        with contextlib.suppress(BackendError):  # not every server has it, and some guard it
            server_info = self._told("server_info", connect_timeout)
        self._facts = ServerFacts(self.model_info, server_info)
        self._capabilities = self._facts.capabilities
        self._has_tokenize = True  # until the server says that it has not
        self._announced: dict[Prompt, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    # What it is

    @property
    def model_path(self) -> str:
        return self._facts.model_path

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @functools.cached_property
    def chat_template(self) -> RoleTemplate | None:
        """The checkpoint's own, where the server sends it and nobody named another one."""
        tokenizer = self.model_info.get("tokenizer")
        if self.chat_template_name is not None or not isinstance(tokenizer, Mapping):
            return None
        from ramet.backends.remote_template import template_of

        return template_of(tokenizer)

    def get_model_name(self) -> str:
        return self.model_path

    def get_server_info(self) -> dict[str, Any]:
        return self._told("server_info", _CONTROL_SECONDS)

    def _told(self, what: str, seconds: float) -> dict[str, Any]:
        """Newer servers name the route without the verb, and some of them only so."""
        try:
            return self._wire.get_json(f"/get_{what}", seconds)
        except Refused as error:
            if error.status != 404:
                raise
            return self._wire.get_json(f"/{what}", seconds)

    def flush_cache(self) -> bool:
        """False if the server is busy."""
        try:
            self._wire.request("POST", "/flush_cache", _CONTROL_SECONDS)
        except Refused as error:
            if error.status == 400:
                return False
            raise
        return True

    def start_profile(self) -> None:
        self._wire.request("POST", "/start_profile", _CONTROL_SECONDS)

    def stop_profile(self) -> None:
        """The server may take its time to write."""
        self._wire.request("POST", "/stop_profile", self._wire.timeout)

    def cache_prefix(self, prefix: str) -> None:
        """Have the server compute a text that prompts are going to begin with."""
        body = {"text": prefix, "sampling_params": sampling_values(_NOTHING_NEW)}
        self._wire.request("POST", "/generate", self._wire.timeout, body)

    def shutdown(self) -> None:
        """End the connection; the server goes on."""
        self._wire.close()

    def __repr__(self) -> str:
        return f"RuntimeEndpoint({self.base_url!r}, {self.model_path})"

    # Generating

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        """Cancelling it aborts the request on the server."""
        await self._wait_for_prefix(call.prompt)
        spans = self._facts.has("spans")
        # A server gives each of n samples an id of its own; only a Ramet server knows them by this one.
        rid = call.rid if call.params.n == 1 or spans else ""
        body = generate_body(call, spans=spans, stream=on_chunk is not None, rid=rid)
        try:
            if on_chunk is None:
                payload, retries = await self._wire.post("/generate", body)
                answers = answers_of(payload, call.params.n)
            else:
                answers, retries = await self._streamed(body, call.params, on_chunk)
        except (asyncio.CancelledError, NoAnswer):
            self._abort(rid)
            raise
        return [answer.completion(retries) for answer in answers]

    async def _streamed(
        self, body: Mapping[str, Any], params: SamplingParams, on_chunk: OnChunk
    ) -> tuple[list[Answer], int]:
        answers = StreamAnswers(params.n)
        if (
            not self._facts.has("spans") and not params.no_stop_trim
        ):  # a Ramet server takes nothing back
            answers.stops, answers.whole = params.stop, bool(params.stop_regex)
        async with self._wire.stream("/generate", body) as (events, retries):
            async for data in events:
                chunk = answers.event(data)
                if chunk is not None:
                    on_chunk(chunk)
                if answers.done:
                    break
        return answers.answers(), retries

    def _abort(self, rid: str) -> None:
        """Closing the connection ends a request, unless the server looks only when it has an answer."""
        if rid:
            self._start(self._wire.post("/abort_request", {"rid": rid}), _CONTROL_SECONDS)

    def _start(self, work: Any, seconds: float) -> asyncio.Task[None]:
        """Do something whose failure is nobody's."""

        async def quietly() -> None:
            with contextlib.suppress(RametError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await work

        task = asyncio.get_running_loop().create_task(quietly())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # Advice

    def hint(self, hint: Hint) -> None:
        """Have the server compute the prompt. Calls that extend it wait for that: sent at the same time,
        each would compute it."""
        if hint.prompt is None or hint.kind == "done" or self._wire.closed:
            return
        prompt = hint.prompt
        try:
            call = GenerateCall(prompt=prompt, params=_NOTHING_NEW)
            body = generate_body(call, spans=self._facts.has("spans"), stream=False, rid="")
            task = self._start(self._wire.post("/generate", body), self._wire.timeout)
        except (
            RametError,
            RuntimeError,
        ):  # no loop runs, or a prompt that cannot be sent: its call says
            return
        if not self._facts.has("spans"):  # a Ramet server shares what is being computed
            self._announced[prompt] = task
            task.add_done_callback(lambda _: self._announced.pop(prompt, None))

    async def _wait_for_prefix(self, prompt: Prompt) -> None:
        if not self._announced:
            return
        loop = asyncio.get_running_loop()
        node: Prompt | None = prompt
        while node is not None:
            task = self._announced.get(node)
            if task is not None and task.get_loop() is loop:
                await asyncio.wait({task})
                return
            node = node.parent

    # Scoring

    async def score(self, call: ScoreCall) -> list[ChoiceScore]:
        check_choices(call.choices)
        await self._wait_for_prefix(call.prompt)
        if self._facts.has("score_choices"):
            body: dict[str, Any] = {
                "spans": wire_spans(call.prompt),
                "choices": list(call.choices),
                "unconditional": call.unconditional,
                "rid": call.rid,
            }
            if images := image_data(call.prompt):
                body["image_data"] = images
            payload, retries = await self._wire.post("/score_choices", body)
            return read_choice_scores(payload, len(call.choices), retries)
        prompt = call.prompt.text()
        texts = [prompt + choice for choice in call.choices]
        images = image_data(call.prompt)  # /tokenize does not know how many tokens they take
        ids = None if images else await self._tokenized([prompt, *texts])
        if ids is not None:
            start = choice_start(ids[0], ids[1:])
            if start > 1 and len(texts) > 1:
                await self._prompt_scores({"input_ids": [ids[0][:start]]}, None)
            answers = await self._prompt_scores({"input_ids": ids[1:]}, max(start - 1, 0))
            tails = [Tail.of(answer) for answer in answers]
        else:
            start, answers, tails = await self._found(prompt, texts, images)
        alone: list[Tail | None] = [None] * len(texts)
        if call.unconditional:
            own = [[token[1] for token in tail.since(start)] for tail in tails]
            alone = [Tail.of(a) for a in await self._prompt_scores({"input_ids": own}, 0)]
        return [
            score_of(tail, other, start, _facts_of(answer))
            for tail, other, answer in zip(tails, alone, answers)
        ]

    async def _found(
        self, prompt: str, texts: Sequence[str], images: Sequence[str]
    ) -> tuple[int, list[Answer], list[Tail]]:
        """The same without a way to the tokenizer: the ids that come with the log-probabilities tell."""
        length = 0
        if prompt:
            (answer,) = await self._prompt_scores(_inputs([prompt], images), None)
            length = int(answer.meta_info.get("prompt_tokens") or 0)
        back = _FIRST_TAIL
        while True:
            from_token = max(length - back, 0)
            answers = await self._prompt_scores(_inputs([prompt, *texts], images), from_token)
            tails = [Tail.of(answer) for answer in answers]
            start = start_in_tails(tails[0], tails[1:])
            if start is not None:
                return start, answers[1:], tails[1:]
            if from_token == 0:
                raise BackendError("the server gave no log-probabilities for the choices' tokens")
            back *= 8

    async def _prompt_scores(self, inputs: Mapping[str, Any], start: int | None) -> list[Answer]:
        """Compute prompts, with the log-probabilities of their tokens from `start` (None: without)."""
        body = {**inputs, "sampling_params": sampling_values(_NOTHING_NEW)}
        if start is not None:
            body |= {"return_logprob": True, "logprob_start_len": start}
            body["return_text_in_logprobs"] = True
        payload, _ = await self._wire.post("/generate", body)
        return answers_of(payload, len(next(iter(inputs.values()))))

    async def _tokenized(self, texts: Sequence[str]) -> list[list[int]] | None:
        """The ids of texts as the server would have them as prompts; None if it does not tell."""
        if not self._has_tokenize:
            return None
        try:
            found = await asyncio.gather(
                *(
                    self._wire.post("/tokenize", {"prompt": text, "add_special_tokens": True})
                    for text in texts
                )
            )
        except Refused as error:
            if error.status not in (404, 405):
                raise
            self._has_tokenize = False
            return None
        ids = [payload.get("tokens") if isinstance(payload, dict) else None for payload, _ in found]
        if not all(isinstance(one, list) for one in ids):
            raise BackendError(f"{self.base_url}/tokenize gives no tokens")
        return [list(map(int, one or ())) for one in ids]


def _inputs(texts: Sequence[str], images: Sequence[str]) -> dict[str, Any]:
    """Prompts that all have the same images."""
    return {"text": texts} | ({"image_data": [list(images)] * len(texts)} if images else {})


def _facts_of(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer.meta_info.items() if name not in _PER_TOKEN}


def __getattr__(name: str) -> Any:
    """`Runtime` starts processes; who only talks to a server does not load that."""
    if name == "Runtime":
        from ramet.backends.runtime_process import Runtime

        return Runtime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
