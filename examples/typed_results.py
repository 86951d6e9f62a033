"""Values instead of texts: the model is kept to a type, and the program gets numbers, choices and objects.

python examples/typed_results.py
"""

from dataclasses import dataclass
from typing import Literal

import ramet
from ramet import assistant, gen, user


@dataclass
class Book:
    title: str
    author: str
    year: int


TEXTS = [
    "Eva Hill published The House of Tin in 1934.",
    "Songs of Rain is a book by Tom Reed from 1951.",
]


@ramet.function
def catalogue(s, text):
    s += user(f"Extract title, author and year as JSON.\n\nText: {text}")
    s += assistant(gen("book", type=Book, max_tokens=80, temperature=0))
    book = s["book"]  # a Book; its text is s.text("book")
    s += user(f"What is the year?\n\nText: {text}")
    s += assistant(gen("year", type=int, max_tokens=8, temperature=0))
    s += user(f"Is this review positive or negative? {book.title} is a lovely book.")
    s += assistant(gen("opinion", type=Literal["positive", "negative"], temperature=0))


def main():
    states = catalogue.run_batch([{"text": text} for text in TEXTS])
    return [(state["book"], state["year"], state["opinion"]) for state in states]


if __name__ == "__main__":
    for book, year, opinion in main():
        print(f"{book.title} by {book.author}: {year}, {year + 100}, {opinion}")
