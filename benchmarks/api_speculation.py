"""What saying several fields in one call saves: three fields behind a few-shot prompt and a page of text.

The workload is that of the SGLang paper's section on API speculative execution (arXiv 2312.07104): three
generations with newline stops. The API is a script that counts tokens (words) and tells them as services do,
for whole calls. It keeps to the program's form for a stated share of the pages; on the others it names the
second field differently, so that guesses are paid for and thrown away. Then the same program on the embedded
model at temperature 0, where a call costs no prompt: its prefix is cached.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ramet
from benchmarks.machine import describe
from ramet import Engine, ProgramState, assistant, gen, user
from ramet.backend import Backend, Capabilities, Completion, GenerateCall, OnChunk
from ramet.backends.scripted import Scripted

__all__ = ["main"]

NUM_AHEAD = 64  # tokens; a form of three short fields has 15 to 25
FIELDS = ("name", "birthday", "job")
_NAMES = ("Ada Quill", "Tom Reed", "Eva Hill", "Max Stone", "Ida Brook", "Leo Marsh", "Nora Field")
_JOBS = ("lawyer", "baker", "doctor", "teacher", "sailor", "painter", "judge", "miner")
_WORDS = (
    "the",
    "a",
    "town",
    "river",
    "of",
    "and",
    "in",
    "was",
    "with",
    "by",
    "house",
    "road",
    "old",
)


@dataclass(frozen=True)
class Person:
    """A page and what stands in it. `in_form`: the model writes the fields as the program wants them."""

    page: str
    name: str
    birthday: str
    job: str
    in_form: bool

    def said(self) -> str:
        second = "Birthday" if self.in_form else "Date of birth"
        return f"Name: {self.name}\n{second}: {self.birthday}\nJob: {self.job}\n"


@dataclass(frozen=True)
class Row:
    """Sums over the programs of one run."""

    backend: str
    in_form: float
    ahead: int | None
    calls: int
    input_tokens: int
    output_tokens: int
    one_call: int  # programs whose first call gave all fields
    seconds: float


def people(count: int, in_form: float, seed: int) -> list[Person]:
    rng = random.Random(seed)
    found = []
    for index in range(count):
        name, job = rng.choice(_NAMES), rng.choice(_JOBS)
        born = str(rng.randrange(1800, 2000))
        more = " ".join(rng.choice(_WORDS) for _ in range(300))
        page = f"{name}, born {born}, is a {job}. {more}."
        found.append(Person(page, name, born, job, index < in_form * count))
    rng.shuffle(found)
    return found


def few_shot() -> str:
    shots = people(3, 1.0, 7)
    return "List the fields.\n\n" + "".join(f"Text: {p.page}\n{p.said()}\n" for p in shots)


def extract_text(s: ProgramState, page: str) -> None:
    s += few_shot() + f"Text: {page}\n"
    _fields(s)


def extract_short(s: ProgramState, page: str) -> None:
    """In the words that the embedded model knows."""
    asked = "Extract title, author and year as lines of the form field: value."
    s += user(f"{asked}\n\nText: {page}")
    parts = ["title:", gen("name", stop="\n", max_tokens=16)]
    parts += ["\nauthor:", gen("birthday", stop="\n", max_tokens=16)]
    s += assistant([*parts, "\nyear:", gen("job", stop="\n", max_tokens=16)])


def extract_chat(s: ProgramState, page: str) -> None:
    s += user(few_shot() + f"Text: {page}")
    s += assistant_fields()


def _fields(s: ProgramState) -> None:
    s += "Name:" + gen("name", stop="\n", max_tokens=16)
    s += "\nBirthday:" + gen("birthday", stop="\n", max_tokens=16)
    s += "\nJob:" + gen("job", stop="\n", max_tokens=16)


def assistant_fields() -> Any:
    parts = [
        "Name:",
        gen("name", stop="\n", max_tokens=16),
        "\nBirthday:",
        gen("birthday", stop="\n", max_tokens=16),
    ]
    return assistant([*parts, "\nJob:", gen("job", stop="\n", max_tokens=16)])


class Service(Scripted):
    """Tells the tokens of whole calls, however they are asked for."""

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        del on_chunk
        return await super().generate(call)


def model(crowd: list[Person], chat: bool) -> Callable[[GenerateCall], str]:
    """Continues what it would have said itself; behind a label of the program it says that field's text.
    In a text it then begins another example, as models do."""
    by_page = {person.page: person for person in crowd}

    def answer(call: GenerateCall) -> str:
        text = call.prompt.text()
        page, _, begun = text.rpartition("Text: ")[2].partition("\n")
        person = by_page[page]
        begun = begun.rpartition("ASSISTANT:")[2] if chat else begun
        said = (
            person.said().rstrip() if chat else person.said() + "\nText: " + " ".join(_WORDS * 12)
        )
        if said.startswith(begun):
            return said[len(begun) :]
        label = begun.rpartition("\n")[2]
        rest = {"Birthday:": f" {person.birthday}\nJob: {person.job}\n", "Job:": f" {person.job}\n"}
        return rest[label]

    return answer


def run(
    name: str,
    backend: Backend,
    body: Callable[..., None],
    crowd: list[Person],
    ahead: int | None,
    **options: Any,
) -> tuple[Row, list[list[str]]]:
    program = ramet.SglFunction(body, ahead)
    began = time.perf_counter()
    states = program.run_batch([{"page": p.page} for p in crowd], backend=backend, **options)
    values = [[state[field] for field in FIELDS] for state in states]
    seconds = time.perf_counter() - began
    calls = [call for state in states for call in state.calls]
    row = Row(
        backend=name,
        in_form=sum(person.in_form for person in crowd) / len(crowd),
        ahead=ahead,
        calls=len(calls),
        input_tokens=sum(call.prompt_tokens or 0 for call in calls),
        output_tokens=sum(call.completion_tokens or 0 for call in calls),
        one_call=sum(len(state.calls) == 1 for state in states),
        seconds=seconds,
    )
    return row, values


def on_scripts(count: int, seed: int) -> list[tuple[Row, Row, bool]]:
    found = []
    for name, body, chat in (("text API", extract_text, False), ("chat API", extract_chat, True)):
        for in_form in (1.0, 0.8, 0.0):
            crowd = people(count, in_form, seed)
            rows = []
            for ahead in (None, NUM_AHEAD):
                capabilities = Capabilities(chat_only=chat)
                backend = Service(model(crowd, chat), capabilities=capabilities)
                rows.append(run(name, backend, body, crowd, ahead))
            (plain, expected), (spoken, values) = rows
            right = [[f" {p.name}", f" {p.birthday}", f" {p.job}"] for p in crowd]
            found.append((plain, spoken, values == expected == right))
    return found


def on_the_embedded_model(count: int, seed: int) -> tuple[Row, Row, bool]:
    rng = random.Random(seed)
    crowd = []
    for index in range(count):
        title = f"The House of {_JOBS[index % len(_JOBS)].capitalize()}"
        author, year = _NAMES[index % len(_NAMES)], str(rng.randrange(1850, 2025))
        crowd.append(Person(f"{author} published {title} in {year}.", title, author, year, True))
    rows = []
    with Engine("pocket") as engine:
        run("warm up", engine, extract_short, crowd[:4], NUM_AHEAD, temperature=0)
        for ahead in (None, NUM_AHEAD):
            engine.flush_cache()
            rows.append(run("embedded", engine, extract_short, crowd, ahead, temperature=0))
    (plain, expected), (spoken, values) = rows
    return plain, spoken, values == expected


def show(plain: Row, spoken: Row, same: bool) -> str:
    """One line of the table."""
    less = plain.input_tokens / spoken.input_tokens
    return (
        f"{plain.backend:10} {100 * plain.in_form:7.0f} {plain.calls:6} {spoken.calls:6} "
        f"{plain.input_tokens:9} {spoken.input_tokens:9} {less:6.2f}x {plain.output_tokens:7} "
        f"{spoken.output_tokens:7} {spoken.one_call:8} {'same' if same else 'DIFFER':>7} "
        f"{plain.seconds:7.2f} {spoken.seconds:7.2f}"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("api_speculation")
    parser.add_argument("--programs", type=int, default=40, help="pages (40)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--scripts-only", action="store_true", help="leave the embedded model out")
    options = parser.parse_args(arguments)
    print(f"machine: {describe()}; {options.programs} programs; tokens ahead: {NUM_AHEAD}")
    print(
        f"{'backend':10} {'in form':>7} {'calls':>6} {'ahead':>6} {'input':>9} {'ahead':>9} {'less':>7} "
        f"{'output':>7} {'ahead':>7} {'one call':>8} {'fields':>7} {'s':>7} {'ahead':>7}"
    )
    found = []
    for triple in on_scripts(options.programs, options.seed):
        found.append(triple)
        print(show(*triple), flush=True)
    if not options.scripts_only:
        found.append(on_the_embedded_model(options.programs, options.seed))
        print(show(*found[-1]))
    if options.json is not None:
        rows = [
            {"plain": asdict(a), "ahead": asdict(b), "same_fields": same} for a, b, same in found
        ]
        options.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")
    return 0 if all(same for _, _, same in found) else 1
