"""One prepared run: a program's function, its arguments, its state, and the ways to execute the body.

Knows threads and tasks of bodies and what becomes of a body's exception: a call that returns the state
only later records it there, a call that is still on the stack raises it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from ramet.backend import Backend, RoleTemplate
from ramet.lang.chain import Chain
from ramet.lang.chat_template import get_chat_template, get_chat_template_by_model_path
from ramet.lang.options import RunOptions
from ramet.lang.record import current_listeners, enclose, listeners_now
from ramet.lang.run import Run, current_run
from ramet.lang.runtime import async_body, body_loop, start_body
from ramet.lang.state import ProgramState, Script

__all__ = ["Job"]

_tasks: set[asyncio.Task[None]] = set()  # streamed bodies: a loop keeps no task alive by itself


class Job:
    """`state` is what the body gets; `result` what the caller gets."""

    def __init__(
        self,
        name: str,
        body: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        arguments: Mapping[str, Any],
        options: RunOptions,
        backend: Backend,
        template: str | RoleTemplate | None,
        num_api_spec_tokens: int | None = None,
    ) -> None:
        self._body, self._args, self._kwargs = body, args, kwargs
        self.is_async = inspect.iscoroutinefunction(body)
        listeners = listeners_now()
        if options.listener is not None:
            listeners = (*listeners, options.listener)
        self.run = Run(
            program=name,
            backend=backend,
            template=find_template(options.chat_template or template, backend),
            defaults=options.sampling,
            seed=options.sampling_seed,
            stream=options.stream,
            eager=not options.use_thread,
            listeners=listeners,
            parent=current_run.get(),
            num_api_spec_tokens=num_api_spec_tokens,
        )
        self._script = Script(self.run, Chain(self.run), arguments=arguments)
        self.state = ProgramState(self._script)
        self.result = ProgramState(self._script, outside=True) if options.stream else self.state

    # The body's end

    def done(self, value: Any) -> None:
        for chain in list(self.run.record.chains.values()):
            chain.release()
        self._script.body.set(value)
        self.run.leave()

    def failed(self, error: BaseException) -> None:
        """The state will tell of the body's exception."""
        self.state.fail(error)
        self.done(None)

    def aborted(self) -> None:
        """Nobody will get the state: what is under way for it is of no use."""
        self.run.cancel()
        self.done(None)

    # The body, in this thread or task

    def call(self) -> Any:
        """Execute a `def` body here. Its exceptions pass."""
        with self._inside(False):
            return self._body(self.state, *self._args, **self._kwargs)

    async def acall(self) -> Any:
        """Execute an `async def` body here, or a `def` body in a thread. Its exceptions pass."""
        if not self.is_async:
            return await asyncio.wrap_future(start_body(self.call))
        with self._inside(True):
            return await self._body(self.state, *self._args, **self._kwargs)

    @contextlib.contextmanager
    def _inside(self, in_async: bool) -> Iterator[None]:
        """What runs that the body starts take from this one."""
        run, kind = current_run.set(self.run), async_body.set(in_async)
        listeners = current_listeners.set(self.run.listeners)
        try:
            with contextlib.ExitStack() as around:
                enclose(self.run.listeners, self.run.id, around.enter_context)
                yield
        except BaseException as error:
            self.run.note_failure("0", error)
            raise
        finally:
            current_run.reset(run)
            async_body.reset(kind)
            current_listeners.reset(listeners)

    def call_guarded(self) -> None:
        """As `call`, with the outcome in the state."""
        try:
            value = self.call()
        except BaseException as error:  # the thread has no one else to tell
            self.failed(error)
        else:
            self.done(value)

    async def acall_guarded(self) -> None:
        """As `acall`, with the outcome in the state. Cancelling it cancels the run."""
        try:
            value = await self.acall()
        except asyncio.CancelledError as error:
            self.run.cancel()
            self.failed(error)
            raise
        except BaseException as error:
            self.failed(error)
        else:
            self.done(value)

    async def acomplete(self) -> ProgramState:
        """The body and all that it started, with the outcome in the state."""
        await self.acall_guarded()
        try:
            await self.run.over.arrive()
        except asyncio.CancelledError:
            self.run.cancel()
            raise
        return self.result

    # The body, elsewhere

    def start(self) -> None:
        """Execute the body in the background."""
        if self.is_async:
            asyncio.run_coroutine_threadsafe(self.acall_guarded(), body_loop())
        else:
            start_body(self.call_guarded)

    def start_on_this_loop(self) -> None:
        if not self.is_async:
            self.start()
            return
        task = asyncio.get_running_loop().create_task(self.acall_guarded())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    def call_on_body_loop(self) -> Any:
        """Execute an `async def` body on the loop for bodies, waiting in this thread."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(self.acall(), body_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def find_template(template: str | RoleTemplate | None, backend: Backend) -> RoleTemplate:
    """The template asked for (of the run, or of the backend), the backend's own, or the one that its
    model's path suggests."""
    if isinstance(template, str):
        return get_chat_template(template)
    if template is not None:
        return template
    named = getattr(backend, "chat_template_name", None)
    if named is not None:
        return get_chat_template(named)
    own = getattr(backend, "chat_template", None)
    if own is not None:
        found: RoleTemplate = own
        return found
    return get_chat_template_by_model_path(str(backend.model_path))
