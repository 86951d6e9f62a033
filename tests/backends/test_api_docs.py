"""docs/backends.md says what is so: its table is the backends' own, and its examples run."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.backends.scripted_http import PROVIDERS, Answer, ScriptedHttp, Seen

from ramet.backends.api_client import Limits
from ramet.backends.api_limits import Backoff
from ramet.params import SamplingParams

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "backends.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedHttp]:
    """A server that is all three providers."""
    server = ScriptedHttp()
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", "key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    server.play(by=answer)
    yield server
    server.close()


def answer(seen: Seen) -> Answer:
    if "enum" in str(seen.body):
        return PROVIDERS["openai"].structured({"value": "no"})
    says = next(says for says in PROVIDERS.values() if says.path == seen.path)
    return says.answer("Hello.")


def test_the_table_is_the_capabilities() -> None:
    script = load(DOCS / "make_backends.py")
    assert script.with_table(PAGE) == PAGE, "run python docs/make_backends.py"
    rows = script.column(script.backends()["OpenAI completion"])
    assert rows["`json_schema`"] == rows["other `regex`"] == "ask again"


def test_every_refused_parameter_exists() -> None:
    script = load(DOCS / "make_backends.py")
    for backend in script.backends().values():
        assert set(backend.capabilities.refused) <= set(SamplingParams().to_dict())


def test_the_defaults_are_those_of_the_page() -> None:
    for field in Limits.__dataclass_fields__.values():
        [row] = re.findall(rf"^\| `{field.name}` \| (.*?) \|", PAGE, re.MULTILINE)
        value = getattr(Limits(), field.name)
        if isinstance(value, Backoff):
            assert row == "`Backoff(first=0.5, factor=2, longest=30, jitter=0.25)`"
            assert value == Backoff(first=0.5, factor=2, longest=30, jitter=0.25)
        else:
            assert row == ("none" if value is None else f"{value:g}")


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_examples_run(
    index: int, http: ScriptedHttp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"example{index}.py"
    path.write_text(EXAMPLES[index])
    module = load(path)
    said = capsys.readouterr().out
    assert "Hello" in said
    assert len(http.requests) == module.backend.token_usage.requests > 0
    module.backend.shutdown()


def test_there_are_examples_for_all_providers() -> None:
    text = "".join(EXAMPLES)
    assert all(name in text for name in ("ramet.OpenAI", "ramet.Anthropic", "ramet.Gemini"))
