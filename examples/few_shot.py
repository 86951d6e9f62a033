"""Few-shot classification over a batch: the examples are computed once for all questions.

python examples/few_shot.py
"""

import ramet
from ramet import select

EXAMPLES = """Text: I would buy it again at once.
Label: positive

Text: It broke after two days.
Label: negative

Text: I enjoyed it very much. The radio came in a purple box.
Label: positive

"""
REVIEWS = [
    "A great tent at a fair price.",
    "I want my money back.",
    "It is better than I hoped.",
    "A lovely surprise. It was raining that day.",
    "I regret that I bought this lamp.",
]


@ramet.function
def classify(s, review):
    s += EXAMPLES + f"Text: {review}\nLabel:"
    s += select("label", [" positive", " negative"])


def main():
    states = classify.run_batch([{"review": r} for r in REVIEWS], progress_bar=True)
    return [state["label"].strip() for state in states]


if __name__ == "__main__":
    for review, label in zip(REVIEWS, main()):
        print(f"{label:9} {review}")
