"""Every example runs on the embedded model and says something sensible."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import ramet
from ramet.backends.local import Engine
from ramet.pocket import model_path

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[Engine]:
    assert (model_path() / "model.safetensors").is_file(), "the embedded model is not there"
    with Engine("pocket", seed=0) as engine:
        before = ramet.global_config.default_backend
        ramet.set_default_backend(engine)
        yield engine
        ramet.set_default_backend(before)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in EXAMPLES if f'load("{name}")' not in source] == []


def test_demo(engine: Engine) -> None:
    engine.flush_cache()
    before = engine.stats
    module = load("demo")
    state = module.judge.run()
    assert len(state["judgement"]) == 3
    assert all(re.search(r"Score: [1-5]$", j.strip()) for j in state["judgement"])
    assert state["on_topic"] == "yes"
    assert state["summary"].strip().startswith("The essay is")
    assert state["grade"] in "ABCD"
    cached = engine.stats.num_cached_tokens - before.num_cached_tokens
    prompt = engine.stats.num_prompt_tokens - before.num_prompt_tokens
    assert cached > prompt / 2, "the branches share the essay"


def test_tip_suggestion() -> None:
    module = load("tip_suggestion")
    state = module.tip_suggestion.run(topic="studying for exams")
    assert len(set(state["tips"])) == 2
    assert all(len(p.split()) > 8 for p in state["paragraphs"])


def test_few_shot() -> None:
    module = load("few_shot")
    assert module.main() == ["positive", "negative", "positive", "positive", "negative"]


def test_multi_turn() -> None:
    answers = [answer for _, answer in load("multi_turn").main()]
    assert answers[-1].strip() == "green"


def test_react() -> None:
    assert dict(load("react").main()) == {
        "What was the job of Ada Quill?": "lawyer",
        "What is 23 + 45?": "68",
    }


def test_tree_of_thought() -> None:
    module = load("tree_of_thought")
    state = module.tree_of_thought.run(sampling_seed=1)
    assert "Answer: 85" in state["best"]


def test_streaming() -> None:
    pieces = load("streaming").main()
    assert len(pieces) > 5
    assert re.match(r"1\. .+\n2\. .+\n3\. .+", "".join(pieces))


def test_typed_results() -> None:
    module = load("typed_results")
    tin, songs = module.main()
    assert tin == (module.Book("The House of Tin", "Eva Hill", 1934), 1934, "positive")
    assert songs[0].author == "Tom Reed"
    assert songs[1] == songs[0].year == 1951


def test_tools() -> None:
    first, again, person = load("tools").main()
    assert (first.name, first.arguments["year"], first.value) == ("add_book", 1934, 1)
    assert (again.value, again.error.kind) == (None, "raised")
    assert "on the shelf already" in again.error.message
    assert person.value == "Tom Reed (51), baker in Oslo"


def test_async_calls() -> None:
    assert asyncio.run(load("async_calls").main()) == ["46", "83", "57"]


def test_serving() -> None:
    answer, over_http = load("serving").main()
    assert "Answer: 68" in answer
    assert over_http["choices"][0]["message"]["content"] == answer
    assert over_http["usage"]["prompt_tokens_details"]["cached_tokens"] > 10


@pytest.mark.parametrize("name", ["demo", "streaming"])
def test_an_example_runs_as_a_script(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3


def test_without_a_backend_the_embedded_model_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ramet.global_config, "default_backend", None)
    state = load("few_shot").classify.run(review="A great tent at a fair price.")
    assert state["label"] == " positive"
