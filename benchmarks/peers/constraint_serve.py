"""One engine for constraints as a process: JSON lines in, JSON lines out.

    python -m benchmarks.peers.constraint_serve NAME

runs in the environment that has the engine, with the repository on PYTHONPATH. Requests are objects with
"do", answered by one object each with "ok":

- load: tokens (a file of `constraint_vocabularies.save_tokens`), folder (of tokenizer.json)
  -> seconds, about
- case: kind, source, documents and wrong (lists of token ids), masks (a file to write, or null)
  -> compile (seconds), walks (one per document), accepted (numbers of wrong documents that are accepted);
  or error, where the engine refuses the constraint
- complete: prefixes (lists of token ids) -> texts: for each a text of the last case's language that
  begins with it, as the engine sees it; null where none was found
- accepts: texts (lists of token ids) -> accepted: for each whether the last case's language has it
- quit

Knows the protocol, the clock and how a text is walked; refuses to know what an engine is.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from benchmarks.peers.constraint_engines import ENGINES, Compiled, Engine, Tokens, Unsupported

__all__ = ["Session", "answer_lines", "main"]

_LONGEST = 300  # tokens of a completion
# What ends things comes first, then what goes on, then everything by length; spaces last.
_CLOSING = ('"', "}", "]", '"}', '"]', ",", ":", "e", "a", "0", "1", "-", "T", "Z", "@", ".", "\\")


class Session:
    """What the process remembers between requests."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens: Tokens | None = None
        self._engine: Engine | None = None
        self._compiled: Compiled | None = None
        self._rank: npt.NDArray[np.int64] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        values = {name: value for name, value in request.items() if name != "do"}
        does = {
            "load": self.load,
            "case": self.case,
            "complete": self.complete,
            "accepts": self.accepts,
        }
        return does[request["do"]](**values)

    def load(self, tokens: str, folder: str) -> dict[str, Any]:
        data = json.loads(Path(tokens).read_text())
        texts = [bytes.fromhex(text) for text in data["tokens"]]
        self._tokens = Tokens(texts, data["ends"], Path(folder))
        start = time.perf_counter()
        self._engine = ENGINES[self._name](self._tokens)
        return {"seconds": time.perf_counter() - start, "about": self._engine.about()}

    def case(
        self,
        kind: str,
        source: str,
        documents: list[list[int]],
        wrong: list[list[int]],
        masks: str | None,
    ) -> dict[str, Any]:
        if self._engine is None or self._tokens is None:
            raise RuntimeError("nothing is loaded")
        self._compiled = None
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            try:
                self._compiled = self._engine.compile(kind, source)
            except Unsupported as error:
                return {"error": str(error)[:500], "compile": time.perf_counter() - start}
            compile_ = time.perf_counter() - start
            kept: list[npt.NDArray[np.uint32]] = []
            walks = [self._walk(ids, kept) for ids in documents]
        finally:
            gc.enable()
        if masks is not None:
            np.save(masks, np.array(kept, np.uint32).reshape(len(kept), self._tokens.words))
        for walk, ids in zip(walks, documents):
            walk.update(self._forced(ids))
        accepted = [i for i, ids in enumerate(wrong) if self._accepts(ids)]
        return {"compile": compile_, "walks": walks, "accepted": accepted}

    def accepts(self, texts: list[list[int]]) -> dict[str, Any]:
        return {"accepted": [self._accepts(ids) for ids in texts]}

    def _walk(self, ids: list[int], kept: list[npt.NDArray[np.uint32]]) -> dict[str, Any]:
        """Every step of a text that is given. `mask` and `accept`: microseconds of each; `refused`: the
        step at which the text's own token may not come, or null; `ends`: the engine says that the text may
        end where it does."""
        assert self._compiled is not None
        place = self._compiled.start()
        mask_times, accept_times, clock = [], [], time.perf_counter_ns
        refused, error = None, None
        try:
            for step, token in enumerate(ids):
                start = clock()
                mask = place.mask()
                mask_times.append((clock() - start) / 1000)
                kept.append(mask.copy())
                allowed = bool(mask[token >> 5] >> np.uint32(token & 31) & 1)
                start = clock()
                accepted = place.accept(token) if allowed else False
                accept_times.append((clock() - start) / 1000)
                if not accepted:
                    refused = step
                    break
            ends = refused is None and place.may_end()
        except Unsupported as problem:
            refused, ends, error = len(mask_times), False, str(problem)[:300]
        return {
            "mask": mask_times,
            "accept": accept_times,
            "refused": refused,
            "ends": ends,
            "late": getattr(place, "late", 0),
            **({} if error is None else {"error": error}),
        }

    def _forced(self, ids: list[int]) -> dict[str, int]:
        """`forced`: tokens of the text that lie within what the engine forces at the places where it is
        asked, which are those behind the last forced text; `divided`: how often its tokens are others than
        the text's for the same bytes; `against`: how often it forces another text."""
        assert self._compiled is not None
        assert self._tokens is not None
        place, texts = self._compiled.start(), self._tokens.texts
        counts = {"forced": 0, "divided": 0, "against": 0}
        step = 0
        try:
            while step < len(ids):
                found = place.forced()
                data = (
                    found.encode() if isinstance(found, str) else b"".join(texts[i] for i in found)
                )
                rest = b"".join(texts[i] for i in ids[step : step + len(data) + 1])
                counts["against"] += not rest.startswith(data)
                covered, size = step, 0
                while covered < len(ids) and size + len(texts[ids[covered]]) <= len(data):
                    size += len(texts[ids[covered]])
                    covered += 1
                same = isinstance(found, str) or list(found[: covered - step]) == ids[step:covered]
                counts["divided"] += not same
                counts["forced"] += covered - step
                for token in ids[step : max(covered, step + 1)]:
                    if not place.accept(token):
                        return counts
                    step += 1
        except Unsupported:
            pass
        return counts

    def _accepts(self, ids: list[int]) -> bool:
        if self._compiled is None:
            raise RuntimeError("no case")
        place = self._compiled.start()
        try:
            for token in ids:
                mask = place.mask()
                if not mask[token >> 5] >> np.uint32(token & 31) & 1 or not place.accept(token):
                    return False
            return place.may_end()
        except Unsupported:
            return False

    def complete(self, prefixes: list[list[int]]) -> dict[str, Any]:
        return {"texts": [self._complete(ids) for ids in prefixes]}

    def _complete(self, ids: list[int]) -> str | None:
        if self._compiled is None or self._tokens is None:
            raise RuntimeError("no case")
        place, texts = self._compiled.start(), self._tokens.texts
        rank = self._rank = _ranks(texts) if self._rank is None else self._rank
        data = b"".join(texts[i] for i in ids)
        try:
            if not all(place.accept(token) for token in ids):
                return None
            for _ in range(_LONGEST):
                if place.may_end():
                    return data.decode("utf-8", "surrogateescape")
                bits = np.unpackbits(place.mask().view(np.uint8), bitorder="little")
                allowed = np.flatnonzero(bits[: len(texts)])
                if not len(allowed):
                    return None
                token = int(allowed[np.argmin(rank[allowed])])
                if not texts[token] or not place.accept(token):
                    return None
                data += texts[token]
        except Unsupported:
            pass
        return None


def _ranks(texts: list[bytes]) -> npt.NDArray[np.int64]:
    first = {text.encode(): i for i, text in enumerate(_CLOSING)}
    spaces = b" \t\r\n"
    keys = [
        (first.get(text, len(first)), not text, any(b in spaces for b in text), len(text), text)
        for text in texts
    ]
    rank = np.empty(len(texts), np.int64)
    rank[sorted(range(len(texts)), key=keys.__getitem__)] = np.arange(len(texts))
    return rank


def answer_lines(session: Session, lines: TextIO, reply: TextIO) -> None:
    """Serve requests until "quit" or the end of `lines`. An exception becomes an answer with ok=false."""
    for line in lines:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            answer = {"ok": True, **session.answer(request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        reply.write(json.dumps(answer) + "\n")
        reply.flush()


def main(name: str) -> None:
    # Libraries print what they like; the answers get a channel of their own.
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer_lines(Session(name), sys.stdin, reply)


if __name__ == "__main__":
    main(sys.argv[1])
