"""The command `ramet`.

Knows the commands and their options, and turns what goes wrong into a line and an exit code: 0 fine,
1 the program failed, 2 the command line is wrong, 130 stopped by Ctrl-C. Nothing heavy is imported
before a command needs it.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ramet.cli.failure import CANCELLED, FAILED, USAGE, UsageError
from ramet.cli.serve_help import ServeCommand
from ramet.errors import RametError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ramet",
    help="Runs LLM programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help='A checkpoint folder, or "pocket", the embedded model.'),
]
Device = Annotated[str | None, typer.Option(help='"cpu" or "cuda".')]
Dtype = Annotated[str | None, typer.Option(help='Of the weights, for example "float32".')]
Quantization = Annotated[str | None, typer.Option(help='"int8": weights in 8 bits (CPU).')]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")]
Seed = Annotated[int | None, typer.Option(help="Makes a run that samples repeatable.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]


def _version(wanted: bool) -> None:
    if wanted:
        from ramet import __version__

        typer.echo(f"ramet {__version__}")
        raise typer.Exit


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Ramet's own errors are a line and a code, not a traceback."""
    try:
        yield
    except RametError as error:
        typer.echo(f"ramet: {error}", err=True)
        raise typer.Exit(USAGE if isinstance(error, UsageError) else FAILED) from error
    except KeyboardInterrupt as stop:
        typer.echo("cancelled", err=True)
        raise typer.Exit(CANCELLED) from stop


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Runs LLM programs."""


@app.command()
def run(
    target: Annotated[
        str, typer.Argument(metavar="FILE[:PROGRAM]", help="The file, and which program in it.")
    ],
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", metavar="NAME=VALUE", help="An argument: JSON, or text."),
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON record.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, as in a pipe.")] = False,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What happened: .html is a page, .json for Perfetto. May be repeated.",
        ),
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Prompts and answers, too, in the traces.")
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Run a program and watch it.

    FILE is a Python file with programs (functions decorated with @ramet.function). With several, name
    one, or call one of them "main" or like the file. Sampling options hold for each call that sets none itself.
    """
    from ramet.cli.run import RunOptions, run_command

    options = RunOptions(
        target=target,
        arguments=tuple(arg or ()),
        model=model,
        device=device,
        dtype=dtype,
        quantization=quantization,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        as_json=as_json,
        plain=plain,
        traceback=traceback,
        traces=tuple(trace or ()),
        texts=texts,
    )
    with _exit_codes():
        raise typer.Exit(run_command(options))


@app.command()
def chat(
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="Instructions before the first turn.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = None,
) -> None:
    """Talk to a model. /clear forgets the conversation, /exit leaves, Ctrl-C stops an answer."""
    from ramet.cli.chat import Chat, chat_loop
    from ramet.cli.model import open_engine

    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "sampling_seed": seed}
    given = {name: value for name, value in sampling.items() if value is not None}
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    options = {"device": device, "dtype": dtype, "quantization": quantization}
    with _exit_codes(), open_engine(model or "pocket", **options) as engine:
        chat_loop(Chat(engine, system, given), sys.stdin, sys.stdout, interactive=interactive)


