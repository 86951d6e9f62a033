"""Write the table of docs/backends.md from the backends' own capabilities.

    python docs/make_backends.py

A backend is made for each kind of model, with a key that is none: making one sends nothing. What stands
between the two markers of the page is replaced; a test compares them.
"""

from __future__ import annotations

import functools
from pathlib import Path

from ramet.backends.anthropic import Anthropic
from ramet.backends.api_backend import ApiBackend
from ramet.backends.gemini import Gemini
from ramet.backends.openai import OpenAI

PAGE = Path(__file__).parent / "backends.md"
BEGIN, END = "<!-- table: docs/make_backends.py -->\n", "<!-- end of the table -->\n"

NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}


def backends() -> dict[str, ApiBackend]:
    """One of each kind, by the heading of its column."""
    key = {"api_key": "none", "base_url": "http://127.0.0.1:1"}
    return {
        "OpenAI chat": OpenAI("gpt-4o-mini", **key),
        "OpenAI reasoning": OpenAI("o3-mini", **key),
        "OpenAI completion": OpenAI("gpt-3.5-turbo-instruct", **key),
        "chat server without `response_format`": OpenAI("any", structured=False, **key),
        "Anthropic to 4.5": Anthropic("claude-haiku-4-5", **key),
        "Anthropic 4.7 and later": Anthropic("claude-opus-5-5", **key),
        "Gemini, Vertex AI": Gemini("gemini-2.5-flash", **key),
    }


def column(backend: ApiBackend) -> dict[str, str]:
    """What one backend can do, by the names of the rows."""
    can = backend.capabilities
    structured = backend.structured_method

    def way(name: str, has: bool) -> str:
        if not has:
            return "no"
        return "ask again" if name in can.emulated else structured or "yes"

    refused = [_code(name) for name in can.refused if name not in common()]
    return {
        "sees": "messages" if can.chat_only else "the text",
        "streaming": _yes(can.streaming),
        "goes on in a begun assistant block": _yes(can.prefill) if can.chat_only else "yes",
        "images": _yes(can.images),
        "samples of one request (`n`)": str(can.max_n) if can.max_n > 1 else "1, so n requests",
        "stop strings that the API looks for": "any"
        if can.max_stops is None
        else str(can.max_stops),
        "`return_logprob`": _yes(can.logprobs),
        "`sampling_seed`": _yes(can.seed),
        "`json_schema`": way("json_schema", can.json_schema),
        "`dtype`, `regex` of words with bars": structured or "ask again",
        "other `regex`": way("regex", can.regex),
        "`ebnf`, `structural_tag`": _yes(can.ebnf or can.structural_tag),
        "`select`": {"enum": f"{structured} enum", "logit_bias": "logit bias"}.get(
            can.select, "ask again"
        ),
        "prompt cache": can.prompt_cache,
        "refused besides": ", ".join(refused) or "-",
    }


@functools.cache
def common() -> tuple[str, ...]:
    """The parameters that all of them refuse."""
    first, *others = (backend.capabilities.refused for backend in backends().values())
    return tuple(name for name in first if all(name in refused for refused in others))


def _code(name: str) -> str:
    return f"`{NAMES.get(name, name)}`"


def _yes(has: bool) -> str:
    return "yes" if has else "no"


def table() -> str:
    columns = {heading: column(backend) for heading, backend in backends().items()}
    rows = list(next(iter(columns.values())))
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += ["| " + " | ".join([row, *(c[row] for c in columns.values())]) + " |" for row in rows]
    refused = ", ".join(map(_code, common()))
    return (
        "\n".join(lines) + f"\n\nAll of them refuse {refused}, unless they have their defaults.\n"
    )


def with_table(page: str) -> str:
    """The page with what stands between its markers replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
