"""`ramet.Engine`: a model on this machine, spoken to in the native protocol.

`generate` and `async_generate` take texts or token ids and give dictionaries. `endpoint` is the same
engine as the language sees it. This file turns calls into requests and requests into answers; the work
is done by the core that `engine.host` steps on a thread of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import queue
import random
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ramet.backend import RoleTemplate
from ramet.backends.endpoint import LocalEndpoint
from ramet.backends.native import parse_calls
from ramet.engine.constraining import Constraining
from ramet.engine.host import EngineHost, RequestsFuture
from ramet.engine.options import EngineOptions
from ramet.engine.prompt_ids import PromptIds
from ramet.engine.request import LogprobOptions, Request, room_for_output
from ramet.engine.response import TokenText, build_response
from ramet.engine.stats import EngineStats
from ramet.engine.text import GenerationText
from ramet.errors import BackendError, CheckpointError, InvalidRequest
from ramet.params import SamplingParams

__all__ = ["Engine", "default_engine", "resolve_model"]

TokenIds = Sequence[int] | npt.NDArray[np.int64] | PromptIds
_SEED_STEP = 0x9E3779B97F4A7C15  # the samples of one request get seeds this far apart


@dataclass(frozen=True, slots=True)
class _Job:
    """The requests of one call, and the form of its answer: one response or a list."""

    requests: list[Request]
    many: bool
    token_text: TokenText

    @property
    def rids(self) -> list[str]:
        return [request.rid for request in self.requests]


class Engine:
    """A model on this machine, with its KV cache. See `EngineOptions` for every option.

    >>> with Engine("pocket") as engine:
    ...     engine.generate("Hello", {"max_new_tokens": 8, "temperature": 0})["text"]

    It is a context manager; `shutdown()` ends it. Methods may be called from any thread. Programs run
    on it with `program.run(..., backend=engine)` or after `ramet.set_default_backend(engine)`.
    """

    def __init__(self, model_path: str | Path = "pocket", **options: Any) -> None:
        self.options = EngineOptions.from_kwargs({"model_path": model_path, **options})
        self._path = resolve_model(self.options.model_path)
        assemble = _import_assemble()
        core, self.tokenizer, model = assemble(self._path, self.options)
        self.config = model.config
        self.max_context = core.max_context
        self.num_slots = core.slots.num_slots
        self.clock = core.clock
        self._check_fits = core.check_fits
        self._random = random.Random(self.options.seed)
        self._template = self.tokenizer.role_template()
        self.constraining = Constraining(
            self.tokenizer,
            self.config.vocab_size,
            jump_forward=self.options.jump_forward,
            steer=self.options.complete_constraints,
        )
        self.host = EngineHost(core)
        self.endpoint = LocalEndpoint(self)

    # -- the native protocol ---------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        stream: bool = False,
        **details: Any,
    ) -> Any:
        """Continue one prompt (text or `input_ids`) or a list of them.

        `details`: `return_logprob`, `logprob_start_len` (-1: no prompt log-probabilities),
        `top_logprobs_num`, `token_ids_logprob`, `return_text_in_logprobs`, `rid`; each one value for all
        prompts or a list with one for each.

        Returns one response dictionary `{"text", "output_ids", "meta_info"}`, or a list of them for a
        list of prompts or `n > 1` (prompt by prompt, n samples each). With `stream=True` an iterator of
        responses, `text` and `output_ids` cumulative, with an `"index"` where there are several.
        Raises `InvalidRequest` before anything runs; an aborted request says so in its finish_reason.
        """
        job = self._job(prompt, sampling_params, input_ids, **details)
        if stream:
            return self._stream(job)
        done = self.host.submit(job.requests)
        try:
            return self._answer(job, done.result())
        except BaseException:
            self.host.abort(job.rids)
            raise

    async def async_generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        stream: bool = False,
        **details: Any,
    ) -> Any:
        """`generate` for coroutines; with `stream=True` the result is an async iterator. Cancelling the
        awaiting task aborts the requests."""
        for params in _all_params(sampling_params):
            await self.constraining.compiled(params)
        job = self._job(prompt, sampling_params, input_ids, **details)
        if stream:
            return self._async_stream(job)
        return self._answer(job, await self.host.finished(job.requests))

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        """End a request (its response gets an abort finish_reason), or all of them."""
        if abort_all:
            self.host.call(lambda core: [core.abort(r.rid) for r in core.requests()])
        else:
            self.host.abort([rid])

    def flush_cache(self) -> bool:
        """Forget all cached prefixes. False if requests are running."""
        return self.host.call(lambda core: core.flush())

    @property
    def stats(self) -> EngineStats:
        """Counters since the start: a snapshot."""
        return self.host.call(lambda core: core.stats())

    def audit(self) -> None:
        """Check every invariant of the cache now; what is broken is repaired and reported."""
        self.host.call(lambda core: core.audit())

    def get_model_info(self) -> dict[str, Any]:
        return {
            "model_path": self.model_path,
            "tokenizer_path": self.options.tokenizer_path or self.model_path,
            "is_generation": True,
            "served_model_name": self.options.served_model_name or self.model_path,
            "weight_version": "default",
            "max_model_len": self.max_context,
            "architectures": [self.config.architecture],
        }

    def get_server_info(self) -> dict[str, Any]:
        """All options, facts about the model, and `internal_states`: [the counters]."""
        from ramet import __version__

        return {
            **self.options.to_dict(),
            **self.get_model_info(),
            "version": __version__,
            "max_total_num_tokens": self.num_slots,
            "internal_states": [self.stats.to_dict()],
        }

    def shutdown(self) -> None:
        """End the engine and everything that runs on it. Calling it twice does nothing."""
        self.host.close()
        self.constraining.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "closed" if self.host.closed else self.options.device
        return f"Engine({self.options.model_path!r}, {state})"

    @property
    def model_path(self) -> str:
        return str(self._path)

    @property
    def chat_template(self) -> RoleTemplate | None:
        """The checkpoint's own template in the language's form; None where the user named another, or
        the checkpoint has none."""
        return None if self.options.chat_template else self._template

    # -- requests, for both faces ----------------------------------------------------------------

    def samples(
        self,
        rid: str | None,
        ids: TokenIds,
        params: SamplingParams,
        options: LogprobOptions,
        *,
        salt: str = "",
        num_public: int = 0,
    ) -> list[Request]:
        """`params.n` requests for one prompt. Their seeds follow from the given one, or are drawn. They
        share cached tokens with requests of the same `salt`, and the first `num_public` prompt tokens
        with everybody."""
        seed = params.sampling_seed
        if seed is None:
            seed = self._random.getrandbits(63)
        rid = rid or uuid.uuid4().hex
        names = [rid] if params.n == 1 else [f"{rid}#{i}" for i in range(params.n)]
        return [
            self.request(
                name,
                ids,
                params,
                options,
                (seed + i * _SEED_STEP) % 2**64,
                salt=salt,
                num_public=num_public,
            )
            for i, name in enumerate(names)
        ]

    def request(
        self,
        rid: str,
        ids: TokenIds,
        params: SamplingParams,
        options: LogprobOptions,
        seed: int = 0,
        *,
        salt: str = "",
        num_public: int = 0,
    ) -> Request:
        """A request that the core will take; everything that can be wrong with it is said here."""
        prompt = ids if isinstance(ids, PromptIds) else PromptIds.of(np.array(ids, np.int64))
        self._check_fits(len(prompt), params.max_new_tokens)
        self._check_ids(prompt, params)
        buffer = prompt.buffer(room_for_output(params))
        stops = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stops |= self.tokenizer.eos_token_ids
        text = GenerationText(self.tokenizer, buffer.view, params)
        return Request(
            rid=rid,
            prompt_ids=buffer.view,
            buffer=buffer,
            params=params,
            text=text,
            seed=seed,
            salt=salt,
            num_public=num_public,
            logprobs=options,
            stop_token_ids=stops,
            constrained=self.constraining.place(
                params, stops, begun=text.continues, logprobs=options.output
            ),
        )

    def _check_ids(self, prompt: PromptIds, params: SamplingParams) -> None:
        size = self.config.vocab_size
        problem = f"is no token id of this model (0 to {size - 1})"
        if prompt.largest >= size:
            for token in prompt:
                if not 0 <= token < size:
                    raise InvalidRequest("input_ids", token, problem)
        for token, _ in params.logit_bias:
            if token >= size:
                raise InvalidRequest("logit_bias", token, problem)

    def text(self, request: Request) -> GenerationText:
        if not isinstance(request.text, GenerationText):
            raise BackendError(f"request {request.rid} was not made by this engine")
        return request.text

    def token_text(self, wanted: bool) -> TokenText:
        return self.tokenizer.token_text if wanted else lambda _token: None

    # -- calls and answers -----------------------------------------------------------------------

    def _job(
        self,
        prompt: Any,
        sampling_params: Any,
        input_ids: Any,
        *,
        return_logprob: Any = False,
        logprob_start_len: Any = None,
        top_logprobs_num: Any = None,
        token_ids_logprob: Any = None,
        return_text_in_logprobs: bool = False,
        rid: Any = None,
    ) -> _Job:
        calls, single = parse_calls(
            self.tokenizer.encode,
            self.config.vocab_size,
            prompt=prompt,
            input_ids=input_ids,
            sampling_params=sampling_params,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            token_ids_logprob=token_ids_logprob,
            rid=rid,
        )
        requests: list[Request] = []
        for call in calls:
            requests += self.samples(call.rid, call.ids, call.params, call.logprobs)
        many = not single or len(requests) > 1
        return _Job(requests, many, self.token_text(return_text_in_logprobs))

    def _answer(self, job: _Job, requests: Sequence[Request]) -> Any:
        responses = [self._response(request, job.token_text) for request in requests]
        return responses if job.many else responses[0]

    def _response(self, request: Request, token_text: TokenText) -> dict[str, Any]:
        if request.error is not None:
            raise request.error
        return build_response(request, self.text(request).text, token_text, self.clock())

    # -- streams -----------------------------------------------------------------------------------

    def _watch(
        self, job: _Job, send: Callable[[dict[str, Any]], object]
    ) -> Callable[[Request], None]:
        """What to do on the engine's thread when a streamed request changed."""
        index = {rid: i for i, rid in enumerate(job.rids)}
        texts = dict.fromkeys(job.rids, "")

        def update(request: Request) -> None:
            texts[request.rid] += self.text(request).take_new()
            now = self.clock()
            response = build_response(request, texts[request.rid], job.token_text, now)
            if job.many:
                response["index"] = index[request.rid]
            send(response)

        return update

    def _stream(self, job: _Job) -> Iterator[dict[str, Any]]:
        news: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        done = self.host.submit(job.requests, self._watch(job, news.put), lambda _: news.put(None))
        try:
            while (response := news.get()) is not None:
                yield response
            _raise_errors(done)
        finally:
            self.host.abort(job.rids)

    async def _async_stream(self, job: _Job) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def send(response: dict[str, Any] | None) -> None:
            self.host.tell(loop, lambda: news.put_nowait(response))

        done = self.host.submit(job.requests, self._watch(job, send), lambda _: send(None))
        try:
            while (response := await news.get()) is not None:
                yield response
            _raise_errors(done)
        finally:
            self.host.abort(job.rids)


