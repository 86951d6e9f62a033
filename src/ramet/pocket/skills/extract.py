"""Skill `extract`: fill the fields of a small record from a sentence or two.

A record kind is fields and sentences over them. The answer has one of four forms: `field: value`
lines, JSON in one line, indented JSON, or field by field where the program writes the names.
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn, article, capital, listed
from .scenes import plain
from .words import (
    CATEGORIES,
    COLOURS,
    DAYS,
    JOBS,
    MONTHS,
    PETS,
    PLURALS,
    clock,
    full_name,
    invented,
    name,
    place,
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """`draw` gives the values of all fields; each of `sentences` uses every field."""

    label: str
    draw: Callable[[Source], dict[str, str | int]]
    sentences: tuple[str, ...]


def _person(s: Source) -> dict[str, str | int]:
    return {"name": full_name(s), "age": s.between(5, 95), "city": place(s), "job": s.pick(JOBS)}


def _order(s: Source) -> dict[str, str | int]:
    return {"customer": full_name(s), "quantity": s.between(2, 60), "item": s.pick(PLURALS),
            "price": f"{s.between(1, 90)}.{s.pick(['00', '50', '99', '25', '80'])}"}  # fmt: skip


def _event(s: Source) -> dict[str, str | int]:
    kinds = "concert party meeting lecture wedding race market exhibition picnic workshop".split()
    return {"event": s.pick(kinds), "date": f"{s.between(1, 28)} {s.pick(MONTHS)}",
            "time": clock(s), "place": place(s)}  # fmt: skip


def _book(s: Source) -> dict[str, str | int]:
    title = (
        f"The {capital(s.pick(COLOURS))} {capital(s.pick(CATEGORIES[s.pick(['animal', 'tool'])]))}"
    )
    if s.chance(0.4):
        title = f"{s.pick(['The House of', 'Songs of', 'Letters from'])} {capital(invented(s))}"
    return {"title": title, "author": full_name(s), "year": s.between(1850, 2025)}


def _city(s: Source) -> dict[str, str | int]:
    country = s.pick(CATEGORIES["country"]) if s.chance(0.5) else capital(invented(s)) + "ia"
    return {"name": capital(invented(s)), "country": country,
            "population": s.between(1, 990) * s.pick([100, 1000, 10000]),
            "river": capital(invented(s))}  # fmt: skip


def _pet(s: Source) -> dict[str, str | int]:
    return {"name": capital(invented(s)), "animal": s.pick(PETS), "colour": s.pick(COLOURS),
            "owner": name(s)}  # fmt: skip


def _contact(s: Source) -> dict[str, str | int]:
    first = name(s)
    number = f"{s.between(100, 999)}-{s.between(1000, 9999)}"
    return {"name": first, "phone": number, "email": f"{first.lower()}@{invented(s)}.org",
            "day": s.pick(DAYS)}  # fmt: skip


KINDS = [
    Kind("person", _person, (
        "{name} is a {age}-year-old {job} from {city}.", "{name}, {age}, works as a {job} in {city}.",
        "My friend {name} lives in {city}, is {age} years old and works as a {job}.",
        "I met {name} in {city}. {name} is {age} and earns a living as a {job}.",
        "The {job} {name} turned {age} last week and still lives in {city}.",
        "In {city} there lives a {job} called {name}, who is {age} years old.")),
    Kind("order", _order, (
        "{customer} ordered {quantity} {item} for {price} euros.",
        "We sold {quantity} {item} to {customer} at a price of {price}.",
        "An order from {customer}: {quantity} {item}, {price} in total.",
        "For {price} dollars, {customer} bought {quantity} {item}.")),
    Kind("event", _event, (
        "The {event} takes place in {place} on {date} at {time}.",
        "On {date} there will be a {event} in {place}, starting at {time}.",
        "Come to {place} for the {event}! It begins at {time} on {date}.",
        "Reminder: {event} at {time}, {date}, {place}.")),
    Kind("book", _book, (
        "{author} published {title} in {year}.", "In {year} the novel {title} by {author} came out.",
        "{title} is a book by {author} from {year}.",
        "The book {title}, written by {author}, first appeared in {year}.")),
    Kind("city", _city, (
        "{name} is a town in {country} on the river {river}. It has {population} inhabitants.",
        "The city of {name} lies in {country}. About {population} people live there, by the {river}.",
        "With a population of {population}, {name} is a city in {country} on the {river}.")),
    Kind("pet", _pet, (
        "{owner} has a {colour} {animal} named {name}.",
        "{name} is a {colour} {animal} that belongs to {owner}.",
        "The {colour} {animal} {name} lives with {owner}.")),
    Kind("contact", _contact, (
        "You can reach {name} at {phone} or {email}, best on {day}.",
        "{name}'s number is {phone}, the address is {email}. Call on {day}.",
        "Write to {email} or call {phone} and ask for {name} on {day}.")),
]  # fmt: skip


def _record(source: Source) -> tuple[str, dict[str, str | int]]:
    """(text, fields asked for with their values, in the order asked)."""
    kind = source.pick(KINDS)
    values = source.until(lambda: kind.draw(source), lambda v: json.dumps(v, sort_keys=True))
    text = source.pick(kind.sentences).format(**values)
    if source.chance(0.25):
        text = f"{plain(source)} {text}" if source.chance(0.5) else f"{text} {plain(source)}"
    fields = list(values)
    if source.chance(0.4):
        fields = source.some(fields, source.between(1, len(fields)))
    return text, {f: values[f] for f in fields}


def lines_chat(source: Source) -> Task:
    text, record = _record(source)
    fields = listed(list(record))
    ask = source.pick(
        ["Extract {f}.", "Extract {f} as lines of the form field: value.", "Find the {f}.",
         "Fill in these fields: {c}.", "What are the {f}? Write one field per line.",
         "List {f} from the text, one per line.", "Fields: {c}"]
    ).format(f=fields, c=", ".join(record))  # fmt: skip
    answer = "\n".join(f"{k}: {v}" for k, v in record.items())
    return _asked(source, "lines", ask, text, answer, record)


def _asked(
    source: Source, kind: str, ask: str, text: str, answer: str, record: dict[str, str | int]
) -> Task:
    frame = source.pick(
        ["{a}\n\n{t}", "{a}\nText: {t}", "{t}\n\n{a}", "Text: {t}\n\n{a}", "{a} {t}"]
    )
    turn = Turn(frame.format(a=ask, t=text), answer)
    return Task("extract", kind, json.dumps(record, sort_keys=True) + text, (turn,))


def json_chat(source: Source) -> Task:
    text, record = _record(source)
    indented = source.chance(0.3)
    ask = source.pick(
        ["Return JSON with the keys {f}.", "Extract {f} as JSON.", "Give me {f} as a JSON object.",
         "Answer with a JSON object with the keys {c}.", "JSON with {f}, please."]
        if not indented
        else ["Return indented JSON with the keys {f}.", "Extract {f} as indented JSON."]
    ).format(f=listed(list(record)), c=", ".join(record))  # fmt: skip
    answer = json.dumps(record, indent=2 if indented else None)
    return _asked(source, "indented json" if indented else "json", ask, text, answer, record)


def describe_chat(source: Source) -> Task:
    """`the {kind}` instead of the field names: the whole record as JSON."""
    kind = source.pick(KINDS)
    values = source.until(lambda: kind.draw(source), lambda v: json.dumps(v, sort_keys=True))
    text = source.pick(kind.sentences).format(**values)
    ask = source.pick(["Extract the {k} as JSON.", "Write the {k} as a JSON object."])
    answer = json.dumps(values)
    return _asked(source, "json", ask.format(k=kind.label), text, answer, values)


def raw(source: Source) -> Task:
    """Field by field: the program writes `name:`, the model the value and the line's end."""
    shots = source.between(0, 2)
    kind = source.pick(KINDS)
    as_json = source.chance(0.2)
    indented = source.chance(0.5)
    fields: list[str] = []
    pieces: list[Piece] = []
    head = source.pick(["Text: {t}\n", "{t}\n\n", "Sentence: {t}\n", "Input: {t}\n", "{t}\n"])
    answer, text = "", ""
    for shot in range(shots + 1):
        values = source.until(lambda: kind.draw(source), lambda v: json.dumps(v, sort_keys=True))
        text = source.pick(kind.sentences).format(**values)
        fields = fields or source.some(list(values), source.between(2, len(values)))
        pieces.append(Piece(head.format(t=text), PROMPT))
        if as_json:
            record = {f: values[f] for f in fields}
            lead = "JSON: " if not indented else "JSON:\n"
            body = json.dumps(record, indent=2 if indented else None)
            pieces += [Piece(lead, PROMPT), Piece(body + "\n\n", ANSWER)]
            continue
        for field in fields:
            answer = str(values[field])
            space = source.chance(0.25)
            pieces.append(Piece(f"{field}:{' ' * space}", PROMPT))
            pieces.append(Piece(f"{' ' * (not space)}{answer}\n", ANSWER))
        pieces.append(Piece("\n" if shot < shots or source.chance(0.7) else STOP, ANSWER))
    if not as_json:
        pieces = pieces[:-1]
    return Task("extract", "raw", text, pieces=tuple(pieces))


