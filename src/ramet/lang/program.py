"""A program: a Python function whose first parameter is the state, and the ways to run it.

Knows signatures and arguments; `job` executes bodies, `batch` many of them. A program may be a function or
a method, its body `def` or `async def`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

from ramet.backend import Backend, RoleTemplate
from ramet.config import global_config
from ramet.errors import InvalidRequest, Unsupported
from ramet.lang.defaults import find_backend, resolve_backend
from ramet.lang.job import Job
from ramet.lang.options import RunOptions, run_signature, split_options
from ramet.lang.runtime import refuse_to_block
from ramet.lang.state import ProgramState

if TYPE_CHECKING:
    from ramet.lang.batch_stream import StreamedBatch

__all__ = ["Prepared", "SglFunction", "function"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Arguments that fit the program, and the options of the run."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    options: RunOptions


class SglFunction:
    """What `@function` makes of a Python function. `arg_names` are its parameters without the state,
    `arg_defaults` the default values of the last of them, `bind_arguments` the fixed ones."""

    def __init__(
        self,
        func: Callable[..., Any],
        num_api_spec_tokens: int | None = None,
        bind_arguments: Mapping[str, Any] | None = None,
        chat_template: str | RoleTemplate | None = None,
        *,
        owner: Any = None,
    ) -> None:
        if num_api_spec_tokens is not None and (
            isinstance(num_api_spec_tokens, bool)
            or not isinstance(num_api_spec_tokens, int)
            or num_api_spec_tokens < 1
        ):
            raise InvalidRequest(
                "num_api_spec_tokens", num_api_spec_tokens, "is not a number of tokens"
            )
        self.func = func
        self.num_api_spec_tokens = num_api_spec_tokens
        self.bind_arguments = dict(bind_arguments or {})
        self.chat_template = chat_template
        self.owner = owner
        parameters = list(inspect.signature(func).parameters.values())
        self._is_method = _is_method(func, parameters)
        rest = parameters[2 if self._is_method else 1 :]
        self._signature = inspect.Signature(rest)
        named = [p for p in rest if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.arg_names = [p.name for p in named]
        self.arg_defaults = [p.default for p in named if p.default is not p.empty]
        functools.update_wrapper(self, func)

    @property
    def is_async(self) -> bool:
        """Is the body an `async def`?"""
        return inspect.iscoroutinefunction(self.func)

    def __get__(self, instance: Any, owner: type | None = None) -> SglFunction:
        if instance is None or not self._is_method:
            return self
        return self._copy(owner=instance)

    def bind(self, **kwargs: Any) -> SglFunction:
        """A program with some arguments fixed. Values bound here win over those of a call."""
        for name in kwargs:
            if name not in self.arg_names:
                known = ", ".join(self.arg_names) or "none"
                raise InvalidRequest(
                    "bind", name, f"is not a parameter of {self._name}()", f"it has: {known}"
                )
        return self._copy(bind_arguments={**self.bind_arguments, **kwargs})

    def _copy(self, *, owner: Any = None, bind_arguments: Any = None) -> SglFunction:
        return SglFunction(
            self.func,
            self.num_api_spec_tokens,
            self.bind_arguments if bind_arguments is None else bind_arguments,
            self.chat_template,
            owner=self.owner if owner is None else owner,
        )

    # Running

    def __call__(self, *args: Any, **kwargs: Any) -> ProgramState:
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> ProgramState:
        """Run once and return the state when the body has returned; the model may still be working.

        `*args` and `**kwargs` go to the program, except these: sampling defaults for the `gen`s inside
        (`max_new_tokens=128, n=1, stop, stop_token_ids, stop_regex, temperature=1.0, top_p=1.0,
        top_k=-1, min_p=0.0, frequency_penalty=0.0, presence_penalty=0.0, repetition_penalty=1.0,
        ignore_eos=False, return_logprob, logprob_start_len, top_logprobs_num,
        return_text_in_logprobs`; a value given in a `gen` wins), and

        - `stream=True`: return at once; the body runs in the background, read with `text_iter`.
        - `backend`: where to run; the enclosing program's or the default one if None.
        - `use_thread=False`: finish each operation before the next one is appended.
        - `chat_template`: a template or the name of one, instead of the backend's.
        - `sampling_seed`: every generation's seed is derived from it and its place in the program.
        - `listener`: called with each `Event` of the run.

        An exception of the body is raised here (with `stream`: by readers of the state). An operation
        that fails is raised by whoever reads what it should have given, and by `sync()`.
        """
        prepared = self._prepare(args, kwargs)
        if prepared.options.stream:
            job = self._job(prepared, resolve_backend(prepared.options.backend))
            job.start()
            return job.result
        refuse_to_block(f"{self._name}.run()", f"write `await {self._name}.arun(...)`")
        job = self._job(prepared, resolve_backend(prepared.options.backend))
        try:
            value = job.call_on_body_loop() if job.is_async else job.call()
        except BaseException:
            job.aborted()
            raise
        job.done(value)
        _print_final(job.result)
        return job.result

    async def arun(self, *args: Any, **kwargs: Any) -> ProgramState:
        """`run` for coroutines; the state is complete when it is returned. An `async def` body runs on
        the caller's loop, a `def` body in a thread. Cancelling cancels the program's calls."""
        prepared = self._prepare(args, kwargs)
        job = self._job(prepared, await self._abackend(prepared.options))
        if prepared.options.stream:
            job.start_on_this_loop()
            return job.result
        try:
            value = await job.acall()
        except BaseException:
            job.aborted()
            raise
        job.done(value)
        try:
            await job.run.over.arrive()
        except asyncio.CancelledError:
            job.run.cancel()
            raise
        _print_final(job.result)
        return job.result

    run.__signature__ = run_signature()  # type: ignore[attr-defined]
    arun.__signature__ = run_signature()  # type: ignore[attr-defined]

    @overload
    def run_batch(
        self,
        batch: Iterable[Any],
        *,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        generator_style: Literal[False] = False,
        **options: Any,
    ) -> list[ProgramState]: ...
    @overload
    def run_batch(
        self,
        batch: Iterable[Any],
        *,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        generator_style: Literal[True],
        **options: Any,
    ) -> Iterator[ProgramState]: ...
    def run_batch(
        self,
        batch: Iterable[Any],
        *,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        **options: Any,
    ) -> Any:
        """Run once per item of `batch` (a dict of keyword arguments, or a tuple of positional ones) and
        return the states, complete, in the order of the batch.

        `num_threads` bounds the programs at a time ("auto": the larger of 96 and 16 per core; branches
        need no thread). `generator_style` gives an iterator that yields states in order while later ones
        run. The other options are those of `run`. A program that fails does not end the batch: its state
        has `error()`, and reading it raises. Arguments that do not fit raise before anything starts.
        """
        from ramet.lang.batch import run_batch

        refuse_to_block(f"{self._name}.run_batch()", f"write `await {self._name}.arun_batch(...)`")
        states = run_batch(self, self._prepare_batch(batch, options), num_threads, progress_bar)
        return states if generator_style else list(states)

    async def arun_batch(
        self,
        batch: Iterable[Any],
        *,
        max_concurrency: int | str = "auto",
        progress_bar: bool = False,
        **options: Any,
    ) -> list[ProgramState]:
        """`run_batch` for coroutines. Cancelling cancels all programs."""
        states = self.aiter_batch(
            batch, max_concurrency=max_concurrency, progress_bar=progress_bar, **options
        )
        return [state async for state in states]

    def aiter_batch(
        self,
        batch: Iterable[Any],
        *,
        max_concurrency: int | str = "auto",
        progress_bar: bool = False,
        **options: Any,
    ) -> AsyncIterator[ProgramState]:
        """`run_batch(generator_style=True)` for coroutines."""
        from ramet.lang.batch import arun_batch

        prepared = self._prepare_batch(batch, options)
        return arun_batch(self, prepared, max_concurrency, progress_bar)

    def stream_batch(
        self, batch: Iterable[Any], *, num_threads: int | str = "auto", **options: Any
    ) -> StreamedBatch:
        """`run_batch` that returns at once: a sequence of states whose `text_iter` and `text_async_iter`
        give the pieces of all programs as they come, each with its number in the batch."""
        from ramet.lang.batch import most_at_a_time
        from ramet.lang.batch_stream import stream_batch

        most = most_at_a_time("num_threads", num_threads)
        prepared = [
            replace(item, options=replace(item.options, stream=True))
            for item in self._prepare_batch(batch, options)
        ]
        asked = prepared[0].options.backend if prepared else options.get("backend")
        return stream_batch(self, prepared, resolve_backend(asked), most)

    # Preparing

    @property
    def _name(self) -> str:
        return getattr(self.func, "__name__", "program")

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prepared:
        options, rest = split_options(kwargs)
        for name in kwargs:
            if name not in rest and name in self.arg_names:
                raise InvalidRequest(
                    name,
                    kwargs[name],
                    f"is an option of run() and also a parameter of {self._name}()",
                    "pass it by position, with bind(), or rename the parameter",
                )
        return self._bound(args, rest, options)

    def _bound(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: RunOptions
    ) -> Prepared:
        if self._is_method and self.owner is None:
            raise TypeError(f"{self._name}() is a method: run it on an instance")
        merged = {**kwargs, **self.bind_arguments}
        try:
            arguments = self._signature.bind(*args, **merged).arguments
        except TypeError as error:
            raise TypeError(f"{self._name}(): {error}") from None
        return Prepared(args, merged, arguments, options)

    def _prepare_batch(self, batch: Iterable[Any], options: Mapping[str, Any]) -> list[Prepared]:
        if isinstance(batch, (str, bytes, Mapping)):
            raise InvalidRequest("batch", batch, "is not a list of arguments")
        shared, rest = split_options(options)
        if rest:
            name = next(iter(rest))
            raise InvalidRequest(
                name, rest[name], "is not an option of run_batch", "use bind() for shared arguments"
            )
        if shared.stream:
            raise InvalidRequest(
                "stream",
                True,
                "is not possible in run_batch",
                "use stream_batch(), or generator_style=True",
            )
        return [self._prepare_item(index, item, shared) for index, item in enumerate(batch)]

    def _prepare_item(self, index: int, item: Any, options: RunOptions) -> Prepared:
        field = f"batch[{index}]"
        if isinstance(item, Mapping):
            args, kwargs = (), dict(item)
        elif isinstance(item, (tuple, list)):
            args, kwargs = tuple(item), {}
        else:
            raise InvalidRequest(field, item, "is neither a dict nor a tuple of arguments")
        try:
            return self._bound(args, kwargs, options)
        except TypeError as error:
            raise InvalidRequest(field, item, f"does not fit: {error}") from None

    def _job(self, prepared: Prepared, backend: Backend) -> Job:
        body = functools.partial(self.func, self.owner) if self._is_method else self.func
        return Job(
            self._name,
            body,
            prepared.args,
            prepared.kwargs,
            prepared.arguments,
            prepared.options,
            backend,
            self.chat_template,
            self.num_api_spec_tokens,
        )

    async def _abackend(self, options: RunOptions) -> Backend:
        """Making the default backend may load a model: not on the caller's loop."""
        if find_backend(options.backend) is None:
            return await asyncio.to_thread(resolve_backend)
        return resolve_backend(options.backend)

    # Not yet

    def trace(self, **_options: Any) -> NoReturn:
        self._refuse("trace")

    def compile(self, **_options: Any) -> NoReturn:
        self._refuse("compile")

    def cache(self, _backend: Any = None) -> NoReturn:
        self._refuse("cache")

    def pin(self, _backend: Any = None) -> NoReturn:
        self._refuse("pin")

    def unpin(self, _backend: Any = None) -> NoReturn:
        self._refuse("unpin")

    def _refuse(self, what: str) -> NoReturn:
        raise Unsupported(
            f"{self._name}.{what}() is not supported by this version of Ramet; use run()"
        )

    def __repr__(self) -> str:
        return f"<program {self._name}({', '.join(self.arg_names)})>"


