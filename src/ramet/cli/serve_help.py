"""`ramet serve --help` on one screen: the options that most servers need, in groups.

Knows which options are shown, and where; what they say is their own. The others are in docs/serving.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

__all__ = ["SHOWN", "ServeCommand"]

SHOWN: Mapping[str, tuple[str, ...]] = {
    "Model": (
        "model",
        "served_model_name",
        "chat_template",
        "context_length",
        "max_cache_tokens",
        "quantization",
        "kv_cache_dtype",
        "dtype",
        "device",
    ),
    "Who may ask": (
        "host",
        "port",
        "api_key",
        "api_keys_file",
        "admin_key",
        "tls_cert",
        "tls_key",
        "allow_origin",
    ),
    "How much at a time": (
        "max_running",
        "max_queued",
        "max_wait",
        "request_timeout",
        "shutdown_timeout",
    ),
    "What it tells": ("log_level", "log_format", "help"),
}
_COLUMN = 30  # characters of names


class ServeCommand(TyperCommand):
    """Shows each option by its own name; names that other servers have for it work as well."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        by_name = {parameter.name: parameter for parameter in self.get_params(ctx)}
        for title, names in SHOWN.items():
            with formatter.section(title):
                formatter.write_dl(
                    [_row(by_name[name], ctx) for name in names], col_max=_COLUMN, col_spacing=1
                )


def _row(parameter: Any, ctx: Any) -> tuple[str, str]:
    record = parameter.get_help_record(ctx) or ("", "")
    short = [name for name in parameter.opts if not name.startswith("--")][:1]
    long = [name for name in parameter.opts if name.startswith("--")][:1]
    names = ", ".join([*short, *long]) + (f" {parameter.metavar}" if parameter.metavar else "")
    return names.ljust(_COLUMN), record[1]