@app.command(cls=ServeCommand)
def serve(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", "--model-path", metavar="FOLDER", help='A checkpoint, or "pocket".'
        ),
    ] = "pocket",
    served_model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What clients call it.")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(metavar="FILE", help="Instead of the model's own.")
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Most that a request may have.")
    ] = None,
    max_cache_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-cache-tokens", "--max-total-tokens", metavar="TOKENS", help="KV slots."
        ),
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(metavar="int8", help="Weights in 8 bits (CPU).")
    ] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="float16: half the memory per slot.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Of the weights: float32, ...")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu or cuda.")] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="NUMBER", help="0 takes a free one.")] = 30000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(metavar="[TENANT=]KEY", help="Repeatable; or $RAMET_API_KEY."),
    ] = None,
    api_keys_file: Annotated[
        str | None, typer.Option(metavar="FILE", help='{"TENANT": "KEY", ...}')
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="For /metrics, /flush_cache; $RAMET_ADMIN_KEY."),
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="PEM.")] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Whose pages may ask from a browser."),
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option(
            "--max-running", "--max-running-requests", metavar="N", help="Samples in a batch. [256]"
        ),
    ] = None,
    max_queued: Annotated[
        int | None,
        typer.Option(
            "--max-queued", "--max-queued-requests", metavar="N", help="More get 429. [1024]"
        ),
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="More before a first token: 429. [off]")
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For a whole answer. [600]")
    ] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For what runs at SIGTERM. [30]")
    ] = None,
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="debug, info, warning, error.")
    ] = "info",
    log_format: Annotated[str, typer.Option(metavar="FORM", help="text or json.")] = "text",
    public_prompt: Annotated[list[str] | None, typer.Option(metavar="FILE")] = None,
    tokenizer_path: Annotated[str | None, typer.Option()] = None,
    schedule_policy: Annotated[str | None, typer.Option()] = None,
    max_step_tokens: Annotated[
        int | None, typer.Option("--max-step-tokens", "--chunked-prefill-size")
    ] = None,
    mem_fraction_static: Annotated[float | None, typer.Option()] = None,
    disable_radix_cache: Annotated[bool | None, typer.Option("--disable-radix-cache")] = None,
    random_seed: Annotated[int | None, typer.Option("--seed", "--random-seed")] = None,
    tp_size: Annotated[  # noqa: ARG001 - other numbers are refused
        int, typer.Option("--tp-size", "--tp", min=1, max=1)
    ] = 1,
    num_threads: Annotated[int | None, typer.Option()] = None,
    drafts: Annotated[bool | None, typer.Option("--drafts/--no-drafts")] = None,
    stall_timeout: Annotated[float | None, typer.Option()] = None,
    write_timeout: Annotated[float | None, typer.Option()] = None,
    max_connections: Annotated[int | None, typer.Option()] = None,
    max_queued_tokens: Annotated[int | None, typer.Option()] = None,
    max_body_bytes: Annotated[int | None, typer.Option()] = None,
    enable_cache_report: Annotated[  # noqa: ARG001 - cached tokens are always reported
        bool, typer.Option("--enable-cache-report")
    ] = False,
    enable_metrics: Annotated[bool, typer.Option("--metrics/--no-metrics")] = True,
    enable_page: Annotated[bool, typer.Option("--page/--no-page")] = True,
) -> None:
    """Serve a model over HTTP, in the protocols of OpenAI, Anthropic and SGLang, with a page that shows
    what goes on. The rest of the options: docs/serving.md.
    """
    from ramet.cli.serve import ServeLine, run_server

    engine = {
        "model_path": model,
        "tokenizer_path": tokenizer_path,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype,
        "context_length": context_length,
        "max_cache_tokens": max_cache_tokens,
        "max_running": max_running,
        "max_step_tokens": max_step_tokens,
        "schedule_policy": schedule_policy,
        "mem_fraction_static": mem_fraction_static,
        "disable_radix_cache": disable_radix_cache,
        "served_model_name": served_model_name,
        "seed": random_seed,
        "num_threads": num_threads,
        "drafts": drafts,
    }
    server = {
        "host": host,
        "port": port,
        "admin_key": admin_key,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "allowed_origins": tuple(allow_origin or ()),
        "max_queued": max_queued,
        "max_queued_tokens": max_queued_tokens,
        "max_wait": max_wait,
        "max_body_bytes": max_body_bytes,
        "max_connections": max_connections,
        "request_timeout": request_timeout,
        "shutdown_timeout": shutdown_timeout,
        "stall_timeout": stall_timeout,
        "write_timeout": write_timeout,
        "log_level": log_level,
        "log_format": log_format,
        "enable_metrics": enable_metrics,
        "enable_page": enable_page,
    }
    line = ServeLine(
        engine=engine,
        server=server,
        api_keys=api_key or (),
        api_keys_file=api_keys_file,
        public_prompts=public_prompt or (),
        chat_template=chat_template,
    )
    with _exit_codes():
        raise typer.Exit(run_server(line))


@app.command()
def build(
    level: Annotated[
        str | None,
        typer.Option(help="avx512, avx2 or portable; without it the best that this machine runs."),
    ] = None,
) -> None:
    """Compile the native CPU kernels now instead of on first use."""
    from ramet.cli.prepare import build_kernels

    with _exit_codes():
        build_kernels(level)


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help='A checkpoint folder, or "pocket".')],
    target: Annotated[str, typer.Argument(help="The new folder.")],
) -> None:
    """Write a checkpoint with its linear layers in 8 bits: half the size, faster to load and to run."""
    from ramet.cli.prepare import quantize_checkpoint

    with _exit_codes():
        quantize_checkpoint(model, target)


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(help='A checkpoint folder, or "pocket", the embedded model.')
    ] = "pocket",
    requests: Annotated[int, typer.Option(help="Requests at once.")] = 64,
    shared: Annotated[int, typer.Option(help="Prompt tokens that all of them share.")] = 512,
    own: Annotated[int, typer.Option(help="Prompt tokens of each.")] = 64,
    out: Annotated[int, typer.Option(help="New tokens of each.")] = 16,
    rounds: Annotated[int, typer.Option(help="Figures are medians of so many.")] = 3,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the figures there, too.")
    ] = None,
    workloads: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help='The paper\'s workloads instead: "all", or names with commas between (in a checkout).',
        ),
    ] = None,
) -> None:
    """Measure a model: requests that share a prefix (cold, then cached), requests that share nothing,
    and one stream."""
    from ramet.cli.bench import BenchOptions, run_workloads
    from ramet.cli.bench import bench as run_bench
    from ramet.cli.model import open_engine

    engine_options = {"device": device, "dtype": dtype, "quantization": quantization}
    with _exit_codes():
        if workloads is not None:
            raise typer.Exit(run_workloads(workloads, model, engine_options, json_file))
        options = BenchOptions(requests=requests, shared=shared, own=own, out=out, rounds=rounds)
        with open_engine(model, **engine_options) as engine:
            run_bench(engine, options, json_file)


@app.command()
def trace(
    fsm: Annotated[
        str, typer.Option("--fsm", metavar="REGEX", help="The automaton of a regular expression.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="A picture (.svg), .dot or .txt."),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Show the tokens of text that is forced.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Whose tokenizer divides it: a checkpoint folder.")
    ] = "pocket",
) -> None:
    """Look inside: the automaton that a regular expression becomes, before and after text that leaves no
    choice is made one edge."""
    from rich.console import Console

    from ramet.cli.fsm import show_fsm

    with _exit_codes():
        show_fsm(fsm, output, Console(highlight=False), tokens=tokens, model=model)


def main() -> None:
    """The entry point."""
    # The interpreter's last collection looks at every object that torch made, 0.3 s to free nothing that
    # the end of the process does not free: what is there by then is exempt.
    atexit.register(gc.freeze)
    app()
