"""Masks of several engines over the same documents and vocabulary, in turn, and what they cost.

Every engine is a process of its own (`peers.constraint_serve`), stopped while it is not asked. For each
constraint the engines come one after the other, every other time in the opposite order. What is not
installed, or takes longer than the limit, has a line that says so. Knows the order of things; who is right
where masks differ is `constraint_judge`'s business.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import constraint_judge, constraint_vocabularies
from benchmarks.constraint_cases import Case
from benchmarks.peers import process
from benchmarks.peers.models import home

__all__ = ["ENGINES", "Vocabulary", "measure"]

ENGINES = ("ramet", "llguidance", "xgrammar", "outlines-core")
_ENVIRONMENT = "vllm"  # its packages bring all of the other engines
_MODULES = {"ramet": "ramet", "llguidance": "llguidance"}  # those that this environment may have
_LOAD_SECONDS = 120.0


class Vocabulary:
    """One of `constraint_vocabularies`: its tokens as bytes, and how it divides texts."""

    def __init__(self, name: str, place: Path) -> None:
        """`place`: a folder for a file that the engines read."""
        from ramet.engine.constraining import vocabulary_of
        from ramet.engine.tokenizer import Tokenizer

        self.name, self.folder = name, constraint_vocabularies.folder(name)
        tokenizer = Tokenizer.load(self.folder)
        self.size = tokenizer.vocab_size
        self.texts = [bytes(text) for text in vocabulary_of(tokenizer, self.size).tokens]
        self.encode = tokenizer.encode_continuation
        self.file = place / f"{name}.json"
        ends = sorted(tokenizer.eos_token_ids)
        constraint_vocabularies.save_tokens(self.texts, ends, self.file)


class _Running:
    """Engines that were started for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, limit: float) -> None:
        self._vocabulary, self._limit = vocabulary, limit
        self._processes: dict[str, process.Process] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def start(self, engine: str) -> bool:
        """False, with the reason in `about`, if it cannot be."""
        try:
            running = process.Process(
                command(engine), process.environment("ramet", 1), home() / "logs" / f"{engine}.log"
            )
        except process.NotInstalled as error:
            self.about[engine] = {"missing": str(error)}
            return False
        self._processes[engine] = running
        request = {"tokens": str(self._vocabulary.file), "folder": str(self._vocabulary.folder)}
        try:
            loaded = running.ask({"do": "load", **request}, _LOAD_SECONDS)
        except process.Failed as error:
            self.end(engine)
            self.about[engine] = {"missing": f"failed to start: {error}"}
            return False
        self.about.setdefault(engine, loaded)
        return True

    def ask(self, engine: str, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer; {"error": ...} after a failure, {"missing": ...} where there is no such engine."""
        known_missing = "missing" in self.about.get(engine, {})
        if engine not in self._processes and (known_missing or not self.start(engine)):
            return {"missing": self.about[engine]["missing"]}
        try:
            return self._processes[engine].ask(request, self._limit)
        except process.Failed as error:
            self.end(engine)  # what it was doing would go on
            return {"error": str(error).splitlines()[0], "failed": True}

    def complete(self, engine: str, prefixes: list[list[int]]) -> list[str | None]:
        """None where the engine finds no end of the text, or fails."""
        answer = self.ask(engine, {"do": "complete", "prefixes": prefixes})
        texts: list[str | None] = answer.get("texts", [None] * len(prefixes))
        return texts

    def accepts(self, engine: str, texts: list[str]) -> list[bool]:
        """A failed engine loses nothing here: its failure is counted elsewhere."""
        ids = [self._vocabulary.encode(text) for text in texts]
        answer = self.ask(engine, {"do": "accepts", "texts": ids})
        accepted: list[bool] = answer.get("accepted", [True] * len(texts))
        return accepted

    def end(self, engine: str) -> None:
        self._processes.pop(engine).close(0)

    def close(self) -> None:
        while self._processes:
            self.end(next(iter(self._processes)))


def command(engine: str) -> list[str]:
    """How an engine is started: in this environment if it is there, else in that of the peers. Raises
    `NotInstalled`."""
    python = sys.executable
    module = _MODULES.get(engine)
    if module is None or find_spec(module) is None:
        found = home() / _ENVIRONMENT / "bin" / "python"
        if not found.exists():
            script = f"benchmarks/peers/install/{_ENVIRONMENT}.sh"
            raise process.NotInstalled(f"not installed: {script} makes the environment")
        python = str(found)
    return [python, "-m", "benchmarks.peers.constraint_serve", engine]


@contextmanager
def _engines(vocabulary: Vocabulary, limit: float) -> Iterator[_Running]:
    running = _Running(vocabulary, limit)
    try:
        yield running
    finally:
        running.close()


def measure(
    vocabulary: Vocabulary,
    cases: Sequence[Case],
    engines: Sequence[str],
    *,
    limit: float,
    judged: int,
) -> Iterator[dict[str, Any]]:
    """First what is known of the engines ({"about": ...}), then one row per constraint: "results" by engine,
    "disputes". `limit`: seconds for one constraint in one engine. `judged`: tokens of each kind of dispute
    that are looked into; 0 compares no masks."""
    with tempfile.TemporaryDirectory() as folder, _engines(vocabulary, limit) as running:
        present = [engine for engine in engines if running.start(engine)]
        yield {"vocabulary": vocabulary.name, "about": running.about}
        outside = constraint_judge.spaces_outside(vocabulary.texts) if judged else None
        for number, case in enumerate(cases):
            documents = [vocabulary.encode(text) for text in case.documents]
            turns = present[:: 1 if number % 2 == 0 else -1]
            results = _results(
                vocabulary, case, documents, running, turns, folder if judged else None
            )
            row = {
                "vocabulary": vocabulary.name,
                "case": case.name,
                "kind": case.kind,
                "tokens": [len(ids) for ids in documents],
                "results": {engine: results[engine] for engine in present},
            }
            if outside is not None:
                masks = _masks(folder, results)
                row["disputes"] = constraint_judge.disputes(
                    case, documents, vocabulary.texts, outside, masks, judged, running
                )
            yield row


def _results(
    vocabulary: Vocabulary,
    case: Case,
    documents: list[list[int]],
    running: _Running,
    turns: Sequence[str],
    folder: str | None,
) -> dict[str, Any]:
    """Each engine's answer, in turn; its masks are left in `folder`."""
    request = {
        "do": "case",
        "kind": case.kind,
        "source": case.source,
        "documents": documents,
        "wrong": [vocabulary.encode(text) for text in case.wrong],
    }
    return {
        engine: running.ask(
            engine, {**request, "masks": folder and os.path.join(folder, f"{engine}.npy")}
        )
        for engine in turns
    }


def _masks(folder: str, results: dict[str, Any]) -> dict[str, list[Any]]:
    """By engine and document: uint32 [steps, words]."""
    found: dict[str, list[Any]] = {}
    for engine, result in results.items():
        if "walks" not in result:
            continue
        every = np.load(os.path.join(folder, f"{engine}.npy"))
        steps = np.cumsum([len(walk["accept"]) for walk in result["walks"]])
        found[engine] = np.split(every, steps[:-1])
    return found