def _is_method(func: Callable[..., Any], parameters: list[inspect.Parameter]) -> bool:
    names = [parameter.name for parameter in parameters]
    if names[:1] == ["s"]:
        return False
    if len(names) > 1 and names[1] == "s":
        return True
    raise InvalidRequest(
        "function",
        f"{getattr(func, '__name__', func)}({', '.join(names)})",
        "does not take the state as its first parameter",
        "name it `s` (after `self` in a method)",
    )


def _print_final(state: ProgramState) -> None:
    if global_config.verbosity >= 2:
        print(state.text())


@overload
def function(func: Callable[..., Any]) -> SglFunction: ...
@overload
def function(
    func: None = None,
    num_api_spec_tokens: int | None = None,
    *,
    chat_template: str | RoleTemplate | None = None,
) -> Callable[[Callable[..., Any]], SglFunction]: ...
def function(
    func: Callable[..., Any] | None = None,
    num_api_spec_tokens: int | None = None,
    *,
    chat_template: str | RoleTemplate | None = None,
) -> SglFunction | Callable[[Callable[..., Any]], SglFunction]:
    """Make a program of a function whose first parameter is named `s`.

    With `num_api_spec_tokens` a call asks for that many tokens, so that one call may give several fields
    (`ramet.lang.speculation`); `get_meta_info(name)["speculation"]` tells of every field.
    """

    def decorate(body: Callable[..., Any]) -> SglFunction:
        return SglFunction(body, num_api_spec_tokens, None, chat_template)

    return decorate(func) if func is not None else decorate
