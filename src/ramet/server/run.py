"""A server's life: the engine started, HTTP served, and all of it ended in order.

Knows uvicorn, signals and exit codes; refuses to know routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from ramet.backends.local import resolve_model
from ramet.engine.quoting import Quoting
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from ramet.server.app import METERED_PATHS, ServerApp
from ramet.server.connection import bounded_protocol
from ramet.server.engine_client import EngineClient, EngineFailed
from ramet.server.logs import Log
from ramet.server.metrics import Metrics
from ramet.server.options import ServeOptions
from ramet.server.public import PublicPrompts
from ramet.server.record import Watcher
from ramet.server.served import ServedModel

__all__ = ["serve"]

_KEEP_ALIVE_SECONDS = (
    120  # an idle connection costs little, and opening one costs a client a round trip
)
_BACKLOG = 4096  # connections that wait to be accepted


def serve(options: ServeOptions) -> int:
    """Serve until a signal comes. Returns the exit code: 0 after SIGTERM or SIGINT, 1 if the engine could
    not be started or the port is not free (what was wrong is on standard error)."""
    _raise_file_limit()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(options))
    except KeyboardInterrupt:
        return 0


def _loop_factory() -> type[asyncio.AbstractEventLoop]:
    if sys.platform == "win32":
        return asyncio.SelectorEventLoop
    import uvloop

    return uvloop.Loop


def _raise_file_limit() -> None:
    """A connection is a file; the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(options: ServeOptions) -> int:
    path = resolve_model(options.engine.model_path)
    tokenizer = Tokenizer.load(Path(options.engine.tokenizer_path or path))
    public = PublicPrompts(tokenizer, options.public_prompts)
    log = Log(options.log_level, options.log_format)
    metrics = Metrics(METERED_PATHS, {"model": options.served_model_name})
    metrics.also("log_lines_dropped", lambda: log.num_dropped)
    watchers: list[Watcher] = [log, metrics]
    engine = EngineClient(
        options.engine_options,
        stall_seconds=options.stall_timeout,
        public=public.length,
        on_event=functools.partial(_tell_all, watchers),
    )
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, hurry)
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(engine.start())
    quoting = Quoting(tokenizer)
    try:
        await asyncio.to_thread(quoting.prepare)  # while the engine loads its weights
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        starting.result()
        model = _served(options, tokenizer, quoting, engine)
        app = ServerApp(
            options, engine, model, watchers, metrics if options.enable_metrics else None
        )
        with log.adopted():
            return await _listen(app, stopping, hurry, log)
    except EngineFailed as error:
        print(f"ramet: the engine could not be started: {error}", file=sys.stderr)
        return 1
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await engine.close()


def _stop(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """A signal came; the second one says that what runs is not waited for."""
    (hurry if stop.is_set() else stop).set()


def _tell_all(watchers: Sequence[Watcher], event: str, facts: dict[str, Any]) -> None:
    for watcher in watchers:
        watcher.happened(event, facts)


def _served(
    options: ServeOptions, tokenizer: Tokenizer, quoting: Quoting, engine: EngineClient
) -> ServedModel:
    facts = engine.facts
    assert facts is not None  # it has started
    return ServedModel(
        name=options.served_model_name,
        model_path=str(options.engine.model_path),
        tokenizer=tokenizer,
        vocab_size=facts.vocab_size,
        max_context=min(facts.max_context, facts.num_slots),  # a request must fit alone
        created=int(time.time()),
        template_source=options.template_source,
        quoting=quoting,
    )


async def _listen(
    app: ServerApp, stopping: asyncio.Task[bool], hurry: asyncio.Event, log: Log
) -> int:
    options = app.options
    server = _Uvicorn(
        uvicorn.Config(
            app.asgi,
            host=options.host,
            port=options.port,
            http=bounded_protocol(options.max_connections),
            ws="none",
            lifespan="off",
            log_config=None,  # its loggers are the log's
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        )
    )
    if app.metrics is not None:
        app.metrics.also("connections", lambda: len(server.server_state.connections))
    serving = asyncio.create_task(server.serve())
    looking = asyncio.create_task(app.page.run()) if app.page is not None else None
    announcing = asyncio.create_task(_announce(server, options, log))
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    if looking is not None:
        looking.cancel()
    if not serving.done():
        hurrying = asyncio.create_task(hurry.wait())
        draining = asyncio.create_task(app.drain())
        await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        server.should_exit = True
        await asyncio.wait((serving, hurrying), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            return 0
    try:
        await serving
    except SystemExit as error:  # the port is taken: uvicorn has said so
        raise InvalidRequest(
            "port", options.port, f"of {options.host} cannot be listened on", "choose another"
        ) from error
    return 0


class _Uvicorn(uvicorn.Server):
    """Signals are heard in `_serve`, which knows the order of things."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _announce(server: uvicorn.Server, options: ServeOptions, log: Log) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    sockets = [s for listener in server.servers for s in listener.sockets]
    port = sockets[0].getsockname()[1] if sockets else options.port
    scheme = "https" if options.tls_cert else "http"
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"{scheme}://{host}:{port}"
    if options.log_format == "json":  # then every line is
        log.write("info", "listening", {"model": options.served_model_name, "url": url})
    else:
        print(f"ramet: {options.served_model_name} at {url}", file=sys.stderr, flush=True)
    if not options.is_loopback and not options.api_keys:
        message = "everybody who reaches this address may ask; --api-key asks them for a key"
        log.write("warning", "no keys", {"message": message})