def question(source: Source) -> Task:
    """One field, asked as a question, answered by the bare value."""
    kind = source.pick(KINDS)
    values = source.until(lambda: kind.draw(source), lambda v: json.dumps(v, sort_keys=True))
    text = source.pick(kind.sentences).format(**values)
    field = source.pick(list(values))
    ask = source.pick(
        ["What is the {f}?", "Which {f} is named?", "Find the {f}.", "Give the {f} only."]
    )
    return _asked(source, "one field", ask.format(f=field), text, str(values[field]), {field: ""})


def invent(source: Source) -> Task:
    """A made-up character as JSON: the name is given, the rest is free (any value passes)."""
    who = source.until(lambda: name(source), lambda n: "invent" + n)
    record: dict[str, str | int] = {
        "name": who, "age": source.between(8, 90), "job": source.pick(JOBS), "city": place(source),
        "pet": source.pick(PETS), "colour": source.pick(COLOURS),
    }  # fmt: skip
    fields = ["name", *source.some(list(record)[1:], source.between(2, 5))]
    ask = source.pick(["Invent {a} named {n} as JSON with the keys {f}.",
                       "Describe {a} called {n} as JSON. Keys: {f}."])  # fmt: skip
    user = ask.format(a=article(source.pick(["character", "person", "hero"])), n=who,
                      f=", ".join(fields))  # fmt: skip
    answer = json.dumps({f: record[f] for f in fields})

    def accept(text: str) -> bool:
        try:
            found = json.loads(text)
        except ValueError:
            return False
        return isinstance(found, dict) and list(found) == fields and found["name"] == who

    return Task("extract", "invent", who, (Turn(user, answer),), accept=accept)


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (2.5, lines_chat), (2.0, json_chat), (0.7, describe_chat), (3.0, raw), (1.2, question),
    (0.5, invent),
]  # fmt: skip
