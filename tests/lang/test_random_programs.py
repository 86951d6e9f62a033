"""Random programs against an interpreter that is too simple to be wrong: it does one thing after the other.

Whatever the order in which answers arrive, and however a program is run, texts, variables and messages of
all its branches must be those of the simple one.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import ramet as sgl
from ramet.backends.scripted import Scripted
from ramet.lang.group import ProgramStateGroup

NAMES = st.sampled_from("abcd")
CHOICES = ("yes", "no", "may be")


def ops(depth: int) -> st.SearchStrategy[list[tuple]]:
    """Lists of operations: tuples whose first item is the kind."""
    flat = [
        st.tuples(st.just("text"), st.sampled_from(["", "x", "hello ", "é\n"])),
        st.tuples(st.just("gen"), st.none() | NAMES, st.integers(1, 3)),
        st.tuples(st.just("select"), NAMES),
        st.tuples(st.just("set"), NAMES, st.integers()),
        st.tuples(st.just("read"), NAMES),
    ]
    if depth == 0:
        return st.lists(st.one_of(flat), max_size=4)
    deep = [
        st.tuples(st.just("scope"), NAMES, ops(depth - 1)),
        st.tuples(
            st.just("role"), st.sampled_from(["system", "user", "assistant"]), ops(depth - 1)
        ),
        st.tuples(
            st.just("fork"),
            st.lists(ops(depth - 1), min_size=1, max_size=3),
            st.sampled_from([None, "gather_variable", "concate_and_append"]),
        ),
    ]
    return st.lists(st.one_of(flat + deep), max_size=6)


def answer(prompt: str) -> str:
    return f"<{zlib.crc32(prompt.encode()):x}>"


def score(prompt: str, choice: str) -> float:
    return -(zlib.crc32((prompt + choice).encode()) % 997) / 100


@dataclass
class Oracle:
    """The meaning of programs, slowly."""

    text: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    role: str | None = None
    scopes: tuple[str, ...] = ()
    log: list[Any] = field(default_factory=list)

    def run(self, program: list[tuple]) -> None:
        for kind, *rest in program:
            getattr(self, kind)(*rest)

    def gen(self, name: str | None, n: int) -> None:
        value = answer(self.text)
        if name is not None:
            self.variables[name] = value if n == 1 else [value] * n
        self.text += value

    def select(self, name: str) -> None:
        best = max(CHOICES, key=lambda choice: score(self.text, choice))
        self.variables[name] = best
        self.text += best

    def set(self, name: str, value: int) -> None:
        self.variables[name] = value

    def read(self, name: str) -> None:
        self.log.append(self.variables.get(name) if name not in self.scopes else None)

    def append(self, text: str) -> None:
        self.text += text

    def scope(self, name: str, program: list[tuple]) -> None:
        if name in self.scopes:
            return
        start, outer = len(self.text), self.scopes
        self.scopes = (*outer, name)
        self.variables[name] = scoped = object()
        self.run(program)
        self.scopes = outer
        if self.variables[name] is scoped:
            self.variables[name] = self.text[start:]

    def role_block(self, role: str, program: list[tuple]) -> None:
        if self.role is not None:
            return
        self.text += role.upper() + ":"
        start, self.role = len(self.text), role
        self.run(program)
        self.role = None
        self.messages.append({"role": role, "content": self.text[start:].lstrip()})
        self.text += "\n"

    def fork(self, programs: list[list[tuple]], mode: str | None) -> None:
        start = len(self.text)
        branches = []
        for program in programs:
            branch = Oracle(
                self.text,
                dict(self.variables),
                list(self.messages),
                self.role,
                self.scopes,
                self.log,
            )
            branch.run(program)
            branches.append(branch)
        if mode == "concate_and_append":
            self.text += "".join(branch.text[start:] for branch in branches)
        elif mode == "gather_variable":
            known = set(self.variables)
            for branch in branches:
                for name, value in branch.variables.items():
                    if name not in known:
                        self.variables.setdefault(name, []).append(value)
        self.log.append([(b.text, b.messages) for b in branches])


class Driver:
    """The same operations, said to a real state."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def run(self, s, program, role=None, scopes=()) -> None:
        for kind, *rest in program:
            if kind == "text":
                s += rest[0]
            elif kind == "gen":
                s += sgl.gen(rest[0], n=rest[1])
            elif kind == "select":
                s += sgl.select(rest[0], CHOICES)
            elif kind == "set":
                s[rest[0]] = rest[1]
            elif kind == "read":
                known = rest[0] in s and rest[0] not in scopes
                self.log.append((lambda s=s, n=rest[0]: s[n])() if known else None)
            elif kind == "scope" and rest[0] not in scopes:
                with s.var_scope(rest[0]):
                    self.run(s, rest[1], role, (*scopes, rest[0]))
            elif kind == "role" and role is None:
                with getattr(s, rest[0])():
                    self.run(s, rest[1], rest[0], scopes)
            elif kind == "fork":
                self.fork(s, rest[0], rest[1], role, scopes)

    def fork(self, s, programs, mode, role, scopes) -> None:
        forks = s.fork(len(programs))
        for branch, program in zip(forks, programs):
            self.run(branch, program, role, scopes)
        if mode is not None:
            forks.join(mode)
        self.log.append(forks)


def seen(log: list[Any]) -> list[Any]:
    return [
        [(b.text(), b.messages()) for b in item] if isinstance(item, ProgramStateGroup) else item
        for item in log
    ]


def oracle_of(program: list[tuple]) -> Oracle:
    oracle = Oracle()
    oracle.run([_renamed(op) for op in program])
    return oracle


def _renamed(op: tuple) -> tuple:
    """`text` and `role` are fields of the oracle: their operations have other names there."""
    kind, *rest = op
    kind = {"text": "append", "role": "role_block"}.get(kind, kind)
    if kind in ("scope", "role_block"):
        rest[1] = [_renamed(inner) for inner in rest[1]]
    elif kind == "fork":
        rest[0] = [[_renamed(inner) for inner in program] for program in rest[0]]
    return (kind, *rest)


def backend() -> Scripted:
    return Scripted(
        lambda call: answer(call.prompt.text()),
        scores=score,
        latency=lambda call: (zlib.crc32(call.rid.split("-", 1)[1].encode()) % 4) / 2000,
    )


@settings(max_examples=60)
@given(ops(3), st.sampled_from(["run", "stream", "eager", "arun"]))
def test_every_program_means_what_the_oracle_says(program: list[tuple], way: str) -> None:
    oracle, driver = oracle_of(program), Driver()

    @sgl.function
    def body(s):
        driver.run(s, program)

    if way == "arun":
        state = asyncio.run(body.arun(backend=backend()))
    else:
        options = {"stream": way == "stream", "use_thread": way != "eager"}
        state = body.run(backend=backend(), **options)
    assert state.error() is None
    assert "".join(state.text_iter()) == oracle.text == state.text()
    assert state.messages() == oracle.messages
    names = {name: state[name] for name in "abcd" if name in state}
    assert names == oracle.variables
    assert seen(driver.log) == oracle.log
