"""`ramet chat`: a conversation, one program run per answer.

Knows the conversation so far and who is to be shown what. Each answer is a run of the program `reply`, so
an answer that is stopped takes nothing with it; what the turns have in common is in the engine's cache.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TextIO

from ramet.cli.failure import describe_failure
from ramet.errors import RametError
from ramet.lang.api import assistant, gen, system, user
from ramet.lang.program import function

__all__ = ["Chat", "chat_loop"]

HELP = "/clear forgets the conversation, /exit (or end of input) leaves, Ctrl-C stops an answer."

Turn = tuple[str, str]


@function
def reply(s: Any, instructions: str | None, turns: list[Turn], question: str) -> None:
    if instructions:
        s += system(instructions)
    for asked, answered in turns:
        s += user(asked)
        s += assistant(answered)
    s += user(question)
    s += assistant(gen("answer"))


@dataclass(slots=True)
class Chat:
    """A conversation on `backend`. `sampling` are keyword arguments of `run`."""

    backend: Any
    instructions: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    last_meta_info: dict[str, Any] = field(default_factory=dict)

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer in pieces. Whatever ends the iteration early cancels the run; what was said until
        then stays in the conversation."""
        state = reply.run(
            self.instructions,
            list(self.turns),
            question,
            **self.sampling,
            backend=self.backend,
            stream=True,
        )
        said = ""
        try:
            for piece in state.text_iter("answer"):
                said += piece
                yield piece
            self.last_meta_info = state.get_meta_info("answer")
        finally:
            state.cancel()  # nothing is left to cancel after a whole answer
            if said:
                self.turns.append((question, said))

    def clear(self) -> None:
        self.turns.clear()


def chat_loop(chat: Chat, questions: TextIO, out: TextIO, *, interactive: bool) -> None:
    """Read questions line by line until the end of input or /exit. `interactive`: a person types, so
    there is a prompt, and a line about each answer."""
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  input() then edits lines and remembers them
        out.write(HELP + "\n")
    while (line := _next_line(questions, out, interactive)) is not None:
        question = line.strip()
        if question == "/exit":
            return
        if question == "/clear":
            chat.clear()
        elif question in ("/help", "/?"):
            out.write(HELP + "\n")
        elif question.startswith("/") and " " not in question:
            out.write(f"{question} is no command. {HELP}\n")
        elif question:
            _answer(chat, question, out, interactive)


def _next_line(questions: TextIO, out: TextIO, interactive: bool) -> str | None:
    """The next line, or None at the end. Ctrl-C at an empty prompt leaves, too."""
    if not interactive:
        return questions.readline() or None
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        out.write("\n")
        return None


def _answer(chat: Chat, question: str, out: TextIO, interactive: bool) -> None:
    pieces = chat.ask(question)
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
    except KeyboardInterrupt:
        if not interactive:
            raise
        out.write(" [stopped]\n")
        return
    except RametError as error:
        out.write("\n")
        if not interactive:
            raise _cause(error) from error
        sys.stderr.write(describe_failure(_cause(error), None) + "\n")
        return
    finally:
        pieces.close()
    out.write("\n")
    if interactive:
        out.write(_footnote(chat.last_meta_info))
    out.flush()


def _cause(error: RametError) -> RametError:
    """What went wrong in the model; that `reply` asked for it is of no interest here."""
    return error.__cause__ if isinstance(error.__cause__, RametError) else error


def _footnote(meta_info: dict[str, Any]) -> str:
    """Tokens, cached share and time of an answer, as far as the backend tells."""
    parts = []
    if (generated := meta_info.get("completion_tokens")) is not None:
        parts.append(f"{generated} tokens")
    prompt, cached = meta_info.get("prompt_tokens"), meta_info.get("cached_tokens")
    if prompt and cached is not None:
        parts.append(f"{cached} of {prompt} prompt tokens cached")
    if (seconds := meta_info.get("e2e_latency")) is not None:
        parts.append(f"{seconds:.2f} s")
    return f"\x1b[2m{' · '.join(parts)}\x1b[0m\n" if parts else ""
