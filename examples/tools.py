"""Tools: the model calls Python functions. Their signatures say what a call may be, and nothing else is let
through; what goes wrong in a call is a value.

python examples/tools.py
"""

import ramet
from ramet import use_tools, user

SHELF = {}


def add_book(title: str, author: str, year: int) -> int:
    """Put a book on the shelf; returns how many are there."""
    if title in SHELF:
        raise ValueError(f"{title} is on the shelf already")
    SHELF[title] = (author, year)
    return len(SHELF)


async def add_person(name: str, age: int, job: str, city: str) -> str:
    """Remember a person."""
    return f"{name} ({age}), {job} in {city}"


@ramet.function
def note(s, text, tool):
    fields = ", ".join(name for name in tool.__annotations__ if name != "return")
    s += user(f"Extract {fields} as JSON.\n\nText: {text}")
    s += use_tools("turn", [add_book, add_person], tool_choice=tool, max_tokens=60, temperature=0)
    return s["turn"].calls[0]


def main():
    texts = [
        ("Eva Hill published The House of Tin in 1934.", add_book),
        ("Eva Hill published The House of Tin in 1934.", add_book),
        ("Tom Reed is a 51-year-old baker from Oslo.", add_person),
    ]
    return [note.run(text, tool).ret_value for text, tool in texts]


if __name__ == "__main__":
    for call in main():
        print(call.name, call.arguments, "->", call.error or call.value)
