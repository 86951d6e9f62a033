"""Text as it is generated.

python examples/streaming.py
"""

import ramet
from ramet import assistant, gen, user


@ramet.function
def explain(s, topic="saving money"):
    s += user(f"What are three tips for {topic}?")
    s += assistant(gen("tips", max_tokens=60, temperature=0))


def main():
    state = explain.run(stream=True)
    return list(state.text_iter("tips"))


if __name__ == "__main__":
    for piece in explain.run(stream=True).text_iter("tips"):
        print(piece, end="", flush=True)
    print()