def _import_assemble() -> Any:
    """`assemble` brings torch: not before there is a model to load. Torch makes so many objects that the
    collections in between, which find nothing, take a tenth of the import."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        from ramet.engine.assemble import assemble
    finally:
        if collecting:
            gc.enable()
    return assemble


def _all_params(given: Any) -> list[SamplingParams]:
    """The sampling parameters of a call, one or many; what is wrong with them is said elsewhere."""
    many = given if isinstance(given, (list, tuple)) else [given]
    return [SamplingParams.from_dict(one) for one in many if isinstance(one, Mapping)]


def _raise_errors(done: RequestsFuture) -> None:
    for request in done.result():
        if request.error is not None:
            raise request.error


def resolve_model(model_path: str) -> Path:
    """The folder of a checkpoint, or of the embedded model. Raises `CheckpointError`."""
    if model_path == "pocket":
        from ramet.pocket import model_path as pocket_path

        return pocket_path()
    path = Path(model_path).expanduser()
    if not path.is_dir():
        what = "is a file, not a checkpoint folder" if path.exists() else "does not exist"
        raise CheckpointError(
            f"model_path: {model_path!r} {what}; give a folder with config.json, tokenizer.json and "
            'safetensors, or "pocket" for the embedded model (nothing is downloaded)'
        )
    return path


_default_lock = threading.Lock()
_default: Engine | None = None


def default_engine() -> Engine:
    """The engine that programs run on when none is given: the embedded model, loaded on first use and
    kept for the life of the process."""
    global _default
    with _default_lock:
        if _default is None or _default.host.closed:
            _default = Engine("pocket")
            atexit.register(_default.shutdown)
        return _default
