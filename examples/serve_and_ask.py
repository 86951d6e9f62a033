"""A server of one's own, and a program that runs on it.

    python examples/serve_and_ask.py

`Runtime` starts a server in a process of its own, on a free port, and ends it with its block. Clients of OpenAI's
and Anthropic's APIs can ask the same server meanwhile. The branches' requests meet in its cache: the text is
computed once, and what was generated comes back as the tokens it was.
"""

import ramet
from ramet import Runtime, assistant, gen, select, user

TEXT = "Songs of Rain is a book by Tom Reed from 1951."
REVIEW = "I would buy it again at once."


@ramet.function
def catalogue(s, text=TEXT, review=REVIEW):
    s += user(f"Extract title, author and year as JSON.\n\nText: {text}")
    s += assistant(gen("book", regex=r'\{"title": "[\w ]+", "author": "[\w ]+", "year": \d{4}\}'))

    year, opinion = s.fork(2)
    year += user(f"What is the year?\n\nText: {text}")
    year += assistant(gen("year", regex=r"\d{4}", max_tokens=8))
    opinion += user(f"Is this review positive or negative? {review}")
    opinion += assistant(select("opinion", ["positive", "negative"]))

    s["year"], s["opinion"] = int(year["year"]), opinion["opinion"]


def main():
    with Runtime(model_path="pocket") as server:
        state = catalogue.run(backend=server, temperature=0)
        answers = state["book"], state["year"], state["opinion"]
        stats = server.endpoint.get_server_info()["internal_states"][0]
    return answers, stats["num_cached_tokens"], stats["num_prompt_tokens"]


if __name__ == "__main__":
    (book, year, opinion), cached, prompts = main()
    print(book)
    print(f"From {year}; its review is {opinion}.")
    print(f"{cached} of {prompts} prompt tokens were in the server's cache.")
